//! Opening a log: which groups count, where it ends, and what is damage.

use super::group::{GROUP_HEAD, RECORD_HEAD};
use super::log::LogPos;
use super::segment::le_u32;

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Groups that were visited.
    pub groups: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Sequence of the last group; 0 for an empty log.
    pub last_seq: u64,
    /// A tail that was written but never made durable, and was cut.
    pub torn: Option<TornTail>,
    /// Groups at the end that no later group proved durable, and that were written anew.
    pub rewritten: u64,
    /// Names of unfinished files that were removed.
    pub removed: Vec<String>,
}

/// An unfinished write at the end of the log. No acknowledgement rested on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment's file.
    pub file: String,
    /// Where it starts in the file.
    pub offset: u64,
    /// How many bytes of it can be recognised at least.
    pub bytes: u64,
    /// The sequence that it had or would have had.
    pub seq: u64,
}

/// A whole and checked group.
#[derive(Debug, Clone, Copy)]
pub struct RecoveredGroup<'a> {
    /// Its sequence.
    pub seq: u64,
    /// The segment that holds it from now on.
    pub segment: u64,
    /// Its first byte in that segment's file.
    pub offset: u64,
    pub(crate) bytes: &'a [u8],
}

impl<'a> RecoveredGroup<'a> {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// False: a group has a header.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The position behind it, see [`Placed::next`](super::Placed::next).
    pub fn next(&self) -> LogPos {
        LogPos {
            segment: self.segment,
            offset: self.offset + self.len(),
            seq: self.seq + 1,
        }
    }

    /// Its records in order.
    pub fn records(&self) -> impl Iterator<Item = RecoveredRecord<'a>> + use<'a> {
        let (bytes, offset) = (self.bytes, self.offset);
        let count = le_u32(bytes, 32);
        let mut at = GROUP_HEAD;
        (0..count).map(move |_| {
            let len = le_u32(bytes, at) as usize;
            let ops_len = le_u32(bytes, at + 4) as usize;
            let start = at + RECORD_HEAD;
            at = start + len;
            RecoveredRecord {
                ops: &bytes[start..start + ops_len],
                bodies: &bytes[start + ops_len..at],
                bodies_offset: offset + (start + ops_len) as u64,
            }
        })
    }
}

/// One record of a group.
#[derive(Debug, Clone, Copy)]
pub struct RecoveredRecord<'a> {
    /// Its ops.
    pub ops: &'a [u8],
    bodies: &'a [u8],
    bodies_offset: u64,
}

impl<'a> RecoveredRecord<'a> {
    /// Its bodies in order: where each stands in the segment's file, and its bytes.
    pub fn bodies(&self) -> impl Iterator<Item = (u64, &'a [u8])> + use<'a> {
        let (bodies, offset) = (self.bodies, self.bodies_offset);
        let mut at = 0;
        std::iter::from_fn(move || {
            if at == bodies.len() {
                return None;
            }
            let len = le_u32(bodies, at) as usize;
            let body = &bodies[at..at + len];
            let place = offset + at as u64;
            at += len;
            Some((place, body))
        })
    }
}
