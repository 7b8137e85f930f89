//! Where a member begins with a shard.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use strait_core::events::Start;
use strait_core::{Position, Result, Shard};
use strait_member::{Kept, Rules, Window};

use super::{Member, MemberLink, Owned, kept};
use crate::fault::fault;

impl Owned {
    pub(super) fn new(shard: Shard, consumer: u64, epoch: u64, rules: Rules, kept: Kept) -> Self {
        let reserved = kept.low;
        Owned {
            window: Window::new(shard, consumer, epoch, rules, kept),
            epoch,
            backlog: Default::default(),
            backlog_len: 0,
            reserved,
            marking: false,
            turn: 0,
            full: false,
            held: false,
            revoking: false,
            handed_back: false,
            busy: 0,
            paused: false,
        }
    }
}

impl Member {
    /// Where these partitions begin, with the epoch of the assignment.
    pub(super) fn starts(
        &self,
        consumer: &BaseConsumer<MemberLink>,
        shards: &[Shard],
    ) -> Result<Vec<(Shard, Kept, u64)>> {
        let what = "asking for the position of a group";
        let topic = &self.spec.topic;
        let mut asked = TopicPartitionList::new();
        for shard in shards {
            asked.add_partition(topic, *shard as i32);
        }
        let found = consumer
            .committed_offsets(asked, self.shared.options.timeout)
            .map_err(|error| fault(what, error))?;
        let mut starts = Vec::new();
        for element in found.elements() {
            element.error().map_err(|error| fault(what, error))?;
            let shard = element.partition() as Shard;
            let (kept, epoch) = match element.offset() {
                Offset::Offset(offset) => kept::decode(offset as u64, element.metadata()),
                _ => (
                    kept::at(
                        self.shared
                            .locate_now(topic, shard, Start::Earliest, &|| true)?,
                    ),
                    0,
                ),
            };
            starts.push((shard, self.within(shard, kept)?, epoch + 1));
        }
        Ok(starts)
    }

    /// A position that retention has removed begins at the earliest that is left.
    fn within(&self, shard: Shard, kept: Kept) -> Result<Kept> {
        let topic = &self.spec.topic;
        let low = self
            .shared
            .locate_now(topic, shard, Start::Earliest, &|| true)?;
        if kept.low >= Position::at(low) {
            return Ok(kept);
        }
        tracing::warn!(%topic, shard, from = %kept.low, to = low, "retention removed messages before the group had them");
        let mut left = kept::at(low);
        left.out = kept.out.max(left.low);
        left.settled = kept
            .settled
            .into_iter()
            .filter(|range| range.from >= left.low)
            .collect();
        left.again = kept
            .again
            .into_iter()
            .filter(|again| again.position >= left.low)
            .collect();
        Ok(left)
    }
}
