//! Appending: a batch goes out message by message, and its answer is put together from the delivery reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use parking_lot::Mutex;
use rdkafka::Message as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord};
use strait_core::{Error, Kind, Name, Position, Records, Result, Sent, codes};
use tokio::sync::oneshot;

use crate::envelope;
use crate::fault::{coded, fault, may_be_stored};
use crate::link::Link;

/// What a message needs in a request beside its key, headers and body.
const OVERHEAD: usize = 128;
/// What the headers of the envelope need at most, beside the texts of the attributes.
const ENVELOPE: usize = 512;

/// A batch on its way: as many reports as it has messages, the last of which answers.
#[derive(Debug)]
pub(crate) struct Pending {
    left: AtomicU32,
    first: AtomicI64,
    error: Mutex<Option<Code>>,
    answer: Mutex<Option<oneshot::Sender<Result<i64, Code>>>>,
}

impl Pending {
    /// For a message whose position nobody asks for.
    pub(crate) fn one() -> (Arc<Self>, oneshot::Receiver<Result<i64, Code>>) {
        Self::new(1)
    }

    fn new(count: u32) -> (Arc<Self>, oneshot::Receiver<Result<i64, Code>>) {
        let (to, answer) = oneshot::channel();
        let pending = Pending {
            left: AtomicU32::new(count),
            first: AtomicI64::new(i64::MAX),
            error: Mutex::default(),
            answer: Mutex::new(Some(to)),
        };
        (Arc::new(pending), answer)
    }

    /// The report for one message of it.
    pub(crate) fn delivered(&self, result: &DeliveryResult<'_>) {
        match result {
            Ok(message) => {
                self.first.fetch_min(message.offset(), Ordering::Relaxed);
            }
            Err((error, _)) => self.failed(error),
        }
        self.end(1);
    }

    fn failed(&self, error: &KafkaError) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let mut first = self.error.lock();
        // The first fault is the cause; what follows it in the batch fails because of it.
        first.get_or_insert(code);
    }

    fn end(&self, count: u32) {
        if self.left.fetch_sub(count, Ordering::AcqRel) != count {
            return;
        }
        let result = match *self.error.lock() {
            Some(code) => Err(code),
            None => Ok(self.first.load(Ordering::Relaxed)),
        };
        if let Some(to) = self.answer.lock().take() {
            // Whoever appended may have gone meanwhile.
            let _ = to.send(result);
        }
    }
}

/// Refuses what the cluster would refuse in the middle of a batch.
pub(crate) fn check(records: &Records, body: usize, batch: usize, keyed: bool) -> Result<()> {
    let too_large = |what: &str, len: usize, limit: usize| {
        let text = format!("{what} is too large: {len} bytes, the limit is {limit}");
        Error::new(Kind::Rejected, text).code(codes::TOO_LARGE)
    };
    if records.is_empty() {
        return Err(Error::new(Kind::Rejected, "a batch without records"));
    }
    let len = records.bytes().len();
    if len > batch && records.len() > 1 {
        return Err(too_large("the batch", len, batch));
    }
    for record in records.iter() {
        if record.body().len() > body {
            return Err(too_large("the body", record.body().len(), body).next(
                "send a reference to it (claim check), or raise `message.max.bytes` of the cluster",
            ));
        }
        let attrs: usize = record.attrs().map(|(_, text)| text.len()).sum();
        let whole = record.size() + attrs + OVERHEAD + ENVELOPE;
        if whole > body + super::HEADROOM {
            return Err(too_large(
                "a message with its key and headers",
                whole,
                body + super::HEADROOM,
            ));
        }
        if !envelope::holds(record.time()) {
            let text = "the time of a message lies before the year -9999";
            return Err(Error::new(Kind::Rejected, text));
        }
        if keyed && record.key().is_none() {
            let text = "a message without a key on a topic that is compacted by key";
            return Err(Error::new(Kind::Rejected, text).code(codes::NO_KEY));
        }
    }
    Ok(())
}

/// Gives a batch to the client; the caller holds the partition's lock, so that its messages follow each other.
pub(crate) fn enqueue(
    producer: &BaseProducer<Link>,
    topic: &Name,
    partition: u32,
    records: &Records,
    tombstones: bool,
) -> oneshot::Receiver<Result<i64, Code>> {
    let count = records.len() as u32;
    let (pending, answer) = Pending::new(count);
    for (index, record) in (0u32..).zip(records.iter()) {
        let mut out: BaseRecord<'_, [u8], [u8], Arc<Pending>> =
            BaseRecord::with_opaque_to(topic, pending.clone());
        out = out.partition(partition as i32);
        out.key = record.key();
        // On a topic that is compacted an empty body takes its key away: a null value in Kafka.
        out.payload = Some(record.body()).filter(|body| !(tombstones && body.is_empty()));
        out.timestamp = Some(envelope::timestamp(&record));
        out.headers = Some(envelope::headers(&record));
        if let Err((error, _)) = producer.send(out) {
            pending.failed(&error);
            // No report comes for this one and those behind it.
            pending.end(count - index);
            break;
        }
    }
    answer
}

/// The answer to an append.
pub(crate) fn sent(
    topic: &Name,
    partition: u32,
    count: u32,
    found: Result<i64, Code>,
) -> Result<Sent> {
    match found {
        Ok(first) => Ok(Sent {
            partition,
            first: Position::at(first as u64),
            count,
            duplicate: false,
        }),
        Err(Code::InvalidRecord) => Err(fault(
            format!("appending to {topic:?}/{partition}"),
            KafkaError::MessageProduction(Code::InvalidRecord),
        )
        .code(codes::NO_KEY)
        .next("a topic that is compacted takes no message without a key")),
        Err(code) => {
            let error = coded(format!("appending to {topic:?}/{partition}"), code);
            Err(match may_be_stored(code) || count > 1 {
                true => error.unknown(),
                false => error,
            })
        }
    }
}
