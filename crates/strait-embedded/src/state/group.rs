//! Consumer groups: their shards, dead letters and, in memory, their members.

use std::sync::Arc;

use strait_core::events::{AfterDead, Overrides, Pause};
use strait_core::{Fence, Name, Timestamp};

use super::dead::DeadSet;
use super::members::Members;
use super::shard::Shard;
use crate::codec::{Decoded, Malformed, Reader, put_bytes, put_u64};
use crate::extents::Stream;
use crate::ops::{GroupId, GroupSettings, OperatorOp, TopicId};

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) name: Name,
    pub(crate) topic: TopicId,
    /// What the last member declared.
    pub(crate) declared: Settings,
    /// What an operator set over it.
    pub(crate) operator: Operator,
    /// What holds of both. Derived.
    pub(crate) settings: Settings,
    pub(crate) shards: Vec<Shard>,
    pub(crate) dead: DeadSet,
    /// Copies of the dead letters and of their edits: the offset is the number.
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
    pub(crate) dead_ms: Option<u64>,
    pub(crate) gap: u64,
    pub(crate) dead_topic: Option<Box<str>>,
    /// Later messages of a dead letter's key wait for it.
    pub(crate) hold_key: bool,
}

/// [`OperatorOp`], owned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Operator {
    pub(crate) overrides: Overrides,
    pub(crate) pause: Option<Pause>,
}

impl Operator {
    pub(crate) fn as_op(&self) -> OperatorOp<'_> {
        let Overrides {
            max_attempts,
            max_dead,
            gap,
            after_dead,
        } = self.overrides;
        OperatorOp {
            max_attempts,
            max_dead,
            gap,
            hold_key: after_dead.map(|after| after == AfterDead::HoldKey),
            pause: self
                .pause
                .as_ref()
                .map(|pause| (pause.since.as_millis(), &*pause.reason)),
        }
    }

    /// What holds, when members declare this.
    pub(crate) fn over(&self, declared: &Settings) -> Settings {
        let Overrides {
            max_attempts,
            max_dead,
            gap,
            after_dead,
        } = self.overrides;
        let hold_key = after_dead.map(|after| after == AfterDead::HoldKey);
        Settings {
            max_attempts: max_attempts.unwrap_or(declared.max_attempts),
            max_dead: max_dead.unwrap_or(declared.max_dead),
            gap: gap.unwrap_or(declared.gap),
            // Members that do not declare it would go on with what they have of the key.
            hold_key: declared.hold_key && hold_key.unwrap_or(true),
            ..declared.clone()
        }
    }
}

impl From<&OperatorOp<'_>> for Operator {
    fn from(op: &OperatorOp<'_>) -> Operator {
        let after = |hold| match hold {
            true => AfterDead::HoldKey,
            false => AfterDead::Continue,
        };
        Operator {
            overrides: Overrides {
                max_attempts: op.max_attempts,
                max_dead: op.max_dead,
                gap: op.gap,
                after_dead: op.hold_key.map(after),
            },
            pause: op.pause.map(|(since, reason)| Pause {
                reason: reason.into(),
                since: Timestamp::from_millis(since),
            }),
        }
    }
}

impl Settings {
    pub(crate) fn as_op(&self) -> GroupSettings<'_> {
        GroupSettings {
            key_order: self.key_order,
            max_attempts: self.max_attempts,
            max_dead: self.max_dead,
            dead_ms: self.dead_ms,
            gap: self.gap,
            dead_topic: self.dead_topic.as_deref(),
            hold_key: self.hold_key,
        }
    }
}

impl From<&GroupSettings<'_>> for Settings {
    fn from(op: &GroupSettings<'_>) -> Settings {
        Settings {
            key_order: op.key_order,
            max_attempts: op.max_attempts,
            max_dead: op.max_dead,
            dead_ms: op.dead_ms,
            gap: op.gap,
            dead_topic: op.dead_topic.map(Box::from),
            hold_key: op.hold_key,
        }
    }
}

impl Group {
    pub(crate) fn new(
        id: GroupId,
        name: Name,
        topic: TopicId,
        declared: Settings,
        shards: usize,
        stamp: u64,
    ) -> Group {
        let mut group = Group {
            id,
            name,
            topic,
            settings: declared.clone(),
            declared,
            operator: Operator::default(),
            shards: Vec::new(),
            dead: DeadSet::default(),
            graveyard: Stream::default(),
            stamp,
            members: Members::default(),
        };
        group.grow(shards);
        group
    }

    /// Members declare this from now on.
    pub(crate) fn declare(&mut self, declared: Settings) {
        self.declared = declared;
        self.settle_rules();
    }

    /// An operator set this.
    pub(crate) fn alter(&mut self, operator: Operator) {
        self.operator = operator;
        self.settle_rules();
    }

    fn settle_rules(&mut self) {
        let held = self.settings.hold_key;
        self.settings = self.operator.over(&self.declared);
        if held && !self.settings.hold_key {
            self.shards.iter_mut().for_each(Shard::let_go_all);
        }
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
        if let Some(pause) = &self.operator.pause {
            return Some(format!("by an operator: {}", pause.reason).into());
        }
        self.has_too_many_dead().then(|| {
            format!(
                "it has {} dead letters, as many as it may keep: redrive them, or raise the limit",
                self.dead.letters.len()
            )
            .into()
        })
    }

    /// True when no more messages are taken for the dead letters that are there.
    pub(crate) fn has_too_many_dead(&self) -> bool {
        self.dead.letters.len() as u64 >= self.settings.max_dead
    }

    /// The earliest offset of a shard that a message needs which is parked or out.
    pub(crate) fn needed_from(&self, shard: usize) -> Option<u64> {
        self.shards.get(shard)?.needed_from()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.name.as_bytes());
        put_u64(out, u64::from(self.topic));
        self.declared.as_op().encode(out);
        self.operator.as_op().encode(out);
        put_u64(out, self.shards.len() as u64);
        self.shards.iter().for_each(|shard| shard.encode(out));
        self.graveyard.encode(out);
        self.dead.encode(out);
    }

    pub(crate) fn decode(r: &mut Reader<'_>, id: GroupId, stamp: u64) -> Decoded<Group> {
        let name = Name::new(r.str()?).map_err(|_| Malformed)?;
        let topic = r.u32()?;
        let declared = Settings::from(&GroupSettings::decode(r)?);
        let operator = Operator::from(&OperatorOp::decode(r)?);
        let count = r.count(5)?;
        let mut group = Group::new(id, name, topic, declared, count, stamp);
        group.alter(operator);
        for shard in &mut group.shards {
            *shard = Shard::decode(r)?;
        }
        group.graveyard = Stream::decode(r)?;
        group.dead = DeadSet::decode(r)?;
        Ok(group)
    }
}
