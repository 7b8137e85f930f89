//! Per-key order inside a member: one message of a key at a time, and none past one that waits for another attempt.

use std::collections::VecDeque;

use rapidhash::RapidHashMap;
use strait_core::Position;

/// What may be done with a message now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// Handle it.
    Run,
    /// An earlier one of its key is being handled: keep it.
    Wait,
    /// The effects of an earlier one of its key are not committed yet: keep it, unless it can join them.
    Committing,
    /// An earlier one of its key will come again: give it back.
    Release,
}

/// A key that is not free.
struct Busy<T> {
    handling: bool,
    committing: bool,
    kept: VecDeque<T>,
}

/// The keys of a shard that are not free, by hash. `T` is what waits.
pub(crate) struct Keys<T> {
    busy: RapidHashMap<u64, Busy<T>>,
    waiting: usize,
    /// A message of the key was sent back to be tried again: the greatest position of the key that was seen since. First
    /// deliveries come in order, so anything at or before it is a redelivery, which the engine makes only when it is the
    /// key's turn; anything behind it was on its way already.
    blocked: RapidHashMap<u64, Position>,
}

impl<T> Keys<T> {
    pub(crate) fn new() -> Self {
        Keys {
            busy: RapidHashMap::default(),
            waiting: 0,
            blocked: RapidHashMap::default(),
        }
    }

    /// Asks for a message of the key at `position`.
    pub(crate) fn admit(&mut self, key: u64, position: Position) -> Admit {
        if !self.blocked.is_empty() && self.is_blocked(key, position) {
            return Admit::Release;
        }
        if self.busy.is_empty() {
            return Admit::Run;
        }
        match self.busy.get(&key) {
            Some(busy) if busy.handling => Admit::Wait,
            Some(_) => Admit::Committing,
            None => Admit::Run,
        }
    }

    /// True when the message must go back; remembers that it was seen. A redelivery ends the block.
    pub(crate) fn is_blocked(&mut self, key: u64, position: Position) -> bool {
        match self.blocked.get_mut(&key) {
            Some(last) if position > *last => {
                *last = position;
                true
            }
            Some(_) => {
                self.blocked.remove(&key);
                false
            }
            None => false,
        }
    }

    /// Keeps a message that must wait.
    pub(crate) fn keep(&mut self, key: u64, item: T) {
        self.entry(key).kept.push_back(item);
        self.waiting += 1;
    }

    /// Number of messages kept.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// A message of the key is being handled.
    pub(crate) fn begin(&mut self, key: u64) {
        self.entry(key).handling = true;
    }

    /// Its handling ended; `committing`: with effects that are not committed. Gives what waited, to be admitted again.
    pub(crate) fn end(&mut self, key: u64, committing: bool) -> VecDeque<T> {
        if committing {
            self.entry(key).committing = true;
        } else if self.busy.is_empty() {
            return VecDeque::new();
        }
        if let Some(busy) = self.busy.get_mut(&key) {
            busy.handling = false;
        }
        self.give(key)
    }

    /// The effects of the key are committed, or never will be. Gives what waited, to be admitted again.
    pub(crate) fn committed(&mut self, key: u64) -> VecDeque<T> {
        match self.busy.get_mut(&key) {
            Some(busy) => busy.committing = false,
            None => return VecDeque::new(),
        }
        self.give(key)
    }

    fn give(&mut self, key: u64) -> VecDeque<T> {
        let Some(busy) = self.busy.get_mut(&key) else {
            return VecDeque::new();
        };
        if busy.handling {
            return VecDeque::new();
        }
        let kept = std::mem::take(&mut busy.kept);
        self.waiting -= kept.len();
        if !busy.committing {
            self.busy.remove(&key);
        }
        kept
    }

    fn entry(&mut self, key: u64) -> &mut Busy<T> {
        self.busy.entry(key).or_insert_with(|| Busy {
            handling: false,
            committing: false,
            kept: VecDeque::new(),
        })
    }

    /// The message at `position` will come again: later ones go back until it does.
    pub(crate) fn block(&mut self, key: u64, position: Position) {
        let last = self.blocked.entry(key).or_insert(position);
        *last = position.max(*last);
    }

    /// Everything that was kept.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.waiting = 0;
        self.busy.drain().flat_map(|(_, busy)| busy.kept).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u64 = 7;

    fn at(offset: u64) -> Position {
        Position::at(offset)
    }

    #[test]
    fn one_of_a_key_at_a_time() {
        let mut keys = Keys::new();
        assert_eq!(keys.admit(KEY, at(1)), Admit::Run);
        keys.begin(KEY);
        assert_eq!(keys.admit(KEY, at(2)), Admit::Wait);
        keys.keep(KEY, 2);
        assert_eq!(keys.admit(8, at(3)), Admit::Run);
        assert_eq!(keys.end(KEY, false), [2]);
        assert_eq!((keys.waiting(), keys.admit(KEY, at(2))), (0, Admit::Run));
    }

    #[test]
    fn a_key_is_free_after_its_commit() {
        let mut keys = Keys::new();
        keys.begin(KEY);
        keys.keep(KEY, 2);
        assert_eq!(keys.end(KEY, true), [2], "may join what is not handed over");
        assert_eq!(keys.admit(KEY, at(2)), Admit::Committing);
        keys.keep(KEY, 2);
        assert_eq!(keys.committed(KEY), [2]);
        assert_eq!(keys.admit(KEY, at(2)), Admit::Run);
        assert!(keys.committed(KEY).is_empty() && keys.end(KEY, false).is_empty());
    }

    #[test]
    fn none_passes_one_that_comes_again() {
        let mut keys = Keys::<()>::new();
        keys.block(KEY, at(1));
        assert_eq!(keys.admit(KEY, at(2)), Admit::Release);
        assert_eq!(keys.admit(KEY, at(5)), Admit::Release);
        assert_eq!(keys.admit(8, at(3)), Admit::Run);
        // The engine gives the first one again, then those that were given back.
        assert_eq!(keys.admit(KEY, at(1)), Admit::Run);
        assert_eq!(keys.admit(KEY, at(2)), Admit::Run);
        assert_eq!(keys.admit(KEY, at(5)), Admit::Run);
        assert_eq!(keys.admit(KEY, at(9)), Admit::Run);
    }

    #[test]
    fn a_first_one_that_never_returns_does_not_block_for_ever() {
        let mut keys = Keys::<()>::new();
        keys.block(KEY, at(1));
        assert_eq!(keys.admit(KEY, at(2)), Admit::Release);
        // The first went to the dead letters by another hand: the second returns.
        assert_eq!(keys.admit(KEY, at(2)), Admit::Run);
        assert_eq!(keys.admit(KEY, at(3)), Admit::Run);
    }
}
