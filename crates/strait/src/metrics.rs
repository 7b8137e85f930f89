//! The names of the metrics of appending and handling, and where they are counted. What each means stands in one table with
//! those of the engine, `docs/metrics.md`. Nothing is exported unless the program installs a recorder of the
//! [`metrics`](https://docs.rs/metrics) facade. Install it before the first topic: handles on counters are looked up once.

use metrics::{Counter, Histogram, counter, histogram};
use strait_core::Name;

/// `strait_messages_appended_total`
pub const APPENDED: &str = "strait_messages_appended_total";
/// `strait_messages_handled_total`
pub const HANDLED: &str = "strait_messages_handled_total";
/// `strait_handler_seconds`
pub const HANDLER_SECONDS: &str = "strait_handler_seconds";
/// `strait_handler_panics_total`
pub const PANICS: &str = "strait_handler_panics_total";
/// `strait_undecodable_total`
pub const UNDECODABLE: &str = "strait_undecodable_total";
/// `strait_effects_total`
pub const EFFECTS: &str = "strait_effects_total";
/// `strait_fenced_total`
pub const FENCED: &str = "strait_fenced_total";
/// `strait_leases_lost_total`
pub const LEASES_LOST: &str = "strait_leases_lost_total";
/// `strait_commit_seconds`
pub const COMMIT_SECONDS: &str = "strait_commit_seconds";

/// The counter of a topic's appends, looked up once.
pub(crate) fn appended(topic: &Name) -> Counter {
    counter!(APPENDED, "topic" => topic.shared())
}

/// The handles of one consumer, looked up once.
pub(crate) struct Meters {
    pub(crate) done: Counter,
    pub(crate) retry: Counter,
    pub(crate) dead: Counter,
    pub(crate) released: Counter,
    pub(crate) seen: Counter,
    pub(crate) seconds: Histogram,
    pub(crate) panics: Counter,
    pub(crate) undecodable: Counter,
    pub(crate) effects: Counter,
    pub(crate) fenced: Counter,
    pub(crate) leases_lost: Counter,
    pub(crate) commit_seconds: Histogram,
}

impl Meters {
    pub(crate) fn new(topic: &Name, group: &Name) -> Self {
        let count = |name: &'static str| counter!(name, "topic" => topic.shared(), "group" => group.shared());
        let time = |name: &'static str| histogram!(name, "topic" => topic.shared(), "group" => group.shared());
        let handled = |verdict: &'static str| counter!(HANDLED, "topic" => topic.shared(), "group" => group.shared(), "verdict" => verdict);
        Meters {
            done: handled("done"),
            retry: handled("retry"),
            dead: handled("dead"),
            released: handled("released"),
            seen: handled("seen"),
            seconds: time(HANDLER_SECONDS),
            panics: count(PANICS),
            undecodable: count(UNDECODABLE),
            effects: count(EFFECTS),
            fenced: count(FENCED),
            leases_lost: count(LEASES_LOST),
            commit_seconds: time(COMMIT_SECONDS),
        }
    }
}
