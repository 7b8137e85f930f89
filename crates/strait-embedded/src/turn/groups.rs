//! Groups: join, seek, delete, and the alarms of their leases.

use std::time::Duration;

use strait_core::events::{
    AfterDead, GroupChange, GroupSpec, Order, Overrides, PAUSE_REASON, Pause,
};
use strait_core::{Error, Kind, Name, Position, Result, Timestamp};

use super::topics::millis;
use super::{Turn, no_such_group, no_such_partition, no_such_topic};
use crate::command::{Join, SeekTo};
use crate::extents::StreamId;
use crate::ops::{GroupId, Op};
use crate::state::group::{Group, Settings};
use crate::state::members::Member;
use crate::state::shard::Shard;

impl Turn<'_> {
    pub(super) fn join(&mut self, join: Join) -> Result<u64> {
        let spec = join.spec;
        check_spec(&spec)?;
        let topic = self
            .state
            .topic_named(&spec.topic)
            .ok_or_else(|| no_such_topic(&spec.topic))?;
        let topic = topic.id;
        if let Some(dead) = &spec.dead_topic {
            self.state
                .topic_named(dead)
                .ok_or_else(|| no_such_topic(dead))?;
        }
        let settings = Settings {
            key_order: spec.order == Order::Key,
            max_attempts: spec.max_attempts,
            max_dead: spec.max_dead,
            dead_ms: spec.dead_age.map(millis),
            gap: spec.gap,
            dead_topic: spec.dead_topic.as_deref().map(Box::from),
            hold_key: spec.after_dead == AfterDead::HoldKey,
        };
        let known = self.state.group_named(&spec.group, &spec.topic);
        let id = known.map_or(self.state.next_group, |group| group.id);
        if let Some(known) = known {
            check_rules(&known.operator.over(&settings), &spec.group, &spec.topic)?;
        }
        if known.is_none_or(|group| group.declared != settings) {
            let op = Op::PutGroup {
                id,
                topic,
                name: &spec.group,
                settings: settings.as_op(),
            };
            self.record(|turn| turn.emit(&op, None));
            self.out.cleanup |= settings.dead_ms.is_some();
        }
        self.place_shards(id, &join.starts);
        let consumer = self.state.new_consumer(id);
        if let Some(group) = self.state.groups.get_mut(&id) {
            let member = Member::new(consumer, spec.member, spec.lease, spec.handover);
            group.members.join(member, self.now.monotonic);
        }
        self.alarm_for(id);
        Ok(consumer)
    }

    /// Gives a position to every shard that has none.
    fn place_shards(&mut self, id: GroupId, starts: &[u64]) {
        let Some(group) = self.state.groups.get(&id) else {
            return;
        };
        // Retention may have gone on since the starts were looked up.
        let earliest = |shard: u32| {
            let stream = StreamId::partition(group.topic, shard);
            self.state.stream(stream).map_or(0, |stream| stream.start)
        };
        let start = |i: u32| starts.get(i as usize).copied().unwrap_or(0);
        let unplaced: Vec<(u32, u64)> = (0..)
            .zip(&group.shards)
            .filter(|(_, shard)| !shard.placed)
            .map(|(i, _)| (i, start(i).max(earliest(i))))
            .collect();
        if unplaced.is_empty() {
            return;
        }
        self.record(|turn| {
            for (shard, to) in unplaced {
                turn.emit(
                    &Op::Seek {
                        group: id,
                        shard,
                        to,
                    },
                    None,
                );
            }
        });
    }

    pub(super) fn seek(&mut self, seek: &SeekTo) -> Result<Position> {
        let (id, shard, to) = (
            self.group_id(&seek.group, &seek.topic)?,
            seek.partition,
            seek.to,
        );
        let Some(group) = self.state.groups.get(&id) else {
            return Err(no_such_group(&seek.group, &seek.topic));
        };
        if shard as usize >= group.shards.len() {
            return Err(no_such_partition(&seek.topic, shard, group.shards.len()));
        }
        if !seek.force {
            refuse_live(
                group,
                "its position is not moved",
                "stop them first, or force it: they lose the partition and get it again",
            )?;
        }
        let stream = self.state.stream(StreamId::partition(group.topic, shard));
        let to = to.max(stream.map_or(0, |stream| stream.start));
        self.take_back(id, shard, |_| true);
        self.record(|turn| {
            turn.emit(
                &Op::Seek {
                    group: id,
                    shard,
                    to,
                },
                None,
            )
        });
        if let Some(group) = self.state.groups.get_mut(&id) {
            group.members.restart(shard);
        }
        Ok(Position::at(to))
    }

    /// An operator's change.
    pub(super) fn alter_group(
        &mut self,
        group: &Name,
        topic: &Name,
        change: GroupChange,
    ) -> Result<()> {
        let id = self.group_id(group, topic)?;
        let Some(found) = self.state.groups.get(&id) else {
            return Err(no_such_group(group, topic));
        };
        let mut operator = found.operator.clone();
        let Overrides {
            max_attempts,
            max_dead,
            gap,
            after_dead,
        } = &mut operator.overrides;
        change.max_attempts.apply(max_attempts);
        change.max_dead.apply(max_dead);
        change.gap.apply(gap);
        change.after_dead.apply(after_dead);
        let mut reason = operator.pause.as_ref().map(|pause| pause.reason.clone());
        change.pause.apply(&mut reason);
        let since = operator.pause.as_ref().map(|pause| pause.since);
        operator.pause = reason.map(|reason| Pause {
            reason,
            since: since.unwrap_or(Timestamp::from_millis(self.now.wall)),
        });
        if operator.overrides.after_dead == Some(AfterDead::HoldKey) && !found.declared.hold_key {
            return Err(hold_not_declared(group, topic));
        }
        check_rules(&operator.over(&found.declared), group, topic)?;
        check_pause(operator.pause.as_ref(), group)?;
        if operator == found.operator {
            return Ok(());
        }
        let op = Op::AlterGroup {
            id,
            operator: operator.as_op(),
        };
        self.record(|turn| turn.emit(&op, None));
        if let Some(group) = self.state.groups.get_mut(&id) {
            group.members.wake_all();
        }
        self.alarm_for(id);
        Ok(())
    }

    pub(super) fn delete_group(&mut self, group: &Name, topic: &Name) -> Result<()> {
        let id = self.group_id(group, topic)?;
        if let Some(group) = self.state.groups.get(&id) {
            refuse_live(
                group,
                "it is not deleted",
                &format!(
                    "stop them first: `strait group show {}` says who they are",
                    group.name
                ),
            )?;
        }
        self.record(|turn| turn.emit(&Op::DeleteGroup { id }, None));
        Ok(())
    }

    pub(super) fn group_id(&self, group: &Name, topic: &Name) -> Result<GroupId> {
        self.state
            .topic_named(topic)
            .ok_or_else(|| no_such_topic(topic))?;
        let found = self.state.group_named(group, topic);
        found
            .map(|group| group.id)
            .ok_or_else(|| no_such_group(group, topic))
    }

    /// The alarm of a group rings: leases that ran out come back, shards that were not handed back move, owners of
    /// messages that are due wake up.
    pub(crate) fn ring(&mut self, id: GroupId) {
        let Some(group) = self.state.groups.get_mut(&id) else {
            return;
        };
        let now = self.now.monotonic;
        let overdue = group.members.overdue(now);
        let shards = group.shards.len() as u32;
        for shard in overdue {
            self.take_back(id, shard, |_| true);
        }
        for shard in 0..shards {
            self.take_back(id, shard, |lease| lease.deadline <= now);
            let Some(group) = self.state.groups.get_mut(&id) else {
                return;
            };
            let due = group
                .shards
                .get(shard as usize)
                .is_some_and(|s| s.parking.is_due(self.now.wall));
            if due {
                group.members.wake_owner(shard);
            }
        }
        self.alarm_for(id);
    }

    /// Sets the alarm of a group to the next thing that happens by time.
    pub(super) fn alarm_for(&mut self, id: GroupId) {
        let Some(group) = self.state.groups.get(&id) else {
            return;
        };
        let leases = group
            .shards
            .iter()
            .filter_map(|shard| shard.next_deadline());
        let parked = group.shards.iter().filter_map(|shard| self.next_due(shard));
        if let Some(at) = leases
            .chain(parked)
            .chain(group.members.next_overdue())
            .min()
        {
            self.alarm(id, at);
        }
    }

    /// When the next parked message becomes due. Those that are due already need no alarm: their owner was woken.
    pub(super) fn next_due(&self, shard: &Shard) -> Option<Duration> {
        let due = shard.parking.next_due(self.now.wall)?;
        let wait = u64::try_from(due - self.now.wall).unwrap_or(0);
        Some(self.now.monotonic + Duration::from_millis(wait))
    }
}

fn check_spec(spec: &GroupSpec) -> Result<()> {
    spec.check()?;
    if spec.after_dead == AfterDead::HoldKey && spec.order == Order::Free {
        return Err(hold_needs_order(&spec.group, &spec.topic));
    }
    Ok(())
}

/// What holds of what members declare and an operator set must make sense together.
fn check_rules(settings: &Settings, group: &Name, topic: &Name) -> Result<()> {
    let fault = if settings.max_attempts == 0 {
        "max_attempts is 0: a message could never be handled"
    } else if settings.gap == 0 {
        "the gap is 0: no message could be out"
    } else if settings.hold_key && !settings.key_order {
        return Err(hold_needs_order(group, topic));
    } else {
        return Ok(());
    };
    Err(Error::new(
        Kind::Rejected,
        format!("group `{group}` on `{topic}`: {fault}"),
    )
    .with("group", group)
    .with("topic", topic)
    .next("give it at least 1"))
}

fn hold_needs_order(group: &Name, topic: &Name) -> Error {
    Error::new(
        Kind::Rejected,
        format!(
            "group `{group}` on `{topic}` keeps no order of keys, so that a dead letter cannot hold its key (hold_key)"
        ),
    )
    .with("group", group)
    .with("topic", topic)
    .next("let it keep the order of keys, or let keys go on after a dead letter (continue); `strait group show` says which of the two an operator set")
}

fn hold_not_declared(group: &Name, topic: &Name) -> Error {
    Error::new(
        Kind::Rejected,
        format!(
            "the members of group `{group}` on `{topic}` do not declare that a dead letter holds its key, and would go on with what they have of it"
        ),
    )
    .with("group", group)
    .with("topic", topic)
    .next("declare it in the program: `.after_dead(AfterDead::HoldKey)`")
}

fn check_pause(pause: Option<&Pause>, group: &Name) -> Result<()> {
    let fault = match pause.map(|pause| pause.reason.len()) {
        Some(0) => "needs a reason: who finds it paused must know why".to_owned(),
        Some(long) if long > PAUSE_REASON => {
            format!("has a reason of {long} bytes, at most {PAUSE_REASON} are kept")
        }
        _ => return Ok(()),
    };
    Err(Error::new(
        Kind::Rejected,
        format!("the pause of group `{group}` {fault}"),
    )
    .with("group", group)
    .next("say in a sentence why it is paused"))
}

fn refuse_live(group: &Group, what: &str, next: &str) -> Result<()> {
    if group.members.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = group.members.iter().map(|member| &*member.name).collect();
    Err(Error::new(
        Kind::Conflict,
        format!(
            "the group `{}` has {} live {}: {what}",
            group.name,
            names.len(),
            if names.len() == 1 {
                "member"
            } else {
                "members"
            }
        ),
    )
    .with("members", names.join(", "))
    .next(next))
}
