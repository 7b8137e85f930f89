//! The contract of strait, in five words:
//!
//! an **engine** offers **lanes**; a lane opens **consumers**; a consumer yields **deliveries**; a delivery ends in one
//! **verdict**. Verdicts and what they release are committed in [units](Unit).
//!
//! This crate has no client and no runtime. Users find it re-exported by `strait`; authors of engines start at
//! [`Engine`] and at a lane's trait, [`events::Events`].
#![forbid(unsafe_code)]

pub mod caps;
mod chunk;
mod delivery;
mod engine;
pub mod error;
pub mod events;
mod name;
mod partition;
mod ranges;
pub mod records;
mod secret;
mod time;
mod unit;

pub use caps::{Gap, Needs, Offer};
pub use chunk::{BadPosition, Chunk, ChunkBuilder, Item, Message, Position, Span};
pub use delivery::{Abandoned, Arrival, Delivery, Fence, Receipt, Shard, Verdict};
pub use engine::{
    Backup, Consumer, Control, Engine, EngineId, Fut, Growth, Health, Lanes, Source, Storage,
    fenced,
};
pub use error::{Effect, Error, Kind, Result, codes};
pub use name::Name;
pub use partition::{murmur2, partition_of};
pub use ranges::RangeSet;
pub use records::{
    Attr, Batch, Limits, MessageId, NewRecord, Record, RecordIter, Records, RecordsBuilder, crc32c,
};
pub use secret::Secret;
pub use time::{Clock, SystemClock, Timestamp};
pub use unit::{Claim, ClaimToken, Claimed, Once, OnceEnd, Outcome, Outgoing, Sent, Unit};
