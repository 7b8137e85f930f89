//! Where the records of a partition lie in the interleaved log.
//!
//! A [`Stream`] is the sequence of batches of one partition (or of one group's dead letters). Its newest extents are in
//! memory; those of a finished segment move to the segment's index file, and the stream keeps one [`Span`] for it. The
//! cleaner moves spans to other segments. Spans and extents follow each other without a gap; inside of a span that was
//! compacted, and nowhere else, offsets may be missing.

use std::collections::VecDeque;
use std::ops::Range;

use crate::codec::{Decoded, Malformed, Reader, put_i64, put_u64};
use crate::disk::cleaned::{is_cleaned, parts_of};

/// The class of cleaned segments with what compaction left.
pub(crate) const COMPACTED: u8 = 1;

/// One batch in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// Length of the batch in bytes.
    pub(crate) len: u32,
    pub(crate) segment: u64,
    /// Where the batch begins in the segment's file.
    pub(crate) pos: u32,
    /// Where the operation that appended it begins.
    pub(crate) op: u32,
    /// When it was appended.
    pub(crate) time: i64,
    /// The greatest time of its records.
    pub(crate) latest: i64,
}

impl Extent {
    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.first);
        put_u64(out, u64::from(self.count));
        put_u64(out, u64::from(self.len));
        put_u64(out, self.segment);
        put_u64(out, u64::from(self.pos));
        put_u64(out, u64::from(self.op));
        put_i64(out, self.time);
        put_i64(out, self.latest);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Decoded<Extent> {
        let extent = Extent {
            first: r.u64()?,
            count: r.u32()?,
            len: r.u32()?,
            segment: r.u64()?,
            pos: r.u32()?,
            op: r.u32()?,
            time: r.i64()?,
            latest: r.i64()?,
        };
        extent
            .first
            .checked_add(u64::from(extent.count))
            .ok_or(Malformed)?;
        Ok(extent)
    }
}

/// What a stream has in one indexed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// 0, which no segment has: nothing is left of it.
    pub(crate) segment: u64,
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) bytes: u64,
    /// The newest append time.
    pub(crate) time: i64,
    /// The greatest time of its records.
    pub(crate) latest: i64,
}

impl Span {
    fn of(extents: &[Extent]) -> Option<Span> {
        let (first, last) = (extents.first()?, extents.last()?);
        Some(Span {
            segment: first.segment,
            first: first.first,
            end: last.end(),
            bytes: extents.iter().map(|e| u64::from(e.len)).sum(),
            time: extents.iter().map(|e| e.time).max()?,
            latest: extents.iter().map(|e| e.latest).max()?,
        })
    }

    /// A span of which compaction left nothing.
    pub(crate) fn hollow(first: u64, end: u64) -> Span {
        Span {
            segment: 0,
            first,
            end,
            bytes: 0,
            time: i64::MIN,
            latest: i64::MIN,
        }
    }

    pub(crate) fn is_hollow(&self) -> bool {
        self.segment == 0
    }

    /// True where offsets may be missing.
    pub(crate) fn is_sparse(&self) -> bool {
        self.is_hollow() || is_cleaned(self.segment) && parts_of(self.segment).0 == COMPACTED
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.segment);
        put_u64(out, self.first);
        put_u64(out, self.end);
        put_u64(out, self.bytes);
        put_i64(out, self.time);
        put_i64(out, self.latest);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Decoded<Span> {
        Ok(Span {
            segment: r.u64()?,
            first: r.u64()?,
            end: r.u64()?,
            bytes: r.u64()?,
            time: r.i64()?,
            latest: r.i64()?,
        })
    }
}

/// Which stream: a partition of a topic, or the dead letters of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamId(pub(crate) u64);

impl StreamId {
    const DEAD: u64 = 1 << 63;

    pub(crate) fn partition(topic: u32, partition: u32) -> StreamId {
        StreamId(u64::from(topic) << 24 | u64::from(partition))
    }

    pub(crate) fn dead(group: u32) -> StreamId {
        StreamId(StreamId::DEAD | u64::from(group))
    }

    /// The topic and partition, unless it holds dead letters.
    pub(crate) fn as_partition(self) -> Option<(u32, u32)> {
        (self.0 & StreamId::DEAD == 0).then_some(((self.0 >> 24) as u32, self.0 as u32 & 0xff_ffff))
    }

    /// The group whose dead letters it holds.
    pub(crate) fn as_dead(self) -> Option<u32> {
        (self.0 & StreamId::DEAD != 0).then_some(self.0 as u32)
    }
}

/// Where to look for the batch of an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// At this index of [`Stream::recent`].
    Recent(usize),
    /// In the index of this span's segment.
    Indexed(Span),
    /// Nowhere: at or past the end of what may be seen.
    End,
}

#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// The earliest offset that is left.
    pub(crate) start: u64,
    /// The offset that the next record gets.
    pub(crate) end: u64,
    /// Everything before it is durable: readers see no further.
    pub(crate) visible: u64,
    /// Indexed segments, oldest first.
    pub(crate) spans: VecDeque<Span>,
    /// Batches of segments that have no index yet, oldest first.
    pub(crate) recent: VecDeque<Extent>,
    pub(crate) bytes: u64,
}

impl Stream {
    pub(crate) fn push(&mut self, extent: Extent) {
        self.bytes += u64::from(extent.len);
        self.recent.push_back(extent);
    }

    /// End of what has its place in the log.
    pub(crate) fn placed(&self) -> u64 {
        match (self.recent.back(), self.spans.back()) {
            (Some(extent), _) => extent.end(),
            (None, Some(span)) => span.end,
            (None, None) => self.start,
        }
    }

    pub(crate) fn place_of(&self, offset: u64) -> Place {
        if offset >= self.visible {
            return Place::End;
        }
        if self
            .recent
            .front()
            .is_some_and(|extent| offset >= extent.first)
        {
            let after = self.recent.partition_point(|extent| extent.first <= offset);
            return Place::Recent(after - 1);
        }
        let after = self.spans.partition_point(|span| span.first <= offset);
        match after.checked_sub(1).and_then(|i| self.spans.get(i)) {
            Some(span) => Place::Indexed(*span),
            None => Place::End,
        }
    }

    /// Drops what lies before `start`, whole batches only.
    pub(crate) fn trim(&mut self, start: u64) {
        self.start = self.start.max(start);
        self.end = self.end.max(start);
        while self
            .spans
            .front()
            .is_some_and(|span| span.end <= self.start)
        {
            self.bytes -= self.spans.pop_front().map_or(0, |span| span.bytes);
        }
        while self
            .recent
            .front()
            .is_some_and(|extent| extent.end() <= self.start)
        {
            self.bytes -= self.recent.pop_front().map_or(0, |e| u64::from(e.len));
        }
        self.visible = self.visible.max(self.start);
    }

    /// Where its batches of `segment` are in `recent`. The log goes from segment to segment upwards.
    fn range_of(&self, segment: u64) -> Range<usize> {
        let start = self.recent.partition_point(|e| e.segment < segment);
        start..self.recent.partition_point(|e| e.segment <= segment)
    }

    /// The batches that it has in `segment` and that have no index yet.
    pub(crate) fn in_segment(&self, segment: u64) -> impl Iterator<Item = &Extent> {
        self.recent.range(self.range_of(segment))
    }

    /// The index of `segment` is durable: one span takes the place of its extents.
    pub(crate) fn indexed(&mut self, segment: u64) {
        let here: Vec<Extent> = self.recent.drain(self.range_of(segment)).collect();
        if let Some(span) = Span::of(&here) {
            let at = self.spans.partition_point(|other| other.first < span.first);
            self.spans.insert(at, span);
        }
    }

    /// What it had in `first..end` lies in `spans` now, which follow each other over all of that range.
    pub(crate) fn moved(&mut self, first: u64, end: u64, spans: &[Span]) {
        // In replay the extents are in memory again; their segments had their index files when this was logged.
        while let Some(extent) = self.recent.front().filter(|e| e.first < end) {
            self.indexed(extent.segment);
        }
        let from = self.spans.partition_point(|span| span.first < first);
        let to = self.spans.partition_point(|span| span.first < end);
        let gone = self.spans.drain(from..to).map(|span| span.bytes);
        self.bytes -= gone.sum::<u64>();
        // What was trimmed since the range was looked at does not come back.
        let left = spans.iter().filter(|span| span.end > self.start);
        for (i, span) in left.enumerate() {
            self.bytes += span.bytes;
            self.spans.insert(from + i, *span);
        }
    }

    /// The spans of `first..end`, when they are still these: a range that the cleaner has read.
    pub(crate) fn has(&self, sources: &[Span]) -> bool {
        let left: Vec<&Span> = sources
            .iter()
            .filter(|span| span.end > self.start)
            .collect();
        let Some(first) = left.first() else {
            return false;
        };
        let from = self.spans.partition_point(|span| span.first < first.first);
        let here = self.spans.range(from.min(self.spans.len())..);
        here.take(left.len()).eq(left)
    }

    /// The offset up to which retention may delete: whole finished segments only, oldest first.
    pub(crate) fn expired(&self, older_than: Option<i64>, more_than: Option<u64>) -> u64 {
        let mut start = self.start;
        let mut bytes = self.bytes;
        for span in &self.spans {
            let old = older_than.is_some_and(|time| span.time < time);
            let much = more_than.is_some_and(|most| bytes.saturating_sub(span.bytes) >= most);
            if !old && !much {
                break;
            }
            bytes -= span.bytes;
            start = span.end;
        }
        start
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.start);
        // What is not placed yet comes back by replay.
        put_u64(out, self.placed().max(self.start));
        put_u64(out, self.spans.len() as u64);
        self.spans.iter().for_each(|span| span.encode(out));
        put_u64(out, self.recent.len() as u64);
        self.recent.iter().for_each(|extent| extent.encode(out));
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Decoded<Stream> {
        let mut stream = Stream {
            start: r.u64()?,
            end: r.u64()?,
            ..Stream::default()
        };
        for _ in 0..r.count(6)? {
            stream.spans.push_back(Span::decode(r)?);
        }
        for _ in 0..r.count(8)? {
            stream.recent.push_back(Extent::decode(r)?);
        }
        stream.visible = stream.end;
        stream.bytes = stream.spans.iter().map(|s| s.bytes).sum::<u64>()
            + stream.recent.iter().map(|e| u64::from(e.len)).sum::<u64>();
        Ok(stream)
    }

    /// Segments that it needs.
    pub(crate) fn segments(&self) -> impl Iterator<Item = u64> {
        let spans = self.spans.iter().filter(|span| !span.is_hollow());
        let spans = spans.map(|span| span.segment);
        let after = |extent: &&Extent| self.recent.get(self.range_of(extent.segment).end);
        let recent = std::iter::successors(self.recent.front(), after);
        spans.chain(recent.map(|extent| extent.segment))
    }
}
