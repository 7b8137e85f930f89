//! The layout of a group.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use strait_embedded::disk::segment::segment_name;
use strait_embedded::disk::{BadBody, Disk, GroupBuf, Log, Open, OpenError, SimDisk, verify};

use crate::support::{Group, Record, body, encode, group, open, open_from, options};

fn records() -> impl Strategy<Value = Group> {
    let bodies = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..4);
    let record =
        (prop::collection::vec(any::<u8>(), 0..100), bodies).prop_map(|(ops, bodies)| Record {
            ops,
            bodies: bodies.iter().map(|payload| body(payload)).collect(),
        });
    prop::collection::vec(record, 1..6)
}

proptest! {
    #[test]
    fn groups_come_back_as_they_were(groups in prop::collection::vec(records(), 1..8)) {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::plain(16 << 20));
        let (mut log, ..) = open(&disk);
        let mut places = Vec::new();
        for group in &groups {
            let buf = encode(group);
            prop_assert_eq!(buf.encoded_len() % 8, 0);
            let placed = log.append(&buf).unwrap();
            let offsets = buf.body_offsets().iter().map(|offset| placed.offset + offset);
            places.push((placed, offsets.collect::<Vec<_>>()));
        }
        log.seal().unwrap();
        drop(log);
        let (log, report, seen) = open(&disk);
        prop_assert_eq!(seen.len(), groups.len());
        prop_assert_eq!(report.rewritten, 0);
        for ((seen, group), (placed, offsets)) in seen.iter().zip(&groups).zip(&places) {
            prop_assert_eq!(&seen.group, group);
            prop_assert_eq!((seen.seq, seen.segment, seen.offset), (placed.seq, placed.segment, placed.offset));
            prop_assert_eq!(seen.next, placed.next());
            let at: Vec<u64> = seen.bodies_at.iter().map(|(at, _)| *at).collect();
            prop_assert_eq!(&at, offsets);
        }
        prop_assert_eq!(log.written_seq(), groups.len() as u64 + 1, "and the seal");
    }
}

proptest! {
    /// Whatever stands in the files, opening answers.
    #[test]
    fn damage_never_panics(
        groups in prop::collection::vec(records(), 1..6),
        damage in prop::collection::vec((0_u64..16 << 10, any::<u8>()), 1..6),
        cut in 0_u64..64,
    ) {
        let sim = Arc::new(SimDisk::plain(16 << 20));
        let disk: Arc<dyn Disk> = sim.clone();
        let (mut log, ..) = open(&disk);
        for group in &groups {
            log.append(&encode(group)).unwrap();
        }
        drop(log);
        let name = segment_name(1);
        for (pos, mask) in damage {
            // Mostly where the groups are.
            let pos = if pos % 5 == 0 { pos } else { 4096 + pos % 3000 };
            sim.flip(&name, pos, mask).unwrap();
        }
        let file = disk.open(&name, Open::Existing).unwrap();
        file.set_len((16 << 10) - cut.saturating_sub(32) * 300).unwrap();
        let checked = verify(&*disk).unwrap();
        if let Ok((_, _, seen)) = open_from(&disk, &options(), None) {
            let real = |fault: &OpenError| !matches!(fault, OpenError::Missing { .. });
            prop_assert!(!checked.faults.iter().any(real), "what opens has no fault");
            let whole = seen.iter().zip(&groups).all(|(seen, group)| &seen.group == group);
            prop_assert!(whole, "nothing is invented");
        }
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::plain(1 << 20));
    let (mut log, ..) = open_from(&disk, &options(), None).unwrap();
    let placed = log.append(&encode(&group("abc"))).unwrap();
    let mut bytes = vec![0; placed.len as usize];
    let reader = log.reader(placed.segment).unwrap();
    reader.read_exact_at(&mut bytes, placed.offset).unwrap();
    assert_eq!(placed.offset, 4096);
    assert_eq!(bytes.len(), (40 + 16 + 3 + 11_usize).next_multiple_of(8));
    assert_eq!(bytes[0..4], *b"STGR");
    assert_eq!(bytes[4..8], (bytes.len() as u32).to_le_bytes());
    assert_eq!(bytes[16..24], 1_u64.to_le_bytes(), "sequence");
    assert_eq!(bytes[24..32], 0_u64.to_le_bytes(), "durable");
    assert_eq!(bytes[32..36], 1_u32.to_le_bytes(), "records");
    assert_eq!(bytes[40..44], 14_u32.to_le_bytes(), "ops and bodies");
    assert_eq!(bytes[44..48], 3_u32.to_le_bytes(), "ops");
    assert_eq!(bytes[56..59], *b"abc");
    assert_eq!(bytes[59..70], body(b"abc")[..]);
    assert_eq!(bytes[70..], [0; 2]);
}

#[test]
fn a_body_that_lies_about_its_length_is_refused_and_leaves_the_group_as_it_was() {
    let mut buf = GroupBuf::new();
    buf.begin_record();
    let lie = Bytes::from_static(&[9, 0, 0, 0, 1, 2, 3, 4]);
    assert_eq!(buf.push_body(lie), Err(BadBody { len: 8, says: 9 }));
    assert_eq!(
        buf.push_body(Bytes::from_static(b"abc")),
        Err(BadBody { len: 3, says: 0 })
    );
    buf.push_body(body(b"good")).unwrap();
    buf.end_record();
    assert_eq!(buf.body_offsets(), [56]);
    assert_eq!(buf.encoded_len(), 72);
}

#[test]
fn what_one_pwritev_cannot_take_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> =
        Arc::new(strait_embedded::disk::RealDisk::open(dir.path().join("data")).unwrap());
    let many: Group = (0..3000_u32)
        .map(|i| Record {
            ops: i.to_le_bytes().to_vec(),
            bodies: vec![body(&i.to_le_bytes())],
        })
        .collect();
    let (mut log, ..): (Log, _, _) = open(&disk);
    log.append(&encode(&many)).unwrap();
    log.sync().unwrap();
    drop(log);
    let (_, _, seen) = open(&disk);
    assert_eq!(seen[0].group, many);
}
