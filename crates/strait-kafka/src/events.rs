//! The events lane.

use strait_core::events::{
    Append, Caps, Cursor, DeadFilter, DeadLetter, DeadSummary, EditDead, Events, GroupChange,
    GroupInfo, GroupSpec, KeyVersion, ReadKey, Redrive, Redriven, RemoveDead, Seek, SetAside,
    Start, TopicChange, TopicInfo, TopicSpec, UndoRedrive, Undone, Whereabouts,
};
use strait_core::{Chunk, Consumer, Error, Fut, Message, Name, Offer, Position, Result, Sent};

use crate::engine::Kafka;
use crate::fault::closed;
use crate::topics::MAX_PARTITIONS;

const NO_GROUPS: &str = "use the embedded engine for consumer groups";

impl Kafka {
    /// The answer to what this engine does not do; after the close it is that.
    fn refuse<T: Send + 'static>(
        &self,
        what: &'static str,
        instead: &'static str,
    ) -> Fut<Result<T>> {
        let closed = self.shared.pulse.is_closed().then(closed);
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
            if $shared.pulse.is_closed() {
                return Err(closed());
            }
            $call.await
        })
    }};
}

impl Events for Kafka {
    fn caps(&self) -> Caps {
        let no_groups = Offer::Refused(NO_GROUPS);
        Caps {
            durability: self.shared.probed.read().durability,
            dense_offsets: Offer::Refused("offsets grow, with gaps where transactions ended"),
            atomic_batches: Offer::Refused(
                "a batch is sent as one, but a fault in between may leave its beginning: use batches of one message",
            ),
            stored_bytes: Offer::Refused("the brokers' own tools: kafka-log-dirs"),
            groups: no_groups,
            whereabouts: Offer::Refused("the brokers' own tools: kafka-dump-log"),
            key_order: no_groups,
            by_time: Offer::Native,
            by_key: Offer::Layered("a scan of the key's partition"),
            expected_position: Offer::Refused("the embedded engine for event sourcing"),
            expected_key_version: Offer::Refused("the embedded engine for event sourcing"),
            dedupe: Offer::Refused(
                "the producer is idempotent within a session; be idempotent by id",
            ),
            atomic_effects: no_groups,
            ledger: Offer::Refused("be idempotent by id, or keep the ledger at the sink"),
            fencing: no_groups,
            lease_extension: no_groups,
            parking: no_groups,
            dead_letters: no_groups,
            hold_key: no_groups,
            alter_group: no_groups,
            completed_ranges: no_groups,
            retention_age: Offer::Native,
            retention_bytes: Offer::Native,
            compaction: Offer::Native,
            max_body: self.shared.max_body(),
            max_batch: self.shared.max_batch(),
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
            "Kafka does not tell in which file a message lies",
            "kafka-dump-log on the broker",
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
