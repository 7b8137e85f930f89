//! Settling: positions, completed ranges, lag.

use std::time::{Duration, Instant};

use strait_core::{Arrival, Offer, Position, Unit, Verdict};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Ending, Lab, QUIET, body, retry};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("settle_each", each),
        case("settle_range", range),
        case("settle_split_range", split_range),
        case("settle_out_of_order", out_of_order),
        case("settle_verdicts_in_one_unit", verdicts_in_one_unit).needs(Need::Parking),
        case("settled_stays_settled_after_leaving", after_leaving).needs(Need::CompletedRanges),
        case("settled_stays_settled_after_reopen", after_reopen)
            .reopens()
            .needs(Need::CompletedRanges),
        case("settled_stays_settled_after_kill", after_kill)
            .kills()
            .needs(Need::CompletedRanges),
        case("settled_ranges_by_the_hundred", ranges_by_the_hundred).needs(Need::CompletedRanges),
        case("position_survives_reopen", position_survives_reopen).reopens(),
        case("lag_in_messages", lag_in_messages),
        case("lag_in_age", lag_in_age),
        case("lag_of_a_group_without_members", lag_without_members),
    ]
}

async fn ten(lab: &Lab) -> Check<strait_core::Name> {
    let topic = lab.topic(1).await?;
    let texts: Vec<String> = (0..10).map(|i| format!("k{i}={i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    lab.put(&topic, 0, &texts).await?;
    Ok(topic)
}

/// Each settled message moves the committed position.
async fn each(lab: Lab) -> Check {
    let topic = ten(&lab).await?;
    let positions: Vec<Position> = lab
        .all(&topic, 0)
        .await?
        .iter()
        .map(|m| m.position())
        .collect();
    let (spec, mut member) = lab.consume(&topic).await?;
    let before = lab.group(&spec).await?.shards[0].clone();
    check_eq!(before.committed, positions[0], "committed before");
    for (i, delivery) in member.take(10).await?.into_iter().enumerate() {
        lab.done(delivery.receipt).await?;
        let shard = lab.group(&spec).await?.shards[0].clone();
        let next = positions.get(i + 1).copied().unwrap_or(shard.end);
        check_eq!(shard.committed, next, "committed after {}", i + 1);
        check_eq!(shard.lag, 9 - i as u64, "lag after {}", i + 1);
    }
    Ok(())
}

/// Receipts of messages that follow each other join to one, which settles the range.
async fn range(lab: Lab) -> Check {
    let topic = ten(&lab).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut whole: Option<strait_core::Receipt> = None;
    for delivery in member.take(10).await? {
        match &mut whole {
            None => whole = Some(delivery.receipt),
            Some(whole) => {
                let joined = whole.join(delivery.receipt);
                check!(
                    joined.is_ok(),
                    "receipts that follow do not join: {joined:?}"
                );
            }
        }
    }
    let whole = whole.ok_or_else(|| Fault::new("no delivery"))?;
    check_eq!(whole.count(), 10, "messages of the joined receipt");
    lab.done(whole).await?;
    let shard = lab.group(&spec).await?.shards[0].clone();
    check_eq!((shard.lag, shard.in_flight), (0, 0), "lag and in flight");
    check_eq!(shard.committed, shard.end, "committed");
    Ok(())
}

/// A range's receipt can be cut: what is settled of it stays settled, the rest is still out.
async fn split_range(lab: Lab) -> Check {
    let topic = ten(&lab).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let next = tokio::time::timeout(lab.patience, member.consumer.next(10, 1 << 20)).await;
    let mut receipt = match next.map_err(|_| Fault::new("no delivery comes"))?? {
        Arrival::Run(_, receipt) => receipt,
        Arrival::Each(_) => return Err(Fault::skip("the engine delivers no runs")),
        other => return Err(Fault::new(format!("a delivery was to come: {other:?}"))),
    };
    check!(receipt.split_at(0).is_none(), "a cut at 0");
    check!(
        receipt.split_at(receipt.count()).is_none(),
        "a cut at the end"
    );
    let total = receipt.count();
    let head = receipt.split_at(total / 2);
    let head = head.ok_or_else(|| Fault::new("the run holds a single message of ten"))?;
    check_eq!(
        head.count() + receipt.count(),
        total,
        "messages of both parts"
    );
    lab.done(receipt).await?;
    let shard = lab.group(&spec).await?.shards[0].clone();
    if lab.caps.dense_offsets == Offer::Native {
        check_eq!(shard.committed, head.fence().first, "committed");
    }
    check_eq!(shard.in_flight, u64::from(total / 2), "in flight");
    lab.done(head).await?;
    let lag = lab.group(&spec).await?.lag();
    check_eq!(lag, u64::from(10 - total), "lag after both");
    Ok(())
}

/// Messages settle in any order; the committed position is the first that is not settled.
async fn out_of_order(lab: Lab) -> Check {
    let topic = ten(&lab).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut deliveries: Vec<_> = member.take(10).await?.into_iter().map(Some).collect();
    let positions: Vec<Position> = lab
        .all(&topic, 0)
        .await?
        .iter()
        .map(|m| m.position())
        .collect();
    let mut settled = [false; 10];
    for i in [3, 1, 0, 9, 2, 8, 4, 6, 7, 5] {
        let delivery = deliveries[i].take();
        let delivery = delivery.ok_or_else(|| Fault::new("settled twice by the case"))?;
        lab.done(delivery.receipt).await?;
        settled[i] = true;
        let shard = lab.group(&spec).await?.shards[0].clone();
        let open = settled.iter().position(|done| !done);
        let wanted = open.map_or(shard.end, |first| positions[first]);
        check_eq!(shard.committed, wanted, "committed after {i}");
        let lag = settled.iter().filter(|done| !**done).count() as u64;
        check_eq!(shard.lag, lag, "lag after {i}");
    }
    Ok(())
}

/// One unit may hold different verdicts; each message gets its own.
async fn verdicts_in_one_unit(lab: Lab) -> Check {
    let topic = ten(&lab).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut unit = Unit::default();
    for (i, delivery) in member.take(10).await?.into_iter().enumerate() {
        let verdict = match i {
            2 => retry(Duration::ZERO),
            5 => Verdict::Release,
            _ => Verdict::Done,
        };
        unit.settle.push((delivery.receipt, verdict));
    }
    lab.apply(unit).await?;
    let mut again = Vec::new();
    for delivery in member.take(2).await? {
        again.push((body(&delivery.message), delivery.attempt));
        lab.done(delivery.receipt).await?;
    }
    again.sort();
    let wanted = [("2".to_owned(), 2), ("5".to_owned(), 1)];
    check_eq!(again, wanted, "what came again, with its attempt");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// Settles six of ten messages, drops the rest with the member, ends the engine in some way, and checks that exactly
/// the rest comes.
async fn only_the_rest_comes(mut lab: Lab, ending: Ending) -> Check {
    let topic = ten(&lab).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    for (i, delivery) in member.take(10).await?.into_iter().enumerate() {
        if [0, 1, 4, 6, 7, 9].contains(&i) {
            lab.done(delivery.receipt).await?;
        }
    }
    drop(member);
    lab.through(ending).await?;
    let mut member = lab.consume_as(&spec).await?;
    let mut bodies = member.drain(4).await?;
    bodies.sort();
    check_eq!(bodies, ["2", "3", "5", "8"], "deliveries");
    member.quiet(QUIET).await?;
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// What was settled out of order is not delivered to the next member.
async fn after_leaving(lab: Lab) -> Check {
    only_the_rest_comes(lab, Ending::None).await
}

/// What was settled out of order is not delivered after a reopen.
async fn after_reopen(lab: Lab) -> Check {
    only_the_rest_comes(lab, Ending::Reopen).await
}

/// What was settled out of order is not delivered after the death of the process.
async fn after_kill(lab: Lab) -> Check {
    only_the_rest_comes(lab, Ending::Kill).await
}

/// Hundreds of ranges are kept: every second message settled, the others come.
async fn ranges_by_the_hundred(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let texts: Vec<String> = (0..600).map(|i| format!("k{i}={i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    lab.put(&topic, 0, &texts).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut unit = Unit::default();
    let mut rest = Vec::new();
    for (i, delivery) in member.take(600).await?.into_iter().enumerate() {
        match i % 2 {
            0 => rest.push(delivery),
            _ => unit.settle.push((delivery.receipt, Verdict::Done)),
        }
    }
    lab.apply(unit).await?;
    check_eq!(lab.group(&spec).await?.lag(), 300, "lag");
    drop((rest, member));
    let mut member = lab.consume_as(&spec).await?;
    let mut wanted: Vec<String> = (0..600).step_by(2).map(|i| i.to_string()).collect();
    let mut bodies = member.drain(300).await?;
    bodies.sort();
    wanted.sort();
    check_eq!(bodies, wanted, "deliveries");
    member.quiet(QUIET).await
}

/// A group goes on where it was after a reopen.
async fn position_survives_reopen(mut lab: Lab) -> Check {
    let topic = ten(&lab).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    for delivery in member.take(10).await?.into_iter().take(4) {
        lab.done(delivery.receipt).await?;
    }
    let before = lab.group(&spec).await?.shards[0].committed;
    drop(member);
    lab.reopen().await?;
    let info = lab.group(&spec).await?;
    check_eq!(info.shards[0].committed, before, "committed");
    check_eq!(info.lag(), 6, "lag");
    let mut member = lab.consume_as(&spec).await?;
    let mut bodies = member.drain(6).await?;
    bodies.sort();
    check_eq!(bodies, ["4", "5", "6", "7", "8", "9"], "deliveries");
    Ok(())
}

/// Lag counts the messages that are not settled: waiting, out, or parked; each partition its own.
async fn lag_in_messages(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b", "k3=c"]).await?;
    lab.put(&topic, 1, &["k4=d"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let deliveries = member.take(4).await?;
    let info = lab.group(&spec).await?;
    let lags: Vec<u64> = info.shards.iter().map(|s| s.lag).collect();
    check_eq!(lags, [3, 1], "lag with everything out");
    let out: Vec<u64> = info.shards.iter().map(|s| s.in_flight).collect();
    check_eq!(out, [3, 1], "in flight");
    let mut deliveries = deliveries.into_iter();
    let parked = deliveries.next().ok_or_else(|| Fault::new("no delivery"))?;
    let parked_at = parked.message.partition() as usize;
    if lab.caps.parking.is_there() {
        lab.settle(parked.receipt, retry(Duration::from_secs(600)))
            .await?;
        let shard = lab.group(&spec).await?.shards[parked_at].clone();
        check_eq!(shard.parked, 1, "parked");
        let lag = lab.group(&spec).await?.lag();
        check_eq!(lag, 4, "lag with one parked");
    } else {
        lab.done(parked.receipt).await?;
    }
    for delivery in deliveries {
        lab.done(delivery.receipt).await?;
    }
    let info = lab.group(&spec).await?;
    check_eq!(
        info.lag(),
        info.parked(),
        "lag when all but the parked is settled"
    );
    lab.put(&topic, 1, &["k5=e", "k6=f"]).await?;
    let info = lab.group(&spec).await?;
    check_eq!(info.lag(), info.parked() + 2, "lag after two more");
    check_eq!(info.shards.len(), 2, "shards");
    Ok(())
}

/// Lag is also the age of the oldest message that is not settled; nothing when all is.
async fn lag_in_age(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a"]).await?;
    let appended = Instant::now();
    let (spec, mut member) = lab.consume(&topic).await?;
    let first = member.delivery().await?;
    tokio::time::sleep(Duration::from_millis(30)).await;
    let at_least = appended.elapsed().saturating_sub(Duration::from_millis(5));
    let oldest = lab.group(&spec).await?.oldest();
    check!(
        oldest.is_some_and(|age| age >= at_least && age < lab.patience * 6),
        "the oldest is {at_least:?} old, the group says {oldest:?}"
    );
    lab.done(first.receipt).await?;
    let oldest = lab.group(&spec).await?.oldest();
    check_eq!(oldest, None, "age when all is settled");
    Ok(())
}

/// A group without members keeps its lag, and it grows.
async fn lag_without_members(lab: Lab) -> Check {
    let topic = ten(&lab).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    member.drain(10).await?;
    drop(member);
    let gone = |info: &strait_core::events::GroupInfo| info.members.is_empty();
    lab.group_until(&spec, "no member", gone).await?;
    lab.put(&topic, 0, &["x", "y", "z"]).await?;
    let info = lab.group(&spec).await?;
    check_eq!(info.lag(), 3, "lag");
    check!(
        info.oldest().is_some(),
        "no age with three messages waiting"
    );
    Ok(())
}
