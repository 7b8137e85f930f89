//! An engine that outlives the connection to it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use strait_core::events::{Caps, Events};
use strait_core::{
    Backup, Claim, Claimed, Effect, Engine, EngineId, Error, Fut, Health, Kind, Lanes, Outcome,
    Result, Storage, Unit,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::client::Effects;
use crate::wire::copy_of;

mod consumer;
mod events;
mod fresh;
mod send;
mod supervise;

use events::ReconnectEvents;
use fresh::Fresh;

/// Where the engine comes from, again and again.
pub trait Connect: fmt::Debug + Send + Sync + 'static {
    /// Opens or connects, once. An error that [may be retried](Error::may_retry) is tried again with back-off; any other
    /// one is given to the callers too, and tried again slowly.
    fn connect(&self) -> Fut<Result<Connected>>;
}

/// An engine for now.
#[derive(Debug)]
pub struct Connected {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// It runs in this process: it cannot be lost, and calls go to it directly.
    pub local: bool,
}

/// How a [`Reconnect`] behaves.
#[derive(Debug, Clone, Copy)]
pub struct ReconnectOptions {
    /// How long the first connection is tried for; then opening fails. Default 10 s.
    pub first_within: Duration,
    /// How long a call waits for a lost engine to come back; then it answers `Unavailable`. Connecting goes on all the
    /// same. Default 30 s.
    pub patience: Duration,
    /// The pause after the first failed attempt; doubled, with jitter, up to `pause_most`. Default 10 ms.
    pub pause: Duration,
    /// The longest pause. Default 1 s.
    pub pause_most: Duration,
}

impl Default for ReconnectOptions {
    fn default() -> Self {
        ReconnectOptions {
            first_within: Duration::from_secs(10),
            patience: Duration::from_secs(30),
            pause: Duration::from_millis(10),
            pause_most: Duration::from_secs(1),
        }
    }
}

/// An engine that is connected to again when it is lost. Cheap to clone.
///
/// # When the engine is lost
///
/// Health becomes `Down`, with the reason and what is being tried, and calls wait, at most the patience of the options:
///
/// * Reads and questions are asked again.
/// * An append whose answer did not come is sent again when its repetition is recognized: when it asks for `dedupe`, or when
///   its batch was made within the last seconds, holds no ids of its own and was not sent before. For the latter
///   `dedupe` is turned on, by the batch's id, as long as the engine is another process. Otherwise, and for topics whose
///   dedupe window is over, the answer is `unknown_outcome`. Units that only send are handled in the same way.
/// * Units that settle answer `Unknown`, or `Fenced` when they were not sent: receipts end with the connection.
/// * Other writes answer `unknown_outcome` when they were sent.
/// * Consumers see `Lost` for each of their shards and join again by themselves; then `Assigned`. The consumer's `id` stays
///   that of its first membership; its receipts carry the present one.
#[derive(Debug, Clone)]
pub struct Reconnect {
    core: Arc<Core>,
    _alive: Arc<Alive>,
}

/// Ends the supervision with the last handle.
#[derive(Debug)]
struct Alive(AbortHandle);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Core {
    id: EngineId,
    caps: Option<Caps>,
    phase: watch::Sender<Phase>,
    health: watch::Sender<Health>,
    options: ReconnectOptions,
    fresh: Mutex<Fresh>,
}

/// Where things stand.
#[derive(Debug, Clone)]
enum Phase {
    Up(Arc<Current>),
    /// Lost. An error that may not be retried is given to callers at once.
    Away(Arc<Error>),
    Closed,
}

/// The engine of the moment.
#[derive(Debug)]
struct Current {
    engine: Arc<dyn Engine>,
    events: Option<Arc<dyn Events>>,
    local: bool,
    number: u64,
}

impl Current {
    fn new(connected: Connected, number: u64) -> Arc<Self> {
        Arc::new(Current {
            events: connected.engine.lanes().events,
            engine: connected.engine,
            local: connected.local,
            number,
        })
    }

    fn events(&self) -> Result<&Arc<dyn Events>> {
        let missing = || Error::unsupported("the events lane", "use an engine that offers it");
        self.events.as_ref().ok_or_else(missing)
    }

    /// The error for what waits no longer for another engine.
    fn gone(&self) -> Error {
        let text = "the engine was lost, and no other one came in its place in time";
        Error::new(Kind::Unavailable, text)
            .next("look at the engine's health, which says what is tried")
    }

    /// Whether this error means that the engine is gone, and not only that it refuses.
    fn is_lost(&self, error: &Error) -> bool {
        let down = || {
            matches!(
                *self.engine.health().borrow(),
                Health::Down(_) | Health::Ended(_)
            )
        };
        match error.kind() {
            _ if self.local => false,
            // The owner closes its engine: its connections end next.
            Kind::Closed => true,
            Kind::Unavailable => down(),
            _ => false,
        }
    }
}

impl Reconnect {
    /// Connects for the first time, and supervises the engine from then on, on the runtime of the caller.
    pub async fn open(connect: Arc<dyn Connect>, options: ReconnectOptions) -> Result<Reconnect> {
        let first = supervise::first(&*connect, options).await?;
        let current = Current::new(first, 0);
        let core = Arc::new(Core {
            id: current.engine.id(),
            caps: current.events.as_ref().map(|events| events.caps()),
            health: watch::Sender::new(current.engine.health().borrow().clone()),
            phase: watch::Sender::new(Phase::Up(current)),
            options,
            fresh: Mutex::default(),
        });
        let task = tokio::spawn(supervise::supervise(core.clone(), connect));
        Ok(Reconnect {
            core,
            _alive: Arc::new(Alive(task.abort_handle())),
        })
    }

    /// The engine, if it is local: calls need no care then.
    fn local(&self) -> Option<Arc<Current>> {
        match &*self.core.phase.borrow() {
            Phase::Up(current) if current.local => Some(current.clone()),
            _ => None,
        }
    }

    /// The engine, which may have to come back first.
    async fn current(&self, patience: &mut Patience) -> Result<Arc<Current>> {
        let mut phase = self.core.phase.subscribe();
        loop {
            let away = match &*phase.borrow_and_update() {
                Phase::Up(current) => return Ok(current.clone()),
                Phase::Closed => return Err(Error::closed("the engine")),
                Phase::Away(error) => error.clone(),
            };
            if !away.may_retry() {
                return Err(copy_of(&away));
            }
            if patience.wait(phase.changed()).await.is_none() {
                return Err(copy_of(&away));
            }
        }
    }

    /// Waits until this engine is not the present one any more; `false` when patience ends first.
    async fn replaced(&self, lost: &Current, patience: &mut Patience) -> bool {
        let mut phase = self.core.phase.subscribe();
        let other = |phase: &Phase| !matches!(phase, Phase::Up(now) if now.number == lost.number);
        patience.wait(phase.wait_for(other)).await.is_some()
    }

    /// Calls until there is an answer that is not the loss of the engine.
    async fn again<T, F>(self, effects: Effects, call: F) -> Result<T>
    where
        F: Fn(&Current) -> Result<Fut<Result<T>>>,
    {
        let mut patience = Patience::new(self.core.options.patience);
        // Once it may have happened, no error says that it did not.
        let mut doubt = false;
        let doubted = |doubt, error: Error| if doubt { error.unknown() } else { error };
        loop {
            let current = self.current(&mut patience).await;
            let current = current.map_err(|error| doubted(doubt, error))?;
            match call(&current)?.await {
                Err(error) if current.is_lost(&error) && effects.allow(&error) => {
                    doubt |= error.effect() == Effect::Unknown;
                    if !self.replaced(&current, &mut patience).await {
                        return Err(error);
                    }
                }
                result => return result.map_err(|error| doubted(doubt, error)),
            }
        }
    }
}

/// The time that a call may wait in all, from its first wait on.
#[derive(Debug)]
struct Patience {
    most: Duration,
    until: Option<Instant>,
}

impl Patience {
    fn new(most: Duration) -> Self {
        Patience { most, until: None }
    }

    async fn wait<T>(&mut self, event: impl Future<Output = T>) -> Option<T> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + self.most);
        tokio::time::timeout_at(until, event).await.ok()
    }
}

impl Engine for Reconnect {
    fn id(&self) -> EngineId {
        self.core.id.clone()
    }

    fn lanes(&self) -> Lanes {
        match &self.core.caps {
            Some(caps) => Lanes::none().with_events(Arc::new(ReconnectEvents {
                engine: self.clone(),
                caps: caps.clone(),
            })),
            None => Lanes::none(),
        }
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.core.health.subscribe()
    }

    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        match self.local() {
            Some(current) => current.engine.commit(units),
            None => Box::pin(self.clone().commit_again(units)),
        }
    }

    fn claim(&self, claim: Claim) -> Fut<Result<Claimed>> {
        let again = move |current: &Current| Ok(current.engine.claim(claim.clone()));
        Box::pin(self.clone().again(Effects::Repeatable, again))
    }

    fn backup(&self, to: PathBuf) -> Fut<Result<Backup>> {
        let again = move |current: &Current| Ok(current.engine.backup(to.clone()));
        Box::pin(self.clone().again(Effects::Once, again))
    }

    fn storage(&self) -> Fut<Result<Storage>> {
        let again = move |current: &Current| Ok(current.engine.storage());
        Box::pin(self.clone().again(Effects::None, again))
    }

    fn close(&self, grace: Duration) -> Fut<()> {
        let engine = self.clone();
        Box::pin(async move {
            let before = engine.core.phase.send_replace(Phase::Closed);
            engine._alive.0.abort();
            if let Phase::Up(current) = before {
                current.engine.close(grace).await;
            }
            let ended = Health::Ended("the engine was closed".into());
            engine.core.health.send_replace(ended);
        })
    }
}
