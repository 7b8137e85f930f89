//! Directories that released versions of the format wrote: every later version opens them and finds what was put in.
//!
//! `tests/fixtures/v<format>/` holds the files of one directory, each without the zeros at its end, their lengths in
//! `LENGTHS`, and in `EXPECTED` what it says when it is opened. They are never changed. The one of the present format was
//! written by `STRAIT_WRITE_FIXTURE=1 cargo test -p strait-embedded --test real fixtures`, which refuses to write over one.

use std::fmt::Write as _;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use strait_core::events::{
    Append, Compaction, DeadEdit, DeadFilter, EditDead, Events, Expected, GroupChange, GroupSpec,
    Override, ReadKey, Redrive, Retention, TopicSpec,
};
use strait_core::{
    Arrival, Claim, Claimed, Consumer, Engine, NewRecord, Once, OnceEnd, Outcome, Receipt, Records,
    RecordsBuilder, Unit, Verdict,
};
use strait_embedded::disk::{Disk, LogOptions, Open, SimDisk};
use strait_embedded::stepped::Stepped;
use strait_embedded::{Embedded, FORMAT, Options, files, inspect, verify};

use crate::support::{append, block_on, events, name, open, read_all};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[test]
fn every_format_that_was_released_is_opened() {
    let present = fixtures().join(format!("v{FORMAT}"));
    if std::env::var_os("STRAIT_WRITE_FIXTURE").is_some() {
        write(&present);
    }
    assert!(present.exists(), "the present format has no fixture");
    for entry in std::fs::read_dir(fixtures()).expect("the fixtures") {
        let fixture = entry.expect("a fixture").path();
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("data");
        unpack(&fixture, &dir);
        let report = verify(&dir).expect("it can be read");
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        check_formats_of(&fixture, &dir);
        let expected = std::fs::read_to_string(fixture.join("EXPECTED")).expect("a text");
        for read_only in [true, false] {
            let options = Options {
                read_only,
                ..Options::default()
            };
            let engine = Embedded::open(&dir, options).expect("it is opened");
            let found = block_on(told(&engine));
            assert_eq!(
                found,
                expected,
                "{}, read only: {read_only}",
                fixture.display()
            );
        }
        // And it goes on from there.
        let engine = open(&dir).expect("it is opened again");
        block_on(append(&engine, "plain", 0, b"on")).expect("appended");
    }
}

/// The files say which format they have, and what looks at them from outside can read it.
fn check_formats_of(fixture: &Path, dir: &Path) {
    let fixture = fixture.file_name().expect("a name").to_string_lossy();
    for file in files(dir).expect("they can be listed") {
        let format = file.format.map(|format| format!("v{format}"));
        assert_eq!(format.as_deref(), Some(&*fixture), "{file:?}");
    }
    let found = inspect(dir).expect("it can be read");
    assert!(!found.topics.is_empty(), "{found:?}");
}

fn unpack(fixture: &Path, dir: &Path) {
    std::fs::create_dir(dir).expect("a directory");
    let lengths = std::fs::read_to_string(fixture.join("LENGTHS")).expect("the lengths");
    for line in lengths.lines() {
        let (file, len) = line.split_once(' ').expect("a name and a length");
        std::fs::copy(fixture.join(file), dir.join(file)).expect("a file");
        let copy = std::fs::OpenOptions::new().write(true).open(dir.join(file));
        let len = len.parse().expect("a length");
        copy.and_then(|copy| copy.set_len(len)).expect("its length");
    }
}

/// What a directory says of itself.
async fn told(engine: &Embedded) -> String {
    let mut text = String::new();
    let lane = events(engine);
    for info in lane.topics().await.expect("topics are listed") {
        let topic = &info.name;
        let (kept, newest) = (info.retention, info.compaction.map(|c| c.tombstones));
        let settings = (kept.age, kept.bytes, newest, info.key_versions);
        writeln!(text, "topic {topic}: {settings:?}").expect("text");
        for (partition, place) in (0..).zip(&info.partitions) {
            let all = read_all(engine, topic, partition).await;
            let bodies: Vec<String> = all.iter().map(|(at, body)| short(*at, body)).collect();
            let place = (place.start, place.end);
            writeln!(text, "  {partition} {place:?}: {}", bodies.join(" ")).expect("text");
        }
        let read = ReadKey {
            topic: topic.clone(),
            key: b"k1".to_vec(),
            from: 1,
            limit: 3,
        };
        let keys = lane.read_key(read).await.expect("a key is read");
        let keys: Vec<_> = keys.iter().map(|(v, m)| (*v, m.position())).collect();
        writeln!(text, "  key k1: {keys:?}").expect("text");
    }
    for info in lane.groups().await.expect("groups are listed") {
        let shards: Vec<_> = info
            .shards
            .iter()
            .map(|shard| (shard.committed, shard.lag, shard.parked))
            .collect();
        let rules = (
            info.declared.max_attempts,
            info.declared.max_dead,
            info.declared.gap,
        );
        let why = info.pause.as_ref().map(|pause| pause.reason.clone());
        let (group, topic) = (&info.group, &info.topic);
        writeln!(
            text,
            "group {group} on {topic}: {shards:?} {why:?} {rules:?}"
        )
        .expect("text");
        let dead = lane.dead_letters(group.clone(), topic.clone(), DeadFilter::default(), 0, 100);
        for letter in dead.await.expect("dead letters are listed") {
            let edited = letter.edited.map(|m| short(0, m.record().body()));
            let body = short(
                letter.message.position().offset(),
                letter.message.record().body(),
            );
            let about = (
                letter.number,
                letter.attempts,
                letter.reason,
                letter.history.len(),
            );
            writeln!(text, "  dead {about:?} {body} {edited:?}").expect("text");
        }
    }
    let claim = Claim {
        scope: "billing".into(),
        key: "charge-1".into(),
        holder: "fixture".into(),
        lease: Duration::from_secs(1),
        wait: Duration::ZERO,
        at_most_once: false,
    };
    match engine.claim(claim).await {
        Ok(Claimed::Seen(result)) => writeln!(text, "ledger: {result:?}").expect("text"),
        // A read-only opening claims nothing; what is stored is seen by the other one.
        Err(_) => writeln!(text, "ledger: b\"charged\"").expect("text"),
        other => panic!("the ledger forgot: {other:?}"),
    }
    text
}

fn short(at: u64, body: &[u8]) -> String {
    let start = String::from_utf8_lossy(&body[..body.len().min(12)]);
    format!("{at}:{start}({})", body.len())
}

// ---- writing the one of the present format ----

/// An engine that is driven by hand, in segments so small that a few messages fill some.
struct Author {
    engine: Stepped,
}

impl Author {
    fn on(disk: &Arc<SimDisk>) -> Author {
        let options = Options {
            retention_every: Duration::ZERO,
            segment_bytes: 32 << 10,
            ..Options::default()
        };
        let log = LogOptions {
            segment_bytes: 32 << 10,
            first_segment_bytes: 32 << 10,
            reserve_bytes: 64 << 10,
            spares: 0,
            recycled: 0,
            ..LogOptions::new(0x5eed, 7)
        };
        let engine = Stepped::open(disk.clone(), options, log).expect("an empty disk");
        Author { engine }
    }

    fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            let polled = future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            match polled {
                Poll::Ready(value) => return value,
                Poll::Pending => assert!(self.engine.turn(), "the engine is down"),
            }
        }
    }

    fn lane(&self) -> Arc<dyn Events> {
        let lanes = self.engine.engine().lanes();
        lanes.events.expect("the events lane")
    }

    fn declare(&mut self, topic: &str, change: impl FnOnce(&mut TopicSpec)) {
        let mut spec = TopicSpec::new(name(topic)).partitions(1);
        change(&mut spec);
        let declared = self.lane().declare(spec);
        self.run(declared).expect("a new topic");
    }

    fn put(&mut self, topic: &str, records: Records, dedupe: bool) {
        let append = Append {
            topic: name(topic),
            partition: 0,
            records,
            expected: Expected::Any,
            dedupe,
        };
        let appended = self.lane().append(append);
        self.run(appended).expect("appended");
    }

    fn member(&mut self, change: impl FnOnce(&mut GroupSpec)) -> Consumer {
        let mut spec = GroupSpec::new(name("billing"), name("plain"));
        change(&mut spec);
        let joined = self.lane().join(spec);
        self.run(joined).expect("a member")
    }

    /// The receipts of the next `count` messages, one each.
    fn receipts(&mut self, consumer: &mut Consumer, count: usize) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        while receipts.len() < count {
            match self.run(consumer.next(1, 1 << 20)).expect("a message") {
                Arrival::Run(_, receipt) => receipts.push(receipt),
                Arrival::Each(deliveries) => {
                    receipts.extend(deliveries.into_iter().map(|d| d.receipt))
                }
                _ => {}
            }
        }
        receipts
    }

    fn commit(&mut self, unit: Unit) {
        let committed = self.engine.engine().commit(vec![unit]);
        let outcome = self.run(committed).remove(0);
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    /// Housekeeping until the cleaner has nothing left to do, and a checkpoint.
    fn keep_house(&mut self) {
        self.engine.turn();
        self.engine.keep();
        while self.engine.clean() {}
        self.engine.begin_checkpoint().expect("a checkpoint");
        self.engine.finish_checkpoint().expect("a checkpoint");
    }
}

fn batch(from: u32, count: u32, len: usize) -> Records {
    let mut builder = RecordsBuilder::new(&[]).expect("no attributes");
    for i in from..from + count {
        let key = format!("k{}", i % 4);
        let mut body = format!("message {i} ").into_bytes();
        body.resize(len, b'.');
        let record = NewRecord {
            key: Some(key.as_bytes()),
            body: &body,
            headers: &[("h", b"v")],
            ..NewRecord::default()
        };
        builder.push(record).expect("a small record");
    }
    builder.build()
}

fn fill(author: &mut Author) {
    author.declare("plain", |_| ());
    author.declare("versions", |spec| spec.key_versions = Some(true));
    author.declare("newest", |spec| {
        spec.compaction = Some(Compaction::default())
    });
    author.declare("short", |spec| {
        spec.retention = Some(Retention {
            age: None,
            bytes: Some(8 << 10),
        });
    });
    for round in 0..12 {
        author.put("plain", batch(round * 3, 3, 200), round % 2 == 0);
        author.put("versions", batch(round * 2, 2, 100), false);
        author.put("newest", batch(round * 4, 4, 300), false);
        author.put("short", batch(round * 5, 5, 2_000), false);
    }
}

fn consume(author: &mut Author) {
    let mut consumer = author.member(|spec| spec.max_attempts = 3);
    let mut receipts = author.receipts(&mut consumer, 12).into_iter();
    let mut settle = |author: &mut Author, verdict: Verdict| {
        let receipt = receipts.next().expect("a receipt");
        author.commit(Unit::settle(receipt, verdict));
    };
    let later = |reason: &str| Verdict::Retry {
        after: Duration::from_secs(10 * 365 * 24 * 3600),
        reason: reason.into(),
        counts: true,
    };
    for _ in 0..3 {
        settle(author, Verdict::Done);
    }
    settle(author, later("the bank is closed"));
    for reason in [
        "no such account",
        "card 42 was refused",
        "card 43 was refused",
    ] {
        settle(author, Verdict::Dead(reason.into()));
    }
    settle(author, Verdict::Release);
    settle(author, Verdict::Done);
    drop(consumer);
    author.engine.turn();
    let (group, topic) = (name("billing"), name("plain"));
    let edit = EditDead {
        group: group.clone(),
        topic: topic.clone(),
        number: 0,
        dry_run: false,
        edit: DeadEdit::Put {
            key: None,
            body: Some(b"mended".as_slice().into()),
            headers: None,
        },
    };
    let edited = author.lane().edit_dead(edit);
    author.run(edited).expect("edited");
    let redrive = Redrive::new(group.clone(), topic.clone(), DeadFilter::numbers([1]));
    let redriven = author.lane().redrive(redrive);
    author.run(redriven).expect("redriven");
    let pause = GroupChange {
        pause: Override::Set("while the bank moves".into()),
        ..GroupChange::default()
    };
    let paused = author.lane().alter_group(group, topic, pause);
    author.run(paused).expect("paused");
}

fn remember(author: &mut Author) {
    author.commit(Unit {
        once: Some(Once {
            scope: "billing".into(),
            key: "charge-1".into(),
            claim: None,
            end: OnceEnd::Store {
                result: b"charged".as_slice().into(),
                ttl: Duration::from_secs(100 * 365 * 24 * 3600),
            },
        }),
        ..Unit::default()
    });
}

fn write(to: &Path) {
    assert!(
        !to.exists(),
        "{} is there: it is never changed",
        to.display()
    );
    let disk = Arc::new(SimDisk::plain(64 << 20));
    let mut author = Author::on(&disk);
    fill(&mut author);
    consume(&mut author);
    author.keep_house();
    author.keep_house();
    remember(&mut author);
    // Behind the checkpoint.
    author.put("plain", batch(100, 2, 50), false);
    author.put("newest", batch(100, 2, 50), false);
    author.engine.close();
    std::fs::create_dir_all(to).expect("a directory");
    let mut lengths = String::new();
    let files = disk.list().expect("the files");
    for file in files.into_iter().filter(|file| !file.ends_with(".tmp")) {
        let open = disk.open(&file, Open::Existing).expect("a file");
        let len = open.len().expect("its length");
        let mut bytes = vec![0; len as usize];
        strait_embedded::disk::io::read_exact_at(&*open, &mut bytes, 0).expect("its bytes");
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        std::fs::write(to.join(&file), &bytes[..used]).expect("written");
        writeln!(lengths, "{file} {len}").expect("text");
    }
    assert!(lengths.contains("clean-") && lengths.contains("ext-") && lengths.contains("snap-"));
    std::fs::write(to.join("LENGTHS"), lengths).expect("written");
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    unpack(to, &dir);
    let engine = open(&dir).expect("what was written is whole");
    std::fs::write(to.join("EXPECTED"), block_on(told(&engine))).expect("written");
}
