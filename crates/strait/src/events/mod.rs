//! The events lane, typed: topics that keep what happened, in order per key, for many readers.

mod append;
mod dead;
mod group;
mod read;
mod topic;

pub(crate) use append::Attrs;
pub use append::{AppendAll, AppendOne, Appended, HeaderValue};
pub use dead::DeadLetters;
pub use group::Group;
pub use read::{Event, KeyReader, Reader};
pub use topic::{Topic, TopicBuilder};

use strait_core::events::TopicInfo;
use strait_core::{Name, Result};

use crate::message::Message;
use crate::open::Strait;

/// The events lane of a [`Strait`].
#[derive(Debug, Clone)]
pub struct Events {
    strait: Strait,
}

impl Events {
    pub(crate) fn new(strait: Strait) -> Self {
        Events { strait }
    }

    /// A topic for messages of type `M`. Await the builder: the topic is created, or checked to have the settings named
    /// here.
    ///
    /// ```no_run
    /// # use strait::{Message, Retention};
    /// # use serde::{Serialize, Deserialize};
    /// # #[derive(Message, Serialize, Deserialize)]
    /// # #[message("order.placed.v1", key = order)]
    /// # struct OrderPlaced { order: u64 }
    /// # async fn example(strait: strait::Strait) -> strait::Result<()> {
    /// let orders = strait.events().topic::<OrderPlaced>("orders")
    ///     .partitions(12)
    ///     .retention(Retention { age: Some(strait::days(30)), bytes: None })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn topic<M: Message>(&self, name: &str) -> TopicBuilder<M> {
        TopicBuilder::new(self.strait.clone(), name)
    }

    /// All topics, by name; of each engine those that live there, where there are several.
    ///
    /// # Errors
    ///
    /// `Unsupported` without an events lane; what the engine says.
    pub async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let mut topics = Vec::new();
        let others = self.strait.others().map(|(_, strait)| strait);
        for strait in [&self.strait].into_iter().chain(others) {
            let id = strait.engine().id();
            let there = strait.events_lane()?.topics().await?;
            let lives_there = |topic: &TopicInfo| self.strait.at(&topic.name).engine().id() == id;
            topics.extend(there.into_iter().filter(lives_there));
        }
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Deletes a topic with all its messages and its groups' positions. Irreversible.
    ///
    /// # Errors
    ///
    /// `NotFound` (`no_such_topic`), `Rejected` for what is no name, what the engine says.
    pub async fn delete(&self, topic: &str) -> Result<()> {
        let lane = self.strait.at(topic).events_lane()?;
        lane.delete(Name::new(topic)?).await
    }
}
