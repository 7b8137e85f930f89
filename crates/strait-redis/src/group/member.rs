//! A member: the task that keeps its leases, reads ahead, and grants what goes out.

pub(super) mod flow;
mod lease;
mod look;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use strait_core::events::{GroupRules, GroupSpec};
use strait_core::{Abandoned, Arrival, Fence, Shard, Timestamp};
use strait_member::Window;
use tokio::sync::{Notify, watch};

use super::SESSION_MS;
use super::letters::Back;
use super::steps::Ending;
use crate::engine::Shared;
use crate::keys::GroupKeys;

/// How often a member shows that it lives.
const BEAT: Duration = Duration::from_millis(500);

/// A member of a group.
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) spec: GroupSpec,
    pub(crate) keys: GroupKeys,
    shared: Arc<Shared>,
    pub(super) inner: Mutex<Inner>,
    bell: Notify,
    over: watch::Sender<bool>,
    began: Instant,
}

pub(super) struct Inner {
    shards: BTreeMap<Shard, Owned>,
    arrivals: VecDeque<Queued>,
    pub(super) waker: Option<Waker>,
    /// What the source asked for last, and did not get yet.
    pub(super) wanted: Option<(usize, usize)>,
    abandoned: Vec<Fence>,
    /// Receipts of what was taken and never reached the member.
    returned: Vec<Fence>,
    /// Shards that this member let go of without being asked: taken again, they have another token.
    let_go: Vec<Shard>,
    turn: Shard,
    leaving: bool,
    /// The next beat is due now.
    hurry: bool,
    pub(super) ended: bool,
    partitions: u32,
    /// What the group goes by.
    rules: GroupRules,
    /// Its dead letters: at the bound nothing new goes out.
    dead: u64,
    /// An operator paused it: nothing goes out.
    paused: bool,
    /// The revision of the group that was looked at last.
    rev: u64,
    /// The group was changed since: nothing goes out before it was looked at.
    stale: bool,
    /// Messages that this member gave up so far.
    burials: u64,
    /// Dead letters on their way: nothing goes out until it is known whether there may be more.
    dying: usize,
    /// The end of the session, if nothing is heard any more.
    alive_until: Instant,
}

/// What waits for the source.
struct Queued {
    /// Of messages: their shard, and how often that had turned when they were taken.
    of: Option<(Shard, u64)>,
    arrival: Arrival,
}

/// A shard of this member.
pub(super) struct Owned {
    pub(super) window: Window,
    pub(super) epoch: u64,
    /// Dead letters that were brought back, by their number in the window.
    pub(super) letters: BTreeMap<u64, Back>,
    /// Grows whenever messages are sent back: what was taken before may have to wait for them.
    turn: u64,
    /// The last read found nothing behind what was read: the tail tells when there is more.
    dry: bool,
    revoking: Option<Instant>,
    handed_back: bool,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Member({} of {:?} on {:?})",
            self.id, self.spec.group, self.spec.topic
        )
    }
}

/// Where dropped receipts of a member go.
pub(super) struct Home(pub(super) Weak<Member>);

impl Abandoned for Home {
    fn abandoned(&self, fence: Fence) {
        if let Some(member) = self.0.upgrade() {
            let mut inner = member.inner.lock();
            inner.abandoned.push(fence);
            // What was taken before may be of its key, and has to come behind it.
            if let Some(owned) = inner.shards.get_mut(&fence.shard) {
                owned.turn += 1;
            }
            drop(inner);
            member.ring();
        }
    }
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Member {
    pub(super) fn start(
        shared: Arc<Shared>,
        spec: GroupSpec,
        keys: GroupKeys,
        id: u64,
        partitions: u32,
    ) -> Arc<Self> {
        let session = Duration::from_millis(SESSION_MS as u64);
        let rules = GroupRules::of(&spec);
        let member = Arc::new(Member {
            id,
            spec,
            keys,
            shared,
            inner: Mutex::new(Inner {
                shards: BTreeMap::new(),
                arrivals: VecDeque::new(),
                waker: None,
                wanted: None,
                abandoned: Vec::new(),
                returned: Vec::new(),
                let_go: Vec::new(),
                turn: 0,
                leaving: false,
                hurry: false,
                ended: false,
                partitions,
                rules,
                dead: 0,
                paused: false,
                rev: 0,
                stale: true,
                burials: 0,
                dying: 0,
                alive_until: Instant::now() + session,
            }),
            bell: Notify::new(),
            over: watch::Sender::new(false),
            began: Instant::now(),
        });
        let own = member.clone();
        tokio::spawn(async move { own.run().await });
        member
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Works on the window of a shard that this member has.
    pub(crate) fn with<T>(
        &self,
        shard: Shard,
        work: impl FnOnce(u64, &mut Window) -> Option<T>,
    ) -> Option<T> {
        self.with_owned(shard, |owned| work(owned.epoch, &mut owned.window))
    }

    /// The same, with what else is known of the shard.
    pub(super) fn with_owned<T>(
        &self,
        shard: Shard,
        work: impl FnOnce(&mut Owned) -> Option<T>,
    ) -> Option<T> {
        let mut inner = self.inner.lock();
        work(inner.shards.get_mut(&shard)?)
    }

    /// True for a shard whose receipts may still be settled.
    pub(crate) fn may_settle(&self, shard: Shard) -> bool {
        let inner = self.inner.lock();
        let owned = inner.shards.get(&shard);
        !inner.leaving && owned.is_some_and(|owned| !owned.handed_back)
    }

    /// The shard is not this member's any more, or nobody knows what was stored of it last.
    pub(crate) fn lost(&self, shard: Shard, epoch: u64) {
        let mut inner = self.inner.lock();
        if inner
            .shards
            .get(&shard)
            .is_some_and(|owned| owned.epoch == epoch)
        {
            inner.lose(shard);
        }
    }

    /// Messages end otherwise than by being handled.
    pub(crate) fn turns(&self, shard: Shard, dead: usize) {
        let mut inner = self.inner.lock();
        inner.dying += dead;
        inner.burials += dead as u64;
        if let Some(owned) = inner.shards.get_mut(&shard) {
            owned.turn += 1;
        }
    }

    /// Dead letters are stored, or are none.
    pub(crate) fn died(&self, dead: usize) {
        let mut inner = self.inner.lock();
        inner.dying = inner.dying.saturating_sub(dead);
        inner.hurry = true;
    }

    /// What goes to the member next. What it did not have when a message was sent back must not come behind that one's later
    /// ones, so it is taken again.
    pub(super) fn arrived(&self, inner: &mut Inner) -> Option<Arrival> {
        while let Some(Queued { of, arrival }) = inner.arrivals.pop_front() {
            let turned = of.is_some_and(|(shard, turn)| {
                let owned = inner.shards.get(&shard);
                owned.is_none_or(|owned| owned.turn != turn || owned.handed_back)
            });
            if !turned {
                return Some(arrival);
            }
            inner.returned.extend(disarm(arrival));
            self.ring();
        }
        None
    }

    /// Looks at once how its shards stand.
    pub(crate) fn beat_now(&self) {
        self.inner.lock().hurry = true;
        self.ring();
    }

    pub(super) fn leave(&self) {
        self.inner.lock().leaving = true;
        self.ring();
    }

    pub(super) fn hand_back(&self, shard: Shard) {
        let mut inner = self.inner.lock();
        if let Some(owned) = inner.shards.get_mut(&shard) {
            owned.handed_back = true;
        }
        inner.return_of(shard);
        drop(inner);
        self.ring();
    }

    /// Shards with the windows, for what an operator asks.
    pub(super) fn stands(&self, mut each: impl FnMut(Shard, &Window)) {
        let inner = self.inner.lock();
        inner
            .shards
            .iter()
            .for_each(|(shard, owned)| each(*shard, &owned.window));
    }

    async fn run(self: Arc<Self>) {
        let mut next_beat = Instant::now();
        let mut waiting: Option<Waiting> = None;
        loop {
            let over = self.shared.link.is_closed() || self.inner.lock().leaving;
            if over {
                break;
            }
            self.end_by_itself().await;
            if Instant::now() >= next_beat || self.has_back() {
                match self.beat(false).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => self.silent(&error),
                }
                next_beat = Instant::now() + BEAT;
                self.wet();
            }
            let read = self.read_ahead().await.unwrap_or(false);
            let given = self.give().await;
            if read || given {
                continue;
            }
            if waiting.is_none() {
                waiting = self.tail();
            }
            let pause = self
                .pause()
                .min(next_beat.saturating_duration_since(Instant::now()));
            let arrived = async {
                match &mut waiting {
                    Some(waiting) => waiting.await,
                    None => std::future::pending().await,
                }
            };
            let woke = tokio::select! {
                () = arrived => true,
                () = self.bell.notified() => false,
                () = tokio::time::sleep(pause) => false,
                () = self.shared.link.ended() => false,
            };
            if woke {
                waiting = None;
                self.wet();
            }
        }
        self.end().await;
    }

    /// Gives everything back: what the member never saw is released, what is out with it is abandoned.
    async fn end(self: &Arc<Self>) {
        if !self.shared.link.is_closed() {
            let shards: Vec<Shard> = self.inner.lock().shards.keys().copied().collect();
            for shard in &shards {
                self.inner.lock().return_of(*shard);
            }
            self.end_by_itself().await;
            let mut endings = Vec::new();
            for shard in shards {
                let out = self.with(shard, |_, window| Some(window.out()));
                for fence in out.unwrap_or_default() {
                    let steps =
                        |window: &mut Window| Some(window.abandoned(&fence, Timestamp::now()));
                    endings.extend(Ending::of(self, shard, steps));
                }
            }
            endings.retain(|ending| !ending.is_empty());
            self.store(endings).await;
            if let Err(error) = self.beat(true).await {
                tracing::debug!(
                    ?error,
                    "a member that leaves could not say so; its session ends by itself"
                );
            }
        }
        let mut inner = self.inner.lock();
        inner.shards.clear();
        inner.ended = true;
        inner.arrive(Arrival::End);
        drop(inner);
        self.over.send_replace(true);
    }

    /// Ready when it has left.
    pub(super) async fn ended(&self) {
        // The sender is here, so it does not fail.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }
}

fn disarm(arrival: Arrival) -> Vec<Fence> {
    let receipts = match arrival {
        Arrival::Run(_, receipt) => vec![receipt],
        Arrival::Each(deliveries) => deliveries
            .into_iter()
            .map(|delivery| delivery.receipt)
            .collect(),
        _ => Vec::new(),
    };
    receipts
        .into_iter()
        .map(strait_core::Receipt::settle)
        .collect()
}

impl Inner {
    /// Nothing is on its way that could change what goes out next.
    fn may_give(&self) -> bool {
        let waits = !self.arrivals.is_empty() || self.dying > 0 || self.hurry;
        let comes_back = !self.returned.is_empty() || !self.abandoned.is_empty();
        let full = self.dead >= self.rules.max_dead;
        !waits && !comes_back && !full && !self.paused && !self.stale
    }

    pub(super) fn arrive(&mut self, arrival: Arrival) {
        self.queue(Queued { of: None, arrival });
    }

    fn queue(&mut self, queued: Queued) {
        self.arrivals.push_back(queued);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What waits for the source of this shard goes back.
    fn return_of(&mut self, shard: Shard) {
        let of_it = |queued: &Queued| queued.of.is_some_and(|(of, _)| of == shard);
        let (back, stay) = std::mem::take(&mut self.arrivals)
            .into_iter()
            .partition(of_it);
        self.arrivals = stay;
        let back: VecDeque<Queued> = back;
        self.returned
            .extend(back.into_iter().flat_map(|queued| disarm(queued.arrival)));
    }

    fn lose(&mut self, shard: Shard) {
        self.shards.remove(&shard);
        self.let_go.push(shard);
        self.arrive(Arrival::Lost(shard));
    }

    pub(super) fn hold(&mut self, shard: Shard, held: bool) {
        if let Some(owned) = self.shards.get_mut(&shard) {
            owned.window.hold(held || owned.revoking.is_some());
        }
    }
}
