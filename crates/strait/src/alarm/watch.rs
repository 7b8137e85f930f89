//! Looking at the groups, and noticing when a limit is passed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strait_core::events::{Events, GroupInfo};
use strait_core::{Kind, Name};
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

/// Watches the groups of a lane from now on, in a task of its own.
pub(crate) fn watch(alarm: Checked, lane: Arc<dyn Events>) -> Watching {
    Watching(tokio::spawn(async move {
        let mut told = Told::default();
        loop {
            match lane.groups().await {
                Ok(groups) => {
                    let notices = told.notices(&alarm, &groups);
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
                Err(error) => tracing::warn!("an alarm cannot look at the groups: {error}"),
            }
            tokio::time::sleep(alarm.every).await;
        }
    }))
}

/// What somebody was told last, by group, topic and measure; absent: that all is well.
#[derive(Debug, Default)]
struct Told {
    raised: BTreeSet<(Name, Name, Measure)>,
    /// Notices that could not be delivered, and how often they were tried.
    failed: BTreeMap<(String, String, Measure), u32>,
}

impl Told {
    /// What has to be told now.
    fn notices(&self, alarm: &Checked, groups: &[GroupInfo]) -> Vec<Notice> {
        let mut notices = Vec::new();
        let meant =
            |group: &&GroupInfo| alarm.groups.is_empty() || alarm.groups.contains(&group.group);
        for info in groups.iter().filter(meant) {
            for (measure, value, limit) in readings(&alarm.limits, info) {
                let key = (info.group.clone(), info.topic.clone(), measure);
                let was = self.raised.contains(&key);
                let state = match value > limit {
                    true if !was => Phase::Raised,
                    false if was => Phase::Recovered,
                    _ => continue,
                };
                notices.push(notice(&key, state, value, limit));
            }
        }
        for key in &self.raised {
            let is_there = |info: &GroupInfo| info.group == key.0 && info.topic == key.1;
            if !groups.iter().any(is_there) {
                let limit = alarm.limits.of(key.2).unwrap_or_default();
                notices.push(notice(key, Phase::Recovered, 0, limit));
            }
        }
        notices
    }

    /// It was delivered, or it was not; what failed too often counts as told.
    fn tried(&mut self, notice: &Notice, delivered: bool) {
        let shown = (notice.group.clone(), notice.topic.clone(), notice.alarm);
        if !delivered {
            let tries = self.failed.entry(shown.clone()).or_default();
            *tries += 1;
            if *tries < TRIES {
                return;
            }
        }
        self.failed.remove(&shown);
        // Both came from names.
        let (Ok(group), Ok(topic)) = (Name::new(&notice.group), Name::new(&notice.topic)) else {
            return;
        };
        let key = (group, topic, notice.alarm);
        match notice.state {
            Phase::Raised => self.raised.insert(key),
            Phase::Recovered => self.raised.remove(&key),
        };
    }
}

fn notice(key: &(Name, Name, Measure), state: Phase, value: u64, limit: u64) -> Notice {
    Notice {
        schema: 1,
        alarm: key.2,
        state,
        group: key.0.to_string(),
        topic: key.1.to_string(),
        value,
        limit,
    }
}

impl Limits {
    fn of(&self, measure: Measure) -> Option<u64> {
        match measure {
            Measure::DeadLetters => self.dead_letters,
            Measure::Parked => self.parked,
            Measure::Lag => self.lag,
            Measure::AgeSeconds => self.age.map(|age| age.as_secs()),
        }
    }
}

/// What has a limit, its value and the limit.
fn readings(limits: &Limits, info: &GroupInfo) -> Vec<(Measure, u64, u64)> {
    let age = info.oldest().map_or(0, |age| age.as_secs());
    [
        (Measure::DeadLetters, info.dead),
        (Measure::Parked, info.parked()),
        (Measure::Lag, info.lag()),
        (Measure::AgeSeconds, age),
    ]
    .into_iter()
    .filter_map(|(measure, value)| Some((measure, value, limits.of(measure)?)))
    .collect()
}
