//! The end of a run: everything that is not settled is delivered and settled, by members that move only when they are
//! woken.

use crate::consume::Out;
use crate::model::{State, Steer, Ticket, Verdict};
use crate::trace::note;
use crate::world::World;

/// More time than any message waits, in steps.
const STEPS: u64 = 40;
const STEP_MS: u64 = 4_000;
/// Steps after which whatever was parked is due: the longest wait of a run is a minute.
const ALL_DUE: u64 = 60_000 / STEP_MS + 1;

impl World {
    /// Opens once more, settles everything, and looks at what is left.
    pub(crate) fn finish(&mut self) {
        note!("the end");
        self.disk.sim.set_capacity(crate::places::ROOMY);
        let how = self.any_crash();
        self.crash(how);
        self.short = false;
        for group in 0..self.groups.len() {
            self.groups[group].max_dead = 1_000_000;
            // Members declare it, and what was held goes on.
            self.groups[group].hold_key = false;
            if self.groups[group].exists && self.groups[group].paused != Some(false) {
                self.steer(group, Steer::Pause(false));
                self.turn();
            }
            let dead = self.groups[group].dead_topic;
            if dead.is_some_and(|dead| !self.topics[dead].alive) {
                self.groups[group].dead_topic = None;
            }
            if self.groups[group].exists {
                self.join_group(group);
            }
            // At times two, so that partitions move while it drains.
            if self.groups[group].exists && self.rng.one_in(3) {
                self.join_group(group);
            }
        }
        self.drain();
        self.check_drained();
        self.close();
        assert!(self.members.is_empty());
        self.check_drained();
    }

    fn drain(&mut self) {
        let mut waited = 0;
        loop {
            assert!(
                !self.down && !self.disk.sim.is_dead(),
                "there are no faults at the end"
            );
            if self.drain_round() {
                waited = 0;
                continue;
            }
            // A message of which nobody knows whether it is settled may wait for its next attempt.
            if self.all_settled() && (waited >= ALL_DUE || !self.any_unsure()) {
                return;
            }
            assert!(
                waited < STEPS,
                "messages are not settled, and nobody is woken for them: {:?}",
                self.unsettled()
            );
            waited += 1;
            self.clock.advance(STEP_MS);
            self.turn();
        }
    }

    /// Every member that was woken is polled, and what can be settled is; false when nothing happened.
    fn drain_round(&mut self) -> bool {
        let mut moved = false;
        for index in (0..self.members.len()).rev() {
            while self.members[index].bell.take() {
                while self.poll_member(index, 7, 2_000) {
                    moved = true;
                }
                self.turn();
            }
        }
        while self
            .members
            .iter()
            .any(|member| !member.revoking.is_empty())
        {
            self.hand_back();
            moved = true;
        }
        moved |= self.settle_all();
        moved
    }

    fn settle_all(&mut self) -> bool {
        self.outs.retain(|out| !out.ticket.void);
        self.outs
            .sort_by_key(|out| (out.ticket.group, out.ticket.shard, out.ticket.first));
        let Some(index) = (0..self.outs.len()).find(|index| self.may_settle(&self.outs[*index]))
        else {
            return false;
        };
        let out: Out = self.outs.remove(index);
        let id = self.next_serial();
        let (unit, model) = self.assemble(
            id,
            vec![(out, Verdict::Done)],
            Vec::new(),
            None,
            (None, None),
        );
        self.commit_units(vec![unit], vec![model]);
        self.turn();
        true
    }

    fn all_settled(&self) -> bool {
        self.unsettled().is_empty()
    }

    fn any_unsure(&self) -> bool {
        let groups = self.groups.iter().filter(|group| group.exists);
        groups
            .flat_map(|group| &group.shards)
            .flat_map(|shard| shard.msgs.values())
            .any(|msg| matches!(msg.state, State::Unsure(_)))
    }

    /// What must still come: group, shard, offset.
    fn unsettled(&self) -> Vec<(&'static str, usize, u64)> {
        let mut left = Vec::new();
        for (at, group) in self.groups.iter().enumerate() {
            if !group.exists {
                continue;
            }
            let parts = &self.topics[group.topic].parts;
            for (index, (shard, part)) in group.shards.iter().zip(parts).enumerate() {
                let fresh = shard.low.max(part.start)..part.end();
                let waits = |offset: &u64| match shard.state(*offset) {
                    State::Settled => false,
                    State::Unsure(unit) => self.comes_again(unit, (at, index as u32), *offset),
                    _ => true,
                };
                let known = shard
                    .msgs
                    .iter()
                    .filter(|(_, msg)| msg.redriven)
                    .map(|(offset, _)| *offset);
                left.extend(
                    fresh
                        .chain(known)
                        .filter(waits)
                        .map(|offset| (group.name, index, offset)),
                );
            }
        }
        left
    }

    /// True when a unit of which nobody knows whether it happened retries the message or gives it up. Either way it comes
    /// once more, or is found among the dead letters; only one that was done may never be heard of again.
    fn comes_again(&self, unit: u64, (group, shard): (usize, u32), offset: u64) -> bool {
        let covers = |ticket: &Ticket| {
            (ticket.group, ticket.shard) == (group, shard) && ticket.offsets().contains(&offset)
        };
        let unit = self.maybe.units.iter().find(|other| other.id == unit);
        unit.into_iter()
            .flat_map(|unit| &unit.settle)
            .any(|(ticket, verdict)| covers(ticket) && *verdict != Verdict::Done)
    }

    /// Nothing is left to do: the lag is 0, and what was unsure had happened.
    fn check_drained(&mut self) {
        for shard in self.groups.iter_mut().flat_map(|group| &mut group.shards) {
            for msg in shard.msgs.values_mut() {
                if matches!(msg.state, State::Unsure(_)) {
                    msg.state = State::Settled;
                }
            }
        }
        for group in 0..self.groups.len() {
            if self.groups[group].exists {
                self.look_at_dead(group);
                self.look_at_lag(group);
            }
        }
    }
}
