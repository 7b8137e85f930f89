//! Connections that end: what callers are told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use strait_core::events::{GroupSpec, TopicSpec};
use strait_core::*;
use strait_remote::{Client, ClientOptions};

use crate::double::{Double, append, batch, cursor, name};
use crate::{Pair, pair, pair_with};

async fn with_topic() -> Pair {
    let pair = pair().await;
    pair.events
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    pair
}

#[tokio::test]
async fn a_lost_connection_tells_each_caller_what_it_means() {
    let pair = with_topic().await;
    pair.double.stalled.send_replace(true);
    let plain = tokio::spawn(pair.events.append(append("orders", 0, batch(1, 1))));
    let mut deduped = append("orders", 0, batch(1, 1));
    deduped.dedupe = true;
    let deduped = tokio::spawn(pair.events.append(deduped));
    let read = pair
        .events
        .read(cursor("orders", 0, 0, Duration::from_secs(3600)), 100);
    let read = tokio::spawn(read);
    let mut consumer = pair
        .events
        .join(GroupSpec::new(name("g"), name("orders")))
        .await
        .unwrap();
    pair.double
        .until(|double| double.appends.load(Ordering::SeqCst) == 2)
        .await;
    pair.double
        .waiting
        .subscribe()
        .wait_for(|count| *count == 1)
        .await
        .unwrap();

    pair.server.abort();
    let plain = plain.await.unwrap().unwrap_err();
    assert!(plain.is(codes::UNKNOWN_OUTCOME), "{plain:?}");
    assert_eq!(
        (plain.kind(), plain.effect(), plain.may_retry()),
        (Kind::Unavailable, Effect::Unknown, false)
    );
    assert_eq!(plain.operation(), "append");
    let deduped = deduped.await.unwrap().unwrap_err();
    assert_eq!(
        (deduped.effect(), deduped.may_retry()),
        (Effect::Unknown, true)
    );
    let read = read.await.unwrap().unwrap_err();
    assert_eq!(
        (read.kind(), read.effect(), read.may_retry()),
        (Kind::Unavailable, Effect::NotDone, true)
    );
    let input = consumer.next(1, 1).await.unwrap_err();
    assert_eq!(input.kind(), Kind::Unavailable);
    assert!(matches!(consumer.next(1, 1).await, Ok(Arrival::End)));
    assert!(matches!(*pair.client.health().borrow(), Health::Down(_)));

    let late = pair
        .events
        .append(append("orders", 0, batch(1, 1)))
        .await
        .unwrap_err();
    assert_eq!(
        (late.kind(), late.effect()),
        (Kind::Unavailable, Effect::NotDone)
    );
    let unit = Unit::send(Outgoing::Append {
        topic: name("orders"),
        partition: 0,
        records: batch(1, 1),
        expected: Default::default(),
        dedupe: false,
    });
    let outcome = pair.client.commit(vec![unit]).await.pop().unwrap();
    assert!(matches!(outcome, Outcome::NotApplied(unit, _) if unit.send.len() == 1));
    assert_eq!(
        pair.events
            .join(GroupSpec::new(name("g"), name("orders")))
            .await
            .unwrap_err()
            .kind(),
        Kind::Unavailable
    );
}

#[tokio::test]
async fn a_commit_under_way_has_an_unknown_outcome() {
    let pair = with_topic().await;
    let mut consumer = pair
        .events
        .join(GroupSpec::new(name("g"), name("orders")))
        .await
        .unwrap();
    pair.double.offer_run(consumer.id, 0, 0, 3);
    let Ok(Arrival::Run(_, receipt)) = consumer.next(3, 1000).await else {
        panic!()
    };
    let commit = pair
        .client
        .commit(vec![Unit::settle(receipt, Verdict::Done), Unit::default()]);
    // Sent with the first poll; the server never gets to it.
    pair.server.abort();
    let outcomes = commit.await;
    assert_eq!(outcomes.len(), 2);
    for outcome in outcomes {
        match outcome {
            Outcome::Unknown(error) => assert!(error.is(codes::UNKNOWN_OUTCOME), "{error:?}"),
            // Or the end was noticed before anything was sent.
            Outcome::NotApplied(_, error) => assert_eq!(error.kind(), Kind::Unavailable),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn when_a_client_goes_its_consumers_leave() {
    let pair = with_topic().await;
    let consumer = pair
        .events
        .join(GroupSpec::new(name("g"), name("orders")))
        .await
        .unwrap();
    // Dropped without a word, as by the death of its process.
    std::mem::forget(consumer);
    let Pair {
        double,
        client,
        events,
        server,
    } = pair;
    client.close(Duration::from_secs(5)).await;
    drop(events);
    double.until(|double| double.left() == [1]).await;
    server.await.unwrap().unwrap();
    let closed = client.claim(Claim {
        scope: "s".into(),
        key: "k".into(),
        holder: "h".into(),
        lease: Duration::ZERO,
        wait: Duration::ZERO,
        at_most_once: false,
    });
    assert_eq!(closed.await.unwrap_err().kind(), Kind::Closed);
    assert!(matches!(*client.health().borrow(), Health::Ended(_)));
    client.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn the_connection_ends_with_the_last_handle() {
    let pair = with_topic().await;
    let mut consumer = pair
        .events
        .join(GroupSpec::new(name("g"), name("orders")))
        .await
        .unwrap();
    let Pair {
        double,
        client,
        events,
        server,
    } = pair;
    drop((client, events));
    // The consumer keeps it.
    double.offer(consumer.id, Arrival::Assigned(3));
    assert!(matches!(
        consumer.next(1, 1).await,
        Ok(Arrival::Assigned(3))
    ));
    drop(consumer);
    server.await.unwrap().unwrap();
    assert_eq!(double.left(), [1]);
}

#[tokio::test]
async fn a_close_waits_for_what_is_under_way() {
    let pair = with_topic().await;
    pair.double.stalled.send_replace(true);
    let sent = tokio::spawn(pair.events.append(append("orders", 0, batch(2, 1))));
    pair.double
        .until(|double| double.appends.load(Ordering::SeqCst) == 1)
        .await;
    let close = tokio::spawn(pair.client.close(Duration::from_secs(20)));
    pair.double.stalled.send_replace(false);
    assert_eq!(sent.await.unwrap().unwrap().count, 2);
    close.await.unwrap();
}

#[tokio::test]
async fn an_owner_that_is_silent_is_lost() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let engine: Arc<dyn Engine> = Arc::new(crate::double::Handle(Double::new()));
    let (reader, writer) = tokio::io::split(far);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.spawn(strait_remote::serve(
        reader,
        writer,
        engine,
        Duration::from_secs(5),
    ));
    let (reader, writer) = tokio::io::split(near);
    let options = ClientOptions {
        silence: Duration::from_millis(300),
        ..Default::default()
    };
    let client = Client::over(reader, writer, options).await.unwrap();
    let events = client.lanes().events.unwrap();
    events
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    // A read that waits longer is no silence: the owner answers pings.
    let wait = Duration::from_millis(900);
    assert!(
        events
            .read(cursor("orders", 0, 0, wait), 100)
            .await
            .unwrap()
            .is_empty()
    );
    // The owner's thread stands still, as with SIGSTOP.
    let (go_on, stop) = std::sync::mpsc::channel::<()>();
    let (say, stands) = tokio::sync::oneshot::channel();
    runtime.spawn(async move {
        say.send(()).unwrap();
        stop.recv()
    });
    stands.await.unwrap();
    let error = events.topics().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert!(error.message().contains("silent"), "{error:?}");
    drop(go_on);
    let _ = server.await;
    runtime.shutdown_background();
}

#[tokio::test]
async fn one_that_never_answers_the_greeting_is_unavailable() {
    let (near, _far) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(near);
    let options = ClientOptions {
        hello_within: Duration::from_millis(50),
        ..Default::default()
    };
    let error = Client::over(reader, writer, options).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
}

#[tokio::test]
async fn a_blocked_runtime_delays_no_answer() {
    let double = Double::new();
    let pair = pair_with(double, ClientOptions::default()).await;
    pair.events
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    // This runtime has one thread, and the server of the pair runs on it: so ask from another thread, and let the client's
    // own thread do the work while that thread only blocks.
    let events = pair.events.clone();
    let asked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(events.topics()).unwrap().len()
    });
    let joined = tokio::task::spawn_blocking(move || asked.join().unwrap());
    assert_eq!(joined.await.unwrap(), 1);
}
