//! Calls and their answers: what the engine says is held against the model, and the model learns.

use strait_core::events::{Redriven, TopicInfo, Undone};
use strait_core::{Claimed, Consumer, Effect, Error, Kind, Outcome, Position, Result, Sent, codes};

use crate::consume::Member;
use crate::model::{
    ClaimM, Dead, Entry, Expect, Letter, Send, State, Steer, Ticket, Unit, Verdict,
};
use crate::trace::note;
use crate::world::World;

/// A call, as the model remembers it.
pub(crate) enum What {
    Append(Send),
    Commit(Vec<Unit>),
    Claim(ClaimM),
    Declare(usize),
    Delete(usize),
    Alter(usize, u32),
    /// The group, and the member's number.
    Join(usize, u64),
    Seek(usize, u32, u64),
    Redrive(usize, Vec<u64>),
    RemoveDead(usize, Vec<u64>),
    /// The group, the number, and the edit; none: it is dropped.
    Edit(usize, u64, Option<u64>),
    /// The group and the run.
    Undo(usize, u64),
    Aside(usize, Dead),
    DeleteGroup(usize),
    Steer(usize, Steer),
}

pub(crate) enum Answer {
    Sent(Result<Sent>),
    Outcomes(Vec<Outcome>),
    Claimed(Result<Claimed>),
    Topic(Result<TopicInfo>),
    Done(Result<()>),
    Consumer(Result<Consumer>),
    Position(Result<Position>),
    Count(Result<u64>),
    Redriven(Result<Redriven>),
    Undone(Result<Undone>),
}

impl World {
    pub(crate) fn answered(&mut self, what: What, answer: Answer) {
        match (what, answer) {
            (What::Append(send), Answer::Sent(result)) => self.appended(send, result),
            (What::Commit(units), Answer::Outcomes(outcomes)) => {
                assert_eq!(units.len(), outcomes.len(), "an outcome for each unit");
                for (unit, outcome) in units.into_iter().zip(outcomes) {
                    self.committed(unit, outcome);
                }
            }
            (What::Claim(claim), Answer::Claimed(result)) => self.claimed(claim, result),
            (What::Join(group, member), Answer::Consumer(result)) => {
                self.joined(group, member, result);
            }
            (What::Seek(group, shard, to), Answer::Position(result)) => {
                self.sought(group, shard, to, result);
            }
            (What::Redrive(group, numbers), Answer::Redriven(result)) => {
                self.redrive_answered(group, numbers, result);
            }
            (What::Undo(group, run), Answer::Undone(result)) => {
                self.undo_answered(group, run, result);
            }
            (what, Answer::Topic(result)) => self.changed(what, result.map(|_| 0)),
            (what, Answer::Done(result)) => self.changed(what, result.map(|()| 0)),
            (what, Answer::Count(result)) => self.changed(what, result),
            _ => unreachable!("each call has its own answer"),
        }
    }

    /// True when the call certainly did nothing, and for a reason that is one.
    pub(crate) fn refused(&self, error: &Error, reason: bool, what: &str) -> bool {
        if error.effect() == Effect::Unknown {
            return false;
        }
        let ended = error.is(codes::POISONED) || error.kind() == Kind::Closed;
        let full = error.is(codes::DISK_FULL) && self.short;
        assert!(
            reason || full || ended,
            "{what}: refused without a reason: {error:?}"
        );
        note!("{what}: refused: {error}");
        true
    }

    fn forbid(&mut self, sends: &[Send]) {
        let serials = sends
            .iter()
            .filter(|send| !send.again)
            .flat_map(|send| &send.recs);
        self.forbidden.extend(serials.map(|rec| rec.serial));
    }

    // ---- sends ----

    fn appended(&mut self, send: Send, result: Result<Sent>) {
        match result {
            Ok(sent) => {
                note!(
                    "acked: {} at {}{}",
                    describe(&send),
                    sent.first,
                    if sent.duplicate { ", known" } else { "" }
                );
                if !sent.duplicate {
                    self.durable();
                }
                self.sent(&send, &sent);
            }
            Err(error) => {
                let what = format!("append of {}", describe(&send));
                let reason = self.send_may_fail(&send, &error);
                if self.refused(&error, reason, &what) {
                    self.forbid(&[send]);
                } else {
                    note!("{what}: unknown");
                    self.unsure_send(send);
                }
            }
        }
    }

    /// Whether a send is refused for a reason that the model sees.
    fn send_may_fail(&self, send: &Send, error: &Error) -> bool {
        let topic = &self.topics[send.topic];
        let part = topic.parts.get(send.partition as usize);
        // It may rest on a call before it whose outcome is not known.
        let unknown = !self.maybe.sends.is_empty() || !self.maybe.units.is_empty();
        match (error.kind(), error.code_str()) {
            (Kind::NotFound, Some(codes::NO_SUCH_TOPIC)) => !topic.alive,
            (Kind::Conflict, Some(codes::WRONG_VERSION)) if unknown => send.expected != Expect::Any,
            (Kind::Conflict, Some(codes::WRONG_VERSION)) => match send.expected {
                Expect::Any => false,
                Expect::Position(at) => topic.copies || part.is_some_and(|part| part.end() != at),
                Expect::Version(version) => self.version_of(send) != version,
            },
            (Kind::Rejected, None) => part.is_none(),
            _ => false,
        }
    }

    fn version_of(&self, send: &Send) -> u64 {
        let key = send.recs[0].key.unwrap_or(0);
        let versions = self.topics[send.topic].keys.get(&key);
        versions.map_or(0, |versions| versions.len() as u64)
    }

    /// A batch was acknowledged.
    pub(crate) fn sent(&mut self, send: &Send, sent: &Sent) {
        let now = self.wall();
        let first = sent.first.offset();
        assert_eq!(sent.count as usize, send.recs.len());
        let topic = &self.topics[send.topic];
        assert!(
            topic.alive,
            "{} is deleted and took {}",
            topic.name,
            describe(send)
        );
        let known = topic.ids.get(&send.id).copied().filter(|_| send.dedupe);
        if sent.duplicate {
            let known = known.unwrap_or_else(|| panic!("{} is not known", describe(send)));
            assert_eq!(
                (known.partition, known.first),
                (sent.partition, first),
                "a duplicate is answered with the first position"
            );
            assert!(
                known.time.1 + topic.window > now,
                "the window of {} is over",
                describe(send)
            );
            return;
        }
        if let Some(known) = known {
            let over = known.time.0 + topic.window <= self.latest;
            assert!(
                over,
                "{} was appended twice, first at {}",
                describe(send),
                known.first
            );
        }
        match send.expected {
            Expect::Any => {}
            Expect::Position(at) => {
                assert_eq!(first, at, "appended at another position than expected")
            }
            Expect::Version(version) => {
                assert_eq!(
                    self.version_of(send),
                    version,
                    "appended at another version"
                );
            }
        }
        if let Err(fault) = self.topics[send.topic].put(send, first, (now, now)) {
            panic!("{fault}");
        }
    }

    // ---- units ----

    fn committed(&mut self, unit: Unit, outcome: Outcome) {
        let void = unit.settle.iter().any(|(ticket, _)| ticket.void) || unit.under == Some(true);
        match outcome {
            Outcome::Applied(sent) => {
                note!("unit {} applied", unit.id);
                assert!(
                    !void,
                    "unit {} rests on a receipt that is void, and was applied",
                    unit.id
                );
                let wrote = !unit.settle.is_empty() || sent.iter().any(|sent| !sent.duplicate);
                if wrote || unit.once.is_some() {
                    self.durable();
                }
                self.check_once_applied(&unit);
                assert_eq!(sent.len(), unit.send.len());
                for (send, sent) in unit.send.iter().zip(&sent) {
                    self.sent(send, sent);
                }
                self.settled(&unit);
                self.end_claim(&unit);
            }
            Outcome::Seen(result) => {
                note!("unit {} seen", unit.id);
                assert!(
                    !void,
                    "unit {} rests on a receipt that is void, and was seen",
                    unit.id
                );
                if !unit.settle.is_empty() {
                    self.durable();
                }
                self.check_once_seen(&unit, &result);
                self.forbid(&unit.send);
                self.settled(&unit);
            }
            Outcome::Fenced => {
                note!("unit {} fenced", unit.id);
                self.check_fenced(&unit);
                self.forbid(&unit.send);
                self.give_back(&unit);
            }
            Outcome::NotApplied(back, error) => {
                let what = format!("unit {}", unit.id);
                let reason = unit
                    .send
                    .iter()
                    .any(|send| self.send_may_fail(send, &error) || follows(&unit, send))
                    || self.claim_is_busy(&unit, &error);
                assert!(self.refused(&error, reason, &what), "NotApplied is certain");
                self.forbid(&unit.send);
                self.give_back(&unit);
                drop(back);
            }
            Outcome::Unknown(_) => {
                note!("unit {} unknown", unit.id);
                self.give_back(&unit);
                self.unsure(unit);
            }
        }
    }

    /// A receipt that certainly is valid must not be fenced.
    fn check_fenced(&self, unit: &Unit) {
        let goes = |ticket: &Ticket| {
            self.leaving.contains(&(ticket.group, ticket.member))
                || self.handed_back.contains(&(ticket.member, ticket.shard))
        };
        let sure = |ticket: &Ticket| !ticket.void && self.mono() < ticket.ends.0 && !goes(ticket);
        let all = unit.settle.iter().all(|(ticket, _)| sure(ticket));
        let claims = unit.once.as_ref().is_some_and(|once| once.claim.is_some());
        assert!(
            !all || unit.under.is_some() || claims,
            "unit {} was fenced, and its receipts are valid",
            unit.id
        );
    }

    /// The receipts of a unit that did not settle are dropped: their messages come again.
    fn give_back(&mut self, unit: &Unit) {
        for (ticket, _) in &unit.settle {
            self.loosen(ticket, |state| state == State::Sent(unit.id));
        }
    }

    /// Messages of a receipt are free again, where the model thinks that they are with it.
    pub(crate) fn loosen(&mut self, ticket: &Ticket, with_it: impl Fn(State) -> bool) {
        let Some(shard) = self.groups[ticket.group]
            .shards
            .get_mut(ticket.shard as usize)
        else {
            return;
        };
        for offset in ticket.offsets() {
            if let Some(msg) = shard.msgs.get_mut(&offset)
                && with_it(msg.state)
            {
                msg.state = State::Free;
            }
        }
    }

    /// The verdicts of a unit took effect.
    pub(crate) fn settled(&mut self, unit: &Unit) {
        for (ticket, verdict) in &unit.settle {
            for (offset, attempt) in ticket.offsets().zip(&ticket.attempts) {
                self.settle_one(unit.id, ticket, offset, *attempt, verdict);
            }
        }
    }

    fn settle_one(
        &mut self,
        unit: u64,
        ticket: &Ticket,
        offset: u64,
        attempt: u32,
        verdict: &Verdict,
    ) {
        let now = self.wall();
        let group = &mut self.groups[ticket.group];
        let max = group.max_attempts;
        let Some(shard) = group.shards.get_mut(ticket.shard as usize) else {
            panic!(
                "unit {unit} settled {}/{}, which is not there",
                group.name, ticket.shard
            );
        };
        let msg = shard.msg(offset);
        let ours = matches!(msg.state, State::Sent(id) | State::Unsure(id) if id == unit);
        assert!(
            ours,
            "unit {unit} settled offset {offset} of {}/{}, which is {:?}",
            group.name, ticket.shard, msg.state
        );
        let mut dead = None;
        match verdict {
            Verdict::Done => msg.state = State::Settled,
            Verdict::Dead(reason) => dead = Some(reason),
            Verdict::Retry {
                counts: true,
                reason,
                ..
            } if attempt >= max => dead = Some(reason),
            Verdict::Retry {
                after,
                reason,
                counts,
            } => {
                msg.state = State::Parked;
                (msg.due, msg.delay) = (now + after, *after);
                msg.reason = Some(reason.clone());
                let attempts = if *counts { attempt } else { attempt - 1 };
                (msg.lo, msg.hi) = (attempts, attempts);
            }
            Verdict::Release => {
                msg.state = State::Free;
                (msg.lo, msg.hi) = (attempt - 1, attempt - 1);
            }
        }
        if let Some(reason) = dead {
            msg.state = State::Settled;
            let dead = Dead {
                shard: ticket.shard,
                offset,
                reason: reason.clone(),
            };
            group.dying.push(dead);
            if group.hold_key {
                group.shards[ticket.shard as usize].holds.insert(offset);
            }
        }
    }

    fn unsure_send(&mut self, mut send: Send) {
        send.lost_at = self.wall();
        self.maybe.sends.push(send);
    }

    /// A unit of which nobody knows whether it happened.
    pub(crate) fn unsure(&mut self, mut unit: Unit) {
        let now = self.wall();
        unit.send.iter_mut().for_each(|send| send.lost_at = now);
        for (ticket, verdict) in &unit.settle {
            let Some(shard) = self.groups[ticket.group]
                .shards
                .get_mut(ticket.shard as usize)
            else {
                continue;
            };
            for (offset, attempt) in ticket.offsets().zip(&ticket.attempts) {
                if ticket.void {
                    continue;
                }
                let msg = shard.msg(offset);
                match verdict {
                    _ if !matches!(msg.state, State::Free | State::Sent(_)) => {}
                    Verdict::Done | Verdict::Dead(_) => msg.state = State::Unsure(unit.id),
                    Verdict::Retry { .. } => {
                        msg.state = State::Unsure(unit.id);
                        msg.lo = msg.lo.min(attempt - 1);
                    }
                    Verdict::Release => {
                        msg.state = State::Free;
                        msg.lo = msg.lo.min(attempt - 1);
                    }
                }
            }
        }
        self.maybe_end_claim(&unit);
        self.maybe.units.push(unit);
    }

    // ---- the ledger ----

    pub(crate) fn entries(&mut self, key: u8) -> &mut Vec<Entry> {
        self.ledger
            .entry(key)
            .or_insert_with(|| vec![Entry::Nothing])
    }

    fn claimed(&mut self, claim: ClaimM, result: Result<Claimed>) {
        let claimed = match result {
            Ok(claimed) => claimed,
            Err(error) => {
                let what = format!("claim of {} by {}", claim.key, claim.holder);
                if !self.refused(&error, false, &what) {
                    self.maybe_claim(&claim);
                }
                return;
            }
        };
        note!("claim of {} by {}: {claimed:?}", claim.key, claim.holder);
        if matches!(claimed, Claimed::Run(_)) {
            self.durable();
        }
        let (now, latest) = (self.wall(), self.latest);
        let may = |entry: &Entry| match (entry, &claimed) {
            (Entry::Nothing, Claimed::Run(_)) => true,
            (Entry::Stored { expires, .. }, Claimed::Run(_)) => *expires <= latest,
            (Entry::Stored { result, expires }, Claimed::Seen(seen)) => {
                *expires > now && seen[..] == result.to_le_bytes()
            }
            (
                Entry::Running {
                    holder,
                    until,
                    token,
                },
                answer,
            ) => {
                let own = *holder == claim.holder;
                match answer {
                    Claimed::Wait => !own && *until > now,
                    Claimed::Run(_) => (own || *until <= now) && !claim.at_most_once,
                    // A run that has no known end may have been done.
                    Claimed::Unfinished(found) => {
                        let same = token.is_none_or(|token| token == found.0);
                        (own || *until <= now) && claim.at_most_once && same
                    }
                    Claimed::Seen(_) => false,
                }
            }
            _ => false,
        };
        let entries = self.entries(claim.key);
        let mut left: Vec<Entry> = entries.iter().filter(|entry| may(entry)).cloned().collect();
        assert!(
            !left.is_empty(),
            "claim by {}: {claimed:?}, and the ledger has {entries:?} at {now}",
            claim.holder
        );
        match claimed {
            Claimed::Run(token) => {
                left = vec![Entry::Running {
                    holder: claim.holder,
                    token: Some(token.0),
                    until: now + claim.lease,
                }];
            }
            Claimed::Unfinished(found) => {
                for entry in &mut left {
                    if let Entry::Running { token, .. } = entry {
                        *token = Some(found.0);
                    }
                }
            }
            _ => {}
        }
        *self.entries(claim.key) = left;
    }

    fn maybe_claim(&mut self, claim: &ClaimM) {
        let entry = Entry::Running {
            holder: claim.holder,
            token: None,
            until: self.wall() + claim.lease,
        };
        self.entries(claim.key).push(entry);
    }

    fn check_once_applied(&mut self, unit: &Unit) {
        let (now, latest) = (self.wall(), self.latest);
        let Some(once) = &unit.once else { return };
        let claim = once.claim;
        let fits = |entry: &Entry| match (entry, claim) {
            (Entry::Running { token, .. }, Some(claim)) => token.is_none_or(|t| t == claim),
            (_, Some(_)) => false,
            (Entry::Nothing, None) => true,
            (Entry::Stored { expires, .. }, None) => *expires <= latest,
            (Entry::Running { until, .. }, None) => *until <= now,
        };
        let (key, id) = (once.key, unit.id);
        let entries = self.entries(key);
        assert!(
            entries.iter().any(fits),
            "unit {id} ended the claim {claim:?}, and the ledger has {entries:?} at {now}"
        );
    }

    fn check_once_seen(&mut self, unit: &Unit, seen: &[u8]) {
        let now = self.wall();
        let once = unit.once.clone().expect("only a key is seen");
        let entries = self.entries(once.key);
        entries.retain(|entry| {
            matches!(entry, Entry::Stored { result, expires } if *expires > now && seen == result.to_le_bytes())
        });
        assert!(
            !entries.is_empty(),
            "unit {}: a result was seen that nobody stored",
            unit.id
        );
    }

    fn claim_is_busy(&mut self, unit: &Unit, error: &Error) -> bool {
        let now = self.wall();
        let Some(once) = unit.once.as_ref().filter(|once| once.claim.is_none()) else {
            return false;
        };
        let running = |entry: &Entry| matches!(entry, Entry::Running { until, .. } if *until > now);
        error.kind() == Kind::Busy && self.entries(once.key).iter().any(running)
    }

    pub(crate) fn end_claim(&mut self, unit: &Unit) {
        let now = self.wall();
        let Some(once) = &unit.once else { return };
        let entry = match once.store {
            Some((result, ttl)) => Entry::Stored {
                result,
                expires: now + ttl,
            },
            None => Entry::Nothing,
        };
        *self.entries(once.key) = vec![entry];
    }

    fn maybe_end_claim(&mut self, unit: &Unit) {
        let Some(once) = unit.once.clone() else {
            return;
        };
        let before = self.entries(once.key).clone();
        self.end_claim(unit);
        self.entries(once.key).extend(before);
    }

    // ---- groups and topics ----

    fn joined(&mut self, group: usize, member: u64, result: Result<Consumer>) {
        let name = self.groups[group].name;
        let topic = self.groups[group].topic;
        let consumer = match result {
            Ok(consumer) => consumer,
            Err(error) => {
                let reason = error.is(codes::NO_SUCH_TOPIC) && {
                    let dead = self.groups[group].dead_topic;
                    !self.topics[topic].alive || dead.is_some_and(|dead| !self.topics[dead].alive)
                };
                if !self.refused(&error, reason, &format!("{name}: member {member} joins")) {
                    self.maybe.joined.insert(group);
                }
                return;
            }
        };
        note!("{name}: member {member} joined");
        if !self.groups[group].exists {
            self.durable();
            self.group_is_there(group);
        }
        let found = &self.groups[group];
        let member = Member::new(
            member,
            group,
            consumer,
            (found.lease, found.handover),
            self.mono(),
        );
        self.members.push(member);
    }

    fn sought(&mut self, group: usize, shard: u32, to: u64, result: Result<Position>) {
        let name = self.groups[group].name;
        match result {
            Ok(position) => {
                let start = self.topics[self.groups[group].topic].parts[shard as usize].start;
                assert_eq!(
                    position.offset(),
                    to.max(start),
                    "{name}/{shard} was sent elsewhere"
                );
                note!("{name}/{shard} stands at {position}");
                self.durable();
                self.seek_done(group, shard, position.offset());
            }
            Err(error) => {
                let live = self
                    .members
                    .iter()
                    .any(|member| member.group == group && !member.orphan);
                let reason = error.kind() == Kind::Conflict && live;
                if !self.refused(&error, reason, &format!("{name}/{shard}: seek to {to}")) {
                    self.maybe.seeks.push((group, shard, to));
                }
            }
        }
    }

    pub(crate) fn seek_done(&mut self, group: usize, shard: u32, to: u64) {
        if !self.disk.sim.is_dead() && !self.down {
            self.look_at_dead(group);
        }
        self.void(|ticket| ticket.group == group && ticket.shard == shard);
        self.groups[group].shards[shard as usize] = crate::model::Shard {
            low: to,
            ..Default::default()
        };
        self.volatile
            .retain(|(g, s, ..)| (*g, *s) != (group, shard));
    }

    /// Receipts that are worth nothing from now on.
    pub(crate) fn void(&mut self, which: impl Fn(&Ticket) -> bool) {
        for index in 0..self.outs.len() {
            let ticket = &mut self.outs[index].ticket;
            if ticket.void || !which(ticket) {
                continue;
            }
            ticket.void = true;
            let ticket = ticket.clone();
            self.loosen(&ticket, |state| state == State::Out(ticket.id));
        }
    }

    pub(crate) fn changed(&mut self, what: What, result: Result<u64>) {
        let name = self.name_of(&what);
        match result {
            Ok(count) => {
                note!("{name}: done");
                match &what {
                    What::Redrive(_, numbers) | What::RemoveDead(_, numbers) => {
                        assert_eq!(count, numbers.len() as u64, "{name}");
                    }
                    What::Declare(topic) if self.topics[*topic].alive => {}
                    _ => self.durable(),
                }
                self.change(&what);
            }
            Err(error) => {
                let reason = self.change_may_fail(&what, &error);
                if !self.refused(&error, reason, &name) {
                    self.unknown(what);
                }
            }
        }
    }

    fn name_of(&self, what: &What) -> String {
        let topic = |index: &usize| self.topics[*index].name;
        let group = |index: &usize| self.groups[*index].name;
        match what {
            What::Declare(index) => format!("declare {}", topic(index)),
            What::Delete(index) => format!("delete {}", topic(index)),
            What::Alter(index, count) => format!("{} gets {count} partitions", topic(index)),
            What::Redrive(index, numbers) => format!("{}: redrive {numbers:?}", group(index)),
            What::RemoveDead(index, numbers) => format!("{}: remove {numbers:?}", group(index)),
            What::Edit(index, number, _) => format!("{}: edit {number}", group(index)),
            What::Aside(index, dead) => format!("{}: aside {dead:?}", group(index)),
            What::DeleteGroup(index) => format!("delete {}", group(index)),
            What::Steer(index, steer) => format!("{}: {steer:?}", group(index)),
            _ => String::new(),
        }
    }

    fn change_may_fail(&self, what: &What, error: &Error) -> bool {
        match what {
            What::Delete(topic) | What::Alter(topic, _) => {
                error.is(codes::NO_SUCH_TOPIC) && !self.topics[*topic].alive
            }
            What::DeleteGroup(group) => {
                let live = self
                    .members
                    .iter()
                    .any(|member| member.group == *group && !member.orphan);
                error.kind() == Kind::Conflict && live
            }
            What::Aside(group, dead) => self.aside_may_fail(*group, dead, error),
            _ => false,
        }
    }

    /// A change took effect.
    pub(crate) fn change(&mut self, what: &What) {
        match what {
            What::Declare(topic) if !self.topics[*topic].alive => self.topics[*topic].begin(),
            What::Delete(topic) => self.topic_is_gone(*topic),
            What::Alter(topic, count) => self.partitions_are(*topic, *count),
            What::Redrive(group, numbers) => self.redriven(*group, numbers),
            What::RemoveDead(group, numbers) => {
                self.groups[*group].let_go(numbers);
                numbers.iter().for_each(|number| {
                    self.groups[*group].dead.remove(number);
                });
            }
            What::Edit(group, number, edit) => self.set_edit(*group, *number, *edit),
            What::Aside(group, dead) => {
                self.is_aside(*group, dead);
                self.groups[*group].dying.push(dead.clone());
            }
            What::DeleteGroup(group) => self.group_is_gone(*group),
            What::Steer(group, Steer::Pause(paused)) => {
                self.groups[*group].paused = Some(*paused);
            }
            What::Steer(group, Steer::Attempts(most)) => {
                let group = &mut self.groups[*group];
                group.attempts_before.get_or_insert(group.max_attempts);
                group.max_attempts = *most;
            }
            _ => {}
        }
    }

    pub(crate) fn topic_is_gone(&mut self, topic: usize) {
        self.topics[topic].end();
        for group in 0..self.groups.len() {
            if self.groups[group].topic == topic && self.groups[group].exists {
                self.group_is_gone(group);
            }
        }
    }

    fn group_is_gone(&mut self, group: usize) {
        self.void(|ticket| ticket.group == group);
        self.groups[group].end();
        let members = self.members.iter_mut();
        members
            .filter(|member| member.group == group)
            .for_each(|member| member.orphan = true);
    }

    pub(crate) fn partitions_are(&mut self, topic: usize, count: u32) {
        let parts = &mut self.topics[topic].parts;
        parts.resize_with(count as usize, Default::default);
        for group in self
            .groups
            .iter_mut()
            .filter(|g| g.topic == topic && g.exists)
        {
            group.shards.resize_with(count as usize, Default::default);
        }
    }

    pub(crate) fn redriven(&mut self, group: usize, numbers: &[u64]) {
        let group = &mut self.groups[group];
        for number in numbers {
            let Some(dead) = group.dead.remove(number) else {
                panic!(
                    "{}: dead letter {number} came back and was not there",
                    group.name
                );
            };
            let shard = &mut group.shards[dead.shard as usize];
            shard.holds.remove(&dead.offset);
            // Where the group was sent back over it, it comes again by itself.
            let start = self.topics[group.topic].parts[dead.shard as usize].start;
            let gone = dead.offset < start && shard.state(dead.offset) == State::Free;
            if !gone && shard.state(dead.offset) != State::Settled {
                continue;
            }
            let mut letter = group
                .letters
                .get(number)
                .cloned()
                .unwrap_or_else(|| Letter::of(*number));
            letter.reason = dead.reason.clone();
            let msg = shard.msg(dead.offset);
            *msg = crate::model::Msg {
                state: State::Parked,
                reason: Some(dead.reason),
                redriven: true,
                letter: Some(letter),
                ..crate::model::Msg::fresh(0)
            };
        }
    }

    /// What a call may have done when its answer is lost.
    pub(crate) fn unknown(&mut self, what: What) {
        match what {
            What::Append(send) => self.unsure_send(send),
            What::Commit(units) => units.into_iter().for_each(|unit| self.unsure(unit)),
            What::Claim(claim) => self.maybe_claim(&claim),
            What::Declare(topic) => drop(self.maybe.declared.insert(topic)),
            What::Delete(topic) => drop(self.maybe.deleted.insert(topic)),
            What::Alter(topic, count) => drop(self.maybe.altered.insert(topic, count)),
            What::Join(group, _) => drop(self.maybe.joined.insert(group)),
            What::Seek(group, shard, to) => self.maybe.seeks.push((group, shard, to)),
            What::Redrive(group, numbers) => {
                self.groups[group].let_go(&numbers);
                self.maybe.redriven.push((group, numbers));
            }
            What::Steer(group, Steer::Pause(_)) => self.groups[group].paused = None,
            What::Steer(group, Steer::Attempts(most)) => {
                self.groups[group].maybe_attempts = Some(most);
            }
            What::RemoveDead(group, numbers) => {
                self.groups[group].let_go(&numbers);
                self.maybe.removed.push((group, numbers));
            }
            What::Edit(group, number, edit) => self.maybe.edits.push((group, number, edit)),
            What::Undo(group, run) => self.maybe.undone.push((group, run)),
            What::Aside(group, dead) => self.maybe.aside.push((group, dead)),
            What::DeleteGroup(group) => drop(self.maybe.groups_deleted.insert(group)),
        }
    }

    /// Everything before this moment is durable.
    fn durable(&mut self) {
        self.volatile.clear();
    }
}

/// True when an expectation of `send` is about what an earlier send of the unit changes.
fn follows(unit: &Unit, send: &Send) -> bool {
    let before = unit
        .send
        .iter()
        .take_while(|other| other.order != send.order);
    send.expected != Expect::Any && before.into_iter().any(|other| other.topic == send.topic)
}

pub(crate) fn describe(send: &Send) -> String {
    let serials: Vec<u64> = send.recs.iter().map(|rec| rec.serial).collect();
    format!("{serials:?} to {}/{}", send.topic, send.partition)
}
