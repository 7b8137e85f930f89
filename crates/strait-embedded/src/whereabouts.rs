//! Where one message is: its place in the log, and how each group stands to it.

use strait_core::events::{Standing, Stored, Whereabouts};
use strait_core::{Name, Position, Result, Timestamp};

use crate::disk::cleaned::{file_name, is_cleaned};
use crate::disk::snapshot::newest_head;
use crate::extents::{Extent, StreamId};
use crate::open::open_error;
use crate::reading::Want;
use crate::shared::Shared;
use crate::standing::stuck;
use crate::state::group::Group;
use crate::turn::{no_such_partition, no_such_topic};

pub(crate) fn whereabouts(
    shared: &Shared,
    topic: &Name,
    partition: u32,
    position: Position,
) -> Result<Whereabouts> {
    let offset = position.offset();
    let now = shared.clock.now().wall;
    let (stream, start, visible, mut groups) = {
        let state = shared.state.lock();
        let found = state
            .topic_named(topic)
            .ok_or_else(|| no_such_topic(topic))?;
        let place = found
            .partitions
            .get(partition as usize)
            .ok_or_else(|| no_such_partition(topic, partition, found.partitions.len()))?;
        let groups = found.groups.iter().filter_map(|id| state.groups.get(id));
        let stand = |group: &Group| (group.name.clone(), standing(group, partition, offset, now));
        let groups: Vec<(Name, Standing)> = groups.map(stand).collect();
        let (start, visible) = (place.stream.start, place.stream.visible);
        (
            StreamId::partition(found.id, partition),
            start,
            visible,
            groups,
        )
    };
    groups.sort_by(|a, b| a.0.cmp(&b.0));
    let is_there = (start..visible).contains(&offset);
    let stored = if is_there {
        stored(shared, stream, offset)?
    } else {
        None
    };
    Ok(Whereabouts { stored, groups })
}

fn standing(group: &Group, partition: u32, offset: u64, now: i64) -> Standing {
    let dead = |(number, dead): (&u64, &crate::state::dead::Dead)| {
        (dead.shard == partition && dead.offset == offset).then_some(*number)
    };
    if let Some(number) = group.dead.letters.iter().find_map(dead) {
        return Standing::Dead(number);
    }
    let Some(shard) = group.shards.get(partition as usize) else {
        return Standing::Ahead;
    };
    if shard.is_settled(offset) {
        return Standing::Settled;
    }
    if offset >= shard.next && !shard.parking.contains(offset) {
        return Standing::Ahead;
    }
    let (stuck, _) = stuck(group, partition, shard, offset, now);
    Standing::Unsettled(stuck)
}

fn stored(shared: &Shared, stream: StreamId, offset: u64) -> Result<Option<Stored>> {
    let want = Want {
        stream,
        from: offset,
        count: 1,
        bytes: 0,
    };
    let extents = shared.extents(&want)?;
    // Compaction may have left nothing here.
    let Some(extent) = extents.first().filter(|extent| extent.first <= offset) else {
        return Ok(None);
    };
    Ok(Some(Stored {
        file: file_name(extent.segment).into(),
        at: u64::from(extent.pos),
        len: u64::from(extent.len),
        first: Position::at(extent.first),
        count: extent.count,
        appended: Timestamp::from_millis(extent.time),
        checkpoint: checkpoint_of(shared, extent)?,
    }))
}

/// The sequence of the newest checkpoint, when the log is replayed from behind this place.
fn checkpoint_of(shared: &Shared, extent: &Extent) -> Result<Option<u64>> {
    let head = newest_head(&*shared.disk, shared.identity).map_err(open_error)?;
    Ok(head.and_then(|head| {
        let from = (head.replay.segment, head.replay.offset);
        let is_before = (extent.segment, u64::from(extent.pos)) < from;
        (is_cleaned(extent.segment) || is_before).then_some(head.seq)
    }))
}
