//! The suite of the events lane over the owner's socket: the engine is the embedded one, in a directory.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use strait_conformance::{Harness, Target};
use strait_core::{Engine, Result};
use strait_embedded::{Embedded, Options};
use strait_remote::{Client, ClientOptions, ListenOptions, Listener};
use tempfile::TempDir;

/// The owner, in this process; its clients reach it through the socket all the same.
struct Owner {
    directory: TempDir,
    now: Mutex<Option<(Listener, Arc<Embedded>)>>,
}

impl Owner {
    fn take(&self) -> Option<(Listener, Arc<Embedded>)> {
        self.now.lock().take()
    }

    async fn start(&self) -> Result<Arc<dyn Engine>> {
        let directory = self.directory.path();
        let engine = Embedded::open(directory, Options::default())?;
        let listener = Listener::bind(directory, engine.clone(), ListenOptions::default())?;
        *self.now.lock() = Some((listener, engine));
        Ok(Arc::new(
            Client::connect(directory, ClientOptions::default()).await?,
        ))
    }
}

async fn fresh() -> Result<Harness> {
    let directory = TempDir::new().map_err(|error| strait_core::Error::io("a directory", error))?;
    let now = Mutex::default();
    let owner = Arc::new(Owner { directory, now });
    let engine = owner.start().await?;
    let again = owner.clone();
    Ok(Harness::new(engine).keep(owner.clone()).reopen(move || {
        let owner = again.clone();
        async move {
            if let Some((listener, engine)) = owner.take() {
                listener.stop(Duration::from_secs(5)).await;
                engine.close(Duration::from_secs(5)).await;
            }
            owner.start().await
        }
    }))
}

fn main() -> ExitCode {
    strait_conformance::events(Target::new("socket", fresh))
}
