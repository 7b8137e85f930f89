//! Counting tests from what cargo prints.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// How a test says that the server that it needs is absent.
const SKIPPED: &str = "skipped: no ";

/// Tests over all binaries, plus stages that failed or were skipped as a whole.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// Failed tests that the failure of their stage stands for.
    failed_in_stage: u64,
}

/// The last line of a run; CI reads it.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

impl Counts {
    /// Runs `cargo test`, passes its output on and adds up the results of all its binaries.
    pub(crate) fn run_tests(&mut self, command: &mut Command) -> Result<(), String> {
        self.failed_in_stage = 0;
        let mut child = say(command)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cargo did not start: {error}"))?;
        if let Some(stdout) = child.stdout.take() {
            self.read(BufReader::new(stdout))?;
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        match (status.success(), self.failed_in_stage) {
            (true, 0) => Ok(()),
            (_, 0) => Err(format!("cargo test: {status}")),
            (_, failed) => Err(format!("{failed} test(s) failed")),
        }
    }

    fn read(&mut self, output: impl BufRead) -> Result<(), String> {
        for line in output.split(b'\n') {
            let line = line.map_err(|error| format!("reading cargo's output: {error}"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            self.add_line(&line);
        }
        Ok(())
    }

    /// Adds `test result: ok. 3 passed; 0 failed; 1 ignored; ..`, and tests that say that they are skipped because a
    /// server is absent; other lines say nothing.
    fn add_line(&mut self, line: &str) {
        if line.contains(SKIPPED) {
            self.skipped += 1;
        }
        let Some((_, results)) = line.split_once("test result: ") else {
            return;
        };
        for part in results.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what), None) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => {
                    self.failed += number;
                    self.failed_in_stage += number;
                }
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    /// A stage failed: counted once, unless its failed tests were counted already.
    pub(crate) fn stage_failed(&mut self) {
        if self.failed_in_stage == 0 {
            self.failed += 1;
        }
    }
}

/// Runs a command with its output shown; an error unless it exits with 0.
pub(crate) fn succeed(command: &mut Command) -> Result<(), String> {
    let status = say(command)
        .status()
        .map_err(|error| format!("{} did not start: {error}", shown(command)))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("`{}`: {status}", shown(command)))
}

/// Prints the command, so that it can be repeated by hand.
fn say(command: &mut Command) -> &mut Command {
    println!("$ {}", shown(command));
    command
}

fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let mut text = name.into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(output: &str) -> Counts {
        let mut counts = Counts::default();
        for line in output.lines() {
            counts.add_line(line);
        }
        counts
    }

    #[test]
    fn results_of_all_binaries_are_added() {
        let counts = counted(
            "running 3 tests\ntest a ... ok\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s\n\
             test result: FAILED. 10 passed; 2 failed; 0 ignored; 7 measured; 5 filtered out; finished in 1.25s\n\
             the 9 passed; are no result\n",
        );
        assert_eq!(counts.to_string(), "13 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_test_without_its_server_is_skipped() {
        let counts = counted(
            "test a ... skipped: no Kafka (STRAIT_KAFKA=none)\nok\n\
             test result: ok. 1 passed; 0 failed; 0 ignored",
        );
        assert_eq!(counts.to_string(), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_failed_stage_counts_once() {
        let mut counts = counted("test result: FAILED. 1 passed; 2 failed; 0 ignored");
        counts.stage_failed();
        assert_eq!(counts.failed, 2);
        let mut counts = counted("test result: ok. 1 passed; 0 failed; 0 ignored");
        counts.stage_failed();
        assert_eq!(counts.failed, 1);
    }

    #[test]
    fn a_command_that_fails_or_is_absent_is_an_error() {
        assert_eq!(succeed(&mut Command::new("true")), Ok(()));
        assert!(succeed(&mut Command::new("false")).is_err());
        assert!(succeed(&mut Command::new("no-such-program")).is_err());
        let mut script = Command::new("sh");
        script.args(["-c", "echo 'test result: ok. 4 passed; 0 failed'; exit 1"]);
        let mut counts = Counts::default();
        assert!(counts.run_tests(&mut script).is_err());
        assert_eq!(counts.passed, 4);
    }
}
