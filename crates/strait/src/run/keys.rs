//! Per-key order inside a member: one message of a key at a time, and none past one that waits for another attempt.

use std::collections::VecDeque;

use rapidhash::RapidHashMap;
use strait_core::Position;

/// What may be done with a message now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// Handle it.
    Run,
    /// An earlier one of its key is here: keep it.
    Wait,
    /// The effects of an earlier one of its key are not committed yet: keep it, unless it can join them.
    Committing,
    /// An earlier one of its key will come again: give it back.
    Release,
}

/// A key that is not free.
struct Busy<T> {
    /// A message is being handled, or is about to be.
    handling: bool,
    committing: bool,
    kept: VecDeque<T>,
}

/// A key with a message that was sent back to be tried again.
struct Blocked {
    /// That message.
    first: Position,
    /// The greatest position of the key that was seen since. First deliveries come in order, so what is at or before it
    /// is a redelivery, which the engine makes only when it is the key's turn; what is behind it was on its way already.
    last: Position,
    /// The engine does not know of it yet, so it may redeliver what should wait.
    unsaid: bool,
}

/// The keys of a shard that are not free, by hash. `T` is what waits.
pub(crate) struct Keys<T> {
    busy: RapidHashMap<u64, Busy<T>>,
    waiting: usize,
    blocked: RapidHashMap<u64, Blocked>,
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
        if self.is_blocked(key, position) {
            return Admit::Release;
        }
        if self.busy.is_empty() {
            return Admit::Run;
        }
        match self.busy.get(&key) {
            None => Admit::Run,
            Some(busy) if busy.handling || !busy.kept.is_empty() => Admit::Wait,
            Some(_) => Admit::Committing,
        }
    }

    /// True when the message must go back; remembers that it was seen. A redelivery at its turn ends the block.
    pub(crate) fn is_blocked(&mut self, key: u64, position: Position) -> bool {
        if self.blocked.is_empty() {
            return false;
        }
        let Some(block) = self.blocked.get_mut(&key) else {
            return false;
        };
        if position > block.last {
            block.last = position;
            return true;
        }
        if block.unsaid && position != block.first {
            return true;
        }
        self.blocked.remove(&key);
        false
    }

    /// The message at `position` comes again, and the engine is about to be told (`unsaid`) or knows: later ones go back
    /// until it does.
    pub(crate) fn block(&mut self, key: u64, position: Position, unsaid: bool) {
        let block = self.blocked.entry(key).or_insert(Blocked {
            first: position,
            last: position,
            unsaid,
        });
        block.first = position;
        block.last = position.max(block.last);
        block.unsaid = unsaid;
    }

    /// The engine knows that the message at `position` comes again.
    pub(crate) fn said(&mut self, key: u64, position: Position) {
        if let Some(block) = self.blocked.get_mut(&key)
            && block.first == position
        {
            block.unsaid = false;
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

    /// True when effects of the key are not committed yet.
    pub(crate) fn is_committing(&self, key: u64) -> bool {
        self.busy.get(&key).is_some_and(|busy| busy.committing)
    }

    /// A message of the key is being handled.
    pub(crate) fn begin(&mut self, key: u64) {
        self.entry(key).handling = true;
    }

    /// Its handling ended; `committing`: with effects that are not committed. Gives the next of the key that was kept: the
    /// key counts as handling on its behalf.
    pub(crate) fn end(&mut self, key: u64, committing: bool) -> Option<T> {
        if committing {
            self.entry(key).committing = true;
        } else if self.busy.is_empty() {
            return None;
        }
        self.busy.get_mut(&key)?.handling = false;
        self.next(key)
    }

    /// The effects of the key are committed, or never will be. Gives the next of the key, as [`end`](Keys::end) does.
    pub(crate) fn committed(&mut self, key: u64) -> Option<T> {
        self.busy.get_mut(&key)?.committing = false;
        self.next(key)
    }

    /// The next of the key, which it was given, has to wait for a commit after all.
    pub(crate) fn put_back(&mut self, key: u64, item: T) {
        let busy = self.entry(key);
        busy.handling = false;
        busy.kept.push_front(item);
        self.waiting += 1;
    }

    /// The next of the key, which a batch takes in behind one that it was given; without one the key is free until the
    /// batch begins.
    pub(crate) fn more(&mut self, key: u64) -> Option<T> {
        let busy = self.busy.get_mut(&key)?;
        let next = busy.kept.pop_front();
        if next.is_some() {
            self.waiting -= 1;
        } else {
            busy.handling = false;
            if !busy.committing {
                self.busy.remove(&key);
            }
        }
        next
    }

    fn next(&mut self, key: u64) -> Option<T> {
        let busy = self.busy.get_mut(&key)?;
        if busy.handling {
            return None;
        }
        let next = busy.kept.pop_front();
        if next.is_some() {
            busy.handling = true;
            self.waiting -= 1;
        } else if !busy.committing {
            self.busy.remove(&key);
        }
        next
    }

    fn entry(&mut self, key: u64) -> &mut Busy<T> {
        self.busy.entry(key).or_insert_with(|| Busy {
            handling: false,
            committing: false,
            kept: VecDeque::new(),
        })
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
        for n in [2, 3] {
            assert_eq!(keys.admit(KEY, at(n)), Admit::Wait);
            keys.keep(KEY, n);
        }
        assert_eq!(keys.admit(8, at(4)), Admit::Run);
        assert_eq!(keys.end(KEY, false), Some(2));
        assert_eq!(
            keys.admit(KEY, at(5)),
            Admit::Wait,
            "the next has the key already"
        );
        assert_eq!((keys.end(KEY, false), keys.waiting()), (Some(3), 0));
        assert_eq!(keys.end(KEY, false), None);
        assert_eq!(keys.admit(KEY, at(5)), Admit::Run);
    }

    #[test]
    fn a_key_is_free_after_its_commit() {
        let mut keys = Keys::new();
        keys.begin(KEY);
        keys.keep(KEY, 2);
        assert_eq!(
            keys.end(KEY, true),
            Some(2),
            "it may join what is not handed over"
        );
        assert!(keys.is_committing(KEY));
        keys.put_back(KEY, 2);
        assert_eq!((keys.admit(KEY, at(3)), keys.waiting()), (Admit::Wait, 1));
        assert_eq!(keys.committed(KEY), Some(2));
        assert_eq!(keys.end(KEY, true), None);
        assert_eq!(keys.admit(KEY, at(3)), Admit::Committing);
        assert_eq!(keys.committed(KEY), None);
        assert_eq!(keys.admit(KEY, at(3)), Admit::Run);
        assert_eq!((keys.committed(KEY), keys.end(KEY, false)), (None, None));
    }

    #[test]
    fn a_batch_takes_in_what_was_kept_of_its_key() {
        let mut keys = Keys::new();
        keys.begin(KEY);
        for n in [2, 3, 4] {
            keys.keep(KEY, n);
        }
        assert_eq!(keys.end(KEY, false), Some(2));
        assert_eq!((keys.more(KEY), keys.waiting()), (Some(3), 1));
        assert_eq!(
            keys.admit(KEY, at(5)),
            Admit::Wait,
            "one before it does not fit in"
        );
        assert_eq!((keys.more(KEY), keys.more(KEY)), (Some(4), None));
        assert_eq!(keys.admit(KEY, at(5)), Admit::Run, "it joins the batch");
        keys.begin(KEY);
        assert_eq!(keys.admit(KEY, at(6)), Admit::Wait);
    }

    #[test]
    fn none_passes_one_that_comes_again() {
        let mut keys = Keys::<()>::new();
        keys.block(KEY, at(1), true);
        assert_eq!(keys.admit(KEY, at(2)), Admit::Release);
        assert_eq!(keys.admit(KEY, at(5)), Admit::Release);
        assert_eq!(
            keys.admit(KEY, at(2)),
            Admit::Release,
            "the engine does not know yet"
        );
        assert_eq!(keys.admit(8, at(3)), Admit::Run);
        keys.said(KEY, at(1));
        // The engine gives the first one again, then those that were given back.
        for n in [1, 2, 5, 9] {
            assert_eq!(keys.admit(KEY, at(n)), Admit::Run);
        }
    }

    #[test]
    fn a_first_one_that_never_returns_does_not_block_for_ever() {
        let mut keys = Keys::<()>::new();
        keys.block(KEY, at(1), true);
        keys.said(KEY, at(1));
        assert_eq!(keys.admit(KEY, at(2)), Admit::Release);
        // The first went to the dead letters by another hand: the second returns.
        assert_eq!(keys.admit(KEY, at(2)), Admit::Run);
        assert_eq!(keys.admit(KEY, at(3)), Admit::Run);
    }

    #[test]
    fn the_message_itself_ends_its_block_whatever_is_known() {
        let mut keys = Keys::<()>::new();
        keys.block(KEY, at(1), true);
        assert_eq!(keys.admit(KEY, at(1)), Admit::Run);
        assert_eq!(keys.admit(KEY, at(2)), Admit::Run);
    }
}
