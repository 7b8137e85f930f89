//! `cargo xtask`: the project's own tasks. `cargo xtask help` lists them.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    reason = "a task runner's product is what it prints"
)]

mod bench;
mod cargo;
mod engines;
mod generated;
mod markdown;
mod rust_text;
mod soak;
mod test;
mod tidy;
mod tree;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [--only STAGE].. [--skip STAGE].. [--no-engines] [--list]
                       everything that CI runs, once, with the time of each stage; --no-engines does without the
                       servers of other systems
  tidy                 the rules on the source itself: arrows, links, dead files, words, lengths
  sim --seeds N [--from S]
                       the simulations of the embedded engine and of processes that share it, over N seeds
  soak [--seeds N] [--socket-seeds N] [--rounds N]
                       the full counts; the result goes into docs/reliability.md
  bench [--seconds N]  the figures of docs/benchmarks.md, from a release build
  bench peers [--seconds N] [--rounds N] [--only NAME,..]
                       strait and other systems side by side, in one run
  engines up|down|status [NAME].. [--durability fsync|default]
                       servers of other systems, on the loopback address
  engines clients      gets their own programs, which tests set beside ours: Python packages, Kafka's tools, redis-cli
  capabilities         the tables of what each engine does, in README.md and docs/engines.md, from what the engines say
  help                 this text
";

/// What `cargo xtask` can do; `readme` checks the documents against it.
const COMMANDS: [&str; 8] = [
    "test",
    "tidy",
    "sim",
    "soak",
    "bench",
    "engines",
    "capabilities",
    "help",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = args.split_first() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let done = match command.as_str() {
        "test" => test::command(rest),
        "tidy" => tidy::command(rest),
        "sim" => soak::sim_command(rest),
        "soak" => soak::soak_command(rest),
        "bench" => bench::command(rest),
        "engines" => engines::command(rest),
        "capabilities" => capabilities(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(Failure::Usage(format!("unknown command `{other}`"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(what)) => {
            eprint!("error: {what}\n\n{USAGE}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(what)) => {
            eprintln!("error: {what}");
            ExitCode::FAILURE
        }
        Err(Failure::Reported) => ExitCode::FAILURE,
    }
}

/// `cargo xtask capabilities`: the test that compares the tables with the engines writes them instead.
fn capabilities(args: &[String]) -> Result<(), Failure> {
    options(args, &[])?;
    let mut command = cargo::cargo(&cargo::root()?);
    command.args([
        "test",
        "-q",
        "-p",
        "strait",
        "--features=full",
        "--test=it",
        "capabilities::",
    ]);
    test::succeed(command.env("STRAIT_WRITE_CAPABILITIES", "1"))?;
    Ok(())
}

/// Why a command did not succeed.
enum Failure {
    /// The command line was wrong; exit code 2.
    Usage(String),
    /// Something failed and has not been said yet; exit code 1.
    Failed(String),
    /// Something failed and was printed already; exit code 1.
    Reported,
}

impl From<String> for Failure {
    fn from(what: String) -> Self {
        Self::Failed(what)
    }
}

/// Reads `--name VALUE` and `--name=VALUE` options; every other word is a usage error.
fn options(args: &[String], known: &[&str]) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        if !known.contains(&name) {
            return Err(Failure::Usage(format!("unknown option `{word}`")));
        }
        let value = inline
            .or_else(|| words.next().cloned())
            .ok_or_else(|| Failure::Usage(format!("`{name}` needs a value")))?;
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

/// The last value given for a whole-number option, or the default.
fn number(options: &[(String, String)], name: &str, default: u64) -> Result<u64, Failure> {
    match options.iter().rev().find(|(given, _)| given == name) {
        None => Ok(default),
        Some((_, value)) => value
            .replace('_', "")
            .parse()
            .map_err(|_| Failure::Usage(format!("`{name} {value}`: not a whole number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_are_read_in_both_forms_and_unknown_ones_are_refused() {
        let known = ["--seeds", "--from"];
        let read = options(&words("--seeds 1_000 --from=7"), &known);
        let Ok(read) = read else {
            panic!("both forms are legal")
        };
        assert!(matches!(number(&read, "--seeds", 1), Ok(1000)));
        assert!(matches!(number(&read, "--from", 0), Ok(7)));
        assert!(matches!(number(&read, "--absent", 3), Ok(3)));
        assert!(matches!(
            options(&words("--seed 3"), &known),
            Err(Failure::Usage(_))
        ));
        assert!(matches!(
            options(&words("--seeds"), &known),
            Err(Failure::Usage(_))
        ));
        let odd = options(&words("--seeds many"), &known).unwrap_or_default();
        assert!(matches!(number(&odd, "--seeds", 1), Err(Failure::Usage(_))));
    }

    #[test]
    fn every_command_is_in_the_usage_text() {
        for command in COMMANDS {
            assert!(USAGE.contains(&format!("\n  {command}")), "{command}");
        }
    }
}
