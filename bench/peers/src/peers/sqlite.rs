//! SQLite in the process, write-ahead log with `synchronous=FULL`: a table per topic, a transaction per batch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::peer::{Fut, Peer, Producer, Result, body};

pub struct Sqlite {
    connection: Arc<Mutex<Connection>>,
}

impl Sqlite {
    pub fn open(directory: &str) -> Result<Self> {
        let connection = Connection::open(format!("{directory}/bench.sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(Sqlite {
            connection: Arc::new(Mutex::new(connection)),
        })
    }
}

/// One connection for all: a second writer only waits for the first one's lock.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer for Sqlite {
    fn ways(&self) -> &'static [&'static str] {
        &["transactions, one connection"]
    }

    fn blocks(&self) -> bool {
        true
    }

    fn create<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let sql = format!("CREATE TABLE {topic} (id INTEGER PRIMARY KEY, body BLOB NOT NULL)");
            lock(&self.connection).execute(&sql, ())?;
            Ok(())
        })
    }

    fn delete<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            lock(&self.connection).execute(&format!("DROP TABLE {topic}"), ())?;
            Ok(())
        })
    }

    fn producer<'a>(
        &'a self,
        topic: &'a str,
        _way: usize,
        _index: u32,
    ) -> Fut<'a, Box<dyn Producer>> {
        let producer: Box<dyn Producer> = Box::new(Transactions {
            connection: self.connection.clone(),
            sql: format!("INSERT INTO {topic} (body) VALUES (?1)"),
            body: body(),
        });
        Box::pin(async move { Ok(producer) })
    }

    fn read(self: Arc<Self>, topic: String) -> Fut<'static, u64> {
        Box::pin(async move {
            let connection = lock(&self.connection);
            let mut select =
                connection.prepare(&format!("SELECT body FROM {topic} ORDER BY id"))?;
            let mut rows = select.query(())?;
            let (mut messages, mut bytes) = (0, 0);
            while let Some(row) = rows.next()? {
                bytes += row.get_ref(0)?.as_blob()?.len();
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

struct Transactions {
    connection: Arc<Mutex<Connection>>,
    sql: String,
    body: Vec<u8>,
}

impl Producer for Transactions {
    fn append(&mut self, messages: u32) -> Fut<'_, ()> {
        Box::pin(async move {
            let mut connection = lock(&self.connection);
            let transaction = connection.transaction()?;
            let mut insert = transaction.prepare_cached(&self.sql)?;
            for _ in 0..messages {
                insert.execute([self.body.as_slice()])?;
            }
            drop(insert);
            Ok(transaction.commit()?)
        })
    }
}
