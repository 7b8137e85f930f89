//! A consumer group: its state, its dead letters, and where handlers are attached.

use std::fmt;

use strait_core::events::{DeadLetter, GroupChange, GroupInfo, Override, Redrive, Seek, Start};
use strait_core::{Name, Position, Result};

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

    /// The messages that the group gave up.
    pub fn dead_letters(&self) -> DeadLetters<M> {
        DeadLetters {
            topic: self.topic.clone(),
            group: self.name.clone(),
        }
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

/// The dead letters of a group on its topic.
///
/// ```no_run
/// # async fn example(billing: strait::Group<strait::Raw>) -> strait::Result<()> {
/// let dead = billing.dead_letters();
/// for letter in dead.list().await? {
///     println!("#{} after {} attempts: {}", letter.number, letter.attempts, letter.reason);
/// }
/// dead.redrive_all().await?;       // delivered again, in the order of their keys
/// # Ok(()) }
/// ```
pub struct DeadLetters<M> {
    topic: Topic<M>,
    group: String,
}

/// Dead letters are fetched in pages of this many.
const PAGE: usize = 1000;

impl<M: Message> DeadLetters<M> {
    /// All of them, by number.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub async fn list(&self) -> Result<Vec<DeadLetter>> {
        let mut all: Vec<DeadLetter> = Vec::new();
        loop {
            let from = all.last().map_or(0, |letter| letter.number + 1);
            let page = self.page(from, PAGE).await?;
            let last = page.len() < PAGE;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }

    /// At most `limit` of them, from number `from` on.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub async fn page(&self, from: u64, limit: usize) -> Result<Vec<DeadLetter>> {
        let (group, topic) = (Name::new(&self.group)?, self.topic.name().clone());
        self.topic
            .inner
            .lane
            .dead_letters(group, topic, from, limit)
            .await
    }

    /// Brings back those with these numbers: delivered again in their original order per key, attempts from 1. Gives the
    /// number that came back.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub async fn redrive(&self, numbers: impl IntoIterator<Item = u64>) -> Result<u64> {
        self.bring_back(Some(numbers.into_iter().collect())).await
    }

    /// Brings back all of them, as [`redrive`](DeadLetters::redrive) does.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub async fn redrive_all(&self) -> Result<u64> {
        self.bring_back(None).await
    }

    async fn bring_back(&self, numbers: Option<Vec<u64>>) -> Result<u64> {
        let redrive = Redrive {
            group: Name::new(&self.group)?,
            topic: self.topic.name().clone(),
            numbers,
        };
        self.topic.inner.lane.redrive(redrive).await
    }

    /// Reads a dead letter as the topic's type.
    ///
    /// # Errors
    ///
    /// `Rejected` (`undecodable`), which may be why it is here.
    pub fn decode(&self, letter: &DeadLetter) -> Result<M> {
        M::from_stored(&letter.message)
    }
}

impl<M> fmt::Debug for DeadLetters<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeadLetters({} on {:?})", self.group, self.topic)
    }
}
