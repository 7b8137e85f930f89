//! One partition of a consumer: which message is handled next, and what becomes of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rapidhash::RapidHashMap;
use strait_core::{Chunk, Delivery, Error, Message as Stored, Position, Receipt, Verdict};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::sleep_until;

use super::handling::{Begun, Ending, Few, Held, Item, Running, Slot, Task};
use super::keys::{Admit, Keys};
use super::port::{Backlog, Input, Signal};
use super::settle::{Ends, Settled, Settler};
use super::{ConsumerCx, ShardLeases, Stop};
use crate::handler::BatchSize;

/// Messages that may be kept because their key is busy.
const KEPT: usize = 1024;

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
    pub(super) cx: ShardCx,
    start: S,
    batch: Option<BatchSize>,
    idle: Vec<Slot<F>>,
    pub(super) running: FuturesUnordered<Running<F>>,
    pub(super) keys: Keys<Item>,
    /// Kept messages whose key is free again; they go before all others.
    pub(super) ready: VecDeque<Item>,
    pub(super) gathering: Vec<Item>,
    gathered_by: Option<Instant>,
    permit: Option<OwnedSemaphorePermit>,
    /// Handlings end at their first poll: they do no I/O.
    prompt: bool,
    pub(super) settler: Settler,
    pub(super) fatal: Option<Error>,
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
            if self.cx.stop.has_changed().is_err() {
                // The app was dropped.
                return self.lost().await;
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
                Signal::HandBack(until) => return self.hand_back(until).await,
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
                        self.commit_when_due().await;
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
            self.commit_when_due().await;
        }
        if let Some(rest) = rest {
            self.settler.release(rest);
        }
    }

    async fn commit_when_due(&mut self) {
        if self.settler.is_due() {
            self.settler.flush();
            if let Some(settled) = self.settler.kick().await {
                self.settled(settled);
            }
            // A task that never yields gets no more answers: its share of tokio's cooperative budget is spent.
            tokio::task::yield_now().await;
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
            stored.record().key().map(rapidhash::v3::rapidhash_v3)
        } else {
            None
        };
        let (position, number) = (stored.position(), receipt.fence().first);
        Item {
            reserved: false,
            held: Held {
                receipt,
                key,
                position,
            },
            task: Task {
                stored,
                number,
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
        if self.cx.leases.is_lost(item.task.number) {
            return self.was_lost(item);
        }
        if let Some(key) = key {
            let admit = if item.reserved {
                self.admit_reserved(key, position)
            } else {
                self.keys.admit(key, position)
            };
            match (admit, item.reserved) {
                (Admit::Run, _) => {}
                (Admit::Committing, _) if self.can_join(key) => {}
                (Admit::Wait | Admit::Committing, true) => return self.keys.put_back(key, item),
                (Admit::Wait | Admit::Committing, false) => return self.keys.keep(key, item),
                (Admit::Release, reserved) => {
                    self.settler.release(item.held.receipt);
                    return self.after(item.held.key.filter(|_| reserved), false);
                }
            }
        }
        let Some(size) = self.batch else {
            return self.begin(Few::one(item.task), Few::one(item.held)).await;
        };
        if self.gathering.is_empty() {
            self.gathered_by = Some(Instant::now() + size.wait);
        }
        let reserved = key.filter(|_| item.reserved);
        self.gathering.push(item);
        if let Some(key) = reserved {
            self.gather_more(key, size.items);
        }
    }

    /// What was kept of a key goes with its first into one batch: a busy key would advance by one a batch.
    fn gather_more(&mut self, key: u64, items: usize) {
        while self.gathering.len() < items
            && let Some(item) = self.keys.more(key)
        {
            let position = item.held.position;
            if self.cx.leases.is_lost(item.task.number) {
                drop(item.held.receipt);
                self.keys.block(key, position, false);
            } else if self.keys.is_blocked(key, position) {
                self.settler.release(item.held.receipt);
            } else {
                self.gathering.push(item);
            }
        }
    }

    fn admit_reserved(&mut self, key: u64, position: Position) -> Admit {
        if self.keys.is_blocked(key, position) {
            Admit::Release
        } else if self.keys.is_committing(key) {
            Admit::Committing
        } else {
            Admit::Run
        }
    }

    /// True when a message of a key whose effects are gathered may be handled, because it ends with them. Batches and
    /// handlers that wait would hold the effects up.
    fn can_join(&self, key: u64) -> bool {
        self.batch.is_none() && self.prompt && self.settler.can_join(key)
    }

    /// Another has it, or this member will get it again: nothing that is done with it here would count.
    fn was_lost(&mut self, item: Item) {
        drop(item.held.receipt);
        if let Some(key) = item.held.key {
            self.keys.block(key, item.held.position, false);
            self.after(Some(key).filter(|_| item.reserved), false);
        }
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
        if held.rest.is_empty() {
            let key = held.first.key;
            let committing = self.end(held.first, endings.first);
            return self.after(key, committing);
        }
        // A key ends once for a batch, however many messages of it there were: it was begun once.
        let mut over: RapidHashMap<u64, bool> = RapidHashMap::default();
        for (held, ending) in held.into_iter().zip(endings) {
            let key = held.key;
            let committing = self.end(held, ending);
            key.into_iter()
                .for_each(|key| *over.entry(key).or_default() |= committing);
        }
        for (key, committing) in over {
            self.after(Some(key), committing);
        }
    }

    /// Ends one message. True when effects of its key are gathered with it.
    fn end(&mut self, held: Held, ending: Ending) -> bool {
        let Held {
            receipt,
            key,
            position,
        } = held;
        if key.is_some_and(|key| self.keys.is_blocked(key, position)) {
            // One of its key before it failed: it comes again behind that one, without its effects.
            self.settler.release(receipt);
            return false;
        }
        let Ending {
            verdict,
            sends,
            once,
        } = ending;
        if matches!(verdict, Verdict::Done) && sends.is_empty() && once.is_none() {
            return self.settler.done(receipt, key, position);
        }
        // A last attempt too: an operator may have raised the limit. When it was the last, the later ones come back at once.
        let parks = match &verdict {
            Verdict::Retry { .. } => true,
            Verdict::Dead(_) => self.cx.consumer.options.hold_key,
            _ => false,
        };
        if let Some(key) = key.filter(|_| parks) {
            self.keys.block(key, position, true);
        }
        // Beside what comes again, only effects have to leave in the order of their key.
        let unit_key = key.filter(|_| parks || !sends.is_empty());
        let committing = unit_key.is_some() && !parks;
        self.settler.end(Ends {
            receipt,
            verdict,
            sends,
            once,
            key: unit_key,
            position,
            parks,
        });
        committing
    }

    /// The handling of a message of this key is over.
    fn after(&mut self, key: Option<u64>, committing: bool) {
        if let Some(key) = key {
            let next = self.keys.end(key, committing);
            self.make_ready(next);
        }
    }

    fn make_ready(&mut self, next: Option<Item>) {
        self.ready.extend(next.map(|item| Item {
            reserved: true,
            ..item
        }));
    }

    pub(super) fn settled(&mut self, settled: Settled) {
        for (key, position) in settled.parked {
            self.keys.said(key, position);
        }
        for (key, position) in settled.again {
            self.keys.block(key, position, false);
        }
        // After those behind them that come again, too.
        for (key, position) in settled.unsaid {
            self.keys.block(key, position, true);
        }
        for key in settled.freed {
            let next = self.keys.committed(key);
            self.make_ready(next);
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
        // Asked once: what becomes due between two looks at the clock would have no timer, and nobody who begins it.
        let due = self.gathering_is_due();
        if due && self.may_begin() {
            return Event::Timer;
        }
        let permits = self.cx.permits.clone();
        let wants_permit = self.permit.is_none() && (!inbox || due);
        let timer = self
            .gathered_by
            .filter(|_| !due && !self.gathering.is_empty());
        tokio::select! {
            biased;
            () = changed(&mut self.cx.signal) => Event::Signal,
            () = changed(&mut self.cx.stop) => Event::Signal,
            settled = self.settler.next(), if self.settler.has_commits() => Event::Settled(settled),
            Some((endings, begun)) = self.running.next() => Event::Ended(endings, begun),
            permit = acquire(permits), if wants_permit => Event::Permit(permit),
            () = sleep(timer), if timer.is_some() => Event::Timer,
            Some(input) = self.cx.inbox.recv(), if inbox => Event::Input(input),
        }
    }

    pub(super) fn was_running(&mut self, endings: Few<Ending>, begun: Begun<F>) {
        let Begun { mut slot, held, .. } = begun;
        for key in held.iter().filter_map(|held| held.key) {
            self.settler.let_go(key);
        }
        self.ended(endings, held);
        slot.set(None);
        self.idle.push(slot);
    }
}

/// Waits for another signal (a member that is gone is one, too), and leaves it to be seen.
pub(super) async fn changed<T>(signal: &mut watch::Receiver<T>) {
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

pub(super) async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}
