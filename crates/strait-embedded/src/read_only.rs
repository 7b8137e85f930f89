//! Opening a directory to look at it: nothing is changed, and nobody writes.

use std::path::Path;
use std::sync::Arc;

use strait_core::{Error, Health, Kind, Result};

use crate::cleaner::adopt;
use crate::disk::identity;
use crate::disk::recover::intact::{self, Intact};
use crate::disk::verify::identity_of;
use crate::disk::{Disk, LockGuard, LogOptions, LogPos, OpenError, RealDisk, RecoveredGroup};
use crate::engine::{Embedded, Opened};
use crate::open::{io_error, load_snapshot, lock_error, open_error, replay};
use crate::options::Options;
use crate::shared::{EngineClock, Parts, Shared};
use crate::state::State;

pub(crate) fn open(dir: &Path, options: Options) -> Result<Arc<Embedded>> {
    let disk = RealDisk::open_read_only(dir).map_err(|error| io_error(dir, error))?;
    // An owner goes on writing: what is read meanwhile would look damaged.
    let lock = disk.try_lock_shared().map_err(|error| {
        lock_error(dir, error)
            .next("without read_only, this goes through the socket of that process")
    })?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let mut faults = Vec::new();
    let identity = identity_of(&*disk, &mut faults).map_err(open_error)?;
    let identity = identity.ok_or_else(|| nothing(dir, faults.first()))?;
    start(disk, options, identity, faults, lock)
}

fn start(
    disk: Arc<dyn Disk>,
    options: Options,
    identity: u128,
    mut faults: Vec<OpenError>,
    lock: Option<LockGuard>,
) -> Result<Arc<Embedded>> {
    let begun = options.clock.monotonic();
    let clock = EngineClock::new(options.clock.clone());
    let mut opened = Opened::default();
    let mut state = State::default();
    let from = match load_snapshot(&mut state, &*disk, identity, &mut opened) {
        Ok(from) => from,
        Err(error) => {
            // Without a checkpoint the log tells, if it is whole from its beginning.
            opened.warnings.push(error.to_string());
            state = State::default();
            None
        }
    };
    let mut visit = |group: RecoveredGroup<'_>| replay(&mut state, &group);
    let log = LogOptions::new(identity, 0);
    let intact = intact::read(disk.clone(), log, from, &mut visit).map_err(open_error)?;
    let Intact {
        pool,
        report,
        faults: found,
        cut,
    } = intact;
    faults.extend(found);
    let mut note = |fault| {
        faults.push(fault);
        Ok(())
    };
    adopt::adopt(&*disk, identity, &pool, &mut state, &mut note).map_err(open_error)?;
    state.applied = report.last_seq;
    state.recovered(clock.now().wall);
    opened
        .warnings
        .extend(faults.iter().map(ToString::to_string));
    opened.warnings.extend(cut.map(|seq| {
        format!("what was written from sequence {seq} on is left out: it is behind the damage")
    }));
    opened.groups = report.groups;
    opened.bytes = report.bytes;
    opened.took = options.clock.monotonic().saturating_sub(begun);
    let durable = LogPos {
        segment: 0,
        offset: 0,
        seq: report.last_seq + 1,
    };
    let copy = identity::load_copy(&*disk).unwrap_or_default();
    let shared = Arc::new(Shared::new(Parts {
        state,
        pool,
        disk,
        identity,
        copy,
        clock,
        options,
        durable,
    }));
    let mut told = "opened read-only".to_owned();
    for warning in &opened.warnings {
        told.push_str("; ");
        told.push_str(warning);
    }
    shared.health.send_replace(Health::Impaired(told.into()));
    Ok(Embedded::assemble(shared, opened, Vec::new(), lock))
}

fn nothing(dir: &Path, fault: Option<&OpenError>) -> Error {
    let why = fault.map_or("there is no log in it".to_owned(), ToString::to_string);
    let text = format!("{} cannot be read: {why}", dir.display());
    let kind = fault.map_or(Kind::NotFound, |_| Kind::Corrupt);
    Error::new(kind, text).next("name a data directory of strait")
}
