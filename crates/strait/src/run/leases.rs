//! Leases: extended by a thread of their own, so that a handler that blocks its thread does not lose its message.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use strait_core::{Control, Fence, Fut, Position, Shard};

use crate::extract::{Cancel, Token};
use crate::metrics::Meters;

/// What a member holds of one shard: the ranges that are out with it, and who wants to know when one is lost.
pub(crate) struct ShardLeases {
    pub(crate) shard: Shard,
    ranges: Mutex<BTreeMap<Position, Fence>>,
    watchers: Mutex<Vec<(Position, Weak<Token>)>>,
    /// Ranges that were lost one by one, and whether there are any.
    lost: Mutex<Vec<Fence>>,
    any_lost: AtomicBool,
    bell: Arc<Bell>,
}

impl ShardLeases {
    pub(crate) fn new(shard: Shard, bell: Arc<Bell>) -> Self {
        ShardLeases {
            shard,
            ranges: Mutex::default(),
            watchers: Mutex::default(),
            lost: Mutex::default(),
            any_lost: AtomicBool::new(false),
            bell,
        }
    }

    /// A range came out.
    pub(crate) fn add(&self, fence: Fence) {
        self.ranges.lock().insert(fence.first, fence);
        self.bell.ring();
        if self.any_lost.load(Ordering::Acquire) {
            // What comes again is ours again.
            let mut lost = self.lost.lock();
            lost.retain(|old| old.end() <= fence.first || fence.end() <= old.first);
            self.any_lost.store(!lost.is_empty(), Ordering::Release);
        }
    }

    /// True when the message is out, but no longer with this member: another will get it, or this one again.
    #[inline]
    pub(crate) fn is_lost(&self, number: Position) -> bool {
        let inside = |fence: &Fence| fence.first <= number && number < fence.end();
        self.any_lost.load(Ordering::Acquire) && self.lost.lock().iter().any(inside)
    }

    /// Ranges end: from here on they are the engine's.
    pub(crate) fn remove(&self, ended: impl IntoIterator<Item = Fence>) {
        let mut ranges = self.ranges.lock();
        for fence in ended {
            remove_range(&mut ranges, fence);
        }
    }

    /// All that is out.
    fn held(&self) -> Vec<Fence> {
        self.ranges.lock().values().copied().collect()
    }

    fn is_empty(&self) -> bool {
        self.ranges.lock().is_empty()
    }

    /// A cancel token for one message that is out.
    pub(crate) fn watch(&self, number: Position) -> Cancel {
        let token = Arc::new(Token::default());
        let mut watchers = self.watchers.lock();
        watchers.retain(|(_, token)| token.strong_count() > 0);
        watchers.push((number, Arc::downgrade(&token)));
        Cancel::new(token)
    }

    /// This very range was lost; `false` when it is not (or no longer) out as a whole.
    fn lost(&self, fence: Fence) -> bool {
        let mut ranges = self.ranges.lock();
        if ranges.get(&fence.first) != Some(&fence) {
            return false;
        }
        ranges.remove(&fence.first);
        drop(ranges);
        self.lost.lock().push(fence);
        self.any_lost.store(true, Ordering::Release);
        self.fire(|position| fence.first <= position && position < fence.end());
        true
    }

    /// The whole shard was lost.
    pub(crate) fn lost_all(&self) {
        self.ranges.lock().clear();
        self.fire(|_| true);
    }

    fn fire(&self, concerned: impl Fn(Position) -> bool) {
        self.watchers
            .lock()
            .retain(|(position, token)| match token.upgrade() {
                Some(token) if concerned(*position) => {
                    token.fire();
                    false
                }
                Some(_) => true,
                None => false,
            });
    }

    /// The parts of `fence` that are still out.
    fn rest_of(&self, fence: Fence) -> Vec<Fence> {
        let ranges = self.ranges.lock();
        let inside = ranges.range(fence.first..fence.end());
        inside.map(|(_, fence)| *fence).collect()
    }
}

impl fmt::Debug for ShardLeases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ShardLeases({}, {} ranges)",
            self.shard,
            self.ranges.lock().len()
        )
    }
}

/// Takes `ended` out of the range that holds it; what lies before and behind it stays.
fn remove_range(ranges: &mut BTreeMap<Position, Fence>, ended: Fence) {
    let Some((&first, &whole)) = ranges.range(..=ended.first).next_back() else {
        return;
    };
    if whole.end() < ended.end() || whole.epoch != ended.epoch {
        return;
    }
    ranges.remove(&first);
    let before = ended.first.offset() - first.offset();
    if before > 0 {
        let count = before as u32;
        ranges.insert(first, Fence { count, ..whole });
    }
    let after = whole.end().offset() - ended.end().offset();
    if after > 0 {
        let first = ended.end();
        let count = after as u32;
        ranges.insert(
            first,
            Fence {
                first,
                count,
                ..whole
            },
        );
    }
}

/// One member of a group, as the lease thread sees it.
pub(crate) struct MemberLeases {
    control: Arc<dyn Control>,
    lease: Duration,
    shards: Mutex<Vec<Weak<ShardLeases>>>,
    meters: Arc<Meters>,
}

impl MemberLeases {
    pub(crate) fn add(&self, shard: &Arc<ShardLeases>) {
        let mut shards = self.shards.lock();
        shards.retain(|shard| shard.strong_count() > 0);
        shards.push(Arc::downgrade(shard));
    }

    fn shards(&self) -> Vec<Arc<ShardLeases>> {
        self.shards
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// Extends everything that is out. A range that the engine no longer knows is lost, unless parts of it ended while we
    /// asked: then the rest is asked for again.
    fn extend(&self, bell: &Bell) {
        let mut asked: Vec<(Arc<ShardLeases>, Fence)> = Vec::new();
        for shard in self.shards() {
            asked.extend(shard.held().into_iter().map(|fence| (shard.clone(), fence)));
        }
        for _ in 0..3 {
            if asked.is_empty() {
                return;
            }
            let fences = asked.iter().map(|(_, fence)| *fence).collect();
            let extension = self.control.extend(fences, self.lease);
            let kept = match block_on(extension, self.lease / 3, bell) {
                Some(Ok(kept)) => kept,
                Some(Err(error)) => {
                    tracing::warn!(?error, "leases could not be extended; trying again");
                    return;
                }
                None if bell.is_stopped() => return,
                None => {
                    tracing::warn!(
                        "the engine did not answer to an extension of leases; trying again"
                    );
                    return;
                }
            };
            let refused = asked.into_iter().zip(kept).filter(|(_, kept)| !kept);
            asked = refused
                .flat_map(|((shard, fence), _)| self.refused(&shard, fence))
                .collect();
        }
    }

    /// The engine does not know this range as a whole: what is to be asked for again.
    fn refused(&self, shard: &Arc<ShardLeases>, fence: Fence) -> Vec<(Arc<ShardLeases>, Fence)> {
        if shard.lost(fence) {
            self.meters.leases_lost.increment(u64::from(fence.count));
            tracing::warn!(shard = shard.shard, position = %fence.first, count = fence.count, "leases were lost");
            return Vec::new();
        }
        let rest = shard.rest_of(fence).into_iter();
        rest.map(|fence| (shard.clone(), fence)).collect()
    }
}

/// Wakes the lease thread when there is something to extend again.
#[derive(Default)]
pub(crate) struct Bell {
    asleep: AtomicBool,
    state: Mutex<BellState>,
    wake: Condvar,
}

#[derive(Default)]
struct BellState {
    rung: bool,
    stop: bool,
}

impl Bell {
    fn ring(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.state.lock().rung = true;
            self.wake.notify_one();
        }
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().stop
    }

    fn stop(&self) {
        self.state.lock().stop = true;
        self.wake.notify_one();
    }
}

/// The thread that extends the leases of an app. It sleeps without a timer while nothing is out. Ends when dropped.
pub(crate) struct LeaseThread {
    bell: Arc<Bell>,
    members: Arc<Mutex<Vec<Arc<MemberLeases>>>>,
    thread: Option<JoinHandle<()>>,
}

impl LeaseThread {
    /// Starts it. The runtime is for engines whose extension needs one.
    pub(crate) fn start(runtime: tokio::runtime::Handle) -> std::io::Result<Self> {
        let bell = Arc::new(Bell::default());
        let members = Arc::new(Mutex::new(Vec::new()));
        let (ring, list) = (bell.clone(), members.clone());
        let thread = std::thread::Builder::new()
            .name("strait-leases".into())
            .spawn(move || {
                let _entered = runtime.enter();
                run(&ring, &list);
            })?;
        Ok(LeaseThread {
            bell,
            members,
            thread: Some(thread),
        })
    }

    pub(crate) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Extends the leases of another member from now on, at a third of `lease`.
    pub(crate) fn member(
        &self,
        control: Arc<dyn Control>,
        lease: Duration,
        meters: Arc<Meters>,
    ) -> Arc<MemberLeases> {
        let member = Arc::new(MemberLeases {
            control,
            lease,
            shards: Mutex::default(),
            meters,
        });
        self.members.lock().push(member.clone());
        member
    }
}

impl Drop for LeaseThread {
    fn drop(&mut self) {
        self.bell.stop();
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn run(bell: &Bell, members: &Mutex<Vec<Arc<MemberLeases>>>) {
    loop {
        bell.asleep.store(true, Ordering::SeqCst);
        let list = members.lock().clone();
        let busy =
            |member: &Arc<MemberLeases>| member.shards().iter().any(|shard| !shard.is_empty());
        let idle = !list.iter().any(busy);
        let mut state = bell.state.lock();
        if idle {
            while !state.rung && !state.stop {
                bell.wake.wait(&mut state);
            }
        } else {
            bell.asleep.store(false, Ordering::SeqCst);
        }
        state.rung = false;
        let leases = members.lock().iter().map(|member| member.lease / 3).min();
        let until = Instant::now() + leases.unwrap_or(Duration::from_millis(100));
        while !state.stop && !bell.wake.wait_until(&mut state, until).timed_out() {}
        if state.stop {
            return;
        }
        drop(state);
        let list = members.lock().clone();
        list.iter().for_each(|member| member.extend(bell));
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread, for at most `limit`, and no longer than the thread is wanted.
fn block_on<T>(mut future: Fut<T>, limit: Duration, bell: &Bell) -> Option<T> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let until = Instant::now() + limit;
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return Some(value);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || bell.is_stopped() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(first: u64, count: u32) -> Fence {
        Fence {
            consumer: 1,
            epoch: 1,
            shard: 0,
            first: Position::at(first),
            count,
        }
    }

    #[test]
    fn ranges_are_cut_where_they_end() {
        let leases = ShardLeases::new(0, Arc::default());
        leases.add(fence(10, 10));
        leases.remove([fence(12, 3), fence(19, 1)]);
        assert_eq!(leases.held(), [fence(10, 2), fence(15, 4)]);
        leases.remove([fence(100, 1), fence(10, 2), fence(15, 4)]);
        assert!(leases.held().is_empty());
    }

    #[test]
    fn only_the_lost_range_fires() {
        let leases = ShardLeases::new(0, Arc::default());
        leases.add(fence(0, 5));
        leases.add(fence(5, 5));
        let (low, high) = (leases.watch(Position::at(4)), leases.watch(Position::at(5)));
        assert!(!leases.lost(fence(0, 4)), "not out as such");
        assert!(leases.lost(fence(5, 5)));
        assert!(!low.is_cancelled() && high.is_cancelled());
        leases.lost_all();
        assert!(low.is_cancelled());
    }
}
