//! An engine that can do next to nothing, and says so: the rest of the suite, and the reverse cases, hold for it too.

use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{
    AfterDead, Append, Caps, Expected, GroupChange, GroupInfo, GroupSpec, KeyVersion, Order,
    ReadKey, Start, TopicInfo, TopicSpec,
};
use strait_core::{
    Claim, Claimed, Consumer, Control, Error, Fence, Fut, Message, Name, Offer, Outcome, Position,
    Result, Sent, Unit, Verdict,
};

use crate::bent::{Bend, True};

/// The capabilities of an engine that refuses all that can be refused and asked for.
pub(crate) fn next_to_nothing(caps: Caps) -> Caps {
    let no = Offer::Refused("another engine");
    Caps {
        key_order: no,
        by_time: no,
        by_key: no,
        expected_position: no,
        expected_key_version: no,
        dedupe: no,
        atomic_effects: no,
        ledger: no,
        fencing: no,
        lease_extension: no,
        parking: no,
        dead_letters: no,
        hold_key: no,
        alter_group: no,
        retention_age: no,
        retention_bytes: no,
        compaction: no,
        ..caps
    }
}

#[derive(Debug)]
pub(crate) struct Modest;

fn unsupported(what: &str) -> Error {
    Error::unsupported(what, "use another engine")
}

fn refuse<T: Send + 'static>(what: &str) -> Fut<Result<T>> {
    Box::pin(std::future::ready(Err(unsupported(what))))
}

impl Bend for Modest {
    fn caps(&self, caps: Caps) -> Caps {
        next_to_nothing(caps)
    }

    fn append(&self, to: &True, append: Append) -> Fut<Result<Sent>> {
        if append.dedupe || append.expected != Expected::Any {
            return refuse("a condition");
        }
        to.events.append(append)
    }

    fn locate(
        &self,
        to: &True,
        topic: Name,
        partition: u32,
        start: Start,
    ) -> Fut<Result<Position>> {
        if matches!(start, Start::Time(_)) {
            return refuse("reading by time");
        }
        to.events.locate(topic, partition, start)
    }

    fn declare(&self, to: &True, topic: TopicSpec) -> Fut<Result<TopicInfo>> {
        if topic.key_versions == Some(true)
            || topic.retention.is_some()
            || topic.compaction.is_some()
        {
            return refuse("key versions, a retention or a compaction");
        }
        to.events.declare(topic)
    }

    fn read_key(&self, _to: &True, _read: ReadKey) -> Fut<Result<Vec<(KeyVersion, Message)>>> {
        refuse("reading by key")
    }

    fn join(&self, to: &True, spec: GroupSpec) -> Fut<Result<Consumer>> {
        if spec.order == Order::Key || spec.after_dead == AfterDead::HoldKey {
            return refuse("order by key");
        }
        to.events.join(spec)
    }

    fn alter_group(
        &self,
        _to: &True,
        _group: Name,
        _topic: Name,
        _change: GroupChange,
    ) -> Fut<Result<GroupInfo>> {
        refuse("a change of a group")
    }

    fn extend(
        &self,
        _to: &Arc<dyn Control>,
        _fences: Vec<Fence>,
        _by: Duration,
    ) -> Fut<Result<Vec<bool>>> {
        refuse("an extension")
    }

    fn claim(&self, _to: &True, _claim: Claim) -> Fut<Result<Claimed>> {
        refuse("a claim")
    }

    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let to = to.clone();
        Box::pin(async move {
            let mut outcomes = Vec::new();
            for unit in units {
                outcomes.extend(match refused(&unit) {
                    Some(what) => vec![Outcome::NotApplied(unit, unsupported(what))],
                    None => to.engine.commit(vec![unit]).await,
                });
            }
            outcomes
        })
    }
}

fn refused(unit: &Unit) -> Option<&'static str> {
    let parks = |verdict: &Verdict| matches!(verdict, Verdict::Retry { .. } | Verdict::Dead(_));
    if unit.once.is_some() {
        return Some("the ledger");
    }
    if unit.under.is_some() {
        return Some("a unit under a receipt");
    }
    if !unit.settle.is_empty() && !unit.send.is_empty() {
        return Some("effects with a settle");
    }
    let parked = unit.settle.iter().any(|(_, verdict)| parks(verdict));
    parked.then_some("a retry or a dead letter")
}
