//! What operators do with dead letters: pick them, change them, remove them, give them back and take that back, and put
//! messages aside by hand.

use std::time::Duration;

use strait_core::events::{
    DeadEdit, DeadFilter, DeadLetter, DeadSummary, EditDead, GroupSpec, HISTORY, Redrive, Redriven,
    RemoveDead, SetAside, UndoRedrive, Undone,
};
use strait_core::{Error, Position, Receipt, Timestamp, Verdict};

use super::{Case, Need, case};
use crate::fault::Check;
use crate::lab::{Lab, QUIET, body, key, retry};
use crate::member::Member;

pub(super) fn cases() -> Vec<Case> {
    let cases = [
        case("dead_filter_numbers", filter_numbers),
        case("dead_filter_partition", filter_partition),
        case("dead_filter_key", filter_key),
        case("dead_filter_reason", filter_reason),
        case("dead_filter_fingerprint", filter_fingerprint),
        case("dead_filter_attempts", filter_attempts).needs(Need::Parking),
        case("dead_filter_died", filter_died),
        case("dead_filter_in_pages", filter_in_pages),
        case("dead_summary", summary),
        case("dead_bytes", bytes),
        case("edit_is_what_comes_back", edit_comes_back),
        case("edit_leaves_the_original", edit_leaves_the_original),
        case("edit_last_one_counts", edit_last_one_counts),
        case("edit_dropped", edit_dropped),
        case("edit_of_headers", edit_of_headers),
        case("edit_refused", edit_refused),
        case("edit_survives_reopen", edit_survives_reopen).reopens(),
        case("remove_by_filter", remove_by_filter),
        case("remove_nothing", remove_nothing),
        case("remove_survives_reopen", remove_survives_reopen).reopens(),
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
        case("aside_before_it_comes", aside_before_it_comes),
        case("aside_of_a_parked_one", aside_of_a_parked_one).needs(Need::Parking),
        case("aside_lets_the_key_go", aside_lets_the_key_go).needs(Need::KeyOrder),
        case("aside_refused_while_out", aside_refused_while_out),
        case("aside_forced_is_fenced", aside_forced).needs(Need::Fencing),
        case("aside_refused", aside_refused),
        case("aside_survives_reopen", aside_survives_reopen).reopens(),
        case("aside_comes_back", aside_comes_back),
    ];
    let needed = |case: Case| case.needs(Need::DeadLetters);
    cases.into_iter().map(needed).collect()
}

/// The reasons of the dead letters that most cases begin with.
const REASONS: [&str; 4] = [
    "order 17: no such account `ada`",
    "order 4711: no such account `bob`",
    "timed out",
    "timed out twice",
];

/// A group with four dead letters, `k1=a` and `k2=b` of partition 0, `k3=c` and `k1=d` of partition 1.
async fn four(lab: &Lab) -> Check<(GroupSpec, Member)> {
    let topic = lab.topic(2).await?;
    let spec = lab.spec(&topic)?;
    let mut member = lab.consume_as(&spec).await?;
    let texts = [(0, "k1=a"), (0, "k2=b"), (1, "k3=c"), (1, "k1=d")];
    for ((partition, text), reason) in texts.into_iter().zip(REASONS) {
        lab.put(&topic, partition, &[text]).await?;
        die(lab, &mut member, reason).await?;
    }
    Ok((spec, member))
}

async fn die(lab: &Lab, member: &mut Member, reason: &str) -> Check {
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, Verdict::Dead(reason.into()))
        .await
}

async fn listed(lab: &Lab, spec: &GroupSpec, filter: DeadFilter) -> Check<Vec<DeadLetter>> {
    let (group, topic) = (spec.group.clone(), spec.topic.clone());
    Ok(lab
        .events
        .dead_letters(group, topic, filter, 0, 1_000)
        .await?)
}

fn bodies(letters: &[DeadLetter]) -> Vec<String> {
    letters.iter().map(|letter| body(&letter.message)).collect()
}

/// What a filter picks, by body: the list and the dry run of a redrive say the same.
async fn picked(lab: &Lab, spec: &GroupSpec, filter: DeadFilter) -> Check<Vec<String>> {
    let found = bodies(&listed(lab, spec, filter.clone()).await?);
    let count = redrive_with(lab, spec, filter, |redrive| redrive.dry_run = true).await?;
    check_eq!(
        count.count,
        found.len() as u64,
        "what a redrive would bring back"
    );
    Ok(found)
}

async fn redrive_with(
    lab: &Lab,
    spec: &GroupSpec,
    filter: DeadFilter,
    change: impl FnOnce(&mut Redrive),
) -> Result<Redriven, Error> {
    let mut redrive = Redrive::new(spec.group.clone(), spec.topic.clone(), filter);
    change(&mut redrive);
    lab.events.redrive(redrive).await
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

async fn remove(
    lab: &Lab,
    spec: &GroupSpec,
    filter: DeadFilter,
    dry_run: bool,
) -> Result<u64, Error> {
    let remove = RemoveDead {
        group: spec.group.clone(),
        topic: spec.topic.clone(),
        filter,
        dry_run,
    };
    lab.events.remove_dead(remove).await
}

async fn edit(lab: &Lab, spec: &GroupSpec, number: u64, edit: DeadEdit) -> Result<(), Error> {
    let edit = EditDead {
        group: spec.group.clone(),
        topic: spec.topic.clone(),
        number,
        edit,
    };
    lab.events.edit_dead(edit).await
}

fn new_body(text: &str) -> DeadEdit {
    DeadEdit::Put {
        key: None,
        body: Some(text.as_bytes().to_vec().into()),
        headers: None,
    }
}

async fn aside(lab: &Lab, spec: &GroupSpec, position: Position, force: bool) -> Result<u64, Error> {
    let aside = SetAside {
        group: spec.group.clone(),
        topic: spec.topic.clone(),
        partition: 0,
        position,
        reason: "the customer called".into(),
        force,
    };
    lab.events.set_aside(aside).await
}

fn reason(text: &str) -> DeadFilter {
    DeadFilter {
        reason: Some(text.to_owned()),
        ..DeadFilter::default()
    }
}

/// By number; a list passes over those that are not there.
async fn filter_numbers(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let all = listed(&lab, &spec, DeadFilter::default()).await?;
    let chosen = DeadFilter::numbers([all[3].number, all[1].number]);
    check_eq!(picked(&lab, &spec, chosen).await?, ["b", "d"], "picked");
    let strange = DeadFilter::numbers([all[0].number, 1_000_000]);
    let found = bodies(&listed(&lab, &spec, strange).await?);
    check_eq!(found, ["a"], "listed with a number that is not there");
    let none = DeadFilter::numbers([]);
    check_eq!(picked(&lab, &spec, none).await?.len(), 0, "picked by none");
    Ok(())
}

/// By partition.
async fn filter_partition(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let second = DeadFilter {
        partition: Some(1),
        ..DeadFilter::default()
    };
    check_eq!(picked(&lab, &spec, second).await?, ["c", "d"], "picked");
    Ok(())
}

/// By key, in whatever partition; all fields of a filter must fit.
async fn filter_key(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let of_key = DeadFilter {
        key: Some(b"k1".to_vec()),
        ..DeadFilter::default()
    };
    let found = picked(&lab, &spec, of_key.clone()).await?;
    check_eq!(found, ["a", "d"], "picked by key");
    let both = DeadFilter {
        partition: Some(1),
        ..of_key
    };
    check_eq!(picked(&lab, &spec, both).await?, ["d"], "picked by both");
    Ok(())
}

/// By a part of the reason.
async fn filter_reason(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let found = picked(&lab, &spec, reason("timed out")).await?;
    check_eq!(found, ["c", "d"], "picked");
    check_eq!(picked(&lab, &spec, reason("out t")).await?, ["d"], "picked");
    Ok(())
}

/// By the fingerprint of the reason, which is that of all errors that say the same of different messages.
async fn filter_fingerprint(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let first = &listed(&lab, &spec, DeadFilter::default()).await?[0];
    let same = DeadFilter {
        fingerprint: Some(first.fingerprint),
        ..DeadFilter::default()
    };
    check_eq!(picked(&lab, &spec, same).await?, ["a", "b"], "picked");
    Ok(())
}

/// By the number of attempts.
async fn filter_attempts(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    lab.put(&spec.topic, 0, &["k9=tried"]).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, retry(Duration::ZERO)).await?;
    die(&lab, &mut member, "again").await?;
    let twice = DeadFilter {
        min_attempts: Some(2),
        ..DeadFilter::default()
    };
    check_eq!(picked(&lab, &spec, twice).await?, ["tried"], "picked");
    Ok(())
}

/// By the time of death: from one on, and before another. A span of no time is refused.
async fn filter_died(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let died = listed(&lab, &spec, DeadFilter::default()).await?[0].died;
    let next = Timestamp::from_millis(died.as_millis() + 1);
    let from = DeadFilter {
        died_after: Some(died),
        ..DeadFilter::default()
    };
    check_eq!(
        picked(&lab, &spec, from).await?.len(),
        4,
        "from the first on"
    );
    let before = DeadFilter {
        died_before: Some(died),
        ..DeadFilter::default()
    };
    check_eq!(
        picked(&lab, &spec, before).await?.len(),
        0,
        "before the first"
    );
    let until = DeadFilter {
        died_before: Some(next),
        ..DeadFilter::default()
    };
    let first = picked(&lab, &spec, until).await?;
    check!(
        first.contains(&"a".to_owned()),
        "up to the first: {first:?}"
    );
    let nothing = DeadFilter {
        died_after: Some(next),
        died_before: Some(died),
        ..DeadFilter::default()
    };
    let (group, topic) = (spec.group.clone(), spec.topic.clone());
    let answer = lab.events.dead_letters(group, topic, nothing, 0, 9).await;
    check_refused!(answer, Rejected, "a span of no time");
    Ok(())
}

/// A page holds as many as were asked for of those that fit.
async fn filter_in_pages(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let page = |from, limit| {
        let (group, topic) = (spec.group.clone(), spec.topic.clone());
        lab.events
            .dead_letters(group, topic, reason("timed out"), from, limit)
    };
    let first = page(0, 1).await?;
    check_eq!(bodies(&first), ["c"], "the first page");
    let second = page(first[0].number + 1, 1).await?;
    check_eq!(bodies(&second), ["d"], "the second page");
    let last = page(second[0].number + 1, 1).await?;
    check_eq!(last.len(), 0, "letters of the last page");
    Ok(())
}

/// Counted by error, the most frequent first: how many, of how many keys, since when, with the newest reason.
async fn summary(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let of = |filter| {
        let (group, topic) = (spec.group.clone(), spec.topic.clone());
        lab.events.dead_summary(group, topic, filter)
    };
    let sums: Vec<DeadSummary> = of(DeadFilter::default()).await?;
    let counts: Vec<(u64, u64)> = sums.iter().map(|sum| (sum.count, sum.keys)).collect();
    check_eq!(
        counts,
        [(2, 2), (1, 1), (1, 1)],
        "letters and keys of each error"
    );
    let all = listed(&lab, &spec, DeadFilter::default()).await?;
    let first = &sums[0];
    check_eq!(first.fingerprint, all[0].fingerprint, "the most frequent");
    check!(
        first.first_died == all[0].died && first.last_died == all[1].died,
        "from {:?} to {:?}",
        first.first_died,
        first.last_died
    );
    let reasons = [REASONS[0], REASONS[1]];
    check!(
        reasons.contains(&&*first.example),
        "example: {}",
        first.example
    );
    let filtered = of(reason("twice")).await?;
    check_eq!(filtered.len(), 1, "errors that a filter picks");
    Ok(())
}

/// The group says how much its dead letters take.
async fn bytes(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let four = lab.group(&spec).await?.dead_bytes;
    check!(four >= 4, "four dead letters take {four} bytes");
    remove(&lab, &spec, reason("timed out"), false).await?;
    let two = lab.group(&spec).await?.dead_bytes;
    check!(two > 0 && two < four, "two of {four} bytes take {two}");
    remove(&lab, &spec, DeadFilter::default(), false).await?;
    check_eq!(lab.group(&spec).await?.dead_bytes, 0, "bytes of none");
    Ok(())
}

/// A redrive delivers the edited message: in its old place, with the same id and key.
async fn edit_comes_back(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let letter = listed(&lab, &spec, DeadFilter::default()).await?.remove(0);
    edit(&lab, &spec, letter.number, new_body("mended")).await?;
    let one = DeadFilter::numbers([letter.number]);
    redrive_with(&lab, &spec, one, |_| {}).await?;
    let delivery = member.delivery().await?;
    let message = &delivery.message;
    check_eq!(body(message), "mended", "body");
    check_eq!(key(message), "k1", "key");
    check_eq!(message.position(), letter.message.position(), "position");
    let (id, was) = (message.record().id(), letter.message.record().id());
    check_eq!(id.to_string(), was.to_string(), "id");
    check_eq!(delivery.attempt, 1, "attempt");
    lab.done(delivery.receipt).await
}

/// The original stays as it was, with the edit beside it.
async fn edit_leaves_the_original(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let letter = listed(&lab, &spec, DeadFilter::default()).await?.remove(1);
    check!(letter.edited.is_none(), "edited before it was");
    edit(&lab, &spec, letter.number, new_body("mended")).await?;
    let shown = listed(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(bodies(&shown), ["a", "b", "c", "d"], "originals");
    let edits: Vec<Option<String>> = shown
        .iter()
        .map(|letter| letter.edited.as_ref().map(body))
        .collect();
    check_eq!(
        edits,
        [None, Some("mended".to_owned()), None, None],
        "edits"
    );
    check_eq!(shown[1].attempts, letter.attempts, "attempts");
    check_eq!(shown[1].reason, letter.reason, "reason");
    member.quiet(QUIET).await
}

/// The last edit counts.
async fn edit_last_one_counts(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let number = listed(&lab, &spec, DeadFilter::default()).await?[0].number;
    for text in ["first", "second"] {
        edit(&lab, &spec, number, new_body(text)).await?;
    }
    redrive_with(&lab, &spec, DeadFilter::numbers([number]), |_| {}).await?;
    check_eq!(member.drain(1).await?, ["second"], "what comes back");
    Ok(())
}

/// Dropped, an edit is as if it had never been.
async fn edit_dropped(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let number = listed(&lab, &spec, DeadFilter::default()).await?[0].number;
    edit(&lab, &spec, number, new_body("mended")).await?;
    edit(&lab, &spec, number, DeadEdit::Drop).await?;
    let letter = listed(&lab, &spec, DeadFilter::numbers([number])).await?;
    check!(letter[0].edited.is_none(), "the edit is shown");
    redrive_with(&lab, &spec, DeadFilter::numbers([number]), |_| {}).await?;
    check_eq!(member.drain(1).await?, ["a"], "what comes back");
    Ok(())
}

/// Headers are replaced as a whole; what an edit does not name stays as the edit before had it.
async fn edit_of_headers(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let number = listed(&lab, &spec, DeadFilter::default()).await?[0].number;
    edit(&lab, &spec, number, new_body("mended")).await?;
    let headers = DeadEdit::Put {
        key: Some(b"k1".to_vec()),
        body: None,
        headers: Some(vec![("by".to_owned(), "ops".into())]),
    };
    edit(&lab, &spec, number, headers).await?;
    redrive_with(&lab, &spec, DeadFilter::numbers([number]), |_| {}).await?;
    let delivery = member.delivery().await?;
    check_eq!(body(&delivery.message), "mended", "body");
    let found = delivery.message.record().header("by").map(<[u8]>::to_vec);
    check_eq!(found, Some(b"ops".to_vec()), "header");
    lab.done(delivery.receipt).await
}

/// Another key, a body over the limit and a number that is not there are refused, and change nothing.
async fn edit_refused(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let number = listed(&lab, &spec, DeadFilter::default()).await?[0].number;
    let other_key = DeadEdit::Put {
        key: Some(b"k2".to_vec()),
        body: Some("mended".into()),
        headers: None,
    };
    let answer = edit(&lab, &spec, number, other_key).await;
    check_refused!(answer, Rejected, "another key");
    let large = DeadEdit::Put {
        key: None,
        body: Some(vec![b'x'; lab.caps.max_body + 1].into()),
        headers: None,
    };
    let answer = edit(&lab, &spec, number, large).await;
    check_refused!(answer, Rejected, "a body over the limit");
    let answer = edit(&lab, &spec, 1_000_000, new_body("mended")).await;
    check_refused!(answer, NotFound, "a number that is not there");
    let letter = listed(&lab, &spec, DeadFilter::numbers([number])).await?;
    check!(letter[0].edited.is_none(), "something was edited");
    Ok(())
}

/// An edit survives a reopen.
async fn edit_survives_reopen(mut lab: Lab) -> Check {
    let (spec, member) = four(&lab).await?;
    drop(member);
    let number = listed(&lab, &spec, DeadFilter::default()).await?[0].number;
    edit(&lab, &spec, number, new_body("mended")).await?;
    lab.reopen().await?;
    let letter = listed(&lab, &spec, DeadFilter::numbers([number])).await?;
    let shown = letter[0].edited.as_ref().map(body);
    check_eq!(shown, Some("mended".to_owned()), "the edit");
    redrive_with(&lab, &spec, DeadFilter::numbers([number]), |_| {}).await?;
    let mut member = lab.consume_as(&spec).await?;
    check_eq!(member.drain(1).await?, ["mended"], "what comes back");
    Ok(())
}

/// Removed, dead letters are gone for good, those that the filter leaves are there; a dry run only counts.
async fn remove_by_filter(lab: Lab) -> Check {
    let (spec, mut member) = four(&lab).await?;
    let count = remove(&lab, &spec, reason("timed out"), true).await?;
    check_eq!(count, 2, "what would be removed");
    check_eq!(lab.group(&spec).await?.dead, 4, "dead after the dry run");
    let count = remove(&lab, &spec, reason("timed out"), false).await?;
    check_eq!(count, 2, "removed");
    let left = listed(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(bodies(&left), ["a", "b"], "what is left");
    redrive_with(&lab, &spec, DeadFilter::default(), |_| {}).await?;
    let mut back = member.drain(2).await?;
    back.sort();
    check_eq!(back, ["a", "b"], "what comes back");
    member.quiet(QUIET).await
}

/// A number that is not there refuses a removal as a whole; nothing to remove is fine; so is a group that is missing not.
async fn remove_nothing(lab: Lab) -> Check {
    let (spec, _member) = four(&lab).await?;
    let number = listed(&lab, &spec, DeadFilter::default()).await?[0].number;
    let strange = DeadFilter::numbers([number, 1_000_000]);
    let answer = remove(&lab, &spec, strange, false).await;
    check_refused!(answer, NotFound, "a number that is not there");
    let count = remove(&lab, &spec, reason("never said"), false).await?;
    check_eq!(count, 0, "removed of none");
    check_eq!(lab.group(&spec).await?.dead, 4, "dead letters");
    let missing = GroupSpec {
        group: lab.name("missing")?,
        ..spec
    };
    let answer = remove(&lab, &missing, DeadFilter::default(), false).await;
    check_refused!(answer, NotFound, "a missing group");
    Ok(())
}

/// A removal survives a reopen.
async fn remove_survives_reopen(mut lab: Lab) -> Check {
    let (spec, member) = four(&lab).await?;
    drop(member);
    remove(&lab, &spec, reason("timed out"), false).await?;
    lab.reopen().await?;
    let left = listed(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(bodies(&left), ["a", "b"], "what is left");
    Ok(())
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

/// A group of four messages that has no member and has seen none of them.
async fn four_waiting(lab: &Lab, texts: &[&str]) -> Check<(GroupSpec, Vec<Position>)> {
    let topic = lab.topic(1).await?;
    let (spec, member) = lab.consume(&topic).await?;
    drop(member);
    lab.group_until(&spec, "no member", |info| info.members.is_empty())
        .await?;
    lab.put(&topic, 0, texts).await?;
    let all = lab.all(&topic, 0).await?;
    Ok((spec, all.iter().map(|message| message.position()).collect()))
}

/// Set aside before it was ever delivered, a message is a dead letter with the operator's reason; the others come.
async fn aside_before_it_comes(lab: Lab) -> Check {
    let (spec, at) = four_waiting(&lab, &["k1=a", "k2=b", "k3=c", "k4=d"]).await?;
    let number = aside(&lab, &spec, at[2], false).await?;
    let letters = listed(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(bodies(&letters), ["c"], "dead letters");
    let letter = &letters[0];
    check_eq!(
        (letter.number, letter.attempts, &*letter.reason),
        (number, 0, "the customer called"),
        "number, attempts and reason"
    );
    check_eq!(letter.message.position(), at[2], "position of origin");
    check_eq!(lab.group(&spec).await?.lag(), 3, "lag");
    aside(&lab, &spec, at[0], false).await?;
    let mut member = lab.consume_as(&spec).await?;
    let mut others = member.drain(2).await?;
    others.sort();
    check_eq!(others, ["b", "d"], "the others");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag after it");
    member.quiet(QUIET).await
}

/// One that waits for its next attempt is set aside with the attempts that were made.
async fn aside_of_a_parked_one(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let at = lab.put(&topic, 0, &["k1=a"]).await?.first;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, retry(Duration::from_secs(3_600)))
        .await?;
    aside(&lab, &spec, at, false).await?;
    let letters = listed(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(bodies(&letters), ["a"], "dead letters");
    check_eq!(letters[0].attempts, 1, "attempts");
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), info.parked()), (0, 0), "lag and parked");
    Ok(())
}

/// What waited for its key goes on.
async fn aside_lets_the_key_go(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let at = lab.put(&topic, 0, &["k1=a"]).await?.first;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, retry(Duration::from_secs(3_600)))
        .await?;
    lab.put(&topic, 0, &["k1=b"]).await?;
    member.quiet(QUIET).await?;
    aside(&lab, &spec, at, false).await?;
    check_eq!(member.drain(1).await?, ["b"], "the next of the key");
    Ok(())
}

async fn one_out(lab: &Lab) -> Check<(GroupSpec, Position, Receipt, Member)> {
    let topic = lab.topic(1).await?;
    let at = lab.put(&topic, 0, &["k1=a"]).await?.first;
    let (spec, mut member) = lab.consume(&topic).await?;
    let receipt = member.delivery().await?.receipt;
    Ok((spec, at, receipt, member))
}

/// While a member has it, it is not set aside, and the member's receipt holds.
async fn aside_refused_while_out(lab: Lab) -> Check {
    let (spec, at, receipt, _member) = one_out(&lab).await?;
    let answer = aside(&lab, &spec, at, false).await;
    check_refused!(answer, Conflict, "a message that is out");
    lab.done(receipt).await?;
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), info.dead), (0, 0), "lag and dead letters");
    Ok(())
}

/// Forced, it is a dead letter, and the member's receipt is fenced.
async fn aside_forced(lab: Lab) -> Check {
    let (spec, at, receipt, mut member) = one_out(&lab).await?;
    aside(&lab, &spec, at, true).await?;
    lab.fenced(receipt).await?;
    let info = lab.group(&spec).await?;
    check_eq!((info.lag(), info.dead), (0, 1), "lag and dead letters");
    member.quiet(QUIET).await
}

/// What is settled is `Conflict`; what is not there is `NotFound`, or `Rejected` for a partition.
async fn aside_refused(lab: Lab) -> Check {
    let (spec, at, receipt, _member) = one_out(&lab).await?;
    lab.done(receipt).await?;
    let answer = aside(&lab, &spec, at, true).await;
    check_refused!(answer, Conflict, "a settled message");
    let beyond = Position::of_parts(at.parts().0, at.offset() + 1_000);
    let answer = aside(&lab, &spec, beyond, true).await;
    check_refused!(answer, NotFound, "a position past the end");
    let strange = SetAside {
        group: spec.group.clone(),
        topic: spec.topic.clone(),
        partition: 7,
        position: at,
        reason: "no".into(),
        force: false,
    };
    let answer = lab.events.set_aside(strange).await;
    check_refused!(answer, Rejected, "a partition that is not there");
    check_eq!(lab.group(&spec).await?.dead, 0, "dead letters");
    Ok(())
}

/// What was set aside is so after a reopen, and does not come.
async fn aside_survives_reopen(mut lab: Lab) -> Check {
    let (spec, at) = four_waiting(&lab, &["k1=a", "k2=b", "k3=c", "k4=d"]).await?;
    aside(&lab, &spec, at[0], false).await?;
    aside(&lab, &spec, at[2], false).await?;
    lab.reopen().await?;
    let letters = listed(&lab, &spec, DeadFilter::default()).await?;
    check_eq!(bodies(&letters), ["a", "c"], "dead letters");
    let mut member = lab.consume_as(&spec).await?;
    let mut others = member.drain(2).await?;
    others.sort();
    check_eq!(others, ["b", "d"], "the others");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// It comes back by a redrive, in its place of the order, before the group has got that far too.
async fn aside_comes_back(lab: Lab) -> Check {
    let (spec, at) = four_waiting(&lab, &["k1=a", "k1=b", "k1=c"]).await?;
    aside(&lab, &spec, at[1], false).await?;
    let done = redrive_with(&lab, &spec, DeadFilter::default(), |_| {}).await?;
    check_eq!(done.count, 1, "brought back");
    check_eq!(lab.group(&spec).await?.lag(), 3, "lag");
    let mut member = lab.consume_as(&spec).await?;
    let mut all = member.drain(3).await?;
    if !lab.caps.key_order.is_there() {
        all.sort();
    }
    check_eq!(all, ["a", "b", "c"], "what comes");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag after it");
    member.quiet(QUIET).await
}
