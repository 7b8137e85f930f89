//! `strait bench interleaved`: reading one topic back whose batches lie between those of many others, beside reading a
//! topic that lies alone, in the same run.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use strait::core::events::{Append, Events, Expected, TopicSpec};
use strait::core::{Error, Kind, Name, NewRecord, RecordsBuilder};

use super::{Place, catch_up};
use crate::command::Ctx;
use crate::fail::Outcome;
use crate::out::SCHEMA;
use crate::text::count;

/// Appends under way at once.
const AT_ONCE: usize = 256;

/// Measure reading one topic among many on one log, beside a topic that lies alone.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  strait bench interleaved --topics 1000
  strait bench interleaved --topics 1000 --messages 10000 -o json")]
pub(crate) struct InterleavedArgs {
    /// Topics whose batches alternate on the log
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    topics: u32,
    /// Messages of each topic
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    messages: u32,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    size: u32,
    /// Messages in an append
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
}

/// What was measured. Stable names.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    topics: u32,
    messages: u32,
    size: u32,
    batch: u32,
    /// One topic after the other, each as a whole.
    interleaved_messages_per_second: f64,
    /// As many messages in a topic that lies alone.
    alone_messages_per_second: f64,
    /// The first divided by the second.
    of_alone: f64,
}

/// Runs the command.
pub(crate) async fn run(args: InterleavedArgs, ctx: &Ctx) -> Outcome {
    let place = Place::own()?;
    let strait = place.open_own().await?;
    let events = strait.events_lane()?.clone();
    let done = measure(&args, &events, ctx).await;
    strait.close_within(Duration::from_secs(5)).await;
    let report = done?;
    let n = |rate: f64| count(rate as u64, true);
    let text = format!(
        "one topic of {}   {} messages/s\nalone            {} messages/s   ratio {}\n",
        report.topics,
        n(report.interleaved_messages_per_second),
        n(report.alone_messages_per_second),
        report.of_alone
    );
    ctx.out.object(&report, &text)
}

async fn measure(args: &InterleavedArgs, events: &Arc<dyn Events>, ctx: &Ctx) -> Outcome<Report> {
    let mut names = Vec::new();
    for i in 0..args.topics {
        let name: Name = format!("one-of-many-{i}").parse()?;
        events
            .declare(TopicSpec::new(name.clone()).partitions(1))
            .await?;
        names.push(name);
    }
    let alone: Name = "alone".parse()?;
    events
        .declare(TopicSpec::new(alone.clone()).partitions(2))
        .await?;
    ctx.out.note("writing");
    let rounds = args.messages.div_ceil(args.batch);
    let turns = (0..rounds).flat_map(|_| names.iter().map(|name| (name.clone(), 0)));
    write(args, events, turns).await?;
    let all = u64::from(rounds) * u64::from(args.topics);
    let turns = (0..all.min(100_000)).map(|i| (alone.clone(), (i % 2) as u32));
    write(args, events, turns).await?;
    ctx.out.note("reading");
    let (mut read, mut time) = (0, Duration::ZERO);
    // Two at a time, as the two partitions of the other.
    for pair in names.chunks(2) {
        let infos = infos_of(events, pair).await?;
        let begun = std::time::Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for info in infos {
            let events = events.clone();
            tasks.spawn(async move { super::visit(&events, &info, 0).await });
        }
        while let Some(done) = tasks.join_next().await {
            read += done.map_err(|e| Error::new(Kind::Unexpected, e.to_string()))??;
        }
        time += begun.elapsed();
    }
    let interleaved = read as f64 / time.as_secs_f64();
    let (read, time) = catch_up(events, &events.topic(alone).await?).await?;
    let alone = read as f64 / time.as_secs_f64();
    Ok(Report {
        schema: SCHEMA,
        topics: args.topics,
        messages: args.messages,
        size: args.size,
        batch: args.batch,
        interleaved_messages_per_second: interleaved.round(),
        alone_messages_per_second: alone.round(),
        of_alone: (interleaved / alone * 1e3).round() / 1e3,
    })
}

async fn infos_of(
    events: &Arc<dyn Events>,
    names: &[Name],
) -> Outcome<Vec<strait::core::events::TopicInfo>> {
    let mut infos = Vec::new();
    for name in names {
        infos.push(events.topic(name.clone()).await?);
    }
    Ok(infos)
}

/// Appends one batch at each turn, many under way at once, in this order on the log.
async fn write(
    args: &InterleavedArgs,
    events: &Arc<dyn Events>,
    turns: impl Iterator<Item = (Name, u32)>,
) -> Outcome {
    let body = vec![b'x'; args.size as usize];
    let mut under_way = std::collections::VecDeque::new();
    for (topic, partition) in turns {
        let mut batch = RecordsBuilder::new(&[])?;
        for _ in 0..args.batch {
            batch.push(NewRecord {
                body: &body,
                ..NewRecord::default()
            })?;
        }
        let append = Append {
            topic,
            partition,
            records: batch.build(),
            expected: Expected::Any,
            dedupe: false,
        };
        under_way.push_back(tokio::spawn(events.append(append)));
        if under_way.len() >= AT_ONCE
            && let Some(first) = under_way.pop_front()
        {
            first
                .await
                .map_err(|e| Error::new(Kind::Unexpected, e.to_string()))??;
        }
    }
    for last in under_way {
        last.await
            .map_err(|e| Error::new(Kind::Unexpected, e.to_string()))??;
    }
    Ok(())
}
