//! A group's state on one partition: what is settled, parked, out, and what goes out next.
//!
//! ```text
//!            low                         next              end of the partition
//! 0 ──────────┼───────────────────────────┼───────────────────┼
//!   settled   │ done | parked | leased |  │   never granted   │
//!             │ returned (to be redone)   │                   │
//! ```
//!
//! Durable are `low`, `done`, `next`, the attempts and the parked messages; a lease is not (its grant is): after a
//! restart everything below `next` that is neither settled nor parked is *returned*.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rapidhash::RapidHashMap;

use crate::codec::{Decoded, Reader, put_option, put_u64};
use crate::ops::ParkOp;
use crate::ranges::RangeSet;

#[derive(Debug, Default)]
pub(crate) struct Shard {
    /// False until the group has a position here.
    pub(crate) placed: bool,
    /// Everything before it is settled.
    pub(crate) low: u64,
    /// Settled from `low` on.
    pub(crate) done: RangeSet,
    /// The first offset that was never granted.
    pub(crate) next: u64,
    /// Attempts of unsettled messages below `next` that are not parked, where they are not 1.
    attempts: BTreeMap<u64, u32>,
    pub(crate) parked: BTreeMap<u64, Parked>,
    /// Parked offsets by the hash of their key: only the first of each may go out. Derived.
    keys: RapidHashMap<u64, BTreeSet<u64>>,
    /// Parked offsets that may go out, by the time from which on. Derived; without those that are leased.
    due: BTreeSet<(i64, u64)>,
    /// Granted before, unsettled, not leased, not parked. Derived.
    pub(crate) returned: RangeSet,
    /// What is out, by first offset. Not durable.
    leases: BTreeMap<u64, Lease>,
    /// By the hash of their key, the offsets that are about to be parked. Not durable; one that is no longer leased so is
    /// over.
    settling: RapidHashMap<u64, BTreeSet<u64>>,
}

/// A message that waits for its next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parked {
    pub(crate) due: i64,
    pub(crate) delay_ms: u64,
    pub(crate) attempts: u32,
    /// Hash of the key; 0: waits for nobody and nobody waits for it.
    pub(crate) key: u64,
    pub(crate) reason: Option<Arc<str>>,
    /// The number of the dead letter that it was, which holds its body; otherwise the body is at its offset.
    pub(crate) redriven: Option<u64>,
}

/// A range that is out with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) end: u64,
    /// The grant: a receipt of another one is void.
    pub(crate) grant: u64,
    pub(crate) consumer: u64,
    /// On the monotonic clock.
    pub(crate) deadline: Duration,
    /// The member has it. What was granted and never handed over is no attempt.
    pub(crate) delivered: bool,
    /// The engine settles it by itself (it waits for its key, or is given up): it never reaches the member, and what
    /// follows it need not wait for that.
    pub(crate) settling: bool,
}

impl Shard {
    /// Attempts made with an unsettled message that was granted.
    pub(crate) fn attempts_of(&self, offset: u64) -> u32 {
        match self.parked.get(&offset) {
            Some(parked) => parked.attempts,
            None if offset < self.next => self.attempts.get(&offset).copied().unwrap_or(1),
            None => 0,
        }
    }

    /// True when the message was settled, or lies before the group's beginning, and did not come back since.
    pub(crate) fn is_settled(&self, offset: u64) -> bool {
        (offset < self.low || self.done.contains(offset)) && !self.parked.contains_key(&offset)
    }

    /// The earliest offset whose body is needed: it is parked, or out. The dead letters have their own bodies.
    pub(crate) fn needed_from(&self) -> Option<u64> {
        let own = |offset: &u64| {
            let parked = self.parked.get(offset);
            parked.is_none_or(|parked| parked.redriven.is_none())
        };
        let parked = self.parked.keys().copied().find(own);
        let leased = self.leases.keys().copied().find(own);
        parked.into_iter().chain(leased).min()
    }

    /// Messages not settled, up to `end`.
    pub(crate) fn lag(&self, end: u64) -> u64 {
        let redriven = self
            .parked
            .values()
            .filter(|parked| parked.redriven.is_some())
            .count();
        end.saturating_sub(self.low).saturating_sub(self.done.len()) + redriven as u64
    }

    /// Messages that are out.
    pub(crate) fn in_flight(&self) -> u64 {
        self.leases
            .iter()
            .map(|(first, lease)| lease.end - first)
            .sum()
    }

    /// The reason of the last failure, where one is known.
    pub(crate) fn last_reason(&self, offset: u64) -> Option<Arc<str>> {
        self.parked
            .get(&offset)
            .and_then(|parked| parked.reason.clone())
    }

    /// True while a message of this key is parked, or about to be, before `offset`: it must wait.
    pub(crate) fn is_blocked(&self, key: u64, offset: u64) -> bool {
        let before = |offsets: &BTreeSet<u64>| offsets.first().is_some_and(|first| *first < offset);
        let settling = |offset: &u64| self.lease_of(*offset).is_some_and(|lease| lease.settling);
        key != 0
            && (self.keys.get(&key).is_some_and(before)
                || self
                    .settling
                    .get(&key)
                    .is_some_and(|offsets| offsets.range(..offset).any(settling)))
    }

    /// True while any key may wait for a parked message.
    pub(crate) fn any_key_parked(&self) -> bool {
        !self.keys.is_empty() || !self.settling.is_empty()
    }

    /// True when a parked message may go out at `now`.
    pub(crate) fn is_due(&self, now: i64) -> bool {
        self.due.first().is_some_and(|(due, _)| *due <= now)
    }

    /// The first time after `now` at which a parked message becomes due.
    pub(crate) fn next_due(&self, now: i64) -> Option<i64> {
        self.due
            .range((now.saturating_add(1), 0)..)
            .next()
            .map(|(due, _)| *due)
    }

    /// The first `most` parked messages that may go out at `now`.
    pub(crate) fn due_at(&self, now: i64, most: usize) -> Vec<u64> {
        self.due
            .iter()
            .take_while(|(due, _)| *due <= now)
            .take(most)
            .map(|(_, o)| *o)
            .collect()
    }

    // ---- durable changes: what replay does, too ----

    /// The group stands at `to`, and knows nothing of what is settled above.
    pub(crate) fn seek(&mut self, to: u64) {
        *self = Shard {
            placed: true,
            low: to,
            next: to,
            ..Shard::default()
        };
    }

    /// Retention removed everything before `start`.
    pub(crate) fn raise(&mut self, start: u64) {
        if !self.placed || start <= self.low {
            return;
        }
        self.done.remove(0, start);
        self.returned.remove(0, start);
        self.attempts = self.attempts.split_off(&start);
        self.next = self.next.max(start);
        self.low = self.done.take_from(start).unwrap_or(start);
    }

    pub(crate) fn grant(&mut self, first: u64, count: u32) {
        let end = first + u64::from(count);
        for offset in first..end.min(self.next) {
            match self.parked.get_mut(&offset) {
                Some(parked) => {
                    parked.attempts += 1;
                    self.due.remove(&(parked.due, offset));
                }
                None => *self.attempts.entry(offset).or_insert(1) += 1,
            }
        }
        self.returned.remove(first, end);
        self.next = self.next.max(end);
    }

    pub(crate) fn settle(&mut self, first: u64, count: u32) {
        let end = first + u64::from(count);
        self.unpark(first, end);
        if !self.attempts.is_empty() {
            let gone: Vec<u64> = self.attempts.range(first..end).map(|(o, _)| *o).collect();
            for offset in gone {
                self.attempts.remove(&offset);
            }
        }
        self.returned.remove(first, end);
        self.done.insert(first.max(self.low), end);
        if let Some(low) = self.done.take_from(self.low) {
            self.low = low;
        }
    }

    /// Hands back unsettled messages; the attempt of their grant does not count.
    pub(crate) fn release(&mut self, first: u64, count: u32) {
        let end = first + u64::from(count);
        let untouched = self.parked.range(first..end).next().is_none()
            && self.attempts.range(first..end).next().is_none();
        if end == self.next && first >= self.low && untouched {
            // The newest ones, at their first attempt: as if never granted.
            self.next = first;
            return;
        }
        for offset in first..end {
            match self.parked.get_mut(&offset) {
                Some(parked) => {
                    parked.attempts = parked.attempts.saturating_sub(1);
                    self.offer(offset);
                }
                None => {
                    let attempts = self.attempts.entry(offset).or_insert(1);
                    *attempts = attempts.saturating_sub(1);
                    self.returned.insert(offset, offset + 1);
                }
            }
        }
    }

    pub(crate) fn park(&mut self, offset: u64, op: &ParkOp<'_>) {
        let redriven = self.parked.get(&offset).and_then(|parked| parked.redriven);
        self.put_parked(
            offset,
            Parked {
                due: op.due,
                delay_ms: op.delay_ms,
                attempts: op.attempts,
                key: op.key,
                reason: Some(op.reason.into()).filter(|_| !op.reason.is_empty()),
                redriven,
            },
        );
    }

    pub(crate) fn put_parked(&mut self, offset: u64, parked: Parked) {
        self.unpark(offset, offset + 1);
        self.attempts.remove(&offset);
        self.returned.remove(offset, offset + 1);
        let key = parked.key;
        if let Some(settling) = self.settling.get_mut(&key) {
            settling.remove(&offset);
            if settling.is_empty() {
                self.settling.remove(&key);
            }
        }
        self.parked.insert(offset, parked);
        if key != 0 {
            let waiting = self.keys.entry(key).or_default();
            waiting.insert(offset);
            if let Some(next) = waiting.range(offset + 1..).next().copied()
                && let Some(later) = self.parked.get(&next)
            {
                self.due.remove(&(later.due, next));
            }
        }
        self.offer(offset);
    }

    fn unpark(&mut self, first: u64, end: u64) {
        while let Some((&offset, _)) = self.parked.range(first..end).next() {
            let Some(parked) = self.parked.remove(&offset) else {
                return;
            };
            self.due.remove(&(parked.due, offset));
            if parked.key == 0 {
                continue;
            }
            let Some(waiting) = self.keys.get_mut(&parked.key) else {
                continue;
            };
            waiting.remove(&offset);
            match waiting.first().copied() {
                Some(next) => self.offer(next),
                None => drop(self.keys.remove(&parked.key)),
            }
        }
    }

    /// Puts a parked message among those that may go out, if it is the first of its key and not out already.
    fn offer(&mut self, offset: u64) {
        let Some(parked) = self.parked.get(&offset) else {
            return;
        };
        let first = parked.key == 0
            || self.keys.get(&parked.key).and_then(|all| all.first()) == Some(&offset);
        if first && self.lease_of(offset).is_none() {
            self.due.insert((parked.due, offset));
        }
    }

    // ---- leases: in memory only ----

    pub(crate) fn lease(&mut self, first: u64, lease: Lease) {
        self.leases.insert(first, lease);
    }

    pub(crate) fn lease_of(&self, offset: u64) -> Option<Lease> {
        let (_, lease) = self.leases.range(..=offset).next_back()?;
        (offset < lease.end).then_some(*lease)
    }

    /// True when all of the range is out under this grant.
    pub(crate) fn holds(&self, first: u64, count: u32, grant: u64) -> bool {
        let end = first + u64::from(count);
        let mut at = first;
        while at < end {
            match self.lease_of(at) {
                Some(lease) if lease.grant == grant => at = lease.end,
                _ => return false,
            }
        }
        true
    }

    /// Ends the leases on a range that is being settled or handed back.
    pub(crate) fn unlease(&mut self, first: u64, count: u32) {
        let end = first + u64::from(count);
        while let Some((&start, &lease)) = self.leases.range(..end).next_back() {
            if lease.end <= first {
                break;
            }
            self.leases.remove(&start);
            if start < first {
                self.leases.insert(
                    start,
                    Lease {
                        end: first,
                        ..lease
                    },
                );
            }
            if lease.end > end {
                self.leases.insert(end, lease);
            }
        }
        if self.leases.is_empty() {
            self.settling.clear();
        }
    }

    pub(crate) fn extend(&mut self, first: u64, count: u32, deadline: Duration) {
        // The rest of a lease that is cut keeps its own deadline: its receipt is extended by whoever holds it.
        let Some(lease) = self.lease_of(first) else {
            return;
        };
        self.unlease(first, count);
        self.leases.insert(
            first,
            Lease {
                end: first + u64::from(count),
                deadline,
                ..lease
            },
        );
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.leases.values().map(|lease| lease.deadline).min()
    }

    /// The member has this range now.
    pub(crate) fn deliver(&mut self, first: u64, count: u32) {
        let Some(lease) = self.lease_of(first) else {
            return;
        };
        self.unlease(first, count);
        let end = first + u64::from(count);
        self.leases.insert(
            first,
            Lease {
                end,
                delivered: true,
                ..lease
            },
        );
    }

    /// The engine settles this message by itself. With the hash of its `key`, later ones of the key wait as if it was
    /// parked already; 0 lets them go on.
    pub(crate) fn set_settling(&mut self, offset: u64, key: u64) {
        let Some(lease) = self.lease_of(offset) else {
            return;
        };
        if key != 0 {
            self.settling.entry(key).or_default().insert(offset);
        }
        self.unlease(offset, 1);
        let end = offset + 1;
        self.leases.insert(
            offset,
            Lease {
                end,
                settling: true,
                ..lease
            },
        );
    }

    /// Takes back what `lost` says. What was delivered becomes due or returned; gives the ranges that never were, whose
    /// grant must be undone.
    pub(crate) fn take_back(&mut self, lost: impl Fn(&Lease) -> bool) -> Vec<(u64, u64)> {
        let gone: Vec<(u64, Lease)> = self
            .leases
            .iter()
            .filter(|(_, l)| lost(l))
            .map(|(f, l)| (*f, *l))
            .collect();
        let mut undelivered = Vec::new();
        for (first, lease) in gone {
            self.leases.remove(&first);
            if lease.delivered {
                self.take_back_range(first, lease.end);
            } else {
                undelivered.push((first, lease.end));
            }
        }
        // The newest first: the last of all goes back as if never granted.
        undelivered.reverse();
        undelivered
    }

    /// True when a message before `offset` goes out again first: it came back, or is granted and on its way to the
    /// member.
    pub(crate) fn is_overtaken(&self, offset: u64) -> bool {
        let returned = self.returned.first();
        returned.is_some_and(|(start, _)| start < offset)
            || self
                .leases
                .range(..offset)
                .any(|(_, lease)| !lease.delivered && !lease.settling)
    }

    /// Unsettled messages that are no longer leased become due or returned.
    pub(crate) fn take_back_range(&mut self, first: u64, end: u64) {
        self.returned.insert(first.max(self.low), end.max(self.low));
        self.done
            .iter()
            .filter(|(s, e)| *s < end && *e > first)
            .for_each(|(s, e)| {
                self.returned.remove(s, e);
            });
        let parked: Vec<u64> = self.parked.range(first..end).map(|(o, _)| *o).collect();
        for offset in parked {
            self.returned.remove(offset, offset + 1);
            self.offer(offset);
        }
    }

    // ---- checkpoint ----

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.placed));
        put_u64(out, self.low);
        put_u64(out, self.next);
        let done: Vec<_> = self.done.iter().collect();
        put_u64(out, done.len() as u64);
        for (start, end) in done {
            put_u64(out, start);
            put_u64(out, end);
        }
        put_u64(out, self.attempts.len() as u64);
        for (offset, attempts) in &self.attempts {
            put_u64(out, *offset);
            put_u64(out, u64::from(*attempts));
        }
        put_u64(out, self.parked.len() as u64);
        for (offset, parked) in &self.parked {
            put_u64(out, *offset);
            put_option(out, parked.redriven);
            let reason = parked.reason.as_deref().unwrap_or_default();
            ParkOp {
                due: parked.due,
                delay_ms: parked.delay_ms,
                attempts: parked.attempts,
                key: parked.key,
                reason,
            }
            .encode(out);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Decoded<Shard> {
        let mut shard = Shard {
            placed: r.bool()?,
            low: r.u64()?,
            next: r.u64()?,
            ..Shard::default()
        };
        for _ in 0..r.count(2)? {
            let (start, end) = (r.u64()?, r.u64()?);
            shard.done.insert(start, end);
        }
        for _ in 0..r.count(2)? {
            let (offset, attempts) = (r.u64()?, r.u32()?);
            shard.attempts.insert(offset, attempts);
        }
        for _ in 0..r.count(7)? {
            let (offset, redriven) = (r.u64()?, r.option()?);
            let op = ParkOp::decode(r)?;
            shard.park(offset, &op);
            if let Some(parked) = shard.parked.get_mut(&offset) {
                parked.redriven = redriven;
            }
        }
        Ok(shard)
    }

    /// After replay: nothing is out any more. `now` bounds waits that a clock set back made long.
    pub(crate) fn recovered(&mut self, now: i64) {
        self.leases.clear();
        self.settling.clear();
        self.due.clear();
        let offsets: Vec<u64> = self.parked.keys().copied().collect();
        for offset in offsets {
            if let Some(parked) = self.parked.get_mut(&offset) {
                // One more, as when it was parked: the present millisecond has begun.
                let begun = i64::from(parked.delay_ms > 0);
                let delay = i64::try_from(parked.delay_ms).unwrap_or(i64::MAX);
                let latest = now.saturating_add(delay).saturating_add(begun);
                parked.due = parked.due.min(latest);
            }
            self.offer(offset);
        }
        self.returned.clear();
        self.take_back_range(self.low, self.next);
    }
}

#[cfg(test)]
mod tests;
