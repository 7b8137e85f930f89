//! One connection as the calls see it: requests that wait for their answers, consumers that wait for arrivals.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use strait_core::{Abandoned, Effect, Error, Fence, Health, Kind, Result, codes};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::Instant;

use super::consumer::Inbox;
use crate::frame::{kind, word};
use crate::hello::Welcome;
use crate::outbox::Outbox;
use crate::wire::{Out, Wire, read};

/// Payload bytes of appends and commits that may wait for their answers; more wait to be sent. In KiB.
const IN_FLIGHT_KIB: usize = 64 << 10;

/// What a lost connection means for a request that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effects {
    /// It changes nothing that outlives the connection.
    None,
    /// It may have happened; sending it again is safe.
    Repeatable,
    /// It may have happened; sending it again may do it twice.
    Once,
}

/// Takes the answer's payload, or why there is none.
pub(crate) type Reply = Box<dyn FnOnce(Result<Bytes>) + Send>;

struct Pending {
    kind: u8,
    effects: Effects,
    reply: Reply,
}

/// Why a connection is over.
#[derive(Debug, Clone)]
enum Over {
    Lost(Arc<str>),
    Closed,
}

impl Over {
    /// The error for what was not sent.
    fn error(&self) -> Error {
        match self {
            Over::Lost(why) => lost(why),
            Over::Closed => Error::closed("the connection"),
        }
    }

    fn why(&self) -> &str {
        match self {
            Over::Lost(why) => why,
            Over::Closed => "it was closed",
        }
    }
}

/// The error for a lost connection, where nothing was changed.
fn lost(why: &str) -> Error {
    Error::new(
        Kind::Unavailable,
        format!("the connection to the engine's owner was lost: {why}"),
    )
    .next("connect again")
}

#[derive(Default)]
struct State {
    last_id: u64,
    pending: HashMap<u64, Pending>,
    inboxes: HashMap<u64, Arc<Inbox>>,
    /// It is being closed: no consumer begins any more.
    closing: bool,
    over: Option<Over>,
}

/// A connection.
pub(crate) struct Link {
    pub(crate) welcome: Welcome,
    pub(crate) outbox: Outbox,
    pub(crate) health: watch::Sender<Health>,
    /// The runtime of the connection's own thread.
    pub(crate) runtime: Handle,
    /// Told when there is something to wait for, so that silence matters.
    pub(crate) expecting: Notify,
    state: Mutex<State>,
    in_flight: Arc<Semaphore>,
    start: Instant,
    /// When the peer was last heard, in milliseconds since `start`.
    heard: AtomicU64,
    done: watch::Sender<bool>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link(to {})", self.welcome.process)
    }
}

impl Link {
    /// For the thread that runs the connection.
    pub(crate) fn new(welcome: Welcome) -> Arc<Self> {
        Arc::new(Link {
            health: watch::Sender::new(welcome.health.clone()),
            welcome,
            outbox: Outbox::default(),
            runtime: Handle::current(),
            expecting: Notify::new(),
            state: Mutex::default(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_KIB)),
            start: Instant::now(),
            heard: AtomicU64::new(0),
            done: watch::Sender::new(false),
        })
    }

    /// Sends a request; `reply` is called exactly once, from any thread. Gives its id, unless it was refused at once.
    pub(crate) fn request(
        &self,
        kind: u8,
        effects: Effects,
        payload: Out,
        reply: Reply,
    ) -> Option<u64> {
        let limit = self.welcome.payload_max as usize;
        if payload.len() > limit {
            reply(Err(too_large(payload.len(), limit)));
            return None;
        }
        let mut state = self.state.lock();
        if let Some(over) = &state.over {
            let error = over.error().during(word(kind).unwrap_or_default());
            drop(state);
            reply(Err(error));
            return None;
        }
        state.last_id += 1;
        let id = state.last_id;
        let first = state.pending.is_empty();
        let pending = Pending {
            kind,
            effects,
            reply,
        };
        state.pending.insert(id, pending);
        drop(state);
        self.outbox.push(kind, id, payload);
        if first {
            self.expecting.notify_one();
        }
        Some(id)
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call<T: Wire>(
        self: Arc<Self>,
        kind: u8,
        effects: Effects,
        payload: Out,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let id = self.request(
            kind,
            effects,
            payload,
            Box::new(move |payload| {
                // Nobody listens when the call was dropped meanwhile.
                let _ = answer.send(payload);
            }),
        );
        let mut cancel = CancelOnDrop {
            link: &self,
            id: id.filter(|_| matches!(kind, kind::READ | kind::CLAIM)),
        };
        let payload = answered.await;
        cancel.id = None;
        match payload {
            Ok(payload) => read::<Result<T>>(payload?)?,
            Err(_) => Err(lost("the request was dropped")),
        }
    }

    /// Waits until the bytes of this payload may be on their way; the permit goes with the reply.
    pub(crate) async fn permit(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        // Closed means that the connection is over: the request itself says so.
        self.in_flight
            .clone()
            .acquire_many_owned(kib(bytes))
            .await
            .ok()
    }

    /// The same without waiting: `None` where one must wait.
    pub(crate) fn try_permit(&self, bytes: usize) -> Option<Option<OwnedSemaphorePermit>> {
        match self.in_flight.clone().try_acquire_many_owned(kib(bytes)) {
            Ok(permit) => Some(Some(permit)),
            Err(tokio::sync::TryAcquireError::Closed) => Some(None),
            Err(tokio::sync::TryAcquireError::NoPermits) => None,
        }
    }

    /// An answer came.
    pub(crate) fn answered(&self, id: u64, payload: Bytes) {
        let pending = self.state.lock().pending.remove(&id);
        // Without one the call was cancelled while its answer was on the way.
        if let Some(pending) = pending {
            (pending.reply)(Ok(payload));
        }
    }

    /// The peer was heard.
    pub(crate) fn hears(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.heard.store(now, Ordering::Relaxed);
    }

    /// For how long the peer was silent.
    pub(crate) fn silent_for(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(heard)
    }

    /// Whether anybody waits for the peer.
    pub(crate) fn expects(&self) -> bool {
        let state = self.state.lock();
        !state.pending.is_empty() || !state.inboxes.is_empty()
    }

    /// Registers a consumer. `Err` when the connection is over or being closed.
    pub(crate) fn open(&self, inbox: Arc<Inbox>) -> Result<()> {
        let mut state = self.state.lock();
        if let Some(over) = &state.over {
            return Err(over.error());
        }
        if state.closing {
            return Err(Over::Closed.error());
        }
        state.inboxes.insert(inbox.consumer, inbox);
        drop(state);
        self.expecting.notify_one();
        Ok(())
    }

    /// The inbox of a consumer.
    pub(crate) fn inbox(&self, consumer: u64) -> Option<Arc<Inbox>> {
        self.state.lock().inboxes.get(&consumer).cloned()
    }

    /// Forgets a consumer; `false` when it was forgotten before.
    pub(crate) fn forget(&self, consumer: u64) -> bool {
        self.state.lock().inboxes.remove(&consumer).is_some()
    }

    /// Tells the server of a receipt that was dropped; `then` is called when it knows.
    pub(crate) fn abandon(&self, fence: Fence, then: impl FnOnce() + Send + 'static) {
        let reply = Box::new(move |_| then());
        self.request(kind::ABANDON, Effects::None, Out::of(&fence), reply);
    }

    /// All consumers.
    pub(crate) fn consumers(&self) -> Vec<Arc<Inbox>> {
        self.state.lock().inboxes.values().cloned().collect()
    }

    /// Begins to close: gives the consumers, which leave; no other one begins.
    pub(crate) fn begin_close(&self) -> Vec<Arc<Inbox>> {
        self.state.lock().closing = true;
        self.consumers()
    }

    /// The connection is lost: everybody who waits is told.
    pub(crate) fn lose(&self, why: &str) {
        let why: Arc<str> = why.into();
        self.end(Over::Lost(why.clone()), Health::Down(why));
    }

    /// Closes the connection after what was put into the outbox.
    pub(crate) fn close(&self) {
        self.end(Over::Closed, Health::Ended("it was closed".into()));
    }

    fn end(&self, over: Over, health: Health) {
        let mut state = self.state.lock();
        if state.over.is_some() {
            return;
        }
        state.over = Some(over.clone());
        let pending = std::mem::take(&mut state.pending);
        let inboxes = std::mem::take(&mut state.inboxes);
        drop(state);
        // Health first: whoever sees an error can see why.
        self.health.send_replace(health);
        self.in_flight.close();
        self.outbox.close();
        self.expecting.notify_one();
        // In the order in which they asked.
        let mut pending: Vec<(u64, Pending)> = pending.into_iter().collect();
        pending.sort_unstable_by_key(|(id, _)| *id);
        for (_, pending) in pending {
            (pending.reply)(Err(pending.effects.error(pending.kind, &over)));
        }
        let mut inboxes: Vec<Arc<Inbox>> = inboxes.into_values().collect();
        inboxes.sort_unstable_by_key(|inbox| inbox.consumer);
        for inbox in inboxes {
            inbox.fail(over.error());
        }
    }

    /// The thread of the connection has nothing more to do.
    pub(crate) fn finish(&self) {
        self.done.send_replace(true);
    }

    /// Waits for that.
    pub(crate) async fn finished(&self) {
        // The sender lives as long as `self`.
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }

    /// Waits until no request is pending.
    pub(crate) async fn quiet(&self) {
        // Rare and short: only a close waits for it.
        while !self.state.lock().pending.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Effects {
    /// Whether the request may be made again after this error.
    pub(crate) fn allow(self, error: &Error) -> bool {
        self != Effects::Once || error.effect() == Effect::NotDone
    }

    /// The error for a request whose answer will not come.
    fn error(self, kind: u8, over: &Over) -> Error {
        let operation = word(kind).unwrap_or_default();
        if self == Effects::None {
            return over.error().during(operation);
        }
        let why = over.why();
        let text =
            format!("the connection ended before the answer came ({why}): it may have happened");
        let error = Error::new(Kind::Unavailable, text)
            .code(codes::UNKNOWN_OUTCOME)
            .during(operation)
            .unknown();
        if self == Effects::Repeatable {
            error.next("do it again: a repetition is recognized")
        } else {
            error.retry(false).next("find out whether it happened before doing it again; appends with `dedupe` can be repeated")
        }
    }
}

fn kib(bytes: usize) -> u32 {
    bytes.div_ceil(1024).clamp(1, IN_FLIGHT_KIB) as u32
}

/// The error for a request that does not fit a frame.
pub(crate) fn too_large(len: usize, limit: usize) -> Error {
    Error::new(
        Kind::Rejected,
        format!("the request is too large for the connection: {len} bytes, the limit is {limit}"),
    )
    .code(codes::TOO_LARGE)
    .next("send less at once")
}

/// Tells the server that nobody waits any more.
struct CancelOnDrop<'a> {
    link: &'a Link,
    id: Option<u64>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let pending = self.link.state.lock().pending.remove(&id);
        if pending.is_some() {
            self.link.outbox.push(kind::CANCEL, id, Out::default());
        }
    }
}

/// Where the receipts of a connection's deliveries go when they are dropped unsettled.
#[derive(Debug)]
pub(crate) struct Home(pub(crate) std::sync::Weak<Link>);

impl Abandoned for Home {
    fn abandoned(&self, fence: Fence) {
        let Some(link) = self.0.upgrade() else { return };
        // Without one its consumer left, and all its receipts were abandoned with that.
        if let Some(inbox) = link.inbox(fence.consumer) {
            inbox.abandoned(&link, fence);
        }
    }
}
