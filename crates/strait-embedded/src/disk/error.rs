//! What can go wrong in the log.

use std::io;
use std::sync::Arc;

/// Why a group was not written or not made durable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Space for the group could not be allocated. Nothing was written; it can be tried again when space is free.
    #[error(
        "the disk is full: {needed} bytes could not be allocated; free space, sending resumes by itself"
    )]
    Full {
        /// Bytes that were asked for.
        needed: u64,
    },
    /// A write or an fsync failed, now or earlier: what is durable is known only after reopening.
    #[error("the log is poisoned until it is reopened: {0}")]
    Poisoned(Arc<io::Error>),
    /// The group is longer than a group may be. Nothing was written.
    #[error("a group of {len} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Length of the group in bytes.
        len: u64,
        /// The most that a group may have, in bytes.
        limit: u64,
    },
}

/// Why a data directory was not opened. Nothing was lost by the refusal.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused an operation.
    #[error("cannot {what} {file}: {source}")]
    Io {
        /// What was being done, for example `read`.
        what: &'static str,
        /// The file, or `the data directory`.
        file: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Bytes that were durable have changed. Restore a backup, or copy the directory and ask for help.
    #[error("{file} is corrupt at byte {offset} (sequence {seq}): {why}")]
    Corrupt {
        /// The damaged file.
        file: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// The sequence that should be there; 0 where a file header is meant.
        seq: u64,
        /// What was found.
        why: String,
    },
    /// A file of another format version.
    #[error("{file} has format {found}, this build reads {supported}")]
    Version {
        /// The file.
        file: String,
        /// The version in it.
        found: u32,
        /// The version that this build reads and writes.
        supported: u32,
    },
    /// A file of another data directory was put into this one.
    #[error("{file} belongs to another data directory ({found:032x}, this one is {expected:032x})")]
    Identity {
        /// The file.
        file: String,
        /// The identity in it.
        found: u128,
        /// The identity of this directory.
        expected: u128,
    },
    /// A file that strait did not put there.
    #[error(
        "{file} does not belong into a strait data directory: move it away, or open another directory"
    )]
    Foreign {
        /// Its name.
        file: String,
    },
    /// A file that is needed is not there.
    #[error("{file} is missing: {why}")]
    Missing {
        /// Its name.
        file: String,
        /// What needs it.
        why: String,
    },
    /// There is no space for the first segment.
    #[error("the disk is full: {needed} bytes for {file} could not be allocated")]
    Full {
        /// The file that was to be made.
        file: String,
        /// Bytes that were asked for.
        needed: u64,
    },
    /// The engine could not apply a group that is intact.
    #[error("sequence {seq} cannot be applied: {why}")]
    Apply {
        /// The sequence of the group.
        seq: u64,
        /// The engine's reason.
        why: String,
    },
}

impl OpenError {
    /// Wraps an error of the operating system.
    pub(crate) fn io(what: &'static str, file: impl Into<String>, source: io::Error) -> OpenError {
        OpenError::Io {
            what,
            file: file.into(),
            source,
        }
    }
}
