//! A filter against the state, in bounded looks.

use std::collections::BTreeSet;

use strait_core::events::DeadFilter;
use strait_core::{Message, Result, Timestamp};

use super::find;
use crate::command::dead::Of;
use crate::fingerprint::key_hash;
use crate::shared::Shared;
use crate::state::dead::Dead;
use crate::turn::dead::no_such_letter;

/// The state is locked for so many dead letters at a time.
const LOOK: usize = 8192;

/// A filter with what the state can compare.
pub(super) struct Pick<'f> {
    filter: &'f DeadFilter,
    key: Option<u64>,
    numbers: Option<BTreeSet<u64>>,
}

impl<'f> Pick<'f> {
    pub(super) fn new(filter: &'f DeadFilter) -> Result<Self> {
        filter.check()?;
        let numbers = filter.numbers.as_ref();
        Ok(Pick {
            filter,
            key: filter.key.as_ref().map(|key| key_hash(Some(key))),
            numbers: numbers.map(|numbers| numbers.iter().copied().collect()),
        })
    }

    /// True when it fits, its key by its hash.
    fn fits(&self, dead: &Dead) -> bool {
        let filter = self.filter;
        let died = Timestamp::from_millis(dead.died);
        filter.partition.is_none_or(|wanted| dead.shard == wanted)
            && self.key.is_none_or(|key| dead.key == key)
            && filter.fingerprint.is_none_or(|f| dead.fingerprint == f)
            && filter.died_after.is_none_or(|after| died >= after)
            && filter.died_before.is_none_or(|before| died < before)
            && filter
                .min_attempts
                .is_none_or(|least| dead.attempts >= least)
            && filter
                .reason
                .as_ref()
                .is_none_or(|text| dead.reason.contains(&**text))
    }

    /// Looks at some dead letters from `from` on; gives those that fit, and where to go on.
    pub(super) fn look<T>(
        &self,
        shared: &Shared,
        of: &Of,
        from: u64,
        mut see: impl FnMut(u64, &Dead) -> Option<T>,
    ) -> Result<(Vec<T>, Option<u64>)> {
        let state = shared.state.lock();
        let group = find(&state, of)?;
        let visible = group.graveyard.visible.max(from);
        let mut picked = Vec::new();
        let mut one = |number: u64, dead: &Dead| {
            if self.fits(dead) {
                picked.extend(see(number, dead));
            }
        };
        let next = match &self.numbers {
            Some(numbers) => {
                let mut some = numbers.range(from..).take(LOOK).copied();
                for number in some.by_ref() {
                    if let Some(dead) = group.dead.letters.get(&number)
                        && number < visible
                    {
                        one(number, dead);
                    }
                }
                numbers.range(from..).nth(LOOK).copied()
            }
            None => {
                let mut rest = group.dead.letters.range(from..visible);
                rest.by_ref()
                    .take(LOOK)
                    .for_each(|(number, dead)| one(*number, dead));
                rest.next().map(|(number, _)| *number)
            }
        };
        Ok((picked, next))
    }

    /// Refuses numbers that are not there.
    pub(super) fn check_numbers(&self, shared: &Shared, of: &Of) -> Result<()> {
        let state = shared.state.lock();
        let group = find(&state, of)?;
        let there = |number: &u64| {
            group.dead.letters.contains_key(number) && *number < group.graveyard.visible
        };
        let mut numbers = self.numbers.iter().flatten();
        match numbers.find(|number| !there(number)) {
            Some(number) => Err(no_such_letter(of, *number)),
            None => Ok(()),
        }
    }

    /// True when bodies must be read: keys of one hash may differ.
    pub(super) fn reads(&self) -> bool {
        self.filter.key.is_some()
    }

    pub(super) fn has_key(&self, message: &Message) -> bool {
        let wanted = self.filter.key.as_deref();
        wanted.is_none() || message.record().key() == wanted
    }
}
