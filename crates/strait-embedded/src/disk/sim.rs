//! A disk in memory: what `memory:` runs on, and a disk that fails for simulations.

use std::io;
use std::sync::Arc;

use super::io::{Disk, File, Open};
use super::rng::Rng;

/// What a crash leaves of the writes and the changes of names that were not made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Each sector of 512 bytes is kept, lost or torn, each change of names is kept or lost, all at random.
    Random,
    /// Nothing that was not made durable is left.
    AllLost,
    /// Everything is left.
    AllKept,
    /// Reordered: a later part of the writes is left, the earlier part is lost.
    LaterKept,
    /// Only the process dies: the page cache stays as it is, what is not durable can still get lost.
    Process,
}

/// A disk in memory.
#[derive(Debug)]
pub struct SimDisk {}

impl SimDisk {
    /// A plain disk of `capacity` bytes without faults: what is written is there until the value is dropped.
    pub fn plain(capacity: u64) -> SimDisk {
        let _ = capacity;
        unimplemented!()
    }

    /// A disk of `capacity` bytes that keeps what is durable apart from what is written, and fails as told. `seed`
    /// decides how far a failing write or sync got.
    pub fn faulty(capacity: u64, seed: u64) -> SimDisk {
        let _ = (capacity, seed);
        unimplemented!()
    }

    /// The machine dies: this disk and its handles answer errors from now on. Returns what is left.
    pub fn crash(&self, how: Crash, rng: &mut Rng) -> SimDisk {
        let _ = (how, rng);
        unimplemented!()
    }

    /// The machine dies in the middle of the `n`-th next operation that changes something (1 is the next one).
    pub fn die_at(&self, n: u64) {
        let _ = n;
    }

    /// True when the machine died.
    pub fn is_dead(&self) -> bool {
        unimplemented!()
    }

    /// The `n`-th next sync of a file (1 is the next one) fails with EIO: some of its sectors reached the disk, the
    /// others never will, although reads still show them.
    pub fn fail_sync(&self, n: u64) {
        let _ = n;
    }

    /// The `n`-th next write fails with EIO after a part of it.
    pub fn fail_write(&self, n: u64) {
        let _ = n;
    }

    /// Sets how many bytes can be allocated in all.
    pub fn set_capacity(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Bytes that are allocated.
    pub fn allocated(&self) -> u64 {
        unimplemented!()
    }

    /// Flips the bits of `mask` in one byte of a file, durably and unnoticed.
    pub fn flip(&self, name: &str, pos: u64, mask: u8) -> io::Result<()> {
        let _ = (name, pos, mask);
        unimplemented!()
    }
}

impl Disk for SimDisk {
    fn open(&self, _name: &str, _how: Open) -> io::Result<Arc<dyn File>> {
        unimplemented!()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        unimplemented!()
    }
    fn remove(&self, _name: &str) -> io::Result<()> {
        unimplemented!()
    }
    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        unimplemented!()
    }
    fn sync_dir(&self) -> io::Result<()> {
        unimplemented!()
    }
    fn free_bytes(&self) -> io::Result<u64> {
        unimplemented!()
    }
}
