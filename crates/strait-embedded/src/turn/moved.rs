//! What the cleaner copied takes the place of what it was made of.

use super::Turn;
use crate::cleaner::Copied;
use crate::ops::Op;

impl Turn<'_> {
    /// Logs where the ranges lie from now on. One that has changed since it was read, or of which a group has something out
    /// that compaction removed, stays where it is.
    pub(super) fn moved(&mut self, copied: Vec<Copied>) {
        self.record(|turn| {
            for Copied { op, sources } in copied {
                let stream = turn.state.stream(op.stream);
                let is_there = stream.is_some_and(|stream| stream.has(&sources));
                let is_needed = op.compacted.is_some() && turn.is_out(&op);
                if is_there && !is_needed {
                    turn.emit(&Op::Moved(op), None);
                }
            }
        });
    }

    /// True when a group of the partition has a message of the range out, or parked.
    fn is_out(&self, op: &crate::ops::MovedOp) -> bool {
        let Some((topic, partition)) = op.stream.as_partition() else {
            return false;
        };
        let topic = self.state.topics.get(&topic);
        let groups = topic.into_iter().flat_map(|topic| &topic.groups);
        groups
            .filter_map(|id| self.state.groups.get(id)?.needed_from(partition as usize))
            .any(|offset| offset < op.end)
    }
}
