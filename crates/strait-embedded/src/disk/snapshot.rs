//! The container of checkpoints: named sections in a file `snap-<seq>`.

use std::io;
use std::sync::Arc;

use super::error::OpenError;
use super::io::Disk;
use super::log::LogPos;

/// What a snapshot is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The data directory's identity.
    pub identity: u128,
    /// All sequences up to this one are in it (its sections may know more, see their stamps).
    pub seq: u64,
    /// Where the log is replayed from. Segments before `replay.segment` are not needed for replay.
    pub replay: LogPos,
}

/// Writes one snapshot in steps, beside the log.
#[derive(Debug)]
pub struct SnapshotWriter {}

impl SnapshotWriter {
    /// Starts the file under a temporary name.
    pub fn begin(disk: Arc<dyn Disk>, head: SnapshotHead) -> io::Result<SnapshotWriter> {
        let _ = (disk, head);
        unimplemented!()
    }

    /// Adds a section; `stamp` is the sequence that it is of.
    pub fn section(&mut self, kind: u16, key: u64, stamp: u64, bytes: &[u8]) -> io::Result<()> {
        let _ = (kind, key, stamp, bytes);
        unimplemented!()
    }

    /// Makes it durable under its name, then removes all snapshots but the newest two. Dropping without it removes the
    /// temporary file.
    pub fn finish(self) -> io::Result<()> {
        unimplemented!()
    }
}

/// One section of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section<'a> {
    /// What it is; the engine's own numbers.
    pub kind: u16,
    /// Which one of its kind.
    pub key: u64,
    /// The sequence that it is of.
    pub stamp: u64,
    /// Its content.
    pub bytes: &'a [u8],
}

/// A whole and checked snapshot.
#[derive(Debug)]
pub struct SnapshotReader {
    head: SnapshotHead,
    broken: Vec<(String, String)>,
}

impl SnapshotReader {
    /// The newest valid snapshot; `None` in a directory without one.
    ///
    /// # Errors
    /// `Corrupt` when there are snapshots and none is valid; `Version` and `Identity` for a file of another format or
    /// directory.
    pub fn newest(disk: &dyn Disk, identity: u128) -> Result<Option<SnapshotReader>, OpenError> {
        let _ = (disk, identity);
        unimplemented!()
    }

    /// What it is of.
    pub fn head(&self) -> &SnapshotHead {
        &self.head
    }

    /// Newer snapshots that are damaged and were passed over: file and reason.
    pub fn broken(&self) -> &[(String, String)] {
        &self.broken
    }

    /// The next section; `None` after the last.
    pub fn next_section(&mut self) -> Result<Option<Section<'_>>, OpenError> {
        unimplemented!()
    }
}

/// The oldest position that any snapshot on the disk replays from: segments before it are not needed for replay.
/// `None` without a snapshot: all segments are needed.
pub fn replay_bound(disk: &dyn Disk, identity: u128) -> Result<Option<LogPos>, OpenError> {
    let _ = (disk, identity);
    unimplemented!()
}
