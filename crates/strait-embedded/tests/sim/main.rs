//! The embedded engine under every fault that a disk, a clock and a process can have, from a seed, beside a plain model.
//!
//! A failure prints its seed and the last steps in words. `STRAIT_SIM_FROM=n STRAIT_SIM_SEEDS=1` replays one run with
//! all its steps; more seeds: `cargo xtask sim --seeds N`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

mod audit;
mod backup;
mod consume;
mod dead_work;
mod drain;
mod model;
mod ops;
mod places;
mod races;
mod steps;
mod trace;
mod world;

use world::World;

const SEEDS: u64 = 10_000;
const THREADS: u64 = 2;

/// One run. Gives the hash of all its steps.
fn run(seed: u64, loud: bool) -> u64 {
    trace::begin(loud);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime of one thread");
    let _entered = runtime.enter();
    let mut world = World::new(seed);
    let steps = 60 + world.rng.below(140);
    for _ in 0..steps {
        world.step();
    }
    world.finish();
    trace::hash()
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number of seeds"))
}

/// Runs a seed; the failure in words.
fn try_seed(seed: u64, loud: bool) -> Result<u64, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, loud))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        format!(
            "seed {seed}: {}\nthe last steps:\n{}replay: STRAIT_SIM_FROM={seed} STRAIT_SIM_SEEDS=1",
            text.unwrap_or_default(),
            trace::last()
        )
    })
}

#[test]
fn what_was_acknowledged_is_there() {
    let (from, seeds) = (
        number("STRAIT_SIM_FROM", 0),
        number("STRAIT_SIM_SEEDS", SEEDS),
    );
    let keep_on = std::env::var_os("STRAIT_SIM_KEEP_ON").is_some();
    let loud = seeds == 1;
    let next = AtomicU64::new(from);
    let failed = AtomicBool::new(false);
    let begun = Instant::now();
    if !loud {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let failures: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut failures = Vec::new();
            while keep_on || !failed.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= from + seeds {
                    break;
                }
                if let Err(failure) = try_seed(seed, loud) {
                    failed.store(true, Ordering::Relaxed);
                    failures.push(failure);
                }
            }
            failures
        };
        let threads: Vec<_> = (0..THREADS.min(seeds)).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a thread of the test"))
            .collect()
    });
    let _ = std::panic::take_hook();
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

/// The same seed makes the same steps, or no failure could be replayed.
#[test]
fn a_seed_is_one_run() {
    for seed in 1_000_000..1_000_012 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
