//! Runs handlers: takes arrivals from an engine, keeps their order, ends each message with one verdict.
//!
//! One task per app member pumps arrivals ([`member`]), one per partition handles them ([`shard`]); no task and no
//! allocation per message. What may run when is decided in [`keys`], how it ends in [`settle`].

mod ending;
mod handle;
mod handling;
mod keys;
mod leases;
mod member;
mod port;
mod settle;
mod shard;
mod sinks;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use strait_core::{Engine, EngineId, Name};

pub(crate) use handle::{Drive, Each, Many, dead};
pub(crate) use handling::Ending;
pub(crate) use leases::{LeaseThread, ShardLeases};
pub(crate) use member::{Member, Stop};
pub(crate) use sinks::{Abroad, Effects, Sink};

use crate::backoff::Backoff;
use crate::consume::Undecodable;
use crate::extract::States;
use crate::guarantee::Guarantee;
use crate::metrics::Meters;

/// What all handlings of one consumer share.
pub(crate) struct ConsumerCx {
    /// Group and topic in one text: the consumer's name in effect ids and in the ledger.
    pub(crate) id: Arc<str>,
    pub(crate) topic: Name,
    pub(crate) group: Name,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) engine_id: EngineId,
    /// The engine commits effects with the end of their message.
    pub(crate) atomic_effects: bool,
    /// Topics of other engines that the handler may send to.
    pub(crate) sinks: Arc<[Sink]>,
    pub(crate) states: States,
    pub(crate) options: Options,
    pub(crate) meters: Arc<Meters>,
}

impl fmt::Debug for ConsumerCx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConsumerCx({})", self.id)
    }
}

/// How a consumer handles.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Handlings at once over all partitions; `None`: one per partition.
    pub(crate) concurrency: Option<usize>,
    pub(crate) backoff: Backoff,
    pub(crate) guarantee: Guarantee,
    pub(crate) undecodable: Undecodable,
    pub(crate) unknown_kind: Undecodable,
    pub(crate) timeout: Option<Duration>,
    /// Keep the order of each key.
    pub(crate) by_key: bool,
    /// A dead letter holds its key.
    pub(crate) hold_key: bool,
}
