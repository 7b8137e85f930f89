//! Kafka through librdkafka, `acks=all`. The client gathers what several producers have under way into one request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::sync::Notify;

use crate::peer::{Error, Fut, PARTITIONS, Peer, Producer, Result, body};

/// How long an answer of the broker may take.
const LIMIT: Duration = Duration::from_secs(60);

pub struct Kafka {
    address: String,
    admin: AdminClient<DefaultClientContext>,
    /// The clients of each way.
    clients: Vec<Vec<Arc<ThreadedProducer<Acks>>>>,
}

/// Clients of a way, and how long each waits for more before it sends.
const WAYS: [(usize, &str); 4] = [(1, "0"), (4, "0"), (1, "1"), (1, "5")];

impl Kafka {
    pub fn open(port: &str) -> Result<Self> {
        let address = format!("127.0.0.1:{port}");
        let mut clients = Vec::new();
        for (number, linger) in WAYS {
            let of_way: Result<Vec<_>> = (0..number)
                .map(|_| Ok(Arc::new(producer(&address, linger)?)))
                .collect();
            clients.push(of_way?);
        }
        let admin = config(&address).create()?;
        Ok(Kafka {
            address,
            admin,
            clients,
        })
    }
}

fn config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    config
}

fn producer(address: &str, linger: &str) -> Result<ThreadedProducer<Acks>> {
    Ok(config(address)
        .set("acks", "all")
        .set("linger.ms", linger)
        .set("queue.buffering.max.messages", "1000000")
        .set("batch.size", "1000000")
        .create_with_context(Acks)?)
}

impl Peer for Kafka {
    fn ways(&self) -> &'static [&'static str] {
        &[
            "one client, linger 0",
            "four clients, linger 0",
            "one client, linger 1 ms",
            "one client, linger 5 ms",
        ]
    }

    fn blocks(&self) -> bool {
        false
    }

    fn create<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let new = NewTopic::new(topic, PARTITIONS as i32, TopicReplication::Fixed(1));
            let made = self
                .admin
                .create_topics([&new], &AdminOptions::new())
                .await?;
            refused(made)
        })
    }

    fn delete<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            refused(
                self.admin
                    .delete_topics(&[topic], &AdminOptions::new())
                    .await?,
            )
        })
    }

    fn producer<'a>(
        &'a self,
        topic: &'a str,
        way: usize,
        index: u32,
    ) -> Fut<'a, Box<dyn Producer>> {
        let clients = &self.clients[way];
        let client = clients[index as usize % clients.len()].clone();
        let producer: Box<dyn Producer> = Box::new(Sends {
            client,
            topic: topic.to_owned(),
            partition: index % PARTITIONS,
            body: body(),
        });
        Box::pin(async move { Ok(producer) })
    }

    fn read(self: Arc<Self>, topic: String) -> Fut<'static, u64> {
        Box::pin(async move {
            let readers = std::thread::available_parallelism()?.get() as u32;
            let mut tasks = tokio::task::JoinSet::new();
            for reader in 0..readers {
                let (peer, topic) = (self.clone(), topic.clone());
                let partitions = (reader..PARTITIONS).step_by(readers as usize).collect();
                tasks.spawn_blocking(move || visit(&peer.address, &topic, partitions));
            }
            let mut messages = 0;
            while let Some(done) = tasks.join_next().await {
                messages += done??;
            }
            Ok(messages)
        })
    }

    fn close(&self) -> Fut<'_, ()> {
        Box::pin(async move {
            for client in self.clients.iter().flatten() {
                client.flush(LIMIT)?;
            }
            Ok(())
        })
    }
}

fn refused(answers: Vec<std::result::Result<String, (String, RDKafkaErrorCode)>>) -> Result<()> {
    for answer in answers {
        answer.map_err(|(topic, code)| Error::from(format!("topic {topic}: {code}")))?;
    }
    Ok(())
}

/// Reads these partitions to the end that they have at the beginning.
fn visit(address: &str, topic: &str, partitions: Vec<u32>) -> Result<u64> {
    let consumer: BaseConsumer = config(address)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("queued.min.messages", "1000000")
        .set("fetch.message.max.bytes", "10485760")
        .create()?;
    let mut all = 0;
    let mut from = TopicPartitionList::new();
    for partition in partitions {
        let (start, end) = consumer.fetch_watermarks(topic, partition as i32, LIMIT)?;
        all += u64::try_from(end - start)?;
        from.add_partition_offset(topic, partition as i32, Offset::Offset(start))?;
    }
    consumer.assign(&from)?;
    let (mut read, mut bytes) = (0, 0);
    while read < all {
        match consumer.poll(LIMIT) {
            Some(message) => {
                bytes += message?.payload().map_or(0, <[u8]>::len);
                read += 1;
            }
            None => return Err(format!("{read} of {all} messages after {LIMIT:?}").into()),
        }
    }
    std::hint::black_box(bytes);
    Ok(all)
}

/// Acknowledgements that a batch still waits for.
struct Batch {
    left: AtomicU32,
    failed: AtomicBool,
    done: Notify,
}

/// Told of each acknowledgement on the client's own thread.
struct Acks;

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = Arc<Batch>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<Batch>) {
        if result.is_err() {
            batch.failed.store(true, Ordering::Release);
        }
        if batch.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            batch.done.notify_one();
        }
    }
}

struct Sends {
    client: Arc<ThreadedProducer<Acks>>,
    topic: String,
    partition: u32,
    body: Vec<u8>,
}

impl Sends {
    /// Hands one message to the client; waits while its queue is full.
    async fn send(&self, partition: u32, batch: &Arc<Batch>) -> Result<()> {
        loop {
            let record = BaseRecord::<(), [u8], _>::with_opaque_to(&self.topic, batch.clone())
                .partition(partition as i32)
                .payload(&self.body);
            match self.client.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
}

impl Producer for Sends {
    fn append(&mut self, messages: u32) -> Fut<'_, ()> {
        Box::pin(async move {
            let partition = self.partition;
            self.partition = (partition + 1) % PARTITIONS;
            let batch = Arc::new(Batch {
                left: AtomicU32::new(messages),
                failed: AtomicBool::new(false),
                done: Notify::new(),
            });
            for _ in 0..messages {
                self.send(partition, &batch).await?;
            }
            batch.done.notified().await;
            match batch.failed.load(Ordering::Acquire) {
                false => Ok(()),
                true => Err("a message was not delivered".into()),
            }
        })
    }
}
