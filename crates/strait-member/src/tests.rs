//! A member over a log with holes, against a plain model: random verdicts, lost leases, deaths and hand-overs, from seeds.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use strait_core::events::{AfterDead, Order};
use strait_core::{
    Abandoned, Arrival, Chunk, Delivery, Fence, NewRecord, Position, Receipt, Records, Span,
    Timestamp, Verdict,
};

use crate::{Again, End, Grant, Kept, Range, Rules, Step, Window};

const SEEDS: u64 = 2000;
const MESSAGES: u64 = 40;

/// What a driver would store, kept by steps alone.
#[derive(Default)]
struct Store {
    low: Position,
    settled: BTreeMap<Position, Position>,
    again: BTreeMap<Position, Again>,
    out: Position,
}

impl Store {
    fn grant(&mut self, grant: &Grant) {
        self.out = grant.out.map_or(self.out, |out| out.max(self.out));
        let again = grant.again.iter().cloned();
        self.again
            .extend(again.map(|again| (again.position, again)));
    }

    fn step(&mut self, step: &Step, positions: Vec<Position>) {
        if let End::Again {
            attempts,
            lost,
            due,
            reason,
        } = &step.end
        {
            for position in positions {
                let again = Again {
                    position,
                    attempts: *attempts,
                    lost: *lost,
                    due: *due,
                    reason: reason.clone(),
                };
                self.again.insert(position, again);
            }
            return;
        }
        self.again
            .retain(|at, _| *at < step.range.from || *at >= step.range.to);
        self.settled.insert(step.range.from, step.range.to);
        while let Some(to) = self.settled.remove(&self.low) {
            self.low = to;
        }
    }

    fn kept(&self) -> Kept {
        let mut settled: Vec<Range> = Vec::new();
        for (from, to) in &self.settled {
            match settled.last_mut() {
                Some(last) if last.to == *from => last.to = *to,
                _ => settled.push(Range {
                    from: *from,
                    to: *to,
                }),
            }
        }
        Kept {
            low: self.low,
            settled,
            again: self.again.values().cloned().collect(),
            out: self.out.max(self.low),
        }
    }
}

#[derive(Debug, Default)]
struct Home(Mutex<Vec<Fence>>);

impl Abandoned for Home {
    fn abandoned(&self, fence: Fence) {
        self.0.lock().unwrap().push(fence);
    }
}

/// A log whose positions are not dense, and what became of its messages.
struct Lab {
    rng: fastrand::Rng,
    log: Vec<Position>,
    store: Store,
    window: Window,
    home: Arc<Home>,
    now: Duration,
    epoch: u64,
    rules: Rules,
    held: Vec<(u64, Delivery)>,
    /// Of each message: how often it was settled, and the attempts seen.
    done: HashMap<u64, u32>,
    dead: HashMap<u64, u32>,
    order: HashMap<u64, Vec<u64>>,
}

impl Lab {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut at = 0;
        let log = (0..MESSAGES).map(|_| {
            at += rng.u64(1..4);
            Position::of_parts(at / 7, at)
        });
        let log = log.collect();
        let rules = Rules {
            order: if rng.bool() { Order::Key } else { Order::Free },
            lease: Duration::from_millis(100),
            max_attempts: rng.u32(2..6),
            gap: rng.u64(3..20),
            after_dead: AfterDead::Continue,
        };
        let window = Window::new(3, 9, 1, rules.clone(), Kept::default());
        Lab {
            rng,
            log,
            store: Store::default(),
            window,
            home: Arc::default(),
            now: Duration::ZERO,
            epoch: 1,
            rules,
            held: Vec::new(),
            done: HashMap::new(),
            dead: HashMap::new(),
            order: HashMap::new(),
        }
    }

    fn wall(&self) -> Timestamp {
        Timestamp::default().after(self.now)
    }

    fn chunk(&self, from: Position, items: usize) -> Chunk {
        let mut buf = BytesMut::new();
        let mut spans = Vec::new();
        let rest = self.log.iter().enumerate().filter(|(_, at)| **at >= from);
        for (i, position) in rest.take(items) {
            let key = (i % 3).to_string();
            let record = NewRecord {
                key: (i % 4 != 3).then_some(key.as_bytes()),
                body: &(i as u64).to_le_bytes(),
                ..NewRecord::default()
            };
            let records = Records::one(&[], record).unwrap();
            spans.push(Span {
                at: buf.len() as u32,
                first: *position,
                skip: 0,
                take: 1,
                appended: Timestamp::default(),
            });
            buf.extend_from_slice(records.bytes());
        }
        let next = spans.last().map_or(from, |span| span.first.next());
        Chunk::new("t".into(), 3, buf.freeze(), spans, next)
    }

    fn read(&mut self) {
        let items = self.window.room().min(self.rng.u64(1..8)) as usize;
        let chunk = self.chunk(self.window.cursor(), items);
        self.window.offer(chunk);
    }

    fn take(&mut self) {
        let steps = self.window.expire(self.now, self.wall());
        self.store_steps(steps);
        let home: Arc<dyn Abandoned> = self.home.clone();
        let items = self.rng.usize(1..6);
        let Some(taken) = self
            .window
            .take(self.now, self.wall(), items, 1 << 20, &home)
        else {
            return;
        };
        if self.rng.u8(..8) == 0 {
            // The group was changed meanwhile, and the grant refused.
            return self.window.put_back(taken);
        }
        self.store.grant(&taken.grant);
        let deliveries = match taken.arrival {
            Arrival::Each(deliveries) => deliveries,
            Arrival::Run(chunk, receipt) => single(&chunk, receipt),
            other => panic!("{other:?}"),
        };
        for delivery in deliveries {
            let body = delivery.message.record().body().try_into().unwrap();
            let id = u64::from_le_bytes(body);
            assert_eq!(delivery.message.position(), self.log[id as usize]);
            assert!(
                delivery.attempt <= self.rules.max_attempts,
                "attempts of {id}: {delivery:?} {:?}\n{:#?}",
                self.rules,
                taken.grant
            );
            self.held.push((id, delivery));
        }
        let oldest = self.log.iter().position(|at| *at >= self.store.low);
        let newest = self.held.iter().map(|(id, _)| *id).max();
        if let (Some(oldest), Some(newest)) = (oldest, newest) {
            assert!(
                newest < oldest as u64 + self.rules.gap,
                "the gap {} {oldest} {newest} {:?}",
                self.rules.gap,
                self.window
            );
        }
    }

    fn store_steps(&mut self, steps: Vec<Step>) {
        for step in steps {
            let messages: Vec<_> = self.window.messages(&step).collect();
            let ids = messages
                .iter()
                .map(|m| u64::from_le_bytes(m.record().body().try_into().unwrap()));
            for id in ids {
                match &step.end {
                    End::Done => {
                        *self.done.entry(id).or_default() += 1;
                        self.order.entry(key_of(id)).or_default().push(id);
                    }
                    End::Dead { attempts, .. } => {
                        assert!(*attempts <= self.rules.max_attempts, "{attempts}");
                        *self.dead.entry(id).or_default() += 1;
                    }
                    End::Again { .. } => {}
                }
            }
            let positions = messages
                .iter()
                .map(strait_core::Message::position)
                .collect();
            self.store.step(&step, positions);
            self.window.applied(step);
        }
    }

    /// The member ends its oldest message of some key, as a member must.
    fn end_one(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let pick = self.rng.usize(..self.held.len());
        let key = key_of(self.held[pick].0);
        let first = self
            .held
            .iter()
            .position(|(id, _)| key_of(*id) == key)
            .unwrap();
        let (id, delivery) = self.held.remove(first);
        let verdict = match self.rng.u8(..10) {
            0 => Verdict::Release,
            1 | 2 => Verdict::Retry {
                after: Duration::from_millis(self.rng.u64(..50)),
                reason: "no".into(),
                counts: self.rng.bool(),
            },
            3 => {
                drop(delivery);
                self.abandoned();
                return self.give_back(id);
            }
            _ => Verdict::Done,
        };
        let comes_again = !matches!(verdict, Verdict::Done);
        let message = delivery.message;
        let fence = delivery.receipt.settle();
        match self.window.begin(&fence, &verdict, self.wall()) {
            Some(steps) if self.rng.u8(..8) == 0 => {
                // It could not be stored: the unit comes back with its receipt.
                steps.iter().for_each(|step| self.window.back(step));
                let home: Arc<dyn Abandoned> = self.home.clone();
                let receipt = Receipt::new(fence, Some(home));
                let again = Delivery {
                    receipt,
                    message,
                    attempt: 0,
                    last_error: None,
                };
                return self.held.insert(first, (id, again));
            }
            Some(steps) => self.store_steps(steps),
            None => {}
        }
        if comes_again {
            self.give_back(id);
        }
    }

    /// Later messages of the key go back unhandled.
    fn give_back(&mut self, id: u64) {
        if self.rules.order == Order::Free {
            return;
        }
        let same = |(other, _): &(u64, Delivery)| key_of(*other) == key_of(id);
        let held = std::mem::take(&mut self.held);
        let (back, rest): (Vec<_>, Vec<_>) = held.into_iter().partition(same);
        self.held = rest;
        for (_, delivery) in back {
            let fence = delivery.receipt.settle();
            let steps = self.window.begin(&fence, &Verdict::Release, self.wall());
            self.store_steps(steps.unwrap_or_default());
        }
    }

    fn pass_time(&mut self) {
        self.now += Duration::from_millis(self.rng.u64(1..60));
        let steps = self.window.expire(self.now, self.wall());
        self.store_steps(steps);
        let window = &self.window;
        self.held
            .retain(|(_, delivery)| window.holds(&delivery.receipt.fence()));
        self.abandoned();
    }

    fn abandoned(&mut self) {
        let fences = std::mem::take(&mut *self.home.0.lock().unwrap());
        for fence in fences {
            let steps = self.window.abandoned(&fence, self.wall());
            self.store_steps(steps);
        }
    }

    /// The process dies: what was stored is what there is.
    fn die(&mut self) {
        self.epoch += 1;
        let fences: Vec<Fence> = self.window.out();
        self.held.clear();
        self.home.0.lock().unwrap().clear();
        let kept = self.store.kept();
        self.window = Window::new(3, 9, self.epoch, self.rules.clone(), kept);
        let lost = fences.iter().find(|fence| self.window.holds(fence));
        assert_eq!(lost, None, "a receipt of an earlier epoch is valid");
    }

    fn run(&mut self) {
        for _ in 0..4000 {
            match self.rng.u8(..20) {
                0..4 => self.read(),
                4..9 => self.take(),
                9..16 => self.end_one(),
                16..19 => self.pass_time(),
                _ if self.rng.u8(..4) == 0 => self.die(),
                _ => self.abandoned(),
            }
            if self.done.len() + self.dead.len() == MESSAGES as usize {
                return;
            }
        }
        panic!("not all ended: {:?}", self.window.stands());
    }

    fn check(&mut self) {
        for id in 0..MESSAGES {
            let ends = [&self.done, &self.dead].map(|of| of.get(&id).copied().unwrap_or(0));
            assert_eq!(
                ends[0] + ends[1],
                1,
                "message {id} ended so often: {ends:?}"
            );
        }
        if self.rules.order == Order::Key {
            for (key, ids) in &self.order {
                let sorted = ids.windows(2).all(|pair| pair[0] < pair[1]);
                assert!(sorted || *key == 3, "key {key}: {ids:?}");
            }
        }
        assert!(self.store.settled.is_empty(), "{:?}", self.store.settled);
        assert!(self.store.again.is_empty(), "{:?}", self.store.again);
        while self.window.cursor() <= self.log[MESSAGES as usize - 1] {
            self.read();
        }
        let behind_all = self.log.last().unwrap().next();
        assert_eq!(
            (self.store.low, self.window.low()),
            (behind_all, behind_all)
        );
        assert!(self.window.is_idle() && !self.window.has_work());
    }
}

/// Every fourth message has no key.
fn key_of(id: u64) -> u64 {
    if id % 4 == 3 { 3 } else { id % 3 }
}

fn single(chunk: &Chunk, mut receipt: Receipt) -> Vec<Delivery> {
    let count = chunk.len();
    let mut all = Vec::new();
    let mut rest = Some(());
    for (i, item) in chunk.iter().enumerate() {
        let own = if i + 1 < count {
            receipt.split_first()
        } else {
            rest.take().and(None)
        };
        let message = item.to_message();
        if let Some(own) = own {
            all.push(delivery(message, own));
        }
    }
    let last = chunk.iter().last().unwrap().to_message();
    all.push(delivery(last, receipt));
    all
}

fn delivery(message: strait_core::Message, receipt: Receipt) -> Delivery {
    Delivery {
        message,
        attempt: 1,
        last_error: None,
        receipt,
    }
}

#[test]
fn every_message_ends_once_in_its_order() {
    let from = std::env::var("STRAIT_MEMBER_FROM")
        .ok()
        .and_then(|text| text.parse().ok());
    let seeds = from.map_or(0..SEEDS, |from: u64| from..from + 1);
    for seed in seeds {
        let ran = std::panic::catch_unwind(|| {
            let mut lab = Lab::new(seed);
            lab.run();
            lab.check();
        });
        assert!(
            ran.is_ok(),
            "seed {seed}: again with STRAIT_MEMBER_FROM={seed}"
        );
    }
}

/// What is durable by steps is what the window says of itself.
#[test]
fn the_steps_make_what_is_kept() {
    for seed in 0..500 {
        let mut lab = Lab::new(seed);
        for _ in 0..200 {
            match lab.rng.u8(..10) {
                0..3 => lab.read(),
                3..6 => lab.take(),
                6..9 => lab.end_one(),
                _ => lab.pass_time(),
            }
        }
        let (kept, stored) = (lab.window.kept(), lab.store.kept());
        assert_eq!(kept.settled, stored.settled, "seed {seed}");
        assert!(kept.low >= stored.low, "seed {seed}");
        let positions = |kept: &Kept| {
            kept.again
                .iter()
                .filter(|a| a.attempts > 0)
                .map(|a| a.position)
                .collect::<Vec<_>>()
        };
        assert_eq!(positions(&kept), positions(&stored), "seed {seed}");
    }
}

/// A window over messages `(position, key)` with the positions 10, 20, 30 .., and what it hands out next.
struct Operated {
    window: Window,
    home: Arc<dyn Abandoned>,
}

impl Operated {
    fn new(keys: &[&str]) -> Self {
        let rules = Rules {
            order: Order::Key,
            lease: Duration::from_secs(30),
            max_attempts: 3,
            gap: 100,
            after_dead: AfterDead::Continue,
        };
        let mut window = Window::new(0, 1, 1, rules, Kept::default());
        window.offer(messages(10, keys));
        let home: Arc<dyn Abandoned> = Arc::new(Home::default());
        Operated { window, home }
    }

    fn again(position: u64) -> Again {
        Again {
            position: Position::at(position),
            attempts: 0,
            lost: 0,
            due: Timestamp::default(),
            reason: None,
        }
    }

    fn back(&mut self, position: u64, key: &str) -> u64 {
        let message = messages(position, &[key])
            .iter()
            .next()
            .unwrap()
            .to_message();
        self.window.comes_again(message, Self::again(position))
    }

    fn taken(&mut self, items: usize) -> Option<crate::Taken> {
        let now = (Duration::ZERO, Timestamp::default());
        self.window.take(now.0, now.1, items, 1 << 20, &self.home)
    }

    /// The positions of what goes out, all of which ends well.
    fn drain(&mut self) -> Vec<u64> {
        let mut all = Vec::new();
        while let Some(taken) = self.taken(1) {
            let deliveries = match taken.arrival {
                Arrival::Each(deliveries) => deliveries,
                Arrival::Run(chunk, receipt) => single(&chunk, receipt),
                other => panic!("{other:?}"),
            };
            for delivery in deliveries {
                all.push(delivery.message.position().offset());
                let fence = delivery.receipt.settle();
                let steps = self
                    .window
                    .begin(&fence, &Verdict::Done, Timestamp::default());
                steps
                    .unwrap()
                    .into_iter()
                    .for_each(|step| self.window.applied(step));
            }
        }
        all
    }
}

fn messages(first: u64, keys: &[&str]) -> Chunk {
    let mut buf = BytesMut::new();
    let mut spans = Vec::new();
    let mut at = first;
    for key in keys {
        let record = NewRecord {
            key: Some(key.as_bytes()),
            ..NewRecord::default()
        };
        spans.push(Span {
            at: buf.len() as u32,
            first: Position::at(at),
            skip: 0,
            take: 1,
            appended: Timestamp::default(),
        });
        buf.extend_from_slice(Records::one(&[], record).unwrap().bytes());
        at += 10;
    }
    Chunk::new("t".into(), 0, buf.freeze(), spans, Position::at(at - 9))
}

#[test]
fn what_came_back_has_its_place_in_the_order_of_its_key() {
    let mut lab = Operated::new(&["a", "b", "a"]);
    lab.back(25, "a");
    assert_eq!(lab.drain(), [10, 20, 25, 30]);
}

#[test]
fn what_came_back_can_be_taken_back_until_it_is_out() {
    let mut lab = Operated::new(&["a"]);
    let (first, second) = (lab.back(1, "a"), lab.back(2, "a"));
    let out = lab.taken(1).unwrap();
    assert_eq!(out.grant.elsewhere[0].0, first);
    assert!(!lab.window.withdraw(first), "it is out");
    assert!(lab.window.withdraw(second));
    assert!(!lab.window.withdraw(second), "it is gone");
    lab.window.put_back(out);
    assert_eq!(lab.drain(), [1, 10]);
    assert_eq!(lab.window.stands().unsettled, 0);
}

#[test]
fn what_others_settled_does_not_go_out() {
    let mut lab = Operated::new(&["a", "b", "c", "d"]);
    let range = |from, to| Range {
        from: Position::at(from),
        to: Position::at(to),
    };
    // Of those that were read the second and the fourth, and one that was not read yet.
    let settled = [range(11, 21), range(31, 41), range(41, 51)];
    lab.window.settled_by_others(Position::default(), &settled);
    lab.window.offer(messages(50, &["e", "f"]));
    assert_eq!(lab.drain(), [10, 30, 60]);
    assert_eq!(lab.window.low(), Position::at(61));
}

#[test]
fn keys_are_held_as_they_are_told() {
    let mut lab = Operated::new(&["a", "b", "a"]);
    lab.window.set_held([&b"a"[..]].into_iter());
    assert_eq!(lab.drain(), [20]);
    assert_eq!(lab.window.stands().held_keys, 1);
    lab.window.set_held(std::iter::empty());
    assert_eq!(lab.drain(), [10, 30]);
}

#[test]
fn a_smaller_gap_holds_for_what_was_read() {
    let mut lab = Operated::new(&["a", "b", "c"]);
    let rules = Rules {
        gap: 1,
        ..lab.window.rules().clone()
    };
    lab.window.set_rules(rules);
    let first = lab.taken(9).unwrap();
    assert_eq!(first.grant.out, Some(Position::at(11)));
    assert!(lab.taken(9).is_none(), "the gap is reached");
    assert!(lab.window.stands().at_gap);
}
