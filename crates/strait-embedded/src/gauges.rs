//! How groups and topics stand, as gauges. They are set soon after something changed, and at most once a second; while
//! nothing changes nobody wakes up for them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use metrics::gauge;
use strait_core::Name;

use crate::extents::StreamId;
use crate::metrics as names;
use crate::ops::{GroupId, TopicId};
use crate::reading::Want;
use crate::shared::Shared;
use crate::state::State;
use crate::state::group::Group;
use crate::storage;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// A look that takes long, with very many groups, is followed by a pause of so many times its length.
const PAUSE: u32 = 50;

/// Sets the gauges.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// When the next look may be.
    pub(crate) next: Duration,
    /// What has gauges: when it is gone, they are set to 0.
    topics: BTreeSet<Name>,
    groups: BTreeSet<(Name, Name)>,
}

/// What the gauges of a group show.
#[derive(Debug, Default)]
struct Standing {
    lag: u64,
    parked: u64,
    in_flight: u64,
    held_keys: u64,
    dead: u64,
    /// The oldest unsettled message of each partition.
    oldest: Vec<Want>,
}

impl Gauges {
    /// Looks at everything.
    pub(crate) fn update(&mut self, shared: &Shared, now: Duration) {
        let begun = Instant::now();
        let (topics, groups): (Vec<TopicId>, Vec<GroupId>) = {
            let state = shared.state.lock();
            (
                state.topics.keys().copied().collect(),
                state.groups.keys().copied().collect(),
            )
        };
        // The state is let go of between two of them.
        let topics = topics.into_iter().filter_map(|id| set_topic(shared, id));
        let topics: BTreeSet<Name> = topics.collect();
        let groups = groups.into_iter().filter_map(|id| set_group(shared, id));
        let groups: BTreeSet<(Name, Name)> = groups.collect();
        for gone in self.topics.difference(&topics) {
            show_topic(gone, 0, 0);
        }
        for (group, topic) in self.groups.difference(&groups) {
            show_group(group, topic, &Standing::default(), 0.0);
        }
        (self.topics, self.groups) = (topics, groups);
        let segments = shared.pool.segments();
        let bytes: u64 = segments.iter().map(|segment| segment.len).sum();
        gauge!(names::LOG_BYTES).set(bytes as f64);
        gauge!(names::LOG_SEGMENTS).set(segments.len() as f64);
        match storage::measure(shared) {
            Ok(storage) => {
                gauge!(names::STORAGE_USED).set(storage.used as f64);
                gauge!(names::STORAGE_FREE).set(storage.free as f64);
            }
            Err(error) => tracing::warn!("the storage cannot be measured: {error}"),
        }
        self.next = now + EVERY.max(begun.elapsed() * PAUSE);
    }
}

fn set_topic(shared: &Shared, id: TopicId) -> Option<Name> {
    let (name, messages, bytes) = {
        let state = shared.state.lock();
        let topic = state.topics.get(&id)?;
        let streams = || topic.partitions.iter().map(|partition| &partition.stream);
        let messages: u64 = streams().map(|s| s.visible.saturating_sub(s.start)).sum();
        let bytes: u64 = streams().map(|stream| stream.bytes).sum();
        (topic.name.clone(), messages, bytes)
    };
    show_topic(&name, messages, bytes);
    Some(name)
}

fn show_topic(topic: &Name, messages: u64, bytes: u64) {
    gauge!(names::TOPIC_MESSAGES, "topic" => topic.shared()).set(messages as f64);
    gauge!(names::TOPIC_BYTES, "topic" => topic.shared()).set(bytes as f64);
}

fn set_group(shared: &Shared, id: GroupId) -> Option<(Name, Name)> {
    let (group, topic, standing) = {
        let state = shared.state.lock();
        let group = state.groups.get(&id)?;
        let topic = state.topics.get(&group.topic)?.name.clone();
        (group.name.clone(), topic, standing(&state, group))
    };
    let appended = |want: &Want| Some(shared.extents(want).ok()?.first()?.time);
    let oldest = standing.oldest.iter().filter_map(appended).min();
    let oldest = oldest.map_or(0.0, |millis| millis as f64 / 1e3);
    show_group(&group, &topic, &standing, oldest);
    Some((group, topic))
}

fn standing(state: &State, group: &Group) -> Standing {
    let mut standing = Standing {
        dead: group.dead.letters.len() as u64,
        ..Standing::default()
    };
    for (partition, shard) in (0..).zip(&group.shards) {
        let stream = StreamId::partition(group.topic, partition);
        let end = state.stream(stream).map_or(shard.low, |s| s.visible);
        standing.lag += shard.lag(end);
        standing.parked += shard.parking.len();
        standing.in_flight += shard.in_flight();
        standing.held_keys += shard.parking.held_keys();
        if shard.low < end {
            standing.oldest.push(Want {
                stream,
                from: shard.low,
                count: 1,
                bytes: 0,
            });
        }
    }
    standing
}

fn show_group(group: &Name, topic: &Name, standing: &Standing, oldest: f64) {
    let show = |name: &'static str, value: f64| {
        gauge!(name, "topic" => topic.shared(), "group" => group.shared()).set(value);
    };
    show(names::GROUP_LAG, standing.lag as f64);
    show(names::GROUP_PARKED, standing.parked as f64);
    show(names::GROUP_IN_FLIGHT, standing.in_flight as f64);
    show(names::GROUP_HELD_KEYS, standing.held_keys as f64);
    show(names::GROUP_DEAD_LETTERS, standing.dead as f64);
    show(names::GROUP_OLDEST, oldest);
}
