//! `strait mirror` as people run it: real processes, killed in the middle.

// What a test or its helpers cannot unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use support::run::{lines, run, strait};

const PER_ROUND: u64 = 20_000;

fn produce(dir: &Path, from: u64, count: u64) {
    let lines: String = (from..from + count)
        .map(|n| format!("key{}:message number {n}\n", n % 97))
        .collect();
    let args = ["produce", "orders", "-K", ":", "--partitions", "4", "-q"];
    let mut command = strait(dir, &args);
    command.args(["--url", "file:./source"]);
    let produced = run(command, lines.as_bytes());
    assert!(produced.status.success(), "{produced:?}");
}

const SIDES: [&str; 4] = ["--from", "file:./source", "--to", "file:./target"];

fn mirror(dir: &Path, more: &[&str]) -> Command {
    let mut command = strait(dir, &["mirror", "orders"]);
    command.args(SIDES).args(more);
    command
}

#[test]
fn a_mirror_that_is_killed_again_and_again_copies_every_message_once() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    for round in 0..6 {
        produce(dir, round * PER_ROUND, PER_ROUND);
        let mut child = mirror(dir, &["-q"]).stdout(Stdio::null()).spawn().unwrap();
        // No event: the death comes at any time, before the first message too.
        std::thread::sleep(Duration::from_millis(40 + 35 * round));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let ended = run(mirror(dir, &["--once", "--compare", "-o", "jsonl"]), b"");
    assert!(ended.status.success(), "{ended:?}");
    let partitions = lines(&ended);
    assert_eq!(partitions.len(), 4);
    let equal: u64 = partitions
        .iter()
        .map(|p| p["equal"].as_u64().unwrap())
        .sum();
    assert_eq!(equal, 6 * PER_ROUND);
    assert!(partitions.iter().all(|p| p["difference"].is_null()));
}

#[test]
fn groups_move_and_a_difference_is_told_with_exit_code_1() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    produce(dir, 0, 100);
    let consume = [
        "consume", "orders", "-g", "billing", "-n", "60", "-o", "jsonl",
    ];
    let mut command = strait(dir, &consume);
    command.args(["--url", "file:./source"]);
    assert_eq!(lines(&run(command, b"")).len(), 60);

    let moved = run(mirror(dir, &["--once", "--groups", "-o", "jsonl"]), b"");
    assert!(moved.status.success(), "{moved:?}");
    assert_eq!(lines(&moved)[0]["copied"], 100);
    let said = String::from_utf8_lossy(&moved.stderr);
    assert!(
        said.contains("group billing on orders: moved on 4 partitions"),
        "{said}"
    );
    let mut rest = strait(dir, &["group", "show", "billing", "-o", "json"]);
    rest.args(["--url", "file:./target"]);
    let shown = run(rest, b"");
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["lag"], 40, "{shown}");

    produce(dir, 100, 1);
    let compared = run(mirror(dir, &["--compare", "-o", "jsonl"]), b"");
    assert_eq!(compared.status.code(), Some(1), "{compared:?}");
    let differ: Vec<Value> = lines(&compared)
        .into_iter()
        .filter(|p| !p["difference"].is_null())
        .collect();
    assert_eq!(differ.len(), 1);
    let difference = differ[0]["difference"].as_str().unwrap();
    assert!(
        difference.starts_with("the target ends before"),
        "{difference}"
    );
}

#[test]
fn an_export_is_imported_from_a_file_and_from_a_pipe() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    produce(dir, 0, 1000);
    let of_source = |args: &[&str]| {
        let mut command = strait(dir, args);
        command.args(["--url", "file:./source"]);
        run(command, b"")
    };
    let written = of_source(&["export", "orders", "--file", "orders.strait"]);
    assert!(written.status.success(), "{written:?}");
    let again = of_source(&["export", "orders", "--file", "orders.strait"]);
    assert!(
        !again.status.success(),
        "a file that is there is left alone"
    );
    let piped = of_source(&["export", "orders"]);
    assert_eq!(piped.stdout.get(..16), Some(&b"strait export 1\n"[..]));

    let into = |args: &[&str], input: &[u8]| {
        let mut command = strait(dir, args);
        command.args(["--url", "file:./target", "-o", "jsonl"]);
        run(command, input)
    };
    let cut = into(&["import"], &piped.stdout[..piped.stdout.len() / 2]);
    assert_eq!(cut.status.code(), Some(1), "{cut:?}");
    let said = String::from_utf8_lossy(&cut.stderr);
    assert!(
        said.contains("error[corrupt]") && said.contains("ends at byte"),
        "{said}"
    );
    let imported = into(&["import", "orders.strait"], b"");
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(lines(&imported)[0]["total"], 1000);
    let compared = run(mirror(dir, &["--compare"]), b"");
    assert!(compared.status.success(), "{compared:?}");
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let code = |args: &[&str]| run(strait(dir, args), b"").status.code();
    assert_eq!(code(&["mirror", "orders", "--from", "file:./a"]), Some(2));
    assert_eq!(
        code(&["mirror", "--from", "file:./a", "--to", "file:./b"]),
        Some(2)
    );
    let both = ["mirror", "orders", "--from", "file:./a", "--to", "file:./b"];
    assert_eq!(code(&[&both[..], &["--url", "memory:"]].concat()), Some(2));
    assert_eq!(
        code(&[&both[..], &["--compare", "--groups"]].concat()),
        Some(2)
    );
    assert_eq!(code(&both), Some(4), "a source is not made");
    assert!(!dir.join("b").exists(), "nor is its target");
}
