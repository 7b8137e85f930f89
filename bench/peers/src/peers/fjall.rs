//! fjall: a key-value store in the process, a keyspace per topic, each batch synced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::peer::{Fut, Peer, Producer, Result, body};

pub struct Fjall {
    database: Database,
    next: Arc<AtomicU64>,
}

impl Fjall {
    pub fn open(directory: &str) -> Result<Self> {
        Ok(Fjall {
            database: Database::builder(directory).open()?,
            next: Arc::new(AtomicU64::new(0)),
        })
    }

    fn keyspace(&self, topic: &str) -> Result<Keyspace> {
        Ok(self
            .database
            .keyspace(topic, KeyspaceCreateOptions::default)?)
    }
}

impl Peer for Fjall {
    fn ways(&self) -> &'static [&'static str] {
        &["write batches"]
    }

    fn blocks(&self) -> bool {
        true
    }

    fn create<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move { self.keyspace(topic).map(drop) })
    }

    fn delete<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move { Ok(self.database.delete_keyspace(self.keyspace(topic)?)?) })
    }

    fn producer<'a>(
        &'a self,
        topic: &'a str,
        _way: usize,
        _index: u32,
    ) -> Fut<'a, Box<dyn Producer>> {
        Box::pin(async move {
            let producer: Box<dyn Producer> = Box::new(Batches {
                database: self.database.clone(),
                keyspace: self.keyspace(topic)?,
                next: self.next.clone(),
                body: body(),
            });
            Ok(producer)
        })
    }

    fn read(self: Arc<Self>, topic: String) -> Fut<'static, u64> {
        Box::pin(async move {
            let keyspace = self.keyspace(&topic)?;
            let (mut messages, mut bytes) = (0, 0);
            for entry in keyspace.iter() {
                bytes += entry.value()?.len();
                messages += 1;
            }
            std::hint::black_box(bytes);
            Ok(messages)
        })
    }

    fn close(&self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

struct Batches {
    database: Database,
    keyspace: Keyspace,
    next: Arc<AtomicU64>,
    body: Vec<u8>,
}

impl Producer for Batches {
    fn append(&mut self, messages: u32) -> Fut<'_, ()> {
        Box::pin(async move {
            let from = self.next.fetch_add(u64::from(messages), Ordering::Relaxed);
            let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
            for key in from..from + u64::from(messages) {
                batch.insert(&self.keyspace, key.to_be_bytes(), self.body.as_slice());
            }
            Ok(batch.commit()?)
        })
    }
}
