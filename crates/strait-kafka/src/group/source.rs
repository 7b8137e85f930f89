//! The two ends of a member that its owner holds: what comes, and what it says.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use strait_core::events::GroupSpec;
use strait_core::{
    Abandoned, Arrival, Consumer, Control, Fence, Fut, Position, Result, Shard, Source, Timestamp,
};
use tokio::time::Sleep;

use super::commit::{Part, Work};
use super::{Home, Inner, Member, Owned};

pub(super) fn consumer(member: Arc<Member>) -> Consumer {
    let home = Arc::new(Home(Arc::downgrade(&member)));
    Consumer {
        id: member.id,
        control: Arc::new(Handle(member.clone())),
        source: Box::new(Input {
            member,
            home,
            timer: None,
        }),
    }
}

struct Input {
    member: Arc<Member>,
    home: Arc<dyn Abandoned>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.member, f)
    }
}

impl Source for Input {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        items: usize,
        bytes: usize,
    ) -> Poll<Result<Arrival>> {
        loop {
            let (found, works, timer) = {
                let mut inner = self.member.inner.lock();
                let (mut works, mut timer) = (Vec::new(), None);
                let mut found = inner.arrived();
                if found.is_none() && inner.ended {
                    found = Some(Arrival::End);
                }
                if found.is_none() {
                    let asked = Asked {
                        items,
                        bytes,
                        home: &self.home,
                    };
                    found = self.member.next(&mut inner, &asked, &mut works, &mut timer);
                }
                if found.is_none() {
                    inner.waker = Some(cx.waker().clone());
                }
                (found, works, timer)
            };
            self.member.shared.commits.push_all(works);
            if let Some(arrival) = found {
                return Poll::Ready(Ok(arrival));
            }
            self.timer = timer.map(|time| Box::pin(tokio::time::sleep(time)));
            let over = self.timer.as_mut().map(|timer| timer.as_mut().poll(cx));
            if over.is_none_or(|over| over.is_pending()) {
                return Poll::Pending;
            }
        }
    }
}

struct Asked<'a> {
    items: usize,
    bytes: usize,
    home: &'a Arc<dyn Abandoned>,
}

impl Member {
    /// What goes out next, where anything may; else when to look again.
    fn next(
        &self,
        inner: &mut Inner,
        asked: &Asked<'_>,
        works: &mut Vec<Work>,
        timer: &mut Option<Duration>,
    ) -> Option<Arrival> {
        let (now, wall) = (self.now(), Timestamp::now());
        let turn = inner.turn;
        let order: Vec<Shard> = inner
            .shards
            .range(turn + 1..)
            .chain(inner.shards.range(..=turn))
            .map(|(shard, _)| *shard)
            .collect();
        for shard in order {
            let Some(owned) = inner.shards.get_mut(&shard) else {
                continue;
            };
            let taken = self.take(shard, owned, asked, works, (now, wall));
            if let Some(arrival) = taken {
                inner.turn = shard;
                return Some(arrival);
            }
            let expiry = owned.window.next_expiry().map(|at| at.saturating_sub(now));
            let due = owned.window.next_due().map(|at| at.since(wall));
            // One that is due already waits for something else, which wakes the source.
            let due = due.filter(|due| !due.is_zero());
            for time in expiry.into_iter().chain(due) {
                let time = time + Duration::from_millis(1);
                *timer = Some(timer.map_or(time, |before| before.min(time)));
            }
        }
        None
    }

    fn take(
        &self,
        shard: Shard,
        owned: &mut Owned,
        asked: &Asked<'_>,
        works: &mut Vec<Work>,
        (now, wall): (Duration, Timestamp),
    ) -> Option<Arrival> {
        works.extend(self.expired(shard, owned, now, wall));
        owned.feed();
        if owned.held || owned.revoking || owned.marking {
            return None;
        }
        let comes_again = owned.window.next_due().is_some_and(|due| due <= wall);
        if self.too_many_dead() || owned.full && !comes_again {
            return None;
        }
        let taken = owned
            .window
            .take(now, wall, asked.items, asked.bytes, asked.home)?;
        let reserve = match (&taken.arrival, taken.grant.out) {
            (Arrival::Run(..), Some(out)) if out <= owned.reserved => return Some(taken.arrival),
            (Arrival::Run(..), Some(out)) => Some(self.reservation(owned, out)),
            // The attempt that begins is counted before the message goes out: it may end this process.
            _ => None,
        };
        let member = self.own.upgrade()?;
        owned.marking = true;
        owned.busy += 1;
        let part = Part {
            member,
            shard,
            epoch: owned.epoch,
            steps: Vec::new(),
            reserve,
        };
        works.push(Work::mark(part, taken.arrival, owned.turn));
        None
    }

    /// Up to where first attempts are marked ahead: all that was read, so that not each run waits for a commit. If this
    /// process dies, what was marked counts as attempted; where one attempt is all there is, only what goes out is marked.
    fn reservation(&self, owned: &Owned, out: Position) -> Position {
        match self.spec.max_attempts {
            1 => out,
            _ => owned.window.cursor().max(out),
        }
    }

    /// Leases that are over, as a work.
    pub(super) fn expired(
        &self,
        shard: Shard,
        owned: &mut Owned,
        now: Duration,
        wall: Timestamp,
    ) -> Option<Work> {
        let steps = owned.window.expire(now, wall);
        self.stepped(shard, owned, steps)
    }

    fn stepped(
        &self,
        shard: Shard,
        owned: &mut Owned,
        steps: Vec<strait_member::Step>,
    ) -> Option<Work> {
        // The last commit of a shard that is handed back counts what is out as lost: nothing may come between.
        if steps.is_empty() || owned.handed_back {
            return None;
        }
        let member = self.own.upgrade()?;
        owned.busy += 1;
        owned.turn += 1;
        Some(Work::steps(Part {
            member,
            shard,
            epoch: owned.epoch,
            steps,
            reserve: None,
        }))
    }

    /// A receipt was dropped.
    pub(super) fn abandoned(&self, fence: Fence) {
        let work = {
            let mut inner = self.inner.lock();
            let found = inner.shards.get_mut(&fence.shard);
            found.and_then(|owned| {
                let steps = owned.window.abandoned(&fence, Timestamp::now());
                self.stepped(fence.shard, owned, steps)
            })
        };
        self.shared.commits.push_all(work);
    }

    pub(crate) fn spec(&self) -> &GroupSpec {
        &self.spec
    }
}

#[derive(Debug)]
struct Handle(Arc<Member>);

impl Control for Handle {
    fn extend(&self, fences: Vec<Fence>, by: Duration) -> Fut<Result<Vec<bool>>> {
        let now = self.0.now();
        let mut inner = self.0.inner.lock();
        let extended = fences.iter().map(|fence| {
            let owned = inner.shards.get_mut(&fence.shard);
            owned.is_some_and(|owned| !owned.handed_back && owned.window.extend(fence, now, by))
        });
        let extended: Vec<bool> = extended.collect();
        inner.wake();
        Box::pin(async move { Ok(extended) })
    }

    fn hold(&self, shard: Shard, held: bool) {
        let mut inner = self.0.inner.lock();
        if let Some(owned) = inner.shards.get_mut(&shard) {
            owned.held = held;
            inner.wake();
        }
    }

    fn handed_back(&self, shard: Shard) {
        let mut inner = self.0.inner.lock();
        if let Some(owned) = inner.shards.get_mut(&shard).filter(|owned| owned.revoking) {
            owned.handed_back = true;
        }
    }

    fn leave(&self) {
        self.0.inner.lock().leaving = true;
    }
}
