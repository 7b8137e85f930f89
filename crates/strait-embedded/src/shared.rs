//! What the writer, the housekeeper and the callers share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rapidhash::RapidHashMap;
use strait_core::{Clock, Error, Health, Kind, Result, codes};
use tokio::sync::{Notify, oneshot, watch};

use crate::by_key::Waypoints;
use crate::command::{Command, Now};
use crate::disk::{Disk, LogPos, Pool};
use crate::extents::{Stream, StreamId};
use crate::fingerprint::Fingerprint;
use crate::index::Indexes;
use crate::ops::GroupId;
use crate::options::Options;
use crate::state::State;
use crate::storage::History;

/// Topics that are looked at under one hold of the state's lock.
const AT_ONCE: usize = 256;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// Rings when what was applied has its place: only then a checkpoint may look at the state.
    pub(crate) placed: Condvar,
    queue: Mutex<Queue>,
    bell: Condvar,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) identity: u128,
    /// The number of this copy of the directory; 0 for the original.
    pub(crate) copy: u128,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) indexes: Indexes,
    pub(crate) waypoints: Waypoints,
    pub(crate) clock: EngineClock,
    pub(crate) options: Options,
    pub(crate) budget: Budget,
    pub(crate) health: watch::Sender<Health>,
    /// Fired when a claim ended.
    pub(crate) claims: Notify,
    pub(crate) chores: Mutex<Chores>,
    pub(crate) chore_bell: Condvar,
    /// What was stored in the last hours.
    pub(crate) history: Mutex<History>,
    /// Why nothing is taken any more.
    ended: Mutex<Option<Ended>>,
    is_ended: AtomicBool,
}

/// What a [`Shared`] is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) state: State,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) identity: u128,
    pub(crate) copy: u128,
    pub(crate) clock: EngineClock,
    pub(crate) options: Options,
    pub(crate) durable: LogPos,
}

#[derive(Debug, Default)]
struct Queue {
    commands: Vec<(Command, usize)>,
    /// The writer sleeps and must be woken.
    asleep: bool,
    stop: bool,
}

/// Work for the housekeeper.
#[derive(Debug)]
pub(crate) struct Chores {
    /// Where the durable part of the log ends.
    pub(crate) durable: LogPos,
    /// The segment that is written now.
    pub(crate) active: u64,
    /// The log moved on to another segment, or is short of space.
    pub(crate) pool: bool,
    pub(crate) checkpoint: bool,
    /// Who waits for a checkpoint that begins from now on.
    pub(crate) waiting: Vec<oneshot::Sender<Result<()>>>,
    /// Bytes and commit records since the last checkpoint.
    pub(crate) tail_bytes: u64,
    pub(crate) tail_records: u64,
    /// Some topic has a retention, or is compacted.
    pub(crate) cleanup: bool,
    /// Something was removed since the cleaner looked last.
    pub(crate) freed: bool,
    /// Bytes since retention and cleaner looked last.
    pub(crate) unseen_bytes: u64,
    /// Something changed that gauges show.
    pub(crate) gauges: bool,
    pub(crate) stop: bool,
}

impl Chores {
    pub(crate) fn wants_cleanup(&self) -> bool {
        self.cleanup || self.freed
    }
}

#[derive(Debug, Clone)]
enum Ended {
    Closed,
    Poisoned(Arc<str>),
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Shared {
        let Parts {
            state,
            disk,
            pool,
            identity,
            copy,
            clock,
            options,
            durable,
        } = parts;
        let ages = |group: &crate::state::group::Group| group.settings.dead_ms.is_some();
        let cleanup = state.topics.values().any(|topic| topic.has_cleanup())
            || state.groups.values().any(ages);
        Shared {
            state: Mutex::new(state),
            placed: Condvar::new(),
            queue: Mutex::default(),
            bell: Condvar::new(),
            disk,
            pool,
            identity,
            copy,
            fingerprint: Fingerprint::new(identity),
            indexes: Indexes::default(),
            waypoints: Waypoints::default(),
            clock,
            budget: Budget::new(options.queue_bytes),
            options,
            health: watch::Sender::new(Health::Up),
            claims: Notify::new(),
            chores: Mutex::new(Chores {
                durable,
                active: durable.segment,
                pool: true,
                checkpoint: false,
                waiting: Vec::new(),
                tail_bytes: 0,
                tail_records: 0,
                cleanup,
                freed: false,
                unseen_bytes: 0,
                gauges: true,
                stop: false,
            }),
            chore_bell: Condvar::new(),
            history: Mutex::default(),
            ended: Mutex::new(None),
            is_ended: AtomicBool::new(false),
        }
    }

    /// Visits every stream, topics in small parts: the writer goes on in between.
    pub(crate) fn each_stream(&self, mut visit: impl FnMut(&State, StreamId, &Stream)) {
        let mut next = 0;
        loop {
            let state = self.state.lock();
            let mut seen = 0;
            for topic in state.topics.range(next..).map(|(_, t)| t).take(AT_ONCE) {
                seen += 1;
                next = topic.id + 1;
                for (partition, place) in (0..).zip(&topic.partitions) {
                    visit(
                        &state,
                        StreamId::partition(topic.id, partition),
                        &place.stream,
                    );
                }
            }
            if seen < AT_ONCE {
                for group in state.groups.values() {
                    visit(&state, StreamId::dead(group.id), &group.graveyard);
                }
                return;
            }
        }
    }

    /// Hands a command to the writer; `bytes` of it count against the budget until it is written.
    pub(crate) fn push(&self, command: Command, bytes: usize) {
        let mut queue = self.queue.lock();
        if self.options.read_only || self.is_ended.load(Ordering::Acquire) {
            drop(queue);
            self.budget.give_back(bytes);
            return command.refuse(&|| self.ended_error());
        }
        queue.commands.push((command, bytes));
        if queue.asleep {
            queue.asleep = false;
            drop(queue);
            self.bell.notify_one();
        }
    }

    /// Hands a command to the writer and waits for its answer.
    pub(crate) async fn ask<T>(
        &self,
        bytes: usize,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T> {
        let (to, answer) = oneshot::channel();
        self.push(command(to), bytes);
        answer.await.map_err(|_| self.ended_error())
    }

    /// Wakes the writer: an alarm may have come closer.
    pub(crate) fn nudge(&self) {
        let mut queue = self.queue.lock();
        if queue.asleep {
            queue.asleep = false;
            drop(queue);
            self.bell.notify_one();
        }
    }

    /// Takes all commands that wait; `into` is empty and keeps its allocation in the queue.
    pub(crate) fn take(&self, into: &mut Vec<(Command, usize)>) {
        std::mem::swap(&mut self.queue.lock().commands, into);
    }

    /// Sleeps until there are commands, it is nudged or stopped, or the time is over. False: stopped, and nothing waits.
    pub(crate) fn sleep(&self, at_most: Option<Duration>) -> bool {
        let mut queue = self.queue.lock();
        if queue.commands.is_empty() && !queue.stop {
            queue.asleep = true;
            match at_most {
                Some(time) => drop(self.bell.wait_for(&mut queue, time)),
                None => self.bell.wait(&mut queue),
            }
            queue.asleep = false;
        }
        !(queue.stop && queue.commands.is_empty())
    }

    /// Takes nothing more; what waits is still done, then the threads end.
    pub(crate) fn stop(&self) {
        self.end(Ended::Closed);
        self.queue.lock().stop = true;
        self.bell.notify_one();
        self.chores.lock().stop = true;
        self.chore_bell.notify_one();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.queue.lock().stop
    }

    /// A write or fsync failed: nothing is taken until the directory is opened again.
    pub(crate) fn poison(&self, why: &str) {
        self.end(Ended::Poisoned(why.into()));
        self.health.send_replace(Health::Ended(why.into()));
        self.wake_everybody();
    }

    /// Members end, and whoever waits for records or claims looks again.
    pub(crate) fn wake_everybody(&self) {
        let mut state = self.state.lock();
        state
            .groups
            .values_mut()
            .for_each(|group| group.members.end());
        for topic in state.topics.values() {
            topic
                .partitions
                .iter()
                .for_each(|partition| partition.grown.notify_waiters());
        }
        drop(state);
        self.claims.notify_waiters();
    }

    fn end(&self, how: Ended) {
        // Under the lock of the queue: who pushed before is answered, who comes after is refused.
        let _queue = self.queue.lock();
        self.ended.lock().get_or_insert(how);
        self.is_ended.store(true, Ordering::Release);
    }

    pub(crate) fn check_alive(&self) -> Result<()> {
        if self.is_ended.load(Ordering::Acquire) {
            Err(self.ended_error())
        } else {
            Ok(())
        }
    }

    pub(crate) fn ended_error(&self) -> Error {
        match &*self.ended.lock() {
            Some(Ended::Poisoned(why)) => poisoned(why),
            None if self.options.read_only => read_only(),
            _ => Error::closed("the engine"),
        }
    }

    pub(crate) fn chore(&self, set: impl FnOnce(&mut Chores)) {
        set(&mut self.chores.lock());
        self.chore_bell.notify_one();
    }
}

fn read_only() -> Error {
    Error::new(
        Kind::Unsupported,
        "the directory was opened read-only: nothing is written to it",
    )
    .code(codes::READ_ONLY)
    .next("read by position, or open the directory without read_only")
}

pub(crate) fn poisoned(why: &str) -> Error {
    Error::new(
        Kind::Unexpected,
        format!("the engine takes no writes: {why}"),
    )
    .code(codes::POISONED)
    .next("restart the process: opening the directory again checks what is durable")
}

/// Engine time: wall-clock time at the opening, carried on by the monotonic clock, so that a jump of the system's
/// clock moves no timer.
#[derive(Debug, Clone)]
pub(crate) struct EngineClock {
    clock: Arc<dyn Clock>,
    wall: i64,
    monotonic: Duration,
}

impl EngineClock {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> EngineClock {
        EngineClock {
            wall: clock.now().as_millis(),
            monotonic: clock.monotonic(),
            clock,
        }
    }

    pub(crate) fn now(&self) -> Now {
        let monotonic = self.clock.monotonic();
        let since = monotonic.saturating_sub(self.monotonic).as_millis();
        Now {
            wall: self.wall.saturating_add(since as i64),
            monotonic,
        }
    }
}

/// When each group must be looked at next.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    at: RapidHashMap<GroupId, Duration>,
    order: BTreeSet<(Duration, GroupId)>,
}

impl Alarms {
    /// The group is looked at by `at`, or earlier.
    pub(crate) fn set(&mut self, group: GroupId, at: Duration) {
        let old = self.at.get(&group).copied();
        if old.is_some_and(|old| old <= at) {
            return;
        }
        if let Some(old) = old {
            self.order.remove(&(old, group));
        }
        self.at.insert(group, at);
        self.order.insert((at, group));
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// A group whose time has come.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<GroupId> {
        let (at, group) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.order.pop_first();
        self.at.remove(&group);
        Some(group)
    }
}

/// Bytes of sends that may wait for the disk.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
    room: Notify,
}

impl Budget {
    fn new(limit: usize) -> Budget {
        Budget {
            used: AtomicUsize::new(0),
            limit: limit.max(1),
            room: Notify::new(),
        }
    }

    /// Takes `bytes` when they fit; one message over the whole limit fits when nothing else waits.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        let fits = |used: usize| (used == 0 || used + bytes <= self.limit).then_some(used + bytes);
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
            .is_ok()
    }

    pub(crate) async fn take(&self, bytes: usize) {
        while !self.try_take(bytes) {
            let notified = self.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.try_take(bytes) {
                return;
            }
            notified.await;
        }
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
            self.room.notify_waiters();
        }
    }

    /// Takes `bytes` although they may not fit: for what must not wait, and frees room itself.
    pub(crate) fn take_over(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }
}
