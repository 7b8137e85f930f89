//! A map from offsets that costs little more than its values where offsets lie close together: pages of 64 of them, each
//! with the values that are there, in order.

use std::collections::BTreeMap;

/// Offsets of a page.
const PAGE: u64 = 64;

#[derive(Debug)]
pub(super) struct Entries<T> {
    pages: BTreeMap<u64, Page<T>>,
    len: usize,
}

#[derive(Debug)]
struct Page<T> {
    /// Bit `i`: offset `i` of the page is there.
    there: u64,
    values: Vec<T>,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Entries {
            pages: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<T> Page<T> {
    /// Where the value of a bit is, or would be.
    fn place(&self, bit: u64) -> usize {
        (self.there & ((1 << bit) - 1)).count_ones() as usize
    }

    fn has(&self, bit: u64) -> bool {
        self.there >> bit & 1 == 1
    }

    /// The bits that are there, from the lowest on.
    fn bits(&self) -> impl Iterator<Item = u64> + use<T> {
        let mut left = self.there;
        std::iter::from_fn(move || {
            let bit = u64::from(left.trailing_zeros());
            (left != 0).then(|| {
                left &= left - 1;
                bit
            })
        })
    }
}

impl<T> Entries<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, offset: u64) -> Option<&T> {
        let (page, bit) = (self.pages.get(&(offset / PAGE))?, offset % PAGE);
        page.has(bit).then(|| &page.values[page.place(bit)])
    }

    pub(super) fn get_mut(&mut self, offset: u64) -> Option<&mut T> {
        let (page, bit) = (self.pages.get_mut(&(offset / PAGE))?, offset % PAGE);
        if !page.has(bit) {
            return None;
        }
        let place = page.place(bit);
        page.values.get_mut(place)
    }

    /// Puts a value in the place of the one that was there.
    pub(super) fn insert(&mut self, offset: u64, value: T) {
        let page = self.pages.entry(offset / PAGE).or_insert_with(|| Page {
            there: 0,
            values: Vec::new(),
        });
        let bit = offset % PAGE;
        let place = page.place(bit);
        if page.has(bit) {
            page.values[place] = value;
            return;
        }
        page.there |= 1 << bit;
        page.values.insert(place, value);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, offset: u64) -> Option<T> {
        let (page, bit) = (self.pages.get_mut(&(offset / PAGE))?, offset % PAGE);
        if !page.has(bit) {
            return None;
        }
        let value = page.values.remove(page.place(bit));
        page.there &= !(1 << bit);
        self.len -= 1;
        if page.there == 0 {
            self.pages.remove(&(offset / PAGE));
        } else if page.values.len() * 4 <= page.values.capacity() {
            page.values.shrink_to(page.values.len() * 2);
        }
        Some(value)
    }

    /// Offsets with their values, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.pages.iter().flat_map(|(number, page)| {
            let offsets = page.bits().map(move |bit| number * PAGE + bit);
            offsets.zip(&page.values)
        })
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.values_mut().flat_map(|page| &mut page.values)
    }

    /// The offsets from `first` up to `end`, in order.
    pub(super) fn offsets(&self, first: u64, end: u64) -> impl Iterator<Item = u64> {
        let pages = if first < end {
            first / PAGE..end.div_ceil(PAGE)
        } else {
            0..0
        };
        self.pages
            .range(pages)
            .flat_map(|(number, page)| page.bits().map(move |bit| number * PAGE + bit))
            .skip_while(move |offset| *offset < first)
            .take_while(move |offset| *offset < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0u64..300, any::<bool>()), 0..400), cut in (0u64..320, 0u64..320)) {
            let (mut entries, mut map) = (Entries::default(), BTreeMap::new());
            for (step, (offset, put)) in steps.into_iter().enumerate() {
                if put {
                    entries.insert(offset, step);
                    map.insert(offset, step);
                } else {
                    prop_assert_eq!(entries.remove(offset), map.remove(&offset));
                }
                prop_assert_eq!(entries.get(offset), map.get(&offset));
                prop_assert_eq!(entries.len(), map.len());
            }
            let all: Vec<_> = entries.iter().map(|(offset, value)| (offset, *value)).collect();
            prop_assert_eq!(all, map.clone().into_iter().collect::<Vec<_>>());
            let (first, end) = cut;
            let part: Vec<u64> = entries.offsets(first, end).collect();
            let wanted: Vec<u64> = map.keys().copied().filter(|o| (first..end).contains(o)).collect();
            prop_assert_eq!(part, wanted);
            entries.values_mut().for_each(|value| *value += 1);
            for (offset, value) in map {
                prop_assert_eq!(entries.get_mut(offset).copied(), Some(value + 1));
            }
        }
    }
}
