//! Reading outside of groups: assigned consumers in a small pool, so that reads that follow each other do not seek.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use strait_core::events::{Cursor, KeyVersion, ReadKey, Start};
use strait_core::{
    Chunk, ChunkBuilder, Error, Kind, Message, Name, Position, Result, Timestamp, codes,
    partition_of,
};

use crate::engine::Shared;
use crate::envelope;
use crate::fault::{closed, coded, fault, no_such_partition, no_such_topic, unavailable};
use crate::link::Link;

/// Readers that are kept for the next read.
const IDLE: usize = 8;
/// How long a reader rests before it is let go of.
const REST: Duration = Duration::from_secs(60);
/// How long a wait lasts before the reader looks whether anybody still waits.
const LOOK: Duration = Duration::from_millis(100);
/// What a reader fetches ahead, in KiB.
const AHEAD: &str = "16384";
/// Bytes of one read where all of a key or a time is looked for.
const SCAN: usize = 1 << 20;

/// Readers at rest.
#[derive(Default)]
pub(crate) struct Readers(Mutex<Vec<(Instant, Reader)>>);

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Readers({} at rest)", self.0.lock().len())
    }
}

impl Readers {
    /// A reader that stands here, else any that can be moved once there are enough.
    fn take(&self, topic: &Name, partition: u32, position: u64) -> Option<Reader> {
        let mut readers = self.0.lock();
        let here = |(_, r): &(Instant, Reader)| {
            r.topic == *topic && r.partition == partition && r.next == position
        };
        match readers.iter().position(here) {
            Some(at) => Some(readers.remove(at).1),
            None if readers.len() >= IDLE => Some(readers.remove(0).1),
            None => None,
        }
    }

    fn rest(&self, reader: Reader) {
        let mut readers = self.0.lock();
        readers.push((Instant::now(), reader));
        let old = (readers.len() > IDLE).then(|| readers.remove(0));
        drop(readers);
        drop(old);
    }

    /// Lets go of the readers of a topic that is deleted.
    pub(crate) fn forget(&self, topic: &Name) {
        self.0.lock().retain(|(_, reader)| reader.topic != *topic);
    }

    /// Lets go of those that rest for long: their connections, and what they have fetched ahead.
    pub(crate) fn trim(&self) {
        let mut readers = self.0.lock();
        let long = |(since, _): &mut (Instant, Reader)| since.elapsed() > REST;
        let old: Vec<_> = readers.extract_if(.., long).collect();
        // Ending a client takes its time.
        drop(readers);
        drop(old);
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// A consumer that is assigned to one partition.
struct Reader {
    consumer: BaseConsumer<Link>,
    topic: Name,
    partition: u32,
    /// The offset that comes next.
    next: u64,
    /// Records up to here can be read: what is known of the end.
    end: u64,
}

/// What a poll gave.
enum Polled {
    Message,
    /// All that is known to be there was read.
    End,
    Nothing,
}

impl Reader {
    fn new(shared: &Shared, topic: &Name, partition: u32) -> Result<Self> {
        let mut config = shared.config.clone();
        // The group is never joined and nothing is committed: the client wants a name to be assigned anything.
        config.set("group.id", "strait-readers");
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("enable.partition.eof", "true");
        config.set("isolation.level", "read_committed");
        config.set("auto.offset.reset", "error");
        config.set("allow.auto.create.topics", "false");
        for (name, value) in [
            ("fetch.wait.max.ms", "100"),
            // A full queue is looked at again before it can be read empty; the default of a second leaves readers without work.
            ("fetch.queue.backoff.ms", "20"),
            ("queued.max.messages.kbytes", AHEAD),
        ] {
            if config.get(name).is_none() {
                config.set(name, value);
            }
        }
        let consumer = BaseConsumer::from_config_and_context(&config, shared.pulse.link())
            .map_err(|error| fault("making a reader", error))?;
        Ok(Reader {
            consumer,
            topic: topic.clone(),
            partition,
            next: u64::MAX,
            end: 0,
        })
    }

    fn what(&self) -> String {
        format!("reading {:?}/{}", self.topic, self.partition)
    }

    /// Stands at `position` of the partition; `false` when that lies behind the end.
    fn stand(&mut self, shared: &Shared, cursor: &Cursor) -> Result<bool> {
        let position = cursor.position.offset();
        if self.topic == cursor.topic && self.partition == cursor.partition && self.next == position
        {
            return Ok(true);
        }
        (self.topic, self.partition) = (cursor.topic.clone(), cursor.partition);
        self.next = u64::MAX;
        let (low, high) = self.edges(shared)?;
        if position < low {
            return Err(gone(&self.topic, self.partition, position, low));
        }
        if position > high {
            return Ok(false);
        }
        self.assign(position)?;
        (self.next, self.end) = (position, high);
        Ok(true)
    }

    /// Has the client fetch from here on, and forget what it has fetched.
    fn assign(&mut self, position: u64) -> Result<()> {
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(
                &self.topic,
                self.partition as i32,
                Offset::Offset(position as i64),
            )
            .and_then(|()| self.consumer.assign(&assignment))
            .map_err(|error| fault(self.what(), error))
    }

    fn edges(&self, shared: &Shared) -> Result<(u64, u64)> {
        let found = self.consumer.fetch_watermarks(
            &self.topic,
            self.partition as i32,
            shared.options.timeout,
        );
        let (low, high) = found.map_err(|error| fault(self.what(), error))?;
        Ok((low.max(0) as u64, high.max(0) as u64))
    }

    /// Takes one event of the client.
    fn poll(&mut self, time: Duration, gather: &mut ChunkBuilder) -> Result<Polled> {
        let message = match self.consumer.poll(time) {
            None => return Ok(Polled::Nothing),
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Polled::End),
            Some(Err(error)) => {
                return match error.rdkafka_error_code() {
                    Some(
                        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition,
                    ) => Err(no_such_topic(&self.topic)),
                    Some(
                        code @ (Code::OffsetOutOfRange
                        | Code::AutoOffsetReset
                        | Code::TopicAuthorizationFailed),
                    ) => Err(coded(self.what(), code)),
                    // The client connects again by itself, and the health tells of it.
                    _ => Ok(Polled::Nothing),
                };
            }
        };
        let offset = message.offset() as u64;
        let other = message.topic() != &*self.topic || message.partition() as u32 != self.partition;
        if other || offset < self.next {
            return Ok(Polled::Nothing);
        }
        envelope::push(gather, &message)?;
        self.next = offset + 1;
        self.end = self.end.max(self.next);
        Ok(Polled::Message)
    }

    /// Reads on; `alive` says whether anybody still waits.
    fn read(
        &mut self,
        shared: &Shared,
        cursor: &Cursor,
        max: usize,
        alive: &dyn Fn() -> bool,
    ) -> Result<Chunk> {
        let began = Instant::now();
        let mut gather = ChunkBuilder::new(self.topic.clone(), self.partition);
        // A reader that stood at the end does not know whether something came since.
        if self.next >= self.end && cursor.wait.is_zero() {
            self.end = self.edges(shared)?.1;
        }
        // Up to where the client was asked to look once more for what is there.
        let mut asked = 0;
        loop {
            let there = self.next < self.end;
            let limit = if there {
                shared.options.timeout
            } else {
                cursor.wait
            };
            let left = limit.saturating_sub(began.elapsed());
            let full = gather.bytes() >= max && !gather.is_empty();
            if full || !there && !gather.is_empty() || !there && left.is_zero() {
                return Ok(gather.build(Position::at(self.next)));
            }
            if there && left.is_zero() {
                return match gather.len() {
                    0 => Err(unavailable(self.what())),
                    _ => Ok(gather.build(Position::at(self.next))),
                };
            }
            if shared.pulse.is_closed() {
                return Err(closed());
            }
            if !alive() {
                return Err(unavailable(self.what()));
            }
            if let Polled::End = self.poll(left.min(LOOK), &mut gather)? {
                if !there || asked == self.end {
                    // What is left before the end are marks of transactions, and records that no reader sees.
                    self.next = self.next.max(self.end);
                } else {
                    // The client may have said so before the last ones came. A new fetch says it of the present.
                    asked = self.end;
                    self.assign(self.next)?;
                }
            }
        }
    }
}

fn gone(topic: &Name, partition: u32, position: u64, earliest: u64) -> Error {
    Error::new(
        Kind::NotFound,
        format!("the offset {position} of {topic:?}/{partition} was removed"),
    )
    .code(codes::OFFSET_GONE)
    .with("earliest", earliest)
    .next("read on from the earliest that is left")
}

impl Shared {
    /// The number of partitions, of which `partition` is one.
    pub(crate) async fn partition(&self, topic: &Name, partition: u32) -> Result<u32> {
        let mut count = self.facts(topic).await?.partitions;
        if partition >= count {
            // They may have been added since.
            count = self.fresh_facts(topic).await?.partitions;
        }
        match partition < count {
            true => Ok(count),
            false => Err(no_such_partition(topic, partition, count)),
        }
    }

    pub(crate) async fn read(&self, cursor: Cursor, max: usize) -> Result<Chunk> {
        self.partition(&cursor.topic, cursor.partition).await?;
        let answer = self.call(move |shared, alive| shared.read_now(&cursor, max, alive));
        answer.await
    }

    pub(crate) fn read_now(
        &self,
        cursor: &Cursor,
        max: usize,
        alive: &dyn Fn() -> bool,
    ) -> Result<Chunk> {
        let (topic, partition) = (&cursor.topic, cursor.partition);
        let mut reader = match self
            .readers
            .take(topic, partition, cursor.position.offset())
        {
            Some(reader) => reader,
            None => Reader::new(self, topic, partition)?,
        };
        let read = reader.stand(self, cursor).and_then(|there| match there {
            true => reader.read(self, cursor, max, alive),
            false => self.beyond(cursor, alive),
        });
        match read {
            Ok(chunk) => {
                self.readers.rest(reader);
                Ok(chunk)
            }
            Err(error) if error.is(codes::NO_SUCH_TOPIC) => {
                self.known.forget(topic);
                Err(error)
            }
            Err(error) if error.is(codes::OFFSET_GONE) => {
                let earliest = reader.edges(self).map_or(0, |(low, _)| low);
                Err(gone(topic, partition, cursor.position.offset(), earliest))
            }
            Err(error) => Err(error),
        }
    }

    /// A position that is not written yet: nothing comes before the wait is over.
    fn beyond(&self, cursor: &Cursor, alive: &dyn Fn() -> bool) -> Result<Chunk> {
        let began = Instant::now();
        while began.elapsed() < cursor.wait && alive() && !self.pulse.is_closed() {
            std::thread::sleep(LOOK.min(cursor.wait));
        }
        let gather = ChunkBuilder::new(cursor.topic.clone(), cursor.partition);
        Ok(gather.build(cursor.position))
    }

    pub(crate) async fn locate(
        &self,
        topic: Name,
        partition: u32,
        start: Start,
    ) -> Result<Position> {
        self.partition(&topic, partition).await?;
        self.call(move |shared, alive| {
            shared
                .locate_now(&topic, partition, start, alive)
                .map(Position::at)
        })
        .await
    }

    pub(crate) fn locate_now(
        &self,
        topic: &Name,
        partition: u32,
        start: Start,
        alive: &dyn Fn() -> bool,
    ) -> Result<u64> {
        let what = || format!("locating a position of {topic:?}/{partition}");
        if let Start::At(position) = start {
            return Ok(position.offset());
        }
        let found = self
            .meta
            .fetch_watermarks(topic, partition as i32, self.options.timeout);
        let (low, high) = found.map_err(|error| fault(what(), error))?;
        let (low, high) = (low.max(0) as u64, high.max(0) as u64);
        Ok(match start {
            Start::Earliest => low,
            Start::Last(count) => high.saturating_sub(count).max(low),
            // Kafka stores no time before 1970: the envelope has it.
            Start::Time(time) if time.as_millis() <= 1 => {
                self.first_at(topic, partition, low..high, time, alive)?
            }
            Start::Time(time) => {
                let mut asked = TopicPartitionList::new();
                asked
                    .add_partition_offset(topic, partition as i32, Offset::Offset(time.as_millis()))
                    .map_err(|error| fault(what(), error))?;
                let found = self
                    .meta
                    .offsets_for_times(asked, self.options.timeout)
                    .map_err(|error| fault(what(), error))?;
                let offset = found
                    .elements()
                    .first()
                    .and_then(|element| match element.offset() {
                        Offset::Offset(offset) => Some(offset as u64),
                        _ => None,
                    });
                offset.unwrap_or(high)
            }
            Start::Latest | Start::At(_) => high,
        })
    }

    /// The first record from here whose own time is not before `time`.
    fn first_at(
        &self,
        topic: &Name,
        partition: u32,
        range: std::ops::Range<u64>,
        time: Timestamp,
        alive: &dyn Fn() -> bool,
    ) -> Result<u64> {
        let mut cursor = cursor(topic, partition, range.start);
        while cursor.position.offset() < range.end {
            let chunk = self.read_now(&cursor, SCAN, alive)?;
            if let Some(found) = chunk.iter().find(|item| item.record().time() >= time) {
                return Ok(found.position().offset());
            }
            cursor.position = chunk.next().max(Position::at(cursor.position.offset() + 1));
        }
        Ok(range.end)
    }

    pub(crate) async fn read_key(&self, read: ReadKey) -> Result<Vec<(KeyVersion, Message)>> {
        let count = self.fresh_facts(&read.topic).await?.partitions;
        let partition = partition_of(&read.key, count);
        self.call(move |shared, alive| shared.read_key_now(&read, partition, alive))
            .await
    }

    fn read_key_now(
        &self,
        read: &ReadKey,
        partition: u32,
        alive: &dyn Fn() -> bool,
    ) -> Result<Vec<(KeyVersion, Message)>> {
        let low = self.locate_now(&read.topic, partition, Start::Earliest, alive)?;
        let high = self.locate_now(&read.topic, partition, Start::Latest, alive)?;
        let mut cursor = cursor(&read.topic, partition, low);
        let (mut found, mut version) = (Vec::new(), 0);
        while cursor.position.offset() < high && found.len() < read.limit {
            let chunk = self.read_now(&cursor, SCAN, alive)?;
            for item in chunk
                .iter()
                .filter(|item| item.record().key() == Some(&read.key[..]))
            {
                version += 1;
                if version >= read.from && found.len() < read.limit {
                    found.push((version, item.to_message()));
                }
            }
            cursor.position = chunk.next().max(Position::at(cursor.position.offset() + 1));
        }
        Ok(found)
    }
}

fn cursor(topic: &Name, partition: u32, position: u64) -> Cursor {
    Cursor {
        topic: topic.clone(),
        partition,
        position: Position::at(position),
        wait: Duration::ZERO,
    }
}
