//! A backup is a state that there was: what is restored of it is held against the engine that went on.

use std::sync::Arc;

use strait_core::events::{Cursor, Events};
use strait_core::{Engine, Kind, Position, codes};
use strait_embedded::Options;
use strait_embedded::disk::{LogOptions, SimDisk, verify};
use strait_embedded::stepped::{Stepped, restore};

use crate::places::ROOMY;
use crate::trace::note;
use crate::world::{World, poll};

impl World {
    /// Takes a backup, at times onto a disk without room, and restores it.
    pub(crate) fn back_up(&mut self) {
        self.turn();
        if self.down || self.disk.sim.is_dead() || self.short || !self.pending.is_empty() {
            return;
        }
        let room = if self.rng.one_in(4) { 20 << 10 } else { ROOMY };
        let backup = SimDisk::plain(room);
        self.latest = self.latest.max(self.wall());
        let taken = self.engine().backup(&backup);
        self.turn();
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) => {
                note!("no backup: {error}");
                let left = strait_embedded::disk::Disk::list(&backup).expect("it can be listed");
                assert!(left.is_empty(), "a failed backup left {left:?}");
                let full = error.is(codes::DISK_FULL) && room < ROOMY;
                // Of a fault that was planned.
                let faulty = error.kind() == Kind::Unexpected;
                assert!(
                    full || faulty || self.down || self.disk.sim.is_dead() || self.short,
                    "no backup: {error:?}"
                );
                return;
            }
        };
        note!("a backup: {taken:?}");
        let copy = Arc::new(SimDisk::plain(ROOMY));
        restore(&backup, &*copy).expect("the backup is whole");
        let report = verify(&*copy).expect("it can be read");
        assert!(report.faults.is_empty(), "restored: {:?}", report.faults);
        if self.down || self.disk.sim.is_dead() {
            return;
        }
        self.compare(copy);
    }

    fn compare(&mut self, copy: Arc<SimDisk>) {
        let options = Options {
            clock: self.clock.clone(),
            ..Options::default()
        };
        let log = LogOptions {
            segment_bytes: 64 << 10,
            first_segment_bytes: 16 << 10,
            reserve_bytes: 64 << 10,
            ..LogOptions::new(1, 2)
        };
        let restored = Stepped::open(copy, options, log).expect("a whole directory");
        let other = restored.engine().lanes().events.expect("the events lane");
        let own = self.events();
        assert_eq!(told(&*other), told(&*own), "what the copy has");
        for info in poll(&mut own.topics()).expect("at once").expect("listed") {
            for (partition, place) in (0..).zip(&info.partitions) {
                let mut at = place.start;
                while at < place.end {
                    let read = |events: &dyn Events| {
                        let cursor = Cursor {
                            topic: info.name.clone(),
                            partition,
                            position: at,
                            wait: std::time::Duration::ZERO,
                        };
                        let chunk = poll(&mut events.read(cursor, 1 << 20)).expect("at once");
                        let chunk = chunk.expect("it can be read");
                        let items: Vec<(Position, Vec<u8>)> = chunk
                            .iter()
                            .map(|item| (item.position(), item.record().body().to_vec()))
                            .collect();
                        (items, chunk.next())
                    };
                    let (ours, next) = read(&*own);
                    assert_eq!(read(&*other), (ours, next), "{} at {at}", info.name);
                    at = next;
                }
            }
        }
    }
}

/// Topics, positions of groups and numbers of dead letters.
fn told(events: &dyn Events) -> Vec<String> {
    let topics = poll(&mut events.topics())
        .expect("at once")
        .expect("listed");
    let groups = poll(&mut events.groups())
        .expect("at once")
        .expect("listed");
    let topics = topics.iter().map(|info| format!("{info:?}"));
    let groups = groups.iter().map(|info| {
        let shards: Vec<_> = info
            .shards
            .iter()
            .map(|shard| (shard.committed, shard.lag))
            .collect();
        format!(
            "{}/{}: {shards:?}, {} dead",
            info.group, info.topic, info.dead
        )
    });
    topics.chain(groups).collect()
}
