//! The reverse cases: what the capabilities refuse is answered with `Unsupported`, never with silence.

use std::time::Duration;

use strait_core::events::{
    AfterDead, Append, Compaction, DeadEdit, DeadFilter, EditDead, Expected, GroupChange,
    GroupSpec, Order, Override, ReadKey, Redrive, Retention, SetAside, Start, TopicSpec,
};
use strait_core::{Claim, Kind, Timestamp, Unit, Verdict};

use super::{Case, Need, case};
use crate::fault::Check;
use crate::lab::{Lab, batch, not_applied, outgoing, plain, retry};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("refused_groups", groups).where_refused(Need::Groups),
        case("refused_whereabouts", whereabouts).where_refused(Need::Whereabouts),
        case("refused_stored_bytes", stored_bytes).where_refused(Need::StoredBytes),
        case("refused_key_order", key_order).where_refused(Need::KeyOrder),
        case("refused_by_time", by_time).where_refused(Need::ByTime),
        case("refused_by_key", by_key).where_refused(Need::ByKey),
        case("refused_expected_position", position).where_refused(Need::ExpectedPosition),
        case("refused_key_versions", key_versions).where_refused(Need::ExpectedKeyVersion),
        case("refused_dedupe", dedupe).where_refused(Need::Dedupe),
        case("refused_atomic_effects", effects)
            .needs(Need::Groups)
            .where_refused(Need::AtomicEffects),
        case("refused_ledger", ledger).where_refused(Need::Ledger),
        case("refused_under", under)
            .needs(Need::Groups)
            .where_refused(Need::Fencing),
        case("refused_lease_extension", extension)
            .needs(Need::Groups)
            .where_refused(Need::LeaseExtension),
        case("refused_retry", retrying)
            .needs(Need::Groups)
            .where_refused(Need::Parking),
        case("refused_dead_letters", dead_letters)
            .needs(Need::Groups)
            .where_refused(Need::DeadLetters),
        case("refused_redrive", redrive)
            .where_refused(Need::Redrive)
            .needs(Need::DeadLetters)
            .needs(Need::Groups),
        case("refused_edit_dead", edit_dead)
            .where_refused(Need::EditDead)
            .needs(Need::DeadLetters)
            .needs(Need::Groups),
        case("refused_set_aside", set_aside)
            .where_refused(Need::SetAside)
            .needs(Need::Groups),
        case("refused_hold_key", hold_key).where_refused(Need::HoldKey),
        case("refused_alter_group", alter_group)
            .needs(Need::Groups)
            .where_refused(Need::AlterGroup),
        case("refused_retention_age", retention_age).where_refused(Need::RetentionAge),
        case("refused_retention_bytes", retention_bytes).where_refused(Need::RetentionBytes),
        case("refused_compaction", compaction).where_refused(Need::Compaction),
    ]
}

/// Joining a group, and asking for one.
async fn groups(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let spec = lab.spec(&topic)?;
    let joined = lab.events.join(spec.clone()).await;
    check_refused!(joined, Unsupported, "a group");
    let asked = lab.events.group(spec.group, topic).await;
    check_refused!(asked, Unsupported, "the state of a group");
    check_refused!(lab.events.groups().await, Unsupported, "the groups");
    Ok(())
}

/// Asking where a message is.
async fn whereabouts(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let at = lab.put(&topic, 0, &["a"]).await?.first;
    let answer = lab.events.whereabouts(topic, 0, at).await;
    check_refused!(answer, Unsupported, "where a message is");
    Ok(())
}

/// The bytes of a partition are not made up: they are 0, and its positions are told all the same.
async fn stored_bytes(lab: Lab) -> Check {
    let topic = lab.topic(2).await?;
    let sent = lab.put(&topic, 0, &["hello", "world"]).await?;
    let parts = lab.events.topic(topic).await?.partitions;
    check_eq!(parts.len(), 2, "partitions");
    check_eq!(parts[0].start, sent.first, "start");
    check!(parts[0].end > sent.first, "end: {}", parts[0].end);
    check_eq!((parts[0].bytes, parts[1].bytes), (0, 0), "bytes");
    check_eq!(parts[1].start, parts[1].end, "an empty partition");
    Ok(())
}

/// Joining with order by key.
async fn key_order(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let spec = GroupSpec {
        order: Order::Key,
        ..lab.spec(&topic)?
    };
    check_refused!(lab.events.join(spec).await, Unsupported, "order by key");
    Ok(())
}

/// Locating a time.
async fn by_time(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let start = Start::Time(Timestamp::from_millis(0));
    let answer = lab.events.locate(topic, 0, start).await;
    check_refused!(answer, Unsupported, "locating a time");
    Ok(())
}

/// Reading a key.
async fn by_key(lab: Lab) -> Check {
    let read = ReadKey {
        topic: lab.topic(1).await?,
        key: b"ada".to_vec(),
        from: 1,
        limit: 10,
    };
    check_refused!(
        lab.events.read_key(read).await,
        Unsupported,
        "reading a key"
    );
    Ok(())
}

async fn expects(lab: &Lab, expected: Expected) -> Check {
    let topic = lab.topic(1).await?;
    let append = Append {
        expected,
        ..plain(&topic, 0, batch(&["ada=a"])?)
    };
    let answer = lab.events.append(append).await;
    check_refused!(answer, Unsupported, "an append that expects something");
    check_eq!(lab.bodies(&topic, 0).await?.len(), 0, "messages");
    Ok(())
}

/// Expecting a position.
async fn position(lab: Lab) -> Check {
    expects(&lab, Expected::Position(Default::default())).await
}

/// Expecting a key's version, and declaring a topic that keeps them.
async fn key_versions(lab: Lab) -> Check {
    expects(&lab, Expected::KeyVersion(0)).await?;
    let mut spec = TopicSpec::new(lab.name("t")?);
    spec.key_versions = Some(true);
    check_refused!(lab.events.declare(spec).await, Unsupported, "key versions");
    Ok(())
}

/// Asking for known ids.
async fn dedupe(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let append = Append {
        dedupe: true,
        ..plain(&topic, 0, batch(&["a"])?)
    };
    check_refused!(lab.events.append(append).await, Unsupported, "known ids");
    check_eq!(lab.bodies(&topic, 0).await?.len(), 0, "messages");
    Ok(())
}

async fn unsupported(lab: &Lab, unit: Unit) -> Check {
    let (_, error) = not_applied(lab.commit(unit).await?)?;
    check_eq!(error.kind(), Kind::Unsupported, "kind of the error");
    Ok(())
}

/// Settling and sending in one unit.
async fn effects(lab: Lab) -> Check {
    let (topic, sink) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["a"]).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let mut unit = Unit::settle(member.delivery().await?.receipt, Verdict::Done);
    unit.send.push(outgoing(&sink, "effect")?);
    unsupported(&lab, unit).await?;
    check_eq!(lab.bodies(&sink, 0).await?.len(), 0, "effects");
    Ok(())
}

/// Claiming a key.
async fn ledger(lab: Lab) -> Check {
    let claim = Claim {
        scope: "s".to_owned(),
        key: "k".to_owned(),
        holder: "h".to_owned(),
        lease: Duration::from_secs(1),
        wait: Duration::ZERO,
        at_most_once: false,
    };
    check_refused!(lab.engine.claim(claim).await, Unsupported, "a claim");
    Ok(())
}

/// A unit under a receipt.
async fn under(lab: Lab) -> Check {
    let (topic, sink) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["a"]).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    let mut unit = Unit::send(outgoing(&sink, "step")?);
    unit.under = Some(delivery.receipt.fence());
    unsupported(&lab, unit).await?;
    check_eq!(lab.bodies(&sink, 0).await?.len(), 0, "effects");
    Ok(())
}

/// Extending a lease.
async fn extension(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let fences = vec![member.delivery().await?.receipt.fence()];
    let control = &member.consumer.control;
    let answer = control.extend(fences, Duration::from_secs(1)).await;
    check_refused!(answer, Unsupported, "an extension");
    Ok(())
}

async fn verdict(lab: &Lab, verdict: Verdict) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    let unit = Unit::settle(member.delivery().await?.receipt, verdict);
    unsupported(lab, unit).await
}

/// A retry with a delay.
async fn retrying(lab: Lab) -> Check {
    verdict(&lab, retry(Duration::from_secs(1))).await
}

/// Giving up a message.
async fn dead_letters(lab: Lab) -> Check {
    verdict(&lab, Verdict::Dead("no".into())).await
}

/// A group with one dead letter.
async fn with_a_dead_one(lab: &Lab) -> Check<GroupSpec> {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let receipt = member.delivery().await?.receipt;
    lab.settle(receipt, Verdict::Dead("no".into())).await?;
    Ok(spec)
}

/// Bringing dead letters back.
async fn redrive(lab: Lab) -> Check {
    let GroupSpec { group, topic, .. } = with_a_dead_one(&lab).await?;
    let asked = Redrive::new(group, topic, DeadFilter::default());
    check_refused!(lab.events.redrive(asked).await, Unsupported, "a redrive");
    Ok(())
}

/// Editing a dead letter.
async fn edit_dead(lab: Lab) -> Check {
    let spec = with_a_dead_one(&lab).await?;
    let number = lab.dead(&spec).await?[0].number;
    let asked = EditDead {
        group: spec.group,
        topic: spec.topic,
        number,
        edit: DeadEdit::Drop,
        dry_run: false,
    };
    check_refused!(lab.events.edit_dead(asked).await, Unsupported, "an edit");
    Ok(())
}

/// Putting a message aside.
async fn set_aside(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let position = lab.put(&topic, 0, &["a"]).await?.first;
    let (spec, _member) = lab.consume(&topic).await?;
    let asked = SetAside {
        group: spec.group,
        topic,
        partition: 0,
        position,
        reason: "no".into(),
        force: false,
        dry_run: false,
    };
    check_refused!(
        lab.events.set_aside(asked).await,
        Unsupported,
        "a message set aside"
    );
    Ok(())
}

/// Joining a group whose dead letters hold their keys.
async fn hold_key(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let spec = GroupSpec {
        order: Order::Key,
        after_dead: AfterDead::HoldKey,
        ..lab.spec(&topic)?
    };
    check_refused!(lab.events.join(spec).await, Unsupported, "holding keys");
    Ok(())
}

/// Pausing a group.
async fn alter_group(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (spec, _member) = lab.consume(&topic).await?;
    let change = GroupChange {
        pause: Override::Set("maintenance".into()),
        ..GroupChange::default()
    };
    let answer = lab.events.alter_group(spec.group, topic, change).await;
    check_refused!(answer, Unsupported, "pausing a group");
    Ok(())
}

async fn retention(lab: &Lab, retention: Retention) -> Check {
    let mut spec = TopicSpec::new(lab.name("t")?);
    spec.retention = Some(retention);
    check_refused!(lab.events.declare(spec).await, Unsupported, "{retention:?}");
    Ok(())
}

/// Declaring a retention by age.
async fn retention_age(lab: Lab) -> Check {
    let age = Some(Duration::from_secs(60));
    retention(&lab, Retention { age, bytes: None }).await
}

/// Declaring a topic that is compacted.
async fn compaction(lab: Lab) -> Check {
    let mut spec = TopicSpec::new(lab.name("t")?);
    spec.compaction = Some(Compaction::default());
    check_refused!(lab.events.declare(spec).await, Unsupported, "compaction");
    Ok(())
}

/// Declaring a retention by size.
async fn retention_bytes(lab: Lab) -> Check {
    let bytes = Some(1 << 30);
    retention(&lab, Retention { age: None, bytes }).await
}
