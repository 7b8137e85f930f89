//! A member of the run: it handles one message after the other, fails by chance, and keeps to the rules of a member.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use strait_core::{Arrival, Consumer, Delivery, Kind, Outcome, Shard, Unit, Verdict};
use tokio::sync::watch;

use super::{Churn, Stage};
use crate::fault::{Check, Fault};
use crate::history::{Answer, Did, End};
use crate::lab::{body, key, outgoing, retry};
use crate::member::single;
use crate::rng::Rng;

/// Messages that a member holds before it takes no more.
const HELD: usize = 40;

pub(super) struct Worker {
    number: u64,
    /// How often it has joined.
    life: u32,
    churn: Churn,
    rng: Rng,
    stage: Stage,
    stop: watch::Receiver<bool>,
    held: VecDeque<Delivery>,
    /// It was given a shard in this life.
    assigned: bool,
    effects: u32,
}

/// How a life goes on.
#[derive(PartialEq, Eq)]
enum Then {
    On,
    /// The engine was closed.
    Closed,
}

impl Worker {
    pub(super) fn new(
        number: u64,
        churn: Churn,
        rng: Rng,
        stage: Stage,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Worker {
            number,
            life: 0,
            churn,
            rng,
            stage,
            stop,
            held: VecDeque::new(),
            assigned: false,
            effects: 0,
        }
    }

    /// Lives until it is stopped.
    pub(super) async fn run(mut self) -> Check {
        while !*self.stop.borrow() {
            self.life += 1;
            if self.live().await? == Then::Closed {
                tokio::select! {
                    changed = self.stage.next_lab() => changed?,
                    _ = self.stop.changed() => {}
                }
            }
        }
        Ok(())
    }

    fn name(&self) -> String {
        format!("member {}.{}", self.number, self.life)
    }

    fn add(&self, did: Did) {
        self.stage.history.add(self.name(), did);
    }

    /// Joins, works for some steps, and ends in some way.
    async fn live(&mut self) -> Check<Then> {
        let lab = self.stage.lab();
        let mut consumer = match lab.events.join(self.stage.spec.clone()).await {
            Ok(consumer) => consumer,
            Err(error) if error.kind() == Kind::Closed => return Ok(Then::Closed),
            Err(error) => return Err(error.into()),
        };
        let mut steps = 10 + self.rng.below(60);
        self.assigned = false;
        while steps > 0 && !*self.stop.borrow() {
            if self.receive(&mut consumer).await? == Then::Closed {
                self.give_back(|_| true);
                return Ok(Then::Closed);
            }
            if let Some(delivery) = self.held.pop_front()
                && self.handle(delivery).await? == Then::Closed
            {
                self.give_back(|_| true);
                return Ok(Then::Closed);
            }
            // A life begins with its first shard: how long a group takes to agree is the engine's.
            let goes = self.assigned && matches!(self.churn, Churn::Leave | Churn::Die);
            steps -= u64::from(goes && !self.stage.calm.load(Ordering::Relaxed));
        }
        self.end(consumer).await
    }

    /// Takes what has arrived; waits a little only when there is nothing to do.
    async fn receive(&mut self, consumer: &mut Consumer) -> Check<Then> {
        let mut wait = match self.held.is_empty() {
            true => Duration::from_millis(20),
            false => Duration::ZERO,
        };
        while self.held.len() < HELD {
            let items = 1 + self.rng.below(8) as usize;
            let next = consumer.next(items, 1 << 20);
            let arrival = match tokio::time::timeout(wait, next).await {
                Err(_) => return Ok(Then::On),
                Ok(Err(error)) if error.kind() == Kind::Closed => return Ok(Then::Closed),
                Ok(arrival) => arrival?,
            };
            wait = Duration::ZERO;
            match arrival {
                Arrival::Each(deliveries) => self.take(deliveries),
                Arrival::Run(chunk, receipt) => self.take(single(chunk, receipt)?),
                Arrival::Assigned(_) => self.assigned = true,
                Arrival::Revoking(shard, _) => {
                    self.hand_back(shard).await?;
                    consumer.control.handed_back(shard);
                }
                Arrival::Lost(shard) => self.give_back(|of| of == shard),
                Arrival::End => return Ok(Then::Closed),
            }
        }
        Ok(Then::On)
    }

    fn take(&mut self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            let fence = delivery.receipt.fence();
            self.add(Did::Delivered {
                text: body(&delivery.message),
                attempt: delivery.attempt,
                shard: fence.shard,
                epoch: fence.epoch,
            });
            self.held.push_back(delivery);
        }
    }

    /// Releases what it holds of a shard, or lets it go unsettled, as the contract allows both.
    async fn hand_back(&mut self, shard: Shard) -> Check {
        if self.rng.percent(50) {
            self.give_back(|of| of == shard);
            return Ok(());
        }
        let (of_it, rest) = self.part(|held| held.receipt.fence().shard == shard);
        self.held = rest;
        self.commit(
            of_it
                .into_iter()
                .map(|d| (d, End::Release, Duration::ZERO))
                .collect(),
            None,
        )
        .await
        .map(drop)
    }

    /// Lets go, unsettled, of what it holds of some shards, which it does not own any more.
    fn give_back(&mut self, of: impl Fn(Shard) -> bool) {
        let (gone, rest) = self.part(|held| of(held.receipt.fence().shard));
        self.held = rest;
        for delivery in &gone {
            let text = body(&delivery.message);
            self.add(Did::GivenBack { text });
        }
    }

    fn part(&mut self, of: impl Fn(&Delivery) -> bool) -> (VecDeque<Delivery>, VecDeque<Delivery>) {
        std::mem::take(&mut self.held).into_iter().partition(of)
    }

    async fn handle(&mut self, delivery: Delivery) -> Check<Then> {
        let text = body(&delivery.message);
        self.add(Did::Handling { text: text.clone() });
        if self.rng.percent(20) {
            tokio::time::sleep(Duration::from_millis(self.rng.below(2))).await;
        }
        self.effects += 1;
        let effect = format!("{text} by {} no {}", self.name(), self.effects);
        let shard = delivery.receipt.fence().shard;
        let after = Duration::from_millis(self.rng.below(15));
        let answer = match self.rng.below(100) {
            0..70 => {
                self.commit(vec![(delivery, End::Done, after)], Some(effect))
                    .await?
            }
            70..82 => {
                self.commit(vec![(delivery, End::Done, after)], None)
                    .await?
            }
            82..85 => {
                self.commit(vec![(delivery, End::Dead, after)], None)
                    .await?
            }
            85..95 => self.fail(delivery, End::Retry, after).await?,
            95..97 => self.fail(delivery, End::Release, after).await?,
            // Whether a drop counts that meets a close is open.
            _ if self.churn == Churn::Engine => self.fail(delivery, End::Retry, after).await?,
            _ => self.abandon(delivery).await?,
        };
        match answer {
            Some(Answer::Fenced) => self.give_back(|of| of == shard),
            Some(Answer::NotApplied) | None => return Ok(Then::Closed),
            Some(Answer::Applied | Answer::Unknown) => {}
        }
        Ok(Then::On)
    }

    /// Ends a message without success, and releases the later ones of its key, in one unit.
    async fn fail(&mut self, first: Delivery, end: End, after: Duration) -> Check<Option<Answer>> {
        let mut all = vec![(first, end, after)];
        all.extend(self.behind(&key(&all[0].0.message)));
        self.commit(all, None).await
    }

    /// Drops a message, and releases the later ones of its key.
    async fn abandon(&mut self, first: Delivery) -> Check<Option<Answer>> {
        let (text, of) = (body(&first.message), key(&first.message));
        self.add(Did::Dropped { text });
        drop(first);
        let behind = self.behind(&of);
        self.commit(behind, None).await
    }

    fn behind(&mut self, of: &str) -> Vec<(Delivery, End, Duration)> {
        let (same, rest) = self.part(|held| key(&held.message) == of);
        self.held = rest;
        same.into_iter()
            .map(|d| (d, End::Release, Duration::ZERO))
            .collect()
    }

    /// Commits one unit, recorded from both sides. `None`: the engine is closed.
    async fn commit(
        &mut self,
        ends: Vec<(Delivery, End, Duration)>,
        effect: Option<String>,
    ) -> Check<Option<Answer>> {
        let mut unit = Unit::default();
        let mut texts = Vec::new();
        for (delivery, end, after) in ends {
            let (text, fence) = (body(&delivery.message), delivery.receipt.fence());
            self.add(Did::Settling {
                text: text.clone(),
                end,
                effect: effect.clone(),
                shard: fence.shard,
                epoch: fence.epoch,
            });
            texts.push(text);
            unit.settle.push((delivery.receipt, verdict(end, after)));
        }
        if let Some(effect) = &effect {
            unit.send.push(outgoing(&self.stage.sink, effect)?);
        }
        if texts.is_empty() {
            return Ok(Some(Answer::Applied));
        }
        let outcome = crate::lab::commit(&self.stage.lab().engine, unit).await?;
        let (answer, closed) = match &outcome {
            Outcome::Applied(_) => (Answer::Applied, false),
            Outcome::Fenced => (Answer::Fenced, false),
            Outcome::Unknown(_) => (Answer::Unknown, true),
            Outcome::NotApplied(_, error) if error.kind() == Kind::Closed => {
                (Answer::NotApplied, true)
            }
            other => return Err(Fault::new(format!("a settle was answered {other:?}"))),
        };
        for text in texts {
            self.add(Did::Settled { text, answer });
        }
        Ok((!closed).then_some(answer))
    }

    /// The end of a life: in order, by death, or as a zombie that settles what it does not own any more.
    async fn end(&mut self, consumer: Consumer) -> Check<Then> {
        if self.churn != Churn::Die {
            let (all, _) = self.part(|_| true);
            let released = all.into_iter().map(|d| (d, End::Release, Duration::ZERO));
            let answer = self.commit(released.collect(), None).await?;
            return Ok(if answer.is_none() {
                Then::Closed
            } else {
                Then::On
            });
        }
        let zombie = if self.rng.percent(50) {
            self.held.pop_back()
        } else {
            None
        };
        self.die();
        consumer.control.leave();
        match zombie {
            Some(zombie) => self.haunt(zombie).await,
            None => Ok(Then::On),
        }
    }

    fn die(&mut self) {
        for delivery in std::mem::take(&mut self.held) {
            let text = body(&delivery.message);
            self.add(Did::Dropped { text });
        }
    }

    async fn haunt(&mut self, zombie: Delivery) -> Check<Then> {
        let text = body(&zombie.message);
        self.add(Did::Dropped { text: text.clone() });
        tokio::time::sleep(Duration::from_millis(self.rng.below(5))).await;
        let effect = format!("{text} by the zombie {}", self.name());
        let answer = self
            .commit(vec![(zombie, End::Done, Duration::ZERO)], Some(effect))
            .await?;
        check!(
            answer != Some(Answer::Applied),
            "`{text}` was settled by a member that had left"
        );
        Ok(Then::On)
    }
}

fn verdict(end: End, after: Duration) -> Verdict {
    match end {
        End::Done => Verdict::Done,
        End::Dead => Verdict::Dead("by chance".into()),
        End::Retry => retry(after),
        End::Release => Verdict::Release,
    }
}
