//! The disk of the operating system.

use std::io::IoSlice;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use strait_embedded::disk::io::read_exact_at;
use strait_embedded::disk::real::LockError;
use strait_embedded::disk::{Disk, LogOptions, Open, RealDisk, verify};

use crate::support::{IDENTITY, encode, group, open_from, texts};

#[test]
fn the_directory_is_made_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a").join("b");
    let disk = RealDisk::open(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
    disk.open("ext-1", Open::CreateNew).unwrap();
    let mode = std::fs::metadata(path.join("ext-1"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let file = path.join("ext-1");
    assert!(RealDisk::open(file).is_err(), "a file is no directory");
}

#[test]
fn files_do_what_the_contract_says() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path()).unwrap();
    let file = disk.open("ext-1", Open::CreateNew).unwrap();
    assert_eq!(
        disk.open("ext-1", Open::CreateNew).unwrap_err().kind(),
        std::io::ErrorKind::AlreadyExists
    );
    assert_eq!(
        disk.open("ext-2", Open::Existing).unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
    file.allocate(3 << 20).unwrap();
    assert_eq!(file.len().unwrap(), 3 << 20);
    file.allocate(1 << 20).unwrap();
    assert_eq!(file.len().unwrap(), 3 << 20, "never shorter");
    file.write_all_at(
        &[
            IoSlice::new(b"abc"),
            IoSlice::new(b""),
            IoSlice::new(b"def"),
        ],
        5,
    )
    .unwrap();
    file.sync_data().unwrap();
    let mut bytes = [0; 8];
    read_exact_at(&*file, &mut bytes, 4).unwrap();
    assert_eq!(&bytes, b"\0abcdef\0");
    file.zero(6..(2 << 20) + 6).unwrap();
    read_exact_at(&*file, &mut bytes, 4).unwrap();
    assert_eq!(&bytes, b"\0a\0\0\0\0\0\0");
    let end = read_exact_at(&*file, &mut bytes, (3 << 20) - 7).unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
    disk.rename("ext-1", "ext-3").unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(disk.list().unwrap(), ["ext-3"]);
    assert!(disk.free_bytes().unwrap() > 0);
    disk.remove("ext-3").unwrap();
    assert!(disk.list().unwrap().is_empty());
}

#[test]
fn the_lock_names_its_holder_and_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path()).unwrap();
    let guard = disk.try_lock().unwrap();
    match RealDisk::open(dir.path()).unwrap().try_lock() {
        Err(LockError::Held(holder)) => {
            assert_eq!(holder.pid, std::process::id());
            assert!(holder.program.starts_with("disk"), "{}", holder.program);
            assert!(holder.since > 1_700_000_000_000);
        }
        other => panic!("{other:?}"),
    }
    drop(guard);
    disk.try_lock().unwrap();
}

/// A child has the lock's file open until it has become another program.
#[test]
fn the_lock_ends_while_a_child_is_being_started() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path()).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let child = std::process::Command::new("true").status();
                assert!(child.unwrap().success());
            }
        });
        let refused = (0..20_000).find_map(|_| disk.try_lock().err());
        ended.store(true, Ordering::Relaxed);
        assert!(refused.is_none(), "{refused:?}");
    });
}

#[test]
fn a_log_on_the_real_disk_survives_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
    strait_embedded::disk::identity::load_or_create(&*disk, IDENTITY).unwrap();
    let options = LogOptions::new(IDENTITY, 1);
    let (mut log, ..) = open_from(&disk, &options, None).unwrap();
    while log.pool().wanted() {
        log.pool().prepare_one().unwrap();
    }
    for text in ["one", "two"] {
        log.append(&encode(&group(text))).unwrap();
        log.sync().unwrap();
    }
    drop(log);
    let (_, report, seen) = open_from(&disk, &options, None).unwrap();
    assert_eq!(texts(&seen), ["one", "two"]);
    assert_eq!(report.rewritten, 1);
    assert!(verify(&*disk).unwrap().faults.is_empty());
}
