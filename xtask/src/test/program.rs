//! Running a program of ours under watch: its lines as they come, Ctrl-C, and a limit on every wait.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// A program that does not end by itself is sent Ctrl-C after this.
const PATIENCE: Duration = Duration::from_secs(20);
/// After Ctrl-C it must end within this.
const GRACE: Duration = Duration::from_secs(30);
/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A running program whose stdout and stderr are read, neither of them a terminal.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
    /// What it has printed so far; it is shown when something fails.
    seen: Vec<String>,
}

impl Program {
    /// Starts the program with no input.
    pub(crate) fn start(command: &mut Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command:?} did not start: {error}"))?;
        let (send, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            read_lines(stdout, send.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            read_lines(stderr, send);
        }
        Ok(Self {
            child,
            lines,
            seen: Vec::new(),
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has printed `count` lines in all.
    pub(crate) fn wait_for_lines(&mut self, count: usize, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        while self.seen.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    let seen = self.seen.len();
                    return Err(self.told(&format!("{seen} of {count} lines after {limit:?}")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.told(&format!("ended before {count} lines")));
                }
            }
        }
        Ok(())
    }

    /// What Ctrl-C does.
    fn interrupt(&self) -> Result<(), String> {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or("the process has no id")?;
        kill_process(pid, Signal::INT).map_err(|error| format!("SIGINT: {error}"))
    }

    /// Waits for the end; none when the limit passes first.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>, String> {
        let end = Instant::now() + limit;
        loop {
            // The pipes close when the program ends, so this wakes at once; a child of it that keeps them
            // open only costs a poll.
            if let Ok(line) = self.lines.recv_timeout(Duration::from_millis(50)) {
                self.seen.push(line);
                continue;
            }
            let status = self.child.try_wait().map_err(|error| error.to_string())?;
            if status.is_some() || Instant::now() >= end {
                self.seen.extend(self.lines.try_iter());
                return Ok(status);
            }
        }
    }

    /// Ends it with Ctrl-C and requires a clean end: exit code 0 or 130. Having ended before is an error.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        let ended = self.child.try_wait().map_err(|error| error.to_string())?;
        if let Some(status) = ended {
            return Err(self.told(&format!("ended before Ctrl-C: {status}")));
        }
        self.interrupt()?;
        match self.wait(GRACE)? {
            None => Err(self.told(&format!("still runs {GRACE:?} after Ctrl-C"))),
            Some(status) if status.success() || status.code() == Some(INTERRUPTED) => Ok(()),
            Some(status) => Err(self.told(&format!("after Ctrl-C: {status}, not 0 or 130"))),
        }
    }

    /// The message, with the last lines that the program printed.
    pub(super) fn told(&self, what: &str) -> String {
        const SHOWN: usize = 40;
        let from = self.seen.len().saturating_sub(SHOWN);
        for line in &self.seen[from..] {
            println!("  | {line}");
        }
        what.to_owned()
    }
}

/// Nothing that was started stays behind.
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(pipe: impl Read + Send + 'static, send: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if send.send(line).is_err() {
                return;
            }
        }
    });
}

/// Runs a program in an empty directory until it ends by itself with 0, or ends cleanly on Ctrl-C.
pub(super) fn run_in_empty_dir(program: &Path) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let mut running = Program::start(Command::new(program).current_dir(dir.path()))?;
    match running.wait(PATIENCE)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(running.told(&status.to_string())),
        None => running.stop(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Program {
        let mut command = Command::new("sh");
        match Program::start(command.args(["-c", script])) {
            Ok(program) => program,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_program_that_ends_cleanly_on_interrupt_is_accepted() {
        for code in [0, INTERRUPTED] {
            let mut program = shell(&format!(
                "trap 'exit {code}' INT; echo up; while :; do sleep 0.05; done"
            ));
            assert_eq!(program.wait_for_lines(1, LIMIT), Ok(()));
            assert_eq!(program.stop(), Ok(()));
        }
    }

    #[test]
    fn a_program_that_fails_on_interrupt_is_refused() {
        let mut program = shell("trap 'exit 3' INT; echo up; while :; do sleep 0.05; done");
        assert_eq!(program.wait_for_lines(1, LIMIT), Ok(()));
        let end = program.stop();
        assert!(end.is_err_and(|why| why.contains("not 0 or 130")));
    }

    #[test]
    fn a_program_that_has_ended_before_is_refused() {
        let mut program = shell("echo up");
        assert!(matches!(program.wait(LIMIT), Ok(Some(_))));
        let end = program.stop();
        assert!(end.is_err_and(|why| why.contains("ended before Ctrl-C")));
    }

    #[test]
    fn too_few_lines_are_an_error_at_once_when_the_program_ends() {
        let mut program = shell("echo one; echo two >&2");
        let found = program.wait_for_lines(3, LIMIT);
        assert!(found.is_err_and(|why| why.contains("ended before 3 lines")));
        assert_eq!(program.seen.len(), 2);
    }
}
