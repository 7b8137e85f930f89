//! The file `IDENTITY`: a number that every file of a data directory bears, so that files do not mix, and the number of
//! the copy: 0 where the directory was made, random in each one that was restored from a backup. Copies are told apart by
//! it, while their files bear the identity that they were written with.
//!
//! Layout, version 1 (little endian): `"STRAITID" | version u32 | crc u32 = crc32c of [16..48] | identity u128 | copy u128`.

use std::io::{self, IoSlice};

use super::crc::crc32c;
use super::error::OpenError;
use super::io::{Disk, Open, read_exact_at};
use super::segment::{le_u32, le_u128, segment_id};

/// The file's name.
pub const IDENTITY: &str = "IDENTITY";
const TMP: &str = "IDENTITY.tmp";
const MAGIC: &[u8; 8] = b"STRAITID";
const VERSION: u32 = 1;
const LEN: usize = 48;

/// Reads the identity of the directory, or makes `fresh` (random) its identity when it holds no log yet.
///
/// # Errors
/// `Missing` when there is a log without an `IDENTITY`; `Corrupt` or `Version` when the file is not valid.
pub fn load_or_create(disk: &dyn Disk, fresh: u128) -> Result<u128, OpenError> {
    if let Some(identity) = load(disk)? {
        return Ok(identity);
    }
    let names = disk.list();
    let names = names.map_err(|e| OpenError::io("list", "the data directory", e))?;
    if let Some(segment) = names.iter().find(|name| segment_id(name).is_some()) {
        return Err(OpenError::Missing {
            file: IDENTITY.into(),
            why: format!(
                "there is a log ({segment}); copy {IDENTITY} back from where the log came"
            ),
        });
    }
    if names.iter().any(|name| name == TMP) {
        let removed = disk.remove(TMP);
        removed.map_err(|e| OpenError::io("remove", TMP, e))?;
    }
    write(disk, fresh, 0).map_err(|e| OpenError::io("make", IDENTITY, e))?;
    Ok(fresh)
}

/// Reads the identity of the directory; `None` without the file.
pub fn load(disk: &dyn Disk) -> Result<Option<u128>, OpenError> {
    load_both(disk).map(|both| both.map(|(identity, _)| identity))
}

/// Reads the number of the copy; 0 for an original, and without the file.
pub fn load_copy(disk: &dyn Disk) -> Result<u128, OpenError> {
    load_both(disk).map(|both| both.map_or(0, |(_, copy)| copy))
}

fn load_both(disk: &dyn Disk) -> Result<Option<(u128, u128)>, OpenError> {
    let failed = |e| OpenError::io("read", IDENTITY, e);
    let file = match disk.open(IDENTITY, Open::Existing) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mut bytes = [0; LEN];
    let whole = match read_exact_at(&*file, &mut bytes, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => false,
        other => other.map(|()| true).map_err(failed)?,
    };
    let version = le_u32(&bytes, 8);
    if whole && bytes.starts_with(MAGIC) && version != VERSION {
        return Err(OpenError::Version {
            file: IDENTITY.into(),
            found: version,
            supported: VERSION,
        });
    }
    if !whole || !bytes.starts_with(MAGIC) || le_u32(&bytes, 12) != crc32c(&bytes[16..]) {
        return Err(OpenError::Corrupt {
            file: IDENTITY.into(),
            offset: 0,
            seq: 0,
            why: "it is not a whole identity file".into(),
        });
    }
    Ok(Some((le_u128(&bytes, 16), le_u128(&bytes, 32))))
}

/// Writes the file, durably; there must be none.
pub(crate) fn write(disk: &dyn Disk, identity: u128, copy: u128) -> io::Result<()> {
    let mut bytes = [0; LEN];
    bytes[0..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&identity.to_le_bytes());
    bytes[32..48].copy_from_slice(&copy.to_le_bytes());
    let crc = crc32c(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let file = disk.open(TMP, Open::CreateNew)?;
    file.write_all_at(&[IoSlice::new(&bytes)], 0)?;
    file.sync_data()?;
    disk.rename(TMP, IDENTITY)?;
    disk.sync_dir()
}
