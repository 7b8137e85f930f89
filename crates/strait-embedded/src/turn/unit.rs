//! Units: checked as a whole, then emitted as one record.

use std::time::Duration;

use bytes::Bytes;
use strait_core::{Error, Fence, Kind, Once, OnceEnd, Outcome, Outgoing, Sent, Unit, Verdict};

use super::append::{Ahead, Checked, append_op, sent};
use super::ledger::check_key;
use super::{Turn, disk_full};
use crate::command::{Prepared, Taken};
use crate::consumer::group_of;
use crate::ops::{DeadOp, Op, ParkOp};
use crate::state::ledger::{Entry, full_key};

/// Why a unit is not applied.
enum Refusal {
    Fenced,
    Error(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Error(error)
    }
}

/// What a unit may do, once it was checked.
enum Plan {
    Apply(Vec<Checked>),
    /// The ledger knows the key: only the settles happen.
    Seen(Bytes),
}

impl Turn<'_> {
    pub(super) fn unit(&mut self, prepared: Prepared) -> Outcome {
        let plan = match self.plan(&prepared.unit) {
            Ok(plan) => plan,
            Err(Refusal::Fenced) => {
                self.abandon(prepared.unit);
                return Outcome::Fenced;
            }
            Err(Refusal::Error(error)) => return Outcome::NotApplied(prepared.unit, error),
        };
        let Prepared { unit, messages } = prepared;
        let Unit {
            settle, send, once, ..
        } = unit;
        self.record(|turn| {
            // Before the settles, which may append copies of dead letters: what was sent has its offsets already.
            let outcome = match plan {
                Plan::Seen(result) => Outcome::Seen(result),
                Plan::Apply(checked) => Outcome::Applied(turn.send(send, checked)),
            };
            let mut messages = messages.into_iter();
            for (receipt, verdict) in settle {
                let taken = if needs_messages(&verdict) {
                    messages.next()
                } else {
                    None
                };
                turn.settle(receipt.settle(), verdict, taken.unwrap_or_default());
            }
            if let (Outcome::Applied(_), Some(once)) = (&outcome, once) {
                turn.end_claim(&once);
            }
            outcome
        })
    }

    /// The receipts of a fenced unit that are valid are as good as dropped: their messages come back at once.
    fn abandon(&mut self, unit: Unit) {
        for (receipt, _) in unit.settle {
            // Not by its drop, which takes the lock that this turn holds.
            let fence = receipt.settle();
            if let Some(group) = self.state.groups.get_mut(&group_of(fence.consumer)) {
                group.abandon(&fence);
            }
        }
    }

    fn plan(&mut self, unit: &Unit) -> Result<Plan, Refusal> {
        let fences = unit.settle.iter().map(|(receipt, _)| receipt.fence());
        for fence in fences.chain(unit.under) {
            if !self.is_valid(&fence) {
                return Err(Refusal::Fenced);
            }
        }
        if unit
            .settle
            .iter()
            .any(|(_, verdict)| matches!(verdict, Verdict::Answer(_)))
        {
            let error = Error::unsupported(
                "an event has no caller to answer",
                "settle it with `Done`, or use the requests lane",
            );
            return Err(error.into());
        }
        if let Some(once) = &unit.once
            && let Some(result) = self.check_once(once)?
        {
            return Ok(Plan::Seen(result));
        }
        let mut ahead = Ahead::default();
        let mut checked: Vec<Checked> = Vec::with_capacity(unit.send.len());
        for outgoing in &unit.send {
            let item = self.check_outgoing(outgoing, &ahead)?;
            if unit.send.len() > 1 {
                ahead.add(&item);
            }
            checked.push(item);
        }
        Ok(Plan::Apply(checked))
    }

    fn check_outgoing(&self, outgoing: &Outgoing, ahead: &Ahead) -> Result<Checked, Error> {
        match outgoing {
            Outgoing::Append {
                topic,
                partition,
                records,
                expected,
                dedupe,
            } => self.check_append(topic, *partition, records, expected, *dedupe, ahead),
            _ => Err(Error::unsupported(
                "the embedded engine has no lane for this message",
                "send it through a lane that this engine offers",
            )),
        }
    }

    /// The stored result, when the key has one.
    fn check_once(&mut self, once: &Once) -> Result<Option<Bytes>, Refusal> {
        check_key(&once.scope, &once.key)?;
        let full = full_key(&once.scope, &once.key);
        let now = self.now.wall;
        match (self.state.ledger_of(&full).get(&full, now), once.claim) {
            (Some(Entry::Stored { result, .. }), _) => Ok(Some(result.clone())),
            (Some(Entry::Running { token, .. }), Some(claim)) if *token == claim.0 => Ok(None),
            (_, Some(_)) => Err(Refusal::Fenced),
            (Some(Entry::Running { until, .. }), None) if *until > now => {
                Err(Refusal::Error(Error::new(
                    Kind::Busy,
                    "another holder runs the work behind this idempotency key",
                )))
            }
            (_, None) if !self.room => Err(Refusal::Error(disk_full())),
            (_, None) => Ok(None),
        }
    }

    pub(super) fn is_valid(&self, fence: &Fence) -> bool {
        let group = self.state.groups.get(&group_of(fence.consumer));
        let shard = group.and_then(|group| group.shards.get(fence.shard as usize));
        shard.is_some_and(|shard| shard.holds(fence.first.offset(), fence.count, fence.epoch))
    }

    fn settle(&mut self, fence: Fence, verdict: Verdict, taken: Vec<Taken>) {
        let (group, shard) = (group_of(fence.consumer), fence.shard);
        let (first, count) = (fence.first.offset(), fence.count);
        if let Some(found) = self.state.groups.get_mut(&group) {
            if let Some(shard) = found.shards.get_mut(shard as usize) {
                shard.unlease(first, count);
            }
            let suspect = &mut found.members.suspect;
            let covers = |(s, offset): &(u32, u64)| {
                *s == shard && (first..first + u64::from(count)).contains(offset)
            };
            if suspect.as_ref().is_some_and(covers) {
                *suspect = None;
                // The next one to go out alone may be of another member.
                found.members.wake_all();
            }
        }
        match verdict {
            Verdict::Done | Verdict::Answer(_) => {
                self.emit(
                    &Op::Done {
                        group,
                        shard,
                        first,
                        count,
                    },
                    None,
                );
            }
            Verdict::Release => self.emit(
                &Op::Release {
                    group,
                    shard,
                    first,
                    count,
                },
                None,
            ),
            Verdict::Retry {
                after,
                reason,
                counts,
            } => {
                for message in taken {
                    self.retry(&fence, message, after, &reason, counts);
                }
            }
            Verdict::Dead(reason) => {
                for message in taken {
                    self.give_up(&fence, message, &reason);
                }
            }
        }
        let Some(found) = self.state.groups.get_mut(&group) else {
            return;
        };
        found.members.wake_owner(shard);
        // The next of its key may be due later.
        let state = self
            .state
            .groups
            .get(&group)
            .and_then(|g| g.shards.get(shard as usize));
        if let Some(at) = state.and_then(|state| self.next_due(state)) {
            self.alarm(group, at);
        }
    }

    /// The message goes to the dead letters; or back, when the engine gave it up because every attempt was lost, and the limit was
    /// raised since.
    fn give_up(&mut self, fence: &Fence, message: Taken, reason: &str) {
        let group = group_of(fence.consumer);
        let Some(found) = self.state.groups.get_mut(&group) else {
            return;
        };
        if let Some(shard) = found.shards.get_mut(fence.shard as usize) {
            shard.decided(message.key, message.offset);
        }
        let limit = found.settings.max_attempts;
        if message.attempts.is_none_or(|made| made >= limit) {
            return self.bury(fence, message, reason);
        }
        let back = Op::Release {
            group,
            shard: fence.shard,
            first: message.offset,
            count: 1,
        };
        self.emit(&back, None);
    }

    fn retry(
        &mut self,
        fence: &Fence,
        message: Taken,
        after: Duration,
        reason: &str,
        counts: bool,
    ) {
        let (id, shard, offset) = (group_of(fence.consumer), fence.shard, message.offset);
        let Some(group) = self.state.groups.get(&id) else {
            return;
        };
        let Some(found) = group.shards.get(shard as usize) else {
            return;
        };
        let attempts = found.attempts_of(offset);
        // Without a copy the limit was lowered meanwhile: the next attempt is the last.
        if counts && attempts >= group.settings.max_attempts && message.grave.is_some() {
            return self.bury(fence, message, reason);
        }
        let key = if group.settings.key_order {
            message.key
        } else {
            0
        };
        let delay_ms = u64::try_from(after.as_millis())
            .unwrap_or(u64::MAX)
            .min(1 << 50);
        // The present millisecond has begun: without the one more it would be too early by what is left of it.
        let begun = i64::from(delay_ms > 0);
        let due = self.now.wall.saturating_add(delay_ms as i64 + begun);
        let attempts = if counts {
            attempts
        } else {
            attempts.saturating_sub(1)
        };
        let parked = ParkOp {
            due,
            delay_ms,
            attempts,
            key,
            reason,
        };
        self.emit(
            &Op::Park {
                group: id,
                shard,
                offset,
                parked,
            },
            None,
        );
    }

    /// The message goes to the group's dead letters, and a copy to its dead-letter topic.
    pub(super) fn bury(&mut self, fence: &Fence, message: Taken, reason: &str) {
        let grave = message
            .grave
            .expect("what may be given up was prepared with a copy");
        let (id, shard, offset) = (group_of(fence.consumer), fence.shard, message.offset);
        let Some(group) = self.state.groups.get(&id) else {
            return;
        };
        let made = || {
            group
                .shards
                .get(shard as usize)
                .map_or(0, |s| s.attempts_of(offset))
        };
        let attempts = message.attempts.unwrap_or_else(made);
        let dead = DeadOp {
            number: group.graveyard.end,
            attempts,
            key: message.key,
            appended: message.appended,
            died: self.now.wall,
            bytes: grave.bytes().len() as u64,
            reason,
        };
        let topic = group
            .settings
            .dead_topic
            .as_deref()
            .and_then(|t| self.state.topic_named(t));
        let copy = topic
            .zip(message.copy)
            .and_then(|(topic, (partition, records))| {
                let stream = &topic.partitions.get(partition as usize)?.stream;
                let mut op = append_op(topic.id, partition, stream.end, &records, self.now.wall);
                let ahead = Ahead::default();
                op.versions = self.versions(topic, partition, op.first, &records, &ahead);
                Some((op, records))
            });
        self.emit(
            &Op::Dead {
                group: id,
                shard,
                offset,
                dead,
            },
            Some(&grave),
        );
        if let Some((op, records)) = copy {
            self.emit(&Op::Append(op), Some(&records));
        }
    }

    fn send(&mut self, send: Vec<Outgoing>, checked: Vec<Checked>) -> Vec<Sent> {
        send.into_iter()
            .zip(checked)
            .map(|(outgoing, checked)| match (outgoing, checked) {
                (Outgoing::Append { records, .. }, Checked::New(op)) => {
                    let sent = sent(&op);
                    self.emit(&Op::Append(op), Some(&records));
                    sent
                }
                (_, Checked::Known(sent)) => sent,
                (_, Checked::New(op)) => sent(&op),
            })
            .collect()
    }

    fn end_claim(&mut self, once: &Once) {
        let (scope, key) = (&*once.scope, &*once.key);
        match &once.end {
            OnceEnd::Store { result, ttl } => {
                let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
                let expires = self.now.wall.saturating_add(ttl);
                self.emit(
                    &Op::StoreOnce {
                        scope,
                        key,
                        result,
                        expires,
                    },
                    None,
                );
            }
            OnceEnd::Forget => self.emit(&Op::ForgetClaim { scope, key }, None),
        }
        self.out.claims_ended = true;
    }
}

/// True for the verdicts that need the messages themselves.
pub(crate) fn needs_messages(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Retry { .. } | Verdict::Dead(_))
}
