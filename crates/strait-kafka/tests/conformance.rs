//! The suite of the events lane on a real Kafka.

use std::process::ExitCode;
use std::sync::Arc;

use strait_conformance::{Harness, Target};
use strait_core::{Engine, Result};
use strait_kafka::{Kafka, Options};

async fn open(brokers: String) -> Result<Arc<dyn Engine>> {
    let options = Options {
        strict: true,
        ..Options::new(brokers)
    };
    Ok(Arc::new(Kafka::open(options).await?))
}

async fn fresh(brokers: String) -> Result<Harness> {
    let engine = open(brokers.clone()).await?;
    // The engine that was closed is left; its topics are in the cluster.
    Ok(Harness::new(engine).reopen(move || open(brokers.clone())))
}

fn main() -> ExitCode {
    match strait_conformance::server("STRAIT_KAFKA", "kafka") {
        Some(brokers) => {
            strait_conformance::events(Target::new("kafka", move || fresh(brokers.clone())))
        }
        None => ExitCode::SUCCESS,
    }
}
