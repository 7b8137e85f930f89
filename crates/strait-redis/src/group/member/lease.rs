//! The leases of a member: it shows that it lives, takes its share of the partitions, and gives back what is too much.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;
use strait_core::{Arrival, Result, Shard};

use super::{Member, Owned};
use crate::fault::odd;
use crate::group::SESSION_MS;
use crate::keys;
use crate::reply::{list, number, text};

impl Member {
    pub(super) fn silent(&self, error: &strait_core::Error) {
        tracing::debug!(?error, group = %self.spec.group, "a member could not show that it lives");
        let mut inner = self.inner.lock();
        if Instant::now() >= inner.alive_until {
            let shards: Vec<Shard> = inner.shards.keys().copied().collect();
            shards.into_iter().for_each(|shard| inner.lose(shard));
        }
    }

    pub(super) fn has_back(&self) -> bool {
        let inner = self.inner.lock();
        inner.hurry || inner.shards.values().any(|owned| owned.handed_back)
    }

    /// Shards whose time to be handed back is over are lost to the member.
    pub(super) fn end_hand_overs(&self) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let over =
            |owned: &Owned| !owned.handed_back && owned.revoking.is_some_and(|until| until <= now);
        let over: Vec<Shard> = inner
            .shards
            .iter()
            .filter(|(_, owned)| over(owned))
            .map(|(s, _)| *s)
            .collect();
        for shard in over {
            if let Some(owned) = inner.shards.get_mut(&shard) {
                owned.handed_back = true;
            }
            inner.return_of(shard);
            inner.arrive(Arrival::Lost(shard));
        }
    }

    /// Shows that it lives, gives back what was handed back, and takes its share. `false`: the group is gone.
    pub(super) async fn beat(self: &Arc<Self>, leaves: bool) -> Result<bool> {
        let what = "keeping the leases of a group";
        let begun = Instant::now();
        let (mut back, partitions);
        {
            let mut inner = self.inner.lock();
            inner.hurry = false;
            partitions = inner.partitions;
            back = std::mem::take(&mut inner.let_go);
            // Not before what never reached the member is stored.
            let stored = |shard: &Shard| inner.returned.iter().all(|fence| fence.shard != *shard);
            let shards = inner.shards.iter().filter(|(_, owned)| owned.handed_back);
            let ended = shards.map(|(shard, _)| *shard).filter(stored);
            let ended: Vec<Shard> = ended.collect();
            for shard in ended {
                inner.shards.remove(&shard);
                back.push(shard);
            }
        }
        let mut invoke = self.shared.scripts.beat.prepare();
        invoke
            .key(self.keys.group.clone())
            .key(self.keys.members.clone());
        invoke
            .key(self.keys.names.clone())
            .key(self.keys.dead.clone());
        (0..partitions).for_each(|partition| {
            invoke.key(self.keys.shard(partition));
        });
        invoke
            .arg(keys::member(self.id))
            .arg(SESSION_MS)
            .arg(i64::from(leaves));
        back.iter().for_each(|shard| {
            invoke.arg(i64::from(*shard));
        });
        let answer = self.shared.script(what, &invoke, true).await;
        if answer.is_err() {
            // Not given back yet, as far as is known: taken again without that they would have the token of before.
            self.inner.lock().let_go.extend(back);
        }
        let answer = answer?;
        let answer = list(&answer).ok_or_else(|| odd(what))?;
        let ([Value::Int(target), Value::Int(dead), Value::Int(rev)], Some("lives")) = (
            answer.get(1..4).unwrap_or_default(),
            answer.first().and_then(text),
        ) else {
            return Ok(answer.first().and_then(text) == Some("left"));
        };
        self.take_shares(&answer[4..], *target as usize, *dead as u64, begun)
            .await?;
        self.look(*rev as u64).await?;
        self.grow().await?;
        Ok(true)
    }

    async fn take_shares(
        self: &Arc<Self>,
        shares: &[Value],
        target: usize,
        dead: u64,
        begun: Instant,
    ) -> Result<()> {
        let mut mine = Vec::new();
        for share in shares {
            let numbers: Vec<i64> = list(share)
                .unwrap_or_default()
                .iter()
                .filter_map(number)
                .collect();
            if let [shard, epoch, _] = numbers[..] {
                mine.push((shard as Shard, epoch as u64));
            }
        }
        for (shard, epoch) in &mine {
            let known = self
                .inner
                .lock()
                .shards
                .get(shard)
                .is_some_and(|owned| owned.epoch == *epoch);
            if !known {
                self.assign(*shard, *epoch).await?;
            }
        }
        let mut inner = self.inner.lock();
        inner.alive_until = begun + Duration::from_millis(SESSION_MS as u64);
        inner.dead = dead;
        let gone: Vec<Shard> = inner
            .shards
            .iter()
            .filter(|(shard, owned)| !mine.contains(&(**shard, owned.epoch)))
            .map(|(shard, _)| *shard)
            .collect();
        for shard in gone {
            inner.shards.remove(&shard);
            inner.arrive(Arrival::Lost(shard));
        }
        let staying = inner
            .shards
            .values()
            .filter(|owned| owned.revoking.is_none())
            .count();
        let surplus = staying.saturating_sub(target);
        let until = Instant::now() + self.spec.handover;
        let leaving: Vec<Shard> = inner
            .shards
            .iter()
            .rev()
            .filter(|(_, owned)| owned.revoking.is_none())
            .map(|(shard, _)| *shard)
            .take(surplus)
            .collect();
        for shard in leaving {
            if let Some(owned) = inner.shards.get_mut(&shard) {
                owned.revoking = Some(until);
                owned.window.hold(true);
            }
            inner.arrive(Arrival::Revoking(shard, self.spec.handover));
        }
        Ok(())
    }

    /// Partitions that were added get their places.
    async fn grow(&self) -> Result<()> {
        let has = self.inner.lock().partitions;
        let now = self.shared.facts(&self.spec.topic).await?.partitions;
        if now > has {
            let start = strait_core::events::Start::Earliest;
            let placed = self
                .shared
                .place(&self.keys, &self.spec, start, self.id, now, false);
            placed.await?;
            self.inner.lock().partitions = now;
        }
        Ok(())
    }
}
