//! The state of all topics and groups at one moment, and what changed between two.

use std::time::{Duration, Instant};

use strait::core::events::{DeadFilter, Events, GroupInfo};
use strait::core::{Kind, Storage};

use super::Note;
use crate::command::group::state;
use crate::fail::Outcome;
use crate::target::Target;
use crate::text::{cut, shown};

/// All topics and groups at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) topics: Vec<Topic>,
    pub(super) groups: Vec<Group>,
    /// `None` where the engine does not measure it.
    pub(super) storage: Option<Storage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) stored: u64,
    /// Messages ever appended.
    pub(super) total: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) topic: String,
    pub(super) members: usize,
    pub(super) lag: u64,
    pub(super) oldest: Option<Duration>,
    pub(super) parked: u64,
    pub(super) dead: u64,
    /// Messages ever settled.
    pub(super) settled: u64,
    pub(super) state: String,
    /// Number and reason of the last dead letter.
    last_dead: Option<(u64, String)>,
}

impl Snapshot {
    /// Takes one. `before` tells from which dead letter on to look.
    pub(super) async fn take(target: &Target, before: Option<&Snapshot>) -> Outcome<Self> {
        let events = &*target.events;
        let topics = events.topics().await?;
        let mut snapshot = Snapshot {
            topics: topics
                .iter()
                .map(|info| Topic {
                    name: info.name.to_string(),
                    stored: (info.partitions.iter())
                        .map(|p| p.end.offset().saturating_sub(p.start.offset()))
                        .sum(),
                    total: info.partitions.iter().map(|p| p.end.offset()).sum(),
                })
                .collect(),
            groups: Vec::new(),
            storage: match target.strait.engine().storage().await {
                Err(error) if error.kind() == Kind::Unsupported => None,
                measured => Some(measured?),
            },
        };
        for info in events.groups().await? {
            let before = before.and_then(|before| before.group_of(&info));
            let mut group = Group::new(&info);
            group.last_dead = match before {
                Some(before) if before.dead == info.dead => before.last_dead.clone(),
                _ => last_dead(events, &info, before).await?,
            };
            snapshot.groups.push(group);
        }
        Ok(snapshot)
    }

    fn group_of(&self, info: &GroupInfo) -> Option<&Group> {
        (self.groups.iter()).find(|group| group.name == *info.group && group.topic == *info.topic)
    }

    /// Nothing moved since `before`, and nothing waits to be delivered.
    pub(super) fn is_still(&self, before: &Snapshot) -> bool {
        let ageless = |group: &Group| Group {
            oldest: None,
            ..group.clone()
        };
        self.topics == before.topics
            && self.groups.iter().map(ageless).eq(before.groups.iter().map(ageless))
            // Without members nothing moves by itself.
            && self.groups.iter().all(|group| group.lag == 0 || group.members == 0)
    }

    /// What changed since `before`, in words.
    pub(super) fn changes_since(&self, before: &Snapshot) -> Vec<Note> {
        let mut notes = Vec::new();
        for topic in &self.topics {
            if !before.topics.iter().any(|other| other.name == topic.name) {
                notes.push(Note::new(format!("topic {} was created", topic.name)));
            }
        }
        for topic in &before.topics {
            if !self.topics.iter().any(|other| other.name == topic.name) {
                notes.push(Note::new(format!("topic {} was deleted", topic.name)));
            }
        }
        for group in &self.groups {
            let same = |other: &&Group| other.name == group.name && other.topic == group.topic;
            match before.groups.iter().find(same) {
                Some(other) => group.changes_since(other, &mut notes),
                None => notes.push(Note::new(format!(
                    "group {} joined topic {}",
                    group.name, group.topic
                ))),
            }
        }
        notes
    }
}

impl Group {
    fn new(info: &GroupInfo) -> Self {
        let ends: u64 = info.shards.iter().map(|shard| shard.end.offset()).sum();
        Group {
            name: info.group.to_string(),
            topic: info.topic.to_string(),
            members: info.members.len(),
            lag: info.lag(),
            oldest: info.oldest(),
            parked: info.parked(),
            dead: info.dead,
            settled: ends.saturating_sub(info.lag()),
            state: state(info),
            last_dead: None,
        }
    }

    fn changes_since(&self, before: &Group, notes: &mut Vec<Note>) {
        let Group { name, topic, .. } = self;
        if self.members != before.members {
            let (now, then) = (self.members, before.members);
            let word = if now == 1 { "member" } else { "members" };
            notes.push(Note::new(format!(
                "group {name} on {topic} has {now} {word} (had {then})"
            )));
        }
        if self.dead > before.dead {
            let note = match &self.last_dead {
                Some((number, reason)) => {
                    let reason = cut(&shown(reason.as_bytes()), 48);
                    Note::new(format!("{name}  dead: \"{reason}\""))
                        .more(format!("strait dlq show {name} {number}"))
                }
                None => Note::new(format!("{name}  a message died")).more("strait dlq ls"),
            };
            notes.push(note);
        }
        if self.dead < before.dead {
            let back = before.dead - self.dead;
            notes.push(Note::new(format!("{name}  {back} dead letters came back")));
        }
        // Members that come or go change the state as well, and were told above.
        if self.state != before.state && self.members == before.members {
            notes.push(Note::new(format!("{name}  {}", self.state)));
        }
    }
}

/// The newest dead letter: they are numbered, so it is looked for from the last one seen.
async fn last_dead(
    events: &dyn Events,
    info: &GroupInfo,
    before: Option<&Group>,
) -> Outcome<Option<(u64, String)>> {
    let Some(before) = before else {
        return Ok(None);
    };
    let from = before
        .last_dead
        .as_ref()
        .map_or(0, |(number, _)| number + 1);
    let letters = events
        .dead_letters(
            info.group.clone(),
            info.topic.clone(),
            DeadFilter::default(),
            from,
            1000,
        )
        .await?;
    let last = letters.last();
    Ok(last
        .map(|letter| (letter.number, letter.reason.to_string()))
        .or_else(|| before.last_dead.clone()))
}

/// A change per second between two counts.
pub(super) fn rate(then: (Instant, u64), now: (Instant, u64)) -> f64 {
    let seconds = now.0.saturating_duration_since(then.0).as_secs_f64();
    if seconds < 0.01 {
        return 0.0;
    }
    now.1.saturating_sub(then.1) as f64 / seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Group {
        pub(in crate::dev) fn sample(name: &str, settled: u64, lag: u64) -> Self {
            Group {
                name: name.into(),
                topic: "orders".into(),
                members: 1,
                lag,
                oldest: None,
                parked: 0,
                dead: 0,
                settled,
                state: "ok".into(),
                last_dead: None,
            }
        }
    }

    fn group(dead: u64, lag: u64) -> Group {
        Group {
            dead,
            last_dead: Some((dead, "amount is not a number".into())),
            ..Group::sample("billing", 0, lag)
        }
    }

    #[test]
    fn a_death_is_told_with_its_reason_and_the_command_that_shows_it() {
        let before = Snapshot {
            groups: vec![group(1, 0)],
            ..Snapshot::default()
        };
        let now = Snapshot {
            groups: vec![group(2, 0)],
            ..Snapshot::default()
        };
        let notes = now.changes_since(&before);
        assert_eq!(notes.len(), 1);
        assert_eq!(notes[0].text, "billing  dead: \"amount is not a number\"");
        assert_eq!(notes[0].more.as_deref(), Some("strait dlq show billing 2"));
        assert!(before.changes_since(&before).is_empty());
    }

    #[test]
    fn it_is_still_only_when_nothing_waits_to_be_delivered() {
        let of = |lag| Snapshot {
            groups: vec![group(0, lag)],
            ..Snapshot::default()
        };
        assert!(of(0).is_still(&of(0)));
        assert!(!of(3).is_still(&of(3)), "a member is at work");
        assert!(!of(0).is_still(&of(1)));
    }
}
