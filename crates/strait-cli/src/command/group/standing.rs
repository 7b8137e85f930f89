//! Why a group stands, in words, with what to do about it.

use std::fmt;

use serde::Serialize;
use strait::core::events::{GroupInfo, Stuck, StuckOn, Waits};

use crate::offset::Offset;
use crate::text::{count, shown, time};

/// What a group goes by.
#[derive(Debug, Serialize)]
pub(super) struct Rules {
    order: &'static str,
    max_attempts: u32,
    max_dead: u64,
    gap: u64,
    after_dead: &'static str,
    dead_topic: Option<String>,
    /// Which of these an operator set.
    set_by_operator: Vec<&'static str>,
    pause: Option<PauseTold>,
}

#[derive(Debug, Serialize)]
struct PauseTold {
    reason: String,
    since: String,
}

impl Rules {
    pub(super) fn new(info: &GroupInfo) -> Self {
        use strait::core::events::Order;
        let rules = info.rules();
        let over = &info.overrides;
        let set = [
            ("max_attempts", over.max_attempts.is_some()),
            ("max_dead", over.max_dead.is_some()),
            ("gap", over.gap.is_some()),
            ("after_dead", over.after_dead.is_some()),
        ];
        Rules {
            order: match rules.order {
                Order::Key => "key",
                Order::Free => "free",
            },
            max_attempts: rules.max_attempts,
            max_dead: rules.max_dead,
            gap: rules.gap,
            after_dead: rules.after_dead.as_str(),
            dead_topic: rules.dead_topic.map(|topic| topic.to_string()),
            set_by_operator: set
                .into_iter()
                .filter_map(|(name, set)| set.then_some(name))
                .collect(),
            pause: info.pause.as_ref().map(|pause| PauseTold {
                reason: pause.reason.to_string(),
                since: time(pause.since),
            }),
        }
    }
}

/// Why a partition gives nothing new, for programs, with the sentence for people.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    why: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<Offset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    text: String,
    next: String,
}

impl Told {
    /// In a word, for a table.
    pub(super) fn word(&self) -> &str {
        self.why
    }

    pub(super) fn new(info: &GroupInfo, waits: &Waits) -> Self {
        let group = &info.group;
        let on = format!("{group} --topic {}", info.topic);
        let plain = |why, text: &str, next: String| Told {
            why,
            offset: None,
            key: None,
            attempts: None,
            since: None,
            text: text.to_owned(),
            next,
        };
        match waits {
            Waits::Paused => plain(
                "pause",
                "the group is paused",
                format!("strait group resume {on}"),
            ),
            Waits::NoMember => plain(
                "member",
                "no member of the group is here to read it",
                "start the program that consumes it".to_owned(),
            ),
            Waits::TooManyDead => plain(
                "dead letters",
                &format!(
                    "the group has {} dead letters, as many as it may keep",
                    count(info.dead, true)
                ),
                format!("strait dlq ls {on}; then redrive or remove some, or strait group alter {on} --max-dead N"),
            ),
            Waits::Suspect(stuck) => Told {
                text: format!(
                    "{} was lost {} times with what handled it, and is out alone",
                    message(stuck),
                    stuck.attempts.saturating_sub(1)
                ),
                next: "look at that message: it may crash or hang its handler; it is given up by itself when its attempts are spent".to_owned(),
                ..Told::of("suspect", stuck)
            },
            Waits::Gap(stuck) => {
                let (state, next) = gap(stuck, &on);
                Told {
                    text: format!(
                        "the gap of {} is reached: {} {state}",
                        count(info.rules().gap, true),
                        message(stuck)
                    ),
                    next,
                    ..Told::of("gap", stuck)
                }
            }
        }
    }

    fn of(why: &'static str, stuck: &Stuck) -> Self {
        Told {
            why,
            offset: Some(Offset(stuck.offset)),
            key: stuck.key.as_deref().map(shown),
            attempts: Some(stuck.attempts),
            since: stuck.since.map(time),
            text: String::new(),
            next: String::new(),
        }
    }
}

fn message(stuck: &Stuck) -> String {
    let mut text = format!("offset {}", stuck.offset);
    if let Some(key) = &stuck.key {
        text.push_str(&format!(", key `{}`,", shown(key)));
    }
    if let Some(since) = stuck.since {
        text.push_str(&format!(" appended {},", time(since)));
    }
    text
}

/// What the message at the gap does, and what to do about it.
fn gap(stuck: &Stuck, on: &str) -> (String, String) {
    let attempts = stuck.attempts;
    match &stuck.on {
        StuckOn::Member => (
            format!("is with a member (attempt {attempts})"),
            "wait for its handler, or give the handler a timeout".to_owned(),
        ),
        StuckOn::Turn => (
            format!("goes out next ({attempts} attempts made)"),
            "nothing: it is about to be delivered".to_owned(),
        ),
        StuckOn::Retry { next, reason } => {
            let why = match reason {
                Some(reason) => format!(": {}", shown(reason.as_bytes())),
                None => String::new(),
            };
            (
                format!(
                    "failed {attempts} times and is tried again {}{why}",
                    time(*next)
                ),
                format!(
                    "mend what it fails of; or widen the gap: strait group alter {on} --gap N; or give it up sooner: --max-attempts N"
                ),
            )
        }
        StuckOn::DeadLetter(number) => (
            format!("waits for dead letter {number} of its key"),
            format!(
                "strait dlq redrive {on}, or let held keys go on: strait group alter {on} --after-dead continue"
            ),
        ),
    }
}

/// The sentences below the tables.
pub(super) struct Standing<'a>(pub(super) &'a GroupInfo);

impl fmt::Display for Standing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        let rules = Rules::new(info);
        writeln!(
            f,
            "\norder {}, at most {} attempts, {} dead letters, a gap of {}; after a dead letter: {}",
            rules.order,
            rules.max_attempts,
            count(rules.max_dead, true),
            count(rules.gap, true),
            rules.after_dead
        )?;
        if !rules.set_by_operator.is_empty() {
            let set = rules.set_by_operator.join(", ");
            writeln!(
                f,
                "set by an operator: {set} (`strait group alter` lifts it)"
            )?;
        }
        if let Some(pause) = &rules.pause {
            let reason = shown(pause.reason.as_bytes());
            writeln!(f, "paused since {}: {reason}", pause.since)?;
        }
        // Equal sentences once, with their partitions.
        let mut told: Vec<(String, String, Vec<String>)> = Vec::new();
        for (partition, shard) in info.shards.iter().enumerate() {
            let Some(waits) = &shard.waits else { continue };
            let Told { text, next, .. } = Told::new(info, waits);
            match told.iter_mut().find(|(known, ..)| *known == text) {
                Some((.., partitions)) => partitions.push(partition.to_string()),
                None => told.push((text, next, vec![partition.to_string()])),
            }
        }
        for (text, next, partitions) in told {
            let noun = if partitions.len() == 1 {
                "partition"
            } else {
                "partitions"
            };
            writeln!(
                f,
                "{noun} {}: {text}\n  next: {next}",
                partitions.join(", ")
            )?;
        }
        Ok(())
    }
}
