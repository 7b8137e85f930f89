//! The engine: its connection, what the server is, and what is committed.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;
use redis::Value;
use strait_core::events::Durability;
use strait_core::{
    Backup, Claim, Claimed, Engine, EngineId, Error, Fut, Health, Kind, Lanes, Outcome, Result,
    Storage, Unit,
};
use tokio::sync::{Semaphore, watch};

use crate::fault::closed;
use crate::group::Members;
use crate::keys;
use crate::link::Link;
use crate::options::Options;
use crate::reply::{field, list, text};
use crate::script::{Invoke, Scripts};
use crate::topics::Known;

/// Longest body, in bytes.
pub(crate) const MAX_BODY: usize = 1 << 20;
/// Longest batch, in bytes.
pub(crate) const MAX_BATCH: usize = 8 << 20;
/// Bytes of batches that are on their way at the same time, in KiB; more wait.
pub(crate) const ROOM_KIB: u32 = 128 << 10;

/// A Redis or Valkey server as an engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Redis {
    pub(crate) shared: Arc<Shared>,
}

/// What every part of the engine works with.
pub(crate) struct Shared {
    pub(crate) link: Arc<Link>,
    pub(crate) scripts: Scripts,
    pub(crate) known: Known,
    pub(crate) members: Members,
    pub(crate) room: Semaphore,
    pub(crate) durability: RwLock<Durability>,
    id: OnceLock<EngineId>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

impl Redis {
    /// Opens the server. One that does not answer within [`Options::first_contact`] is no error unless [`Options::strict`]
    /// says so: the engine is down then, and is up as soon as the server answers. Must be called on a tokio runtime, whose
    /// tasks look at the server and trim streams until the engine is closed.
    ///
    /// # Errors
    ///
    /// `Config` for options that cannot work; with `strict` what the server says, or `Unavailable`.
    pub async fn open(options: Options) -> Result<Self> {
        let (first_contact, strict) = (options.first_contact, options.strict);
        let every = options.retention_every;
        let shared = Arc::new(Shared {
            link: Link::new(options)?,
            scripts: Scripts::new(),
            known: Known::default(),
            members: Members::default(),
            room: Semaphore::new(ROOM_KIB as usize),
            durability: RwLock::new(Durability::Memory),
            id: OnceLock::new(),
        });
        let looking = shared.clone();
        tokio::spawn(async move { looking.look().await });
        let trimming = shared.clone();
        tokio::spawn(async move { trimming.trim_until_the_end(every).await });
        let mut health = shared.link.watch();
        let up = health.wait_for(|health| matches!(health, Health::Up | Health::Impaired(_)));
        let answered = tokio::time::timeout(first_contact, up).await.is_ok();
        let redis = Redis { shared };
        if !answered && strict {
            let why = redis.health().borrow().clone();
            redis.close(Duration::ZERO).await;
            let text = "the Redis server does not answer";
            let error = Error::new(Kind::Unavailable, text)
                .next("check address and port; without `strict` it is waited for");
            return Err(match why {
                Health::Down(why) => error.with("reason", why),
                _ => error,
            });
        }
        Ok(redis)
    }

    /// Runs a command on the bare client, on the connection that the engine uses. One that blocks holds up the engine.
    ///
    /// # Errors
    ///
    /// What the server says, `Unavailable` without one.
    pub async fn native(&self, command: &redis::Cmd) -> Result<Value> {
        self.shared
            .link
            .run("a command of the caller", command, true)
            .await
    }
}

impl Shared {
    /// Looks at the server until the end.
    async fn look(&self) {
        while !self.link.is_closed() {
            let answered = self.link.ping().await.is_ok();
            if answered {
                self.introduce().await;
                self.link.up();
            }
            self.link.rest(answered).await;
        }
    }

    /// Asks the server what it is, each time that it is found to answer: it may be another one than before.
    async fn introduce(&self) {
        let mut asked = redis::pipe();
        // The store is known by a name of its own: a server has another run id after each start.
        let store = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        asked.cmd("SET").arg(keys::STORE).arg(store).arg("NX");
        asked.cmd("GET").arg(keys::STORE);
        asked.cmd("ROLE");
        for name in ["appendonly", "appendfsync", "maxmemory-policy", "maxmemory"] {
            asked.cmd("CONFIG").arg("GET").arg(name);
        }
        let Ok(answers) = self
            .link
            .run_each("looking at the server's settings", &asked, false)
            .await
        else {
            return;
        };
        if let Some(store) = answers.get(1).and_then(text) {
            let _ = self.id.set(EngineId(format!("redis:{store}").into()));
        }
        let setting = |index: usize, name: &str| {
            let value = answers.get(index).and_then(|answer| field(answer, name));
            value.and_then(text).map(str::to_owned)
        };
        let (appendonly, appendfsync) = (setting(3, "appendonly"), setting(4, "appendfsync"));
        let durability = match (appendonly.as_deref(), appendfsync.as_deref()) {
            (Some("yes"), Some("always")) => Durability::Fsynced,
            (Some("yes"), _) => Durability::Os,
            _ => Durability::Memory,
        };
        *self.durability.write() = durability;
        let mut warnings = Vec::new();
        let role = answers
            .get(2)
            .and_then(list)
            .and_then(|role| text(role.first()?));
        if role == Some("slave") {
            warnings.push(
                "it is a replica and takes no writes: give the address of the primary".to_owned(),
            );
        }
        match appendonly.as_deref() {
            Some("yes") => {}
            Some(_) => warnings.push("its append-only file is off: what was acknowledged is lost when it ends (`appendonly yes`)".to_owned()),
            None => warnings.push("its settings cannot be read (`CONFIG GET`): how durable an acknowledgement is, is not known".to_owned()),
        }
        let (policy, limit) = (setting(5, "maxmemory-policy"), setting(6, "maxmemory"));
        if let Some(policy) =
            policy.filter(|policy| policy != "noeviction" && limit.as_deref() != Some("0"))
        {
            warnings.push(format!("it may evict streams when its memory is full (`maxmemory-policy {policy}`): set `noeviction`"));
        }
        self.link
            .impair((!warnings.is_empty()).then(|| warnings.join("; ")));
    }

    async fn trim_until_the_end(&self, every: Duration) {
        while !self.link.is_closed() {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = self.link.ended() => return,
            }
            if let Err(error) = self.trim().await {
                tracing::debug!(?error, "streams could not be trimmed");
            }
            if let Err(error) = self.expire_all_dead().await {
                tracing::debug!(?error, "old dead letters could not be removed");
            }
        }
    }

    /// Runs a script.
    pub(crate) async fn script(&self, what: &str, invoke: &Invoke, writes: bool) -> Result<Value> {
        let answer = self.link.run(what, &invoke.by_hash(), writes).await;
        match answer {
            // The server does not know it: nothing happened.
            Err(error) if error.message().contains("NOSCRIPT") => {
                self.link.run(what, &invoke.in_full(), writes).await
            }
            answer => answer,
        }
    }
}

impl Engine for Redis {
    fn id(&self) -> EngineId {
        match self.shared.id.get() {
            Some(id) => id.clone(),
            // Until the server has answered for the first time it is known by its address.
            None => EngineId(format!("redis:{}", self.shared.link.options.address()).into()),
        }
    }

    fn lanes(&self) -> Lanes {
        Lanes::none().with_events(Arc::new(self.clone()))
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.link.watch()
    }

    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let count = units.len();
            // A task of its own: it runs to its end also when nobody waits for it.
            let running = tokio::spawn(async move {
                let each = units.into_iter().map(|unit| shared.unit(unit));
                futures_util::future::join_all(each).await
            });
            running.await.unwrap_or_else(|_| {
                let unknown = |_| Outcome::Unknown(closed().unknown());
                (0..count).map(unknown).collect()
            })
        })
    }

    fn claim(&self, claim: Claim) -> Fut<Result<Claimed>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            if shared.link.is_closed() {
                return Err(closed());
            }
            shared.claim(claim).await
        })
    }

    fn backup(&self, _: PathBuf) -> Fut<Result<Backup>> {
        Box::pin(async {
            Err(Error::unsupported(
                "a Redis server is no directory to copy",
                "copy its append-only file as its manual says, or mirror its topics",
            ))
        })
    }

    fn storage(&self) -> Fut<Result<Storage>> {
        Box::pin(async {
            Err(Error::unsupported(
                "the memory of a Redis server is not this engine's to measure",
                "look at `redis-cli INFO memory`",
            ))
        })
    }

    fn close(&self, grace: Duration) -> Fut<()> {
        let shared = self.shared.clone();
        Box::pin(async move {
            if shared.link.is_closed() {
                return;
            }
            shared.leave_groups(grace).await;
            shared.link.close();
            // Batches that are under way hold their room.
            let all = shared.room.acquire_many(ROOM_KIB);
            let _ = tokio::time::timeout(grace, all).await;
            shared.link.let_go();
        })
    }
}
