//! Runs the cases: picks them by capability, gives each its own engine and runtime, and reports as libtest does.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use strait_core::events::Caps;
use strait_core::{Engine, Error, Kind};

use crate::cases::{self, Case};
use crate::fault::{Check, Fault};
use crate::lab::Lab;
use crate::target::{Harness, Target};

/// After so many times the target's patience a case has failed: a call that never answers would hang for ever.
const CASE_LIMIT: u32 = 4;
/// Cases wait more than they work, so more run at once than there are cores.
const THREADS: usize = 4;

/// Runs the suite of the events lane on an engine: the `main` of a test with `harness = false`.
pub fn events(target: Target) -> ExitCode {
    Suite::new().events(target).run()
}

/// Tests of one binary: suites of lanes, and tests of the engine's own.
#[derive(Debug, Default)]
pub struct Suite {
    trials: Vec<Trial>,
}

impl Suite {
    /// No test yet.
    pub fn new() -> Self {
        Suite::default()
    }

    /// The cases of the events lane that apply to the target, named `<target>::<case>`. Those that do not are told on
    /// standard error, in one line for each reason.
    pub fn events(mut self, target: Target) -> Self {
        let (caps, harness) = match runtime().and_then(|rt| rt.block_on(probe(&target))) {
            Ok(probed) => probed,
            Err(fault) => {
                let name = format!("{}::opens", target.name());
                self.trials
                    .push(Trial::test(name, move || Err(Failed::from(fault))));
                return self;
            }
        };
        let mut left_out: BTreeMap<String, usize> = BTreeMap::new();
        for case in cases::all().into_iter().filter(|case| !case.is_void(&caps)) {
            match case.left_out(&caps, &harness) {
                Some(why) => *left_out.entry(why).or_default() += 1,
                None => self.trials.push(trial(&target, case)),
            }
        }
        for (why, count) in left_out {
            eprintln!("{}: cases left out: {count}, {why}", target.name());
        }
        self
    }

    /// A test of the engine's own in the same binary.
    pub fn test(
        mut self,
        name: impl Into<String>,
        test: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Self {
        self.trials
            .push(Trial::test(name, move || test().map_err(Failed::from)));
        self
    }

    /// Runs the tests that the command line asks for, in libtest's manner.
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads.get_or_insert(THREADS);
        libtest_mimic::run(&arguments, self.trials).exit_code()
    }
}

fn trial(target: &Target, case: Case) -> Trial {
    let name = format!("{}::{}", target.name(), case.name);
    let target = target.clone();
    Trial::ignorable_test(name, move || match run(&target, &case) {
        Ok(()) => Ok(Completion::Completed),
        Err(fault) if fault.is_skip() => Ok(Completion::ignored_with(fault)),
        Err(fault) => Err(Failed::from(fault)),
    })
}

/// The names of all cases of the events lane.
pub fn event_cases() -> Vec<&'static str> {
    cases::all().into_iter().map(|case| case.name).collect()
}

/// Runs one case of the events lane, whatever the capabilities say; a skip is an `Err` for which
/// [`Fault::is_skip`] holds.
pub fn run_event_case(target: &Target, name: &str) -> Check {
    let found = cases::all().into_iter().find(|case| case.name == name);
    let case = found.ok_or_else(|| Fault::new(format!("there is no case `{name}`")))?;
    run(target, &case)
}

fn run(target: &Target, case: &Case) -> Check {
    runtime()?.block_on(async {
        let lab = Lab::open(target, case.name).await?;
        let ending = lab.clone();
        let limit = target.patience * CASE_LIMIT;
        let ended = tokio::time::timeout(limit, (case.run)(lab)).await;
        ending.end().await;
        ended.unwrap_or_else(|_| {
            Err(Fault::new(format!(
                "it did not end within {limit:?}: a call does not answer"
            )))
        })
    })
}

async fn probe(target: &Target) -> Check<(Caps, Harness)> {
    let harness = target.fresh().await?;
    let engine: Arc<dyn Engine> = harness.engine.clone();
    let lane = engine.lanes().events;
    let caps = lane.map(|events| events.caps());
    engine.close(Duration::from_secs(1)).await;
    let missing = || Error::new(Kind::Unsupported, "the engine offers no events lane");
    Ok((caps.ok_or_else(missing)?, harness))
}

fn runtime() -> Check<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::new(format!("no runtime for the case: {error}")))
}
