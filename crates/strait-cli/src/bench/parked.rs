//! `strait bench parked`: what many parked keys cost in memory, and how fast they are parked and come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use strait::Strait;
use strait::core::events::{GroupSpec, TopicSpec};
use strait::core::{
    Arrival, Consumer, Engine, Error, Kind, Name, NewRecord, Outcome as Committed, RecordsBuilder,
    Unit, Verdict,
};
use tokio::task::JoinSet;

use super::memory::{Memory, resident};
use super::{OwnDirectory, load};
use crate::command::Ctx;
use crate::fail::{Failure, Outcome};
use crate::out::SCHEMA;
use crate::text::{count, parse_duration};

/// Messages in an append, and in a fetch.
const BATCH: u64 = 1_000;
const BYTES: usize = 1 << 20;
/// Commits under way.
const COMMITS: usize = 8;
const REASON: &str = "the service that it needs did not answer within 30 s";

/// Park one message of each of many keys, open the directory again, and let them come back.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  strait bench parked --keys 1000000 -o json
  strait bench parked --keys 100000 --partitions 100 --delay 20s")]
pub(crate) struct ParkedArgs {
    /// Keys, each with one message
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=50_000_000))]
    keys: u32,
    /// Partitions of the topic
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    size: u32,
    /// When a parked message comes back; long enough that all are parked before the first does
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    delay: Duration,
}

/// What was measured, flat, for scripts. Stable names.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    keys: u32,
    partitions: u32,
    size: u32,
    parked: u64,
    parked_per_second: f64,
    /// Of the whole process, with all of them parked.
    resident_bytes: Option<u64>,
    /// What it grew by while they were parked, for each of them.
    resident_bytes_each: Option<f64>,
    /// From the start of the opening to its end, with all of them parked.
    reopen_seconds: f64,
    reopened_resident_bytes: Option<u64>,
    /// How fast they came back and were settled.
    due_per_second: f64,
}

pub(crate) async fn run(args: ParkedArgs, ctx: &Ctx) -> Outcome {
    let dir = OwnDirectory::create()?;
    let data = dir.0.join("data");
    let topic: Name = "parked".parse()?;
    let spec = GroupSpec {
        // All of a partition's keys wait at once.
        gap: u64::from(args.keys).max(1),
        max_attempts: 10,
        ..GroupSpec::new("bench".parse()?, topic.clone())
    };
    let strait = Strait::embedded(&data).await?;
    ctx.out.note("appending one message of each key");
    fill(&args, &strait, &topic).await?;
    let before = resident();
    ctx.out.note("parking them");
    let began = Instant::now();
    let consumer = strait.events_lane()?.join(spec.clone()).await?;
    park(&args, &strait, consumer).await?;
    let parking = began.elapsed();
    let group = (spec.group.clone(), topic.clone());
    let info = strait.events_lane()?.group(group.0, group.1).await?;
    if info.parked() < u64::from(args.keys) {
        return Err(Failure::usage(
            "the first came back before the last was parked: give them a longer --delay",
        ));
    }
    let after = resident();
    strait.close_within(Duration::from_secs(30)).await;
    drop(strait);
    let began_opening = Instant::now();
    let strait = Strait::embedded(&data).await?;
    let reopen_seconds = began_opening.elapsed().as_secs_f64();
    let reopened = resident();
    ctx.out.note("waiting until they are due");
    tokio::time::sleep((args.delay + parking).saturating_sub(began.elapsed())).await;
    let consumer = strait.events_lane()?.join(spec).await?;
    let settling = settle(&args, &strait, consumer).await?;
    strait.close_within(Duration::from_secs(30)).await;
    let keys = f64::from(args.keys);
    let grown = |(a, b): (Memory, Memory)| (b.0.saturating_sub(a.0)) as f64 / keys;
    let report = Report {
        schema: SCHEMA,
        keys: args.keys,
        partitions: args.partitions,
        size: args.size,
        parked: info.parked(),
        parked_per_second: (keys / parking.as_secs_f64()).round(),
        resident_bytes: after.map(|memory| memory.0),
        resident_bytes_each: before.zip(after).map(grown).map(f64::round),
        reopen_seconds,
        reopened_resident_bytes: reopened.map(|memory| memory.0),
        due_per_second: (keys / settling.as_secs_f64()).round(),
    };
    ctx.out.object(&report, &in_words(&report))
}

async fn fill(args: &ParkedArgs, strait: &Strait, topic: &Name) -> Outcome {
    let events = strait.events_lane()?.clone();
    let spec = TopicSpec::new(topic.clone()).partitions(args.partitions);
    events.declare(spec).await?;
    let sink = load::engine(events, topic.clone());
    let body = vec![b'x'; args.size as usize];
    let mut appends = JoinSet::new();
    for (append, first) in (0..u64::from(args.keys))
        .step_by(BATCH as usize)
        .enumerate()
    {
        let mut batch = RecordsBuilder::new(&[])?;
        for key in first..u64::from(args.keys).min(first + BATCH) {
            batch.push(NewRecord {
                key: Some(format!("customer-{key}").as_bytes()),
                body: &body,
                ..NewRecord::default()
            })?;
        }
        let partition = append as u32 % args.partitions;
        appends.spawn(sink(partition, batch.build()));
        if appends.len() >= 64
            && let Some(done) = appends.join_next().await
        {
            super::joined(done)?;
        }
    }
    while let Some(done) = appends.join_next().await {
        super::joined(done)?;
    }
    Ok(())
}

/// Sends every message back.
async fn park(args: &ParkedArgs, strait: &Strait, mut consumer: Consumer) -> Outcome {
    let retry = || Verdict::Retry {
        after: args.delay,
        reason: REASON.into(),
        counts: true,
    };
    let mut commits = Commits::new(strait, args.keys);
    while commits.left > 0 {
        let unit = match consumer.next(BATCH as usize, BYTES).await? {
            Arrival::Run(_, receipt) => Unit::settle(receipt, retry()),
            Arrival::Each(each) => {
                let settle = each.into_iter().map(|one| (one.receipt, retry()));
                Unit {
                    settle: settle.collect(),
                    ..Unit::default()
                }
            }
            _ => continue,
        };
        commits.begin(unit).await?;
    }
    commits.end().await
}

/// Takes them as they come back.
async fn settle(args: &ParkedArgs, strait: &Strait, mut consumer: Consumer) -> Outcome<Duration> {
    let began = Instant::now();
    let mut commits = Commits::new(strait, args.keys);
    while commits.left > 0 {
        let Arrival::Each(each) = consumer.next(BATCH as usize, BYTES).await? else {
            continue;
        };
        let settle = each.into_iter().map(|one| (one.receipt, Verdict::Done));
        let unit = Unit {
            settle: settle.collect(),
            ..Unit::default()
        };
        commits.begin(unit).await?;
    }
    commits.end().await?;
    Ok(began.elapsed())
}

/// Commits under way.
struct Commits {
    engine: Arc<dyn Engine>,
    /// Messages that are not committed, nor about to be.
    left: u64,
    tasks: JoinSet<Result<(), Error>>,
}

impl Commits {
    fn new(strait: &Strait, keys: u32) -> Self {
        Commits {
            engine: strait.engine().clone(),
            left: u64::from(keys),
            tasks: JoinSet::new(),
        }
    }

    async fn begin(&mut self, unit: Unit) -> Outcome {
        let settled = unit
            .settle
            .iter()
            .map(|(receipt, _)| u64::from(receipt.count()));
        self.left = self.left.saturating_sub(settled.sum());
        let engine = self.engine.clone();
        self.tasks.spawn(async move {
            match engine.commit(vec![unit]).await.pop() {
                Some(Committed::NotApplied(_, error) | Committed::Unknown(error)) => Err(error),
                Some(Committed::Fenced) => Err(Error::new(
                    Kind::TimedOut,
                    "the machine is so slow that a lease ran out",
                )
                .next("measure fewer keys")),
                _ => Ok(()),
            }
        });
        if self.tasks.len() >= COMMITS
            && let Some(done) = self.tasks.join_next().await
        {
            super::joined(done)?;
        }
        Ok(())
    }

    async fn end(mut self) -> Outcome {
        while let Some(done) = self.tasks.join_next().await {
            super::joined(done)?;
        }
        Ok(())
    }
}

fn in_words(report: &Report) -> String {
    let mega = |bytes: Option<u64>| match bytes {
        Some(bytes) => format!("{:.0} MB", bytes as f64 / 1e6),
        None => "unknown".to_owned(),
    };
    format!(
        "{} parked keys: {} resident ({} when opened again, in {:.1} s)\nparked {} a second, came back and settled {} a second\n",
        count(report.parked, true),
        mega(report.resident_bytes),
        mega(report.reopened_resident_bytes),
        report.reopen_seconds,
        count(report.parked_per_second as u64, true),
        count(report.due_per_second as u64, true)
    )
}
