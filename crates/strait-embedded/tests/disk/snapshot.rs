//! Snapshots: whole or not there.

use std::sync::Arc;

use proptest::prelude::*;
use strait_embedded::disk::rng::Rng;
use strait_embedded::disk::sim::{Crash, SimDisk};
use strait_embedded::disk::snapshot::{SnapshotHead, replay_bound, snapshot_name, snapshots};
use strait_embedded::disk::{Disk, LogPos, OpenError, SnapshotReader, SnapshotWriter, verify};

use crate::support::IDENTITY;

fn head(seq: u64) -> SnapshotHead {
    SnapshotHead {
        identity: IDENTITY,
        seq,
        replay: LogPos {
            segment: seq / 10,
            offset: 4096,
            seq: seq + 1,
        },
    }
}

fn write(disk: &Arc<dyn Disk>, seq: u64, sections: &[Vec<u8>]) {
    let mut writer = SnapshotWriter::begin(disk.clone(), head(seq)).unwrap();
    for (key, bytes) in sections.iter().enumerate() {
        writer.section(3, key as u64, seq, bytes).unwrap();
    }
    writer.finish().unwrap();
}

fn read(disk: &Arc<dyn Disk>) -> (SnapshotHead, Vec<Vec<u8>>, usize) {
    let mut reader = SnapshotReader::newest(&**disk, IDENTITY).unwrap().unwrap();
    let mut sections = Vec::new();
    while let Some(section) = reader.next_section().unwrap() {
        assert_eq!((section.kind, section.key), (3, sections.len() as u64));
        sections.push(section.bytes.to_vec());
    }
    (*reader.head(), sections, reader.broken().len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn sections_come_back_as_they_were(
        sections in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300_000), 0..5),
    ) {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::plain(16 << 20));
        write(&disk, 40, &sections);
        prop_assert_eq!(read(&disk), (head(40), sections, 0));
    }
}

#[test]
fn the_newest_two_are_kept_and_bound_what_the_log_must_keep() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::plain(1 << 20));
    assert!(SnapshotReader::newest(&*disk, IDENTITY).unwrap().is_none());
    assert_eq!(replay_bound(&*disk, IDENTITY).unwrap(), None);
    for seq in [10, 20, 30] {
        write(&disk, seq, &[seq.to_le_bytes().to_vec()]);
    }
    assert_eq!(snapshots(&*disk).unwrap(), [20, 30]);
    assert_eq!(read(&disk).0, head(30));
    assert_eq!(
        replay_bound(&*disk, IDENTITY).unwrap(),
        Some(head(20).replay)
    );
}

#[test]
fn a_damaged_one_is_passed_over_wherever_the_damage_is() {
    let sections = [vec![1; 100], vec![2; 50]];
    let len = 64 + 2 * 32 + 150 + 32;
    for pos in 0..len {
        let sim = Arc::new(SimDisk::faulty(1 << 20, 1));
        let disk: Arc<dyn Disk> = sim.clone();
        write(&disk, 10, &sections);
        write(&disk, 20, &sections);
        let version = (8..12).contains(&pos);
        sim.flip(&snapshot_name(20), pos, 16).unwrap();
        let newest = SnapshotReader::newest(&*disk, IDENTITY);
        if version {
            assert!(
                matches!(newest, Err(OpenError::Version { .. })),
                "byte {pos}"
            );
            continue;
        }
        assert_eq!(read(&disk), (head(10), sections.to_vec(), 1), "byte {pos}");
        sim.flip(&snapshot_name(10), pos, 16).unwrap();
        let none = SnapshotReader::newest(&*disk, IDENTITY);
        assert!(
            matches!(none, Err(OpenError::Corrupt { seq: 20, .. })),
            "byte {pos}"
        );
        assert_eq!(
            verify(&*disk).unwrap().snapshots,
            0,
            "nothing says whose they are"
        );
    }
}

#[test]
fn an_unfinished_one_leaves_nothing_and_a_crash_leaves_the_one_before() {
    let sim = Arc::new(SimDisk::faulty(1 << 20, 1));
    let disk: Arc<dyn Disk> = sim.clone();
    write(&disk, 10, &[vec![1; 100]]);
    let mut writer = SnapshotWriter::begin(disk.clone(), head(20)).unwrap();
    writer.section(3, 0, 20, &[2; 1000]).unwrap();
    assert!(writer.section(u16::MAX, 0, 20, &[]).is_err());
    drop(writer);
    assert_eq!(disk.list().unwrap(), [snapshot_name(10)]);
    for step in 1..8 {
        let left = Arc::new(sim.crash(Crash::AllKept, &mut Rng::new(step)));
        left.die_at(step);
        let disk: Arc<dyn Disk> = left.clone();
        let written = SnapshotWriter::begin(disk, head(20)).and_then(|mut writer| {
            writer.section(3, 0, 20, &[2; 1000])?;
            writer.finish()
        });
        let after: Arc<dyn Disk> = Arc::new(left.crash(Crash::AllLost, &mut Rng::new(step)));
        let newest = SnapshotReader::newest(&*after, IDENTITY).unwrap().unwrap();
        let seq = if written.is_ok() { 20 } else { 10 };
        assert!(newest.head().seq >= seq, "step {step}");
    }
}

#[test]
fn another_directory_and_a_full_disk_are_named() {
    let sim = Arc::new(SimDisk::faulty(1 << 20, 1));
    let disk: Arc<dyn Disk> = sim.clone();
    write(&disk, 10, &[]);
    let other = SnapshotReader::newest(&*disk, IDENTITY + 1);
    assert!(matches!(other, Err(OpenError::Identity { .. })));
    sim.set_capacity(sim.allocated() + 100);
    let mut writer = SnapshotWriter::begin(disk.clone(), head(20)).unwrap();
    writer.section(3, 0, 20, &[0; 1000]).unwrap();
    let full = writer.finish().unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(read(&disk).0, head(10));
    assert_eq!(disk.list().unwrap(), [snapshot_name(10)]);
}
