//! The owner's socket: the file `SOCK` in the data directory, for processes of the same user.
//!
//! A path to a socket holds 107 bytes on Linux; the directory's may be longer. Then the socket is reached through
//! `/proc/self/fd/N`, where N is the open directory: the file lies in the same place, and no second one is needed.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use strait_core::{Error, Kind, Result};
use tokio::net::UnixStream;

/// The file's name in the data directory.
pub(crate) const SOCK: &str = "SOCK";

/// Longest path that `sockaddr_un` holds on Linux, its end not counted.
const PATH_MAX: usize = 107;

/// A path to the socket that is short enough, and what must stay open while it is used.
struct Address {
    path: PathBuf,
    _directory: Option<File>,
}

impl Address {
    fn of(directory: &Path) -> io::Result<Self> {
        let path = directory.join(SOCK);
        if path.as_os_str().len() <= PATH_MAX {
            return Ok(Address {
                path,
                _directory: None,
            });
        }
        let open = File::open(directory)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCK}", open.as_raw_fd()));
        Ok(Address {
            path,
            _directory: Some(open),
        })
    }
}

/// Listens in the directory, whose lock the caller holds: a socket file that is there already is that of a dead process.
pub(crate) fn listen(directory: &Path) -> Result<std::os::unix::net::UnixListener> {
    let file = directory.join(SOCK);
    let named = |error| Error::io(format_args!("listening on {}", file.display()), error);
    remove(directory).map_err(named)?;
    let address = Address::of(directory).map_err(named)?;
    let listener = std::os::unix::net::UnixListener::bind(&address.path).map_err(named)?;
    // Until here the file's mode is the umask's; the peer's user is checked in any case.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(named)?;
    listener.set_nonblocking(true).map_err(named)?;
    Ok(listener)
}

/// Removes the file, if there is one.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_file(directory.join(SOCK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Says to other processes, as long as it is kept, that this one does not listen.
#[derive(Debug)]
pub struct SwitchedOff {
    directory: PathBuf,
}

impl Drop for SwitchedOff {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.directory) {
            tracing::warn!(%error, "the note that nobody listens could not be removed");
        }
    }
}

/// Says to other processes that this one, which holds the directory's lock, does not listen: the file `SOCK` holds its
/// process id instead. They learn it at once; without it they would wait for the socket of an owner that is still
/// starting.
pub fn switch_off(directory: &Path) -> Result<SwitchedOff> {
    let file = directory.join(SOCK);
    let named = |error| Error::io(format_args!("writing {}", file.display()), error);
    remove(directory).map_err(named)?;
    fs::write(&file, format!("{}\n", std::process::id())).map_err(named)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(named)?;
    Ok(SwitchedOff {
        directory: directory.to_owned(),
    })
}

/// The process that said with [`switch_off`] that it does not listen, if the file says so.
pub fn switched_off_by(directory: &Path) -> Option<u32> {
    let file = directory.join(SOCK);
    let kind = fs::symlink_metadata(&file).ok()?.file_type();
    if kind.is_socket() || !kind.is_file() {
        return None;
    }
    fs::read_to_string(&file).ok()?.trim().parse().ok()
}

/// Connects to the owner of the directory.
pub(crate) async fn connect(directory: &Path) -> Result<UnixStream> {
    let stream = match Address::of(directory) {
        Ok(address) => UnixStream::connect(&address.path).await,
        Err(error) => Err(error),
    };
    stream.map_err(|error| {
        let file = directory.join(SOCK);
        let text = format!("nobody answers on {}: {error}", file.display());
        Error::new(Kind::Unavailable, text).caused_by(error)
    })
}

/// Refuses a peer that runs as another user.
pub(crate) fn check_peer(stream: &UnixStream) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let peer = stream.peer_cred();
    let peer = peer.map_err(|error| Error::io("asking for the user at the other end", error))?;
    if peer.uid() == own {
        return Ok(());
    }
    let text = format!(
        "the socket of a data directory serves its own user {own}, the other end runs as user {}",
        peer.uid()
    );
    Err(Error::new(Kind::Denied, text).next("run both programs as the same user"))
}
