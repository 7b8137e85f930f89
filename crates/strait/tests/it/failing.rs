//! Failures, panics, what cannot be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strait::{
    Attempt, Backoff, Error, Failure, Handled, Kind, Meta, OrFail, Out, Raw, State, Topic,
    Undecodable, codes, secs,
};

use crate::support::*;

fn soon() -> Backoff {
    Backoff::fixed(Duration::from_millis(2))
}

#[tokio::test]
async fn a_question_mark_means_again_and_or_dead_means_never() {
    async fn bill(
        placed: Order,
        meta: Meta,
        attempt: Attempt,
        seen: State<Log<(u64, u32, Option<String>)>>,
    ) -> Handled {
        seen.push((
            placed.number,
            attempt.0,
            meta.last_error().map(str::to_owned),
        ));
        match placed.number {
            1 if attempt.0 < 3 => Err(std::io::Error::other("the card service is down"))?,
            2 => None::<()>.or_dead()?,
            3 => Err("always").or_retry_in(Duration::from_millis(1))?,
            _ => {}
        }
        Ok(())
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    for number in 1..=4 {
        place(&orders, &number.to_string(), [number]).await;
    }
    let group = orders.group("billing");
    let seen = Log::<(u64, u32, Option<String>)>::new();
    let consume = group
        .each(bill)
        .retry(soon().up_to(4))
        .dead_letter("orders.dead");
    let mut app = strait
        .app()
        .state(seen.clone())
        .serve(consume)
        .start()
        .await
        .unwrap();
    let info = settled(&group).await;
    assert_eq!(info.dead, 2);
    let attempts = |number: u64| seen.all().iter().filter(|(n, ..)| *n == number).count();
    assert_eq!(
        [attempts(1), attempts(2), attempts(3), attempts(4)],
        [3, 1, 4, 1]
    );
    assert!(
        seen.all()
            .contains(&(1, 2, Some("the card service is down".into())))
    );

    let dead = group.dead_letters().list().await.unwrap();
    let mut reasons: Vec<_> = dead
        .iter()
        .map(|letter| (letter.attempts, letter.reason.to_string()))
        .collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            (1, "a value was expected and there was none".into()),
            (4, "always".into())
        ]
    );
    let copies = strait
        .events()
        .topic::<Raw>("orders.dead")
        .await
        .unwrap()
        .info()
        .await
        .unwrap();
    let copies: u64 = copies.partitions.iter().map(|p| p.end.offset()).sum();
    assert_eq!(copies, 2);

    // Brought back, it begins at its first attempt.
    let two = dead.iter().find(|letter| letter.attempts == 1).unwrap();
    assert_eq!(group.dead_letters().decode(two).unwrap(), order("2", 2));
    assert_eq!(group.dead_letters().redrive([two.number]).await.unwrap(), 1);
    until(&group, |info| info.dead == 2 && info.lag() == 0).await;
    app.stop().await.unwrap();
    assert_eq!(attempts(2), 2);
}

#[tokio::test]
async fn a_message_that_fails_when_it_is_too_old_is_given_up() {
    async fn never(_: Order) -> Handled {
        Err("no".into())
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    let group = orders.group("billing");
    let backoff = soon()
        .up_to(1_000_000)
        .for_at_most(Duration::from_millis(20));
    let mut app = strait
        .app()
        .serve(group.each(never).retry(backoff))
        .start()
        .await
        .unwrap();
    until(&group, |info| info.dead == 1).await;
    app.stop().await.unwrap();
    let dead = group.dead_letters().list().await.unwrap();
    assert_eq!(&*dead[0].reason, "no (older than 20ms)");
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_with_its_text() {
    async fn bad(placed: Order, attempt: Attempt) -> Handled {
        if attempt.0 == 1 {
            // Before its first await and after it, which are two places to catch.
            tokio::task::yield_now().await;
        }
        panic!("order {} is cursed", placed.number)
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    place(&orders, "bob", [2]).await;
    let group = orders.group("billing");
    let mut app = strait
        .app()
        .serve(group.each(bad).retry(soon().up_to(2)))
        .start()
        .await
        .unwrap();
    until(&group, |info| info.dead == 2).await;
    app.stop().await.unwrap();
    let dead = group.dead_letters().list().await.unwrap();
    let mut reasons: Vec<_> = dead
        .iter()
        .map(|l| (l.attempts, l.reason.to_string()))
        .collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            (2, "the handler panicked: order 1 is cursed".into()),
            (2, "the handler panicked: order 2 is cursed".into())
        ]
    );
}

#[tokio::test]
async fn a_panic_in_a_closure_that_makes_the_future_is_caught_too() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    let group = orders.group("billing");
    let bad = |placed: Order| {
        assert!(placed.number > 1, "too small");
        std::future::ready(Handled::Ok(()))
    };
    let mut app = strait
        .app()
        .serve(group.each(bad).retry(soon().up_to(1)))
        .start()
        .await
        .unwrap();
    until(&group, |info| info.dead == 1).await;
    app.stop().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_goes_where_it_was_told() {
    async fn fine(_: Order, seen: State<Log<()>>) -> Handled {
        seen.push(());
        Ok(())
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    orders
        .raw()
        .append(&Raw::new("order.placed.v1", "{\"customer\": 7}"))
        .await
        .unwrap();
    orders
        .raw()
        .append(&Raw::new("order.paid.v1", "{}"))
        .await
        .unwrap();
    orders
        .raw()
        .append(&Raw::bytes("{\"customer\":\"ada\",\"number\":1}"))
        .await
        .unwrap();
    let seen = Log::<()>::new();
    let (dead, skip, retry) = (
        orders.group("dead"),
        orders.group("skip"),
        orders.group("retry"),
    );
    let mut app = strait
        .app()
        .state(seen.clone())
        .serve(dead.each(fine))
        .serve(skip.each(fine).unknown_kind(Undecodable::Skip))
        .serve(
            retry
                .each(fine)
                .undecodable(Undecodable::Retry)
                .retry(soon().up_to(3)),
        )
        .start()
        .await
        .unwrap();
    settled(&dead).await;
    settled(&skip).await;
    settled(&retry).await;
    app.stop().await.unwrap();
    seen.wait(3).await;
    let letters = dead.dead_letters().list().await.unwrap();
    assert_eq!(letters.len(), 2);
    assert!(
        letters[0]
            .reason
            .starts_with("undecodable: the body cannot be read"),
        "{}",
        letters[0].reason
    );
    assert!(
        letters[1].reason.contains("order.paid.v1"),
        "{}",
        letters[1].reason
    );
    assert_eq!(skip.dead_letters().list().await.unwrap().len(), 1);
    let tried = retry.dead_letters().list().await.unwrap();
    let mut attempts: Vec<_> = tried.iter().map(|letter| letter.attempts).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 3]);
}

#[tokio::test]
async fn a_timeout_cuts_a_handler_off() {
    async fn slow(_: Order, attempt: Attempt) -> Handled {
        if attempt.0 == 1 {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    let group = orders.group("slow");
    let consume = group
        .each(slow)
        .timeout(Duration::from_millis(20))
        .retry(soon());
    let mut app = strait.app().serve(consume).start().await.unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!(group.info().await.unwrap().dead, 0);
}

#[tokio::test]
async fn effects_that_are_refused_fail_their_message_and_no_other() {
    async fn bill(
        placed: Order,
        gone: State<Topic<Raw>>,
        kept: State<Topic<Order>>,
        out: Out,
    ) -> Handled {
        if placed.number == 2 {
            out.append(&gone, &Raw::bytes("x"))?;
        }
        out.append(&kept, &placed)?;
        Ok(())
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let gone = strait.events().topic::<Raw>("gone").await.unwrap();
    let kept = strait
        .events()
        .topic::<Order>("kept")
        .partitions(1)
        .await
        .unwrap();
    strait.events().delete("gone").await.unwrap();
    place(&orders, "ada", 1..=5).await;
    let group = orders.group("billing");
    let consume = group.each(bill).retry(soon().up_to(3));
    let mut app = strait
        .app()
        .state(gone)
        .state(kept.clone())
        .serve(consume)
        .start()
        .await
        .unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    let dead = group.dead_letters().list().await.unwrap();
    assert_eq!(dead.len(), 1);
    assert!(
        dead[0].reason.starts_with("its effects were refused"),
        "{}",
        dead[0].reason
    );
    let mut reader = kept.read(0, strait::Start::Earliest).until_end();
    let mut numbers = Vec::new();
    while let Some(event) = reader.next().await.unwrap() {
        numbers.push(event.message.number);
    }
    assert_eq!(numbers, [1, 3, 4, 5], "each once, in order");
}

#[tokio::test]
async fn an_app_ends_when_its_engine_does() {
    async fn fine(_: Order) -> Handled {
        Ok(())
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let app = strait.app().serve(orders.group("billing").each(fine));
    let running = tokio::spawn(app.run_until(std::future::pending::<()>()));
    until(&orders.group("billing"), |info| !info.members.is_empty()).await;
    strait.close().await;
    let ended = tokio::time::timeout(secs(20), running)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ended.unwrap_err().kind(), strait::Kind::Closed);
}

#[test]
fn failures_say_what_they_are() {
    let failure = Failure::dead("no");
    assert_eq!(format!("{failure:?}"), "Failure(dead: no)");
}

#[tokio::test]
async fn a_full_disk_holds_effects_back_and_nothing_else() {
    async fn bill(placed: Order, copies: State<Topic<Order>>, out: Out) -> Handled {
        if !placed.number.is_multiple_of(2) {
            out.append(&copies, &placed)?;
        }
        Ok(())
    }
    let is_full = Arc::new(AtomicBool::new(true));
    let full = is_full.clone();
    let strait = refusing(move |unit| {
        let refused = full.load(Ordering::SeqCst) && !unit.send.is_empty();
        refused.then(|| Error::new(Kind::Busy, "the disk is full").code(codes::DISK_FULL))
    });
    let orders = orders(&strait, 1).await;
    for number in 0..10 {
        place(&orders, &number.to_string(), [number]).await;
    }
    let copies = strait.events().topic::<Order>("copies").await.unwrap();
    let group = orders.group("billing");
    let consume = group.each(bill);
    let mut app = strait
        .app()
        .state(copies.clone())
        .serve(consume)
        .start()
        .await
        .unwrap();
    until(&group, |info| info.lag() == 5).await;
    is_full.store(false, Ordering::SeqCst);
    let info = settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!(info.dead, 0, "nothing failed");
    let ends = copies.info().await.unwrap().partitions;
    assert_eq!(ends.iter().map(|p| p.end.offset()).sum::<u64>(), 5);
}
