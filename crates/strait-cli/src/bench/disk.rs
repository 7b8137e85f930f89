//! What a directory takes, and what its disk was given to write.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{major, minor};
use strait::core::{Error, Result};

/// The unit of the kernel's block statistics.
const SECTOR: u64 = 512;

/// Bytes written so far to the block device of the directory's file system, by whomever; `None` where it has none of its own, or
/// the system does not say. What a process writes does not tell: the kernel counts a large page of its cache whole each time.
pub(super) fn device_written(dir: &Path) -> Option<u64> {
    let device = dir.metadata().ok()?.dev();
    let stat = format!("/sys/dev/block/{}:{}/stat", major(device), minor(device));
    let stat = std::fs::read_to_string(stat).ok()?;
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * SECTOR)
}

/// The lengths of all files of a directory.
pub(super) fn directory_bytes(dir: &Path) -> Result<u64> {
    let failed = |error| Error::io(dir.display(), error);
    let mut bytes = 0;
    for file in std::fs::read_dir(dir).map_err(failed)? {
        // A file that is gone meanwhile takes nothing.
        bytes += file.and_then(|file| file.metadata()).map_or(0, |m| m.len());
    }
    Ok(bytes)
}
