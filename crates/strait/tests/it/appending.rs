//! Appending under conditions, within bounds, and with a trace.

use std::future::IntoFuture;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use strait::core::events::TopicChange;
use strait::core::{Attr, Effect};
use strait::{Kind, Position, Raw, Start, Timestamp, TraceContext, codes};

use crate::opening::without_ledger;
use crate::support::*;

fn poll_once<T>(future: &mut Pin<Box<dyn Future<Output = T> + Send>>) -> Poll<T> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn try_append_answers_busy_where_append_waits_for_room() {
    let strait = memory();
    let topic = strait.events().topic::<Raw>("big").await.unwrap();
    let big = Raw::bytes(vec![7; 1 << 20]);
    // Polled once each: what is not ready keeps its room until it is polled again.
    let mut under_way = Vec::new();
    while under_way.len() < 64 {
        let mut append = topic.append(&big).into_future();
        if poll_once(&mut append).is_pending() {
            under_way.push(append);
        }
    }
    let refused = topic.try_append(&big).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Busy, "{refused:?}");
    assert!(refused.may_retry());
    assert_eq!(refused.effect(), Effect::NotDone);
    for append in under_way {
        append.await.unwrap();
    }
    topic.try_append(&big).await.unwrap();
}

#[tokio::test]
async fn a_position_that_is_expected_guards_the_end_of_a_partition() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let first = order("ada", 1);
    let at = |offset| Position::at(offset);
    orders.append(&first).expect_position(at(0)).await.unwrap();
    let refused = orders
        .append(&first)
        .expect_position(at(0))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.is(codes::WRONG_VERSION), "{refused:?}");
    assert!(refused.to_string().contains("orders"), "{refused}");
    orders.append(&first).expect_position(at(1)).await.unwrap();
    let refused = orders.append(&first).expect_version(1).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused:?}");
    let advice = refused.advice().unwrap_or_default();
    assert!(advice.contains("key versions"), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn an_append_that_takes_too_long_says_that_it_may_have_happened() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let big = Raw::bytes(vec![7; 1 << 20]);
    let raw = orders.raw();
    // All the room is taken and stays so: only the clock can end the next one.
    let mut under_way = Vec::new();
    while under_way.len() < 64 {
        let mut append = raw.append(&big).into_future();
        if poll_once(&mut append).is_pending() {
            under_way.push(append);
        }
    }
    let late = raw
        .append(&big)
        .within(Duration::from_secs(5))
        .await
        .unwrap_err();
    assert_eq!(late.kind(), Kind::TimedOut, "{late:?}");
    assert_eq!(late.effect(), Effect::Unknown);
    assert!(
        late.advice().unwrap_or_default().contains(".id("),
        "{late:?}"
    );
}

#[tokio::test]
async fn more_than_a_batch_is_appended_in_order() {
    let strait = memory();
    let raw = orders(&strait, 1).await.raw();
    let bodies: Vec<Raw> = (0..20_u8)
        .map(|n| Raw::bytes(vec![n; 1 << 20]).with_key("ada"))
        .collect();
    let appended = raw.append_all(&bodies).await.unwrap();
    let positions: Vec<u64> = appended.iter().map(|a| a.position.offset()).collect();
    assert_eq!(positions, (0..20).collect::<Vec<_>>());
    let mut reader = raw.read(0, Start::At(Position::at(17))).until_end();
    assert_eq!(reader.next().await.unwrap().unwrap().body()[0], 17);
}

#[tokio::test]
async fn trace_and_correlation_travel_with_the_message() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let trace = TraceContext::start();
    orders
        .append(&order("ada", 1))
        .trace(trace)
        .correlation("request-9")
        .await
        .unwrap();
    orders
        .append_all(&[order("ada", 2)])
        .trace(trace)
        .await
        .unwrap();
    let mut reader = orders.read(0, Start::Earliest).until_end();
    let first = reader.next().await.unwrap().unwrap();
    let record = first.stored().record();
    assert_eq!(record.attr(Attr::Correlation), Some("request-9"));
    assert_eq!(record.attr(Attr::ContentType), Some("application/json"));
    for event in [first, reader.next().await.unwrap().unwrap()] {
        let carried = event.stored().record().attr(Attr::Traceparent);
        assert_eq!(carried, Some(trace.to_string().as_str()));
    }
}

#[tokio::test]
async fn readers_begin_at_a_time_and_keys_may_be_given_by_hand() {
    let strait = memory();
    let orders = orders(&strait, 2).await;
    let at = Timestamp::from_millis;
    for (number, time) in [(1, 1_000), (2, 2_000), (3, 3_000)] {
        orders
            .append(&order("ada", number))
            .key("one key")
            .time(at(time))
            .await
            .unwrap();
    }
    let partition = orders.partition_of(b"one key");
    let mut reader = orders.read(partition, Start::Time(at(1_500))).until_end();
    let event = reader.next().await.unwrap().unwrap();
    assert_eq!(
        (event.message.number, event.key()),
        (2, Some(&b"one key"[..]))
    );
    let other = 1 - partition;
    let appended = orders
        .append(&order("ada", 4))
        .partition(other)
        .await
        .unwrap();
    assert_eq!(appended.partition, other);
}

#[tokio::test]
async fn the_history_of_a_key_is_read_whole() {
    let strait = without_ledger(memory());
    let streams = strait
        .events()
        .topic::<Order>("streams")
        .partitions(1)
        .key_versions()
        .await
        .unwrap();
    for batch in 0..10 {
        let both = (0..50).flat_map(|n| ["ada", "bob"].map(|who| order(who, batch * 50 + n)));
        streams.append_all(&both.collect::<Vec<_>>()).await.unwrap();
    }
    // This engine refuses to answer more than 100 at once, as one in another process does when they are large.
    let ada = streams.read_key("ada").await.unwrap();
    let numbers: Vec<u64> = ada.iter().map(|(_, event)| event.message.number).collect();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
    let some = streams
        .read_key("ada")
        .from(400)
        .limit(1_200)
        .await
        .unwrap();
    let versions: Vec<u64> = some.iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, (400..=500).collect::<Vec<_>>());
    let few = streams.read_key("ada").limit(250).await.unwrap();
    assert_eq!(few.len(), 250);
}

#[tokio::test]
async fn a_topic_that_gets_more_partitions_is_used_as_it_is() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    let change = TopicChange {
        partitions: Some(16),
        ..TopicChange::default()
    };
    let other = orders.clone();
    let info = other.alter(change.clone()).await.unwrap();
    assert_eq!((info.partitions.len(), orders.partitions()), (16, 16));
    let appended = orders.append(&order("ada", 2)).await.unwrap();
    assert_eq!(appended.partition, orders.partition_of(b"ada"));
    let fewer = TopicChange {
        partitions: Some(2),
        ..change
    };
    assert_eq!(
        orders.alter(fewer).await.unwrap_err().kind(),
        Kind::Rejected
    );
}
