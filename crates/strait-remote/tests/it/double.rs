//! A small engine in memory for tests of the protocol: it counts what reaches it, and can be told to stall or refuse.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use strait_core::events::*;
use strait_core::*;
use tokio::sync::{Notify, watch};

/// What the double knows and counts.
#[derive(Debug)]
pub(crate) struct Double {
    pub(crate) health: watch::Sender<Health>,
    /// Appends wait for this to become false.
    pub(crate) stalled: watch::Sender<bool>,
    /// Commits answer `NotApplied`.
    pub(crate) refusing: AtomicBool,
    pub(crate) appends: AtomicUsize,
    /// Reads that wait at the moment.
    pub(crate) waiting: watch::Sender<usize>,
    /// Told at each change of what the tests wait for.
    pub(crate) changed: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    topics: BTreeMap<Name, Vec<Vec<(Records, u64)>>>,
    seen: HashMap<u128, Sent>,
    next_consumer: u64,
    members: HashMap<u64, Member>,
    settled: Vec<(Fence, Verdict)>,
    abandoned: Vec<Fence>,
    extended: Vec<Fence>,

    left: Vec<u64>,
    held: Vec<(Shard, bool)>,
    handed_back: Vec<Shard>,
}

#[derive(Debug, Default)]
struct Member {
    queue: VecDeque<Arrival>,
    /// Items given out so far.
    given: usize,
    /// The greatest number of items asked for at once.
    most_asked: usize,
    waker: Option<Waker>,
    failed: Option<Error>,
}

impl Double {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Double {
            health: watch::Sender::new(Health::Up),
            stalled: watch::Sender::new(false),
            refusing: AtomicBool::new(false),
            appends: AtomicUsize::new(0),
            waiting: watch::Sender::new(0),
            changed: Notify::new(),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until the state is so.
    pub(crate) async fn until(&self, mut is: impl FnMut(&Self) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if is(self) {
                    return;
                }
                changed.await;
            }
        };
        let late = Duration::from_secs(20);
        tokio::time::timeout(late, wait)
            .await
            .expect("it never became so");
    }

    pub(crate) fn settled(&self) -> Vec<(Fence, Verdict)> {
        self.state().settled.clone()
    }

    pub(crate) fn abandoned(&self) -> Vec<Fence> {
        self.state().abandoned.clone()
    }

    pub(crate) fn extended(&self) -> Vec<Fence> {
        self.state().extended.clone()
    }

    pub(crate) fn left(&self) -> Vec<u64> {
        self.state().left.clone()
    }

    pub(crate) fn held(&self) -> Vec<(Shard, bool)> {
        self.state().held.clone()
    }

    pub(crate) fn handed_back(&self) -> Vec<Shard> {
        self.state().handed_back.clone()
    }

    /// The number of items that went to a consumer, and the most that were asked for at once.
    pub(crate) fn given(&self, consumer: u64) -> (usize, usize) {
        let state = self.state();
        let member = &state.members[&consumer];
        (member.given, member.most_asked)
    }

    /// Puts an arrival before a consumer.
    pub(crate) fn offer(&self, consumer: u64, arrival: Arrival) {
        let mut state = self.state();
        let member = state.members.get_mut(&consumer).unwrap();
        member.queue.push_back(arrival);
        if let Some(waker) = member.waker.take() {
            waker.wake();
        }
    }

    /// Puts a run of so many records of a shard before a consumer.
    pub(crate) fn offer_run(self: &Arc<Self>, consumer: u64, shard: Shard, first: u64, count: u32) {
        let records = batch(count as usize, 10);
        let fence = fence(consumer, shard, first, count);
        let span = Span {
            at: 0,
            first: Position::at(first),
            skip: 0,
            take: count,
            appended: Timestamp::from_millis(5),
        };
        let next = Position::at(first + u64::from(count));
        let chunk = Chunk::new(
            "orders".into(),
            shard,
            records.bytes().clone(),
            vec![span],
            next,
        );
        let receipt = Receipt::new(fence, Some(self.clone()));
        self.offer(consumer, Arrival::Run(chunk, receipt));
    }

    pub(crate) fn fail(&self, consumer: u64, error: Error) {
        let mut state = self.state();
        let member = state.members.get_mut(&consumer).unwrap();
        member.failed = Some(error);
        if let Some(waker) = member.waker.take() {
            waker.wake();
        }
    }
}

pub(crate) fn fence(consumer: u64, shard: Shard, first: u64, count: u32) -> Fence {
    Fence {
        consumer,
        epoch: 1,
        shard,
        first: Position::at(first),
        count,
    }
}

/// A batch of so many records of so many bytes.
pub(crate) fn batch(count: usize, body: usize) -> Records {
    let mut builder = RecordsBuilder::new(&[(Attr::Kind, "k.v1")]).unwrap();
    for number in 0..count {
        let body = vec![number as u8; body];
        builder
            .push(NewRecord {
                body: &body,
                ..Default::default()
            })
            .unwrap();
    }
    builder.build()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn append(topic: &str, partition: u32, records: Records) -> Append {
    Append {
        topic: name(topic),
        partition,
        records,
        expected: Expected::Any,
        dedupe: false,
    }
}

pub(crate) fn cursor(topic: &str, partition: u32, at: u64, wait: Duration) -> Cursor {
    Cursor {
        topic: name(topic),
        partition,
        position: Position::at(at),
        wait,
    }
}

fn ready<T: Send + 'static>(value: T) -> Fut<T> {
    Box::pin(std::future::ready(value))
}

fn refused<T: Send + 'static>() -> Fut<Result<T>> {
    ready(Err(Error::unsupported("the double", "the real engine")))
}

impl Abandoned for Double {
    fn abandoned(&self, fence: Fence) {
        self.state().abandoned.push(fence);
        self.change();
    }
}

/// The engine's handle: traits are for the engine, the double is shared with the test.
#[derive(Debug, Clone)]
pub(crate) struct Handle(pub(crate) Arc<Double>);

impl Engine for Handle {
    fn backup(&self, to: PathBuf) -> Fut<Result<Backup>> {
        let sequence = to.as_os_str().len() as u64;
        ready(Ok(Backup {
            sequence,
            taken: strait_core::Timestamp::from_millis(1),
            files: 2,
            bytes: 3,
        }))
    }

    fn storage(&self) -> Fut<Result<Storage>> {
        ready(Ok(Storage {
            used: 1 << 40,
            spare: 2,
            free: 3,
            growth: Some(Growth {
                per_second: -4,
                over: Duration::from_millis(5),
            }),
            full_in: Some(Duration::from_secs(6)),
        }))
    }

    fn id(&self) -> EngineId {
        EngineId("double".into())
    }

    fn lanes(&self) -> Lanes {
        Lanes::none().with_events(Arc::new(self.clone()))
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let double = self.0.clone();
        Box::pin(async move {
            let refusing = double.refusing.load(Ordering::SeqCst);
            let one = |unit: Unit| {
                if refusing {
                    return Outcome::NotApplied(
                        unit,
                        Error::new(Kind::Busy, "full").code(codes::DISK_FULL),
                    );
                }
                let mut state = double.state();
                for (receipt, verdict) in unit.settle {
                    state.settled.push((receipt.settle(), verdict));
                }
                let mut sent = Vec::new();
                for outgoing in unit.send {
                    let Outgoing::Append {
                        topic,
                        partition,
                        records,
                        dedupe,
                        ..
                    } = outgoing
                    else {
                        unreachable!("the double has one lane");
                    };
                    sent.push(state.append(&topic, partition, records, dedupe).unwrap());
                }
                Outcome::Applied(sent)
            };
            let outcomes = units.into_iter().map(one).collect();
            double.change();
            outcomes
        })
    }

    fn claim(&self, _: Claim) -> Fut<Result<Claimed>> {
        ready(Ok(Claimed::Run(ClaimToken(7))))
    }

    fn close(&self, _: Duration) -> Fut<()> {
        self.0.health.send_replace(Health::Ended("closed".into()));
        ready(())
    }
}

impl State {
    fn append(
        &mut self,
        topic: &Name,
        partition: u32,
        records: Records,
        dedupe: bool,
    ) -> Result<Sent> {
        if let Some(sent) = self.seen.get(&records.batch().id()).filter(|_| dedupe) {
            return Ok(Sent {
                duplicate: true,
                ..sent.clone()
            });
        }
        let partitions = self.topics.get_mut(topic).ok_or_else(|| {
            Error::new(Kind::NotFound, "there is no such topic")
                .code(codes::NO_SUCH_TOPIC)
                .with("topic", topic)
        })?;
        let log = partitions
            .get_mut(partition as usize)
            .ok_or_else(|| Error::new(Kind::Rejected, "no such partition"))?;
        let first = log
            .last()
            .map_or(0, |(records, first)| first + records.len() as u64);
        let sent = Sent {
            partition,
            first: Position::at(first),
            count: records.len() as u32,
            duplicate: false,
        };
        if dedupe {
            self.seen.insert(records.batch().id(), sent.clone());
        }
        log.push((records, first));
        Ok(sent)
    }

    fn read(&self, cursor: &Cursor, max_bytes: usize) -> Chunk {
        let log = &self.topics[&cursor.topic][cursor.partition as usize];
        let (mut buf, mut spans, mut next) = (BytesMut::new(), Vec::new(), cursor.position);
        for (records, first) in log {
            let end = first + records.len() as u64;
            if end <= next.offset() {
                continue;
            }
            if buf.len() + records.bytes().len() > max_bytes && !buf.is_empty() {
                break;
            }
            let skip = (next.offset() - first) as u32;
            spans.push(Span {
                at: buf.len() as u32,
                first: next,
                skip,
                take: records.len() as u32 - skip,
                appended: Timestamp::from_millis(1),
            });
            next = Position::at(end);
            buf.extend_from_slice(records.bytes());
        }
        Chunk::new(
            cursor.topic.shared(),
            cursor.partition,
            buf.freeze(),
            spans,
            next,
        )
    }
}

/// Counts a read that waits, however it ends.
struct Waiting(Arc<Double>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|count| *count -= 1);
    }
}

impl Events for Handle {
    fn caps(&self) -> Caps {
        let no = Offer::Refused("the real engine");
        Caps {
            durability: Durability::Memory,
            dense_offsets: Offer::Native,
            atomic_batches: Offer::Native,
            stored_bytes: Offer::Native,
            groups: Offer::Native,
            whereabouts: Offer::Native,
            key_order: no,
            by_time: no,
            by_key: no,
            expected_position: no,
            expected_key_version: no,
            dedupe: Offer::Native,
            atomic_effects: Offer::Native,
            ledger: no,
            fencing: Offer::Native,
            lease_extension: Offer::Native,
            parking: no,
            dead_letters: no,
            redrive: no,
            edit_dead: no,
            set_aside: no,
            hold_key: no,
            alter_group: no,
            completed_ranges: no,
            retention_age: no,
            retention_bytes: no,
            compaction: no,
            max_body: 1 << 20,
            max_batch: 32 << 20,
            max_partitions: 1 << 20,
        }
    }

    fn declare(&self, topic: TopicSpec) -> Fut<Result<TopicInfo>> {
        let partitions = topic.partitions.unwrap_or(1) as usize;
        self.0
            .state()
            .topics
            .entry(topic.name.clone())
            .or_insert_with(|| vec![Vec::new(); partitions]);
        self.topic(topic.name)
    }

    fn alter(&self, _: Name, _: TopicChange) -> Fut<Result<TopicInfo>> {
        refused()
    }

    fn delete(&self, _: Name) -> Fut<Result<()>> {
        refused()
    }

    fn topics(&self) -> Fut<Result<Vec<TopicInfo>>> {
        let state = self.0.state();
        let info = |(name, logs): (&Name, &Vec<Vec<_>>)| TopicInfo {
            name: name.clone(),
            retention: Retention::default(),
            key_versions: false,
            dedupe_window: Duration::from_secs(600),
            compaction: None,
            partitions: vec![PartitionInfo::default(); logs.len()],
        };
        ready(Ok(state.topics.iter().map(info).collect()))
    }

    fn topic(&self, topic: Name) -> Fut<Result<TopicInfo>> {
        let all = self.topics();
        Box::pin(async move {
            let found = all.await?.into_iter().find(|info| info.name == topic);
            found.ok_or_else(|| {
                Error::new(Kind::NotFound, "there is no such topic").code(codes::NO_SUCH_TOPIC)
            })
        })
    }

    fn append(&self, append: Append) -> Fut<Result<Sent>> {
        let double = self.0.clone();
        Box::pin(async move {
            let Append {
                topic,
                partition,
                records,
                dedupe,
                ..
            } = append;
            double.appends.fetch_add(1, Ordering::SeqCst);
            double.change();
            // Only then a wait, which may change the order.
            if *double.stalled.borrow() {
                let mut stalled = double.stalled.subscribe();
                stalled.wait_for(|stalled| !stalled).await.unwrap();
            }
            double.state().append(&topic, partition, records, dedupe)
        })
    }

    fn read(&self, cursor: Cursor, max_bytes: usize) -> Fut<Result<Chunk>> {
        let double = self.0.clone();
        Box::pin(async move {
            let chunk = double.state().read(&cursor, max_bytes);
            if chunk.is_empty() && !cursor.wait.is_zero() {
                double.waiting.send_modify(|count| *count += 1);
                let _waiting = Waiting(double.clone());
                tokio::time::sleep(cursor.wait).await;
            }
            Ok(chunk)
        })
    }

    fn locate(&self, _: Name, _: u32, _: Start) -> Fut<Result<Position>> {
        refused()
    }

    fn read_key(&self, _: ReadKey) -> Fut<Result<Vec<(KeyVersion, Message)>>> {
        refused()
    }

    fn join(&self, _: GroupSpec) -> Fut<Result<Consumer>> {
        let mut state = self.0.state();
        state.next_consumer += 1;
        let id = state.next_consumer;
        state.members.insert(id, Member::default());
        drop(state);
        self.0.change();
        let double = self.0.clone();
        ready(Ok(Consumer {
            source: Box::new(DoubleSource {
                double: double.clone(),
                id,
            }),
            control: Arc::new(DoubleControl { double, id }),
            id,
        }))
    }

    fn groups(&self) -> Fut<Result<Vec<GroupInfo>>> {
        refused()
    }

    fn group(&self, _: Name, _: Name) -> Fut<Result<GroupInfo>> {
        refused()
    }

    fn alter_group(&self, _: Name, _: Name, _: GroupChange) -> Fut<Result<GroupInfo>> {
        refused()
    }

    fn seek(&self, _: Seek) -> Fut<Result<Position>> {
        refused()
    }

    fn delete_group(&self, _: Name, _: Name) -> Fut<Result<()>> {
        refused()
    }

    fn dead_letters(
        &self,
        _: Name,
        _: Name,
        _: DeadFilter,
        _: u64,
        _: usize,
    ) -> Fut<Result<Vec<DeadLetter>>> {
        refused()
    }

    fn dead_summary(&self, _: Name, _: Name, _: DeadFilter) -> Fut<Result<Vec<DeadSummary>>> {
        refused()
    }

    fn edit_dead(&self, _: EditDead) -> Fut<Result<()>> {
        refused()
    }

    fn remove_dead(&self, _: RemoveDead) -> Fut<Result<u64>> {
        refused()
    }

    fn redrive(&self, _: Redrive) -> Fut<Result<Redriven>> {
        refused()
    }

    fn undo_redrive(&self, _: UndoRedrive) -> Fut<Result<Undone>> {
        refused()
    }

    fn whereabouts(&self, _: Name, _: u32, _: Position) -> Fut<Result<Whereabouts>> {
        refused()
    }

    fn set_aside(&self, _: SetAside) -> Fut<Result<u64>> {
        refused()
    }
}

#[derive(Debug)]
struct DoubleSource {
    double: Arc<Double>,
    id: u64,
}

impl Source for DoubleSource {
    fn poll_next(&mut self, cx: &mut Context<'_>, items: usize, _: usize) -> Poll<Result<Arrival>> {
        let mut state = self.double.state();
        let member = state.members.get_mut(&self.id).unwrap();
        member.most_asked = member.most_asked.max(items);
        if let Some(error) = member.failed.take() {
            return Poll::Ready(Err(error));
        }
        let Some(arrival) = member.queue.pop_front() else {
            member.waker = Some(cx.waker().clone());
            drop(state);
            self.double.change();
            return Poll::Pending;
        };
        let (now, later) = match arrival {
            Arrival::Run(chunk, mut receipt) if chunk.len() > items => {
                let head = receipt.split_at(items as u32).unwrap();
                let (span, buf) = (chunk.spans()[0].clone(), chunk.buffer().clone());
                let of = |skip: u32, take: u32| {
                    let first = Position::at(span.first.offset() + u64::from(skip));
                    let span = Span {
                        first,
                        skip: span.skip + skip,
                        take,
                        ..span.clone()
                    };
                    let next = Position::at(first.offset() + u64::from(take));
                    Chunk::new(
                        chunk.topic().clone(),
                        chunk.partition(),
                        buf.clone(),
                        vec![span],
                        next,
                    )
                };
                let items = items as u32;
                let rest = of(items, chunk.len() as u32 - items);
                (
                    Arrival::Run(of(0, items), head),
                    Some(Arrival::Run(rest, receipt)),
                )
            }
            other => (other, None),
        };
        if let Some(later) = later {
            member.queue.push_front(later);
        }
        member.given += match &now {
            Arrival::Run(chunk, _) => chunk.len(),
            Arrival::Each(each) => each.len(),
            _ => 0,
        };
        drop(state);
        self.double.change();
        Poll::Ready(Ok(now))
    }
}

#[derive(Debug)]
struct DoubleControl {
    double: Arc<Double>,
    id: u64,
}

impl Control for DoubleControl {
    fn extend(&self, fences: Vec<Fence>, _: Duration) -> Fut<Result<Vec<bool>>> {
        let answer = vec![true; fences.len()];
        self.double.state().extended.extend(fences);
        self.double.change();
        ready(Ok(answer))
    }

    fn hold(&self, shard: Shard, held: bool) {
        self.double.state().held.push((shard, held));
        self.double.change();
    }

    fn handed_back(&self, shard: Shard) {
        self.double.state().handed_back.push(shard);
        self.double.change();
    }

    fn leave(&self) {
        let mut state = self.double.state();
        if !state.left.contains(&self.id) {
            state.left.push(self.id);
        }
        drop(state);
        self.double.change();
    }
}
