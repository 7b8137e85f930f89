//! Opening a log: which groups count, where it ends, and what is damage.
//!
//! # Rules
//!
//! 1. Groups count in strict sequence, each in the chain of its segment: whole, with the salt of the segment's use.
//! 2. The writer syncs a segment before the first group goes into the next one. So every gap before a later written
//!    segment is damage, and only the end of the last written segment can be an unfinished write.
//! 3. There, what follows the last whole group is a torn tail unless a whole group behind it, found by searching for the
//!    salt, says that the missing sequence was durable: then it is damage, and the log is not opened. A segment with a
//!    torn tail is never written again in the same use: the log goes on in a segment with a greater id and another
//!    salt. So nothing of the tail can join a later chain, and the page cache cannot hide what is on the disk, as it
//!    could after overwriting the tail and a failed fsync.
//! 4. Groups at the end that nothing proves durable may stand in the page cache only (a failed fsync leaves them
//!    there, clean and unwritten). They are written anew into a new segment, with a seal, synced, and only then the
//!    file gets its name: a crash leaves either the old tail or the whole new one. A group in an older segment with a
//!    sequence that a newer segment begins at or below is superseded. Where only a seal is unproven it is written again
//!    in place, and so is the tail where the disk has no room: the same bytes, so nothing can be lost by it.
//! 5. A file bears a segment's name only while its durable header is that of the name (see [`pool`](super::pool)):
//!    another header under that name is damage. A segment without any group of its salt is a spare.
//! 6. Names that are seen may not be durable when a process died before its `sync_dir`, so opening begins with one.

use std::collections::VecDeque;
use std::sync::Arc;

use super::directory::Directory;
use super::error::OpenError;
use super::group::{GROUP_HEAD, GroupHead, record_at};
use super::io::Disk;
use super::log::{LogOptions, LogPos, Resume};
use super::scan::{ChainEnd, Scanner, Traces};
use super::segment::{SEGMENT_HEAD, le_u32, segment_name};

pub(crate) mod intact;
mod tail;

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Groups that count from the start of replay on, seals among them.
    pub groups: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Sequence of the last group; 0 for an empty log.
    pub last_seq: u64,
    /// A tail that was written but never made durable, and was cut.
    pub torn: Option<TornTail>,
    /// Groups at the end that no later group proved durable, and that were written anew.
    pub rewritten: u64,
    /// Names of unfinished files that were removed.
    pub removed: Vec<String>,
}

/// An unfinished write at the end of the log. No acknowledgement rested on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment's file.
    pub file: String,
    /// Where it starts in the file.
    pub offset: u64,
    /// How many bytes of it can be recognised at least.
    pub bytes: u64,
    /// The sequence that it had or would have had.
    pub seq: u64,
}

/// A whole and checked group.
#[derive(Debug, Clone, Copy)]
pub struct RecoveredGroup<'a> {
    /// Its sequence.
    pub seq: u64,
    /// The segment that holds it from now on.
    pub segment: u64,
    /// Its first byte in that segment's file.
    pub offset: u64,
    bytes: &'a [u8],
}

/// One record of a group.
#[derive(Debug, Clone, Copy)]
pub struct RecoveredRecord<'a> {
    /// Its ops.
    pub ops: &'a [u8],
    bodies: &'a [u8],
    bodies_offset: u64,
}

impl<'a> RecoveredGroup<'a> {
    /// Its length in bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a group has at least its header"
    )]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The position behind it, see [`Placed::next`](super::Placed::next).
    pub fn next(&self) -> LogPos {
        LogPos {
            segment: self.segment,
            offset: self.offset + self.len(),
            seq: self.seq + 1,
        }
    }

    /// Its records in order.
    pub fn records(&self) -> impl Iterator<Item = RecoveredRecord<'a>> + use<'a> {
        let (group, offset) = (self.bytes, self.offset);
        let mut at = GROUP_HEAD;
        let count = le_u32(group, 32);
        (0..count).map_while(move |_| {
            let (ops, bodies) = record_at(group, at)?;
            at = bodies.end;
            Some(RecoveredRecord {
                ops: &group[ops],
                bodies_offset: offset + bodies.start as u64,
                bodies: &group[bodies],
            })
        })
    }
}

impl<'a> RecoveredRecord<'a> {
    /// Its bodies in order: where each stands in the segment's file, and its bytes.
    pub fn bodies(&self) -> impl Iterator<Item = (u64, &'a [u8])> + use<'a> {
        let (bodies, offset) = (self.bodies, self.bodies_offset);
        let mut at = 0;
        std::iter::from_fn(move || {
            if at == bodies.len() {
                return None;
            }
            let start = at;
            at += le_u32(bodies, start) as usize;
            Some((offset + start as u64, &bodies[start..at]))
        })
    }
}

/// What takes the groups.
pub(super) type Visit<'a> = dyn FnMut(RecoveredGroup<'_>) -> Result<(), OpenError> + 'a;

/// See [`Log::open`](super::Log::open).
pub(super) fn open(
    disk: Arc<dyn Disk>,
    options: LogOptions,
    from: Option<LogPos>,
    visit: &mut Visit<'_>,
) -> Result<(Resume, RecoveryReport), OpenError> {
    let directory = Directory::read(&*disk, options.identity, from)?;
    if !directory.live.is_empty() {
        let synced = disk.sync_dir();
        synced.map_err(|e| OpenError::io("sync", "the data directory", e))?;
    }
    let mut replay = Replay::new(&*disk, &directory, from, visit);
    let ending = replay.find_end()?;
    remove_unfinished(&*disk, &directory, &mut replay.report)?;
    let Some(ending) = ending else {
        let resume = tail::first_segment(&disk, options, directory.next_id)?;
        return Ok((resume, replay.report));
    };
    let resume = tail::settle(&mut replay, ending, &disk, options)?;
    Ok((resume, replay.report))
}

/// See [`Log::scan`](super::Log::scan).
pub(super) fn scan(
    disk: &dyn Disk,
    identity: u128,
    from: Option<LogPos>,
    visit: &mut Visit<'_>,
) -> Result<RecoveryReport, OpenError> {
    let directory = Directory::read(disk, identity, from)?;
    let mut replay = Replay::new(disk, &directory, from, visit);
    if let Some(mut ending) = replay.find_end()? {
        let limit = ending.end.seq;
        replay.deliver_last(&mut ending, limit)?;
    }
    Ok(replay.report)
}

fn remove_unfinished(
    disk: &dyn Disk,
    directory: &Directory,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    for name in &directory.unfinished {
        let removed = disk.remove(name);
        removed.map_err(|e| OpenError::io("remove", name, e))?;
        report.removed.push(name.clone());
    }
    Ok(())
}

/// The way through the groups of a directory.
struct Replay<'a, 'v> {
    disk: &'a dyn Disk,
    directory: &'a Directory,
    from: Option<LogPos>,
    /// The sequence of the next group to deliver.
    expected: u64,
    /// All sequences up to this one are proven durable.
    proven: u64,
    visit: &'a mut Visit<'v>,
    report: RecoveryReport,
}

/// The last written segment and what is behind its last group.
struct Ending {
    index: usize,
    scanner: Scanner,
    /// Where the chain that counts starts in it.
    start: LogPos,
    end: ChainEnd,
    traces: Traces,
    /// Groups at the end of the chain that nothing proves durable.
    unproven: VecDeque<Unproven>,
    /// Of the segments behind it, those with traces of groups.
    later_dirty: Vec<usize>,
}

struct Unproven {
    seq: u64,
    offset: u64,
    records: u32,
}

impl<'a, 'v> Replay<'a, 'v> {
    fn new(
        disk: &'a dyn Disk,
        directory: &'a Directory,
        from: Option<LogPos>,
        visit: &'a mut Visit<'v>,
    ) -> Replay<'a, 'v> {
        // Sequences begin with 1, whatever a snapshot says.
        let from = from.map(|from| LogPos {
            seq: from.seq.max(1),
            ..from
        });
        let expected = from.map_or(1, |from| from.seq);
        Replay {
            disk,
            directory,
            from,
            expected,
            // A snapshot is written only of what is durable.
            proven: expected - 1,
            visit,
            report: RecoveryReport::default(),
        }
    }

    /// Delivers all segments but the last written one, and finds out how that one ends. `None` without a segment.
    fn find_end(&mut self) -> Result<Option<Ending>, OpenError> {
        let Some(last) = self.deliver_all_but_last()? else {
            return Ok(None);
        };
        let mut ending = self.last_chain(last)?;
        self.weigh_traces(&mut ending)?;
        self.report.last_seq = ending.end.seq - 1;
        Ok(Some(ending))
    }

    /// Gives the index of the last written segment.
    fn deliver_all_but_last(&mut self) -> Result<Option<usize>, OpenError> {
        let directory = self.directory;
        let Some(first) = directory.live.first() else {
            return Ok(None);
        };
        if self.from.is_none() && first.first_seq.is_some_and(|seq| seq != 1) {
            return Err(OpenError::Missing {
                file: "snap-*".into(),
                why: "the log does not begin with sequence 1, so a snapshot is needed".into(),
            });
        }
        let last = directory.last_written();
        for index in 0..last {
            if index == 0 || directory.live[index].first_seq.is_some() {
                self.deliver_whole(index)?;
            }
        }
        Ok(Some(last))
    }

    /// Where the chain of a live segment starts.
    fn start_of(&self, index: usize) -> LogPos {
        match self.from {
            Some(from) if index == 0 => from,
            _ => LogPos {
                segment: self.directory.live[index].header.id,
                offset: SEGMENT_HEAD,
                seq: self.directory.live[index]
                    .first_seq
                    .unwrap_or(self.expected),
            },
        }
    }

    /// Delivers a segment that has a written one behind it.
    fn deliver_whole(&mut self, index: usize) -> Result<(), OpenError> {
        let mut scanner = Scanner::open(self.disk, self.directory.live[index].header)?;
        let start = self.start_of(index);
        let limit = self.directory.limit(index);
        let end = scanner.chain(
            start.offset,
            start.seq,
            limit,
            &mut |offset, head, bytes| {
                self.proven = self.proven.max(head.durable);
                self.deliver(start.segment, offset, head, bytes)
            },
        )?;
        if end.seq < limit {
            return Err(gap(self.disk, self.directory, index, &mut scanner, end)?);
        }
        Ok(())
    }

    /// The chain of the last written segment, with what stands behind it in that segment.
    fn last_chain(&mut self, index: usize) -> Result<Ending, OpenError> {
        let mut scanner = Scanner::open(self.disk, self.directory.live[index].header)?;
        let start = self.start_of(index);
        let mut unproven = VecDeque::new();
        let proven = &mut self.proven;
        let end = scanner.chain(start.offset, start.seq, u64::MAX, &mut |offset, head, _| {
            *proven = head.durable.max(*proven);
            unproven.push_back(Unproven {
                seq: head.seq,
                offset,
                records: head.records,
            });
            while unproven.front().is_some_and(|group| group.seq <= *proven) {
                unproven.pop_front();
            }
            Ok(())
        })?;
        let traces = scanner.traces(end.offset)?;
        Ok(Ending {
            index,
            scanner,
            start,
            end,
            traces,
            unproven,
            later_dirty: Vec::new(),
        })
    }

    /// Decides between a torn tail and damage, by all that stands behind the chain.
    fn weigh_traces(&mut self, ending: &mut Ending) -> Result<(), OpenError> {
        self.weigh(ending.traces, Place::end_of(&ending.scanner, ending.end))?;
        for (index, live) in self
            .directory
            .live
            .iter()
            .enumerate()
            .skip(ending.index + 1)
        {
            let mut later = Scanner::open(self.disk, live.header)?;
            let traces = later.traces(SEGMENT_HEAD)?;
            if !traces.none() {
                self.weigh(traces, Place::start_of(&later, ending.end.seq))?;
                ending.later_dirty.push(index);
            }
        }
        let proven = self.proven;
        ending.unproven.retain(|group| group.seq > proven);
        Ok(())
    }

    fn weigh(&mut self, traces: Traces, place: Place) -> Result<(), OpenError> {
        self.proven = self.proven.max(traces.durable.min(place.seq - 1));
        if let Some(torn) = judge(traces, place)? {
            self.report.torn.get_or_insert(torn);
        }
        Ok(())
    }

    /// Delivers the chain of the last written segment up to the sequence `limit`.
    fn deliver_last(&mut self, ending: &mut Ending, limit: u64) -> Result<(), OpenError> {
        let start = ending.start;
        let chain = ending.scanner.chain(
            start.offset,
            start.seq,
            limit,
            &mut |offset, head, bytes| self.deliver(start.segment, offset, head, bytes),
        );
        chain.map(|_| ())
    }

    fn deliver(
        &mut self,
        segment: u64,
        offset: u64,
        head: &GroupHead,
        bytes: &[u8],
    ) -> Result<(), OpenError> {
        if head.seq < self.expected {
            // Of a tail that was written anew, the snapshot knows a part already.
            return Ok(());
        }
        self.expected = head.seq + 1;
        self.report.groups += 1;
        self.report.bytes += u64::from(head.len);
        if head.records == 0 {
            return Ok(());
        }
        (self.visit)(RecoveredGroup {
            seq: head.seq,
            segment,
            offset,
            bytes,
        })
    }
}

/// Where a group is missing.
pub(super) struct Place {
    file: String,
    offset: u64,
    seq: u64,
    /// What stands there instead: the byte, and what is wrong.
    bad: Option<(u64, &'static str)>,
}

impl Place {
    pub(super) fn end_of(scanner: &Scanner, end: ChainEnd) -> Place {
        Place {
            file: scanner.name(),
            offset: end.offset,
            seq: end.seq,
            bad: end.bad,
        }
    }

    pub(super) fn start_of(scanner: &Scanner, seq: u64) -> Place {
        Place {
            file: scanner.name(),
            offset: SEGMENT_HEAD,
            seq,
            bad: None,
        }
    }

    /// Damage: what is wrong there, and why it is no unfinished write.
    fn corrupt(self, proof: &str) -> OpenError {
        let why = match self.bad {
            Some((at, why)) if at != self.offset => format!("{why} (byte {at}), but {proof}"),
            Some((_, why)) => format!("{why}, but {proof}"),
            None => format!("the group is missing, but {proof}"),
        };
        OpenError::Corrupt {
            file: self.file,
            offset: self.offset,
            seq: self.seq,
            why,
        }
    }
}

/// Decides about traces behind the last group of the log: nothing, a torn tail, or damage.
pub(super) fn judge(traces: Traces, place: Place) -> Result<Option<TornTail>, OpenError> {
    if traces.none() {
        return Ok(None);
    }
    if traces.durable >= place.seq {
        let durable = traces.durable;
        return Err(place.corrupt(&format!(
            "a later group says that sequence {durable} was durable"
        )));
    }
    Ok(Some(TornTail {
        file: place.file,
        offset: place.offset,
        bytes: traces.end - place.offset,
        seq: place.seq,
    }))
}

/// The error for a chain that ends before a later segment begins. The missing sequence was in the segment that ends
/// too early, or in one behind it that does not begin.
pub(super) fn gap(
    disk: &dyn Disk,
    directory: &Directory,
    index: usize,
    scanner: &mut Scanner,
    end: ChainEnd,
) -> Result<OpenError, OpenError> {
    let next = directory.limit(index);
    let proof = format!("sequence {next} follows in a later segment");
    if scanner.traces(end.offset)?.none() {
        let behind = directory.live[index + 1..].iter();
        for live in behind.take_while(|live| live.first_seq.is_none()) {
            let mut other = Scanner::open(disk, live.header)?;
            if !other.traces(SEGMENT_HEAD)?.none() {
                return Ok(Place::start_of(&other, end.seq).corrupt(&proof));
            }
        }
    }
    Ok(Place::end_of(scanner, end).corrupt(&proof))
}

/// The name of the segment that a position is in, for messages.
pub(super) fn file_of(position: LogPos) -> String {
    segment_name(position.segment)
}
