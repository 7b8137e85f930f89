//! The engine: its clients, how the cluster is, and what is committed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, Producer as _, PurgeConfig};
use strait_core::events::{Append, Durability, Expected};
use strait_core::{
    Backup, Claim, Claimed, Engine, EngineId, Error, Fut, Health, Lanes, Name, Outcome, Records,
    Result, Sent, Storage, Unit,
};
use tokio::sync::{Semaphore, watch};

use crate::fault::{closed, fault, unavailable};
use crate::group::{Commits, Member};
use crate::link::{Link, Pulse};
use crate::options::Options;
use crate::read::Readers;
use crate::threads::Threads;
use crate::topics::Known;
use crate::{HEADROOM, produce};

/// Longest batch, in bytes.
pub(crate) const MAX_BATCH: usize = 8 << 20;
/// Bytes of batches that are on their way at the same time, in KiB; more wait.
const ROOM_KIB: u32 = 128 << 10;
/// Longest message that brokers take unless they are told otherwise (`message.max.bytes`).
const MESSAGE_MAX: usize = 1_048_588;
/// How often a cluster that answers is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long a look waits for the answer.
const PING: Duration = Duration::from_secs(3);
/// Events of a client that are served in one look.
const EVENTS: usize = 64;
/// Between two looks at a cluster that does not answer: from, and up to.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The turn of a partition: who holds it gives its batch to the client.
type Lane = Arc<Mutex<()>>;

/// What was asked of the cluster about itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probed {
    pub(crate) durability: Durability,
    pub(crate) message_max: usize,
}

/// A Kafka cluster as an engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kafka {
    pub(crate) shared: Arc<Shared>,
}

/// What every part of the engine works with.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) config: ClientConfig,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) producer: Arc<BaseProducer<Link>>,
    /// Asks for metadata and offsets; it never makes a topic.
    pub(crate) meta: BaseConsumer<Link>,
    pub(crate) admin: AdminClient<Link>,
    pub(crate) threads: Arc<Threads>,
    pub(crate) readers: Readers,
    pub(crate) known: Known,
    pub(crate) probed: RwLock<Probed>,
    /// Members of groups in this process, by their id.
    pub(crate) members: Mutex<HashMap<u64, Arc<Member>>>,
    pub(crate) commits: Commits,
    id: OnceLock<EngineId>,
    lanes: Mutex<HashMap<(Name, u32), Lane>>,
    room: Arc<Semaphore>,
    /// Appends that are under way.
    active: AtomicUsize,
    own: std::sync::Weak<Shared>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Counts an append while it is under way.
struct Active<'a>(&'a AtomicUsize);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Kafka {
    /// Opens the cluster. One that does not answer within [`Options::first_contact`] is no error unless
    /// [`Options::strict`] says so: the engine is down then, and is up as soon as the cluster answers.
    ///
    /// # Errors
    ///
    /// `Config` for options that cannot work; `Unavailable` with `strict`.
    pub async fn open(options: Options) -> Result<Self> {
        let config = options.client()?;
        let pulse = Arc::new(Pulse::new());
        let threads = Arc::new(Threads::default());
        let (made, beat) = (options.clone(), pulse.clone());
        let own = threads.clone();
        let shared = threads
            .run(move |_| Shared::make(made, config, beat, own))
            .await?;
        shared.start()?;
        let mut health = pulse.watch();
        let up = health.wait_for(|health| *health == Health::Up);
        let answered = tokio::time::timeout(options.first_contact, up)
            .await
            .is_ok();
        let kafka = Kafka { shared };
        if !answered && options.strict {
            let why = kafka.health().borrow().clone();
            kafka.close(Duration::ZERO).await;
            let error = unavailable("opening the Kafka cluster").with("brokers", &options.brokers);
            return Err(match why {
                Health::Down(why) => error.with("reason", why),
                _ => error,
            });
        }
        Ok(kafka)
    }

    /// The bare client: the producer through which this engine appends. It is polled by the engine.
    pub fn native(
        &self,
    ) -> &BaseProducer<
        impl rdkafka::producer::ProducerContext<rdkafka::producer::NoCustomPartitioner> + use<>,
    > {
        &*self.shared.producer
    }
}

impl Shared {
    fn make(
        options: Options,
        config: ClientConfig,
        pulse: Arc<Pulse>,
        threads: Arc<Threads>,
    ) -> Result<Arc<Self>> {
        let what = "making a client of Kafka";
        let timeout = options
            .timeout
            .as_millis()
            .min(i32::MAX as u128)
            .to_string();
        let mut producing = config.clone();
        for (name, value) in [
            ("linger.ms", "0"),
            ("batch.num.messages", "100000"),
            ("message.max.bytes", "1000000000"),
        ] {
            if producing.get(name).is_none() {
                producing.set(name, value);
            }
        }
        producing.set("enable.idempotence", "true");
        producing.set("acks", "all");
        producing.set("message.timeout.ms", &timeout);
        // The bound is the engine's own, in bytes of batches.
        producing.set("queue.buffering.max.messages", "0");
        let producer = BaseProducer::from_config_and_context(&producing, pulse.link());
        let mut asking = config.clone();
        asking.set("allow.auto.create.topics", "false");
        asking.set("isolation.level", "read_committed");
        let meta = BaseConsumer::from_config_and_context(&asking, pulse.link());
        let mut managing = config.clone();
        // Nobody can poll the events of this kind of client, so it must not make any.
        managing.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        let admin = AdminClient::from_config_and_context(&managing, pulse.link());
        let producer = Arc::new(producer.map_err(|error| fault(what, error))?);
        let meta = meta.map_err(|error| fault(what, error))?;
        let admin = admin.map_err(|error| fault(what, error))?;
        Ok(Arc::new_cyclic(|own| Shared {
            options,
            config,
            pulse,
            producer,
            meta,
            admin,
            threads,
            readers: Readers::default(),
            known: Known::default(),
            probed: RwLock::new(Probed {
                durability: Durability::Os,
                message_max: MESSAGE_MAX,
            }),
            members: Mutex::default(),
            commits: Commits::default(),
            id: OnceLock::new(),
            lanes: Mutex::default(),
            room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
            active: AtomicUsize::new(0),
            own: own.clone(),
        }))
    }

    /// The threads that serve the clients' events and look at the cluster.
    fn start(self: &Arc<Self>) -> Result<()> {
        let thread = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let named = std::thread::Builder::new().name(name.to_owned());
            named
                .spawn(run)
                .map_err(|error| Error::io("a thread for Kafka", error))
        };
        let own = self.clone();
        thread("strait-kafka-send", Box::new(move || own.serve()))?;
        let own = self.clone();
        thread("strait-kafka-commit", Box::new(move || own.commit_loop()))?;
        let own = self.clone();
        thread("strait-kafka-look", Box::new(move || own.look()))?;
        Ok(())
    }

    /// Serves the producer's events: delivery reports above all.
    fn serve(&self) {
        while !self.pulse.is_closed() || self.active.load(Ordering::Acquire) > 0 {
            self.producer.poll(Duration::from_millis(100));
        }
    }

    /// Looks at the cluster: often while it does not answer, seldom while it does, and at once when a connection has a fault.
    fn look(self: Arc<Self>) {
        let mut pause = BACKOFF.0;
        while !self.pulse.is_closed() {
            self.tidy();
            let found = self.meta.fetch_metadata(Some("__consumer_offsets"), PING);
            match found {
                Ok(_) => {
                    self.introduce();
                    self.pulse.up();
                    pause = BACKOFF.0;
                    self.pulse.wait(LOOK);
                }
                Err(error) => self.pulse.down(&error.to_string()),
            }
            if !self.pulse.is_up() {
                self.pulse.wait(pause);
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
        self.readers.clear();
        // Ending a client blocks: whoever lets go last, it is not a worker of the caller's runtime.
        let deadline = Instant::now() + Duration::from_secs(60);
        while Arc::strong_count(&self) > 1 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Serves the events of the client that asks, and lets go of readers that nobody used for a while.
    fn tidy(&self) {
        for _ in 0..EVENTS {
            // Its messages are none; errors and log lines go to the context.
            let _ = self.meta.poll(Duration::ZERO);
        }
        self.readers.trim();
    }

    /// Asks the cluster what it is, once.
    fn introduce(&self) {
        if self.id.get().is_some() {
            return;
        }
        let Some(cluster) = self.meta.client().fetch_cluster_id(PING) else {
            return;
        };
        if let Err(error) = self.probe() {
            tracing::warn!(
                ?error,
                "the settings of the Kafka brokers cannot be read; defaults are taken"
            );
        }
        let _ = self.id.set(EngineId(format!("kafka:{cluster}").into()));
    }

    /// What a broker says of durability and of the longest message.
    fn probe(&self) -> Result<()> {
        let what = "reading the settings of a broker";
        let found = self.meta.fetch_metadata(Some("__consumer_offsets"), PING);
        let found = found.map_err(|error| fault(what, error))?;
        let Some(broker) = found.brokers().first() else {
            return Ok(());
        };
        let asked = [ResourceSpecifier::Broker(broker.id())];
        let options = AdminOptions::new().request_timeout(Some(PING));
        let answer = self.admin.describe_configs(&asked, &options);
        let found = futures_executor::block_on(answer).map_err(|error| fault(what, error))?;
        let Some(Ok(config)) = found.into_iter().next() else {
            return Ok(());
        };
        let number = |name: &str| config.get(name)?.value.as_deref()?.parse::<u64>().ok();
        let mut probed = self.probed.write();
        if number("log.flush.interval.messages") == Some(1) {
            probed.durability = Durability::Fsynced;
        }
        if let Some(max) = number("message.max.bytes") {
            probed.message_max = max as usize;
        }
        Ok(())
    }

    /// Runs what blocks on a thread of our own. It is told whether anybody still waits for it.
    pub(crate) async fn call<T, F>(&self, call: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Shared, &dyn Fn() -> bool) -> Result<T> + Send + 'static,
    {
        let shared = self.own.upgrade().ok_or_else(closed)?;
        if self.pulse.is_closed() {
            return Err(closed());
        }
        self.threads
            .run(move |wanted| call(&shared, &|| wanted.is()))
            .await
    }

    pub(crate) fn max_body(&self) -> usize {
        self.probed.read().message_max.saturating_sub(HEADROOM)
    }

    pub(crate) fn max_batch(&self) -> usize {
        MAX_BATCH
    }

    fn lane(&self, topic: &Name, partition: u32) -> Lane {
        self.lanes
            .lock()
            .entry((topic.clone(), partition))
            .or_default()
            .clone()
    }

    /// Appends one batch.
    pub(crate) async fn append(&self, append: Append) -> Result<Sent> {
        if self.pulse.is_closed() {
            return Err(closed());
        }
        if append.expected != Expected::Any {
            return Err(Error::unsupported(
                "Kafka cannot append at an expected position or version",
                "use the embedded engine for event sourcing",
            ));
        }
        if append.dedupe {
            return Err(Error::unsupported(
                "Kafka knows no ids of earlier messages",
                "its producer is idempotent within a session; let the consumer be idempotent by id",
            ));
        }
        let Append {
            topic,
            partition,
            records,
            ..
        } = append;
        self.partition(&topic, partition).await?;
        let compacted = self.facts(&topic).await?.compacted;
        produce::check(&records, self.max_body(), MAX_BATCH, compacted)?;
        let kib = (records.bytes().len() as u32).div_ceil(1024).min(ROOM_KIB);
        let _room = self.room.acquire_many(kib).await.map_err(|_| closed())?;
        self.active.fetch_add(1, Ordering::AcqRel);
        let _active = Active(&self.active);
        // Looked at after it counts: a close waits for it from here on.
        if self.pulse.is_closed() {
            return Err(closed());
        }
        let mut found = self.send(&topic, partition, &records, compacted).await?;
        if matches!(found, Err(Code::UnknownPartition)) && self.refresh(&topic).await.is_ok() {
            // The client learns of added partitions later than this engine did; nothing was sent.
            found = self.send(&topic, partition, &records, compacted).await?;
        }
        if found.is_err() {
            self.known.forget(&topic);
        }
        produce::sent(&topic, partition, records.len() as u32, found)
    }

    async fn send(
        &self,
        topic: &Name,
        partition: u32,
        records: &Records,
        tombstones: bool,
    ) -> Result<Result<i64, Code>> {
        let answer = {
            let lane = self.lane(topic, partition);
            let _turn = lane.lock();
            produce::enqueue(&self.producer, topic, partition, records, tombstones)
        };
        answer.await.map_err(|_| closed())
    }

    /// Has the producer look at a topic that exists.
    pub(crate) async fn refresh(&self, topic: &Name) -> Result<()> {
        let topic = topic.clone();
        let look = move |shared: &Shared, _: &dyn Fn() -> bool| {
            let found = shared
                .producer
                .client()
                .fetch_metadata(Some(&topic), shared.options.timeout);
            found
                .map(drop)
                .map_err(|error| fault(format!("looking at the topic {topic:?}"), error))
        };
        self.call(look).await
    }

    async fn close(&self, grace: Duration) {
        self.pulse.close();
        let deadline = Instant::now() + grace;
        let busy = || self.active.load(Ordering::Acquire) > 0 || !self.members.lock().is_empty();
        while busy() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // What is still under way answers that it was closed, or may have happened.
        if self.active.load(Ordering::Acquire) > 0 {
            self.producer
                .purge(PurgeConfig::default().queue().inflight());
        }
    }
}

impl Engine for Kafka {
    fn id(&self) -> EngineId {
        match self.shared.id.get() {
            Some(id) => id.clone(),
            // Until the cluster has answered for the first time it is known by its addresses.
            None => EngineId(format!("kafka:{}", self.shared.options.brokers).into()),
        }
    }

    fn lanes(&self) -> Lanes {
        Lanes::none().with_events(Arc::new(self.clone()))
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.pulse.watch()
    }

    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let shared = self.shared.clone();
        // A task of its own: it runs to its end also when nobody waits for it.
        Box::pin(async move {
            let count = units.len();
            let running = tokio::spawn(async move { shared.commit(units).await });
            running.await.unwrap_or_else(|_| {
                let unknown = |_| Outcome::Unknown(closed().unknown());
                (0..count).map(unknown).collect()
            })
        })
    }

    fn claim(&self, _: Claim) -> Fut<Result<Claimed>> {
        let closed = self.shared.pulse.is_closed().then(closed);
        let error = closed.unwrap_or_else(|| {
            Error::unsupported(
                "Kafka has no idempotency ledger",
                "let the handler be idempotent by the message's id, or keep the ledger at the sink",
            )
        });
        Box::pin(async move { Err(error) })
    }

    fn backup(&self, _: std::path::PathBuf) -> Fut<Result<Backup>> {
        Box::pin(async {
            Err(Error::unsupported(
                "a Kafka cluster is no directory to copy",
                "replicate it, or mirror its topics",
            ))
        })
    }

    fn storage(&self) -> Fut<Result<Storage>> {
        Box::pin(async {
            Err(Error::unsupported(
                "the disks of a Kafka cluster are not this engine's to measure",
                "look at the brokers' own metrics",
            ))
        })
    }

    fn close(&self, grace: Duration) -> Fut<()> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.close(grace).await })
    }
}
