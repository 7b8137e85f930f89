//! Dead letters: a topic of their own, `TOPIC.GROUP.dead`, with one partition. The number of one is its offset there.
//!
//! A dead letter is the message as it was, key, headers and body, with headers about its end: `strait-dead-topic`,
//! `strait-dead-partition`, `strait-dead-offset`, `strait-dead-attempts`, `strait-dead-reason`, `strait-dead-time` (when it
//! died) and `strait-dead-appended`, both in milliseconds since 1970. Which were removed is the progress of a group of the
//! topic's name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord};
use strait_core::events::{
    Cursor, DeadFilter, DeadLetter, DeadSummary, ErrorFingerprint, RemoveDead, Start, TopicSpec,
};
use strait_core::{
    Error, Kind, Message, Name, NewRecord, Position, RecordsBuilder, Result, Timestamp, codes,
};
use strait_member::{Range, Step};

use crate::engine::Shared;
use crate::envelope;
use crate::fault::fault;
use crate::group::{Part, kept};
use crate::link::Link;
use crate::produce::Pending;
use crate::transact::Report;

const TOPIC: &str = "strait-dead-topic";
const PARTITION: &str = "strait-dead-partition";
const OFFSET: &str = "strait-dead-offset";
const ATTEMPTS: &str = "strait-dead-attempts";
const REASON: &str = "strait-dead-reason";
const TIME: &str = "strait-dead-time";
const APPENDED: &str = "strait-dead-appended";
const OWN: [&str; 7] = [TOPIC, PARTITION, OFFSET, ATTEMPTS, REASON, TIME, APPENDED];

/// The topic of a group's dead letters.
pub(crate) fn topic_of(group: &Name, topic: &Name) -> Result<Name> {
    Name::new(&format!("{topic}.{group}.dead"))
}

/// Writes the dead letters of a step, and their copies, into the transaction that is open.
pub(crate) fn write(
    producer: &BaseProducer<Link>,
    part: &Part,
    step: &Step,
    attempts: u32,
    reason: &str,
) -> Result<Vec<Written>> {
    let spec = part.member.spec();
    let topic = topic_of(&spec.group, &spec.topic)?;
    let mut written = Vec::new();
    for message in part.member.messages(part, step) {
        let report = one(producer, &topic, Some(0), &message, attempts, reason)?;
        written.push((topic.clone(), report));
        if let Some(copy) = &spec.dead_topic {
            one(producer, copy, None, &message, attempts, reason)?;
        }
    }
    Ok(written)
}

/// A dead letter on its way: its topic, and where it will be.
pub(crate) type Written = (Name, Report);

fn one(
    producer: &BaseProducer<Link>,
    topic: &Name,
    partition: Option<i32>,
    message: &Message,
    attempts: u32,
    reason: &str,
) -> Result<Report> {
    let (pending, report) = Pending::one();
    let record = message.record();
    let mut headers = envelope::headers(&record);
    let mut put = |name: &str, value: &str| {
        let before = std::mem::replace(&mut headers, OwnedHeaders::new());
        headers = envelope::put(before, name, value.as_bytes());
    };
    put(TOPIC, message.topic());
    put(PARTITION, &message.partition().to_string());
    put(OFFSET, &message.position().to_string());
    put(ATTEMPTS, &attempts.to_string());
    put(REASON, reason);
    put(TIME, &Timestamp::now().as_millis().to_string());
    put(APPENDED, &message.appended().as_millis().to_string());
    let mut out: BaseRecord<'_, [u8], [u8], Arc<Pending>> =
        BaseRecord::with_opaque_to(topic, pending);
    out.partition = partition;
    out.key = record.key();
    out.payload = Some(record.body());
    out.timestamp = Some(envelope::timestamp(&record));
    out.headers = Some(headers);
    producer
        .send(out)
        .map_err(|(error, _)| fault(format!("writing a dead letter to {topic:?}"), error))?;
    Ok(report)
}

/// A dead letter of what stands in its topic; `None` for what this engine did not write there.
fn read(message: &Message) -> Option<DeadLetter> {
    let record = message.record();
    let text = |name: &str| std::str::from_utf8(record.header(name)?).ok();
    let number = |name: &str| text(name)?.parse::<i64>().ok();
    let headers: Vec<(&str, &[u8])> = record
        .headers()
        .filter(|(name, _)| !OWN.contains(name))
        .collect();
    let attrs: Vec<_> = record.own_attrs().collect();
    let id = record.batch().id();
    let mut builder = RecordsBuilder::with(&[], Default::default(), record.time(), id).ok()?;
    builder.leave_out(record.index());
    builder
        .push_stored(NewRecord {
            key: record.key(),
            body: record.body(),
            headers: &headers,
            time: Some(record.time()),
            attrs: &attrs,
        })
        .ok()?;
    let origin = Name::new(text(TOPIC)?).ok()?;
    let span = strait_core::Span {
        at: 0,
        first: Position::at(number(OFFSET)? as u64),
        skip: record.index(),
        take: 1,
        appended: Timestamp::from_millis(number(APPENDED)?),
    };
    let partition = number(PARTITION)? as u32;
    let bytes = builder.build().bytes().clone();
    let next = span.first;
    let chunk = strait_core::Chunk::new(origin.shared(), partition, bytes, vec![span], next);
    let reason: Arc<str> = text(REASON)?.into();
    Some(DeadLetter {
        number: message.position().offset(),
        message: chunk.iter().next()?.to_message(),
        edited: None,
        attempts: number(ATTEMPTS)? as u32,
        fingerprint: ErrorFingerprint::of(&reason),
        reason,
        died: Timestamp::from_millis(number(TIME)?),
        history: Vec::new(),
    })
}

impl Shared {
    /// Makes the topic of a group's dead letters, where it is not there.
    pub(crate) async fn dead_topic_is_there(&self, group: &Name, topic: &Name) -> Result<()> {
        let dead = topic_of(group, topic)?;
        match self.known.get(&dead) {
            Some(_) => Ok(()),
            None => self
                .declare(TopicSpec::new(dead).partitions(1))
                .await
                .map(drop),
        }
    }

    /// All dead letters of a group that were not removed, by number.
    async fn all_dead(&self, group: &Name, topic: &Name) -> Result<Vec<DeadLetter>> {
        self.count(topic).await?;
        let dead = topic_of(group, topic)?;
        match self.count(&dead).await {
            Ok(_) => {}
            Err(error) if error.is(codes::NO_SUCH_TOPIC) => {
                let text = format!("there is no group {group:?} on {topic:?}");
                return Err(Error::new(Kind::NotFound, text).code(codes::NO_SUCH_GROUP));
            }
            Err(error) => return Err(error),
        }
        self.call(move |shared, alive| shared.all_dead_now(&dead, alive))
            .await
    }

    /// The same, on a thread that may block; `dead` is the topic of the dead letters.
    pub(crate) fn all_dead_now(
        &self,
        dead: &Name,
        alive: &dyn Fn() -> bool,
    ) -> Result<Vec<DeadLetter>> {
        let low = self.locate_now(dead, 0, Start::Earliest, alive)?;
        let high = self.locate_now(dead, 0, Start::Latest, alive)?;
        if low >= high {
            return Ok(Vec::new());
        }
        let gone = self
            .kept_of(dead, dead, 1)?
            .remove(&0)
            .map(|(kept, _)| kept);
        let gone = gone.unwrap_or_default();
        let mut found = Vec::new();
        let mut cursor = Cursor {
            topic: dead.clone(),
            partition: 0,
            position: gone.low.max(Position::at(low)),
            wait: Duration::ZERO,
        };
        while cursor.position.offset() < high {
            let chunk = self.read_now(&cursor, 1 << 20, alive)?;
            let is_gone = |at: Position| {
                gone.settled
                    .iter()
                    .any(|range| range.from <= at && at < range.to)
            };
            let there = chunk.iter().filter(|item| !is_gone(item.position()));
            found.extend(there.filter_map(|item| read(&item.to_message())));
            cursor.position = chunk.next().max(Position::at(cursor.position.offset() + 1));
        }
        Ok(found)
    }

    pub(crate) async fn dead_count(&self, group: &Name, topic: &Name) -> Result<(u64, u64)> {
        let all = match self.all_dead(group, topic).await {
            Err(error) if error.is(codes::NO_SUCH_GROUP) => Vec::new(),
            found => found?,
        };
        let bytes = all
            .iter()
            .map(|dead| dead.message.record().size() as u64)
            .sum();
        Ok((all.len() as u64, bytes))
    }

    pub(crate) async fn dead_letters(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
        from: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        filter.check()?;
        let all = self.all_dead(&group, &topic).await?;
        let picked = all
            .into_iter()
            .filter(|dead| dead.number >= from && filter.picks(dead));
        Ok(picked.take(limit).collect())
    }

    pub(crate) async fn dead_summary(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
    ) -> Result<Vec<DeadSummary>> {
        filter.check()?;
        let all = self.all_dead(&group, &topic).await?;
        Ok(DeadSummary::of(
            all.iter().filter(|dead| filter.picks(dead)),
        ))
    }

    /// Marks dead letters as removed. The mark is one commit, so that a removal is done as a whole.
    pub(crate) async fn remove_dead(&self, remove: RemoveDead) -> Result<u64> {
        let RemoveDead {
            group,
            topic,
            filter,
            dry_run,
        } = remove;
        filter.check()?;
        let all = self.all_dead(&group, &topic).await?;
        let picked: Vec<u64> = all
            .iter()
            .filter(|dead| filter.picks(dead))
            .map(|dead| dead.number)
            .collect();
        let missing = |wanted: &&u64| !all.iter().any(|dead| dead.number == **wanted);
        if let Some(number) = filter.numbers.iter().flatten().find(missing) {
            let text =
                format!("there is no dead letter {number} of the group {group:?} on {topic:?}");
            return Err(Error::new(Kind::NotFound, text));
        }
        if dry_run || picked.is_empty() {
            return Ok(picked.len() as u64);
        }
        let dead = topic_of(&group, &topic)?;
        let count = picked.len() as u64;
        let left: BTreeSet<u64> = all
            .iter()
            .map(|dead| dead.number)
            .filter(|n| !picked.contains(n))
            .collect();
        let end = all.last().map_or(0, |dead| dead.number + 1);
        self.call(move |shared, _| {
            let mut gone = shared.kept_of(&dead, &dead, 1)?.remove(&0).map(|(kept, _)| kept).unwrap_or_default();
            let low = gone.low.offset();
            // What was removed before, behind the last that is there, stays removed.
            let end = gone.settled.last().map_or(end, |range| end.max(range.to.offset()));
            gone.settled = around(&left, low, end);
            gone.low = match gone.settled.first() {
                Some(first) if first.from.offset() <= low => gone.settled.remove(0).to,
                _ => gone.low,
            };
            gone.out = gone.low;
            let text = kept::encode(&gone, 0).ok_or_else(|| {
                let text = "the dead letters that are left lie too far apart to be told from those removed";
                Error::new(Kind::Busy, text).next("remove the oldest ones, or more at a time")
            })?;
            shared.commit_for(&dead, &dead, &[(0, gone.low.offset(), text)])
        })
        .await?;
        Ok(count)
    }
}

/// What lies between those that are left, as ranges.
fn around(left: &BTreeSet<u64>, low: u64, end: u64) -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut from = low;
    for number in left.iter().copied().chain([end]) {
        if number > from {
            ranges.push(Range {
                from: Position::at(from),
                to: Position::at(number),
            });
        }
        from = from.max(number + 1);
    }
    ranges
}
