//! What operators do with dead letters: pick them, change them, remove them.

use std::time::Duration;

use strait_core::events::{
    DeadEdit, DeadFilter, DeadLetter, DeadSummary, EditDead, GroupSpec, Redrive, Redriven,
    RemoveDead,
};
use strait_core::{Error, Timestamp, Verdict};

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
        case("edit_is_what_comes_back", edit_comes_back).needs(Need::EditDead),
        case("edit_leaves_the_original", edit_leaves_the_original).needs(Need::EditDead),
        case("edit_last_one_counts", edit_last_one_counts).needs(Need::EditDead),
        case("edit_dropped", edit_dropped).needs(Need::EditDead),
        case("edit_of_headers", edit_of_headers).needs(Need::EditDead),
        case("edit_refused", edit_refused).needs(Need::EditDead),
        case("edit_dry_run", edit_dry_run).needs(Need::EditDead),
        case("edit_survives_reopen", edit_survives_reopen)
            .needs(Need::EditDead)
            .reopens(),
        case("remove_by_filter", remove_by_filter),
        case("remove_nothing", remove_nothing),
        case("remove_survives_reopen", remove_survives_reopen).reopens(),
    ];
    let needed = |case: Case| case.needs(Need::DeadLetters);
    cases.into_iter().map(needed).collect()
}

/// The reasons of the dead letters that most cases begin with.
pub(super) const REASONS: [&str; 4] = [
    "order 17: no such account `ada`",
    "order 4711: no such account `bob`",
    "timed out",
    "timed out twice",
];

/// A group with four dead letters, `k1=a` and `k2=b` of partition 0, `k3=c` and `k1=d` of partition 1.
pub(super) async fn four(lab: &Lab) -> Check<(GroupSpec, Member)> {
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

pub(super) async fn die(lab: &Lab, member: &mut Member, reason: &str) -> Check {
    let delivery = member.delivery().await?;
    lab.settle(delivery.receipt, Verdict::Dead(reason.into()))
        .await
}

pub(super) async fn listed(
    lab: &Lab,
    spec: &GroupSpec,
    filter: DeadFilter,
) -> Check<Vec<DeadLetter>> {
    let (group, topic) = (spec.group.clone(), spec.topic.clone());
    Ok(lab
        .events
        .dead_letters(group, topic, filter, 0, 1_000)
        .await?)
}

pub(super) fn bodies(letters: &[DeadLetter]) -> Vec<String> {
    letters.iter().map(|letter| body(&letter.message)).collect()
}

/// What a filter picks, by body: the list and the dry run of a redrive say the same.
async fn picked(lab: &Lab, spec: &GroupSpec, filter: DeadFilter) -> Check<Vec<String>> {
    let found = bodies(&listed(lab, spec, filter.clone()).await?);
    if !lab.caps.redrive.is_there() {
        return Ok(found);
    }
    let count = redrive_with(lab, spec, filter, |redrive| redrive.dry_run = true).await?;
    check_eq!(
        count.count,
        found.len() as u64,
        "what a redrive would bring back"
    );
    Ok(found)
}

pub(super) async fn redrive_with(
    lab: &Lab,
    spec: &GroupSpec,
    filter: DeadFilter,
    change: impl FnOnce(&mut Redrive),
) -> Result<Redriven, Error> {
    let mut redrive = Redrive::new(spec.group.clone(), spec.topic.clone(), filter);
    change(&mut redrive);
    lab.events.redrive(redrive).await
}

pub(super) async fn remove(
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

pub(super) async fn edit(
    lab: &Lab,
    spec: &GroupSpec,
    number: u64,
    edit: DeadEdit,
) -> Result<(), Error> {
    edit_or_try(lab, spec, number, edit, false).await
}

async fn edit_or_try(
    lab: &Lab,
    spec: &GroupSpec,
    number: u64,
    edit: DeadEdit,
    dry_run: bool,
) -> Result<(), Error> {
    let edit = EditDead {
        group: spec.group.clone(),
        topic: spec.topic.clone(),
        number,
        edit,
        dry_run,
    };
    lab.events.edit_dead(edit).await
}

pub(super) fn new_body(text: &str) -> DeadEdit {
    DeadEdit::Put {
        key: None,
        body: Some(text.as_bytes().to_vec().into()),
        headers: None,
    }
}

pub(super) fn reason(text: &str) -> DeadFilter {
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
    refuses_edits(&lab, false).await
}

/// A dry run refuses what an edit would be refused for, and changes nothing.
async fn edit_dry_run(lab: Lab) -> Check {
    refuses_edits(&lab, true).await
}

async fn refuses_edits(lab: &Lab, dry_run: bool) -> Check {
    let (spec, _member) = four(lab).await?;
    let number = listed(lab, &spec, DeadFilter::default()).await?[0].number;
    let other_key = DeadEdit::Put {
        key: Some(b"k2".to_vec()),
        body: Some("mended".into()),
        headers: None,
    };
    let answer = edit_or_try(lab, &spec, number, other_key, dry_run).await;
    check_refused!(answer, Rejected, "another key");
    let large = DeadEdit::Put {
        key: None,
        body: Some(vec![b'x'; lab.caps.max_body + 1].into()),
        headers: None,
    };
    let answer = edit_or_try(lab, &spec, number, large, dry_run).await;
    check_refused!(answer, Rejected, "a body over the limit");
    let answer = edit_or_try(lab, &spec, 1_000_000, new_body("mended"), dry_run).await;
    check_refused!(answer, NotFound, "a number that is not there");
    if dry_run {
        edit_or_try(lab, &spec, number, new_body("mended"), true).await?;
    }
    let letter = listed(lab, &spec, DeadFilter::numbers([number])).await?;
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
    if !lab.caps.redrive.is_there() {
        return Ok(());
    }
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
