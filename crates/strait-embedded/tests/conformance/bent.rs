//! An engine that breaks a promise: the true engine behind hooks, each of which passes on unless a mutant replaces it.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use strait_core::events::{
    Append, Caps, Cursor, DeadFilter, DeadLetter, DeadSummary, EditDead, Events, GroupChange,
    GroupInfo, GroupSpec, KeyVersion, ReadKey, Redrive, Redriven, RemoveDead, Seek, SetAside,
    Start, TopicChange, TopicInfo, TopicSpec, UndoRedrive, Undone, Whereabouts,
};
use strait_core::{
    Arrival, Backup, Chunk, Claim, Claimed, Consumer, Control, Engine, EngineId, Fence, Fut,
    Health, Lanes, Message, Name, Outcome, Position, Result, Sent, Shard, Source, Storage, Unit,
};
use tokio::sync::watch;

/// The true engine behind a mutant.
#[derive(Debug, Clone)]
pub(crate) struct True {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) events: Arc<dyn Events>,
}

impl True {
    pub(crate) fn of(engine: Arc<dyn Engine>) -> Self {
        let events = engine
            .lanes()
            .events
            .expect("the engine has an events lane");
        True { engine, events }
    }
}

/// What a mutant does otherwise.
pub(crate) trait Bend: Debug + Send + Sync + 'static {
    fn caps(&self, caps: Caps) -> Caps {
        caps
    }
    fn append(&self, to: &True, append: Append) -> Fut<Result<Sent>> {
        to.events.append(append)
    }
    fn read(&self, to: &True, cursor: Cursor, max_bytes: usize) -> Fut<Result<Chunk>> {
        to.events.read(cursor, max_bytes)
    }
    fn locate(
        &self,
        to: &True,
        topic: Name,
        partition: u32,
        start: Start,
    ) -> Fut<Result<Position>> {
        to.events.locate(topic, partition, start)
    }
    fn declare(&self, to: &True, topic: TopicSpec) -> Fut<Result<TopicInfo>> {
        to.events.declare(topic)
    }
    fn read_key(&self, to: &True, read: ReadKey) -> Fut<Result<Vec<(KeyVersion, Message)>>> {
        to.events.read_key(read)
    }
    fn join(&self, to: &True, spec: GroupSpec) -> Fut<Result<Consumer>> {
        to.events.join(spec)
    }
    /// One arrival of a consumer, before the member sees it; may give several.
    fn arrival(&self, _control: &Arc<dyn Control>, arrival: Arrival) -> Vec<Arrival> {
        vec![arrival]
    }
    fn group(&self, info: GroupInfo) -> GroupInfo {
        info
    }
    fn alter_group(
        &self,
        to: &True,
        group: Name,
        topic: Name,
        change: GroupChange,
    ) -> Fut<Result<GroupInfo>> {
        to.events.alter_group(group, topic, change)
    }
    fn seek(&self, seek: Seek) -> Seek {
        seek
    }
    fn filter(&self, filter: DeadFilter) -> DeadFilter {
        filter
    }
    fn letter(&self, letter: DeadLetter) -> DeadLetter {
        letter
    }
    fn summary(&self, summary: Vec<DeadSummary>) -> Vec<DeadSummary> {
        summary
    }
    fn edit(&self, to: &True, edit: EditDead) -> Fut<Result<()>> {
        to.events.edit_dead(edit)
    }
    fn remove(&self, remove: RemoveDead) -> RemoveDead {
        remove
    }
    fn redrive(&self, to: &True, redrive: Redrive) -> Fut<Result<Redriven>> {
        to.events.redrive(redrive)
    }
    fn undo(&self, to: &True, undo: UndoRedrive) -> Fut<Result<Undone>> {
        to.events.undo_redrive(undo)
    }
    fn whereabouts(&self, found: Whereabouts) -> Whereabouts {
        found
    }
    fn set_aside(&self, aside: SetAside) -> SetAside {
        aside
    }
    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        to.engine.commit(units)
    }
    fn claim(&self, to: &True, claim: Claim) -> Fut<Result<Claimed>> {
        to.engine.claim(claim)
    }
    fn extend(
        &self,
        to: &Arc<dyn Control>,
        fences: Vec<Fence>,
        by: Duration,
    ) -> Fut<Result<Vec<bool>>> {
        to.extend(fences, by)
    }
    fn holds(&self) -> bool {
        true
    }
    fn storage(&self, to: &True) -> Fut<Result<Storage>> {
        to.engine.storage()
    }
    fn close(&self, to: &True, grace: Duration) -> Fut<()> {
        to.engine.close(grace)
    }
    /// After the store was opened again.
    fn reopened(&self, _to: &True) -> Fut<Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// No mutant: the engine as it is.
#[derive(Debug)]
pub(crate) struct Straight;

impl Bend for Straight {}

/// An engine as a mutant makes it.
#[derive(Debug, Clone)]
pub(crate) struct Bent {
    to: True,
    bend: Arc<dyn Bend>,
}

impl Bent {
    pub(crate) fn new(engine: Arc<dyn Engine>, bend: Arc<dyn Bend>) -> Self {
        Bent {
            to: True::of(engine),
            bend,
        }
    }
}

impl Engine for Bent {
    fn id(&self) -> EngineId {
        self.to.engine.id()
    }
    fn lanes(&self) -> Lanes {
        Lanes::none().with_events(Arc::new(self.clone()))
    }
    fn health(&self) -> watch::Receiver<Health> {
        self.to.engine.health()
    }
    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        self.bend.commit(&self.to, units)
    }
    fn claim(&self, claim: Claim) -> Fut<Result<Claimed>> {
        self.bend.claim(&self.to, claim)
    }
    fn backup(&self, to: PathBuf) -> Fut<Result<Backup>> {
        self.to.engine.backup(to)
    }
    fn storage(&self) -> Fut<Result<Storage>> {
        self.bend.storage(&self.to)
    }
    fn close(&self, grace: Duration) -> Fut<()> {
        self.bend.close(&self.to, grace)
    }
}

impl Events for Bent {
    fn caps(&self) -> Caps {
        self.bend.caps(self.to.events.caps())
    }
    fn declare(&self, topic: TopicSpec) -> Fut<Result<TopicInfo>> {
        self.bend.declare(&self.to, topic)
    }
    fn alter(&self, topic: Name, change: TopicChange) -> Fut<Result<TopicInfo>> {
        self.to.events.alter(topic, change)
    }
    fn delete(&self, topic: Name) -> Fut<Result<()>> {
        self.to.events.delete(topic)
    }
    fn topics(&self) -> Fut<Result<Vec<TopicInfo>>> {
        self.to.events.topics()
    }
    fn topic(&self, topic: Name) -> Fut<Result<TopicInfo>> {
        self.to.events.topic(topic)
    }
    fn append(&self, append: Append) -> Fut<Result<Sent>> {
        self.bend.append(&self.to, append)
    }
    fn read(&self, cursor: Cursor, max_bytes: usize) -> Fut<Result<Chunk>> {
        self.bend.read(&self.to, cursor, max_bytes)
    }
    fn locate(&self, topic: Name, partition: u32, start: Start) -> Fut<Result<Position>> {
        self.bend.locate(&self.to, topic, partition, start)
    }
    fn read_key(&self, read: ReadKey) -> Fut<Result<Vec<(KeyVersion, Message)>>> {
        self.bend.read_key(&self.to, read)
    }
    fn join(&self, group: GroupSpec) -> Fut<Result<Consumer>> {
        let joined = self.bend.join(&self.to, group);
        let bend = self.bend.clone();
        Box::pin(async move {
            let consumer = joined.await?;
            let id = consumer.id;
            let control: Arc<dyn Control> = Arc::new(BentControl {
                to: consumer.control.clone(),
                bend: bend.clone(),
            });
            let source = Box::new(BentSource {
                to: consumer,
                control: control.clone(),
                bend,
                ready: VecDeque::new(),
            });
            Ok(Consumer {
                source,
                control,
                id,
            })
        })
    }
    fn groups(&self) -> Fut<Result<Vec<GroupInfo>>> {
        self.to.events.groups()
    }
    fn group(&self, group: Name, topic: Name) -> Fut<Result<GroupInfo>> {
        let asked = self.to.events.group(group, topic);
        let bend = self.bend.clone();
        Box::pin(async move { Ok(bend.group(asked.await?)) })
    }
    fn alter_group(&self, group: Name, topic: Name, change: GroupChange) -> Fut<Result<GroupInfo>> {
        self.bend.alter_group(&self.to, group, topic, change)
    }
    fn seek(&self, seek: Seek) -> Fut<Result<Position>> {
        self.to.events.seek(self.bend.seek(seek))
    }
    fn delete_group(&self, group: Name, topic: Name) -> Fut<Result<()>> {
        self.to.events.delete_group(group, topic)
    }
    fn dead_letters(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
        from: u64,
        limit: usize,
    ) -> Fut<Result<Vec<DeadLetter>>> {
        let filter = self.bend.filter(filter);
        let letters = self
            .to
            .events
            .dead_letters(group, topic, filter, from, limit);
        let bend = self.bend.clone();
        Box::pin(async move {
            let letters = letters.await?.into_iter();
            Ok(letters.map(|letter| bend.letter(letter)).collect())
        })
    }
    fn dead_summary(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
    ) -> Fut<Result<Vec<DeadSummary>>> {
        let summary = self.to.events.dead_summary(group, topic, filter);
        let bend = self.bend.clone();
        Box::pin(async move { Ok(bend.summary(summary.await?)) })
    }
    fn edit_dead(&self, edit: EditDead) -> Fut<Result<()>> {
        self.bend.edit(&self.to, edit)
    }
    fn remove_dead(&self, remove: RemoveDead) -> Fut<Result<u64>> {
        self.to.events.remove_dead(self.bend.remove(remove))
    }
    fn redrive(&self, redrive: Redrive) -> Fut<Result<Redriven>> {
        self.bend.redrive(&self.to, redrive)
    }
    fn undo_redrive(&self, undo: UndoRedrive) -> Fut<Result<Undone>> {
        self.bend.undo(&self.to, undo)
    }
    fn whereabouts(
        &self,
        topic: Name,
        partition: u32,
        position: Position,
    ) -> Fut<Result<Whereabouts>> {
        let asked = self.to.events.whereabouts(topic, partition, position);
        let bend = self.bend.clone();
        Box::pin(async move { Ok(bend.whereabouts(asked.await?)) })
    }
    fn set_aside(&self, aside: SetAside) -> Fut<Result<u64>> {
        self.to.events.set_aside(self.bend.set_aside(aside))
    }
}

#[derive(Debug)]
struct BentSource {
    /// Dropped with the source, and so leaves.
    to: Consumer,
    control: Arc<dyn Control>,
    bend: Arc<dyn Bend>,
    ready: VecDeque<Arrival>,
}

impl Source for BentSource {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        items: usize,
        bytes: usize,
    ) -> Poll<Result<Arrival>> {
        loop {
            if let Some(arrival) = self.ready.pop_front() {
                return Poll::Ready(Ok(arrival));
            }
            let polled = self.to.source.poll_next(cx, items, bytes);
            match polled {
                Poll::Ready(Ok(arrival)) => {
                    self.ready.extend(self.bend.arrival(&self.control, arrival));
                }
                other => return other,
            }
        }
    }
}

#[derive(Debug)]
struct BentControl {
    to: Arc<dyn Control>,
    bend: Arc<dyn Bend>,
}

impl Control for BentControl {
    fn extend(&self, fences: Vec<Fence>, by: Duration) -> Fut<Result<Vec<bool>>> {
        self.bend.extend(&self.to, fences, by)
    }
    fn hold(&self, shard: Shard, held: bool) {
        if self.bend.holds() {
            self.to.hold(shard, held);
        }
    }
    fn handed_back(&self, shard: Shard) {
        self.to.handed_back(shard);
    }
    fn leave(&self) {
        self.to.leave();
    }
}
