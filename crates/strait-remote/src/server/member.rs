//! A consumer of a connection: its arrivals are pushed as far as the peer has granted.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{AbortHandle, abortable};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use strait_core::{Arrival, Consumer, Control, Delivery, Result};

use super::conn::Conn;
use crate::frame::kind;
use crate::wire::{Deliveries, Out, WireArrival};

/// The control side of a consumer, and its credit.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) control: Arc<dyn Control>,
    pub(super) lease: Duration,
    credit: Mutex<Credit>,
    granted: AtomicWaker,
    pump: AbortHandle,
}

/// What the peer takes still. Below zero when an arrival was larger.
#[derive(Debug, Default, Clone, Copy)]
struct Credit {
    items: i64,
    bytes: i64,
}

impl Member {
    /// The peer takes so much more.
    pub(super) fn grant(&self, items: u64, bytes: u64) {
        let clamp = |more: u64| i64::try_from(more).unwrap_or(i64::MAX);
        let mut credit = self.credit.lock();
        credit.items = credit.items.saturating_add(clamp(items));
        credit.bytes = credit.bytes.saturating_add(clamp(bytes));
        drop(credit);
        self.granted.wake();
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
        let arrival = poll_fn(|cx| {
            member.granted.register(cx.waker());
            let credit = *member.credit.lock();
            if credit.items <= 0 || credit.bytes <= 0 {
                return Poll::Pending;
            }
            let (items, bytes) = (credit.items as usize, credit.bytes as usize);
            consumer.source.poll_next(cx, items, bytes)
        })
        .await;
        if push(&conn, &member, consumer.id, arrival) {
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
