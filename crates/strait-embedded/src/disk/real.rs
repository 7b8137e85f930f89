//! The disk of the operating system.

use std::fs;
use std::io::{self, IoSlice, Read, Write};
#[cfg(target_os = "linux")]
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(target_os = "linux")]
use rustix::fs::{Advice, fadvise};
use rustix::fs::{FallocateFlags, FlockOperation, flock};

use super::io::{Disk, File, Open};

mod filesystem;

/// The most parts that one `pwritev` takes on Linux (`IOV_MAX`).
const PARTS: usize = 1024;
/// Step of [`File::zero`] in bytes.
const ZEROS: usize = 1 << 20;
/// The unit of `st_blocks`, on every file system.
const BLOCK: u64 = 512;
const LOCK: &str = "LOCK";

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    dir: fs::File,
    warnings: Vec<String>,
    writable: bool,
}

impl RealDisk {
    /// Opens the directory and makes it (mode 0700) when it does not exist.
    ///
    /// # Errors
    /// `Unsupported` on a network file system, by name: its locks and fsyncs do not hold.
    pub fn open(path: impl AsRef<Path>) -> io::Result<RealDisk> {
        let path = path.as_ref();
        if !path.exists() {
            make_dir(path)?;
        }
        RealDisk::existing(path, true)
    }

    /// Opens a directory that exists, to read from it: nothing in it can be changed by this value.
    pub fn open_read_only(path: impl AsRef<Path>) -> io::Result<RealDisk> {
        RealDisk::existing(path.as_ref(), false)
    }

    fn existing(path: &Path, writable: bool) -> io::Result<RealDisk> {
        let path = path.canonicalize()?;
        let dir = fs::File::open(&path)?;
        if !dir.metadata()?.is_dir() {
            let why = format!("{} is not a directory", path.display());
            return Err(io::Error::new(io::ErrorKind::NotADirectory, why));
        }
        let warnings = filesystem::check(&dir, &path)?;
        Ok(RealDisk {
            path,
            dir,
            warnings,
            writable,
        })
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the user should know about this file system: it forgets, or its fsync may not reach a disk.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Takes the exclusive lock (`flock`) on the file `LOCK` without waiting, and writes into it who holds it.
    pub fn try_lock(&self) -> Result<LockGuard, LockError> {
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path.join(LOCK))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                return Err(LockError::Held(Holder::parse(&text)));
            }
            Err(e) => return Err(LockError::Io(e.into())),
        }
        file.set_len(0)?;
        file.write_all(Holder::this_process().text().as_bytes())?;
        Ok(LockGuard { file })
    }

    /// Takes the lock for reading without waiting: together with other readers, and never with an owner. `None` where no
    /// owner has ever been, as in a copy without the file `LOCK`. Changes nothing.
    pub fn try_lock_shared(&self) -> Result<Option<LockGuard>, LockError> {
        let mut file = match fs::File::open(self.path.join(LOCK)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(LockGuard { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                Err(LockError::Held(Holder::parse(&text)))
            }
            Err(e) => Err(LockError::Io(e.into())),
        }
    }
}

/// Makes the directory, durably.
fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    match path.canonicalize()?.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// The exclusive right to a directory. Ends with the value or with the process.
#[derive(Debug)]
pub struct LockGuard {
    file: fs::File,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // Only so that nobody reads an old name. Who only reads cannot.
        let _ = self.file.set_len(0);
        // Closing the file would not do: a child process that this one starts at the moment has it open too, until it becomes
        // another program.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Who holds the lock of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id; 0 when it has not written it yet.
    pub pid: u32,
    /// The file name of its program.
    pub program: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since: u64,
}

impl Holder {
    fn this_process() -> Holder {
        let program = std::env::current_exe()
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Holder {
            pid: std::process::id(),
            program: program.unwrap_or_else(|| "unknown".into()),
            since: since.map_or(0, |since| since.as_millis() as u64),
        }
    }

    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.pid, self.since, self.program)
    }

    fn parse(text: &str) -> Holder {
        let mut lines = text.lines();
        let mut number = || {
            lines
                .next()
                .and_then(|line| line.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let (pid, since) = (number() as u32, number());
        Holder {
            pid,
            since,
            program: lines.next().unwrap_or("unknown").to_owned(),
        }
    }
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has the directory open.
    #[error("the data directory is in use by {} (pid {})", .0.program, .0.pid)]
    Held(Holder),
    /// The lock file could not be opened, locked or written.
    #[error("cannot lock the data directory: {0}")]
    Io(#[from] io::Error),
}

impl Disk for RealDisk {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>> {
        if how == Open::CreateNew {
            self.check_writable()?;
        }
        let file = fs::OpenOptions::new()
            .read(true)
            .write(self.writable)
            .create_new(how == Open::CreateNew)
            .mode(0o600)
            .open(self.path.join(name))?;
        Ok(Arc::new(RealFile { file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn used_bytes(&self) -> io::Result<u64> {
        let mut blocks = 0;
        for entry in fs::read_dir(&self.path)? {
            match entry?.metadata() {
                Ok(file) if file.is_file() => blocks += file.blocks(),
                Ok(_) => {}
                // It was removed since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(blocks * BLOCK)
    }
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
}

impl RealFile {
    fn pwritev(&self, parts: &[IoSlice<'_>], pos: u64) -> io::Result<usize> {
        loop {
            match rustix::io::pwritev(&self.file, parts, pos) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) if parts.iter().any(|part| !part.is_empty()) => {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                other => return Ok(other?),
            }
        }
    }

    /// Writes what a short write has left of `parts`.
    fn write_rest(&self, parts: &[IoSlice<'_>], mut done: usize, mut pos: u64) -> io::Result<()> {
        for part in parts {
            let skip = done.min(part.len());
            done -= skip;
            self.file.write_all_at(&part[skip..], pos)?;
            pos += (part.len() - skip) as u64;
        }
        Ok(())
    }
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buf, pos) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], mut pos: u64) -> io::Result<()> {
        for some in parts.chunks(PARTS) {
            let total: usize = some.iter().map(|part| part.len()).sum();
            let written = self.pwritev(some, pos)?;
            if written < total {
                self.write_rest(some, written, pos + written as u64)?;
            }
            pos += total as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let have = self.len()?;
        if len <= have {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), have, len - have) {
            // A file system without it: what is written has its space too.
            Err(rustix::io::Errno::OPNOTSUPP) => self.zero(have..len),
            other => Ok(other?),
        }
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let zeros = vec![0; ZEROS];
        let mut pos = range.start;
        while pos < range.end {
            let n = (range.end - pos).min(ZEROS as u64);
            self.file.write_all_at(&zeros[..n as usize], pos)?;
            // Linux begins to write out what is dirty. Only advice: where it is not taken, the next sync has more to do.
            #[cfg(target_os = "linux")]
            let _ = fadvise(&self.file, pos, NonZeroU64::new(n), Advice::DontNeed);
            pos += n;
        }
        Ok(())
    }
}
