//! Holes: what compaction leaves of a batch. The records that stay keep their index, and by it their id and position.

use bytes::Bytes;

use super::wire::crc32c;
use super::{Batch, HOLE, Record, RecordIter};

/// The byte of a batch that says whether it has holes.
pub(super) const HOLES_AT: usize = 9;

impl<'a> Batch<'a> {
    /// True when records of it were removed by [`without`](Self::without).
    pub fn has_holes(&self) -> bool {
        self.bytes[HOLES_AT] != 0
    }

    /// The same batch with a hole in place of every record that is not kept; `None` when none is. The bytes of those that
    /// stay are as they were, and so are id, index and time.
    ///
    /// ```
    /// use strait_core::{NewRecord, RecordsBuilder};
    /// let mut batch = RecordsBuilder::new(&[])?;
    /// for body in [b"a", b"b"] {
    ///     batch.push(NewRecord { key: Some(b"k"), body, ..Default::default() })?;
    /// }
    /// let records = batch.build();
    /// let newest = records.batch().without(|record| record.index() == 1).expect("one is kept");
    /// let batch = strait_core::Batch::check(&newest)?;
    /// assert_eq!(batch.iter().map(|record| record.is_hole()).collect::<Vec<_>>(), [true, false]);
    /// assert_eq!(batch.iter().nth(1).map(|record| record.id()), records.iter().nth(1).map(|record| record.id()));
    /// # Ok::<(), strait_core::Error>(())
    /// ```
    pub fn without(&self, mut keep: impl FnMut(&Record<'a>) -> bool) -> Option<Bytes> {
        let mut bytes = Vec::with_capacity(self.bytes.len());
        bytes.extend_from_slice(&self.bytes[..self.records_at()]);
        let (mut kept, mut holes) = (false, false);
        let mut records = self.iter();
        loop {
            let before = self.bytes.len() - records.rest.len();
            let Some(record) = records.next() else { break };
            if record.is_hole() || !keep(&record) {
                holes = true;
                bytes.push(HOLE);
            } else {
                kept = true;
                let end = self.bytes.len() - records.rest.len();
                bytes.extend_from_slice(&self.bytes[before..end]);
            }
        }
        if !kept {
            return None;
        }
        bytes[HOLES_AT] = u8::from(holes);
        let len = bytes.len() as u32;
        bytes[0..4].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        Some(bytes.into())
    }
}

impl<'a> RecordIter<'a> {
    pub(super) fn hole(&mut self, at: u32, rest: &'a [u8]) -> Record<'a> {
        let record = Record {
            batch: self.batch,
            at,
            index: self.index,
            delta: 0,
            key: None,
            headers: &[],
            attrs: &[],
            body: &[],
            hole: true,
        };
        self.rest = rest;
        self.index += 1;
        record
    }
}

impl Record<'_> {
    /// True for the place of a record that compaction removed. No chunk shows it.
    pub fn is_hole(&self) -> bool {
        self.hole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Attr, NewRecord, Records, RecordsBuilder};

    fn batch_of(bodies: &[&[u8]]) -> Records {
        let mut builder = RecordsBuilder::new(&[(Attr::Kind, "order.placed.v1")]).unwrap();
        for body in bodies {
            let headers: [(&str, &[u8]); 1] = [("h", body)];
            let record = NewRecord {
                key: Some(b"key"),
                body,
                headers: &headers,
                ..NewRecord::default()
            };
            builder.push(record).unwrap();
        }
        builder.build()
    }

    #[test]
    fn what_is_kept_is_as_it_was() {
        let records = batch_of(&[b"one", b"", b"three", b"four"]);
        let bytes = records.batch().without(|r| r.index() % 2 == 1).unwrap();
        let batch = Batch::check(&bytes).unwrap();
        assert!(batch.has_holes() && !records.batch().has_holes());
        assert_eq!((batch.len(), batch.id()), (4, records.batch().id()));
        for (before, after) in records.iter().zip(batch.iter()) {
            assert_eq!(before.index(), after.index());
            assert_eq!(after.is_hole(), before.index() % 2 == 0);
            if !after.is_hole() {
                assert_eq!((before.key(), before.body()), (after.key(), after.body()));
                assert_eq!((before.id(), before.time()), (after.id(), after.time()));
                assert_eq!(before.header("h"), after.header("h"));
                assert_eq!(before.kind(), after.kind());
            }
        }
        let again = batch.without(|r| r.index() == 3).unwrap();
        assert!(again.len() < bytes.len());
        assert_eq!(batch.without(|_| false), None);
    }

    #[test]
    fn the_later_part_of_a_batch_keeps_its_ids() {
        let mut builder = RecordsBuilder::new(&[]).unwrap();
        builder.leave_out(2);
        let headers: [(&str, &[u8]); 1] = [("binary", &[0, 13, 10])];
        let record = NewRecord {
            body: b"third",
            headers: &headers,
            ..NewRecord::default()
        };
        assert!(builder.push(record).is_err());
        builder.push_stored(record).unwrap();
        let records = builder.build();
        let batch = Batch::check_all(records.bytes()).unwrap();
        assert!(batch.has_holes());
        let third = batch.iter().nth(2).unwrap();
        assert_eq!((third.index(), third.body()), (2, &b"third"[..]));
        assert_eq!(third.header("binary"), Some(&[0, 13, 10][..]));
        assert_eq!(batch.iter().filter(Record::is_hole).count(), 2);
    }

    #[test]
    fn a_producer_may_not_send_holes() {
        let bytes = batch_of(&[b"one", b"two"])
            .batch()
            .without(|r| r.index() == 0);
        assert!(Records::decode(bytes.unwrap()).is_err());
    }
}
