//! Fuzz targets: whatever the bytes are, they are read, or refused in words. `cargo test` runs them on generated input,
//! `cargo bolero test NAME -p strait-embedded` with a fuzzer.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use strait_core::events::{Append, Cursor, Events, Expected, TopicSpec};
use strait_core::{Engine, Kind, NewRecord, Position, Records, Result};
use strait_embedded::Options;
use strait_embedded::disk::rng::Rng;
use strait_embedded::disk::sim::Crash;
use strait_embedded::disk::{Disk, LogOptions, SimDisk, verify};
use strait_embedded::stepped::Stepped;

/// A batch of records that a peer sent.
#[test]
fn any_batch_of_records() {
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(records) = Records::decode(Bytes::copy_from_slice(bytes)) {
            visit(&records);
        }
    });
}

/// Batches whose checksum is right, so that everything behind it sees the bytes.
#[test]
fn any_batch_with_a_right_checksum() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let mut batch = bytes.to_vec();
        batch.resize(batch.len().max(48), 0);
        let len = batch.len() as u32;
        batch[0..4].copy_from_slice(&len.to_le_bytes());
        batch[8] = 1;
        let crc = strait_core::crc32c(&batch[8..]);
        batch[4..8].copy_from_slice(&crc.to_le_bytes());
        if let Ok(records) = Records::decode(Bytes::from(batch)) {
            visit(&records);
        }
    });
}

fn visit(records: &Records) {
    for record in records.iter() {
        let _ = (record.key(), record.body(), record.time(), record.kind());
        let _ = record.id().to_string();
        let _ = (record.headers().count(), record.attrs().count());
    }
}

/// Bits of a directory are flipped: its log, its checkpoint, an index, its identity. It opens with everything that was
/// there, or it is refused as damaged; no message is missing or another one in silence.
#[test]
fn any_flipped_bits_of_a_directory() {
    bolero::check!()
        .with_type::<Vec<(u8, u32, u8)>>()
        .for_each(|flips| {
            let disk = sample().crash(Crash::Process, &mut Rng::new(1));
            let names = disk.list().expect("a disk in memory");
            for (file, at, mask) in flips {
                let name = &names[usize::from(*file) % names.len()];
                let len = disk.open(name, strait_embedded::disk::Open::Existing);
                let len = len.and_then(|file| file.len()).expect("it is there");
                // Mostly where something is written.
                let at = u64::from(*at) % len.clamp(1, 12 << 10);
                let _ = disk.flip(name, at, *mask);
            }
            let report = verify(&disk);
            let opened = open(Arc::new(disk));
            match opened {
                Ok(stepped) => look(&stepped),
                Err(error) => {
                    let kind = error.kind();
                    assert!(matches!(kind, Kind::Corrupt | Kind::Config), "{error:?}");
                    assert!(
                        report.is_err() || report.is_ok_and(|report| !report.faults.is_empty()),
                        "{error:?}"
                    );
                }
            }
        });
}

const MESSAGES: u64 = 60;

fn body(offset: u64) -> Vec<u8> {
    vec![offset as u8; 200]
}

fn open(disk: Arc<dyn Disk>) -> Result<Stepped> {
    let log = LogOptions {
        first_segment_bytes: 8 << 10,
        segment_bytes: 8 << 10,
        reserve_bytes: 0,
        spares: 1,
        ..LogOptions::new(7, 7)
    };
    Stepped::open(disk, Options::default(), log)
}

/// A directory with segments, indexes and checkpoints, closed in order.
fn sample() -> &'static SimDisk {
    static SAMPLE: OnceLock<SimDisk> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let disk = Arc::new(SimDisk::faulty(8 << 20, 1));
        let mut stepped = open(disk.clone()).expect("an empty disk");
        let lane = lane(&stepped);
        let topic = || "in".parse().expect("a plain name");
        call(
            &mut stepped,
            lane.declare(TopicSpec::new(topic()).partitions(1)),
        )
        .expect("declared");
        for offset in 0..MESSAGES {
            let records = NewRecord {
                body: &body(offset),
                ..NewRecord::default()
            };
            let append = Append {
                topic: topic(),
                partition: 0,
                records: Records::one(&[], records).expect("a small message"),
                expected: Expected::Any,
                dedupe: true,
            };
            call(&mut stepped, lane.append(append)).expect("appended");
            if offset % 20 == 19 {
                stepped.keep();
                stepped.begin_checkpoint().expect("a checkpoint");
                stepped.finish_checkpoint().expect("a checkpoint");
            }
        }
        drop(lane);
        stepped.close();
        let names = disk.list().expect("a disk in memory");
        for kind in ["IDENTITY", "ext-", "log-", "snap-"] {
            assert!(
                names.iter().any(|name| name.starts_with(kind)),
                "no {kind} in {names:?}"
            );
        }
        disk.crash(Crash::AllLost, &mut Rng::new(1))
    })
}

fn lane(stepped: &Stepped) -> Arc<dyn Events> {
    stepped.engine().lanes().events.expect("the events lane")
}

fn poll<T>(future: &mut Pin<Box<dyn Future<Output = T> + Send>>) -> Option<T> {
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn call<T>(stepped: &mut Stepped, mut future: Pin<Box<dyn Future<Output = T> + Send>>) -> T {
    let early = poll(&mut future);
    early.unwrap_or_else(|| {
        stepped.turn();
        poll(&mut future).expect("a turn answers")
    })
}

/// Every message is itself, or is refused as damaged.
fn look(stepped: &Stepped) {
    for offset in 0..MESSAGES {
        let cursor = Cursor {
            topic: "in".parse().expect("a plain name"),
            partition: 0,
            position: Position::at(offset),
            wait: Duration::ZERO,
        };
        let read = poll(&mut lane(stepped).read(cursor, 1)).expect("reading answers at once");
        match read {
            Ok(chunk) => {
                let first = chunk
                    .iter()
                    .next()
                    .map(|item| item.record().body().to_vec());
                assert_eq!(first, Some(body(offset)), "offset {offset}");
            }
            Err(error) => assert_eq!(error.kind(), Kind::Corrupt, "offset {offset}: {error:?}"),
        }
    }
}
