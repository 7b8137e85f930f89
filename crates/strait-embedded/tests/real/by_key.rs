//! Reading by key: how much is read for it.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strait_core::events::{Append, Expected, ReadKey, TopicSpec};
use strait_core::{NewRecord, Records, RecordsBuilder};
use strait_embedded::disk::{Disk, File, Open, SimDisk};
use strait_embedded::{Embedded, Options};

use crate::support::{block_on, events, name};

const BATCHES: u64 = 100;
const PER_BATCH: u64 = 1000;

/// A disk that counts the bytes that are read.
#[derive(Debug)]
struct Counting {
    disk: SimDisk,
    read: Arc<AtomicU64>,
}

#[derive(Debug)]
struct CountingFile {
    file: Arc<dyn File>,
    read: Arc<AtomicU64>,
}

impl Disk for Counting {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(CountingFile {
            file: self.disk.open(name, how)?,
            read: self.read.clone(),
        }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

impl File for CountingFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let n = self.file.read_at(buf, pos)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        self.file.write_all_at(parts, pos)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.file.zero(range)
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
    let read = Arc::new(AtomicU64::new(0));
    let disk = Arc::new(Counting {
        disk: SimDisk::plain(1 << 30),
        read: read.clone(),
    });
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
        let before = read.load(Ordering::Relaxed);
        let all = page(1, usize::MAX).await;
        assert_eq!(all, BATCHES * PER_BATCH);
        let whole = read.load(Ordering::Relaxed) - before;
        assert!(whole < 3 * stored, "{whole} bytes read of {stored}");

        let before = read.load(Ordering::Relaxed);
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
        let paged = read.load(Ordering::Relaxed) - before;
        // Every page takes the batch or two in which it lies, and the versions of their records.
        let most = pages * 4 * stored / BATCHES + whole;
        assert!(paged < most, "{paged} bytes read in {pages} pages");
    });
}
