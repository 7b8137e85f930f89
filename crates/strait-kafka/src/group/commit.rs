//! The committer: one thread of the engine through which everything that a group keeps goes.
//!
//! What queues while a commit is under way goes into the next one. A round is one offset commit for each member; where a unit
//! sends anything or gives a message up, the round is one transaction with all of it inside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use strait_core::{Arrival, Error, Outcome, Outgoing, Position, Result, Sent, Shard, Unit, codes};
use strait_member::{End, Kept, Step};
use tokio::sync::oneshot;

use super::{Member, MemberLink, Queued, kept};
use crate::engine::Shared;
use crate::fault::{closed, fault, unavailable};
use crate::transact::{Failed, Transactions};

/// Before a commit that failed is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// How long the answer to a commit is waited for; then it is tried again.
const ANSWER: Duration = Duration::from_secs(3);
const COMMITTING: &str = "committing the offsets of a group";

/// What waits to be committed.
#[derive(Default)]
pub(crate) struct Commits {
    queue: Mutex<Vec<Work>>,
    bell: Condvar,
}

/// What one commit is to hold of a shard.
pub(crate) struct Part {
    pub(crate) member: Arc<Member>,
    pub(crate) shard: Shard,
    /// The assignment that it is of: of a later one it says nothing.
    pub(crate) epoch: u64,
    pub(crate) steps: Vec<Step>,
    /// First attempts up to here are marked as handed out.
    pub(crate) reserve: Option<Position>,
}

/// One thing to commit, whole.
pub(crate) struct Work {
    pub(crate) parts: Vec<Part>,
    /// Given to the member once it is durable.
    give: Option<(Arrival, u64)>,
    unit: Option<(Unit, oneshot::Sender<Outcome>)>,
    since: Instant,
}

impl Work {
    pub(crate) fn mark(part: Part, arrival: Arrival, turn: u64) -> Self {
        Work {
            give: Some((arrival, turn)),
            ..Work::steps(part)
        }
    }

    pub(crate) fn steps(part: Part) -> Self {
        Work {
            parts: vec![part],
            give: None,
            unit: None,
            since: Instant::now(),
        }
    }

    pub(crate) fn unit(parts: Vec<Part>, unit: Unit) -> (Self, oneshot::Receiver<Outcome>) {
        let (to, answer) = oneshot::channel();
        let work = Work {
            parts,
            give: None,
            unit: Some((unit, to)),
            since: Instant::now(),
        };
        (work, answer)
    }

    pub(crate) fn sends(&self) -> &[Outgoing] {
        self.unit.as_ref().map_or(&[], |(unit, _)| &unit.send)
    }

    /// Whether an offset commit alone cannot hold it: it writes messages, or spans groups.
    fn needs_transaction(&self) -> bool {
        let dead = |step: &Step| matches!(step.end, End::Dead { .. });
        let members = self
            .parts
            .iter()
            .any(|part| part.member.id != self.parts[0].member.id);
        members
            || !self.sends().is_empty()
            || self.parts.iter().any(|part| part.steps.iter().any(dead))
    }
}

/// What is to be committed of a shard in this round.
pub(crate) struct Plan {
    pub(crate) member: Arc<Member>,
    kept: Kept,
    text: String,
}

pub(crate) type Plans = BTreeMap<(u64, Shard), Plan>;

impl Commits {
    pub(crate) fn push_all(&self, works: impl IntoIterator<Item = Work>) {
        let mut queue = self.queue.lock();
        let before = queue.len();
        queue.extend(works);
        if queue.len() > before {
            self.bell.notify_one();
        }
    }

    pub(crate) fn ring(&self) {
        self.bell.notify_all();
    }

    fn wait(&self, time: Duration) -> Vec<Work> {
        let mut queue = self.queue.lock();
        if queue.is_empty() {
            self.bell.wait_for(&mut queue, time);
        }
        std::mem::take(&mut *queue)
    }
}

impl Shared {
    /// Runs the committer until the engine is closed and its members have left.
    pub(crate) fn commit_loop(&self) {
        let mut transactions = Transactions::default();
        loop {
            let works = self.commits.wait(Duration::from_millis(200));
            transactions.serve();
            if !works.is_empty() {
                self.round(works, &mut transactions);
            } else if self.pulse.is_closed() && self.members.lock().is_empty() {
                return;
            }
        }
    }

    fn round(&self, works: Vec<Work>, transactions: &mut Transactions) {
        let mut plans = Plans::new();
        let (mut now, mut later) = (Vec::new(), Vec::new());
        for work in works {
            match plan(&mut plans, &work) {
                Planned::In => now.push(work),
                Planned::NoRoom => later.push(work),
                Planned::Lost => end_lost(work),
            }
        }
        let failed = if now.iter().any(Work::needs_transaction) {
            self.in_transaction(now, &plans, transactions)
        } else {
            self.by_commits(now, &plans)
        };
        later.extend(failed);
        if !later.is_empty() {
            std::thread::sleep(PAUSE);
            later.retain_mut(|work| !self.give_up(work));
            self.commits.queue.lock().splice(0..0, later);
        }
    }

    /// One offset commit for each member. Gives back what is to be tried again.
    fn by_commits(&self, works: Vec<Work>, plans: &Plans) -> Vec<Work> {
        let mut ids: Vec<u64> = plans.keys().map(|(id, _)| *id).collect();
        ids.dedup();
        let deadline = Instant::now() + self.options.timeout.min(ANSWER);
        // All are under way at the same time.
        let begun: Vec<_> = ids
            .into_iter()
            .map(|id| (id, begin(self, plans, id)))
            .collect();
        let mut failed = Vec::new();
        for (id, begun) in begun {
            if let Err(error) = begun.and_then(|begun| end(&begun, deadline)) {
                tracing::debug!(?error, "an offset commit failed and is tried again");
                failed.push(id);
            }
        }
        let mut again = Vec::new();
        for work in works {
            match failed.contains(&work.parts[0].member.id) {
                true => again.push(work),
                false => end_applied(work, plans, Vec::new()),
            }
        }
        again
    }

    /// Everything in one transaction. Units that wrote something end with it, one way or the other; the rest is tried again.
    fn in_transaction(
        &self,
        works: Vec<Work>,
        plans: &Plans,
        transactions: &mut Transactions,
    ) -> Vec<Work> {
        let failed = match transactions.run(self, &works, plans) {
            Ok(sent) => {
                for (work, sent) in works.into_iter().zip(sent) {
                    end_applied(work, plans, sent);
                }
                return Vec::new();
            }
            Err(failed) => failed,
        };
        tracing::debug!(?failed, "a transaction was not committed");
        // Nothing of it happened, and next time it may: a rebalance, a broker that moves.
        if let Failed::Aborted(error) = &failed
            && (error.may_retry() || error.is(codes::FENCED))
        {
            return works;
        }
        let mut again = Vec::new();
        for mut work in works {
            match work.unit.take() {
                Some((unit, to)) if work.needs_effects(&unit) => {
                    end_back(&work);
                    let outcome = match &failed {
                        Failed::Aborted(error) => Outcome::NotApplied(unit, again_error(error)),
                        Failed::Unknown(error) => Outcome::Unknown(again_error(error).unknown()),
                    };
                    let _ = to.send(outcome);
                }
                unit => {
                    work.unit = unit;
                    again.push(work);
                }
            }
        }
        again
    }

    /// Ends a unit that was tried for too long. What no unit waits for is tried as long as its shard is there.
    fn give_up(&self, work: &mut Work) -> bool {
        let over = work.since.elapsed() > self.options.timeout;
        let Some((_, to)) = work.unit.take_if(|_| over) else {
            return false;
        };
        end_back(work);
        let _ = to.send(Outcome::Unknown(unavailable("committing a unit").unknown()));
        true
    }
}

impl Work {
    fn needs_effects(&self, unit: &Unit) -> bool {
        let dead = |step: &Step| matches!(step.end, End::Dead { .. });
        !unit.send.is_empty() || self.parts.iter().any(|part| part.steps.iter().any(dead))
    }
}

fn again_error(error: &Error) -> Error {
    Error::new(
        error.kind(),
        format!("the transaction was not committed: {}", error.message()),
    )
    .retry(true)
}

enum Planned {
    In,
    /// The metadata would be too long: it waits until earlier messages are settled.
    NoRoom,
    /// A shard of it was lost.
    Lost,
}

/// Puts a work into the plans of its shards, or leaves them as they are.
fn plan(plans: &mut Plans, work: &Work) -> Planned {
    let mut changed: Vec<((u64, Shard), Plan)> = Vec::new();
    for part in &work.parts {
        let mut inner = part.member.inner.lock();
        let Some(owned) = inner.owned(part.shard, part.epoch) else {
            return Planned::Lost;
        };
        let key = (part.member.id, part.shard);
        let before = changed
            .iter()
            .rev()
            .find(|(k, _)| *k == key)
            .map(|(_, plan)| &plan.kept);
        let before = before
            .or_else(|| plans.get(&key).map(|plan| &plan.kept))
            .cloned();
        let mut kept = before.unwrap_or_else(|| {
            let mut kept = owned.window.kept();
            kept.out = kept.out.max(owned.reserved);
            kept
        });
        for step in &part.steps {
            kept::apply(&mut kept, step, owned.window.messages(step));
        }
        kept.out = kept.out.max(part.reserve.unwrap_or_default());
        let Some(text) = kept::encode(&kept, part.epoch) else {
            return Planned::NoRoom;
        };
        let member = part.member.clone();
        changed.push((key, Plan { member, kept, text }));
    }
    plans.extend(changed);
    Planned::In
}

/// The offsets of one member's plans.
pub(crate) fn offsets(plans: &Plans, id: u64) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for ((_, shard), plan) in plans.range((id, 0)..=(id, Shard::MAX)) {
        put_offset(&mut list, &plan.member, *shard, &plan.kept, &plan.text)?;
    }
    Ok(list)
}

fn put_offset(
    list: &mut TopicPartitionList,
    member: &Member,
    shard: Shard,
    kept: &Kept,
    text: &str,
) -> Result<()> {
    let topic: &str = &member.spec.topic;
    let mut element = list.add_partition(topic, shard as i32);
    let low = Offset::Offset(kept.low.offset() as i64);
    element
        .set_offset(low)
        .map_err(|error| fault(COMMITTING, error))?;
    element.set_metadata(text);
    Ok(())
}

/// A commit that is under way, on a thread of its own: librdkafka's wait for the answer has no end where the group changes
/// meanwhile.
pub(super) struct Begun {
    answer: Receiver<Result<()>>,
}

impl Begun {
    pub(super) fn new(
        shared: &Shared,
        consumer: Arc<BaseConsumer<MemberLink>>,
        list: TopicPartitionList,
    ) -> Self {
        let (to, answer) = channel();
        shared.threads.push(Box::new(move || {
            let done = consumer.commit(&list, CommitMode::Sync);
            // Whoever waited may have given it up.
            let _ = to.send(done.map_err(|error| fault(COMMITTING, error)));
        }));
        Begun { answer }
    }

    /// Its answer, waited for until then; `None` when it is not there.
    pub(super) fn end(&self, deadline: Instant) -> Option<Result<()>> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.answer.recv_timeout(left) {
            Ok(done) => Some(done),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(closed())),
        }
    }
}

fn end(begun: &Begun, deadline: Instant) -> Result<()> {
    begun
        .end(deadline)
        .unwrap_or_else(|| Err(unavailable(COMMITTING)))
}

fn begin(shared: &Shared, plans: &Plans, id: u64) -> Result<Begun> {
    let list = offsets(plans, id)?;
    let plan = plans.range((id, 0)..).next().map(|(_, plan)| plan);
    let consumer = plan
        .and_then(|plan| plan.member.consumer())
        .ok_or_else(closed)?;
    Ok(Begun::new(shared, consumer, list))
}

impl Member {
    /// The offsets of one shard, as it stands when it is given back: what is out is abandoned, what was only read was never
    /// out.
    pub(super) fn last_offset(
        &self,
        shard: Shard,
        kept: &Kept,
        epoch: u64,
    ) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        let text = kept::encode(kept, epoch).unwrap_or_default();
        put_offset(&mut list, self, shard, kept, &text)?;
        Ok(list)
    }
}

/// It is durable.
fn end_applied(work: Work, plans: &Plans, sent: Vec<Sent>) {
    let mut given = work.give;
    for part in work.parts {
        let mut inner = part.member.inner.lock();
        let Some(owned) = inner.owned(part.shard, part.epoch) else {
            continue;
        };
        let dead = part
            .steps
            .iter()
            .filter(|step| matches!(step.end, End::Dead { .. }));
        let dead: u64 = dead.map(|step| step.count).sum();
        part.member.dead.fetch_add(dead, Ordering::Relaxed);
        for step in part.steps {
            owned.window.applied(step);
        }
        owned.reserved = owned.reserved.max(part.reserve.unwrap_or_default());
        if let Some(plan) = plans.get(&(part.member.id, part.shard)) {
            owned.full = plan.text.len() > kept::FULL;
            owned.reserved = owned.reserved.max(plan.kept.out);
        }
        owned.busy -= 1;
        owned.feed();
        if let Some((arrival, turn)) = given.take() {
            owned.marking = false;
            let of = Some((part.shard, turn));
            inner.arrivals.push_back(Queued { of, arrival });
        }
        inner.wake();
    }
    if let Some((unit, to)) = work.unit {
        for (receipt, _) in unit.settle {
            receipt.settle();
        }
        let _ = to.send(Outcome::Applied(sent));
    }
    // Of a shard that was lost meanwhile: nobody gets it here.
    drop(given);
}

/// It was not applied: its messages are out as before.
fn end_back(work: &Work) {
    work.parts.iter().for_each(Part::back);
}

impl Part {
    /// Undoes what was begun.
    pub(crate) fn back(&self) {
        let mut inner = self.member.inner.lock();
        if let Some(owned) = inner.owned(self.shard, self.epoch) {
            self.steps.iter().for_each(|step| owned.window.back(step));
            owned.busy -= 1;
            inner.wake();
        }
    }
}

/// A shard of it was lost: it changes nothing.
fn end_lost(work: Work) {
    end_back(&work);
    if let Some((unit, to)) = work.unit {
        let _ = to.send(Outcome::Fenced);
        drop(unit);
    }
}
