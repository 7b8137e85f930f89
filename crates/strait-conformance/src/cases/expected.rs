//! Appends that expect a position or a key's version.

use strait_core::events::{Append, Expected, TopicSpec};
use strait_core::{Error, Kind, Name, Outgoing, Position, Sent, Unit, Verdict, codes};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Lab, batch, not_applied, plain};

pub(super) fn cases() -> Vec<Case> {
    let position = [
        case("expected_position", position),
        case("expected_position_concurrent", position_concurrent),
        case("expected_position_in_a_unit", position_in_a_unit).needs(Need::AtomicEffects),
    ];
    let version = [
        case("expected_key_version", key_version),
        case("expected_key_version_of_a_batch", key_version_of_a_batch),
        case("expected_key_version_concurrent", key_version_concurrent),
        case("expected_key_version_needs_versions", needs_versions),
        case("expected_key_version_of_mixed_keys", mixed_keys),
        case("expected_key_version_survives_reopen", survives_reopen).reopens(),
    ];
    let position = position.map(|case| case.needs(Need::ExpectedPosition));
    let version = version.map(|case| case.needs(Need::ExpectedKeyVersion));
    position.into_iter().chain(version).collect()
}

async fn append_if(
    lab: &Lab,
    topic: &Name,
    texts: &[&str],
    expected: Expected,
) -> Check<Result<Sent, Error>> {
    let append = Append {
        expected,
        ..plain(topic, 0, batch(texts)?)
    };
    Ok(lab.events.append(append).await)
}

fn wrong_version(answer: Result<Sent, Error>, found: impl std::fmt::Display) -> Check {
    let error = check_refused!(answer, Conflict, "an append that expects something else");
    check!(error.is(codes::WRONG_VERSION), "its code: {error:?}");
    let found = found.to_string();
    let named = error.context().iter().any(|(_, value)| *value == found)
        || error.message().contains(&found);
    check!(named, "what was found, {found}, is not named: {error:?}");
    Ok(())
}

/// An append at the expected end happens; at another position it is a conflict that names the end.
async fn position(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let end = |lab: Lab, topic: Name| async move {
        Check::Ok(lab.events.topic(topic).await?.partitions[0].end)
    };
    let empty = end(lab.clone(), topic.clone()).await?;
    append_if(&lab, &topic, &["a", "b"], Expected::Position(empty)).await??;
    let two = end(lab.clone(), topic.clone()).await?;
    let late = append_if(&lab, &topic, &["x"], Expected::Position(empty)).await?;
    wrong_version(late, two)?;
    let (high, low) = two.parts();
    let ahead = Expected::Position(Position::of_parts(high, low + 5));
    wrong_version(append_if(&lab, &topic, &["x"], ahead).await?, two)?;
    append_if(&lab, &topic, &["c"], Expected::Position(two)).await??;
    check_eq!(lab.bodies(&topic, 0).await?, ["a", "b", "c"], "bodies");
    Ok(())
}

/// Counts the winners of concurrent appends; every loser must name a wrong version.
async fn race(lab: &Lab, topic: &Name, expected: Expected) -> Check<usize> {
    let mut racing = tokio::task::JoinSet::new();
    for i in 0..8 {
        let append = Append {
            expected: expected.clone(),
            ..plain(topic, 0, batch(&[&format!("ada={i}")])?)
        };
        racing.spawn(lab.events.append(append));
    }
    let mut winners = 0;
    while let Some(answer) = racing.join_next().await {
        match answer.map_err(Fault::new)? {
            Ok(_) => winners += 1,
            Err(error) => check!(error.is(codes::WRONG_VERSION), "a loser: {error:?}"),
        }
    }
    Ok(winners)
}

/// Of concurrent writers that expect one position exactly one wins.
async fn position_concurrent(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    for round in 1..=5 {
        let end = lab.events.topic(topic.clone()).await?.partitions[0].end;
        let winners = race(&lab, &topic, Expected::Position(end)).await?;
        check_eq!(winners, 1, "winners of round {round}");
        check_eq!(lab.bodies(&topic, 0).await?.len(), round, "messages");
    }
    Ok(())
}

/// In a unit an expectation that does not hold leaves all of the unit undone, and the unit comes back.
async fn position_in_a_unit(lab: Lab) -> Check {
    let (topic, sink) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["a"]).await?;
    let start = lab.events.topic(sink.clone()).await?.partitions[0].end;
    lab.put(&sink, 0, &["other"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    let mut unit = Unit::settle(delivery.receipt, Verdict::Done);
    unit.send.push(Outgoing::Append {
        topic: sink.clone(),
        partition: 0,
        records: batch(&["effect"])?,
        expected: Expected::Position(start),
        dedupe: false,
    });
    let (mut unit, error) = not_applied(lab.commit(unit).await?)?;
    check!(error.is(codes::WRONG_VERSION), "its code: {error:?}");
    check_eq!(lab.bodies(&sink, 0).await?, ["other"], "effects");
    check_eq!(lab.group(&spec).await?.lag(), 1, "lag");
    unit.send.clear();
    lab.apply(unit).await?;
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag after the second try");
    Ok(())
}

async fn versioned(lab: &Lab) -> Check<Name> {
    lab.topic_with(|spec| TopicSpec {
        key_versions: Some(true),
        ..spec.partitions(1)
    })
    .await
}

/// A key's version is the number of its records; an append that expects another is a conflict that names it.
async fn key_version(lab: Lab) -> Check {
    let topic = versioned(&lab).await?;
    append_if(&lab, &topic, &["ada=1"], Expected::KeyVersion(0)).await??;
    append_if(&lab, &topic, &["bob=1"], Expected::KeyVersion(0)).await??;
    append_if(&lab, &topic, &["ada=2"], Expected::KeyVersion(1)).await??;
    append_if(&lab, &topic, &["ada=3"], Expected::Any).await??;
    for wrong in [0, 2, 4] {
        let answer = append_if(&lab, &topic, &["ada=x"], Expected::KeyVersion(wrong)).await?;
        wrong_version(answer, 3)?;
    }
    append_if(&lab, &topic, &["ada=4"], Expected::KeyVersion(3)).await??;
    let bodies = lab.bodies(&topic, 0).await?;
    check_eq!(bodies, ["1", "1", "2", "3", "4"], "bodies");
    Ok(())
}

/// Every record of a batch counts.
async fn key_version_of_a_batch(lab: Lab) -> Check {
    let topic = versioned(&lab).await?;
    let three = ["ada=1", "ada=2", "ada=3"];
    append_if(&lab, &topic, &three, Expected::KeyVersion(0)).await??;
    let answer = append_if(&lab, &topic, &three, Expected::KeyVersion(1)).await?;
    wrong_version(answer, 3)?;
    append_if(&lab, &topic, &["ada=4"], Expected::KeyVersion(3)).await??;
    Ok(())
}

/// Of concurrent writers that expect one version exactly one wins, for each key and version.
async fn key_version_concurrent(lab: Lab) -> Check {
    let topic = versioned(&lab).await?;
    for version in 0..5 {
        let winners = race(&lab, &topic, Expected::KeyVersion(version)).await?;
        check_eq!(winners, 1, "winners of version {version}");
        lab.put(&topic, 0, &["bob=x"]).await?;
    }
    check_eq!(lab.bodies(&topic, 0).await?.len(), 10, "messages");
    Ok(())
}

/// On a topic that stores no versions the expectation is refused, not ignored.
async fn needs_versions(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let answer = append_if(&lab, &topic, &["ada=1"], Expected::KeyVersion(0)).await?;
    check_refused!(
        answer,
        Rejected | Conflict | Unsupported | Config,
        "a version expected where none are kept"
    );
    check_eq!(lab.bodies(&topic, 0).await?.len(), 0, "messages");
    Ok(())
}

/// All records of a batch that expects a version must have the key.
async fn mixed_keys(lab: Lab) -> Check {
    let topic = versioned(&lab).await?;
    for texts in [&["ada=1", "bob=1"][..], &["ada=1", "nobody"], &["nobody"]] {
        let answer = append_if(&lab, &topic, texts, Expected::KeyVersion(0)).await?;
        let error = check_refused!(answer, Rejected, "a version for {texts:?}");
        check_eq!(error.kind(), Kind::Rejected, "its kind");
    }
    check_eq!(lab.bodies(&topic, 0).await?.len(), 0, "messages");
    Ok(())
}

/// Versions survive a reopen.
async fn survives_reopen(mut lab: Lab) -> Check {
    let topic = versioned(&lab).await?;
    append_if(&lab, &topic, &["ada=1", "ada=2"], Expected::KeyVersion(0)).await??;
    lab.reopen().await?;
    let answer = append_if(&lab, &topic, &["ada=x"], Expected::KeyVersion(0)).await?;
    wrong_version(answer, 2)?;
    append_if(&lab, &topic, &["ada=3"], Expected::KeyVersion(2)).await??;
    Ok(())
}
