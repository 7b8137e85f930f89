//! Opening: from an address, a directory or an engine to a [`Strait`].

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use strait_core::events::Events as EventsLane;
use strait_core::{Engine, Error, Health, Result};
use tokio::sync::{Semaphore, watch};

use crate::alarm::{self, Checked, Watching};
use crate::app::App;
use crate::events::Events;
#[cfg(feature = "embedded")]
use crate::owner::{ShareOptions, Shared};
use crate::places::Places;
use crate::target::Target;

/// Bytes of appends of one [`Strait`] that may be under way; more wait for room.
pub(crate) const IN_FLIGHT_BYTES: usize = 64 << 20;

/// Time that [`Strait::close`] gives to what is under way.
const CLOSE_GRACE: Duration = Duration::from_secs(10);

/// An open messaging system: the engine, and the handles of its lanes. Cheap to clone; all clones are one.
///
/// Dropping the last clone without [`close`](Strait::close) ends the engine's threads and its listener in the
/// background: what was acknowledged is durable, an append that is not acknowledged yet may or may not be stored. Close
/// it to learn that all is written before the process goes on.
///
#[cfg_attr(feature = "embedded", doc = "```")]
#[cfg_attr(not(feature = "embedded"), doc = "```ignore")]
/// # tokio_test(async {
/// use strait::Strait;
///
/// let strait = Strait::memory()?;
/// let notes = strait.events().topic::<strait::Raw>("notes").await?;
/// notes.append(&strait::Raw::new("note.taken.v1", "tea at four")).await?;
/// strait.close().await;
/// # Ok::<(), strait::Error>(()) });
/// # fn tokio_test<T>(f: impl Future<Output = Result<T, strait::Error>>) {
/// #     tokio::runtime::Runtime::new().unwrap().block_on(f).unwrap();
/// # }
/// ```
#[derive(Clone)]
pub struct Strait {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<dyn Engine>,
    events: Option<Arc<dyn EventsLane>>,
    budget: Arc<Semaphore>,
    configured: Configured,
    places: Places,
}

/// The alarm of the configuration: one of the running apps watches it.
#[derive(Default)]
struct Configured {
    alarm: Option<Checked>,
    watched: Mutex<Weak<Watching>>,
}

impl Strait {
    /// Opens what `target` names:
    ///
    /// - `file:DIR`: the embedded engine on a directory, created if it does not exist,
    /// - `file:DIR?read_only=true`: the same to look at a directory that nobody has open, for example a damaged one:
    ///   nothing in it is changed, and the engine's health says what is missing,
    /// - `memory:`: the embedded engine on a memory disk; all is gone at the end,
    /// - `kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT..]/[?NAME=VALUE&..]`, over TLS `kafka+ssl://`: a Kafka cluster, with
    ///   the feature `kafka`,
    /// - `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE][?NAME=VALUE&..]` or `valkey://`, over TLS `rediss://` or `valkeys://`:
    ///   Redis Streams, with the feature `redis`,
    /// - the path of a `.toml` file: see [`config`](crate::config).
    ///
    /// A server that is down is waited for, and the [`health`](Strait::health) says so; with `?strict=true` it is an error.
    ///
    /// # Errors
    ///
    /// `Config` for an address or file that cannot work (secrets in it are not shown), `Conflict` with code `locked` when
    /// another process has the directory and does not share it, and whatever the engine says when it opens.
    pub async fn open(target: &str) -> Result<Self> {
        match Target::parse(target)? {
            Target::Config(path) => crate::config::Config::read(&path)?.open().await,
            target => open_target(target, EngineOptions::default()).await,
        }
    }

    /// The embedded engine on a directory, with its defaults; the same as [`open`](Strait::open) with `file:DIR`.
    ///
    /// Processes of one user share a directory: the first owns it, the others go through its socket, and when it ends one
    /// of them takes its place (see [`owner`](crate::owner)).
    ///
    /// # Errors
    ///
    /// As for [`open`](Strait::open).
    #[cfg(feature = "embedded")]
    pub async fn embedded(dir: impl AsRef<Path>) -> Result<Self> {
        Self::embedded_with(dir, ShareOptions::default()).await
    }

    /// The embedded engine on a directory, with options: the engine's own ([`embedded::Options`](crate::embedded::Options)),
    /// or these and how the directory is shared ([`ShareOptions`](crate::owner::ShareOptions)).
    ///
    /// # Errors
    ///
    /// As for [`open`](Strait::open).
    #[cfg(feature = "embedded")]
    pub async fn embedded_with(
        dir: impl AsRef<Path>,
        options: impl Into<ShareOptions>,
    ) -> Result<Self> {
        open_directory(dir.as_ref(), options.into()).await
    }

    /// The embedded engine on a memory disk: the same code, nothing survives.
    ///
    /// # Errors
    ///
    /// None is expected; the signature is that of opening.
    #[cfg(feature = "embedded")]
    pub fn memory() -> Result<Self> {
        let engine = strait_embedded::Embedded::memory(strait_embedded::Options::default())?;
        Ok(Self::on(engine))
    }

    /// On an engine that you made.
    pub fn on(engine: Arc<dyn Engine>) -> Self {
        let events = engine.lanes().events;
        let budget = Arc::new(Semaphore::new(IN_FLIGHT_BYTES));
        Strait {
            inner: Arc::new(Inner {
                engine,
                events,
                budget,
                configured: Configured::default(),
                places: Places::default(),
            }),
        }
    }

    /// The same engine, with what a configuration says beside it: an alarm that running apps watch, and more engines.
    pub(crate) fn configured(self, alarm: Option<Checked>, places: Places) -> Self {
        let inner = &self.inner;
        Strait {
            inner: Arc::new(Inner {
                engine: inner.engine.clone(),
                events: inner.events.clone(),
                budget: inner.budget.clone(),
                configured: Configured {
                    alarm,
                    watched: Mutex::default(),
                },
                places,
            }),
        }
    }

    /// The part of it that a topic lives on: this one, or another engine where a [configuration](crate::config) names one
    /// for the topic. Topics that are declared through [`events`](Strait::events) are there by themselves.
    pub fn at(&self, topic: &str) -> &Strait {
        self.inner.places.of(topic).unwrap_or(self)
    }

    /// This, where it is one engine, for what works on one.
    ///
    /// # Errors
    ///
    /// `Config` when its [configuration](crate::config) names several: taken for the first of them, a message could go where
    /// nobody reads it.
    pub fn one_engine(&self) -> Result<&Self> {
        match self.others().next() {
            None => Ok(self),
            Some(_) => Err(Error::new(
                strait_core::Kind::Config,
                "the configuration names several engines, and this works on one",
            )
            .next("give the address of one; `strait config check` shows them, and which topics live where")),
        }
    }

    /// The other engines of a [configuration](crate::config), by the names that it gives them.
    pub fn others(&self) -> impl Iterator<Item = (&str, &Strait)> {
        let engines = self.inner.places.engines.iter();
        engines.map(|(name, strait)| (name.as_str(), strait))
    }

    /// Watches the alarm of the configuration as long as one of those who called this lives; `None` without one.
    pub(crate) async fn watch_configured(&self) -> Result<Option<Arc<Watching>>> {
        let configured = &self.inner.configured;
        let Some(alarm) = &configured.alarm else {
            return Ok(None);
        };
        let engine = self.engine().clone();
        alarm.check_on(&*engine).await?;
        let lane = self.events_lane()?.clone();
        let mut watched = configured.watched.lock();
        if let Some(watching) = watched.upgrade() {
            return Ok(Some(watching));
        }
        let watching = Arc::new(alarm::watch(alarm.clone(), engine, lane));
        *watched = Arc::downgrade(&watching);
        Ok(Some(watching))
    }

    /// The events lane: facts that happened, kept and replayable.
    pub fn events(&self) -> Events {
        Events::new(self.clone())
    }

    /// An app: handlers that consume, with their state.
    pub fn app(&self) -> App {
        App::new(self.clone())
    }

    /// The engine, for what the handles do not cover.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.inner.engine
    }

    /// The engine's events lane, for what the handles do not cover.
    ///
    /// # Errors
    ///
    /// `Unsupported` when the engine has none.
    pub fn events_lane(&self) -> Result<&Arc<dyn EventsLane>> {
        self.inner.events.as_ref().ok_or_else(|| {
            Error::unsupported(
                format!("the engine {} has no events lane", self.inner.engine.id()),
                "use an engine that has one: `file:DIR` (embedded)",
            )
        })
    }

    /// How the engine is, now and as it changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.engine.health()
    }

    /// Ends the engine: consumers end, writes under way finish (for up to 10 s), later calls answer `Closed`.
    /// Calling it again does nothing.
    pub async fn close(&self) {
        self.close_within(CLOSE_GRACE).await;
    }

    /// [`close`](Strait::close) with another bound.
    pub async fn close_within(&self, grace: Duration) {
        let others = self
            .others()
            .map(|(_, strait)| strait.inner.engine.close(grace));
        let all: Vec<_> = others.chain([self.inner.engine.close(grace)]).collect();
        futures_util::future::join_all(all).await;
    }

    pub(crate) fn budget(&self) -> &Arc<Semaphore> {
        &self.inner.budget
    }
}

impl fmt::Debug for Strait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Strait({})",
            crate::target::redact(&self.inner.engine.id().0)
        )
    }
}

#[cfg(feature = "embedded")]
pub(crate) type EngineOptions = ShareOptions;
/// Without an engine there is nothing to set.
#[cfg(not(feature = "embedded"))]
#[derive(Debug, Clone, Default)]
pub(crate) struct EngineOptions {}

/// One arm per scheme: what can be opened is what stands here.
pub(crate) async fn open_target(target: Target, options: EngineOptions) -> Result<Strait> {
    match target {
        #[cfg(feature = "embedded")]
        Target::Directory(dir) => open_directory(&dir, options).await,
        #[cfg(feature = "embedded")]
        Target::ReadOnly(dir) => {
            let mut options = options;
            options.engine.read_only = true;
            open_directory(&dir, options).await
        }
        #[cfg(feature = "embedded")]
        Target::Memory => Ok(Strait::on(strait_embedded::Embedded::memory(
            options.engine,
        )?)),
        #[cfg(not(feature = "embedded"))]
        target @ (Target::Directory(_) | Target::ReadOnly(_) | Target::Memory) => {
            let EngineOptions {} = options;
            Err(Error::unsupported(
                format!("`{target}` needs the embedded engine, and this build is without it"),
                "switch on the feature `embedded` of the crate `strait`",
            ))
        }
        #[cfg(feature = "kafka")]
        Target::Kafka(address) => {
            let kafka = strait_kafka::Kafka::open(*address.options).await?;
            Ok(Strait::on(Arc::new(kafka)))
        }
        #[cfg(feature = "redis")]
        Target::Redis(address) => {
            let redis = strait_redis::Redis::open(*address.options).await?;
            Ok(Strait::on(Arc::new(redis)))
        }
        Target::Config(path) => Err(nested(&path)),
    }
}

fn nested(path: &Path) -> Error {
    Error::new(
        strait_core::Kind::Config,
        format!(
            "`{}` is a configuration file, not an engine",
            path.display()
        ),
    )
    .next("write `url = \"file:DIR\"` in the configuration")
}

/// As the directory's owner, or through its owner's socket. Who only looks at it is neither.
#[cfg(feature = "embedded")]
async fn open_directory(dir: &Path, options: ShareOptions) -> Result<Strait> {
    if options.engine.read_only {
        let engine = strait_embedded::Embedded::open(dir, options.engine)?;
        return Ok(Strait::on(engine));
    }
    Ok(Strait::on(Arc::new(Shared::open(dir, options).await?)))
}

#[cfg(feature = "embedded")]
impl From<strait_embedded::Options> for ShareOptions {
    fn from(engine: strait_embedded::Options) -> Self {
        ShareOptions {
            engine,
            ..ShareOptions::default()
        }
    }
}
