//! Operations of dead letters: how one dies, and what happens to it after.

use crate::codec::{Decoded, Malformed, Reader, put_bytes, put_i64, put_u64};

pub(super) mod tag {
    pub(in super::super) const REDRIVE: u8 = 48;
    pub(in super::super) const UNDO_REDRIVE: u8 = 49;
    pub(in super::super) const REMOVE_DEAD: u8 = 50;
    pub(in super::super) const EDIT_DEAD: u8 = 51;
    pub(in super::super) const DROP_EDIT: u8 = 52;
}

/// A change of dead letters of one group. Numbers that are not there any more change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadChange<'a> {
    /// They come back to their group, in this order.
    Redrive(RedriveOp<'a>),
    /// What came back in this run is dead again.
    Undo {
        run: u64,
        numbers: Numbers<'a>,
    },
    Remove {
        numbers: Numbers<'a>,
    },
    /// The record's next body is a changed copy of the message, kept under the number `copy`.
    Edit {
        number: u64,
        copy: u64,
        bytes: u64,
        time: i64,
    },
    DropEdit {
        number: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RedriveOp<'a> {
    pub(crate) run: u64,
    /// When it was decided, milliseconds since the epoch.
    pub(crate) at: i64,
    /// When the first may go out; 0: as soon as its key is free.
    pub(crate) due: i64,
    /// So many may go out a second; 0: all at once.
    pub(crate) per_second: u32,
    pub(crate) numbers: Numbers<'a>,
}

impl RedriveOp<'_> {
    /// How long the one after `rank` others waits after the first, in milliseconds.
    pub(crate) fn wait_of(&self, rank: u64) -> u64 {
        let wait = rank.saturating_mul(1000);
        wait.checked_div(u64::from(self.per_second)).unwrap_or(0)
    }

    /// When it may go out.
    pub(crate) fn due_of(&self, rank: u64) -> i64 {
        let wait = self.wait_of(rank);
        // The present millisecond has begun: without the one more it would be too early by what is left of it.
        let begun = u64::from(wait > 0);
        self.due.saturating_add_unsigned(wait.saturating_add(begun))
    }
}

/// Numbers in their order, as runs of ascending ones: how far a run begins from the end of the one before it, and its
/// length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers<'a>(&'a [u8]);

impl<'a> Numbers<'a> {
    /// Writes `numbers` into `out` and gives them back from there.
    pub(crate) fn encode(numbers: &[u64], out: &'a mut Vec<u8>) -> Numbers<'a> {
        out.clear();
        let mut end = 0u64;
        for run in numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            put_i64(out, run[0].wrapping_sub(end) as i64);
            put_u64(out, run.len() as u64);
            end = run[0].wrapping_add(run.len() as u64);
        }
        Numbers(out)
    }

    /// The runs: first number and length.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let mut reader = Reader::new(self.0);
        let mut end = 0u64;
        std::iter::from_fn(move || {
            let (step, count) = (reader.i64().ok()?, reader.u64().ok()?);
            let first = end.wrapping_add(step as u64);
            end = first.wrapping_add(count);
            Some((first, count))
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        crate::codec::put_bytes(out, self.0);
    }

    fn get(r: &mut Reader<'a>) -> Decoded<Self> {
        let bytes = r.bytes()?;
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            reader.i64()?;
            reader.u64()?;
        }
        Ok(Numbers(bytes))
    }
}

impl<'a> DeadChange<'a> {
    /// True when copies are not needed any more, or will not be once the messages are settled.
    pub(super) fn frees_space(&self) -> bool {
        matches!(self, DeadChange::Redrive(_) | DeadChange::Remove { .. })
    }

    /// Appends its bytes after the group's.
    pub(super) fn encode(&self, group: u32, out: &mut Vec<u8>) {
        let mut begin = |tag| {
            out.push(tag);
            put_u64(out, u64::from(group));
        };
        match self {
            DeadChange::Redrive(op) => {
                begin(tag::REDRIVE);
                put_u64(out, op.run);
                put_i64(out, op.at);
                put_i64(out, op.due);
                put_u64(out, u64::from(op.per_second));
                op.numbers.put(out);
            }
            DeadChange::Undo { run, numbers } => {
                begin(tag::UNDO_REDRIVE);
                put_u64(out, *run);
                numbers.put(out);
            }
            DeadChange::Remove { numbers } => {
                begin(tag::REMOVE_DEAD);
                numbers.put(out);
            }
            DeadChange::Edit {
                number,
                copy,
                bytes,
                time,
            } => {
                begin(tag::EDIT_DEAD);
                put_u64(out, *number);
                put_u64(out, *copy);
                put_u64(out, *bytes);
                put_i64(out, *time);
            }
            DeadChange::DropEdit { number } => {
                begin(tag::DROP_EDIT);
                put_u64(out, *number);
            }
        }
    }

    /// Reads one behind its group; `None` when the tag is none of these.
    pub(super) fn decode(tag: u8, r: &mut Reader<'a>) -> Decoded<Self> {
        Ok(match tag {
            tag::REDRIVE => DeadChange::Redrive(RedriveOp {
                run: r.u64()?,
                at: r.i64()?,
                due: r.i64()?,
                per_second: r.u32()?,
                numbers: Numbers::get(r)?,
            }),
            tag::UNDO_REDRIVE => DeadChange::Undo {
                run: r.u64()?,
                numbers: Numbers::get(r)?,
            },
            tag::REMOVE_DEAD => DeadChange::Remove {
                numbers: Numbers::get(r)?,
            },
            tag::EDIT_DEAD => DeadChange::Edit {
                number: r.u64()?,
                copy: r.u64()?,
                bytes: r.u64()?,
                time: r.i64()?,
            },
            tag::DROP_EDIT => DeadChange::DropEdit { number: r.u64()? },
            _ => return Err(Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rate_gives_each_its_time() {
        let mut bytes = Vec::new();
        let op = |per_second| RedriveOp {
            run: 1,
            at: 10,
            due: 100,
            per_second,
            numbers: Numbers(&[]),
        };
        assert_eq!(op(0).due_of(9), 100);
        assert_eq!(
            [0, 1, 2, 3].map(|rank| op(3).due_of(rank)),
            [100, 434, 767, 1101]
        );
        assert_eq!([0, 1, 3].map(|rank| op(3).wait_of(rank)), [0, 333, 1000]);
        assert_eq!(op(1).due_of(u64::MAX), i64::MAX);
        let numbers = Numbers::encode(&[], &mut bytes);
        assert_eq!(numbers.runs().count(), 0);
    }

    proptest! {
        #[test]
        fn numbers_keep_their_order(numbers in proptest::collection::vec(
            prop_oneof![0u64..20, any::<u64>()], 0..40,
        )) {
            let mut bytes = Vec::new();
            let encoded = Numbers::encode(&numbers, &mut bytes);
            let back: Vec<u64> = encoded
                .runs()
                .flat_map(|(first, count)| (0..count).map(move |i| first.wrapping_add(i)))
                .collect();
            prop_assert_eq!(back, numbers);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeadOp<'a> {
    pub(crate) number: u64,
    pub(crate) attempts: u32,
    pub(crate) key: u64,
    pub(crate) appended: i64,
    pub(crate) died: i64,
    /// Bytes of its copy.
    pub(crate) bytes: u64,
    pub(crate) reason: &'a str,
}

impl<'a> DeadOp<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.number);
        put_u64(out, u64::from(self.attempts));
        put_u64(out, self.key);
        put_i64(out, self.appended);
        put_i64(out, self.died);
        put_u64(out, self.bytes);
        put_bytes(out, self.reason.as_bytes());
    }

    pub(crate) fn decode(r: &mut Reader<'a>) -> Decoded<Self> {
        Ok(DeadOp {
            number: r.u64()?,
            attempts: r.u32()?,
            key: r.u64()?,
            appended: r.i64()?,
            died: r.i64()?,
            bytes: r.u64()?,
            reason: r.str()?,
        })
    }
}
