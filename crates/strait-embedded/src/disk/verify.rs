//! Checks every byte that counts, without changing anything.

use super::error::OpenError;
use super::io::Disk;
use super::recover::TornTail;

/// What [`verify`] found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Segments that were read.
    pub segments: u64,
    /// Whole groups.
    pub groups: u64,
    /// Snapshots that were read.
    pub snapshots: u64,
    /// A tail that never became durable: no damage, the next opening cuts it.
    pub torn: Option<TornTail>,
    /// Damage: each names file and place.
    pub faults: Vec<OpenError>,
}

/// Reads the whole directory and reports all faults, not only the first one.
///
/// # Errors
/// Only what keeps it from reading at all.
pub fn verify(disk: &dyn Disk) -> Result<VerifyReport, OpenError> {
    let _ = disk;
    unimplemented!()
}
