//! Units: checked, begun in the windows of their members, and handed to the committer.

use strait_core::events::{Append, Expected};
use strait_core::{
    Effect, Error, Fence, Outcome, Outgoing, Result, Shard, Timestamp, Unit, Verdict,
};
use strait_member::Step;
use tokio::sync::oneshot;

use crate::engine::{MAX_BATCH, Shared};
use crate::fault::closed;
use crate::group::{Part, Work};
use crate::produce;

/// What becomes of a unit.
enum Begun {
    Ended(Outcome),
    /// The committer has it.
    Waits(oneshot::Receiver<Outcome>),
    /// One batch and nothing else: an append.
    Append(Unit),
}

impl Shared {
    /// Commits units; the outcomes come in their order.
    pub(crate) async fn commit(&self, units: Vec<Unit>) -> Vec<Outcome> {
        let mut begun = Vec::with_capacity(units.len());
        for unit in units {
            begun.push(self.begin(unit).await);
        }
        let ends = begun.into_iter().map(|begun| async {
            match begun {
                Begun::Ended(outcome) => outcome,
                Begun::Append(unit) => self.append_unit(unit).await,
                Begun::Waits(answer) => answer
                    .await
                    .unwrap_or_else(|_| Outcome::Unknown(closed().unknown())),
            }
        });
        futures_util::future::join_all(ends).await
    }

    async fn begin(&self, unit: Unit) -> Begun {
        if self.pulse.is_closed() {
            return Begun::Ended(Outcome::NotApplied(unit, closed()));
        }
        if let Some(error) = refused(&unit) {
            return Begun::Ended(Outcome::NotApplied(unit, error));
        }
        for outgoing in &unit.send {
            if let Err(error) = self.sendable(outgoing).await {
                return Begun::Ended(Outcome::NotApplied(unit, error));
            }
        }
        if unit.settle.is_empty() && unit.under.is_none() {
            match unit.send.len() {
                0 => return Begun::Ended(Outcome::Applied(Vec::new())),
                1 => return Begun::Append(unit),
                _ => {}
            }
        }
        let Some(parts) = self.parts(&unit) else {
            // The receipts go with the unit: they are void.
            return Begun::Ended(Outcome::Fenced);
        };
        let (work, answer) = Work::unit(parts, unit);
        self.commits.push_all([work]);
        Begun::Waits(answer)
    }

    /// Begins every verdict in its window; `None`, and all is as before, when one of them is void.
    fn parts(&self, unit: &Unit) -> Option<Vec<Part>> {
        let mut parts: Vec<Part> = Vec::new();
        let settles = unit
            .settle
            .iter()
            .map(|(receipt, verdict)| (receipt.fence(), Some(verdict)));
        let all = settles.chain(unit.under.map(|fence| (fence, None)));
        for (fence, verdict) in all {
            match self.part(&fence, verdict) {
                Some(part) => parts.push(part),
                None => {
                    parts.iter().for_each(Part::back);
                    return None;
                }
            }
        }
        Some(parts)
    }

    fn part(&self, fence: &Fence, verdict: Option<&Verdict>) -> Option<Part> {
        let member = self.members.lock().get(&fence.consumer).cloned()?;
        let (epoch, steps) = member.begin(fence, verdict)?;
        Some(Part {
            member,
            shard: fence.shard as Shard,
            epoch,
            steps,
            reserve: None,
        })
    }

    /// Refuses what the cluster would refuse in the middle of a transaction.
    async fn sendable(&self, outgoing: &Outgoing) -> Result<()> {
        let Outgoing::Append {
            topic,
            partition,
            records,
            expected,
            dedupe,
        } = outgoing
        else {
            return Err(Error::unsupported(
                "Kafka has one lane: events",
                "send an event",
            ));
        };
        if *expected != Expected::Any || *dedupe {
            return Err(Error::unsupported(
                "Kafka cannot append at an expected position or version, and knows no ids of earlier messages",
                "use the embedded engine for event sourcing; let the consumer be idempotent by id",
            ));
        }
        self.partition(topic, *partition).await?;
        let compacted = self.facts(topic).await?.compacted;
        produce::check(records, self.max_body(), MAX_BATCH, compacted)
    }

    async fn append_unit(&self, unit: Unit) -> Outcome {
        let Some(Outgoing::Append {
            topic,
            partition,
            records,
            expected,
            dedupe,
        }) = unit.send.first().cloned()
        else {
            return Outcome::Applied(Vec::new());
        };
        let append = Append {
            topic,
            partition,
            records,
            expected,
            dedupe,
        };
        match self.append(append).await {
            Ok(sent) => Outcome::Applied(vec![sent]),
            Err(error) if error.effect() == Effect::Unknown => Outcome::Unknown(error),
            Err(error) => Outcome::NotApplied(unit, error),
        }
    }
}

/// What this engine cannot do in a unit.
fn refused(unit: &Unit) -> Option<Error> {
    if unit.once.is_some() {
        return Some(Error::unsupported(
            "Kafka has no idempotency ledger",
            "let the handler be idempotent by the message's id, or keep the ledger at the sink",
        ));
    }
    let answers = |(_, verdict): &(_, Verdict)| matches!(verdict, Verdict::Answer(_));
    if unit.settle.iter().any(answers) {
        return Some(Error::unsupported(
            "an event has no caller that waits for an answer",
            "request and answer over the lane `requests`",
        ));
    }
    None
}

impl crate::group::Member {
    /// Begins a verdict; without one it is only asked whether the receipt is valid.
    fn begin(&self, fence: &Fence, verdict: Option<&Verdict>) -> Option<(u64, Vec<Step>)> {
        let back = matches!(verdict, Some(Verdict::Retry { .. } | Verdict::Release));
        self.with_shard(fence.shard, back, |epoch, window| match verdict {
            Some(verdict) => Some((epoch, window.begin(fence, verdict, Timestamp::now())?)),
            None => window.holds(fence).then(|| (epoch, Vec::new())),
        })
    }
}
