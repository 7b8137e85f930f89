//! Reading the messages of one key: along the chain of versions where the topic keeps them, else by a scan.

use strait_core::events::{KeyVersion, ReadKey};
use strait_core::{Error, Kind, Message, Result};

use crate::codec::Reader;
use crate::command::Command;
use crate::extents::{Extent, StreamId};
use crate::ops::{Op, TopicId};
use crate::reading::Want;
use crate::shared::Shared;
use crate::turn::no_such_topic;

const SCAN: usize = 1 << 20;

pub(crate) async fn read_key(
    shared: &Shared,
    read: &ReadKey,
) -> Result<Vec<(KeyVersion, Message)>> {
    let (id, head, partitions) = {
        let state = shared.state.lock();
        let topic = state
            .topic_named(&read.topic)
            .ok_or_else(|| no_such_topic(&read.topic))?;
        let key = shared.fingerprint.of(&read.key);
        let versions = topic.settings.key_versions;
        let head = versions.then(|| topic.keys.get(&key).copied());
        (topic.id, head, topic.partitions.len() as u32)
    };
    match head {
        Some(None) => Ok(Vec::new()),
        Some(Some(head)) => {
            let is_visible = {
                let state = shared.state.lock();
                let stream = state.stream(StreamId::partition(id, head.partition));
                stream.is_some_and(|stream| head.offset < stream.visible)
            };
            if !is_visible {
                // It is being written; what is read must be durable.
                shared.ask(0, Command::Sync).await??;
            }
            chain(shared, read, id, (head.partition, head.offset))
        }
        None => scan(shared, read, id, partitions),
    }
}

/// Follows the previous records from the key's newest one back to the first one wanted. They may lie in several
/// partitions: a topic may get more of them, and a producer may choose.
fn chain(
    shared: &Shared,
    read: &ReadKey,
    topic: TopicId,
    newest: (u32, u64),
) -> Result<Vec<(KeyVersion, Message)>> {
    let mut found = Vec::new();
    let mut at = Some(newest);
    while let Some((partition, offset)) = at {
        let want = Want {
            stream: StreamId::partition(topic, partition),
            from: offset,
            count: 1,
            bytes: 0,
        };
        let extents = match shared.extents(&want) {
            Ok(extents) => extents,
            // Retention removed the older ones.
            Err(error) if error.is(strait_core::codes::OFFSET_GONE) => break,
            Err(error) => return Err(error),
        };
        let Some(extent) = extents.first() else { break };
        let (version, previous) = step(shared, extent, offset)?;
        if version < read.from {
            break;
        }
        let chunk = shared.chunk_of(read.topic.shared(), partition, &want, &extents)?;
        if let Some(item) = chunk.iter().next() {
            found.push((version, item.to_message()));
        }
        at = previous;
    }
    found.reverse();
    found.truncate(read.limit);
    Ok(found)
}

/// Version of a record and where the one before it is, from the operation that appended it.
fn step(shared: &Shared, extent: &Extent, offset: u64) -> Result<(u64, Option<(u32, u64)>)> {
    let file = shared
        .pool
        .reader(extent.segment)
        .map_err(|error| Error::io(format!("segment {:#x}", extent.segment), error))?;
    let len = (extent.pos - extent.op) as usize;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, u64::from(extent.op))
        .map_err(|error| Error::io(format!("segment {:#x}", extent.segment), error))?;
    if let Ok(Op::Append(append)) = Op::decode(&mut Reader::new(&bytes))
        && append.first == extent.first
        && let Some(step) = append.versions.get((offset - extent.first) as usize)
    {
        return Ok((step.version, step.previous));
    }
    Err(Error::new(
        Kind::Corrupt,
        format!(
            "segment {:#x} has no key versions at byte {}",
            extent.segment, extent.op
        ),
    ))
}

/// Reads everything: topics without key versions. A key's version is then its place among what is left.
fn scan(
    shared: &Shared,
    read: &ReadKey,
    topic: u32,
    partitions: u32,
) -> Result<Vec<(KeyVersion, Message)>> {
    let partition = strait_core::partition_of(&read.key, partitions);
    let stream = StreamId::partition(topic, partition);
    let mut from = shared
        .state
        .lock()
        .stream(stream)
        .map_or(0, |stream| stream.start);
    let mut version = 0;
    let mut found = Vec::new();
    while found.len() < read.limit {
        let want = Want {
            stream,
            from,
            count: u64::MAX,
            bytes: SCAN,
        };
        let chunk = shared.chunk(read.topic.shared(), partition, &want)?;
        if chunk.is_empty() {
            break;
        }
        for item in chunk
            .iter()
            .filter(|item| item.record().key() == Some(&read.key))
        {
            version += 1;
            if version >= read.from && found.len() < read.limit {
                found.push((version, item.to_message()));
            }
        }
        from = chunk.next().offset();
    }
    Ok(found)
}
