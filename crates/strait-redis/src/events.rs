//! The events lane.

use strait_core::events::{
    Append, Caps, Cursor, DeadFilter, DeadLetter, DeadSummary, EditDead, Events, GroupChange,
    GroupInfo, GroupSpec, KeyVersion, ReadKey, Redrive, Redriven, RemoveDead, Seek, SetAside,
    Start, TopicChange, TopicInfo, TopicSpec, UndoRedrive, Undone, Whereabouts,
};
use strait_core::{Chunk, Consumer, Error, Fut, Message, Name, Offer, Position, Result, Sent};

use crate::engine::{MAX_BATCH, MAX_BODY, Redis};
use crate::fault::closed;
use crate::topics::MAX_PARTITIONS;

const NO_GROUPS: &str = "use the embedded engine for consumer groups";

impl Redis {
    /// The answer to what this engine does not do; after the close it is that.
    fn refuse<T: Send + 'static>(
        &self,
        what: &'static str,
        instead: &'static str,
    ) -> Fut<Result<T>> {
        let closed = self.shared.link.is_closed().then(closed);
        let error = closed.unwrap_or_else(|| Error::unsupported(what, instead));
        Box::pin(async move { Err(error) })
    }

    fn no_groups<T: Send + 'static>(&self) -> Fut<Result<T>> {
        self.refuse("this engine has no groups", NO_GROUPS)
    }
}

/// Runs a call of the shared part.
macro_rules! ask {
    ($self:ident, $shared:ident => $call:expr) => {{
        let $shared = $self.shared.clone();
        Box::pin(async move {
            if $shared.link.is_closed() {
                return Err(closed());
            }
            $call.await
        })
    }};
}

impl Events for Redis {
    fn caps(&self) -> Caps {
        let no_groups = Offer::Refused(NO_GROUPS);
        Caps {
            durability: *self.shared.durability.read(),
            dense_offsets: Offer::Refused("positions are stream ids"),
            atomic_batches: Offer::Native,
            stored_bytes: Offer::Refused("`redis-cli MEMORY USAGE` of the stream"),
            groups: no_groups,
            whereabouts: Offer::Refused("`redis-cli XRANGE` of the stream"),
            key_order: no_groups,
            by_time: Offer::Layered("a scan; stream ids begin with the time of the append"),
            by_key: Offer::Layered("a scan of the key's partition"),
            expected_position: Offer::Layered("a script for each batch"),
            expected_key_version: Offer::Refused("the embedded engine for event sourcing"),
            dedupe: Offer::Layered("a script for each batch, and a key for each id"),
            atomic_effects: no_groups,
            ledger: Offer::Layered("a script for each claim, and a hash for each key"),
            fencing: no_groups,
            lease_extension: no_groups,
            parking: no_groups,
            dead_letters: no_groups,
            redrive: no_groups,
            edit_dead: no_groups,
            set_aside: no_groups,
            hold_key: no_groups,
            alter_group: no_groups,
            completed_ranges: no_groups,
            retention_age: Offer::Layered("trimmed every 10 s while an engine is open"),
            retention_bytes: Offer::Refused("give a retention by age, or `XTRIM MAXLEN` yourself"),
            compaction: Offer::Refused("the embedded engine or Kafka"),
            max_body: MAX_BODY,
            max_batch: MAX_BATCH,
            max_partitions: MAX_PARTITIONS,
        }
    }

    fn declare(&self, topic: TopicSpec) -> Fut<Result<TopicInfo>> {
        ask!(self, shared => shared.declare(topic))
    }

    fn alter(&self, topic: Name, change: TopicChange) -> Fut<Result<TopicInfo>> {
        ask!(self, shared => shared.alter(&topic, change))
    }

    fn delete(&self, topic: Name) -> Fut<Result<()>> {
        ask!(self, shared => shared.delete(&topic))
    }

    fn topics(&self) -> Fut<Result<Vec<TopicInfo>>> {
        ask!(self, shared => shared.topics())
    }

    fn topic(&self, topic: Name) -> Fut<Result<TopicInfo>> {
        ask!(self, shared => shared.topic(&topic))
    }

    fn append(&self, append: Append) -> Fut<Result<Sent>> {
        ask!(self, shared => shared.append(append))
    }

    fn read(&self, cursor: Cursor, max_bytes: usize) -> Fut<Result<Chunk>> {
        ask!(self, shared => shared.read(cursor, max_bytes))
    }

    fn locate(&self, topic: Name, partition: u32, start: Start) -> Fut<Result<Position>> {
        ask!(self, shared => shared.locate(topic, partition, start))
    }

    fn read_key(&self, read: ReadKey) -> Fut<Result<Vec<(KeyVersion, Message)>>> {
        ask!(self, shared => shared.read_key(read))
    }

    fn join(&self, _: GroupSpec) -> Fut<Result<Consumer>> {
        self.no_groups()
    }

    fn groups(&self) -> Fut<Result<Vec<GroupInfo>>> {
        self.no_groups()
    }

    fn group(&self, _: Name, _: Name) -> Fut<Result<GroupInfo>> {
        self.no_groups()
    }

    fn whereabouts(&self, _: Name, _: u32, _: Position) -> Fut<Result<Whereabouts>> {
        self.refuse(
            "Redis keeps messages in memory, not at a place in a file",
            "`redis-cli XRANGE` of the stream shows it",
        )
    }

    fn alter_group(&self, _: Name, _: Name, _: GroupChange) -> Fut<Result<GroupInfo>> {
        self.no_groups()
    }

    fn seek(&self, _: Seek) -> Fut<Result<Position>> {
        self.no_groups()
    }

    fn delete_group(&self, _: Name, _: Name) -> Fut<Result<()>> {
        self.no_groups()
    }

    fn dead_letters(
        &self,
        _: Name,
        _: Name,
        _: DeadFilter,
        _: u64,
        _: usize,
    ) -> Fut<Result<Vec<DeadLetter>>> {
        self.no_groups()
    }

    fn dead_summary(&self, _: Name, _: Name, _: DeadFilter) -> Fut<Result<Vec<DeadSummary>>> {
        self.no_groups()
    }

    fn edit_dead(&self, _: EditDead) -> Fut<Result<()>> {
        self.no_groups()
    }

    fn remove_dead(&self, _: RemoveDead) -> Fut<Result<u64>> {
        self.no_groups()
    }

    fn redrive(&self, _: Redrive) -> Fut<Result<Redriven>> {
        self.no_groups()
    }

    fn undo_redrive(&self, _: UndoRedrive) -> Fut<Result<Undone>> {
        self.no_groups()
    }

    fn set_aside(&self, _: SetAside) -> Fut<Result<u64>> {
        self.no_groups()
    }
}
