//! Units: one script each, so that all of a unit happens or nothing.

use bytes::Bytes;
use redis::Value;
use strait_core::events::Expected;
use strait_core::{
    Effect, Error, Kind, Name, Once, OnceEnd, Outcome, Outgoing, Records, Result, Sent, Unit,
    Verdict, codes,
};

use crate::append::{self, ids, put_records, wrong_version};
use crate::engine::Shared;
use crate::fault::{closed, no_such_topic, odd};
use crate::group::{Ending, put_shards};
use crate::reply::{bytes, list, number, text};
use crate::script::Invoke;
use crate::topics::Facts;
use crate::{keys, ledger};

/// What the script answered.
enum Answer {
    Applied(Vec<Sent>),
    Seen(Bytes),
    Fenced,
}

/// One batch of a unit.
struct Batch<'a> {
    topic: &'a Name,
    partition: u32,
    records: &'a Records,
    expected: &'a Expected,
    dedupe: bool,
}

impl Shared {
    pub(crate) async fn unit(&self, unit: Unit) -> Outcome {
        if self.link.is_closed() {
            return Outcome::NotApplied(unit, closed());
        }
        if unit
            .settle
            .iter()
            .any(|(_, verdict)| matches!(verdict, Verdict::Answer(_)))
        {
            let error = Error::unsupported(
                "a message of the events lane has no caller to answer",
                "send to a topic",
            );
            return Outcome::NotApplied(unit, error);
        }
        let Some(endings) = self.endings(&unit) else {
            return Outcome::Fenced;
        };
        match self.apply(&unit, &endings).await {
            Ok(Answer::Applied(sent)) => {
                end(unit, endings);
                Outcome::Applied(sent)
            }
            Ok(Answer::Seen(result)) => {
                end(unit, endings);
                Outcome::Seen(result)
            }
            Ok(Answer::Fenced) => {
                endings.iter().for_each(Ending::back);
                self.look_again(&endings);
                Outcome::Fenced
            }
            Err(error) => {
                endings.iter().for_each(Ending::back);
                match error.effect() {
                    Effect::Unknown => {
                        // Whether it happened is known to the server alone.
                        endings.iter().for_each(Ending::lost);
                        self.look_again(&endings);
                        Outcome::Unknown(error)
                    }
                    Effect::NotDone => Outcome::NotApplied(unit, error),
                }
            }
        }
    }

    /// What the unit says of messages that are out. `None`: a receipt is no longer valid; then nothing is changed.
    fn endings(&self, unit: &Unit) -> Option<Vec<Ending>> {
        let mut endings: Vec<Ending> = Vec::with_capacity(unit.settle.len());
        let settle = unit.settle.iter().map(|(receipt, verdict)| {
            let fence = receipt.fence();
            let member = self.members.get(fence.consumer)?;
            Ending::begin(&member, &fence, verdict)
        });
        let under = unit.under.iter().map(|fence| {
            let member = self.members.get(fence.consumer)?;
            Ending::under(&member, fence)
        });
        for ending in settle.chain(under) {
            match ending {
                Some(ending) => endings.push(ending),
                None => {
                    endings.iter().for_each(Ending::back);
                    return None;
                }
            }
        }
        Some(endings)
    }

    fn look_again(&self, endings: &[Ending]) {
        endings.iter().for_each(|ending| ending.member.beat_now());
    }

    async fn apply(&self, unit: &Unit, endings: &[Ending]) -> Result<Answer> {
        let batches = unit.send.iter().map(batch).collect::<Result<Vec<_>>>()?;
        if batches.is_empty() && unit.once.is_none() && endings.is_empty() {
            return Ok(Answer::Applied(Vec::new()));
        }
        let mut invoke = self.scripts.unit.prepare();
        put_once(&mut invoke, unit.once.as_ref())?;
        put_shards(&mut invoke, endings);
        invoke.arg(batches.len() as i64);
        let mut bytes = 0;
        for batch in &batches {
            append::check(batch.records)?;
            let facts = self.partition(batch.topic, batch.partition).await?;
            put_batch(&mut invoke, batch, &facts)?;
            bytes += batch.records.bytes().len();
        }
        let _room = self.room(bytes).await?;
        let answer = self.script("committing a unit", &invoke, true).await?;
        self.answer(&answer, &batches)
    }

    fn answer(&self, answer: &Value, batches: &[Batch<'_>]) -> Result<Answer> {
        let odd = || odd("committing a unit");
        let answer = list(answer).ok_or_else(odd)?;
        let of = || {
            let index = answer.get(1).and_then(number);
            let index = index.and_then(|index| usize::try_from(index - 1).ok());
            index.and_then(|index| batches.get(index)).ok_or_else(odd)
        };
        match answer.first().and_then(text) {
            Some("applied") => {
                let pairs = answer[1..].chunks_exact(2).zip(batches);
                let sent = pairs.map(|(pair, batch)| {
                    let first = bytes(&pair[1]).and_then(keys::position).ok_or_else(odd)?;
                    Ok(Sent {
                        partition: batch.partition,
                        first,
                        count: batch.records.len() as u32,
                        duplicate: text(&pair[0]) == Some("known"),
                    })
                });
                Ok(Answer::Applied(sent.collect::<Result<_>>()?))
            }
            Some("seen") => {
                let result = answer.get(1).and_then(bytes).unwrap_or_default();
                Ok(Answer::Seen(Bytes::copy_from_slice(result)))
            }
            Some("fenced") => Ok(Answer::Fenced),
            Some("busy") => Err(Error::new(
                Kind::Busy,
                "another holder runs the work behind this idempotency key",
            )),
            Some("nowhere") => {
                let text = "the topic for copies of dead letters is not there";
                Err(Error::new(Kind::NotFound, text).code(codes::NO_SUCH_TOPIC))
            }
            Some("missing") => {
                let batch = of()?;
                self.known.forget(batch.topic);
                Err(no_such_topic(batch.topic))
            }
            Some("other") => {
                let topic = of()?.topic;
                let text =
                    format!("the key of the topic {topic} holds something else than a stream");
                Err(Error::new(Kind::Conflict, text).next("rename the topic, or that key"))
            }
            Some("ends") => {
                let batch = of()?;
                let end = answer.get(2).and_then(bytes).and_then(keys::position);
                Err(wrong_version(
                    batch.topic,
                    batch.partition,
                    end.ok_or_else(odd)?,
                ))
            }
            _ => Err(odd()),
        }
    }
}

/// It is stored: the receipts are used up.
fn end(unit: Unit, endings: Vec<Ending>) {
    endings.into_iter().for_each(Ending::applied);
    unit.settle.into_iter().for_each(|(receipt, _)| {
        receipt.settle();
    });
}

fn batch(outgoing: &Outgoing) -> Result<Batch<'_>> {
    match outgoing {
        Outgoing::Append {
            topic,
            partition,
            records,
            expected,
            dedupe,
        } => Ok(Batch {
            topic,
            partition: *partition,
            records,
            expected,
            dedupe: *dedupe,
        }),
        _ => Err(Error::unsupported(
            "this engine has only the events lane",
            "send to a topic, or use the embedded engine",
        )),
    }
}

fn put_once(invoke: &mut Invoke, once: Option<&Once>) -> Result<()> {
    let Some(once) = once else {
        invoke.arg(0).arg("").arg("").arg("").arg(0);
        return Ok(());
    };
    ledger::check(&once.scope, &once.key)?;
    invoke.key(keys::once(&once.scope, &once.key));
    let token = once.claim.map(|token| token.0.to_string());
    invoke.arg(1).arg(token.unwrap_or_default());
    match &once.end {
        OnceEnd::Store { result, ttl } => {
            let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 4);
            invoke.arg("store").arg(&result[..]).arg(ttl);
        }
        OnceEnd::Forget => {
            invoke.arg("forget").arg("").arg(0);
        }
    }
    Ok(())
}

fn put_batch(invoke: &mut Invoke, batch: &Batch<'_>, facts: &Facts) -> Result<()> {
    let (window, made) = (facts.window.as_millis() as i64, &facts.made);
    let expected = match batch.expected {
        Expected::Any => String::new(),
        Expected::Position(at) => keys::id(*at),
        Expected::KeyVersion(_) => return Err(append::no_key_versions()),
    };
    invoke.key(keys::stream(batch.topic, batch.partition));
    let ids = match batch.dedupe {
        true => ids(batch.records),
        false => Vec::new(),
    };
    invoke.arg(expected).arg(window).arg(ids.len() as i64);
    for id in &ids {
        invoke.key(keys::dedupe(batch.topic, made, batch.partition, id));
    }
    put_records(invoke, batch.records);
    Ok(())
}
