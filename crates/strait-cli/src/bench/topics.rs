//! `strait bench topics`: what many topics cost in memory, and how fast they are declared.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use strait::Strait;
use strait::core::events::{GroupSpec, TopicSpec};
use strait::core::{Arrival, Error, Name, NewRecord, RecordsBuilder, Unit, Verdict};
use tokio::task::JoinSet;

use super::memory::resident;
use super::{OwnDirectory, joined, load};
use crate::command::Ctx;
use crate::fail::Outcome;
use crate::out::SCHEMA;
use crate::text::count;

/// Requests under way.
const AT_ONCE: usize = 256;

/// Declare many topics, each with one message; a group reads some of them.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  strait bench topics --topics 10000 --partitions 4 -o json
  strait bench topics --topics 100000 --groups 0")]
pub(crate) struct TopicsArgs {
    /// Topics
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    topics: u32,
    /// Partitions of each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Topics that a group reads and settles
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    groups: u32,
}

/// What was measured, flat, for scripts. Stable names.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    topics: u32,
    partitions: u32,
    groups: u32,
    declare_seconds: f64,
    declared_per_second: f64,
    append_seconds: f64,
    groups_seconds: f64,
    /// Of the whole process, with all of it open.
    resident_bytes: Option<u64>,
    reopen_seconds: f64,
    reopened_resident_bytes: Option<u64>,
}

pub(crate) async fn run(args: TopicsArgs, ctx: &Ctx) -> Outcome {
    let dir = OwnDirectory::create()?;
    let data = dir.0.join("data");
    let strait = Strait::embedded(&data).await?;
    let declare_seconds = declare(&args, &strait).await?.as_secs_f64();
    let append_seconds = append(&args, &strait).await?.as_secs_f64();
    let groups_seconds = groups(&args, &strait).await?.as_secs_f64();
    let after = resident();
    strait.close_within(Duration::from_secs(30)).await;
    drop(strait);
    let began = Instant::now();
    let strait = Strait::embedded(&data).await?;
    let reopen_seconds = began.elapsed().as_secs_f64();
    let reopened = resident();
    strait.close_within(Duration::from_secs(30)).await;
    let report = Report {
        schema: SCHEMA,
        topics: args.topics,
        partitions: args.partitions,
        groups: args.groups.min(args.topics),
        declare_seconds,
        declared_per_second: (f64::from(args.topics) / declare_seconds).round(),
        append_seconds,
        groups_seconds,
        resident_bytes: after.map(|memory| memory.0),
        reopen_seconds,
        reopened_resident_bytes: reopened.map(|memory| memory.0),
    };
    ctx.out.object(&report, &in_words(&report))
}

fn name(number: u32) -> Result<Name, Error> {
    format!("tenant-{number}").parse()
}

/// Runs one task per topic, so many at once; gives how long all took.
async fn each<F>(count: u32, task: impl Fn(u32) -> Result<F, Error>) -> Outcome<Duration>
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let (began, mut tasks) = (Instant::now(), JoinSet::new());
    for number in 0..count {
        tasks.spawn(task(number)?);
        if tasks.len() >= AT_ONCE
            && let Some(done) = tasks.join_next().await
        {
            joined(done)?;
        }
    }
    while let Some(done) = tasks.join_next().await {
        joined(done)?;
    }
    Ok(began.elapsed())
}

async fn declare(args: &TopicsArgs, strait: &Strait) -> Outcome<Duration> {
    let events = strait.events_lane()?;
    each(args.topics, |number| {
        let spec = TopicSpec::new(name(number)?).partitions(args.partitions);
        let declared = events.declare(spec);
        Ok(async move { declared.await.map(drop) })
    })
    .await
}

async fn append(args: &TopicsArgs, strait: &Strait) -> Outcome<Duration> {
    let events = strait.events_lane()?;
    each(args.topics, |number| {
        let mut batch = RecordsBuilder::new(&[])?;
        batch.push(NewRecord {
            key: Some(b"one"),
            body: b"the one message of its topic",
            ..NewRecord::default()
        })?;
        let sink = load::engine(events.clone(), name(number)?);
        Ok(sink(number % args.partitions, batch.build()))
    })
    .await
}

async fn groups(args: &TopicsArgs, strait: &Strait) -> Outcome<Duration> {
    let (events, engine) = (strait.events_lane()?, strait.engine());
    each(args.groups.min(args.topics), |number| {
        let join = events.join(GroupSpec::new("bench".parse()?, name(number)?));
        let engine = engine.clone();
        Ok(async move {
            let mut consumer = join.await?;
            let receipt = loop {
                match consumer.next(10, 1 << 20).await? {
                    Arrival::Run(_, receipt) => break receipt,
                    Arrival::Each(mut each) => {
                        if let Some(one) = each.pop() {
                            break one.receipt;
                        }
                    }
                    _ => {}
                }
            };
            engine
                .commit(vec![Unit::settle(receipt, Verdict::Done)])
                .await;
            Ok(())
        })
    })
    .await
}

fn in_words(report: &Report) -> String {
    let mega = |bytes: Option<u64>| match bytes {
        Some(bytes) => format!("{:.0} MB", bytes as f64 / 1e6),
        None => "unknown".to_owned(),
    };
    format!(
        "{} topics x {} partitions, {} groups: {} resident ({} when opened again, in {:.1} s)\ndeclared in {:.1} s, {} a second\n",
        count(u64::from(report.topics), true),
        report.partitions,
        count(u64::from(report.groups), true),
        mega(report.resident_bytes),
        mega(report.reopened_resident_bytes),
        report.reopen_seconds,
        report.declare_seconds,
        count(report.declared_per_second as u64, true)
    )
}
