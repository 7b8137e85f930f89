//! Consumers: fetch through the writer, read on the member's own thread, hold back what waits for its key.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use strait_core::{
    Abandoned, Arrival, Chunk, Control, Delivery, Error, Fence, Fut, Kind, Message, Position,
    Receipt, Result, Shard, Source, Unit, Verdict, codes,
};
use tokio::sync::oneshot;

use crate::again::read_all_again;
use crate::command::{Again, Command, Fetch, Granted, GrantedWhat, Prepared};
use crate::extents::StreamId;
use crate::fingerprint::key_hash;
use crate::ops::GroupId;
use crate::prepare::dead_copy;
use crate::reading::Want;
use crate::shared::Shared;
use crate::state::members::Event;
use crate::state::shard::Shard as ShardState;

/// The group that a consumer's id belongs to.
pub(crate) fn group_of(consumer: u64) -> GroupId {
    (consumer >> 32) as GroupId
}

/// What the receipts, the source and the control of one consumer share.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) shared: Arc<Shared>,
    pub(crate) topic: u32,
    pub(crate) topic_name: Arc<str>,
    pub(crate) consumer: u64,
    pub(crate) key_order: bool,
}

impl Home {
    fn group(&self) -> GroupId {
        group_of(self.consumer)
    }

    /// As it is now: an operator may have changed it.
    fn max_attempts(&self) -> u32 {
        let state = self.shared.state.lock();
        let group = state.groups.get(&self.group());
        group.map_or(u32::MAX, |group| group.settings.max_attempts)
    }

    fn receipt(self: &Arc<Self>, shard: Shard, grant: u64, first: u64, count: u32) -> Receipt {
        let (consumer, first) = (self.consumer, Position::at(first));
        let fence = Fence {
            consumer,
            epoch: grant,
            shard,
            first,
            count,
        };
        Receipt::new(fence, Some(self.clone()))
    }

    /// Settles without waiting for the outcome: for what the engine itself decides about a delivery.
    fn settle(&self, prepared: Prepared) {
        let (to, _) = oneshot::channel();
        self.shared.push(Command::Commit(vec![prepared], to), 0);
    }

    fn release(&self, receipt: Receipt) {
        let unit = Unit::settle(receipt, Verdict::Release);
        self.settle(Prepared {
            unit,
            messages: Vec::new(),
        });
    }

    /// The message waits for an earlier one of its key; its grant does not count, and its last failure stays known.
    fn park_behind(&self, delivery: Delivery) {
        let verdict = Verdict::Retry {
            after: Duration::ZERO,
            reason: delivery.last_error.unwrap_or_default(),
            counts: false,
        };
        let (message, receipt) = (&delivery.message, delivery.receipt);
        self.settle(Prepared::of_one(receipt, verdict, message, None));
    }

    /// Every attempt is spent and none of them ended: the process died, or the lease ran out.
    fn give_up(&self, message: &Message, receipt: Receipt, again: &Again) {
        let made = again.attempt - 1;
        let reason = match &again.reason {
            Some(last) => format!("lost in attempt {made} of {made}; the last error was: {last}"),
            None => format!("lost in {made} attempts: the process died, or the lease ran out"),
        };
        let copy = dead_copy(&self.shared, self.group(), message, made, &reason);
        let fence = receipt.fence();
        let mut prepared = Prepared::of_one(receipt, Verdict::Dead(reason.into()), message, copy);
        // The grant by which we learned of it was no attempt.
        prepared
            .messages
            .iter_mut()
            .flatten()
            .for_each(|taken| taken.attempts = Some(made));
        // Later ones of its key wait until it is decided: it may hold the key, or come back by a limit raised meanwhile.
        let key = key_hash(message.record().key());
        self.dealt_with(&fence, if self.key_order { key } else { 0 });
        self.settle(prepared);
    }

    /// Compaction removed what the receipt covers: a newer message of its key took its place.
    fn compacted(&self, receipt: Receipt) {
        self.dealt_with(&receipt.fence(), 0);
        self.settle(Prepared {
            unit: Unit::settle(receipt, Verdict::Done),
            messages: Vec::new(),
        });
    }

    /// The engine settles it by itself: nothing waits for its delivery, save later ones of `key`, where it is not 0.
    fn dealt_with(&self, fence: &Fence, key: u64) {
        let mut state = self.shared.state.lock();
        let group = state.groups.get_mut(&self.group());
        if let Some(shard) = group.and_then(|group| group.shards.get_mut(fence.shard as usize)) {
            shard.set_settling(fence.first.offset(), fence.count, key);
        }
    }
}

impl Abandoned for Home {
    fn abandoned(&self, fence: Fence) {
        let mut state = self.shared.state.lock();
        let Some(group) = state.groups.get_mut(&self.group()) else {
            return;
        };
        // What was never handed over is released when its member leaves.
        let shard = group.shards.get(fence.shard as usize);
        let lease = shard.and_then(|shard| shard.lease_of(fence.first.offset()));
        if lease.is_some_and(|lease| lease.delivered) {
            group.abandon(&fence);
        }
    }
}

impl Control for Home {
    fn extend(&self, fences: Vec<Fence>, by: Duration) -> Fut<Result<Vec<bool>>> {
        let deadline = self.shared.clock.now().monotonic + by;
        let mut state = self.shared.state.lock();
        let mut held = Vec::with_capacity(fences.len());
        if let Some(group) = state.groups.get_mut(&self.group()) {
            for fence in &fences {
                let (first, count) = (fence.first.offset(), fence.count);
                let shard = group.shards.get_mut(fence.shard as usize);
                let shard = shard.filter(|shard| shard.holds(first, count, fence.epoch));
                held.push(shard.is_some());
                if let Some(shard) = shard {
                    shard.extend(first, count, deadline);
                }
            }
        }
        held.resize(fences.len(), false);
        state.alarms.set(self.group(), deadline);
        drop(state);
        self.shared.nudge();
        Box::pin(std::future::ready(Ok(held)))
    }

    fn hold(&self, shard: Shard, held: bool) {
        let mut state = self.shared.state.lock();
        let group = state.groups.get_mut(&self.group());
        if let Some(member) = group.and_then(|group| group.members.get(self.consumer)) {
            if held {
                member.held.insert(shard);
            } else if member.held.remove(&shard) {
                member.wake();
            }
        }
    }

    fn handed_back(&self, shard: Shard) {
        let (group, consumer) = (self.group(), self.consumer);
        self.shared.push(
            Command::HandedBack {
                group,
                consumer,
                shard,
            },
            0,
        );
    }

    fn leave(&self) {
        self.shared.push(Command::leave(self.consumer), 0);
    }
}

/// What was read and not handed over yet.
#[derive(Debug)]
enum Held {
    Run(Chunk, Receipt),
    Again(Vec<Delivery>),
}

/// The source of a member.
#[derive(Debug)]
pub(crate) struct Member {
    home: Arc<Home>,
    fetching: Option<oneshot::Receiver<Option<Granted>>>,
    held: VecDeque<Held>,
    ended: bool,
}

/// What a look at the group says.
enum Look {
    Event(Event),
    Fetch,
    Wait,
}

impl Member {
    pub(crate) fn new(home: Arc<Home>) -> Member {
        Member {
            home,
            fetching: None,
            held: VecDeque::new(),
            ended: false,
        }
    }

    /// The next event of the member, or whether there may be something to fetch; else registers the waker.
    fn look(&self, cx: &Context<'_>) -> Look {
        let mut state = self.home.shared.state.lock();
        let group = state.groups.get_mut(&self.home.group());
        let Some(member) = group.and_then(|group| group.members.get(self.home.consumer)) else {
            return Look::Event(Event::End);
        };
        if let Some(event) = member.events.pop_front() {
            return Look::Event(event);
        }
        if self.fetching.is_none() && self.held.len() < 2 && member.ready {
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
        let (group, consumer) = (self.home.group(), self.home.consumer);
        let fetch = Fetch {
            group,
            consumer,
            items: items.max(1),
            bytes: bytes.max(1),
        };
        self.home.shared.push(Command::Fetch(fetch, to), 0);
        self.fetching = Some(answer);
    }

    /// Reads what was granted.
    fn take(&mut self, granted: Granted) -> Result<()> {
        let Granted { shard, grant, what } = granted;
        match what {
            GrantedWhat::Run { first, count } => self.take_run(shard, grant, first, count),
            GrantedWhat::Again(messages) => self.take_again(shard, grant, messages),
        }
    }

    fn take_run(&mut self, shard: Shard, grant: u64, first: u64, count: u32) -> Result<()> {
        let stream = StreamId::partition(self.home.topic, shard);
        let mut receipt = self.home.receipt(shard, grant, first, count);
        let end = first + u64::from(count);
        let mut from = first;
        loop {
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
            // The granted range may lie in several segments: one run for each.
            match receipt.split_at((next - from) as u32) {
                Some(part) => self.hold_runs(chunk, part),
                None => {
                    self.hold_runs(chunk, receipt);
                    return Ok(());
                }
            }
            from = next;
        }
    }

    /// Holds what was read: what compaction removed in between is settled at once.
    fn hold_runs(&mut self, chunk: Chunk, receipt: Receipt) {
        if chunk.len() == receipt.count() as usize {
            return self.held.push_back(Held::Run(chunk, receipt));
        }
        let mut rest = Some(receipt);
        for run in chunk.runs() {
            let Some(first) = run.first() else { continue };
            let Some(mut receipt) = rest.take() else {
                return;
            };
            let gap = first.offset() - receipt.fence().first.offset();
            if let Some(gone) = receipt.split_at(gap as u32) {
                self.home.compacted(gone);
            }
            match receipt.split_at(run.len() as u32) {
                Some(part) => {
                    rest = Some(receipt);
                    self.held.push_back(Held::Run(run, part));
                }
                None => self.held.push_back(Held::Run(run, receipt)),
            }
        }
        rest.into_iter().for_each(|gone| self.home.compacted(gone));
    }

    fn missing(&self, shard: Shard, offset: u64) -> Error {
        let text = format!("offset {offset} of partition {shard} was granted and cannot be read");
        Error::new(Kind::Corrupt, text).with("topic", &self.home.topic_name)
    }

    fn take_again(&mut self, shard: Shard, grant: u64, messages: Vec<Again>) -> Result<()> {
        let home = &self.home;
        let mut deliveries = Vec::with_capacity(messages.len());
        let max_attempts = home.max_attempts();
        let (name, group) = (&home.topic_name, home.group());
        let read = read_all_again(&home.shared, name, home.topic, group, shard, &messages);
        for (again, message) in messages.into_iter().zip(read) {
            let receipt = home.receipt(shard, grant, again.offset, 1);
            let message = match message {
                // The grant was lost before it was read.
                Err(error) if error.is(codes::OFFSET_GONE) => continue,
                other => other?,
            };
            let Some(message) = message else {
                home.compacted(receipt);
                continue;
            };
            if again.attempt > max_attempts {
                home.give_up(&message, receipt, &again);
                continue;
            }
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
        if !deliveries.is_empty() {
            self.held.push_back(Held::Again(deliveries));
        }
        Ok(())
    }

    /// Hands over what was read first, as the group stands at this moment: what waits for its key, or was overtaken by
    /// a message that came back, or is of a shard that goes to another member, goes back instead.
    fn hand_over(&mut self) -> Option<Arrival> {
        while let Some(held) = self.held.pop_front() {
            let deliveries = match held {
                Held::Run(chunk, receipt) => match self.hand_over_run(chunk, receipt) {
                    Ok(run) => return Some(run),
                    Err(deliveries) => deliveries,
                },
                Held::Again(deliveries) => deliveries,
            };
            let kept = self.keep(deliveries);
            if !kept.is_empty() {
                return Some(Arrival::Each(kept));
            }
        }
        None
    }

    /// A run as it is, when nothing of it waits; else its messages one by one.
    fn hand_over_run(&self, chunk: Chunk, receipt: Receipt) -> Result<Arrival, Vec<Delivery>> {
        let fence = receipt.fence();
        {
            let mut state = self.home.shared.state.lock();
            if !self.is_held(&state, &fence) {
                return Err(Vec::new());
            }
            if let Some(shard) = self.open_shard(&mut state, fence.shard)
                && !(self.home.key_order
                    && (shard.any_key_waits() || shard.is_overtaken(fence.first.offset())))
            {
                shard.deliver(fence.first.offset(), fence.count);
                return Ok(Arrival::Run(chunk, receipt));
            }
        }
        Err(singles(&chunk, receipt))
    }

    /// False when the lease was lost before the member saw the message: it was taken back already.
    fn is_held(&self, state: &crate::state::State, fence: &Fence) -> bool {
        let group = state.groups.get(&self.home.group());
        let shard = group.and_then(|group| group.shards.get(fence.shard as usize));
        shard.is_some_and(|shard| shard.holds(fence.first.offset(), fence.count, fence.epoch))
    }

    /// The state of a shard that this member may get messages from now.
    fn open_shard<'s>(
        &self,
        state: &'s mut crate::state::State,
        shard: Shard,
    ) -> Option<&'s mut ShardState> {
        let group = state.groups.get_mut(&self.home.group())?;
        let open =
            group.operator.pause.is_none() && group.members.is_open_to(self.home.consumer, shard);
        group.shards.get_mut(shard as usize).filter(|_| open)
    }

    fn keep(&self, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        let mut kept = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let fence = delivery.receipt.fence();
            let offset = fence.first.offset();
            let mut state = self.home.shared.state.lock();
            if !self.is_held(&state, &fence) {
                drop(state);
                continue;
            }
            let shard = self.open_shard(&mut state, fence.shard);
            let key = key_hash(delivery.message.record().key());
            match shard {
                Some(shard) if self.home.key_order && shard.is_blocked(key, offset) => {
                    // Dealt with: what follows it in its run is not overtaken by it.
                    shard.set_settling(offset, 1, key);
                    drop(state);
                    self.home.park_behind(delivery);
                }
                Some(shard) if !(self.home.key_order && shard.is_overtaken(offset)) => {
                    shard.deliver(offset, 1);
                    kept.push(delivery);
                }
                _ => {
                    drop(state);
                    self.home.release(delivery.receipt);
                }
            }
        }
        kept
    }

    fn event(&mut self, event: Event) -> Result<Arrival> {
        match event {
            Event::Assigned(shard) => Ok(Arrival::Assigned(shard)),
            Event::Revoking(shard, time) => Ok(Arrival::Revoking(shard, time)),
            Event::Lost(shard) => Ok(Arrival::Lost(shard)),
            Event::End => {
                self.ended = true;
                match self.home.shared.check_alive() {
                    Err(error) if error.kind() != Kind::Closed => Err(error),
                    _ => Ok(Arrival::End),
                }
            }
        }
    }
}

/// The messages of a run, each with its own receipt.
fn singles(chunk: &Chunk, receipt: Receipt) -> Vec<Delivery> {
    let mut rest = Some(receipt);
    let one = |item: strait_core::Item<'_>| {
        let mut receipt = rest.take()?;
        let receipt = match receipt.split_first() {
            Some(first) => {
                rest = Some(receipt);
                first
            }
            None => receipt,
        };
        Some(Delivery {
            message: item.to_message(),
            attempt: 1,
            last_error: None,
            receipt,
        })
    };
    chunk.iter().map_while(one).collect()
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
                if let Ok(Some(granted)) = answer
                    && let Err(error) = self.take(granted)
                    // Without its topic the group is gone too, which is what the member is told. And retention removes
                    // only what is not leased: the grant was lost before it was read.
                    && !error.is(codes::NO_SUCH_TOPIC)
                    && !error.is(codes::OFFSET_GONE)
                {
                    return Poll::Ready(Err(error));
                }
            }
            match self.look(cx) {
                Look::Event(event) => return Poll::Ready(self.event(event)),
                Look::Fetch => self.fetch(items, bytes),
                Look::Wait => {
                    let held = self.held.len();
                    match self.hand_over() {
                        Some(arrival) => return Poll::Ready(Ok(arrival)),
                        // All of it went back, and there is room for more.
                        None if held > 0 => {}
                        None => return Poll::Pending,
                    }
                }
            }
        }
    }
}
