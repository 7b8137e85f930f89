//! Redo operations: what a commit record holds.
//!
//! A command is *decided* once, against the state of the moment; what the log stores are the resolved effects (offsets
//! given, times taken), so that replaying them needs no clock and no decision. Each operation touches one object of
//! the state (a topic, a group, a shard of the ledger), which is what lets a fuzzy checkpoint stamp objects one by one.
//!
//! Every lane writes into the same record; a tag belongs to one lane for ever: 1-31 engine and events, 32-63 groups,
//! 64-79 ledger, 80 and up for routes, requests, jobs and workflows.

use crate::codec::{Decoded, Malformed, Reader, put_bytes, put_i64, put_option, put_u64, put_u128};

use crate::extents::{Span, StreamId};
mod dead;

pub(crate) use dead::{DeadChange, Numbers, RedriveOp};

pub(crate) type TopicId = u32;
pub(crate) type GroupId = u32;

/// One change. Borrowed from the record while replaying.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op<'a> {
    /// The directory was opened: receipts of earlier incarnations are void.
    Open {
        incarnation: u64,
    },
    PutTopic {
        id: TopicId,
        name: &'a str,
        settings: TopicSettings,
    },
    DeleteTopic {
        id: TopicId,
    },
    /// The record's next body are `count` records from `first` on.
    Append(AppendOp),
    /// Everything before `start` is gone.
    Trim {
        topic: TopicId,
        partition: u32,
        start: u64,
    },
    /// The cleaner has copied a range of a stream.
    Moved(MovedOp),
    PutGroup {
        id: GroupId,
        topic: TopicId,
        name: &'a str,
        settings: GroupSettings<'a>,
    },
    DeleteGroup {
        id: GroupId,
    },
    /// What an operator set, all of it.
    AlterGroup {
        id: GroupId,
        operator: OperatorOp<'a>,
    },
    /// The group's shard stands at `to` and knows nothing of what is settled above.
    Seek {
        group: GroupId,
        shard: u32,
        to: u64,
    },
    /// Messages go out: each counts as an attempt from now on.
    Grant {
        group: GroupId,
        shard: u32,
        first: u64,
        count: u32,
    },
    Done {
        group: GroupId,
        shard: u32,
        first: u64,
        count: u32,
    },
    /// Handed back: the attempt of the grant does not count.
    Release {
        group: GroupId,
        shard: u32,
        first: u64,
        count: u32,
    },
    Park {
        group: GroupId,
        shard: u32,
        offset: u64,
        parked: ParkOp<'a>,
    },
    /// The record's next body is a copy of the message.
    Dead {
        group: GroupId,
        shard: u32,
        offset: u64,
        dead: DeadOp<'a>,
    },
    /// Something happens to dead letters.
    Graves {
        group: GroupId,
        change: DeadChange<'a>,
    },
    Claim {
        scope: &'a str,
        key: &'a str,
        holder: &'a str,
        token: u64,
        until: i64,
    },
    StoreOnce {
        scope: &'a str,
        key: &'a str,
        result: &'a [u8],
        expires: i64,
    },
    ForgetClaim {
        scope: &'a str,
        key: &'a str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TopicSettings {
    pub(crate) partitions: u32,
    pub(crate) retention_ms: Option<u64>,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) key_versions: bool,
    pub(crate) dedupe_ms: u64,
    pub(crate) compaction: Option<CompactionSettings>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompactionSettings {
    pub(crate) min_lag_ms: u64,
    pub(crate) tombstones_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct AppendOp {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// When it was appended, milliseconds since the epoch.
    pub(crate) time: i64,
    /// Fingerprints of the ids to remember.
    pub(crate) ids: Vec<u128>,
    /// Per record, on topics with key versions: the key's fingerprint, its version, and its previous offset. Records
    /// without a key have version 0.
    pub(crate) versions: Vec<KeyStep>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyStep {
    pub(crate) key: u128,
    pub(crate) version: u64,
    /// Where its record before this one is: partition and offset.
    pub(crate) previous: Option<(u32, u64)>,
}

/// What a stream had in `first..end` lies in `spans` from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MovedOp {
    pub(crate) stream: StreamId,
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) spans: Vec<Span>,
    /// Up to here the partition is compacted; `None` when this was no compaction.
    pub(crate) compacted: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupSettings<'a> {
    pub(crate) key_order: bool,
    pub(crate) max_attempts: u32,
    pub(crate) max_dead: u64,
    pub(crate) dead_ms: Option<u64>,
    pub(crate) gap: u64,
    pub(crate) dead_topic: Option<&'a str>,
    pub(crate) hold_key: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct OperatorOp<'a> {
    pub(crate) max_attempts: Option<u32>,
    pub(crate) max_dead: Option<u64>,
    pub(crate) gap: Option<u64>,
    pub(crate) hold_key: Option<bool>,
    /// Since when, and why.
    pub(crate) pause: Option<(i64, &'a str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ParkOp<'a> {
    /// When it may go out again, milliseconds since the epoch; 0: as soon as its key is free.
    pub(crate) due: i64,
    /// The delay that led to `due`: bounds the wait after the clock was set back.
    pub(crate) delay_ms: u64,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// Hash of the key; 0: none, waits for nobody.
    pub(crate) key: u64,
    pub(crate) reason: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeadOp<'a> {
    pub(crate) number: u64,
    pub(crate) attempts: u32,
    pub(crate) key: u64,
    pub(crate) appended: i64,
    pub(crate) died: i64,
    /// Bytes of its copy.
    pub(crate) bytes: u64,
    pub(crate) reason: &'a str,
}

mod tag {
    pub(super) const OPEN: u8 = 1;
    pub(super) const PUT_TOPIC: u8 = 2;
    pub(super) const DELETE_TOPIC: u8 = 3;
    pub(super) const APPEND: u8 = 4;
    pub(super) const APPEND_IDS: u8 = 5;
    pub(super) const APPEND_VERSIONS: u8 = 6;
    pub(super) const TRIM: u8 = 7;
    pub(super) const MOVED: u8 = 8;
    pub(super) const PUT_GROUP: u8 = 32;
    pub(super) const DELETE_GROUP: u8 = 33;
    pub(super) const SEEK: u8 = 34;
    pub(super) const GRANT: u8 = 35;
    pub(super) const DONE: u8 = 36;
    pub(super) const RELEASE: u8 = 37;
    pub(super) const PARK: u8 = 38;
    pub(super) const DEAD: u8 = 39;
    pub(super) const ALTER_GROUP: u8 = 41;
    pub(super) const CLAIM: u8 = 64;
    pub(super) const STORE_ONCE: u8 = 65;
    pub(super) const FORGET_CLAIM: u8 = 66;
}

impl Op<'_> {
    /// Appends the operation's bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Op::Open { incarnation } => {
                out.push(tag::OPEN);
                put_u64(out, *incarnation);
            }
            Op::PutTopic { id, name, settings } => {
                out.push(tag::PUT_TOPIC);
                put_u64(out, u64::from(*id));
                put_bytes(out, name.as_bytes());
                settings.encode(out);
            }
            Op::DeleteTopic { id } => {
                out.push(tag::DELETE_TOPIC);
                put_u64(out, u64::from(*id));
            }
            Op::Append(append) => append.encode(out),
            Op::Trim {
                topic,
                partition,
                start,
            } => {
                put_place(out, tag::TRIM, *topic, *partition, *start);
            }
            Op::Moved(moved) => moved.encode(out),
            Op::Claim { .. } | Op::StoreOnce { .. } | Op::ForgetClaim { .. } => {
                self.encode_ledger(out);
            }
            _ => self.encode_group(out),
        }
    }

    fn encode_group(&self, out: &mut Vec<u8>) {
        match self {
            Op::PutGroup {
                id,
                topic,
                name,
                settings,
            } => {
                out.push(tag::PUT_GROUP);
                put_u64(out, u64::from(*id));
                put_u64(out, u64::from(*topic));
                put_bytes(out, name.as_bytes());
                settings.encode(out);
            }
            Op::DeleteGroup { id } => {
                out.push(tag::DELETE_GROUP);
                put_u64(out, u64::from(*id));
            }
            Op::AlterGroup { id, operator } => {
                out.push(tag::ALTER_GROUP);
                put_u64(out, u64::from(*id));
                operator.encode(out);
            }
            Op::Seek { group, shard, to } => put_place(out, tag::SEEK, *group, *shard, *to),
            Op::Grant {
                group,
                shard,
                first,
                count,
            } => {
                put_range(out, tag::GRANT, *group, *shard, *first, *count);
            }
            Op::Done {
                group,
                shard,
                first,
                count,
            } => {
                put_range(out, tag::DONE, *group, *shard, *first, *count);
            }
            Op::Release {
                group,
                shard,
                first,
                count,
            } => {
                put_range(out, tag::RELEASE, *group, *shard, *first, *count);
            }
            Op::Park {
                group,
                shard,
                offset,
                parked,
            } => {
                put_place(out, tag::PARK, *group, *shard, *offset);
                parked.encode(out);
            }
            Op::Dead {
                group,
                shard,
                offset,
                dead,
            } => {
                put_place(out, tag::DEAD, *group, *shard, *offset);
                dead.encode(out);
            }
            Op::Graves { group, change } => change.encode(*group, out),
            _ => unreachable!("`encode` sends only operations of groups here"),
        }
    }

    fn encode_ledger(&self, out: &mut Vec<u8>) {
        let put_key = |out: &mut Vec<u8>, tag: u8, scope: &str, key: &str| {
            out.push(tag);
            put_bytes(out, scope.as_bytes());
            put_bytes(out, key.as_bytes());
        };
        match self {
            Op::Claim {
                scope,
                key,
                holder,
                token,
                until,
            } => {
                put_key(out, tag::CLAIM, scope, key);
                put_bytes(out, holder.as_bytes());
                put_u64(out, *token);
                put_i64(out, *until);
            }
            Op::StoreOnce {
                scope,
                key,
                result,
                expires,
            } => {
                put_key(out, tag::STORE_ONCE, scope, key);
                put_bytes(out, result);
                put_i64(out, *expires);
            }
            Op::ForgetClaim { scope, key } => put_key(out, tag::FORGET_CLAIM, scope, key),
            _ => unreachable!("`encode` sends only operations of the ledger here"),
        }
    }

    /// Reads one operation.
    pub(crate) fn decode<'a>(r: &mut Reader<'a>) -> Decoded<Op<'a>> {
        let tag = r.u8()?;
        Ok(match tag {
            tag::OPEN => Op::Open {
                incarnation: r.u64()?,
            },
            tag::PUT_TOPIC => Op::PutTopic {
                id: r.u32()?,
                name: r.str()?,
                settings: TopicSettings::decode(r)?,
            },
            tag::DELETE_TOPIC => Op::DeleteTopic { id: r.u32()? },
            tag::APPEND | tag::APPEND_IDS | tag::APPEND_VERSIONS => {
                Op::Append(AppendOp::decode(tag, r)?)
            }
            tag::TRIM => Op::Trim {
                topic: r.u32()?,
                partition: r.u32()?,
                start: r.u64()?,
            },
            tag::MOVED => Op::Moved(MovedOp::decode(r)?),
            32..=63 => Op::decode_group(tag, r)?,
            64..=79 => Op::decode_ledger(tag, r)?,
            _ => return Err(Malformed),
        })
    }

    fn decode_group<'a>(tag: u8, r: &mut Reader<'a>) -> Decoded<Op<'a>> {
        let group = r.u32()?;
        match tag {
            tag::PUT_GROUP => {
                let (topic, name) = (r.u32()?, r.str()?);
                let settings = GroupSettings::decode(r)?;
                return Ok(Op::PutGroup {
                    id: group,
                    topic,
                    name,
                    settings,
                });
            }
            tag::DELETE_GROUP => return Ok(Op::DeleteGroup { id: group }),
            tag::ALTER_GROUP => {
                return Ok(Op::AlterGroup {
                    id: group,
                    operator: OperatorOp::decode(r)?,
                });
            }
            dead::tag::REDRIVE..=dead::tag::DROP_EDIT => {
                let change = DeadChange::decode(tag, r)?;
                return Ok(Op::Graves { group, change });
            }
            _ => {}
        }
        let (shard, first) = (r.u32()?, r.u64()?);
        Ok(match tag {
            tag::SEEK => Op::Seek {
                group,
                shard,
                to: first,
            },
            tag::GRANT => Op::Grant {
                group,
                shard,
                first,
                count: r.u32()?,
            },
            tag::DONE => Op::Done {
                group,
                shard,
                first,
                count: r.u32()?,
            },
            tag::RELEASE => Op::Release {
                group,
                shard,
                first,
                count: r.u32()?,
            },
            tag::PARK => Op::Park {
                group,
                shard,
                offset: first,
                parked: ParkOp::decode(r)?,
            },
            tag::DEAD => Op::Dead {
                group,
                shard,
                offset: first,
                dead: DeadOp::decode(r)?,
            },
            _ => return Err(Malformed),
        })
    }

    fn decode_ledger<'a>(tag: u8, r: &mut Reader<'a>) -> Decoded<Op<'a>> {
        let (scope, key) = (r.str()?, r.str()?);
        Ok(match tag {
            tag::CLAIM => Op::Claim {
                scope,
                key,
                holder: r.str()?,
                token: r.u64()?,
                until: r.i64()?,
            },
            tag::STORE_ONCE => Op::StoreOnce {
                scope,
                key,
                result: r.bytes()?,
                expires: r.i64()?,
            },
            tag::FORGET_CLAIM => Op::ForgetClaim { scope, key },
            _ => return Err(Malformed),
        })
    }

    /// True when something that takes space is gone with it.
    pub(crate) fn frees_space(&self) -> bool {
        match self {
            Op::DeleteTopic { .. } | Op::DeleteGroup { .. } | Op::Trim { .. } => true,
            Op::Graves { change, .. } => change.frees_space(),
            _ => false,
        }
    }

    /// How many bodies of its record belong to it.
    pub(crate) fn bodies(&self) -> usize {
        usize::from(self.placed().is_some())
    }

    /// Where its body stands in its stream: the first offset, the number of records, and the time of the append.
    pub(crate) fn placed(&self) -> Option<(u64, u32, i64)> {
        match self {
            Op::Append(append) => Some((append.first, append.count, append.time)),
            Op::Dead { dead, .. } => Some((dead.number, 1, dead.died)),
            Op::Graves {
                change: DeadChange::Edit { copy, time, .. },
                ..
            } => Some((*copy, 1, *time)),
            _ => None,
        }
    }
}

fn put_place(out: &mut Vec<u8>, tag: u8, object: u32, shard: u32, offset: u64) {
    out.push(tag);
    put_u64(out, u64::from(object));
    put_u64(out, u64::from(shard));
    put_u64(out, offset);
}

fn put_range(out: &mut Vec<u8>, tag: u8, group: GroupId, shard: u32, first: u64, count: u32) {
    put_place(out, tag, group, shard, first);
    put_u64(out, u64::from(count));
}

impl MovedOp {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(tag::MOVED);
        put_u64(out, self.stream.0);
        put_u64(out, self.first);
        put_u64(out, self.end);
        put_option(out, self.compacted);
        put_u64(out, self.spans.len() as u64);
        self.spans.iter().for_each(|span| span.encode(out));
    }

    fn decode(r: &mut Reader<'_>) -> Decoded<MovedOp> {
        Ok(MovedOp {
            stream: StreamId(r.u64()?),
            first: r.u64()?,
            end: r.u64()?,
            compacted: r.option()?,
            spans: {
                let count = r.count(6)?;
                (0..count)
                    .map(|_| Span::decode(r))
                    .collect::<Decoded<_>>()?
            },
        })
    }
}

impl AppendOp {
    fn encode(&self, out: &mut Vec<u8>) {
        let tag = if !self.versions.is_empty() {
            tag::APPEND_VERSIONS
        } else if !self.ids.is_empty() {
            tag::APPEND_IDS
        } else {
            tag::APPEND
        };
        put_place(out, tag, self.topic, self.partition, self.first);
        put_u64(out, u64::from(self.count));
        put_i64(out, self.time);
        if self.ids.is_empty() && self.versions.is_empty() {
            return;
        }
        put_u64(out, self.ids.len() as u64);
        self.ids.iter().for_each(|id| put_u128(out, *id));
        for step in &self.versions {
            put_u64(out, step.version);
            if step.version > 0 {
                put_u128(out, step.key);
                put_option(out, step.previous.map(|(_, offset)| offset));
                if let Some((partition, _)) = step.previous {
                    put_u64(out, u64::from(partition));
                }
            }
        }
    }

    fn decode(tag: u8, r: &mut Reader<'_>) -> Decoded<AppendOp> {
        let mut op = AppendOp {
            topic: r.u32()?,
            partition: r.u32()?,
            first: r.u64()?,
            count: r.u32()?,
            time: r.i64()?,
            ..AppendOp::default()
        };
        if tag == tag::APPEND {
            return Ok(op);
        }
        for _ in 0..r.count(16)? {
            op.ids.push(r.u128()?);
        }
        if tag == tag::APPEND_VERSIONS {
            if op.count as usize > r.remaining() {
                return Err(Malformed);
            }
            for _ in 0..op.count {
                op.versions.push(KeyStep::decode(r)?);
            }
        }
        Ok(op)
    }
}

impl KeyStep {
    fn decode(r: &mut Reader<'_>) -> Decoded<KeyStep> {
        let version = r.u64()?;
        if version == 0 {
            return Ok(KeyStep {
                key: 0,
                version,
                previous: None,
            });
        }
        let key = r.u128()?;
        let previous = match r.option()? {
            Some(offset) => Some((r.u32()?, offset)),
            None => None,
        };
        Ok(KeyStep {
            key,
            version,
            previous,
        })
    }
}

impl TopicSettings {
    pub(crate) fn has_cleanup(&self) -> bool {
        self.retention_ms.is_some() || self.retention_bytes.is_some() || self.compaction.is_some()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, u64::from(self.partitions));
        put_option(out, self.retention_ms);
        put_option(out, self.retention_bytes);
        out.push(u8::from(self.key_versions));
        put_u64(out, self.dedupe_ms);
        put_option(out, self.compaction.map(|c| c.min_lag_ms));
        if let Some(compaction) = self.compaction {
            put_u64(out, compaction.tombstones_ms);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Decoded<Self> {
        Ok(TopicSettings {
            partitions: r.u32()?,
            retention_ms: r.option()?,
            retention_bytes: r.option()?,
            key_versions: r.bool()?,
            dedupe_ms: r.u64()?,
            compaction: match r.option()? {
                Some(min_lag_ms) => Some(CompactionSettings {
                    min_lag_ms,
                    tombstones_ms: r.u64()?,
                }),
                None => None,
            },
        })
    }
}

impl<'a> GroupSettings<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.key_order));
        put_u64(out, u64::from(self.max_attempts));
        put_u64(out, self.max_dead);
        put_option(out, self.dead_ms);
        put_u64(out, self.gap);
        put_bytes(out, self.dead_topic.unwrap_or_default().as_bytes());
        out.push(u8::from(self.hold_key));
    }

    pub(crate) fn decode(r: &mut Reader<'a>) -> Decoded<Self> {
        Ok(GroupSettings {
            key_order: r.bool()?,
            max_attempts: r.u32()?,
            max_dead: r.u64()?,
            dead_ms: r.option()?,
            gap: r.u64()?,
            dead_topic: Some(r.str()?).filter(|name| !name.is_empty()),
            hold_key: r.bool()?,
        })
    }
}

impl<'a> OperatorOp<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_option(out, self.max_attempts.map(u64::from));
        put_option(out, self.max_dead);
        put_option(out, self.gap);
        put_option(out, self.hold_key.map(u64::from));
        out.push(u8::from(self.pause.is_some()));
        if let Some((since, reason)) = self.pause {
            put_i64(out, since);
            put_bytes(out, reason.as_bytes());
        }
    }

    pub(crate) fn decode(r: &mut Reader<'a>) -> Decoded<Self> {
        let max_attempts = r.option()?.map(u32::try_from).transpose();
        Ok(OperatorOp {
            max_attempts: max_attempts.map_err(|_| Malformed)?,
            max_dead: r.option()?,
            gap: r.option()?,
            hold_key: match r.option()? {
                None => None,
                Some(0) => Some(false),
                Some(1) => Some(true),
                Some(_) => return Err(Malformed),
            },
            pause: match r.bool()? {
                true => Some((r.i64()?, r.str()?)),
                false => None,
            },
        })
    }
}

impl<'a> ParkOp<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_i64(out, self.due);
        put_u64(out, self.delay_ms);
        put_u64(out, u64::from(self.attempts));
        put_u64(out, self.key);
        put_bytes(out, self.reason.as_bytes());
    }

    pub(crate) fn decode(r: &mut Reader<'a>) -> Decoded<Self> {
        Ok(ParkOp {
            due: r.i64()?,
            delay_ms: r.u64()?,
            attempts: r.u32()?,
            key: r.u64()?,
            reason: r.str()?,
        })
    }
}

impl<'a> DeadOp<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.number);
        put_u64(out, u64::from(self.attempts));
        put_u64(out, self.key);
        put_i64(out, self.appended);
        put_i64(out, self.died);
        put_u64(out, self.bytes);
        put_bytes(out, self.reason.as_bytes());
    }

    pub(crate) fn decode(r: &mut Reader<'a>) -> Decoded<Self> {
        Ok(DeadOp {
            number: r.u64()?,
            attempts: r.u32()?,
            key: r.u64()?,
            appended: r.i64()?,
            died: r.i64()?,
            bytes: r.u64()?,
            reason: r.str()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_operation_survives_the_record() {
        let settings = TopicSettings {
            partitions: 8,
            retention_ms: Some(0),
            compaction: Some(CompactionSettings {
                min_lag_ms: 0,
                tombstones_ms: 9,
            }),
            ..Default::default()
        };
        let parked = ParkOp {
            due: -5,
            delay_ms: 9,
            attempts: 2,
            key: u64::MAX,
            reason: "no",
        };
        let dead = DeadOp {
            number: 3,
            attempts: 8,
            key: 1,
            appended: -1,
            died: 7,
            bytes: 100,
            reason: "not a number",
        };
        let group = GroupSettings {
            key_order: true,
            max_attempts: 8,
            max_dead: 5,
            dead_ms: Some(4),
            gap: 6,
            dead_topic: Some("orders.dead"),
            hold_key: true,
        };
        let operator = OperatorOp {
            max_attempts: Some(3),
            gap: Some(0),
            hold_key: Some(false),
            pause: Some((-3, "the bank is down")),
            ..Default::default()
        };
        let step = KeyStep {
            key: 5,
            version: 2,
            previous: Some((3, 0)),
        };
        let none = KeyStep {
            key: 0,
            version: 0,
            previous: None,
        };
        let append = AppendOp {
            topic: 1,
            partition: 2,
            first: 3,
            count: 2,
            time: -9,
            ..Default::default()
        };
        let mut numbers = Vec::new();
        let numbers = Numbers::encode(&[7, 8, 3], &mut numbers);
        let redrive = RedriveOp {
            run: 3,
            at: -1,
            due: 5,
            per_second: 6,
            numbers,
        };
        let edit = DeadChange::Edit {
            number: 7,
            copy: 9,
            bytes: 70,
            time: -3,
        };
        let change = |change| Op::Graves { group: 1, change };
        let ops = [
            Op::Open { incarnation: 7 },
            Op::PutTopic {
                id: 1,
                name: "orders",
                settings,
            },
            Op::DeleteTopic { id: 1 },
            Op::Append(append.clone()),
            Op::Append(AppendOp {
                ids: vec![1, u128::MAX],
                ..append.clone()
            }),
            Op::Append(AppendOp {
                ids: vec![4],
                versions: vec![step, none],
                ..append
            }),
            Op::Moved(MovedOp {
                stream: StreamId::dead(3),
                first: 2,
                end: 9,
                spans: vec![Span::hollow(2, 5), Span::hollow(5, 9)],
                compacted: Some(0),
            }),
            Op::Trim {
                topic: 1,
                partition: 0,
                start: u64::MAX,
            },
            Op::PutGroup {
                id: 1,
                topic: 1,
                name: "billing",
                settings: group,
            },
            Op::DeleteGroup { id: 1 },
            Op::AlterGroup { id: 1, operator },
            Op::AlterGroup {
                id: 1,
                operator: OperatorOp::default(),
            },
            Op::Seek {
                group: 1,
                shard: 2,
                to: 3,
            },
            Op::Grant {
                group: 1,
                shard: 2,
                first: 3,
                count: 4,
            },
            Op::Done {
                group: 1,
                shard: 2,
                first: 3,
                count: 4,
            },
            Op::Release {
                group: 1,
                shard: 2,
                first: 3,
                count: 4,
            },
            Op::Park {
                group: 1,
                shard: 2,
                offset: 3,
                parked,
            },
            Op::Dead {
                group: 1,
                shard: 2,
                offset: 3,
                dead,
            },
            change(DeadChange::Redrive(redrive)),
            change(DeadChange::Undo { run: 3, numbers }),
            change(DeadChange::Remove { numbers }),
            change(edit),
            change(DeadChange::DropEdit { number: 7 }),
            Op::Claim {
                scope: "s",
                key: "k",
                holder: "h",
                token: 1,
                until: 2,
            },
            Op::StoreOnce {
                scope: "s",
                key: "k",
                result: b"r",
                expires: 5,
            },
            Op::ForgetClaim {
                scope: "s",
                key: "k",
            },
        ];
        let mut bytes = Vec::new();
        ops.iter().for_each(|op| op.encode(&mut bytes));
        let mut reader = Reader::new(&bytes);
        for op in &ops {
            assert_eq!(&Op::decode(&mut reader).unwrap(), op);
        }
        assert!(reader.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&bytes);
            while let Ok(_op) = Op::decode(&mut reader) {}
        }
    }
}
