//! `strait bench`: measures this machine and this build; `events` against a bare log in the same run.
//!
//! A closed loop: each producer keeps so many appends under way, and starts the next when one is acknowledged. The bare
//! log takes the same batches from the same producers through a queue to one thread that writes and fsyncs: what the
//! machine gives to a log that does nothing else. Over a server it is the bare client of that server, with `--bare`.

mod bare;
#[cfg_attr(
    not(any(feature = "kafka", feature = "redis")),
    allow(
        dead_code,
        unused_variables,
        reason = "a build without servers has no bare client, and says so"
    )
)]
mod beside;
mod disk;
mod fsyncs;
mod group;
pub(crate) mod interleaved;
mod load;
mod memory;
mod parked;
mod redrive;
pub(crate) mod sustained;
mod topics;

pub(crate) use parked::{ParkedArgs, run as parked};
pub(crate) use topics::{TopicsArgs, run as topics};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use strait::Strait;
use strait::core::events::{Cursor, Durability, Events, Retention, TopicInfo, TopicSpec};
use strait::core::{Error, Kind, Name, codes};

use crate::command::Ctx;
use crate::fail::{Failure, Outcome};
use crate::out::SCHEMA;
use crate::target;
use crate::text::{count, parse_bytes, parse_duration};
use load::{Load, Measured};

/// Engine and bare log take this many turns each.
const ROUNDS: u32 = 4;

/// Measure appends, the read of what they wrote, and the bare log or client; with --consume a group instead.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  strait bench events --size 100 --batch 100 --producers 64 --in-flight 4
  strait bench events --batch 1 --producers 64 --duration 10s -o json
  strait bench events --consume --partitions 12
  strait bench events --redrive 1000000 -o json
  strait bench events --url redis://HOST:PORT --bare")]
pub(crate) struct BenchArgs {
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    size: u32,
    /// Messages in an append
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Producers at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    producers: u32,
    /// Appends that each producer keeps under way
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    in_flight: u32,
    /// Partitions of the topic
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Keep so many bytes of each partition, so that the log goes round as it does in service; all is kept by default
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, conflicts_with_all = ["consume", "consume_effect", "redrive"])]
    keep: Option<u64>,
    /// How long each part runs
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
    /// What an acknowledgement waits for
    #[arg(long, value_name = "CLASS", default_value = "fsync")]
    durability: Class,
    /// Measure a consumer group with a handler that does nothing, settles durable
    #[arg(long)]
    consume: bool,
    /// Measure a consumer group whose handler appends one message per message, in the same commit
    #[arg(long, conflicts_with = "consume")]
    consume_effect: bool,
    /// Measure the way back of so many dead letters, handled in the order of their keys
    #[arg(long, value_name = "N", conflicts_with_all = ["consume", "consume_effect"], value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    redrive: Option<u64>,
    /// Measure the server's bare client beside ours, which sends the same messages with the same guarantees, in turns
    #[arg(long, conflicts_with_all = ["consume", "consume_effect", "redrive", "keep"])]
    bare: bool,
}

/// What an acknowledgement waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Class {
    /// The disk: it survives a power cut
    Fsync,
    /// The operating system: it survives the process
    Os,
}

impl Class {
    fn durability(self) -> Durability {
        match self {
            Class::Fsync => Durability::Fsynced,
            Class::Os => Durability::Os,
        }
    }
}

/// What was measured, flat, for scripts. Stable names.
#[derive(Debug, Default, Serialize)]
struct Report {
    schema: u32,
    lane: &'static str,
    durability: &'static str,
    size: u32,
    batch: u32,
    producers: u32,
    in_flight: u32,
    partitions: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_bytes: Option<u64>,
    duration_s: f64,
    #[serde(flatten)]
    appended: Option<Appended>,
    #[serde(flatten)]
    beside: Option<beside::Beside>,
    #[serde(flatten)]
    consumed: Option<Consumed>,
    #[serde(flatten)]
    redriven: Option<redrive::Redriven>,
}

#[derive(Debug, Serialize)]
struct Appended {
    messages: u64,
    messages_per_second: f64,
    megabytes_per_second: f64,
    ack_p50_ms: f64,
    ack_p99_ms: f64,
    ack_max_ms: f64,
    /// One 4 KiB write with its fdatasync, alone on the disk.
    fsync_p50_ms: f64,
    bare_log_messages_per_second: f64,
    bare_log_ack_p50_ms: f64,
    bare_log_ack_p99_ms: f64,
    /// The engine's rate divided by that of the bare log.
    of_bare_log: f64,
    catch_up_messages: u64,
    catch_up_messages_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Consumed {
    messages: u64,
    consume_messages_per_second: f64,
    effects: bool,
}

/// Runs the command.
pub(crate) async fn run(args: BenchArgs, ctx: &Ctx) -> Outcome {
    let place = Place::new(&args, ctx)?;
    let bare = match args.bare {
        true => Some(beside::Client::of(&place)?),
        false => None,
    };
    let strait = place.open(&args).await?;
    let done = measure(&args, &strait, &place, bare, ctx).await;
    strait.close_within(Duration::from_secs(5)).await;
    let report = done?;
    ctx.out.object(&report, &in_words(&report))
}

/// Where it is measured: the engine that `--url` names, or a directory of its own that is removed at the end.
#[derive(Debug)]
enum Place {
    Given(String),
    Own(OwnDirectory),
}

/// Removed with everything in it when dropped, also when a signal ends the command.
#[derive(Debug)]
struct OwnDirectory(PathBuf);

impl Drop for OwnDirectory {
    fn drop(&mut self) {
        // What cannot be removed stays, with a name that says what it is.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl OwnDirectory {
    fn create() -> Outcome<Self> {
        let path = PathBuf::from(format!("strait-bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|e| Error::io(path.display(), e))?;
        Ok(OwnDirectory(path))
    }
}

/// What a task of the benchmark came to.
fn joined(done: Result<Result<(), Error>, tokio::task::JoinError>) -> Outcome {
    Ok(done.map_err(|error| Error::new(Kind::Unexpected, error.to_string()))??)
}

impl Place {
    fn new(args: &BenchArgs, ctx: &Ctx) -> Outcome<Self> {
        if let Some(url) = &ctx.global.url {
            if args.durability != Class::Fsync {
                return Err(Failure::usage(
                    "--durability is for a directory of the benchmark's own: with --url the engine's class holds",
                ));
            }
            return Ok(Place::Given(url.clone()));
        }
        Place::own()
    }

    fn own() -> Outcome<Self> {
        OwnDirectory::create().map(Place::Own)
    }

    /// The engine in the benchmark's own directory, as it comes.
    async fn open_own(&self) -> Outcome<Strait> {
        match self {
            Place::Given(url) => Ok(Strait::open(url).await?),
            Place::Own(dir) => Ok(Strait::embedded(dir.0.join("data")).await?),
        }
    }

    async fn open(&self, args: &BenchArgs) -> Outcome<Strait> {
        match self {
            Place::Given(url) => Ok(Strait::open(url).await?),
            Place::Own(dir) => {
                let options = strait_embedded::Options {
                    durability: args.durability.durability(),
                    ..strait_embedded::Options::default()
                };
                Ok(Strait::embedded_with(dir.0.join("data"), options).await?)
            }
        }
    }

    /// Where the bare log may write; `None` where the engine has no directory of its own.
    fn disk(&self) -> Option<PathBuf> {
        match self {
            Place::Own(dir) => Some(dir.0.clone()),
            Place::Given(url) => target::directory(url),
        }
    }
}

async fn measure(
    args: &BenchArgs,
    strait: &Strait,
    place: &Place,
    bare: Option<beside::Client>,
    ctx: &Ctx,
) -> Outcome<Report> {
    let events = strait.events_lane()?.clone();
    let topic: Name = format!("strait-bench-{}", std::process::id()).parse()?;
    let mut spec = TopicSpec::new(topic.clone()).partitions(args.partitions);
    spec.retention = args.keep.map(|bytes| Retention {
        age: None,
        bytes: Some(bytes),
    });
    events.declare(spec).await?;
    let mut report = Report {
        schema: SCHEMA,
        lane: "events",
        durability: events.caps().durability.as_str(),
        size: args.size,
        batch: args.batch,
        producers: args.producers,
        in_flight: args.in_flight,
        partitions: args.partitions,
        keep_bytes: args.keep,
        duration_s: args.duration.as_secs_f64(),
        ..Report::default()
    };
    let done = if let Some(client) = bare {
        ctx.out
            .note("appending and reading, in turns with the bare client");
        let beside = beside::run(args, client, &events, &topic).await;
        beside.map(|beside| report.beside = Some(beside))
    } else if let Some(messages) = args.redrive {
        ctx.out
            .note("filling a topic, giving its messages up, then redriving them");
        let redriven = redrive::run(args, messages, strait, &events, &topic).await;
        redriven.map(|redriven| report.redriven = Some(redriven))
    } else if args.consume || args.consume_effect {
        ctx.out.note("filling a topic, then consuming it");
        let consumed = group::run(args, strait, &events, &topic).await;
        consumed.map(|consumed| report.consumed = Some(consumed))
    } else {
        let appended = appends(args, &events, &topic, place, ctx).await;
        appended.map(|appended| report.appended = Some(appended))
    };
    if let Place::Given(_) = place {
        events.delete(topic).await?;
    }
    done.map(|()| report)
}

async fn appends(
    args: &BenchArgs,
    events: &Arc<dyn Events>,
    topic: &Name,
    place: &Place,
    ctx: &Ctx,
) -> Outcome<Appended> {
    let dir = place.disk().ok_or_else(|| {
        Error::new(
            Kind::Unsupported,
            "a bare log needs a directory to write to",
        )
        .next("add --bare to measure the server's bare client instead, leave out --url, or name a directory: --url file:DIR")
    })?;
    let log = bare::BareLog::create(&dir, args.durability == Class::Fsync)?;
    let fsync_p50_ms = log.fsync_alone()?;
    ctx.out.note(format!(
        "appending for {:?}, and as long to a bare log",
        args.duration
    ));
    let sink = load::engine(events.clone(), topic.clone());
    let (engine, bare) = in_turns(args, sink, log).await?;
    ctx.out.note("reading it all back");
    let info = events.topic(topic.clone()).await?;
    let (read, reading) = catch_up(events, &info).await?;
    Ok(Appended {
        messages: engine.messages,
        messages_per_second: engine.rate().round(),
        megabytes_per_second: (engine.rate() * f64::from(args.size) / 1e4).round() / 100.0,
        ack_p50_ms: engine.ack_ms(0.5),
        ack_p99_ms: engine.ack_ms(0.99),
        ack_max_ms: engine.ack_ms(1.0),
        fsync_p50_ms,
        bare_log_messages_per_second: bare.rate().round(),
        bare_log_ack_p50_ms: bare.ack_ms(0.5),
        bare_log_ack_p99_ms: bare.ack_ms(0.99),
        of_bare_log: (engine.rate() / bare.rate() * 1000.0).round() / 1000.0,
        catch_up_messages: read,
        catch_up_messages_per_second: (read as f64 / reading.as_secs_f64()).round(),
    })
}

/// The engine and the bare log in turns, so that what else the machine does meanwhile falls on both.
async fn in_turns(
    args: &BenchArgs,
    engine: load::Sink,
    log: bare::BareLog,
) -> Outcome<(Measured, Measured)> {
    let load = Load::new(args, args.duration / ROUNDS);
    let (bare, writer) = log.start();
    let mut sums = (
        load.run(engine.clone()).await?,
        load.run(bare.clone()).await?,
    );
    for _ in 1..ROUNDS {
        sums.0 = sums.0.add(load.run(engine.clone()).await?)?;
        sums.1 = sums.1.add(load.run(bare.clone()).await?)?;
    }
    drop(bare);
    writer
        .join()
        .map_err(|_| Error::new(Kind::Unexpected, "the bare log's writer ended with a panic"))??;
    Ok(sums)
}

/// Reads the topic from its start, visiting each record; as many readers as processors.
async fn catch_up(events: &Arc<dyn Events>, info: &TopicInfo) -> Outcome<(u64, Duration)> {
    let readers = std::thread::available_parallelism().map_or(2, usize::from);
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for reader in 0..readers {
        let (events, info) = (events.clone(), info.clone());
        tasks.spawn(async move {
            let mut records = 0;
            for partition in (reader..info.partitions.len()).step_by(readers) {
                records += visit(&events, &info, partition).await?;
            }
            Ok::<u64, Error>(records)
        });
    }
    let mut records = 0;
    while let Some(done) = tasks.join_next().await {
        records += done.map_err(|e| Error::new(Kind::Unexpected, e.to_string()))??;
    }
    Ok((records, start.elapsed()))
}

async fn visit(events: &Arc<dyn Events>, info: &TopicInfo, partition: usize) -> Result<u64, Error> {
    let mut cursor = Cursor {
        topic: info.name.clone(),
        partition: partition as u32,
        position: info.partitions[partition].start,
        wait: Duration::ZERO,
    };
    let (mut records, mut bytes) = (0, 0);
    while cursor.position < info.partitions[partition].end {
        let chunk = match events.read(cursor.clone(), 1 << 20).await {
            // Retention went past it: what is kept begins later.
            Err(error) if error.is(codes::OFFSET_GONE) => {
                let now = events.topic(info.name.clone()).await?;
                cursor.position = now.partitions[partition].start;
                continue;
            }
            read => read?,
        };
        for item in chunk.iter() {
            records += 1;
            bytes += item.record().body().len();
        }
        if chunk.is_empty() {
            break;
        }
        cursor.position = chunk.next();
    }
    std::hint::black_box(bytes);
    Ok(records)
}

fn in_words(report: &Report) -> String {
    let n = |rate: f64| count(rate as u64, true);
    let mut text = format!(
        "{} producers, {} in flight, batches of {}, {} B, {} partitions, durable: {}\n",
        report.producers,
        report.in_flight,
        report.batch,
        report.size,
        report.partitions,
        report.durability
    );
    if let Some(a) = &report.appended {
        text.push_str(&format!(
            "append    {} messages/s ({} MB/s)   acknowledged in {} ms p50, {} ms p99\n\
             bare log  {} messages/s   acknowledged in {} ms p50, {} ms p99   ratio {}\n\
             fsync     {} ms p50, alone\n\
             catch-up  {} messages/s\n",
            n(a.messages_per_second),
            a.megabytes_per_second,
            a.ack_p50_ms,
            a.ack_p99_ms,
            n(a.bare_log_messages_per_second),
            a.bare_log_ack_p50_ms,
            a.bare_log_ack_p99_ms,
            a.of_bare_log,
            a.fsync_p50_ms,
            n(a.catch_up_messages_per_second)
        ));
    }
    if let Some(beside) = &report.beside {
        text.push_str(&beside.in_words());
    }
    if let Some(c) = &report.consumed {
        text.push_str(&format!(
            "consume   {} messages/s, {}\n",
            n(c.consume_messages_per_second),
            if c.effects {
                "each with one effect in the same commit"
            } else {
                "settles durable"
            }
        ));
    }
    if let Some(redriven) = &report.redriven {
        text.push_str(&redriven.in_words());
    }
    text
}
