//! The commit log: one writer appends groups, each with one write and one fdatasync.

use std::sync::Arc;

use super::error::{LogError, OpenError};
use super::group::GroupBuf;
use super::io::Disk;
use super::pool::{Pin, Pool, SegmentFile};
use super::recover::{RecoveredGroup, RecoveryReport};

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The data directory's identity, see [`identity`](super::identity).
    pub identity: u128,
    /// Random in production (salts come from it), fixed in simulations.
    pub seed: u64,
    /// Length of a segment in the long run, in bytes. Default 64 MiB.
    pub segment_bytes: u64,
    /// Length of the first segment of an empty directory; each new one has twice the length of the one before up to
    /// `segment_bytes`. Default 1 MiB, so that opening is quick and a small directory stays small.
    pub first_segment_bytes: u64,
    /// Length of the segment kept for groups that free space. Default 4 MiB; 0 keeps none.
    pub reserve_bytes: u64,
    /// How many segments are prepared ahead. Default 2.
    pub spares: usize,
    /// How many freed files are kept for recycling; the others are removed. Default 4.
    pub recycled: usize,
    /// Whether spare segments are filled with zeros ahead, which makes small fsyncs cheap. Default true; a disk in
    /// memory has nothing from it.
    pub zeroed: bool,
}

impl LogOptions {
    /// The defaults for the directory `identity`.
    pub fn new(identity: u128, seed: u64) -> LogOptions {
        LogOptions {
            identity,
            seed,
            segment_bytes: 64 << 20,
            first_segment_bytes: 1 << 20,
            reserve_bytes: 4 << 20,
            spares: 2,
            recycled: 4,
            zeroed: true,
        }
    }
}

/// Where a group starts, or where the next one will: what a snapshot keeps to replay from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPos {
    /// The segment. The group may also be the first of the next segment, when this one had no room for it.
    pub segment: u64,
    /// The byte in the segment's file.
    pub offset: u64,
    /// The sequence of the group.
    pub seq: u64,
}

/// Where a group was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its sequence: 1 for the first of a directory, then without gaps.
    pub seq: u64,
    /// Its segment.
    pub segment: u64,
    /// Its first byte in the segment's file. Add [`GroupBuf::body_offsets`] to it for the bodies.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl Placed {
    /// The position behind it: a snapshot that covers this group replays from there.
    pub fn next(&self) -> LogPos {
        LogPos {
            segment: self.segment,
            offset: self.offset + self.len,
            seq: self.seq + 1,
        }
    }
}

/// The one writer of a directory's commit log.
#[derive(Debug)]
pub struct Log {}

impl Log {
    /// Opens the log of `disk` and calls `visit` for every group from `from` on (without: from the beginning, which
    /// must still be there), in strict sequence. See [`recover`](super::recover) for the rules. Groups without records
    /// (seals) are not visited.
    ///
    /// When it returns, everything visited is durable.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        from: Option<LogPos>,
        visit: &mut dyn FnMut(RecoveredGroup<'_>) -> Result<(), OpenError>,
    ) -> Result<(Log, RecoveryReport), OpenError> {
        let _ = (disk, options, from, visit);
        unimplemented!()
    }

    /// Like [`open`](Self::open), but reads only: nothing is written, cut or removed. For a directory that nobody writes.
    pub fn scan(
        disk: &dyn Disk,
        identity: u128,
        from: Option<LogPos>,
        visit: &mut dyn FnMut(RecoveredGroup<'_>) -> Result<(), OpenError>,
    ) -> Result<RecoveryReport, OpenError> {
        let _ = (disk, identity, from, visit);
        unimplemented!()
    }

    /// Writes a group, with one `pwritev`. It is not durable before [`sync`](Self::sync).
    ///
    /// # Errors
    /// `Full` and `TooLarge` leave the log as it was. After `Poisoned` every call answers `Poisoned`.
    pub fn append(&mut self, group: &GroupBuf) -> Result<Placed, LogError> {
        let _ = group;
        unimplemented!()
    }

    /// Like [`append`](Self::append), and may use the reserve when the disk is full: for groups that free space.
    pub fn append_reserve(&mut self, group: &GroupBuf) -> Result<Placed, LogError> {
        let _ = group;
        unimplemented!()
    }

    /// Makes all that is written durable, with one `fdatasync`; without a call when it is.
    pub fn sync(&mut self) -> Result<(), LogError> {
        unimplemented!()
    }

    /// Writes and syncs an empty group that proves the last one durable, for a quiet moment and for closing. It takes
    /// a sequence. Does nothing when nothing is unproven.
    pub fn seal(&mut self) -> Result<(), LogError> {
        unimplemented!()
    }

    /// The sequence of the last group written; 0 in a new directory.
    pub fn written_seq(&self) -> u64 {
        unimplemented!()
    }

    /// The sequence of the last group that is durable; 0 in a new directory.
    pub fn durable_seq(&self) -> u64 {
        unimplemented!()
    }

    /// Where the next group goes, or the segment before the one it goes to.
    pub fn position(&self) -> LogPos {
        unimplemented!()
    }

    /// The segment files, to share with readers and housekeeping.
    pub fn pool(&self) -> &Arc<Pool> {
        unimplemented!()
    }

    /// See [`Pool::has_room`].
    pub fn has_room(&self) -> bool {
        self.pool().has_room()
    }

    /// See [`Pool::release`].
    pub fn release(&mut self, segment: u64) -> bool {
        self.pool().release(segment)
    }

    /// See [`Pool::pin`].
    pub fn pin(&self, segment: u64) -> Option<Pin> {
        self.pool().pin(segment)
    }

    /// See [`Pool::reader`].
    pub fn reader(&self, segment: u64) -> std::io::Result<Arc<SegmentFile>> {
        self.pool().reader(segment)
    }
}
