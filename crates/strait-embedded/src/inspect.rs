//! Looking at a data directory from outside: its files and formats, and what they recover to.

use std::io;
use std::path::Path;

use strait_core::events::{GroupInfo, TopicInfo};
use strait_core::{Error, Health, Kind, Result, codes};

use crate::backup::MANIFEST;
use crate::disk::cleaned::cleaned_id_of;
use crate::disk::segment::{le_u32, segment_id};
use crate::disk::snapshot::snapshot_seq;
use crate::disk::{Disk, Open, RealDisk};
use crate::engine::Embedded;
use crate::housekeeper::BALLAST;
use crate::index;
use crate::open::io_error;
use crate::options::Options;
use crate::standing::all_groups;
use crate::turn;

/// The on-disk format that this build reads and writes.
pub const FORMAT: u32 = 1;

/// Every file of strait with a format of its own begins with this and some letters more, eight in all, then its version.
const MAGIC: &[u8] = b"STRAIT";
const VERSION_AT: usize = 8;
/// The kind of file whose numbers, that of the version too, have a variable length.
const INDEX: &str = "index";

/// A file of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// What it is, in a word: `segment`, `cleaned` (a segment that the cleaner made), `checkpoint`, `index`, `identity`,
    /// `manifest` (of a backup), `ballast` (space kept for a full disk), `lock`, `socket`, `unfinished`, `file system`
    /// (`lost+found`), `foreign`.
    pub kind: &'static str,
    /// Its length in bytes.
    pub bytes: u64,
    /// The format version in its head, where it has one.
    pub format: Option<u32>,
}

/// What [`inspect`] found.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The number that every file of the directory bears.
    pub identity: u128,
    /// Its files by name.
    pub files: Vec<FileInfo>,
    /// The sequence of the last whole commit group.
    pub last_sequence: u64,
    /// How often the directory was opened to write.
    pub incarnation: u64,
    /// The sequence of the newest checkpoint.
    pub checkpoint: Option<u64>,
    /// Commit groups behind the checkpoint, which an opening replays.
    pub replayed_groups: u64,
    /// Their bytes.
    pub replayed_bytes: u64,
    /// The topics by name.
    pub topics: Vec<TopicInfo>,
    /// The groups by name and topic; nobody is a member.
    pub groups: Vec<GroupInfo>,
    /// What is wrong or was left out: damage, a torn tail.
    pub warnings: Vec<String>,
}

/// The files of a data directory, with their formats. Reads the head of each file; changes nothing, and asks for no lock.
///
/// # Errors
/// `NotFound`, `Denied` and the like when the directory or a file of it cannot be read.
///
/// ```
/// use strait_embedded::{Embedded, FORMAT, Options, files};
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("data");
/// drop(Embedded::open(&dir, Options::default())?);
/// let files = files(&dir)?;
/// let identity = files.iter().find(|file| file.kind == "identity").expect("every directory has one");
/// assert_eq!(identity.format, Some(FORMAT));
/// # Ok::<(), strait_core::Error>(())
/// ```
pub fn files(dir: impl AsRef<Path>) -> Result<Vec<FileInfo>> {
    let dir = dir.as_ref();
    let failed = |error| io_error(dir, error);
    let disk = RealDisk::open_read_only(dir).map_err(failed)?;
    let mut files = Vec::new();
    for name in disk.list().map_err(failed)? {
        // An owner may remove a file meanwhile.
        match file_info(&disk, dir, &name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => files.push(other.map_err(failed)?),
        }
    }
    Ok(files)
}

fn file_info(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<FileInfo> {
    let kind = kind_of(name);
    let info = |bytes, format| FileInfo {
        name: name.to_owned(),
        kind,
        bytes,
        format,
    };
    if !dir.join(name).symlink_metadata()?.is_file() {
        return Ok(info(0, None));
    }
    let file = disk.open(name, Open::Existing)?;
    let mut head = [0; VERSION_AT + 4];
    let mut got = 0;
    while got < head.len() {
        match file.read_at(&mut head[got..], got as u64)? {
            0 => break,
            n => got += n,
        }
    }
    let format = match kind {
        _ if got < head.len() || !head.starts_with(MAGIC) => None,
        INDEX => index::version_of(&head),
        _ => Some(le_u32(&head, VERSION_AT)),
    };
    Ok(info(file.len()?, format))
}

pub(crate) fn kind_of(name: &str) -> &'static str {
    match name {
        "IDENTITY" => "identity",
        MANIFEST => "manifest",
        "LOCK" => "lock",
        "SOCK" => "socket",
        "lost+found" => "file system",
        BALLAST => "ballast",
        name if name.ends_with(".tmp") => "unfinished",
        name if segment_id(name).is_some() => "segment",
        name if cleaned_id_of(name).is_some() => "cleaned",
        name if snapshot_seq(name).is_some() => "checkpoint",
        name if index::segment_of(name).is_some() => INDEX,
        _ => "foreign",
    }
}

/// Reads all of a data directory that nobody has open to write: its files, and the topics and groups that they recover to.
/// Of a damaged one what is in front of the damage. Changes nothing.
///
/// # Errors
/// `Conflict` (`locked`, with the pid) while a process has it open to write; `Config` (`unknown_format`) for another
/// format; `NotFound` when there is no log in it.
///
/// ```
/// use strait_embedded::{Embedded, Options, inspect};
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("data");
/// drop(Embedded::open(&dir, Options::default())?);
/// let found = inspect(&dir)?;
/// assert_eq!((found.incarnation, found.topics.len()), (1, 0));
/// # Ok::<(), strait_core::Error>(())
/// ```
pub fn inspect(dir: impl AsRef<Path>) -> Result<Inspection> {
    let dir = dir.as_ref();
    let files = files(dir)?;
    check_formats(dir, &files)?;
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    let engine = Embedded::open(dir, options)?;
    let shared = engine.shared();
    let groups = all_groups(shared)?;
    let mut warnings = engine.opened().warnings.clone();
    if let Health::Ended(why) = &*shared.health.borrow() {
        warnings.push(why.to_string());
    }
    let state = shared.state.lock();
    let mut topics: Vec<TopicInfo> = state.topics.values().map(turn::info).collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Inspection {
        identity: shared.identity,
        last_sequence: state.applied,
        incarnation: state.incarnation,
        checkpoint: files
            .iter()
            .filter_map(|file| snapshot_seq(&file.name))
            .max(),
        replayed_groups: engine.opened().groups,
        replayed_bytes: engine.opened().bytes,
        topics,
        groups,
        warnings,
        files,
    })
}

/// Refuses a directory in which a file has a format that this build does not read, and names the file.
///
/// # Errors
/// `Config` (`unknown_format`).
pub fn check_formats(dir: &Path, files: &[FileInfo]) -> Result<()> {
    let other = files
        .iter()
        .find_map(|file| Some((file, file.format.filter(|format| *format != FORMAT)?)));
    let Some((file, format)) = other else {
        return Ok(());
    };
    let (age, next) = if format > FORMAT {
        (
            "newer than this build",
            format!(
                "use a version of strait that reads format {format}: one that is newer than this one"
            ),
        )
    } else {
        (
            "no format that strait ever released",
            "open it with the program that wrote it".to_owned(),
        )
    };
    let text = format!(
        "{} has format {format}, {age}, strait {}, which reads and writes format {FORMAT}",
        dir.join(&file.name).display(),
        env!("CARGO_PKG_VERSION"),
    );
    Err(Error::new(Kind::Config, text)
        .code(codes::UNKNOWN_FORMAT)
        .with("file", &file.name)
        .with("format", format)
        .next(next))
}
