//! Leases: kept while the process lives, noticed when they are lost.

use std::time::Duration;

use strait::core::events::Seek;
use strait::{Attempt, Cancel, Handled, Out, Raw, Start, State, Topic, secs};

use crate::support::*;

#[tokio::test]
async fn a_handler_that_blocks_its_thread_keeps_its_lease() {
    async fn block(_: Order, attempt: Attempt, begun: State<Log<u32>>) -> Handled {
        begun.push(attempt.0);
        // Four times its lease, and no other thread in this runtime.
        std::thread::sleep(Duration::from_millis(1200));
        Ok(())
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    let group = orders.group("slow");
    let begun = Log::<u32>::new();
    let consume = group.each(block).lease(Duration::from_millis(300));
    let mut app = strait
        .app()
        .state(begun.clone())
        .serve(consume)
        .start()
        .await
        .unwrap();
    let info = settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!((begun.all(), info.dead), (vec![1], 0));
}

#[tokio::test]
async fn messages_that_wait_behind_a_slow_one_keep_their_leases() {
    async fn slow(placed: Order, attempt: Attempt, begun: State<Log<(u64, u32)>>) -> Handled {
        begun.push((placed.number, attempt.0));
        if placed.number == 1 {
            tokio::time::sleep(Duration::from_millis(800)).await;
        }
        Ok(())
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", 1..=3).await;
    let group = orders.group("slow");
    let begun = Log::<(u64, u32)>::new();
    let consume = group.each(slow).lease(Duration::from_millis(200));
    let mut app = strait
        .app()
        .state(begun.clone())
        .serve(consume)
        .start()
        .await
        .unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!(begun.all(), [(1, 1), (2, 1), (3, 1)]);
}

#[tokio::test]
async fn a_lost_lease_fires_cancel_and_has_no_effects() {
    async fn zombie(
        _: Order,
        cancel: Cancel,
        out: Out,
        payments: State<Topic<Raw>>,
        seen: State<Log<&'static str>>,
    ) -> Handled {
        if seen.len() > 0 {
            seen.push("second");
            return Ok(());
        }
        seen.push("begun");
        cancel.cancelled().await;
        assert!(cancel.is_cancelled());
        out.append(&payments, &Raw::bytes("from the dead"))?;
        seen.push("cancelled");
        Ok(())
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let payments = strait
        .events()
        .topic::<Raw>("payments")
        .partitions(1)
        .await
        .unwrap();
    place(&orders, "ada", [1]).await;
    let group = orders.group("billing");
    let seen = Log::new();
    let mut app = strait
        .app()
        .state(seen.clone())
        .state(payments.clone())
        .serve(group.each(zombie))
        .start()
        .await
        .unwrap();
    seen.wait(1).await;
    // An operator moves the group by force: the member loses the partition, and gets it again.
    let seek = Seek {
        group: "billing".parse().unwrap(),
        topic: orders.name().clone(),
        partition: 0,
        to: Start::Earliest,
        force: true,
    };
    strait.events_lane().unwrap().seek(seek).await.unwrap();
    let all = seen.wait(3).await;
    assert!(
        all.contains(&"cancelled") && all.contains(&"second"),
        "{all:?}"
    );
    settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!(payments.info().await.unwrap().partitions[0].end.offset(), 0);
}

#[tokio::test]
async fn a_dropped_app_is_a_dead_one() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    let group = orders.group("billing");
    let begun = Log::new();
    let log = begun.clone();
    let handler = move |_: Order, attempt: Attempt| {
        let log = log.clone();
        async move {
            log.push(attempt.0);
            if attempt.0 == 1 {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    };
    let app = strait
        .app()
        .serve(group.each(handler.clone()))
        .start()
        .await
        .unwrap();
    begun.wait(1).await;
    drop(app);
    let mut app = strait
        .app()
        .grace(secs(5))
        .serve(group.each(handler))
        .start()
        .await
        .unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!(begun.all(), [1, 2], "its attempt counted");
}
