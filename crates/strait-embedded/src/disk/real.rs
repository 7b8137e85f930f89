//! The disk of the operating system.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::io::{Disk, File, Open};

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    warnings: Vec<String>,
}

/// The exclusive right to a directory. Ends with the value or with the process.
#[derive(Debug)]
pub struct LockGuard {
    _file: fs::File,
}

/// Who holds the lock of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// The file name of its program.
    pub program: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since: u64,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has the directory open.
    #[error("in use by {} (pid {})", .0.program, .0.pid)]
    Held(Holder),
    /// The lock file could not be opened, locked or written.
    #[error("cannot lock the data directory: {0}")]
    Io(#[from] io::Error),
}

impl RealDisk {
    /// Opens the directory and makes it (mode 0700) when it does not exist.
    ///
    /// # Errors
    /// `Unsupported` on a network file system, by name: its locks and fsyncs do not hold.
    pub fn open(path: impl AsRef<Path>) -> io::Result<RealDisk> {
        let _ = path;
        unimplemented!()
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the user should know about this file system: it forgets, or its fsync may not reach a disk.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Takes the exclusive lock on the file `LOCK` without waiting, and writes into it who holds it.
    pub fn try_lock(&self) -> Result<LockGuard, LockError> {
        unimplemented!()
    }
}

impl Disk for RealDisk {
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
