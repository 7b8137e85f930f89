//! Dead letters: with reason, attempts and origin; listed, brought back, bounded.

use std::time::Duration;

use strait_core::events::{DeadFilter, GroupInfo, GroupSpec, Redrive, RemoveDead};
use strait_core::{Name, Timestamp, Unit, Verdict, codes};

use super::{Case, Need, case};
use crate::fault::Check;
use crate::lab::{Lab, QUIET, body, key, not_applied, outgoing, retry};
use crate::member::Member;

pub(super) fn cases() -> Vec<Case> {
    [
        case("dead_with_reason_and_origin", with_reason_and_origin),
        case("dead_of_a_range", of_a_range),
        case("dead_listed_in_pages", listed_in_pages),
        case("dead_survives_reopen", survives_reopen).reopens(),
        case("dead_survives_kill", survives_kill).kills(),
        case("dead_copied_to_a_topic", copied_to_a_topic),
        case("dead_copied_when_attempts_end", copied_when_attempts_end).needs(Need::Parking),
        case("dead_with_effects", with_effects).needs(Need::AtomicEffects),
        case("dead_not_applied", dead_not_applied).needs(Need::AtomicEffects),
        case("dead_bound_pauses", bound_pauses),
        case("redrive_all", redrive_all).needs(Need::Redrive),
        case("redrive_some", redrive_some).needs(Need::Redrive),
        case("redrive_in_key_order", redrive_in_key_order)
            .needs(Need::Redrive)
            .needs(Need::KeyOrder),
        case("redrive_survives_reopen", redrive_survives_reopen)
            .needs(Need::Redrive)
            .reopens(),
        case("redrive_of_nothing", redrive_of_nothing).needs(Need::Redrive),
        case("redriven_dies_again", redriven_dies_again).needs(Need::Redrive),
    ]
    .into_iter()
    .map(|case| case.needs(Need::DeadLetters))
    .collect()
}

fn dead(reason: &str) -> Verdict {
    Verdict::Dead(reason.into())
}

async fn kill(lab: &Lab, member: &mut Member, count: usize) -> Check {
    for delivery in member.take(count).await? {
        let reason = format!("cannot {}", body(&delivery.message));
        lab.settle(delivery.receipt, dead(&reason)).await?;
    }
    Ok(())
}

async fn three_dead(lab: &Lab) -> Check<(Name, GroupSpec, Member)> {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b", "k3=c"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    kill(lab, &mut member, 3).await?;
    Ok((topic, spec, member))
}

async fn redrive(lab: &Lab, spec: &GroupSpec, numbers: Option<Vec<u64>>) -> Check<u64> {
    let filter = DeadFilter {
        numbers,
        ..DeadFilter::default()
    };
    let redrive = Redrive::new(spec.group.clone(), spec.topic.clone(), filter);
    Ok(lab.events.redrive(redrive).await?.count)
}

async fn dead_bodies(lab: &Lab, spec: &GroupSpec) -> Check<Vec<String>> {
    let dead = lab.dead(spec).await?;
    Ok(dead.iter().map(|letter| body(&letter.message)).collect())
}

/// `Dead` settles the message and keeps it whole, with where it came from, its attempts and the reason.
async fn with_reason_and_origin(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    let sent = lab.put(&topic, 1, &["ada=a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut attempts = 1;
    if lab.caps.parking.is_there() {
        let delivery = member.delivery().await?;
        lab.settle(delivery.receipt, retry(Duration::ZERO)).await?;
        attempts = 2;
    }
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, dead("no such order: 42"))
        .await?;
    let letters = lab.dead(&spec).await?;
    check_eq!(letters.len(), 1, "dead letters");
    let letter = &letters[0];
    check_eq!(&*letter.reason, "no such order: 42", "reason");
    check_eq!(letter.attempts, attempts, "attempts");
    check_eq!(body(&letter.message), "a", "body");
    check_eq!(key(&letter.message), "ada", "key");
    check_eq!(&**letter.message.topic(), &*topic, "topic of origin");
    check_eq!(letter.message.partition(), 1, "partition of origin");
    check_eq!(letter.message.position(), sent.first, "position of origin");
    let age = Timestamp::now().since(letter.died);
    check!(age < Duration::from_secs(3_600), "it died {age:?} ago");
    let info = lab.group(&spec).await?;
    check_eq!((info.dead, info.lag()), (1, 0), "dead letters and lag");
    member.quiet(QUIET).await
}

/// A range's receipt ends each of its messages as a dead letter of its own.
async fn of_a_range(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b", "k3=c"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut deliveries = member.take(3).await?.into_iter();
    if let Some(mut whole) = deliveries.next().map(|d| d.receipt) {
        for delivery in deliveries {
            check!(whole.join(delivery.receipt).is_ok(), "receipts do not join");
        }
        lab.settle(whole, dead("all of it")).await?;
    }
    check_eq!(
        dead_bodies(&lab, &spec).await?,
        ["a", "b", "c"],
        "dead letters"
    );
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// Dead letters are listed by number, which grows, from a number on and so many.
async fn listed_in_pages(lab: Lab) -> Check {
    let (_, spec, _member) = three_dead(&lab).await?;
    let all = lab.dead(&spec).await?;
    let numbers: Vec<u64> = all.iter().map(|letter| letter.number).collect();
    check_eq!(numbers.len(), 3, "dead letters");
    check!(numbers.is_sorted_by(|a, b| a < b), "numbers: {numbers:?}");
    let page = |from, limit| {
        let (group, topic) = (spec.group.clone(), spec.topic.clone());
        let all = DeadFilter::default();
        lab.events.dead_letters(group, topic, all, from, limit)
    };
    let found: Vec<u64> = page(0, 2).await?.iter().map(|l| l.number).collect();
    check_eq!(found, numbers[..2], "the first two");
    let found: Vec<u64> = page(numbers[1], 9)
        .await?
        .iter()
        .map(|l| l.number)
        .collect();
    check_eq!(found, numbers[1..], "from the second on");
    let found = page(numbers[2] + 1, 9).await?;
    check!(found.is_empty(), "past the last: {found:?}");
    Ok(())
}

async fn same_after(lab: &Lab, spec: &GroupSpec) -> Check {
    let letters = lab.dead(spec).await?;
    let found: Vec<(String, String)> = letters
        .iter()
        .map(|letter| (body(&letter.message), letter.reason.to_string()))
        .collect();
    let wanted = ["a", "b", "c"].map(|text| (text.to_owned(), format!("cannot {text}")));
    check_eq!(found, wanted, "dead letters with their reasons");
    check_eq!(lab.group(spec).await?.lag(), 0, "lag");
    Ok(())
}

/// Dead letters survive a reopen.
async fn survives_reopen(mut lab: Lab) -> Check {
    let (_, spec, member) = three_dead(&lab).await?;
    drop(member);
    lab.reopen().await?;
    same_after(&lab, &spec).await
}

/// Dead letters survive the death of the process.
async fn survives_kill(mut lab: Lab) -> Check {
    let (_, spec, _member) = three_dead(&lab).await?;
    lab.kill().await?;
    same_after(&lab, &spec).await
}

async fn with_copies(lab: &Lab) -> Check<(Name, GroupSpec, Member)> {
    let (topic, graves) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["ada=a"]).await?;
    let spec = GroupSpec {
        dead_topic: Some(graves.clone()),
        max_attempts: 1,
        ..lab.spec(&topic)?
    };
    let member = lab.consume_as(&spec).await?;
    Ok((graves, spec, member))
}

async fn one_copy(lab: &Lab, graves: &Name) -> Check {
    let copies = lab.all(graves, 0).await?;
    check_eq!(copies.len(), 1, "copies");
    check_eq!(body(&copies[0]), "a", "body of the copy");
    check_eq!(key(&copies[0]), "ada", "key of the copy");
    Ok(())
}

/// The dead-letter topic gets a copy, in the same change.
async fn copied_to_a_topic(lab: Lab) -> Check {
    let (graves, spec, mut member) = with_copies(&lab).await?;
    kill(&lab, &mut member, 1).await?;
    check_eq!(lab.group(&spec).await?.dead, 1, "dead letters");
    one_copy(&lab, &graves).await
}

/// A message whose attempts are over is copied too.
async fn copied_when_attempts_end(lab: Lab) -> Check {
    let (graves, spec, mut member) = with_copies(&lab).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, retry(Duration::ZERO)).await?;
    check_eq!(lab.group(&spec).await?.dead, 1, "dead letters");
    one_copy(&lab, &graves).await
}

/// What a handler sends with its giving up leaves with the dead letter.
async fn with_effects(lab: Lab) -> Check {
    let (topic, sink) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    let mut unit = Unit::settle(delivery.receipt, dead("no"));
    unit.send.push(outgoing(&sink, "refund")?);
    check_eq!(lab.apply(unit).await?.len(), 1, "answers for one effect");
    check_eq!(lab.bodies(&sink, 0).await?, ["refund"], "effects");
    check_eq!(dead_bodies(&lab, &spec).await?, ["a"], "dead letters");
    Ok(())
}

/// A unit that is not applied leaves no dead letter.
async fn dead_not_applied(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    let mut unit = Unit::settle(delivery.receipt, dead("no"));
    unit.send.push(outgoing(&lab.name("missing")?, "refund")?);
    let (mut unit, error) = not_applied(lab.commit(unit).await?)?;
    check!(error.is(codes::NO_SUCH_TOPIC), "its code: {error:?}");
    check_eq!(dead_bodies(&lab, &spec).await?.len(), 0, "dead letters");
    check_eq!(lab.group(&spec).await?.lag(), 1, "lag");
    unit.send.clear();
    lab.apply(unit).await?;
    check_eq!(dead_bodies(&lab, &spec).await?, ["a"], "dead letters");
    Ok(())
}

/// At the bound of dead letters the group takes nothing more and says why; it goes on when some are brought back or
/// removed.
async fn bound_pauses(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b"]).await?;
    let spec = GroupSpec {
        max_dead: 2,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    kill(&lab, &mut member, 1).await?;
    check_eq!(
        lab.group(&spec).await?.paused,
        None,
        "paused below the bound"
    );
    kill(&lab, &mut member, 1).await?;
    lab.put(&topic, 0, &["k3=c"]).await?;
    member.quiet(QUIET).await?;
    let paused = |info: &GroupInfo| info.paused.is_some();
    let info = lab
        .group_until(&spec, "a reason for the pause", paused)
        .await?;
    check_eq!((info.dead, info.lag()), (2, 1), "dead letters and lag");
    if lab.caps.redrive.is_there() {
        check_eq!(redrive(&lab, &spec, None).await?, 2, "brought back");
        let mut bodies = member.drain(3).await?;
        bodies.sort();
        check_eq!(bodies, ["a", "b", "c"], "deliveries after it");
    } else {
        let remove = RemoveDead {
            group: spec.group.clone(),
            topic,
            filter: DeadFilter::default(),
            dry_run: false,
        };
        check_eq!(lab.events.remove_dead(remove).await?, 2, "removed");
        check_eq!(member.drain(1).await?, ["c"], "deliveries after it");
    }
    let info = lab.group(&spec).await?;
    check_eq!(info.paused, None, "paused after it");
    check_eq!(
        (info.dead, info.lag()),
        (0, 0),
        "dead letters and lag after it"
    );
    Ok(())
}

/// Brought back, dead letters are delivered to their group again, attempts from 1, and are no longer dead.
async fn redrive_all(lab: Lab) -> Check {
    let (topic, spec, mut member) = three_dead(&lab).await?;
    let (_, mut other) = lab.consume(&topic).await?;
    other.drain(3).await?;
    check_eq!(redrive(&lab, &spec, None).await?, 3, "brought back");
    let info = lab.group(&spec).await?;
    check_eq!((info.dead, info.lag()), (0, 3), "dead letters and lag");
    let mut bodies = Vec::new();
    for delivery in member.take(3).await? {
        let text = body(&delivery.message);
        check_eq!(delivery.attempt, 1, "attempt of `{text}`");
        bodies.push(text);
        lab.done(delivery.receipt).await?;
    }
    bodies.sort();
    check_eq!(bodies, ["a", "b", "c"], "deliveries");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    other.quiet(QUIET).await
}

/// Some may be chosen by number; the others stay.
async fn redrive_some(lab: Lab) -> Check {
    let (_, spec, mut member) = three_dead(&lab).await?;
    let numbers: Vec<u64> = lab.dead(&spec).await?.iter().map(|l| l.number).collect();
    let chosen = vec![numbers[0], numbers[2]];
    check_eq!(redrive(&lab, &spec, Some(chosen)).await?, 2, "brought back");
    let mut bodies = member.drain(2).await?;
    bodies.sort();
    check_eq!(bodies, ["a", "c"], "deliveries");
    check_eq!(dead_bodies(&lab, &spec).await?, ["b"], "what stays dead");
    Ok(())
}

/// However they died, those of a key come back in the order of the log.
async fn redrive_in_key_order(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let spec = lab.spec(&topic)?;
    let mut member = lab.consume_as(&spec).await?;
    lab.put(&topic, 0, &["ada=1", "bob=x", "ada=2", "ada=3"])
        .await?;
    for _ in 0..4 {
        kill(&lab, &mut member, 1).await?;
    }
    let numbers: Vec<u64> = lab.dead(&spec).await?.iter().map(|l| l.number).collect();
    check_eq!(numbers.len(), 4, "dead letters");
    let chosen: Vec<u64> = numbers.into_iter().rev().collect();
    check_eq!(redrive(&lab, &spec, Some(chosen)).await?, 4, "brought back");
    let mut of_ada = member.drain(4).await?;
    of_ada.retain(|text| text != "x");
    check_eq!(of_ada, ["1", "2", "3"], "messages of the key");
    Ok(())
}

/// What was brought back and not handled yet is still there after a reopen.
async fn redrive_survives_reopen(mut lab: Lab) -> Check {
    let (_, spec, member) = three_dead(&lab).await?;
    drop(member);
    check_eq!(redrive(&lab, &spec, None).await?, 3, "brought back");
    lab.reopen().await?;
    check_eq!(lab.group(&spec).await?.dead, 0, "dead letters");
    let mut member = lab.consume_as(&spec).await?;
    let mut bodies = member.drain(3).await?;
    bodies.sort();
    check_eq!(bodies, ["a", "b", "c"], "deliveries");
    member.quiet(QUIET).await
}

/// Bringing back no numbers is fine; numbers that are not there are `NotFound`, and change nothing; so is a missing
/// group.
async fn redrive_of_nothing(lab: Lab) -> Check {
    let (topic, spec, mut member) = three_dead(&lab).await?;
    let numbers = Some(vec![u64::MAX, 1_000_000]);
    let strange = DeadFilter {
        numbers,
        ..DeadFilter::default()
    };
    let strange = Redrive::new(spec.group.clone(), topic.clone(), strange);
    check_refused!(
        lab.events.redrive(strange).await,
        NotFound,
        "numbers that are not there"
    );
    let none = Some(Vec::new());
    check_eq!(
        redrive(&lab, &spec, none).await?,
        0,
        "brought back of no numbers"
    );
    check_eq!(lab.group(&spec).await?.dead, 3, "dead letters");
    member.quiet(QUIET).await?;
    let all = DeadFilter::default();
    let missing = Redrive::new(lab.name("missing")?, topic.clone(), all.clone());
    check_refused!(
        lab.events.redrive(missing).await,
        NotFound,
        "a missing group"
    );
    let (group, limit) = (lab.name("missing")?, 10);
    let answer = lab.events.dead_letters(group, topic, all, 0, limit).await;
    check_refused!(answer, NotFound, "dead letters of a missing group");
    Ok(())
}

/// A message may die again; its letter has a new number.
async fn redriven_dies_again(lab: Lab) -> Check {
    let (_, spec, mut member) = three_dead(&lab).await?;
    let before: Vec<u64> = lab.dead(&spec).await?.iter().map(|l| l.number).collect();
    check_eq!(redrive(&lab, &spec, None).await?, 3, "brought back");
    kill(&lab, &mut member, 3).await?;
    let after: Vec<u64> = lab.dead(&spec).await?.iter().map(|l| l.number).collect();
    check_eq!(after.len(), 3, "dead letters");
    let fresh = after.iter().all(|number| Some(number) > before.last());
    check!(fresh, "numbers {after:?} after {before:?}");
    Ok(())
}
