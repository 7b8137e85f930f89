//! Filling a batch: everything that can be refused is refused here.

use bytes::Bytes;

use super::holes::HOLES_AT;
use super::wire::{crc32c, put_varint, zigzag};
use super::{ATTRS, Attr, BATCH_HEAD, HEADERS, HOLE, KEY, Records, TIME, VERSION};
use crate::error::{Error, Kind, Result, codes};
use crate::time::Timestamp;

/// Bytes that a batch begins with: a small message fits, so that its batch is one allocation.
const SMALL: usize = 256;

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
        let mut buf = Vec::with_capacity(SMALL);
        buf.resize(BATCH_HEAD, 0);
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

    /// Copies in what another store holds: names and values of headers are taken as they are there, also where they hold
    /// CR, LF or NUL, which a producer may not send.
    pub fn push_stored(&mut self, record: NewRecord<'_>) -> Result<()> {
        let before = self.buf.len();
        if let Err(error) = self.write(&record) {
            self.buf.truncate(before);
            return Err(error);
        }
        self.count += 1;
        let time = record.time.map_or(self.base, Timestamp::as_millis);
        self.greatest = self.greatest.max(time);
        Ok(())
    }

    /// Leaves out so many records, for engines that hand out the later part of a batch: what follows keeps its index, and by
    /// it its id. Readers skip them ([`Span::skip`](crate::Span::skip)).
    pub fn leave_out(&mut self, count: u32) {
        let len = self.buf.len() + count as usize;
        self.buf.resize(len, HOLE);
        self.count += count;
        self.buf[HOLES_AT] |= u8::from(count > 0);
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
        buf.reserve(record.key.map_or(0, <[u8]>::len) + record.body.len());
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
