//! The engine as users open it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use strait_core::events::Durability;
use strait_core::{
    Backup, Claim, Claimed, Engine, EngineId, Error, Fut, Health, Kind, Lanes, Outcome, Outgoing,
    Result, Storage, Unit,
};
use tokio::sync::{oneshot, watch};

use crate::backup;
use crate::command::{Answer, Command, Prepared};
use crate::disk::{LockGuard, RealDisk};
use crate::events::check_size;
use crate::housekeeper::Housekeeper;
use crate::open;
use crate::options::Options;
use crate::prepare::prepare;
use crate::read_only;
use crate::shared::Shared;
use crate::state::State;
use crate::storage;
use crate::writer::Writer;

/// How often a claim that waits is asked again although no other ended.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);
/// One command commits so many bytes, or one unit.
const COMMAND_BYTES: usize = 4 << 20;

/// The embedded engine: one data directory, one writer process. See the [crate's front page](crate).
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    id: EngineId,
    threads: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
    opened: Opened,
    /// Held until the threads have ended.
    lock: Mutex<Option<LockGuard>>,
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opened {
    /// Commit groups that were replayed.
    pub groups: u64,
    /// Bytes of log that were replayed.
    pub bytes: u64,
    /// How long opening took.
    pub took: Duration,
    /// What the user should know: a torn tail that was cut, a file system that may not keep its word.
    pub warnings: Vec<String>,
}

impl Embedded {
    /// Opens the data directory `dir`; makes it (mode 0700) when it does not exist. Blocks while it recovers: below 50 ms
    /// for a new directory, seconds at most.
    ///
    /// # Errors
    /// `Conflict` (`locked`, with the pid) when another process has it; `Corrupt` with file and offset when durable bytes
    /// have changed; `Config` (`unknown_format`, `foreign_file`) for a directory that is not of this version;
    /// `Denied`, `Busy` (`disk_full`) and `Unsupported` (a network file system) as they say.
    ///
    /// ```
    /// use strait_core::Engine;
    /// use strait_embedded::{Embedded, Options};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("data");
    /// let engine = Embedded::open(&dir, Options::default())?;
    /// assert!(engine.lanes().events.is_some());
    /// # Ok::<(), strait_core::Error>(())
    /// ```
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Arc<Embedded>> {
        let dir = dir.as_ref();
        if options.read_only {
            return read_only::open(dir, options);
        }
        let disk = RealDisk::open(dir).map_err(|error| open::io_error(dir, error))?;
        let lock = disk
            .try_lock()
            .map_err(|error| open::lock_error(dir, error))?;
        let warnings = disk.warnings().to_vec();
        Embedded::start(open::open(Arc::new(disk), options, warnings)?, Some(lock))
    }

    /// An engine in memory: the same code on a disk of memory, gone on exit, bounded by
    /// [`Options::memory_bytes`]. Its acknowledgements say `memory`.
    pub fn memory(options: Options) -> Result<Arc<Embedded>> {
        if options.read_only {
            let text = "`memory:` is empty when it is opened: it cannot be read-only";
            return Err(Error::new(Kind::Config, text).next("open it without read_only"));
        }
        let options = Options {
            durability: Durability::Memory,
            ..options
        };
        let disk = crate::disk::SimDisk::plain(options.memory_bytes);
        Embedded::start(open::open(Arc::new(disk), options, Vec::new())?, None)
    }

    /// An engine on any disk, which nobody locks. For tests; not part of the crate's promise.
    #[doc(hidden)]
    pub fn on(disk: Arc<dyn crate::disk::Disk>, options: Options) -> Result<Arc<Embedded>> {
        Embedded::start(open::open(disk, options, Vec::new())?, None)
    }

    /// Without threads: somebody else makes its steps.
    pub(crate) fn threadless(shared: Arc<Shared>, opened: Opened) -> Arc<Embedded> {
        Embedded::assemble(shared, opened, Vec::new(), None)
    }

    fn start(started: open::Started, lock: Option<LockGuard>) -> Result<Arc<Embedded>> {
        let open::Started {
            shared,
            log,
            opened,
        } = started;
        let writer = Writer::new(shared.clone(), log);
        let keeper = Housekeeper::new(shared.clone());
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(body)
                .map_err(|error| strait_core::Error::io("cannot start a thread", error))
        };
        let (of_writer, of_keeper) = (shared.clone(), shared.clone());
        let threads = vec![
            spawn(
                "strait-writer",
                Box::new(move || guard(&of_writer, || writer.run())),
            )?,
            spawn(
                "strait-keeper",
                Box::new(move || guard(&of_keeper, || keeper.run())),
            )?,
        ];
        Ok(Embedded::assemble(shared, opened, threads, lock))
    }

    pub(crate) fn assemble(
        shared: Arc<Shared>,
        opened: Opened,
        threads: Vec<JoinHandle<()>>,
        lock: Option<LockGuard>,
    ) -> Arc<Embedded> {
        let id = match shared.copy {
            0 => format!("embedded:{:032x}", shared.identity),
            copy => format!("embedded:{:032x}-{copy:032x}", shared.identity),
        };
        let id = EngineId(id.into());
        let inner = Inner {
            shared,
            id,
            threads: Mutex::new(threads),
            closed: AtomicBool::new(false),
            opened,
            lock: Mutex::new(lock),
        };
        Arc::new(Embedded {
            inner: Arc::new(inner),
        })
    }

    /// What opening found.
    pub fn opened(&self) -> &Opened {
        &self.inner.opened
    }

    /// What an acknowledgement of this engine means.
    pub fn durability(&self) -> Durability {
        self.inner.shared.options.durability
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn ask<T: Send + 'static>(
        &self,
        bytes: usize,
        command: impl FnOnce(Answer<Result<T>>) -> Command + Send + 'static,
    ) -> Fut<Result<T>> {
        let shared = self.inner.shared.clone();
        Box::pin(async move { shared.ask(bytes, command).await? })
    }

    pub(crate) fn with_state<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, &Shared) -> Result<T> + Send + 'static,
    ) -> Fut<Result<T>> {
        let shared = self.inner.shared.clone();
        Box::pin(async move {
            shared.check_alive()?;
            let state = shared.state.lock();
            look(&state, &shared)
        })
    }
}

/// A thread of the engine that panics ends the engine as a failed disk does: nobody waits for it in vain.
fn guard(shared: &Shared, body: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(body)).is_ok() {
        return;
    }
    shared.poison("a thread of the engine panicked, which is an error of strait: please report it");
    let mut waiting = Vec::new();
    shared.take(&mut waiting);
    for (command, _) in waiting {
        command.refuse(&|| shared.ended_error());
    }
}

impl Inner {
    /// Ends the threads; what was accepted is written first.
    fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.shared.stop();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine panicked");
            }
        }
        self.shared.wake_everybody();
        if !matches!(&*self.shared.health.borrow(), Health::Ended(_)) {
            self.shared
                .health
                .send_replace(Health::Ended("closed".into()));
        }
        self.lock.lock().take();
    }
}

impl Engine for Embedded {
    fn id(&self) -> EngineId {
        self.inner.id.clone()
    }

    fn lanes(&self) -> Lanes {
        Lanes::none().with_events(Arc::new(Embedded {
            inner: self.inner.clone(),
        }))
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.inner.shared.health.subscribe()
    }

    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let shared = self.inner.shared.clone();
        Box::pin(async move {
            let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(units.len());
            let mut batches = Batches::default();
            for unit in units {
                outcomes.push(match check_unit(&shared, unit) {
                    Ok(ready) => {
                        batches.add(ready);
                        None
                    }
                    Err(refused) => Some(Outcome::NotApplied(refused.0, refused.1)),
                });
            }
            // All before the first await: a caller that drops the future later changes nothing. So it does not wait for
            // room either; what it settles makes room.
            let waiting: Vec<_> = batches.list.into_iter().map(|b| b.push(&shared)).collect();
            let mut answers = Vec::with_capacity(outcomes.len());
            for (count, answer) in waiting {
                let missing = || Outcome::Unknown(shared.ended_error().unknown());
                let lost = |_| std::iter::repeat_with(missing).take(count).collect();
                answers.extend(answer.await.unwrap_or_else(lost));
            }
            let mut answers = answers.into_iter();
            let next = |early: Option<Outcome>| early.or_else(|| answers.next());
            outcomes.into_iter().filter_map(next).collect()
        })
    }

    fn claim(&self, claim: Claim) -> Fut<Result<Claimed>> {
        let shared = self.inner.shared.clone();
        Box::pin(async move {
            let end = (!claim.wait.is_zero()).then(|| tokio::time::Instant::now() + claim.wait);
            loop {
                // A lease that runs out rings no bell.
                let again_at = tokio::time::Instant::now() + CLAIM_AGAIN;
                let notified = shared.claims.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                let again = claim.clone();
                let claimed = shared.ask(0, |to| Command::Claim(again, to)).await??;
                let Some(end) = end.filter(|_| claimed == Claimed::Wait) else {
                    return Ok(claimed);
                };
                let over = tokio::time::timeout_at(end.min(again_at), notified).await;
                if over.is_err() && end <= again_at {
                    return Ok(claimed);
                }
            }
        })
    }

    fn backup(&self, to: PathBuf) -> Fut<Result<Backup>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            inner.shared.check_alive()?;
            if inner.shared.options.durability == Durability::Memory {
                let text = "`memory:` keeps nothing: it has no backups";
                return Err(Error::unsupported(text, "open a directory: `file:DIR`"));
            }
            if !to.is_absolute() {
                let text = format!(
                    "a backup goes to an absolute path, not to `{}`",
                    to.display()
                );
                return Err(Error::new(Kind::Rejected, text)
                    .next("name the whole path, on the machine of the engine"));
            }
            let (answer, done) = oneshot::channel();
            let spawned = std::thread::Builder::new()
                .name("strait-backup".to_owned())
                .spawn(move || {
                    // Who does not wait any more does not want to know.
                    let _ = answer.send(backup::take(&inner.shared, &to));
                });
            spawned.map_err(|error| Error::io("cannot start a thread", error))?;
            done.await
                .unwrap_or_else(|_| Err(Error::closed("the backup")))
        })
    }

    fn storage(&self) -> Fut<Result<Storage>> {
        let shared = self.inner.shared.clone();
        Box::pin(async move {
            shared.check_alive()?;
            let measured = storage::measure(&shared);
            measured.map_err(|error| Error::io("the storage cannot be measured", error))
        })
    }

    fn close(&self, grace: Duration) -> Fut<()> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let (to, done) = oneshot::channel();
            let spawned = std::thread::Builder::new()
                .name("strait-close".to_owned())
                .spawn(move || {
                    inner.close();
                    // Nobody waits any more when the grace is over.
                    let _ = to.send(());
                });
            if spawned.is_ok() {
                let _ = tokio::time::timeout(grace, done).await;
            }
        })
    }
}

/// Checks the sizes of a unit and reads what its verdicts need.
fn check_unit(shared: &Shared, unit: Unit) -> Result<Prepared, Box<(Unit, Error)>> {
    let fault = unit.send.iter().find_map(|outgoing| match outgoing {
        Outgoing::Append { records, .. } => check_size(shared, records).err(),
        _ => None,
    });
    match fault {
        Some(error) => Err(Box::new((unit, error))),
        None => prepare(shared, unit),
    }
}

/// Units on their way to the writer, in commands that do not make a group too long.
#[derive(Default)]
struct Batches {
    list: Vec<UnitBatch>,
}

#[derive(Default)]
struct UnitBatch {
    units: Vec<Prepared>,
    bytes: usize,
}

/// How many outcomes follow, and where from.
type Waiting = (usize, oneshot::Receiver<Vec<Outcome>>);

impl Batches {
    fn add(&mut self, unit: Prepared) {
        let bytes = unit.bytes();
        let fits = |batch: &&mut UnitBatch| batch.bytes + bytes <= COMMAND_BYTES;
        match self.list.last_mut().filter(fits) {
            Some(batch) => {
                batch.bytes += bytes;
                batch.units.push(unit);
            }
            None => self.list.push(UnitBatch {
                units: vec![unit],
                bytes,
            }),
        }
    }
}

impl UnitBatch {
    fn push(self, shared: &Shared) -> Waiting {
        let (to, answer) = oneshot::channel();
        let count = self.units.len();
        shared.budget.take_over(self.bytes);
        shared.push(Command::Commit(self.units, to), self.bytes);
        (count, answer)
    }
}

impl Drop for Inner {
    /// Dropping the last handle closes the engine: what was accepted is written, consumers end.
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded")
            .field("id", &self.inner.id)
            .finish_non_exhaustive()
    }
}
