//! Units: all of it or nothing of it.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use strait_core::{Kind, Outcome, Outgoing, Unit, Verdict, codes};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Lab, applied, batch, must_be_fenced, not_applied, outgoing};

pub(super) fn cases() -> Vec<Case> {
    let atomic = [
        case("unit_settles_and_sends", settles_and_sends),
        case("unit_sends_in_order", sends_in_order),
        case("unit_refused_changes_nothing", refused_changes_nothing),
        case("unit_refused_for_its_partition", refused_for_its_partition),
        case("unit_over_two_groups", over_two_groups),
        case("unit_survives_kill", survives_kill).kills(),
    ];
    let plain = [
        case("unit_sends_alone", sends_alone),
        case("unit_empty", empty),
        case("units_in_order", in_order),
        case("units_by_the_hundred", by_the_hundred),
        case("units_are_independent", are_independent).needs(Need::Fencing),
        case("unit_answer_is_refused", answer_is_refused),
        case("unit_dropped_runs_to_its_end", dropped_runs_to_its_end),
    ];
    let atomic = atomic.map(|case| case.needs(Need::AtomicEffects));
    atomic.into_iter().chain(plain).collect()
}

/// A settle and an effect happen together; the answer names the effect's position.
async fn settles_and_sends(lab: Lab) -> Check {
    let (topic, sink) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut unit = Unit::settle(member.delivery().await?.receipt, Verdict::Done);
    unit.send.push(outgoing(&sink, "effect")?);
    let sent = lab.apply(unit).await?;
    check_eq!(sent.len(), 1, "answers for one effect");
    check_eq!(
        (sent[0].partition, sent[0].count),
        (0, 1),
        "its partition and count"
    );
    let all = lab.all(&sink, 0).await?;
    check_eq!(all.len(), 1, "effects");
    check_eq!(all[0].position(), sent[0].first, "position of the effect");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// Several effects, to several topics and partitions, are answered in their order and stand in it.
async fn sends_in_order(lab: Lab) -> Check {
    let (one, two) = (lab.topic(2).await?, lab.topic(1).await?);
    let mut unit = Unit::default();
    let effects = [
        (&one, 0, "a"),
        (&two, 0, "x"),
        (&one, 1, "b"),
        (&one, 0, "c"),
        (&two, 0, "y"),
    ];
    for (topic, partition, text) in effects {
        unit.send.push(Outgoing::Append {
            topic: topic.clone(),
            partition,
            records: batch(&[text, text])?,
            expected: Default::default(),
            dedupe: false,
        });
    }
    let sent = lab.apply(unit).await?;
    let found: Vec<(u32, u32)> = sent.iter().map(|s| (s.partition, s.count)).collect();
    check_eq!(found, [(0, 2), (0, 2), (1, 2), (0, 2), (0, 2)], "answers");
    check!(
        sent[0].first < sent[3].first,
        "positions of one partition: {sent:?}"
    );
    check_eq!(
        lab.bodies(&one, 0).await?,
        ["a", "a", "c", "c"],
        "topic one, partition 0"
    );
    check_eq!(
        lab.bodies(&one, 1).await?,
        ["b", "b"],
        "topic one, partition 1"
    );
    check_eq!(
        lab.bodies(&two, 0).await?,
        ["x", "x", "y", "y"],
        "topic two"
    );
    Ok(())
}

/// One effect that cannot be leaves all of the unit undone; the unit comes back whole and can be tried again.
async fn refused_changes_nothing(lab: Lab) -> Check {
    let (topic, sink) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut unit = Unit::settle(member.delivery().await?.receipt, Verdict::Done);
    unit.send.push(outgoing(&sink, "first")?);
    unit.send.push(outgoing(&lab.name("missing")?, "second")?);
    let (mut unit, error) = not_applied(lab.commit(unit).await?)?;
    check_eq!(error.kind(), Kind::NotFound, "kind of the error");
    check!(error.is(codes::NO_SUCH_TOPIC), "its code: {error:?}");
    check_eq!(
        (unit.settle.len(), unit.send.len()),
        (1, 2),
        "what came back"
    );
    check_eq!(lab.bodies(&sink, 0).await?.len(), 0, "effects");
    check_eq!(lab.group(&spec).await?.lag(), 1, "lag");
    unit.send.pop();
    lab.apply(unit).await?;
    check_eq!(
        lab.bodies(&sink, 0).await?,
        ["first"],
        "effects of the second try"
    );
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag after the second try");
    Ok(())
}

/// An effect to a partition that does not exist is refused in the same way.
async fn refused_for_its_partition(lab: Lab) -> Check {
    let sink = lab.topic(1).await?;
    let mut unit = Unit::send(outgoing(&sink, "first")?);
    unit.send.push(Outgoing::Append {
        topic: sink.clone(),
        partition: 1,
        records: batch(&["second"])?,
        expected: Default::default(),
        dedupe: false,
    });
    let (_, error) = not_applied(lab.commit(unit).await?)?;
    check_eq!(error.kind(), Kind::Rejected, "kind of the error");
    check_eq!(lab.bodies(&sink, 0).await?.len(), 0, "effects");
    Ok(())
}

/// One unit may settle messages of two groups.
async fn over_two_groups(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (one, mut first) = lab.consume(&topic).await?;
    let (two, mut second) = lab.consume(&topic).await?;
    let mut unit = Unit::settle(first.delivery().await?.receipt, Verdict::Done);
    unit.settle
        .push((second.delivery().await?.receipt, Verdict::Done));
    lab.apply(unit).await?;
    check_eq!(lab.group(&one).await?.lag(), 0, "lag of the first group");
    check_eq!(lab.group(&two).await?.lag(), 0, "lag of the second group");
    Ok(())
}

/// After the death of the process an applied unit is there: settle and effect, each once.
async fn survives_kill(mut lab: Lab) -> Check {
    let (topic, sink) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["k1=a", "k2=b"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let first = member.delivery().await?;
    let mut unit = Unit::settle(first.receipt, Verdict::Done);
    unit.send.push(outgoing(&sink, "effect of a")?);
    lab.apply(unit).await?;
    lab.kill().await?;
    check_eq!(lab.bodies(&sink, 0).await?, ["effect of a"], "effects");
    let mut member = lab.consume_as(&spec).await?;
    check_eq!(member.drain(1).await?, ["b"], "deliveries");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// A unit may send without settling anything.
async fn sends_alone(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let sent = lab.apply(Unit::send(outgoing(&topic, "a")?)).await?;
    check_eq!(sent.len(), 1, "answers");
    check!(!sent[0].duplicate, "a first send is no duplicate");
    check_eq!(lab.bodies(&topic, 0).await?, ["a"], "bodies");
    Ok(())
}

/// An empty unit is applied, and no units have no outcomes.
async fn empty(lab: Lab) -> Check {
    let sent = lab.apply(Unit::default()).await?;
    check_eq!(sent.len(), 0, "answers of an empty unit");
    let outcomes = lab.engine.commit(Vec::new()).await;
    check_eq!(outcomes.len(), 0, "outcomes of no units");
    Ok(())
}

/// Outcomes come in the order of the units, whatever each one's is; a refused unit does not touch the others.
async fn in_order(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let missing = lab.name("missing")?;
    let mut units = Vec::new();
    for i in 0..9 {
        let to = if i % 3 == 1 { &missing } else { &topic };
        units.push(Unit::send(outgoing(to, &i.to_string())?));
    }
    let outcomes = lab.engine.commit(units).await;
    check_eq!(outcomes.len(), 9, "outcomes");
    let mut firsts = Vec::new();
    for (i, outcome) in outcomes.into_iter().enumerate() {
        if i % 3 == 1 {
            let (_, error) = not_applied(outcome)?;
            check_eq!(error.kind(), Kind::NotFound, "unit {i}");
        } else {
            firsts.extend(
                applied(outcome)?
                    .into_iter()
                    .map(|sent| (sent.first, i.to_string())),
            );
        }
    }
    let all = lab.all(&topic, 0).await?;
    let found: Vec<_> = all
        .iter()
        .map(|m| (m.position(), crate::lab::body(m)))
        .collect();
    check_eq!(found, firsts, "what is stored, against the outcomes");
    Ok(())
}

/// Hundreds of units of one call each get their outcome.
async fn by_the_hundred(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let texts: Vec<String> = (0..400).map(|i| format!("k{i}={i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    lab.put(&topic, 0, &texts).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let deliveries = member.take(400).await?;
    let units = deliveries
        .into_iter()
        .map(|d| Unit::settle(d.receipt, Verdict::Done));
    let outcomes = lab.engine.commit(units.collect()).await;
    check_eq!(outcomes.len(), 400, "outcomes");
    for outcome in outcomes {
        applied(outcome)?;
    }
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// Units of one call are independent: a fenced one beside does not matter.
async fn are_independent(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a", "k2=b"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut deliveries = member.take(2).await?.into_iter();
    let (Some(first), Some(second)) = (deliveries.next(), deliveries.next()) else {
        return Err(Fault::new("two deliveries were to come"));
    };
    let under = first.receipt.fence();
    lab.done(first.receipt).await?;
    let late = Unit {
        under: Some(under),
        ..Unit::default()
    };
    let outcomes = lab
        .engine
        .commit(vec![late, Unit::settle(second.receipt, Verdict::Done)])
        .await;
    check_eq!(outcomes.len(), 2, "outcomes");
    let mut outcomes = outcomes.into_iter();
    if let (Some(late), Some(live)) = (outcomes.next(), outcomes.next()) {
        must_be_fenced(late)?;
        applied(live)?;
    }
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// There is nobody to answer on this lane: the verdict is `Unsupported`, and the receipt still good.
async fn answer_is_refused(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let verdict = Verdict::Answer(Bytes::from_static(b"42"));
    let unit = Unit::settle(member.delivery().await?.receipt, verdict);
    let (unit, error) = not_applied(lab.commit(unit).await?)?;
    check_eq!(error.kind(), Kind::Unsupported, "kind of the error");
    check_eq!(lab.group(&spec).await?.lag(), 1, "lag");
    for (receipt, _) in unit.settle {
        lab.done(receipt).await?;
    }
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// A commit whose future is dropped after its first poll runs to its end.
async fn dropped_runs_to_its_end(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let unit = Unit::settle(member.delivery().await?.receipt, Verdict::Done);
    let mut commit = lab.engine.commit(vec![unit]);
    let polled = commit
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    check!(
        !matches!(&polled, Poll::Ready(outcomes) if !matches!(outcomes[..], [Outcome::Applied(_)])),
        "the settle was to be applied: {polled:?}"
    );
    drop(commit);
    lab.group_until(
        &spec,
        "no lag, though the unit was given up to it",
        |info| info.lag() == 0,
    )
    .await?;
    member.quiet(Duration::from_millis(30)).await
}
