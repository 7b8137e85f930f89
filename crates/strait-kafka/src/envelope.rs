//! The envelope at the border: the Kafka binding of CloudEvents in binary mode, and messages on their way in.
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
use strait_core::{Attr, ChunkBuilder, NewRecord, Position, Record, Result, Timestamp};

/// What stands for the source of a message that has none, because a CloudEvent must have one.
const NO_SOURCE: &str = "strait";

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

/// What the headers of a message say.
#[derive(Default)]
struct Read<'a> {
    id: Option<&'a str>,
    time: Option<Timestamp>,
    attrs: Vec<(Attr, &'a str)>,
    headers: Vec<(&'a str, &'a [u8])>,
}

/// Puts a message into a chunk of its partition.
pub(crate) fn push(chunk: &mut ChunkBuilder, message: &BorrowedMessage<'_>) -> Result<()> {
    let appended = Timestamp::from_millis(message.timestamp().to_millis().unwrap_or(0));
    let read = Read::of(message);
    let record = NewRecord {
        key: message.key(),
        body: message.payload().unwrap_or_default(),
        headers: &read.headers,
        time: read
            .time
            .or_else(|| message.timestamp().to_millis().map(Timestamp::from_millis)),
        attrs: &read.attrs,
    };
    let position = Position::at(message.offset() as u64);
    chunk.push(position, appended, read.id, record)
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
        let Some(text) = Attr::text(value) else {
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
}
