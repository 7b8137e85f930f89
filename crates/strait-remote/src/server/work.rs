//! The loop of a served connection: requests in, answers out.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use strait_core::{Error, Fut, Kind, Result};
use tokio::io::AsyncRead;
use tokio::time::Instant;

use super::conn::Conn;
use super::dispatch::{self, Step};
use crate::frame::{Frame, FrameReader, kind};
use crate::wire::Out;

/// Payload bytes of writes under way; at the bound nothing more is read until some are done.
const BYTES_MAX: usize = 64 << 20;
/// Writes under way; the same.
const WRITES_MAX: usize = 16_384;
/// Requests that wait for something to happen; beyond it they are answered `Busy`.
const WAITS_MAX: usize = 16_384;

/// An answer that is ready.
struct Done {
    id: u64,
    /// The bytes that the request had.
    bytes: usize,
    answer: Out,
}

/// The requests under way.
#[derive(Default)]
pub(super) struct Work {
    writes: FuturesUnordered<Fut<Done>>,
    waits: FuturesUnordered<Abortable<Fut<Done>>>,
    cancel: HashMap<u64, AbortHandle>,
    bytes: usize,
}

impl Work {
    /// Reads and answers until the peer hangs up. `Err` when it is not to be served any longer.
    pub(super) async fn run<R>(
        &mut self,
        conn: &Arc<Conn>,
        reader: &mut FrameReader<R>,
    ) -> Result<()>
    where
        R: AsyncRead + Unpin,
    {
        let mut heard = Instant::now();
        let mut watch = Watch::new();
        loop {
            if !conn.outbox.has_room() {
                // A peer that does not read its answers gets no more of them.
                conn.outbox.room().await;
            }
            watch.arm(conn);
            // In this order: what is ready goes out, what came in is begun, and only a peer that sent nothing is silent.
            tokio::select! {
                biased;
                Some(done) = self.writes.next(), if !self.writes.is_empty() => {
                    self.bytes -= done.bytes;
                    conn.answer(done.id, done.answer);
                }
                Some(done) = self.waits.next(), if !self.waits.is_empty() => {
                    if let Ok(done) = done {
                        self.cancel.remove(&done.id);
                        conn.answer(done.id, done.answer);
                    }
                }
                frame = reader.next(), if self.bytes < BYTES_MAX && self.writes.len() < WRITES_MAX => {
                    let Some(frame) = frame? else { return Ok(()) };
                    heard = Instant::now();
                    self.begin(conn, frame).await?;
                }
                () = &mut watch.timer, if watch.every.is_some() => watch.look(conn, heard)?,
            }
        }
    }

    /// Begins what a frame asks for. Writes are polled once before anything else is read: engines take them in the order in
    /// which they were sent.
    async fn begin(&mut self, conn: &Arc<Conn>, frame: Frame) -> Result<()> {
        let (id, bytes) = (frame.id, frame.payload.len());
        match dispatch::begin(conn, frame)? {
            Step::Done => {}
            Step::Cancel => {
                if let Some(cancel) = self.cancel.remove(&id) {
                    cancel.abort();
                }
            }
            Step::Write(mut answer) => match futures_util::poll!(answer.as_mut()) {
                Poll::Ready(answer) => conn.answer(id, answer),
                Poll::Pending => {
                    self.bytes += bytes;
                    self.writes.push(done(id, bytes, answer));
                }
            },
            Step::Wait(_) if self.waits.len() >= WAITS_MAX => {
                let text = format!("{WAITS_MAX} requests of this connection wait already");
                let busy: Result<()> = Err(Error::new(Kind::Busy, text));
                conn.answer(id, Out::of(&busy));
            }
            Step::Wait(answer) => {
                let (cancel, registration) = AbortHandle::new_pair();
                self.cancel.insert(id, cancel);
                self.waits
                    .push(Abortable::new(done(id, 0, answer), registration));
            }
        }
        Ok(())
    }

    /// Waits for the writes under way and answers them; reads that wait are dropped.
    pub(super) async fn drain(&mut self, conn: &Conn) {
        self.waits.clear();
        while let Some(done) = self.writes.next().await {
            conn.answer(done.id, done.answer);
        }
    }
}

fn done(id: u64, bytes: usize, answer: Fut<Out>) -> Fut<Done> {
    Box::pin(async move {
        let answer = answer.await;
        Done { id, bytes, answer }
    })
}

/// Notices members that are silent. The timer runs only while the connection has members.
struct Watch {
    timer: std::pin::Pin<Box<tokio::time::Sleep>>,
    every: Option<Duration>,
}

impl Watch {
    fn new() -> Self {
        Watch {
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            every: None,
        }
    }

    /// Sets the timer when members came, or one with shorter leases.
    fn arm(&mut self, conn: &Conn) {
        let silence = conn.silence();
        let every = silence.map(|silence| silence / 3);
        if every.is_some_and(|every| self.every.is_none_or(|before| every < before)) {
            self.every = every;
            self.restart();
        }
    }

    fn restart(&mut self) {
        if let Some(every) = self.every {
            self.timer.as_mut().reset(Instant::now() + every);
        }
    }

    /// The timer fired: asks a silent peer for a sign of life, or gives it up.
    fn look(&mut self, conn: &Conn, heard: Instant) -> Result<()> {
        let Some(limit) = conn.silence() else {
            self.every = None;
            return Ok(());
        };
        let silent = heard.elapsed();
        if silent > limit {
            let text = format!(
                "the process was silent for {silent:.1?}, longer than its consumers' leases: its partitions go to others"
            );
            return Err(Error::new(Kind::TimedOut, text).next("connect and join again"));
        }
        if silent >= limit / 3 {
            conn.outbox.push(kind::PING, 0, Out::default());
        }
        self.every = Some(limit / 3);
        self.restart();
        Ok(())
    }
}
