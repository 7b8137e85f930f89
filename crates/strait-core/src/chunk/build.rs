//! Chunks of messages that another store holds one by one.

use super::{Chunk, Position, Span};
use crate::error::Result;
use crate::name::Name;
use crate::records::{Attr, Limits, MessageId, NewRecord, RecordsBuilder};
use crate::time::Timestamp;

/// Makes a chunk of messages of one partition, in their order: for engines whose store keeps no batches.
///
/// Messages that once were in one batch are put into one again, under its id, so that each has the id that its producer knows.
///
/// ```
/// use strait_core::{ChunkBuilder, NewRecord, Position, Timestamp};
/// let mut chunk = ChunkBuilder::new("orders".parse()?, 0);
/// let record = NewRecord { body: b"by another program", ..NewRecord::default() };
/// chunk.push(Position::at(7), Timestamp::from_millis(1), None, record)?;
/// let chunk = chunk.build(Position::at(8));
/// assert_eq!(chunk.iter().next().unwrap().record().id().to_string(), "orders/0/7");
/// # Ok::<(), strait_core::Error>(())
/// ```
#[derive(Debug)]
pub struct ChunkBuilder {
    topic: Name,
    partition: u32,
    buf: Vec<u8>,
    spans: Vec<Span>,
    open: Option<Open>,
    len: usize,
    bytes: usize,
}

/// The batch that is being filled.
#[derive(Debug)]
struct Open {
    builder: RecordsBuilder,
    id: u128,
    span: Span,
}

impl Open {
    fn next_index(&self) -> u32 {
        self.span.skip + self.span.take
    }

    fn next_position(&self) -> Position {
        let (high, low) = self.span.first.parts();
        Position::of_parts(high, low + u64::from(self.span.take))
    }
}

impl ChunkBuilder {
    /// No message yet.
    pub fn new(topic: Name, partition: u32) -> Self {
        ChunkBuilder {
            topic,
            partition,
            buf: Vec::new(),
            spans: Vec::new(),
            open: None,
            len: 0,
            bytes: 0,
        }
    }

    /// Number of messages so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keys, headers and bodies so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the next message. `id` is the text that the store has for it, as [`MessageId`] shows it; one without is known by
    /// its place, `topic/partition/position`, which never changes. A record without a time has that of `appended`.
    ///
    /// # Errors
    ///
    /// `Rejected` for an attribute that is too long.
    pub fn push(
        &mut self,
        position: Position,
        appended: Timestamp,
        id: Option<&str>,
        record: NewRecord<'_>,
    ) -> Result<()> {
        let derived = id.and_then(MessageId::read_derived);
        let (batch, index) =
            derived.unwrap_or_else(|| (0, self.open.as_ref().map_or(0, Open::next_index)));
        let place = || format!("{}/{}/{position}", self.topic, self.partition);
        let own = derived
            .is_none()
            .then(|| id.map_or_else(place, str::to_owned));
        let open = self.place(batch, index, position, appended)?;
        match &own {
            None => open.builder.push_stored(record)?,
            Some(own) => {
                let mut attrs = record.attrs.to_vec();
                attrs.push((Attr::Id, own));
                let attrs = &attrs;
                open.builder.push_stored(NewRecord { attrs, ..record })?;
            }
        }
        open.span.take += 1;
        self.len += 1;
        let headers = record.headers.iter().map(|(n, v)| n.len() + v.len());
        self.bytes += record.key.map_or(0, <[u8]>::len) + record.body.len();
        self.bytes += headers.sum::<usize>();
        Ok(())
    }

    /// The open batch, or a new one where the message does not follow in it.
    fn place(
        &mut self,
        id: u128,
        index: u32,
        position: Position,
        appended: Timestamp,
    ) -> Result<&mut Open> {
        let follows = self.open.as_ref().is_some_and(|open| {
            open.id == id
                && open.next_index() == index
                && open.next_position() == position
                && open.span.appended == appended
        });
        if !follows {
            self.close();
        }
        match &mut self.open {
            Some(open) => Ok(open),
            none => {
                let skip = if id == 0 { 0 } else { index };
                let mut builder = RecordsBuilder::with(&[], Limits::default(), appended, id)?;
                builder.leave_out(skip);
                let span = Span {
                    at: self.buf.len() as u32,
                    first: position,
                    skip,
                    take: 0,
                    appended,
                };
                Ok(none.insert(Open { builder, id, span }))
            }
        }
    }

    fn close(&mut self) {
        // A message that was refused leaves its batch empty.
        if let Some(open) = self.open.take().filter(|open| open.span.take > 0) {
            self.spans.push(open.span);
            self.buf.extend_from_slice(open.builder.build().bytes());
        }
    }

    /// The chunk; reading goes on at `next`.
    pub fn build(mut self, next: Position) -> Chunk {
        self.close();
        Chunk::new(
            self.topic.shared(),
            self.partition,
            self.buf.into(),
            self.spans,
            next,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a store has of a message: position, id, body.
    fn chunk(messages: &[(u64, Option<&str>)]) -> Chunk {
        let mut chunk = ChunkBuilder::new("t".parse().unwrap(), 3);
        for (at, id) in messages {
            let record = NewRecord {
                body: b"b",
                ..NewRecord::default()
            };
            let position = Position::of_parts(5, *at);
            chunk
                .push(position, Timestamp::from_millis(5), *id, record)
                .unwrap();
        }
        chunk.build(Position::of_parts(6, 0))
    }

    #[test]
    fn ids_and_positions_stay_however_a_batch_is_cut() {
        let of = |index: u32| format!("{}7.{index}", "0".repeat(31));
        let (third, fourth, sixth) = (of(3), of(4), of(6));
        let chunk = chunk(&[
            (0, Some(&third)),
            (1, Some(&fourth)),
            (2, Some(&sixth)),
            (3, Some("mine")),
            (4, None),
            (9, None),
        ]);
        let ids: Vec<_> = chunk
            .iter()
            .map(|item| item.record().id().to_string())
            .collect();
        assert_eq!(ids, [&third, &fourth, &sixth, "mine", "t/3/5-4", "t/3/5-9"]);
        let positions: Vec<_> = chunk.iter().map(|item| item.position().offset()).collect();
        assert_eq!(positions, [0, 1, 2, 3, 4, 9]);
        assert_eq!(chunk.spans().len(), 4, "{:?}", chunk.spans());
    }
}
