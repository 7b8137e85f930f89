//! The way from a member to its shards.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use strait_core::{Chunk, Control, Delivery, Receipt, Shard};

/// Messages queued for a shard at which the engine is asked to stop, and to go on again.
const HIGH: usize = 2048;
const LOW: usize = 1024;

/// What the member passes on to a shard.
#[derive(Debug)]
pub(super) enum Input {
    Run(Chunk, Receipt),
    Each(Vec<Delivery>),
}

impl Input {
    pub(super) fn len(&self) -> usize {
        match self {
            Input::Run(chunk, _) => chunk.len(),
            Input::Each(list) => list.len(),
        }
    }
}

/// What the member tells a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Go,
    /// Stop taking, finish within the time, give the rest back.
    HandBack(Instant),
    /// It belongs to somebody else.
    Lost,
}

/// The messages that wait in a shard's inbox: bounded by holding the shard.
pub(super) struct Backlog {
    state: Mutex<(usize, bool)>,
    pub(super) control: Arc<dyn Control>,
    pub(super) shard: Shard,
}

impl Backlog {
    pub(super) fn new(control: Arc<dyn Control>, shard: Shard) -> Self {
        Backlog {
            state: Mutex::default(),
            control,
            shard,
        }
    }

    pub(super) fn add(&self, count: usize) {
        let mut state = self.state.lock();
        state.0 += count;
        if state.0 >= HIGH && !state.1 {
            state.1 = true;
            self.control.hold(self.shard, true);
        }
    }

    pub(super) fn remove(&self, count: usize) {
        let mut state = self.state.lock();
        state.0 -= count;
        if state.0 <= LOW && state.1 {
            state.1 = false;
            self.control.hold(self.shard, false);
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        if self.state.lock().1 {
            self.control.hold(self.shard, false);
        }
    }
}
