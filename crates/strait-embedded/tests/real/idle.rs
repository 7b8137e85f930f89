//! An engine that has nothing to do wakes nobody.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use strait_core::Engine;
use strait_core::events::{Retention, TopicSpec};
use strait_embedded::{Embedded, Options};

use crate::support::{append, block_on, child, declare, events, name, open, role};

#[test]
fn an_idle_engine_makes_no_wakeups() {
    let dir = tempfile::tempdir().expect("a directory");
    // In a process of its own: other tests have engines too.
    let status = child("idle::child_that_is_idle", "idle")
        .env("STRAIT_TEST_DIR", dir.path().join("data"))
        .status();
    assert!(
        status.expect("this program again").success(),
        "the child says why"
    );
}

/// Retention looks every so often; without anything new that costs no write.
#[test]
fn a_directory_at_rest_is_not_written_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    let options = Options {
        segment_bytes: 1 << 20,
        retention_every: Duration::from_millis(100),
        ..Options::default()
    };
    let engine = Embedded::open(&dir, options).expect("an empty directory");
    block_on(async {
        let spec = TopicSpec {
            retention: Some(Retention {
                age: Some(Duration::from_millis(1)),
                bytes: None,
            }),
            ..TopicSpec::new(name("short")).partitions(1)
        };
        events(&engine).declare(spec).await.expect("a new topic");
        declare(&engine, "in", 1).await;
        // With an older checkpoint in front of them, segments are not given back by the next one.
        let backup = dir.with_extension("backup");
        engine.backup(backup).await.expect("a backup");
        for _ in 0..60 {
            append(&engine, "in", 0, &[b'x'; 60_000])
                .await
                .expect("appended");
        }
        events(&engine).delete(name("in")).await.expect("deleted");
    });
    let mut before = written(&dir);
    // A checkpoint is taken, as segments hold nothing any more; then ten looks find nothing to do.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_secs(1));
        let now = written(&dir);
        if now == before {
            return;
        }
        before = now;
    }
    panic!("the directory is written to although nothing happens");
}

/// The files and when each was written last.
fn written(dir: &Path) -> Vec<(PathBuf, SystemTime)> {
    let files = std::fs::read_dir(dir).expect("the directory");
    let mut files: Vec<(PathBuf, SystemTime)> = files
        .filter_map(|file| {
            let path = file.ok()?.path();
            let at = path.metadata().ok()?.modified().ok()?;
            Some((path, at))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn child_that_is_idle() {
    let (Some(_), Some(dir)) = (role(), std::env::var_os("STRAIT_TEST_DIR")) else {
        return;
    };
    let engine = open(dir.as_ref()).expect("an empty directory");
    block_on(async {
        declare(&engine, "in", 2).await;
        for _ in 0..100 {
            append(&engine, "in", 0, b"x").await.expect("appended");
        }
    });
    // After the seal, the spare segments and the gauges, which are set within a second, there is nothing left to do.
    let mut before = switches();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(1_500));
        let now = switches();
        if now == before {
            break;
        }
        before = now;
    }
    std::thread::sleep(Duration::from_secs(1));
    let after = switches();
    assert_eq!(before.len(), 2, "the engine's threads: {before:?}");
    assert_eq!(before, after, "context switches of an idle engine");
}

/// Voluntary context switches of the engine's threads, by name.
fn switches() -> Vec<(String, u64)> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let mut found: Vec<(String, u64)> = tasks
        .filter_map(|task| {
            let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name))?;
                Some(line.split_whitespace().nth(1)?.to_owned())
            };
            let name = field("Name:")?;
            let count = field("voluntary_ctxt_switches:")?.parse().ok()?;
            name.starts_with("strait-").then_some((name, count))
        })
        .collect();
    found.sort();
    found
}
