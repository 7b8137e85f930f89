//! How messages end, in the words of the script that stores it.

use std::sync::Arc;

use strait_core::{Fence, Message, Name, Timestamp, Verdict};
use strait_member::{Again, End, Step};

use super::Member;
use crate::script::Invoke;
use crate::{entry, keys};

/// What a member says of messages that were out, on its way to the server.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) member: Arc<Member>,
    pub(crate) shard: u32,
    /// The token of the shard's lease.
    epoch: u64,
    /// The steps, with the messages of those that need them.
    steps: Vec<(Step, Vec<Message>)>,
}

impl Ending {
    /// `None`: the receipt is no longer valid.
    pub(crate) fn begin(member: &Arc<Member>, fence: &Fence, verdict: &Verdict) -> Option<Self> {
        if !member.may_settle(fence.shard) {
            return None;
        }
        let begin =
            |window: &mut strait_member::Window| window.begin(fence, verdict, Timestamp::now());
        Self::of(member, fence.shard, begin)
    }

    /// What only holds while a receipt is valid, without ending it.
    pub(crate) fn under(member: &Arc<Member>, fence: &Fence) -> Option<Self> {
        Self::of(member, fence.shard, |window| {
            window.holds(fence).then(Vec::new)
        })
    }

    pub(crate) fn of(
        member: &Arc<Member>,
        shard: u32,
        steps: impl FnOnce(&mut strait_member::Window) -> Option<Vec<Step>>,
    ) -> Option<Self> {
        let (epoch, steps) = member.with(shard, |epoch, window| {
            let steps = steps(window)?;
            let messages = |step: &Step| match step.end {
                End::Done => Vec::new(),
                _ => window.messages(step).collect(),
            };
            let steps = steps.into_iter().map(|step| {
                let messages = messages(&step);
                (step, messages)
            });
            Some((epoch, steps.collect()))
        })?;
        let ending = Ending {
            member: member.clone(),
            shard,
            epoch,
            steps,
        };
        if ending.steps.iter().any(|(step, _)| step.end != End::Done) {
            member.turns(shard, ending.deaths());
        }
        Some(ending)
    }

    fn deaths(&self) -> usize {
        let dead = |(step, _): &&(Step, Vec<Message>)| matches!(step.end, End::Dead { .. });
        self.steps.iter().filter(dead).count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// It is stored.
    pub(crate) fn applied(self) {
        let deaths = self.deaths();
        let Ending {
            member,
            shard,
            epoch,
            steps,
        } = self;
        member.with(shard, |now, window| {
            if now == epoch {
                steps.into_iter().for_each(|(step, _)| window.applied(step));
            }
            Some(())
        });
        if deaths > 0 {
            member.died(deaths);
        }
        member.ring();
    }

    /// It could not be stored.
    pub(crate) fn back(&self) {
        self.member.with(self.shard, |now, window| {
            if now == self.epoch {
                self.steps.iter().for_each(|(step, _)| window.back(step));
            }
            Some(())
        });
        if self.deaths() > 0 {
            self.member.died(self.deaths());
        }
    }

    /// The server says that the shard is another member's.
    pub(crate) fn lost(&self) {
        self.member.lost(self.shard, self.epoch);
    }
}

/// What is stored of a message that comes again.
pub(crate) fn known(again: &Again) -> String {
    let reason = again.reason.as_deref().map(|reason| format!("+{reason}"));
    format!(
        "{} {} {} {}",
        again.attempts,
        again.lost,
        again.due.as_millis(),
        reason.as_deref().unwrap_or("-")
    )
}

/// Reads what [`known`] made.
pub(crate) fn of_known(position: strait_core::Position, text: &str) -> Option<Again> {
    let mut parts = text.splitn(4, ' ');
    Some(Again {
        position,
        attempts: parts.next()?.parse().ok()?,
        lost: parts.next()?.parse().ok()?,
        due: Timestamp::from_millis(parts.next()?.parse().ok()?),
        reason: parts.next()?.strip_prefix('+').map(Arc::from),
    })
}

/// The endings for the script: their number, then each.
pub(crate) fn put_shards(invoke: &mut Invoke, endings: &[Ending]) {
    invoke.arg(endings.len() as i64);
    for ending in endings {
        let (member, shard) = (&ending.member, ending.shard);
        invoke
            .key(member.keys.shard(shard))
            .key(member.keys.settled(shard));
        invoke.key(member.keys.again(shard));
        invoke
            .key(member.keys.group.clone())
            .key(member.keys.dead.clone());
        let count = |(step, _): &(Step, Vec<Message>)| match step.end {
            End::Again { .. } => step.count as i64,
            _ => 1,
        };
        invoke.arg(ending.epoch as i64);
        invoke.arg(ending.steps.iter().map(count).sum::<i64>());
        for (step, messages) in &ending.steps {
            put_step(invoke, step, messages, member.spec.dead_topic.as_ref());
        }
    }
}

fn put_step(invoke: &mut Invoke, step: &Step, messages: &[Message], copy: Option<&Name>) {
    match &step.end {
        End::Done => {
            invoke
                .arg("done")
                .arg(keys::id(step.range.from))
                .arg(keys::id(step.range.to));
            invoke.arg(step.count as i64);
            // Only what went out again has something to forget, and that ends alone.
            let alone = (step.count == 1).then(|| keys::id(keys::before(step.range.to)));
            invoke.arg(alone.unwrap_or_default());
        }
        End::Again {
            attempts,
            lost,
            due,
            reason,
        } => {
            for message in messages {
                let again = Again {
                    position: message.position(),
                    attempts: *attempts,
                    lost: *lost,
                    due: *due,
                    reason: reason.clone(),
                };
                invoke
                    .arg("again")
                    .arg(keys::id(message.position()))
                    .arg(known(&again));
            }
        }
        End::Dead { attempts, reason } => {
            let Some(message) = messages.first() else {
                return;
            };
            let position = keys::id(message.position());
            invoke
                .arg("dead")
                .arg(keys::id(step.range.from))
                .arg(keys::id(step.range.to));
            invoke.arg(&position);
            invoke.arg(copy.map(|topic| keys::stream(topic, 0)).unwrap_or_default());
            let mut fields: Vec<Vec<u8>> = Vec::with_capacity(24);
            entry::fields(&message.record(), |name, value| {
                fields.push(name.to_vec());
                fields.push(value.to_vec());
            });
            let own = [
                ("dead:topic", message.topic().to_string()),
                ("dead:partition", message.partition().to_string()),
                ("dead:position", position),
                ("dead:appended", message.appended().as_millis().to_string()),
                ("dead:attempts", attempts.to_string()),
                ("dead:died", Timestamp::now().as_millis().to_string()),
                ("dead:reason", reason.to_string()),
            ];
            for (name, value) in own {
                fields.push(name.into());
                fields.push(value.into());
            }
            invoke.arg(fields.len() as i64);
            fields.into_iter().for_each(|field| {
                invoke.arg(field);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_comes_back() {
        let position = strait_core::Position::of_parts(3, 1);
        for reason in [None, Some("no such order: 4 + 2"), Some("")] {
            let again = Again {
                position,
                attempts: 3,
                lost: 1,
                due: Timestamp::from_millis(-7),
                reason: reason.map(Arc::from),
            };
            assert_eq!(of_known(position, &known(&again)), Some(again));
        }
        assert_eq!(of_known(position, "3 1"), None);
    }
}
