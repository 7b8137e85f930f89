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

use crate::codec::{Decoded, Reader, put_u64};
use crate::ops::ParkOp;
use strait_core::RangeSet;

mod entries;
mod parking;
mod reasons;

pub(crate) use parking::Parking;

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
    pub(crate) parking: Parking,
    /// Granted before, unsettled, not leased, not parked. Derived.
    pub(crate) returned: RangeSet,
    /// What is out, by first offset. Not durable.
    leases: BTreeMap<u64, Lease>,
    /// The first offsets of those that are on their way to their member. Derived: a redrive has thousands of leases.
    arriving: BTreeSet<u64>,
    /// By the hash of their key, the offsets that are about to be parked. Not durable; one that is no longer leased so is
    /// over.
    settling: RapidHashMap<u64, BTreeSet<u64>>,
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
        match self.parking.attempts(offset) {
            Some(attempts) => attempts,
            None if offset < self.next => self.attempts.get(&offset).copied().unwrap_or(1),
            None => 0,
        }
    }

    /// True when the message was settled, or lies before the group's beginning, and did not come back since.
    pub(crate) fn is_settled(&self, offset: u64) -> bool {
        (offset < self.low || self.done.contains(offset)) && !self.parking.contains(offset)
    }

    /// The earliest offset whose body is needed: it is parked, or out. The dead letters have their own bodies.
    pub(crate) fn needed_from(&self) -> Option<u64> {
        let own = |offset: &u64| self.parking.redriven(*offset).is_none();
        let parked = self.parking.first_of_partition();
        let leased = self.leases.keys().copied().find(own);
        parked.into_iter().chain(leased).min()
    }

    /// Messages not settled, up to `end`.
    pub(crate) fn lag(&self, end: u64) -> u64 {
        let ahead = end.saturating_sub(self.low).saturating_sub(self.done.len());
        ahead + self.parking.redriven_len()
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
        self.parking.reason(offset)
    }

    /// True while a message of this key is parked, or about to be, before `offset`, or a dead letter holds the key: it
    /// must wait.
    pub(crate) fn is_blocked(&self, key: u64, offset: u64) -> bool {
        let settling = |offset: &u64| self.lease_of(*offset).is_some_and(|lease| lease.settling);
        key != 0
            && (self.parking.is_blocked(key, offset)
                || self
                    .settling
                    .get(&key)
                    .is_some_and(|offsets| offsets.range(..offset).any(settling)))
    }

    /// True while any key may wait for something.
    pub(crate) fn any_key_waits(&self) -> bool {
        self.parking.any_key() || !self.settling.is_empty()
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
        self.pass_settled();
    }

    /// What comes next was set aside before it was ever granted: it never is.
    fn pass_settled(&mut self) {
        self.next = self.next.max(self.low);
        if let Some(end) = self.done.end_of(self.next) {
            self.next = end;
        }
    }

    pub(crate) fn grant(&mut self, first: u64, count: u32) {
        let end = first + u64::from(count);
        for offset in first..end.min(self.next) {
            if !self.parking.grant(offset) {
                *self.attempts.entry(offset).or_insert(1) += 1;
            }
        }
        self.returned.remove(first, end);
        if end > self.next {
            self.next = end;
            self.pass_settled();
        }
    }

    /// Gives the numbers that those of them had as dead letters which were brought back.
    pub(crate) fn settle(&mut self, first: u64, count: u32) -> Vec<u64> {
        let end = first + u64::from(count);
        let redriven = self.parking.redriven_in(first, end);
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
        if end > self.next {
            self.pass_settled();
        }
        redriven
    }

    /// A message that was brought back to the dead letters' group lies with them again.
    pub(crate) fn forget(&mut self, offset: u64) {
        self.unpark(offset, offset + 1);
    }

    /// Hands back unsettled messages; the attempt of their grant does not count.
    pub(crate) fn release(&mut self, first: u64, count: u32) {
        let end = first + u64::from(count);
        let untouched =
            !self.parking.any_in(first, end) && self.attempts.range(first..end).next().is_none();
        if end == self.next && first >= self.low && untouched {
            // The newest ones, at their first attempt: as if never granted.
            self.next = first;
            return;
        }
        for offset in first..end {
            let leases = &self.leases;
            let released = self
                .parking
                .release(offset, &|o| lease_at(leases, o).is_some());
            if !released {
                let attempts = self.attempts.entry(offset).or_insert(1);
                *attempts = attempts.saturating_sub(1);
                self.returned.insert(offset, offset + 1);
            }
        }
    }

    pub(crate) fn park(&mut self, offset: u64, op: &ParkOp<'_>) {
        self.put_parked(offset, op, self.parking.redriven(offset));
    }

    /// Parks it; `redriven` is the number of the dead letter that holds its body.
    pub(crate) fn put_parked(&mut self, offset: u64, op: &ParkOp<'_>, redriven: Option<u64>) {
        self.unpark(offset, offset + 1);
        self.attempts.remove(&offset);
        self.returned.remove(offset, offset + 1);
        self.decided(op.key, offset);
        let leases = &self.leases;
        self.parking
            .insert(offset, op, redriven, &|o| lease_at(leases, o).is_some());
    }

    fn unpark(&mut self, first: u64, end: u64) {
        let leases = &self.leases;
        self.parking
            .remove(first, end, &|o| lease_at(leases, o).is_some());
    }

    /// The dead letter that was at `offset` holds its key no more.
    pub(crate) fn let_go(&mut self, key: u64, offset: u64) {
        let leases = &self.leases;
        self.parking
            .let_go(key, offset, &|o| lease_at(leases, o).is_some());
    }

    /// No dead letter holds a key any more.
    pub(crate) fn let_go_all(&mut self) {
        let leases = &self.leases;
        self.parking.let_go_all(&|o| lease_at(leases, o).is_some());
    }

    // ---- leases: in memory only ----

    pub(crate) fn lease(&mut self, first: u64, lease: Lease) {
        self.put_lease(first, lease);
    }

    fn put_lease(&mut self, first: u64, lease: Lease) {
        if lease.delivered || lease.settling {
            self.arriving.remove(&first);
        } else {
            self.arriving.insert(first);
        }
        self.leases.insert(first, lease);
    }

    fn drop_lease(&mut self, first: u64) {
        self.arriving.remove(&first);
        self.leases.remove(&first);
    }

    pub(crate) fn lease_of(&self, offset: u64) -> Option<Lease> {
        lease_at(&self.leases, offset)
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
            self.drop_lease(start);
            if start < first {
                self.put_lease(
                    start,
                    Lease {
                        end: first,
                        ..lease
                    },
                );
            }
            if lease.end > end {
                self.put_lease(end, lease);
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
        self.put_lease(
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
        self.put_lease(
            first,
            Lease {
                end,
                delivered: true,
                ..lease
            },
        );
    }

    /// The engine settles these messages of one lease by itself. With the hash of its `key`, later ones of the key wait as
    /// if the first was parked already; 0 lets them go on.
    pub(crate) fn set_settling(&mut self, offset: u64, count: u32, key: u64) {
        let Some(lease) = self.lease_of(offset) else {
            return;
        };
        if key != 0 {
            self.settling.entry(key).or_default().insert(offset);
        }
        self.unlease(offset, count);
        let end = offset + u64::from(count);
        self.put_lease(
            offset,
            Lease {
                end,
                settling: true,
                ..lease
            },
        );
    }

    /// What the engine settles by itself has come to the writer: later ones of the key wait for what that did, if for anything.
    pub(crate) fn decided(&mut self, key: u64, offset: u64) {
        if let Some(settling) = self.settling.get_mut(&key) {
            settling.remove(&offset);
            if settling.is_empty() {
                self.settling.remove(&key);
            }
        }
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
            self.drop_lease(first);
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
            || self.arriving.first().is_some_and(|first| *first < offset)
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
        let leases = &self.leases;
        for offset in self.parking.in_range(first, end) {
            self.returned.remove(offset, offset + 1);
            self.parking
                .offer(offset, &|o| lease_at(leases, o).is_some());
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
        self.parking.encode(out);
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
        shard.parking = Parking::decode(r)?;
        Ok(shard)
    }

    /// After replay: nothing is out any more. `now` bounds waits that a clock set back made long.
    pub(crate) fn recovered(&mut self, now: i64) {
        self.leases.clear();
        self.arriving.clear();
        self.settling.clear();
        self.parking.recovered(now);
        self.returned.clear();
        self.take_back_range(self.low, self.next);
    }
}

fn lease_at(leases: &BTreeMap<u64, Lease>, offset: u64) -> Option<Lease> {
    let (_, lease) = leases.range(..=offset).next_back()?;
    (offset < lease.end).then_some(*lease)
}

#[cfg(test)]
mod tests;
