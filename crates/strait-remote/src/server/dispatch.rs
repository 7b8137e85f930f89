//! What each kind of frame asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use strait_core::events::{
    Append, Cursor, DeadFilter, EditDead, Events, GroupChange, GroupSpec, ReadKey, Redrive,
    RemoveDead, Seek, SetAside, Start, TopicChange, TopicSpec, UndoRedrive,
};
use strait_core::{
    Claim, Error, Fence, Fut, Kind, Name, Outcome, Position, Receipt, Result, Shard, Unit, Verdict,
};

use super::conn::Conn;
use super::member;
use crate::frame::{Frame, kind};
use crate::hello::VERSIONS;
use crate::wire::{
    DeadLettersOf, Extend, KeyMessages, Out, Wire, WireOutcome, WireUnit, read, read_all,
};

/// What becomes of a frame.
pub(super) enum Step {
    /// Nothing more.
    Done,
    /// Nobody waits for the answer to the request with the frame's id.
    Cancel,
    /// The answer comes when the engine is done.
    Write(Fut<Out>),
    /// The answer comes when something has happened; may be dropped before.
    Wait(Fut<Out>),
}

/// Begins what a frame asks for. A request that cannot be read is answered; any other frame that cannot is an error,
/// with which the connection ends.
pub(super) fn begin(conn: &Arc<Conn>, frame: Frame) -> Result<Step> {
    let Frame { kind, id, payload } = frame;
    match kind {
        kind::PING => conn.outbox.push(kind::PONG, id, Out::default()),
        kind::PONG => {}
        kind::CANCEL => return Ok(Step::Cancel),
        kind::CREDIT => {
            let (received, (items, bytes)) = read(payload)?;
            if let Some(member) = conn.member(id) {
                member.grant(received, items, bytes);
            }
        }
        kind::HOLD => {
            let (shard, held) = read(payload)?;
            if let Some(member) = conn.member(id) {
                member.control.hold(shard, held);
            }
        }
        kind::HANDED_BACK => {
            let shard: Shard = read(payload)?;
            if let Some(member) = conn.member(id) {
                member.control.handed_back(shard);
            }
        }
        kind::LEAVE => conn.leave_after(id, read(payload)?),
        kind::COMMIT..=kind::STORAGE | kind::DECLARE..=kind::WHEREABOUTS => {
            let step = request(conn, kind, payload);
            return Ok(step.unwrap_or_else(|error| {
                let answer = Out::of(&Err::<(), _>(error));
                Step::Write(Box::pin(std::future::ready(answer)))
            }));
        }
        _ => {
            let frame = Frame { kind, id, payload };
            return Err(frame.unexpected(VERSIONS.1));
        }
    }
    Ok(Step::Done)
}

fn request(conn: &Arc<Conn>, kind: u8, payload: Bytes) -> Result<Step> {
    match kind {
        kind::COMMIT => return Ok(Step::Write(commit(conn.clone(), read_all(payload)?))),
        kind::CLAIM => {
            let claim: Claim = read(payload)?;
            return Ok(Step::Wait(answer(conn.engine.claim(claim))));
        }
        kind::BACKUP => {
            let to: String = read(payload)?;
            return Ok(Step::Wait(answer(conn.engine.backup(to.into()))));
        }
        kind::STORAGE => {
            read::<()>(payload)?;
            return Ok(Step::Wait(answer(conn.engine.storage())));
        }
        kind::EXTEND => return Ok(Step::Write(answer(extend(conn, read(payload)?)))),
        kind::ABANDON => {
            let receipt = conn.receipts.lock().take(read(payload)?);
            // Dropping it tells the engine. One that is not there was settled or fenced meanwhile.
            drop(receipt);
            return Ok(Step::Write(answer(Box::pin(std::future::ready(Ok(()))))));
        }
        _ => {}
    }
    let events = conn.events()?;
    Ok(match kind {
        kind::READ => {
            let (cursor, max_bytes): (Cursor, usize) = read(payload)?;
            Step::Wait(answer(events.read(cursor, max_bytes)))
        }
        kind::JOIN => Step::Write(answer(join(conn, events, read(payload)?))),
        _ => Step::Write(events_request(&**events, kind, payload)?),
    })
}

fn events_request(events: &dyn Events, kind: u8, payload: Bytes) -> Result<Fut<Out>> {
    Ok(match kind {
        kind::APPEND => answer(events.append(read::<Append>(payload)?)),
        kind::DECLARE => answer(events.declare(read::<TopicSpec>(payload)?)),
        kind::ALTER => {
            let (topic, change): (Name, TopicChange) = read(payload)?;
            answer(events.alter(topic, change))
        }
        kind::DELETE => answer(events.delete(read(payload)?)),
        kind::TOPICS => answer(events.topics()),
        kind::TOPIC => answer(events.topic(read(payload)?)),
        kind::LOCATE => {
            let (topic, (partition, start)): (Name, (u32, Start)) = read(payload)?;
            answer(events.locate(topic, partition, start))
        }
        kind::READ_KEY => {
            let messages = events.read_key(read::<ReadKey>(payload)?);
            answer(Box::pin(async move { messages.await.map(KeyMessages) }))
        }
        kind::GROUPS => answer(events.groups()),
        kind::GROUP => {
            let (group, topic) = read(payload)?;
            answer(events.group(group, topic))
        }
        kind::SEEK => answer(events.seek(read::<Seek>(payload)?)),
        kind::DELETE_GROUP => {
            let (group, topic) = read(payload)?;
            answer(events.delete_group(group, topic))
        }
        kind::DEAD_LETTERS => {
            let of: DeadLettersOf = read(payload)?;
            answer(events.dead_letters(of.group, of.topic, of.filter, of.from, of.limit))
        }
        kind::ALTER_GROUP => {
            let ((group, topic), change): ((Name, Name), GroupChange) = read(payload)?;
            answer(events.alter_group(group, topic, change))
        }
        kind::REDRIVE => answer(events.redrive(read::<Redrive>(payload)?)),
        kind::DEAD_SUMMARY => {
            let ((group, topic), filter): ((Name, Name), DeadFilter) = read(payload)?;
            answer(events.dead_summary(group, topic, filter))
        }
        kind::EDIT_DEAD => answer(events.edit_dead(read::<EditDead>(payload)?)),
        kind::REMOVE_DEAD => answer(events.remove_dead(read::<RemoveDead>(payload)?)),
        kind::UNDO_REDRIVE => answer(events.undo_redrive(read::<UndoRedrive>(payload)?)),
        // `begin` lets only the kinds of requests through, and this is the last one.
        kind::WHEREABOUTS => {
            let (topic, (partition, position)): (Name, (u32, Position)) = read(payload)?;
            answer(events.whereabouts(topic, partition, position))
        }
        _ => answer(events.set_aside(read::<SetAside>(payload)?)),
    })
}

fn answer<T: Wire + 'static>(result: Fut<Result<T>>) -> Fut<Out> {
    Box::pin(async move { Out::of(&result.await) })
}

fn join(conn: &Arc<Conn>, events: &Arc<dyn Events>, group: GroupSpec) -> Fut<Result<u64>> {
    let lease = group.lease;
    let joined = events.join(group);
    let conn = conn.clone();
    Box::pin(async move {
        let consumer = joined.await?;
        Ok(member::open(&conn, consumer, lease))
    })
}

/// Leases of consumers of other connections are not this one's to extend: they count as lost.
fn extend(conn: &Arc<Conn>, extend: Extend) -> Fut<Result<Vec<bool>>> {
    let Extend { fences, by } = extend;
    let mut kept = vec![false; fences.len()];
    let mut by_consumer: BTreeMap<u64, (Vec<usize>, Vec<Fence>)> = BTreeMap::new();
    for (place, fence) in fences.into_iter().enumerate() {
        let (places, fences) = by_consumer.entry(fence.consumer).or_default();
        places.push(place);
        fences.push(fence);
    }
    let conn = conn.clone();
    Box::pin(async move {
        for (consumer, (places, fences)) in by_consumer {
            let Some(member) = conn.member(consumer) else {
                continue;
            };
            let answers = member.control.extend(fences, by).await?;
            for (place, answer) in places.into_iter().zip(answers) {
                kept[place] = answer;
            }
        }
        Ok(kept)
    })
}

/// Commits units with the receipts that the connection's consumers have out. The receipts are taken now: what the peer
/// sends later finds them gone.
fn commit(conn: Arc<Conn>, units: Vec<WireUnit>) -> Fut<Out> {
    let mut there = Vec::with_capacity(units.len());
    // Where each outcome goes: the place among the units that the engine sees, or fenced already.
    let mut places = Vec::with_capacity(units.len());
    for unit in units {
        let real = with_receipts(&conn, unit);
        places.push(real.is_some());
        there.extend(real);
    }
    let outcomes = (!there.is_empty()).then(|| conn.engine.commit(there));
    Box::pin(async move {
        let outcomes = match outcomes {
            Some(outcomes) => outcomes.await,
            None => Vec::new(),
        };
        let mut outcomes = outcomes.into_iter();
        let mut next = || match outcomes.next() {
            Some(outcome) => without_unit(&conn, outcome),
            None => WireOutcome::Unknown(
                Error::new(Kind::Unexpected, "the engine gave no outcome for a unit").unknown(),
            ),
        };
        let answers = places.into_iter().map(|sent| match sent {
            true => next(),
            false => WireOutcome::Fenced,
        });
        Out::of(&Ok(answers.collect::<Vec<_>>()))
    })
}

/// The unit with its receipts; `None` when one of them, or the fence that it is under, is not this connection's.
fn with_receipts(conn: &Conn, unit: WireUnit) -> Option<Unit> {
    if unit
        .under
        .is_some_and(|under| conn.member(under.consumer).is_none())
    {
        return None;
    }
    let mut receipts = conn.receipts.lock();
    let mut settle: Vec<(Receipt, Verdict)> = Vec::with_capacity(unit.settle.len());
    for (fence, verdict) in unit.settle {
        let Some(receipt) = receipts.take(fence) else {
            settle
                .into_iter()
                .for_each(|(receipt, _)| receipts.put(receipt));
            return None;
        };
        settle.push((receipt, verdict));
    }
    Some(Unit {
        settle,
        send: unit.send,
        once: unit.once,
        under: unit.under,
    })
}

/// The outcome without its unit, which the peer has: receipts that were not used are out again.
fn without_unit(conn: &Conn, outcome: Outcome) -> WireOutcome {
    match outcome {
        Outcome::Applied(sent) => WireOutcome::Applied(sent),
        Outcome::Seen(result) => WireOutcome::Seen(result),
        Outcome::Fenced => WireOutcome::Fenced,
        Outcome::Unknown(error) => WireOutcome::Unknown(error),
        Outcome::NotApplied(unit, error) => {
            let mut receipts = conn.receipts.lock();
            for (receipt, _) in unit.settle {
                receipts.put(receipt);
            }
            WireOutcome::NotApplied(error)
        }
    }
}
