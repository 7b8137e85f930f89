//! The redis crate alone: an `XADD` per message, a batch in one transaction, as ours are all there or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, Value};
use strait::core::events::TopicInfo;
use strait::core::{Error, Fut, Kind, Name, Result, Timestamp};

use super::{Bare, Read, Share, Work, failed};
use crate::fail::Outcome;

/// An answer that does not come within this does not come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Entries of one read.
const ENTRIES: usize = 5000;

pub(super) async fn connect(options: &strait::redis::Options, topic: &Name) -> Outcome<Bare> {
    let client = options.client()?;
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    let connection = connection
        .await
        .map_err(|error| failed("connecting", error))?;
    Ok(Bare {
        name: "redis",
        work: work(connection.clone(), topic.clone()),
        read: read(connection),
    })
}

/// The stream of a partition, as docs/engines/redis.md names it.
fn stream(topic: &Name, partition: u32) -> String {
    match partition {
        0 => topic.to_string(),
        partition => format!("{{{topic}}}:{partition}"),
    }
}

fn work(connection: MultiplexedConnection, topic: Name) -> Work {
    let batches = AtomicU64::new(0);
    Arc::new(move |partition, count, body| {
        let batch = batches.fetch_add(1, Ordering::Relaxed);
        let (stream, now) = (stream(&topic, partition), Timestamp::now().as_millis());
        let mut pipeline = redis::pipe();
        if count > 1 {
            pipeline.atomic();
        }
        for number in 0..count {
            let add = pipeline.cmd("XADD").arg(&stream).arg("NOMKSTREAM").arg("*");
            add.arg("id").arg(format!("{batch:032x}.{number}"));
            add.arg("time").arg(now).arg("body").arg(&body[..]);
        }
        let mut connection = connection.clone();
        Box::pin(async move {
            let added: std::result::Result<Vec<Value>, RedisError> =
                pipeline.query_async(&mut connection).await;
            let added = added.map_err(|error| failed("appending", error))?;
            match added.contains(&Value::Nil) {
                true => Err(Error::new(Kind::NotFound, "the stream is not there")),
                false => Ok(()),
            }
        })
    })
}

fn read(connection: MultiplexedConnection) -> Read {
    Arc::new(move |topic, share| {
        let connection = connection.clone();
        Box::pin(read_share(connection, topic, share)) as Fut<Result<u64>>
    })
}

async fn read_share(
    mut connection: MultiplexedConnection,
    topic: TopicInfo,
    share: Share,
) -> Result<u64> {
    let (mut messages, mut bytes) = (0, 0);
    for partition in share.partitions(&topic) {
        let stream = stream(&topic.name, partition as u32);
        let mut from = "-".to_owned();
        loop {
            let mut asked = redis::cmd("XRANGE");
            asked.arg(&stream).arg(&from).arg("+");
            asked.arg("COUNT").arg(ENTRIES);
            let entries: Vec<(String, Vec<Value>)> = asked
                .query_async(&mut connection)
                .await
                .map_err(|error| failed("reading", error))?;
            for (_, fields) in &entries {
                messages += 1;
                bytes += match fields.last() {
                    Some(Value::BulkString(body)) => body.len(),
                    _ => 0,
                };
            }
            match entries.last() {
                Some((last, _)) if entries.len() == ENTRIES => from = format!("({last}"),
                _ => break,
            }
        }
    }
    std::hint::black_box(bytes);
    Ok(messages)
}
