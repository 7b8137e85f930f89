//! A failed fsync: nothing more is acknowledged until the directory is opened again, and nothing acknowledged is lost.

use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{Cursor, GroupSpec};
use strait_core::{Arrival, Effect, Engine, Health, Position, codes};
use strait_embedded::disk::SimDisk;
use strait_embedded::disk::rng::Rng;
use strait_embedded::disk::sim::Crash;
use strait_embedded::{Embedded, Options};

use crate::support::{append, block_on, declare, events, name, read_all};

#[test]
fn a_failed_fsync_ends_the_engine_until_it_is_opened_again() {
    let sim = Arc::new(SimDisk::faulty(64 << 20, 3));
    let engine = Embedded::on(sim.clone(), Options::default()).expect("an empty disk");
    let acked = block_on(async {
        declare(&engine, "in", 2).await;
        let mut acked = 0;
        for _ in 0..5 {
            append(&engine, "in", 0, b"before").await.expect("appended");
            acked += 1;
        }
        let events = events(&engine);
        let spec = GroupSpec::new(name("group"), name("in"));
        let mut consumer = events.join(spec).await.expect("a member");
        // A reader and a member that wait when it happens must not wait for ever.
        let cursor = Cursor {
            topic: name("in"),
            partition: 1,
            position: Position::at(0),
            wait: Duration::from_secs(600),
        };
        let waiting = tokio::spawn(events.read(cursor, 100));
        tokio::task::yield_now().await;
        let failed = loop {
            // The housekeeper syncs too: the failure may be its own, which is no poison.
            sim.fail_sync(1);
            match append(&engine, "in", 0, b"maybe").await {
                Ok(_) => acked += 1,
                Err(error) => break error,
            }
        };
        assert!(failed.is(codes::POISONED), "{failed:?}");
        assert_eq!(
            failed.effect(),
            Effect::Unknown,
            "nobody knows what the disk has"
        );
        let health = engine.health().borrow().clone();
        assert!(matches!(health, Health::Ended(_)), "{health:?}");
        let refused = append(&engine, "in", 0, b"after")
            .await
            .expect_err("poisoned");
        assert!(
            refused.is(codes::POISONED) && refused.effect() == Effect::NotDone,
            "{refused:?}"
        );
        let read = waiting
            .await
            .expect("the reader")
            .expect_err("the engine ended");
        assert!(read.is(codes::POISONED), "{read:?}");
        let ended = loop {
            match consumer.next(1, 1).await {
                Ok(Arrival::Assigned(_) | Arrival::Run(..)) => {}
                other => break other,
            }
        };
        assert!(
            ended.as_ref().is_err_and(|error| error.is(codes::POISONED)),
            "{ended:?}"
        );
        acked
    });
    drop(engine);
    let left = sim.crash(Crash::Process, &mut Rng::new(1));
    let engine = Embedded::on(Arc::new(left), Options::default()).expect("opened again");
    block_on(async {
        let found = read_all(&engine, "in", 0).await;
        assert!(
            found.len() >= acked,
            "{} of {acked} acknowledged are there",
            found.len()
        );
        append(&engine, "in", 0, b"again")
            .await
            .expect("it works again");
    });
}
