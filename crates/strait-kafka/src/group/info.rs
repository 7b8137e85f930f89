//! What is known of groups, and how they are moved and deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use strait_core::events::{
    Cursor, GroupInfo, GroupRules, GroupSpec, MemberInfo, Overrides, Seek, ShardInfo, Start, Stuck,
    StuckOn, Waits,
};
use strait_core::{Error, Kind, Message, Name, Position, Result, Shard, Timestamp, codes};
use strait_member::{Kept, Step};
use tokio::sync::oneshot;

use super::commit::Part;
use super::{Member, Move, Owned, kept};
use crate::engine::Shared;
use crate::fault::{closed, coded, fault};
use crate::link::Link;

fn no_such_group(group: &Name, topic: &Name) -> Error {
    let text = format!("there is no group {group:?} on {topic:?}");
    Error::new(Kind::NotFound, text).code(codes::NO_SUCH_GROUP)
}

impl Member {
    /// The messages of a step.
    pub(crate) fn messages(&self, part: &Part, step: &Step) -> Vec<Message> {
        let mut inner = self.inner.lock();
        let owned = inner.owned(part.shard, part.epoch);
        owned.map_or_else(Vec::new, |owned| owned.window.messages(step).collect())
    }
}

/// Groups that are asked for at the same time, where all are.
const AT_ONCE: usize = 16;

/// What is committed of a group on a topic, with the epoch of the last assignment.
pub(crate) type Committed = BTreeMap<Shard, (Kept, u64)>;

/// A partition's ends.
type Edges = BTreeMap<Shard, (u64, u64)>;

impl Shared {
    /// Members of this process in a group.
    fn members_of(&self, group: &Name, topic: &Name) -> Vec<Arc<Member>> {
        let members = self.members.lock();
        let of_it =
            |member: &&Arc<Member>| member.spec.group == *group && member.spec.topic == *topic;
        members.values().filter(of_it).cloned().collect()
    }

    /// A client that speaks for a group without being its member.
    fn speaker(&self, group: &Name) -> Result<BaseConsumer<Link>> {
        let mut config = self.config.clone();
        config.set("group.id", &**group);
        config.set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed");
        config.set("allow.auto.create.topics", "false");
        BaseConsumer::from_config_and_context(&config, self.pulse.link())
            .map_err(|error| fault(format!("asking for the group {group:?}"), error))
    }

    /// What is committed of a group on a topic, by partition.
    pub(crate) fn kept_of(&self, group: &Name, topic: &Name, count: u32) -> Result<Committed> {
        let what = || format!("asking for the positions of the group {group:?}");
        let mut asked = TopicPartitionList::new();
        for partition in 0..count {
            asked.add_partition(topic, partition as i32);
        }
        let speaker = self.speaker(group)?;
        let found = speaker
            .committed_offsets(asked, self.options.timeout)
            .map_err(|error| fault(what(), error))?;
        let mut kept = BTreeMap::new();
        for element in found.elements() {
            element.error().map_err(|error| fault(what(), error))?;
            if let Offset::Offset(offset) = element.offset() {
                let found = kept::decode(offset as u64, element.metadata());
                kept.insert(element.partition() as Shard, found);
            }
        }
        Ok(kept)
    }

    /// Commits positions of a group that has no member.
    pub(crate) fn commit_for(
        &self,
        group: &Name,
        topic: &Name,
        at: &[(Shard, u64, String)],
    ) -> Result<()> {
        let what = || format!("moving the group {group:?}");
        let mut list = TopicPartitionList::new();
        for (shard, offset, text) in at {
            let mut element = list.add_partition(topic, *shard as i32);
            element
                .set_offset(Offset::Offset(*offset as i64))
                .map_err(|error| fault(what(), error))?;
            element.set_metadata(text.as_str());
        }
        let speaker = self.speaker(group)?;
        speaker
            .commit(&list, CommitMode::Sync)
            .map_err(|error| fault(what(), error))
    }

    fn ends_of(&self, topic: &Name, count: u32) -> Result<Edges> {
        let all = [(topic.clone(), count)];
        let starts = self.edges(&all, Offset::Beginning)?;
        let ends = self.edges(&all, Offset::End)?;
        let of = |edges: &std::collections::HashMap<(String, i32), u64>, shard: Shard| {
            edges
                .get(&(topic.to_string(), shard as i32))
                .copied()
                .unwrap_or_default()
        };
        Ok((0..count)
            .map(|shard| (shard, (of(&starts, shard), of(&ends, shard))))
            .collect())
    }

    pub(crate) async fn group(&self, group: &Name, topic: &Name) -> Result<GroupInfo> {
        let count = self.count(topic).await?;
        let (asked, on) = (group.clone(), topic.clone());
        let kept = self
            .call(move |shared, _| shared.kept_of(&asked, &on, count))
            .await?;
        self.group_with(group, topic, count, kept).await
    }

    async fn group_with(
        &self,
        group: &Name,
        topic: &Name,
        count: u32,
        kept: Committed,
    ) -> Result<GroupInfo> {
        let (asked, on) = (group.clone(), topic.clone());
        let (ends, others) = self
            .call(move |shared, _| {
                let others = shared.other_members(&asked, &on)?;
                Ok((shared.ends_of(&on, count)?, others))
            })
            .await?;
        let members = self.members_of(group, topic);
        if kept.is_empty() && members.is_empty() && others.is_empty() {
            return Err(no_such_group(group, topic));
        }
        let mut info = self.info(group, topic, &members);
        info.members.extend(others);
        let owned: BTreeSet<Shard> = info
            .members
            .iter()
            .flat_map(|m| m.shards.iter().copied())
            .collect();
        for (shard, (start, end)) in ends {
            let local = members.iter().find_map(|member| {
                let mut inner = member.inner.lock();
                let owned = inner.shards.get_mut(&shard)?;
                Some(local(owned, end, member))
            });
            let mut found = match local {
                Some((shard, oldest)) => {
                    let mut shard = shard;
                    shard.oldest = oldest.map(|at| Timestamp::now().since(at));
                    shard
                }
                None => stored(kept.get(&shard).map(|(kept, _)| kept), start, end),
            };
            if found.lag > 0 && found.oldest.is_none() {
                found.oldest = self.age(topic, shard, found.committed).await;
            }
            if found.lag > 0 && !owned.contains(&shard) {
                found.waits = Some(Waits::NoMember);
            }
            info.shards.push(found);
        }
        let (dead, bytes) = self.dead_count(group, topic).await?;
        (info.dead, info.dead_bytes) = (dead, bytes);
        Ok(info)
    }

    fn info(&self, group: &Name, topic: &Name, members: &[Arc<Member>]) -> GroupInfo {
        let full = members.iter().find(|member| member.too_many_dead());
        let paused = full.map(|member| member.spec.max_dead);
        let newest = members
            .iter()
            .max_by_key(|member| member.id)
            .map(|member| member.spec.clone());
        let spec = newest.unwrap_or_else(|| GroupSpec::new(group.clone(), topic.clone()));
        let members = members.iter().map(|member| MemberInfo {
            name: member.spec.member.clone(),
            consumer: member.id,
            shards: member.inner.lock().shards.keys().copied().collect(),
        });
        GroupInfo {
            group: group.clone(),
            topic: topic.clone(),
            members: members.collect(),
            shards: Vec::new(),
            dead: 0,
            dead_bytes: 0,
            paused: paused.map(|most| {
                format!("it has {most} dead letters, as many as it may keep: remove some").into()
            }),
            pause: None,
            declared: GroupRules::of(&spec),
            overrides: Overrides::default(),
        }
    }

    /// How long ago the message here was appended.
    async fn age(&self, topic: &Name, shard: Shard, at: Position) -> Option<Duration> {
        let cursor = Cursor {
            topic: topic.clone(),
            partition: shard,
            position: at,
            wait: Duration::ZERO,
        };
        let chunk = self.read(cursor, 1).await.ok()?;
        let appended = chunk.iter().next()?.appended();
        Some(Timestamp::now().since(appended))
    }

    /// Members of other processes, as the broker lists them.
    fn other_members(&self, group: &Name, topic: &Name) -> Result<Vec<MemberInfo>> {
        let what = || format!("asking for the members of the group {group:?}");
        let list = self
            .meta
            .fetch_group_list(Some(group), self.options.timeout)
            .map_err(|error| fault(what(), error))?;
        let own: BTreeSet<u64> = self.members.lock().keys().copied().collect();
        let mut members = Vec::new();
        for member in list.groups().iter().flat_map(|group| group.members()) {
            let (name, id) = named(member.client_id(), member.id());
            let subscribed = member.metadata().unwrap_or_default();
            let on_it = subscribed
                .windows(topic.len())
                .any(|part| part == topic.as_bytes());
            if own.contains(&id) || !on_it {
                continue;
            }
            let shards = member.assignment().and_then(|bytes| assigned(bytes, topic));
            members.push(MemberInfo {
                name: name.to_owned(),
                consumer: id,
                shards: shards.unwrap_or_default(),
            });
        }
        Ok(members)
    }

    pub(crate) async fn groups(&self) -> Result<Vec<GroupInfo>> {
        let names = self
            .call(|shared, _| {
                let list = shared
                    .meta
                    .fetch_group_list(None, shared.options.timeout)
                    .map_err(|error| fault("listing groups", error))?;
                let names = list
                    .groups()
                    .iter()
                    .filter_map(|group| Name::new(group.name()).ok());
                let mut names: BTreeSet<Name> = names.collect();
                names.extend(
                    shared
                        .members
                        .lock()
                        .values()
                        .map(|member| member.spec.group.clone()),
                );
                Ok(names)
            })
            .await?;
        let topics = self.call(|shared, _| shared.metadata(None)).await?;
        let topics = &topics;
        let each = names
            .into_iter()
            .map(|group| async move { self.groups_named(group, topics.clone()).await });
        // Each is a connection of its own while it is asked for.
        let found: Vec<Result<Vec<GroupInfo>>> =
            stream::iter(each).buffered(AT_ONCE).collect().await;
        let found: Result<Vec<Vec<GroupInfo>>> = found.into_iter().collect();
        let mut infos: Vec<GroupInfo> = found?.into_iter().flatten().collect();
        infos.sort_by(|a, b| (&a.group, &a.topic).cmp(&(&b.group, &b.topic)));
        Ok(infos)
    }

    /// A group on all its topics.
    async fn groups_named(&self, group: Name, topics: Vec<(Name, u32)>) -> Result<Vec<GroupInfo>> {
        let counts: BTreeMap<Name, u32> = topics.iter().cloned().collect();
        let asked = group.clone();
        let on = self
            .call(move |shared, _| shared.topics_of(&asked, &topics))
            .await?;
        let mut infos = Vec::new();
        for (topic, kept) in on {
            let Some(count) = counts.get(&topic) else {
                continue;
            };
            match self.group_with(&group, &topic, *count, kept).await {
                Err(error) if error.kind() == Kind::NotFound => {}
                found => infos.push(found?),
            }
        }
        Ok(infos)
    }

    /// The topics that a group has positions or members on, with the positions. What was removed of dead letters is kept as a
    /// group, too; it is none to its user.
    fn topics_of(&self, group: &Name, topics: &[(Name, u32)]) -> Result<BTreeMap<Name, Committed>> {
        let members = self.members.lock();
        let of_it = members
            .values()
            .filter(|member| member.spec.group == *group);
        let mut on: BTreeMap<Name, Committed> = of_it
            .map(|member| (member.spec.topic.clone(), BTreeMap::new()))
            .collect();
        drop(members);
        let mut asked = TopicPartitionList::new();
        for (topic, count) in topics.iter().filter(|(topic, _)| topic != group) {
            asked.add_partition_range(topic, 0, *count as i32 - 1);
        }
        if asked.count() == 0 {
            return Ok(on);
        }
        let found = self
            .speaker(group)?
            .committed_offsets(asked, self.options.timeout);
        let found = found.map_err(|error| fault("listing groups", error))?;
        for element in found.elements() {
            if let (Offset::Offset(offset), Ok(topic)) =
                (element.offset(), Name::new(element.topic()))
            {
                let kept = kept::decode(offset as u64, element.metadata());
                on.entry(topic)
                    .or_default()
                    .insert(element.partition() as Shard, kept);
            }
        }
        Ok(on)
    }

    pub(crate) async fn seek(&self, seek: Seek) -> Result<Position> {
        let Seek {
            group,
            topic,
            partition,
            to,
            force,
        } = seek;
        let info = self.group(&group, &topic).await?;
        let count = info.shards.len() as u32;
        if partition >= count {
            return Err(crate::fault::no_such_partition(&topic, partition, count));
        }
        if !info.members.is_empty() && !force {
            let text = format!("the group {group:?} has live members on {topic:?}");
            return Err(
                Error::new(Kind::Conflict, text).next("stop its members first, or force it")
            );
        }
        if !info.members.is_empty() {
            return self.seek_live(&group, &topic, partition, to).await;
        }
        self.call(move |shared, alive| {
            let (low, high) = (
                shared.locate_now(&topic, partition, Start::Earliest, alive)?,
                shared.locate_now(&topic, partition, Start::Latest, alive)?,
            );
            let at = shared
                .locate_now(&topic, partition, to, alive)?
                .clamp(low, high);
            let epoch = shared
                .kept_of(&group, &topic, count)?
                .get(&partition)
                .map_or(0, |(_, epoch)| *epoch);
            let text = kept::encode(&kept::at(at), epoch).unwrap_or_default();
            shared.commit_for(&group, &topic, &[(partition, at, text)])?;
            Ok(Position::at(at))
        })
        .await
    }

    /// Moves a partition that a member of this process owns. Members of others cannot be told.
    async fn seek_live(
        &self,
        group: &Name,
        topic: &Name,
        partition: Shard,
        to: Start,
    ) -> Result<Position> {
        let owns = |member: &&Arc<Member>| member.inner.lock().shards.contains_key(&partition);
        let Some(member) = self.members_of(group, topic).iter().find(owns).cloned() else {
            let text = format!(
                "a member of another process has partition {partition} of {topic:?} in the group {group:?}"
            );
            return Err(Error::new(Kind::Conflict, text)
                .next("force it where that member runs, or stop its members first"));
        };
        let on = topic.clone();
        let at = self.call(move |shared, alive| {
            let low = shared.locate_now(&on, partition, Start::Earliest, alive)?;
            let high = shared.locate_now(&on, partition, Start::Latest, alive)?;
            Ok(shared
                .locate_now(&on, partition, to, alive)?
                .clamp(low, high))
        });
        let at = at.await?;
        let (done, answer) = oneshot::channel();
        member.inner.lock().moves.push(Move {
            shard: partition,
            to: at,
            done,
        });
        answer.await.unwrap_or_else(|_| Err(closed()))?;
        Ok(Position::at(at))
    }

    /// Deletes what a group keeps on a topic. Kafka forgets a group as a whole.
    pub(crate) async fn delete_group(&self, group: Name, topic: Name) -> Result<()> {
        let info = self.group(&group, &topic).await?;
        if !info.members.is_empty() {
            let text = format!("the group {group:?} has live members on {topic:?}");
            return Err(Error::new(Kind::Conflict, text).next("stop its members first"));
        }
        let what = || format!("deleting the group {group:?}");
        let made = self
            .admin
            .delete_groups(&[&group], &self.admin_options())
            .await;
        let made = made.map_err(|error| fault(what(), error))?;
        if let Some(Err((_, code))) = made.into_iter().next() {
            return Err(coded(what(), code));
        }
        let dead = crate::dead::topic_of(&group, &topic)?;
        match self.delete(&dead).await {
            Err(error) if error.is(codes::NO_SUCH_TOPIC) => Ok(()),
            done => done,
        }
    }
}

/// The name and the id of a member as this engine names its clients; of others the id is made of the broker's.
fn named<'a>(client: &'a str, broker: &str) -> (&'a str, u64) {
    let ours = client.rsplit_once('#');
    let ours = ours.and_then(|(name, id)| Some((name, u64::from_str_radix(id, 16).ok()?)));
    ours.unwrap_or_else(|| (client, strait_core::crc32c(broker.as_bytes()).into()))
}

/// A shard as its member in this process has it, with the time of its oldest message.
fn local(owned: &mut Owned, end: u64, member: &Member) -> (ShardInfo, Option<Timestamp>) {
    let stands = owned.window.stands();
    let ahead = end.saturating_sub(owned.window.cursor().offset());
    let oldest = stands.oldest.as_ref();
    let stuck = oldest.map(|message| {
        let waits = owned.window.waits(message.position());
        let out = stands.in_flight > 0;
        Stuck {
            offset: message.position(),
            key: message.record().key().map(<[u8]>::to_vec),
            attempts: waits
                .as_ref()
                .map_or(u32::from(out), |again| again.attempts)
                .min(member.spec.max_attempts),
            since: Some(message.appended()),
            on: match waits {
                Some(again) if again.due > Timestamp::now() => StuckOn::Retry {
                    next: again.due,
                    reason: again.reason,
                },
                Some(_) => StuckOn::Turn,
                None => StuckOn::Member,
            },
        }
    });
    let waits = match stuck {
        Some(stuck) if stands.suspect => Some(Waits::Suspect(stuck)),
        Some(stuck) if stands.at_gap || owned.full => Some(Waits::Gap(stuck)),
        _ if member.too_many_dead() && ahead > 0 => Some(Waits::TooManyDead),
        _ if member.too_many_dead() && stands.unsettled > stands.in_flight => {
            Some(Waits::TooManyDead)
        }
        _ => None,
    };
    let info = ShardInfo {
        committed: stands.low,
        end: Position::at(end),
        lag: stands.unsettled + ahead,
        oldest: None,
        parked: stands.parked,
        in_flight: stands.in_flight,
        held_keys: 0,
        waits,
    };
    (info, oldest.map(Message::appended))
}

/// A shard as it was committed.
fn stored(kept: Option<&Kept>, start: u64, end: u64) -> ShardInfo {
    let low = kept.map_or(start, |kept| kept.low.offset()).max(start);
    let settled = kept.map_or(0, |kept| {
        kept.settled
            .iter()
            .map(|range| range.to.offset().saturating_sub(range.from.offset()))
            .sum()
    });
    ShardInfo {
        committed: Position::at(low),
        end: Position::at(end),
        lag: end.saturating_sub(low).saturating_sub(settled),
        parked: kept.map_or(0, |kept| kept.again.len() as u64),
        ..ShardInfo::default()
    }
}

/// The partitions of a topic in an assignment, as the consumer protocol lays it out: version, topics with their partitions.
fn assigned(bytes: &[u8], topic: &str) -> Option<Vec<Shard>> {
    fn number<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
        let (bytes, after) = rest.split_first_chunk::<N>()?;
        *rest = after;
        Some(*bytes)
    }
    let mut rest = bytes.get(2..)?;
    let topics = i32::from_be_bytes(number(&mut rest)?);
    for _ in 0..topics {
        let len = usize::try_from(i16::from_be_bytes(number(&mut rest)?)).ok()?;
        let (name, after) = rest.split_at_checked(len)?;
        rest = after;
        let count = i32::from_be_bytes(number(&mut rest)?);
        let mut shards = Vec::new();
        for _ in 0..count {
            shards.push(u32::from_be_bytes(number(&mut rest)?));
        }
        if name == topic.as_bytes() {
            shards.sort_unstable();
            return Some(shards);
        }
    }
    None
}
