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
use strait_core::{
    Attr, Chunk, Limits, Name, NewRecord, Position, Record, RecordsBuilder, Result, Span, Timestamp,
};

use crate::fault::odd;
use crate::keys;
use crate::reply::{bytes, entry};

/// The greatest index in its batch under which a message keeps the derived id: each index before it costs a byte of a chunk.
const INDEX_MAX: u32 = 1 << 16;
/// Longest text of an attribute; a longer one stays a header.
const ATTR_MAX: usize = 4096;
const HEADER: &str = "h:";

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

/// `UUID.INDEX` in the form in which ids are shown.
fn derived(text: &str) -> Option<(u128, u32)> {
    let (batch, index) = text.split_once('.')?;
    let plain = !index.starts_with('+') && (index == "0" || !index.starts_with('0'));
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if batch.len() != 32 || !plain || !batch.bytes().all(lower) {
        return None;
    }
    let index = index.parse().ok().filter(|index| *index < INDEX_MAX)?;
    let batch = u128::from_str_radix(batch, 16).ok().filter(|id| *id != 0)?;
    Some((batch, index))
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
        let bad = |byte: &u8| matches!(*byte, b'\r' | b'\n' | 0);
        let text = std::str::from_utf8(value).ok();
        let Some(text) = text.filter(|t| t.len() <= ATTR_MAX && !t.as_bytes().iter().any(bad))
        else {
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

/// Makes chunks of entries of one partition, in their order.
#[derive(Debug)]
pub(crate) struct Gather {
    topic: Name,
    partition: u32,
    buf: Vec<u8>,
    spans: Vec<Span>,
    open: Option<Open>,
    bytes: usize,
}

/// The batch that is being filled.
#[derive(Debug)]
struct Open {
    builder: RecordsBuilder,
    id: u128,
    first: Position,
    skip: u32,
    take: u32,
}

impl Gather {
    pub(crate) fn new(topic: Name, partition: u32) -> Self {
        Gather {
            topic,
            partition,
            buf: Vec::new(),
            spans: Vec::new(),
            open: None,
            bytes: 0,
        }
    }

    /// Keys, headers and bodies so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes one entry as the server gives it; gives its position.
    pub(crate) fn push(&mut self, value: &Value) -> Result<Position> {
        let what = || odd(format!("reading the stream `{}`", self.topic));
        let (id, fields) = entry(value).ok_or_else(what)?;
        let position = keys::position(id).ok_or_else(what)?;
        let mut read = Read::of(fields);
        let (foreign, own);
        let body = match read.body {
            Some(body) => body,
            None => {
                foreign = foreign_body(fields);
                read = Read::default();
                &foreign
            }
        };
        let (batch, index) = match read.id.and_then(derived) {
            Some(derived) => derived,
            None => {
                // Not from a batch of ours: the id is the place, which never changes.
                own = match read.id {
                    Some(given) => given.to_owned(),
                    None => format!("{}/{}/{position}", self.topic, self.partition),
                };
                read.attrs.push((Attr::Id, &own));
                let next = self.open.as_ref().map_or(0, |open| open.skip + open.take);
                (0, next)
            }
        };
        let record = NewRecord {
            key: read.key,
            body,
            headers: &read.headers,
            time: read.time,
            attrs: &read.attrs,
        };
        let open = self.place(batch, index, position)?;
        open.builder.push_stored(record)?;
        open.take += 1;
        self.bytes += read.key.map_or(0, <[u8]>::len) + body.len();
        self.bytes += read
            .headers
            .iter()
            .map(|(n, v)| n.len() + v.len())
            .sum::<usize>();
        Ok(position)
    }

    /// The open batch, or a new one where the message does not follow in it.
    fn place(&mut self, id: u128, index: u32, position: Position) -> Result<&mut Open> {
        let follows = self.open.as_ref().is_some_and(|open| {
            let (high, low) = open.first.parts();
            open.id == id
                && open.skip + open.take == index
                && Position::of_parts(high, low + u64::from(open.take)) == position
        });
        if !follows {
            self.close();
            let skip = if id == 0 { 0 } else { index };
            let mut builder = RecordsBuilder::with(&[], Limits::default(), appended(position), id)?;
            builder.leave_out(skip);
            self.open = Some(Open {
                builder,
                id,
                first: position,
                skip,
                take: 0,
            });
        }
        self.open.as_mut().ok_or_else(crate::fault::closed)
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.spans.push(Span {
            at: self.buf.len() as u32,
            first: open.first,
            skip: open.skip,
            take: open.take,
            appended: appended(open.first),
        });
        self.buf.extend_from_slice(open.builder.build().bytes());
    }

    /// The chunk; reading goes on at `next`.
    pub(crate) fn chunk(mut self, next: Position) -> Chunk {
        self.close();
        Chunk::new(
            self.topic.shared(),
            self.partition,
            self.buf.into(),
            self.spans,
            next,
        )
    }
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

    fn chunk(entries: &[(&str, &[&str])]) -> Chunk {
        let mut gather = Gather::new("t".parse().unwrap(), 0);
        let mut next = Position::default();
        for (id, fields) in entries {
            let fields = fields.iter().map(|field| text(field)).collect();
            let entry = Value::Array(vec![text(id), Value::Array(fields)]);
            next = gather.push(&entry).unwrap().next();
        }
        gather.chunk(next)
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

    #[test]
    fn ids_of_a_batch_that_is_cut_stay() {
        let batch = "0".repeat(31) + "7";
        let id = |index: u32| format!("{batch}.{index}");
        let (first, second) = (id(3), id(4));
        let read = chunk(&[
            ("1-0", &["id", &first, "body", "a"]),
            ("1-1", &["id", &second, "body", "b"]),
            ("1-2", &["id", "mine", "body", "c"]),
        ]);
        let ids: Vec<_> = read
            .iter()
            .map(|item| item.record().id().to_string())
            .collect();
        assert_eq!(ids, [first, second, "mine".to_owned()]);
    }
}
