//! The program as scripts and people use it: every test runs the real binary.

// What a test or its helpers cannot unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use support::limit;

/// No test runs a command for longer.
const LONGEST: Duration = Duration::from_secs(60);

#[test]
fn help_usage_and_errors_read_as_written() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}

#[test]
fn what_was_produced_is_consumed_byte_by_byte() {
    let dir = Dir::new();
    let input = b"one\n\ntab\there \"quoted\"\r\n\xff\xfe\nlast without newline";
    let produced = dir.run(
        &[
            "produce",
            "notes",
            "--partitions",
            "1",
            "-k",
            "ada",
            "-H",
            "a=1",
            "-H",
            "a=2",
            "--kind",
            "note.v1",
        ],
        input,
    );
    assert_eq!(produced.code, 0, "{produced:?}");
    let acks: Vec<Value> = (0..5)
        .map(|offset| json!({"topic": "notes", "partition": 0, "offset": offset}))
        .collect();
    assert_eq!(produced.json(), acks);

    let consumed = dir.run(&["consume", "notes", "-e"], b"");
    assert_eq!(consumed.code, 0, "{consumed:?}");
    let messages = consumed.json();
    let values: Vec<&Value> = messages.iter().map(|message| &message["value"]).collect();
    assert_eq!(
        values[..3],
        [&json!("one"), &json!(""), &json!("tab\there \"quoted\"\r")]
    );
    assert_eq!(messages[3]["value"], Value::Null);
    assert_eq!(messages[3]["value_base64"], "//4=");
    assert_eq!(messages[4]["value"], "last without newline");
    assert_eq!(messages[0]["key"], "ada");
    assert_eq!(messages[0]["kind"], "note.v1");
    assert_eq!(messages[0]["headers"], json!([["a", "1"], ["a", "2"]]));
    let fields: Vec<&str> = messages[0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut expected = [
        "topic",
        "partition",
        "offset",
        "key",
        "kind",
        "time",
        "headers",
        "value",
    ];
    expected.sort_unstable();
    assert_eq!(fields, expected);

    let raw = dir.run(&["consume", "notes", "-e", "-f", r"%v\n"], b"");
    assert_eq!(raw.stdout, [&input[..], b"\n"].concat());
}

#[test]
fn a_line_is_acknowledged_while_the_input_stays_open() {
    let dir = Dir::new();
    let mut program = Program::start(dir.command(&["produce", "slow", "-k", "k"]));
    for offset in 0..3 {
        program.write(b"line\n");
        assert_eq!(program.json()["offset"], offset);
    }
    program.close_input();
    assert_eq!(
        program.end(),
        (0, String::new()),
        "the note was read by stderr"
    );
}

#[test]
fn acknowledgements_come_in_the_order_of_the_input_over_all_partitions() {
    let dir = Dir::new();
    let input: String = (0..5000).map(|i| format!("key{}:{i}\n", i % 50)).collect();
    let produced = dir.run(&["produce", "many", "-K", ":"], input.as_bytes());
    let consumed = dir.run(&["consume", "many", "-e", "-f", r"%p %o %v\n"], b"");
    let stored: BTreeMap<(u64, u64), String> = (consumed.text().lines())
        .map(|line| {
            let mut words = line.split(' ');
            let mut number = || words.next().unwrap().parse().unwrap();
            ((number(), number()), words.next().unwrap().to_owned())
        })
        .collect();
    assert_eq!(produced.json().len(), 5000);
    for (i, ack) in produced.json().iter().enumerate() {
        let place = (
            ack["partition"].as_u64().unwrap(),
            ack["offset"].as_u64().unwrap(),
        );
        assert_eq!(stored[&place], i.to_string(), "the {i}th acknowledgement");
    }
}

#[test]
fn a_refused_line_is_named_and_the_others_go_on() {
    let dir = Dir::new();
    let long = "x".repeat((1 << 20) + 1);
    let input = format!("first\n{long}\n{}\nlast\n", &long[1..]);
    let produced = dir.run(&["produce", "big", "-p", "0"], input.as_bytes());
    assert_eq!(produced.code, 3);
    assert_eq!(produced.json().len(), 3);
    assert!(
        produced
            .stderr
            .contains("line 2: error[rejected too_large]"),
        "{}",
        produced.stderr
    );
    let consumed = dir.run(&["consume", "big", "-e", "-O", "-1"], b"");
    assert_eq!(consumed.json()[0]["value"], "last");

    let keyless = dir.run(&["produce", "big", "-K", ":"], b"a:1\nno key\nb:2");
    assert_eq!((keyless.code, keyless.json().len()), (3, 2));
    assert!(keyless.stderr.contains("line 2: "), "{}", keyless.stderr);
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    let dir = Dir::new();
    let mut program = Program::start(dir.command(&["produce", "crash"]));
    let mut input = program.take_input();
    let writer = std::thread::spawn(move || {
        // Ends with the program.
        (0..).take_while(|i| writeln!(input, "{i}").is_ok()).count()
    });
    let acked: Vec<Value> = (0..3000).map(|_| program.json()).collect();
    program.kill();
    assert!(
        writer.join().unwrap() > 3000,
        "it was killed in the middle of its input"
    );

    let consumed = dir.run(&["consume", "crash", "-e"], b"");
    assert_eq!(consumed.code, 0, "{}", consumed.stderr);
    let stored: BTreeMap<(u64, u64), Value> = (consumed.json().iter())
        .map(|m| {
            (
                (
                    m["partition"].as_u64().unwrap(),
                    m["offset"].as_u64().unwrap(),
                ),
                m["value"].clone(),
            )
        })
        .collect();
    for (i, ack) in acked.iter().enumerate() {
        let place = (
            ack["partition"].as_u64().unwrap(),
            ack["offset"].as_u64().unwrap(),
        );
        assert_eq!(stored.get(&place), Some(&json!(i.to_string())), "{ack}");
    }
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let dir = Dir::new();
    let input: String = (0..50_000).map(|i| format!("{i}\n")).collect();
    dir.run(&["produce", "flow"], input.as_bytes());
    for args in [
        &["consume", "flow", "-e"][..],
        &["consume", "flow", "-g", "g"],
        &["topic", "ls"],
    ] {
        let mut program = Program::start(dir.command(args));
        program.close_output();
        assert_eq!(program.end(), (0, String::new()), "{args:?}");
    }
}

#[test]
fn places_are_counted_per_partition() {
    let dir = Dir::new();
    for partition in ["0", "1"] {
        let args = ["produce", "two", "--partitions", "2", "-p", partition];
        dir.run(&args, b"a\nb\nc\n");
    }
    let read = |place: &str| {
        let consumed = dir.run(&["consume", "two", "-e", "-O", place, "-f", r"%p%v\n"], b"");
        assert_eq!(consumed.code, 0, "{}", consumed.stderr);
        let mut lines: Vec<String> = consumed.text().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(read("-1"), ["0c", "1c"]);
    assert_eq!(read("1"), ["0b", "0c", "1b", "1c"]);
    assert_eq!(read("end"), [""; 0]);
    assert_eq!(read("@2000-01-01"), ["0a", "0b", "0c", "1a", "1b", "1c"]);
    assert_eq!(read("@-1970w"), read("start"), "also far before 1970");
    let later = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).to_string();
    assert_eq!(read(&format!("@{later}")), [""; 0]);
    let two = dir.run(&["consume", "two", "-n", "2"], b"");
    assert_eq!((two.code, two.json().len()), (0, 2));
}

#[test]
fn following_prints_what_comes_until_ctrl_c() {
    let dir = Dir::new();
    dir.run(&["topic", "create", "live"], b"");
    let mut owner = Program::start(dir.command(&["consume", "live"]));
    let mut writer = Program::start(dir.command(&["produce", "live"]));
    for text in ["one", "two"] {
        writer.write(format!("{text}\n").as_bytes());
        assert_eq!(writer.json()["topic"], "live");
        assert_eq!(owner.json()["value"], text);
    }
    writer.close_input();
    assert_eq!(writer.end().0, 0);
    owner.signal(Signal::INT);
    assert_eq!(owner.end(), (130, String::new()));
}

#[test]
fn a_group_gets_each_message_once_and_goes_on_where_it_was() {
    let dir = Dir::new();
    let input: String = (0..100).map(|i| format!("{i}\n")).collect();
    dir.run(&["produce", "work"], input.as_bytes());
    let mut seen = Vec::new();
    for (args, count) in [(&["-n", "30"][..], 30), (&["-e"], 70), (&["-e"], 0)] {
        let args = [&["consume", "work", "-g", "team"], args].concat();
        let consumed = dir.run(&args, b"");
        assert_eq!(consumed.code, 0, "{}", consumed.stderr);
        assert_eq!(consumed.json().len(), count, "{args:?}");
        seen.extend(
            consumed
                .json()
                .iter()
                .map(|m| m["value"].as_str().unwrap().to_owned()),
        );
    }
    seen.sort_by_key(|value| value.parse::<u32>().unwrap());
    assert_eq!(seen, (0..100).map(|i| i.to_string()).collect::<Vec<_>>());

    let group = &dir
        .run(&["group", "show", "team", "-o", "json"], b"")
        .json()[0];
    assert_eq!(
        (&group["lag"], &group["topic"]),
        (&json!(0), &json!("work"))
    );
    let plan = dir.run(
        &["group", "seek", "team", "--to", "start", "--dry-run"],
        b"",
    );
    assert!(
        plan.text().contains("about 100 messages come again"),
        "{}",
        plan.text()
    );
    assert_eq!(
        dir.run(&["consume", "work", "-g", "team", "-e"], b"")
            .json()
            .len(),
        0
    );
    let moved = dir.run(&["group", "seek", "team", "--to", "start", "--yes"], b"");
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    assert_eq!(
        dir.run(&["consume", "work", "-g", "team", "-e"], b"")
            .json()
            .len(),
        100
    );
}

#[test]
fn a_group_is_paused_altered_and_moved_with_the_plan_first() {
    let dir = Dir::new();
    let input: String = (0..10).map(|i| format!("{i}\n")).collect();
    dir.run(&["topic", "create", "work", "--partitions", "1"], b"");
    dir.run(&["produce", "work"], input.as_bytes());
    dir.run(&["consume", "work", "-g", "team", "-e"], b"");
    let show = || {
        let shown = dir.run(&["group", "show", "team", "-o", "json"], b"");
        assert_eq!(shown.code, 0, "{}", shown.stderr);
        shown.json()[0].clone()
    };
    let ok = |args: &[&str]| {
        let done = dir.run(args, b"");
        assert_eq!(done.code, 0, "{args:?}: {}", done.stderr);
        done.text().to_owned()
    };

    let pause = ["group", "pause", "team", "--reason", "bank is down"];
    let plan = ok(&[&pause[..], &["--dry-run"]].concat());
    assert!(
        plan.contains("would pause group `team` on `work`"),
        "{plan}"
    );
    assert_eq!(show()["rules"]["pause"], json!(null));
    assert_eq!(dir.run(&pause, b"").code, 2, "it asks, and nobody answers");
    ok(&[&pause[..], &["--yes"]].concat());
    dir.run(&["produce", "work"], b"late\n");
    let shown = show();
    assert_eq!(shown["rules"]["pause"]["reason"], json!("bank is down"));
    assert_eq!(shown["partitions"][0]["waits"]["why"], json!("pause"));
    assert_eq!(
        shown["partitions"][0]["waits"]["next"],
        json!("strait group resume team --topic work")
    );
    ok(&["group", "resume", "team"]);
    let shown = show();
    assert_eq!(shown["rules"]["pause"], json!(null));
    assert_eq!(shown["partitions"][0]["waits"]["why"], json!("member"));

    let alter = [
        "group",
        "alter",
        "team",
        "--gap",
        "5",
        "--max-attempts",
        "3",
    ];
    let plan = ok(&[&alter[..], &["--dry-run"]].concat());
    assert!(plan.contains("gap: 10,000 -> 5"), "{plan}");
    ok(&[&alter[..], &["--yes"]].concat());
    let rules = show()["rules"].clone();
    assert_eq!(
        (&rules["gap"], &rules["max_attempts"]),
        (&json!(5), &json!(3))
    );
    assert_eq!(rules["set_by_operator"], json!(["max_attempts", "gap"]));
    let read = dir.run(&["consume", "work", "-g", "team", "-e"], b"");
    assert_eq!(read.json().len(), 1, "{}", read.stderr);
    ok(&["group", "alter", "team", "--gap", "declared", "--yes"]);
    assert_eq!(show()["rules"]["gap"], json!(10_000));
    let zero = dir.run(&["group", "alter", "team", "--gap", "0", "--yes"], b"");
    assert_eq!(
        zero.code, 2,
        "a usage error: nothing was asked of the engine"
    );
    assert!(zero.stderr.contains("it is at least 1"), "{}", zero.stderr);

    let plan = ok(&[
        "group",
        "reset",
        "team",
        "--back",
        "2h",
        "--dry-run",
        "-o",
        "json",
    ]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(
        (&plan["again"], &plan["passed_over"]),
        (&json!(11), &json!(0))
    );
    assert_eq!(show()["lag"], json!(0), "a plan moves nothing");
    ok(&["group", "seek", "team", "--back", "2h", "--yes"]);
    assert_eq!(show()["lag"], json!(11));

    let plan = ok(&["topic", "alter", "work", "--partitions", "4", "--dry-run"]);
    assert!(plan.contains("about 75 % of the keys move"), "{plan}");
    assert!(plan.contains("group `team`: lag 11"), "{plan}");
    ok(&["topic", "alter", "work", "--partitions", "4", "--yes"]);
    assert_eq!(show()["partitions"].as_array().unwrap().len(), 4);
    let fewer = dir.run(
        &["topic", "alter", "work", "--partitions", "2", "--yes"],
        b"",
    );
    assert!(
        fewer.stderr.contains("only become more"),
        "{}",
        fewer.stderr
    );
    let plan = ok(&["topic", "rm", "work", "--dry-run"]);
    assert!(plan.contains("group `team`"), "{plan}");
}

#[test]
fn what_is_missing_forbidden_or_mistyped_has_its_exit_code() {
    let dir = Dir::new();
    let fails = |args: &[&str], code: i32, says: &str| {
        let failed = dir.run(args, b"x\n");
        assert_eq!(failed.code, code, "{args:?}: {}", failed.stderr);
        assert!(failed.stderr.contains(says), "{args:?}: {}", failed.stderr);
        assert_eq!(failed.text(), "", "stdout is for data only");
    };
    fails(&["topic", "ls"], 4, "there is no data directory");
    assert!(!dir.data().exists(), "looking made no directory");
    assert_eq!(
        dir.run(&["topic", "create", "orders", "--partitions", "2"], b"")
            .code,
        0
    );
    fails(&["consume", "ordrs", "-e"], 4, "did you mean `orders`?");
    fails(&["produce", "other", "--no-create"], 4, "no_such_topic");
    fails(&["group", "show", "nobody"], 4, "no_such_group");
    fails(
        &["topic", "create", "orders", "--partitions", "3"],
        5,
        "error[conflict topic_exists]",
    );
    fails(&["produce", "a b"], 2, "is not a name");
    fails(
        &["produce", "orders", "-p", "7"],
        2,
        "there is no partition 7",
    );
    fails(
        &["produce", "orders", "-H", "a=b\r\nc: d"],
        2,
        "CR, LF and NUL",
    );
    fails(
        &["consume", "orders", "-O", "soon"],
        2,
        "is no place in a topic",
    );
    fails(&["consume", "orders", "-O", "@soon"], 2, "is not a time");
    fails(&["topic", "rm", "orders"], 2, "--yes");
    fails(&["topic", "alter", "orders"], 2, "nothing to change");
    fails(
        &["--url", "carrier:pigeon", "topic", "ls"],
        2,
        "error[config]",
    );
    fails(&["explain", "offset_gon"], 4, "did you mean `offset_gone`?");
    assert_eq!(dir.run(&["topic", "rm", "orders", "--yes"], b"").code, 0);
    fails(&["topic", "show", "orders"], 4, "no_such_topic");
}

#[test]
fn lists_have_stable_fields_for_scripts() {
    let dir = Dir::new();
    let create = [
        "topic",
        "create",
        "t",
        "--partitions",
        "1",
        "--keep-age",
        "7d",
        "--keep-bytes",
        "1GiB",
    ];
    assert_eq!(dir.run(&create, b"").code, 0);
    dir.run(&["produce", "t"], b"x\n");
    let listed = dir.run(&["topic", "ls", "-o", "jsonl"], b"").json();
    let mut topic = listed[0].clone();
    assert!(topic["bytes"].as_u64().unwrap() > 0);
    topic["bytes"] = Value::Null;
    assert_eq!(
        topic,
        json!({"topic": "t", "partitions": 1, "messages": 1, "bytes": null, "keep_age_ms": 604_800_000,
               "keep_bytes": 1 << 30, "key_versions": false, "compacted": false, "dedupe_window_ms": 600_000})
    );
    let document = &dir.run(&["topic", "ls", "-o", "json"], b"").json()[0];
    assert_eq!(
        (&document["schema"], &document["topics"][0]),
        (&json!(1), &listed[0])
    );
    let tabs = dir.run(&["topic", "ls"], b"");
    assert!(
        tabs.text().starts_with("TOPIC\tPARTITIONS\t"),
        "{}",
        tabs.text()
    );
}

#[test]
fn verify_names_file_and_place_of_a_flipped_byte() {
    let dir = Dir::new();
    for _ in 0..3 {
        dir.run(&["produce", "t"], b"some text that is stored\n");
    }
    let clean = dir.run(&["verify"], b"");
    assert_eq!(clean.code, 0, "{}{}", clean.text(), clean.stderr);
    let needle = b"some text that is stored";
    let (file, at) = find_in_files(&dir.data(), needle);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let damaged = dir.run(&["verify", "-o", "json"], b"");
    assert_eq!(damaged.code, 1, "{}", damaged.text());
    let fault = &damaged.json()[0]["faults"][0];
    assert_eq!(fault["file"], file.file_name().unwrap().to_str().unwrap());
    assert!(fault["offset"].as_u64().unwrap() <= at as u64, "{fault}");
}

/// What is in front of the damage is printed, and what is missing is said.
#[test]
fn a_damaged_directory_is_read_up_to_the_damage() {
    let dir = Dir::new();
    for text in ["first of all\n", "second of all\n", "third of all\n"] {
        assert_eq!(dir.run(&["produce", "t"], text.as_bytes()).code, 0);
    }
    let (file, at) = find_in_files(&dir.data(), b"second of all");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();

    let refused = dir.run(&["consume", "t", "-e"], b"");
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("read_only=true"),
        "the error names the next step: {}",
        refused.stderr
    );

    let url = format!("file:{}?read_only=true", dir.data().display());
    let read = dir.run(&["--url", &url, "consume", "t", "-e"], b"");
    assert_eq!(read.code, 0, "{}", read.stderr);
    let values: Vec<_> = read.json().iter().map(|m| m["value"].clone()).collect();
    assert_eq!(values, ["first of all"]);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(
        read.stderr.contains(name) && read.stderr.contains("left out"),
        "{}",
        read.stderr
    );
    let refused = dir.run(&["--url", &url, "produce", "t"], b"x\n");
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("read-only"), "{}", refused.stderr);
    assert!(std::fs::read(&file).unwrap() == bytes, "it was only read");
}

#[test]
fn the_demo_survives_kill_9_and_ends_on_ctrl_c() {
    let dir = Dir::new();
    let demo =
        || Program::start(dir.command(&["dev", "--demo", "--data", dir.data().to_str().unwrap()]));
    let mut first = demo();
    first.wait_for("card service timed out");
    let placed = dir.run(&["consume", "orders", "-e"], b"");
    assert_eq!(placed.code, 0, "{}", placed.stderr);
    let placed = placed.json().len();
    assert!(placed > 10, "{placed}");
    first.kill();

    let mut second = demo();
    let went_on = second.wait_for("went on at order ");
    let number = went_on.split("went on at order ").nth(1).unwrap();
    let number: usize = number.split(':').next().unwrap().parse().unwrap();
    assert!(number > 1000 + placed, "{went_on}, {placed} were there");

    // While it runs, the commands that it names work from other processes.
    second.wait_for("billing  dead: \"amount is not a number\"");
    let order = br#"{"order":1,"customer":"ada","amount":"9.90"}"#;
    assert_eq!(dir.run(&["produce", "orders", "-k", "ada"], order).code, 0);
    second.wait_for("your order was paid (9.90)");
    let letters = dir
        .run(&["dlq", "ls", "billing", "-o", "jsonl"], b"")
        .json();
    assert_eq!(letters[0]["reason"], "amount is not a number");
    assert_eq!(letters[0]["attempts"], 4);
    let dead = letters[0]["number"].to_string();
    let letter = &dir
        .run(&["dlq", "show", "billing", &dead, "-o", "json"], b"")
        .json()[0];
    assert_eq!(letter["message"]["kind"], "order.placed.v1");
    let plan = dir.run(&["dlq", "redrive", "billing", "--all", "--dry-run"], b"");
    assert!(plan.text().starts_with("would redrive "), "{}", plan.text());
    let back = dir.run(
        &["dlq", "redrive", "billing", &dead, "--yes", "-o", "json"],
        b"",
    );
    assert_eq!(back.json()[0]["redriven"], 1, "{}", back.stderr);
    second.wait_for("dead letters came back");
    mended(&dir, &mut second);

    second.signal(Signal::INT);
    let (code, stderr) = second.end();
    assert_eq!((code, stderr.as_str()), (0, ""));

    // No order was paid twice, and none was lost before it was paid.
    let paid = dir.run(&["consume", "payments", "-e", "-f", r"%v\n"], b"");
    let mut orders: Vec<u64> = (paid.text().lines())
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["order"]
                .as_u64()
                .unwrap()
        })
        .collect();
    let count = orders.len();
    orders.sort_unstable();
    orders.dedup();
    assert_eq!(orders.len(), count, "each order is paid once");
    assert!(count > 20, "{count}");
}

/// An order that nobody can bill is mended beside the original, redriven, and paid.
fn mended(dir: &Dir, demo: &mut Program) {
    let wrong = br#"{"order":2,"customer":"mallory","amount":"7,7O"}"#;
    let sent = dir.run(&["produce", "orders", "-k", "mallory"], wrong);
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    let list = || {
        dir.run(
            &["dlq", "ls", "billing", "--key", "mallory", "-o", "jsonl"],
            b"",
        )
    };
    let letters = loop {
        demo.wait_for("billing");
        let letters = list().json();
        if !letters.is_empty() {
            break letters;
        }
    };
    let number = letters[0]["number"].to_string();
    let errors = dir.run(
        &[
            "dlq",
            "ls",
            "billing",
            "--by-error",
            "--key",
            "mallory",
            "-o",
            "jsonl",
        ],
        b"",
    );
    assert_eq!(errors.json()[0]["dead"], 1, "{}", errors.stderr);
    assert_eq!(errors.json()[0]["error"], letters[0]["error"]);

    let right = r#"{"order":2,"customer":"mallory","amount":"7.70"}"#;
    let edited = dir.run(&["dlq", "edit", "billing", &number, "--body", right], b"");
    assert_eq!(edited.code, 0, "{}", edited.stderr);
    let again = dir.run(
        &[
            "dlq", "edit", "billing", &number, "--body", "-", "-o", "json",
        ],
        right.as_bytes(),
    );
    assert_eq!(again.json()[0]["done"], "unchanged", "{}", again.stderr);
    let shown = &dir
        .run(&["dlq", "show", "billing", &number, "-o", "json"], b"")
        .json()[0];
    let value = |part: &Value| part["value"].as_str().unwrap_or_default().to_owned();
    assert!(value(&shown["message"]).contains("7,7O"), "{shown}");
    assert_eq!(value(&shown["edit"]), right, "{shown}");

    let back = dir.run(
        &["dlq", "redrive", "billing", &number, "--yes", "-o", "json"],
        b"",
    );
    let back = &back.json()[0];
    assert_eq!(back["redriven"], 1);
    demo.wait_for("your order was paid (7.70)");
    let run = back["run"].to_string();
    let undone = dir.run(
        &["dlq", "undo", "billing", &run, "--yes", "-o", "json"],
        b"",
    );
    assert_eq!(undone.json()[0]["handled"], 1, "{}", undone.stderr);
    let gone = dir.run(&["dlq", "rm", "billing", &number, "--yes"], b"");
    assert_ne!(gone.code, 0, "it is no dead letter any more");
}

/// A message is set aside by hand, and removed for good.
#[test]
fn a_message_is_set_aside_and_removed() {
    let dir = Dir::new();
    assert_eq!(dir.run(&["produce", "t", "-p", "0"], b"one\ntwo\n").code, 0);
    let joined = dir.run(&["consume", "t", "-g", "g", "-n", "1"], b"");
    assert_eq!(joined.code, 0, "{}", joined.stderr);
    let skip = |more: &[&str]| {
        let mut args = vec!["group", "skip", "g", "t", "0", "1", "--reason", "a test"];
        args.extend(more);
        dir.run(&args, b"")
    };
    let plan = skip(&["--dry-run"]);
    assert!(plan.text().contains("two"), "{}", plan.text());
    assert_eq!(skip(&[]).code, 2, "it asks");
    let done = skip(&["--yes", "-o", "json"]);
    let number = done.json()[0]["dead_letter"].to_string();
    assert_ne!(skip(&["--yes"]).code, 0, "it is settled");
    let page = dir.run(&["dlq", "show", "g", &number], b"");
    assert!(page.text().contains("a test"), "{}", page.text());
    let all = dir.run(&["dlq", "rm", "g", "--yes"], b"");
    assert_eq!(all.code, 2, "which ones was not said: {}", all.stderr);
    let none = dir.run(&["dlq", "rm", "g", "--reason", "never said", "--yes"], b"");
    assert_eq!(none.code, 0, "{}", none.stderr);
    let gone = dir.run(&["dlq", "rm", "g", "--all", "--yes", "-o", "json"], b"");
    assert_eq!(gone.json()[0]["removed"], 1, "{}", gone.stderr);
    assert_eq!(
        dir.run(&["dlq", "ls", "g", "-o", "jsonl"], b"")
            .json()
            .len(),
        0
    );
}

/// A directory of a test's own.
struct Dir(TempDir);

/// What a command printed, and how it ended.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl Dir {
    fn new() -> Self {
        Dir(tempfile::tempdir().unwrap())
    }

    fn data(&self) -> std::path::PathBuf {
        self.0.path().join("data")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
        command
            .args(args)
            .arg("--quiet")
            .current_dir(self.0.path())
            .env("STRAIT_URL", format!("file:{}", self.data().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(args).spawn().unwrap();
        let _limit = limit(&child, LONGEST);
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A command that reads nothing closes its input.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Every line as JSON.
    fn json(&self) -> Vec<Value> {
        let line = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.text().lines().map(line).collect()
    }
}

/// A program that runs beside the test.
struct Program {
    child: Child,
    _limit: mpsc::Sender<()>,
    output: Option<Lines<BufReader<ChildStdout>>>,
    stderr: Option<std::thread::JoinHandle<String>>,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let output = child.stdout.take().map(|out| BufReader::new(out).lines());
        let mut stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        Program {
            _limit: limit(&child, LONGEST),
            child,
            output,
            stderr: Some(stderr),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn take_input(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    fn close_output(&mut self) {
        drop(self.output.take());
    }

    fn line(&mut self) -> String {
        match self.output.as_mut().unwrap().next() {
            Some(line) => line.unwrap(),
            None => panic!("it ended: {:?}", self.end()),
        }
    }

    fn json(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    /// Reads on to a line that contains `text`.
    fn wait_for(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end: exit code, and what it said on stderr.
    fn end(&mut self) -> (i32, String) {
        for line in self.output.take().into_iter().flatten() {
            line.unwrap();
        }
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        (code, self.stderr.take().unwrap().join().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A test that failed leaves no program behind; one that ended is ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find_in_files(dir: &Path, needle: &[u8]) -> (std::path::PathBuf, usize) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        if let Some(at) = memchr::memmem::find(&bytes, needle) {
            return (path, at);
        }
    }
    panic!("no file of {} has it", dir.display());
}
