//! What a strait lane *is*: cases that every engine runs, and a checker for histories of concurrent work.
//!
//! The prose on [`strait_core::Engine`] and on a lane's trait is the contract; each case here holds one sentence of it
//! against an engine. What an engine's capabilities do not offer is left out, and for it a reverse case asks all the
//! same: the answer must be `Unsupported`, never silence.
//!
//! An engine's crate runs the suite from a test file of its own (`harness = false` in its `Cargo.toml`):
//!
//! ```no_run
//! use std::process::ExitCode;
//! use strait_conformance::{Harness, Target};
//! # async fn open() -> strait_core::Result<std::sync::Arc<dyn strait_core::Engine>> {
//! #     Err(strait_core::Error::closed("the engine of this example"))
//! # }
//!
//! fn main() -> ExitCode {
//!     strait_conformance::events(Target::new("mine", || async { Ok(Harness::new(open().await?)) }))
//! }
//! ```
//!
//! A case fails with the file and line in this crate that names the promise, the engine's answer, and never by a panic.
#![forbid(unsafe_code)]

#[macro_use]
mod fault;
mod cases;
pub mod history;
mod lab;
mod member;
mod parked;
mod proxy;
mod rng;
mod seeds;
mod server;
mod storm;
mod suite;
mod target;

pub use fault::{Check, Fault};
pub use parked::parked;
pub use proxy::Proxy;
pub use seeds::run_seeds;
pub use server::{client, server};
pub use storm::storm;
pub use suite::{Suite, event_cases, events, run_event_case};
pub use target::{Harness, Restart, Target};
