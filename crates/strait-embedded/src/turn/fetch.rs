//! What goes out next to a member.
//!
//! Per shard, in this order: messages that were out before and came back (*returned*), parked messages that are due, new
//! ones. One shard a fetch, in turns. A message whose lease was lost more than once goes out alone, one in the whole
//! group: if it kills the process, only itself is counted.

use super::Turn;
use crate::command::{Again, Fetch, Granted, GrantedWhat};
use crate::extents::Stream;
use crate::ops::{GroupId, Op};
use crate::state::group::Group;
use crate::state::shard::{Lease, Shard};

/// Lost so often, a message goes out alone.
const SUSPECT: u32 = 2;

impl Turn<'_> {
    pub(super) fn fetch(&mut self, fetch: &Fetch) -> Option<Granted> {
        let group = self.state.groups.get_mut(&fetch.group)?;
        let topic = self.state.topics.get(&group.topic)?;
        if let Some(member) = group.members.get(fetch.consumer) {
            member.ready = false;
        }
        if group.operator.pause.is_some() {
            return None;
        }
        let key_order = group.settings.key_order;
        let paused = group.has_too_many_dead();
        let mut found = None;
        for shard in group.members.open_to(fetch.consumer) {
            let stream = &topic.partitions.get(shard as usize)?.stream;
            let again = pick_again(group, shard, self.now.wall, fetch.items);
            if !again.is_empty() {
                found = Some((shard, GrantedWhat::Again(again)));
                break;
            }
            let state = group.shards.get(shard as usize)?;
            let waits = key_order && !state.returned.is_empty();
            if state.placed
                && !waits
                && !paused
                && group.members.suspect.is_none_or(|s| s.0 != shard)
            {
                let (first, count) = pick_new(state, stream, group.settings.gap, fetch);
                if count > 0 {
                    found = Some((shard, GrantedWhat::Run { first, count }));
                    break;
                }
            }
        }
        let (shard, what) = found?;
        Some(self.grant(fetch, shard, what))
    }

    fn grant(&mut self, fetch: &Fetch, shard: u32, what: GrantedWhat) -> Granted {
        let grant = self.state.new_grant();
        let id = fetch.group;
        self.record(|turn| match &what {
            GrantedWhat::Run { first, count } => {
                turn.emit(
                    &Op::Grant {
                        group: id,
                        shard,
                        first: *first,
                        count: *count,
                    },
                    None,
                );
            }
            GrantedWhat::Again(messages) => {
                // Neighbours in one operation: what is redriven comes in long runs.
                for run in messages.chunk_by(|a, b| a.offset + 1 == b.offset) {
                    turn.emit(
                        &Op::Grant {
                            group: id,
                            shard,
                            first: run[0].offset,
                            count: run.len() as u32,
                        },
                        None,
                    );
                }
            }
        });
        self.lease(fetch, shard, grant, &what);
        Granted { shard, grant, what }
    }

    fn lease(&mut self, fetch: &Fetch, shard: u32, grant: u64, what: &GrantedWhat) {
        let Some(group) = self.state.groups.get_mut(&fetch.group) else {
            return;
        };
        let Some(member) = group.members.get(fetch.consumer) else {
            return;
        };
        member.turn = shard + 1;
        // There may be more: the member looks again when it has dealt with this.
        member.ready = true;
        let deadline = self.now.monotonic + member.lease;
        let Some(state) = group.shards.get_mut(shard as usize) else {
            return;
        };
        let consumer = fetch.consumer;
        let mut put = |first: u64, end: u64| {
            state.lease(
                first,
                Lease {
                    end,
                    grant,
                    consumer,
                    deadline,
                    delivered: false,
                    settling: false,
                },
            );
        };
        match what {
            GrantedWhat::Run { first, count } => put(*first, first + u64::from(*count)),
            GrantedWhat::Again(messages) => {
                messages
                    .iter()
                    .for_each(|message| put(message.offset, message.offset + 1));
                if let [only] = &messages[..]
                    && only.attempt > SUSPECT
                    && only.reason.is_none()
                {
                    group.members.suspect = Some((shard, only.offset));
                }
            }
        }
        self.alarm(fetch.group, deadline);
    }

    /// Takes back what is out in a shard, where `lost` says so. What never reached the member is released: its grant
    /// does not count.
    pub(crate) fn take_back(&mut self, group: GroupId, shard: u32, lost: impl Fn(&Lease) -> bool) {
        let Some(found) = self.state.groups.get_mut(&group) else {
            return;
        };
        let Some(state) = found.shards.get_mut(shard as usize) else {
            return;
        };
        let before = state.in_flight();
        let undelivered = state.take_back(lost);
        if state.in_flight() == before {
            return;
        }
        let gone = |(s, offset): (u32, u64)| s == shard && state.lease_of(offset).is_none();
        if found.members.suspect.is_some_and(gone) {
            found.members.suspect = None;
        }
        if !undelivered.is_empty() {
            self.record(|turn| {
                for (first, end) in undelivered {
                    let count = (end - first) as u32;
                    turn.emit(
                        &Op::Release {
                            group,
                            shard,
                            first,
                            count,
                        },
                        None,
                    );
                }
            });
        }
        if let Some(group) = self.state.groups.get_mut(&group) {
            group.members.wake_all();
        }
    }

    /// A member leaves: its shards go on, what was out with it comes back.
    pub(super) fn leave(&mut self, group: GroupId, consumer: u64) {
        let now = self.now.monotonic;
        let Some(found) = self.state.groups.get_mut(&group) else {
            return;
        };
        let shards = found.shards.len() as u32;
        found.members.leave(consumer, now);
        for shard in 0..shards {
            self.take_back(group, shard, |lease| lease.consumer == consumer);
        }
        self.alarm_for(group);
    }

    /// A member is done with a shard that goes to another.
    pub(super) fn handed_back(&mut self, group: GroupId, shard: u32, consumer: u64) {
        let now = self.now.monotonic;
        let Some(found) = self.state.groups.get_mut(&group) else {
            return;
        };
        if found.members.handed_back(shard, consumer, now) {
            self.take_back(group, shard, |lease| lease.consumer == consumer);
        }
    }

    /// The engine closes: what never reached a member is released.
    pub(crate) fn release_undelivered(&mut self) {
        let groups: Vec<(GroupId, u32)> = self
            .state
            .groups
            .values()
            .map(|group| (group.id, group.shards.len() as u32))
            .collect();
        for (group, shards) in groups {
            for shard in 0..shards {
                self.take_back(group, shard, |lease| !lease.delivered);
            }
        }
    }
}

/// Messages that go out again.
fn pick_again(group: &Group, shard: u32, now: i64, items: usize) -> Vec<Again> {
    let Some(state) = group.shards.get(shard as usize) else {
        return Vec::new();
    };
    let again = |offset: u64| Again {
        offset,
        attempt: state.attempts_of(offset) + 1,
        reason: state.last_reason(offset),
        grave: group.grave_of(shard, offset),
    };
    let mut picked = Vec::new();
    for offset in state
        .returned
        .iter()
        .flat_map(|(start, end)| start..end)
        .take(items)
    {
        if state.attempts_of(offset) < SUSPECT {
            picked.push(again(offset));
            continue;
        }
        if picked.is_empty() && group.members.suspect.is_none() {
            picked.push(again(offset));
        }
        return picked;
    }
    if picked.is_empty() {
        picked = state
            .parking
            .due_at(now, state.next, items)
            .into_iter()
            .map(again)
            .collect();
    }
    picked
}

/// New messages: from the first that never went out, bounded by what is durable, by the gap and by the fetch.
fn pick_new(state: &Shard, stream: &Stream, gap: u64, fetch: &Fetch) -> (u64, u32) {
    let first = state.next;
    let end = stream.visible.min(state.low.saturating_add(gap.max(1)));
    // What was set aside in front of the group is not granted.
    let end = end.min(state.done.next_after(first).unwrap_or(end));
    if first >= end {
        return (first, 0);
    }
    let mut most = (end - first)
        .min(fetch.items as u64)
        .min(u64::from(u32::MAX));
    // By bytes where the extents are at hand; else by the average of the segment.
    let after = stream
        .recent
        .partition_point(|extent| extent.end() <= first);
    if stream
        .recent
        .front()
        .is_some_and(|extent| extent.first <= first)
    {
        let mut bytes = 0;
        for extent in stream.recent.iter().skip(after) {
            bytes += extent.len as usize;
            if bytes > fetch.bytes {
                let fitting = extent.first.max(first + 1) - first;
                let one_batch = extent.first <= first;
                most = most.min(if one_batch {
                    by_average(extent.len, extent.count, fetch)
                } else {
                    fitting
                });
                break;
            }
        }
    } else if let Some(span) = stream.spans.iter().find(|span| first < span.end) {
        let count = (span.end - span.first) as u32;
        most = most
            .min(by_average(span.bytes as u32, count, fetch))
            .min(span.end - first);
    }
    (first, most.max(1) as u32)
}

fn by_average(bytes: u32, count: u32, fetch: &Fetch) -> u64 {
    let each = u64::from(bytes / count.max(1)).max(1);
    (fetch.bytes as u64 / each).max(1)
}
