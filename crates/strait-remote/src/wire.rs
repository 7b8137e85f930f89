//! The codec: how the contract's types stand in a frame's payload.
//!
//! Little endian, no padding. A text or byte string is its length (u32) and its bytes; a list its count (u32) and its
//! elements; an option a byte (0 or 1) and, if 1, the value; a choice its tag (u8) and its fields in the order of their
//! declaration. Batches of records are the bytes of `strait_core::records`, as they are: writing keeps a reference to
//! them, reading cuts them out of the received buffer.
//!
//! Reading never panics and allocates at most in proportion to what was received.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use strait_core::{Error, Kind, Name, Position, Result, Timestamp};

mod contract;
mod dead;
mod messages;
mod texts;
mod units;

pub(crate) use contract::Extend;
pub(crate) use dead::DeadLettersOf;
pub(crate) use messages::{Deliveries, KeyMessages, WireArrival};
pub(crate) use units::{WireOutcome, WireUnit, copy_of, speaks};

/// Byte strings from this length on are referred to, shorter ones are copied into the frame.
const BY_REFERENCE: usize = 2048;

/// A payload being written: small bytes in one buffer, long ones by reference.
#[derive(Debug, Default)]
pub(crate) struct Out {
    small: BytesMut,
    /// Byte strings and the place in `small` before which each stands.
    long: Vec<(usize, Bytes)>,
    len: usize,
}

impl Out {
    /// The payload of one value.
    pub(crate) fn of(value: &impl Wire) -> Self {
        let mut out = Out::default();
        value.put(&mut out);
        out
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn slice(&mut self, bytes: &[u8]) {
        self.small.put_slice(bytes);
        self.len += bytes.len();
    }

    /// A byte string; shares `bytes` when it is long.
    pub(crate) fn shared(&mut self, bytes: &Bytes) {
        (bytes.len() as u32).put(self);
        if bytes.len() < BY_REFERENCE {
            self.slice(bytes);
        } else {
            self.long.push((self.small.len(), bytes.clone()));
            self.len += bytes.len();
        }
    }

    /// Another payload behind this one.
    pub(crate) fn append(&mut self, other: Out) {
        let shift = self.small.len();
        self.small.extend_from_slice(&other.small);
        self.long
            .extend(other.long.into_iter().map(|(at, long)| (at + shift, long)));
        self.len += other.len;
    }

    /// The pieces in order, none of them empty.
    pub(crate) fn into_pieces(self) -> impl Iterator<Item = Bytes> {
        let mut small = self.small.freeze();
        let mut cut = 0;
        let mut pieces = Vec::with_capacity(2 * self.long.len() + 1);
        for (at, long) in self.long {
            pieces.push(small.split_to(at - cut));
            pieces.push(long);
            cut = at;
        }
        pieces.push(small);
        pieces.into_iter().filter(|piece| !piece.is_empty())
    }
}

/// A payload being read.
#[derive(Debug)]
pub(crate) struct In {
    rest: Bytes,
}

impl In {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some(bytes) = self.rest.first_chunk::<N>() else {
            return Err(malformed("it ends too early"));
        };
        let bytes = *bytes;
        self.rest.advance(N);
        Ok(bytes)
    }

    /// A byte string, cut out of the received buffer.
    pub(crate) fn shared(&mut self) -> Result<Bytes> {
        let len = u32::get(self)? as usize;
        if len > self.rest.len() {
            return Err(malformed("a length exceeds the frame"));
        }
        Ok(self.rest.split_to(len))
    }

    /// A text, looked at where it lies.
    fn text(&mut self) -> Result<Bytes> {
        let bytes = self.shared()?;
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(bytes),
            Err(_) => Err(malformed("a text is not UTF-8")),
        }
    }

    /// A count of elements that are at least `least` bytes long each.
    fn count(&mut self, least: usize) -> Result<usize> {
        let count = u32::get(self)? as usize;
        if count > self.rest.len() / least {
            return Err(malformed("a count exceeds the frame"));
        }
        Ok(count)
    }
}

/// The error for a payload that is not what its kind promises.
pub(crate) fn malformed(why: &str) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("a frame of the strait:// protocol is malformed: {why}"),
    )
    .next("both sides must be strait; if they are, report it with both versions")
}

/// Reads one value that fills the whole payload.
pub(crate) fn read<T: Wire>(payload: Bytes) -> Result<T> {
    let mut input = In { rest: payload };
    let value = T::get(&mut input)?;
    if input.rest.is_empty() {
        Ok(value)
    } else {
        Err(malformed("bytes follow the value"))
    }
}

/// Reads values, one after the other, that fill the whole payload.
pub(crate) fn read_all<T: Wire>(payload: Bytes) -> Result<Vec<T>> {
    let mut input = In { rest: payload };
    let mut values = Vec::new();
    while !input.rest.is_empty() {
        values.push(T::get(&mut input)?);
    }
    Ok(values)
}

/// Reads one value at the start of a payload; later versions may append to it.
pub(crate) fn read_start<T: Wire>(payload: Bytes) -> Result<T> {
    T::get(&mut In { rest: payload })
}

/// A value with a place in payloads.
pub(crate) trait Wire: Sized {
    /// The fewest bytes that a value takes: bounds the lists that are read. At least 1.
    const LEAST: usize = 1;

    /// Appends it.
    fn put(&self, out: &mut Out);

    /// Reads it.
    fn get(input: &mut In) -> Result<Self>;
}

/// A struct: its fields in the order given.
macro_rules! wire_struct {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::wire::Wire for $type {
            fn put(&self, out: &mut $crate::wire::Out) {
                $($crate::wire::Wire::put(&self.$field, out);)*
            }
            fn get(input: &mut $crate::wire::In) -> strait_core::Result<Self> {
                Ok(Self { $($field: $crate::wire::Wire::get(input)?),* })
            }
        }
    };
}
pub(crate) use wire_struct;

macro_rules! wire_number {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            const LEAST: usize = size_of::<$type>();
            fn put(&self, out: &mut Out) {
                out.slice(&self.to_le_bytes());
            }
            fn get(input: &mut In) -> Result<Self> {
                Ok(Self::from_le_bytes(input.take()?))
            }
        }
    )*};
}
wire_number!(u8, u16, u32, u64, i64);

impl Wire for usize {
    const LEAST: usize = 8;
    fn put(&self, out: &mut Out) {
        (*self as u64).put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(usize::try_from(u64::get(input)?).unwrap_or(usize::MAX))
    }
}

impl Wire for bool {
    fn put(&self, out: &mut Out) {
        u8::from(*self).put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        match u8::get(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(malformed("a yes or no is neither")),
        }
    }
}

impl Wire for () {
    const LEAST: usize = 1;
    fn put(&self, out: &mut Out) {
        0u8.put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        u8::get(input).map(|_| ())
    }
}

impl Wire for Bytes {
    const LEAST: usize = 4;
    fn put(&self, out: &mut Out) {
        out.shared(self);
    }
    fn get(input: &mut In) -> Result<Self> {
        input.shared()
    }
}

impl Wire for String {
    const LEAST: usize = 4;
    fn put(&self, out: &mut Out) {
        put_text(self, out);
    }
    fn get(input: &mut In) -> Result<Self> {
        String::from_utf8(input.text()?.into()).map_err(|_| malformed("a text is not UTF-8"))
    }
}

impl Wire for Arc<str> {
    const LEAST: usize = 4;
    fn put(&self, out: &mut Out) {
        put_text(self, out);
    }
    fn get(input: &mut In) -> Result<Self> {
        String::get(input).map(Arc::from)
    }
}

impl Wire for Name {
    const LEAST: usize = 4;
    fn put(&self, out: &mut Out) {
        put_text(self, out);
    }
    fn get(input: &mut In) -> Result<Self> {
        let text = input.text()?;
        Name::new(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// Writes a text.
pub(crate) fn put_text(text: &str, out: &mut Out) {
    (text.len() as u32).put(out);
    out.slice(text.as_bytes());
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Out) {
        match self {
            None => 0u8.put(out),
            Some(value) => {
                1u8.put(out);
                value.put(out);
            }
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(if bool::get(input)? {
            Some(T::get(input)?)
        } else {
            None
        })
    }
}

impl<T: Wire> Wire for Vec<T> {
    const LEAST: usize = 4;
    fn put(&self, out: &mut Out) {
        (self.len() as u32).put(out);
        for value in self {
            value.put(out);
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        let count = input.count(T::LEAST)?;
        // A value may be larger in memory than on the wire: grow beyond this only as values arrive.
        let mut values = Vec::with_capacity(count.min(4096));
        for _ in 0..count {
            values.push(T::get(input)?);
        }
        Ok(values)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    const LEAST: usize = A::LEAST + B::LEAST;
    fn put(&self, out: &mut Out) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok((A::get(input)?, B::get(input)?))
    }
}

/// The answer to a request.
impl<T: Wire> Wire for Result<T> {
    fn put(&self, out: &mut Out) {
        match self {
            Ok(value) => {
                1u8.put(out);
                value.put(out);
            }
            Err(error) => {
                0u8.put(out);
                error.put(out);
            }
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(if bool::get(input)? {
            Ok(T::get(input)?)
        } else {
            Err(Error::get(input)?)
        })
    }
}

impl Wire for Duration {
    const LEAST: usize = 12;
    fn put(&self, out: &mut Out) {
        self.as_secs().put(out);
        self.subsec_nanos().put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        let (secs, nanos) = (u64::get(input)?, u32::get(input)?);
        if nanos >= 1_000_000_000 {
            return Err(malformed(
                "a duration has more than a second of nanoseconds",
            ));
        }
        Ok(Duration::new(secs, nanos))
    }
}

impl Wire for Timestamp {
    const LEAST: usize = 8;
    fn put(&self, out: &mut Out) {
        self.as_millis().put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        i64::get(input).map(Timestamp::from_millis)
    }
}

impl Wire for Position {
    const LEAST: usize = 16;
    fn put(&self, out: &mut Out) {
        let (high, low) = self.parts();
        high.put(out);
        low.put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(Position::of_parts(u64::get(input)?, u64::get(input)?))
    }
}

#[cfg(test)]
mod tests;
