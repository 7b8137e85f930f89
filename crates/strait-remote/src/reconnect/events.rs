//! The events lane over an engine that may be lost meanwhile.

use strait_core::events::{
    Append, Caps, Cursor, DeadFilter, DeadLetter, DeadSummary, EditDead, Events, GroupChange,
    GroupInfo, GroupSpec, KeyVersion, ReadKey, Redrive, Redriven, RemoveDead, Seek, SetAside,
    Start, TopicChange, TopicInfo, TopicSpec, UndoRedrive, Undone, Whereabouts,
};
use strait_core::{Chunk, Consumer, Fut, Message, Name, Position, Result, Sent};

use super::{Reconnect, consumer};
use crate::client::Effects;

#[derive(Debug)]
pub(super) struct ReconnectEvents {
    pub(super) engine: Reconnect,
    pub(super) caps: Caps,
}

impl ReconnectEvents {
    /// Calls, again if need be.
    fn again<T, F>(&self, effects: Effects, call: F) -> Fut<Result<T>>
    where
        T: Send + 'static,
        F: Fn(&dyn Events) -> Fut<Result<T>> + Send + Sync + 'static,
    {
        if let Some(current) = self.engine.local()
            && let Ok(events) = current.events()
        {
            return call(&**events);
        }
        let engine = self.engine.clone();
        Box::pin(engine.again(effects, move |current| Ok(call(&**current.events()?))))
    }
}

impl Events for ReconnectEvents {
    fn caps(&self) -> Caps {
        self.caps.clone()
    }

    fn declare(&self, topic: TopicSpec) -> Fut<Result<TopicInfo>> {
        self.again(Effects::Repeatable, move |events| {
            events.declare(topic.clone())
        })
    }

    fn alter(&self, topic: Name, change: TopicChange) -> Fut<Result<TopicInfo>> {
        self.again(Effects::Once, move |events| {
            events.alter(topic.clone(), change.clone())
        })
    }

    fn delete(&self, topic: Name) -> Fut<Result<()>> {
        self.again(Effects::Once, move |events| events.delete(topic.clone()))
    }

    fn topics(&self) -> Fut<Result<Vec<TopicInfo>>> {
        self.again(Effects::None, |events| events.topics())
    }

    fn topic(&self, topic: Name) -> Fut<Result<TopicInfo>> {
        self.again(Effects::None, move |events| events.topic(topic.clone()))
    }

    fn append(&self, append: Append) -> Fut<Result<Sent>> {
        if let Some(current) = self.engine.local()
            && let Ok(events) = current.events()
        {
            return events.append(append);
        }
        Box::pin(self.engine.clone().append_again(append))
    }

    fn read(&self, cursor: Cursor, max_bytes: usize) -> Fut<Result<Chunk>> {
        self.again(Effects::None, move |events| {
            events.read(cursor.clone(), max_bytes)
        })
    }

    fn locate(&self, topic: Name, partition: u32, start: Start) -> Fut<Result<Position>> {
        self.again(Effects::None, move |events| {
            events.locate(topic.clone(), partition, start)
        })
    }

    fn read_key(&self, read: ReadKey) -> Fut<Result<Vec<(KeyVersion, Message)>>> {
        self.again(Effects::None, move |events| events.read_key(read.clone()))
    }

    fn join(&self, group: GroupSpec) -> Fut<Result<Consumer>> {
        if let Some(current) = self.engine.local()
            && let Ok(events) = current.events()
        {
            return events.join(group);
        }
        Box::pin(consumer::join(self.engine.clone(), group))
    }

    fn groups(&self) -> Fut<Result<Vec<GroupInfo>>> {
        self.again(Effects::None, |events| events.groups())
    }

    fn group(&self, group: Name, topic: Name) -> Fut<Result<GroupInfo>> {
        self.again(Effects::None, move |events| {
            events.group(group.clone(), topic.clone())
        })
    }

    fn seek(&self, seek: Seek) -> Fut<Result<Position>> {
        self.again(Effects::Once, move |events| events.seek(seek.clone()))
    }

    fn alter_group(&self, group: Name, topic: Name, change: GroupChange) -> Fut<Result<GroupInfo>> {
        self.again(Effects::Repeatable, move |events| {
            events.alter_group(group.clone(), topic.clone(), change.clone())
        })
    }

    fn delete_group(&self, group: Name, topic: Name) -> Fut<Result<()>> {
        self.again(Effects::Once, move |events| {
            events.delete_group(group.clone(), topic.clone())
        })
    }

    fn dead_letters(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
        from: u64,
        limit: usize,
    ) -> Fut<Result<Vec<DeadLetter>>> {
        self.again(Effects::None, move |events| {
            events.dead_letters(group.clone(), topic.clone(), filter.clone(), from, limit)
        })
    }

    fn dead_summary(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
    ) -> Fut<Result<Vec<DeadSummary>>> {
        self.again(Effects::None, move |events| {
            events.dead_summary(group.clone(), topic.clone(), filter.clone())
        })
    }

    fn edit_dead(&self, edit: EditDead) -> Fut<Result<()>> {
        self.again(Effects::Repeatable, move |events| {
            events.edit_dead(edit.clone())
        })
    }

    fn remove_dead(&self, remove: RemoveDead) -> Fut<Result<u64>> {
        self.again(Effects::Once, move |events| {
            events.remove_dead(remove.clone())
        })
    }

    fn redrive(&self, redrive: Redrive) -> Fut<Result<Redriven>> {
        self.again(Effects::Once, move |events| events.redrive(redrive.clone()))
    }

    fn undo_redrive(&self, undo: UndoRedrive) -> Fut<Result<Undone>> {
        self.again(Effects::Once, move |events| {
            events.undo_redrive(undo.clone())
        })
    }

    fn whereabouts(
        &self,
        topic: Name,
        partition: u32,
        position: Position,
    ) -> Fut<Result<Whereabouts>> {
        self.again(Effects::None, move |events| {
            events.whereabouts(topic.clone(), partition, position)
        })
    }

    fn set_aside(&self, aside: SetAside) -> Fut<Result<u64>> {
        self.again(Effects::Once, move |events| events.set_aside(aside.clone()))
    }
}
