//! rdkafka alone: an idempotent producer and assigned consumers, set as ours are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfig as _, FromClientConfigAndContext as _};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use strait::core::events::TopicInfo;
use strait::core::{Error, Kind, Name, Result, Timestamp};
use tokio::sync::oneshot;

use super::{Bare, Read, Share, Work, failed};
use crate::fail::Outcome;

/// A message that is there is read within this.
const PATIENCE: Duration = Duration::from_secs(30);

/// A batch under way. Its last message lets go of it, which acknowledges it.
struct Waiting {
    failed: OnceLock<KafkaError>,
    done: Option<oneshot::Sender<std::result::Result<(), KafkaError>>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            let failed = self.failed.take();
            // Whoever waited may have gone.
            let _ = done.send(failed.map_or(Ok(()), Err));
        }
    }
}

struct Context;

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Waiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Arc<Waiting>) {
        if let Err((error, _)) = result {
            waiting.failed.get_or_init(|| error.clone());
        }
    }
}

pub(super) fn connect(options: &strait::kafka::Options, topic: &Name) -> Outcome<Bare> {
    let config = options.client()?;
    Ok(Bare {
        name: "rdkafka",
        work: work(&config, topic)?,
        read: read(config),
    })
}

fn work(config: &ClientConfig, topic: &Name) -> Result<Work> {
    let mut config = config.clone();
    for (name, value) in [
        ("acks", "all"),
        ("batch.num.messages", "100000"),
        ("enable.idempotence", "true"),
        ("linger.ms", "0"),
        ("message.max.bytes", "1000000000"),
        ("queue.buffering.max.messages", "0"),
    ] {
        config.set(name, value);
    }
    let producer: ThreadedProducer<Context> =
        ThreadedProducer::from_config_and_context(&config, Context)
            .map_err(|error| failed("making a producer", error))?;
    let (producer, topic) = (Arc::new(producer), topic.clone());
    let batches = AtomicU64::new(0);
    Ok(Arc::new(move |partition, count, body| {
        let batch = batches.fetch_add(1, Ordering::Relaxed);
        let (done, acknowledged) = oneshot::channel();
        let waiting = Arc::new(Waiting {
            failed: OnceLock::new(),
            done: Some(done),
        });
        let now = Timestamp::now().as_millis();
        for number in 0..count {
            let id = format!("{batch:032x}.{number}");
            let id = Header {
                key: "ce_id",
                value: Some(&id),
            };
            let record: BaseRecord<'_, [u8], [u8], _> =
                BaseRecord::with_opaque_to(&topic, waiting.clone())
                    .partition(partition as i32)
                    .payload(&body[..])
                    .timestamp(now)
                    .headers(OwnedHeaders::new().insert(id));
            if let Err((error, _)) = producer.send(record) {
                waiting.failed.get_or_init(|| error);
                break;
            }
        }
        drop(waiting);
        Box::pin(async move {
            let acknowledged = acknowledged.await;
            let ended = |_| Error::new(Kind::Closed, "the bare producer ended");
            acknowledged
                .map_err(ended)?
                .map_err(|error| failed("appending", error))
        })
    }))
}

fn read(mut config: ClientConfig) -> Read {
    for (name, value) in [
        ("enable.auto.commit", "false"),
        ("group.id", "strait-bench"),
        ("isolation.level", "read_committed"),
    ] {
        config.set(name, value);
    }
    let config = Arc::new(config);
    Arc::new(move |topic, share| {
        let config = config.clone();
        Box::pin(async move {
            let reading = tokio::task::spawn_blocking(move || read_now(&config, &topic, share));
            let ended = |error| failed("reading", error);
            reading.await.map_err(ended)?
        })
    })
}

fn read_now(config: &ClientConfig, topic: &TopicInfo, share: Share) -> Result<u64> {
    let fault = |error: KafkaError| failed("reading", error);
    let consumer = BaseConsumer::from_config(config).map_err(fault)?;
    let mut assignment = TopicPartitionList::new();
    let mut left = 0;
    for partition in share.partitions(topic) {
        let info = &topic.partitions[partition];
        let (start, end) = (info.start.offset(), info.end.offset());
        left += end - start;
        assignment
            .add_partition_offset(&topic.name, partition as i32, Offset::Offset(start as i64))
            .map_err(fault)?;
    }
    let (mut messages, mut bytes) = (0, 0);
    consumer.assign(&assignment).map_err(fault)?;
    let mut came = Instant::now();
    while messages < left {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                messages += 1;
                bytes += message.payload_len();
                if messages % 1024 == 0 {
                    came = Instant::now();
                }
            }
            // It connects again by itself.
            Some(Err(_)) | None if came.elapsed() < PATIENCE => {}
            Some(Err(error)) => return Err(fault(error)),
            None => {
                let what = "the bare client: no message came";
                return Err(Error::new(Kind::TimedOut, what));
            }
        }
    }
    std::hint::black_box(bytes);
    Ok(messages)
}
