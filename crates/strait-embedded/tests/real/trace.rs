//! Every acknowledgement is preceded by an fdatasync that covers its bytes.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;
use strait_core::events::{Durability, GroupSpec, Start};
use strait_core::{Arrival, Engine, Outcome, Outgoing, Unit, Verdict};
use strait_embedded::disk::RealDisk;
use strait_embedded::{Embedded, Options};

use crate::support::{append, append_of, block_on, declare, events, name};
use crate::watched::{Watch, Watched};

const MARK: &[u8] = b"<mark ";

fn mark(number: u32) -> String {
    format!("<mark {number:08}>")
}

/// The marks in some bytes.
fn marks(bytes: &[u8]) -> impl Iterator<Item = u32> {
    let at = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(MARK));
    at.filter_map(|at| {
        let digits = bytes.get(at + MARK.len()..at + MARK.len() + 8)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    })
}

/// Which marks are written where, and which are durable.
#[derive(Debug, Default)]
struct Ledger {
    written: HashMap<usize, BTreeSet<u32>>,
    durable: BTreeSet<u32>,
}

impl Watch for Mutex<Ledger> {
    fn wrote(&self, file: usize, parts: &[IoSlice<'_>]) {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let mut ledger = self.lock();
        let written = ledger.written.entry(file).or_default();
        written.extend(marks(&bytes));
    }

    fn sync(&self, file: usize, sync: &dyn Fn() -> io::Result<()>) -> io::Result<()> {
        // What is written while it runs is not covered.
        let covered = self.lock().written.remove(&file);
        sync()?;
        self.lock().durable.extend(covered.unwrap_or_default());
        Ok(())
    }
}

/// Appends from many tasks and settles with effects; gives the acknowledged marks that were not durable by then.
fn acknowledged_too_early(durability: Durability) -> Vec<u32> {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let disk = RealDisk::open(dir.path()).expect("a disk");
    let disk = Watched::new(disk, ledger.clone());
    let options = Options {
        durability,
        segment_bytes: 1 << 20,
        ..Options::default()
    };
    let engine = Embedded::on(Arc::new(disk), options).expect("an empty directory");
    let early = Arc::new(Mutex::new(Vec::new()));
    let acked = {
        let early = early.clone();
        move |number: u32| {
            if !ledger.lock().durable.contains(&number) {
                early.lock().push(number);
            }
        }
    };
    block_on(async {
        declare(&engine, "in", 1).await;
        declare(&engine, "out", 1).await;
        let tasks = (0..8u32).map(|task| {
            let (engine, acked) = (engine.clone(), acked.clone());
            tokio::spawn(async move {
                for number in (0..100).map(|i| task * 1000 + i) {
                    let body = format!("{}{}", mark(number), "x".repeat(3000));
                    append(&engine, "in", 0, body.as_bytes())
                        .await
                        .expect("appended");
                    acked(number);
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("a task that does not panic");
        }
        settle_all(&engine, &acked).await;
    });
    drop(engine);
    let early = early.lock();
    early.clone()
}

/// Each message is retried once, with its mark in the reason, and then settled with an effect that bears another.
async fn settle_all(engine: &Embedded, acked: &impl Fn(u32)) {
    let spec = GroupSpec {
        start: Start::Earliest,
        ..GroupSpec::new(name("group"), name("in"))
    };
    let mut consumer = events(engine).join(spec).await.expect("a member");
    let mut left = 800;
    while left > 0 {
        let (receipts, again) = match consumer.next(50, 1 << 20).await.expect("messages") {
            Arrival::Run(_, receipt) => (vec![receipt], false),
            Arrival::Each(deliveries) => (
                deliveries
                    .into_iter()
                    .map(|delivery| delivery.receipt)
                    .collect(),
                true,
            ),
            _ => continue,
        };
        for receipt in receipts {
            let number =
                receipt.fence().first.offset() as u32 + if again { 20_000 } else { 10_000 };
            let count = receipt.count();
            let unit = if again {
                let append = append_of("out", 0, mark(number).as_bytes());
                let send = Outgoing::Append {
                    topic: append.topic,
                    partition: 0,
                    records: append.records,
                    expected: append.expected,
                    dedupe: false,
                };
                left -= 1;
                Unit {
                    send: vec![send],
                    ..Unit::settle(receipt, Verdict::Done)
                }
            } else {
                let retry = Verdict::Retry {
                    after: std::time::Duration::ZERO,
                    reason: mark(number).into(),
                    counts: true,
                };
                assert!(count > 0);
                Unit::settle(receipt, retry)
            };
            let outcome = engine.commit(vec![unit]).await.remove(0);
            assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
            acked(number);
        }
    }
}

#[test]
fn an_acknowledgement_follows_the_fdatasync_that_covers_it() {
    let early = acknowledged_too_early(Durability::Fsynced);
    assert!(early.is_empty(), "acknowledged and not durable: {early:?}");
}

/// The same check must fail where acknowledgements do not wait for the disk, or it could not fail at all.
#[test]
fn without_fsync_the_trace_shows_it() {
    let early = acknowledged_too_early(Durability::Os);
    assert!(early.len() > 100, "only {early:?} were not durable");
}
