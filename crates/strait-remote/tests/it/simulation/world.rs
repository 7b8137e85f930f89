//! A run: the owner, the processes, what befalls them, and the judgement at the end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use strait_conformance::history::{self, Event, Stored};
use strait_core::events::{Cursor, DeadFilter, Events, GroupSpec, TopicSpec};
use strait_core::{Name, Position};
use strait_embedded::disk::rng::Rng;
use tokio::time::Instant;

use super::member::body;
use super::note;
use super::owner::Owner;
use super::process::{PARTITIONS, Process, Stage};
use super::tasks::{Scheduler, Tasks};
use crate::double::name;

const PROCESSES: usize = 3;
/// Attempts that no message reaches: losing a connection spends one.
const ATTEMPTS: u32 = 1_000_000;
/// In this time, when nothing fails any more, everything must have come to its end.
const DRAIN: Duration = Duration::from_secs(300);

pub(crate) struct World {
    rng: Rng,
    begun: Instant,
    stage: Arc<Stage>,
    processes: Vec<Option<Arc<Process>>>,
    lives: u32,
    /// Faults that are not over yet.
    faults: Arc<AtomicUsize>,
    /// Processes that were killed, and when they start again.
    due: Vec<(Instant, usize)>,
    owner_due: Option<Instant>,
}

impl World {
    pub(crate) async fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let tasks = Arc::<Tasks>::default();
        let owner = Owner::new(tasks.clone(), Rng::new(rng.next_u64()));
        let lease = Duration::from_millis(400 + rng.below(1_200));
        let spec = GroupSpec {
            lease,
            handover: Duration::from_millis(100 + rng.below(1_000)),
            max_attempts: ATTEMPTS,
            ..GroupSpec::new(name("billing"), name("orders"))
        };
        note(format!("lease {lease:?}, handover {:?}", spec.handover));
        let chance = Rng::new(rng.next_u64());
        let stage = Arc::new(Stage::new(tasks, owner, spec, chance));
        let mut world = World {
            rng,
            begun: Instant::now(),
            stage,
            processes: vec![None; PROCESSES],
            lives: 0,
            faults: Arc::default(),
            due: Vec::new(),
            owner_due: None,
        };
        let events = world.events();
        for (topic, partitions) in [(&world.stage.topic, PARTITIONS), (&world.stage.sink, 1)] {
            let spec = TopicSpec::new(topic.clone()).partitions(partitions);
            events.declare(spec).await.unwrap();
        }
        (0..PROCESSES).for_each(|number| world.start(number));
        world
    }

    /// The engine, seen from beside it.
    fn events(&self) -> Arc<dyn Events> {
        self.stage.owner.engine().lanes().events.unwrap()
    }

    fn start(&mut self, number: usize) {
        self.lives += 1;
        let name = format!("p{number}-{}", self.lives);
        self.note(format!("{name} starts"));
        self.processes[number] = Some(Process::start(name, self.stage.clone()));
    }

    fn note(&self, text: String) {
        note(format!(
            "{:>6} ms: {text}",
            self.begun.elapsed().as_millis()
        ));
    }

    /// Time passes; what was killed starts again when it is due.
    async fn pass(&mut self, time: Duration) {
        self.stage.tasks.pass(time).await;
        let now = Instant::now();
        if self.owner_due.is_some_and(|due| due <= now) {
            self.owner_due = None;
            self.note("the owner is back".to_owned());
            self.stage.owner.open();
        }
        let (due, later) = self.due.drain(..).partition(|(due, _)| *due <= now);
        self.due = later;
        let due: Vec<(Instant, usize)> = due;
        for (_, number) in due {
            self.start(number);
        }
    }

    /// One fault after the other, some at the same time.
    pub(crate) async fn storm(&mut self) {
        let faults = 8 + self.rng.below(16);
        for _ in 0..faults {
            let calm = Duration::from_millis(20 + self.rng.below(500));
            self.pass(calm).await;
            self.fault();
        }
    }

    /// Shorter or longer than a lease.
    fn a_while(&mut self) -> Duration {
        let part = 0.2 + self.rng.below(230) as f64 / 100.0;
        self.stage.spec.lease.mul_f64(part)
    }

    fn fault(&mut self) {
        let (kind, number) = (
            self.rng.below(16),
            self.rng.below(PROCESSES as u64) as usize,
        );
        let time = self.a_while();
        if kind < 2 {
            return self.owner_fault(kind == 0, time);
        }
        let Some(process) = self.processes[number].clone() else {
            return;
        };
        match (kind, process.link()) {
            (2..5, _) => {
                self.note(format!("process {number} is stopped for {time:?}"));
                self.stop(process.scheduler.clone(), time);
            }
            (5..7, _) => {
                self.note(format!(
                    "process {number} is killed, starts again in {time:?}"
                ));
                process.kill();
                self.processes[number] = None;
                self.due.push((Instant::now() + time, number));
            }
            (7..10, Some(link)) => {
                self.note(format!("the link of process {number} stalls for {time:?}"));
                link.stall(true);
                self.later(time, move || link.stall(false));
            }
            (10..12, Some(link)) => {
                self.note(format!("the link of process {number} is cut"));
                link.cut();
            }
            (12..15, Some(link)) => {
                self.note(format!(
                    "process {number} hears nothing, is cut in {time:?}"
                ));
                link.lose_answers();
                self.later(time, move || link.cut());
            }
            (_, Some(link)) => {
                self.note(format!("process {number} is not heard, is cut in {time:?}"));
                link.lose_requests();
                self.later(time, move || link.cut());
            }
            (_, None) => {}
        }
    }

    fn owner_fault(&mut self, dies: bool, time: Duration) {
        let Some(scheduler) = self.stage.owner.scheduler() else {
            return;
        };
        if dies {
            self.note(format!("the owner is killed, comes back in {time:?}"));
            self.stage.owner.kill();
            self.owner_due = Some(Instant::now() + time);
        } else {
            self.note(format!("the owner is stopped for {time:?}"));
            self.stop(scheduler, time);
        }
    }

    fn stop(&self, scheduler: Arc<Scheduler>, time: Duration) {
        scheduler.stop();
        self.later(time, move || scheduler.go_on());
    }

    /// The end of a fault.
    fn later(&self, time: Duration, end: impl FnOnce() + Send + 'static) {
        let faults = self.faults.clone();
        faults.fetch_add(1, Ordering::Relaxed);
        self.stage.tasks.spawn(async move {
            tokio::time::sleep(time).await;
            end();
            faults.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Nothing fails any more: everything comes to its end. Gives what was seen.
    pub(crate) async fn judge(&mut self) -> Vec<Event> {
        let tick = Duration::from_millis(50);
        while self.faults.load(Ordering::Relaxed) > 0
            || !self.due.is_empty()
            || !self.stage.owner.is_alive()
        {
            self.pass(tick).await;
        }
        self.note("nothing fails any more".to_owned());
        self.stage.calm.store(true, Ordering::Relaxed);
        let end = Instant::now() + DRAIN;
        while self.stage.producing.load(Ordering::Relaxed) > 0 || self.lag().await > 0 {
            assert!(Instant::now() < end, "{}", self.stuck().await);
            self.pass(tick).await;
        }
        self.note("everything is at its end".to_owned());
        // A zombie would show now.
        self.pass(self.stage.spec.lease * 3).await;
        let stored = self.stored().await;
        self.nothing_refused_is_there(&stored);
        let seen = self.stage.history.events();
        let broken = history::check(&seen, &stored);
        if let Some(first) = broken.first() {
            panic!("{first}\n  and {} more", broken.len() - 1);
        }
        seen
    }

    async fn lag(&self) -> u64 {
        let spec = &self.stage.spec;
        let info = self.events().group(spec.group.clone(), spec.topic.clone());
        // Nobody has joined yet.
        info.await.map_or(1, |info| info.lag())
    }

    async fn stuck(&self) -> String {
        let spec = &self.stage.spec;
        let info = self.events().group(spec.group.clone(), spec.topic.clone());
        let producing = self.stage.producing.load(Ordering::Relaxed);
        format!(
            "after {DRAIN:?} without a fault {producing} producers are not at their end, and the group is {:?}",
            info.await
        )
    }

    async fn stored(&self) -> Stored {
        let mut stored = Stored {
            lag: self.lag().await,
            max_attempts: ATTEMPTS,
            lossy: true,
            ..Stored::default()
        };
        for partition in 0..PARTITIONS {
            let texts = self.all(&self.stage.topic, partition).await;
            stored.log.extend(
                texts
                    .into_iter()
                    .map(|(position, text)| ((partition, position), text)),
            );
        }
        let effects = self.all(&self.stage.sink, 0).await;
        stored.effects = effects.into_iter().map(|(_, text)| text).collect();
        let spec = &self.stage.spec;
        let (group, topic) = (spec.group.clone(), spec.topic.clone());
        let letters = self.events();
        let letters = letters.dead_letters(group, topic, DeadFilter::default(), 0, usize::MAX);
        for letter in letters.await.unwrap() {
            stored.dead.push((body(&letter.message), letter.attempts));
        }
        stored
    }

    async fn all(&self, topic: &Name, partition: u32) -> Vec<(Position, String)> {
        let (mut all, mut position) = (Vec::new(), Position::at(0));
        loop {
            let cursor = Cursor {
                topic: topic.clone(),
                partition,
                position,
                wait: Duration::ZERO,
            };
            let chunk = self.events().read(cursor, 1 << 20).await.unwrap();
            if chunk.is_empty() {
                return all;
            }
            all.extend(chunk.iter().map(|item| {
                let text = String::from_utf8(item.record().body().to_vec()).unwrap();
                (item.position(), text)
            }));
            position = chunk.next();
        }
    }

    /// An append that was refused left nothing, and no other one is there twice.
    fn nothing_refused_is_there(&self, stored: &Stored) {
        let mut there = BTreeSet::new();
        for text in stored.log.values() {
            assert!(there.insert(text), "`{text}` is there twice");
        }
        for text in &*self.stage.refused.lock() {
            assert!(!there.contains(text), "`{text}` was refused, and is there");
        }
    }
}
