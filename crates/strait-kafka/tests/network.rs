//! A cluster behind a network that fails.

#![allow(clippy::unwrap_used)]

use std::net::ToSocketAddrs;
use std::time::Duration;

use strait_conformance::Proxy;
use strait_core::events::Events;
use strait_core::{Engine, Health, Kind};
use strait_kafka::{Kafka, Options};

/// Long enough for a loaded machine; reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(30);

async fn becomes(kafka: &Kafka, what: &str, is: impl Fn(&Health) -> bool) {
    let mut health = kafka.health();
    let seen = tokio::time::timeout(PATIENCE, health.wait_for(is)).await;
    assert!(seen.is_ok(), "never {what}: {:?}", *kafka.health().borrow());
}

/// The way to the cluster is cut when the engine opens: it is down and says why, and up once the way is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_way_is_seen_waited_for_and_used_again() {
    let Some(address) = strait_conformance::server("STRAIT_KAFKA", "kafka") else {
        return;
    };
    let server = address.to_socket_addrs().unwrap().next().unwrap();
    for stalled in [false, true] {
        let proxy = Proxy::to(server).unwrap();
        match stalled {
            true => proxy.stall(),
            false => proxy.cut(),
        }
        let mut options = Options::new(proxy.address().to_string());
        options.first_contact = Duration::from_millis(500);
        options.timeout = Duration::from_secs(2);
        let kafka = Kafka::open(options).await.unwrap();
        becomes(&kafka, "down", |health| matches!(health, Health::Down(_))).await;
        let refused = kafka.topics().await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable, "{refused:?}");
        assert!(refused.may_retry(), "{refused:?}");

        proxy.heal();
        becomes(&kafka, "up", |health| *health == Health::Up).await;
        kafka.topics().await.unwrap();
        kafka.close(Duration::from_secs(5)).await;
    }
}
