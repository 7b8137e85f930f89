//! The receipts that a connection's consumers have out. The peer knows them by their identities, whole or in pieces.

use std::collections::{BTreeMap, HashMap};

use strait_core::{Fence, Position, Receipt, Shard};

/// Consumer, shard, epoch.
type Lane = (u64, Shard, u64);

fn lane(fence: Fence) -> Lane {
    (fence.consumer, fence.shard, fence.epoch)
}

/// Receipts by range.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    lanes: HashMap<Lane, BTreeMap<Position, Receipt>>,
}

impl Receipts {
    /// Keeps a receipt that goes out.
    pub(super) fn put(&mut self, receipt: Receipt) {
        let fence = receipt.fence();
        let ranges = self.lanes.entry(lane(fence)).or_default();
        ranges.insert(fence.first, receipt);
    }

    /// Takes exactly this range, cut out of what is there and joined as needed. `None`, and nothing changes, when a part
    /// of it is not there.
    pub(super) fn take(&mut self, fence: Fence) -> Option<Receipt> {
        let ranges = self.lanes.get_mut(&lane(fence))?;
        let mut taken = take_first(ranges, fence.first)?;
        while taken.count() < fence.count {
            let next = ranges.remove(&taken.fence().end());
            let Some(joined) = next.map(|next| taken.join(next)) else {
                ranges.insert(fence.first, taken);
                return None;
            };
            if let Err(next) = joined {
                // Does not happen: it begins where the other one ends.
                ranges.insert(next.fence().first, next);
                ranges.insert(fence.first, taken);
                return None;
            }
        }
        if taken.count() > fence.count {
            let rest = taken;
            let mut rest = rest;
            let head = rest.split_at(fence.count)?;
            ranges.insert(rest.fence().first, rest);
            taken = head;
        }
        if ranges.is_empty() {
            self.lanes.remove(&lane(fence));
        }
        Some(taken)
    }

    /// Takes all receipts of a consumer, or of one of its shards.
    pub(super) fn take_all(&mut self, consumer: u64, shard: Option<Shard>) -> Vec<Receipt> {
        let gone = |lane: &Lane| lane.0 == consumer && shard.is_none_or(|shard| lane.1 == shard);
        let lanes = self.lanes.extract_if(|lane, _| gone(lane));
        lanes.flat_map(|(_, ranges)| ranges.into_values()).collect()
    }
}

/// Takes the receipt that covers `first`, from there on; what lies before stays.
fn take_first(ranges: &mut BTreeMap<Position, Receipt>, first: Position) -> Option<Receipt> {
    let (start, receipt) = ranges.range(..=first).next_back()?;
    if first >= receipt.fence().end() {
        return None;
    }
    let start = *start;
    let mut receipt = ranges.remove(&start)?;
    let (before, at) = (start.parts(), first.parts());
    if before.0 == at.0 && at.1 > before.1 {
        let head = receipt.split_at((at.1 - before.1) as u32)?;
        ranges.insert(start, head);
    }
    Some(receipt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn fence(first: u64, count: u32) -> Fence {
        Fence {
            consumer: 7,
            epoch: 1,
            shard: 0,
            first: Position::at(first),
            count,
        }
    }

    proptest! {
        /// Whatever is taken and put back in whatever pieces: each message is out exactly once.
        #[test]
        fn takes_exactly_what_is_there(
            runs in proptest::collection::vec(1u32..20, 1..8),
            takes in proptest::collection::vec((0u64..100, 1u32..40, any::<bool>()), 0..40),
        ) {
            let mut receipts = Receipts::default();
            let mut there = [false; 200];
            let mut at = 3;
            for (index, run) in runs.iter().enumerate() {
                receipts.put(Receipt::new(fence(at, *run), None));
                there[at as usize..at as usize + *run as usize].fill(true);
                // Every other run follows directly.
                at += u64::from(*run) + (index as u64 % 2);
            }
            for (first, count, back) in takes {
                let range = first as usize..first as usize + count as usize;
                let whole = there[range.clone()].iter().all(|there| *there);
                match receipts.take(fence(first, count)) {
                    None => prop_assert!(!whole),
                    Some(receipt) => {
                        prop_assert!(whole);
                        prop_assert_eq!(receipt.fence(), fence(first, count));
                        if back {
                            receipts.put(receipt);
                        } else {
                            there[range].fill(false);
                        }
                    }
                }
            }
            let left = receipts.take_all(7, None).iter().map(|r| r.count() as usize).sum::<usize>();
            prop_assert_eq!(left, there.iter().filter(|there| **there).count());
            prop_assert!(receipts.lanes.is_empty());
        }
    }

    #[test]
    fn other_epochs_and_consumers_are_not_there() {
        let home: Option<Arc<dyn strait_core::Abandoned>> = None;
        let mut receipts = Receipts::default();
        receipts.put(Receipt::new(fence(0, 10), home));
        for wrong in [
            Fence {
                consumer: 8,
                ..fence(0, 10)
            },
            Fence {
                epoch: 2,
                ..fence(0, 10)
            },
            Fence {
                shard: 1,
                ..fence(0, 10)
            },
        ] {
            assert!(receipts.take(wrong).is_none(), "{wrong:?}");
        }
        assert!(receipts.take_all(7, Some(1)).is_empty());
        assert_eq!(receipts.take_all(7, Some(0)).len(), 1);
    }
}
