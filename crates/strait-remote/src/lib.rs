//! The `strait://` protocol: an engine in one process, used from another.
//!
//! * [`Listener`] serves any engine on the socket of its data directory; [`serve`] does it over any stream.
//! * [`Client`] is an engine like any other whose work is done at the other end.
//! * [`Reconnect`] keeps such an engine when the process at the other end goes away: it connects again, repeats what can be
//!   repeated, and lets consumers join again.
//!
//! # The protocol, version 1
//!
//! A stream of frames, `len u32 | kind u8 | id u64 | payload`, little endian. The client greets (`hello`: magic
//! `strait://`, the versions it speaks, who it is), the server answers (`welcome`: the version, limits, the engine, its
//! capabilities) or refuses. Then:
//!
//! * Every request has an id, and its answer has the same. Many are under way at the same time, and answers come in any
//!   order. `cancel` says that nobody waits for an answer any more.
//! * A consumer is opened by `join`. The server pushes its arrivals as far as `credit` allows, which the client grants as
//!   its consumer is polled: what waits at the client is never more than one poll has asked for. Leases of what waits are
//!   extended, and it is released, with no attempt spent, when its partition is revoked or the consumer leaves.
//! * A receipt travels as its identity. The server keeps the receipts that a connection has out; those of other
//!   connections, and those it does not know, answer `Fenced`.
//! * When a connection ends, its consumers leave and its receipts are abandoned. A server asks a silent client that has
//!   consumers for a sign of life (`ping`) and ends the connection after the shortest lease of them; a client that waits
//!   for something does the same with a silent server.
//!
//! Batches of records travel in the layout of `strait_core::records`, without being encoded again. Unknown versions and
//! kinds of frames are refused by name.
#![forbid(unsafe_code)]

mod client;
mod frame;
mod hello;
mod inspect;
mod listener;
mod outbox;
mod reconnect;
mod server;
mod socket;
mod wire;

pub use client::{Client, ClientOptions};
pub use inspect::inspect;
pub use listener::{ListenOptions, Listener};
pub use reconnect::{Connect, Connected, Reconnect, ReconnectOptions};
pub use server::serve;
pub use socket::{SwitchedOff, switch_off, switched_off_by};
