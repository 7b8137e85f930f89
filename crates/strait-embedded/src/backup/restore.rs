//! Making a data directory of a backup.

use std::io::{self, IoSlice};
use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest};
use rustix::fs::Access;
use strait_core::{Error, Result, Timestamp};

use super::manifest::{Entry, Manifest, bad};
use super::{MANIFEST, STEP, failed, refuse_used, remove_all};
use crate::disk::{Disk, Open, RealDisk, identity};
use crate::open::{io_error, random};

/// What [`restore`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The last sequence that is in it.
    pub sequence: u64,
    /// When the backup was taken.
    pub taken: Timestamp,
    /// Its files and their bytes.
    pub files: u64,
    /// Length of all of them.
    pub bytes: u64,
}

/// Makes a data directory `dir` of the backup `backup`, every byte checked against its manifest. With `dry_run` it only
/// checks, and writes nothing. Each restored directory is a copy of its own: engines opened on two of them have different
/// ids, and neither is taken for the original.
///
/// # Errors
/// `Corrupt` (`bad_backup`) when the backup lacks something or has changed; `Conflict` when `dir` is not empty; `Config`
/// (`unknown_format`) for the backup of another version; `Busy` (`disk_full`) without room. After an error nothing is left
/// in `dir`.
///
/// ```
/// use strait_core::Engine;
/// use strait_embedded::{Embedded, Options, restore};
/// # let dir = tempfile::tempdir().unwrap();
/// # let (data, backup, copy) = (dir.path().join("data"), dir.path().join("backup"), dir.path().join("copy"));
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let engine = Embedded::open(&data, Options::default())?;
/// engine.backup(backup.clone()).await?;
/// restore(&backup, &copy, false)?;
/// let other = Embedded::open(&copy, Options::default())?;
/// assert_ne!(engine.id(), other.id());
/// # Ok::<(), strait_core::Error>(())
/// # }).unwrap();
/// ```
pub fn restore(backup: impl AsRef<Path>, dir: impl AsRef<Path>, dry_run: bool) -> Result<Restored> {
    let (backup, dir) = (backup.as_ref(), dir.as_ref());
    let from = RealDisk::open_read_only(backup).map_err(|error| io_error(backup, error))?;
    // Before a directory is made for what is no backup.
    let restored = read_manifest(&from).and_then(|manifest| {
        if dry_run {
            check_place(dir)?;
            return restore_files(&from, None, &manifest);
        }
        let to = RealDisk::open(dir).map_err(|error| io_error(dir, error))?;
        restore_files(&from, Some(&to), &manifest)
    });
    restored.map_err(|error| {
        error
            .with("backup", backup.display())
            .with("directory", dir.display())
    })
}

/// Restores from one disk to another; without the other it only checks.
pub(crate) fn restore_from(from: &dyn Disk, to: Option<&dyn Disk>) -> Result<Restored> {
    restore_files(from, to, &read_manifest(from)?)
}

/// Refuses what is no place for a new directory, without making one.
fn check_place(dir: &Path) -> Result<()> {
    match RealDisk::open_read_only(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => {
            let to = found.map_err(|error| io_error(dir, error))?;
            refuse_used(&to, "a backup")?;
        }
    }
    let path = std::path::absolute(dir).map_err(|error| io_error(dir, error))?;
    let Some(there) = path.ancestors().find(|there| there.exists()) else {
        return Ok(());
    };
    rustix::fs::access(there, Access::WRITE_OK).map_err(|error| io_error(dir, error.into()))
}

fn restore_files(from: &dyn Disk, to: Option<&dyn Disk>, manifest: &Manifest) -> Result<Restored> {
    if let Some(to) = to {
        refuse_used(to, "a backup")?;
    }
    let done = manifest
        .files
        .iter()
        .try_for_each(|entry| copy(from, to, entry))
        .and_then(|()| to.map_or(Ok(()), |to| finish(to, manifest)));
    if let (Err(_), Some(to)) = (&done, to) {
        remove_all(to);
    }
    done?;
    Ok(Restored {
        sequence: manifest.sequence,
        taken: Timestamp::from_millis(manifest.taken),
        files: manifest.files.len() as u64,
        bytes: manifest.files.iter().map(|file| file.len).sum(),
    })
}

fn read_manifest(from: &dyn Disk) -> Result<Manifest> {
    let file = match from.open(MANIFEST, Open::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(bad(format!(
                "it has no file {MANIFEST}, which is written last: it is no backup, or was not finished"
            )));
        }
        other => other.map_err(unreadable)?,
    };
    let mut bytes = vec![0; file.len().map_err(unreadable)? as usize];
    crate::disk::io::read_exact_at(&*file, &mut bytes, 0).map_err(unreadable)?;
    let text = String::from_utf8(bytes);
    Manifest::parse(&text.map_err(|_| bad(format!("its file {MANIFEST} is damaged")))?)
}

fn unreadable(error: io::Error) -> Error {
    Error::io("the backup cannot be read", error)
}

/// Copies a file, or only reads it, and holds it against the manifest. The identity is written anew.
fn copy(from: &dyn Disk, to: Option<&dyn Disk>, entry: &Entry) -> Result<()> {
    let Entry { name, len, crc } = entry;
    let file = match from.open(name, Open::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(bad(format!("{name} is missing")));
        }
        other => other.map_err(unreadable)?,
    };
    let found = file.len().map_err(unreadable)?;
    if found != *len {
        return Err(bad(format!("{name} has {found} bytes instead of {len}")));
    }
    let to = to.filter(|_| name != identity::IDENTITY);
    let target = to.map(|to| to.open(name, Open::CreateNew));
    let target = target.transpose().map_err(failed)?;
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut buf = vec![0; STEP];
    let mut at = 0;
    while at < *len {
        let part = &mut buf[..(len - at).min(STEP as u64) as usize];
        crate::disk::io::read_exact_at(&*file, part, at).map_err(unreadable)?;
        digest.update(part);
        if let Some(target) = &target {
            let end = at + part.len() as u64;
            target
                .allocate(end)
                .and_then(|()| target.write_all_at(&[IoSlice::new(part)], at))
                .map_err(failed)?;
        }
        at += part.len() as u64;
    }
    if digest.finalize() as u32 != *crc {
        return Err(bad(format!("{name} has changed since it was written")));
    }
    let synced = target.map_or(Ok(()), |target| target.sync_data());
    synced.map_err(failed)
}

/// The identity comes last: without it the directory is not opened.
fn finish(to: &dyn Disk, manifest: &Manifest) -> Result<()> {
    let copy = u128::from(random()) << 64 | u128::from(random());
    to.sync_dir()
        .and_then(|()| identity::write(to, manifest.identity, copy.max(1)))
        .map_err(failed)
}
