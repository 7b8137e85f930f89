//! Reading batches back: extents first, then the bytes, checked.

use std::sync::Arc;

use bytes::Bytes;
use strait_core::{Batch, Chunk, Error, Kind, Position, Result, Span, Timestamp, codes};

use crate::extents::{Extent, Place, StreamId};
use crate::shared::Shared;

/// Batches with less than this between them are read in one go.
const NEAR: u64 = 1024;

/// A read of consecutive records of one stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    pub(crate) stream: StreamId,
    pub(crate) from: u64,
    /// Records at most.
    pub(crate) count: u64,
    /// Bytes of batches at most, but at least one batch.
    pub(crate) bytes: usize,
}

impl Shared {
    /// The batches that hold `want`, from the one with its first record on; empty at the end of what is durable.
    pub(crate) fn extents(&self, want: &Want) -> Result<Vec<Extent>> {
        let segment = {
            let state = self.state.lock();
            let Some(stream) = state.stream(want.stream) else {
                return Err(
                    Error::new(Kind::NotFound, "the topic was deleted").code(codes::NO_SUCH_TOPIC)
                );
            };
            if want.from < stream.start {
                return Err(offset_gone(want.from, stream.start));
            }
            match stream.place_of(want.from) {
                Place::End => return Ok(Vec::new()),
                Place::Recent(at) => {
                    let visible = stream.visible;
                    let recent = stream.recent.iter().skip(at).copied();
                    return Ok(limit(recent.take_while(|e| e.end() <= visible), want));
                }
                Place::Indexed(segment) => segment,
            }
        };
        let index = match self.indexes.get(self, segment) {
            Ok(index) => index,
            Err(error) => return Err(self.gone_meanwhile(want).unwrap_or(error)),
        };
        let extents = index.get(&want.stream).cloned().unwrap_or_default();
        let at = extents.partition_point(|extent| extent.end() <= want.from);
        let found = limit(extents[at..].iter().copied(), want);
        if !found.is_empty() {
            return Ok(found);
        }
        Err(Error::new(
            Kind::Corrupt,
            format!(
                "the index of segment {segment:#x} does not know offset {}",
                want.from
            ),
        ))
    }

    /// Retention may have removed it since the state was looked at.
    fn gone_meanwhile(&self, want: &Want) -> Option<Error> {
        let state = self.state.lock();
        let start = state.stream(want.stream)?.start;
        (want.from < start).then(|| offset_gone(want.from, start))
    }

    /// Reads `want`: the records from `from` on that lie in the batches found.
    pub(crate) fn chunk(&self, topic: Arc<str>, partition: u32, want: &Want) -> Result<Chunk> {
        let extents = self.extents(want)?;
        self.chunk_of(topic, partition, want, &extents)
    }

    pub(crate) fn chunk_of(
        &self,
        topic: Arc<str>,
        partition: u32,
        want: &Want,
        extents: &[Extent],
    ) -> Result<Chunk> {
        let (buf, places) = self.read_extents(extents)?;
        let mut spans = Vec::with_capacity(extents.len());
        let end = want.from.saturating_add(want.count);
        let mut next = want.from;
        for (extent, at) in extents.iter().zip(places) {
            let first = extent.first.max(want.from);
            let until = extent.end().min(end);
            if first >= until {
                continue;
            }
            spans.push(Span {
                at,
                first: Position::at(first),
                skip: (first - extent.first) as u32,
                take: (until - first) as u32,
                appended: Timestamp::from_millis(extent.time),
            });
            next = until;
        }
        Ok(Chunk::new(
            topic,
            partition,
            Bytes::from(buf),
            spans,
            Position::at(next),
        ))
    }

    /// The bytes of the batches, checked, and where each begins in them.
    fn read_extents(&self, extents: &[Extent]) -> Result<(Vec<u8>, Vec<u32>)> {
        let runs = runs(extents);
        let total = runs.iter().map(|run| (run.end - run.start) as usize).sum();
        let mut buf = vec![0; total];
        let mut places = Vec::with_capacity(extents.len());
        let mut at = 0usize;
        for run in &runs {
            let len = (run.end - run.start) as usize;
            let here = &mut buf[at..at + len];
            let file = self
                .pool
                .reader(run.segment)
                .map_err(|error| gone(run.segment, error))?;
            file.read_exact_at(here, run.start).map_err(|error| {
                Error::io(format!("cannot read segment {:#x}", run.segment), error)
            })?;
            for extent in &extents[run.extents.clone()] {
                let place = at + (u64::from(extent.pos) - run.start) as usize;
                check(&buf[place..], extent)?;
                places.push(place as u32);
            }
            at += len;
        }
        Ok((buf, places))
    }
}

/// Neighbouring batches of one segment that are read together.
struct Run {
    segment: u64,
    start: u64,
    end: u64,
    extents: std::ops::Range<usize>,
}

fn runs(extents: &[Extent]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (i, extent) in extents.iter().enumerate() {
        let start = u64::from(extent.pos);
        let end = start + u64::from(extent.len);
        match runs.last_mut() {
            Some(run)
                if run.segment == extent.segment && start >= run.end && start - run.end < NEAR =>
            {
                run.end = end;
                run.extents.end = i + 1;
            }
            _ => runs.push(Run {
                segment: extent.segment,
                start,
                end,
                extents: i..i + 1,
            }),
        }
    }
    runs
}

fn limit(extents: impl Iterator<Item = Extent>, want: &Want) -> Vec<Extent> {
    let end = want.from.saturating_add(want.count);
    let mut bytes = 0;
    let mut found: Vec<Extent> = Vec::new();
    for extent in extents {
        bytes += extent.len as usize;
        if extent.first >= end || (bytes > want.bytes && !found.is_empty()) {
            break;
        }
        found.push(extent);
    }
    found
}

fn check(bytes: &[u8], extent: &Extent) -> Result<()> {
    let right = Batch::check(bytes)
        .is_ok_and(|b| b.bytes().len() == extent.len as usize && b.len() == extent.count as usize);
    if right {
        return Ok(());
    }
    Err(Error::new(
        Kind::Corrupt,
        format!(
            "segment {:#x} is damaged at byte {}: offsets {}..{} do not have the bytes that were written",
            extent.segment,
            extent.pos,
            extent.first,
            extent.end()
        ),
    )
    .next("run `strait verify` on the directory, and restore a backup"))
}

pub(crate) fn offset_gone(asked: u64, earliest: u64) -> Error {
    Error::new(
        Kind::NotFound,
        format!("offset {asked} was removed by retention; the earliest is {earliest}"),
    )
    .code(codes::OFFSET_GONE)
    .with("earliest", earliest)
    .next("read from the earliest, or from a point in time")
}

fn gone(segment: u64, error: std::io::Error) -> Error {
    Error::new(
        Kind::NotFound,
        format!(
            "the records were removed by retention while they were read (segment {segment:#x})"
        ),
    )
    .code(codes::OFFSET_GONE)
    .caused_by(error)
    .next("read from the earliest, or from a point in time")
}
