//! A disk whose reads, writes and fsyncs a test watches.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use strait_embedded::disk::{Disk, File, Open};

/// Told what happens to the files, which have numbers in the order of their openings.
pub(crate) trait Watch: Debug + Send + Sync {
    fn read(&self, _bytes: usize) {}

    fn wrote(&self, _file: usize, _parts: &[IoSlice<'_>]) {}

    /// Carries out an fsync.
    fn sync(&self, _file: usize, sync: &dyn Fn() -> io::Result<()>) -> io::Result<()> {
        sync()
    }
}

#[derive(Debug)]
pub(crate) struct Watched<D, W> {
    disk: D,
    watch: Arc<W>,
    opened: AtomicUsize,
}

impl<D: Disk, W: Watch> Watched<D, W> {
    pub(crate) fn new(disk: D, watch: Arc<W>) -> Self {
        let opened = AtomicUsize::new(0);
        Watched {
            disk,
            watch,
            opened,
        }
    }
}

#[derive(Debug)]
struct WatchedFile<W> {
    file: Arc<dyn File>,
    watch: Arc<W>,
    number: usize,
}

impl<D: Disk, W: Watch + 'static> Disk for Watched<D, W> {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(WatchedFile {
            file: self.disk.open(name, how)?,
            watch: self.watch.clone(),
            number: self.opened.fetch_add(1, Ordering::Relaxed),
        }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn used_bytes(&self) -> io::Result<u64> {
        self.disk.used_bytes()
    }
}

impl<W: Watch> File for WatchedFile<W> {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let n = self.file.read_at(buf, pos)?;
        self.watch.read(n);
        Ok(n)
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        self.file.write_all_at(parts, pos)?;
        self.watch.wrote(self.number, parts);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.watch.sync(self.number, &|| self.file.sync_data())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.file.zero(range)
    }
}
