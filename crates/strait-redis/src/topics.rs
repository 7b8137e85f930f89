//! Topics: their settings, declared, changed, listed and deleted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Value;
use strait_core::events::{PartitionInfo, Retention, TopicChange, TopicInfo, TopicSpec};
use strait_core::{Error, Kind, Name, Position, Result, codes};

use crate::engine::Shared;
use crate::fault::{no_such_partition, no_such_topic, odd};
use crate::keys;
use crate::reply::{bytes, field, list, number, text};

/// Partitions of a topic that is declared without a number.
const PARTITIONS: u32 = 8;
/// Greatest number of partitions of a topic.
pub(crate) const MAX_PARTITIONS: u32 = 1024;
/// How long ids are remembered unless it is said.
const WINDOW: Duration = Duration::from_secs(600);
/// How long what is known of a topic is taken for true.
const KNOWN: Duration = Duration::from_secs(30);
/// Longest retention.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// A first guess at the bytes of an entry.
const ENTRY: usize = 1024;

/// What appending and reading have to know of a topic.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) partitions: u32,
    pub(crate) window: Duration,
    /// It has a retention.
    pub(crate) retains: bool,
    /// When it was made, as the server writes it.
    pub(crate) made: String,
    /// About the bytes of one entry, as it was last seen.
    pub(crate) entry: AtomicUsize,
}

/// What is known of topics.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<Name, (Instant, Arc<Facts>)>>);

impl Known {
    fn get(&self, topic: &Name) -> Option<Arc<Facts>> {
        let known = self.0.lock();
        let (at, facts) = known.get(topic)?;
        (at.elapsed() < KNOWN).then(|| facts.clone())
    }

    pub(crate) fn forget(&self, topic: &Name) {
        self.0.lock().remove(topic);
    }
}

/// The settings of a topic as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    partitions: u32,
    age: Option<Duration>,
    bytes: Option<u64>,
    window: Duration,
}

impl Settings {
    /// Of a stream that another program made.
    const FOREIGN: Settings = Settings {
        partitions: 1,
        age: None,
        bytes: None,
        window: WINDOW,
    };

    fn read(value: &Value) -> Option<Self> {
        let number = |name: &str| field(value, name).and_then(number);
        let millis = |name: &str| number(name).map(|ms| Duration::from_millis(ms as u64));
        Some(Settings {
            partitions: number("partitions")? as u32,
            age: millis("retention_ms"),
            bytes: number("retention_bytes").map(|bytes| bytes as u64),
            window: millis("dedupe_ms").unwrap_or(WINDOW),
        })
    }

    /// Without what the streams say.
    fn bare(self, name: &Name) -> TopicInfo {
        let partitions = vec![PartitionInfo::default(); self.partitions as usize];
        self.info(name.clone(), partitions)
    }

    fn info(self, name: Name, partitions: Vec<PartitionInfo>) -> TopicInfo {
        TopicInfo {
            name,
            retention: Retention {
                age: self.age,
                bytes: self.bytes,
            },
            key_versions: false,
            dedupe_window: self.window,
            compaction: None,
            partitions,
        }
    }
}

fn refuse_key_versions() -> Error {
    Error::unsupported(
        "this engine keeps no versions of keys",
        "keep the version in the message, or use the embedded engine for event sourcing",
    )
}

fn refuse_compaction() -> Error {
    Error::unsupported(
        "Redis Streams cannot be compacted by key",
        "use the embedded engine or Kafka, or keep the newest value of a key in a hash",
    )
}

fn check_partitions(partitions: u32) -> Result<()> {
    if (1..=MAX_PARTITIONS).contains(&partitions) {
        return Ok(());
    }
    let text = format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}");
    Err(Error::new(Kind::Rejected, text))
}

fn check_retention(retention: &Retention) -> Result<()> {
    if retention.bytes == Some(0) {
        let text = "a retention is at least a byte";
        return Err(Error::new(Kind::Rejected, text));
    }
    match retention.age {
        Some(age) if age.as_millis() == 0 || age > LONGEST => Err(Error::new(
            Kind::Rejected,
            "a retention is at least a millisecond, and at most 30 years",
        )),
        _ => Ok(()),
    }
}

fn check_spec(spec: &TopicSpec) -> Result<()> {
    check_partitions(spec.partitions.unwrap_or(PARTITIONS))?;
    if spec.key_versions == Some(true) && spec.compaction.is_some() {
        let text = "versions of keys cannot be kept on a topic that is compacted";
        return Err(Error::new(Kind::Rejected, text));
    }
    if spec.key_versions == Some(true) {
        return Err(refuse_key_versions());
    }
    if spec.compaction.is_some() {
        return Err(refuse_compaction());
    }
    spec.retention.as_ref().map_or(Ok(()), check_retention)
}

impl Shared {
    /// What has to be known of a topic: asked of the server when it is not known, or too long ago.
    pub(crate) async fn facts(&self, topic: &Name) -> Result<Arc<Facts>> {
        if let Some(facts) = self.known.get(topic) {
            return Ok(facts);
        }
        let settings = self.settings(topic).await?;
        let facts = Arc::new(Facts {
            partitions: settings.partitions,
            window: settings.window,
            retains: settings.age.is_some() || settings.bytes.is_some(),
            made: self.made(topic).await?,
            entry: AtomicUsize::new(ENTRY),
        });
        let known = (Instant::now(), facts.clone());
        self.known.0.lock().insert(topic.clone(), known);
        Ok(facts)
    }

    /// The same, for a partition that has to be there: what is not known yet may have been added.
    pub(crate) async fn partition(&self, topic: &Name, partition: u32) -> Result<Arc<Facts>> {
        let mut facts = self.facts(topic).await?;
        if partition >= facts.partitions {
            self.known.forget(topic);
            facts = self.facts(topic).await?;
        }
        match partition < facts.partitions {
            true => Ok(facts),
            false => Err(no_such_partition(topic, partition, facts.partitions)),
        }
    }

    /// When a topic was made; empty for one that another program made.
    async fn made(&self, topic: &Name) -> Result<String> {
        let mut asked = redis::cmd("HGET");
        asked.arg(keys::settings(topic)).arg("made");
        let answer = self.link.run("looking at a topic", &asked, false).await?;
        Ok(text(&answer).unwrap_or_default().to_owned())
    }

    async fn settings(&self, topic: &Name) -> Result<Settings> {
        let what = format!("looking at the topic {topic:?}");
        let mut asked = redis::pipe();
        asked.cmd("HGETALL").arg(keys::settings(topic));
        asked.cmd("TYPE").arg(keys::stream(topic, 0));
        let answers = self.link.run_all(&what, &asked, false).await?;
        let [settings, kind] = answers.as_slice() else {
            return Err(odd(what));
        };
        if let Some(settings) = Settings::read(settings) {
            return Ok(settings);
        }
        match text(kind) {
            Some("stream") => Ok(Settings::FOREIGN),
            _ => Err(no_such_topic(topic)),
        }
    }

    /// Creates the topic, or holds it against what is there.
    pub(crate) async fn declare(&self, spec: TopicSpec) -> Result<TopicInfo> {
        check_spec(&spec)?;
        let wanted = Settings {
            partitions: spec.partitions.unwrap_or(PARTITIONS),
            age: spec.retention.and_then(|retention| retention.age),
            bytes: spec.retention.and_then(|retention| retention.bytes),
            window: spec.dedupe_window.unwrap_or(WINDOW),
        };
        let topic = &spec.name;
        match self.settings(topic).await {
            Ok(has) => {
                // A stream of another program becomes a topic with more partitions only by `alter`.
                spec.hold_against(&has.bare(topic))?;
            }
            Err(error) if error.is(codes::NO_SUCH_TOPIC) => {
                self.store(topic, wanted, 0, "declaring").await?;
                // Somebody else may have been quicker.
                let has = self.settings(topic).await?;
                spec.hold_against(&has.bare(topic))?;
            }
            Err(error) => return Err(error),
        }
        self.known.forget(topic);
        self.topic(topic).await
    }

    /// Stores settings, and makes the streams from partition `from` on: each exists from here on, empty or not.
    async fn store(&self, topic: &Name, settings: Settings, from: u32, doing: &str) -> Result<()> {
        let what = format!("{doing} the topic {topic:?}");
        let mut invoke = self.scripts.declare.prepare();
        invoke.key(keys::settings(topic));
        let streams = (from..settings.partitions).map(|partition| keys::stream(topic, partition));
        streams.for_each(|stream| {
            invoke.key(stream);
        });
        let millis = |time: Option<Duration>| time.map_or(-1, |time| time.as_millis() as i64);
        invoke.arg(i64::from(settings.partitions));
        invoke.arg(millis(settings.age));
        invoke.arg(millis(Some(settings.window)));
        invoke.arg(i64::from(from > 0 || doing == "altering"));
        let bytes = settings
            .bytes
            .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        invoke.arg(bytes.unwrap_or(-1));
        if let Some(key) = text(&self.script(&what, &invoke, true).await?) {
            let why = format!("{what}: the key `{key}` holds something else than a stream");
            return Err(Error::new(Kind::Conflict, why).next("rename the topic, or that key"));
        }
        let mut listed = redis::cmd("SADD");
        listed.arg(keys::TOPICS).arg(&**topic);
        self.link.run(&what, &listed, true).await.map(drop)
    }

    /// Changes retention, or adds partitions.
    pub(crate) async fn alter(&self, topic: &Name, change: TopicChange) -> Result<TopicInfo> {
        let mut settings = self.settings(topic).await?;
        if change.compaction.flatten().is_some() {
            return Err(refuse_compaction());
        }
        let from = settings.partitions;
        if let Some(partitions) = change.partitions {
            check_partitions(partitions)?;
            if partitions <= from {
                let text = format!(
                    "the topic {topic:?} has {from} partitions: only more can be asked for"
                );
                return Err(Error::new(Kind::Rejected, text).with("asked", partitions));
            }
            settings.partitions = partitions;
        }
        if let Some(retention) = change.retention {
            check_retention(&retention)?;
            (settings.age, settings.bytes) = (retention.age, retention.bytes);
        }
        self.store(topic, settings, from, "altering").await?;
        self.known.forget(topic);
        self.topic(topic).await
    }

    /// Deletes a topic with everything that belongs to it.
    pub(crate) async fn delete(&self, topic: &Name) -> Result<()> {
        let what = format!("deleting the topic {topic:?}");
        let settings = self.settings(topic).await?;
        self.drop_groups(topic).await?;
        let mut delete = redis::cmd("UNLINK");
        delete.arg(keys::settings(topic));
        (0..settings.partitions).for_each(|partition| {
            delete.arg(keys::stream(topic, partition));
        });
        self.link.run(&what, &delete, true).await?;
        let mut unlisted = redis::cmd("SREM");
        unlisted.arg(keys::TOPICS).arg(&**topic);
        self.link.run(&what, &unlisted, true).await?;
        self.known.forget(topic);
        Ok(())
    }

    /// The topics that were declared.
    pub(crate) async fn names(&self) -> Result<Vec<Name>> {
        let mut asked = redis::cmd("SMEMBERS");
        asked.arg(keys::TOPICS);
        let what = "listing topics";
        let answer = self.link.run(what, &asked, false).await?;
        let names = match &answer {
            Value::Set(names) => names.as_slice(),
            other => list(other).ok_or_else(|| odd(what))?,
        };
        let names = names.iter().filter_map(|name| Name::new(text(name)?).ok());
        let mut names: Vec<Name> = names.collect();
        names.sort();
        Ok(names)
    }

    pub(crate) async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let mut topics = Vec::new();
        for name in self.names().await? {
            match self.topic(&name).await {
                Ok(info) => topics.push(info),
                // It was deleted meanwhile.
                Err(error) if error.is(codes::NO_SUCH_TOPIC) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(topics)
    }

    pub(crate) async fn topic(&self, topic: &Name) -> Result<TopicInfo> {
        let settings = self.settings(topic).await?;
        let mut asked = redis::pipe();
        for partition in 0..settings.partitions {
            asked
                .cmd("XINFO")
                .arg("STREAM")
                .arg(keys::stream(topic, partition));
            let used = asked.cmd("MEMORY").arg("USAGE");
            used.arg(keys::stream(topic, partition));
        }
        let what = format!("looking at the streams of the topic {topic:?}");
        let answers = self.link.run_all(&what, &asked, false).await?;
        let partitions = answers.chunks_exact(2).map(|answer| {
            let edges = Edges::read(&answer[0]).ok_or_else(|| odd(&what))?;
            let used = number(&answer[1]).unwrap_or_default() as u64;
            Ok(PartitionInfo {
                start: edges.start,
                end: edges.end,
                // An empty stream takes memory too, and no message has any of it.
                bytes: if edges.len == 0 { 0 } else { used },
            })
        });
        Ok(settings.info(topic.clone(), partitions.collect::<Result<_>>()?))
    }
}

/// Where a stream begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edges {
    /// The first entry that is left, or the end.
    pub(crate) start: Position,
    /// Right behind the last id that was ever given.
    pub(crate) end: Position,
    /// Entries that are left.
    pub(crate) len: u64,
    /// Entries that were ever added.
    pub(crate) added: u64,
}

impl Edges {
    /// Reads an answer to `XINFO STREAM`.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        let id = |value: &Value| keys::position(bytes(value)?);
        let last = id(field(value, "last-generated-id")?)?;
        let end = match last == Position::default() {
            true => last,
            false => last.next(),
        };
        let first = field(value, "first-entry").and_then(|entry| id(list(entry)?.first()?));
        let start = first.unwrap_or(end);
        Some(Edges {
            start,
            end,
            len: number(field(value, "length")?)? as u64,
            added: number(field(value, "entries-added")?)? as u64,
        })
    }
}

impl Facts {
    /// How many entries of this topic are about so many bytes.
    pub(crate) fn entries_in(&self, bytes: usize) -> usize {
        (bytes / self.entry.load(Ordering::Relaxed).max(1)).clamp(1, 10_000)
    }

    /// So many entries had so many bytes.
    pub(crate) fn saw(&self, entries: usize, bytes: usize) {
        if let Some(each) = bytes.checked_div(entries) {
            self.entry.store(each.max(16), Ordering::Relaxed);
        }
    }
}
