//! Topics: appending, reading, ids and versions.

use std::borrow::Cow;
use std::future::IntoFuture;
use std::task::{Context, Waker};

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use strait::core::{NewRecord, RecordsBuilder};
use strait::{Kind, Message, Position, Raw, Retention, Start, Strait, Timestamp, codes, days};

use crate::support::*;

#[tokio::test]
async fn an_appended_message_is_read_as_it_was() {
    let strait = memory();
    let orders = orders(&strait, 4).await;
    let appended = orders
        .append(&order("ada", 7))
        .id("o-7")
        .header("tenant", "eu")
        .header("tenant", "us")
        .time(Timestamp::from_millis(-5))
        .await
        .unwrap();
    assert_eq!(appended.partition, orders.partition_of(b"ada"));
    assert!(!appended.duplicate);
    let again = orders.append(&order("ada", 7)).id("o-7").await.unwrap();
    assert_eq!((again.position, again.duplicate), (appended.position, true));
    let mut reader = orders.read(appended.partition, Start::Earliest).until_end();
    let event = reader.next().await.unwrap().unwrap();
    assert_eq!(event.message, order("ada", 7));
    assert_eq!(
        (event.id().as_str(), event.key(), event.kind()),
        ("o-7", Some(&b"ada"[..]), Some("order.placed.v1"))
    );
    assert_eq!(event.header("tenant"), Some(&b"eu"[..]));
    assert_eq!(event.time().as_millis(), -5);
    assert!(reader.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_reader_follows_and_decodes_what_it_can() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    orders
        .raw()
        .append(&Raw::new("order.placed.v1", "no JSON"))
        .await
        .unwrap();
    let mut reader = orders.read(0, Start::Earliest);
    assert_eq!(reader.next().await.unwrap().unwrap().message.number, 1);
    let error = reader.next().await.unwrap_err();
    assert!(
        error.is(codes::UNDECODABLE) && error.to_string().contains("position 1"),
        "{error}"
    );
    let waiting = tokio::spawn(async move { reader.next().await });
    place(&orders, "ada", [3]).await;
    assert_eq!(waiting.await.unwrap().unwrap().unwrap().message.number, 3);

    let numbers: Vec<_> = orders
        .read(0, Start::Last(3))
        .until_end()
        .into_stream()
        .collect()
        .await;
    assert_eq!(numbers.len(), 3);
    assert!(numbers[0].is_ok() && numbers[1].is_err() && numbers[2].is_ok());
    let mut late = orders.read(0, Start::At(Position::at(2))).until_end();
    assert_eq!(late.next_chunk().await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn many_messages_are_appended_together_and_answered_in_order() {
    let strait = memory();
    let orders = orders(&strait, 3).await;
    let all: Vec<Order> = (0..100).map(|n| order(&format!("c{}", n % 7), n)).collect();
    let answers = orders.append_all(&all).await.unwrap();
    assert_eq!(answers.len(), 100);
    for (message, answer) in all.iter().zip(&answers) {
        let mut reader = orders
            .read(answer.partition, Start::At(answer.position))
            .until_end();
        assert_eq!(reader.next().await.unwrap().unwrap().message, *message);
    }
    assert!(orders.append_all(&[]).await.unwrap().is_empty());
    let mut wrong = all.clone();
    wrong[50].customer = "x".repeat(70_000);
    let before = orders.info().await.unwrap();
    assert!(
        orders
            .append_all(&wrong)
            .await
            .unwrap_err()
            .is(codes::TOO_LARGE)
    );
    assert_eq!(
        orders.info().await.unwrap(),
        before,
        "nothing of a refused call is sent"
    );
}

#[derive(Debug, PartialEq, Message)]
enum Account {
    #[message("account.opened.v1", key = owner)]
    Opened {
        owner: String,
        #[serde(default)]
        limit: u32,
    },
    #[message("account.ordered.v1", key = customer)]
    Ordered(Order),
    #[message("account.closed.v1")]
    Closed,
}

#[tokio::test]
async fn one_topic_carries_several_kinds() {
    let strait = memory();
    let accounts = strait
        .events()
        .topic::<Account>("accounts")
        .partitions(1)
        .await
        .unwrap();
    let opened = Account::Opened {
        owner: "ada".into(),
        limit: 5,
    };
    assert_eq!(opened.key(), Some(Cow::Borrowed(&b"ada"[..])));
    let all = [opened, Account::Ordered(order("ada", 1)), Account::Closed];
    accounts.append_all(&all).await.unwrap();
    accounts
        .raw()
        .append(&Raw::new(
            "account.opened.v1",
            r#"{"owner":"bob","more":1}"#,
        ))
        .await
        .unwrap();
    accounts
        .raw()
        .append(&Raw::new("account.frozen.v1", "{}"))
        .await
        .unwrap();
    let mut reader = accounts.read(0, Start::Earliest).until_end();
    for expected in &all {
        let event = reader.next().await.unwrap().unwrap();
        assert_eq!((&event.message, event.kind()), (expected, expected.kind()));
    }
    let lenient = reader.next().await.unwrap().unwrap().message;
    assert_eq!(
        lenient,
        Account::Opened {
            owner: "bob".into(),
            limit: 0
        }
    );
    let error = reader.next().await.unwrap_err();
    assert!(strait::message::is_unknown_kind(&error), "{error}");
    assert!(error.to_string().contains("account.frozen.v1"), "{error}");
}

#[tokio::test]
async fn versions_of_a_key_guard_its_stream() {
    let strait = memory();
    let stream = strait
        .events()
        .topic::<Order>("streams")
        .partitions(2)
        .key_versions()
        .await
        .unwrap();
    stream
        .append(&order("ada", 1))
        .expect_version(0)
        .await
        .unwrap();
    stream
        .append(&order("bob", 9))
        .expect_version(0)
        .await
        .unwrap();
    let error = stream
        .append(&order("ada", 2))
        .expect_version(0)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.is(codes::WRONG_VERSION)),
        (Kind::Conflict, true)
    );
    stream
        .append(&order("ada", 2))
        .expect_version(1)
        .await
        .unwrap();
    let ada: Vec<_> = stream
        .read_key("ada")
        .await
        .unwrap()
        .into_iter()
        .map(|(v, e)| (v, e.message.number))
        .collect();
    assert_eq!(ada, [(1, 1), (2, 2)]);
    assert_eq!(
        stream.read_key("ada").from(2).limit(5).await.unwrap().len(),
        1
    );
    assert!(stream.read_key("nobody").await.unwrap().is_empty());
    assert_eq!(
        stream.read_key("ada").from(0).await.unwrap_err().kind(),
        Kind::Rejected
    );
}

#[tokio::test]
async fn a_topic_is_checked_against_what_is_asked() {
    let strait = memory();
    let retention = Retention {
        age: Some(days(1)),
        bytes: None,
    };
    strait
        .events()
        .topic::<Raw>("t")
        .partitions(3)
        .retention(retention)
        .await
        .unwrap();
    let info = strait
        .events()
        .topic::<Raw>("t")
        .await
        .unwrap()
        .info()
        .await
        .unwrap();
    assert_eq!((info.partitions.len(), info.retention), (3, retention));
    let error = strait
        .events()
        .topic::<Raw>("t")
        .partitions(4)
        .await
        .unwrap_err();
    assert!(error.is(codes::TOPIC_EXISTS), "{error:?}");
    let error = strait.events().topic::<Raw>("no spaces").await.unwrap_err();
    assert!(error.is(codes::BAD_NAME), "{error:?}");
    strait.events().delete("t").await.unwrap();
    assert!(strait.events().topics().await.unwrap().is_empty());
}

#[tokio::test]
async fn bad_input_is_refused_by_name() {
    let strait = memory();
    let orders = orders(&strait, 2).await;
    let raw = orders.raw();
    let refused = raw
        .append(&Raw::bytes(vec![0; (1 << 20) + 1]))
        .await
        .unwrap_err();
    assert!(
        refused.is(codes::TOO_LARGE) && refused.to_string().contains("topic orders"),
        "{refused}"
    );
    let refused = raw
        .append(&Raw::bytes("x"))
        .header("a", "b\r\nc: d")
        .await
        .unwrap_err();
    assert!(refused.is(codes::BAD_HEADER), "{refused:?}");
    let refused = raw.append(&Raw::bytes("x")).id("a\nb").await.unwrap_err();
    assert!(refused.is(codes::BAD_HEADER), "{refused:?}");
    let refused = raw.append(&Raw::bytes("x")).partition(2).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Rejected);
    let mut batch = RecordsBuilder::new(&[]).unwrap();
    batch.push(NewRecord::default()).unwrap();
    let refused = raw.append_records(9, batch.build()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Rejected, "{refused:?}");
}

#[tokio::test]
async fn an_append_that_is_dropped_after_its_first_poll_is_whole_or_absent() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    for number in 0..50 {
        let message = order("ada", number);
        let mut append = orders
            .append(&message)
            .id(format!("o-{number}"))
            .into_future();
        let _ = append
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        drop(append);
        // The same id again: whatever became of the first, there is one.
        orders
            .append(&message)
            .id(format!("o-{number}"))
            .await
            .unwrap();
    }
    let mut reader = orders.read(0, Start::Earliest).until_end();
    let mut numbers = Vec::new();
    while let Some(event) = reader.next().await.unwrap() {
        numbers.push(event.message.number);
    }
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_strait_that_is_dropped_without_close_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        // Opening again finds the lock free: the dropped one has ended.
        let strait = open_patiently(dir.path()).await;
        let orders = orders(&strait, 1).await;
        assert_eq!(
            orders.info().await.unwrap().partitions[0].end.offset(),
            round
        );
        place(&orders, "ada", [round]).await;
    }
}

/// A dropped engine ends in the background: it may hold its lock a moment longer.
async fn open_patiently(dir: &std::path::Path) -> Strait {
    for _ in 0..1000 {
        match Strait::embedded(dir).await {
            Err(error) if error.is(codes::LOCKED) => tokio::task::yield_now().await,
            other => return other.unwrap(),
        }
    }
    panic!("the directory stays locked");
}

#[derive(Debug, Serialize, Deserialize, Message)]
#[message("heart.beat.v1")]
struct Beat;

#[tokio::test]
async fn messages_without_a_key_go_round() {
    let strait = memory();
    let beats = strait
        .events()
        .topic::<Beat>("beats")
        .partitions(4)
        .await
        .unwrap();
    let mut hit = [0; 4];
    for _ in 0..8 {
        hit[beats.append(&Beat).await.unwrap().partition as usize] += 1;
    }
    assert_eq!(hit, [2; 4]);
    let together = beats.append_all(&[Beat, Beat, Beat]).await.unwrap();
    assert!(
        together
            .iter()
            .all(|a| a.partition == together[0].partition)
    );
}
