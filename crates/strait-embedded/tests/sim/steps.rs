//! What happens in a run: random calls, random time, random faults.

use std::time::Duration;

use bytes::Bytes;
use strait_core::events::{
    AfterDead, Append, Compaction, Expected, GroupChange, GroupSpec, Order, Override, Retention,
    Seek, Start, TopicChange, TopicSpec,
};
use strait_core::{Claim, ClaimToken, Engine, Once, OnceEnd, Outgoing, Position};
use strait_embedded::disk::rng::Rng;

use crate::audit::name;
use crate::consume::Out;
use crate::model::{
    ClaimM, Entry, Expect, Group, OnceM, Rec, Send, State, Steer, Topic, Unit, Verdict,
};
use crate::ops::{Answer, What, describe};
use crate::places::ROOMY;
use crate::trace::note;
use crate::world::World;

/// The topics and groups of a run.
pub(crate) fn cast(rng: &mut Rng) -> (Vec<Topic>, Vec<Group>) {
    let topic = |name, partitions, rng: &mut Rng| Topic {
        name,
        alive: false,
        life: 0,
        versions: false,
        retention: false,
        compacted: false,
        window: [2_000, 600_000][rng.below(2) as usize],
        copies: false,
        first_partitions: partitions,
        parts: Vec::new(),
        ids: Default::default(),
        keys: Default::default(),
    };
    let plain = topic("plain", 1 + rng.below(4) as u32, rng);
    let versions = Topic {
        versions: true,
        ..topic("versions", 1 + rng.below(3) as u32, rng)
    };
    let short = Topic {
        retention: true,
        ..topic("short", 1 + rng.below(2) as u32, rng)
    };
    let graves = Topic {
        copies: true,
        ..topic("graves", 1 + rng.below(2) as u32, rng)
    };
    let newest = Topic {
        compacted: true,
        ..topic("newest", 1 + rng.below(2) as u32, rng)
    };
    let mut group = |name, topic, key_order, dead_topic| {
        let max_attempts = 1 + rng.below(4) as u32;
        Group {
            name,
            topic,
            exists: false,
            key_order,
            max_attempts,
            declared_attempts: max_attempts,
            attempts_before: None,
            maybe_attempts: None,
            paused: Some(false),
            hold_key: key_order && rng.one_in(2),
            max_dead: if rng.one_in(6) { 2 } else { 1000 },
            gap: [2, 10, 10_000][rng.below(3) as usize],
            lease: [1_000, 30_000][rng.below(2) as usize],
            handover: [100, 10_000][rng.below(2) as usize],
            dead_topic,
            shards: Vec::new(),
            dead: Default::default(),
            dying: Vec::new(),
            letters: Default::default(),
            runs: Vec::new(),
        }
    };
    let groups = vec![
        group("keyed", 0, true, None),
        group("free", 0, false, None),
        group("graved", 1, true, Some(3)),
        group("brief", 2, true, None),
    ];
    (vec![plain, versions, short, graves, newest], groups)
}

impl World {
    /// One step of a run.
    pub(crate) fn step(&mut self) {
        if self.disk.sim.is_dead() || self.down {
            let how = self.any_crash();
            return self.crash(how);
        }
        match self.rng.below(100) {
            0..22 => self.append(),
            22..44 => self.poll_someone(),
            44..62 => self.commit(),
            62..68 => self.claim(),
            68..73 => self.pass_time(),
            73..78 => self.join(),
            78..84 => self.member_acts(),
            84..88 => self.administer(),
            88..92 => self.keep_house(),
            92..97 => self.fault(),
            _ => {
                if self.rng.one_in(2) {
                    self.close();
                } else {
                    let how = self.any_crash();
                    self.crash(how);
                }
            }
        }
        if self.engine.is_some() && !self.rng.one_in(3) {
            self.turn();
        }
    }

    // ---- sends ----

    fn pick_topic(&mut self) -> usize {
        [0, 0, 0, 1, 1, 2, 2, 3, 4, 4][self.rng.below(10) as usize]
    }

    fn new_send(&mut self) -> Send {
        let topic = self.pick_topic();
        let partitions = self.topics[topic].parts.len().max(1) as u64;
        // At times one that does not exist.
        let partition =
            self.rng
                .below(partitions + u64::from(self.rng.clone().one_in(30))) as u32;
        let compacted = self.topics[topic].compacted;
        let order = self.next_serial();
        let keep_key = self.rng.one_in(3);
        let key = self.rng.below(4) as u8;
        let count = [1, 1, 2, 5][self.rng.below(4) as usize];
        let recs = (0..count)
            .map(|_| {
                let other = self.rng.below(5) as u8;
                Rec {
                    serial: self.next_serial(),
                    key: if keep_key {
                        Some(key)
                    } else {
                        Some(other).filter(|k| *k < 4 || compacted)
                    },
                    len: 8 + self.rng.below(self.max_body as u64) as usize,
                    edit: None,
                }
            })
            .collect();
        let mut send = Send {
            topic,
            life: self.topics[topic].life,
            partition,
            recs,
            id: u128::from(order) << 64 | 5,
            dedupe: self.rng.one_in(3),
            expected: Expect::Any,
            again: false,
            order,
            at: self.wall(),
            lost_at: i64::MAX,
        };
        self.maybe_resend(&mut send);
        self.maybe_expect(&mut send, keep_key);
        send
    }

    /// At times a batch is sent once more, with its id, as after a lost answer.
    fn maybe_resend(&mut self, send: &mut Send) {
        if !send.dedupe || !self.rng.one_in(2) {
            return;
        }
        let topic = &self.topics[send.topic];
        let count = topic.ids.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.rng.below(count) as usize;
        let Some((id, known)) = self.topics[send.topic]
            .ids
            .iter()
            .nth(at)
            .map(|(id, known)| (*id, *known))
        else {
            return;
        };
        let part = &self.topics[send.topic].parts[known.partition as usize];
        let batch = |serial: u64| {
            self.sent_batches
                .get(&id)
                .is_some_and(|all| all.contains(&serial))
        };
        let recs: Vec<Rec> = part
            .recs
            .range(known.first..)
            .map(|(_, rec)| rec.clone())
            .take_while(|rec| batch(rec.serial))
            .collect();
        if recs.is_empty() {
            return;
        }
        send.recs = recs;
        send.id = id;
        send.again = true;
    }

    fn maybe_expect(&mut self, send: &mut Send, one_key: bool) {
        let topic = &self.topics[send.topic];
        let Some(part) = topic.parts.get(send.partition as usize) else {
            return;
        };
        if send.again || !topic.alive || topic.copies || !self.rng.one_in(5) {
            return;
        }
        let off = u64::from(self.rng.one_in(4));
        if topic.versions && one_key {
            let versions = topic
                .keys
                .get(&send.recs[0].key.unwrap_or(0))
                .map_or(0, Vec::len) as u64;
            send.expected = Expect::Version(versions + off);
        } else {
            send.expected = Expect::Position(part.end() + off);
        }
    }

    fn remember_batch(&mut self, send: &Send) {
        if send.dedupe && !send.again {
            let serials = send.recs.iter().map(|rec| rec.serial).collect();
            self.sent_batches.insert(send.id, serials);
        }
    }

    fn append(&mut self) {
        let send = self.new_send();
        if !self.topics[send.topic].alive {
            return self.declare(send.topic);
        }
        self.remember_batch(&send);
        note!(
            "append {}{}, {:?}",
            describe(&send),
            if send.again { " again" } else { "" },
            send.expected
        );
        let append = Append {
            topic: name(self.topics[send.topic].name),
            partition: send.partition,
            records: send.records(),
            expected: expected(&send),
            dedupe: send.dedupe,
        };
        let future = self.events().append(append);
        self.call(
            What::Append(send),
            Box::pin(async move { Answer::Sent(future.await) }),
        );
    }

    // ---- consuming ----

    fn poll_someone(&mut self) {
        if self.members.is_empty() {
            return self.join();
        }
        let index = self.rng.below(self.members.len() as u64) as usize;
        let items = [1, 2, 5, 50][self.rng.below(4) as usize];
        let bytes = [1, 300, 1 << 20][self.rng.below(3) as usize];
        // What is there is taken over a few turns.
        for _ in 0..1 + self.rng.below(4) {
            let id = self.members.get(index).map(|member| member.id);
            let came = id.is_some() && self.poll_member(index, items, bytes);
            if !came
                && (self.down
                    || self.disk.sim.is_dead()
                    || self.members.get(index).map(|m| m.id) != id)
            {
                return;
            }
            if !came {
                self.turn();
                if self.down {
                    return;
                }
            }
        }
    }

    /// A receipt that may be settled now by the rules of the lane: nothing earlier of its keys waits.
    pub(crate) fn may_settle(&self, out: &Out) -> bool {
        let ticket = &out.ticket;
        if ticket.void || !self.groups[ticket.group].key_order {
            return true;
        }
        ticket.offsets().all(|offset| {
            !self.is_held(ticket.group, ticket.shard, offset)
                && self
                    .earlier_of_key(ticket.group, ticket.shard, offset)
                    .iter()
                    .all(|earlier| {
                        let shard = &self.groups[ticket.group].shards[ticket.shard as usize];
                        ticket.offsets().contains(earlier)
                            || matches!(shard.state(*earlier), State::Settled | State::Unsure(_))
                    })
        })
    }

    /// Takes a receipt out, at times only a part of it.
    fn take_out(&mut self, index: usize) -> Out {
        let mut out = self.outs.swap_remove(index);
        let count = out.receipt.count();
        if count > 1 && self.rng.one_in(3) {
            let at = 1 + self.rng.below(u64::from(count) - 1) as u32;
            let head = out.receipt.split_at(at).expect("it is within the receipt");
            let mut ticket = out.ticket.clone();
            ticket.attempts.truncate(at as usize);
            let mut rest = out;
            rest.ticket.first += u64::from(at);
            rest.ticket.attempts.drain(..at as usize);
            let before = std::mem::replace(&mut rest.ticket.id, self.next_serial());
            self.is_out(before, &rest.ticket);
            self.outs.push(rest);
            out = Out {
                ticket,
                receipt: head,
            };
        }
        out
    }

    /// The messages of a receipt are out under its number now, and not under that of the whole any more.
    fn is_out(&mut self, before: u64, ticket: &crate::model::Ticket) {
        if ticket.void {
            return;
        }
        let shard = &mut self.groups[ticket.group].shards[ticket.shard as usize];
        for offset in ticket.offsets() {
            let msg = shard.msg(offset);
            if msg.state == State::Out(before) {
                msg.state = State::Out(ticket.id);
            }
        }
    }

    fn verdict(&mut self) -> Verdict {
        let number = self.next_serial();
        let after = [0, 10, 1_500, 60_000][self.rng.below(4) as usize];
        match self.rng.below(10) {
            0..6 => Verdict::Done,
            6..8 => Verdict::Retry {
                after,
                reason: format!("failure {number}"),
                counts: !self.rng.one_in(4),
            },
            8 => Verdict::Dead(format!("given up {number}")),
            _ => Verdict::Release,
        }
    }

    /// Commits one or two units, each with receipts, sends, a claim, or under a receipt.
    fn commit(&mut self) {
        let mut units = Vec::new();
        let mut models = Vec::new();
        for _ in 0..1 + u64::from(self.rng.one_in(4)) {
            let (unit, model) = self.new_unit();
            note!(
                "unit {}: {:?}, sends {}, {:?}, under {:?}",
                model.id,
                model
                    .settle
                    .iter()
                    .map(|(t, v)| (self.groups[t.group].name, t.shard, t.offsets(), t.void, v))
                    .collect::<Vec<_>>(),
                model
                    .send
                    .iter()
                    .map(describe)
                    .collect::<Vec<_>>()
                    .join(" and "),
                model.once,
                model.under
            );
            units.push(unit);
            models.push(model);
        }
        self.commit_units(units, models);
    }

    pub(crate) fn commit_units(&mut self, units: Vec<strait_core::Unit>, models: Vec<Unit>) {
        let future = self.engine().engine().commit(units);
        self.call(
            What::Commit(models),
            Box::pin(async move { Answer::Outcomes(future.await) }),
        );
    }

    fn new_unit(&mut self) -> (strait_core::Unit, Unit) {
        let id = self.next_serial();
        let mut settle = Vec::new();
        for _ in 0..1 + self.rng.below(2) {
            self.pick_settle(&mut settle);
        }
        let send: Vec<Send> = (0..self.rng.below(3))
            .map(|_| self.new_send())
            .filter(|send| !send.again)
            .collect();
        send.iter().for_each(|send| self.remember_batch(send));
        let once = if self.rng.one_in(5) {
            self.new_once()
        } else {
            None
        };
        let (mut under, mut under_void) = (None, None);
        if self.rng.one_in(8) && !self.outs.is_empty() {
            let at = self.rng.below(self.outs.len() as u64) as usize;
            under = Some(self.outs[at].receipt.fence());
            under_void = Some(self.outs[at].ticket.void);
        }
        self.assemble(id, settle, send, once, (under, under_void))
    }

    pub(crate) fn assemble(
        &mut self,
        id: u64,
        settle: Vec<(Out, Verdict)>,
        send: Vec<Send>,
        once: Option<OnceM>,
        under: (Option<strait_core::Fence>, Option<bool>),
    ) -> (strait_core::Unit, Unit) {
        let model = Unit {
            id,
            settle: settle
                .iter()
                .map(|(out, verdict)| (out.ticket.clone(), verdict.clone()))
                .collect(),
            send,
            once,
            at: self.wall(),
            under: under.1,
        };
        for (ticket, _) in model.settle.iter().filter(|(ticket, _)| !ticket.void) {
            let shard = &mut self.groups[ticket.group].shards[ticket.shard as usize];
            for offset in ticket.offsets() {
                let msg = shard.msg(offset);
                if msg.state == State::Out(ticket.id) {
                    msg.state = State::Sent(id);
                }
            }
        }
        let unit = strait_core::Unit {
            settle: settle
                .into_iter()
                .map(|(out, verdict)| (out.receipt, real(&verdict)))
                .collect(),
            send: model.send.iter().map(|send| self.outgoing(send)).collect(),
            once: model.once.as_ref().map(real_once),
            under: under.0,
        };
        (unit, model)
    }

    fn outgoing(&self, send: &Send) -> Outgoing {
        Outgoing::Append {
            topic: name(self.topics[send.topic].name),
            partition: send.partition,
            records: send.records(),
            expected: expected(send),
            dedupe: send.dedupe,
        }
    }

    /// Picks a receipt and a verdict. After `Retry` and `Release` the later ones of its keys go back with it.
    fn pick_settle(&mut self, settle: &mut Vec<(Out, Verdict)>) {
        if self.outs.is_empty() {
            return;
        }
        let index = self.rng.below(self.outs.len() as u64) as usize;
        if !self.may_settle(&self.outs[index]) {
            return;
        }
        let out = self.take_out(index);
        let verdict = self.verdict();
        let ticket = out.ticket.clone();
        settle.push((out, verdict.clone()));
        if ticket.void
            || !self.groups[ticket.group].key_order
            || !self.comes_between(ticket.group, &verdict)
        {
            return;
        }
        let keys = self.keys_of(&ticket);
        let mut at = 0;
        while at < self.outs.len() {
            let other = &self.outs[at].ticket;
            let same = !other.void
                && (other.group, other.shard, other.member)
                    == (ticket.group, ticket.shard, ticket.member);
            if same
                && other.first > ticket.first
                && self.keys_of(other).iter().any(|key| keys.contains(key))
            {
                let out = self.outs.swap_remove(at);
                settle.push((out, Verdict::Release));
            } else {
                at += 1;
            }
        }
    }

    /// True when the later messages of its key go back.
    fn comes_between(&self, group: usize, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Retry { .. } | Verdict::Release => true,
            Verdict::Dead(_) => self.groups[group].hold_key,
            Verdict::Done => false,
        }
    }

    fn keys_of(&self, ticket: &crate::model::Ticket) -> Vec<u8> {
        let part = &self.topics[self.groups[ticket.group].topic].parts[ticket.shard as usize];
        ticket
            .offsets()
            .filter_map(|offset| part.recs.get(&offset)?.key)
            .collect()
    }

    // ---- the ledger ----

    fn claim(&mut self) {
        let claim = ClaimM {
            key: self.rng.below(5) as u8,
            holder: self.rng.below(3) as u8,
            lease: [500, 20_000][self.rng.below(2) as usize],
            at_most_once: self.rng.one_in(3),
        };
        note!("claim {claim:?}");
        let real = Claim {
            scope: "sim".into(),
            key: claim.key.to_string(),
            holder: claim.holder.to_string(),
            lease: Duration::from_millis(claim.lease as u64),
            wait: Duration::ZERO,
            at_most_once: claim.at_most_once,
        };
        let future = self.engine().engine().claim(real);
        self.call(
            What::Claim(claim),
            Box::pin(async move { Answer::Claimed(future.await) }),
        );
    }

    fn new_once(&mut self) -> Option<OnceM> {
        let key = self.rng.below(5) as u8;
        let token = self.entries(key).iter().find_map(|entry| match entry {
            Entry::Running { token, .. } => *token,
            _ => None,
        });
        let claim = match self.rng.below(4) {
            0 => None,
            1 => Some(token.unwrap_or(0) + 1000),
            _ => Some(token?),
        };
        let store = (self.rng.below(4) > 0).then(|| {
            let ttl = [1_000, 500_000][self.rng.below(2) as usize];
            (self.next_serial(), ttl)
        });
        Some(OnceM { key, claim, store })
    }

    // ---- time, members, housekeeping, faults ----

    fn pass_time(&mut self) {
        let by = [1, 10, 200, 1_100, 12_000, 35_000][self.rng.below(6) as usize];
        note!("{by} ms pass");
        self.clock.advance(by);
        if self.rng.one_in(4) {
            let jump = self.rng.below(200_000) as i64 - 100_000;
            note!("the wall clock jumps by {jump} ms, under an open engine");
            self.clock.jump(jump);
        }
    }

    fn join(&mut self) {
        let group = self.rng.below(self.groups.len() as u64) as usize;
        let there = self
            .members
            .iter()
            .filter(|member| member.group == group && !member.orphan)
            .count();
        let topics = [
            Some(self.groups[group].topic),
            self.groups[group].dead_topic,
        ];
        for topic in topics.into_iter().flatten() {
            if !self.topics[topic].alive {
                return self.declare(topic);
            }
        }
        if there < 2 {
            self.join_group(group);
        }
    }

    pub(crate) fn join_group(&mut self, group: usize) {
        let member = self.next_serial();
        let found = &self.groups[group];
        note!("{}: member {member} is to join", found.name);
        let spec = GroupSpec {
            member: member.to_string(),
            start: if found.exists || !member.is_multiple_of(4) {
                Start::Earliest
            } else {
                Start::Latest
            },
            order: if found.key_order {
                Order::Key
            } else {
                Order::Free
            },
            lease: Duration::from_millis(found.lease),
            max_attempts: found.declared_attempts,
            max_dead: found.max_dead,
            gap: found.gap,
            handover: Duration::from_millis(found.handover),
            dead_topic: found.dead_topic.map(|topic| name(self.topics[topic].name)),
            after_dead: if found.hold_key {
                AfterDead::HoldKey
            } else {
                AfterDead::Continue
            },
            ..GroupSpec::new(name(found.name), name(self.topics[found.topic].name))
        };
        let future = self.events().join(spec);
        self.call(
            What::Join(group, member),
            Box::pin(async move { Answer::Consumer(future.await) }),
        );
        // Alone in its turn: whom it takes partitions from is known at once.
        self.turn();
        self.may_move(group);
    }

    fn member_acts(&mut self) {
        match self.rng.below(6) {
            0 => self.drop_receipt(),
            1 if !self.members.is_empty() => {
                let index = self.rng.below(self.members.len() as u64) as usize;
                self.remove_member(index);
            }
            2 => self.extend(),
            3 => self.hold(),
            _ => self.hand_back(),
        }
    }

    fn drop_receipt(&mut self) {
        if self.outs.is_empty() {
            return;
        }
        let index = self.rng.below(self.outs.len() as u64) as usize;
        let Out { ticket, receipt } = self.take_out(index);
        note!(
            "{}/{}: {:?} is dropped",
            self.groups[ticket.group].name,
            ticket.shard,
            ticket.offsets()
        );
        drop(receipt);
        if !ticket.void {
            self.loosen(&ticket, |state| state == State::Out(ticket.id));
        }
    }

    fn extend(&mut self) {
        if self.outs.is_empty() {
            return;
        }
        let index = self.rng.below(self.outs.len() as u64) as usize;
        let (ticket, fence) = (
            self.outs[index].ticket.clone(),
            self.outs[index].receipt.fence(),
        );
        let member = self
            .members
            .iter()
            .find(|member| member.id == ticket.member);
        let Some(consumer) = member.and_then(|member| member.consumer.as_ref()) else {
            return;
        };
        let by = [500, 20_000][self.rng.below(2) as usize];
        let held = self.now(
            consumer
                .control
                .extend(vec![fence], Duration::from_millis(by)),
        );
        let held = held.expect("the engine is open")[0];
        let now = self.mono();
        note!("{:?} extended by {by}: {held}", ticket.offsets());
        assert!(!(held && ticket.void), "a void receipt was extended");
        assert!(
            held || ticket.void || now >= ticket.ends.0,
            "a valid receipt was not extended"
        );
        if held {
            self.outs[index].ticket.ends = (now + by, now + by);
            let group = ticket.group;
            if self
                .members
                .iter()
                .filter(|member| member.group == group)
                .count()
                > 1
            {
                // A partition on its way ends it earlier.
                self.outs[index].ticket.ends.0 = now;
            }
        }
    }

    fn hold(&mut self) {
        if self.members.is_empty() {
            return;
        }
        let index = self.rng.below(self.members.len() as u64) as usize;
        let shard = self.rng.below(4) as u32;
        let member = &mut self.members[index];
        let Some(consumer) = &member.consumer else {
            return;
        };
        let held = member.held.contains(&shard);
        consumer.control.hold(shard, !held);
        if held {
            member.held.retain(|other| *other != shard);
        } else {
            member.held.push(shard);
        }
    }

    pub(crate) fn hand_back(&mut self) {
        let Some(index) = self
            .members
            .iter()
            .position(|member| !member.revoking.is_empty())
        else {
            return;
        };
        let member = &mut self.members[index];
        let Some(shard) = member.revoking.pop() else {
            return;
        };
        let Some(consumer) = &member.consumer else {
            return;
        };
        consumer.control.handed_back(shard);
        let (id, group) = (member.id, member.group);
        note!(
            "{}: member {id} hands {shard} back",
            self.groups[group].name
        );
        self.handed_back.push((id, shard));
        self.turn();
        self.may_move(group);
    }

    fn keep_house(&mut self) {
        let checkpointing = self.engine().is_checkpointing();
        let done = match (checkpointing, self.rng.below(4)) {
            (false, 0..3) if self.rng.one_in(12) => {
                self.back_up();
                Ok(())
            }
            (false, 0..3) => {
                note!("housekeeping");
                self.engine().keep();
                self.clean();
                Ok(())
            }
            (false, _) => {
                note!("a checkpoint begins");
                self.engine().begin_checkpoint()
            }
            (true, 0..2) => self.engine().write_section().map(|_| ()),
            (true, _) => {
                note!("the checkpoint ends");
                self.latest = self.latest.max(self.wall());
                let done = self.engine().finish_checkpoint();
                self.turn();
                done
            }
        };
        if let Err(error) = done {
            note!("housekeeping: {error}");
        }
    }

    /// Some steps of the cleaner. What waits is decided before: the last one makes a turn of its own.
    fn clean(&mut self) {
        self.turn();
        for _ in 0..self.rng.below(20) {
            if self.down || self.disk.sim.is_dead() || !self.engine().clean() {
                break;
            }
            note!("the cleaner makes a step");
        }
        if !self.down {
            self.turn();
        }
    }

    fn fault(&mut self) {
        let sim = &self.disk.sim;
        match self.rng.below(10) {
            0..4 => {
                let n = 1 + self.rng.below(12);
                note!("the machine will die at change {n}");
                sim.die_at(n);
            }
            4 => {
                note!("a sync will fail");
                sim.fail_sync(1 + self.rng.below(3));
            }
            5 => {
                note!("a write will fail");
                sim.fail_write(1 + self.rng.below(3));
            }
            6..8 => {
                let room = self.rng.below(40 << 10);
                note!("the disk has {room} bytes left");
                sim.set_capacity(sim.allocated() + room);
                self.short = true;
            }
            _ => self.space(),
        }
    }

    pub(crate) fn space(&mut self) {
        note!("the disk has space");
        self.disk.sim.set_capacity(ROOMY);
        if !self.engine().is_checkpointing() {
            self.engine().keep();
            self.turn();
            // A fault that was planned may have kept it from finding the space.
            self.short = self.down || self.disk.sim.is_dead() || !self.engine().has_room();
        }
    }

    // ---- operating ----

    fn administer(&mut self) {
        // Alone in its turn, after what waits: what it does is then known, or may be, as a whole.
        self.turn();
        if self.down {
            return;
        }
        match self.rng.below(16) {
            0..2 => self.alter(),
            2 => self.delete_topic(),
            3..7 => self.seek_somewhere(),
            7..10 => self.redrive(),
            10..13 => {
                for _ in 0..3 {
                    if let Some(group) = self.some_group().filter(|_| !self.down) {
                        self.dead_work(group);
                        self.turn();
                    }
                }
            }
            13..15 => self.steer_somehow(),
            _ => self.delete_group(),
        }
        if !self.down {
            self.turn();
        }
    }

    pub(crate) fn declare(&mut self, topic: usize) {
        self.turn();
        if self.down {
            return;
        }
        let found = &self.topics[topic];
        note!("declare {}", found.name);
        let spec = TopicSpec {
            name: name(found.name),
            partitions: Some(found.first_partitions),
            retention: found.retention.then_some(Retention {
                age: Some(Duration::from_secs(20)),
                bytes: Some(12 << 10),
            }),
            key_versions: Some(found.versions),
            dedupe_window: Some(Duration::from_millis(found.window as u64)),
            compaction: found.compacted.then_some(Compaction {
                min_lag: Duration::from_millis(500),
                tombstones: Duration::ZERO,
            }),
        };
        let future = self.events().declare(spec);
        self.call(
            What::Declare(topic),
            Box::pin(async move { Answer::Topic(future.await) }),
        );
        self.turn();
    }

    fn alter(&mut self) {
        let topic = self.pick_topic();
        let count = self.topics[topic].parts.len() as u32 + 1;
        if !self.topics[topic].alive || count > 5 {
            return;
        }
        note!("{} is to get {count} partitions", self.topics[topic].name);
        let change = TopicChange {
            partitions: Some(count),
            retention: None,
            ..TopicChange::default()
        };
        let future = self.events().alter(name(self.topics[topic].name), change);
        self.call(
            What::Alter(topic, count),
            Box::pin(async move { Answer::Topic(future.await) }),
        );
    }

    fn delete_topic(&mut self) {
        let topic = self.pick_topic();
        if !self.topics[topic].alive {
            return;
        }
        note!("{} is to be deleted", self.topics[topic].name);
        let future = self.events().delete(name(self.topics[topic].name));
        self.call(
            What::Delete(topic),
            Box::pin(async move { Answer::Done(future.await) }),
        );
    }

    fn delete_group(&mut self) {
        let Some(group) = self.some_group() else {
            return;
        };
        note!("{} is to be deleted", self.groups[group].name);
        let topic = name(self.topics[self.groups[group].topic].name);
        let future = self
            .events()
            .delete_group(name(self.groups[group].name), topic);
        self.call(
            What::DeleteGroup(group),
            Box::pin(async move { Answer::Done(future.await) }),
        );
    }

    fn steer_somehow(&mut self) {
        let Some(group) = self.some_group() else {
            return;
        };
        let found = &self.groups[group];
        let steer = if found.max_attempts < 8 && self.rng.clone().one_in(3) {
            Steer::Attempts(found.max_attempts + 1)
        } else {
            Steer::Pause(found.paused != Some(true))
        };
        self.steer(group, steer);
    }

    pub(crate) fn steer(&mut self, group: usize, steer: Steer) {
        note!("{}: {steer:?}", self.groups[group].name);
        let change = match steer {
            Steer::Pause(true) => GroupChange {
                pause: Override::Set("simulated".into()),
                ..GroupChange::default()
            },
            Steer::Pause(false) => GroupChange {
                pause: Override::Lift,
                ..GroupChange::default()
            },
            Steer::Attempts(most) => GroupChange {
                max_attempts: Override::Set(most),
                ..GroupChange::default()
            },
        };
        let topic = name(self.topics[self.groups[group].topic].name);
        let future = self
            .events()
            .alter_group(name(self.groups[group].name), topic, change);
        self.call(
            What::Steer(group, steer),
            Box::pin(async move { Answer::Done(future.await.map(drop)) }),
        );
    }

    pub(crate) fn some_group(&mut self) -> Option<usize> {
        let group = self.rng.below(self.groups.len() as u64) as usize;
        self.groups[group].exists.then_some(group)
    }

    fn seek_somewhere(&mut self) {
        let Some(group) = self.some_group() else {
            return;
        };
        let shard = self.rng.below(self.groups[group].shards.len() as u64) as u32;
        let part = &self.topics[self.groups[group].topic].parts[shard as usize];
        let (start, end) = (part.start, part.end());
        let to = start + self.rng.below(end - start + 1);
        self.seek(group, shard, to);
    }

    pub(crate) fn seek(&mut self, group: usize, shard: u32, to: u64) {
        let topic = self.groups[group].topic;
        let to = to.max(self.topics[topic].parts[shard as usize].start);
        note!("{}/{shard} is to stand at {to}", self.groups[group].name);
        let seek = Seek {
            group: name(self.groups[group].name),
            topic: name(self.topics[topic].name),
            partition: shard,
            to: Start::At(Position::at(to)),
            force: self.members.is_empty() || !self.rng.one_in(4),
        };
        let future = self.events().seek(seek);
        self.call(
            What::Seek(group, shard, to),
            Box::pin(async move { Answer::Position(future.await) }),
        );
    }
}

fn expected(send: &Send) -> Expected {
    match send.expected {
        Expect::Any => Expected::Any,
        Expect::Position(at) => Expected::Position(Position::at(at)),
        Expect::Version(version) => Expected::KeyVersion(version),
    }
}

fn real(verdict: &Verdict) -> strait_core::Verdict {
    match verdict {
        Verdict::Done => strait_core::Verdict::Done,
        Verdict::Retry {
            after,
            reason,
            counts,
        } => strait_core::Verdict::Retry {
            after: Duration::from_millis(*after as u64),
            reason: reason.as_str().into(),
            counts: *counts,
        },
        Verdict::Dead(reason) => strait_core::Verdict::Dead(reason.as_str().into()),
        Verdict::Release => strait_core::Verdict::Release,
    }
}

fn real_once(once: &OnceM) -> Once {
    let end = match once.store {
        Some((result, ttl)) => OnceEnd::Store {
            result: Bytes::copy_from_slice(&result.to_le_bytes()),
            ttl: Duration::from_millis(ttl as u64),
        },
        None => OnceEnd::Forget,
    };
    Once {
        scope: "sim".into(),
        key: once.key.to_string(),
        claim: once.claim.map(ClaimToken),
        end,
    }
}
