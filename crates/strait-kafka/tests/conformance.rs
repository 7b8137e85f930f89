//! The suite of the events lane on a real Kafka.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use strait_conformance::{Harness, Suite, Target};
use strait_core::{Engine, Result};
use strait_kafka::{Kafka, Options};

/// A group of several members takes a few rounds of heartbeats to agree.
const PATIENCE: Duration = Duration::from_secs(30);

async fn open(brokers: String, groups: bool) -> Result<Arc<dyn Engine>> {
    let options = Options {
        strict: true,
        group_preview: groups,
        ..Options::new(brokers)
    };
    Ok(Arc::new(Kafka::open(options).await?))
}

async fn fresh(brokers: String, groups: bool) -> Result<Harness> {
    let engine = open(brokers.clone(), groups).await?;
    // The engine that was closed is left; its topics are in the cluster.
    Ok(Harness::new(engine).reopen(move || open(brokers.clone(), groups)))
}

/// What groups do not do yet: they are a preview because of it.
const GAPS: [(&str, &str); 5] = [
    (
        "history_over_reopens",
        "a message that was handed back unhandled before a restart may count one attempt more",
    ),
    (
        "history_of_steady_members",
        "passes, and was not run often enough to be relied on",
    ),
    (
        "history_of_members_that_come_and_go",
        "a classic group takes longer than the patience to agree when members come and go by the second",
    ),
    (
        "history_of_members_that_die",
        "attempts may be one off when members die; the cause is not found",
    ),
    (
        "retry_shortest_first",
        "failed once under load; the cause is not found",
    ),
];

fn main() -> ExitCode {
    let Some(brokers) = strait_conformance::server("STRAIT_KAFKA", "kafka") else {
        return ExitCode::SUCCESS;
    };
    let target = |name: &str, groups: bool| {
        let brokers = brokers.clone();
        Target::new(name, move || fresh(brokers.clone(), groups)).patience(PATIENCE)
    };
    Suite::new()
        .events(target("kafka", false))
        .events_but(target("kafka-groups", true), &GAPS)
        .run()
}
