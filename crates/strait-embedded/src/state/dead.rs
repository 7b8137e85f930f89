//! The dead letters of a group: those that lie there, and those that were brought back and are not settled yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use strait_core::Timestamp;
use strait_core::events::{Death, ErrorFingerprint, HISTORY};

use super::group::Group;
use crate::codec::{Decoded, Reader, put_i64, put_u64};
use crate::ops::{DeadChange, DeadOp, Numbers, ParkOp, RedriveOp};

/// Runs of redrives that a group remembers.
const RUNS: usize = 100;

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) shard: u32,
    pub(crate) offset: u64,
    pub(crate) attempts: u32,
    /// Hash of its key, 0 without one.
    pub(crate) key: u64,
    /// When the message was appended.
    pub(crate) appended: i64,
    pub(crate) died: i64,
    pub(crate) reason: Arc<str>,
    pub(crate) fingerprint: ErrorFingerprint,
    /// Bytes of its copies.
    pub(crate) bytes: u64,
    /// The number of its changed copy; 0: none, as it is always greater than its own number.
    pub(crate) edited: u64,
    /// The run that brought it back; 0 while it is dead.
    pub(crate) run: u64,
    pub(crate) history: Option<Arc<[Death]>>,
}

impl Dead {
    /// The number of the copy that is delivered.
    pub(crate) fn grave(&self, number: u64) -> Grave {
        Grave {
            number: number.max(self.edited),
            appended: self.appended,
        }
    }

    /// Its earlier deaths, with this one.
    fn history_with(&self, number: u64) -> Arc<[Death]> {
        let earlier = self.history.as_deref().unwrap_or_default();
        let kept = &earlier[(earlier.len() + 1).saturating_sub(HISTORY)..];
        let last = Death {
            number,
            attempts: self.attempts,
            reason: self.reason.clone(),
            died: Timestamp::from_millis(self.died),
            edited: self.edited > 0,
        };
        kept.iter().cloned().chain([last]).collect()
    }
}

/// Where the body of a dead letter lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grave {
    /// The number of its copy in the graveyard.
    pub(crate) number: u64,
    /// When the message was appended to its topic.
    pub(crate) appended: i64,
}

/// A redrive, as far as it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// How many it brought back, without those that an undo made dead again.
    pub(crate) count: u64,
    /// When the next one of it may go out.
    pub(crate) next_due: i64,
}

/// All that a group knows of its dead letters.
#[derive(Debug)]
pub(crate) struct DeadSet {
    pub(crate) letters: BTreeMap<u64, Dead>,
    /// Brought back and not settled, by the number that they had: their copies are needed.
    pub(crate) redriven: BTreeMap<u64, Dead>,
    pub(crate) runs: BTreeMap<u64, Run>,
    pub(crate) next_run: u64,
    /// Bytes of the copies of all of them.
    pub(crate) bytes: u64,
}

impl Default for DeadSet {
    fn default() -> Self {
        DeadSet {
            letters: BTreeMap::new(),
            redriven: BTreeMap::new(),
            runs: BTreeMap::new(),
            next_run: 1,
            bytes: 0,
        }
    }
}

impl DeadSet {
    /// The reason with its fingerprint, shared with the newest dead letter where that has the same: a broken dependency
    /// kills many messages with one reason.
    fn reason(&self, reason: &str) -> (Arc<str>, ErrorFingerprint) {
        let newest = self.letters.last_key_value().map(|(_, dead)| dead);
        match newest.filter(|dead| &*dead.reason == reason) {
            Some(dead) => (dead.reason.clone(), dead.fingerprint),
            None => (reason.into(), ErrorFingerprint::of(reason)),
        }
    }

    fn put(&mut self, shard: u32, offset: u64, op: &DeadOp<'_>, history: Option<Arc<[Death]>>) {
        let (reason, fingerprint) = self.reason(op.reason);
        self.bytes += op.bytes;
        let dead = Dead {
            shard,
            offset,
            attempts: op.attempts,
            key: op.key,
            appended: op.appended,
            died: op.died,
            reason,
            fingerprint,
            bytes: op.bytes,
            edited: 0,
            run: 0,
            history,
        };
        self.letters.insert(op.number, dead);
    }

    /// It is neither dead nor on its way any more.
    fn forget(&mut self, dead: &Dead) {
        self.bytes = self.bytes.saturating_sub(dead.bytes);
    }

    /// The message that was brought back under this number is settled.
    fn settled(&mut self, number: u64) {
        if let Some(dead) = self.redriven.remove(&number) {
            self.forget(&dead);
        }
    }

    /// The earliest copy that is needed.
    pub(crate) fn needed_from(&self) -> Option<u64> {
        let letters = self.letters.first_key_value();
        let redriven = self.redriven.first_key_value();
        letters.into_iter().chain(redriven).map(|(n, _)| *n).min()
    }

    /// The first ones that died before this time.
    pub(crate) fn expired(&self, before: i64) -> impl Iterator<Item = u64> {
        let old = self
            .letters
            .iter()
            .take_while(move |(_, dead)| dead.died < before);
        old.map(|(number, _)| *number)
    }

    /// The numbers of these that are there, in their order.
    fn present(of: &BTreeMap<u64, Dead>, numbers: Numbers<'_>) -> Vec<u64> {
        let within = |(first, count): (u64, u64)| {
            let end = first.saturating_add(count);
            of.range(first..end).map(|(number, _)| *number)
        };
        numbers.runs().flat_map(within).collect()
    }

    fn add_to_run(&mut self, op: &RedriveOp<'_>, came_back: u64) {
        self.next_run = self.next_run.max(op.run.saturating_add(1));
        let run = self.runs.entry(op.run).or_insert(Run {
            count: 0,
            next_due: 0,
        });
        run.count += came_back;
        run.next_due = op.due_of(came_back);
        while self.runs.len() > RUNS {
            self.runs.pop_first();
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for of in [&self.letters, &self.redriven] {
            put_u64(out, of.len() as u64);
            for (number, dead) in of {
                dead.encode(*number, out);
            }
        }
        put_u64(out, self.next_run);
        put_u64(out, self.runs.len() as u64);
        for (number, run) in &self.runs {
            put_u64(out, *number);
            put_u64(out, run.count);
            put_i64(out, run.next_due);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Decoded<DeadSet> {
        let mut set = DeadSet::default();
        for _ in 0..r.count(9)? {
            let number = set.read(r)?;
            debug_assert!(set.letters.contains_key(&number));
        }
        for _ in 0..r.count(9)? {
            let number = set.read(r)?;
            if let Some(dead) = set.letters.remove(&number) {
                set.redriven.insert(number, dead);
            }
        }
        set.next_run = r.u64()?;
        for _ in 0..r.count(3)? {
            let number = r.u64()?;
            let run = Run {
                count: r.u64()?,
                next_due: r.i64()?,
            };
            set.runs.insert(number, run);
        }
        Ok(set)
    }

    /// Reads one into `letters`; gives its number.
    fn read(&mut self, r: &mut Reader<'_>) -> Decoded<u64> {
        let (shard, offset) = (r.u32()?, r.u64()?);
        let op = DeadOp::decode(r)?;
        let (edited, run) = (r.u64()?, r.u64()?);
        let mut history = Vec::new();
        for _ in 0..r.count(5)? {
            history.push(Death {
                number: r.u64()?,
                attempts: r.u32()?,
                died: Timestamp::from_millis(r.i64()?),
                edited: r.bool()?,
                reason: r.str()?.into(),
            });
        }
        let history = (!history.is_empty()).then(|| history.into());
        self.put(shard, offset, &op, history);
        if let Some(dead) = self.letters.get_mut(&op.number) {
            (dead.edited, dead.run) = (edited, run);
        }
        Ok(op.number)
    }
}

impl Dead {
    fn encode(&self, number: u64, out: &mut Vec<u8>) {
        put_u64(out, u64::from(self.shard));
        put_u64(out, self.offset);
        DeadOp {
            number,
            attempts: self.attempts,
            key: self.key,
            appended: self.appended,
            died: self.died,
            bytes: self.bytes,
            reason: &self.reason,
        }
        .encode(out);
        put_u64(out, self.edited);
        put_u64(out, self.run);
        let history = self.history.as_deref().unwrap_or_default();
        put_u64(out, history.len() as u64);
        for death in history {
            put_u64(out, death.number);
            put_u64(out, u64::from(death.attempts));
            put_i64(out, death.died.as_millis());
            out.push(u8::from(death.edited));
            crate::codec::put_bytes(out, death.reason.as_bytes());
        }
    }
}

impl Group {
    /// The message goes to the dead letters. One that came back from there remembers how it died before.
    pub(crate) fn bury(&mut self, shard: u32, offset: u64, op: &DeadOp<'_>) {
        let earlier = self.redriven_at(shard, offset);
        let history = earlier.map(|(number, dead)| dead.history_with(number));
        self.settle(shard, offset, 1);
        self.hold_key(shard, op.key, offset, op.number);
        self.dead.put(shard, offset, op, history);
        self.graveyard.end = op.number + 1;
    }

    /// Later messages of its key wait for it, where the group says so.
    fn hold_key(&mut self, shard: u32, key: u64, offset: u64, number: u64) {
        let shard = self.shards.get_mut(shard as usize);
        if let Some(shard) = shard.filter(|_| self.settings.hold_key) {
            shard.parking.hold(key, offset, number);
        }
    }

    /// What was brought back to this place and is not settled, with the number that it had.
    pub(crate) fn redriven_at(&self, shard: u32, offset: u64) -> Option<(u64, &Dead)> {
        let number = self.shards.get(shard as usize)?.parking.redriven(offset)?;
        Some((number, self.dead.redriven.get(&number)?))
    }

    /// Where the body of a message lies that was brought back; otherwise it lies at its offset.
    pub(crate) fn grave_of(&self, shard: u32, offset: u64) -> Option<Grave> {
        let (number, dead) = self.redriven_at(shard, offset)?;
        Some(dead.grave(number))
    }

    pub(crate) fn settle(&mut self, shard: u32, first: u64, count: u32) {
        let Some(shard) = self.shards.get_mut(shard as usize) else {
            return;
        };
        for number in shard.settle(first, count) {
            self.dead.settled(number);
        }
    }

    pub(crate) fn seek(&mut self, shard: u32, to: u64) {
        let Some(state) = self.shards.get_mut(shard as usize) else {
            return;
        };
        state.seek(to);
        let of_shard = |(number, dead): (&u64, &Dead)| (dead.shard == shard).then_some(*number);
        let gone: Vec<u64> = self.dead.redriven.iter().filter_map(of_shard).collect();
        gone.into_iter()
            .for_each(|number| self.dead.settled(number));
    }

    /// True when the operation has a body, which belongs to the graveyard.
    pub(crate) fn change_dead(&mut self, change: &DeadChange<'_>) -> bool {
        match change {
            DeadChange::Redrive(op) => self.redrive(op),
            DeadChange::Undo { run, numbers } => self.undo_redrive(*run, *numbers),
            DeadChange::Remove { numbers } => self.remove_dead(*numbers),
            DeadChange::Edit {
                number,
                copy,
                bytes,
                ..
            } => {
                if let Some(dead) = self.dead.letters.get_mut(number) {
                    // An earlier edit stays on the disk until its letter goes.
                    dead.edited = *copy;
                    dead.bytes += bytes;
                    self.dead.bytes += bytes;
                }
                self.graveyard.end = copy + 1;
                return true;
            }
            DeadChange::DropEdit { number } => {
                if let Some(dead) = self.dead.letters.get_mut(number) {
                    dead.edited = 0;
                }
            }
        }
        false
    }

    /// They are due again, in their old places of the order, attempts from 1. One that the group was sent back over comes
    /// again by itself.
    fn redrive(&mut self, op: &RedriveOp<'_>) {
        let mut came_back = 0;
        for number in DeadSet::present(&self.dead.letters, op.numbers) {
            let Some(dead) = self.dead.letters.remove(&number) else {
                continue;
            };
            let due = op.due_of(came_back);
            came_back += 1;
            let Some(shard) = self.shards.get_mut(dead.shard as usize) else {
                self.dead.forget(&dead);
                continue;
            };
            let back = shard.is_settled(dead.offset);
            if back {
                let parked = ParkOp {
                    due,
                    delay_ms: u64::try_from(due.saturating_sub(op.at)).unwrap_or(0),
                    attempts: 0,
                    key: if self.settings.key_order { dead.key } else { 0 },
                    reason: &dead.reason,
                };
                shard.put_parked(dead.offset, &parked, Some(number));
            }
            // After it is parked: it is the first of its key.
            shard.let_go(dead.key, dead.offset);
            if back {
                let dead = Dead {
                    run: op.run,
                    ..dead
                };
                self.dead.redriven.insert(number, dead);
            } else {
                self.dead.forget(&dead);
            }
        }
        self.dead.add_to_run(op, came_back);
    }

    fn remove_dead(&mut self, numbers: Numbers<'_>) {
        for number in DeadSet::present(&self.dead.letters, numbers) {
            let Some(dead) = self.dead.letters.remove(&number) else {
                continue;
            };
            self.dead.forget(&dead);
            if let Some(shard) = self.shards.get_mut(dead.shard as usize) {
                shard.let_go(dead.key, dead.offset);
            }
        }
    }

    fn undo_redrive(&mut self, run: u64, numbers: Numbers<'_>) {
        for number in DeadSet::present(&self.dead.redriven, numbers) {
            let Some(dead) = self.dead.redriven.remove(&number) else {
                continue;
            };
            // Before what waits behind it may go out.
            self.hold_key(dead.shard, dead.key, dead.offset, number);
            if let Some(shard) = self.shards.get_mut(dead.shard as usize) {
                shard.forget(dead.offset);
            }
            self.dead.letters.insert(number, Dead { run: 0, ..dead });
            if let Some(run) = self.dead.runs.get_mut(&run) {
                run.count = run.count.saturating_sub(1);
            }
        }
    }

    /// The earliest dead letter whose copy is needed; everything before it may go.
    pub(crate) fn graves_needed_from(&self) -> u64 {
        self.dead.needed_from().unwrap_or(self.graveyard.end)
    }
}
