//! Handlers, extractors, starting and stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use strait::{
    Attempt, Backoff, Batch, Deadline, Handled, Kind, Meta, Order as KeyOrder, Out, Raw, State,
    Topic, codes, secs,
};
use tokio::sync::Notify;

use crate::support::*;

#[tokio::test]
async fn a_handler_gets_its_message_and_what_it_asks_for() {
    struct Db(&'static str);
    async fn bill(
        placed: Order,
        meta: Meta,
        attempt: Attempt,
        db: State<Db>,
        deadline: Deadline,
        seen: State<Log<String>>,
    ) -> Handled {
        let tenant = meta
            .header("tenant")
            .map(|t| String::from_utf8_lossy(t).into_owned());
        seen.push(format!(
            "{} {} {} {} {:?} {} {} {}",
            placed.customer,
            placed.number,
            meta.id(),
            db.0,
            tenant,
            attempt.0,
            deadline.at().is_some(),
            meta.position(),
        ));
        Ok(())
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let seen = Log::<String>::new();
    orders
        .append(&order("ada", 1))
        .id("first")
        .header("tenant", "eu")
        .await
        .unwrap();
    let billing = orders.group("billing");
    let mut app = strait
        .app()
        .state(Db("db"))
        .state(seen.clone())
        .serve(billing.each(bill).timeout(secs(60)))
        .start()
        .await
        .unwrap();
    assert_eq!(seen.wait(1).await, ["ada 1 first db Some(\"eu\") 1 true 0"]);
    settled(&billing).await;
    app.stop().await.unwrap();
    strait.close().await;
}

#[tokio::test]
async fn closures_and_raw_handlers_and_batches_work() {
    let strait = memory();
    let orders = orders(&strait, 2).await;
    let (raw, batches) = (Log::new(), Log::new());
    let (raw_log, batch_log) = (raw.clone(), batches.clone());
    let audit = move |message: Raw| {
        let log = raw_log.clone();
        async move {
            log.push(message.text().unwrap_or_default().to_owned());
            Ok(())
        }
    };
    let index = move |batch: Batch<Order>| {
        let log = batch_log.clone();
        async move {
            log.push(
                batch
                    .iter()
                    .map(|item| item.message.number)
                    .collect::<Vec<_>>(),
            );
            Ok(()) as Handled
        }
    };
    place(&orders, "ada", 1..=5).await;
    let (a, b) = (orders.raw().group("audit"), orders.group("index"));
    let mut app = strait
        .app()
        .serve(a.each(audit))
        .serve(b.each_batch(3, Duration::from_millis(50), index))
        .start()
        .await
        .unwrap();
    settled(&a).await;
    settled(&b).await;
    app.stop().await.unwrap();
    assert_eq!(raw.all()[0], r#"{"customer":"ada","number":1}"#);
    assert_eq!(batches.all(), [vec![1, 2, 3], vec![4, 5]]);
}

#[tokio::test]
async fn each_item_of_a_batch_has_its_own_verdict() {
    async fn index(batch: Batch<Order>, seen: State<Log<Vec<u64>>>) -> Vec<Handled> {
        seen.push(batch.iter().map(|item| item.message.number).collect());
        let verdict = |number: u64, attempt: u32| match number {
            2 if attempt == 1 => Err("not now".into()),
            4 => Err(strait::Failure::dead("never")),
            _ => Ok(()),
        };
        batch
            .iter()
            .map(|item| verdict(item.message.number, item.meta().attempt()))
            .collect()
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    for number in 1..=4 {
        place(&orders, &format!("customer {number}"), [number]).await;
    }
    let group = orders.group("index");
    let seen = Log::<Vec<u64>>::new();
    let consume = group
        .each_batch(4, Duration::from_millis(500), index)
        .retry(Backoff::fixed(Duration::from_millis(5)));
    let mut app = strait
        .app()
        .state(seen.clone())
        .serve(consume.lease(secs(3)))
        .start()
        .await
        .unwrap();
    seen.wait(1).await;
    // The retried item comes alone, so its batch waits its time out.
    let info = settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!(seen.all(), [vec![1, 2, 3, 4], vec![2]]);
    assert_eq!(info.dead, 1);
    assert_eq!(
        &*group.dead_letters().list().await.unwrap()[0].reason,
        "never"
    );
}

#[tokio::test]
async fn effects_leave_with_the_ok_and_never_with_a_failure() {
    async fn bill(
        placed: Order,
        attempt: Attempt,
        meta: Meta,
        payments: State<Topic<Raw>>,
        out: Out,
    ) -> Handled {
        let text = format!("{} of attempt {}", placed.number, attempt.0);
        out.append(&payments, &Raw::new("payment.made.v1", text))?;
        if placed.number == 2 && attempt.0 == 1 {
            return Err("card service timed out".into());
        }
        if placed.number == 3 {
            use strait::OrFail;
            return Err("no such account").or_dead_with(out);
        }
        if placed.number == 4 {
            return Err(strait::Failure::dead("closed"));
        }
        assert!(meta.trace().is_some());
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
    let trace = strait::TraceContext::start();
    for number in 1..=4 {
        orders
            .append(&order("ada", number))
            .trace(trace)
            .id(format!("order-{number}"))
            .await
            .unwrap();
    }
    let billing = orders.group("billing");
    let mut app = strait
        .app()
        .state(payments.clone())
        .serve(
            billing
                .each(bill)
                .retry(Backoff::fixed(Duration::from_millis(5))),
        )
        .start()
        .await
        .unwrap();
    let info = settled(&billing).await;
    app.stop().await.unwrap();
    assert_eq!(info.dead, 2);
    let mut sent = payments.read(0, strait::Start::Earliest).until_end();
    let mut texts = Vec::new();
    while let Some(event) = sent.next().await.unwrap() {
        texts.push(event.message.text().unwrap().to_owned());
        let record = event.stored().record();
        let child: strait::TraceContext = record
            .attr(strait::core::Attr::Traceparent)
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(child.trace_id(), trace.trace_id());
        assert_ne!(child.span_id(), trace.span_id());
        assert!(
            record
                .attr(strait::core::Attr::Causation)
                .unwrap()
                .starts_with("order-")
        );
    }
    assert_eq!(
        texts,
        ["1 of attempt 1", "2 of attempt 2", "3 of attempt 1"]
    );
}

#[tokio::test]
async fn what_is_missing_is_said_once_before_the_first_message() {
    struct Db;
    struct Mailer;
    async fn bill(_: Order, _: State<Db>) -> Handled {
        unreachable!("it must not start")
    }
    async fn mail(_: Order, _: State<Db>, _: State<Mailer>) -> Handled {
        unreachable!("it must not start")
    }
    async fn index(_: Batch<Order>) -> Handled {
        unreachable!("it must not start")
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    let app = strait
        .app()
        .state(Mailer)
        .serve(orders.group("billing").each(bill))
        .serve(orders.group("mail").each(mail))
        .serve(orders.group("mail").each(mail))
        .serve(orders.group("index").each_batch(10, secs(1), index).once());
    let error = app.start().await.unwrap_err();
    assert_eq!((error.kind(), error.is(codes::NEEDS)), (Kind::Config, true));
    let text = error.to_string();
    for part in [
        "Db",
        "group `billing`",
        "group `mail`",
        ".state(value)",
        "a second handler",
        "for batches",
    ] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert!(!text.contains("Mailer>"), "{text}");
    assert!(
        orders.group("billing").info().await.is_err(),
        "no group was joined"
    );
}

#[tokio::test]
async fn stopping_lets_handlers_end_and_gives_the_rest_back_without_an_attempt() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", 1..=3).await;
    let group = orders.group("slow");
    let begun = Log::new();
    let gate = Arc::new(Notify::new());
    let opened = gate.clone();
    let handler = move |placed: Order, attempt: Attempt, begun: State<Log<(u64, u32)>>| {
        let gate = opened.clone();
        async move {
            begun.push((placed.number, attempt.0));
            gate.notified().await;
            Ok(())
        }
    };
    let app = strait.app().state(begun.clone()).grace(secs(20));
    let mut app = app.serve(group.each(handler)).start().await.unwrap();
    begun.wait(1).await;
    let (stopped, ()) = tokio::join!(app.stop(), async { gate.notify_one() });
    stopped.unwrap();
    assert_eq!(begun.all(), [(1, 1)], "nothing began after the stop");
    assert_eq!(
        group.info().await.unwrap().lag(),
        2,
        "the running one was settled"
    );

    // Somebody else gets the rest, at their first attempt.
    let (handled, log) = (Log::new(), begun.clone());
    let done = handled.clone();
    let handler = move |placed: Order, attempt: Attempt| {
        let (log, done) = (log.clone(), done.clone());
        async move {
            log.push((placed.number, attempt.0));
            done.push(());
            Ok(())
        }
    };
    let mut app = strait
        .app()
        .serve(group.each(handler))
        .start()
        .await
        .unwrap();
    handled.wait(2).await;
    settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!(begun.all(), [(1, 1), (2, 1), (3, 1)]);
}

#[tokio::test]
async fn a_handler_that_does_not_end_in_the_grace_is_given_back_without_an_attempt() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    let group = orders.group("slow");
    let begun = Log::new();
    let log = begun.clone();
    let handler = move |_: Order, attempt: Attempt| {
        let log = log.clone();
        async move {
            log.push(attempt.0);
            if log.len() == 1 {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    };
    let mut app = strait
        .app()
        .grace(Duration::from_millis(50))
        .serve(group.each(handler.clone()))
        .start()
        .await
        .unwrap();
    begun.wait(1).await;
    app.stop().await.unwrap();
    let mut app = strait
        .app()
        .serve(group.each(handler))
        .start()
        .await
        .unwrap();
    begun.wait(2).await;
    settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!(begun.all(), [1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_is_kept_and_used() {
    let strait = memory();
    let orders = orders(&strait, 2).await;
    for number in 0..40 {
        place(&orders, &format!("customer {number}"), [number]).await;
    }
    let group = orders.group("wide");
    let now = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(tokio::sync::Barrier::new(4));
    let (n, m) = (now.clone(), most.clone());
    let handler = move |_: Order| {
        let (now, most, gate) = (n.clone(), m.clone(), gate.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Nobody goes on until four are here: it ends only if four run at once.
            gate.wait().await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    };
    let consume = group.each(handler).concurrency(4).order(KeyOrder::Key);
    let mut app = strait.app().serve(consume).start().await.unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn the_report_says_what_will_be_done() {
    async fn bill(_: Order, _: Out) -> Handled {
        Ok(())
    }
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let app = strait.app().serve(
        orders
            .group("billing")
            .each(bill)
            .dead_letter("orders.dead"),
    );
    let report = app.report().await.unwrap();
    let text = report.to_string();
    assert!(text.starts_with("orders  billing"), "{text}");
    assert!(
        text.contains("durable memory") && text.contains("8 attempts"),
        "{text}"
    );
    assert!(text.contains("warn    orders has no retention"), "{text}");
    assert!(
        report.consumers[0]
            .features
            .iter()
            .any(|f| f.name.contains("one commit"))
    );
    let topics = strait.events().topics().await.unwrap();
    assert_eq!(topics.len(), 1, "a report changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_run_beside_each_other_and_none_is_left() {
    let strait = memory();
    let orders = orders(&strait, 3).await;
    let all: Vec<Order> = (0..500)
        .map(|n| order(&format!("c{}", n % 50), n))
        .collect();
    orders.append_all(&all).await.unwrap();
    let group = orders.group("index");
    let done = Log::new();
    let log = done.clone();
    let handler = move |batch: Batch<Order>| {
        let log = log.clone();
        async move {
            tokio::task::yield_now().await;
            batch.into_iter().for_each(|item| log.push(item.message));
            Ok(()) as Handled
        }
    };
    let consume = group
        .each_batch(7, Duration::from_millis(2), handler)
        .concurrency(2);
    let mut app = strait.app().serve(consume).start().await.unwrap();
    settled(&group).await;
    app.stop().await.unwrap();
    let handled = done.all();
    assert_eq!(handled.len(), 500);
    for customer in 0..50 {
        let name = format!("c{customer}");
        let numbers: Vec<u64> = handled
            .iter()
            .filter(|o| o.customer == name)
            .map(|o| o.number)
            .collect();
        assert!(numbers.is_sorted(), "{name}: {numbers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_its_thread_does_not_hold_the_stop() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    let group = orders.group("slow");
    let begun = Log::new();
    let log = begun.clone();
    let (wake, asleep) = std::sync::mpsc::channel::<()>();
    let asleep = Arc::new(std::sync::Mutex::new(asleep));
    let handler = move |_: Order| {
        log.push(());
        // Until the test ends, however long that is.
        let _ = asleep.lock().unwrap().recv();
        std::future::ready(Handled::Ok(()))
    };
    let consume = group.each(handler);
    let mut app = strait
        .app()
        .grace(Duration::from_millis(20))
        .serve(consume)
        .start()
        .await
        .unwrap();
    begun.wait(1).await;
    app.stop().await.unwrap();
    assert_eq!(group.info().await.unwrap().lag(), 1);
    drop(wake);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_is_committed_while_handlers_go_on() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", 1..=200).await;
    let group = orders.group("slow");
    let (lags, look) = (Log::new(), group.clone());
    let log = lags.clone();
    // Never pending, so that nothing but time tells the runner to commit.
    let handler = move |placed: Order| {
        std::thread::sleep(Duration::from_millis(2));
        if placed.number == 200 {
            let look = async { look.info().await.unwrap().lag() };
            let lag =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(look));
            log.push(lag);
        }
        std::future::ready(Handled::Ok(()))
    };
    let mut app = strait
        .app()
        .serve(group.each(handler))
        .start()
        .await
        .unwrap();
    let lag = lags.wait(1).await[0];
    app.stop().await.unwrap();
    assert!(lag < 200, "all of them waited for the end of the run");
}

#[tokio::test]
async fn run_until_stops_when_it_is_told() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    place(&orders, "ada", [1]).await;
    let group = orders.group("billing");
    let handled = Log::new();
    let log = handled.clone();
    let handler = move |_: Order| {
        log.push(());
        std::future::ready(Handled::Ok(()))
    };
    let first = handled.clone();
    let told = async move { first.wait(1).await };
    strait
        .app()
        .serve(group.each(handler))
        .run_until(told)
        .await
        .unwrap();
    assert_eq!(
        group.info().await.unwrap().lag(),
        0,
        "what was done is committed"
    );
    assert!(group.info().await.unwrap().members.is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn sigterm_is_a_wish_to_stop() {
    let mut signal = std::pin::pin!(strait::shutdown_signal());
    // The first poll takes the signals over: from then on they do not end the process.
    assert!(futures_util::poll!(&mut signal).is_pending());
    let pid = std::process::id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .unwrap();
    assert!(sent.success());
    tokio::time::timeout(PATIENCE, signal).await.unwrap();
}
