//! Checks the history of concurrent work against the promises of the events lane.
//!
//! Workers record what they did and what they were told, in the order in which they saw it. Where the engine's answer
//! comes later than its effect, both ends are recorded ([`Did::Settling`], [`Did::Settled`]): between them the effect
//! may have happened or not. In the end [`check`] holds the record against what is stored ([`Stored`]) and gives each
//! broken promise with a short story.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use strait_core::Position;

/// A place in a topic: partition and position.
pub type Place = (u32, Position);

/// One thing that happened, as a worker saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Who saw it.
    pub who: String,
    /// What it was.
    pub did: Did,
}

/// What a worker did, or was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    /// An append was acknowledged.
    Appended {
        /// The message's text, unique in the history.
        text: String,
        /// Its key.
        key: String,
        /// Where it was stored, says the engine.
        place: Place,
    },
    /// A delivery arrived, and its handling begins when it is the turn of its key.
    Delivered {
        /// The message.
        text: String,
        /// The attempt.
        attempt: u32,
        /// The shard.
        shard: u32,
        /// The epoch of the receipt.
        epoch: u64,
    },
    /// The handling of a delivered message begins.
    Handling {
        /// The message.
        text: String,
    },
    /// A unit that ends a delivery was handed to the engine.
    Settling {
        /// The message.
        text: String,
        /// How it is to end.
        end: End,
        /// The effect that is to leave with it.
        effect: Option<String>,
        /// The shard.
        shard: u32,
        /// The epoch of the receipt.
        epoch: u64,
    },
    /// The engine's answer to the last [`Did::Settling`] of this message by this worker.
    Settled {
        /// The message.
        text: String,
        /// Whether it was applied.
        answer: Answer,
    },
    /// The receipt was dropped unsettled: by choice, or by the death of the member.
    Dropped {
        /// The message.
        text: String,
    },
    /// The message was given back with its shard, unsettled, or lost with it.
    GivenBack {
        /// The message.
        text: String,
    },
}

/// How a delivery was to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Handled.
    Done,
    /// Given up.
    Dead,
    /// Tried again, counted.
    Retry,
    /// Handed back, no attempt spent.
    Release,
}

/// What became of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It happened.
    Applied,
    /// It did not happen: the receipt was lost.
    Fenced,
    /// It did not happen, for another reason.
    NotApplied,
    /// It may have happened.
    Unknown,
}

/// What is stored in the end.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// The texts of the topic by place.
    pub log: BTreeMap<Place, String>,
    /// The effects.
    pub effects: Vec<String>,
    /// The dead letters: text and attempts.
    pub dead: Vec<(String, u32)>,
    /// The lag of the group: messages that it still owes.
    pub lag: u64,
    /// The attempts that a message has.
    pub max_attempts: u32,
    /// Greatest distance between the oldest message that is not settled and the newest that is delivered; `None`: it is not
    /// looked at.
    pub gap: Option<u64>,
    /// Deliveries may be lost on their way to a member, or reach it when others have had the message since: attempts that
    /// nobody saw count.
    pub lossy: bool,
}

/// A promise of the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// Nothing that was acknowledged is lost.
    NothingLost,
    /// Every message is handled at least once, until it is settled.
    AtLeastOnce,
    /// Every message ends once, and the effects of an applied unit stand once; of another one never.
    ExactlyOnce,
    /// Messages of a key are handled in order.
    KeyOrder,
    /// Failed attempts are counted, one by one.
    Attempts,
    /// What was given up is among the dead letters, and nothing else is.
    DeadLetters,
    /// A receipt of an earlier owner has no effect.
    Fencing,
    /// The distance to the oldest message that is not settled is bounded.
    Gap,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// What happened, in words.
    pub story: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken: {}", self.promise, self.story)
    }
}

/// The record of a run. Shared by its workers.
#[derive(Debug, Default)]
pub struct History {
    events: Mutex<Vec<Event>>,
}

impl History {
    /// Nothing happened yet.
    pub fn new() -> Self {
        History::default()
    }

    /// Adds what a worker did.
    pub fn add(&self, who: impl Into<String>, did: Did) {
        let event = Event {
            who: who.into(),
            did,
        };
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
    }

    /// What happened so far.
    pub fn events(&self) -> Vec<Event> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.clone()
    }
}

/// Holds a history against what is stored in the end, when the group owes nothing any more.
pub fn check(events: &[Event], stored: &Stored) -> Vec<Violation> {
    let tale = Tale::new(events, stored);
    let mut found = Vec::new();
    tale.nothing_lost(&mut found);
    tale.all_ended_once(&mut found);
    tale.effects(&mut found);
    tale.dead_letters(&mut found);
    tale.key_order(&mut found);
    tale.attempts(&mut found);
    tale.fencing(&mut found);
    tale.gap(&mut found);
    found
}

mod tale;
use tale::Tale;

#[cfg(test)]
mod tests;
