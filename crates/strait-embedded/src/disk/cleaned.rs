//! Cleaned segments: what the cleaner copied out of others. Each is written once, beside the log, never changed, and
//! removed as a whole.
//!
//! # Layout, version 1 (little endian)
//!
//! ```text
//! header  "STRAITCL" | version u32 | crc u32 = crc32c of [16..48] | id u64 | length of the file u64 | identity u128
//! then    entries, as the engine lays them out; each has its own checksums
//! ```
//!
//! The header is written last, and the file gets its name when all of it is durable. Ids have their highest bit set, so
//! that they never meet those of the log, and the seven bits below it say which class of content it holds.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::crc::crc32c;
use super::error::OpenError;
use super::io::{Disk, File, Open, read_exact_at};
use super::segment::{le_u32, le_u64, le_u128, segment_name};

/// Length of the header; the first entry starts here.
pub const CLEANED_HEAD: u64 = 48;
/// The version that this build reads and writes.
pub const CLEANED_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"STRAITCL";
const BIT: u64 = 1 << 63;
const CLASS_SHIFT: u32 = 56;
/// Bytes gathered before a write.
const BUFFER: usize = 1 << 20;

/// The id of a cleaned segment of a class (below 128).
pub fn cleaned_id(class: u8, number: u64) -> u64 {
    BIT | u64::from(class & 0x7f) << CLASS_SHIFT | number & ((1 << CLASS_SHIFT) - 1)
}

/// True for the ids of cleaned segments.
pub fn is_cleaned(id: u64) -> bool {
    id & BIT != 0
}

/// What [`cleaned_id`] made it of: class and number.
pub fn parts_of(id: u64) -> (u8, u64) {
    let class = (id >> CLASS_SHIFT) as u8 & 0x7f;
    (class, id & ((1 << CLASS_SHIFT) - 1))
}

/// The file name of a cleaned segment.
pub fn cleaned_name(id: u64) -> String {
    format!("clean-{id:016x}.seg")
}

/// The id in a cleaned segment's file name; `None` for any other name.
pub fn cleaned_id_of(name: &str) -> Option<u64> {
    let hex = name.strip_prefix("clean-")?.strip_suffix(".seg")?;
    let id = u64::from_str_radix(hex, 16).ok()?;
    (is_cleaned(id) && cleaned_name(id) == name).then_some(id)
}

/// The file name of any segment, of the log or cleaned.
pub fn file_name(id: u64) -> String {
    if is_cleaned(id) {
        cleaned_name(id)
    } else {
        segment_name(id)
    }
}

/// The ids of all cleaned segments, in order.
pub(crate) fn list(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let names = disk.list()?;
    let mut ids: Vec<u64> = names.iter().filter_map(|n| cleaned_id_of(n)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Reads and checks the header of a cleaned segment; gives the length of its file.
pub(crate) fn read_header(disk: &dyn Disk, id: u64, identity: u128) -> Result<u64, OpenError> {
    let name = cleaned_name(id);
    let failed = |e| OpenError::io("read", name.clone(), e);
    let damaged = |why: String| OpenError::Corrupt {
        file: name.clone(),
        offset: 0,
        seq: 0,
        why,
    };
    let file = disk.open(&name, Open::Existing).map_err(failed)?;
    let mut bytes = [0; CLEANED_HEAD as usize];
    match read_exact_at(&*file, &mut bytes, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(damaged("the file ends within its header".into()));
        }
        other => other.map_err(failed)?,
    }
    if !bytes.starts_with(MAGIC) {
        return Err(damaged("no header of a cleaned segment".into()));
    }
    let version = le_u32(&bytes, 8);
    if version != CLEANED_VERSION {
        return Err(OpenError::Version {
            file: name,
            found: version,
            supported: CLEANED_VERSION,
        });
    }
    if le_u32(&bytes, 12) != crc32c(&bytes[16..]) || le_u64(&bytes, 16) != id {
        return Err(damaged("its header is not its own, or damaged".into()));
    }
    let found = le_u128(&bytes, 32);
    if found != identity {
        return Err(OpenError::Identity {
            file: name,
            found,
            expected: identity,
        });
    }
    let (says, len) = (le_u64(&bytes, 24), file.len().map_err(failed)?);
    if says != len {
        return Err(damaged(format!("it has {len} bytes instead of {says}")));
    }
    Ok(len)
}

/// Writes one cleaned segment. Dropped without [`finish`](Self::finish) it leaves nothing.
#[derive(Debug)]
pub(crate) struct CleanedWriter {
    disk: Arc<dyn Disk>,
    file: Arc<dyn File>,
    identity: u128,
    id: u64,
    buffer: Vec<u8>,
    /// What is written and durable.
    offset: u64,
    finished: bool,
}

impl CleanedWriter {
    pub(crate) fn begin(disk: Arc<dyn Disk>, identity: u128, id: u64) -> io::Result<CleanedWriter> {
        let tmp = tmp_name(id);
        match disk.remove(&tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = disk.open(&tmp, Open::CreateNew)?;
        Ok(CleanedWriter {
            disk,
            file,
            identity,
            id,
            buffer: Vec::with_capacity(BUFFER),
            offset: CLEANED_HEAD,
            finished: false,
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Where the next byte goes in the file.
    pub(crate) fn len(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Adds bytes. What is gathered is written and synced in steps, so that an fsync of the log waits for one at most.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Space first: a full disk is reported here, and not as a failed write.
        self.file.allocate(self.len())?;
        let parts = [IoSlice::new(&self.buffer)];
        self.file.write_all_at(&parts, self.offset)?;
        self.file.sync_data()?;
        self.offset = self.len();
        self.buffer.clear();
        Ok(())
    }

    /// Makes it durable under its name; gives its length.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        let mut head = [0; CLEANED_HEAD as usize];
        head[0..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&CLEANED_VERSION.to_le_bytes());
        head[16..24].copy_from_slice(&self.id.to_le_bytes());
        head[24..32].copy_from_slice(&self.offset.to_le_bytes());
        head[32..48].copy_from_slice(&self.identity.to_le_bytes());
        let crc = crc32c(&head[16..]);
        head[12..16].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&[IoSlice::new(&head)], 0)?;
        self.file.sync_data()?;
        self.disk
            .rename(&tmp_name(self.id), &cleaned_name(self.id))?;
        self.finished = true;
        self.disk.sync_dir()?;
        Ok(self.offset)
    }
}

impl Drop for CleanedWriter {
    fn drop(&mut self) {
        if !self.finished {
            // When this fails, the next opening removes it.
            let _ = self.disk.remove(&tmp_name(self.id));
        }
    }
}

fn tmp_name(id: u64) -> String {
    format!("clean-{id:016x}.tmp")
}
