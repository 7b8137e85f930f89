//! A consumer of a connection: its arrivals are pushed as far as the peer has granted.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use futures_util::future::{AbortHandle, abortable};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use strait_core::{Arrival, Consumer, Control, Delivery, Fence, Result};

use super::conn::Conn;
use crate::frame::kind;
use crate::wire::{Deliveries, Out, WireArrival};

/// The control side of a consumer, and its credit.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) control: Arc<dyn Control>,
    pub(super) lease: Duration,
    credit: Mutex<Credit>,
    sent: Mutex<Sent>,
    granted: AtomicWaker,
    pump: AbortHandle,
}

/// What was sent and is not known to have arrived. Bounded by the credit: each grant says what has arrived.
#[derive(Debug, Default)]
struct Sent {
    /// Arrivals sent so far.
    count: u64,
    /// The receipts of those that are not known to have arrived, by the number of the arrival.
    receipts: VecDeque<(u64, Fence)>,
    /// Nothing more is sent.
    stopped: bool,
}

impl Sent {
    /// An arrival is sent.
    fn note(&mut self, arrival: &WireArrival) {
        self.count += 1;
        let number = self.count;
        match arrival {
            WireArrival::Each(each) => {
                let fences = each.0.iter().map(|(_, _, _, fence)| (number, *fence));
                self.receipts.extend(fences);
            }
            WireArrival::Run(_, fence) => self.receipts.push_back((number, *fence)),
            _ => {}
        }
    }

    /// So many arrivals have arrived.
    fn arrived(&mut self, received: u64) {
        while self
            .receipts
            .pop_front_if(|(number, _)| *number <= received)
            .is_some()
        {}
    }
}

/// What the peer takes still. Below zero when an arrival was larger.
#[derive(Debug, Default, Clone, Copy)]
struct Credit {
    items: i64,
    bytes: i64,
}

impl Member {
    /// The peer has received so many arrivals, and takes so much more.
    pub(super) fn grant(&self, received: u64, items: u64, bytes: u64) {
        self.sent.lock().arrived(received);
        let clamp = |more: u64| i64::try_from(more).unwrap_or(i64::MAX);
        let mut credit = self.credit.lock();
        credit.items = credit.items.saturating_add(clamp(items));
        credit.bytes = credit.bytes.saturating_add(clamp(bytes));
        drop(credit);
        self.granted.wake();
    }

    /// Nothing more is sent; gives the receipts of what had not arrived when the peer had received so many arrivals.
    pub(super) fn stop(&self, received: u64) -> Vec<Fence> {
        let mut sent = self.sent.lock();
        sent.arrived(received);
        sent.stopped = true;
        sent.receipts.drain(..).map(|(_, fence)| fence).collect()
    }

    /// Leaves the group.
    pub(super) fn leave(&self) {
        self.control.leave();
        self.pump.abort();
    }
}

/// Serves a consumer on a task of its own; gives its id.
pub(super) fn open(conn: &Arc<Conn>, consumer: Consumer, lease: Duration) -> u64 {
    let id = consumer.id;
    // The task is spawned only after the member is known: it needs its credit.
    let (ready, started) = tokio::sync::oneshot::channel::<Arc<Member>>();
    let pumped = conn.clone();
    let control = consumer.control.clone();
    let (task, pump) = abortable(async move {
        if let Ok(member) = started.await {
            self::pump(pumped, member, consumer).await;
        }
    });
    let member = Arc::new(Member {
        control,
        lease,
        credit: Mutex::default(),
        sent: Mutex::default(),
        granted: AtomicWaker::new(),
        pump,
    });
    if conn.admit(id, member.clone()) {
        // Received by the task below.
        let _ = ready.send(member);
        tokio::spawn(task);
    }
    id
}

/// Pushes until the consumer ends. Dropping it leaves the group.
async fn pump(conn: Arc<Conn>, member: Arc<Member>, mut consumer: Consumer) {
    loop {
        conn.outbox.room().await;
        let last = poll_fn(|cx| {
            member.granted.register(cx.waker());
            let credit = *member.credit.lock();
            if credit.items <= 0 || credit.bytes <= 0 {
                return Poll::Pending;
            }
            let (items, bytes) = (credit.items as usize, credit.bytes as usize);
            // Taken and sent in one: see `Conn::order`.
            let _order = conn.order.lock();
            if member.sent.lock().stopped {
                return Poll::Pending;
            }
            let arrival = ready!(consumer.source.poll_next(cx, items, bytes));
            Poll::Ready(push(&conn, &member, consumer.id, arrival))
        });
        if last.await {
            break;
        }
    }
    conn.leave(consumer.id);
}

/// Sends an arrival; `true` when it is the last one.
fn push(conn: &Conn, member: &Member, consumer: u64, arrival: Result<Arrival>) -> bool {
    let arrival = match arrival {
        Ok(arrival) => arrival,
        Err(error) => {
            conn.outbox.push(kind::FAILED, consumer, Out::of(&error));
            return true;
        }
    };
    let wire = match arrival {
        Arrival::Each(each) => {
            let mut receipts = conn.receipts.lock();
            let out = |delivery: Delivery| {
                let fence = delivery.receipt.fence();
                receipts.put(delivery.receipt);
                (
                    delivery.message,
                    delivery.attempt,
                    delivery.last_error,
                    fence,
                )
            };
            WireArrival::Each(Deliveries(each.into_iter().map(out).collect()))
        }
        Arrival::Run(chunk, receipt) => {
            let fence = receipt.fence();
            conn.receipts.lock().put(receipt);
            WireArrival::Run(chunk, fence)
        }
        Arrival::Assigned(shard) => WireArrival::Assigned(shard),
        Arrival::Revoking(shard, within) => WireArrival::Revoking(shard, within),
        Arrival::Lost(shard) => {
            for receipt in conn.receipts.lock().take_all(consumer, Some(shard)) {
                receipt.settle();
            }
            WireArrival::Lost(shard)
        }
        Arrival::End => WireArrival::End,
    };
    member.sent.lock().note(&wire);
    let payload = Out::of(&wire);
    let items = wire.items() as i64;
    if items > 0 {
        let mut credit = member.credit.lock();
        credit.items -= items;
        credit.bytes -= payload.len() as i64;
    }
    conn.outbox.push(kind::ARRIVAL, consumer, payload);
    matches!(wire, WireArrival::End)
}
