//! `cargo xtask bench`: runs the release program's own benchmarks and writes docs/benchmarks.md.

mod peers;
mod process;
mod works;

use crate::cargo::{self, cargo};
use crate::{Failure, generated, number, options};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use works::{Bound, Goal, WORKS, Work};

/// `cargo xtask bench [--seconds N]`: builds, runs each work, prints the table and writes it down.
/// `cargo xtask bench peers ..` compares with other systems.
pub(crate) fn command(args: &[String]) -> Result<(), Failure> {
    if let Some(("peers", rest)) = args.split_first().map(|(word, rest)| (word.as_str(), rest)) {
        return peers::command(rest);
    }
    let options = options(args, &["--seconds"])?;
    let seconds = number(&options, "--seconds", 10)?;
    let root = cargo::root()?;
    let built = cargo(&root)
        .args(["build", "--release", "-p", "strait-cli"])
        .status()
        .map_err(|error| format!("cargo did not start: {error}"))?;
    if !built.success() {
        return Err(Failure::Failed(format!("cargo build --release: {built}")));
    }
    let program = cargo::workspace(&root)?.target.join("release/strait");
    let mut text = String::new();
    for work in &WORKS {
        let args = arguments(work, seconds);
        println!("$ strait {}", args.join(" "));
        let answer = measure(&program, &args)?;
        text.push_str(&section(work, &args, &answer));
    }
    let dir = dir_beside(&program)?;
    text.push_str(&process::section(&program, dir.path())?);
    print!("\n{text}");
    generated::replace(&root.join("docs/benchmarks.md"), "bench", &text)?;
    Ok(())
}

fn arguments(work: &Work, seconds: u64) -> Vec<String> {
    let mut args = vec!["bench".to_owned()];
    args.extend(work.args.split(' ').map(str::to_owned));
    if let Some(times) = work.times {
        args.extend(["--duration".to_owned(), format!("{}s", seconds * times)]);
    }
    args.extend(["-o", "json"].map(str::to_owned));
    args
}

/// A directory on the disk that holds the build: a temporary directory may be memory.
fn dir_beside(program: &Path) -> Result<tempfile::TempDir, String> {
    let beside = program.parent().unwrap_or(Path::new("."));
    tempfile::tempdir_in(beside).map_err(|error| format!("no temporary directory: {error}"))
}

/// Runs it in a directory of its own.
fn measure(program: &Path, args: &[String]) -> Result<Value, String> {
    let dir = dir_beside(program)?;
    let output = Command::new(program)
        .args(args)
        .env_remove("STRAIT_URL")
        .current_dir(dir.path())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("strait did not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("strait {}: {}", args.join(" "), output.status));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("strait {}: no JSON: {error}", args.join(" ")))
}

/// A work's goals with what was measured, and every figure of the answer below.
fn section(work: &Work, args: &[String], answer: &Value) -> String {
    let mut text = format!(
        "### {}\n\n`strait {}`\n\n| measured | goal | |\n|---|---|---|\n",
        work.name,
        args.join(" ")
    );
    for goal in work.goals {
        text.push_str(&goal_line(goal, answer));
    }
    text.push_str("\n```json\n");
    text.push_str(&serde_json::to_string_pretty(answer).unwrap_or_default());
    text.push_str("\n```\n\n");
    text
}

fn goal_line(goal: &Goal, answer: &Value) -> String {
    let field = goal.field;
    let number = |field: &str| answer[field].as_f64();
    let (value, goal, reached) = match goal.bound {
        Bound::AtLeast(least) => {
            let value = number(field);
            (
                value,
                format!("`{field}` >= {}", grouped(least)),
                value.map(|v| v >= least),
            )
        }
        Bound::Ratio(least, other) => {
            let value = number(field).zip(number(other)).map(|(a, b)| a / b);
            let goal = format!("`{field}` / `{other}` >= {least}");
            (value, goal, value.map(|v| v >= least))
        }
        Bound::AtMost(most) => {
            let value = number(field);
            (
                value,
                format!("`{field}` <= {}", grouped(most)),
                value.map(|v| v <= most),
            )
        }
        Bound::AtMostTimes(most, other) => {
            let value = number(field).zip(number(other)).map(|(a, b)| a / b);
            let goal = format!("`{field}` / `{other}` <= {most}");
            (value, goal, value.map(|v| v <= most))
        }
    };
    let value = value.map_or_else(|| "not measured".to_owned(), grouped);
    let word = match reached {
        Some(true) => "reached",
        Some(false) => "missed",
        None => "-",
    };
    format!("| {value} | {goal} | {word} |\n")
}

/// `2,000,000` for large numbers, two decimals for small ones.
fn grouped(value: f64) -> String {
    if value < 1000.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RATE: &str = works::RATE;
    const BARE: &str = works::BARE;

    #[test]
    fn goals_are_judged_against_the_answer() {
        let answer =
            json!({ RATE: 1_200_000.0, BARE: 2_000_000, "ack_p99_ms": 3.0, "fsync_p50_ms": 0.2 });
        let line = |field, bound| goal_line(&Goal { field, bound }, &answer);
        assert_eq!(
            line(RATE, Bound::AtLeast(2e6)),
            "| 1,200,000 | `messages_per_second` >= 2,000,000 | missed |\n"
        );
        assert!(line(RATE, Bound::Ratio(0.5, BARE)).starts_with("| 0.60 |"));
        assert!(line(RATE, Bound::Ratio(0.5, BARE)).ends_with("| reached |\n"));
        assert!(line("ack_p99_ms", Bound::AtMostTimes(10.0, "fsync_p50_ms")).contains("missed"));
        assert!(line("absent", Bound::AtLeast(1.0)).contains("not measured"));
    }

    #[test]
    fn every_run_says_how_long_it_takes_and_answers_in_json() {
        for work in &WORKS {
            let args = arguments(work, 3).join(" ");
            assert!(
                args.starts_with("bench ") && args.ends_with(" -o json"),
                "{args}"
            );
            let long = work
                .times
                .is_none_or(|times| args.contains(&format!("{}s", 3 * times)));
            assert!(long, "{args}");
        }
    }
}
