//! How messages end, in the words of the script that stores it.

use std::sync::Arc;

use strait_core::events::{AfterDead, Death, HISTORY};
use strait_core::{Fence, Message, Name, Timestamp, Verdict};
use strait_member::{Again, End, Step};

use super::letters::{Back, history_text};
use super::{Member, letters};
use crate::keys;
use crate::script::Invoke;

/// What a member says of messages that were out, on its way to the server.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) member: Arc<Member>,
    pub(crate) shard: u32,
    /// The token of the shard's lease.
    epoch: u64,
    ends: Vec<One>,
}

/// One step, with what has to be stored of it.
#[derive(Debug)]
struct One {
    step: Step,
    /// Of those that need them.
    messages: Vec<Message>,
    /// The dead letter that was brought back.
    back: Option<Back>,
    /// It holds its key when it is dead.
    holds: bool,
}

impl One {
    fn is_dead(&self) -> bool {
        matches!(self.step.end, End::Dead { .. })
    }

    /// How many steps the script sees.
    fn count(&self) -> i64 {
        match self.step.end {
            End::Again { .. } => self.step.count as i64,
            _ => 1,
        }
    }
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
        let (epoch, ends) = member.with_owned(shard, |owned| {
            let steps = steps(&mut owned.window)?;
            let one = |step: Step| One {
                messages: match step.end {
                    End::Done => Vec::new(),
                    _ => owned.window.messages(&step).collect(),
                },
                back: step
                    .came()
                    .and_then(|number| owned.letters.get(&number).cloned()),
                holds: owned.window.rules().after_dead == AfterDead::HoldKey,
                step,
            };
            Some((owned.epoch, steps.into_iter().map(one).collect::<Vec<_>>()))
        })?;
        let ending = Ending {
            member: member.clone(),
            shard,
            epoch,
            ends,
        };
        if ending.ends.iter().any(|one| one.step.end != End::Done) {
            member.turns(shard, ending.deaths());
        }
        Some(ending)
    }

    fn deaths(&self) -> usize {
        self.ends.iter().filter(|one| one.is_dead()).count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// It is stored.
    pub(crate) fn applied(self) {
        let deaths = self.deaths();
        let Ending {
            member,
            shard,
            epoch,
            ends,
        } = self;
        member.with_owned(shard, |owned| {
            if owned.epoch == epoch {
                for One { step, .. } in ends {
                    if let (Some(number), false) =
                        (step.came(), matches!(step.end, End::Again { .. }))
                    {
                        owned.letters.remove(&number);
                    }
                    owned.window.applied(step);
                }
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
                self.ends.iter().for_each(|one| window.back(&one.step));
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

/// What is stored of a message that comes again; `out` is the token under which it is out, 0 when it is not.
pub(crate) fn known(again: &Again, out: u64) -> String {
    let reason = again.reason.as_deref().map(|reason| format!("+{reason}"));
    format!(
        "{} {} {} {out} {}",
        again.attempts,
        again.lost,
        again.due.as_millis(),
        reason.as_deref().unwrap_or("-")
    )
}

/// Reads what [`known`] made.
pub(crate) fn of_known(position: strait_core::Position, text: &str) -> Option<Again> {
    let mut parts = text.splitn(5, ' ');
    let (attempts, lost, due) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next()?;
    Some(Again {
        position,
        attempts: attempts.parse().ok()?,
        lost: lost.parse().ok()?,
        due: Timestamp::from_millis(due.parse().ok()?),
        reason: parts.next()?.strip_prefix('+').map(Arc::from),
    })
}

/// The endings for the script: their number, then each.
pub(crate) fn put_shards(invoke: &mut Invoke, endings: &[Ending]) {
    invoke.arg(endings.len() as i64);
    for ending in endings {
        let (keys, shard) = (&ending.member.keys, ending.shard);
        let all = [
            keys.shard(shard),
            keys.settled(shard),
            keys.again(shard),
            keys.group.clone(),
            keys.dead.clone(),
            keys.edits.clone(),
            keys.back(shard),
            keys.held(shard),
        ];
        all.into_iter().for_each(|key| {
            invoke.key(key);
        });
        invoke.arg(ending.epoch as i64);
        invoke.arg(ending.ends.iter().map(One::count).sum::<i64>());
        for one in &ending.ends {
            put_one(invoke, one, ending.member.spec.dead_topic.as_ref());
        }
    }
}

fn put_one(invoke: &mut Invoke, one: &One, copy: Option<&Name>) {
    let range = one.step.range;
    let (from, to) = (keys::id(range.from), keys::id(range.to));
    match (&one.step.end, &one.back) {
        (End::Done, Some(back)) => {
            invoke.arg("ended").arg(back.number);
        }
        (End::Done, None) => {
            invoke.arg("done").arg(from).arg(to);
            invoke.arg(one.step.count as i64);
            // Only what went out again has something to forget, and that ends alone.
            let alone = (one.step.count == 1).then(|| keys::id(keys::before(range.to)));
            invoke.arg(alone.unwrap_or_default());
        }
        (
            End::Again {
                attempts,
                lost,
                due,
                reason,
            },
            back,
        ) => {
            for message in &one.messages {
                let again = Again {
                    position: message.position(),
                    attempts: *attempts,
                    lost: *lost,
                    due: *due,
                    reason: reason.clone(),
                };
                match back {
                    Some(back) => {
                        invoke.arg("waits").arg(back.number);
                        invoke.arg(back.known(&again, 0));
                    }
                    None => {
                        invoke.arg("again").arg(keys::id(again.position));
                        invoke.arg(known(&again, 0));
                    }
                }
            }
        }
        (End::Dead { attempts, reason }, back) => {
            let Some(message) = one.messages.first() else {
                return;
            };
            invoke.arg("dead").arg(from).arg(to);
            invoke.arg(keys::id(message.position()));
            let number = back.as_ref().map(|back| back.number.to_string());
            invoke.arg(number.unwrap_or_default());
            invoke.arg(copy.map(|topic| keys::stream(topic, 0)).unwrap_or_default());
            invoke.arg(letters::holds(message, one.holds));
            let mut fields = letters::fields(message, reason);
            fields.push("dead:attempts".into());
            fields.push(attempts.to_string().into());
            let deaths = back.as_ref().map_or(&[][..], |back| &back.deaths);
            if !deaths.is_empty() {
                fields.push("dead:history".into());
                fields.push(history_text(newest(deaths)).into());
            }
            invoke.arg(fields.len() as i64);
            fields.into_iter().for_each(|field| {
                invoke.arg(field);
            });
        }
    }
}

fn newest(deaths: &[Death]) -> &[Death] {
    &deaths[deaths.len().saturating_sub(HISTORY)..]
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
            assert_eq!(of_known(position, &known(&again, 4)), Some(again));
        }
        assert_eq!(of_known(position, "3 1"), None);
    }
}
