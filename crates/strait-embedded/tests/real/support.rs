//! What the tests share: an engine on a disk, messages, and a child process that is this program again.

use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{Append, Cursor, Events, Expected, TopicSpec};
use strait_core::{Engine, Name, NewRecord, Position, Records, Result, Sent};
use strait_embedded::{Embedded, Options};

/// Says what a child process is to do; without it the tests for children do nothing.
pub(crate) const ROLE: &str = "STRAIT_TEST_CHILD";

/// Runs on one thread, with time.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime of one thread")
        .block_on(future)
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a plain name")
}

pub(crate) fn events(engine: &Embedded) -> Arc<dyn Events> {
    engine.lanes().events.expect("the events lane")
}

pub(crate) fn open(dir: &Path) -> Result<Arc<Embedded>> {
    Embedded::open(dir, Options::default())
}

pub(crate) async fn declare(engine: &Embedded, topic: &str, partitions: u32) {
    let spec = TopicSpec::new(name(topic)).partitions(partitions);
    events(engine).declare(spec).await.expect("a new topic");
}

pub(crate) fn append_of(topic: &str, partition: u32, body: &[u8]) -> Append {
    let record = NewRecord {
        body,
        ..NewRecord::default()
    };
    Append {
        topic: name(topic),
        partition,
        records: Records::one(&[], record).expect("a message within the limits"),
        expected: Expected::Any,
        dedupe: false,
    }
}

pub(crate) async fn append(
    engine: &Embedded,
    topic: &str,
    partition: u32,
    body: &[u8],
) -> Result<Sent> {
    events(engine)
        .append(append_of(topic, partition, body))
        .await
}

/// All bodies of a partition from its start on, with their offsets.
pub(crate) async fn read_all(
    engine: &Embedded,
    topic: &str,
    partition: u32,
) -> Vec<(u64, Vec<u8>)> {
    let info = events(engine).topic(name(topic)).await.expect("the topic");
    let mut at = info.partitions[partition as usize].start;
    let mut all = Vec::new();
    loop {
        let chunk = read(engine, topic, partition, at.offset()).await;
        let chunk = chunk.expect("what is there can be read");
        if chunk.is_empty() {
            return all;
        }
        let item =
            |item: strait_core::Item<'_>| (item.position().offset(), item.record().body().to_vec());
        all.extend(chunk.iter().map(item));
        at = chunk.next();
    }
}

pub(crate) async fn read(
    engine: &Embedded,
    topic: &str,
    partition: u32,
    at: u64,
) -> Result<strait_core::Chunk> {
    let cursor = Cursor {
        topic: name(topic),
        partition,
        position: Position::at(at),
        wait: Duration::ZERO,
    };
    events(engine).read(cursor, 1 << 20).await
}

/// This program again, running only the test `test` in the role `role`.
pub(crate) fn child(test: &str, role: &str) -> Command {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, role);
    command
}

/// The role of this process, when it is a child.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Says that a test could not be made here, and why.
pub(crate) fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}
