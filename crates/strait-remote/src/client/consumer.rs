//! A consumer on the client's side: arrivals are pushed by the server as far as the polls have granted.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, ReentrantMutex};
use strait_core::events::{GroupSpec, Order};
use strait_core::{
    Abandoned, Arrival, Chunk, Control, Delivery, Error, Fence, Fut, Position, Receipt, Result,
    Shard, Source, Span, Unit, Verdict,
};
use tokio::sync::Notify;

use super::link::{Effects, Home, Link};
use super::{Client, units};
use crate::frame::kind;
use crate::wire::{Extend, Out, Wire, WireArrival};

/// What arrived for a consumer and was not taken yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) consumer: u64,
    lease: Duration,
    order: Order,
    /// Held from the look at the state until what follows from it is in the outbox: what goes back is said before the
    /// consumer leaves, or it would count as seen. Reentrant, because a connection that is over answers at once.
    saying: ReentrantMutex<()>,
    state: Mutex<State>,
    waker: AtomicWaker,
    /// Told when something arrives: leases of what waits here are extended.
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Arrival>,
    /// Arrivals received so far: the server knows by it what nobody has seen.
    received: u64,
    /// Granted and not used yet. Below zero when an arrival was larger than the grant.
    items: i64,
    bytes: i64,
    /// What is on its way back, and was not answered yet.
    barriers: Vec<Barrier>,
    last_barrier: u64,
    /// Nothing follows; the error once, if there is one.
    over: bool,
    /// Nothing follows but the end of the connection.
    parting: bool,
    error: Option<Error>,
}

/// Messages of a shard from a position on are on their way back to the engine. What the server gave out before it learned
/// of that may have their keys and would overtake them: it goes back as well.
#[derive(Debug)]
struct Barrier {
    token: u64,
    shard: Shard,
    from: Position,
}

impl Inbox {
    pub(crate) fn new(consumer: u64, group: &GroupSpec) -> Arc<Self> {
        Arc::new(Inbox {
            consumer,
            lease: group.lease,
            order: group.order,
            saying: ReentrantMutex::new(()),
            state: Mutex::default(),
            waker: AtomicWaker::new(),
            filled: Notify::new(),
        })
    }

    /// Something arrived, in a payload of `bytes` bytes.
    pub(crate) fn arrive(self: &Arc<Self>, link: &Arc<Link>, arrival: WireArrival, bytes: usize) {
        let items = arrival.items() as i64;
        let arrival = with_receipts(arrival, link);
        let mut back = Vec::new();
        let _saying = self.saying.lock();
        let mut state = self.state.lock();
        if state.over {
            // It left: the server takes back what had not arrived by then.
            drop(state);
            receipts(arrival).into_iter().for_each(settled);
            return;
        }
        state.received += 1;
        if items > 0 {
            state.items -= items;
            state.bytes -= bytes as i64;
        }
        match &arrival {
            // Nobody has seen what waits here: it goes to the next member at once, unspent.
            Arrival::Revoking(shard, _) => back = state.take_shard(*shard, None),
            Arrival::Lost(shard) => state.take_shard(*shard, None).into_iter().for_each(settled),
            Arrival::End => state.over = true,
            _ => {}
        }
        let overtakes = state.overtakes(&arrival);
        if !matches!(arrival, Arrival::End) {
            state.queue.push_back(arrival);
        }
        // In the same breath: a poll on another thread must not see what goes back.
        let overtaking = overtakes.and_then(|(shard, from)| state.call_back(shard, from));
        drop(state);
        release(link, back, None);
        self.send_back(link, overtaking);
        self.waker.wake();
        self.filled.notify_one();
    }

    /// The input failed, or the connection is over: what waits here is fenced.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.state.lock();
        let lost = std::mem::take(&mut state.queue);
        state.over = true;
        state.parting = false;
        state.error = Some(error);
        drop(state);
        lost.into_iter().flat_map(receipts).for_each(settled);
        self.waker.wake();
        self.filled.notify_one();
    }

    /// A message at `from` or behind was not handled and comes again. What waits here and lies behind it may have its key,
    /// and was given before that was known: it goes back, and comes in order. The member itself does the same with what
    /// it holds.
    pub(crate) fn put_back(self: &Arc<Self>, link: &Arc<Link>, shard: Shard, from: Position) {
        if self.order == Order::Free {
            return;
        }
        let _saying = self.saying.lock();
        let back = self.state.lock().call_back(shard, from);
        self.send_back(link, back);
    }

    fn send_back(self: &Arc<Self>, link: &Arc<Link>, back: Option<CalledBack>) {
        if let Some(CalledBack { receipts, token }) = back {
            let inbox = self.clone();
            release(link, receipts, Some(Arc::new(move || inbox.unbar(token))));
        }
    }

    /// A receipt was dropped: its messages come again as soon as the server knows.
    pub(crate) fn abandoned(self: &Arc<Self>, link: &Arc<Link>, fence: Fence) {
        if self.order == Order::Free {
            link.abandon(fence, || ());
            return;
        }
        let _saying = self.saying.lock();
        let mut state = self.state.lock();
        let token = state.bar(fence.shard, fence.first);
        let back = state.call_back(fence.shard, fence.first);
        drop(state);
        let inbox = self.clone();
        link.abandon(fence, move || inbox.unbar(token));
        self.send_back(link, back);
    }

    fn unbar(&self, token: u64) {
        let mut state = self.state.lock();
        state.barriers.retain(|barrier| barrier.token != token);
        let open = state.barriers.is_empty();
        drop(state);
        if open {
            // Credit may be granted again.
            self.waker.wake();
        }
    }

    /// Leaves the group. What waits here was seen by nobody and is released first.
    pub(crate) fn leave(&self, link: &Arc<Link>) {
        let _saying = self.saying.lock();
        let mut state = self.state.lock();
        let parted = state.part();
        state.parting = false;
        drop(state);
        self.waker.wake();
        self.filled.notify_one();
        if link.forget(self.consumer)
            && let Some(parted) = parted
        {
            parted.tell(self.consumer, link);
        }
    }

    /// The server ends the connection soon: leaves the group, and waits for that end, which the source reports.
    pub(crate) fn part(&self, link: &Arc<Link>) {
        let _saying = self.saying.lock();
        let mut state = self.state.lock();
        let parted = state.part();
        state.parting = parted.is_some();
        drop(state);
        if let Some(parted) = parted {
            parted.tell(self.consumer, link);
        }
    }

    /// Keeps the leases of what waits here while the member is busy with what it took before.
    pub(crate) async fn keep_leases(self: Arc<Self>, link: Weak<Link>) {
        loop {
            self.filled.notified().await;
            loop {
                tokio::time::sleep(self.lease / 3).await;
                let Some(link) = link.upgrade() else { return };
                let (fences, over) = self.state.lock().fences();
                if over {
                    return;
                }
                if fences.is_empty() {
                    break;
                }
                let by = self.lease;
                let payload = Out::of(&Extend { fences, by });
                // A lease that is lost shows when the message is settled.
                link.request(kind::EXTEND, Effects::None, payload, Box::new(|_| ()));
            }
        }
    }
}

/// What a consumer says when it leaves.
struct Parted {
    /// What nobody has seen.
    unseen: Vec<Receipt>,
    /// Arrivals received.
    received: u64,
}

impl Parted {
    fn tell(self, consumer: u64, link: &Arc<Link>) {
        release(link, self.unseen, None);
        link.outbox
            .push(kind::LEAVE, consumer, Out::of(&self.received));
    }
}

/// What goes back, and the barrier for as long as it is on its way.
struct CalledBack {
    receipts: Vec<Receipt>,
    token: u64,
}

impl State {
    /// Takes nothing more, and gives what to say about it; `None` when it was over before.
    fn part(&mut self) -> Option<Parted> {
        if std::mem::replace(&mut self.over, true) {
            return None;
        }
        let queue = std::mem::take(&mut self.queue);
        Some(Parted {
            unseen: queue.into_iter().flat_map(receipts).collect(),
            received: self.received,
        })
    }

    /// Takes what waits of a shard from a position on, and begins the barrier. `None` when there is nothing.
    fn call_back(&mut self, shard: Shard, from: Position) -> Option<CalledBack> {
        let receipts = self.take_shard(shard, Some(from));
        let first = receipts.iter().map(|receipt| receipt.fence().first).min()?;
        let token = self.bar(shard, first);
        Some(CalledBack { receipts, token })
    }

    /// Begins a barrier; gives its token.
    fn bar(&mut self, shard: Shard, from: Position) -> u64 {
        self.last_barrier += 1;
        let token = self.last_barrier;
        self.barriers.push(Barrier { token, shard, from });
        token
    }

    /// The first place from which on an arrival overtakes what is on its way back.
    fn overtakes(&self, arrival: &Arrival) -> Option<(Shard, Position)> {
        if self.barriers.is_empty() {
            return None;
        }
        let fences = fences(arrival);
        let barred = |fence: &Fence, barrier: &Barrier| {
            barrier.shard == fence.shard && fence.end() > barrier.from
        };
        let first = fences
            .iter()
            .find(|fence| self.barriers.iter().any(|b| barred(fence, b)))?;
        let of_shard = self
            .barriers
            .iter()
            .filter(|barrier| barrier.shard == first.shard);
        let from = of_shard.map(|barrier| barrier.from).min()?;
        Some((first.shard, from))
    }

    /// Takes the receipts of a shard (those from a position on) out of what waits; arrivals that are empty then are gone.
    fn take_shard(&mut self, shard: Shard, from: Option<Position>) -> Vec<Receipt> {
        let is = |receipt: &Receipt| {
            let fence = receipt.fence();
            fence.shard == shard && from.is_none_or(|from| fence.end() > from)
        };
        let mut taken = Vec::new();
        for arrival in std::mem::take(&mut self.queue) {
            match arrival {
                Arrival::Run(_, receipt) if is(&receipt) => taken.push(receipt),
                Arrival::Each(each) => {
                    let (of, others): (Vec<_>, Vec<_>) =
                        each.into_iter().partition(|delivery| is(&delivery.receipt));
                    taken.extend(of.into_iter().map(|delivery| delivery.receipt));
                    if !others.is_empty() {
                        self.queue.push_back(Arrival::Each(others));
                    }
                }
                other => self.queue.push_back(other),
            }
        }
        taken
    }

    /// What to grant beyond what is out, so that so many items and bytes can come. Nothing while at least half of it is
    /// out: credit does not cost a frame per arrival.
    fn grant(&mut self, items: usize, bytes: usize) -> Option<(u64, u64)> {
        if !self.barriers.is_empty() {
            // More would only go back as well.
            return None;
        }
        let most = |wanted: usize| i64::try_from(wanted).unwrap_or(i64::MAX).min(1 << 40);
        let (items, bytes) = (most(items), most(bytes));
        if self.items >= (items + 1) / 2 && self.bytes >= (bytes + 1) / 2 {
            return None;
        }
        let more = ((items - self.items).max(0), (bytes - self.bytes).max(0));
        self.items += more.0;
        self.bytes += more.1;
        Some((more.0 as u64, more.1 as u64))
    }

    fn fences(&self) -> (Vec<Fence>, bool) {
        (self.queue.iter().flat_map(fences).collect(), self.over)
    }
}

fn fences(arrival: &Arrival) -> Vec<Fence> {
    match arrival {
        Arrival::Run(_, receipt) => vec![receipt.fence()],
        Arrival::Each(each) => each.iter().map(|d| d.receipt.fence()).collect(),
        _ => Vec::new(),
    }
}

/// Ends a receipt that is fenced, or not ours any more, without abandoning it.
fn settled(receipt: Receipt) {
    receipt.settle();
}

fn receipts(arrival: Arrival) -> Vec<Receipt> {
    match arrival {
        Arrival::Run(_, receipt) => vec![receipt],
        Arrival::Each(each) => each.into_iter().map(|delivery| delivery.receipt).collect(),
        _ => Vec::new(),
    }
}

/// Hands messages back that nobody has seen: no attempt is spent. `then` is called when the server has done it.
fn release(link: &Arc<Link>, receipts: Vec<Receipt>, then: Option<units::Then>) {
    if receipts.is_empty() {
        return;
    }
    let unit = |receipt| Unit::settle(receipt, Verdict::Release);
    let units = receipts.into_iter().map(unit).collect();
    // Whatever becomes of it, the messages come back: at once, or when their leases end.
    drop(units::send(link, units, then));
}

fn with_receipts(arrival: WireArrival, link: &Arc<Link>) -> Arrival {
    let home: Arc<dyn Abandoned> = Arc::new(Home(Arc::downgrade(link)));
    match arrival {
        WireArrival::Each(each) => {
            let delivery = |(message, attempt, last_error, fence)| Delivery {
                message,
                attempt,
                last_error,
                receipt: Receipt::new(fence, Some(home.clone())),
            };
            Arrival::Each(each.0.into_iter().map(delivery).collect())
        }
        WireArrival::Run(chunk, fence) => Arrival::Run(chunk, Receipt::new(fence, Some(home))),
        WireArrival::Assigned(shard) => Arrival::Assigned(shard),
        WireArrival::Revoking(shard, within) => Arrival::Revoking(shard, within),
        WireArrival::Lost(shard) => Arrival::Lost(shard),
        WireArrival::End => Arrival::End,
    }
}

/// Cuts an arrival at `items` messages, and at about `bytes`: what is given now (at least one message), and what waits for
/// the next poll.
fn cut(arrival: Arrival, items: usize, bytes: usize) -> (Arrival, Option<Arrival>) {
    match arrival {
        Arrival::Each(mut each) => {
            let sizes = each.iter().map(|delivery| delivery.message.record().size());
            let count = fitting(sizes, items, bytes);
            if count == each.len() {
                return (Arrival::Each(each), None);
            }
            let rest = each.split_off(count);
            (Arrival::Each(each), Some(Arrival::Each(rest)))
        }
        Arrival::Run(chunk, mut receipt) => {
            let whole = chunk.len() <= items && chunk.buffer().len() <= bytes;
            let count = match whole {
                true => chunk.len(),
                false => fitting(chunk.iter().map(|item| item.record().size()), items, bytes),
            };
            match receipt.split_at(count as u32) {
                Some(head) => {
                    let (first, rest) = split(&chunk, count as u32);
                    (Arrival::Run(first, head), Some(Arrival::Run(rest, receipt)))
                }
                None => (Arrival::Run(chunk, receipt), None),
            }
        }
        other => (other, None),
    }
}

/// How many of these sizes fit, at least one.
fn fitting(sizes: impl Iterator<Item = usize>, items: usize, bytes: usize) -> usize {
    let mut left = bytes;
    let fits = sizes.take(items).take_while(|size| {
        let fits = *size <= left;
        left = left.saturating_sub(*size);
        fits
    });
    fits.count().max(1)
}

/// The first `count` records of a chunk, and the others.
fn split(chunk: &Chunk, count: u32) -> (Chunk, Chunk) {
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    let mut left = count;
    let mut border = chunk.next();
    for span in chunk.spans() {
        let take = span.take.min(left);
        left -= take;
        let (high, low) = span.first.parts();
        if take > 0 {
            head.push(Span {
                take,
                ..span.clone()
            });
        }
        if take < span.take {
            let first = Position::of_parts(high, low + u64::from(take));
            if tail.is_empty() {
                border = first;
            }
            tail.push(Span {
                first,
                skip: span.skip + take,
                take: span.take - take,
                ..span.clone()
            });
        }
    }
    let of = |spans, next| {
        let (topic, buf) = (chunk.topic().clone(), chunk.buffer().clone());
        Chunk::new(topic, chunk.partition(), buf, spans, next)
    };
    (of(head, border), of(tail, chunk.next()))
}

/// The input side.
#[derive(Debug)]
pub(crate) struct RemoteSource {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) client: Client,
}

impl Source for RemoteSource {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        items: usize,
        bytes: usize,
    ) -> Poll<Result<Arrival>> {
        self.inbox.waker.register(cx.waker());
        let mut state = self.inbox.state.lock();
        let items = items.max(1);
        if let Some(arrival) = state.queue.pop_front() {
            let (now, later) = cut(arrival, items, bytes);
            if let Some(later) = later {
                state.queue.push_front(later);
            }
            return Poll::Ready(Ok(now));
        }
        if let Some(error) = state.error.take() {
            return Poll::Ready(Err(error));
        }
        if state.parting {
            return Poll::Pending;
        }
        if state.over {
            return Poll::Ready(Ok(Arrival::End));
        }
        if let Some(grant) = state.grant(items, bytes.max(1)) {
            let grant = (state.received, grant);
            drop(state);
            let link = &self.client.link;
            link.outbox
                .push(kind::CREDIT, self.inbox.consumer, Out::of(&grant));
        }
        Poll::Pending
    }
}

/// The control side.
#[derive(Debug)]
pub(crate) struct RemoteControl {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) client: Client,
}

impl RemoteControl {
    fn tell(&self, kind: u8, value: &impl Wire) {
        let link = &self.client.link;
        link.outbox.push(kind, self.inbox.consumer, Out::of(value));
    }
}

impl Control for RemoteControl {
    fn extend(&self, fences: Vec<Fence>, by: Duration) -> Fut<Result<Vec<bool>>> {
        let link = self.client.link.clone();
        let payload = Out::of(&Extend {
            fences: fences.clone(),
            by,
        });
        let inbox = self.inbox.clone();
        Box::pin(async move {
            let call = link.clone().call(kind::EXTEND, Effects::None, payload);
            let kept: Vec<bool> = call.await?;
            for (fence, _) in fences.iter().zip(&kept).filter(|(_, kept)| !**kept) {
                inbox.put_back(&link, fence.shard, fence.first);
            }
            Ok(kept)
        })
    }

    fn hold(&self, shard: Shard, held: bool) {
        self.tell(kind::HOLD, &(shard, held));
    }

    fn handed_back(&self, shard: Shard) {
        self.tell(kind::HANDED_BACK, &shard);
    }

    fn leave(&self) {
        self.inbox.leave(&self.client.link);
    }
}
