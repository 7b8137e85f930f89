//! A consumer on the client's side: arrivals are pushed by the server as far as the polls have granted.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use strait_core::{
    Abandoned, Arrival, Chunk, Control, Delivery, Error, Fence, Fut, Position, Receipt, Result,
    Shard, Source, Span, Unit, Verdict,
};
use tokio::sync::Notify;

use super::link::{Effects, Link};
use super::{Client, units};
use crate::frame::kind;
use crate::wire::{Extend, Out, Wire, WireArrival};

/// What arrived for a consumer and was not taken yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) consumer: u64,
    lease: Duration,
    state: Mutex<State>,
    waker: AtomicWaker,
    /// Told when something arrives: leases of what waits here are extended.
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Arrival>,
    /// Granted and not used yet. Below zero when an arrival was larger than the grant.
    items: i64,
    bytes: i64,
    /// Nothing follows; the error once, if there is one.
    over: bool,
    error: Option<Error>,
}

impl Inbox {
    pub(crate) fn new(consumer: u64, lease: Duration) -> Arc<Self> {
        Arc::new(Inbox {
            consumer,
            lease,
            state: Mutex::default(),
            waker: AtomicWaker::new(),
            filled: Notify::new(),
        })
    }

    /// Something arrived, in a payload of `bytes` bytes.
    pub(crate) fn arrive(&self, link: &Arc<Link>, arrival: WireArrival, bytes: usize) {
        let items = arrival.items() as i64;
        let arrival = with_receipts(arrival, link);
        let mut back = Vec::new();
        let mut state = self.state.lock();
        if items > 0 {
            state.items -= items;
            state.bytes -= bytes as i64;
        }
        match &arrival {
            // Nobody has seen what waits here: it goes to the next member at once, unspent.
            Arrival::Revoking(shard, _) => back = state.take_shard(*shard),
            Arrival::Lost(shard) => state.take_shard(*shard).into_iter().for_each(|lost| {
                lost.settle();
            }),
            Arrival::End => state.over = true,
            _ => {}
        }
        if state.over && items > 0 {
            back.extend(receipts(arrival));
        } else if !matches!(arrival, Arrival::End) {
            state.queue.push_back(arrival);
        }
        drop(state);
        release(link, back);
        self.waker.wake();
        self.filled.notify_one();
    }

    /// The input failed, or the connection is over: what waits here is fenced.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.state.lock();
        let lost = std::mem::take(&mut state.queue);
        state.over = true;
        state.error = Some(error);
        drop(state);
        for receipt in lost.into_iter().flat_map(receipts) {
            receipt.settle();
        }
        self.waker.wake();
        self.filled.notify_one();
    }

    /// Leaves the group. What waits here was seen by nobody and is released first.
    pub(crate) fn leave(&self, link: &Arc<Link>) {
        let mut state = self.state.lock();
        let queue = std::mem::take(&mut state.queue);
        let before = std::mem::replace(&mut state.over, true);
        drop(state);
        self.waker.wake();
        self.filled.notify_one();
        if link.inbox(self.consumer).is_some() {
            release(link, queue.into_iter().flat_map(receipts).collect());
            link.forget(self.consumer);
            link.outbox.push(kind::LEAVE, self.consumer, Out::default());
        } else if !before {
            queue.into_iter().flat_map(receipts).for_each(|lost| {
                lost.settle();
            });
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

impl State {
    /// Takes the receipts of a shard out of what waits; arrivals that are empty then are gone.
    fn take_shard(&mut self, shard: Shard) -> Vec<Receipt> {
        let mut taken = Vec::new();
        let queue = std::mem::take(&mut self.queue);
        for arrival in queue {
            match arrival {
                Arrival::Run(_, receipt) if receipt.fence().shard == shard => taken.push(receipt),
                Arrival::Each(each) => {
                    let (of, others): (Vec<_>, Vec<_>) = each
                        .into_iter()
                        .partition(|delivery| delivery.receipt.fence().shard == shard);
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
        let fences = self.queue.iter().flat_map(|arrival| match arrival {
            Arrival::Run(_, receipt) => vec![receipt.fence()],
            Arrival::Each(each) => each.iter().map(|d| d.receipt.fence()).collect(),
            _ => Vec::new(),
        });
        (fences.collect(), self.over)
    }
}

fn receipts(arrival: Arrival) -> Vec<Receipt> {
    match arrival {
        Arrival::Run(_, receipt) => vec![receipt],
        Arrival::Each(each) => each.into_iter().map(|delivery| delivery.receipt).collect(),
        _ => Vec::new(),
    }
}

/// Hands messages back that nobody has seen: no attempt is spent.
fn release(link: &Arc<Link>, receipts: Vec<Receipt>) {
    if receipts.is_empty() {
        return;
    }
    let unit = |receipt| Unit::settle(receipt, Verdict::Release);
    // Whatever becomes of it, the messages come back: at once, or when their leases end.
    drop(units::send(link, receipts.into_iter().map(unit).collect()));
}

fn with_receipts(arrival: WireArrival, link: &Arc<Link>) -> Arrival {
    let home: Arc<dyn Abandoned> = link.clone();
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

/// Cuts an arrival at `items` messages: what is given now, and what waits for the next poll.
fn cut(arrival: Arrival, items: usize) -> (Arrival, Option<Arrival>) {
    match arrival {
        Arrival::Each(mut each) if each.len() > items => {
            let rest = each.split_off(items);
            (Arrival::Each(each), Some(Arrival::Each(rest)))
        }
        Arrival::Run(chunk, mut receipt) if chunk.len() > items => {
            match receipt.split_at(items as u32) {
                Some(head) => {
                    let (first, rest) = split(&chunk, items as u32);
                    (Arrival::Run(first, head), Some(Arrival::Run(rest, receipt)))
                }
                None => (Arrival::Run(chunk, receipt), None),
            }
        }
        whole => (whole, None),
    }
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
            let (now, later) = cut(arrival, items);
            if let Some(later) = later {
                state.queue.push_front(later);
            }
            return Poll::Ready(Ok(now));
        }
        if let Some(error) = state.error.take() {
            return Poll::Ready(Err(error));
        }
        if state.over {
            return Poll::Ready(Ok(Arrival::End));
        }
        if let Some(grant) = state.grant(items, bytes.max(1)) {
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
        let payload = Out::of(&Extend { fences, by });
        Box::pin(link.call(kind::EXTEND, Effects::None, payload))
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
