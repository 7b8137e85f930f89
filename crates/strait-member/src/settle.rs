//! How what is out ends: by a verdict, or because nobody will give one.

use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{AfterDead, Order};
use strait_core::{Fence, Message, Timestamp, Verdict};

use crate::Range;
use crate::waiting::Entry;
use crate::window::{Lease, Window};

/// Why a message comes again whose member did not say anything.
const LEASE_ENDED: &str = "the lease ended without a verdict";
const DROPPED: &str = "the receipt was dropped without a verdict";

/// One change of what is durable: messages that were out end in this way. The driver stores it and then calls
/// [`Window::applied`], or [`Window::back`] when it could not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Which messages.
    pub range: Range,
    /// How many.
    pub count: u64,
    /// They came from elsewhere ([`Window::comes_again`]): `range` is where they once stood in the log, and says nothing of what
    /// is settled there.
    pub elsewhere: bool,
    /// How they end.
    pub end: End,
}

/// How messages end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// They are settled.
    Done,
    /// They come again. `attempts` count, `lost` of them without a verdict.
    Again {
        /// Attempts that count.
        attempts: u32,
        /// Of them, those that ended without a verdict.
        lost: u32,
        /// When they may go out again.
        due: Timestamp,
        /// Why; `None` when they were handed back unhandled.
        reason: Option<Arc<str>>,
    },
    /// They are settled by being given up: each is stored with the dead letters.
    Dead {
        /// Attempts made.
        attempts: u32,
        /// Why.
        reason: Arc<str>,
    },
}

impl Step {
    /// Of a message that came from elsewhere, its number: what [`Window::comes_again`] gave. Such a step is of one message.
    pub fn came(&self) -> Option<u64> {
        self.elsewhere.then_some(self.first)
    }
}

impl Window {
    /// A verdict on a receipt: what has to be stored for it, in order. `None`: the receipt is no longer valid, nothing was
    /// changed. Until [`applied`](Window::applied) or [`back`](Window::back) the messages can neither be lost nor settled again,
    /// and where they will wait, later ones of their key do not go out.
    pub fn begin(
        &mut self,
        fence: &Fence,
        verdict: &Verdict,
        wall: Timestamp,
    ) -> Option<Vec<Step>> {
        if fence.consumer != self.consumer || fence.shard != self.shard {
            return None;
        }
        let parts = self.leases_of(fence)?;
        let mut steps = Vec::new();
        for (first, end) in parts {
            self.carve(first, end, true);
            if matches!(verdict, Verdict::Done | Verdict::Answer(_)) {
                steps.push(self.step(first, end, End::Done));
                continue;
            }
            for number in first..end {
                let end = self.end_of(number, verdict, wall);
                self.push_step(&mut steps, number, end);
            }
        }
        Some(steps)
    }

    fn end_of(&self, number: u64, verdict: &Verdict, wall: Timestamp) -> End {
        let (attempts, lost) = self
            .past
            .get(&number)
            .map_or((0, 0), |e| (e.attempts, e.lost));
        match verdict {
            Verdict::Done | Verdict::Answer(_) => End::Done,
            Verdict::Release => End::Again {
                attempts,
                lost,
                due: wall,
                reason: self.past.get(&number).and_then(|e| e.reason.clone()),
            },
            Verdict::Dead(reason) => End::Dead {
                attempts: attempts + 1,
                reason: reason.clone(),
            },
            Verdict::Retry {
                reason,
                counts: true,
                ..
            } if attempts + 1 >= self.rules.max_attempts => End::Dead {
                attempts: attempts + 1,
                reason: reason.clone(),
            },
            Verdict::Retry {
                after,
                reason,
                counts,
            } => End::Again {
                attempts: attempts + u32::from(*counts),
                lost: 0,
                due: wall.due(*after),
                reason: Some(reason.clone()),
            },
        }
    }

    /// Leases that ended by now, and messages whose attempts are used up: what has to be stored for them. Asked again, it gives
    /// only new ones. To be asked before each [`take`](Window::take).
    pub fn expire(&mut self, now: Duration, wall: Timestamp) -> Vec<Step> {
        let mut steps = Vec::new();
        for number in std::mem::take(&mut self.spent) {
            let Some(entry) = self.waiting.remove(number) else {
                continue;
            };
            self.past.insert(number, entry);
            let lease = Lease {
                end: number + 1,
                grant: self.epoch,
                deadline: now,
                ending: false,
            };
            self.out.insert(number, lease);
        }
        let ended = |lease: &Lease| !lease.ending && lease.deadline <= now;
        let ended: Vec<(u64, u64)> = self
            .out
            .iter()
            .filter(|(_, lease)| ended(lease))
            .map(|(first, lease)| (*first, lease.end))
            .collect();
        for (first, end) in ended {
            self.lose(&mut steps, first, end, wall, LEASE_ENDED);
        }
        self.call_back(&mut steps, wall);
        steps
    }

    /// What is out behind a message of its key that was lost has to wait for that, so it is no longer the member's.
    fn call_back(&mut self, steps: &mut Vec<Step>, wall: Timestamp) {
        if steps.is_empty() || self.parking.is_empty() {
            return;
        }
        let out: Vec<(u64, u64)> = self
            .out
            .iter()
            .filter(|(_, lease)| !lease.ending)
            .map(|(first, lease)| (*first, lease.end))
            .collect();
        for number in out.into_iter().flat_map(|(first, end)| first..end) {
            let key = self.key_of_number(number);
            if self.is_parking(key, self.position_of(number)) {
                self.carve(number, number + 1, true);
                let end = self.end_of(number, &Verdict::Release, wall);
                self.push_step(steps, number, end);
            }
        }
    }

    /// A receipt was dropped: what has to be stored for its messages. Empty when it was no longer valid.
    pub fn abandoned(&mut self, fence: &Fence, wall: Timestamp) -> Vec<Step> {
        let mut steps = Vec::new();
        if fence.consumer == self.consumer && fence.shard == self.shard {
            for (first, end) in self.leases_of(fence).unwrap_or_default() {
                self.lose(&mut steps, first, end, wall, DROPPED);
            }
        }
        steps
    }

    fn lose(&mut self, steps: &mut Vec<Step>, first: u64, end: u64, wall: Timestamp, why: &str) {
        self.carve(first, end, true);
        for number in first..end {
            let past = self.past.get(&number);
            let (made, lost) = past.map_or((0, 1), |entry| (entry.attempts, entry.lost + 1));
            let attempts = made.max((made + 1).min(self.rules.max_attempts));
            let known = past.and_then(|entry| entry.reason.clone());
            let reason = known
                .filter(|_| made == attempts)
                .unwrap_or_else(|| Arc::from(why));
            let end = match attempts >= self.rules.max_attempts {
                true => End::Dead { attempts, reason },
                false => End::Again {
                    attempts,
                    lost,
                    due: wall,
                    reason: Some(reason),
                },
            };
            self.push_step(steps, number, end);
        }
    }

    /// Adds the end of one message; neighbours that come again in the same way are one step. Each dead letter is its own.
    fn push_step(&mut self, steps: &mut Vec<Step>, number: u64, end: End) {
        let position = self.position_of(number);
        let waits = match end {
            End::Done => false,
            End::Again { .. } => true,
            End::Dead { .. } => self.rules.after_dead == AfterDead::HoldKey,
        };
        if waits {
            let key = self.key_of_number(number);
            if key != 0 {
                self.parking
                    .entry(key)
                    .or_default()
                    .insert((position, number));
            }
        }
        if let Some(last) = steps.last_mut()
            && last.last + 1 == number
            && last.end == end
            && matches!(end, End::Again { .. })
            && !last.elsewhere
        {
            last.last = number;
            last.count += 1;
            last.range.to = position.next();
            return;
        }
        let step = self.step(number, number + 1, end);
        steps.push(step);
    }

    fn step(&self, first: u64, end: u64, how: End) -> Step {
        let elsewhere = self.others.contains_key(&first);
        let at = self.position_of(first);
        Step {
            first,
            last: end - 1,
            range: Range {
                from: self.pieces.from(first).unwrap_or(at),
                to: self.position_of(end - 1).next(),
            },
            count: end - first,
            elsewhere,
            end: how,
        }
    }

    /// The messages of a step.
    pub fn messages<'a>(&'a self, step: &Step) -> impl Iterator<Item = Message> + use<'a> {
        (step.first..=step.last).filter_map(|number| self.message_of(number))
    }

    /// A step is durable: it takes effect here. A dead letter that is to hold its key does so from now on.
    pub fn applied(&mut self, step: Step) {
        let (first, end) = (step.first, step.last + 1);
        match &step.end {
            End::Done => self.drop_past(first, end),
            End::Again {
                attempts,
                lost,
                due,
                reason,
            } => {
                for number in first..end {
                    let entry = Entry {
                        position: self.position_of(number),
                        key: self.key_of_number(number),
                        attempts: *attempts,
                        lost: *lost,
                        due: *due,
                        reason: reason.clone(),
                    };
                    self.waiting.insert(number, entry);
                }
            }
            End::Dead { .. } if self.rules.after_dead == AfterDead::HoldKey => {
                (first..end).for_each(|number| {
                    let key = self.key_of_number(number);
                    self.waiting.hold(key);
                });
            }
            End::Dead { .. } => {}
        }
        self.end_parking(&step);
        self.drop_past(first, end);
        self.take_out(first, end);
        if !matches!(step.end, End::Again { .. }) {
            self.settle(first, end);
        }
    }

    /// A step could not be stored: its messages are out as before, and a lease that is over ends again.
    pub fn back(&mut self, step: &Step) {
        self.end_parking(step);
        self.carve(step.first, step.last + 1, false);
    }

    fn key_of_number(&self, number: u64) -> u64 {
        if self.rules.order == Order::Free {
            return 0;
        }
        let message = self.message_of(number);
        message.map_or(0, |message| self.key_of(message.record().key()))
    }

    fn end_parking(&mut self, step: &Step) {
        if self.parking.is_empty() {
            return;
        }
        for number in step.first..=step.last {
            let place = (self.position_of(number), number);
            let key = self.key_of_number(number);
            if let Some(places) = self.parking.get_mut(&key) {
                places.remove(&place);
                if places.is_empty() {
                    self.parking.remove(&key);
                }
            }
        }
    }

    fn drop_past(&mut self, first: u64, end: u64) {
        while let Some((&number, _)) = self.past.range(first..end).next() {
            self.past.remove(&number);
        }
    }

    /// Extends the leases of a receipt to `by` from now; `false` when it is no longer valid.
    pub fn extend(&mut self, fence: &Fence, now: Duration, by: Duration) -> bool {
        let known = fence.consumer == self.consumer && fence.shard == self.shard;
        let Some(parts) = known.then(|| self.leases_of(fence)).flatten() else {
            return false;
        };
        for (first, end) in parts {
            self.carve(first, end, false);
            if let Some(lease) = self.out.get_mut(&first) {
                lease.deadline = now + by;
            }
        }
        true
    }

    /// When the next lease ends, on the monotonic clock.
    pub fn next_expiry(&self) -> Option<Duration> {
        let running = self.out.values().filter(|lease| !lease.ending);
        running.map(|lease| lease.deadline).min()
    }

    /// When the next message that waits is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.waiting.next_due()
    }

    /// Makes a lease of its own of a part of one, and marks it.
    fn carve(&mut self, first: u64, end: u64, ending: bool) {
        let Some((&start, &lease)) = self.out.range(..=first).next_back() else {
            return;
        };
        if start < first {
            self.out.insert(
                start,
                Lease {
                    end: first,
                    ..lease
                },
            );
        }
        if end < lease.end {
            self.out.insert(end, lease);
        }
        self.out.insert(
            first,
            Lease {
                end,
                ending,
                ..lease
            },
        );
    }

    fn take_out(&mut self, first: u64, end: u64) {
        self.carve(first, end, true);
        self.out.remove(&first);
    }

    /// The fences of everything that is out, for a shard that is lost: their work is to stop.
    pub fn out(&self) -> Vec<Fence> {
        let fence = |(first, lease): (&u64, &Lease)| Fence {
            consumer: self.consumer,
            epoch: lease.grant,
            shard: self.shard,
            first: strait_core::Position::at(*first),
            count: (lease.end - first) as u32,
        };
        self.out.iter().map(fence).collect()
    }
}
