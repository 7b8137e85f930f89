//! Units: what is committed together, or not at all.

use std::time::Duration;

use bytes::Bytes;

use crate::chunk::Position;
use crate::delivery::{Fence, Receipt, Verdict};
use crate::error::{Error, Result};
use crate::events::Expected;
use crate::name::Name;
use crate::records::Records;

/// One atomic change over any lanes of one engine: verdicts, what they release, and an idempotency record.
#[derive(Debug, Default)]
pub struct Unit {
    /// Deliveries that end with this unit.
    pub settle: Vec<(Receipt, Verdict)>,
    /// Messages that leave with it.
    pub send: Vec<Outgoing>,
    /// The end of a claim in the idempotency ledger.
    pub once: Option<Once>,
    /// Valid only while the receipt with this identity is, without settling it: resumable steps, progress,
    /// streamed answers. When the lease is lost the unit answers `Fenced`.
    pub under: Option<Fence>,
}

impl Unit {
    /// A unit that settles one receipt.
    pub fn settle(receipt: Receipt, verdict: Verdict) -> Self {
        Unit {
            settle: vec![(receipt, verdict)],
            ..Unit::default()
        }
    }

    /// A unit that sends, outside of any delivery.
    pub fn send(outgoing: Outgoing) -> Self {
        Unit {
            send: vec![outgoing],
            ..Unit::default()
        }
    }
}

/// A message on its way out, by lane.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Outgoing {
    /// Append to a topic's partition (events).
    Append {
        /// The topic; it must exist.
        topic: Name,
        /// The partition, below the topic's count.
        partition: u32,
        /// What to append.
        records: Records,
        /// What must hold.
        expected: Expected,
        /// Remember the ids in the topic's dedupe window; a known one is answered with its first position.
        dedupe: bool,
    },
}

/// The end of a claim, committed with the unit.
#[derive(Debug, Clone)]
pub struct Once {
    /// Whose keys these are, for example the consumer's name.
    pub scope: String,
    /// The key, for example the message's id. At most 1 KiB.
    pub key: String,
    /// The claim under which the work was done; without one the key is only checked and stored.
    pub claim: Option<ClaimToken>,
    /// What becomes of the key.
    pub end: OnceEnd,
}

/// What becomes of a claimed key.
#[derive(Debug, Clone)]
pub enum OnceEnd {
    /// Remember the result for `ttl`; whoever claims the key meanwhile sees it.
    Store {
        /// The result, at most the body limit.
        result: Bytes,
        /// How long it is remembered.
        ttl: Duration,
    },
    /// Give the claim back: a known failure, the next attempt may run.
    Forget,
}

/// The number of a claim: a later claim of the same key fences an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimToken(pub u64);

/// Asks for the right to run the work behind a key.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose keys these are.
    pub scope: String,
    /// The key. At most 1 KiB.
    pub key: String,
    /// Who asks: the same in every attempt of one message. The same holder gets its own claim again.
    pub holder: String,
    /// After this time without an end the claim is void.
    pub lease: Duration,
    /// How long to wait when another holder runs.
    pub wait: Duration,
    /// The work must never run twice: an earlier run of this holder that did not end is reported as
    /// [`Claimed::Unfinished`] instead of being granted again.
    pub at_most_once: bool,
}

/// The answer to a claim, durable before it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// Run it, and end the claim with [`Once`].
    Run(ClaimToken),
    /// It was done; here is the stored result.
    Seen(Bytes),
    /// Another holder runs it still.
    Wait,
    /// An earlier run of the same holder has no known end: it may be done (only with `at_most_once`).
    Unfinished(ClaimToken),
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The partition.
    pub partition: u32,
    /// The position of the first record; the others follow.
    pub first: Position,
    /// Number of records.
    pub count: u32,
    /// The ids were known: `first` is where they were stored the first time, nothing was appended.
    pub duplicate: bool,
}

/// What became of a unit. Given out only after it is durable.
#[derive(Debug)]
pub enum Outcome {
    /// All of it happened; one [`Sent`] for each outgoing message, in order.
    Applied(Vec<Sent>),
    /// The ledger knows the key: the deliveries were settled, nothing was sent, here is the stored result.
    Seen(Bytes),
    /// A receipt, claim or fence of the unit was lost: nothing was changed.
    Fenced,
    /// Nothing was changed, and the unit comes back.
    NotApplied(Unit, Error),
    /// It may or may not have happened (a connection ended). Safe to repeat only with ids.
    Unknown(Error),
}

impl Outcome {
    /// The positions, or why there are none: `Fenced` becomes an error of code `fenced`, `Seen` an empty list.
    pub fn into_result(self) -> Result<Vec<Sent>> {
        match self {
            Outcome::Applied(sent) => Ok(sent),
            Outcome::Seen(_) => Ok(Vec::new()),
            Outcome::Fenced => Err(crate::engine::fenced()),
            Outcome::NotApplied(_, error) | Outcome::Unknown(error) => Err(error),
        }
    }
}
