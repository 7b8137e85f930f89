//! The server side of a connection, over any engine.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use strait_core::{Engine, Error, Kind, Result};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use crate::frame::{Frame, FrameReader, PAYLOAD_MAX, kind};
use crate::hello::{Hello, Process, Welcome};
use crate::outbox::Rope;
use crate::wire::{Out, copy_of};

mod conn;
mod dispatch;
mod member;
mod receipts;
mod work;

use conn::Conn;
use work::Work;

/// How long the last words may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Tells connections to end: within this time.
pub(crate) type Stop = watch::Receiver<Option<Duration>>;

/// Serves one connection to its end, over a stream that is connected already, for example TLS over TCP.
///
/// The peer is trusted with the whole engine: whoever calls this has checked who it is. `hello_within` bounds the
/// greeting. When the future is dropped the connection's consumers leave and their receipts are abandoned.
pub async fn serve<R, W>(
    reader: R,
    writer: W,
    engine: Arc<dyn Engine>,
    hello_within: Duration,
) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    // A sender that is gone never tells to stop.
    let (_, stop) = watch::channel(None);
    connection(reader, writer, engine, hello_within, stop, None).await
}

/// The same, with an order to stop and, where there is one, the reason why nothing is served.
pub(crate) async fn connection<R, W>(
    reader: R,
    mut writer: W,
    engine: Arc<dyn Engine>,
    hello_within: Duration,
    stop: Stop,
    refusal: Option<Error>,
) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    // A request fits one frame.
    let mut reader = FrameReader::new(reader, PAYLOAD_MAX);
    let greeting = tokio::time::timeout(
        hello_within,
        greet(&mut reader, &mut writer, &*engine, refusal),
    );
    let late = || Error::new(Kind::TimedOut, "the greeting did not come in time");
    let peer = greeting.await.unwrap_or_else(|_| Err(late()))?;
    let Some(peer) = peer else { return Ok(()) };
    tracing::debug!(%peer, "a process connected");
    let conn = Arc::new(Conn::new(engine));
    let guard = Leave(conn.clone());
    let end = run(&conn, &mut reader, writer, stop).await;
    drop(guard);
    match &end {
        Ok(()) => tracing::debug!(%peer, "a process disconnected"),
        Err(error) => tracing::warn!(%peer, %error, "a connection was ended"),
    }
    end
}

/// When a connection ends, in whatever way, its consumers leave.
struct Leave(Arc<Conn>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.leave_all();
    }
}

/// Reads the greeting and answers it. `None` when the peer hung up at once.
async fn greet<R, W>(
    reader: &mut FrameReader<R>,
    writer: &mut W,
    engine: &dyn Engine,
    refusal: Option<Error>,
) -> Result<Option<Process>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Some(frame) = reader.next().await? else {
        return Ok(None);
    };
    let (answer, result) = match (hear(frame), refusal) {
        (Ok((hello, version)), None) => {
            let welcome = welcome(version, engine);
            (
                Rope::of(kind::WELCOME, Out::of(&welcome)),
                Ok(Some(hello.process)),
            )
        }
        (Err(error), _) | (Ok(_), Some(error)) => {
            (Rope::of(kind::REFUSED, Out::of(&error)), Err(error))
        }
    };
    let written = async { writer.write_all(&answer).await.and(writer.flush().await) };
    let written = written.await;
    written.map_err(|error| Error::io("answering a greeting", error))?;
    result
}

fn hear(frame: Frame) -> Result<(Hello, u16)> {
    let hello = Hello::of(frame)?;
    let version = hello.agree()?;
    Ok((hello, version))
}

fn welcome(version: u16, engine: &dyn Engine) -> Welcome {
    Welcome {
        version,
        payload_max: PAYLOAD_MAX as u32,
        process: Process::own(),
        engine: engine.id().to_string(),
        health: engine.health().borrow().clone(),
        events: engine.lanes().events.map(|events| events.caps()),
    }
}

enum End {
    Peer(Result<()>),
    Writing(std::io::Result<()>),
    Stopped(Duration),
}

async fn run<R, W>(
    conn: &Arc<Conn>,
    reader: &mut FrameReader<R>,
    writer: W,
    mut stop: Stop,
) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut work = Work::default();
    // Fused: it may end while something else is waited for.
    let mut write = std::pin::pin!(conn.outbox.write_to(writer).fuse());
    // In this order: answers go out however much there is to read, and what can be written is bounded by a peer that reads. When
    // writing ends, what the peer said is still heard. A fixed order lets a seed replay a run.
    let end = tokio::select! {
        biased;
        written = &mut write => End::Writing(written),
        end = work.run(conn, reader) => End::Peer(end),
        () = conn.tell_health() => End::Peer(Ok(())),
        grace = stopped(&mut stop) => End::Stopped(grace),
    };
    let result = match end {
        End::Writing(written) => {
            hear_out(conn, reader, &mut work).await;
            return written.map_err(|error| Error::io("writing to the connection", error));
        }
        End::Peer(result) => result,
        End::Stopped(grace) => {
            tokio::select! {
                biased;
                _ = tokio::time::timeout(grace, wind_up(conn, reader, &mut work)) => {}
                _ = &mut write => hear_out(conn, reader, &mut work).await,
            }
            let text = "the process that owns the engine is closing it";
            Err(Error::new(Kind::Unavailable, text).next("connect again"))
        }
    };
    if let Err(error) = &result {
        conn.outbox.push(kind::GOODBYE, 0, Out::of(&copy_of(error)));
    }
    conn.outbox.close();
    if !write.is_terminated() {
        // A peer that does not read its last words misses them.
        let _ = tokio::time::timeout(LAST_WORDS, write).await;
    }
    result
}

/// A peer that reads no more may have said something before it went: that its consumers leave, for one.
async fn hear_out<R>(conn: &Arc<Conn>, reader: &mut FrameReader<R>, work: &mut Work)
where
    R: AsyncRead + Unpin,
{
    conn.shut();
    // However it ends, nothing more will be heard.
    let _ = tokio::time::timeout(LAST_WORDS, work.run(conn, reader)).await;
}

/// Lets the consumers leave in order, so that what their members have not seen costs no attempt; then answers the writes
/// under way. What waits for something to happen is not answered.
async fn wind_up<R>(conn: &Arc<Conn>, reader: &mut FrameReader<R>, work: &mut Work)
where
    R: AsyncRead + Unpin,
{
    conn.shut();
    if conn.has_members() {
        conn.outbox.push(kind::CLOSING, 0, Out::default());
        tokio::select! {
            biased;
            // However it ends, nothing more will be heard.
            _ = work.run(conn, reader) => {}
            () = conn.all_left() => {}
        }
    }
    work.drain(conn).await;
}

/// Waits for the order to stop; for ever when there is nobody who could give it.
async fn stopped(stop: &mut Stop) -> Duration {
    let grace = stop
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|grace| *grace);
    match grace {
        Some(grace) => grace,
        None => std::future::pending().await,
    }
}
