//! Effects on another engine: there first, then the message is settled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use strait::core::{Kind, Unit, Verdict};
use strait::{Backoff, Error, Handled, Out, State, Strait, Topic};

use crate::support::*;

async fn bill(placed: Order, payments: State<Topic<Order>>, out: Out) -> Handled {
    out.append(&payments, &placed)?;
    out.append(&payments, &placed)?;
    Ok(())
}

/// A topic of its own for each test: servers are shared.
async fn topic(strait: &Strait, name: &str) -> Topic<Order> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("{name}-{}-{number}", uuid::Uuid::now_v7());
    strait.events().topic(&name).partitions(1).await.unwrap()
}

async fn payments(strait: &Strait) -> Topic<Order> {
    topic(strait, "payments").await
}

async fn numbers(topic: &Topic<Order>) -> Vec<u64> {
    let mut reader = topic.read(0, strait::Start::Earliest).until_end();
    let mut numbers = Vec::new();
    while let Some(event) = reader.next().await.unwrap() {
        numbers.push(event.message.number);
    }
    numbers
}

fn ends_a_message(unit: &Unit) -> bool {
    matches!(unit.settle.first(), Some((_, Verdict::Done)))
}

/// Runs `bill` over so many orders, with these two engines.
async fn run(source: &Strait, sink: &Strait, count: u64) -> Vec<u64> {
    let (orders, payments) = (topic(source, "orders").await, payments(sink).await);
    place(&orders, "ada", 0..count).await;
    let group = orders.group(&format!("billing-{}", orders.name()));
    let consume = group.each(bill).sends_to(&payments);
    let app = source.app().state(payments.clone()).serve(consume);
    let mut app = app.start().await.unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    numbers(&payments).await
}

fn twice_each(count: u64) -> Vec<u64> {
    (0..count).flat_map(|number| [number, number]).collect()
}

/// True so many times, of those that are asked for.
fn times(count: u32) -> impl Fn(bool) -> bool {
    let left = Arc::new(AtomicU32::new(count));
    move |asked| asked && one_of(&left)
}

fn one_of(left: &AtomicU32) -> bool {
    let one = |left: u32| left.checked_sub(1);
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one)
        .is_ok()
}

#[tokio::test]
async fn effects_are_there_and_the_message_is_settled() {
    assert_eq!(run(&memory(), &memory(), 20).await, twice_each(20));
}

/// The process dies between the two commits: the message is handled again, and what it sends is known.
#[tokio::test]
async fn effects_leave_once_when_the_settle_is_lost() {
    assert_eq!(
        Losing::over(&memory()).into(&memory()).await,
        twice_each(20)
    );
}

/// A sink that is away for a while holds the messages up, and takes them in their order when it is back.
#[tokio::test]
async fn a_sink_that_is_away_is_waited_for() {
    let five = times(5);
    let away = refusing(move |unit| {
        let gone = five(unit.once.is_some());
        gone.then(|| Error::new(Kind::Unavailable, "nobody answers"))
    });
    assert_eq!(run(&memory(), &away, 8).await, twice_each(8));
}

/// The sink has the effects and the answer is lost: they are asked for again, and known.
#[tokio::test]
async fn an_answer_of_the_sink_that_is_lost_doubles_nothing() {
    let three = times(3);
    let deaf = failing(move |unit| three(unit.once.is_some()).then_some(Fate::Unheard));
    assert_eq!(run(&memory(), &deaf, 8).await, twice_each(8));
}

/// Runs `bill` on one order until it is given up: for a reason that says this, and without an effect.
async fn is_given_up(sink: Strait, named: bool, says: &str) {
    let source = memory();
    let (orders, payments) = (orders(&source, 1).await, payments(&sink).await);
    place(&orders, "ada", [1]).await;
    let group = orders.group("billing");
    let twice = Backoff::fixed(std::time::Duration::from_millis(2)).up_to(2);
    let mut consume = group.each(bill).retry(twice);
    if named {
        consume = consume.sends_to(&payments);
    }
    let app = source.app().state(payments.clone()).serve(consume);
    let mut app = app.start().await.unwrap();
    until(&group, |info| info.dead == 1).await;
    app.stop().await.unwrap();
    let dead = group.dead_letters().list().await.unwrap();
    assert!(dead[0].reason.contains(says), "{}", dead[0].reason);
    assert!(numbers(&payments).await.is_empty());
}

/// What a sink refuses for good is a failed attempt, and a dead letter in the end; nothing is settled without its effects.
#[tokio::test]
async fn a_sink_that_refuses_makes_a_dead_letter() {
    let never = refusing(|unit| {
        let error = || Error::new(Kind::Rejected, "too large for this sink");
        unit.once.is_some().then(error)
    });
    is_given_up(never, true, "too large for this sink").await;
}

/// A topic that the consumer does not name is refused, with what to do.
#[tokio::test]
async fn a_sink_has_to_be_named() {
    is_given_up(memory(), false, "another engine").await;
}

/// What two engines promise together is in the report.
#[tokio::test]
async fn the_report_says_how_effects_leave() {
    let (source, sink) = (memory(), memory());
    let (orders, payments) = (orders(&source, 1).await, payments(&sink).await);
    let consume = orders.group("billing").each(bill).sends_to(&payments);
    let report = source
        .app()
        .state(payments)
        .serve(consume)
        .report()
        .await
        .unwrap();
    assert!(
        report
            .to_string()
            .contains("effects on another engine layered (once"),
        "{report}"
    );
}

/// An engine that loses seven settles, so that seven messages are handled again.
struct Losing {
    strait: Strait,
    left: Arc<AtomicU32>,
}

impl Losing {
    fn over(strait: &Strait) -> Self {
        let left = Arc::new(AtomicU32::new(7));
        let of_it = left.clone();
        let strait = failing_over(strait, move |unit| {
            (ends_a_message(unit) && one_of(&of_it)).then_some(Fate::Lost)
        });
        Losing { strait, left }
    }

    /// Runs `bill` from it into the sink.
    async fn into(self, sink: &Strait) -> Vec<u64> {
        let found = run(&self.strait, sink, 20).await;
        assert_eq!(self.left.load(Ordering::SeqCst), 0, "settles to be lost");
        found
    }
}

/// The servers at hand that this build has a driver for.
async fn brokers() -> Vec<(&'static str, Strait)> {
    let mut found = Vec::new();
    let known: &[(&str, &'static str)] = &[
        #[cfg(feature = "redis")]
        ("STRAIT_REDIS", "redis"),
        #[cfg(feature = "redis")]
        ("STRAIT_VALKEY", "valkey"),
        #[cfg(feature = "kafka")]
        ("STRAIT_KAFKA", "kafka"),
    ];
    for &(variable, name) in known {
        if let Some(address) = strait_conformance::server(variable, name) {
            let strait = Strait::open(&format!("{name}://{address}")).await.unwrap();
            found.push((name, strait));
        }
    }
    found
}

/// From each server and the engine in memory to each that keeps the ids of the messages whose effects it has.
#[tokio::test]
async fn effects_leave_once_from_and_to_each_engine_when_the_settle_is_lost() {
    let brokers = brokers().await;
    let here = memory();
    let ledgers = brokers.iter().filter(|(name, _)| *name != "kafka");
    for (to, sink) in ledgers {
        let found = Losing::over(&here).into(sink).await;
        assert_eq!(found, twice_each(20), "to {to}");
    }
    for (from, source) in &brokers {
        let found = Losing::over(source).into(&here).await;
        assert_eq!(found, twice_each(20), "from {from}");
        for (to, sink) in brokers
            .iter()
            .filter(|(to, _)| to != from && *to != "kafka")
        {
            let found = Losing::over(source).into(sink).await;
            assert_eq!(found, twice_each(20), "from {from} to {to}");
        }
    }
    for (_, strait) in brokers {
        strait.close().await;
    }
}

/// Kafka keeps no ids: the app does not start unless effects may leave again, and then none is missing.
#[tokio::test]
async fn effects_leave_at_least_once_into_kafka_when_the_consumer_says_so() {
    let brokers = brokers().await;
    let Some((_, sink)) = brokers.iter().find(|(name, _)| *name == "kafka") else {
        return;
    };
    into_kafka(&Losing::over(&memory()).strait, sink).await;
    for (_, source) in brokers.iter().filter(|(name, _)| *name == "redis") {
        into_kafka(&Losing::over(source).strait, sink).await;
    }
    for (_, strait) in &brokers {
        strait.close().await;
    }
}

async fn into_kafka(source: &Strait, sink: &Strait) {
    let (orders, payments) = (topic(source, "orders").await, payments(sink).await);
    place(&orders, "ada", 0..20).await;
    let group = orders.group(&format!("billing-{}", orders.name()));
    let app = || source.app().state(payments.clone());
    let refused = app()
        .serve(group.each(bill).sends_to(&payments))
        .start()
        .await;
    let error = refused.map(drop).unwrap_err();
    assert!(
        error.is("needs") && error.to_string().contains("at_least_once"),
        "{error}"
    );
    let consume = group.each(bill).sends_to(&payments).at_least_once();
    let mut app = app().serve(consume).start().await.unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    let found = numbers(&payments).await;
    for number in 0..20 {
        let times = found.iter().filter(|n| **n == number).count();
        assert!(
            times >= 2,
            "{number} is there {times} times, each message has two effects"
        );
    }
    assert!(
        found.len() > 40,
        "nothing was handled again: {}",
        found.len()
    );
}

/// On one server the effects and the end of the message are one commit: nothing is doubled when the process dies before it.
#[tokio::test]
async fn effects_on_the_same_server_are_in_one_commit() {
    for (name, strait) in brokers().await {
        let lossy = Losing::over(&strait);
        let found = run_on(&lossy.strait, 20).await;
        assert_eq!(found, twice_each(20), "{name}");
        assert_eq!(lossy.left.load(Ordering::SeqCst), 0, "settles to be lost");
        strait.close().await;
    }
}

/// Runs `bill` where orders and payments are on one engine.
async fn run_on(strait: &Strait, count: u64) -> Vec<u64> {
    let (orders, payments) = (topic(strait, "orders").await, payments(strait).await);
    place(&orders, "ada", 0..count).await;
    let group = orders.group(&format!("billing-{}", orders.name()));
    let app = strait.app().state(payments.clone()).serve(group.each(bill));
    let mut app = app.start().await.unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    numbers(&payments).await
}
