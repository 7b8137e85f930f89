//! What a member looks at on the server: the state of a partition that becomes its own, and what operators changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redis::Value;
use strait_core::events::{AfterDead, GroupRules, Order};
use strait_core::{Arrival, Message, Position, Result, Shard};
use strait_member::{Again, Kept, Range, Rules, Window};

use super::{Member, Owned};
use crate::fault::odd;
use crate::group::letters::{self, Back};
use crate::group::{Steered, steps};
use crate::keys;
use crate::reply::{bytes, list, number, text};

/// Dead letters that are read together.
const PAGE: usize = 200;
/// Queries about one partition.
const ASKED: usize = 4;

/// A partition of this member: its token, and of each letter that came back its number and its run.
type Mine = (Shard, u64, BTreeSet<(u64, u64)>);

/// What the server has of a partition, but for what comes again.
struct Stored {
    low: Position,
    out: Position,
    settled: Vec<Range>,
    /// Dead letters that were brought back, by number: the run, and what is known.
    back: BTreeMap<u64, (u64, Again)>,
    held: Vec<Vec<u8>>,
}

impl Stored {
    fn read(answers: &[Value]) -> Option<Self> {
        let [marks, settled, back, held] = answers else {
            return None;
        };
        let position = |value: &Value| keys::position(bytes(value)?);
        let marks = list(marks)?;
        let mut settled: Vec<Range> = pairs(settled)
            .filter_map(|(from, to)| {
                Some(Range {
                    from: position(from)?,
                    to: position(to)?,
                })
            })
            .collect();
        settled.sort_by_key(|range| range.from);
        let back = pairs(back).filter_map(|(number_, known)| {
            let number = number(number_)? as u64;
            Some((number, letters::of_known(text(known)?)?))
        });
        Some(Stored {
            low: position(marks.first()?)?,
            out: position(marks.get(1)?)?,
            settled,
            back: back.collect(),
            held: pairs(held)
                .filter_map(|(_, key)| bytes(key).map(<[u8]>::to_vec))
                .collect(),
        })
    }
}

impl Member {
    fn ask(&self, asked: &mut redis::Pipeline, shard: Shard) {
        let marks = asked.cmd("HMGET").arg(self.keys.shard(shard));
        marks.arg(&["low", "out"]);
        asked.cmd("HGETALL").arg(self.keys.settled(shard));
        asked.cmd("HGETALL").arg(self.keys.back(shard));
        asked.cmd("HGETALL").arg(self.keys.held(shard));
    }

    /// What windows go by.
    fn window_rules(&self, rules: &GroupRules) -> Rules {
        Rules {
            order: self.spec.order,
            lease: self.spec.lease,
            max_attempts: rules.max_attempts,
            gap: rules.gap,
            after_dead: match self.spec.order {
                Order::Key => rules.after_dead,
                Order::Free => AfterDead::Continue,
            },
        }
    }

    /// A shard is this member's: what is known of it is read, and its window opened.
    pub(super) async fn assign(self: &Arc<Self>, shard: Shard, epoch: u64) -> Result<()> {
        let what = "reading the state of a group";
        let mut asked = redis::pipe();
        self.ask(&mut asked, shard);
        asked.cmd("HGETALL").arg(self.keys.again(shard));
        let answers = self.shared.link.run_all(what, &asked, false).await?;
        let stored = answers.get(..ASKED).and_then(Stored::read);
        let stored = stored.ok_or_else(|| odd(what))?;
        let known = pairs(&answers[ASKED]).filter_map(|(at, known)| {
            let position = keys::position(bytes(at)?)?;
            steps::of_known(position, text(known)?)
        });
        let mut again: Vec<_> = known.filter(|a| a.position >= stored.low).collect();
        again.sort_by_key(|again| again.position);
        let letters = self.letters(stored.back.keys().copied()).await?;
        let kept = Kept {
            low: stored.low,
            settled: stored.settled,
            again,
            out: stored.out.max(stored.low),
        };
        let mut inner = self.inner.lock();
        let rules = self.window_rules(&inner.rules);
        let mut owned = Owned {
            window: Window::new(shard, self.id, epoch, rules, kept),
            epoch,
            letters: BTreeMap::new(),
            turn: 0,
            dry: false,
            revoking: None,
            handed_back: false,
        };
        bring_back(&mut owned, letters, &stored.back);
        owned.window.set_held(stored.held.iter().map(Vec::as_slice));
        if inner.shards.insert(shard, owned).is_some() {
            inner.arrive(Arrival::Lost(shard));
        }
        inner.arrive(Arrival::Assigned(shard));
        Ok(())
    }

    /// Looks at what was changed since the revision that is known. What dies meanwhile may hold keys that the server's answer does
    /// not name yet: then it is looked at once more.
    pub(super) async fn look(&self, rev: u64) -> Result<()> {
        let what = "looking at what operators changed";
        let (mine, burials): (Vec<Mine>, u64) = {
            let mut inner = self.inner.lock();
            if !inner.stale && inner.rev == rev {
                return Ok(());
            }
            inner.stale = true;
            if inner.dying > 0 {
                return Ok(());
            }
            let known = |owned: &Owned| {
                let letters = owned.letters.values();
                letters.map(|back| (back.number, back.run)).collect()
            };
            let mine = inner.shards.iter();
            let mine = mine.map(|(shard, owned)| (*shard, owned.epoch, known(owned)));
            (mine.collect(), inner.burials)
        };
        let mut asked = redis::pipe();
        let group = asked.cmd("HMGET").arg(&self.keys.group);
        group.arg(&["declared", "overrides"]);
        mine.iter()
            .for_each(|(shard, ..)| self.ask(&mut asked, *shard));
        let answers = self.shared.link.run_all(what, &asked, false).await?;
        let steered = list(&answers[0]).and_then(Steered::read);
        let steered = steered.ok_or_else(|| odd(what))?;
        let mut found = Vec::new();
        for ((shard, epoch, known), answers) in mine.into_iter().zip(answers[1..].chunks(ASKED)) {
            let stored = Stored::read(answers).ok_or_else(|| odd(what))?;
            let runs = stored.back.iter().map(|(number, (run, _))| (*number, *run));
            let new = runs.filter(|one| !known.contains(one));
            let letters = self.letters(new.map(|(number, _)| number)).await?;
            found.push((shard, epoch, stored, letters));
        }
        let mut inner = self.inner.lock();
        if inner.dying > 0 || inner.burials != burials {
            inner.hurry = true;
            return Ok(());
        }
        inner.rules = steered.rules();
        inner.paused = steered.pause.is_some();
        let rules = self.window_rules(&inner.rules);
        inner
            .shards
            .values_mut()
            .for_each(|owned| owned.window.set_rules(rules.clone()));
        for (shard, epoch, stored, letters) in found {
            if let Some(owned) = inner.shards.get_mut(&shard)
                && owned.epoch == epoch
            {
                take_over(owned, &stored, letters);
            }
        }
        (inner.rev, inner.stale) = (rev, false);
        Ok(())
    }

    /// The dead letters of these numbers, with what a redrive delivers.
    async fn letters(
        &self,
        numbers: impl Iterator<Item = u64>,
    ) -> Result<BTreeMap<u64, (Message, Back)>> {
        let numbers: Vec<u64> = numbers.collect();
        let mut found = BTreeMap::new();
        for page in numbers.chunks(PAGE) {
            let letters = self.shared.numbered(&self.keys, &self.spec.topic, page);
            for (letter, _) in letters.await? {
                let back = Back {
                    number: letter.number,
                    run: 0,
                    deaths: letters::deaths(&letter),
                };
                let message = letter.edited.unwrap_or(letter.message);
                found.insert(back.number, (message, back));
            }
        }
        Ok(found)
    }
}

/// What operators did to a partition, done to its window.
fn take_over(owned: &mut Owned, stored: &Stored, letters: BTreeMap<u64, (Message, Back)>) {
    let same = |back: &Back| {
        let now = stored.back.get(&back.number);
        now.is_some_and(|(run, _)| *run == back.run)
    };
    let gone = owned.letters.iter().filter(|(_, back)| !same(back));
    let gone: Vec<u64> = gone.map(|(number, _)| *number).collect();
    for number in gone {
        // One that is out ends by itself.
        if owned.window.withdraw(number) {
            owned.letters.remove(&number);
        }
    }
    bring_back(owned, letters, &stored.back);
    owned.window.settled_by_others(stored.low, &stored.settled);
    owned.window.set_held(stored.held.iter().map(Vec::as_slice));
    // What was taken before may have to wait behind what came back.
    owned.turn += 1;
}

fn bring_back(
    owned: &mut Owned,
    letters: BTreeMap<u64, (Message, Back)>,
    known: &BTreeMap<u64, (u64, Again)>,
) {
    for (number, (message, back)) in letters {
        if let Some((run, again)) = known.get(&number) {
            let back = Back { run: *run, ..back };
            let number = owned.window.comes_again(message, again.clone());
            owned.letters.insert(number, back);
        }
    }
}

fn pairs(value: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    list(value)
        .unwrap_or_default()
        .chunks_exact(2)
        .map(|pair| (&pair[0], &pair[1]))
}
