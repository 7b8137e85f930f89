//! The events lane over a connection.

use strait_core::events::{
    Append, Caps, Cursor, DeadFilter, DeadLetter, DeadSummary, EditDead, Events, GroupChange,
    GroupInfo, GroupSpec, KeyVersion, ReadKey, Redrive, Redriven, RemoveDead, Seek, SetAside,
    Start, TopicChange, TopicInfo, TopicSpec, UndoRedrive, Undone, Whereabouts,
};
use strait_core::{Chunk, Consumer, Fut, Message, Name, Position, Result, Sent};

use super::Client;
use super::link::Effects;
use crate::frame::{PAYLOAD_MAX, kind};
use crate::wire::{DeadLettersOf, KeyMessages, Out, Wire};

/// What a batch may not fill of a frame: the fields of its append beside it.
const APPEND_FIELDS: usize = 4096;

/// The events lane of the engine at the other end.
#[derive(Debug)]
pub(super) struct RemoteEvents {
    pub(super) client: Client,
    pub(super) caps: Caps,
}

impl RemoteEvents {
    fn call<T: Wire + Send + 'static>(
        &self,
        kind: u8,
        effects: Effects,
        request: &impl Wire,
    ) -> Fut<Result<T>> {
        self.client.call(kind, effects, request)
    }
}

impl Events for RemoteEvents {
    fn caps(&self) -> Caps {
        Caps {
            max_batch: self.caps.max_batch.min(PAYLOAD_MAX - APPEND_FIELDS),
            ..self.caps.clone()
        }
    }

    fn declare(&self, topic: TopicSpec) -> Fut<Result<TopicInfo>> {
        self.call(kind::DECLARE, Effects::Repeatable, &topic)
    }

    fn alter(&self, topic: Name, change: TopicChange) -> Fut<Result<TopicInfo>> {
        self.call(kind::ALTER, Effects::Once, &(topic, change))
    }

    fn delete(&self, topic: Name) -> Fut<Result<()>> {
        self.call(kind::DELETE, Effects::Once, &topic)
    }

    fn topics(&self) -> Fut<Result<Vec<TopicInfo>>> {
        self.call(kind::TOPICS, Effects::None, &())
    }

    fn topic(&self, topic: Name) -> Fut<Result<TopicInfo>> {
        self.call(kind::TOPIC, Effects::None, &topic)
    }

    fn append(&self, append: Append) -> Fut<Result<Sent>> {
        let effects = if append.dedupe {
            Effects::Repeatable
        } else {
            Effects::Once
        };
        let payload = Out::of(&append);
        let client = self.client.clone();
        Box::pin(async move {
            let link = client.link.clone();
            // Without a wait where there is room: appends keep the order in which they were first polled.
            let _permit = match link.try_permit(payload.len()) {
                Some(permit) => permit,
                None => link.permit(payload.len()).await,
            };
            link.call(kind::APPEND, effects, payload).await
        })
    }

    fn read(&self, cursor: Cursor, max_bytes: usize) -> Fut<Result<Chunk>> {
        let request = (cursor, max_bytes.min(PAYLOAD_MAX));
        self.call(kind::READ, Effects::None, &request)
    }

    fn locate(&self, topic: Name, partition: u32, start: Start) -> Fut<Result<Position>> {
        self.call(kind::LOCATE, Effects::None, &(topic, (partition, start)))
    }

    fn read_key(&self, read: ReadKey) -> Fut<Result<Vec<(KeyVersion, Message)>>> {
        let messages = self.call::<KeyMessages>(kind::READ_KEY, Effects::None, &read);
        Box::pin(async move { messages.await.map(|messages| messages.0) })
    }

    fn join(&self, group: GroupSpec) -> Fut<Result<Consumer>> {
        Box::pin(self.client.clone().open(group))
    }

    fn groups(&self) -> Fut<Result<Vec<GroupInfo>>> {
        self.call(kind::GROUPS, Effects::None, &())
    }

    fn group(&self, group: Name, topic: Name) -> Fut<Result<GroupInfo>> {
        self.call(kind::GROUP, Effects::None, &(group, topic))
    }

    fn seek(&self, seek: Seek) -> Fut<Result<Position>> {
        self.call(kind::SEEK, Effects::Once, &seek)
    }

    fn alter_group(&self, group: Name, topic: Name, change: GroupChange) -> Fut<Result<GroupInfo>> {
        let request = ((group, topic), change);
        self.call(kind::ALTER_GROUP, Effects::Repeatable, &request)
    }

    fn delete_group(&self, group: Name, topic: Name) -> Fut<Result<()>> {
        self.call(kind::DELETE_GROUP, Effects::Once, &(group, topic))
    }

    fn dead_letters(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
        from: u64,
        limit: usize,
    ) -> Fut<Result<Vec<DeadLetter>>> {
        let request = DeadLettersOf {
            group,
            topic,
            filter,
            from,
            limit,
        };
        self.call(kind::DEAD_LETTERS, Effects::None, &request)
    }

    fn dead_summary(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
    ) -> Fut<Result<Vec<DeadSummary>>> {
        let request = ((group, topic), filter);
        self.call(kind::DEAD_SUMMARY, Effects::None, &request)
    }

    fn edit_dead(&self, edit: EditDead) -> Fut<Result<()>> {
        self.call(kind::EDIT_DEAD, Effects::Repeatable, &edit)
    }

    fn remove_dead(&self, remove: RemoveDead) -> Fut<Result<u64>> {
        self.call(kind::REMOVE_DEAD, effects(remove.dry_run), &remove)
    }

    fn redrive(&self, redrive: Redrive) -> Fut<Result<Redriven>> {
        self.call(kind::REDRIVE, effects(redrive.dry_run), &redrive)
    }

    fn undo_redrive(&self, undo: UndoRedrive) -> Fut<Result<Undone>> {
        self.call(kind::UNDO_REDRIVE, effects(undo.dry_run), &undo)
    }

    fn whereabouts(
        &self,
        topic: Name,
        partition: u32,
        position: Position,
    ) -> Fut<Result<Whereabouts>> {
        let request = (topic, (partition, position));
        self.call(kind::WHEREABOUTS, Effects::None, &request)
    }

    fn set_aside(&self, aside: SetAside) -> Fut<Result<u64>> {
        self.call(kind::SET_ASIDE, Effects::Once, &aside)
    }
}

/// What the request for a plan, or for what it says, leaves behind.
fn effects(dry_run: bool) -> Effects {
    if dry_run {
        Effects::None
    } else {
        Effects::Once
    }
}
