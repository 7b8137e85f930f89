//! A simulation over many seeds: how many, from which on, and what a failure says.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const THREADS: u64 = 2;

/// Runs a simulation for `default` seeds from 0 on, on two threads, until one fails; `run` gets the seed, and whether it is the
/// only one and says all that it does; what it gives is not looked at. `story` tells what the last run on its thread did.
///
/// `STRAIT_SIM_SEEDS` says another number, `STRAIT_SIM_FROM` the first one, and with `STRAIT_SIM_KEEP_ON` failures do not end it.
///
/// # Panics
/// When a seed failed: with what it panicked with, its story, and how to run it again.
pub fn run_seeds<T>(
    default: u64,
    run: impl Fn(u64, bool) -> T + Sync,
    story: impl Fn() -> String + Sync,
) {
    let (from, seeds) = (
        number("STRAIT_SIM_FROM", 0),
        number("STRAIT_SIM_SEEDS", default),
    );
    let keep_on = std::env::var_os("STRAIT_SIM_KEEP_ON").is_some();
    let (next, failed) = (AtomicU64::new(from), AtomicBool::new(false));
    let begun = Instant::now();
    let work = || {
        let mut failures = Vec::new();
        while keep_on || !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                break;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed, seeds == 1))) {
                failed.store(true, Ordering::Relaxed);
                let why = panic.downcast_ref::<String>().map(String::as_str);
                let why = why.or_else(|| panic.downcast_ref::<&str>().copied());
                failures.push(format!(
                    "seed {seed}: {}\n{}replay: STRAIT_SIM_FROM={seed} STRAIT_SIM_SEEDS=1",
                    why.unwrap_or_default(),
                    story()
                ));
            }
        }
        failures
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS.min(seeds)).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("failures are caught"))
            .collect()
    });
    let took = begun.elapsed();
    eprintln!(
        "{seeds} seeds from {from} in {took:.1?}: {:.0} a second",
        seeds as f64 / took.as_secs_f64()
    );
    assert!(
        failures.is_empty(),
        "{} of {seeds} seeds failed\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number of seeds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_that_fails_is_told_with_its_story() {
        let run = |seed, _| assert!(seed != 3, "three is wrong");
        let failed = catch_unwind(|| run_seeds(5, run, || "it was so\n".to_owned()));
        let text = failed.expect_err("the third fails");
        let text = text.downcast_ref::<String>().expect("a text");
        assert!(
            text.ends_with(
                "seed 3: three is wrong\nit was so\nreplay: STRAIT_SIM_FROM=3 STRAIT_SIM_SEEDS=1"
            ),
            "{text}"
        );
    }
}
