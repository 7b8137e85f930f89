//! What opening writes: unproven groups, anew. And where the log goes on.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::{Ending, Replay, file_of};
use crate::disk::error::OpenError;
use crate::disk::group::{GROUP_HEAD, GroupHead, RECORD_HEAD, record_at};
use crate::disk::io::{Disk, Open, is_full};
use crate::disk::log::{LogOptions, Resume};
use crate::disk::pool::{Pool, Ready, SegmentInfo, State, Used};
use crate::disk::scan::Scanner;
use crate::disk::segment::{SEGMENT_HEAD, SegmentHeader, segment_name};

/// The log of an empty directory.
pub(super) fn first_segment(
    disk: &Arc<dyn Disk>,
    options: LogOptions,
    next_id: u64,
) -> Result<Resume, OpenError> {
    let state = State {
        next_id,
        target: options.first_segment_bytes.next_multiple_of(SEGMENT_HEAD),
        ..State::default()
    };
    let (needed, zeroed) = (options.first_segment_bytes, options.zeroed);
    let pool = Arc::new(Pool::new(disk.clone(), options, state));
    let active = pool.make(needed, zeroed).map_err(|e| {
        let file = segment_name(next_id);
        if is_full(&e) {
            OpenError::Full { file, needed }
        } else {
            OpenError::io("make", file, e)
        }
    })?;
    pool.activate(&active);
    Ok(Resume {
        pool,
        active,
        offset: SEGMENT_HEAD,
        last_seq: 0,
        proven: 0,
    })
}

/// Makes the end of the log durable, delivers the last segment on the way, and says where the log goes on.
pub(super) fn settle(
    replay: &mut Replay<'_, '_>,
    mut ending: Ending,
    disk: &Arc<dyn Disk>,
    options: LogOptions,
) -> Result<Resume, OpenError> {
    let (active, offset) = go_on(replay, &ending)?;
    let pool = Arc::new(set_up(replay, &ending, active.header.id, disk, options)?);
    let unproven_from = ending.unproven.front();
    let unproven_from = unproven_from.map_or(ending.end.seq, |group| group.seq);
    replay.deliver_last(&mut ending, unproven_from)?;
    if ending.unproven.iter().any(|group| group.records > 0) {
        let room = ending.end.offset - ending.unproven[0].offset + GROUP_HEAD as u64;
        match pool.begin(SEGMENT_HEAD + room.max(pool.target() - SEGMENT_HEAD), false) {
            Ok(ready) => return rewrite(replay, &mut ending, pool, ready),
            Err(e) if is_full(&e) => {}
            Err(e) => {
                let name = ending.scanner.name();
                return Err(OpenError::io("make a segment for the tail of", name, e));
            }
        }
    }
    write_again(replay, &mut ending)?;
    Ok(Resume {
        pool,
        active,
        offset,
        last_seq: ending.end.seq - 1,
        proven: match ending.unproven.back() {
            Some(last) if last.records > 0 => unproven_from - 1,
            _ => ending.end.seq - 1,
        },
    })
}

/// The segment and the place in it where the next group would go. A segment with a torn tail counts as full.
fn go_on(replay: &Replay<'_, '_>, ending: &Ending) -> Result<(Ready, u64), OpenError> {
    if let Some(&dirty) = ending.later_dirty.last() {
        let header = replay.directory.live[dirty].header;
        return Ok((ready(replay.disk, header)?, header.len));
    }
    let header = ending.scanner.header;
    let file = ending.scanner.file.clone();
    let offset = if ending.traces.none() {
        ending.end.offset
    } else {
        header.len
    };
    Ok((Ready { header, file }, offset))
}

/// Writes the unproven groups and a seal into a new segment, which gets its name when all of it is durable.
fn rewrite(
    replay: &mut Replay<'_, '_>,
    ending: &mut Ending,
    pool: Arc<Pool>,
    ready: Ready,
) -> Result<Resume, OpenError> {
    let name = segment_name(ready.header.id);
    let failed = |e: io::Error| OpenError::io("write the unproven tail into", name.clone(), e);
    let first = &ending.unproven[0];
    let (from, first_seq) = (first.offset, first.seq);
    let ends_in_seal = ending.unproven.back().is_some_and(|last| last.records == 0);
    let limit = ending.end.seq - u64::from(ends_in_seal);
    let mut offset = SEGMENT_HEAD;
    let mut bytes = Vec::new();
    let chain = ending
        .scanner
        .chain(from, first_seq, limit, &mut |_, head, old| {
            let head = GroupHead {
                salt: ready.header.salt,
                durable: first_seq - 1,
                ..*head
            };
            bytes.clear();
            bytes.extend_from_slice(old);
            bytes[..GROUP_HEAD].copy_from_slice(&head.encode(&heads_of(old, head.records)));
            let written = ready.file.write_all_at(&[IoSlice::new(&bytes)], offset);
            written.map_err(failed)?;
            replay.report.rewritten += 1;
            replay.deliver(ready.header.id, offset, &head, &bytes)?;
            offset += u64::from(head.len);
            Ok(())
        });
    chain?;
    let seal = GroupHead {
        len: GROUP_HEAD as u32,
        salt: ready.header.salt,
        seq: limit,
        durable: limit - 1,
        records: 0,
    };
    let sealed = ready
        .file
        .write_all_at(&[IoSlice::new(&seal.encode(&[]))], offset);
    sealed.map_err(failed)?;
    ready.file.sync_data().map_err(failed)?;
    let ready = pool.publish(ready).map_err(failed)?;
    pool.activate(&ready);
    replay.report.last_seq = limit;
    Ok(Resume {
        pool,
        active: ready,
        offset: offset + GROUP_HEAD as u64,
        last_seq: limit,
        proven: limit,
    })
}

fn heads_of(group: &[u8], records: u32) -> Vec<u8> {
    let mut heads = Vec::with_capacity(records as usize * RECORD_HEAD);
    let mut at = GROUP_HEAD;
    for _ in 0..records {
        heads.extend_from_slice(&group[at..at + RECORD_HEAD]);
        at = record_at(group, at).map_or(at, |(_, bodies)| bodies.end);
    }
    heads
}

/// Writes the unproven groups once more where they are, so that the sync covers them.
fn write_again(replay: &mut Replay<'_, '_>, ending: &mut Ending) -> Result<(), OpenError> {
    let Some(first) = ending.unproven.front() else {
        return Ok(());
    };
    let (from, seq, segment) = (first.offset, first.seq, ending.start.segment);
    let failed = |e: io::Error| OpenError::io("write", file_of(ending.start), e);
    let file = ending.scanner.file.clone();
    let chain = ending
        .scanner
        .chain(from, seq, ending.end.seq, &mut |offset, head, bytes| {
            let written = file.write_all_at(&[IoSlice::new(bytes)], offset);
            written.map_err(failed)?;
            replay.report.rewritten += u64::from(head.records > 0);
            replay.deliver(segment, offset, head, bytes)
        });
    chain?;
    file.sync_data().map_err(failed)
}

/// Sorts the segments into those in use, spares, the reserve, and what is free.
fn set_up(
    replay: &Replay<'_, '_>,
    ending: &Ending,
    active: u64,
    disk: &Arc<dyn Disk>,
    options: LogOptions,
) -> Result<Pool, OpenError> {
    let directory = replay.directory;
    let mut state = State {
        next_id: directory.next_id,
        active,
        target: next_len(replay, &options),
        ..State::default()
    };
    let mut free = Vec::new();
    let older = directory.older.iter().map(|header| (*header, true));
    let live = directory.live.iter().enumerate().map(|(index, live)| {
        let in_use = index == 0
            || live.first_seq.is_some()
            || index == ending.index
            || ending.later_dirty.contains(&index);
        (live.header, in_use)
    });
    for (header, in_use) in older.chain(live) {
        let may_be_reserve = state.reserve.is_none()
            && header.len == options.reserve_bytes.next_multiple_of(SEGMENT_HEAD)
            && header.id != active
            && !(in_use && header.id >= directory.live[0].header.id);
        if may_be_reserve && is_empty(replay.disk, header)? {
            state.reserve = Some(ready(replay.disk, header)?);
        } else if in_use {
            state.used.insert(header.id, Used::new(header.len));
        } else if header.id > active && state.spares.len() < options.spares {
            state.spares.insert(header.id, ready(replay.disk, header)?);
        } else {
            free.push(SegmentInfo::from(header));
        }
    }
    let pool = Pool::new(disk.clone(), options, state);
    pool.free_all(&free);
    Ok(pool)
}

/// Segments double in length up to the full one. The reserve is none of them.
fn next_len(replay: &Replay<'_, '_>, options: &LogOptions) -> u64 {
    let directory = replay.directory;
    let reserve = options.reserve_bytes.next_multiple_of(SEGMENT_HEAD);
    let lens = directory.live.iter().map(|live| live.header.len);
    let longest = lens
        .filter(|&len| len <= options.segment_bytes && len != reserve)
        .max()
        .unwrap_or(0);
    let next = (longest * 2).max(options.first_segment_bytes);
    let next = next.min(options.segment_bytes);
    next.next_multiple_of(SEGMENT_HEAD)
}

/// True without a trace of a group.
fn is_empty(disk: &dyn Disk, header: SegmentHeader) -> Result<bool, OpenError> {
    Ok(Scanner::open(disk, header)?.traces(SEGMENT_HEAD)?.none())
}

fn ready(disk: &dyn Disk, header: SegmentHeader) -> Result<Ready, OpenError> {
    let name = segment_name(header.id);
    let file = disk.open(&name, Open::Existing);
    let file = file.map_err(|e| OpenError::io("open", name, e))?;
    Ok(Ready { header, file })
}
