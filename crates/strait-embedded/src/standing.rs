//! How a group stands: lag, members, and why a partition gives it nothing new.

use std::time::Duration;

use strait_core::events::{
    AfterDead, GroupInfo, GroupRules, MemberInfo, Order, ShardInfo, Stuck, StuckOn, Waits,
};
use strait_core::{Name, Position, Result, Timestamp};

use crate::command::Again;
use crate::extents::{Extent, StreamId};
use crate::prepare::read_again;
use crate::reading::Want;
use crate::shared::Shared;
use crate::state::State;
use crate::state::group::Group;
use crate::state::shard::Shard;
use crate::turn::{no_such_group, no_such_topic};

/// What is looked up in the log for a shard, once the state is let go of.
#[derive(Debug, Default)]
struct Wanted {
    /// For the age of its oldest unsettled message.
    oldest: Option<Want>,
    /// The message that it waits for.
    stuck: Option<Again>,
}

/// All groups with their lag, by name and topic.
pub(crate) fn all_groups(shared: &Shared) -> Result<Vec<GroupInfo>> {
    let keys: Vec<(Name, Name)> = {
        let state = shared.state.lock();
        let name = |group: &Group| {
            Some((
                group.name.clone(),
                state.topics.get(&group.topic)?.name.clone(),
            ))
        };
        state.groups.values().filter_map(name).collect()
    };
    let infos = keys
        .into_iter()
        .map(|(group, topic)| group_info(shared, group, topic));
    let mut infos = infos.collect::<Result<Vec<_>>>()?;
    infos.sort_by(|a, b| (&a.group, &a.topic).cmp(&(&b.group, &b.topic)));
    Ok(infos)
}

pub(crate) fn group_info(shared: &Shared, group: Name, topic: Name) -> Result<GroupInfo> {
    let now = shared.clock.now().wall;
    let (mut info, wanted, ids) = {
        let state = shared.state.lock();
        state
            .topic_named(&topic)
            .ok_or_else(|| no_such_topic(&topic))?;
        let found = state.group_named(&group, &topic);
        let found = found.ok_or_else(|| no_such_group(&group, &topic))?;
        let (info, wanted) = describe(&state, found, topic, now);
        (info, wanted, (found.id, found.topic))
    };
    let name = info.topic.shared();
    for ((partition, shard), wanted) in (0..).zip(&mut info.shards).zip(wanted) {
        let extent = wanted
            .oldest
            .and_then(|want| shared.extents(&want).ok()?.first().copied());
        shard.oldest = extent.map(|Extent { time, .. }| {
            Duration::from_millis(u64::try_from(now - time).unwrap_or(0))
        });
        if let (Some(Waits::Suspect(stuck) | Waits::Gap(stuck)), Some(again)) =
            (&mut shard.waits, wanted.stuck)
            // It may be settled and gone by now: then the key is not known, and the next look shows another message.
            && let Ok(Some(message)) =
                read_again(shared, &name, ids.1, ids.0, partition, &again)
        {
            stuck.key = message.record().key().map(<[u8]>::to_vec);
            stuck.since = Some(message.appended());
        }
    }
    Ok(info)
}

fn describe(state: &State, group: &Group, topic: Name, now: i64) -> (GroupInfo, Vec<Wanted>) {
    let members = group.members.iter().map(|member| MemberInfo {
        name: member.name.clone(),
        consumer: member.consumer,
        shards: group.members.owned_by(member.consumer),
    });
    let mut wanted = Vec::with_capacity(group.shards.len());
    let mut shards = Vec::with_capacity(group.shards.len());
    for (partition, shard) in (0..).zip(&group.shards) {
        let stream = StreamId::partition(group.topic, partition);
        let end = state
            .stream(stream)
            .map_or(shard.low, |stream| stream.visible);
        let (waits, stuck) = waits(group, partition, shard, end, now);
        let oldest = (shard.low < end).then_some(Want {
            stream,
            from: shard.low,
            count: 1,
            bytes: 0,
        });
        wanted.push(Wanted { oldest, stuck });
        shards.push(ShardInfo {
            committed: Position::at(shard.low),
            end: Position::at(end),
            lag: shard.lag(end),
            oldest: None,
            parked: shard.parking.len(),
            in_flight: shard.in_flight(),
            held_keys: shard.parking.held_keys(),
            waits,
        });
    }
    let info = GroupInfo {
        group: group.name.clone(),
        topic,
        members: members.collect(),
        shards,
        dead: group.dead.letters.range(..group.graveyard.visible).count() as u64,
        dead_bytes: group.dead.bytes,
        paused: group.paused(),
        pause: group.operator.pause.clone(),
        declared: declared(group),
        overrides: group.operator.overrides,
    };
    (info, wanted)
}

fn declared(group: &Group) -> GroupRules {
    let declared = &group.declared;
    GroupRules {
        order: if declared.key_order {
            Order::Key
        } else {
            Order::Free
        },
        max_attempts: declared.max_attempts,
        max_dead: declared.max_dead,
        dead_age: declared.dead_ms.map(Duration::from_millis),
        gap: declared.gap,
        after_dead: if declared.hold_key {
            AfterDead::HoldKey
        } else {
            AfterDead::Continue
        },
        // The name of a topic that was declared is a name.
        dead_topic: declared
            .dead_topic
            .as_deref()
            .and_then(|name| Name::new(name).ok()),
    }
}

/// Why a shard gives nothing new, and the message that it waits for.
fn waits(
    group: &Group,
    partition: u32,
    shard: &Shard,
    end: u64,
    now: i64,
) -> (Option<Waits>, Option<Again>) {
    let more = shard.next < end;
    if group.operator.pause.is_some() {
        return (Some(Waits::Paused), None);
    }
    if group.members.owner(partition).is_none() && shard.lag(end) > 0 {
        return (Some(Waits::NoMember), None);
    }
    if let Some((at, offset)) = group.members.suspect
        && at == partition
    {
        let (stuck, again) = stuck(group, partition, shard, offset, now);
        return (Some(Waits::Suspect(stuck)), Some(again));
    }
    if more && group.has_too_many_dead() {
        return (Some(Waits::TooManyDead), None);
    }
    if more && shard.next >= shard.low.saturating_add(group.settings.gap.max(1)) {
        let (stuck, again) = stuck(group, partition, shard, shard.low, now);
        return (Some(Waits::Gap(stuck)), Some(again));
    }
    (None, None)
}

/// What a message waits for that was handed out and is not settled.
pub(crate) fn stuck(
    group: &Group,
    partition: u32,
    shard: &Shard,
    offset: u64,
    now: i64,
) -> (Stuck, Again) {
    // The one of its key whose turn it is.
    let (offset, held) = shard.parking.waits_for(offset);
    let leased = shard.lease_of(offset).is_some_and(|lease| !lease.settling);
    let due = shard.parking.due_of(offset).filter(|due| *due > now);
    let on = match (leased, held, due) {
        (true, ..) => StuckOn::Member,
        (_, Some(number), _) => StuckOn::DeadLetter(number),
        (_, _, Some(due)) => StuckOn::Retry {
            next: Timestamp::from_millis(due),
            reason: shard.last_reason(offset),
        },
        _ => StuckOn::Turn,
    };
    let stuck = Stuck {
        offset: Position::at(offset),
        key: None,
        attempts: shard.attempts_of(offset),
        since: None,
        on,
    };
    let again = Again {
        offset,
        attempt: 0,
        reason: None,
        grave: group.grave_of(partition, offset),
    };
    (stuck, again)
}
