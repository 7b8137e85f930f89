//! How a group goes on: what follows a dead letter, what an operator sets over what members declare, and why a partition
//! stands.

use std::sync::Arc;
use std::time::Duration;

use super::{GroupInfo, GroupSpec, Order};
use crate::chunk::Position;
use crate::name::Name;
use crate::time::Timestamp;

/// What follows a dead letter for the later messages of its key, in a group that keeps the order of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AfterDead {
    /// They go on without it.
    #[default]
    Continue,
    /// They are parked until the dead letter is redriven (it comes first then) or removed. Other keys flow, up to the gap.
    /// A message without a key holds nothing.
    HoldKey,
}

impl AfterDead {
    /// The word for it in output.
    pub fn as_str(self) -> &'static str {
        match self {
            AfterDead::Continue => "continue",
            AfterDead::HoldKey => "hold_key",
        }
    }
}

/// What becomes of a setting that an operator may put over the one that members declare.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Override<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// This holds from now on, whatever members declare, until it is lifted.
    Set(T),
    /// What members declare holds again.
    Lift,
}

impl<T> Override<T> {
    /// Makes the change.
    pub fn apply(self, to: &mut Option<T>) {
        match self {
            Override::Keep => {}
            Override::Set(value) => *to = Some(value),
            Override::Lift => *to = None,
        }
    }
}

/// Longest reason of a pause, in bytes.
pub const PAUSE_REASON: usize = 1000;

/// An operator's change of a group. What it sets is durable and holds over restarts and over what members declare.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupChange {
    /// The attempt after which a message goes to the dead letters. At least 1.
    pub max_attempts: Override<u32>,
    /// Dead letters that the group may keep.
    pub max_dead: Override<u64>,
    /// Greatest distance between the committed position and the newest delivered message. At least 1.
    pub gap: Override<u64>,
    /// What follows a dead letter. [`AfterDead::Continue`] lets go of the keys that are held. [`AfterDead::HoldKey`] is
    /// `Rejected` unless members declare it: they have to hold back what they have of the key.
    pub after_dead: Override<AfterDead>,
    /// `Set` pauses the group, with the reason, of 1 to [`PAUSE_REASON`] bytes; `Lift` resumes it. Pausing a paused group
    /// keeps the time since when, and takes the new reason.
    pub pause: Override<Arc<str>>,
}

/// What an operator has set over what members declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overrides {
    /// See [`GroupChange::max_attempts`].
    pub max_attempts: Option<u32>,
    /// See [`GroupChange::max_dead`].
    pub max_dead: Option<u64>,
    /// See [`GroupChange::gap`].
    pub gap: Option<u64>,
    /// See [`GroupChange::after_dead`].
    pub after_dead: Option<AfterDead>,
}

/// What a group goes by, as members declare it or as it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRules {
    /// The order that it keeps.
    pub order: Order,
    /// The attempt after which a message goes to the dead letters.
    pub max_attempts: u32,
    /// Dead letters that it may keep.
    pub max_dead: u64,
    /// Dead letters that were given up longer ago may be removed.
    pub dead_age: Option<Duration>,
    /// Greatest distance between the committed position and the newest delivered message of a partition.
    pub gap: u64,
    /// What follows a dead letter.
    pub after_dead: AfterDead,
    /// The topic that gets a copy of each dead letter.
    pub dead_topic: Option<Name>,
}

impl GroupRules {
    /// What a member declares.
    pub fn of(spec: &GroupSpec) -> Self {
        GroupRules {
            order: spec.order,
            max_attempts: spec.max_attempts,
            max_dead: spec.max_dead,
            dead_age: spec.dead_age,
            gap: spec.gap,
            after_dead: spec.after_dead,
            dead_topic: spec.dead_topic.clone(),
        }
    }

    /// Puts them into what a member declares: it joins without changing them.
    pub fn put_into(&self, spec: &mut GroupSpec) {
        spec.order = self.order;
        spec.max_attempts = self.max_attempts;
        spec.max_dead = self.max_dead;
        spec.dead_age = self.dead_age;
        spec.gap = self.gap;
        spec.after_dead = self.after_dead;
        spec.dead_topic.clone_from(&self.dead_topic);
    }

    /// What holds of these, as members declared them, under what an operator set over them.
    pub fn under(&self, over: &Overrides) -> GroupRules {
        GroupRules {
            max_attempts: over.max_attempts.unwrap_or(self.max_attempts),
            max_dead: over.max_dead.unwrap_or(self.max_dead),
            gap: over.gap.unwrap_or(self.gap),
            after_dead: match self.after_dead {
                AfterDead::Continue => AfterDead::Continue,
                AfterDead::HoldKey => over.after_dead.unwrap_or(AfterDead::HoldKey),
            },
            ..self.clone()
        }
    }
}

impl GroupInfo {
    /// What it goes by now: what the last member declared, and over it what an operator set.
    pub fn rules(&self) -> GroupRules {
        self.declared.under(&self.overrides)
    }
}

/// A pause by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Why, as the operator said it.
    pub reason: Arc<str>,
    /// Since when.
    pub since: Timestamp,
}

/// Why a partition gives a group nothing new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waits {
    /// The group is paused: [`GroupInfo::pause`](super::GroupInfo::pause).
    Paused,
    /// Messages are there, and no member owns the partition.
    NoMember,
    /// The group has as many dead letters as it may keep.
    TooManyDead,
    /// This message was lost more than once: it goes out alone, and the rest waits for its end.
    Suspect(Stuck),
    /// The gap is reached: the partition waits for its oldest message that is not settled, this one.
    Gap(Stuck),
}

/// The message that a partition waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Where it is.
    pub offset: Position,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Attempts made, the one that is under way included.
    pub attempts: u32,
    /// When it was appended.
    pub since: Option<Timestamp>,
    /// What it waits for.
    pub on: StuckOn,
}

/// What a message waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StuckOn {
    /// A member has it.
    Member,
    /// Its turn: it goes out next.
    Turn,
    /// The time of its next attempt; with the reason of the last failure.
    Retry {
        /// When it may go out again.
        next: Timestamp,
        /// Why it was sent back, where that is known.
        reason: Option<Arc<str>>,
    },
    /// The dead letter of its key with this number ([`AfterDead::HoldKey`]): it is redriven or removed, or the key stays.
    DeadLetter(u64),
}
