//! The embedded engine under every fault that a disk, a clock and a process can have, from a seed, beside a plain model.
//!
//! A failure prints its seed and the last steps in words. `STRAIT_SIM_FROM=n STRAIT_SIM_SEEDS=1` replays one run with
//! all its steps; more seeds: `cargo xtask sim --seeds N`.

use strait_conformance::run_seeds;

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

#[test]
fn what_was_acknowledged_is_there() {
    let steps = || format!("the last steps:\n{}", trace::last());
    run_seeds(SEEDS, run, steps);
}

/// The same seed makes the same steps, or no failure could be replayed.
#[test]
fn a_seed_is_one_run() {
    for seed in 1_000_000..1_000_012 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
