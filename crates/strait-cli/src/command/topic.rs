//! `strait topic`: list, show, create, alter, remove.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use strait::core::Name;
use strait::core::events::{Compaction, Retention, TopicChange, TopicInfo, TopicSpec};

use super::Ctx;
use crate::confirm::{DryRun, agreed};
use crate::fail::{Failure, Outcome};
use crate::offset::{Offset, between, known};
use crate::out::{Column, Row, number, text};
use crate::target::{self, Target};
use crate::text::{bytes, count, duration, parse_bytes, parse_duration};

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// List the topics
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  strait topic ls
  strait topic ls --by size
  strait topic ls -o jsonl"
    )]
    Ls {
        /// What to sort by
        #[arg(long, value_name = "WHAT", default_value = "name")]
        by: By,
    },
    /// Show one topic with its partitions
    #[command(
        visible_alias = "describe",
        after_help = "Examples:
  strait topic show orders
  strait topic show orders -o json"
    )]
    Show {
        /// The topic
        topic: Name,
    },
    /// Create a topic, or check that it exists with these settings
    Create(CreateArgs),
    /// Change the retention, or add partitions
    Alter(AlterArgs),
    /// Delete a topic and the positions of its groups
    #[command(
        visible_alias = "delete",
        after_help = "Examples:
  strait topic rm orders --dry-run
  strait topic rm orders --yes"
    )]
    Rm {
        /// The topic
        topic: Name,
        #[command(flatten)]
        dry: DryRun,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum By {
    /// By name
    Name,
    /// The largest first
    Size,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait topic create orders --partitions 12
  strait topic create clicks --keep-age 7d --keep-bytes 10GiB
  strait topic create accounts --key-versions
  strait topic create prices --compact --min-lag 1h")]
pub(crate) struct CreateArgs {
    /// The topic
    topic: Name,
    /// Number of partitions [default: 8]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    #[command(flatten)]
    keep: Keep,
    /// Keep a version for each key (event sourcing)
    #[arg(long, conflicts_with = "compact")]
    key_versions: bool,
    #[command(flatten)]
    compact: Compact,
    /// How long ids are remembered, for example 10m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    dedupe_window: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait topic alter orders --keep-age 30d --keep-bytes all
  strait topic alter orders --partitions 24 --dry-run")]
pub(crate) struct AlterArgs {
    /// The topic
    topic: Name,
    /// The new number of partitions, more than now; keys move to other partitions then
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    #[command(flatten)]
    keep: Keep,
    #[command(flatten)]
    compact: Compact,
    /// Keep older messages of a key from now on; what was removed does not come back
    #[arg(long, conflicts_with = "compact")]
    no_compact: bool,
    #[command(flatten)]
    dry: DryRun,
}

/// Compaction by key.
#[derive(Debug, Clone, Copy, Args)]
struct Compact {
    /// Keep only the newest message of each key; one with an empty body removes its key
    #[arg(long)]
    compact: bool,
    /// Leave messages alone for so long before they may be compacted [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "compact")]
    min_lag: Option<Duration>,
    /// How long a message that removes its key is kept [default: 1d]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "compact")]
    tombstones: Option<Duration>,
}

impl Compact {
    fn wanted(self) -> Option<Compaction> {
        let default = Compaction::default();
        self.compact.then(|| Compaction {
            min_lag: self.min_lag.unwrap_or(default.min_lag),
            tombstones: self.tombstones.unwrap_or(default.tombstones),
        })
    }
}

/// What a topic keeps. Without any of it: everything.
#[derive(Debug, Clone, Copy, Args)]
struct Keep {
    /// Messages older than this may be deleted, for example 7d; `all` keeps any age
    #[arg(long, value_name = "DURATION", value_parser = limit::<Duration>)]
    keep_age: Option<Bound<Duration>>,
    /// Above this size a partition's oldest may be deleted, for example 10GiB; `all` keeps any size
    #[arg(long, value_name = "SIZE", value_parser = limit::<u64>)]
    keep_bytes: Option<Bound<u64>>,
}

/// A bound, or `all` for none.
#[derive(Debug, Clone, Copy)]
struct Bound<T>(Option<T>);

trait ReadBound: Sized {
    fn read(text: &str) -> Result<Self, String>;
}

impl ReadBound for Duration {
    fn read(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }
}

impl ReadBound for u64 {
    fn read(text: &str) -> Result<Self, String> {
        parse_bytes(text)
    }
}

fn limit<T: ReadBound>(text: &str) -> Result<Bound<T>, String> {
    if text == "all" {
        return Ok(Bound(None));
    }
    T::read(text).map(|bound| Bound(Some(bound)))
}

impl Keep {
    /// The retention that is asked for, over the present one; `None` when nothing is asked.
    fn over(self, now: Retention) -> Option<Retention> {
        if self.keep_age.is_none() && self.keep_bytes.is_none() {
            return None;
        }
        Some(Retention {
            age: self.keep_age.map_or(now.age, |bound| bound.0),
            bytes: self.keep_bytes.map_or(now.bytes, |bound| bound.0),
        })
    }
}

/// A topic in a list.
#[derive(Debug, Serialize)]
struct TopicRow {
    topic: String,
    partitions: usize,
    /// Absent where the engine's positions cannot be counted.
    messages: Option<u64>,
    /// Absent where the engine does not know them.
    bytes: Option<u64>,
    keep_age_ms: Option<u64>,
    keep_bytes: Option<u64>,
    key_versions: bool,
    dedupe_window_ms: u64,
    compacted: bool,
}

impl TopicRow {
    /// `sized`: the engine knows how many bytes it stores.
    fn new(info: &TopicInfo, sized: bool) -> Self {
        let stored = |p: &strait::core::events::PartitionInfo| between(p.start, p.end);
        TopicRow {
            topic: info.name.to_string(),
            partitions: info.partitions.len(),
            messages: info.partitions.iter().map(stored).sum(),
            bytes: sized.then(|| info.partitions.iter().map(|p| p.bytes).sum()),
            keep_age_ms: info.retention.age.map(millis),
            keep_bytes: info.retention.bytes,
            key_versions: info.key_versions,
            dedupe_window_ms: millis(info.dedupe_window),
            compacted: info.compaction.is_some(),
        }
    }

    fn keeps(&self, people: bool) -> String {
        let age = self.keep_age_ms.map(Duration::from_millis).map(duration);
        let size = self.keep_bytes.map(|size| bytes(size, people));
        let newest = self.compacted.then(|| "newest of a key".to_owned());
        let bounds: Vec<String> = newest.into_iter().chain(age).chain(size).collect();
        match bounds.len() {
            0 => "everything".to_owned(),
            _ => bounds.join(", "),
        }
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

impl Row for TopicRow {
    const LIST: &'static str = "topics";

    fn columns(wide: bool) -> Vec<Column> {
        let mut columns = vec![
            text("TOPIC"),
            number("PARTITIONS"),
            number("MESSAGES"),
            number("SIZE"),
            text("KEEPS"),
        ];
        if wide {
            columns.extend([text("KEY VERSIONS"), text("DEDUPE")]);
        }
        columns
    }

    fn cells(&self, wide: bool, people: bool) -> Vec<String> {
        let mut cells = vec![
            self.topic.clone(),
            self.partitions.to_string(),
            known(self.messages, people),
            size(self.bytes, people),
            self.keeps(people),
        ];
        if wide {
            cells.push(if self.key_versions { "yes" } else { "no" }.to_owned());
            cells.push(duration(Duration::from_millis(self.dedupe_window_ms)));
        }
        cells
    }
}

/// A partition of a topic.
#[derive(Debug, Serialize)]
struct PartitionRow {
    topic: String,
    partition: usize,
    start: Offset,
    end: Offset,
    messages: Option<u64>,
    bytes: Option<u64>,
}

impl Row for PartitionRow {
    const LIST: &'static str = "partitions";

    fn columns(_: bool) -> Vec<Column> {
        let titles = ["PARTITION", "START", "END", "MESSAGES", "SIZE"];
        titles.map(number).to_vec()
    }

    fn cells(&self, _: bool, people: bool) -> Vec<String> {
        vec![
            self.partition.to_string(),
            self.start.cell(people),
            self.end.cell(people),
            known(self.messages, people),
            size(self.bytes, people),
        ]
    }
}

/// Whether the engine knows how many bytes it stores.
fn sized(target: &Target) -> bool {
    target.events.caps().stored_bytes.is_there()
}

/// A size, or a dash where the engine does not know it.
fn size(size: Option<u64>, people: bool) -> String {
    size.map_or_else(|| "-".to_owned(), |size| bytes(size, people))
}

fn partition_rows(info: &TopicInfo, sized: bool) -> Vec<PartitionRow> {
    let row = |(partition, p): (usize, &strait::core::events::PartitionInfo)| PartitionRow {
        topic: info.name.to_string(),
        partition,
        start: Offset(p.start),
        end: Offset(p.end),
        messages: between(p.start, p.end),
        bytes: sized.then_some(p.bytes),
    };
    info.partitions.iter().enumerate().map(row).collect()
}

/// Runs the command.
pub(crate) async fn run(command: TopicCommand, ctx: &Ctx) -> Outcome {
    let target = match &command {
        TopicCommand::Create(_) => Target::create(target::url(&ctx.global)).await?,
        _ => Target::existing(&ctx.global).await?,
    };
    let done = carry_out(command, &target, ctx).await;
    target.close().await;
    done
}

async fn carry_out(command: TopicCommand, target: &Target, ctx: &Ctx) -> Outcome {
    match command {
        TopicCommand::Ls { by } => {
            let topics = target.events.topics().await?;
            let mut rows: Vec<TopicRow> = topics
                .iter()
                .map(|info| TopicRow::new(info, sized(target)))
                .collect();
            if by == By::Size {
                rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
            }
            ctx.out.list(&rows)
        }
        TopicCommand::Show { topic } => show(&target.topic(&topic).await?, sized(target), ctx),
        TopicCommand::Create(args) => create(args, target, ctx).await,
        TopicCommand::Alter(args) => alter(args, target, ctx).await,
        TopicCommand::Rm { topic, dry } => {
            let row = TopicRow::new(&target.topic(&topic).await?, sized(target));
            let size = row.bytes.map(|size| format!(" ({})", bytes(size, true)));
            let mut plan = format!(
                "delete topic `{topic}` with {} messages{} and the positions of its groups; \
                 this cannot be undone",
                known(row.messages, true),
                size.unwrap_or_default()
            );
            plan.push_str(&groups_on(target, &topic, "ends").await?);
            if agreed(&plan, dry, &ctx.global, &ctx.out)? {
                target.events.delete(topic.clone()).await?;
                ctx.out.note(format!("deleted topic `{topic}`"));
            }
            Ok(())
        }
    }
}

fn show(info: &TopicInfo, sized: bool, ctx: &Ctx) -> Outcome {
    use crate::out::Shape;
    let rows = partition_rows(info, sized);
    match ctx.out.shape() {
        Shape::Json | Shape::Jsonl => {
            #[derive(Serialize)]
            struct Document {
                schema: u32,
                #[serde(flatten)]
                topic: TopicRow,
                partition_list: Vec<PartitionRow>,
            }
            let document = Document {
                schema: crate::out::SCHEMA,
                topic: TopicRow::new(info, sized),
                partition_list: rows,
            };
            ctx.out.object(&document, "")
        }
        Shape::Table { .. } => {
            ctx.out.list(&[TopicRow::new(info, sized)])?;
            ctx.out.write(b"\n")?;
            ctx.out.list(&rows)
        }
        Shape::Tabs { .. } => ctx.out.list(&rows),
    }
}

async fn create(args: CreateArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let mut spec = TopicSpec::new(args.topic);
    spec.partitions = args.partitions;
    spec.retention = args.keep.over(Retention::default());
    spec.key_versions = args.key_versions.then_some(true);
    spec.dedupe_window = args.dedupe_window;
    spec.compaction = args.compact.wanted();
    let info = target.events.declare(spec).await?;
    ctx.out.list(&[TopicRow::new(&info, sized(target))])
}

async fn alter(args: AlterArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let now = target.topic(&args.topic).await?;
    let change = TopicChange {
        partitions: args.partitions,
        retention: args.keep.over(now.retention),
        compaction: match args.compact.wanted() {
            None if args.no_compact => Some(None),
            wanted => wanted.map(Some),
        },
    };
    if change.partitions.is_none() && change.retention.is_none() && change.compaction.is_none() {
        return Err(Failure::usage(
            "nothing to change: say --partitions, --keep-age, --keep-bytes, --compact or --no-compact",
        ));
    }
    let mut steps = Vec::new();
    if let Some(partitions) = change.partitions {
        steps.push(more_partitions(
            &now,
            partitions,
            target.events.caps().max_partitions,
        )?);
    }
    if let Some(retention) = change.retention {
        let mut after = now.clone();
        after.retention = retention;
        steps.push(format!(
            "let `{}` keep {} (now {})",
            args.topic,
            TopicRow::new(&after, false).keeps(true),
            TopicRow::new(&now, false).keeps(true)
        ));
    }
    match change.compaction {
        Some(Some(_)) if now.key_versions => {
            return Err(Failure::usage(format!(
                "`{}` keeps the versions of keys, compaction would remove all but the newest",
                args.topic
            )));
        }
        Some(Some(_)) => steps.push(format!(
            "let `{}` keep the newest message of each key only: older ones are removed for good",
            args.topic
        )),
        Some(None) => steps.push(format!("let `{}` keep every message of a key", args.topic)),
        None => {}
    }
    let mut plan = steps.join(", and ");
    if change.partitions.is_some() {
        plan.push_str(&groups_on(target, &args.topic, "gets the new partitions").await?);
    }
    if !agreed(&plan, args.dry, &ctx.global, &ctx.out)? {
        return Ok(());
    }
    let info = target.events.alter(args.topic, change).await?;
    ctx.out.list(&[TopicRow::new(&info, sized(target))])
}

/// What more partitions mean: how many keys move, and what becomes of their order.
fn more_partitions(now: &TopicInfo, partitions: u32, most: u32) -> Outcome<String> {
    let before = now.partitions.len();
    if partitions as usize <= before {
        return Err(Failure::usage(format!(
            "`{}` has {before} partitions, they can only become more",
            now.name
        )));
    }
    if partitions > most {
        return Err(Failure::usage(format!(
            "{partitions} partitions of `{}` are too many: at most {most}",
            now.name
        )));
    }
    // Keys go by their hash modulo the number of partitions: those stay that fall on the same one of both.
    let (a, b) = (before as u64, u64::from(partitions));
    let period = a / gcd(a, b.max(1)) * b;
    let stay = (0..period.min(1 << 20)).filter(|hash| hash % a == hash % b.max(1));
    let moves = 100 - 100 * stay.count() as u64 / period.clamp(1, 1 << 20);
    let mut text = format!(
        "raise the partitions of `{}` from {before} to {partitions}: about {moves} % of the keys move to other partitions; \
         their later messages keep no order with the {} that are there",
        now.name,
        known(TopicRow::new(now, false).messages, true)
    );
    if now.key_versions {
        text.push_str("; versions of keys go on");
    }
    Ok(text)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

/// The groups on a topic, one a line, with what happens to those that have live members.
async fn groups_on(target: &Target, topic: &Name, what: &str) -> Outcome<String> {
    let mut text = String::new();
    if !target.events.caps().groups.is_there() {
        // Those that other programs have on it are the server's to know.
        return Ok(text);
    }
    for info in target.events.groups().await? {
        if info.topic != *topic {
            continue;
        }
        let live = match info.members.len() {
            0 => "no live member".to_owned(),
            1 => format!("1 live member, it {what}"),
            n => format!("{n} live members, each {what}"),
        };
        text.push_str(&format!(
            "\n  group `{}`: lag {}, {} dead letters, {live}",
            info.group,
            count(info.lag(), true),
            count(info.dead, true)
        ));
    }
    Ok(text)
}
