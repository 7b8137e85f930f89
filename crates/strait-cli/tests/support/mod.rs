//! What the tests of the command share.

// Not every test uses all of it.
#[allow(dead_code)]
pub(crate) mod run;

use std::process::Child;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Kills a program that is still there after this time, so that a fault ends a test instead of hanging it. Dropping the
/// answer ends the watch.
pub(crate) fn limit(child: &Child, time: Duration) -> mpsc::Sender<()> {
    let id = Pid::from_child(child);
    let (alive, watch) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if watch.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
            // It may have ended in this moment.
            let _ = kill_process(id, Signal::KILL);
        }
    });
    alive
}
