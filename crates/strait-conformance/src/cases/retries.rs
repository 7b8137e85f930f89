//! Retries: parked, never early, counted, and ended by the limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strait_core::events::GroupSpec;
use strait_core::{Unit, Verdict};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Ending, Lab, QUIET, body, retry};

pub(super) fn cases() -> Vec<Case> {
    [
        case("retry_is_never_early", never_early),
        case("retry_comes_back_with_its_reason", with_its_reason),
        case("retry_at_once", at_once),
        case("retry_does_not_block", does_not_block),
        case("retry_shortest_first", shortest_first),
        case("retry_uncounted", uncounted),
        case("retry_for_ever_is_no_fault", for_ever),
        case("retry_of_a_range", of_a_range),
        case("retry_survives_leaving", survives_leaving),
        case("retry_survives_reopen", survives_reopen).reopens(),
        case("retry_survives_kill", survives_kill).kills(),
        case("retry_reaches_the_limit", reaches_the_limit).needs(Need::DeadLetters),
        case(
            "retry_uncounted_passes_the_limit",
            uncounted_passes_the_limit,
        )
        .needs(Need::DeadLetters),
        case("retry_attempts_survive_reopen", attempts_survive_reopen)
            .reopens()
            .needs(Need::DeadLetters),
    ]
    .into_iter()
    .map(|case| case.needs(Need::Parking))
    .collect()
}

fn because(reason: &str, counts: bool) -> Verdict {
    Verdict::Retry {
        after: Duration::ZERO,
        reason: reason.into(),
        counts,
    }
}

/// A retry comes back, but never earlier than its time.
async fn never_early(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    for (attempt, millis) in [(2, 80), (3, 1), (4, 150)] {
        let after = Duration::from_millis(millis);
        let delivery = member.delivery().await?;
        let asked = Instant::now();
        lab.settle(delivery.receipt, retry(after)).await?;
        let again = member.delivery().await?;
        let waited = asked.elapsed();
        check!(
            waited >= after,
            "back after {waited:?}, {after:?} were asked for"
        );
        check_eq!(again.attempt, attempt, "attempt");
        lab.settle(again.receipt, Verdict::Release).await?;
    }
    Ok(())
}

/// The next attempt knows its number and the reason of the last one.
async fn with_its_reason(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut last: Option<Arc<str>> = None;
    for attempt in 1..=4 {
        let delivery = member.delivery().await?;
        check_eq!(delivery.attempt, attempt, "attempt");
        check_eq!(
            delivery.last_error,
            last,
            "reason of the attempt before {attempt}"
        );
        let reason = format!("no {attempt}: café\n\"quoted\"");
        lab.settle(delivery.receipt, because(&reason, true)).await?;
        last = Some(reason.into());
    }
    check_eq!(member.drain(1).await?, ["a"], "the last attempt");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// A retry without a delay comes back at once.
async fn at_once(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let spec = GroupSpec {
        max_attempts: 100,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    for attempt in 1..=20 {
        let delivery = member.delivery().await?;
        check_eq!(delivery.attempt, attempt, "attempt");
        lab.settle(delivery.receipt, retry(Duration::ZERO)).await?;
    }
    Ok(())
}

/// A parked message does not hold up the others.
async fn does_not_block(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k0=parked", "k1=a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut deliveries = member.take(2).await?;
    let later = deliveries.pop();
    for delivery in deliveries {
        lab.settle(delivery.receipt, retry(Duration::from_secs(600)))
            .await?;
    }
    if let Some(later) = later {
        lab.done(later.receipt).await?;
    }
    for i in 2..30 {
        lab.put(&topic, 0, &[&format!("k{i}=m{i}")]).await?;
        check_eq!(member.drain(1).await?, [format!("m{i}")], "delivery {i}");
    }
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), info.parked()), (1, 1), "lag and parked");
    Ok(())
}

/// Parked messages come back in the order of their times, not in that of their parking.
async fn shortest_first(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=160", "k2=20", "k3=90"]).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let mut unit = Unit::default();
    for delivery in member.take(3).await? {
        let millis = body(&delivery.message).parse().map_err(Fault::new)?;
        let verdict = retry(Duration::from_millis(millis));
        unit.settle.push((delivery.receipt, verdict));
    }
    lab.apply(unit).await?;
    check_eq!(
        member.drain(3).await?,
        ["20", "90", "160"],
        "order of the returns"
    );
    Ok(())
}

/// A retry that does not count spends no attempt, and still tells its reason.
async fn uncounted(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, because("busy", false)).await?;
    let again = member.delivery().await?;
    check_eq!(again.attempt, 1, "attempt after an uncounted retry");
    check_eq!(again.last_error.as_deref(), Some("busy"), "its reason");
    lab.settle(again.receipt, because("failed", true)).await?;
    let again = member.delivery().await?;
    check_eq!(again.attempt, 2, "attempt after a counted one");
    lab.done(again.receipt).await
}

/// A retry in the far future is parked, no overflow, and can be ended by deleting the topic.
async fn for_ever(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut deliveries = member.take(2).await?.into_iter();
    for after in [Duration::MAX, Duration::from_secs(1 << 40)] {
        if let Some(delivery) = deliveries.next() {
            lab.settle(delivery.receipt, retry(after)).await?;
        }
    }
    lab.put(&topic, 0, &["k3=c"]).await?;
    check_eq!(member.drain(1).await?, ["c"], "the delivery beside");
    check_eq!(lab.group(&spec).await?.parked(), 2, "parked");
    member.quiet(QUIET).await?;
    Ok(lab.events.delete(topic).await?)
}

/// A retry of a range's receipt parks each of its messages.
async fn of_a_range(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b", "k3=c"]).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let mut deliveries = member.take(3).await?.into_iter();
    let Some(mut whole) = deliveries.next().map(|d| d.receipt) else {
        return Ok(());
    };
    for delivery in deliveries {
        check!(whole.join(delivery.receipt).is_ok(), "receipts do not join");
    }
    lab.settle(whole, because("all of it", true)).await?;
    let mut bodies = Vec::new();
    for delivery in member.take(3).await? {
        check_eq!(delivery.attempt, 2, "attempt");
        check_eq!(delivery.last_error.as_deref(), Some("all of it"), "reason");
        bodies.push(body(&delivery.message));
        lab.done(delivery.receipt).await?;
    }
    bodies.sort();
    check_eq!(bodies, ["a", "b", "c"], "what comes back");
    Ok(())
}

/// Parks a message, ends the member, and the engine in some way, and checks what the next member gets.
async fn comes_back(mut lab: Lab, ending: Ending) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let after = Duration::from_millis(250);
    let asked = Instant::now();
    for delivery in member.take(2).await? {
        match body(&delivery.message).as_str() {
            "a" => lab.settle(delivery.receipt, retry(after)).await?,
            _ => lab.done(delivery.receipt).await?,
        }
    }
    drop(member);
    lab.through(ending).await?;
    let mut member = lab.consume_as(&spec).await?;
    let again = member.delivery().await?;
    let waited = asked.elapsed();
    check!(
        waited >= after,
        "back after {waited:?}, {after:?} were asked for"
    );
    check_eq!(body(&again.message), "a", "what comes back");
    check_eq!(again.attempt, 2, "its attempt");
    let reason = again.last_error.as_deref();
    check_eq!(reason, Some("not now"), "its reason");
    lab.done(again.receipt).await?;
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// A parked message waits also without its member, and goes to the next one.
async fn survives_leaving(lab: Lab) -> Check {
    comes_back(lab, Ending::None).await
}

/// A parked message with its time, attempt and reason survives a reopen.
async fn survives_reopen(lab: Lab) -> Check {
    comes_back(lab, Ending::Reopen).await
}

/// A parked message survives the death of the process.
async fn survives_kill(lab: Lab) -> Check {
    comes_back(lab, Ending::Kill).await
}

/// The last attempt's retry goes to the dead letters, with the reason of that attempt.
async fn reaches_the_limit(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let spec = GroupSpec {
        max_attempts: 3,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    for attempt in 1..=3 {
        let delivery = member.delivery().await?;
        check_eq!(delivery.attempt, attempt, "attempt");
        check_eq!(
            lab.group(&spec).await?.dead,
            0,
            "dead letters before the end"
        );
        let reason = format!("failed {attempt}");
        lab.settle(delivery.receipt, because(&reason, true)).await?;
    }
    let dead = lab.dead(&spec).await?;
    check_eq!(dead.len(), 1, "dead letters");
    check_eq!(body(&dead[0].message), "a", "the message");
    check_eq!(dead[0].attempts, 3, "attempts");
    check!(
        dead[0].reason.contains("failed 3"),
        "the last reason is not kept: {:?}",
        dead[0].reason
    );
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    member.quiet(QUIET).await
}

/// Uncounted retries do not reach the limit.
async fn uncounted_passes_the_limit(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let spec = GroupSpec {
        max_attempts: 1,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    for _ in 0..5 {
        let delivery = member.delivery().await?;
        check_eq!(delivery.attempt, 1, "attempt");
        lab.settle(delivery.receipt, because("busy", false)).await?;
    }
    check_eq!(lab.group(&spec).await?.dead, 0, "dead letters");
    check_eq!(member.drain(1).await?, ["a"], "the delivery after them");
    Ok(())
}

/// Attempts made before a reopen count after it.
async fn attempts_survive_reopen(mut lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let spec = GroupSpec {
        max_attempts: 2,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, retry(Duration::from_millis(250)))
        .await?;
    drop(member);
    lab.reopen().await?;
    let mut member = lab.consume_as(&spec).await?;
    let again = member.delivery().await?;
    check_eq!(again.attempt, 2, "attempt after the reopen");
    lab.settle(again.receipt, because("again", true)).await?;
    check_eq!(lab.group(&spec).await?.dead, 1, "dead letters");
    Ok(())
}
