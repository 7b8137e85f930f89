//! Operations of topics: what is appended, where it lies, and how a topic is kept.

use super::{TopicId, put_place, tag};
use crate::codec::{Decoded, Malformed, Reader, put_i64, put_option, put_u64, put_u128};
use crate::extents::{Span, StreamId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TopicSettings {
    pub(crate) partitions: u32,
    pub(crate) retention_ms: Option<u64>,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) key_versions: bool,
    pub(crate) dedupe_ms: u64,
    pub(crate) compaction: Option<CompactionSettings>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompactionSettings {
    pub(crate) min_lag_ms: u64,
    pub(crate) tombstones_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct AppendOp {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// When it was appended, milliseconds since the epoch.
    pub(crate) time: i64,
    /// Fingerprints of the ids to remember.
    pub(crate) ids: Vec<u128>,
    /// Per record, on topics with key versions: the key's fingerprint, its version, and its previous offset. Records
    /// without a key have version 0.
    pub(crate) versions: Vec<KeyStep>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyStep {
    pub(crate) key: u128,
    pub(crate) version: u64,
    /// Where its record before this one is: partition and offset.
    pub(crate) previous: Option<(u32, u64)>,
}

/// What a stream had in `first..end` lies in `spans` from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MovedOp {
    pub(crate) stream: StreamId,
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) spans: Vec<Span>,
    /// Up to here the partition is compacted; `None` when this was no compaction.
    pub(crate) compacted: Option<u64>,
}

impl MovedOp {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(tag::MOVED);
        put_u64(out, self.stream.0);
        put_u64(out, self.first);
        put_u64(out, self.end);
        put_option(out, self.compacted);
        put_u64(out, self.spans.len() as u64);
        self.spans.iter().for_each(|span| span.encode(out));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Decoded<MovedOp> {
        Ok(MovedOp {
            stream: StreamId(r.u64()?),
            first: r.u64()?,
            end: r.u64()?,
            compacted: r.option()?,
            spans: {
                let count = r.count(6)?;
                (0..count)
                    .map(|_| Span::decode(r))
                    .collect::<Decoded<_>>()?
            },
        })
    }
}

impl AppendOp {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let tag = if !self.versions.is_empty() {
            tag::APPEND_VERSIONS
        } else if !self.ids.is_empty() {
            tag::APPEND_IDS
        } else {
            tag::APPEND
        };
        put_place(out, tag, self.topic, self.partition, self.first);
        put_u64(out, u64::from(self.count));
        put_i64(out, self.time);
        if self.ids.is_empty() && self.versions.is_empty() {
            return;
        }
        put_u64(out, self.ids.len() as u64);
        self.ids.iter().for_each(|id| put_u128(out, *id));
        for step in &self.versions {
            put_u64(out, step.version);
            if step.version > 0 {
                put_u128(out, step.key);
                put_option(out, step.previous.map(|(_, offset)| offset));
                if let Some((partition, _)) = step.previous {
                    put_u64(out, u64::from(partition));
                }
            }
        }
    }

    pub(super) fn decode(tag: u8, r: &mut Reader<'_>) -> Decoded<AppendOp> {
        let mut op = AppendOp {
            topic: r.u32()?,
            partition: r.u32()?,
            first: r.u64()?,
            count: r.u32()?,
            time: r.i64()?,
            ..AppendOp::default()
        };
        if tag == tag::APPEND {
            return Ok(op);
        }
        for _ in 0..r.count(16)? {
            op.ids.push(r.u128()?);
        }
        if tag == tag::APPEND_VERSIONS {
            if op.count as usize > r.remaining() {
                return Err(Malformed);
            }
            for _ in 0..op.count {
                op.versions.push(KeyStep::decode(r)?);
            }
        }
        Ok(op)
    }
}

impl KeyStep {
    pub(super) fn decode(r: &mut Reader<'_>) -> Decoded<KeyStep> {
        let version = r.u64()?;
        if version == 0 {
            return Ok(KeyStep {
                key: 0,
                version,
                previous: None,
            });
        }
        let key = r.u128()?;
        let previous = match r.option()? {
            Some(offset) => Some((r.u32()?, offset)),
            None => None,
        };
        Ok(KeyStep {
            key,
            version,
            previous,
        })
    }
}

impl TopicSettings {
    pub(crate) fn has_cleanup(&self) -> bool {
        self.retention_ms.is_some() || self.retention_bytes.is_some() || self.compaction.is_some()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, u64::from(self.partitions));
        put_option(out, self.retention_ms);
        put_option(out, self.retention_bytes);
        out.push(u8::from(self.key_versions));
        put_u64(out, self.dedupe_ms);
        put_option(out, self.compaction.map(|c| c.min_lag_ms));
        if let Some(compaction) = self.compaction {
            put_u64(out, compaction.tombstones_ms);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Decoded<Self> {
        Ok(TopicSettings {
            partitions: r.u32()?,
            retention_ms: r.option()?,
            retention_bytes: r.option()?,
            key_versions: r.bool()?,
            dedupe_ms: r.u64()?,
            compaction: match r.option()? {
                Some(min_lag_ms) => Some(CompactionSettings {
                    min_lag_ms,
                    tombstones_ms: r.u64()?,
                }),
                None => None,
            },
        })
    }
}
