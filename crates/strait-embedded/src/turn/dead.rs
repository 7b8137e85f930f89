//! Dead letters: redriven, taken back, removed, edited, and messages set aside by hand.

use metrics::counter;
use strait_core::{Error, Fence, Kind, Position, Records, Result};

use super::{Turn, disk_full, no_such_group, no_such_partition};
use crate::command::dead::{DeadCommand, Of, Slice};
use crate::command::{Reply, Taken};
use crate::ops::{DeadChange, GroupId, Numbers, Op, RedriveOp};
use crate::state::dead::Dead;
use crate::state::group::Group;

/// So many dead letters change in one command: the writer is not held up by a million of them.
pub(crate) const SLICE: usize = 4096;

impl Turn<'_> {
    pub(super) fn dead(&mut self, command: DeadCommand) -> Option<Reply> {
        Some(match command {
            DeadCommand::Redrive {
                of,
                run,
                per_second,
                numbers,
                answer,
            } => Reply::Slice(answer, self.redrive(&of, run, per_second, &numbers)),
            DeadCommand::Undo {
                of,
                run,
                numbers,
                answer,
            } => Reply::Count(answer, self.undo_redrive(&of, run, &numbers)),
            DeadCommand::Remove {
                of,
                numbers,
                answer,
            } => Reply::Count(answer, self.remove_dead(&of, &numbers)),
            DeadCommand::Expire { group, before } => {
                self.expire(group, before);
                return None;
            }
            DeadCommand::Edit {
                of,
                number,
                copy,
                answer,
            } => Reply::Unit(answer, self.edit_dead(&of, number, copy)),
            DeadCommand::SetAside {
                of,
                shard,
                taken,
                reason,
                force,
                answer,
            } => Reply::Count(answer, self.set_aside(&of, shard, *taken, &reason, force)),
        })
    }

    fn group_of(&self, of: &Of) -> Result<&Group> {
        let id = self.group_id(&of.0, &of.1)?;
        let group = self.state.groups.get(&id);
        group.ok_or_else(|| no_such_group(&of.0, &of.1))
    }

    fn redrive(
        &mut self,
        of: &Of,
        run: Option<u64>,
        per_second: u32,
        numbers: &[u64],
    ) -> Result<Slice> {
        let group = self.group_of(of)?;
        let (id, at) = (group.id, self.now.wall);
        let known = run.map(|run| {
            group
                .dead
                .runs
                .get(&run)
                .ok_or_else(|| no_such_run(of, run))
        });
        let next = known.transpose()?.map_or(0, |run| run.next_due);
        let run = run.unwrap_or(group.dead.next_run);
        let fits = |dead: &Dead| {
            // What comes again by itself would come without its edit, and an edit that is not durable cannot be read yet.
            let shard = group.shards.get(dead.shard as usize);
            let settled = shard.is_some_and(|shard| shard.is_settled(dead.offset));
            dead.edited == 0 || settled && dead.edited < group.graveyard.visible
        };
        let there = |number: &u64| group.dead.letters.get(number).is_some_and(fits);
        let numbers: Vec<u64> = numbers.iter().copied().filter(there).collect();
        if numbers.is_empty() {
            return Ok(Slice::default());
        }
        let mut encoded = Vec::new();
        let op = RedriveOp {
            run,
            at,
            due: if per_second == 0 { 0 } else { next.max(at) },
            per_second,
            numbers: Numbers::encode(&numbers, &mut encoded),
        };
        let wait = op.wait_of(numbers.len() as u64 - 1);
        let lasts = wait.saturating_add(u64::try_from(op.due - at).unwrap_or(0));
        self.change_dead(id, DeadChange::Redrive(op), None);
        self.wake(id);
        Ok(Slice {
            run,
            count: numbers.len() as u64,
            lasts,
        })
    }

    fn undo_redrive(&mut self, of: &Of, run: u64, numbers: &[u64]) -> Result<u64> {
        let group = self.group_of(of)?;
        let id = group.id;
        let waits = |number: &u64| group.waits_in(*number, run);
        let numbers: Vec<u64> = numbers.iter().copied().filter(waits).collect();
        self.change_many(id, &numbers, |numbers| DeadChange::Undo { run, numbers });
        // What waited behind them for its key is free.
        self.wake(id);
        Ok(numbers.len() as u64)
    }

    fn remove_dead(&mut self, of: &Of, numbers: &[u64]) -> Result<u64> {
        let group = self.group_of(of)?;
        let id = group.id;
        let there = |number: &u64| group.dead.letters.contains_key(number);
        let numbers: Vec<u64> = numbers.iter().copied().filter(there).collect();
        self.change_many(id, &numbers, |numbers| DeadChange::Remove { numbers });
        self.wake(id);
        Ok(numbers.len() as u64)
    }

    fn expire(&mut self, id: GroupId, before: i64) {
        let Some(group) = self.state.groups.get(&id) else {
            return;
        };
        let old = group.dead.expired(before);
        let numbers: Vec<u64> = old.take(SLICE).collect();
        let topic = self.state.topics.get(&group.topic);
        let topic = topic.map_or_else(String::new, |topic| topic.name.to_string());
        counter!(crate::metrics::DEAD_EXPIRED, "group" => group.name.to_string(), "topic" => topic)
            .increment(numbers.len() as u64);
        self.change_many(id, &numbers, |numbers| DeadChange::Remove { numbers });
        self.wake(id);
    }

    fn edit_dead(&mut self, of: &Of, number: u64, copy: Option<Records>) -> Result<()> {
        let group = self.group_of(of)?;
        let (id, end) = (group.id, group.graveyard.end);
        if !group.dead.letters.contains_key(&number) {
            return Err(no_such_letter(of, number));
        }
        let Some(copy) = copy else {
            self.change_dead(id, DeadChange::DropEdit { number }, None);
            return Ok(());
        };
        if !self.room {
            return Err(disk_full());
        }
        let edit = DeadChange::Edit {
            number,
            copy: end,
            bytes: copy.bytes().len() as u64,
            time: self.now.wall,
        };
        self.change_dead(id, edit, Some(&copy));
        Ok(())
    }

    fn set_aside(
        &mut self,
        of: &Of,
        shard: u32,
        taken: Taken,
        reason: &str,
        force: bool,
    ) -> Result<u64> {
        let (group, offset) = (self.group_of(of)?, taken.offset);
        let id = group.id;
        group.check_aside(of, shard, offset)?;
        if !self.room {
            return Err(disk_full());
        }
        let lease = |turn: &Self| {
            let state = turn.state.groups.get(&id)?.shards.get(shard as usize);
            state?.lease_of(offset)
        };
        // What was granted and never reached its member is out with nobody: its grant is undone.
        if let Some(found) = lease(self).filter(|lease| !lease.delivered) {
            let grant = found.grant;
            self.take_back(id, shard, |lease| lease.grant == grant && !lease.delivered);
        }
        if let Some(found) = lease(self) {
            if !force {
                return Err(self
                    .group_of(of)?
                    .out_with(of, shard, offset, found.consumer));
            }
            // All that went out with it: a receipt over several is void as a whole, and what it covers must come again
            // before later messages of its keys do.
            self.take_back(id, shard, |lease| lease.grant == found.grant);
        }
        let number = self.group_of(of)?.graveyard.end;
        let fence = Fence {
            consumer: u64::from(id) << 32,
            epoch: 0,
            shard,
            first: Position::at(offset),
            count: 1,
        };
        self.record(|turn| turn.bury(&fence, taken, reason));
        self.wake(id);
        Ok(number)
    }

    fn change_many<'n>(
        &mut self,
        group: GroupId,
        numbers: &[u64],
        change: impl FnOnce(Numbers<'_>) -> DeadChange<'_> + 'n,
    ) {
        if numbers.is_empty() {
            return;
        }
        let mut encoded = Vec::new();
        let change = change(Numbers::encode(numbers, &mut encoded));
        self.change_dead(group, change, None);
    }

    fn change_dead(&mut self, group: GroupId, change: DeadChange<'_>, body: Option<&Records>) {
        self.record(|turn| turn.emit(&Op::Graves { group, change }, body));
    }

    /// Something may go out that could not before.
    fn wake(&mut self, id: GroupId) {
        if let Some(group) = self.state.groups.get_mut(&id) {
            group.members.wake_all();
        }
        self.alarm_for(id);
    }
}

impl Group {
    /// True for what this run brought back and that waits, out with nobody.
    pub(crate) fn waits_in(&self, number: u64, run: u64) -> bool {
        let dead = self.dead.redriven.get(&number);
        dead.filter(|dead| dead.run == run).is_some_and(|dead| {
            let shard = self.shards.get(dead.shard as usize);
            shard.is_some_and(|shard| shard.lease_of(dead.offset).is_none())
        })
    }

    /// Refuses to set aside what this group does not wait for.
    pub(crate) fn check_aside(&self, of: &Of, shard: u32, offset: u64) -> Result<()> {
        let count = self.shards.len();
        let state = self.shards.get(shard as usize);
        let state = state.ok_or_else(|| no_such_partition(&of.1, shard, count))?;
        let why = if !state.placed {
            "the group has no position on that partition yet: its first member gives it one"
        } else if state.is_settled(offset) {
            "it is settled, or lies before the group's beginning"
        } else {
            return Ok(());
        };
        let dead = |(number, dead): (&u64, &Dead)| {
            (dead.shard == shard && dead.offset == offset).then_some(*number)
        };
        let text = format!("offset {offset} of partition {shard} is not set aside: {why}");
        let error = Error::new(Kind::Conflict, text)
            .with("group", &of.0)
            .with("topic", &of.1);
        Err(match self.dead.letters.iter().rev().find_map(dead) {
            Some(number) => error
                .with("dead_letter", number)
                .next(format!("`strait dlq show {} {number}` shows it", of.0)),
            None => error.next(format!(
                "`strait describe offset/{}/{shard}/{offset}` says where it is",
                of.1
            )),
        })
    }

    /// Why a message that a member has is not set aside.
    pub(crate) fn out_with(&self, of: &Of, shard: u32, offset: u64, consumer: u64) -> Error {
        let member = self
            .members
            .iter()
            .find(|member| member.consumer == consumer);
        let member = member.map_or("a member", |member| &*member.name);
        let text = format!(
            "offset {offset} of partition {shard} is out with {member}: it is not set aside"
        );
        Error::new(Kind::Conflict, text)
            .with("group", &of.0)
            .with("topic", &of.1)
            .next("wait until it is settled, or force it: the member's receipt is fenced then")
    }
}

pub(crate) fn no_such_letter(of: &Of, number: u64) -> Error {
    let (group, topic) = of;
    let text = format!("`{group}` has no dead letter {number} on `{topic}`");
    Error::new(Kind::NotFound, text)
        .with("group", group)
        .with("topic", topic)
        .next("`strait dlq ls` lists them")
}

pub(crate) fn no_such_run(of: &Of, run: u64) -> Error {
    let (group, topic) = of;
    let text = format!("`{group}` knows no run {run} of a redrive on `{topic}`");
    Error::new(Kind::NotFound, text)
        .with("group", group)
        .with("topic", topic)
        .next("a redrive says the number of its run; a group remembers its newest 100")
}
