//! The closed loop of producers, the same for the engine, for the bare log and for a bare client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use strait::core::events::{Append, Events, Expected};
use strait::core::{Error, Fut, Kind, Name, NewRecord, Records, RecordsBuilder, Result};

use super::BenchArgs;
use crate::fail::Outcome;

/// Appends one batch to a partition; ready when it is acknowledged.
pub(super) type Sink = Arc<dyn Fn(u32, Records) -> Fut<Result<()>> + Send + Sync>;

/// A sink that appends to a topic.
pub(super) fn engine(events: Arc<dyn Events>, topic: Name) -> Sink {
    Arc::new(move |partition, records| {
        let sent = events.append(Append {
            topic: topic.clone(),
            partition,
            records,
            expected: Expected::Any,
            dedupe: false,
        });
        Box::pin(async move { sent.await.map(drop) })
    })
}

/// Sends so many messages of one body to a partition; ready when they are acknowledged.
pub(super) type Work = Arc<dyn Fn(u32, u32, &Arc<[u8]>) -> Fut<Result<()>> + Send + Sync>;

/// Builds a batch for a sink, as an app would.
pub(super) fn filled(sink: Sink) -> Work {
    Arc::new(move |partition, count, body| match fill(count, body) {
        Ok(records) => sink(partition, records),
        Err(error) => Box::pin(std::future::ready(Err(error))),
    })
}

/// What producers do.
#[derive(Debug, Clone)]
pub(super) struct Load {
    size: usize,
    batch: u32,
    producers: u32,
    in_flight: u32,
    partitions: u32,
    duration: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) messages: u64,
    elapsed: Duration,
    /// Nanoseconds from building a batch to its acknowledgement.
    acks: Histogram<u64>,
}

impl Measured {
    /// Adds what another round measured.
    pub(super) fn add(mut self, round: Measured) -> Outcome<Self> {
        self.messages += round.messages;
        self.elapsed += round.elapsed;
        self.acks
            .add(round.acks)
            .map_err(|error| Error::new(Kind::Unexpected, error.to_string()))?;
        Ok(self)
    }

    /// Acknowledged messages per second.
    pub(super) fn rate(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }

    /// A quantile of the time to an acknowledgement, in milliseconds.
    pub(super) fn ack_ms(&self, quantile: f64) -> f64 {
        millis(&self.acks, quantile)
    }
}

/// A quantile in milliseconds, to three digits.
pub(super) fn millis(nanos: &Histogram<u64>, quantile: f64) -> f64 {
    (nanos.value_at_quantile(quantile) as f64 / 1e3).round() / 1e3
}

/// Records the time since `start`.
pub(super) fn record(times: &mut Histogram<u64>, start: Instant) -> Outcome {
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    times
        .record(nanos)
        .map_err(|error| Error::new(Kind::Unexpected, error.to_string()).into())
}

/// Three significant digits, any length of time.
pub(super) fn histogram() -> Outcome<Histogram<u64>> {
    Histogram::new(3)
        .map_err(|error| Error::new(Kind::Unexpected, format!("no histogram: {error}")).into())
}

impl Load {
    pub(super) fn new(args: &BenchArgs, duration: Duration) -> Self {
        Load {
            size: args.size as usize,
            batch: args.batch,
            producers: args.producers,
            in_flight: args.in_flight,
            partitions: args.partitions,
            duration,
        }
    }

    /// The same with one message at a time.
    pub(super) fn one_at_a_time(self) -> Self {
        Load {
            batch: 1,
            producers: 1,
            in_flight: 1,
            ..self
        }
    }

    /// Runs all producers until the time is over, and waits for what is under way.
    pub(super) async fn run(&self, sink: Sink) -> Outcome<Measured> {
        self.run_work(filled(sink)).await
    }

    /// The same with what builds its messages itself.
    pub(super) async fn run_work(&self, work: Work) -> Outcome<Measured> {
        let stop = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for producer in 0..self.producers {
            for turn in 0..self.in_flight {
                let (load, work, stop) = (self.clone(), work.clone(), stop.clone());
                let partition = (producer + turn) % self.partitions;
                tasks.spawn(async move { load.produce(partition, &work, &stop).await });
            }
        }
        drop(work);
        tokio::time::sleep(self.duration).await;
        stop.store(true, Ordering::Relaxed);
        let mut all = Measured {
            messages: 0,
            elapsed: Duration::ZERO,
            acks: histogram()?,
        };
        while let Some(done) = tasks.join_next().await {
            let (messages, acks) =
                done.map_err(|error| Error::new(Kind::Unexpected, error.to_string()))??;
            all.messages += messages;
            all.acks
                .add(acks)
                .map_err(|error| Error::new(Kind::Unexpected, error.to_string()))?;
        }
        all.elapsed = start.elapsed();
        Ok(all)
    }

    /// One append at a time, each built here, as an app would.
    async fn produce(
        &self,
        mut partition: u32,
        work: &Work,
        stop: &AtomicBool,
    ) -> Outcome<(u64, Histogram<u64>)> {
        let body: Arc<[u8]> = vec![b'x'; self.size].into();
        let mut acks = histogram()?;
        let mut messages = 0;
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            work(partition, self.batch, &body).await?;
            record(&mut acks, start)?;
            messages += u64::from(self.batch);
            partition = (partition + 1) % self.partitions;
        }
        Ok((messages, acks))
    }

    /// One batch of messages.
    pub(super) fn fill(&self, body: &[u8]) -> Result<Records> {
        fill(self.batch, body)
    }
}

fn fill(count: u32, body: &[u8]) -> Result<Records> {
    let mut batch = RecordsBuilder::new(&[])?;
    for _ in 0..count {
        batch.push(NewRecord {
            body,
            ..NewRecord::default()
        })?;
    }
    Ok(batch.build())
}
