//! Appending: one message, or many.

use std::borrow::Cow;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use strait_core::events::{Append, Expected};
use strait_core::{
    Attr, Error, Fut, Kind, Limits, Name, NewRecord, Position, Records, RecordsBuilder, Result,
    Sent, Timestamp,
};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::topic::Topic;
use crate::message::{Key, Message};
use crate::open::{IN_FLIGHT_BYTES, Strait};
use crate::trace::TraceContext;

/// Where an appended message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its partition.
    pub partition: u32,
    /// Its position there.
    pub position: Position,
    /// The id was known: the message was appended before, here, and not again.
    pub duplicate: bool,
}

/// What to do when too many bytes are under way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Permit {
    Wait,
    Try,
}

/// An append of one message; await it.
#[must_use = "nothing is appended until this is awaited"]
pub struct AppendOne<'a, M> {
    topic: &'a Topic<M>,
    message: &'a M,
    permit: Permit,
    id: Option<Cow<'a, str>>,
    /// In place of the message's own, which may be none.
    key: Option<Option<Vec<u8>>>,
    partition: Option<u32>,
    headers: Vec<(Cow<'a, str>, Cow<'a, [u8]>)>,
    time: Option<Timestamp>,
    trace: Option<TraceContext>,
    correlation: Option<Cow<'a, str>>,
    expected: Expected,
    within: Option<Duration>,
}

impl<'a, M: Message> AppendOne<'a, M> {
    pub(super) fn new(topic: &'a Topic<M>, message: &'a M, permit: Permit) -> Self {
        AppendOne {
            topic,
            message,
            permit,
            id: None,
            key: None,
            partition: None,
            headers: Vec::new(),
            time: None,
            trace: None,
            correlation: None,
            expected: Expected::Any,
            within: None,
        }
    }

    /// The message's id. Repeated within the topic's dedupe window it is answered with the first position.
    pub fn id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Another key than the message's own: text, a number, bytes; `None::<String>` for no key at all.
    pub fn key(mut self, key: impl Key) -> Self {
        self.key = Some(key.to_key().map(Cow::into_owned));
        self
    }

    /// This partition, instead of the one that the key decides.
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Adds a header. Names may repeat; CR, LF and NUL are refused.
    pub fn header(mut self, name: impl Into<Cow<'a, str>>, value: impl HeaderValue<'a>) -> Self {
        self.headers.push((name.into(), value.into_header()));
        self
    }

    /// When it happened; otherwise now.
    pub fn time(mut self, time: Timestamp) -> Self {
        self.time = Some(time);
        self
    }

    /// The trace that it belongs to.
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// The correlation id: the same for everything that one request set off.
    pub fn correlation(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.correlation = Some(id.into());
        self
    }

    /// Appends only when the key has this version: the number of its messages so far, 0 for none. Needs
    /// [`key_versions`](super::TopicBuilder::key_versions). Otherwise `Conflict` with code `wrong_version`.
    pub fn expect_version(mut self, version: u64) -> Self {
        self.expected = Expected::KeyVersion(version);
        self
    }

    /// Appends only when the partition ends here. Otherwise `Conflict` with code `wrong_version`.
    pub fn expect_position(mut self, position: Position) -> Self {
        self.expected = Expected::Position(position);
        self
    }

    /// Gives up waiting after so long: `TimedOut`, and it may or may not have been appended.
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = Some(limit);
        self
    }

    fn prepare(&self) -> Result<Append> {
        let key = match &self.key {
            Some(other) => other.as_deref().map(Cow::Borrowed),
            None => self.message.key(),
        };
        let key = key.as_deref();
        let partition = match self.partition {
            Some(partition) => partition,
            None => self.topic.choose(key),
        };
        let headers: Vec<(&str, &[u8])> = self.headers.iter().map(|(n, v)| (&**n, &**v)).collect();
        let trace = self.trace.map(|trace| trace.to_string());
        let mut attrs = Attrs::default();
        attrs.push(Attr::Id, self.id.as_deref());
        attrs.push(Attr::Kind, self.message.kind());
        attrs.push(Attr::ContentType, M::CONTENT_TYPE);
        attrs.push(Attr::Traceparent, trace.as_deref());
        attrs.push(Attr::Correlation, self.correlation.as_deref());
        let mut body = Vec::new();
        self.message.encode(&mut body)?;
        let time = self.time.unwrap_or_else(Timestamp::now);
        let mut batch = self
            .topic
            .batch(attrs.as_slice(), time, Uuid::now_v7().as_u128())?;
        batch.push(NewRecord {
            key,
            body: &body,
            headers: &headers,
            time: None,
            attrs: &[],
        })?;
        Ok(Append {
            topic: self.topic.inner.name.clone(),
            partition,
            records: batch.build(),
            expected: self.expected.clone(),
            dedupe: self.id.is_some(),
        })
    }
}

impl<M: Message> IntoFuture for AppendOne<'_, M> {
    type Output = Result<Appended>;
    type IntoFuture = Fut<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let append = match self.prepare() {
            Ok(append) => append,
            Err(error) => {
                let error = during(error, &self.topic.inner.name);
                return Box::pin(std::future::ready(Err(error)));
            }
        };
        let strait = self.topic.strait().clone();
        let (lane, permit, within) = (self.topic.inner.lane.clone(), self.permit, self.within);
        let (name, appended) = (
            self.topic.inner.name.clone(),
            self.topic.inner.appended.clone(),
        );
        Box::pin(async move {
            let send = async {
                let _room = room(&strait, append.records.bytes().len(), permit).await?;
                lane.append(append).await
            };
            let sent = bounded(send, within).await.map_err(|e| during(e, &name))?;
            appended.increment(1);
            Ok(Appended {
                partition: sent.partition,
                position: sent.first,
                duplicate: sent.duplicate,
            })
        })
    }
}

impl<M> fmt::Debug for AppendOne<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppendOne({:?})", self.topic)
    }
}

/// An append of many messages; await it for one [`Appended`] per message, in their order.
///
/// A future that is dropped after its first poll may have appended all of them, some partitions' only, or none.
#[must_use = "nothing is appended until this is awaited"]
pub struct AppendAll<'a, M> {
    topic: &'a Topic<M>,
    messages: &'a [M],
    trace: Option<TraceContext>,
    within: Option<Duration>,
}

/// What goes to one partition, while it is gathered.
#[derive(Default)]
struct Share {
    open: Option<RecordsBuilder>,
    closed: Vec<Records>,
    /// Which messages these are, by their place in the call.
    members: Vec<usize>,
}

/// What goes to one partition.
struct Ready {
    partition: u32,
    members: Vec<usize>,
    batches: Vec<Records>,
}

impl<'a, M: Message> AppendAll<'a, M> {
    pub(super) fn new(topic: &'a Topic<M>, messages: &'a [M]) -> Self {
        AppendAll {
            topic,
            messages,
            trace: None,
            within: None,
        }
    }

    /// The trace that they belong to.
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Gives up waiting after so long: `TimedOut`, and any of them may have been appended.
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = Some(limit);
        self
    }

    /// The kind that stands once for the batch: the first message's, unless another one has none at all, which
    /// could not say so against a shared one.
    fn shared_kind(&self) -> Option<&str> {
        let all = self.messages.iter().all(|message| message.kind().is_some());
        self.messages.first().filter(|_| all).and_then(M::kind)
    }

    fn prepare(&self) -> Result<Vec<Ready>> {
        let mut shares: Vec<Share> = Vec::new();
        shares.resize_with(self.topic.partitions().max(1) as usize, Share::default);
        // One turn for all that have no key: they stay together, the next call goes to the next partition.
        let keyless = self.topic.turn();
        let shared_kind = self.shared_kind();
        let trace = self.trace.map(|trace| trace.to_string());
        let mut shared = Attrs::default();
        shared.push(Attr::Kind, shared_kind);
        shared.push(Attr::ContentType, M::CONTENT_TYPE);
        shared.push(Attr::Traceparent, trace.as_deref());
        let mut body = Vec::new();
        for (index, message) in self.messages.iter().enumerate() {
            body.clear();
            message.encode(&mut body)?;
            let key = message.key();
            let partition = match &key {
                Some(key) => self.topic.partition_of(key),
                None => keyless,
            };
            let mut own = Attrs::default();
            if message.kind() != shared_kind {
                own.push(Attr::Kind, message.kind());
            }
            let share = shares.get_mut(partition as usize).ok_or_else(|| {
                Error::new(Kind::Conflict, "the topic got more partitions meanwhile").retry(true)
            })?;
            let record = NewRecord {
                key: key.as_deref(),
                body: &body,
                attrs: own.as_slice(),
                ..NewRecord::default()
            };
            share.add(index, record, || {
                self.topic.batch(
                    shared.as_slice(),
                    Timestamp::now(),
                    Uuid::now_v7().as_u128(),
                )
            })?;
        }
        let used = (0..).zip(shares).filter(|(_, share)| share.open.is_some());
        Ok(used
            .map(|(partition, share)| {
                let mut batches = share.closed;
                batches.extend(share.open.map(RecordsBuilder::build));
                Ready {
                    partition,
                    members: share.members,
                    batches,
                }
            })
            .collect())
    }
}

impl Share {
    /// Adds a record; a batch that is full is closed and followed by another.
    fn add(
        &mut self,
        index: usize,
        record: NewRecord<'_>,
        batch: impl Fn() -> Result<RecordsBuilder>,
    ) -> Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => batch()?,
        };
        match open.push(record) {
            Err(error) if error.is(strait_core::codes::TOO_LARGE) && !open.is_empty() => {
                // Either the batch is full or the record is too large on its own: an empty batch tells.
                let mut next = batch()?;
                next.push(record)?;
                self.closed.push(std::mem::replace(&mut open, next).build());
            }
            other => other?,
        }
        self.open = Some(open);
        self.members.push(index);
        Ok(())
    }
}

impl<M: Message> IntoFuture for AppendAll<'_, M> {
    type Output = Result<Vec<Appended>>;
    type IntoFuture = Fut<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let name = self.topic.inner.name.clone();
        let shares = match self.prepare() {
            Ok(shares) => shares,
            Err(error) => return Box::pin(std::future::ready(Err(during(error, &name)))),
        };
        let topic = self.topic.raw();
        let (within, total) = (self.within, self.messages.len());
        Box::pin(async move {
            let sends = shares.into_iter().map(|ready| {
                let topic = &topic;
                async move {
                    let Ready {
                        partition, members, ..
                    } = ready;
                    let mut sent = Vec::new();
                    for records in ready.batches {
                        let _room =
                            room(topic.strait(), records.bytes().len(), Permit::Wait).await?;
                        match topic.append_records(partition, records).await {
                            Ok(one) => sent.push(one),
                            Err(error) => return Ok((members, sent, Some(error))),
                        }
                    }
                    Ok((members, sent, None))
                }
            });
            let results = bounded(async { Ok(join_all(sends).await) }, within)
                .await
                .map_err(|e| during(e, &name))?;
            gather(results, total, &name)
        })
    }
}

type ShareResult = Result<(Vec<usize>, Vec<Sent>, Option<Error>)>;

/// Puts the answers of the partitions into the order of the messages.
fn gather(results: Vec<ShareResult>, total: usize, name: &Name) -> Result<Vec<Appended>> {
    let mut places: Vec<Option<Appended>> = vec![None; total];
    let mut failed = None;
    for result in results {
        let (members, sent, error) = result.map_err(|e| during(e, name))?;
        let positions = sent.iter().flat_map(|sent| {
            let (high, low) = sent.first.parts();
            (0..sent.count).map(move |i| Appended {
                partition: sent.partition,
                position: Position::of_parts(high, low + u64::from(i)),
                duplicate: sent.duplicate,
            })
        });
        for (member, appended) in members.iter().zip(positions) {
            if let Some(place) = places.get_mut(*member) {
                *place = Some(appended);
            }
        }
        failed = failed.or(error);
    }
    let done = places.iter().flatten().count();
    match failed {
        Some(error) => Err(during(error, name).with("appended", format!("{done} of {total}"))),
        None => Ok(places.into_iter().flatten().collect()),
    }
}

impl<M> fmt::Debug for AppendAll<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "AppendAll({:?}, {} messages)",
            self.topic,
            self.messages.len()
        )
    }
}

/// What can be the value of a header: text or bytes.
pub trait HeaderValue<'a> {
    /// The bytes.
    fn into_header(self) -> Cow<'a, [u8]>;
}

impl<'a> HeaderValue<'a> for &'a str {
    fn into_header(self) -> Cow<'a, [u8]> {
        Cow::Borrowed(self.as_bytes())
    }
}

impl<'a> HeaderValue<'a> for String {
    fn into_header(self) -> Cow<'a, [u8]> {
        Cow::Owned(self.into_bytes())
    }
}

impl<'a> HeaderValue<'a> for &'a [u8] {
    fn into_header(self) -> Cow<'a, [u8]> {
        Cow::Borrowed(self)
    }
}

impl<'a> HeaderValue<'a> for Vec<u8> {
    fn into_header(self) -> Cow<'a, [u8]> {
        Cow::Owned(self)
    }
}

impl<'a> HeaderValue<'a> for Bytes {
    fn into_header(self) -> Cow<'a, [u8]> {
        Cow::Owned(self.into())
    }
}

/// A few attributes, without an allocation.
pub(crate) struct Attrs<'a> {
    list: [(Attr, &'a str); 8],
    len: usize,
}

impl Default for Attrs<'_> {
    fn default() -> Self {
        Attrs {
            list: [(Attr::Id, ""); 8],
            len: 0,
        }
    }
}

impl<'a> Attrs<'a> {
    /// Adds an attribute, when there is a value. There is room for one of each that this crate writes.
    pub(crate) fn push(&mut self, attr: Attr, value: Option<&'a str>) {
        if let (Some(value), Some(place)) = (value, self.list.get_mut(self.len)) {
            *place = (attr, value);
            self.len += 1;
        }
    }

    pub(crate) fn as_slice(&self) -> &[(Attr, &'a str)] {
        &self.list[..self.len]
    }
}

impl<M: Message> Topic<M> {
    /// An empty batch with the topic's limits.
    pub(crate) fn batch(
        &self,
        attrs: &[(Attr, &str)],
        time: Timestamp,
        id: u128,
    ) -> Result<RecordsBuilder> {
        let limits = Limits {
            body: self.inner.max_body,
            batch: self.inner.max_batch,
            ..Limits::default()
        };
        RecordsBuilder::with(attrs, limits, time, id)
    }
}

/// Takes room for `bytes` among those that are under way.
async fn room(strait: &Strait, bytes: usize, permit: Permit) -> Result<OwnedSemaphorePermit> {
    let budget = strait.budget().clone();
    let bytes = bytes.min(IN_FLIGHT_BYTES) as u32;
    let taken = match permit {
        Permit::Wait => budget.acquire_many_owned(bytes).await.ok(),
        Permit::Try => budget.try_acquire_many_owned(bytes).ok(),
    };
    taken.ok_or_else(|| {
        Error::new(Kind::Busy, "too many bytes of appends are under way")
            .with("limit", format!("{IN_FLIGHT_BYTES} bytes"))
            .next("try again in some milliseconds, or use `append`, which waits")
    })
}

async fn bounded<T>(work: impl Future<Output = Result<T>>, within: Option<Duration>) -> Result<T> {
    let Some(limit) = within else {
        return work.await;
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(
            Error::new(Kind::TimedOut, format!("no answer within {limit:?}"))
                .unknown()
                .next("repeat it with the same `.id(..)`: a known id is not appended again"),
        )
    })
}

/// Names operation and topic, unless the engine did.
fn during(error: Error, topic: &Name) -> Error {
    let named = error.context().iter().any(|(name, _)| *name == "topic");
    let error = if error.operation().is_empty() {
        error.during("append")
    } else {
        error
    };
    if named {
        error
    } else {
        error.with("topic", topic)
    }
}
