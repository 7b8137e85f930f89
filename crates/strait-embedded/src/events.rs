//! The events lane of the embedded engine.

use std::sync::Arc;

use strait_core::events::{
    Append, Caps, Cursor, DeadFilter, DeadLetter, DeadSummary, Durability, EditDead, Events,
    GroupChange, GroupInfo, GroupSpec, KeyVersion, Order, ReadKey, Redrive, Redriven, RemoveDead,
    Seek, SetAside, Start, TopicChange, TopicInfo, TopicSpec, UndoRedrive, Undone, Whereabouts,
};
use strait_core::{
    Chunk, Consumer, Error, Fut, Kind, Message, Name, Offer, Position, Records, Result, Sent,
    Timestamp, codes,
};
use tokio::sync::{Notify, oneshot};

use crate::command::{Command, Join, SeekTo};
use crate::consumer::{Home, Member};
use crate::dead;
use crate::engine::Embedded;
use crate::extents::StreamId;
use crate::reading::{Want, offset_gone};
use crate::shared::Shared;
use crate::standing::{all_groups, group_info};
use crate::turn::{info, no_such_partition, no_such_topic};
use crate::whereabouts::whereabouts;

/// Most partitions of a topic.
pub(crate) const MAX_PARTITIONS: u32 = 10_000;

/// Waits for the answer to a join. When nobody waits any more, a member that is there already leaves: it would keep its
/// partitions for ever.
struct Joining<'a> {
    shared: &'a Shared,
    answer: oneshot::Receiver<Result<u64>>,
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        // From here on the writer finds that nobody waits.
        self.answer.close();
        if let Ok(Ok(consumer)) = self.answer.try_recv() {
            self.shared.push(Command::leave(consumer), 0);
        }
    }
}

impl Events for Embedded {
    fn caps(&self) -> Caps {
        let memory = self.durability() == Durability::Memory;
        let survives = if memory {
            Offer::Layered("lives and dies with the process: `memory:` keeps nothing")
        } else {
            Offer::Native
        };
        Caps {
            durability: self.durability(),
            dense_offsets: Offer::Native,
            atomic_batches: Offer::Native,
            stored_bytes: Offer::Native,
            groups: Offer::Native,
            whereabouts: Offer::Native,
            key_order: Offer::Native,
            by_time: Offer::Native,
            by_key: Offer::Native,
            expected_position: Offer::Native,
            expected_key_version: Offer::Native,
            dedupe: Offer::Native,
            atomic_effects: Offer::Native,
            ledger: Offer::Native,
            fencing: Offer::Native,
            lease_extension: Offer::Native,
            parking: Offer::Native,
            dead_letters: Offer::Native,
            redrive: Offer::Native,
            edit_dead: Offer::Native,
            set_aside: Offer::Native,
            hold_key: Offer::Native,
            alter_group: Offer::Native,
            completed_ranges: survives,
            retention_age: Offer::Native,
            retention_bytes: Offer::Native,
            compaction: Offer::Native,
            max_body: self.shared().options.limits.body,
            max_batch: self.shared().options.limits.batch,
            max_partitions: MAX_PARTITIONS,
        }
    }

    fn declare(&self, topic: TopicSpec) -> Fut<Result<TopicInfo>> {
        self.ask(0, |to| Command::Declare(topic, to))
    }

    fn alter(&self, topic: Name, change: TopicChange) -> Fut<Result<TopicInfo>> {
        self.ask(0, |to| Command::Alter(topic, change, to))
    }

    fn delete(&self, topic: Name) -> Fut<Result<()>> {
        self.ask(0, |to| Command::DeleteTopic(topic, to))
    }

    fn topics(&self) -> Fut<Result<Vec<TopicInfo>>> {
        self.with_state(|state, _| {
            let mut topics: Vec<TopicInfo> = state.topics.values().map(info).collect();
            topics.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(topics)
        })
    }

    fn topic(&self, topic: Name) -> Fut<Result<TopicInfo>> {
        self.with_state(move |state, _| {
            state
                .topic_named(&topic)
                .map(info)
                .ok_or_else(|| no_such_topic(&topic))
        })
    }

    fn append(&self, append: Append) -> Fut<Result<Sent>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            shared.check_alive()?;
            check_size(&shared, &append.records)?;
            let bytes = append.records.bytes().len();
            shared.budget.take(bytes).await;
            shared.ask(bytes, |to| Command::Append(append, to)).await?
        })
    }

    fn read(&self, cursor: Cursor, max_bytes: usize) -> Fut<Result<Chunk>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            let end = (!cursor.wait.is_zero()).then(|| tokio::time::Instant::now() + cursor.wait);
            loop {
                shared.check_alive()?;
                let (id, name, grown) = find_partition(&shared, &cursor.topic, cursor.partition)?;
                let notified = grown.notified();
                tokio::pin!(notified);
                // Before the read: what becomes visible after it wakes us.
                notified.as_mut().enable();
                let from = cursor.position.offset();
                let want = Want {
                    stream: id,
                    from,
                    count: u64::MAX,
                    bytes: max_bytes,
                };
                let chunk = shared.chunk(name, cursor.partition, &want)?;
                let Some(end) = end.filter(|_| chunk.is_empty()) else {
                    return Ok(chunk);
                };
                if tokio::time::timeout_at(end, notified).await.is_err() {
                    return Ok(chunk);
                }
            }
        })
    }

    fn locate(&self, topic: Name, partition: u32, start: Start) -> Fut<Result<Position>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            shared.check_alive()?;
            locate(&shared, &topic, partition, start).map(Position::at)
        })
    }

    fn read_key(&self, read: ReadKey) -> Fut<Result<Vec<(KeyVersion, Message)>>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            shared.check_alive()?;
            crate::by_key::read_key(&shared, &read).await
        })
    }

    fn join(&self, spec: GroupSpec) -> Fut<Result<Consumer>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            shared.check_alive()?;
            let starts = starts(&shared, &spec)?;
            let key_order = spec.order == Order::Key;
            let topic_name = spec.topic.shared();
            let join = Box::new(Join { spec, starts });
            let (to, answer) = oneshot::channel();
            shared.push(Command::Join(join, to), 0);
            let mut joining = Joining {
                shared: &shared,
                answer,
            };
            let consumer = (&mut joining.answer).await;
            drop(joining);
            let consumer = consumer.map_err(|_| shared.ended_error())??;
            let topic = shared
                .state
                .lock()
                .topic_named(&topic_name)
                .map(|topic| topic.id);
            let topic = topic.ok_or_else(|| no_such_topic(&topic_name))?;
            let home = Home {
                shared,
                topic,
                topic_name,
                consumer,
                key_order,
            };
            let home = Arc::new(home);
            let source = Box::new(Member::new(home.clone()));
            Ok(Consumer {
                source,
                control: home,
                id: consumer,
            })
        })
    }

    fn groups(&self) -> Fut<Result<Vec<GroupInfo>>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            shared.check_alive()?;
            all_groups(&shared)
        })
    }

    fn group(&self, group: Name, topic: Name) -> Fut<Result<GroupInfo>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            shared.check_alive()?;
            group_info(&shared, group, topic)
        })
    }

    fn seek(&self, seek: Seek) -> Fut<Result<Position>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            shared.check_alive()?;
            let to = locate(&shared, &seek.topic, seek.partition, seek.to)?;
            let Seek {
                group,
                topic,
                partition,
                force,
                ..
            } = seek;
            let seek = SeekTo {
                group,
                topic,
                partition,
                to,
                force,
            };
            shared.ask(0, |to| Command::Seek(seek, to)).await?
        })
    }

    fn whereabouts(
        &self,
        topic: Name,
        partition: u32,
        position: Position,
    ) -> Fut<Result<Whereabouts>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            shared.check_alive()?;
            whereabouts(&shared, &topic, partition, position)
        })
    }

    fn alter_group(&self, group: Name, topic: Name, change: GroupChange) -> Fut<Result<GroupInfo>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            shared.check_alive()?;
            let (g, t) = (group.clone(), topic.clone());
            shared
                .ask(0, |to| Command::AlterGroup(g, t, change, to))
                .await??;
            group_info(&shared, group, topic)
        })
    }

    fn delete_group(&self, group: Name, topic: Name) -> Fut<Result<()>> {
        self.ask(0, |to| Command::DeleteGroup(group, topic, to))
    }

    fn dead_letters(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
        from: u64,
        limit: usize,
    ) -> Fut<Result<Vec<DeadLetter>>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            shared.check_alive()?;
            dead::letters(&shared, &(group, topic), &filter, from, limit)
        })
    }

    fn dead_summary(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
    ) -> Fut<Result<Vec<DeadSummary>>> {
        let shared = self.shared().clone();
        Box::pin(async move {
            shared.check_alive()?;
            dead::summary(&shared, &(group, topic), &filter)
        })
    }

    fn edit_dead(&self, edit: EditDead) -> Fut<Result<()>> {
        let shared = self.shared().clone();
        Box::pin(async move { dead::edit(&shared, edit).await })
    }

    fn remove_dead(&self, remove: RemoveDead) -> Fut<Result<u64>> {
        let shared = self.shared().clone();
        Box::pin(async move { dead::remove(&shared, remove).await })
    }

    fn redrive(&self, redrive: Redrive) -> Fut<Result<Redriven>> {
        let shared = self.shared().clone();
        Box::pin(async move { dead::redrive(&shared, redrive).await })
    }

    fn undo_redrive(&self, undo: UndoRedrive) -> Fut<Result<Undone>> {
        let shared = self.shared().clone();
        Box::pin(async move { dead::undo(&shared, undo).await })
    }

    fn set_aside(&self, aside: SetAside) -> Fut<Result<u64>> {
        let shared = self.shared().clone();
        Box::pin(async move { dead::set_aside(&shared, aside).await })
    }
}

/// Refuses what is over the engine's limits.
pub(crate) fn check_size(shared: &Shared, records: &Records) -> Result<()> {
    let limits = &shared.options.limits;
    let bytes = records.bytes().len();
    if bytes > limits.body {
        let longest = records
            .iter()
            .map(|record| record.body().len())
            .max()
            .unwrap_or(0);
        if longest > limits.body {
            return Err(too_large("a body", longest, limits.body)
                .next("send a reference to it (claim check), or raise the engine's body limit"));
        }
    }
    // A batch of one message at all its limits is longer than its body.
    let one = limits.body + limits.key + limits.headers + (64 << 10);
    let limit = if records.len() == 1 {
        limits.batch.max(one)
    } else {
        limits.batch
    };
    if bytes > limit {
        return Err(too_large("the batch", bytes, limit).next("send it in smaller batches"));
    }
    Ok(())
}

fn too_large(what: &str, bytes: usize, limit: usize) -> Error {
    Error::new(
        Kind::Rejected,
        format!("{what} has {bytes} bytes, this engine takes at most {limit}"),
    )
    .code(codes::TOO_LARGE)
}

type Found = (StreamId, Arc<str>, Arc<Notify>);

fn find_partition(shared: &Shared, topic: &str, partition: u32) -> Result<Found> {
    let state = shared.state.lock();
    let found = state
        .topic_named(topic)
        .ok_or_else(|| no_such_topic(topic))?;
    let count = found.partitions.len();
    let place = found.partitions.get(partition as usize);
    let place = place.ok_or_else(|| no_such_partition(topic, partition, count))?;
    let id = StreamId::partition(found.id, partition);
    Ok((id, found.name.shared(), place.grown.clone()))
}

/// The offset that a start means now.
fn locate(shared: &Shared, topic: &str, partition: u32, start: Start) -> Result<u64> {
    let (id, name, _) = find_partition(shared, topic, partition)?;
    let (first, end) = {
        let state = shared.state.lock();
        let stream = state.stream(id).ok_or_else(|| no_such_topic(topic))?;
        (stream.start, stream.visible)
    };
    match start {
        Start::Earliest => Ok(first),
        Start::Latest => Ok(end),
        Start::Last(count) => Ok(end.saturating_sub(count).max(first)),
        Start::At(position) if position.offset() < first => {
            Err(offset_gone(position.offset(), first))
        }
        Start::At(position) => Ok(position.offset().min(end)),
        Start::Time(time) => by_time(shared, id, name, partition, time),
    }
}

/// The first offset whose record's time is not before `time`; the end when there is none.
fn by_time(
    shared: &Shared,
    id: StreamId,
    name: Arc<str>,
    partition: u32,
    time: Timestamp,
) -> Result<u64> {
    let reaches = |latest: i64| latest >= time.as_millis();
    let (from, end) = {
        let state = shared.state.lock();
        let stream = state.stream(id).ok_or_else(|| no_such_topic(&name))?;
        let span = stream
            .spans
            .iter()
            .find(|span| reaches(span.latest))
            .map(|span| span.first);
        let recent = || stream.recent.front().map(|extent| extent.first);
        let from = span.or_else(recent).unwrap_or(stream.visible);
        (from.max(stream.start), stream.visible)
    };
    let mut at = from;
    while at < end {
        let want = Want {
            stream: id,
            from: at,
            count: u64::MAX,
            bytes: 1 << 20,
        };
        let extents = shared.extents(&want)?;
        let Some(last) = extents.last() else { break };
        let next = last.end();
        if let Some(extent) = extents.iter().find(|extent| reaches(extent.latest)) {
            let from = extent.first.max(at);
            let want = Want {
                stream: id,
                from,
                count: u64::MAX,
                bytes: 0,
            };
            let chunk = shared.chunk(name.clone(), partition, &want)?;
            let found = chunk
                .iter()
                .find(|item| reaches(item.record().time().as_millis()));
            if let Some(item) = found {
                return Ok(item.position().offset());
            }
            at = extent.end();
            continue;
        }
        at = next;
    }
    Ok(end)
}

/// Where the partitions begin for a group that is new to them.
fn starts(shared: &Shared, spec: &GroupSpec) -> Result<Vec<u64>> {
    let unplaced: Vec<bool> = {
        let state = shared.state.lock();
        let topic = state
            .topic_named(&spec.topic)
            .ok_or_else(|| no_such_topic(&spec.topic))?;
        let group = state.group_named(&spec.group, &spec.topic);
        let placed = |i: usize| {
            group
                .and_then(|g| g.shards.get(i))
                .is_some_and(|s| s.placed)
        };
        (0..topic.partitions.len()).map(|i| !placed(i)).collect()
    };
    (0..)
        .zip(unplaced)
        .map(|(partition, new)| {
            if new {
                locate(shared, &spec.topic, partition, spec.start)
            } else {
                Ok(0)
            }
        })
        .collect()
}
