//! What users rely on, on the engine that ships.

mod app;
mod appending;
mod events;
mod failing;
mod guarantees;
mod leases;
mod messages;
mod opening;
mod order;
mod support;
mod ui;
