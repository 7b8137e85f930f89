//! The container of checkpoints: named sections in a file `snap-<seq>`.
//!
//! # Layout, version 1 (little endian)
//!
//! ```text
//! header   "STRAITSN" | version u32 | crc u32 = crc32c of [16..64] | identity u128 | seq u64
//!          replay: segment u64 | offset u64 | seq u64
//! section  kind u16 | 0 u16 | len u32 | key u64 | stamp u64 | crc u32 = crc32c of the 24 bytes before it
//!          crc u32 = crc32c of the content | content
//! footer   a section head with kind 0xFFFF: key = count of sections, stamp = seq; nothing follows
//! ```
//!
//! A snapshot is written under a temporary name and gets its own when it is durable. The newest two are kept: when the
//! newest is damaged, the one before serves, as long as the log still has what it is replayed from ([`replay_bound`]).

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::crc::crc32c;
use super::error::OpenError;
use super::io::{Disk, File, Open, read_exact_at};
use super::log::LogPos;
use super::segment::{le_u32, le_u64, le_u128};

const MAGIC: &[u8; 8] = b"STRAITSN";
/// The version that this build reads and writes.
pub const SNAPSHOT_VERSION: u32 = 1;
/// The longest section in bytes; the reader holds one in memory.
pub const MAX_SECTION: usize = 64 << 20;
/// Snapshots that are kept.
const KEPT: usize = 2;
const HEAD: usize = 64;
const SECTION_HEAD: usize = 32;
/// The kind of the footer; sections of the engine have smaller ones.
const FOOTER: u16 = u16::MAX;
/// Bytes gathered before a write.
const BUFFER: usize = 256 << 10;

/// The file name of the snapshot of `seq`.
pub fn snapshot_name(seq: u64) -> String {
    format!("snap-{seq:016x}")
}

/// The sequence in a snapshot's file name; `None` for any other name.
pub fn snapshot_seq(name: &str) -> Option<u64> {
    let seq = u64::from_str_radix(name.strip_prefix("snap-")?, 16).ok()?;
    (snapshot_name(seq) == name).then_some(seq)
}

/// What a snapshot is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The data directory's identity.
    pub identity: u128,
    /// All sequences up to this one are in it (its sections may know more, see their stamps). It must be durable.
    pub seq: u64,
    /// Where the log is replayed from. Segments before `replay.segment` are not needed for replay.
    pub replay: LogPos,
}

impl SnapshotHead {
    fn encode(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.identity.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.seq.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.replay.segment.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.replay.offset.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.replay.seq.to_le_bytes());
        let crc = crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Writes one snapshot in steps, beside the log.
#[derive(Debug)]
pub struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    seq: u64,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    offset: u64,
    sections: u64,
    finished: bool,
}

impl SnapshotWriter {
    /// Starts the file under a temporary name.
    pub fn begin(disk: Arc<dyn Disk>, head: SnapshotHead) -> io::Result<SnapshotWriter> {
        let tmp = tmp_name(head.seq);
        match disk.remove(&tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = disk.open(&tmp, Open::CreateNew)?;
        Ok(SnapshotWriter {
            disk,
            seq: head.seq,
            file,
            buffer: head.encode().to_vec(),
            offset: 0,
            sections: 0,
            finished: false,
        })
    }

    /// Adds a section; `stamp` is the sequence that it is of.
    ///
    /// # Errors
    /// `InvalidInput` for a section over [`MAX_SECTION`] or of the kind 0xFFFF, else those of the disk: the snapshot is
    /// then given up by dropping the writer; the log is not touched.
    pub fn section(&mut self, kind: u16, key: u64, stamp: u64, bytes: &[u8]) -> io::Result<()> {
        if kind == FOOTER || bytes.len() > MAX_SECTION {
            let why = format!(
                "section {kind} of {} bytes, the limit is {MAX_SECTION}",
                bytes.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        self.sections += 1;
        self.buffer
            .extend_from_slice(&section_head(kind, key, stamp, bytes));
        if self.buffer.len() + bytes.len() > BUFFER {
            self.write(bytes)
        } else {
            self.buffer.extend_from_slice(bytes);
            Ok(())
        }
    }

    /// Makes it durable under its name, then removes all snapshots but the newest two. Dropping without it removes the
    /// temporary file.
    pub fn finish(mut self) -> io::Result<()> {
        let footer = section_head(FOOTER, self.sections, self.seq, &[]);
        self.write(&footer)?;
        self.file.sync_data()?;
        self.disk
            .rename(&tmp_name(self.seq), &snapshot_name(self.seq))?;
        self.finished = true;
        self.disk.sync_dir()?;
        let seqs = snapshots(&*self.disk)?;
        for seq in &seqs[..seqs.len().saturating_sub(KEPT)] {
            self.disk.remove(&snapshot_name(*seq))?;
        }
        Ok(())
    }

    /// Writes what is gathered, and `more` behind it.
    fn write(&mut self, more: &[u8]) -> io::Result<()> {
        let parts = [IoSlice::new(&self.buffer), IoSlice::new(more)];
        self.file.write_all_at(&parts, self.offset)?;
        self.offset += (self.buffer.len() + more.len()) as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            // When this fails, the next opening removes it.
            let _ = self.disk.remove(&tmp_name(self.seq));
        }
    }
}

fn tmp_name(seq: u64) -> String {
    format!("{}.tmp", snapshot_name(seq))
}

fn section_head(kind: u16, key: u64, stamp: u64, content: &[u8]) -> [u8; SECTION_HEAD] {
    let mut bytes = [0; SECTION_HEAD];
    bytes[0..2].copy_from_slice(&kind.to_le_bytes());
    bytes[4..8].copy_from_slice(&(content.len() as u32).to_le_bytes());
    bytes[8..16].copy_from_slice(&key.to_le_bytes());
    bytes[16..24].copy_from_slice(&stamp.to_le_bytes());
    let crc = crc32c(&bytes[..24]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes[28..32].copy_from_slice(&crc32c(content).to_le_bytes());
    bytes
}

/// The sequences of all snapshots, oldest first.
pub fn snapshots(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let names = disk.list()?;
    let mut seqs: Vec<u64> = names.iter().filter_map(|name| snapshot_seq(name)).collect();
    seqs.sort_unstable();
    Ok(seqs)
}

/// The length of the newest snapshot's file in bytes; 0 without one.
pub(crate) fn newest_len(disk: &dyn Disk) -> io::Result<u64> {
    match snapshots(disk)?.last() {
        Some(seq) => disk.open(&snapshot_name(*seq), Open::Existing)?.len(),
        None => Ok(0),
    }
}

/// Removes all snapshots but the newest one, after reading all of that: on a full disk what only an older one needs can
/// be given back.
pub(crate) fn keep_newest(disk: &dyn Disk, identity: u128) -> Result<(), OpenError> {
    let Some(newest) = SnapshotReader::newest(disk, identity)? else {
        return Ok(());
    };
    let seqs = snapshots(disk).map_err(|e| OpenError::io("list", "the data directory", e))?;
    for seq in seqs.into_iter().filter(|seq| *seq < newest.head.seq) {
        let name = snapshot_name(seq);
        let removed = disk.remove(&name);
        removed.map_err(|e| OpenError::io("remove", name, e))?;
    }
    let synced = disk.sync_dir();
    synced.map_err(|e| OpenError::io("sync", "the data directory", e))
}

/// One section of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section<'a> {
    /// What it is; the engine's own numbers.
    pub kind: u16,
    /// Which one of its kind.
    pub key: u64,
    /// The sequence that it is of.
    pub stamp: u64,
    /// Its content.
    pub bytes: &'a [u8],
}

/// A whole and checked snapshot.
#[derive(Debug)]
pub struct SnapshotReader {
    head: SnapshotHead,
    file: Arc<dyn File>,
    offset: u64,
    read: u64,
    content: Vec<u8>,
    broken: Vec<(String, String)>,
}

impl SnapshotReader {
    /// The newest valid snapshot; `None` in a directory without one. All of it is read and checked before.
    ///
    /// # Errors
    /// `Corrupt` when there are snapshots and none is valid; `Version` and `Identity` for a file of another format or
    /// directory.
    pub fn newest(disk: &dyn Disk, identity: u128) -> Result<Option<SnapshotReader>, OpenError> {
        let seqs = snapshots(disk).map_err(|e| OpenError::io("list", "the data directory", e))?;
        let mut broken = Vec::new();
        let mut last = None;
        for &seq in seqs.iter().rev() {
            match SnapshotReader::open(disk, identity, seq).and_then(SnapshotReader::checked) {
                Ok(mut reader) => {
                    reader.broken = broken;
                    return Ok(Some(reader));
                }
                Err(OpenError::Corrupt {
                    file,
                    why,
                    offset,
                    seq,
                }) => {
                    broken.push((file.clone(), format!("{why} (byte {offset})")));
                    last.get_or_insert(OpenError::Corrupt {
                        file,
                        offset,
                        seq,
                        why,
                    });
                }
                Err(other) => return Err(other),
            }
        }
        last.map_or(Ok(None), Err)
    }

    /// Opens the snapshot of `seq`; only its header is checked so far.
    pub(super) fn open(
        disk: &dyn Disk,
        identity: u128,
        seq: u64,
    ) -> Result<SnapshotReader, OpenError> {
        let name = snapshot_name(seq);
        let file = disk.open(&name, Open::Existing);
        let file = file.map_err(|e| OpenError::io("open", name, e))?;
        let head = read_head(&*file, seq, identity)?;
        Ok(SnapshotReader {
            head,
            file,
            offset: HEAD as u64,
            read: 0,
            content: Vec::new(),
            broken: Vec::new(),
        })
    }

    /// Reads all of it once, then stands at the beginning again.
    pub(super) fn checked(mut self) -> Result<SnapshotReader, OpenError> {
        while self.next_section()?.is_some() {}
        self.offset = HEAD as u64;
        self.read = 0;
        Ok(self)
    }

    /// What it is of.
    pub fn head(&self) -> &SnapshotHead {
        &self.head
    }

    /// Newer snapshots that are damaged and were passed over: file and reason.
    pub fn broken(&self) -> &[(String, String)] {
        &self.broken
    }

    /// The next section; `None` after the last.
    pub fn next_section(&mut self) -> Result<Option<Section<'_>>, OpenError> {
        let mut bytes = [0; SECTION_HEAD];
        self.fill(&mut bytes, self.offset)?;
        if le_u32(&bytes, 24) != crc32c(&bytes[..24]) {
            return Err(self.damaged("the checksum of a section's head does not match"));
        }
        let kind = u16::from_le_bytes([bytes[0], bytes[1]]);
        let (key, stamp, len) = (le_u64(&bytes, 8), le_u64(&bytes, 16), le_u32(&bytes, 4));
        if kind == FOOTER {
            let end = self.offset + SECTION_HEAD as u64;
            let whole = section_head(FOOTER, self.read, self.head.seq, &[]) == bytes
                && self.file.len().is_ok_and(|len| len == end);
            if !whole {
                return Err(self.damaged("the footer does not fit the sections"));
            }
            return Ok(None);
        }
        if len as usize > MAX_SECTION {
            return Err(self.damaged("a section is over the limit"));
        }
        let mut content = std::mem::take(&mut self.content);
        content.resize(len as usize, 0);
        self.fill(&mut content, self.offset + SECTION_HEAD as u64)?;
        self.content = content;
        if le_u32(&bytes, 28) != crc32c(&self.content) {
            return Err(self.damaged("the checksum of a section does not match"));
        }
        self.offset += SECTION_HEAD as u64 + u64::from(len);
        self.read += 1;
        Ok(Some(Section {
            kind,
            key,
            stamp,
            bytes: &self.content,
        }))
    }

    fn fill(&self, buf: &mut [u8], pos: u64) -> Result<(), OpenError> {
        match read_exact_at(&*self.file, buf, pos) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("the file ends within a section"))
            }
            other => other.map_err(|e| OpenError::io("read", snapshot_name(self.head.seq), e)),
        }
    }

    fn damaged(&self, why: &str) -> OpenError {
        damaged(self.head.seq, self.offset, why)
    }
}

fn damaged(seq: u64, offset: u64, why: &str) -> OpenError {
    OpenError::Corrupt {
        file: snapshot_name(seq),
        offset,
        seq,
        why: why.into(),
    }
}

fn read_head(file: &dyn File, seq: u64, identity: u128) -> Result<SnapshotHead, OpenError> {
    let mut bytes = [0; HEAD];
    match read_exact_at(file, &mut bytes, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(damaged(seq, 0, "the file ends within its header"));
        }
        other => other.map_err(|e| OpenError::io("read", snapshot_name(seq), e))?,
    }
    if !bytes.starts_with(MAGIC) {
        return Err(damaged(seq, 0, "no snapshot header"));
    }
    let version = le_u32(&bytes, 8);
    if version != SNAPSHOT_VERSION {
        return Err(OpenError::Version {
            file: snapshot_name(seq),
            found: version,
            supported: SNAPSHOT_VERSION,
        });
    }
    if le_u32(&bytes, 12) != crc32c(&bytes[16..]) {
        return Err(damaged(seq, 0, "the checksum of the header does not match"));
    }
    let head = SnapshotHead {
        identity: le_u128(&bytes, 16),
        seq: le_u64(&bytes, 32),
        replay: LogPos {
            segment: le_u64(&bytes, 40),
            offset: le_u64(&bytes, 48),
            seq: le_u64(&bytes, 56),
        },
    };
    if head.identity != identity {
        return Err(OpenError::Identity {
            file: snapshot_name(seq),
            found: head.identity,
            expected: identity,
        });
    }
    if head.seq != seq {
        return Err(damaged(seq, 0, "its header is that of another snapshot"));
    }
    Ok(head)
}

/// The header of the newest snapshot that has a valid one; the rest of it is not read.
pub fn newest_head(disk: &dyn Disk, identity: u128) -> Result<Option<SnapshotHead>, OpenError> {
    let seqs = snapshots(disk).map_err(|e| OpenError::io("list", "the data directory", e))?;
    // One may be removed meanwhile.
    let heads = seqs.iter().rev();
    let mut heads = heads.filter_map(|seq| SnapshotReader::open(disk, identity, *seq).ok());
    Ok(heads.next().map(|reader| reader.head))
}

/// The oldest position that one of the newest two snapshots replays from: segments before it are not needed for replay, not even
/// when the newest snapshot turns out to be damaged. `None` without a snapshot: all segments are needed.
pub fn replay_bound(disk: &dyn Disk, identity: u128) -> Result<Option<LogPos>, OpenError> {
    let seqs = snapshots(disk).map_err(|e| OpenError::io("list", "the data directory", e))?;
    let mut bound: Option<LogPos> = None;
    // A crash can bring back older ones, whose removal was not durable; what they need may be gone.
    for &seq in seqs.iter().rev().take(KEPT) {
        match SnapshotReader::open(disk, identity, seq) {
            Ok(reader) => {
                let replay = reader.head.replay;
                if bound.is_none_or(|bound| replay.seq < bound.seq) {
                    bound = Some(replay);
                }
            }
            Err(OpenError::Corrupt { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(bound)
}
