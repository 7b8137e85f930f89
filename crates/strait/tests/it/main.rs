//! What users rely on, on the engine that ships.
// A test fails by a panic.
#![allow(clippy::unwrap_used)]

mod across;
mod alarms;
mod app;
mod appending;
#[cfg(all(feature = "kafka", feature = "redis"))]
mod capabilities;
mod events;
mod failing;
mod guarantees;
mod leases;
mod messages;
mod mirrors;
mod observed;
mod opening;
mod order;
mod stress;
mod support;
mod ui;
