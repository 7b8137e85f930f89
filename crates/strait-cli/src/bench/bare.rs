//! The bare log: a queue, one thread, a zeroed file; write what waits, fsync, acknowledge.

use std::fs::File;
use std::io::{IoSlice, Write as _};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::io::pwritev;
use strait::core::{Error, Kind, Records, Result};
use tokio::sync::oneshot;

use super::load::{Sink, histogram, millis, record};
use crate::fail::Outcome;

/// Length of the file; the log begins again at its start when it is full, as a log of recycled segments would.
const LENGTH: u64 = 256 << 20;
/// Buffers in one write; Linux takes 1,024.
const SLICES: usize = 1024;
/// Bytes in one write, at most about.
const WRITE_BYTES: usize = 8 << 20;
/// Fsyncs of the probe.
const PROBES: u32 = 200;

type Request = (Records, oneshot::Sender<()>);

/// A file whose blocks are written and fsynced already.
#[derive(Debug)]
pub(super) struct BareLog {
    file: File,
    fsync: bool,
}

impl BareLog {
    /// Makes the file in `dir` and removes its name at once: it goes with the process.
    pub(super) fn create(dir: &Path, fsync: bool) -> Outcome<Self> {
        let path = dir.join(format!("bare-log-{}", std::process::id()));
        let failed = |error| Error::io(path.display(), error);
        let mut file = File::create_new(&path).map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..LENGTH / zeros.len() as u64 {
            file.write_all(&zeros).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        Ok(BareLog { file, fsync })
    }

    /// The median of a write of 4 KiB with its fdatasync, in milliseconds, with nothing else under way.
    pub(super) fn fsync_alone(&self) -> Outcome<f64> {
        self.fsync_alone_at(0.5)
    }

    /// Another quantile of it.
    pub(super) fn fsync_alone_at(&self, quantile: f64) -> Outcome<f64> {
        let mut times = histogram()?;
        let page = [b'x'; 4096];
        for i in 0..PROBES {
            let start = Instant::now();
            self.write(&[IoSlice::new(&page)], u64::from(i) * 4096)?;
            rustix::fs::fdatasync(&self.file).map_err(|e| Error::io("the bare log", e.into()))?;
            record(&mut times, start)?;
        }
        Ok(millis(&times, quantile))
    }

    /// Starts the writer. It ends when the last sink is dropped.
    pub(super) fn start(self) -> (Sink, JoinHandle<Result<()>>) {
        let (queue, waiting) = mpsc::channel::<Request>();
        let writer = std::thread::spawn(move || self.write_all(&waiting));
        let sink: Sink = Arc::new(move |_, records| {
            let (acknowledge, acknowledged) = oneshot::channel();
            let queued = queue.send((records, acknowledge));
            Box::pin(async move {
                let ended = || Error::new(Kind::Closed, "the bare log ended");
                queued.map_err(|_| ended())?;
                acknowledged.await.map_err(|_| ended())
            })
        });
        (sink, writer)
    }

    fn write_all(&self, waiting: &mpsc::Receiver<Request>) -> Result<()> {
        let mut at = 0;
        while let Ok(first) = waiting.recv() {
            let mut bytes = first.0.bytes().len();
            let mut group = vec![first];
            while bytes < WRITE_BYTES && group.len() < SLICES {
                let Ok(next) = waiting.try_recv() else {
                    break;
                };
                bytes += next.0.bytes().len();
                group.push(next);
            }
            if at + bytes as u64 > LENGTH {
                at = 0;
            }
            let slices: Vec<IoSlice<'_>> = group
                .iter()
                .map(|(records, _)| IoSlice::new(records.bytes()))
                .collect();
            self.write(&slices, at)?;
            if self.fsync {
                rustix::fs::fdatasync(&self.file)
                    .map_err(|e| Error::io("the bare log", e.into()))?;
            }
            at += bytes as u64;
            for (_, acknowledge) in group {
                // A producer that has gone needs no acknowledgement.
                let _ = acknowledge.send(());
            }
        }
        Ok(())
    }

    fn write(&self, mut slices: &[IoSlice<'_>], mut at: u64) -> Result<()> {
        let failed = |error: rustix::io::Errno| Error::io("the bare log", error.into());
        let mut skip = 0;
        while let Some(first) = slices.first() {
            let written = if skip > 0 {
                rustix::io::pwrite(&self.file, &first[skip..], at).map_err(failed)?
            } else {
                pwritev(&self.file, slices, at).map_err(failed)?
            };
            at += written as u64;
            let mut done = written + skip;
            while let Some(slice) = slices.first().filter(|slice| slice.len() <= done) {
                done -= slice.len();
                slices = &slices[1..];
            }
            skip = done;
        }
        Ok(())
    }
}
