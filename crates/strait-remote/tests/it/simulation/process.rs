//! A process that uses the engine: members and a producer over one connection, which it makes again when it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use strait_conformance::history::{Did, History};
use strait_core::events::{Append, Events, Expected, GroupSpec};
use strait_core::{
    Effect, Engine, Error, Fut, Kind, Name, NewRecord, Position, Records, RecordsBuilder, Result,
    partition_of,
};
use strait_embedded::disk::rng::Rng;
use strait_remote::{Client, ClientOptions, Connect, Connected, Reconnect, ReconnectOptions};
use tokio::task::AbortHandle;

use super::member::Member;
use super::network::{self, Link};
use super::owner::Owner;
use super::tasks::{Scheduler, Tasks};

pub(crate) const PARTITIONS: u32 = 3;
/// Batches that a process appends in its life.
const BATCHES: u64 = 25;

/// What all processes of a run share.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) owner: Arc<Owner>,
    pub(crate) history: History,
    pub(crate) topic: Name,
    pub(crate) sink: Name,
    pub(crate) spec: GroupSpec,
    /// Nothing fails any more: everything is to come to its end.
    pub(crate) calm: AtomicBool,
    /// Producers that are not at their end.
    pub(crate) producing: AtomicUsize,
    /// Texts of appends that are known not to have happened.
    pub(crate) refused: Mutex<Vec<String>>,
    rng: Mutex<Rng>,
}

impl Stage {
    pub(crate) fn new(tasks: Arc<Tasks>, owner: Arc<Owner>, spec: GroupSpec, rng: Rng) -> Self {
        Stage {
            tasks,
            owner,
            history: History::new(),
            topic: spec.topic.clone(),
            sink: crate::double::name("sink"),
            spec,
            calm: AtomicBool::new(false),
            producing: AtomicUsize::new(0),
            refused: Mutex::default(),
            rng: Mutex::new(rng),
        }
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Chance for a part of the run.
    pub(crate) fn chance(&self) -> Rng {
        Rng::new(self.rng.lock().next_u64())
    }
}

/// One life of a process.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    stage: Arc<Stage>,
    pub(crate) scheduler: Arc<Scheduler>,
    link: Mutex<Option<Link>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Process {
    pub(crate) fn start(name: String, stage: Arc<Stage>) -> Arc<Self> {
        let process = Arc::new(Process {
            name,
            stage,
            scheduler: Arc::default(),
            link: Mutex::default(),
            tasks: Mutex::default(),
        });
        process.spawn(live(process.clone()));
        process
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.stage.tasks.spawn(self.scheduler.run(task));
        self.tasks.lock().push(task);
    }

    /// The link of the moment.
    pub(crate) fn link(&self) -> Option<Link> {
        self.link.lock().clone()
    }

    /// It dies between two of its steps; what it has sent still arrives.
    pub(crate) fn kill(&self) {
        self.tasks.lock().iter().for_each(AbortHandle::abort);
    }
}

/// How a process connects.
#[derive(Debug)]
struct Dial(Arc<Process>);

impl Connect for Dial {
    fn connect(&self) -> Fut<Result<Connected>> {
        let process = self.0.clone();
        Box::pin(async move {
            let mut rng = process.stage.chance();
            tokio::time::sleep(Duration::from_millis(1 + rng.below(30))).await;
            let stage = &process.stage;
            let connected = network::connect(&stage.owner, &stage.tasks, &mut rng);
            let nobody = || Error::new(Kind::Unavailable, "nobody is there");
            let (stream, link) = connected.ok_or_else(nobody)?;
            *process.link.lock() = Some(link);
            let options = ClientOptions {
                hello_within: Duration::from_secs(1),
                silence: Duration::from_millis(800 + rng.below(3_000)),
            };
            let (reader, writer) = tokio::io::split(stream);
            let (client, life) = Client::stepped(reader, writer, options).await?;
            process.spawn(life);
            let engine: Arc<dyn Engine> = Arc::new(client);
            let local = false;
            Ok(Connected { engine, local })
        })
    }
}

async fn live(process: Arc<Process>) {
    let stage = process.stage.clone();
    let mut rng = stage.chance();
    let options = ReconnectOptions {
        first_within: Duration::from_secs(10),
        patience: Duration::from_millis(500 + rng.below(10_000)),
        // The pauses are those of `Dial`, which come from the seed.
        pause: Duration::ZERO,
        pause_most: Duration::ZERO,
    };
    let engine = loop {
        let dial = Arc::new(Dial(process.clone()));
        match Reconnect::open(dial, options).await {
            Ok(engine) => break engine,
            Err(error) => assert!(error.may_retry(), "{error:?}"),
        }
    };
    let members = 1 + rng.below(2);
    let members = (0..members).map(|number| {
        let name = format!("{}.{number}", process.name);
        Member::new(name, stage.clone(), engine.clone()).run()
    });
    let members = futures_util::future::join_all(members);
    let produce = produce(process.name.clone(), stage.clone(), engine.clone());
    tokio::join!(members, produce);
}

/// Counts a producer as long as it lives.
struct Producing(Arc<Stage>);

impl Producing {
    fn new(stage: &Arc<Stage>) -> Self {
        stage.producing.fetch_add(1, Ordering::Relaxed);
        Producing(stage.clone())
    }
}

impl Drop for Producing {
    fn drop(&mut self) {
        self.0.producing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Appends batches, each of one key, one after the other.
async fn produce(name: String, stage: Arc<Stage>, engine: Reconnect) {
    let _producing = Producing::new(&stage);
    let mut rng = stage.chance();
    let events = engine.lanes().events.unwrap();
    for number in 0..BATCHES {
        tokio::time::sleep(Duration::from_millis(rng.below(120))).await;
        if stage.is_calm() {
            return;
        }
        let key = format!("k{}", rng.below(6));
        let texts: Vec<String> = (0..=rng.below(3))
            .map(|part| format!("{name}:{number}.{part}"))
            .collect();
        let append = Append {
            topic: stage.topic.clone(),
            partition: partition_of(key.as_bytes(), PARTITIONS),
            records: batch(Some(&key), &texts),
            expected: Expected::Any,
            dedupe: rng.one_in(2),
        };
        append_one(&stage, &*events, &name, &key, texts, append).await;
    }
}

async fn append_one(
    stage: &Stage,
    events: &dyn Events,
    who: &str,
    key: &str,
    texts: Vec<String>,
    append: Append,
) {
    let (partition, dedupe) = (append.partition, append.dedupe);
    match events.append(append).await {
        Ok(sent) => {
            assert!(dedupe || !sent.duplicate, "{texts:?} are new: {sent:?}");
            for (part, text) in (0..).zip(texts) {
                let did = Did::Appended {
                    text,
                    key: key.to_owned(),
                    place: (partition, Position::at(sent.first.offset() + part)),
                };
                stage.history.add(who, did);
            }
        }
        Err(error) if error.effect() == Effect::NotDone => stage.refused.lock().extend(texts),
        // It may be there or not.
        Err(_) => {}
    }
}

pub(crate) fn batch(key: Option<&str>, texts: &[String]) -> Records {
    let mut builder = RecordsBuilder::new(&[]).unwrap();
    for text in texts {
        let record = NewRecord {
            key: key.map(str::as_bytes),
            body: text.as_bytes(),
            ..NewRecord::default()
        };
        builder.push(record).unwrap();
    }
    builder.build()
}
