//! Opening: the newest checkpoint, the log behind it, and a new incarnation.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;

use strait_core::events::Durability;
use strait_core::{Error, Kind, Result, codes};

use crate::backup::MANIFEST;
use crate::cleaner::adopt;
use crate::codec::Reader;
use crate::disk::group::MAX_GROUP;
use crate::disk::io::is_full;
use crate::disk::real::LockError;
use crate::disk::{
    Disk, GroupBuf, Log, LogError, LogOptions, OpenError, RecoveredGroup, SnapshotReader, identity,
};
use crate::engine::Opened;
use crate::extents::Extent;
use crate::ops::{GroupId, Op};
use crate::options::Options;
use crate::prepare::unit_bytes;
use crate::shared::{EngineClock, Parts, Shared};
use crate::state::State;

/// A group is at most so much longer than the longest unit.
const BESIDE_UNIT: u64 = 8 << 20;
/// Places in a segment have 32 bits.
const MAX_SEGMENT: u64 = 1 << 30;

pub(crate) struct Started {
    pub(crate) shared: Arc<Shared>,
    pub(crate) log: Log,
    pub(crate) opened: Opened,
}

pub(crate) fn open(
    disk: Arc<dyn Disk>,
    options: Options,
    warnings: Vec<String>,
) -> Result<Started> {
    let fresh = u128::from(random()) << 64 | u128::from(random());
    let log = log_options(&options, fresh, random());
    open_with(disk, options, warnings, log)
}

/// Opens with a given log: a new directory gets its identity. The same seed gives the same salts.
pub(crate) fn open_with(
    disk: Arc<dyn Disk>,
    options: Options,
    warnings: Vec<String>,
    log_options: LogOptions,
) -> Result<Started> {
    check_limits(&options)?;
    check_memory(&options, &log_options)?;
    let begun = options.clock.monotonic();
    let clock = EngineClock::new(options.clock.clone());
    refuse_backup(&*disk)?;
    let identity = identity::load_or_create(&*disk, log_options.identity).map_err(open_error)?;
    let mut state = State::default();
    let mut opened = Opened {
        warnings,
        ..Opened::default()
    };
    let copy = identity::load_copy(&*disk).map_err(open_error)?;
    let from = load_snapshot(&mut state, &*disk, identity, &mut opened)?;
    let mut visit = |group: RecoveredGroup<'_>| replay(&mut state, &group);
    let log_options = LogOptions {
        identity,
        ..log_options
    };
    let (mut log, report) =
        Log::open(disk.clone(), log_options, from, &mut visit).map_err(open_error)?;
    if let Some(torn) = &report.torn {
        opened.warnings.push(format!(
            "the end of {} was torn at byte {}: {} bytes that were never acknowledged were cut",
            torn.file, torn.offset, torn.bytes
        ));
    }
    adopt::adopt(&*disk, identity, log.pool(), &mut state, &mut Err).map_err(open_error)?;
    adopt::remove_orphans(&*disk, &state)
        .map_err(|error| Error::io("cannot remove an unfinished cleaned segment", error))?;
    state.applied = report.last_seq.max(log.written_seq());
    state.recovered(clock.now().wall);
    begin_incarnation(&mut state, &mut log)?;
    match log.pool().prepare_reserve() {
        Err(error) if !is_full(&error) => {
            return Err(Error::io("cannot prepare the reserve of the log", error));
        }
        // On a full disk sends are refused until there is room for it.
        _ => {}
    }
    opened.groups = report.groups;
    opened.bytes = report.bytes;
    opened.took = options.clock.monotonic().saturating_sub(begun);
    let shared = Arc::new(Shared::new(Parts {
        state,
        pool: log.pool().clone(),
        disk,
        identity,
        copy,
        clock,
        options,
        durable: log.position(),
    }));
    let mut chores = shared.chores.lock();
    chores.tail_bytes = report.bytes;
    drop(chores);
    Ok(Started {
        shared,
        log,
        opened,
    })
}

/// A backup is restored, not opened: what was written into it would be in no copy.
fn refuse_backup(disk: &dyn Disk) -> Result<()> {
    let names = disk.list();
    let names = names.map_err(|error| Error::io("cannot list the data directory", error))?;
    if !names.iter().any(|name| name == MANIFEST) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Config,
        "the directory is a backup, not a data directory",
    )
    .code(codes::IS_BACKUP)
    .next("restore it: `strait restore BACKUP DIR`, or look at it: `file:BACKUP?read_only=true`"))
}

/// A unit must fit a group of the log, whatever the limits of messages are.
fn check_limits(options: &Options) -> Result<()> {
    let unit = unit_bytes(&options.limits) as u64;
    if unit + BESIDE_UNIT <= MAX_GROUP {
        return Ok(());
    }
    let text = format!(
        "the limits of messages are too great: a unit could have {unit} bytes, a group of the log has at most {MAX_GROUP}"
    );
    Err(Error::new(Kind::Config, text)
        .next("lower the limits of body and batch, and send larger bodies by claim check"))
}

/// Memory must hold the reserve and as much beside it.
fn check_memory(options: &Options, log: &LogOptions) -> Result<()> {
    let least = 2 * log.reserve_bytes;
    if options.durability != Durability::Memory || options.memory_bytes >= least {
        return Ok(());
    }
    let text = format!(
        "{} bytes are too few for `memory:`: with these limits of messages it takes at least {least}",
        options.memory_bytes
    );
    Err(Error::new(Kind::Config, text).next("raise memory_bytes, or lower the limits of messages"))
}

fn log_options(options: &Options, identity: u128, seed: u64) -> LogOptions {
    let memory = options.durability == Durability::Memory;
    let base = LogOptions::new(identity, seed);
    let most = if memory {
        // Only whole segments are given back.
        (options.memory_bytes / 16).clamp(1 << 20, MAX_SEGMENT)
    } else {
        MAX_SEGMENT
    };
    let segment_bytes = options.segment_bytes.clamp(1 << 20, most);
    // It holds the longest group: one that was applied is written, also on a full disk.
    let reserve = unit_bytes(&options.limits) as u64 + BESIDE_UNIT;
    LogOptions {
        segment_bytes,
        first_segment_bytes: base.first_segment_bytes.min(segment_bytes),
        reserve_bytes: reserve,
        zeroed: !memory,
        ..base
    }
}

pub(crate) fn load_snapshot(
    state: &mut State,
    disk: &dyn Disk,
    identity: u128,
    opened: &mut Opened,
) -> Result<Option<crate::disk::LogPos>> {
    let Some(mut reader) = SnapshotReader::newest(disk, identity).map_err(open_error)? else {
        return Ok(None);
    };
    for (file, why) in reader.broken() {
        opened.warnings.push(format!(
            "{file} is damaged ({why}): an older checkpoint is used"
        ));
    }
    let head = *reader.head();
    while let Some(section) = reader.next_section().map_err(open_error)? {
        state
            .decode_section(section.kind, section.key, section.stamp, section.bytes)
            .map_err(|_| {
                Error::new(Kind::Corrupt, "the checkpoint holds what no version writes")
            })?;
    }
    state.applied = head.seq;
    Ok(Some(head.replay))
}

/// Applies a group of the log.
pub(crate) fn replay(
    state: &mut State,
    group: &RecoveredGroup<'_>,
) -> std::result::Result<(), OpenError> {
    let malformed = || OpenError::Apply {
        seq: group.seq,
        why: "an operation is not one that this version writes".to_owned(),
    };
    for record in group.records() {
        let mut reader = Reader::new(record.ops);
        let mut bodies = record.bodies().peekable();
        let ops_at = bodies
            .peek()
            .map_or(0, |(at, _)| at - record.ops.len() as u64);
        while !reader.is_empty() {
            let op_at = ops_at + (record.ops.len() - reader.remaining()) as u64;
            let op = Op::decode(&mut reader).map_err(|_| malformed())?;
            let body = if op.bodies() > 0 {
                Some(bodies.next().ok_or_else(malformed)?)
            } else {
                None
            };
            let stream = state.apply(group.seq, &op);
            let (Some(stream), Some((pos, bytes))) = (stream, body) else {
                continue;
            };
            let extent = extent_of(&op, group.segment, op_at, pos, bytes).ok_or_else(malformed)?;
            state.place(stream, extent);
        }
    }
    state.applied = group.seq;
    Ok(())
}

fn extent_of(op: &Op<'_>, segment: u64, op_at: u64, pos: u64, bytes: &[u8]) -> Option<Extent> {
    let batch = strait_core::Batch::peek(bytes).ok()?;
    let (first, count, time) = op.placed()?;
    Some(Extent {
        first,
        count,
        len: u32::try_from(bytes.len()).ok()?,
        segment,
        pos: u32::try_from(pos).ok()?,
        op: u32::try_from(op_at).ok()?,
        time,
        latest: batch.greatest_time().as_millis(),
    })
}

/// Receipts of earlier incarnations are void from here on; durable before anything is served.
fn begin_incarnation(state: &mut State, log: &mut Log) -> Result<()> {
    let op = Op::Open {
        incarnation: state.incarnation + 1,
    };
    let mut group = GroupBuf::new();
    group.begin_record();
    op.encode(group.ops_mut());
    group.end_record();
    let written = match log.append(&group) {
        Err(LogError::Full { .. }) => log.append_reserve(&group),
        other => other,
    };
    let placed = written
        .and_then(|placed| log.sync().map(|()| placed))
        .map_err(log_error)?;
    state.apply(placed.seq, &op);
    state.applied = placed.seq;
    let groups: Vec<GroupId> = state.groups.keys().copied().collect();
    for group in groups {
        // Parked messages may be due while nobody is there: the first member looks by itself.
        state.alarms.set(group, std::time::Duration::ZERO);
    }
    Ok(())
}

pub(crate) fn random() -> u64 {
    RandomState::new().hash_one("strait")
}

fn log_error(error: LogError) -> Error {
    match error {
        LogError::Full { .. } => crate::turn::disk_full(),
        error => crate::shared::poisoned(&error.to_string()),
    }
}

pub(crate) fn open_error(error: OpenError) -> Error {
    let text = error.to_string();
    match error {
        OpenError::Io { source, .. } => {
            let kind = match source.kind() {
                io::ErrorKind::PermissionDenied => Kind::Denied,
                io::ErrorKind::NotFound => Kind::NotFound,
                _ => Kind::Unexpected,
            };
            Error::new(kind, text).caused_by(source)
        }
        OpenError::Corrupt { file, offset, .. } => Error::new(Kind::Corrupt, text)
            .with("file", file)
            .with("offset", offset)
            .next(
                "nothing was changed: `strait verify` lists all damage; restore a backup, or read what is in front of it: \
                 `strait consume TOPIC -e --url 'file:DIR?read_only=true'`",
            ),
        OpenError::Version { .. } => Error::new(Kind::Config, text)
            .code(codes::UNKNOWN_FORMAT)
            .next("open it with the version of strait that wrote it"),
        OpenError::Foreign { file } => Error::new(Kind::Config, text)
            .code(codes::FOREIGN_FILE)
            .with("file", file)
            .next("move the file away, or open another directory"),
        OpenError::Identity { .. } | OpenError::Missing { .. } | OpenError::Apply { .. } => {
            Error::new(Kind::Corrupt, text).next("restore the directory as a whole from a backup")
        }
        OpenError::Full { .. } => Error::new(Kind::Busy, text).code(codes::DISK_FULL),
    }
}

pub(crate) fn io_error(dir: &Path, error: io::Error) -> Error {
    let rights = "choose another directory, or give this user the right to write there";
    let no_directory = "choose another name: this one, or a part of it, is a file";
    let (kind, next) = match error.kind() {
        io::ErrorKind::PermissionDenied => (Kind::Denied, rights),
        io::ErrorKind::Unsupported => (Kind::Unsupported, rights),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => (Kind::Config, no_directory),
        io::ErrorKind::NotFound => (
            Kind::NotFound,
            "check the name: there is nothing of that name",
        ),
        _ => (Kind::Unexpected, rights),
    };
    Error::new(
        kind,
        format!("cannot open the directory {}: {error}", dir.display()),
    )
    .caused_by(error)
    .next(next)
}

pub(crate) fn lock_error(dir: &Path, error: LockError) -> Error {
    match error {
        LockError::Held(holder) => Error::new(
            Kind::Conflict,
            format!(
                "{} belongs to process {} (`{}`)",
                dir.display(),
                holder.pid,
                holder.program
            ),
        )
        .code(codes::LOCKED)
        .with("pid", holder.pid)
        .with("program", holder.program)
        .next("stop that process, or go through its socket"),
        LockError::Io(error) => io_error(dir, error),
    }
}
