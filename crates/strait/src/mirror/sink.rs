//! One partition of the target: appends what was read at its end, once, and says how far the copy has come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{Append, Caps, Cursor, Events, Expected};
use strait_core::{
    Chunk, Effect, Engine, Error, Kind, Limits, Name, Outgoing, Position, Records, Result, Unit,
    codes,
};

use super::batch::batches;
use super::state::{self, Step};

/// Messages behind the last step that may be ours: more than any step has, less than what others write.
const TAIL: usize = 1 << 20;
const CHUNK_BYTES: usize = 1 << 20;

/// Where a partition is copied to.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) lane: Arc<dyn Events>,
    pub(super) topic: Name,
    pub(super) state: Name,
    pub(super) partition: u32,
    /// The engine that is copied from.
    pub(super) source: Arc<str>,
}

/// The end of one partition of the target.
pub(super) struct Sink {
    place: Place,
    caps: Caps,
    limits: Limits,
    /// Where the source is read next; `None`: nothing was copied yet.
    next: Option<Position>,
    /// Messages copied.
    total: u64,
    /// The end of the partition, where the engine numbers messages one by one.
    end: Option<Position>,
    /// Messages that stand behind the last step, with their places: appended by a run that ended before it said so.
    tail: VecDeque<(String, Position)>,
    /// The place of the first of them that is not known again yet.
    tail_at: Position,
}

impl Sink {
    /// Looks where the copy stands.
    pub(super) async fn open(place: Place) -> Result<Self> {
        let caps = place.lane.caps();
        let limits = Limits {
            body: caps.max_body,
            batch: caps.max_batch,
            // The target checks them; a message that another engine took is not refused here already.
            key: usize::MAX,
            headers: usize::MAX,
        };
        let last = state::last(&place.lane, &place.state, place.partition).await?;
        if let Some(step) = last.as_ref().filter(|step| step.source != *place.source) {
            return Err(other_source(&place, step));
        }
        let info = place.lane.topic(place.topic.clone()).await?;
        let now = info.partitions.get(place.partition as usize);
        let (start, end) = now.map_or_else(Default::default, |p| (p.start, p.end));
        let mut sink = Sink {
            next: last.as_ref().map(|step| step.next),
            total: last.as_ref().map_or(0, Step::total),
            end: caps.dense_offsets.is_there().then_some(end),
            tail: VecDeque::new(),
            tail_at: start,
            place,
            caps,
            limits,
        };
        // Without a step all that is there is of a run that never said so, or of somebody else.
        let behind = match &last {
            Some(step) => match (step.target_end(), step.place) {
                (Some(end), _) => Some((end, 0)),
                (None, place) => place.map(|place| (place, step.count)),
            },
            None => Some((start, 0)),
        };
        if let Some((behind, skip)) = behind.filter(|(behind, _)| *behind < end) {
            sink.read_tail(behind, skip, end).await?;
        }
        Ok(sink)
    }

    /// Where the source is read next; `None` from its start on.
    pub(super) fn next(&self) -> Option<Position> {
        self.next
    }

    /// Messages that were copied, by earlier runs too.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Step and messages are one unit: what stands behind a step is not ours.
    fn is_atomic(&self) -> bool {
        self.caps.atomic_effects.is_there()
    }

    /// What stands behind the first `skip` messages from this place on.
    async fn read_tail(&mut self, from: Position, mut skip: u64, end: Position) -> Result<()> {
        if self.is_atomic() {
            return Err(foreign(&self.place, from));
        }
        self.tail_at = from;
        let mut position = from;
        while position < end {
            let cursor = Cursor {
                topic: self.place.topic.clone(),
                partition: self.place.partition,
                position,
                wait: Duration::from_secs(1),
            };
            let chunk = self.place.lane.read(cursor, CHUNK_BYTES).await?;
            if chunk.next() <= position {
                break;
            }
            position = chunk.next();
            for item in chunk.iter() {
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                let id = item.record().id().to_string();
                self.tail.push_back((id, item.position()));
            }
            if self.tail.len() > TAIL {
                return Err(foreign(&self.place, from));
            }
        }
        Ok(())
    }

    /// Messages of the chunk behind the first `passed` that the target has already.
    fn known(&mut self, chunk: &Chunk, passed: usize) -> Result<usize> {
        match self.tail.front() {
            None => return Ok(0),
            Some((_, at)) => self.tail_at = *at,
        }
        let mut known = 0;
        for item in chunk.iter().skip(passed) {
            match self.tail.pop_front() {
                None => break,
                Some((id, _)) if id == item.record().id().to_string() => known += 1,
                Some((_, at)) => return Err(foreign(&self.place, at)),
            }
        }
        Ok(known)
    }

    /// Appends a chunk of the source, without its first `passed` messages: an earlier step holds them. After an error the
    /// sink is of no use: open it again.
    pub(super) async fn put(&mut self, chunk: &Chunk, passed: usize) -> Result<()> {
        let known = self.known(chunk, passed)?;
        let records = batches(chunk, passed + known, &self.limits).map_err(|e| self.at(e))?;
        let first = self.next.filter(|_| passed > 0).or(chunk.first());
        let mut step = Step::new(
            &self.place.source,
            first.unwrap_or_else(|| chunk.next())..chunk.next(),
            chunk.len().saturating_sub(passed) as u64,
            self.total,
        );
        let put = if self.is_atomic() {
            self.put_as_one(&mut step, records).await
        } else {
            self.put_in_turn(&mut step, records, known as u64).await
        };
        put.map_err(|e| self.explained(e))?;
        self.next = Some(step.next);
        self.total = step.total();
        Ok(())
    }

    /// An end that moved under the mirror is somebody else's doing.
    fn explained(&self, error: Error) -> Error {
        match self.expected() {
            Expected::Position(end) if error.is(codes::WRONG_VERSION) => foreign(&self.place, end),
            _ => self.at(error),
        }
    }

    fn at(&self, error: Error) -> Error {
        error
            .with("topic", &self.place.topic)
            .with("partition", self.place.partition)
    }

    /// What must hold for the first batch of a chunk: nobody else writes into the partition.
    fn expected(&self) -> Expected {
        match self.end {
            Some(end) if self.caps.expected_position.is_there() => Expected::Position(end),
            _ => Expected::Any,
        }
    }

    /// Messages and step in one unit: exactly once, whatever ends this process.
    async fn put_as_one(&mut self, step: &mut Step, records: Vec<Records>) -> Result<()> {
        let mut expected = self.expected();
        // Only where the end is held may it be said where the messages will stand.
        step.target = match expected {
            Expected::Position(end) => Some(end),
            _ => None,
        };
        let mut send = Vec::with_capacity(records.len() + 1);
        for records in records {
            send.push(Outgoing::Append {
                topic: self.place.topic.clone(),
                partition: self.place.partition,
                records,
                expected: std::mem::take(&mut expected),
                dedupe: false,
            });
        }
        send.push(Outgoing::Append {
            topic: self.place.state.clone(),
            partition: self.place.partition,
            records: step.to_records()?,
            expected: Expected::Any,
            dedupe: false,
        });
        let unit = Unit {
            send,
            ..Unit::default()
        };
        let mut outcomes = self.place.engine.commit(vec![unit]).await;
        let outcome = outcomes.pop().ok_or_else(|| {
            Error::new(Kind::Unexpected, "the engine gave a unit no outcome").unknown()
        })?;
        outcome.into_result()?;
        self.end = step.target_end().or(self.end);
        Ok(())
    }

    /// Messages first, then the step. What a crash in between leaves is found again by its ids.
    async fn put_in_turn(
        &mut self,
        step: &mut Step,
        records: Vec<Records>,
        known: u64,
    ) -> Result<()> {
        let dense = self.caps.dense_offsets.is_there();
        let mut first = (known > 0).then_some(self.tail_at);
        for records in records {
            let append = Append {
                topic: self.place.topic.clone(),
                partition: self.place.partition,
                records,
                expected: self.expected(),
                dedupe: false,
            };
            let sent = self.place.lane.append(append).await?;
            first = first.or(Some(sent.first));
            if dense {
                self.end = Some(Position::at(sent.first.offset() + u64::from(sent.count)));
            }
        }
        match dense {
            true => step.target = first,
            false => step.place = first,
        }
        self.place
            .lane
            .append(Append {
                topic: self.place.state.clone(),
                partition: self.place.partition,
                records: step.to_records()?,
                expected: Expected::Any,
                dedupe: false,
            })
            .await?;
        Ok(())
    }
}

/// Whether looking again where the copy stands, and going on from there, can help.
pub(super) fn may_go_on(error: &Error) -> bool {
    error.may_retry() || error.effect() == Effect::Unknown
}

fn other_source(place: &Place, step: &Step) -> Error {
    let topic = &place.topic;
    Error::new(
        Kind::Conflict,
        format!("`{topic}` is the mirror of a topic of another engine"),
    )
    .with("mirror of", &step.source)
    .with("asked for", &place.source)
    .next("mirror into another engine, or delete the topic and `strait.mirror.` with its name")
}

fn foreign(place: &Place, at: Position) -> Error {
    let Place {
        topic, partition, ..
    } = place;
    Error::new(
        Kind::Conflict,
        format!(
            "`{topic}` has messages that the mirror did not bring: what else writes into it would come in between"
        ),
    )
    .code(codes::TOPIC_EXISTS)
    .with("partition", partition)
    .with("from", at)
    .next("end what else writes into it, delete the topic and `strait.mirror.` with its name, and mirror anew")
}
