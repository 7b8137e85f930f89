//! Which batches may be sent again by their own id.

use std::collections::HashSet;
use std::time::Duration;

use strait_core::{Attr, Records, Timestamp};
use tokio::time::Instant;

/// A batch older than this when it is sent may have been sent before by whoever made it.
const AGE_MAX: Duration = Duration::from_secs(5);

/// The ids of the batches that were sent lately.
///
/// A batch may be appended twice on purpose: that must not look like a repetition. A batch that was made a moment ago
/// (its id is a UUID version 7, which holds the time) and is not among those sent in that moment was not sent before.
#[derive(Debug)]
pub(super) struct Fresh {
    now: HashSet<u128>,
    before: HashSet<u128>,
    since: Instant,
}

impl Default for Fresh {
    fn default() -> Self {
        Fresh {
            now: HashSet::new(),
            before: HashSet::new(),
            since: Instant::now(),
        }
    }
}

impl Fresh {
    /// Whether the batch is sent for the first time, for certain, and names no ids of its own.
    pub(super) fn is_fresh(&mut self, records: &Records) -> bool {
        let id = records.batch().id();
        let made = id >> 80;
        let now = Timestamp::now().as_millis() as u128;
        let age_max = AGE_MAX.as_millis();
        if (id >> 76) & 0xf != 7 || made > now || now - made > age_max {
            return false;
        }
        if self.since.elapsed() > 2 * AGE_MAX {
            self.before = std::mem::take(&mut self.now);
            self.since = Instant::now();
        }
        let first = !self.before.contains(&id) && self.now.insert(id);
        first && !has_ids(records)
    }
}

fn has_ids(records: &Records) -> bool {
    let own = |attr: (Attr, &str)| attr.0 == Attr::Id;
    records.batch().attr(Attr::Id).is_some()
        || records.iter().any(|record| record.own_attrs().any(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use strait_core::{Limits, NewRecord, RecordsBuilder};

    fn batch(id: Option<u128>, attrs: &[(Attr, &str)]) -> Records {
        let mut builder = match id {
            Some(id) => RecordsBuilder::with(&[], Limits::default(), Timestamp::now(), id).unwrap(),
            None => RecordsBuilder::new(&[]).unwrap(),
        };
        builder
            .push(NewRecord {
                body: b"x",
                attrs,
                ..Default::default()
            })
            .unwrap();
        builder.build()
    }

    #[test]
    fn only_new_batches_without_ids_of_their_own_are_fresh() {
        let mut fresh = Fresh::default();
        let new = batch(None, &[]);
        assert!(fresh.is_fresh(&new));
        assert!(!fresh.is_fresh(&new), "sent before");
        assert!(
            !fresh.is_fresh(&batch(None, &[(Attr::Id, "order-7")])),
            "an id of its own"
        );
        assert!(
            !fresh.is_fresh(&batch(Some(7), &[])),
            "an id without a time"
        );
        let minute_ago = new.batch().id() - (60_000 << 80);
        assert!(
            !fresh.is_fresh(&batch(Some(minute_ago), &[])),
            "made a minute ago"
        );
        assert!(fresh.is_fresh(&batch(None, &[])));
    }
}
