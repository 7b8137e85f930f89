//! `strait group`: list, show, move and remove consumer groups.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use strait::core::Name;
use strait::core::events::{GroupInfo, Seek, ShardInfo, Start};

use super::{Ctx, skip};
use crate::confirm::{DryRun, agreed};
use crate::fail::{Failure, Outcome};
use crate::out::{Column, Row, Shape, number, text};
use crate::start::{Place, in_words};
use crate::target::Target;
use crate::text::{count, duration, shown};

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List the groups with their lag
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  strait group ls
  strait group ls -o jsonl"
    )]
    Ls,
    /// Show a group: members, and lag by partition
    #[command(
        visible_alias = "describe",
        after_help = "Examples:
  strait group show billing
  strait group show billing --topic orders -o json"
    )]
    Show {
        /// The group
        group: Name,
        /// Only on this topic
        #[arg(long, value_name = "TOPIC")]
        topic: Option<Name>,
    },
    /// Move the position of a group
    Seek(SeekArgs),
    /// Set one message aside: it becomes a dead letter, with your reason
    Skip(skip::SkipArgs),
    /// Delete a group's positions, parked messages and dead letters
    #[command(
        visible_alias = "delete",
        after_help = "Examples:
  strait group rm billing --dry-run
  strait group rm billing --topic orders --yes"
    )]
    Rm {
        /// The group
        group: Name,
        /// Only on this topic
        #[arg(long, value_name = "TOPIC")]
        topic: Option<Name>,
        #[command(flatten)]
        dry: DryRun,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait group seek billing --to start --dry-run
  strait group seek billing --to @-1h --yes
  strait group seek billing --to 1200 -p 3 --yes")]
pub(crate) struct SeekArgs {
    /// The group
    group: Name,
    /// Where to: start, end, an offset, @TIME, or -N for the last N of each partition
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    to: Place,
    /// Where the group reads several topics: which
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Name>,
    /// Only this partition
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
    /// Also while members are live: they lose what they hold
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    dry: DryRun,
}

/// A group on a topic, in a list.
#[derive(Debug, Serialize)]
pub(super) struct GroupRow {
    group: String,
    topic: String,
    members: usize,
    lag: u64,
    oldest_ms: Option<u64>,
    parked: u64,
    in_flight: u64,
    dead: u64,
    dead_bytes: u64,
    state: String,
}

impl GroupRow {
    fn new(info: &GroupInfo) -> Self {
        GroupRow {
            group: info.group.to_string(),
            topic: info.topic.to_string(),
            members: info.members.len(),
            lag: info.lag(),
            oldest_ms: info.oldest().map(millis),
            parked: info.parked(),
            in_flight: info.shards.iter().map(|shard| shard.in_flight).sum(),
            dead: info.dead,
            dead_bytes: info.dead_bytes,
            state: state(info),
        }
    }
}

/// What is the matter with a group, in a word or a few.
pub(crate) fn state(info: &GroupInfo) -> String {
    match &info.paused {
        Some(why) => format!("paused: {}", shown(why.as_bytes())),
        None if info.members.is_empty() && info.lag() > 0 => "nobody reads".to_owned(),
        None => "ok".to_owned(),
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

fn age(millis: Option<u64>, people: bool) -> String {
    match millis {
        None => "-".to_owned(),
        Some(millis) if people => duration(Duration::from_millis(millis)),
        Some(millis) => millis.to_string(),
    }
}

impl Row for GroupRow {
    const LIST: &'static str = "groups";

    fn columns(wide: bool) -> Vec<Column> {
        let mut columns = vec![
            text("GROUP"),
            text("TOPIC"),
            number("MEMBERS"),
            number("LAG"),
            number("OLDEST"),
            number("PARKED"),
        ];
        if wide {
            columns.push(number("IN FLIGHT"));
        }
        columns.extend([number("DEAD"), text("STATE")]);
        columns
    }

    fn cells(&self, wide: bool, people: bool) -> Vec<String> {
        let mut cells = vec![
            self.group.clone(),
            self.topic.clone(),
            self.members.to_string(),
            count(self.lag, people),
            age(self.oldest_ms, people),
            count(self.parked, people),
        ];
        if wide {
            cells.push(count(self.in_flight, people));
        }
        cells.extend([count(self.dead, people), self.state.clone()]);
        cells
    }
}

/// A partition of a group.
#[derive(Debug, Serialize)]
struct ShardRow {
    partition: usize,
    committed: u64,
    end: u64,
    lag: u64,
    oldest_ms: Option<u64>,
    parked: u64,
    in_flight: u64,
    member: Option<String>,
}

impl ShardRow {
    fn new(info: &GroupInfo, partition: usize, shard: &ShardInfo) -> Self {
        let owner = info
            .members
            .iter()
            .find(|member| member.shards.contains(&(partition as u32)));
        ShardRow {
            partition,
            committed: shard.committed.offset(),
            end: shard.end.offset(),
            lag: shard.lag,
            oldest_ms: shard.oldest.map(millis),
            parked: shard.parked,
            in_flight: shard.in_flight,
            member: owner.map(|member| shown(member.name.as_bytes())),
        }
    }
}

impl Row for ShardRow {
    const LIST: &'static str = "partitions";

    fn columns(_: bool) -> Vec<Column> {
        let titles = [
            "PARTITION",
            "SETTLED TO",
            "END",
            "LAG",
            "OLDEST",
            "PARKED",
            "IN FLIGHT",
        ];
        let mut columns = titles.map(number).to_vec();
        columns.push(text("MEMBER"));
        columns
    }

    fn cells(&self, _: bool, people: bool) -> Vec<String> {
        vec![
            self.partition.to_string(),
            count(self.committed, people),
            count(self.end, people),
            count(self.lag, people),
            age(self.oldest_ms, people),
            count(self.parked, people),
            count(self.in_flight, people),
            self.member.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

/// Runs the command.
pub(crate) async fn run(command: GroupCommand, ctx: &Ctx) -> Outcome {
    let target = Target::existing(&ctx.global).await?;
    let done = carry_out(command, &target, ctx).await;
    target.close().await;
    done
}

async fn carry_out(command: GroupCommand, target: &Target, ctx: &Ctx) -> Outcome {
    match command {
        GroupCommand::Ls => {
            let groups = target.events.groups().await?;
            let rows: Vec<GroupRow> = groups.iter().map(GroupRow::new).collect();
            ctx.out.list(&rows)
        }
        GroupCommand::Show { group, topic } => {
            for info in target.groups_named(&group, topic.as_ref()).await? {
                show(&info, ctx)?;
            }
            Ok(())
        }
        GroupCommand::Seek(args) => seek(args, target, ctx).await,
        GroupCommand::Skip(args) => skip::skip(args, target, ctx).await,
        GroupCommand::Rm { group, topic, dry } => {
            let found = target.groups_named(&group, topic.as_ref()).await?;
            let steps: Vec<String> = found.iter().map(removal).collect();
            if agreed(&steps.join(", and "), dry, &ctx.global, &ctx.out)? {
                for info in found {
                    target
                        .events
                        .delete_group(info.group, info.topic.clone())
                        .await?;
                    let topic = info.topic;
                    ctx.out
                        .note(format!("deleted group `{group}` on `{topic}`"));
                }
            }
            Ok(())
        }
    }
}

fn removal(info: &GroupInfo) -> String {
    format!(
        "delete group `{}` on `{}`: its positions (lag {}), {} parked messages and {} dead letters",
        info.group,
        info.topic,
        count(info.lag(), true),
        count(info.parked(), true),
        count(info.dead, true)
    )
}

fn show(info: &GroupInfo, ctx: &Ctx) -> Outcome {
    let shards: Vec<ShardRow> = info
        .shards
        .iter()
        .enumerate()
        .map(|(partition, shard)| ShardRow::new(info, partition, shard))
        .collect();
    match ctx.out.shape() {
        Shape::Json | Shape::Jsonl => {
            #[derive(Serialize)]
            struct Document {
                schema: u32,
                #[serde(flatten)]
                group: GroupRow,
                partitions: Vec<ShardRow>,
            }
            let document = Document {
                schema: crate::out::SCHEMA,
                group: GroupRow::new(info),
                partitions: shards,
            };
            ctx.out.object(&document, "")
        }
        Shape::Table { .. } => {
            ctx.out.list(&[GroupRow::new(info)])?;
            ctx.out.write(b"\n")?;
            ctx.out.list(&shards)
        }
        Shape::Tabs { .. } => ctx.out.list(&shards),
    }
}

/// One partition's move, as planned and as done.
#[derive(Debug, Serialize)]
struct MoveRow {
    group: String,
    topic: String,
    partition: u32,
    from: u64,
    to: u64,
}

impl Row for MoveRow {
    const LIST: &'static str = "moves";

    fn columns(_: bool) -> Vec<Column> {
        vec![number("PARTITION"), number("FROM"), number("TO")]
    }

    fn cells(&self, _: bool, people: bool) -> Vec<String> {
        vec![
            self.partition.to_string(),
            count(self.from, people),
            count(self.to, people),
        ]
    }
}

async fn seek(args: SeekArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let info = target.group(&args.group, args.topic.as_ref()).await?;
    let mut rows = Vec::new();
    for (partition, shard) in (0..).zip(&info.shards) {
        if args.partition.is_some_and(|only| only != partition) {
            continue;
        }
        let to = locate(&args, target, &info, partition, shard).await?;
        rows.push(MoveRow {
            group: info.group.to_string(),
            topic: info.topic.to_string(),
            partition,
            from: shard.committed.offset(),
            to,
        });
    }
    if rows.is_empty() {
        return Err(Failure::usage(format!(
            "topic `{}` has {} partitions, numbered from 0",
            info.topic,
            info.shards.len()
        )));
    }
    let plan = plan(&args, &info, &rows);
    if !agreed(&plan, args.dry, &ctx.global, &ctx.out)? {
        return Ok(());
    }
    for row in &mut rows {
        let to = target.events.seek(Seek {
            group: info.group.clone(),
            topic: info.topic.clone(),
            partition: row.partition,
            to: args.to.0,
            force: args.force,
        });
        row.to = to.await?.offset();
    }
    ctx.out.list(&rows)
}

async fn locate(
    args: &SeekArgs,
    target: &Target,
    info: &GroupInfo,
    partition: u32,
    shard: &ShardInfo,
) -> Outcome<u64> {
    Ok(match args.to.0 {
        Start::At(position) => position.min(shard.end).offset(),
        start => target
            .events
            .locate(info.topic.clone(), partition, start)
            .await?
            .offset(),
    })
}

/// The plan: what moves, what that means, and who is live.
fn plan(args: &SeekArgs, info: &GroupInfo, rows: &[MoveRow]) -> String {
    let again: u64 = rows.iter().map(|r| r.from.saturating_sub(r.to)).sum();
    let over: u64 = rows.iter().map(|r| r.to.saturating_sub(r.from)).sum();
    let mut plan = format!(
        "move group `{}` on `{}` to {}: about {} messages come again, {} are passed over",
        info.group,
        info.topic,
        in_words(args.to.0),
        count(again, true),
        count(over, true)
    );
    for row in rows {
        plan.push_str(&format!(
            "\n  partition {}: {} -> {}",
            row.partition, row.from, row.to
        ));
    }
    if !info.members.is_empty() {
        let names: Vec<String> = info
            .members
            .iter()
            .map(|member| shown(member.name.as_bytes()))
            .collect();
        let how = if args.force {
            "they lose what they hold"
        } else {
            "it is refused while they are: stop them, or say --force"
        };
        plan.push_str(&format!("\n  live members: {} ({how})", names.join(", ")));
    }
    plan
}
