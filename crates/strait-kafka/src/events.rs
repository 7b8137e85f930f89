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

const LAYERED: Offer = Offer::Layered("kept by the members, in the metadata of their commits");

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

    fn not_yet<T: Send + 'static>(&self, what: &'static str) -> Fut<Result<T>> {
        self.refuse(
            what,
            "the embedded engine does; or read the topic of the dead letters with Kafka's tools",
        )
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
        Caps {
            durability: self.shared.probed.read().durability,
            dense_offsets: Offer::Refused("offsets grow, with gaps where transactions ended"),
            atomic_batches: Offer::Refused(
                "a batch is sent as one, but a fault in between may leave its beginning: use batches of one message",
            ),
            stored_bytes: Offer::Refused("the brokers' own tools: kafka-log-dirs"),
            groups: Offer::Native,
            whereabouts: Offer::Refused("the brokers' own tools: kafka-dump-log"),
            key_order: LAYERED,
            by_time: Offer::Native,
            by_key: Offer::Layered("a scan of the key's partition"),
            expected_position: Offer::Refused("the embedded engine for event sourcing"),
            expected_key_version: Offer::Refused("the embedded engine for event sourcing"),
            dedupe: Offer::Refused(
                "the producer is idempotent within a session; be idempotent by id",
            ),
            atomic_effects: Offer::Native,
            ledger: Offer::Refused("be idempotent by id, or keep the ledger at the sink"),
            fencing: LAYERED,
            lease_extension: LAYERED,
            parking: LAYERED,
            dead_letters: Offer::Layered("a topic of their own, `TOPIC.GROUP.dead`"),
            redrive: Offer::Refused(
                "read the topic of the dead letters, and send what is to run again",
            ),
            edit_dead: Offer::Refused("send a message of your own"),
            set_aside: Offer::Refused("let the handler give it up (`.or_dead()`)"),
            hold_key: Offer::Refused("let keys go on after a dead letter (continue)"),
            alter_group: Offer::Refused("change what members declare, or stop them"),
            completed_ranges: Offer::Layered("in the metadata of the commit: 4 KiB"),
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

    fn join(&self, group: GroupSpec) -> Fut<Result<Consumer>> {
        ask!(self, shared => shared.join(group))
    }

    fn groups(&self) -> Fut<Result<Vec<GroupInfo>>> {
        ask!(self, shared => async { shared.groups().await })
    }

    fn group(&self, group: Name, topic: Name) -> Fut<Result<GroupInfo>> {
        ask!(self, shared => async { shared.group(&group, &topic).await })
    }

    fn whereabouts(&self, _: Name, _: u32, _: Position) -> Fut<Result<Whereabouts>> {
        self.refuse(
            "Kafka does not tell in which file a message lies",
            "kafka-dump-log on the broker",
        )
    }

    fn alter_group(&self, _: Name, _: Name, _: GroupChange) -> Fut<Result<GroupInfo>> {
        self.not_yet("a group on Kafka takes no settings of operators")
    }

    fn seek(&self, seek: Seek) -> Fut<Result<Position>> {
        ask!(self, shared => async { shared.seek(seek).await })
    }

    fn delete_group(&self, group: Name, topic: Name) -> Fut<Result<()>> {
        ask!(self, shared => async { shared.delete_group(group, topic).await })
    }

    fn dead_letters(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
        from: u64,
        limit: usize,
    ) -> Fut<Result<Vec<DeadLetter>>> {
        ask!(self, shared => async { shared.dead_letters(group, topic, filter, from, limit).await })
    }

    fn dead_summary(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
    ) -> Fut<Result<Vec<DeadSummary>>> {
        ask!(self, shared => async { shared.dead_summary(group, topic, filter).await })
    }

    fn edit_dead(&self, _: EditDead) -> Fut<Result<()>> {
        self.not_yet("dead letters on Kafka cannot be edited")
    }

    fn remove_dead(&self, remove: RemoveDead) -> Fut<Result<u64>> {
        ask!(self, shared => async { shared.remove_dead(remove).await })
    }

    fn redrive(&self, _: Redrive) -> Fut<Result<Redriven>> {
        self.not_yet("dead letters on Kafka cannot be redriven")
    }

    fn undo_redrive(&self, _: UndoRedrive) -> Fut<Result<Undone>> {
        self.not_yet("dead letters on Kafka cannot be redriven")
    }

    fn set_aside(&self, _: SetAside) -> Fut<Result<u64>> {
        self.not_yet("a message on Kafka cannot be set aside")
    }
}
