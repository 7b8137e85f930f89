//! Reading batches back: extents first, then the bytes, checked.

use std::sync::Arc;

use bytes::Bytes;
use strait_core::{Batch, Chunk, Error, Kind, Position, Result, Span, Timestamp, codes};

use crate::extents::{Extent, Place, Span as SpanPlace, StreamId};
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

/// Where the first of the batches lies.
#[derive(Debug, PartialEq, Eq)]
enum Placed {
    Recent(Vec<Extent>),
    Indexed(SpanPlace),
    /// Nowhere: this is the end of what is durable.
    End(u64),
}

/// What a look for batches found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) extents: Vec<Extent>,
    /// Without any: up to here there is nothing, and reading goes on here.
    pub(crate) next: u64,
}

impl Shared {
    /// The batches that hold `want`, from the first that ends behind its first offset on; none at the end of what is
    /// durable, and where compaction left nothing.
    pub(crate) fn find(&self, want: &Want) -> Result<Found> {
        let end = want.from.saturating_add(want.count);
        let mut want = *want;
        let nothing = |next: u64| Found {
            extents: Vec::new(),
            next,
        };
        loop {
            let span = match self.place_of(&want)? {
                Placed::End(visible) => return Ok(nothing(want.from.max(visible).min(end))),
                Placed::Recent(extents) => {
                    return Ok(Found {
                        extents,
                        next: want.from,
                    });
                }
                Placed::Indexed(span) => span,
            };
            let extents = match self.extents_of(&span, &want) {
                Ok(extents) => extents,
                // The cleaner or retention may have been there since.
                Err(_) if self.place_of(&want)? != Placed::Indexed(span) => continue,
                Err(error) => return Err(error),
            };
            if !extents.is_empty() || span.end >= end {
                let next = end.min(span.end);
                return Ok(Found { extents, next });
            }
            want.count = end - span.end;
            want.from = span.end;
        }
    }

    fn place_of(&self, want: &Want) -> Result<Placed> {
        let state = self.state.lock();
        let Some(stream) = state.stream(want.stream) else {
            return Err(
                Error::new(Kind::NotFound, "the topic was deleted").code(codes::NO_SUCH_TOPIC)
            );
        };
        if want.from < stream.start {
            return Err(offset_gone(want.from, stream.start));
        }
        Ok(match stream.place_of(want.from) {
            Place::End => Placed::End(stream.visible),
            Place::Recent(at) => {
                let recent = stream.recent.iter().skip(at).copied();
                Placed::Recent(limit(
                    recent.take_while(|e| e.end() <= stream.visible),
                    want,
                ))
            }
            Place::Indexed(span) => Placed::Indexed(span),
        })
    }

    fn extents_of(&self, span: &SpanPlace, want: &Want) -> Result<Vec<Extent>> {
        if span.is_hollow() {
            return Ok(Vec::new());
        }
        let index = self.indexes.get(self, span.segment)?;
        let extents = index.get(&want.stream).cloned().unwrap_or_default();
        let from = want.from.max(span.first);
        let at = extents.partition_point(|extent| extent.end() <= from);
        let here = extents[at..].iter().take_while(|e| e.first < span.end);
        let found = limit(here.copied(), want);
        if found.is_empty() && !span.is_sparse() {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "the index of segment {:#x} does not know offset {}",
                    span.segment, want.from
                ),
            ));
        }
        Ok(found)
    }

    /// The batches that hold `want`, as [`find`](Self::find) does.
    pub(crate) fn extents(&self, want: &Want) -> Result<Vec<Extent>> {
        self.find(want).map(|found| found.extents)
    }

    /// Finds the batches of `want` and reads them with `read`; once more where the cleaner moved them in between.
    pub(crate) fn read_found<T>(
        &self,
        want: &Want,
        read: impl Fn(&Found) -> Result<T>,
    ) -> Result<T> {
        loop {
            let found = self.find(want)?;
            match read(&found) {
                Err(error) if error.is(codes::OFFSET_GONE) && self.find(want)? != found => {}
                done => return done,
            }
        }
    }

    /// Reads `want`: the records from `from` on that lie in the batches found.
    pub(crate) fn chunk(&self, topic: Arc<str>, partition: u32, want: &Want) -> Result<Chunk> {
        self.read_found(want, |found| {
            self.chunk_of(topic.clone(), partition, want, found)
        })
    }

    fn chunk_of(
        &self,
        topic: Arc<str>,
        partition: u32,
        want: &Want,
        found: &Found,
    ) -> Result<Chunk> {
        let extents = &found.extents;
        let (buf, places) = self.read_extents(extents)?;
        let mut spans = Vec::with_capacity(extents.len());
        let end = want.from.saturating_add(want.count);
        let mut next = found.next;
        for (extent, at) in extents.iter().zip(places) {
            let first = extent.first.max(want.from);
            let until = extent.end().min(end);
            if first >= until {
                continue;
            }
            let whole = Span {
                at,
                first: Position::at(first),
                skip: (first - extent.first) as u32,
                take: (until - first) as u32,
                appended: Timestamp::from_millis(extent.time),
            };
            let batch = Batch::peek(&buf[at as usize..])?;
            if batch.has_holes() {
                spans.extend(between_holes(&batch, &whole));
            } else {
                spans.push(whole);
            }
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

/// The runs of records that are left of `whole`.
fn between_holes(batch: &Batch<'_>, whole: &Span) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let here = batch.iter().skip(whole.skip as usize);
    for record in here.take(whole.take as usize).filter(|r| !r.is_hole()) {
        match spans.last_mut() {
            Some(span) if span.skip + span.take == record.index() => span.take += 1,
            _ => spans.push(Span {
                first: Position::at(whole.first.offset() + u64::from(record.index() - whole.skip)),
                skip: record.index(),
                take: 1,
                ..whole.clone()
            }),
        }
    }
    spans
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

pub(crate) fn gone(segment: u64, error: std::io::Error) -> Error {
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
