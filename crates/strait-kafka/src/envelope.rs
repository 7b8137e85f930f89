//! The envelope at the border: the Kafka binding of CloudEvents in binary mode, and batches cut out of what was read.
//!
//! | record | Kafka |
//! |---|---|
//! | id | header `ce_id` |
//! | kind, source, schema | headers `ce_type`, `ce_source`, `ce_dataschema` |
//! | correlation, causation | headers `ce_correlationid`, `ce_causationid` |
//! | content type, trace context | headers `content-type`, `traceparent`, `tracestate` |
//! | time | the record's timestamp; header `ce_time` with a kind, and where a timestamp cannot hold it |
//! | key, body, headers | as they are; a null value reads as an empty body |

use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Header, Headers, OwnedHeaders};
use strait_core::{
    Attr, Chunk, Limits, Name, NewRecord, Position, Record, RecordsBuilder, Result, Span, Timestamp,
};

/// What stands for the source of a message that has none, because a CloudEvent must have one.
const NO_SOURCE: &str = "strait";
/// The greatest index in its batch under which a message keeps the derived id: each index before it costs a byte of a chunk.
const INDEX_MAX: u32 = 1 << 16;
/// Longest text of an attribute; a longer one stays a header.
const ATTR_MAX: usize = 4096;

const NAMES: [(Attr, &str); 8] = [
    (Attr::Kind, "ce_type"),
    (Attr::Source, "ce_source"),
    (Attr::Schema, "ce_dataschema"),
    (Attr::Correlation, "ce_correlationid"),
    (Attr::Causation, "ce_causationid"),
    (Attr::ContentType, "content-type"),
    (Attr::Traceparent, "traceparent"),
    (Attr::Tracestate, "tracestate"),
];

/// The timestamp that Kafka stores. It has none before 1970, and takes 0 for "now".
pub(crate) fn timestamp(record: &Record<'_>) -> i64 {
    record.time().as_millis().max(1)
}

/// Whether Kafka, or the envelope, can hold the time of a record.
pub(crate) fn holds(time: Timestamp) -> bool {
    time.as_millis() >= 1 || rfc3339(time).is_some()
}

/// The headers of a record on its way out.
pub(crate) fn headers(record: &Record<'_>) -> OwnedHeaders {
    let kind = record.kind();
    let id = record.id().to_string();
    let mut out = put(OwnedHeaders::new_with_capacity(8), "ce_id", id.as_bytes());
    if kind.is_some() {
        out = put(out, "ce_specversion", b"1.0");
        if record.attr(Attr::Source).is_none() {
            out = put(out, "ce_source", NO_SOURCE.as_bytes());
        }
    }
    let time = record.time();
    let told = kind.is_some() || time.as_millis() < 1;
    if let Some(text) = told.then(|| rfc3339(time)).flatten() {
        out = put(out, "ce_time", text.as_bytes());
    }
    for (attr, text) in record.attrs() {
        if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == attr) {
            out = put(out, name, text.as_bytes());
        }
    }
    for (name, value) in record.headers() {
        out = put(out, name, value);
    }
    out
}

pub(crate) fn put(headers: OwnedHeaders, name: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header {
        key: name,
        value: Some(value),
    })
}

fn rfc3339(time: Timestamp) -> Option<String> {
    let time = jiff::Timestamp::from_millisecond(time.as_millis()).ok()?;
    Some(format!("{time:.3}"))
}

fn of_rfc3339(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp::from_millis(time.as_millisecond()))
}

/// `UUID.INDEX` in the form that [`MessageId`] shows.
fn derived(text: &str) -> Option<(u128, u32)> {
    let (batch, index) = text.split_once('.')?;
    let plain = !index.starts_with('+') && (index == "0" || !index.starts_with('0'));
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if batch.len() != 32 || !plain || !batch.bytes().all(lower) {
        return None;
    }
    let index = index.parse().ok().filter(|index| *index < INDEX_MAX)?;
    let batch = u128::from_str_radix(batch, 16)
        .ok()
        .filter(|batch| *batch != 0)?;
    Some((batch, index))
}

/// Makes chunks of messages of one partition, in the order of their offsets.
#[derive(Debug)]
pub(crate) struct Gather {
    topic: Name,
    partition: u32,
    buf: Vec<u8>,
    spans: Vec<Span>,
    open: Option<Open>,
    len: usize,
    bytes: usize,
}

/// The batch that is being filled.
#[derive(Debug)]
struct Open {
    builder: RecordsBuilder,
    id: u128,
    first: u64,
    skip: u32,
    take: u32,
    appended: i64,
}

/// What the headers of a message say.
#[derive(Default)]
struct Read<'a> {
    id: Option<&'a str>,
    time: Option<Timestamp>,
    attrs: Vec<(Attr, &'a str)>,
    headers: Vec<(&'a str, &'a [u8])>,
}

impl Gather {
    pub(crate) fn new(topic: Name, partition: u32) -> Self {
        Gather {
            topic,
            partition,
            buf: Vec::new(),
            spans: Vec::new(),
            open: None,
            len: 0,
            bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Keys, headers and bodies so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes one message.
    pub(crate) fn push(&mut self, message: &BorrowedMessage<'_>) -> Result<()> {
        let offset = message.offset() as u64;
        let stamp = message.timestamp().to_millis();
        let mut read = Read::of(message);
        let own;
        let (batch, index) = match read.id.and_then(derived) {
            Some(derived) => derived,
            None => {
                // Not from us: the id is the place, which never changes.
                own = match read.id {
                    Some(given) => given.to_owned(),
                    None => format!("{}/{}/{offset}", self.topic, self.partition),
                };
                read.attrs.push((Attr::Id, &own));
                let next = self.open.as_ref().map_or(0, |open| open.skip + open.take);
                (0, next)
            }
        };
        let time = read.time.or(stamp.map(Timestamp::from_millis));
        let open = self.place(batch, index, offset, stamp.unwrap_or(0))?;
        let record = NewRecord {
            key: message.key(),
            body: message.payload().unwrap_or_default(),
            headers: &read.headers,
            time,
            attrs: &read.attrs,
        };
        open.builder.push_stored(record)?;
        open.take += 1;
        self.len += 1;
        self.bytes += message.key_len() + message.payload_len();
        self.bytes += read
            .headers
            .iter()
            .map(|(n, v)| n.len() + v.len())
            .sum::<usize>();
        Ok(())
    }

    /// The open batch, or a new one where the message does not follow in it.
    fn place(&mut self, id: u128, index: u32, offset: u64, appended: i64) -> Result<&mut Open> {
        let follows = self.open.as_ref().is_some_and(|open| {
            open.id == id
                && open.skip + open.take == index
                && open.first + u64::from(open.take) == offset
                && open.appended == appended
        });
        if !follows {
            self.close();
            let skip = if id == 0 { 0 } else { index };
            let base = Timestamp::from_millis(appended);
            let mut builder = RecordsBuilder::with(&[], Limits::default(), base, id)?;
            builder.leave_out(skip);
            self.open = Some(Open {
                builder,
                id,
                first: offset,
                skip,
                take: 0,
                appended,
            });
        }
        self.open.as_mut().ok_or_else(crate::fault::closed)
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.spans.push(Span {
            at: self.buf.len() as u32,
            first: Position::at(open.first),
            skip: open.skip,
            take: open.take,
            appended: Timestamp::from_millis(open.appended),
        });
        self.buf.extend_from_slice(open.builder.build().bytes());
    }

    /// The chunk; reading goes on at `next`.
    pub(crate) fn chunk(mut self, next: u64) -> Chunk {
        self.close();
        Chunk::new(
            self.topic.shared(),
            self.partition,
            self.buf.into(),
            self.spans,
            Position::at(next),
        )
    }
}

impl<'a> Read<'a> {
    fn of(message: &'a BorrowedMessage<'_>) -> Self {
        let mut read = Read::default();
        let Some(headers) = message.headers() else {
            return read;
        };
        for header in headers.iter() {
            let value = header.value.unwrap_or_default();
            if !read.attribute(header.key, value) {
                read.headers.push((header.key, value));
            }
        }
        read
    }

    /// Takes a header that is an attribute; a second one of its name, and one that no attribute can hold, stays a header.
    fn attribute(&mut self, name: &str, value: &'a [u8]) -> bool {
        let bad = |byte: &u8| matches!(*byte, b'\r' | b'\n' | 0);
        let text = std::str::from_utf8(value).ok();
        let Some(text) = text.filter(|t| t.len() <= ATTR_MAX && !t.as_bytes().iter().any(bad))
        else {
            return false;
        };
        match name {
            "ce_id" if self.id.is_none() => self.id = Some(text),
            "ce_time" if self.time.is_none() => {
                self.time = of_rfc3339(text);
                return self.time.is_some();
            }
            "ce_specversion" => return text == "1.0",
            "ce_source" if text == NO_SOURCE => {}
            _ => {
                let known = NAMES.iter().find(|(_, known)| *known == name);
                match known {
                    Some((attr, _)) if self.attrs.iter().all(|(a, _)| a != attr) => {
                        self.attrs.push((*attr, text));
                    }
                    _ => return false,
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use strait_core::MessageId;

    use super::*;

    #[test]
    fn times_go_through_text_to_the_millisecond() {
        for millis in [
            -62_135_596_800_000,
            -1,
            0,
            1_700_000_000_123,
            253_402_200_000_999,
        ] {
            let time = Timestamp::from_millis(millis);
            let text = rfc3339(time).unwrap();
            assert_eq!(of_rfc3339(&text), Some(time), "{text}");
        }
        assert_eq!(
            of_rfc3339("2026-11-24T10:00:00+02:00"),
            of_rfc3339("2026-11-24T08:00:00Z")
        );
        assert_eq!(of_rfc3339("yesterday"), None);
    }

    #[test]
    fn a_derived_id_is_read_as_it_is_shown_and_nothing_else_is_one() {
        let id = MessageId::Derived {
            batch: 0xfeed,
            index: 70,
        };
        assert_eq!(derived(&id.to_string()), Some((0xfeed, 70)));
        let uuid = "0".repeat(28) + "feed";
        for other in [
            "order-1".to_owned(),
            uuid.clone(),
            format!("{uuid}.+7"),
            format!("{uuid}.07"),
            format!("{uuid}.4000000000"),
            format!("{}.1", uuid.to_uppercase()),
        ] {
            assert_eq!(derived(&other), None, "{other}");
        }
    }
}
