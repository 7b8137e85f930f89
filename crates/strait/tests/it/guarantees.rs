//! The words: once, at most once, at least once.

use std::sync::Arc;
use std::time::Duration;

use strait::{
    Attempt, Backoff, Failure, Handled, Idempotency, Out, Raw, State, Topic, codes, hours, secs,
};
use tokio::sync::Notify;

use crate::support::*;

fn soon() -> Backoff {
    Backoff::fixed(Duration::from_millis(2))
}

#[tokio::test]
async fn once_holds_over_producers_and_partitions() {
    async fn bill(placed: Order, payments: State<Topic<Order>>, out: Out) -> Handled {
        out.append(&payments, &placed)?;
        Ok(())
    }
    let strait = memory();
    let orders = orders(&strait, 4).await;
    let payments = strait
        .events()
        .topic::<Order>("payments")
        .partitions(1)
        .await
        .unwrap();
    // The same id on different partitions, so that neither the dedupe window nor the order of a key hides it.
    for partition in 0..4 {
        orders
            .append(&order("ada", 1))
            .partition(partition)
            .header("id", "same")
            .await
            .unwrap();
        orders
            .append(&order("ada", 2))
            .partition(partition)
            .header("id", "other")
            .await
            .unwrap();
    }
    let group = orders.group("billing");
    let by_header = Idempotency::by(|meta| {
        String::from_utf8_lossy(meta.header("id").unwrap_or_default()).into_owned()
    });
    let mut app = strait
        .app()
        .state(payments.clone())
        .serve(group.each(bill).once_by(by_header.remember(hours(1))))
        .start()
        .await
        .unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    let mut reader = payments.read(0, strait::Start::Earliest).until_end();
    let mut numbers = Vec::new();
    while let Some(event) = reader.next().await.unwrap() {
        numbers.push(event.message.number);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
}

#[tokio::test]
async fn of_two_at_the_same_time_one_runs_and_the_other_waits() {
    let strait = memory();
    let orders = orders(&strait, 2).await;
    for partition in 0..2 {
        orders
            .append(&order("ada", 1))
            .partition(partition)
            .await
            .unwrap();
    }
    let (begun, gate) = (Log::new(), Arc::new(Notify::new()));
    let (log, opened) = (begun.clone(), gate.clone());
    let handler = move |_: Order| {
        let (log, gate) = (log.clone(), opened.clone());
        async move {
            log.push(());
            gate.notified().await;
            Ok(())
        }
    };
    let group = orders.group("billing");
    let consume = group
        .each(handler)
        .once_by(Idempotency::by(|_| "the same".into()))
        .order(strait::Order::Free);
    let mut app = strait.app().serve(consume).start().await.unwrap();
    begun.wait(1).await;
    // The other one was parked, uncounted, while the first runs.
    until(&group, |info| info.parked() == 1).await;
    gate.notify_one();
    let info = settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!((begun.len(), info.dead), (1, 0));
}

#[tokio::test]
async fn a_known_failure_gives_the_claim_back() {
    for at_most_once in [false, true] {
        let strait = memory();
        let orders = orders(&strait, 1).await;
        orders.append(&order("ada", 1)).await.unwrap();
        let attempts = Log::new();
        let log = attempts.clone();
        let handler = move |_: Order, attempt: Attempt| {
            let log = log.clone();
            async move {
                log.push(attempt.0);
                if attempt.0 < 3 {
                    Err(Failure::retry("not yet"))
                } else {
                    Ok(())
                }
            }
        };
        let group = orders.group("mail");
        let consume = group.each(handler).retry(soon());
        let consume = if at_most_once {
            consume.at_most_once()
        } else {
            consume.once()
        };
        let mut app = strait.app().serve(consume).start().await.unwrap();
        let info = settled(&group).await;
        app.stop().await.unwrap();
        assert_eq!((attempts.all(), info.dead), (vec![1, 2, 3], 0));
    }
}

#[tokio::test]
async fn at_most_once_never_begins_again_what_may_be_done() {
    async fn send(placed: Order, sent: State<Log<u64>>) -> Handled {
        sent.push(placed.number);
        match placed.number {
            1 => panic!("after the mail was sent"),
            2 => std::future::pending().await,
            _ => Ok(()),
        }
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    for number in 1..=3 {
        place(&orders, &number.to_string(), [number]).await;
    }
    let group = orders.group("mail");
    let sent = Log::<u64>::new();
    let consume = group
        .each(send)
        .at_most_once()
        .retry(soon())
        .timeout(Duration::from_millis(50));
    let mut app = strait
        .app()
        .state(sent.clone())
        .serve(consume)
        .start()
        .await
        .unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!(sent.all(), [1, 2, 3]);
    let dead = group.dead_letters().list().await.unwrap();
    assert_eq!(dead.len(), 2);
    for letter in &dead {
        assert!(
            letter.reason.starts_with("maybe done: "),
            "{}",
            letter.reason
        );
    }
    // An operator who redrives it wants it to run.
    assert_eq!(
        group
            .dead_letters()
            .redrive([dead[0].number])
            .await
            .unwrap(),
        1
    );
    let again = group.each(|_: Order| async { Ok(()) }).at_most_once();
    let mut app = strait.app().serve(again).start().await.unwrap();
    until(&group, |info| info.dead == 1 && info.lag() == 0).await;
    app.stop().await.unwrap();
}

#[tokio::test]
async fn at_most_once_after_a_crash_is_a_dead_letter() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    let group = orders.group("mail");
    let begun = Log::new();
    let log = begun.clone();
    let handler = move |_: Order| {
        let log = log.clone();
        async move {
            log.push(());
            std::future::pending::<Handled>().await
        }
    };
    let app = strait
        .app()
        .serve(group.each(handler.clone()).at_most_once())
        .start()
        .await
        .unwrap();
    begun.wait(1).await;
    // As the death of the process: nobody says how the handler ended.
    drop(app);
    let mut app = strait
        .app()
        .serve(group.each(handler).at_most_once())
        .start()
        .await
        .unwrap();
    until(&group, |info| info.dead == 1).await;
    app.stop().await.unwrap();
    assert_eq!(begun.len(), 1);
    let dead = group.dead_letters().list().await.unwrap();
    assert!(
        dead[0].reason.starts_with("maybe done: "),
        "{}",
        dead[0].reason
    );
}

/// How many effects there are after a message was handled, its group set back, and the message handled again.
async fn effects_of_two_handlings(strait: strait::Strait) -> u64 {
    let orders = orders(&strait, 1).await;
    let payments = strait.events().topic::<Raw>("payments");
    let payments = payments.partitions(1).await.unwrap();
    orders.append(&order("ada", 1)).id("order-1").await.unwrap();
    let runs = Log::new();
    for _ in 0..2 {
        let (log, payments) = (runs.clone(), payments.clone());
        let handler = move |_: Order, out: Out| {
            let (log, payments) = (log.clone(), payments.clone());
            async move {
                out.append(&payments, &Raw::bytes("paid"))?;
                log.push(());
                Ok(())
            }
        };
        let group = orders.group("billing");
        let consumer = group.each(handler).at_least_once();
        let mut app = strait.app().serve(consumer).start().await.unwrap();
        settled(&group).await;
        app.stop().await.unwrap();
        group.seek(0, strait::Start::Earliest).await.unwrap();
    }
    assert_eq!(runs.wait(2).await.len(), 2);
    let info = payments.info().await.unwrap();
    info.partitions[0].end.offset()
}

#[tokio::test]
async fn effects_are_known_by_their_ids_where_they_do_not_leave_with_the_settle() {
    let plain = crate::opening::without_ledger(memory());
    assert_eq!(effects_of_two_handlings(plain).await, 1);
}

#[tokio::test]
async fn a_group_that_is_set_back_sends_its_effects_again_where_they_leave_with_the_settle() {
    assert_eq!(effects_of_two_handlings(memory()).await, 2);
}

#[tokio::test]
async fn an_engine_without_a_ledger_refuses_once() {
    async fn fine(_: Order, _: Out) -> Handled {
        Ok(())
    }
    let plain = crate::opening::without_ledger(memory());
    let orders = orders(&plain, 1).await;
    let error = plain
        .app()
        .serve(orders.group("a").each(fine).once())
        .start()
        .await
        .unwrap_err();
    assert!(
        error.is(codes::NEEDS) && error.to_string().contains("the idempotency ledger"),
        "{error}"
    );
    let error = plain
        .app()
        .serve(orders.group("b").each(fine))
        .start()
        .await
        .unwrap_err();
    assert!(
        error.is(codes::NEEDS) && error.to_string().contains("effects in one commit"),
        "{error}"
    );
    let mut app = plain
        .app()
        .grace(secs(1))
        .serve(orders.group("c").each(fine).at_least_once())
        .start()
        .await
        .unwrap();
    app.stop().await.unwrap();
}
