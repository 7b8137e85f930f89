//! What the owner's socket costs: the same work in this process, and over the socket of an owner in another process.
//!
//! `cargo run --release -p strait-remote --example throughput [SECONDS] [DIR]`

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use strait_core::events::{Append, Cursor, Events, Expected, GroupSpec, TopicSpec};
use strait_core::{
    Arrival, Engine, Name, NewRecord, Position, Records, RecordsBuilder, Unit, Verdict,
};
use strait_embedded::{Embedded, Options};
use strait_remote::{Client, ClientOptions, ListenOptions, Listener};
use tokio::task::JoinSet;

const PARTITIONS: u32 = 12;
const PRODUCERS: u32 = 64;
const BODY: usize = 100;

fn main() {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    if first.as_deref() == Some("own") {
        return own(&PathBuf::from(args.next().unwrap()));
    }
    let seconds = first.map_or(3, |text| text.parse().unwrap());
    let root = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let time = Duration::from_secs(seconds);
    println!(
        "{:<44} {:>26} {:>26}",
        "messages per second (CPU of a message)", "in process", "over socket"
    );
    let here = tempfile::tempdir_in(&root).unwrap();
    let engine = Embedded::open(here.path(), Options::default()).unwrap();
    let own = [std::process::id()];
    let inside = runtime.block_on(measure(engine.clone(), time, &own));
    runtime.block_on(engine.close(Duration::from_secs(10)));
    drop(engine);
    let there = tempfile::tempdir_in(&root).unwrap();
    let over = over_socket(&runtime, there.path(), time);
    for ((what, inside), (_, over)) in inside.iter().zip(&over) {
        println!("{what:<44} {inside:>26} {over:>26}");
    }
}

/// The other process: owns the directory until its input ends.
fn own(directory: &Path) {
    let engine = Embedded::open(directory, Options::default()).unwrap();
    let _listener = Listener::bind(directory, engine, ListenOptions::default()).unwrap();
    println!("ready");
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn over_socket(
    runtime: &tokio::runtime::Runtime,
    directory: &Path,
    time: Duration,
) -> Vec<(&'static str, String)> {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .arg("own")
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(owner.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    let processes = [std::process::id(), owner.id()];
    let figures = runtime.block_on(async {
        let client = Client::connect(directory, ClientOptions::default())
            .await
            .unwrap();
        measure(Arc::new(client), time, &processes).await
    });
    drop(owner.stdin.take());
    owner.wait().unwrap();
    figures
}

/// The work, and what it costs in these processes together.
async fn measure(
    engine: Arc<dyn Engine>,
    time: Duration,
    processes: &[u32],
) -> Vec<(&'static str, String)> {
    let events = engine.lanes().events.unwrap();
    for topic in ["batches", "singles"] {
        let spec = TopicSpec::new(name(topic)).partitions(PARTITIONS);
        events.declare(spec).await.unwrap();
    }
    let mut figures = Vec::new();
    let mut cpu = cpu_of(processes);
    let mut note = |what, messages: u64, elapsed: Duration| {
        let now = cpu_of(processes);
        let each = (now - cpu).as_secs_f64() * 1e6 / messages.max(1) as f64;
        cpu = now;
        let rate = messages as f64 / elapsed.as_secs_f64();
        figures.push((what, format!("{rate:.0} ({each:.3} us)")));
    };
    let begun = Instant::now();
    let batches = produce(&events, "batches", 100, time).await;
    note(
        "append, batches of 100, 64 producers",
        batches,
        begun.elapsed(),
    );
    let begun = Instant::now();
    let singles = produce(&events, "singles", 1, time).await;
    note(
        "append, single messages, 64 producers",
        singles,
        begun.elapsed(),
    );
    let begun = Instant::now();
    let read = catch_up(&events, time).await;
    note(
        "catch-up, every record visited, 4 readers",
        read,
        begun.elapsed(),
    );
    let begun = Instant::now();
    let consumed = consume(&engine, &events, time).await;
    note(
        "consume, settled by ranges, 1 member",
        consumed,
        begun.elapsed(),
    );
    figures
}

/// CPU time used so far, from `/proc` (in hundredths of a second).
fn cpu_of(processes: &[u32]) -> Duration {
    let ticks = processes.iter().map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        // User and system time: the 14th and 15th field, the 12th and 13th behind the name.
        fields
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().unwrap())
            .sum::<u64>()
    });
    Duration::from_millis(10 * ticks.sum::<u64>())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn batch(count: usize) -> Records {
    let mut builder = RecordsBuilder::new(&[]).unwrap();
    for _ in 0..count {
        builder
            .push(NewRecord {
                body: &[7; BODY],
                ..Default::default()
            })
            .unwrap();
    }
    builder.build()
}

async fn produce(events: &Arc<dyn Events>, topic: &str, count: usize, time: Duration) -> u64 {
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        let (events, stop, sent, topic) = (events.clone(), stop.clone(), sent.clone(), name(topic));
        producers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let append = Append {
                    topic: topic.clone(),
                    partition: producer % PARTITIONS,
                    records: batch(count),
                    expected: Expected::Any,
                    dedupe: false,
                };
                events.append(append).await.unwrap();
                sent.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    while producers.join_next().await.is_some() {}
    sent.load(Ordering::Relaxed)
}

async fn catch_up(events: &Arc<dyn Events>, time: Duration) -> u64 {
    let until = Instant::now() + time;
    let mut readers = JoinSet::new();
    for reader in 0..4 {
        let events = events.clone();
        readers.spawn(async move {
            let (mut seen, mut bytes) = (0u64, 0usize);
            let mut partition = reader;
            while Instant::now() < until {
                let mut position = Position::at(0);
                loop {
                    let (topic, wait) = (name("batches"), Duration::ZERO);
                    let cursor = Cursor {
                        topic,
                        partition,
                        position,
                        wait,
                    };
                    let chunk = events.read(cursor, 1 << 20).await.unwrap();
                    if chunk.is_empty() || Instant::now() >= until {
                        break;
                    }
                    for item in chunk.iter() {
                        bytes += item.record().body().len();
                        seen += 1;
                    }
                    position = chunk.next();
                }
                partition = (partition + 4) % PARTITIONS;
            }
            assert_eq!(bytes, seen as usize * BODY);
            seen
        });
    }
    let mut seen = 0;
    while let Some(reader) = readers.join_next().await {
        seen += reader.unwrap();
    }
    seen
}

async fn consume(engine: &Arc<dyn Engine>, events: &Arc<dyn Events>, time: Duration) -> u64 {
    let mut consumer = events
        .join(GroupSpec::new(name("bench"), name("batches")))
        .await
        .unwrap();
    let until = Instant::now() + time;
    let mut settling = JoinSet::new();
    let mut seen = 0;
    while Instant::now() < until {
        let next = tokio::time::timeout(time, consumer.next(10_000, 4 << 20)).await;
        let Ok(arrival) = next else { break };
        if let Arrival::Run(chunk, receipt) = arrival.unwrap() {
            seen += chunk
                .iter()
                .map(|item| u64::from(!item.record().body().is_empty()))
                .sum::<u64>();
            settling.spawn(engine.commit(vec![Unit::settle(receipt, Verdict::Done)]));
        }
    }
    while settling.join_next().await.is_some() {}
    seen
}
