//! Messages that wait for their turn: those that come again, and those behind them that have their key.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use strait_core::{Position, Timestamp};

/// A message that was handed out before, or has to wait for one of its key.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    /// The hash of its key; 0: it has none, or no order is kept.
    pub(crate) key: u64,
    /// Attempts that count.
    pub(crate) attempts: u32,
    /// Those of them that ended without a verdict.
    pub(crate) lost: u32,
    pub(crate) due: Timestamp,
    pub(crate) reason: Option<Arc<str>>,
}

type Place = (Position, u64);

/// Entries by number, and what of them may go.
///
/// Of each key only the first entry can go: it alone is in `ready` or `later`. So a message that is parked with ten
/// thousand behind it costs nothing while it waits.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    entries: BTreeMap<u64, Entry>,
    by_key: HashMap<u64, BTreeSet<Place>>,
    ready: BTreeSet<Place>,
    later: BTreeSet<(Timestamp, u64)>,
    /// Keys that a dead letter holds.
    held: HashSet<u64>,
}

impl Waiting {
    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Entry> {
        self.entries.get(&number)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.iter().map(|(number, entry)| (*number, entry))
    }

    /// True when no key has to wait for anything.
    pub(crate) fn is_free(&self) -> bool {
        self.by_key.is_empty() && self.held.is_empty()
    }

    /// True when a message of the key at this position has to wait.
    pub(crate) fn blocks(&self, key: u64, position: Position) -> bool {
        if key == 0 {
            return false;
        }
        let first = self.by_key.get(&key).and_then(BTreeSet::first);
        self.held.contains(&key) || first.is_some_and(|(before, _)| *before < position)
    }

    pub(crate) fn insert(&mut self, number: u64, entry: Entry) {
        let (key, place) = (entry.key, (entry.position, number));
        self.entries.insert(number, entry);
        if key == 0 {
            self.admit(number);
            return;
        }
        let places = self.by_key.entry(key).or_default();
        let was_first = places.first().copied();
        places.insert(place);
        let first = places.first().copied();
        if first == Some(place) {
            if let Some((_, number)) = was_first {
                self.dismiss(number);
            }
            self.admit(number);
        }
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Entry> {
        self.dismiss(number);
        let entry = self.entries.remove(&number)?;
        if entry.key != 0
            && let Some(places) = self.by_key.get_mut(&entry.key)
        {
            places.remove(&(entry.position, number));
            match places.first().copied() {
                Some((_, next)) => self.admit(next),
                None => {
                    self.by_key.remove(&entry.key);
                }
            }
        }
        Some(entry)
    }

    /// Lets it go out when it is due, unless its key is held.
    fn admit(&mut self, number: u64) {
        if let Some(entry) = self.entries.get(&number)
            && !self.held.contains(&entry.key)
        {
            self.later.insert((entry.due, number));
        }
    }

    fn dismiss(&mut self, number: u64) {
        if let Some(entry) = self.entries.get(&number) {
            self.later.remove(&(entry.due, number));
            self.ready.remove(&(entry.position, number));
        }
    }

    /// The first in the order of the log that is due and that `may` go.
    pub(crate) fn first_ready(
        &mut self,
        now: Timestamp,
        may: impl Fn(u64, &Entry) -> bool,
    ) -> Option<u64> {
        while let Some(&(due, number)) = self.later.first() {
            if due > now {
                break;
            }
            self.later.pop_first();
            if let Some(entry) = self.entries.get(&number) {
                self.ready.insert((entry.position, number));
            }
        }
        let mut ready = self.ready.iter().map(|(_, number)| *number);
        ready.find(|number| {
            let entry = self.entries.get(number);
            entry.is_some_and(|entry| may(*number, entry))
        })
    }

    /// When the next one is due; in the past where one may go now.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let ready = self.ready.first().and_then(|(_, number)| self.get(*number));
        let later = self.later.first().map(|(due, _)| *due);
        ready.map(|entry| entry.due).or(later)
    }

    /// A dead letter holds the key.
    pub(crate) fn hold(&mut self, key: u64) {
        if key != 0 && self.held.insert(key) {
            let first = self.first_of(key);
            first.into_iter().for_each(|number| self.dismiss(number));
        }
    }

    /// Nothing holds the key any more.
    pub(crate) fn let_go(&mut self, key: u64) {
        if self.held.remove(&key) {
            let first = self.first_of(key);
            first.into_iter().for_each(|number| self.admit(number));
        }
    }

    fn first_of(&self, key: u64) -> Option<u64> {
        let places = self.by_key.get(&key)?;
        places.first().map(|(_, number)| *number)
    }

    pub(crate) fn held_keys(&self) -> impl Iterator<Item = u64> + '_ {
        self.held.iter().copied()
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.len() as u64
    }
}
