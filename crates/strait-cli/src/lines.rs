//! Lines of the input, as many at once as are waiting there.

use std::io::{self, Read};

use memchr::memchr_iter;
use tokio::sync::mpsc;

/// Whole lines in one buffer, without their ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    text: Vec<u8>,
    cuts: Vec<Cut>,
    first: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Where the line stands in the text.
    Kept { start: usize, end: usize },
    /// The line was longer than the limit and was not kept.
    TooLong { length: u64 },
}

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// It was longer than the limit; its length in bytes.
    TooLong(u64),
}

impl Lines {
    /// Each line with its number, from 1 on in the whole input.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Line<'_>)> {
        self.cuts.iter().zip(self.first..).map(|(cut, number)| {
            let line = match *cut {
                Cut::Kept { start, end } => Line::Bytes(&self.text[start..end]),
                Cut::TooLong { length } => Line::TooLong(length),
            };
            (number, line)
        })
    }

    fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }
}

/// Cuts an input into lines. Memory is bounded by the longest line that is kept and by what is fed at once.
#[derive(Debug)]
pub(crate) struct Splitter {
    longest: usize,
    carry: Vec<u8>,
    /// Length so far of a line that is already too long.
    overlong: Option<u64>,
    next: u64,
}

impl Splitter {
    /// Keeps lines of up to `longest` bytes.
    pub(crate) fn new(longest: usize) -> Self {
        Splitter {
            longest,
            carry: Vec::new(),
            overlong: None,
            next: 1,
        }
    }

    /// Takes the next bytes and gives the lines that are complete with them.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Lines {
        let mut lines = Lines {
            first: self.next,
            ..Lines::default()
        };
        if let Some(length) = self.overlong {
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.overlong = Some(length + bytes.len() as u64);
                return lines;
            };
            let length = length + end as u64;
            lines.cuts.push(Cut::TooLong { length });
            self.overlong = None;
            bytes = &bytes[end + 1..];
        }
        let carried = self.carry.len();
        let mut start = 0;
        lines.text = std::mem::take(&mut self.carry);
        lines.text.extend_from_slice(bytes);
        for end in memchr_iter(b'\n', bytes) {
            let end = carried + end;
            lines.cuts.push(self.cut(start, end));
            start = end + 1;
        }
        if lines.text.len() - start > self.longest {
            self.overlong = Some((lines.text.len() - start) as u64);
        } else {
            self.carry.extend_from_slice(&lines.text[start..]);
        }
        self.next += lines.cuts.len() as u64;
        lines
    }

    /// The last line, where the input did not end with a newline.
    pub(crate) fn finish(mut self) -> Lines {
        let ended = self.carry.is_empty() && self.overlong.is_none();
        if ended {
            return Lines::default();
        }
        self.feed(b"\n")
    }

    fn cut(&self, start: usize, end: usize) -> Cut {
        if end - start > self.longest {
            Cut::TooLong {
                length: (end - start) as u64,
            }
        } else {
            Cut::Kept { start, end }
        }
    }
}

/// Reads stdin on a thread of its own, since a blocked read cannot be cancelled. At most two buffers wait.
pub(crate) fn read_stdin(longest: usize) -> mpsc::Receiver<io::Result<Lines>> {
    let (send, receive) = mpsc::channel(2);
    std::thread::spawn(move || {
        let mut splitter = Splitter::new(longest);
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; 256 << 10];
        let last = loop {
            let lines = match stdin.read(&mut buffer) {
                Ok(0) => break Ok(splitter.finish()),
                Ok(n) => splitter.feed(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
            };
            if !lines.is_empty() && send.blocking_send(Ok(lines)).is_err() {
                return;
            }
        };
        // When nobody receives any more, nobody misses the last lines.
        let _ = send.blocking_send(last);
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(input: &[u8], step: usize, longest: usize) -> Vec<(u64, Result<Vec<u8>, u64>)> {
        let mut splitter = Splitter::new(longest);
        let mut all = Vec::new();
        let mut take = |lines: Lines| {
            all.extend(lines.iter().map(|(number, line)| match line {
                Line::Bytes(bytes) => (number, Ok(bytes.to_vec())),
                Line::TooLong(length) => (number, Err(length)),
            }));
        };
        input.chunks(step).for_each(|c| take(splitter.feed(c)));
        take(splitter.finish());
        all
    }

    #[test]
    fn lines_are_the_same_however_the_input_arrives() {
        let input = b"one\n\ntwo\r\n123456789\n\xff\n12345678\nlast";
        let expected = vec![
            (1, Ok(b"one".to_vec())),
            (2, Ok(Vec::new())),
            (3, Ok(b"two\r".to_vec())),
            (4, Err(9)),
            (5, Ok(b"\xff".to_vec())),
            (6, Ok(b"12345678".to_vec())),
            (7, Ok(b"last".to_vec())),
        ];
        for step in 1..=input.len() {
            assert_eq!(split(input, step, 8), expected, "in steps of {step}");
        }
        assert_eq!(split(b"", 1, 8), vec![]);
        assert_eq!(split(b"x\n", 1, 8), vec![(1, Ok(b"x".to_vec()))]);
        assert_eq!(split(b"123456789", 2, 8), vec![(1, Err(9))]);
    }
}
