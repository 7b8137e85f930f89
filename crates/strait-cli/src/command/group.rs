//! `strait group`: list, show, move, pause, alter and remove consumer groups.

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use strait::core::events::{GroupInfo, MemberInfo, ShardInfo};
use strait::core::{Error, Kind, Name};

use super::{Ctx, skip};
use crate::confirm::{DryRun, agreed};
use crate::fail::Outcome;
use crate::offset::Offset;
use crate::out::{Column, Row, Shape, number, text};
use crate::target::Target;
use crate::text::{count, duration, shown};

mod seek;
mod standing;
mod steer;

use seek::SeekArgs;
use standing::{Rules, Standing, Told};
use steer::{AlterArgs, PauseArgs, ResumeArgs};

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
    /// Move the position of a group: back, forward, to a time
    #[command(visible_alias = "reset")]
    Seek(SeekArgs),
    /// Set one message aside: it becomes a dead letter, with your reason
    Skip(skip::SkipArgs),
    /// Pause a group: its members stay, and get nothing new
    Pause(PauseArgs),
    /// End a pause
    Resume(ResumeArgs),
    /// Set limits over what the group's members declare, or lift them
    Alter(AlterArgs),
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
    committed: Offset,
    end: Offset,
    lag: u64,
    oldest_ms: Option<u64>,
    parked: u64,
    in_flight: u64,
    held_keys: u64,
    member: Option<String>,
    waits: Option<Told>,
}

impl ShardRow {
    fn new(info: &GroupInfo, partition: usize, shard: &ShardInfo) -> Self {
        let owner = info
            .members
            .iter()
            .find(|member| member.shards.contains(&(partition as u32)));
        ShardRow {
            partition,
            committed: Offset(shard.committed),
            end: Offset(shard.end),
            lag: shard.lag,
            oldest_ms: shard.oldest.map(millis),
            parked: shard.parked,
            in_flight: shard.in_flight,
            held_keys: shard.held_keys,
            waits: shard.waits.as_ref().map(|waits| Told::new(info, waits)),
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
            "HELD KEYS",
        ];
        let mut columns = titles.map(number).to_vec();
        columns.extend([text("MEMBER"), text("WAITS FOR")]);
        columns
    }

    fn cells(&self, _: bool, people: bool) -> Vec<String> {
        vec![
            self.partition.to_string(),
            self.committed.cell(people),
            self.end.cell(people),
            count(self.lag, people),
            age(self.oldest_ms, people),
            count(self.parked, people),
            count(self.in_flight, people),
            count(self.held_keys, people),
            self.member.clone().unwrap_or_else(|| "-".to_owned()),
            self.waits.as_ref().map_or("-", Told::word).to_owned(),
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
        GroupCommand::Seek(args) => seek::run(args, target, ctx).await,
        GroupCommand::Skip(args) => skip::skip(args, target, ctx).await,
        GroupCommand::Pause(args) => steer::pause(args, target, ctx).await,
        GroupCommand::Resume(args) => steer::resume(args, target, ctx).await,
        GroupCommand::Alter(args) => steer::alter(args, target, ctx).await,
        GroupCommand::Rm { group, topic, dry } => {
            let found = target.groups_named(&group, topic.as_ref()).await?;
            for info in &found {
                let next =
                    format!("stop them first: `strait group show {group}` says what they have");
                refuse_live(info, "it is not deleted", &next)?;
            }
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

/// Names of the live members.
fn names(info: &GroupInfo) -> Vec<String> {
    let name = |member: &MemberInfo| shown(member.name.as_bytes());
    info.members.iter().map(name).collect()
}

/// Refuses what the engine would refuse, before a plan of it is shown.
fn refuse_live(info: &GroupInfo, what: &str, next: &str) -> Outcome {
    let names = names(info);
    let members = match names.len() {
        0 => return Ok(()),
        1 => "1 live member".to_owned(),
        n => format!("{n} live members"),
    };
    let text = format!(
        "group `{}` on `{}` has {members}: {what}",
        info.group, info.topic
    );
    Err(Error::new(Kind::Conflict, text)
        .with("members", names.join(", "))
        .next(next)
        .into())
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
                rules: Rules,
                partitions: Vec<ShardRow>,
            }
            let document = Document {
                schema: crate::out::SCHEMA,
                group: GroupRow::new(info),
                rules: Rules::new(info),
                partitions: shards,
            };
            ctx.out.object(&document, "")
        }
        Shape::Table { .. } => {
            ctx.out.list(&[GroupRow::new(info)])?;
            ctx.out.write(b"\n")?;
            ctx.out.list(&shards)?;
            ctx.out.write(Standing(info).to_string().as_bytes())
        }
        Shape::Tabs { .. } => {
            ctx.out.list(&shards)?;
            ctx.out.note(Standing(info).to_string().trim_end());
            Ok(())
        }
    }
}
