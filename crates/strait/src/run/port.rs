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
    state: Mutex<Waiting>,
    pub(super) control: Arc<dyn Control>,
    pub(super) shard: Shard,
}

#[derive(Default)]
struct Waiting {
    messages: usize,
    held: bool,
    retired: bool,
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
        state.messages += count;
        if state.messages >= HIGH && !state.held && !state.retired {
            state.held = true;
            self.control.hold(self.shard, true);
        }
    }

    pub(super) fn remove(&self, count: usize) {
        let mut state = self.state.lock();
        state.messages -= count;
        if state.messages <= LOW && state.held {
            state.held = false;
            self.control.hold(self.shard, false);
        }
    }

    /// The shard goes to somebody else. It may come back, to a task and a backlog of its own: it is held no longer for
    /// what waits here.
    pub(super) fn retire(&self) {
        let mut state = self.state.lock();
        state.retired = true;
        if std::mem::take(&mut state.held) {
            self.control.hold(self.shard, false);
        }
    }
}
