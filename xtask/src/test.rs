//! `cargo xtask test`: what CI runs. Stages in order, each timed; the first that fails ends the run.

mod counts;
mod deny;
mod program;
mod readme;
mod scratch;
mod servers;

use crate::cargo::{self, Workspace, cargo};
use crate::{Failure, tidy};
pub(crate) use counts::{Counts, succeed};
pub(crate) use program::Program;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// One stage of the run.
struct Stage {
    name: &'static str,
    run: fn(&mut Context) -> Outcome,
}

/// What everything is built with but the stages `features`, `scratch` and `readme`.
const FULL: &str = "--features=full";

/// The stages share one profile, one set of features and one target directory, so that each crate is built once
/// for checks, once for tests and once for the release program of the last stage.
const STAGES: [Stage; 13] = [
    Stage {
        name: "tidy",
        run: tidy_stage,
    },
    Stage {
        name: "fmt",
        run: fmt,
    },
    Stage {
        name: "packages",
        run: servers::packages,
    },
    Stage {
        name: "clippy",
        run: clippy,
    },
    Stage {
        name: ENGINES,
        run: servers::run,
    },
    Stage {
        name: "tests",
        run: tests,
    },
    Stage {
        name: "doctests",
        run: doctests,
    },
    Stage {
        name: "docs",
        run: docs,
    },
    Stage {
        name: "features",
        run: features,
    },
    Stage {
        name: "deny",
        run: deny::run,
    },
    Stage {
        name: "examples",
        run: examples,
    },
    Stage {
        name: "scratch",
        run: scratch::run,
    },
    Stage {
        name: "readme",
        run: readme::run,
    },
];

/// The stage that brings up the servers of other systems. Without it their tests are skipped.
const ENGINES: &str = "engines";

/// Short for `--skip engines`.
const NO_ENGINES: &str = "--no-engines";

/// How a stage ended.
enum Outcome {
    Passed,
    Failed(String),
    /// It could not run; why, and what would let it.
    Skipped(String),
    /// An earlier stage failed.
    NotRun,
}

impl From<Result<(), String>> for Outcome {
    fn from(result: Result<(), String>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(why) => Self::Failed(why),
        }
    }
}

/// What the stages share.
struct Context {
    root: PathBuf,
    workspace: Workspace,
    ci: bool,
    counts: Counts,
    servers: servers::Servers,
}

impl Context {
    /// A cargo command; in CI it refuses to change `Cargo.lock`. Its tests know where the servers are.
    fn cargo(&self, args: &[&str]) -> Command {
        let mut command = cargo(&self.root);
        command.args(&args[..1]);
        if self.ci {
            command.arg("--locked");
        }
        command.args(&args[1..]);
        self.servers.tell(&mut command);
        command
    }

    /// What is needed and absent: an error in CI, else the stage is skipped.
    fn absent(&self, what: &str, install: &str) -> Outcome {
        let why = format!("{what} is not installed ({install})");
        if self.ci {
            Outcome::Failed(why)
        } else {
            Outcome::Skipped(why)
        }
    }
}

/// Runs the stages that were asked for.
pub(crate) fn command(args: &[String]) -> Result<(), Failure> {
    if args == ["--list"] {
        for stage in &STAGES {
            println!("{}", stage.name);
        }
        return Ok(());
    }
    let (no_engines, args): (Vec<_>, Vec<_>) =
        args.iter().cloned().partition(|arg| arg == NO_ENGINES);
    let mut chosen = choose(&args)?;
    if !no_engines.is_empty() {
        leave_out_engines(&mut chosen);
    }
    let root = cargo::root()?;
    let mut context = Context {
        workspace: cargo::workspace(&root)?,
        root,
        ci: cargo::is_ci(),
        counts: Counts::default(),
        servers: servers::Servers::default(),
    };
    let mut results = run(&chosen, &mut context);
    if let Err(why) = context.servers.stop() {
        println!("failed: {why}");
        context.counts.failed += 1;
        results.push((ENGINES, Duration::ZERO, Outcome::Failed(why)));
    }
    print!("\n{}", table(&results));
    println!("{}", context.counts);
    let failed = results
        .iter()
        .any(|(_, _, outcome)| matches!(outcome, Outcome::Failed(_)));
    if failed {
        return Err(Failure::Reported);
    }
    Ok(())
}

/// A stage with what the command line says about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Choice {
    Run,
    /// `--skip`: shown and counted as skipped.
    Skip,
    /// Not in `--only`: not shown.
    Leave,
}

fn choose(args: &[String]) -> Result<Vec<Choice>, Failure> {
    let options = crate::options(args, &["--only", "--skip"])?;
    let index_of = |name: &str| {
        let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        names
            .iter()
            .position(|known| *known == name)
            .ok_or_else(|| {
                Failure::Usage(format!("no stage `{name}`; there are {}", names.join(", ")))
            })
    };
    let only = options.iter().any(|(option, _)| option == "--only");
    let mut choices = vec![if only { Choice::Leave } else { Choice::Run }; STAGES.len()];
    for (option, name) in &options {
        let index = index_of(name)?;
        if option == "--only" && choices[index] == Choice::Leave {
            choices[index] = Choice::Run;
        } else if option == "--skip" {
            choices[index] = Choice::Skip;
        }
    }
    Ok(choices)
}

/// Marks the stage as skipped, also where `--only` leaves it out: then its tests do not look for a server themselves.
fn leave_out_engines(choices: &mut [Choice]) {
    for (stage, choice) in STAGES.iter().zip(choices) {
        if stage.name == ENGINES {
            *choice = Choice::Skip;
        }
    }
}

type StageResult = (&'static str, Duration, Outcome);

fn run(choices: &[Choice], context: &mut Context) -> Vec<StageResult> {
    let mut results: Vec<StageResult> = Vec::new();
    let mut failed = false;
    for (stage, choice) in STAGES.iter().zip(choices) {
        let start = Instant::now();
        let outcome = match choice {
            Choice::Leave => continue,
            Choice::Skip => {
                if stage.name == ENGINES {
                    context.servers = servers::Servers::none();
                }
                Outcome::Skipped("asked for".to_owned())
            }
            Choice::Run if failed => Outcome::NotRun,
            Choice::Run => {
                println!("\n== {}", stage.name);
                (stage.run)(context)
            }
        };
        match &outcome {
            Outcome::Failed(why) => {
                println!("failed: {why}");
                failed = true;
                context.counts.stage_failed();
            }
            Outcome::Skipped(why) => {
                println!("skipped: {}: {why}", stage.name);
                context.counts.skipped += 1;
            }
            Outcome::Passed | Outcome::NotRun => {}
        }
        results.push((stage.name, start.elapsed(), outcome));
    }
    results
}

fn table(results: &[StageResult]) -> String {
    let mut text = format!("{:<10} {:>8}  result\n", "stage", "seconds");
    let mut total = Duration::ZERO;
    for (name, time, outcome) in results {
        total += *time;
        let (seconds, result) = match outcome {
            Outcome::Passed => (format!("{:.1}", time.as_secs_f64()), "ok".to_owned()),
            Outcome::Failed(why) => (
                format!("{:.1}", time.as_secs_f64()),
                format!("FAILED: {why}"),
            ),
            Outcome::Skipped(why) => ("-".to_owned(), format!("skipped: {why}")),
            Outcome::NotRun => ("-".to_owned(), "not run".to_owned()),
        };
        text.push_str(&format!("{name:<10} {seconds:>8}  {result}\n"));
    }
    text.push_str(&format!("{:<10} {:>8.1}\n", "total", total.as_secs_f64()));
    text
}

fn tidy_stage(context: &mut Context) -> Outcome {
    match tidy::run(&context.root) {
        Ok(0) => Outcome::Passed,
        Ok(count) => Outcome::Failed(format!("{count} finding(s)")),
        Err(why) => Outcome::Failed(why),
    }
}

fn fmt(context: &mut Context) -> Outcome {
    // `cargo fmt` knows no `--locked`.
    let mut command = cargo(&context.root);
    if !answers(command.args(["fmt", "--version"])) {
        return context.absent("rustfmt", "rustup component add rustfmt");
    }
    let mut command = cargo(&context.root);
    counts::succeed(command.args(["fmt", "--all", "--check"])).into()
}

fn clippy(context: &mut Context) -> Outcome {
    let mut command = cargo(&context.root);
    if !answers(command.args(["clippy", "--version"])) {
        return context.absent("clippy", "rustup component add clippy");
    }
    let args = ["clippy", "--workspace", "--all-targets", FULL];
    let mut command = context.cargo(&args);
    counts::succeed(command.args(["--", "-D", "warnings"])).into()
}

fn tests(context: &mut Context) -> Outcome {
    let args = [
        "test",
        "--workspace",
        "--all-targets",
        FULL,
        "--no-fail-fast",
    ];
    let mut command = context.cargo(&args);
    context.counts.run_tests(&mut command).into()
}

fn doctests(context: &mut Context) -> Outcome {
    let mut command = context.cargo(&["test", "--workspace", "--doc", FULL, "--no-fail-fast"]);
    context.counts.run_tests(&mut command).into()
}

/// Libraries only: the program `strait` and the library `strait` would write the same pages.
fn docs(context: &mut Context) -> Outcome {
    let mut command = context.cargo(&["doc", "--workspace", "--lib", FULL, "--no-deps"]);
    counts::succeed(command.env("RUSTDOCFLAGS", "-D warnings")).into()
}

/// Each published crate alone, without features, with its default ones, and with each by itself: what another one's
/// features switch on must not hide what it forgot to ask for.
fn features(context: &mut Context) -> Outcome {
    let members = context.workspace.members.iter();
    for member in members.filter(|member| member.published) {
        for set in feature_sets(member) {
            let mut command = context.cargo(&["check", "-p", &member.name]);
            if let Err(why) = counts::succeed(command.args(&set)) {
                return Outcome::Failed(format!("{} {}: {why}", member.name, set.join(" ")));
            }
        }
    }
    Outcome::Passed
}

/// The arguments that stand for the combinations that matter. All features together are what the tests are built with.
fn feature_sets(member: &cargo::Member) -> Vec<Vec<String>> {
    let none = || "--no-default-features".to_owned();
    let mut sets = vec![vec![none()]];
    if member.has_default_features {
        sets.push(Vec::new());
    }
    let single = member.features.iter().filter(|name| *name != "full");
    sets.extend(single.map(|name| vec![none(), format!("--features={name}")]));
    sets
}

/// Runs each example program as a reader would, in an empty directory.
fn examples(context: &mut Context) -> Outcome {
    for member in &context.workspace.members {
        for name in &member.examples {
            println!("example {name} of {}", member.name);
            // Built before by the stage `tests`, with the same features; then this costs nothing.
            let args = ["build", "--workspace", FULL, "--example", name];
            let built = counts::succeed(&mut context.cargo(&args));
            let file = context.workspace.target.join("debug/examples").join(name);
            let ended = built.and_then(|()| program::run_in_empty_dir(&file));
            if let Err(why) = ended {
                return Outcome::Failed(format!("example {name}: {why}"));
            }
        }
    }
    Outcome::Passed
}

/// Whether a program is there and says its version.
fn answers(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn stages_are_chosen_by_name() {
        let count = |line: &str, choice: Choice| {
            let choices = choose(&words(line)).unwrap_or_default();
            choices.iter().filter(|found| **found == choice).count()
        };
        assert_eq!(count("", Choice::Run), STAGES.len());
        assert_eq!(count("--only fmt --only=tidy", Choice::Run), 2);
        assert_eq!(count("--only fmt", Choice::Leave), STAGES.len() - 1);
        assert_eq!(count("--skip docs", Choice::Skip), 1);
        assert_eq!(count("--skip docs", Choice::Run), STAGES.len() - 1);
        let mut choices = choose(&words("--only tests")).unwrap_or_default();
        leave_out_engines(&mut choices);
        assert_eq!(choices.iter().filter(|c| **c == Choice::Skip).count(), 1);
        assert!(matches!(
            choose(&words("--only format")),
            Err(Failure::Usage(_))
        ));
    }

    #[test]
    fn each_feature_is_checked_by_itself() {
        let member = cargo::Member {
            name: "strait".to_owned(),
            published: true,
            has_default_features: true,
            features: ["embedded", "full", "kafka"].map(str::to_owned).to_vec(),
            dependencies: Vec::new(),
            examples: Vec::new(),
        };
        let sets: Vec<String> = feature_sets(&member).iter().map(|s| s.join(" ")).collect();
        let expected = [
            "--no-default-features",
            "",
            "--no-default-features --features=embedded",
            "--no-default-features --features=kafka",
        ];
        assert_eq!(sets, expected);
    }

    #[test]
    fn the_table_names_every_stage_and_its_end() {
        let second = Duration::from_secs(1);
        let text = table(&[
            ("fmt", second, Outcome::Passed),
            ("clippy", second, Outcome::Failed("exit 101".to_owned())),
            ("deny", second, Outcome::Skipped("no cargo-deny".to_owned())),
            ("docs", second, Outcome::NotRun),
        ]);
        for line in [
            "fmt             1.0  ok",
            "clippy          1.0  FAILED: exit 101",
            "deny              -  skipped: no cargo-deny",
            "docs              -  not run",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
