//! The two ends of a member that its owner holds: what comes, and what it says.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use strait_core::{Arrival, Consumer, Control, Fence, Fut, Result, Shard, Source};

use super::Member;

pub(super) fn consumer(member: Arc<Member>) -> Consumer {
    Consumer {
        id: member.id,
        control: Arc::new(Handle(member.clone())),
        source: Box::new(Input(member)),
    }
}

#[derive(Debug)]
struct Input(Arc<Member>);

impl Source for Input {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        items: usize,
        bytes: usize,
    ) -> Poll<Result<Arrival>> {
        let mut inner = self.0.inner.lock();
        if let Some(arrival) = self.0.arrived(&mut inner) {
            return Poll::Ready(Ok(arrival));
        }
        if inner.ended {
            return Poll::Ready(Ok(Arrival::End));
        }
        inner.waker = Some(cx.waker().clone());
        let asked = inner.wanted.replace((items, bytes));
        drop(inner);
        if asked != Some((items, bytes)) {
            self.0.ring();
        }
        Poll::Pending
    }
}

#[derive(Debug)]
struct Handle(Arc<Member>);

impl Control for Handle {
    fn extend(&self, fences: Vec<Fence>, by: Duration) -> Fut<Result<Vec<bool>>> {
        let now = self.0.now();
        let extend = |fence: &Fence| {
            let extended = self
                .0
                .with(fence.shard, |_, window| Some(window.extend(fence, now, by)));
            extended.unwrap_or(false)
        };
        let kept = fences.iter().map(extend).collect();
        Box::pin(std::future::ready(Ok(kept)))
    }

    fn hold(&self, shard: Shard, held: bool) {
        self.0.inner.lock().hold(shard, held);
        self.0.ring();
    }

    fn handed_back(&self, shard: Shard) {
        self.0.hand_back(shard);
    }

    fn leave(&self) {
        self.0.leave();
    }
}
