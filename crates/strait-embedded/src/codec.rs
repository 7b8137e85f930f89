//! Numbers and byte strings in operations, checkpoints and segment indexes: LEB128 and length-prefixed bytes.

/// The bytes end early or hold what no writer of this version writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

pub(crate) type Decoded<T> = Result<T, Malformed>;

pub(crate) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(crate) fn put_u128(out: &mut Vec<u8>, value: u128) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// `None` is 0, `Some(n)` is n + 1.
pub(crate) fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    put_u64(out, value.map_or(0, |v| v.saturating_add(1)));
}

/// Reads what the functions above wrote. Never panics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn u8(&mut self) -> Decoded<u8> {
        let (&first, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(first)
    }

    pub(crate) fn bool(&mut self) -> Decoded<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    pub(crate) fn u64(&mut self) -> Decoded<u64> {
        let mut value = 0u64;
        for (i, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    pub(crate) fn u32(&mut self) -> Decoded<u32> {
        u32::try_from(self.u64()?).map_err(|_| Malformed)
    }

    pub(crate) fn i64(&mut self) -> Decoded<i64> {
        let value = self.u64()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(crate) fn u128(&mut self) -> Decoded<u128> {
        let (bytes, rest) = self.rest.split_first_chunk::<16>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(u128::from_le_bytes(*bytes))
    }

    pub(crate) fn bytes(&mut self) -> Decoded<&'a [u8]> {
        let len = usize::try_from(self.u64()?).map_err(|_| Malformed)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn str(&mut self) -> Decoded<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub(crate) fn option(&mut self) -> Decoded<Option<u64>> {
        Ok(self.u64()?.checked_sub(1))
    }

    /// A count of things of at least `least` bytes each: one that cannot fit is refused before anything is allocated.
    pub(crate) fn count(&mut self, least: usize) -> Decoded<usize> {
        let count = usize::try_from(self.u64()?).map_err(|_| Malformed)?;
        if count.saturating_mul(least.max(1)) > self.rest.len() {
            return Err(Malformed);
        }
        Ok(count)
    }
}
