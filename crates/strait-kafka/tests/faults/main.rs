//! What happens when the broker dies under load, or asks who is there: with a broker of the test's own.

// What a test or its helpers cannot unwrap is a failed test.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod broker;
mod secure;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broker::Broker;
use strait_core::events::{Append, Cursor, Events, Expected, GroupSpec, TopicSpec};
use strait_core::{
    Arrival, Engine, Health, Name, NewRecord, Outcome, Outgoing, Position, Receipt, Records, Unit,
    Verdict,
};
use strait_kafka::{Kafka, Options};
use tokio::sync::watch;

/// Long enough for a loaded machine; reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(90);
/// Messages that are settled between two kills, at least.
const BETWEEN: usize = 200;

fn numbers() -> Name {
    "numbers".parse().unwrap()
}

fn sink() -> Name {
    "sink".parse().unwrap()
}

fn records(number: u64) -> Records {
    let body = number.to_string();
    let record = NewRecord {
        body: body.as_bytes(),
        ..NewRecord::default()
    };
    Records::one(&[], record).unwrap()
}

fn number(body: &[u8]) -> u64 {
    std::str::from_utf8(body).unwrap().parse().unwrap()
}

/// Appends numbers until it is told to stop; gives those that were acknowledged.
async fn produce(kafka: Kafka, stop: Arc<AtomicBool>) -> BTreeSet<u64> {
    let mut acknowledged = BTreeSet::new();
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let append = Append {
            topic: numbers(),
            partition: 0,
            records: records(number),
            expected: Expected::Any,
            dedupe: false,
        };
        if kafka.append(append).await.is_ok() {
            acknowledged.insert(number);
        }
    }
    acknowledged
}

/// What became of the numbers that a member had.
#[derive(Default)]
struct Settled {
    /// How often each was settled.
    applied: Mutex<BTreeMap<u64, u32>>,
    /// Those whose end nobody was told.
    unknown: Mutex<BTreeSet<u64>>,
    count: watch::Sender<usize>,
}

/// Settles what comes, each number that ends in 0 alone and with an effect, until it is aborted.
async fn consume(kafka: Kafka, settled: Arc<Settled>) {
    let spec = GroupSpec::new("readers".parse().unwrap(), numbers());
    let mut consumer = kafka.join(spec).await.unwrap();
    loop {
        match consumer.next(100, 1 << 20).await.unwrap() {
            Arrival::Run(chunk, receipt) => {
                let bodies = chunk.iter().map(|item| number(item.record().body()));
                settle_run(&kafka, &settled, bodies.collect(), receipt).await;
            }
            Arrival::Each(deliveries) => {
                for delivery in deliveries {
                    let body = number(delivery.message.record().body());
                    settle(&kafka, &settled, vec![body], delivery.receipt).await;
                }
            }
            Arrival::Revoking(shard, _) => consumer.control.handed_back(shard),
            _ => {}
        }
    }
}

/// Cuts a run before and behind each number that has an effect.
async fn settle_run(kafka: &Kafka, settled: &Settled, bodies: Vec<u64>, mut receipt: Receipt) {
    let mut plain = Vec::new();
    for body in bodies {
        if body % 10 != 0 {
            plain.push(body);
            continue;
        }
        if let Some(head) = receipt.split_at(plain.len() as u32) {
            settle(kafka, settled, std::mem::take(&mut plain), head).await;
        }
        match receipt.split_first() {
            Some(head) => settle(kafka, settled, vec![body], head).await,
            None => return settle(kafka, settled, vec![body], receipt).await,
        }
    }
    settle(kafka, settled, plain, receipt).await;
}

async fn settle(kafka: &Kafka, settled: &Settled, bodies: Vec<u64>, receipt: Receipt) {
    let effect = bodies.iter().find(|body| **body % 10 == 0);
    let send = effect.map(|body| Outgoing::Append {
        topic: sink(),
        partition: 0,
        records: records(*body),
        expected: Expected::Any,
        dedupe: false,
    });
    let unit = Unit {
        settle: vec![(receipt, Verdict::Done)],
        send: send.into_iter().collect(),
        ..Unit::default()
    };
    match kafka.commit(vec![unit]).await.pop().unwrap() {
        Outcome::Applied(_) => {
            let mut applied = settled.applied.lock().unwrap();
            bodies
                .into_iter()
                .for_each(|body| *applied.entry(body).or_default() += 1);
            settled.count.send_replace(applied.len());
        }
        Outcome::Unknown(_) => settled.unknown.lock().unwrap().extend(bodies),
        _ => {}
    }
}

/// All numbers of a topic, in the order of the log.
async fn stored(kafka: &Kafka, topic: Name) -> Vec<u64> {
    let (mut found, mut position) = (Vec::new(), Position::at(0));
    loop {
        let cursor = Cursor {
            topic: topic.clone(),
            partition: 0,
            position,
            wait: Duration::ZERO,
        };
        let chunk = kafka.read(cursor, 1 << 20).await.unwrap();
        if chunk.is_empty() {
            return found;
        }
        found.extend(chunk.iter().map(|item| number(item.record().body())));
        position = chunk.next();
    }
}

/// Waits until the group owes nothing.
async fn drained(kafka: &Kafka) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let group = kafka.group("readers".parse().unwrap(), numbers()).await;
        match group {
            Ok(group) if group.lag() == 0 => return,
            found => assert!(Instant::now() < deadline, "not all is settled: {found:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Three kills under load: what was acknowledged is stored, work goes on each time, and nothing that was settled comes again, nor is
/// its effect there twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_loses_nothing_and_work_goes_on() {
    let Some(jars) = broker::jars() else { return };
    let start =
        tokio::task::spawn_blocking(move || Broker::start(jars, "PLAINTEXT", |_| String::new()));
    let mut broker = start.await.unwrap();
    let kafka = Kafka::open(Options::new(broker.address())).await.unwrap();
    for topic in [numbers(), sink()] {
        kafka
            .declare(TopicSpec::new(topic).partitions(1))
            .await
            .unwrap();
    }
    let (stop, settled) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Settled::default()),
    );
    let producing = tokio::spawn(produce(kafka.clone(), stop.clone()));
    let consuming = tokio::spawn(consume(kafka.clone(), settled.clone()));
    let mut count = settled.count.subscribe();
    let mut until = async |more: usize| {
        let before = *count.borrow();
        let waited = tokio::time::timeout(PATIENCE, count.wait_for(|now| *now >= before + more));
        assert!(
            waited.await.is_ok(),
            "nothing is settled any more, after {before}"
        );
    };
    for kill in 1..=3 {
        until(BETWEEN).await;
        let restart = tokio::task::spawn_blocking(move || {
            broker.restart();
            broker
        });
        broker = restart.await.unwrap();
        let back = Instant::now();
        until(1).await;
        println!(
            "kill {kill}: settled again {:?} after the broker's return",
            back.elapsed()
        );
    }
    until(BETWEEN).await;
    stop.store(true, Ordering::Release);
    let acknowledged = producing.await.unwrap();
    drained(&kafka).await;
    consuming.abort();

    let stored_numbers: BTreeSet<u64> = stored(&kafka, numbers()).await.into_iter().collect();
    let lost: Vec<_> = acknowledged.difference(&stored_numbers).collect();
    assert!(lost.is_empty(), "acknowledged and not stored: {lost:?}");
    let applied = settled.applied.lock().unwrap().clone();
    let unknown = settled.unknown.lock().unwrap().clone();
    let twice: Vec<_> = applied.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "settled more than once: {twice:?}");
    let missed: Vec<_> = stored_numbers
        .iter()
        .filter(|number| !applied.contains_key(number) && !unknown.contains(number))
        .collect();
    assert!(
        missed.is_empty(),
        "the group is past them, and nobody settled them: {missed:?}"
    );
    let effects = stored(&kafka, sink()).await;
    let once: BTreeSet<u64> = effects.iter().copied().collect();
    assert_eq!(effects.len(), once.len(), "an effect is there twice");
    let owed = stored_numbers.iter().filter(|number| **number % 10 == 0);
    let owed: Vec<_> = owed.filter(|number| !once.contains(number)).collect();
    assert!(owed.is_empty(), "settled without their effect: {owed:?}");
    assert_eq!(*kafka.health().borrow(), Health::Up);
    kafka.close(Duration::from_secs(10)).await;
}
