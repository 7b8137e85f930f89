//! Backups of a directory in use, and what they are worth.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strait_core::events::{Retention, TopicSpec};
use strait_core::{Engine, Kind, codes};
use strait_embedded::{Embedded, Options, restore, verify};

use crate::support::{append, block_on, declare, events, name, open, read_all};

fn options() -> Options {
    Options {
        segment_bytes: 1 << 20,
        retention_every: Duration::from_millis(10),
        cleaner_share: 100,
        ..Options::default()
    }
}

/// All messages of both partitions of the topic.
async fn content(engine: &Embedded) -> Vec<Vec<(u64, Vec<u8>)>> {
    let mut all = Vec::new();
    for partition in 0..2 {
        all.push(read_all(engine, "orders", partition).await);
    }
    all
}

#[test]
fn what_was_acknowledged_before_a_backup_is_in_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, backup, copy) = (
        dir.path().join("data"),
        dir.path().join("backup"),
        dir.path().join("copy"),
    );
    let engine = Embedded::open(&data, options()).expect("an empty directory");
    let before = block_on(async {
        declare(&engine, "orders", 2).await;
        for i in 0..400u32 {
            let sent = append(&engine, "orders", i % 2, &[i as u8; 8_000]).await;
            sent.expect("appended");
        }
        let before = content(&engine).await;
        let taken = engine.backup(backup.clone()).await.expect("a backup");
        assert!(taken.bytes > 3 << 20 && taken.files > 3, "{taken:?}");
        append(&engine, "orders", 0, b"later")
            .await
            .expect("appended");
        before
    });
    let restored = restore(&backup, &copy, false).expect("it is whole");
    let report = verify(&copy).expect("it can be read");
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    let again = Embedded::open(&copy, options()).expect("a whole directory");
    assert!(again.opened().warnings.is_empty(), "{:?}", again.opened());
    assert_ne!(again.id(), engine.id(), "a copy is not the original");
    block_on(async {
        assert!(content(&again).await == before, "{restored:?}");
        // Both go on, each for itself.
        for engine in [&engine, &again] {
            append(engine, "orders", 1, b"on").await.expect("appended");
        }
    });
}

#[test]
fn a_backup_under_load_is_a_state_that_there_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let engine = Embedded::open(&data, options()).expect("an empty directory");
    block_on(async {
        declare(&engine, "orders", 2).await;
        // Beside it what keeps retention and the cleaner busy.
        let retention = Some(Retention {
            age: Some(Duration::from_millis(1)),
            bytes: None,
        });
        let spec = TopicSpec {
            retention,
            ..TopicSpec::new(name("short")).partitions(1)
        };
        events(&engine).declare(spec).await.expect("a new topic");
    });
    let stop = Arc::new(AtomicBool::new(false));
    let load = std::thread::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        move || {
            block_on(async {
                let mut sent = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let body = sent.to_le_bytes();
                    append(&engine, "orders", 0, &body).await.expect("appended");
                    append(&engine, "orders", 1, &body).await.expect("appended");
                    append(&engine, "short", 0, &[7; 60_000])
                        .await
                        .expect("appended");
                    sent += 1;
                }
            });
        }
    });
    for round in 0..4 {
        let (backup, copy) = (
            dir.path().join(format!("backup{round}")),
            dir.path().join(format!("copy{round}")),
        );
        let ends = || {
            block_on(async {
                let info = events(&engine).topic(name("orders")).await;
                info.expect("the topic").partitions.clone()
            })
        };
        let before = ends();
        let taken = block_on(engine.backup(backup.clone())).expect("a backup");
        let after = ends();
        restore(&backup, &copy, false).expect("it is whole");
        let again = open(&copy).expect("a whole directory");
        let content = block_on(content(&again));
        let lens: Vec<u64> = content.iter().map(|all| all.len() as u64).collect();
        for (len, (before, after)) in lens.iter().zip(before.iter().zip(&after)) {
            let range = before.end.offset()..=after.end.offset();
            assert!(range.contains(len), "{taken:?}: {lens:?}");
        }
        // The second of each pair was appended after the first: a state in between has at most one more of it.
        assert!((0..=1).contains(&(lens[0] - lens[1])), "{lens:?}");
        for (offset, body) in content.iter().flatten() {
            assert_eq!(body[..], offset.to_le_bytes());
        }
    }
    stop.store(true, Ordering::Relaxed);
    load.join().expect("every append was acknowledged");
}

#[test]
fn two_restores_are_two_copies() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Embedded::open(dir.path().join("data"), options()).expect("an empty directory");
    let backup = dir.path().join("backup");
    block_on(async {
        declare(&engine, "orders", 2).await;
        engine.backup(backup.clone()).await.expect("a backup");
    });
    let mut ids = vec![engine.id()];
    for copy in ["one", "two"] {
        let copy = dir.path().join(copy);
        restore(&backup, &copy, false).expect("it is whole");
        let engine = open(&copy).expect("a whole directory");
        ids.push(engine.id());
        // A backup of a copy is restored like any other.
        let of_copy = copy.with_extension("backup");
        block_on(engine.backup(of_copy.clone())).expect("a backup");
        restore(&of_copy, copy.with_extension("again"), false).expect("it is whole");
    }
    ids.sort_by(|a, b| a.0.cmp(&b.0));
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");
}

#[test]
fn nothing_is_written_over_what_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, backup) = (dir.path().join("data"), dir.path().join("backup"));
    let engine = Embedded::open(&data, options()).expect("an empty directory");
    let used = dir.path().join("used");
    std::fs::create_dir(&used).expect("a directory");
    std::fs::write(used.join("letter"), "dear").expect("a file");
    block_on(async {
        for to in [&used, &data] {
            let refused = engine.backup(to.clone()).await.expect_err("it is in use");
            assert_eq!(refused.kind(), Kind::Conflict, "{refused:?}");
        }
        let refused = engine.backup("somewhere".into()).await;
        let refused = refused.expect_err("a path relative to whom?");
        assert_eq!(refused.kind(), Kind::Rejected);
        engine.backup(backup.clone()).await.expect("a backup");
        let refused = engine
            .backup(backup.clone())
            .await
            .expect_err("it is there");
        assert_eq!(refused.kind(), Kind::Conflict);
    });
    for dry_run in [true, false] {
        let refused = restore(&backup, &used, dry_run).expect_err("it is in use");
        assert_eq!(refused.kind(), Kind::Conflict, "{refused:?}");
    }
    assert_eq!(
        std::fs::read_to_string(used.join("letter")).ok().as_deref(),
        Some("dear")
    );
    let refused = open(&backup).expect_err("it is no data directory");
    assert!(refused.is(codes::IS_BACKUP), "{refused:?}");
    let read_only = Options {
        read_only: true,
        ..options()
    };
    Embedded::open(&backup, read_only).expect("it can be looked at");
    let memory = Embedded::memory(Options::default()).expect("an engine in memory");
    let refused = block_on(memory.backup(dir.path().join("nothing")));
    assert_eq!(
        refused.expect_err("it keeps nothing").kind(),
        Kind::Unsupported
    );
}

#[test]
fn every_change_of_a_backup_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, backup) = (dir.path().join("data"), dir.path().join("backup"));
    let engine = Embedded::open(&data, options()).expect("an empty directory");
    block_on(async {
        declare(&engine, "orders", 2).await;
        append(&engine, "orders", 0, &[1; 100_000])
            .await
            .expect("appended");
        engine.backup(backup.clone()).await.expect("a backup");
    });
    let files: Vec<_> = std::fs::read_dir(&backup)
        .expect("the backup")
        .map(|file| file.expect("a file").path())
        .collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let bytes = std::fs::read(&file).expect("a file");
        let mut changed = bytes.clone();
        let middle = bytes.len() / 2;
        changed[middle] ^= 1;
        for bad in [Some(changed), Some(bytes[..middle].to_vec()), None] {
            match &bad {
                Some(bad) => std::fs::write(&file, bad).expect("a file"),
                None => std::fs::remove_file(&file).expect("a file"),
            }
            refused(&backup, &dir.path().join("copy"), &file);
        }
        std::fs::write(&file, &bytes).expect("a file");
    }
    restore(&backup, dir.path().join("copy"), true).expect("it is whole again");
    assert!(files_of(&dir.path().join("copy")).is_empty(), "a dry run");
    restore(&backup, dir.path().join("copy"), false).expect("it is whole again");
}

fn refused(backup: &Path, copy: &Path, file: &Path) {
    for dry_run in [true, false] {
        let refused = restore(backup, copy, dry_run).expect_err("it has changed");
        assert!(
            refused.is(codes::BAD_BACKUP),
            "{}: {refused:?}",
            file.display()
        );
        assert!(files_of(copy).is_empty(), "something was left");
    }
}

fn files_of(dir: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(dir).into_iter().flatten();
    files.filter_map(|file| Some(file.ok()?.path())).collect()
}
