//! What is durable of a shard, as the metadata of its committed offset.
//!
//! Kafka keeps a text of at most 4,096 bytes beside each committed offset. The offset is the low mark, so that Kafka's own tools
//! show the lag; the text holds the settled ranges above it, and the attempts of what comes again. Each number is a LEB128
//! varint, a position is the distance from the one before:
//!
//! ```text
//! "strait1:" base64( epoch | out - low | settled: count, (from, to)* | again: count, (position, attempts, lost, due, reason)* )
//! ```

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use strait_core::{Message, Position, Timestamp};
use strait_member::{Again, End, Kept, Range, Step};

const MARK: &str = "strait1:";
/// Longest metadata that a broker takes unless it is told otherwise (`offset.metadata.max.bytes`).
pub(crate) const MOST: usize = 4096;
/// Longer metadata, and nothing new goes out until it is shorter: what is out then still has room.
pub(crate) const FULL: usize = 2048;
/// Longest text of a reason that is kept.
const REASON: usize = 60;

/// The metadata, with reasons where they fit; `None` when it does not fit without them either.
pub(crate) fn encode(kept: &Kept, epoch: u64) -> Option<String> {
    let whole = text(kept, epoch, REASON);
    if whole.len() <= MOST {
        return Some(whole);
    }
    let short = text(kept, epoch, 0);
    (short.len() <= MOST).then_some(short)
}

fn text(kept: &Kept, epoch: u64, reason: usize) -> String {
    let mut bytes = Vec::new();
    let low = kept.low.offset();
    put(&mut bytes, epoch);
    put(&mut bytes, kept.out.offset().saturating_sub(low));
    put(&mut bytes, kept.settled.len() as u64);
    let mut before = low;
    for range in &kept.settled {
        put(&mut bytes, range.from.offset().saturating_sub(before));
        put(
            &mut bytes,
            range.to.offset().saturating_sub(range.from.offset()),
        );
        before = range.to.offset();
    }
    put(&mut bytes, kept.again.len() as u64);
    before = low;
    for again in &kept.again {
        put(&mut bytes, again.position.offset().saturating_sub(before));
        put(&mut bytes, again.attempts.into());
        put(&mut bytes, again.lost.into());
        put(&mut bytes, again.due.as_millis().max(0) as u64);
        let text = again.reason.as_deref().unwrap_or_default();
        let mut end = reason.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        put(&mut bytes, end as u64);
        bytes.extend_from_slice(&text.as_bytes()[..end]);
        before = again.position.offset();
    }
    format!("{MARK}{}", STANDARD_NO_PAD.encode(bytes))
}

/// What was committed for a shard, and the epoch of its assignment. An offset that another program committed has no more than
/// itself.
pub(crate) fn decode(offset: u64, metadata: &str) -> (Kept, u64) {
    let bytes = metadata
        .strip_prefix(MARK)
        .and_then(|text| STANDARD_NO_PAD.decode(text).ok());
    let read = bytes.and_then(|bytes| read(offset, &bytes));
    read.unwrap_or_else(|| (at(offset), 0))
}

/// Nothing but a position.
pub(crate) fn at(offset: u64) -> Kept {
    Kept {
        low: Position::at(offset),
        out: Position::at(offset),
        ..Kept::default()
    }
}

fn read(low: u64, bytes: &[u8]) -> Option<(Kept, u64)> {
    let mut rest = bytes;
    let epoch = get(&mut rest)?;
    let out = low.checked_add(get(&mut rest)?)?;
    let mut kept = at(low);
    kept.out = Position::at(out);
    let mut before = low;
    for _ in 0..get(&mut rest)? {
        let from = before.checked_add(get(&mut rest)?)?;
        before = from.checked_add(get(&mut rest)?)?;
        kept.settled.push(Range {
            from: Position::at(from),
            to: Position::at(before),
        });
    }
    before = low;
    for _ in 0..get(&mut rest)? {
        before = before.checked_add(get(&mut rest)?)?;
        let attempts = u32::try_from(get(&mut rest)?).ok()?;
        let lost = u32::try_from(get(&mut rest)?).ok()?;
        let due = i64::try_from(get(&mut rest)?).ok()?;
        let (text, after) = {
            let len = usize::try_from(get(&mut rest)?).ok()?;
            rest.split_at_checked(len)?
        };
        rest = after;
        let text = std::str::from_utf8(text).ok()?;
        kept.again.push(Again {
            position: Position::at(before),
            attempts,
            lost,
            due: Timestamp::from_millis(due),
            reason: (!text.is_empty()).then(|| Arc::from(text)),
        });
    }
    Some((kept, epoch))
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn get(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What holds once a step is durable. `messages` are those of the step.
pub(crate) fn apply(kept: &mut Kept, step: &Step, messages: impl Iterator<Item = Message>) {
    let Range { from, to } = step.range;
    let inside = |again: &Again| again.position >= from && again.position < to;
    kept.again.retain(|again| !inside(again));
    match &step.end {
        End::Done | End::Dead { .. } => settle(kept, step.range),
        End::Again {
            attempts,
            lost,
            due,
            reason,
        } => {
            kept.again.extend(messages.map(|message| Again {
                position: message.position(),
                attempts: *attempts,
                lost: *lost,
                due: *due,
                reason: reason.clone(),
            }));
            kept.again.sort_by_key(|again| again.position);
        }
    }
}

fn settle(kept: &mut Kept, range: Range) {
    let at = kept
        .settled
        .partition_point(|other| other.from < range.from);
    kept.settled.insert(at, range);
    let mut joined: Vec<Range> = Vec::with_capacity(kept.settled.len());
    for range in kept.settled.drain(..) {
        match joined.last_mut() {
            Some(last) if last.to >= range.from => last.to = last.to.max(range.to),
            _ => joined.push(range),
        }
    }
    if joined.first().is_some_and(|first| first.from <= kept.low) {
        kept.low = kept.low.max(joined.remove(0).to);
    }
    kept.settled = joined;
    kept.out = kept.out.max(kept.low);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: u64, to: u64) -> Range {
        Range {
            from: Position::at(from),
            to: Position::at(to),
        }
    }

    fn sample() -> Kept {
        let again = |position, reason: Option<&str>| Again {
            position: Position::at(position),
            attempts: 3,
            lost: 1,
            due: Timestamp::from_millis(1_764_500_000_123),
            reason: reason.map(Arc::from),
        };
        Kept {
            low: Position::at(1_000_000),
            settled: vec![range(1_000_001, 1_000_004), range(1_000_009, 1_000_010)],
            again: vec![
                again(1_000_000, Some("no such order")),
                again(1_000_007, None),
            ],
            out: Position::at(1_000_200),
        }
    }

    #[test]
    fn what_is_kept_is_read_as_it_was() {
        let kept = sample();
        let text = encode(&kept, 7).unwrap();
        assert_eq!(decode(1_000_000, &text), (kept, 7));
    }

    #[test]
    fn what_others_committed_is_an_offset() {
        for text in ["", "hello", "strait1:", "strait1:!!", "strait1:AAAAAP////8"] {
            assert_eq!(decode(5, text), (at(5), 0), "{text}");
        }
    }

    #[test]
    fn reasons_give_way_to_ranges_and_too_many_ranges_do_not_fit() {
        let mut kept = sample();
        let long: Arc<str> = "x".repeat(1000).into();
        kept.again = (0..60)
            .map(|i| Again {
                position: Position::at(1_000_000 + i),
                reason: Some(long.clone()),
                ..sample().again[0].clone()
            })
            .collect();
        let text = encode(&kept, 1).unwrap();
        assert!(text.len() <= MOST);
        assert_eq!(decode(1_000_000, &text).0.again.len(), 60);
        assert!(
            decode(1_000_000, &text)
                .0
                .again
                .iter()
                .all(|again| again.reason.is_none())
        );
        kept.settled = (0..4000)
            .map(|i| range(1_000_001 + 2 * i, 1_000_002 + 2 * i))
            .collect();
        assert_eq!(encode(&kept, 1), None);
    }

    #[test]
    fn ranges_that_touch_are_joined_and_the_low_mark_follows() {
        let mut kept = at(10);
        for (from, to) in [(12, 13), (11, 12), (15, 20)] {
            settle(&mut kept, range(from, to));
        }
        assert_eq!(kept.settled, [range(11, 13), range(15, 20)]);
        settle(&mut kept, range(10, 11));
        assert_eq!(
            (kept.low.offset(), &kept.settled[..]),
            (13, &[range(15, 20)][..])
        );
    }
}
