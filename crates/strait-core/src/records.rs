//! Records: many messages for one partition in one buffer, in a layout that this crate owns.
//!
//! Producers fill the buffer and compute its checksum on their own thread; the embedded engine writes it to disk
//! as it is, and drivers of other engines iterate it. What the messages of a batch share (kind, source, schema,
//! trace ..) stands once, in the batch's attributes; a record may override one.
//!
//! # Layout, version 1 (little endian)
//!
//! ```text
//! batch   len u32 (whole) | crc u32 = crc32c of [8..len] | version u8 | 0 u8 | attributes' length u16
//!         count u32 | id 16 bytes | base time i64 (ms) | greatest time i64 (ms) | attributes | records
//! record  flags u8 | body length | time delta (zigzag) if TIME | key length if KEY
//!         headers' length if HEADERS | attributes' length if ATTRS | key | headers | attributes | body
//! header  name length | name | value length | value          (lengths: LEB128)
//! attribute  tag u8 | length | text
//! ```

use bytes::Bytes;

use crate::error::{Error, Kind, Result, codes};
use crate::time::Timestamp;

mod wire;
pub use wire::crc32c;
use wire::{get_varint, put_varint, unzigzag, zigzag};

/// Length of the fixed part of a batch.
pub const BATCH_HEAD: usize = 48;
const VERSION: u8 = 1;
const KEY: u8 = 1;
const HEADERS: u8 = 2;
const TIME: u8 = 4;
const ATTRS: u8 = 8;

/// The bounds that a [`RecordsBuilder`] holds. Over a bound: `Rejected`, code `too_large`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest body, in bytes. Default 1 MiB; larger ones go by claim check.
    pub body: usize,
    /// Longest key, in bytes. Default 64 KiB.
    pub key: usize,
    /// All header names and values of one message together, in bytes. Default 64 KiB.
    pub headers: usize,
    /// Longest batch, in bytes. Default 8 MiB.
    pub batch: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body: 1 << 20,
            key: 64 << 10,
            headers: 64 << 10,
            batch: 8 << 20,
        }
    }
}

/// A text attribute of a message beside key, headers and body (the CloudEvents and trace context names).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Attr {
    /// The id that the producer gave; without it a message's id is the batch's id and its index.
    Id = 1,
    /// The kind, for example `order.placed.v1` (CloudEvents `type`).
    Kind = 2,
    /// Who produced it (CloudEvents `source`).
    Source = 3,
    /// The schema reference (CloudEvents `dataschema`).
    Schema = 4,
    /// The media type of the body (CloudEvents `datacontenttype`).
    ContentType = 5,
    /// W3C trace context, `traceparent`.
    Traceparent = 6,
    /// W3C trace context, `tracestate`.
    Tracestate = 7,
    /// The correlation id (CloudEvents extension `correlationid`).
    Correlation = 8,
    /// The id of the message that caused this one (CloudEvents extension `causationid`).
    Causation = 9,
}

/// One message as the producer hands it over. Borrowed: the builder copies it into the batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// The key: messages of one key keep their order. `None`: no key.
    pub key: Option<&'a [u8]>,
    /// The body.
    pub body: &'a [u8],
    /// Header pairs in order; names may repeat.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// When it happened; `None`: the batch's base time.
    pub time: Option<Timestamp>,
    /// Attributes that differ from the batch's.
    pub attrs: &'a [(Attr, &'a str)],
}

/// Fills one batch. Everything that can be refused is refused here, before anything is sent.
///
/// ```
/// use strait_core::{Attr, NewRecord, RecordsBuilder};
/// let mut batch = RecordsBuilder::new(&[(Attr::Kind, "order.placed.v1")])?;
/// batch.push(NewRecord { key: Some(b"ada"), body: br#"{"order":42}"#, ..Default::default() })?;
/// let records = batch.build();
/// assert_eq!(records.len(), 1);
/// assert_eq!(records.iter().next().unwrap().attr(Attr::Kind), Some("order.placed.v1"));
/// # Ok::<(), strait_core::Error>(())
/// ```
#[derive(Debug)]
pub struct RecordsBuilder {
    buf: Vec<u8>,
    count: u32,
    base: i64,
    greatest: i64,
    limits: Limits,
}

impl RecordsBuilder {
    /// A builder with the default [`Limits`]; base time and id are made now (the id is a UUID version 7).
    pub fn new(attrs: &[(Attr, &str)]) -> Result<Self> {
        Self::with(
            attrs,
            Limits::default(),
            Timestamp::now(),
            uuid::Uuid::now_v7().as_u128(),
        )
    }

    /// A builder with everything given: for tests, derived ids and other clocks.
    pub fn with(attrs: &[(Attr, &str)], limits: Limits, base: Timestamp, id: u128) -> Result<Self> {
        let mut buf = vec![0; BATCH_HEAD];
        put_attrs(&mut buf, attrs)?;
        let attrs_len = u16::try_from(buf.len() - BATCH_HEAD)
            .map_err(|_| too_large("the attributes of a batch", buf.len(), 65_535))?;
        buf[8] = VERSION;
        buf[10..12].copy_from_slice(&attrs_len.to_le_bytes());
        buf[16..32].copy_from_slice(&id.to_le_bytes());
        buf[32..40].copy_from_slice(&base.as_millis().to_le_bytes());
        Ok(RecordsBuilder {
            buf,
            count: 0,
            base: base.as_millis(),
            greatest: i64::MIN,
            limits,
        })
    }

    /// Copies one message in. On an error the batch is as it was.
    pub fn push(&mut self, record: NewRecord<'_>) -> Result<()> {
        self.check(&record)?;
        let before = self.buf.len();
        if let Err(error) = self.write(&record) {
            self.buf.truncate(before);
            return Err(error);
        }
        if self.buf.len() > self.limits.batch && self.count > 0 {
            let len = self.buf.len();
            self.buf.truncate(before);
            return Err(too_large("the batch", len, self.limits.batch));
        }
        self.count += 1;
        let time = record.time.map_or(self.base, Timestamp::as_millis);
        self.greatest = self.greatest.max(time);
        Ok(())
    }

    fn check(&self, record: &NewRecord<'_>) -> Result<()> {
        if record.body.len() > self.limits.body {
            return Err(too_large("the body", record.body.len(), self.limits.body)
                .next("send a reference to it (claim check), or raise the engine's body limit"));
        }
        let key = record.key.map_or(0, <[u8]>::len);
        if key > self.limits.key {
            return Err(too_large("the key", key, self.limits.key));
        }
        let headers = record.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        if headers > self.limits.headers {
            return Err(too_large("the headers", headers, self.limits.headers));
        }
        record
            .headers
            .iter()
            .try_for_each(|(name, value)| check_header(name, value))
    }

    fn write(&mut self, record: &NewRecord<'_>) -> Result<()> {
        let buf = &mut self.buf;
        let time = record.time.filter(|t| t.as_millis() != self.base);
        let flags = if record.key.is_some() { KEY } else { 0 }
            | if record.headers.is_empty() {
                0
            } else {
                HEADERS
            }
            | if time.is_some() { TIME } else { 0 }
            | if record.attrs.is_empty() { 0 } else { ATTRS };
        buf.push(flags);
        put_varint(buf, record.body.len() as u64);
        if let Some(time) = time {
            put_varint(buf, zigzag(time.as_millis().wrapping_sub(self.base)));
        }
        if let Some(key) = record.key {
            put_varint(buf, key.len() as u64);
        }
        if flags & (HEADERS | ATTRS) == 0 {
            buf.extend_from_slice(record.key.unwrap_or_default());
            buf.extend_from_slice(record.body);
            return Ok(());
        }
        let mut headers = Vec::new();
        for (name, value) in record.headers {
            put_bytes(&mut headers, name.as_bytes());
            put_bytes(&mut headers, value);
        }
        let mut attrs = Vec::new();
        put_attrs(&mut attrs, record.attrs)?;
        if flags & HEADERS != 0 {
            put_varint(buf, headers.len() as u64);
        }
        if flags & ATTRS != 0 {
            put_varint(buf, attrs.len() as u64);
        }
        buf.extend_from_slice(record.key.unwrap_or_default());
        buf.extend_from_slice(&headers);
        buf.extend_from_slice(&attrs);
        buf.extend_from_slice(record.body);
        Ok(())
    }

    /// Number of messages so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// True while nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far, head included.
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// Closes the batch: counts, times and checksum are written.
    pub fn build(mut self) -> Records {
        let len = self.buf.len() as u32;
        let greatest = if self.count == 0 {
            self.base
        } else {
            self.greatest
        };
        self.buf[0..4].copy_from_slice(&len.to_le_bytes());
        self.buf[12..16].copy_from_slice(&self.count.to_le_bytes());
        self.buf[40..48].copy_from_slice(&greatest.to_le_bytes());
        let crc = crc32c(&self.buf[8..]);
        self.buf[4..8].copy_from_slice(&crc.to_le_bytes());
        Records {
            bytes: Bytes::from(self.buf),
        }
    }
}

/// Refuses what no header may hold: an empty name, and CR, LF or NUL in name or value.
pub fn check_header(name: &str, value: &[u8]) -> Result<()> {
    let bad = |b: &u8| matches!(*b, b'\r' | b'\n' | 0);
    let fault = if name.is_empty() {
        "its name is empty"
    } else if name.as_bytes().iter().any(bad) {
        "CR, LF and NUL are not allowed in its name"
    } else if value.iter().any(bad) {
        "CR, LF and NUL are not allowed in its value"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(60).flat_map(char::escape_debug).collect();
    Err(Error::new(
        Kind::Rejected,
        format!("the header `{shown}` is not allowed: {fault}"),
    )
    .code(codes::BAD_HEADER))
}

fn too_large(what: &str, len: usize, limit: usize) -> Error {
    Error::new(
        Kind::Rejected,
        format!("{what} is too large: {len} bytes, the limit is {limit}"),
    )
    .code(codes::TOO_LARGE)
}

fn put_bytes(buf: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(buf, bytes.len() as u64);
    buf.extend_from_slice(bytes);
}

fn put_attrs(buf: &mut Vec<u8>, attrs: &[(Attr, &str)]) -> Result<()> {
    for (attr, text) in attrs {
        if text.len() > 4096 {
            return Err(too_large(
                &format!("the attribute {attr:?}"),
                text.len(),
                4096,
            ));
        }
        if text.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return Err(Error::new(
                Kind::Rejected,
                format!("the attribute {attr:?} holds CR, LF or NUL, which is not allowed"),
            )
            .code(codes::BAD_HEADER));
        }
        buf.push(*attr as u8);
        put_bytes(buf, text.as_bytes());
    }
    Ok(())
}

/// A closed batch. Cheap to clone (shared bytes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    bytes: Bytes,
}

impl Records {
    /// One message as a batch of its own.
    pub fn one(attrs: &[(Attr, &str)], record: NewRecord<'_>) -> Result<Self> {
        let mut builder = RecordsBuilder::new(attrs)?;
        builder.push(record)?;
        Ok(builder.build())
    }

    /// Takes bytes from a peer: checks length, version, checksum and every record; otherwise `Corrupt`.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let batch = Batch::check(&bytes)?;
        if batch.bytes.len() != bytes.len() {
            return Err(corrupt("bytes follow the batch"));
        }
        let mut records = batch.iter();
        let whole = (&mut records).count() == batch.len() && records.rest.is_empty();
        if !whole {
            return Err(corrupt("a record does not fit its batch"));
        }
        Ok(Records { bytes })
    }

    /// The bytes, in the layout above.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The view on the batch.
    pub fn batch(&self) -> Batch<'_> {
        Batch { bytes: &self.bytes }
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.batch().len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The messages in order.
    pub fn iter(&self) -> RecordIter<'_> {
        self.batch().iter()
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("a batch of records is damaged: {why}"),
    )
}

/// A view on the bytes of one batch.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Reads a batch at the start of `bytes`, checking length, version and checksum.
    pub fn check(bytes: &'a [u8]) -> Result<Self> {
        let batch = Self::peek(bytes)?;
        let crc = u32_at(batch.bytes, 4);
        if crc != crc32c(&batch.bytes[8..]) {
            return Err(corrupt("its checksum differs"));
        }
        Ok(batch)
    }

    /// Reads a batch whose checksum was verified before: checks length and version only.
    pub fn peek(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() < BATCH_HEAD {
            return Err(corrupt("it is shorter than its head"));
        }
        let len = u32_at(bytes, 0) as usize;
        let attrs = usize::from(u16::from_le_bytes([bytes[10], bytes[11]]));
        if len < BATCH_HEAD + attrs || len > bytes.len() {
            return Err(corrupt("its length does not fit"));
        }
        if bytes[8] != VERSION {
            let found = bytes[8];
            return Err(corrupt(&format!(
                "layout version {found}, this build reads {VERSION}"
            )));
        }
        Ok(Batch {
            bytes: &bytes[..len],
        })
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        u32_at(self.bytes, 12) as usize
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The batch's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The batch's id.
    pub fn id(&self) -> u128 {
        let mut id = [0; 16];
        id.copy_from_slice(&self.bytes[16..32]);
        u128::from_le_bytes(id)
    }

    /// The base time.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_millis(u64_at(self.bytes, 32) as i64)
    }

    /// The greatest time of its messages.
    pub fn greatest_time(&self) -> Timestamp {
        Timestamp::from_millis(u64_at(self.bytes, 40) as i64)
    }

    /// An attribute that all messages share, unless one overrides it.
    pub fn attr(&self, attr: Attr) -> Option<&'a str> {
        find_attr(self.attrs(), attr)
    }

    fn attrs(&self) -> &'a [u8] {
        let len = usize::from(u16::from_le_bytes([self.bytes[10], self.bytes[11]]));
        &self.bytes[BATCH_HEAD..BATCH_HEAD + len]
    }

    fn records_at(&self) -> usize {
        BATCH_HEAD + self.attrs().len()
    }

    /// The messages in order.
    pub fn iter(&self) -> RecordIter<'a> {
        let rest = &self.bytes[self.records_at()..];
        RecordIter {
            batch: *self,
            rest,
            index: 0,
        }
    }

    /// The record that begins at byte `at` of the batch, the `index`-th: what [`Record::at`] gave before.
    pub fn record_at(&self, at: u32, index: u32) -> Option<Record<'a>> {
        let rest = self.bytes.get(at as usize..)?;
        RecordIter {
            batch: *self,
            rest,
            index,
        }
        .next()
    }
}

/// Iterator over the messages of a batch. It ends early where the bytes are damaged.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    batch: Batch<'a>,
    rest: &'a [u8],
    index: u32,
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        let (&flags, mut rest) = self.rest.split_first()?;
        let at = (self.batch.bytes.len() - self.rest.len()) as u32;
        let body = get_varint(&mut rest)? as usize;
        let mut delta = 0;
        let (mut key, mut headers, mut attrs) = (0, 0, 0);
        if flags != 0 {
            if flags & TIME != 0 {
                delta = unzigzag(get_varint(&mut rest)?);
            }
            if flags & KEY != 0 {
                key = get_varint(&mut rest)? as usize;
            }
            if flags & HEADERS != 0 {
                headers = get_varint(&mut rest)? as usize;
            }
            if flags & ATTRS != 0 {
                attrs = get_varint(&mut rest)? as usize;
            }
        }
        let (key_bytes, rest) = rest.split_at_checked(key)?;
        let (headers, rest) = rest.split_at_checked(headers)?;
        let (attrs, rest) = rest.split_at_checked(attrs)?;
        let (body, rest) = rest.split_at_checked(body)?;
        let key = (flags & KEY != 0).then_some(key_bytes);
        let record = Record {
            batch: self.batch,
            at,
            index: self.index,
            delta,
            key,
            headers,
            attrs,
            body,
        };
        self.rest = rest;
        self.index += 1;
        Some(record)
    }
}

/// One message, borrowed from its batch.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    batch: Batch<'a>,
    at: u32,
    index: u32,
    delta: i64,
    key: Option<&'a [u8]>,
    headers: &'a [u8],
    attrs: &'a [u8],
    body: &'a [u8],
}

impl<'a> Record<'a> {
    /// The key, if it has one.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The body.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// When it happened, as the producer says.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_millis(self.batch.time().as_millis().wrapping_add(self.delta))
    }

    /// An attribute: its own, else the batch's. The id of a batch is not an [`Attr::Id`] of its messages.
    pub fn attr(&self, attr: Attr) -> Option<&'a str> {
        find_attr(self.attrs, attr).or_else(|| self.batch.attr(attr))
    }

    /// The kind.
    pub fn kind(&self) -> Option<&'a str> {
        self.attr(Attr::Kind)
    }

    /// The message's id: the one that the producer gave, else the batch's id and the index.
    pub fn id(&self) -> MessageId<'a> {
        match self.attr(Attr::Id) {
            Some(text) => MessageId::Given(text),
            None => MessageId::Derived {
                batch: self.batch.id(),
                index: self.index,
            },
        }
    }

    /// The headers in order.
    pub fn headers(&self) -> HeaderIter<'a> {
        HeaderIter { rest: self.headers }
    }

    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Its index in the batch.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The byte of the batch at which it begins, for [`Batch::record_at`].
    pub fn at(&self) -> u32 {
        self.at
    }

    /// The batch that it belongs to.
    pub fn batch(&self) -> Batch<'a> {
        self.batch
    }

    /// Key, headers and body together, in bytes.
    pub fn size(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.headers.len() + self.body.len()
    }

    /// The attributes that it has of its own (not the batch's).
    pub fn own_attrs(&self) -> impl Iterator<Item = (Attr, &'a str)> + use<'a> {
        AttrIter { rest: self.attrs }
    }

    /// Every attribute in force: its own and those of the batch that it does not override.
    pub fn attrs(&self) -> impl Iterator<Item = (Attr, &'a str)> + use<'a> {
        let own = self.attrs;
        AttrIter { rest: own }.chain(
            AttrIter {
                rest: self.batch.attrs(),
            }
            .filter(move |(attr, _)| find_attr(own, *attr).is_none()),
        )
    }
}

/// Identity of a message, the same in every attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageId<'a> {
    /// The producer gave it.
    Given(&'a str),
    /// Batch id and index.
    Derived {
        /// The batch's id (a UUID).
        batch: u128,
        /// The index in the batch.
        index: u32,
    },
}

impl std::fmt::Display for MessageId<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MessageId::Given(text) => f.write_str(text),
            MessageId::Derived { batch, index } => {
                write!(f, "{}.{index}", uuid::Uuid::from_u128(*batch).simple())
            }
        }
    }
}

/// Iterator over header pairs; the name is empty where it was not UTF-8 (which no builder writes).
#[derive(Debug, Clone)]
pub struct HeaderIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let name = get_bytes(&mut self.rest)?;
        let value = get_bytes(&mut self.rest)?;
        Some((std::str::from_utf8(name).unwrap_or_default(), value))
    }
}

struct AttrIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for AttrIter<'a> {
    type Item = (Attr, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&tag, rest) = self.rest.split_first()?;
            self.rest = rest;
            let text = std::str::from_utf8(get_bytes(&mut self.rest)?).ok()?;
            // An attribute of a later version is passed over, not refused.
            if let Some(attr) = attr_of(tag) {
                return Some((attr, text));
            }
        }
    }
}

fn attr_of(tag: u8) -> Option<Attr> {
    use Attr::*;
    [
        Id,
        Kind,
        Source,
        Schema,
        ContentType,
        Traceparent,
        Tracestate,
        Correlation,
        Causation,
    ]
    .into_iter()
    .find(|attr| *attr as u8 == tag)
}

fn find_attr(attrs: &[u8], wanted: Attr) -> Option<&str> {
    AttrIter { rest: attrs }
        .find(|(attr, _)| *attr == wanted)
        .map(|(_, text)| text)
}

fn get_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = get_varint(rest)? as usize;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests;
