//! The dedupe window: a repeated id is answered with its first position.

use std::time::Duration;

use strait_core::events::Append;
use strait_core::{
    Attr, Limits, Name, NewRecord, Outgoing, Records, RecordsBuilder, Sent, Timestamp, Unit,
};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Lab, plain};

pub(super) fn cases() -> Vec<Case> {
    [
        case("dedupe_one", one),
        case("dedupe_batch_by_ids", batch_by_ids),
        case("dedupe_batch_by_its_id", batch_by_its_id),
        case("dedupe_off", off),
        case("dedupe_is_whole", is_whole),
        case("dedupe_is_per_topic", is_per_topic),
        case("dedupe_concurrent", concurrent),
        case("dedupe_window_ends", window_ends),
        case("dedupe_survives_reopen", survives_reopen).reopens(),
        case("dedupe_effect", effect).needs(Need::AtomicEffects),
    ]
    .into_iter()
    .map(|case| case.needs(Need::Dedupe))
    .collect()
}

/// A batch of records with ids of their own.
fn with_ids(ids: &[&str]) -> Check<Records> {
    let mut builder = RecordsBuilder::new(&[])?;
    for id in ids {
        builder.push(NewRecord {
            body: id.as_bytes(),
            attrs: &[(Attr::Id, id)],
            ..NewRecord::default()
        })?;
    }
    Ok(builder.build())
}

fn deduped(topic: &Name, records: Records) -> Append {
    Append {
        dedupe: true,
        ..plain(topic, 0, records)
    }
}

async fn append(lab: &Lab, topic: &Name, ids: &[&str]) -> Check<Sent> {
    Ok(lab.events.append(deduped(topic, with_ids(ids)?)).await?)
}

/// A repeated id is answered with its first position and `duplicate`; nothing is appended.
async fn one(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let first = append(&lab, &topic, &["a"]).await?;
    check!(!first.duplicate, "the first is no duplicate");
    append(&lab, &topic, &["b"]).await?;
    let again = append(&lab, &topic, &["a"]).await?;
    check!(
        again.duplicate,
        "the repeated one is a duplicate: {again:?}"
    );
    check_eq!(again.first, first.first, "position of the repeated one");
    check_eq!(again.count, 1, "count of the repeated one");
    check_eq!(lab.bodies(&topic, 0).await?, ["a", "b"], "bodies");
    Ok(())
}

/// A repeated batch is known by the ids of its records.
async fn batch_by_ids(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["before"]).await?;
    let first = append(&lab, &topic, &["a", "b", "c"]).await?;
    let again = append(&lab, &topic, &["a", "b", "c"]).await?;
    check!(
        again.duplicate,
        "the repeated batch is a duplicate: {again:?}"
    );
    check_eq!(again.first, first.first, "position of the repeated batch");
    check_eq!(lab.bodies(&topic, 0).await?.len(), 4, "messages");
    Ok(())
}

/// A batch whose records have no ids is known by the batch's.
async fn batch_by_its_id(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let build = |id| -> Check<Records> {
        let now = Timestamp::now();
        let mut builder = RecordsBuilder::with(&[], Limits::default(), now, id)?;
        for body in [b"a", b"b"] {
            builder.push(NewRecord {
                body,
                ..NewRecord::default()
            })?;
        }
        Ok(builder.build())
    };
    let first = lab.events.append(deduped(&topic, build(7)?)).await?;
    let again = lab.events.append(deduped(&topic, build(7)?)).await?;
    check!(
        again.duplicate,
        "the repeated batch is a duplicate: {again:?}"
    );
    check_eq!(again.first, first.first, "position of the repeated batch");
    let other = lab.events.append(deduped(&topic, build(8)?)).await?;
    check!(!other.duplicate, "another batch is no duplicate: {other:?}");
    check_eq!(lab.bodies(&topic, 0).await?.len(), 4, "messages");
    Ok(())
}

/// Without asking for it a repeated id is appended again.
async fn off(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    for _ in 0..2 {
        let sent = lab.append(&topic, 0, with_ids(&["a"])?).await?;
        check!(!sent.duplicate, "nobody asked for it: {sent:?}");
    }
    check_eq!(lab.bodies(&topic, 0).await?, ["a", "a"], "bodies");
    Ok(())
}

/// A batch is known or new as a whole: of one that holds a known and a new id, nothing or all is appended.
async fn is_whole(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    append(&lab, &topic, &["a"]).await?;
    let mixed = append(&lab, &topic, &["b", "a", "c"]).await;
    let bodies = lab.bodies(&topic, 0).await?;
    let whole = bodies == ["a"] || bodies == ["a", "b", "a", "c"];
    check!(
        whole,
        "part of a batch was appended: {bodies:?} ({mixed:?})"
    );
    Ok(())
}

/// Ids are a topic's own.
async fn is_per_topic(lab: Lab) -> Check {
    let (topic, other) = (lab.topic(1).await?, lab.topic(1).await?);
    append(&lab, &topic, &["a"]).await?;
    let sent = append(&lab, &other, &["a"]).await?;
    check!(!sent.duplicate, "known from another topic: {sent:?}");
    check_eq!(lab.bodies(&other, 0).await?, ["a"], "bodies");
    Ok(())
}

/// Of concurrent appends with one id exactly one appends; all are answered with its position.
async fn concurrent(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let mut appending = tokio::task::JoinSet::new();
    for _ in 0..8 {
        appending.spawn(lab.events.append(deduped(&topic, with_ids(&["a"])?)));
    }
    let mut answers = Vec::new();
    while let Some(answer) = appending.join_next().await {
        answers.push(answer.map_err(Fault::new)??);
    }
    let new = answers.iter().filter(|sent| !sent.duplicate).count();
    check_eq!(new, 1, "appends that were not duplicates");
    let same = answers.iter().all(|sent| sent.first == answers[0].first);
    check!(same, "the answers name several positions: {answers:?}");
    check_eq!(lab.bodies(&topic, 0).await?, ["a"], "bodies");
    Ok(())
}

/// After the window an id is new again.
async fn window_ends(lab: Lab) -> Check {
    let window = Duration::from_millis(100);
    let topic = lab
        .topic_with(|mut spec| {
            spec.dedupe_window = Some(window);
            spec.partitions(1)
        })
        .await?;
    append(&lab, &topic, &["a"]).await?;
    lab.pass(window * 2).await;
    let again = append(&lab, &topic, &["a"]).await?;
    check!(!again.duplicate, "known after the window: {again:?}");
    check_eq!(lab.bodies(&topic, 0).await?, ["a", "a"], "bodies");
    Ok(())
}

/// Known ids survive a reopen.
async fn survives_reopen(mut lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let first = append(&lab, &topic, &["a"]).await?;
    lab.reopen().await?;
    let again = append(&lab, &topic, &["a"]).await?;
    check!(again.duplicate, "forgotten at the reopen: {again:?}");
    check_eq!(again.first, first.first, "position");
    Ok(())
}

/// An effect with a known id is answered with its first position; the rest of its unit happens.
async fn effect(lab: Lab) -> Check {
    let (topic, sink) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["a", "b"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut firsts = Vec::new();
    for delivery in member.take(2).await? {
        let mut unit = Unit::settle(delivery.receipt, strait_core::Verdict::Done);
        unit.send.push(Outgoing::Append {
            topic: sink.clone(),
            partition: 0,
            records: with_ids(&["effect"])?,
            expected: Default::default(),
            dedupe: true,
        });
        firsts.extend(lab.apply(unit).await?);
    }
    check_eq!(firsts.len(), 2, "answers for the effects");
    check!(!firsts[0].duplicate && firsts[1].duplicate, "{firsts:?}");
    check_eq!(firsts[0].first, firsts[1].first, "position");
    check_eq!(lab.bodies(&sink, 0).await?, ["effect"], "effects");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}
