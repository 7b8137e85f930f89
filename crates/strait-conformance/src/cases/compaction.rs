//! Compaction: of each key the newest record stays, where it was.

use std::collections::BTreeMap;
use std::time::Duration;

use strait_core::events::{Compaction, TopicChange, TopicSpec};
use strait_core::{Message, Name, Unit, Verdict, codes};

use super::{Case, Need, case};
use crate::fault::Check;
use crate::lab::{Lab, batch, body, key, not_applied, outgoing};
use crate::member::Seen;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("compaction_is_told", told).needs(Need::Compaction),
        case("compaction_declared_otherwise", declared_otherwise).needs(Need::Compaction),
        case("compaction_wants_keys", wants_keys).needs(Need::Compaction),
        case("compaction_wants_keys_in_a_unit", wants_keys_in_a_unit).needs(Need::Compaction),
        case("compaction_or_versions", or_versions)
            .needs(Need::Compaction)
            .needs(Need::ExpectedKeyVersion),
        case("compaction_keeps_the_newest", keeps_the_newest).needs(Need::Compaction),
        case("compaction_keeps_what_is_young", keeps_what_is_young).needs(Need::Compaction),
        case("compaction_removes_keys", removes_keys).needs(Need::Compaction),
        case("compaction_leaves_no_lag", leaves_no_lag)
            .needs(Need::Groups)
            .needs(Need::Compaction),
        case("compaction_begins_and_ends", begins_and_ends).needs(Need::Compaction),
        case("compaction_survives_reopen", survives_reopen)
            .needs(Need::Compaction)
            .reopens(),
    ]
}

const COMPACTION: Compaction = Compaction {
    min_lag: Duration::ZERO,
    tombstones: Duration::from_millis(1),
};

fn compacted(spec: TopicSpec) -> TopicSpec {
    TopicSpec {
        compaction: Some(COMPACTION),
        ..spec.partitions(1)
    }
}

/// So many batches of the keys a and b, with long bodies: enough to be cleaned where that is done by the segment.
async fn fill(lab: &Lab, topic: &Name, rounds: usize) -> Check {
    let long = "x".repeat(32 << 10);
    for round in 0..rounds {
        let (a, b) = (format!("a={round} {long}"), format!("b={round} {long}"));
        lab.put(topic, 0, &[&a, &b]).await?;
    }
    Ok(())
}

/// The newest record of each key, as a reader from the beginning finds it.
async fn newest(lab: &Lab, topic: &Name) -> Check<BTreeMap<String, Message>> {
    let all = lab.all(topic, 0).await?;
    Ok(all.into_iter().map(|m| (key(&m), m)).collect())
}

/// A topic that is not compacted says so, and one that is says how.
async fn told(lab: Lab) -> Check {
    let plain = lab.topic(1).await?;
    check_eq!(
        lab.events.topic(plain).await?.compaction,
        None,
        "compaction"
    );
    let topic = lab.topic_with(compacted).await?;
    let info = lab.events.topic(topic).await?;
    check_eq!(info.compaction, Some(COMPACTION), "compaction");
    Ok(())
}

/// Declaring it again without a word is fine, with another compaction a conflict.
async fn declared_otherwise(lab: Lab) -> Check {
    let topic = lab.topic_with(compacted).await?;
    let any = lab.events.declare(TopicSpec::new(topic.clone())).await?;
    check_eq!(any.compaction, Some(COMPACTION), "compaction");
    let other = TopicSpec {
        compaction: Some(Compaction::default()),
        ..TopicSpec::new(topic)
    };
    let error = check_refused!(lab.events.declare(other).await, Conflict, "another one");
    check!(error.is(codes::TOPIC_EXISTS), "the code: {error:?}");
    Ok(())
}

/// A batch with a message that has no key is refused as a whole.
async fn wants_keys(lab: Lab) -> Check {
    let topic = lab.topic_with(compacted).await?;
    let mixed = lab.append(&topic, 0, batch(&["a=1", "no key"])?).await;
    let error = check_refused!(mixed, Rejected, "a message without a key");
    check!(error.is(codes::NO_KEY), "the code: {error:?}");
    check_eq!(lab.bodies(&topic, 0).await?.len(), 0, "messages");
    lab.put(&topic, 0, &["a=1"]).await?;
    Ok(())
}

/// Nor does a unit bring one in.
async fn wants_keys_in_a_unit(lab: Lab) -> Check {
    let topic = lab.topic_with(compacted).await?;
    let unit = Unit::send(outgoing(&topic, "no key")?);
    let (_, error) = not_applied(lab.commit(unit).await?)?;
    check!(error.is(codes::NO_KEY), "the code: {error:?}");
    check_eq!(lab.bodies(&topic, 0).await?.len(), 0, "messages");
    Ok(())
}

/// Versions of keys cannot be kept at the same time.
async fn or_versions(lab: Lab) -> Check {
    let both = TopicSpec {
        key_versions: Some(true),
        ..compacted(TopicSpec::new(lab.name("t")?))
    };
    check_refused!(lab.events.declare(both).await, Rejected, "both");
    let versions = lab
        .topic_with(|spec| TopicSpec {
            key_versions: Some(true),
            ..spec
        })
        .await?;
    let change = TopicChange {
        compaction: Some(Some(COMPACTION)),
        ..TopicChange::default()
    };
    check_refused!(lab.events.alter(versions, change).await, Rejected, "both");
    Ok(())
}

/// Whatever is removed, the newest record of each key is there, and every record that is left is where it was.
async fn keeps_the_newest(lab: Lab) -> Check {
    let topic = lab.topic_with(compacted).await?;
    lab.put(&topic, 0, &["once=1"]).await?;
    fill(&lab, &topic, 60).await?;
    for _ in 0..5 {
        let newest = newest(&lab, &topic).await?;
        check_eq!(newest.len(), 3, "keys");
        let wanted = [("once", 0, "1"), ("a", 119, "59 "), ("b", 120, "59 ")];
        for (key, offset, text) in wanted {
            let found = newest.get(key).map(|m| (m.position().offset(), body(m)));
            let is_it = found
                .as_ref()
                .is_some_and(|(at, body)| *at == offset && body.starts_with(text));
            check!(is_it, "the newest of {key}");
        }
        let all = lab.all(&topic, 0).await?;
        for message in all.iter().filter(|m| key(m) != "once") {
            let round = (message.position().offset() - 1) / 2;
            let starts = body(message).starts_with(&format!("{round} "));
            check!(starts, "another record at {}", message.position());
        }
        lab.pass(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Nothing is removed before its lag is over.
async fn keeps_what_is_young(lab: Lab) -> Check {
    let compaction = Some(Compaction {
        min_lag: Duration::from_secs(3600),
        ..COMPACTION
    });
    let topic = lab
        .topic_with(|spec| TopicSpec {
            compaction,
            ..spec.partitions(1)
        })
        .await?;
    fill(&lab, &topic, 60).await?;
    lab.pass(Duration::from_millis(300)).await;
    check_eq!(lab.all(&topic, 0).await?.len(), 120, "messages");
    Ok(())
}

/// A record with an empty body takes its key away: no older one of it comes back.
async fn removes_keys(lab: Lab) -> Check {
    let topic = lab.topic_with(compacted).await?;
    lab.put(&topic, 0, &["gone=1", "gone=2"]).await?;
    lab.put(&topic, 0, &["gone="]).await?;
    fill(&lab, &topic, 60).await?;
    for _ in 0..5 {
        if let Some(message) = newest(&lab, &topic).await?.get("gone") {
            check_eq!(body(message), "", "the newest of a key that was removed");
        }
        lab.pass(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A group that goes over what was removed gets what is left in order, and ends without a lag.
async fn leaves_no_lag(lab: Lab) -> Check {
    let topic = lab.topic_with(compacted).await?;
    fill(&lab, &topic, 60).await?;
    lab.pass(Duration::from_millis(200)).await;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut last = None;
    loop {
        let info = lab.group(&spec).await?;
        if info.lag() == 0 {
            check_eq!(info.shards[0].committed.offset(), 120, "committed");
            break;
        }
        if let Some(Seen::Delivery(delivery)) = member.within(Duration::from_millis(50)).await? {
            let at = delivery.message.position();
            check!(last < Some(at), "{at} comes after {last:?}");
            last = Some(at);
            lab.settle(delivery.receipt, Verdict::Done).await?;
        }
    }
    check_eq!(last.map(|at| at.offset()), Some(119), "the last one");
    Ok(())
}

/// It can be given to a topic, and taken from it.
async fn begins_and_ends(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let change = |compaction| TopicChange {
        compaction: Some(compaction),
        ..TopicChange::default()
    };
    let info = lab.events.alter(topic.clone(), change(Some(COMPACTION)));
    check_eq!(info.await?.compaction, Some(COMPACTION), "compaction");
    let error = lab.append(&topic, 0, batch(&["no key"])?).await;
    check_refused!(error, Rejected, "a message without a key");
    let info = lab.events.alter(topic.clone(), change(None)).await?;
    check_eq!(info.compaction, None, "compaction");
    lab.put(&topic, 0, &["no key"]).await?;
    let other = TopicChange {
        partitions: Some(2),
        ..TopicChange::default()
    };
    let info = lab.events.alter(topic, other).await?;
    check_eq!(info.compaction, None, "compaction after another change");
    Ok(())
}

/// What is left after it is there after a reopening, at its positions.
async fn survives_reopen(mut lab: Lab) -> Check {
    let topic = lab.topic_with(compacted).await?;
    fill(&lab, &topic, 60).await?;
    lab.pass(Duration::from_millis(200)).await;
    lab.reopen().await?;
    let found = newest(&lab, &topic).await?;
    let places: Vec<u64> = found.values().map(|m| m.position().offset()).collect();
    check_eq!(places, [118, 119], "the newest records");
    let sent = lab.put(&topic, 0, &["a=next"]).await?;
    check_eq!(sent.first.offset(), 120, "the next position");
    Ok(())
}
