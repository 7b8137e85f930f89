//! What operators do to groups: move them, delete them.

use strait_core::events::{Seek, Start};
use strait_core::{Error, Position, codes};

use super::{Case, Need, case};
use crate::fault::Check;
use crate::lab::{Lab, QUIET, retry};
use strait_core::events::GroupSpec;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("seek_back", back),
        case("seek_forward", forward),
        case("seek_forward_over_parked", forward_over_parked).needs(Need::Parking),
        case("seek_refused_while_live", refused_while_live),
        case("seek_forced", forced),
        case("seek_survives_reopen", survives_reopen).reopens(),
        case("seek_unknown", unknown),
        case("delete_group", delete),
        case("delete_group_refused_while_live", delete_refused_while_live),
        case("group_survives_its_members", survives_its_members),
    ]
}

async fn seek(lab: &Lab, spec: &GroupSpec, to: Start, force: bool) -> Result<Position, Error> {
    let seek = Seek {
        group: spec.group.clone(),
        topic: spec.topic.clone(),
        partition: 0,
        to,
        force,
    };
    lab.events.seek(seek).await
}

/// A group that has settled all five messages, and has no member.
async fn settled_five(lab: &Lab) -> Check<GroupSpec> {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b", "k3=c", "k4=d", "k5=e"])
        .await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    member.drain(5).await?;
    drop(member);
    lab.group_until(&spec, "no member", |info| info.members.is_empty())
        .await?;
    Ok(spec)
}

/// Moved back, a group gets again what it had settled, and the lag says so.
async fn back(lab: Lab) -> Check {
    let spec = settled_five(&lab).await?;
    let third = lab.all(&spec.topic, 0).await?[2].position();
    check_eq!(
        seek(&lab, &spec, Start::At(third), false).await?,
        third,
        "where to"
    );
    check_eq!(lab.group(&spec).await?.lag(), 3, "lag");
    let mut member = lab.consume_as(&spec).await?;
    check_eq!(member.drain(3).await?, ["c", "d", "e"], "deliveries");
    member.quiet(QUIET).await
}

/// Moved forward, a group passes messages over for good.
async fn forward(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a", "b", "c"]).await?;
    let (spec, member) = lab.consume(&topic).await?;
    drop(member);
    lab.group_until(&spec, "no member", |info| info.members.is_empty())
        .await?;
    seek(&lab, &spec, Start::Last(1), false).await?;
    check_eq!(lab.group(&spec).await?.lag(), 1, "lag");
    let mut member = lab.consume_as(&spec).await?;
    check_eq!(member.drain(1).await?, ["c"], "deliveries");
    member.quiet(QUIET).await
}

/// What is parked before the new position is passed over too.
async fn forward_over_parked(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    lab.settle(
        delivery.receipt,
        retry(std::time::Duration::from_millis(50)),
    )
    .await?;
    drop(member);
    lab.group_until(&spec, "no member", |info| info.members.is_empty())
        .await?;
    seek(&lab, &spec, Start::Latest, false).await?;
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), info.parked()), (0, 0), "lag and parked");
    lab.put(&topic, 0, &["k1=b"]).await?;
    let mut member = lab.consume_as(&spec).await?;
    check_eq!(member.drain(1).await?, ["b"], "deliveries");
    member.quiet(QUIET).await
}

/// While members are live a move is a conflict and changes nothing.
async fn refused_while_live(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a", "b"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    let answer = seek(&lab, &spec, Start::Latest, false).await;
    check_refused!(answer, Conflict, "a move of a live group");
    lab.done(delivery.receipt).await?;
    check_eq!(member.drain(1).await?, ["b"], "deliveries");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// A forced move takes the partition from its member, who gets it again at the new position.
async fn forced(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b", "k3=c"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    member.drain(3).await?;
    let second = lab.all(&topic, 0).await?[1].position();
    seek(&lab, &spec, Start::At(second), true).await?;
    check_eq!(
        member.drain(2).await?,
        ["b", "c"],
        "deliveries after the move"
    );
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    member.quiet(QUIET).await
}

/// A move lasts over a reopen.
async fn survives_reopen(mut lab: Lab) -> Check {
    let spec = settled_five(&lab).await?;
    seek(&lab, &spec, Start::Last(2), false).await?;
    lab.reopen().await?;
    let mut member = lab.consume_as(&spec).await?;
    check_eq!(member.drain(2).await?, ["d", "e"], "deliveries");
    member.quiet(QUIET).await
}

/// Moving a missing group, or one on a missing partition, is refused.
async fn unknown(lab: Lab) -> Check {
    let spec = settled_five(&lab).await?;
    let missing = GroupSpec {
        group: lab.name("missing")?,
        ..spec.clone()
    };
    let answer = seek(&lab, &missing, Start::Earliest, false).await;
    let error = check_refused!(answer, NotFound, "a move of a missing group");
    check!(error.is(codes::NO_SUCH_GROUP), "its code: {error:?}");
    let outside = Seek {
        group: spec.group,
        topic: spec.topic,
        partition: 1,
        to: Start::Earliest,
        force: true,
    };
    let answer = lab.events.seek(outside).await;
    check_refused!(answer, Rejected, "a move on partition 1 of 1");
    Ok(())
}

/// A deleted group is forgotten; one of the same name begins anew.
async fn delete(lab: Lab) -> Check {
    let spec = settled_five(&lab).await?;
    let (group, topic) = (spec.group.clone(), spec.topic.clone());
    lab.events
        .delete_group(group.clone(), topic.clone())
        .await?;
    let answer = lab.events.group(group.clone(), topic.clone()).await;
    let error = check_refused!(answer, NotFound, "a deleted group");
    check!(error.is(codes::NO_SUCH_GROUP), "its code: {error:?}");
    let answer = lab.events.delete_group(group.clone(), topic).await;
    check_refused!(answer, NotFound, "deleting it again");
    let groups = lab.events.groups().await?;
    check!(
        groups.iter().all(|g| g.group != group),
        "it is still listed"
    );
    let mut member = lab.consume_as(&spec).await?;
    check_eq!(
        member.drain(5).await?,
        ["a", "b", "c", "d", "e"],
        "deliveries"
    );
    Ok(())
}

/// A group with live members is not deleted.
async fn delete_refused_while_live(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let answer = lab.events.delete_group(spec.group.clone(), topic).await;
    check_refused!(answer, Conflict, "deleting a live group");
    check_eq!(member.drain(1).await?, ["a"], "deliveries");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// A group is there when its members are gone, with its position.
async fn survives_its_members(lab: Lab) -> Check {
    let spec = settled_five(&lab).await?;
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), info.dead), (0, 0), "lag and dead letters");
    lab.put(&spec.topic, 0, &["f"]).await?;
    let mut member = lab.consume_as(&spec).await?;
    check_eq!(member.drain(1).await?, ["f"], "deliveries");
    Ok(())
}
