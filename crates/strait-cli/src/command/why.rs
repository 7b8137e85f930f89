//! Why something waits, in words, and what to do about it.

use strait::core::events::{GroupInfo, ShardInfo, Standing, Stuck, StuckOn, Waits};
use strait::core::{Name, Position, Timestamp};

use crate::text::{duration, shown, time};

/// Why something waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) text: String,
    /// The command that helps, where there is one.
    pub(crate) next: Option<String>,
}

impl Reason {
    fn new(text: impl Into<String>) -> Self {
        Reason {
            text: text.into(),
            next: None,
        }
    }

    fn next(self, command: impl Into<String>) -> Self {
        Reason {
            next: Some(command.into()),
            ..self
        }
    }
}

/// Why a partition gives a group nothing new; `None` when it does.
pub(crate) fn on_shard(info: &GroupInfo, partition: u32, shard: &ShardInfo) -> Option<Reason> {
    let (group, topic) = (&info.group, &info.topic);
    Some(match shard.waits.as_ref()? {
        Waits::Paused => {
            let why = info.pause.as_ref().map(|pause| {
                let reason = shown(pause.reason.as_bytes());
                format!(" since {}: {reason}", time(pause.since))
            });
            Reason::new(format!(
                "an operator paused the group{}",
                why.unwrap_or_default()
            ))
            .next(format!("strait group resume {group} --topic {topic}"))
        }
        Waits::NoMember => Reason::new("no member reads it").next(format!(
            "start a member, or look at one: strait consume {topic} -g {group}"
        )),
        Waits::TooManyDead => Reason::new(format!(
            "the group has {} dead letters, as many as it may keep",
            info.dead
        ))
        .next(format!("strait dlq ls {group} --topic {topic}")),
        Waits::Suspect(stuck) => of_stuck(info, partition, stuck, |at| {
            format!("offset {at} was lost more than once and goes out alone; it ")
        }),
        Waits::Gap(stuck) => of_stuck(info, partition, stuck, |at| {
            format!(
                "the gap of {} is reached, for offset {at} is not settled; it ",
                info.rules().gap
            )
        }),
    })
}

fn of_stuck(
    info: &GroupInfo,
    partition: u32,
    stuck: &Stuck,
    head: impl Fn(Position) -> String,
) -> Reason {
    let reason = on_stuck(&info.group, &info.topic, stuck);
    let key = stuck
        .key
        .as_ref()
        .map(|key| format!(" (key {})", shown(key)));
    let text = format!(
        "{}{}{}",
        head(stuck.offset),
        reason.text,
        key.unwrap_or_default()
    );
    let look = format!(
        "strait describe offset/{}/{partition}/{}",
        info.topic, stuck.offset
    );
    let next = reason.next.unwrap_or(look);
    Reason::new(text).next(next)
}

/// How a group stands to a message; begins with a verb.
pub(crate) fn on_standing(
    group: &Name,
    (topic, partition, position): (&Name, u32, Position),
    standing: &Standing,
    of: Option<&GroupInfo>,
) -> Reason {
    match standing {
        Standing::Settled => Reason::new("is settled"),
        Standing::Dead(number) => Reason::new(format!("is dead letter {number}"))
            .next(format!("strait dlq show {group} {number} --topic {topic}")),
        Standing::Ahead => {
            let why = of.and_then(|info| {
                let shard = info.shards.get(partition as usize)?;
                on_shard(info, partition, shard)
            });
            match why {
                Some(why) => Reason {
                    text: format!("was not handed out yet: {}", why.text),
                    next: why.next,
                },
                None => Reason::new("was not handed out yet, and comes in its turn"),
            }
        }
        Standing::Unsettled(stuck) if stuck.offset != position => {
            let reason = on_stuck(group, topic, stuck);
            Reason {
                text: format!(
                    "waits behind offset {} of its key, which {}",
                    stuck.offset, reason.text
                ),
                ..reason
            }
        }
        Standing::Unsettled(stuck) => on_stuck(group, topic, stuck),
    }
}

/// What a message waits for; begins with a verb.
fn on_stuck(group: &Name, topic: &Name, stuck: &Stuck) -> Reason {
    let attempts = stuck.attempts;
    match &stuck.on {
        StuckOn::Member => Reason::new(format!("is with a member, attempt {attempts}"))
            .next(format!("strait group show {group} --topic {topic}")),
        StuckOn::Turn => Reason::new(format!("goes out next, after {attempts} attempts")),
        StuckOn::Retry { next, reason } => {
            let left = next.as_millis() - Timestamp::now().as_millis();
            let left = std::time::Duration::from_millis(u64::try_from(left).unwrap_or(0));
            let why = reason
                .as_ref()
                .map(|why| format!(": {}", shown(why.as_bytes())));
            Reason::new(format!(
                "is parked until {} (in {}), after {attempts} attempts{}",
                time(*next),
                duration(left),
                why.unwrap_or_default()
            ))
        }
        StuckOn::DeadLetter(number) => Reason::new(format!(
            "waits for dead letter {number} of its key to be redriven or removed"
        ))
        .next(format!("strait dlq show {group} {number} --topic {topic}")),
    }
}
