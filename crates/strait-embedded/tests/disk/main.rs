//! The disk layer from outside: what an acknowledgement promises, on disks that lose, tear, reorder, fail and fill up.

#![allow(clippy::unwrap_used)]

mod codec;
mod directory;
mod log;
mod real;
mod simulation;
mod snapshot;
mod support;
