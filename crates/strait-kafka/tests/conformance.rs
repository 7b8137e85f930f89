//! The suite of the events lane on a real Kafka.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use strait_conformance::{Harness, Suite, Target};
use strait_core::{Engine, Result};
use strait_kafka::{GroupProtocol, Kafka, Options};

/// A group of several members takes a few rounds of heartbeats to agree.
const PATIENCE: Duration = Duration::from_secs(30);

async fn open(brokers: String, group_protocol: GroupProtocol) -> Result<Arc<dyn Engine>> {
    let options = Options {
        strict: true,
        group_protocol,
        ..Options::new(brokers)
    };
    Ok(Arc::new(Kafka::open(options).await?))
}

async fn fresh(brokers: String, protocol: GroupProtocol) -> Result<Harness> {
    let engine = open(brokers.clone(), protocol).await?;
    // The engine that was closed is left; its topics are in the cluster.
    Ok(Harness::new(engine).reopen(move || open(brokers.clone(), protocol)))
}

fn main() -> ExitCode {
    let Some(brokers) = strait_conformance::server("STRAIT_KAFKA", "kafka") else {
        return ExitCode::SUCCESS;
    };
    let target = |name: &str, protocol: GroupProtocol| {
        let brokers = brokers.clone();
        Target::new(name, move || fresh(brokers.clone(), protocol)).patience(PATIENCE)
    };
    Suite::new()
        .events(target("kafka", GroupProtocol::Classic))
        .events(target("kafka-consumer", GroupProtocol::Consumer))
        .run()
}
