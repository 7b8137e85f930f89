//! Members: what they are given is held against the model, and they obey the rules of the lane.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use strait_core::{Arrival, Chunk, Consumer, Delivery, Message, Receipt, Record};

use crate::model::{State, Ticket, key_bytes, serial_of};
use crate::places::Bell;
use crate::trace::note;
use crate::world::World;

/// A lease may have been taken so many polls ago at the earliest.
const AHEAD: usize = 8;

pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) group: usize,
    pub(crate) consumer: Option<Consumer>,
    pub(crate) bell: Arc<Bell>,
    /// Lease and time to hand over, milliseconds.
    times: (u64, u64),
    /// When it was polled last; the first is when it joined.
    polls: VecDeque<u64>,
    /// Its group was deleted: all that it gets is its end.
    pub(crate) orphan: bool,
    pub(crate) revoking: Vec<u32>,
    pub(crate) held: Vec<u32>,
}

impl Member {
    pub(crate) fn new(
        id: u64,
        group: usize,
        consumer: Consumer,
        times: (u64, u64),
        now: u64,
    ) -> Member {
        Member {
            id,
            group,
            consumer: Some(consumer),
            bell: Bell::rung(),
            times,
            polls: VecDeque::from([now]),
            orphan: false,
            revoking: Vec::new(),
            held: Vec::new(),
        }
    }

    /// It leaves, by being dropped.
    pub(crate) fn end(&mut self) {
        self.consumer = None;
    }
}

/// A receipt that somebody holds.
pub(crate) struct Out {
    pub(crate) ticket: Ticket,
    pub(crate) receipt: Receipt,
}

impl World {
    /// Polls a member once; true when something came.
    pub(crate) fn poll_member(&mut self, index: usize, items: usize, bytes: usize) -> bool {
        let now = self.mono();
        let member = &mut self.members[index];
        if member.polls.len() == AHEAD {
            member.polls.pop_front();
        }
        member.polls.push_back(now);
        member.bell.take();
        let waker = member.bell.waker();
        let Some(consumer) = &mut member.consumer else {
            return false;
        };
        let polled = consumer
            .source
            .poll_next(&mut Context::from_waker(&waker), items, bytes);
        match polled {
            Poll::Pending => false,
            Poll::Ready(Ok(arrival)) => {
                self.arrived(index, arrival);
                true
            }
            Poll::Ready(Err(error)) => {
                assert!(
                    self.down || self.disk.sim.is_dead(),
                    "a member got {error:?}"
                );
                self.remove_member(index);
                true
            }
        }
    }

    /// A member leaves; what is out with it comes back.
    pub(crate) fn remove_member(&mut self, index: usize) {
        let member = self.members.remove(index);
        note!(
            "{}: member {} leaves",
            self.groups[member.group].name,
            member.id
        );
        let (group, id) = (member.group, member.id);
        drop(member);
        self.leaving.push((group, id));
    }

    fn arrived(&mut self, index: usize, arrival: Arrival) {
        let (id, group) = (self.members[index].id, self.members[index].group);
        let name = self.groups[group].name;
        match arrival {
            Arrival::Assigned(shard) => {
                note!("{name}: member {id} owns {shard}");
                self.members[index].revoking.retain(|s| *s != shard);
            }
            Arrival::Revoking(shard, _) => {
                note!("{name}: member {id} is to hand {shard} back");
                self.members[index].revoking.push(shard);
            }
            Arrival::Lost(shard) => {
                note!("{name}: member {id} lost {shard}");
                self.members[index].revoking.retain(|s| *s != shard);
                self.void(|ticket| ticket.member == id && ticket.shard == shard);
            }
            Arrival::End => {
                let orphan = self.members[index].orphan;
                assert!(
                    orphan || self.down || self.disk.sim.is_dead(),
                    "{name}: an end that nobody made"
                );
                self.remove_member(index);
            }
            Arrival::Run(chunk, receipt) => self.run_arrived(index, &chunk, receipt),
            Arrival::Each(deliveries) => {
                for delivery in deliveries {
                    self.one_arrived(index, delivery);
                }
            }
        }
    }

    fn ticket(&mut self, index: usize, receipt: &Receipt, attempts: Vec<u32>) -> Ticket {
        let id = self.next_serial();
        let now = self.mono();
        let member = &self.members[index];
        let fence = receipt.fence();
        assert_eq!(fence.count as usize, attempts.len());
        let granted = member.polls.front().copied().unwrap_or(now);
        Ticket {
            id,
            group: member.group,
            member: member.id,
            shard: fence.shard,
            first: fence.first.offset(),
            attempts,
            ends: (granted + member.times.0, now + member.times.0),
            void: false,
        }
    }

    fn run_arrived(&mut self, index: usize, chunk: &Chunk, receipt: Receipt) {
        let attempts = vec![1; receipt.count() as usize];
        let ticket = self.ticket(index, &receipt, attempts);
        let name = self.groups[ticket.group].name;
        note!(
            "{name}/{}: {:?} to member {}",
            ticket.shard,
            ticket.offsets(),
            ticket.member
        );
        assert_eq!(
            chunk.len(),
            ticket.attempts.len(),
            "a run is what its receipt covers"
        );
        for (item, offset) in chunk.iter().zip(ticket.offsets()) {
            assert_eq!(item.position().offset(), offset, "a run is consecutive");
            self.check_record(&ticket, offset, &item.record());
            self.delivered(&ticket, offset, 1, None);
        }
        self.outs.push(Out { ticket, receipt });
    }

    fn one_arrived(&mut self, index: usize, delivery: Delivery) {
        let Delivery {
            message,
            attempt,
            last_error,
            receipt,
        } = delivery;
        let ticket = self.ticket(index, &receipt, vec![attempt]);
        let name = self.groups[ticket.group].name;
        let offset = ticket.first;
        note!(
            "{name}/{}: {offset} to member {}, attempt {attempt}",
            ticket.shard,
            ticket.member
        );
        assert_eq!(
            message.position().offset(),
            offset,
            "the message is that of its receipt"
        );
        assert!(
            attempt <= self.groups[ticket.group].max_attempts,
            "attempt {attempt} is over the limit"
        );
        self.check_message(&ticket, offset, &message);
        self.delivered(&ticket, offset, attempt, last_error.as_deref());
        self.outs.push(Out { ticket, receipt });
    }

    fn check_message(&self, ticket: &Ticket, offset: u64, message: &Message) {
        let topic = &self.topics[self.groups[ticket.group].topic];
        assert_eq!(&**message.topic(), topic.name);
        assert_eq!(message.partition(), ticket.shard);
        self.check_record(ticket, offset, &message.record());
    }

    fn check_record(&self, ticket: &Ticket, offset: u64, record: &Record<'_>) {
        let group = &self.groups[ticket.group];
        let msg = group.shards[ticket.shard as usize].msgs.get(&offset);
        let edit = msg.and_then(|msg| msg.letter.as_ref()?.comes_as());
        if let Some(edit) = edit {
            let wanted = crate::model::edited_body(edit);
            assert_eq!(record.body(), wanted, "offset {offset} comes as edited");
            return;
        }
        self.check_content(group.topic, ticket.shard, offset, record);
    }

    /// The record at this offset is the one that was sent.
    pub(crate) fn check_content(
        &self,
        topic: usize,
        partition: u32,
        offset: u64,
        record: &Record<'_>,
    ) {
        let topic = &self.topics[topic];
        let sent = topic.parts[partition as usize].recs.get(&offset);
        let sent = sent.unwrap_or_else(|| {
            panic!(
                "{}/{partition} has offset {offset} ({:?}), which nobody sent",
                topic.name,
                serial_of(record.body())
            )
        });
        assert_eq!(
            record.body(),
            sent.body(),
            "{}/{partition} offset {offset} is another message",
            topic.name
        );
        assert_eq!(record.key(), sent.key.map(key_bytes).as_deref());
        assert_eq!(record.kind(), Some("sim"));
    }

    fn delivered(&mut self, ticket: &Ticket, offset: u64, attempt: u32, last_error: Option<&str>) {
        let place = format!(
            "{}/{} offset {offset}",
            self.groups[ticket.group].name, ticket.shard
        );
        assert!(
            self.groups[ticket.group].exists,
            "{place}: the group is gone"
        );
        self.check_exclusive(ticket, offset, &place);
        assert!(
            self.groups[ticket.group].paused != Some(true),
            "{place} came while the group is paused"
        );
        assert!(
            !self.is_held(ticket.group, ticket.shard, offset),
            "{place} came while a dead letter holds its key"
        );
        self.resolve_delivered(ticket, offset);
        let wall = self.wall();
        let msg = self.groups[ticket.group].shards[ticket.shard as usize].msg(offset);
        match msg.state {
            State::Settled => panic!("{place} was settled and came again"),
            State::Parked => {
                assert!(
                    msg.due <= wall,
                    "{place} was due at {}, now is {wall}",
                    msg.due
                );
                assert_eq!(
                    last_error,
                    msg.reason.as_deref(),
                    "{place}: the reason of its last failure"
                );
            }
            _ => {}
        }
        assert!(
            msg.lo < attempt && attempt <= msg.hi + 1,
            "{place}: attempt {attempt}, {}..={} were counted",
            msg.lo,
            msg.hi
        );
        let before = msg.lo;
        msg.state = State::Out(ticket.id);
        (msg.lo, msg.hi) = (attempt, attempt);
        self.volatile
            .push((ticket.group, ticket.shard, offset, before));
        if self.groups[ticket.group].key_order {
            self.check_key_order(ticket, offset, &place);
        }
    }

    /// Nobody else may certainly have it.
    fn check_exclusive(&self, ticket: &Ticket, offset: u64, place: &str) {
        let now = self.mono();
        let sure = |other: &Ticket| !other.void && now < other.ends.0;
        match self.groups[ticket.group].shards[ticket.shard as usize].state(offset) {
            State::Out(id) => {
                let other = self.outs.iter().find(|out| out.ticket.id == id);
                assert!(
                    !other.is_some_and(|out| sure(&out.ticket)),
                    "{place} is out twice"
                );
            }
            State::Sent(id) => {
                assert!(
                    !self.pending_unit_is(id, sure),
                    "{place} is out, its verdict is under way, and it came again"
                );
            }
            _ => {}
        }
    }

    fn pending_unit_is(&self, id: u64, sure: impl Fn(&Ticket) -> bool) -> bool {
        let units = self.pending.iter().filter_map(|op| match &op.what {
            crate::ops::What::Commit(units) => Some(units),
            _ => None,
        });
        let unit = units.flatten().find(|unit| unit.id == id);
        unit.is_some_and(|unit| unit.settle.iter().all(|(ticket, _)| sure(ticket)))
    }

    /// While an earlier message of the key waits somewhere, this one must not come.
    fn check_key_order(&self, ticket: &Ticket, offset: u64, place: &str) {
        let now = self.mono();
        for earlier in self.earlier_of_key(ticket.group, ticket.shard, offset) {
            let shard = &self.groups[ticket.group].shards[ticket.shard as usize];
            let with = |id: u64| {
                let out = self.outs.iter().find(|out| out.ticket.id == id);
                out.is_none_or(|out| out.ticket.member == ticket.member)
            };
            // Its lease may be over, of which its member learns when it polls.
            let lost = |id: u64| {
                let out = self.outs.iter().find(|out| out.ticket.id == id);
                out.is_none_or(|out| now >= out.ticket.ends.0)
            };
            // It was its last attempt: it is being given up.
            let last = shard.hi(earlier) >= self.groups[ticket.group].max_attempts;
            let fine = match shard.state(earlier) {
                State::Settled | State::Unsure(_) | State::Sent(_) => true,
                State::Out(id) => id == ticket.id || with(id) || last && lost(id),
                State::Free | State::Parked => last,
            };
            assert!(
                fine,
                "{place} came while {earlier} of its key waits ({:?})",
                shard.state(earlier)
            );
        }
    }

    /// True when a dead letter before `offset` certainly holds its key.
    pub(crate) fn is_held(&self, group: usize, shard: u32, offset: u64) -> bool {
        let found = &self.groups[group];
        let recs = &self.topics[found.topic].parts[shard as usize].recs;
        let Some(key) = recs.get(&offset).and_then(|rec| rec.key) else {
            return false;
        };
        let same = |at: &u64| recs.get(at).is_some_and(|rec| rec.key == Some(key));
        let holds = &found.shards[shard as usize].holds;
        found.hold_key && holds.range(..offset).any(same)
    }

    /// The offsets before `offset` with its key that the group has to do with.
    pub(crate) fn earlier_of_key(&self, group: usize, shard: u32, offset: u64) -> Vec<u64> {
        let part = &self.topics[self.groups[group].topic].parts[shard as usize];
        let state = &self.groups[group].shards[shard as usize];
        let Some(key) = part.recs.get(&offset).and_then(|rec| rec.key) else {
            return Vec::new();
        };
        let from = state.low.max(part.start);
        let waits = |at: &u64| *at >= from || state.msgs.get(at).is_some_and(|msg| msg.redriven);
        part.recs
            .range(..offset)
            .filter(|(_, rec)| rec.key == Some(key))
            .map(|(at, _)| *at)
            .filter(waits)
            .collect()
    }
}
