//! Reading the messages of one key: along the chain of versions where the topic keeps them, else by a scan.

use std::collections::VecDeque;

use parking_lot::Mutex;
use strait_core::events::{KeyVersion, ReadKey};
use strait_core::{Error, Kind, Message, Result, codes};

use crate::codec::Reader;
use crate::command::Command;
use crate::extents::{Extent, StreamId};
use crate::ops::{KeyStep, Op, TopicId};
use crate::reading::{Want, gone};
use crate::shared::Shared;
use crate::turn::no_such_topic;

/// Bytes that a scan reads at once.
const SCAN: usize = 1 << 20;
/// Bytes of batches that one answer holds at most, but at least one batch: a message holds the whole of its batch.
const HELD: usize = 64 << 20;
/// Keys whose waypoints are kept, and how many of each.
const KEYS: usize = 16;
const WAYPOINTS: usize = 1024;

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
        _ if read.limit == 0 => Ok(Vec::new()),
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
            let head = Place {
                version: head.version,
                partition: head.partition,
                offset: head.offset,
            };
            chain(shared, read, id, head)
        }
        None => scan(shared, read, id, partitions),
    }
}

/// One record of a key.
#[derive(Debug, Clone, Copy)]
struct Place {
    version: KeyVersion,
    partition: u32,
    offset: u64,
}

/// Places met on the way along chains, one per batch: the next page of the same key begins at one of them and not at
/// the key's newest record. A place never changes; retention may have removed it.
#[derive(Debug, Default)]
pub(crate) struct Waypoints {
    keys: Mutex<VecDeque<(TopicId, u128, Vec<Place>)>>,
}

impl Waypoints {
    /// The oldest known place that is not before `version`.
    fn nearest(&self, topic: TopicId, key: u128, version: KeyVersion) -> Option<Place> {
        let keys = self.keys.lock();
        let (_, _, places) = keys.iter().find(|(t, k, _)| (*t, *k) == (topic, key))?;
        // Newest first.
        let after = places.partition_point(|place| place.version >= version);
        places.get(after.checked_sub(1)?).copied()
    }

    fn put(&self, topic: TopicId, key: u128, places: Vec<Place>) {
        let mut keys = self.keys.lock();
        keys.retain(|(t, k, _)| (*t, *k) != (topic, key));
        keys.push_front((topic, key, places));
        keys.truncate(KEYS);
    }
}

/// Finds the places wanted along the chain, then reads their batches.
fn chain(
    shared: &Shared,
    read: &ReadKey,
    topic: TopicId,
    head: Place,
) -> Result<Vec<(KeyVersion, Message)>> {
    let key = shared.fingerprint.of(&read.key);
    let last = read.from.saturating_add(read.limit as u64 - 1);
    if let Some(near) = shared.waypoints.nearest(topic, key, last) {
        let (places, _) = walk(shared, read, topic, near)?;
        // With fewer, retention has removed some: others take their place.
        if places.len() == read.limit {
            return messages(shared, read, topic, places);
        }
    }
    let (places, met) = walk(shared, read, topic, head)?;
    shared.waypoints.put(topic, key, met);
    messages(shared, read, topic, places)
}

/// Follows the previous records from `start` back to the first one wanted; gives the wanted ones, oldest first, and the
/// places where it went into another batch. They may lie in several partitions: a topic may get more of them, and a
/// producer may choose. Only the operations are read, each once in a row.
fn walk(
    shared: &Shared,
    read: &ReadKey,
    topic: TopicId,
    start: Place,
) -> Result<(VecDeque<Place>, Vec<Place>)> {
    let (mut wanted, mut met) = (VecDeque::new(), Vec::new());
    let mut here: Option<Steps> = None;
    let mut at = Some((start.partition, start.offset));
    while let Some((partition, offset)) = at {
        let known = here.take().filter(|steps| steps.holds(partition, offset));
        let is_new = known.is_none();
        let steps = match known {
            Some(steps) => steps,
            None => match Steps::read(shared, topic, partition, offset)? {
                Some(steps) => steps,
                // Retention removed the older ones.
                None => break,
            },
        };
        let step = steps.at(offset)?;
        let place = Place {
            version: step.version,
            partition,
            offset,
        };
        if step.version < read.from {
            break;
        }
        if is_new {
            meet(&mut met, place);
        }
        wanted.push_front(place);
        wanted.truncate(read.limit);
        at = step.previous;
        here = Some(steps);
    }
    Ok((wanted, met))
}

/// Notes a place; of very many, every second one is kept.
fn meet(met: &mut Vec<Place>, place: Place) {
    if met.len() == WAYPOINTS {
        let mut keep = false;
        met.retain(|_| {
            keep = !keep;
            keep
        });
    }
    met.push(place);
}

/// The key versions of one batch.
struct Steps {
    partition: u32,
    extent: Extent,
    versions: Vec<KeyStep>,
}

impl Steps {
    /// Of the batch that holds `offset`, from the operation that appended it. `None` when retention removed it.
    fn read(shared: &Shared, topic: TopicId, partition: u32, offset: u64) -> Result<Option<Steps>> {
        let want = batch_at(topic, partition, offset);
        let read = shared.read_found(&want, |found| {
            let extent = found.extents.first().copied();
            extent.map(|extent| op_bytes(shared, &extent)).transpose()
        });
        let (extent, bytes) = match read {
            Err(error) if error.is(codes::OFFSET_GONE) => return Ok(None),
            Ok(None) => return Ok(None),
            Ok(Some(read)) => read,
            Err(error) => return Err(error),
        };
        match Op::decode(&mut Reader::new(&bytes)) {
            Ok(Op::Append(append)) if append.first == extent.first => Ok(Some(Steps {
                partition,
                extent,
                versions: append.versions,
            })),
            _ => Err(no_versions(&extent)),
        }
    }

    fn holds(&self, partition: u32, offset: u64) -> bool {
        self.partition == partition && (self.extent.first..self.extent.end()).contains(&offset)
    }

    fn at(&self, offset: u64) -> Result<KeyStep> {
        let step = self.versions.get((offset - self.extent.first) as usize);
        step.copied().ok_or_else(|| no_versions(&self.extent))
    }
}

/// The bytes from the operation that appended the batch up to the batch.
pub(crate) fn op_bytes(shared: &Shared, extent: &Extent) -> Result<(Extent, Vec<u8>)> {
    let segment = extent.segment;
    let file = shared.pool.reader(segment);
    let file = file.map_err(|error| gone(segment, error))?;
    let mut bytes = vec![0; (extent.pos - extent.op) as usize];
    let read = file.read_exact_at(&mut bytes, u64::from(extent.op));
    read.map_err(|error| Error::io(format!("cannot read segment {segment:#x}"), error))?;
    Ok((*extent, bytes))
}

fn no_versions(extent: &Extent) -> Error {
    Error::new(
        Kind::Corrupt,
        format!(
            "segment {:#x} has no key versions at byte {}",
            extent.segment, extent.op
        ),
    )
    .next("run `strait verify` on the directory, and restore a backup")
}

/// The rest of the batch that holds `offset`.
fn batch_at(topic: TopicId, partition: u32, offset: u64) -> Want {
    Want {
        stream: StreamId::partition(topic, partition),
        from: offset,
        count: u64::MAX,
        bytes: 0,
    }
}

/// Reads the messages at `places`, oldest first: each batch once for all that follow each other in it.
fn messages(
    shared: &Shared,
    read: &ReadKey,
    topic: TopicId,
    places: VecDeque<Place>,
) -> Result<Vec<(KeyVersion, Message)>> {
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut places = places.into_iter().peekable();
    while let Some(&first) = places.peek() {
        let want = batch_at(topic, first.partition, first.offset);
        let chunk = match shared.chunk(read.topic.shared(), first.partition, &want) {
            Err(error) if error.is(codes::OFFSET_GONE) => {
                // Retention removed it since.
                places.next();
                continue;
            }
            other => other?,
        };
        bytes += chunk.buffer().len();
        if bytes > HELD && !found.is_empty() {
            break;
        }
        let here = first.offset..chunk.next().offset().max(first.offset + 1);
        let mut items = chunk.iter();
        while let Some(place) =
            places.next_if(|p| p.partition == first.partition && here.contains(&p.offset))
        {
            let item = items.find(|item| item.position().offset() == place.offset);
            found.extend(item.map(|item| (place.version, item.to_message())));
        }
    }
    Ok(found)
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
    let mut held = 0;
    while found.len() < read.limit && held < HELD {
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
        let before = found.len();
        for item in chunk
            .iter()
            .filter(|item| item.record().key() == Some(&read.key))
        {
            version += 1;
            if version >= read.from && found.len() < read.limit {
                found.push((version, item.to_message()));
            }
        }
        if found.len() > before {
            held += chunk.buffer().len();
        }
        from = chunk.next().offset();
    }
    Ok(found)
}
