//! Groups: where they begin, what they deliver, how many at a time.

use std::time::Duration;

use strait_core::events::{GroupSpec, Start};
use strait_core::{Arrival, Delivery, Name, NewRecord, Offer, Records, Timestamp, codes};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Lab, QUIET, body};
use crate::member::{Seen, single};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("group_delivers_all_once", delivers_all_once),
        case("group_delivers_while_appending", delivers_while_appending),
        case("group_first_delivery", first_delivery),
        case("group_starts_at_earliest", starts_at_earliest),
        case("group_starts_at_latest", starts_at_latest),
        case("group_starts_at_position", starts_at_position),
        case("group_starts_at_last", starts_at_last),
        case("group_starts_at_time", starts_at_time).needs(Need::ByTime),
        case(
            "group_start_only_without_position",
            start_only_without_position,
        ),
        case("groups_are_independent", independent),
        case("group_bounded_by_items", bounded_by_items),
        case("group_bounded_by_bytes", bounded_by_bytes),
        case("group_poll_given_up", poll_given_up),
        case("group_hold_and_resume", hold_and_resume),
        case("group_gap_is_bounded", gap_is_bounded),
        case("group_unknown_topic", unknown_topic),
        case("group_bad_spec", bad_spec),
        case("group_members_are_listed", members_are_listed),
    ]
}

/// A group gets every message of every partition once, those of a partition in order.
async fn delivers_all_once(lab: Lab) -> Check {
    let topic = lab.topic(3).await?;
    let texts: Vec<String> = (0..40).map(|i| format!("k{i}=m{i:02}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for partition in 0..3 {
        lab.put(&topic, partition, &texts[..25]).await?;
        lab.put(&topic, partition, &texts[25..]).await?;
    }
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut bodies = [const { Vec::new() }; 3];
    for delivery in member.take(120).await? {
        let partition = delivery.message.partition();
        check_eq!(delivery.receipt.fence().shard, partition, "shard");
        bodies[partition as usize].push(body(&delivery.message));
        lab.done(delivery.receipt).await?;
    }
    let wanted: Vec<String> = (0..40).map(|i| format!("m{i:02}")).collect();
    for (partition, found) in bodies.iter().enumerate() {
        check_eq!(*found, wanted, "deliveries of partition {partition}");
    }
    member.quiet(QUIET).await?;
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// What is appended while a member waits is delivered.
async fn delivers_while_appending(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    for round in 0..10 {
        let text = round.to_string();
        lab.put(&topic, round % 2, &[&text]).await?;
        check_eq!(
            member.drain(1).await?,
            [text],
            "the delivery of round {round}"
        );
    }
    Ok(())
}

/// A first delivery is attempt 1, without an error, and carries the message as it was appended.
async fn first_delivery(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    let record = NewRecord {
        key: Some(b"ada"),
        body: b"hello",
        headers: &[("a", b"1"), ("a", b"2")],
        time: Some(Timestamp::from_millis(-7)),
        attrs: &[(strait_core::Attr::Kind, "greeting.v1")],
    };
    let sent = lab.append(&topic, 1, Records::one(&[], record)?).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    check_eq!(delivery.attempt, 1, "attempt");
    check_eq!(delivery.last_error, None, "last error");
    check_eq!(delivery.receipt.count(), 1, "messages of the receipt");
    let message = &delivery.message;
    if lab.caps.dense_offsets == Offer::Native {
        let number = delivery.receipt.fence().first;
        check_eq!(number, sent.first, "position of the receipt");
    }
    check_eq!(message.position(), sent.first, "position");
    check_eq!(message.partition(), 1, "partition");
    check_eq!(&**message.topic(), &*topic, "topic");
    let record = message.record();
    check_eq!(record.key(), Some(&b"ada"[..]), "key");
    check_eq!(record.body(), b"hello", "body");
    check_eq!(record.headers().count(), 2, "headers");
    check_eq!(record.time().as_millis(), -7, "time");
    check_eq!(record.kind(), Some("greeting.v1"), "kind");
    Ok(())
}

async fn five(lab: &Lab) -> Check<Name> {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a", "b", "c"]).await?;
    lab.put(&topic, 0, &["d", "e"]).await?;
    Ok(topic)
}

async fn begins(lab: &Lab, topic: &Name, start: Start, wanted: &[&str]) -> Check {
    let spec = GroupSpec {
        start,
        ..lab.spec(topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    let found = member.drain(wanted.len()).await?;
    check_eq!(found, wanted, "deliveries from {start:?}");
    let lag = lab.group(&spec).await?.lag();
    check_eq!(lag, 0, "lag after the deliveries from {start:?}");
    lab.put(topic, 0, &["new"]).await?;
    check_eq!(member.drain(1).await?, ["new"], "the delivery after them");
    Ok(())
}

/// `Earliest` begins at the first message.
async fn starts_at_earliest(lab: Lab) -> Check {
    let topic = five(&lab).await?;
    begins(&lab, &topic, Start::Earliest, &["a", "b", "c", "d", "e"]).await
}

/// `Latest` begins with what is appended after the join.
async fn starts_at_latest(lab: Lab) -> Check {
    let topic = five(&lab).await?;
    begins(&lab, &topic, Start::Latest, &[]).await
}

/// `At` begins at a position, also inside a batch.
async fn starts_at_position(lab: Lab) -> Check {
    let topic = five(&lab).await?;
    let at = lab.all(&topic, 0).await?[1].position();
    begins(&lab, &topic, Start::At(at), &["b", "c", "d", "e"]).await
}

/// `Last(n)` begins n messages before the end.
async fn starts_at_last(lab: Lab) -> Check {
    let topic = five(&lab).await?;
    begins(&lab, &topic, Start::Last(2), &["d", "e"]).await
}

/// `Time` begins at the first message that is not before it.
async fn starts_at_time(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    for (text, time) in [("a", 1_000), ("b", 2_000), ("c", 3_000)] {
        let record = NewRecord {
            body: text.as_bytes(),
            time: Some(Timestamp::from_millis(time)),
            ..NewRecord::default()
        };
        lab.append(&topic, 0, Records::one(&[], record)?).await?;
    }
    let start = Start::Time(Timestamp::from_millis(1_500));
    begins(&lab, &topic, start, &["b", "c"]).await
}

/// A group that has a position goes on there, whatever start a member names.
async fn start_only_without_position(lab: Lab) -> Check {
    let topic = five(&lab).await?;
    let spec = lab.spec(&topic)?;
    let mut member = lab.consume_as(&spec).await?;
    for delivery in member.take(5).await?.into_iter().take(2) {
        lab.done(delivery.receipt).await?;
    }
    drop(member);
    let spec = GroupSpec {
        start: Start::Latest,
        ..spec
    };
    let mut member = lab.consume_as(&spec).await?;
    check_eq!(member.drain(3).await?, ["c", "d", "e"], "deliveries");
    Ok(())
}

/// Two groups on a topic each get everything.
async fn independent(lab: Lab) -> Check {
    let topic = five(&lab).await?;
    let (one, mut first) = lab.consume(&topic).await?;
    let (two, mut second) = lab.consume(&topic).await?;
    let all = ["a", "b", "c", "d", "e"];
    check_eq!(first.drain(5).await?, all, "deliveries of the first group");
    let lags = (lab.group(&one).await?.lag(), lab.group(&two).await?.lag());
    check_eq!(lags, (0, 5), "lags of the two groups");
    check_eq!(
        second.drain(5).await?,
        all,
        "deliveries of the second group"
    );
    Ok(())
}

/// A poll gives at most the number of messages that it asks for.
async fn bounded_by_items(lab: Lab) -> Check {
    let topic = five(&lab).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let mut found = Vec::new();
    while found.len() < 5 {
        let next = tokio::time::timeout(lab.patience, member.consumer.next(2, 1 << 20)).await;
        let deliveries = match next.map_err(|_| Fault::new("no more arrivals"))?? {
            Arrival::Each(deliveries) => deliveries,
            Arrival::Run(chunk, receipt) => single(chunk, receipt)?,
            other => return Err(Fault::new(format!("a delivery was to come: {other:?}"))),
        };
        check!(
            (1..=2).contains(&deliveries.len()),
            "2 were asked for, {} came",
            deliveries.len()
        );
        for delivery in deliveries {
            found.push(body(&delivery.message));
            lab.done(delivery.receipt).await?;
        }
    }
    check_eq!(found, ["a", "b", "c", "d", "e"], "deliveries");
    Ok(())
}

/// However small the byte budget, a poll gives at least one message; a large message does not block.
async fn bounded_by_bytes(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let big = "x".repeat(50_000);
    for _ in 0..8 {
        lab.put(&topic, 0, &[&big]).await?;
    }
    let (_, mut member) = lab.consume(&topic).await?;
    let mut found = 0;
    while found < 8 {
        let next = tokio::time::timeout(lab.patience, member.consumer.next(1_000, 60_000)).await;
        let deliveries = match next.map_err(|_| Fault::new("no more arrivals"))?? {
            Arrival::Each(deliveries) => deliveries,
            Arrival::Run(chunk, receipt) => single(chunk, receipt)?,
            other => return Err(Fault::new(format!("a delivery was to come: {other:?}"))),
        };
        let count = deliveries.len();
        check!(
            (1..=4).contains(&count),
            "60000 bytes asked for, {count} of 50000 came"
        );
        found += count;
        for delivery in deliveries {
            lab.done(delivery.receipt).await?;
        }
    }
    Ok(())
}

/// A poll that is not followed up loses nothing.
async fn poll_given_up(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let producing = tokio::spawn({
        let (lab, topic) = (lab.clone(), topic.clone());
        async move {
            for i in 0..40 {
                lab.put(&topic, 0, &[&format!("k{i}={i}")]).await?;
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
            Check::Ok(())
        }
    });
    let mut found = Vec::new();
    let began = std::time::Instant::now();
    while found.len() < 40 && began.elapsed() < lab.patience {
        if let Some(Seen::Delivery(delivery)) = member.within(Duration::from_micros(150)).await? {
            found.push(body(&delivery.message));
            lab.done(delivery.receipt).await?;
        }
    }
    producing.await.map_err(Fault::new)??;
    let wanted: Vec<String> = (0..40).map(|i| i.to_string()).collect();
    check_eq!(found, wanted, "deliveries over polls that were given up");
    Ok(())
}

/// A shard that is held delivers nothing until it is resumed; the others go on.
async fn hold_and_resume(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    member.consumer.control.hold(0, true);
    lab.put(&topic, 0, &["held"]).await?;
    lab.put(&topic, 1, &["flows"]).await?;
    check_eq!(
        member.drain(1).await?,
        ["flows"],
        "delivery of the other shard"
    );
    member.quiet(QUIET).await?;
    member.consumer.control.hold(0, false);
    check_eq!(
        member.drain(1).await?,
        ["held"],
        "delivery after the resume"
    );
    Ok(())
}

/// Deliveries run at most `gap` ahead of the oldest unsettled message, and go on when it is settled.
async fn gap_is_bounded(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let texts: Vec<String> = (0..40).map(|i| format!("k{i}={i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    lab.put(&topic, 0, &texts).await?;
    let spec = GroupSpec {
        gap: 10,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    let oldest = member.delivery().await?;
    let mut settled = 0;
    while settled < 9 {
        settled += within_gap(&lab, member.delivery().await?).await?;
    }
    while let Some(seen) = member.within(QUIET).await? {
        if let Seen::Delivery(delivery) = seen {
            settled += within_gap(&lab, *delivery).await?;
        }
    }
    lab.done(oldest.receipt).await?;
    let rest = member.drain(39 - settled).await?;
    let last = rest.last().map(String::as_str);
    check_eq!(last, Some("39"), "the last delivery");
    Ok(())
}

async fn within_gap(lab: &Lab, delivery: Delivery) -> Check<usize> {
    let ahead: usize = body(&delivery.message).parse().map_err(Fault::new)?;
    check!(ahead <= 10, "{ahead} ahead of the oldest, the gap is 10");
    lab.done(delivery.receipt).await?;
    Ok(1)
}

/// Joining on a missing topic is `NotFound`, and so is a group that does not exist.
async fn unknown_topic(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let missing = lab.spec(&lab.name("missing")?)?;
    let answer = lab.events.join(missing).await;
    let error = check_refused!(answer, NotFound, "joining on a missing topic");
    check!(error.is(codes::NO_SUCH_TOPIC), "its code: {error:?}");
    let answer = lab.events.group(lab.name("missing")?, topic).await;
    let error = check_refused!(answer, NotFound, "a group that nobody joined");
    check!(error.is(codes::NO_SUCH_GROUP), "its code: {error:?}");
    Ok(())
}

/// A spec that cannot work is refused at the join: no attempt, no lease, no gap, a dead-letter topic that is missing.
async fn bad_spec(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let spec = lab.spec(&topic)?;
    let bad = [
        GroupSpec {
            max_attempts: 0,
            ..spec.clone()
        },
        GroupSpec {
            lease: Duration::ZERO,
            ..spec.clone()
        },
        GroupSpec {
            gap: 0,
            ..spec.clone()
        },
    ];
    for spec in bad {
        let shown = format!("{spec:?}");
        check_refused!(lab.events.join(spec).await, Rejected | Config, "{shown}");
    }
    let spec = GroupSpec {
        dead_topic: Some(lab.name("missing")?),
        ..spec
    };
    let answer = lab.events.join(spec).await;
    check_refused!(answer, NotFound, "a dead-letter topic that is missing");
    Ok(())
}

/// A group's live members are listed with their names and partitions; the list of groups is by name.
async fn members_are_listed(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    let spec = GroupSpec {
        member: "billing on host-7".to_owned(),
        ..lab.spec(&topic)?
    };
    let member = lab.consume_as(&spec).await?;
    let info = lab.group(&spec).await?;
    check_eq!(info.members.len(), 1, "members");
    check_eq!(info.members[0].name, "billing on host-7", "its name");
    check_eq!(info.members[0].consumer, member.consumer.id, "its consumer");
    check_eq!(info.members[0].shards, [0, 1], "its partitions");
    check_eq!(info.shards.len(), 2, "partitions of the group");
    let groups = lab.events.groups().await?;
    let names: Vec<_> = groups
        .iter()
        .map(|g| (g.group.clone(), g.topic.clone()))
        .collect();
    check!(names.is_sorted(), "the groups are not by name: {names:?}");
    check!(
        names.contains(&(spec.group.clone(), topic)),
        "{:?} is not listed",
        spec.group
    );
    drop(member);
    let gone = |info: &strait_core::events::GroupInfo| info.members.is_empty();
    lab.group_until(&spec, "no member after the last has left", gone)
        .await?;
    Ok(())
}
