//! Whether two engines hold the same messages of a topic.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rapidhash::v3::rapidhash_v3;
use strait_core::events::{Cursor, Events, Start};
use strait_core::{Attr, Chunk, Item, Message, Name, Position, Record, Result};

use super::{Sides, other_partitions, state};
use crate::open::Strait;

const CHUNK_BYTES: usize = 1 << 20;
const WAIT: Duration = Duration::from_secs(3);

/// How a partition stands in two engines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// The partition.
    pub partition: u32,
    /// Messages that are equal, in their order: all of them when there is no difference.
    pub equal: u64,
    /// A hash over the content of those messages, in order: ids, keys, times, attributes, headers, bodies.
    pub hash: u64,
    /// Messages that the target has once more, out of place: their ids stood before them. What a mirror into an engine
    /// without units may leave.
    pub repeated: u64,
    /// The first other difference.
    pub difference: Option<Difference>,
}

impl Compared {
    /// Neither a difference nor a repeated message.
    pub fn is_equal(&self) -> bool {
        self.repeated == 0 && self.difference.is_none()
    }
}

/// Of so many messages the ids are kept, to know one that comes again.
const REMEMBERED: usize = 1 << 20;

/// The first difference of two partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The target ends before this message of the source.
    Missing(Position),
    /// The source ends before this message of the target.
    Extra(Position),
    /// Both have a message, and these fields of it differ.
    Other {
        /// Where it is in the source.
        source: Position,
        /// Where it is in the target.
        target: Position,
        /// What differs.
        fields: Vec<&'static str>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Missing(at) => write!(f, "the target ends before {at} of the source"),
            Difference::Extra(at) => write!(f, "the source ends before {at} of the target"),
            Difference::Other {
                source,
                target,
                fields,
            } => write!(
                f,
                "{source} of the source is not {target} of the target: {}",
                fields.join(", ")
            ),
        }
    }
}

/// Reads a topic in both engines and holds message against message: count, order and content of each partition, up to what
/// is the end of each when it begins.
///
/// Where retention has removed messages of the source that the target still has, it begins with what both can have.
///
/// # Errors
///
/// `NotFound` when an engine has no such topic, `Conflict` for another number of partitions, and what the engines say.
pub async fn compare(from: &Strait, to: &Strait, topic: &Name) -> Result<Vec<Compared>> {
    let sides = Sides::of(from, to)?;
    let source = sides.from.topic(topic.clone()).await?;
    let target = sides.to.topic(topic.clone()).await?;
    let partitions = source.partitions.len() as u32;
    if target.partitions.len() as u32 != partitions {
        return Err(other_partitions(topic, partitions, target.partitions.len()));
    }
    let mut compared = Vec::new();
    for partition in 0..partitions {
        let mut left = Side::open(&sides.from, topic, partition).await?;
        let mut right = Side::open(&sides.to, topic, partition).await?;
        begin_together(&sides, topic, &mut left, &mut right).await?;
        compared.push(compare_partition(partition, &mut left, &mut right).await?);
    }
    Ok(compared)
}

/// Passes over what only one side can have: messages that retention has removed on the other one.
async fn begin_together(
    sides: &Sides,
    topic: &Name,
    left: &mut Side,
    right: &mut Side,
) -> Result<()> {
    let steps = state::all(&sides.to, topic, left.partition).await?;
    let (Some(first), Some(target)) = (steps.first(), steps.first().and_then(|s| s.target)) else {
        return Ok(());
    };
    if left.position > first.first {
        let to = super::groups::translate(sides, topic, left.partition, left.position).await?;
        right.position = right.position.max(to);
    } else if right.position > target {
        // The target has less than the map tells of: the source is passed over, message by message.
        let passed = right.position.offset() - target.offset();
        left.position = first.first;
        for _ in 0..passed {
            left.next().await?;
        }
    }
    Ok(())
}

async fn compare_partition(partition: u32, left: &mut Side, right: &mut Side) -> Result<Compared> {
    let mut hash = Hash::default();
    let mut seen = Seen::default();
    let (mut equal, mut repeated) = (0, 0);
    let difference = loop {
        let source = left.next().await?;
        let mut target = right.next().await?;
        let wanted = source.as_ref().map(id_of);
        // One that is not wanted here and was there before is passed over.
        while let Some(id) = target
            .as_ref()
            .map(id_of)
            .filter(|id| Some(id) != wanted.as_ref())
            && seen.has(&id)
        {
            repeated += 1;
            target = right.next().await?;
        }
        match (source, target) {
            (None, None) => break None,
            (Some(source), None) => break Some(Difference::Missing(source.position())),
            (None, Some(target)) => break Some(Difference::Extra(target.position())),
            (Some(source), Some(target)) => {
                let fields = differing(&source.record(), &target.record());
                if !fields.is_empty() {
                    break Some(Difference::Other {
                        source: source.position(),
                        target: target.position(),
                        fields,
                    });
                }
                hash.add(&source.record());
                seen.add(&source.record().id().to_string());
                equal += 1;
            }
        }
    };
    Ok(Compared {
        partition,
        equal,
        hash: hash.so_far,
        repeated,
        difference,
    })
}

fn id_of(message: &Message) -> String {
    message.record().id().to_string()
}

/// The newest ids, as hashes.
#[derive(Default)]
struct Seen {
    ids: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Seen {
    fn add(&mut self, id: &str) {
        let id = rapidhash_v3(id.as_bytes());
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    fn has(&self, id: &str) -> bool {
        self.ids.contains(&rapidhash_v3(id.as_bytes()))
    }
}

fn differing(a: &Record<'_>, b: &Record<'_>) -> Vec<&'static str> {
    let checks = [
        ("id", a.id().to_string() == b.id().to_string()),
        ("key", a.key() == b.key()),
        ("time", a.time() == b.time()),
        ("attributes", attrs(a) == attrs(b)),
        ("headers", a.headers().eq(b.headers())),
        ("body", a.body() == b.body()),
    ];
    let differ = checks.into_iter().filter(|(_, same)| !same);
    differ.map(|(field, _)| field).collect()
}

/// In one order, without the id: it may be the message's own on one side and its batch's on the other.
fn attrs<'a>(record: &Record<'a>) -> [Option<&'a str>; Attr::ALL.len()] {
    Attr::ALL.map(|attr| record.attr(attr).filter(|_| attr != Attr::Id))
}

/// A hash over messages: of each, and what came before it. The same on every machine and in every version.
#[derive(Default)]
struct Hash {
    so_far: u64,
    bytes: Vec<u8>,
}

impl Hash {
    fn add(&mut self, record: &Record<'_>) {
        self.bytes.clear();
        self.bytes.extend(self.so_far.to_le_bytes());
        self.put(Some(record.id().to_string().as_bytes()));
        self.put(Some(&record.time().as_millis().to_le_bytes()));
        self.put(record.key());
        for attr in attrs(record) {
            self.put(attr.map(str::as_bytes));
        }
        for (name, value) in record.headers() {
            self.put(Some(name.as_bytes()));
            self.put(Some(value));
        }
        self.put(Some(record.body()));
        self.so_far = rapidhash_v3(&self.bytes);
    }

    /// With its length, so that no two messages give the same bytes; none is not empty.
    fn put(&mut self, bytes: Option<&[u8]>) {
        let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(bytes.unwrap_or_default());
    }
}

/// One partition of one engine, message by message, up to what was its end.
struct Side {
    lane: Arc<dyn Events>,
    topic: Name,
    partition: u32,
    position: Position,
    end: Position,
    pending: VecDeque<Message>,
}

impl Side {
    async fn open(lane: &Arc<dyn Events>, topic: &Name, partition: u32) -> Result<Self> {
        let at = |start| lane.locate(topic.clone(), partition, start);
        Ok(Side {
            position: at(Start::Earliest).await?,
            end: at(Start::Latest).await?,
            lane: lane.clone(),
            topic: topic.clone(),
            partition,
            pending: VecDeque::new(),
        })
    }

    async fn next(&mut self) -> Result<Option<Message>> {
        loop {
            if let Some(message) = self.pending.pop_front() {
                return Ok(Some(message));
            }
            if self.position >= self.end {
                return Ok(None);
            }
            let chunk = self.read().await?;
            if chunk.is_empty() && chunk.next() <= self.position {
                return Ok(None);
            }
            self.position = chunk.next();
            let within = |item: &Item<'_>| item.position() < self.end;
            self.pending
                .extend(chunk.iter().filter(within).map(|item| item.to_message()));
        }
    }

    async fn read(&self) -> Result<Chunk> {
        let cursor = Cursor {
            topic: self.topic.clone(),
            partition: self.partition,
            position: self.position,
            wait: WAIT,
        };
        self.lane.read(cursor, CHUNK_BYTES).await
    }
}
