//! The suite of the events lane on a real Redis and a real Valkey.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use strait_conformance::{Harness, Suite, Target};
use strait_core::{Engine, Result};
use strait_redis::{Options, Redis};

async fn open(address: String) -> Result<Arc<dyn Engine>> {
    let mut options = Options::from_url(&format!("redis://{address}"))?;
    options.strict = true;
    options.retention_every = Duration::from_millis(100);
    Ok(Arc::new(Redis::open(options).await?))
}

async fn fresh(address: String) -> Result<Harness> {
    let engine = open(address.clone()).await?;
    let again = address.clone();
    // The engine that was closed, or left, holds nothing that another one would miss: all is in the server.
    Ok(Harness::new(engine)
        .reopen(move || open(again.clone()))
        .kill(move || open(address.clone())))
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    for (variable, engine) in [("STRAIT_REDIS", "redis"), ("STRAIT_VALKEY", "valkey")] {
        if let Some(address) = strait_conformance::server(variable, engine) {
            let target = Target::new(engine, move || fresh(address.clone()));
            suite = suite.events(target);
        }
    }
    suite.run()
}
