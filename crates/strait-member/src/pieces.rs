//! What was read and is not settled: messages by number.

use std::collections::BTreeMap;

use strait_core::{Chunk, Message, Position, Span};

/// One chunk as it was read.
#[derive(Debug)]
struct Piece {
    chunk: Chunk,
    /// Right behind the message before its first.
    from: Position,
    /// Of each span, the index of its first message in the chunk.
    starts: Vec<u32>,
}

impl Piece {
    fn new(chunk: Chunk, from: Position) -> Self {
        let mut at = 0;
        let starts = chunk
            .spans()
            .iter()
            .map(|span| {
                let start = at;
                at += span.take;
                start
            })
            .collect();
        Piece {
            chunk,
            from,
            starts,
        }
    }

    /// The span that holds the message of this index, and its index in it.
    fn find(&self, index: u32) -> (usize, u32) {
        let span = self.starts.partition_point(|start| *start <= index) - 1;
        (span, index - self.starts[span])
    }

    fn position(&self, index: u32) -> Position {
        let (span, within) = self.find(index);
        let (high, low) = self.chunk.spans()[span].first.parts();
        Position::of_parts(high, low + u64::from(within))
    }

    /// The messages of these indexes as a chunk of their own.
    fn slice(&self, from: u32, to: u32) -> Chunk {
        let (first, skip) = self.find(from);
        let (last, _) = self.find(to - 1);
        let mut spans: Vec<Span> = self.chunk.spans()[first..=last].to_vec();
        if let Some(span) = spans.first_mut() {
            let (high, low) = span.first.parts();
            span.first = Position::of_parts(high, low + u64::from(skip));
            span.skip += skip;
            span.take -= skip;
        }
        let surplus: u32 = spans.iter().map(|span| span.take).sum::<u32>() - (to - from);
        if let Some(span) = spans.last_mut() {
            span.take -= surplus;
        }
        Chunk::new(
            self.chunk.topic().clone(),
            self.chunk.partition(),
            self.chunk.buffer().clone(),
            spans,
            self.position(to - 1).next(),
        )
    }
}

/// The chunks that hold unsettled messages, by the number of their first.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    pieces: BTreeMap<u64, Piece>,
    bytes: usize,
}

impl Pieces {
    /// Puts in what was read next; `first` is its first number, `from` lies right behind the message before.
    pub(crate) fn push(&mut self, first: u64, chunk: Chunk, from: Position) {
        self.bytes += chunk.buffer().len();
        self.pieces.insert(first, Piece::new(chunk, from));
    }

    /// Bytes of the chunks.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets what lies before `low`.
    pub(crate) fn drop_before(&mut self, low: u64) {
        while let Some(piece) = self.pieces.first_entry() {
            if piece.key() + piece.get().chunk.len() as u64 > low {
                return;
            }
            self.bytes -= piece.remove().chunk.buffer().len();
        }
    }

    fn piece_of(&self, number: u64) -> Option<(u64, &Piece)> {
        let (first, piece) = self.pieces.range(..=number).next_back()?;
        (number - first < piece.chunk.len() as u64).then_some((*first, piece))
    }

    /// The position of a message.
    pub(crate) fn position(&self, number: u64) -> Option<Position> {
        let (first, piece) = self.piece_of(number)?;
        Some(piece.position((number - first) as u32))
    }

    /// Right behind the message before this one.
    pub(crate) fn from(&self, number: u64) -> Option<Position> {
        let (first, piece) = self.piece_of(number)?;
        match number - first {
            0 => Some(piece.from),
            index => Some(piece.position(index as u32 - 1).next()),
        }
    }

    /// The messages from `from` on, up to `to` and to the end of their chunk, at most.
    pub(crate) fn slice(&self, from: u64, to: u64) -> Option<Chunk> {
        let (first, piece) = self.piece_of(from)?;
        let end = (to - first).min(piece.chunk.len() as u64);
        Some(piece.slice((from - first) as u32, end as u32))
    }

    /// A message of its own.
    pub(crate) fn message(&self, number: u64) -> Option<Message> {
        let chunk = self.slice(number, number + 1)?;
        chunk.iter().next().map(|item| item.to_message())
    }
}
