//! What a disk is: one flat directory of files. Every part of the engine gets its disk as an argument.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

/// How [`Disk::open`] treats the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// The file must exist.
    Existing,
    /// The file must not exist and is made, empty.
    CreateNew,
}

/// One flat data directory. Names are plain file names without separators.
///
/// A change of names (create, remove, rename) survives a power loss only after [`Disk::sync_dir`].
pub trait Disk: Send + Sync + Debug {
    /// Opens `name` for reading and writing. `NotFound` or `AlreadyExists` as `how` demands.
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>>;

    /// All names in the directory, sorted. Sub-directories are listed too: they are foreign to every caller.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Removes `name`. Handles that are open stay usable.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames `from` to `to` in one step, replacing a file named `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes all changes of names so far durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes that can still be allocated.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Bytes that the files of the directory take, whoever made them.
    fn used_bytes(&self) -> io::Result<u64>;
}

/// An open file. Positions and lengths are bytes. All methods may be called from several threads at once.
pub trait File: Send + Sync + Debug {
    /// Reads at most `buf.len()` bytes at `pos`; 0 means end of file. May read less than asked.
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize>;

    /// Writes all of `parts`, one after the other, at `pos`. After an error any part of it may have been written.
    fn write_all_at(&self, parts: &[IoSlice<'_>], pos: u64) -> io::Result<()>;

    /// Makes contents and length durable. After an error nothing may be assumed about what was written before, not
    /// even after a later call that succeeds: the kernel may have dropped the dirty pages.
    fn sync_data(&self) -> io::Result<()>;

    /// The length.
    fn len(&self) -> io::Result<u64>;

    /// True for a file of length 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends to `len`; what is new reads as zeros and has no space of its own yet.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space up to `len` and extends the file to it. A full disk is reported here (`StorageFull` or
    /// `QuotaExceeded`) and not by a later write.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Writes zeros over `range`, which is within the length, and begins to write them out, so that [`File::sync_data`] has little
    /// left to wait for: they are durable after it.
    fn zero(&self, range: Range<u64>) -> io::Result<()>;
}

/// Fills all of `buf` from `pos`; `UnexpectedEof` when the file ends before.
pub fn read_exact_at(file: &dyn File, mut buf: &mut [u8], mut pos: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, pos)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                buf = &mut buf[n..];
                pos += n as u64;
            }
        }
    }
    Ok(())
}

/// True for the errors that mean "no space": they can pass without a restart.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
