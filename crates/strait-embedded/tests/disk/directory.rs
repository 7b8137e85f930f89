//! Which files a data directory may hold.

use std::io::IoSlice;
use std::sync::Arc;

use strait_embedded::disk::segment::segment_name;
use strait_embedded::disk::{Disk, LogOptions, Open, OpenError, SimDisk, identity, verify};

use crate::support::{IDENTITY, encode, group, open, open_from, options};

fn disk() -> Arc<dyn Disk> {
    Arc::new(SimDisk::plain(4 << 20))
}

fn put(disk: &Arc<dyn Disk>, name: &str, bytes: &[u8], pos: u64) {
    let how = if disk.list().unwrap().iter().any(|have| have == name) {
        Open::Existing
    } else {
        Open::CreateNew
    };
    let file = disk.open(name, how).unwrap();
    file.write_all_at(&[IoSlice::new(bytes)], pos).unwrap();
}

fn refused(disk: &Arc<dyn Disk>) -> OpenError {
    open_from(disk, &options(), None).map(|_| ()).unwrap_err()
}

#[test]
fn foreign_files_are_refused_by_name_and_ours_are_not() {
    let disk = disk();
    for ours in [
        "LOCK",
        "SOCK",
        "IDENTITY",
        "ext-0001",
        "lost+found",
        "snap-0000000000000000",
    ] {
        put(&disk, ours, b"x", 0);
    }
    put(&disk, "log-0000000000000007.tmp", b"unfinished", 0);
    let (_, report, _) = open(&disk);
    assert_eq!(report.removed, ["log-0000000000000007.tmp"]);
    for foreign in ["notes.txt", "log-7.seg", "log-000000000000000A.seg"] {
        put(&disk, foreign, b"x", 0);
        match refused(&disk) {
            OpenError::Foreign { file } => assert_eq!(file, foreign),
            other => panic!("{other}"),
        }
        disk.remove(foreign).unwrap();
    }
    open(&disk);
}

#[test]
fn a_segment_of_another_version_is_refused_with_both_versions() {
    let disk = disk();
    open(&disk);
    put(&disk, &segment_name(1), &7_u32.to_le_bytes(), 8);
    assert_eq!(
        refused(&disk).to_string(),
        "log-0000000000000001.seg has format 7, this build reads 1"
    );
}

#[test]
fn a_segment_whose_header_is_damaged_or_does_not_fit_its_name_is_refused() {
    let disk = disk();
    open(&disk);
    put(&disk, &segment_name(1), &[1], 30);
    assert!(matches!(
        refused(&disk),
        OpenError::Corrupt { offset: 0, .. }
    ));
    disk.remove(&segment_name(1)).unwrap();
    open(&disk);
    disk.rename(&segment_name(1), &segment_name(4)).unwrap();
    let why = refused(&disk).to_string();
    assert!(
        why.contains("its header is that of log-0000000000000001.seg"),
        "{why}"
    );
    disk.rename(&segment_name(4), &segment_name(1)).unwrap();
    disk.open(&segment_name(1), Open::Existing)
        .unwrap()
        .set_len(9000)
        .unwrap();
    let why = refused(&disk).to_string();
    assert!(why.contains("it has 9000 bytes instead of 16384"), "{why}");
}

#[test]
fn a_segment_of_another_directory_is_refused() {
    let disk = disk();
    open(&disk);
    let other = LogOptions::new(IDENTITY + 1, 7);
    let refused = open_from(&disk, &other, None).map(|_| ()).unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::Identity {
                found: IDENTITY,
                ..
            }
        ),
        "{refused}"
    );
}

#[test]
fn a_missing_segment_is_named() {
    let disk = disk();
    let (mut log, ..) = open(&disk);
    let mut last = 0;
    while last < 4 {
        last = log
            .append(&encode(&crate::support::group_of(9000, 1)))
            .unwrap()
            .segment;
        log.sync().unwrap();
    }
    drop(log);
    disk.remove(&segment_name(2)).unwrap();
    assert!(matches!(refused(&disk), OpenError::Corrupt { .. }));
    disk.remove(&segment_name(1)).unwrap();
    assert!(
        matches!(refused(&disk), OpenError::Missing { .. }),
        "no snapshot stands for the beginning"
    );
}

#[test]
fn the_identity_is_made_once_and_missed_when_it_is_gone() {
    let disk = disk();
    assert_eq!(identity::load_or_create(&*disk, 5).unwrap(), 5);
    assert_eq!(identity::load_or_create(&*disk, 6).unwrap(), 5);
    let (mut log, ..) = open_from(&disk, &LogOptions::new(5, 1), None).unwrap();
    log.append(&encode(&group("one"))).unwrap();
    let checked = verify(&*disk).unwrap();
    assert!(checked.faults.is_empty());
    assert_eq!((checked.segments, checked.groups), (1, 1));
    disk.remove("IDENTITY").unwrap();
    let refused = identity::load_or_create(&*disk, 6).unwrap_err();
    assert!(matches!(refused, OpenError::Missing { .. }), "{refused}");
    let checked = verify(&*disk).unwrap();
    assert!(matches!(&checked.faults[..], [OpenError::Missing { .. }]));
    put(&disk, "IDENTITY", b"short", 0);
    let refused = identity::load_or_create(&*disk, 6).unwrap_err();
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused}");
}
