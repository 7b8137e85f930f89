//! The way back: redrives by filter and at a rate, their undo, and what a message remembers of its deaths.

use std::time::Duration;

use strait_core::events::{DeadFilter, DeadLetter, GroupSpec, HISTORY, UndoRedrive, Undone};
use strait_core::{Error, Timestamp};

use super::dead_work::{REASONS, bodies, die, edit, four, listed, new_body, reason, redrive_with};
use super::{Case, Need, case};
use crate::fault::Check;
use crate::lab::{Lab, QUIET, body};

pub(super) fn cases() -> Vec<Case> {
    let cases = [
        case("redrive_by_filter", redrive_by_filter),
        case("redrive_only_says_how_many", redrive_dry_run),
        case("redrive_at_a_rate", redrive_at_a_rate),
        case("redrive_rate_survives_reopen", rate_survives_reopen).reopens(),
        case("redrive_goes_on", redrive_goes_on),
        case("redrive_refused", redrive_refused),
        case("undo_makes_dead_again", undo_makes_dead_again),
        case("undo_leaves_what_is_out", undo_leaves_what_is_out),
        case("undo_keeps_edit_and_history", undo_keeps_edit_and_history),
        case("undo_survives_reopen", undo_survives_reopen).reopens(),
        case("undo_lets_the_key_go", undo_lets_the_key_go).needs(Need::KeyOrder),
        case("undo_refused", undo_refused),
        case("history_of_deaths", history),
        case("history_is_bounded", history_is_bounded),
        case("history_survives_reopen", history_survives_reopen).reopens(),
    ];
    let needed = |case: Case| case.needs(Need::DeadLetters).needs(Need::Redrive);
    cases.into_iter().map(needed).collect()
}

/// Brings dead letters back one a minute: all but the first wait.
async fn slowly(lab: &Lab, spec: &GroupSpec, filter: DeadFilter) -> Check<u64> {
    // The first one is due at once: another in front of those that are to wait.
    let done = redrive_with(lab, spec, filter, |redrive| redrive.per_second = Some(1)).await?;
    let run = done.run;
    run.ok_or_else(|| crate::fault::Fault::new(format!("a redrive gave no run: {done:?}")))
}

async fn undo(lab: &Lab, spec: &GroupSpec, run: u64, dry_run: bool) -> Result<Undone, Error> {
    let undo = UndoRedrive {
        group: spec.group.clone(),
        topic: spec.topic.clone(),
        run,
        dry_run,
    };
    lab.events.undo_redrive(undo).await
}

/// A redrive brings back what its filter picks; the others stay. Each has a number of its own.
async fn redrive_by_filter(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let done = redrive_with(&lab, &spec, reason("timed out"), |_| {}).await?;
    check_eq!(done.count, 2, "brought back");
    let mut back = member.drain(2).await?;
    back.sort();
    check_eq!(back, ["c", "d"], "what comes back");
    let left = listed(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(bodies(&left), ["a", "b"], "what stays dead");
    let other = redrive_with(&lab, &spec, DeadFilter::default(), |_| {}).await?;
    check!(
        done.run.is_some() && other.run.is_some() && done.run != other.run,
        "runs: {:?} and {:?}",
        done.run,
        other.run
    );
    Ok(())
}

/// A dry run says how many would come back and how long that takes, and changes nothing.
async fn redrive_dry_run(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let all = DeadFilter::default();
    let would = redrive_with(&lab, &spec, all, |redrive| {
        redrive.dry_run = true;
        redrive.per_second = Some(3);
    });
    let would = would.await?;
    check_eq!((would.count, would.run), (4, None), "count and run");
    check_eq!(would.lasts, Duration::from_secs(1), "how long");
    check_eq!(lab.group(&spec).await?.dead, 4, "dead letters");
    member.quiet(QUIET).await
}

/// At a rate, none comes before its time.
async fn redrive_at_a_rate(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let start = std::time::Instant::now();
    let all = DeadFilter::default();
    let done = redrive_with(&lab, &spec, all, |redrive| redrive.per_second = Some(5)).await?;
    check_eq!(done.count, 4, "brought back");
    check_eq!(done.lasts, Duration::from_millis(600), "how long");
    for n in 0..4u32 {
        let delivery = member.delivery().await?;
        let (after, due) = (start.elapsed(), n * Duration::from_millis(200));
        check!(
            after >= due,
            "number {n} came after {after:?}, it is due after {due:?}"
        );
        lab.done(delivery.receipt).await?;
    }
    member.quiet(QUIET).await
}

/// What waits for its turn waits on after a reopen.
async fn rate_survives_reopen(mut lab: Lab) -> Check {
    let (spec, member) = four(&lab).await?;
    drop(member);
    slowly(&lab, &spec, DeadFilter::default()).await?;
    lab.reopen().await?;
    check_eq!(lab.group(&spec).await?.dead, 0, "dead letters");
    let mut member = lab.consume_as(&spec).await?;
    let first = member.delivery().await?;
    check_eq!(body(&first.message), "a", "the one that is due");
    lab.done(first.receipt).await?;
    check_eq!(lab.group(&spec).await?.lag(), 3, "those that wait");
    let mut rest = member.drain(3).await?;
    rest.sort();
    check_eq!(rest, ["b", "c", "d"], "the others in their time");
    Ok(())
}

/// A redrive goes on with the run of one that ended early: one undo takes back both.
async fn redrive_goes_on(lab: Lab) -> Check {
    let (spec, member) = four(&lab).await?;
    drop(member);
    lab.group_until(&spec, "no member", |info| info.members.is_empty())
        .await?;
    let run = slowly(&lab, &spec, reason("no such account")).await?;
    let all = DeadFilter::default();
    let rest = redrive_with(&lab, &spec, all, |redrive| redrive.resume = Some(run)).await?;
    check_eq!((rest.run, rest.count), (Some(run), 2), "the second part");
    let done = undo(&lab, &spec, run, false).await?;
    check_eq!(done.returned, 4, "dead again");
    Ok(())
}

/// A rate of 0 and a run that is not known are refused, and nothing comes back.
async fn redrive_refused(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let all = DeadFilter::default();
    let answer = redrive_with(&lab, &spec, all.clone(), |redrive| {
        redrive.per_second = Some(0);
    });
    check_refused!(answer.await, Rejected, "a rate of 0");
    let answer = redrive_with(&lab, &spec, all, |redrive| redrive.resume = Some(1_000_000));
    check_refused!(answer.await, NotFound, "a run that is not known");
    check_eq!(lab.group(&spec).await?.dead, 4, "dead letters");
    member.quiet(QUIET).await
}

/// What a redrive brought back and still waits is dead again, as it was.
async fn undo_makes_dead_again(lab: Lab) -> Check {
    let (spec, member) = four(&lab).await?;
    drop(member);
    lab.group_until(&spec, "no member", |info| info.members.is_empty())
        .await?;
    let before = listed(&lab, &spec, DeadFilter::default()).await?;
    let run = slowly(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(lab.group(&spec).await?.dead, 0, "dead after the redrive");
    let would = undo(&lab, &spec, run, true).await?;
    check_eq!(
        (would.returned, would.out, would.handled),
        (4, 0, 0),
        "a dry run"
    );
    check_eq!(lab.group(&spec).await?.dead, 0, "dead after the dry run");
    let done = undo(&lab, &spec, run, false).await?;
    check_eq!(
        (done.returned, done.out, done.handled),
        (4, 0, 0),
        "the undo"
    );
    let after = listed(&lab, &spec, DeadFilter::default()).await?;
    let of = |letters: &[DeadLetter]| -> Vec<(u64, u32, String, Timestamp)> {
        let one = |l: &DeadLetter| (l.number, l.attempts, l.reason.to_string(), l.died);
        letters.iter().map(one).collect()
    };
    check_eq!(of(&after), of(&before), "dead letters");
    check_eq!(bodies(&after), bodies(&before), "messages");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    let mut member = lab.consume_as(&spec).await?;
    member.quiet(QUIET).await
}

/// What is out stays out, what was handled stays handled, and both are counted.
async fn undo_leaves_what_is_out(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let all = DeadFilter::default();
    // The fourth waits for a second at least.
    let done = redrive_with(&lab, &spec, reason("no such account"), |_| {}).await?;
    let run = done.run.unwrap_or_default();
    let mut back = member.take(2).await?.into_iter();
    let (first, second) = (back.next(), back.next());
    if let Some(delivery) = first {
        lab.done(delivery.receipt).await?;
    }
    let rest = redrive_with(&lab, &spec, all, |redrive| {
        redrive.resume = Some(run);
        redrive.per_second = Some(1);
    });
    check_eq!(rest.await?.count, 2, "the rest");
    let third = member.delivery().await?;
    let done = undo(&lab, &spec, run, false).await?;
    check_eq!(
        (done.returned, done.out, done.handled),
        (1, 2, 1),
        "the undo"
    );
    check_eq!(lab.group(&spec).await?.dead, 1, "dead letters");
    // The receipts of those that are out still hold.
    for delivery in second.into_iter().chain([third]) {
        lab.done(delivery.receipt).await?;
    }
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    member.quiet(QUIET).await
}

/// Edit and history come back with an undo.
async fn undo_keeps_edit_and_history(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    redrive_with(&lab, &spec, reason("twice"), |_| {}).await?;
    die(&lab, &mut member, "once more").await?;
    drop(member);
    lab.group_until(&spec, "no member", |info| info.members.is_empty())
        .await?;
    let before = listed(&lab, &spec, reason("once more")).await?.remove(0);
    edit(&lab, &spec, before.number, new_body("mended")).await?;
    let run = slowly(&lab, &spec, reason("once more")).await?;
    undo(&lab, &spec, run, false).await?;
    let after = listed(&lab, &spec, reason("once more")).await?.remove(0);
    check_eq!(after.history, before.history, "history");
    check_eq!(after.history.len(), 1, "earlier deaths");
    let shown = after.edited.as_ref().map(body);
    check_eq!(shown, Some("mended".to_owned()), "edit");
    Ok(())
}

/// A redrive can be taken back after a reopen, and that survives another.
async fn undo_survives_reopen(mut lab: Lab) -> Check {
    let (spec, member) = four(&lab).await?;
    drop(member);
    let run = slowly(&lab, &spec, DeadFilter::default()).await?;
    lab.reopen().await?;
    check_eq!(
        undo(&lab, &spec, run, false).await?.returned,
        4,
        "dead again"
    );
    lab.reopen().await?;
    let after = listed(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(bodies(&after), ["a", "b", "c", "d"], "dead letters");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// Later messages of a key wait behind one that was brought back; taken back, it lets them go.
async fn undo_lets_the_key_go(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let first = reason("no such account");
    let run = slowly(&lab, &spec, first).await?;
    check_eq!(member.drain(1).await?, ["a"], "the one that is due");
    lab.put(&spec.topic, 0, &["k2=later"]).await?;
    let done = undo(&lab, &spec, run, false).await?;
    if done.returned == 1 {
        check_eq!(member.drain(1).await?, ["later"], "what waited for the key");
    } else {
        // It became due meanwhile.
        check_eq!(member.drain(2).await?, ["b", "later"], "both in order");
    }
    Ok(())
}

/// A run that is not known is `NotFound`.
async fn undo_refused(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let answer = undo(&lab, &spec, 1_000_000, false).await;
    check_refused!(answer, NotFound, "a run that is not known");
    let missing = GroupSpec {
        group: lab.name("missing")?,
        ..spec
    };
    check_refused!(
        undo(&lab, &missing, 1, false).await,
        NotFound,
        "a missing group"
    );
    Ok(())
}

/// One that came back and died again says how it died before, and whether it was changed in between.
async fn history(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let first = listed(&lab, &spec, reason("twice")).await?.remove(0);
    check_eq!(first.history.len(), 0, "earlier deaths of the first");
    edit(&lab, &spec, first.number, new_body("mended")).await?;
    redrive_with(&lab, &spec, reason("twice"), |_| {}).await?;
    die(&lab, &mut member, "once more").await?;
    let again = listed(&lab, &spec, reason("once more")).await?.remove(0);
    check_eq!(again.history.len(), 1, "earlier deaths");
    let death = &again.history[0];
    check_eq!(
        (death.number, &*death.reason, death.attempts, death.died),
        (first.number, &*first.reason, first.attempts, first.died),
        "how it died before"
    );
    check!(death.edited, "that it was changed is not said");
    check!(again.number > first.number, "numbers do not grow");
    check_eq!(body(&again.message), "mended", "the message that died");
    Ok(())
}

/// Only the newest deaths are remembered.
async fn history_is_bounded(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k1=a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let deaths = HISTORY + 3;
    for death in 0..deaths {
        die(&lab, &mut member, &format!("death {death}")).await?;
        if death + 1 < deaths {
            redrive_with(&lab, &spec, DeadFilter::default(), |_| {}).await?;
        }
    }
    let letter = listed(&lab, &spec, DeadFilter::default()).await?.remove(0);
    let told: Vec<String> = letter
        .history
        .iter()
        .map(|d| d.reason.to_string())
        .collect();
    let newest = deaths - 1 - HISTORY..deaths - 1;
    let wanted: Vec<String> = newest.map(|death| format!("death {death}")).collect();
    check_eq!(told, wanted, "earlier deaths");
    Ok(())
}

/// History survives a reopen, also while the message is on its way.
async fn history_survives_reopen(mut lab: Lab) -> Check {
    let (spec, member) = four(&lab).await?;
    drop(member);
    redrive_with(&lab, &spec, reason("twice"), |_| {}).await?;
    lab.reopen().await?;
    let mut member = lab.consume_as(&spec).await?;
    die(&lab, &mut member, "once more").await?;
    drop(member);
    lab.reopen().await?;
    let again = listed(&lab, &spec, reason("once more")).await?.remove(0);
    let told: Vec<&str> = again.history.iter().map(|d| &*d.reason).collect();
    check_eq!(told, [REASONS[3]], "earlier deaths");
    Ok(())
}
