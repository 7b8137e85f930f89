//! What an operator asks of groups, and their dead letters.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use redis::Value;
use strait_core::events::{
    DeadFilter, DeadLetter, DeadSummary, ErrorFingerprint, GroupInfo, MemberInfo, Overrides,
    RemoveDead, Seek, ShardInfo, Stuck, StuckOn, Waits,
};
use strait_core::{ChunkBuilder, Error, Kind, Name, Position, Result, Timestamp, codes};
use strait_member::{Again, Stands};

use super::{rules, steps};
use crate::engine::Shared;
use crate::fault::odd;
use crate::keys::{self, GroupKeys};
use crate::reply::{bytes, entry, list, number, text};
use crate::topics::Edges;

/// Dead letters that are looked at together.
const PAGE: usize = 500;
/// Fields of a dead letter that are not the message's.
const OWN: &str = "dead:";

fn no_such_group(group: &Name, topic: &Name) -> Error {
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
/// again, and the stream.
fn everything(keys: &GroupKeys, topic: &Name, partitions: u32) -> redis::Pipeline {
    let mut asked = redis::pipe();
    let group = asked.cmd("HMGET").arg(&keys.group);
    group.arg(&["declared", "dead_bytes"]);
    asked.cmd("ZRANGE").arg(&keys.members).arg(0).arg(-1);
    asked.cmd("HGETALL").arg(&keys.names);
    asked.cmd("XLEN").arg(&keys.dead);
    for partition in 0..partitions {
        let shard = asked.cmd("HMGET").arg(keys.shard(partition));
        shard.arg(&["low", "owner", "before", "done"]);
        asked.cmd("HGETALL").arg(keys.again(partition));
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
    async fn group_names(&self, topic: &Name) -> Result<Vec<Name>> {
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
        let declared = stored.first().and_then(text).and_then(rules);
        let declared = declared.ok_or_else(|| no_such_group(group, topic))?;
        let mut members = members(&answers[1], &answers[2]);
        let dead = answers.get(3).and_then(number).unwrap_or_default() as u64;
        let stands = self.stands(group, topic);
        let mut shards = Vec::new();
        for (partition, answer) in (0..).zip(answers[4..].chunks_exact(3)) {
            let owner = list(&answer[0]).and_then(|marks| text(marks.get(1)?));
            if let Some(member) = owner.and_then(|owner| members.get_mut(owner)) {
                member.shards.push(partition);
            }
            let full = dead >= declared.max_dead;
            let info = self
                .shard(topic, partition, answer, stands.get(&partition), full)
                .await?;
            shards.push(info.ok_or_else(|| odd(&what))?);
        }
        let paused = (dead >= declared.max_dead).then(|| {
            format!("{dead} dead letters, as many as it may keep: redrive or remove some").into()
        });
        Ok(GroupInfo {
            group: group.clone(),
            topic: topic.clone(),
            members: members.into_values().collect(),
            shards,
            dead,
            dead_bytes: stored.get(1).and_then(number).unwrap_or_default() as u64,
            paused,
            pause: None,
            declared,
            overrides: Overrides::default(),
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
        full: bool,
    ) -> Result<Option<ShardInfo>> {
        let (Some(marks), Some(edges)) = (list(&answer[0]), Edges::read(&answer[2])) else {
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
        let waits = match stands {
            _ if lag == 0 => None,
            None if !has_owner => Some(Waits::NoMember),
            _ if full => Some(Waits::TooManyDead),
            Some((stands, again)) if stands.at_gap => stuck(stands, again.as_ref()).map(Waits::Gap),
            Some((stands, again)) if stands.suspect => {
                stuck(stands, again.as_ref()).map(Waits::Suspect)
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
            lag,
            oldest,
            parked: stands.map_or(stored, |(stands, _)| stands.parked),
            in_flight: stands.map_or(0, |(stands, _)| stands.in_flight),
            held_keys: 0,
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
        invoke
            .key(keys.members.clone())
            .key(keys.shard(seek.partition));
        invoke
            .key(keys.settled(seek.partition))
            .key(keys.again(seek.partition));
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
            .key(keys.dead.clone());
        for partition in 0..facts.partitions {
            invoke
                .key(keys.shard(partition))
                .key(keys.settled(partition))
                .key(keys.again(partition));
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
    ) -> Result<Vec<(DeadLetter, usize)>> {
        filter.check()?;
        self.group(group, topic).await?;
        let wanted: Option<HashSet<u64>> = filter
            .numbers
            .as_ref()
            .map(|numbers| numbers.iter().copied().collect());
        let rest = DeadFilter {
            numbers: None,
            ..filter.clone()
        };
        let keys = GroupKeys::new(group, topic);
        let (mut next, mut found) = (from, Vec::new());
        while found.len() < limit {
            let mut asked = redis::cmd("XRANGE");
            asked
                .arg(&keys.dead)
                .arg(next)
                .arg("+")
                .arg("COUNT")
                .arg(PAGE);
            let answer = self.link.run("reading dead letters", &asked, false).await?;
            let entries = list(&answer).unwrap_or_default();
            for value in entries {
                let (letter, bytes) = letter(value, topic)?;
                next = letter.number + 1;
                let numbered = wanted
                    .as_ref()
                    .is_none_or(|wanted| wanted.contains(&letter.number));
                let fits = numbered && rest.picks(&letter);
                if fits && found.len() < limit {
                    found.push((letter, bytes));
                }
            }
            if entries.len() < PAGE {
                break;
            }
        }
        Ok(found)
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

    pub(crate) async fn remove_dead(&self, remove: RemoveDead) -> Result<u64> {
        let RemoveDead {
            group,
            topic,
            filter,
            ..
        } = &remove;
        let letters = self.stored(group, topic, filter, 0, usize::MAX).await?;
        if let Some(numbers) = &filter.numbers {
            let there: HashSet<u64> = self
                .dead_letters(
                    group,
                    topic,
                    &DeadFilter::numbers(numbers.iter().copied()),
                    0,
                    usize::MAX,
                )
                .await?
                .iter()
                .map(|letter| letter.number)
                .collect();
            if let Some(missing) = numbers.iter().find(|number| !there.contains(number)) {
                let text = format!("the group {group} has no dead letter {missing}");
                return Err(
                    Error::new(Kind::NotFound, text).next("list them: `strait dlq ls GROUP`")
                );
            }
        }
        if remove.dry_run {
            return Ok(letters.len() as u64);
        }
        let keys = GroupKeys::new(group, topic);
        for page in letters.chunks(PAGE) {
            let mut asked = redis::cmd("XDEL");
            asked.arg(&keys.dead);
            page.iter().for_each(|letter| {
                asked.arg(format!("{}-0", letter.0.number));
            });
            let mut together = redis::pipe();
            together.atomic().add_command(asked);
            let bytes: i64 = page.iter().map(|letter| letter.1 as i64).sum();
            together
                .cmd("HINCRBY")
                .arg(&keys.group)
                .arg("dead_bytes")
                .arg(-bytes);
            self.link
                .run_all("removing dead letters", &together, true)
                .await?;
        }
        Ok(letters.len() as u64)
    }
}

fn stuck(stands: &Stands, again: Option<&Again>) -> Option<Stuck> {
    let message = stands.oldest.as_ref()?;
    let on = match again {
        Some(again) if again.due > Timestamp::now() => StuckOn::Retry {
            next: again.due,
            reason: again.reason.clone(),
        },
        Some(_) => StuckOn::Turn,
        None => StuckOn::Member,
    };
    Some(Stuck {
        offset: message.position(),
        key: message.record().key().map(<[u8]>::to_vec),
        attempts: again.map_or(1, |again| again.attempts),
        since: Some(message.appended()),
        on,
    })
}

/// Reads what the script of a unit has stored.
fn letter(value: &Value, topic: &Name) -> Result<(DeadLetter, usize)> {
    let what = || odd("reading a dead letter");
    let (id, fields) = entry(value).ok_or_else(what)?;
    let (number, _) = keys::position(id).ok_or_else(what)?.parts();
    let size = fields.iter().filter_map(bytes).map(<[u8]>::len).sum();
    let (own, message): (Vec<_>, Vec<_>) = fields
        .chunks_exact(2)
        .partition(|pair| text(&pair[0]).is_some_and(|name| name.starts_with(OWN)));
    let own = |name: &str| {
        let found = own
            .iter()
            .find(|pair| text(&pair[0]).and_then(|n| n.strip_prefix(OWN)) == Some(name));
        found.map(|pair| &pair[1])
    };
    let number_of = |name: &str| own(name).and_then(crate::reply::number).ok_or_else(what);
    let partition = number_of("partition")? as u32;
    let position = own("position")
        .and_then(bytes)
        .and_then(keys::position)
        .ok_or_else(what)?;
    let appended = Timestamp::from_millis(number_of("appended")?);
    let fields = message.into_iter().flatten().cloned().collect();
    let value = Value::Array(vec![
        Value::BulkString(keys::id(position).into_bytes()),
        Value::Array(fields),
    ]);
    let mut chunk = ChunkBuilder::new(topic.clone(), partition);
    crate::entry::push(&mut chunk, &value)?;
    let chunk = chunk.build(position.next());
    let message = chunk
        .iter()
        .next()
        .map(|item| item.to_message())
        .ok_or_else(what)?;
    let reason: Arc<str> = own("reason").and_then(text).ok_or_else(what)?.into();
    let letter = DeadLetter {
        number,
        message: message.placed(partition, position, appended),
        edited: None,
        attempts: number_of("attempts")? as u32,
        fingerprint: ErrorFingerprint::of(&reason),
        reason,
        died: Timestamp::from_millis(number_of("died")?),
        history: Vec::new(),
    };
    Ok((letter, size))
}
