//! Dead letters, on the caller's thread: picked by a filter in bounded looks at the state, then changed slice by slice
//! by the writer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

mod aside;
mod pick;

pub(crate) use aside::set_aside;
use bytes::Bytes;
use pick::Pick;
use strait_core::events::{
    DeadEdit, DeadFilter, DeadLetter, DeadSummary, EditDead, ErrorFingerprint, Redrive, Redriven,
    RemoveDead, UndoRedrive, Undone,
};
use strait_core::{
    Attr, Error, Kind, Message, NewRecord, Records, RecordsBuilder, Result, Timestamp, codes,
};
use tokio::sync::oneshot;

use crate::again::read_all_again;
use crate::command::dead::{DeadCommand, Of, Slice};
use crate::command::{Again, Answer, Command};
use crate::events::check_size;
use crate::ops::GroupId;
use crate::shared::Shared;
use crate::state::State;
use crate::state::dead::{Dead, Grave};
use crate::state::group::Group;
use crate::turn::dead::{SLICE, no_such_letter, no_such_run};
use crate::turn::{no_such_group, no_such_topic};

/// So many of them are read at a time.
const READ: usize = 256;
/// So many slices are on their way to the disk at a time.
const WINDOW: usize = 4;
/// What a number takes in the log at most, about.
const NUMBER_BYTES: usize = 12;

fn find<'s>(state: &'s State, of: &Of) -> Result<&'s Group> {
    let (group, topic) = of;
    state
        .topic_named(topic)
        .ok_or_else(|| no_such_topic(topic))?;
    let found = state.group_named(group, topic);
    found.ok_or_else(|| no_such_group(group, topic))
}

/// A dead letter as it was seen.
#[derive(Debug, Clone)]
struct Seen {
    number: u64,
    dead: Dead,
    /// Its edit is durable.
    edited: bool,
}

pub(crate) fn letters(
    shared: &Shared,
    of: &Of,
    filter: &DeadFilter,
    from: u64,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    let pick = Pick::new(filter)?;
    let mut found = Vec::new();
    let mut at = Some(from);
    while let Some(from) = at.filter(|_| found.len() < limit) {
        let mut left = limit - found.len();
        let (mut seen, mut next) = pick.look(shared, of, from, |number, dead| {
            left = left.checked_sub(1)?;
            Some((number, dead.clone()))
        })?;
        if left == 0 && seen.len() + found.len() >= limit {
            // More may have fitted than were wanted.
            next = seen.last().map(|(number, _)| number + 1);
        }
        for some in seen.chunks_mut(READ) {
            let some: Vec<Seen> = visible_edits(shared, of, some)?;
            for letter in read(shared, of, &some)? {
                if pick.has_key(&letter.message) {
                    found.push(letter);
                }
            }
        }
        at = next;
    }
    Ok(found)
}

fn visible_edits(shared: &Shared, of: &Of, some: &[(u64, Dead)]) -> Result<Vec<Seen>> {
    let state = shared.state.lock();
    let visible = find(&state, of)?.graveyard.visible;
    let seen = |(number, dead): &(u64, Dead)| Seen {
        number: *number,
        edited: dead.edited > 0 && dead.edited < visible,
        dead: dead.clone(),
    };
    Ok(some.iter().map(seen).collect())
}

/// The dead letters with their messages. Those that were removed meanwhile are passed over.
fn read(shared: &Shared, of: &Of, some: &[Seen]) -> Result<Vec<DeadLetter>> {
    let (group, topic) = ids(shared, of)?;
    let name = of.1.shared();
    let again = |seen: &Seen, number: u64| Again {
        offset: seen.dead.offset,
        attempt: 0,
        reason: None,
        grave: Some(Grave {
            number,
            appended: seen.dead.appended,
        }),
    };
    let originals: Vec<Again> = some.iter().map(|seen| again(seen, seen.number)).collect();
    let edits = some.iter().filter(|seen| seen.edited);
    let edits: Vec<Again> = edits.map(|seen| again(seen, seen.dead.edited)).collect();
    // The partition of each is put right below: one read holds those of many.
    let mut messages = read_all_again(shared, &name, topic, group, 0, &originals).into_iter();
    let mut edits = read_all_again(shared, &name, topic, group, 0, &edits).into_iter();
    let mut letters = Vec::with_capacity(some.len());
    for seen in some {
        let Seen { number, dead, .. } = seen;
        let place = |message: Message| {
            let (position, appended) = (message.position(), message.appended());
            message.placed(dead.shard, position, appended)
        };
        let message = messages.next();
        let edited = if seen.edited { edits.next() } else { None };
        let message = match message {
            Some(Err(error)) if error.is(codes::OFFSET_GONE) => continue,
            Some(message) => place(message?.ok_or_else(|| lost(*number, of))?),
            None => continue,
        };
        let edited = edited
            .transpose()?
            .map(|edit| edit.ok_or_else(|| lost(*number, of)));
        letters.push(DeadLetter {
            number: *number,
            message,
            edited: edited.transpose()?.map(place),
            attempts: dead.attempts,
            reason: dead.reason.clone(),
            fingerprint: dead.fingerprint,
            died: Timestamp::from_millis(dead.died),
            history: dead.history.as_deref().unwrap_or_default().to_vec(),
        });
    }
    Ok(letters)
}

fn lost(number: u64, of: &Of) -> Error {
    let text = format!(
        "the body of dead letter {number} of `{}` cannot be read",
        of.0
    );
    Error::new(Kind::Corrupt, text).next("run `strait verify` on the directory")
}

fn ids(shared: &Shared, of: &Of) -> Result<(GroupId, u32)> {
    let state = shared.state.lock();
    let group = find(&state, of)?;
    Ok((group.id, group.topic))
}

/// What the summary knows of one fingerprint so far.
struct Sum {
    count: u64,
    example: Arc<str>,
    first: i64,
    last: i64,
    keys: HashSet<u64>,
}

pub(crate) fn summary(shared: &Shared, of: &Of, filter: &DeadFilter) -> Result<Vec<DeadSummary>> {
    let pick = Pick::new(filter)?;
    let mut sums: HashMap<ErrorFingerprint, Sum> = HashMap::new();
    let mut add = |dead: &Dead| {
        let sum = sums.entry(dead.fingerprint).or_insert_with(|| Sum {
            count: 0,
            example: dead.reason.clone(),
            first: dead.died,
            last: dead.died,
            keys: HashSet::new(),
        });
        sum.count += 1;
        sum.first = sum.first.min(dead.died);
        if dead.died >= sum.last {
            sum.last = dead.died;
            sum.example = dead.reason.clone();
        }
        if dead.key != 0 {
            sum.keys.insert(dead.key);
        }
    };
    if pick.reads() {
        for chosen in select(shared, of, &pick)? {
            let state = shared.state.lock();
            if let Some(dead) = find(&state, of)?.dead.letters.get(&chosen.number) {
                add(dead);
            }
        }
    } else {
        let mut at = Some(0);
        while let Some(from) = at {
            let seen = pick.look(shared, of, from, |_, dead| {
                add(dead);
                None::<()>
            })?;
            at = seen.1;
        }
    }
    let summary = |(fingerprint, sum): (ErrorFingerprint, Sum)| DeadSummary {
        fingerprint,
        count: sum.count,
        example: sum.example,
        first_died: Timestamp::from_millis(sum.first),
        last_died: Timestamp::from_millis(sum.last),
        keys: sum.keys.len() as u64,
    };
    let mut all: Vec<DeadSummary> = sums.into_iter().map(summary).collect();
    all.sort_by_key(|sum| (std::cmp::Reverse(sum.count), sum.fingerprint));
    Ok(all)
}

/// A dead letter that was picked, and its place in the order.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    number: u64,
    shard: u32,
    offset: u64,
    appended: i64,
}

impl Chosen {
    fn of(number: u64, dead: &Dead) -> Chosen {
        Chosen {
            number,
            shard: dead.shard,
            offset: dead.offset,
            appended: dead.appended,
        }
    }
}

/// All that the filter picks, by number.
fn select(shared: &Shared, of: &Of, pick: &Pick<'_>) -> Result<Vec<Chosen>> {
    pick.check_numbers(shared, of)?;
    let mut all = Vec::new();
    let mut at = Some(0);
    while let Some(from) = at {
        if pick.reads() {
            let (seen, next) = pick.look(shared, of, from, |number, dead| {
                Some((number, dead.clone()))
            })?;
            for some in seen.chunks(READ) {
                let some = visible_edits(shared, of, some)?;
                let of_key = read(shared, of, &some)?;
                let of_key = of_key.iter().filter(|letter| pick.has_key(&letter.message));
                let of_key: HashSet<u64> = of_key.map(|letter| letter.number).collect();
                let kept = some.iter().filter(|seen| of_key.contains(&seen.number));
                all.extend(kept.map(|seen| Chosen::of(seen.number, &seen.dead)));
            }
            at = next;
        } else {
            let (seen, next) = pick.look(shared, of, from, |number, dead| {
                Some(Chosen::of(number, dead))
            })?;
            all.extend(seen);
            at = next;
        }
    }
    Ok(all)
}

/// In the order in which they were appended, that of each partition kept whatever the clock did.
fn in_order(mut chosen: Vec<Chosen>) -> Vec<Chosen> {
    chosen.sort_unstable_by_key(|one| (one.shard, one.offset, one.number));
    let mut latest = (0, i64::MIN);
    for one in &mut chosen {
        if one.shard != latest.0 {
            latest = (one.shard, i64::MIN);
        }
        latest.1 = latest.1.max(one.appended);
        one.appended = latest.1;
    }
    chosen.sort_by_key(|one| one.appended);
    chosen
}

fn numbers(chosen: &[Chosen]) -> Vec<u64> {
    chosen.iter().map(|one| one.number).collect()
}

/// Sends slices to the writer, some ahead of their answers; gives the answers in order, up to the first error.
async fn by_slices<T>(
    shared: &Shared,
    chosen: &[Chosen],
    mut command: impl FnMut(Vec<u64>, Answer<Result<T>>) -> DeadCommand,
    mut answered: impl FnMut(T),
) -> Result<()> {
    let mut slices = chosen.chunks(SLICE);
    let mut waiting: VecDeque<oneshot::Receiver<Result<T>>> = VecDeque::new();
    loop {
        if waiting.len() < WINDOW
            && let Some(slice) = slices.next()
        {
            let bytes = slice.len() * NUMBER_BYTES;
            shared.budget.take(bytes).await;
            let (to, answer) = oneshot::channel();
            let command = command(numbers(slice), to);
            shared.push(Command::Dead(Box::new(command)), bytes);
            waiting.push_back(answer);
            continue;
        }
        let Some(answer) = waiting.pop_front() else {
            return Ok(());
        };
        answered(answer.await.map_err(|_| shared.ended_error())??);
    }
}

async fn ask<T>(
    shared: &Shared,
    bytes: usize,
    command: impl FnOnce(Answer<Result<T>>) -> DeadCommand,
) -> Result<T> {
    shared.budget.take(bytes).await;
    let command = |to| Command::Dead(Box::new(command(to)));
    shared.ask(bytes, command).await?
}

/// What a redrive of so many would say.
fn would_redrive(count: u64, per_second: u32) -> Redriven {
    let wait = count.saturating_sub(1).saturating_mul(1000);
    let wait = wait.checked_div(u64::from(per_second)).unwrap_or(0);
    Redriven {
        run: None,
        count,
        lasts: Duration::from_millis(wait),
    }
}

pub(crate) async fn redrive(shared: &Shared, redrive: Redrive) -> Result<Redriven> {
    let of = (redrive.group, redrive.topic);
    if redrive.per_second == Some(0) {
        let text = "a redrive of 0 a second would never end";
        return Err(Error::new(Kind::Rejected, text).next("give at least 1, or no rate"));
    }
    let per_second = redrive.per_second.unwrap_or(0);
    if let Some(run) = redrive.resume {
        let state = shared.state.lock();
        if !find(&state, &of)?.dead.runs.contains_key(&run) {
            return Err(no_such_run(&of, run));
        }
    }
    let pick = Pick::new(&redrive.filter)?;
    let chosen = in_order(select(shared, &of, &pick)?);
    let mut done = Redriven {
        run: redrive.resume,
        count: 0,
        lasts: Duration::ZERO,
    };
    if redrive.dry_run {
        return Ok(would_redrive(chosen.len() as u64, per_second));
    }
    let command = |of: &Of, run, numbers, answer| DeadCommand::Redrive {
        of: of.clone(),
        run,
        per_second,
        numbers,
        answer,
    };
    let add = |done: &mut Redriven, slice: Slice| {
        done.count += slice.count;
        done.lasts = done.lasts.max(Duration::from_millis(slice.lasts));
        if slice.count > 0 {
            done.run = Some(slice.run);
        }
    };
    let mut rest = &chosen[..];
    // The first slice that brings something back gives the run its number.
    while done.run.is_none()
        && let Some((first, after)) = rest.split_at_checked(SLICE.min(rest.len()))
        && !first.is_empty()
    {
        let bytes = first.len() * NUMBER_BYTES;
        let slice = ask(shared, bytes, |to| command(&of, None, numbers(first), to)).await?;
        add(&mut done, slice);
        rest = after;
    }
    let run = done.run;
    by_slices(
        shared,
        rest,
        |numbers, to| command(&of, run, numbers, to),
        |slice| add(&mut done, slice),
    )
    .await?;
    Ok(Redriven {
        run: done
            .run
            .filter(|_| done.count > 0 || redrive.resume.is_some()),
        ..done
    })
}

pub(crate) async fn remove(shared: &Shared, remove: RemoveDead) -> Result<u64> {
    let of = (remove.group, remove.topic);
    let pick = Pick::new(&remove.filter)?;
    let chosen = select(shared, &of, &pick)?;
    if remove.dry_run {
        return Ok(chosen.len() as u64);
    }
    let mut removed = 0;
    let command = |numbers, answer| DeadCommand::Remove {
        of: of.clone(),
        numbers,
        answer,
    };
    by_slices(shared, &chosen, command, |count| removed += count).await?;
    Ok(removed)
}

pub(crate) async fn undo(shared: &Shared, undo: UndoRedrive) -> Result<Undone> {
    let (of, run) = ((undo.group, undo.topic), undo.run);
    let (brought, waiting, all) = {
        let state = shared.state.lock();
        let group = find(&state, &of)?;
        let mine = group.dead.redriven.iter().filter(|(_, d)| d.run == run);
        let mine: Vec<Chosen> = mine.map(|(n, dead)| Chosen::of(*n, dead)).collect();
        let all = mine.len() as u64;
        let waits = |one: &Chosen| group.waits_in(one.number, run);
        let waiting: Vec<Chosen> = mine.into_iter().filter(waits).collect();
        let known = group.dead.runs.get(&run).map(|run| run.count);
        (known.or((all > 0).then_some(all)), waiting, all)
    };
    let brought = brought.ok_or_else(|| no_such_run(&of, run))?;
    let handled = brought.saturating_sub(all);
    if undo.dry_run {
        let returned = waiting.len() as u64;
        return Ok(Undone {
            returned,
            out: all - returned,
            handled,
        });
    }
    // The last of a key first: what is not taken back yet still comes in order.
    let mut chosen = in_order(waiting);
    chosen.reverse();
    let mut returned = 0;
    let command = |numbers, answer| DeadCommand::Undo {
        of: of.clone(),
        run,
        numbers,
        answer,
    };
    by_slices(shared, &chosen, command, |count| returned += count).await?;
    let left = {
        let state = shared.state.lock();
        let group = find(&state, &of)?;
        let left = group.dead.redriven.values().filter(|dead| dead.run == run);
        left.count() as u64
    };
    Ok(Undone {
        returned,
        out: left,
        handled: brought.saturating_sub(returned).saturating_sub(left),
    })
}

pub(crate) async fn edit(shared: &Shared, edit: EditDead) -> Result<()> {
    let (of, number) = ((edit.group, edit.topic), edit.number);
    let letter = {
        let filter = DeadFilter::numbers([number]);
        letters(shared, &of, &filter, number, 1)?.pop()
    };
    let letter = letter.ok_or_else(|| no_such_letter(&of, number))?;
    let copy = match edit.edit {
        DeadEdit::Drop => None,
        DeadEdit::Put { key, body, headers } => {
            let present = letter.edited.as_ref().unwrap_or(&letter.message);
            if let Some(key) = key
                && present.record().key() != Some(&key)
            {
                return Err(other_key(number));
            }
            let copy = changed(shared, present, body, headers)?;
            check_size(shared, &copy)?;
            Some(copy)
        }
    };
    if edit.dry_run {
        return Ok(());
    }
    let bytes = copy.as_ref().map_or(0, |copy| copy.bytes().len());
    let command = |answer| DeadCommand::Edit {
        of,
        number,
        copy,
        answer,
    };
    ask(shared, bytes, command).await
}

fn other_key(number: u64) -> Error {
    let text = format!(
        "dead letter {number} cannot get another key: its place in the order of its key is what a redrive keeps"
    );
    Error::new(Kind::Rejected, text)
        .next("leave the key as it is, or remove the dead letter and append a new message")
}

/// The message with another body and other headers, as a batch of its own with the same id.
fn changed(
    shared: &Shared,
    message: &Message,
    body: Option<Bytes>,
    headers: Option<Vec<(String, Bytes)>>,
) -> Result<Records> {
    let record = message.record();
    let id = record.id().to_string();
    let mut attrs: Vec<(Attr, &str)> = record.attrs().filter(|(a, _)| *a != Attr::Id).collect();
    attrs.push((Attr::Id, &id));
    let headers: Vec<(&str, &[u8])> = match &headers {
        Some(headers) => headers.iter().map(|(k, v)| (&**k, &**v)).collect(),
        None => record.headers().collect(),
    };
    let limits = shared.options.limits;
    let batch = record.batch().id();
    let mut builder = RecordsBuilder::with(&attrs, limits, record.time(), batch)?;
    builder.push(NewRecord {
        key: record.key(),
        body: body.as_deref().unwrap_or(record.body()),
        headers: &headers,
        time: Some(record.time()),
        attrs: &[],
    })?;
    Ok(builder.build())
}
