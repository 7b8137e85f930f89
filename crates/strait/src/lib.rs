//! Async messaging for Rust services: durable, replayable events with no server, and one atomic commit for what a
//! handler consumes, sends and remembers.
//!
//! # Five words
//!
//! - An **engine** stores messages and decides what is true. [`Strait`] holds one: [`Strait::embedded`] keeps a directory
//!   on this machine, [`Strait::memory`] is the same engine without a disk, [`Strait::open`] takes an address or a
//!   [configuration file](config).
//! - An engine offers **lanes**, one per way of messaging. [`Strait::events`] is the lane for facts that happened: a
//!   [`Topic`] keeps them in partitions, in order per key, for many readers, for as long as you say.
//! - A lane opens **consumers**. On the events lane that is a handler on a [`Group`]: its members share the partitions, and
//!   each message is handled by one of them.
//! - A consumer yields **deliveries**: a message and the right to end it, once. A handler sees them as its arguments.
//! - A delivery ends in one **verdict**: `Ok(())` is done; an error by `?` is "again, later"; [`or_dead`](OrFail::or_dead)
//!   gives up, and the message goes to the dead letters with its reason. Verdict, effects and what was remembered are
//!   committed together or not at all.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use strait::{Handled, Message, Out, Start, State, Strait, Topic};
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[message("order.placed.v1", key = order)]
//! struct OrderPlaced { order: u64, cents: u64 }
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[message("order.billed.v1", key = order)]
//! struct OrderBilled { order: u64 }
//!
//! /// A delivery, as a handler sees it; what it returns is the verdict.
//! async fn bill(placed: OrderPlaced, billed: State<Topic<OrderBilled>>, out: Out) -> Handled {
//!     // Leaves with the `Ok`, in one commit: the order is done and its bill is there, or neither.
//!     out.append(&billed, &OrderBilled { order: placed.order })?;
//!     Ok(())
//! }
//!
//! # #[cfg(feature = "embedded")]
//! #[tokio::main]
//! async fn main() -> strait::Result<()> {
//!     let strait = Strait::memory()?;                                         // the engine
//!     let events = strait.events();                                           // a lane of it
//!     let orders = events.topic::<OrderPlaced>("orders").await?;
//!     let billed = events.topic::<OrderBilled>("billed").await?;
//!     orders.append(&OrderPlaced { order: 42, cents: 990 }).await?;           // durable when this returns
//!
//!     let consumer = orders.group("billing").each(bill);
//!     let mut bills = billed.read(billed.partition_of(b"42"), Start::Earliest);
//!     let first_bill = async {
//!         let event = bills.next().await.ok().flatten();
//!         assert_eq!(event.map(|event| event.message.order), Some(42));
//!     };
//!     strait.app().state(billed.clone()).serve(consumer).run_until(first_bill).await?;
//!     strait.close().await;
//!     Ok(())
//! }
//! # #[cfg(not(feature = "embedded"))]
//! # fn main() {}
//! ```
//!
//! # Handlers
//!
//! A handler is a plain async function. Its first argument is the message ([`Raw`] for bytes without a type), and after it
//! come up to eight of these, in any order; [`Extract`] makes more of them. [`Group::each_batch`] takes many messages
//! together and wants a verdict for each.
//!
//! | argument | is |
//! |---|---|
//! | [`State<T>`](State) | what was given to the app with [`state`](App::state); if it is missing the app does not start |
//! | [`Out`] | where effects go: held until the verdict, gone if it is not `Ok` |
//! | [`Meta`] | id, key, kind, time, headers, topic, position, trace |
//! | [`Attempt`] | the number of this attempt, 1 for the first |
//! | [`Deadline`] | when the handling is cut off, if its consumer has a [`timeout`](Consume::timeout) |
//! | [`Cancel`] | fires when the right to the message is lost |
//!
//! A message that is tried again is *parked* in the engine: later ones of its key wait behind it, other keys go on. How
//! long and how often, [`Backoff`] says. Deaths of the process and panics count as attempts, so a poisonous message
//! ends in [`Group::dead_letters`], and nothing is dropped silently. A handler that blocks its thread or sleeps for an
//! hour keeps its message: leases are extended on a thread of their own.
//!
//! # Guarantees
//!
//! | word | a handler may run again | its effects in the same engine | for |
//! |---|---|---|---|
//! | none | after a crash or a lost lease | exactly once | nearly everything |
//! | [`at_least_once`](Consume::at_least_once) | yes | may leave again | refreshing a cache |
//! | [`once`](Consume::once) | as above, but of all messages of one id, one has effects | exactly once | what others may send twice |
//! | [`at_most_once`](Consume::at_most_once) | never, when it may be done | at most once | an e-mail |
//!
//! Whatever the word, calls to the outside take [`Meta::id`] as their idempotency key: it is the same in every attempt.
//! What an engine cannot do is refused when the app starts, in one error that lists all of it.
//!
//! # Errors, and futures that are dropped
//!
//! Every operation fails with an [`Error`]: a [`Kind`], often one of the stable [`codes`], whether trying again helps,
//! whether it may have happened all the same, and what to do next. A handler's [`Failure`] is made of any error by `?`.
//!
//! A future that is dropped before its first poll has done nothing. An append that is dropped later may or may not have
//! happened: repeat it with the same [`id`](AppendOne::id), which appends at most once. Reading is cancel-safe. A
//! [`Strait`] that is dropped without [`close`](Strait::close) loses nothing that was acknowledged.
//!
//! # Beneath
//!
//! It runs on [Tokio](https://docs.rs/tokio). `tracing` spans and `metrics` counters ([`metrics`]) are there and go nowhere
//! until the program installs a subscriber or recorder. [`core`] is the contract that engines fulfil; [`Strait::on`] takes
//! one that you made.
//!
//! The feature `embedded` (on unless switched off) is the embedded engine, `kafka` brings Kafka, `redis` Redis and Valkey, `full` all there is. An
//! address whose engine is not in the build is refused with the name of its feature.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod alarm;
mod app;
mod backoff;
pub mod config;
mod consume;
mod events;
mod extract;
mod failure;
mod guarantee;
mod handler;
pub mod message;
pub mod metrics;
pub mod mirror;
mod open;
mod out;
#[cfg(feature = "embedded")]
pub mod owner;
#[cfg_attr(not(feature = "embedded"), allow(dead_code))]
mod places;
mod report;
mod run;
mod target;
mod trace;

use std::time::Duration;

pub use alarm::Alarm;
pub use app::{App, Running, shutdown_signal};
pub use backoff::Backoff;
pub use consume::{Consume, Undecodable};
pub use events::{
    AppendAll, AppendOne, Appended, DeadLetters, Event, Events, Group, HeaderValue, KeyReader,
    Reader, Topic, TopicBuilder,
};
pub use extract::{
    Attempt, BatchContext, BatchExtract, Cancel, Context, Deadline, Extract, Meta, Setup, State,
};
pub use failure::{Failure, Handled, OrFail};
pub use guarantee::Idempotency;
pub use handler::{Arguments, Batch, BatchArguments, BatchHandler, BatchItem, Handler, Verdicts};
pub use message::{Key, Message, Raw};
pub use open::Strait;
pub use out::Out;
pub use report::{ConsumerReport, Feature, Report};
pub use strait_core as core;
pub use strait_core::events::{
    AfterDead, Compaction, Durability, GroupChange, GroupInfo, Order, Override, Retention, Start,
};
pub use strait_core::{
    Engine, Error, Kind, Limits, Name, Position, Records, RecordsBuilder, Result, Timestamp, codes,
};
#[cfg(feature = "embedded")]
pub use strait_embedded as embedded;
#[cfg(feature = "kafka")]
pub use strait_kafka as kafka;
/// Makes a type a [`trait@Message`] with JSON bodies.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use strait::Message;
///
/// #[derive(Message, Serialize, Deserialize)]
/// #[message("order.placed.v1", key = order)]
/// struct OrderPlaced { order: u64, cents: u64 }
///
/// #[derive(Message)]
/// enum OrderEvent {
///     #[message("order.placed.v1", key = order)]
///     Placed(OrderPlaced),
///     #[message("order.cancelled.v1", key = order)]
///     Cancelled { order: u64, why: String },
/// }
///
/// let event = OrderEvent::Cancelled { order: 42, why: "no stock".into() };
/// assert_eq!(event.kind(), Some("order.cancelled.v1"));
/// assert_eq!(event.key().as_deref(), Some(&b"42"[..]));
/// ```
///
pub use strait_macros::Message;
#[cfg(feature = "redis")]
pub use strait_redis as redis;
pub use trace::{BadTraceparent, TraceContext};

/// So many seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many minutes.
pub const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes.saturating_mul(60))
}

/// So many hours.
pub const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours.saturating_mul(3_600))
}

/// So many days.
pub const fn days(days: u64) -> Duration {
    Duration::from_secs(days.saturating_mul(86_400))
}

/// The README's program compiles and runs.
#[cfg(all(doctest, feature = "embedded"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
