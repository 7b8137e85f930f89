//! The protocol from outside: clients, listeners, connections that end, and engines that come back.

#![allow(clippy::unwrap_used)]

mod calls;
mod consumers;
mod double;
mod endings;
mod listening;
mod reconnecting;
mod refusals;
mod simulation;

use std::sync::Arc;
use std::time::Duration;

use double::{Double, Handle};
use strait_core::Engine;
use strait_core::events::Events;
use strait_remote::{Client, ClientOptions};
use tokio::task::JoinHandle;

/// A client of a double, over a pipe.
pub(crate) struct Pair {
    pub(crate) double: Arc<Double>,
    pub(crate) client: Client,
    pub(crate) events: Arc<dyn Events>,
    /// Ends the connection from the server's side when aborted.
    pub(crate) server: JoinHandle<strait_core::Result<()>>,
}

pub(crate) async fn pair() -> Pair {
    pair_with(Double::new(), ClientOptions::default()).await
}

pub(crate) async fn pair_with(double: Arc<Double>, options: ClientOptions) -> Pair {
    let (near, far) = tokio::io::duplex(64 << 10);
    let engine: Arc<dyn Engine> = Arc::new(Handle(double.clone()));
    let (reader, writer) = tokio::io::split(far);
    let server = tokio::spawn(strait_remote::serve(
        reader,
        writer,
        engine,
        Duration::from_secs(5),
    ));
    let (reader, writer) = tokio::io::split(near);
    let client = Client::over(reader, writer, options).await.unwrap();
    let events = client.lanes().events.unwrap();
    Pair {
        double,
        client,
        events,
        server,
    }
}
