//! Redis (and Valkey) as an engine of strait: the events lane over Redis Streams.
//!
//! A topic is one stream for each partition: that of partition 0 has the topic's name, so that any program that uses `XADD` and
//! `XREADGROUP` works with the topic of its name; partition `p` above it is `{topic}:p`. All keys of a topic share one slot of a
//! cluster. What is not a stream lies under `strait:{topic}:`. Positions are stream ids, both halves.
//!
//! ```no_run
//! use strait_core::{Engine, Health};
//! use strait_redis::{Options, Redis};
//! # async fn open() -> strait_core::Result<()> {
//! let redis = Redis::open(Options::from_url("redis://127.0.0.1:6379")?).await?;
//! assert_eq!(*redis.health().borrow(), Health::Up);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod append;
mod engine;
mod entry;
mod events;
mod fault;
mod group;
mod keys;
mod ledger;
mod link;
mod options;
mod read;
mod reply;
mod script;
mod topics;
mod unit;

pub use engine::Redis;
pub use options::Options;
pub use strait_core::Secret;
