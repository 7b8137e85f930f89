//! What a case works with: an engine, unique names, and short words for the usual calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use strait_core::events::{
    Append, Caps, Cursor, DeadFilter, DeadLetter, Events, Expected, GroupInfo, GroupSpec, Order,
    Start, TopicSpec,
};
use strait_core::{
    Chunk, Engine, Error, Kind, Message, Name, NewRecord, Outcome, Outgoing, Position, Receipt,
    Records, RecordsBuilder, Sent, Timestamp, Unit, Verdict,
};

use crate::fault::{Check, Fault};
use crate::member::Member;
use crate::target::{Harness, Restart, Target};

/// How long a case watches that nothing comes.
pub(crate) const QUIET: Duration = Duration::from_millis(60);
const CLOSE_GRACE: Duration = Duration::from_secs(10);

static NAMES: AtomicU64 = AtomicU64::new(0);

/// How the engine is ended in the middle of a case.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    /// Not at all.
    None,
    /// Closed and opened.
    Reopen,
    /// As by the death of its process.
    Kill,
}

/// One case's laboratory.
#[derive(Clone)]
pub(crate) struct Lab {
    harness: Harness,
    case: &'static str,
    /// The longest wait for something that must come.
    pub(crate) patience: Duration,
    /// The engine that is to be closed in the end, shared by the clones.
    last: Arc<Mutex<Arc<dyn Engine>>>,
    /// The engine, as it is open now.
    pub(crate) engine: Arc<dyn Engine>,
    /// Its events lane.
    pub(crate) events: Arc<dyn Events>,
    /// What the lane offers.
    pub(crate) caps: Caps,
}

impl Lab {
    pub(crate) async fn open(target: &Target, case: &'static str) -> Check<Self> {
        Self::of(target.fresh().await?, case, target.patience)
    }

    /// With an engine that is open.
    pub(crate) fn of(harness: Harness, case: &'static str, patience: Duration) -> Check<Self> {
        let engine = harness.engine.clone();
        let events = lane(&engine)?;
        let caps = events.caps();
        Ok(Lab {
            harness,
            case,
            patience,
            last: Arc::new(Mutex::new(engine.clone())),
            engine,
            events,
            caps,
        })
    }

    /// Ends the engine, as the case left it.
    pub(crate) async fn end(&self) {
        let engine = {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.clone()
        };
        engine.close(CLOSE_GRACE).await;
    }

    /// Closes the engine and opens its store again.
    pub(crate) async fn reopen(&mut self) -> Check {
        let hook = self.harness.reopen.clone();
        let hook = hook.ok_or_else(|| Fault::skip("the target has no hook to reopen"))?;
        self.engine.close(CLOSE_GRACE).await;
        self.restart(hook).await
    }

    /// Ends the engine as the death of its process would, and opens its store again.
    pub(crate) async fn kill(&mut self) -> Check {
        let hook = self.harness.kill.clone();
        let hook = hook.ok_or_else(|| Fault::skip("the target has no hook to kill"))?;
        self.restart(hook).await
    }

    /// Goes on after the engine was ended in some way.
    pub(crate) async fn through(&mut self, ending: Ending) -> Check {
        match ending {
            Ending::None => Ok(()),
            Ending::Reopen => self.reopen().await,
            Ending::Kill => self.kill().await,
        }
    }

    async fn restart(&mut self, hook: Restart) -> Check {
        self.engine = hook().await?;
        self.events = lane(&self.engine)?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = self.engine.clone();
        Ok(())
    }

    /// Lets time pass for the engine: at once where its clock can be moved, else by waiting.
    pub(crate) async fn pass(&self, time: Duration) {
        match &self.harness.advance {
            Some(advance) => advance(time),
            None => tokio::time::sleep(time).await,
        }
    }

    /// A name that nobody else has, in this run or another on the same server.
    pub(crate) fn name(&self, what: &str) -> Check<Name> {
        let run = std::process::id();
        let stamp = Timestamp::now().as_millis() % 100_000_000;
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let case = self.case;
        Ok(Name::new(&format!("{case}.{what}-{run}-{stamp}-{number}"))?)
    }

    /// A new topic.
    pub(crate) async fn topic(&self, partitions: u32) -> Check<Name> {
        self.topic_with(|spec| spec.partitions(partitions)).await
    }

    /// A new topic with other settings.
    pub(crate) async fn topic_with(
        &self,
        change: impl FnOnce(TopicSpec) -> TopicSpec,
    ) -> Check<Name> {
        let spec = change(TopicSpec::new(self.name("t")?));
        Ok(self.events.declare(spec).await?.name)
    }

    /// Appends a batch, nothing expected.
    pub(crate) async fn append(
        &self,
        topic: &Name,
        partition: u32,
        records: Records,
    ) -> Result<Sent, Error> {
        self.events.append(plain(topic, partition, records)).await
    }

    /// Appends texts as one batch: `key=body`, or `body` without a key.
    pub(crate) async fn put(&self, topic: &Name, partition: u32, texts: &[&str]) -> Check<Sent> {
        let sent = self.append(topic, partition, batch(texts)?).await?;
        check_eq!(sent.count as usize, texts.len(), "count of the answer");
        Ok(sent)
    }

    /// Reads once, without waiting.
    pub(crate) async fn read(
        &self,
        topic: &Name,
        partition: u32,
        from: Position,
    ) -> Result<Chunk, Error> {
        let cursor = cursor(topic, partition, from, Duration::ZERO);
        self.events.read(cursor, 1 << 20).await
    }

    /// Every message of a partition.
    pub(crate) async fn all(&self, topic: &Name, partition: u32) -> Check<Vec<Message>> {
        let start = self
            .events
            .locate(topic.clone(), partition, Start::Earliest)
            .await?;
        let (mut at, mut messages) = (start, Vec::new());
        loop {
            let chunk = self.read(topic, partition, at).await?;
            if chunk.is_empty() {
                return Ok(messages);
            }
            check!(chunk.next() > at, "reading does not go on from {at}");
            messages.extend(chunk.iter().map(|item| item.to_message()));
            at = chunk.next();
        }
    }

    /// The bodies of a partition as texts.
    pub(crate) async fn bodies(&self, topic: &Name, partition: u32) -> Check<Vec<String>> {
        let messages = self.all(topic, partition).await?;
        Ok(messages.iter().map(body).collect())
    }

    /// A new group on a topic, with the defaults; without order where the engine keeps none.
    pub(crate) fn spec(&self, topic: &Name) -> Check<GroupSpec> {
        let mut spec = GroupSpec::new(self.name("g")?, topic.clone());
        if !self.caps.key_order.is_there() {
            spec.order = Order::Free;
        }
        Ok(spec)
    }

    /// Joins a group.
    pub(crate) async fn join(&self, spec: &GroupSpec) -> Check<Member> {
        let consumer = self.events.join(spec.clone()).await?;
        Ok(Member::new(consumer, self.engine.clone(), self.patience))
    }

    /// Joins a new group with the defaults on a topic and waits until it owns all partitions.
    pub(crate) async fn consume(&self, topic: &Name) -> Check<(GroupSpec, Member)> {
        let spec = self.spec(topic)?;
        let member = self.consume_as(&spec).await?;
        Ok((spec, member))
    }

    /// Joins a group and waits until the member owns all partitions of its topic.
    pub(crate) async fn consume_as(&self, spec: &GroupSpec) -> Check<Member> {
        let partitions = self.events.topic(spec.topic.clone()).await?.partitions;
        let mut member = self.join(spec).await?;
        member.owns(partitions.len()).await?;
        Ok(member)
    }

    /// The group's state.
    pub(crate) async fn group(&self, spec: &GroupSpec) -> Check<GroupInfo> {
        let (group, topic) = (spec.group.clone(), spec.topic.clone());
        Ok(self.events.group(group, topic).await?)
    }

    /// The group's dead letters.
    pub(crate) async fn dead(&self, spec: &GroupSpec) -> Check<Vec<DeadLetter>> {
        let (group, topic) = (spec.group.clone(), spec.topic.clone());
        let all = DeadFilter::default();
        Ok(self
            .events
            .dead_letters(group, topic, all, 0, 1_000)
            .await?)
    }

    /// Waits until the group's state is as wanted; it follows other events, so it is asked again and again.
    pub(crate) async fn group_until(
        &self,
        spec: &GroupSpec,
        wanted: &str,
        holds: impl Fn(&GroupInfo) -> bool,
    ) -> Check<GroupInfo> {
        let deadline = tokio::time::Instant::now() + self.patience;
        loop {
            let info = self.group(spec).await?;
            if holds(&info) {
                return Ok(info);
            }
            check!(
                tokio::time::Instant::now() < deadline,
                "the group never has {wanted}: {info:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Commits one unit.
    pub(crate) async fn commit(&self, unit: Unit) -> Check<Outcome> {
        commit(&self.engine, unit).await
    }

    /// Commits one unit that must be applied.
    pub(crate) async fn apply(&self, unit: Unit) -> Check<Vec<Sent>> {
        applied(self.commit(unit).await?)
    }

    /// Settles one receipt; the settle must be applied.
    pub(crate) async fn settle(&self, receipt: Receipt, verdict: Verdict) -> Check {
        self.apply(Unit::settle(receipt, verdict)).await.map(drop)
    }

    /// Settles one receipt as handled.
    pub(crate) async fn done(&self, receipt: Receipt) -> Check {
        self.settle(receipt, Verdict::Done).await
    }

    /// Settles one receipt that must be lost.
    pub(crate) async fn fenced(&self, receipt: Receipt) -> Check {
        must_be_fenced(self.commit(Unit::settle(receipt, Verdict::Done)).await?)
    }
}

fn lane(engine: &Arc<dyn Engine>) -> Check<Arc<dyn Events>> {
    let missing = || Error::new(Kind::Unsupported, "the engine offers no events lane");
    Ok(engine.lanes().events.ok_or_else(missing)?)
}

/// Commits one unit and gives its outcome.
pub(crate) async fn commit(engine: &Arc<dyn Engine>, unit: Unit) -> Check<Outcome> {
    let mut outcomes = engine.commit(vec![unit]).await;
    check_eq!(outcomes.len(), 1, "outcomes of one unit");
    outcomes
        .pop()
        .ok_or_else(|| Fault::new("no outcome for the unit"))
}

/// The positions of an applied unit.
#[track_caller]
pub(crate) fn applied(outcome: Outcome) -> Check<Vec<Sent>> {
    match outcome {
        Outcome::Applied(sent) => Ok(sent),
        other => Err(Fault::new(format!("the unit was to be applied: {other:?}"))),
    }
}

/// The unit and error of a unit that was not applied.
#[track_caller]
pub(crate) fn not_applied(outcome: Outcome) -> Check<(Unit, Error)> {
    match outcome {
        Outcome::NotApplied(unit, error) => Ok((unit, error)),
        other => Err(Fault::new(format!("the unit was to be refused: {other:?}"))),
    }
}

/// Checks that a unit was fenced.
#[track_caller]
pub(crate) fn must_be_fenced(outcome: Outcome) -> Check {
    match outcome {
        Outcome::Fenced => Ok(()),
        other => Err(Fault::new(format!(
            "a lost receipt was to answer Fenced: {other:?}"
        ))),
    }
}

/// A verdict that tries again after this time.
pub(crate) fn retry(after: Duration) -> Verdict {
    Verdict::Retry {
        after,
        reason: "not now".into(),
        counts: true,
    }
}

/// An append without conditions.
pub(crate) fn plain(topic: &Name, partition: u32, records: Records) -> Append {
    Append {
        topic: topic.clone(),
        partition,
        records,
        expected: Expected::Any,
        dedupe: false,
    }
}

/// A message on its way out to partition 0, without conditions.
pub(crate) fn outgoing(topic: &Name, text: &str) -> Check<Outgoing> {
    Ok(Outgoing::Append {
        topic: topic.clone(),
        partition: 0,
        records: batch(&[text])?,
        expected: Expected::Any,
        dedupe: false,
    })
}

/// A cursor.
pub(crate) fn cursor(topic: &Name, partition: u32, position: Position, wait: Duration) -> Cursor {
    Cursor {
        topic: topic.clone(),
        partition,
        position,
        wait,
    }
}

/// A batch of texts: `key=body`, or `body` without a key.
pub(crate) fn batch(texts: &[&str]) -> Check<Records> {
    let mut builder = RecordsBuilder::new(&[])?;
    for text in texts {
        let (key, body) = match text.split_once('=') {
            Some((key, body)) => (Some(key.as_bytes()), body),
            None => (None, *text),
        };
        builder.push(NewRecord {
            key,
            body: body.as_bytes(),
            ..NewRecord::default()
        })?;
    }
    Ok(builder.build())
}

/// The body of a message as text.
pub(crate) fn body(message: &Message) -> String {
    String::from_utf8_lossy(message.record().body()).into_owned()
}

/// The key of a message as text; empty without one.
pub(crate) fn key(message: &Message) -> String {
    String::from_utf8_lossy(message.record().key().unwrap_or_default()).into_owned()
}
