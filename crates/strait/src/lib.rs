//! Async messaging for Rust services: five lanes, one atomic commit, embedded by default.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod config;
mod events;
mod failure;
pub mod message;
pub mod metrics;
mod open;
mod out;
mod target;
mod trace;

use std::time::Duration;

pub use events::{
    AppendAll, AppendOne, Appended, DeadLetters, Event, Events, Group, HeaderValue, KeyReader,
    Reader, Topic, TopicBuilder,
};
pub use failure::{Failure, Handled, OrFail};
pub use message::{Key, Message, Raw};
pub use open::Strait;
pub use out::Out;
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
