//! The drill: a disk fills up under a running `strait dev`, and space comes back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Dir;

/// Beside the reserve and what is kept for checkpoints there is room for some 120 MB.
const DISK: &str = "size=160m";
const BODY: usize = 200_000;
const URL: &str = "file:disk/data";

#[test]
fn a_disk_fills_up_and_space_comes_back_without_a_restart() {
    let dir = Dir::new();
    let Some(_mounted) = Mounted::tmpfs(dir.root.path().join("disk")) else {
        eprintln!("skipped: a full disk: mounting a small one takes root");
        return;
    };
    dir.ok(
        &[
            "--url",
            URL,
            "topic",
            "create",
            "orders",
            "--partitions",
            "1",
        ],
        "",
    );
    let mut dev = dir.dev(&["--data", "disk/data", "--alarm", "full_in=1h"]);
    let mut producer = Producer::default();
    // Much more than the reserve, which has to be made again before there is room.
    producer.fill(&dir, "old", 300);
    let acked = producer.fill(&dir, "orders", 1_000);
    assert!(producer.is_refused, "{acked:?} messages in {DISK}");

    dev.wait_for("the disk is full");
    let found = dir.json(&["--url", URL, "describe", "storage", "-o", "json"]);
    assert_eq!(found["facts"]["full_in_seconds"], 0, "{found}");
    let used = found["facts"]["used_bytes"].as_u64().unwrap();
    assert!((100 << 20..=160 << 20).contains(&used), "{found}");
    let text = dir.ok(&["--url", URL, "describe", "storage"], "");
    for said in [
        "waits: the disk is full: sends are refused",
        "next: strait explain disk_full",
        "next: strait topic ls --by size",
    ] {
        assert!(text.contains(said), "{text}");
    }

    // Nothing that was acknowledged is lost, and a group reads and settles it.
    let read = dir.ok(
        &["--url", URL, "consume", "orders", "-g", "billing", "-e"],
        "",
    );
    assert!(numbers(&read) == acked, "{} read", numbers(&read).len());
    let group = dir.json(&["--url", URL, "group", "show", "billing", "-o", "json"]);
    assert_eq!(group["lag"], 0, "{group}");

    dir.ok(&["--url", URL, "topic", "rm", "old", "--yes"], "");
    dev.wait_for("sends go on");
    producer.goes_on(&dir, "orders");

    producer.fill(&dir, "orders", 1_000);
    assert!(producer.is_refused);
    dev.wait_for("the disk is full");
    let keep = ["topic", "alter", "orders", "--keep-bytes", "8MiB", "--yes"];
    dir.ok(&[&["--url", URL][..], &keep].concat(), "");
    dev.wait_for("sends go on");
    producer.goes_on(&dir, "orders");
    dev.stop();
}

/// The numbers that the messages begin with.
fn numbers(messages: &str) -> BTreeSet<u32> {
    let number = |line: &str| -> u32 {
        let message: Value = serde_json::from_str(line).unwrap();
        let body = message["value"].as_str().unwrap();
        body.split(' ').next().unwrap().parse().unwrap()
    };
    messages.lines().map(number).collect()
}

/// Writes numbered messages.
#[derive(Default)]
struct Producer {
    next: u32,
    is_refused: bool,
}

impl Producer {
    /// At most so many, until the first refusal; gives the numbers of those that were acknowledged.
    fn fill(&mut self, dir: &Dir, topic: &str, most: usize) -> BTreeSet<u32> {
        let mut acked = BTreeSet::new();
        while acked.len() < most && !self.is_refused {
            let count = (most - acked.len()).min(10) as u32;
            let mine: Vec<u32> = (self.next..self.next + count).collect();
            self.next += count;
            let body = "x".repeat(BODY);
            let lines = mine.iter().map(|number| format!("{number} {body}\n"));
            let args = ["--url", URL, "produce", topic, "--partitions", "1"];
            let output = dir.run(&args, &lines.collect::<String>());
            let stderr = String::from_utf8(output.stderr).unwrap();
            let mut refused = refused_lines(&stderr);
            self.is_refused = output.status.code() == Some(3);
            assert!(self.is_refused || output.status.success(), "{stderr}");
            if self.is_refused {
                if refused.is_empty() {
                    // It was full before the first line.
                    refused = (1..=mine.len()).collect();
                }
                assert!(
                    stderr.contains("error[busy disk_full]: the disk"),
                    "{stderr}"
                );
                assert_eq!(stderr.matches("strait explain disk_full").count(), 1);
            }
            let acks = String::from_utf8(output.stdout).unwrap().lines().count();
            assert_eq!(acks, mine.len() - refused.len(), "{stderr}");
            let kept = (1..).zip(mine).filter(|(line, _)| !refused.contains(line));
            acked.extend(kept.map(|(_, number)| number));
        }
        acked
    }

    /// One more is taken. What `strait dev` said may be of a moment before, in which there was a little room: then retention is
    /// still to come.
    fn goes_on(&mut self, dir: &Dir, topic: &str) {
        let taken = (0..600).any(|_| {
            self.is_refused = false;
            self.fill(dir, topic, 1).len() == 1
        });
        assert!(taken, "sends do not go on");
    }
}

fn refused_lines(stderr: &str) -> BTreeSet<usize> {
    let number = |line: &str| line.strip_prefix("line ")?.split(':').next()?.parse().ok();
    stderr.lines().filter_map(number).collect()
}

/// A small file system, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: PathBuf) -> Option<Mounted> {
        std::fs::create_dir(&at).unwrap();
        let mount = run("mount", &["-t", "tmpfs", "-o", DISK, "tmpfs"], &at);
        mount.then_some(Mounted(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What a failed test left running keeps it until it ends.
        run("umount", &["-l"], &self.0);
    }
}

fn run(program: &str, args: &[&str], at: &Path) -> bool {
    let output = Command::new(program).args(args).arg(at).output();
    output.is_ok_and(|output| output.status.success())
}
