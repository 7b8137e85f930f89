//! The closed loop of producers, the same for every peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::order::{Answer, Append};
use crate::peer::{Peer, Producer, Result};

/// Acknowledgements that come between `from` and the end count.
#[derive(Clone)]
struct Window {
    from: Instant,
    stop: Arc<AtomicBool>,
}

/// Runs the producers; what they got acknowledged in the window.
pub async fn append(peer: &Arc<dyn Peer>, order: Append) -> Result<Answer> {
    let mut producers = Vec::new();
    for index in 0..order.producers {
        producers.push(peer.producer(&order.topic, order.way, index).await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let window = Window {
        from: Instant::now() + Duration::from_secs_f64(order.warm_up),
        stop: stop.clone(),
    };
    let mut tasks = JoinSet::new();
    for producer in producers {
        let work = produce(producer, order.batch, window.clone());
        if peer.blocks() {
            let runtime = tokio::runtime::Handle::current();
            tasks.spawn_blocking(move || runtime.block_on(work));
        } else {
            tasks.spawn(work);
        }
    }
    tokio::time::sleep_until((window.from + Duration::from_secs_f64(order.seconds)).into()).await;
    let seconds = window.from.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let mut messages = 0;
    let mut acks = histogram()?;
    while let Some(done) = tasks.join_next().await {
        let (sent, times) = done??;
        messages += sent;
        acks.add(times)?;
    }
    Ok(Answer::Measured {
        messages,
        seconds,
        p50_us: acks.value_at_quantile(0.5) as f64 / 1e3,
        p99_us: acks.value_at_quantile(0.99) as f64 / 1e3,
    })
}

async fn produce(
    mut producer: Box<dyn Producer>,
    batch: u32,
    window: Window,
) -> Result<(u64, Histogram<u64>)> {
    let mut acks = histogram()?;
    let mut messages = 0;
    loop {
        let start = Instant::now();
        producer.append(batch).await?;
        if window.stop.load(Ordering::Relaxed) {
            return Ok((messages, acks));
        }
        let end = Instant::now();
        if end >= window.from {
            messages += u64::from(batch);
            acks.record((end - start).as_nanos() as u64)?;
        }
    }
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

/// Appends at least so many messages, with each way the peer has for batches the first.
pub async fn fill(peer: &Arc<dyn Peer>, topic: &str, messages: u64) -> Result<Answer> {
    const PRODUCERS: u32 = 16;
    const BATCH: u32 = 100;
    let way = peer.ways().len() - 1;
    let batches = messages.div_ceil(u64::from(PRODUCERS * BATCH));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for index in 0..PRODUCERS {
        let mut producer = peer.producer(topic, way, index).await?;
        let work = async move {
            for _ in 0..batches {
                producer.append(BATCH).await?;
            }
            Ok::<(), crate::peer::Error>(())
        };
        if peer.blocks() {
            let runtime = tokio::runtime::Handle::current();
            tasks.spawn_blocking(move || runtime.block_on(work));
        } else {
            tasks.spawn(work);
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(measured(
        batches * u64::from(PRODUCERS * BATCH),
        start.elapsed(),
    ))
}

/// Reads the topic from its start.
pub async fn read(peer: &Arc<dyn Peer>, topic: &str) -> Result<Answer> {
    let start = Instant::now();
    let messages = peer.clone().read(topic.to_owned()).await?;
    Ok(measured(messages, start.elapsed()))
}

fn measured(messages: u64, took: Duration) -> Answer {
    Answer::Measured {
        messages,
        seconds: took.as_secs_f64(),
        p50_us: 0.0,
        p99_us: 0.0,
    }
}
