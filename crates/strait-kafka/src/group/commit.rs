//! The committer: one thread of the engine through which everything that a group keeps goes.
//!
//! What queues while a commit is under way goes into the next one. A commit is of one member, and each member has one under
//! way at most: the client tries a commit again when the broker went away, and one that comes in late must not undo a later
//! one. Where a unit sends anything or gives a message up, the commit is a transaction with all of it inside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use strait_core::{
    Arrival, Effect, Error, Outcome, Outgoing, Position, Result, Sent, Shard, Unit, codes,
};
use strait_member::{End, Kept, Step};
use tokio::sync::oneshot;

use super::{Member, MemberLink, Queued, kept};
use crate::engine::Shared;
use crate::fault::{closed, fault, refused, unavailable};
use crate::transact::{Failed, Transactions};

/// Before a commit that failed is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// How often commits that are under way are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// A commit without an answer for so long never gets one: its member joins anew, and what it says is void.
const NEVER: Duration = Duration::from_secs(45);
const COMMITTING: &str = "committing the offsets of a group";

/// What waits to be committed.
#[derive(Default)]
pub(crate) struct Commits {
    desk: Mutex<Desk>,
    bell: Condvar,
}

#[derive(Default)]
struct Desk {
    works: Vec<Work>,
    /// Members with a commit under way: their works wait.
    busy: BTreeSet<u64>,
    answers: Vec<Answer>,
}

/// The answer to a commit.
struct Answer {
    member: u64,
    /// Which of its commits.
    number: u64,
    done: Result<()>,
}

impl Desk {
    /// The works that may be committed now; the others stay, in their order.
    fn ready(&mut self) -> Vec<Work> {
        let busy = &self.busy;
        let waits = |work: &Work| work.parts.iter().any(|part| busy.contains(&part.member.id));
        let (stay, go) = std::mem::take(&mut self.works).into_iter().partition(waits);
        self.works = stay;
        go
    }
}

/// A member's commit that is under way.
struct Underway {
    number: u64,
    works: Vec<Work>,
    plans: Plans,
    since: Instant,
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
    /// It was tried, and the broker may have it.
    unsure: bool,
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
            unsure: false,
        }
    }

    pub(crate) fn unit(parts: Vec<Part>, unit: Unit) -> (Self, oneshot::Receiver<Outcome>) {
        let (to, answer) = oneshot::channel();
        let work = Work {
            parts,
            give: None,
            unit: Some((unit, to)),
            since: Instant::now(),
            unsure: false,
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
        let mut desk = self.desk.lock();
        let before = desk.works.len();
        desk.works.extend(works);
        if desk.works.len() > before {
            self.bell.notify_one();
        }
    }

    pub(crate) fn ring(&self) {
        self.bell.notify_all();
    }

    /// Answers, and works that may be committed; waits a moment where there are none.
    fn wait(&self) -> (Vec<Answer>, Vec<Work>) {
        let mut desk = self.desk.lock();
        let mut ready = desk.ready();
        if ready.is_empty() && desk.answers.is_empty() {
            self.bell.wait_for(&mut desk, LOOK);
            ready = desk.ready();
        }
        (std::mem::take(&mut desk.answers), ready)
    }

    /// Puts works back, before what came meanwhile.
    fn back(&self, works: Vec<Work>) {
        self.desk.lock().works.splice(0..0, works);
    }

    fn set_busy(&self, id: u64, busy: bool) {
        let mut desk = self.desk.lock();
        match busy {
            true => desk.busy.insert(id),
            false => desk.busy.remove(&id),
        };
    }
}

/// The committer's own state.
#[derive(Default)]
struct Committer {
    transactions: Transactions,
    underway: BTreeMap<u64, Underway>,
    count: u64,
}

impl Shared {
    /// Runs the committer until the engine is closed and its members have left.
    pub(crate) fn commit_loop(&self) {
        let mut committer = Committer::default();
        loop {
            let (answers, works) = self.commits.wait();
            committer.transactions.serve();
            let idle = answers.is_empty() && works.is_empty() && committer.underway.is_empty();
            let mut later = committer.ended(self, answers);
            later.extend(committer.round(self, works));
            committer.look(self);
            if !later.is_empty() {
                std::thread::sleep(PAUSE);
                later.retain_mut(|work| !work.give_up(self.options.timeout));
                self.commits.back(later);
            } else if idle && self.pulse.is_closed() && self.members.lock().is_empty() {
                return;
            }
        }
    }
}

impl Committer {
    /// Commits what may be committed. Gives back what is to be tried again.
    fn round(&mut self, shared: &Shared, works: Vec<Work>) -> Vec<Work> {
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
            self.in_transaction(shared, now, &plans)
        } else {
            self.by_commits(shared, now, plans)
        };
        later.extend(failed);
        later
    }

    /// Begins one offset commit for each member. Gives back what could not be begun.
    fn by_commits(&mut self, shared: &Shared, works: Vec<Work>, plans: Plans) -> Vec<Work> {
        let mut by_member: BTreeMap<u64, (Vec<Work>, Plans)> = BTreeMap::new();
        for work in works {
            let of_it = by_member.entry(work.parts[0].member.id).or_default();
            of_it.0.push(work);
        }
        for (key, plan) in plans {
            by_member.entry(key.0).or_default().1.insert(key, plan);
        }
        let mut failed = Vec::new();
        for (id, (works, plans)) in by_member {
            self.count += 1;
            let number = self.count;
            shared.commits.set_busy(id, true);
            if let Err(error) = begin(shared, &plans, id, number) {
                tracing::debug!(?error, "an offset commit could not be begun");
                shared.commits.set_busy(id, false);
                failed.extend(works);
                continue;
            }
            let since = Instant::now();
            let under = Underway {
                number,
                works,
                plans,
                since,
            };
            self.underway.insert(id, under);
        }
        failed
    }

    /// Commits that were answered. Gives back what is to be tried again.
    fn ended(&mut self, shared: &Shared, answers: Vec<Answer>) -> Vec<Work> {
        let mut again = Vec::new();
        for Answer {
            member: id,
            number,
            done,
        } in answers
        {
            // What was given up may be answered all the same.
            let Some(under) = self.underway.remove(&id) else {
                continue;
            };
            if under.number != number {
                self.underway.insert(id, under);
                continue;
            }
            match done {
                Ok(()) => under
                    .works
                    .into_iter()
                    .for_each(|work| end_applied(work, &under.plans, Vec::new())),
                Err(error) => {
                    tracing::debug!(?error, "an offset commit failed and is tried again");
                    let unsure = error.effect() == Effect::Unknown;
                    again.extend(under.works.into_iter().map(|work| work.tried(unsure)));
                }
            }
            shared.commits.set_busy(id, false);
        }
        again
    }

    /// Commits under way that nobody needs to wait for any more: of shards that are all lost, or never to be answered.
    fn look(&mut self, shared: &Shared) {
        let mut void = Vec::new();
        for (id, under) in &mut self.underway {
            let over = under.since.elapsed() > NEVER;
            under
                .works
                .iter_mut()
                .for_each(|work| work.answer_late(shared.options.timeout));
            if over {
                under
                    .works
                    .iter()
                    .for_each(|work| work.parts[0].member.join_anew());
            }
            if over || under.works.iter().all(Work::is_lost) {
                void.push(*id);
            }
        }
        for id in void {
            let under = self.underway.remove(&id);
            let works = under.map(|under| under.works).unwrap_or_default();
            works
                .into_iter()
                .for_each(|work| end_lost(work.tried(true)));
            shared.commits.set_busy(id, false);
        }
    }

    /// Everything in one transaction. Units that wrote something end with it, one way or the other; the rest is tried again.
    fn in_transaction(&mut self, shared: &Shared, works: Vec<Work>, plans: &Plans) -> Vec<Work> {
        let failed = match self.transactions.run(shared, &works, plans) {
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
}

impl Work {
    /// Ends a unit that was tried for too long. What no unit waits for is tried as long as its shard is there.
    fn give_up(&mut self, longest: Duration) -> bool {
        let over = self.since.elapsed() > longest;
        let Some((_, to)) = self.unit.take_if(|_| over) else {
            return false;
        };
        end_back(self);
        let _ = to.send(Outcome::Unknown(unavailable("committing a unit").unknown()));
        true
    }

    /// Tells whoever waits for a unit that is under way for too long; it may still be committed.
    fn answer_late(&mut self, longest: Duration) {
        let over = self.since.elapsed() > longest;
        if let Some((_, to)) = self.unit.take_if(|_| over) {
            let _ = to.send(Outcome::Unknown(unavailable("committing a unit").unknown()));
        }
    }

    fn tried(mut self, unsure: bool) -> Self {
        self.unsure |= unsure;
        self
    }

    /// Whether none of its shards is of the assignment that it was begun in.
    fn is_lost(&self) -> bool {
        self.parts.iter().all(|part| {
            let mut inner = part.member.inner.lock();
            inner.owned(part.shard, part.epoch).is_none()
        })
    }

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

/// Commits on a thread of its own, and then calls: librdkafka's wait for the answer has no end where the group changes
/// meanwhile.
fn commit_beside(
    shared: &Shared,
    consumer: Arc<BaseConsumer<MemberLink>>,
    list: TopicPartitionList,
    then: impl FnOnce(Result<()>) + Send + 'static,
) {
    shared.threads.push(Box::new(move || {
        let done = consumer.commit(&list, CommitMode::Sync);
        drop(consumer);
        then(done.map_err(|error| match refused(&error) {
            true => fault(COMMITTING, error),
            false => fault(COMMITTING, error).unknown(),
        }));
    }));
}

/// A commit whose answer is waited for.
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
        // Whoever waited may have given it up.
        commit_beside(shared, consumer, list, move |done| drop(to.send(done)));
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

/// Begins the commit of one member; the answer goes to the committer's desk.
fn begin(shared: &Shared, plans: &Plans, id: u64, number: u64) -> Result<()> {
    let list = offsets(plans, id)?;
    let plan = plans.range((id, 0)..).next().map(|(_, plan)| plan);
    let member = plan.map(|plan| plan.member.clone()).ok_or_else(closed)?;
    let consumer = member.consumer().ok_or_else(closed)?;
    commit_beside(shared, consumer, list, move |done| {
        let commits = &member.shared.commits;
        let answer = Answer {
            member: id,
            number,
            done,
        };
        commits.desk.lock().answers.push(answer);
        commits.ring();
    });
    Ok(())
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

/// A shard of it was lost: it changes nothing, unless the broker has it from before.
fn end_lost(work: Work) {
    end_back(&work);
    if let Some((unit, to)) = work.unit {
        let _ = to.send(match work.unsure {
            true => Outcome::Unknown(unavailable("committing a unit").unknown()),
            false => Outcome::Fenced,
        });
        drop(unit);
    }
}
