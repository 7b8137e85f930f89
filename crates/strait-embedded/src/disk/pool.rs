//! The segment files of a log, shared by its writer, its readers and the housekeeping thread.

use std::io;
use std::sync::Arc;

use super::io::File;

/// A segment that is not free: it holds groups, or the writer is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its id; later segments have greater ids.
    pub id: u64,
    /// Length of its file in bytes.
    pub len: u64,
}

/// All segment files of one directory: those in use, spare ones prepared ahead, and freed ones to recycle.
#[derive(Debug)]
pub struct Pool {}

impl Pool {
    /// True when [`prepare_one`](Self::prepare_one) has something to do.
    pub fn wanted(&self) -> bool {
        unimplemented!()
    }

    /// Does one step of what is wanted: removes freed files that are not kept, then prepares the reserve or one spare
    /// segment (durable, name included). Takes as long as zeroing a segment takes; never blocks the writer meanwhile.
    ///
    /// # Errors
    /// `StorageFull` (see [`is_full`](super::io::is_full)) sets the mark that [`has_room`](Self::has_room) shows; a
    /// later call that succeeds clears it.
    pub fn prepare_one(&self) -> io::Result<()> {
        unimplemented!()
    }

    /// False while space for the next segment cannot be had: new messages should be refused.
    pub fn has_room(&self) -> bool {
        unimplemented!()
    }

    /// The segments in use, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        unimplemented!()
    }

    /// Says that nothing live points into segment `id` and that this is durable: its file is recycled or removed, once
    /// the last pin is gone. False, and no change, for the segment that is being written and for one that is not in use.
    pub fn release(&self, id: u64) -> bool {
        let _ = id;
        unimplemented!()
    }

    /// Keeps segment `id` from being recycled until the guard is dropped; `None` when it is not in use (any more).
    pub fn pin(self: &Arc<Self>, id: u64) -> Option<Pin> {
        let _ = id;
        unimplemented!()
    }

    /// A handle to read segment `id`, which is pinned while the handle lives.
    ///
    /// # Errors
    /// `NotFound` when the segment is not in use (any more).
    pub fn reader(self: &Arc<Self>, id: u64) -> io::Result<Arc<SegmentFile>> {
        let _ = id;
        unimplemented!()
    }
}

/// Keeps a segment from being recycled while it lives.
#[derive(Debug)]
pub struct Pin {
    pool: Arc<Pool>,
    id: u64,
}

impl Pin {
    /// The segment.
    pub fn segment(&self) -> u64 {
        self.id
    }

    /// The pool of the segment.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

/// A segment, open for reading and pinned.
#[derive(Debug)]
pub struct SegmentFile {
    file: Arc<dyn File>,
    pin: Pin,
}

impl SegmentFile {
    /// The segment.
    pub fn segment(&self) -> u64 {
        self.pin.id
    }

    /// Fills `buf` from `pos`; bytes that the writer has written are there although they may not be durable yet.
    pub fn read_exact_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        super::io::read_exact_at(&*self.file, buf, pos)
    }
}
