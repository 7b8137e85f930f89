//! The state of the engine: what the log says, held in memory. It does no I/O and reads no clock.
//!
//! Live and in recovery the same [`State::apply`] makes every durable change; what is decided, and what is only in
//! memory (members, leases), is not in it.

use std::collections::BTreeMap;

use bytes::Bytes;
use rapidhash::RapidHashMap;
use strait_core::Name;

use crate::codec::{Decoded, Malformed, Reader, put_u64};
use crate::disk::cleaned::{is_cleaned, parts_of};
use crate::extents::{Extent, Stream, StreamId};
use crate::ops::{GroupId, MovedOp, Op, TopicId};
use crate::shared::Alarms;

pub(crate) mod dead;
pub(crate) mod group;
pub(crate) mod ledger;
pub(crate) mod members;
pub(crate) mod shard;
pub(crate) mod topic;

use group::{Group, Operator, Settings};
use ledger::{Ledger, PARTS, full_key, part_of};
use topic::Topic;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) topics: BTreeMap<TopicId, Topic>,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    topic_names: RapidHashMap<Name, TopicId>,
    group_names: RapidHashMap<(Name, TopicId), GroupId>,
    pub(crate) ledger: Vec<Ledger>,
    /// Grows with every opening; part of every receipt.
    pub(crate) incarnation: u64,
    pub(crate) next_topic: TopicId,
    pub(crate) next_group: GroupId,
    pub(crate) next_token: u64,
    /// The number of the next cleaned segment.
    pub(crate) next_cleaned: u64,
    /// Grants and consumers of this incarnation.
    grants: u64,
    consumers: u32,
    /// Sequence of the newest group applied.
    pub(crate) applied: u64,
    /// The checkpoint lists the objects of this sequence: one that it does not list and that was made earlier is gone.
    listed: u64,
    /// A group is applied and its bodies have no place yet.
    pub(crate) unplaced: bool,
    pub(crate) alarms: Alarms,
}

impl Default for State {
    fn default() -> Self {
        State {
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            topic_names: RapidHashMap::default(),
            group_names: RapidHashMap::default(),
            ledger: (0..PARTS).map(|_| Ledger::default()).collect(),
            incarnation: 0,
            next_topic: 1,
            next_group: 1,
            next_token: 1,
            next_cleaned: 1,
            grants: 0,
            consumers: 0,
            applied: 0,
            listed: 0,
            unplaced: false,
            alarms: Alarms::default(),
        }
    }
}

/// Kinds of sections in a checkpoint.
pub(crate) mod section {
    pub(crate) const COUNTERS: u16 = 1;
    pub(crate) const TOPIC: u16 = 2;
    pub(crate) const GROUP: u16 = 3;
    pub(crate) const LEDGER: u16 = 4;
}

impl State {
    pub(crate) fn topic_named(&self, name: &str) -> Option<&Topic> {
        self.topics.get(self.topic_names.get(name)?)
    }

    pub(crate) fn group_named(&self, group: &Name, topic: &str) -> Option<&Group> {
        let topic = *self.topic_names.get(topic)?;
        self.groups
            .get(self.group_names.get(&(group.clone(), topic))?)
    }

    /// A number that no receipt of this directory ever had: the incarnation is in it.
    pub(crate) fn new_grant(&mut self) -> u64 {
        self.grants += 1;
        self.incarnation << 40 | self.grants
    }

    /// The id of a new member of a group.
    pub(crate) fn new_consumer(&mut self, group: GroupId) -> u64 {
        self.consumers += 1;
        u64::from(group) << 32 | u64::from(self.consumers)
    }

    pub(crate) fn ledger_of(&mut self, full: &str) -> &mut Ledger {
        &mut self.ledger[part_of(full)]
    }

    /// Makes one durable change. Gives the stream that the operation's body belongs to, whose place follows by
    /// [`place`](Self::place). An operation on an object that does not exist any more, or that its checkpoint already
    /// holds, changes nothing.
    pub(crate) fn apply(&mut self, seq: u64, op: &Op<'_>) -> Option<StreamId> {
        match op {
            Op::Open { incarnation } => self.incarnation = self.incarnation.max(*incarnation),
            Op::PutTopic { .. } | Op::DeleteTopic { .. } | Op::Append(_) | Op::Trim { .. } => {
                return self.apply_topic(seq, op);
            }
            Op::Moved(moved) => self.apply_moved(seq, moved),
            Op::Claim { .. } | Op::StoreOnce { .. } | Op::ForgetClaim { .. } => {
                self.apply_ledger(seq, op);
            }
            _ => return self.apply_group(seq, op),
        }
        None
    }

    fn apply_topic(&mut self, seq: u64, op: &Op<'_>) -> Option<StreamId> {
        match op {
            Op::PutTopic { id, name, settings } => {
                self.next_topic = self.next_topic.max(id + 1);
                match self.topics.get_mut(id) {
                    Some(topic) if seq > topic.stamp => topic.alter(*settings),
                    Some(_) => {}
                    None if seq <= self.listed => return None,
                    None => self.add_topic(Topic::new(*id, Name::new(name).ok()?, *settings, 0)),
                }
                for group in self.topics.get(id)?.groups.clone() {
                    if let Some(group) = self.groups.get_mut(&group) {
                        group.grow(settings.partitions as usize);
                    }
                }
            }
            Op::DeleteTopic { id } => {
                if let Some(topic) = self.topics.remove(id) {
                    self.topic_names.remove(&topic.name);
                    topic
                        .groups
                        .iter()
                        .for_each(|group| self.remove_group(*group));
                }
            }
            Op::Append(append) => {
                let topic = self
                    .topics
                    .get_mut(&append.topic)
                    .filter(|t| seq > t.stamp)?;
                topic.append(append);
                return Some(StreamId::partition(append.topic, append.partition));
            }
            Op::Trim {
                topic,
                partition,
                start,
            } => {
                let topic = self.topics.get_mut(topic).filter(|t| seq > t.stamp)?;
                topic
                    .partitions
                    .get_mut(*partition as usize)?
                    .stream
                    .trim(*start);
                let groups = topic.groups.clone();
                for id in groups {
                    let shard = self.groups.get_mut(&id).filter(|g| seq > g.stamp);
                    if let Some(shard) = shard.and_then(|g| g.shards.get_mut(*partition as usize)) {
                        shard.raise(*start);
                    }
                }
            }
            _ => {}
        }
        None
    }

    fn apply_moved(&mut self, seq: u64, op: &MovedOp) {
        let numbers = op.spans.iter().filter(|span| is_cleaned(span.segment));
        let next = numbers.map(|span| parts_of(span.segment).1 + 1).max();
        self.next_cleaned = self.next_cleaned.max(next.unwrap_or(0));
        let stamp = match (op.stream.as_partition(), op.stream.as_dead()) {
            (Some((topic, _)), _) => self.topics.get(&topic).map(|topic| topic.stamp),
            (None, Some(group)) => self.groups.get(&group).map(|group| group.stamp),
            (None, None) => None,
        };
        if stamp.is_none_or(|stamp| seq <= stamp) {
            return;
        }
        if let Some(stream) = self.stream_mut(op.stream) {
            stream.moved(op.first, op.end, &op.spans);
        }
        let place = op.stream.as_partition().and_then(|(topic, partition)| {
            let topic = self.topics.get_mut(&topic)?;
            topic.partitions.get_mut(partition as usize)
        });
        if let (Some(place), Some(compacted)) = (place, op.compacted) {
            place.compacted = place.compacted.max(compacted);
        }
    }

    fn apply_group(&mut self, seq: u64, op: &Op<'_>) -> Option<StreamId> {
        if let Op::PutGroup {
            id,
            topic,
            name,
            settings,
        } = op
        {
            self.next_group = self.next_group.max(id + 1);
            match self.groups.get_mut(id) {
                Some(group) if seq > group.stamp => group.declare(Settings::from(settings)),
                Some(_) => {}
                None if seq <= self.listed => {}
                None => {
                    let shards = self.topics.get(topic)?.partitions.len();
                    let name = Name::new(name).ok()?;
                    let settings = Settings::from(settings);
                    self.add_group(Group::new(*id, name, *topic, settings, shards, 0));
                }
            }
            return None;
        }
        if let Op::DeleteGroup { id } = op {
            self.remove_group(*id);
            return None;
        }
        let (id, shard) = op.group_shard()?;
        let group = self.groups.get_mut(&id).filter(|group| seq > group.stamp)?;
        match op {
            Op::Dead { offset, dead, .. } => {
                group.bury(shard, *offset, dead);
                return Some(StreamId::dead(id));
            }
            Op::AlterGroup { operator, .. } => group.alter(Operator::from(operator)),
            Op::Graves { change, .. } => {
                return group.change_dead(change).then(|| StreamId::dead(id));
            }
            Op::Seek { to, .. } => group.seek(shard, *to),
            Op::Done { first, count, .. } => group.settle(shard, *first, *count),
            _ => {
                let shard = group.shards.get_mut(shard as usize)?;
                match op {
                    Op::Grant { first, count, .. } => shard.grant(*first, *count),
                    Op::Release { first, count, .. } => shard.release(*first, *count),
                    Op::Park { offset, parked, .. } => shard.park(*offset, parked),
                    _ => {}
                }
            }
        }
        None
    }

    fn apply_ledger(&mut self, seq: u64, op: &Op<'_>) {
        let (Op::Claim { scope, key, .. }
        | Op::StoreOnce { scope, key, .. }
        | Op::ForgetClaim { scope, key }) = op
        else {
            return;
        };
        let full = full_key(scope, key);
        if let Op::Claim { token, .. } = op {
            self.next_token = self.next_token.max(token + 1);
        }
        let part = self.ledger_of(&full);
        if seq <= part.stamp {
            return;
        }
        match op {
            Op::Claim {
                holder,
                token,
                until,
                ..
            } => part.claim(full, holder, *token, *until),
            Op::StoreOnce {
                result, expires, ..
            } => {
                part.store(full, Bytes::copy_from_slice(result), *expires);
            }
            _ => part.forget(&full),
        }
    }

    fn add_topic(&mut self, topic: Topic) {
        self.topic_names.insert(topic.name.clone(), topic.id);
        self.topics.insert(topic.id, topic);
    }

    fn add_group(&mut self, group: Group) {
        if let Some(topic) = self.topics.get_mut(&group.topic) {
            topic.groups.push(group.id);
        }
        self.group_names
            .insert((group.name.clone(), group.topic), group.id);
        self.groups.insert(group.id, group);
    }

    fn remove_group(&mut self, id: GroupId) {
        let Some(mut group) = self.groups.remove(&id) else {
            return;
        };
        group.members.end();
        self.group_names.remove(&(group.name.clone(), group.topic));
        if let Some(topic) = self.topics.get_mut(&group.topic) {
            topic.groups.retain(|other| *other != id);
        }
    }

    pub(crate) fn stream(&self, id: StreamId) -> Option<&Stream> {
        match id.as_partition() {
            Some((topic, partition)) => Some(
                &self
                    .topics
                    .get(&topic)?
                    .partitions
                    .get(partition as usize)?
                    .stream,
            ),
            None => Some(&self.groups.get(&id.as_dead()?)?.graveyard),
        }
    }

    pub(crate) fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        match id.as_partition() {
            Some((topic, partition)) => {
                let topic = self.topics.get_mut(&topic)?;
                Some(&mut topic.partitions.get_mut(partition as usize)?.stream)
            }
            None => Some(&mut self.groups.get_mut(&id.as_dead()?)?.graveyard),
        }
    }

    /// Every stream.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (StreamId, &Stream)> {
        let partitions = self.topics.values().flat_map(|topic| {
            (0..)
                .zip(&topic.partitions)
                .map(|(partition, p)| (StreamId::partition(topic.id, partition), &p.stream))
        });
        let dead = self
            .groups
            .values()
            .map(|g| (StreamId::dead(g.id), &g.graveyard));
        partitions.chain(dead)
    }

    /// The body of an applied operation lies here.
    pub(crate) fn place(&mut self, id: StreamId, extent: Extent) {
        if let Some(stream) = self.stream_mut(id) {
            stream.push(extent);
        }
    }

    /// After replay: everything placed is durable, nothing is out.
    pub(crate) fn recovered(&mut self, now: i64) {
        for topic in self.topics.values_mut() {
            for partition in &mut topic.partitions {
                partition.stream.visible = partition.stream.end;
            }
        }
        for group in self.groups.values_mut() {
            group.graveyard.visible = group.graveyard.end;
            group
                .shards
                .iter_mut()
                .for_each(|shard| shard.recovered(now));
        }
    }

    // ---- checkpoint ----

    /// What a checkpoint taken now consists of after its counters, in the order in which it must be read back.
    pub(crate) fn sections(&self) -> Vec<(u16, u64)> {
        let topics = self
            .topics
            .keys()
            .map(|id| (section::TOPIC, u64::from(*id)));
        let groups = self
            .groups
            .keys()
            .map(|id| (section::GROUP, u64::from(*id)));
        let ledger = (0..PARTS).map(|part| (section::LEDGER, part));
        topics.chain(groups).chain(ledger).collect()
    }

    /// Lets go of what a section need not keep; nothing that anybody sees changes.
    pub(crate) fn give_back_memory(&mut self, kind: u16, key: u64, now: i64) {
        match kind {
            section::GROUP => {
                if let Some(group) = self.groups.get_mut(&(key as u32)) {
                    let needed = group.graves_needed_from();
                    group.graveyard.trim(needed);
                }
            }
            section::LEDGER => {
                if let Some(part) = self.ledger.get_mut(key as usize) {
                    part.sweep(now);
                }
            }
            _ => {}
        }
    }

    /// The bytes of one section; false when the object is gone.
    pub(crate) fn encode_section(&self, kind: u16, key: u64, out: &mut Vec<u8>) -> bool {
        let id = key as u32;
        match kind {
            section::COUNTERS => {
                put_u64(out, self.incarnation);
                put_u64(out, u64::from(self.next_topic));
                put_u64(out, u64::from(self.next_group));
                put_u64(out, self.next_token);
                put_u64(out, self.next_cleaned);
            }
            section::TOPIC => match self.topics.get(&id) {
                Some(topic) => topic.encode(out),
                None => return false,
            },
            section::GROUP => match self.groups.get(&id) {
                Some(group) => group.encode(out),
                None => return false,
            },
            _ => match self.ledger.get(key as usize) {
                Some(part) => part.encode(out),
                None => return false,
            },
        }
        true
    }

    pub(crate) fn decode_section(
        &mut self,
        kind: u16,
        key: u64,
        stamp: u64,
        bytes: &[u8],
    ) -> Decoded<()> {
        let mut r = Reader::new(bytes);
        let id = u32::try_from(key).map_err(|_| Malformed)?;
        match kind {
            section::COUNTERS => {
                self.listed = stamp;
                self.incarnation = r.u64()?;
                self.next_topic = r.u32()?;
                self.next_group = r.u32()?;
                self.next_token = r.u64()?;
                self.next_cleaned = r.u64()?;
            }
            section::TOPIC => {
                let topic = Topic::decode(&mut r, id, stamp)?;
                self.add_topic(topic);
            }
            section::GROUP => {
                let group = Group::decode(&mut r, id, stamp)?;
                self.add_group(group);
            }
            section::LEDGER => {
                let part = self.ledger.get_mut(key as usize).ok_or(Malformed)?;
                *part = Ledger::decode(&mut r, stamp)?;
            }
            _ => return Err(Malformed),
        }
        if r.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

impl Op<'_> {
    /// The group and shard that it is about (shard 0 for what is about the whole group).
    fn group_shard(&self) -> Option<(GroupId, u32)> {
        match self {
            Op::Seek { group, shard, .. }
            | Op::Grant { group, shard, .. }
            | Op::Done { group, shard, .. }
            | Op::Release { group, shard, .. }
            | Op::Park { group, shard, .. }
            | Op::Dead { group, shard, .. } => Some((*group, *shard)),
            Op::Graves { group, .. } | Op::AlterGroup { id: group, .. } => Some((*group, 0)),
            _ => None,
        }
    }
}
