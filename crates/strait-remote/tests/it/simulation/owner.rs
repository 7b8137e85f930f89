//! The owner: the embedded engine on a simulated disk, its threads replaced by a task.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use strait_core::{Clock, Engine, Timestamp};
use strait_embedded::Options;
use strait_embedded::disk::rng::Rng;
use strait_embedded::disk::sim::Crash;
use strait_embedded::disk::{LogOptions, SimDisk};
use strait_embedded::stepped::Stepped;
use tokio::io::DuplexStream;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::tasks::{Scheduler, Tasks};

/// More than any run needs.
const ROOMY: u64 = 1 << 30;

/// The engine's clock is the one of the run.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + self.0.elapsed().as_millis() as i64)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

#[derive(Debug)]
pub(crate) struct Owner {
    tasks: Arc<Tasks>,
    options: Options,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    disk: Arc<SimDisk>,
    /// `None` between its death and the next one's opening.
    life: Option<Life>,
}

#[derive(Debug)]
struct Life {
    engine: Arc<dyn Engine>,
    scheduler: Arc<Scheduler>,
    tasks: Vec<AbortHandle>,
}

impl Owner {
    pub(crate) fn new(tasks: Arc<Tasks>, mut rng: Rng) -> Arc<Self> {
        let disk = Arc::new(SimDisk::faulty(ROOMY, rng.next_u64()));
        let owner = Owner {
            tasks,
            options: Options {
                clock: Arc::new(Virtual(Instant::now())),
                ..Options::default()
            },
            state: Mutex::new(State {
                rng,
                disk,
                life: None,
            }),
        };
        owner.open();
        Arc::new(owner)
    }

    /// A process opens the directory, and owns it.
    pub(crate) fn open(&self) {
        let mut state = self.state.lock();
        let log = LogOptions {
            segment_bytes: 128 << 10,
            first_segment_bytes: 16 << 10,
            reserve_bytes: 128 << 10,
            ..LogOptions::new(7, state.rng.next_u64())
        };
        let stepped = Stepped::open(state.disk.clone(), self.options.clone(), log).unwrap();
        let engine: Arc<dyn Engine> = stepped.engine().clone();
        let scheduler = Arc::new(Scheduler::default());
        let steps = steps(stepped, Rng::new(state.rng.next_u64()));
        let tasks = vec![self.tasks.spawn(scheduler.run(steps))];
        state.life = Some(Life {
            engine,
            scheduler,
            tasks,
        });
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.state.lock().life.is_some()
    }

    /// The engine, for who looks at it from outside.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        let state = self.state.lock();
        state.life.as_ref().expect("nobody owns it").engine.clone()
    }

    pub(crate) fn scheduler(&self) -> Option<Arc<Scheduler>> {
        let state = self.state.lock();
        state.life.as_ref().map(|life| life.scheduler.clone())
    }

    /// Serves a connection; `false` when nobody is there.
    pub(crate) fn serve(&self, stream: DuplexStream) -> bool {
        let mut state = self.state.lock();
        let Some(life) = &mut state.life else {
            return false;
        };
        let (reader, writer) = tokio::io::split(stream);
        let engine = life.engine.clone();
        let serve = async move {
            // How it ended is the client's to see.
            let _ = strait_remote::serve(reader, writer, engine, Duration::from_secs(5)).await;
        };
        let task = self.tasks.spawn(life.scheduler.run(serve));
        life.tasks.push(task);
        true
    }

    /// The process is killed: what it wrote is there, nothing more happens.
    pub(crate) fn kill(&self) {
        let mut state = self.state.lock();
        let Some(life) = state.life.take() else {
            return;
        };
        life.tasks.iter().for_each(AbortHandle::abort);
        let State { disk, rng, .. } = &mut *state;
        *disk = Arc::new(disk.crash(Crash::Process, rng));
    }
}

/// What the engine's threads do.
async fn steps(mut stepped: Stepped, mut rng: Rng) {
    loop {
        tokio::time::sleep(Duration::from_millis(1 + rng.below(4))).await;
        assert!(stepped.turn(), "the engine failed");
        if rng.one_in(50) {
            stepped.keep();
        }
    }
}
