//! Order by key, step by step.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use strait_core::events::{
    AfterDead, Append, DeadFilter, GroupSpec, Order, Redrive, Start, TopicSpec,
};
use strait_core::{
    Arrival, Consumer, Delivery, Engine, Fut, NewRecord, Outcome, Receipt, Records, Unit, Verdict,
};
use strait_embedded::disk::{LogOptions, SimDisk};
use strait_embedded::stepped::Stepped;
use strait_embedded::{Embedded, Options};

use crate::support::{append_of, block_on, declare, events, name};

/// A call and the turn of the writer that answers it.
fn call<T>(stepped: &mut Stepped, mut future: Fut<T>) -> T {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..3 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        stepped.turn();
    }
    panic!("a call was not answered");
}

/// Polls a member once.
fn poll(consumer: &mut Consumer) -> Option<Arrival> {
    let mut cx = Context::from_waker(Waker::noop());
    match consumer.source.poll_next(&mut cx, 10, 1 << 20) {
        Poll::Ready(arrival) => Some(arrival.expect("the engine is open")),
        Poll::Pending => None,
    }
}

/// The next messages that come, one by one.
fn deliveries(stepped: &mut Stepped, consumer: &mut Consumer) -> Vec<Delivery> {
    for _ in 0..10 {
        if let Some(Arrival::Each(deliveries)) = poll(consumer) {
            return deliveries;
        }
        stepped.turn();
    }
    panic!("nothing came");
}

fn run(stepped: &mut Stepped, consumer: &mut Consumer) -> Receipt {
    for _ in 0..10 {
        if let Some(Arrival::Run(_, receipt)) = poll(consumer) {
            return receipt;
        }
        stepped.turn();
    }
    panic!("nothing came");
}

fn commit(stepped: &mut Stepped, settle: Vec<(Receipt, Verdict)>) {
    let unit = Unit {
        settle,
        ..Unit::default()
    };
    let engine = stepped.engine().clone();
    let outcome = call(stepped, engine.commit(vec![unit])).remove(0);
    assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
}

/// A message with a key, for the first partition.
fn of_the_key(body: &[u8]) -> Append {
    let record = NewRecord {
        key: Some(b"key"),
        body,
        ..NewRecord::default()
    };
    Append {
        records: Records::one(&[], record).expect("a message within the limits"),
        ..append_of("in", 0, body)
    }
}

/// A partition with two messages of one key, and a member of a group in the order of keys.
fn two_of_a_key() -> (Stepped, Consumer) {
    let log = LogOptions::new(7, 7);
    let mut stepped = Stepped::open(Arc::new(SimDisk::plain(64 << 20)), Options::default(), log)
        .expect("it opens");
    let lane = events(stepped.engine());
    let spec = TopicSpec::new(name("in")).partitions(1);
    call(&mut stepped, lane.declare(spec)).expect("declared");
    for body in [b"a", b"b"] {
        call(&mut stepped, lane.append(of_the_key(body))).expect("appended");
    }
    let spec = GroupSpec {
        order: Order::Key,
        ..GroupSpec::new(name("group"), name("in"))
    };
    let consumer = call(&mut stepped, lane.join(spec)).expect("a member");
    (stepped, consumer)
}

/// A message that failed, and then has to wait for an earlier one of its key that came back, says why it failed.
#[test]
fn what_waits_for_its_key_keeps_its_last_failure() {
    let (mut stepped, mut consumer) = two_of_a_key();
    let mut second = run(&mut stepped, &mut consumer);
    let first = second.split_first().expect("two messages");
    let failed = Verdict::Retry {
        after: std::time::Duration::ZERO,
        reason: "no answer".into(),
        counts: true,
    };
    let given_up = Verdict::Dead("malformed".into());
    commit(&mut stepped, vec![(first, given_up), (second, failed)]);

    // The second is granted to the member; before that polls again, the first is redriven.
    assert!(poll(&mut consumer).is_none());
    stepped.turn();
    let redrive = Redrive::new(name("group"), name("in"), DeadFilter::default());
    let lane = events(stepped.engine());
    let count = call(&mut stepped, lane.redrive(redrive)).expect("redriven");
    assert_eq!(count.count, 1);

    let first = deliveries(&mut stepped, &mut consumer).remove(0);
    assert_eq!(first.message.position().offset(), 0);
    commit(&mut stepped, vec![(first.receipt, Verdict::Done)]);
    let second = deliveries(&mut stepped, &mut consumer).remove(0);
    assert_eq!(second.message.position().offset(), 1);
    assert_eq!(second.attempt, 2);
    assert_eq!(second.last_error.as_deref(), Some("no answer"));
}

/// The second was granted while the first, whose only attempt was lost, was being given up: that came to light once in a
/// hundred rounds, with the writer on a thread of its own.
#[test]
fn the_next_of_a_key_does_not_pass_a_message_that_is_being_given_up() {
    let engine = Embedded::memory(Options::default()).expect("an empty engine");
    block_on(async {
        declare(&engine, "in", 1).await;
        for body in [b"a", b"b"] {
            let append = events(&engine).append(of_the_key(body));
            append.await.expect("appended");
        }
        for round in 0..500 {
            let spec = GroupSpec {
                max_attempts: 1,
                after_dead: AfterDead::HoldKey,
                start: Start::Earliest,
                ..GroupSpec::new(name(&format!("group-{round}")), name("in"))
            };
            let held = the_first_is_lost(&engine, spec);
            let held = tokio::time::timeout(Duration::from_secs(10), held).await;
            assert_eq!(held, Ok(1), "messages of the key that wait, round {round}");
        }
    });
}

/// A member of the group drops the first message and asks on until the dead letter is there: how many messages wait.
async fn the_first_is_lost(engine: &Embedded, spec: GroupSpec) -> u64 {
    let lane = events(engine);
    let (group, topic) = (spec.group.clone(), spec.topic.clone());
    let mut member = lane.join(spec).await.expect("a member");
    while !matches!(member.next(1, 1 << 10).await, Ok(Arrival::Run(..))) {}
    loop {
        tokio::task::yield_now().await;
        let arrived = poll(&mut member);
        assert!(arrived.is_none(), "its key is held: {arrived:?}");
        let info = lane.group(group.clone(), topic.clone()).await;
        let info = info.expect("the group");
        if info.dead == 1 {
            return info.lag();
        }
    }
}
