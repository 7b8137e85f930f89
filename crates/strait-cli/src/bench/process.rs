//! What the process holds and writes, and what a directory takes.

use std::path::Path;

use strait::core::{Error, Kind, Result};

use super::memory::resident;

/// The process at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    /// Bytes in memory.
    pub(super) resident: u64,
    /// Bytes that it has had written to disks.
    pub(super) written: u64,
}

impl Process {
    pub(super) fn now() -> Result<Process> {
        let io = std::fs::read_to_string("/proc/self/io");
        let io = io.map_err(|error| Error::io("/proc/self/io", error))?;
        let written = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "));
        let written = written.and_then(|bytes| bytes.parse().ok());
        let unknown = || {
            Error::new(
                Kind::Unsupported,
                "the system does not say what a process holds and writes",
            )
        };
        Ok(Process {
            resident: resident().ok_or_else(unknown)?.0,
            written: written.ok_or_else(unknown)?,
        })
    }
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
