//! Appends and commits over an engine that may be lost meanwhile: what was not done, or perhaps done but recognizable, is
//! sent again.

use strait_core::events::Append;
use strait_core::{Effect, Error, Name, Once, Outcome, Outgoing, Records, Result, Sent, Unit};
use tokio::time::Instant;

use super::{Current, Patience, Reconnect};
use crate::wire::copy_of;

/// A unit that has no outcome yet.
struct Open {
    /// Its place among the outcomes.
    place: usize,
    unit: Unit,
    /// Whether it may be sent again when nobody knows what became of it.
    repeatable: bool,
    /// For each message: `dedupe` was turned on here.
    marked: Vec<bool>,
    /// Why nobody knows what became of it.
    doubt: Option<Error>,
}

impl Reconnect {
    /// Turns `dedupe` on where the batch's id is as good as one that was given.
    fn mark(&self, records: &Records, dedupe: &mut bool) -> bool {
        let core = &self.core;
        let offered = core
            .caps
            .as_ref()
            .is_some_and(|caps| caps.dedupe.is_there());
        let marked = !*dedupe && offered && core.fresh.lock().is_fresh(records);
        *dedupe |= marked;
        marked
    }

    /// Whether a repetition of what was first sent at `begun` is recognized still.
    async fn recognizes(&self, topic: &Name, begun: Instant, patience: &mut Patience) -> bool {
        let Ok(current) = self.current(patience).await else {
            return false;
        };
        let Ok(events) = current.events() else {
            return false;
        };
        let topic = events.topic(topic.clone()).await;
        topic.is_ok_and(|topic| begun.elapsed() < topic.dedupe_window)
    }

    /// Appends, again if need be.
    pub(super) async fn append_again(self, mut append: Append) -> Result<Sent> {
        let marked = self.mark(&append.records, &mut append.dedupe);
        let mut patience = Patience::new(self.core.options.patience);
        let begun = Instant::now();
        let mut doubt: Option<Error> = None;
        loop {
            let current = match self.current(&mut patience).await {
                Ok(current) => current,
                Err(error) => return Err(doubt.unwrap_or(error)),
            };
            match current.events()?.append(append.clone()).await {
                Ok(sent) => {
                    // To the caller it is the first time.
                    let duplicate = sent.duplicate && !marked;
                    return Ok(Sent { duplicate, ..sent });
                }
                Err(error) if current.is_lost(&error) => {
                    if error.effect() == Effect::Unknown {
                        if !append.dedupe {
                            return Err(error);
                        }
                        doubt = Some(error);
                    }
                    if self.replaced(&current, &mut patience).await
                        && (doubt.is_none()
                            || self.recognizes(&append.topic, begun, &mut patience).await)
                    {
                        continue;
                    }
                    return Err(doubt.unwrap_or_else(|| current.gone()));
                }
                Err(error) if doubt.is_some() => return Err(error.unknown()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Commits, again if need be. Units that settle are not: their receipts ended with the engine that gave them.
    pub(super) async fn commit_again(self, units: Vec<Unit>) -> Vec<Outcome> {
        let mut patience = Patience::new(self.core.options.patience);
        let begun = Instant::now();
        let mut outcomes: Vec<Option<Outcome>> = units.iter().map(|_| None).collect();
        let units = units.into_iter().enumerate();
        let mut open: Vec<Open> = units
            .map(|(place, unit)| self.open_unit(place, unit))
            .collect();
        while !open.is_empty() {
            let current = match self.current(&mut patience).await {
                Ok(current) => current,
                Err(error) => {
                    give_up(open, &error, &mut outcomes);
                    break;
                }
            };
            open = attempt(&current, open, &mut outcomes).await;
            if !open.is_empty() && !self.replaced(&current, &mut patience).await {
                give_up(open, &current.gone(), &mut outcomes);
                break;
            }
            let mut still = Vec::with_capacity(open.len());
            for unit in open {
                if unit.doubt.is_none()
                    || self.recognizes_all(&unit.unit, begun, &mut patience).await
                {
                    still.push(unit);
                } else {
                    give_up(vec![unit], &current.gone(), &mut outcomes);
                }
            }
            open = still;
        }
        // Each place was filled when its unit left `open`.
        outcomes.into_iter().flatten().collect()
    }

    fn open_unit(&self, place: usize, mut unit: Unit) -> Open {
        let receiptless = unit.settle.is_empty() && unit.under.is_none();
        let mut marked = Vec::with_capacity(unit.send.len());
        let mut repeatable = receiptless;
        for outgoing in &mut unit.send {
            match outgoing {
                Outgoing::Append {
                    records, dedupe, ..
                } if receiptless => {
                    marked.push(self.mark(records, dedupe));
                    repeatable &= *dedupe;
                }
                _ => {
                    marked.push(false);
                    repeatable = false;
                }
            }
        }
        Open {
            place,
            unit,
            repeatable,
            marked,
            doubt: None,
        }
    }

    async fn recognizes_all(&self, unit: &Unit, begun: Instant, patience: &mut Patience) -> bool {
        for outgoing in &unit.send {
            match outgoing {
                Outgoing::Append { topic, .. } if self.recognizes(topic, begun, patience).await => {
                }
                _ => return false,
            }
        }
        true
    }
}

/// Commits what is open; gives what is open still because the engine was lost.
async fn attempt(
    current: &Current,
    open: Vec<Open>,
    outcomes: &mut [Option<Outcome>],
) -> Vec<Open> {
    let mut units = Vec::with_capacity(open.len());
    let mut kept = Vec::with_capacity(open.len());
    for mut one in open {
        // What is needed to send it again; receipts are not, because then it is not sent again.
        let again: (Vec<Outgoing>, Option<Once>) = match one.repeatable {
            true => (one.unit.send.clone(), one.unit.once.clone()),
            false => Default::default(),
        };
        units.push(std::mem::take(&mut one.unit));
        (one.unit.send, one.unit.once) = again;
        kept.push(one);
    }
    let mut results = current.engine.commit(units).await.into_iter();
    let mut still = Vec::new();
    for mut one in kept {
        match results.next() {
            Some(Outcome::Unknown(error)) if one.repeatable && current.is_lost(&error) => {
                one.doubt = Some(error);
                still.push(one);
            }
            Some(Outcome::NotApplied(unit, error)) if current.is_lost(&error) => {
                if unit.settle.is_empty() && unit.under.is_none() {
                    one.unit = unit;
                    still.push(one);
                } else {
                    // Its receipts ended with the engine that gave them.
                    unit.settle.into_iter().for_each(|(receipt, _)| {
                        receipt.settle();
                    });
                    outcomes[one.place] = Some(Outcome::Fenced);
                }
            }
            Some(Outcome::Applied(mut sent)) => {
                for (sent, marked) in sent.iter_mut().zip(&one.marked) {
                    sent.duplicate &= !marked;
                }
                outcomes[one.place] = Some(Outcome::Applied(sent));
            }
            Some(Outcome::NotApplied(_, error)) if one.doubt.is_some() => {
                outcomes[one.place] = Some(Outcome::Unknown(error.unknown()));
            }
            Some(outcome) => outcomes[one.place] = Some(outcome),
            None => outcomes[one.place] = Some(Outcome::Unknown(current.gone().unknown())),
        }
    }
    still
}

/// The outcome of units that are not tried again.
fn give_up(open: Vec<Open>, why: &Error, outcomes: &mut [Option<Outcome>]) {
    for one in open {
        outcomes[one.place] = Some(match one.doubt {
            Some(doubt) => Outcome::Unknown(doubt),
            None => Outcome::NotApplied(one.unit, copy_of(why)),
        });
    }
}
