//! A consumer group: its state, and where handlers are attached.

use std::fmt;

use strait_core::events::{GroupChange, GroupInfo, Override, Seek, SetAside, Start};
use strait_core::{Name, Position, Result};

use super::dead::DeadLetters;
use super::topic::Topic;
use crate::message::Message;

/// A consumer group on a topic: its members share the partitions, each message is handled by one of them.
pub struct Group<M> {
    pub(crate) topic: Topic<M>,
    pub(crate) name: String,
}

impl<M: Message> Group<M> {
    pub(super) fn new(topic: Topic<M>, name: &str) -> Self {
        Group {
            topic,
            name: name.to_owned(),
        }
    }

    /// The topic.
    pub fn topic(&self) -> &Topic<M> {
        &self.topic
    }

    /// How the group is: members, lag, parked and dead messages.
    ///
    /// # Errors
    ///
    /// `NotFound` (`no_such_group`) before its first member joined, what the engine says.
    pub async fn info(&self) -> Result<GroupInfo> {
        let name = Name::new(&self.name)?;
        self.topic
            .inner
            .lane
            .group(name, self.topic.name().clone())
            .await
    }

    /// Moves the group's position on one partition.
    ///
    /// # Errors
    ///
    /// `Conflict` while members are live, what the engine says.
    pub async fn seek(&self, partition: u32, to: Start) -> Result<Position> {
        let seek = Seek {
            group: Name::new(&self.name)?,
            topic: self.topic.name().clone(),
            partition,
            to,
            force: false,
        };
        self.topic.inner.lane.seek(seek).await
    }

    /// Pauses the group, over all its members and restarts, until [`resume`](Group::resume). Members stay joined and keep
    /// their partitions; what they have is finished, nothing more is delivered. Pausing it again only changes the reason.
    ///
    /// # Errors
    ///
    /// `NotFound` (`no_such_group`), `Rejected` without a reason or with one of more than 1,000 bytes.
    pub async fn pause(&self, reason: &str) -> Result<GroupInfo> {
        self.alter(GroupChange {
            pause: Override::Set(reason.into()),
            ..GroupChange::default()
        })
        .await
    }

    /// Ends a pause; nothing when it is not paused.
    ///
    /// # Errors
    ///
    /// `NotFound` (`no_such_group`), what the engine says.
    pub async fn resume(&self) -> Result<GroupInfo> {
        self.alter(GroupChange {
            pause: Override::Lift,
            ..GroupChange::default()
        })
        .await
    }

    /// Sets what holds over what members declare, until it is lifted.
    ///
    /// # Errors
    ///
    /// `NotFound` (`no_such_group`), `Rejected` when a member could not declare it either.
    pub async fn alter(&self, change: GroupChange) -> Result<GroupInfo> {
        let name = Name::new(&self.name)?;
        let topic = self.topic.name().clone();
        self.topic.inner.lane.alter_group(name, topic, change).await
    }

    /// Puts a message that is not settled to the dead letters, with this reason; gives its number there. With `force`
    /// also while it is out with a member, which finds its receipt fenced.
    ///
    /// # Errors
    ///
    /// `Conflict` when it is settled, or out and not forced; `NotFound` when there is no such message.
    pub async fn set_aside(
        &self,
        partition: u32,
        position: Position,
        reason: &str,
        force: bool,
    ) -> Result<u64> {
        let aside = SetAside {
            group: Name::new(&self.name)?,
            topic: self.topic.name().clone(),
            partition,
            position,
            reason: reason.into(),
            force,
            dry_run: false,
        };
        self.topic.inner.lane.set_aside(aside).await
    }

    /// The messages that the group gave up.
    pub fn dead_letters(&self) -> DeadLetters<M> {
        DeadLetters::new(self.topic.clone(), &self.name)
    }
}

impl<M> Clone for Group<M> {
    fn clone(&self) -> Self {
        Group {
            topic: self.topic.clone(),
            name: self.name.clone(),
        }
    }
}

impl<M> fmt::Debug for Group<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({} on {:?})", self.name, self.topic)
    }
}
