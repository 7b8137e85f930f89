//! Per-key order, through retries, concurrency, effects and restarts.

use std::collections::HashMap;
use std::time::Duration;

use strait::core::events::{DeadFilter, GroupInfo};
use strait::{
    AfterDead, Attempt, Backoff, Batch, Consume, Failure, Group, Handled, Order as KeyOrder, Out,
    State, Strait, Topic,
};

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

/// Gives up the orders that are a multiple of ten, notes the others.
async fn all_but_tens(placed: Order, done: State<Log<Order>>) -> Handled {
    if placed.number.is_multiple_of(10) {
        return Err(Failure::dead("cannot be booked"));
    }
    done.push(placed);
    Ok(())
}

/// A consumer whose dead letters hold their keys.
fn holding(group: &Group<Order>) -> Consume {
    group.each(all_but_tens).after_dead(AfterDead::HoldKey)
}

fn held_keys(info: &GroupInfo) -> u64 {
    info.shards.iter().map(|shard| shard.held_keys).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_holds_its_key_until_it_is_mended_or_removed() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let group = orders.group("booking");
    let done = Log::new();
    let app = strait.app().state(done.clone()).serve(holding(&group));
    let mut app = app.start().await.unwrap();
    place(&orders, "ada", 10..=12).await;
    place(&orders, "bob", 20..=22).await;
    place(&orders, "cyd", 31..=32).await;
    let info = until(&group, |info| info.dead == 2 && info.lag() == 4).await;
    assert_eq!(held_keys(&info), 2);
    assert_eq!(done.all(), [order("cyd", 31), order("cyd", 32)]);

    let dead = group.dead_letters();
    let letters = dead.list().await.unwrap();
    let of = |customer: &str| {
        let is_of = |letter: &&_| dead.decode(letter).unwrap().customer == customer;
        letters.iter().find(is_of).unwrap().number
    };
    dead.edit(of("ada"), &order("ada", 1)).await.unwrap();
    dead.redrive([of("ada")]).await.unwrap();
    let removed = dead.remove(DeadFilter::numbers([of("bob")])).await.unwrap();
    assert_eq!(removed, 1);
    let info = settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!((info.dead, held_keys(&info)), (0, 0));
    let handled = by_customer(&done);
    assert_eq!(handled["ada"], [1, 11, 12], "the mended one comes first");
    assert_eq!(handled["bob"], [21, 22], "it goes on without it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_goes_at_its_age_and_its_key_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("strait.toml");
    let text = "url = \"memory:\"\n[engine]\nretention_every = \"10ms\"\n";
    std::fs::write(&file, text).unwrap();
    let strait = Strait::open(file.to_str().unwrap()).await.unwrap();
    let orders = orders(&strait, 1).await;
    let (aged, kept) = (orders.group("aged"), orders.group("kept"));
    let done = Log::<Order>::new();
    let mut app = strait
        .app()
        .state(done.clone())
        .serve(holding(&aged).dead_age(Duration::from_millis(1)))
        .serve(holding(&kept).dead_age(Duration::from_secs(3_600)))
        .start()
        .await
        .unwrap();
    place(&orders, "ada", 10..=12).await;
    // Those of the first group: the second holds them.
    assert_eq!(done.wait(2).await, [order("ada", 11), order("ada", 12)]);
    let gone = settled(&aged).await;
    let there = until(&kept, |info| info.dead == 1 && info.lag() == 2).await;
    app.stop().await.unwrap();
    assert_eq!((gone.dead, held_keys(&gone)), (0, 0));
    assert_eq!(held_keys(&there), 1);
    assert_eq!(done.len(), 2);
}
