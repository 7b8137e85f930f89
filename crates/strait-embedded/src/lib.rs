//! The embedded engine of strait: one commit log on one machine, fsynced before every acknowledgement.
//!
//! [`Embedded::open`] opens a data directory, [`Embedded::memory`] the same engine on a disk of memory. Both are a
//! [`strait_core::Engine`]; users reach it through the facade crate `strait`.
//!
//! ```
//! use strait_core::events::{Append, Expected, TopicSpec};
//! use strait_core::{Engine, NewRecord, Records};
//! use strait_embedded::{Embedded, Options};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let engine = Embedded::memory(Options::default())?;
//! let events = engine.lanes().events.expect("the embedded engine has an events lane");
//! events.declare(TopicSpec::new("orders".parse()?)).await?;
//! let records = Records::one(&[], NewRecord { body: b"42", ..Default::default() })?;
//! let (topic, expected) = ("orders".parse()?, Expected::Any);
//! let sent = events.append(Append { topic, partition: 0, records, expected, dedupe: false }).await?;
//! assert_eq!(sent.first.offset(), 0);
//! # Ok::<(), strait_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! # How it works
//!
//! Callers hand commands to one writer thread. It decides them against the state in memory, applies the resolved
//! operations, writes them as one group of the commit log with one call, fsyncs, and only then answers. A housekeeper
//! thread prepares segments, writes indexes and checkpoints, and applies retention. Readers and consumers read
//! the log on their own threads.
#![deny(unsafe_code)]

mod again;
mod backup;
mod by_key;
mod cleaner;
mod codec;
mod command;
mod consumer;
mod dead;
#[doc(hidden)]
pub mod disk;
mod engine;
mod events;
mod extents;
mod fingerprint;
mod gauges;
mod housekeeper;
mod index;
mod inspect;
mod metrics;
mod open;
mod ops;
mod options;
mod prepare;
mod read_only;
mod reading;
mod shared;
mod standing;
mod state;
#[doc(hidden)]
pub mod stepped;
mod storage;
mod turn;
mod verify;
mod whereabouts;
mod writer;

pub use backup::{Restored, restore};
pub use engine::{Embedded, Opened};
pub use inspect::{FORMAT, FileInfo, Inspection, check_formats, files, inspect};
pub use options::Options;
pub use verify::{Damage, Report, verify};
