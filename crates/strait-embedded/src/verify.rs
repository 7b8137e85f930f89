//! Checking a data directory.

use std::path::Path;

use strait_core::{Batch, Error, Kind, Result};

use crate::disk::cleaned;
use crate::disk::verify::identity_of;
use crate::disk::{self, Disk, Open, OpenError, RealDisk};
use crate::index;
use crate::inspect::kind_of;
use crate::open::{io_error, lock_error};

/// What [`verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments of the log that were read.
    pub segments: u64,
    /// Whole commit groups in them.
    pub groups: u64,
    /// Checkpoints that were read.
    pub checkpoints: u64,
    /// Indexes of segments that were read.
    pub indexes: u64,
    /// Cleaned segments that were read.
    pub cleaned: u64,
    /// An unfinished write at the end of the log, as a power cut leaves it: no damage, nothing that was acknowledged is in
    /// it, and the next opening cuts it.
    pub torn: Option<Damage>,
    /// All damage that was found, not only the first.
    pub damage: Vec<Damage>,
}

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file in the directory, where it is about one.
    pub file: Option<String>,
    /// The byte in the file, where it is known.
    pub offset: Option<u64>,
    /// What is wrong, in words, with file and place.
    pub what: String,
}

/// Reads all of a data directory that nobody has open, and reports every fault. Changes nothing. Takes as long as reading
/// every file once.
///
/// # Errors
/// `Conflict` (`locked`, with the pid) while a process has the directory; `Denied`, `NotFound` and the like when it cannot
/// be read at all. Damage is no error: it is in the report.
///
/// ```
/// use strait_embedded::{Embedded, Options, verify};
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("data");
/// drop(Embedded::open(&dir, Options::default())?);
/// let report = verify(&dir)?;
/// assert!(report.damage.is_empty());
/// # Ok::<(), strait_core::Error>(())
/// ```
pub fn verify(dir: impl AsRef<Path>) -> Result<Report> {
    let dir = dir.as_ref();
    let disk = RealDisk::open_read_only(dir).map_err(|error| io_error(dir, error))?;
    let _lock = disk
        .try_lock_shared()
        .map_err(|error| lock_error(dir, error).next("stop that process, then verify again"))?;
    let failed = |error: OpenError| {
        let text = format!("{} cannot be read: {error}", dir.display());
        Error::new(Kind::Unexpected, text).caused_by(error)
    };
    let listed = |error| failed(OpenError::io("list", "the data directory", error));
    if !disk
        .list()
        .map_err(listed)?
        .iter()
        .any(|name| is_ours(name))
    {
        let text = format!(
            "{} is no data directory: there is no log in it",
            dir.display()
        );
        return Err(Error::new(Kind::NotFound, text).next("name a data directory of strait"));
    }
    let found = disk::verify(&disk).map_err(failed)?;
    let mut report = Report {
        segments: found.segments,
        groups: found.groups,
        checkpoints: found.snapshots,
        indexes: 0,
        cleaned: 0,
        torn: found.torn.map(|torn| Damage {
            what: format!("{} bytes at the end never became durable", torn.bytes),
            file: Some(torn.file),
            offset: Some(torn.offset),
        }),
        damage: found.faults.into_iter().map(Damage::from).collect(),
    };
    if let Some(identity) = identity_of(&disk, &mut Vec::new()).map_err(failed)? {
        check_indexes(&disk, identity, &mut report).map_err(listed)?;
        for id in cleaned::list(&disk).map_err(listed)? {
            report.cleaned += 1;
            if let Err(damage) = check_cleaned(&disk, identity, id) {
                report.damage.push(damage);
            }
        }
    }
    Ok(report)
}

/// Whether a file shows that its directory is one of strait's.
fn is_ours(name: &str) -> bool {
    matches!(
        kind_of(name),
        "identity" | "manifest" | "segment" | "checkpoint"
    )
}

fn check_indexes(disk: &dyn Disk, identity: u128, report: &mut Report) -> std::io::Result<()> {
    for name in disk.list()? {
        let Some(segment) = index::segment_of(&name) else {
            continue;
        };
        report.indexes += 1;
        if let Err(error) = index::read(disk, identity, segment) {
            report.damage.push(Damage {
                file: Some(name),
                offset: None,
                what: error.to_string(),
            });
        }
    }
    Ok(())
}

/// Reads a cleaned segment whole: header, index and every batch.
fn check_cleaned(disk: &dyn Disk, identity: u128, id: u64) -> std::result::Result<(), Damage> {
    let len = cleaned::read_header(disk, id, identity)?;
    // A damaged index was reported already.
    let Ok(index) = index::read(disk, identity, id) else {
        return Ok(());
    };
    let name = cleaned::cleaned_name(id);
    let damaged = |offset: u64, why: String| Damage {
        what: format!("{name} is damaged at byte {offset}: {why}"),
        file: Some(name.clone()),
        offset: Some(offset),
    };
    let file = disk.open(&name, Open::Existing);
    let file = file.map_err(|error| damaged(0, error.to_string()))?;
    let mut covered = cleaned::CLEANED_HEAD;
    for extent in index.values().flat_map(|extents| extents.iter()) {
        let at = u64::from(extent.pos);
        let mut bytes = vec![0; extent.len as usize];
        disk::io::read_exact_at(&*file, &mut bytes, at)
            .map_err(|error| damaged(at, error.to_string()))?;
        match Batch::check(&bytes) {
            Ok(batch) if batch.len() == extent.count as usize => {}
            Ok(_) => return Err(damaged(at, "the batch has another count".to_owned())),
            Err(error) => return Err(damaged(at, error.to_string())),
        }
        covered += u64::from(extent.pos - extent.op) + u64::from(extent.len);
    }
    if covered == len {
        Ok(())
    } else {
        Err(damaged(
            len,
            format!("its index knows {covered} of {len} bytes"),
        ))
    }
}

impl From<OpenError> for Damage {
    fn from(fault: OpenError) -> Damage {
        let what = fault.to_string();
        let (file, offset) = match fault {
            OpenError::Corrupt { file, offset, .. } => (Some(file), Some(offset)),
            OpenError::Io { file, .. }
            | OpenError::Version { file, .. }
            | OpenError::Identity { file, .. }
            | OpenError::Foreign { file }
            | OpenError::Missing { file, .. }
            | OpenError::Full { file, .. } => (Some(file), None),
            OpenError::Apply { .. } => (None, None),
        };
        Damage { file, offset, what }
    }
}
