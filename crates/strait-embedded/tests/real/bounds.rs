//! Bounds and races that a simulation without threads cannot show.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{Append, Durability, GroupSpec, TopicSpec};
use strait_core::{
    Arrival, Claim, Claimed, Engine, Kind, Limits, NewRecord, Outcome, Outgoing, Receipt,
    RecordsBuilder, Unit, Verdict, codes,
};
use strait_embedded::disk::rng::Rng;
use strait_embedded::disk::sim::Crash;
use strait_embedded::disk::{LogOptions, SimDisk};
use strait_embedded::stepped::Stepped;
use strait_embedded::{Embedded, Options};

use crate::support::{append, append_of, block_on, declare, events, name, open, read_all};

/// Set in the process that measures its memory: no other test takes some of it there.
const ALONE: &str = "STRAIT_TEST_ALONE";

fn send(topic: &str, body: &[u8]) -> Unit {
    let append = append_of(topic, 0, body);
    Unit::send(Outgoing::Append {
        topic: append.topic,
        partition: append.partition,
        records: append.records,
        expected: append.expected,
        dedupe: false,
    })
}

/// A commit runs to its end once it was polled, also when there is no room in the queue and its caller goes away.
#[test]
fn a_commit_that_was_polled_happens() {
    let options = Options {
        queue_bytes: 1000,
        ..Options::default()
    };
    let engine = Embedded::memory(options).expect("an engine in memory");
    block_on(async {
        declare(&engine, "in", 1).await;
        let units = || (0..20).map(|_| send("in", &[1; 900])).collect::<Vec<_>>();
        for _ in 0..10 {
            let mut commit = engine.commit(units());
            assert!(
                futures_poll(&mut commit)
                    .await
                    .is_none_or(|outcomes| outcomes.len() == 20)
            );
            drop(commit);
        }
        // Behind all of them in the queue.
        append(&engine, "in", 0, b"last").await.expect("appended");
        assert_eq!(read_all(&engine, "in", 0).await.len(), 201);
    });
}

/// Nobody waits for a join any more: its member leaves, or it would keep a part of the partitions for ever.
#[test]
fn a_join_that_was_dropped_leaves_no_member() {
    let engine = Embedded::memory(Options::default()).expect("an engine in memory");
    block_on(async {
        declare(&engine, "in", 8).await;
        let spec = || GroupSpec::new(name("g"), name("in"));
        let joined = events(&engine).join(spec()).await.expect("a member");
        for _ in 0..20 {
            // The writer gets to it before or after it is dropped.
            let mut join = events(&engine).join(spec());
            drop(futures_poll(&mut join).await);
        }
        drop(joined);
        let mut member = events(&engine).join(spec()).await.expect("a member");
        let mut owned = 0;
        while owned < 8 {
            let next = tokio::time::timeout(Duration::from_secs(20), member.next(1, 1000));
            match next.await.expect("members that nobody has keep them") {
                Ok(Arrival::Assigned(_)) => owned += 1,
                other => panic!("{other:?}"),
            }
        }
    });
}

async fn futures_poll<F: std::future::Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

/// Whoever waits for room in the queue gets it, whatever the sizes are.
#[test]
fn a_small_queue_lets_everybody_through() {
    let options = Options {
        queue_bytes: 10_000,
        ..Options::default()
    };
    let engine = Embedded::memory(options).expect("an engine in memory");
    block_on(async {
        declare(&engine, "in", 1).await;
        let tasks = (0..40usize).map(|task| {
            let engine = engine.clone();
            let size = [100, 4_000, 8_500, 30_000][task % 4];
            tokio::spawn(async move {
                for _ in 0..20 {
                    append(&engine, "in", 0, &vec![1; size])
                        .await
                        .expect("appended");
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            let done = tokio::time::timeout(Duration::from_secs(60), task).await;
            done.expect("nobody waits for ever").expect("a task");
        }
        assert_eq!(read_all(&engine, "in", 0).await.len(), 800);
    });
}

/// Everything that is there, as one receipt.
async fn all_in_one(engine: &Embedded, count: u32) -> (strait_core::Consumer, Vec<Receipt>) {
    let spec = GroupSpec::new(name("group"), name("in"));
    let mut consumer = events(engine).join(spec).await.expect("a member");
    let mut receipts: Vec<Receipt> = Vec::new();
    while receipts.iter().map(Receipt::count).sum::<u32>() < count {
        if let Arrival::Run(_, receipt) = consumer.next(1000, usize::MAX).await.expect("messages") {
            receipts.push(receipt);
        }
    }
    (consumer, receipts)
}

/// Dead letters are copied: giving up more than a group of the log holds is refused, and settling less works.
#[test]
fn giving_up_too_much_at_once_is_refused_and_harms_nothing() {
    let engine = Embedded::memory(Options::default()).expect("an engine in memory");
    block_on(async {
        declare(&engine, "in", 1).await;
        for _ in 0..40 {
            append(&engine, "in", 0, &[1; 1 << 20])
                .await
                .expect("appended");
        }
        let (_consumer, receipts) = all_in_one(&engine, 40).await;
        let dead = |receipt| (receipt, Verdict::Dead("no".into()));
        let unit = Unit {
            settle: receipts.into_iter().map(dead).collect(),
            ..Unit::default()
        };
        let Outcome::NotApplied(unit, error) = engine.commit(vec![unit]).await.remove(0) else {
            panic!("40 MiB of dead letters in one unit");
        };
        assert!(error.is(codes::TOO_LARGE), "{error:?}");
        // Retrying all of them copies nothing and fits.
        let retry = Verdict::Retry {
            after: Duration::ZERO,
            reason: "later".into(),
            counts: true,
        };
        let settle = unit
            .settle
            .into_iter()
            .map(|(receipt, _)| (receipt, retry.clone()));
        let unit = Unit {
            settle: settle.collect(),
            ..Unit::default()
        };
        let outcome = engine.commit(vec![unit]).await.remove(0);
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
        append(&engine, "in", 0, b"x")
            .await
            .expect("the engine works");
    });
}

/// Many units in one call go in several groups.
#[test]
fn a_call_with_very_many_units_is_no_group_that_is_too_long() {
    let engine = Embedded::memory(Options::default()).expect("an engine in memory");
    block_on(async {
        declare(&engine, "in", 1).await;
        let units = (0..300).map(|_| send("in", &[1; 1 << 20])).collect();
        let outcomes = engine.commit(units).await;
        assert_eq!(outcomes.len(), 300);
        for (outcome, offset) in outcomes.into_iter().zip(0..) {
            assert_eq!(
                outcome.into_result().expect("applied")[0].first.offset(),
                offset
            );
        }
    });
}

#[test]
fn limits_that_no_group_of_the_log_holds_are_refused_at_the_opening() {
    let options = Options {
        limits: Limits {
            body: 400 << 20,
            ..Limits::default()
        },
        ..Options::default()
    };
    let error = Embedded::memory(options).expect_err("400 MiB are too much");
    assert_eq!(error.kind(), Kind::Config, "{error:?}");
}

/// A segment longer than its places can say does not end the engine.
#[test]
fn a_segment_is_at_most_a_gibibyte() {
    let options = Options {
        segment_bytes: 1 << 40,
        memory_bytes: 1 << 40,
        ..Options::default()
    };
    let engine = Embedded::memory(options).expect("an engine in memory");
    block_on(async {
        declare(&engine, "in", 1).await;
        append(&engine, "in", 0, b"x").await.expect("appended");
    });
}

/// A claim that waits gets it when the lease of the other runs out.
#[test]
fn a_claim_whose_lease_runs_out_goes_to_who_waits() {
    let engine = Embedded::memory(Options::default()).expect("an engine in memory");
    block_on(async {
        let claim = |holder: &str, lease, wait| Claim {
            scope: "s".into(),
            key: "k".into(),
            holder: holder.into(),
            lease: Duration::from_millis(lease),
            wait: Duration::from_millis(wait),
            at_most_once: false,
        };
        let first = engine.claim(claim("a", 300, 0)).await.expect("claimed");
        assert!(matches!(first, Claimed::Run(_)));
        let second = engine
            .claim(claim("b", 300, 60_000))
            .await
            .expect("claimed");
        assert!(matches!(second, Claimed::Run(_)), "{second:?}");
    });
}

/// With durability `os` a checkpoint must not know more than the disk: what is acknowledged after a power cut would be
/// taken for known, and lost at the opening after the next.
#[test]
fn a_checkpoint_is_durable_whatever_acknowledgements_mean() {
    let options = || Options {
        durability: Durability::Os,
        ..Options::default()
    };
    let log = LogOptions {
        first_segment_bytes: 64 << 10,
        segment_bytes: 64 << 10,
        reserve_bytes: 0,
        ..LogOptions::new(7, 7)
    };
    let mut rng = Rng::new(5);
    let mut sim = SimDisk::faulty(64 << 20, 5);
    let mut acked = 0;
    for _ in 0..3 {
        let disk = Arc::new(sim);
        let mut stepped = Stepped::open(disk.clone(), options(), log.clone()).expect("it opens");
        block_on(async {
            let engine = stepped.engine().clone();
            let found = read_if_there(&engine).await;
            assert_eq!(found, acked, "all that the checkpoint knows");
            acked += step(&mut stepped, &engine).await;
        });
        stepped.begin_checkpoint().expect("a checkpoint");
        stepped.finish_checkpoint().expect("a checkpoint");
        sim = disk.crash(Crash::AllLost, &mut rng);
    }
}

async fn read_if_there(engine: &Embedded) -> usize {
    match events(engine).topic(name("in")).await {
        Ok(_) => read_all(engine, "in", 0).await.len(),
        Err(_) => 0,
    }
}

/// Declares the topic and appends; gives how many were acknowledged.
async fn step(stepped: &mut Stepped, engine: &Embedded) -> usize {
    let spec = strait_core::events::TopicSpec::new(name("in")).partitions(1);
    let mut declared = events(engine).declare(spec);
    assert!(futures_poll(&mut declared).await.is_none());
    stepped.turn();
    declared.await.expect("declared");
    for _ in 0..3 {
        let mut appended = events(engine).append(append_of("in", 0, b"x"));
        assert!(futures_poll(&mut appended).await.is_none());
        stepped.turn();
        appended.await.expect("appended");
    }
    3
}

/// Every message keeps the reason: a long one over many messages would be more than the log takes at once.
#[test]
fn a_reason_counts_for_each_message() {
    let engine = Embedded::memory(Options::default()).expect("memory");
    block_on(async {
        declare(&engine, "in", 1).await;
        for _ in 0..40 {
            append(&engine, "in", 0, b"x").await.expect("appended");
        }
        let spec = GroupSpec::new(name("group"), name("in"));
        let mut consumer = events(&engine).join(spec).await.expect("a member");
        let receipt = loop {
            if let Arrival::Run(_, receipt) = consumer.next(40, 1 << 20).await.expect("messages")
                && receipt.count() == 40
            {
                break receipt;
            }
        };
        let verdict = Verdict::Retry {
            after: Duration::ZERO,
            reason: "x".repeat(1 << 20).into(),
            counts: false,
        };
        let unit = Unit::settle(receipt, verdict);
        match engine.commit(vec![unit]).await.remove(0) {
            Outcome::NotApplied(_, error) => assert_eq!(error.code_str(), Some(codes::TOO_LARGE)),
            other => panic!("{other:?}"),
        }
    });
}

/// The reserve of the full disk is as long as the longest unit, and the same for every directory; the segments beside it
/// grow with what is stored.
#[test]
fn a_directory_with_little_in_it_stays_small() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for n in 0..6 {
        let engine = Embedded::open(dir.path(), Options::default()).expect("an engine");
        block_on(async {
            declare(&engine, "in", 1).await;
            let sent = append(&engine, "in", 0, format!("{n}").as_bytes()).await;
            sent.expect("it is stored");
            engine.close(Duration::from_secs(10)).await;
        });
    }
    let mut total = 0;
    for file in std::fs::read_dir(dir.path()).expect("a directory") {
        let file = file.expect("a file");
        total += file.metadata().expect("its length").len();
        let name = file.file_name().into_string().expect("a name");
        let unfinished = name.starts_with("log-") && name.ends_with(".tmp");
        assert!(!unfinished, "{name} was begun for nothing");
    }
    assert!(total < 40 << 20, "{total} bytes");
}

/// Resident bytes of this process.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

fn keyed(keys: std::ops::Range<u32>) -> strait_core::Records {
    let mut batch = RecordsBuilder::new(&[]).expect("a batch");
    for key in keys {
        let key = format!("customer-{key}");
        let record = NewRecord {
            key: Some(key.as_bytes()),
            body: b"a body",
            ..NewRecord::default()
        };
        batch.push(record).expect("within the limits");
    }
    batch.build()
}

/// Appends a message of each key, a thousand in a batch.
async fn append_keyed(engine: &Embedded, keys: u32) {
    for first in (0..keys).step_by(1000) {
        let append = Append {
            records: keyed(first..first + 1000),
            ..append_of("in", 0, b"")
        };
        events(engine).append(append).await.expect("appended");
    }
}

/// A group that keeps the order of keys gets through a million of them, each once.
#[test]
fn a_million_keys_go_through_an_ordered_group() {
    const KEYS: u32 = 1_000_000;
    let dir = tempfile::tempdir().expect("a directory");
    block_on(async {
        let engine = open(&dir.path().join("data")).expect("a directory");
        declare(&engine, "in", 1).await;
        append_keyed(&engine, KEYS).await;
        let spec = GroupSpec::new(name("group"), name("in"));
        let mut consumer = events(&engine).join(spec).await.expect("a member");
        let mut next = 0;
        while next < KEYS {
            let arrival = consumer.next(5_000, 1 << 20);
            let arrival = tokio::time::timeout(Duration::from_secs(60), arrival).await;
            let arrival = arrival.expect("they go on coming").expect("messages");
            let Arrival::Run(chunk, receipt) = arrival else {
                continue;
            };
            for item in chunk.iter() {
                let key = format!("customer-{next}");
                assert_eq!(item.record().key(), Some(key.as_bytes()));
                next += 1;
            }
            let unit = Unit::settle(receipt, Verdict::Done);
            let outcome = engine.commit(vec![unit]).await.pop();
            assert!(matches!(outcome, Some(Outcome::Applied(_))), "{outcome:?}");
        }
        let info = events(&engine).group(name("group"), name("in")).await;
        assert_eq!(info.expect("the group").lag(), 0);
        engine.close(Duration::from_secs(10)).await;
    });
}

/// Many parked keys cost little, whatever is said of why; all are there after a reopen, and go on when they are due.
#[test]
fn many_parked_keys_are_small_and_come_back() {
    const KEYS: u32 = 100_000;
    if std::env::var_os(ALONE).is_none() {
        let own = std::env::current_exe().expect("the test's program");
        let name = "bounds::many_parked_keys_are_small_and_come_back";
        let mut alone = Command::new(own);
        let alone = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "");
        assert!(alone.status().expect("it starts").success());
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    let spec = || GroupSpec {
        gap: u64::from(KEYS),
        ..GroupSpec::new(name("group"), name("in"))
    };
    let reason =
        "the service that it needs did not answer within 30 s, and so did not its stand-in";
    block_on(async {
        let engine = open(&dir).expect("a directory");
        declare(&engine, "in", 1).await;
        append_keyed(&engine, KEYS).await;
        let before = resident();
        let mut consumer = events(&engine).join(spec()).await.expect("a member");
        let mut left = KEYS;
        while left > 0 {
            let retry = || Verdict::Retry {
                after: Duration::from_secs(3600),
                reason: reason.into(),
                counts: true,
            };
            let settle = match consumer.next(2000, 1 << 20).await.expect("messages") {
                Arrival::Run(_, receipt) => vec![(receipt, retry())],
                Arrival::Each(each) => each.into_iter().map(|d| (d.receipt, retry())).collect(),
                _ => continue,
            };
            left -= settle
                .iter()
                .map(|(receipt, _)| receipt.count())
                .sum::<u32>();
            let unit = Unit {
                settle,
                ..Unit::default()
            };
            let outcome = engine.commit(vec![unit]).await.pop();
            assert!(matches!(outcome, Some(Outcome::Applied(_))), "{outcome:?}");
        }
        if let Some((before, after)) = before.zip(resident()) {
            let each = after.saturating_sub(before) / u64::from(KEYS);
            assert!(each < 400, "a parked message takes {each} bytes");
        }
        let info = events(&engine).group(name("group"), name("in")).await;
        let info = info.expect("the group");
        assert_eq!(
            (info.parked(), info.lag()),
            (u64::from(KEYS), u64::from(KEYS))
        );
        drop(consumer);
        engine.close(Duration::from_secs(10)).await;
    });
    block_on(async {
        let engine = open(&dir).expect("it opens again");
        let info = events(&engine).group(name("group"), name("in")).await;
        let info = info.expect("the group");
        assert_eq!(
            (info.parked(), info.lag()),
            (u64::from(KEYS), u64::from(KEYS))
        );
        engine.close(Duration::from_secs(10)).await;
    });
}

/// Ten thousand topics of four partitions each are declared, used and found again.
#[test]
fn ten_thousand_topics_are_small_and_found_again() {
    const TOPICS: u32 = 10_000;
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    let topic = |number: u32| format!("tenant-{number}");
    block_on(async {
        let engine = open(&dir).expect("a directory");
        let before = resident();
        let lane = events(&engine);
        let declare = |number| {
            let spec = TopicSpec::new(name(&topic(number))).partitions(4);
            tokio::spawn(lane.declare(spec))
        };
        for declared in (0..TOPICS).map(declare).collect::<Vec<_>>() {
            declared.await.expect("a task").expect("declared");
        }
        let append = |number| {
            let append = append_of(&topic(number), number % 4, b"one");
            tokio::spawn(lane.append(append))
        };
        for appended in (0..TOPICS).map(append).collect::<Vec<_>>() {
            appended.await.expect("a task").expect("appended");
        }
        if let Some((before, after)) = before.zip(resident()) {
            let each = after.saturating_sub(before) / u64::from(TOPICS);
            assert!(each < 20_000, "a topic takes {each} bytes");
        }
        engine.close(Duration::from_secs(10)).await;
    });
    block_on(async {
        let engine = open(&dir).expect("it opens again");
        let topics = events(&engine).topics().await.expect("topics");
        assert_eq!(topics.len(), TOPICS as usize);
        assert!(topics.iter().all(|topic| topic.partitions.len() == 4));
        for number in [0, 4_711, TOPICS - 1] {
            assert_eq!(read_all(&engine, &topic(number), number % 4).await.len(), 1);
        }
        engine.close(Duration::from_secs(10)).await;
    });
}
