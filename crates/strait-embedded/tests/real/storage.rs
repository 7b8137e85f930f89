//! What the engine says of its storage is what the file system says, and its forecast follows what is stored.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use strait_core::{Clock, Engine, Storage, Timestamp};
use strait_embedded::{Embedded, Options};

use crate::support::{append, block_on, declare, events, name, open};

/// Its time is moved by hand.
#[derive(Debug, Default)]
struct Hand(AtomicU64);

impl Hand {
    fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

async fn storage(engine: &Embedded) -> Storage {
    engine.storage().await.expect("a directory is measured")
}

/// As `du` does.
fn blocks(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).expect("the directory");
    let files = files.filter_map(|file| file.ok()?.metadata().ok());
    files.map(|file| file.blocks() * 512).sum()
}

#[test]
fn the_used_bytes_are_those_of_the_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    let engine = open(&dir).expect("an empty directory");
    let found = block_on(async {
        declare(&engine, "in", 1).await;
        for _ in 0..50 {
            append(&engine, "in", 0, &[b'x'; 50_000])
                .await
                .expect("appended");
        }
        // Until no file is made or removed between the two.
        for _ in 0..1_000 {
            let (before, said, after) = (blocks(&dir), storage(&engine).await, blocks(&dir));
            if before == after {
                assert_eq!(said.used, before);
                return said;
            }
        }
        panic!("the files change and change");
    });
    assert!(found.used - found.spare >= 2_500_000, "{found:?}");
    assert!(found.free > 0, "{found:?}");
    assert_eq!((found.growth, found.full_in), (None, None), "just opened");
}

/// In memory, which holds just so much: 100 kB come every 10 s, then nothing, then all is deleted.
#[test]
fn the_forecast_follows_what_is_stored() {
    let clock = Arc::new(Hand::default());
    let options = Options {
        clock: clock.clone(),
        memory_bytes: 200 << 20,
        retention_every: Duration::ZERO,
        ..Options::default()
    };
    let engine = Embedded::memory(options).expect("memory");
    block_on(async {
        declare(&engine, "in", 1).await;
        storage(&engine).await;
        for _ in 0..30 {
            clock.pass(10);
            append(&engine, "in", 0, &[b'x'; 100_000])
                .await
                .expect("appended");
            storage(&engine).await;
        }
        let found = storage(&engine).await;
        let growth = found.growth.expect("five minutes are known").per_second;
        assert!((9_900..10_500).contains(&growth), "{found:?}");
        let full = found.full_in.expect("it grows").as_secs();
        let room = found.free + found.spare;
        let wanted = room / growth.unsigned_abs();
        assert!(full.abs_diff(wanted) <= 1, "{found:?}, not {wanted} s");

        // Ten minutes of rest make it slower.
        clock.pass(600);
        let later = storage(&engine).await;
        assert!(later.full_in.is_none_or(|full| full.as_secs() > wanted));

        events(&engine).delete(name("in")).await.expect("deleted");
        clock.pass(1_000);
        let gone = storage(&engine).await;
        assert_eq!(gone.full_in, None, "{gone:?}");
    });
}
