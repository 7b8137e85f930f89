//! The positions of groups, in the target's words.

use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{Cursor, Events, GroupInfo, GroupSpec, Seek, Start};
use strait_core::{Error, Name, Position, Result, codes};

use super::Sides;
use super::state::{self, Step};

const CHUNK_BYTES: usize = 1 << 20;
const WAIT: Duration = Duration::from_secs(1);

/// A group that was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedGroup {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// Of each partition: the position in the source and what it is in the target.
    pub positions: Vec<(Position, Position)>,
    /// Why it was left alone, where it was.
    pub not_moved: Option<NotMoved>,
}

/// Why a group was left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotMoved {
    /// It has live members in the target: it works there already.
    Live,
}

/// Moves every group of these topics.
pub(super) async fn move_all(sides: &Sides, topics: &[Name]) -> Result<Vec<MovedGroup>> {
    let mut moved = Vec::new();
    for info in sides.from.groups().await? {
        if topics.contains(&info.topic) {
            moved.push(move_one(sides, &info).await?);
        }
    }
    Ok(moved)
}

async fn move_one(sides: &Sides, info: &GroupInfo) -> Result<MovedGroup> {
    let mut moved = MovedGroup {
        group: info.group.clone(),
        topic: info.topic.clone(),
        positions: Vec::new(),
        not_moved: None,
    };
    let there = sides.to.group(info.group.clone(), info.topic.clone());
    let there = match there.await {
        Ok(there) if !there.members.is_empty() => {
            moved.not_moved = Some(NotMoved::Live);
            return Ok(moved);
        }
        Ok(there) => Some(there),
        Err(error) if error.is(codes::NO_SUCH_GROUP) => None,
        Err(error) => return Err(error),
    };
    if there.is_none() {
        make(&sides.to, info).await?;
    }
    for (partition, shard) in (0..).zip(&info.shards) {
        let to = translate(sides, &info.topic, partition, shard.committed).await?;
        let now = there
            .as_ref()
            .and_then(|there| there.shards.get(partition as usize));
        if now.is_none_or(|now| now.committed != to) {
            let seek = Seek {
                group: info.group.clone(),
                topic: info.topic.clone(),
                partition,
                to: Start::At(to),
                // A group that was made just now has the member that made it, until it has left.
                force: there.is_none(),
            };
            sides.to.seek(seek).await?;
        }
        moved.positions.push((shard.committed, to));
    }
    Ok(moved)
}

/// Makes the group as its members declared it in the source: by a member that joins and leaves.
async fn make(lane: &Arc<dyn Events>, info: &GroupInfo) -> Result<()> {
    let mut spec = GroupSpec::new(info.group.clone(), info.topic.clone());
    info.declared.put_into(&mut spec);
    spec.member = "strait mirror".into();
    // The copies of its dead letters are not here, and the topic for them may not be.
    spec.dead_topic = None;
    drop(lane.join(spec).await?);
    Ok(())
}

/// What a position of the source is in the target: the place of the first message that is not before it.
pub(super) async fn translate(
    sides: &Sides,
    topic: &Name,
    partition: u32,
    at: Position,
) -> Result<Position> {
    let steps = state::all(&sides.to, topic, partition).await?;
    let to = Translation {
        sides,
        topic,
        partition,
    };
    to.of(&steps, at).await
}

struct Translation<'a> {
    sides: &'a Sides,
    topic: &'a Name,
    partition: u32,
}

impl Translation<'_> {
    async fn of(&self, steps: &[Step], at: Position) -> Result<Position> {
        let index = steps.partition_point(|step| step.next <= at);
        let Some(step) = steps.get(index) else {
            // All that was copied lies before it.
            return match steps.last().and_then(Step::target_end) {
                Some(end) => Ok(end),
                None if steps.is_empty() => self.locate(Start::Earliest).await,
                None => self.locate(Start::Latest).await,
            };
        };
        if at < step.first && index == 0 && step.before > 0 {
            return self.before_the_map(step, at).await;
        }
        let from = at.max(step.first);
        match step.target {
            Some(target) => {
                let passed = self.count(step.first, from).await?;
                Ok(Position::at(target.offset() + passed))
            }
            None => self.by_id(from).await,
        }
    }

    /// The map begins behind it: messages up to the map are counted back.
    async fn before_the_map(&self, first: &Step, at: Position) -> Result<Position> {
        let Some(target) = first.target else {
            return self.by_id(at).await;
        };
        let back = self.count(at, first.first).await?;
        let start = self.locate(Start::Earliest).await?;
        let to = Position::at(target.offset().saturating_sub(back));
        Ok(to.max(start))
    }

    /// Messages of the source from one position up to another.
    async fn count(&self, from: Position, to: Position) -> Result<u64> {
        let mut count = 0;
        let mut position = from;
        while position < to {
            let chunk = self.read(&self.sides.from, position).await?;
            if chunk.is_empty() {
                break;
            }
            position = chunk.next();
            count += chunk.iter().filter(|item| item.position() < to).count() as u64;
        }
        Ok(count)
    }

    /// Where the message at this position of the source stands in the target, found by its id: for engines whose positions
    /// cannot be counted.
    async fn by_id(&self, at: Position) -> Result<Position> {
        let chunk = self.read(&self.sides.from, at).await?;
        let Some(id) = chunk
            .iter()
            .next()
            .map(|item| item.record().id().to_string())
        else {
            return self.locate(Start::Latest).await;
        };
        let end = self.locate(Start::Latest).await?;
        let mut position = self.locate(Start::Earliest).await?;
        while position < end {
            let chunk = self.read(&self.sides.to, position).await?;
            if chunk.is_empty() {
                break;
            }
            let found = chunk
                .iter()
                .find(|item| item.record().id().to_string() == id);
            if let Some(found) = found {
                return Ok(found.position());
            }
            position = chunk.next();
        }
        Ok(end)
    }

    async fn locate(&self, start: Start) -> Result<Position> {
        let to = &self.sides.to;
        to.locate(self.topic.clone(), self.partition, start).await
    }

    async fn read(
        &self,
        lane: &Arc<dyn Events>,
        position: Position,
    ) -> Result<strait_core::Chunk, Error> {
        let cursor = Cursor {
            topic: self.topic.clone(),
            partition: self.partition,
            position,
            wait: WAIT,
        };
        lane.read(cursor, CHUNK_BYTES).await
    }
}
