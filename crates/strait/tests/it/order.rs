//! Per-key order, through retries, concurrency, effects and restarts.

use std::collections::HashMap;
use std::time::Duration;

use strait::{Attempt, Backoff, Batch, Handled, Order as KeyOrder, Out, State, Topic};

use crate::support::*;

/// The numbers of each customer in the order in which they were handled to the end.
fn by_customer(log: &Log<Order>) -> HashMap<String, Vec<u64>> {
    let mut all: HashMap<String, Vec<u64>> = HashMap::new();
    for Order { customer, number } in log.all() {
        all.entry(customer).or_default().push(number);
    }
    all
}

async fn flaky(
    placed: Order,
    attempt: Attempt,
    done: State<Log<Order>>,
    out: Out,
    copies: State<Topic<Order>>,
) -> Handled {
    if placed.number.is_multiple_of(3) {
        tokio::task::yield_now().await;
    }
    // Effects on some only, so that both ways to the engine mix.
    if placed.number.is_multiple_of(2) {
        out.append(&copies, &placed)?;
    }
    if placed.number % 5 == 1 && attempt.0 < 3 {
        return Err("flaky".into());
    }
    done.push(placed);
    Ok(())
}

async fn order_is_kept(concurrency: Option<usize>) {
    const EACH: u64 = 60;
    let strait = memory();
    let orders = orders(&strait, 3).await;
    let copies = strait
        .events()
        .topic::<Order>("copies")
        .partitions(3)
        .await
        .unwrap();
    let customers: Vec<String> = (0..20).map(|n| format!("customer {n}")).collect();
    let all: Vec<Order> = (0..EACH)
        .flat_map(|n| customers.iter().map(move |c| order(c, n)))
        .collect();
    orders.append_all(&all).await.unwrap();
    let group = orders.group("billing");
    let done = Log::new();
    let mut consume = group
        .each(flaky)
        .retry(Backoff::fixed(Duration::from_millis(3)));
    if let Some(n) = concurrency {
        consume = consume.concurrency(n);
    }
    let mut app = strait
        .app()
        .state(done.clone())
        .state(copies.clone())
        .serve(consume)
        .start()
        .await
        .unwrap();
    let info = settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!(info.dead, 0);
    let handled = by_customer(&done);
    for customer in &customers {
        let expected: Vec<u64> = (0..EACH).collect();
        assert_eq!(handled[customer], expected, "{customer}");
    }
    // The effects: each once, in the order of their key.
    let sent = Log::new();
    for partition in 0..3 {
        let mut reader = copies.read(partition, strait::Start::Earliest).until_end();
        while let Some(event) = reader.next().await.unwrap() {
            sent.push(event.message);
        }
    }
    let sent = by_customer(&sent);
    for customer in &customers {
        let expected: Vec<u64> = (0..EACH).filter(|n| n.is_multiple_of(2)).collect();
        assert_eq!(sent[customer], expected, "effects of {customer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_keep_their_order_with_one_handling_per_partition() {
    order_is_kept(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_keep_their_order_with_many_handlings() {
    order_is_kept(Some(16)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_keep_their_order_with_few_handlings() {
    order_is_kept(Some(1)).await;
}

#[tokio::test]
async fn a_parked_message_delays_its_key_and_no_other() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let done = Log::new();
    let log = done.clone();
    let gate = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let open = gate.clone();
    let handler = move |placed: Order| {
        let (log, gate) = (log.clone(), gate.clone());
        async move {
            if placed.number == 1 && !gate.load(std::sync::atomic::Ordering::SeqCst) {
                return Err("not yet".into());
            }
            log.push(placed.number);
            Ok(())
        }
    };
    place(&orders, "ada", [1, 2]).await;
    place(&orders, "bob", [11, 12]).await;
    let group = orders.group("billing");
    let consume = group
        .each(handler)
        .retry(Backoff::fixed(Duration::from_millis(5)).up_to(1_000_000));
    let mut app = strait.app().serve(consume).start().await.unwrap();
    assert_eq!(done.wait(2).await, [11, 12]);
    open.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(done.wait(4).await, [11, 12, 1, 2]);
    settled(&group).await;
    app.stop().await.unwrap();
}

#[tokio::test]
async fn without_order_nobody_waits() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let done = Log::new();
    let log = done.clone();
    let handler = move |placed: Order, attempt: Attempt| {
        let log = log.clone();
        async move {
            if placed.number == 1 && attempt.0 == 1 {
                return Err("not yet".into());
            }
            log.push(placed.number);
            Ok(())
        }
    };
    place(&orders, "ada", [1, 2, 3]).await;
    let group = orders.group("billing");
    let consume = group
        .each(handler)
        .order(KeyOrder::Free)
        .retry(Backoff::fixed(Duration::from_millis(300)));
    let mut app = strait.app().serve(consume).start().await.unwrap();
    assert_eq!(done.wait(3).await, [2, 3, 1]);
    settled(&group).await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_share_partitions_and_hand_them_over() {
    let strait = memory();
    let orders = orders(&strait, 4).await;
    let customers: Vec<String> = (0..30).map(|n| format!("customer {n}")).collect();
    let done = Log::new();
    let serve = || {
        let log = done.clone();
        let handler = move |placed: Order| {
            let log = log.clone();
            async move {
                tokio::task::yield_now().await;
                log.push(placed);
                Ok(())
            }
        };
        strait
            .app()
            .serve(orders.group("billing").each(handler).concurrency(4))
    };
    let group = orders.group("billing");
    let mut first = serve().start().await.unwrap();
    let mut second = None;
    for round in 0..40_u64 {
        let all: Vec<Order> = customers.iter().map(|c| order(c, round)).collect();
        orders.append_all(&all).await.unwrap();
        match round {
            10 => second = Some(serve().start().await.unwrap()),
            20 => {
                let info = until(&group, |info| {
                    info.members.iter().all(|m| m.shards.len() == 2)
                })
                .await;
                assert_eq!(info.members.len(), 2);
            }
            30 => second.take().unwrap().stop().await.unwrap(),
            _ => {}
        }
    }
    settled(&group).await;
    first.stop().await.unwrap();
    let handled = by_customer(&done);
    let expected: Vec<u64> = (0..40).collect();
    for customer in &customers {
        assert_eq!(
            handled[customer], expected,
            "{customer}: each once, in order, over both members"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_keep_their_order_over_batches() {
    let strait = memory();
    let orders = orders(&strait, 2).await;
    // Few keys, so that a batch has many of each.
    let customers: Vec<String> = (0..6).map(|n| format!("customer {n}")).collect();
    let all: Vec<Order> = (0..100)
        .flat_map(|n| customers.iter().map(move |c| order(c, n)))
        .collect();
    orders.append_all(&all).await.unwrap();
    let group = orders.group("index");
    let done = Log::new();
    let log = done.clone();
    let handler = move |batch: Batch<Order>| {
        let log = log.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut failed: Vec<String> = Vec::new();
            let mut verdicts: Vec<Handled> = Vec::new();
            for item in batch {
                let flaky = item.message.number % 9 == 4 && item.meta().attempt() == 1;
                if flaky || failed.contains(&item.message.customer) {
                    failed.push(item.message.customer);
                    verdicts.push(Err("flaky".into()));
                } else {
                    log.push(item.message);
                    verdicts.push(Ok(()));
                }
            }
            verdicts
        }
    };
    let consume = group
        .each_batch(20, Duration::from_millis(3), handler)
        .concurrency(4)
        .retry(Backoff::fixed(Duration::from_millis(2)).up_to(1000));
    let mut app = strait.app().serve(consume).start().await.unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    let handled = by_customer(&done);
    let expected: Vec<u64> = (0..100).collect();
    for customer in &customers {
        assert_eq!(handled[customer], expected, "{customer}");
    }
}

#[tokio::test]
async fn a_busy_key_fills_its_batches() {
    const MANY: u64 = 400;
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let all: Vec<Order> = (0..MANY).map(|n| order("ada", n)).collect();
    orders.append_all(&all).await.unwrap();
    let group = orders.group("index");
    let (done, batches) = (Log::new(), Log::new());
    let (log, sizes) = (done.clone(), batches.clone());
    let handler = move |batch: Batch<Order>| {
        let (log, sizes) = (log.clone(), sizes.clone());
        async move {
            // So that more of the key comes while it is busy.
            tokio::time::sleep(Duration::from_millis(5)).await;
            sizes.push(batch.len());
            batch.into_iter().for_each(|item| log.push(item.message));
            Handled::Ok(())
        }
    };
    let consume = group
        .each_batch(20, Duration::from_millis(20), handler)
        .concurrency(2);
    let mut app = strait.app().serve(consume).start().await.unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    let expected: Vec<u64> = (0..MANY).collect();
    assert_eq!(by_customer(&done)["ada"], expected);
    let sizes = batches.all();
    assert!(sizes.len() < 40, "{} batches: {sizes:?}", sizes.len());
}
