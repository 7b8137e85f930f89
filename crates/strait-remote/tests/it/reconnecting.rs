//! Engines that are lost and come back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strait_core::events::{Events, GroupSpec, TopicSpec};
use strait_core::*;
use strait_remote::{ClientOptions, Connect, Connected, Reconnect, ReconnectOptions};

use crate::double::{Double, Handle, append, batch, cursor, name};
use crate::{Pair, pair_with};

/// Gives what the test has put there; fails when there is nothing.
#[derive(Debug, Default)]
struct Script {
    next: Mutex<VecDeque<Result<Connected>>>,
    attempts: AtomicUsize,
}

impl Connect for Script {
    fn connect(&self) -> Fut<Result<Connected>> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let next = self.next.lock().unwrap().pop_front();
        let nothing = || Err(Error::new(Kind::Unavailable, "nobody is there"));
        Box::pin(std::future::ready(next.unwrap_or_else(nothing)))
    }
}

impl Script {
    fn then(&self, engine: &Pair) {
        let engine: Arc<dyn Engine> = Arc::new(engine.client.clone());
        let connected = Connected {
            engine,
            local: false,
        };
        self.next.lock().unwrap().push_back(Ok(connected));
    }
}

struct Stand {
    double: Arc<Double>,
    script: Arc<Script>,
    engine: Reconnect,
    events: Arc<dyn Events>,
    first: Pair,
}

impl Stand {
    async fn new() -> Self {
        Self::with(ReconnectOptions::default()).await
    }

    async fn with(options: ReconnectOptions) -> Self {
        let double = Double::new();
        let script = Arc::new(Script::default());
        let first = pair_with(double.clone(), ClientOptions::default()).await;
        script.then(&first);
        let engine = Reconnect::open(script.clone(), options).await.unwrap();
        let events = engine.lanes().events.unwrap();
        events
            .declare(TopicSpec::new(name("orders")))
            .await
            .unwrap();
        Stand {
            double,
            script,
            engine,
            events,
            first,
        }
    }

    /// Cuts the connection; another one is there at once.
    async fn fail_over(&self) -> Pair {
        let next = pair_with(self.double.clone(), ClientOptions::default()).await;
        self.script.then(&next);
        self.first.server.abort();
        next
    }

    async fn appends(&self, count: usize) {
        self.double
            .until(|double| double.appends.load(Ordering::SeqCst) == count)
            .await;
    }
}

#[tokio::test]
async fn an_append_that_nobody_answered_is_sent_again_once() {
    let stand = Stand::new().await;
    stand.double.stalled.send_replace(true);
    let sent = tokio::spawn(stand.events.append(append("orders", 0, batch(3, 9))));
    stand.appends(1).await;
    let _next = stand.fail_over().await;
    stand.appends(2).await;
    stand.double.stalled.send_replace(false);
    let sent = sent.await.unwrap().unwrap();
    assert_eq!(
        (sent.first.offset(), sent.count, sent.duplicate),
        (0, 3, false)
    );
    let all = stand
        .events
        .read(cursor("orders", 0, 0, Duration::ZERO), 10_000)
        .await
        .unwrap();
    assert_eq!(all.len(), 3);
}

#[tokio::test]
async fn one_that_was_stored_before_the_loss_is_recognized() {
    let stand = Stand::new().await;
    let records = batch(3, 9);
    // As if the answer to the first attempt had been lost: it is stored under its id already.
    let direct = Handle(stand.double.clone());
    direct
        .append(strait_core::events::Append {
            dedupe: true,
            ..append("orders", 0, records.clone())
        })
        .await
        .unwrap();
    stand.double.stalled.send_replace(true);
    let sent = tokio::spawn(stand.events.append(append("orders", 0, records)));
    stand.appends(2).await;
    let _next = stand.fail_over().await;
    stand.appends(3).await;
    stand.double.stalled.send_replace(false);
    let sent = sent.await.unwrap().unwrap();
    assert_eq!((sent.first.offset(), sent.duplicate), (0, false));
    let all = stand
        .events
        .read(cursor("orders", 0, 0, Duration::ZERO), 10_000)
        .await
        .unwrap();
    assert_eq!(all.len(), 3);
}

#[tokio::test]
async fn the_same_batch_appended_twice_is_there_twice() {
    let stand = Stand::new().await;
    let records = batch(2, 9);
    for first in [0, 2] {
        let sent = stand
            .events
            .append(append("orders", 0, records.clone()))
            .await
            .unwrap();
        assert_eq!((sent.first.offset(), sent.duplicate), (first, false));
    }
    // The second one could not be told from a repetition: it is not sent again.
    stand.double.stalled.send_replace(true);
    let sent = tokio::spawn(stand.events.append(append("orders", 0, records)));
    stand.appends(3).await;
    let _next = stand.fail_over().await;
    let error = sent.await.unwrap().unwrap_err();
    assert!(error.is(codes::UNKNOWN_OUTCOME), "{error:?}");
}

#[tokio::test]
async fn questions_are_asked_again_and_units_that_send_too() {
    let stand = Stand::new().await;
    let read = tokio::spawn(
        stand
            .events
            .read(cursor("orders", 0, 0, Duration::from_secs(3600)), 1000),
    );
    stand
        .double
        .waiting
        .subscribe()
        .wait_for(|count| *count == 1)
        .await
        .unwrap();
    let next = stand.fail_over().await;
    let unit = Unit::send(Outgoing::Append {
        topic: name("orders"),
        partition: 0,
        records: batch(4, 1),
        expected: Default::default(),
        dedupe: false,
    });
    let outcomes = stand.engine.commit(vec![unit]).await;
    assert!(
        matches!(&outcomes[..], [Outcome::Applied(sent)] if sent[0].count == 4 && !sent[0].duplicate),
        "{outcomes:?}"
    );
    // The read waits at the new place.
    stand
        .double
        .waiting
        .subscribe()
        .wait_for(|count| *count == 1)
        .await
        .unwrap();
    read.abort();
    drop(next);
}

#[tokio::test]
async fn a_unit_that_settles_is_not_repeated() {
    let stand = Stand::new().await;
    let mut consumer = stand
        .events
        .join(GroupSpec::new(name("g"), name("orders")))
        .await
        .unwrap();
    stand.double.offer_run(consumer.id, 0, 0, 3);
    let Ok(Arrival::Run(_, receipt)) = consumer.next(3, 1000).await else {
        panic!()
    };
    let _next = stand.fail_over().await;
    let mut health = stand.first.client.health();
    health
        .wait_for(|health| matches!(health, Health::Down(_)))
        .await
        .unwrap();
    let outcome = stand
        .engine
        .commit(vec![Unit::settle(receipt, Verdict::Done)])
        .await
        .pop()
        .unwrap();
    let gone = matches!(
        &outcome,
        Outcome::Fenced | Outcome::Unknown(_) | Outcome::NotApplied(..)
    );
    assert!(gone, "{outcome:?}");
    assert!(stand.double.settled().is_empty());
}

#[tokio::test]
async fn a_consumer_loses_its_shards_and_joins_again() {
    let stand = Stand::new().await;
    let mut consumer = stand
        .events
        .join(GroupSpec::new(name("g"), name("orders")))
        .await
        .unwrap();
    for shard in [0, 1, 2] {
        stand.double.offer(1, Arrival::Assigned(shard));
    }
    stand.double.offer(1, Arrival::Lost(1));
    for _ in 0..4 {
        consumer.next(1, 1).await.unwrap();
    }
    consumer.control.hold(2, true);
    let _next = stand.fail_over().await;
    let mut lost = Vec::new();
    for _ in 0..2 {
        match consumer.next(1, 1).await.unwrap() {
            Arrival::Lost(shard) => lost.push(shard),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lost, [0, 2]);
    let (double, held) = (stand.double.clone(), stand.double.held().len());
    let wait = tokio::spawn(async move { (consumer.next(10, 1000).await, consumer) });
    // What was on hold is again.
    double.until(|double| double.held().len() > held).await;
    double.offer(2, Arrival::Assigned(0));
    let (arrival, mut consumer) = wait.await.unwrap();
    assert!(matches!(arrival.unwrap(), Arrival::Assigned(0)));
    double.offer_run(2, 0, 5, 1);
    let Arrival::Run(_, receipt) = consumer.next(10, 1000).await.unwrap() else {
        panic!()
    };
    let outcome = stand
        .engine
        .commit(vec![Unit::settle(receipt, Verdict::Done)])
        .await
        .pop();
    assert!(matches!(outcome, Some(Outcome::Applied(_))));
    consumer.control.leave();
    assert!(matches!(consumer.next(1, 1).await, Ok(Arrival::End)));
    double.until(|double| double.left().contains(&2)).await;
}

#[tokio::test]
async fn patience_ends_and_connecting_goes_on() {
    let options = ReconnectOptions {
        patience: Duration::from_millis(100),
        pause_most: Duration::from_millis(20),
        ..Default::default()
    };
    let stand = Stand::with(options).await;
    stand.first.server.abort();
    let error = stand.events.topics().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (Kind::Unavailable, Effect::NotDone),
        "{error:?}"
    );
    let mut health = stand.engine.health();
    health
        .wait_for(|health| matches!(health, Health::Down(why) if why.contains("nobody is there")))
        .await
        .unwrap();
    stand
        .script
        .then(&pair_with(stand.double.clone(), ClientOptions::default()).await);
    health
        .wait_for(|health| *health == Health::Up)
        .await
        .unwrap();
    assert_eq!(stand.events.topics().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_retried_is_told_at_once() {
    let stand = Stand::new().await;
    stand
        .script
        .next
        .lock()
        .unwrap()
        .push_back(Err(Error::new(Kind::Corrupt, "a record is damaged")));
    let mut health = stand.engine.health();
    stand.first.server.abort();
    health
        .wait_for(|health| matches!(health, Health::Down(why) if why.contains("damaged")))
        .await
        .unwrap();
    assert_eq!(
        stand.events.topics().await.unwrap_err().kind(),
        Kind::Corrupt
    );
}

#[tokio::test]
async fn the_first_connection_is_tried_for_a_while() {
    let script = Arc::new(Script::default());
    let options = ReconnectOptions {
        first_within: Duration::from_millis(100),
        pause_most: Duration::from_millis(20),
        ..Default::default()
    };
    let error = Reconnect::open(script.clone(), options).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(script.attempts.load(Ordering::SeqCst) > 2);
    script
        .next
        .lock()
        .unwrap()
        .push_back(Err(Error::new(Kind::Denied, "not yours")));
    let before = script.attempts.load(Ordering::SeqCst);
    assert_eq!(
        Reconnect::open(script.clone(), options)
            .await
            .unwrap_err()
            .kind(),
        Kind::Denied
    );
    assert_eq!(script.attempts.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn a_local_engine_is_used_directly_and_closed() {
    let script = Arc::new(Script::default());
    let double = Double::new();
    let engine: Arc<dyn Engine> = Arc::new(Handle(double.clone()));
    script.next.lock().unwrap().push_back(Ok(Connected {
        engine,
        local: true,
    }));
    let engine = Reconnect::open(script, ReconnectOptions::default())
        .await
        .unwrap();
    let events = engine.lanes().events.unwrap();
    events
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    let records = batch(1, 1);
    for first in [0, 1] {
        let sent = events
            .append(append("orders", 0, records.clone()))
            .await
            .unwrap();
        assert_eq!(sent.first.offset(), first);
    }
    engine.close(Duration::from_secs(1)).await;
    assert!(matches!(*double.health.borrow(), Health::Ended(_)));
    assert!(matches!(*engine.health().borrow(), Health::Ended(_)));
    assert_eq!(events.topics().await.unwrap_err().kind(), Kind::Closed);
}
