//! What reading gives: one buffer with many records, and single messages cut out of it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::records::{Batch, Record};
use crate::time::Timestamp;

mod build;

pub use build::ChunkBuilder;

/// A place in a partition. Ordered within its partition, opaque otherwise.
///
/// On an engine whose caps say `dense_offsets` it is the offset (0, 1, 2 ..); elsewhere it is the engine's own
/// stamp, for example both halves of a Redis stream id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(u128);

impl Position {
    /// The position of `offset` on an engine with dense offsets.
    pub const fn at(offset: u64) -> Self {
        Position(offset as u128)
    }

    /// A position of two halves, ordered by the first and then the second.
    pub const fn of_parts(high: u64, low: u64) -> Self {
        Position((high as u128) << 64 | low as u128)
    }

    /// The offset (the low half).
    pub const fn offset(self) -> u64 {
        self.0 as u64
    }

    /// The position right behind it: nothing lies between.
    pub const fn next(self) -> Self {
        Position(self.0.saturating_add(1))
    }

    /// Both halves.
    pub const fn parts(self) -> (u64, u64) {
        ((self.0 >> 64) as u64, self.0 as u64)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (0, low) => write!(f, "{low}"),
            (high, low) => write!(f, "{high}-{low}"),
        }
    }
}

/// Reads what [`Display`](fmt::Display) writes: an offset, or two halves as `HIGH-LOW`.
///
/// ```
/// use strait_core::Position;
/// for at in [Position::at(17), Position::of_parts(1_700_000_000_000, 3)] {
///     assert_eq!(at.to_string().parse(), Ok(at));
/// }
/// assert!("-1".parse::<Position>().is_err());
/// ```
impl std::str::FromStr for Position {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        // `parse` takes a sign, which no position has.
        let number = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(BadPosition)
        };
        match text.split_once('-') {
            None => Ok(Position::at(number(text)?)),
            Some((high, low)) => Ok(Position::of_parts(number(high)?, number(low)?)),
        }
    }
}

/// The text is no [`Position`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPosition;

impl fmt::Display for BadPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a position is an offset such as 17, or two numbers such as 1700000000000-3")
    }
}

impl std::error::Error for BadPosition {}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A run of one batch inside a [`Chunk`]'s buffer.
#[derive(Debug, Clone)]
pub struct Span {
    /// Where the batch begins in the buffer.
    pub at: u32,
    /// The position of the first record taken.
    pub first: Position,
    /// Records of the batch that lie before it and are not part of the chunk.
    pub skip: u32,
    /// Records taken.
    pub take: u32,
    /// When the engine appended the batch.
    pub appended: Timestamp,
}

/// Records of one partition in one buffer, borrowed as they are visited: nothing is allocated per record.
#[derive(Clone)]
pub struct Chunk {
    topic: Arc<str>,
    partition: u32,
    buf: Bytes,
    spans: Vec<Span>,
    next: Position,
    len: usize,
}

impl Chunk {
    /// A chunk over batches whose checksums the engine has verified. `next` is where reading goes on.
    pub fn new(
        topic: Arc<str>,
        partition: u32,
        buf: Bytes,
        spans: Vec<Span>,
        next: Position,
    ) -> Self {
        let len = spans.iter().map(|span| span.take as usize).sum();
        Chunk {
            topic,
            partition,
            buf,
            spans,
            next,
            len,
        }
    }

    /// The topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when it holds none: the reader is at the end, for now.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The position after its last record: where the next read begins.
    pub fn next(&self) -> Position {
        self.next
    }

    /// The position of its first record.
    pub fn first(&self) -> Option<Position> {
        self.spans.first().map(|span| span.first)
    }

    /// The same records under other positions, the first at `first`: for engines that keep a copy elsewhere.
    pub fn at(mut self, first: Position) -> Self {
        let (high, mut low) = first.parts();
        for span in &mut self.spans {
            span.first = Position::of_parts(high, low);
            low += u64::from(span.take);
        }
        self.next = Position::of_parts(high, low);
        self
    }

    /// The same records in pieces whose positions follow each other: one, unless compaction has left gaps.
    pub fn runs(&self) -> impl Iterator<Item = Chunk> {
        let end = |span: &Span| {
            let (high, low) = span.first.parts();
            Position::of_parts(high, low + u64::from(span.take))
        };
        let follows = move |a: &Span, b: &Span| end(a) == b.first;
        self.spans.chunk_by(follows).map(move |spans| {
            let next = spans.last().map_or(self.next, end);
            Chunk::new(
                self.topic.clone(),
                self.partition,
                self.buf.clone(),
                spans.to_vec(),
                next,
            )
        })
    }

    /// The runs of batches, for engines that forward whole batches.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The buffer that the spans point into.
    pub fn buffer(&self) -> &Bytes {
        &self.buf
    }

    /// Every record with its position, in order.
    pub fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        self.spans.iter().flat_map(move |span| {
            let bytes = self.buf.get(span.at as usize..).unwrap_or_default();
            let records = Batch::peek(bytes).ok().map(|batch| batch.iter());
            let (skip, take) = (span.skip as usize, span.take as usize);
            let (high, low) = span.first.parts();
            records
                .into_iter()
                .flatten()
                .skip(skip)
                .take(take)
                .enumerate()
                .map(move |(i, record)| Item {
                    chunk: self,
                    span,
                    position: Position::of_parts(high, low + i as u64),
                    record,
                })
        })
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Chunk({}/{}: {} records",
            self.topic, self.partition, self.len
        )?;
        match self.first() {
            Some(first) => write!(f, " from {first})"),
            None => f.write_str(")"),
        }
    }
}

/// One record of a chunk.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    chunk: &'a Chunk,
    span: &'a Span,
    position: Position,
    record: Record<'a>,
}

impl<'a> Item<'a> {
    /// Where it stands in its partition.
    pub fn position(&self) -> Position {
        self.position
    }

    /// When the engine appended it.
    pub fn appended(&self) -> Timestamp {
        self.span.appended
    }

    /// The record.
    pub fn record(&self) -> Record<'a> {
        self.record
    }

    /// A message of its own that outlives the chunk (shares the buffer, copies nothing).
    pub fn to_message(&self) -> Message {
        let start = self.span.at as usize;
        let end = start + self.record.batch().bytes().len();
        Message {
            topic: self.chunk.topic.clone(),
            partition: self.chunk.partition,
            position: self.position,
            appended: self.span.appended,
            batch: self.chunk.buf.slice(start..end),
            at: self.record.at(),
            index: self.record.index(),
        }
    }
}

/// One stored message, owned: a handle on its batch's shared bytes.
#[derive(Clone)]
pub struct Message {
    topic: Arc<str>,
    partition: u32,
    position: Position,
    appended: Timestamp,
    batch: Bytes,
    at: u32,
    index: u32,
}

impl Message {
    /// The topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Where it stands in its partition.
    pub fn position(&self) -> Position {
        self.position
    }

    /// When the engine appended it.
    pub fn appended(&self) -> Timestamp {
        self.appended
    }

    /// The record.
    pub fn record(&self) -> Record<'_> {
        Batch::peek(&self.batch)
            .ok()
            .and_then(|batch| batch.record_at(self.at, self.index))
            .expect("a message is made only from a record that was read at this place")
    }

    /// The same message as it stood elsewhere: for engines that keep a copy of it in another place.
    pub fn placed(self, partition: u32, position: Position, appended: Timestamp) -> Self {
        Message {
            partition,
            position,
            appended,
            ..self
        }
    }

    /// The bytes of its batch.
    pub fn batch(&self) -> &Bytes {
        &self.batch
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Message({}/{} at {})",
            self.topic, self.partition, self.position
        )
    }
}
