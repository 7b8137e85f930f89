//! What stands in Kafka: read and written by the bare client on the other side, and a cluster that does not answer.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use strait_core::events::{Append, Cursor, Events, Expected, TopicSpec};
use strait_core::{
    Attr, Engine, Health, Kind, Message, Name, NewRecord, Position, Records, Timestamp,
};
use strait_kafka::{Kafka, Options};

fn address() -> Option<String> {
    strait_conformance::server("STRAIT_KAFKA", "kafka")
}

async fn topic(kafka: &Kafka, what: &str) -> Name {
    let stamp = Timestamp::now().as_millis();
    let name = Name::new(&format!("border.{what}-{}-{stamp}", std::process::id())).unwrap();
    kafka
        .declare(TopicSpec::new(name.clone()).partitions(1))
        .await
        .unwrap();
    name
}

async fn read(kafka: &Kafka, topic: &Name) -> Vec<Message> {
    let (mut found, mut position) = (Vec::new(), Position::at(0));
    loop {
        let cursor = Cursor {
            topic: topic.clone(),
            partition: 0,
            position,
            wait: Duration::ZERO,
        };
        let chunk = kafka.read(cursor, 1 << 20).await.unwrap();
        if chunk.is_empty() {
            return found;
        }
        found.extend(chunk.iter().map(|item| item.to_message()));
        position = chunk.next();
    }
}

fn append(topic: &Name, records: Records) -> Append {
    Append {
        topic: topic.clone(),
        partition: 0,
        records,
        expected: Expected::Any,
        dedupe: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_programs_read_a_cloud_event() {
    let Some(brokers) = address() else { return };
    let kafka = Kafka::open(Options::new(&brokers)).await.unwrap();
    let topic = topic(&kafka, "out").await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let attrs = [
        (Attr::Id, "order-1"),
        (Attr::Kind, "order.placed.v1"),
        (Attr::Source, "shop"),
        (Attr::Schema, "urn:order:1"),
        (Attr::ContentType, "application/json"),
        (Attr::Traceparent, trace),
    ];
    let headers: [(&str, &[u8]); 2] = [("tenant", b"a"), ("tenant", &[0xff, 0x80])];
    let record = NewRecord {
        key: Some(b"ada"),
        body: b"{}",
        headers: &headers,
        time: Some(Timestamp::from_millis(1_700_000_000_123)),
        ..NewRecord::default()
    };
    kafka
        .append(append(&topic, Records::one(&attrs, record).unwrap()))
        .await
        .unwrap();

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .set("group.id", "other")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&topic, 0, Offset::Beginning)
        .unwrap();
    consumer.assign(&from).unwrap();
    let message = consumer.poll(Duration::from_secs(20)).unwrap().unwrap();
    assert_eq!(
        (message.key(), message.payload()),
        (Some(&b"ada"[..]), Some(&b"{}"[..]))
    );
    assert_eq!(message.timestamp().to_millis(), Some(1_700_000_000_123));
    let found: Vec<(&str, &[u8])> = message
        .headers()
        .unwrap()
        .iter()
        .map(|header| (header.key, header.value.unwrap()))
        .collect();
    let wanted: [(&str, &[u8]); 10] = [
        ("ce_id", b"order-1"),
        ("ce_specversion", b"1.0"),
        ("ce_time", b"2023-11-14T22:13:20.123Z"),
        ("ce_type", b"order.placed.v1"),
        ("ce_source", b"shop"),
        ("ce_dataschema", b"urn:order:1"),
        ("content-type", b"application/json"),
        ("traceparent", trace.as_bytes()),
        ("tenant", b"a"),
        ("tenant", &[0xff, 0x80]),
    ];
    assert_eq!(found, wanted);
    kafka.close(Duration::from_secs(5)).await;
}

/// A message without headers, one with nothing at all, one with headers that no producer of ours may send, and a CloudEvent.
fn foreign(brokers: &str, topic: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let plain: BaseRecord<'_, [u8], [u8]> =
        BaseRecord::to(topic).key(&b"k"[..]).payload(&b"plain"[..]);
    producer.send(plain).unwrap();
    let nothing: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(0);
    producer.send(nothing).unwrap();
    let long = "x".repeat(5000);
    let header = |key, value| Header { key, value };
    let odd = OwnedHeaders::new()
        .insert(header("offset", Some(&[0u8, 10, 13, 7][..])))
        .insert(header("none", None))
        .insert(header("ce_type", Some(long.as_bytes())))
        .insert(header("ce_time", Some(b"yesterday")));
    let record: BaseRecord<'_, [u8], [u8]> =
        BaseRecord::to(topic).payload(&b"odd"[..]).headers(odd);
    producer.send(record).unwrap();
    let event = OwnedHeaders::new()
        .insert(header("ce_specversion", Some(&b"1.0"[..])))
        .insert(header("ce_id", Some(b"A234")))
        .insert(header("ce_type", Some(b"com.example.made")))
        .insert(header("ce_source", Some(b"/mycontext")))
        .insert(header("ce_time", Some(b"2018-04-05T17:31:00+02:00")))
        .insert(header("ce_subject", Some(b"42")));
    let record: BaseRecord<'_, [u8], [u8]> =
        BaseRecord::to(topic).payload(&b"event"[..]).headers(event);
    producer.send(record).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_programs_are_read() {
    let Some(brokers) = address() else { return };
    let kafka = Kafka::open(Options::new(&brokers)).await.unwrap();
    let topic = topic(&kafka, "in").await;
    let (to, name) = (brokers.clone(), topic.to_string());
    tokio::task::spawn_blocking(move || foreign(&to, &name))
        .await
        .unwrap();
    let found = read(&kafka, &topic).await;
    assert_eq!(found.len(), 4);
    for (offset, message) in found.iter().take(3).enumerate() {
        // The id is the place: the same whenever it is read.
        let id = message.record().id().to_string();
        assert_eq!(id, format!("{topic}/0/{offset}"));
    }
    let [plain, nothing, odd, event] = &found[..] else {
        panic!()
    };
    assert_eq!(
        (plain.record().key(), plain.record().body()),
        (Some(&b"k"[..]), &b"plain"[..])
    );
    assert_eq!(plain.record().headers().count(), 0);
    assert_eq!(
        (nothing.record().key(), nothing.record().body()),
        (None, &b""[..])
    );
    let headers: Vec<_> = odd
        .record()
        .headers()
        .map(|(name, value)| (name, value.len()))
        .collect();
    assert_eq!(
        headers,
        [
            ("offset", 4),
            ("none", 0),
            ("ce_type", 5000),
            ("ce_time", 9)
        ]
    );
    let record = event.record();
    assert_eq!(record.id().to_string(), "A234");
    assert_eq!(record.kind(), Some("com.example.made"));
    assert_eq!(record.attr(Attr::Source), Some("/mycontext"));
    assert_eq!(record.time().as_millis(), 1_522_942_260_000);
    assert_eq!(
        record.headers().collect::<Vec<_>>(),
        [("ce_subject", &b"42"[..])]
    );
    kafka.close(Duration::from_secs(5)).await;
}

/// A port where nobody listens, as far as this test can tell.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_down_is_waited_for_visibly() {
    let options = Options {
        timeout: Duration::from_secs(1),
        first_contact: Duration::from_millis(200),
        ..Options::new(nobody())
    };
    let kafka = Kafka::open(options.clone()).await.unwrap();
    let health = kafka.health().borrow().clone();
    assert!(matches!(health, Health::Down(_)), "{health:?}");
    let topic: Name = "orders".parse().unwrap();
    let began = Instant::now();
    let record = Records::one(&[], NewRecord::default()).unwrap();
    let errors = [
        kafka.append(append(&topic, record)).await.unwrap_err(),
        kafka.topics().await.unwrap_err(),
        kafka.topic(topic.clone()).await.unwrap_err(),
        kafka.delete(topic).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
        assert!(error.may_retry(), "{error:?}");
    }
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    kafka.close(Duration::from_secs(1)).await;

    let odd = Options {
        settings: vec![("ssl.cipher.suites.of".to_owned(), "s3cret".to_owned())],
        ..options.clone()
    };
    let error = Kafka::open(odd).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{error:?}");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");

    let strict = Options {
        strict: true,
        ..options
    };
    let error = Kafka::open(strict).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
}
