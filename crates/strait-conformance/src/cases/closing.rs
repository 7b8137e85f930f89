//! The end of an engine: consumers end, writes under way finish, later calls are refused.

use std::time::Duration;

use strait_core::events::{Start, TopicSpec};
use strait_core::{Claim, Health, Kind, Unit, Verdict};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Lab, batch, body, cursor, not_applied, outgoing};
use crate::member::Seen;

const GRACE: Duration = Duration::from_secs(10);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("close_refuses_later_calls", refuses_later_calls),
        case("close_refuses_later_claims", refuses_later_claims).needs(Need::Ledger),
        case("close_refuses_later_settles", refuses_later_settles).needs(Need::Groups),
        case("close_ends_consumers", ends_consumers).needs(Need::Groups),
        case("close_ends_waiting_reads", ends_waiting_reads),
        case("close_twice", twice),
        case("close_finishes_writes", finishes_writes).reopens(),
        case("close_counts_only_what_was_out", counts_only_what_was_out)
            .needs(Need::Groups)
            .reopens(),
        case("close_shows_in_health", shows_in_health),
        case("reopen_is_the_same_store", same_store).reopens(),
    ]
}

/// After `close` every call answers `Closed`.
async fn refuses_later_calls(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let spec = lab.spec(&topic)?;
    lab.engine.close(GRACE).await;
    let events = &lab.events;
    let answer = lab.append(&topic, 0, batch(&["a"])?).await;
    check_refused!(answer, Closed, "append");
    check_refused!(
        lab.read(&topic, 0, Default::default()).await,
        Closed,
        "read"
    );
    let new = TopicSpec::new(lab.name("t")?);
    check_refused!(events.declare(new).await, Closed, "declare");
    check_refused!(events.topic(topic.clone()).await, Closed, "topic");
    check_refused!(events.topics().await, Closed, "topics");
    let located = events.locate(topic.clone(), 0, Start::Latest).await;
    check_refused!(located, Closed, "locate");
    check_refused!(events.join(spec.clone()).await, Closed, "join");
    let group = events.group(spec.group, topic.clone()).await;
    check_refused!(group, Closed, "group");
    check_refused!(events.delete(topic).await, Closed, "delete");
    Ok(())
}

/// After `close` a claim answers `Closed`.
async fn refuses_later_claims(lab: Lab) -> Check {
    lab.engine.close(GRACE).await;
    let claim = Claim {
        scope: "s".to_owned(),
        key: "k".to_owned(),
        holder: "h".to_owned(),
        lease: GRACE,
        wait: Duration::ZERO,
        at_most_once: false,
    };
    check_refused!(lab.engine.claim(claim).await, Closed, "claim");
    Ok(())
}

/// After `close` no unit is applied, with or without a receipt.
async fn refuses_later_settles(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    lab.engine.close(GRACE).await;
    let sending = Unit::send(outgoing(&topic, "b")?);
    let (_, error) = not_applied(lab.commit(sending).await?)?;
    check_eq!(error.kind(), Kind::Closed, "kind of the error");
    match lab
        .commit(Unit::settle(delivery.receipt, Verdict::Done))
        .await?
    {
        strait_core::Outcome::Fenced => Ok(()),
        other => {
            let (_, error) = not_applied(other)?;
            check_eq!(error.kind(), Kind::Closed, "kind of the settle's error");
            Ok(())
        }
    }
}

/// A consumer yields `End` when the engine is closed, also while it waits.
async fn ends_consumers(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let waiting = tokio::spawn(async move {
        loop {
            match member.next().await {
                Ok(Seen::End) => return Ok(()),
                Ok(_) => {}
                Err(fault) => return Err(fault),
            }
        }
    });
    tokio::task::yield_now().await;
    lab.engine.close(GRACE).await;
    let ended: Check = waiting.await.map_err(Fault::new)?;
    ended
}

/// A read that waits at the end is answered when the engine is closed.
async fn ends_waiting_reads(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let start = lab.events.topic(topic.clone()).await?.partitions[0].start;
    let long = cursor(&topic, 0, start, lab.patience * 100);
    let waiting = tokio::spawn(lab.events.read(long, 1 << 20));
    tokio::task::yield_now().await;
    lab.engine.close(GRACE).await;
    let ended = tokio::time::timeout(lab.patience, waiting).await;
    let ended = ended.map_err(|_| Fault::new("the waiting read sleeps on"))?;
    match ended.map_err(Fault::new)? {
        Ok(chunk) => check!(chunk.is_empty(), "nothing was appended: {chunk:?}"),
        Err(error) => check_eq!(error.kind(), Kind::Closed, "kind of the error"),
    }
    Ok(())
}

/// Closing twice, also at once, is fine.
async fn twice(lab: Lab) -> Check {
    let both = async { tokio::join!(lab.engine.close(GRACE), lab.engine.close(GRACE)) };
    let closed = tokio::time::timeout(lab.patience, both).await;
    check!(closed.is_ok(), "closing at once from two sides hangs");
    lab.engine.close(Duration::ZERO).await;
    Ok(())
}

/// Appends under way are acknowledged and stored, or refused and not stored; none hangs.
async fn finishes_writes(mut lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let mut appending = tokio::task::JoinSet::new();
    for i in 0..40 {
        let append = crate::lab::plain(&topic, 0, batch(&[&format!("{i:02}")])?);
        let answer = lab.events.append(append);
        appending.spawn(async move { (i, answer.await) });
    }
    tokio::task::yield_now().await;
    lab.engine.close(GRACE).await;
    let mut acked = Vec::new();
    while let Some(answer) = appending.join_next().await {
        match answer.map_err(Fault::new)? {
            (i, Ok(_)) => acked.push(format!("{i:02}")),
            (_, Err(error)) => check_eq!(error.kind(), Kind::Closed, "kind of the error"),
        }
    }
    acked.sort();
    lab.reopen().await?;
    let mut found: Vec<String> = lab.all(&topic, 0).await?.iter().map(body).collect();
    found.sort();
    check_eq!(
        found,
        acked,
        "what is stored, against what was acknowledged"
    );
    Ok(())
}

/// A close spends no attempt of what no member has seen, whatever the engine had ready, also of released messages.
async fn counts_only_what_was_out(mut lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    for i in 0..12 {
        lab.put(&topic, i % 2, &[&format!("k{}={i}", i % 4)])
            .await?;
    }
    let (spec, mut member) = lab.consume(&topic).await?;
    member.items = 2;
    let mut seen = Vec::new();
    for round in 0..4 {
        let delivery = member.delivery().await?;
        seen.push(body(&delivery.message));
        if round % 2 == 0 {
            lab.settle(delivery.receipt, Verdict::Release).await?;
        }
    }
    seen.extend(member.holding());
    lab.reopen().await?;
    // Its receipts, and what it holds, are of the engine that was closed.
    drop(member);
    let mut member = lab.consume_as(&spec).await?;
    for _ in 0..12 {
        let delivery = member.delivery().await?;
        let (text, attempt) = (body(&delivery.message), delivery.attempt);
        check!(
            attempt == 1 || attempt == 2 && seen.contains(&text),
            "`{text}` comes as attempt {attempt}, the members saw {seen:?}"
        );
        lab.done(delivery.receipt).await?;
    }
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// Health is `Up`, and `Ended` after the close.
async fn shows_in_health(lab: Lab) -> Check {
    let health = lab.engine.health();
    let before = health.borrow().clone();
    check!(
        !matches!(before, Health::Ended(_)),
        "before the close: {before:?}"
    );
    lab.engine.close(GRACE).await;
    let after = health.borrow().clone();
    check!(
        matches!(after, Health::Ended(_)),
        "after the close: {after:?}"
    );
    Ok(())
}

/// The engine opened again is the same store.
async fn same_store(mut lab: Lab) -> Check {
    let before = lab.engine.id();
    lab.reopen().await?;
    check_eq!(lab.engine.id(), before, "id of the engine");
    let health = lab.engine.health().borrow().clone();
    check_eq!(health, Health::Up, "health after the reopen");
    Ok(())
}
