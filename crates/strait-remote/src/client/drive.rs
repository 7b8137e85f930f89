//! The thread of a connection: it begins it, writes, reads, and notices silence.
//!
//! A connection has a thread of its own, so that a handler that blocks the program's runtime loses no lease.

use std::future::Future;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use strait_core::{Error, Kind, Result};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use super::ClientOptions;
use super::link::Link;
use crate::frame::{Frame, FrameReader, MESSAGE_MAX, kind};
use crate::hello::{Hello, VERSIONS, Welcome};
use crate::outbox::Rope;
use crate::wire::{Out, WireArrival, read, read_start};

/// Begins a connection over what `connect` gives, on a thread of its own.
pub(super) async fn begin<C, F, R, W>(connect: C, options: ClientOptions) -> Result<Arc<Link>>
where
    C: FnOnce() -> F + Send + 'static,
    F: Future<Output = Result<(R, W)>>,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (begun, link) = oneshot::channel();
    let thread = thread::Builder::new().name("strait-client".into());
    let started = thread.spawn(move || run(connect, options, begun));
    started.map_err(|error| Error::io("starting the thread of a connection", error))?;
    link.await.unwrap_or_else(|_| {
        Err(Error::new(
            Kind::Unexpected,
            "the thread of a connection ended",
        ))
    })
}

fn run<C, F, R, W>(connect: C, options: ClientOptions, begun: oneshot::Sender<Result<Arc<Link>>>)
where
    C: FnOnce() -> F,
    F: Future<Output = Result<(R, W)>>,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            // The caller is gone when this fails.
            let _ = begun.send(Err(Error::io(
                "starting the runtime of a connection",
                error,
            )));
            return;
        }
    };
    runtime.block_on(async move {
        match open(connect, options).await {
            Err(error) => {
                let _ = begun.send(Err(error));
            }
            Ok((link, life)) => {
                // A caller that is gone dropped its client, which closes the link.
                let _ = begun.send(Ok(link));
                life.await;
            }
        }
    });
}

/// Begins a connection, on the runtime of the caller: it lives as long as the future is polled.
pub(super) async fn open<C, F, R, W>(
    connect: C,
    options: ClientOptions,
) -> Result<(Arc<Link>, impl Future<Output = ()>)>
where
    C: FnOnce() -> F,
    F: Future<Output = Result<(R, W)>>,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let greeted = tokio::time::timeout(options.hello_within, greet(connect));
    let (welcome, reader, writer) = greeted
        .await
        .unwrap_or_else(|_| Err(no_answer(options.hello_within)))?;
    let link = Link::new(welcome);
    let driven = link.clone();
    let life = async move {
        drive(&driven, reader, writer, options.silence).await;
        driven.finish();
    };
    Ok((link, life))
}

fn no_answer(within: Duration) -> Error {
    let text = format!("the other side did not answer the greeting within {within:?}");
    Error::new(Kind::Unavailable, text)
        .next("see whether the process that owns the directory is stopped or overloaded")
}

async fn greet<C, F, R, W>(connect: C) -> Result<(Welcome, FrameReader<R>, W)>
where
    C: FnOnce() -> F,
    F: Future<Output = Result<(R, W)>>,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (reader, mut writer) = connect().await?;
    let hello = Rope::of(kind::HELLO, Out::of(&Hello::own()));
    let written = async { writer.write_all(&hello).await.and(writer.flush().await) };
    if let Err(error) = written.await {
        let text = format!("the greeting could not be written: {error}");
        return Err(Error::new(Kind::Unavailable, text).caused_by(error));
    }
    let mut reader = FrameReader::new(reader, MESSAGE_MAX);
    match reader.next().await? {
        Some(frame) => Ok((Welcome::of(frame)?, reader, writer)),
        None => Err(Error::new(
            Kind::Unavailable,
            "the other side hung up before its greeting",
        )),
    }
}

/// Runs the connection to its end.
async fn drive<R, W>(link: &Arc<Link>, mut reader: FrameReader<R>, writer: W, silence: Duration)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    // In this order: what was heard last says more of an end than that writing failed, and what there is to hear is bounded by what
    // was asked for. A fixed order lets a seed replay a run.
    let why = tokio::select! {
        biased;
        why = listen(link, &mut reader) => why,
        written = link.outbox.write_to(writer) => match written {
            Ok(()) => "it was closed".to_owned(),
            Err(error) => format!("writing failed: {error}"),
        },
        () = notice_silence(link, silence) => {
            format!("the owner, {}, was silent for {silence:?}", link.welcome.process)
        }
    };
    link.lose(&why);
}

/// Reads until the connection ends; gives the reason.
async fn listen<R: AsyncRead + Unpin>(link: &Arc<Link>, reader: &mut FrameReader<R>) -> String {
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return format!("the owner, {}, ended it", link.welcome.process),
            Err(error) => return error.message().to_owned(),
        };
        link.hears();
        if let Err(error) = take(link, frame) {
            return error.message().to_owned();
        }
    }
}

fn take(link: &Arc<Link>, frame: Frame) -> Result<()> {
    let Frame { kind, id, payload } = frame;
    match kind {
        kind::ANSWER => link.answered(id, payload),
        kind::ARRIVAL => {
            let bytes = payload.len();
            let arrival = read::<WireArrival>(payload)?;
            match link.inbox(id) {
                Some(inbox) => inbox.arrive(link, arrival, bytes),
                // The consumer has left; the server abandons what it has out.
                None => drop(arrival),
            }
        }
        kind::FAILED => {
            let error = read::<Error>(payload)?;
            if let Some(inbox) = link.inbox(id) {
                link.forget(id);
                inbox.fail(error);
            }
        }
        kind::HEALTH => {
            link.health.send_replace(read(payload)?);
        }
        kind::PING => link.outbox.push(kind::PONG, id, Out::default()),
        kind::PONG => {}
        kind::CLOSING => {
            for inbox in link.consumers() {
                inbox.part(link);
            }
        }
        kind::GOODBYE => return Err(read_start::<Error>(payload)?),
        _ => {
            let frame = Frame { kind, id, payload };
            return Err(frame.unexpected(VERSIONS.1));
        }
    }
    Ok(())
}

/// Ends when somebody waited for the other side and nothing at all came for so long. Sleeps while nobody waits.
async fn notice_silence(link: &Link, limit: Duration) {
    loop {
        link.expecting.notified().await;
        // What came before anybody waited says nothing.
        link.hears();
        while link.expects() {
            tokio::time::sleep(limit / 3).await;
            let silent = link.silent_for();
            if silent >= limit && link.expects() {
                return;
            }
            if silent >= limit / 3 {
                link.outbox.push(kind::PING, 0, Out::default());
            }
        }
    }
}
