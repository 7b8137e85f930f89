//! A message as the fields of a stream entry, and back.
//!
//! | record | field |
//! |---|---|
//! | body, key | `body`, `key` |
//! | id, kind, source | `id`, `type`, `source` |
//! | time | `time`, in milliseconds since 1970 |
//! | schema, content type | `dataschema`, `content-type` |
//! | trace context | `traceparent`, `tracestate` |
//! | correlation, causation | `correlationid`, `causationid` |
//! | header `name` | `h:name` |
//!
//! An entry without a field `body` is another program's: the value of its only field is the body, of several fields a JSON
//! object of them. Its id is its place, its time that of its stream id.

use redis::Value;
use strait_core::{Attr, ChunkBuilder, NewRecord, Position, Record, Result, Timestamp};

use crate::fault::odd;
use crate::keys;
use crate::reply::{bytes, entry};

/// In front of the name of a header.
pub(crate) const HEADER: &str = "h:";

const NAMES: [(Attr, &str); 8] = [
    (Attr::Kind, "type"),
    (Attr::Source, "source"),
    (Attr::Schema, "dataschema"),
    (Attr::ContentType, "content-type"),
    (Attr::Traceparent, "traceparent"),
    (Attr::Tracestate, "tracestate"),
    (Attr::Correlation, "correlationid"),
    (Attr::Causation, "causationid"),
];

/// Gives `put` the fields of a record, names and values.
pub(crate) fn fields(record: &Record<'_>, mut put: impl FnMut(&[u8], &[u8])) {
    put(b"id", record.id().to_string().as_bytes());
    put(b"time", record.time().as_millis().to_string().as_bytes());
    if let Some(key) = record.key() {
        put(b"key", key);
    }
    for (attr, text) in record.attrs() {
        if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == attr) {
            put(name.as_bytes(), text.as_bytes());
        }
    }
    for (name, value) in record.headers() {
        put(format!("{HEADER}{name}").as_bytes(), value);
    }
    put(b"body", record.body());
}

/// How many fields [`fields`] gives.
pub(crate) fn count(record: &Record<'_>) -> usize {
    let known = |(attr, _): &(Attr, &str)| NAMES.iter().any(|(known, _)| known == attr);
    let attrs = record.attrs().filter(known).count();
    3 + usize::from(record.key().is_some()) + attrs + record.headers().count()
}

/// What the fields of an entry say.
#[derive(Default)]
struct Read<'a> {
    id: Option<&'a str>,
    time: Option<Timestamp>,
    key: Option<&'a [u8]>,
    body: Option<&'a [u8]>,
    attrs: Vec<(Attr, &'a str)>,
    headers: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Read<'a> {
    fn of(fields: &'a [Value]) -> Self {
        let mut read = Read::default();
        for pair in fields.chunks_exact(2) {
            let name = bytes(&pair[0]).and_then(|name| std::str::from_utf8(name).ok());
            if let (Some(name), Some(value)) = (name, bytes(&pair[1])) {
                read.field(name, value);
            }
        }
        read
    }

    fn field(&mut self, name: &'a str, value: &'a [u8]) {
        match name {
            "body" if self.body.is_none() => return self.body = Some(value),
            "key" if self.key.is_none() => return self.key = Some(value),
            _ => {}
        }
        if let Some(header) = name.strip_prefix(HEADER) {
            return self.headers.push((header, value));
        }
        if !self.attribute(name, value) {
            self.headers.push((name, value));
        }
    }

    /// Takes a field that is an attribute; a second one of its name, and one that no attribute can hold, is a header.
    fn attribute(&mut self, name: &str, value: &'a [u8]) -> bool {
        let Some(text) = Attr::text(value) else {
            return false;
        };
        match name {
            "id" if self.id.is_none() => self.id = Some(text),
            "time" if self.time.is_none() => {
                self.time = text.parse().ok().map(Timestamp::from_millis);
                return self.time.is_some();
            }
            _ => match NAMES.iter().find(|(_, known)| *known == name) {
                Some((attr, _)) if self.attrs.iter().all(|(a, _)| a != attr) => {
                    self.attrs.push((*attr, text));
                }
                _ => return false,
            },
        }
        true
    }
}

/// The body of an entry that another program made.
fn foreign_body(fields: &[Value]) -> Vec<u8> {
    if let [_, value] = fields {
        return bytes(value).unwrap_or_default().to_vec();
    }
    let text =
        |value: &Value| String::from_utf8_lossy(bytes(value).unwrap_or_default()).into_owned();
    let pairs = fields.chunks_exact(2);
    let object: serde_json::Map<String, serde_json::Value> = pairs
        .map(|pair| (text(&pair[0]), text(&pair[1]).into()))
        .collect();
    serde_json::Value::Object(object).to_string().into_bytes()
}

/// Puts an entry, as the server gives it, into a chunk of its stream; gives its position.
pub(crate) fn push(chunk: &mut ChunkBuilder, value: &Value) -> Result<Position> {
    let what = || odd("reading a stream");
    let (id, fields) = entry(value).ok_or_else(what)?;
    let position = keys::position(id).ok_or_else(what)?;
    let mut read = Read::of(fields);
    let foreign;
    let body = match read.body {
        Some(body) => body,
        None => {
            foreign = foreign_body(fields);
            read = Read::default();
            &foreign
        }
    };
    let record = NewRecord {
        key: read.key,
        body,
        headers: &read.headers,
        time: read.time,
        attrs: &read.attrs,
    };
    chunk.push(position, appended(position), read.id, record)?;
    Ok(position)
}

/// The first half of a stream id is the server's time.
fn appended(position: Position) -> Timestamp {
    Timestamp::from_millis(position.parts().0 as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn chunk(entries: &[(&str, &[&str])]) -> strait_core::Chunk {
        let mut chunk = ChunkBuilder::new("t".parse().unwrap(), 0);
        let mut next = Position::default();
        for (id, fields) in entries {
            let fields = fields.iter().map(|field| text(field)).collect();
            let entry = Value::Array(vec![text(id), Value::Array(fields)]);
            next = push(&mut chunk, &entry).unwrap().next();
        }
        chunk.build(next)
    }

    #[test]
    fn as_many_fields_are_given_as_were_counted() {
        use strait_core::Records;
        let plain = NewRecord {
            body: b"b",
            ..NewRecord::default()
        };
        let headers: [(&str, &[u8]); 2] = [("a", b"1"), ("a", b"2")];
        let full = NewRecord {
            key: Some(b"k"),
            headers: &headers,
            time: Some(Timestamp::from_millis(1)),
            ..plain
        };
        let attrs = [(Attr::Id, "i"), (Attr::Kind, "k.v1"), (Attr::Source, "s")];
        for (attrs, record, wanted) in [(&[][..], plain, 3), (&attrs[..], full, 8)] {
            let records = Records::one(attrs, record).unwrap();
            let record = records.iter().next().unwrap();
            let mut given = 0;
            fields(&record, |_, _| given += 1);
            assert_eq!((given, count(&record)), (wanted, wanted));
        }
    }

    #[test]
    fn entries_of_other_programs_are_read() {
        let read = chunk(&[
            ("5-0", &["amount", "3"]),
            ("5-1", &["amount", "3", "who", "ada"]),
            (
                "9-0",
                &["body", "b", "type", "a.v1", "colour", "red", "h:x", "1"],
            ),
        ]);
        let items: Vec<_> = read.iter().collect();
        let body = |i: usize| String::from_utf8_lossy(items[i].record().body()).into_owned();
        assert_eq!(
            (body(0), body(1)),
            ("3".into(), r#"{"amount":"3","who":"ada"}"#.into())
        );
        assert_eq!(items[0].record().id().to_string(), "t/0/5-0");
        assert_eq!(items[1].record().time(), Timestamp::from_millis(5));
        assert_eq!(items[2].record().kind(), Some("a.v1"));
        assert_eq!(items[2].record().header("colour"), Some(&b"red"[..]));
        assert_eq!(items[2].record().header("x"), Some(&b"1"[..]));
        assert_eq!(items[2].position(), Position::of_parts(9, 0));
    }
}
