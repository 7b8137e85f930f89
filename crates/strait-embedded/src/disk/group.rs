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

use super::crc::crc32c;

/// Length of a group's header.
pub const GROUP_HEAD: usize = 40;
/// Length of a record's head.
pub const RECORD_HEAD: usize = 16;
/// Length of what the log reads of a body: its length and its checksum.
pub const BODY_HEAD: usize = 8;
/// The most that a group may have, in bytes. Recovery reads a group whole.
pub const MAX_GROUP: u64 = 256 << 20;

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

    /// Adds a body to the open record, without copying it.
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
        if open.bodies_start < self.bodies.len() {
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
