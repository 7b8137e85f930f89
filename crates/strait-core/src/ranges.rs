//! Sets of offsets as disjoint ranges: what is settled above a low mark.

use std::collections::BTreeMap;

/// Disjoint, never adjacent half-open ranges `start..end`.
///
/// ```
/// let mut settled = strait_core::RangeSet::default();
/// settled.insert(3, 5);
/// settled.insert(5, 9);
/// assert_eq!(settled.first(), Some((3, 9)));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: BTreeMap<u64, u64>,
    len: u64,
}

impl RangeSet {
    /// Number of offsets in it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Puts `start..end` into it.
    pub fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (mut from, mut to) = (start, end);
        // Take out every range that overlaps or touches, and put back one.
        while let Some((&s, &e)) = self.ranges.range(..=to).next_back() {
            if e < from {
                break;
            }
            self.ranges.remove(&s);
            self.len -= e - s;
            from = from.min(s);
            to = to.max(e);
        }
        self.ranges.insert(from, to);
        self.len += to - from;
    }

    /// Takes `start..end` out of it.
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        while let Some((&s, &e)) = self.ranges.range(..end).next_back() {
            if e <= start {
                break;
            }
            self.ranges.remove(&s);
            self.len -= e - s;
            if s < start {
                self.ranges.insert(s, start);
                self.len += start - s;
            }
            if e > end {
                self.ranges.insert(end, e);
                self.len += e - end;
            }
        }
    }

    /// True when it holds `at`.
    pub fn contains(&self, at: u64) -> bool {
        let before = self.ranges.range(..=at).next_back();
        before.is_some_and(|(_, end)| at < *end)
    }

    /// Where the range ends that holds `at`.
    pub fn end_of(&self, at: u64) -> Option<u64> {
        let (_, end) = self.ranges.range(..=at).next_back()?;
        (at < *end).then_some(*end)
    }

    /// Where the first range after `at` begins.
    pub fn next_after(&self, at: u64) -> Option<u64> {
        self.ranges.range(at..).next().map(|(start, _)| *start)
    }

    /// The first range.
    pub fn first(&self) -> Option<(u64, u64)> {
        self.ranges.first_key_value().map(|(&s, &e)| (s, e))
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(&s, &e)| (s, e))
    }

    /// Takes out the range that begins at `at`, and says where it ends.
    pub fn take_from(&mut self, at: u64) -> Option<u64> {
        let end = self.ranges.remove(&at)?;
        self.len -= end - at;
        Some(end)
    }

    /// Takes out everything.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set(steps in proptest::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..60)) {
            let mut ranges = RangeSet::default();
            let mut model = BTreeSet::new();
            for (put, start, len) in steps {
                if put {
                    ranges.insert(start, start + len);
                    model.extend(start..start + len);
                } else {
                    ranges.remove(start, start + len);
                    model.retain(|o| !(start..start + len).contains(o));
                }
                prop_assert_eq!(ranges.len(), model.len() as u64);
                let flat: BTreeSet<u64> = ranges.iter().flat_map(|(s, e)| s..e).collect();
                prop_assert_eq!(&flat, &model);
                prop_assert!((0..80).all(|at| ranges.contains(at) == model.contains(&at)));
                let all: Vec<_> = ranges.iter().collect();
                prop_assert!(all.windows(2).all(|w| w[0].1 < w[1].0), "touching: {:?}", all);
            }
        }
    }
}
