//! Members of groups, as only Kafka has them.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{Append, Events, Expected, GroupSpec, TopicSpec};
use strait_core::{Arrival, Consumer, Engine, Name, NewRecord, Records, Unit, Verdict};
use strait_kafka::{Kafka, Options};

/// Long enough for a loaded machine; reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A member with a place of its own in the group.
struct Place {
    brokers: String,
    instance: &'static str,
    topic: Name,
}

impl Place {
    async fn take(&self) -> (Kafka, Consumer) {
        let options = Options {
            instance_id: Some(self.instance.to_owned()),
            ..Options::new(self.brokers.clone())
        };
        let kafka = Kafka::open(options).await.unwrap();
        let group = Name::new(&format!("{}.readers", self.topic)).unwrap();
        let consumer = kafka
            .join(GroupSpec::new(group, self.topic.clone()))
            .await
            .unwrap();
        (kafka, consumer)
    }
}

async fn next(consumer: &mut Consumer) -> Arrival {
    let next = tokio::time::timeout(PATIENCE, consumer.next(1, 1 << 20));
    next.await.expect("something was to come").unwrap()
}

/// Takes what comes until there is a message, settles it, and gives its partition, and whether partitions moved before.
async fn handled(kafka: &Kafka, consumer: &mut Consumer) -> (u32, bool) {
    let mut moved = false;
    loop {
        let (partition, receipt) = match next(consumer).await {
            Arrival::Run(chunk, receipt) => (chunk.partition(), receipt),
            Arrival::Each(mut deliveries) => {
                let delivery = deliveries.pop().unwrap();
                (delivery.message.partition(), delivery.receipt)
            }
            Arrival::Revoking(shard, _) => {
                consumer.control.handed_back(shard);
                moved = true;
                continue;
            }
            _ => {
                moved = true;
                continue;
            }
        };
        let unit = Unit {
            settle: vec![(receipt, Verdict::Done)],
            ..Unit::default()
        };
        kafka.commit(vec![unit]).await;
        return (partition, moved);
    }
}

async fn put(kafka: &Kafka, topic: &Name, partition: u32) {
    let append = Append {
        topic: topic.clone(),
        partition,
        records: Records::one(&[], NewRecord::default()).unwrap(),
        expected: Expected::Any,
        dedupe: false,
    };
    kafka.append(append).await.unwrap();
}

/// A member that comes back under its instance id within the session has its partition again, and the others keep theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_that_comes_back_moves_nothing() {
    let Some(brokers) = strait_conformance::server("STRAIT_KAFKA", "kafka") else {
        return;
    };
    let topic = Name::new(&format!("static-{}", std::process::id())).unwrap();
    let place = |instance| Place {
        brokers: brokers.clone(),
        instance,
        topic: topic.clone(),
    };
    let (one, two) = (place("one"), place("two"));
    let open = Kafka::open(Options::new(brokers.clone())).await.unwrap();
    open.declare(TopicSpec::new(topic.clone()).partitions(2))
        .await
        .unwrap();
    let (first, mut of_first) = one.take().await;
    let (second, mut of_second) = two.take().await;
    // Both partitions have a message until each member has had one of its own.
    let mut owned = [None, None];
    while owned[0].is_none() || owned[1].is_none() || owned[0] == owned[1] {
        put(&open, &topic, 0).await;
        put(&open, &topic, 1).await;
        tokio::select! {
            (partition, _) = handled(&first, &mut of_first) => owned[0] = Some(partition),
            (partition, _) = handled(&second, &mut of_second) => owned[1] = Some(partition),
        }
    }
    let (mine, theirs) = (owned[0].unwrap(), owned[1].unwrap());
    drop(of_first);
    first.close(Duration::from_secs(10)).await;
    let (first, mut of_first) = one.take().await;
    put(&open, &topic, mine).await;
    assert_eq!(
        handled(&first, &mut of_first).await.0,
        mine,
        "its partition"
    );
    put(&open, &topic, theirs).await;
    let (partition, moved) = handled(&second, &mut of_second).await;
    assert_eq!(
        (partition, moved),
        (theirs, false),
        "the other's partition, and whether anything moved"
    );
    for kafka in [first, second, open] {
        kafka.close(Duration::from_secs(10)).await;
    }
}

/// Ten members on three engines come and go for ten seconds: the history holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_rebalances_breaks_no_promise() {
    let Some(brokers) = strait_conformance::server("STRAIT_KAFKA", "kafka") else {
        return;
    };
    let mut engines: Vec<Arc<dyn Engine>> = Vec::new();
    for _ in 0..3 {
        let kafka = Kafka::open(Options::new(brokers.clone())).await.unwrap();
        engines.push(Arc::new(kafka));
    }
    let lasts = Duration::from_secs(10);
    let told = strait_conformance::storm(&engines, 7, lasts, PATIENCE).await;
    println!("storm: {}", told.unwrap());
    for engine in engines {
        engine.close(PATIENCE).await;
    }
}
