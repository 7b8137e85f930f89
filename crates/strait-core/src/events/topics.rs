//! Topics: as they are declared, changed, and are.

use std::fmt;
use std::time::Duration;

use crate::chunk::Position;
use crate::error::{Error, Kind, Result, codes};
use crate::name::Name;

/// A topic as it is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: Name,
    /// Number of partitions; `None`: 8 when it is created, any when it exists.
    pub partitions: Option<u32>,
    /// What is deleted, and when; `None`: nothing when it is created, any when it exists.
    pub retention: Option<Retention>,
    /// Store each key's version and previous position (event sourcing). `None`: no when created, any when it exists.
    pub key_versions: Option<bool>,
    /// How long the ids of deduplicated appends are remembered. `None`: 10 minutes when created, any when it exists.
    pub dedupe_window: Option<Duration>,
    /// Keep the newest record of each key only. `None`: no when created, any when it exists. Not together with key
    /// versions, which keep all of them (`Rejected`).
    pub compaction: Option<Compaction>,
}

impl TopicSpec {
    /// A topic with the defaults.
    pub fn new(name: Name) -> Self {
        TopicSpec {
            name,
            partitions: None,
            retention: None,
            key_versions: None,
            dedupe_window: None,
            compaction: None,
        }
    }

    /// With this number of partitions.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }
}

impl TopicSpec {
    /// Holds what is declared against a topic that exists. What is not said fits.
    ///
    /// # Errors
    ///
    /// `Conflict` (`topic_exists`), naming the first field that differs.
    pub fn hold_against(&self, info: &TopicInfo) -> Result<()> {
        let count = info.partitions.len() as u32;
        self.same("number of partitions", self.partitions, count)?;
        self.same("retention", self.retention, info.retention)?;
        self.same(
            "choice about key versions",
            self.key_versions,
            info.key_versions,
        )?;
        self.same("dedupe window", self.dedupe_window, info.dedupe_window)?;
        self.same("compaction", self.compaction.map(Some), info.compaction)
    }

    fn same<T: PartialEq + fmt::Debug>(&self, field: &str, asked: Option<T>, has: T) -> Result<()> {
        match asked {
            Some(asked) if asked != has => {
                let topic = &self.name;
                let text = format!(
                    "the topic {topic:?} exists with another {field}: it has {has:?}, asked was {asked:?}"
                );
                Err(Error::new(Kind::Conflict, text)
                    .code(codes::TOPIC_EXISTS)
                    .next("declare it as it is, or change it by `alter`"))
            }
            _ => Ok(()),
        }
    }
}

/// What a topic keeps. Both `None`: everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Records appended longer ago may be deleted.
    pub age: Option<Duration>,
    /// When a partition holds more bytes than this, its oldest may be deleted.
    pub bytes: Option<u64>,
}

/// Of each key the newest record is kept, older ones are removed by and by; positions of what is left do not change, so
/// there are gaps between them. The model is Kafka's `cleanup.policy=compact`.
///
/// A record with an empty body is a *tombstone*: it removes its key, and is removed itself later. Records without a key
/// are refused on such a topic (`Rejected`, code `no_key`). Retention works beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// A record is left alone for so long after its append, so that whoever is not further behind sees every one.
    pub min_lag: Duration,
    /// How long a tombstone stays after its append: a reader from the beginning that takes longer may miss a removal.
    pub tombstones: Duration,
}

impl Default for Compaction {
    /// No lag, tombstones for a day: Kafka's defaults.
    fn default() -> Self {
        Compaction {
            min_lag: Duration::ZERO,
            tombstones: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// A change of a topic; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct TopicChange {
    /// The new number of partitions, greater than the present one.
    pub partitions: Option<u32>,
    /// The new retention.
    pub retention: Option<Retention>,
    /// The new compaction; `Some(None)` ends it: what it has removed does not come back.
    pub compaction: Option<Option<Compaction>>,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: Name,
    /// What it keeps.
    pub retention: Retention,
    /// Whether keys have versions.
    pub key_versions: bool,
    /// How long ids are remembered.
    pub dedupe_window: Duration,
    /// Whether only the newest record of each key is kept.
    pub compaction: Option<Compaction>,
    /// Its partitions, in order.
    pub partitions: Vec<PartitionInfo>,
}

/// A partition as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionInfo {
    /// The earliest position that is left.
    pub start: Position,
    /// The position that the next record gets.
    pub end: Position,
    /// Bytes stored; 0 where the caps refuse `stored_bytes`.
    pub bytes: u64,
}
