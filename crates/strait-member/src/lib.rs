//! What a member of a consumer group keeps of a shard, for engines whose broker does not keep it.
//!
//! A broker hands out a log and remembers a position. The contract of the events lane asks for more: order by key through
//! retries, leases, attempts, settled ranges above the committed position, a bounded gap. A [`Window`] is that part of the
//! work: it is told what was read, says what goes out next and what a verdict means, and never does anything itself. No I/O,
//! no clock: the driver stores each [`Step`] in its broker's way and says when that is durable.
//!
//! ```text
//!              low                        next               end
//!  ─────────────┼──────────────────────────┼──────────────────┼──────────► log
//!    settled    │ settled | waiting | out  │ read, not handed │ not read
//!               │◄────────── the gap bounds this ─────────────►│
//! ```
//!
//! Messages have *numbers* here: 0, 1, 2 .. in the order in which they were read, whatever their positions are. Receipts are
//! made of numbers, and what is durable is made of positions ([`Kept`]).
#![forbid(unsafe_code)]

mod pieces;
mod settle;
mod take;
mod waiting;
mod window;

use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{AfterDead, GroupSpec, Order};
use strait_core::{Position, Timestamp};

pub use settle::{End, Step};
pub use take::{Grant, Taken};
pub use window::{Stands, Window};

/// What a window goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Whether messages of one key keep their order through retries.
    pub order: Order,
    /// How long a delivery may be out without being extended.
    pub lease: Duration,
    /// The attempt after which a message is given up.
    pub max_attempts: u32,
    /// Messages from the oldest unsettled one to the newest delivered one, at most.
    pub gap: u64,
    /// What follows a dead letter for the later messages of its key.
    pub after_dead: AfterDead,
}

impl Rules {
    /// What a member declares.
    pub fn of(spec: &GroupSpec) -> Self {
        Rules {
            order: spec.order,
            lease: spec.lease,
            max_attempts: spec.max_attempts,
            gap: spec.gap,
            after_dead: spec.after_dead,
        }
    }
}

/// Messages of a shard, as positions: `from` up to, not with, `to`. `from` lies right behind the message before, as the reader
/// saw it, so ranges touch where the one's `to` is the other's `from`, and nothing has to be known of what lies between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    /// Right behind the message before the first.
    pub from: Position,
    /// Right behind the last message.
    pub to: Position,
}

/// What is durable of a shard; the driver stores it, and gives it back at the next assignment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Everything before it is settled.
    pub low: Position,
    /// Messages behind `low` that are settled, in order.
    pub settled: Vec<Range>,
    /// Messages behind `low` that were handed out before and come again, in order.
    pub again: Vec<Again>,
    /// Everything from `low` up to, not with, `out` that is neither settled nor in `again` was handed out once, and its end is
    /// not known: it comes again with that attempt counted. `low` where the broker does not record what goes out.
    pub out: Position,
}

/// A message that was handed out and comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Again {
    /// Where it is.
    pub position: Position,
    /// Attempts that count.
    pub attempts: u32,
    /// How many of them ended without a verdict: the lease or the process was lost. From [`Again::SUSPECT`] on it goes out
    /// alone, so that a message which ends its process takes no other with it.
    pub lost: u32,
    /// When it may go out again.
    pub due: Timestamp,
    /// Why it was sent back.
    pub reason: Option<Arc<str>>,
}

impl Again {
    /// Lost so often, a message goes out alone.
    pub const SUSPECT: u32 = 2;
}

#[cfg(test)]
mod tests;
