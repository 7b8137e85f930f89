//! The thread of a member: it polls the client, reads ahead, and carries rebalances out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use strait_core::events::GroupSpec;
use strait_core::{Arrival, ChunkBuilder, Error, Kind, Position, Result, Shard, Timestamp, codes};
use strait_member::{Kept, Rules};

use super::commit::{Begun, Part, Work};
use super::{Member, MemberLink, Move, Owned, Queued, Rebalance, answer, kept};
use crate::dead;
use crate::envelope;
use crate::fault::{fault, unavailable};

/// How long one poll waits for a message.
const WAIT: Duration = Duration::from_millis(50);
/// The same while something is to be given back, or to end.
const SHORT: Duration = Duration::from_millis(3);
/// Messages of one poll, and of one chunk.
const MOST: usize = 2_000;
/// Bytes of one chunk.
const CHUNK: usize = 1 << 20;
/// Messages that may wait for room in the window of a shard, and bytes of them; then the shard is paused.
const BACKLOG: usize = 8_000;
/// How long the last commit of a shard is tried.
const LAST: Duration = Duration::from_secs(3);
/// How often the dead letters are counted while there are too many.
const COUNT: Duration = Duration::from_millis(250);
/// How long a member that leaves waits for what is being committed.
const LEAVE: Duration = Duration::from_secs(5);

type Client = Arc<BaseConsumer<MemberLink>>;

/// Partitions that are being given back.
struct Giving {
    partitions: TopicPartitionList,
    shards: Vec<Shard>,
    deadline: Instant,
}

/// What the thread knows.
struct Thread {
    member: Arc<Member>,
    consumer: Client,
    gathers: HashMap<Shard, (ChunkBuilder, u64)>,
    giving: Vec<Giving>,
    /// When the dead letters were counted last.
    counted: Instant,
    /// The group has let it in: the broker knows its id, and it knows it too.
    joined: bool,
}

impl Member {
    /// Starts the thread, which ends when the member leaves.
    pub(super) fn start(self: &Arc<Self>) -> Result<()> {
        let Some(consumer) = self.consumer() else {
            return Ok(());
        };
        consumer
            .subscribe(&[&self.spec.topic])
            .map_err(|error| fault(format!("joining the group {:?}", self.spec.group), error))?;
        let thread = Thread {
            member: self.clone(),
            consumer,
            gathers: HashMap::new(),
            giving: Vec::new(),
            counted: Instant::now(),
            joined: false,
        };
        let named = std::thread::Builder::new().name("strait-kafka-poll".to_owned());
        named
            .spawn(move || thread.run())
            .map(drop)
            .map_err(|error| Error::io("a thread for a member", error))
    }
}

impl Thread {
    fn run(mut self) {
        while !self.is_over() {
            if let Err(error) = self.step() {
                tracing::warn!(?error, member = ?self.member, "a member of a Kafka group");
            }
        }
        self.leave();
    }

    fn is_over(&self) -> bool {
        let inner = self.member.inner.lock();
        inner.leaving || inner.ended || self.member.shared.pulse.is_closed()
    }

    fn step(&mut self) -> Result<()> {
        let wait = if self.giving.is_empty() { WAIT } else { SHORT };
        self.read(wait)?;
        self.offer();
        loop {
            let next = self.consumer.context().rebalances.lock().pop_front();
            let Some(Rebalance { assign, partitions }) = next else {
                break;
            };
            self.joined = assign || !self.consumer.assignment_lost();
            match assign {
                true => self.assigned(&partitions)?,
                false => {
                    // With the consumer protocol the end of a topic looks like a move of its partitions.
                    if let Some(Err(error)) = self.joined.then(|| self.is_topic_gone()) {
                        tracing::debug!(?error, "asking whether the topic is there");
                    }
                    self.revoked(partitions);
                }
            }
        }
        self.join_anew()?;
        self.give_back()?;
        self.move_shards();
        self.look();
        self.count_dead();
        Ok(())
    }

    /// Leaves the group and joins it again where that was asked for: commits of before are void then.
    fn join_anew(&mut self) -> Result<()> {
        let member = self.member.clone();
        if !std::mem::take(&mut member.inner.lock().anew) {
            return Ok(());
        }
        tracing::warn!(
            ?member,
            "a commit was never answered: the member joins its group anew"
        );
        self.consumer.unsubscribe();
        self.consumer
            .subscribe(&[&member.spec.topic])
            .map_err(|error| fault(format!("joining the group {:?}", member.spec.group), error))
    }

    /// While the group has too many dead letters it is looked at whether some were removed.
    fn count_dead(&mut self) {
        if !self.member.too_many_dead() || self.counted.elapsed() < COUNT {
            return;
        }
        self.counted = Instant::now();
        let GroupSpec { group, topic, .. } = &self.member.spec;
        let found = dead::topic_of(group, topic)
            .and_then(|topic| self.member.shared.all_dead_now(&topic, &|| true));
        if let Ok(found) = found {
            self.member
                .dead
                .store(found.len() as u64, Ordering::Relaxed);
            self.member.inner.lock().wake();
        }
    }

    /// Moves shards to where an operator wants them: the member loses each, and gets it again.
    fn move_shards(&mut self) {
        let moves = std::mem::take(&mut self.member.inner.lock().moves);
        for Move { shard, to, done } in moves {
            // Whoever asked may have gone meanwhile.
            let _ = done.send(self.move_shard(shard, to));
        }
    }

    fn move_shard(&mut self, shard: Shard, to: u64) -> Result<()> {
        let member = self.member.clone();
        let (old, void) = {
            let mut inner = member.inner.lock();
            if inner.shards.get(&shard).is_none_or(|owned| owned.revoking) {
                let text = format!("partition {shard} moves between members just now");
                return Err(Error::new(Kind::Conflict, text)
                    .retry(true)
                    .next("try again"));
            }
            let of_it = |queued: &Queued| queued.of.is_some_and(|(of, _)| of == shard);
            let (void, stay): (Vec<Queued>, Vec<Queued>) =
                inner.arrivals.drain(..).partition(of_it);
            inner.arrivals.extend(stay);
            (inner.shards.remove(&shard), void)
        };
        let epoch = old.as_ref().map_or(0, |owned| owned.epoch) + 1;
        drop((old, void));
        self.gathers.remove(&shard);
        let kept = kept::at(to);
        let topic = &member.spec.topic;
        let sought = self.commit_last(shard, &kept, epoch).and_then(|()| {
            let time = member.shared.options.timeout;
            let sought = self
                .consumer
                .seek(topic, shard as i32, Offset::Offset(to as i64), time);
            sought.map_err(|error| {
                fault(format!("moving to offset {to} of partition {shard}"), error)
            })
        });
        let mut inner = member.inner.lock();
        inner.arrive(Arrival::Lost(shard));
        let owned = Owned::new(shard, member.id, epoch, Rules::of(&member.spec), kept);
        inner.shards.insert(shard, owned);
        inner.arrive(Arrival::Assigned(shard));
        sought
    }

    /// Reads what is there, at most [`MOST`] messages, after at most `wait`.
    fn read(&mut self, wait: Duration) -> Result<()> {
        let mut wait = wait;
        for _ in 0..MOST {
            let message = match self.consumer.poll(wait) {
                None => return Ok(()),
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    let gone = error.rdkafka_error_code();
                    if matches!(
                        gone,
                        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic)
                    ) {
                        return self.is_topic_gone();
                    }
                    // Connections come back by themselves, and the health tells of them.
                    tracing::debug!(%error, "a member of a Kafka group");
                    return Ok(());
                }
            };
            wait = Duration::ZERO;
            let shard = message.partition() as Shard;
            let topic = &self.member.spec.topic;
            let entry = self.gathers.entry(shard);
            let (gather, next) =
                entry.or_insert_with(|| (ChunkBuilder::new(topic.clone(), shard), 0));
            envelope::push(gather, &message)?;
            *next = message.offset() as u64 + 1;
            if gather.bytes() >= CHUNK {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The topic may be deleted: then the member ends.
    fn is_topic_gone(&self) -> Result<()> {
        let member = &self.member;
        match member.shared.metadata(Some(&member.spec.topic)) {
            Err(error) if error.is(codes::NO_SUCH_TOPIC) => {
                let mut inner = member.inner.lock();
                inner.ended = true;
                inner.wake();
                let gone = std::mem::take(&mut inner.shards);
                let arrivals = std::mem::take(&mut inner.arrivals);
                drop(inner);
                drop((gone, arrivals));
                Ok(())
            }
            found => found.map(drop),
        }
    }

    /// Gives what was read to the windows, and stops reading what they have no room for.
    fn offer(&mut self) {
        let mut inner = self.member.inner.lock();
        let (mut stop, mut go) = (TopicPartitionList::new(), TopicPartitionList::new());
        for (shard, (gather, next)) in self.gathers.drain() {
            if let Some(owned) = inner.shards.get_mut(&shard).filter(|owned| !owned.revoking) {
                let chunk = gather.build(Position::at(next));
                owned.backlog_len += chunk.len();
                owned.backlog.push_back(chunk);
            }
        }
        for (shard, owned) in &mut inner.shards {
            owned.feed();
            let much = owned.backlog_len >= BACKLOG || owned.backlog.len() > 16;
            let list = match (owned.paused, much) {
                (false, true) => &mut stop,
                (true, false) if owned.backlog.is_empty() => &mut go,
                _ => continue,
            };
            owned.paused = much;
            list.add_partition(&self.member.spec.topic, *shard as i32);
        }
        inner.wake();
        drop(inner);
        for (list, pauses) in [(stop, true), (go, false)] {
            let done = match (list.count(), pauses) {
                (0, _) => continue,
                (_, true) => self.consumer.pause(&list),
                (_, false) => self.consumer.resume(&list),
            };
            if let Err(error) = done {
                tracing::debug!(%error, "pausing a partition");
            }
        }
    }

    /// Leases that are over while nobody asks for messages.
    fn look(&self) {
        let member = &self.member;
        let mut inner = member.inner.lock();
        let (now, wall) = (member.now(), Timestamp::now());
        let works: Vec<Work> = inner
            .shards
            .iter_mut()
            .filter_map(|(shard, owned)| member.expired(*shard, owned, now, wall))
            .collect();
        drop(inner);
        member.shared.commits.push_all(works);
    }

    fn assigned(&mut self, partitions: &TopicPartitionList) -> Result<()> {
        let member = self.member.clone();
        let shards: Vec<Shard> = partitions
            .elements()
            .iter()
            .map(|e| e.partition() as Shard)
            .collect();
        let mut list = TopicPartitionList::new();
        let mut windows = Vec::new();
        for (shard, kept, epoch) in self.begin(&shards)? {
            list.add_partition_offset(
                &member.spec.topic,
                shard as i32,
                Offset::Offset(kept.low.offset() as i64),
            )
            .map_err(|error| fault("taking over partitions", error))?;
            windows.push((shard, kept, epoch));
        }
        self.consumer
            .incremental_assign(&list)
            .map_err(|error| fault("taking over partitions", error))?;
        let mut works = Vec::new();
        let mut inner = member.inner.lock();
        for (shard, kept, epoch) in windows {
            let owned = Owned::new(shard, member.id, epoch, Rules::of(&member.spec), kept);
            inner.shards.insert(shard, owned);
            inner.arrive(Arrival::Assigned(shard));
            // The epoch, and where a group begins that had no position, are durable from here on.
            if let Some(owned) = inner.shards.get_mut(&shard) {
                owned.busy += 1;
            }
            works.push(Work::steps(Part {
                member: member.clone(),
                shard,
                epoch,
                steps: Vec::new(),
                reserve: None,
            }));
        }
        drop(inner);
        member.shared.commits.push_all(works);
        Ok(())
    }

    /// Where the partitions begin. Tried until it is known: without it nothing can be taken over.
    fn begin(&self, shards: &[Shard]) -> Result<Vec<(Shard, Kept, u64)>> {
        loop {
            match self.member.starts(&self.consumer, shards) {
                Err(error) if error.may_retry() && !self.is_over() => {
                    tracing::debug!(?error, "asking for the position of a group");
                    std::thread::sleep(WAIT);
                }
                found => return found,
            }
        }
    }

    fn revoked(&mut self, partitions: TopicPartitionList) {
        let lost = self.consumer.assignment_lost();
        let handover = self.member.spec.handover;
        let shards: Vec<Shard> = partitions
            .elements()
            .iter()
            .map(|e| e.partition() as Shard)
            .collect();
        let mut inner = self.member.inner.lock();
        let mut gone = Vec::new();
        for shard in &shards {
            if lost {
                gone.extend(inner.shards.remove(shard));
                inner.arrive(Arrival::Lost(*shard));
            } else if let Some(owned) = inner.shards.get_mut(shard) {
                owned.revoking = true;
                inner.arrive(Arrival::Revoking(*shard, handover));
            }
        }
        drop(inner);
        drop(gone);
        let wait = if lost { Duration::ZERO } else { handover };
        self.giving.push(Giving {
            partitions,
            shards,
            deadline: Instant::now() + wait,
        });
    }

    /// Gives back what the member is done with, or has had long enough.
    fn give_back(&mut self) -> Result<()> {
        let mut at = 0;
        while at < self.giving.len() {
            match self.is_given(at) {
                true => {
                    let giving = self.giving.remove(at);
                    self.end_shards(&giving.shards, giving.deadline);
                    self.consumer
                        .incremental_unassign(&giving.partitions)
                        .map_err(|error| fault("giving partitions back", error))?;
                }
                false => at += 1,
            }
        }
        Ok(())
    }

    /// Handed back or out of time, and nothing of it is being committed.
    fn is_given(&self, at: usize) -> bool {
        let Giving {
            shards, deadline, ..
        } = &self.giving[at];
        let over = Instant::now() >= *deadline;
        let too_long = Instant::now() >= *deadline + LEAVE;
        let mut inner = self.member.inner.lock();
        let inner = &mut *inner;
        shards.iter().all(|shard| {
            inner.shards.get_mut(shard).is_none_or(|owned| {
                // From here on its receipts are no longer valid.
                owned.handed_back |= over;
                owned.handed_back && owned.busy == 0 || too_long
            })
        })
    }

    /// Commits where shards stand, and forgets them.
    fn end_shards(&mut self, shards: &[Shard], deadline: Instant) {
        let member = self.member.clone();
        for shard in shards {
            self.gathers.remove(shard);
            let (found, void) = {
                let mut inner = member.inner.lock();
                let void = take_back(&mut inner, *shard);
                (inner.shards.remove(shard), void)
            };
            drop(void);
            let Some(owned) = found else { continue };
            let kept = owned.window.kept();
            // One that is still under way holds all that was ended, and must not come after this.
            let last = match owned.busy {
                0 => self.commit_last(*shard, &kept, owned.epoch),
                _ => Ok(()),
            };
            if let Err(error) = last {
                tracing::warn!(
                    ?error,
                    shard,
                    "where a partition stands could not be committed"
                );
            }
            if Instant::now() >= deadline {
                member.inner.lock().arrive(Arrival::Lost(*shard));
            }
        }
    }

    /// Commits where a shard stands. A group that is about to agree on its members takes it a moment later.
    fn commit_last(&mut self, shard: Shard, kept: &Kept, epoch: u64) -> Result<()> {
        let deadline = Instant::now() + LAST;
        let list = self.member.last_offset(shard, kept, epoch)?;
        loop {
            let begun = Begun::new(&self.member.shared, self.consumer.clone(), list.clone());
            let done = loop {
                if let Some(done) = begun.end(Instant::now() + SHORT) {
                    break done;
                }
                if Instant::now() >= deadline {
                    return Err(unavailable("committing where a partition stands"));
                }
                // The client wants to be polled; what comes is of partitions that stay.
                self.read(Duration::ZERO)?;
            };
            if done.is_ok() || Instant::now() >= deadline {
                return done;
            }
            self.read(WAIT)?;
        }
    }

    /// Waits until the group has let the member in. A broker gives one that asks an id first, and then waits for it, with the
    /// whole group, as long as a session lasts: one that went before it had the id could not say so.
    fn be_in(&mut self) {
        let deadline = Instant::now() + LEAVE;
        let consumer = self.consumer.clone();
        let told = || !consumer.context().rebalances.lock().is_empty();
        while !self.joined && !told() && Instant::now() < deadline {
            let _ = self.consumer.poll(SHORT);
        }
    }

    /// Ends the member: what it has is committed, its partitions go to others.
    fn leave(mut self) {
        let member = self.member.clone();
        let deadline = Instant::now() + LEAVE;
        {
            let mut inner = member.inner.lock();
            inner.shards.values_mut().for_each(|owned| {
                owned.revoking = true;
                owned.handed_back = true;
            });
        }
        let busy = || {
            member
                .inner
                .lock()
                .shards
                .values()
                .any(|owned| owned.busy > 0)
        };
        while busy() && Instant::now() < deadline {
            let _ = self.consumer.poll(SHORT);
        }
        let shards: Vec<Shard> = member.inner.lock().shards.keys().copied().collect();
        self.end_shards(&shards, deadline + LEAVE);
        self.be_in();
        let left = {
            let mut inner = member.inner.lock();
            inner.ended = true;
            inner.wake();
            std::mem::take(&mut inner.arrivals)
        };
        // Receipts of shards that were lost: their member is told, which takes its lock.
        drop(left);
        self.consumer.context().left.store(true, Ordering::Release);
        // Said while it still has its partitions: a client that has none ends without a word, and the group waits for it. A static
        // member says nothing: its place is kept for it.
        if member.shared.options.instance_id.is_none() {
            self.consumer.unsubscribe();
        }
        // A rebalance that was noted and not carried out would hold the end up.
        let noted: Vec<Rebalance> = self
            .consumer
            .context()
            .rebalances
            .lock()
            .drain(..)
            .collect();
        let noted = noted
            .into_iter()
            .map(|noted| (noted.assign, noted.partitions));
        let giving = self
            .giving
            .drain(..)
            .map(|giving| (false, giving.partitions));
        for (assign, partitions) in noted.chain(giving).collect::<Vec<_>>() {
            answer(&self.consumer, assign, &partitions);
        }
        drop(member.consumer.write().take());
        let Thread { consumer, .. } = self;
        let deadline = Instant::now() + LEAVE;
        // Commits that were given up may still hold the client.
        while Arc::strong_count(&consumer) > 1 && Instant::now() < deadline {
            let _ = consumer.poll(SHORT);
        }
        // The client ends on this thread: that blocks until the group knows.
        drop(consumer);
        member.shared.members.lock().remove(&member.id);
        member.shared.commits.ring();
    }
}

/// Takes arrivals of a shard back that nobody has looked at: no attempt is spent. Gives those of a shard that was lost, to be
/// dropped without the lock.
fn take_back(inner: &mut super::Inner, shard: Shard) -> Vec<Queued> {
    let of_it = |queued: &Queued| queued.of.is_some_and(|(of, _)| of == shard);
    let (back, stay): (Vec<Queued>, Vec<Queued>) = inner.arrivals.drain(..).partition(of_it);
    inner.arrivals.extend(stay);
    let Some(owned) = inner.shards.get_mut(&shard) else {
        return back;
    };
    back.into_iter()
        .for_each(|queued| owned.take_back(queued.arrival));
    Vec::new()
}
