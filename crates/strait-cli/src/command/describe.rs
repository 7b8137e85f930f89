//! `strait describe`: what is stored of an object, where, and why it waits.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use serde_json::{Value, json};
use strait::core::events::{Cursor, GroupInfo, ReadKey, Standing, Start, Whereabouts};
use strait::core::{Error, Health, Kind, Name, Position, codes};

use super::Ctx;
use super::object::Object;
use super::why::{Reason, on_shard, on_standing};
use crate::fail::Outcome;
use crate::offset::{Offset, between};
use crate::out::SCHEMA;
use crate::target::Target;
use crate::text::{bytes, count, duration, shown, time};

/// Messages of a key that are looked at, the newest of them.
const OF_KEY: usize = 100;
/// Messages of a key that are counted.
const COUNTED: usize = 10_000;

/// Describe a topic, a partition, a group, a key, a message or the storage: what is stored, where, and why it waits.
///
/// OBJECT is topic/TOPIC, topic/TOPIC/PARTITION, group/GROUP or group/GROUP@TOPIC, key/KEY@TOPIC,
/// offset/TOPIC/PARTITION/OFFSET, or storage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait describe topic/orders
  strait describe group/billing@orders
  strait describe key/ada@orders
  strait describe offset/orders/3/17 -o json
  strait describe storage")]
pub(crate) struct DescribeArgs {
    /// What to describe, as KIND/NAME, or storage
    #[arg(value_name = "OBJECT")]
    object: Object,
}

/// What is known of an object. The names of its facts are stable.
#[derive(Debug, Default)]
struct Description {
    facts: Vec<(&'static str, Value)>,
    /// Why something waits.
    waits: Vec<String>,
    /// What to do next: commands.
    next: Vec<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    object: &'a Object,
    facts: Facts<'a>,
    waits: &'a [String],
    next: &'a [String],
}

/// In the order in which they were found.
struct Facts<'a>(&'a [(&'static str, Value)]);

impl Serialize for Facts<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Runs the command.
pub(crate) async fn run(args: DescribeArgs, ctx: &Ctx) -> Outcome {
    let target = Target::existing(&ctx.global).await?;
    let done = describe(&args.object, &target).await;
    target.close().await;
    let found = done?;
    let document = Document {
        schema: SCHEMA,
        object: &args.object,
        facts: Facts(&found.facts),
        waits: &found.waits,
        next: &found.next,
    };
    ctx.out
        .object(&document, &found.in_words(&args.object, ctx.out.people))
}

async fn describe(object: &Object, target: &Target) -> Outcome<Description> {
    match object {
        Object::Topic(topic) => of_topic(topic, target).await,
        Object::Partition(topic, partition) => of_partition(topic, *partition, target).await,
        Object::Group(group, topic) => of_group(group, topic.as_ref(), target).await,
        Object::Key(key, topic) => of_key(key, topic, target).await,
        Object::Offset(topic, partition, offset) => {
            of_offset(topic, *partition, offset.0, target).await
        }
        Object::Storage => of_storage(target).await,
    }
}

async fn of_topic(topic: &Name, target: &Target) -> Outcome<Description> {
    let info = target.topic(topic).await?;
    let groups = groups_of(topic, target).await?;
    let mut found = Description::default();
    let messages = |p: &strait::core::events::PartitionInfo| between(p.start, p.end);
    found.fact("partitions", info.partitions.len());
    found.fact(
        "messages",
        info.partitions.iter().map(messages).sum::<Option<u64>>(),
    );
    found.fact(
        "bytes",
        info.partitions.iter().map(|p| p.bytes).sum::<u64>(),
    );
    let age = info.retention.age.map(duration);
    found.fact("keeps_age", age.unwrap_or_else(|| "everything".to_owned()));
    found.fact("keeps_bytes_per_partition", info.retention.bytes);
    found.fact("key_versions", info.key_versions);
    found.fact("compacted", info.compaction.is_some());
    found.fact("groups", names(groups.iter().map(|group| &group.group)));
    for group in &groups {
        found.waits_of(group, None);
    }
    found.next(format!("strait topic show {topic}"));
    Ok(found)
}

async fn of_partition(topic: &Name, partition: u32, target: &Target) -> Outcome<Description> {
    let info = target.topic(topic).await?;
    let Some(place) = info.partitions.get(partition as usize) else {
        return Err(no_such_partition(topic, partition, info.partitions.len()));
    };
    let mut found = Description::default();
    found.fact("start", Offset(place.start));
    found.fact("end", Offset(place.end));
    found.fact("bytes", place.bytes);
    if place.start < place.end {
        let events = &target.events;
        let end = Start::Last(1);
        let last = events.locate(topic.clone(), partition, end).await?;
        for (of, position) in [("first", place.start), ("last", last)] {
            let there = events
                .whereabouts(topic.clone(), partition, position)
                .await?;
            found.fact_of_place(of, &there);
        }
    }
    let groups = groups_of(topic, target).await?;
    let shards = groups.iter().filter_map(|group| shard_of(group, partition));
    found.fact("groups", shards.collect::<Vec<Value>>());
    for group in &groups {
        found.waits_of(group, Some(partition));
    }
    found.next(format!("strait consume {topic} -p {partition} -O start -e"));
    Ok(found)
}

async fn of_group(group: &Name, topic: Option<&Name>, target: &Target) -> Outcome<Description> {
    let infos = target.groups_named(group, topic).await?;
    let mut found = Description::default();
    let sum = |of: fn(&GroupInfo) -> u64| infos.iter().map(of).sum::<u64>();
    let in_flight = |info: &GroupInfo| info.shards.iter().map(|s| s.in_flight).sum();
    let held = |info: &GroupInfo| info.shards.iter().map(|s| s.held_keys).sum();
    found.fact("topics", names(infos.iter().map(|info| &info.topic)));
    let members = infos.iter().flat_map(|info| &info.members);
    let members: Vec<String> = members.map(|m| shown(m.name.as_bytes())).collect();
    found.fact("members", members);
    found.fact("lag", sum(GroupInfo::lag));
    let oldest = infos.iter().filter_map(GroupInfo::oldest).max();
    found.fact("oldest", oldest.map(duration));
    found.fact("parked", sum(GroupInfo::parked));
    found.fact("in_flight", sum(in_flight));
    found.fact("held_keys", sum(held));
    found.fact("dead_letters", sum(|info| info.dead));
    for info in &infos {
        found.waits_of(info, None);
        if info.dead > 0 {
            let (topic, dead) = (&info.topic, info.dead);
            found
                .waits
                .push(format!("dead letters on {topic} wait for a person: {dead}"));
            found.next(format!("strait dlq ls {group} --topic {topic}"));
        }
    }
    found.next(format!("strait group show {group}"));
    Ok(found)
}

async fn of_key(key: &str, topic: &Name, target: &Target) -> Outcome<Description> {
    target.topic(topic).await?;
    let read = ReadKey {
        topic: topic.clone(),
        key: key.as_bytes().to_vec(),
        from: 1,
        limit: COUNTED,
    };
    let messages = target.events.read_key(read).await?;
    let Some((version, last)) = messages.last() else {
        let text = format!(
            "topic `{topic}` holds no message of the key `{}`",
            shown(key.as_bytes())
        );
        return Err(Error::new(Kind::NotFound, text)
            .next(format!("strait describe topic/{topic}"))
            .into());
    };
    let mut found = Description::default();
    let partition = last.partition();
    found.fact("partition", partition);
    found.fact("messages_at_least", messages.len());
    found.fact("version", *version);
    found.fact("last_offset", Offset(last.position()));
    found.fact("last_appended", time(last.appended()));
    let infos = by_name(topic, target).await?;
    // The oldest of them that a group has not settled is what its later ones wait for.
    let mut first: BTreeMap<Name, (Position, Standing)> = BTreeMap::new();
    for (_, message) in messages.iter().rev().take(OF_KEY).rev() {
        let at = message.position();
        let there = target
            .events
            .whereabouts(topic.clone(), message.partition(), at)
            .await?;
        for (group, standing) in there.groups {
            if standing != Standing::Settled {
                first.entry(group).or_insert((at, standing));
            }
        }
    }
    for (group, (at, standing)) in first {
        let reason = on_standing(&group, (topic, partition, at), &standing, infos.get(&group));
        found.waits(format!("{group}: offset {at} "), reason);
    }
    let last = last.position();
    found.next(format!("strait describe offset/{topic}/{partition}/{last}"));
    Ok(found)
}

async fn of_offset(
    topic: &Name,
    partition: u32,
    position: Position,
    target: &Target,
) -> Outcome<Description> {
    let info = target.topic(topic).await?;
    let Some(place) = info.partitions.get(partition as usize) else {
        return Err(no_such_partition(topic, partition, info.partitions.len()));
    };
    let there = target
        .events
        .whereabouts(topic.clone(), partition, position)
        .await?;
    let mut found = Description::default();
    found.fact("stored", there.stored.is_some());
    if position < place.start {
        found.waits.push(format!(
            "it was removed: the partition begins at {}",
            place.start
        ));
    } else if position >= place.end {
        found.waits.push(format!(
            "it is not written yet: the partition ends at {}",
            place.end
        ));
        return Ok(found);
    } else {
        found
            .fact_of_record(topic, partition, position, target)
            .await?;
    }
    found.fact_of_place("place", &there);
    let infos = by_name(topic, target).await?;
    let is_settled = |standing: &Standing| *standing == Standing::Settled;
    let settled = there
        .groups
        .iter()
        .filter(|(_, standing)| is_settled(standing));
    found.fact("settled_by", names(settled.map(|(group, _)| group)));
    for (group, standing) in there
        .groups
        .iter()
        .filter(|(_, standing)| !is_settled(standing))
    {
        let reason = on_standing(
            group,
            (topic, partition, position),
            standing,
            infos.get(group),
        );
        found.waits(format!("{group}: it "), reason);
    }
    Ok(found)
}

async fn of_storage(target: &Target) -> Outcome<Description> {
    let storage = target.strait.engine().storage().await?;
    let mut found = Description::default();
    found.fact("used_bytes", storage.used);
    found.fact("spare_bytes", storage.spare);
    found.fact("free_bytes", storage.free);
    let growth = storage.growth;
    found.fact(
        "growth_bytes_per_second",
        growth.map(|growth| growth.per_second),
    );
    let over = growth.map(|growth| growth.over.as_secs());
    found.fact("growth_seen_over_seconds", over);
    found.fact(
        "full_in_seconds",
        storage.full_in.map(|full| full.as_secs()),
    );
    if let Health::Impaired(what) | Health::Down(what) | Health::Ended(what) =
        &*target.strait.health().borrow()
    {
        found.waits.push(what.to_string());
    }
    if storage.full_in == Some(Duration::ZERO) {
        found.next("strait explain disk_full".to_owned());
    }
    found.next("strait topic ls --by size".to_owned());
    Ok(found)
}

/// The groups on a topic.
async fn groups_of(topic: &Name, target: &Target) -> Outcome<Vec<GroupInfo>> {
    let mut groups = target.events.groups().await?;
    groups.retain(|group| group.topic == *topic);
    Ok(groups)
}

/// The groups on a topic, by name.
async fn by_name(topic: &Name, target: &Target) -> Outcome<BTreeMap<Name, GroupInfo>> {
    let groups = groups_of(topic, target).await?.into_iter();
    Ok(groups.map(|info| (info.group.clone(), info)).collect())
}

fn names<'a>(names: impl Iterator<Item = &'a Name>) -> Vec<String> {
    names.map(ToString::to_string).collect()
}

/// A group on one partition.
fn shard_of(info: &GroupInfo, partition: u32) -> Option<Value> {
    let shard = info.shards.get(partition as usize)?;
    Some(json!({
        "group": info.group.to_string(),
        "committed": Offset(shard.committed),
        "lag": shard.lag,
        "parked": shard.parked,
        "in_flight": shard.in_flight,
    }))
}

fn no_such_partition(topic: &Name, partition: u32, count: usize) -> crate::fail::Failure {
    let text = format!("topic `{topic}` has no partition {partition}: it has {count}, from 0 on");
    Error::new(Kind::NotFound, text)
        .next(format!("strait topic show {topic}"))
        .into()
}

impl Description {
    fn fact(&mut self, name: &'static str, value: impl Into<Value>) {
        self.facts.push((name, value.into()));
    }

    fn next(&mut self, command: String) {
        if !self.next.contains(&command) {
            self.next.push(command);
        }
    }

    /// A reason, with what to do about it.
    fn waits(&mut self, of: String, reason: Reason) {
        self.waits.push(of + &reason.text);
        reason.next.into_iter().for_each(|next| self.next(next));
    }

    /// Why the partitions of a group wait; only this one, where one is meant.
    fn waits_of(&mut self, info: &GroupInfo, only: Option<u32>) {
        for (partition, shard) in (0..).zip(&info.shards) {
            if only.is_none_or(|only| only == partition)
                && let Some(reason) = on_shard(info, partition, shard)
            {
                self.waits(
                    format!("{} on {}/{partition}: ", info.group, info.topic),
                    reason,
                );
            }
        }
    }

    fn fact_of_place(&mut self, of: &'static str, there: &Whereabouts) {
        let place = there.stored.as_ref().map(|stored| {
            json!({
                "file": &*stored.file,
                "byte": stored.at,
                "bytes": stored.len,
                "batch_first": Offset(stored.first),
                "batch_records": stored.count,
                "appended": time(stored.appended),
                "checkpoint": stored.checkpoint,
            })
        });
        self.fact(of, place.unwrap_or(Value::Null));
    }

    async fn fact_of_record(
        &mut self,
        topic: &Name,
        partition: u32,
        position: Position,
        target: &Target,
    ) -> Outcome {
        let cursor = Cursor {
            topic: topic.clone(),
            partition,
            position,
            wait: Duration::ZERO,
        };
        let chunk = match target.events.read(cursor, 1).await {
            // Retention was there since.
            Err(error) if error.is(codes::OFFSET_GONE) => return Ok(()),
            other => other?,
        };
        let Some(item) = chunk
            .iter()
            .next()
            .filter(|item| item.position() == position)
        else {
            return Ok(());
        };
        let record = item.record();
        self.fact("time", time(record.time()));
        self.fact("key", record.key().map(shown));
        self.fact("kind", record.kind());
        self.fact("body_bytes", record.body().len());
        Ok(())
    }

    fn in_words(&self, object: &Object, people: bool) -> String {
        let labels = self.facts.iter().map(|(name, _)| label(name));
        let width = labels.map(|label| label.len()).max().unwrap_or(0);
        let mut text = format!("{object}\n");
        for (name, value) in &self.facts {
            let value = in_words(name, value, people);
            // Writing to memory does not fail.
            let _ = writeln!(text, "  {:<width$}  {value}", label(name));
        }
        for why in &self.waits {
            let _ = writeln!(text, "waits: {why}");
        }
        for next in &self.next {
            let _ = writeln!(text, "next: {next}");
        }
        text
    }
}

/// The unit of a fact stands in its name; for people it stands with the value.
const RATE: &str = "_bytes_per_second";
const SECONDS: &str = "_seconds";

fn label(name: &str) -> String {
    let name = name.strip_suffix(RATE).unwrap_or(name);
    let name = name.strip_suffix(SECONDS).unwrap_or(name);
    name.replace('_', " ")
}

/// A fact for people: numbers grouped, sizes and times in their greatest unit, parts of an object one after the other.
fn in_words(name: &str, value: &Value, people: bool) -> String {
    match value {
        Value::Null if name.ends_with(RATE) => "not known before a minute has passed".to_owned(),
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (_, Some(rate)) if name.ends_with(RATE) => {
                let sign = if rate < 0 { "-" } else { "" };
                format!("{sign}{}/s", bytes(rate.unsigned_abs(), people))
            }
            (Some(number), _) if name.ends_with(SECONDS) => duration(Duration::from_secs(number)),
            (Some(number), _) if name.ends_with("bytes") => bytes(number, people),
            (Some(number), _) => count(number, people),
            _ => number.to_string(),
        },
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|v| in_words(name, v, people)).collect();
            let nested = matches!(value.get(0), Some(Value::Object(_)));
            items.join(if nested { "; " } else { ", " })
        }
        Value::Object(parts) => {
            let part = |(name, value): (&String, &Value)| {
                format!(
                    "{} {}",
                    name.replace('_', " "),
                    in_words(name, value, people)
                )
            };
            let parts: Vec<String> = parts.iter().map(part).collect();
            parts.join(", ")
        }
    }
}
