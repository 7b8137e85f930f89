//! Effects on another engine: there first, then the message is settled.

use std::sync::atomic::{AtomicU32, Ordering};

use strait::core::{Kind, Unit, Verdict};
use strait::{Backoff, Error, Handled, Out, State, Strait, Topic};

use crate::support::*;

async fn bill(placed: Order, payments: State<Topic<Order>>, out: Out) -> Handled {
    out.append(&payments, &placed)?;
    out.append(&payments, &placed)?;
    Ok(())
}

async fn payments(strait: &Strait) -> Topic<Order> {
    let topic = strait.events().topic("payments").partitions(1);
    topic.await.unwrap()
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
    let (orders, payments) = (orders(source, 1).await, payments(sink).await);
    place(&orders, "ada", 0..count).await;
    let group = orders.group("billing");
    let mut app = source
        .app()
        .state(payments.clone())
        .serve(group.each(bill).sends_to(&payments))
        .start()
        .await
        .unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    numbers(&payments).await
}

fn twice_each(count: u64) -> Vec<u64> {
    (0..count).flat_map(|number| [number, number]).collect()
}

/// True so many times, of those that are asked for.
fn times(count: u32) -> impl Fn(bool) -> bool {
    let left = AtomicU32::new(count);
    move |asked| {
        let one = |left: u32| left.checked_sub(1);
        asked
            && left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one)
                .is_ok()
    }
}

#[tokio::test]
async fn effects_are_there_and_the_message_is_settled() {
    assert_eq!(run(&memory(), &memory(), 20).await, twice_each(20));
}

/// The process dies between the two commits: the message is handled again, and what it sends is known.
#[tokio::test]
async fn effects_leave_once_when_the_settle_is_lost() {
    let seven = times(7);
    let losing = failing(move |unit| seven(ends_a_message(unit)).then_some(Fate::Lost));
    assert_eq!(run(&losing, &memory(), 20).await, twice_each(20));
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

/// What a sink refuses for good is a failed attempt, and a dead letter in the end; nothing is settled without its effects.
#[tokio::test]
async fn a_sink_that_refuses_makes_a_dead_letter() {
    let never = refusing(|unit| {
        let error = || Error::new(Kind::Rejected, "too large for this sink");
        unit.once.is_some().then(error)
    });
    let (source, sink) = (memory(), never);
    let (orders, payments) = (orders(&source, 1).await, payments(&sink).await);
    place(&orders, "ada", [1]).await;
    let group = orders.group("billing");
    let twice = Backoff::fixed(std::time::Duration::from_millis(2)).up_to(2);
    let consume = group.each(bill).sends_to(&payments).retry(twice);
    let mut app = source
        .app()
        .state(payments.clone())
        .serve(consume)
        .start()
        .await
        .unwrap();
    until(&group, |info| info.dead == 1).await;
    app.stop().await.unwrap();
    let dead = group.dead_letters().list().await.unwrap();
    assert!(
        dead[0].reason.contains("too large for this sink"),
        "{}",
        dead[0].reason
    );
    assert!(numbers(&payments).await.is_empty());
}

/// A topic that the consumer does not name is refused, with what to do.
#[tokio::test]
async fn a_sink_has_to_be_named() {
    let (source, sink) = (memory(), memory());
    let (orders, payments) = (orders(&source, 1).await, payments(&sink).await);
    place(&orders, "ada", [1]).await;
    let group = orders.group("billing");
    let once = Backoff::fixed(std::time::Duration::from_millis(2)).up_to(1);
    let consume = group.each(bill).retry(once);
    let mut app = source
        .app()
        .state(payments.clone())
        .serve(consume)
        .start()
        .await
        .unwrap();
    until(&group, |info| info.dead == 1).await;
    app.stop().await.unwrap();
    let dead = group.dead_letters().list().await.unwrap();
    assert!(
        dead[0].reason.contains("another engine"),
        "{}",
        dead[0].reason
    );
    assert!(numbers(&payments).await.is_empty());
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
