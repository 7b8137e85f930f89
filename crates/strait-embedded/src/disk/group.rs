//! A group: the unit of one write and one fsync. Builder and layout; the log adds place, salt and sequence.
//!
//! # Layout, version 1 (little endian; a group starts at a multiple of 8 and is padded to one with zeros)
//!
//! ```text
//! group   "STGR" | len u32 (whole) | salt u64 | seq u64 | durable u64 | records u32
//!         crc u32 = crc32c of the 36 bytes before it and of every record's head
//! record  len u32 (ops and bodies) | ops' length u32 | crc u32 = crc32c of the ops
//!         crc u32 = crc32c of the first 8 bytes of every body | ops | bodies
//! body    len u32 (whole) | crc u32 = crc32c of [8..len] | ..
//! ```
//!
//! A body is checked by its own producer's checksum, which the record's head covers: the writer never touches it.

use std::io::IoSlice;
use std::ops::Range;

use bytes::Bytes;

use super::crc::{crc32c, crc32c_of};
use super::segment::{le_u32, le_u64};

/// Length of a group's header.
pub const GROUP_HEAD: usize = 40;
/// Length of a record's head.
pub const RECORD_HEAD: usize = 16;
/// Length of what the log reads of a body: its length and its checksum.
pub const BODY_HEAD: usize = 8;
const GROUP_MAGIC: &[u8; 4] = b"STGR";
/// Bodies of a record that have so many bytes together are copied into the group: cheaper than a part of a write each.
const COPIED: u64 = 2048;
/// The most that a group may have, in bytes. Recovery reads a group whole.
pub const MAX_GROUP: u64 = 256 << 20;

/// The header of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHead {
    /// Length of the whole group in bytes.
    pub(crate) len: u32,
    /// That of the segment's use.
    pub(crate) salt: u64,
    pub(crate) seq: u64,
    /// The last sequence that was known to be durable when this was written.
    pub(crate) durable: u64,
    pub(crate) records: u32,
}

impl GroupHead {
    /// The header's bytes; `heads` are the heads of all records.
    pub(crate) fn encode(&self, heads: &[u8]) -> [u8; GROUP_HEAD] {
        let mut bytes = [0; GROUP_HEAD];
        bytes[0..4].copy_from_slice(GROUP_MAGIC);
        bytes[4..8].copy_from_slice(&self.len.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.salt.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.seq.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.durable.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.records.to_le_bytes());
        let crc = crc32c_of(&[&bytes[..36], heads]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header whose checksum is still to be checked. `None` when it cannot be one of the use `salt`, or says
    /// that the group has more than `room` bytes.
    pub(crate) fn decode(bytes: &[u8; GROUP_HEAD], salt: u64, room: u64) -> Option<GroupHead> {
        let head = GroupHead {
            len: le_u32(bytes, 4),
            salt: le_u64(bytes, 8),
            seq: le_u64(bytes, 16),
            durable: le_u64(bytes, 24),
            records: le_u32(bytes, 32),
        };
        let len = u64::from(head.len);
        let plausible = bytes.starts_with(GROUP_MAGIC)
            && head.salt == salt
            && len >= GROUP_HEAD as u64
            && len % 8 == 0
            && len <= room.min(MAX_GROUP)
            && u64::from(head.records) <= len / RECORD_HEAD as u64;
        plausible.then_some(head)
    }
}

/// Reads the head of the record at `at` of a whole group: where its ops and its bodies are. `None` when they would
/// not be in the group.
pub(crate) fn record_at(group: &[u8], at: usize) -> Option<(Range<usize>, Range<usize>)> {
    let start = at
        .checked_add(RECORD_HEAD)
        .filter(|&start| start <= group.len())?;
    let len = le_u32(group, at) as usize;
    let ops_len = le_u32(group, at + 4) as usize;
    let end = start.checked_add(len).filter(|&end| end <= group.len())?;
    (ops_len <= len).then_some((start..start + ops_len, start + ops_len..end))
}

/// Checks the checksum of a whole group's header and of its records' heads; `heads` is scratch space.
pub(crate) fn check_heads(
    group: &[u8],
    head: &GroupHead,
    heads: &mut Vec<u8>,
) -> Result<(), &'static str> {
    heads.clear();
    let mut at = GROUP_HEAD;
    for _ in 0..head.records {
        let (_, bodies) = record_at(group, at).ok_or("a record is longer than its group")?;
        heads.extend_from_slice(&group[at..at + RECORD_HEAD]);
        at = bodies.end;
    }
    if at.next_multiple_of(8) != group.len() || group[at..].iter().any(|&byte| byte != 0) {
        return Err("the records and their padding do not fill the group");
    }
    if crc32c_of(&[&group[..36], heads]) != le_u32(group, 36) {
        return Err("the checksum of the group's heads does not match");
    }
    Ok(())
}

/// Checks ops and bodies of a group whose heads are right. The error says what is wrong and at which byte of the group.
pub(crate) fn check_records(group: &[u8], head: &GroupHead) -> Result<(), (usize, &'static str)> {
    let mut at = GROUP_HEAD;
    let mut body_heads = Vec::new();
    for _ in 0..head.records {
        let (ops, bodies) =
            record_at(group, at).ok_or((at, "a record is longer than its group"))?;
        if crc32c(&group[ops.clone()]) != le_u32(group, at + 8) {
            return Err((
                ops.start,
                "the checksum of a record's operations does not match",
            ));
        }
        body_heads.clear();
        let mut body = bodies.start;
        while body < bodies.end {
            let end = body_end(group, body, bodies.end)
                .ok_or((body, "a body is longer than its record"))?;
            body_heads.extend_from_slice(&group[body..body + BODY_HEAD]);
            if crc32c(&group[body + BODY_HEAD..end]) != le_u32(group, body + 4) {
                return Err((body, "the checksum of a body does not match"));
            }
            body = end;
        }
        if crc32c(&body_heads) != le_u32(group, at + 12) {
            return Err((
                bodies.start,
                "the checksum of the bodies' heads does not match",
            ));
        }
        at = bodies.end;
    }
    Ok(())
}

fn body_end(group: &[u8], at: usize, limit: usize) -> Option<usize> {
    if limit - at < BODY_HEAD {
        return None;
    }
    let len = le_u32(group, at) as usize;
    (len >= BODY_HEAD && len <= limit - at).then_some(at + len)
}

/// A body whose first four bytes are not its length. Nothing was added to the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a body of {len} bytes says that it has {says}")]
pub struct BadBody {
    /// Its real length in bytes.
    pub len: usize,
    /// The length in its first four bytes; 0 when it has fewer than eight bytes.
    pub says: u32,
}

/// A group under construction: reusable, so that the steady state allocates nothing.
///
/// Per record: [`begin_record`](Self::begin_record), then ops and bodies in any order, then
/// [`end_record`](Self::end_record).
#[derive(Debug, Default)]
pub struct GroupBuf {
    /// Heads and ops of all records, one after the other.
    arena: Vec<u8>,
    /// A second copy of the heads alone, for the group's checksum.
    heads: Vec<u8>,
    bodies: Vec<Bytes>,
    /// Where each body starts, from the start of the group.
    body_offsets: Vec<u64>,
    /// Where the bodies of a record stand between two pieces of the arena.
    joints: Vec<Joint>,
    /// Length of the group so far without padding, header included; 0 in an empty new buffer.
    len: u64,
    open: Option<OpenRecord>,
}

/// After `arena[..arena_end]` come the bodies up to `bodies_end`.
#[derive(Debug, Clone, Copy)]
struct Joint {
    arena_end: usize,
    bodies_end: usize,
}

#[derive(Debug, Clone, Copy)]
struct OpenRecord {
    arena_start: usize,
    bodies_start: usize,
}

impl GroupBuf {
    /// An empty group.
    pub fn new() -> GroupBuf {
        GroupBuf::default()
    }

    /// Empties it; the allocations stay. The bodies are let go.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.heads.clear();
        self.bodies.clear();
        self.body_offsets.clear();
        self.joints.clear();
        self.len = 0;
        self.open = None;
    }

    /// Starts a record.
    ///
    /// # Panics
    /// When a record is open: an error in the caller's program.
    pub fn begin_record(&mut self) {
        assert!(
            self.open.is_none(),
            "end_record comes before the next begin_record"
        );
        self.open = Some(OpenRecord {
            arena_start: self.arena.len(),
            bodies_start: self.bodies.len(),
        });
        self.arena.extend_from_slice(&[0; RECORD_HEAD]);
    }

    /// Where the open record's ops go: append only, what is there stays.
    pub fn ops_mut(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    /// Adds a body to the open record; a large one is not copied.
    ///
    /// # Errors
    /// [`BadBody`] when its first four bytes are not its length: recovery could not find its end.
    pub fn push_body(&mut self, body: Bytes) -> Result<(), BadBody> {
        let says = match body.first_chunk::<BODY_HEAD>() {
            Some([a, b, c, d, ..]) => u32::from_le_bytes([*a, *b, *c, *d]),
            None => 0,
        };
        if says as usize != body.len() || says == 0 {
            return Err(BadBody {
                len: body.len(),
                says,
            });
        }
        self.bodies.push(body);
        Ok(())
    }

    /// Ends the record and computes its checksums.
    ///
    /// # Panics
    /// When no record is open, or when ops of it were taken away: errors in the caller's program.
    pub fn end_record(&mut self) {
        let open = self
            .open
            .take()
            .expect("begin_record comes before end_record");
        let ops_start = open.arena_start + RECORD_HEAD;
        assert!(self.arena.len() >= ops_start, "ops are only appended");
        let ops_len = self.arena.len() - ops_start;
        let at = if self.len == 0 {
            GROUP_HEAD as u64
        } else {
            self.len
        };
        let bodies_at = at + (RECORD_HEAD + ops_len) as u64;
        let end = self.place_bodies(open.bodies_start, bodies_at);
        let head = self.record_head(ops_start, open.bodies_start, end - at - RECORD_HEAD as u64);
        self.arena[open.arena_start..ops_start].copy_from_slice(&head);
        self.heads.extend_from_slice(&head);
        if end - bodies_at <= COPIED {
            for body in self.bodies.drain(open.bodies_start..) {
                self.arena.extend_from_slice(&body);
            }
        } else {
            self.joints.push(Joint {
                arena_end: self.arena.len(),
                bodies_end: self.bodies.len(),
            });
        }
        self.len = end;
    }

    fn place_bodies(&mut self, from: usize, mut at: u64) -> u64 {
        for body in &self.bodies[from..] {
            self.body_offsets.push(at);
            at += body.len() as u64;
        }
        at
    }

    fn record_head(
        &mut self,
        ops_start: usize,
        bodies_start: usize,
        len: u64,
    ) -> [u8; RECORD_HEAD] {
        // The firsts of the bodies are gathered behind the heads for a moment: one pass of the checksum, no allocation.
        let gathered = self.heads.len();
        for body in &self.bodies[bodies_start..] {
            self.heads.extend_from_slice(&body[..BODY_HEAD]);
        }
        let bodies_crc = crc32c(&self.heads[gathered..]);
        self.heads.truncate(gathered);
        let ops = &self.arena[ops_start..];
        let mut head = [0; RECORD_HEAD];
        // A length over u32 makes the group TooLarge, which is refused before anything is written.
        head[0..4].copy_from_slice(&(len as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(ops.len() as u32).to_le_bytes());
        head[8..12].copy_from_slice(&crc32c(ops).to_le_bytes());
        head[12..16].copy_from_slice(&bodies_crc.to_le_bytes());
        head
    }

    /// True without a record.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many records are in it.
    pub fn records(&self) -> usize {
        self.heads.len() / RECORD_HEAD
    }

    /// Bytes that it takes in the log, header and padding included.
    pub fn encoded_len(&self) -> u64 {
        self.len.max(GROUP_HEAD as u64).next_multiple_of(8)
    }

    /// For each body in the order of the pushes: where it starts, in bytes from the start of the group. Its place in
    /// the file is that plus [`Placed::offset`](super::Placed::offset).
    pub fn body_offsets(&self) -> &[u64] {
        &self.body_offsets
    }

    /// The records' heads, one after the other.
    pub(crate) fn heads(&self) -> &[u8] {
        &self.heads
    }

    /// Adds everything behind the group's header, padding included, to `parts`.
    pub(crate) fn slices<'a>(&'a self, parts: &mut Vec<IoSlice<'a>>) {
        assert!(
            self.open.is_none(),
            "end_record comes before the group is written"
        );
        let mut done = Joint {
            arena_end: 0,
            bodies_end: 0,
        };
        for joint in &self.joints {
            self.push_arena(parts, done.arena_end..joint.arena_end);
            let bodies = &self.bodies[done.bodies_end..joint.bodies_end];
            parts.extend(bodies.iter().map(|body| IoSlice::new(body)));
            done = *joint;
        }
        self.push_arena(parts, done.arena_end..self.arena.len());
        let padding = (self.encoded_len() - self.len.max(GROUP_HEAD as u64)) as usize;
        if padding > 0 {
            parts.push(IoSlice::new(&[0; 8][..padding]));
        }
    }

    fn push_arena<'a>(&'a self, parts: &mut Vec<IoSlice<'a>>, range: Range<usize>) {
        if !range.is_empty() {
            parts.push(IoSlice::new(&self.arena[range]));
        }
    }
}
