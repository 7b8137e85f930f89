//! Commits: units stay here while their identities travel, so that what was not applied comes back whole.

use std::sync::Arc;

use bytes::Bytes;
use strait_core::{Effect, Error, Fence, Kind, Outcome, Receipt, Result, Unit, Verdict, codes};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::link::{Effects, Link, too_large};
use crate::frame::kind;
use crate::wire::{Out, WireOutcome, WireUnit, copy_of, malformed, read, speaks};

type Answer = oneshot::Sender<Vec<Outcome>>;

/// Called when the outcomes are there, before anything that arrived behind them is looked at.
pub(crate) type Then = Arc<dyn Fn() + Send + Sync>;

/// The outcomes to come, in the order of the units.
#[derive(Debug)]
pub(crate) struct Commit(Vec<(usize, oneshot::Receiver<Vec<Outcome>>)>);

impl Commit {
    /// Waits for all of them.
    pub(crate) async fn outcomes(self) -> Vec<Outcome> {
        let mut all = Vec::new();
        for (units, part) in self.0 {
            // A part that waited for room when the connection's thread ended was dropped unsent.
            all.extend(
                part.await
                    .unwrap_or_else(|_| (0..units).map(|_| dropped()).collect()),
            );
        }
        all
    }
}

/// Sends units at once, or as soon as there is room on the connection. From here on the commit owns them and runs to
/// its end, whether anybody waits for it or not.
pub(crate) fn send(link: &Arc<Link>, units: Vec<Unit>, then: Option<Then>) -> Commit {
    let mut answers = Vec::new();
    for part in parts(units, link.welcome.payload_max as usize) {
        let (answer, answered) = oneshot::channel();
        answers.push((part.units(), answered));
        let then = then.clone();
        match part {
            Part::Refused(unit, error) => {
                // Nobody listens when the commit was dropped.
                let _ = answer.send(vec![Outcome::NotApplied(unit, error)]);
            }
            Part::Request(request) => match link.try_permit(request.payload.len()) {
                Some(permit) => request.send(link, permit, answer, then),
                None => {
                    let link = link.clone();
                    link.runtime.clone().spawn(async move {
                        let permit = link.permit(request.payload.len()).await;
                        request.send(&link, permit, answer, then);
                    });
                }
            },
        }
    }
    Commit(answers)
}

enum Part {
    Request(Request),
    Refused(Unit, Error),
}

impl Part {
    fn units(&self) -> usize {
        match self {
            Part::Request(request) => request.units.len(),
            Part::Refused(..) => 1,
        }
    }
}

/// The outcome of a unit that is gone.
fn dropped() -> Outcome {
    let text = "the connection ended before the unit was sent";
    Outcome::Unknown(
        Error::new(Kind::Unavailable, text)
            .code(codes::UNKNOWN_OUTCOME)
            .unknown(),
    )
}

/// Units of one request.
struct Request {
    units: Vec<Unit>,
    payload: Out,
}

/// Puts units together that fit one request; what cannot be sent stands by itself.
fn parts(units: Vec<Unit>, limit: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    for unit in units {
        let payload = Out::of(&WireUnit::of(&unit));
        if !unit.send.iter().all(speaks) {
            let what = "a message for a lane that version 1 of strait:// does not carry";
            let error = Error::unsupported(what, "use an engine in this process");
            parts.push(Part::Refused(unit, error));
        } else if payload.len() > limit {
            parts.push(Part::Refused(unit, too_large(payload.len(), limit)));
        } else if let Some(Part::Request(open)) = parts.last_mut()
            && open.payload.len() + payload.len() <= limit
        {
            open.units.push(unit);
            open.payload.append(payload);
        } else {
            let units = vec![unit];
            parts.push(Part::Request(Request { units, payload }));
        }
    }
    parts
}

impl Request {
    fn send(
        self,
        link: &Arc<Link>,
        permit: Option<OwnedSemaphorePermit>,
        answer: Answer,
        then: Option<Then>,
    ) {
        let Request { units, payload } = self;
        let own = Arc::downgrade(link);
        let reply = move |result| {
            drop(permit);
            let again: Vec<ComingAgain> = units.iter().map(ComingAgain::of).collect();
            let outcomes = outcomes(units, result);
            if let Some(then) = then {
                then();
            }
            if let Some(link) = own.upgrade() {
                // Before anybody polls on in the knowledge of the outcome.
                put_back(&link, &again, &outcomes);
            }
            // When nobody listens, units that come back are dropped here and their receipts abandoned.
            let _ = answer.send(outcomes);
        };
        link.request(kind::COMMIT, Effects::Once, payload, Box::new(reply));
    }
}

/// The receipts of a unit whose messages come again, by its outcome.
struct ComingAgain {
    applied: Vec<Fence>,
    /// Their leases or partitions were lost: all of them.
    fenced: Vec<Fence>,
}

impl ComingAgain {
    fn of(unit: &Unit) -> Self {
        let fence = |(receipt, _): &(Receipt, Verdict)| receipt.fence();
        let again = unit
            .settle
            .iter()
            .filter(|(_, verdict)| matches!(verdict, Verdict::Retry { .. } | Verdict::Release));
        ComingAgain {
            applied: again.map(fence).collect(),
            fenced: unit.settle.iter().map(fence).collect(),
        }
    }

    fn after(&self, outcome: &Outcome) -> &[Fence] {
        match outcome {
            Outcome::Applied(_) | Outcome::Seen(_) => &self.applied,
            Outcome::Fenced => &self.fenced,
            Outcome::NotApplied(..) | Outcome::Unknown(_) => &[],
        }
    }
}

/// What the server gave out before it knew that an earlier message comes again has arrived before this outcome.
fn put_back(link: &Arc<Link>, again: &[ComingAgain], outcomes: &[Outcome]) {
    for (again, outcome) in again.iter().zip(outcomes) {
        for fence in again.after(outcome) {
            if let Some(inbox) = link.inbox(fence.consumer) {
                inbox.put_back(link, fence.shard, fence.first);
            }
        }
    }
}

/// Brings the answer and the units together.
fn outcomes(units: Vec<Unit>, answer: Result<Bytes>) -> Vec<Outcome> {
    let answer = answer.and_then(|payload| {
        let list = read::<Result<Vec<WireOutcome>>>(payload)?;
        match list {
            Ok(list) if list.len() != units.len() => {
                Err(malformed("not one outcome per unit").unknown())
            }
            list => list,
        }
    });
    match answer {
        Ok(list) => {
            let pairs = units.into_iter().zip(list);
            pairs.map(|(unit, outcome)| outcome.with(unit)).collect()
        }
        Err(error) => {
            let each = units.into_iter().map(|unit| match error.effect() {
                Effect::NotDone => WireOutcome::NotApplied(copy_of(&error)).with(unit),
                Effect::Unknown => WireOutcome::Unknown(copy_of(&error)).with(unit),
            });
            each.collect()
        }
    }
}

impl WireOutcome {
    fn with(self, unit: Unit) -> Outcome {
        let outcome = match self {
            WireOutcome::NotApplied(error) => return Outcome::NotApplied(unit, error),
            WireOutcome::Applied(sent) => Outcome::Applied(sent),
            WireOutcome::Seen(result) => Outcome::Seen(result),
            WireOutcome::Fenced => Outcome::Fenced,
            WireOutcome::Unknown(error) => Outcome::Unknown(error),
        };
        // Settled, or no longer ours: not abandoned.
        for (receipt, _) in unit.settle {
            receipt.settle();
        }
        outcome
    }
}
