//! Making the files of segments: new ones, and recycled ones under a new name.

use std::io;
use std::sync::Arc;

use super::{Pool, Ready, SegmentInfo, Zeroing};
use crate::disk::io::{File, Open};
use crate::disk::rng::mix;
use crate::disk::segment::{SEGMENT_HEAD, SegmentHeader, segment_name};

impl Pool {
    /// Makes a segment of `len` bytes, durable with its name.
    pub(in crate::disk) fn make(&self, len: u64, zeroed: bool) -> io::Result<Ready> {
        let ready = self.begin(len, zeroed)?;
        self.publish(ready)
    }

    /// Makes the file of a segment under its temporary name, with space and header.
    pub(in crate::disk) fn begin(&self, len: u64, zeroed: bool) -> io::Result<Ready> {
        let Zeroing { file, id, len, .. } = self.allocate(len)?;
        let filled = if zeroed { file.zero(0..len) } else { Ok(()) };
        let begun = filled.and_then(|()| self.put_header(file, id, len));
        self.clean_up_after(begun, id)
    }

    pub(super) fn allocate(&self, len: u64) -> io::Result<Zeroing> {
        let len = len.next_multiple_of(SEGMENT_HEAD);
        let id = self.new_id(len);
        let opened = self.disk.open(&tmp_name(id), Open::CreateNew);
        let allocated = opened.and_then(|file| {
            file.allocate(len)?;
            Ok(Zeroing {
                file,
                id,
                len,
                done: 0,
            })
        });
        self.clean_up_after(allocated, id)
    }

    /// Gives a freed file a new id and salt. No zeroing: what is in it bears an old salt.
    pub(super) fn recycle(&self, freed: SegmentInfo) -> io::Result<Ready> {
        let id = self.new_id(0);
        let tmp = tmp_name(id);
        let begun = self
            .disk
            .rename(&segment_name(freed.id), &tmp)
            // Before the header changes, the old name must be gone for good: a header always fits its name.
            .and_then(|()| self.disk.sync_dir())
            .and_then(|()| self.disk.open(&tmp, Open::Existing))
            .and_then(|file| self.put_header(file, id, freed.len));
        let ready = self.clean_up_after(begun, id)?;
        self.publish(ready)
    }

    pub(super) fn put_header(&self, file: Arc<dyn File>, id: u64, len: u64) -> io::Result<Ready> {
        let header = self.header(id, len);
        header.write(&*file)?;
        Ok(Ready { header, file })
    }

    /// Gives a file whose content is durable its segment's name, durably.
    pub(in crate::disk) fn publish(&self, ready: Ready) -> io::Result<Ready> {
        let id = ready.header.id;
        let named = self
            .disk
            .rename(&tmp_name(id), &segment_name(id))
            .and_then(|()| self.disk.sync_dir());
        self.clean_up_after(named.map(|()| ready), id)
    }

    /// The header of a new use of a file.
    fn header(&self, id: u64, len: u64) -> SegmentHeader {
        SegmentHeader {
            id,
            salt: mix(self.options.seed.wrapping_add(mix(id))),
            len,
            identity: self.options.identity,
        }
    }

    /// Removes what a failed attempt left. When that fails too, the next opening does it.
    pub(super) fn clean_up_after<T>(&self, result: io::Result<T>, id: u64) -> io::Result<T> {
        if result.is_err() {
            let _ = self.disk.remove(&tmp_name(id));
            let _ = self.disk.remove(&segment_name(id));
        }
        result
    }

    /// A new id for a file of `made` bytes; the segments after it are twice as long, up to the full length.
    fn new_id(&self, made: u64) -> u64 {
        let mut state = self.state.lock();
        if made == state.target {
            let full = self.options.segment_bytes.next_multiple_of(SEGMENT_HEAD);
            state.target = (made * 2).min(full);
        }
        state.next_id += 1;
        state.next_id - 1
    }
}

/// The name of a segment's file until its header is durable.
fn tmp_name(id: u64) -> String {
    format!("log-{id:016x}.tmp")
}
