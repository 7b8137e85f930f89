//! What a member reads ahead, grants and hands over, and what ends without a verdict.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strait_core::events::Cursor;
use strait_core::{Abandoned, Position, Result, Shard, Timestamp, Verdict};
use strait_member::{Grant, Taken, Window};

use super::{BEAT, Home, Member, Owned, Queued, Waiting, disarm};
use crate::group::steps::{self, Ending, put_shards};
use crate::keys;
use crate::reply::{list, number, text};
use crate::script::Invoke;

/// Bytes that are read ahead at once.
const AHEAD: usize = 1 << 20;
/// Messages of a shard that are read ahead.
const AHEAD_MESSAGES: u64 = 4096;
/// Bytes of a shard that are kept while they are not settled: what waits, and what was settled behind it.
pub(crate) const KEPT: usize = 256 << 20;

impl Member {
    /// Leases that ended, and receipts that were dropped.
    pub(super) async fn end_by_itself(self: &Arc<Self>) {
        self.end_hand_overs();
        let (returned, dropped) = {
            let mut inner = self.inner.lock();
            let returned = inner.returned.clone();
            (returned, std::mem::take(&mut inner.abandoned))
        };
        let mut endings = Vec::new();
        for fence in &returned {
            let release =
                |window: &mut Window| window.begin(fence, &Verdict::Release, Timestamp::now());
            endings.extend(Ending::of(self, fence.shard, release));
        }
        // From here on the windows know that they come again.
        self.inner
            .lock()
            .returned
            .retain(|fence| !returned.contains(fence));
        for fence in dropped {
            let steps = |window: &mut Window| Some(window.abandoned(&fence, Timestamp::now()));
            endings.extend(Ending::of(self, fence.shard, steps));
        }
        let shards: Vec<Shard> = self.inner.lock().shards.keys().copied().collect();
        for shard in shards {
            let steps = |window: &mut Window| Some(window.expire(self.now(), Timestamp::now()));
            endings.extend(Ending::of(self, shard, steps));
        }
        endings.retain(|ending| !ending.is_empty());
        self.store(endings).await;
    }

    /// Stores what has no caller.
    pub(super) async fn store(&self, endings: Vec<Ending>) {
        for ending in endings {
            let mut invoke = self.shared.scripts.unit.prepare();
            invoke.arg(0).arg("").arg("").arg("").arg(0);
            put_shards(&mut invoke, std::slice::from_ref(&ending));
            invoke.arg(0);
            let answer = self
                .shared
                .script("ending messages of a group", &invoke, true)
                .await;
            match answer
                .as_ref()
                .map(|answer| list(answer).and_then(|a| text(a.first()?)))
            {
                Ok(Some("applied")) => ending.applied(),
                // Another member's, or nobody knows: what the server has of it is read again, under a new token. Asked twice, it
                // could be stored twice.
                _ => {
                    ending.back();
                    ending.lost();
                }
            }
        }
    }

    /// Reads what the windows have room for; `true` when something came.
    pub(super) async fn read_ahead(&self) -> Result<bool> {
        let facts = self.shared.facts(&self.spec.topic).await?;
        let cursors: Vec<(Shard, u64, Position)> = {
            let inner = self.inner.lock();
            let thirsty = |owned: &Owned| {
                let room = owned.window.room();
                !owned.dry
                    && owned.revoking.is_none()
                    && room > 0
                    && owned.window.may_read(AHEAD_MESSAGES, KEPT)
            };
            let shards = inner.shards.iter().filter(|(_, owned)| thirsty(owned));
            shards
                .map(|(shard, owned)| (*shard, owned.epoch, owned.window.cursor()))
                .collect()
        };
        let mut came = false;
        for (shard, epoch, position) in cursors {
            let cursor = Cursor {
                topic: self.spec.topic.clone(),
                partition: shard,
                position,
                wait: Duration::ZERO,
            };
            let room = self
                .with(shard, |_, window| Some(window.room()))
                .unwrap_or(0);
            let most = room.min(AHEAD_MESSAGES) as usize;
            let chunk = match self.shared.read_some(&cursor, &facts, AHEAD, most).await {
                Ok(chunk) => chunk,
                // What was trimmed under the group is gone: it goes on behind it.
                Err(error) if error.is(strait_core::codes::OFFSET_GONE) => {
                    tracing::warn!(?error, group = %self.spec.group, "messages were removed before the group had them");
                    let cursor = Cursor {
                        position: self.shared.edges(&self.spec.topic, shard).await?.start,
                        ..cursor
                    };
                    self.shared.read_some(&cursor, &facts, AHEAD, most).await?
                }
                Err(error) => return Err(error),
            };
            came |= !chunk.is_empty();
            let dry = chunk.is_empty();
            self.with(shard, |now, window| {
                (now == epoch).then(|| window.offer(chunk))
            });
            if let Some(owned) = self.inner.lock().shards.get_mut(&shard) {
                owned.dry = dry;
            }
        }
        Ok(came)
    }

    /// There may be more behind what was read.
    pub(super) fn wet(&self) {
        let mut inner = self.inner.lock();
        let shards = inner.shards.values_mut();
        shards.for_each(|owned| owned.dry = false);
    }

    /// Waits at the ends of the shards, until something is there.
    pub(super) fn tail(self: &Arc<Self>) -> Option<Waiting> {
        let mut asked = redis::cmd("XREAD");
        asked
            .arg("COUNT")
            .arg(1)
            .arg("BLOCK")
            .arg(BEAT.as_millis() as i64 * 4)
            .arg("STREAMS");
        let inner = self.inner.lock();
        let open = inner
            .shards
            .iter()
            .filter(|(_, owned)| owned.revoking.is_none() && owned.window.room() > 0);
        let ends: Vec<(Shard, Position)> = open
            .map(|(shard, owned)| (*shard, owned.window.cursor()))
            .collect();
        drop(inner);
        if ends.is_empty() {
            return None;
        }
        for (shard, _) in &ends {
            asked.arg(keys::stream(&self.spec.topic, *shard));
        }
        for (_, position) in &ends {
            asked.arg(keys::id(keys::before(*position)));
        }
        let shared = self.shared.clone();
        Some(Box::pin(async move {
            let waited = shared
                .link
                .wait_for("waiting for messages of a group", &asked, BEAT * 4)
                .await;
            if waited.is_err() {
                // Nobody answers: the beat tells, and this does not spin.
                tokio::time::sleep(BEAT).await;
            }
        }))
    }

    /// Until a lease ends or a message is due.
    pub(super) fn pause(&self) -> Duration {
        let (now, wall) = (self.now(), Timestamp::now());
        let inner = self.inner.lock();
        let mut pause = BEAT;
        for owned in inner.shards.values() {
            let expiry = owned.window.next_expiry().map(|at| at.saturating_sub(now));
            let due = owned
                .window
                .next_due()
                .map(|at| at.since(wall))
                .filter(|due| !due.is_zero());
            let back = owned
                .revoking
                .map(|until| until.saturating_duration_since(Instant::now()));
            for time in expiry.into_iter().chain(due).chain(back) {
                pause = pause.min(time + Duration::from_millis(1));
            }
        }
        pause
    }

    /// What the source asked for, where something may go out: its shard, that one's token and turn, the group's revision, and the
    /// messages.
    fn next(self: &Arc<Self>) -> Option<(Shard, u64, u64, u64, Taken)> {
        let home: Arc<dyn Abandoned> = Arc::new(Home(Arc::downgrade(self)));
        let mut inner = self.inner.lock();
        let (items, bytes) = inner.wanted.filter(|_| inner.may_give())?;
        let (now, wall, turn) = (self.now(), Timestamp::now(), inner.turn);
        let after = inner.shards.range(turn + 1..);
        let order = after.chain(inner.shards.range(..=turn));
        let order: Vec<Shard> = order.map(|(shard, _)| *shard).collect();
        let rev = inner.rev;
        order.into_iter().find_map(|shard| {
            let owned = inner.shards.get_mut(&shard)?;
            let taken = owned.window.take(now, wall, items, bytes, &home)?;
            let (epoch, turned) = (owned.epoch, owned.turn);
            inner.turn = shard;
            Some((shard, epoch, turned, rev, taken))
        })
    }

    fn grant(&self, shard: Shard, epoch: u64, rev: u64, grant: &Grant) -> Invoke {
        let mut invoke = self.shared.scripts.grant.prepare();
        let keys = &self.keys;
        invoke.key(keys.group.clone()).key(keys.shard(shard));
        invoke.key(keys.again(shard)).key(keys.back(shard));
        invoke.arg(epoch as i64).arg(rev as i64);
        invoke.arg(grant.out.map(keys::id).unwrap_or_default());
        invoke.arg(grant.again.len() as i64);
        for again in &grant.again {
            // What new messages went past is not out.
            let out = if again.attempts > 0 { epoch } else { 0 };
            invoke
                .arg(keys::id(again.position))
                .arg(steps::known(again, out));
        }
        let inner = self.inner.lock();
        let owned = inner.shards.get(&shard);
        for (number, again) in &grant.elsewhere {
            if let Some(back) = owned.and_then(|owned| owned.letters.get(number)) {
                invoke.arg(back.number).arg(back.known(again, epoch));
            }
        }
        invoke
    }

    /// Grants the source what it asked for; `true` when something went out.
    pub(super) async fn give(self: &Arc<Self>) -> bool {
        let Some((shard, epoch, turned, rev, taken)) = self.next() else {
            return false;
        };
        let invoke = self.grant(shard, epoch, rev, &taken.grant);
        let what = "granting messages of a group";
        let granted = self.shared.script(what, &invoke, true).await;
        match granted.as_ref().ok().and_then(number) {
            Some(1) => {}
            // An operator changed the group: that is looked at first.
            Some(2) => {
                let mut inner = self.inner.lock();
                (inner.stale, inner.hurry) = (true, true);
                if let Some(owned) = inner.shards.get_mut(&shard) {
                    owned.window.put_back(taken);
                }
                return true;
            }
            _ => {
                // Another member's, or nobody knows: what the server has of it is read again, under a new token.
                disarm(taken.arrival);
                self.lost(shard, epoch);
                return true;
            }
        }
        let mut inner = self.inner.lock();
        let owned = inner.shards.get(&shard);
        if owned.is_none_or(|owned| owned.turn != turned || owned.handed_back) {
            inner.returned.extend(disarm(taken.arrival));
            return true;
        }
        inner.wanted = None;
        inner.queue(Queued {
            of: Some((shard, turned)),
            arrival: taken.arrival,
        });
        true
    }
}
