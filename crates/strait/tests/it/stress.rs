//! What holds whatever the timing: many messages, failures at random, members that come and go.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use strait::{Batch, Handled, Raw, State, Strait};
use tokio::sync::Semaphore;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_goes_when_its_time_is_over_whenever_that_is() {
    // Times so short that they end between any two steps of the runner.
    let waits = [200, 500, 1_000, 2_000, 5_000, 20_000].map(Duration::from_nanos);
    join_all(waits.into_iter().map(|wait| async move {
        let strait = memory();
        let orders = orders(&strait, 1).await;
        let done = Log::new();
        let log = done.clone();
        let handler = move |batch: Batch<Order>| {
            let log = log.clone();
            async move {
                batch.into_iter().for_each(|item| log.push(item.message));
                Ok(())
            }
        };
        let batches = orders.group("index").each_batch(100, wait, handler);
        let mut app = strait.app().serve(batches).start().await.unwrap();
        for n in 0..200_usize {
            place(&orders, "ada", [n as u64]).await;
            done.wait(n + 1).await;
        }
        app.stop().await.unwrap();
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verdicts_do_not_wait_for_a_handler_that_never_pauses() {
    // As many as come in one run, and each takes long enough to be committed alone.
    const MANY: u64 = 1000;
    async fn blocking(_message: Raw, begun: State<Arc<AtomicU64>>) -> Handled {
        begun.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(5));
        Ok(())
    }
    let strait: Strait = memory();
    let topic = strait.events().topic::<Raw>("in").partitions(1).await;
    let topic = topic.unwrap();
    let all: Vec<Raw> = (0..MANY).map(|_| Raw::bytes("x")).collect();
    topic.append_all(&all).await.unwrap();
    let begun = Arc::new(AtomicU64::new(0));
    let group = topic.group("g");
    let app = strait
        .app()
        .state(begun.clone())
        .serve(group.each(blocking));
    let mut app = app.start().await.unwrap();
    until(&group, |info| info.lag() <= 600).await;
    let begun = begun.load(Ordering::SeqCst);
    assert!(begun < 900, "settled 400, but began {begun}");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_with_a_long_backlog_goes_on_when_it_comes_back() {
    // More than a member takes in before it asks the engine to stop, and so long that they come in runs of odd sizes.
    const MANY: u64 = 8000;
    let strait = memory();
    let topic = strait.events().topic::<Raw>("in").partitions(2).await;
    let topic = topic.unwrap();
    let message = |n: u64| Raw::bytes(vec![0; 1500]).with_key(n.to_string());
    let all: Vec<Raw> = (0..MANY).map(message).collect();
    for some in all.chunks(500) {
        topic.append_all(some).await.unwrap();
    }
    let group = topic.group("g");
    let gate = Arc::new(Semaphore::new(0));
    let serve = || {
        let gate = gate.clone();
        let handler = move |_message: Raw| {
            let gate = gate.clone();
            async move {
                // Open once and for all.
                let _open = gate.acquire().await.unwrap();
                Ok(())
            }
        };
        let billing = group.each(handler).handover(Duration::from_millis(50));
        strait.app().serve(billing).grace(Duration::ZERO)
    };
    let mut first = serve().start().await.unwrap();
    // Until it takes in no more.
    let looks = Cell::new((0, 0));
    until(&group, |info| {
        let taken: u64 = info.shards.iter().map(|shard| shard.in_flight).sum();
        let (last, same) = looks.get();
        looks.set((taken, if taken == last { same + 1 } else { 0 }));
        taken > 4096 && same == 10
    })
    .await;
    assert!(looks.get().0 < MANY - 1000, "it took in {:?}", looks.get());
    let mut second = serve().start().await.unwrap();
    until(&group, |info| {
        info.members.iter().all(|m| m.shards.len() == 1)
    })
    .await;
    second.stop().await.unwrap();
    until(&group, |info| info.members.len() == 1).await;
    gate.add_permits(1);
    settled(&group).await;
    first.stop().await.unwrap();
}
