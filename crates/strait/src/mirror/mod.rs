//! Copies of topics in another engine: [`Mirror`] follows them, [`compare`] proves that both sides are equal, and a file
//! carries them where no connection goes ([`export`], [`import`]).
//!
//! It is written over the contract alone, so every engine can be either side.
//!
//! # What is promised
//!
//! - **Every message once, in its order, in its partition.** The target's topic has as many partitions as the source's, or
//!   the mirror refuses. Id, key, headers, attributes and time of a message stay; the time of its append is the target's.
//! - **Where the copy stands is stored in the target**, in the topic `strait.mirror.TOPIC`. Where the target commits several
//!   appends in one unit (`Caps::atomic_effects`) that record is in the unit of the messages: whatever ends the mirror, the
//!   next run goes on exactly there. Elsewhere the record follows the messages, and the next run finds what stands behind it
//!   by the messages' ids: a message can be doubled only when an append whose outcome was unknown happens after that look, as
//!   when a killed mirror's last request still waits in the broker. It has its id then as before, and [`compare`] counts it.
//! - **The topic in the target is the mirror's.** Where the target can hold an append against the end of the partition
//!   (`Caps::expected_position`), a second writer is refused, a second mirror too; elsewhere it is found at the next start.
//! - **Positions of groups** ([`Mirror::groups`]) are translated by those records. What a group has settled above its position
//!   is handled again, and its dead letters and what it has parked stay behind.

mod batch;
mod compare;
mod copy;
mod file;
mod groups;
mod import;
mod sink;
mod state;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use strait_core::events::{Events, TopicInfo, TopicSpec};
use strait_core::{Engine, Error, Kind, Name, Result, codes};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::open::Strait;
pub use compare::{Compared, Difference, compare};
use copy::Copying;
pub use file::{Exported, export};
pub use groups::{MovedGroup, NotMoved};
pub use import::import;
use sink::Place;

/// Between two looks at the positions of the source's groups.
const GROUPS_EVERY: Duration = Duration::from_secs(5);
/// How long a mirror that ends with the source's end tries again when a side cannot be reached.
const PATIENCE: Duration = Duration::from_secs(60);

/// A copy of topics of one engine in another.
///
#[cfg_attr(feature = "embedded", doc = "```")]
#[cfg_attr(not(feature = "embedded"), doc = "```ignore")]
/// # tokio_test(async {
/// use strait::mirror::{Mirror, compare};
/// use strait::{Raw, Strait};
///
/// let (from, to) = (Strait::memory()?, Strait::memory()?);
/// let notes = from.events().topic::<Raw>("notes").partitions(2).await?;
/// notes.append(&Raw::new("note.taken.v1", "tea at four").with_key("ada")).await?;
///
/// let mirror = Mirror::new(&from, &to).topic("notes".parse()?).once();
/// let copied = mirror.run(std::future::pending()).await?;
/// assert_eq!(copied.topics[0].messages, 1);
/// assert!(compare(&from, &to, &"notes".parse()?).await?.iter().all(|p| p.difference.is_none()));
/// # Ok::<(), strait::Error>(()) });
/// # fn tokio_test<T>(f: impl Future<Output = Result<T, strait::Error>>) {
/// #     tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(f).unwrap();
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is copied until it runs"]
pub struct Mirror {
    from: Strait,
    to: Strait,
    topics: Vec<Name>,
    once: bool,
    groups: bool,
    progress: Arc<Progress>,
}

/// How a mirror that runs comes along.
#[derive(Debug, Default)]
pub struct Progress {
    messages: AtomicU64,
    bytes: AtomicU64,
    waits: Mutex<Option<Arc<str>>>,
}

impl Progress {
    /// Messages copied by this run.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Bytes of them: keys, headers and bodies.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Why a partition does not get on now, where one does not: it is tried again.
    pub fn waits(&self) -> Option<Arc<str>> {
        self.waits.lock().clone()
    }

    fn add(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut waits = self.waits.lock();
        if waits.is_some() {
            *waits = None;
        }
    }

    fn wait_for(&self, error: &Error) {
        *self.waits.lock() = Some(format!("{error}").into());
    }
}

/// What a mirror did.
#[derive(Debug, Clone, Default)]
pub struct Mirrored {
    /// Its topics, in the order in which they were named.
    pub topics: Vec<MirroredTopic>,
    /// Groups, where [`Mirror::groups`] asks for them, as they were moved last.
    pub groups: Vec<MovedGroup>,
}

/// A topic of a mirror.
#[derive(Debug, Clone)]
pub struct MirroredTopic {
    /// The topic.
    pub topic: Name,
    /// Its partitions.
    pub partitions: u32,
    /// Messages that this run copied.
    pub messages: u64,
    /// Messages that this run and those before it copied.
    pub total: u64,
}

impl Mirror {
    /// From one engine to another; name at least one topic.
    pub fn new(from: &Strait, to: &Strait) -> Self {
        Mirror {
            from: from.clone(),
            to: to.clone(),
            topics: Vec::new(),
            once: false,
            groups: false,
            progress: Arc::default(),
        }
    }

    /// This topic too. It is made in the target with the source's partitions, retention and compaction, as far as the target
    /// has them.
    pub fn topic(mut self, topic: Name) -> Self {
        self.topics.push(topic);
        self
    }

    /// Ends at what is the end of the source when it begins. A side that cannot be reached is tried again for a minute;
    /// without this, for ever.
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Moves the groups of these topics too: each group of the source gets, in the target, the position that its own means
    /// there, every five seconds and at the end. A group that has live members in the target is left alone.
    pub fn groups(mut self) -> Self {
        self.groups = true;
        self
    }

    /// How it comes along, while it runs.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Copies, until `stop` is ready, or the end with [`once`](Mirror::once). What is under way then is finished.
    ///
    /// Takes memory for about two chunks of 1 MiB for each partition.
    ///
    /// # Errors
    ///
    /// `Config` without a topic or onto itself. `Conflict` when the target has the topic with another number of partitions,
    /// or with messages that are not the mirror's. `NotFound` with code `offset_gone` when retention removed what was to be
    /// copied next. What the engines say, once trying again does not help.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<Mirrored> {
        self.check()?;
        let sides = Sides::of(&self.from, &self.to)?;
        let (stopper, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut mirrored = Mirrored::default();
        for (index, topic) in self.topics.iter().enumerate() {
            let (info, state) = sides.prepare(topic).await?;
            mirrored.topics.push(MirroredTopic {
                topic: topic.clone(),
                partitions: info.partitions.len() as u32,
                messages: 0,
                total: 0,
            });
            for (partition, at) in (0..).zip(&info.partitions) {
                let copying = Copying {
                    source: sides.from.clone(),
                    place: sides.place(topic, &state, partition),
                    until: self.once.then_some(at.end),
                    patience: self.once.then_some(PATIENCE),
                    progress: self.progress.clone(),
                    stop: stopped.clone(),
                };
                tasks.spawn(async move { copying.run().await.map(|done| (index, done)) });
            }
        }
        drop(stopped);
        let ended = self.watch(&sides, &mut tasks, &mut mirrored, stop).await;
        // Whatever ended it: the others finish what they have under way.
        let _ = stopper.send(true);
        let rest = finish(&mut tasks, &mut mirrored).await;
        ended.and(rest)?;
        if self.groups {
            mirrored.groups = groups::move_all(&sides, &self.topics).await?;
        }
        Ok(mirrored)
    }

    fn check(&self) -> Result<()> {
        let config = |text: &str, next: &str| {
            Err(Error::new(Kind::Config, text).during("mirror").next(next))
        };
        if self.topics.is_empty() {
            return config("a mirror without a topic copies nothing", "name a topic");
        }
        if self.from.engine().id() == self.to.engine().id() {
            return config(
                "a mirror goes from one engine to another, and these are the same",
                "give it another target",
            );
        }
        Ok(())
    }

    /// Until a partition fails, all have ended, or `stop`; meanwhile the groups move.
    async fn watch(
        &self,
        sides: &Sides,
        tasks: &mut Tasks,
        mirrored: &mut Mirrored,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        let mut stop = std::pin::pin!(stop);
        let mut groups = tokio::time::interval(GROUPS_EVERY);
        groups.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                ended = tasks.join_next() => match ended {
                    None => return Ok(()),
                    Some(ended) => count(ended, mirrored)?,
                },
                _ = groups.tick(), if self.groups => {
                    match groups::move_all(sides, &self.topics).await {
                        Ok(moved) => mirrored.groups = moved,
                        // The next look comes in five seconds.
                        Err(error) if error.may_retry() => self.progress.wait_for(&error),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

type Tasks = JoinSet<Result<(usize, copy::Copied)>>;

async fn finish(tasks: &mut Tasks, mirrored: &mut Mirrored) -> Result<()> {
    let mut first = Ok(());
    while let Some(ended) = tasks.join_next().await {
        first = first.and(count(ended, mirrored));
    }
    first
}

fn count(
    ended: Result<Result<(usize, copy::Copied)>, tokio::task::JoinError>,
    mirrored: &mut Mirrored,
) -> Result<()> {
    let ended = ended.map_err(|error| {
        Error::new(
            Kind::Unexpected,
            format!("the copy of a partition ended: {error}"),
        )
    })?;
    let (index, copied) = ended?;
    if let Some(topic) = mirrored.topics.get_mut(index) {
        topic.messages += copied.messages;
        topic.total += copied.total;
    }
    Ok(())
}

/// Both engines of a copy.
#[derive(Debug)]
struct Sides {
    from: Arc<dyn Events>,
    source: Arc<str>,
    to: Arc<dyn Events>,
    engine: Arc<dyn Engine>,
}

impl Sides {
    fn of(from: &Strait, to: &Strait) -> Result<Self> {
        let (from, to) = (from.one_engine()?, to.one_engine()?);
        Ok(Sides {
            from: from.events_lane()?.clone(),
            source: from.engine().id().0,
            to: to.events_lane()?.clone(),
            engine: to.engine().clone(),
        })
    }

    fn place(&self, topic: &Name, state: &Name, partition: u32) -> Place {
        Place {
            engine: self.engine.clone(),
            lane: self.to.clone(),
            topic: topic.clone(),
            state: state.clone(),
            partition,
            source: self.source.clone(),
        }
    }

    /// Makes the topic in the target, with the topic of its state; gives how it is in the source.
    async fn prepare(&self, topic: &Name) -> Result<(TopicInfo, Name)> {
        let info = self.from.topic(topic.clone()).await?;
        let state = make_topic(&self.to, &info).await?;
        Ok((info, state))
    }
}

/// Makes a topic as it is elsewhere, or checks that it has as many partitions. Gives the topic of its state.
async fn make_topic(lane: &Arc<dyn Events>, info: &TopicInfo) -> Result<Name> {
    let (topic, partitions) = (&info.name, info.partitions.len() as u32);
    match lane.topic(topic.clone()).await {
        Ok(there) if there.partitions.len() as u32 != partitions => {
            return Err(other_partitions(topic, partitions, there.partitions.len()));
        }
        Ok(_) => {}
        Err(error) if error.is(codes::NO_SUCH_TOPIC) => {
            let caps = lane.caps();
            let mut spec = TopicSpec::new(topic.clone()).partitions(partitions);
            let mut keep = info.retention;
            keep.age = keep.age.filter(|_| caps.retention_age.is_there());
            keep.bytes = keep.bytes.filter(|_| caps.retention_bytes.is_there());
            spec.retention = Some(keep);
            spec.compaction = info.compaction.filter(|_| caps.compaction.is_there());
            lane.declare(spec).await?;
        }
        Err(error) => return Err(error),
    }
    state::declare(lane, topic, partitions).await
}

fn other_partitions(topic: &Name, source: u32, target: usize) -> Error {
    Error::new(
        Kind::Conflict,
        format!(
            "`{topic}` has {source} partitions in the source and {target} in the target: keys would change their partition"
        ),
    )
    .code(codes::TOPIC_EXISTS)
    .with("topic", topic)
    .next("delete it in the target, or mirror into another engine; partitions can be added with `strait topic alter`")
}
