//! The cleaner on real files: what is live moves out of segments that are mostly dead, the newest record of each key
//! stays, and nobody who reads sees more of it than the space that comes back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{Append, Compaction, Expected, GroupSpec, Retention, TopicSpec};
use strait_core::{
    Arrival, Engine, Limits, NewRecord, Outcome, Records, RecordsBuilder, Timestamp, Unit, Verdict,
};
use strait_embedded::{Embedded, Options, verify};

use crate::support::{append, block_on, events, name, read_all};

const TOPICS: usize = 40;
const BODY: usize = 4_000;

fn options() -> Options {
    Options {
        segment_bytes: 1 << 20,
        retention_every: Duration::from_millis(10),
        cleaner_share: 100,
        ..Options::default()
    }
}

/// Waits until the directory says so: no event tells of a file that was removed.
async fn wait_for(what: &str, is_so: impl AsyncFn() -> bool) {
    for _ in 0..3_000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to that: {what}");
}

fn files(dir: &Path, prefix: &str) -> Vec<u64> {
    let files = std::fs::read_dir(dir).expect("the directory");
    let ours = files.filter_map(|file| {
        let file = file.ok()?;
        let is_ours = file.file_name().to_str()?.starts_with(prefix);
        is_ours.then_some(file.metadata().ok()?.len())
    });
    ours.collect()
}

#[test]
fn a_long_retention_does_not_keep_the_space_of_short_ones() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    let engine = Embedded::open(&dir, options()).expect("an empty directory");
    let topic = |i: usize| format!("t{i}");
    let mut kept: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
    block_on(async {
        for i in 0..TOPICS {
            // One of eight is kept for ever, one by size, the others for a moment.
            let short = Retention {
                age: Some(Duration::from_millis(1)),
                bytes: None,
            };
            let retention = (i % 8 > 0).then_some(short);
            let spec = TopicSpec {
                retention,
                key_versions: Some(i == 8),
                ..TopicSpec::new(name(&topic(i))).partitions(1)
            };
            events(&engine).declare(spec).await.expect("a new topic");
        }
        for round in 0..150u32 {
            for i in 0..TOPICS {
                let body = [(round as usize + i) as u8; BODY];
                append(&engine, &topic(i), 0, &body)
                    .await
                    .expect("appended");
                if i % 8 == 0 {
                    kept.entry(i).or_default().push(body.to_vec());
                }
            }
        }
        // 24 MB were written, 3 MB are kept.
        wait_for("segments of the log are given back", async || {
            let log: u64 = files(&dir, "log-").iter().sum();
            !files(&dir, "clean-").is_empty() && log < 40 << 20
        })
        .await;
        check_kept(&engine, &kept).await;
    });
    drop(engine);
    let report = verify(&dir).expect("it can be read");
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    assert!(report.cleaned > 0, "{report:?}");
    for read_only in [true, false] {
        let options = Options {
            read_only,
            ..options()
        };
        let engine = Embedded::open(&dir, options).expect("what is left is whole");
        assert_eq!(engine.opened().warnings, Vec::<String>::new());
        block_on(check_kept(&engine, &kept));
    }
}

async fn check_kept(engine: &Embedded, kept: &BTreeMap<usize, Vec<Vec<u8>>>) {
    for (i, bodies) in kept {
        let left = read_all(engine, &format!("t{i}"), 0).await;
        let left: Vec<Vec<u8>> = left.into_iter().map(|(_, body)| body).collect();
        assert!(left == *bodies, "topic {i} has other messages");
    }
}

fn batch(entries: &[(u32, String)]) -> Records {
    let (now, id) = (Timestamp::now(), u128::from(entries[0].0));
    let mut builder = RecordsBuilder::with(&[], Limits::default(), now, id).expect("no attributes");
    for (key, body) in entries {
        let record = NewRecord {
            key: Some(&key.to_le_bytes()),
            body: body.as_bytes(),
            ..NewRecord::default()
        };
        builder.push(record).expect("a small record");
    }
    builder.build()
}

async fn put(engine: &Embedded, entries: &[(u32, String)]) {
    let append = Append {
        topic: name("prices"),
        partition: 0,
        records: batch(entries),
        expected: Expected::Any,
        dedupe: false,
    };
    events(engine).append(append).await.expect("appended");
}

/// What a reader from the beginning has at the end, by key; and how many records it saw.
async fn replayed(engine: &Embedded) -> (BTreeMap<u32, String>, usize) {
    let mut table = BTreeMap::new();
    let mut count = 0;
    let mut at = strait_core::Position::at(0);
    loop {
        let chunk = crate::support::read(engine, "prices", 0, at.offset()).await;
        let chunk = chunk.expect("what is there can be read");
        for item in chunk.iter() {
            count += 1;
            let record = item.record();
            let key = record.key().expect("every record has a key");
            let key = u32::from_le_bytes(key.try_into().expect("four bytes"));
            match std::str::from_utf8(record.body()).expect("text") {
                "" => drop(table.remove(&key)),
                body => drop(table.insert(key, body.to_owned())),
            }
        }
        if chunk.next() <= at {
            return (table, count);
        }
        at = chunk.next();
    }
}

#[test]
fn compaction_keeps_the_newest_of_each_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    let engine = Embedded::open(&dir, options()).expect("an empty directory");
    let (keys, rounds) = (500u32, 200u32);
    let mut table = BTreeMap::new();
    block_on(async {
        let spec = TopicSpec {
            compaction: Some(Compaction {
                min_lag: Duration::ZERO,
                tombstones: Duration::from_millis(1),
            }),
            ..TopicSpec::new(name("prices")).partitions(1)
        };
        events(&engine).declare(spec).await.expect("a new topic");
        for round in 0..rounds {
            let body = |key: u32| match (key + round) % 7 {
                0 => String::new(),
                _ => format!("{key} in round {round} {}", "x".repeat(60)),
            };
            // Every third key is written in every round, the others are left behind.
            let written = (0..keys).filter(|key| round == 0 || key % 3 == 0);
            let entries: Vec<(u32, String)> = written.map(|key| (key, body(key))).collect();
            for (key, body) in &entries {
                match body.is_empty() {
                    true => drop(table.remove(key)),
                    false => drop(table.insert(*key, body.clone())),
                }
            }
            put(&engine, &entries).await;
        }
        let written = (keys + (rounds - 1) * keys.div_ceil(3)) as usize;
        wait_for("most of what is superseded is gone", async || {
            replayed(&engine).await.1 < written / 2
        })
        .await;
        assert!(replayed(&engine).await.0 == table, "the table is another");
        consume_all(&engine, u64::try_from(written).expect("small")).await;
    });
    drop(engine);
    let report = verify(&dir).expect("it can be read");
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    let engine = Embedded::open(&dir, options()).expect("what is left is whole");
    assert!(block_on(replayed(&engine)).0 == table);
}

/// A group goes over the gaps: it ends at the end, with nothing left to do.
async fn consume_all(engine: &Arc<Embedded>, end: u64) {
    let spec = GroupSpec {
        gap: 1 << 20,
        ..GroupSpec::new(name("readers"), name("prices"))
    };
    let mut consumer = events(engine).join(spec).await.expect("a member");
    loop {
        let info = events(engine).group(name("readers"), name("prices")).await;
        let shard = &info.expect("the group").shards[0];
        if shard.committed.offset() == end {
            assert_eq!(shard.lag, 0);
            return;
        }
        let arrival = tokio::time::timeout(Duration::from_secs(20), consumer.next(1_000, 1 << 20));
        if let Arrival::Run(chunk, receipt) = arrival.await.expect("a message").expect("no fault") {
            assert_eq!(chunk.len(), receipt.count() as usize);
            let unit = Unit::settle(receipt, Verdict::Done);
            let outcome = engine.commit(vec![unit]).await.remove(0);
            assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
        }
    }
}
