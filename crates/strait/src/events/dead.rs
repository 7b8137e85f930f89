//! The dead letters of a group: looked at, changed, removed, and given back to the group.

use std::fmt;

use bytes::Bytes;
use strait_core::events::{
    DeadEdit, DeadFilter, DeadLetter, DeadSummary, EditDead, Redrive, Redriven, RemoveDead,
    UndoRedrive, Undone,
};
use strait_core::{Error, Kind, Name, Result};

use super::topic::Topic;
use crate::message::Message;

/// The dead letters of a group on its topic.
///
/// ```no_run
/// # async fn example(billing: strait::Group<strait::Raw>) -> strait::Result<()> {
/// use strait::core::events::DeadFilter;
///
/// let dead = billing.dead_letters();
/// for letter in dead.list().await? {
///     println!("#{} after {} attempts: {}", letter.number, letter.attempts, letter.reason);
/// }
/// let timeouts = DeadFilter { reason: Some("timed out".to_owned()), ..DeadFilter::default() };
/// let done = dead.redrive_at(timeouts, 100).await?;   // 100 a second, in the order of their keys
/// if let Some(run) = done.run {
///     dead.undo(run).await?;                          // those that still wait are dead letters again
/// }
/// # Ok(()) }
/// ```
pub struct DeadLetters<M> {
    topic: Topic<M>,
    group: String,
}

/// Dead letters are fetched in pages of this many.
const PAGE: usize = 1000;

impl<M: Message> DeadLetters<M> {
    pub(super) fn new(topic: Topic<M>, group: &str) -> Self {
        DeadLetters {
            topic,
            group: group.to_owned(),
        }
    }

    fn of(&self) -> Result<(Name, Name)> {
        Ok((Name::new(&self.group)?, self.topic.name().clone()))
    }

    /// All of them, by number.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub async fn list(&self) -> Result<Vec<DeadLetter>> {
        self.list_of(&DeadFilter::default()).await
    }

    /// All that the filter picks, by number.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub async fn list_of(&self, filter: &DeadFilter) -> Result<Vec<DeadLetter>> {
        let mut all: Vec<DeadLetter> = Vec::new();
        loop {
            let from = all.last().map_or(0, |letter| letter.number + 1);
            let page = self.page_of(filter.clone(), from, PAGE).await?;
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
        self.page_of(DeadFilter::default(), from, limit).await
    }

    async fn page_of(
        &self,
        filter: DeadFilter,
        from: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let (group, topic) = self.of()?;
        let lane = &self.topic.inner.lane;
        lane.dead_letters(group, topic, filter, from, limit).await
    }

    /// How many there are of each error, the most frequent first.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub async fn by_error(&self, filter: DeadFilter) -> Result<Vec<DeadSummary>> {
        let (group, topic) = self.of()?;
        let lane = &self.topic.inner.lane;
        lane.dead_summary(group, topic, filter).await
    }

    /// Keeps `message` beside a dead letter: a redrive delivers it in place of the original, which is not touched. Id,
    /// headers and origin stay.
    ///
    /// # Errors
    ///
    /// `Rejected` when its key or kind is not that of the dead letter, or it is too large; `NotFound` when there is no
    /// such dead letter.
    pub async fn edit(&self, number: u64, message: &M) -> Result<()> {
        let letters = self
            .page_of(DeadFilter::numbers([number]), number, 1)
            .await?;
        let kind = letters
            .first()
            .and_then(|letter| letter.message.record().kind());
        if let (Some(wanted), Some(kind)) = (message.kind(), kind)
            && wanted != kind
        {
            let text = format!(
                "dead letter {number} is a `{kind}`, not a `{wanted}`: an edit keeps its kind"
            );
            return Err(Error::new(Kind::Rejected, text)
                .next("remove the dead letter and append a new message"));
        }
        let mut body = Vec::new();
        message.encode(&mut body)?;
        let edit = DeadEdit::Put {
            key: message.key().map(|key| key.to_vec()),
            body: Some(body.into()),
            headers: None,
        };
        self.change(number, edit).await
    }

    /// As [`edit`](Self::edit), with a body as bytes.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn edit_body(&self, number: u64, body: impl Into<Bytes>) -> Result<()> {
        let edit = DeadEdit::Put {
            key: None,
            body: Some(body.into()),
            headers: None,
        };
        self.change(number, edit).await
    }

    /// Drops the changed copy of a dead letter: a redrive delivers the original.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such dead letter.
    pub async fn drop_edit(&self, number: u64) -> Result<()> {
        self.change(number, DeadEdit::Drop).await
    }

    async fn change(&self, number: u64, edit: DeadEdit) -> Result<()> {
        let (group, topic) = self.of()?;
        let edit = EditDead {
            group,
            topic,
            number,
            edit,
            dry_run: false,
        };
        self.topic.inner.lane.edit_dead(edit).await
    }

    /// Removes those that the filter picks, for good; gives how many.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub async fn remove(&self, filter: DeadFilter) -> Result<u64> {
        let (group, topic) = self.of()?;
        let remove = RemoveDead {
            group,
            topic,
            filter,
            dry_run: false,
        };
        self.topic.inner.lane.remove_dead(remove).await
    }

    /// Brings back those with these numbers: delivered again in their original order per key, attempts from 1. Gives the
    /// number that came back.
    ///
    /// # Errors
    ///
    /// `NotFound` when one of them is not there: then none comes back.
    pub async fn redrive(&self, numbers: impl IntoIterator<Item = u64>) -> Result<u64> {
        let done = self.bring_back(DeadFilter::numbers(numbers), None).await?;
        Ok(done.count)
    }

    /// Brings back all of them, as [`redrive`](DeadLetters::redrive) does.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub async fn redrive_all(&self) -> Result<u64> {
        Ok(self.bring_back(DeadFilter::default(), None).await?.count)
    }

    /// Brings back those that the filter picks, at most `per_second` a second. While one waits for its turn, later
    /// messages of its key wait behind it.
    ///
    /// # Errors
    ///
    /// `Rejected` for a rate of 0, what the engine says.
    pub async fn redrive_at(&self, filter: DeadFilter, per_second: u32) -> Result<Redriven> {
        self.bring_back(filter, Some(per_second)).await
    }

    async fn bring_back(&self, filter: DeadFilter, per_second: Option<u32>) -> Result<Redriven> {
        let (group, topic) = self.of()?;
        let redrive = Redrive {
            per_second,
            ..Redrive::new(group, topic, filter)
        };
        self.topic.inner.lane.redrive(redrive).await
    }

    /// Takes a redrive back: what it brought back and still waits is dead again, as it was.
    ///
    /// # Errors
    ///
    /// `NotFound` when the engine does not know the run.
    pub async fn undo(&self, run: u64) -> Result<Undone> {
        let (group, topic) = self.of()?;
        let undo = UndoRedrive {
            group,
            topic,
            run,
            dry_run: false,
        };
        self.topic.inner.lane.undo_redrive(undo).await
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
