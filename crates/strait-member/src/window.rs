//! The window of one shard: what was read and is not settled.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use strait_core::events::Order;
use strait_core::{Chunk, Fence, Message, Position, RangeSet, Shard, Timestamp};

use crate::pieces::Pieces;
use crate::take::begun;
use crate::waiting::{Entry, Waiting};
use crate::{Again, Kept, Range, Rules};

/// Messages that come from elsewhere (retry topics, redriven dead letters) are numbered from here on.
const ELSEWHERE: u64 = 1 << 63;

/// A range of numbers that is out with the member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    pub(crate) end: u64,
    /// Which hand-over it was: a receipt of another one is void.
    pub(crate) grant: u64,
    /// On the monotonic clock.
    pub(crate) deadline: Duration,
    /// Its end is being made durable: it cannot be lost meanwhile, nor settled twice.
    pub(crate) ending: bool,
}

/// What is out, by first number.
pub(crate) type Leases = BTreeMap<u64, Lease>;

/// One assigned shard, from its assignment to its loss.
#[derive(Debug)]
pub struct Window {
    pub(crate) shard: Shard,
    pub(crate) consumer: u64,
    /// The grant of every first attempt; those of later ones count up from it.
    pub(crate) epoch: u64,
    pub(crate) grants: u64,
    pub(crate) rules: Rules,
    pub(crate) held: bool,
    /// Where the next read begins.
    cursor: Position,
    /// Right behind the last message that was read.
    behind: Position,
    /// Every number below is settled.
    low: u64,
    /// Right behind the last message of them.
    low_at: Position,
    /// The number of the next message that is read.
    end: u64,
    elsewhere: u64,
    pub(crate) pieces: Pieces,
    pub(crate) others: HashMap<u64, Message>,
    settled: RangeSet,
    /// Numbers that were never handed out and need not wait, in order.
    pub(crate) fresh: VecDeque<(u64, u64)>,
    pub(crate) waiting: Waiting,
    /// Those of `waiting` that were put there by passing them, since the last grant.
    pub(crate) passed: Vec<Again>,
    /// Those of `waiting` whose attempts are used up.
    pub(crate) spent: BTreeSet<u64>,
    pub(crate) out: Leases,
    /// Of those that are out for another time than the first: what is known of them.
    pub(crate) past: BTreeMap<u64, Entry>,
    /// Keys of messages whose wait is being made durable.
    pub(crate) parking: HashMap<u64, BTreeSet<(Position, u64)>>,
    /// What the assignment brought and was not read yet.
    settled_before: VecDeque<Range>,
    again_before: BTreeMap<Position, Again>,
    out_before: Position,
}

/// How a window stands, for operators.
#[derive(Debug, Clone)]
pub struct Stands {
    /// Everything before it is settled.
    pub low: Position,
    /// Messages read from `low` on that are settled.
    pub settled: u64,
    /// Messages that wait for their next attempt, or behind one of their key.
    pub parked: u64,
    /// Messages that are out.
    pub in_flight: u64,
    /// Keys that a dead letter holds.
    pub held_keys: u64,
    /// The oldest unsettled message, where it was read.
    pub oldest: Option<Message>,
    /// That one is out.
    pub oldest_out: bool,
    /// The number of unsettled messages that were read.
    pub unsettled: u64,
    /// The gap is reached: nothing new goes out until the oldest message is settled.
    pub at_gap: bool,
    /// Messages that were read and never handed out, nor put behind one of their key.
    pub ahead: u64,
    /// Bytes of what was read and cannot be forgotten yet.
    pub bytes: usize,
    /// A message that was lost more than once is out, or goes out next, and the rest waits for its end.
    pub suspect: bool,
}

impl Stands {
    /// As many bytes are kept as may be, and nothing that was read can go out for the first time: as at the gap.
    pub fn is_full(&self, most: usize) -> bool {
        self.bytes >= most && self.ahead == 0
    }
}

impl Window {
    /// A window over a shard that was assigned now.
    ///
    /// `epoch` is that of the assignment, and must be greater than those of all assignments of the shard before;
    /// the window uses the lower 32 bits below it. `consumer` and `shard` are put into its receipts.
    pub fn new(shard: Shard, consumer: u64, epoch: u64, rules: Rules, kept: Kept) -> Self {
        let epoch = epoch << 32;
        Window {
            shard,
            consumer,
            epoch,
            grants: epoch,
            rules,
            held: false,
            cursor: kept.low,
            behind: kept.low,
            low: 0,
            low_at: kept.low,
            end: 0,
            elsewhere: ELSEWHERE,
            pieces: Pieces::default(),
            others: HashMap::new(),
            settled: RangeSet::default(),
            fresh: VecDeque::new(),
            waiting: Waiting::default(),
            passed: Vec::new(),
            spent: BTreeSet::new(),
            out: Leases::new(),
            past: BTreeMap::new(),
            parking: HashMap::new(),
            settled_before: kept.settled.into(),
            again_before: kept.again.into_iter().map(|a| (a.position, a)).collect(),
            out_before: kept.out,
        }
    }

    /// The shard.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// Where the next read begins.
    pub fn cursor(&self) -> Position {
        self.cursor
    }

    /// How many more messages may be read ahead; at 0 the gap is reached.
    pub fn room(&self) -> u64 {
        self.bound().saturating_sub(self.end)
    }

    /// No message from this number on goes out.
    pub(crate) fn bound(&self) -> u64 {
        self.low.saturating_add(self.rules.gap)
    }

    /// Whether to read on: fewer than `ahead` messages wait to be handed out for the first time, and fewer than `bytes` are kept.
    pub fn may_read(&self, ahead: u64, bytes: usize) -> bool {
        self.ahead() < ahead && self.pieces.bytes() < bytes
    }

    fn ahead(&self) -> u64 {
        self.fresh.iter().map(|(first, end)| end - first).sum()
    }

    /// Changes the rules: an operator's override, or what a later member declared.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        let waiting: Vec<u64> = self.waiting.iter().map(|(number, _)| number).collect();
        waiting
            .into_iter()
            .for_each(|number| self.note_spent(number));
    }

    /// One whose attempts are used up does not go out any more: [`expire`](Window::expire) gives it up.
    fn note_spent(&mut self, number: u64) {
        let spent = |entry: &Entry| entry.attempts >= self.rules.max_attempts;
        if self.waiting.get(number).is_some_and(spent) {
            self.spent.insert(number);
        }
    }

    /// Stops (`true`) or resumes what goes out.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Takes in what was read at [`cursor`](Window::cursor). What was settled before the assignment is passed over, what was
    /// out before it comes again.
    pub fn offer(&mut self, chunk: Chunk) {
        let next = chunk.next();
        if chunk.is_empty() {
            self.cursor = self.cursor.max(next);
            return;
        }
        let (first, count) = (self.end, chunk.len() as u64);
        let known = self.knows_from(chunk.first().unwrap_or(next));
        self.pieces.push(first, chunk.clone(), self.behind);
        self.end += count;
        if known {
            for (number, item) in (first..).zip(chunk.iter()) {
                self.offer_one(number, &item);
            }
        } else {
            push_fresh(&mut self.fresh, first, first + count);
        }
        if let Some(last) = self.pieces.position(self.end - 1) {
            self.behind = last.next();
        }
        self.cursor = next.max(self.behind);
        self.advance();
    }

    /// True when the assignment brought something about messages from here on.
    fn knows_from(&mut self, position: Position) -> bool {
        while self
            .settled_before
            .front()
            .is_some_and(|r| r.to <= position)
        {
            self.settled_before.pop_front();
        }
        self.again_before = self.again_before.split_off(&position);
        !self.settled_before.is_empty()
            || !self.again_before.is_empty()
            || position < self.out_before
    }

    fn offer_one(&mut self, number: u64, item: &strait_core::Item<'_>) {
        let position = item.position();
        while self
            .settled_before
            .front()
            .is_some_and(|r| r.to <= position)
        {
            self.settled_before.pop_front();
        }
        let key = self.key_of(item.record().key());
        if let Some(again) = self.again_before.remove(&position) {
            let entry = Entry {
                position,
                key,
                attempts: again.attempts,
                lost: again.lost,
                due: again.due,
                reason: again.reason,
            };
            self.waiting.insert(number, entry);
            self.note_spent(number);
        } else if self
            .settled_before
            .front()
            .is_some_and(|r| r.from <= position)
        {
            self.settled.insert(number, number + 1);
        } else if position < self.out_before {
            self.waiting.insert(number, lost_once(position, key));
            self.note_spent(number);
        } else {
            push_fresh(&mut self.fresh, number, number + 1);
        }
    }

    /// Takes in a message that does not come from the log: of a retry topic, or a dead letter that was brought back. Of its
    /// key it goes before every message behind its position. `attempts` were made with it.
    /// Gives its number, by which its steps and grants name it ([`Step::came`](crate::Step::came)).
    pub fn comes_again(&mut self, message: Message, again: Again) -> u64 {
        let number = self.elsewhere;
        self.elsewhere += 1;
        let entry = Entry {
            position: again.position,
            key: self.key_of(message.record().key()),
            attempts: again.attempts,
            lost: again.lost,
            due: again.due,
            reason: again.reason,
        };
        self.others.insert(number, message);
        self.waiting.insert(number, entry);
        self.note_spent(number);
        number
    }

    /// What [`comes_again`](Window::comes_again) brought is taken back. `false`: it is out, or ended.
    pub fn withdraw(&mut self, number: u64) -> bool {
        if number < ELSEWHERE || self.waiting.remove(number).is_none() {
            return false;
        }
        self.spent.remove(&number);
        self.others.remove(&number);
        true
    }

    /// Others than this window settled messages that are not out: everything before `low`, and `ranges`, in order.
    pub fn settled_by_others(&mut self, low: Position, ranges: &[Range]) {
        let settled = |position: Position| {
            let before = ranges.partition_point(|range| range.from <= position);
            let within = before.checked_sub(1).map(|index| ranges[index]);
            position < low || within.is_some_and(|range| position < range.to)
        };
        let waiting = self
            .waiting
            .iter()
            .filter(|(number, entry)| *number < ELSEWHERE && settled(entry.position));
        let waiting: Vec<u64> = waiting.map(|(number, _)| number).collect();
        for number in &waiting {
            self.waiting.remove(*number);
            self.spent.remove(number);
        }
        let fresh = self.fresh.iter().flat_map(|(first, end)| *first..*end);
        let (gone, left): (Vec<u64>, Vec<u64>) =
            fresh.partition(|number| settled(self.position_of(*number)));
        if !gone.is_empty() {
            self.fresh.clear();
            for number in left {
                push_fresh(&mut self.fresh, number, number + 1);
            }
        }
        for number in waiting.into_iter().chain(gone) {
            self.settle(number, number + 1);
        }
        let behind = self.behind;
        self.settled_before = ranges
            .iter()
            .copied()
            .filter(|range| range.to > behind)
            .collect();
    }

    /// Exactly these keys are held by dead letters.
    pub fn set_held<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) {
        let keys: HashSet<u64> = keys.map(|key| self.key_of(Some(key))).collect();
        let gone: Vec<u64> = self
            .waiting
            .held_keys()
            .filter(|key| !keys.contains(key))
            .collect();
        keys.into_iter().for_each(|key| self.waiting.hold(key));
        gone.into_iter().for_each(|key| self.waiting.let_go(key));
    }

    /// What it goes by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// A dead letter holds this key: its later messages wait.
    pub fn hold_key(&mut self, key: &[u8]) {
        let key = self.key_of(Some(key));
        self.waiting.hold(key);
    }

    /// No dead letter holds this key any more.
    pub fn let_go(&mut self, key: &[u8]) {
        let key = self.key_of(Some(key));
        self.waiting.let_go(key);
    }

    /// The hash that messages of one key share, never 0 for one that has a key. Keys of one hash wait for each other.
    pub(crate) fn key_of(&self, key: Option<&[u8]>) -> u64 {
        match (self.rules.order, key) {
            (Order::Key, Some(key)) => rapidhash::v3::rapidhash_v3(key).max(1),
            _ => 0,
        }
    }

    pub(crate) fn position_of(&self, number: u64) -> Position {
        let other = self.others.get(&number).map(Message::position);
        let found = self.pieces.position(number).or(other);
        found.unwrap_or(self.behind)
    }

    pub(crate) fn message_of(&self, number: u64) -> Option<Message> {
        let other = || self.others.get(&number).cloned();
        self.pieces.message(number).or_else(other)
    }

    /// Numbers end: they are settled.
    pub(crate) fn settle(&mut self, first: u64, end: u64) {
        if first >= ELSEWHERE {
            (first..end).for_each(|number| {
                self.others.remove(&number);
            });
            return;
        }
        self.settled.insert(first, end);
        self.advance();
    }

    fn advance(&mut self) {
        let Some((first, end)) = self.settled.first() else {
            return;
        };
        if first > self.low {
            return;
        }
        self.settled.remove(first, end);
        self.low = end;
        self.low_at = self
            .pieces
            .position(end - 1)
            .map_or(self.behind, Position::next);
        self.pieces.drop_before(end);
    }

    /// Everything before it is settled. What lies between messages is behind it, too, once they are.
    pub fn low(&self) -> Position {
        if self.low == self.end {
            self.cursor
        } else {
            self.low_at
        }
    }

    /// The settled messages behind [`low`](Window::low), in order.
    pub fn settled(&self) -> Vec<Range> {
        let read = self.settled.iter().filter_map(|(first, end)| {
            Some(Range {
                from: self.pieces.from(first)?,
                to: self.pieces.position(end - 1)?.next(),
            })
        });
        read.chain(self.settled_before.iter().copied()).collect()
    }

    /// What is durable of it if every step and grant was stored.
    pub fn kept(&self) -> Kept {
        let out = self.out_to();
        let waiting = self.waiting.iter().filter(|(number, entry)| {
            *number < ELSEWHERE && (entry.attempts > 0 || entry.position < out)
        });
        let past = self.past.range(..ELSEWHERE).map(|(_, entry)| begun(entry));
        let mut again: Vec<Again> = waiting.map(|(_, entry)| again(entry)).chain(past).collect();
        again.extend(self.again_before.values().cloned());
        again.sort_by_key(|again| again.position);
        Kept {
            low: self.low(),
            settled: self.settled(),
            again,
            out,
        }
    }

    /// Right behind the last message that was ever handed out.
    fn out_to(&self) -> Position {
        let next = self.fresh.front().map_or(self.end, |(first, _)| *first);
        let read = match next {
            0 => self.out_before,
            next => self
                .pieces
                .position(next - 1)
                .map_or(self.low_at, Position::next),
        };
        read.max(self.out_before)
    }

    /// True while nothing is out: the shard can be handed back.
    pub fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    /// True while something that was read has not gone out, whether it may or not.
    pub fn has_work(&self) -> bool {
        !self.fresh.is_empty() || self.waiting.len() > 0
    }

    /// The position of the oldest unsettled message that was read, and the message.
    fn oldest(&self) -> Option<Message> {
        (self.low < self.end).then(|| self.pieces.message(self.low))?
    }

    fn is_out(&self, number: u64) -> bool {
        let lease = self.out.range(..=number).next_back();
        lease.is_some_and(|(_, lease)| lease.end > number)
    }

    /// How it stands.
    pub fn stands(&self) -> Stands {
        let lent = |(first, lease): (&u64, &Lease)| lease.end - first;
        let unsettled = self.end - self.low - self.settled.len() + self.others.len() as u64;
        Stands {
            low: self.low(),
            settled: self.settled.len(),
            parked: self.waiting.len(),
            in_flight: self.out.iter().map(lent).sum(),
            held_keys: self.waiting.held(),
            oldest: self.oldest(),
            oldest_out: self.is_out(self.low),
            unsettled,
            at_gap: self.room() == 0 && self.fresh.front().is_none_or(|f| f.0 >= self.bound()),
            ahead: self.ahead(),
            bytes: self.pieces.bytes(),
            suspect: self.suspect_is_out(),
        }
    }

    /// What is known of a message that was read: how it waits. `None` when it does not.
    pub fn waits(&self, position: Position) -> Option<Again> {
        let found = self
            .waiting
            .iter()
            .chain(self.past.iter().map(|(n, e)| (*n, e)));
        let mut found = found.filter(|(_, entry)| entry.position == position);
        found.next().map(|(_, entry)| again(entry))
    }

    pub(crate) fn suspect_is_out(&self) -> bool {
        self.past.values().any(|entry| entry.lost >= Again::SUSPECT)
    }

    /// Whether the fence's receipt is still valid.
    pub fn holds(&self, fence: &Fence) -> bool {
        fence.consumer == self.consumer
            && fence.shard == self.shard
            && self.leases_of(fence).is_some()
    }

    /// The leases that cover a fence, when all of it is out under its grant and is not ending.
    pub(crate) fn leases_of(&self, fence: &Fence) -> Option<Vec<(u64, u64)>> {
        let (first, end) = numbers(fence);
        let (start, _) = self.out.range(..=first).next_back()?;
        let mut at = first;
        let mut found = Vec::new();
        for (lease_first, lease) in self.out.range(*start..end) {
            let fits = lease.grant == fence.epoch && !lease.ending && *lease_first <= at;
            if !fits || lease.end <= at {
                return None;
            }
            found.push((at, lease.end.min(end)));
            at = lease.end;
        }
        (at >= end).then_some(found)
    }
}

/// The numbers of a fence.
pub(crate) fn numbers(fence: &Fence) -> (u64, u64) {
    let first = fence.first.offset();
    (first, first + u64::from(fence.count))
}

pub(crate) fn again(entry: &Entry) -> Again {
    Again {
        position: entry.position,
        attempts: entry.attempts,
        lost: entry.lost,
        due: entry.due,
        reason: entry.reason.clone(),
    }
}

/// One that was out when its member was lost, for the first time.
fn lost_once(position: Position, key: u64) -> Entry {
    Entry {
        position,
        key,
        attempts: 1,
        lost: 1,
        due: Timestamp::default(),
        reason: None,
    }
}

fn push_fresh(fresh: &mut VecDeque<(u64, u64)>, first: u64, end: u64) {
    match fresh.back_mut() {
        Some(last) if last.1 == first => last.1 = end,
        _ => fresh.push_back((first, end)),
    }
}
