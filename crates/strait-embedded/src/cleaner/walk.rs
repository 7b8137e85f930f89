//! The batches of a range, one after the other, and their bytes.

use std::sync::Arc;

use bytes::Bytes;
use strait_core::Batch;

use super::Fault;
use crate::by_key::op_bytes;
use crate::codec::Reader;
use crate::extents::{Extent, Span, StreamId};
use crate::ops::{AppendOp, DeadOp, Op};
use crate::shared::Shared;

/// A way over the batches of some spans of a stream.
#[derive(Debug)]
pub(super) struct Walk {
    stream: StreamId,
    spans: std::vec::IntoIter<Span>,
    /// What lies wholly before it was removed already.
    start: u64,
    here: Option<Here>,
}

/// The batches of one span.
#[derive(Debug)]
struct Here {
    extents: Arc<[Extent]>,
    at: usize,
    end: u64,
}

impl Walk {
    pub(super) fn new(stream: StreamId, spans: Vec<Span>, start: u64) -> Walk {
        Walk {
            stream,
            spans: spans.into_iter(),
            start,
            here: None,
        }
    }

    pub(super) fn next(&mut self, shared: &Shared) -> Result<Option<Extent>, Fault> {
        loop {
            if let Some(here) = &mut self.here {
                let next = here.extents.get(here.at).copied();
                if let Some(extent) = next.filter(|extent| extent.first < here.end) {
                    here.at += 1;
                    return Ok(Some(extent));
                }
            }
            let Some(span) = self.spans.next() else {
                return Ok(None);
            };
            self.here = if span.is_hollow() {
                None
            } else {
                Some(self.enter(shared, &span)?)
            };
        }
    }

    fn enter(&self, shared: &Shared, span: &Span) -> Result<Here, Fault> {
        let index = shared.indexes.get(shared, span.segment);
        let index = index.map_err(|error| damaged(span.segment, error))?;
        let extents = index.get(&self.stream).cloned().unwrap_or_default();
        let from = span.first.max(self.start);
        Ok(Here {
            at: extents.partition_point(|extent| extent.end() <= from),
            extents,
            end: span.end,
        })
    }
}

fn damaged(segment: u64, error: strait_core::Error) -> Fault {
    Fault {
        error: std::io::Error::other(error),
        segment: Some(segment),
    }
}

/// The bytes of a batch, checked: damage is not copied.
pub(super) fn batch(shared: &Shared, extent: &Extent) -> Result<Bytes, Fault> {
    let file = shared.pool.reader(extent.segment)?;
    let mut bytes = vec![0; extent.len as usize];
    file.read_exact_at(&mut bytes, u64::from(extent.pos))?;
    match Batch::check(&bytes) {
        Ok(batch) if batch.bytes().len() == bytes.len() => Ok(bytes.into()),
        Ok(_) => Err(damaged(extent.segment, short(extent))),
        Err(error) => Err(damaged(extent.segment, error)),
    }
}

fn short(extent: &Extent) -> strait_core::Error {
    let text = format!(
        "segment {:#x} is damaged at byte {}: a batch is not the one that was written",
        extent.segment, extent.pos
    );
    strait_core::Error::new(strait_core::Kind::Corrupt, text)
}

/// The operation that stands in front of a batch: it says whose it is, and holds the versions of keys where they are kept.
pub(super) fn op(
    shared: &Shared,
    stream: StreamId,
    versions: bool,
    extent: &Extent,
) -> Result<Vec<u8>, Fault> {
    if !versions {
        return Ok(plain_op(stream, extent));
    }
    let read = op_bytes(shared, extent).map_err(|error| damaged(extent.segment, error))?;
    let mut bytes = read.1;
    let mut reader = Reader::new(&bytes);
    let is_whole = Op::decode(&mut reader).is_ok();
    let len = bytes.len() - reader.remaining();
    if !is_whole {
        return Err(damaged(extent.segment, short(extent)));
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// The operation of a batch without versions, as it is written in front of its copy.
fn plain_op(stream: StreamId, extent: &Extent) -> Vec<u8> {
    let mut bytes = Vec::new();
    let op = match (stream.as_partition(), stream.as_dead()) {
        (Some((topic, partition)), _) => Op::Append(AppendOp {
            topic,
            partition,
            first: extent.first,
            count: extent.count,
            time: extent.time,
            ..AppendOp::default()
        }),
        (None, group) => Op::Dead {
            group: group.unwrap_or_default(),
            shard: 0,
            offset: 0,
            dead: DeadOp {
                number: extent.first,
                attempts: 0,
                key: 0,
                appended: 0,
                died: extent.time,
                bytes: u64::from(extent.len),
                reason: "",
            },
        },
    };
    op.encode(&mut bytes);
    bytes
}
