//! Retention on real files: whole segments go and come back, and nothing that is needed goes with them.

use std::path::Path;
use std::time::Duration;

use strait_core::events::{GroupSpec, Retention, TopicSpec};
use strait_core::{Arrival, Consumer, Delivery, Engine, Outcome, Unit, Verdict, codes};
use strait_embedded::{Embedded, Options};

use crate::support::{append, block_on, events, name, open, read, read_all};

const KEPT: u64 = 2 << 20;
const BODY: usize = 20_000;

#[test]
fn old_segments_go_and_parked_messages_keep_their_bodies() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    let options = Options {
        segment_bytes: 1 << 20,
        retention_every: Duration::from_millis(20),
        ..Options::default()
    };
    let engine = Embedded::open(&dir, options).expect("an empty directory");
    block_on(async {
        let spec = TopicSpec {
            retention: Some(Retention {
                age: None,
                bytes: Some(KEPT),
            }),
            ..TopicSpec::new(name("in")).partitions(2)
        };
        events(&engine).declare(spec).await.expect("a new topic");
        append(&engine, "in", 0, b"first").await.expect("appended");
        let spec = GroupSpec::new(name("group"), name("in"));
        let mut consumer = events(&engine).join(spec.clone()).await.expect("a member");
        park(&engine, &mut consumer).await;
        drop(consumer);

        // Ten times as much as is kept, in a partition in which nothing is needed.
        for i in 0..(10 * KEPT) / BODY as u64 {
            append(&engine, "in", 1, &[i as u8; BODY])
                .await
                .expect("appended");
        }
        let start = trimmed(&engine, 1).await;
        let gone = read(&engine, "in", 1, start - 1)
            .await
            .expect_err("it was removed");
        assert!(gone.is(codes::OFFSET_GONE), "{gone:?}");
        let earliest = gone.context().iter().find(|(what, _)| *what == "earliest");
        let earliest: u64 = earliest.expect("it is named").1.parse().expect("an offset");
        assert!(
            earliest >= start,
            "the earliest is {earliest}, the start was {start}"
        );
        let left = read_all(&engine, "in", 1).await;
        assert!(
            left.len() * BODY >= KEPT as usize,
            "{} are left: more than was asked for went",
            left.len()
        );
        assert!(
            left.iter()
                .all(|(offset, body)| body[..] == [*offset as u8; BODY])
        );
        small_again(&dir).await;

        // The parked one is there, with its body.
        let mut consumer = events(&engine).join(spec).await.expect("a member");
        let delivery = parked(&engine, &mut consumer).await;
        assert_eq!(delivery.message.record().body(), b"first");
        assert_eq!(delivery.attempt, 2);
    });
    drop(engine);
    let engine = open(&dir).expect("what is left is whole");
    let left = block_on(read_all(&engine, "in", 1));
    assert!(
        left.iter()
            .all(|(offset, body)| body[..] == [*offset as u8; BODY])
    );
}

#[test]
fn what_is_written_fast_goes_before_the_next_time_for_retention() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        segment_bytes: 1 << 20,
        retention_every: Duration::from_secs(3_600),
        ..Options::default()
    };
    let engine = Embedded::open(dir.path().join("data"), options).expect("an empty directory");
    block_on(async {
        let mut spec = TopicSpec::new(name("in")).partitions(1);
        spec.retention = Some(Retention {
            age: None,
            bytes: Some(KEPT),
        });
        events(&engine).declare(spec).await.expect("a new topic");
        for i in 0..(10 * KEPT) / BODY as u64 {
            append(&engine, "in", 0, &[i as u8; BODY])
                .await
                .expect("appended");
        }
        trimmed(&engine, 0).await;
    });
}

async fn park(engine: &Embedded, consumer: &mut Consumer) {
    loop {
        if let Arrival::Run(_, receipt) = consumer.next(1, 1).await.expect("the message") {
            let retry = Verdict::Retry {
                after: Duration::from_millis(10),
                reason: "later".into(),
                counts: true,
            };
            let outcome = engine
                .commit(vec![Unit::settle(receipt, retry)])
                .await
                .remove(0);
            assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
            return;
        }
    }
}

async fn parked(engine: &Embedded, consumer: &mut Consumer) -> Delivery {
    loop {
        match consumer.next(1, 1).await.expect("the message") {
            Arrival::Each(mut deliveries) => return deliveries.remove(0),
            Arrival::Run(_, receipt) => {
                engine
                    .commit(vec![Unit::settle(receipt, Verdict::Done)])
                    .await;
            }
            _ => {}
        }
    }
}

/// Waits until retention has removed something of the partition; gives its start. The topic announces no such event.
async fn trimmed(engine: &Embedded, partition: usize) -> u64 {
    for _ in 0..2_000 {
        let info = events(engine).topic(name("in")).await.expect("the topic");
        let start = info.partitions[partition].start.offset();
        if start > 0 {
            return start;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("retention removed nothing");
}

/// Waits until the directory has given back what is not needed: kept segments, spares, the reserve, files to recycle.
async fn small_again(dir: &Path) {
    let mut size = 0;
    for _ in 0..2_000 {
        let files = std::fs::read_dir(dir).expect("the directory");
        let lens = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
        size = lens.sum::<u64>();
        if size < 40 << 20 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the directory has {size} bytes");
}
