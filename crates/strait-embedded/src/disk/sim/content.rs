//! The content of a file in memory: sparse, so that allocated or zeroed space costs nothing until it is written.

use std::fmt;
use std::ops::Range;

const CHUNK: usize = 64 << 10;

/// Bytes with a length; what was never written is zero.
#[derive(Clone, Default)]
pub(super) struct Content {
    chunks: Vec<Option<Box<[u8]>>>,
    len: u64,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len..self.len);
        }
        self.len = len;
        self.chunks
            .resize(len.div_ceil(CHUNK as u64) as usize, None);
    }

    /// Fills as much of `buf` as there is from `pos`; returns how much.
    pub(super) fn read(&self, buf: &mut [u8], pos: u64) -> usize {
        let n = buf.len().min(self.len.saturating_sub(pos) as usize);
        for (chunk, within, part) in pieces(pos, n) {
            match &self.chunks[chunk] {
                Some(bytes) => buf[part].copy_from_slice(&bytes[within]),
                None => buf[part].fill(0),
            }
        }
        n
    }

    /// Writes `data` at `pos` and extends the length where needed.
    pub(super) fn write(&mut self, data: &[u8], pos: u64) {
        let end = pos + data.len() as u64;
        if end > self.len {
            self.set_len(end);
        }
        for (chunk, within, part) in pieces(pos, data.len()) {
            let bytes = self.chunks[chunk].get_or_insert_with(|| vec![0; CHUNK].into());
            bytes[within].copy_from_slice(&data[part]);
        }
    }

    /// Zeros over the part of `range` that is within the length.
    pub(super) fn zero(&mut self, range: Range<u64>) {
        let end = range.end.min(self.len);
        let n = end.saturating_sub(range.start) as usize;
        for (chunk, within, _) in pieces(range.start, n) {
            if within.len() == CHUNK {
                self.chunks[chunk] = None;
            } else if let Some(bytes) = &mut self.chunks[chunk] {
                bytes[within].fill(0);
            }
        }
    }
}

/// Splits `n` bytes at `pos` at the borders of chunks: chunk, range within it, range within the data.
fn pieces(pos: u64, n: usize) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == n {
            return None;
        }
        let at = pos + done as u64;
        let start = (at % CHUNK as u64) as usize;
        let len = (CHUNK - start).min(n - done);
        let piece = (
            (at / CHUNK as u64) as usize,
            start..start + len,
            done..done + len,
        );
        done += len;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written_across_chunks() {
        let mut content = Content::default();
        content.set_len(3 * CHUNK as u64);
        let data: Vec<u8> = (0..CHUNK + 100).map(|i| (i % 251) as u8 + 1).collect();
        content.write(&data, CHUNK as u64 - 50);
        let mut back = vec![7; data.len() + 100];
        let n = content.read(&mut back, CHUNK as u64 - 100);
        assert_eq!(n, back.len());
        assert_eq!(back[..50], [0; 50]);
        assert_eq!(back[50..50 + data.len()], data);
        assert_eq!(back[50 + data.len()..], [0; 50]);
    }

    #[test]
    fn what_was_cut_off_reads_as_zeros_when_extended_again() {
        let mut content = Content::default();
        content.write(&[9; 1000], 0);
        content.set_len(10);
        content.set_len(1000);
        let mut back = [1; 1000];
        assert_eq!(content.read(&mut back, 0), 1000);
        assert_eq!(back[..10], [9; 10]);
        assert_eq!(back[10..], [0; 990]);
        assert_eq!(content.read(&mut back, 1000), 0);
    }
}
