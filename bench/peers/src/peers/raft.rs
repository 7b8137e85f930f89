//! raft-engine: a log in the process, a raft group per producer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use protobuf::well_known_types::BytesValue;
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::peer::{Fut, Peer, Producer, Result, body};

/// Entries of one read.
const ENTRIES: u64 = 4_096;

/// A message whose index is in its first eight bytes.
struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let mut index = [0; 8];
        index.copy_from_slice(&entry.value[..8]);
        u64::from_le_bytes(index)
    }
}

pub struct Raft {
    engine: Arc<Engine>,
    /// The raft groups of each topic.
    groups: Mutex<BTreeMap<String, Vec<u64>>>,
    next: Mutex<u64>,
}

impl Raft {
    pub fn open(directory: &str) -> Result<Self> {
        let config = Config {
            dir: directory.to_owned(),
            // The bodies do not get smaller; the attempt costs.
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        };
        Ok(Raft {
            engine: Arc::new(Engine::open(config)?),
            groups: Mutex::default(),
            next: Mutex::new(1),
        })
    }

    fn groups_of(&self, topic: &str) -> Vec<u64> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.get(topic).cloned().unwrap_or_default()
    }
}

impl Peer for Raft {
    fn ways(&self) -> &'static [&'static str] {
        &["log batches"]
    }

    fn blocks(&self) -> bool {
        true
    }

    fn create<'a>(&'a self, _topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn delete<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let mut batch = LogBatch::default();
            for group in self.groups_of(topic) {
                batch.add_command(group, Command::Clean);
            }
            self.engine.write(&mut batch, true)?;
            self.engine.purge_expired_files()?;
            Ok(())
        })
    }

    fn producer<'a>(
        &'a self,
        topic: &'a str,
        _way: usize,
        _index: u32,
    ) -> Fut<'a, Box<dyn Producer>> {
        let group = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.entry(topic.to_owned()).or_default().push(group);
        let producer: Box<dyn Producer> = Box::new(Batches {
            engine: self.engine.clone(),
            group,
            index: 0,
            body: body(),
        });
        Box::pin(async move { Ok(producer) })
    }

    fn read(self: Arc<Self>, topic: String) -> Fut<'static, u64> {
        Box::pin(async move {
            let groups = self.groups_of(&topic);
            let readers = std::thread::available_parallelism()?.get();
            let mut tasks = tokio::task::JoinSet::new();
            for reader in 0..readers {
                let engine = self.engine.clone();
                let groups: Vec<u64> = groups
                    .iter()
                    .skip(reader)
                    .step_by(readers)
                    .copied()
                    .collect();
                tasks.spawn_blocking(move || visit(&engine, &groups));
            }
            let mut messages = 0;
            while let Some(done) = tasks.join_next().await {
                messages += done??;
            }
            Ok(messages)
        })
    }

    fn close(&self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

fn visit(engine: &Engine, groups: &[u64]) -> Result<u64> {
    let (mut messages, mut bytes) = (0, 0);
    let mut entries = Vec::new();
    for &group in groups {
        let Some((first, last)) = engine.first_index(group).zip(engine.last_index(group)) else {
            continue;
        };
        let mut from = first;
        while from <= last {
            let to = (from + ENTRIES).min(last + 1);
            entries.clear();
            engine.fetch_entries_to::<Entries>(group, from, to, None, &mut entries)?;
            messages += entries.len() as u64;
            bytes += entries.iter().map(|entry| entry.value.len()).sum::<usize>();
            from = to;
        }
    }
    std::hint::black_box(bytes);
    Ok(messages)
}

struct Batches {
    engine: Arc<Engine>,
    group: u64,
    index: u64,
    body: Vec<u8>,
}

impl Producer for Batches {
    fn append(&mut self, messages: u32) -> Fut<'_, ()> {
        Box::pin(async move {
            let entries: Vec<BytesValue> = (0..messages)
                .map(|_| {
                    self.index += 1;
                    let mut entry = BytesValue::new();
                    entry.value.clone_from(&self.body);
                    entry.value[..8].copy_from_slice(&self.index.to_le_bytes());
                    entry
                })
                .collect();
            let mut batch = LogBatch::with_capacity(messages as usize);
            batch.add_entries::<Entries>(self.group, &entries)?;
            self.engine.write(&mut batch, true)?;
            Ok(())
        })
    }
}
