//! What the mutants do otherwise, each against one promise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use strait_core::events::{Append, Caps, Cursor, Expected, GroupInfo, GroupSpec, Seek, Start};
use strait_core::{
    Arrival, Chunk, Claim, ClaimToken, Claimed, Consumer, Control, Fence, Fut, Name, Outcome,
    Outgoing, Position, Receipt, Result, Sent, Storage, Unit, Verdict,
};

use crate::bent::{Bend, True};
use crate::modest::next_to_nothing;

#[derive(Debug)]
pub(crate) struct LosesAppends(pub(crate) AtomicU32);

impl Bend for LosesAppends {
    fn append(&self, to: &True, append: Append) -> Fut<Result<Sent>> {
        if self.0.fetch_add(1, Ordering::Relaxed) % 7 != 6 {
            return to.events.append(append);
        }
        let asked = to.events.topic(append.topic.clone());
        Box::pin(async move {
            let topic = asked.await?;
            Ok(Sent {
                partition: append.partition,
                first: topic.partitions[append.partition as usize].end,
                count: append.records.len() as u32,
                duplicate: false,
            })
        })
    }
}

#[derive(Debug)]
pub(crate) struct OtherPositions;

impl Bend for OtherPositions {
    fn append(&self, to: &True, append: Append) -> Fut<Result<Sent>> {
        let sent = to.events.append(append);
        Box::pin(async move {
            let sent = sent.await?;
            let first = Position::at(sent.first.offset() ^ 1);
            Ok(Sent { first, ..sent })
        })
    }
}

#[derive(Debug)]
pub(crate) struct IgnoresExpected;

impl Bend for IgnoresExpected {
    fn append(&self, to: &True, append: Append) -> Fut<Result<Sent>> {
        to.events.append(Append {
            expected: Expected::Any,
            ..append
        })
    }
}

#[derive(Debug)]
pub(crate) struct ForgetsIds;

impl Bend for ForgetsIds {
    fn append(&self, to: &True, append: Append) -> Fut<Result<Sent>> {
        to.events.append(Append {
            dedupe: false,
            ..append
        })
    }
}

#[derive(Debug)]
pub(crate) struct ReadsFromStart;

impl Bend for ReadsFromStart {
    fn read(&self, to: &True, mut cursor: Cursor, max_bytes: usize) -> Fut<Result<Chunk>> {
        cursor.position = Position::default();
        to.events.read(cursor, max_bytes)
    }
}

#[derive(Debug)]
pub(crate) struct LocatesNoTime;

impl Bend for LocatesNoTime {
    fn locate(
        &self,
        to: &True,
        topic: Name,
        partition: u32,
        start: Start,
    ) -> Fut<Result<Position>> {
        let start = match start {
            Start::Time(_) => Start::Earliest,
            other => other,
        };
        to.events.locate(topic, partition, start)
    }
}

/// What is stored counts as prepared ahead.
#[derive(Debug)]
pub(crate) struct StoresNothing;

impl Bend for StoresNothing {
    fn storage(&self, to: &True) -> Fut<Result<Storage>> {
        let measured = to.engine.storage();
        Box::pin(async move {
            let storage = measured.await?;
            let spare = storage.used;
            Ok(Storage { spare, ..storage })
        })
    }
}

#[derive(Debug)]
pub(crate) struct NeverCloses;

impl Bend for NeverCloses {
    fn close(&self, _to: &True, _grace: Duration) -> Fut<()> {
        Box::pin(std::future::ready(()))
    }
}

/// Says that it cannot do a thing, and does it all the same.
#[derive(Debug)]
pub(crate) struct AcceptsInSilence;

impl Bend for AcceptsInSilence {
    fn caps(&self, caps: Caps) -> Caps {
        next_to_nothing(caps)
    }
}

/// Lets the effects of a fenced unit out.
#[derive(Debug)]
pub(crate) struct AppliesFenced;

impl Bend for AppliesFenced {
    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let sends: Vec<Vec<Outgoing>> = units.iter().map(|unit| unit.send.clone()).collect();
        let to = to.clone();
        Box::pin(async move {
            let outcomes = to.engine.commit(units).await;
            for (outcome, send) in outcomes.iter().zip(sends) {
                if matches!(outcome, Outcome::Fenced) && !send.is_empty() {
                    let unit = Unit {
                        send,
                        ..Unit::default()
                    };
                    to.engine.commit(vec![unit]).await;
                }
            }
            outcomes
        })
    }
}

/// Settles first, and sends afterwards what can be sent.
#[derive(Debug)]
pub(crate) struct SettlesApart;

impl Bend for SettlesApart {
    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let to = to.clone();
        Box::pin(async move {
            let mut outcomes = Vec::new();
            for mut unit in units {
                let send = std::mem::take(&mut unit.send);
                outcomes.extend(to.engine.commit(vec![unit]).await);
                for outgoing in send {
                    let sent = to.engine.commit(vec![Unit::send(outgoing)]).await;
                    if sent.iter().any(|sent| !matches!(sent, Outcome::Applied(_))) {
                        outcomes.pop();
                        outcomes.extend(sent);
                    }
                }
            }
            outcomes
        })
    }
}

/// Sends what a repeated unit was not to send.
#[derive(Debug)]
pub(crate) struct SendsWhenSeen;

impl Bend for SendsWhenSeen {
    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let sends: Vec<Vec<Outgoing>> = units.iter().map(|unit| unit.send.clone()).collect();
        let to = to.clone();
        Box::pin(async move {
            let outcomes = to.engine.commit(units).await;
            for (outcome, send) in outcomes.iter().zip(sends) {
                if matches!(outcome, Outcome::Seen(_)) {
                    let unit = Unit {
                        send,
                        ..Unit::default()
                    };
                    to.engine.commit(vec![unit]).await;
                }
            }
            outcomes
        })
    }
}

#[derive(Debug)]
pub(crate) struct IgnoresUnder;

impl Bend for IgnoresUnder {
    fn commit(&self, to: &True, mut units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        units.iter_mut().for_each(|unit| unit.under = None);
        to.engine.commit(units)
    }
}

#[derive(Debug)]
pub(crate) struct MixesOutcomes;

impl Bend for MixesOutcomes {
    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let outcomes = to.engine.commit(units);
        Box::pin(async move {
            let mut outcomes = outcomes.await;
            outcomes.reverse();
            outcomes
        })
    }
}

/// Hands the units over with the second poll.
#[derive(Debug)]
pub(crate) struct CommitsLate;

impl Bend for CommitsLate {
    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let to = to.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            to.engine.commit(units).await
        })
    }
}

#[derive(Debug)]
pub(crate) struct GrantsTwice;

impl Bend for GrantsTwice {
    fn claim(&self, to: &True, claim: Claim) -> Fut<Result<Claimed>> {
        let claimed = to.engine.claim(claim);
        Box::pin(async move {
            Ok(match claimed.await? {
                Claimed::Wait => Claimed::Run(ClaimToken(u64::MAX)),
                other => other,
            })
        })
    }
}

/// A copy of a receipt, which no contract allows.
fn copy(receipt: &Receipt) -> Receipt {
    Receipt::new(receipt.fence(), None)
}

#[derive(Debug)]
pub(crate) struct DeliversTwice;

impl Bend for DeliversTwice {
    fn arrival(&self, _control: &Arc<dyn Control>, arrival: Arrival) -> Vec<Arrival> {
        match arrival {
            Arrival::Run(chunk, receipt) => {
                let again = Arrival::Run(chunk.clone(), copy(&receipt));
                vec![Arrival::Run(chunk, receipt), again]
            }
            other => vec![other],
        }
    }
}

#[derive(Debug)]
pub(crate) struct OtherSpec(pub(crate) fn(&mut GroupSpec));

impl Bend for OtherSpec {
    fn join(&self, to: &True, mut spec: GroupSpec) -> Fut<Result<Consumer>> {
        (self.0)(&mut spec);
        to.events.join(spec)
    }
}

#[derive(Debug)]
pub(crate) struct OtherVerdict(pub(crate) fn(Verdict) -> Verdict);

impl Bend for OtherVerdict {
    fn commit(&self, to: &True, mut units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        for (_, verdict) in units.iter_mut().flat_map(|unit| &mut unit.settle) {
            *verdict = (self.0)(verdict.clone());
        }
        to.engine.commit(units)
    }
}

/// Does not wait for the old owner.
#[derive(Debug)]
pub(crate) struct HandsBack;

impl Bend for HandsBack {
    fn arrival(&self, control: &Arc<dyn Control>, arrival: Arrival) -> Vec<Arrival> {
        if let Arrival::Revoking(shard, _) = arrival {
            control.handed_back(shard);
        }
        vec![arrival]
    }
}

#[derive(Debug)]
pub(crate) struct ExtendsAll;

impl Bend for ExtendsAll {
    fn extend(
        &self,
        to: &Arc<dyn Control>,
        fences: Vec<Fence>,
        by: Duration,
    ) -> Fut<Result<Vec<bool>>> {
        let held = to.extend(fences, by);
        Box::pin(async move { Ok(vec![true; held.await?.len()]) })
    }
}

#[derive(Debug)]
pub(crate) struct HoldsNothing;

impl Bend for HoldsNothing {
    fn holds(&self) -> bool {
        false
    }
}

#[derive(Debug)]
pub(crate) struct MovesLiveGroups;

impl Bend for MovesLiveGroups {
    fn seek(&self, seek: Seek) -> Seek {
        Seek {
            force: true,
            ..seek
        }
    }
}

#[derive(Debug)]
pub(crate) struct OtherLag;

impl Bend for OtherLag {
    fn group(&self, mut info: GroupInfo) -> GroupInfo {
        for shard in &mut info.shards {
            shard.lag = shard.lag.saturating_sub(1);
            shard.oldest = Some(Duration::ZERO);
        }
        info
    }
}

/// Knows only the committed position after a reopen.
#[derive(Debug)]
pub(crate) struct LosesRanges;

impl Bend for LosesRanges {
    fn reopened(&self, to: &True) -> Fut<Result<()>> {
        let to = to.clone();
        Box::pin(async move {
            for info in to.events.groups().await? {
                for (partition, shard) in (0..).zip(&info.shards) {
                    let seek = Seek {
                        group: info.group.clone(),
                        topic: info.topic.clone(),
                        partition,
                        to: Start::At(shard.committed),
                        force: true,
                    };
                    to.events.seek(seek).await?;
                }
            }
            Ok(())
        })
    }
}

#[derive(Debug)]
pub(crate) struct ForgetsDropped;

impl Bend for ForgetsDropped {
    fn arrival(&self, _control: &Arc<dyn Control>, arrival: Arrival) -> Vec<Arrival> {
        vec![match arrival {
            Arrival::Run(chunk, receipt) => {
                Arrival::Run(chunk, Receipt::new(receipt.settle(), None))
            }
            Arrival::Each(mut deliveries) => {
                for delivery in &mut deliveries {
                    let fence = delivery.receipt.fence();
                    let own = std::mem::replace(&mut delivery.receipt, Receipt::new(fence, None));
                    own.settle();
                }
                Arrival::Each(deliveries)
            }
            other => other,
        }]
    }
}

pub(crate) fn no_dead_letter(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Dead(_) => Verdict::Done,
        other => other,
    }
}

pub(crate) fn retry_at_once(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Retry { reason, counts, .. } => Verdict::Retry {
            after: Duration::ZERO,
            reason,
            counts,
        },
        other => other,
    }
}

pub(crate) fn uncounted(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Retry { after, reason, .. } => Verdict::Retry {
            after,
            reason,
            counts: false,
        },
        other => other,
    }
}

pub(crate) fn without_reason(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Retry { after, counts, .. } => Verdict::Retry {
            after,
            reason: "".into(),
            counts,
        },
        other => other,
    }
}

pub(crate) fn counted_release(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Release => Verdict::Retry {
            after: Duration::ZERO,
            reason: "released".into(),
            counts: true,
        },
        other => other,
    }
}

pub(crate) fn settled_retry(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Retry { .. } => Verdict::Done,
        other => other,
    }
}

pub(crate) fn taken_answer(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Answer(_) => Verdict::Done,
        other => other,
    }
}
