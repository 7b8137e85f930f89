//! Setting a message aside by hand.

use strait_core::events::SetAside;
use strait_core::{Error, Kind, Name, Result};

use super::{ask, find};
use crate::command::Again;
use crate::command::dead::{DeadCommand, Of};
use crate::extents::StreamId;
use crate::prepare::{dead_copy, read_again, taken};
use crate::shared::Shared;
use crate::turn::no_such_partition;

pub(crate) async fn set_aside(shared: &Shared, aside: SetAside) -> Result<u64> {
    let of = (aside.group, aside.topic);
    let (shard, offset) = (aside.partition, aside.position.offset());
    let (group, topic, again) = {
        let state = shared.state.lock();
        let group = find(&state, &of)?;
        group.check_aside(&of, shard, offset)?;
        let stream = state.stream(StreamId::partition(group.topic, shard));
        let count = group.shards.len();
        let stream = stream.ok_or_else(|| no_such_partition(&of.1, shard, count))?;
        let grave = group.grave_of(shard, offset);
        if grave.is_none() && offset >= stream.visible {
            return Err(no_such_offset(&of.1, shard, offset, stream.visible));
        }
        let again = Again {
            offset,
            attempt: 0,
            reason: None,
            grave,
        };
        (group.id, group.topic, again)
    };
    let message = read_again(shared, &of.1.shared(), topic, group, shard, &again)?;
    let message = message.ok_or_else(|| compacted(&of.1, shard, offset))?;
    if aside.dry_run {
        return would_be(shared, &of, shard, offset, aside.force);
    }
    let attempts = {
        let state = shared.state.lock();
        let found = find(&state, &of)?.shards.get(shard as usize);
        found.map_or(0, |shard| shard.attempts_of(offset))
    };
    let copy = dead_copy(shared, group, &message, attempts, &aside.reason);
    let taken = Box::new(taken(offset, &message, copy));
    let bytes = taken.bytes() + aside.reason.len();
    let (reason, force) = (aside.reason, aside.force);
    let command = |answer| DeadCommand::SetAside {
        of,
        shard,
        taken,
        reason,
        force,
        answer,
    };
    ask(shared, bytes, command).await
}

/// The number of the dead letter that a message would become now.
fn would_be(shared: &Shared, of: &Of, shard: u32, offset: u64, force: bool) -> Result<u64> {
    let state = shared.state.lock();
    let group = find(&state, of)?;
    let lease = group
        .shards
        .get(shard as usize)
        .and_then(|s| s.lease_of(offset));
    match lease.filter(|lease| lease.delivered && !force) {
        Some(lease) => Err(group.out_with(of, shard, offset, lease.consumer)),
        None => Ok(group.graveyard.end),
    }
}

fn compacted(topic: &Name, shard: u32, offset: u64) -> Error {
    let text = format!("compaction removed offset {offset} of partition {shard} of `{topic}`");
    Error::new(Kind::NotFound, text).with("topic", topic)
}

fn no_such_offset(topic: &Name, shard: u32, offset: u64, end: u64) -> Error {
    let text = format!("partition {shard} of `{topic}` has no offset {offset}: it ends at {end}");
    Error::new(Kind::NotFound, text)
        .with("topic", topic)
        .next(format!(
            "`strait topic show {topic}` says where its partitions begin and end"
        ))
}
