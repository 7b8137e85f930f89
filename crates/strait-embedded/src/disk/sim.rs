//! A disk in memory: what `memory:` runs on, and a disk that fails for simulations.
//!
//! What a crash may do is at least as bad as what Linux and a disk without a lying cache may do: writes are lost and
//! reordered sector by sector, a change of names is lost unless the directory was synced, and a failed sync leaves
//! pages that read well, count as clean and are not on the disk.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::io::{Disk, File, Open};
use super::rng::Rng;

mod content;
mod survive;
use content::Content;
use survive::{Fate, Pending};

/// What a crash leaves of the writes and the changes of names that were not made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Each sector of 512 bytes is kept, lost or torn, each change of names is kept or lost, all at random.
    Random,
    /// Nothing that was not made durable is left.
    AllLost,
    /// Everything is left.
    AllKept,
    /// Reordered: a later part of the writes is left, the earlier part is lost.
    LaterKept,
    /// Only the process dies: the page cache stays as it is, what is not durable can still get lost.
    Process,
}

/// A disk in memory.
#[derive(Debug)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Whether what is durable is kept apart from what is written.
    faulty: bool,
    dead: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    names: BTreeMap<String, Arc<Inode>>,
    durable_names: BTreeMap<String, Arc<Inode>>,
    pending_names: Vec<Rename>,
    capacity: u64,
    used: u64,
    rng: Rng,
    /// Countdowns; 0 is off.
    die_in: u64,
    fail_sync_in: u64,
    fail_write_in: u64,
}

/// A change of names: `inode` is taken from one name (none: created) and given another (none: removed).
#[derive(Debug, Clone)]
struct Rename {
    from: Option<String>,
    to: Option<String>,
    inode: Arc<Inode>,
}

#[derive(Debug, Default)]
struct Inode {
    data: Mutex<Data>,
}

#[derive(Debug, Default, Clone)]
struct Data {
    cache: Content,
    durable: Content,
    pending: Vec<Pending>,
    unlinked: bool,
}

impl SimDisk {
    /// A plain disk of `capacity` bytes without faults: what is written is there until the value is dropped. Lengths
    /// count against the capacity, not the memory that is really used.
    pub fn plain(capacity: u64) -> SimDisk {
        SimDisk::with(capacity, 0, false)
    }

    /// A disk of `capacity` bytes that keeps what is durable apart from what is written, and fails as told. `seed`
    /// decides how far a failing write or sync got.
    pub fn faulty(capacity: u64, seed: u64) -> SimDisk {
        SimDisk::with(capacity, seed, true)
    }

    fn with(capacity: u64, seed: u64, faulty: bool) -> SimDisk {
        SimDisk {
            shared: Arc::new(Shared {
                faulty,
                dead: AtomicBool::new(false),
                state: Mutex::new(State {
                    names: BTreeMap::new(),
                    durable_names: BTreeMap::new(),
                    pending_names: Vec::new(),
                    capacity,
                    used: 0,
                    rng: Rng::new(seed),
                    die_in: 0,
                    fail_sync_in: 0,
                    fail_write_in: 0,
                }),
            }),
        }
    }

    /// The machine dies: this disk and its handles answer errors from now on. Returns what is left, without faults
    /// planned. A plain disk keeps everything.
    pub fn crash(&self, how: Crash, rng: &mut Rng) -> SimDisk {
        self.shared.dead.store(true, Ordering::Release);
        let old = self.shared.state.lock();
        let how = if self.shared.faulty {
            how
        } else {
            Crash::Process
        };
        let left = SimDisk::with(old.capacity, rng.next_u64(), self.shared.faulty);
        {
            let mut new = left.shared.state.lock();
            match how {
                Crash::Process => new.continue_from(&old),
                _ => new.survive(&old, Fate::new(how, rng)),
            }
        }
        left
    }

    /// The machine dies at the `n`-th next operation that changes something (1 is the next one), which may or may not
    /// have had its effect.
    pub fn die_at(&self, n: u64) {
        self.shared.state.lock().die_in = n;
    }

    /// True when the machine died.
    pub fn is_dead(&self) -> bool {
        self.shared.dead.load(Ordering::Acquire)
    }

    /// The `n`-th next sync of a file (1 is the next one) fails with EIO: some of its sectors reached the disk, the
    /// others never will, although reads still show them.
    pub fn fail_sync(&self, n: u64) {
        self.shared.state.lock().fail_sync_in = n;
    }

    /// The `n`-th next write fails with EIO after a part of it.
    pub fn fail_write(&self, n: u64) {
        self.shared.state.lock().fail_write_in = n;
    }

    /// Sets how many bytes can be allocated in all.
    pub fn set_capacity(&self, bytes: u64) {
        self.shared.state.lock().capacity = bytes;
    }

    /// Bytes that are allocated: the lengths of all files.
    pub fn allocated(&self) -> u64 {
        self.shared.state.lock().used
    }

    /// Flips the bits of `mask` in one byte of a file, durably and unnoticed.
    pub fn flip(&self, name: &str, pos: u64, mask: u8) -> io::Result<()> {
        let state = self.shared.state.lock();
        let inode = state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let mut data = inode.data.lock();
        let mut byte = [0];
        if data.cache.read(&mut byte, pos) == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        data.cache.write(&[byte[0] ^ mask], pos);
        if data.durable.read(&mut byte, pos) == 1 {
            data.durable.write(&[byte[0] ^ mask], pos);
        }
        Ok(())
    }

    /// Opens the file, whatever the name; used by both ways of opening.
    fn handle(&self, inode: Arc<Inode>) -> Arc<dyn File> {
        Arc::new(SimFile {
            shared: self.shared.clone(),
            inode,
        })
    }
}

impl State {
    /// After the death of a process: everything as it was, in copies that the old handles do not reach.
    fn continue_from(&mut self, old: &State) {
        let mut copies: Vec<(Arc<Inode>, Arc<Inode>)> = Vec::new();
        let mut copy = |inode: &Arc<Inode>| -> Arc<Inode> {
            if let Some((_, copied)) = copies.iter().find(|(of, _)| Arc::ptr_eq(of, inode)) {
                return copied.clone();
            }
            let copied = Arc::new(Inode {
                data: Mutex::new(inode.data.lock().clone()),
            });
            copies.push((inode.clone(), copied.clone()));
            copied
        };
        let mut copy_names = |names: &BTreeMap<String, Arc<Inode>>| {
            names.iter().map(|(n, i)| (n.clone(), copy(i))).collect()
        };
        self.names = copy_names(&old.names);
        self.durable_names = copy_names(&old.durable_names);
        self.pending_names = old.pending_names.clone();
        for rename in &mut self.pending_names {
            rename.inode = copy(&rename.inode);
        }
        self.used = old.used;
    }

    /// After the death of the machine: what was durable, and of the rest what fate leaves.
    fn survive(&mut self, old: &State, mut fate: Fate<'_>) {
        let mut names = old.durable_names.clone();
        for rename in &old.pending_names {
            if fate.keeps() {
                rename.apply(&mut names);
            }
        }
        for (name, inode) in names {
            let data = inode.data.lock();
            let mut durable = data.durable.clone();
            fate.settle(&data.pending, &mut durable);
            self.used += durable.len();
            let inode = Arc::new(Inode {
                data: Mutex::new(Data {
                    cache: durable.clone(),
                    durable,
                    ..Data::default()
                }),
            });
            self.names.insert(name, inode);
        }
        self.durable_names = self.names.clone();
    }

    fn note(&mut self, faulty: bool, rename: Rename) {
        if faulty {
            self.pending_names.push(rename);
        }
    }

    fn unlink(&mut self, inode: &Inode) {
        let mut data = inode.data.lock();
        data.unlinked = true;
        self.used -= data.cache.len();
    }

    /// Counts an operation: true when the machine dies in it.
    fn dies(&mut self) -> bool {
        hits(&mut self.die_in)
    }
}

/// Counts down to 1; true when it was reached.
fn hits(countdown: &mut u64) -> bool {
    let hit = *countdown == 1;
    *countdown = countdown.saturating_sub(1);
    hit
}

impl Rename {
    fn apply(&self, names: &mut BTreeMap<String, Arc<Inode>>) {
        if let Some(from) = &self.from
            && names.get(from).is_some_and(|i| Arc::ptr_eq(i, &self.inode))
        {
            names.remove(from);
        }
        if let Some(to) = &self.to {
            names.insert(to.clone(), self.inode.clone());
        }
    }
}

impl Shared {
    fn alive(&self) -> io::Result<()> {
        if self.dead.load(Ordering::Acquire) {
            return Err(io::Error::other("the machine died"));
        }
        Ok(())
    }

    /// Ends an operation that was carried out in memory: an error when the machine died in it.
    fn end(&self, dies: bool) -> io::Result<()> {
        if dies {
            self.dead.store(true, Ordering::Release);
        }
        self.alive()
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>> {
        self.shared.alive()?;
        let mut state = self.shared.state.lock();
        match (state.names.get(name), how) {
            (Some(inode), Open::Existing) => return Ok(self.handle(inode.clone())),
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Open::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (None, Open::CreateNew) => {}
        }
        let dies = state.dies();
        let inode = Arc::new(Inode::default());
        state.names.insert(name.to_owned(), inode.clone());
        let created = Rename {
            from: None,
            to: Some(name.to_owned()),
            inode: inode.clone(),
        };
        state.note(self.shared.faulty, created);
        self.shared.end(dies)?;
        Ok(self.handle(inode))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.shared.alive()?;
        Ok(self.shared.state.lock().names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.shared.alive()?;
        let mut state = self.shared.state.lock();
        let dies = state.dies();
        let inode = state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.unlink(&inode);
        let removed = Rename {
            from: Some(name.to_owned()),
            to: None,
            inode,
        };
        state.note(self.shared.faulty, removed);
        self.shared.end(dies)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.shared.alive()?;
        let mut state = self.shared.state.lock();
        let dies = state.dies();
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        if let Some(replaced) = state.names.insert(to.to_owned(), inode.clone()) {
            state.unlink(&replaced);
        }
        let rename = Rename {
            from: Some(from.to_owned()),
            to: Some(to.to_owned()),
            inode,
        };
        state.note(self.shared.faulty, rename);
        self.shared.end(dies)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.shared.alive()?;
        let mut state = self.shared.state.lock();
        let dies = state.dies();
        self.shared.end(dies)?;
        if self.shared.faulty {
            state.durable_names = state.names.clone();
            state.pending_names.clear();
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.shared.alive()?;
        let state = self.shared.state.lock();
        Ok(state.capacity.saturating_sub(state.used))
    }

    fn used_bytes(&self) -> io::Result<u64> {
        self.shared.alive()?;
        Ok(self.shared.state.lock().used)
    }
}

#[derive(Debug)]
struct SimFile {
    shared: Arc<Shared>,
    inode: Arc<Inode>,
}

impl SimFile {
    /// Changes the content, with space taken or given back, and keeps the change for the next sync.
    fn change(&self, state: &mut State, data: &mut Data, change: Pending) -> io::Result<()> {
        let len = match &change {
            Pending::Write { pos, data: bytes } => data.cache.len().max(pos + bytes.len() as u64),
            Pending::Zero(_) => data.cache.len(),
            Pending::Len(len) => *len,
        };
        self.resize(state, data, len)?;
        change.apply(&mut data.cache);
        if self.shared.faulty {
            data.pending.push(change);
        }
        Ok(())
    }

    /// Accounts for a new length.
    fn resize(&self, state: &mut State, data: &Data, len: u64) -> io::Result<()> {
        if data.unlinked {
            return Ok(());
        }
        let used = state.used - data.cache.len() + len;
        if used > state.capacity && len > data.cache.len() {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "the disk is full",
            ));
        }
        state.used = used;
        Ok(())
    }

    /// A write of a plain disk: no copy is kept.
    fn write_plain(&self, parts: &[IoSlice<'_>], mut pos: u64) -> io::Result<()> {
        let end = pos + total(parts);
        if end > self.inode.data.lock().cache.len() {
            let mut state = self.shared.state.lock();
            let mut data = self.inode.data.lock();
            if end > data.cache.len() {
                self.resize(&mut state, &data, end)?;
                data.cache.set_len(end);
            }
        }
        let mut data = self.inode.data.lock();
        for part in parts {
            data.cache.write(part, pos);
            pos += part.len() as u64;
        }
        Ok(())
    }
}

fn total(parts: &[IoSlice<'_>]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        self.shared.alive()?;
        Ok(self.inode.data.lock().cache.read(buf, pos))
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        self.shared.alive()?;
        if !self.shared.faulty {
            return self.write_plain(parts, pos);
        }
        let mut state = self.shared.state.lock();
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let dies = state.dies();
        let fails = hits(&mut state.fail_write_in);
        if dies || fails {
            let part = state.rng.below(bytes.len() as u64 + 1);
            bytes.truncate(part as usize);
        }
        let mut data = self.inode.data.lock();
        self.change(&mut state, &mut data, Pending::Write { pos, data: bytes })?;
        self.shared.end(dies)?;
        if fails {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.shared.alive()?;
        if !self.shared.faulty {
            return Ok(());
        }
        let mut state = self.shared.state.lock();
        let dies = state.dies();
        self.shared.end(dies)?;
        let mut guard = self.inode.data.lock();
        let data = &mut *guard;
        if hits(&mut state.fail_sync_in) {
            let mut fate = Fate::new(Crash::Random, &mut state.rng);
            fate.settle(&data.pending, &mut data.durable);
            data.pending.clear();
            return Err(io::Error::from_raw_os_error(EIO));
        }
        for change in data.pending.drain(..) {
            change.apply(&mut data.durable);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.shared.alive()?;
        Ok(self.inode.data.lock().cache.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.shared.alive()?;
        let mut state = self.shared.state.lock();
        let dies = state.dies();
        self.change(&mut state, &mut self.inode.data.lock(), Pending::Len(len))?;
        self.shared.end(dies)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len > self.len()? {
            self.set_len(len)?;
        }
        Ok(())
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.shared.alive()?;
        let mut state = self.shared.state.lock();
        let dies = state.dies();
        self.change(
            &mut state,
            &mut self.inode.data.lock(),
            Pending::Zero(range),
        )?;
        self.shared.end(dies)
    }
}

/// The number of "input/output error" on Linux and macOS.
const EIO: i32 = 5;
