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
        Caps {
            durability: *self.shared.durability.read(),
            dense_offsets: Offer::Refused("positions are stream ids"),
            atomic_batches: Offer::Native,
            stored_bytes: Offer::Layered("the server's estimate of the stream's memory"),
            groups: Offer::Layered("leases of partitions in hashes, by scripts"),
            whereabouts: Offer::Refused("`redis-cli XRANGE` of the stream"),
            key_order: Offer::Layered("kept by the owner of the partition"),
            by_time: Offer::Layered("a scan; stream ids begin with the time of the append"),
            by_key: Offer::Layered("a scan of the key's partition"),
            expected_position: Offer::Layered("a script for each batch"),
            expected_key_version: Offer::Refused("the embedded engine for event sourcing"),
            dedupe: Offer::Layered("a script for each batch, and a key for each id"),
            atomic_effects: Offer::Layered("one script for each unit"),
            ledger: Offer::Layered("a script for each claim, and a hash for each key"),
            fencing: Offer::Layered("a token that each script checks"),
            lease_extension: Offer::Native,
            parking: Offer::Layered("a hash of what comes again"),
            dead_letters: Offer::Layered("a stream for each group"),
            redrive: Offer::Layered("a hash of what came back, for each partition"),
            edit_dead: Offer::Layered("a hash of changed copies"),
            set_aside: Offer::Layered(
                "a script; forced, it takes the partition from its owner for a moment",
            ),
            hold_key: Offer::Layered("a hash of the keys that are held"),
            alter_group: Offer::Layered("a field of the group's hash"),
            completed_ranges: Offer::Layered("a hash of ranges"),
            retention_age: Offer::Layered("trimmed every 10 s while an engine is open"),
            retention_bytes: Offer::Layered(
                "trimmed every 10 s, by the server's estimate of the stream's memory",
            ),
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

    fn join(&self, group: GroupSpec) -> Fut<Result<Consumer>> {
        ask!(self, shared => shared.clone().join(group))
    }

    fn groups(&self) -> Fut<Result<Vec<GroupInfo>>> {
        ask!(self, shared => shared.groups())
    }

    fn group(&self, group: Name, topic: Name) -> Fut<Result<GroupInfo>> {
        ask!(self, shared => shared.group(&group, &topic))
    }

    fn whereabouts(&self, _: Name, _: u32, _: Position) -> Fut<Result<Whereabouts>> {
        self.refuse(
            "Redis keeps messages in memory, not at a place in a file",
            "`redis-cli XRANGE` of the stream shows it",
        )
    }

    fn alter_group(&self, group: Name, topic: Name, change: GroupChange) -> Fut<Result<GroupInfo>> {
        ask!(self, shared => shared.alter_group(&group, &topic, change))
    }

    fn seek(&self, seek: Seek) -> Fut<Result<Position>> {
        ask!(self, shared => shared.seek(seek))
    }

    fn delete_group(&self, group: Name, topic: Name) -> Fut<Result<()>> {
        ask!(self, shared => shared.delete_group(&group, &topic))
    }

    fn dead_letters(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
        from: u64,
        limit: usize,
    ) -> Fut<Result<Vec<DeadLetter>>> {
        ask!(self, shared => shared.dead_letters(&group, &topic, &filter, from, limit))
    }

    fn dead_summary(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
    ) -> Fut<Result<Vec<DeadSummary>>> {
        ask!(self, shared => shared.dead_summary(&group, &topic, &filter))
    }

    fn edit_dead(&self, edit: EditDead) -> Fut<Result<()>> {
        ask!(self, shared => shared.edit_dead(edit))
    }

    fn remove_dead(&self, remove: RemoveDead) -> Fut<Result<u64>> {
        ask!(self, shared => shared.remove_dead(remove))
    }

    fn redrive(&self, redrive: Redrive) -> Fut<Result<Redriven>> {
        ask!(self, shared => shared.redrive(redrive))
    }

    fn undo_redrive(&self, undo: UndoRedrive) -> Fut<Result<Undone>> {
        ask!(self, shared => shared.undo_redrive(undo))
    }

    fn set_aside(&self, aside: SetAside) -> Fut<Result<u64>> {
        ask!(self, shared => shared.set_aside(aside))
    }
}
