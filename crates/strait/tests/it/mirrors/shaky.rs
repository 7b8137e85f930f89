//! A target that answers as a network does: it refuses, it applies and loses the answer, it loses the request.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use strait::core::caps::Offer;
use strait::core::events::*;
use strait::core::{
    Backup, Chunk, Claim, Claimed, Consumer, Engine, EngineId, Fut, Health, Lanes, Message, Name,
    Outcome, Position, Sent, Storage, Unit,
};
use strait::{Error, Kind, Result, Strait};
use tokio::sync::watch;

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    None,
    /// Half of the writes, in ways that the seed decides.
    Seed(u64),
    /// So many writes happen, with the answer of the last one lost; nothing after them, and no retry helps.
    DeadAfter(u64),
}

/// What becomes of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Happens,
    Refused,
    AnswerLost,
    RequestLost,
    Dead,
    DeadAnswerLost,
}

#[derive(Debug)]
pub(crate) struct Shaky {
    engine: Arc<dyn Engine>,
    lane: Arc<ShakyLane>,
}

#[derive(Debug)]
struct ShakyLane {
    lane: Arc<dyn Events>,
    atomic: bool,
    trouble: Trouble,
    writes: AtomicU64,
}

impl Shaky {
    pub(crate) fn over(inner: &Strait, atomic: bool, trouble: Trouble) -> Arc<dyn Engine> {
        Arc::new(Shaky {
            engine: inner.engine().clone(),
            lane: Arc::new(ShakyLane {
                lane: inner.events_lane().unwrap().clone(),
                atomic,
                trouble,
                writes: AtomicU64::new(0),
            }),
        })
    }
}

impl ShakyLane {
    fn fate(&self) -> Fate {
        let write = self.writes.fetch_add(1, Ordering::Relaxed);
        match self.trouble {
            Trouble::None => Fate::Happens,
            Trouble::DeadAfter(last) if write < last => Fate::Happens,
            Trouble::DeadAfter(last) if write == last => Fate::DeadAnswerLost,
            Trouble::DeadAfter(_) => Fate::Dead,
            Trouble::Seed(seed) => {
                let mut hash = (write + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
                hash = (hash ^ hash >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                match (hash >> 40) % 6 {
                    0 => Fate::Refused,
                    1 => Fate::AnswerLost,
                    2 => Fate::RequestLost,
                    _ => Fate::Happens,
                }
            }
        }
    }
}

fn error(fate: Fate) -> Error {
    let error = Error::new(Kind::Unavailable, format!("{fate:?}"));
    match fate {
        Fate::AnswerLost | Fate::RequestLost => error.unknown(),
        Fate::Dead | Fate::DeadAnswerLost => error.retry(false),
        Fate::Happens | Fate::Refused => error,
    }
}

fn happens(fate: Fate) -> bool {
    matches!(
        fate,
        Fate::Happens | Fate::AnswerLost | Fate::DeadAnswerLost
    )
}

impl Engine for Shaky {
    fn id(&self) -> EngineId {
        self.engine.id()
    }
    fn lanes(&self) -> Lanes {
        Lanes::none().with_events(self.lane.clone())
    }
    fn health(&self) -> watch::Receiver<Health> {
        self.engine.health()
    }
    fn commit(&self, mut units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let (fate, engine) = (self.lane.fate(), self.engine.clone());
        assert!(
            self.lane.atomic && units.len() == 1,
            "the caps say what can be had"
        );
        Box::pin(async move {
            if happens(fate) {
                let outcome = engine.commit(units).await;
                match fate {
                    Fate::Happens => outcome,
                    _ => vec![Outcome::Unknown(error(fate))],
                }
            } else if fate == Fate::RequestLost {
                vec![Outcome::Unknown(error(fate))]
            } else {
                vec![Outcome::NotApplied(units.remove(0), error(fate))]
            }
        })
    }
    fn claim(&self, claim: Claim) -> Fut<Result<Claimed>> {
        self.engine.claim(claim)
    }
    fn backup(&self, to: PathBuf) -> Fut<Result<Backup>> {
        self.engine.backup(to)
    }
    fn storage(&self) -> Fut<Result<Storage>> {
        self.engine.storage()
    }
    fn close(&self, grace: Duration) -> Fut<()> {
        self.engine.close(grace)
    }
}

macro_rules! pass_on {
    ($(fn $name:ident($($arg:ident: $of:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&self, $($arg: $of),*) -> Fut<Result<$answer>> {
            self.lane.$name($($arg),*)
        })*
    };
}

impl Events for ShakyLane {
    fn caps(&self) -> Caps {
        let mut caps = self.lane.caps();
        if !self.atomic {
            // As a partitioned log without transactions.
            caps.atomic_effects = Offer::Refused("one append after the other");
            caps.expected_position = Offer::Refused("append without");
            caps.dedupe = Offer::Refused("append without");
        }
        caps
    }
    fn append(&self, append: Append) -> Fut<Result<Sent>> {
        let (fate, lane) = (self.fate(), self.lane.clone());
        assert!(
            self.atomic || append.expected == Expected::Any,
            "refused by the caps"
        );
        Box::pin(async move {
            let sent = match happens(fate) {
                true => Some(lane.append(append).await?),
                false => None,
            };
            sent.filter(|_| fate == Fate::Happens)
                .ok_or_else(|| error(fate))
        })
    }
    pass_on! {
        fn declare(topic: TopicSpec) -> TopicInfo;
        fn alter(topic: Name, change: TopicChange) -> TopicInfo;
        fn delete(topic: Name) -> ();
        fn topics() -> Vec<TopicInfo>;
        fn topic(topic: Name) -> TopicInfo;
        fn read(cursor: Cursor, max_bytes: usize) -> Chunk;
        fn locate(topic: Name, partition: u32, start: Start) -> Position;
        fn read_key(read: ReadKey) -> Vec<(KeyVersion, Message)>;
        fn join(group: GroupSpec) -> Consumer;
        fn groups() -> Vec<GroupInfo>;
        fn group(group: Name, topic: Name) -> GroupInfo;
        fn whereabouts(topic: Name, partition: u32, position: Position) -> Whereabouts;
        fn alter_group(group: Name, topic: Name, change: GroupChange) -> GroupInfo;
        fn seek(seek: Seek) -> Position;
        fn delete_group(group: Name, topic: Name) -> ();
        fn dead_letters(group: Name, topic: Name, filter: DeadFilter, from: u64, limit: usize) -> Vec<DeadLetter>;
        fn dead_summary(group: Name, topic: Name, filter: DeadFilter) -> Vec<DeadSummary>;
        fn edit_dead(edit: EditDead) -> ();
        fn remove_dead(remove: RemoveDead) -> u64;
        fn redrive(redrive: Redrive) -> Redriven;
        fn undo_redrive(undo: UndoRedrive) -> Undone;
        fn set_aside(aside: SetAside) -> u64;
    }
}
