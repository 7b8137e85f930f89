//! Appending: one message is an `XADD`; a batch is one script, which gives its entries ids that follow each other.

use redis::Value;
use strait_core::events::{Append, Expected};
use strait_core::{
    Attr, Error, Kind, Name, Outgoing, Position, Records, Result, Sent, Unit, codes,
};

use crate::engine::{MAX_BATCH, MAX_BODY, Shared};
use crate::fault::{closed, no_such_topic, odd};
use crate::reply::bytes;
use crate::script::Invoke;
use crate::{entry, keys};

/// Most headers of a message: a script hands the fields of an entry over together, and may hand over 8,000.
pub(crate) const MAX_HEADERS: usize = 2000;

impl Shared {
    pub(crate) async fn append(&self, append: Append) -> Result<Sent> {
        check(&append.records)?;
        if matches!(append.expected, Expected::KeyVersion(_)) {
            return Err(no_key_versions());
        }
        if append.dedupe || append.expected != Expected::Any || append.records.len() > 1 {
            return self.add_if(append).await;
        }
        self.partition(&append.topic, append.partition).await?;
        let room = self.room(append.records.bytes().len()).await?;
        let sent = self.add(&append).await;
        drop(room);
        if sent
            .as_ref()
            .is_err_and(|error| error.is(codes::NO_SUCH_TOPIC))
        {
            self.known.forget(&append.topic);
        }
        sent
    }

    /// One message without conditions is a plain `XADD`.
    async fn add(&self, append: &Append) -> Result<Sent> {
        let what = || format!("appending to the topic {:?}", append.topic);
        let mut command = redis::cmd("XADD");
        command
            .arg(keys::stream(&append.topic, append.partition))
            .arg("NOMKSTREAM")
            .arg("*");
        for record in append.records.iter() {
            entry::fields(&record, |name, value| {
                command.arg(name).arg(value);
            });
        }
        let answer = self.link.run(&what(), &command, true).await?;
        if answer == Value::Nil {
            return Err(no_such_topic(&append.topic));
        }
        let first = bytes(&answer)
            .and_then(keys::position)
            .ok_or_else(|| odd(what()))?;
        Ok(Sent {
            partition: append.partition,
            first,
            count: 1,
            duplicate: false,
        })
    }

    /// A unit of its own: the script knows the ids of the window, where the stream ends, and which ids follow each other.
    async fn add_if(&self, append: Append) -> Result<Sent> {
        let outgoing = Outgoing::Append {
            topic: append.topic,
            partition: append.partition,
            records: append.records,
            expected: append.expected,
            dedupe: append.dedupe,
        };
        let sent = self.unit(Unit::send(outgoing)).await.into_result()?;
        sent.into_iter()
            .next()
            .ok_or_else(|| odd("appending a batch"))
    }

    /// Waits for room among the batches that are under way.
    pub(crate) async fn room(&self, bytes: usize) -> Result<tokio::sync::SemaphorePermit<'_>> {
        let kib = (bytes as u32).div_ceil(1024).min(crate::engine::ROOM_KIB);
        self.room.acquire_many(kib).await.map_err(|_| closed())
    }
}

/// The records for a script: their number, then of each the number of its fields, and these.
pub(crate) fn put_records(invoke: &mut Invoke, records: &Records) {
    invoke.arg(records.len() as i64);
    for record in records.iter() {
        invoke.arg(2 * entry::count(&record));
        entry::fields(&record, |name, value| {
            invoke.arg(name).arg(value);
        });
    }
}

/// By what a batch is known: the ids that its messages were given, or its own where they have none.
pub(crate) fn ids(records: &Records) -> Vec<String> {
    let given = |record: strait_core::Record<'_>| record.attr(Attr::Id).map(str::to_owned);
    let mut ids: Vec<String> = records.iter().filter_map(given).collect();
    if ids.is_empty() {
        ids.push(format!("{:032x}", records.batch().id()));
    }
    ids
}

/// What this engine takes, whatever a producer let pass.
pub(crate) fn check(records: &Records) -> Result<()> {
    let too_large = |what: &str, bytes: usize, limit: usize| {
        let text = format!("{what} has {bytes} bytes, the limit is {limit}");
        Error::new(Kind::Rejected, text).code(codes::TOO_LARGE)
    };
    if records.is_empty() {
        return Err(Error::new(Kind::Rejected, "the batch holds no message"));
    }
    let bytes = records.bytes().len();
    if bytes > MAX_BATCH {
        return Err(too_large("the batch", bytes, MAX_BATCH).next("send it in parts"));
    }
    let headers = records.iter().map(|record| record.headers().count()).max();
    if let Some(headers) = headers.filter(|headers| *headers > MAX_HEADERS) {
        let text = format!("a message has {headers} headers, the limit on Redis is {MAX_HEADERS}");
        return Err(Error::new(Kind::Rejected, text).next("put them into the body"));
    }
    let longest = records.iter().map(|record| record.body().len()).max();
    match longest.filter(|body| *body > MAX_BODY) {
        Some(body) => {
            Err(too_large("a body", body, MAX_BODY).next("send a reference to it (claim check)"))
        }
        None => Ok(()),
    }
}

pub(crate) fn no_key_versions() -> Error {
    Error::unsupported(
        "this engine keeps no versions of keys",
        "expect a position, or use the embedded engine for event sourcing",
    )
}

pub(crate) fn wrong_version(topic: &Name, partition: u32, end: Position) -> Error {
    let text =
        format!("partition {partition} of the topic {topic} does not end where it was expected to");
    Error::new(Kind::Conflict, text)
        .code(codes::WRONG_VERSION)
        .with("end", end)
        .next("read what was appended meanwhile, and decide again")
}
