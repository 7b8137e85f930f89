//! How an embedded engine is opened.

use std::sync::Arc;
use std::time::Duration;

use strait_core::events::Durability;
use strait_core::{Clock, Limits, SystemClock};

/// How an embedded engine is opened. The defaults suit a service on one machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// What an acknowledgement means: [`Durability::Fsynced`] by default. [`Durability::Os`] acknowledges what the
    /// operating system has: it survives the process, not a power cut.
    pub durability: Durability,
    /// Bounds of messages.
    pub limits: Limits,
    /// Bytes of appends that may wait for the disk; more wait for room. Default 64 MiB.
    pub queue_bytes: usize,
    /// Length of a log segment. Default 64 MiB; below 1 MiB and above 1 GiB it is 1 MiB and 1 GiB.
    pub segment_bytes: u64,
    /// A checkpoint is taken after so many bytes of log. Default 1 GiB.
    pub checkpoint_bytes: u64,
    /// A checkpoint is taken after so many commit records. Default 1,000,000.
    pub checkpoint_records: u64,
    /// How much `memory:` may hold. Default 1 GiB; less than twice the log's reserve, which holds the longest unit (24 MiB
    /// with the default limits of messages), is refused with `Config`.
    pub memory_bytes: u64,
    /// Opens the directory to look at it: nothing in it is changed, what can be proved intact in front of the first damage
    /// is shown, and everything that writes (sends, members, changes of topics) is refused with code `read_only`.
    /// Refused with `locked` while another process has the directory; `memory:` has no such mode. Default false.
    pub read_only: bool,
    /// How often retention is looked at, where a topic has one; sooner when four segments were written meanwhile. Default 10 s.
    pub retention_every: Duration,
    /// The cleaner, which copies what is live out of segments that are mostly dead, works at most this part of the time, in
    /// percent: so much of the disk's bandwidth it may take. Below 1 it is 1, above 100 it is 100. Default 50.
    pub cleaner_share: u8,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            durability: Durability::Fsynced,
            limits: Limits::default(),
            queue_bytes: 64 << 20,
            segment_bytes: 64 << 20,
            checkpoint_bytes: 1 << 30,
            checkpoint_records: 1_000_000,
            memory_bytes: 1 << 30,
            read_only: false,
            retention_every: Duration::from_secs(10),
            cleaner_share: 50,
            clock: Arc::new(SystemClock::new()),
        }
    }
}
