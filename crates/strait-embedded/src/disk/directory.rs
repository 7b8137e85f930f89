//! What is in a data directory: which files are ours, which segments there are, and which of them were written.

use std::io;

use super::error::OpenError;
use super::io::{Disk, Open};
use super::log::LogPos;
use super::pool::SegmentInfo;
use super::scan::Scanner;
use super::segment::{SegmentHeader, segment_id, segment_name};

/// Files with these names are not the log's but belong into a data directory. `lost+found` is made by the file system
/// where a directory is a mount point.
const NAMES: [&str; 5] = ["IDENTITY", "BACKUP", "LOCK", "SOCK", "lost+found"];
const PREFIXES: [&str; 3] = ["snap-", "ext-", "clean-"];

/// A segment that replay may need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live {
    pub(super) header: SegmentHeader,
    /// The sequence of its first group; `None` when there is no whole group.
    pub(super) first_seq: Option<u64>,
}

/// The files of a directory.
#[derive(Debug)]
pub(super) struct Directory {
    /// Segments before the start of replay.
    pub(super) older: Vec<SegmentHeader>,
    /// Segments from the start of replay on; the first one is where replay starts.
    pub(super) live: Vec<Live>,
    /// Unfinished files.
    pub(super) unfinished: Vec<String>,
    /// Greater than every id in a name.
    pub(super) next_id: u64,
}

impl Directory {
    /// Reads the names and all segment headers.
    pub(super) fn read(
        disk: &dyn Disk,
        identity: u128,
        from: Option<LogPos>,
    ) -> Result<Directory, OpenError> {
        Directory::read_with(disk, identity, from, &mut Err)
    }

    /// Like [`read`](Self::read), but passes over what is wrong when `fault` accepts it.
    pub(super) fn read_with(
        disk: &dyn Disk,
        identity: u128,
        from: Option<LogPos>,
        fault: &mut dyn FnMut(OpenError) -> Result<(), OpenError>,
    ) -> Result<Directory, OpenError> {
        let names = disk.list();
        let names = names.map_err(|e| OpenError::io("list", "the data directory", e))?;
        let (ids, unfinished) = sort_out(names, fault)?;
        let mut headers = Vec::with_capacity(ids.len());
        for &id in &ids {
            match read_own_header(disk, id, identity) {
                Ok(header) => headers.push(header),
                Err(e) => fault(e)?,
            }
        }
        let split = match from {
            None => 0,
            Some(from) => {
                let found = headers.binary_search_by_key(&from.segment, |header| header.id);
                found.map_err(|_| missing(from))?
            }
        };
        let live_headers = headers.split_off(split);
        let mut live = Vec::with_capacity(live_headers.len());
        for header in live_headers {
            let first_seq = Scanner::open(disk, header)?.first_seq()?;
            live.push(Live { header, first_seq });
        }
        let unfinished_ids = unfinished.iter().filter_map(|name| {
            let stem = name.strip_suffix(".tmp")?;
            segment_id(&format!("{stem}.seg"))
        });
        let greatest = ids.iter().copied().chain(unfinished_ids).max();
        Ok(Directory {
            older: headers,
            live,
            unfinished,
            next_id: greatest.unwrap_or(0) + 1,
        })
    }

    /// The last live segment that holds groups: the log ends in it. The first one where none does.
    pub(super) fn last_written(&self) -> usize {
        let written = self.live.iter().rposition(|live| live.first_seq.is_some());
        written.unwrap_or(0)
    }

    /// What the segments behind `index` begin with: groups from there on are superseded in `index`.
    pub(super) fn limit(&self, index: usize) -> u64 {
        let later = self.live[index + 1..]
            .iter()
            .filter_map(|live| live.first_seq);
        later.min().unwrap_or(u64::MAX)
    }
}

/// Segment ids in order, and the names of unfinished files.
fn sort_out(
    names: Vec<String>,
    fault: &mut dyn FnMut(OpenError) -> Result<(), OpenError>,
) -> Result<(Vec<u64>, Vec<String>), OpenError> {
    let mut ids = Vec::new();
    let mut unfinished = Vec::new();
    for name in names {
        if let Some(id) = segment_id(&name) {
            ids.push(id);
        } else if name.ends_with(".tmp") {
            unfinished.push(name);
        } else if !is_ours(&name) {
            fault(OpenError::Foreign { file: name })?;
        }
    }
    ids.sort_unstable();
    Ok((ids, unfinished))
}

fn is_ours(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

pub(super) fn read_header(disk: &dyn Disk, id: u64) -> Result<SegmentHeader, OpenError> {
    let name = segment_name(id);
    let file: io::Result<_> = disk.open(&name, Open::Existing);
    let file = file.map_err(|e| OpenError::io("open", name, e))?;
    SegmentHeader::read(&*file, id)
}

fn read_own_header(disk: &dyn Disk, id: u64, identity: u128) -> Result<SegmentHeader, OpenError> {
    let header = read_header(disk, id)?;
    if header.identity != identity {
        return Err(OpenError::Identity {
            file: segment_name(id),
            found: header.identity,
            expected: identity,
        });
    }
    Ok(header)
}

fn missing(from: LogPos) -> OpenError {
    OpenError::Missing {
        file: segment_name(from.segment),
        why: format!("the snapshot is replayed from sequence {} in it", from.seq),
    }
}

impl From<SegmentHeader> for SegmentInfo {
    fn from(header: SegmentHeader) -> SegmentInfo {
        SegmentInfo {
            id: header.id,
            len: header.len,
        }
    }
}
