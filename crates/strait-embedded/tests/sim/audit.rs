//! What the engine has is held against the model: after every turn in short, after every opening in full.

use std::collections::{BTreeMap, BTreeSet};

use strait_core::events::{Cursor, DeadFilter, DeadLetter, GroupInfo, ReadKey};
use strait_core::{Chunk, Name, Position};

use crate::model::{Dead, Letter, Part, Send, State, Unit, Verdict, edit_of, key_bytes, serial_of};
use crate::ops::{What, describe};
use crate::trace::note;
use crate::world::World;

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a plain name")
}

/// Records that nobody acknowledged, by serial.
type Found = BTreeMap<u64, (usize, u32, u64)>;

/// What compaction removed of a partition, and the newest record of each key that is there.
#[derive(Debug, Default)]
struct Superseded {
    missing: Vec<u64>,
    newest: BTreeMap<Option<u8>, u64>,
}

impl Superseded {
    fn check(&self, part: &Part, place: &str) {
        for offset in &self.missing {
            let Some(rec) = part.recs.get(offset) else {
                continue;
            };
            let newest = self.newest.get(&rec.key);
            assert!(
                newest.is_some_and(|newest| newest > offset),
                "{place}: {offset} is gone, and nothing newer of its key {:?} is there",
                rec.key
            );
        }
    }
}

fn key_of(record: &strait_core::Record<'_>) -> Option<u8> {
    let digit = record.key().and_then(|key| key.get(4));
    digit.map(|digit| digit - b'0')
}

impl World {
    /// After a turn that went well.
    pub(crate) fn after_turn(&mut self) {
        for (group, member) in std::mem::take(&mut self.leaving) {
            self.void(|ticket| ticket.member == member);
            self.may_move(group);
        }
        for (member, shard) in std::mem::take(&mut self.handed_back) {
            self.void(|ticket| ticket.member == member && ticket.shard == shard);
        }
        let now = self.mono();
        self.void(|ticket| ticket.ends.1 <= now);
        self.look_at_starts();
        for group in 0..self.groups.len() {
            if !self.groups[group].exists {
                continue;
            }
            let whole = self.rng.one_in(3);
            if whole || !self.groups[group].dying.is_empty() {
                self.look_at_dead(group);
            }
            if whole {
                self.look_at_lag(group);
            }
        }
    }

    /// Shards of the group may go to other members when the time to hand them over is past.
    pub(crate) fn may_move(&mut self, group: usize) {
        let until = self.mono() + self.groups[group].handover;
        for out in &mut self.outs {
            if out.ticket.group == group {
                out.ticket.ends.0 = out.ticket.ends.0.min(until);
            }
        }
    }

    /// Retention moves the starts, never over what is parked.
    fn look_at_starts(&mut self) {
        for topic in 0..self.topics.len() {
            if !self.topics[topic].alive || !self.topics[topic].retention {
                continue;
            }
            let info = self.now(self.events().topic(name(self.topics[topic].name)));
            let info = info.expect("it is alive");
            for (partition, found) in (0u32..).zip(&info.partitions) {
                self.start_is(topic, partition, found.start.offset());
            }
        }
    }

    fn start_is(&mut self, topic: usize, partition: u32, start: u64) {
        let before = self.topics[topic].parts[partition as usize].start;
        let place = format!("{}/{partition}", self.topics[topic].name);
        assert!(
            start >= before,
            "{place}: the start went back from {before} to {start}"
        );
        if start == before {
            return;
        }
        note!("{place} starts at {start}");
        assert!(
            self.topics[topic].retention,
            "{place} has no retention, and starts at {start}"
        );
        self.topics[topic].parts[partition as usize].start = start;
        for group in self.groups.iter().filter(|g| g.exists && g.topic == topic) {
            let Some(shard) = group.shards.get(partition as usize) else {
                continue;
            };
            let parked = shard
                .msgs
                .range(..start)
                .find(|(_, msg)| msg.state == State::Parked && !msg.redriven);
            assert!(
                parked.is_none(),
                "{place}: retention removed {parked:?}, which is parked in {}",
                group.name
            );
        }
    }

    fn group_info(&self, group: usize) -> GroupInfo {
        let group = &self.groups[group];
        let info = self
            .events()
            .group(name(group.name), name(self.topics[group.topic].name));
        self.now(info)
            .unwrap_or_else(|error| panic!("{} is lost: {error:?}", group.name))
    }

    /// A group was made: it begins where the engine says, which must be at the earliest.
    pub(crate) fn group_is_there(&mut self, group: usize) {
        let info = self.group_info(group);
        let topic = self.groups[group].topic;
        let mut shards = Vec::new();
        for (shard, part) in info.shards.iter().zip(&self.topics[topic].parts) {
            let low = shard.committed.offset();
            assert!(
                low <= part.end(),
                "{} begins at {low}, behind the end",
                self.groups[group].name
            );
            shards.push(crate::model::Shard {
                low,
                ..Default::default()
            });
        }
        assert_eq!(shards.len(), self.topics[topic].parts.len());
        self.groups[group].exists = true;
        self.groups[group].shards = shards;
    }

    /// What the group says is unsettled is what the model thinks.
    pub(crate) fn look_at_lag(&self, group: usize) {
        let info = self.group_info(group);
        let model = &self.groups[group];
        let topic = &self.topics[model.topic];
        assert_eq!(
            info.shards.len(),
            model.shards.len(),
            "{}: shards",
            model.name
        );
        for (shard, (found, (state, part))) in info
            .shards
            .iter()
            .zip(model.shards.iter().zip(&topic.parts))
            .enumerate()
        {
            if state.fuzzy {
                continue;
            }
            let (least, most) = state.lag(part);
            let place = format!("{}/{shard}", model.name);
            assert!(
                (least..=most).contains(&found.lag),
                "{place}: the lag is {}, {least}..={most} messages are not settled",
                found.lag
            );
            let unsettled = (state.low.max(part.start)..part.end())
                .find(|offset| !matches!(state.state(*offset), State::Settled | State::Unsure(_)));
            let redriven = |offset: &u64| state.msgs.get(offset).is_some_and(|msg| msg.redriven);
            if let Some(first) = unsettled.filter(|offset| !redriven(offset)) {
                let low = found.committed.offset();
                assert!(
                    low <= first,
                    "{place}: {first} is not settled, and {low} is committed"
                );
            }
        }
    }

    pub(crate) fn dead_letters(&self, group: usize) -> Vec<DeadLetter> {
        let group = &self.groups[group];
        let topic = name(self.topics[group.topic].name);
        let listed = self.events().dead_letters(
            name(group.name),
            topic,
            DeadFilter::default(),
            0,
            usize::MAX,
        );
        self.now(listed)
            .unwrap_or_else(|error| panic!("{}: dead letters: {error:?}", group.name))
    }

    /// The dead letters are complete, and none was invented.
    pub(crate) fn look_at_dead(&mut self, group: usize) {
        let mut known = self.groups[group].dead.clone();
        let place = self.groups[group].name;
        for letter in self.dead_letters(group) {
            let (shard, offset) = (
                letter.message.partition(),
                letter.message.position().offset(),
            );
            match known.remove(&letter.number) {
                Some(dead) => {
                    let found = (shard, offset, &*letter.reason);
                    assert_eq!(
                        (dead.shard, dead.offset, &*dead.reason),
                        found,
                        "{place}: letter {}",
                        letter.number
                    );
                }
                None => self.new_dead(group, &letter, shard, offset),
            }
            self.check_letter(group, &letter);
        }
        assert!(
            known.is_empty(),
            "{place}: dead letters are lost: {known:?}"
        );
        let dying = &self.groups[group].dying;
        assert!(
            dying.is_empty(),
            "{place}: given up, and no dead letters: {dying:?}"
        );
        self.groups[group].attempts_before = None;
    }

    fn new_dead(&mut self, group: usize, letter: &DeadLetter, shard: u32, offset: u64) {
        let place = format!("{}/{shard} offset {offset}", self.groups[group].name);
        let dead = Dead {
            shard,
            offset,
            reason: letter.reason.to_string(),
        };
        note!(
            "{place} is dead letter {}: {}",
            letter.number,
            letter.reason
        );
        let after = self.groups[group]
            .dead
            .last_key_value()
            .map_or(0, |(number, _)| number + 1);
        assert!(
            letter.number >= after,
            "{place}: number {} was used before",
            letter.number
        );
        let found = self.groups[group]
            .dying
            .iter()
            .position(|other| *other == dead);
        match found {
            Some(index) => drop(self.groups[group].dying.remove(index)),
            None => self.died_unseen(group, &dead, letter, &place),
        }
        let msg = &self.groups[group].shards[shard as usize].msg(offset).letter;
        if let Some(before) = msg.clone() {
            let known = Letter {
                body: before.comes_as(),
                deaths: before.deaths + 1,
                ..Letter::of(letter.number)
            };
            self.groups[group].letters.insert(letter.number, known);
            // A letter that is settled is no longer on its way.
            self.groups[group].shards[shard as usize].msg(offset).letter = None;
        }
        self.groups[group].dead.insert(letter.number, dead);
    }

    /// A unit that was under way, or the engine gave it up after its last attempt was lost.
    fn died_unseen(&mut self, group: usize, dead: &Dead, letter: &DeadLetter, place: &str) {
        let shard = &mut self.groups[group].shards[dead.shard as usize];
        let lost = letter.reason.starts_with("lost in ");
        if let State::Unsure(unit) = shard.state(dead.offset) {
            self.resolve_unit(unit, !lost || self.is_failure_of(unit, &letter.reason));
        }
        let aside = |(which, other): &(usize, Dead)| *which == group && other == dead;
        if self.maybe.aside.iter().any(aside) {
            return self.is_aside(group, dead);
        }
        if !lost {
            let dying = &mut self.groups[group].dying;
            let index = dying.iter().position(|other| other == dead);
            dying.remove(index.unwrap_or_else(|| panic!("{place} died otherwise: {dead:?}")));
            return;
        }
        let group = &mut self.groups[group];
        let max = group.attempts_before.unwrap_or(group.max_attempts);
        let msg = group.shards[dead.shard as usize].msg(dead.offset);
        assert!(
            msg.hi >= max && msg.state != State::Settled,
            "{place} died by itself: {dead:?}, {msg:?}"
        );
        msg.state = State::Settled;
    }

    /// True when the unit, if it happened, gave a message back with the failure that `reason` ends with.
    fn is_failure_of(&self, unit: u64, reason: &str) -> bool {
        let unit = self.maybe.units.iter().find(|other| other.id == unit);
        let verdicts = unit.into_iter().flat_map(|unit| &unit.settle);
        verdicts.into_iter().any(|(_, verdict)| {
            matches!(verdict, Verdict::Retry { reason: failure, .. } if reason.ends_with(&format!(": {failure}")))
        })
    }

    // ---- after opening ----

    /// Everything that was acknowledged is there, and of the rest all or nothing.
    pub(crate) fn audit(&mut self) {
        self.audit_topics();
        let mut found = Found::new();
        for topic in 0..self.topics.len() {
            if self.topics[topic].alive {
                self.audit_topic(topic, &mut found);
            }
        }
        self.audit_sends(found);
        self.audit_groups();
        for topic in 0..self.topics.len() {
            self.audit_keys(topic);
        }
        self.forget_maybes();
    }

    fn audit_topics(&mut self) {
        let listed = self.now(self.events().topics()).expect("topics are listed");
        let names: BTreeSet<String> = listed.iter().map(|info| info.name.to_string()).collect();
        for index in 0..self.topics.len() {
            let topic = &self.topics[index];
            let there = names.contains(topic.name);
            if there && !topic.alive {
                assert!(
                    self.maybe.declared.contains(&index),
                    "{} came back",
                    topic.name
                );
                self.change(&What::Declare(index));
            } else if !there && topic.alive {
                assert!(
                    self.maybe.deleted.contains(&index),
                    "{} is lost",
                    topic.name
                );
                self.change(&What::Delete(index));
            }
            let topic = &self.topics[index];
            let Some(info) = listed.iter().find(|info| &*info.name == topic.name) else {
                continue;
            };
            let count = info.partitions.len();
            if count != topic.parts.len() {
                let altered = self.maybe.altered.get(&index).copied();
                assert_eq!(
                    altered,
                    Some(count as u32),
                    "{} has {count} partitions",
                    topic.name
                );
                self.change(&What::Alter(index, count as u32));
            }
        }
        assert!(
            names.len() <= self.topics.len(),
            "topics were invented: {names:?}"
        );
    }

    /// Reads a topic as a whole.
    fn audit_topic(&mut self, topic: usize, found: &mut Found) {
        let info = self.now(self.events().topic(name(self.topics[topic].name)));
        let info = info.expect("it is alive");
        for (partition, stands) in (0u32..).zip(&info.partitions) {
            self.start_is(topic, partition, stands.start.offset());
            let place = format!("{}/{partition}", self.topics[topic].name);
            let end = stands.end.offset();
            let mut at = stands.start.offset();
            let mut gone = at..at;
            let mut superseded = Superseded::default();
            while at < end {
                let chunk = self.read(topic, partition, at);
                let next = chunk.next().offset();
                assert!(next > at, "{place} ends at {end} and has nothing at {at}");
                for item in chunk.iter() {
                    let offset = item.position().offset();
                    gone.start = at;
                    gone.end = offset;
                    assert!(
                        gone.is_empty() || self.topics[topic].compacted,
                        "{place} has no {gone:?}"
                    );
                    superseded.missing.extend(gone.clone());
                    at = offset;
                    let record = item.record();
                    superseded.newest.insert(key_of(&record), offset);
                    if self.topics[topic].parts[partition as usize]
                        .recs
                        .contains_key(&offset)
                    {
                        self.check_content(topic, partition, offset, &record);
                    } else {
                        self.unknown_record(topic, partition, offset, &record, found);
                    }
                    at += 1;
                }
                superseded.missing.extend(at..next);
                assert!(at == next || self.topics[topic].compacted, "{place}: {at}");
                at = next;
            }
            let part = &self.topics[topic].parts[partition as usize];
            superseded.check(part, &place);
            let last = part
                .recs
                .last_key_value()
                .map_or(0, |(offset, _)| offset + 1);
            assert!(
                last <= end,
                "{place}: acknowledged up to {last}, and it ends at {end}"
            );
        }
    }

    pub(crate) fn read(&self, topic: usize, partition: u32, at: u64) -> Chunk {
        let cursor = Cursor {
            topic: name(self.topics[topic].name),
            partition,
            position: Position::at(at),
            wait: std::time::Duration::ZERO,
        };
        let read = self.now(self.events().read(cursor, 1 << 20));
        read.unwrap_or_else(|error| {
            panic!("{}/{partition} at {at}: {error:?}", self.topics[topic].name)
        })
    }

    /// A record that no acknowledgement spoke of: of a call under way, or the copy of a dead letter.
    fn unknown_record(
        &mut self,
        topic: usize,
        partition: u32,
        offset: u64,
        record: &strait_core::Record<'_>,
        found: &mut Found,
    ) {
        let place = format!("{}/{partition} offset {offset}", self.topics[topic].name);
        let serial = serial_of(record.body()).unwrap_or_else(|| panic!("{place} was invented"));
        if self.topics[topic].copies && record.header("strait-dead-offset").is_some() {
            let rec = crate::model::Rec {
                serial,
                key: key_of(record),
                len: record.body().len(),
                edit: edit_of(record.body()),
            };
            self.topics[topic].parts[partition as usize]
                .recs
                .insert(offset, rec);
            return;
        }
        assert!(
            !self.forbidden.contains(&serial),
            "{place}: message {serial} was refused, and is there"
        );
        let other = found.insert(serial, (topic, partition, offset));
        assert!(
            other.is_none(),
            "{place}: message {serial} is also at {other:?}"
        );
    }

    /// Calls under way that sent something: all of it is there, or nothing.
    fn audit_sends(&mut self, mut found: Found) {
        // In the order in which they were made: the versions of a key follow it.
        let mut calls: Vec<(u64, Option<u64>, Vec<Send>)> = Vec::new();
        let order = |sends: &[Send]| sends.first().map_or(0, |send| send.order);
        for send in std::mem::take(&mut self.maybe.sends) {
            calls.push((send.order, None, vec![send]));
        }
        for unit in &self.maybe.units {
            calls.push((order(&unit.send), Some(unit.id), unit.send.clone()));
        }
        calls.sort_by_key(|(order, ..)| *order);
        for (_, unit, sends) in calls {
            let happened = self.take_found(&sends, &mut found);
            if let Some(happened) = happened {
                note!(
                    "{unit:?} {} had {}happened",
                    sends.iter().map(describe).collect::<String>(),
                    if happened { "" } else { "not " }
                );
            }
            match (unit, happened) {
                // Where the ledger knew the key, it settled and sent nothing.
                (Some(id), Some(false)) if self.has_key(id) => {
                    sends.iter().for_each(|send| self.forbid_maybe(send));
                }
                (Some(id), Some(happened)) => self.resolve_unit(id, happened),
                (None, Some(false)) => sends.iter().for_each(|send| self.forbid_maybe(send)),
                _ => {}
            }
        }
        assert!(found.is_empty(), "messages that nobody sent: {found:?}");
    }

    fn has_key(&self, id: u64) -> bool {
        let unit = self.maybe.units.iter().find(|unit| unit.id == id);
        unit.is_some_and(|unit| unit.once.is_some())
    }

    fn forbid_maybe(&mut self, send: &Send) {
        if !send.again {
            self.forbidden
                .extend(send.recs.iter().map(|rec| rec.serial));
        }
    }

    /// Whether the sends of one call are there; `None` when nothing can be seen of them.
    fn take_found(&mut self, sends: &[Send], found: &mut Found) -> Option<bool> {
        let latest = self.latest;
        let visible: Vec<&Send> = sends
            .iter()
            .filter(|send| {
                let topic = &self.topics[send.topic];
                // A batch that was sent again is new when its id was forgotten.
                let known = topic.ids.get(&send.id);
                let over = known.is_none_or(|known| known.time.0 + topic.window <= latest);
                let there = send.recs.iter().any(|rec| found.contains_key(&rec.serial));
                topic.alive && topic.life == send.life && (!send.again || over && there)
            })
            .collect();
        let all: Vec<u64> = visible
            .iter()
            .flat_map(|send| &send.recs)
            .map(|rec| rec.serial)
            .collect();
        if all.is_empty() {
            return None;
        }
        let there = all
            .iter()
            .filter(|serial| found.contains_key(serial))
            .count();
        assert!(
            there == 0 || there == all.len(),
            "{there} of the messages {all:?} of one call are there"
        );
        if there == 0 {
            return Some(false);
        }
        for send in visible {
            let places: Vec<_> = send
                .recs
                .iter()
                .filter_map(|rec| found.remove(&rec.serial))
                .collect();
            let (topic, partition, first) = places[0];
            let right = places
                .iter()
                .zip(first..)
                .all(|(place, offset)| *place == (send.topic, send.partition, offset));
            assert!(
                right && topic == send.topic && partition == send.partition,
                "{} is at {places:?}",
                describe(send)
            );
            if let Err(fault) = self.topics[topic].put(send, first, (send.at, send.lost_at)) {
                panic!("{fault}");
            }
        }
        Some(true)
    }

    /// It came out whether a unit happened.
    pub(crate) fn resolve_unit(&mut self, id: u64, applied: bool) {
        let Some(index) = self.maybe.units.iter().position(|unit| unit.id == id) else {
            return;
        };
        let unit = self.maybe.units.remove(index);
        if !applied {
            for (ticket, _) in &unit.settle {
                self.loosen(ticket, |state| state == State::Unsure(id));
            }
            unit.send.iter().for_each(|send| self.forbid_maybe(send));
            return;
        }
        for (ticket, verdict) in &unit.settle {
            for (offset, attempt) in ticket.offsets().zip(&ticket.attempts) {
                self.settle_late(&unit, ticket, offset, *attempt, verdict);
            }
        }
    }

    fn settle_late(
        &mut self,
        unit: &Unit,
        ticket: &crate::model::Ticket,
        offset: u64,
        attempt: u32,
        verdict: &Verdict,
    ) {
        let shard = self.groups[ticket.group]
            .shards
            .get_mut(ticket.shard as usize);
        let Some(msg) = shard.and_then(|shard| shard.msgs.get_mut(&offset)) else {
            return;
        };
        if msg.state != State::Unsure(unit.id) {
            return;
        }
        let mut one = unit.clone();
        one.settle = vec![(
            crate::model::Ticket {
                first: offset,
                attempts: vec![attempt],
                ..ticket.clone()
            },
            verdict.clone(),
        )];
        let slack = msg.hi.saturating_sub(attempt);
        self.settled(&one);
        let wall = self.wall();
        let msg = self.groups[ticket.group].shards[ticket.shard as usize].msg(offset);
        // The attempts may have been counted on by a grant that nobody saw; it was due from the commit on.
        msg.hi += slack;
        if msg.state == State::Parked {
            msg.due = (unit.at + msg.delay).min(wall + msg.delay);
        }
    }

    /// A message that comes again says what became of the unit that was to settle it.
    pub(crate) fn resolve_delivered(&mut self, ticket: &crate::model::Ticket, offset: u64) {
        let State::Unsure(id) =
            self.groups[ticket.group].shards[ticket.shard as usize].state(offset)
        else {
            return;
        };
        let Some(unit) = self.maybe.units.iter().find(|unit| unit.id == id) else {
            return;
        };
        let covers = |other: &crate::model::Ticket| {
            other.group == ticket.group
                && other.shard == ticket.shard
                && other.offsets().contains(&offset)
        };
        let verdict = unit
            .settle
            .iter()
            .find(|(other, _)| covers(other))
            .map(|(_, verdict)| verdict);
        if matches!(verdict, Some(Verdict::Done | Verdict::Dead(_))) {
            note!("unit {id} had not happened");
            self.resolve_unit(id, false);
        }
    }

    fn audit_groups(&mut self) {
        let listed = self.now(self.events().groups()).expect("groups are listed");
        for group in 0..self.groups.len() {
            let model = &self.groups[group];
            let topic = self.topics[model.topic].name;
            let there = listed
                .iter()
                .any(|info| &*info.group == model.name && &*info.topic == topic);
            if there && !model.exists {
                assert!(
                    self.maybe.joined.contains(&group),
                    "{} came back",
                    model.name
                );
                self.group_is_there(group);
            } else if !there && model.exists {
                assert!(
                    self.maybe.groups_deleted.contains(&group),
                    "{} is lost",
                    model.name
                );
                self.change(&What::DeleteGroup(group));
            }
            if !self.groups[group].exists {
                continue;
            }
            self.audit_steered(group);
            self.audit_redriven(group);
            self.audit_removed(group);
            self.mark_fuzzy(group);
            self.look_at_dead(group);
            self.look_at_lag(group);
        }
        assert!(listed.len() <= self.groups.len(), "groups were invented");
    }

    /// What an operator did is there.
    fn audit_steered(&mut self, group: usize) {
        let info = self.group_info(group);
        let model = &mut self.groups[group];
        let paused = info.pause.is_some();
        assert!(
            model.paused.is_none_or(|known| known == paused),
            "{}: a pause was lost, or came back",
            model.name
        );
        model.paused = Some(paused);
        let most = info.rules().max_attempts;
        assert!(
            most == model.max_attempts || Some(most) == model.maybe_attempts,
            "{}: {most} attempts hold, wanted {}",
            model.name,
            model.max_attempts
        );
        model.attempts_before.get_or_insert(model.max_attempts);
        model.max_attempts = most;
        model.maybe_attempts = None;
    }

    fn audit_redriven(&mut self, group: usize) {
        let listed: BTreeSet<u64> = self
            .dead_letters(group)
            .iter()
            .map(|letter| letter.number)
            .collect();
        for (which, numbers) in std::mem::take(&mut self.maybe.redriven) {
            if which != group {
                self.maybe.redriven.push((which, numbers));
                continue;
            }
            let left = numbers
                .iter()
                .filter(|number| listed.contains(number))
                .count();
            assert!(
                left == 0 || left == numbers.len(),
                "{left} of {numbers:?} came back in one call"
            );
            if left == 0 {
                self.redriven(group, &numbers);
            }
        }
    }

    fn mark_fuzzy(&mut self, group: usize) {
        for (_, shard, _) in self
            .maybe
            .seeks
            .iter()
            .filter(|(which, ..)| *which == group)
        {
            let shard = &mut self.groups[group].shards[*shard as usize];
            shard.fuzzy = true;
            shard.holds.clear();
        }
    }

    /// A seek of which nobody knows is made again; nobody is there who could be in its way.
    fn forget_maybes(&mut self) {
        let seeks = std::mem::take(&mut self.maybe.seeks);
        let units = std::mem::take(&mut self.maybe.units);
        self.maybe = crate::world::Maybe {
            units,
            ..Default::default()
        };
        for (group, shard, to) in seeks {
            if self.groups[group].exists {
                self.seek(group, shard, to);
                self.turn();
                assert!(
                    !self.groups[group].shards[shard as usize].fuzzy,
                    "a seek without members"
                );
            }
        }
    }

    /// The messages of each key are found along their versions.
    fn audit_keys(&mut self, topic: usize) {
        let found = &self.topics[topic];
        if !found.alive || !found.versions {
            return;
        }
        for (key, places) in found.keys.clone() {
            let read = ReadKey {
                topic: name(found.name),
                key: key_bytes(key),
                from: 1,
                limit: usize::MAX,
            };
            let read = self.now(self.events().read_key(read));
            let read = read.unwrap_or_else(|error| panic!("reading key {key}: {error:?}"));
            let read: Vec<(u64, u32, u64)> = read
                .iter()
                .map(|(version, message)| {
                    (*version, message.partition(), message.position().offset())
                })
                .collect();
            let all = (1..)
                .zip(&places)
                .map(|(version, (partition, offset))| (version, *partition, *offset));
            let all: Vec<(u64, u32, u64)> = all.collect();
            assert_eq!(read, all, "the versions of key {key} of {}", found.name);
        }
    }
}
