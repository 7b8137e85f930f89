//! Kafka as an engine of strait: the events lane over librdkafka.
//!
//! Topics and partitions are Kafka's own, positions are its offsets, keys go where Kafka's Java client puts them. What a
//! message is beside key and body goes into headers, by the Kafka binding of CloudEvents in binary mode, so that other
//! programs read what this engine writes; and what they write is read, headers or not.
//!
//! ```no_run
//! use strait_core::{Engine, Health};
//! use strait_kafka::{Kafka, Options};
//! # async fn open() -> strait_core::Result<()> {
//! let kafka = Kafka::open(Options::from_url("kafka://127.0.0.1:9092")?).await?;
//! assert_eq!(*kafka.health().borrow(), Health::Up);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod dead;
mod engine;
mod envelope;
mod events;
mod fault;
mod group;
mod link;
mod options;
mod produce;
mod read;
mod threads;
mod topics;
mod transact;
mod units;

pub use engine::Kafka;
pub use options::{GroupProtocol, Options, Security};
pub use strait_core::Secret;

/// What is left of the longest message for its key, its headers and the envelope.
pub(crate) const HEADROOM: usize = 32 << 10;
