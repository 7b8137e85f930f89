//! Several processes of one engine over the protocol, in one thread and in virtual time, from a seed: links that are slow,
//! stall, lose the answers or are cut, processes and an owner that are stopped (SIGSTOP) or killed, members that are slow
//! and do not extend their leases. The record of what each of them saw is held against what is stored.
//!
//! A failure prints its seed, the faults and the story. `STRAIT_SIM_FROM=n STRAIT_SIM_SEEDS=1` replays one run; more seeds:
//! `cargo xtask sim --seeds N`.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

mod member;
mod network;
mod owner;
mod process;
mod tasks;
mod world;

use world::World;

const SEEDS: u64 = 300;
const THREADS: u64 = 2;

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

fn try_seed(seed: u64, loud: bool) -> Result<u64, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, loud))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let notes = NOTES.with_borrow(|(_, notes)| notes.join("\n  "));
        format!(
            "seed {seed}: {}\nthe faults:\n  {notes}\nreplay: STRAIT_SIM_FROM={seed} STRAIT_SIM_SEEDS=1",
            text.unwrap_or_default(),
        )
    })
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number of seeds"))
}

#[test]
fn simulated_processes_share_an_engine() {
    let from = number("STRAIT_SIM_FROM", 0);
    let seeds = number("STRAIT_SIM_SEEDS", SEEDS);
    let keep_on = std::env::var_os("STRAIT_SIM_KEEP_ON").is_some();
    let loud = seeds == 1;
    let (next, failed) = (AtomicU64::new(from), AtomicBool::new(false));
    let begun = Instant::now();
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
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS.min(seeds)).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
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

/// The same seed makes the same run, or no failure could be replayed.
#[test]
fn a_simulated_seed_is_one_run() {
    for seed in 1_000_000..1_000_006 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
