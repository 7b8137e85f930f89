//! The way back to the engine: verdicts are gathered, joined, and committed in units, several commits at once.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rapidhash::RapidHashMap;
use strait_core::{
    Engine, Error, Fut, Kind, Once, OnceEnd, Outcome, Position, Receipt, Unit, Verdict, codes,
};

use super::sinks::{self, Abroad, Effects};
use super::{ConsumerCx, ShardLeases};
use crate::failure::shorten;

/// Commits of one shard that may be under way.
const COMMITS: usize = 4;
/// Units that are gathered before they are handed over.
const UNITS: usize = 512;
/// Messages that may be gathered or under way before the next is handled.
const MESSAGES: usize = 16_384;
/// Messages of one key that may share a unit.
const PARTS: usize = 256;
/// How long a verdict may wait for company while handlers go on without a pause.
const WAIT: Duration = Duration::from_millis(5);
/// Wait before a commit that was refused for now is tried again: doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How one message ends.
pub(crate) struct Ends {
    pub(crate) receipt: Receipt,
    pub(crate) verdict: Verdict,
    pub(crate) sends: Effects,
    pub(crate) once: Option<Once>,
    pub(crate) key: Option<u64>,
    /// Where the message is.
    pub(crate) position: Position,
    /// It comes again: nothing of its key can join it.
    pub(crate) parks: bool,
}

/// What the shard has to know about commits that are over.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Keys whose unit is over.
    pub(crate) freed: Vec<u64>,
    /// Messages that the engine has parked, as it was told.
    pub(crate) parked: Vec<(u64, Position)>,
    /// Messages that come again although it was not wished: later ones of their keys go back until they do.
    pub(crate) again: Vec<(u64, Position)>,
    /// Of these, what the engine is told only now.
    pub(crate) unsaid: Vec<(u64, Position)>,
    /// The engine takes nothing more.
    pub(crate) fatal: Option<Error>,
}

/// What a unit is about: verdict `i` and the next `sends` messages of it are part `i`'s. A unit without parts holds
/// ranges that are done or go back.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    messages: usize,
    parts: Vec<Part>,
    tries: u32,
    /// What has to be at other engines before the unit is committed.
    pub(super) abroad: Option<Box<Abroad>>,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    key: Option<u64>,
    position: Position,
    sends: usize,
    parks: bool,
}

/// A commit that is over. `rest` was not tried, because one before it failed.
struct Finished {
    tried: Vec<(Ticket, Outcome)>,
    rest: Vec<(Ticket, Unit)>,
    /// It had been refused before.
    again: bool,
}

/// Gathers the verdicts of one shard and commits them.
pub(crate) struct Settler {
    consumer: Arc<ConsumerCx>,
    leases: Arc<ShardLeases>,
    done: Vec<Receipt>,
    released: Vec<Receipt>,
    units: Vec<(Ticket, Unit)>,
    /// The gathered unit of a key, which later messages of the key join.
    open: RapidHashMap<u64, usize>,
    /// Keys whose gathered unit must not leave yet.
    held: Vec<u64>,
    commits: FuturesUnordered<Fut<Finished>>,
    /// Those among them that were refused before: they wait, and nothing waits for them.
    refused: usize,
    /// Messages gathered and under way.
    messages: usize,
    /// When the oldest thing that is gathered came.
    since: Option<Instant>,
}

impl Settler {
    pub(crate) fn new(consumer: Arc<ConsumerCx>, leases: Arc<ShardLeases>) -> Self {
        Settler {
            consumer,
            leases,
            done: Vec::new(),
            released: Vec::new(),
            units: Vec::new(),
            open: RapidHashMap::default(),
            held: Vec::new(),
            commits: FuturesUnordered::new(),
            refused: 0,
            messages: 0,
            since: None,
        }
    }

    fn gathered(&mut self, messages: usize) {
        self.messages += messages;
        if self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }

    /// A message is done and had no effects. True when its key has effects that are gathered here: then it ends with
    /// them, or comes again with them.
    #[inline]
    pub(crate) fn done(&mut self, receipt: Receipt, key: Option<u64>, position: Position) -> bool {
        if !self.open.is_empty() && key.is_some_and(|key| self.open.contains_key(&key)) {
            self.end(Ends {
                receipt,
                verdict: Verdict::Done,
                sends: Effects::default(),
                once: None,
                key,
                position,
                parks: false,
            });
            return true;
        }
        self.gathered(receipt.count() as usize);
        push_joined(&mut self.done, receipt);
        false
    }

    /// Gives back what was not handled; no attempt is spent.
    pub(crate) fn release(&mut self, receipt: Receipt) {
        self.gathered(receipt.count() as usize);
        self.consumer
            .meters
            .released
            .increment(u64::from(receipt.count()));
        push_joined(&mut self.released, receipt);
    }

    /// Ends a message in a unit of its own, or in that of the message of its key before it: one key's effects leave in
    /// order, or not at all.
    pub(crate) fn end(&mut self, ends: Ends) {
        self.gathered(1);
        let part = Part {
            key: ends.key,
            position: ends.position,
            sends: ends.sends.here.len(),
            parks: ends.parks,
        };
        // A unit has one ledger entry at most, and one message's effects on other engines.
        let alone = ends.once.is_some() || ends.parks || ends.sends.abroad.is_some();
        let joinable = ends.key.filter(|_| !alone);
        let open = joinable.and_then(|key| self.open.get(&key)).copied();
        if let Some((ticket, unit)) = open.and_then(|index| self.units.get_mut(index)) {
            unit.settle.push((ends.receipt, ends.verdict));
            unit.send.extend(ends.sends.here);
            ticket.messages += 1;
            ticket.parts.push(part);
            return;
        }
        if let Some(key) = joinable {
            self.open.insert(key, self.units.len());
        }
        let mut unit = Unit::settle(ends.receipt, ends.verdict);
        unit.send = ends.sends.here;
        unit.once = ends.once;
        let ticket = Ticket {
            messages: 1,
            parts: vec![part],
            tries: 0,
            abroad: ends.sends.abroad,
        };
        self.units.push((ticket, unit));
    }

    /// True when a message of a key that is being committed may be handled all the same: its unit is still here and can
    /// take the message in.
    pub(crate) fn can_join(&self, key: u64) -> bool {
        let unit = self.open.get(&key).and_then(|index| self.units.get(*index));
        unit.is_some_and(|(ticket, _)| ticket.parts.len() < PARTS)
    }

    /// A message of this key is being handled and may join its gathered unit: the unit stays here until
    /// [`let_go`](Settler::let_go).
    pub(crate) fn hold(&mut self, key: u64) {
        if self.open.contains_key(&key) {
            self.held.push(key);
        }
    }

    /// The message that a unit was held for has ended.
    pub(crate) fn let_go(&mut self, key: u64) {
        self.held.retain(|held| *held != key);
    }

    /// True when handling must wait for commits.
    pub(crate) fn is_full(&self) -> bool {
        self.messages >= MESSAGES || (self.units.len() >= UNITS && !self.may_commit())
    }

    /// True when handing over is worth it before the run ends: much is gathered, or something has waited. Also while enough
    /// is under way, for somebody has to look whether that is over.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        let Some(since) = self.since else {
            return false;
        };
        self.units.len() >= UNITS || since.elapsed() >= WAIT
    }

    fn may_commit(&self) -> bool {
        self.commits.len() - self.refused < COMMITS
    }

    /// True when nothing is gathered or under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.messages == 0 && self.commits.is_empty()
    }

    /// True while commits are under way.
    pub(crate) fn has_commits(&self) -> bool {
        !self.commits.is_empty()
    }

    /// Hands what is gathered to the engine, unless enough is under way. It begins when the commits are next polled.
    pub(crate) fn flush(&mut self) {
        if !self.may_commit() {
            return;
        }
        // What comes again goes first: the engine parks it before the later ones of its key come back.
        let mut units = self.take_units();
        // A unit for each range: one whose lease was lost does not take the others along.
        let done = joined(&mut self.done).map(|receipt| (receipt, Verdict::Done));
        let released = joined(&mut self.released).map(|receipt| (receipt, Verdict::Release));
        units.extend(done.chain(released).map(|(receipt, verdict)| {
            let ticket = Ticket {
                messages: receipt.count() as usize,
                ..Ticket::default()
            };
            (ticket, Unit::settle(receipt, verdict))
        }));
        self.since = None;
        if !units.is_empty() {
            self.commit(units, Duration::ZERO);
        }
    }

    /// The gathered units, without those that are held.
    fn take_units(&mut self) -> Vec<(Ticket, Unit)> {
        self.open.clear();
        let units = std::mem::take(&mut self.units);
        if self.held.is_empty() {
            return units;
        }
        let key = |ticket: &Ticket| ticket.parts.first().and_then(|part| part.key);
        let is_held =
            |(ticket, _): &(Ticket, Unit)| key(ticket).is_some_and(|key| self.held.contains(&key));
        let (held, free) = units.into_iter().partition(is_held);
        self.units = held;
        let keys = self.units.iter().enumerate();
        self.open = keys
            .filter_map(|(index, (ticket, _))| Some((key(ticket)?, index)))
            .collect();
        free
    }

    /// Commits units together, after a pause.
    fn commit(&mut self, units: Vec<(Ticket, Unit)>, pause: Duration) {
        let (consumer, leases) = (self.consumer.clone(), self.leases.clone());
        let again = !pause.is_zero();
        self.refused += usize::from(again);
        self.commits.push(Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            // From here on they are the engine's: extending them would find nothing.
            let begun = Instant::now();
            let (units, mut tried) = sinks::first(&consumer, units).await;
            leases.remove(units.iter().flat_map(|(_, unit)| fences(unit)));
            let (tickets, units): (Vec<_>, Vec<_>) = units.into_iter().unzip();
            let outcomes = consumer.engine.commit(units).await;
            consumer.meters.commit_seconds.record(begun.elapsed());
            tried.extend(tickets.into_iter().zip(outcomes));
            Finished {
                tried,
                rest: Vec::new(),
                again,
            }
        }));
    }

    /// Commits the messages of a unit that was refused each on its own, in order, up to the first that fails. It counts as
    /// refused, for each of them may have to wait.
    fn commit_one_by_one(&mut self, unit: Unit, ticket: Ticket) {
        let (engine, leases) = (self.consumer.engine.clone(), self.leases.clone());
        self.refused += 1;
        self.commits.push(Box::pin(async move {
            let mut rest = split(unit, &ticket).into_iter();
            let mut tried = Vec::new();
            for (ticket, unit) in rest.by_ref() {
                let Some(outcome) = insist(&*engine, &leases, unit).await else {
                    break;
                };
                let failed = !matches!(outcome, Outcome::Applied(_) | Outcome::Seen(_));
                tried.push((ticket, outcome));
                if failed {
                    break;
                }
            }
            Finished {
                tried,
                rest: rest.collect(),
                again: true,
            }
        }));
    }

    /// The next commit that is over; for ever pending without one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Settled {
        match self.commits.next().await {
            Some(finished) => self.take_in(finished),
            None => std::future::pending().await,
        }
    }

    /// Polls the commits once, so that new ones begin; takes in those that are over.
    pub(crate) async fn kick(&mut self) -> Option<Settled> {
        let polled = std::future::poll_fn(|cx| match self.commits.poll_next_unpin(cx) {
            Poll::Ready(finished) => Poll::Ready(finished),
            Poll::Pending => Poll::Ready(None),
        });
        let finished = polled.await?;
        Some(self.take_in(finished))
    }

    fn take_in(&mut self, finished: Finished) -> Settled {
        self.refused -= usize::from(finished.again);
        let mut settled = Settled::default();
        for (ticket, outcome) in finished.tried {
            self.outcome(ticket, outcome, &mut settled);
        }
        for (ticket, unit) in finished.rest {
            self.over(&ticket, &mut settled);
            come_again(&ticket, &mut settled);
            unit.settle
                .into_iter()
                .for_each(|(receipt, _)| self.release(receipt));
        }
        settled
    }

    fn outcome(&mut self, ticket: Ticket, outcome: Outcome, settled: &mut Settled) {
        match outcome {
            Outcome::Applied(sent) => {
                if !sent.is_empty() {
                    self.consumer.meters.effects.increment(sent.len() as u64);
                }
            }
            Outcome::Seen(_) => {}
            Outcome::Fenced => {
                self.consumer
                    .meters
                    .fenced
                    .increment(ticket.messages as u64);
                tracing::warn!(
                    consumer = &*self.consumer.id,
                    shard = self.leases.shard,
                    messages = ticket.messages,
                    "a commit came after its lease was lost; nothing was changed"
                );
                come_again(&ticket, settled);
            }
            Outcome::NotApplied(unit, error) => {
                return self.not_applied(unit, ticket, error, settled);
            }
            Outcome::Unknown(error) => {
                tracing::warn!(
                    consumer = &*self.consumer.id,
                    ?error,
                    "a commit has no known outcome; what did not happen is delivered again"
                );
                come_again(&ticket, settled);
            }
        }
        self.over(&ticket, settled);
    }

    fn not_applied(&mut self, unit: Unit, ticket: Ticket, error: Error, settled: &mut Settled) {
        for fence in fences(&unit) {
            self.leases.add(fence);
        }
        if error.may_retry() {
            let pause = LONGEST_PAUSE.min(PAUSE * 2_u32.pow(ticket.tries.min(10)));
            tracing::warn!(
                consumer = &*self.consumer.id,
                ?error,
                ?pause,
                "a commit was refused for now"
            );
            let tries = ticket.tries + 1;
            return self.commit(vec![(Ticket { tries, ..ticket }, unit)], pause);
        }
        let ended = error.kind() == Kind::Closed || error.is(codes::POISONED);
        if !ended && ticket.parts.len() > 1 {
            return self.commit_one_by_one(unit, ticket);
        }
        if ended || (unit.send.is_empty() && ticket.abroad.is_none()) {
            // A bare verdict that is refused: nothing else that could be tried.
            self.over(&ticket, settled);
            settled.fatal = Some(error);
            return;
        }
        self.over(&ticket, settled);
        settled.unsaid.extend(keyed(&ticket));
        self.effects_refused(unit, &ticket.parts, &error);
    }

    /// The effects of one message cannot be committed: its handling failed after all.
    fn effects_refused(&mut self, unit: Unit, parts: &[Part], error: &Error) {
        tracing::warn!(
            consumer = &*self.consumer.id,
            ?error,
            "the effects of a message were refused"
        );
        let reason = shorten(format!("its effects were refused: {error}"));
        let mut once = unit.once.map(|once| Once {
            end: OnceEnd::Forget,
            ..once
        });
        for ((receipt, _), part) in unit.settle.into_iter().zip(parts) {
            self.end(Ends {
                receipt,
                verdict: Verdict::Retry {
                    after: self.consumer.options.backoff.wait(1),
                    reason: reason.as_str().into(),
                    counts: true,
                },
                sends: Effects::default(),
                once: once.take(),
                key: part.key,
                position: part.position,
                parks: true,
            });
        }
    }

    fn over(&mut self, ticket: &Ticket, settled: &mut Settled) {
        self.messages = self.messages.saturating_sub(ticket.messages);
        let first = ticket.parts.first();
        let Some((part, key)) = first.and_then(|part| Some((part, part.key?))) else {
            return;
        };
        if part.parks {
            settled.parked.push((key, part.position));
        } else {
            settled.freed.push(key);
        }
    }
}

fn come_again(ticket: &Ticket, settled: &mut Settled) {
    settled.again.extend(keyed(ticket));
}

/// The messages of a unit that have a key.
fn keyed(ticket: &Ticket) -> impl Iterator<Item = (u64, Position)> {
    let parts = ticket.parts.iter();
    parts.filter_map(|part| Some((part.key?, part.position)))
}

/// Commits a unit, again and again while it is refused for now: those behind it must not pass.
async fn insist(engine: &dyn Engine, leases: &ShardLeases, mut unit: Unit) -> Option<Outcome> {
    let mut pause = PAUSE;
    loop {
        leases.remove(fences(&unit));
        match engine.commit(vec![unit]).await.pop()? {
            Outcome::NotApplied(refused, error) if error.may_retry() => {
                fences(&refused).for_each(|fence| leases.add(fence));
                tracing::warn!(?error, ?pause, "a commit was refused for now");
                unit = refused;
            }
            outcome => return Some(outcome),
        }
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

fn fences(unit: &Unit) -> impl Iterator<Item = strait_core::Fence> {
    unit.settle.iter().map(|(receipt, _)| receipt.fence())
}

/// One unit per part.
fn split(unit: Unit, ticket: &Ticket) -> Vec<(Ticket, Unit)> {
    let mut sends = unit.send.into_iter();
    let settle = unit.settle.into_iter().zip(&ticket.parts);
    settle
        .map(|((receipt, verdict), part)| {
            let mut own = Unit::settle(receipt, verdict);
            own.send = sends.by_ref().take(part.sends).collect();
            let ticket = Ticket {
                messages: 1,
                parts: vec![*part],
                tries: 0,
                abroad: None,
            };
            (ticket, own)
        })
        .collect()
}

#[inline]
fn push_joined(list: &mut Vec<Receipt>, receipt: Receipt) {
    let rest = match list.last_mut() {
        Some(last) => last.join(receipt).err(),
        None => Some(receipt),
    };
    list.extend(rest);
}

/// The receipts in order, neighbours joined.
fn joined(receipts: &mut Vec<Receipt>) -> impl Iterator<Item = Receipt> + use<> {
    let mut list = std::mem::take(receipts);
    list.sort_by_key(|receipt| receipt.fence().first);
    let mut ranges = Vec::with_capacity(list.len().min(16));
    for receipt in list {
        push_joined(&mut ranges, receipt);
    }
    ranges.into_iter()
}
