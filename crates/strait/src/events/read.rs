//! Reading: a partition from a place on, or the messages of one key.

use std::borrow::Cow;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use strait_core::events::{Cursor, KeyVersion, ReadKey, Start};
use strait_core::{Chunk, Error, Fut, Kind, Message as Stored, Position, Result, Timestamp, codes};

use super::topic::Topic;
use crate::message::{Key, Message, Raw};

/// How long one call to the engine waits at the end before it is repeated.
const WAIT: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 1 << 20;
/// Messages of one key are fetched in pages of this many.
const KEY_PAGE: usize = 10_000;

/// A message that was read, with where and how it is stored.
#[derive(Debug, Clone)]
pub struct Event<M> {
    /// The message.
    pub message: M,
    stored: Stored,
}

impl<M> Event<M> {
    /// Its partition.
    pub fn partition(&self) -> u32 {
        self.stored.partition()
    }

    /// Its position in the partition.
    pub fn position(&self) -> Position {
        self.stored.position()
    }

    /// Its id: the one that the producer gave, else one that the batch gives it.
    pub fn id(&self) -> String {
        self.stored.record().id().to_string()
    }

    /// Its key.
    pub fn key(&self) -> Option<&[u8]> {
        self.stored.record().key()
    }

    /// Its kind.
    pub fn kind(&self) -> Option<&str> {
        self.stored.record().kind()
    }

    /// When it happened, as the producer says.
    pub fn time(&self) -> Timestamp {
        self.stored.record().time()
    }

    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.stored.record().header(name)
    }

    /// As it is stored.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }
}

/// Reads one partition in order. It follows: at the end it waits for more, unless [`until_end`](Reader::until_end).
pub struct Reader<M> {
    topic: Topic<M>,
    partition: u32,
    start: Start,
    /// Where the next chunk begins, once it is known.
    next: Option<Position>,
    bounded: bool,
    /// Where a bounded reader stops, once it is known.
    stop: Option<Position>,
    pending: std::vec::IntoIter<Stored>,
}

impl<M: Message> Reader<M> {
    pub(super) fn new(topic: Topic<M>, partition: u32, start: Start) -> Self {
        Reader {
            topic,
            partition,
            start,
            next: None,
            bounded: false,
            stop: None,
            pending: Vec::new().into_iter(),
        }
    }

    /// Stops at what is the end when the reading begins.
    pub fn until_end(mut self) -> Self {
        self.bounded = true;
        self
    }

    /// The next message, `None` at the end of a reader that stops there. Cancel-safe: a dropped call loses nothing.
    ///
    /// # Errors
    ///
    /// `Rejected` (`undecodable`) for a message that is no `M`: the next call goes on behind it. `NotFound`
    /// (`offset_gone`) when retention removed what comes next, and what the engine says.
    pub async fn next(&mut self) -> Result<Option<Event<M>>> {
        loop {
            if let Some(stored) = self.pending.next() {
                return decode(stored).map(Some);
            }
            match self.next_chunk().await? {
                Some(chunk) => {
                    let messages: Vec<_> = chunk.iter().map(|item| item.to_message()).collect();
                    self.pending = messages.into_iter();
                }
                None => return Ok(None),
            }
        }
    }

    /// The next chunk: many records in one buffer, borrowed as they are visited. The fastest way to read. What
    /// [`next`](Reader::next) took a chunk of and has not given yet is passed over.
    ///
    /// # Errors
    ///
    /// As for [`next`](Reader::next), without the decoding.
    pub async fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        loop {
            let position = self.position().await?;
            if self.stop.is_some_and(|stop| position >= stop) {
                return Ok(None);
            }
            let cursor = Cursor {
                topic: self.topic.inner.name.clone(),
                partition: self.partition,
                position,
                wait: WAIT,
            };
            let chunk = self.topic.inner.lane.read(cursor, CHUNK_BYTES).await?;
            self.next = Some(chunk.next());
            let chunk = match self.stop {
                Some(stop) => chunk_before(chunk, stop),
                None => chunk,
            };
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Where the next read begins; found once, at the first call.
    async fn position(&mut self) -> Result<Position> {
        if let Some(next) = self.next {
            return Ok(next);
        }
        let (lane, name) = (&self.topic.inner.lane, &self.topic.inner.name);
        let next = lane
            .locate(name.clone(), self.partition, self.start)
            .await?;
        if self.bounded {
            self.stop = Some(
                lane.locate(name.clone(), self.partition, Start::Latest)
                    .await?,
            );
        }
        self.next = Some(next);
        Ok(next)
    }

    /// The same as a [`Stream`], which ends after an error that would come again.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event<M>>> + Send {
        unfold(Some(self), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(event)) => Some((Ok(event), Some(reader))),
                Ok(None) => None,
                Err(error) => {
                    let goes_on = error.is(codes::UNDECODABLE);
                    Some((Err(error), goes_on.then_some(reader)))
                }
            }
        })
    }
}

/// The part of a chunk before `stop`.
fn chunk_before(chunk: Chunk, stop: Position) -> Chunk {
    if chunk.next() <= stop {
        return chunk;
    }
    let spans = chunk
        .spans()
        .iter()
        .filter(|span| span.first < stop)
        .cloned();
    let spans = spans.map(|mut span| {
        let (high, low) = span.first.parts();
        let (stop_high, stop_low) = stop.parts();
        if high == stop_high {
            span.take = u64::from(span.take).min(stop_low - low) as u32;
        }
        span
    });
    let spans = spans.collect();
    Chunk::new(
        chunk.topic().clone(),
        chunk.partition(),
        chunk.buffer().clone(),
        spans,
        stop,
    )
}

fn decode<M: Message>(stored: Stored) -> Result<Event<M>> {
    match M::from_stored(&stored) {
        Ok(message) => Ok(Event { message, stored }),
        Err(error) => Err(error
            .during("read")
            .with("topic", stored.topic())
            .with("partition", stored.partition())
            .with("position", stored.position())),
    }
}

impl<M> fmt::Debug for Reader<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({:?}, partition {}", self.topic, self.partition)?;
        match self.next {
            Some(next) => write!(f, ", at {next})"),
            None => write!(f, ", from {:?})", self.start),
        }
    }
}

/// Asks for the messages of one key; await it.
#[must_use = "nothing is read until this is awaited"]
pub struct KeyReader<M> {
    topic: Topic<M>,
    /// `None`: the caller's key was none.
    key: Option<Vec<u8>>,
    from: KeyVersion,
    limit: usize,
}

impl<M: Message> KeyReader<M> {
    pub(super) fn new(topic: Topic<M>, key: &impl Key) -> Self {
        KeyReader {
            topic,
            key: key.to_key().map(Cow::into_owned),
            from: 1,
            limit: usize::MAX,
        }
    }

    /// The first version wanted; 1 is the key's first message, and the default.
    pub fn from(mut self, version: KeyVersion) -> Self {
        self.from = version;
        self
    }

    /// Greatest number of messages; all of them unless it is said.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }
}

impl<M: Message> IntoFuture for KeyReader<M> {
    type Output = Result<Vec<(KeyVersion, Event<M>)>>;
    type IntoFuture = Fut<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let refused = |why| Err(Error::new(Kind::Rejected, why).during("read"));
            let Some(key) = self.key else {
                return refused("messages without a key cannot be read by it");
            };
            if self.from == 0 {
                return refused("versions of a key begin at 1");
            }
            let mut events = Vec::new();
            let (mut from, mut page) = (self.from, KEY_PAGE);
            while events.len() < self.limit {
                let limit = page.min(self.limit - events.len());
                let read = ReadKey {
                    topic: self.topic.inner.name.clone(),
                    key: key.clone(),
                    from,
                    limit,
                };
                let found = match self.topic.inner.lane.read_key(read).await {
                    // An engine in another process answers in one frame, which is bounded.
                    Err(error) if error.is(codes::TOO_LARGE) && limit > 1 => {
                        page = limit / 2;
                        continue;
                    }
                    found => found?,
                };
                let last = found.len() < limit;
                for (version, stored) in found {
                    from = version + 1;
                    events.push((version, decode(stored)?));
                }
                if last {
                    break;
                }
            }
            Ok(events)
        })
    }
}

impl<M> fmt::Debug for KeyReader<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "KeyReader({:?}, {})",
            self.topic,
            self.key.as_deref().unwrap_or_default().escape_ascii()
        )
    }
}

impl Event<Raw> {
    /// The body.
    pub fn body(&self) -> &[u8] {
        self.message.body()
    }
}
