//! Reading: from a position on, by a key, and finding positions.

use std::time::Duration;

use redis::Value;
use strait_core::events::{Cursor, KeyVersion, ReadKey, Start};
use strait_core::{
    Chunk, ChunkBuilder, Error, Kind, Message, Name, Position, Result, Timestamp, codes,
    partition_of,
};

use crate::engine::Shared;
use crate::fault::{no_such_topic, odd};
use crate::reply::{self, bytes, list};
use crate::topics::{Edges, Facts};
use crate::{entry, keys};

/// Bytes that a scan reads at once.
const SCAN: usize = 1 << 20;
/// Messages that one read gives at most.
const MOST: usize = 10_000;

impl Shared {
    pub(crate) async fn read(&self, cursor: Cursor, max_bytes: usize) -> Result<Chunk> {
        let facts = self.partition(&cursor.topic, cursor.partition).await?;
        let chunk = self.read_some(&cursor, &facts, max_bytes, MOST).await?;
        if !chunk.is_empty() || cursor.wait.is_zero() {
            return Ok(chunk);
        }
        if self.wait(&cursor).await? {
            return self.read_some(&cursor, &facts, max_bytes, MOST).await;
        }
        Ok(chunk)
    }

    /// What is there from a cursor on: about so many bytes, at most so many messages.
    pub(crate) async fn read_some(
        &self,
        cursor: &Cursor,
        facts: &Facts,
        max_bytes: usize,
        most: usize,
    ) -> Result<Chunk> {
        let what = || format!("reading the topic {:?}", cursor.topic);
        let stream = keys::stream(&cursor.topic, cursor.partition);
        let mut asked = redis::pipe();
        // One moment for all of it: what is trimmed in between would not be missed.
        asked.atomic();
        asked.cmd("EXISTS").arg(&stream);
        let trimmed = asked.cmd("HGET").arg(keys::settings(&cursor.topic));
        trimmed.arg(keys::trimmed(&stream));
        let range = asked.cmd("XRANGE").arg(&stream);
        range.arg(keys::id(cursor.position)).arg("+").arg("COUNT");
        range.arg(facts.entries_in(max_bytes).min(most.max(1)));
        let answers = self.link.run_all(&what(), &asked, false).await?;
        let [Value::Array(answers)] = answers.as_slice() else {
            return Err(odd(what()));
        };
        let [Value::Int(exists), trimmed, entries] = answers.as_slice() else {
            return Err(odd(what()));
        };
        if *exists == 0 {
            self.known.forget(&cursor.topic);
            return Err(no_such_topic(&cursor.topic));
        }
        let trimmed = bytes(trimmed).and_then(keys::position);
        if trimmed.is_some_and(|trimmed| cursor.position <= trimmed) {
            let edges = self.edges(&cursor.topic, cursor.partition).await?;
            return Err(gone(cursor, edges.start));
        }
        let entries = list(entries).ok_or_else(|| odd(what()))?;
        let mut gather = ChunkBuilder::new(cursor.topic.clone(), cursor.partition);
        let mut next = cursor.position;
        for (count, value) in entries.iter().enumerate() {
            if count > 0 && gather.bytes() >= max_bytes {
                facts.saw(count, gather.bytes());
                return Ok(gather.build(next));
            }
            next = entry::push(&mut gather, value)?.next();
        }
        facts.saw(entries.len(), gather.bytes());
        Ok(gather.build(next))
    }

    /// Waits for an entry at a cursor; `false` when none came in its time.
    async fn wait(&self, cursor: &Cursor) -> Result<bool> {
        let mut asked = redis::cmd("XREAD");
        // A block of 0 would be one without end.
        let millis = cursor.wait.as_millis().clamp(1, i64::MAX as u128) as i64;
        asked
            .arg("COUNT")
            .arg(1)
            .arg("BLOCK")
            .arg(millis)
            .arg("STREAMS");
        asked.arg(keys::stream(&cursor.topic, cursor.partition));
        asked.arg(keys::id(keys::before(cursor.position)));
        let what = format!("waiting at the end of the topic {:?}", cursor.topic);
        let answer = self.link.wait_for(&what, &asked, cursor.wait).await?;
        Ok(answer != Value::Nil)
    }

    pub(crate) async fn edges(&self, topic: &Name, partition: u32) -> Result<Edges> {
        self.partition(topic, partition).await?;
        let what = format!("looking at the topic {topic:?}");
        let mut asked = redis::cmd("XINFO");
        asked.arg("STREAM").arg(keys::stream(topic, partition));
        let answer = self.link.run(&what, &asked, false).await?;
        Edges::read(&answer).ok_or_else(|| odd(what))
    }

    /// The position that a start means now.
    pub(crate) async fn locate(
        &self,
        topic: Name,
        partition: u32,
        start: Start,
    ) -> Result<Position> {
        let edges = self.edges(&topic, partition).await?;
        match start {
            Start::Earliest => Ok(edges.start),
            Start::Latest => Ok(edges.end),
            Start::At(position) => Ok(position),
            Start::Last(0) => Ok(edges.end),
            Start::Last(count) if count >= edges.len => Ok(edges.start),
            Start::Last(count) => self.last(&topic, partition, count, edges).await,
            Start::Time(time) => self.first_since(&topic, partition, time, edges).await,
        }
    }

    async fn last(
        &self,
        topic: &Name,
        partition: u32,
        count: u64,
        edges: Edges,
    ) -> Result<Position> {
        let what = format!("looking at the end of the topic {topic:?}");
        let (mut left, mut before) = (count, "+".to_owned());
        let mut found = edges.end;
        while left > 0 {
            let mut asked = redis::cmd("XREVRANGE");
            asked
                .arg(keys::stream(topic, partition))
                .arg(&before)
                .arg("-");
            asked.arg("COUNT").arg(left.min(1000));
            let answer = self.link.run(&what, &asked, false).await?;
            let entries = list(&answer).ok_or_else(|| odd(&what))?;
            let Some(oldest) = entries.last() else { break };
            let id = reply::entry(oldest).and_then(|(id, _)| keys::position(id));
            found = id.ok_or_else(|| odd(&what))?;
            left -= (entries.len() as u64).min(left);
            before = format!("({}", keys::id(found));
        }
        Ok(found)
    }

    /// Messages from a position on.
    pub(crate) async fn count_from(
        &self,
        topic: &Name,
        partition: u32,
        at: Position,
    ) -> Result<u64> {
        let mut cursor = Cursor {
            topic: topic.clone(),
            partition,
            position: at,
            wait: Duration::ZERO,
        };
        let mut count = 0;
        loop {
            let chunk = self.read(cursor.clone(), SCAN).await?;
            if chunk.is_empty() {
                return Ok(count);
            }
            count += chunk.len() as u64;
            cursor.position = chunk.next();
        }
    }

    /// The first message whose time is not before this one: times need not grow, so each is looked at.
    async fn first_since(
        &self,
        topic: &Name,
        partition: u32,
        time: Timestamp,
        edges: Edges,
    ) -> Result<Position> {
        let mut cursor = Cursor {
            topic: topic.clone(),
            partition,
            position: edges.start,
            wait: Duration::ZERO,
        };
        loop {
            let chunk = self.read(cursor.clone(), SCAN).await?;
            if chunk.is_empty() {
                return Ok(edges.end.max(cursor.position));
            }
            let mut items = chunk.iter();
            if let Some(item) = items.find(|item| item.record().time() >= time) {
                return Ok(item.position());
            }
            cursor.position = chunk.next();
        }
    }

    /// The messages of one key: a scan of its partition.
    pub(crate) async fn read_key(&self, read: ReadKey) -> Result<Vec<(KeyVersion, Message)>> {
        let facts = self.facts(&read.topic).await?;
        let partition = partition_of(&read.key, facts.partitions);
        let edges = self.edges(&read.topic, partition).await?;
        let mut cursor = Cursor {
            topic: read.topic,
            partition,
            position: edges.start,
            wait: Duration::ZERO,
        };
        let (mut version, mut found) = (0, Vec::new());
        while found.len() < read.limit {
            let chunk = self.read(cursor.clone(), SCAN).await?;
            if chunk.is_empty() {
                break;
            }
            for item in chunk
                .iter()
                .filter(|item| item.record().key() == Some(&read.key))
            {
                version += 1;
                if version >= read.from && found.len() < read.limit {
                    found.push((version, item.to_message()));
                }
            }
            cursor.position = chunk.next();
        }
        Ok(found)
    }

    /// Removes what the retention of its topic does not keep.
    pub(crate) async fn trim(&self) -> Result<()> {
        for topic in self.names().await? {
            let facts = match self.facts(&topic).await {
                Err(error) if error.is(codes::NO_SUCH_TOPIC) => continue,
                facts => facts?,
            };
            if !facts.retains {
                continue;
            }
            for partition in 0..facts.partitions {
                self.trim_one(&topic, partition).await?;
            }
        }
        Ok(())
    }

    /// In steps: each holds up the server for a moment only.
    async fn trim_one(&self, topic: &Name, partition: u32) -> Result<()> {
        let mut invoke = self.scripts.trim.prepare();
        invoke
            .key(keys::settings(topic))
            .key(keys::stream(topic, partition));
        for shard in self.shards_on(topic, partition).await? {
            invoke.key(shard);
        }
        invoke.arg(MOST as i64).arg(SCAN as i64);
        while !self.link.is_closed() {
            let answer = self.script("trimming a stream", &invoke, true).await?;
            if reply::number(&answer) != Some(1) {
                break;
            }
        }
        Ok(())
    }
}

fn gone(cursor: &Cursor, earliest: Position) -> Error {
    let text = format!(
        "position {} of partition {} of the topic {} was removed",
        cursor.position, cursor.partition, cursor.topic
    );
    Error::new(Kind::NotFound, text)
        .code(codes::OFFSET_GONE)
        .with("earliest", earliest)
        .next("read from the earliest position; a longer retention keeps more")
}
