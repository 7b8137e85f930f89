//! Waiting for something to change without looking again and again.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify;
use tokio::net::unix::pipe::Receiver;

/// What leaves no trace in the directory, such as a second member that joins, is seen at the latest after this.
const AT_THE_LATEST: Duration = Duration::from_secs(60);

/// Watches a data directory: every change of the engine's state is a write to its log.
#[derive(Debug)]
pub(super) struct Watch(Option<Receiver>);

impl Watch {
    /// Watches from now on. Without a directory, or where the system has no watch left, only the time counts.
    pub(super) fn new(directory: Option<&Path>) -> Self {
        Watch(directory.and_then(|directory| open(directory).ok()))
    }

    /// Waits for a change.
    pub(super) async fn changed(&self) {
        let written = async {
            match &self.0 {
                // An error ends the wait as a change does: looking costs little.
                Some(fd) => drop(fd.readable().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = written => {}
            () = tokio::time::sleep(AT_THE_LATEST) => {}
        }
    }
}

fn open(directory: &Path) -> io::Result<Receiver> {
    let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let kinds =
        inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVE;
    inotify::add_watch(&fd, directory, kinds)?;
    // Not a pipe, but like one it becomes readable and is not blocked on: that is all that is asked of it here.
    Receiver::from_owned_fd_unchecked(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_in_the_directory_ends_the_wait() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        std::fs::write(&file, "before").unwrap();
        let watch = Watch::new(Some(directory.path()));
        assert!(watch.0.is_some());
        std::fs::write(&file, "after").unwrap();
        watch.changed().await;
    }
}
