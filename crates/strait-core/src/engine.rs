//! Engines and their consumers, as objects.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;

use crate::delivery::{Arrival, Fence, Shard};
use crate::error::{Error, Kind, Result, codes};
use crate::events::Events;
use crate::time::Timestamp;
use crate::unit::{Claim, Claimed, Outcome, Unit};

/// A boxed future: one allocation per call, never per message.
pub type Fut<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// Which store an engine writes to. Equal ids: one unit can span both sides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EngineId(pub Arc<str>);

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Up,
    /// It works in part; the text says what does not (for example: the disk is full, sends are refused).
    Impaired(Arc<str>),
    /// It cannot be reached now and is being tried again.
    Down(Arc<str>),
    /// It takes nothing more: closed or poisoned.
    Ended(Arc<str>),
}

/// A backup that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// The last commit that is in it: everything acknowledged before it was asked for, and maybe more.
    pub sequence: u64,
    /// When it was taken.
    pub taken: Timestamp,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How much the storage of an engine holds, and when it will be full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// Bytes that its files take on their disk.
    pub used: u64,
    /// Bytes of them that are prepared ahead: what comes next fills these first.
    pub spare: u64,
    /// Bytes that the disk has left for it.
    pub free: u64,
    /// How fast what is stored grows, after all that was removed meanwhile; `None` where less than a minute is known.
    pub growth: Option<Growth>,
    /// When `free` and `spare` are used up at this growth; zero while sends are refused because there is no room. `None`
    /// where it does not grow, where it is too far away to tell, and where too little is known.
    pub full_in: Option<Duration>,
}

/// A change in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Bytes a second; negative where more was removed than came.
    pub per_second: i64,
    /// The time that it was seen over, until now.
    pub over: Duration,
}

/// The lanes that an engine offers.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Lanes {
    /// The events lane.
    pub events: Option<Arc<dyn Events>>,
}

impl Lanes {
    /// No lane at all, to start from.
    pub fn none() -> Self {
        Lanes::default()
    }

    /// With this events lane.
    pub fn with_events(mut self, events: Arc<dyn Events>) -> Self {
        self.events = Some(events);
        self
    }
}

/// An engine: it offers lanes, and commits units over them.
///
/// # Behaviour
///
/// - `commit`: each unit is atomic; units of one call are independent and may be applied in one write. An outcome is
///   given only after what it rests on is durable in the engine's class. Outcomes come in the order of the units.
///   Once polled, the call owns its units and runs to the end even when the future is dropped.
/// - A unit with a receipt or fence that is no longer valid answers `Fenced` and changes nothing.
/// - A unit whose [`Once`](crate::Once) key has a stored result answers `Seen`: deliveries are settled, nothing is sent.
/// - `claim`: durable before it answers `Run`. Of concurrent holders of one key exactly one runs.
/// - `close`: consumers end, writes under way finish, later calls answer `Closed`. Calling it twice is fine.
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// Which store this is.
    fn id(&self) -> EngineId;

    /// The lanes it offers.
    fn lanes(&self) -> Lanes;

    /// How it is, now and as it changes.
    fn health(&self) -> watch::Receiver<Health>;

    /// Commits units.
    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>>;

    /// Asks the idempotency ledger. `Unsupported` on engines without one.
    fn claim(&self, claim: Claim) -> Fut<Result<Claimed>>;

    /// Copies all that is durable now into the directory `to` of the engine's own machine, while it goes on working: what a
    /// restore makes of it equals the state at [`Backup::sequence`]. `to` is an absolute path; it must be empty or not
    /// there (`Conflict`). After an error nothing is left in it. `Unsupported` on engines that are not a directory.
    fn backup(&self, to: PathBuf) -> Fut<Result<Backup>>;

    /// How much its storage holds, and when it will be full: measured when it is asked for, and against what was seen since
    /// the engine was opened, of the last hours. Wakes nobody up. `Unsupported` on engines whose storage is not theirs to
    /// measure.
    fn storage(&self) -> Fut<Result<Storage>>;

    /// Ends the engine: waits at most `grace` for what is under way.
    fn close(&self, grace: Duration) -> Fut<()>;
}

/// The input side of a consumer.
pub trait Source: fmt::Debug + Send {
    /// The next arrival: at most `items` messages of about `bytes` bytes together (at least one message).
    ///
    /// Cancel-safe: a poll that is not followed up loses nothing.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        items: usize,
        bytes: usize,
    ) -> Poll<Result<Arrival>>;
}

/// The control side of a consumer, usable from any thread while the source is polled elsewhere.
pub trait Control: fmt::Debug + Send + Sync {
    /// Extends the leases to `by` from now. `false`: lost already, cancel the work.
    fn extend(&self, fences: Vec<Fence>, by: Duration) -> Fut<Result<Vec<bool>>>;

    /// Stops (`true`) or resumes deliveries of a shard.
    fn hold(&self, shard: Shard, held: bool);

    /// The member is done with a shard that was being revoked.
    fn handed_back(&self, shard: Shard);

    /// Leaves: shards go to other members at once. Receipts that are still out are abandoned.
    fn leave(&self);
}

/// An open consumer.
#[derive(Debug)]
pub struct Consumer {
    /// Yields deliveries.
    pub source: Box<dyn Source>,
    /// Extends, holds, hands back.
    pub control: Arc<dyn Control>,
    /// The id that its receipts carry.
    pub id: u64,
}

impl Consumer {
    /// The next arrival. Cancel-safe.
    pub async fn next(&mut self, items: usize, bytes: usize) -> Result<Arrival> {
        std::future::poll_fn(|cx| self.source.poll_next(cx, items, bytes)).await
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.control.leave();
    }
}

/// The error for a lost receipt.
pub fn fenced() -> Error {
    Error::new(
        Kind::Conflict,
        "the lease, partition or session was lost; nothing was changed",
    )
    .code(codes::FENCED)
    .next("stop the work: another member has the message, or will get it")
}
