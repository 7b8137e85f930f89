//! What an operator asks of groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::Value;
use strait_core::events::{GroupInfo, MemberInfo, Seek, ShardInfo, Stuck, StuckOn, Waits};
use strait_core::{Error, Kind, Name, Position, Result, Timestamp, codes};
use strait_member::{Again, Stands};

use super::member::flow::KEPT;
use super::{Steered, steps};
use crate::engine::Shared;
use crate::fault::odd;
use crate::keys::{self, GroupKeys};
use crate::reply::{bytes, entry, list, number, text};
use crate::topics::Edges;

/// Queries about a group, and about each of its partitions.
const ASKED: (usize, usize) = (4, 5);

pub(super) fn no_such_group(group: &Name, topic: &Name) -> Error {
    Error::new(
        Kind::NotFound,
        format!("there is no group {group} on the topic {topic}"),
    )
    .code(codes::NO_SUCH_GROUP)
    .next("a group is there once a member has joined")
}

fn live(group: &Name, what: &str) -> Error {
    let text = format!("the group {group} has live members: {what}");
    Error::new(Kind::Conflict, text).next("stop them first, or force it")
}

/// Asks for everything of a group: itself, its members, their names, its dead letters, then of each partition its marks, what comes
/// again, what was brought back, what holds keys, and the stream.
fn everything(keys: &GroupKeys, topic: &Name, partitions: u32) -> redis::Pipeline {
    let mut asked = redis::pipe();
    let group = asked.cmd("HMGET").arg(&keys.group);
    group.arg(&["declared", "overrides", "dead_bytes", "backs"]);
    asked.cmd("ZRANGE").arg(&keys.members).arg(0).arg(-1);
    asked.cmd("HGETALL").arg(&keys.names);
    asked.cmd("XLEN").arg(&keys.dead);
    for partition in 0..partitions {
        let shard = asked.cmd("HMGET").arg(keys.shard(partition));
        shard.arg(&["low", "owner", "before", "done"]);
        asked.cmd("HGETALL").arg(keys.again(partition));
        asked.cmd("HLEN").arg(keys.back(partition));
        asked.cmd("HGETALL").arg(keys.held(partition));
        let stream = asked.cmd("XINFO").arg("STREAM");
        stream.arg(keys::stream(topic, partition));
    }
    asked
}

/// Members by their ids as texts.
fn members(ids: &Value, names: &Value) -> BTreeMap<String, MemberInfo> {
    let names: BTreeMap<&str, &str> = list(names)
        .unwrap_or_default()
        .chunks_exact(2)
        .filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?)))
        .collect();
    let ids = list(ids).unwrap_or_default().iter().filter_map(text);
    let member = |id: &str| MemberInfo {
        name: names.get(id).copied().unwrap_or_default().to_owned(),
        consumer: u64::from_str_radix(id, 16).unwrap_or_default(),
        shards: Vec::new(),
    };
    ids.map(|id| (id.to_owned(), member(id))).collect()
}

impl Shared {
    pub(super) async fn group_names(&self, topic: &Name) -> Result<Vec<Name>> {
        let mut asked = redis::cmd("SMEMBERS");
        asked.arg(keys::groups(topic));
        let answer = self.link.run("listing groups", &asked, false).await?;
        let names = list(&answer).unwrap_or_default().iter();
        let mut names: Vec<Name> = names
            .filter_map(|name| Name::new(text(name)?).ok())
            .collect();
        names.sort();
        Ok(names)
    }

    pub(crate) async fn groups(&self) -> Result<Vec<GroupInfo>> {
        let mut all = Vec::new();
        for topic in self.names().await? {
            for group in self.group_names(&topic).await? {
                match self.group(&group, &topic).await {
                    Ok(info) => all.push(info),
                    Err(error) if error.kind() == Kind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        all.sort_by(|a, b| (&a.group, &a.topic).cmp(&(&b.group, &b.topic)));
        Ok(all)
    }

    pub(crate) async fn group(&self, group: &Name, topic: &Name) -> Result<GroupInfo> {
        let what = format!("looking at the group {group:?}");
        let facts = self.facts(topic).await?;
        let keys = GroupKeys::new(group, topic);
        let asked = everything(&keys, topic, facts.partitions);
        let answers = self.link.run_all(&what, &asked, false).await?;
        let stored = answers.first().and_then(list).unwrap_or_default();
        let steered = Steered::read(stored).ok_or_else(|| no_such_group(group, topic))?;
        let number_of = |index: usize| stored.get(index).and_then(number).unwrap_or_default();
        let mut members = members(&answers[1], &answers[2]);
        let dead = answers.get(3).and_then(number).unwrap_or_default();
        let dead = (dead - number_of(3)).max(0) as u64;
        let stands = self.stands(group, topic);
        let bound = steered.rules().max_dead;
        let stopped = match &steered.pause {
            Some(_) => Some(Waits::Paused),
            None => (dead >= bound).then_some(Waits::TooManyDead),
        };
        let mut shards = Vec::new();
        for (partition, answer) in (0..).zip(answers[ASKED.0..].chunks_exact(ASKED.1)) {
            let owner = list(&answer[0]).and_then(|marks| text(marks.get(1)?));
            if let Some(member) = owner.and_then(|owner| members.get_mut(owner)) {
                member.shards.push(partition);
            }
            let stands = stands.get(&partition);
            let info = self
                .shard(topic, partition, answer, stands, stopped.as_ref())
                .await?;
            shards.push(info.ok_or_else(|| odd(&what))?);
        }
        let full =
            || format!("{dead} dead letters, as many as it may keep: redrive or remove some");
        let paused = match (&steered.pause, stopped) {
            (Some(pause), _) => Some(format!("paused: {}", pause.reason)),
            (None, stopped) => stopped.map(|_| full()),
        };
        Ok(GroupInfo {
            group: group.clone(),
            topic: topic.clone(),
            members: members.into_values().collect(),
            shards,
            dead,
            dead_bytes: number_of(2).max(0) as u64,
            paused: paused.map(Arc::from),
            pause: steered.pause,
            declared: steered.declared,
            overrides: steered.overrides,
        })
    }

    /// How the windows of this process's members stand.
    fn stands(&self, group: &Name, topic: &Name) -> BTreeMap<u32, (Stands, Option<Again>)> {
        let mut all = BTreeMap::new();
        for member in self.members.of(group, topic) {
            member.stands(|shard, window| {
                let stands = window.stands();
                let oldest = stands
                    .oldest
                    .as_ref()
                    .and_then(|message| window.waits(message.position()));
                all.insert(shard, (stands, oldest));
            });
        }
        all
    }

    async fn shard(
        &self,
        topic: &Name,
        partition: u32,
        answer: &[Value],
        stands: Option<&(Stands, Option<Again>)>,
        stopped: Option<&Waits>,
    ) -> Result<Option<ShardInfo>> {
        let (Some(marks), Some(edges)) = (list(&answer[0]), Edges::read(&answer[4])) else {
            return Ok(None);
        };
        let number = |index: usize| marks.get(index).and_then(number).unwrap_or_default() as u64;
        let low = marks
            .first()
            .and_then(bytes)
            .and_then(keys::position)
            .unwrap_or(edges.start);
        let lag = edges
            .added
            .saturating_sub(number(2))
            .saturating_sub(number(3));
        let back = crate::reply::number(&answer[2]).unwrap_or_default() as u64;
        let held = holders(&answer[3]);
        let known = list(&answer[1]).unwrap_or_default().chunks_exact(2);
        let again = known.filter_map(|pair| steps::of_known(Position::default(), text(&pair[1])?));
        let stored = again.filter(|again| again.attempts > 0).count() as u64;
        let first = match lag {
            0 => None,
            _ => self.first_from(topic, partition, low).await?,
        };
        let oldest = first.map(|position| {
            Timestamp::now().since(Timestamp::from_millis(position.parts().0 as i64))
        });
        let has_owner = marks.get(1).and_then(text).is_some();
        let waits = match (stands, stopped) {
            (_, Some(Waits::Paused)) => Some(Waits::Paused),
            _ if lag + back == 0 => None,
            (None, _) if !has_owner => Some(Waits::NoMember),
            (_, Some(stopped)) => Some(stopped.clone()),
            (Some((stands, again)), _) if stands.at_gap || stands.is_full(KEPT) => {
                stuck(stands, again.as_ref(), &held).map(Waits::Gap)
            }
            (Some((stands, again)), _) if stands.suspect => {
                stuck(stands, again.as_ref(), &held).map(Waits::Suspect)
            }
            _ => None,
        };
        Ok(Some(ShardInfo {
            committed: stands.map_or(low, |(stands, _)| match stands.unsettled {
                0 => low,
                _ => stands
                    .oldest
                    .as_ref()
                    .map_or(low, strait_core::Message::position),
            }),
            end: edges.end,
            lag: lag + back,
            oldest,
            parked: stands.map_or(stored + back, |(stands, _)| stands.parked),
            in_flight: stands.map_or(0, |(stands, _)| stands.in_flight),
            held_keys: held.len() as u64,
            waits,
        }))
    }

    async fn first_from(
        &self,
        topic: &Name,
        partition: u32,
        low: Position,
    ) -> Result<Option<Position>> {
        let mut asked = redis::cmd("XRANGE");
        asked
            .arg(keys::stream(topic, partition))
            .arg(keys::id(low))
            .arg("+")
            .arg("COUNT")
            .arg(1);
        let answer = self
            .link
            .run("looking at the oldest message of a group", &asked, false)
            .await?;
        let first = list(&answer).and_then(|entries| entry(entries.first()?));
        Ok(first.and_then(|(id, _)| keys::position(id)))
    }

    pub(crate) async fn seek(&self, seek: Seek) -> Result<Position> {
        self.partition(&seek.topic, seek.partition).await?;
        self.group(&seek.group, &seek.topic).await?;
        let keys = GroupKeys::new(&seek.group, &seek.topic);
        let (at, before) = self.beginning(&seek.topic, seek.partition, seek.to).await?;
        let mut invoke = self.scripts.seek.prepare();
        invoke.key(keys.group.clone()).key(keys.members.clone());
        let of = seek.partition;
        let parts = [
            keys.shard(of),
            keys.settled(of),
            keys.again(of),
            keys.back(of),
        ];
        parts.into_iter().for_each(|key| {
            invoke.key(key);
        });
        invoke.key(keys.held(of));
        invoke
            .arg(keys::id(at))
            .arg(before as i64)
            .arg(i64::from(seek.force));
        let answer = self.script("moving a group", &invoke, true).await?;
        if number(&answer) == Some(0) {
            return Err(live(&seek.group, "it is not moved under them"));
        }
        for member in self.members.of(&seek.group, &seek.topic) {
            member.beat_now();
        }
        Ok(at)
    }

    pub(crate) async fn delete_group(&self, group: &Name, topic: &Name) -> Result<()> {
        self.group(group, topic).await?;
        match self.drop_group(group, topic, false).await? {
            true => Ok(()),
            false => Err(live(group, "it is not deleted under them")),
        }
    }

    async fn drop_group(&self, group: &Name, topic: &Name, force: bool) -> Result<bool> {
        let facts = self.facts(topic).await?;
        let keys = GroupKeys::new(group, topic);
        let mut invoke = self.scripts.drop.prepare();
        invoke.key(keys.members.clone()).key(keys::groups(topic));
        invoke
            .key(keys.group.clone())
            .key(keys.names.clone())
            .key(keys.dead.clone())
            .key(keys.edits.clone())
            .key(keys.runs.clone());
        for partition in 0..facts.partitions {
            invoke
                .key(keys.shard(partition))
                .key(keys.settled(partition))
                .key(keys.again(partition))
                .key(keys.back(partition))
                .key(keys.held(partition));
        }
        invoke.arg(&**group).arg(i64::from(force));
        let answer = self.script("deleting a group", &invoke, true).await?;
        for member in self.members.of(group, topic) {
            member.beat_now();
        }
        Ok(number(&answer) == Some(1))
    }

    /// All groups of a topic that is deleted.
    pub(crate) async fn drop_groups(&self, topic: &Name) -> Result<()> {
        for group in self.group_names(topic).await? {
            self.drop_group(&group, topic, true).await?;
        }
        Ok(())
    }

    /// The shards of all groups on a partition, which retention must not pass.
    pub(crate) async fn shards_on(&self, topic: &Name, partition: u32) -> Result<Vec<String>> {
        let groups = self.group_names(topic).await?;
        Ok(groups
            .iter()
            .map(|group| GroupKeys::new(group, topic).shard(partition))
            .collect())
    }
}

/// The keys that dead letters hold, each with the first of these.
fn holders(held: &Value) -> BTreeMap<Vec<u8>, u64> {
    let mut keys = BTreeMap::new();
    for pair in list(held).unwrap_or_default().chunks_exact(2) {
        if let (Some(letter), Some(key)) = (number(&pair[0]), bytes(&pair[1])) {
            let first = keys.entry(key.to_vec()).or_insert(letter as u64);
            *first = (*first).min(letter as u64);
        }
    }
    keys
}

fn stuck(stands: &Stands, again: Option<&Again>, held: &BTreeMap<Vec<u8>, u64>) -> Option<Stuck> {
    let message = stands.oldest.as_ref()?;
    let holder = message.record().key().and_then(|key| held.get(key));
    let on = match again {
        _ if stands.oldest_out => StuckOn::Member,
        Some(again) if again.due > Timestamp::now() => StuckOn::Retry {
            next: again.due,
            reason: again.reason.clone(),
        },
        _ => holder.map_or(StuckOn::Turn, |number| StuckOn::DeadLetter(*number)),
    };
    Some(Stuck {
        offset: message.position(),
        key: message.record().key().map(<[u8]>::to_vec),
        attempts: again.map_or(1, |again| again.attempts),
        since: Some(message.appended()),
        on,
    })
}
