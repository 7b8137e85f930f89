//! Random use of a log on a disk that fails in every way it can, against a plain model. `STRAIT_SEED=n` replays one
//! run, `STRAIT_SEEDS=n` makes the first n.

use std::collections::BTreeMap;
use std::sync::Arc;

use strait_embedded::disk::rng::Rng;
use strait_embedded::disk::sim::{Crash, SimDisk};
use strait_embedded::disk::snapshot::{SnapshotHead, SnapshotReader, SnapshotWriter, replay_bound};
use strait_embedded::disk::{
    Disk, GroupBuf, Log, LogError, LogOptions, LogPos, OpenError, Pin, Placed, identity, verify,
};

use crate::support::{Group, IDENTITY, Seen, fill, open_from, random_group};

const CAPACITY: u64 = 4 << 20;

/// What the log must hold.
#[derive(Default)]
struct Model {
    /// Groups that were written, by sequence, and whether they are acknowledged.
    groups: BTreeMap<u64, (Group, bool)>,
    /// The newest snapshot that was finished; groups up to its sequence are in it.
    snapshot: Option<SnapshotHead>,
}

impl Model {
    fn acknowledge(&mut self) {
        self.groups
            .values_mut()
            .for_each(|(_, acked)| *acked = true);
    }

    /// Checks what recovery delivered, and takes it over.
    fn check(&mut self, seed: u64, from: Option<LogPos>, seen: &[Seen], last_seq: u64) {
        let first = from.map_or(1, |from| from.seq);
        let mut delivered = 0;
        for seen in seen {
            let (group, _) = self
                .groups
                .get(&seen.seq)
                .unwrap_or_else(|| panic!("seed {seed}: sequence {} was never written", seen.seq));
            assert_eq!(
                group, &seen.group,
                "seed {seed}: sequence {} has changed",
                seen.seq
            );
            assert!(
                seen.seq > delivered && seen.seq >= first,
                "seed {seed}: out of order"
            );
            delivered = seen.seq;
        }
        let got = |seq: u64| seen.binary_search_by_key(&seq, |seen| seen.seq).is_ok();
        for (&seq, (_, acked)) in self.groups.range(first..) {
            assert!(
                got(seq) || !acked,
                "seed {seed}: acknowledged sequence {seq} is lost"
            );
            assert!(
                got(seq) || seq > delivered,
                "seed {seed}: sequence {seq} is missing before {delivered}"
            );
        }
        if let Some((&acked, _)) = self.groups.iter().rfind(|(_, (_, acked))| *acked) {
            assert!(
                last_seq >= acked,
                "seed {seed}: the log ends before {acked}"
            );
        }
        self.groups.retain(|&seq, _| seq < first || got(seq));
        self.acknowledge();
    }
}

struct Run {
    seed: u64,
    rng: Rng,
    options: LogOptions,
    sim: Arc<SimDisk>,
    disk: Arc<dyn Disk>,
    log: Log,
    model: Model,
    buf: GroupBuf,
    pins: Vec<(Pin, Placed, Group, Vec<u64>)>,
    crashes: u32,
}

fn sizes(rng: &mut Rng) -> LogOptions {
    LogOptions {
        segment_bytes: [12 << 10, 24 << 10, 48 << 10][rng.below(3) as usize],
        first_segment_bytes: 8 << 10,
        reserve_bytes: [0, 8 << 10, 12 << 10][rng.below(3) as usize],
        spares: rng.below(3) as usize,
        recycled: rng.below(4) as usize,
        ..LogOptions::new(IDENTITY, rng.next_u64())
    }
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut rng = Rng::new(seed);
        let options = sizes(&mut rng);
        let sim = Arc::new(SimDisk::faulty(CAPACITY, rng.next_u64()));
        let disk: Arc<dyn Disk> = sim.clone();
        assert_eq!(
            identity::load_or_create(&*disk, IDENTITY).unwrap(),
            IDENTITY
        );
        let (log, _, seen) = open_from(&disk, &options, None).unwrap();
        assert!(seen.is_empty());
        Run {
            seed,
            rng,
            options,
            sim,
            disk,
            log,
            model: Model::default(),
            buf: GroupBuf::new(),
            pins: Vec::new(),
            crashes: 0,
        }
    }

    fn step(&mut self) {
        if self.sim.is_dead() {
            return self.crash_and_reopen();
        }
        match self.rng.below(100) {
            0..40 => self.append(),
            40..60 => self.sync(),
            60..63 => self.seal(),
            63..75 => {
                // A failure here is the disk's: the next step finds it dead, or it is tried again.
                let _ = self.log.pool().prepare_one();
            }
            75..79 => self.release(),
            79..83 => self.snapshot(),
            83..86 => self.read_pinned(),
            86..89 => self.sim.die_at(1 + self.rng.below(12)),
            89..91 => self.sim.fail_sync(1 + self.rng.below(4)),
            91..92 => self.sim.fail_write(1 + self.rng.below(4)),
            92..94 => self
                .sim
                .set_capacity(self.sim.allocated() + self.rng.below(8 << 10)),
            94..97 => self.space_returns(),
            _ => self.crash_and_reopen(),
        }
    }

    fn append(&mut self) {
        let max_body = match self.rng.below(40) {
            0 => 60_000,
            1..4 => 9_000,
            _ => 600,
        };
        let group = random_group(&mut self.rng, max_body);
        fill(&mut self.buf, &group);
        let reserve = self.rng.one_in(3);
        let written = self.log.written_seq();
        let result = if reserve {
            self.log.append_reserve(&self.buf)
        } else {
            self.log.append(&self.buf)
        };
        match result {
            Ok(placed) => {
                assert_eq!(placed.seq, written + 1);
                assert_eq!(placed.len, self.buf.encoded_len());
                self.model.groups.insert(placed.seq, (group.clone(), false));
                if self.rng.one_in(8) {
                    let pin = self.log.pin(placed.segment).unwrap();
                    let offsets = self.buf.body_offsets().to_vec();
                    self.pins.push((pin, placed, group, offsets));
                }
            }
            Err(LogError::Full { .. }) => assert_eq!(self.log.written_seq(), written),
            Err(e) => {
                // It may have been written nevertheless.
                self.model.groups.insert(written + 1, (group, false));
                self.give_up(e);
            }
        }
    }

    fn sync(&mut self) {
        match self.log.sync() {
            Ok(()) => {
                assert_eq!(self.log.durable_seq(), self.log.written_seq());
                self.model.acknowledge();
            }
            Err(e) => self.give_up(e),
        }
    }

    fn seal(&mut self) {
        match self.log.seal() {
            Ok(()) => self.model.acknowledge(),
            Err(LogError::Full { .. }) => self.model.acknowledge(),
            Err(e) => self.give_up(e),
        }
    }

    /// After a failure the log answers nothing else until it is reopened.
    fn give_up(&mut self, error: LogError) {
        assert!(
            matches!(error, LogError::Poisoned(_)),
            "seed {}: {error}",
            self.seed
        );
        assert!(matches!(self.log.sync(), Err(LogError::Poisoned(_))));
        fill(&mut self.buf, &Group::new());
        assert!(matches!(
            self.log.append(&self.buf),
            Err(LogError::Poisoned(_))
        ));
        self.crash_and_reopen();
    }

    fn release(&mut self) {
        let Ok(Some(bound)) = replay_bound(&*self.disk, IDENTITY) else {
            return;
        };
        let mut old = self.log.pool().segments();
        old.retain(|segment| segment.id < bound.segment);
        if !old.is_empty() {
            let segment = old[self.rng.below(old.len() as u64) as usize];
            assert!(self.log.release(segment.id), "seed {}", self.seed);
        }
    }

    fn snapshot(&mut self) {
        if self.log.sync().is_err() {
            return self.crash_and_reopen();
        }
        self.model.acknowledge();
        let head = SnapshotHead {
            identity: IDENTITY,
            seq: self.log.durable_seq(),
            replay: self.log.position(),
        };
        if self
            .model
            .snapshot
            .is_some_and(|newest| newest.seq == head.seq)
        {
            return;
        }
        let written = SnapshotWriter::begin(self.disk.clone(), head).and_then(|mut writer| {
            writer.section(1, 2, head.seq, &head.seq.to_le_bytes())?;
            writer.finish()
        });
        if written.is_ok() {
            self.model.snapshot = Some(head);
        }
    }

    /// What is pinned can be read until the pin is dropped.
    fn read_pinned(&mut self) {
        let Some((_pin, placed, group, offsets)) = self.pins.pop() else {
            return;
        };
        // A released segment gives no new reader; the pin only keeps its file as it is.
        let Ok(reader) = self.log.reader(placed.segment) else {
            return;
        };
        let bodies = group.iter().flat_map(|record| &record.bodies);
        for (body, offset) in bodies.zip(offsets) {
            let mut bytes = vec![0; body.len()];
            reader
                .read_exact_at(&mut bytes, placed.offset + offset)
                .unwrap();
            assert_eq!(bytes, body[..], "seed {}", self.seed);
        }
    }

    /// A full disk is not for ever: without a restart, appends go on.
    fn space_returns(&mut self) {
        self.sim.set_capacity(CAPACITY);
        for _ in 0..8 {
            if self.log.pool().wanted() && self.log.pool().prepare_one().is_err() {
                return;
            }
        }
        assert!(self.log.has_room(), "seed {}", self.seed);
        if !self.sim.is_dead() {
            let written = self.log.written_seq();
            self.append();
            assert!(self.sim.is_dead() || self.crashes > 0 || self.log.written_seq() > written);
        }
    }

    fn crash_and_reopen(&mut self) {
        self.crashes += 1;
        self.pins.clear();
        let before = self.model.snapshot;
        loop {
            let how = match self.rng.below(8) {
                0 => Crash::AllLost,
                1 => Crash::AllKept,
                2 => Crash::LaterKept,
                3 | 4 => Crash::Process,
                _ => Crash::Random,
            };
            self.sim = Arc::new(self.sim.crash(how, &mut self.rng));
            self.disk = self.sim.clone();
            self.sim.set_capacity(CAPACITY);
            let checked = verify(&*self.disk).unwrap();
            assert!(
                checked.faults.is_empty(),
                "seed {}: {:?}",
                self.seed,
                checked.faults
            );
            match self.rng.below(6) {
                0 => self.sim.die_at(1 + self.rng.below(12)),
                1 => self.sim.fail_sync(1 + self.rng.below(3)),
                2 => self.sim.set_capacity(self.sim.allocated()),
                _ => {}
            }
            if self.reopen(before) {
                return;
            }
        }
    }

    fn reopen(&mut self, before: Option<SnapshotHead>) -> bool {
        let snapshot = match SnapshotReader::newest(&*self.disk, IDENTITY) {
            Ok(snapshot) => snapshot.map(|reader| *reader.head()),
            Err(e) => panic!("seed {}: {e}", self.seed),
        };
        let seq = |head: Option<SnapshotHead>| head.map_or(0, |head| head.seq);
        assert!(
            seq(snapshot) >= seq(before),
            "seed {}: a snapshot is lost",
            self.seed
        );
        let from = snapshot.map(|head| head.replay);
        match open_from(&self.disk, &self.options, from) {
            Ok((log, report, seen)) => {
                assert_eq!(report.last_seq, log.written_seq());
                self.model.check(self.seed, from, &seen, log.written_seq());
                self.check_places(&log, &seen);
                self.log = log;
                self.model.snapshot = snapshot;
                true
            }
            // The disk died or failed once more while it was opened.
            Err(OpenError::Io { .. }) => false,
            Err(e) => panic!("seed {}: {e}", self.seed),
        }
    }

    /// The places that recovery names hold the bodies.
    fn check_places(&self, log: &Log, seen: &[Seen]) {
        for seen in seen {
            let Ok(reader) = log.reader(seen.segment) else {
                panic!(
                    "seed {}: segment {} cannot be read",
                    self.seed, seen.segment
                );
            };
            for (at, body) in &seen.bodies_at {
                let mut bytes = vec![0; body.len()];
                match reader.read_exact_at(&mut bytes, *at) {
                    Ok(()) => assert_eq!(bytes, body[..], "seed {}", self.seed),
                    Err(_) => assert!(self.sim.is_dead()),
                }
            }
        }
    }
}

#[test]
fn every_acknowledged_group_survives_whatever_the_disk_does() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let seeds = match number("STRAIT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STRAIT_SEEDS").unwrap_or(2000),
    };
    let mut crashes = 0;
    for seed in seeds {
        let mut run = Run::new(seed);
        for _ in 0..120 {
            run.step();
        }
        run.crash_and_reopen();
        crashes += run.crashes;
    }
    assert!(crashes > 0);
}
