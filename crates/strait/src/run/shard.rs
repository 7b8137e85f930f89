//! One partition of a consumer: which message is handled next, and what becomes of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use strait_core::{
    Chunk, Control, Delivery, Error, Message as Stored, Once, Outgoing, Position, Receipt, Shard,
    Verdict,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::keys::{Admit, Keys};
use super::settle::{Ends, Settled, Settler};
use super::{ConsumerCx, ShardLeases, Stop};
use crate::handler::BatchSize;

/// Messages that may be kept because their key is busy.
const KEPT: usize = 1024;
/// Messages queued for a shard at which the engine is asked to stop, and to go on again.
const HIGH: usize = 2048;
const LOW: usize = 1024;
/// What commits that are under way get at the end, beyond the time for handlers.
const LAST_COMMITS: std::time::Duration = std::time::Duration::from_secs(2);

/// What the member passes on to a shard.
#[derive(Debug)]
pub(super) enum Input {
    Run(Chunk, Receipt),
    Each(Vec<Delivery>),
}

impl Input {
    pub(super) fn len(&self) -> usize {
        match self {
            Input::Run(chunk, _) => chunk.len(),
            Input::Each(list) => list.len(),
        }
    }
}

/// What the member tells a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Go,
    /// Stop taking, finish within the time, give the rest back.
    Finish(Instant),
    /// It belongs to somebody else.
    Lost,
}

/// The messages that wait in a shard's inbox: bounded by holding the shard.
pub(super) struct Backlog {
    state: Mutex<(usize, bool)>,
    control: Arc<dyn Control>,
    shard: Shard,
}

impl Backlog {
    pub(super) fn new(control: Arc<dyn Control>, shard: Shard) -> Self {
        Backlog {
            state: Mutex::default(),
            control,
            shard,
        }
    }

    pub(super) fn add(&self, count: usize) {
        let mut state = self.state.lock();
        state.0 += count;
        if state.0 >= HIGH && !state.1 {
            state.1 = true;
            self.control.hold(self.shard, true);
        }
    }

    fn remove(&self, count: usize) {
        let mut state = self.state.lock();
        state.0 -= count;
        if state.0 <= LOW && state.1 {
            state.1 = false;
            self.control.hold(self.shard, false);
        }
    }
}

/// What a shard's task works with.
pub(crate) struct ShardCx {
    pub(super) consumer: Arc<ConsumerCx>,
    pub(super) leases: Arc<ShardLeases>,
    pub(super) inbox: mpsc::UnboundedReceiver<Input>,
    pub(super) signal: watch::Receiver<Signal>,
    pub(super) stop: Stop,
    pub(super) backlog: Arc<Backlog>,
    pub(super) permits: Option<Arc<Semaphore>>,
    pub(super) failed: mpsc::UnboundedSender<Error>,
}

/// A message to handle.
pub(super) struct Task {
    pub(super) stored: Stored,
    pub(super) attempt: u32,
    pub(super) last_error: Option<Arc<str>>,
}

/// The right to settle it, kept while the handler has the message.
struct Held {
    receipt: Receipt,
    key: Option<u64>,
    position: Position,
    attempt: u32,
}

struct Item {
    task: Task,
    held: Held,
}

/// What belongs to one handling: of a message, or of a batch. One needs no allocation.
pub(super) struct Few<T> {
    pub(super) first: T,
    pub(super) rest: Vec<T>,
}

impl<T> Few<T> {
    pub(super) fn one(first: T) -> Self {
        Few {
            first,
            rest: Vec::new(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::iter::Once<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.rest)
    }
}

/// How one message ended.
pub(crate) struct Ending {
    pub(crate) verdict: Verdict,
    pub(crate) sends: Vec<Outgoing>,
    pub(crate) once: Option<Once>,
}

impl Ending {
    pub(crate) fn of(verdict: Verdict) -> Self {
        Ending {
            verdict,
            sends: Vec::new(),
            once: None,
        }
    }
}

/// A place for the future of one handling, used again and again.
type Slot<F> = Pin<Box<Option<F>>>;

/// A handling that did not end at its first poll.
struct Running<F>(Option<Begun<F>>);

struct Begun<F> {
    slot: Slot<F>,
    held: Few<Held>,
    /// Given back when the handling is over.
    _permit: Option<OwnedSemaphorePermit>,
}

impl<F: Future<Output = Few<Ending>>> Future for Running<F> {
    type Output = (Few<Ending>, Begun<F>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self
            .0
            .as_mut()
            .and_then(|begun| begun.slot.as_mut().as_pin_mut());
        let Some(Poll::Ready(endings)) = future.map(|future| future.poll(cx)) else {
            return Poll::Pending;
        };
        match self.0.take() {
            Some(begun) => Poll::Ready((endings, begun)),
            None => Poll::Pending,
        }
    }
}

enum Event<F> {
    Signal,
    Settled(Settled),
    Ended(Few<Ending>, Begun<F>),
    Permit(OwnedSemaphorePermit),
    Timer,
    Input(Input),
}

/// The state of one partition. `S` begins a handling; it is generic so that nothing is boxed per message.
pub(super) struct ShardTask<S, F> {
    cx: ShardCx,
    start: S,
    batch: Option<BatchSize>,
    idle: Vec<Slot<F>>,
    running: FuturesUnordered<Running<F>>,
    keys: Keys<Item>,
    /// Kept messages whose key is free again; they go before all others.
    ready: VecDeque<Item>,
    gathering: Vec<Item>,
    gathered_by: Option<Instant>,
    permit: Option<OwnedSemaphorePermit>,
    /// Handlings end at their first poll: they do no I/O.
    prompt: bool,
    settler: Settler,
    fatal: Option<Error>,
}

impl<S, F> ShardTask<S, F>
where
    S: Fn(Few<Task>) -> F + Send,
    F: Future<Output = Few<Ending>> + Send,
{
    pub(super) fn new(cx: ShardCx, batch: Option<BatchSize>, start: S) -> Self {
        let settler = Settler::new(cx.consumer.clone(), cx.leases.clone());
        ShardTask {
            cx,
            start,
            batch,
            idle: Vec::new(),
            running: FuturesUnordered::new(),
            keys: Keys::new(),
            ready: VecDeque::new(),
            gathering: Vec::new(),
            gathered_by: None,
            permit: None,
            prompt: true,
            settler,
            fatal: None,
        }
    }

    /// Handles what comes until the shard ends.
    pub(super) async fn run(mut self) {
        loop {
            if let Some(error) = self.fatal.take() {
                // The member may have gone already.
                let _ = self.cx.failed.send(error);
                return;
            }
            let stop = *self.cx.stop.borrow();
            if let Some(until) = stop {
                return self.finish(until).await;
            }
            let signal = *self.cx.signal.borrow_and_update();
            match signal {
                // Without its member a shard has nobody to settle for.
                Signal::Go if self.cx.signal.has_changed().is_err() => return self.lost().await,
                Signal::Go => {}
                Signal::Finish(until) => return self.finish(until).await,
                Signal::Lost => return self.lost().await,
            }
            if self.gathering_is_due() && self.may_begin() {
                self.begin_gathered().await;
            } else if !self.ready.is_empty() {
                self.place().await;
            } else {
                // A shard without work keeps nothing from the others.
                self.permit = None;
                if let Some(input) = self.wait(true).await {
                    self.take(input).await;
                }
            }
        }
    }

    async fn take(&mut self, input: Input) {
        let count = input.len();
        match input {
            Input::Run(chunk, receipt) => self.take_run(chunk, receipt).await,
            Input::Each(list) => {
                for delivery in list {
                    let Delivery {
                        message,
                        attempt,
                        last_error,
                        receipt,
                    } = delivery;
                    if self.place().await {
                        self.offer(self.item(message, attempt, last_error, receipt))
                            .await;
                    } else {
                        self.settler.release(receipt);
                    }
                }
            }
        }
        self.cx.backlog.remove(count);
    }

    async fn take_run(&mut self, chunk: Chunk, receipt: Receipt) {
        let mut rest = Some(receipt);
        for record in chunk.iter() {
            if !self.place().await {
                break;
            }
            let Some(mut receipt) = rest.take() else {
                break;
            };
            if let Some(first) = receipt.split_first() {
                rest = Some(std::mem::replace(&mut receipt, first));
            }
            let item = self.item(record.to_message(), 1, None, receipt);
            self.offer(item).await;
            if self.settler.is_due() {
                self.settler.flush();
                if let Some(settled) = self.settler.kick().await {
                    self.settled(settled);
                }
            }
        }
        if let Some(rest) = rest {
            self.settler.release(rest);
        }
    }

    fn item(
        &self,
        stored: Stored,
        attempt: u32,
        last_error: Option<Arc<str>>,
        receipt: Receipt,
    ) -> Item {
        let key = if self.cx.consumer.options.by_key {
            stored
                .record()
                .key()
                .map(|key| rapidhash::v3::rapidhash_v3(key))
        } else {
            None
        };
        let position = stored.position();
        Item {
            held: Held {
                receipt,
                key,
                position,
                attempt,
            },
            task: Task {
                stored,
                attempt,
                last_error,
            },
        }
    }

    /// Waits until the next message can be offered; `false` when the shard is to end.
    async fn place(&mut self) -> bool {
        loop {
            if self.is_ending() {
                return false;
            }
            if self.gathering_is_due() && self.may_begin() {
                self.begin_gathered().await;
            } else if self.has_place() {
                match self.ready.pop_front() {
                    Some(item) => self.offer(item).await,
                    None => return true,
                }
            } else {
                self.wait(false).await;
            }
        }
    }

    fn is_ending(&self) -> bool {
        let changed = |has_changed: Result<bool, _>| has_changed.unwrap_or(true);
        self.fatal.is_some()
            || changed(self.cx.signal.has_changed())
            || changed(self.cx.stop.has_changed())
    }

    fn has_place(&mut self) -> bool {
        if self.settler.is_full() || self.keys.waiting() >= KEPT {
            return false;
        }
        match self.batch {
            Some(size) => self.gathering.len() < size.items,
            None => self.may_begin(),
        }
    }

    /// True when another handling may begin now.
    fn may_begin(&mut self) -> bool {
        let Some(permits) = &self.cx.permits else {
            return self.running.is_empty();
        };
        if self.permit.is_none() {
            self.permit = permits.clone().try_acquire_owned().ok();
        }
        self.permit.is_some()
    }

    /// Handles a message, keeps it until its key is free, or gives it back, as the order of its key asks.
    async fn offer(&mut self, item: Item) {
        let Held { key, position, .. } = item.held;
        if let Some(key) = key {
            match self.keys.admit(key, position) {
                Admit::Run => {}
                Admit::Committing
                    if self.batch.is_none() && self.prompt && self.settler.can_join(key) => {}
                Admit::Wait | Admit::Committing => return self.keys.keep(key, item),
                Admit::Release => return self.settler.release(item.held.receipt),
            }
        }
        let Some(size) = self.batch else {
            return self.begin(Few::one(item.task), Few::one(item.held)).await;
        };
        if self.gathering.is_empty() {
            self.gathered_by = Some(Instant::now() + size.wait);
        }
        self.gathering.push(item);
    }

    fn gathering_is_due(&self) -> bool {
        match self.batch {
            Some(size) if !self.gathering.is_empty() => {
                self.gathering.len() >= size.items
                    || self.gathered_by.is_some_and(|at| at <= Instant::now())
            }
            _ => false,
        }
    }

    async fn begin_gathered(&mut self) {
        self.gathered_by = None;
        let mut items = std::mem::take(&mut self.gathering).into_iter();
        let Some(first) = items.next() else { return };
        let (tasks, held) = items.map(|item| (item.task, item.held)).unzip();
        let tasks = Few {
            first: first.task,
            rest: tasks,
        };
        let held = Few {
            first: first.held,
            rest: held,
        };
        self.begin(tasks, held).await;
    }

    /// Begins a handling and polls it once; most end there.
    async fn begin(&mut self, tasks: Few<Task>, held: Few<Held>) {
        let mut slot = self.idle.pop().unwrap_or_else(|| Box::pin(None));
        slot.set(Some((self.start)(tasks)));
        let polled = std::future::poll_fn(|cx| {
            let future = slot.as_mut().as_pin_mut();
            Poll::Ready(future.map_or(Poll::Pending, |future| future.poll(cx)))
        })
        .await;
        self.prompt = polled.is_ready();
        if let Poll::Ready(endings) = polled {
            slot.set(None);
            self.idle.push(slot);
            return self.ended(endings, held);
        }
        for key in held.iter().filter_map(|held| held.key) {
            self.keys.begin(key);
            self.settler.hold(key);
        }
        self.running.push(Running(Some(Begun {
            slot,
            held,
            _permit: self.permit.take(),
        })));
    }

    fn ended(&mut self, endings: Few<Ending>, held: Few<Held>) {
        for (held, ending) in held.into_iter().zip(endings) {
            self.end(held, ending);
        }
    }

    fn end(&mut self, held: Held, ending: Ending) {
        let Held {
            receipt,
            key,
            position,
            attempt,
        } = held;
        if key.is_some_and(|key| self.keys.is_blocked(key, position)) {
            // One of its key before it failed: it comes again behind that one, without its effects.
            self.settler.release(receipt);
            return self.after(key, false);
        }
        let Ending {
            verdict,
            sends,
            once,
        } = ending;
        if matches!(verdict, Verdict::Done) && sends.is_empty() && once.is_none() {
            let committing = self.settler.done(receipt, key);
            return self.after(key, committing);
        }
        let options = &self.cx.consumer.options;
        let dies = attempt >= options.backoff.attempts();
        match (&verdict, key) {
            (Verdict::Retry { counts, .. }, Some(key)) if !(*counts && dies) => {
                self.keys.block(key, position)
            }
            _ => {}
        }
        // Only what leaves in the order of its key shares a unit with the key.
        let unit_key = if sends.is_empty() { None } else { key };
        self.settler.end(Ends {
            receipt,
            verdict,
            sends,
            once,
            key: unit_key,
        });
        self.after(key, unit_key.is_some());
    }

    /// The handling of a message of this key is over.
    fn after(&mut self, key: Option<u64>, committing: bool) {
        if let Some(key) = key {
            self.ready.extend(self.keys.end(key, committing));
        }
    }

    fn settled(&mut self, settled: Settled) {
        for (key, position) in settled.again {
            self.keys.block(key, position);
        }
        for key in settled.freed {
            self.ready.extend(self.keys.committed(key));
        }
        self.fatal = settled.fatal.or(self.fatal.take());
    }

    /// Waits for one thing to happen, and lets it happen. With `inbox`, an input is given to the caller.
    async fn wait(&mut self, inbox: bool) -> Option<Input> {
        self.settler.flush();
        match self.event(inbox).await {
            Event::Signal => {}
            Event::Settled(settled) => self.settled(settled),
            Event::Ended(endings, begun) => self.was_running(endings, begun),
            Event::Permit(permit) => self.permit = Some(permit),
            Event::Timer => {}
            Event::Input(input) => return Some(input),
        }
        None
    }

    async fn event(&mut self, inbox: bool) -> Event<F> {
        let permits = self.cx.permits.clone();
        let wants_permit = !inbox && self.permit.is_none();
        let timer = self.gathered_by.filter(|_| !self.gathering.is_empty());
        tokio::select! {
            biased;
            () = changed(&mut self.cx.signal) => Event::Signal,
            () = changed(&mut self.cx.stop) => Event::Signal,
            settled = self.settler.next(), if self.settler.has_commits() => Event::Settled(settled),
            Some((endings, begun)) = self.running.next() => Event::Ended(endings, begun),
            permit = acquire(permits), if wants_permit => Event::Permit(permit),
            () = sleep(timer), if timer.is_some_and(|at| at > Instant::now()) => Event::Timer,
            Some(input) = self.cx.inbox.recv(), if inbox => Event::Input(input),
        }
    }

    fn was_running(&mut self, endings: Few<Ending>, begun: Begun<F>) {
        let Begun { mut slot, held, .. } = begun;
        for key in held.iter().filter_map(|held| held.key) {
            self.settler.let_go(key);
        }
        self.ended(endings, held);
        slot.set(None);
        self.idle.push(slot);
    }

    /// Gives back what was not begun, waits for what was, gives back what did not end in time.
    async fn finish(mut self, until: Instant) {
        let kept = self.keys.drain();
        let waiting = self
            .gathering
            .drain(..)
            .chain(self.ready.drain(..))
            .chain(kept);
        let receipts: Vec<Receipt> = waiting.map(|item| item.held.receipt).collect();
        receipts
            .into_iter()
            .for_each(|receipt| self.settler.release(receipt));
        self.cx.inbox.close();
        while let Ok(input) = self.cx.inbox.try_recv() {
            match input {
                Input::Run(_, receipt) => self.settler.release(receipt),
                Input::Each(list) => list
                    .into_iter()
                    .for_each(|delivery| self.settler.release(delivery.receipt)),
            }
        }
        while !self.running.is_empty() && self.fatal.is_none() {
            self.settler.flush();
            tokio::select! {
                settled = self.settler.next(), if self.settler.has_commits() => self.settled(settled),
                Some((endings, begun)) = self.running.next() => self.was_running(endings, begun),
                () = sleep(Some(until)) => break,
            }
            let ready: Vec<Item> = self.ready.drain(..).collect();
            ready
                .into_iter()
                .for_each(|item| self.settler.release(item.held.receipt));
        }
        for begun in std::mem::take(&mut self.running)
            .into_iter()
            .filter_map(|running| running.0)
        {
            for held in begun.held {
                held.key
                    .into_iter()
                    .for_each(|key| self.settler.let_go(key));
                self.settler.release(held.receipt);
            }
        }
        while !self.settler.is_idle() && self.fatal.is_none() {
            self.settler.flush();
            match timeout(LAST_COMMITS, self.settler.next()).await {
                Ok(settled) => self.settled(settled),
                Err(_) => break,
            }
        }
        if let Some(error) = self.fatal.take() {
            // The member may have gone already.
            let _ = self.cx.failed.send(error);
        }
        self.cx.backlog.control.handed_back(self.cx.backlog.shard);
    }

    /// The shard belongs to somebody else. Handlers that run are told, and may end in their own time; what they did is
    /// fenced.
    async fn lost(mut self) {
        self.cx.leases.lost_all();
        self.cx.inbox.close();
        self.ready.clear();
        self.gathering.clear();
        self.keys.drain();
        loop {
            tokio::select! {
                () = changed(&mut self.cx.stop) => return,
                ended = self.running.next() => if ended.is_none() { return },
            }
        }
    }
}

/// Waits for another signal (a member that is gone is one, too), and leaves it to be seen.
async fn changed<T>(signal: &mut watch::Receiver<T>) {
    if signal.changed().await.is_ok() {
        signal.mark_changed();
    }
}

async fn acquire(permits: Option<Arc<Semaphore>>) -> OwnedSemaphorePermit {
    if let Some(permits) = permits
        && let Ok(permit) = permits.acquire_owned().await
    {
        return permit;
    }
    std::future::pending().await
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}
