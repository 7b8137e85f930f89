//! Topics: partitions, the dedupe window and the versions of keys.

use std::collections::VecDeque;
use std::sync::Arc;

use rapidhash::RapidHashMap;
use strait_core::Name;
use tokio::sync::Notify;

use crate::codec::{Decoded, Malformed, Reader, put_bytes, put_i64, put_u64, put_u128};
use crate::extents::Stream;
use crate::ops::{AppendOp, GroupId, KeyStep, TopicId, TopicSettings};

#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) id: TopicId,
    pub(crate) name: Name,
    pub(crate) settings: TopicSettings,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) dedupe: Dedupe,
    pub(crate) keys: RapidHashMap<u128, KeyHead>,
    /// Sequence of the checkpoint that it came from: older operations are in it.
    pub(crate) stamp: u64,
    /// Groups on it. Derived.
    pub(crate) groups: Vec<GroupId>,
}

#[derive(Debug, Default)]
pub(crate) struct Partition {
    pub(crate) stream: Stream,
    /// Everything before it was compacted once, as it was then.
    pub(crate) compacted: u64,
    /// Fired when more of it is visible.
    pub(crate) grown: Arc<Notify>,
}

/// The newest record of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyHead {
    pub(crate) version: u64,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

impl Topic {
    pub(crate) fn new(id: TopicId, name: Name, settings: TopicSettings, stamp: u64) -> Topic {
        let mut topic = Topic {
            id,
            name,
            settings,
            partitions: Vec::new(),
            dedupe: Dedupe::default(),
            keys: RapidHashMap::default(),
            stamp,
            groups: Vec::new(),
        };
        topic.alter(settings);
        topic
    }

    /// True when something of it is removed by and by.
    pub(crate) fn has_cleanup(&self) -> bool {
        self.settings.has_cleanup()
    }

    pub(crate) fn alter(&mut self, settings: TopicSettings) {
        self.settings = settings;
        let count = settings.partitions as usize;
        self.partitions
            .resize_with(count.max(self.partitions.len()), Partition::default);
    }

    /// Gives the offsets; the place in the log follows when the group was written.
    pub(crate) fn append(&mut self, op: &AppendOp) {
        let Some(partition) = self.partitions.get_mut(op.partition as usize) else {
            return;
        };
        partition.stream.end = op.first + u64::from(op.count);
        self.dedupe.remember(op, self.settings.dedupe_ms);
        for (step, offset) in op.versions.iter().zip(op.first..) {
            if step.version > 0 {
                let head = KeyHead {
                    version: step.version,
                    partition: op.partition,
                    offset,
                };
                self.keys.insert(step.key, head);
            }
        }
    }

    /// The versions that records with these keys (fingerprints) would get, were they appended at `first`. `before` knows
    /// what will be newer than the state by then.
    pub(crate) fn next_versions(
        &self,
        partition: u32,
        first: u64,
        keys: &[Option<u128>],
        before: impl Fn(u128) -> Option<KeyHead>,
    ) -> Vec<KeyStep> {
        let mut heads: RapidHashMap<u128, KeyHead> = RapidHashMap::default();
        let step = |(key, offset): (&Option<u128>, u64)| {
            let Some(key) = *key else {
                return KeyStep {
                    key: 0,
                    version: 0,
                    previous: None,
                };
            };
            let ahead = heads.get(&key).copied().or_else(|| before(key));
            let head = ahead.or_else(|| self.keys.get(&key).copied());
            let version = head.map_or(1, |head| head.version + 1);
            heads.insert(
                key,
                KeyHead {
                    version,
                    partition,
                    offset,
                },
            );
            KeyStep {
                key,
                version,
                previous: head.map(|head| (head.partition, head.offset)),
            }
        };
        keys.iter().zip(first..).map(step).collect()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.name.as_bytes());
        self.settings.encode(out);
        put_u64(out, self.partitions.len() as u64);
        for partition in &self.partitions {
            partition.stream.encode(out);
            put_u64(out, partition.compacted);
        }
        self.dedupe.encode(out);
        put_u64(out, self.keys.len() as u64);
        for (key, head) in &self.keys {
            put_u128(out, *key);
            put_u64(out, head.version);
            put_u64(out, u64::from(head.partition));
            put_u64(out, head.offset);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>, id: TopicId, stamp: u64) -> Decoded<Topic> {
        let name = Name::new(r.str()?).map_err(|_| Malformed)?;
        let mut topic = Topic::new(id, name, TopicSettings::decode(r)?, stamp);
        topic.partitions.clear();
        for _ in 0..r.count(4)? {
            topic.partitions.push(Partition {
                stream: Stream::decode(r)?,
                compacted: r.u64()?,
                grown: Arc::default(),
            });
        }
        topic.dedupe = Dedupe::decode(r)?;
        for _ in 0..r.count(19)? {
            let key = r.u128()?;
            let head = KeyHead {
                version: r.u64()?,
                partition: r.u32()?,
                offset: r.u64()?,
            };
            topic.keys.insert(key, head);
        }
        Ok(topic)
    }
}

/// Ids of the last while and where they were stored.
#[derive(Debug, Default)]
pub(crate) struct Dedupe {
    known: RapidHashMap<u128, Remembered>,
    /// In the order of time: what is forgotten next stands first.
    order: VecDeque<(i64, u128)>,
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    time: i64,
    partition: u32,
    offset: u64,
}

impl Dedupe {
    /// Partition and offset of an id that is remembered.
    pub(crate) fn get(&self, id: u128, window_ms: u64, now: i64) -> Option<(u32, u64)> {
        let found = self
            .known
            .get(&id)
            .filter(|found| !expired(found.time, window_ms, now))?;
        Some((found.partition, found.offset))
    }

    fn remember(&mut self, op: &AppendOp, window_ms: u64) {
        while self
            .order
            .front()
            .is_some_and(|(time, _)| expired(*time, window_ms, op.time))
        {
            if let Some((time, id)) = self.order.pop_front()
                && self.known.get(&id).is_some_and(|found| found.time == time)
            {
                self.known.remove(&id);
            }
        }
        // A batch's own id stands for its first record; ids that records were given, each for its own.
        for (id, offset) in op.ids.iter().zip(op.first..) {
            let found = Remembered {
                time: op.time,
                partition: op.partition,
                offset,
            };
            self.known.insert(*id, found);
            self.order.push_back((op.time, *id));
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let live = || {
            self.order.iter().filter_map(|(time, id)| {
                self.known
                    .get(id)
                    .filter(|found| found.time == *time)
                    .map(|found| (id, found))
            })
        };
        put_u64(out, live().count() as u64);
        for (id, found) in live() {
            put_i64(out, found.time);
            put_u128(out, *id);
            put_u64(out, u64::from(found.partition));
            put_u64(out, found.offset);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Decoded<Dedupe> {
        let mut dedupe = Dedupe::default();
        for _ in 0..r.count(19)? {
            let (time, id) = (r.i64()?, r.u128()?);
            let found = Remembered {
                time,
                partition: r.u32()?,
                offset: r.u64()?,
            };
            dedupe.order.push_back((time, id));
            dedupe.known.insert(id, found);
        }
        Ok(dedupe)
    }
}

fn expired(time: i64, window_ms: u64, now: i64) -> bool {
    time.saturating_add(i64::try_from(window_ms).unwrap_or(i64::MAX)) <= now
}
