//! Requests and answers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use strait_core::events::TopicSpec;
use strait_core::*;

use crate::double::{Handle, append, batch, cursor, name};
use crate::pair;

#[tokio::test]
async fn what_is_appended_is_read_back() {
    let pair = pair().await;
    pair.events
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    let batches: Vec<_> = (0..300).map(|number| batch(1 + number % 40, 200)).collect();
    // All under way at the same time; they arrive in the order in which they were polled.
    let appends = batches
        .iter()
        .map(|batch| pair.events.append(append("orders", 0, batch.clone())));
    let sent = join_all(appends).await;
    let mut next = 0;
    for (sent, batch) in sent.into_iter().zip(&batches) {
        let sent = sent.unwrap();
        assert_eq!(
            (sent.first.offset(), sent.count as usize),
            (next, batch.len())
        );
        next += batch.len() as u64;
    }
    let (mut at, mut bodies) = (0, Vec::new());
    while at < next {
        let chunk = pair
            .events
            .read(cursor("orders", 0, at, Duration::ZERO), 100_000)
            .await
            .unwrap();
        bodies.extend(
            chunk
                .iter()
                .map(|item| (item.position().offset(), item.record().body().to_vec())),
        );
        at = chunk.next().offset();
    }
    let wanted = batches
        .iter()
        .flat_map(|batch| batch.iter().map(|record| record.body().to_vec()));
    assert!(
        bodies
            .into_iter()
            .eq(wanted.enumerate().map(|(at, body)| (at as u64, body)))
    );
}

#[tokio::test]
async fn the_storage_is_that_of_the_other_side() {
    let pair = pair().await;
    let (there, here) = (pair.double.clone(), &pair.client);
    let wanted = Handle(there).storage().await.unwrap();
    assert_eq!(here.storage().await.unwrap(), wanted);
}

#[tokio::test]
async fn errors_come_with_everything_that_they_say() {
    let pair = pair().await;
    let error = pair
        .events
        .append(append("nowhere", 0, batch(1, 1)))
        .await
        .unwrap_err();
    assert!(error.is(codes::NO_SUCH_TOPIC));
    assert_eq!(
        (error.kind(), error.effect()),
        (Kind::NotFound, Effect::NotDone)
    );
    assert_eq!(error.context(), [("topic", "nowhere".to_owned())]);
    let refused = pair.events.groups().await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.advice()),
        (Kind::Unsupported, Some("the real engine"))
    );
}

#[tokio::test]
async fn a_read_that_waits_delays_nobody_and_is_cancelled_when_it_is_dropped() {
    let pair = pair().await;
    pair.events
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    let read = pair
        .events
        .read(cursor("orders", 0, 0, Duration::from_secs(3600)), 1000);
    let read = tokio::spawn(read);
    let mut waiting = pair.double.waiting.subscribe();
    waiting.wait_for(|count| *count == 1).await.unwrap();
    pair.events
        .append(append("orders", 0, batch(3, 5)))
        .await
        .unwrap();
    read.abort();
    waiting.wait_for(|count| *count == 0).await.unwrap();
}

#[tokio::test]
async fn an_answer_may_be_longer_than_a_frame() {
    let pair = pair().await;
    // 600,000 partitions are described in 24 MB.
    let spec = TopicSpec::new(name("wide")).partitions(600_000);
    assert_eq!(
        pair.events.declare(spec).await.unwrap().partitions.len(),
        600_000
    );
}

#[tokio::test]
async fn a_request_longer_than_a_frame_is_refused_before_it_is_sent() {
    let pair = pair().await;
    pair.events
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    let limits = Limits {
        batch: 64 << 20,
        ..Limits::default()
    };
    let mut builder = RecordsBuilder::with(&[], limits, Timestamp::now(), 1).unwrap();
    let body = vec![0; 1 << 20];
    for _ in 0..17 {
        builder
            .push(NewRecord {
                body: &body,
                ..Default::default()
            })
            .unwrap();
    }
    let records = builder.build();
    assert!(pair.events.caps().max_batch < records.bytes().len());
    let error = pair
        .events
        .append(append("orders", 0, records.clone()))
        .await
        .unwrap_err();
    assert!(error.is(codes::TOO_LARGE), "{error:?}");
    let big = Outgoing::Append {
        topic: name("orders"),
        partition: 0,
        records,
        expected: Default::default(),
        dedupe: false,
    };
    let small = Outgoing::Append {
        topic: name("orders"),
        partition: 0,
        records: batch(1, 1),
        expected: Default::default(),
        dedupe: false,
    };
    let units = vec![
        Unit::send(small.clone()),
        Unit::send(big),
        Unit::send(small),
    ];
    let outcomes = pair.client.commit(units).await;
    assert!(matches!(&outcomes[0], Outcome::Applied(sent) if sent[0].first.offset() == 0));
    assert!(
        matches!(&outcomes[1], Outcome::NotApplied(unit, error) if unit.send.len() == 1 && error.is(codes::TOO_LARGE))
    );
    assert!(matches!(&outcomes[2], Outcome::Applied(sent) if sent[0].first.offset() == 1));
    assert_eq!(pair.double.appends.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn more_than_the_window_is_under_way_only_when_there_is_room() {
    let pair = pair().await;
    pair.events
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    pair.double.stalled.send_replace(true);
    // 100 MiB of appends: 64 MiB may be under way.
    let one = batch(1, 1 << 20);
    let appends = (0..100).map(|_| pair.events.append(append("orders", 0, one.clone())));
    let all = tokio::spawn(join_all(appends.collect::<Vec<_>>()));
    pair.double
        .until(|double| double.appends.load(Ordering::SeqCst) >= 60)
        .await;
    // A question gets through meanwhile.
    pair.events.topics().await.unwrap();
    assert!(pair.double.appends.load(Ordering::SeqCst) <= 64);
    pair.double.stalled.send_replace(false);
    assert!(all.await.unwrap().iter().all(Result::is_ok));
    assert_eq!(pair.double.appends.load(Ordering::SeqCst), 100);
}

#[tokio::test]
async fn health_and_claims_travel() {
    let pair = pair().await;
    let mut health = pair.client.health();
    assert_eq!(*health.borrow(), Health::Up);
    let impaired = Health::Impaired("the disk is full".into());
    pair.double.health.send_replace(impaired.clone());
    health.wait_for(|health| *health == impaired).await.unwrap();
    let claim = Claim {
        scope: "mail".into(),
        key: "order-7".into(),
        holder: "me".into(),
        lease: Duration::from_secs(3),
        wait: Duration::ZERO,
        at_most_once: false,
    };
    assert_eq!(
        pair.client.claim(claim).await.unwrap(),
        Claimed::Run(ClaimToken(7))
    );
    assert_eq!(pair.client.id(), EngineId("double".into()));
    assert!(pair.client.peer().contains(&std::process::id().to_string()));
}
