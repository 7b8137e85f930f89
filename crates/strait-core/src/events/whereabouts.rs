//! Where one message is: in the log, and with each group.

use std::sync::Arc;

use super::Stuck;
use crate::chunk::Position;
use crate::name::Name;
use crate::time::Timestamp;

/// A message in the log and with the groups of its topic, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Where it lies. `None`: the log does not hold it, because it was removed or is not written yet.
    pub stored: Option<Stored>,
    /// How each group of the topic stands to it, by name.
    pub groups: Vec<(Name, Standing)>,
}

/// The place of the batch that holds a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The file, or what else the engine calls the place.
    pub file: Arc<str>,
    /// The byte of the file where the batch begins.
    pub at: u64,
    /// Bytes of the batch.
    pub len: u64,
    /// The first record of the batch.
    pub first: Position,
    /// Records of the batch.
    pub count: u32,
    /// When it was appended.
    pub appended: Timestamp,
    /// The sequence of the newest checkpoint, when that knows the place; `None`: the next opening finds it in the log.
    pub checkpoint: Option<u64>,
}

/// How a group stands to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is behind the group: handled, or passed over by a seek.
    Settled,
    /// It was given up, and is the dead letter of this number.
    Dead(u64),
    /// It was never handed out yet; where the partition gives nothing new, [`ShardInfo::waits`](super::ShardInfo::waits)
    /// says why.
    Ahead,
    /// It was handed out and is not settled. Where it waits behind an earlier message of its key, it is that one's state,
    /// with its offset.
    Unsettled(Stuck),
}
