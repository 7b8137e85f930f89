//! `strait group seek`: the plan first, then the moves.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use strait::core::events::{GroupInfo, Seek, ShardInfo, Start};
use strait::core::{Name, Position, Timestamp};

use super::super::Ctx;
use super::{names, refuse_live};
use crate::confirm::{DryRun, agreed};
use crate::fail::{Failure, Outcome};
use crate::offset::{Offset, between, known};
use crate::out::{Column, Row, Shape, number};
use crate::start::{Place, in_words};
use crate::target::Target;
use crate::text::{count, parse_duration};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait group seek billing --to start --dry-run
  strait group seek billing --back 2h --yes
  strait group seek billing --to @2024-05-01T00:00:00Z --yes
  strait group seek billing --to 1200 -p 3 --yes")]
pub(crate) struct SeekArgs {
    /// The group
    group: Name,
    /// Where to: start (earliest), end (latest), an offset, @TIME, or -N for the last N of each partition
    #[arg(
        long,
        value_name = "PLACE",
        allow_hyphen_values = true,
        required_unless_present = "back",
        conflicts_with = "back"
    )]
    to: Option<Place>,
    /// Back in time by so much: to the first message of the last 2h, for example
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    back: Option<Duration>,
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

impl SeekArgs {
    fn start(&self) -> Start {
        match (self.to, self.back) {
            (Some(place), _) => place.0,
            (None, back) => {
                let back = back.unwrap_or_default().as_millis();
                let back = i64::try_from(back).unwrap_or(i64::MAX);
                let at = Timestamp::now().as_millis().saturating_sub(back);
                Start::Time(Timestamp::from_millis(at))
            }
        }
    }
}

/// One partition's move, as planned and as done.
#[derive(Debug, Serialize)]
struct MoveRow {
    group: String,
    topic: String,
    partition: u32,
    from: Offset,
    to: Offset,
    /// Messages that come again; absent where the engine's positions cannot be counted.
    again: Option<u64>,
    /// Messages that are passed over; absent likewise.
    passed_over: Option<u64>,
}

impl MoveRow {
    fn new(info: &GroupInfo, partition: u32, from: Position, to: Position) -> Self {
        MoveRow {
            group: info.group.to_string(),
            topic: info.topic.to_string(),
            partition,
            from: Offset(from),
            to: Offset(to),
            again: between(to, from),
            passed_over: between(from, to),
        }
    }
}

impl Row for MoveRow {
    const LIST: &'static str = "moves";

    fn columns(_: bool) -> Vec<Column> {
        let titles = ["PARTITION", "FROM", "TO", "AGAIN", "PASSED OVER"];
        titles.map(number).to_vec()
    }

    fn cells(&self, _: bool, people: bool) -> Vec<String> {
        vec![
            self.partition.to_string(),
            self.from.cell(people),
            self.to.cell(people),
            known(self.again, people),
            known(self.passed_over, people),
        ]
    }
}

pub(super) async fn run(args: SeekArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let info = target.group(&args.group, args.topic.as_ref()).await?;
    // Taken once: every partition goes to the same time.
    let start = args.start();
    let mut rows = Vec::new();
    for (partition, shard) in (0..).zip(&info.shards) {
        if args.partition.is_some_and(|only| only != partition) {
            continue;
        }
        let to = locate(start, target, &info, partition, shard).await?;
        rows.push(MoveRow::new(&info, partition, shard.committed, to));
    }
    if rows.is_empty() {
        return Err(Failure::usage(format!(
            "topic `{}` has {} partitions, numbered from 0",
            info.topic,
            info.shards.len()
        )));
    }
    if !args.force {
        refuse_live(
            &info,
            "its position is not moved",
            "stop them first, or say --force: they lose what they hold",
        )?;
    }
    if args.dry.dry_run && matches!(ctx.out.shape(), Shape::Json | Shape::Jsonl) {
        return show_plan(&info, rows, ctx);
    }
    let plan = plan(start, &info, &rows);
    if !agreed(&plan, args.dry, &ctx.global, &ctx.out)? {
        return Ok(());
    }
    for row in &mut rows {
        let to = target.events.seek(Seek {
            group: info.group.clone(),
            topic: info.topic.clone(),
            partition: row.partition,
            to: start,
            force: args.force,
        });
        *row = MoveRow::new(&info, row.partition, row.from.0, to.await?);
    }
    ctx.out.list(&rows)
}

async fn locate(
    start: Start,
    target: &Target,
    info: &GroupInfo,
    partition: u32,
    shard: &ShardInfo,
) -> Outcome<Position> {
    Ok(match start {
        Start::At(position) => position.min(shard.end),
        start => {
            target
                .events
                .locate(info.topic.clone(), partition, start)
                .await?
        }
    })
}

/// The plan for programs.
fn show_plan(info: &GroupInfo, moves: Vec<MoveRow>, ctx: &Ctx) -> Outcome {
    #[derive(Serialize)]
    struct Plan {
        schema: u32,
        dry_run: bool,
        again: Option<u64>,
        passed_over: Option<u64>,
        live_members: Vec<String>,
        moves: Vec<MoveRow>,
    }
    let plan = Plan {
        schema: crate::out::SCHEMA,
        dry_run: true,
        again: moves.iter().map(|row| row.again).sum(),
        passed_over: moves.iter().map(|row| row.passed_over).sum(),
        live_members: names(info),
        moves,
    };
    ctx.out.object(&plan, "")
}

/// The plan: what moves, what that means, and who is live.
fn plan(start: Start, info: &GroupInfo, rows: &[MoveRow]) -> String {
    let again: Option<u64> = rows.iter().map(|row| row.again).sum();
    let over: Option<u64> = rows.iter().map(|row| row.passed_over).sum();
    let mut plan = format!(
        "move group `{}` on `{}` to {}",
        info.group,
        info.topic,
        in_words(start)
    );
    if let (Some(again), Some(over)) = (again, over) {
        plan.push_str(&format!(
            ": about {} messages come again, {} are passed over",
            count(again, true),
            count(over, true)
        ));
    }
    for row in rows {
        plan.push_str(&format!(
            "\n  partition {}: {} -> {} ({} again, {} passed over)",
            row.partition,
            row.from,
            row.to,
            known(row.again, true),
            known(row.passed_over, true)
        ));
    }
    let moved = |row: &MoveRow| info.shards.get(row.partition as usize);
    let parked: u64 = rows
        .iter()
        .filter_map(moved)
        .map(|shard| shard.parked)
        .sum();
    let held: u64 = rows
        .iter()
        .filter_map(moved)
        .map(|shard| shard.held_keys)
        .sum();
    if parked > 0 || held > 0 {
        plan.push_str(&format!(
            "\n  {} parked messages lose their place and their attempts, {} held keys go on; dead letters stay",
            count(parked, true),
            count(held, true)
        ));
    }
    if !info.members.is_empty() {
        plan.push_str(&format!(
            "\n  live members: {} (they lose what they hold)",
            names(info).join(", ")
        ));
    }
    plan
}
