//! Effects on other engines: the sink first, with the source's id in its ledger, then the source.
//!
//! Two engines have no commit in common. So what a message sends to another engine is committed there together with the
//! message's id, and only then is the message settled. When that does not happen any more, it is delivered again, its
//! handler runs again, and the sink answers that it knows the id: nothing is sent, the message is settled.

use std::time::Duration;

use bytes::Bytes;
use strait_core::{Engine, Error, Kind, Once, OnceEnd, Outcome, Outgoing, Unit};
use uuid::Uuid;

use super::ConsumerCx;
use super::settle::Ticket;
use crate::events::Topic;
use crate::message::Raw;

/// How long a sink remembers whose effects it has: the source has to settle the message, or to deliver it again, within it.
pub(crate) const REMEMBER: Duration = Duration::from_secs(24 * 3600);

/// A topic of another engine that a consumer's handler sends to.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    pub(crate) topic: Topic<Raw>,
}

impl Sink {
    pub(crate) fn has_ledger(&self) -> bool {
        self.topic.lane().caps().ledger.is_there()
    }

    fn engine(&self) -> &dyn Engine {
        &**self.topic.strait().engine()
    }
}

/// What a handling sends.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// On the engine of its message.
    pub(crate) here: Vec<Outgoing>,
    /// On others.
    pub(crate) abroad: Option<Box<Abroad>>,
}

impl Effects {
    pub(crate) fn is_empty(&self) -> bool {
        self.here.is_empty() && self.abroad.is_none()
    }
}

/// What a handling sends to other engines.
#[derive(Debug, Clone)]
pub(crate) struct Abroad {
    /// The id of the message and its consumer, the same in every attempt.
    pub(crate) source: Uuid,
    /// To which of the consumer's sinks, and what.
    pub(crate) sends: Vec<(usize, Outgoing)>,
}

impl Abroad {
    /// The unit for one engine; `None` when nothing goes there.
    fn unit(&self, consumer: &ConsumerCx, engine: &strait_core::EngineId) -> Option<Unit> {
        let mut unit = Unit::default();
        for (index, outgoing) in &self.sends {
            let sink = consumer.sinks.get(*index)?;
            if sink.topic.engine() == engine {
                unit.send.push(outgoing.clone());
                if unit.once.is_none() && sink.has_ledger() {
                    unit.once = Some(self.once(consumer));
                }
            }
        }
        (!unit.send.is_empty()).then_some(unit)
    }

    fn once(&self, consumer: &ConsumerCx) -> Once {
        Once {
            scope: format!("effects of {}", consumer.id),
            key: self.source.to_string(),
            claim: None,
            end: OnceEnd::Store {
                result: Bytes::new(),
                ttl: REMEMBER,
            },
        }
    }
}

type Units = Vec<(Ticket, Unit)>;

/// Commits at their sinks what the units send abroad. Gives the units that may be committed at the source now, and the
/// outcomes of those that may not: they come back as they were.
pub(super) async fn first(consumer: &ConsumerCx, units: Units) -> (Units, Vec<(Ticket, Outcome)>) {
    if units.iter().all(|(ticket, _)| ticket.abroad.is_none()) {
        return (units, Vec::new());
    }
    let mut failures: Vec<Option<Error>> = Vec::new();
    failures.resize_with(units.len(), || None);
    for sink in distinct(&consumer.sinks) {
        let mut indexes = Vec::new();
        let mut there = Vec::new();
        for (index, (ticket, _)) in units.iter().enumerate() {
            let abroad = ticket.abroad.as_ref();
            if let Some(unit) = abroad.and_then(|a| a.unit(consumer, sink.topic.engine())) {
                indexes.push(index);
                there.push(unit);
            }
        }
        if there.is_empty() {
            continue;
        }
        let outcomes = sink.engine().commit(there).await;
        for (index, outcome) in indexes.into_iter().zip(outcomes) {
            if let Some(error) = failure(outcome) {
                failures[index] = Some(error.with("sink", sink.topic.name()));
            }
        }
    }
    let mut ready = Vec::with_capacity(units.len());
    let mut back = Vec::new();
    for ((mut ticket, unit), failure) in units.into_iter().zip(failures) {
        match failure {
            Some(error) => back.push((ticket, Outcome::NotApplied(unit, error))),
            None => {
                ticket.abroad = None;
                ready.push((ticket, unit));
            }
        }
    }
    (ready, back)
}

/// Why the effects are not there. Where their end is not known they are sent again: the ledger knows them then, and without
/// one the consumer has said that they may leave twice.
fn failure(outcome: Outcome) -> Option<Error> {
    match outcome {
        Outcome::Applied(_) | Outcome::Seen(_) => None,
        Outcome::NotApplied(_, error) => Some(error),
        Outcome::Unknown(error) => Some(error.retry(true)),
        Outcome::Fenced => Some(Error::new(
            Kind::Unexpected,
            "the sink fenced effects that have no receipt",
        )),
    }
}

/// One sink of each engine.
fn distinct(sinks: &[Sink]) -> impl Iterator<Item = &Sink> {
    sinks.iter().enumerate().filter_map(|(index, sink)| {
        let same = |other: &Sink| other.topic.engine() == sink.topic.engine();
        (!sinks[..index].iter().any(same)).then_some(sink)
    })
}
