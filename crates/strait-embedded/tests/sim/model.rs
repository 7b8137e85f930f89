//! What must be so: maps and vectors, no cleverness. It learns of a change when the engine has acknowledged it; what was
//! under way when the machine died stays a [`Unit`] or [`Send`] of which either all is there or nothing.

use std::collections::BTreeMap;

use strait_core::Attr;
use strait_core::{NewRecord, Records, RecordsBuilder, Timestamp};

/// A message as it was sent. The serial is in its body, so that a message is known wherever it turns up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rec {
    pub(crate) serial: u64,
    pub(crate) key: Option<u8>,
    pub(crate) len: usize,
    /// The copy of a dead letter that came back with this edit.
    pub(crate) edit: Option<u64>,
}

pub(crate) fn key_bytes(key: u8) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

impl Rec {
    pub(crate) fn body(&self) -> Vec<u8> {
        if let Some(edit) = self.edit {
            return edited_body(edit);
        }
        let mut body = self.serial.to_le_bytes().to_vec();
        body.resize(self.len.max(8), self.serial as u8);
        body
    }
}

/// What edit number `edit` makes of a dead letter's body.
pub(crate) fn edited_body(edit: u64) -> Vec<u8> {
    format!("edited {edit}").into_bytes()
}

/// The edit that made this body.
pub(crate) fn edit_of(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    text.strip_prefix("edited ")?.parse().ok()
}

pub(crate) fn serial_of(body: &[u8]) -> Option<u64> {
    body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A batch of one topic's partition.
#[derive(Debug, Clone)]
pub(crate) struct Send {
    pub(crate) topic: usize,
    /// The topic's life when it was sent.
    pub(crate) life: u32,
    pub(crate) partition: u32,
    pub(crate) recs: Vec<Rec>,
    /// The batch's id; with `dedupe` it is remembered.
    pub(crate) id: u128,
    pub(crate) dedupe: bool,
    pub(crate) expected: Expect,
    /// The id was used before: it may be known.
    pub(crate) again: bool,
    /// Grows from call to call.
    pub(crate) order: u64,
    /// When it was made, on the engine's wall clock.
    pub(crate) at: i64,
    /// When it came out that its outcome is not known.
    pub(crate) lost_at: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Any,
    Position(u64),
    Version(u64),
}

impl Send {
    pub(crate) fn records(&self) -> Records {
        let time = Timestamp::from_millis(-5);
        let mut builder = RecordsBuilder::with(
            &[(Attr::Kind, "sim")],
            strait_core::Limits::default(),
            time,
            self.id,
        )
        .expect("the attributes are within the limits");
        for rec in &self.recs {
            let key = rec.key.map(key_bytes);
            let body = rec.body();
            builder
                .push(NewRecord {
                    key: key.as_deref(),
                    body: &body,
                    ..NewRecord::default()
                })
                .expect("bodies and keys are within the limits");
        }
        builder.build()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) start: u64,
    /// Everything that was ever here; what lies before `start` may be gone.
    pub(crate) recs: BTreeMap<u64, Rec>,
}

impl Part {
    pub(crate) fn end(&self) -> u64 {
        self.recs
            .last_key_value()
            .map_or(self.start, |(offset, _)| offset + 1)
    }
}

/// Where an id was stored, and when: between these, as a call whose answer was lost may have waited before it was decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) partition: u32,
    pub(crate) first: u64,
    pub(crate) time: (i64, i64),
}

#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: &'static str,
    pub(crate) alive: bool,
    /// Counts how often it was deleted.
    pub(crate) life: u32,
    pub(crate) versions: bool,
    pub(crate) retention: bool,
    /// Only the newest record of each key is kept: all of its records have keys.
    pub(crate) compacted: bool,
    pub(crate) window: i64,
    /// Dead letters are copied here: positions cannot be foretold.
    pub(crate) copies: bool,
    pub(crate) first_partitions: u32,
    pub(crate) parts: Vec<Part>,
    pub(crate) ids: BTreeMap<u128, Known>,
    /// Where the versions of each key are, from 1 on.
    pub(crate) keys: BTreeMap<u8, Vec<(u32, u64)>>,
}

impl Topic {
    /// It begins, empty.
    pub(crate) fn begin(&mut self) {
        self.alive = true;
        self.parts = (0..self.first_partitions)
            .map(|_| Part::default())
            .collect();
        self.ids.clear();
        self.keys.clear();
    }

    pub(crate) fn end(&mut self) {
        self.alive = false;
        self.life += 1;
    }

    /// Takes a batch in at its position; an error says what is wrong with it.
    pub(crate) fn put(&mut self, send: &Send, first: u64, time: (i64, i64)) -> Result<(), String> {
        let name = self.name;
        let part = self
            .parts
            .get_mut(send.partition as usize)
            .ok_or_else(|| format!("{name} has no partition {}", send.partition))?;
        if !self.copies && first != part.end() {
            return Err(format!(
                "{name}/{} ends at {}, a batch was put at {first}",
                send.partition,
                part.end()
            ));
        }
        for (rec, offset) in send.recs.iter().zip(first..) {
            if let Some(other) = part.recs.insert(offset, rec.clone()) {
                return Err(format!(
                    "{name}/{} offset {offset} was given to {} and to {}",
                    send.partition, other.serial, rec.serial
                ));
            }
            if let Some(key) = rec.key.filter(|_| self.versions) {
                self.keys
                    .entry(key)
                    .or_default()
                    .push((send.partition, offset));
            }
        }
        if send.dedupe {
            let known = Known {
                partition: send.partition,
                first,
                time,
            };
            self.ids.insert(send.id, known);
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Waits to be delivered.
    Free,
    /// Out with this receipt.
    Out(u64),
    /// Its verdict is in a unit under way.
    Sent(u64),
    /// Retried: comes again when it is due.
    Parked,
    Settled,
    /// In a unit that was under way when the machine died.
    Unsure(u64),
}

#[derive(Debug, Clone)]
pub(crate) struct Msg {
    pub(crate) state: State,
    /// Attempts that the engine counts: between these.
    pub(crate) lo: u32,
    pub(crate) hi: u32,
    pub(crate) due: i64,
    pub(crate) delay: i64,
    pub(crate) reason: Option<String>,
    pub(crate) redriven: bool,
    /// The dead letter that it was.
    pub(crate) letter: Option<Letter>,
}

/// What the model knows of a dead letter beside its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) number: u64,
    pub(crate) reason: String,
    /// The edit that it died as.
    pub(crate) body: Option<u64>,
    /// The edit beside it.
    pub(crate) edited: Option<u64>,
    /// How often the message died before.
    pub(crate) deaths: usize,
    /// The run that brought it back, where that is known.
    pub(crate) run: Option<u64>,
}

impl Letter {
    pub(crate) fn of(number: u64) -> Letter {
        Letter {
            number,
            reason: String::new(),
            body: None,
            edited: None,
            deaths: 0,
            run: None,
        }
    }

    /// The edit that comes when it comes back.
    pub(crate) fn comes_as(&self) -> Option<u64> {
        self.edited.or(self.body)
    }
}

impl Msg {
    pub(crate) fn fresh(slack: u32) -> Msg {
        Msg {
            state: State::Free,
            lo: 0,
            hi: slack,
            due: i64::MIN,
            delay: 0,
            reason: None,
            redriven: false,
            letter: None,
        }
    }
}

/// A group's view of a partition. What is not in `msgs` was never delivered.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    pub(crate) low: u64,
    pub(crate) msgs: BTreeMap<u64, Msg>,
    /// How often a machine or process died since: a message that nobody saw may have been granted so often.
    pub(crate) slack: u32,
    /// A seek is under way or its end is not known.
    pub(crate) fuzzy: bool,
    /// Dead letters that certainly hold their key.
    pub(crate) holds: std::collections::BTreeSet<u64>,
}

impl Shard {
    pub(crate) fn msg(&mut self, offset: u64) -> &mut Msg {
        let slack = self.slack;
        self.msgs.entry(offset).or_insert_with(|| Msg::fresh(slack))
    }

    /// The most attempts that were counted.
    pub(crate) fn hi(&self, offset: u64) -> u32 {
        self.msgs.get(&offset).map_or(self.slack, |msg| msg.hi)
    }

    pub(crate) fn state(&self, offset: u64) -> State {
        match self.msgs.get(&offset) {
            Some(msg) => msg.state,
            None if offset < self.low => State::Settled,
            None => State::Free,
        }
    }

    /// The least and the most that can be unsettled.
    pub(crate) fn lag(&self, part: &Part) -> (u64, u64) {
        let (mut least, mut most) = (0, 0);
        let from = self.low.max(part.start);
        for offset in from..part.end() {
            let redriven = self.msgs.get(&offset).is_some_and(|msg| msg.redriven);
            match self.state(offset) {
                _ if redriven => {}
                State::Settled => {}
                State::Unsure(_) => most += 1,
                _ => (least, most) = (least + 1, most + 1),
            }
        }
        for msg in self.msgs.values().filter(|msg| msg.redriven) {
            match msg.state {
                State::Settled => {}
                State::Unsure(_) => most += 1,
                _ => (least, most) = (least + 1, most + 1),
            }
        }
        (least, most)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) shard: u32,
    pub(crate) offset: u64,
    pub(crate) reason: String,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) topic: usize,
    pub(crate) exists: bool,
    pub(crate) key_order: bool,
    pub(crate) max_attempts: u32,
    /// What members say; an operator may have set more.
    pub(crate) declared_attempts: u32,
    /// What held since somebody looked at the dead letters, before an operator set more.
    pub(crate) attempts_before: Option<u32>,
    /// What an operator may have set, as nobody knows.
    pub(crate) maybe_attempts: Option<u32>,
    /// `None`: nobody knows.
    pub(crate) paused: Option<bool>,
    /// A dead letter holds its key.
    pub(crate) hold_key: bool,
    pub(crate) max_dead: u64,
    pub(crate) gap: u64,
    pub(crate) lease: u64,
    pub(crate) handover: u64,
    pub(crate) dead_topic: Option<usize>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) dead: BTreeMap<u64, Dead>,
    /// Acknowledged, number not looked up yet.
    pub(crate) dying: Vec<Dead>,
    /// What else is known of dead letters, by number.
    pub(crate) letters: BTreeMap<u64, Letter>,
    /// Runs of redrives.
    pub(crate) runs: Vec<u64>,
}

impl Group {
    /// These dead letters hold their keys no more, or nobody knows.
    pub(crate) fn let_go(&mut self, numbers: &[u64]) {
        for dead in numbers.iter().filter_map(|number| self.dead.get(number)) {
            self.shards[dead.shard as usize].holds.remove(&dead.offset);
        }
    }

    pub(crate) fn end(&mut self) {
        self.letters.clear();
        self.runs.clear();
        self.exists = false;
        self.max_attempts = self.declared_attempts;
        self.attempts_before = None;
        self.maybe_attempts = None;
        self.paused = Some(false);
        self.shards.clear();
        self.dead.clear();
        self.dying.clear();
    }
}

/// What an operator does to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steer {
    Pause(bool),
    Attempts(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done,
    Retry {
        after: i64,
        reason: String,
        counts: bool,
    },
    Dead(String),
    Release,
}

/// A receipt that was handed out, without the right in it.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) id: u64,
    pub(crate) group: usize,
    pub(crate) member: u64,
    pub(crate) shard: u32,
    pub(crate) first: u64,
    pub(crate) attempts: Vec<u32>,
    /// Its lease ends between these, on the monotonic clock.
    pub(crate) ends: (u64, u64),
    /// Certainly void.
    pub(crate) void: bool,
}

impl Ticket {
    pub(crate) fn end(&self) -> u64 {
        self.first + self.attempts.len() as u64
    }

    pub(crate) fn offsets(&self) -> std::ops::Range<u64> {
        self.first..self.end()
    }
}

/// A unit that was committed.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) id: u64,
    pub(crate) settle: Vec<(Ticket, Verdict)>,
    pub(crate) send: Vec<Send>,
    pub(crate) once: Option<OnceM>,
    /// When it was committed, on the engine's wall clock.
    pub(crate) at: i64,
    /// It is under a receipt; true when that was certainly void.
    pub(crate) under: Option<bool>,
}

#[derive(Debug, Clone)]
pub(crate) struct OnceM {
    pub(crate) key: u8,
    pub(crate) claim: Option<u64>,
    /// The result and how long it is kept; `None`: the claim is given back.
    pub(crate) store: Option<(u64, i64)>,
}

/// What the ledger may hold for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Nothing,
    Running {
        holder: u8,
        /// `None`: the answer that named it was lost.
        token: Option<u64>,
        until: i64,
    },
    Stored {
        result: u64,
        expires: i64,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct ClaimM {
    pub(crate) key: u8,
    pub(crate) holder: u8,
    pub(crate) lease: i64,
    pub(crate) at_most_once: bool,
}
