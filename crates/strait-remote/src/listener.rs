//! The listener: serves an engine to other processes of the same user.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use strait_core::{Engine, Error, Kind, Result};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::server::{Stop, connection};
use crate::socket;

/// How a listener behaves.
#[derive(Debug, Clone, Copy)]
pub struct ListenOptions {
    /// Connections at the same time; one more is answered `Busy`. Default 256.
    pub connections: usize,
    /// How long a greeting may take. Default 5 s.
    pub hello_within: Duration,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            connections: 256,
            hello_within: Duration::from_secs(5),
        }
    }
}

/// How long to wait when the system has no room for a connection.
const NO_ROOM: Duration = Duration::from_millis(100);

/// Serves an engine on the socket of a data directory (file `SOCK`, mode 0600), on a thread of its own, so that a program
/// that blocks its runtime does not block others.
///
/// Only processes of the same user are served. A process that is silent for longer than its consumers' leases is
/// disconnected, and its consumers leave. Dropping the listener ends it at once and removes the socket's file;
/// [`Listener::stop`] ends it in order.
#[derive(Debug)]
pub struct Listener {
    directory: PathBuf,
    stop: watch::Sender<Option<Duration>>,
    done: Option<oneshot::Receiver<()>>,
}

impl Listener {
    /// Listens in `directory`. The caller holds the directory's lock: a socket's file that is there already is that of a
    /// dead process and is replaced.
    pub fn bind(
        directory: &Path,
        engine: Arc<dyn Engine>,
        options: ListenOptions,
    ) -> Result<Listener> {
        let listener = socket::listen(directory)?;
        let (stop, stopped) = watch::channel(None);
        let (finished, done) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime =
            runtime.map_err(|error| Error::io("starting the listener's runtime", error))?;
        let run = move || {
            runtime.block_on(async move {
                match UnixListener::from_std(listener) {
                    Ok(listener) => accept(listener, engine, options, stopped).await,
                    Err(error) => tracing::error!(%error, "the owner's socket cannot be served"),
                }
            });
            // Nobody waits when the listener was dropped.
            let _ = finished.send(());
        };
        let thread = thread::Builder::new().name("strait-listener".into());
        let started = thread.spawn(run);
        started.map_err(|error| Error::io("starting the listener's thread", error))?;
        Ok(Listener {
            directory: directory.to_owned(),
            stop,
            done: Some(done),
        })
    }

    /// Takes no more connections, answers the writes under way within `grace`, tells the peers, and ends. The engine
    /// stays open: close it afterwards.
    pub async fn stop(mut self, grace: Duration) {
        self.stop.send_replace(Some(grace));
        if let Some(done) = self.done.take() {
            // The thread ends in any case.
            let _ = done.await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = socket::remove(&self.directory) {
            tracing::warn!(%error, "the owner's socket could not be removed");
        }
        // Dropping the sender ends the thread.
    }
}

/// Accepts until it is told to stop, or the listener is dropped.
async fn accept(
    listener: UnixListener,
    engine: Arc<dyn Engine>,
    options: ListenOptions,
    stop: Stop,
) {
    let mut connections = JoinSet::new();
    let mut told = stop.clone();
    loop {
        let accepted = tokio::select! {
            told = told.wait_for(Option::is_some) => {
                if told.is_ok() {
                    break;
                }
                // The listener was dropped: connections are cut.
                return;
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let full = connections.len() >= options.connections;
                let refusal = full.then(|| too_many(options.connections));
                let served = serve(stream, engine.clone(), options, stop.clone(), refusal);
                connections.spawn(served);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(NO_ROOM).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn too_many(limit: usize) -> Error {
    Error::new(
        Kind::Busy,
        format!("the owner serves {limit} connections already"),
    )
    .next("close others, or raise the owner's limit")
}

async fn serve(
    stream: UnixStream,
    engine: Arc<dyn Engine>,
    options: ListenOptions,
    stop: Stop,
    refusal: Option<Error>,
) {
    if let Err(error) = socket::check_peer(&stream) {
        tracing::warn!(%error, "a connection was refused");
        return;
    }
    let (reader, writer) = stream.into_split();
    // How it ended was logged where it is known.
    let _ = connection(reader, writer, engine, options.hello_within, stop, refusal).await;
}
