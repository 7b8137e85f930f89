//! Consumers: fetch through the writer, read on the member's own thread, hold back what waits for its key.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use strait_core::{
    Abandoned, Arrival, Chunk, Control, Delivery, Error, Fence, Fut, Message, Position, Receipt,
    Result, Shard, Source, Unit, Verdict,
};
use tokio::sync::oneshot;

use crate::command::{Again, Command, Fetch, Granted, GrantedWhat, Prepared};
use crate::extents::StreamId;
use crate::fingerprint::key_hash;
use crate::ops::GroupId;
use crate::prepare::read_again;
use crate::reading::Want;
use crate::shared::Shared;
use crate::state::members::Event;

/// The group that a consumer's id belongs to.
pub(crate) fn group_of(consumer: u64) -> GroupId {
    (consumer >> 32) as GroupId
}

/// What the receipts, the source and the control of one consumer share.
#[derive(Debug)]
pub(crate) struct Home {
    shared: Arc<Shared>,
    group: GroupId,
    topic: u32,
    topic_name: Arc<str>,
    consumer: u64,
    key_order: bool,
    max_attempts: u32,
}

impl Home {
    pub(crate) fn new(
        shared: Arc<Shared>,
        topic_name: Arc<str>,
        consumer: u64,
        settings: (u32, bool, u32),
    ) -> Arc<Home> {
        let (topic, key_order, max_attempts) = settings;
        let group = group_of(consumer);
        Arc::new(Home {
            shared,
            group,
            topic,
            topic_name,
            consumer,
            key_order,
            max_attempts,
        })
    }

    fn receipt(self: &Arc<Self>, shard: Shard, grant: u64, first: u64, count: u32) -> Receipt {
        let fence = Fence {
            consumer: self.consumer,
            epoch: grant,
            shard,
            first: Position::at(first),
            count,
        };
        Receipt::new(fence, Some(self.clone()))
    }

    /// Settles without waiting for the outcome: for what the engine itself decides about a delivery.
    fn settle(&self, prepared: Prepared) {
        let (to, _) = oneshot::channel();
        self.shared.push(Command::Commit(vec![prepared], to), 0);
    }
}

impl Abandoned for Home {
    fn abandoned(&self, fence: Fence) {
        let mut state = self.shared.state.lock();
        let Some(group) = state.groups.get_mut(&self.group) else {
            return;
        };
        let Some(shard) = group.shards.get_mut(fence.shard as usize) else {
            return;
        };
        let (first, end) = (fence.first.offset(), fence.end().offset());
        if !shard.holds(first, fence.count, fence.epoch) {
            return;
        }
        shard.unlease(first, fence.count);
        shard.take_back_range(first, end);
        let was = |(s, offset): (u32, u64)| s == fence.shard && (first..end).contains(&offset);
        if group.members.suspect.is_some_and(was) {
            group.members.suspect = None;
        }
        group.members.wake_all();
    }
}

impl Control for Home {
    fn extend(&self, fences: Vec<Fence>, by: Duration) -> Fut<Result<Vec<bool>>> {
        let deadline = self.shared.clock.now().monotonic + by;
        let mut state = self.shared.state.lock();
        let mut held = Vec::with_capacity(fences.len());
        if let Some(group) = state.groups.get_mut(&self.group) {
            for fence in &fences {
                let shard = group.shards.get_mut(fence.shard as usize);
                let shard =
                    shard.filter(|s| s.holds(fence.first.offset(), fence.count, fence.epoch));
                held.push(shard.is_some());
                if let Some(shard) = shard {
                    shard.extend(fence.first.offset(), fence.count, deadline);
                }
            }
        }
        held.resize(fences.len(), false);
        state.alarms.set(self.group, deadline);
        drop(state);
        Box::pin(std::future::ready(Ok(held)))
    }

    fn hold(&self, shard: Shard, held: bool) {
        let mut state = self.shared.state.lock();
        let group = state.groups.get_mut(&self.group);
        if let Some(member) = group.and_then(|group| group.members.get(self.consumer)) {
            if held {
                member.held.insert(shard);
            } else if member.held.remove(&shard) {
                member.wake();
            }
        }
    }

    fn handed_back(&self, shard: Shard) {
        let now = self.shared.clock.now().monotonic;
        let mut state = self.shared.state.lock();
        let Some(group) = state.groups.get_mut(&self.group) else {
            return;
        };
        if group.members.handed_back(shard, self.consumer, now)
            && let Some(shard) = group.shards.get_mut(shard as usize)
        {
            shard.take_back(|lease| lease.consumer == self.consumer);
            group.members.wake_all();
        }
    }

    fn leave(&self) {
        let now = self.shared.clock.now().monotonic;
        let mut state = self.shared.state.lock();
        let Some(group) = state.groups.get_mut(&self.group) else {
            return;
        };
        group.members.leave(self.consumer, now);
        for shard in &mut group.shards {
            shard.take_back(|lease| lease.consumer == self.consumer);
        }
        group.members.suspect = None;
        group.members.wake_all();
        let next = group.members.next_overdue();
        if let Some(at) = next {
            state.alarms.set(self.group, at);
        }
        drop(state);
        self.shared.nudge();
    }
}

#[derive(Debug)]
pub(crate) struct Member {
    home: Arc<Home>,
    fetching: Option<oneshot::Receiver<Option<Granted>>>,
    arrivals: VecDeque<Arrival>,
    ended: bool,
}

impl Member {
    pub(crate) fn new(home: Arc<Home>) -> Member {
        Member {
            home,
            fetching: None,
            arrivals: VecDeque::new(),
            ended: false,
        }
    }

    /// The next event of the member, and whether there may be something to fetch; registers the waker otherwise.
    fn look(&mut self, cx: &Context<'_>) -> Look {
        let mut state = self.home.shared.state.lock();
        let group = state.groups.get_mut(&self.home.group);
        let Some(member) = group.and_then(|group| group.members.get(self.home.consumer)) else {
            return Look::Event(Event::End);
        };
        if let Some(event) = member.events.pop_front() {
            return Look::Event(event);
        }
        if self.fetching.is_none() && member.ready {
            member.ready = false;
            return Look::Fetch;
        }
        match &mut member.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Look::Wait
    }

    fn fetch(&mut self, items: usize, bytes: usize) {
        let (to, answer) = oneshot::channel();
        let Home {
            group, consumer, ..
        } = *self.home;
        let fetch = Fetch {
            group,
            consumer,
            items: items.max(1),
            bytes: bytes.max(1),
        };
        self.home.shared.push(Command::Fetch(fetch, to), 0);
        self.fetching = Some(answer);
    }

    /// Reads what was granted. What waits for a parked message of its key goes back.
    fn take(&mut self, granted: Granted) -> Result<()> {
        let Granted { shard, grant, what } = granted;
        if !self.is_open(shard) {
            self.give_back(shard, grant, &what);
            return Ok(());
        }
        match what {
            GrantedWhat::Run { first, count } => self.take_run(shard, grant, first, count),
            GrantedWhat::Again(messages) => self.take_again(shard, grant, messages),
        }
    }

    fn is_open(&self, shard: Shard) -> bool {
        let state = self.home.shared.state.lock();
        let group = state.groups.get(&self.home.group);
        group.is_some_and(|group| group.members.open_to(self.home.consumer).contains(&shard))
    }

    fn give_back(&self, shard: Shard, grant: u64, what: &GrantedWhat) {
        let release = |first, count| {
            let receipt = self.home.receipt(shard, grant, first, count);
            let unit = Unit::settle(receipt, Verdict::Release);
            self.home.settle(Prepared {
                unit,
                messages: Vec::new(),
            });
        };
        match what {
            GrantedWhat::Run { first, count } => release(*first, *count),
            GrantedWhat::Again(all) => all.iter().for_each(|message| release(message.offset, 1)),
        }
    }

    fn take_run(&mut self, shard: Shard, grant: u64, first: u64, count: u32) -> Result<()> {
        let stream = StreamId::partition(self.home.topic, shard);
        let mut receipt = self.home.receipt(shard, grant, first, count);
        let mut from = first;
        let end = first + u64::from(count);
        while from < end {
            let want = Want {
                stream,
                from,
                count: end - from,
                bytes: usize::MAX,
            };
            let chunk = self
                .home
                .shared
                .chunk(self.home.topic_name.clone(), shard, &want)?;
            let next = chunk.next().offset();
            if next == from {
                return Err(self.missing(shard, from));
            }
            let part = receipt.split_at((next - from) as u32);
            match part {
                Some(part) => self.hand_over(chunk, part),
                None => {
                    self.hand_over(chunk, receipt);
                    return Ok(());
                }
            }
            from = next;
        }
        Ok(())
    }

    fn missing(&self, shard: Shard, offset: u64) -> Error {
        Error::new(
            strait_core::Kind::Corrupt,
            format!("offset {offset} of partition {shard} was granted and cannot be read"),
        )
        .with("topic", &self.home.topic_name)
    }

    /// Gives a run as it is, unless some of its keys wait: then their messages are parked behind them.
    fn hand_over(&mut self, chunk: Chunk, receipt: Receipt) {
        let waiting = self.waiting(&chunk, receipt.fence().shard);
        if waiting.is_empty() {
            self.arrivals.push_back(Arrival::Run(chunk, receipt));
            return;
        }
        let mut rest = Some(receipt);
        let mut flow = Vec::new();
        for item in chunk.iter() {
            let Some(mut receipt) = rest.take() else {
                break;
            };
            let one = match receipt.split_first() {
                Some(one) => {
                    rest = Some(receipt);
                    one
                }
                None => receipt,
            };
            let message = item.to_message();
            if waiting.binary_search(&item.position().offset()).is_ok() {
                self.park_behind(message, one);
            } else {
                flow.push(Delivery {
                    message,
                    attempt: 1,
                    last_error: None,
                    receipt: one,
                });
            }
        }
        if !flow.is_empty() {
            self.arrivals.push_back(Arrival::Each(flow));
        }
    }

    /// Offsets of a chunk whose key has a parked message before them.
    fn waiting(&self, chunk: &Chunk, shard: Shard) -> Vec<u64> {
        if !self.home.key_order {
            return Vec::new();
        }
        let state = self.home.shared.state.lock();
        let group = state.groups.get(&self.home.group);
        let Some(shard) = group.and_then(|group| group.shards.get(shard as usize)) else {
            return Vec::new();
        };
        if !shard.any_key_parked() {
            return Vec::new();
        }
        chunk
            .iter()
            .filter(|i| shard.is_blocked(key_hash(i.record().key()), i.position().offset()))
            .map(|item| item.position().offset())
            .collect()
    }

    /// The message waits for an earlier one of its key; its grant does not count.
    fn park_behind(&self, message: Message, receipt: Receipt) {
        let reason = "".into();
        let verdict = Verdict::Retry {
            after: Duration::ZERO,
            reason,
            counts: false,
        };
        self.home
            .settle(Prepared::of_one(receipt, verdict, &message, None));
    }

    fn take_again(&mut self, shard: Shard, grant: u64, messages: Vec<Again>) -> Result<()> {
        let mut deliveries = Vec::with_capacity(messages.len());
        for again in messages {
            let receipt = self.home.receipt(shard, grant, again.offset, 1);
            let message = read_again(
                &self.home.shared,
                &self.home.topic_name,
                self.home.topic,
                self.home.group,
                shard,
                &again,
            )?;
            if self.is_blocked(&message, shard, again.offset) {
                self.park_behind(message, receipt);
            } else if again.attempt > self.home.max_attempts {
                self.give_up(message, receipt, again);
            } else {
                let Again {
                    attempt, reason, ..
                } = again;
                deliveries.push(Delivery {
                    message,
                    attempt,
                    last_error: reason,
                    receipt,
                });
            }
        }
        if !deliveries.is_empty() {
            self.arrivals.push_back(Arrival::Each(deliveries));
        }
        Ok(())
    }

    fn is_blocked(&self, message: &Message, shard: Shard, offset: u64) -> bool {
        if !self.home.key_order {
            return false;
        }
        let state = self.home.shared.state.lock();
        let group = state.groups.get(&self.home.group);
        let shard = group.and_then(|group| group.shards.get(shard as usize));
        shard.is_some_and(|s| s.is_blocked(key_hash(message.record().key()), offset))
    }

    /// Every attempt is spent and none of them ended: the process died, or the lease ran out.
    fn give_up(&self, message: Message, receipt: Receipt, again: Again) {
        let made = again.attempt - 1;
        let reason = match again.reason {
            Some(last) => format!("lost in attempt {made} of {made}; the last error was: {last}"),
            None => format!("lost in {made} attempts: the process died, or the lease ran out"),
        };
        let shared = &self.home.shared;
        let copy = crate::prepare::dead_copy(shared, self.home.group, &message, made, &reason);
        let mut prepared = Prepared::of_one(receipt, Verdict::Dead(reason.into()), &message, copy);
        // The grant by which we learned of it was no attempt.
        prepared
            .messages
            .iter_mut()
            .flatten()
            .for_each(|taken| taken.attempts = Some(made));
        self.home.settle(prepared);
    }
}

enum Look {
    Event(Event),
    Fetch,
    Wait,
}

impl Source for Member {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        items: usize,
        bytes: usize,
    ) -> Poll<Result<Arrival>> {
        if self.ended {
            return Poll::Ready(Ok(Arrival::End));
        }
        loop {
            if let Some(fetching) = &mut self.fetching
                && let Poll::Ready(answer) = Pin::new(fetching).poll(cx)
            {
                self.fetching = None;
                if let Ok(Some(granted)) = answer {
                    self.take(granted)?;
                }
            }
            match self.look(cx) {
                Look::Event(Event::Assigned(shard)) => {
                    return Poll::Ready(Ok(Arrival::Assigned(shard)));
                }
                Look::Event(Event::Revoking(shard, time)) => {
                    return Poll::Ready(Ok(Arrival::Revoking(shard, time)));
                }
                Look::Event(Event::Lost(shard)) => return Poll::Ready(Ok(Arrival::Lost(shard))),
                Look::Event(Event::End) => {
                    self.ended = true;
                    let alive = self.home.shared.check_alive();
                    let closed = alive
                        .as_ref()
                        .is_err_and(|e| e.kind() == strait_core::Kind::Closed);
                    return Poll::Ready(match alive {
                        Err(error) if !closed => Err(error),
                        _ => Ok(Arrival::End),
                    });
                }
                Look::Fetch => {
                    self.fetch(items, bytes);
                    if let Some(arrival) = self.arrivals.pop_front() {
                        return Poll::Ready(Ok(arrival));
                    }
                }
                Look::Wait => {
                    return match self.arrivals.pop_front() {
                        Some(arrival) => Poll::Ready(Ok(arrival)),
                        None => Poll::Pending,
                    };
                }
            }
        }
    }
}
