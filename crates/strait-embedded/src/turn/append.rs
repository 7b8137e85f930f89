//! Appending.

use rapidhash::RapidHashMap;
use strait_core::events::{Append, Expected};
use strait_core::{Attr, Error, Kind, MessageId, Position, Records, Result, Sent, codes};

use super::{Turn, disk_full, no_such_partition, no_such_topic};
use crate::fingerprint::Fingerprint;
use crate::ops::{AppendOp, KeyStep, Op, TopicId};
use crate::state::topic::{KeyHead, Topic};

/// An append that was checked: it is emitted, or was a duplicate.
#[derive(Debug)]
pub(super) enum Checked {
    New(AppendOp),
    Known(Sent),
}

/// What the sends of a unit will have changed for those behind them.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    counts: RapidHashMap<(TopicId, u32), u64>,
    ids: RapidHashMap<(TopicId, u128), (u32, u64)>,
    keys: RapidHashMap<(TopicId, u128), KeyHead>,
}

impl Ahead {
    pub(super) fn add(&mut self, checked: &Checked) {
        let Checked::New(op) = checked else { return };
        *self.counts.entry((op.topic, op.partition)).or_default() += u64::from(op.count);
        for (id, offset) in op.ids.iter().zip(op.first..) {
            self.ids.insert((op.topic, *id), (op.partition, offset));
        }
        for (step, offset) in op.versions.iter().zip(op.first..) {
            let head = KeyHead {
                version: step.version,
                partition: op.partition,
                offset,
            };
            self.keys.insert((op.topic, step.key), head);
        }
    }
}

impl Turn<'_> {
    pub(super) fn append(&mut self, append: Append) -> Result<Sent> {
        let checked = self.check_append(
            &append.topic,
            append.partition,
            &append.records,
            &append.expected,
            append.dedupe,
            &Ahead::default(),
        )?;
        match checked {
            Checked::Known(sent) => Ok(sent),
            Checked::New(op) => {
                let sent = sent(&op);
                self.record(|turn| turn.emit(&Op::Append(op), Some(&append.records)));
                Ok(sent)
            }
        }
    }

    /// Checks an append against the state, as the sends of the same unit before it will have left it.
    pub(super) fn check_append(
        &self,
        topic: &str,
        partition: u32,
        records: &Records,
        expected: &Expected,
        dedupe: bool,
        ahead: &Ahead,
    ) -> Result<Checked> {
        let found = self
            .state
            .topic_named(topic)
            .ok_or_else(|| no_such_topic(topic))?;
        let place = found
            .partitions
            .get(partition as usize)
            .ok_or_else(|| no_such_partition(topic, partition, found.partitions.len()))?;
        if records.is_empty() {
            return Err(Error::new(Kind::Rejected, "the batch has no records").with("topic", topic));
        }
        if found.settings.compaction.is_some() && records.iter().any(|r| r.key().is_none()) {
            return Err(no_key(topic));
        }
        let ids = if dedupe {
            ids_of(records, self.fingerprint)
        } else {
            Vec::new()
        };
        if let Some(sent) = self.known(found, &ids, records, ahead)? {
            return Ok(Checked::Known(sent));
        }
        if !self.room {
            return Err(disk_full().with("topic", topic));
        }
        let before = ahead.counts.get(&(found.id, partition)).copied();
        let first = place.stream.end + before.unwrap_or(0);
        let versions = self.versions(found, partition, first, records, ahead);
        check_expected(found, partition, first, expected, records, &versions)?;
        let mut op = append_op(found.id, partition, first, records, self.now.wall);
        op.ids = ids;
        op.versions = versions;
        Ok(Checked::New(op))
    }

    /// Where the batch was stored, when its ids are remembered. A batch of which some are is refused.
    fn known(
        &self,
        topic: &Topic,
        ids: &[u128],
        records: &Records,
        ahead: &Ahead,
    ) -> Result<Option<Sent>> {
        let window = topic.settings.dedupe_ms;
        let found = |id: &u128| {
            let before = ahead.ids.get(&(topic.id, *id)).copied();
            before.or_else(|| topic.dedupe.get(*id, window, self.now.wall))
        };
        let known = ids.iter().filter(|id| found(id).is_some()).count();
        match ids.first().and_then(found) {
            None if known == 0 => Ok(None),
            Some((partition, offset)) if known == ids.len() => Ok(Some(Sent {
                partition,
                first: Position::at(offset),
                count: records.len() as u32,
                duplicate: true,
            })),
            _ => Err(Error::new(
                Kind::Conflict,
                format!(
                    "{known} of the {} ids of the batch are known, the others are not",
                    ids.len()
                ),
            )
            .with("topic", &topic.name)
            .next("send the same messages in the same batches again, or each by itself")),
        }
    }

    pub(super) fn versions(
        &self,
        topic: &Topic,
        partition: u32,
        first: u64,
        records: &Records,
        ahead: &Ahead,
    ) -> Vec<KeyStep> {
        if !topic.settings.key_versions {
            return Vec::new();
        }
        let keys: Vec<Option<u128>> = records
            .iter()
            .map(|r| r.key().map(|key| self.fingerprint.of(key)))
            .collect();
        let before = |key: u128| ahead.keys.get(&(topic.id, key)).copied();
        topic.next_versions(partition, first, &keys, before)
    }
}

fn no_key(topic: &str) -> Error {
    let text =
        format!("`{topic}` is compacted by key, and a message has none: it could never be removed");
    Error::new(Kind::Rejected, text)
        .code(codes::NO_KEY)
        .with("topic", topic)
        .next("give every message a key, or send it to a topic without compaction")
}

pub(super) fn append_op(
    topic: TopicId,
    partition: u32,
    first: u64,
    records: &Records,
    time: i64,
) -> AppendOp {
    let count = records.len() as u32;
    AppendOp {
        topic,
        partition,
        first,
        count,
        time,
        ..AppendOp::default()
    }
}

pub(super) fn sent(op: &AppendOp) -> Sent {
    Sent {
        partition: op.partition,
        first: Position::at(op.first),
        count: op.count,
        duplicate: false,
    }
}

/// The ids that the messages were given; the batch's own when none was.
fn ids_of(records: &Records, fingerprint: Fingerprint) -> Vec<u128> {
    let given = |id: MessageId<'_>| matches!(id, MessageId::Given(_));
    if records.batch().attr(Attr::Id).is_none() && !records.iter().any(|r| given(r.id())) {
        return vec![fingerprint.of(&records.batch().id().to_le_bytes())];
    }
    records
        .iter()
        .map(|record| fingerprint.of(record.id().to_string().as_bytes()))
        .collect()
}

fn check_expected(
    topic: &Topic,
    partition: u32,
    end: u64,
    expected: &Expected,
    records: &Records,
    versions: &[KeyStep],
) -> Result<()> {
    let conflict = |text: String, wanted: u64, found: u64| {
        Err(Error::new(Kind::Conflict, text)
            .code(codes::WRONG_VERSION)
            .with("topic", &topic.name)
            .with("partition", partition)
            .with("expected", wanted)
            .with("found", found)
            .next("read what is new, decide again, and append with the version found"))
    };
    match expected {
        Expected::Any => Ok(()),
        Expected::Position(position) if position.offset() == end => Ok(()),
        Expected::Position(position) => conflict(
            format!(
                "partition {partition} of `{}` ends at another position",
                topic.name
            ),
            position.offset(),
            end,
        ),
        Expected::KeyVersion(wanted) => {
            if versions.is_empty() {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("the topic `{}` keeps no versions of keys", topic.name),
                )
                .next("declare it with key versions"));
            }
            let key = records.iter().next().and_then(|record| record.key());
            if key.is_none() || records.iter().any(|record| record.key() != key) {
                return Err(Error::new(
                    Kind::Rejected,
                    "an expected key version needs a batch of one key",
                ));
            }
            let found = versions[0].version - 1;
            if found == *wanted {
                return Ok(());
            }
            conflict(
                format!("the key has another version in `{}`", topic.name),
                *wanted,
                found,
            )
        }
    }
}
