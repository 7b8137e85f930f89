//! What the parts of a served connection share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use strait_core::events::Events;
use strait_core::{Engine, Error, Result, Unit, Verdict};
use tokio::sync::Notify;

use super::member::Member;
use super::receipts::Receipts;
use crate::frame::kind;
use crate::outbox::Outbox;
use crate::wire::Out;

/// The shortest silence after which a member is given up, however short its leases are.
const SILENCE_LEAST: Duration = Duration::from_millis(250);

/// A served connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) engine: Arc<dyn Engine>,
    events: Option<Arc<dyn Events>>,
    pub(super) outbox: Outbox,
    pub(super) receipts: Mutex<Receipts>,
    /// Held while an arrival is taken and sent, and while an answer is sent: what a consumer was given before the engine
    /// knew the outcome of a commit arrives before that outcome, so that the peer can tell.
    pub(super) order: Mutex<()>,
    members: Mutex<Members>,
    /// Told when a consumer is gone.
    gone: Notify,
}

#[derive(Debug, Default)]
struct Members {
    open: BTreeMap<u64, Arc<Member>>,
    over: bool,
}

impl Conn {
    pub(super) fn new(engine: Arc<dyn Engine>) -> Self {
        Conn {
            events: engine.lanes().events,
            engine,
            outbox: Outbox::default(),
            receipts: Mutex::default(),
            order: Mutex::default(),
            members: Mutex::default(),
            gone: Notify::new(),
        }
    }

    /// The events lane.
    pub(super) fn events(&self) -> Result<&Arc<dyn Events>> {
        let missing = || Error::unsupported("the events lane", "use an engine that offers it");
        self.events.as_ref().ok_or_else(missing)
    }

    /// Tells the peer when the engine's health changes; ends with the engine.
    pub(super) async fn tell_health(&self) {
        let mut health = self.engine.health();
        while health.changed().await.is_ok() {
            let now = health.borrow_and_update().clone();
            self.outbox.push(kind::HEALTH, 0, Out::of(&now));
        }
        std::future::pending::<()>().await;
    }

    /// Answers a request.
    pub(super) fn answer(&self, id: u64, answer: Out) {
        let _order = self.order.lock();
        self.outbox.push(kind::ANSWER, id, answer);
    }

    /// A consumer of this connection.
    pub(super) fn member(&self, consumer: u64) -> Option<Arc<Member>> {
        self.members.lock().open.get(&consumer).cloned()
    }

    /// Keeps a consumer. `false` when the connection is over or ends soon.
    pub(super) fn admit(&self, consumer: u64, member: Arc<Member>) -> bool {
        let mut members = self.members.lock();
        if !members.over {
            members.open.insert(consumer, member);
        }
        !members.over
    }

    /// A consumer is over; its receipts are abandoned by the engine.
    pub(super) fn leave(&self, consumer: u64) {
        let member = self.members.lock().open.remove(&consumer);
        if let Some(member) = member {
            self.part(consumer, &member);
        }
    }

    /// A consumer leaves in order, after it has received so many arrivals: what else was sent is released, with no attempt
    /// spent.
    pub(super) fn leave_after(&self, consumer: u64, received: u64) {
        let Some(member) = self.member(consumer) else {
            return;
        };
        let _order = self.order.lock();
        let unseen = member.stop(received);
        let units: Vec<Unit> = {
            let mut receipts = self.receipts.lock();
            let receipts = unseen.into_iter().filter_map(|fence| receipts.take(fence));
            receipts
                .map(|receipt| Unit::settle(receipt, Verdict::Release))
                .collect()
        };
        if !units.is_empty() {
            // Once polled it runs to its end; nobody waits for it.
            let _ = self.engine.commit(units).now_or_never();
        }
        self.leave(consumer);
    }

    /// All of them leave, and nobody joins any more.
    pub(super) fn leave_all(&self) {
        let mut members = self.members.lock();
        members.over = true;
        let open = std::mem::take(&mut members.open);
        drop(members);
        for (consumer, member) in open {
            self.part(consumer, &member);
        }
    }

    fn part(&self, consumer: u64, member: &Member) {
        member.leave();
        // The engine abandons what a leaving member has out; here they only end.
        for receipt in self.receipts.lock().take_all(consumer, None) {
            receipt.settle();
        }
        self.gone.notify_waiters();
    }

    /// Nobody joins any more: who joined while the others leave would be told of nothing.
    pub(super) fn shut(&self) {
        self.members.lock().over = true;
    }

    /// Whether there are consumers.
    pub(super) fn has_members(&self) -> bool {
        !self.members.lock().open.is_empty()
    }

    /// Waits until there are none.
    pub(super) async fn all_left(&self) {
        loop {
            let gone = self.gone.notified();
            if !self.has_members() {
                return;
            }
            gone.await;
        }
    }

    /// How long the peer may be silent: the shortest lease of its consumers. A process that is stopped would otherwise
    /// keep its partitions for ever. `None` without consumers.
    pub(super) fn silence(&self) -> Option<Duration> {
        let members = self.members.lock();
        let shortest = members.open.values().map(|member| member.lease).min()?;
        Some(shortest.max(SILENCE_LEAST))
    }
}
