//! Programs of other projects, each a process, beside the command: they write what it reads and read what it writes.

// What a test or its helpers cannot unwrap is a failed test.
#![allow(clippy::unwrap_used)]
#![cfg(any(feature = "kafka", feature = "redis"))]

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "redis")]
mod redis;

use std::ffi::OsStr;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use support::run::{lines, run, strait};
use tempfile::TempDir;

/// A name that no other test uses: servers are shared.
fn unique(what: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    format!("{what}-{}-{since}-{number}", std::process::id())
}

/// Runs a program to its end, which must be a good one.
fn good(command: Command, input: &[u8]) -> Output {
    let output = run(command, input);
    assert!(
        output.status.success(),
        "{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Our command on a server, with what it prints.
fn ours(url: &str, args: &[&str], input: &[u8]) -> Vec<Value> {
    let dir = TempDir::new().unwrap();
    let mut command = strait(dir.path(), args);
    command.args(["--url", url, "-o", "jsonl"]);
    lines(&good(command, input))
}

/// All of a topic, as our command prints it.
fn consumed(url: &str, topic: &str) -> Vec<Value> {
    ours(url, &["consume", topic, "-e"], b"")
}

/// A Python program beside this file.
fn python(packages: impl AsRef<OsStr>, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg(here(program)).args(args);
    command
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn here(file: &str) -> String {
    format!("{}/tests/counterparties/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// Bytes as the programs print them.
fn hex(text: &str) -> Value {
    let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    digits.into()
}
