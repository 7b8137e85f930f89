//! Backups of a directory that is in use, and what becomes of them.
//!
//! A backup is the newest checkpoint, every segment that it or the log behind it needs, and the log up to what is durable
//! when it is taken. While it is copied its segments are pinned; nobody waits for it. The manifest comes last.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::Path;
use std::time::{Duration, Instant};

use crc_fast::{CrcAlgorithm, Digest};
use strait_core::{Backup, Error, Kind, Result, codes};
use tokio::sync::oneshot;

use crate::disk::cleaned::{file_name, is_cleaned};
use crate::disk::io::is_full;
use crate::disk::snapshot::{snapshot_name, snapshots};
use crate::disk::{Disk, File, LogPos, Open, Pin, RealDisk, identity};
use crate::engine::Opened;
use crate::index;
use crate::open::{io_error, load_snapshot};
use crate::shared::Shared;
use crate::state::State;

mod manifest;
mod restore;

pub(crate) use manifest::MANIFEST;
use manifest::{Entry, Manifest};
pub(crate) use restore::restore_from;
pub use restore::{Restored, restore};

/// Bytes that are copied in one step.
const STEP: usize = 1 << 20;
/// What of a copy is synced at a time.
const SYNC: u64 = 8 << 20;
/// While messages are written, a backup works for one part in so many of the time: with a third of it they lose more than a fifth
/// of their rate.
const PART: u32 = 5;
const LONGEST_REST: Duration = Duration::from_secs(1);
/// How often a backup begins anew when what it was to copy is gone meanwhile.
const TRIES: u32 = 5;

/// Takes a backup into `dir`, which must be empty or not there. Blocks.
pub(crate) fn take(shared: &Shared, dir: &Path) -> Result<Backup> {
    shared.check_alive()?;
    let to = RealDisk::open(dir).map_err(|error| io_error(dir, error))?;
    let taken = take_to(shared, &to, &|shared| {
        let (waits, done) = oneshot::channel();
        shared.chore(|chores| {
            // After its end the housekeeper hears nobody: who waits is told by the drop.
            if !chores.stop {
                chores.waiting.push(waits);
                chores.checkpoint = true;
            }
        });
        done.blocking_recv()
            .unwrap_or_else(|_| Err(shared.ended_error()))
    });
    taken.map_err(|error| error.with("directory", dir.display()))
}

/// Takes a backup onto another disk; `checkpoint` has one taken.
pub(crate) fn take_to(
    shared: &Shared,
    to: &dyn Disk,
    checkpoint: &dyn Fn(&Shared) -> Result<()>,
) -> Result<Backup> {
    refuse_used(to, "a backup")?;
    let mut tries = 0;
    loop {
        tries += 1;
        // What is there now may be needed; what comes later is pinned when the checkpoint is known.
        let pins: Vec<Pin> = pins_of(shared, shared.pool.segments().iter().map(|s| s.id));
        checkpoint(shared)?;
        let begun = Copying::new(shared, to, &pins);
        match begun.and_then(Copying::copy) {
            Ok(backup) => return Ok(backup),
            Err(error) => {
                remove_all(to);
                // Another checkpoint has removed what this one needed.
                if error.kind() != io::ErrorKind::NotFound || tries == TRIES {
                    return Err(failed(error));
                }
            }
        }
    }
}

fn pins_of(shared: &Shared, segments: impl Iterator<Item = u64>) -> Vec<Pin> {
    segments.filter_map(|id| shared.pool.pin(id)).collect()
}

/// Refuses a directory that holds anything.
fn refuse_used(disk: &dyn Disk, what: &str) -> Result<()> {
    let names = disk.list();
    let names = names.map_err(|error| Error::io("cannot list the directory", error))?;
    match names.iter().find(|name| *name != "lost+found") {
        None => Ok(()),
        Some(name) => {
            let text = format!(
                "{what} is not written into a directory that is not empty: it holds {name}"
            );
            Err(Error::new(Kind::Conflict, text).next("name a new directory, or empty this one"))
        }
    }
}

/// Leaves nothing of a backup that did not come to its end.
fn remove_all(disk: &dyn Disk) {
    for name in disk.list().unwrap_or_default() {
        if let Err(error) = disk.remove(&name) {
            tracing::warn!("{name} of an unfinished backup stays behind: {error}");
        }
    }
}

fn failed(error: io::Error) -> Error {
    if is_full(&error) {
        return Error::new(
            Kind::Busy,
            "the disk has no room for the backup: nothing is left of it",
        )
        .code(codes::DISK_FULL)
        .caused_by(error)
        .next("free space there, or name a directory on another disk");
    }
    Error::io("the backup cannot be written", error)
}

/// A backup under way.
struct Copying<'a> {
    shared: &'a Shared,
    to: &'a dyn Disk,
    /// The checkpoint that it rests on, and its segments.
    snapshot: u64,
    segments: BTreeSet<u64>,
    /// Those whose index the checkpoint relies on.
    indexed: BTreeSet<u64>,
    _pins: Vec<Pin>,
    /// The log is copied up to here.
    end: LogPos,
    files: Vec<Entry>,
    /// Bytes of the file under way that are not synced.
    unsynced: u64,
    /// The log was durable up to here when this looked last.
    written: u64,
}

impl<'a> Copying<'a> {
    fn new(shared: &'a Shared, to: &'a dyn Disk, pins: &[Pin]) -> io::Result<Copying<'a>> {
        let disk = &*shared.disk;
        let snapshot = snapshots(disk)?.pop().ok_or(io::ErrorKind::NotFound)?;
        let mut state = State::default();
        let replay = load_snapshot(&mut state, disk, shared.identity, &mut Opened::default());
        let replay = replay
            .map_err(io::Error::other)?
            .ok_or(io::ErrorKind::NotFound)?;
        let end = shared.chores.lock().durable;
        let log = shared.pool.segments().into_iter().map(|segment| segment.id);
        let log = log.filter(|id| !is_cleaned(*id) && (replay.segment..=end.segment).contains(id));
        let live = state.streams().flat_map(|(_, stream)| stream.segments());
        let spans = state.streams().flat_map(|(_, stream)| &stream.spans);
        let indexed = spans.map(|span| span.segment);
        let segments: BTreeSet<u64> = live.chain(log).collect();
        let known = |id: &u64| pins.iter().any(|pin| pin.segment() == *id);
        let later = segments.iter().copied().filter(|id| !known(id));
        let later = pins_of(shared, later);
        let all = segments
            .iter()
            .all(|id| known(id) || later.iter().any(|pin| pin.segment() == *id));
        if !all {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Copying {
            shared,
            to,
            snapshot,
            segments,
            indexed: indexed.collect(),
            _pins: later,
            end,
            files: Vec::new(),
            unsynced: 0,
            written: end.seq,
        })
    }

    fn copy(mut self) -> io::Result<Backup> {
        // First what the next checkpoints may remove.
        self.copy_file(&snapshot_name(self.snapshot), u64::MAX)?;
        for segment in self.segments.clone() {
            let name = index::file_name(segment);
            match self.copy_file(&name, u64::MAX) {
                // There is none yet: what the segment holds is in the checkpoint, or is replayed.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && !self.indexed.contains(&segment) => {}
                other => other?,
            }
        }
        for segment in self.segments.clone() {
            let end = if segment == self.end.segment {
                self.end.offset
            } else {
                u64::MAX
            };
            self.copy_file(&file_name(segment), end)?;
        }
        self.copy_file(identity::IDENTITY, u64::MAX)?;
        self.finish()
    }

    /// After its end another process may have the directory, and change what is copied.
    fn check_alive(&self) -> io::Result<()> {
        self.shared.check_alive().map_err(io::Error::other)
    }

    fn finish(self) -> io::Result<Backup> {
        self.check_alive()?;
        let sequence = self.end.seq - 1;
        let taken = self.shared.clock.now().wall;
        let bytes = self.files.iter().map(|file| file.len).sum();
        let files = self.files.len() as u64;
        let manifest = Manifest {
            identity: self.shared.identity,
            sequence,
            taken,
            files: self.files,
        };
        self.to.sync_dir()?;
        write_new(self.to, MANIFEST, manifest.text().as_bytes())?;
        Ok(Backup {
            sequence,
            taken: strait_core::Timestamp::from_millis(taken),
            files,
            bytes,
        })
    }

    /// Copies a file up to `end`; what lies behind is a hole of the same length.
    fn copy_file(&mut self, name: &str, end: u64) -> io::Result<()> {
        let from = self.shared.disk.open(name, Open::Existing)?;
        let len = from.len()?;
        let to = self.to.open(name, Open::CreateNew)?;
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let mut buf = vec![0; STEP];
        let mut at = 0;
        while at < len {
            self.check_alive()?;
            let begun = Instant::now();
            let part = &mut buf[..(len - at).min(STEP as u64) as usize];
            let copied = part.len().min(end.saturating_sub(at) as usize);
            crate::disk::io::read_exact_at(&*from, &mut part[..copied], at)?;
            part[copied..].fill(0);
            digest.update(part);
            self.write(&*to, &part[..copied], at)?;
            at += part.len() as u64;
            if copied > 0 {
                self.rest(begun.elapsed());
            }
        }
        to.set_len(len)?;
        to.sync_data()?;
        self.unsynced = 0;
        self.files.push(Entry {
            name: name.to_owned(),
            len,
            crc: digest.finalize() as u32,
        });
        Ok(())
    }

    fn write(&mut self, to: &dyn File, bytes: &[u8], at: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        to.allocate(at + bytes.len() as u64)?;
        to.write_all_at(&[IoSlice::new(bytes)], at)?;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC {
            to.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// The disk is the writer's while it writes: a backup takes a part of the time then, and all of it when nothing is written.
    fn rest(&mut self, took: Duration) {
        let written = self.shared.chores.lock().durable.seq;
        if written != self.written {
            self.written = written;
            std::thread::sleep((took * (PART - 1)).min(LONGEST_REST));
        }
    }
}

/// Writes a small file as a whole, durably.
fn write_new(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let tmp = format!("{name}.tmp");
    let file = disk.open(&tmp, Open::CreateNew)?;
    file.allocate(bytes.len() as u64)?;
    file.write_all_at(&[IoSlice::new(bytes)], 0)?;
    file.sync_data()?;
    disk.rename(&tmp, name)?;
    disk.sync_dir()
}
