//! What holds whatever the timing: many messages, failures at random, members that come and go.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use strait::{
    Backoff, Batch, Consume, Error, Group, Handled, Idempotency, Kind, Meta, Out, Raw, Running,
    Start, State, Strait, Topic,
};
use tokio::sync::Semaphore;

use crate::support::*;

const KEYS: u64 = 40;

/// Watches from inside of the handlers that those of a key run one after the other and in order. A key's messages are
/// numbered from 0.
#[derive(Debug, Clone, Default)]
struct Watch(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// The message that is next, and whether it is being handled.
    keys: HashMap<String, (u64, bool)>,
    faults: Vec<String>,
}

impl Watch {
    fn begin(&self, placed: &Order) {
        let mut seen = self.0.lock().unwrap();
        let key = seen.keys.entry(placed.customer.clone()).or_default();
        let (next, runs) = *key;
        key.1 = true;
        if next != placed.number || runs {
            let fault = format!("{placed:?} began; next is {next}, which runs: {runs}");
            seen.faults.push(fault);
        }
    }

    fn end(&self, placed: &Order, done: bool) {
        let mut seen = self.0.lock().unwrap();
        let key = seen.keys.entry(placed.customer.clone()).or_default();
        key.1 = false;
        key.0 += u64::from(done);
    }

    fn assert(&self, each: u64) {
        let seen = self.0.lock().unwrap();
        assert_eq!(seen.faults, [""; 0]);
        assert_eq!(seen.keys.len() as u64, KEYS);
        assert!(seen.keys.values().all(|key| *key == (each, false)));
    }
}

/// So many messages of each key, in order.
async fn numbered(orders: &Topic<Order>, each: u64) {
    let number = |n| (0..KEYS).map(move |key| order(&format!("customer {key}"), n));
    let all: Vec<Order> = (0..each).flat_map(number).collect();
    orders.append_all(&all).await.unwrap();
}

/// A pause of odd length, or none.
async fn pause() {
    match fastrand::u8(..) {
        0..64 => tokio::time::sleep(Duration::from_micros(fastrand::u64(10..400))).await,
        64..128 => tokio::task::yield_now().await,
        _ => {}
    }
}

fn fails(meta: &Meta) -> bool {
    meta.attempt() < 4 && fastrand::u8(..) < 30
}

async fn watched(placed: Order, meta: Meta, watch: State<Watch>) -> Handled {
    watch.begin(&placed);
    pause().await;
    let failed = fails(&meta);
    watch.end(&placed, !failed);
    if failed { Err("flaky".into()) } else { Ok(()) }
}

async fn watched_batch(batch: Batch<Order>, watch: State<Watch>) -> Vec<Handled> {
    let mut failed: Vec<String> = Vec::new();
    let mut verdicts = Vec::new();
    for item in &batch {
        let placed = &item.message;
        // What follows a failure is not handled: whatever is said of it, it comes again.
        if !failed.contains(&placed.customer) {
            watch.begin(placed);
            let fails = fails(item.meta());
            watch.end(placed, !fails);
            failed.extend(fails.then(|| placed.customer.clone()));
        }
        let fails = failed.contains(&placed.customer);
        verdicts.push(if fails { Err("flaky".into()) } else { Ok(()) });
    }
    pause().await;
    verdicts
}

async fn keys_are_handled_in_order(members: usize, serve: impl Fn(&Group<Order>) -> Consume) {
    const EACH: u64 = 60;
    let strait = memory();
    let orders = orders(&strait, 4).await;
    numbered(&orders, EACH).await;
    let (group, watch) = (orders.group("watched"), Watch::default());
    let mut apps = Vec::new();
    for _ in 0..members {
        let consume = serve(&group).retry(Backoff::fixed(Duration::from_millis(2)).up_to(20));
        let app = strait.app().state(watch.clone()).serve(consume);
        apps.push(app.start().await.unwrap());
        // While some is done and some is not.
        pause().await;
    }
    let info = settled(&group).await;
    for mut app in apps {
        app.stop().await.unwrap();
    }
    assert_eq!(info.dead, 0);
    watch.assert(EACH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_handled_in_order_by_one_and_by_many() {
    keys_are_handled_in_order(1, |group| group.each(watched)).await;
    keys_are_handled_in_order(1, |group| group.each(watched).concurrency(16)).await;
    keys_are_handled_in_order(3, |group| group.each(watched).concurrency(16)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_handled_in_order_in_batches() {
    let wait = Duration::from_millis(1);
    let serve = |group: &Group<Order>| group.each_batch(20, wait, watched_batch);
    keys_are_handled_in_order(1, serve).await;
    keys_are_handled_in_order(1, |group| serve(group).concurrency(4)).await;
    keys_are_handled_in_order(3, |group| serve(group).concurrency(4)).await;
}

async fn copying(placed: Order, copies: State<Topic<Order>>, out: Out) -> Handled {
    out.append(&copies, &placed)?;
    pause().await;
    match fastrand::u8(..) {
        0..16 => Err("flaky".into()),
        16..20 => panic!("on purpose"),
        _ => Ok(()),
    }
}

/// Effects of members of which some stop and some die while others come.
async fn effects_leave_once(
    strait: Strait,
    members: usize,
    changes: usize,
    concurrency: Option<usize>,
) {
    const EACH: u64 = 50;
    let orders = orders(&strait, 4).await;
    let copies = strait.events().topic::<Order>("copies").partitions(4).await;
    let copies = copies.unwrap();
    numbered(&orders, EACH).await;
    let group = orders.group("copying");
    let start = async || -> Running {
        let retry = Backoff::fixed(Duration::from_millis(2)).up_to(1000);
        let consume = group.each(copying).retry(retry);
        let consume = match concurrency {
            Some(n) => consume.concurrency(n),
            None => consume,
        };
        let app = strait.app().state(copies.clone()).serve(consume);
        app.start().await.unwrap()
    };
    let mut apps = Vec::new();
    for _ in 0..members {
        apps.push(start().await);
    }
    for change in 0..changes {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
        let mut old = apps.remove(0);
        if change.is_multiple_of(2) {
            drop(old);
        } else {
            old.stop().await.unwrap();
        }
        apps.push(start().await);
    }
    let info = settled(&group).await;
    for mut app in apps {
        app.stop().await.unwrap();
    }
    assert_eq!(info.dead, 0);
    let mut sent: HashMap<String, Vec<u64>> = HashMap::new();
    for partition in 0..4 {
        let mut reader = copies.read(partition, Start::Earliest).until_end();
        while let Some(event) = reader.next().await.unwrap() {
            let Order { customer, number } = event.message;
            sent.entry(customer).or_default().push(number);
        }
    }
    assert_eq!(sent.len() as u64, KEYS);
    let expected: Vec<u64> = (0..EACH).collect();
    for (customer, numbers) in sent {
        assert_eq!(numbers, expected, "{customer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_leave_once_and_in_order() {
    effects_leave_once(memory(), 1, 0, None).await;
    effects_leave_once(memory(), 1, 0, Some(16)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_leave_once_and_in_order_whoever_dies() {
    effects_leave_once(memory(), 1, 6, None).await;
    effects_leave_once(memory(), 1, 6, Some(16)).await;
    effects_leave_once(memory(), 3, 6, Some(8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_leave_once_and_in_order_whatever_is_refused() {
    for concurrency in [None, Some(16)] {
        let strait = refusing(|unit| match fastrand::u8(..) {
            0..20 if !unit.send.is_empty() => Some(Error::new(Kind::Busy, "not now")),
            20..30 if !unit.send.is_empty() => Some(Error::new(Kind::Rejected, "never")),
            _ => None,
        });
        effects_leave_once(strait, 1, 0, concurrency).await;
    }
}

/// Per id: handlings that run, and those that ended well.
type Runs = Arc<Mutex<(HashMap<String, (u32, u32)>, Vec<String>)>>;

async fn counted(message: Raw, runs: State<Runs>) -> Handled {
    let id = message.text().unwrap().to_owned();
    {
        let (ids, faults) = &mut *runs.lock().unwrap();
        let run = ids.entry(id.clone()).or_default();
        if *run != (0, 0) {
            faults.push(format!("{id} began; that run and were done: {run:?}"));
        }
        run.0 += 1;
    }
    pause().await;
    let failed = fastrand::u8(..) < 30;
    {
        let (ids, _) = &mut *runs.lock().unwrap();
        let run = ids.entry(id).or_default();
        run.0 -= 1;
        run.1 += u32::from(!failed);
    }
    if failed { Err("flaky".into()) } else { Ok(()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_is_never_twice_at_once_and_never_again() {
    const IDS: u64 = 300;
    let strait = memory();
    let topic = strait.events().topic::<Raw>("in").partitions(6).await;
    let topic = topic.unwrap();
    let mut all: Vec<Raw> = (0..3 * IDS)
        .map(|n| Raw::bytes((n % IDS).to_string()))
        .collect();
    fastrand::shuffle(&mut all);
    for some in all.chunks(50) {
        topic.append_all(some).await.unwrap();
    }
    let (group, runs) = (topic.group("g"), Runs::default());
    let by_body =
        Idempotency::by(|meta| String::from_utf8_lossy(meta.stored().record().body()).into_owned());
    let consume = group
        .each(counted)
        .once_by(by_body)
        .concurrency(24)
        .retry(Backoff::fixed(Duration::from_millis(2)).up_to(1000));
    let app = strait.app().state(runs.clone()).serve(consume);
    let mut app = app.start().await.unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    let runs = runs.lock().unwrap();
    assert_eq!(runs.1, [""; 0]);
    assert_eq!(runs.0.len() as u64, IDS);
    assert!(runs.0.values().all(|run| *run == (0, 1)));
}

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
