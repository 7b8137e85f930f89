//! An engine that has nothing to do wakes nobody.

use std::time::Duration;

use crate::support::{append, block_on, child, declare, open, role};

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
