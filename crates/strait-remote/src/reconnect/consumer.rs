//! A consumer that joins again when the engine is lost.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use strait_core::events::GroupSpec;
use strait_core::{Arrival, Consumer, Control, Error, Fence, Fut, Kind, Result, Shard, Source};

use super::{Current, Patience, Reconnect};

/// Joins for the first time.
pub(super) async fn join(engine: Reconnect, group: GroupSpec) -> Result<Consumer> {
    let membership = enter(engine.clone(), group.clone()).await?;
    let id = membership.consumer.id;
    let seat = Arc::new(Seat::default());
    let mut source = Rejoining {
        engine,
        group,
        seat: seat.clone(),
        state: State::Ended,
        owned: BTreeSet::new(),
        lost: VecDeque::new(),
    };
    source.sit(membership);
    Ok(Consumer {
        source: Box::new(source),
        control: seat,
        id,
    })
}

/// A membership of an engine.
struct Membership {
    engine: Arc<Current>,
    consumer: Consumer,
}

async fn enter(engine: Reconnect, group: GroupSpec) -> Result<Membership> {
    let mut patience = Patience::new(engine.core.options.patience);
    loop {
        let current = engine.current(&mut patience).await?;
        match current.events()?.join(group.clone()).await {
            Ok(consumer) => {
                let engine = current;
                return Ok(Membership { engine, consumer });
            }
            Err(error) if current.is_lost(&error) => {
                if !engine.replaced(&current, &mut patience).await {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// The control side: that of the membership of the moment.
#[derive(Debug, Default)]
struct Seat {
    state: Mutex<SeatState>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct SeatState {
    control: Option<Arc<dyn Control>>,
    /// Shards on hold: they are again after the consumer has joined again.
    held: BTreeSet<Shard>,
    left: bool,
}

impl Seat {
    fn control(&self) -> Option<Arc<dyn Control>> {
        self.state.lock().control.clone()
    }

    fn has_left(&self) -> bool {
        self.state.lock().left
    }
}

impl Control for Seat {
    fn extend(&self, fences: Vec<Fence>, by: Duration) -> Fut<Result<Vec<bool>>> {
        match self.control() {
            Some(control) => control.extend(fences, by),
            // Between two memberships all leases are lost.
            None => Box::pin(std::future::ready(Ok(vec![false; fences.len()]))),
        }
    }

    fn hold(&self, shard: Shard, held: bool) {
        let mut state = self.state.lock();
        if held {
            state.held.insert(shard);
        } else {
            state.held.remove(&shard);
        }
        let control = state.control.clone();
        drop(state);
        if let Some(control) = control {
            control.hold(shard, held);
        }
    }

    fn handed_back(&self, shard: Shard) {
        if let Some(control) = self.control() {
            control.handed_back(shard);
        }
    }

    fn leave(&self) {
        let mut state = self.state.lock();
        state.left = true;
        let control = state.control.take();
        drop(state);
        if let Some(control) = control {
            control.leave();
        }
        self.waker.wake();
    }
}

enum State {
    Member(Membership),
    Joining(Fut<Result<Membership>>),
    Ended,
}

/// The input side.
struct Rejoining {
    engine: Reconnect,
    group: GroupSpec,
    seat: Arc<Seat>,
    state: State,
    owned: BTreeSet<Shard>,
    /// Shards that went with the last membership and were not reported yet.
    lost: VecDeque<Shard>,
}

impl std::fmt::Debug for Rejoining {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let now = match &self.state {
            State::Member(_) => "member",
            State::Joining(_) => "joining again",
            State::Ended => "ended",
        };
        write!(
            f,
            "Rejoining({} on {}, {now})",
            self.group.group, self.group.topic
        )
    }
}

impl Rejoining {
    /// Begins a membership.
    fn sit(&mut self, membership: Membership) {
        let control = membership.consumer.control.clone();
        let mut state = self.seat.state.lock();
        for shard in &state.held {
            control.hold(*shard, true);
        }
        if !state.left {
            state.control = Some(control);
        }
        drop(state);
        self.state = State::Member(membership);
    }

    /// The membership is lost: joins again.
    fn rise(&mut self) {
        self.seat.state.lock().control = None;
        self.lost.extend(std::mem::take(&mut self.owned));
        self.rejoin();
    }

    fn rejoin(&mut self) {
        let (engine, group) = (self.engine.clone(), self.group.clone());
        self.state = State::Joining(Box::pin(enter(engine, group)));
    }

    /// Keeps account of what is owned.
    fn note(&mut self, arrival: &Arrival) {
        match arrival {
            Arrival::Assigned(shard) => {
                self.owned.insert(*shard);
            }
            Arrival::Lost(shard) => {
                self.owned.remove(shard);
            }
            _ => {}
        }
    }

    fn poll_member(
        &mut self,
        cx: &mut Context<'_>,
        items: usize,
        bytes: usize,
    ) -> Poll<Option<Result<Arrival>>> {
        let State::Member(membership) = &mut self.state else {
            return Poll::Ready(None);
        };
        let arrival = ready!(membership.consumer.source.poll_next(cx, items, bytes));
        let gone = match &arrival {
            Ok(Arrival::End) => membership
                .engine
                .is_lost(&Error::new(Kind::Unavailable, "ended")),
            Ok(_) => false,
            Err(error) => membership.engine.is_lost(error),
        };
        if gone {
            self.rise();
            return Poll::Ready(None);
        }
        match &arrival {
            Ok(Arrival::End) | Err(_) => self.state = State::Ended,
            Ok(arrival) => self.note(arrival),
        }
        Poll::Ready(Some(arrival))
    }

    /// `Ok` when there is a membership again, or when it was tried for long and is tried on.
    fn poll_joining(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let State::Joining(joining) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        match ready!(joining.as_mut().poll(cx)) {
            Ok(membership) => self.sit(membership),
            // Health says for how long already.
            Err(error) if error.may_retry() => self.rejoin(),
            Err(error) => {
                self.state = State::Ended;
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Source for Rejoining {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        items: usize,
        bytes: usize,
    ) -> Poll<Result<Arrival>> {
        self.seat.waker.register(cx.waker());
        loop {
            if let Some(shard) = self.lost.pop_front() {
                return Poll::Ready(Ok(Arrival::Lost(shard)));
            }
            if self.seat.has_left() || matches!(self.state, State::Ended) {
                self.state = State::Ended;
                return Poll::Ready(Ok(Arrival::End));
            }
            if let Some(arrival) = ready!(self.poll_member(cx, items, bytes)) {
                return Poll::Ready(arrival);
            }
            ready!(self.poll_joining(cx))?;
        }
    }
}
