//! `cargo xtask sim` and `cargo xtask soak`: the tests of crashes, with more seeds and rounds than `test` runs.

use crate::cargo::{self, cargo};
use crate::test::Counts;
use crate::{Failure, generated, number, options};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// A simulation: package, test target, and what the names of its tests have in common.
#[derive(Clone, Copy)]
struct Simulation(&'static str, &'static str, &'static str);

/// The embedded engine on its disk.
const ENGINE: Simulation = Simulation("strait-embedded", "sim", "");
/// Processes that share it over the socket's protocol.
const SOCKET: Simulation = Simulation("strait-remote", "it", "simulation::");

/// A simulation's seeds: how many, and the first.
const SIM_SEEDS: &str = "STRAIT_SIM_SEEDS";
const SIM_FROM: &str = "STRAIT_SIM_FROM";
/// How often the tests named `kill..` kill a process.
const KILL_ROUNDS: &str = "STRAIT_KILL_ROUNDS";

/// Where the results go, and the head of their table.
const RESULTS: &str = "docs/reliability.md";
const HEAD: &str = "| commit | what | count | result | minutes |\n|---|---|---|---|---|";

/// `cargo xtask sim --seeds N [--from S]`.
pub(crate) fn sim_command(args: &[String]) -> Result<(), Failure> {
    let options = options(args, &["--seeds", "--from"])?;
    if !options.iter().any(|(name, _)| name == "--seeds") {
        return Err(Failure::Usage("sim needs `--seeds N`".to_owned()));
    }
    let seeds = number(&options, "--seeds", 0)?;
    let from = number(&options, "--from", 0)?;
    let root = cargo::root()?;
    let engine = run(&mut sim(&root, ENGINE, seeds, from));
    let socket = run(&mut sim(&root, SOCKET, seeds, from));
    engine.and(socket).map_err(Failure::Failed)
}

/// `cargo xtask soak [--seeds N] [--socket-seeds N] [--rounds N]`.
pub(crate) fn soak_command(args: &[String]) -> Result<(), Failure> {
    let options = options(args, &["--seeds", "--socket-seeds", "--rounds"])?;
    let seeds = number(&options, "--seeds", 1_000_000)?;
    let socket_seeds = number(&options, "--socket-seeds", 100_000)?;
    let rounds = number(&options, "--rounds", 1_000)?;
    let root = cargo::root()?;
    let commit = commit(&root)?;

    let simulated = measured(&mut sim(&root, ENGINE, seeds, 0));
    record(
        &root,
        &commit,
        "simulation, seeds from 0",
        seeds,
        &simulated,
    )?;
    let shared = measured(&mut sim(&root, SOCKET, socket_seeds, 0));
    record(
        &root,
        &commit,
        "simulation over the socket, seeds from 0",
        socket_seeds,
        &shared,
    )?;
    let killed = measured(&mut kills(&root, rounds));
    record(
        &root,
        &commit,
        "`kill -9` loops, rounds each",
        rounds,
        &killed,
    )?;
    let results = [simulated.result, shared.result, killed.result];
    let all: Result<(), String> = results.into_iter().collect();
    all.map_err(Failure::Failed)
}

fn sim(root: &Path, simulation: Simulation, seeds: u64, from: u64) -> Command {
    let Simulation(package, target, tests) = simulation;
    let mut command = cargo(root);
    command
        .args(["test", "-p", package, "--test", target])
        .args(["--", "--nocapture", tests])
        .env(SIM_SEEDS, seeds.to_string())
        .env(SIM_FROM, from.to_string());
    command
}

/// Every test of the workspace with `kill` in its name.
fn kills(root: &Path, rounds: u64) -> Command {
    let mut command = cargo(root);
    command
        .args(["test", "--workspace", "--all-targets", "--no-fail-fast"])
        .args(["--", "--nocapture", "kill"])
        .env(KILL_ROUNDS, rounds.to_string());
    command
}

/// A run that tested nothing is a failure: a filter or a name was wrong.
fn run(command: &mut Command) -> Result<(), String> {
    let mut counts = Counts::default();
    counts.run_tests(command)?;
    println!("{counts}");
    match counts.passed {
        0 => Err("no test ran".to_owned()),
        _ => Ok(()),
    }
}

struct Run {
    result: Result<(), String>,
    minutes: f64,
}

fn measured(command: &mut Command) -> Run {
    let start = Instant::now();
    let result = run(command);
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    Run { result, minutes }
}

fn record(root: &Path, commit: &str, what: &str, count: u64, run: &Run) -> Result<(), String> {
    let line = line(commit, what, count, run);
    println!("{line}");
    generated::append(&root.join(RESULTS), "soak", HEAD, &line)
}

fn line(commit: &str, what: &str, count: u64, run: &Run) -> String {
    let result = match &run.result {
        Ok(()) => "clean",
        Err(why) => why,
    };
    format!(
        "| {commit} | {what} | {count} | {result} | {:.1} |",
        run.minutes
    )
}

/// The commit that the results belong to, with `+` when the tree has changes that are not committed.
fn commit(root: &Path) -> Result<String, String> {
    let git = |args: &[&str]| -> Result<String, String> {
        let output = Command::new("git").args(args).current_dir(root).output();
        let output =
            output.map_err(|error| format!("git is needed to name the commit: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("git {}: {}", args.join(" "), said.trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short=10", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    // The results themselves are no change of what is tested.
    let changed = changes.lines().any(|line| !line.ends_with(RESULTS));
    Ok(if changed { format!("{hash}+") } else { hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_tested_nothing_is_a_failure() {
        let mut sh = Command::new("sh");
        sh.args(["-c", "echo 'test result: ok. 0 passed; 0 failed'"]);
        assert_eq!(run(&mut sh), Err("no test ran".to_owned()));
        let mut sh = Command::new("sh");
        sh.args(["-c", "echo 'test result: ok. 1 passed; 0 failed'"]);
        assert_eq!(run(&mut sh), Ok(()));
    }

    #[test]
    fn a_result_is_one_line_of_the_table() {
        let run = Run {
            result: Err("2 test(s) failed".to_owned()),
            minutes: 1.25,
        };
        assert_eq!(
            line("abc", "simulation", 7, &run),
            "| abc | simulation | 7 | 2 test(s) failed | 1.2 |"
        );
        assert_eq!(HEAD.lines().next().map(|l| l.matches('|').count()), Some(6));
    }
}
