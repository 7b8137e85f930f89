//! What a consumer yields, and how it ends: deliveries, receipts, verdicts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::chunk::{Chunk, Message, Position};

/// A shard of a consumer's input: the partition of its topic (0 where a lane has none).
pub type Shard = u32;

/// What a consumer yields. The order of arrivals of one shard is the order of its records.
#[derive(Debug)]
pub enum Arrival {
    /// Single messages: redeliveries, and lanes without runs.
    Each(Vec<Delivery>),
    /// A run of records of one shard, all at their first attempt, with one receipt for the range.
    /// [`Receipt::split_first`] and [`Receipt::split_at`] cut it where verdicts differ.
    Run(Chunk, Receipt),
    /// The consumer now owns this shard.
    Assigned(Shard),
    /// Another member takes this shard over: stop dispatching it, settle what you can within the time, then call
    /// [`Control::handed_back`](crate::Control::handed_back). Later commits for it answer `Fenced`.
    Revoking(Shard, Duration),
    /// The shard was lost: what is in flight for it is fenced already.
    Lost(Shard),
    /// The consumer was closed; nothing follows.
    End,
}

/// One message to handle.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// 1 for the first delivery; counts failed attempts, lost leases and deaths of the process, not releases.
    pub attempt: u32,
    /// The reason of the last failed attempt, where there was one.
    pub last_error: Option<Arc<str>>,
    /// The right to settle it, once.
    pub receipt: Receipt,
}

/// The right to settle a range of one shard, once. Neither `Clone` nor `Copy`.
///
/// A receipt that is dropped instead of settled is *abandoned*: the engine takes the messages back and delivers
/// them again, with their attempt counted.
pub struct Receipt {
    fence: Fence,
    home: Option<Arc<dyn Abandoned>>,
}

/// Where abandoned receipts go. Implemented by engines; must not block.
pub trait Abandoned: Send + Sync {
    /// The receipt over this range was dropped unsettled.
    fn abandoned(&self, fence: Fence);
}

/// The identity of a receipt, without the right to settle: for leases, and for units that are valid only
/// *under* it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The consumer's id, unique in the engine's incarnation.
    pub consumer: u64,
    /// Grows with every assignment of the shard and every incarnation of the engine.
    pub epoch: u64,
    /// The shard.
    pub shard: Shard,
    /// The number of the first message. Where `dense_offsets` is native it is the message's position; elsewhere the engine
    /// numbers what it hands out of a shard, because a receipt covers consecutive numbers.
    pub first: Position,
    /// Number of messages, at least 1.
    pub count: u32,
}

impl Fence {
    /// The number after the last one.
    pub fn end(&self) -> Position {
        let (high, low) = self.first.parts();
        Position::of_parts(high, low + u64::from(self.count))
    }
}

impl Receipt {
    /// Made by engines only. `home` learns when the receipt is dropped unsettled.
    pub fn new(fence: Fence, home: Option<Arc<dyn Abandoned>>) -> Self {
        Receipt { fence, home }
    }

    /// Its identity.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Number of messages that it covers.
    pub fn count(&self) -> u32 {
        self.fence.count
    }

    /// Cuts off the first message. `None` (and `self` as it was) when only one is left: then use `self`.
    pub fn split_first(&mut self) -> Option<Receipt> {
        self.split_at(1)
    }

    /// Cuts off the first `count` messages; `None`, and nothing changes, unless `0 < count < self.count()`.
    pub fn split_at(&mut self, count: u32) -> Option<Receipt> {
        if count == 0 || count >= self.fence.count {
            return None;
        }
        let head = Fence {
            count,
            ..self.fence
        };
        self.fence.first = head.end();
        self.fence.count -= count;
        Some(Receipt {
            fence: head,
            home: self.home.clone(),
        })
    }

    /// Joins the receipt of the range that follows directly; gives it back when it does not.
    pub fn join(&mut self, next: Receipt) -> Result<(), Receipt> {
        let (a, b) = (self.fence, next.fence);
        let follows = a.consumer == b.consumer
            && a.epoch == b.epoch
            && a.shard == b.shard
            && a.end() == b.first;
        if !follows {
            return Err(next);
        }
        self.fence.count += next.settle().count;
        Ok(())
    }

    /// Takes the right: the receipt counts as settled and is not abandoned. For engines.
    pub fn settle(mut self) -> Fence {
        self.home = None;
        self.fence
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.abandoned(self.fence);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fence {
            shard,
            first,
            count,
            epoch,
            ..
        } = self.fence;
        write!(
            f,
            "Receipt(shard {shard}, {count} from {first}, epoch {epoch})"
        )
    }
}

/// How a delivery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Handled.
    Done,
    /// Handled, with the answer to a request. Refused (`Unsupported`) on lanes that have no caller.
    Answer(Bytes),
    /// Not now: the message is parked and comes back.
    Retry {
        /// How long to wait at least.
        after: Duration,
        /// Why, for operators; kept with the message.
        reason: Arc<str>,
        /// Whether this attempt counts towards the limit.
        counts: bool,
    },
    /// Given up: the message goes to the dead letters with this reason, its attempts and its origin.
    Dead(Arc<str>),
    /// Handed back unhandled (shutdown, a key that must wait): no attempt is spent.
    Release,
}
