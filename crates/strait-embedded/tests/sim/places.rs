//! What a run stands on: a disk that fails, a disk that gives space back before the writer waits for ever, a clock that
//! somebody else moves, and wakers that remember.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use strait_core::{Clock, Timestamp};
use strait_embedded::disk::{Disk, File, Open, SimDisk};

/// More than any run needs.
pub(crate) const ROOMY: u64 = 1 << 30;
/// After so many refusals in one turn space comes back: the writer waits for it.
const PATIENCE: u32 = 6;

/// A [`SimDisk`] on which somebody frees space when the writer has to wait for it.
#[derive(Debug)]
pub(crate) struct Patient {
    pub(crate) sim: SimDisk,
    refused: Arc<AtomicU32>,
}

impl Patient {
    pub(crate) fn new(sim: SimDisk) -> Arc<Patient> {
        Arc::new(Patient {
            sim,
            refused: Arc::default(),
        })
    }

    /// A turn begins; true when space came back in the last one.
    pub(crate) fn begin_turn(&self) -> bool {
        self.refused.swap(0, Ordering::Relaxed) >= PATIENCE
    }

    fn watch<T>(&self, done: io::Result<T>) -> io::Result<T> {
        if done
            .as_ref()
            .is_err_and(|e| e.kind() == io::ErrorKind::StorageFull)
            && self.refused.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE
        {
            self.sim.set_capacity(ROOMY);
        }
        done
    }
}

/// The disk as the engine sees it.
#[derive(Debug)]
pub(crate) struct Seen(pub(crate) Arc<Patient>);

#[derive(Debug)]
struct SeenFile {
    disk: Arc<Patient>,
    file: Arc<dyn File>,
}

impl Disk for Seen {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>> {
        let file = self.0.sim.open(name, how)?;
        let disk = self.0.clone();
        Ok(Arc::new(SeenFile { disk, file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.sim.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.sim.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.sim.rename(from, to)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sim.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.0.sim.free_bytes()
    }

    fn used_bytes(&self) -> io::Result<u64> {
        self.0.sim.used_bytes()
    }
}

impl File for SeenFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        self.file.read_at(buf, pos)
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        self.file.write_all_at(parts, pos)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.watch(self.file.allocate(len))
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.file.zero(range)
    }
}

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub(crate) struct ManualClock {
    wall: AtomicI64,
    monotonic: AtomicU64,
}

impl ManualClock {
    pub(crate) fn new(wall: i64) -> Arc<ManualClock> {
        Arc::new(ManualClock {
            wall: AtomicI64::new(wall),
            monotonic: AtomicU64::new(1_000),
        })
    }

    /// Time goes on, on both clocks.
    pub(crate) fn advance(&self, millis: u64) {
        self.wall.fetch_add(millis as i64, Ordering::Relaxed);
        self.monotonic.fetch_add(millis, Ordering::Relaxed);
    }

    /// Somebody sets the wall clock.
    pub(crate) fn jump(&self, millis: i64) {
        self.wall.fetch_add(millis, Ordering::Relaxed);
    }

    pub(crate) fn wall_millis(&self) -> i64 {
        self.wall.load(Ordering::Relaxed)
    }

    pub(crate) fn monotonic_millis(&self) -> u64 {
        self.monotonic.load(Ordering::Relaxed)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.wall_millis())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_millis())
    }
}

/// A waker that only remembers that it was woken.
#[derive(Debug)]
pub(crate) struct Bell(AtomicBool);

impl Bell {
    /// One that has rung: whoever it belongs to is looked at once.
    pub(crate) fn rung() -> Arc<Bell> {
        Arc::new(Bell(AtomicBool::new(true)))
    }

    /// True when it rang since the last look.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn waker(self: &Arc<Bell>) -> Waker {
        Waker::from(self.clone())
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
