//! Compaction: which records of a range are the newest of their key.

use bytes::Bytes;
use rapidhash::RapidHashMap;
use strait_core::Batch;

use super::walk::{self, Walk};
use super::{Fault, Move};
use crate::extents::{Extent, Span};
use crate::shared::Shared;

/// Keys that one pass over a partition remembers. With more of them it ends earlier, and the next one goes on.
const KEYS: usize = 1 << 20;

/// How a range is compacted.
#[derive(Debug, Clone)]
pub(super) struct Compact {
    /// The part that was not compacted before: its keys supersede older ones.
    pub(super) dirty: Vec<Span>,
    /// Where that part begins.
    pub(super) from: u64,
    /// Tombstones that were appended before it go too.
    pub(super) tombstones_before: i64,
}

/// The newest offset of each key of the part that was not compacted before.
#[derive(Debug)]
pub(super) struct Newest {
    offsets: RapidHashMap<u128, u64>,
    /// Records from here on were not looked at.
    end: u64,
    tombstones_before: i64,
}

/// Collects them.
#[derive(Debug)]
pub(super) struct Gather {
    walk: Walk,
    newest: Newest,
    most: usize,
}

impl Gather {
    pub(super) fn new(this: &Move, compact: Compact) -> Gather {
        let end = this.end();
        Gather {
            walk: Walk::new(this.stream, compact.dirty, this.start.max(compact.from)),
            newest: Newest {
                offsets: RapidHashMap::default(),
                end,
                tombstones_before: compact.tombstones_before,
            },
            most: KEYS,
        }
    }

    /// Reads about `bytes`; what it found, when it is through.
    pub(super) fn step(&mut self, shared: &Shared, bytes: u64) -> Result<Option<Newest>, Fault> {
        let mut read = 0;
        while read < bytes {
            let Some(extent) = self.walk.next(shared)? else {
                return Ok(Some(self.take()));
            };
            if self.newest.offsets.len() >= self.most {
                self.newest.end = extent.first;
                return Ok(Some(self.take()));
            }
            let batch = walk::batch(shared, &extent)?;
            read += batch.len() as u64;
            self.newest.note(shared, &extent, &batch);
        }
        Ok(None)
    }

    fn take(&mut self) -> Newest {
        Newest {
            offsets: std::mem::take(&mut self.newest.offsets),
            ..self.newest
        }
    }
}

impl Newest {
    /// Everything before it is compacted with this.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    fn note(&mut self, shared: &Shared, extent: &Extent, bytes: &Bytes) {
        let Ok(batch) = Batch::peek(bytes) else {
            return;
        };
        for (record, offset) in batch.iter().zip(extent.first..) {
            if let Some(key) = record.key() {
                self.offsets.insert(shared.fingerprint.of(key), offset);
            }
        }
    }

    /// What is kept of a batch; `None` when nothing is.
    pub(super) fn keep(&self, shared: &Shared, extent: &Extent, bytes: &Bytes) -> Option<Bytes> {
        if extent.first >= self.end {
            return Some(bytes.clone());
        }
        let batch = Batch::peek(bytes).ok()?;
        let is_old = extent.time < self.tombstones_before;
        let mut all = true;
        let kept = batch.without(|record| {
            let offset = extent.first + u64::from(record.index());
            let keep = record.key().is_none_or(|key| {
                let newest = self.offsets.get(&shared.fingerprint.of(key));
                let superseded = newest.is_some_and(|newest| *newest > offset);
                !(superseded || is_old && record.body().is_empty())
            });
            all &= keep;
            keep
        });
        if all { Some(bytes.clone()) } else { kept }
    }
}
