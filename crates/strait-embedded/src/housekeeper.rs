//! The housekeeper: everything that may take its time. It prepares segments, writes indexes of finished ones, takes
//! checkpoints, applies retention and gives segments back. Without work it sleeps.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::histogram;
use parking_lot::MutexGuard;
use strait_core::{Error, Health};
use tokio::sync::oneshot;

use crate::cleaner::{Cleaner, Copied, Step};
use crate::command::dead::DeadCommand;
use crate::command::{Command, Now};
use crate::disk::cleaned::is_cleaned;
use crate::disk::io::is_full;
use crate::disk::snapshot::{SnapshotHead, keep_newest, newest_len, replay_bound};
use crate::disk::{File, LogPos, Open, SnapshotWriter};
use crate::extents::{Extent, StreamId};
use crate::gauges::Gauges;
use crate::index::{self, SegmentIndex};
use crate::metrics as names;
use crate::shared::Shared;
use crate::state::group::Group;
use crate::state::{State, section};
use crate::turn::dead::SLICE;

/// How soon a chore that failed is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// A file that only takes space. When the disk is full, it makes way for the index or the checkpoint by which space is
/// given back. The next opening removes it, as any unfinished file.
pub(crate) const BALLAST: &str = "ballast.tmp";
/// How long it is, at least; a checkpoint as long as the last one fits too.
const BALLAST_BYTES: u64 = 1 << 20;
/// Steps of preparing segments in one round.
const STEPS: u32 = 4;
/// Retention is looked at after so many segments, before its time: at a high rate much would go at once, and the log would
/// take new files meanwhile instead of those.
const ROUND_SEGMENTS: u64 = 4;
/// Segments are prepared with a part of the disk's time: after each step so many times its length belong to the writer.
const SHARE: u32 = 3;
const LONGEST_REST: Duration = Duration::from_millis(50);
/// What a step handed to the disk is written behind it.
const LEAST_REST: Duration = Duration::from_millis(1);
const LONGEST_CLEANER_REST: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Housekeeper {
    shared: Arc<Shared>,
    /// Segments before it have their index.
    indexed_to: u64,
    next_retention: Duration,
    /// Where the newest checkpoint is replayed from.
    checkpointed: u64,
    cleaner: Cleaner,
    /// Something failed and is tried again.
    again: bool,
    /// The ballast, and its length.
    ballast: Option<(Arc<dyn File>, u64)>,
    gauges: Gauges,
}

/// A checkpoint that is written and waits until what it holds is durable.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    writer: SnapshotWriter,
    /// Sections that are not written yet.
    rest: VecDeque<(u16, u64)>,
}

impl Housekeeper {
    pub(crate) fn new(shared: Arc<Shared>) -> Housekeeper {
        Housekeeper {
            cleaner: Cleaner::new(shared.clone()),
            shared,
            indexed_to: 0,
            next_retention: Duration::ZERO,
            checkpointed: 0,
            again: false,
            ballast: None,
            gauges: Gauges::default(),
        }
    }

    pub(crate) fn run(mut self) {
        while self.sleep() {
            self.prepare_segments();
            self.write_indexes();
            self.clean_up();
            self.clean();
            self.checkpoint_if_due();
            self.reclaim();
            self.set_gauges();
        }
        // Nobody takes a checkpoint any more.
        self.shared.chores.lock().waiting.clear();
        if let Err(error) = self.shared.pool.end_zeroing() {
            tracing::debug!("a spare segment is not kept: {error}");
        }
    }

    /// Sleeps until there is something to do; false: the engine ends.
    fn sleep(&self) -> bool {
        let now = self.shared.clock.now().monotonic;
        let mut chores = self.shared.chores.lock();
        if !(chores.stop || chores.pool || chores.checkpoint || self.cleaner.is_busy()) {
            let retention = chores
                .wants_cleanup()
                .then(|| self.next_retention.saturating_sub(now));
            let gauges = chores.gauges.then(|| self.gauges.next.saturating_sub(now));
            let again = self.again.then_some(AGAIN);
            match retention.into_iter().chain(gauges).chain(again).min() {
                Some(time) => {
                    self.shared.chore_bell.wait_for(&mut chores, time);
                }
                None => self.shared.chore_bell.wait(&mut chores),
            }
        } else if self.again && !chores.stop {
            self.shared.chore_bell.wait_for(&mut chores, AGAIN);
        }
        !chores.stop
    }

    /// Prepares spare segments; on a full disk looks again after a while until there is space.
    pub(crate) fn prepare_segments(&mut self) {
        self.again = false;
        self.shared.chores.lock().pool = false;
        self.try_ballast();
        for step in 0.. {
            if !self.shared.pool.wanted() || self.shared.chores.lock().stop {
                break;
            }
            if step == STEPS {
                // Under a load that takes segments as fast as they are made, the rest has its turn too.
                self.shared.chores.lock().pool = true;
                break;
            }
            let begun = Instant::now();
            if let Err(error) = self.shared.pool.prepare_one() {
                self.failed("prepare a segment", &error);
                break;
            }
            self.shared.chores.lock().gauges = true;
            self.rest((begun.elapsed() * SHARE).clamp(LEAST_REST, LONGEST_REST));
        }
        let full = matches!(&*self.shared.health.borrow(), Health::Impaired(_));
        if full && self.shared.pool.has_room() {
            self.shared.health.send_replace(Health::Up);
            // What waited for space goes on.
            self.shared.nudge();
        }
    }

    /// Takes space ahead for the next checkpoint; on a full disk the little that is left.
    fn keep_ballast(&mut self) -> io::Result<()> {
        let disk = &*self.shared.disk;
        let wanted = (newest_len(disk)? * 5 / 4).max(BALLAST_BYTES);
        let has = self.ballast.as_ref().map_or(0, |(_, len)| *len);
        let len = wanted.min(has + disk.free_bytes()?);
        if len <= has {
            return Ok(());
        }
        let file = match self.ballast.take() {
            Some((file, _)) => file,
            None => disk.open(BALLAST, Open::CreateNew)?,
        };
        let grown = file.allocate(len);
        self.ballast = Some((file, if grown.is_ok() { len } else { has }));
        grown
    }

    /// Does what gives space back; on a full disk once more in the space of the ballast.
    fn with_ballast<T>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        match work(self) {
            Err(error) if is_full(&error) && self.ballast.is_some() => {
                self.ballast = None;
                self.shared.disk.remove(BALLAST)?;
                let done = work(self);
                self.try_ballast();
                done
            }
            done => done,
        }
    }

    fn try_ballast(&mut self) {
        if let Err(error) = self.keep_ballast() {
            tracing::debug!("no space is kept for the next checkpoint: {error}");
        }
    }

    /// Leaves the disk to the writer for a while.
    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut chores = self.shared.chores.lock();
        while !chores.stop
            && !self
                .shared
                .chore_bell
                .wait_until(&mut chores, until)
                .timed_out()
        {}
    }

    fn failed(&mut self, what: &str, error: &io::Error) {
        self.again = true;
        if is_full(error) && self.shared.pool.has_room() {
            // Not so full that sends are refused.
            tracing::debug!("cannot {what}, trying again: {error}");
        } else if is_full(error) {
            let text = "the disk is full: sends are refused, settles and reads go on";
            self.shared
                .health
                .send_replace(Health::Impaired(text.into()));
        } else {
            tracing::warn!("cannot {what}, trying again: {error}");
        }
    }

    /// Writes the index of every finished segment; its extents leave memory.
    pub(crate) fn write_indexes(&mut self) {
        let durable = self.shared.chores.lock().durable.segment;
        let finished: Vec<u64> = self
            .shared
            .pool
            .segments()
            .into_iter()
            .map(|segment| segment.id)
            .filter(|id| *id >= self.indexed_to && *id < durable)
            .collect();
        for segment in finished {
            if let Err(error) = self.with_ballast(|keeper| keeper.index(segment)) {
                return self.failed("write a segment index", &error);
            }
            self.indexed_to = segment + 1;
        }
    }

    fn index(&self, segment: u64) -> io::Result<()> {
        let streams: BTreeMap<StreamId, Vec<Extent>> = {
            let state = self.shared.state.lock();
            let of = |(id, stream): (StreamId, &crate::extents::Stream)| {
                let extents: Vec<Extent> = stream.in_segment(segment).copied().collect();
                (!extents.is_empty()).then_some((id, extents))
            };
            state.streams().filter_map(of).collect()
        };
        if streams.is_empty() {
            return Ok(());
        }
        let (disk, identity) = (&*self.shared.disk, self.shared.identity);
        // After a replay the file may be there already, and spans may need it.
        let streams = match index::known(disk, identity, segment)? {
            Some(known) if holds(&known, &streams) => streams,
            known => {
                let merged = merge(known.unwrap_or_default(), streams);
                index::write(disk, identity, segment, &merged)?;
                self.shared.indexes.forget(segment);
                merged
            }
        };
        let mut state = self.shared.state.lock();
        for id in streams.keys() {
            if let Some(stream) = state.stream_mut(*id) {
                stream.indexed(segment);
            }
        }
        Ok(())
    }

    /// Sets the gauges, where something changed and it is time again.
    fn set_gauges(&mut self) {
        let now = self.shared.clock.now().monotonic;
        let mut chores = self.shared.chores.lock();
        if !chores.gauges || now < self.gauges.next {
            return;
        }
        // What changes from here on is for the next time.
        chores.gauges = false;
        drop(chores);
        self.gauges.update(&self.shared, now);
    }

    /// Applies retention and looks for work for the cleaner, where a topic asks for it and it is time again.
    pub(crate) fn clean_up(&mut self) {
        let now = self.shared.clock.now();
        let mut chores = self.shared.chores.lock();
        let options = &self.shared.options;
        let is_due = now.monotonic >= self.next_retention
            || chores.unseen_bytes >= ROUND_SEGMENTS * options.segment_bytes;
        if !chores.wants_cleanup() || !is_due {
            return;
        }
        chores.freed = false;
        chores.unseen_bytes = 0;
        drop(chores);
        self.next_retention = now.monotonic + options.retention_every;
        self.apply_retention(now);
        self.cleaner.begin(self.indexed_to);
        // Without anything new another checkpoint would give back nothing more than the last.
        let is_new = self.shared.chores.lock().durable.seq > self.checkpointed;
        if is_new && !self.cleaner.is_busy() && self.has_dead_segments() {
            self.shared.chores.lock().checkpoint = true;
        }
    }

    /// Trims what retention lets go: whole finished segments, never what a parked message needs.
    fn apply_retention(&mut self, now: Now) {
        let mut trims = expiries(&self.shared.state.lock(), now.wall);
        self.shared.each_stream(|state, id, stream| {
            let place = id.as_partition();
            let topic = place.and_then(|(topic, _)| state.topics.get(&topic));
            let (Some((_, partition)), Some(topic)) = (place, topic) else {
                return;
            };
            if !topic.has_cleanup() {
                return;
            }
            let older = topic.settings.retention_ms.map(|ms| {
                now.wall
                    .saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX))
            });
            let expired = stream.expired(older, topic.settings.retention_bytes);
            let groups = topic.groups.iter().filter_map(|id| state.groups.get(id));
            let needed = groups
                .filter_map(|g| g.needed_from(partition as usize))
                .min();
            let start = expired.min(needed.unwrap_or(u64::MAX));
            if start > stream.start {
                trims.push(Command::Trim {
                    topic: topic.id,
                    partition,
                    start,
                });
            }
        });
        if !trims.is_empty() {
            trims.into_iter().for_each(|trim| self.shared.push(trim, 0));
            self.shared.chores.lock().checkpoint = true;
        }
    }

    /// A step of the cleaner, and a rest after it.
    fn clean(&mut self) {
        if !self.cleaner.is_busy() {
            return;
        }
        let begun = Instant::now();
        if let Some(copied) = self.clean_step() {
            let (to, answer) = oneshot::channel();
            self.shared.push(Command::Moved(copied, to), 0);
            self.end_clean(matches!(answer.blocking_recv(), Ok(Ok(()))));
            // There may be more: under load one job at each look would fall behind.
            self.cleaner.begin(self.indexed_to);
        }
        let share = u32::from(self.shared.options.cleaner_share.clamp(1, 100));
        let rest = begun.elapsed() * (100 - share) / share;
        self.rest(rest.min(LONGEST_CLEANER_REST));
    }

    /// One step of the cleaner; what the writer has to know when it is through.
    pub(crate) fn clean_step(&mut self) -> Option<Vec<Copied>> {
        match self.cleaner.step() {
            Ok(Step::Ready(copied)) => Some(copied),
            Ok(Step::More | Step::Idle) => None,
            Err(error) => {
                self.failed("clean segments", &error);
                None
            }
        }
    }

    pub(crate) fn is_cleaning(&self) -> bool {
        self.cleaner.is_busy()
    }

    /// The writer has logged what was copied, or has not.
    pub(crate) fn end_clean(&mut self, is_logged: bool) {
        // Where the engine failed the log may hold it all the same: the files stay, and the next opening decides.
        self.cleaner.end();
        if is_logged {
            let mut chores = self.shared.chores.lock();
            // What was emptied is given back by it; and there may be more to do.
            chores.checkpoint = true;
            chores.freed = true;
        }
    }

    fn checkpoint_if_due(&mut self) {
        if !self.shared.chores.lock().checkpoint {
            return;
        }
        let waiting = std::mem::take(&mut self.shared.chores.lock().waiting);
        let done = self.with_ballast(Housekeeper::checkpoint);
        for waits in waiting {
            let told = match &done {
                Ok(()) => Ok(()),
                Err(error) => Err(Error::io("no checkpoint can be taken", copy_of(error))),
            };
            // Who does not wait any more does not want to know.
            let _ = waits.send(told);
        }
        if let Err(error) = done {
            // What cannot be written at all is not tried again and again; the rest is, as space depends on it.
            if error.kind() != io::ErrorKind::InvalidInput && self.shared.check_alive().is_ok() {
                self.shared.chores.lock().checkpoint = true;
            }
            self.failed("take a checkpoint", &error);
        }
    }

    fn checkpoint(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        let mut checkpoint = self.begin_checkpoint()?;
        while self.write_section(&mut checkpoint)? {}
        let (to, answer) = oneshot::channel();
        self.shared.push(Command::Sync(to), 0);
        match answer.blocking_recv() {
            Ok(Ok(())) => {
                self.finish_checkpoint(checkpoint)?;
                histogram!(names::CHECKPOINT_SECONDS).record(begun.elapsed());
                Ok(())
            }
            _ => Err(io::Error::other(
                "the engine ended before the checkpoint was durable",
            )),
        }
    }

    /// On a full disk: segments that nothing needs any more are given back at once, which takes a checkpoint, and not
    /// only with the next one.
    fn reclaim(&mut self) {
        if self.shared.pool.has_room() || self.shared.check_alive().is_err() {
            return;
        }
        if self.has_dead_segments() {
            self.shared.chores.lock().checkpoint = true;
            self.checkpoint_if_due();
        }
    }

    /// True when a segment holds nothing any more, which a checkpoint gives back.
    fn has_dead_segments(&self) -> bool {
        let (live, end) = (self.live(), self.shared.chores.lock().durable.segment);
        let segments = self.shared.pool.segments();
        let is_dead = |id: u64| {
            (is_cleaned(id) || id < end) && !live.contains(&id) && !self.cleaner.is_making(id)
        };
        segments.iter().any(|segment| is_dead(segment.id))
    }

    /// The segments that hold something.
    fn live(&self) -> HashSet<u64> {
        let state = self.shared.state.lock();
        let segments = state.streams().flat_map(|(_, stream)| stream.segments());
        segments.collect()
    }

    /// Starts a checkpoint: what the log holds from here on is replayed over it.
    pub(crate) fn begin_checkpoint(&mut self) -> io::Result<Checkpoint> {
        let replay: LogPos = {
            let mut chores = self.shared.chores.lock();
            chores.checkpoint = false;
            chores.tail_bytes = 0;
            chores.tail_records = 0;
            chores.durable
        };
        self.checkpointed = replay.seq;
        let head = SnapshotHead {
            identity: self.shared.identity,
            seq: replay.seq - 1,
            replay,
        };
        let mut writer = SnapshotWriter::begin(self.shared.disk.clone(), head)?;
        let mut bytes = Vec::new();
        let (sections, listed) = {
            // In one look: what was made up to `listed` and is not among the sections is gone.
            let state = self.placed_state()?;
            state.encode_section(section::COUNTERS, 0, &mut bytes);
            (state.sections(), state.applied)
        };
        writer.section(section::COUNTERS, 0, listed, &bytes)?;
        Ok(Checkpoint {
            writer,
            rest: sections.into(),
        })
    }

    /// Writes the next section, as of its own moment: the state is locked for one at a time. False: all are written.
    pub(crate) fn write_section(&self, checkpoint: &mut Checkpoint) -> io::Result<bool> {
        let Some((kind, key)) = checkpoint.rest.pop_front() else {
            return Ok(false);
        };
        let mut bytes = Vec::new();
        if let Some(stamp) = self.encode(kind, key, &mut bytes)? {
            checkpoint.writer.section(kind, key, stamp, &bytes)?;
        }
        Ok(true)
    }

    /// The state between two groups: a group that is being decided, or has no place in the log yet, is in it by half.
    fn placed_state(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.shared.state.lock();
        while state.unplaced {
            if self.shared.check_alive().is_err() {
                return Err(io::Error::other("the engine ended"));
            }
            self.shared
                .placed
                .wait_for(&mut state, Duration::from_millis(10));
        }
        Ok(state)
    }

    /// One section and the sequence that it is of; `None` when its object is gone.
    fn encode(&self, kind: u16, key: u64, bytes: &mut Vec<u8>) -> io::Result<Option<u64>> {
        let now = self.shared.clock.now().wall;
        let mut state = self.placed_state()?;
        state.give_back_memory(kind, key, now);
        Ok(state
            .encode_section(kind, key, bytes)
            .then_some(state.applied))
    }

    /// The checkpoint takes effect; segments that nothing needs any more are given back.
    pub(crate) fn finish_checkpoint(&mut self, checkpoint: Checkpoint) -> io::Result<()> {
        checkpoint.writer.finish()?;
        let disk = &*self.shared.disk;
        if !self.shared.pool.has_room() {
            keep_newest(disk, self.shared.identity).map_err(io::Error::other)?;
        }
        let bound = replay_bound(disk, self.shared.identity).map_err(io::Error::other)?;
        let Some(bound) = bound else { return Ok(()) };
        let live = self.live();
        for segment in self.shared.pool.segments() {
            let is_replayed = !is_cleaned(segment.id) && segment.id >= bound.segment;
            if is_replayed || live.contains(&segment.id) || self.cleaner.is_making(segment.id) {
                continue;
            }
            self.shared.indexes.forget(segment.id);
            match disk.remove(&index::file_name(segment.id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if self.shared.pool.release(segment.id) {
                let mut chores = self.shared.chores.lock();
                (chores.pool, chores.gauges) = (true, true);
            }
        }
        Ok(())
    }
}

/// The dead letters that their group keeps no longer, in slices.
fn expiries(state: &State, now: i64) -> Vec<Command> {
    let of = |group: &Group| {
        let age = i64::try_from(group.settings.dead_ms?).unwrap_or(i64::MAX);
        let before = now.saturating_sub(age);
        let slices = group.dead.expired(before).count().div_ceil(SLICE);
        let group = group.id;
        let expire = move || Command::Dead(Box::new(DeadCommand::Expire { group, before }));
        Some(std::iter::repeat_with(expire).take(slices))
    };
    state.groups.values().filter_map(of).flatten().collect()
}

fn copy_of(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// True when the index knows all of these batches.
fn holds(known: &SegmentIndex, streams: &BTreeMap<StreamId, Vec<Extent>>) -> bool {
    streams.iter().all(|(id, extents)| {
        let known: &[Extent] = known.get(id).map_or(&[], |known| known);
        extents.iter().all(|extent| {
            let at = known.binary_search_by_key(&extent.first, |e| e.first);
            at.is_ok_and(|at| known[at] == *extent)
        })
    })
}

/// What an index knows and what is in memory.
fn merge(
    known: SegmentIndex,
    mut streams: BTreeMap<StreamId, Vec<Extent>>,
) -> BTreeMap<StreamId, Vec<Extent>> {
    for (id, extents) in known {
        let all = streams.entry(id).or_default();
        all.extend(extents.iter().copied());
        all.sort_unstable_by_key(|extent| extent.first);
        all.dedup();
    }
    streams
}
