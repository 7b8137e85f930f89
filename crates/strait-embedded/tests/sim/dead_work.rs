//! What operators do with dead letters, beside the model.

use std::collections::BTreeSet;

use strait_core::events::{
    DeadEdit, DeadFilter, DeadLetter, EditDead, Redrive, Redriven, RemoveDead, SetAside,
    UndoRedrive, Undone,
};
use strait_core::{Error, Kind, Position, Result, codes};

use crate::audit::name;
use crate::model::{Dead, Letter, State, edited_body};
use crate::ops::{Answer, What};
use crate::trace::note;
use crate::world::World;

impl World {
    pub(crate) fn dead_work(&mut self, group: usize) {
        match self.rng.below(8) {
            0 => self.remove_dead(group),
            1 | 2 => self.edit_dead(group),
            3 => self.undo_redrive(group),
            4 | 5 => self.redrive_of(group),
            _ => self.set_aside(group),
        }
    }

    fn of(&self, group: usize) -> (strait_core::Name, strait_core::Name) {
        let found = &self.groups[group];
        (name(found.name), name(self.topics[found.topic].name))
    }

    pub(crate) fn redrive(&mut self) {
        if let Some(group) = self.some_group() {
            self.redrive_of(group);
        }
    }

    fn redrive_of(&mut self, index: usize) {
        self.look_at_dead(index);
        let group = &self.groups[index];
        // What comes again by itself would come without its edit: the engine leaves it.
        let whole = |(number, dead): (&u64, &Dead)| {
            let start = self.topics[group.topic].parts[dead.shard as usize].start;
            let state = group.shards[dead.shard as usize].state(dead.offset);
            let settled = state == State::Settled || dead.offset < start && state == State::Free;
            let edited = group
                .letters
                .get(number)
                .is_some_and(|l| l.edited.is_some());
            (settled || !edited).then_some(*number)
        };
        let mut numbers: Vec<u64> = group.dead.iter().filter_map(whole).collect();
        let all = numbers.len() == group.dead.len() && self.rng.one_in(2);
        if !all {
            let keep = 1 + self.rng.below(3) as usize;
            numbers.truncate(keep);
        }
        let per_second = self.rng.one_in(3).then(|| 2 + self.rng.below(50) as u32);
        note!(
            "{}: redrive {numbers:?} at {per_second:?} a second",
            self.groups[index].name
        );
        let (of, topic) = self.of(index);
        let filter = DeadFilter {
            numbers: (!all).then(|| numbers.clone()),
            ..DeadFilter::default()
        };
        let redrive = Redrive {
            per_second,
            ..Redrive::new(of, topic, filter)
        };
        let future = self.events().redrive(redrive);
        self.call(
            What::Redrive(index, numbers),
            Box::pin(async move { Answer::Redriven(future.await) }),
        );
    }

    /// The answer to a redrive.
    pub(crate) fn redrive_answered(
        &mut self,
        group: usize,
        numbers: Vec<u64>,
        result: Result<Redriven>,
    ) {
        let run = result.as_ref().ok().and_then(|done| done.run);
        self.changed(
            What::Redrive(group, numbers.clone()),
            result.map(|done| done.count),
        );
        let Some(run) = run else { return };
        let group = &mut self.groups[group];
        group.runs.push(run);
        let mine = |letter: &&mut Letter| numbers.contains(&letter.number);
        let shards = group
            .shards
            .iter_mut()
            .flat_map(|shard| shard.msgs.values_mut());
        shards
            .filter_map(|msg| msg.letter.as_mut())
            .filter(mine)
            .for_each(|letter| letter.run = Some(run));
    }

    fn remove_dead(&mut self, group: usize) {
        self.look_at_dead(group);
        let mut numbers: Vec<u64> = self.groups[group].dead.keys().copied().collect();
        numbers.truncate(1 + self.rng.below(2) as usize);
        if numbers.is_empty() {
            return;
        }
        note!("{}: remove {numbers:?}", self.groups[group].name);
        let (of, topic) = self.of(group);
        let remove = RemoveDead {
            group: of,
            topic,
            filter: DeadFilter::numbers(numbers.clone()),
            dry_run: false,
        };
        let future = self.events().remove_dead(remove);
        self.call(
            What::RemoveDead(group, numbers),
            Box::pin(async move { Answer::Count(future.await) }),
        );
    }

    fn edit_dead(&mut self, group: usize) {
        self.look_at_dead(group);
        let count = self.groups[group].dead.len() as u64;
        if count == 0 {
            return;
        }
        let nth = self.rng.below(count) as usize;
        let Some(number) = self.groups[group].dead.keys().nth(nth).copied() else {
            return;
        };
        let edit = (!self.rng.one_in(4)).then(|| self.next_serial());
        note!("{}: edit {number}: {edit:?}", self.groups[group].name);
        let (of, topic) = self.of(group);
        let what = match edit {
            Some(edit) => DeadEdit::Put {
                key: None,
                body: Some(edited_body(edit).into()),
                headers: None,
            },
            None => DeadEdit::Drop,
        };
        let future = self.events().edit_dead(EditDead {
            group: of,
            topic,
            number,
            edit: what,
            dry_run: false,
        });
        self.call(
            What::Edit(group, number, edit),
            Box::pin(async move { Answer::Done(future.await) }),
        );
    }

    fn undo_redrive(&mut self, group: usize) {
        let Some(run) = self.groups[group].runs.last().copied() else {
            return;
        };
        note!("{}: undo run {run}", self.groups[group].name);
        let (of, topic) = self.of(group);
        let undo = UndoRedrive {
            group: of,
            topic,
            run,
            dry_run: false,
        };
        let future = self.events().undo_redrive(undo);
        self.call(
            What::Undo(group, run),
            Box::pin(async move { Answer::Undone(future.await) }),
        );
    }

    pub(crate) fn undo_answered(&mut self, group: usize, run: u64, result: Result<Undone>) {
        let place = format!("{}: undo of run {run}", self.groups[group].name);
        match result {
            Ok(done) => {
                note!("{place}: {done:?}");
                let returned = self.learn_returned(group, run);
                assert_eq!(returned, done.returned, "{place}");
            }
            Err(error) => {
                if !self.refused(&error, false, &place) {
                    self.maybe.undone.push((group, run));
                }
            }
        }
    }

    /// What an undo made dead again is found among the dead letters; gives how many.
    pub(crate) fn learn_returned(&mut self, index: usize, run: u64) -> u64 {
        let listed = self.dead_letters(index);
        let listed: BTreeSet<u64> = listed.iter().map(|letter| letter.number).collect();
        let now = self.mono();
        let outs = &self.outs;
        let group = &mut self.groups[index];
        let mut returned = 0;
        for (shard, state) in (0..).zip(&mut group.shards) {
            for (offset, msg) in &mut state.msgs {
                let mine = |letter: &&Letter| letter.run == Some(run);
                let back = |letter: &&Letter| listed.contains(&letter.number);
                let Some(letter) = msg.letter.as_ref().filter(mine).filter(back).cloned() else {
                    continue;
                };
                let place = format!("{}/{shard} offset {offset}", group.name);
                if let State::Out(id) = msg.state {
                    let out = outs.iter().find(|out| out.ticket.id == id);
                    let sure = out.is_some_and(|o| !o.ticket.void && now < o.ticket.ends.0);
                    assert!(!sure, "{place} is out and was taken back");
                }
                assert_ne!(msg.state, State::Settled, "{place} was handled and is dead");
                msg.state = State::Settled;
                msg.redriven = false;
                msg.letter = None;
                let dead = Dead {
                    shard,
                    offset: *offset,
                    reason: letter.reason.clone(),
                };
                group.dead.insert(letter.number, dead);
                let letter = Letter {
                    run: None,
                    ..letter
                };
                group.letters.insert(letter.number, letter);
                returned += 1;
            }
        }
        returned
    }

    fn set_aside(&mut self, group: usize) {
        let shard = self.rng.below(self.groups[group].shards.len() as u64) as u32;
        let part = &self.topics[self.groups[group].topic].parts[shard as usize];
        let (start, end) = (part.start, part.end());
        if start == end || self.groups[group].shards[shard as usize].fuzzy {
            return;
        }
        let offset = start + self.rng.below(end - start);
        let state = self.groups[group].shards[shard as usize].state(offset);
        if matches!(state, State::Unsure(_) | State::Sent(_)) {
            return;
        }
        let dead = Dead {
            shard,
            offset,
            reason: format!("set aside {}", self.next_serial()),
        };
        note!("{}/{shard}: set aside {offset}", self.groups[group].name);
        let (of, topic) = self.of(group);
        let aside = SetAside {
            group: of,
            topic,
            partition: shard,
            position: Position::at(offset),
            reason: dead.reason.clone().into(),
            force: false,
            dry_run: false,
        };
        let future = self.events().set_aside(aside);
        self.call(
            What::Aside(group, dead),
            Box::pin(async move { Answer::Count(future.await) }),
        );
    }

    /// True when a message may be refused to be set aside.
    pub(crate) fn aside_may_fail(&self, group: usize, dead: &Dead, error: &Error) -> bool {
        let found = &self.groups[group];
        let state = found.shards[dead.shard as usize].state(dead.offset);
        let settled = state == State::Settled;
        // It may be out with somebody of whom the model knows nothing any more.
        let anybody = self.members.iter().any(|member| member.group == group);
        let topic = &self.topics[found.topic];
        match error.kind() {
            Kind::Conflict => settled || anybody,
            Kind::NotFound => topic.compacted || error.is(codes::OFFSET_GONE),
            _ => false,
        }
    }

    /// It is a dead letter now; nobody can have it.
    pub(crate) fn is_aside(&mut self, group: usize, dead: &Dead) {
        let now = self.mono();
        let place = format!(
            "{}/{} offset {}",
            self.groups[group].name, dead.shard, dead.offset
        );
        let sure = |id: u64| {
            let out = self.outs.iter().find(|out| out.ticket.id == id);
            out.is_some_and(|out| !out.ticket.void && now < out.ticket.ends.0)
        };
        let state = self.groups[group].shards[dead.shard as usize].state(dead.offset);
        if let State::Out(id) = state {
            assert!(!sure(id), "{place} is out and was set aside");
        }
        assert_ne!(
            state,
            State::Settled,
            "{place} was settled and is set aside"
        );
        let msg = self.groups[group].shards[dead.shard as usize].msg(dead.offset);
        msg.state = State::Settled;
    }

    /// The body that this dead letter has, where an edit came back and died.
    pub(crate) fn check_letter(&mut self, group: usize, letter: &DeadLetter) {
        let place = format!("{}: letter {}", self.groups[group].name, letter.number);
        let known = self.groups[group].letters.get(&letter.number);
        let body = known.and_then(|known| known.body);
        let (topic, shard) = (self.groups[group].topic, letter.message.partition());
        let offset = letter.message.position().offset();
        let record = letter.message.record();
        match body {
            Some(edit) => assert_eq!(record.body(), edited_body(edit), "{place}"),
            None => self.check_content(topic, shard, offset, &record),
        }
        let deaths = known.map_or(0, |known| known.deaths);
        assert_eq!(
            letter.history.len(),
            deaths.min(8),
            "{place}: deaths before"
        );
        let shown = letter
            .edited
            .as_ref()
            .map(|edit| edit.record().body().to_vec());
        let wanted = known.and_then(|known| known.edited);
        if shown == wanted.map(edited_body) {
            return;
        }
        let may = self.maybe.edits.iter().find(|(which, number, edit)| {
            (*which, *number) == (group, letter.number) && shown == edit.map(edited_body)
        });
        let Some((.., edit)) = may.copied() else {
            panic!("{place}: its edit is {shown:?}, and not {wanted:?}");
        };
        self.set_edit(group, letter.number, edit);
    }

    pub(crate) fn set_edit(&mut self, group: usize, number: u64, edit: Option<u64>) {
        let letters = &mut self.groups[group].letters;
        letters
            .entry(number)
            .or_insert_with(|| Letter::of(number))
            .edited = edit;
    }

    /// Removals of which nobody knows whether they happened: all of one or nothing.
    pub(crate) fn audit_removed(&mut self, group: usize) {
        let listed = self.dead_letters(group);
        let listed: BTreeSet<u64> = listed.iter().map(|letter| letter.number).collect();
        for (which, numbers) in std::mem::take(&mut self.maybe.removed) {
            if which != group {
                self.maybe.removed.push((which, numbers));
                continue;
            }
            let left = numbers.iter().filter(|n| listed.contains(n)).count();
            assert!(
                left == 0 || left == numbers.len(),
                "{left} of {numbers:?} were removed in one call"
            );
            if left == 0 {
                numbers.iter().for_each(|number| {
                    self.groups[group].dead.remove(number);
                });
            }
        }
        for (which, run) in std::mem::take(&mut self.maybe.undone) {
            match which == group {
                true => drop(self.learn_returned(group, run)),
                false => self.maybe.undone.push((which, run)),
            }
        }
    }
}
