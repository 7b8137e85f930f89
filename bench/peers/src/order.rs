//! What is asked for and answered, one line each.

use serde::{Deserialize, Serialize};

/// One order.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    Create {
        topic: String,
    },
    Delete {
        topic: String,
    },
    /// Producers in a closed loop for a time.
    Append(Append),
    /// At least so many messages in all, the fastest way.
    Fill {
        topic: String,
        messages: u64,
    },
    /// The whole topic, from its start.
    Read {
        topic: String,
    },
}

/// A closed loop: each producer sends the next batch when its last one is acknowledged.
#[derive(Debug, Clone, Deserialize)]
pub struct Append {
    pub topic: String,
    /// Messages of 100 B in a batch.
    pub batch: u32,
    pub producers: u32,
    /// Which of the peer's ways, by its place in the list that it gave.
    pub way: usize,
    pub warm_up: f64,
    pub seconds: f64,
}

/// One answer.
#[derive(Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Answer {
    Open {
        ways: &'static [&'static str],
    },
    Done,
    Measured {
        messages: u64,
        seconds: f64,
        p50_us: f64,
        p99_us: f64,
    },
    Failed {
        error: String,
    },
}
