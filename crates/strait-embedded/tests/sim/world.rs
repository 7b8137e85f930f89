//! The world of one run: the engine on its disk, what is under way, and the model beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use strait_core::events::Events;
use strait_core::{Engine, Health, Kind, Limits, codes};
use strait_embedded::Options;
use strait_embedded::disk::rng::Rng;
use strait_embedded::disk::sim::Crash;
use strait_embedded::disk::{LogOptions, SimDisk, verify};
use strait_embedded::stepped::Stepped;

use crate::consume::{Member, Out};
use crate::model::{Entry, Group, Send, State, Topic, Unit};
use crate::ops::{Answer, What};
use crate::places::{ManualClock, Patient, ROOMY, Seen};
use crate::trace::note;

/// A call that was made and has no answer yet.
pub(crate) struct Op {
    pub(crate) what: What,
    pub(crate) answer: Pin<Box<dyn Future<Output = Answer>>>,
}

/// What was under way when the machine died: it happened, or it did not.
#[derive(Debug, Default)]
pub(crate) struct Maybe {
    pub(crate) sends: Vec<Send>,
    pub(crate) units: Vec<Unit>,
    pub(crate) declared: BTreeSet<usize>,
    pub(crate) deleted: BTreeSet<usize>,
    pub(crate) altered: BTreeMap<usize, u32>,
    pub(crate) joined: BTreeSet<usize>,
    pub(crate) groups_deleted: BTreeSet<usize>,
    pub(crate) seeks: Vec<(usize, u32, u64)>,
    pub(crate) redriven: Vec<(usize, Vec<u64>)>,
    pub(crate) removed: Vec<(usize, Vec<u64>)>,
    pub(crate) edits: Vec<(usize, u64, Option<u64>)>,
    pub(crate) undone: Vec<(usize, u64)>,
    pub(crate) aside: Vec<(usize, crate::model::Dead)>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) disk: Arc<Patient>,
    log: LogOptions,
    options: Options,
    pub(crate) engine: Option<Stepped>,
    pub(crate) topics: Vec<Topic>,
    pub(crate) groups: Vec<Group>,
    pub(crate) members: Vec<Member>,
    pub(crate) outs: Vec<Out>,
    pub(crate) pending: Vec<Op>,
    pub(crate) maybe: Maybe,
    pub(crate) ledger: BTreeMap<u8, Vec<Entry>>,
    /// Messages of calls that were refused: they must never turn up.
    pub(crate) forbidden: BTreeSet<u64>,
    /// Deliveries that no acknowledged write follows: a machine that dies may forget that they were attempts.
    pub(crate) volatile: Vec<(usize, u32, u64, u32)>,
    /// The messages of each batch that was sent with an id.
    pub(crate) sent_batches: BTreeMap<u128, Vec<u64>>,
    /// Members that left; their receipts are void once the writer knows.
    pub(crate) leaving: Vec<(usize, u64)>,
    /// Shards that were handed back, by member.
    pub(crate) handed_back: Vec<(u64, u32)>,
    serial: u64,
    /// Wall and monotonic clock when the engine was opened.
    opened: (i64, u64),
    /// The latest time that the engine ever saw: what was over by then may be forgotten, although the clock was set back.
    pub(crate) latest: i64,
    /// The disk may be short of space.
    pub(crate) short: bool,
    /// The engine failed: it must be opened again.
    pub(crate) down: bool,
    pub(crate) max_body: usize,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let clock = ManualClock::new(1_700_000_000_000);
        let disk = Patient::new(SimDisk::faulty(ROOMY, rng.next_u64()));
        let log = LogOptions {
            segment_bytes: [16 << 10, 32 << 10, 128 << 10][rng.below(3) as usize],
            first_segment_bytes: [8 << 10, 16 << 10][rng.below(2) as usize],
            reserve_bytes: [64 << 10, 128 << 10][rng.below(2) as usize],
            spares: rng.below(3) as usize,
            recycled: rng.below(4) as usize,
            ..LogOptions::new(u128::from(seed) << 32 | 7, rng.next_u64())
        };
        let options = Options {
            clock: clock.clone(),
            retention_every: Duration::from_secs(1),
            limits: Limits::default(),
            segment_bytes: log.segment_bytes,
            ..Options::default()
        };
        let max_body = [20, 200, 3000][rng.below(3) as usize];
        let (topics, groups) = crate::steps::cast(&mut rng);
        note!(
            "segments of {} bytes, bodies up to {max_body}",
            log.segment_bytes
        );
        let mut world = World {
            rng,
            clock,
            disk,
            log,
            options,
            engine: None,
            topics,
            groups,
            members: Vec::new(),
            outs: Vec::new(),
            pending: Vec::new(),
            maybe: Maybe::default(),
            ledger: BTreeMap::new(),
            forbidden: BTreeSet::new(),
            volatile: Vec::new(),
            sent_batches: BTreeMap::new(),
            leaving: Vec::new(),
            handed_back: Vec::new(),
            serial: 0,
            opened: (0, 0),
            latest: i64::MIN,
            short: false,
            down: false,
            max_body,
        };
        world.open();
        world
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn engine(&mut self) -> &mut Stepped {
        self.engine.as_mut().expect("open between the steps")
    }

    pub(crate) fn events(&self) -> Arc<dyn Events> {
        let engine = self.engine.as_ref().expect("open between the steps");
        engine.engine().lanes().events.expect("the events lane")
    }

    pub(crate) fn mono(&self) -> u64 {
        self.clock.monotonic_millis()
    }

    /// The wall clock as the engine goes by it: that of the opening, carried on by the monotonic clock.
    pub(crate) fn wall(&self) -> i64 {
        self.opened.0 + (self.mono() - self.opened.1) as i64
    }

    // ---- calls ----

    /// Makes a call: it is polled once, so that its command is in the queue.
    pub(crate) fn call(&mut self, what: What, answer: Pin<Box<dyn Future<Output = Answer>>>) {
        let mut op = Op { what, answer };
        match poll(&mut op.answer) {
            Some(answer) => self.answered(op.what, answer),
            None => self.pending.push(op),
        }
    }

    /// A call that needs no turn of the writer.
    pub(crate) fn now<T>(&self, future: strait_core::Fut<T>) -> T {
        let mut future = future;
        poll(&mut future).expect("what only looks answers at once")
    }

    /// The writer makes a turn, and everything that has its answer is checked.
    pub(crate) fn turn(&mut self) {
        if self.disk.begin_turn() && !self.engine().is_checkpointing() {
            // Space came back: the housekeeper finds it, and sends are taken again.
            self.engine().keep();
            self.short = !self.engine().has_room();
        }
        // What counts is the space that there is, whoever limited it and whenever.
        let free = strait_embedded::disk::Disk::free_bytes(&self.disk.sim);
        self.short |= free.is_ok_and(|free| free < ROOMY / 16);
        let alive = self.engine().turn();
        self.latest = self.latest.max(self.wall());
        self.take_answers();
        if !alive && !self.down {
            note!("the engine is down");
            self.down = true;
        }
        if alive && !self.disk.sim.is_dead() {
            self.after_turn();
        }
    }

    fn take_answers(&mut self) {
        for mut op in std::mem::take(&mut self.pending) {
            match poll(&mut op.answer) {
                Some(answer) => self.answered(op.what, answer),
                None => self.pending.push(op),
            }
        }
    }

    // ---- life and death ----

    /// The machine or the process dies, and the directory is opened again.
    pub(crate) fn crash(&mut self, how: Crash) {
        note!("crash: {how:?}");
        let left = self.disk.sim.crash(how, &mut self.rng);
        self.bury_engine();
        self.outs_come_back();
        self.restart(left, Some(how != Crash::Process));
    }

    /// The engine is closed in order; then the machine may even lose what was never durable.
    pub(crate) fn close(&mut self) {
        note!("close");
        if self.rng.one_in(2) {
            self.members.iter_mut().for_each(|member| member.end());
        }
        let mut sealed = true;
        if let Some(engine) = self.engine.take() {
            let health = strait_core::Engine::health(&**engine.engine());
            // What waited is still decided, at this time.
            self.latest = self.latest.max(self.wall());
            engine.close();
            sealed = *health.borrow() == Health::Ended("closed".into());
        }
        self.take_answers();
        let clean = sealed && !self.disk.sim.is_dead() && !self.down && self.pending.is_empty();
        self.bury_engine();
        self.outs_come_back();
        let how = if self.rng.one_in(2) {
            Crash::AllLost
        } else {
            Crash::Process
        };
        let left = self.disk.sim.crash(how, &mut self.rng);
        let at_once = self.restart(left, (!clean).then_some(true));
        if clean && at_once {
            let opened = self.engine().opened().clone();
            assert!(
                opened.warnings.is_empty(),
                "closed in order, and {:?}",
                opened.warnings
            );
        }
    }

    /// Everything in memory is gone; calls without an answer may or may not have happened.
    fn bury_engine(&mut self) {
        for op in std::mem::take(&mut self.pending) {
            drop(op.answer);
            self.unknown(op.what);
        }
        self.members.clear();
        self.leaving.clear();
        self.handed_back.clear();
        // Some receipts survive in a careless program: they are worth nothing.
        let keep = self.rng.one_in(3);
        for out in &mut self.outs {
            out.ticket.void = true;
        }
        if !keep {
            self.outs.clear();
        }
        self.engine = None;
    }

    fn outs_come_back(&mut self) {
        for shard in self.groups.iter_mut().flat_map(|group| &mut group.shards) {
            for msg in shard.msgs.values_mut() {
                if matches!(msg.state, State::Out(_) | State::Sent(_)) {
                    msg.state = State::Free;
                }
            }
        }
    }

    /// What was out counts as an attempt; grants that were written and not synced are forgotten when a machine dies.
    fn forget_grants(&mut self, machine: bool) {
        for (group, shard, offset, lo) in std::mem::take(&mut self.volatile).into_iter().rev() {
            let shard = self.groups[group].shards.get_mut(shard as usize);
            if let Some(msg) = shard.and_then(|shard| shard.msgs.get_mut(&offset))
                && machine
            {
                msg.lo = msg.lo.min(lo);
            }
        }
        for shard in self.groups.iter_mut().flat_map(|group| &mut group.shards) {
            shard.slack += 1;
            shard.msgs.values_mut().for_each(|msg| msg.hi += 1);
        }
    }

    /// Opens what is left; false when some openings before it died. Unless all was closed in order, `died` says whether
    /// a machine died or only a process.
    fn restart(&mut self, left: SimDisk, died: Option<bool>) -> bool {
        let mut left = left;
        let mut at_once = true;
        if self.rng.one_in(8) {
            let by = self.rng.below(7_200_000) as i64 - 3_600_000;
            note!("the wall clock jumps by {by} ms");
            self.clock.jump(by);
        }
        // The next opening may die as well, again and again.
        while self.rng.one_in(6) {
            at_once = false;
            left.die_at(1 + self.rng.below(30));
            self.disk = Patient::new(left);
            let opened = self.try_open();
            note!(
                "an opening that may die: {:?}",
                opened.as_ref().map(|_| ()).map_err(|e| e.to_string())
            );
            let died = self.disk.sim.is_dead();
            if let Err(error) = &opened {
                assert!(died || error.is(codes::DISK_FULL), "opening: {error:?}");
            }
            drop(opened);
            let how = self.any_crash();
            left = self.disk.sim.crash(how, &mut self.rng);
        }
        match died {
            Some(machine) => self.forget_grants(machine || !at_once),
            None => self.volatile.clear(),
        }
        self.disk = Patient::new(left);
        if self.rng.one_in(3) {
            let found = verify(&Seen(self.disk.clone())).expect("the directory can be read");
            assert!(found.faults.is_empty(), "verify: {:?}", found.faults);
        }
        self.open();
        self.audit();
        at_once
    }

    pub(crate) fn any_crash(&mut self) -> Crash {
        [
            Crash::Random,
            Crash::Random,
            Crash::AllLost,
            Crash::AllKept,
            Crash::LaterKept,
            Crash::Process,
        ][self.rng.below(6) as usize]
    }

    fn try_open(&mut self) -> strait_core::Result<Stepped> {
        let log = LogOptions {
            seed: self.rng.next_u64(),
            ..self.log.clone()
        };
        Stepped::open(Arc::new(Seen(self.disk.clone())), self.options.clone(), log)
    }

    fn open(&mut self) {
        self.disk.begin_turn();
        let mut opened = self.try_open();
        if opened
            .as_ref()
            .is_err_and(|error| error.kind() == Kind::Busy)
            && self.short
        {
            note!("no space to open: space comes back");
            self.disk.sim.set_capacity(ROOMY);
            opened = self.try_open();
        }
        let engine =
            opened.unwrap_or_else(|error| panic!("the directory cannot be opened: {error:?}"));
        note!(
            "opened: {} groups, {:?}",
            engine.opened().groups,
            engine.opened().warnings
        );
        self.engine = Some(engine);
        self.down = false;
        self.opened = (self.clock.wall_millis(), self.mono());
        self.latest = self.latest.max(self.wall());
        let wall = self.opened.0;
        for shard in self.groups.iter_mut().flat_map(|group| &mut group.shards) {
            for msg in shard.msgs.values_mut() {
                msg.due = msg.due.min(wall + msg.delay);
            }
        }
    }
}

/// Polls once, with a waker that does nothing.
pub(crate) fn poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
