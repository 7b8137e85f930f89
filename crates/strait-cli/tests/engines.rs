//! The command on real servers, and on addresses where none is.

// What a test or its helpers cannot unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use support::run::{run, strait};
use tempfile::TempDir;

/// A secret that no output may hold.
const SECRET: &str = "s3cret";

fn at(dir: &Path, url: &str, args: &[&str]) -> Command {
    let mut command = strait(dir, args);
    command.args(["--url", url]);
    command
}

/// Exit code and stderr, in which no secret stands.
fn refused(url: &str, args: &[&str]) -> (i32, String) {
    let dir = TempDir::new().unwrap();
    let output = run(at(dir.path(), url, args), b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains(SECRET), "{url}: {said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    (output.status.code().unwrap(), said)
}

#[test]
fn an_address_of_no_engine_is_a_usage_error() {
    for url in [
        "nats://ada:s3cret@127.0.0.1",
        "carrier:ada:s3cret@pigeon",
        "ada:s3cret@kafka",
    ] {
        let (code, said) = refused(url, &["topic", "ls"]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("next: "), "{said}");
    }
}

#[test]
fn a_bare_client_needs_a_server() {
    let (code, said) = refused("file:./data", &["bench", "events", "--bare"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("leave out --bare"), "{said}");
}

#[cfg(not(feature = "kafka"))]
#[test]
fn a_build_without_a_feature_says_which_and_how_to_get_it() {
    let (code, said) = refused("kafka://ada:s3cret@127.0.0.1:9092", &["topic", "ls"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("without the feature `kafka`"), "{said}");
    assert!(
        said.contains("cargo install strait-cli --features kafka"),
        "{said}"
    );
}

#[cfg(any(feature = "kafka", feature = "redis"))]
mod servers {
    use std::process::Stdio;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use serde_json::Value;
    use strait::Strait;
    use strait::core::events::GroupSpec;
    use strait::core::{Arrival, Outcome, Unit, Verdict};

    use super::support::run::lines;
    use super::*;

    /// Long enough for a loaded machine; reached only by a failing test.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A topic name of its own: servers are shared.
    pub(super) fn unique() -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        format!("cli-{}-{since}-{number}", std::process::id())
    }

    fn good(command: Command, input: &[u8]) -> Vec<Value> {
        let output = run(command, input);
        assert!(output.status.success(), "{output:?}");
        lines(&output)
    }

    fn input(from: u64, count: u64) -> String {
        (from..from + count)
            .map(|n| format!("key{}:message number {n}\n", n % 97))
            .collect()
    }

    /// The verbs that need no group.
    pub(super) fn topics_are_made_written_and_read(url: &str) {
        let dir = TempDir::new().unwrap();
        let topic = unique();
        let strait = |args: &[&str]| {
            let mut command = at(dir.path(), url, args);
            command.args(["-o", "jsonl"]);
            command
        };
        let created = good(
            strait(&["topic", "create", &topic, "--partitions", "3"]),
            b"",
        );
        assert_eq!(created[0]["partitions"], 3);
        let again = run(
            strait(&["topic", "create", &topic, "--partitions", "4"]),
            b"",
        );
        assert_eq!(again.status.code(), Some(5), "{again:?}");
        let produce = [
            "produce",
            &topic,
            "-K",
            ":",
            "-H",
            "tenant=eu",
            "--kind",
            "order.v1",
        ];
        let acks = good(strait(&produce), input(0, 300).as_bytes());
        assert_eq!(acks.len(), 300);
        let read = good(strait(&["consume", &topic, "-e", "-O", "start"]), b"");
        assert_eq!(read.len(), 300);
        let of_key: Vec<&str> = read
            .iter()
            .filter(|message| message["key"] == "key5")
            .map(|message| message["value"].as_str().unwrap())
            .collect();
        let expected = [5, 102, 199, 296].map(|n| format!("message number {n}"));
        assert_eq!(of_key, expected, "the order of a key");
        assert_eq!(read[0]["kind"], "order.v1");
        assert_eq!(read[0]["headers"], serde_json::json!([["tenant", "eu"]]));
        let listed = good(strait(&["topic", "ls"]), b"");
        assert!(listed.iter().any(|row| row["topic"] == topic.as_str()));
        let shown = good(strait(&["topic", "show", &topic]), b"");
        assert_ne!(shown[0]["bytes"], 0, "what is not known is no number");
        let missing = run(strait(&["topic", "show", &unique()]), b"");
        assert_eq!(missing.status.code(), Some(4), "{missing:?}");
    }

    /// Gives up every message that the group has not settled.
    async fn give_up(url: &str, group: &str, topic: &str) {
        let strait = Strait::open(url).await.unwrap();
        let lane = strait.engine().lanes().events.unwrap();
        let spec = GroupSpec::new(group.parse().unwrap(), topic.parse().unwrap());
        let mut consumer = lane.join(spec.clone()).await.unwrap();
        while lane
            .group(spec.group.clone(), spec.topic.clone())
            .await
            .unwrap()
            .lag()
            > 0
        {
            let next = tokio::time::timeout(PATIENCE, consumer.next(16, 1 << 20));
            let receipts = match next.await.unwrap().unwrap() {
                Arrival::Run(_, receipt) => vec![receipt],
                Arrival::Each(deliveries) => deliveries.into_iter().map(|d| d.receipt).collect(),
                _ => continue,
            };
            let dead = |receipt| (receipt, Verdict::Dead("no such customer".into()));
            let unit = Unit {
                settle: receipts.into_iter().map(dead).collect(),
                ..Unit::default()
            };
            let outcome = strait.engine().commit(vec![unit]).await.pop();
            assert!(matches!(outcome, Some(Outcome::Applied(_))), "{outcome:?}");
        }
        drop(consumer);
        strait.close().await;
    }

    /// The verbs of groups and their dead letters. `redrives`: whether the server brings dead letters back.
    pub(super) fn groups_and_dead_letters_are_shown_and_moved(url: &str, redrives: bool) {
        let dir = TempDir::new().unwrap();
        let (topic, group) = (unique(), unique());
        let on = ["--topic", &topic];
        let strait = |args: &[&str]| {
            let mut command = at(dir.path(), url, args);
            command.args(["-o", "jsonl"]);
            command
        };
        good(
            strait(&["topic", "create", &topic, "--partitions", "1"]),
            b"",
        );
        good(
            strait(&["produce", &topic, "-K", ":"]),
            input(0, 5).as_bytes(),
        );
        let read = good(strait(&["consume", &topic, "-g", &group, "-n", "2"]), b"");
        assert_eq!(read.len(), 2);
        let show = [&["group", "show", &group][..], &on].concat();
        let lag = || good(strait(&show), b"")[0]["lag"].clone();
        assert_eq!(lag(), 3);
        let seek = ["group", "seek", &group, "--to", "start", "--yes"];
        good(strait(&[&seek[..], &on].concat()), b"");
        assert_eq!(lag(), 5);
        tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(give_up(url, &group, &topic));
        let list = [&["dlq", "ls", &group][..], &on].concat();
        let dead = good(strait(&list), b"");
        assert_eq!(dead.len(), 5, "{dead:?}");
        assert_eq!(dead[0]["reason"], "no such customer");
        let number = dead[0]["number"].to_string();
        let one = [&["dlq", "show", &group, &number][..], &on].concat();
        assert_eq!(good(strait(&one), b"")[0]["number"], dead[0]["number"]);
        let remove = ["dlq", "rm", &group, &number, "--yes"];
        good(strait(&[&remove[..], &on].concat()), b"");
        assert_eq!(good(strait(&list), b"").len(), 4);
        let redrive = ["dlq", "redrive", &group, "--all", "--yes"];
        let redriven = run(strait(&[&redrive[..], &on].concat()), b"");
        assert_eq!(redriven.status.success(), redrives, "{redriven:?}");
        assert_eq!(lag(), if redrives { 4 } else { 0 });
        let end = ["group", "rm", &group, "--yes"];
        good(strait(&[&end[..], &on].concat()), b"");
        let gone = run(strait(&show), b"");
        assert_eq!(gone.status.code(), Some(4), "{gone:?}");
    }

    /// What only a directory can, says so.
    pub(super) fn what_a_server_cannot_do_is_refused(url: &str) {
        for args in [
            &["backup", "copy"][..],
            &["describe", "storage"],
            &["verify"],
            &["upgrade"],
            &["inspect", "--offline"],
        ] {
            let (code, said) = refused(url, args);
            assert!(code == 1 || code == 2, "{args:?}: {code} {said}");
            let why = said.contains("error[unsupported]") || said.contains("only a directory");
            assert!(why, "{args:?}: {said}");
        }
    }

    /// Ours and the bare client of the server append and read in turns, and both read all of it.
    pub(super) fn the_bare_client_is_measured_beside_ours(url: &str, name: &str) {
        let dir = TempDir::new().unwrap();
        let mut command = at(dir.path(), url, &["bench", "events", "--bare"]);
        for (option, value) in [
            ("--batch", "10"),
            ("--producers", "4"),
            ("--partitions", "2"),
        ] {
            command.args([option, value]);
        }
        command.args(["--duration", "200ms", "-o", "json"]);
        let output = run(command, b"");
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["bare_client"], name);
        let number = |name: &str| report[name].as_f64().unwrap();
        for rate in [
            "messages_per_second",
            "bare_messages_per_second",
            "catch_up_messages_per_second",
            "bare_catch_up_messages_per_second",
        ] {
            assert!(number(rate) > 0.0, "{rate}: {report}");
        }
        // Of the loops that count and of those that warm up, ours and the bare client's.
        assert!(number("catch_up_messages") > number("messages"), "{report}");
        let ratio = number("messages_per_second") / number("bare_messages_per_second");
        assert!(
            (number("of_bare") - ratio).abs() < 0.01 * ratio.max(1.0),
            "{report}"
        );
    }

    /// Out of the server, with deaths in between: every message exactly once.
    pub(super) fn a_killed_mirror_goes_on(url: &str) {
        const EACH: u64 = 10_000;
        let dir = TempDir::new().unwrap();
        let (dir, topic) = (dir.path(), unique());
        for round in 0..4 {
            let produce = ["produce", &topic, "-K", ":", "--partitions", "4", "-q"];
            let produced = run(at(dir, url, &produce), input(round * EACH, EACH).as_bytes());
            assert!(produced.status.success(), "{produced:?}");
            killed(mirror(dir, &topic, [url, "file:./copy"]), 150 + 60 * round);
        }
        proved(mirror(dir, &topic, [url, "file:./copy"]), 4 * EACH, true);
    }

    /// Into the server, with deaths in between. Where it has units nothing is doubled; elsewhere nothing is lost, in order, and
    /// what is there once more has its id.
    pub(super) fn a_killed_mirror_into_a_server_goes_on(url: &str, exactly_once: bool) {
        const EACH: u64 = 5_000;
        let dir = TempDir::new().unwrap();
        let (dir, topic) = (dir.path(), unique());
        let from = "file:./source";
        for round in 0..4 {
            let produce = ["produce", &topic, "-K", ":", "--partitions", "4", "-q"];
            let produced = run(
                at(dir, from, &produce),
                input(round * EACH, EACH).as_bytes(),
            );
            assert!(produced.status.success(), "{produced:?}");
            killed(mirror(dir, &topic, [from, url]), 150 + 40 * round);
        }
        proved(mirror(dir, &topic, [from, url]), 4 * EACH, exactly_once);
    }

    fn mirror(dir: &Path, topic: &str, [from, to]: [&str; 2]) -> Command {
        strait(dir, &["mirror", topic, "--from", from, "--to", to])
    }

    /// Runs it, and kills it after so many milliseconds.
    fn killed(mut mirror: Command, after: u64) {
        let mut child = mirror.arg("-q").stdout(Stdio::null()).spawn().unwrap();
        // No event: the death comes at any time.
        std::thread::sleep(Duration::from_millis(after));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Lets it come to the end, and proves both sides equal, but for repeated messages where those may be.
    fn proved(mut mirror: Command, messages: u64, exactly_once: bool) {
        mirror.args(["--once", "--compare", "-o", "jsonl"]);
        let output = run(mirror, b"");
        let compared = lines(&output);
        let sum = |field: &str| -> u64 {
            let each = compared.iter().map(|p| p[field].as_u64().unwrap());
            each.sum()
        };
        assert_eq!(sum("equal"), messages, "{output:?}");
        assert!(
            compared.iter().all(|p| p["difference"].is_null()),
            "{output:?}"
        );
        assert!(sum("repeated") == 0 || !exactly_once, "{output:?}");
        assert_eq!(output.status.success(), sum("repeated") == 0, "{output:?}");
    }
}

#[cfg(feature = "kafka")]
mod kafka {
    use super::servers::*;
    use super::*;

    fn url() -> Option<String> {
        let address = strait_conformance::server("STRAIT_KAFKA", "kafka")?;
        Some(format!("kafka://{address}"))
    }

    #[test]
    fn topics_are_made_written_and_read_on_kafka() {
        if let Some(url) = url() {
            topics_are_made_written_and_read(&url);
        }
    }

    #[test]
    fn groups_and_dead_letters_are_shown_and_moved_on_kafka() {
        if let Some(url) = url() {
            groups_and_dead_letters_are_shown_and_moved(&url, false);
        }
    }

    #[test]
    fn the_bare_client_of_kafka_is_measured_beside_ours() {
        if let Some(url) = url() {
            the_bare_client_is_measured_beside_ours(&url, "rdkafka");
        }
    }

    #[test]
    fn what_kafka_cannot_do_is_refused() {
        if let Some(url) = url() {
            what_a_server_cannot_do_is_refused(&url);
        }
    }

    #[test]
    fn a_killed_mirror_out_of_kafka_goes_on() {
        if let Some(url) = url() {
            a_killed_mirror_goes_on(&url);
        }
    }

    #[test]
    fn a_killed_mirror_into_kafka_loses_nothing() {
        if let Some(url) = url() {
            a_killed_mirror_into_a_server_goes_on(&url, false);
        }
    }

    #[test]
    fn a_wrong_way_to_kafka_is_told_with_the_next_step() {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = unused.local_addr().unwrap().port();
        drop(unused);
        let (code, said) = refused(&format!("kafka://127.0.0.1:{port}"), &["topic", "ls"]);
        assert_eq!(code, 7, "{said}");
        assert!(
            said.contains("refused") && said.contains("next: "),
            "{said}"
        );
        let (code, said) = refused("kafka://ada@127.0.0.1:9092", &["topic", "ls"]);
        assert_eq!(code, 2, "{said}");
        let Some(url) = url() else { return };
        let address = url.trim_start_matches("kafka://");
        for (url, word) in [
            (format!("kafka+ssl://{address}"), "SSL"),
            (format!("kafka://ada:{SECRET}@{address}"), "SASL"),
        ] {
            let (code, said) = refused(&url, &["topic", "ls"]);
            assert_eq!(code, 7, "{said}");
            assert!(said.contains(word) && said.contains("next: "), "{said}");
        }
    }
}

#[cfg(feature = "redis")]
mod redis {
    use super::servers::*;
    use super::*;

    /// Redis and Valkey, those that are there.
    fn urls() -> Vec<String> {
        let at = |variable, engine| strait_conformance::server(variable, engine);
        let redis = at("STRAIT_REDIS", "redis").map(|address| format!("redis://{address}"));
        let valkey = at("STRAIT_VALKEY", "valkey").map(|address| format!("valkey://{address}"));
        redis.into_iter().chain(valkey).collect()
    }

    #[test]
    fn topics_are_made_written_and_read_on_redis() {
        for url in urls() {
            topics_are_made_written_and_read(&url);
        }
    }

    #[test]
    fn groups_and_dead_letters_are_shown_and_moved_on_redis() {
        for url in urls() {
            groups_and_dead_letters_are_shown_and_moved(&url, true);
        }
    }

    #[test]
    fn the_bare_client_of_redis_is_measured_beside_ours() {
        for url in urls() {
            the_bare_client_is_measured_beside_ours(&url, "redis");
        }
    }

    #[test]
    fn what_redis_cannot_do_is_refused() {
        for url in urls() {
            what_a_server_cannot_do_is_refused(&url);
        }
    }

    #[test]
    fn a_killed_mirror_out_of_redis_goes_on() {
        for url in urls() {
            a_killed_mirror_goes_on(&url);
        }
    }

    #[test]
    fn a_killed_mirror_into_redis_loses_nothing() {
        for url in urls() {
            a_killed_mirror_into_a_server_goes_on(&url, false);
        }
    }

    #[test]
    fn a_wrong_way_to_redis_is_told_with_the_next_step() {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = unused.local_addr().unwrap().port();
        drop(unused);
        let (code, said) = refused(&format!("redis://127.0.0.1:{port}"), &["topic", "ls"]);
        assert_eq!(code, 7, "{said}");
        assert!(
            said.contains("refused") && said.contains("next: "),
            "{said}"
        );
        for url in urls() {
            let (_, address) = url.split_once("://").unwrap();
            for wrong in [
                format!("rediss://{address}"),
                format!("redis://ada:{SECRET}@{address}"),
            ] {
                let (code, said) = refused(&wrong, &["topic", "ls"]);
                assert!(code == 6 || code == 7, "{code}: {said}");
                assert!(said.contains("next: "), "{said}");
            }
        }
    }
}
