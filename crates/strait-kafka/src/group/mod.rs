//! Consumer groups: Kafka's own, with what it does not keep in the metadata of the committed offsets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::ClientConfig;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaRespErr;
use strait_core::events::{AfterDead, GroupSpec, Start};
use strait_core::{
    Abandoned, Arrival, Chunk, Consumer, Error, Fence, Position, Result, Shard, Timestamp, Verdict,
};
use strait_member::Window;
use tokio::sync::oneshot;

use crate::engine::Shared;
use crate::fault::fault;
use crate::link::Link;
use crate::options::GroupProtocol;

mod commit;
mod info;
pub(crate) mod kept;
mod poll;
mod source;
mod starts;

pub(crate) use commit::{Commits, Part, Plans, Work, offsets};

/// How long a member may be silent before its partitions go to others. A broker may be away for as long, and its members go on
/// where they were; shorter, and each of them comes back as another one and waits for the end of the session that it had.
const SESSION_MS: &str = "30000";
const HEARTBEAT_MS: &str = "500";

/// The context of a member's consumer: what it is told of rebalances, for its own thread to act on.
#[derive(Debug)]
pub(crate) struct MemberLink {
    link: Link,
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// The member has left: nobody acts on rebalances any more.
    left: AtomicBool,
}

#[derive(Debug)]
struct Rebalance {
    assign: bool,
    partitions: TopicPartitionList,
}

impl ClientContext for MemberLink {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.link.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.link.error(error, reason);
    }
}

impl ConsumerContext for MemberLink {
    /// Noted only: the thread that polls carries it out, and may take its time to.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let assign = Code::from(code) == Code::AssignPartitions;
        tracing::debug!(
            assign,
            ?partitions,
            lost = consumer.assignment_lost(),
            "REBAL"
        );
        if self.left.load(Ordering::Acquire) {
            // The end of the client waits for this. What fails here fails because it ends.
            answer(consumer, assign, partitions);
            return;
        }
        self.rebalances.lock().push_back(Rebalance {
            assign,
            partitions: partitions.clone(),
        });
    }
}

/// Takes nothing, or gives everything back, where the member ends anyway: the client waits for the answer.
fn answer(consumer: &BaseConsumer<MemberLink>, assign: bool, partitions: &TopicPartitionList) {
    let none = TopicPartitionList::new();
    let answered = match assign {
        true => consumer.incremental_assign(&none),
        false => consumer.incremental_unassign(partitions),
    };
    // Before the group has agreed on its protocol only this is known.
    let answered = answered.or_else(|_| consumer.unassign());
    if let Err(error) = answered {
        tracing::debug!(%error, "the end of a member of a Kafka group");
    }
}

/// A member of a group.
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) spec: GroupSpec,
    shared: Arc<Shared>,
    own: Weak<Member>,
    /// Taken away, and ended, by the thread that polls it.
    consumer: RwLock<Option<Arc<BaseConsumer<MemberLink>>>>,
    inner: Mutex<Inner>,
    /// Dead letters of the group, as far as this member knows.
    dead: AtomicU64,
    began: Instant,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Member({} of {:?} on {:?})",
            self.id, self.spec.group, self.spec.topic
        )
    }
}

#[derive(Default)]
struct Inner {
    shards: BTreeMap<Shard, Owned>,
    /// What the source gives next, before anything of the windows.
    arrivals: VecDeque<Queued>,
    /// The source sleeps.
    waker: Option<Waker>,
    /// The shard that was asked last.
    turn: Shard,
    leaving: bool,
    ended: bool,
    /// Moves that an operator forces.
    moves: Vec<Move>,
    /// The member is to leave the group and join it again.
    anew: bool,
}

/// A shard of a live member begins somewhere else.
struct Move {
    shard: Shard,
    to: u64,
    done: oneshot::Sender<Result<()>>,
}

/// What waits for the source.
struct Queued {
    /// Of messages: their shard, and how often that had turned when they were taken.
    of: Option<(Shard, u64)>,
    arrival: Arrival,
}

/// A shard of this member.
struct Owned {
    window: Window,
    /// The epoch of the assignment.
    epoch: u64,
    /// Chunks that were read and have no room in the window yet.
    backlog: VecDeque<Chunk>,
    backlog_len: usize,
    /// First attempts up to here are marked as handed out.
    reserved: Position,
    /// Something waits for its mark to be committed.
    marking: bool,
    /// Grows whenever messages are sent back.
    turn: u64,
    /// The metadata is nearly as long as it may be: nothing new goes out.
    full: bool,
    held: bool,
    /// It is being given back.
    revoking: bool,
    handed_back: bool,
    /// Works of it that the committer has and did not end.
    busy: usize,
    paused: bool,
}

impl Inner {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        self.arrivals.push_back(Queued { of: None, arrival });
        self.wake();
    }

    /// What waits for the source and still may go out. A member releases what it holds of a key when it sends a message of
    /// that back; what it did not have by then must not come to it later, so it is taken again.
    fn arrived(&mut self) -> Option<Arrival> {
        while let Some(Queued { of, arrival }) = self.arrivals.pop_front() {
            let owned = of.and_then(|(shard, turn)| Some((self.shards.get_mut(&shard)?, turn)));
            match owned {
                Some((owned, turn)) if owned.turn != turn || owned.revoking => {
                    owned.take_back(arrival)
                }
                _ => return Some(arrival),
            }
        }
        None
    }

    /// The shard, while it is of the assignment with this epoch.
    fn owned(&mut self, shard: Shard, epoch: u64) -> Option<&mut Owned> {
        self.shards
            .get_mut(&shard)
            .filter(|owned| owned.epoch == epoch)
    }
}

impl Owned {
    /// Takes back what was to go out and did not: no attempt is spent.
    fn take_back(&mut self, arrival: Arrival) {
        let receipts = match arrival {
            Arrival::Run(_, receipt) => vec![receipt],
            Arrival::Each(deliveries) => deliveries.into_iter().map(|d| d.receipt).collect(),
            _ => Vec::new(),
        };
        for receipt in receipts {
            let fence = receipt.settle();
            let steps = self
                .window
                .begin(&fence, &Verdict::Release, Timestamp::now());
            for step in steps.into_iter().flatten() {
                self.window.applied(step);
            }
        }
    }

    /// Gives the window what it has room for.
    fn feed(&mut self) {
        while let Some(chunk) = self.backlog.pop_front() {
            self.backlog_len -= chunk.len();
            let room = self.window.room() as usize;
            if room == 0 && !chunk.is_empty() {
                self.backlog_len += chunk.len();
                self.backlog.push_front(chunk);
                return;
            }
            if chunk.len() <= room {
                self.window.offer(chunk);
                continue;
            }
            let (now, later) = cut(chunk, room);
            self.window.offer(now);
            self.backlog_len += later.len();
            self.backlog.push_front(later);
        }
    }
}

/// The first `count` messages, and the rest.
fn cut(chunk: Chunk, count: usize) -> (Chunk, Chunk) {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut left = count as u32;
    for span in chunk.spans() {
        if span.take <= left {
            left -= span.take;
            first.push(span.clone());
            continue;
        }
        let (mut head, mut tail) = (span.clone(), span.clone());
        head.take = left;
        tail.skip += left;
        tail.take -= left;
        tail.first = Position::at(span.first.offset() + u64::from(left));
        if left > 0 {
            first.push(head);
        }
        second.push(tail);
        left = 0;
    }
    let middle = second.first().map_or(chunk.next(), |span| span.first);
    let part = |spans, next| {
        Chunk::new(
            chunk.topic().clone(),
            chunk.partition(),
            chunk.buffer().clone(),
            spans,
            next,
        )
    };
    let end = chunk.next();
    (part(first, middle), part(second, end))
}

impl Member {
    /// Monotonic time, as the windows count it.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Works on the window of a shard that this member may settle, with the epoch of its assignment. What it gives is
    /// for the committer, which the shard waits for. `back`: messages are sent back.
    pub(crate) fn with_shard<T>(
        &self,
        shard: Shard,
        back: bool,
        work: impl FnOnce(u64, &mut Window) -> Option<T>,
    ) -> Option<T> {
        let mut inner = self.inner.lock();
        if inner.leaving {
            return None;
        }
        let owned = inner
            .shards
            .get_mut(&shard)
            .filter(|owned| !owned.handed_back)?;
        let done = work(owned.epoch, &mut owned.window)?;
        owned.busy += 1;
        owned.turn += u64::from(back);
        Some(done)
    }

    /// Whether the group has as many dead letters as it may keep.
    fn too_many_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed) >= self.spec.max_dead
    }

    /// Has the member leave the group and join it again: nobody knows what the broker has of its last commit.
    fn join_anew(&self) {
        self.inner.lock().anew = true;
    }

    /// The client, until the member has left.
    pub(crate) fn consumer(&self) -> Option<Arc<BaseConsumer<MemberLink>>> {
        self.consumer.read().clone()
    }
}

/// Where dropped receipts of a member go.
struct Home(std::sync::Weak<Member>);

impl Abandoned for Home {
    fn abandoned(&self, fence: Fence) {
        if let Some(member) = self.0.upgrade() {
            member.abandoned(fence);
        }
    }
}

fn check(spec: &GroupSpec) -> Result<()> {
    spec.check()?;
    match spec.after_dead {
        AfterDead::Continue => Ok(()),
        AfterDead::HoldKey => Err(Error::unsupported(
            "on Kafka a dead letter cannot hold its key",
            "let keys go on after a dead letter (continue), or use the embedded engine",
        )),
    }
}

/// An id of a member, unique among those of this process and, but for a clock that was set back, of others.
pub(crate) fn new_id() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed) & 0xfff;
    let millis = Timestamp::now().as_millis() as u64;
    (millis << 20) ^ (u64::from(std::process::id() & 0xff) << 12) ^ number
}

impl Shared {
    fn group_config(&self, spec: &GroupSpec, id: u64) -> ClientConfig {
        let mut config = self.config.clone();
        let name = if spec.member.is_empty() {
            &self.options.client_id
        } else {
            &spec.member
        };
        // By it the broker's list of members is matched with ours.
        config.set("client.id", format!("{name}#{id:x}"));
        config.set("group.id", &*spec.group);
        config.set("enable.auto.commit", "false");
        if let Ok(d) = std::env::var("KDEBUG") {
            config.set("debug", d);
        }
        config.set("enable.auto.offset.store", "false");
        config.set("isolation.level", "read_committed");
        config.set("auto.offset.reset", "earliest");
        config.set("allow.auto.create.topics", "false");
        let mut default = |name: &str, value: &str| {
            if config.get(name).is_none() {
                config.set(name, value);
            }
        };
        default("topic.metadata.refresh.interval.ms", "2000");
        default("fetch.queue.backoff.ms", "10");
        default("queued.max.messages.kbytes", "32768");
        match self.options.group_protocol {
            GroupProtocol::Classic => {
                default("session.timeout.ms", SESSION_MS);
                default("heartbeat.interval.ms", HEARTBEAT_MS);
                config.set("partition.assignment.strategy", "cooperative-sticky");
            }
            GroupProtocol::Consumer => {
                config.set("group.protocol", "consumer");
            }
        }
        if let Some(instance) = &self.options.instance_id {
            config.set("group.instance.id", instance);
        }
        config
    }

    /// Where a new group begins is committed before its first member is one: a partition without a position was added later,
    /// and begins at its start.
    async fn begin_group(&self, spec: &GroupSpec) -> Result<()> {
        if spec.start == Start::Earliest {
            return Ok(());
        }
        let count = self.count(&spec.topic).await?;
        let (group, topic, start) = (spec.group.clone(), spec.topic.clone(), spec.start);
        self.call(move |shared, alive| {
            if !shared.kept_of(&group, &topic, count)?.is_empty() {
                return Ok(());
            }
            let mut begin = Vec::new();
            for shard in 0..count {
                let at = shared.locate_now(&topic, shard, start, alive)?;
                let text = kept::encode(&kept::at(at), 0).unwrap_or_default();
                begin.push((shard, at, text));
            }
            match shared.commit_for(&group, &topic, &begin) {
                // The group has members by now, who have done the same.
                Err(error) if error.is(strait_core::codes::FENCED) => Ok(()),
                done => done,
            }
        })
        .await
    }

    pub(crate) async fn join(self: Arc<Self>, spec: GroupSpec) -> Result<Consumer> {
        check(&spec)?;
        self.count(&spec.topic).await?;
        if let Some(dead) = &spec.dead_topic {
            self.count(dead).await?;
        }
        self.dead_topic_is_there(&spec.group, &spec.topic).await?;
        self.begin_group(&spec).await?;
        let (dead, _) = self.dead_count(&spec.group, &spec.topic).await?;
        let (id, shared) = (new_id(), self.clone());
        let config = self.group_config(&spec, id);
        let member = self
            .call(move |_, _| {
                let link = MemberLink {
                    link: shared.pulse.link(),
                    rebalances: Mutex::default(),
                    left: AtomicBool::new(false),
                };
                let consumer = BaseConsumer::from_config_and_context(&config, link)
                    .map_err(|error| fault(format!("joining the group {:?}", spec.group), error))?;
                let member = Arc::new_cyclic(|own| Member {
                    id,
                    spec,
                    shared,
                    own: own.clone(),
                    consumer: RwLock::new(Some(Arc::new(consumer))),
                    inner: Mutex::default(),
                    dead: AtomicU64::new(dead),
                    began: Instant::now(),
                });
                member.start()?;
                Ok(member)
            })
            .await?;
        self.members.lock().insert(id, member.clone());
        Ok(source::consumer(member))
    }
}
