//! `kill -9` in a loop on real files: what was acknowledged is there, and effects happen once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{GroupSpec, Retention, TopicSpec};
use strait_core::{Arrival, Engine, Outcome, Outgoing, Receipt, Unit, Verdict};
use strait_embedded::disk::rng::Rng;
use strait_embedded::{Embedded, Options};

use crate::support::{
    append, append_of, block_on, child, declare, events, name, open, read_all, role,
};

const ROUNDS: u64 = 25;
const PARTITIONS: u32 = 3;

/// What the children acknowledged before they were killed.
#[derive(Default)]
struct Acked {
    /// Partition and offset, by message.
    appended: BTreeMap<String, (u32, u64)>,
    settled: BTreeSet<String>,
    /// The cleaner had copied something.
    cleaned: bool,
}

#[test]
fn what_was_acknowledged_survives_kill_minus_nine() {
    let rounds = std::env::var("STRAIT_KILL_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |text| text.parse().expect("a number of rounds"));
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    let mut rng = Rng::new(7);
    let mut acked = Acked::default();
    for round in 0..rounds {
        // From before it opened to well in its work.
        let life = Duration::from_millis(rng.below(140));
        one_life(&dir, round, life, &mut acked);
        block_on(check(&dir, &acked, false));
        let files = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut names = files.filter_map(|file| file.file_name().into_string().ok());
        acked.cleaned |= names.any(|name| name.starts_with("clean-"));
    }
    assert!(acked.cleaned, "the cleaner had nothing to do");
    assert!(
        acked.appended.len() as u64 > rounds,
        "the children did nothing"
    );
    assert!(
        acked.settled.len() as u64 > rounds / 2,
        "the children settled nothing"
    );
    block_on(check(&dir, &acked, true));
}

/// Starts a child, kills it after `life`, and notes what it had acknowledged.
fn one_life(dir: &Path, round: u64, life: Duration, acked: &mut Acked) {
    let mut command = child("kill::child_that_is_killed", &format!("{round}"));
    command.env("STRAIT_TEST_DIR", dir).stdout(Stdio::piped());
    let mut running = command.spawn().expect("this program again");
    let lines = BufReader::new(running.stdout.take().expect("a pipe")).lines();
    let reader = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<String>>());
    std::thread::sleep(life);
    running.kill().expect("it runs until it is killed");
    running.wait().expect("it was started");
    for line in reader.join().expect("the reader of the pipe") {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            // The last word ends each line: one that was torn by the death does not count.
            ["acked", body, partition, offset, "."] => {
                let place = (number(partition), number(offset));
                acked.appended.insert(body.to_owned(), place);
            }
            ["settled", body, "."] => drop(acked.settled.insert(body.to_owned())),
            _ => {}
        }
    }
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().ok().expect("the child prints numbers")
}

/// Opens the directory and looks. At the end everything is settled, and each message has its effect exactly once.
async fn check(dir: &Path, acked: &Acked, end: bool) {
    let engine = open(dir).expect("it opens after every death");
    let events = events(&engine);
    if events.topic(name("out")).await.is_err() {
        assert!(acked.appended.is_empty(), "the topics are gone");
        return;
    }
    if end {
        settle(&engine, |_| {}, true).await;
    }
    let mut found = BTreeMap::new();
    for partition in 0..PARTITIONS {
        for (offset, body) in read_all(&engine, "in", partition).await {
            let body = String::from_utf8(body).expect("text");
            let other = found.insert(body.clone(), (partition, offset));
            assert_eq!(other, None, "{body} is there twice");
        }
    }
    for (body, place) in &acked.appended {
        assert_eq!(found.get(body), Some(place), "{body} was acknowledged");
    }
    let mut effects = BTreeSet::new();
    for (_, body) in read_all(&engine, "out", 0).await {
        let body = String::from_utf8(body).expect("text");
        assert!(found.contains_key(&body), "{body} is the effect of nothing");
        assert!(effects.insert(body.clone()), "{body} had its effect twice");
    }
    for body in &acked.settled {
        assert!(
            effects.contains(body),
            "{body} was settled without its effect"
        );
    }
    if end {
        assert_eq!(effects.len(), found.len(), "each message has its effect");
    }
}

/// Settles with one effect each. With `all` until nothing is left, else for ever.
async fn settle(engine: &Embedded, settled: impl Fn(&str), all: bool) {
    let spec = GroupSpec {
        // No message dies here, however often its consumer does.
        max_attempts: u32::MAX,
        ..GroupSpec::new(name("group"), name("in"))
    };
    let mut consumer = events(engine).join(spec).await.expect("a member");
    loop {
        if all {
            let info = events(engine).group(name("group"), name("in")).await;
            if info.expect("the group").lag() == 0 {
                return;
            }
        }
        match consumer.next(20, 1 << 20).await {
            Ok(Arrival::Run(chunk, mut receipt)) => {
                let bodies = chunk.iter().map(|item| item.record().body().to_vec());
                for body in bodies {
                    let (one, rest) = match receipt.split_first() {
                        Some(first) => (first, Some(receipt)),
                        None => (receipt, None),
                    };
                    settle_one(engine, one, &body, &settled).await;
                    match rest {
                        Some(rest) => receipt = rest,
                        None => break,
                    }
                }
            }
            Ok(Arrival::Each(deliveries)) => {
                for delivery in deliveries {
                    let body = delivery.message.record().body().to_vec();
                    settle_one(engine, delivery.receipt, &body, &settled).await;
                }
            }
            Ok(_) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn settle_one(engine: &Embedded, receipt: Receipt, body: &[u8], settled: &impl Fn(&str)) {
    let append = append_of("out", 0, body);
    let unit = Unit {
        send: vec![Outgoing::Append {
            topic: append.topic,
            partition: append.partition,
            records: append.records,
            expected: append.expected,
            dedupe: false,
        }],
        ..Unit::settle(receipt, Verdict::Done)
    };
    let outcome = engine.commit(vec![unit]).await.remove(0);
    assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    settled(std::str::from_utf8(body).expect("text"));
}

/// The child: works and says what was acknowledged, until it is killed.
#[test]
fn child_that_is_killed() {
    let (Some(round), Some(dir)) = (role(), std::env::var_os("STRAIT_TEST_DIR")) else {
        return;
    };
    let options = Options {
        segment_bytes: 1 << 20,
        // Checkpoints, recycling, retention and the cleaner take part.
        checkpoint_bytes: 256 << 10,
        retention_every: Duration::from_millis(5),
        cleaner_share: 100,
        ..Options::default()
    };
    let engine = Embedded::open(dir, options).expect("the directory");
    block_on(async {
        if events(&engine).topic(name("out")).await.is_err() {
            let short = TopicSpec {
                retention: Some(Retention {
                    age: Some(Duration::from_millis(1)),
                    bytes: None,
                }),
                ..TopicSpec::new(name("short")).partitions(1)
            };
            events(&engine).declare(short).await.expect("a new topic");
            declare(&engine, "in", PARTITIONS).await;
            declare(&engine, "out", 1).await;
        }
        for task in 0..4 {
            tokio::spawn(produce(engine.clone(), round.clone(), task));
        }
        let busy = engine.clone();
        tokio::spawn(async move {
            loop {
                let sent = append(&busy, "short", 0, &[b'x'; 40_000]).await;
                sent.expect("appended");
            }
        });
        settle(&engine, |body| say(&format!("settled {body} .")), false).await;
    });
}

async fn produce(engine: Arc<Embedded>, round: String, task: u32) {
    for i in 0u64.. {
        let body = format!("{round}-{task}-{i}-{}", "x".repeat((i % 400) as usize));
        let partition = (task + i as u32) % PARTITIONS;
        let sent = append(&engine, "in", partition, body.as_bytes()).await;
        let sent = sent.expect("appended");
        say(&format!(
            "acked {body} {partition} {} .",
            sent.first.offset()
        ));
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe is the end of the parent, and so of this child.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
