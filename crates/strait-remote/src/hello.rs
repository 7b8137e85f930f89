//! How a connection begins: both sides say what they speak, and the server what it serves.

use strait_core::events::Caps;
use strait_core::{Error, Health, Kind, Result};

use crate::frame::{Frame, kind};
use crate::wire::{In, Out, Wire, malformed, read_start, wire_struct};

/// The oldest and the newest version of the protocol that this build speaks.
pub(crate) const VERSIONS: (u16, u16) = (1, 1);

/// What tells this protocol from everything else that may knock.
const MAGIC: [u8; 9] = *b"strait://";

/// This build, for messages.
pub(crate) fn build() -> String {
    concat!("strait ", env!("CARGO_PKG_VERSION")).to_owned()
}

#[derive(Debug)]
struct Magic;

impl Wire for Magic {
    fn put(&self, out: &mut Out) {
        MAGIC.iter().for_each(|byte| byte.put(out));
    }
    fn get(input: &mut In) -> Result<Self> {
        for byte in MAGIC {
            if u8::get(input)? != byte {
                return Err(malformed("the peer does not speak strait://"));
            }
        }
        Ok(Magic)
    }
}

/// A process, for messages.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) build: String,
    pub(crate) pid: u32,
    pub(crate) program: String,
}
wire_struct!(Process {
    build,
    pid,
    program
});

impl Process {
    /// This one.
    pub(crate) fn own() -> Self {
        let program = std::env::args_os().next().unwrap_or_default();
        let program = std::path::Path::new(&program)
            .file_name()
            .unwrap_or_default();
        Process {
            build: build(),
            pid: std::process::id(),
            program: program.to_string_lossy().into_owned(),
        }
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {}, {})", self.program, self.pid, self.build)
    }
}

/// What a client says first. Later versions append fields.
#[derive(Debug)]
pub(crate) struct Hello {
    magic: Magic,
    oldest: u16,
    newest: u16,
    pub(crate) process: Process,
}
wire_struct!(Hello {
    magic,
    oldest,
    newest,
    process
});

impl Hello {
    pub(crate) fn own() -> Self {
        let (oldest, newest) = VERSIONS;
        Hello {
            magic: Magic,
            oldest,
            newest,
            process: Process::own(),
        }
    }

    /// Reads the first frame of a client.
    pub(crate) fn of(frame: Frame) -> Result<Self> {
        if frame.kind != kind::HELLO {
            return Err(frame.unexpected(VERSIONS.1));
        }
        read_start(frame.payload)
    }

    /// The newest version that both speak.
    pub(crate) fn agree(&self) -> Result<u16> {
        let (oldest, newest) = VERSIONS;
        let version = newest.min(self.newest);
        if version >= oldest.max(self.oldest) {
            return Ok(version);
        }
        Err(Error::new(
            Kind::Unsupported,
            format!(
                "{} speaks versions {} to {} of strait://, {} speaks {oldest} to {newest}",
                self.process,
                self.oldest,
                self.newest,
                Process::own()
            ),
        )
        .next("use builds of strait that share a version"))
    }
}

/// What the server answers. Later versions append fields.
#[derive(Debug, Clone)]
pub(crate) struct Welcome {
    pub(crate) version: u16,
    /// Longest payload of a request.
    pub(crate) payload_max: u32,
    pub(crate) process: Process,
    pub(crate) engine: String,
    pub(crate) health: Health,
    /// The events lane, where there is one.
    pub(crate) events: Option<Caps>,
}
wire_struct!(Welcome {
    version,
    payload_max,
    process,
    engine,
    health,
    events
});

impl Welcome {
    /// Reads the first frame of a server.
    pub(crate) fn of(frame: Frame) -> Result<Self> {
        match frame.kind {
            kind::WELCOME => read_start(frame.payload),
            kind::REFUSED | kind::GOODBYE => Err(read_start::<Error>(frame.payload)?),
            _ => Err(frame.unexpected(VERSIONS.1)),
        }
    }
}
