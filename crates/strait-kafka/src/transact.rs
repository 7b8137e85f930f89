//! Transactions: what a unit sends, the dead letters and the offsets, all or none.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, Producer as _};
use strait_core::{Error, Name, Outgoing, Result, Sent};
use strait_member::End;
use tokio::sync::oneshot;

use crate::engine::Shared;
use crate::fault::{closed, fault};
use crate::group::{Plans, Work, offsets};
use crate::link::Link;
use crate::{dead, produce};

/// After this time the cluster itself ends a transaction whose process is gone: until then nobody reads past it.
const LONGEST_MS: &str = "15000";

/// How long a committed transaction is waited for to show.
const SHOWN: Duration = Duration::from_secs(2);

/// The producer of transactions; made when the first one is needed, and anew after a fault that it cannot recover from.
#[derive(Default)]
pub(crate) struct Transactions {
    producer: Option<BaseProducer<Link>>,
}

/// How a transaction failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nothing of it happened.
    Aborted(Error),
    /// It may have happened.
    Unknown(Error),
}

/// The reports of a batch, once they are there.
pub(crate) type Report = oneshot::Receiver<Result<i64, Code>>;

impl Transactions {
    /// Serves the producer's events while it has nothing to do.
    pub(crate) fn serve(&self) {
        if let Some(producer) = &self.producer {
            producer.poll(Duration::ZERO);
        }
    }

    /// Commits the works with all that they write. Gives what was sent for each.
    pub(crate) fn run(
        &mut self,
        shared: &Shared,
        works: &[Work],
        plans: &Plans,
    ) -> Result<Vec<Vec<Sent>>, Failed> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => make(shared).map_err(Failed::Aborted)?,
        };
        let what = "a transaction";
        let time = shared.options.timeout;
        producer
            .begin_transaction()
            .map_err(|error| Failed::Aborted(fault(what, error)))?;
        let filled = fill(shared, &producer, works, plans);
        let reports = match filled {
            Ok(reports) => reports,
            Err(error) => {
                self.abort(producer, time);
                return Err(Failed::Aborted(error));
            }
        };
        drain(&producer, time);
        match producer.commit_transaction(time) {
            Ok(()) => {
                self.producer = Some(producer);
                let (reports, written) = reports;
                let sent = sent(works, reports).map_err(Failed::Unknown)?;
                shown(shared, &sent, works, written);
                Ok(sent)
            }
            Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => {
                let failed = fault(what, KafkaError::Transaction(error));
                self.abort(producer, time);
                Err(Failed::Aborted(failed))
            }
            Err(error) => Err(Failed::Unknown(fault(what, error))),
        }
    }

    /// A producer that cannot even abort is left; the cluster ends its transaction.
    fn abort(&mut self, producer: BaseProducer<Link>, time: Duration) {
        drain(&producer, time);
        match producer.abort_transaction(time) {
            Ok(()) => self.producer = Some(producer),
            Err(error) => tracing::debug!(%error, "a transaction could not be aborted"),
        }
    }
}

/// Waits until every message of the transaction has its report. The commit does so too, but looks only ten times a second, and the
/// abort waits for it without looking.
fn drain(producer: &BaseProducer<Link>, time: Duration) {
    let deadline = Instant::now() + time;
    while producer.in_flight_count() > 0 && Instant::now() < deadline {
        producer.poll(Duration::from_millis(1));
    }
}

fn make(shared: &Shared) -> Result<BaseProducer<Link>> {
    let what = "beginning transactions";
    let mut config = shared.config.clone();
    config.set(
        "transactional.id",
        format!("strait-{:x}", crate::group::new_id()),
    );
    config.set("transaction.timeout.ms", LONGEST_MS);
    config.set("message.timeout.ms", LONGEST_MS);
    config.set("queue.buffering.max.messages", "0");
    for (name, value) in [
        ("linger.ms", "0"),
        ("retry.backoff.ms", "10"),
        ("batch.num.messages", "100000"),
        ("message.max.bytes", "1000000000"),
    ] {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    let producer: BaseProducer<Link> =
        BaseProducer::from_config_and_context(&config, shared.pulse.link())
            .map_err(|error| fault(what, error))?;
    producer
        .init_transactions(shared.options.timeout)
        .map_err(|error| fault(what, error))?;
    Ok(producer)
}

/// Puts everything into the transaction that is open. Gives the reports of what units send.
fn fill(
    shared: &Shared,
    producer: &BaseProducer<Link>,
    works: &[Work],
    plans: &Plans,
) -> Result<(Vec<Vec<Report>>, Vec<dead::Written>)> {
    let mut reports = Vec::with_capacity(works.len());
    let mut written = Vec::new();
    for work in works {
        let sends = work
            .sends()
            .iter()
            .map(|outgoing| send(shared, producer, outgoing));
        reports.push(sends.collect::<Result<Vec<Report>>>()?);
        for part in &work.parts {
            for step in &part.steps {
                if let End::Dead { attempts, reason } = &step.end {
                    written.extend(dead::write(producer, part, step, *attempts, reason)?);
                }
            }
        }
    }
    let mut ids: Vec<u64> = plans.keys().map(|(id, _)| *id).collect();
    ids.dedup();
    for id in ids {
        let list = offsets(plans, id)?;
        let plan = plans.range((id, 0)..).next().map(|(_, plan)| plan);
        let consumer = plan
            .and_then(|plan| plan.member.consumer())
            .ok_or_else(closed)?;
        let group = consumer.group_metadata().ok_or_else(closed)?;
        producer
            .send_offsets_to_transaction(&list, &group, shared.options.timeout)
            .map_err(|error| fault("putting offsets into a transaction", error))?;
    }
    Ok((reports, written))
}

fn send(shared: &Shared, producer: &BaseProducer<Link>, outgoing: &Outgoing) -> Result<Report> {
    let Outgoing::Append {
        topic,
        partition,
        records,
        ..
    } = outgoing
    else {
        return Err(Error::unsupported(
            "Kafka has one lane: events",
            "send an event",
        ));
    };
    let compacted = shared.known.get(topic).is_some_and(|facts| facts.compacted);
    Ok(produce::enqueue(
        producer, topic, *partition, records, compacted,
    ))
}

/// The positions of what was sent: the reports are all in when the transaction is committed.
fn sent(works: &[Work], reports: Vec<Vec<Report>>) -> Result<Vec<Vec<Sent>>> {
    let each = works.iter().zip(reports).map(|(work, reports)| {
        let sends = work
            .sends()
            .iter()
            .zip(reports)
            .map(|(outgoing, mut report)| {
                let Outgoing::Append {
                    topic,
                    partition,
                    records,
                    ..
                } = outgoing
                else {
                    return Err(closed());
                };
                let found = report.try_recv().map_err(|_| closed())?;
                produce::sent(topic, *partition, records.len() as u32, found)
            });
        sends.collect()
    });
    each.collect()
}

/// Waits until readers see what was committed: a cluster answers a commit before it has marked every partition, and whoever
/// has the answer reads his own writes.
fn shown(shared: &Shared, sent: &[Vec<Sent>], works: &[Work], written: Vec<dead::Written>) {
    let mut wanted: BTreeMap<(Name, u32), u64> = BTreeMap::new();
    let sends = works
        .iter()
        .flat_map(Work::sends)
        .zip(sent.iter().flatten());
    let sends = sends.filter_map(|(outgoing, sent)| match outgoing {
        Outgoing::Append {
            topic, partition, ..
        } => Some((
            topic.clone(),
            *partition,
            sent.first.offset() + u64::from(sent.count),
        )),
        _ => None,
    });
    let dead = written.into_iter().filter_map(|(topic, mut report)| {
        let at = report.try_recv().ok()?.ok()?;
        Some((topic, 0, at as u64 + 1))
    });
    for (topic, partition, end) in sends.chain(dead) {
        let wants = wanted.entry((topic, partition)).or_default();
        *wants = end.max(*wants);
    }
    let deadline = Instant::now() + SHOWN;
    while !wanted.is_empty() && Instant::now() < deadline {
        let asked: Vec<(Name, u32)> = wanted.keys().cloned().collect();
        match shared.ends(&asked) {
            Ok(ends) => wanted.retain(|place, end| ends.get(place).is_none_or(|now| *now < *end)),
            Err(error) => return tracing::debug!(?error, "looking at what was committed"),
        }
    }
}
