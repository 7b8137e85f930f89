//! The idempotency ledger: who runs the work behind a key, and what came of it.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use crate::codec::{Decoded, Reader, put_bytes, put_i64, put_u64};

/// The ledger is checkpointed in so many parts.
pub(crate) const PARTS: u64 = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Claimed, not ended.
    Running {
        holder: Box<str>,
        token: u64,
        until: i64,
    },
    /// Ended with this result.
    Stored { result: Bytes, expires: i64 },
}

/// One part of the ledger.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: HashMap<Box<str>, Entry>,
    /// Results by their end, so that memory is given back.
    ends: BTreeSet<(i64, Box<str>)>,
    pub(crate) stamp: u64,
}

/// A scope and a key as one text; neither holds NUL (commands are checked).
pub(crate) fn full_key(scope: &str, key: &str) -> Box<str> {
    format!("{scope}\0{key}").into()
}

/// The part that a key belongs to.
pub(crate) fn part_of(full: &str) -> usize {
    (rapidhash::v3::rapidhash_v3(full.as_bytes()) % PARTS) as usize
}

impl Ledger {
    /// What is known of the key at `now`. A result past its end is nothing.
    pub(crate) fn get(&self, full: &str, now: i64) -> Option<&Entry> {
        self.entries.get(full).filter(|entry| match entry {
            Entry::Stored { expires, .. } => *expires > now,
            Entry::Running { .. } => true,
        })
    }

    pub(crate) fn claim(&mut self, full: Box<str>, holder: &str, token: u64, until: i64) {
        self.put(
            full,
            Entry::Running {
                holder: holder.into(),
                token,
                until,
            },
        );
    }

    pub(crate) fn store(&mut self, full: Box<str>, result: Bytes, expires: i64) {
        self.ends.insert((expires, full.clone()));
        self.put(full, Entry::Stored { result, expires });
    }

    fn put(&mut self, full: Box<str>, entry: Entry) {
        if let Some(Entry::Stored { expires, .. }) =
            self.entries.insert(full.clone(), entry.clone())
            && !matches!(entry, Entry::Stored { expires: new, .. } if new == expires)
        {
            self.ends.remove(&(expires, full));
        }
    }

    pub(crate) fn forget(&mut self, full: &str) {
        if let Some(Entry::Stored { expires, .. }) = self.entries.remove(full) {
            self.ends.remove(&(expires, full.into()));
        }
    }

    /// Gives back the memory of results whose time is over: changes nothing that [`get`](Self::get) shows.
    pub(crate) fn sweep(&mut self, now: i64) {
        while self
            .ends
            .first()
            .is_some_and(|(expires, _)| *expires <= now)
        {
            if let Some((_, full)) = self.ends.pop_first() {
                self.entries.remove(&full);
            }
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.entries.len() as u64);
        for (full, entry) in &self.entries {
            put_bytes(out, full.as_bytes());
            match entry {
                Entry::Running {
                    holder,
                    token,
                    until,
                } => {
                    out.push(0);
                    put_bytes(out, holder.as_bytes());
                    put_u64(out, *token);
                    put_i64(out, *until);
                }
                Entry::Stored { result, expires } => {
                    out.push(1);
                    put_bytes(out, result);
                    put_i64(out, *expires);
                }
            }
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>, stamp: u64) -> Decoded<Ledger> {
        let mut ledger = Ledger {
            stamp,
            ..Ledger::default()
        };
        for _ in 0..r.count(4)? {
            let full: Box<str> = r.str()?.into();
            if r.bool()? {
                let result = Bytes::copy_from_slice(r.bytes()?);
                ledger.store(full, result, r.i64()?);
            } else {
                let holder = r.str()?;
                let (token, until) = (r.u64()?, r.i64()?);
                ledger.claim(full, holder, token, until);
            }
        }
        Ok(ledger)
    }
}
