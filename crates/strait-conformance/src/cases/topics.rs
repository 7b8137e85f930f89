//! Topics: declared, changed, listed, deleted.

use std::time::Duration;

use strait_core::events::{Retention, TopicChange, TopicInfo, TopicSpec};
use strait_core::{Error, codes};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Lab, batch, body};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("topic_defaults", defaults),
        case("topic_declared_again", declared_again),
        case("topic_declared_otherwise", declared_otherwise),
        case("topic_declared_with_other_retention", other_retention).needs(Need::RetentionAge),
        case("topic_declared_with_other_versions", other_versions).needs(Need::ExpectedKeyVersion),
        case("topic_declared_with_other_window", other_window).needs(Need::Dedupe),
        case("topic_partition_bounds", partition_bounds),
        case("topic_declared_at_once", declared_at_once),
        case("topic_info", info).needs(Need::StoredBytes),
        case("topic_list", list),
        case("topic_more_partitions", more_partitions),
        case(
            "topic_more_partitions_reach_members",
            more_partitions_reach_members,
        )
        .needs(Need::Groups),
        case("topic_fewer_partitions", fewer_partitions),
        case("topic_retention_changes", retention_changes).needs(Need::RetentionAge),
        case("topic_missing", missing),
        case("topic_deleted", deleted),
        case("topic_deleted_with_its_groups", deleted_with_groups).needs(Need::Groups),
        case("topic_survives_reopen", survives_reopen).reopens(),
    ]
}

/// A topic has 8 partitions, keeps everything, stores no key versions and remembers ids for 10 minutes, unless told.
async fn defaults(lab: Lab) -> Check {
    let name = lab.name("t")?;
    let info = lab.events.declare(TopicSpec::new(name.clone())).await?;
    check_eq!(info.name, name, "name");
    check_eq!(info.partitions.len(), 8, "partitions");
    check_eq!(info.retention, Retention::default(), "retention");
    check!(!info.key_versions, "key versions are kept unasked");
    if lab.caps.dedupe.is_there() {
        check_eq!(info.dedupe_window, Duration::from_secs(600), "window");
    }
    Ok(())
}

/// Declaring a topic again as it is, or without saying how, changes nothing.
async fn declared_again(lab: Lab) -> Check {
    let spec = TopicSpec::new(lab.name("t")?).partitions(3);
    let first = lab.events.declare(spec.clone()).await?;
    lab.put(&first.name, 1, &["kept"]).await?;
    let again = lab.events.declare(spec).await?;
    check_eq!(again.partitions.len(), 3, "partitions");
    let any = TopicSpec::new(first.name.clone());
    let any = lab.events.declare(any).await?;
    check_eq!(
        any.partitions.len(),
        3,
        "partitions when none are asked for"
    );
    check_eq!(lab.bodies(&first.name, 1).await?, ["kept"], "bodies");
    Ok(())
}

fn names_field(answer: Result<TopicInfo, Error>, field: &str) -> Check {
    let error = check_refused!(answer, Conflict, "another `{field}`");
    check!(error.is(codes::TOPIC_EXISTS), "its code: {error:?}");
    let text = format!("{error:?}").to_lowercase();
    check!(text.contains(field), "`{field}` is not named: {error:?}");
    Ok(())
}

/// Declaring a topic with other settings is a conflict that names the field; the topic stays as it was.
async fn declared_otherwise(lab: Lab) -> Check {
    let topic = lab.topic(3).await?;
    let other = TopicSpec::new(topic.clone()).partitions(4);
    names_field(lab.events.declare(other).await, "partitions")?;
    let info = lab.events.topic(topic).await?;
    check_eq!(info.partitions.len(), 3, "partitions afterwards");
    Ok(())
}

/// Another retention is a conflict.
async fn other_retention(lab: Lab) -> Check {
    let mut spec = TopicSpec::new(lab.topic(1).await?);
    spec.retention = Some(Retention {
        age: Some(Duration::from_secs(60)),
        bytes: None,
    });
    names_field(lab.events.declare(spec).await, "retention")
}

/// Another choice about key versions is a conflict.
async fn other_versions(lab: Lab) -> Check {
    let mut spec = TopicSpec::new(lab.topic(1).await?);
    spec.key_versions = Some(true);
    names_field(lab.events.declare(spec).await, "version")
}

/// Another dedupe window is a conflict.
async fn other_window(lab: Lab) -> Check {
    let mut spec = TopicSpec::new(lab.topic(1).await?);
    spec.dedupe_window = Some(Duration::from_secs(7));
    names_field(lab.events.declare(spec).await, "window")
}

/// A topic has at least one partition and at most as many as the capabilities say.
async fn partition_bounds(lab: Lab) -> Check {
    for partitions in [0, lab.caps.max_partitions.saturating_add(1)] {
        let name = lab.name("t")?;
        let spec = TopicSpec::new(name.clone()).partitions(partitions);
        let answer = lab.events.declare(spec).await;
        check_refused!(answer, Rejected, "a topic with {partitions} partitions");
        check_refused!(lab.events.topic(name).await, NotFound, "the topic");
    }
    Ok(())
}

/// Of concurrent equal declarations all are answered, and one topic is there.
async fn declared_at_once(lab: Lab) -> Check {
    let spec = TopicSpec::new(lab.name("t")?).partitions(5);
    let mut declaring = tokio::task::JoinSet::new();
    for _ in 0..8 {
        declaring.spawn(lab.events.declare(spec.clone()));
    }
    while let Some(answer) = declaring.join_next().await {
        let info = answer.map_err(Fault::new)??;
        check_eq!(info.partitions.len(), 5, "partitions");
    }
    let topics = lab.events.topics().await?;
    let found = topics.iter().filter(|t| t.name == spec.name).count();
    check_eq!(found, 1, "topics of that name");
    Ok(())
}

/// A topic's partitions tell their start, their end and their bytes.
async fn info(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    let empty = lab.events.topic(topic.clone()).await?.partitions;
    check_eq!(empty.len(), 2, "partitions");
    check_eq!(
        empty[0].start,
        empty[0].end,
        "start and end of an empty one"
    );
    check_eq!(empty[0].bytes, 0, "bytes of an empty one");
    let sent = lab.put(&topic, 0, &["hello", "world"]).await?;
    let parts = lab.events.topic(topic.clone()).await?.partitions;
    check_eq!(parts[0].start, sent.first, "start");
    check!(parts[0].end > sent.first, "end: {}", parts[0].end);
    check!(parts[0].bytes >= 10, "bytes: {}", parts[0].bytes);
    check_eq!(parts[1], empty[1], "the other partition");
    Ok(())
}

/// The list holds every topic, by name.
async fn list(lab: Lab) -> Check {
    let mut wanted = Vec::new();
    for _ in 0..3 {
        wanted.push(lab.topic(1).await?);
    }
    let names: Vec<_> = lab.events.topics().await?;
    let names: Vec<_> = names.into_iter().map(|topic| topic.name).collect();
    check!(names.is_sorted(), "the topics are not by name: {names:?}");
    for name in wanted {
        check!(names.contains(&name), "{name:?} is not listed");
    }
    Ok(())
}

/// Partitions can be added; what is stored stays.
async fn more_partitions(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    lab.put(&topic, 1, &["kept"]).await?;
    let change = TopicChange {
        partitions: Some(4),
        retention: None,
        ..TopicChange::default()
    };
    let info = lab.events.alter(topic.clone(), change).await?;
    check_eq!(info.partitions.len(), 4, "partitions");
    lab.put(&topic, 3, &["new"]).await?;
    check_eq!(lab.bodies(&topic, 1).await?, ["kept"], "an old partition");
    check_eq!(lab.bodies(&topic, 3).await?, ["new"], "a new partition");
    Ok(())
}

/// A live group gets the added partitions.
async fn more_partitions_reach_members(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let change = TopicChange {
        partitions: Some(3),
        retention: None,
        ..TopicChange::default()
    };
    lab.events.alter(topic.clone(), change).await?;
    lab.put(&topic, 2, &["new"]).await?;
    check_eq!(member.drain(1).await?, ["new"], "deliveries");
    member.owns(3).await?;
    Ok(())
}

/// Partitions cannot be taken away, and the same number is no change to ask for.
async fn fewer_partitions(lab: Lab) -> Check {
    let topic = lab.topic(3).await?;
    for partitions in [0, 2, 3, lab.caps.max_partitions.saturating_add(1)] {
        let change = TopicChange {
            partitions: Some(partitions),
            retention: None,
            ..TopicChange::default()
        };
        let answer = lab.events.alter(topic.clone(), change).await;
        check_refused!(answer, Rejected | Conflict, "3 partitions to {partitions}");
    }
    let info = lab.events.topic(topic).await?;
    check_eq!(info.partitions.len(), 3, "partitions afterwards");
    Ok(())
}

/// The retention can be changed, and shows.
async fn retention_changes(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let retention = Retention {
        age: Some(Duration::from_secs(86_400)),
        bytes: None,
    };
    let change = TopicChange {
        partitions: None,
        retention: Some(retention),
        ..TopicChange::default()
    };
    lab.events.alter(topic.clone(), change).await?;
    let info = lab.events.topic(topic).await?;
    check_eq!(info.retention, retention, "retention");
    Ok(())
}

/// Asking for, changing or deleting a missing topic is `NotFound`.
async fn missing(lab: Lab) -> Check {
    let name = lab.name("missing")?;
    let error = check_refused!(lab.events.topic(name.clone()).await, NotFound, "info");
    check!(error.is(codes::NO_SUCH_TOPIC), "its code: {error:?}");
    let change = TopicChange::default();
    check_refused!(
        lab.events.alter(name.clone(), change).await,
        NotFound,
        "alter"
    );
    check_refused!(lab.events.delete(name).await, NotFound, "delete");
    Ok(())
}

/// A deleted topic is gone; one of the same name begins empty.
async fn deleted(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    lab.put(&topic, 0, &["a", "b"]).await?;
    lab.events.delete(topic.clone()).await?;
    check_refused!(lab.events.topic(topic.clone()).await, NotFound, "info");
    let answer = lab.append(&topic, 0, batch(&["x"])?).await;
    check_refused!(answer, NotFound, "append");
    check_refused!(
        lab.read(&topic, 0, Default::default()).await,
        NotFound,
        "read"
    );
    let names = lab.events.topics().await?;
    check!(names.iter().all(|t| t.name != topic), "it is still listed");
    let again = TopicSpec::new(topic.clone()).partitions(1);
    lab.events.declare(again).await?;
    check_eq!(
        lab.bodies(&topic, 0).await?.len(),
        0,
        "messages of the new one"
    );
    lab.put(&topic, 0, &["new"]).await?;
    check_eq!(lab.bodies(&topic, 0).await?, ["new"], "bodies");
    Ok(())
}

/// A deleted topic takes its groups' positions with it.
async fn deleted_with_groups(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a", "b"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    member.drain(2).await?;
    drop(member);
    lab.events.delete(topic.clone()).await?;
    let answer = lab.events.group(spec.group.clone(), topic.clone()).await;
    check_refused!(answer, NotFound, "the group on a deleted topic");
    let again = TopicSpec::new(topic.clone()).partitions(1);
    lab.events.declare(again).await?;
    lab.put(&topic, 0, &["new"]).await?;
    let mut member = lab.consume_as(&spec).await?;
    let delivery = member.delivery().await?;
    check_eq!(body(&delivery.message), "new", "the first delivery");
    Ok(())
}

/// Topics and their settings survive a reopen.
async fn survives_reopen(mut lab: Lab) -> Check {
    let topic = lab.topic(5).await?;
    let before = lab.events.topic(topic.clone()).await?;
    lab.reopen().await?;
    let after = lab.events.topic(topic).await?;
    check_eq!(after, before, "the topic after the reopen");
    Ok(())
}
