//! The disk layer: bytes only, it knows no lane.
//!
//! [`io`] says what a disk is, [`real`] and [`sim`] are two of them. [`log`] is the commit log: groups of records
//! ([`group`]) in segment files ([`segment`]) that a [`pool`] prepares ahead and recycles. [`recover`] opens a log and
//! decides between a torn tail and corruption; [`cleaned`] are the segments that a cleaner made out of others;
//! [`verify`](mod@verify) reads a directory without changing it; [`snapshot`] is the
//! container of checkpoints.
//!
//! Public only so that the simulation tests reach it; not part of the crate's promise.

pub mod cleaned;
pub mod crc;
mod directory;
mod error;
pub mod group;
pub mod identity;
pub mod io;
pub mod log;
pub mod pool;
pub mod real;
pub mod recover;
pub mod rng;
mod scan;
pub mod segment;
pub mod sim;
pub mod snapshot;
pub mod verify;

pub use error::{LogError, OpenError};
pub use group::{BadBody, GroupBuf};
pub use io::{Disk, File, Open};
pub use log::{Log, LogOptions, LogPos, Placed};
pub use pool::{Pin, Pool, SegmentFile, SegmentInfo};
pub use real::{Holder, LockGuard, RealDisk};
pub use recover::{RecoveredGroup, RecoveryReport};
pub use sim::SimDisk;
pub use snapshot::{SnapshotReader, SnapshotWriter};
pub use verify::{VerifyReport, verify};
