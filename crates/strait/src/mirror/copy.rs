//! One partition's copy: reads ahead while what was read is appended, and goes on after whatever passes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use strait_core::events::{Cursor, Events, Start};
use strait_core::{Chunk, Fut, Position, Result};
use tokio::sync::watch;

use super::Progress;
use super::sink::{Place, Sink, may_go_on};

const CHUNK_BYTES: usize = 1 << 20;
/// How long a read waits at the end of the source before it is asked again.
const WAIT: Duration = Duration::from_secs(30);
/// The same where the copy ends there: some engines need a moment for their first answer.
const WAIT_ONCE: Duration = Duration::from_secs(3);
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_CAP: Duration = Duration::from_secs(5);

/// The copy of one partition.
pub(super) struct Copying {
    pub(super) source: Arc<dyn Events>,
    pub(super) place: Place,
    /// Where it ends; `None`: it follows.
    pub(super) until: Option<Position>,
    /// How long it is tried again when a side cannot be reached; `None`: for ever.
    pub(super) patience: Option<Duration>,
    pub(super) progress: Arc<Progress>,
    pub(super) stop: watch::Receiver<bool>,
}

/// How far a copy came.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Copied {
    /// Messages of this run.
    pub(super) messages: u64,
    /// Messages of all runs.
    pub(super) total: u64,
}

impl Copying {
    pub(super) async fn run(mut self) -> Result<Copied> {
        let mut copied = Copied::default();
        let mut trouble = Trouble::default();
        loop {
            let before = copied.messages;
            let Err(error) = self.go_on(&mut copied).await else {
                return Ok(copied);
            };
            if copied.messages > before {
                trouble = Trouble::default();
            }
            if !may_go_on(&error) || trouble.longer_than(self.patience) {
                return Err(error);
            }
            self.progress.wait_for(&error);
            let pause = tokio::time::sleep(trouble.next());
            tokio::select! {
                () = pause => {}
                () = stopped(&mut self.stop) => return Ok(copied),
            }
        }
    }

    /// Looks where the copy stands and goes on from there, until an error or the end.
    async fn go_on(&mut self, copied: &mut Copied) -> Result<()> {
        let mut sink = Sink::open(self.place.clone()).await?;
        copied.total = sink.total();
        let start = match sink.next() {
            Some(next) => next,
            None => self.earliest().await?,
        };
        let mut position = start;
        let mut reading = self.read(position);
        loop {
            if self.until.is_some_and(|until| position >= until) {
                return Ok(());
            }
            let chunk = tokio::select! {
                chunk = &mut reading => chunk?,
                () = stopped(&mut self.stop) => return Ok(()),
            };
            if chunk.is_empty() && self.until.is_some() && chunk.next() <= position {
                return Ok(());
            }
            position = chunk.next();
            reading = self.read(position);
            if chunk.is_empty() {
                continue;
            }
            reading = put_while_reading(&mut sink, &chunk, reading).await?;
            let bytes: usize = chunk.iter().map(|item| item.record().size()).sum();
            self.progress.add(chunk.len() as u64, bytes as u64);
            copied.messages += chunk.len() as u64;
            copied.total = sink.total();
        }
    }

    async fn earliest(&self) -> Result<Position> {
        let (topic, partition) = (self.place.topic.clone(), self.place.partition);
        self.source.locate(topic, partition, Start::Earliest).await
    }

    fn read(&self, position: Position) -> Fut<Result<Chunk>> {
        let cursor = Cursor {
            topic: self.place.topic.clone(),
            partition: self.place.partition,
            position,
            wait: if self.until.is_some() {
                WAIT_ONCE
            } else {
                WAIT
            },
        };
        self.source.read(cursor, CHUNK_BYTES)
    }
}

/// Appends a chunk while the next one is read; gives the reading back, as far as it is.
async fn put_while_reading(
    sink: &mut Sink,
    chunk: &Chunk,
    reading: Fut<Result<Chunk>>,
) -> Result<Fut<Result<Chunk>>> {
    let put = std::pin::pin!(sink.put(chunk, 0));
    match select(put, reading).await {
        Either::Left((put, reading)) => put.map(|()| reading),
        Either::Right((read, put)) => {
            put.await?;
            Ok(Box::pin(std::future::ready(read)))
        }
    }
}

/// Ready once the mirror is to end; then what is under way has been finished.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A mirror that is dropped has ended too.
    let _ = stop.wait_for(|stopped| *stopped).await;
}

/// Errors without a success between them.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
    pause: Duration,
}

impl Trouble {
    fn longer_than(&mut self, patience: Option<Duration>) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        patience.is_some_and(|patience| since.elapsed() > patience)
    }

    fn next(&mut self) -> Duration {
        self.pause = (self.pause * 2).clamp(BACKOFF, BACKOFF_CAP);
        self.pause
    }
}
