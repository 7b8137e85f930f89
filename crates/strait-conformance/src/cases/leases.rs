//! Leases and fences: a lost receipt has no effects, an abandoned one comes back.

use std::time::Duration;

use strait_core::events::{GroupSpec, Seek, Start};
use strait_core::{Arrival, Delivery, Unit, Verdict};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Lab, QUIET, body, must_be_fenced, outgoing};
use crate::member::{Member, Seen};

const LEASE: Duration = Duration::from_millis(300);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("lease_ends", lease_ends).needs(Need::Fencing),
        case("lease_ends_for_another_member", ends_for_another).needs(Need::Fencing),
        case("lease_lost_counts_to_the_limit", lost_counts).needs(Need::DeadLetters),
        case("lease_extended", extended).needs(Need::LeaseExtension),
        case("lease_extended_too_late", extended_too_late).needs(Need::LeaseExtension),
        case("receipt_dropped_comes_back", dropped_comes_back),
        case("receipt_dropped_in_part", dropped_in_part),
        case("receipt_dropped_counts_to_the_limit", dropped_counts).needs(Need::DeadLetters),
        case("receipts_lost_twice_in_two_shards", lost_twice),
        case("leaving_counts_only_what_was_out", counts_only_what_was_out),
        case("leaving_in_the_middle_of_a_poll", in_the_middle_of_a_poll),
        case("release_spends_no_attempt", release_spends_none),
        case("release_over_and_over", release_over_and_over),
        case("fence_of_a_moved_group", moved_group).needs(Need::Fencing),
        case("fence_of_an_earlier_incarnation", earlier_incarnation)
            .reopens()
            .needs(Need::Fencing),
        case("fence_after_a_kill", after_a_kill)
            .kills()
            .needs(Need::Fencing),
        case("fenced_unit_has_no_effects", no_effects)
            .needs(Need::Fencing)
            .needs(Need::AtomicEffects),
        case("fenced_in_company", in_company).needs(Need::Fencing),
        case("under_a_live_receipt", under_live)
            .needs(Need::Fencing)
            .needs(Need::AtomicEffects),
        case("under_a_lost_receipt", under_lost)
            .needs(Need::Fencing)
            .needs(Need::AtomicEffects),
    ]
}

async fn short_lease(lab: &Lab, max_attempts: u32) -> Check<(GroupSpec, Member, Delivery)> {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=a"]).await?;
    let spec = GroupSpec {
        lease: LEASE,
        max_attempts,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    let delivery = member.delivery().await?;
    Ok((spec, member, delivery))
}

/// A delivery whose lease ends comes back with its attempt counted; the old receipt is fenced and changes nothing.
async fn lease_ends(lab: Lab) -> Check {
    let (spec, mut member, delivery) = short_lease(&lab, 8).await?;
    let began = std::time::Instant::now();
    let again = member.delivery().await?;
    check!(
        began.elapsed() >= LEASE / 2,
        "it came back after {:?}, the lease is {LEASE:?}",
        began.elapsed()
    );
    check_eq!(body(&again.message), "a", "the message");
    check_eq!(again.attempt, 2, "its attempt");
    lab.fenced(delivery.receipt).await?;
    check_eq!(
        lab.group(&spec).await?.lag(),
        1,
        "lag after the fenced settle"
    );
    lab.done(again.receipt).await?;
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    member.quiet(QUIET).await
}

/// A member that hangs loses its message to another that takes the partition over.
async fn ends_for_another(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let spec = GroupSpec {
        lease: LEASE,
        handover: LEASE,
        ..lab.spec(&topic)?
    };
    let mut hanging = lab.consume_as(&spec).await?;
    let delivery = hanging.delivery().await?;
    let mut other = lab.join(&spec).await?;
    tokio::time::sleep(LEASE * 2).await;
    drop(hanging);
    let again = other.delivery().await?;
    check_eq!(body(&again.message), "a", "the message");
    check!(again.attempt >= 2, "its attempt: {}", again.attempt);
    lab.fenced(delivery.receipt).await?;
    lab.done(again.receipt).await
}

/// Waits until so many messages are dead. An engine may find out when the member asks for more, so it does.
async fn die(lab: &Lab, spec: &GroupSpec, member: &mut Member, count: u64) -> Check {
    let deadline = tokio::time::Instant::now() + lab.patience;
    while lab.group(spec).await?.dead < count {
        check!(
            tokio::time::Instant::now() < deadline,
            "{count} dead letters wanted: {:?}",
            lab.group(spec).await?
        );
        member.quiet(Duration::from_millis(20)).await?;
    }
    Ok(())
}

/// Lost leases count towards the limit: the last one sends the message to the dead letters.
async fn lost_counts(lab: Lab) -> Check {
    let (spec, mut member, first) = short_lease(&lab, 2).await?;
    let second = member.delivery().await?;
    check_eq!(second.attempt, 2, "attempt");
    die(&lab, &spec, &mut member, 1).await?;
    let dead = lab.dead(&spec).await?;
    check_eq!(dead.len(), 1, "dead letters");
    check_eq!(dead[0].attempts, 2, "attempts of the dead letter");
    check!(!dead[0].reason.is_empty(), "it has no reason");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    lab.fenced(first.receipt).await?;
    lab.fenced(second.receipt).await
}

/// An extended lease holds: the message stays with its member beyond the first time, and settles.
async fn extended(lab: Lab) -> Check {
    let (spec, mut member, delivery) = short_lease(&lab, 8).await?;
    for _ in 0..8 {
        let held = member
            .extend(vec![delivery.receipt.fence()], LEASE * 2)
            .await?;
        check_eq!(held, [true], "the extension");
        member.quiet(LEASE / 4).await?;
    }
    lab.done(delivery.receipt).await?;
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// A lease that was lost cannot be extended, nor one that is settled; the answers are in order.
async fn extended_too_late(lab: Lab) -> Check {
    let (_, mut member, delivery) = short_lease(&lab, 8).await?;
    let again = member.delivery().await?;
    let (lost, live) = (delivery.receipt.fence(), again.receipt.fence());
    check!(
        lost != live,
        "the receipt of the second delivery is the first's"
    );
    let held = member.extend(vec![lost, live, lost], LEASE).await?;
    check_eq!(
        held,
        [false, true, false],
        "extensions of a lost and a live one"
    );
    lab.done(again.receipt).await?;
    let held = member.extend(vec![live], LEASE).await?;
    check_eq!(held, [false], "the extension of a settled one");
    Ok(())
}

async fn abc(lab: &Lab, max_attempts: u32) -> Check<(GroupSpec, Member)> {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b", "k3=c"]).await?;
    let spec = GroupSpec {
        max_attempts,
        ..lab.spec(&topic)?
    };
    let member = lab.consume_as(&spec).await?;
    Ok((spec, member))
}

/// A receipt that is dropped unsettled comes back at once, long before its lease ends, its attempt counted.
async fn dropped_comes_back(lab: Lab) -> Check {
    let (spec, mut member) = abc(&lab, 8).await?;
    for delivery in member.take(3).await? {
        match body(&delivery.message).as_str() {
            "b" => drop(delivery),
            _ => lab.done(delivery.receipt).await?,
        }
    }
    let again = member.delivery().await?;
    check_eq!(body(&again.message), "b", "the abandoned message");
    check_eq!(again.attempt, 2, "its attempt");
    lab.done(again.receipt).await?;
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// Of a range that was cut, only the dropped part comes back.
async fn dropped_in_part(lab: Lab) -> Check {
    let (_, mut member) = abc(&lab, 8).await?;
    let mut deliveries = member.take(3).await?.into_iter();
    let first = deliveries.next().ok_or_else(|| Fault::new("no delivery"))?;
    let mut whole = first.receipt;
    for delivery in deliveries {
        check!(whole.join(delivery.receipt).is_ok(), "receipts do not join");
    }
    let head = whole.split_first();
    let head = head.ok_or_else(|| Fault::new("a range of three cannot be cut"))?;
    drop(head);
    lab.done(whole).await?;
    let again = member.delivery().await?;
    check_eq!(
        (body(&again.message), again.attempt),
        ("a".to_owned(), 2),
        "what comes back"
    );
    lab.done(again.receipt).await?;
    member.quiet(QUIET).await
}

/// Abandoned attempts count towards the limit.
async fn dropped_counts(lab: Lab) -> Check {
    let (spec, mut member) = abc(&lab, 2).await?;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(member.delivery().await?.attempt);
    }
    seen.sort_unstable();
    check_eq!(seen, [1, 1, 1, 2, 2, 2], "attempts of what was dropped");
    die(&lab, &spec, &mut member, 3).await?;
    for letter in lab.dead(&spec).await? {
        check_eq!(letter.attempts, 2, "attempts of a dead letter");
    }
    member.quiet(QUIET).await
}

/// A message that was lost twice may be handled with care, but never holds up another member's for longer than itself.
async fn lost_twice(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    lab.put(&topic, 0, &["a"]).await?;
    lab.put(&topic, 1, &["b"]).await?;
    let (spec, mut first) = lab.consume(&topic).await?;
    let mut lost = [0, 0];
    while lost != [2, 2] {
        let delivery = first.delivery().await?;
        let shard = delivery.message.partition() as usize;
        match lost[shard] {
            2 => lab.settle(delivery.receipt, Verdict::Release).await?,
            _ => lost[shard] += 1,
        }
    }
    let mut second = lab.join(&spec).await?;
    while first.owned.len() > 1 {
        match first.next().await? {
            Seen::Revoking(shard, _) => first.hand_back(shard).await?,
            Seen::Delivery(delivery) => lab.settle(delivery.receipt, Verdict::Release).await?,
            _ => {}
        }
    }
    second.owns(1).await?;
    for _ in 0..2 {
        let delivery = tokio::select! {
            delivery = first.delivery() => delivery?,
            delivery = second.delivery() => delivery?,
        };
        check_eq!(delivery.attempt, 3, "attempt of what was lost twice");
        lab.done(delivery.receipt).await?;
    }
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// A member that leaves spends an attempt of what it was given, not of what the engine had ready for it.
async fn counts_only_what_was_out(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    for i in 0..10 {
        lab.put(&topic, 0, &[&format!("k{i}={i}")]).await?;
    }
    let (spec, mut member) = lab.consume(&topic).await?;
    let next = tokio::time::timeout(lab.patience, member.consumer.next(1, 1 << 20)).await;
    let arrival = next.map_err(|_| Fault::new("no delivery comes"))??;
    check!(
        matches!(arrival, Arrival::Run(..) | Arrival::Each(_)),
        "a delivery was to come: {arrival:?}"
    );
    drop(member);
    drop(arrival);
    let mut member = lab.consume_as(&spec).await?;
    let mut attempts = Vec::new();
    for _ in 0..10 {
        let delivery = member.delivery().await?;
        attempts.push((body(&delivery.message), delivery.attempt));
        lab.done(delivery.receipt).await?;
    }
    attempts.sort();
    let wanted = (0..10).map(|i: u32| (i.to_string(), if i == 0 { 2 } else { 1 }));
    check_eq!(
        attempts,
        wanted.collect::<Vec<_>>(),
        "messages and attempts"
    );
    Ok(())
}

/// A member that leaves while it polls spends no attempt of what it never saw.
async fn in_the_middle_of_a_poll(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b"]).await?;
    let spec = lab.spec(&topic)?;
    for _ in 0..20 {
        let mut member = lab.join(&spec).await?;
        let polled = tokio::time::timeout(Duration::ZERO, member.consumer.next(1, 1 << 20)).await;
        check!(
            matches!(polled, Err(_) | Ok(Ok(Arrival::Assigned(0)))),
            "the first poll gave {polled:?}"
        );
        let mut next = Box::pin(member.consumer.next(1, 1 << 20));
        let polled = tokio::time::timeout(Duration::ZERO, next.as_mut()).await;
        drop(next);
        match polled {
            Ok(Ok(Arrival::Run(_, receipt))) => lab.settle(receipt, Verdict::Release).await?,
            Ok(Ok(Arrival::Each(deliveries))) => {
                for delivery in deliveries {
                    lab.settle(delivery.receipt, Verdict::Release).await?;
                }
            }
            _ => {}
        }
    }
    let mut member = lab.consume_as(&spec).await?;
    for _ in 0..2 {
        let delivery = member.delivery().await?;
        let text = body(&delivery.message);
        check_eq!(delivery.attempt, 1, "attempt of `{text}`");
        lab.done(delivery.receipt).await?;
    }
    Ok(())
}

/// A release hands the message back without spending an attempt.
async fn release_spends_none(lab: Lab) -> Check {
    let (spec, mut member) = abc(&lab, 8).await?;
    for delivery in member.take(3).await? {
        lab.settle(delivery.receipt, Verdict::Release).await?;
    }
    let mut again = Vec::new();
    for delivery in member.take(3).await? {
        again.push((body(&delivery.message), delivery.attempt));
        lab.done(delivery.receipt).await?;
    }
    again.sort();
    let wanted = ["a", "b", "c"].map(|text| (text.to_owned(), 1));
    check_eq!(again, wanted, "what comes back, with its attempt");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// Releases never reach a limit.
async fn release_over_and_over(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let spec = GroupSpec {
        max_attempts: 1,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    for round in 0..5 {
        let delivery = member.delivery().await?;
        check_eq!(delivery.attempt, 1, "attempt of round {round}");
        lab.settle(delivery.receipt, Verdict::Release).await?;
    }
    check_eq!(member.drain(1).await?, ["a"], "the delivery after them");
    check_eq!(lab.group(&spec).await?.dead, 0, "dead letters");
    Ok(())
}

/// A forced move of the group fences what its members have out.
async fn moved_group(lab: Lab) -> Check {
    let (spec, mut member) = abc(&lab, 8).await?;
    let mut old = member.take(3).await?;
    let seek = Seek {
        group: spec.group.clone(),
        topic: spec.topic.clone(),
        partition: 0,
        to: Start::Earliest,
        force: true,
    };
    lab.events.seek(seek).await?;
    for delivery in old.drain(..) {
        lab.fenced(delivery.receipt).await?;
    }
    check_eq!(
        lab.group(&spec).await?.lag(),
        3,
        "lag after the fenced settles"
    );
    let mut bodies = member.drain(3).await?;
    bodies.sort();
    check_eq!(bodies, ["a", "b", "c"], "deliveries after the move");
    Ok(())
}

/// A receipt of the engine before its reopen is fenced.
async fn earlier_incarnation(mut lab: Lab) -> Check {
    let (spec, mut member) = abc(&lab, 8).await?;
    let old = member.take(3).await?;
    lab.reopen().await?;
    drop(member);
    let mut member = lab.consume_as(&spec).await?;
    let new = member.take(3).await?;
    for delivery in old {
        lab.fenced(delivery.receipt).await?;
    }
    check_eq!(
        lab.group(&spec).await?.lag(),
        3,
        "lag after the fenced settles"
    );
    for delivery in new {
        lab.done(delivery.receipt).await?;
    }
    Ok(())
}

/// The death of the process costs what was out an attempt, and fences it.
async fn after_a_kill(mut lab: Lab) -> Check {
    let (spec, mut member) = abc(&lab, 8).await?;
    let old = member.take(3).await?;
    lab.kill().await?;
    let mut next = lab.consume_as(&spec).await?;
    for delivery in old {
        lab.fenced(delivery.receipt).await?;
    }
    drop(member);
    for delivery in next.take(3).await? {
        let text = body(&delivery.message);
        check_eq!(delivery.attempt, 2, "attempt of `{text}` after the kill");
        lab.done(delivery.receipt).await?;
    }
    Ok(())
}

/// A message, its receipt lost by a forced move.
async fn lost_receipt(lab: &Lab) -> Check<(GroupSpec, Member, Delivery)> {
    let (spec, mut member) = abc(lab, 8).await?;
    let mut deliveries = member.take(3).await?;
    let seek = Seek {
        group: spec.group.clone(),
        topic: spec.topic.clone(),
        partition: 0,
        to: Start::Earliest,
        force: true,
    };
    lab.events.seek(seek).await?;
    Ok((spec, member, deliveries.remove(0)))
}

/// A fenced unit appends nothing and settles nothing.
async fn no_effects(lab: Lab) -> Check {
    let sink = lab.topic(1).await?;
    let (spec, _member, lost) = lost_receipt(&lab).await?;
    let mut unit = Unit::settle(lost.receipt, Verdict::Done);
    unit.send.push(outgoing(&sink, "zombie")?);
    must_be_fenced(lab.commit(unit).await?)?;
    check_eq!(lab.bodies(&sink, 0).await?.len(), 0, "effects");
    check_eq!(lab.group(&spec).await?.lag(), 3, "lag");
    Ok(())
}

/// One lost receipt fences its whole unit: the live ones beside it are not settled.
async fn in_company(lab: Lab) -> Check {
    let (_, _member, lost) = lost_receipt(&lab).await?;
    let (other, mut live) = abc(&lab, 8).await?;
    let mut unit = Unit::default();
    for delivery in live.take(3).await? {
        unit.settle.push((delivery.receipt, Verdict::Done));
    }
    unit.settle.insert(1, (lost.receipt, Verdict::Done));
    must_be_fenced(lab.commit(unit).await?)?;
    let lag = lab.group(&other).await?.lag();
    check_eq!(lag, 3, "lag of the group beside");
    Ok(())
}

/// A unit under a live receipt is applied and does not settle it.
async fn under_live(lab: Lab) -> Check {
    let sink = lab.topic(1).await?;
    let (spec, mut member) = abc(&lab, 8).await?;
    let delivery = member.delivery().await?;
    for step in ["one", "two"] {
        let mut unit = Unit::send(outgoing(&sink, step)?);
        unit.under = Some(delivery.receipt.fence());
        let sent = lab.apply(unit).await?;
        check_eq!(sent.len(), 1, "answers for one effect");
    }
    check_eq!(lab.bodies(&sink, 0).await?, ["one", "two"], "effects");
    check_eq!(lab.group(&spec).await?.lag(), 3, "lag");
    lab.done(delivery.receipt).await
}

/// A unit under a lost, or settled, receipt is fenced.
async fn under_lost(lab: Lab) -> Check {
    let sink = lab.topic(1).await?;
    let (_, mut member, lost) = lost_receipt(&lab).await?;
    let mut unit = Unit::send(outgoing(&sink, "zombie")?);
    unit.under = Some(lost.receipt.fence());
    must_be_fenced(lab.commit(unit).await?)?;
    let delivery = member.delivery().await?;
    let mut unit = Unit::send(outgoing(&sink, "late")?);
    unit.under = Some(delivery.receipt.fence());
    lab.done(delivery.receipt).await?;
    must_be_fenced(lab.commit(unit).await?)?;
    check_eq!(lab.bodies(&sink, 0).await?.len(), 0, "effects");
    Ok(())
}
