//! What goes out next.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use strait_core::{Abandoned, Arrival, Delivery, Fence, Position, Receipt, Timestamp};

use crate::Again;
use crate::waiting::Entry;
use crate::window::{Lease, Window, again, numbers};

/// What goes out, and what has to be stored before it does.
#[derive(Debug)]
pub struct Taken {
    /// To hand over.
    pub arrival: Arrival,
    /// To store first, where the death of the process is to count as an attempt.
    pub grant: Grant,
}

/// That messages go out: what holds if nobody hears of them any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Everything before it has gone out for the first time, ended, or is in `again`. `None`: it stays where it was.
    pub out: Option<Position>,
    /// Messages that go out another time, with the attempt that begins and one more loss counted; and those that new messages
    /// went past, because they wait for their key, with no attempt.
    pub again: Vec<Again>,
    /// The same of messages that came from elsewhere, by the number that [`Window::comes_again`] gave.
    pub elsewhere: Vec<(u64, Again)>,
}

impl Window {
    /// The next messages to hand over, at most `items` of about `bytes` bytes (at least one), where there are any: those
    /// that come again before new ones. `now` is the monotonic clock, `wall` the wall clock; `home` learns of receipts that
    /// are dropped. What is taken is out, and its lease runs.
    pub fn take(
        &mut self,
        now: Duration,
        wall: Timestamp,
        items: usize,
        bytes: usize,
        home: &Arc<dyn Abandoned>,
    ) -> Option<Taken> {
        if self.held || self.suspect_is_out() || !self.spent.is_empty() {
            return None;
        }
        let deadline = now + self.rules.lease;
        if let Some(taken) = self.take_again(wall, deadline, items.max(1), home) {
            return Some(taken);
        }
        let next = self.next_ready(wall);
        let next = next.and_then(|number| self.waiting.get(number));
        if next.is_some_and(|entry| entry.lost >= Again::SUSPECT) {
            return None;
        }
        self.take_first(deadline, items.max(1), bytes, home)
    }

    fn take_again(
        &mut self,
        wall: Timestamp,
        deadline: Duration,
        items: usize,
        home: &Arc<dyn Abandoned>,
    ) -> Option<Taken> {
        let mut deliveries = Vec::new();
        let mut stored = std::mem::take(&mut self.passed);
        let mut elsewhere = Vec::new();
        while deliveries.len() < items {
            let Some(number) = self.next_ready(wall) else {
                break;
            };
            let suspect = self
                .waiting
                .get(number)
                .is_some_and(|e| e.lost >= Again::SUSPECT);
            if suspect && !self.out.is_empty() {
                break;
            }
            let Some(entry) = self.waiting.remove(number) else {
                break;
            };
            let Some(message) = self.message_of(number) else {
                continue;
            };
            match self.others.contains_key(&number) {
                true => elsewhere.push((number, begun(&entry))),
                false => stored.push(begun(&entry)),
            }
            let receipt = self.lend(number, number + 1, deadline, true, home);
            deliveries.push(Delivery {
                message,
                attempt: entry.attempts + 1,
                last_error: entry.reason.clone(),
                receipt,
            });
            self.past.insert(number, entry);
            if suspect {
                break;
            }
        }
        if deliveries.is_empty() {
            self.passed = stored;
            return None;
        }
        Some(Taken {
            arrival: Arrival::Each(deliveries),
            grant: Grant {
                out: None,
                again: stored,
                elsewhere,
            },
        })
    }

    /// The first that is due and whose key is not about to wait for an earlier one. What came from elsewhere has to wait for what
    /// lies before it in the log and was never out.
    fn next_ready(&mut self, wall: Timestamp) -> Option<u64> {
        let front = self.fresh.front().map(|(first, _)| *first);
        let front = front.map_or(self.cursor(), |first| self.position_of(first));
        let (parking, others) = (&self.parking, &self.others);
        self.waiting.first_ready(wall, |number, entry| {
            let waits = entry.key != 0
                && (is_parking(parking, entry.key, entry.position)
                    || entry.position >= front && others.contains_key(&number));
            !waits
        })
    }

    pub(crate) fn is_parking(&self, key: u64, position: Position) -> bool {
        is_parking(&self.parking, key, position)
    }

    fn take_first(
        &mut self,
        deadline: Duration,
        items: usize,
        bytes: usize,
        home: &Arc<dyn Abandoned>,
    ) -> Option<Taken> {
        if !self.waiting.is_free() || !self.parking.is_empty() {
            self.put_behind(items);
        }
        let (first, end) = *self.fresh.front()?;
        let most = end.min(first + items as u64).min(self.bound());
        if most <= first {
            return None;
        }
        let chunk = self.pieces.slice(first, most)?;
        let count = within(&chunk, bytes) as u64;
        let chunk = match count == chunk.len() as u64 {
            true => chunk,
            false => self.pieces.slice(first, first + count)?,
        };
        match first + count == end {
            true => self.fresh.pop_front().map(|_| ()),
            false => self.fresh.front_mut().map(|range| range.0 = first + count),
        };
        let upto = self.position_of(first + count - 1).next();
        let receipt = self.lend(first, first + count, deadline, false, home);
        Some(Taken {
            arrival: Arrival::Run(chunk, receipt),
            grant: Grant {
                out: Some(upto),
                again: std::mem::take(&mut self.passed),
                elsewhere: Vec::new(),
            },
        })
    }

    /// What was taken does not go out after all, and nothing was stored of it: it is as before.
    pub fn put_back(&mut self, taken: Taken) {
        let passed = taken
            .grant
            .again
            .into_iter()
            .filter(|again| again.attempts == 0);
        self.passed.extend(passed);
        match taken.arrival {
            Arrival::Run(_, receipt) => {
                let (first, end) = numbers(&receipt.settle());
                self.out.remove(&first);
                match self.fresh.front_mut() {
                    Some(next) if next.0 == end => next.0 = first,
                    _ => self.fresh.push_front((first, end)),
                }
            }
            Arrival::Each(deliveries) => {
                for delivery in deliveries {
                    let (number, _) = numbers(&delivery.receipt.settle());
                    self.out.remove(&number);
                    if let Some(entry) = self.past.remove(&number) {
                        self.waiting.insert(number, entry);
                    }
                }
            }
            _ => {}
        }
    }

    /// Of the next new messages, those whose key waits have to wait behind it: what stands at the front then may go.
    fn put_behind(&mut self, items: usize) {
        while let Some((first, end)) = self.fresh.pop_front() {
            let Some(chunk) = self.pieces.slice(first, end.min(first + items as u64)) else {
                return;
            };
            let looked = first + chunk.len() as u64;
            let (mut begin, mut stop) = (first, looked);
            for (number, item) in (first..).zip(chunk.iter()) {
                let key = self.key_of(item.record().key());
                let position = item.position();
                if !self.waiting.blocks(key, position) && !self.is_parking(key, position) {
                    continue;
                }
                if number > begin {
                    stop = number;
                    break;
                }
                let entry = not_yet(position, key);
                self.passed.push(again(&entry));
                self.waiting.insert(number, entry);
                begin = number + 1;
            }
            if stop < end {
                self.fresh.push_front((stop, end));
            }
            if begin < stop {
                self.fresh.push_front((begin, stop));
                return;
            }
        }
    }

    fn lend(
        &mut self,
        first: u64,
        end: u64,
        deadline: Duration,
        again: bool,
        home: &Arc<dyn Abandoned>,
    ) -> Receipt {
        let grant = if again {
            self.grants += 1;
            self.grants
        } else {
            self.epoch
        };
        let lease = Lease {
            end,
            grant,
            deadline,
            ending: false,
        };
        self.out.insert(first, lease);
        let fence = Fence {
            consumer: self.consumer,
            epoch: grant,
            shard: self.shard,
            first: Position::at(first),
            count: (end - first) as u32,
        };
        Receipt::new(fence, Some(home.clone()))
    }
}

fn is_parking(
    parking: &HashMap<u64, BTreeSet<(Position, u64)>>,
    key: u64,
    position: Position,
) -> bool {
    let first = parking.get(&key).and_then(|places| places.first());
    key != 0 && first.is_some_and(|(before, _)| *before < position)
}

/// How many messages of a chunk fit into so many bytes; at least one.
fn within(chunk: &strait_core::Chunk, bytes: usize) -> usize {
    if chunk.buffer().len() <= bytes {
        return chunk.len();
    }
    let mut left = bytes;
    let fits = |size: usize| {
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    };
    let sizes = chunk.iter().map(|item| item.record().size());
    sizes.map(fits).take_while(|fits| *fits).count().max(1)
}

/// What holds of a message that goes out again if nobody hears of it any more.
pub(crate) fn begun(entry: &Entry) -> Again {
    Again {
        position: entry.position,
        attempts: entry.attempts + 1,
        lost: entry.lost + 1,
        due: Timestamp::default(),
        reason: entry.reason.clone(),
    }
}

/// One that was never out, and waits for its key.
fn not_yet(position: Position, key: u64) -> Entry {
    Entry {
        position,
        key,
        attempts: 0,
        lost: 0,
        due: Timestamp::default(),
        reason: None,
    }
}
