//! Who owns which partition, and how partitions move.

use std::collections::BTreeSet;
use std::time::Duration;

use strait_core::Verdict;
use strait_core::events::GroupSpec;

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Lab, QUIET, body};
use crate::member::{Member, Seen};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("assign_one_member_owns_all", one_owns_all),
        case("assign_second_gets_half", second_gets_half),
        case("assign_moves_as_few_as_possible", moves_few),
        case("assign_leaving_gives_back", leaving_gives_back),
        case("assign_more_members_than_partitions", more_members),
        case("assign_waits_for_the_hand_back", waits_for_hand_back),
        case(
            "assign_settles_until_handed_back",
            settles_until_handed_back,
        ),
        case("assign_fences_after_hand_back", fences_after_hand_back).needs(Need::Fencing),
        case("assign_takes_after_the_time", takes_after_the_time).needs(Need::Fencing),
        case("assign_what_moves_is_delivered_once", what_moves_once),
        case("assign_leaving_abandons", leaving_abandons),
        case("assign_leaves_twice", leaves_twice),
        case("assign_newest_spec_decides", newest_spec_decides).needs(Need::Parking),
    ]
}

/// Runs two members until both are settled on their shards: what is revoked is handed back at once.
async fn settle_down(lab: &Lab, members: &mut [&mut Member], wanted: &[usize]) -> Check<usize> {
    let mut moved = 0;
    let deadline = tokio::time::Instant::now() + lab.patience;
    loop {
        let counts: Vec<usize> = members.iter().map(|m| m.owned.len()).collect();
        let mut found = counts.clone();
        found.sort_unstable();
        if found == wanted {
            return Ok(moved);
        }
        check!(
            tokio::time::Instant::now() < deadline,
            "the members own {counts:?} shards, {wanted:?} wanted"
        );
        for member in members.iter_mut() {
            if let Some(Seen::Revoking(shard, _)) = member.within(Duration::from_millis(5)).await? {
                member.hand_back(shard).await?;
                moved += 1;
            }
        }
    }
}

fn apart(members: &[&Member], total: usize) -> Check {
    let mut all = BTreeSet::new();
    for member in members {
        for shard in &member.owned {
            check!(all.insert(*shard), "shard {shard} has two owners");
        }
    }
    check_eq!(all.len(), total, "shards that have an owner");
    Ok(())
}

/// A single member owns every partition.
async fn one_owns_all(lab: Lab) -> Check {
    let topic = lab.topic(4).await?;
    let (_, member) = lab.consume(&topic).await?;
    check_eq!(member.owned, BTreeSet::from([0, 1, 2, 3]), "shards");
    Ok(())
}

/// A second member gets half of the partitions; each partition has one owner, and the listing says the same.
async fn second_gets_half(lab: Lab) -> Check {
    let topic = lab.topic(4).await?;
    let (spec, mut first) = lab.consume(&topic).await?;
    let mut second = lab.join(&spec).await?;
    let moved = settle_down(&lab, &mut [&mut first, &mut second], &[2, 2]).await?;
    check_eq!(moved, 2, "shards that moved");
    apart(&[&first, &second], 4)?;
    let both = |info: &strait_core::events::GroupInfo| {
        let owned = |member: &Member| member.owned.iter().copied().collect::<Vec<_>>();
        let mut listed: Vec<_> = info.members.iter().map(|m| m.shards.clone()).collect();
        let mut wanted = vec![owned(&first), owned(&second)];
        listed.sort();
        wanted.sort();
        listed == wanted
    };
    lab.group_until(&spec, "both members with their shards", both)
        .await?;
    Ok(())
}

/// A third member costs only what must move: 6 partitions over 2 members become 2, 2, 2 by two moves.
async fn moves_few(lab: Lab) -> Check {
    let topic = lab.topic(6).await?;
    let (spec, mut first) = lab.consume(&topic).await?;
    let mut second = lab.join(&spec).await?;
    settle_down(&lab, &mut [&mut first, &mut second], &[3, 3]).await?;
    let before = (first.owned.clone(), second.owned.clone());
    let mut third = lab.join(&spec).await?;
    let members = &mut [&mut first, &mut second, &mut third];
    let moved = settle_down(&lab, members, &[2, 2, 2]).await?;
    check_eq!(moved, 2, "shards that moved");
    apart(&[&first, &second, &third], 6)?;
    check!(
        first.owned.is_subset(&before.0),
        "the first got other shards"
    );
    check!(
        second.owned.is_subset(&before.1),
        "the second got other shards"
    );
    Ok(())
}

/// When a member leaves, its partitions go to the others, who keep theirs.
async fn leaving_gives_back(lab: Lab) -> Check {
    let topic = lab.topic(4).await?;
    let (spec, mut first) = lab.consume(&topic).await?;
    let mut second = lab.join(&spec).await?;
    settle_down(&lab, &mut [&mut first, &mut second], &[2, 2]).await?;
    let kept = first.owned.clone();
    drop(second);
    first.owns(4).await?;
    check!(first.owned.is_superset(&kept), "the first lost a shard");
    lab.put(&topic, 0, &["a"]).await?;
    lab.put(&topic, 3, &["b"]).await?;
    let mut bodies = first.drain(2).await?;
    bodies.sort();
    check_eq!(bodies, ["a", "b"], "deliveries");
    Ok(())
}

/// A member too many gets nothing, and takes over when another leaves.
async fn more_members(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut first) = lab.consume(&topic).await?;
    check_eq!(first.drain(1).await?, ["a"], "the first delivery");
    let mut second = lab.join(&spec).await?;
    check!(
        second.within(QUIET).await?.is_none(),
        "one partition, two owners"
    );
    check!(
        first.within(QUIET).await?.is_none(),
        "the partition moved in vain"
    );
    drop(first);
    second.owns(1).await?;
    lab.put(&topic, 0, &["b"]).await?;
    check_eq!(second.drain(1).await?, ["b"], "the delivery after it");
    Ok(())
}

/// Two members on two partitions, both owned by the first, who has been told to give one up.
async fn revoking(
    lab: &Lab,
    handover: Duration,
) -> Check<(GroupSpec, Member, Member, u32, Vec<strait_core::Delivery>)> {
    let topic = lab.topic(2).await?;
    for partition in 0..2 {
        lab.put(&topic, partition, &["k1=a", "k2=b"]).await?;
    }
    let spec = GroupSpec {
        handover,
        ..lab.spec(&topic)?
    };
    let mut first = lab.consume_as(&spec).await?;
    let deliveries = first.take(4).await?;
    let second = lab.join(&spec).await?;
    let (shard, time) = first.revoked().await?;
    check!(
        time <= handover,
        "{time:?} to hand over, {handover:?} were set"
    );
    let of_it = deliveries
        .into_iter()
        .filter(|d| d.message.partition() == shard);
    let of_it: Vec<_> = of_it.collect();
    check_eq!(of_it.len(), 2, "deliveries of the shard");
    Ok((spec, first, second, shard, of_it))
}

/// The new owner gets the partition only when the old one has handed it back.
async fn waits_for_hand_back(lab: Lab) -> Check {
    let long = Duration::from_secs(60);
    let (_, mut first, mut second, shard, held) = revoking(&lab, long).await?;
    check!(
        second.within(QUIET).await?.is_none(),
        "the shard has a new owner before it was handed back"
    );
    for delivery in held {
        lab.done(delivery.receipt).await?;
    }
    first.hand_back(shard).await?;
    second.owns(1).await?;
    check_eq!(
        second.owned,
        BTreeSet::from([shard]),
        "the shard of the second"
    );
    Ok(())
}

/// Between `Revoking` and the hand-back the old owner's settles count: the new owner does not see those messages.
async fn settles_until_handed_back(lab: Lab) -> Check {
    let long = Duration::from_secs(60);
    let (_, mut first, mut second, shard, held) = revoking(&lab, long).await?;
    let mut held = held.into_iter();
    let settled = held.next().ok_or_else(|| Fault::new("no delivery"))?;
    let settled_body = body(&settled.message);
    lab.done(settled.receipt).await?;
    for delivery in held {
        lab.settle(delivery.receipt, Verdict::Release).await?;
    }
    first.hand_back(shard).await?;
    second.owns(1).await?;
    let other = if settled_body == "a" { "b" } else { "a" };
    check_eq!(second.drain(1).await?, [other], "delivery of the new owner");
    second.quiet(QUIET).await
}

/// After the hand-back the old owner's receipts are fenced, and what they held goes to the new owner.
async fn fences_after_hand_back(lab: Lab) -> Check {
    let long = Duration::from_secs(60);
    let (_, mut first, mut second, shard, held) = revoking(&lab, long).await?;
    first.hand_back(shard).await?;
    second.owns(1).await?;
    for delivery in held {
        lab.fenced(delivery.receipt).await?;
    }
    check_eq!(
        second.drain(2).await?,
        ["a", "b"],
        "deliveries of the new owner"
    );
    Ok(())
}

/// When the time to hand over is up, the partition moves all the same: the old owner has lost it.
async fn takes_after_the_time(lab: Lab) -> Check {
    let short = Duration::from_millis(150);
    let (_, mut first, mut second, shard, held) = revoking(&lab, short).await?;
    second.owns(1).await?;
    check_eq!(
        first.lost().await?,
        shard,
        "the shard that the first has lost"
    );
    for delivery in held {
        lab.fenced(delivery.receipt).await?;
    }
    check_eq!(
        second.drain(2).await?,
        ["a", "b"],
        "deliveries of the new owner"
    );
    Ok(())
}

/// Over joins and leaves every message is settled once.
async fn what_moves_once(lab: Lab) -> Check {
    let topic = lab.topic(4).await?;
    for partition in 0..4 {
        let texts: Vec<String> = (0..20).map(|i| format!("k{i}={partition}.{i}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        lab.put(&topic, partition, &texts).await?;
    }
    let spec = lab.spec(&topic)?;
    let mut members = vec![lab.consume_as(&spec).await?];
    let mut settled = Vec::new();
    let deadline = tokio::time::Instant::now() + lab.patience;
    while settled.len() < 80 {
        check!(
            tokio::time::Instant::now() < deadline,
            "only {} of 80 came",
            settled.len()
        );
        if settled.len() == 20 && members.len() == 1 {
            members.push(lab.join(&spec).await?);
        }
        if settled.len() > 50 && members.len() == 2 {
            drop(members.remove(0));
        }
        for member in &mut members {
            match member.within(Duration::from_millis(2)).await? {
                Some(Seen::Delivery(delivery)) => {
                    settled.push(body(&delivery.message));
                    lab.done(delivery.receipt).await?;
                }
                Some(Seen::Revoking(shard, _)) => member.hand_back(shard).await?,
                _ => {}
            }
        }
    }
    settled.sort();
    settled.dedup();
    check_eq!(settled.len(), 80, "messages settled, each once");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// A member that leaves abandons what it has out: it goes to another member at once, its attempt counted.
async fn leaving_abandons(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut first) = lab.consume(&topic).await?;
    let delivery = first.delivery().await?;
    let mut second = lab.join(&spec).await?;
    drop(first);
    let again = second.delivery().await?;
    check_eq!(body(&again.message), "a", "the abandoned message");
    check_eq!(again.attempt, 2, "its attempt");
    if lab.caps.fencing.is_there() {
        lab.fenced(delivery.receipt).await?;
    }
    lab.done(again.receipt).await
}

/// Leaving twice is fine, and so is control of a consumer that has left.
async fn leaves_twice(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (spec, member) = lab.consume(&topic).await?;
    let control = member.consumer.control.clone();
    control.leave();
    drop(member);
    control.leave();
    control.hold(0, true);
    control.handed_back(0);
    control.handed_back(u32::MAX);
    lab.put(&topic, 0, &["a"]).await?;
    let mut next = lab.consume_as(&spec).await?;
    check_eq!(
        next.drain(1).await?,
        ["a"],
        "the delivery of the next member"
    );
    Ok(())
}

/// The spec of the last member to join is the group's.
async fn newest_spec_decides(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let spec = lab.spec(&topic)?;
    drop(lab.consume_as(&spec).await?);
    let once = GroupSpec {
        max_attempts: 1,
        ..spec.clone()
    };
    let mut member = lab.consume_as(&once).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, crate::lab::retry(Duration::ZERO))
        .await?;
    check_eq!(
        lab.group(&spec).await?.dead,
        1,
        "dead letters after one attempt"
    );
    Ok(())
}
