//! Reading the groups of one segment.

use std::io;
use std::sync::Arc;

use memchr::memmem;

use super::error::OpenError;
use super::group::{GROUP_HEAD, GroupHead, check_heads, check_records};
use super::io::{Disk, File, Open, read_exact_at};
use super::segment::{SEGMENT_HEAD, SegmentHeader, segment_name};

/// Bytes read at once.
const READ: u64 = 1 << 20;

/// A segment that is read from front to back. Holds one window of it in memory: a group, or [`READ`] bytes.
#[derive(Debug)]
pub(super) struct Scanner {
    pub(super) header: SegmentHeader,
    pub(super) file: Arc<dyn File>,
    window: Vec<u8>,
    window_start: u64,
    heads: Vec<u8>,
}

/// What takes the groups of a chain: the place, the header, the whole group.
pub(super) type Each<'a> = dyn FnMut(u64, &GroupHead, &[u8]) -> Result<(), OpenError> + 'a;

/// What stands at a place of a segment.
pub(super) enum Found<'a> {
    Group(GroupHead, &'a [u8]),
    /// No whole group: why, and at which byte of the file.
    Bad(u64, &'static str),
    /// Not even a header has room there.
    NoRoom,
}

/// Where the chain of groups of a segment ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChainEnd {
    /// The byte behind the last group.
    pub(super) offset: u64,
    /// The sequence that would come there.
    pub(super) seq: u64,
    /// What stands there instead: the byte, and what is wrong.
    pub(super) bad: Option<(u64, &'static str)>,
}

/// What is left of groups behind the end of a chain.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traces {
    /// Start and end of what bears the segment's salt; no trace at all when they are equal.
    pub(super) start: u64,
    pub(super) end: u64,
    /// The greatest sequence that a whole group among them says was durable.
    pub(super) durable: u64,
}

impl Traces {
    pub(super) fn none(&self) -> bool {
        self.start == self.end
    }
}

impl Scanner {
    /// Opens a segment, whose header was read before.
    pub(super) fn open(disk: &dyn Disk, header: SegmentHeader) -> Result<Scanner, OpenError> {
        let name = segment_name(header.id);
        let file = disk.open(&name, Open::Existing);
        Ok(Scanner {
            header,
            file: file.map_err(|e| OpenError::io("open", name, e))?,
            window: Vec::new(),
            window_start: 0,
            heads: Vec::new(),
        })
    }

    pub(super) fn name(&self) -> String {
        segment_name(self.header.id)
    }

    /// The sequence of the first group when its heads are right.
    pub(super) fn first_seq(&mut self) -> Result<Option<u64>, OpenError> {
        match self.group(SEGMENT_HEAD, false)? {
            Found::Group(head, _) => Ok(Some(head.seq)),
            _ => Ok(None),
        }
    }

    /// Calls `each` with every whole group from `offset` on while the sequences count up from `seq` and stay below
    /// `limit`.
    pub(super) fn chain(
        &mut self,
        mut offset: u64,
        mut seq: u64,
        limit: u64,
        each: &mut Each<'_>,
    ) -> Result<ChainEnd, OpenError> {
        let bad = loop {
            if seq >= limit {
                break None;
            }
            match self.group(offset, true)? {
                Found::Group(head, bytes) if head.seq == seq => {
                    each(offset, &head, bytes)?;
                    offset += u64::from(head.len);
                    seq += 1;
                }
                Found::Group(..) => break Some((offset, "a group of another sequence")),
                Found::Bad(at, why) => break Some((at, why)),
                Found::NoRoom => break None,
            }
        };
        Ok(ChainEnd { offset, seq, bad })
    }

    /// What is left of groups from `from` on. A crash can leave a later group whole and an earlier one not, so the
    /// search does not stop at the first trace.
    pub(super) fn traces(&mut self, from: u64) -> Result<Traces, OpenError> {
        let mut found = Traces::default();
        self.search(from, &mut |start, whole| {
            let len = whole.map_or(GROUP_HEAD as u64, |head| u64::from(head.len));
            if found.none() {
                found.start = start;
            }
            found.end = found.end.max(start + len);
            found.durable = found.durable.max(whole.map_or(0, |head| head.durable));
            true
        })?;
        found.end = found.end.min(self.header.len);
        Ok(found)
    }

    /// The first whole group from `from` on: its place and sequence.
    pub(super) fn next_whole(&mut self, from: u64) -> Result<Option<(u64, u64)>, OpenError> {
        let mut found = None;
        self.search(from, &mut |start, whole| {
            found = whole.map(|head| (start, head.seq));
            found.is_none()
        })?;
        Ok(found)
    }

    /// Searches the salt of this use of the segment. Calls `each` with every place where a group could start and, if
    /// there is one with right heads, its header; ends when `each` says false.
    fn search(
        &mut self,
        from: u64,
        each: &mut dyn FnMut(u64, Option<GroupHead>) -> bool,
    ) -> Result<(), OpenError> {
        let salt = self.header.salt.to_le_bytes();
        let finder = memmem::Finder::new(&salt);
        let mut block = Vec::new();
        let mut pos = from;
        while pos + (salt.len() as u64) <= self.header.len {
            let n = READ.min(self.header.len - pos);
            block.resize(n as usize, 0);
            let read = read_exact_at(&*self.file, &mut block, pos);
            read.map_err(|e| OpenError::io("read", self.name(), e))?;
            for hit in finder.find_iter(&block) {
                // The salt is 8 bytes behind the start of its group.
                let Some(start) = (pos + hit as u64)
                    .checked_sub(8)
                    .filter(|&start| start >= from)
                else {
                    continue;
                };
                let whole = match self.group(start, false)? {
                    Found::Group(head, _) if start.is_multiple_of(8) => Some(head),
                    _ => None,
                };
                if !each(start, whole) {
                    return Ok(());
                }
            }
            pos += n - (salt.len() as u64 - 1);
        }
        Ok(())
    }

    /// The group at `offset`: its heads are checked, and with `whole` all of it.
    fn group(&mut self, offset: u64, whole: bool) -> Result<Found<'_>, OpenError> {
        let room = self.header.len.saturating_sub(offset);
        if room < GROUP_HEAD as u64 {
            return Ok(Found::NoRoom);
        }
        self.fill(offset, GROUP_HEAD as u64)?;
        let at = (offset - self.window_start) as usize;
        let mut head = [0; GROUP_HEAD];
        head.copy_from_slice(&self.window[at..at + GROUP_HEAD]);
        let Some(head) = GroupHead::decode(&head, self.header.salt, room) else {
            return Ok(Found::Bad(offset, "there is no group header"));
        };
        self.fill(offset, u64::from(head.len))?;
        let at = (offset - self.window_start) as usize;
        let bytes = &self.window[at..at + head.len as usize];
        if let Err(why) = check_heads(bytes, &head, &mut self.heads) {
            return Ok(Found::Bad(offset, why));
        }
        if whole && let Err((within, why)) = check_records(bytes, &head) {
            return Ok(Found::Bad(offset + within as u64, why));
        }
        Ok(Found::Group(head, bytes))
    }

    /// Has `n` bytes from `pos` in the window; the caller has checked that the segment is long enough.
    fn fill(&mut self, pos: u64, n: u64) -> Result<(), OpenError> {
        let window_end = self.window_start + self.window.len() as u64;
        if pos >= self.window_start && pos + n <= window_end {
            return Ok(());
        }
        let want = n.max(READ).min(self.header.len - pos);
        self.window.resize(want as usize, 0);
        self.window_start = pos;
        let read: io::Result<()> = read_exact_at(&*self.file, &mut self.window, pos);
        if read.is_err() {
            self.window.clear();
        }
        read.map_err(|e| OpenError::io("read", self.name(), e))
    }
}
