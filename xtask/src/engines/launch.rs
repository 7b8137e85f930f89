//! Starting a server, waiting until it answers, and ending it.

use super::{Durability, Instance, Place, Recipe, Start};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that does not answer within this is taken for broken.
const START: Duration = Duration::from_secs(90);
/// A server that has not ended this long after it was asked to is killed.
const GRACE: Duration = Duration::from_secs(20);
/// Between two questions whether it is ready.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// Lines of its log that an error shows.
const LOG_LINES: usize = 5;

/// A server that is to be started.
pub(super) struct Launch {
    pub(super) command: Command,
    pub(super) ready: Ready,
}

/// When a server counts as ready.
pub(super) enum Ready {
    /// Its port takes connections.
    Accepts,
    /// It answers these bytes with something that holds this word.
    Answers {
        port: u16,
        ask: Vec<u8>,
        word: &'static str,
    },
}

/// Starts it on free ports and waits until it is ready.
pub(super) fn start(
    recipe: &Recipe,
    place: &Place,
    got: &Path,
    durability: Durability,
) -> Result<Instance, String> {
    let [port, second_port] = free_ports()?;
    let data = place
        .run()
        .join(format!("{}-{}", recipe.name, durability.as_str()));
    let fresh = match fs::remove_dir_all(&data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(&data),
    };
    fresh.map_err(|error| format!("{}: {error}", data.display()))?;
    let mut launch = (recipe.launch)(&Start {
        got,
        data: &data,
        port,
        second_port,
        durability,
    })?;
    let log = data.join("server.log");
    let mut child = spawn(&mut launch.command, &data, &log)?;
    let pid = child.id();
    if let Err(why) = wait_until_ready(&mut child, &launch.ready, port) {
        // The start has failed already; what is left of it is ended.
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("{why}; {}", last_lines(&log)));
    }
    Ok(Instance {
        name: recipe.name.to_owned(),
        durability,
        port,
        pid,
        started: started(pid).ok_or("it ended at once")?,
        data,
    })
}

/// In a process group of its own: Ctrl-C in the terminal is not meant for it.
fn spawn(command: &mut Command, data: &Path, log: &Path) -> Result<Child, String> {
    let open = || {
        let mut options = File::options();
        options.create(true).append(true).open(log)
    };
    let (out, err) = open()
        .and_then(|out| Ok((out, open()?)))
        .map_err(|error| format!("{}: {error}", log.display()))?;
    command
        .current_dir(data)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{} did not start: {error}", program(command)))
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// Ports that are free now. Both are held until both are known, so that they differ.
fn free_ports() -> Result<[u16; 2], String> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let ports = || {
        let (one, two) = (bind()?, bind()?);
        Ok::<_, std::io::Error>([one.local_addr()?.port(), two.local_addr()?.port()])
    };
    ports().map_err(|error| format!("no free port: {error}"))
}

fn wait_until_ready(child: &mut Child, ready: &Ready, port: u16) -> Result<(), String> {
    let end = Instant::now() + START;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("it ended before it was ready: {status}"));
        }
        let is_ready = match ready {
            Ready::Accepts => connect(port).is_some(),
            Ready::Answers { port, ask, word } => {
                answer(*port, ask).is_some_and(|a| a.contains(word))
            }
        };
        if is_ready {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(format!("not ready after {} s", START.as_secs()));
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

fn connect(port: u16) -> Option<TcpStream> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()
}

fn answer(port: u16, ask: &[u8]) -> Option<String> {
    let mut stream = connect(port)?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(ask).ok()?;
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    format!("its log ends with: {}", lines[from..].join(" / "))
}

/// When a process started, in the kernel's ticks; none when it has ended.
pub(super) fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets, which may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, started) = (fields.first()?, fields.get(19)?);
    let ended = *state == "Z" || *state == "X";
    (!ended).then(|| started.parse().ok())?
}

/// Asks a process to end, waits for it, and kills it when it takes too long.
pub(super) fn stop(pid: u32) -> Result<(), String> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or("no such process id")?;
    let told = |error: rustix::io::Errno| format!("process {}: {error}", pid.as_raw_nonzero());
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(told(error)),
    };
    for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
        match kill_process(pid, signal) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(told(error)),
        }
        let limit = Timespec {
            tv_sec: patience.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        if poll(&mut ended, Some(&limit)).map_err(told)? > 0 {
            return Ok(());
        }
    }
    Err(format!("process {} does not end", pid.as_raw_nonzero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_and_ends_when_asked() {
        let mut child = Command::new("sleep").arg("600").spawn().expect("sleep");
        let pid = child.id();
        assert!(started(pid).is_some());
        assert_eq!(stop(pid), Ok(()));
        // It has ended and was not waited for: a zombie is no running process.
        assert_eq!(started(pid), None);
        child.wait().expect("it ended");
        assert_eq!(stop(pid), Ok(()));
    }

    #[test]
    fn a_server_that_ends_at_once_is_reported_with_its_log() {
        static BROKEN: Recipe = Recipe {
            name: "broken",
            from: "nothing",
            get: |_| Ok(std::path::PathBuf::new()),
            launch: |_| {
                let mut command = Command::new("sh");
                command.args(["-c", "echo no room; exit 3"]);
                Ok(Launch {
                    command,
                    ready: Ready::Accepts,
                })
            },
            ack: |_| "never",
        };
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = Place::in_directory(dir.path());
        let why = BROKEN
            .up(&place, Durability::Fsync)
            .err()
            .unwrap_or_default();
        assert!(why.contains("exit status: 3"), "{why}");
        assert!(why.contains("no room"), "{why}");
    }

    #[test]
    fn a_server_is_ready_when_it_answers() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = server.local_addr().expect("its address").port();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().expect("a connection");
            let mut ask = [0; 4];
            stream.read_exact(&mut ask).expect("the question");
            stream.write_all(b"+PONG").expect("the answer");
        });
        let mut child = Command::new("sleep").arg("600").spawn().expect("sleep");
        let ready = Ready::Answers {
            port,
            ask: b"PING".to_vec(),
            word: "PONG",
        };
        assert_eq!(wait_until_ready(&mut child, &ready, port), Ok(()));
        child.kill().expect("kill");
        child.wait().expect("it ended");
        serving.join().expect("the server");
    }
}
