//! The writer: one thread that turns commands into groups of the log.
//!
//! A turn takes what queued while the last fdatasync ran, decides and applies it, writes it with one call, syncs, and
//! lets the answers go. Nothing lingers: the fsync under way is the batching window.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use parking_lot::MutexGuard;
use strait_core::Health;
use strait_core::events::Durability;

use crate::command::{Command, Now};
use crate::disk::{GroupBuf, Log, LogError, Placed};
use crate::extents::StreamId;
use crate::metrics as names;
use crate::shared::{Shared, poisoned};
use crate::turn::{Output, Turn, disk_full};

/// A group takes no more commands from this size on.
const GROUP_BYTES: u64 = 4 << 20;
/// What the operations of a command take beside its bodies, about.
const OPS_BYTES: u64 = 1 << 10;
/// How long it must be quiet before the last group is proven durable by a seal.
const QUIET: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    log: Log,
    group: GroupBuf,
    out: Output,
    taken: Vec<(Command, usize)>,
    backlog: VecDeque<(Command, usize)>,
    /// Fetches that wait for space.
    postponed: Vec<Command>,
    /// Commands that take space, on a full disk.
    refused: Vec<Command>,
    /// Streams with bodies that are written and not yet durable.
    unsynced: Vec<StreamId>,
    sync: bool,
    /// When the log has something that no later group proves, since when.
    unsealed: Option<Duration>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, log: Log) -> Writer {
        let sync = shared.options.durability == Durability::Fsynced;
        Writer {
            shared,
            log,
            group: GroupBuf::new(),
            out: Output::default(),
            taken: Vec::new(),
            backlog: VecDeque::new(),
            postponed: Vec::new(),
            refused: Vec::new(),
            unsynced: Vec::new(),
            sync,
            unsealed: None,
        }
    }

    /// Runs until the engine is stopped and everything that waited is done.
    pub(crate) fn run(mut self) {
        loop {
            let wait = if self.backlog.is_empty() {
                self.rest()
            } else {
                Some(Duration::ZERO)
            };
            if wait != Some(Duration::ZERO) && !self.shared.sleep(wait) && self.backlog.is_empty() {
                break;
            }
            if self.turn().is_err() {
                return self.refuse_all();
            }
        }
        self.finish();
    }

    /// The engine was stopped: what waits is done, and the log is closed.
    pub(crate) fn finish(&mut self) {
        self.shared.take(&mut self.taken);
        self.backlog.extend(self.taken.drain(..));
        let postponed = self.postponed.drain(..).map(|fetch| (fetch, 0));
        self.backlog.extend(postponed);
        // Behind what waits: a grant after it would be an attempt that nobody made.
        self.backlog.push_back((Command::Close, 0));
        while !self.backlog.is_empty() {
            if self.turn().is_err() {
                return self.refuse_all();
            }
        }
        // Closed in order: the last group is proven, so that the next opening has nothing to rewrite.
        match self.log.sync().and_then(|()| self.log.seal()) {
            // Without space the next opening proves it.
            Ok(()) | Err(LogError::Full { .. }) => {}
            Err(error) => self.shared.poison(&error.to_string()),
        }
    }

    /// How long nothing has to happen.
    fn rest(&self) -> Option<Duration> {
        let now = self.shared.clock.now().monotonic;
        let alarm = self.shared.state.lock().alarms.next();
        // The housekeeper rings when there is space again.
        let alarm = alarm.filter(|_| !self.is_out_of_space());
        let seal = self.unsealed.map(|since| since + QUIET);
        let next = alarm.into_iter().chain(seal).min();
        next.map(|at| at.saturating_sub(now))
    }

    /// One turn. An error means that the engine is poisoned.
    pub(crate) fn turn(&mut self) -> Result<(), LogError> {
        let now = self.shared.clock.now();
        self.shared.take(&mut self.taken);
        self.backlog.extend(self.taken.drain(..));
        let quiet = self.backlog.is_empty();
        let bytes = self.decide(now);
        let done = self.carry_out(now);
        self.shared.budget.give_back(bytes);
        if done.is_ok()
            && quiet
            && self
                .unsealed
                .is_some_and(|since| since + QUIET <= now.monotonic)
        {
            self.seal()?;
        }
        done
    }

    /// True when only what frees space is still written.
    fn is_out_of_space(&self) -> bool {
        self.log.last_bytes() == Some(0)
    }

    /// Decides what waits, up to the size of a group; gives the bytes of budget that it used.
    fn decide(&mut self, now: Now) -> usize {
        self.group.clear();
        self.out.clear();
        let mut bytes = 0;
        let seq = self.log.written_seq() + 1;
        let out_of_space = self.is_out_of_space();
        let last_bytes = self.log.last_bytes();
        if last_bytes.is_none() {
            let postponed = self.postponed.drain(..).map(|fetch| (fetch, 0));
            self.backlog.extend(postponed);
        }
        let Writer {
            shared,
            log,
            group,
            out,
            backlog,
            postponed,
            refused,
            ..
        } = self;
        let mut state = shared.state.lock();
        // Nobody takes a checkpoint of half a group.
        state.unplaced = true;
        let room = log.has_room();
        let mut turn = Turn::new(&mut state, group, out, seq, now, shared.fingerprint);
        turn.room = room;
        while !out_of_space && let Some(id) = turn.state.alarms.pop(now.monotonic) {
            turn.ring(id);
        }
        while group.encoded_len() < GROUP_BYTES
            && let Some((command, size)) = backlog.pop_front()
        {
            bytes += size;
            let needed = group.encoded_len() + 2 * size as u64 + OPS_BYTES;
            let mut turn = Turn::new(&mut state, group, out, seq, now, shared.fingerprint);
            turn.room = room;
            match command {
                command if last_bytes.is_none_or(|left| needed <= left) => turn.decide(command),
                command if command.frees_space() => turn.decide(command),
                Command::Fetch(..) => postponed.push(command),
                command => refused.push(command),
            }
            // Members and readers that wait for the state go in between.
            MutexGuard::bump(&mut state);
        }
        state.unplaced = !group.is_empty();
        if state.unplaced {
            state.applied = seq;
        }
        // A receipt that comes back to nobody takes the state.
        drop(state);
        let refused = self.refused.drain(..);
        refused.for_each(|command| command.refuse(&disk_full));
        bytes
    }

    fn carry_out(&mut self, now: Now) -> Result<(), LogError> {
        if let Err(error) = self.write(now) {
            self.shared.poison(&error.to_string());
            let why = error.to_string();
            for reply in self.out.written.drain(..).chain(self.out.durable.drain(..)) {
                reply.fail(&|| poisoned(&why));
            }
            return Err(error);
        }
        let shared = &self.shared;
        self.out
            .durable
            .drain(..)
            .for_each(|reply| reply.send(shared));
        if self.out.claims_ended {
            self.shared.claims.notify_waiters();
        }
        Ok(())
    }

    fn write(&mut self, now: Now) -> Result<(), LogError> {
        if !self.group.is_empty() {
            let placed = self.append()?;
            self.place(&placed);
            self.unsealed = Some(now.monotonic);
        }
        let shared = &self.shared;
        self.out
            .written
            .drain(..)
            .for_each(|reply| reply.send(shared));
        if self.out.fsync || self.out.sync && self.sync {
            let begun = Instant::now();
            self.log.sync()?;
            histogram!(names::FSYNC_SECONDS).record(begun.elapsed());
        }
        if self.out.sync {
            self.publish();
        }
        Ok(())
    }

    /// Writes the group. On a full disk what frees space goes to the reserve; when that is full too, it waits here:
    /// nothing is acknowledged, and nothing is lost.
    fn append(&mut self) -> Result<Placed, LogError> {
        match self.log.append(&self.group) {
            Err(LogError::Full { .. }) => {}
            other => return other,
        }
        self.shared.health.send_replace(Health::Impaired(
            "the disk is full: sends are refused".into(),
        ));
        self.shared.chore(|chores| chores.pool = true);
        loop {
            match self.log.append_reserve(&self.group) {
                Err(LogError::Full { .. }) if !self.shared.is_stopping() => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    /// The bodies have their places now.
    fn place(&mut self, placed: &Placed) {
        let mut state = self.shared.state.lock();
        for placing in &self.out.placings {
            let extent = placing.extent(placed.segment, placed.offset, self.group.body_offsets());
            state.place(placing.stream(), extent);
            self.unsynced.push(placing.stream());
        }
        state.unplaced = false;
        drop(state);
        self.shared.placed.notify_one();
        counter!(names::WRITTEN_BYTES).increment(placed.len);
        let mut chores = self.shared.chores.lock();
        chores.tail_bytes += placed.len;
        chores.unseen_bytes += placed.len;
        chores.tail_records += self.out.records;
        let rolled = chores.active != placed.segment;
        chores.active = placed.segment;
        chores.pool |= rolled;
        let options = &self.shared.options;
        let due = chores.tail_bytes >= options.checkpoint_bytes
            || chores.tail_records >= options.checkpoint_records;
        let ask = (due && !chores.checkpoint)
            || (self.out.cleanup && !chores.cleanup)
            || (self.out.freed && !chores.freed)
            || !chores.gauges;
        chores.gauges = true;
        chores.checkpoint |= due;
        chores.cleanup |= self.out.cleanup;
        chores.freed |= self.out.freed;
        drop(chores);
        if rolled || ask {
            self.shared.chore_bell.notify_one();
        }
    }

    /// What was written is durable: readers see it, members are woken.
    fn publish(&mut self) {
        self.shared.chores.lock().durable = self.log.position();
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        self.unsynced.sort_unstable();
        self.unsynced.dedup();
        for id in self.unsynced.drain(..) {
            let Some(stream) = state.stream_mut(id) else {
                continue;
            };
            stream.visible = stream.placed();
            let Some((topic, partition)) = id.as_partition() else {
                continue;
            };
            let Some(topic) = state.topics.get(&topic) else {
                continue;
            };
            if let Some(partition) = topic.partitions.get(partition as usize) {
                partition.grown.notify_waiters();
            }
            for group in &topic.groups {
                if let Some(group) = state.groups.get_mut(group) {
                    group.members.wake_owner(partition);
                }
            }
        }
    }

    fn seal(&mut self) -> Result<(), LogError> {
        self.unsealed = None;
        let sealed = self.log.sync().and_then(|()| self.log.seal());
        match sealed {
            // Without space the proof waits for the next group.
            Err(LogError::Full { .. }) | Ok(()) => {
                self.shared.chores.lock().durable = self.log.position();
                self.shared.state.lock().applied = self.log.written_seq();
                Ok(())
            }
            Err(error) => {
                self.shared.poison(&error.to_string());
                Err(error)
            }
        }
    }

    /// After a failed disk: everything that waits is refused.
    pub(crate) fn refuse_all(&mut self) {
        self.shared.take(&mut self.taken);
        let postponed = self.postponed.drain(..).map(|fetch| (fetch, 0));
        let waiting = self.backlog.drain(..).chain(self.taken.drain(..));
        for (command, bytes) in waiting.chain(postponed) {
            command.refuse(&|| self.shared.ended_error());
            self.shared.budget.give_back(bytes);
        }
    }
}
