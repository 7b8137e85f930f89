//! A member: it handles one message after the other, fails by chance, is slow by chance, and keeps to the rules.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use strait_conformance::history::{Answer, Did, End};
use strait_core::events::Expected;
use strait_core::{
    Arrival, Chunk, Consumer, Control, Delivery, Engine, Fence, Message, Outcome, Outgoing,
    Receipt, Shard, Unit, Verdict,
};
use strait_embedded::disk::rng::Rng;
use strait_remote::Reconnect;
use tokio::time::Instant;

use super::process::{Stage, batch};

/// Messages that a member holds before it takes no more.
const HELD: usize = 12;

pub(crate) struct Member {
    name: String,
    /// How often it has joined.
    life: u32,
    stage: Arc<Stage>,
    engine: Reconnect,
    rng: Rng,
    held: VecDeque<Delivery>,
    /// It does not extend the leases of what it holds.
    careless: bool,
    extended: Instant,
    /// Leases that were lost, says the engine.
    lost: BTreeSet<(u64, u64, Shard, u64)>,
    effects: u32,
}

/// Killed with its process: what it held is dropped.
impl Drop for Member {
    fn drop(&mut self) {
        for delivery in std::mem::take(&mut self.held) {
            let text = body(&delivery.message);
            self.add(Did::Dropped { text });
        }
    }
}

impl Member {
    pub(crate) fn new(name: String, stage: Arc<Stage>, engine: Reconnect) -> Self {
        Member {
            name,
            life: 0,
            rng: stage.chance(),
            stage,
            engine,
            held: VecDeque::new(),
            careless: false,
            extended: Instant::now(),
            lost: BTreeSet::new(),
            effects: 0,
        }
    }

    fn who(&self) -> String {
        format!("{} life {}", self.name, self.life)
    }

    fn add(&self, did: Did) {
        self.stage.history.add(self.who(), did);
    }

    /// Joins again and again, until its process dies.
    pub(crate) async fn run(mut self) {
        let events = self.engine.lanes().events.unwrap();
        loop {
            self.life += 1;
            self.careless = self.rng.one_in(3);
            match events.join(self.stage.spec.clone()).await {
                Ok(consumer) => self.live(consumer).await,
                Err(error) => assert!(error.may_retry(), "joining: {error:?}"),
            }
        }
    }

    async fn live(&mut self, mut consumer: Consumer) {
        let control = consumer.control.clone();
        let steps = 10 + self.rng.below(80);
        for step in 0.. {
            if step >= steps && !self.stage.is_calm() {
                break;
            }
            if !self.receive(&mut consumer).await {
                // It ended: nothing of it is left.
                self.give_back(|_| true);
                return;
            }
            self.extend(&control).await;
            if let Some(delivery) = self.held.pop_front() {
                self.handle(delivery, &control).await;
            }
        }
        // It leaves in order.
        let all = std::mem::take(&mut self.held);
        self.commit(released(all), None).await;
        control.leave();
    }

    /// Takes what has arrived; waits only when there is nothing to do. `false` at the consumer's end.
    async fn receive(&mut self, consumer: &mut Consumer) -> bool {
        let mut wait = match self.held.is_empty() {
            true => Duration::from_millis(40),
            false => Duration::ZERO,
        };
        while self.held.len() < HELD {
            let items = 1 + self.rng.below(8) as usize;
            let arrival = match tokio::time::timeout(wait, consumer.next(items, 1 << 20)).await {
                Err(_) => return true,
                Ok(Ok(arrival)) => arrival,
                Ok(Err(error)) => {
                    assert!(error.may_retry(), "receiving: {error:?}");
                    return false;
                }
            };
            wait = Duration::ZERO;
            match arrival {
                Arrival::Each(deliveries) => self.take(deliveries),
                Arrival::Run(chunk, receipt) => self.take(single(&chunk, receipt)),
                Arrival::Assigned(_) => {}
                Arrival::Revoking(shard, _) => {
                    let control = consumer.control.clone();
                    self.hand_back(shard, &control).await;
                }
                Arrival::Lost(shard) => self.give_back(|fence| fence.shard == shard),
                Arrival::End => return false,
            }
        }
        true
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

    /// Hands a shard back in order, or too late: then it is taken.
    async fn hand_back(&mut self, shard: Shard, control: &Arc<dyn Control>) {
        if !self.stage.is_calm() && self.rng.one_in(6) {
            return;
        }
        let (of_it, rest) = self.part(|fence| fence.shard == shard);
        self.held = rest;
        self.commit(released(of_it), None).await;
        control.handed_back(shard);
    }

    /// Lets go, unsettled, of what it does not own any more.
    fn give_back(&mut self, of: impl Fn(Fence) -> bool) {
        let (gone, rest) = self.part(of);
        self.held = rest;
        for delivery in gone {
            let text = body(&delivery.message);
            self.add(Did::GivenBack { text });
        }
    }

    fn part(&mut self, of: impl Fn(Fence) -> bool) -> (VecDeque<Delivery>, VecDeque<Delivery>) {
        let held = std::mem::take(&mut self.held).into_iter();
        held.partition(|delivery| of(delivery.receipt.fence()))
    }

    /// Extends the leases of what it holds, in time unless it is careless.
    async fn extend(&mut self, control: &Arc<dyn Control>) {
        let lease = self.stage.spec.lease;
        let careless = self.careless && !self.stage.is_calm();
        if careless || self.held.is_empty() || self.extended.elapsed() < lease / 3 {
            return;
        }
        let fences: Vec<Fence> = self.held.iter().map(|d| d.receipt.fence()).collect();
        self.extended = Instant::now();
        // An error says nothing of the leases.
        let Ok(kept) = control.extend(fences.clone(), lease).await else {
            return;
        };
        assert_eq!(kept.len(), fences.len());
        let lost = fences.into_iter().zip(kept).filter(|(_, kept)| !kept);
        self.lost.extend(lost.map(|(fence, _)| identity(fence)));
    }

    async fn handle(&mut self, delivery: Delivery, control: &Arc<dyn Control>) {
        let text = body(&delivery.message);
        self.add(Did::Handling { text: text.clone() });
        // While it works its process may die: then this one is dropped with the others.
        self.held.push_front(delivery);
        self.work(control).await;
        let delivery = self.held.pop_front().expect("it was put there");
        let after = Duration::from_millis(self.rng.below(200));
        self.effects += 1;
        let effect = format!("{text} by {} no {}", self.who(), self.effects);
        let done = (delivery, End::Done, after);
        match self.rng.below(100) {
            0..65 => self.commit(vec![done], Some(effect)).await,
            65..75 => self.commit(vec![done], None).await,
            75..79 => self.commit(vec![(done.0, End::Dead, after)], None).await,
            79..89 => self.fail(done.0, End::Retry, after).await,
            89..95 => self.fail(done.0, End::Release, after).await,
            _ => {
                self.add(Did::Dropped { text });
                let behind = self.behind(&done.0);
                drop(done);
                self.commit(behind, None).await;
            }
        }
    }

    /// Works for some time; now and then for longer than a lease, extending it or not.
    async fn work(&mut self, control: &Arc<dyn Control>) {
        let lease = self.stage.spec.lease;
        match self.rng.below(24) {
            0 if !self.stage.is_calm() => tokio::time::sleep(lease.mul_f64(1.3)).await,
            1 if !self.stage.is_calm() => {
                for _ in 0..4 {
                    tokio::time::sleep(lease / 3).await;
                    self.extend(control).await;
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(self.rng.below(15))).await,
        }
    }

    /// Ends a message without success, and releases the later ones of its key, in one unit.
    async fn fail(&mut self, first: Delivery, end: End, after: Duration) {
        let behind = self.behind(&first);
        let mut all = vec![(first, end, after)];
        all.extend(behind);
        self.commit(all, None).await;
    }

    fn behind(&mut self, first: &Delivery) -> Vec<(Delivery, End, Duration)> {
        let held = std::mem::take(&mut self.held).into_iter();
        let (same, rest) = held.partition(|held| key(&held.message) == key(&first.message));
        self.held = rest;
        released(same)
    }

    /// Commits one unit, recorded from both sides. Where it is not applied, what it holds of the shard is lost as well.
    async fn commit(&mut self, ends: Vec<(Delivery, End, Duration)>, effect: Option<String>) {
        let mut unit = Unit::default();
        let (mut texts, mut shards) = (Vec::new(), BTreeSet::new());
        let mut lost = false;
        for (delivery, end, after) in ends {
            let (text, fence) = (body(&delivery.message), delivery.receipt.fence());
            self.add(Did::Settling {
                text: text.clone(),
                end,
                effect: effect.clone(),
                shard: fence.shard,
                epoch: fence.epoch,
            });
            lost |= self.lost.contains(&identity(fence));
            shards.insert(fence.shard);
            texts.push(text);
            unit.settle.push((delivery.receipt, verdict(end, after)));
        }
        if texts.is_empty() {
            return;
        }
        unit.send.extend(effect.map(|effect| Outgoing::Append {
            topic: self.stage.sink.clone(),
            partition: 0,
            records: batch(None, &[effect]),
            expected: Expected::Any,
            dedupe: false,
        }));
        let outcome = self.engine.commit(vec![unit]).await.pop();
        let answer = match outcome.expect("one unit has one outcome") {
            Outcome::Applied(_) => Answer::Applied,
            Outcome::Fenced => Answer::Fenced,
            Outcome::Unknown(_) => Answer::Unknown,
            Outcome::NotApplied(..) => Answer::NotApplied,
            Outcome::Seen(_) => panic!("nobody asked for once"),
        };
        assert!(
            !lost || answer != Answer::Applied,
            "{}: {texts:?} were settled after their lease was lost",
            self.who()
        );
        for text in texts {
            self.add(Did::Settled { text, answer });
        }
        match answer {
            Answer::Applied => {}
            Answer::Fenced | Answer::NotApplied => {
                self.give_back(|fence| shards.contains(&fence.shard));
            }
            // The connection is lost, and all its receipts.
            Answer::Unknown => self.give_back(|_| true),
        }
    }
}

fn released(all: VecDeque<Delivery>) -> Vec<(Delivery, End, Duration)> {
    let release = |delivery| (delivery, End::Release, Duration::ZERO);
    all.into_iter().map(release).collect()
}

fn verdict(end: End, after: Duration) -> Verdict {
    match end {
        End::Done => Verdict::Done,
        End::Dead => Verdict::Dead("by chance".into()),
        End::Retry => Verdict::Retry {
            after,
            reason: "not now".into(),
            counts: true,
        },
        End::Release => Verdict::Release,
    }
}

fn identity(fence: Fence) -> (u64, u64, Shard, u64) {
    (
        fence.consumer,
        fence.epoch,
        fence.shard,
        fence.first.offset(),
    )
}

pub(crate) fn body(message: &Message) -> String {
    String::from_utf8(message.record().body().to_vec()).unwrap()
}

fn key(message: &Message) -> Option<Vec<u8>> {
    message.record().key().map(<[u8]>::to_vec)
}

/// The deliveries of a run, each with its own receipt.
fn single(chunk: &Chunk, receipt: Receipt) -> Vec<Delivery> {
    assert_eq!(chunk.len(), receipt.count() as usize);
    let (mut rest, mut deliveries) = (Some(receipt), Vec::new());
    for item in chunk.iter() {
        let left = rest.as_mut().expect("a receipt covers its run");
        let own = match left.split_first() {
            Some(own) => own,
            None => rest.take().expect("the last one is what is left"),
        };
        assert_eq!(own.fence().first, item.position());
        deliveries.push(Delivery {
            message: item.to_message(),
            attempt: 1,
            last_error: None,
            receipt: own,
        });
    }
    deliveries
}
