//! What an operator asks of a directory: its files, its format, the manual.

// What a test or its helpers cannot unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod full_disk;
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A configuration is held against the engines that it names, without making what is not there.
#[test]
fn config_check_says_what_is_there() {
    let dir = Dir::new();
    let write = |text: &str| std::fs::write(dir.root.path().join("strait.toml"), text).unwrap();
    write(
        "url = \"memory:\"\n[engines]\nold = \"file:./strait-data\"\n[topics]\n\"old.*\" = \"old\"\n",
    );
    let found = dir.json(&["config", "check", "-o", "json"]);
    assert_eq!(found["engines"][0]["state"], "up");
    assert_eq!(found["engines"][1]["state"], "absent");
    assert!(!dir.data().exists(), "it made the directory");
    dir.ok(&["produce", "old.orders"], "one\n");
    // A command does not guess which of the engines is meant.
    let failed = dir.run(&["produce", "old.orders", "--url", "strait.toml"], "two\n");
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(
        !failed.status.success() && said.contains("several engines"),
        "{said}"
    );
    let found = dir.json(&["config", "check", "-o", "json"]);
    assert_eq!(found["engines"][1]["durability"], "fsync");
    assert_eq!(found["topics"][0]["found"], 1);
    std::fs::write(dir.data().join("IDENTITY"), "no identity").unwrap();
    let failed = dir.run(&["config", "check", "-o", "json"], "");
    assert!(!failed.status.success());
    let found: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(found["engines"][0]["state"], "up");
    assert_eq!(found["engines"][1]["state"], "failed");
    write("url = \"memory:\"\n[topics]\norders = \"broker\"\n");
    let failed = dir.run(&["config", "check"], "");
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(
        said.contains("`broker`") && said.contains("[engines]"),
        "{said}"
    );
}

#[test]
fn inspect_shows_what_the_files_recover_to() {
    let dir = Dir::new();
    dir.ok(
        &["produce", "orders", "--partitions", "2"],
        "one\ntwo\nthree\n",
    );
    dir.ok(&["consume", "orders", "-g", "billing", "-e", "-n", "1"], "");
    let found = dir.json(&["inspect", "--offline", "-o", "json"]);
    assert_eq!(found["format"], 1);
    assert_eq!(found["identity"].as_str().unwrap().len(), 32);
    assert_eq!(found["topics"][0]["topic"], "orders");
    assert_eq!(found["topics"][0]["messages"], 3);
    assert_eq!(found["groups"][0]["group"], "billing");
    assert_eq!(found["groups"][0]["lag"], 2);
    let kinds: Vec<&str> = found["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["kind"].as_str().unwrap())
        .collect();
    assert!(
        kinds.contains(&"segment") && kinds.contains(&"identity"),
        "{kinds:?}"
    );
    assert!(!kinds.contains(&"foreign"), "{kinds:?}");

    let before = dir.contents();
    let text = dir.ok(&["inspect", "--offline"], "");
    assert!(
        text.contains("last sequence") && text.contains("billing"),
        "{text}"
    );
    assert_eq!(dir.contents(), before, "not a byte was changed");
}

#[test]
fn a_format_that_is_not_known_is_refused_by_name() {
    let dir = Dir::new();
    dir.ok(&["produce", "orders"], "one\n");
    let data = dir.data();
    let name = data.to_str().unwrap();
    let done = dir.json(&["upgrade", name, "--dry-run", "-o", "json"]);
    assert_eq!(
        (&done["format"], &done["changes"]),
        (&1.into(), &false.into())
    );
    assert!(dir.ok(&["upgrade"], "").contains("nothing to do"));

    let segment = dir.file("log-");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[8] = 2;
    std::fs::write(&segment, &bytes).unwrap();
    let file = segment.file_name().unwrap().to_str().unwrap().to_owned();
    for args in [&["upgrade", name][..], &["inspect", "--offline", name]] {
        let refused = dir.run(args, "");
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("error[config unknown_format]"), "{stderr}");
        assert!(
            stderr.contains(&file) && stderr.contains("format 2"),
            "{stderr}"
        );
    }
    assert_eq!(
        std::fs::read(&segment).unwrap(),
        bytes,
        "nothing was changed"
    );
}

#[test]
fn upgrade_and_inspect_refuse_what_is_no_data_directory() {
    let dir = Dir::new();
    let empty = dir.root.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    for args in [
        &["upgrade", empty][..],
        &["inspect", "--offline", empty],
        &["upgrade", "absent"],
        &["inspect", "--offline", "absent"],
    ] {
        assert_eq!(dir.run(args, "").status.code(), Some(4), "{args:?}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let dir = Dir::new();
    let man = dir.root.path().join("man/man1");
    let man = man.to_str().unwrap();
    let written = dir.json(&["man", "--dir", man, "-o", "json"]);
    let pages = written["pages"].as_array().unwrap();
    assert!(pages.contains(&"strait.1".into()), "{pages:?}");
    assert_eq!(std::fs::read_dir(man).unwrap().count(), pages.len());
    let page = dir.ok(&["man", "topic", "create"], "");
    assert!(page.contains(".TH strait-topic-create 1"), "{page}");
    assert_eq!(
        dir.run(&["man", "topic", "sing"], "").status.code(),
        Some(2)
    );
}

#[test]
fn describe_says_what_is_stored_where_and_why_it_waits() {
    let dir = Dir::new();
    dir.ok(
        &["produce", "orders", "--partitions", "1", "-k", "ada"],
        "one\ntwo\n",
    );
    dir.ok(&["consume", "orders", "-g", "billing", "-e", "-n", "1"], "");
    let waits = |found: &Value| {
        let waits = found["waits"].as_array().unwrap().iter();
        let waits: Vec<&str> = waits.map(|why| why.as_str().unwrap()).collect();
        waits.join("; ")
    };

    let topic = dir.json(&["describe", "topic/orders", "-o", "json"]);
    assert_eq!(topic["object"], "topic/orders");
    assert_eq!(topic["facts"]["messages"], 2);
    assert!(
        waits(&topic).contains("billing on orders/0: no member reads it"),
        "{topic}"
    );

    let offset = dir.json(&["describe", "offset/orders/0/1", "-o", "json"]);
    assert_eq!(offset["facts"]["stored"], true);
    assert_eq!(offset["facts"]["key"], "ada");
    assert_eq!(offset["facts"]["body_bytes"], 3);
    let place = &offset["facts"]["place"];
    let file = dir.data().join(place["file"].as_str().unwrap());
    let (at, length) = (
        place["byte"].as_u64().unwrap(),
        place["bytes"].as_u64().unwrap(),
    );
    let bytes = std::fs::read(file).unwrap();
    let batch = &bytes[at as usize..(at + length) as usize];
    assert!(
        batch.windows(3).any(|part| part == b"two"),
        "the batch lies there"
    );
    assert!(
        waits(&offset).contains("billing: it was not handed out yet"),
        "{offset}"
    );
    let settled = dir.json(&["describe", "offset/orders/0/0", "-o", "json"]);
    assert_eq!(settled["facts"]["settled_by"][0], "billing", "{settled}");
    let absent = dir.json(&["describe", "offset/orders/0/99", "-o", "json"]);
    assert!(waits(&absent).contains("not written yet"), "{absent}");

    let group = dir.json(&["describe", "group/billing@orders", "-o", "json"]);
    assert_eq!(group["facts"]["lag"], 1);
    assert!(waits(&group).contains("no member reads it"), "{group}");
    let partition = dir.json(&["describe", "topic/orders/0", "-o", "json"]);
    assert_eq!(partition["facts"]["end"], 2);
    let key = dir.json(&["describe", "key/ada@orders", "-o", "json"]);
    assert_eq!(key["facts"]["version"], 2);
    assert!(
        waits(&key).contains("billing: offset 1 was not handed out"),
        "{key}"
    );
    let text = dir.ok(&["describe", "group/billing"], "");
    assert!(
        text.contains("waits: billing on orders/0") && text.contains("next: "),
        "{text}"
    );

    for (object, code) in [
        ("topic/absent", 4),
        ("topic/orders/9", 4),
        ("group/absent", 4),
        ("key/eve@orders", 4),
        ("offset/orders/9/0", 4),
        ("segment/1", 2),
    ] {
        let refused = dir.run(&["describe", object], "");
        assert_eq!(refused.status.code(), Some(code), "{object}");
    }
}

#[test]
fn dev_tells_when_a_limit_is_passed_and_refuses_an_alarm_for_nobody() {
    let dir = Dir::new();
    dir.ok(&["produce", "orders", "--partitions", "1"], "one\ntwo\n");
    dir.ok(&["consume", "orders", "-g", "billing", "-e", "-n", "1"], "");
    for args in [
        &["dev", "--alarm", "size=1"][..],
        &["dev", "--alarm-run", "page"],
        &["dev", "--alarm", "lag=1", "--alarm-run", " "],
        &[
            "dev",
            "--alarm",
            "lag=1",
            "--alarm-post",
            "http://10.1.1.1/",
        ],
    ] {
        assert_eq!(dir.run(args, "").status.code(), Some(2), "{args:?}");
    }
    let alarm = ["--alarm", "lag=0,group=billing", "--alarm-every", "50ms"];
    let mut dev = dir.dev(&alarm);
    dev.wait_for("billing on orders: lag 1 is over 0");
    dir.ok(&["consume", "orders", "-g", "billing", "-e"], "");
    dev.wait_for("billing on orders: lag 0 is within 0 again");
    dev.stop();
}

/// The one who owns the directory goes on working; what is restored is checked, and nothing is written over.
#[test]
fn a_backup_is_taken_of_a_directory_in_use_and_restored() {
    let dir = Dir::new();
    dir.ok(&["produce", "orders", "--partitions", "1"], "one\ntwo\n");
    let dev = dir.dev(&[]);
    let taken = dir.json(&["backup", "monday", "-o", "json"]);
    dir.ok(&["produce", "orders"], "three\n");
    dev.stop();
    assert!(taken["sequence"].as_u64().unwrap() > 0, "{taken}");
    assert_eq!(dir.run(&["backup", "monday"], "").status.code(), Some(5));
    let looked = dir.ok(&["restore", "monday", "again", "--dry-run"], "");
    assert!(looked.contains("nothing was written"), "{looked}");
    assert!(!dir.root.path().join("again").exists());
    let made = dir.json(&["restore", "monday", "again", "-o", "json"]);
    assert_eq!(made["sequence"], taken["sequence"]);
    for more in [&["--dry-run"][..], &[]] {
        let args = [&["restore", "monday", "again"][..], more].concat();
        assert_eq!(dir.run(&args, "").status.code(), Some(5), "{more:?}");
    }
    let read = ["consume", "orders", "-O", "start", "-e"];
    let again = [&read[..], &["--url", "file:again"]].concat();
    assert_eq!(dir.ok(&again, "").lines().count(), 2);
    assert_eq!(dir.ok(&read, "").lines().count(), 3);
    let backup = dir.run(&["topic", "ls", "--url", "file:monday"], "");
    let stderr = String::from_utf8_lossy(&backup.stderr);
    assert!(stderr.contains("is_backup"), "{stderr}");
}

/// A plan is shown only of what would be done: refused is the same, in the same words.
#[test]
fn a_dry_run_refuses_what_would_be_refused() {
    let dir = Dir::new();
    dir.ok(&["produce", "orders", "--partitions", "1"], "one\ntwo\n");
    dir.ok(&["consume", "orders", "-g", "billing", "-e"], "");
    dir.ok(&["topic", "create", "accounts", "--key-versions"], "");
    dir.ok(&["backup", "monday"], "");
    let file = dir.root.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    dir.ok(&["produce", "orders"], "three\n");
    let aside = ["group", "skip", "billing", "orders", "0", "2"];
    dir.ok(&[&aside[..], &["--reason", "no", "--yes"]].concat(), "");
    std::fs::write(dir.root.path().join("large"), vec![b'x'; 16 << 20]).unwrap();
    let mut live = dir.start(&["consume", "orders", "-g", "live"]);
    live.wait_for("one");
    let long = "x".repeat(1_001);
    let before = dir.ok(&["group", "ls"], "");
    for (args, code) in [
        (
            &[
                "group", "skip", "billing", "orders", "0", "1", "--reason", "no",
            ][..],
            5,
        ),
        (
            &[
                "group", "skip", "billing", "orders", "0", "9", "--reason", "no",
            ],
            4,
        ),
        (&["group", "alter", "billing", "--gap", "0"], 2),
        (&["group", "alter", "billing", "--max-attempts", "0"], 2),
        (&["topic", "alter", "accounts", "--compact"], 2),
        (
            &[
                "group", "skip", "billing", "orders", "7", "0", "--reason", "no",
            ],
            1,
        ),
        (
            &[
                "group", "skip", "billing", "orders", "0", "0", "--reason", " ",
            ],
            2,
        ),
        (
            &[
                "group", "skip", "billing", "accounts", "0", "0", "--reason", "no",
            ],
            4,
        ),
        (&["group", "pause", "billing", "--reason", ""], 2),
        (&["group", "pause", "billing", "--reason", &long], 2),
        (&["group", "pause", "bilking", "--reason", "no"], 4),
        (&["group", "seek", "live", "--to", "start"], 5),
        (&["group", "seek", "billing", "--to", "start", "-p", "7"], 2),
        (&["group", "rm", "live"], 5),
        (&["group", "rm", "billing", "--topic", "accounts"], 4),
        (&["topic", "alter", "accounts", "--partitions", "1"], 2),
        (&["topic", "alter", "accounts", "--partitions", "10001"], 2),
        (&["topic", "rm", "order"], 4),
        (&["dlq", "rm", "billing", "3"], 4),
        (&["dlq", "redrive", "billing", "3"], 4),
        (&["dlq", "redrive", "billing"], 2),
        (&["dlq", "undo", "billing", "1"], 4),
        (&["dlq", "edit", "billing", "3", "--body", "x"], 4),
        (&["dlq", "edit", "billing", "0", "--body", "@large"], 1),
        (&["restore", "sunday", "again"], 4),
        (&["restore", "file", "again"], 2),
        (&["restore", "strait-data", "again"], 1),
        (&["restore", "monday", "file"], 2),
        (&["restore", "monday", "file/again"], 2),
        (&["restore", "monday", "monday"], 5),
        (&["upgrade", "file"], 2),
    ] {
        let refusal = |how: &str| {
            let refused = dir.run(&[args, &[how]].concat(), "");
            let stderr = String::from_utf8(refused.stderr).unwrap();
            assert_eq!(
                refused.status.code(),
                Some(code),
                "{args:?} {how}: {stderr}"
            );
            // clap repeats the options that were given.
            stderr.replace(how, "")
        };
        assert_eq!(refusal("--dry-run"), refusal("--yes"), "{args:?}");
    }
    assert_eq!(dir.ok(&["group", "ls"], ""), before);
    assert!(!dir.root.path().join("again").exists());
}

#[test]
fn what_is_no_data_directory_has_nothing_to_verify() {
    let dir = Dir::new();
    let empty = dir.root.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(empty.join("notes.txt"), "of somebody else").unwrap();
    let refused = dir.run(&["verify", empty.to_str().unwrap()], "");
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("there is no log in it"), "{stderr}");
}

/// No test runs a command for longer.
const LONGEST: Duration = Duration::from_secs(300);

/// A command that goes on until it is stopped.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    _limit: mpsc::Sender<()>,
}

impl Running {
    /// Waits for a line that holds this.
    fn wait_for(&mut self, wanted: &str) {
        let mut lines = self.lines.by_ref().map(Result::unwrap);
        let found = lines.any(|line| line.contains(wanted));
        assert!(found, "it ended without `{wanted}`");
    }

    /// Ctrl-C.
    fn stop(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    /// A test that fails leaves nothing running.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of a test's own, and the program in it.
struct Dir {
    root: TempDir,
}

impl Dir {
    fn new() -> Self {
        Dir {
            root: tempfile::tempdir().unwrap(),
        }
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("strait-data")
    }

    /// The first file of the data directory whose name begins so.
    fn file(&self, prefix: &str) -> PathBuf {
        let names = self.contents().into_iter().map(|(path, _)| path);
        names
            .into_iter()
            .find(|path| {
                path.file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with(prefix)
            })
            .unwrap()
    }

    fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = std::fs::read_dir(self.data()).unwrap();
        let mut files: Vec<(PathBuf, Vec<u8>)> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
            .collect();
        files.sort();
        files
    }

    fn run(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_strait"))
            .args(args)
            .current_dir(self.root.path())
            .env_remove("STRAIT_URL")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may have closed it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Starts `strait dev` on the data directory, and waits until it is open.
    fn dev(&self, args: &[&str]) -> Running {
        let mut dev = self.start(&[&["dev"], args].concat());
        // Its first line: any other may be one that the test waits for.
        dev.wait_for("strait dev: data");
        dev
    }

    fn start(&self, args: &[&str]) -> Running {
        let mut child = Command::new(env!("CARGO_BIN_EXE_strait"))
            .args(args)
            .current_dir(self.root.path())
            .env_remove("STRAIT_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running {
            _limit: support::limit(&child, LONGEST),
            child,
            lines,
        }
    }

    /// Runs what must succeed; gives its stdout.
    fn ok(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args, "")).unwrap()
    }
}
