//! Checks every byte that counts, without changing anything.
//!
//! The rules are those of [`recover`](super::recover), with two differences: all faults are reported, not only the
//! first, and segments before the start of replay are read too. Among those a segment may have been released while an
//! earlier one is still in use, so a gap between two of them is no fault by itself.

use super::directory::{Directory, read_header};
use super::error::OpenError;
use super::identity;
use super::io::Disk;
use super::recover::{Place, TornTail, gap, judge};
use super::scan::{ChainEnd, Scanner};
use super::segment::{SEGMENT_HEAD, segment_id};
use super::snapshot::{SnapshotReader, replay_bound, snapshots};

/// What [`verify`] found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Segments that were read.
    pub segments: u64,
    /// Whole groups.
    pub groups: u64,
    /// Snapshots that were read.
    pub snapshots: u64,
    /// A tail that never became durable: no damage, the next opening cuts it.
    pub torn: Option<TornTail>,
    /// Damage: each names file and place.
    pub faults: Vec<OpenError>,
}

/// Reads the whole directory and reports all faults, not only the first one. For a directory that nobody writes.
///
/// # Errors
/// Only what keeps it from reading at all.
pub fn verify(disk: &dyn Disk) -> Result<VerifyReport, OpenError> {
    let mut report = VerifyReport::default();
    let Some(identity) = identity_of(disk, &mut report.faults)? else {
        return Ok(report);
    };
    check_snapshots(disk, identity, &mut report)?;
    let bound = replay_bound(disk, identity)?.map_or(1, |bound| bound.seq);
    let directory = Directory::read_with(disk, identity, None, &mut |fault| {
        report.faults.push(fault);
        Ok(())
    })?;
    check_segments(disk, &directory, bound, &mut report)?;
    Ok(report)
}

/// The identity of the directory, or of its first segment when its file is lost or damaged.
pub(crate) fn identity_of(
    disk: &dyn Disk,
    faults: &mut Vec<OpenError>,
) -> Result<Option<u128>, OpenError> {
    match identity::load(disk) {
        Ok(Some(identity)) => return Ok(Some(identity)),
        Ok(None) => {}
        Err(fault @ OpenError::Io { .. }) => return Err(fault),
        Err(fault) => faults.push(fault),
    }
    let names = disk.list();
    let names = names.map_err(|e| OpenError::io("list", "the data directory", e))?;
    let ids = names.iter().filter_map(|name| segment_id(name));
    let found = ids.filter_map(|id| read_header(disk, id).ok()).next();
    if found.is_some() && faults.is_empty() {
        faults.push(OpenError::Missing {
            file: identity::IDENTITY.into(),
            why: "there is a log".into(),
        });
    }
    Ok(found.map(|header| header.identity))
}

fn check_snapshots(
    disk: &dyn Disk,
    identity: u128,
    report: &mut VerifyReport,
) -> Result<(), OpenError> {
    let seqs = snapshots(disk).map_err(|e| OpenError::io("list", "the data directory", e))?;
    for seq in seqs {
        report.snapshots += 1;
        let checked = SnapshotReader::open(disk, identity, seq).and_then(SnapshotReader::checked);
        match checked {
            Err(fault @ OpenError::Io { .. }) => return Err(fault),
            Err(fault) => report.faults.push(fault),
            Ok(_) => {}
        }
    }
    Ok(())
}

fn check_segments(
    disk: &dyn Disk,
    directory: &Directory,
    bound: u64,
    report: &mut VerifyReport,
) -> Result<(), OpenError> {
    let last = directory.last_written();
    report.segments = directory.live.len() as u64;
    let mut end_seq = 1;
    for (index, live) in directory.live.iter().enumerate() {
        let mut scanner = Scanner::open(disk, live.header)?;
        if index > last {
            let traces = scanner.traces(SEGMENT_HEAD)?;
            take(judge(traces, Place::start_of(&scanner, end_seq)), report);
        } else if live.first_seq.is_some() || index == last || bound == 1 && index == 0 {
            end_seq = check_segment(disk, directory, index, bound, &mut scanner, report)?;
        }
    }
    Ok(())
}

/// Reads the chain of a segment, and goes on behind each fault. Returns the sequence behind its end.
fn check_segment(
    disk: &dyn Disk,
    directory: &Directory,
    index: usize,
    bound: u64,
    scanner: &mut Scanner,
    report: &mut VerifyReport,
) -> Result<u64, OpenError> {
    let limit = directory.limit(index);
    let mut start = (SEGMENT_HEAD, directory.live[index].first_seq.unwrap_or(1));
    loop {
        let end = scanner.chain(start.0, start.1, limit, &mut |_, _, _| {
            report.groups += 1;
            Ok(())
        })?;
        if !is_fault(disk, directory, index, bound, scanner, end, report)? {
            return Ok(end.seq);
        }
        match scanner.next_whole(end.offset + 8)? {
            Some(next) if next.1 > end.seq => start = next,
            _ => return Ok(end.seq),
        }
    }
}

/// Reports what is wrong at the end of a chain; false when nothing is.
fn is_fault(
    disk: &dyn Disk,
    directory: &Directory,
    index: usize,
    bound: u64,
    scanner: &mut Scanner,
    end: ChainEnd,
    report: &mut VerifyReport,
) -> Result<bool, OpenError> {
    if end.seq >= directory.limit(index) {
        return Ok(false);
    }
    let traces = scanner.traces(end.offset)?;
    if index == directory.last_written() {
        return Ok(take(judge(traces, Place::end_of(scanner, end)), report));
    }
    // Before the start of replay, traces that nothing in the segment proves can be a torn tail, or an old copy of groups
    // that were written anew, and the segment that went on from there may have been released since.
    let fault = end.seq >= bound || traces.durable >= end.seq;
    if fault {
        let fault = gap(disk, directory, index, scanner, end)?;
        report.faults.push(fault);
    }
    Ok(fault)
}

/// Notes a judgement; true for damage.
fn take(judgement: Result<Option<TornTail>, OpenError>, report: &mut VerifyReport) -> bool {
    match judgement {
        Ok(Some(torn)) => {
            report.torn.get_or_insert(torn);
            false
        }
        Ok(None) => false,
        Err(fault) => {
            report.faults.push(fault);
            true
        }
    }
}
