//! Bad input: each a clear error or a documented bound; never a panic, never a hang, nothing lost.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use strait_core::events::{GroupSpec, Retention, Start, TopicSpec};
use strait_core::{
    Arrival, Clock, Consumer, Delivery, Engine, Kind, NewRecord, Outcome, Records, SystemClock,
    Timestamp, Unit, Verdict, codes,
};
use strait_embedded::disk::{OpenError, RealDisk, verify};
use strait_embedded::{Embedded, Options};

use crate::support::{
    append, append_of, block_on, child, declare, events, name, open, read_all, role, skipped,
};

/// A directory with some messages, closed in order.
fn written(dir: &Path) -> usize {
    let engine = open(dir).expect("an empty directory");
    block_on(async {
        declare(&engine, "in", 1).await;
        for i in 0..50u8 {
            append(&engine, "in", 0, &[i; 100]).await.expect("appended");
        }
    });
    50
}

fn data() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    (dir, data)
}

/// The segment files, the oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).expect("the directory");
    let mut found: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    found.sort();
    found
}

#[test]
fn an_empty_directory_and_one_that_does_not_exist_are_new() {
    let (dir, data) = data();
    let engine = open(&data).expect("it is made");
    let mode = fs::metadata(&data)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700, "only its owner reads it");
    drop(engine);
    fs::create_dir(dir.path().join("empty")).expect("made");
    open(&dir.path().join("empty")).expect("it is empty");
}

#[test]
fn a_directory_without_permission_is_denied() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    fs::create_dir(&data).expect("made");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o500)).expect("ours");
    if open(&data).is_err_and(|error| error.kind() == Kind::Denied) {
        return;
    }
    // Root may everything: somebody else tries.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("ours");
    let tried = child("bad_input::child_without_permission", "denied")
        .env("STRAIT_TEST_DIR", &data)
        .uid(65_534)
        .output();
    match tried {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        ),
        Err(why) => skipped(&format!("a directory without permission: {why}")),
    }
}

#[test]
fn child_without_permission() {
    if role().as_deref() != Some("denied") {
        return;
    }
    let dir = std::env::var_os("STRAIT_TEST_DIR").expect("set by the parent");
    let error = open(dir.as_ref()).expect_err("it belongs to root");
    assert_eq!(error.kind(), Kind::Denied, "{error:?}");
}

#[test]
fn a_file_in_place_of_the_directory_is_refused() {
    let (_dir, data) = data();
    fs::write(&data, b"no directory").expect("written");
    let error = open(&data).expect_err("it is a file");
    assert_eq!(error.kind(), Kind::Config, "{error:?}");
    assert_eq!(fs::read(&data).expect("as it was"), b"no directory");
}

#[test]
fn a_foreign_file_is_named() {
    let (_dir, data) = data();
    written(&data);
    fs::write(data.join("holiday.jpg"), b"sun").expect("written");
    let error = open(&data).expect_err("not ours");
    assert!(error.is(codes::FOREIGN_FILE), "{error:?}");
    assert!(error.to_string().contains("holiday.jpg"), "{error}");
}

#[test]
fn a_newer_format_is_refused_by_name() {
    for (file, at) in [("IDENTITY", 8), ("segment", 8)] {
        let (_dir, data) = data();
        written(&data);
        let path = match file {
            "segment" => segments(&data).remove(0),
            file => data.join(file),
        };
        patch(&path, at, &99u32.to_le_bytes());
        let error = open(&data).expect_err("format 99");
        assert!(error.is(codes::UNKNOWN_FORMAT), "{file}: {error:?}");
        assert!(error.to_string().contains("99"), "{error}");
    }
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("a file of ours");
    file.write_all_at(bytes, at).expect("written");
}

#[test]
fn a_flipped_byte_in_the_middle_is_found_and_nothing_is_skipped() {
    let (_dir, data) = data();
    written(&data);
    let path = segments(&data).remove(0);
    let bytes = fs::read(&path).expect("a file of ours");
    let at = (0..bytes.len())
        .find(|at| bytes[*at..].starts_with(&[20; 100]))
        .expect("the message");
    patch(&path, at as u64 + 7, &[21]);
    let error = open(&data).expect_err("damaged");
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    let file = path
        .file_name()
        .expect("a file")
        .to_string_lossy()
        .into_owned();
    assert!(error.to_string().contains(&file), "{error}");
    assert!(
        error.context().iter().any(|(what, _)| *what == "offset"),
        "{error}"
    );
    let report = verify(&RealDisk::open(&data).expect("a disk")).expect("it can be read");
    let named =
        |fault: &OpenError| matches!(fault, OpenError::Corrupt { file: f, .. } if *f == file);
    assert!(report.faults.iter().any(named), "{:?}", report.faults);
    // Repaired by hand it is whole: the refusal changed nothing.
    patch(&path, at as u64 + 7, &[20]);
    let engine = open(&data).expect("whole again");
    assert_eq!(block_on(read_all(&engine, "in", 0)).len(), 50);
}

#[test]
fn a_torn_tail_is_cut_and_reported() {
    let (_dir, data) = data();
    let count = written(&data);
    // The beginning of a group that was never finished stands behind the last one.
    let (path, end, salt) = end_of_log(&data);
    let mut torn = b"STGR".to_vec();
    torn.extend_from_slice(&4096u32.to_le_bytes());
    torn.extend_from_slice(&salt);
    torn.extend_from_slice(&[0; 8]);
    patch(&path, end, &torn);
    let engine = open(&data).expect("a torn tail is no damage");
    let warnings = &engine.opened().warnings;
    let file = path
        .file_name()
        .expect("a file")
        .to_string_lossy()
        .into_owned();
    assert!(
        warnings
            .iter()
            .any(|text| text.contains("torn") && text.contains(&file)),
        "{warnings:?}"
    );
    block_on(async {
        assert_eq!(read_all(&engine, "in", 0).await.len(), count);
        append(&engine, "in", 0, b"x").await.expect("it goes on");
    });
    drop(engine);
    let engine = open(&data).expect("it opens");
    assert!(
        engine.opened().warnings.is_empty(),
        "reported once: {:?}",
        engine.opened().warnings
    );
    assert_eq!(block_on(read_all(&engine, "in", 0)).len(), count + 1);
}

/// The segment with the last group, the byte behind that, and the salt of its use.
fn end_of_log(dir: &Path) -> (PathBuf, u64, [u8; 8]) {
    let mut found = None;
    for path in segments(dir) {
        let bytes = fs::read(&path).expect("a file of ours");
        let mut at = 4096;
        let mut salt = None;
        while bytes.get(at..at + 4) == Some(b"STGR") {
            let len = bytes[at + 4..at + 8]
                .first_chunk::<4>()
                .copied()
                .expect("4 bytes");
            salt = bytes[at + 8..at + 16].first_chunk::<8>().copied();
            at += u32::from_le_bytes(len) as usize;
        }
        if let Some(salt) = salt {
            found = Some((path, at as u64, salt));
        }
    }
    found.expect("a log")
}

#[test]
fn a_second_process_is_told_who_has_the_directory() {
    let (_dir, data) = data();
    let mut holder = child("bad_input::child_that_holds_the_lock", "holder")
        .env("STRAIT_TEST_DIR", &data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program again");
    let mut said = String::new();
    let out = holder.stdout.as_mut().expect("a pipe");
    while !said.contains("open\n") {
        let mut byte = [0];
        assert_eq!(
            out.read(&mut byte).expect("a pipe"),
            1,
            "the child ended: {said}"
        );
        said.push(byte[0] as char);
    }
    let error = open(&data).expect_err("it is held");
    assert!(error.is(codes::LOCKED), "{error:?}");
    let pid = error.context().iter().find(|(what, _)| *what == "pid");
    assert_eq!(
        pid.map(|(_, pid)| pid.as_str()),
        Some(&*holder.id().to_string())
    );
    drop(holder.stdin.take());
    assert!(holder.wait().expect("it ends").success());
    open(&data).expect("it is free");
}

#[test]
fn child_that_holds_the_lock() {
    if role().as_deref() != Some("holder") {
        return;
    }
    let dir = std::env::var_os("STRAIT_TEST_DIR").expect("set by the parent");
    let engine = open(dir.as_ref()).expect("it is free");
    writeln!(std::io::stdout(), "open").expect("a pipe");
    // Until the parent lets go.
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("a pipe");
    drop(engine);
}

#[test]
fn messages_over_the_limits_and_odd_ones_are_refused_by_name() {
    let (_dir, data) = data();
    let engine = open(&data).expect("an empty directory");
    block_on(async {
        declare(&engine, "in", 1).await;
        let record = NewRecord {
            body: &[0; (1 << 20) + 1],
            ..NewRecord::default()
        };
        let error = Records::one(&[], record).expect_err("over 1 MiB");
        assert!(error.is(codes::TOO_LARGE), "{error:?}");
        let too_long = oversized();
        let append = strait_core::events::Append {
            records: too_long,
            ..append_of("in", 0, b"")
        };
        let error = events(&engine)
            .append(append)
            .await
            .expect_err("over the engine's limit");
        assert!(
            error.is(codes::TOO_LARGE) && error.kind() == Kind::Rejected,
            "{error:?}"
        );
        for header in ["a\r\nb", "a\nb", ""] {
            let record = NewRecord {
                headers: &[(header, b"v")],
                ..NewRecord::default()
            };
            assert!(
                Records::one(&[], record).is_err_and(|error| error.is(codes::BAD_HEADER)),
                "{header:?}"
            );
        }
        for odd in ["", "a b", "..", "ümlaut", "a/b", &"x".repeat(250)] {
            assert!(
                odd.parse::<strait_core::Name>()
                    .is_err_and(|error| error.is(codes::BAD_NAME)),
                "{odd:?}"
            );
        }
        let error = append_to_partition(&engine, 7).await;
        assert_eq!(error.kind(), Kind::Rejected, "{error:?}");
        let spec = TopicSpec::new(name("none")).partitions(0);
        let error = events(&engine)
            .declare(spec)
            .await
            .expect_err("0 partitions");
        assert_eq!(error.kind(), Kind::Rejected, "{error:?}");
        let spec = TopicSpec::new(name("many")).partitions(u32::MAX);
        let error = events(&engine)
            .declare(spec)
            .await
            .expect_err("too many partitions");
        assert_eq!(error.kind(), Kind::Rejected, "{error:?}");
        let empty = strait_core::RecordsBuilder::new(&[])
            .expect("a builder")
            .build();
        let append = strait_core::events::Append {
            records: empty,
            ..append_of("in", 0, b"")
        };
        let error = events(&engine)
            .append(append)
            .await
            .expect_err("no records");
        assert_eq!(error.kind(), Kind::Rejected, "{error:?}");
        assert!(
            read_all(&engine, "in", 0).await.is_empty(),
            "nothing of it was taken"
        );
    });
}

async fn append_to_partition(engine: &Embedded, partition: u32) -> strait_core::Error {
    append(engine, "in", partition, b"x")
        .await
        .expect_err("there is no such partition")
}

/// A batch that a producer with other limits made.
fn oversized() -> Records {
    let limits = strait_core::Limits {
        body: 4 << 20,
        ..strait_core::Limits::default()
    };
    let mut builder =
        strait_core::RecordsBuilder::with(&[], limits, Timestamp::now(), 1).expect("a builder");
    let record = NewRecord {
        body: &vec![0; 3 << 20],
        ..NewRecord::default()
    };
    builder.push(record).expect("within its limits");
    builder.build()
}

#[test]
fn times_before_1970_are_kept_and_found() {
    let (_dir, data) = data();
    let times = [-62_135_596_800_000, -1, 0, 1_700_000_000_000];
    let check = |engine: &Arc<Embedded>| {
        block_on(async {
            for (offset, time) in (0..).zip(times) {
                let start = Start::Time(Timestamp::from_millis(time));
                let found = events(engine)
                    .locate(name("in"), 0, start)
                    .await
                    .expect("found");
                assert_eq!(found.offset(), offset, "{time}");
            }
        });
    };
    let engine = open(&data).expect("an empty directory");
    block_on(async {
        declare(&engine, "in", 1).await;
        for time in times {
            let record = NewRecord {
                time: Some(Timestamp::from_millis(time)),
                ..NewRecord::default()
            };
            let append = strait_core::events::Append {
                records: Records::one(&[], record).expect("any time"),
                ..append_of("in", 0, b"")
            };
            events(&engine).append(append).await.expect("appended");
        }
    });
    check(&engine);
    drop(engine);
    check(&open(&data).expect("it opens"));
}

/// The next message, as a single delivery.
async fn next(consumer: &mut Consumer) -> Delivery {
    loop {
        let arrival = tokio::time::timeout(Duration::from_secs(60), consumer.next(1, 1 << 20));
        match arrival.await.expect("it comes").expect("an arrival") {
            Arrival::Run(chunk, receipt) => {
                return Delivery {
                    message: chunk.iter().next().expect("one").to_message(),
                    attempt: 1,
                    last_error: None,
                    receipt,
                };
            }
            Arrival::Each(mut each) => return each.remove(0),
            _ => {}
        }
    }
}

async fn settle(engine: &Embedded, delivery: Delivery, verdict: Verdict) {
    let unit = Unit::settle(delivery.receipt, verdict);
    let outcome = engine.commit(vec![unit]).await.pop();
    assert!(matches!(outcome, Some(Outcome::Applied(_))), "{outcome:?}");
}

fn retry(after: Duration) -> Verdict {
    Verdict::Retry {
        after,
        reason: "not now".into(),
        counts: true,
    }
}

#[test]
fn a_key_of_64_kib_is_a_key_and_a_longer_one_is_refused() {
    let (_dir, data) = data();
    let engine = open(&data).expect("an empty directory");
    let key = vec![b'k'; 64 << 10];
    let of = |key: &[u8]| {
        Records::one(
            &[],
            NewRecord {
                key: Some(key),
                body: b"a body",
                ..NewRecord::default()
            },
        )
    };
    let error = of(&[&key[..], b"k"].concat()).expect_err("a byte too long");
    assert!(error.is(codes::TOO_LARGE), "{error:?}");
    block_on(async {
        declare(&engine, "in", 1).await;
        for _ in 0..2 {
            let append = strait_core::events::Append {
                records: of(&key).expect("at the limit"),
                ..append_of("in", 0, b"")
            };
            events(&engine).append(append).await.expect("appended");
        }
        let spec = GroupSpec {
            gap: 1,
            ..GroupSpec::new(name("group"), name("in"))
        };
        let mut consumer = events(&engine).join(spec).await.expect("a member");
        let first = next(&mut consumer).await;
        settle(&engine, first, retry(Duration::from_millis(50))).await;
        let info = events(&engine).group(name("group"), name("in")).await;
        let waits = info.expect("the group").shards[0].waits.clone();
        let Some(strait_core::events::Waits::Gap(stuck)) = waits else {
            panic!("it stands at its gap: {waits:?}");
        };
        assert_eq!(stuck.key.as_deref(), Some(&key[..]));
        for _ in 0..2 {
            let again = next(&mut consumer).await;
            assert_eq!(again.message.record().key(), Some(&key[..]));
            settle(&engine, again, Verdict::Done).await;
        }
    });
}

/// The clock of the system, set back by so many milliseconds.
#[derive(Debug)]
struct SetBack(SystemClock, AtomicI64);

impl Clock for SetBack {
    fn now(&self) -> Timestamp {
        let back = self.1.load(Ordering::Relaxed);
        Timestamp::from_millis(self.0.now().as_millis() - back)
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

#[test]
fn a_clock_set_back_a_day_holds_no_message_back_for_a_day() {
    const DAY: i64 = 24 * 60 * 60 * 1000;
    let (_dir, data) = data();
    let clock = Arc::new(SetBack(SystemClock::new(), AtomicI64::new(0)));
    let options = || Options {
        clock: clock.clone(),
        ..Options::default()
    };
    let open = || Embedded::open(&data, options()).expect("a directory");
    let spec = || GroupSpec {
        lease: Duration::from_millis(500),
        ..GroupSpec::new(name("group"), name("in"))
    };
    block_on(async {
        let engine = open();
        let mut topic = TopicSpec::new(name("in")).partitions(1);
        topic.retention = Some(Retention {
            age: Some(Duration::from_secs(3600)),
            bytes: None,
        });
        events(&engine).declare(topic).await.expect("declared");
        append(&engine, "in", 0, b"one").await.expect("appended");
        let mut consumer = events(&engine).join(spec()).await.expect("a member");
        let first = next(&mut consumer).await;
        // While it is open.
        clock.1.store(DAY, Ordering::Relaxed);
        settle(&engine, first, retry(Duration::from_millis(300))).await;
        let again = next(&mut consumer).await;
        assert_eq!(again.attempt, 2);
        settle(&engine, again, retry(Duration::from_millis(300))).await;
        drop(consumer);
        engine.close(Duration::from_secs(10)).await;
    });
    // And between two openings.
    clock.1.store(2 * DAY, Ordering::Relaxed);
    block_on(async {
        let engine = open();
        let mut consumer = events(&engine).join(spec()).await.expect("a member");
        let again = next(&mut consumer).await;
        assert_eq!(again.attempt, 3);
        // Its lease runs out by the clock that nobody sets.
        std::mem::forget(again);
        let lost = next(&mut consumer).await;
        assert_eq!(lost.attempt, 4);
        settle(&engine, lost, Verdict::Done).await;
        append(&engine, "in", 0, b"two").await.expect("appended");
        let two = next(&mut consumer).await;
        settle(&engine, two, Verdict::Done).await;
        assert_eq!(read_all(&engine, "in", 0).await.len(), 2);
    });
}

#[test]
fn a_retention_of_nothing_takes_nothing_from_a_group_that_waits() {
    let (_dir, data) = data();
    let engine = open(&data).expect("an empty directory");
    block_on(async {
        let mut topic = TopicSpec::new(name("in")).partitions(1);
        topic.retention = Some(Retention {
            age: Some(Duration::ZERO),
            bytes: Some(0),
        });
        events(&engine).declare(topic).await.expect("declared");
        let spec = GroupSpec::new(name("group"), name("in"));
        let mut consumer = events(&engine).join(spec).await.expect("a member");
        append(&engine, "in", 0, b"parked").await.expect("appended");
        let parked = next(&mut consumer).await;
        settle(&engine, parked, retry(Duration::from_millis(200))).await;
        for body in [b"a", b"b", b"c"] {
            append(&engine, "in", 0, body).await.expect("appended");
        }
        let mut bodies = Vec::new();
        while bodies.len() < 4 {
            let delivery = next(&mut consumer).await;
            bodies.push(delivery.message.record().body().to_vec());
            settle(&engine, delivery, Verdict::Done).await;
        }
        bodies.sort();
        assert_eq!(bodies, [&b"a"[..], b"b", b"c", b"parked"]);
    });
}
