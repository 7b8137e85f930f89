//! Several processes of one engine over the protocol, in one thread and in virtual time, from a seed: links that are slow,
//! stall, lose the answers or are cut, processes and an owner that are stopped (SIGSTOP) or killed, members that are slow
//! and do not extend their leases. The record of what each of them saw is held against what is stored.
//!
//! A failure prints its seed, the faults and the story. `STRAIT_SIM_FROM=n STRAIT_SIM_SEEDS=1` replays one run; more seeds:
//! `cargo xtask sim --seeds N`.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};

use strait_conformance::run_seeds;

mod member;
mod network;
mod owner;
mod process;
mod tasks;
mod world;

use world::World;

const SEEDS: u64 = 300;

thread_local! {
    /// The faults of the run on this thread, in words.
    static NOTES: RefCell<(bool, Vec<String>)> = const { RefCell::new((false, Vec::new())) };
}

/// Adds a fault to the notes of the run.
fn note(text: String) {
    NOTES.with_borrow_mut(|(loud, notes)| {
        if *loud {
            eprintln!("{text}");
        }
        notes.push(text);
    });
}

/// One run. Gives the hash of all that was seen in it.
fn run(seed: u64, loud: bool) -> u64 {
    NOTES.set((loud, Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let events = runtime.block_on(async {
        let mut world = World::new(seed).await;
        world.storm().await;
        world.judge().await
    });
    let mut hasher = DefaultHasher::new();
    for event in events {
        format!("{event:?}").hash(&mut hasher);
    }
    NOTES.with_borrow(|(_, notes)| notes.hash(&mut hasher));
    hasher.finish()
}

#[test]
fn simulated_processes_share_an_engine() {
    let faults = || {
        let notes = NOTES.with_borrow(|(_, notes)| notes.join("\n  "));
        format!("the faults:\n  {notes}\n")
    };
    run_seeds(SEEDS, run, faults);
}

/// The same seed makes the same run, or no failure could be replayed.
#[test]
fn a_simulated_seed_is_one_run() {
    for seed in 1_000_000..1_000_006 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
