//! Redis and Valkey: redis-py, redis-cli, and a program that has no client library at all.

use serde_json::json;

use super::*;

/// The addresses of the servers that are there.
fn addresses() -> Vec<String> {
    let redis = strait_conformance::server("STRAIT_REDIS", "redis");
    let valkey = strait_conformance::server("STRAIT_VALKEY", "valkey");
    redis.into_iter().chain(valkey).collect()
}

fn url(address: &str) -> String {
    format!("redis://{address}")
}

const PRODUCE: [&str; 8] = [
    "--partitions",
    "1",
    "-K",
    ":",
    "--kind",
    "order.placed.v1",
    "-H",
    "tenant=eu",
];

#[test]
fn what_redis_py_writes_is_read() {
    let Some(packages) = strait_conformance::client("STRAIT_PYTHON_CLIENTS") else {
        return;
    };
    for address in addresses() {
        let stream = unique("python");
        let url = url(&address);
        ours(
            &url,
            &["topic", "create", &stream, "--partitions", "1"],
            b"",
        );
        good(
            python(&packages, "redis_client.py", &["write", &address, &stream]),
            b"",
        );
        let read = consumed(&url, &stream);
        let [plain, binary, headers, event, fields, alone] = &read[..] else {
            panic!("{read:?}")
        };
        assert_eq!(
            (&plain["key"], &plain["value"]),
            (&json!("plain"), &json!("text"))
        );
        assert_eq!(binary["key_base64"], "/wA=");
        assert_eq!(binary["value_base64"], "AP8=");
        assert_eq!(
            headers["headers"],
            json!([["a", "1"], ["b", {"base64": "/w=="}], ["colour", "red"]])
        );
        assert_eq!(event["kind"], "order.placed.v1");
        assert_eq!(event["time"], "2023-11-14T22:13:20.123Z");
        let body: Value = serde_json::from_str(fields["value"].as_str().unwrap()).unwrap();
        assert_eq!(body, json!({"order": "7", "status": "created"}));
        assert_eq!(alone["value"], "alone");
    }
}

#[test]
fn a_worker_of_redis_py_works_on_what_we_write() {
    let Some(packages) = strait_conformance::client("STRAIT_PYTHON_CLIENTS") else {
        return;
    };
    for address in addresses() {
        let stream = unique("python");
        let url = url(&address);
        let written = ours(
            &url,
            &[&["produce", &stream[..]], &PRODUCE[..]].concat(),
            b"a:1\nb:2\nc:3\n",
        );
        let args = ["work", &address, &stream, "workers", "3"];
        let read = lines(&good(python(&packages, "redis_client.py", &args), b""));
        assert_eq!(read.len(), 3);
        for (n, entry) in read.iter().enumerate() {
            assert_eq!(entry["id"], written[n]["offset"]);
            let fields = &entry["fields"];
            assert_eq!(fields["key"], hex(["a", "b", "c"][n]));
            assert_eq!(fields["body"], hex(["1", "2", "3"][n]));
            assert_eq!(fields["type"], hex("order.placed.v1"));
            assert_eq!(fields["h:tenant"], hex("eu"));
            assert!(
                fields["id"].is_string() && fields["time"].is_string(),
                "{fields}"
            );
        }
        // Its group is its own: all is still there for ours.
        let worked = ours(&url, &["consume", &stream, "-g", "ours", "-e"], b"");
        assert_eq!(worked.len(), 3);
    }
}

#[test]
fn redis_cli_and_ours_work_on_one_stream() {
    let Some(program) = strait_conformance::client("STRAIT_REDIS_CLI") else {
        return;
    };
    for address in addresses() {
        let stream = unique("cli");
        let url = url(&address);
        let (host, port) = address.rsplit_once(':').unwrap();
        let cli = |args: &[&str]| {
            let mut command = Command::new(&program);
            command.args(["-h", host, "-p", port]).args(args);
            let output = good(command, b"");
            String::from_utf8(output.stdout).unwrap()
        };
        ours(
            &url,
            &["topic", "create", &stream, "--partitions", "1"],
            b"",
        );
        let added = cli(&[
            "XADD",
            &stream,
            "*",
            "body",
            "from the command line",
            "key",
            "ada",
            "h:tenant",
            "eu",
        ]);
        let read = consumed(&url, &stream);
        assert_eq!(read[0]["offset"], added.trim());
        assert_eq!(
            (&read[0]["key"], &read[0]["value"]),
            (&json!("ada"), &json!("from the command line"))
        );
        assert_eq!(read[0]["headers"], json!([["tenant", "eu"]]));

        let written = ours(
            &url,
            &[&["produce", &stream[..]], &PRODUCE[..]].concat(),
            b"bob:from us\n",
        );
        let range = cli(&["XREVRANGE", &stream, "+", "-", "COUNT", "1"]);
        let found: Vec<&str> = range.lines().collect();
        assert_eq!(found[0], written[0]["offset"].as_str().unwrap());
        let field = |name: &str| {
            found[1..]
                .chunks(2)
                .find(|pair| pair[0] == name)
                .map(|pair| pair[1])
        };
        assert_eq!(field("key"), Some("bob"), "{range}");
        assert_eq!(field("body"), Some("from us"), "{range}");
        assert_eq!(field("type"), Some("order.placed.v1"), "{range}");
        assert_eq!(field("h:tenant"), Some("eu"), "{range}");

        cli(&["XGROUP", "CREATE", &stream, "others", "0"]);
        let got = cli(&[
            "XREADGROUP",
            "GROUP",
            "others",
            "c1",
            "COUNT",
            "10",
            "STREAMS",
            &stream,
            ">",
        ]);
        assert!(
            got.contains("from the command line") && got.contains("from us"),
            "{got}"
        );
        assert_eq!(cli(&["XLEN", &stream]).trim(), "2");
    }
}

#[test]
fn a_program_without_a_client_library_works_beside_ours() {
    let Some(packages) = strait_conformance::client("STRAIT_PYTHON_CLIENTS") else {
        return;
    };
    for address in addresses() {
        let stream = unique("plain");
        let url = url(&address);
        ours(
            &url,
            &[&["produce", &stream[..]], &PRODUCE[..]].concat(),
            b"a:1\n",
        );
        let args = [&address[..], &stream, "others", "2"];
        let read = lines(&good(python(&packages, "plain_redis.py", &args), b""));
        let [ours, theirs] = &read[..] else {
            panic!("{read:?}")
        };
        let fields = ours[1].as_array().unwrap();
        let of = |name: &str| {
            fields
                .chunks(2)
                .find(|pair| pair[0] == name)
                .map(|pair| &pair[1])
        };
        assert_eq!(of("body"), Some(&json!("1")));
        assert_eq!(of("type"), Some(&json!("order.placed.v1")));
        assert_eq!(of("h:tenant"), Some(&json!("eu")));
        let all = consumed(&url, &stream);
        assert_eq!(all.len(), 2);
        assert_eq!(all[1]["offset"], theirs[0]);
        assert_eq!(
            (&all[1]["key"], &all[1]["value"]),
            (&json!("socket"), &json!("by hand"))
        );
        assert_eq!(all[1]["headers"], json!([["from", "plain"]]));
    }
}
