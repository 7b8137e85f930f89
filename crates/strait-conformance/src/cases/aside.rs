//! Messages that an operator puts aside by hand.

use std::time::Duration;

use strait_core::events::{DeadFilter, GroupSpec, SetAside};
use strait_core::{Error, Position, Receipt};

use super::dead_work::{bodies, listed, redrive_with};
use super::{Case, Need, case};
use crate::fault::Check;
use crate::lab::{Lab, QUIET, retry};
use crate::member::Member;

pub(super) fn cases() -> Vec<Case> {
    let cases = [
        case("aside_before_it_comes", aside_before_it_comes),
        case("aside_of_a_parked_one", aside_of_a_parked_one).needs(Need::Parking),
        case("aside_lets_the_key_go", aside_lets_the_key_go).needs(Need::KeyOrder),
        case("aside_refused_while_out", aside_refused_while_out),
        case("aside_forced_is_fenced", aside_forced).needs(Need::Fencing),
        case("aside_forced_keeps_order", aside_forced_keeps_order)
            .needs(Need::Fencing)
            .needs(Need::KeyOrder),
        case("aside_refused", aside_refused),
        case("aside_dry_run", aside_dry_run),
        case("aside_survives_reopen", aside_survives_reopen).reopens(),
        case("aside_comes_back", aside_comes_back).needs(Need::Redrive),
    ];
    let needed = |case: Case| case.needs(Need::DeadLetters).needs(Need::SetAside);
    cases.into_iter().map(needed).collect()
}

async fn aside(lab: &Lab, spec: &GroupSpec, position: Position, force: bool) -> Result<u64, Error> {
    aside_with(lab, spec, position, |aside| aside.force = force).await
}

async fn aside_with(
    lab: &Lab,
    spec: &GroupSpec,
    position: Position,
    change: impl FnOnce(&mut SetAside),
) -> Result<u64, Error> {
    let mut aside = SetAside {
        group: spec.group.clone(),
        topic: spec.topic.clone(),
        partition: 0,
        position,
        reason: "the customer called".into(),
        force: false,
        dry_run: false,
    };
    change(&mut aside);
    lab.events.set_aside(aside).await
}

/// A group of four messages that has no member and has seen none of them.
async fn four_waiting(lab: &Lab, texts: &[&str]) -> Check<(GroupSpec, Vec<Position>)> {
    let topic = lab.topic(1).await?;
    let (spec, member) = lab.consume(&topic).await?;
    drop(member);
    lab.group_until(&spec, "no member", |info| info.members.is_empty())
        .await?;
    lab.put(&topic, 0, texts).await?;
    let all = lab.all(&topic, 0).await?;
    Ok((spec, all.iter().map(|message| message.position()).collect()))
}

/// Set aside before it was ever delivered, a message is a dead letter with the operator's reason; the others come.
async fn aside_before_it_comes(lab: Lab) -> Check {
    let (spec, at) = four_waiting(&lab, &["k1=a", "k2=b", "k3=c", "k4=d"]).await?;
    let number = aside(&lab, &spec, at[2], false).await?;
    let letters = listed(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(bodies(&letters), ["c"], "dead letters");
    let letter = &letters[0];
    check_eq!(
        (letter.number, letter.attempts, &*letter.reason),
        (number, 0, "the customer called"),
        "number, attempts and reason"
    );
    check_eq!(letter.message.position(), at[2], "position of origin");
    check_eq!(lab.group(&spec).await?.lag(), 3, "lag");
    aside(&lab, &spec, at[0], false).await?;
    let mut member = lab.consume_as(&spec).await?;
    let mut others = member.drain(2).await?;
    others.sort();
    check_eq!(others, ["b", "d"], "the others");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag after it");
    member.quiet(QUIET).await
}

/// One that waits for its next attempt is set aside with the attempts that were made.
async fn aside_of_a_parked_one(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let at = lab.put(&topic, 0, &["k1=a"]).await?.first;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, retry(Duration::from_secs(3_600)))
        .await?;
    aside(&lab, &spec, at, false).await?;
    let letters = listed(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(bodies(&letters), ["a"], "dead letters");
    check_eq!(letters[0].attempts, 1, "attempts");
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), info.parked()), (0, 0), "lag and parked");
    Ok(())
}

/// What waited for its key goes on.
async fn aside_lets_the_key_go(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let at = lab.put(&topic, 0, &["k1=a"]).await?.first;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, retry(Duration::from_secs(3_600)))
        .await?;
    lab.put(&topic, 0, &["k1=b"]).await?;
    member.quiet(QUIET).await?;
    aside(&lab, &spec, at, false).await?;
    check_eq!(member.drain(1).await?, ["b"], "the next of the key");
    Ok(())
}

async fn one_out(lab: &Lab) -> Check<(GroupSpec, Position, Receipt, Member)> {
    let topic = lab.topic(1).await?;
    let at = lab.put(&topic, 0, &["k1=a"]).await?.first;
    let (spec, mut member) = lab.consume(&topic).await?;
    let receipt = member.delivery().await?.receipt;
    Ok((spec, at, receipt, member))
}

/// While a member has it, it is not set aside, and the member's receipt holds.
async fn aside_refused_while_out(lab: Lab) -> Check {
    let (spec, at, receipt, _member) = one_out(&lab).await?;
    let answer = aside(&lab, &spec, at, false).await;
    check_refused!(answer, Conflict, "a message that is out");
    lab.done(receipt).await?;
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), info.dead), (0, 0), "lag and dead letters");
    Ok(())
}

/// Forced, it is a dead letter, and the member's receipt is fenced.
async fn aside_forced(lab: Lab) -> Check {
    let (spec, at, receipt, mut member) = one_out(&lab).await?;
    aside(&lab, &spec, at, true).await?;
    lab.fenced(receipt).await?;
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), info.dead), (0, 1), "lag and dead letters");
    member.quiet(QUIET).await
}

/// Forced out of the middle of what one receipt covers, the others come again before later ones of their key.
async fn aside_forced_keeps_order(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b", "k3=c"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut deliveries = member.take(3).await?.into_iter();
    let second = lab.all(&topic, 0).await?[1].position();
    let mut whole = match deliveries.next() {
        Some(first) => first.receipt,
        None => return Ok(()),
    };
    for delivery in deliveries {
        check!(whole.join(delivery.receipt).is_ok(), "receipts do not join");
    }
    aside(&lab, &spec, second, true).await?;
    lab.put(&topic, 0, &["k1=later", "k3=later"]).await?;
    lab.fenced(whole).await?;
    let came = member.drain(4).await?;
    check_eq!(came, ["a", "c", "later", "later"], "what comes");
    Ok(())
}

/// What is settled is `Conflict`; what is not there is `NotFound`, or `Rejected` for a partition.
async fn aside_refused(lab: Lab) -> Check {
    let (spec, at, receipt, _member) = one_out(&lab).await?;
    lab.done(receipt).await?;
    let answer = aside(&lab, &spec, at, true).await;
    check_refused!(answer, Conflict, "a settled message");
    let beyond = Position::of_parts(at.parts().0, at.offset() + 1_000);
    let answer = aside(&lab, &spec, beyond, true).await;
    check_refused!(answer, NotFound, "a position past the end");
    let answer = aside_with(&lab, &spec, at, |aside| aside.partition = 7).await;
    check_refused!(answer, Rejected, "a partition that is not there");
    check_eq!(lab.group(&spec).await?.dead, 0, "dead letters");
    Ok(())
}

/// A dry run says what would be, or why it would not, and changes nothing.
async fn aside_dry_run(lab: Lab) -> Check {
    let try_it = async |spec: &GroupSpec, position, force| {
        let look = |aside: &mut SetAside| (aside.force, aside.dry_run) = (force, true);
        aside_with(&lab, spec, position, look).await
    };
    let (spec, at, receipt, _member) = one_out(&lab).await?;
    let answer = try_it(&spec, at, false).await;
    check_refused!(answer, Conflict, "a message that is out");
    let would_be = try_it(&spec, at, true).await?;
    lab.done(receipt).await?;
    check_refused!(try_it(&spec, at, true).await, Conflict, "a settled message");
    check_eq!(lab.group(&spec).await?.dead, 0, "dead letters");
    let (spec, at) = four_waiting(&lab, &["k1=a", "k2=b", "k3=c", "k4=d"]).await?;
    check_eq!(try_it(&spec, at[1], false).await?, would_be, "the number");
    check_eq!(lab.group(&spec).await?.lag(), 4, "the lag after a dry run");
    check_eq!(
        aside(&lab, &spec, at[1], false).await?,
        would_be,
        "the number"
    );
    Ok(())
}

/// What was set aside is so after a reopen, and does not come.
async fn aside_survives_reopen(mut lab: Lab) -> Check {
    let (spec, at) = four_waiting(&lab, &["k1=a", "k2=b", "k3=c", "k4=d"]).await?;
    aside(&lab, &spec, at[0], false).await?;
    aside(&lab, &spec, at[2], false).await?;
    lab.reopen().await?;
    let letters = listed(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(bodies(&letters), ["a", "c"], "dead letters");
    let mut member = lab.consume_as(&spec).await?;
    let mut others = member.drain(2).await?;
    others.sort();
    check_eq!(others, ["b", "d"], "the others");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// It comes back by a redrive, in its place of the order, before the group has got that far too.
async fn aside_comes_back(lab: Lab) -> Check {
    let (spec, at) = four_waiting(&lab, &["k1=a", "k1=b", "k1=c"]).await?;
    aside(&lab, &spec, at[1], false).await?;
    let done = redrive_with(&lab, &spec, DeadFilter::default(), |_| {}).await?;
    check_eq!(done.count, 1, "brought back");
    check_eq!(lab.group(&spec).await?.lag(), 3, "lag");
    let mut member = lab.consume_as(&spec).await?;
    let mut all = member.drain(3).await?;
    if !lab.caps.key_order.is_there() {
        all.sort();
    }
    check_eq!(all, ["a", "b", "c"], "what comes");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag after it");
    member.quiet(QUIET).await
}
