//! What a verdict needs from the log is read on the caller's thread, before the unit goes to the writer.

use std::sync::Arc;

use strait_core::{
    Attr, Limits, Message, NewRecord, Position, Receipt, Record, Records, RecordsBuilder, Result,
    Timestamp, Unit, Verdict, partition_of,
};

use crate::again::read_all_again;
use crate::command::{Again, Prepared, Taken};
use crate::consumer::group_of;
use crate::extents::StreamId;
use crate::fingerprint::key_hash;
use crate::ops::GroupId;
use crate::reading::Want;
use crate::shared::Shared;
use crate::state::dead::Grave;
use crate::turn::needs_messages;

/// Headers of the copy in a dead-letter topic: where it comes from and why it is there.
const ORIGIN: [&str; 6] = [
    "strait-dead-topic",
    "strait-dead-partition",
    "strait-dead-offset",
    "strait-dead-group",
    "strait-dead-attempts",
    "strait-dead-reason",
];

impl Prepared {
    /// A unit that settles one message that is at hand.
    pub(crate) fn of_one(
        receipt: Receipt,
        verdict: Verdict,
        message: &Message,
        copy: Option<(u32, Records)>,
    ) -> Prepared {
        let offset = receipt.fence().first.offset();
        let taken = taken(offset, message, copy);
        Prepared {
            unit: Unit::settle(receipt, verdict),
            messages: vec![vec![taken]],
        }
    }
}

pub(crate) fn taken(offset: u64, message: &Message, copy: Option<(u32, Records)>) -> Taken {
    Taken {
        grave: Some(again(&message.record(), &[])),
        copy,
        ..without_grave(offset, message)
    }
}

fn without_grave(offset: u64, message: &Message) -> Taken {
    Taken {
        offset,
        key: key_hash(message.record().key()),
        appended: message.appended().as_millis(),
        attempts: None,
        grave: None,
        copy: None,
    }
}

/// A unit that cannot be prepared, and why.
type Refused = (Unit, strait_core::Error);

/// Reads the messages of every receipt that is parked or given up.
pub(crate) fn prepare(shared: &Shared, unit: Unit) -> Result<Prepared, Box<Refused>> {
    let limit = unit_bytes(&shared.options.limits);
    let mut prepared = Prepared {
        unit,
        messages: Vec::new(),
    };
    let left = limit.saturating_sub(prepared.bytes());
    if prepared.bytes() > limit {
        return Err(Box::new((prepared.unit, too_large(limit))));
    }
    match take_all(shared, &prepared.unit.settle, left) {
        Ok(Some(messages)) => prepared.messages = messages,
        Ok(None) => return Err(Box::new((prepared.unit, too_large(limit)))),
        Err(error) => return Err(Box::new((prepared.unit, error))),
    }
    Ok(prepared)
}

/// Receipts whose messages are read together.
const TOGETHER: usize = 512;

/// What the verdicts of a unit take, for each that needs it; `None` when it is more than `left`. Receipts of one partition
/// are mostly of messages that lie together: they are read together.
fn take_all(
    shared: &Shared,
    settle: &[(Receipt, Verdict)],
    mut left: usize,
) -> Result<Option<Vec<Vec<Taken>>>> {
    let needing: Vec<(&Receipt, &Verdict)> = settle
        .iter()
        .filter(|(_, verdict)| needs_messages(verdict))
        .map(|(receipt, verdict)| (receipt, verdict))
        .collect();
    let place = |receipt: &Receipt| (receipt.fence().consumer, receipt.fence().shard);
    let mut all = Vec::with_capacity(needing.len());
    let same = needing.chunk_by(|(a, _), (b, _)| place(a) == place(b));
    for near in same.flat_map(|same| same.chunks(TOGETHER)) {
        let held: Vec<Option<HeldMessages>> = near
            .iter()
            .map(|(receipt, _)| held(shared, receipt))
            .collect();
        let (Some((receipt, _)), Some(first)) = (near.first(), held.iter().flatten().next()) else {
            // Fenced: the writer says so.
            all.extend(near.iter().map(|_| Vec::new()));
            continue;
        };
        let (consumer, shard) = place(receipt);
        let group = group_of(consumer);
        let (name, topic) = (first.name.clone(), first.topic);
        let (mut messages, mut counts) = (Vec::new(), Vec::with_capacity(held.len()));
        let max_attempts = first.max_attempts;
        for held in held {
            counts.push(held.as_ref().map(|held| held.messages.len()));
            messages.extend(held.into_iter().flat_map(|held| held.messages));
        }
        let read = read_all_again(shared, &name, topic, group, shard, &messages);
        let mut read = messages.iter().zip(read);
        for ((_, verdict), count) in near.iter().zip(counts) {
            let of_it = read.by_ref().take(count.unwrap_or(0));
            let Some(taken) = take(shared, group, verdict, max_attempts, of_it, &mut left)? else {
                return Ok(None);
            };
            // What was not held, or is not there any more: the writer says that it is fenced.
            let whole = count.is_some_and(|count| taken.len() == count);
            all.push(if whole { taken } else { Vec::new() });
        }
    }
    Ok(Some(all))
}

/// The most that the sends of a unit and the copies of its dead letters may have together: a group of the log holds
/// them, and so does the reserve.
pub(crate) fn unit_bytes(limits: &Limits) -> usize {
    let one = limits.body + limits.key + limits.headers;
    (16 << 20).max(2 * limits.batch.max(one + (128 << 10)))
}

fn too_large(limit: usize) -> strait_core::Error {
    let text = format!("a unit with its dead letters takes more than {limit} bytes in the log");
    strait_core::Error::new(strait_core::Kind::Rejected, text)
        .code(strait_core::codes::TOO_LARGE)
        .next("settle fewer messages in one unit, or send less with it")
}

/// What a verdict over a receipt takes; `None` when it is more than `left`. Less than all when some is not there any more.
fn take<'a>(
    shared: &Shared,
    group: GroupId,
    verdict: &Verdict,
    max_attempts: u32,
    read: impl Iterator<Item = (&'a Again, Result<Option<Message>>)>,
    left: &mut usize,
) -> Result<Option<Vec<Taken>>> {
    let (last_from, reason) = match verdict {
        Verdict::Retry { counts, reason, .. } => {
            (if *counts { max_attempts } else { u32::MAX }, reason)
        }
        Verdict::Dead(reason) => (0, reason),
        _ => return Ok(Some(Vec::new())),
    };
    let mut all = Vec::new();
    // Each is taken from the iterator, also after one that is not there: the next receipt's follow.
    for (one, message) in read {
        let message = match message {
            // It was lost after the look above, and then retention, compaction or a deletion took it.
            Err(error) if error.kind() == strait_core::Kind::NotFound => None,
            other => other?,
        };
        let Some(message) = message else {
            continue;
        };
        let taken = if one.attempt >= last_from {
            let copy = dead_copy(shared, group, &message, one.attempt, reason);
            taken(one.offset, &message, copy)
        } else {
            without_grave(one.offset, &message)
        };
        match left.checked_sub(taken.bytes()) {
            Some(rest) => *left = rest,
            None => return Ok(None),
        }
        all.push(taken);
    }
    Ok(Some(all))
}

/// What a valid receipt covers.
struct HeldMessages {
    topic: u32,
    name: Arc<str>,
    max_attempts: u32,
    messages: Vec<Again>,
}

fn held(shared: &Shared, receipt: &Receipt) -> Option<HeldMessages> {
    let fence = receipt.fence();
    let first = fence.first.offset();
    let state = shared.state.lock();
    let group = state.groups.get(&group_of(fence.consumer))?;
    let shard = group.shards.get(fence.shard as usize)?;
    let topic = state.topics.get(&group.topic)?;
    if !shard.holds(first, fence.count, fence.epoch) {
        return None;
    }
    let again = |offset| Again {
        offset,
        attempt: shard.attempts_of(offset),
        reason: None,
        grave: group.grave_of(fence.shard, offset),
    };
    Some(HeldMessages {
        topic: topic.id,
        name: topic.name.shared(),
        max_attempts: group.settings.max_attempts,
        messages: (first..fence.end().offset()).map(again).collect(),
    })
}

/// Reads a message that was out before: from its partition, or from the dead letters that it came back from. `None` when
/// compaction removed it.
pub(crate) fn read_again(
    shared: &Shared,
    topic_name: &Arc<str>,
    topic: u32,
    group: GroupId,
    shard: u32,
    again: &Again,
) -> Result<Option<Message>> {
    let (stream, from) = match again.grave {
        Some(grave) => (StreamId::dead(group), grave.number),
        None => (StreamId::partition(topic, shard), again.offset),
    };
    let want = Want {
        stream,
        from,
        count: 1,
        bytes: 0,
    };
    let chunk = shared.chunk(topic_name.clone(), shard, &want)?;
    let first = chunk.iter().next().map(|item| item.to_message());
    Ok(first.map(|message| match again.grave {
        Some(grave) => unearthed(message, shard, again.offset, grave),
        None => message,
    }))
}

/// The copy of a dead letter as the message that it was.
pub(crate) fn unearthed(message: Message, shard: u32, offset: u64, grave: Grave) -> Message {
    let appended = Timestamp::from_millis(grave.appended);
    message.placed(shard, Position::at(offset), appended)
}

/// The copy for the group's dead-letter topic, where it has one.
pub(crate) fn dead_copy(
    shared: &Shared,
    group: GroupId,
    message: &Message,
    attempts: u32,
    reason: &str,
) -> Option<(u32, Records)> {
    let (name, partitions) = {
        let state = shared.state.lock();
        let group = state.groups.get(&group)?;
        let topic = state.topic_named(group.settings.dead_topic.as_deref()?)?;
        (group.name.clone(), topic.partitions.len() as u32)
    };
    let record = message.record();
    let partition = match record.key() {
        Some(key) => partition_of(key, partitions),
        None => message.partition() % partitions.max(1),
    };
    let reason: String = reason
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let values = [
        message.topic().to_string(),
        message.partition().to_string(),
        message.position().to_string(),
        name.to_string(),
        attempts.to_string(),
        reason,
    ];
    let origin: Vec<(&str, &[u8])> = ORIGIN
        .into_iter()
        .zip(values.iter().map(|value| value.as_bytes()))
        .collect();
    Some((partition, again(&record, &origin)))
}

/// The same message as a batch of its own, with the same id.
fn again(record: &Record<'_>, more: &[(&str, &[u8])]) -> Records {
    let id = record.id().to_string();
    let mut attrs: Vec<(Attr, &str)> = record.attrs().filter(|(a, _)| *a != Attr::Id).collect();
    attrs.push((Attr::Id, &id));
    let headers: Vec<(&str, &[u8])> = record.headers().chain(more.iter().copied()).collect();
    let unbounded = Limits {
        body: usize::MAX,
        key: usize::MAX,
        headers: usize::MAX,
        batch: usize::MAX,
    };
    let new = NewRecord {
        key: record.key(),
        body: record.body(),
        headers: &headers,
        time: Some(record.time()),
        attrs: &[],
    };
    let build = |attrs: &[(Attr, &str)], new: NewRecord<'_>| {
        let time = Timestamp::from_millis(record.time().as_millis());
        let mut builder = RecordsBuilder::with(attrs, unbounded, time, record.batch().id())?;
        builder.push(new)?;
        Ok::<_, strait_core::Error>(builder.build())
    };
    // What was accepted once is accepted again; the bare message is the last resort that cannot be refused.
    build(&attrs, new)
        .or_else(|_| {
            build(
                &[],
                NewRecord {
                    headers: &[],
                    ..new
                },
            )
        })
        .expect("key and body have no rule that they could break")
}
