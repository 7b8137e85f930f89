//! Topics: their settings in Kafka's words, declared, changed, listed and deleted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::admin::{
    AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewPartitions, NewTopic,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use strait_core::events::{
    Compaction, PartitionInfo, Retention, TopicChange, TopicInfo, TopicSpec,
};
use strait_core::{Error, Kind, Name, Position, Result, codes};

use crate::engine::Shared;
use crate::fault::{coded, fault, no_such_topic, unavailable};

/// Partitions of a topic that is declared without a number.
const PARTITIONS: u32 = 8;
/// Greatest number of partitions that a topic may be declared with.
pub(crate) const MAX_PARTITIONS: u32 = 10_000;
/// How long what is known of a topic is taken for true.
const KNOWN: Duration = Duration::from_secs(30);
const FOREVER: &str = "-1";

/// What an append has to know of a topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) partitions: u32,
    pub(crate) compacted: bool,
}

/// What is known of topics.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<Name, (Instant, Facts)>>);

impl Known {
    pub(crate) fn get(&self, topic: &Name) -> Option<Facts> {
        let known = self.0.lock();
        let (at, facts) = known.get(topic)?;
        (at.elapsed() < KNOWN).then_some(*facts)
    }

    pub(crate) fn forget(&self, topic: &Name) {
        self.0.lock().remove(topic);
    }

    fn put(&self, topic: &Name, facts: Facts) {
        self.0.lock().insert(topic.clone(), (Instant::now(), facts));
    }
}

/// Offsets by topic and partition.
pub(crate) type Edges = HashMap<(String, i32), u64>;

/// The settings of a topic, as far as the contract has words for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    retention: Retention,
    compaction: Option<Compaction>,
}

impl Settings {
    fn of(config: &ConfigResource) -> Self {
        let text = |name: &str| config.get(name).and_then(|entry| entry.value.as_deref());
        let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
        let policy = text("cleanup.policy").unwrap_or("delete");
        let deletes = policy.split(',').any(|word| word.trim() == "delete");
        let compacts = policy.split(',').any(|word| word.trim() == "compact");
        let millis = |name: &str| number(name).map(Duration::from_millis);
        Settings {
            retention: Retention {
                age: millis("retention.ms").filter(|_| deletes),
                bytes: number("retention.bytes").filter(|_| deletes),
            },
            compaction: compacts.then(|| Compaction {
                min_lag: millis("min.compaction.lag.ms").unwrap_or_default(),
                tombstones: millis("delete.retention.ms").unwrap_or_default(),
            }),
        }
    }

    /// In Kafka's words.
    fn entries(&self) -> Vec<(&'static str, String)> {
        let Retention { age, bytes } = self.retention;
        let forever = || FOREVER.to_owned();
        let deletes = age.is_some() || bytes.is_some();
        let policy = match (self.compaction.is_some(), deletes) {
            (false, _) => "delete",
            (true, false) => "compact",
            (true, true) => "compact,delete",
        };
        let age = age.map_or_else(forever, |age| age.as_millis().to_string());
        let bytes = bytes.map_or_else(forever, |bytes| bytes.to_string());
        let mut entries = vec![
            ("cleanup.policy", policy.to_owned()),
            ("retention.ms", age),
            ("retention.bytes", bytes),
        ];
        if let Some(Compaction {
            min_lag,
            tombstones,
        }) = self.compaction
        {
            entries.push(("min.compaction.lag.ms", min_lag.as_millis().to_string()));
            entries.push(("delete.retention.ms", tombstones.as_millis().to_string()));
        }
        entries
    }
}

fn check_partitions(partitions: u32) -> Result<()> {
    if (1..=MAX_PARTITIONS).contains(&partitions) {
        return Ok(());
    }
    let text = format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}");
    Err(Error::new(Kind::Rejected, text))
}

fn check_retention(retention: &Retention) -> Result<()> {
    let too_long = |value: u128| value > i64::MAX as u128;
    let zero = retention.age.is_some_and(|age| age.as_millis() == 0) || retention.bytes == Some(0);
    let long = retention.age.is_some_and(|age| too_long(age.as_millis()))
        || retention.bytes.is_some_and(|bytes| too_long(bytes.into()));
    if zero || long {
        return Err(Error::new(
            Kind::Rejected,
            "a retention is at least a millisecond, or a byte, and fits 63 bits",
        ));
    }
    Ok(())
}

fn check_spec(spec: &TopicSpec) -> Result<()> {
    check_partitions(spec.partitions.unwrap_or(PARTITIONS))?;
    if spec.key_versions == Some(true) && spec.compaction.is_some() {
        return Err(Error::new(
            Kind::Rejected,
            "versions of keys cannot be kept on a topic that is compacted",
        ));
    }
    if spec.key_versions == Some(true) {
        return Err(Error::unsupported(
            "Kafka keeps no versions of keys",
            "keep the version in the message, or use the embedded engine for event sourcing",
        ));
    }
    if spec.dedupe_window.is_some() {
        return Err(Error::unsupported(
            "Kafka remembers no ids of messages",
            "its producer is idempotent within a session; use ids and the sink's ledger",
        ));
    }
    spec.retention.as_ref().map_or(Ok(()), check_retention)
}

impl Shared {
    pub(crate) fn admin_options(&self) -> AdminOptions {
        let time = self.options.timeout;
        AdminOptions::new()
            .request_timeout(Some(time))
            .operation_timeout(Some(time))
    }

    /// What an append has to know of a topic: asked of the cluster when it is not known, or too long ago.
    pub(crate) async fn facts(&self, topic: &Name) -> Result<Facts> {
        match self.known.get(topic) {
            Some(facts) => Ok(facts),
            None => self.fresh_facts(topic).await,
        }
    }

    /// The same, asked anew.
    pub(crate) async fn fresh_facts(&self, topic: &Name) -> Result<Facts> {
        self.known.forget(topic);
        let partitions = self.count(topic).await?;
        let settings = self.settings(topic).await?;
        let facts = Facts {
            partitions,
            compacted: settings.compaction.is_some(),
        };
        self.known.put(topic, facts);
        Ok(facts)
    }

    /// The number of partitions; `NotFound` when there is no such topic.
    pub(crate) async fn count(&self, topic: &Name) -> Result<u32> {
        let topic = topic.clone();
        let found = self
            .call(move |shared, _| shared.metadata(Some(&topic)))
            .await?;
        Ok(found.first().map_or(0, |(_, count)| *count))
    }

    /// Topics with their numbers of partitions: one, or all but those of Kafka itself.
    pub(crate) fn metadata(&self, topic: Option<&Name>) -> Result<Vec<(Name, u32)>> {
        let what = || match topic {
            Some(topic) => format!("looking at the topic {topic:?}"),
            None => "listing topics".to_owned(),
        };
        let found = self
            .meta
            .fetch_metadata(topic.map(|topic| &**topic), self.options.timeout)
            .map_err(|error| fault(what(), error))?;
        let mut topics = Vec::new();
        for entry in found.topics() {
            let code = entry.error().map(Code::from);
            match (topic, code) {
                (Some(topic), Some(Code::UnknownTopicOrPartition | Code::UnknownTopic)) => {
                    return Err(no_such_topic(topic));
                }
                (Some(_), Some(code)) => return Err(coded(what(), code)),
                (None, Some(_)) => continue,
                (_, None) => {}
            }
            let internal = entry.name().starts_with("__") && topic.is_none();
            if let Some(name) = Name::new(entry.name()).ok().filter(|_| !internal) {
                topics.push((name, entry.partitions().len() as u32));
            }
        }
        match topic {
            Some(topic) if topics.first().is_none_or(|(_, count)| *count == 0) => {
                Err(no_such_topic(topic))
            }
            _ => Ok(topics),
        }
    }

    async fn configs(&self, topics: &[(Name, u32)]) -> Result<Vec<Option<ConfigResource>>> {
        let asked: Vec<_> = topics
            .iter()
            .map(|(name, _)| ResourceSpecifier::Topic(name))
            .collect();
        let found = self
            .admin
            .describe_configs(&asked, &self.admin_options())
            .await;
        let found = found.map_err(|error| fault("reading the settings of topics", error))?;
        Ok(found.into_iter().map(|config| config.ok()).collect())
    }

    async fn settings(&self, topic: &Name) -> Result<Settings> {
        let found = self.configs(&[(topic.clone(), 0)]).await?;
        let config = found.into_iter().flatten().next();
        config
            .map(|config| Settings::of(&config))
            .ok_or_else(|| no_such_topic(topic))
    }

    /// The first offsets, or the ends, of these topics.
    pub(crate) fn edges(&self, topics: &[(Name, u32)], edge: Offset) -> Result<Edges> {
        let mut asked = TopicPartitionList::new();
        for (name, count) in topics {
            for partition in 0..*count {
                asked
                    .add_partition_offset(name, partition as i32, edge)
                    .map_err(|error| fault("asking for offsets", error))?;
            }
        }
        if asked.count() == 0 {
            return Ok(HashMap::new());
        }
        let found = self
            .meta
            .offsets_for_times(asked, self.options.timeout)
            .map_err(|error| fault("asking for offsets", error))?;
        let offsets = found.elements().into_iter().filter_map(|element| {
            let offset = element.offset().to_raw().filter(|offset| *offset >= 0)?;
            Some((
                (element.topic().to_owned(), element.partition()),
                offset as u64,
            ))
        });
        Ok(offsets.collect())
    }

    /// Up to where readers see these partitions.
    pub(crate) fn ends(&self, places: &[(Name, u32)]) -> Result<HashMap<(Name, u32), u64>> {
        let what = "asking for offsets";
        let mut asked = TopicPartitionList::new();
        for (topic, partition) in places {
            asked
                .add_partition_offset(topic, *partition as i32, Offset::End)
                .map_err(|error| fault(what, error))?;
        }
        let found = self.meta.offsets_for_times(asked, self.options.timeout);
        let found = found.map_err(|error| fault(what, error))?;
        let ends = found.elements().into_iter().filter_map(|element| {
            let end = element.offset().to_raw().filter(|offset| *offset >= 0)?;
            let topic = Name::new(element.topic()).ok()?;
            Some(((topic, element.partition() as u32), end as u64))
        });
        Ok(ends.collect())
    }

    /// First offsets and ends. A partition that has no leader yet is asked again: it was made a moment ago, or moves.
    async fn both_edges(&self, topics: &[(Name, u32)]) -> Result<(Edges, Edges)> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let listed = topics.to_vec();
            let asked = self.call(move |shared, _| {
                let starts = shared.edges(&listed, Offset::Beginning)?;
                Ok((starts, shared.edges(&listed, Offset::End)?))
            });
            match asked.await {
                Err(error) if error.kind() == Kind::Unavailable && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                found => return found,
            }
        }
    }

    /// What is to be known of topics; one that goes meanwhile is left out.
    async fn infos(&self, topics: Vec<(Name, u32)>) -> Result<Vec<TopicInfo>> {
        let configs = self.configs(&topics).await?;
        let (starts, ends) = self.both_edges(&topics).await?;
        let mut infos = Vec::with_capacity(topics.len());
        for ((name, count), config) in topics.into_iter().zip(configs) {
            let Some(config) = config else { continue };
            let settings = Settings::of(&config);
            let at = |edges: &Edges, partition: u32| {
                let offset = edges.get(&(name.to_string(), partition as i32));
                Position::at(offset.copied().unwrap_or_default())
            };
            let partitions = (0..count).map(|partition| PartitionInfo {
                start: at(&starts, partition),
                end: at(&ends, partition),
                bytes: 0,
            });
            infos.push(TopicInfo {
                partitions: partitions.collect(),
                name: name.clone(),
                retention: settings.retention,
                key_versions: false,
                dedupe_window: Duration::ZERO,
                compaction: settings.compaction,
            });
        }
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(infos)
    }

    pub(crate) async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let topics = self.call(|shared, _| shared.metadata(None)).await?;
            if topics.is_empty() {
                return Ok(Vec::new());
            }
            match self.infos(topics).await {
                // One that was listed is gone by now: the list is made again.
                Err(error) if error.is(codes::NO_SUCH_TOPIC) && Instant::now() < deadline => {}
                found => return found,
            }
        }
    }

    pub(crate) async fn topic(&self, topic: &Name) -> Result<TopicInfo> {
        let count = self.count(topic).await?;
        let found = self.infos(vec![(topic.clone(), count)]).await?;
        found.into_iter().next().ok_or_else(|| no_such_topic(topic))
    }

    pub(crate) async fn declare(&self, spec: TopicSpec) -> Result<TopicInfo> {
        check_spec(&spec)?;
        let there = match self.topic(&spec.name).await {
            Err(error) if error.is(codes::NO_SUCH_TOPIC) => self.create(&spec).await?,
            other => other?,
        };
        spec.hold_against(&there)?;
        Ok(there)
    }

    async fn create(&self, spec: &TopicSpec) -> Result<TopicInfo> {
        let settings = Settings {
            retention: spec.retention.unwrap_or_default(),
            compaction: spec.compaction,
        };
        let entries = settings.entries();
        let count = spec.partitions.unwrap_or(PARTITIONS);
        // -1: as many replicas as the cluster's default says.
        let mut new = NewTopic::new(&spec.name, count as i32, TopicReplication::Fixed(-1));
        // The time of a message is its producer's: also one that lies ahead is stored.
        new = new.set("message.timestamp.after.max.ms", "9223372036854775807");
        for (name, value) in &entries {
            new = new.set(name, value);
        }
        let what = || format!("declaring the topic {:?}", spec.name);
        let made = self
            .admin
            .create_topics([&new], &self.admin_options())
            .await;
        let made = made.map_err(|error| fault(what(), error))?;
        match made.into_iter().next() {
            // Another declared it at the same time.
            Some(Ok(_) | Err((_, Code::TopicAlreadyExists))) => {}
            Some(Err((_, code))) => return Err(coded(what(), code)),
            None => return Err(coded(what(), Code::Fail)),
        }
        self.settle_metadata(&spec.name, Some(count)).await?;
        self.topic(&spec.name).await
    }

    /// Waits until the cluster shows a change of the number of partitions; `None`: the topic is gone.
    async fn settle_metadata(&self, topic: &Name, wanted: Option<u32>) -> Result<()> {
        self.known.forget(topic);
        let deadline = Instant::now() + self.options.timeout;
        let mut pause = Duration::from_millis(2);
        loop {
            let there = match self.count(topic).await {
                Ok(count) => Some(count),
                Err(error) if error.is(codes::NO_SUCH_TOPIC) => None,
                Err(error) if error.may_retry() => Some(0),
                Err(error) => return Err(error),
            };
            let settled = match wanted {
                Some(wanted) => {
                    there.is_some_and(|count| count >= wanted) && self.leads(topic, wanted).await
                }
                None => there.is_none(),
            };
            if settled {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(unavailable(format!(
                    "the change of the topic {topic:?} does not show"
                )));
            }
            // A cluster tells nobody when its brokers have learned of a change.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Whether every partition answers.
    async fn leads(&self, topic: &Name, count: u32) -> bool {
        let asked = vec![(topic.clone(), count)];
        let ends = self
            .call(move |shared, _| shared.edges(&asked, Offset::End))
            .await;
        ends.is_ok_and(|ends| ends.len() == count as usize)
    }

    pub(crate) async fn alter(&self, topic: &Name, change: TopicChange) -> Result<TopicInfo> {
        let count = self.count(topic).await?;
        if let Some(partitions) = change.partitions {
            check_partitions(partitions)?;
            if partitions <= count {
                let text = format!(
                    "the topic {topic:?} has {count} partitions; their number can only grow"
                );
                return Err(Error::new(Kind::Rejected, text));
            }
        }
        change.retention.as_ref().map_or(Ok(()), check_retention)?;
        if change.retention.is_some() || change.compaction.is_some() {
            self.reconfigure(topic, &change).await?;
        }
        if let Some(partitions) = change.partitions {
            let what = || format!("adding partitions to the topic {topic:?}");
            let new = NewPartitions::new(topic, partitions as usize);
            let made = self
                .admin
                .create_partitions([&new], &self.admin_options())
                .await;
            let made = made.map_err(|error| fault(what(), error))?;
            if let Some(Err((_, code))) = made.into_iter().next() {
                return Err(coded(what(), code));
            }
            self.settle_metadata(topic, Some(partitions)).await?;
        }
        self.known.forget(topic);
        self.topic(topic).await
    }

    /// Kafka's call replaces all settings of a topic, so those that are not asked for are given again.
    async fn reconfigure(&self, topic: &Name, change: &TopicChange) -> Result<()> {
        let found = self.configs(&[(topic.clone(), 0)]).await?;
        let config = found
            .into_iter()
            .flatten()
            .next()
            .ok_or_else(|| no_such_topic(topic))?;
        let mut settings = Settings::of(&config);
        if let Some(retention) = change.retention {
            settings.retention = retention;
        }
        if let Some(compaction) = change.compaction {
            settings.compaction = compaction;
        }
        let entries = settings.entries();
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in &entries {
            alter = alter.set(name, value);
        }
        let ours = |name: &str| entries.iter().any(|(own, _)| *own == name);
        for entry in &config.entries {
            let kept = entry.source == ConfigSource::DynamicTopic && !ours(&entry.name);
            if let Some(value) = entry.value.as_deref().filter(|_| kept) {
                alter = alter.set(&entry.name, value);
            }
        }
        let what = || format!("changing the settings of the topic {topic:?}");
        let made = self
            .admin
            .alter_configs([&alter], &self.admin_options())
            .await;
        let made = made.map_err(|error| fault(what(), error))?;
        if let Some(Err((_, code))) = made.into_iter().next() {
            return Err(coded(what(), code));
        }
        self.settle_settings(topic, settings).await
    }

    /// Waits until the cluster shows changed settings.
    async fn settle_settings(&self, topic: &Name, wanted: Settings) -> Result<()> {
        let deadline = Instant::now() + self.options.timeout;
        while self.settings(topic).await? != wanted {
            if Instant::now() >= deadline {
                return Err(unavailable(format!(
                    "the change of the topic {topic:?} does not show"
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    pub(crate) async fn delete(&self, topic: &Name) -> Result<()> {
        let what = || format!("deleting the topic {topic:?}");
        let made = self
            .admin
            .delete_topics(&[&**topic], &self.admin_options())
            .await;
        let made = made.map_err(|error| fault(what(), error))?;
        match made.into_iter().next() {
            Some(Err((_, Code::UnknownTopicOrPartition))) => return Err(no_such_topic(topic)),
            Some(Err((_, code))) => return Err(coded(what(), code)),
            _ => {}
        }
        self.readers.forget(topic);
        self.settle_metadata(topic, None).await
    }
}
