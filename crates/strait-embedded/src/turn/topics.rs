//! Topics: declare, alter, delete.

use std::time::Duration;

use strait_core::events::{
    Compaction, PartitionInfo, Retention, TopicChange, TopicInfo, TopicSpec,
};
use strait_core::{Error, Kind, Position, Result, codes};

use super::{Turn, disk_full, no_such_topic};
use crate::ops::{CompactionSettings, GroupId, Op, TopicId, TopicSettings};
use crate::state::topic::Topic;

/// Partitions of a topic that does not say how many.
const PARTITIONS: u32 = 8;
const DEDUPE_MS: u64 = 10 * 60 * 1000;

impl Turn<'_> {
    pub(super) fn declare(&mut self, spec: &TopicSpec) -> Result<TopicInfo> {
        self.check_partitions(&spec.name, spec.partitions)?;
        if let Some(topic) = self.state.topic_named(&spec.name) {
            return check_same(topic, spec).map(|()| info(topic));
        }
        if !self.room {
            return Err(disk_full().with("topic", &spec.name));
        }
        let retention = spec.retention.unwrap_or_default();
        let settings = TopicSettings {
            partitions: spec.partitions.unwrap_or(PARTITIONS),
            retention_ms: retention.age.map(millis),
            retention_bytes: retention.bytes,
            key_versions: spec.key_versions.unwrap_or(false),
            dedupe_ms: spec.dedupe_window.map_or(DEDUPE_MS, millis),
            compaction: spec.compaction.map(compaction_settings),
        };
        check_compaction(&spec.name, &settings)?;
        self.put_topic(self.state.next_topic, &spec.name, settings)
    }

    fn put_topic(&mut self, id: TopicId, name: &str, settings: TopicSettings) -> Result<TopicInfo> {
        self.record(|turn| turn.emit(&Op::PutTopic { id, name, settings }, None));
        self.out.cleanup |= settings.has_cleanup();
        self.state
            .topics
            .get(&id)
            .map(info)
            .ok_or_else(|| no_such_topic(name))
    }

    pub(super) fn alter(&mut self, name: &str, change: &TopicChange) -> Result<TopicInfo> {
        let topic = self
            .state
            .topic_named(name)
            .ok_or_else(|| no_such_topic(name))?;
        self.check_partitions(name, change.partitions)?;
        let (id, groups) = (topic.id, topic.groups.clone());
        let before = topic.settings.partitions;
        let mut settings = topic.settings;
        if let Some(partitions) = change.partitions {
            if partitions <= before {
                return Err(Error::new(
                    Kind::Rejected,
                    format!("`{name}` has {before} partitions; they can only become more"),
                )
                .with("topic", name)
                .next(format!(
                    "ask for more than {before}, or declare another topic"
                )));
            }
            settings.partitions = partitions;
        }
        if let Some(retention) = change.retention {
            settings.retention_ms = retention.age.map(millis);
            settings.retention_bytes = retention.bytes;
        }
        if let Some(compaction) = change.compaction {
            settings.compaction = compaction.map(compaction_settings);
        }
        check_compaction(name, &settings)?;
        let info = self.put_topic(id, name, settings)?;
        self.start_new_shards(&groups, before..settings.partitions);
        Ok(info)
    }

    /// Groups begin new partitions at their beginning: nothing in them was there before the group knew them.
    fn start_new_shards(&mut self, groups: &[GroupId], shards: std::ops::Range<u32>) {
        for group in groups {
            for shard in shards.clone() {
                self.record(|turn| {
                    turn.emit(
                        &Op::Seek {
                            group: *group,
                            shard,
                            to: 0,
                        },
                        None,
                    )
                });
            }
            if let Some(group) = self.state.groups.get_mut(group) {
                group.members.balance(self.now.monotonic);
            }
        }
    }

    /// Retention: everything before `start` may go, up to what a group has out or parked by now.
    pub(super) fn trim(&mut self, topic: TopicId, partition: u32, start: u64) {
        let Some(found) = self.state.topics.get(&topic) else {
            return;
        };
        let Some(place) = found.partitions.get(partition as usize) else {
            return;
        };
        let groups = found
            .groups
            .iter()
            .filter_map(|id| self.state.groups.get(id));
        let needed = groups.filter_map(|group| group.needed_from(partition as usize));
        let start = needed.min().unwrap_or(start).min(start);
        if start > place.stream.start {
            let op = Op::Trim {
                topic,
                partition,
                start,
            };
            self.record(|turn| turn.emit(&op, None));
        }
    }

    pub(super) fn delete_topic(&mut self, name: &str) -> Result<()> {
        let topic = self
            .state
            .topic_named(name)
            .ok_or_else(|| no_such_topic(name))?;
        let id = topic.id;
        for partition in &topic.partitions {
            partition.grown.notify_waiters();
        }
        self.record(|turn| turn.emit(&Op::DeleteTopic { id }, None));
        Ok(())
    }

    fn check_partitions(&self, name: &str, partitions: Option<u32>) -> Result<()> {
        let most = self.max_partitions;
        match partitions {
            Some(0) => Err("0 partitions are not enough: at least 1".to_owned()),
            Some(n) if n > most => Err(format!("{n} partitions are too many: at most {most}")),
            _ => Ok(()),
        }
        .map_err(|fault: String| {
            Error::new(Kind::Rejected, format!("topic `{name}`: {fault}"))
                .next(format!("ask for 1 to {most}"))
        })
    }
}

fn check_compaction(name: &str, settings: &TopicSettings) -> Result<()> {
    if settings.compaction.is_none() || !settings.key_versions {
        return Ok(());
    }
    let text = format!(
        "the topic `{name}` keeps the versions of keys: compaction would remove all but the newest"
    );
    Err(Error::new(Kind::Rejected, text)
        .with("topic", name)
        .next("choose one of them: key versions (event sourcing), or compaction"))
}

fn check_same(topic: &Topic, spec: &TopicSpec) -> Result<()> {
    let now = &topic.settings;
    let retention = retention_of(now);
    let window = Duration::from_millis(now.dedupe_ms);
    let differs = |field: &str, has: String, wanted: String| {
        Err(Error::new(
            Kind::Conflict,
            format!(
                "the topic `{}` exists with other settings: {field} is {has}, not {wanted}",
                topic.name
            ),
        )
        .code(codes::TOPIC_EXISTS)
        .with("topic", &topic.name)
        .with("field", field)
        .next("use the settings that it has, or change it: `strait topic alter`"))
    };
    if let Some(wanted) = spec.partitions.filter(|p| *p != now.partitions) {
        return differs("partitions", now.partitions.to_string(), wanted.to_string());
    }
    if let Some(wanted) = spec.retention.filter(|r| *r != retention) {
        return differs("retention", format!("{retention:?}"), format!("{wanted:?}"));
    }
    if let Some(wanted) = spec.key_versions.filter(|k| *k != now.key_versions) {
        return differs(
            "key_versions",
            now.key_versions.to_string(),
            wanted.to_string(),
        );
    }
    let compaction = compaction_of(now);
    if let Some(wanted) = spec.compaction.filter(|c| Some(*c) != compaction) {
        return differs(
            "compaction",
            format!("{compaction:?}"),
            format!("{:?}", Some(wanted)),
        );
    }
    match spec.dedupe_window.filter(|w| *w != window) {
        Some(wanted) => differs(
            "dedupe_window",
            format!("{window:?}"),
            format!("{wanted:?}"),
        ),
        None => Ok(()),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX - 1)
}

fn retention_of(settings: &TopicSettings) -> Retention {
    Retention {
        age: settings.retention_ms.map(Duration::from_millis),
        bytes: settings.retention_bytes,
    }
}

fn compaction_settings(compaction: Compaction) -> CompactionSettings {
    CompactionSettings {
        min_lag_ms: millis(compaction.min_lag),
        tombstones_ms: millis(compaction.tombstones),
    }
}

fn compaction_of(settings: &TopicSettings) -> Option<Compaction> {
    settings.compaction.map(|compaction| Compaction {
        min_lag: Duration::from_millis(compaction.min_lag_ms),
        tombstones: Duration::from_millis(compaction.tombstones_ms),
    })
}

pub(crate) fn info(topic: &Topic) -> TopicInfo {
    let partitions = topic.partitions.iter().map(|partition| PartitionInfo {
        start: Position::at(partition.stream.start),
        end: Position::at(partition.stream.visible),
        bytes: partition.stream.bytes,
    });
    TopicInfo {
        name: topic.name.clone(),
        retention: retention_of(&topic.settings),
        key_versions: topic.settings.key_versions,
        dedupe_window: Duration::from_millis(topic.settings.dedupe_ms),
        compaction: compaction_of(&topic.settings),
        partitions: partitions.collect(),
    }
}
