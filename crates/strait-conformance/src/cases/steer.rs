//! What operators set on a group over what members declare, pauses, and what a group says of why it stands.

use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{
    AfterDead, GroupChange, GroupInfo, GroupSpec, Override, StuckOn, TopicChange, Waits,
};
use strait_core::{Error, Verdict, codes};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Ending, Lab, QUIET, body, retry};
use crate::member::Seen;

pub(super) fn cases() -> Vec<Case> {
    let steering = [
        case("pause_gives_nothing_new", gives_nothing_new),
        case("pause_lets_what_is_out_end", lets_what_is_out_end),
        case("pause_holds_back_what_comes_again", holds_back_again).needs(Need::Parking),
        case("pause_of_a_member_that_joins", of_a_member_that_joins),
        case("pause_twice", twice),
        case("pause_survives_reopen", |lab| survives(lab, Ending::Reopen)).reopens(),
        case("pause_survives_kill", |lab| survives(lab, Ending::Kill)).kills(),
        case("pause_refused", pause_refused),
        case("alter_max_attempts", max_attempts)
            .needs(Need::Parking)
            .needs(Need::DeadLetters),
        case("alter_holds_over_members", holds_over_members),
        case("alter_survives_reopen", alter_survives_reopen).reopens(),
        case("alter_gap", gap),
        case("alter_max_dead", max_dead).needs(Need::DeadLetters),
        case("alter_refused", alter_refused),
    ]
    .into_iter()
    .map(|case| case.needs(Need::AlterGroup));
    let standing = [
        case("waits_for_a_member", for_a_member),
        case("waits_for_what_is_out", for_what_is_out),
        case("waits_for_a_retry", for_a_retry).needs(Need::Parking),
        case("waits_for_dead_letters", for_dead_letters).needs(Need::DeadLetters),
        case("waits_for_nothing", for_nothing),
        case("topic_deleted_under_its_members", deleted_under_its_members),
        case("partitions_added_under_members", partitions_added),
        case(
            "partitions_added_are_read_from_their_start",
            read_from_their_start,
        )
        .reopens(),
    ];
    steering.chain(standing).collect()
}

async fn alter(lab: &Lab, spec: &GroupSpec, change: GroupChange) -> Result<GroupInfo, Error> {
    let (group, topic) = (spec.group.clone(), spec.topic.clone());
    lab.events.alter_group(group, topic, change).await
}

async fn pause(lab: &Lab, spec: &GroupSpec, reason: &str) -> Result<GroupInfo, Error> {
    let change = GroupChange {
        pause: Override::Set(Arc::from(reason)),
        ..GroupChange::default()
    };
    alter(lab, spec, change).await
}

async fn resume(lab: &Lab, spec: &GroupSpec) -> Result<GroupInfo, Error> {
    let change = GroupChange {
        pause: Override::Lift,
        ..GroupChange::default()
    };
    alter(lab, spec, change).await
}

/// While it is paused a group gets nothing, keeps its members, and says why; resumed, it goes on.
async fn gives_nothing_new(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let info = pause(&lab, &spec, "the bank is down").await?;
    let told = info.pause.map(|pause| pause.reason.to_string());
    check_eq!(told.as_deref(), Some("the bank is down"), "the reason");
    lab.put(&topic, 0, &["a", "b"]).await?;
    member.quiet(QUIET).await?;
    let info = lab.group(&spec).await?;
    check_eq!(
        (info.members.len(), info.members[0].shards.len()),
        (1, 2),
        "members and partitions"
    );
    check!(info.paused.is_some(), "it does not say that it is paused");
    check_eq!(info.shards[0].waits, Some(Waits::Paused), "waits");
    let info = resume(&lab, &spec).await?;
    check_eq!((info.pause, info.paused), (None, None), "pause after it");
    check_eq!(member.drain(2).await?, ["a", "b"], "deliveries after it");
    Ok(())
}

/// What a member has when the group is paused is settled as ever.
async fn lets_what_is_out_end(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    pause(&lab, &spec, "maintenance").await?;
    lab.done(delivery.receipt).await?;
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    lab.put(&topic, 0, &["k1=b"]).await?;
    member.quiet(QUIET).await?;
    resume(&lab, &spec).await?;
    check_eq!(member.drain(1).await?, ["b"], "deliveries after it");
    Ok(())
}

/// What is due again, or was given back, waits for the end of the pause too.
async fn holds_back_again(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut taken = member.take(2).await?;
    pause(&lab, &spec, "maintenance").await?;
    let last = taken.pop().ok_or_else(|| Fault::new("two were taken"))?;
    lab.settle(last.receipt, Verdict::Release).await?;
    for delivery in taken {
        lab.settle(delivery.receipt, retry(Duration::ZERO)).await?;
    }
    member.quiet(QUIET).await?;
    resume(&lab, &spec).await?;
    let mut bodies = member.drain(2).await?;
    bodies.sort();
    check_eq!(bodies, ["a", "b"], "deliveries after it");
    Ok(())
}

/// Who joins a paused group owns partitions and gets nothing.
async fn of_a_member_that_joins(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, member) = lab.consume(&topic).await?;
    pause(&lab, &spec, "maintenance").await?;
    drop(member);
    let mut next = lab.consume_as(&spec).await?;
    next.quiet(QUIET).await?;
    resume(&lab, &spec).await?;
    check_eq!(next.drain(1).await?, ["a"], "deliveries after it");
    Ok(())
}

/// Pausing a paused group changes only the reason; resuming one that runs changes nothing.
async fn twice(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let since = |info: GroupInfo| info.pause.map(|pause| pause.since);
    let first = since(pause(&lab, &spec, "one").await?);
    check!(first.is_some(), "it does not say since when");
    let again = pause(&lab, &spec, "two").await?;
    let reason = again.pause.as_ref().map(|pause| pause.reason.to_string());
    check_eq!(reason.as_deref(), Some("two"), "the reason");
    check_eq!(since(again), first, "since when");
    resume(&lab, &spec).await?;
    check_eq!(resume(&lab, &spec).await?.pause, None, "pause after it");
    lab.put(&topic, 0, &["a"]).await?;
    check_eq!(member.drain(1).await?, ["a"], "deliveries after it");
    Ok(())
}

/// A pause lasts until it is ended, whatever happens to the engine.
async fn survives(mut lab: Lab, ending: Ending) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let spec = lab.spec(&topic)?;
    let member = lab.consume_as(&spec).await?;
    let before = pause(&lab, &spec, "the bank is down").await?.pause;
    drop(member);
    lab.through(ending).await?;
    let mut member = lab.consume_as(&spec).await?;
    member.quiet(QUIET).await?;
    check_eq!(lab.group(&spec).await?.pause, before, "the pause");
    resume(&lab, &spec).await?;
    check_eq!(member.drain(1).await?, ["a"], "deliveries after it");
    Ok(())
}

/// A pause needs a reason, of a length to be read; a missing group has none.
async fn pause_refused(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (spec, _member) = lab.consume(&topic).await?;
    check_refused!(pause(&lab, &spec, "").await, Rejected, "no reason");
    let long = "x".repeat(1_001);
    check_refused!(pause(&lab, &spec, &long).await, Rejected, "a long reason");
    check_eq!(lab.group(&spec).await?.pause, None, "the pause");
    let missing = GroupSpec {
        group: lab.name("missing")?,
        ..spec
    };
    let answer = pause(&lab, &missing, "why not").await;
    let error = check_refused!(answer, NotFound, "a missing group");
    check!(error.is(codes::NO_SUCH_GROUP), "its code: {error:?}");
    Ok(())
}

/// An operator's limit of attempts holds for messages that are out already, and is lifted again.
async fn max_attempts(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let change = |max_attempts| GroupChange {
        max_attempts,
        ..GroupChange::default()
    };
    alter(&lab, &spec, change(Override::Set(2))).await?;
    for attempt in 1..=2 {
        let delivery = member.delivery().await?;
        check_eq!(delivery.attempt, attempt, "attempt");
        lab.settle(delivery.receipt, retry(Duration::ZERO)).await?;
    }
    member.quiet(QUIET).await?;
    let dead = lab.dead(&spec).await?;
    check_eq!(dead.len(), 1, "dead letters");
    check_eq!(dead[0].attempts, 2, "its attempts");
    alter(&lab, &spec, change(Override::Lift)).await?;
    lab.put(&topic, 0, &["k1=b"]).await?;
    for _ in 0..3 {
        let delivery = member.delivery().await?;
        check_eq!(body(&delivery.message), "b", "deliveries after it");
        lab.settle(delivery.receipt, retry(Duration::ZERO)).await?;
    }
    check_eq!(member.drain(1).await?, ["b"], "the last of them");
    Ok(())
}

/// What an operator set holds over what the next member declares; lifted, what that one declared holds.
async fn holds_over_members(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (spec, member) = lab.consume(&topic).await?;
    let change = GroupChange {
        gap: Override::Set(7),
        max_dead: Override::Set(9),
        ..GroupChange::default()
    };
    let info = alter(&lab, &spec, change.clone()).await?;
    let again = alter(&lab, &spec, change).await?;
    check_eq!(again, info, "the same change again");
    drop(member);
    let _next = lab
        .consume_as(&GroupSpec {
            gap: 70,
            max_dead: 90,
            max_attempts: 3,
            ..spec.clone()
        })
        .await?;
    let info = lab.group(&spec).await?;
    let rules = info.rules();
    check_eq!(
        (rules.gap, rules.max_dead, rules.max_attempts),
        (7, 9, 3),
        "what holds"
    );
    check_eq!(
        (info.declared.gap, info.overrides.gap),
        (70, Some(7)),
        "declared, and set over it"
    );
    let lift = GroupChange {
        gap: Override::Lift,
        ..GroupChange::default()
    };
    let rules = alter(&lab, &spec, lift).await?.rules();
    check_eq!((rules.gap, rules.max_dead), (70, 9), "after it was lifted");
    Ok(())
}

/// What an operator set lasts over a reopen.
async fn alter_survives_reopen(mut lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (spec, member) = lab.consume(&topic).await?;
    let change = GroupChange {
        max_attempts: Override::Set(5),
        gap: Override::Set(6),
        max_dead: Override::Set(7),
        ..GroupChange::default()
    };
    let before = alter(&lab, &spec, change).await?;
    drop(member);
    lab.reopen().await?;
    let info = lab.group(&spec).await?;
    check_eq!(info.overrides, before.overrides, "what was set");
    check_eq!(info.declared, before.declared, "what was declared");
    Ok(())
}

/// A smaller gap holds at once; a wider one lets the partition go on.
async fn gap(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let change = |gap| GroupChange {
        gap,
        ..GroupChange::default()
    };
    alter(&lab, &spec, change(Override::Set(3))).await?;
    for i in 0..6 {
        lab.put(&topic, 0, &[&format!("k{i}={i}")]).await?;
    }
    let held = member.take(3).await?;
    member.quiet(QUIET).await?;
    alter(&lab, &spec, change(Override::Lift)).await?;
    check_eq!(member.drain(3).await?, ["3", "4", "5"], "after it");
    for delivery in held {
        lab.done(delivery.receipt).await?;
    }
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// A group that stands at its bound of dead letters goes on when an operator raises it.
async fn max_dead(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a"]).await?;
    let spec = GroupSpec {
        max_dead: 1,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, Verdict::Dead("no".into()))
        .await?;
    lab.put(&topic, 0, &["k2=b"]).await?;
    member.quiet(QUIET).await?;
    let change = GroupChange {
        max_dead: Override::Set(2),
        ..GroupChange::default()
    };
    alter(&lab, &spec, change).await?;
    check_eq!(member.drain(1).await?, ["b"], "after it");
    Ok(())
}

/// What no member could declare, no operator can set; and a key is held only where members hold back what they have.
async fn alter_refused(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (spec, _member) = lab.consume(&topic).await?;
    let before = lab.group(&spec).await?;
    let none = GroupChange::default;
    let changes = [
        GroupChange {
            max_attempts: Override::Set(0),
            ..none()
        },
        GroupChange {
            gap: Override::Set(0),
            ..none()
        },
        GroupChange {
            after_dead: Override::Set(AfterDead::HoldKey),
            gap: Override::Set(3),
            ..none()
        },
    ];
    for change in changes {
        let answer = alter(&lab, &spec, change).await;
        check_refused!(answer, Rejected, "a change that makes no sense");
    }
    let info = lab.group(&spec).await?;
    check_eq!(info.overrides, before.overrides, "what is set after it");
    let missing = GroupSpec {
        group: lab.name("missing")?,
        ..spec
    };
    check_refused!(
        alter(&lab, &missing, none()).await,
        NotFound,
        "a missing group"
    );
    Ok(())
}

/// Messages are there and no member is.
async fn for_a_member(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    let (spec, member) = lab.consume(&topic).await?;
    drop(member);
    lab.put(&topic, 1, &["a"]).await?;
    let info = lab
        .group_until(&spec, "no member", |info| info.members.is_empty())
        .await?;
    check_eq!(info.shards[0].waits, None, "where nothing is");
    check_eq!(info.shards[1].waits, Some(Waits::NoMember), "waits");
    Ok(())
}

/// The message that a partition waits for at its gap.
fn at_the_gap(info: &GroupInfo) -> Check<&strait_core::events::Stuck> {
    match &info.shards[0].waits {
        Some(Waits::Gap(stuck)) => Ok(stuck),
        other => Err(Fault::new(format!(
            "the partition was to stand at its gap: {other:?}"
        ))),
    }
}

/// A partition at its gap says which message holds it: here one that a member has.
async fn for_what_is_out(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    for i in 0..5 {
        lab.put(&topic, 0, &[&format!("k{i}={i}")]).await?;
    }
    let spec = GroupSpec {
        gap: 3,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    let mut taken = member.take(3).await?;
    member.quiet(QUIET).await?;
    let info = lab.group(&spec).await?;
    let stuck = at_the_gap(&info)?;
    check_eq!(stuck.on, StuckOn::Member, "what it waits for");
    check_eq!(stuck.offset, taken[0].message.position(), "its place");
    check_eq!(stuck.key.as_deref(), Some(&b"k0"[..]), "its key");
    check_eq!(stuck.attempts, 1, "its attempts");
    check_eq!(stuck.since, Some(taken[0].message.appended()), "since when");
    lab.done(taken.remove(0).receipt).await?;
    check_eq!(member.drain(1).await?, ["3"], "one further");
    Ok(())
}

/// Or one that waits for its next attempt, with the time and the last failure.
async fn for_a_retry(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    for i in 0..5 {
        lab.put(&topic, 0, &[&format!("k{i}={i}")]).await?;
    }
    let spec = GroupSpec {
        gap: 3,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    let first = member.delivery().await?;
    lab.settle(first.receipt, retry(Duration::from_secs(600)))
        .await?;
    check_eq!(member.drain(2).await?, ["1", "2"], "within the gap");
    member.quiet(QUIET).await?;
    let info = lab.group(&spec).await?;
    let stuck = at_the_gap(&info)?;
    let StuckOn::Retry { next, reason } = &stuck.on else {
        return Err(Fault::new(format!("it waits for its retry: {stuck:?}")));
    };
    check_eq!(reason.as_deref(), Some("not now"), "the last failure");
    let appended = first.message.appended();
    check!(*next > appended, "the next attempt: {next:?}");
    check_eq!(stuck.key.as_deref(), Some(&b"k0"[..]), "its key");
    Ok(())
}

/// A group at its bound of dead letters.
async fn for_dead_letters(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a"]).await?;
    let spec = GroupSpec {
        max_dead: 1,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, Verdict::Dead("no".into()))
        .await?;
    check_eq!(lab.group(&spec).await?.shards[0].waits, None, "nothing new");
    lab.put(&topic, 0, &["k2=b"]).await?;
    member.quiet(QUIET).await?;
    let waits = lab.group(&spec).await?.shards[0].waits.clone();
    check_eq!(waits, Some(Waits::TooManyDead), "waits");
    Ok(())
}

/// A partition that goes on waits for nothing, with messages out and parked.
async fn for_nothing(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let _held = member.take(2).await?;
    check_eq!(lab.group(&spec).await?.shards[0].waits, None, "waits");
    Ok(())
}

/// A topic that is deleted ends its members; what they had answers `Fenced`, the group is gone, and a topic of the same
/// name begins anew.
async fn deleted_under_its_members(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    lab.events.delete(topic.clone()).await?;
    loop {
        match member.next().await? {
            Seen::End => break,
            Seen::Lost(_) | Seen::Delivery(_) => {}
            other => return Err(Fault::new(format!("its end was to come, not {other:?}"))),
        }
    }
    lab.fenced(delivery.receipt).await?;
    let answer = lab.events.group(spec.group.clone(), topic.clone()).await;
    check_refused!(answer, NotFound, "the group on a topic that is gone");
    let new = strait_core::events::TopicSpec::new(topic.clone()).partitions(1);
    lab.events.declare(new).await?;
    lab.put(&topic, 0, &["c"]).await?;
    let mut member = lab.consume_as(&spec).await?;
    check_eq!(member.drain(1).await?, ["c"], "what a new one has");
    Ok(())
}

async fn grow(lab: &Lab, spec: &GroupSpec, partitions: u32) -> Check {
    let change = TopicChange {
        partitions: Some(partitions),
        ..TopicChange::default()
    };
    let info = lab.events.alter(spec.topic.clone(), change).await?;
    check_eq!(info.partitions.len(), partitions as usize, "partitions");
    Ok(())
}

/// Members that are there get partitions that are added, and lose none; what is out stays theirs.
async fn partitions_added(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    grow(&lab, &spec, 3).await?;
    member.owns(3).await?;
    lab.put(&topic, 2, &["k9=b"]).await?;
    check_eq!(member.drain(1).await?, ["b"], "of a new one");
    lab.done(delivery.receipt).await?;
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// A group reads partitions that were added while it had no member from their start, also when it begins others at the
/// end.
async fn read_from_their_start(mut lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let spec = GroupSpec {
        start: strait_core::events::Start::Latest,
        ..lab.spec(&topic)?
    };
    drop(lab.consume_as(&spec).await?);
    lab.group_until(&spec, "no member", |info| info.members.is_empty())
        .await?;
    grow(&lab, &spec, 2).await?;
    lab.put(&topic, 1, &["a"]).await?;
    lab.reopen().await?;
    let mut member = lab.consume_as(&spec).await?;
    check_eq!(member.drain(1).await?, ["a"], "deliveries");
    Ok(())
}
