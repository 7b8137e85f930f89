//! Index files: where each stream's batches lie in a finished segment.
//!
//! `ext-<segment>`: magic, version, identity, segment, streams (id, extents), CRC32C of all before it. Everything in it
//! can be had again from the segment itself; it is written before the extents leave memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;
use strait_core::{Error, Kind, Result, crc32c};

use crate::codec::{Decoded, Malformed, Reader, put_u64, put_u128};
use crate::disk::{Disk, Open};
use crate::extents::{Extent, StreamId};
use crate::shared::Shared;

const MAGIC: &[u8; 8] = b"STRAITEX";
const VERSION: u64 = 1;
/// So many indexes are kept in memory.
const CACHED: usize = 32;

pub(crate) type SegmentIndex = HashMap<StreamId, Arc<[Extent]>>;

/// The indexes that are in memory.
#[derive(Debug, Default)]
pub(crate) struct Indexes {
    cached: Mutex<VecDeque<(u64, Arc<SegmentIndex>)>>,
}

impl Indexes {
    /// The index of a finished segment.
    pub(crate) fn get(&self, shared: &Shared, segment: u64) -> Result<Arc<SegmentIndex>> {
        if let Some(found) = self.cached(segment) {
            return Ok(found);
        }
        let index = Arc::new(read(&*shared.disk, shared.identity, segment)?);
        let mut cached = self.cached.lock();
        cached.push_front((segment, index.clone()));
        cached.truncate(CACHED);
        Ok(index)
    }

    fn cached(&self, segment: u64) -> Option<Arc<SegmentIndex>> {
        let mut cached = self.cached.lock();
        let at = cached.iter().position(|(id, _)| *id == segment)?;
        let hit = cached.remove(at)?;
        cached.push_front(hit);
        cached.front().map(|(_, index)| index.clone())
    }

    pub(crate) fn forget(&self, segment: u64) {
        self.cached.lock().retain(|(id, _)| *id != segment);
    }
}

pub(crate) fn file_name(segment: u64) -> String {
    format!("ext-{segment:016x}")
}

/// The segment of an index's file name.
pub(crate) fn segment_of(name: &str) -> Option<u64> {
    let segment = u64::from_str_radix(name.strip_prefix("ext-")?, 16).ok()?;
    (file_name(segment) == name).then_some(segment)
}

/// The version of the index file that begins with `head`.
pub(crate) fn version_of(head: &[u8]) -> Option<u32> {
    let mut r = Reader::new(head.strip_prefix(MAGIC)?);
    u32::try_from(r.u64().ok()?).ok()
}

/// Writes the index of a segment, durably.
pub(crate) fn write(
    disk: &dyn Disk,
    identity: u128,
    segment: u64,
    streams: &BTreeMap<StreamId, Vec<Extent>>,
) -> io::Result<()> {
    let mut out = MAGIC.to_vec();
    put_u64(&mut out, VERSION);
    put_u128(&mut out, identity);
    put_u64(&mut out, segment);
    put_u64(&mut out, streams.len() as u64);
    for (id, extents) in streams {
        put_u64(&mut out, id.0);
        put_u64(&mut out, extents.len() as u64);
        extents.iter().for_each(|extent| extent.encode(&mut out));
    }
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    let name = file_name(segment);
    let temporary = format!("{name}.tmp");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&temporary, Open::CreateNew)?;
    file.allocate(out.len() as u64)?;
    file.write_all_at(&[IoSlice::new(&out)], 0)?;
    file.sync_data()?;
    disk.rename(&temporary, &name)?;
    disk.sync_dir()
}

/// The index of a segment, where there is one.
pub(crate) fn known(
    disk: &dyn Disk,
    identity: u128,
    segment: u64,
) -> io::Result<Option<SegmentIndex>> {
    let name = file_name(segment);
    match disk.open(&name, Open::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(_) => read(disk, identity, segment)
            .map(Some)
            .map_err(io::Error::other),
    }
}

pub(crate) fn read(disk: &dyn Disk, identity: u128, segment: u64) -> Result<SegmentIndex> {
    let name = file_name(segment);
    let io_error = |error| Error::io(format!("cannot read the segment index {name}"), error);
    let file = disk.open(&name, Open::Existing).map_err(io_error)?;
    let len = file.len().map_err(io_error)? as usize;
    let mut bytes = vec![0; len];
    crate::disk::io::read_exact_at(&*file, &mut bytes, 0).map_err(io_error)?;
    decode(&bytes, identity, segment).map_err(|Malformed| {
        Error::new(
            Kind::Corrupt,
            format!("the segment index {name} is damaged"),
        )
        .next(
            "run `strait verify` on the directory; restore a backup if the segment is damaged too",
        )
    })
}

fn decode(bytes: &[u8], identity: u128, segment: u64) -> Decoded<SegmentIndex> {
    let at = bytes.len().checked_sub(4).ok_or(Malformed)?;
    let (body, crc) = bytes.split_at(at);
    if crc32c(body).to_le_bytes() != *crc {
        return Err(Malformed);
    }
    let mut r = Reader::new(body.strip_prefix(MAGIC).ok_or(Malformed)?);
    if r.u64()? != VERSION || r.u128()? != identity || r.u64()? != segment {
        return Err(Malformed);
    }
    let mut index = SegmentIndex::new();
    for _ in 0..r.count(2)? {
        let id = StreamId(r.u64()?);
        let count = r.count(8)?;
        let extents = (0..count)
            .map(|_| Extent::decode(&mut r))
            .collect::<Decoded<Vec<_>>>()?;
        index.insert(id, extents.into());
    }
    if r.is_empty() {
        Ok(index)
    } else {
        Err(Malformed)
    }
}
