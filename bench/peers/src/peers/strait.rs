//! strait itself: in this process when it is the first on the directory, else through the owner's socket.

use std::sync::Arc;
use std::time::Duration;

use strait::core::events::{Append, Cursor, Events, Expected, TopicInfo, TopicSpec};
use strait::core::{Name, NewRecord, RecordsBuilder};
use tokio::task::JoinSet;

use crate::peer::{Error, Fut, PARTITIONS, Peer, Producer, Result, body};

/// Bytes of one read.
const CHUNK: usize = 1 << 20;

pub struct Strait {
    strait: strait::Strait,
    events: Arc<dyn Events>,
}

impl Strait {
    pub async fn open(directory: &str) -> Result<Self> {
        let strait = strait::Strait::open(&format!("file:{directory}")).await?;
        let events = strait.events_lane()?.clone();
        Ok(Strait { strait, events })
    }
}

impl Peer for Strait {
    fn ways(&self) -> &'static [&'static str] {
        &["appends"]
    }

    fn blocks(&self) -> bool {
        false
    }

    fn create<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let spec = TopicSpec::new(topic.parse::<Name>()?).partitions(PARTITIONS);
            self.events.declare(spec).await?;
            Ok(())
        })
    }

    fn delete<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move { Ok(self.events.delete(topic.parse()?).await?) })
    }

    fn producer<'a>(
        &'a self,
        topic: &'a str,
        _way: usize,
        index: u32,
    ) -> Fut<'a, Box<dyn Producer>> {
        Box::pin(async move {
            let producer: Box<dyn Producer> = Box::new(Appends {
                events: self.events.clone(),
                topic: topic.parse()?,
                partition: index % PARTITIONS,
                body: body(),
            });
            Ok(producer)
        })
    }

    fn read(self: Arc<Self>, topic: String) -> Fut<'static, u64> {
        Box::pin(async move {
            let info = self.events.topic(topic.parse()?).await?;
            let readers = std::thread::available_parallelism()?.get();
            let mut tasks = JoinSet::new();
            for reader in 0..readers {
                let (events, info) = (self.events.clone(), info.clone());
                tasks.spawn(async move {
                    let mut records = 0;
                    for partition in (reader..info.partitions.len()).step_by(readers) {
                        records += visit(&events, &info, partition).await?;
                    }
                    Ok::<u64, Error>(records)
                });
            }
            let mut records = 0;
            while let Some(done) = tasks.join_next().await {
                records += done??;
            }
            Ok(records)
        })
    }

    fn close(&self) -> Fut<'_, ()> {
        let strait = self.strait.clone();
        Box::pin(async move {
            strait.close_within(Duration::from_secs(5)).await;
            Ok(())
        })
    }
}

async fn visit(events: &Arc<dyn Events>, info: &TopicInfo, partition: usize) -> Result<u64> {
    let range = info.partitions[partition];
    let mut cursor = Cursor {
        topic: info.name.clone(),
        partition: partition as u32,
        position: range.start,
        wait: Duration::ZERO,
    };
    let (mut records, mut bytes) = (0, 0);
    while cursor.position < range.end {
        let chunk = events.read(cursor.clone(), CHUNK).await?;
        if chunk.is_empty() {
            break;
        }
        for item in chunk.iter() {
            records += 1;
            bytes += item.record().body().len();
        }
        cursor.position = chunk.next();
    }
    std::hint::black_box(bytes);
    Ok(records)
}

struct Appends {
    events: Arc<dyn Events>,
    topic: Name,
    partition: u32,
    body: Vec<u8>,
}

impl Producer for Appends {
    fn append(&mut self, messages: u32) -> Fut<'_, ()> {
        Box::pin(async move {
            let mut batch = RecordsBuilder::new(&[])?;
            for _ in 0..messages {
                batch.push(NewRecord {
                    body: &self.body,
                    ..NewRecord::default()
                })?;
            }
            let partition = self.partition;
            self.partition = (partition + 1) % PARTITIONS;
            self.events
                .append(Append {
                    topic: self.topic.clone(),
                    partition,
                    records: batch.build(),
                    expected: Expected::Any,
                    dedupe: false,
                })
                .await?;
            Ok(())
        })
    }
}
