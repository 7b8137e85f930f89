//! The embedded engine with its threads, on real files and on disks that fail: what a user relies on beyond the
//! simulation.
//!
//! `STRAIT_KILL_ROUNDS=n` sets how often the loop kills its child.

mod backup;
mod bad_input;
mod bounds;
mod by_key;
mod cleaner;
mod dead;
mod fixtures;
mod full_disk;
mod idle;
mod kill;
mod order;
mod poison;
mod read_only;
mod retention;
mod storage;
mod support;
mod trace;
mod watched;
