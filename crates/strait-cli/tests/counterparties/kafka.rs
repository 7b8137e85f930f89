//! Kafka: the producer and consumer that a Python program has from its first page, confluent-kafka, and Kafka's own tools.

use std::fs::File;
use std::path::Path;

use serde_json::json;

use super::*;

struct There {
    address: String,
    url: String,
}

fn there() -> Option<There> {
    let address = strait_conformance::server("STRAIT_KAFKA", "kafka")?;
    let url = format!("kafka://{address}");
    Some(There { address, url })
}

fn packages() -> Option<std::path::PathBuf> {
    strait_conformance::client("STRAIT_PYTHON_CLIENTS")
}

/// The names in the program are fixed, so one runs at a time.
#[test]
fn the_first_program_of_every_user_works_beside_ours() {
    let (Some(kafka), Some(packages)) = (there(), packages()) else {
        return;
    };
    let (_, port) = kafka.address.rsplit_once(':').unwrap();
    let lock = std::env::temp_dir().join(format!("strait-orders-{port}.lock"));
    let lock = File::create(lock).unwrap();
    lock.lock().unwrap();
    ours(
        &kafka.url,
        &["topic", "create", "orders", "--partitions", "1"],
        b"",
    );
    let first = unique("ours");
    ours(
        &kafka.url,
        &["produce", "orders", "-k", "order_1"],
        first.as_bytes(),
    );
    let program = here("brief_kafka.py");
    let args = [&program[..], &kafka.address, &first];
    let output = good(python(packages, "run_brief_kafka.py", &args), b"");
    let processed = String::from_utf8(output.stdout).unwrap();
    assert!(processed.lines().any(|line| line == first), "{processed}");

    let all = consumed(&kafka.url, "orders");
    let ours = all
        .iter()
        .position(|message| message["value"] == first.as_str());
    let theirs = &all[ours.unwrap() + 1];
    assert_eq!(theirs["key"], "order_123");
    assert_eq!(theirs["value"], r#"{"status": "created"}"#);
    assert_eq!(theirs["headers"], json!([]));
}

#[test]
fn what_confluent_kafka_writes_is_read() {
    let (Some(kafka), Some(packages)) = (there(), packages()) else {
        return;
    };
    let topic = unique("python");
    ours(
        &kafka.url,
        &["topic", "create", &topic, "--partitions", "1"],
        b"",
    );
    good(
        python(
            packages,
            "kafka_client.py",
            &["write", &kafka.address, &topic],
        ),
        b"",
    );
    let read = consumed(&kafka.url, &topic);
    let [plain, binary, nothing, headers, event] = &read[..] else {
        panic!("{read:?}")
    };
    assert_eq!(
        (&plain["key"], &plain["value"]),
        (&json!("plain"), &json!("text"))
    );
    assert_eq!(binary["key_base64"], "/wA=");
    assert_eq!(binary["value_base64"], "AP8=");
    assert_eq!(
        (&nothing["key"], &nothing["value"]),
        (&Value::Null, &json!(""))
    );
    let expected = json!([["a", "1"], ["a", {"base64": "/w=="}], ["none", ""], ["ü", "é"]]);
    assert_eq!(headers["headers"], expected);
    assert_eq!(event["kind"], "order.placed.v1");
    assert_eq!(event["time"], "2023-11-14T22:13:20.123Z");
    assert_eq!(event["headers"], json!([]));
}

#[test]
fn what_we_write_confluent_kafka_reads_in_a_group() {
    let (Some(kafka), Some(packages)) = (there(), packages()) else {
        return;
    };
    let topic = unique("python");
    let produce = [
        "produce",
        &topic,
        "--partitions",
        "1",
        "-K",
        ":",
        "--kind",
        "order.placed.v1",
        "-H",
        "tenant=é",
        "-H",
        "tenant=b",
    ];
    ours(&kafka.url, &produce, b"a:1\nb:2\nc:3\n");
    let read = |count: &str| {
        let args = ["read", &kafka.address, &topic, &topic, count];
        lines(&good(python(&packages, "kafka_client.py", &args), b""))
    };
    let mut read = [read("2"), read("1")].concat();
    assert_eq!(read.len(), 3);
    for (offset, message) in read.iter_mut().enumerate() {
        assert_eq!(message["offset"], offset);
        assert_eq!(message["key"], hex(["a", "b", "c"][offset]));
        assert_eq!(message["value"], hex(["1", "2", "3"][offset]));
        let headers: Vec<[Value; 2]> = serde_json::from_value(message["headers"].take()).unwrap();
        let of = |name: &str| {
            let values = headers.iter().filter(|[found, _]| found == name);
            values.map(|[_, value]| value.clone()).collect::<Vec<_>>()
        };
        assert_eq!(of("tenant"), [hex("é"), hex("b")]);
        assert_eq!(of("ce_type"), [hex("order.placed.v1")]);
        assert_eq!(of("ce_specversion"), [hex("1.0")]);
        // What CloudEvents asks of every event.
        assert_eq!((of("ce_id").len(), of("ce_source").len()), (1, 1));
        assert_ne!(of("ce_id"), [hex("")]);
    }
}

/// One of Kafka's own commands.
fn tool(jars: &Path, class: &str, args: &[&str]) -> Command {
    let mut command = Command::new("java");
    let logging = jars.join("log4j2.properties");
    command.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
    command.args([
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Xmx128m",
        "-cp",
    ]);
    command.arg(jars.join("jars/*"));
    command
        .arg(format!("org.apache.kafka.tools.{class}"))
        .args(args);
    command
}

#[test]
fn kafka_s_own_tools_and_ours_work_on_one_topic() {
    let (Some(kafka), Some(jars)) = (there(), strait_conformance::client("STRAIT_KAFKA_TOOLS"))
    else {
        return;
    };
    let topic = unique("tools");
    let at = ["--bootstrap-server", &kafka.address[..]];
    let text = |class: &str, args: &[&str], input: &str| {
        let output = good(
            tool(&jars, class, &[&at[..], args].concat()),
            input.as_bytes(),
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let create = [
        "--create",
        "--topic",
        &topic,
        "--partitions",
        "1",
        "--config",
        "retention.ms=7200000",
    ];
    text("TopicCommand", &create, "");
    let shown = ours(&kafka.url, &["topic", "show", &topic], b"");
    assert_eq!(shown[0]["partitions"], 1, "{shown:?}");

    let produce = [
        "--topic",
        &topic,
        "--reader-property",
        "parse.key=true",
        "--reader-property",
        "parse.headers=true",
    ];
    text(
        "ConsoleProducer",
        &produce,
        "tenant:eu,step:1\tada\tfrom the console\n",
    );
    let read = consumed(&kafka.url, &topic);
    assert_eq!(read[0]["key"], "ada");
    assert_eq!(read[0]["value"], "from the console");
    assert_eq!(read[0]["headers"], json!([["tenant", "eu"], ["step", "1"]]));

    ours(
        &kafka.url,
        &["produce", &topic, "-K", ":", "-H", "tenant=us"],
        b"bob:from us\n",
    );
    let consume = [
        "--topic",
        &topic,
        "--group",
        &topic,
        "--from-beginning",
        "--max-messages",
        "2",
        "--formatter-property",
        "print.key=true",
        "--formatter-property",
        "print.headers=true",
    ];
    let consumed = text("consumer.ConsoleConsumer", &consume, "");
    let found: Vec<&str> = consumed.lines().collect();
    assert_eq!(found.len(), 2, "{consumed}");
    assert_eq!(found[0], "tenant:eu,step:1\tada\tfrom the console");
    assert!(found[1].starts_with("ce_id:"), "{consumed}");
    assert!(found[1].ends_with("tenant:us\tbob\tfrom us"), "{consumed}");

    let described = text("TopicCommand", &["--describe", "--topic", &topic], "");
    assert!(described.contains("retention.ms=7200000"), "{described}");
    let groups = text(
        "consumer.group.ConsumerGroupCommand",
        &["--describe", "--group", &topic],
        "",
    );
    let row = groups
        .lines()
        .find(|line| line.contains(&topic) && !line.contains("no active"));
    let row: Vec<&str> = row.unwrap().split_whitespace().collect();
    assert_eq!(row[2..6], ["0", "2", "2", "0"], "{groups}");
}
