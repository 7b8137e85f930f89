//! One directory, several processes: the first one owns it, the others use it through the first one's socket, and when
//! the owner goes one of them takes its place.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use strait_core::{
    Backup, Claim, Claimed, Engine, EngineId, Error, Fut, Health, Kind, Lanes, Outcome, Result,
    Storage, Unit, codes,
};
use strait_embedded::Embedded;
use strait_remote::{
    Client, ClientOptions, Connect, Connected, ListenOptions, Listener, Reconnect,
    ReconnectOptions, SwitchedOff, switch_off, switched_off_by,
};
use tokio::sync::watch;

/// How a directory is shared between processes.
#[derive(Debug, Clone)]
pub struct ShareOptions {
    /// The engine, for when this process owns the directory.
    pub engine: strait_embedded::Options,
    /// As the owner, answer other processes of the same user on the directory's socket. Default `true`. Switched off, they
    /// get `Conflict` with code `locked`.
    pub listen: bool,
    /// When another process has the directory and does not share it: wait for its end, at most so long. For a
    /// replacement that starts before the old process is gone. Default: not at all.
    pub wait_for_lock: Option<Duration>,
    /// The listener, for when this process owns the directory.
    pub listener: ListenOptions,
    /// The connection, for when another process owns it.
    pub client: ClientOptions,
    /// What happens when the owner goes.
    pub reconnect: ReconnectOptions,
}

impl Default for ShareOptions {
    fn default() -> Self {
        ShareOptions {
            engine: strait_embedded::Options::default(),
            listen: true,
            wait_for_lock: None,
            listener: ListenOptions::default(),
            client: ClientOptions::default(),
            reconnect: ReconnectOptions::default(),
        }
    }
}

/// What this process is to a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It has the lock, and the engine runs here.
    Owner {
        /// Others are answered on the socket.
        listening: bool,
    },
    /// Another process has the lock; this one goes through its socket.
    Guest {
        /// The owner: program, pid, build.
        of: Arc<str>,
    },
    /// The owner is gone, and this process tries to become the owner or to find the next one.
    Between,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Owner { listening: true } => f.write_str("owner, answering others"),
            Role::Owner { listening: false } => f.write_str("owner, for itself alone"),
            Role::Guest { of } => write!(f, "guest of {of}"),
            Role::Between => f.write_str("between two owners"),
        }
    }
}

/// An engine on a directory that several processes of one user share.
///
/// The process that gets the directory's lock runs the embedded engine and answers the others. When it ends, in whatever
/// way, one of the others gets the lock and opens the directory, and the rest go to that one; [`Reconnect`] says what
/// happens to calls, receipts and consumers meanwhile. As the owner, calls go to the embedded engine directly.
#[derive(Debug, Clone)]
pub struct Shared {
    engine: Reconnect,
    role: watch::Receiver<Role>,
}

impl Shared {
    /// Opens the directory as its owner, or through its owner's socket.
    ///
    /// # Errors
    ///
    /// `Conflict` with code `locked`, naming pid and program, when the owner does not share it, or does not answer for as
    /// long as the first connection is tried; else as [`Embedded::open`] and [`Client::connect`].
    pub async fn open(directory: impl AsRef<Path>, options: ShareOptions) -> Result<Shared> {
        let mut reconnect = options.reconnect;
        let wait = options.wait_for_lock;
        reconnect.first_within = reconnect.first_within.max(wait.unwrap_or_default());
        let (tell, role) = watch::channel(Role::Between);
        let place = Arc::new(Place {
            path: directory.as_ref().to_owned(),
            wait_until: wait.map(|wait| Instant::now() + wait),
            options,
            role: tell,
        });
        let engine = Reconnect::open(Arc::new(Directory(place)), reconnect).await?;
        Ok(Shared { engine, role })
    }

    /// What this process is to the directory, now and as it changes.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }
}

/// Opens one directory again and again.
#[derive(Debug)]
struct Directory(Arc<Place>);

#[derive(Debug)]
struct Place {
    path: PathBuf,
    options: ShareOptions,
    /// Until then another process that does not share is waited for.
    wait_until: Option<Instant>,
    role: watch::Sender<Role>,
}

impl Connect for Directory {
    fn connect(&self) -> Fut<Result<Connected>> {
        Box::pin(self.0.clone().open_or_join())
    }
}

impl Place {
    async fn open_or_join(self: Arc<Self>) -> Result<Connected> {
        self.role.send_replace(Role::Between);
        // It reads the disk, and recovers what the last owner left.
        let place = self.clone();
        let opened = tokio::task::spawn_blocking(move || place.own()).await;
        let opened = opened.map_err(|error| {
            Error::new(Kind::Unexpected, "opening the engine failed").caused_by(error)
        })?;
        match opened {
            Ok(owner) => {
                let listening = self.options.listen;
                self.role.send_replace(Role::Owner { listening });
                let engine: Arc<dyn Engine> = Arc::new(owner);
                Ok(Connected {
                    engine,
                    local: true,
                })
            }
            Err(error) if error.is(codes::LOCKED) => self.join(error).await,
            Err(error) => Err(error),
        }
    }

    fn own(&self) -> Result<Owner> {
        let engine = Embedded::open(&self.path, self.options.engine.clone())?;
        let door = if self.options.listen {
            let served: Arc<dyn Engine> = engine.clone();
            Door::Open(Listener::bind(&self.path, served, self.options.listener)?)
        } else {
            Door::Shut(switch_off(&self.path)?)
        };
        Ok(Owner {
            engine,
            door: Mutex::new(Some(door)),
        })
    }

    /// Another process has the lock: goes through its socket.
    async fn join(&self, locked: Error) -> Result<Connected> {
        let context = locked.context().iter();
        let pid = context.clone().find(|(name, _)| *name == "pid");
        let pid = pid.and_then(|(_, pid)| pid.parse().ok());
        if pid.is_some() && switched_off_by(&self.path) == pid {
            let wait = self.wait_until.is_some_and(|until| Instant::now() < until);
            return Err(locked
                .retry(wait)
                .next("it does not share the directory: stop it, let it listen, or wait for it with `wait_for_lock`"));
        }
        match Client::connect(&self.path, self.options.client).await {
            Ok(client) => {
                let of = client.peer().into();
                self.role.send_replace(Role::Guest { of });
                let engine: Arc<dyn Engine> = Arc::new(client);
                Ok(Connected {
                    engine,
                    local: false,
                })
            }
            Err(error) if matches!(error.kind(), Kind::Denied | Kind::Unsupported) => Err(error),
            // It is starting, or ending, or stands still.
            Err(error) => Err(locked
                .retry(true)
                .next("it does not answer on its socket: see whether it is stopped")
                .caused_by(error)),
        }
    }
}

/// What is in the place of the directory's socket.
#[derive(Debug)]
enum Door {
    Open(Listener),
    Shut(SwitchedOff),
}

/// The engine of a process that owns the directory.
#[derive(Debug)]
struct Owner {
    engine: Arc<Embedded>,
    door: Mutex<Option<Door>>,
}

impl Engine for Owner {
    fn id(&self) -> EngineId {
        self.engine.id()
    }

    fn lanes(&self) -> Lanes {
        self.engine.lanes()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.engine.health()
    }

    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        self.engine.commit(units)
    }

    fn claim(&self, claim: Claim) -> Fut<Result<Claimed>> {
        self.engine.claim(claim)
    }

    fn backup(&self, to: PathBuf) -> Fut<Result<Backup>> {
        self.engine.backup(to)
    }

    fn storage(&self) -> Fut<Result<Storage>> {
        self.engine.storage()
    }

    /// First the door, so that others are told and their writes answered; then the engine, which lets go of the lock.
    fn close(&self, grace: Duration) -> Fut<()> {
        let door = self.door.lock().take();
        let engine = self.engine.clone();
        Box::pin(async move {
            let begun = Instant::now();
            match door {
                Some(Door::Open(listener)) => listener.stop(grace).await,
                Some(Door::Shut(note)) => drop(note),
                None => {}
            }
            engine.close(grace.saturating_sub(begun.elapsed())).await;
        })
    }
}

impl Engine for Shared {
    fn id(&self) -> EngineId {
        self.engine.id()
    }

    fn lanes(&self) -> Lanes {
        self.engine.lanes()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.engine.health()
    }

    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        self.engine.commit(units)
    }

    fn claim(&self, claim: Claim) -> Fut<Result<Claimed>> {
        self.engine.claim(claim)
    }

    fn backup(&self, to: PathBuf) -> Fut<Result<Backup>> {
        self.engine.backup(to)
    }

    fn storage(&self) -> Fut<Result<Storage>> {
        self.engine.storage()
    }

    fn close(&self, grace: Duration) -> Fut<()> {
        self.engine.close(grace)
    }
}
