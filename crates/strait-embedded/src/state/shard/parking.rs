//! The parked messages of a shard. One costs about 110 bytes of memory, whatever its reason: 32 to 70 are its own, the
//! rest finds it by key and by time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::entries::Entries;
use super::reasons::{ReasonId, Reasons};
use crate::codec::{Decoded, Malformed, Reader, put_bytes, put_i64, put_option, put_u64};
use crate::ops::ParkOp;

#[derive(Debug, Default)]
pub(crate) struct Parking {
    entries: Entries<Parked>,
    /// Key hash and offset of those that have a key: only the first of each may go out. Derived.
    keys: BTreeSet<(u64, u64)>,
    /// Those that may go out, by the time from which on. Derived; without those that are leased.
    due: BTreeSet<(i64, u64)>,
    /// The number of the dead letter that a message was, which holds its body; otherwise the body is at its offset.
    redriven: BTreeMap<u64, u64>,
    /// Key hash and offset of the dead letters that later messages of their key wait for, with their numbers.
    held: BTreeMap<(u64, u64), u64>,
    reasons: Reasons,
}

/// A message that waits for its next attempt.
#[derive(Debug, Clone, Copy)]
struct Parked {
    due: i64,
    /// Hash of the key; 0: waits for nobody and nobody waits for it.
    key: u64,
    attempts: u32,
    delay: Delay,
    reason: ReasonId,
}

/// Milliseconds up to 24 days, beyond it seconds: it only bounds a wait.
#[derive(Debug, Clone, Copy)]
struct Delay(u32);

impl Delay {
    const SECONDS: u32 = 1 << 31;

    fn of(millis: u64) -> Delay {
        match u32::try_from(millis) {
            Ok(millis) if millis < Delay::SECONDS => Delay(millis),
            _ => {
                let seconds = u32::try_from(millis.div_ceil(1000)).unwrap_or(u32::MAX);
                Delay(seconds.min(Delay::SECONDS - 1) | Delay::SECONDS)
            }
        }
    }

    fn millis(self) -> u64 {
        match self.0 & Delay::SECONDS {
            0 => u64::from(self.0),
            _ => u64::from(self.0 & !Delay::SECONDS) * 1000,
        }
    }
}

/// Says whether an offset is out.
type IsOut<'a> = &'a dyn Fn(u64) -> bool;

impl Parking {
    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.entries.get(offset).is_some()
    }

    pub(crate) fn any_in(&self, first: u64, end: u64) -> bool {
        self.entries.offsets(first, end).next().is_some()
    }

    pub(crate) fn in_range(&self, first: u64, end: u64) -> Vec<u64> {
        self.entries.offsets(first, end).collect()
    }

    /// The first whose body is in the partition.
    pub(crate) fn first_of_partition(&self) -> Option<u64> {
        let own = |offset: &u64| !self.redriven.contains_key(offset);
        self.entries.offsets(0, u64::MAX).find(own)
    }

    pub(crate) fn attempts(&self, offset: u64) -> Option<u32> {
        self.entries.get(offset).map(|parked| parked.attempts)
    }

    pub(crate) fn reason(&self, offset: u64) -> Option<Arc<str>> {
        self.reasons.get(self.entries.get(offset)?.reason)
    }

    pub(crate) fn due_of(&self, offset: u64) -> Option<i64> {
        self.entries.get(offset).map(|parked| parked.due)
    }

    /// The number of the dead letter that holds its body.
    pub(crate) fn redriven(&self, offset: u64) -> Option<u64> {
        self.redriven.get(&offset).copied()
    }

    /// The numbers of the dead letters that the messages from `first` up to `end` were.
    pub(crate) fn redriven_in(&self, first: u64, end: u64) -> Vec<u64> {
        self.redriven.range(first..end).map(|(_, n)| *n).collect()
    }

    pub(crate) fn redriven_len(&self) -> u64 {
        self.redriven.len() as u64
    }

    /// True while a message of this key waits before `offset`, or a dead letter of it holds the key.
    pub(crate) fn is_blocked(&self, key: u64, offset: u64) -> bool {
        self.first_of(key).is_some_and(|first| first < offset) || self.is_held(key, offset)
    }

    /// True while any key may wait for something.
    pub(crate) fn any_key(&self) -> bool {
        !self.keys.is_empty() || !self.held.is_empty()
    }

    /// What a parked message waits for first: the one of its key whose turn it is, and the dead letter that holds the key.
    pub(crate) fn waits_for(&self, offset: u64) -> (u64, Option<u64>) {
        let key = self.entries.get(offset).map_or(0, |parked| parked.key);
        let first = match key {
            0 => offset,
            key => self.first_of(key).unwrap_or(offset),
        };
        let mut held = self.held.range((key, 0)..(key, first));
        (first, held.next().map(|(_, number)| *number))
    }

    /// Keys that a dead letter holds.
    pub(crate) fn held_keys(&self) -> u64 {
        let mut last = None;
        let new = |key: &u64| last.replace(*key) != Some(*key);
        self.held.keys().map(|(key, _)| *key).filter(new).count() as u64
    }

    /// True when one may go out at `now`.
    pub(crate) fn is_due(&self, now: i64) -> bool {
        self.due.first().is_some_and(|(due, _)| *due <= now)
    }

    /// The first time after `now` at which one becomes due.
    pub(crate) fn next_due(&self, now: i64) -> Option<i64> {
        let mut later = self.due.range((now.saturating_add(1), 0)..);
        later.next().map(|(due, _)| *due)
    }

    /// The first `most` before `end` that may go out at `now`.
    pub(crate) fn due_at(&self, now: i64, end: u64, most: usize) -> Vec<u64> {
        self.due
            .iter()
            .take_while(|(due, _)| *due <= now)
            .map(|(_, offset)| *offset)
            .filter(|offset| *offset < end)
            .take(most)
            .collect()
    }

    fn first_of(&self, key: u64) -> Option<u64> {
        let mut of_it = self.keys.range((key, 0)..=(key, u64::MAX));
        of_it.next().map(|(_, offset)| *offset)
    }

    fn is_held(&self, key: u64, offset: u64) -> bool {
        self.held.range((key, 0)..(key, offset)).next().is_some()
    }

    // ---- changes ----

    /// It goes out: one more attempt. False when it is not parked.
    pub(crate) fn grant(&mut self, offset: u64) -> bool {
        let Some(parked) = self.entries.get_mut(offset) else {
            return false;
        };
        parked.attempts += 1;
        self.due.remove(&(parked.due, offset));
        true
    }

    /// It was handed back: the attempt of its grant does not count. False when it is not parked.
    pub(crate) fn release(&mut self, offset: u64, is_out: IsOut<'_>) -> bool {
        let Some(parked) = self.entries.get_mut(offset) else {
            return false;
        };
        parked.attempts = parked.attempts.saturating_sub(1);
        self.offer(offset, is_out);
        true
    }

    pub(crate) fn insert(
        &mut self,
        offset: u64,
        op: &ParkOp<'_>,
        redriven: Option<u64>,
        is_out: IsOut<'_>,
    ) {
        let parked = Parked {
            due: op.due,
            key: op.key,
            attempts: op.attempts,
            delay: Delay::of(op.delay_ms),
            reason: self.reasons.take(op.reason),
        };
        self.entries.insert(offset, parked);
        if let Some(number) = redriven {
            self.redriven.insert(offset, number);
        }
        if parked.key != 0 {
            let after = (parked.key, offset + 1)..=(parked.key, u64::MAX);
            let next = self.keys.range(after).next().copied();
            self.keys.insert((parked.key, offset));
            if let Some((_, next)) = next {
                self.withdraw(next);
            }
        }
        self.offer(offset, is_out);
    }

    /// Those from `first` up to `end` wait no more; the next of their keys may go out.
    pub(crate) fn remove(&mut self, first: u64, end: u64, is_out: IsOut<'_>) {
        loop {
            let next = self.entries.offsets(first, end).next();
            let Some((offset, parked)) =
                next.and_then(|offset| Some((offset, self.entries.remove(offset)?)))
            else {
                return;
            };
            self.due.remove(&(parked.due, offset));
            self.redriven.remove(&offset);
            self.reasons.give_back(parked.reason);
            if parked.key != 0 {
                self.keys.remove(&(parked.key, offset));
                if let Some(next) = self.first_of(parked.key) {
                    self.offer(next, is_out);
                }
            }
        }
    }

    /// Later messages of the key wait for this dead letter.
    pub(crate) fn hold(&mut self, key: u64, offset: u64, number: u64) {
        if key == 0 {
            return;
        }
        self.held.insert((key, offset), number);
        if let Some(first) = self.first_of(key).filter(|first| *first > offset) {
            self.withdraw(first);
        }
    }

    /// The dead letter holds its key no more.
    pub(crate) fn let_go(&mut self, key: u64, offset: u64, is_out: IsOut<'_>) {
        if self.held.remove(&(key, offset)).is_some()
            && let Some(first) = self.first_of(key)
        {
            self.offer(first, is_out);
        }
    }

    /// No dead letter holds a key any more.
    pub(crate) fn let_go_all(&mut self, is_out: IsOut<'_>) {
        for (key, _) in std::mem::take(&mut self.held).into_keys() {
            if let Some(first) = self.first_of(key) {
                self.offer(first, is_out);
            }
        }
    }

    /// Puts it among those that may go out, if it is the first of its key, nothing holds the key, and it is not out
    /// already.
    pub(crate) fn offer(&mut self, offset: u64, is_out: IsOut<'_>) {
        let Some(parked) = self.entries.get(offset) else {
            return;
        };
        let key = parked.key;
        let first = key == 0 || (self.first_of(key) == Some(offset) && !self.is_held(key, offset));
        if first && !is_out(offset) {
            self.due.insert((parked.due, offset));
        }
    }

    fn withdraw(&mut self, offset: u64) {
        if let Some(parked) = self.entries.get(offset) {
            self.due.remove(&(parked.due, offset));
        }
    }

    /// After replay: nothing is out. `now` bounds waits that a clock set back made long.
    pub(crate) fn recovered(&mut self, now: i64) {
        self.due.clear();
        for parked in self.entries.values_mut() {
            // One more, as when it was parked: the present millisecond has begun.
            let delay = i64::try_from(parked.delay.millis()).unwrap_or(i64::MAX);
            let begun = i64::from(delay > 0);
            let latest = now.saturating_add(delay).saturating_add(begun);
            parked.due = parked.due.min(latest);
        }
        let offsets: Vec<u64> = self.entries.offsets(0, u64::MAX).collect();
        for offset in offsets {
            self.offer(offset, &|_| false);
        }
    }

    // ---- checkpoint ----

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.held.len() as u64);
        for ((key, offset), number) in &self.held {
            put_u64(out, *key);
            put_u64(out, *offset);
            put_u64(out, *number);
        }
        put_u64(out, self.entries.len() as u64);
        // A reason is written where it is first met, and named by its place after that.
        let mut met: BTreeMap<ReasonId, u64> = BTreeMap::from([(0, 0)]);
        for (offset, parked) in self.entries.iter() {
            put_u64(out, offset);
            put_option(out, self.redriven(offset));
            put_i64(out, parked.due);
            put_u64(out, parked.delay.millis());
            put_u64(out, u64::from(parked.attempts));
            put_u64(out, parked.key);
            let place = met.len() as u64;
            match met.get(&parked.reason) {
                Some(place) => put_u64(out, *place),
                None => {
                    met.insert(parked.reason, place);
                    put_u64(out, place);
                    let text = self.reasons.get(parked.reason).unwrap_or_default();
                    put_bytes(out, text.as_bytes());
                }
            }
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Decoded<Parking> {
        let mut parking = Parking::default();
        for _ in 0..r.count(3)? {
            let (key, offset, number) = (r.u64()?, r.u64()?, r.u64()?);
            parking.held.insert((key, offset), number);
        }
        let mut met = vec![""];
        for _ in 0..r.count(7)? {
            let (offset, redriven) = (r.u64()?, r.option()?);
            let (due, delay_ms) = (r.i64()?, r.u64()?);
            let (attempts, key) = (r.u32()?, r.u64()?);
            let place = r.u64()?;
            if place == met.len() as u64 {
                met.push(r.str()?);
            }
            let place = usize::try_from(place).map_err(|_| Malformed)?;
            let reason = *met.get(place).ok_or(Malformed)?;
            let op = ParkOp {
                due,
                delay_ms,
                attempts,
                key,
                reason,
            };
            if offset == u64::MAX {
                return Err(Malformed);
            }
            parking.insert(offset, &op, redriven, &|_| false);
        }
        Ok(parking)
    }
}
