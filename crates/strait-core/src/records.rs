//! Records: many messages for one partition in one buffer, in a layout that this crate owns.
//!
//! Producers fill the buffer and compute its checksum on their own thread; the embedded engine writes it to disk
//! as it is, and drivers of other engines iterate it. What the messages of a batch share (kind, source, schema,
//! trace ..) stands once, in the batch's attributes; a record may override one.
//!
//! # Layout, version 1 (little endian)
//!
//! ```text
//! batch   len u32 (whole) | crc u32 = crc32c of [8..len] | version u8 | holes u8 (1: has some) | attributes' length u16
//!         count u32 | id 16 bytes | base time i64 (ms) | greatest time i64 (ms) | attributes | records
//! record  flags u8 | body length | time delta (zigzag) if TIME | key length if KEY
//!         headers' length if HEADERS | attributes' length if ATTRS | key | headers | attributes | body
//! header  name length | name | value length | value          (lengths: LEB128)
//! attribute  tag u8 | length | text
//! hole    HOLE u8: a record that compaction removed; it keeps its index, and so do those behind it
//! ```

use bytes::Bytes;

use crate::error::{Error, Kind, Result};
use crate::time::Timestamp;

mod build;
mod holes;
mod wire;
pub use build::{Limits, NewRecord, RecordsBuilder, check_header};
pub use wire::crc32c;
use wire::{get_varint, unzigzag};

/// Length of the fixed part of a batch.
pub const BATCH_HEAD: usize = 48;
const VERSION: u8 = 1;
const KEY: u8 = 1;
const HEADERS: u8 = 2;
const TIME: u8 = 4;
const ATTRS: u8 = 8;
/// Instead of all other flags.
const HOLE: u8 = 16;

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

impl Attr {
    /// Every attribute.
    pub const ALL: [Attr; 9] = [
        Attr::Id,
        Attr::Kind,
        Attr::Source,
        Attr::Schema,
        Attr::ContentType,
        Attr::Traceparent,
        Attr::Tracestate,
        Attr::Correlation,
        Attr::Causation,
    ];
}

impl Attr {
    /// Longest text that another program's header may have to be taken for an attribute, in bytes.
    const LONGEST: usize = 4096;

    /// The text of an attribute, where bytes of another program can be one: UTF-8 of at most 4,096 bytes without CR, LF and NUL.
    pub fn text(value: &[u8]) -> Option<&str> {
        let bad = |byte: &u8| matches!(*byte, b'\r' | b'\n' | 0);
        let fits = value.len() <= Self::LONGEST && !value.iter().any(bad);
        std::str::from_utf8(value).ok().filter(|_| fits)
    }
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

    /// Takes bytes from a producer: checks length, version, checksum and every record, and that none was removed; otherwise
    /// `Corrupt`.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        if Batch::check_all(&bytes)?.has_holes() {
            return Err(corrupt("records of it were removed"));
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

    /// Reads a batch that is all of `bytes`, checking every record too: for bytes from a peer.
    pub fn check_all(bytes: &'a [u8]) -> Result<Self> {
        let batch = Batch::check(bytes)?;
        if batch.bytes.len() != bytes.len() {
            return Err(corrupt("bytes follow the batch"));
        }
        let mut records = batch.iter();
        let whole = (&mut records).count() == batch.len() && records.rest.is_empty();
        if !whole {
            return Err(corrupt("a record does not fit its batch"));
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
        if flags == HOLE {
            return Some(self.hole(at, rest));
        }
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
            hole: false,
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
    hole: bool,
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

/// The greatest index in its batch under which a message that is stored alone keeps the derived id: each index before it costs
/// a byte of a chunk.
const INDEX_MAX: u32 = 1 << 16;

impl MessageId<'_> {
    /// Batch and index of a derived id, in the very form in which it is shown; `None` for every other text.
    pub(crate) fn read_derived(text: &str) -> Option<(u128, u32)> {
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
    Attr::ALL.into_iter().find(|attr| *attr as u8 == tag)
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
