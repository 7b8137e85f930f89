//! Appending: what goes in comes out, whole, in order, at growing positions.

use std::time::Duration;

use strait_core::{
    Attr, Limits, MessageId, NewRecord, Position, Records, RecordsBuilder, Sent, Timestamp, codes,
};

use super::{Case, Need, case};
use crate::fault::Check;
use crate::lab::{Lab, batch, body};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("append_one", one),
        case("append_batch", whole_batch),
        case("append_large_batch", large_batch),
        case("append_every_byte", every_byte),
        case("append_null_and_empty_keys", null_and_empty_keys),
        case("append_headers", headers),
        case("append_times", times),
        case("append_attributes", attributes),
        case("append_ids", ids),
        case("append_empty_batch", empty_batch),
        case("append_longest_body", longest_body),
        case("append_body_over_limit", body_over_limit),
        case("append_batch_over_limit", batch_over_limit),
        case("append_unknown_topic", unknown_topic),
        case("append_unknown_partition", unknown_partition),
        case("append_positions_grow", positions_grow),
        case("append_dense_offsets", dense_offsets).needs(Need::DenseOffsets),
        case("append_partitions_apart", partitions_apart),
        case("append_concurrent", concurrent),
        case("append_concurrent_batches", concurrent_batches),
        case("append_survives_reopen", survives_reopen).reopens(),
        case("append_survives_kill", survives_kill).kills(),
        case("append_batches_whole_after_kill", batches_whole_after_kill)
            .needs(Need::AtomicBatches)
            .kills(),
    ]
}

/// A record is read back as it was appended, at the position of the answer.
async fn one(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    let before = Timestamp::now();
    let sent = lab.put(&topic, 1, &["ada=hello"]).await?;
    check_eq!(sent.partition, 1, "partition of the answer");
    check!(!sent.duplicate, "a first append is no duplicate: {sent:?}");
    let all = lab.all(&topic, 1).await?;
    check_eq!(all.len(), 1, "messages");
    let message = &all[0];
    check_eq!(message.position(), sent.first, "position");
    check_eq!(&**message.topic(), &*topic, "topic");
    check_eq!(message.partition(), 1, "partition");
    check_eq!(message.record().key(), Some(&b"ada"[..]), "key");
    check_eq!(message.record().body(), b"hello", "body");
    check_eq!(message.record().headers().count(), 0, "headers");
    let off = message.appended().since(before) > Duration::from_secs(3_600);
    check!(!off, "appended an hour from now: {:?}", message.appended());
    Ok(())
}

/// The records of a batch are consecutive, in their order.
async fn whole_batch(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let sent = lab.put(&topic, 0, &["a", "b", "c", "d"]).await?;
    let all = lab.all(&topic, 0).await?;
    let bodies: Vec<String> = all.iter().map(body).collect();
    check_eq!(bodies, ["a", "b", "c", "d"], "bodies");
    let (high, low) = sent.first.parts();
    for (i, message) in (0u64..).zip(&all) {
        let wanted = Position::of_parts(high, low + i);
        check_eq!(message.position(), wanted, "position of record {i}");
    }
    Ok(())
}

/// A batch of ten thousand records is whole and in order.
async fn large_batch(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let texts: Vec<String> = (0..10_000)
        .map(|i| format!("k{}=body {i}", i % 7))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    lab.put(&topic, 0, &texts).await?;
    lab.put(&topic, 0, &["k0=after"]).await?;
    let bodies = lab.bodies(&topic, 0).await?;
    check_eq!(bodies.len(), 10_001, "messages");
    for (i, found) in bodies[..10_000].iter().enumerate() {
        check_eq!(*found, format!("body {i}"), "body of record {i}");
    }
    check_eq!(bodies[10_000], "after", "the record after the batch");
    Ok(())
}

/// Keys and bodies may hold every byte.
async fn every_byte(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let bytes: Vec<u8> = (0..=255).collect();
    let record = NewRecord {
        key: Some(&bytes),
        body: &bytes,
        ..NewRecord::default()
    };
    lab.append(&topic, 0, Records::one(&[], record)?).await?;
    let all = lab.all(&topic, 0).await?;
    check_eq!(all.len(), 1, "messages");
    check_eq!(all[0].record().key(), Some(&bytes[..]), "key");
    check_eq!(all[0].record().body(), &bytes[..], "body");
    Ok(())
}

/// No key, an empty key and an empty body are three things.
async fn null_and_empty_keys(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let mut builder = RecordsBuilder::new(&[])?;
    for (key, body) in [(None, &b"x"[..]), (Some(&b""[..]), b"x"), (None, b"")] {
        builder.push(NewRecord {
            key,
            body,
            ..NewRecord::default()
        })?;
    }
    lab.append(&topic, 0, builder.build()).await?;
    let all = lab.all(&topic, 0).await?;
    check_eq!(all.len(), 3, "messages");
    check_eq!(all[0].record().key(), None, "no key");
    check_eq!(all[1].record().key(), Some(&b""[..]), "an empty key");
    check_eq!(all[2].record().body(), b"", "an empty body");
    Ok(())
}

/// Headers keep their order and may repeat; values are bytes.
async fn headers(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let pairs: [(&str, &[u8]); 5] = [
        ("z", b"1"),
        ("a", b""),
        ("z", b"2"),
        ("Ünï", &[0x80, 0xff, 0x7f, 1]),
        ("a", b"3"),
    ];
    let record = NewRecord {
        body: b"x",
        headers: &pairs,
        ..NewRecord::default()
    };
    lab.append(&topic, 0, Records::one(&[], record)?).await?;
    let all = lab.all(&topic, 0).await?;
    check_eq!(all.len(), 1, "messages");
    let found: Vec<_> = all[0].record().headers().collect();
    check_eq!(found, pairs, "headers");
    check_eq!(
        all[0].record().header("z"),
        Some(&b"1"[..]),
        "the first `z`"
    );
    Ok(())
}

/// A record's time is the producer's, to the millisecond, also before 1970; without one it is the batch's.
async fn times(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let base = Timestamp::from_millis(1_700_000_000_123);
    let mut builder = RecordsBuilder::with(&[], Limits::default(), base, 1)?;
    let given = [
        None,
        Some(-1),
        Some(0),
        Some(-62_135_596_800_000),
        Some(253_402_300_799_999),
    ];
    for time in given {
        builder.push(NewRecord {
            time: time.map(Timestamp::from_millis),
            ..NewRecord::default()
        })?;
    }
    lab.append(&topic, 0, builder.build()).await?;
    let all = lab.all(&topic, 0).await?;
    let found: Vec<i64> = all.iter().map(|m| m.record().time().as_millis()).collect();
    let wanted = given.map(|time| time.unwrap_or(base.as_millis()));
    check_eq!(found, wanted, "times");
    Ok(())
}

/// Attributes come back: those of the batch on every record, unless the record has its own.
async fn attributes(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let shared = [
        (Attr::Kind, "order.placed.v1"),
        (Attr::Source, "shop"),
        (Attr::Schema, "urn:schema:7"),
        (Attr::ContentType, "application/json"),
        (Attr::Tracestate, "a=1"),
        (Attr::Correlation, "c-1"),
    ];
    let own = [
        (Attr::Kind, "order.paid.v2"),
        (Attr::Causation, "because"),
        (
            Attr::Traceparent,
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ];
    let mut builder = RecordsBuilder::new(&shared)?;
    builder.push(NewRecord::default())?;
    builder.push(NewRecord {
        attrs: &own,
        ..NewRecord::default()
    })?;
    lab.append(&topic, 0, builder.build()).await?;
    let all = lab.all(&topic, 0).await?;
    check_eq!(all.len(), 2, "messages");
    let (plain, other) = (all[0].record(), all[1].record());
    for (attr, text) in shared {
        check_eq!(plain.attr(attr), Some(text), "{attr:?} of the batch");
    }
    check_eq!(plain.attr(Attr::Causation), None, "an attribute not given");
    for (attr, text) in own {
        check_eq!(other.attr(attr), Some(text), "{attr:?} of the record");
    }
    check_eq!(other.attr(Attr::Source), Some("shop"), "the batch's beside");
    Ok(())
}

/// A message's id is the one given, else the batch's id and the index; both last.
async fn ids(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let now = Timestamp::now();
    let mut builder = RecordsBuilder::with(&[], Limits::default(), now, 0xfeed)?;
    builder.push(NewRecord::default())?;
    builder.push(NewRecord {
        attrs: &[(Attr::Id, "mine")],
        ..NewRecord::default()
    })?;
    lab.append(&topic, 0, builder.build()).await?;
    let all = lab.all(&topic, 0).await?;
    check_eq!(all.len(), 2, "messages");
    let derived = MessageId::Derived {
        batch: 0xfeed,
        index: 0,
    };
    check_eq!(all[0].record().id(), derived, "a derived id");
    check_eq!(all[1].record().id(), MessageId::Given("mine"), "a given id");
    Ok(())
}

/// A batch without records changes nothing: it is refused, or answered with a count of 0.
async fn empty_batch(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["before"]).await?;
    match lab.append(&topic, 0, batch(&[])?).await {
        Ok(sent) => check_eq!(sent.count, 0, "count of an empty batch"),
        Err(error) => {
            check_refused!(Err::<Sent, _>(error), Rejected, "an empty batch");
        }
    }
    lab.put(&topic, 0, &["after"]).await?;
    check_eq!(lab.bodies(&topic, 0).await?, ["before", "after"], "bodies");
    Ok(())
}

fn sized(lab: &Lab, body: usize) -> Check<Records> {
    let limits = Limits {
        body,
        batch: usize::MAX,
        ..Limits::default()
    };
    let body = vec![b'x'; body];
    let mut builder = RecordsBuilder::with(&[], limits, Timestamp::now(), 1)?;
    check!(lab.caps.max_body > 0, "the longest body is 0");
    builder.push(NewRecord {
        body: &body,
        ..NewRecord::default()
    })?;
    Ok(builder.build())
}

/// A body of exactly the limit is taken.
async fn longest_body(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let longest = lab.caps.max_body;
    lab.append(&topic, 0, sized(&lab, longest)?).await?;
    let all = lab.all(&topic, 0).await?;
    check_eq!(all.len(), 1, "messages");
    check_eq!(all[0].record().body().len(), longest, "length of the body");
    Ok(())
}

/// A body over the limit is refused by the engine itself, also when a producer's builder let it pass.
async fn body_over_limit(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let records = sized(&lab, lab.caps.max_body + 1)?;
    let answer = lab.append(&topic, 0, records).await;
    let error = check_refused!(answer, Rejected, "a body over the limit");
    check!(error.is(codes::TOO_LARGE), "its code: {error:?}");
    check_eq!(lab.bodies(&topic, 0).await?.len(), 0, "messages");
    Ok(())
}

/// A batch over the limit is refused whole.
async fn batch_over_limit(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (each, limit) = (lab.caps.max_body, lab.caps.max_batch);
    let limits = Limits {
        batch: usize::MAX,
        body: each,
        ..Limits::default()
    };
    let body = vec![b'x'; each];
    let mut builder = RecordsBuilder::with(&[], limits, Timestamp::now(), 1)?;
    while builder.bytes() <= limit {
        builder.push(NewRecord {
            body: &body,
            ..NewRecord::default()
        })?;
    }
    let answer = lab.append(&topic, 0, builder.build()).await;
    let error = check_refused!(answer, Rejected, "a batch over the limit");
    check!(error.is(codes::TOO_LARGE), "its code: {error:?}");
    check_eq!(lab.bodies(&topic, 0).await?.len(), 0, "messages");
    Ok(())
}

/// An append to a topic that does not exist is `NotFound`, and makes none.
async fn unknown_topic(lab: Lab) -> Check {
    let topic = lab.name("missing")?;
    let answer = lab.append(&topic, 0, batch(&["x"])?).await;
    let error = check_refused!(answer, NotFound, "an append to a missing topic");
    check!(error.is(codes::NO_SUCH_TOPIC), "its code: {error:?}");
    let answer = lab.events.topic(topic).await;
    check_refused!(answer, NotFound, "the topic afterwards");
    Ok(())
}

/// An append to a partition that does not exist is `Rejected`.
async fn unknown_partition(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    for partition in [2, u32::MAX] {
        let answer = lab.append(&topic, partition, batch(&["x"])?).await;
        check_refused!(answer, Rejected, "an append to partition {partition} of 2");
    }
    Ok(())
}

/// Positions of a partition only grow, and a record keeps its own.
async fn positions_grow(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let mut firsts = Vec::new();
    for texts in [&["a"][..], &["b", "c", "d"], &["e"], &["f", "g"]] {
        firsts.push(lab.put(&topic, 0, texts).await?.first);
    }
    check!(
        firsts.is_sorted_by(|a, b| a < b),
        "positions do not grow: {firsts:?}"
    );
    let (first, again) = (lab.all(&topic, 0).await?, lab.all(&topic, 0).await?);
    let positions: Vec<Position> = first.iter().map(|m| m.position()).collect();
    check!(
        positions.is_sorted_by(|a, b| a < b),
        "positions do not grow: {positions:?}"
    );
    let kept: Vec<Position> = again.iter().map(|m| m.position()).collect();
    check_eq!(kept, positions, "positions when read again");
    let answered = [0, 1, 4, 5].map(|i| positions.get(i).copied());
    check_eq!(
        answered.to_vec(),
        firsts.into_iter().map(Some).collect::<Vec<_>>(),
        "positions read of the batches' first records, against the answers"
    );
    Ok(())
}

/// With dense offsets the positions of a partition are 0, 1, 2 ..
async fn dense_offsets(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    for (texts, wanted) in [(&["a", "b", "c"][..], 0), (&["d"], 3), (&["e", "f"], 4)] {
        let sent = lab.put(&topic, 1, texts).await?;
        check_eq!(sent.first, Position::at(wanted), "position of {texts:?}");
    }
    let info = lab.events.topic(topic.clone()).await?;
    check_eq!(info.partitions[1].end, Position::at(6), "end");
    check_eq!(info.partitions[0].end, Position::at(0), "end of the other");
    let all = lab.all(&topic, 1).await?;
    let offsets: Vec<u64> = all.iter().map(|m| m.position().offset()).collect();
    check_eq!(offsets, [0, 1, 2, 3, 4, 5], "offsets");
    Ok(())
}

/// Partitions, and topics, do not mix.
async fn partitions_apart(lab: Lab) -> Check {
    let (topic, other) = (lab.topic(3).await?, lab.topic(3).await?);
    for round in 0..5 {
        for partition in 0..3 {
            let text = format!("{partition} {round}");
            lab.put(&topic, partition, &[&text]).await?;
            lab.put(&other, partition, &["other"]).await?;
        }
    }
    for partition in 0..3 {
        let wanted: Vec<String> = (0..5).map(|round| format!("{partition} {round}")).collect();
        let found = lab.bodies(&topic, partition).await?;
        check_eq!(found, wanted, "bodies of partition {partition}");
    }
    Ok(())
}

/// Of concurrent producers nothing is lost or doubled; each one's appends keep their order.
async fn concurrent(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let mut producers = tokio::task::JoinSet::new();
    for producer in 0..8 {
        let (lab, topic) = (lab.clone(), topic.clone());
        producers.spawn(async move {
            let mut acked = Vec::new();
            for i in 0..25 {
                let text = format!("{producer}-{i:02}");
                acked.push((lab.put(&topic, 0, &[&text]).await?.first, text));
            }
            Check::Ok(acked)
        });
    }
    let mut acked = Vec::new();
    while let Some(ended) = producers.join_next().await {
        acked.extend(ended.map_err(crate::fault::Fault::new)??);
    }
    let all = lab.all(&topic, 0).await?;
    let mut found: Vec<_> = all.iter().map(|m| (m.position(), body(m))).collect();
    acked.sort();
    check_eq!(found, acked, "what is stored against what was acknowledged");
    found.sort_by(|a, b| (&a.1[..1], a.0).cmp(&(&b.1[..1], b.0)));
    check!(
        found.is_sorted_by_key(|(_, text)| text.clone()),
        "a producer's appends are out of order: {found:?}"
    );
    Ok(())
}

/// Batches of concurrent producers do not interleave.
async fn concurrent_batches(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let mut producers = tokio::task::JoinSet::new();
    for producer in 0..6 {
        let (lab, topic) = (lab.clone(), topic.clone());
        producers.spawn(async move {
            for round in 0..5 {
                let texts: Vec<String> =
                    (0..20).map(|i| format!("{producer}.{round}.{i}")).collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                lab.put(&topic, 0, &texts).await?;
            }
            Check::Ok(())
        });
    }
    while let Some(ended) = producers.join_next().await {
        ended.map_err(crate::fault::Fault::new)??;
    }
    let bodies = lab.bodies(&topic, 0).await?;
    check_eq!(bodies.len(), 600, "messages");
    for batch in bodies.chunks(20) {
        let name = batch[0].strip_suffix('0').unwrap_or_default();
        let wanted: Vec<String> = (0..20).map(|i| format!("{name}{i}")).collect();
        check_eq!(batch, &wanted[..], "a batch in the log");
    }
    Ok(())
}

/// What was acknowledged is there, at its position, after the engine was closed and opened.
async fn survives_reopen(mut lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    for text in ["a", "b", "c"] {
        lab.put(&topic, 0, &[text, text]).await?;
    }
    let before = lab.all(&topic, 0).await?;
    lab.reopen().await?;
    let after = lab.all(&topic, 0).await?;
    let flat = |all: &[strait_core::Message]| -> Vec<_> {
        all.iter().map(|m| (m.position(), body(m))).collect()
    };
    check_eq!(flat(&after), flat(&before), "messages after the reopen");
    let sent = lab.put(&topic, 0, &["d"]).await?;
    let last = before.last().map(|m| m.position());
    check!(Some(sent.first) > last, "position {} again", sent.first);
    Ok(())
}

/// What was acknowledged is there after the process died.
async fn survives_kill(mut lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let mut acked = Vec::new();
    for text in ["a", "b", "c"] {
        acked.push((lab.put(&topic, 0, &[text]).await?.first, text.to_owned()));
    }
    lab.kill().await?;
    let all = lab.all(&topic, 0).await?;
    let found: Vec<_> = all.iter().map(|m| (m.position(), body(m))).collect();
    check_eq!(found, acked, "messages after the kill");
    Ok(())
}

/// A batch is stored all or none, also when the process dies while it is written.
async fn batches_whole_after_kill(mut lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["first"]).await?;
    let texts: Vec<String> = (0..500).map(|i| format!("{i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut appending = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let append = crate::lab::plain(&topic, 0, batch(&texts)?);
        appending.spawn(lab.events.append(append));
    }
    tokio::task::yield_now().await;
    lab.kill().await?;
    // An answer may be of the one that was killed, and come after: here only whole batches count.
    while let Some(answer) = appending.join_next().await {
        drop(answer.map_err(crate::fault::Fault::new)?);
    }
    let bodies = lab.bodies(&topic, 0).await?;
    let (batches, rest) = bodies[1..].as_chunks::<500>();
    check_eq!(rest.len(), 0, "messages of a batch that is not whole");
    for batch in batches {
        check!(batch.iter().eq(&texts), "a batch in the log: {batch:?}");
    }
    Ok(())
}
