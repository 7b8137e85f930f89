//! The commit log: one writer appends groups, each with one write and one fdatasync.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::error::{LogError, OpenError};
use super::group::{GroupBuf, GroupHead, MAX_GROUP};
use super::io::{Disk, is_full};
use super::pool::{Pin, Pool, Ready, SegmentFile};
use super::recover::{self, RecoveredGroup, RecoveryReport};
use super::segment::SEGMENT_HEAD;

/// So many of the last bytes of a full disk are for groups that free space.
const KEPT_BYTES: u64 = 256 << 10;

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
    /// How many freed files are kept for recycling at least: twice as many as retention frees in a round. At most it is a quarter
    /// of the segments in use, where that is more. The others are removed. Default 8.
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
            recycled: 8,
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
pub struct Log {
    pool: Arc<Pool>,
    active: Ready,
    /// Where the next group starts in the active segment.
    offset: u64,
    /// Groups and their bytes since the segment was begun or the log opened.
    filled: (u64, u64),
    written: u64,
    durable: u64,
    /// All sequences up to this one are proven durable by what is in the log, or are a seal.
    proven: u64,
    /// The active segment is the reserve: only groups that free space go there.
    in_reserve: bool,
    poison: Option<Arc<io::Error>>,
    /// Kept for its allocation.
    parts: Vec<IoSlice<'static>>,
}

/// Where a log that was opened goes on.
#[derive(Debug)]
pub(super) struct Resume {
    pub(super) pool: Arc<Pool>,
    pub(super) active: Ready,
    pub(super) offset: u64,
    pub(super) last_seq: u64,
    /// Up to here the log itself proves it.
    pub(super) proven: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Ordinary,
    Reserve,
}

impl Log {
    /// Opens the log of `disk` and calls `visit` for every group from `from` on (without: from the beginning, which
    /// must still be there), in strict sequence. See [`recover`](super::recover) for the rules. Groups without records
    /// (seals) are not visited.
    ///
    /// When it returns, everything visited is durable.
    ///
    /// # Errors
    /// Every [`OpenError`]; the directory is then as it was, but for unfinished files that were removed.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        from: Option<LogPos>,
        visit: &mut dyn FnMut(RecoveredGroup<'_>) -> Result<(), OpenError>,
    ) -> Result<(Log, RecoveryReport), OpenError> {
        let (resume, report) = recover::open(disk, options, from, visit)?;
        Ok((Log::resume(resume), report))
    }

    /// Like [`open`](Self::open), but reads only: nothing is written, cut or removed. For a directory that nobody writes.
    pub fn scan(
        disk: &dyn Disk,
        identity: u128,
        from: Option<LogPos>,
        visit: &mut dyn FnMut(RecoveredGroup<'_>) -> Result<(), OpenError>,
    ) -> Result<RecoveryReport, OpenError> {
        recover::scan(disk, identity, from, visit)
    }

    fn resume(resume: Resume) -> Log {
        Log {
            pool: resume.pool,
            active: resume.active,
            offset: resume.offset,
            filled: (0, 0),
            written: resume.last_seq,
            durable: resume.last_seq,
            proven: resume.proven,
            in_reserve: false,
            poison: None,
            parts: Vec::new(),
        }
    }

    /// Writes a group, with one `pwritev`. It is not durable before [`sync`](Self::sync).
    ///
    /// # Errors
    /// `Full` and `TooLarge` leave the log as it was. After `Poisoned` every call answers `Poisoned`.
    pub fn append(&mut self, group: &GroupBuf) -> Result<Placed, LogError> {
        self.write(group, Use::Ordinary)
    }

    /// Like [`append`](Self::append), and may use the reserve when the disk is full: for groups that free space.
    pub fn append_reserve(&mut self, group: &GroupBuf) -> Result<Placed, LogError> {
        self.write(group, Use::Reserve)
    }

    /// Makes all that is written durable, with one `fdatasync`; without a call when it is.
    ///
    /// # Errors
    /// `Poisoned`: whether the groups are durable is known only after reopening.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check()?;
        if self.durable < self.written {
            // Earlier segments are durable: they were synced before the first group went into this one.
            let synced = self.active.file.sync_data();
            synced.map_err(|e| self.poison(e))?;
            self.durable = self.written;
        }
        Ok(())
    }

    /// Writes and syncs an empty group that proves the last one durable, for a quiet moment and for closing. It takes
    /// a sequence. Does nothing when nothing is unproven.
    ///
    /// # Errors
    /// As [`append`](Self::append). Without a seal the next opening only has a group to write anew.
    pub fn seal(&mut self) -> Result<(), LogError> {
        self.sync()?;
        if self.proven < self.written {
            self.write(&GroupBuf::new(), Use::Ordinary)?;
            self.sync()?;
            self.proven = self.written;
        }
        Ok(())
    }

    /// The sequence of the last group written; 0 in a new directory.
    pub fn written_seq(&self) -> u64 {
        self.written
    }

    /// The sequence of the last group that is durable; 0 in a new directory.
    pub fn durable_seq(&self) -> u64 {
        self.durable
    }

    /// Where the next group goes, or the end of the segment before the one it goes to.
    pub fn position(&self) -> LogPos {
        LogPos {
            segment: self.active.header.id,
            offset: self.offset,
            seq: self.written + 1,
        }
    }

    /// The segment files, to share with readers and housekeeping.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// See [`Pool::has_room`].
    pub fn has_room(&self) -> bool {
        self.pool.has_room()
    }

    /// What is left in bytes once nothing more can be had: the disk is full and the reserve is in use. The last part of it is
    /// not counted: it is for groups that free space. `None` before that.
    pub fn last_bytes(&self) -> Option<u64> {
        let last = !self.has_room() && (self.in_reserve || !self.pool.has_reserve());
        let len = self.active.header.len;
        let kept = KEPT_BYTES.min(len / 8);
        last.then(|| len.saturating_sub(self.offset + kept))
    }

    /// See [`Pool::release`].
    pub fn release(&mut self, segment: u64) -> bool {
        self.pool.release(segment)
    }

    /// See [`Pool::pin`].
    pub fn pin(&self, segment: u64) -> Option<Pin> {
        self.pool.pin(segment)
    }

    /// See [`Pool::reader`].
    pub fn reader(&self, segment: u64) -> io::Result<Arc<SegmentFile>> {
        self.pool.reader(segment)
    }

    fn write(&mut self, group: &GroupBuf, usage: Use) -> Result<Placed, LogError> {
        self.check()?;
        let len = group.encoded_len();
        if len > MAX_GROUP {
            return Err(LogError::TooLarge {
                len,
                limit: MAX_GROUP,
            });
        }
        self.make_room(len, usage)?;
        let head = GroupHead {
            len: len as u32,
            salt: self.active.header.salt,
            seq: self.written + 1,
            durable: self.durable,
            records: group.records() as u32,
        };
        let written = self.write_parts(&head.encode(group.heads()), group);
        written.map_err(|e| self.poison(e))?;
        let placed = Placed {
            seq: head.seq,
            segment: self.active.header.id,
            offset: self.offset,
            len,
        };
        self.offset += len;
        self.filled = (self.filled.0 + 1, self.filled.1 + len);
        self.written = head.seq;
        self.proven = self.durable;
        Ok(placed)
    }

    fn write_parts(&mut self, head: &[u8], group: &GroupBuf) -> io::Result<()> {
        let mut parts: Vec<IoSlice<'_>> = std::mem::take(&mut self.parts);
        parts.push(IoSlice::new(head));
        group.slices(&mut parts);
        let written = self.active.file.write_all_at(&parts, self.offset);
        parts.clear();
        // Nothing is in it any more: this only gives the allocation its lifetime back.
        self.parts = parts.into_iter().map(|_| IoSlice::new(&[])).collect();
        written
    }

    /// Goes to the next segment when the active one has no room.
    fn make_room(&mut self, len: u64, usage: Use) -> Result<(), LogError> {
        let allowed = usage == Use::Reserve || !self.in_reserve;
        if allowed && self.offset + len <= self.active.header.len {
            return Ok(());
        }
        // A group in a later segment always proves the earlier segments whole, so they must be.
        self.sync()?;
        let needed = SEGMENT_HEAD + len;
        let (groups, bytes) = std::mem::take(&mut self.filled);
        self.pool.filled(groups, bytes);
        let (ready, in_reserve) = match self.pool.take(needed) {
            Ok(ready) => (ready, false),
            Err(e) if !is_full(&e) => return Err(self.poison(e)),
            Err(_) if usage == Use::Ordinary => return Err(LogError::Full { needed }),
            Err(_) => match self.pool.take_reserve(needed) {
                Ok(Some(ready)) => (ready, true),
                Ok(None) => return Err(LogError::Full { needed }),
                Err(e) if is_full(&e) => return Err(LogError::Full { needed }),
                Err(e) => return Err(self.poison(e)),
            },
        };
        self.active = ready;
        self.offset = SEGMENT_HEAD;
        self.in_reserve = in_reserve;
        Ok(())
    }

    fn check(&self) -> Result<(), LogError> {
        match &self.poison {
            Some(cause) => Err(LogError::Poisoned(cause.clone())),
            None => Ok(()),
        }
    }

    fn poison(&mut self, cause: io::Error) -> LogError {
        let cause = Arc::new(cause);
        self.poison = Some(cause.clone());
        LogError::Poisoned(cause)
    }
}
