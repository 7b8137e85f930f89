//! Redo operations: what a commit record holds.
//!
//! A command is *decided* once, against the state of the moment; what the log stores are the resolved effects (offsets
//! given, times taken), so that replaying them needs no clock and no decision. Each operation touches one object of
//! the state (a topic, a group, a shard of the ledger), which is what lets a fuzzy checkpoint stamp objects one by one.
//!
//! Every lane writes into the same record; a tag belongs to one lane for ever: 1-31 engine and events, 32-63 groups,
//! 64-79 ledger, 80 and up for routes, requests, jobs and workflows.

use crate::codec::{Decoded, Malformed, Reader, put_bytes, put_i64, put_u64};

mod dead;
mod groups;
mod topics;

pub(crate) use dead::{DeadChange, DeadOp, Numbers, RedriveOp};
pub(crate) use groups::{GroupSettings, OperatorOp, ParkOp};
pub(crate) use topics::{AppendOp, CompactionSettings, KeyStep, MovedOp, TopicSettings};

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

#[cfg(test)]
mod tests;
