//! Chunks and single messages: batches travel as they are, what lies around them is written beside.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strait_core::events::KeyVersion;
use strait_core::records::BATCH_HEAD;
use strait_core::{Batch, Chunk, Fence, Message, Position, Result, Shard, Span, Timestamp};

use super::{In, Out, Wire, malformed, put_text, wire_struct};

wire_struct!(Span {
    at,
    first,
    skip,
    take,
    appended
});

impl Wire for Chunk {
    fn put(&self, out: &mut Out) {
        put_text(self.topic(), out);
        self.partition().put(out);
        self.next().put(out);
        // Only what the spans touch travels: an engine may give a piece of a much larger buffer.
        let ends = self.spans().iter().map(|span| {
            let at = span.at as usize;
            let batch = self.buffer().get(at..).map(Batch::peek);
            at + batch.and_then(Result::ok).map_or(0, |b| b.bytes().len())
        });
        let end = ends.max().unwrap_or(0);
        let start = self.spans().iter().map(|span| span.at).min().unwrap_or(0);
        (self.spans().len() as u32).put(out);
        for span in self.spans() {
            let at = span.at - start;
            Span { at, ..span.clone() }.put(out);
        }
        out.shared(&self.buffer().slice(start as usize..end.max(start as usize)));
    }

    fn get(input: &mut In) -> Result<Self> {
        let (topic, partition, next) = (Arc::get(input)?, u32::get(input)?, Wire::get(input)?);
        let spans = Vec::<Span>::get(input)?;
        let buf = input.shared()?;
        for span in &spans {
            // The owner verified the checksums; here the bounds are, so that nothing is read outside.
            let batch = Batch::peek(buf.get(span.at as usize..).unwrap_or_default())?;
            let (_, low) = span.first.parts();
            let within = span.skip.checked_add(span.take);
            if within.is_none_or(|end| end as usize > batch.len())
                || low.checked_add(u64::from(span.take)).is_none()
            {
                return Err(malformed("a span exceeds its batch"));
            }
        }
        Ok(Chunk::new(topic, partition, buf, spans, next))
    }
}

/// Single messages: each batch once, and of each message the batch's number and its index.
pub(super) struct Messages(pub(super) Vec<Message>);

/// A batch as messages refer to it.
struct Home {
    topic: Arc<str>,
    partition: u32,
    /// The position of the batch's first record; the others follow.
    base: Position,
    appended: Timestamp,
    batch: Bytes,
}
wire_struct!(Home {
    topic,
    partition,
    base,
    appended,
    batch
});

pub(super) fn put_messages<'a>(messages: impl Iterator<Item = &'a Message> + Clone, out: &mut Out) {
    let mut homes = Vec::new();
    let mut known = HashMap::new();
    let mut places: Vec<(u32, u32)> = Vec::new();
    for message in messages {
        let index = message.record().index();
        let (high, low) = message.position().parts();
        let base = Position::of_parts(high, low.wrapping_sub(u64::from(index)));
        // A batch's head holds its id and checksum: it tells batches apart without comparing their bytes.
        let head = &message.batch()[..BATCH_HEAD];
        let key = (head, &**message.topic(), message.partition(), base);
        let home = *known.entry(key).or_insert_with(|| {
            homes.push(Home {
                topic: message.topic().clone(),
                partition: message.partition(),
                base,
                appended: message.appended(),
                batch: message.batch().clone(),
            });
            homes.len() as u32 - 1
        });
        places.push((home, index));
    }
    homes.put(out);
    places.put(out);
}

impl Messages {
    pub(super) fn get(input: &mut In) -> Result<Self> {
        let homes = Vec::<Home>::get(input)?;
        let places = Vec::<(u32, u32)>::get(input)?;
        let mut wanted: Vec<Vec<(u32, usize)>> = homes.iter().map(|_| Vec::new()).collect();
        for (slot, (home, index)) in places.iter().enumerate() {
            let home = wanted.get_mut(*home as usize);
            home.ok_or_else(|| malformed("a message without its batch"))?
                .push((*index, slot));
        }
        let mut messages: Vec<Option<Message>> = places.iter().map(|_| None).collect();
        for (home, mut wanted) in homes.into_iter().zip(wanted) {
            wanted.sort_unstable();
            home.pick(&wanted, &mut messages)?;
        }
        let whole: Option<Vec<_>> = messages.into_iter().collect();
        whole
            .map(Messages)
            .ok_or_else(|| malformed("a message that its batch does not hold"))
    }
}

impl Home {
    /// Cuts the wanted messages (index in the batch, ascending, and slot) out in one pass over the batch.
    fn pick(self, wanted: &[(u32, usize)], into: &mut [Option<Message>]) -> Result<()> {
        let take = Batch::check_all(&self.batch)?.len() as u32;
        let (_, low) = self.base.parts();
        if low.checked_add(u64::from(take)).is_none() {
            return Err(malformed("a position beyond the last"));
        }
        let span = Span {
            at: 0,
            first: self.base,
            skip: 0,
            take,
            appended: self.appended,
        };
        let chunk = Chunk::new(
            self.topic,
            self.partition,
            self.batch,
            vec![span],
            self.base,
        );
        let mut wanted = wanted.iter().peekable();
        for item in chunk.iter() {
            while let Some((_, slot)) = wanted.next_if(|(index, _)| *index == item.record().index())
            {
                into[*slot] = Some(item.to_message());
            }
            if wanted.peek().is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// What `read_key` answers.
#[derive(Debug)]
pub(crate) struct KeyMessages(pub(crate) Vec<(KeyVersion, Message)>);

impl Wire for KeyMessages {
    fn put(&self, out: &mut Out) {
        put_messages(self.0.iter().map(|(_, message)| message), out);
        for (version, _) in &self.0 {
            version.put(out);
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        let messages = Messages::get(input)?.0.into_iter();
        messages
            .map(|message| Ok((u64::get(input)?, message)))
            .collect::<Result<_>>()
            .map(KeyMessages)
    }
}

/// Single deliveries, their receipts as identities.
#[derive(Debug)]
pub(crate) struct Deliveries(pub(crate) Vec<(Message, u32, Option<Arc<str>>, Fence)>);

/// An arrival on the wire.
#[derive(Debug)]
pub(crate) enum WireArrival {
    Each(Deliveries),
    Run(Chunk, Fence),
    Assigned(Shard),
    Revoking(Shard, Duration),
    Lost(Shard),
    End,
}

impl WireArrival {
    /// Number of messages: what it costs of the credit.
    pub(crate) fn items(&self) -> usize {
        match self {
            WireArrival::Each(deliveries) => deliveries.0.len(),
            WireArrival::Run(chunk, _) => chunk.len(),
            _ => 0,
        }
    }
}

impl Wire for WireArrival {
    fn put(&self, out: &mut Out) {
        match self {
            WireArrival::Each(Deliveries(each)) => {
                0u8.put(out);
                put_messages(each.iter().map(|(message, ..)| message), out);
                for (_, attempt, last_error, fence) in each {
                    attempt.put(out);
                    last_error.put(out);
                    fence.put(out);
                }
            }
            WireArrival::Run(chunk, fence) => {
                1u8.put(out);
                fence.put(out);
                chunk.put(out);
            }
            WireArrival::Assigned(shard) => {
                2u8.put(out);
                shard.put(out);
            }
            WireArrival::Revoking(shard, within) => {
                3u8.put(out);
                shard.put(out);
                within.put(out);
            }
            WireArrival::Lost(shard) => {
                4u8.put(out);
                shard.put(out);
            }
            WireArrival::End => 5u8.put(out),
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => {
                let messages = Messages::get(input)?.0.into_iter();
                let each = messages.map(|message| {
                    let attempt = u32::get(input)?;
                    Ok((message, attempt, Wire::get(input)?, Fence::get(input)?))
                });
                WireArrival::Each(Deliveries(each.collect::<Result<_>>()?))
            }
            1 => {
                let fence = Fence::get(input)?;
                let chunk = Chunk::get(input)?;
                if fence.count as usize != chunk.len() {
                    return Err(malformed("a receipt does not fit its run"));
                }
                WireArrival::Run(chunk, fence)
            }
            2 => WireArrival::Assigned(Wire::get(input)?),
            3 => WireArrival::Revoking(Wire::get(input)?, Wire::get(input)?),
            4 => WireArrival::Lost(Wire::get(input)?),
            5 => WireArrival::End,
            _ => return Err(malformed("unknown arrival")),
        })
    }
}
