//! What a process costs that has nothing to do: how fast it starts, its memory, its wake-ups.

use super::grouped;
use crate::test::Program;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A start on an empty directory takes less than this, the process itself included.
const START_MS: f64 = 50.0;
/// An idle process keeps less than this in memory.
const RESIDENT_MB: f64 = 20.0;
/// How long the idle process is watched.
const WATCHED: Duration = Duration::from_secs(10);

/// The lines of the table about starting and idling.
pub(super) fn section(program: &Path, dir: &Path) -> Result<String, String> {
    let start = start_ms(program, dir)?;
    let idle = idle(program, dir)?;
    let line = |value: f64, goal: &str, reached: bool| {
        let word = if reached { "reached" } else { "missed" };
        format!("| {} | {goal} | {word} |\n", grouped(value))
    };
    let mut text = "### start and idle\n\n`strait topic create orders` on an empty directory; \
        `strait dev` without traffic\n\n| measured | goal | |\n|---|---|---|\n"
        .to_owned();
    let goal = format!("start on an empty directory, median of 5, ms < {START_MS}");
    text.push_str(&line(start, &goal, start < START_MS));
    let goal = format!("resident, MB < {RESIDENT_MB}");
    text.push_str(&line(
        idle.resident_mb,
        &goal,
        idle.resident_mb < RESIDENT_MB,
    ));
    let goal = format!("wake-ups in {} s = 0", WATCHED.as_secs());
    text.push_str(&line(idle.wake_ups as f64, &goal, idle.wake_ups == 0));
    text.push('\n');
    Ok(text)
}

fn start_ms(program: &Path, dir: &Path) -> Result<f64, String> {
    let mut times = Vec::new();
    for round in 0..5 {
        let url = format!("file:{}", dir.join(format!("start-{round}")).display());
        let start = Instant::now();
        let status = Command::new(program)
            .args(["--url", &url, "topic", "create", "orders"])
            .stdout(Stdio::null())
            .status()
            .map_err(|error| format!("strait did not start: {error}"))?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        if !status.success() {
            return Err(format!(
                "strait topic create on an empty directory: {status}"
            ));
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

struct Idle {
    resident_mb: f64,
    wake_ups: u64,
}

fn idle(program: &Path, dir: &Path) -> Result<Idle, String> {
    let data = dir.join("idle");
    let mut command = Command::new(program);
    let mut running = Program::start(command.arg("dev").arg("--data").arg(data))?;
    running.wait_for_lines(1, Duration::from_secs(30))?;
    // What the start itself leaves to do in the background is not idling.
    std::thread::sleep(WATCHED);
    let before = wake_ups(running.id())?;
    std::thread::sleep(WATCHED);
    let wake_ups = wake_ups(running.id())?.saturating_sub(before);
    let status = read(&format!("/proc/{}/status", running.id()))?;
    let resident_mb = field(&status, "VmRSS:") as f64 / 1024.0;
    running.stop()?;
    Ok(Idle {
        resident_mb,
        wake_ups,
    })
}

/// How often the threads of a process were woken so far.
fn wake_ups(pid: u32) -> Result<u64, String> {
    let tasks = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&tasks).map_err(|error| format!("{tasks}: {error}"))?;
    let mut sum = 0;
    for entry in entries {
        let entry = entry.map_err(|error| format!("{tasks}: {error}"))?;
        // A thread may end between the list and this; the others count.
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        sum += field(&status, "voluntary_ctxt_switches:");
    }
    Ok(sum)
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

/// The number after a name of `/proc/PID/status`.
fn field(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_process_are_read() {
        let status =
            "VmRSS:\t   20480 kB\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(status, "VmRSS:"), 20480);
        assert_eq!(field(status, "voluntary_ctxt_switches:"), 12);
        assert!(wake_ups(std::process::id()).is_ok());
    }
}
