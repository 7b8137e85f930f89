//! Async messaging for Rust services: five lanes, one atomic commit, embedded by default.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

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
mod open;
mod out;
mod report;
mod run;
mod target;
mod trace;

use std::time::Duration;

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
pub use handler::{Batch, BatchHandler, BatchItem, Handler, Verdicts};
pub use message::{Key, Message, Raw};
pub use open::Strait;
pub use out::Out;
pub use report::{ConsumerReport, Feature, Report};
pub use strait_core as core;
pub use strait_core::events::{Durability, Order, Retention, Start};
pub use strait_core::{
    Engine, Error, Kind, Limits, Name, Position, Records, RecordsBuilder, Result, Timestamp, codes,
};
#[cfg(feature = "embedded")]
pub use strait_embedded as embedded;
pub use strait_macros::Message;
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
