//! Consumer groups: their shards, dead letters and, in memory, their members.

use std::collections::BTreeMap;
use std::sync::Arc;

use strait_core::{Fence, Name};

use super::members::Members;
use super::shard::{Parked, Shard};
use crate::codec::{Decoded, Malformed, Reader, put_bytes, put_u64};
use crate::extents::Stream;
use crate::ops::{DeadOp, GroupId, GroupSettings, TopicId};

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) name: Name,
    pub(crate) topic: TopicId,
    pub(crate) settings: Settings,
    pub(crate) shards: Vec<Shard>,
    pub(crate) dead: BTreeMap<u64, Dead>,
    /// Copies of the dead letters: the offset is the number.
    pub(crate) graveyard: Stream,
    /// Sequence of the checkpoint that it came from: older operations are in it.
    pub(crate) stamp: u64,
    /// Who is here. Not durable.
    pub(crate) members: Members,
}

/// [`GroupSettings`], owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) key_order: bool,
    pub(crate) max_attempts: u32,
    pub(crate) max_dead: u64,
    pub(crate) gap: u64,
    pub(crate) dead_topic: Option<Box<str>>,
}

impl Settings {
    pub(crate) fn as_op(&self) -> GroupSettings<'_> {
        GroupSettings {
            key_order: self.key_order,
            max_attempts: self.max_attempts,
            max_dead: self.max_dead,
            gap: self.gap,
            dead_topic: self.dead_topic.as_deref(),
        }
    }
}

impl From<&GroupSettings<'_>> for Settings {
    fn from(op: &GroupSettings<'_>) -> Settings {
        Settings {
            key_order: op.key_order,
            max_attempts: op.max_attempts,
            max_dead: op.max_dead,
            gap: op.gap,
            dead_topic: op.dead_topic.map(Box::from),
        }
    }
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) shard: u32,
    pub(crate) offset: u64,
    pub(crate) attempts: u32,
    pub(crate) key: u64,
    /// When the message was appended.
    pub(crate) appended: i64,
    pub(crate) died: i64,
    pub(crate) reason: Arc<str>,
}

impl Group {
    pub(crate) fn new(
        id: GroupId,
        name: Name,
        topic: TopicId,
        settings: Settings,
        shards: usize,
        stamp: u64,
    ) -> Group {
        let mut group = Group {
            id,
            name,
            topic,
            settings,
            shards: Vec::new(),
            dead: BTreeMap::new(),
            graveyard: Stream::default(),
            stamp,
            members: Members::default(),
        };
        group.grow(shards);
        group
    }

    /// Messages that are out under this receipt come back, with their attempt counted; nothing when it is void.
    pub(crate) fn abandon(&mut self, fence: &Fence) {
        let (first, end) = (fence.first.offset(), fence.end().offset());
        let Some(shard) = self.shards.get_mut(fence.shard as usize) else {
            return;
        };
        if !shard.holds(first, fence.count, fence.epoch) {
            return;
        }
        shard.unlease(first, fence.count);
        shard.take_back_range(first, end);
        let was = |(s, offset): (u32, u64)| s == fence.shard && (first..end).contains(&offset);
        if self.members.suspect.is_some_and(was) {
            self.members.suspect = None;
        }
        self.members.wake_all();
    }

    /// The topic has so many partitions now.
    pub(crate) fn grow(&mut self, shards: usize) {
        let count = shards.max(self.shards.len());
        self.shards.resize_with(count, Shard::default);
        self.members.grow(count);
    }

    /// Why it takes nothing now.
    pub(crate) fn paused(&self) -> Option<Arc<str>> {
        (self.dead.len() as u64 >= self.settings.max_dead).then(|| {
            format!(
                "it has {} dead letters, as many as it may keep: redrive them, or raise the limit",
                self.dead.len()
            )
            .into()
        })
    }

    /// The earliest offset of a shard that a message needs which is parked or out.
    pub(crate) fn needed_from(&self, shard: usize) -> Option<u64> {
        self.shards.get(shard)?.needed_from()
    }

    pub(crate) fn bury(&mut self, shard: u32, offset: u64, op: &DeadOp<'_>) {
        if let Some(shard) = self.shards.get_mut(shard as usize) {
            shard.settle(offset, 1);
        }
        let dead = Dead {
            shard,
            offset,
            attempts: op.attempts,
            key: op.key,
            appended: op.appended,
            died: op.died,
            reason: op.reason.into(),
        };
        self.dead.insert(op.number, dead);
        self.graveyard.end = op.number + 1;
    }

    /// The message is due again, in its old place of the order, attempts from 1. Where the group was sent back over it, it
    /// comes again by itself.
    pub(crate) fn redrive(&mut self, number: u64) {
        let Some(dead) = self.dead.remove(&number) else {
            return;
        };
        let Some(shard) = self.shards.get_mut(dead.shard as usize) else {
            return;
        };
        if !shard.is_settled(dead.offset) {
            return;
        }
        let parked = Parked {
            due: 0,
            delay_ms: 0,
            attempts: 0,
            key: if self.settings.key_order { dead.key } else { 0 },
            reason: Some(dead.reason),
            redriven: Some(number),
        };
        shard.put_parked(dead.offset, parked);
    }

    /// The earliest dead letter whose copy is needed; everything before it may go.
    pub(crate) fn graves_needed_from(&self) -> u64 {
        let dead = self.dead.first_key_value().map(|(number, _)| *number);
        let redriven = self
            .shards
            .iter()
            .flat_map(|shard| shard.parked.values().filter_map(|parked| parked.redriven))
            .min();
        dead.into_iter()
            .chain(redriven)
            .min()
            .unwrap_or(self.graveyard.end)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.name.as_bytes());
        put_u64(out, u64::from(self.topic));
        self.settings.as_op().encode(out);
        put_u64(out, self.shards.len() as u64);
        self.shards.iter().for_each(|shard| shard.encode(out));
        self.graveyard.encode(out);
        put_u64(out, self.dead.len() as u64);
        for (number, dead) in &self.dead {
            put_u64(out, u64::from(dead.shard));
            put_u64(out, dead.offset);
            DeadOp {
                number: *number,
                attempts: dead.attempts,
                key: dead.key,
                appended: dead.appended,
                died: dead.died,
                reason: &dead.reason,
            }
            .encode(out);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>, id: GroupId, stamp: u64) -> Decoded<Group> {
        let name = Name::new(r.str()?).map_err(|_| Malformed)?;
        let topic = r.u32()?;
        let settings = Settings::from(&GroupSettings::decode(r)?);
        let count = r.count(5)?;
        let mut group = Group::new(id, name, topic, settings, count, stamp);
        for shard in &mut group.shards {
            *shard = Shard::decode(r)?;
        }
        group.graveyard = Stream::decode(r)?;
        for _ in 0..r.count(8)? {
            let (shard, offset) = (r.u32()?, r.u64()?);
            let op = DeadOp::decode(r)?;
            let dead = Dead {
                shard,
                offset,
                attempts: op.attempts,
                key: op.key,
                appended: op.appended,
                died: op.died,
                reason: op.reason.into(),
            };
            group.dead.insert(op.number, dead);
        }
        Ok(group)
    }
}
