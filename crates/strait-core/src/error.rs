//! One error type for the whole library.
//!
//! An [`Error`] says what happened (kind and code), to which object (context pairs), why (message and
//! source), whether trying again can help, and whether the operation may have happened all the same.

use std::error::Error as StdError;
use std::fmt;

/// The result of every fallible operation of the contract.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What class of thing went wrong. Stable: programs may match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The configuration or a declared need cannot work.
    Config,
    /// The engine cannot do what was asked.
    Unsupported,
    /// The named object does not exist.
    NotFound,
    /// The state of the object forbids it (exists already, other version, locked).
    Conflict,
    /// The input is not acceptable (too large, bad name, bad header).
    Rejected,
    /// Not allowed.
    Denied,
    /// A bound is reached; trying later can help.
    Busy,
    /// The other side cannot be reached.
    Unavailable,
    /// The time given was not enough.
    TimedOut,
    /// Stored bytes are not what was written.
    Corrupt,
    /// The engine or handle was closed.
    Closed,
    /// Everything else: a bug, or an error of the operating system.
    Unexpected,
}

impl Kind {
    /// The stable word for this kind, as it stands in output and in `strait explain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Config => "config",
            Kind::Unsupported => "unsupported",
            Kind::NotFound => "not_found",
            Kind::Conflict => "conflict",
            Kind::Rejected => "rejected",
            Kind::Denied => "denied",
            Kind::Busy => "busy",
            Kind::Unavailable => "unavailable",
            Kind::TimedOut => "timed_out",
            Kind::Corrupt => "corrupt",
            Kind::Closed => "closed",
            Kind::Unexpected => "unexpected",
        }
    }

    /// All kinds, for tables and for reading a kind back from its word.
    pub const ALL: [Kind; 12] = [
        Kind::Config,
        Kind::Unsupported,
        Kind::NotFound,
        Kind::Conflict,
        Kind::Rejected,
        Kind::Denied,
        Kind::Busy,
        Kind::Unavailable,
        Kind::TimedOut,
        Kind::Corrupt,
        Kind::Closed,
        Kind::Unexpected,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a failed operation may have had its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing was changed.
    NotDone,
    /// It may or may not have happened; trying a write again needs an id.
    Unknown,
}

/// An error of the library. One word wide.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    code: Option<&'static str>,
    may_retry: bool,
    effect: Effect,
    message: String,
    operation: &'static str,
    context: Vec<(&'static str, String)>,
    next: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A new error: `NotDone`, and worth another try when the kind is `Busy`, `Unavailable` or `TimedOut`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let may_retry = matches!(kind, Kind::Busy | Kind::Unavailable | Kind::TimedOut);
        Error(Box::new(Inner {
            kind,
            code: None,
            may_retry,
            effect: Effect::NotDone,
            message: message.into(),
            operation: "",
            context: Vec::new(),
            next: None,
            source: None,
        }))
    }

    /// Adds the stable code, one of [`codes`].
    pub fn code(mut self, code: &'static str) -> Self {
        self.0.code = Some(code);
        self
    }

    /// Names the operation, for example `append`.
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation = operation;
        self
    }

    /// Adds a context pair, for example `("topic", "orders")`. Never put a secret or an unredacted URL here.
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Says what the reader can do next, in one line.
    pub fn next(mut self, advice: impl Into<String>) -> Self {
        self.0.next = Some(advice.into());
        self
    }

    /// Keeps the error that caused this one.
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Overrides whether trying again can help.
    pub fn retry(mut self, may_retry: bool) -> Self {
        self.0.may_retry = may_retry;
        self
    }

    /// Marks the outcome unknown: the write may have happened.
    pub fn unknown(mut self) -> Self {
        self.0.effect = Effect::Unknown;
        self
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The stable code, where the case has one of its own.
    pub fn code_str(&self) -> Option<&'static str> {
        self.0.code
    }

    /// True when the case is `code`.
    pub fn is(&self, code: &str) -> bool {
        self.0.code == Some(code)
    }

    /// Whether trying again, later, can help.
    pub fn may_retry(&self) -> bool {
        self.0.may_retry
    }

    /// Whether the operation may have had its effect.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// The sentence that says what happened.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The operation that failed; empty when not said.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The context pairs, in the order in which they were added.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// What to do next.
    pub fn advice(&self) -> Option<&str> {
        self.0.next.as_deref()
    }

    /// An error of the operating system on `what`.
    pub fn io(what: impl fmt::Display, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::PermissionDenied => Kind::Denied,
            _ => Kind::Unexpected,
        };
        Error::new(kind, format!("{what}: {source}")).caused_by(source)
    }

    /// The engine or handle was closed before the operation began.
    pub fn closed(what: impl fmt::Display) -> Self {
        Error::new(Kind::Closed, format!("{what} is closed"))
    }

    /// `what` is nothing the engine can do; `instead` names the nearest that it can.
    pub fn unsupported(what: impl fmt::Display, instead: impl Into<String>) -> Self {
        Error::new(Kind::Unsupported, what.to_string()).next(instead)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if !self.0.context.is_empty() {
            f.write_str(" (")?;
            for (i, (name, value)) in self.0.context.iter().enumerate() {
                if i > 0 {
                    f.write_str(", ")?;
                }
                write!(f, "{name} {value}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}", self.0.kind)?;
        if let Some(code) = self.0.code {
            write!(f, " {code}")?;
        }
        f.write_str("] ")?;
        if !self.0.operation.is_empty() {
            write!(f, "{}: ", self.0.operation)?;
        }
        write!(f, "{self}")?;
        if self.0.effect == Effect::Unknown {
            f.write_str("; outcome unknown")?;
        }
        if let Some(next) = &self.0.next {
            write!(f, "; next: {next}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|e| e as &(dyn StdError + 'static))
    }
}

/// The stable codes. Each has a page in `docs/errors/`, shown by `strait explain CODE`.
pub mod codes {
    /// The offset was removed by retention; the context names the earliest that is left.
    pub const OFFSET_GONE: &str = "offset_gone";
    /// The lease, partition or session of a receipt was lost; nothing was changed.
    pub const FENCED: &str = "fenced";
    /// Another process has the data directory open.
    pub const LOCKED: &str = "locked";
    /// The disk has no room for the log; sends are refused, settles and deletes go on.
    pub const DISK_FULL: &str = "disk_full";
    /// A write or fsync failed; the engine takes no writes until it is opened again.
    pub const POISONED: &str = "poisoned";
    /// A message, key, header block or batch is over its limit.
    pub const TOO_LARGE: &str = "too_large";
    /// The topic does not exist.
    pub const NO_SUCH_TOPIC: &str = "no_such_topic";
    /// The consumer group does not exist.
    pub const NO_SUCH_GROUP: &str = "no_such_group";
    /// A topic of that name exists with other settings.
    pub const TOPIC_EXISTS: &str = "topic_exists";
    /// The directory was written by a format version that this build does not read.
    pub const UNKNOWN_FORMAT: &str = "unknown_format";
    /// A file that is not strait's lies in the data directory.
    pub const FOREIGN_FILE: &str = "foreign_file";
    /// A topic or group name has characters or a length that is not allowed.
    pub const BAD_NAME: &str = "bad_name";
    /// A header name or value is not allowed (CR, LF, NUL, empty name).
    pub const BAD_HEADER: &str = "bad_header";
    /// The expected position or key version is not the present one.
    pub const WRONG_VERSION: &str = "wrong_version";
    /// The consumer has as many dead letters as it may keep and is paused.
    pub const DEAD_LETTERS_FULL: &str = "dead_letters_full";
    /// The connection ended before the answer came: the write may have happened.
    pub const UNKNOWN_OUTCOME: &str = "unknown_outcome";
    /// The app asks for what its engines cannot do.
    pub const NEEDS: &str = "needs";
    /// The directory was opened read-only.
    pub const READ_ONLY: &str = "read_only";
    /// A body cannot be decoded as the type that the handle asks for.
    pub const UNDECODABLE: &str = "undecodable";

    /// A record without a key on a topic that is compacted by key.
    pub const NO_KEY: &str = "no_key";

    /// The directory is a backup: it is restored, not opened.
    pub const IS_BACKUP: &str = "is_backup";
    /// A backup, or a copy of it, lacks something or has changed.
    pub const BAD_BACKUP: &str = "bad_backup";

    /// Every code, for tables and tests.
    pub const ALL: [&str; 22] = [
        OFFSET_GONE,
        FENCED,
        LOCKED,
        DISK_FULL,
        POISONED,
        TOO_LARGE,
        NO_SUCH_TOPIC,
        NO_SUCH_GROUP,
        TOPIC_EXISTS,
        UNKNOWN_FORMAT,
        FOREIGN_FILE,
        BAD_NAME,
        BAD_HEADER,
        WRONG_VERSION,
        DEAD_LETTERS_FULL,
        UNKNOWN_OUTCOME,
        NEEDS,
        READ_ONLY,
        UNDECODABLE,
        NO_KEY,
        IS_BACKUP,
        BAD_BACKUP,
    ];
}
