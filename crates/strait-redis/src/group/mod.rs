//! Consumer groups: partitions are leased to members, with a fencing token, and a member keeps the order of what it has.
//!
//! Reading needs no lease. What goes out is granted by a script that checks the token, what ends is settled by one that does, so a
//! member that was paused past its lease changes nothing.

mod dead;
mod info;
mod letters;
mod member;
mod source;
mod steer;
mod steps;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use strait_core::events::{AfterDead, GroupRules, GroupSpec, Order, Start};
use strait_core::{Consumer, Error, Kind, Name, Position, Result};

use crate::engine::Shared;
use crate::keys::{self, GroupKeys};

pub(crate) use member::Member;
use steer::Steered;
pub(crate) use steps::{Ending, put_shards};

/// How long a member may be silent before its partitions go to others, in ms.
pub(crate) const SESSION_MS: i64 = 5_000;

/// The members of this process, by id.
#[derive(Debug, Default)]
pub(crate) struct Members(Mutex<HashMap<u64, Weak<Member>>>);

impl Members {
    pub(crate) fn get(&self, id: u64) -> Option<Arc<Member>> {
        self.0.lock().get(&id)?.upgrade()
    }

    fn put(&self, member: &Arc<Member>) {
        let mut members = self.0.lock();
        members.retain(|_, member| member.strong_count() > 0);
        members.insert(member.id, Arc::downgrade(member));
    }

    fn all(&self) -> Vec<Arc<Member>> {
        self.0.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn of(&self, group: &Name, topic: &Name) -> Vec<Arc<Member>> {
        let members = self.0.lock();
        let all = members.values().filter_map(Weak::upgrade);
        all.filter(|m| m.spec.group == *group && m.spec.topic == *topic)
            .collect()
    }
}

fn check(spec: &GroupSpec) -> Result<()> {
    spec.check()?;
    if spec.after_dead == AfterDead::HoldKey && spec.order == Order::Free {
        let group = &spec.group;
        let text = format!("group `{group}`: it holds keys and keeps no order");
        return Err(Error::new(Kind::Rejected, text).next("keep order by key, or let keys go on"));
    }
    Ok(())
}

/// What a member declares, as it is stored.
fn declared(spec: &GroupSpec) -> String {
    serde_json::json!({
        "order": match spec.order { Order::Key => "key", Order::Free => "free" },
        "max_attempts": spec.max_attempts,
        "max_dead": spec.max_dead,
        "dead_age_ms": spec.dead_age.map(|age| age.as_millis() as u64),
        "gap": spec.gap,
        "after_dead": spec.after_dead.as_str(),
        "dead_topic": spec.dead_topic.as_deref(),
    })
    .to_string()
}

fn rules(text: &str) -> Option<GroupRules> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let number = |name: &str| value.get(name)?.as_u64();
    Some(GroupRules {
        order: match value.get("order")?.as_str()? {
            "free" => Order::Free,
            _ => Order::Key,
        },
        max_attempts: number("max_attempts")? as u32,
        max_dead: number("max_dead")?,
        dead_age: number("dead_age_ms").map(std::time::Duration::from_millis),
        gap: number("gap")?,
        after_dead: match value.get("after_dead").and_then(|after| after.as_str()) {
            Some("hold_key") => AfterDead::HoldKey,
            _ => AfterDead::Continue,
        },
        dead_topic: value
            .get("dead_topic")
            .and_then(|topic| topic.as_str())
            .and_then(|topic| Name::new(topic).ok()),
    })
}

impl Shared {
    pub(crate) async fn join(self: Arc<Self>, spec: GroupSpec) -> Result<Consumer> {
        check(&spec)?;
        self.known.forget(&spec.topic);
        let facts = self.facts(&spec.topic).await?;
        if let Some(dead) = &spec.dead_topic {
            self.facts(dead).await?;
        }
        let keys = GroupKeys::new(&spec.group, &spec.topic);
        let id = fastrand::u64(1..);
        // Partitions that were added since are read from their start, wherever the group began the others.
        let mut asked = redis::cmd("EXISTS");
        asked.arg(&keys.group);
        let known = self
            .link
            .run("looking for the group", &asked, false)
            .await?;
        let start = match known {
            redis::Value::Int(1) => Start::Earliest,
            _ => spec.start,
        };
        self.place(&keys, &spec, start, id, facts.partitions, true)
            .await?;
        let member = Member::start(self.clone(), spec, keys, id, facts.partitions);
        self.members.put(&member);
        Ok(source::consumer(member))
    }

    /// Members of this process leave, so that their partitions go to others at once.
    pub(crate) async fn leave_groups(&self, grace: std::time::Duration) {
        let members = self.members.all();
        members.iter().for_each(|member| member.leave());
        let left = async {
            for member in &members {
                member.ended().await;
            }
        };
        if tokio::time::timeout(grace, left).await.is_err() {
            tracing::debug!("members could not leave in time; their sessions end by themselves");
        }
    }

    /// Registers a member, and gives partitions that the group has no position for theirs.
    async fn place(
        &self,
        keys: &GroupKeys,
        spec: &GroupSpec,
        start: Start,
        id: u64,
        partitions: u32,
        declares: bool,
    ) -> Result<()> {
        let what = format!("joining the group {:?}", spec.group);
        let mut invoke = self.scripts.join.prepare();
        invoke.key(keys::settings(&spec.topic));
        invoke
            .key(keys.group.clone())
            .key(keys.members.clone())
            .key(keys.names.clone());
        invoke.key(keys::groups(&spec.topic));
        invoke
            .arg(&*spec.group)
            .arg(keys::member(id))
            .arg(&spec.member);
        let declared = declares.then(|| declared(spec));
        invoke.arg(declared.unwrap_or_default()).arg(SESSION_MS);
        let lets_go = declares && spec.after_dead == AfterDead::Continue;
        invoke.arg(i64::from(lets_go));
        for partition in 0..partitions {
            let (at, before) = self.beginning(&spec.topic, partition, start).await?;
            invoke.key(keys.shard(partition)).key(keys.held(partition));
            invoke.arg(keys::id(at)).arg(before as i64);
        }
        self.script(&what, &invoke, true).await.map(drop)
    }

    /// A position in a partition, with the number of messages that were ever added before it.
    pub(crate) async fn beginning(
        &self,
        topic: &Name,
        partition: u32,
        start: Start,
    ) -> Result<(Position, u64)> {
        let at = self.locate(topic.clone(), partition, start).await?;
        let edges = self.edges(topic, partition).await?;
        let behind = match start {
            Start::Earliest => edges.len,
            Start::Latest => 0,
            Start::Last(count) => count.min(edges.len),
            Start::At(_) | Start::Time(_) => self.count_from(topic, partition, at).await?,
        };
        Ok((at, edges.added.saturating_sub(behind)))
    }
}
