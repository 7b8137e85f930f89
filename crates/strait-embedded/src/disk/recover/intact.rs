//! Reading what is intact of a log, without changing it: everything in front of the first damage.

use std::sync::Arc;

use super::{RecoveryReport, Replay, Visit};
use crate::disk::directory::Directory;
use crate::disk::error::OpenError;
use crate::disk::io::Disk;
use crate::disk::log::{LogOptions, LogPos};
use crate::disk::pool::{Pool, State, Used};

/// What is intact of a log.
#[derive(Debug)]
pub(crate) struct Intact {
    /// All segments, to read from. Nothing may be written with it.
    pub(crate) pool: Arc<Pool>,
    pub(crate) report: RecoveryReport,
    /// All that is wrong, and was seen on the way.
    pub(crate) faults: Vec<OpenError>,
    /// Where the log is cut: the sequence of the first group that is left out.
    pub(crate) cut: Option<u64>,
}

/// Calls `visit` for every group from `from` on up to the first damage. Nothing is written, cut or removed.
///
/// # Errors
/// Those of the operating system only.
pub(crate) fn read(
    disk: Arc<dyn Disk>,
    options: LogOptions,
    from: Option<LogPos>,
    visit: &mut Visit<'_>,
) -> Result<Intact, OpenError> {
    let mut faults = Vec::new();
    let mut cut = None;
    let directory = match read_directory(&*disk, &options, from, &mut faults) {
        Err(lost @ OpenError::Missing { .. }) => {
            // What the checkpoint knows is all there is.
            faults.push(lost);
            cut = from.map(|from| from.seq);
            read_directory(&*disk, &options, None, &mut Vec::new())?
        }
        other => other?,
    };
    let mut replay = Replay::new(&*disk, &directory, from, visit);
    if cut.is_none()
        && let Err(fault) = replay.deliver_intact()
    {
        if matches!(fault, OpenError::Io { .. }) {
            return Err(fault);
        }
        cut = Some(replay.expected);
        faults.push(fault);
    }
    replay.report.last_seq = replay.expected - 1;
    let report = replay.report;
    let pool = pool_of(&directory, disk.clone(), options);
    Ok(Intact {
        pool,
        report,
        faults,
        cut,
    })
}

fn read_directory(
    disk: &dyn Disk,
    options: &LogOptions,
    from: Option<LogPos>,
    faults: &mut Vec<OpenError>,
) -> Result<Directory, OpenError> {
    Directory::read_with(disk, options.identity, from, &mut |fault| {
        faults.push(fault);
        Ok(())
    })
}

fn pool_of(directory: &Directory, disk: Arc<dyn Disk>, options: LogOptions) -> Arc<Pool> {
    let live = directory.live.iter().map(|live| live.header);
    let headers = directory.older.iter().copied().chain(live);
    let state = State {
        next_id: directory.next_id,
        used: headers.map(|h| (h.id, Used::new(h.len))).collect(),
        ..State::default()
    };
    Arc::new(Pool::new(disk, options, state))
}

impl Replay<'_, '_> {
    fn deliver_intact(&mut self) -> Result<(), OpenError> {
        let Some(last) = self.deliver_all_but_last()? else {
            return Ok(());
        };
        let mut ending = self.last_chain(last)?;
        let limit = ending.end.seq;
        self.deliver_last(&mut ending, limit)?;
        self.weigh_traces(&mut ending)
    }
}
