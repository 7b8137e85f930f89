//! Who is in a group now, and which shards each member owns. In memory only: a restart empties every group.
//!
//! Assignment is cooperative: a change moves as few shards as possible. A shard that moves is first *revoked*: its owner
//! gets time to settle what is out, then (or when it hands it back) the shard goes on.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::task::Waker;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Members {
    list: Vec<Member>,
    owners: Vec<Option<u64>>,
    /// Shards on their way from their owner, with the time at which it loses them.
    moving: BTreeMap<u32, Duration>,
    /// A message that was lost more than once is out alone.
    pub(crate) suspect: Option<(u32, u64)>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) consumer: u64,
    pub(crate) name: String,
    pub(crate) lease: Duration,
    pub(crate) handover: Duration,
    pub(crate) events: VecDeque<Event>,
    pub(crate) held: HashSet<u32>,
    /// The shard to look at first in the next fetch: takes turns.
    pub(crate) turn: u32,
    /// Something may be there to fetch.
    pub(crate) ready: bool,
    pub(crate) waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Assigned(u32),
    Revoking(u32, Duration),
    Lost(u32),
    End,
}

impl Member {
    pub(crate) fn new(consumer: u64, name: String, lease: Duration, handover: Duration) -> Member {
        Member {
            consumer,
            name,
            lease,
            handover,
            events: VecDeque::new(),
            held: HashSet::new(),
            turn: 0,
            ready: true,
            waker: None,
        }
    }

    fn tell(&mut self, event: Event) {
        self.events.push_back(event);
        self.wake();
    }

    pub(crate) fn wake(&mut self) {
        self.ready = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Members {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.list.iter()
    }

    pub(crate) fn get(&mut self, consumer: u64) -> Option<&mut Member> {
        self.list
            .iter_mut()
            .find(|member| member.consumer == consumer)
    }

    pub(crate) fn grow(&mut self, shards: usize) {
        self.owners.resize(shards.max(self.owners.len()), None);
    }

    pub(crate) fn owner(&self, shard: u32) -> Option<u64> {
        self.owners.get(shard as usize).copied().flatten()
    }

    /// The shards of a member, those on their way included.
    pub(crate) fn owned_by(&self, consumer: u64) -> Vec<u32> {
        (0..)
            .zip(&self.owners)
            .filter(|(_, o)| **o == Some(consumer))
            .map(|(s, _)| s)
            .collect()
    }

    /// True when a member may get messages from the shard now: it owns it, holds it not, and it is not on its way.
    pub(crate) fn is_open_to(&self, consumer: u64, shard: u32) -> bool {
        let held = |member: &Member| member.consumer == consumer && member.held.contains(&shard);
        self.owner(shard) == Some(consumer)
            && !self.moving.contains_key(&shard)
            && !self.list.iter().any(held)
    }

    /// The shards from which a member may get messages now, its turn first.
    pub(crate) fn open_to(&self, consumer: u64) -> Vec<u32> {
        let Some(member) = self.list.iter().find(|m| m.consumer == consumer) else {
            return Vec::new();
        };
        let mut open = self.owned_by(consumer);
        open.retain(|shard| !member.held.contains(shard) && !self.moving.contains_key(shard));
        let from = open.partition_point(|shard| *shard < member.turn);
        open.rotate_left(from);
        open
    }

    pub(crate) fn wake_owner(&mut self, shard: u32) {
        if let Some(consumer) = self.owner(shard)
            && let Some(member) = self.get(consumer)
        {
            member.wake();
        }
    }

    pub(crate) fn wake_all(&mut self) {
        self.list.iter_mut().for_each(Member::wake);
    }

    pub(crate) fn join(&mut self, member: Member, now: Duration) {
        self.list.push(member);
        self.balance(now);
    }

    /// Removes a member; gives the shards that it had.
    pub(crate) fn leave(&mut self, consumer: u64, now: Duration) -> Vec<u32> {
        let shards = self.owned_by(consumer);
        for shard in &shards {
            self.owners[*shard as usize] = None;
            self.moving.remove(shard);
        }
        self.list.retain(|member| member.consumer != consumer);
        self.balance(now);
        shards
    }

    /// The owner is done with a shard on its way; false when it was not on its way from that owner.
    pub(crate) fn handed_back(&mut self, shard: u32, consumer: u64, now: Duration) -> bool {
        if self.owner(shard) != Some(consumer) || self.moving.remove(&shard).is_none() {
            return false;
        }
        self.owners[shard as usize] = None;
        self.balance(now);
        true
    }

    /// Takes the shards whose time to be handed back is over; their owners lose them.
    pub(crate) fn overdue(&mut self, now: Duration) -> Vec<u32> {
        let over: Vec<u32> = self
            .moving
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(shard, _)| *shard)
            .collect();
        for shard in &over {
            self.moving.remove(shard);
            let owner = self.owners[*shard as usize].take();
            if let Some(member) = owner.and_then(|consumer| self.get(consumer)) {
                member.tell(Event::Lost(*shard));
            }
        }
        if !over.is_empty() {
            self.balance(now);
        }
        over
    }

    /// The next time at which [`overdue`](Self::overdue) has something to do.
    pub(crate) fn next_overdue(&self) -> Option<Duration> {
        self.moving.values().min().copied()
    }

    /// The owner loses the shard and gets it again: its position was moved under it.
    pub(crate) fn restart(&mut self, shard: u32) {
        self.moving.remove(&shard);
        if let Some(consumer) = self.owner(shard)
            && let Some(member) = self.get(consumer)
        {
            member.tell(Event::Lost(shard));
            member.tell(Event::Assigned(shard));
        }
    }

    /// All members are gone (the topic or the engine ends).
    pub(crate) fn end(&mut self) {
        self.list
            .iter_mut()
            .for_each(|member| member.tell(Event::End));
        self.owners.fill(None);
        self.moving.clear();
    }

    /// Gives free shards to who has too few, and calls back the surplus of who has too many.
    pub(crate) fn balance(&mut self, now: Duration) {
        if self.list.is_empty() {
            return;
        }
        let mut kept: Vec<(u64, Vec<u32>)> = self
            .list
            .iter()
            .map(|member| {
                let mut shards = self.owned_by(member.consumer);
                shards.retain(|shard| !self.moving.contains_key(shard));
                (member.consumer, shards)
            })
            .collect();
        // Who has most keeps the odd ones: fewest moves.
        kept.sort_by_key(|(_, shards)| std::cmp::Reverse(shards.len()));
        let (least, odd) = (
            self.owners.len() / kept.len(),
            self.owners.len() % kept.len(),
        );
        let mut free: VecDeque<u32> = (0..)
            .zip(&self.owners)
            .filter(|(_, o)| o.is_none())
            .map(|(shard, _)| shard)
            .collect();
        for (i, (consumer, shards)) in kept.iter().enumerate() {
            let share = least + usize::from(i < odd);
            for shard in shards.iter().skip(share) {
                self.call_back(*consumer, *shard, now);
            }
            for _ in shards.len()..share {
                let Some(shard) = free.pop_front() else { break };
                self.owners[shard as usize] = Some(*consumer);
                if let Some(member) = self.get(*consumer) {
                    member.tell(Event::Assigned(shard));
                }
            }
        }
    }

    fn call_back(&mut self, consumer: u64, shard: u32, now: Duration) {
        let Some(member) = self.get(consumer) else {
            return;
        };
        let time = member.handover;
        member.tell(Event::Revoking(shard, time));
        self.moving.insert(shard, now + time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(1);

    fn member(consumer: u64) -> Member {
        Member::new(consumer, String::new(), T, T)
    }

    fn counts(members: &Members) -> Vec<usize> {
        members
            .iter()
            .map(|m| members.owned_by(m.consumer).len())
            .collect()
    }

    #[test]
    fn a_second_member_takes_half_and_moves_nothing_else() {
        let mut members = Members::default();
        members.grow(8);
        members.join(member(1), T);
        assert_eq!(counts(&members), [8]);
        members.join(member(2), T);
        assert_eq!(members.moving.len(), 4);
        assert_eq!(
            members.open_to(1).len(),
            4,
            "revoked shards give nothing new"
        );
        let moving: Vec<u32> = members.moving.keys().copied().collect();
        for shard in moving {
            assert!(members.handed_back(shard, 1, T));
            assert!(!members.handed_back(shard, 1, T), "twice");
        }
        assert_eq!(counts(&members), [4, 4]);
        assert!(members.moving.is_empty());
        assert_eq!(members.leave(1, T).len(), 4);
        assert_eq!(counts(&members), [8]);
    }

    #[test]
    fn who_does_not_hand_back_loses_the_shard_when_the_time_is_over() {
        let mut members = Members::default();
        members.grow(3);
        members.join(member(1), T);
        members.join(member(2), T);
        assert_eq!(members.next_overdue(), Some(2 * T));
        assert!(members.overdue(T).is_empty());
        assert_eq!(members.overdue(2 * T).len(), 1);
        assert_eq!(counts(&members), [2, 1]);
        let lost = members
            .get(1)
            .unwrap()
            .events
            .iter()
            .filter(|e| matches!(e, Event::Lost(_)));
        assert_eq!(lost.count(), 1);
    }

    #[test]
    fn more_members_than_shards_leave_some_idle() {
        let mut members = Members::default();
        members.grow(2);
        for consumer in 1..=4 {
            members.join(member(consumer), T);
            members.overdue(Duration::MAX);
        }
        let mut all = counts(&members);
        all.sort();
        assert_eq!(all, [0, 0, 1, 1]);
    }
}
