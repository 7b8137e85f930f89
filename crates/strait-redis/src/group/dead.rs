//! Dead letters of a group: listed, counted, brought back, changed, removed; and messages that are put to them by hand.

use std::collections::HashSet;
use std::time::Duration;

use redis::Value;
use strait_core::events::{
    AfterDead, DeadEdit, DeadFilter, DeadLetter, DeadSummary, EditDead, Redrive, Redriven,
    RemoveDead, SetAside, UndoRedrive, Undone,
};
use strait_core::{ChunkBuilder, Error, Kind, Message, Name, Result, Timestamp, codes};

use super::info::no_such_group;
use super::{Steered, letters};
use crate::engine::{MAX_BODY, Shared};
use crate::fault::odd;
use crate::keys::{self, GroupKeys};
use crate::reply::{bytes, entry, list, number, text};
use crate::script::Invoke;

/// Dead letters that are looked at together.
const PAGE: usize = 500;
/// Dead letters that one script brings back or removes.
const SLICE: usize = 4096;
/// Dead letters that may be brought back on a partition and not have ended: its owner keeps them in memory.
const BACK: usize = 100_000;

/// A dead letter with its bytes.
type Sized = (DeadLetter, usize);

fn no_such_letter(group: &Name, number: u64) -> Error {
    let text = format!("the group {group} has no dead letter {number}");
    Error::new(Kind::NotFound, text).next("list them: `strait dlq ls GROUP`")
}

fn no_such_run(group: &Name, run: u64) -> Error {
    let text = format!("the group {group} knows no run {run} of a redrive");
    Error::new(Kind::NotFound, text)
        .next("a redrive says the number of its run; a group remembers its newest 100")
}

impl Shared {
    pub(crate) async fn dead_letters(
        &self,
        group: &Name,
        topic: &Name,
        filter: &DeadFilter,
        from: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let found = self.stored(group, topic, filter, from, limit).await?;
        Ok(found.into_iter().map(|(letter, _)| letter).collect())
    }

    /// The dead letters from a number on that fit, at most so many, with their bytes.
    async fn stored(
        &self,
        group: &Name,
        topic: &Name,
        filter: &DeadFilter,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Sized>> {
        filter.check()?;
        let keys = self.group_there(group, topic).await?;
        let rest = DeadFilter {
            numbers: None,
            ..filter.clone()
        };
        let back = self.brought_back(&keys, topic).await?;
        let fits = |(letter, _): &Sized| !back.contains(&letter.number) && rest.picks(letter);
        if let Some(numbers) = &filter.numbers {
            let mut numbers: Vec<u64> = numbers.iter().copied().filter(|n| *n >= from).collect();
            numbers.sort_unstable();
            numbers.dedup();
            let found = self.numbered(&keys, topic, &numbers).await?;
            return Ok(found.into_iter().filter(fits).take(limit).collect());
        }
        let (mut next, mut found) = (Some(from), Vec::new());
        while let Some(from) = next.filter(|_| found.len() < limit) {
            let page = self.page(&keys, topic, from).await?;
            let last = page.last().filter(|_| page.len() == PAGE);
            next = last.and_then(|(letter, _)| letter.number.checked_add(1));
            found.extend(page.into_iter().filter(fits));
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The keys of a group that has to be there.
    async fn group_there(&self, group: &Name, topic: &Name) -> Result<GroupKeys> {
        self.steered(group, topic).await.map(|(keys, _)| keys)
    }

    async fn steered(&self, group: &Name, topic: &Name) -> Result<(GroupKeys, Steered)> {
        self.facts(topic).await?;
        let keys = GroupKeys::new(group, topic);
        let mut asked = redis::cmd("HMGET");
        asked.arg(&keys.group).arg(&["declared", "overrides"]);
        let what = format!("looking at the group {group:?}");
        let stored = self.link.run(&what, &asked, false).await?;
        let steered = list(&stored).and_then(Steered::read);
        let steered = steered.ok_or_else(|| no_such_group(group, topic))?;
        Ok((keys, steered))
    }

    /// The numbers of those that were brought back and have not ended.
    async fn brought_back(&self, keys: &GroupKeys, topic: &Name) -> Result<HashSet<u64>> {
        let facts = self.facts(topic).await?;
        let mut asked = redis::pipe();
        (0..facts.partitions).for_each(|partition| {
            asked.cmd("HKEYS").arg(keys.back(partition));
        });
        let what = "looking at what was brought back";
        let answers = self.link.run_all(what, &asked, false).await?;
        let numbers = answers.iter().filter_map(list).flatten();
        Ok(numbers
            .filter_map(number)
            .map(|number| number as u64)
            .collect())
    }

    /// The next page of dead letters, those that were brought back included.
    async fn page(&self, keys: &GroupKeys, topic: &Name, from: u64) -> Result<Vec<Sized>> {
        let mut asked = redis::cmd("XRANGE");
        asked
            .arg(&keys.dead)
            .arg(from)
            .arg("+")
            .arg("COUNT")
            .arg(PAGE);
        let answer = self.link.run("reading dead letters", &asked, false).await?;
        let entries: Vec<&Value> = list(&answer).unwrap_or_default().iter().collect();
        self.with_edits(keys, topic, &entries).await
    }

    /// The dead letters of these numbers that are there, those that were brought back included.
    pub(super) async fn numbered(
        &self,
        keys: &GroupKeys,
        topic: &Name,
        numbers: &[u64],
    ) -> Result<Vec<Sized>> {
        let mut found = Vec::new();
        for page in numbers.chunks(PAGE) {
            let mut asked = redis::pipe();
            for number in page {
                let id = format!("{number}-0");
                asked.cmd("XRANGE").arg(&keys.dead).arg(&id).arg(&id);
            }
            let answers = self
                .link
                .run_all("reading dead letters", &asked, false)
                .await?;
            let entries: Vec<&Value> = answers.iter().filter_map(list).flatten().collect();
            found.extend(self.with_edits(keys, topic, &entries).await?);
        }
        Ok(found)
    }

    async fn with_edits(
        &self,
        keys: &GroupKeys,
        topic: &Name,
        entries: &[&Value],
    ) -> Result<Vec<Sized>> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut asked = redis::cmd("HMGET");
        asked.arg(&keys.edits);
        for value in entries {
            let id = entry(value).and_then(|(id, _)| keys::position(id));
            let id = id.ok_or_else(|| odd("reading dead letters"))?;
            asked.arg(id.parts().0);
        }
        let edits = self.link.run("reading dead letters", &asked, false).await?;
        let edits = list(&edits).ok_or_else(|| odd("reading dead letters"))?;
        let pairs = entries.iter().zip(edits);
        pairs
            .map(|(value, edit)| letters::letter(value, bytes(edit), topic))
            .collect()
    }

    pub(crate) async fn dead_summary(
        &self,
        group: &Name,
        topic: &Name,
        filter: &DeadFilter,
    ) -> Result<Vec<DeadSummary>> {
        let all = self
            .dead_letters(group, topic, filter, 0, usize::MAX)
            .await?;
        Ok(DeadSummary::of(&all))
    }

    /// What a filter picks for a change: a number that is not there refuses it as a whole.
    async fn picked(&self, group: &Name, topic: &Name, filter: &DeadFilter) -> Result<Vec<Sized>> {
        if let Some(numbers) = &filter.numbers {
            let all = DeadFilter::numbers(numbers.iter().copied());
            let there = self.stored(group, topic, &all, 0, usize::MAX).await?;
            let there: HashSet<u64> = there.iter().map(|(letter, _)| letter.number).collect();
            if let Some(missing) = numbers.iter().find(|number| !there.contains(number)) {
                return Err(no_such_letter(group, *missing));
            }
        }
        self.stored(group, topic, filter, 0, usize::MAX).await
    }

    pub(crate) async fn remove_dead(&self, remove: RemoveDead) -> Result<u64> {
        let (group, topic) = (&remove.group, &remove.topic);
        let picked = self.picked(group, topic, &remove.filter).await?;
        match remove.dry_run {
            true => Ok(picked.len() as u64),
            false => self.remove_these(group, topic, &picked).await,
        }
    }

    async fn remove_these(&self, group: &Name, topic: &Name, picked: &[Sized]) -> Result<u64> {
        let keys = GroupKeys::new(group, topic);
        let facts = self.facts(topic).await?;
        let mut removed = 0;
        for slice in picked.chunks(SLICE) {
            let mut invoke = self.scripts.remove.prepare();
            invoke.key(keys.group.clone()).key(keys.dead.clone());
            invoke.key(keys.edits.clone());
            put_partitions(&mut invoke, &keys, facts.partitions);
            for (letter, _) in slice {
                invoke.arg(letter.number).arg(letter.message.partition());
            }
            let answer = self.script("removing dead letters", &invoke, true).await?;
            removed += number(&answer).unwrap_or_default() as u64;
        }
        self.tell(group, topic);
        Ok(removed)
    }

    /// Removes what is older than the groups of declared topics keep it.
    pub(crate) async fn expire_all_dead(&self) -> Result<()> {
        for topic in self.names().await? {
            for group in self.group_names(&topic).await? {
                self.expire_dead(&group, &topic).await?;
            }
        }
        Ok(())
    }

    /// Removes dead letters that are older than their group keeps them.
    async fn expire_dead(&self, group: &Name, topic: &Name) -> Result<()> {
        let (keys, steered) = match self.steered(group, topic).await {
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            steered => steered?,
        };
        let Some(age) = steered.declared.dead_age else {
            return Ok(());
        };
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp::from_millis(Timestamp::now().as_millis().saturating_sub(age));
        let mut next = Some(0);
        while let Some(from) = next {
            let page = self.page(&keys, topic, from).await?;
            let last = page.last().filter(|_| page.len() == PAGE);
            next = last.and_then(|(letter, _)| letter.number.checked_add(1));
            // They lie in the order in which they died, but for differences between the clocks of members.
            let old = page
                .iter()
                .take_while(|(letter, _)| letter.died < before)
                .count();
            if old < page.len() {
                next = None;
            }
            self.remove_these(group, topic, &page[..old]).await?;
        }
        Ok(())
    }

    pub(crate) async fn redrive(&self, redrive: Redrive) -> Result<Redriven> {
        let (group, topic) = (&redrive.group, &redrive.topic);
        if redrive.per_second == Some(0) {
            let text = "a redrive at 0 a second would bring nothing back";
            return Err(Error::new(Kind::Rejected, text).next("give at least 1, or no rate"));
        }
        let mut picked = self.picked(group, topic, &redrive.filter).await?;
        let rate = u64::from(redrive.per_second.unwrap_or(0));
        if redrive.dry_run {
            let known = match redrive.resume {
                Some(run) => self.knows_run(group, topic, run).await?,
                None => true,
            };
            let count = picked.len() as u64;
            let gaps = count.saturating_sub(1) * 1000;
            return match known {
                true => Ok(Redriven {
                    run: None,
                    count,
                    lasts: Duration::from_millis(gaps.checked_div(rate).unwrap_or(0)),
                }),
                false => Err(no_such_run(group, redrive.resume.unwrap_or_default())),
            };
        }
        picked.sort_by_key(|(letter, _)| {
            let message = &letter.message;
            (message.appended(), message.partition(), message.position())
        });
        let done = self.bring_back(&redrive, rate, &picked).await;
        self.tell(group, topic);
        done
    }

    async fn knows_run(&self, group: &Name, topic: &Name, run: u64) -> Result<bool> {
        let mut asked = redis::cmd("HEXISTS");
        asked.arg(GroupKeys::new(group, topic).runs).arg(run);
        let answer = self
            .link
            .run("looking for a redrive", &asked, false)
            .await?;
        Ok(number(&answer) == Some(1))
    }

    async fn bring_back(&self, redrive: &Redrive, rate: u64, picked: &[Sized]) -> Result<Redriven> {
        let what = "bringing dead letters back";
        let (group, topic) = (&redrive.group, &redrive.topic);
        let keys = GroupKeys::new(group, topic);
        let facts = self.facts(topic).await?;
        let mut done = Redriven {
            run: None,
            count: 0,
            lasts: Duration::ZERO,
        };
        let slices = picked.chunks(SLICE);
        // A run that is not known is refused also where nothing comes back.
        let slices = slices.chain(picked.is_empty().then_some(picked));
        for slice in slices {
            let mut invoke = self.scripts.redrive.prepare();
            invoke.key(keys.group.clone()).key(keys.dead.clone());
            invoke.key(keys.runs.clone());
            put_partitions(&mut invoke, &keys, facts.partitions);
            let run = done.run.or(redrive.resume).map(|run| run.to_string());
            invoke.arg(run.unwrap_or_default());
            // Rounded up: none comes before its time.
            let at = Timestamp::now().due(Duration::ZERO).as_millis();
            invoke.arg(at).arg(rate as i64).arg(BACK as i64);
            for (letter, _) in slice {
                let message = &letter.message;
                invoke.arg(letter.number).arg(message.partition());
                invoke.arg(keys::id(message.position()));
            }
            let answer = self.script(what, &invoke, true).await?;
            let answer = list(&answer).ok_or_else(|| odd(what))?;
            let number_of =
                |index: usize| answer.get(index).and_then(number).unwrap_or_default() as u64;
            match answer.first().and_then(text) {
                Some("gone") => return Err(no_such_group(group, topic)),
                Some("unknown") => {
                    return Err(no_such_run(group, redrive.resume.unwrap_or_default()));
                }
                _ => {}
            }
            if number_of(2) > 0 {
                done.run = Some(number_of(1));
                done.count += number_of(2);
                done.lasts = Duration::from_millis(number_of(3));
            }
            if number_of(4) == 1 {
                return Err(too_many_back(group, &done));
            }
        }
        Ok(done)
    }

    pub(crate) async fn undo_redrive(&self, undo: UndoRedrive) -> Result<Undone> {
        let what = "taking a redrive back";
        let (keys, steered) = self.steered(&undo.group, &undo.topic).await?;
        let facts = self.facts(&undo.topic).await?;
        let mut invoke = self.scripts.undo.prepare();
        invoke.key(keys.group.clone()).key(keys.dead.clone());
        invoke.key(keys.runs.clone());
        for partition in 0..facts.partitions {
            invoke.key(keys.shard(partition)).key(keys.back(partition));
            invoke.key(keys.held(partition));
        }
        invoke.arg(undo.run).arg(i64::from(undo.dry_run));
        let holds = steered.rules().after_dead == AfterDead::HoldKey;
        invoke.arg(i64::from(holds));
        let answer = self.script(what, &invoke, true).await?;
        let answer = list(&answer).ok_or_else(|| odd(what))?;
        let number_of =
            |index: usize| answer.get(index).and_then(number).unwrap_or_default() as u64;
        self.tell(&undo.group, &undo.topic);
        match answer.first().and_then(text) {
            Some("done") => Ok(Undone {
                returned: number_of(1),
                out: number_of(2),
                handled: number_of(3),
            }),
            Some("unknown") => Err(no_such_run(&undo.group, undo.run)),
            _ => Err(no_such_group(&undo.group, &undo.topic)),
        }
    }

    pub(crate) async fn edit_dead(&self, edit: EditDead) -> Result<()> {
        let one = DeadFilter::numbers([edit.number]);
        let letters = self.stored(&edit.group, &edit.topic, &one, 0, 1).await?;
        let missing = || no_such_letter(&edit.group, edit.number);
        let (letter, _) = letters.first().ok_or_else(missing)?;
        let copy = match edit.edit {
            DeadEdit::Drop => Vec::new(),
            DeadEdit::Put { key, body, headers } => {
                let present = letter.edited.as_ref().unwrap_or(&letter.message);
                if key.is_some_and(|key| present.record().key() != Some(&key)) {
                    let text = format!("dead letter {} has another key", edit.number);
                    return Err(Error::new(Kind::Rejected, text)
                        .next("leave the key out: another one would leave the order of its key"));
                }
                let fields = changed(present, body.as_deref(), headers.as_deref())?;
                letters::check(&fields, &letter.message)?;
                letters::pack(&fields)
            }
        };
        if edit.dry_run {
            return Ok(());
        }
        let keys = GroupKeys::new(&edit.group, &edit.topic);
        let mut invoke = self.scripts.edit.prepare();
        invoke.key(keys.group.clone()).key(keys.dead.clone());
        invoke.key(keys.edits.clone());
        invoke.key(keys.back(letter.message.partition()));
        invoke.arg(edit.number).arg(copy);
        let answer = self.script("changing a dead letter", &invoke, true).await?;
        match number(&answer) {
            Some(1) => Ok(()),
            _ => Err(missing()),
        }
    }

    /// One message of the log.
    async fn message(&self, aside: &SetAside) -> Result<Message> {
        let (topic, partition) = (&aside.topic, aside.partition);
        let id = keys::id(aside.position);
        let mut asked = redis::cmd("XRANGE");
        asked.arg(keys::stream(topic, partition)).arg(&id).arg(&id);
        let answer = self.link.run("reading a message", &asked, false).await?;
        let mut chunk = ChunkBuilder::new(topic.clone(), partition);
        for value in list(&answer).unwrap_or_default() {
            crate::entry::push(&mut chunk, value)?;
        }
        let chunk = chunk.build(aside.position.next());
        let found = chunk.iter().next().map(|item| item.to_message());
        found.ok_or_else(|| {
            let text = format!("partition {partition} of the topic {topic:?} has no message {id}");
            Error::new(Kind::NotFound, text)
                .next("it was removed, or never written: `strait topic show` says where it begins and ends")
        })
    }

    pub(crate) async fn set_aside(&self, aside: SetAside) -> Result<u64> {
        let what = "setting a message aside";
        let (group, topic) = (&aside.group, &aside.topic);
        self.partition(topic, aside.partition).await?;
        let (keys, steered) = self.steered(group, topic).await?;
        let message = self.message(&aside).await?;
        let rules = steered.rules();
        let of = aside.partition;
        let mut invoke = self.scripts.aside.prepare();
        let all = [
            keys.group.clone(),
            keys.shard(of),
            keys.settled(of),
            keys.again(of),
            keys.back(of),
            keys.dead.clone(),
            keys.held(of),
            keys::stream(topic, of),
        ];
        all.into_iter().for_each(|key| {
            invoke.key(key);
        });
        invoke.arg(keys::id(aside.position));
        invoke
            .arg(i64::from(aside.force))
            .arg(i64::from(aside.dry_run));
        let holds = rules.after_dead == AfterDead::HoldKey;
        invoke.arg(letters::holds(&message, holds));
        let copy = rules.dead_topic.map(|topic| keys::stream(&topic, 0));
        invoke.arg(copy.unwrap_or_default());
        letters::fields(&message, &aside.reason)
            .into_iter()
            .for_each(|field| {
                invoke.arg(field);
            });
        let answer = self.script(what, &invoke, true).await?;
        let answer = list(&answer).ok_or_else(|| odd(what))?;
        self.tell(group, topic);
        match (answer.first().and_then(text), answer.get(1)) {
            (Some("done"), Some(made)) => Ok(number(made).unwrap_or_default() as u64),
            (Some(why), _) => Err(not_aside(&aside, why)),
            _ => Err(odd(what)),
        }
    }
}

/// What is brought back and what holds keys, of each partition.
fn put_partitions(invoke: &mut Invoke, keys: &GroupKeys, partitions: u32) {
    for partition in 0..partitions {
        invoke.key(keys.back(partition)).key(keys.held(partition));
    }
}

fn too_many_back(group: &Name, done: &Redriven) -> Error {
    let text = format!(
        "the group {group} has {BACK} dead letters on one partition that came back and have not ended: {} came back now",
        done.count
    );
    let error = Error::new(Kind::Busy, text);
    let error = match done.run {
        Some(run) => error.with("run", run),
        None => error,
    };
    error.next("let its members work, then go on with this run")
}

/// Why a message cannot be put to the dead letters.
fn not_aside(aside: &SetAside, why: &str) -> Error {
    let (position, partition) = (aside.position, aside.partition);
    let text = format!("{position} of partition {partition} is not set aside");
    match why {
        "out" => Error::new(Kind::Conflict, format!("{text}: a member has it"))
            .next("wait until it is settled, or force it: the member's receipt is fenced then"),
        "nowhere" => {
            let text = format!("{text}: the topic for copies of dead letters is not there");
            Error::new(Kind::NotFound, text).code(codes::NO_SUCH_TOPIC)
        }
        "unplaced" => Error::new(
            Kind::Conflict,
            format!("{text}: the group has no position on that partition yet"),
        )
        .next("its first member gives it one"),
        _ => Error::new(Kind::Conflict, format!("{text}: it is settled"))
            .next("one that a redrive brought back is taken back with its run"),
    }
}

/// The fields of a changed copy.
fn changed(
    present: &Message,
    body: Option<&[u8]>,
    headers: Option<&[(String, bytes::Bytes)]>,
) -> Result<Vec<Vec<u8>>> {
    if let Some(body) = body.filter(|body| body.len() > MAX_BODY) {
        let text = format!("the body has {} bytes, the limit is {MAX_BODY}", body.len());
        return Err(Error::new(Kind::Rejected, text).code(codes::TOO_LARGE));
    }
    let most = crate::append::MAX_HEADERS;
    if let Some(headers) = headers.filter(|headers| headers.len() > most) {
        let text = format!(
            "{} headers are given, the limit on Redis is {most}",
            headers.len()
        );
        return Err(Error::new(Kind::Rejected, text).next("put them into the body"));
    }
    let fields = letters::message_fields(present);
    let mut changed = Vec::with_capacity(fields.len());
    for pair in fields.chunks_exact(2) {
        let (name, value) = (&pair[0], &pair[1]);
        if headers.is_some() && name.starts_with(crate::entry::HEADER.as_bytes()) {
            continue;
        }
        let value = match body {
            Some(body) if name == b"body" => body,
            _ => value,
        };
        changed.extend([name.clone(), value.to_vec()]);
    }
    for (name, value) in headers.into_iter().flatten() {
        changed.push(format!("{}{name}", crate::entry::HEADER).into_bytes());
        changed.push(value.to_vec());
    }
    Ok(changed)
}
