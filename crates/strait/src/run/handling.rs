//! One handling: its messages, its future, its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use strait_core::{Message as Stored, Once, Position, Receipt, Verdict};
use tokio::sync::OwnedSemaphorePermit;

use super::sinks::Effects;

/// A message to handle.
pub(super) struct Task {
    pub(super) stored: Stored,
    /// The first number of its receipt, by which its lease is known.
    pub(super) number: Position,
    pub(super) attempt: u32,
    pub(super) last_error: Option<Arc<str>>,
}

/// The right to settle it, kept while the handler has the message.
pub(super) struct Held {
    pub(super) receipt: Receipt,
    pub(super) key: Option<u64>,
    pub(super) position: Position,
}

/// A message that is not begun yet.
pub(super) struct Item {
    pub(super) task: Task,
    pub(super) held: Held,
    /// Its key is taken on its behalf.
    pub(super) reserved: bool,
}

/// What belongs to one handling: of a message, or of a batch. One needs no allocation.
pub(super) struct Few<T> {
    pub(super) first: T,
    pub(super) rest: Vec<T>,
}

impl<T> Few<T> {
    pub(super) fn one(first: T) -> Self {
        Few {
            first,
            rest: Vec::new(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::iter::Once<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.rest)
    }
}

/// How one message ended.
pub(crate) struct Ending {
    pub(crate) verdict: Verdict,
    pub(crate) sends: Effects,
    pub(crate) once: Option<Once>,
}

impl Ending {
    pub(crate) fn of(verdict: Verdict) -> Self {
        Ending {
            verdict,
            sends: Effects::default(),
            once: None,
        }
    }
}

/// A place for the future of one handling, used again and again.
pub(super) type Slot<F> = Pin<Box<Option<F>>>;

/// A handling that did not end at its first poll.
pub(super) struct Running<F>(pub(super) Option<Begun<F>>);

/// What a handling works with.
pub(super) struct Begun<F> {
    pub(super) slot: Slot<F>,
    pub(super) held: Few<Held>,
    /// Given back when the handling is over.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

impl<F: Future<Output = Few<Ending>>> Future for Running<F> {
    type Output = (Few<Ending>, Begun<F>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self
            .0
            .as_mut()
            .and_then(|begun| begun.slot.as_mut().as_pin_mut());
        let Some(Poll::Ready(endings)) = future.map(|future| future.poll(cx)) else {
            return Poll::Pending;
        };
        match self.0.take() {
            Some(begun) => Poll::Ready((endings, begun)),
            None => Poll::Pending,
        }
    }
}
