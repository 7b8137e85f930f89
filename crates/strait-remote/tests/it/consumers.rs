//! Consumers: credit, receipts, leases of what waits, leaving.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use strait_core::events::GroupSpec;
use strait_core::*;

use crate::double::{Double, Handle, fence, name};
use crate::{Pair, pair, pair_with};

fn group() -> GroupSpec {
    GroupSpec::new(name("billing"), name("orders"))
}

async fn joined() -> (Pair, Consumer) {
    let pair = pair().await;
    let consumer = pair.events.join(group()).await.unwrap();
    (pair, consumer)
}

async fn next(consumer: &mut Consumer, items: usize) -> Arrival {
    let arrival = consumer.next(items, 1 << 20);
    let late = Duration::from_secs(20);
    tokio::time::timeout(late, arrival)
        .await
        .expect("nothing arrives")
        .unwrap()
}

fn run(arrival: Arrival) -> (Chunk, Receipt) {
    match arrival {
        Arrival::Run(chunk, receipt) => (chunk, receipt),
        other => panic!("not a run: {other:?}"),
    }
}

#[tokio::test]
async fn no_more_arrives_than_was_asked_for() {
    let (pair, mut consumer) = joined().await;
    pair.double.offer(consumer.id, Arrival::Assigned(0));
    pair.double.offer_run(consumer.id, 0, 0, 1000);
    assert!(matches!(
        next(&mut consumer, 10).await,
        Arrival::Assigned(0)
    ));
    let (chunk, receipt) = run(next(&mut consumer, 10).await);
    assert_eq!((chunk.len(), receipt.count()), (10, 10));
    // The grant is used up, and nothing else was taken from the engine.
    pair.events.topics().await.unwrap();
    assert_eq!(pair.double.given(consumer.id), (10, 10));
    let (chunk, rest) = run(next(&mut consumer, 100).await);
    assert_eq!(chunk.first(), Some(Position::at(10)));
    assert!(chunk.len() <= 100 && pair.double.given(consumer.id).0 <= 110);
    drop((receipt, rest));
}

#[tokio::test]
async fn what_waits_is_cut_to_what_is_asked_for() {
    let (pair, mut consumer) = joined().await;
    // Granted by a poll that nobody follows up.
    let arrival = tokio::time::timeout(Duration::from_millis(1), consumer.next(100, 1 << 20));
    assert!(arrival.await.is_err());
    pair.double.offer_run(consumer.id, 3, 50, 100);
    pair.double.until(|double| double.given(1).0 == 100).await;
    let (mut at, mut receipts) = (50, Vec::new());
    for items in [1, 7, 100] {
        let (chunk, receipt) = run(next(&mut consumer, items).await);
        assert_eq!(chunk.len(), items.min(150 - at));
        assert_eq!(
            (chunk.first(), receipt.fence().first),
            (Some(Position::at(at as u64)), Position::at(at as u64))
        );
        let positions: Vec<_> = chunk
            .iter()
            .map(|item| item.position().offset() as usize)
            .collect();
        at += chunk.len();
        assert!(positions.into_iter().eq(at - chunk.len()..at));
        assert_eq!(chunk.next(), Position::at(at as u64));
        receipts.push(receipt);
    }
    assert_eq!(at, 150);
}

#[tokio::test]
async fn receipts_settle_whole_in_pieces_and_joined() {
    let (pair, mut consumer) = joined().await;
    pair.double.offer_run(consumer.id, 0, 0, 10);
    pair.double.offer_run(consumer.id, 0, 10, 10);
    let (_, mut first) = run(next(&mut consumer, 10).await);
    let (_, second) = run(next(&mut consumer, 10).await);
    let head = first.split_at(4).unwrap();
    first.join(second).unwrap();
    let units = vec![
        Unit::settle(first, Verdict::Done),
        Unit::settle(head, Verdict::Dead("no".into())),
    ];
    let outcomes = pair.client.commit(units).await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Applied(_))),
        "{outcomes:?}"
    );
    let settled = [
        (fence(1, 0, 4, 16), Verdict::Done),
        (fence(1, 0, 0, 4), Verdict::Dead("no".into())),
    ];
    assert_eq!(pair.double.settled(), settled);
    assert!(pair.double.abandoned().is_empty());
}

#[tokio::test]
async fn a_receipt_settles_once_and_only_where_it_was_given() {
    let double = Double::new();
    let one = pair_with(double.clone(), Default::default()).await;
    let other = pair_with(double.clone(), Default::default()).await;
    let mut consumer = one.events.join(group()).await.unwrap();
    double.offer_run(consumer.id, 0, 0, 5);
    let (_, receipt) = run(next(&mut consumer, 5).await);
    let same = || Receipt::new(receipt.fence(), None);
    let settle = |receipt| vec![Unit::settle(receipt, Verdict::Done)];
    let fenced = |outcomes: Vec<Outcome>| matches!(outcomes[..], [Outcome::Fenced]);
    assert!(fenced(other.client.commit(settle(same())).await));
    let under = Unit {
        under: Some(receipt.fence()),
        ..Unit::default()
    };
    assert!(fenced(other.client.commit(vec![under]).await));
    let beyond = Receipt::new(fence(1, 0, 0, 6), None);
    assert!(fenced(one.client.commit(settle(beyond)).await));
    let again = same();
    assert!(matches!(
        one.client.commit(settle(receipt)).await[..],
        [Outcome::Applied(_)]
    ));
    assert!(fenced(one.client.commit(settle(again)).await));
    assert_eq!(double.settled().len(), 1);
}

/// Settles a receipt, and one that was lost, in one unit.
fn with_a_lost_one(receipt: Receipt) -> Unit {
    let mut unit = Unit::settle(receipt, Verdict::Done);
    let lost = Receipt::new(fence(9, 0, 0, 1), None);
    unit.settle.push((lost, Verdict::Done));
    unit
}

#[tokio::test]
async fn a_unit_with_one_lost_receipt_changes_nothing() {
    let (pair, mut consumer) = joined().await;
    pair.double.offer_run(consumer.id, 0, 0, 5);
    let (_, receipt) = run(next(&mut consumer, 5).await);
    let real = receipt.fence();
    let unit = with_a_lost_one(receipt);
    assert!(matches!(
        pair.client.commit(vec![unit]).await[..],
        [Outcome::Fenced]
    ));
    assert!(pair.double.settled().is_empty());
    // The real one is out still, on the server's side.
    let again = Unit::settle(Receipt::new(real, None), Verdict::Done);
    assert!(matches!(
        pair.client.commit(vec![again]).await[..],
        [Outcome::Applied(_)]
    ));
}

/// What waits behind a message that was lost may have its key, and would be handled before it comes again.
#[tokio::test]
async fn what_waits_behind_a_fenced_message_goes_back() {
    let (pair, mut consumer) = joined().await;
    pair.double.offer_run(consumer.id, 0, 0, 5);
    let (_, receipt) = run(next(&mut consumer, 5).await);
    let polled = tokio::time::timeout(Duration::from_millis(1), consumer.next(5, 1 << 20));
    assert!(polled.await.is_err());
    pair.double.offer_run(consumer.id, 0, 5, 5);
    pair.double.until(|double| double.given(1).0 == 10).await;
    let unit = with_a_lost_one(receipt);
    assert!(matches!(
        pair.client.commit(vec![unit]).await[..],
        [Outcome::Fenced]
    ));
    pair.double
        .until(|double| !double.settled().is_empty())
        .await;
    let released = (fence(1, 0, 5, 5), Verdict::Release);
    assert_eq!(pair.double.settled(), [released]);
}

#[tokio::test]
async fn what_was_not_applied_comes_back_and_can_be_committed_again() {
    let (pair, mut consumer) = joined().await;
    pair.double.offer_run(consumer.id, 0, 0, 5);
    let (_, receipt) = run(next(&mut consumer, 5).await);
    pair.double.refusing.store(true, Ordering::SeqCst);
    let mut outcomes = pair
        .client
        .commit(vec![Unit::settle(receipt, Verdict::Done)])
        .await;
    let Some(Outcome::NotApplied(unit, error)) = outcomes.pop() else {
        panic!("{outcomes:?}");
    };
    assert!(error.is(codes::DISK_FULL));
    pair.double.refusing.store(false, Ordering::SeqCst);
    assert!(matches!(
        pair.client.commit(vec![unit]).await[..],
        [Outcome::Applied(_)]
    ));
    assert_eq!(pair.double.settled(), [(fence(1, 0, 0, 5), Verdict::Done)]);
}

#[tokio::test]
async fn a_commit_that_is_dropped_runs_to_its_end() {
    let (pair, mut consumer) = joined().await;
    pair.double.offer_run(consumer.id, 0, 0, 5);
    let (_, receipt) = run(next(&mut consumer, 5).await);
    let mut commit = pair
        .client
        .commit(vec![Unit::settle(receipt, Verdict::Done)]);
    let polled =
        std::future::poll_fn(|cx| std::task::Poll::Ready(commit.as_mut().poll(cx).is_ready()));
    assert!(!polled.await);
    drop(commit);
    pair.double
        .until(|double| !double.settled().is_empty())
        .await;
    assert!(pair.double.abandoned().is_empty());
}

#[tokio::test]
async fn a_dropped_receipt_is_abandoned() {
    let (pair, mut consumer) = joined().await;
    pair.double.offer_run(consumer.id, 0, 0, 5);
    let (_, mut receipt) = run(next(&mut consumer, 5).await);
    drop(receipt.split_first());
    pair.double
        .until(|double| !double.abandoned().is_empty())
        .await;
    assert_eq!(pair.double.abandoned(), [fence(1, 0, 0, 1)]);
}

#[tokio::test]
async fn what_nobody_has_seen_is_released_when_its_shard_is_revoked() {
    let (pair, mut consumer) = joined().await;
    let polled = tokio::time::timeout(Duration::from_millis(1), consumer.next(100, 1 << 20));
    assert!(polled.await.is_err());
    pair.double.offer_run(consumer.id, 0, 0, 5);
    pair.double.offer_run(consumer.id, 1, 7, 5);
    pair.double
        .offer(consumer.id, Arrival::Revoking(0, Duration::from_secs(10)));
    pair.double
        .until(|double| !double.settled().is_empty())
        .await;
    assert_eq!(
        pair.double.settled(),
        [(fence(1, 0, 0, 5), Verdict::Release)]
    );
    let (chunk, _receipt) = run(next(&mut consumer, 100).await);
    assert_eq!(chunk.partition(), 1);
    assert!(matches!(
        next(&mut consumer, 100).await,
        Arrival::Revoking(0, _)
    ));
    consumer.control.handed_back(0);
    consumer.control.hold(1, true);
    pair.double
        .until(|double| double.held() == [(1, true)] && double.handed_back() == [0])
        .await;
}

/// What lies behind a message that comes again, and was given before the engine knew, goes back too: it may have its key.
#[tokio::test]
async fn what_would_overtake_goes_back() {
    let (pair, mut consumer) = joined().await;
    pair.double.offer_run(consumer.id, 0, 10, 1);
    let (_, receipt) = run(next(&mut consumer, 100).await);
    pair.double.offer_run(consumer.id, 0, 11, 5);
    pair.double.offer_run(consumer.id, 1, 40, 5);
    pair.double.until(|double| double.given(1).0 == 11).await;
    let outcomes = pair
        .client
        .commit(vec![Unit::settle(receipt, Verdict::Release)])
        .await;
    assert!(matches!(outcomes[..], [Outcome::Applied(_)]));
    let (chunk, receipt) = run(next(&mut consumer, 100).await);
    assert_eq!(chunk.partition(), 1);
    pair.double
        .until(|double| double.settled().len() == 2)
        .await;
    assert_eq!(
        pair.double.settled()[1],
        (fence(1, 0, 11, 5), Verdict::Release)
    );
    // The same when a receipt is dropped.
    pair.double.offer_run(consumer.id, 1, 45, 5);
    pair.double.until(|double| double.given(1).0 == 16).await;
    pair.events.topics().await.unwrap();
    drop(receipt);
    pair.double
        .until(|double| double.settled().len() == 3)
        .await;
    assert_eq!(pair.double.abandoned(), [fence(1, 1, 40, 5)]);
    assert_eq!(
        pair.double.settled()[2],
        (fence(1, 1, 45, 5), Verdict::Release)
    );
}

#[tokio::test]
async fn leaving_releases_what_nobody_has_seen() {
    let (pair, mut consumer) = joined().await;
    let polled = tokio::time::timeout(Duration::from_millis(1), consumer.next(100, 1 << 20));
    assert!(polled.await.is_err());
    pair.double.offer_run(consumer.id, 0, 0, 5);
    pair.double.until(|double| double.given(1).0 == 5).await;
    // A round trip after it was given: it waits at the client.
    pair.events.topics().await.unwrap();
    consumer.control.leave();
    assert!(matches!(next(&mut consumer, 1).await, Arrival::End));
    pair.double.until(|double| double.left() == [1]).await;
    assert_eq!(
        pair.double.settled(),
        [(fence(1, 0, 0, 5), Verdict::Release)]
    );
    drop(consumer);
    pair.events.topics().await.unwrap();
    assert_eq!(pair.double.left(), [1]);
}

#[tokio::test]
async fn leases_of_what_waits_are_extended() {
    let pair = pair().await;
    let lease = Duration::from_millis(600);
    let mut consumer = pair
        .events
        .join(GroupSpec { lease, ..group() })
        .await
        .unwrap();
    let polled = tokio::time::timeout(Duration::from_millis(1), consumer.next(100, 1 << 20));
    assert!(polled.await.is_err());
    pair.double.offer_run(consumer.id, 0, 0, 5);
    pair.double
        .until(|double| double.extended().contains(&fence(1, 0, 0, 5)))
        .await;
    let (_, receipt) = run(next(&mut consumer, 100).await);
    let answers = consumer
        .control
        .extend(vec![receipt.fence(), fence(77, 0, 0, 1)], lease)
        .await;
    // One of another consumer is not ours to extend.
    assert_eq!(answers.unwrap(), [true, false]);
}

#[tokio::test]
async fn an_input_that_fails_says_so_once_and_ends() {
    let (pair, mut consumer) = joined().await;
    let id = consumer.id;
    let wait = tokio::spawn(async move { (consumer.next(1, 1).await, consumer) });
    pair.double.until(|double| double.given(id).1 > 0).await;
    pair.double
        .fail(id, Error::new(Kind::Corrupt, "a record is damaged"));
    let (failed, mut consumer) = wait.await.unwrap();
    assert_eq!(failed.unwrap_err().kind(), Kind::Corrupt);
    assert!(matches!(next(&mut consumer, 1).await, Arrival::End));
}

#[tokio::test]
async fn a_join_that_nobody_waits_for_leaves_again() {
    let pair = pair().await;
    let mut join = pair.events.join(group());
    let polled =
        std::future::poll_fn(|cx| std::task::Poll::Ready(join.as_mut().poll(cx).is_ready()));
    assert!(!polled.await);
    drop(join);
    pair.double.until(|double| double.left() == [1]).await;
}

#[tokio::test]
async fn a_member_that_gives_no_sign_of_life_is_given_up() {
    let double = Double::new();
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let engine: Arc<dyn Engine> = Arc::new(Handle(double.clone()));
    let (reader, writer) = tokio::io::split(far);
    let server = tokio::spawn(strait_remote::serve(
        reader,
        writer,
        engine,
        Duration::from_secs(5),
    ));
    // A client that joins and is then stopped: what it has sent is recorded, and sent by hand.
    let stream = record_of_a_join(Duration::from_millis(300)).await;
    tokio::io::AsyncWriteExt::write_all(&mut near, &stream)
        .await
        .unwrap();
    double.until(|double| double.left() == [1]).await;
    let error = server.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut, "{error:?}");
}

/// The bytes of a client that greets and joins with this lease.
async fn record_of_a_join(lease: Duration) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let double = Double::new();
    let (near, middle) = tokio::io::duplex(1 << 20);
    let (far, behind) = tokio::io::duplex(1 << 20);
    let engine: Arc<dyn Engine> = Arc::new(Handle(double.clone()));
    let (reader, writer) = tokio::io::split(behind);
    tokio::spawn(strait_remote::serve(
        reader,
        writer,
        engine,
        Duration::from_secs(5),
    ));
    let (mut from_client, mut to_client) = tokio::io::split(middle);
    let (mut from_server, mut to_server) = tokio::io::split(far);
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let (record, mut recorded) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    tokio::spawn(async move {
        let mut buf = [0; 4096];
        while let Ok(read @ 1..) = from_client.read(&mut buf).await {
            record.send(buf[..read].to_vec()).unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut to_server, &buf[..read])
                .await
                .unwrap();
        }
    });
    let (reader, writer) = tokio::io::split(near);
    let client = strait_remote::Client::over(reader, writer, Default::default())
        .await
        .unwrap();
    let spec = GroupSpec { lease, ..group() };
    let consumer = client.lanes().events.unwrap().join(spec).await.unwrap();
    let mut bytes = Vec::new();
    while let Ok(more) = recorded.try_recv() {
        bytes.extend(more);
    }
    drop(consumer);
    bytes
}
