//! Where a mirror stands, kept in the target: a topic beside each mirrored one, with the same partitions. The newest record
//! of its partition says how far the copy has come, all of them together which position became which.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strait_core::events::{Cursor, Events, Retention, Start, TopicSpec};
use strait_core::{Attr, Error, Kind, Name, NewRecord, Position, Records, Result, codes};

/// What is kept of the older records, for each partition: which position became which, for the positions of groups.
const KEPT_BYTES: u64 = 16 << 20;
/// The layout of a record of state.
const VERSION: u32 = 1;
const CHUNK_BYTES: usize = 1 << 20;

/// One step of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    v: u32,
    /// The engine that was copied from.
    pub(super) source: String,
    /// The first position of the step there.
    #[serde(with = "as_text")]
    pub(super) first: Position,
    /// The position behind it.
    #[serde(with = "as_text")]
    pub(super) next: Position,
    /// Messages of the step.
    pub(super) count: u64,
    /// Messages of the partition that were copied before it.
    pub(super) before: u64,
    /// Where its first message stands in the target, on engines that number messages one by one.
    #[serde(with = "as_text_or_none", default)]
    pub(super) target: Option<Position>,
    /// The same on other engines: a place to read from, which nothing can be added to.
    #[serde(with = "as_text_or_none", default)]
    pub(super) place: Option<Position>,
}

impl Step {
    /// A step over these positions of the source, to an unknown place.
    pub(super) fn new(source: &str, of: Range<Position>, count: u64, before: u64) -> Self {
        Step {
            v: VERSION,
            source: source.to_owned(),
            first: of.start,
            next: of.end,
            count,
            before,
            target: None,
            place: None,
        }
    }

    /// Messages copied up to and with it.
    pub(super) fn total(&self) -> u64 {
        self.before + self.count
    }

    /// The position behind its last message in the target.
    pub(super) fn target_end(&self) -> Option<Position> {
        self.target
            .map(|first| Position::at(first.offset() + self.count))
    }

    /// As a record.
    pub(super) fn to_records(&self) -> Result<Records> {
        let body = serde_json::to_vec(self).map_err(|error| {
            Error::new(
                Kind::Unexpected,
                format!("the state cannot be written: {error}"),
            )
        })?;
        let attrs = [
            (Attr::Kind, "strait.mirror.step.v1"),
            (Attr::ContentType, "application/json"),
        ];
        Records::one(
            &attrs,
            NewRecord {
                body: &body,
                ..NewRecord::default()
            },
        )
    }

    fn read(topic: &Name, body: &[u8]) -> Result<Self> {
        let bad = |why: String| {
            Error::new(
                Kind::Corrupt,
                format!("`{topic}` does not say where the mirror stands: {why}"),
            )
            .with("topic", topic)
            .next("if the mirrored topic is to be copied anew, delete both")
        };
        let step: Step = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
        if step.v != VERSION {
            let found = step.v;
            return Err(bad(format!(
                "it is of version {found}, this build reads {VERSION}"
            )));
        }
        Ok(step)
    }
}

/// The topic that keeps the state of a mirrored one.
pub(super) fn topic_of(topic: &Name) -> Result<Name> {
    Name::new(&format!("strait.mirror.{topic}"))
}

/// Makes it, where it is not there yet.
pub(super) async fn declare(lane: &Arc<dyn Events>, topic: &Name, partitions: u32) -> Result<Name> {
    let name = topic_of(topic)?;
    match lane.topic(name.clone()).await {
        Ok(_) => return Ok(name),
        Err(error) if error.is(codes::NO_SUCH_TOPIC) => {}
        Err(error) => return Err(error),
    }
    let bytes = lane.caps().retention_bytes.is_there();
    let mut spec = TopicSpec::new(name.clone()).partitions(partitions);
    spec.retention = bytes.then_some(Retention {
        age: None,
        bytes: Some(KEPT_BYTES),
    });
    lane.declare(spec).await?;
    Ok(name)
}

/// The newest step of a partition.
pub(super) async fn last(
    lane: &Arc<dyn Events>,
    state: &Name,
    partition: u32,
) -> Result<Option<Step>> {
    // An engine may count what is no message (a marker of a transaction), so that the last one can be empty.
    for start in [Start::Last(1), Start::Last(16), Start::Earliest] {
        let steps = read(lane, state, partition, start).await?;
        if let Some(step) = steps.into_iter().last() {
            return Ok(Some(step));
        }
    }
    Ok(None)
}

/// All steps of a partition that are kept, the oldest first; none for a topic without state.
pub(super) async fn all(lane: &Arc<dyn Events>, topic: &Name, partition: u32) -> Result<Vec<Step>> {
    match read(lane, &topic_of(topic)?, partition, Start::Earliest).await {
        Err(error) if error.is(codes::NO_SUCH_TOPIC) => Ok(Vec::new()),
        read => read,
    }
}

async fn read(
    lane: &Arc<dyn Events>,
    state: &Name,
    partition: u32,
    start: Start,
) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut position = lane.locate(state.clone(), partition, start).await?;
    let end = lane.locate(state.clone(), partition, Start::Latest).await?;
    while position < end {
        let cursor = Cursor {
            topic: state.clone(),
            partition,
            position,
            wait: Duration::from_secs(1),
        };
        let chunk = lane.read(cursor, CHUNK_BYTES).await?;
        if chunk.is_empty() && chunk.next() <= position {
            break;
        }
        position = chunk.next();
        for item in chunk.iter() {
            steps.push(Step::read(state, item.record().body())?);
        }
    }
    Ok(steps)
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use strait_core::Position;

    pub(super) fn serialize<S: Serializer>(at: &Position, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(at)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Position, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

mod as_text_or_none {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use strait_core::Position;

    pub(super) fn serialize<S: Serializer>(
        at: &Option<Position>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => to.collect_str(at),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Position>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_read_as_it_was_written_and_another_version_is_refused() {
        let topic = Name::new("strait.mirror.orders").unwrap();
        let step = Step {
            v: VERSION,
            source: "kafka:abc".into(),
            first: Position::of_parts(1_700_000_000_000, 1),
            next: Position::of_parts(1_700_000_000_000, 9),
            count: 7,
            before: 100,
            target: Some(Position::at(100)),
            place: Some(Position::of_parts(1_700_000_000_001, 0)),
        };
        let records = step.to_records().unwrap();
        let body = records.iter().next().unwrap().body().to_vec();
        assert_eq!(Step::read(&topic, &body).unwrap(), step);
        assert_eq!(step.target_end(), Some(Position::at(107)));
        let other = String::from_utf8(body)
            .unwrap()
            .replace("\"v\":1", "\"v\":2");
        let refused = Step::read(&topic, other.as_bytes()).unwrap_err();
        assert_eq!(refused.kind(), Kind::Corrupt);
        assert!(refused.message().contains("version 2"), "{refused}");
    }
}
