//! NATS JetStream: a stream in a file per topic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::push::OrderedConfig;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions, HeaderMap};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::peer::{Fut, Peer, Producer, Result, body};

/// Connections that the producers share.
const CONNECTIONS: usize = 16;

/// The place of a way in the list.
const ATOMIC: usize = 1;

pub struct Nats {
    contexts: Vec<jetstream::Context>,
    /// Makes the ids of atomic batches.
    batches: Arc<AtomicU64>,
}

impl Nats {
    pub async fn open(port: &str) -> Result<Self> {
        let mut contexts = Vec::new();
        for _ in 0..CONNECTIONS {
            contexts.push(context(port).await?);
        }
        Ok(Nats {
            contexts,
            batches: Arc::new(AtomicU64::new(1)),
        })
    }

    fn first(&self) -> &jetstream::Context {
        &self.contexts[0]
    }
}

/// A connection whose bounds are not what is measured.
async fn context(port: &str) -> Result<jetstream::Context> {
    let options = ConnectOptions::new()
        .request_timeout(None)
        .subscription_capacity(1 << 20);
    let client = options.connect(format!("127.0.0.1:{port}")).await?;
    Ok(ContextBuilder::new()
        .timeout(Duration::from_secs(60))
        .ack_timeout(Duration::from_secs(60))
        .max_ack_inflight(1 << 20)
        .build(client))
}

impl Peer for Nats {
    fn ways(&self) -> &'static [&'static str] {
        &["async publishes", "atomic batches"]
    }

    fn blocks(&self) -> bool {
        false
    }

    fn create<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let config = stream::Config {
                name: topic.to_owned(),
                subjects: vec![topic.to_owned()],
                storage: stream::StorageType::File,
                allow_atomic_publish: true,
                ..stream::Config::default()
            };
            self.first().create_stream(config).await?;
            Ok(())
        })
    }

    fn delete<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            self.first().delete_stream(topic).await?;
            Ok(())
        })
    }

    fn producer<'a>(
        &'a self,
        topic: &'a str,
        way: usize,
        index: u32,
    ) -> Fut<'a, Box<dyn Producer>> {
        let context = &self.contexts[index as usize % self.contexts.len()];
        let topic = topic.to_owned();
        let body = Bytes::from(body());
        let producer: Box<dyn Producer> = match way {
            ATOMIC => Box::new(Atomic {
                client: context.client(),
                topic,
                body,
                batches: self.batches.clone(),
            }),
            _ => Box::new(Publishes {
                context: context.clone(),
                topic,
                body,
            }),
        };
        Box::pin(async move { Ok(producer) })
    }

    fn read(self: Arc<Self>, topic: String) -> Fut<'static, u64> {
        Box::pin(async move {
            let mut stream = self.first().get_stream(&topic).await?;
            let all = stream.info().await?.state.messages;
            let config = OrderedConfig {
                deliver_subject: self.first().client().new_inbox(),
                ..OrderedConfig::default()
            };
            let mut messages = stream.create_consumer(config).await?.messages().await?;
            for _ in 0..all {
                let Some(message) = messages.next().await else {
                    return Err("the consumer ended early".into());
                };
                std::hint::black_box(message?.payload.len());
            }
            Ok(all)
        })
    }

    fn close(&self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// Publishes a batch one after the other, then waits for all acknowledgements.
struct Publishes {
    context: jetstream::Context,
    topic: String,
    body: Bytes,
}

impl Producer for Publishes {
    fn append(&mut self, messages: u32) -> Fut<'_, ()> {
        Box::pin(async move {
            let mut acks = Vec::with_capacity(messages as usize);
            for _ in 0..messages {
                let publish = self.context.publish(self.topic.clone(), self.body.clone());
                acks.push(publish.await?);
            }
            for ack in acks {
                ack.await?;
            }
            Ok(())
        })
    }
}

/// Publishes a batch that is stored as a whole, with one acknowledgement.
struct Atomic {
    client: Client,
    topic: String,
    body: Bytes,
    batches: Arc<AtomicU64>,
}

impl Producer for Atomic {
    fn append(&mut self, messages: u32) -> Fut<'_, ()> {
        Box::pin(async move {
            let id = self.batches.fetch_add(1, Ordering::Relaxed);
            let id = format!("{}-{id}", std::process::id());
            let headers = |sequence: u32| {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Batch-Id", id.as_str());
                headers.insert("Nats-Batch-Sequence", sequence.to_string().as_str());
                headers
            };
            for sequence in 1..messages {
                let (topic, body) = (self.topic.clone(), self.body.clone());
                self.client
                    .publish_with_headers(topic, headers(sequence), body)
                    .await?;
            }
            let mut last = headers(messages);
            last.insert("Nats-Batch-Commit", "1");
            let (topic, body) = (self.topic.clone(), self.body.clone());
            let answer = self.client.request_with_headers(topic, last, body).await?;
            let ack: serde_json::Value = serde_json::from_slice(&answer.payload)?;
            match ack.get("error") {
                None => Ok(()),
                Some(error) => Err(error.to_string().into()),
            }
        })
    }
}
