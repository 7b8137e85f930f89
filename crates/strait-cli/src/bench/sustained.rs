//! `strait bench sustained`: a steady load over topics that keep different amounts for different times, while retention, the
//! cleaner and compaction work: what a disk sees after weeks.
//!
//! An open loop: each append has its time, and its acknowledgement counts from there, also while it waits for a producer that
//! is free.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use strait::core::events::{Append, Compaction, Events, Expected, Retention, TopicSpec};
use strait::core::{Backup, Error, Kind, Name, NewRecord, Records, RecordsBuilder};
use tokio::sync::Semaphore;

use super::disk::{device_written, directory_bytes};
use super::fsyncs::Fsyncs;
use super::load::{histogram, millis, record};
use super::memory::resident;
use super::{Place, bare};
use crate::command::Ctx;
use crate::fail::{Failure, Outcome};
use crate::out::SCHEMA;
use crate::text::{count, parse_duration};

/// Parts of the run that are reported one by one.
const PARTS: usize = 10;
/// Keys of a topic that is compacted.
const KEYS: u64 = 1_000;
/// The rate of a load that nothing holds back.
const UNBOUNDED: u64 = u64::MAX;

/// Measure a steady load with retention, cleaner and compaction at work, in a directory of its own.
///
/// Of ten topics six keep 1 MiB a partition, two keep 20 s, one keeps 16 MiB, and one keeps the newest message of each of
/// 1,000 keys.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  strait bench sustained --duration 5m
  strait bench sustained --duration 30m --rate 500000 -o json
  strait bench sustained --duration 1m --backup")]
pub(crate) struct SustainedArgs {
    /// How long
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    duration: Duration,
    /// Messages a second [default: half of what this machine takes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    size: u32,
    /// Messages in an append
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Topics
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    topics: u32,
    /// Take a backup in the last third, and compare
    #[arg(long)]
    backup: bool,
}

/// What was measured. Stable names.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    topics: u32,
    size: u32,
    batch: u32,
    duration_s: f64,
    /// What was asked for, and what was acknowledged in each tenth of the time.
    rate: u64,
    messages_per_second: Vec<f64>,
    /// The slowest tenth divided by the fastest.
    flatness: f64,
    ack_p50_ms: f64,
    ack_p99_ms: f64,
    /// One 4 KiB write with its fdatasync, alone on the disk.
    fsync_p99_ms: f64,
    /// Those of the engine meanwhile.
    fsync_in_run_p99_ms: f64,
    /// Bytes of bodies, and what the disk was given to write meanwhile: log, cleaned segments, zeroing, checkpoints, a backup,
    /// and what others wrote. `null` where the directory has no disk of its own.
    payload_bytes: u64,
    written_bytes: Option<u64>,
    write_amplification: Option<f64>,
    /// The directory and the process's resident memory, at the end of each tenth.
    directory_bytes: Vec<u64>,
    resident_bytes: Vec<u64>,
    #[serde(flatten)]
    backup: Option<BackedUp>,
}

impl Report {
    /// Of a run that begins.
    fn new(args: &SustainedArgs, rate: u64, fsync_p99_ms: f64) -> Self {
        Report {
            schema: SCHEMA,
            topics: args.topics,
            size: args.size,
            batch: args.batch,
            duration_s: args.duration.as_secs_f64(),
            rate,
            messages_per_second: Vec::new(),
            flatness: 0.0,
            ack_p50_ms: 0.0,
            ack_p99_ms: 0.0,
            fsync_p99_ms,
            fsync_in_run_p99_ms: 0.0,
            payload_bytes: 0,
            written_bytes: None,
            write_amplification: None,
            directory_bytes: Vec::new(),
            resident_bytes: Vec::new(),
            backup: None,
        }
    }
}

#[derive(Debug, Serialize)]
struct BackedUp {
    backup_bytes: u64,
    backup_s: f64,
    /// The rate of the tenths in which the backup ran, divided by that of those before.
    rate_during_backup: f64,
}

/// Runs the command.
pub(crate) async fn run(args: SustainedArgs, ctx: &Ctx) -> Outcome {
    if ctx.global.url.is_some() {
        return Err(Failure::usage(
            "this measures a directory of its own: leave out --url",
        ));
    }
    let place = Place::own()?;
    let fsyncs = Fsyncs::listen()?;
    let strait = place.open_own().await?;
    let done = measure(&args, &strait, &place, &fsyncs, ctx).await;
    strait.close_within(Duration::from_secs(5)).await;
    let report = done?;
    ctx.out.object(&report, &in_words(&report))
}

async fn measure(
    args: &SustainedArgs,
    strait: &strait::Strait,
    place: &Place,
    fsyncs: &Fsyncs,
    ctx: &Ctx,
) -> Outcome<Report> {
    let events = strait.events_lane()?;
    let dir = place.disk().unwrap_or_default();
    let fsync_p99_ms = bare::BareLog::create(&dir, true)?.fsync_alone_at(0.99)?;
    let names = declare(args, events).await?;
    let rate = match args.rate {
        Some(rate) => rate,
        None => half_of_the_peak(args, events, &names, ctx).await?,
    };
    ctx.out
        .note(format!("{rate} messages a second for {:?}", args.duration));
    let before = device_written(&dir);
    let steady = Arc::new(Steady::new(args, events.clone(), names, rate));
    let mut report = Report::new(args, rate, fsync_p99_ms);
    fsyncs.clear();
    let running = steady.clone().start();
    let taking = watch(args, strait, &steady, &dir, &mut report).await?;
    let acks = running.stop().await?;
    report.ack_p50_ms = millis(&acks, 0.5);
    report.ack_p99_ms = millis(&acks, 0.99);
    report.fsync_in_run_p99_ms = fsyncs.at(0.99);
    report.written_bytes = before
        .zip(device_written(&dir))
        .map(|(before, after)| after - before);
    if let Some(taking) = taking {
        let taken = taking
            .await
            .map_err(|e| Error::new(Kind::Unexpected, e.to_string()))?;
        let (taken, took) = taken?;
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len().max(1) as f64;
        let (free, busy) = report.messages_per_second.split_at(PARTS * 2 / 3);
        report.backup = Some(BackedUp {
            backup_bytes: taken.bytes,
            backup_s: took.as_secs_f64(),
            rate_during_backup: three_digits(mean(busy) / mean(free)),
        });
    }
    let payload = report.payload_bytes as f64;
    let times = |written| three_digits(written as f64 / payload);
    report.write_amplification = report.written_bytes.map(times);
    let rates = report.messages_per_second.iter().copied();
    let (least, most) = rates.fold((f64::MAX, 0.0), |(a, b), r| (r.min(a), r.max(b)));
    report.flatness = three_digits(least / most);
    Ok(report)
}

/// A backup that was begun, and how long it took.
type Taking = tokio::task::JoinHandle<Result<(Backup, Duration), Error>>;

/// Watches the load for its time, a tenth after the other; gives the backup that it began.
async fn watch(
    args: &SustainedArgs,
    strait: &strait::Strait,
    steady: &Steady,
    dir: &Path,
    report: &mut Report,
) -> Outcome<Option<Taking>> {
    let backup = dir.join("backup");
    let mut taking = None;
    let (mut acked, mut begun) = (0, Instant::now());
    for part in 0..PARTS {
        if args.backup && part == PARTS * 2 / 3 {
            let path = std::path::absolute(&backup).map_err(|e| Error::io("the backup", e))?;
            let taken = strait.engine().backup(path);
            taking = Some(tokio::spawn(async move {
                let begun = Instant::now();
                taken.await.map(|taken| (taken, begun.elapsed()))
            }));
        }
        tokio::time::sleep(args.duration / PARTS as u32).await;
        let now = steady.acknowledged.load(Ordering::Relaxed);
        let seconds = begun.elapsed().as_secs_f64();
        report
            .messages_per_second
            .push(((now - acked) as f64 / seconds).round());
        (acked, begun) = (now, Instant::now());
        report
            .directory_bytes
            .push(directory_bytes(&dir.join("data"))?);
        report
            .resident_bytes
            .extend(resident().map(|memory| memory.0));
    }
    report.payload_bytes = acked * u64::from(args.size);
    Ok(taking)
}

fn three_digits(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The topics, of ten kinds.
async fn declare(args: &SustainedArgs, events: &Arc<dyn Events>) -> Outcome<Vec<Name>> {
    let mut names = Vec::new();
    for i in 0..args.topics {
        let name: Name = format!("steady-{i}").parse()?;
        let mut spec = TopicSpec::new(name.clone()).partitions(1);
        let kept = |age, bytes| Some(Retention { age, bytes });
        match i % 10 {
            0..6 => spec.retention = kept(None, Some(1 << 20)),
            6..8 => spec.retention = kept(Some(Duration::from_secs(20)), None),
            8 => spec.retention = kept(None, Some(16 << 20)),
            _ => spec.compaction = Some(Compaction::default()),
        }
        events.declare(spec).await?;
        names.push(name);
    }
    Ok(names)
}

/// Half of what goes through when nothing holds it back.
async fn half_of_the_peak(
    args: &SustainedArgs,
    events: &Arc<dyn Events>,
    names: &[Name],
    ctx: &Ctx,
) -> Outcome<u64> {
    ctx.out.note("looking for the peak");
    let steady = Arc::new(Steady::new(args, events.clone(), names.to_vec(), UNBOUNDED));
    let running = steady.clone().start();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    running.stop().await?;
    let messages = steady.acknowledged.load(Ordering::Relaxed);
    Ok((messages as f64 / begun.elapsed().as_secs_f64() / 2.0) as u64)
}

/// Producers that send at the times of a schedule, whichever of them is free.
struct Steady {
    events: Arc<dyn Events>,
    names: Vec<Name>,
    size: usize,
    batch: u32,
    /// Between two appends; zero when each follows as soon as a producer is free.
    every: Duration,
    begun: Instant,
    /// Appends whose time has come, and when so many of them were told: how late the clock is itself is not the engine's.
    due: Semaphore,
    told: Mutex<VecDeque<(Instant, usize)>>,
    turn: AtomicU64,
    acknowledged: AtomicU64,
}

/// Appends under way at most.
const PRODUCERS: u32 = 64;

struct Running {
    steady: Arc<Steady>,
    clock: JoinHandle<()>,
    tasks: tokio::task::JoinSet<Outcome<Histogram<u64>>>,
}

impl Running {
    async fn stop(mut self) -> Outcome<Histogram<u64>> {
        self.steady.due.close();
        let mut all = histogram()?;
        while let Some(done) = self.tasks.join_next().await {
            let acks = done.map_err(|e| Error::new(Kind::Unexpected, e.to_string()))??;
            all.add(acks)
                .map_err(|e| Error::new(Kind::Unexpected, e.to_string()))?;
        }
        let ended = self.clock.join();
        ended.map_err(|_| Error::new(Kind::Unexpected, "the clock of the load panicked"))?;
        Ok(all)
    }
}

impl Steady {
    fn new(args: &SustainedArgs, events: Arc<dyn Events>, names: Vec<Name>, rate: u64) -> Steady {
        let appends = rate as f64 / f64::from(args.batch);
        let every = match rate {
            UNBOUNDED => Duration::ZERO,
            _ => Duration::from_secs_f64(1.0 / appends),
        };
        Steady {
            events,
            names,
            size: args.size as usize,
            batch: args.batch,
            every,
            begun: Instant::now(),
            due: Semaphore::new(0),
            told: Mutex::default(),
            turn: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        }
    }

    fn start(self: Arc<Self>) -> Running {
        let steady = self.clone();
        let clock = std::thread::spawn(move || steady.tell_the_time());
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..PRODUCERS {
            let steady = self.clone();
            tasks.spawn(async move { steady.produce().await });
        }
        Running {
            steady: self,
            clock,
            tasks,
        }
    }

    /// On a thread of its own: the runtime's timers are only as fine as a millisecond.
    fn tell_the_time(&self) {
        if self.every.is_zero() {
            return self.due.add_permits(Semaphore::MAX_PERMITS);
        }
        let mut told = 0;
        while !self.due.is_closed() {
            let now = Instant::now();
            let by_now = (now - self.begun).div_duration_f64(self.every) as usize;
            let due = by_now - told;
            if due > 0 {
                self.told().push_back((now, due));
                self.due.add_permits(due);
            }
            told = by_now;
            std::thread::sleep(self.every);
        }
    }

    fn told(&self) -> MutexGuard<'_, VecDeque<(Instant, usize)>> {
        // Times are whole whoever panicked.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next append was due; without a schedule it is as soon as somebody is free.
    fn next_due(&self) -> Instant {
        let mut told = self.told();
        let Some((time, left)) = told.front_mut() else {
            return Instant::now();
        };
        let time = *time;
        *left -= 1;
        if *left == 0 {
            told.pop_front();
        }
        time
    }

    async fn produce(&self) -> Outcome<Histogram<u64>> {
        let mut acks = histogram()?;
        while let Ok(permit) = self.due.acquire().await {
            permit.forget();
            let due = self.next_due();
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let topic = &self.names[turn as usize % self.names.len()];
            let append = Append {
                topic: topic.clone(),
                partition: 0,
                records: self.fill(turn)?,
                expected: Expected::Any,
                dedupe: false,
            };
            self.events.append(append).await?;
            record(&mut acks, due)?;
            self.acknowledged
                .fetch_add(u64::from(self.batch), Ordering::Relaxed);
        }
        Ok(acks)
    }

    fn fill(&self, turn: u64) -> Result<Records, Error> {
        let body = vec![b'x'; self.size];
        let mut batch = RecordsBuilder::new(&[])?;
        for i in 0..u64::from(self.batch) {
            let key = (turn * 7919 + i * 31) % KEYS;
            batch.push(NewRecord {
                key: Some(&key.to_le_bytes()),
                body: &body,
                ..NewRecord::default()
            })?;
        }
        Ok(batch.build())
    }
}

fn in_words(report: &Report) -> String {
    let n = |rate: f64| count(rate as u64, true);
    let mib = |bytes: Option<&u64>| bytes.copied().unwrap_or_default() >> 20;
    let rates: Vec<String> = report.messages_per_second.iter().map(|r| n(*r)).collect();
    let mut text = format!(
        "{} topics, {} messages a second asked for, {} s\n\
         rate      {} (flatness {})\n\
         acks      {} ms p50, {} ms p99; fsync {} ms p99, alone before it {} ms\n\
         disk      {}\n\
         directory {} MiB after a tenth, {} MiB at the end\n\
         resident  {} MiB after a tenth, {} MiB at the end\n",
        report.topics,
        n(report.rate as f64),
        report.duration_s,
        rates.join(" "),
        report.flatness,
        report.ack_p50_ms,
        report.ack_p99_ms,
        report.fsync_in_run_p99_ms,
        report.fsync_p99_ms,
        match report.write_amplification {
            Some(times) => format!("was given {times} times the bodies to write"),
            None => "unknown".to_owned(),
        },
        mib(report.directory_bytes.first()),
        mib(report.directory_bytes.last()),
        mib(report.resident_bytes.first()),
        mib(report.resident_bytes.last()),
    );
    if let Some(backup) = &report.backup {
        text.push_str(&format!(
            "backup    {} MiB in {:.1} s, {} of the rate before\n",
            backup.backup_bytes >> 20,
            backup.backup_s,
            backup.rate_during_backup
        ));
    }
    text
}
