//! Looking at the groups and the storage, and noticing when a limit is passed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strait_core::events::{Events, GroupInfo};
use strait_core::{Engine, Kind, Result, Storage};
use tokio::task::JoinHandle;

use super::{Checked, Limits, Measure, Notice, Phase};

/// A notice is tried at so many looks.
const TRIES: u32 = 3;

/// The task of an alarm; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Watching(JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Watches an engine from now on, in a task of its own.
pub(crate) fn watch(alarm: Checked, engine: Arc<dyn Engine>, lane: Arc<dyn Events>) -> Watching {
    Watching(tokio::spawn(async move {
        let mut told = Told::default();
        loop {
            match Look::at(&alarm.limits, &*engine, &*lane).await {
                Ok(look) => {
                    let notices = told.notices(&alarm, &look);
                    for notice in notices {
                        let delivered = alarm.tell.tell(&notice).await;
                        if let Err(why) = &delivered {
                            tracing::error!(
                                "the notice of an alarm ({notice}) was not delivered: {why}"
                            );
                        }
                        told.tried(&notice, delivered.is_ok());
                    }
                }
                Err(error) if error.kind() == Kind::Closed => return,
                Err(error) => tracing::warn!("an alarm cannot look at the engine: {error}"),
            }
            tokio::time::sleep(alarm.every).await;
        }
    }))
}

/// What was looked at: only what has a limit.
struct Look {
    groups: Vec<GroupInfo>,
    storage: Option<Storage>,
}

impl Look {
    async fn at(limits: &Limits, engine: &dyn Engine, lane: &dyn Events) -> Result<Self> {
        Ok(Look {
            groups: match limits.of_groups() {
                true => lane.groups().await?,
                false => Vec::new(),
            },
            storage: match limits.full_in {
                Some(_) => Some(engine.storage().await?),
                None => None,
            },
        })
    }
}

/// What a notice is about: group and topic, or the storage.
type Subject = (Option<String>, Option<String>, Measure);

/// What somebody was told last; absent: that all is well.
#[derive(Debug, Default)]
struct Told {
    raised: BTreeSet<Subject>,
    /// Notices that could not be delivered, and how often they were tried.
    failed: BTreeMap<Subject, u32>,
}

impl Told {
    /// What has to be told now.
    fn notices(&self, alarm: &Checked, look: &Look) -> Vec<Notice> {
        let meant =
            |group: &&GroupInfo| alarm.groups.is_empty() || alarm.groups.contains(&group.group);
        let groups = look.groups.iter().filter(meant);
        let readings = groups.flat_map(|info| of_group(&alarm.limits, info));
        let storage = look.storage.iter();
        let readings = readings.chain(storage.filter_map(|now| of_storage(&alarm.limits, now)));
        let changed = |reading: Reading| {
            let was = self.raised.contains(&reading.subject);
            match reading.passed {
                true if !was => Some(reading.notice(Phase::Raised)),
                false if was => Some(reading.notice(Phase::Recovered)),
                _ => None,
            }
        };
        let mut notices: Vec<Notice> = readings.filter_map(changed).collect();
        notices.extend(self.gone(alarm, look));
        notices
    }

    /// The groups that are no longer there.
    fn gone(&self, alarm: &Checked, look: &Look) -> impl Iterator<Item = Notice> {
        let is_gone = |(group, topic, _): &&Subject| {
            let (Some(group), Some(topic)) = (group, topic) else {
                return false;
            };
            let same = |info: &GroupInfo| *group == *info.group && *topic == *info.topic;
            !look.groups.iter().any(same)
        };
        self.raised.iter().filter(is_gone).map(|subject| {
            let reading = Reading {
                subject: subject.clone(),
                value: Some(0),
                limit: alarm.limits.of(subject.2).unwrap_or_default(),
                passed: false,
            };
            reading.notice(Phase::Recovered)
        })
    }

    /// It was delivered, or it was not; what failed too often counts as told.
    fn tried(&mut self, notice: &Notice, delivered: bool) {
        let subject = (notice.group.clone(), notice.topic.clone(), notice.alarm);
        if !delivered {
            let tries = self.failed.entry(subject.clone()).or_default();
            *tries += 1;
            if *tries < TRIES {
                return;
            }
        }
        self.failed.remove(&subject);
        match notice.state {
            Phase::Raised => self.raised.insert(subject),
            Phase::Recovered => self.raised.remove(&subject),
        };
    }
}

/// What has a limit, as it is now.
struct Reading {
    subject: Subject,
    value: Option<u64>,
    limit: u64,
    passed: bool,
}

impl Reading {
    fn notice(self, state: Phase) -> Notice {
        let (group, topic, alarm) = self.subject;
        Notice {
            schema: 1,
            alarm,
            state,
            group,
            topic,
            value: self.value,
            limit: self.limit,
        }
    }
}

impl Limits {
    fn of(&self, measure: Measure) -> Option<u64> {
        match measure {
            Measure::DeadLetters => self.dead_letters,
            Measure::Parked => self.parked,
            Measure::Lag => self.lag,
            Measure::AgeSeconds => self.age.map(|age| age.as_secs()),
            Measure::FullSeconds => self.full_in.map(|least| least.as_secs()),
        }
    }
}

fn of_group(limits: &Limits, info: &GroupInfo) -> impl Iterator<Item = Reading> {
    let age = info.oldest().map_or(0, |age| age.as_secs());
    let values = [
        (Measure::DeadLetters, info.dead),
        (Measure::Parked, info.parked()),
        (Measure::Lag, info.lag()),
        (Measure::AgeSeconds, age),
    ];
    let reading = |(measure, value): (Measure, u64)| {
        let limit = limits.of(measure)?;
        Some(Reading {
            subject: (
                Some(info.group.to_string()),
                Some(info.topic.to_string()),
                measure,
            ),
            value: Some(value),
            limit,
            passed: value > limit,
        })
    };
    values.into_iter().filter_map(reading)
}

fn of_storage(limits: &Limits, now: &Storage) -> Option<Reading> {
    let limit = limits.of(Measure::FullSeconds)?;
    let value = now.full_in.map(|full| full.as_secs());
    Some(Reading {
        subject: (None, None, Measure::FullSeconds),
        value,
        limit,
        passed: value.is_some_and(|value| value < limit),
    })
}
