//! Races that a seed found, step by step.

use std::time::Duration;

use strait_core::events::{Append, Expected, GroupChange, GroupSpec, Override, TopicSpec};
use strait_core::{Arrival, Consumer, Engine as _, Fut, NewRecord, RecordsBuilder};
use strait_embedded::Options;
use strait_embedded::disk::{LogOptions, SimDisk};
use strait_embedded::stepped::Stepped;

use crate::audit::name;
use crate::places::{ManualClock, ROOMY};
use crate::world::poll;

const LEASE: u64 = 5_000;

/// The answer of a call, with as many turns of the writer as it takes.
fn answer<T>(stepped: &mut Stepped, mut call: Fut<strait_core::Result<T>>) -> T {
    loop {
        if let Some(answer) = poll(&mut call) {
            return answer.expect("nothing is wrong");
        }
        assert!(stepped.turn());
    }
}

/// What a member has got by now.
fn arrival(member: &mut Consumer) -> Option<Arrival> {
    poll(&mut Box::pin(member.next(1, 1 << 10))).map(|arrival| arrival.expect("nothing is wrong"))
}

/// Seed 12251: an operator raised the limit, and then the engine gave the message up by the old one.
#[test]
fn a_message_is_not_given_up_by_a_limit_that_was_raised_meanwhile() {
    let clock = ManualClock::new(1_700_000_000_000);
    let options = Options {
        clock: clock.clone(),
        ..Options::default()
    };
    let disk = SimDisk::faulty(ROOMY, 1);
    let log = LogOptions {
        first_segment_bytes: 16 << 10,
        segment_bytes: 16 << 10,
        ..LogOptions::new(7, 7)
    };
    let mut stepped =
        Stepped::open(std::sync::Arc::new(disk), options, log).expect("an empty directory");
    let events = stepped.engine().lanes().events.expect("the events lane");
    let topic = TopicSpec::new(name("in")).partitions(1);
    answer(&mut stepped, events.declare(topic));
    let mut records = RecordsBuilder::new(&[]).expect("no defaults");
    records
        .push(NewRecord::default())
        .expect("an empty message");
    let append = Append {
        topic: name("in"),
        partition: 0,
        records: records.build(),
        expected: Expected::Any,
        dedupe: false,
    };
    answer(&mut stepped, events.append(append));
    let spec = GroupSpec {
        lease: Duration::from_millis(LEASE),
        max_attempts: 1,
        ..GroupSpec::new(name("group"), name("in"))
    };
    let mut member = answer(&mut stepped, events.join(spec));

    let first = std::iter::repeat_with(|| (arrival(&mut member), stepped.turn()).0)
        .take(10)
        .flatten()
        .find(|arrival| matches!(arrival, Arrival::Run(..)));
    let lost = first.expect("the message");
    clock.advance(LEASE + 1);
    // It is granted anew: the member will see that its only attempt was lost.
    assert!(stepped.turn());
    assert!(arrival(&mut member).is_none());
    assert!(stepped.turn());
    let raise = GroupChange {
        max_attempts: Override::Set(2),
        ..GroupChange::default()
    };
    let mut raised = events.alter_group(name("group"), name("in"), raise);
    assert!(poll(&mut raised).is_none(), "it waits for the writer");
    assert!(
        arrival(&mut member).is_none(),
        "it has given the message up"
    );
    answer(&mut stepped, raised);
    let again = std::iter::repeat_with(|| (arrival(&mut member), stepped.turn()).0)
        .take(10)
        .flatten()
        .next();
    let Some(Arrival::Each(again)) = again else {
        panic!("it has an attempt left: {again:?}");
    };
    assert_eq!(again[0].attempt, 2);
    drop(lost);
}
