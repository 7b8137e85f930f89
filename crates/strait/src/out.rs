//! What a handler sends: held until its verdict.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use strait_core::events::Expected;
use strait_core::{
    Attr, EngineId, Error, Kind, Message as Stored, NewRecord, Outgoing, Records, Result, Timestamp,
};
use uuid::Uuid;

use crate::events::{Attrs, Topic};
use crate::message::Message;
use crate::run::{Abroad, Effects, Sink};
use crate::trace::TraceContext;

/// Namespace of the ids of effects, for UUID version 5 (RFC 9562).
const EFFECTS: Uuid = Uuid::from_u128(0x8c6b_2e51_5f0d_5a7e_9d3c_1c1f_7ab0_44e2);

/// Effects that one handling may hold.
const MAX_EFFECTS: usize = 10_000;

/// The messages that a handler sends. They leave when it returns `Ok`, in one commit with the end of its message, or with
/// [`or_dead_with`](crate::OrFail::or_dead_with); when it fails or is tried again, they never existed.
///
/// Each effect's id derives from the consumer, the message and its place among the effects: a repeated handling sends the
/// same ids. On an engine that cannot commit effects with the end of their message, the topic's dedupe window drops by them
/// what it has. On one that can, effects leave once without that; a group that is set back sends its effects again.
///
/// ```
/// use strait::{Handled, Out, Raw, State, Topic};
///
/// async fn bill(order: Raw, payments: State<Topic<Raw>>, out: Out) -> Handled {
///     out.append(&payments, &Raw::new("payment.made.v1", "990"))?;
///     Ok(())                                                  // both, or neither
/// }
/// ```
#[derive(Clone)]
pub struct Out {
    inner: Arc<Inner>,
}

struct Inner {
    origin: Origin,
    state: Mutex<Held>,
}

/// What ids, trace and causation of effects derive from.
pub(crate) struct Origin {
    pub(crate) consumer: Arc<str>,
    pub(crate) engine: EngineId,
    pub(crate) message_id: String,
    /// Topics of other engines that may be sent to, with the [`source_id`] for them. `None`: there are none.
    pub(crate) abroad: Option<(Arc<[Sink]>, Uuid)>,
    pub(crate) correlation: Option<String>,
    pub(crate) trace: Option<TraceContext>,
    /// Nothing but its id keeps an effect from being stored twice.
    pub(crate) dedupe: bool,
}

#[derive(Default)]
struct Held {
    sends: Vec<Outgoing>,
    /// To other engines: the sink, and what.
    abroad: Vec<(usize, Outgoing)>,
    ended: bool,
}

impl Held {
    fn len(&self) -> usize {
        self.sends.len() + self.abroad.len()
    }
}

impl Out {
    pub(crate) fn new(origin: Origin) -> Self {
        Out {
            inner: Arc::new(Inner {
                origin,
                state: Mutex::default(),
            }),
        }
    }

    /// Sends a message to a topic of the same engine, or to one of another engine that the consumer names with
    /// [`sends_to`](crate::Consume::sends_to).
    ///
    /// # Errors
    ///
    /// `Rejected` when the message is over a limit or cannot be written, or too many effects are held; `Unsupported` for a
    /// topic of another engine that is not named; `Closed` after the handler ended.
    pub fn append<M: Message>(&self, topic: &Topic<M>, message: &M) -> Result<()> {
        let key = message.key();
        let mut body = Vec::new();
        message.encode(&mut body)?;
        let partition = topic.choose(key.as_deref());
        let origin = &self.inner.origin;
        let trace = origin.trace.map(|trace| trace.to_string());
        let mut attrs = Attrs::default();
        attrs.push(Attr::Kind, message.kind());
        attrs.push(Attr::ContentType, M::CONTENT_TYPE);
        attrs.push(Attr::Traceparent, trace.as_deref());
        attrs.push(Attr::Causation, Some(&origin.message_id));
        attrs.push(Attr::Correlation, origin.correlation.as_deref());
        self.hold(topic, partition, |id| {
            let mut batch = topic.batch(attrs.as_slice(), Timestamp::now(), id)?;
            batch.push(NewRecord {
                key: key.as_deref(),
                body: &body,
                ..NewRecord::default()
            })?;
            Ok(batch.build())
        })
    }

    /// Sends a batch that you made, as it is, to one partition. Its id is its own: derive it from
    /// [`Meta::id`](crate::Meta::id) if a repeated handling must send the same.
    ///
    /// # Errors
    ///
    /// As for [`append`](Out::append); `Rejected` for a partition that does not exist.
    pub fn append_records<M: Message>(
        &self,
        topic: &Topic<M>,
        partition: u32,
        records: Records,
    ) -> Result<()> {
        topic.check_partition(partition)?;
        self.hold(topic, partition, |_| Ok(records))
    }

    fn hold<M: Message>(
        &self,
        topic: &Topic<M>,
        partition: u32,
        records: impl FnOnce(u128) -> Result<Records>,
    ) -> Result<()> {
        let origin = &self.inner.origin;
        let sink = match *topic.engine() == origin.engine {
            true => None,
            false => Some(origin.sink(topic)?),
        };
        let mut held = self.inner.state.lock();
        if held.ended {
            return Err(Error::closed("this handling has ended: its `Out`"));
        }
        if held.len() >= MAX_EFFECTS {
            return Err(
                Error::new(Kind::Rejected, "one handling holds too many effects")
                    .with("limit", MAX_EFFECTS)
                    .next("send a batch as one effect with `append_records`"),
            );
        }
        let id = effect_id(&origin.consumer, &origin.message_id, held.len());
        let append = |dedupe| {
            Ok::<_, Error>(Outgoing::Append {
                topic: topic.name().clone(),
                partition,
                records: records(id)?,
                expected: Expected::Any,
                dedupe,
            })
        };
        match sink {
            None => held.sends.push(append(origin.dedupe)?),
            Some(index) => {
                let caps = topic.lane().caps();
                let by_id = !caps.ledger.is_there() && caps.dedupe.is_there();
                held.abroad.push((index, append(by_id)?));
            }
        }
        Ok(())
    }

    /// Number of effects held.
    pub fn len(&self) -> usize {
        self.inner.state.lock().len()
    }

    /// True while nothing was sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes what was sent; later calls to `append` are refused.
    pub(crate) fn end(&self) -> Effects {
        let mut held = self.inner.state.lock();
        held.ended = true;
        let sends = std::mem::take(&mut held.abroad);
        let abroad = self.inner.origin.abroad.as_ref();
        let abroad = abroad.filter(|_| !sends.is_empty());
        Effects {
            here: std::mem::take(&mut held.sends),
            abroad: abroad.map(|(_, source)| {
                let source = *source;
                Box::new(Abroad { source, sends })
            }),
        }
    }
}

impl fmt::Debug for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Out({} effects)", self.len())
    }
}

impl Origin {
    /// Which of the sinks a topic of another engine is.
    fn sink<M: Message>(&self, topic: &Topic<M>) -> Result<usize> {
        let is_it = |sink: &Sink| {
            sink.topic.engine() == topic.engine() && sink.topic.name() == topic.name()
        };
        let sinks = self.abroad.as_ref().map(|(sinks, _)| sinks.iter());
        sinks.and_then(|mut sinks| sinks.position(is_it)).ok_or_else(|| {
            Error::unsupported(
                format!(
                    "an effect on topic `{}`, which belongs to another engine",
                    topic.name()
                ),
                "name it where the consumer is made, with `.sends_to(&topic)`: the app checks before it starts what is \
                 promised then",
            )
        })
    }
}

/// The identity of a message for one consumer, whoever else has the message's id: in which store it lies, where, and since
/// when, for a topic that is made again begins again with its positions.
pub(crate) fn source_id(consumer: &str, engine: &EngineId, message: &Stored) -> Uuid {
    let name = format!(
        "{consumer}\0{engine}\0{}\0{}\0{}\0{}",
        message.partition(),
        message.position(),
        message.appended().as_millis(),
        message.record().id()
    );
    Uuid::new_v5(&EFFECTS, name.as_bytes())
}

/// The id of an effect: the same for every handling of the same message by the same consumer.
fn effect_id(consumer: &str, message: &str, ordinal: usize) -> u128 {
    let mut name = Vec::with_capacity(consumer.len() + message.len() + 22);
    for part in [consumer, message] {
        name.extend_from_slice(part.as_bytes());
        name.push(0);
    }
    name.extend_from_slice(ordinal.to_string().as_bytes());
    Uuid::new_v5(&EFFECTS, &name).as_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effect_ids_are_fixed() {
        // A change here would double the effects of messages that are handled again after an upgrade.
        let id = Uuid::from_u128(effect_id("billing/orders", "0192.0", 1));
        assert_eq!(id.to_string(), "2563638a-ba90-5113-9f8a-6e5993913841");
        assert_ne!(effect_id("a", "b", 1), effect_id("a", "b", 2));
    }
}
