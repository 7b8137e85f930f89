//! Groups with known content, and small logs.

use std::sync::Arc;

use bytes::Bytes;
use strait_embedded::disk::crc::crc32c;
use strait_embedded::disk::rng::Rng;
use strait_embedded::disk::{
    Disk, GroupBuf, Log, LogOptions, LogPos, OpenError, RecoveredGroup, RecoveryReport,
};

pub(crate) const IDENTITY: u128 = 0x5354_5241_4954;

/// Small segments, so that a few groups roll.
pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        first_segment_bytes: 16 << 10,
        reserve_bytes: 12 << 10,
        ..LogOptions::new(IDENTITY, 7)
    }
}

/// What a record is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) ops: Vec<u8>,
    pub(crate) bodies: Vec<Bytes>,
}

pub(crate) type Group = Vec<Record>;

/// A body as a producer makes it: length, checksum, payload.
pub(crate) fn body(payload: &[u8]) -> Bytes {
    let mut bytes = ((payload.len() + 8) as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&crc32c(payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes.into()
}

pub(crate) fn random_bytes(rng: &mut Rng, max: u64) -> Vec<u8> {
    let len = rng.below(max + 1);
    (0..len).map(|_| rng.next_u64() as u8).collect()
}

pub(crate) fn random_group(rng: &mut Rng, max_body: u64) -> Group {
    (0..1 + rng.below(3))
        .map(|_| Record {
            ops: random_bytes(rng, 40),
            bodies: (0..rng.below(3))
                .map(|_| body(&random_bytes(rng, max_body)))
                .collect(),
        })
        .collect()
}

/// A group of one record with one body.
pub(crate) fn group(text: &str) -> Group {
    vec![Record {
        ops: text.as_bytes().to_vec(),
        bodies: vec![body(text.as_bytes())],
    }]
}

/// A group whose body has about `len` bytes.
pub(crate) fn group_of(len: usize, fill: u8) -> Group {
    vec![Record {
        ops: Vec::new(),
        bodies: vec![body(&vec![fill; len])],
    }]
}

pub(crate) fn fill(buf: &mut GroupBuf, group: &Group) {
    buf.clear();
    for record in group {
        buf.begin_record();
        buf.ops_mut().extend_from_slice(&record.ops);
        for body in &record.bodies {
            buf.push_body(body.clone()).unwrap();
        }
        buf.end_record();
    }
}

pub(crate) fn encode(group: &Group) -> GroupBuf {
    let mut buf = GroupBuf::new();
    fill(&mut buf, group);
    buf
}

/// What was recovered of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) seq: u64,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) group: Group,
    pub(crate) bodies_at: Vec<(u64, Bytes)>,
    pub(crate) next: LogPos,
}

pub(crate) fn see(recovered: RecoveredGroup<'_>) -> Seen {
    let mut bodies_at = Vec::new();
    let records = recovered.records().map(|record| Record {
        ops: record.ops.to_vec(),
        bodies: record
            .bodies()
            .map(|(at, bytes)| {
                bodies_at.push((at, Bytes::copy_from_slice(bytes)));
                Bytes::copy_from_slice(bytes)
            })
            .collect(),
    });
    let group = records.collect();
    Seen {
        seq: recovered.seq,
        segment: recovered.segment,
        offset: recovered.offset,
        group,
        bodies_at,
        next: recovered.next(),
    }
}

pub(crate) type Opened = (Log, RecoveryReport, Vec<Seen>);

pub(crate) fn open_from(
    disk: &Arc<dyn Disk>,
    options: &LogOptions,
    from: Option<LogPos>,
) -> Result<Opened, OpenError> {
    let mut seen = Vec::new();
    let (log, report) = Log::open(disk.clone(), options.clone(), from, &mut |group| {
        seen.push(see(group));
        Ok(())
    })?;
    Ok((log, report, seen))
}

pub(crate) fn open(disk: &Arc<dyn Disk>) -> Opened {
    open_from(disk, &options(), None).unwrap()
}

/// The texts of groups made by [`group`].
pub(crate) fn texts(seen: &[Seen]) -> Vec<String> {
    seen.iter()
        .map(|seen| String::from_utf8(seen.group[0].ops.clone()).unwrap())
        .collect()
}
