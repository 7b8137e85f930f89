//! What follows a dead letter for its key: it holds the key, where the group says so.

use std::time::Duration;

use strait_core::events::{
    AfterDead, DeadFilter, GroupChange, GroupInfo, GroupSpec, Order, Override, Seek, Start,
    StuckOn, Waits,
};
use strait_core::{Unit, Verdict};

use super::dead_work::{redrive_with, remove};
use super::{Case, Need, case};
use crate::fault::Check;
use crate::lab::{Ending, Lab, QUIET, body, key, retry};
use crate::member::Member;

pub(super) fn cases() -> Vec<Case> {
    [
        case("hold_key_others_flow", others_flow),
        case("hold_key_not_without_it", not_without_it),
        case("hold_key_redriven_first", redriven_first),
        case("hold_key_later_appends", later_appends),
        case("hold_key_removed_goes_on", removed_goes_on),
        case("hold_key_removed_survives_reopen", removed_survives_reopen).reopens(),
        case("hold_key_removed_one_of_two", removed_one_of_two),
        case("hold_key_in_one_unit", in_one_unit),
        case("hold_key_none", without_a_key),
        case("hold_key_dies_again", dies_again),
        case("hold_key_of_two", of_two),
        case("hold_key_when_attempts_end", when_attempts_end).needs(Need::Parking),
        case("hold_key_when_lost", when_lost),
        case("hold_key_at_the_gap", at_the_gap),
        case("hold_key_through_a_move", through_a_move),
        case("hold_key_survives_reopen", |lab| {
            survives(lab, Ending::Reopen)
        })
        .reopens(),
        case("hold_key_survives_kill", |lab| survives(lab, Ending::Kill)).kills(),
        case("hold_key_let_go_by_a_seek", let_go_by_a_seek),
        case("hold_key_let_go_by_an_operator", let_go_by_an_operator).needs(Need::AlterGroup),
        case("hold_key_let_go_by_members", let_go_by_members),
        case("hold_key_refused_without_order", refused_without_order),
    ]
    .into_iter()
    .map(|case| case.needs(Need::HoldKey).needs(Need::KeyOrder))
    .collect()
}

fn dead() -> Verdict {
    Verdict::Dead("cannot be booked".into())
}

fn spec(lab: &Lab, topic: &strait_core::Name) -> Check<GroupSpec> {
    Ok(GroupSpec {
        after_dead: AfterDead::HoldKey,
        ..lab.spec(topic)?
    })
}

/// A group whose message `ada=1` is dead, with `ada=2` and `ada=3` behind it and two of another key; what the member had
/// of them is given back.
async fn one_dead(lab: &Lab) -> Check<(GroupSpec, Member)> {
    let topic = lab.topic(1).await?;
    let texts = ["ada=1", "ada=2", "bob=x", "ada=3", "bob=y"];
    lab.put(&topic, 0, &texts).await?;
    let spec = spec(lab, &topic)?;
    let mut member = lab.consume_as(&spec).await?;
    kill_next(lab, &mut member, "1").await?;
    Ok((spec, member))
}

/// Gives up the next message, and back what else the member has of its key, as the contract wants it.
async fn kill_next(lab: &Lab, member: &mut Member, text: &str) -> Check {
    let delivery = member.delivery().await?;
    check_eq!(body(&delivery.message), text, "what is to die");
    let of = key(&delivery.message);
    lab.settle(delivery.receipt, dead()).await?;
    member.give_back(&of).await
}

async fn redrive(lab: &Lab, spec: &GroupSpec, numbers: Option<Vec<u64>>) -> Check<u64> {
    let filter = DeadFilter {
        numbers,
        ..DeadFilter::default()
    };
    Ok(redrive_with(lab, spec, filter, |_| {}).await?.count)
}

fn held(info: &GroupInfo) -> u64 {
    info.shards.iter().map(|shard| shard.held_keys).sum()
}

/// Later messages of the dead letter's key wait, other keys flow, and the group says how many keys are held.
async fn others_flow(lab: Lab) -> Check {
    let (spec, mut member) = one_dead(&lab).await?;
    check_eq!(member.drain(2).await?, ["x", "y"], "what flows");
    member.quiet(QUIET).await?;
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), info.dead), (2, 1), "lag and dead letters");
    check_eq!(held(&info), 1, "held keys");
    Ok(())
}

/// A group that does not hold keys goes on.
async fn not_without_it(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1", "ada=2"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    kill_next(&lab, &mut member, "1").await?;
    check_eq!(member.drain(1).await?, ["2"], "the next of the key");
    check_eq!(held(&lab.group(&spec).await?), 0, "held keys");
    Ok(())
}

/// Redriven, the dead letter comes first, then those that waited for it, in order.
async fn redriven_first(lab: Lab) -> Check {
    let (spec, mut member) = one_dead(&lab).await?;
    check_eq!(member.drain(2).await?, ["x", "y"], "what flows");
    check_eq!(redrive(&lab, &spec, None).await?, 1, "brought back");
    check_eq!(member.drain(3).await?, ["1", "2", "3"], "the key");
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), held(&info)), (0, 0), "lag and held keys");
    Ok(())
}

/// Messages appended while their key is held wait too.
async fn later_appends(lab: Lab) -> Check {
    let (spec, mut member) = one_dead(&lab).await?;
    member.drain(2).await?;
    lab.put(&spec.topic, 0, &["ada=4"]).await?;
    lab.put(&spec.topic, 0, &["bob=z", "ada=5"]).await?;
    check_eq!(member.drain(1).await?, ["z"], "what flows");
    member.quiet(QUIET).await?;
    redrive(&lab, &spec, None).await?;
    check_eq!(member.drain(5).await?, ["1", "2", "3", "4", "5"], "the key");
    Ok(())
}

/// Removed, the dead letter lets go of its key, which goes on without it; a dry run lets go of nothing.
async fn removed_goes_on(lab: Lab) -> Check {
    let (spec, mut member) = one_dead(&lab).await?;
    check_eq!(member.drain(2).await?, ["x", "y"], "what flows");
    remove(&lab, &spec, DeadFilter::default(), true).await?;
    member.quiet(QUIET).await?;
    let removed = remove(&lab, &spec, DeadFilter::default(), false).await?;
    check_eq!(removed, 1, "removed");
    check_eq!(member.drain(2).await?, ["2", "3"], "the key");
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), info.dead), (0, 0), "lag and dead letters");
    check_eq!(held(&info), 0, "held keys");
    Ok(())
}

/// The key is let go for good: it goes on after a reopen too.
async fn removed_survives_reopen(mut lab: Lab) -> Check {
    let (spec, mut member) = one_dead(&lab).await?;
    check_eq!(member.drain(2).await?, ["x", "y"], "what flows");
    drop(member);
    remove(&lab, &spec, DeadFilter::default(), false).await?;
    lab.reopen().await?;
    check_eq!(held(&lab.group(&spec).await?), 0, "held keys");
    let mut next = lab.consume_as(&spec).await?;
    check_eq!(next.drain(2).await?, ["2", "3"], "the key");
    Ok(())
}

/// Of two dead letters of a key, which died in one unit, each holds it: it goes on when both are removed.
async fn removed_one_of_two(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1", "ada=2"]).await?;
    let spec = spec(&lab, &topic)?;
    let mut member = lab.consume_as(&spec).await?;
    let both = member.take(2).await?;
    lab.apply(Unit {
        settle: both.into_iter().map(|d| (d.receipt, dead())).collect(),
        ..Unit::default()
    })
    .await?;
    lab.put(&topic, 0, &["ada=3", "bob=x"]).await?;
    check_eq!(member.drain(1).await?, ["x"], "what flows");
    for letter in lab.dead(&spec).await? {
        member.quiet(QUIET).await?;
        remove(&lab, &spec, DeadFilter::numbers([letter.number]), false).await?;
    }
    check_eq!(member.drain(1).await?, ["3"], "the key");
    check_eq!(held(&lab.group(&spec).await?), 0, "held keys");
    Ok(())
}

/// The dead letter and the release of those behind it may be one unit.
async fn in_one_unit(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1"]).await?;
    let spec = spec(&lab, &topic)?;
    let mut member = lab.consume_as(&spec).await?;
    let first = member.delivery().await?;
    lab.put(&topic, 0, &["ada=2", "bob=x"]).await?;
    let mut unit = Unit::settle(first.receipt, dead());
    let mut flowed = Vec::new();
    while let Some(crate::member::Seen::Delivery(next)) = member.within(QUIET).await? {
        let verdict = match key(&next.message).as_str() {
            "ada" => Verdict::Release,
            _ => Verdict::Done,
        };
        flowed.extend((verdict == Verdict::Done).then(|| body(&next.message)));
        unit.settle.push((next.receipt, verdict));
    }
    lab.apply(unit).await?;
    if flowed.is_empty() {
        flowed = member.drain(1).await?;
    }
    check_eq!(flowed, ["x"], "what flows");
    member.quiet(QUIET).await?;
    check_eq!(lab.group(&spec).await?.lag(), 1, "lag");
    Ok(())
}

/// A message without a key holds nothing when it dies.
async fn without_a_key(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["1", "2", "ada=3"]).await?;
    let spec = spec(&lab, &topic)?;
    let mut member = lab.consume_as(&spec).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, dead()).await?;
    check_eq!(member.drain(2).await?, ["2", "3"], "the others");
    check_eq!(held(&lab.group(&spec).await?), 0, "held keys");
    Ok(())
}

/// A dead letter that was redriven and dies again holds its key again.
async fn dies_again(lab: Lab) -> Check {
    let (spec, mut member) = one_dead(&lab).await?;
    member.drain(2).await?;
    redrive(&lab, &spec, None).await?;
    kill_next(&lab, &mut member, "1").await?;
    member.quiet(QUIET).await?;
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), held(&info)), (2, 1), "lag and held keys");
    redrive(&lab, &spec, None).await?;
    check_eq!(member.drain(3).await?, ["1", "2", "3"], "the key");
    Ok(())
}

/// Two dead letters of a key that died together both hold it.
async fn of_two(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1"]).await?;
    let spec = spec(&lab, &topic)?;
    let mut member = lab.consume_as(&spec).await?;
    kill_next(&lab, &mut member, "1").await?;
    lab.put(&topic, 0, &["ada=2", "ada=3"]).await?;
    member.quiet(QUIET).await?;
    redrive(&lab, &spec, None).await?;
    check_eq!(member.drain(1).await?, ["1"], "the first again");
    kill_next(&lab, &mut member, "2").await?;
    member.quiet(QUIET).await?;
    let letters = lab.dead(&spec).await?;
    check_eq!(letters.len(), 1, "dead letters");
    redrive(&lab, &spec, Some(vec![letters[0].number])).await?;
    check_eq!(member.drain(2).await?, ["2", "3"], "the key");
    Ok(())
}

/// A key is held as well when the attempts of its message are spent.
async fn when_attempts_end(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1", "ada=2"]).await?;
    let spec = GroupSpec {
        max_attempts: 2,
        ..spec(&lab, &topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    for _ in 0..2 {
        let delivery = member.delivery().await?;
        check_eq!(body(&delivery.message), "1", "the first of the key");
        lab.settle(delivery.receipt, retry(Duration::ZERO)).await?;
        member.give_back("ada").await?;
    }
    member.quiet(QUIET).await?;
    let info = lab.group(&spec).await?;
    check_eq!((info.dead, held(&info)), (1, 1), "dead and held");
    Ok(())
}

/// And when they were lost with what had them.
async fn when_lost(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1", "ada=2"]).await?;
    let spec = GroupSpec {
        max_attempts: 1,
        ..spec(&lab, &topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    member.items = 1;
    drop(member.delivery().await?);
    member.quiet(QUIET).await?;
    let info = lab
        .group_until(&spec, "a dead letter", |info| info.dead == 1)
        .await?;
    check_eq!((info.lag(), held(&info)), (1, 1), "lag and held keys");
    redrive(&lab, &spec, None).await?;
    check_eq!(member.drain(2).await?, ["1", "2"], "the key");
    Ok(())
}

/// The gap bounds what waits: there the partition stands, and says for which key and which dead letter.
async fn at_the_gap(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1", "ada=2"]).await?;
    let spec = GroupSpec {
        gap: 5,
        ..spec(&lab, &topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    kill_next(&lab, &mut member, "1").await?;
    member.quiet(QUIET).await?;
    for i in 3..15 {
        lab.put(&topic, 0, &[&format!("k{i}={i}")]).await?;
    }
    let flowed = member.drain(4).await?;
    check_eq!(flowed, ["3", "4", "5", "6"], "what flows within the gap");
    member.quiet(QUIET).await?;
    let info = lab.group(&spec).await?;
    let number = lab.dead(&spec).await?[0].number;
    let Some(Waits::Gap(stuck)) = &info.shards[0].waits else {
        return Err(crate::fault::Fault::new(format!(
            "the partition was to stand at its gap: {info:?}"
        )));
    };
    check_eq!(stuck.key.as_deref(), Some(&b"ada"[..]), "its key");
    check_eq!(stuck.on, StuckOn::DeadLetter(number), "what it waits for");
    let second = lab.all(&topic, 0).await?[1].position();
    check_eq!(stuck.offset, second, "its place");
    redrive(&lab, &spec, None).await?;
    let mut rest = member.drain(10).await?;
    rest.sort_by_key(|text| text.parse::<u32>().unwrap_or(0));
    let wanted: Vec<String> = [1, 2]
        .into_iter()
        .chain(7..15)
        .map(|i: u32| i.to_string())
        .collect();
    check_eq!(rest, wanted, "the rest");
    check_eq!(lab.group(&spec).await?.shards[0].waits, None, "waits");
    Ok(())
}

/// Another member that takes over gets nothing of the key either.
async fn through_a_move(lab: Lab) -> Check {
    let (spec, member) = one_dead(&lab).await?;
    drop(member);
    let mut next = lab.consume_as(&spec).await?;
    check_eq!(next.drain(2).await?, ["x", "y"], "what flows");
    next.quiet(QUIET).await?;
    redrive(&lab, &spec, None).await?;
    check_eq!(next.drain(3).await?, ["1", "2", "3"], "the key");
    Ok(())
}

/// A held key is held after the engine was opened again.
async fn survives(mut lab: Lab, ending: Ending) -> Check {
    let (spec, mut member) = one_dead(&lab).await?;
    check_eq!(member.drain(2).await?, ["x", "y"], "what flows");
    drop(member);
    lab.through(ending).await?;
    let mut next = lab.consume_as(&spec).await?;
    next.quiet(QUIET).await?;
    check_eq!(held(&lab.group(&spec).await?), 1, "held keys");
    redrive(&lab, &spec, None).await?;
    check_eq!(next.drain(3).await?, ["1", "2", "3"], "the key");
    Ok(())
}

/// A seek lets go of the keys of its partition: the group knows nothing of what was above.
async fn let_go_by_a_seek(lab: Lab) -> Check {
    let (spec, mut member) = one_dead(&lab).await?;
    check_eq!(member.drain(2).await?, ["x", "y"], "what flows");
    let second = lab.all(&spec.topic, 0).await?[1].position();
    let seek = Seek {
        group: spec.group.clone(),
        topic: spec.topic.clone(),
        partition: 0,
        to: Start::At(second),
        force: true,
    };
    lab.events.seek(seek).await?;
    let again = member.drain(4).await?;
    check_eq!(again, ["2", "x", "3", "y"], "deliveries after the move");
    check_eq!(held(&lab.group(&spec).await?), 0, "held keys");
    Ok(())
}

/// An operator may let keys go on.
async fn let_go_by_an_operator(lab: Lab) -> Check {
    let (spec, mut member) = one_dead(&lab).await?;
    check_eq!(member.drain(2).await?, ["x", "y"], "what flows");
    let change = GroupChange {
        after_dead: Override::Set(AfterDead::Continue),
        ..GroupChange::default()
    };
    let (group, topic) = (spec.group.clone(), spec.topic.clone());
    let info = lab.events.alter_group(group, topic, change).await?;
    check_eq!(info.rules().after_dead, AfterDead::Continue, "its rule");
    check_eq!(member.drain(2).await?, ["2", "3"], "the key");
    check_eq!(lab.group(&spec).await?.dead, 1, "dead letters");
    Ok(())
}

/// So may a member that declares it.
async fn let_go_by_members(lab: Lab) -> Check {
    let (spec, member) = one_dead(&lab).await?;
    drop(member);
    let mut next = lab
        .consume_as(&GroupSpec {
            after_dead: AfterDead::Continue,
            ..spec
        })
        .await?;
    let mut all = next.drain(4).await?;
    all.sort();
    check_eq!(all, ["2", "3", "x", "y"], "deliveries");
    Ok(())
}

/// Without order there is nothing to hold: refused, and no group is made.
async fn refused_without_order(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let spec = GroupSpec {
        order: Order::Free,
        ..spec(&lab, &topic)?
    };
    let answer = lab.events.join(spec.clone()).await;
    check_refused!(answer, Rejected, "holding keys without order");
    let answer = lab.events.group(spec.group, topic).await;
    check_refused!(answer, NotFound, "the group");
    Ok(())
}
