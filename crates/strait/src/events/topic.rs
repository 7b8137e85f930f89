//! A topic: declared, then held.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ::metrics::Counter;
use strait_core::events::{
    Append, Compaction, Expected, Retention, Start, TopicChange, TopicInfo, TopicSpec,
};
use strait_core::{EngineId, Error, Fut, Kind, Name, Records, Result, Sent, partition_of};

use super::append::{AppendAll, AppendOne, Permit};
use super::group::Group;
use super::read::{KeyReader, Reader};
use crate::message::{Key, Message, Raw};
use crate::metrics;
use crate::open::Strait;

/// Declares a topic; await it to get the [`Topic`]. What is not said is the default for a new topic and anything for
/// one that exists.
#[must_use = "a topic is declared when the builder is awaited"]
pub struct TopicBuilder<M> {
    strait: Strait,
    name: String,
    partitions: Option<u32>,
    retention: Option<Retention>,
    key_versions: Option<bool>,
    dedupe_window: Option<Duration>,
    compaction: Option<Compaction>,
    message: PhantomData<fn() -> M>,
}

impl<M: Message> TopicBuilder<M> {
    pub(super) fn new(strait: Strait, name: &str) -> Self {
        TopicBuilder {
            strait,
            name: name.to_owned(),
            partitions: None,
            retention: None,
            key_versions: None,
            dedupe_window: None,
            compaction: None,
            message: PhantomData,
        }
    }

    /// The number of partitions. New topics have 8 unless it is said.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// What may be deleted, and when. New topics keep everything unless it is said.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Keeps a version per key, for [`AppendOne::expect_version`] and fast [`Topic::read_key`] (event sourcing).
    pub fn key_versions(mut self) -> Self {
        self.key_versions = Some(true);
        self
    }

    /// How long the ids of appends with [`AppendOne::id`] are remembered. New topics: 10 minutes unless it is said.
    pub fn dedupe_window(mut self, window: Duration) -> Self {
        self.dedupe_window = Some(window);
        self
    }

    /// Keeps the newest message of each key only; a message with an empty body removes its key. Every message needs a key
    /// then, and key versions cannot be kept.
    pub fn compaction(mut self, compaction: Compaction) -> Self {
        self.compaction = Some(compaction);
        self
    }

    async fn declare(self) -> Result<Topic<M>> {
        let name = Name::new(&self.name)?;
        let strait = self.strait.at(&name).clone();
        let lane = strait.events_lane()?.clone();
        let info = lane
            .declare(TopicSpec {
                name: name.clone(),
                partitions: self.partitions,
                retention: self.retention,
                key_versions: self.key_versions,
                dedupe_window: self.dedupe_window,
                compaction: self.compaction,
            })
            .await?;
        Ok(Topic {
            inner: Arc::new(Inner {
                engine: strait.engine().id(),
                max_body: lane.caps().max_body,
                max_batch: lane.caps().max_batch,
                partitions: AtomicU32::new(info.partitions.len() as u32),
                turn: AtomicU32::new(fastrand::u32(..)),
                appended: metrics::appended(&name),
                strait,
                lane,
                name,
            }),
            message: PhantomData,
        })
    }
}

impl<M: Message> IntoFuture for TopicBuilder<M> {
    type Output = Result<Topic<M>>;
    type IntoFuture = Fut<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.declare())
    }
}

impl<M> fmt::Debug for TopicBuilder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicBuilder({})", self.name)
    }
}

/// A topic of messages of type `M`. Cheap to clone.
pub struct Topic<M> {
    pub(super) inner: Arc<Inner>,
    message: PhantomData<fn() -> M>,
}

pub(super) struct Inner {
    pub(super) strait: Strait,
    pub(super) lane: Arc<dyn strait_core::events::Events>,
    pub(super) engine: EngineId,
    pub(super) name: Name,
    pub(super) max_body: usize,
    pub(super) max_batch: usize,
    /// Messages acknowledged.
    pub(super) appended: Counter,
    partitions: AtomicU32,
    turn: AtomicU32,
}

impl<M: Message> Topic<M> {
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.inner.name
    }

    /// Appends one message: durable when the returned builder, awaited, returns.
    ///
    /// ```no_run
    /// # use strait::{Raw, Topic};
    /// # async fn example(orders: Topic<Raw>, placed: Raw) -> strait::Result<()> {
    /// let appended = orders.append(&placed)
    ///     .id("checkout-7f3a")             // a repeated append answers with the first position
    ///     .header("tenant", "eu")
    ///     .within(strait::secs(2))
    ///     .await?;
    /// println!("partition {} at {}", appended.partition, appended.position);
    /// # Ok(()) }
    /// ```
    ///
    /// A future that is dropped after its first poll may or may not have appended; repeat it with the same
    /// [`id`](AppendOne::id) to be sure.
    pub fn append<'a>(&'a self, message: &'a M) -> AppendOne<'a, M> {
        AppendOne::new(self, message, Permit::Wait)
    }

    /// As [`append`](Topic::append), but when too many bytes are under way it answers `Busy` at once instead of waiting
    /// for room.
    pub fn try_append<'a>(&'a self, message: &'a M) -> AppendOne<'a, M> {
        AppendOne::new(self, message, Permit::Try)
    }

    /// Appends many messages. Those that go to one partition are appended in their order and together, all or none (up to
    /// the engine's batch limit, 8 MiB by default; beyond it in several batches); partitions are independent of each other.
    ///
    /// # Errors
    ///
    /// Nothing is sent when one of the messages is refused. When some partitions failed, the error of the first, with
    /// how many messages were appended all the same in its context.
    pub fn append_all<'a>(&'a self, messages: &'a [M]) -> AppendAll<'a, M> {
        AppendAll::new(self, messages)
    }

    /// Appends a batch made with [`RecordsBuilder`](crate::core::RecordsBuilder) to one partition, all or none. The fastest
    /// way in: the bytes are stored as they are.
    ///
    /// # Errors
    ///
    /// `Rejected` for a partition that does not exist, `NotFound` when the topic was deleted, what the engine says.
    pub fn append_records(&self, partition: u32, records: Records) -> Fut<Result<Sent>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let sent = inner
                .lane
                .append(Append {
                    topic: inner.name.clone(),
                    partition,
                    records,
                    expected: Expected::Any,
                    dedupe: false,
                })
                .await?;
            inner.appended.increment(u64::from(sent.count));
            Ok(sent)
        })
    }

    /// Reads one partition from `start` on, and then goes on as messages come.
    ///
    /// ```no_run
    /// # use strait::{Raw, Start, Topic};
    /// # async fn example(orders: Topic<Raw>) -> strait::Result<()> {
    /// let mut reader = orders.read(0, Start::Earliest).until_end();
    /// while let Some(event) = reader.next().await? {
    ///     println!("{}: {:?}", event.position(), event.message.text());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn read(&self, partition: u32, start: Start) -> Reader<M> {
        Reader::new(self.clone(), partition, start)
    }

    /// The messages of one key, oldest first. Fast on a topic with [`key_versions`](TopicBuilder::key_versions), else a
    /// scan of the partition.
    pub fn read_key(&self, key: impl Key) -> KeyReader<M> {
        KeyReader::new(self.clone(), &key)
    }

    /// How the topic is now: settings, and each partition's positions and bytes.
    ///
    /// # Errors
    ///
    /// `NotFound` when it was deleted, what the engine says.
    pub async fn info(&self) -> Result<TopicInfo> {
        let info = self.inner.lane.topic(self.inner.name.clone()).await?;
        self.seen(&info);
        Ok(info)
    }

    fn seen(&self, info: &TopicInfo) {
        self.inner
            .partitions
            .store(info.partitions.len() as u32, Ordering::Relaxed);
    }

    /// Changes what the topic keeps, or adds partitions. Keys belong to other partitions then: what was appended stays
    /// where it is, so the order of a key holds before and after, not across.
    ///
    /// # Errors
    ///
    /// `Rejected` for fewer partitions than there are, what the engine says.
    pub async fn alter(&self, change: TopicChange) -> Result<TopicInfo> {
        let info = self
            .inner
            .lane
            .alter(self.inner.name.clone(), change)
            .await?;
        self.seen(&info);
        Ok(info)
    }

    /// A consumer group on this topic.
    ///
    /// A name that is not allowed is reported when the group is used.
    pub fn group(&self, name: &str) -> Group<M> {
        Group::new(self.clone(), name)
    }

    /// The same topic as bytes without a type.
    pub fn raw(&self) -> Topic<Raw> {
        Topic {
            inner: self.inner.clone(),
            message: PhantomData,
        }
    }

    /// The number of partitions, as last seen: at the declaration, by [`info`](Topic::info) or [`alter`](Topic::alter).
    pub fn partitions(&self) -> u32 {
        self.inner.partitions.load(Ordering::Relaxed)
    }

    /// The partition that a key belongs to: murmur2, as Kafka's Java client does it.
    pub fn partition_of(&self, key: &[u8]) -> u32 {
        partition_of(key, self.partitions())
    }

    pub(crate) fn engine(&self) -> &EngineId {
        &self.inner.engine
    }

    pub(crate) fn lane(&self) -> &Arc<dyn strait_core::events::Events> {
        &self.inner.lane
    }

    pub(crate) fn strait(&self) -> &Strait {
        &self.inner.strait
    }

    /// Where a message of this key goes; without one the next partition in turn.
    pub(crate) fn choose(&self, key: Option<&[u8]>) -> u32 {
        match key {
            Some(key) => self.partition_of(key),
            None => self.turn(),
        }
    }

    pub(super) fn turn(&self) -> u32 {
        self.inner.turn.fetch_add(1, Ordering::Relaxed) % self.partitions().max(1)
    }

    pub(crate) fn check_partition(&self, partition: u32) -> Result<()> {
        let partitions = self.partitions();
        if partition < partitions {
            return Ok(());
        }
        Err(Error::new(
            Kind::Rejected,
            format!("topic `{}` has no partition {partition}", self.inner.name),
        )
        .with("partitions", partitions))
    }
}

impl<M> Clone for Topic<M> {
    fn clone(&self) -> Self {
        Topic {
            inner: self.inner.clone(),
            message: PhantomData,
        }
    }
}

impl<M> fmt::Debug for Topic<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.inner.name)
    }
}
