//! `strait mirror`: topics of one engine, copied into another.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use strait::Strait;
use strait::core::Name;
use strait::mirror::{Compared, Mirror, Mirrored, MirroredTopic, NotMoved, Progress, compare};

use super::Ctx;
use crate::fail::{Failure, Outcome};
use crate::out::{Column, Out, Row, number, text};
use crate::target::Target;
use crate::text::count;

/// Between two notes about how it comes along.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// Copy topics from one engine to another, and keep the copy up to date until Ctrl-C.
///
/// Each message keeps its partition, order, id, key, headers, attributes and time. Where the copy stands is stored in the
/// target (topic `strait.mirror.TOPIC`): the next run goes on there, whatever ended this one. Into an embedded engine every
/// message comes exactly once.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait mirror --from file:./old --to file:./new orders --once
  strait mirror --from file:./old --to file:./new orders --once --compare
  strait mirror --from file:./old --to file:./new orders payments --groups
  strait mirror --from file:./old --to file:./new orders --compare -o jsonl")]
pub(crate) struct MirrorArgs {
    /// What to copy from [env: STRAIT_FROM]
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// What to copy to [env: STRAIT_TO]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<Name>,
    /// End at what is the end of the source now
    #[arg(long)]
    once: bool,
    /// Read both sides and tell whether they are equal, by count, order and content of each partition; alone it copies
    /// nothing, with --once it comes after the copy. Exit code 1 where they differ
    #[arg(long)]
    compare: bool,
    /// Move the positions of the topics' groups too; a group with members in the target is left alone
    #[arg(long)]
    groups: bool,
}

impl MirrorArgs {
    /// Only looks.
    fn only_compares(&self) -> bool {
        self.compare && !self.once
    }
}

/// A topic that was copied. Stable names.
#[derive(Debug, Serialize)]
struct CopiedRow {
    topic: String,
    partitions: u32,
    copied: u64,
    total: u64,
}

impl From<&MirroredTopic> for CopiedRow {
    fn from(topic: &MirroredTopic) -> Self {
        CopiedRow {
            topic: topic.topic.to_string(),
            partitions: topic.partitions,
            copied: topic.messages,
            total: topic.total,
        }
    }
}

impl Row for CopiedRow {
    const LIST: &'static str = "topics";

    fn columns(_: bool) -> Vec<Column> {
        vec![
            text("TOPIC"),
            number("PARTITIONS"),
            number("COPIED"),
            number("TOTAL"),
        ]
    }

    fn cells(&self, _: bool, people: bool) -> Vec<String> {
        vec![
            self.topic.clone(),
            self.partitions.to_string(),
            count(self.copied, people),
            count(self.total, people),
        ]
    }
}

/// A partition that was compared. Stable names.
#[derive(Debug, Serialize)]
struct ComparedRow {
    topic: String,
    partition: u32,
    equal: u64,
    /// Over the equal messages, hexadecimal.
    hash: String,
    /// Messages that the target has once more.
    repeated: u64,
    difference: Option<String>,
}

impl ComparedRow {
    fn new(topic: &Name, compared: &Compared) -> Self {
        ComparedRow {
            topic: topic.to_string(),
            partition: compared.partition,
            equal: compared.equal,
            hash: format!("{:016x}", compared.hash),
            repeated: compared.repeated,
            difference: compared.difference.as_ref().map(ToString::to_string),
        }
    }
}

impl Row for ComparedRow {
    const LIST: &'static str = "partitions";

    fn columns(_: bool) -> Vec<Column> {
        vec![
            text("TOPIC"),
            number("PARTITION"),
            number("EQUAL"),
            text("HASH"),
            number("REPEATED"),
            text("DIFFERENCE"),
        ]
    }

    fn cells(&self, _: bool, people: bool) -> Vec<String> {
        vec![
            self.topic.clone(),
            self.partition.to_string(),
            count(self.equal, people),
            self.hash.clone(),
            count(self.repeated, people),
            self.difference.clone().unwrap_or_else(|| "none".to_owned()),
        ]
    }
}

/// Runs the command.
pub(crate) async fn run(args: MirrorArgs, ctx: &Ctx) -> Outcome {
    if ctx.global.url.is_some() {
        return Err(Failure::usage(
            "mirror has two URLs, --from and --to: --url says neither",
        ));
    }
    if args.groups && args.only_compares() {
        return Err(Failure::usage(
            "--compare alone moves no groups: say --once too, or leave out --groups",
        ));
    }
    let (from, to) = (
        url(args.from.as_ref(), "--from", "STRAIT_FROM")?,
        url(args.to.as_ref(), "--to", "STRAIT_TO")?,
    );
    let from = Target::existing_at(from).await?;
    let to = match args.only_compares() {
        true => Target::existing_at(to).await?,
        false => Target::create(to).await?,
    };
    let done = work(&args, &from.strait, &to.strait, ctx).await;
    from.close().await;
    to.close().await;
    done
}

fn url(given: Option<&String>, option: &str, variable: &str) -> Outcome<String> {
    let told = || std::env::var(variable).ok().filter(|url| !url.is_empty());
    given
        .cloned()
        .or_else(told)
        .ok_or_else(|| Failure::usage(format!("which engine? Say {option} URL, or set {variable}")))
}

async fn work(args: &MirrorArgs, from: &Strait, to: &Strait, ctx: &Ctx) -> Outcome {
    if !args.only_compares() {
        let mirrored = copy(args, from, to, ctx).await?;
        let rows: Vec<CopiedRow> = mirrored.topics.iter().map(CopiedRow::from).collect();
        say_groups(&mirrored, &ctx.out);
        if !args.compare {
            return ctx.out.list(&rows);
        }
        for row in rows {
            let copied = count(row.copied, true);
            ctx.out
                .note(format!("{}: {copied} messages copied", row.topic));
        }
    }
    let compared = async {
        let mut rows = Vec::new();
        for topic in &args.topics {
            let partitions = compare(from, to, topic).await?;
            rows.extend(partitions.iter().map(|p| ComparedRow::new(topic, p)));
        }
        Ok::<_, Failure>(rows)
    };
    let rows = tokio::select! {
        rows = compared => rows?,
        signal = ctx.interrupt.wait() => return Err(signal),
    };
    ctx.out.list(&rows)?;
    match (rows.iter()).all(|row| row.difference.is_none() && row.repeated == 0) {
        true => Ok(()),
        false => Err(Failure::Findings),
    }
}

async fn copy(args: &MirrorArgs, from: &Strait, to: &Strait, ctx: &Ctx) -> Outcome<Mirrored> {
    let mut mirror = Mirror::new(from, to);
    for topic in &args.topics {
        mirror = mirror.topic(topic.clone());
    }
    if args.once {
        mirror = mirror.once();
    }
    if args.groups {
        mirror = mirror.groups();
    }
    let progress = mirror.progress();
    let interrupt = ctx.interrupt.clone();
    let running = mirror.run(async move {
        interrupt.wait().await;
    });
    tokio::select! {
        mirrored = running => Ok(mirrored?),
        never = say_progress(progress, &ctx.out) => never,
    }
}

/// How it comes along, on stderr. Never ends.
async fn say_progress<T>(progress: Arc<Progress>, out: &Out) -> T {
    let mut every = tokio::time::interval(NOTE_EVERY);
    every.tick().await;
    let mut before = 0;
    let mut waited: Option<Arc<str>> = None;
    loop {
        every.tick().await;
        let waits = progress.waits();
        if let Some(why) = waits.as_ref().filter(|why| Some(*why) != waited.as_ref()) {
            out.complain(format!("waits, and tries again: {why}"));
        }
        waited = waits;
        let now = progress.messages();
        if now > before {
            let (total, rate) = (count(now, true), (now - before) / NOTE_EVERY.as_secs());
            out.note(format!(
                "{total} messages copied, {} a second",
                count(rate, true)
            ));
        }
        before = now;
    }
}

fn say_groups(mirrored: &Mirrored, out: &Out) {
    for group in &mirrored.groups {
        let (name, topic) = (&group.group, &group.topic);
        match group.not_moved {
            None => {
                let partitions = group.positions.len();
                out.note(format!(
                    "group {name} on {topic}: moved on {partitions} partitions"
                ));
            }
            Some(NotMoved::Live) => out.note(format!(
                "group {name} on {topic}: left alone, it has members in the target"
            )),
        }
    }
}
