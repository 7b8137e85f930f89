//! Reading by key: how much is read for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strait_core::events::{Append, Expected, ReadKey, TopicSpec};
use strait_core::{NewRecord, Records, RecordsBuilder};
use strait_embedded::disk::SimDisk;
use strait_embedded::{Embedded, Options};

use crate::support::{block_on, events, name};
use crate::watched::{Watch, Watched};

const BATCHES: u64 = 100;
const PER_BATCH: u64 = 1000;

/// Bytes that were read.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Watch for Count {
    fn read(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

fn batch(first: u64) -> Records {
    let mut builder = RecordsBuilder::new(&[]).expect("no attributes");
    for i in first..first + PER_BATCH {
        let body = format!("{i:0100}");
        let record = NewRecord {
            key: Some(b"ada"),
            body: body.as_bytes(),
            ..NewRecord::default()
        };
        builder.push(record).expect("within the limits");
    }
    builder.build()
}

/// A long key in large batches: each batch is read once for all its records, and a page does not begin at the newest.
#[test]
fn a_long_key_is_read_batch_by_batch() {
    let read = Arc::new(Count::default());
    let disk = Arc::new(Watched::new(SimDisk::plain(1 << 30), read.clone()));
    let engine = Embedded::on(disk, Options::default()).expect("an empty disk");
    block_on(async {
        let spec = TopicSpec {
            key_versions: Some(true),
            ..TopicSpec::new(name("in")).partitions(1)
        };
        events(&engine).declare(spec).await.expect("a new topic");
        let mut stored = 0;
        for i in 0..BATCHES {
            let records = batch(i * PER_BATCH);
            stored += records.bytes().len() as u64;
            let append = Append {
                topic: name("in"),
                partition: 0,
                records,
                expected: Expected::Any,
                dedupe: false,
            };
            events(&engine).append(append).await.expect("appended");
        }

        let page = async |from: u64, limit: usize| {
            let (topic, key) = (name("in"), b"ada".to_vec());
            let read = ReadKey {
                topic,
                key,
                from,
                limit,
            };
            let page = events(&engine).read_key(read).await.expect("read");
            for (i, (version, message)) in page.iter().enumerate() {
                assert_eq!(*version, from + i as u64);
                let body = format!("{:0100}", version - 1);
                assert_eq!(message.record().body(), body.as_bytes());
            }
            page.len() as u64
        };
        let before = read.0.load(Ordering::Relaxed);
        let all = page(1, usize::MAX).await;
        assert_eq!(all, BATCHES * PER_BATCH);
        let whole = read.0.load(Ordering::Relaxed) - before;
        assert!(whole < 3 * stored, "{whole} bytes read of {stored}");

        let before = read.0.load(Ordering::Relaxed);
        let (mut from, mut pages) = (1, 0);
        loop {
            let found = page(from, 500).await;
            if found == 0 {
                break;
            }
            from += found;
            pages += 1;
        }
        assert_eq!(from - 1, BATCHES * PER_BATCH);
        let paged = read.0.load(Ordering::Relaxed) - before;
        // Every page takes the batch or two in which it lies, and the versions of their records.
        let most = pages * 4 * stored / BATCHES + whole;
        assert!(paged < most, "{paged} bytes read in {pages} pages");
    });
}
