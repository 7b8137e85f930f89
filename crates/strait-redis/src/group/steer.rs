//! What operators set over what members declare, and pauses.

use std::sync::Arc;

use redis::Value;
use strait_core::events::{
    AfterDead, GroupChange, GroupInfo, GroupRules, Override, Overrides, PAUSE_REASON, Pause,
};
use strait_core::{Error, Kind, Name, Result, Timestamp};

use super::info::no_such_group;
use super::rules;
use crate::engine::Shared;
use crate::keys::GroupKeys;
use crate::reply::text;

/// What a group goes by: the first two fields of its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Steered {
    pub(super) declared: GroupRules,
    pub(super) overrides: Overrides,
    pub(super) pause: Option<Pause>,
}

impl Steered {
    /// Reads `declared` and `overrides`; `None`: there is no such group.
    pub(super) fn read(stored: &[Value]) -> Option<Self> {
        let declared = rules(text(stored.first()?)?)?;
        let set = stored.get(1).and_then(text).unwrap_or("{}");
        let set: serde_json::Value = serde_json::from_str(set).ok()?;
        let number = |name: &str| set.get(name)?.as_u64();
        let after_dead = set.get("after_dead").and_then(|after| after.as_str());
        let pause = set.get("paused").and_then(|reason| reason.as_str());
        let since = set.get("paused_since").and_then(|since| since.as_i64());
        Some(Steered {
            declared,
            overrides: Overrides {
                max_attempts: number("max_attempts").map(|attempts| attempts as u32),
                max_dead: number("max_dead"),
                gap: number("gap"),
                after_dead: after_dead.map(|after| match after {
                    "hold_key" => AfterDead::HoldKey,
                    _ => AfterDead::Continue,
                }),
            },
            pause: pause.zip(since).map(|(reason, since)| Pause {
                reason: Arc::from(reason),
                since: Timestamp::from_millis(since),
            }),
        })
    }

    /// What an operator has set, as it is stored.
    fn text(&self) -> String {
        let set = &self.overrides;
        let all = [
            ("max_attempts", set.max_attempts.map(Into::into)),
            ("max_dead", set.max_dead.map(Into::into)),
            ("gap", set.gap.map(Into::into)),
            (
                "after_dead",
                set.after_dead.map(|after| after.as_str().into()),
            ),
            (
                "paused",
                self.pause.as_ref().map(|pause| (*pause.reason).into()),
            ),
            (
                "paused_since",
                self.pause
                    .as_ref()
                    .map(|pause| pause.since.as_millis().into()),
            ),
        ];
        let all = all.into_iter();
        let set = all.filter_map(|(name, value)| Some((name.to_owned(), value?)));
        serde_json::Value::Object(set.collect()).to_string()
    }

    /// What holds of both.
    pub(super) fn rules(&self) -> GroupRules {
        self.declared.under(&self.overrides)
    }

    fn apply(&mut self, change: GroupChange) {
        let set = &mut self.overrides;
        change.max_attempts.apply(&mut set.max_attempts);
        change.max_dead.apply(&mut set.max_dead);
        change.gap.apply(&mut set.gap);
        change.after_dead.apply(&mut set.after_dead);
        match change.pause {
            Override::Keep => {}
            Override::Lift => self.pause = None,
            Override::Set(reason) => {
                let since = self.pause.as_ref().map(|pause| pause.since);
                let since = since.unwrap_or_else(Timestamp::now);
                self.pause = Some(Pause { reason, since });
            }
        }
    }
}

fn check(change: &GroupChange, declared: &GroupRules) -> Result<()> {
    let holds = change.after_dead == Override::Set(AfterDead::HoldKey);
    let fault = if change.max_attempts == Override::Set(0) {
        "max_attempts is 0: a message could never be handled".to_owned()
    } else if change.gap == Override::Set(0) {
        "the gap is 0: no message could be out".to_owned()
    } else if holds && declared.after_dead == AfterDead::Continue {
        "keys are held only where members declare it: they have to hold back what they have of the key".to_owned()
    } else {
        match &change.pause {
            Override::Set(reason) if reason.is_empty() => {
                "a pause needs a reason: who finds it must know why".to_owned()
            }
            Override::Set(reason) if reason.len() > PAUSE_REASON => {
                format!(
                    "the reason of a pause has {} bytes, {PAUSE_REASON} are allowed",
                    reason.len()
                )
            }
            _ => return Ok(()),
        }
    };
    Err(Error::new(Kind::Rejected, fault))
}

impl Shared {
    pub(crate) async fn alter_group(
        &self,
        group: &Name,
        topic: &Name,
        change: GroupChange,
    ) -> Result<GroupInfo> {
        let what = format!("changing the group {group:?}");
        let facts = self.facts(topic).await?;
        let keys = GroupKeys::new(group, topic);
        loop {
            let mut asked = redis::cmd("HMGET");
            asked.arg(&keys.group).arg(&["declared", "overrides"]);
            let stored = self.link.run(&what, &asked, false).await?;
            let stored = crate::reply::list(&stored).unwrap_or_default();
            let mut steered = Steered::read(stored).ok_or_else(|| no_such_group(group, topic))?;
            check(&change, &steered.declared)?;
            let before = steered.clone();
            steered.apply(change.clone());
            if steered == before {
                break;
            }
            let mut invoke = self.scripts.alter.prepare();
            invoke.key(keys.group.clone());
            (0..facts.partitions).for_each(|partition| {
                invoke.key(keys.held(partition));
            });
            invoke.arg(stored.get(1).and_then(text).unwrap_or_default());
            invoke.arg(steered.text());
            let lets_go = steered.rules().after_dead == AfterDead::Continue;
            invoke.arg(i64::from(lets_go));
            match text(&self.script(&what, &invoke, true).await?) {
                Some("done") => break,
                // Somebody else changed it meanwhile.
                Some("other") => {}
                _ => return Err(no_such_group(group, topic)),
            }
        }
        self.tell(group, topic);
        self.group(group, topic).await
    }

    /// Members of this process look at once at what was changed; others do at their next beat, and before they grant anything.
    pub(super) fn tell(&self, group: &Name, topic: &Name) {
        for member in self.members.of(group, topic) {
            member.beat_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_comes_back() {
        let spec = strait_core::events::GroupSpec::new("g".parse().unwrap(), "t".parse().unwrap());
        let mut steered = Steered {
            declared: GroupRules::of(&spec),
            overrides: Overrides::default(),
            pause: None,
        };
        let declared = super::super::declared(&spec);
        let back = |steered: &Steered| {
            let stored = [declared.clone(), steered.text()];
            Steered::read(&stored.map(|text| Value::BulkString(text.into_bytes())))
        };
        assert_eq!(back(&steered), Some(steered.clone()));
        steered.apply(GroupChange {
            max_attempts: Override::Set(3),
            gap: Override::Set(9),
            after_dead: Override::Set(AfterDead::Continue),
            pause: Override::Set("a \"reason\"".into()),
            ..GroupChange::default()
        });
        assert_eq!(back(&steered), Some(steered.clone()));
        assert_eq!(steered.rules().gap, 9);
    }
}
