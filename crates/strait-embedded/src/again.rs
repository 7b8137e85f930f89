//! Reads messages that were out before, neighbours in one go: a redrive reads a million of them.

use std::sync::Arc;

use strait_core::{Message, Result};

use crate::command::Again;
use crate::extents::StreamId;
use crate::ops::GroupId;
use crate::prepare::{read_again, unearthed};
use crate::reading::Want;
use crate::shared::Shared;

/// Numbers with less than this between them are read together.
const NEAR: u64 = 16;
/// So many bytes are read at once.
const BYTES: usize = 1 << 20;

/// What [`read_again`] gives for each of the messages, in their order.
pub(crate) fn read_all_again(
    shared: &Shared,
    topic_name: &Arc<str>,
    topic: u32,
    group: GroupId,
    shard: u32,
    messages: &[Again],
) -> Vec<Result<Option<Message>>> {
    let mut found: Vec<Option<Message>> = vec![None; messages.len()];
    let (mut graves, mut own) = (Vec::new(), Vec::new());
    for (slot, again) in messages.iter().enumerate() {
        match again.grave {
            Some(grave) => graves.push((grave.number, slot)),
            None => own.push((again.offset, slot)),
        }
    }
    let partition = StreamId::partition(topic, shard);
    for (stream, mut places) in [(StreamId::dead(group), graves), (partition, own)] {
        places.sort_unstable();
        for near in places.chunk_by(|a, b| b.0 - a.0 < NEAR) {
            read_near(shared, topic_name, shard, stream, near, &mut found);
        }
    }
    let read = |(again, message): (&Again, Option<Message>)| match (message, again.grave) {
        (Some(message), Some(grave)) => Ok(Some(unearthed(message, shard, again.offset, grave))),
        (Some(message), None) => Ok(Some(message)),
        // Alone, it says why.
        (None, _) => read_again(shared, topic_name, topic, group, shard, again),
    };
    messages.iter().zip(found).map(read).collect()
}

/// Fills in what can be read of `places`: offset and slot, ascending.
fn read_near(
    shared: &Shared,
    topic_name: &Arc<str>,
    shard: u32,
    stream: StreamId,
    mut places: &[(u64, usize)],
    found: &mut [Option<Message>],
) {
    while let (Some((from, _)), Some((last, _))) = (places.first(), places.last()) {
        let want = Want {
            stream,
            from: *from,
            count: last - from + 1,
            bytes: BYTES,
        };
        let Ok(chunk) = shared.chunk(topic_name.clone(), shard, &want) else {
            return;
        };
        for item in chunk.iter() {
            let offset = item.position().offset();
            while let Some(((wanted, slot), rest)) = places.split_first()
                && *wanted <= offset
            {
                if *wanted == offset {
                    found[*slot] = Some(item.to_message());
                }
                places = rest;
            }
        }
        let next = chunk.next().offset();
        if next <= *from {
            return;
        }
        // What lies before it is not there.
        places = &places[places.partition_point(|(offset, _)| *offset < next)..];
    }
}
