//! The suite of the events lane on a real Redis and a real Valkey.

// What a test or its helpers cannot unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strait_conformance::{Harness, Proxy, Suite, Target};
use strait_core::{Engine, Error, Result};
use strait_redis::{Options, Redis};

async fn open(address: SocketAddr) -> Result<Arc<dyn Engine>> {
    let mut options = Options::new(address.ip().to_string(), address.port());
    options.strict = true;
    options.retention_every = Duration::from_millis(100);
    Ok(Arc::new(Redis::open(options).await?))
}

async fn fresh(address: SocketAddr) -> Result<Harness> {
    // The death of a process is that the server hears of it no more: each engine has a way of its own to the server.
    let ways = Arc::new(Mutex::new(Vec::new()));
    let way = move || {
        let proxy = Proxy::to(address).map_err(|error| Error::io("a proxy", error))?;
        let at = proxy.address();
        Ok::<_, Error>((proxy, at))
    };
    let (proxy, at) = way()?;
    ways.lock().unwrap().push(proxy);
    let engine = open(at).await?;
    let next = {
        let ways = ways.clone();
        move |cut: bool| {
            let mut ways = ways.lock().unwrap();
            if cut {
                ways.iter().for_each(Proxy::cut);
            }
            let (proxy, at) = way()?;
            ways.push(proxy);
            Ok::<_, Error>(at)
        }
    };
    let again = next.clone();
    let harness = Harness::new(engine)
        .reopen(move || {
            let at = again(false);
            async move { open(at?).await }
        })
        .kill(move || {
            let at = next(true);
            async move { open(at?).await }
        });
    Ok(harness.keep(ways))
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    for (variable, engine) in [("STRAIT_REDIS", "redis"), ("STRAIT_VALKEY", "valkey")] {
        if let Some(address) = strait_conformance::server(variable, engine) {
            let address: SocketAddr = address.parse().expect("HOST:PORT of the server");
            let target = Target::new(engine, move || fresh(address));
            suite = suite.events(target);
        }
    }
    suite.run()
}
