//! The segment files of a log, shared by its writer, its readers and the housekeeping thread.
//!
//! A file of the log goes round: made (or recycled) under a temporary name, given a durable header, renamed to a segment, kept as
//! a spare, written, released when nothing live points into it, and recycled under a new id with a new salt. It bears
//! a segment's name only while its header is durable and is the one of that name. Cleaned segments only pass: they are
//! adopted when they are whole, and removed when they are released.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::cleaned::{file_name, is_cleaned};
use super::io::{Disk, File, Open, is_full};
use super::log::LogOptions;
use super::segment::SegmentHeader;

mod fill;
mod making;
mod removing;

pub(crate) use fill::Fill;

/// Open files that are kept for readers at most.
const OPEN_FILES: usize = 256;
/// Bytes that are zeroed in one step. Their sync waits for the end: each would hold up an fsync of the log.
const ZERO_STEP: u64 = 128 << 10;
/// Of so many segments in use, one more is kept for recycling.
const RECYCLED_PART: usize = 4;
/// Zeroing pays for smaller groups only, on average: it writes a segment twice, and saves an fsync the metadata.
const ZEROING_PAYS: u64 = 64 << 10;

/// A segment that holds groups or is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its id; later segments have greater ids.
    pub id: u64,
    /// Length of its file in bytes.
    pub len: u64,
}

/// All segment files of one directory: those in use, spare ones prepared ahead, and freed ones to recycle.
#[derive(Debug)]
pub struct Pool {
    disk: Arc<dyn Disk>,
    options: LogOptions,
    state: Mutex<State>,
    /// Bytes that the last segment needed and did not get; 0 while there is room.
    lacking: AtomicU64,
}

/// A segment that is ready to be written.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    pub(super) header: SegmentHeader,
    pub(super) file: Arc<dyn File>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) next_id: u64,
    /// The segment that the writer is in; 0 before the first.
    pub(super) active: u64,
    /// Length of the next segment to make.
    pub(super) target: u64,
    pub(super) used: BTreeMap<u64, Used>,
    /// All of them have ids above `active`.
    pub(super) spares: BTreeMap<u64, Ready>,
    pub(super) reserve: Option<Ready>,
    /// A spare segment that is still being zeroed.
    pub(super) zeroing: Option<Zeroing>,
    /// The segments that are filled now take groups so large that zeroing does not pay.
    pub(super) large_groups: bool,
    /// Files to recycle: id and length.
    pub(super) freed: Vec<SegmentInfo>,
    /// Files to remove, and the one that is being removed.
    pub(super) trash: Vec<u64>,
    pub(super) shrinking: Option<removing::Shrinking>,
    /// Counts the uses of open files.
    pub(super) clock: u64,
}

/// A segment's file under its temporary name.
#[derive(Debug, Clone)]
pub(super) struct Zeroing {
    file: Arc<dyn File>,
    id: u64,
    len: u64,
    /// Zeroed up to here.
    done: u64,
}

#[derive(Debug, Default)]
pub(super) struct Used {
    pub(super) len: u64,
    file: Option<Arc<dyn File>>,
    last_used: u64,
    pins: u32,
    released: bool,
}

impl Used {
    pub(super) fn new(len: u64) -> Used {
        Used {
            len,
            ..Used::default()
        }
    }
}

impl Pool {
    pub(super) fn new(disk: Arc<dyn Disk>, options: LogOptions, state: State) -> Pool {
        Pool {
            disk,
            options,
            state: Mutex::new(state),
            lacking: AtomicU64::new(0),
        }
    }

    /// True when [`prepare_one`](Self::prepare_one) has something to do.
    pub fn wanted(&self) -> bool {
        let state = self.state.lock();
        state.has_trash()
            || self.wants_reserve(&state)
            || self.wants_spare(&state)
            || !self.has_room()
    }

    /// Does one step of what is wanted: removes a part of the freed files that are not kept (on a full disk all of them), and
    /// prepares the reserve or one spare segment (durable, name included), or zeroes the next part of one. Never blocks the
    /// writer meanwhile.
    ///
    /// # Errors
    /// Those of the disk. A full disk (see [`is_full`]) is one of them: try again later.
    pub fn prepare_one(&self) -> io::Result<()> {
        if self.has_room() {
            self.shrink_trash()?;
        } else {
            self.empty_trash()?;
        }
        let result = self.prepare_wanted();
        self.look_for_room()?;
        match result {
            // Nothing is left to prepare, and it is not enough: the caller has to wait.
            Ok(()) if !self.has_room() => Err(io::ErrorKind::StorageFull.into()),
            result => result,
        }
    }

    /// Makes the reserve when there is none: when the log is opened, before messages take its space. It is not zeroed, which
    /// would take long.
    ///
    /// # Errors
    /// Those of the disk. On a full disk there is no room from the beginning.
    pub(crate) fn prepare_reserve(&self) -> io::Result<()> {
        if self.wants_reserve(&self.state.lock()) {
            self.make_reserve()?;
        }
        Ok(())
    }

    /// True while the reserve for groups that free space is there.
    pub(super) fn has_reserve(&self) -> bool {
        self.state.lock().reserve.is_some()
    }

    /// False after a group was refused because the disk is full, or has no room for the reserve, until
    /// [`prepare_one`](Self::prepare_one) has found space: new messages should be refused meanwhile.
    pub fn has_room(&self) -> bool {
        self.lacking.load(Ordering::Acquire) == 0
    }

    /// The segments in use, oldest first. Those that are released are not among them, pinned or not.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let state = self.state.lock();
        let in_use = state.used.iter().filter(|(_, used)| !used.released);
        in_use
            .map(|(&id, used)| SegmentInfo { id, len: used.len })
            .collect()
    }

    /// Takes a cleaned segment of `len` bytes in: it is read like any other.
    pub(crate) fn adopt(&self, id: u64, len: u64) {
        self.state.lock().used.insert(id, Used::new(len));
    }

    /// Says that nothing live points into segment `id` and that this is durable: its file is recycled or removed, once
    /// the last pin is gone. False, and no change, for the segment that is being written and for one that is not in use.
    pub fn release(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        if id == state.active {
            return false;
        }
        match state.used.get_mut(&id) {
            Some(used) if !used.released => used.released = true,
            _ => return false,
        }
        self.free_if_unused(&mut state, id);
        true
    }

    /// Keeps segment `id` from being recycled until the guard is dropped; `None` when it is not in use (any more).
    pub fn pin(self: &Arc<Self>, id: u64) -> Option<Pin> {
        self.state.lock().pin(id)?;
        Some(Pin {
            pool: self.clone(),
            id,
        })
    }

    /// A handle to read segment `id`, which is pinned while the handle lives. The open file is kept for the next caller.
    ///
    /// # Errors
    /// `NotFound` when the segment is not in use (any more).
    pub fn reader(self: &Arc<Self>, id: u64) -> io::Result<Arc<SegmentFile>> {
        let pin = self.pin(id).ok_or(io::ErrorKind::NotFound)?;
        let file = self.state.lock().file(&*self.disk, id)?;
        Ok(Arc::new(SegmentFile { file, pin }))
    }

    fn wants_reserve(&self, state: &State) -> bool {
        self.options.reserve_bytes > 0 && state.reserve.is_none()
    }

    fn wants_spare(&self, state: &State) -> bool {
        state.spares.len() < self.options.spares
    }

    fn prepare_wanted(&self) -> io::Result<()> {
        let (wants_reserve, wants_spare, target) = {
            let state = self.state.lock();
            (
                self.wants_reserve(&state),
                self.wants_spare(&state),
                state.target,
            )
        };
        if wants_reserve {
            self.make_reserve()?;
        } else if wants_spare && let Some(ready) = self.prepare_spare(target)? {
            self.keep_spare(ready);
        }
        Ok(())
    }

    fn keep_spare(&self, ready: Ready) {
        let mut state = self.state.lock();
        state.spares.insert(ready.header.id, ready);
        let active = state.active;
        // The writer may have gone past it meanwhile with a segment of its own.
        self.demote_before(&mut state, active);
    }

    /// Keeps the spare segment that is being zeroed as it is: at the end, so that the next opening does not begin anew.
    ///
    /// # Errors
    /// Those of the disk; the file is then removed.
    pub(crate) fn end_zeroing(&self) -> io::Result<()> {
        let zeroing = self.state.lock().zeroing.take();
        if let Some(zeroing) = zeroing {
            self.keep_spare(self.name(zeroing)?);
        }
        Ok(())
    }

    /// One step towards a spare segment; `None` when there are more to take.
    fn prepare_spare(&self, target: u64) -> io::Result<Option<Ready>> {
        let (zeroing, large_groups) = {
            let mut state = self.state.lock();
            (state.zeroing.take(), state.large_groups)
        };
        if let Some(zeroing) = zeroing {
            return self.zero_next(zeroing);
        }
        if let Some(freed) = self.pop_freed(target) {
            return self.recycle(freed).map(Some);
        }
        if large_groups || !self.options.zeroed || !self.has_room() {
            return self.make(target, false).map(Some);
        }
        let zeroing = self.allocate(target)?;
        self.state.lock().zeroing = Some(zeroing);
        Ok(None)
    }

    fn zero_next(&self, mut zeroing: Zeroing) -> io::Result<Option<Ready>> {
        let Zeroing { id, len, done, .. } = zeroing;
        let end = (done + ZERO_STEP).min(len);
        self.clean_up_after(zeroing.file.zero(done..end), id)?;
        // On a full disk it is needed as it is.
        if end < len && self.has_room() {
            zeroing.done = end;
            self.state.lock().zeroing = Some(zeroing);
            return Ok(None);
        }
        self.name(zeroing).map(Some)
    }

    fn name(&self, zeroing: Zeroing) -> io::Result<Ready> {
        let Zeroing { file, id, len, .. } = zeroing;
        let ready = self.clean_up_after(self.put_header(file, id, len), id)?;
        self.publish(ready)
    }

    /// Says what the segments take now: so many groups have so many bytes.
    pub(super) fn filled(&self, groups: u64, bytes: u64) {
        if let Some(average) = bytes.checked_div(groups) {
            self.state.lock().large_groups = average >= ZEROING_PAYS;
        }
    }

    /// Makes the reserve, if need be out of what is kept for recycling. A disk without space for it has no room: what
    /// frees space could not be written when the rest is used up.
    fn make_reserve(&self) -> io::Result<()> {
        let len = self.options.reserve_bytes;
        let mut made = self.make(len, false);
        if made.as_ref().is_err_and(is_full) {
            {
                let mut state = self.state.lock();
                let freed = std::mem::take(&mut state.freed);
                state.trash.extend(freed.into_iter().map(|file| file.id));
            }
            self.empty_trash()?;
            made = self.make(len, false);
        }
        if made.as_ref().is_err_and(is_full) {
            // With the reserve there, a first segment is enough.
            let least = self.options.first_segment_bytes.max(1);
            let (set, seen) = (Ordering::AcqRel, Ordering::Acquire);
            let _ = self.lacking.compare_exchange(0, least, set, seen);
        }
        self.state.lock().reserve = Some(made?);
        Ok(())
    }

    /// Clears the mark of a full disk when what was lacking can be had, and the reserve is there.
    fn look_for_room(&self) -> io::Result<()> {
        let lacking = self.lacking.load(Ordering::Acquire);
        if lacking == 0 {
            return Ok(());
        }
        let spare = {
            let state = self.state.lock();
            if self.wants_reserve(&state) {
                return Ok(());
            }
            state
                .spares
                .values()
                .any(|ready| ready.header.len >= lacking)
        };
        if spare || self.disk.free_bytes()? >= lacking {
            self.lacking.store(0, Ordering::Release);
        }
        Ok(())
    }

    /// The next segment for the writer, with at least `needed` bytes: a spare, else a recycled file, else a new one that
    /// is not zeroed (its fsyncs cost more, but nothing waits).
    pub(super) fn take(&self, needed: u64) -> io::Result<Ready> {
        let spare = {
            let mut state = self.state.lock();
            let id = state
                .spares
                .iter()
                .find(|(_, ready)| ready.header.len >= needed)
                .map(|(&id, _)| id);
            id.and_then(|id| state.spares.remove(&id))
        };
        let ready = match spare {
            Some(ready) => Ok(ready),
            // What is left of a full disk is for the housekeeper, which finds out when there is room again.
            None if !self.has_room() => Err(io::ErrorKind::StorageFull.into()),
            None => self.make_now(needed),
        };
        match &ready {
            Ok(ready) => self.activate(ready),
            // Space for less than a segment is no room.
            Err(e) if is_full(e) => {
                let least = needed.max(self.options.first_segment_bytes);
                self.lacking.store(least, Ordering::Release);
            }
            Err(_) => {}
        }
        ready
    }

    /// The reserve, when it has at least `needed` bytes; else out of the little that may be left.
    pub(super) fn take_reserve(&self, needed: u64) -> io::Result<Option<Ready>> {
        let (ready, active) = {
            let mut state = self.state.lock();
            match &state.reserve {
                Some(ready) if ready.header.len >= needed => {}
                _ => {
                    drop(state);
                    return self.make_last(needed);
                }
            }
            (state.reserve.take(), state.active)
        };
        let Some(mut ready) = ready else {
            return Ok(None);
        };
        if ready.header.id < active {
            ready = self.recycle(SegmentInfo {
                id: ready.header.id,
                len: ready.header.len,
            })?;
        }
        self.activate(&ready);
        Ok(Some(ready))
    }

    fn make_last(&self, needed: u64) -> io::Result<Option<Ready>> {
        match self.make(needed.max(self.options.first_segment_bytes), false) {
            Ok(ready) => {
                self.activate(&ready);
                Ok(Some(ready))
            }
            Err(e) if is_full(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Registers `ready` as the segment that is written from now on.
    pub(super) fn activate(&self, ready: &Ready) {
        let mut state = self.state.lock();
        let id = ready.header.id;
        state.active = id;
        state.used.insert(id, Used::new(ready.header.len));
        self.demote_before(&mut state, id);
    }

    fn make_now(&self, needed: u64) -> io::Result<Ready> {
        let target = self.state.lock().target;
        if needed <= target
            && let Some(freed) = self.pop_freed(target)
        {
            return self.recycle(freed);
        }
        let first = self.make(needed.max(target), false);
        match first {
            Err(e) if is_full(&e) => {}
            done => return done,
        }
        self.empty_trash()?;
        self.make(needed.max(self.options.first_segment_bytes), false)
    }

    /// Ids grow in the order of writing: spares with an id below `id` are freed and come back with a new one.
    fn demote_before(&self, state: &mut State, id: u64) {
        let keep = state.spares.split_off(&id);
        for (id, ready) in std::mem::replace(&mut state.spares, keep) {
            self.free(state, id, ready.header.len);
        }
    }

    fn pop_freed(&self, len: u64) -> Option<SegmentInfo> {
        let mut state = self.state.lock();
        let at = state.freed.iter().position(|freed| freed.len == len)?;
        Some(state.freed.swap_remove(at))
    }

    fn free_if_unused(&self, state: &mut State, id: u64) {
        if let Some(used) = state.used.get(&id)
            && used.released
            && used.pins == 0
        {
            let len = used.len;
            state.used.remove(&id);
            self.free(state, id, len);
        }
    }

    /// Keeps the file for recycling when it has the length of the next segments, else marks it for removal. The more
    /// segments are in use, the more of them retention and the cleaner free at a time.
    pub(super) fn free(&self, state: &mut State, id: u64, len: u64) {
        if is_cleaned(id) || len != state.target {
            state.trash.push(id);
            return;
        }
        state.freed.push(SegmentInfo { id, len });
        let kept = self.options.recycled.max(state.used.len() / RECYCLED_PART);
        let surplus = state.freed.len().saturating_sub(kept);
        let State { freed, trash, .. } = state;
        trash.extend(freed.drain(..surplus).map(|file| file.id));
    }

    /// Length of the next segment in the ordinary case.
    pub(super) fn target(&self) -> u64 {
        self.state.lock().target
    }

    /// Frees files that recovery found without content.
    pub(super) fn free_all(&self, files: &[SegmentInfo]) {
        let mut state = self.state.lock();
        for file in files {
            self.free(&mut state, file.id, file.len);
        }
    }
}

impl State {
    fn pin(&mut self, id: u64) -> Option<()> {
        let used = self.used.get_mut(&id).filter(|used| !used.released)?;
        used.pins += 1;
        Some(())
    }

    /// The open file of a pinned segment.
    fn file(&mut self, disk: &dyn Disk, id: u64) -> io::Result<Arc<dyn File>> {
        self.clock += 1;
        let used = self.used.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        used.last_used = self.clock;
        if let Some(file) = &used.file {
            return Ok(file.clone());
        }
        let file = disk.open(&file_name(id), Open::Existing)?;
        used.file = Some(file.clone());
        self.close_oldest();
        Ok(file)
    }

    /// Holds the bound on open files.
    fn close_oldest(&mut self) {
        let open = self.used.values_mut().filter(|used| used.file.is_some());
        let (count, oldest) = open.fold(
            (0, None::<&mut Used>),
            |(count, oldest), used| match oldest {
                Some(oldest) if oldest.last_used < used.last_used => (count + 1, Some(oldest)),
                _ => (count + 1, Some(used)),
            },
        );
        if let Some(oldest) = oldest.filter(|_| count > OPEN_FILES) {
            oldest.file = None;
        }
    }
}

/// Keeps a segment from being recycled while it lives.
#[derive(Debug)]
pub struct Pin {
    pool: Arc<Pool>,
    id: u64,
}

impl Pin {
    /// The segment.
    pub fn segment(&self) -> u64 {
        self.id
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        if let Some(used) = state.used.get_mut(&self.id) {
            used.pins -= 1;
        }
        self.pool.free_if_unused(&mut state, self.id);
    }
}

/// A segment, open for reading and pinned.
#[derive(Debug)]
pub struct SegmentFile {
    file: Arc<dyn File>,
    pin: Pin,
}

impl SegmentFile {
    /// The segment.
    pub fn segment(&self) -> u64 {
        self.pin.id
    }

    /// Fills `buf` from `pos`; bytes that the writer has written are there although they may not be durable yet.
    pub fn read_exact_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        super::io::read_exact_at(&*self.file, buf, pos)
    }
}
