//! Segment files: their names and their header.
//!
//! # Header, version 1 (little endian; the first 4096 bytes of the file, the rest of them zero)
//!
//! ```text
//! "STRAITSG" | version u32 | crc u32 = crc32c of [16..56] | id u64 | salt u64 | length of the file u64 | identity u128
//! ```
//!
//! A header is durable before the file bears a segment's name, and it is never changed under that name. So a named
//! segment whose header is not valid is damage, never a leftover of a crash.

use std::io::{self, IoSlice};

use super::crc::crc32c;
use super::error::OpenError;
use super::io::{File, read_exact_at};

/// Length of the header; the first group starts here.
pub const SEGMENT_HEAD: u64 = 4096;
/// The version that this build reads and writes.
pub const SEGMENT_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"STRAITSG";
const USED: usize = 56;

/// The file name of segment `id`.
pub fn segment_name(id: u64) -> String {
    format!("log-{id:016x}.seg")
}

/// The id in a segment's file name; `None` for any other name.
pub fn segment_id(name: &str) -> Option<u64> {
    let hex = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    let id = u64::from_str_radix(hex, 16).ok()?;
    (segment_name(id) == name).then_some(id)
}

/// What stands in the header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Grows with every segment of a directory and is never used twice.
    pub id: u64,
    /// Random, new for every use of a file: groups of an earlier use of the file never verify.
    pub salt: u64,
    /// Length of the file in bytes.
    pub len: u64,
    /// The data directory that it belongs to.
    pub identity: u128,
}

impl SegmentHeader {
    fn encode(&self) -> [u8; USED] {
        let mut bytes = [0; USED];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.len.to_le_bytes());
        bytes[40..56].copy_from_slice(&self.identity.to_le_bytes());
        let crc = crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Writes the header and makes the file durable.
    pub(crate) fn write(&self, file: &dyn File) -> io::Result<()> {
        let mut page = [0; SEGMENT_HEAD as usize];
        page[..USED].copy_from_slice(&self.encode());
        file.write_all_at(&[IoSlice::new(&page)], 0)?;
        file.sync_data()
    }

    /// Reads and checks the header of the file `name`, which is segment `id`.
    pub(crate) fn read(file: &dyn File, id: u64) -> Result<SegmentHeader, OpenError> {
        let name = segment_name(id);
        let damaged = |why: String| OpenError::Corrupt {
            file: name.clone(),
            offset: 0,
            seq: 0,
            why,
        };
        let mut bytes = [0; USED];
        match read_exact_at(file, &mut bytes, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(damaged("the file ends within its header".into()));
            }
            other => other.map_err(|e| OpenError::io("read", name.clone(), e))?,
        }
        if &bytes[0..8] != MAGIC {
            return Err(damaged("no segment header".into()));
        }
        let version = le_u32(&bytes, 8);
        if version != SEGMENT_VERSION {
            return Err(OpenError::Version {
                file: name,
                found: version,
                supported: SEGMENT_VERSION,
            });
        }
        if le_u32(&bytes, 12) != crc32c(&bytes[16..]) {
            return Err(damaged("the checksum of the header does not match".into()));
        }
        let header = SegmentHeader {
            id: le_u64(&bytes, 16),
            salt: le_u64(&bytes, 24),
            len: le_u64(&bytes, 32),
            identity: le_u128(&bytes, 40),
        };
        let len = file
            .len()
            .map_err(|e| OpenError::io("measure", name.clone(), e))?;
        if header.id != id {
            return Err(damaged(format!(
                "its header is that of {}",
                segment_name(header.id)
            )));
        }
        if header.len != len {
            return Err(damaged(format!(
                "it has {len} bytes instead of {}",
                header.len
            )));
        }
        Ok(header)
    }
}

/// The little-endian u32 at `at`; the caller has checked the length.
pub(crate) fn le_u32(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

/// The little-endian u64 at `at`; the caller has checked the length.
pub(crate) fn le_u64(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

/// The little-endian u128 at `at`; the caller has checked the length.
pub(crate) fn le_u128(bytes: &[u8], at: usize) -> u128 {
    let mut value = [0; 16];
    value.copy_from_slice(&bytes[at..at + 16]);
    u128::from_le_bytes(value)
}
