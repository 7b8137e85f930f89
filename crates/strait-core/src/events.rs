//! The events lane: a partitioned log with consumer groups. Its model is Kafka.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::caps::Offer;
use crate::chunk::{Chunk, Message, Position};
use crate::engine::{Consumer, Fut};
use crate::error::{Error, Kind, Result};
use crate::name::Name;
use crate::records::Records;
use crate::time::Timestamp;
use crate::unit::Sent;

mod dead;
mod groups;
mod topics;
mod whereabouts;

pub use dead::{
    DeadEdit, DeadFilter, DeadLetter, DeadSummary, Death, EditDead, ErrorFingerprint, HISTORY,
    Redrive, Redriven, RemoveDead, SetAside, UndoRedrive, Undone,
};
pub use groups::{
    AfterDead, GroupChange, GroupRules, Override, Overrides, PAUSE_REASON, Pause, Stuck, StuckOn,
    Waits,
};

pub use topics::{Compaction, PartitionInfo, Retention, TopicChange, TopicInfo, TopicSpec};
pub use whereabouts::{Standing, Stored, Whereabouts};

/// A partitioned log.
///
/// # Behaviour
///
/// - Positions of a partition only grow, and a record keeps its position for ever.
/// - `append` returns once the batch is durable in the class that the caps name; the records of a batch are
///   consecutive, all or none. A batch for a missing topic answers `NotFound` (`no_such_topic`), one for a
///   partition that does not exist `Rejected`.
/// - `read` never shows a record that is not durable yet. Reading at the end waits up to the cursor's `wait` and then
///   gives an empty chunk. A position before the earliest answers `NotFound` (`offset_gone`, with the earliest).
/// - A group's partition belongs to one member at a time. A member that joins or leaves moves as few partitions as
///   possible (cooperative): the old owner is told `Revoking`, the new one gets the partition when it was handed back or
///   the time is over.
/// - Everything below a group's committed position is settled, and the settled ranges above it are stored with it: a
///   restart runs no settled message again.
/// - With [`Order::Key`], while a message of a key is parked its later ones are not delivered; other keys go on. A
///   member must not handle a later message of a key before the earlier one is settled; after `Retry` or `Release` it
///   releases the later ones of that key that it holds.
/// - A message whose attempts reach `max_attempts` goes to the dead letters, by whichever way the last attempt ended.
///   Deaths of the process and lost leases count.
/// - `Dead` settles the message and stores a copy with its origin, attempts and reason, in one change.
/// - With [`AfterDead::HoldKey`], later messages of the key of a dead letter are parked until it is redriven (then it
///   comes first) or removed; a seek, and a change to [`AfterDead::Continue`], let go of them. A member releases the later
///   ones of that key that it holds, as after `Retry`. The gap is the bound: the partition waits there, and says for what.
/// - A paused group keeps its members and their partitions; what they hold may be settled, nothing more is delivered.
/// - Consumers of a topic that is deleted end, and so do those of a group that is; their receipts answer `Fenced`.
pub trait Events: fmt::Debug + Send + Sync + 'static {
    /// What this engine can do, after probing it.
    fn caps(&self) -> Caps;

    /// Creates the topic, or checks that it exists with these settings; otherwise `Conflict` (`topic_exists`), naming
    /// the field that differs.
    fn declare(&self, topic: TopicSpec) -> Fut<Result<TopicInfo>>;

    /// Changes the retention of a topic or adds partitions (keys move to other partitions then).
    fn alter(&self, topic: Name, change: TopicChange) -> Fut<Result<TopicInfo>>;

    /// Deletes a topic and its groups' positions on it. Irreversible.
    fn delete(&self, topic: Name) -> Fut<Result<()>>;

    /// All topics, by name.
    fn topics(&self) -> Fut<Result<Vec<TopicInfo>>>;

    /// One topic.
    fn topic(&self, topic: Name) -> Fut<Result<TopicInfo>>;

    /// Appends one batch to one partition.
    fn append(&self, append: Append) -> Fut<Result<Sent>>;

    /// Reads from a cursor, at most about `max_bytes` (at least one record, unless at the end).
    fn read(&self, cursor: Cursor, max_bytes: usize) -> Fut<Result<Chunk>>;

    /// The position that a [`Start`] means in a partition, now.
    fn locate(&self, topic: Name, partition: u32, start: Start) -> Fut<Result<Position>>;

    /// The messages of one key, oldest first, from version or position `from` on, at most `limit`.
    /// Native where the topic keeps key versions, else a scan.
    fn read_key(&self, read: ReadKey) -> Fut<Result<Vec<(KeyVersion, Message)>>>;

    /// Joins a consumer group.
    fn join(&self, group: GroupSpec) -> Fut<Result<Consumer>>;

    /// All groups with their lag, by name and topic.
    fn groups(&self) -> Fut<Result<Vec<GroupInfo>>>;

    /// One group on one topic.
    fn group(&self, group: Name, topic: Name) -> Fut<Result<GroupInfo>>;

    /// Where one message is: its place in the log, and how each group of the topic stands to it. `NotFound`
    /// (`no_such_topic`) for a missing topic, `Rejected` for a partition that does not exist; a position that the log does
    /// not hold is no error.
    fn whereabouts(
        &self,
        topic: Name,
        partition: u32,
        position: Position,
    ) -> Fut<Result<Whereabouts>>;

    /// Changes what an operator may set over what members declare, or pauses and resumes. `Rejected` when the result could
    /// not be declared either. The same change twice changes nothing.
    fn alter_group(&self, group: Name, topic: Name, change: GroupChange) -> Fut<Result<GroupInfo>>;

    /// Moves the position of a group on one partition. `Conflict` while members are live, unless forced: their
    /// receipts are fenced then.
    fn seek(&self, seek: Seek) -> Fut<Result<Position>>;

    /// Deletes a group's state on a topic. `Conflict` while members are live.
    fn delete_group(&self, group: Name, topic: Name) -> Fut<Result<()>>;

    /// Dead letters of a group on a topic that the filter picks, by number, from `from` on, at most `limit`.
    fn dead_letters(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
        from: u64,
        limit: usize,
    ) -> Fut<Result<Vec<DeadLetter>>>;

    /// The dead letters that the filter picks, counted by the fingerprint of their reason, the most frequent first.
    fn dead_summary(
        &self,
        group: Name,
        topic: Name,
        filter: DeadFilter,
    ) -> Fut<Result<Vec<DeadSummary>>>;

    /// Keeps a changed copy of a dead letter beside it, or drops that copy. `NotFound` when there is no such dead letter,
    /// `Rejected` for another key and for what the engine's limits do not allow.
    fn edit_dead(&self, edit: EditDead) -> Fut<Result<()>>;

    /// Removes dead letters for good; gives how many. Large removals take effect in steps, each durable by itself.
    fn remove_dead(&self, remove: RemoveDead) -> Fut<Result<u64>>;

    /// Brings dead letters back to their group: delivered again in their original order per key, attempts from 1. While
    /// one waits for its turn, later messages of its key wait behind it. Large redrives take effect in steps, each
    /// durable by itself, in an order that keeps that of the keys; where one ends early, what is left is still dead.
    fn redrive(&self, redrive: Redrive) -> Fut<Result<Redriven>>;

    /// Makes dead letters again of what a redrive brought back, where it still waits and is not out. `NotFound` when the
    /// engine does not know the run; it knows the newest 100 of each group.
    fn undo_redrive(&self, undo: UndoRedrive) -> Fut<Result<Undone>>;

    /// Puts a message that is not settled to the dead letters, with the operator's reason; gives its number there.
    /// `Conflict` while it is out with a member, unless forced, and when it is settled; `NotFound` when there is no such
    /// message.
    fn set_aside(&self, aside: SetAside) -> Fut<Result<u64>>;
}

/// How durable an acknowledgement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Durability {
    /// In memory: gone with the process.
    Memory,
    /// Handed to the operating system: survives the process, not a power cut.
    Os,
    /// Fsynced: survives a power cut.
    Fsynced,
}

impl Durability {
    /// The word for it in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Os => "os",
            Durability::Fsynced => "fsync",
        }
    }
}

/// What an engine's events lane can do. No `Default`: a new field is a question that no engine can skip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Offsets of a partition are 0, 1, 2 .. without gaps, but for those that compaction makes.
    pub dense_offsets: Offer,
    /// The records of a batch are stored all or none, also when the process or the engine dies in between.
    pub atomic_batches: Offer,
    /// [`PartitionInfo::bytes`] is known; where it is not, it is 0.
    pub stored_bytes: Offer,
    /// Consumer groups ([`Events::join`] and all that is asked of a group).
    pub groups: Offer,
    /// Where one message is ([`Events::whereabouts`]).
    pub whereabouts: Offer,
    /// Per-key order that holds through retries.
    pub key_order: Offer,
    /// Reading from a point in time.
    pub by_time: Offer,
    /// Reading the messages of one key.
    pub by_key: Offer,
    /// Append at an expected position.
    pub expected_position: Offer,
    /// Append at an expected version of a key.
    pub expected_key_version: Offer,
    /// A window in which a repeated id is answered with its first position.
    pub dedupe: Offer,
    /// Settles and sends in one atomic unit.
    pub atomic_effects: Offer,
    /// The idempotency ledger ([`Engine::claim`](crate::Engine::claim)).
    pub ledger: Offer,
    /// A lost lease has no effects.
    pub fencing: Offer,
    /// Leases can be extended.
    pub lease_extension: Offer,
    /// Retries are parked: they do not block the partition.
    pub parking: Offer,
    /// Dead letters with origin and reason, atomic with the settle.
    pub dead_letters: Offer,
    /// Dead letters can be brought back ([`Events::redrive`]), and that be undone.
    pub redrive: Offer,
    /// Dead letters can be edited ([`Events::edit_dead`]).
    pub edit_dead: Offer,
    /// A message can be put to the dead letters by hand ([`Events::set_aside`]).
    pub set_aside: Offer,
    /// A dead letter can hold its key ([`AfterDead::HoldKey`]).
    pub hold_key: Offer,
    /// Operators can pause a group and set limits over what members declare ([`Events::alter_group`]).
    pub alter_group: Offer,
    /// Settled ranges above the committed position survive a restart.
    pub completed_ranges: Offer,
    /// Retention by age.
    pub retention_age: Offer,
    /// Retention by size.
    pub retention_bytes: Offer,
    /// Compaction by key.
    pub compaction: Offer,
    /// Longest body, in bytes.
    pub max_body: usize,
    /// Longest batch, in bytes.
    pub max_batch: usize,
    /// Greatest number of partitions of a topic.
    pub max_partitions: u32,
}

impl Caps {
    /// Each feature in words, and how it is there: for tables and reports, in the order of the fields.
    pub fn offers(&self) -> [(&'static str, Offer); 26] {
        // Named one by one: a new field has to be put into words.
        let Caps {
            dense_offsets,
            atomic_batches,
            stored_bytes,
            groups,
            whereabouts,
            key_order,
            by_time,
            by_key,
            expected_position,
            expected_key_version,
            dedupe,
            atomic_effects,
            ledger,
            fencing,
            lease_extension,
            parking,
            dead_letters,
            redrive,
            edit_dead,
            set_aside,
            hold_key,
            alter_group,
            completed_ranges,
            retention_age,
            retention_bytes,
            compaction,
            durability: _,
            max_body: _,
            max_batch: _,
            max_partitions: _,
        } = *self;
        [
            ("offsets without gaps", dense_offsets),
            ("batches all or none", atomic_batches),
            ("stored bytes known", stored_bytes),
            ("consumer groups", groups),
            ("where a message is stored", whereabouts),
            ("order by key, through retries", key_order),
            ("read from a time", by_time),
            ("read one key", by_key),
            ("append at an expected position", expected_position),
            (
                "append at an expected version of a key",
                expected_key_version,
            ),
            ("repeated ids answered", dedupe),
            ("settle and send in one unit", atomic_effects),
            ("idempotency ledger", ledger),
            ("a lost lease has no effects", fencing),
            ("leases extended", lease_extension),
            ("retries parked, others flow", parking),
            ("dead letters, atomic with the settle", dead_letters),
            ("dead letters redriven", redrive),
            ("dead letters edited", edit_dead),
            ("a message set aside by hand", set_aside),
            ("a dead letter holds its key", hold_key),
            ("groups paused and limited", alter_group),
            ("settled ranges survive a restart", completed_ranges),
            ("retention by age", retention_age),
            ("retention by size", retention_bytes),
            ("compaction by key", compaction),
        ]
    }
}

/// An append of one batch.
#[derive(Debug, Clone)]
pub struct Append {
    /// The topic.
    pub topic: Name,
    /// The partition.
    pub partition: u32,
    /// The records.
    pub records: Records,
    /// What must hold.
    pub expected: Expected,
    /// Remember the ids (those given, else the batch's) in the topic's dedupe window: a repeated append is answered
    /// with its first position and `duplicate`. A batch is known or new as a whole.
    pub dedupe: bool,
}

/// What must hold for an append; otherwise `Conflict` (`wrong_version`, with what was found) and nothing is appended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expected {
    /// Nothing.
    #[default]
    Any,
    /// The partition ends here.
    Position(Position),
    /// The key has this version: the number of its records so far (0: none). Needs a topic with key versions;
    /// all records of the batch must have that key.
    KeyVersion(u64),
}

/// Where a reader stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The topic.
    pub topic: Name,
    /// The partition.
    pub partition: u32,
    /// The next position to read.
    pub position: Position,
    /// How long to wait for a record at the end.
    pub wait: Duration,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The earliest record that is left.
    Earliest,
    /// After the last record.
    Latest,
    /// This position.
    At(Position),
    /// The first record whose time is not before this one.
    Time(Timestamp),
    /// So many records before the end.
    Last(u64),
}

/// Asks for the messages of one key.
#[derive(Debug, Clone)]
pub struct ReadKey {
    /// The topic.
    pub topic: Name,
    /// The key.
    pub key: Vec<u8>,
    /// The first version wanted (1 is the key's first record).
    pub from: KeyVersion,
    /// Greatest number of messages.
    pub limit: usize,
}

/// The version of a key: 1 for its first record.
pub type KeyVersion = u64;

/// Which order a group keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// Messages of one key are handled in order, through retries.
    #[default]
    Key,
    /// No order: a retry delays nobody.
    Free,
}

/// A consumer group on a topic, as a member declares it. The engine keeps all but `member` durably; the last member
/// to join decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// The member, for operators: program, host, pid.
    pub member: String,
    /// Where a partition begins that the group has no position for.
    pub start: Start,
    /// The order to keep.
    pub order: Order,
    /// How long a delivery may be out without being extended.
    pub lease: Duration,
    /// The attempt after which a message goes to the dead letters. At least 1.
    pub max_attempts: u32,
    /// Dead letters that the group may keep; at the bound it takes no more messages until some are redriven or removed.
    pub max_dead: u64,
    /// Dead letters that were given up longer ago may be removed. `None`: they stay.
    pub dead_age: Option<Duration>,
    /// Greatest distance between the committed position and the newest delivered message of a partition. At the bound
    /// the partition waits for its oldest unsettled message.
    pub gap: u64,
    /// How long the old owner may take to hand a partition back.
    pub handover: Duration,
    /// The topic that also gets a copy of each dead letter, in the same change. It must exist. `None`: none.
    pub dead_topic: Option<Name>,
    /// What follows a dead letter for the later messages of its key. [`AfterDead::HoldKey`] needs [`Order::Key`].
    pub after_dead: AfterDead,
}

impl GroupSpec {
    /// A group with the defaults: from the earliest, order by key, lease 30 s, 8 attempts, a million dead letters, a gap
    /// of 10,000, 10 s to hand over.
    pub fn new(group: Name, topic: Name) -> Self {
        GroupSpec {
            group,
            topic,
            member: String::new(),
            start: Start::Earliest,
            order: Order::Key,
            lease: Duration::from_secs(30),
            max_attempts: 8,
            max_dead: 1_000_000,
            dead_age: None,
            gap: 10_000,
            handover: Duration::from_secs(10),
            dead_topic: None,
            after_dead: AfterDead::Continue,
        }
    }
}

impl GroupSpec {
    /// Refuses what can work on no engine: no attempt, no lease, no gap.
    ///
    /// # Errors
    ///
    /// `Rejected`.
    pub fn check(&self) -> Result<()> {
        let fault = if self.max_attempts == 0 {
            "max_attempts is 0: a message could never be handled"
        } else if self.lease.is_zero() {
            "the lease is 0: every message would be lost at once"
        } else if self.gap == 0 {
            "the gap is 0: no message could be out"
        } else {
            return Ok(());
        };
        let text = format!("group `{}`: {fault}", self.group);
        Err(Error::new(Kind::Rejected, text))
    }
}

/// A group on a topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// Live members.
    pub members: Vec<MemberInfo>,
    /// Its partitions, in order.
    pub shards: Vec<ShardInfo>,
    /// Dead letters kept.
    pub dead: u64,
    /// Bytes of the dead letters, with their edits and those that were brought back and are not settled yet.
    pub dead_bytes: u64,
    /// Why it takes nothing new now, in words, where that is so: too many dead letters, or an operator's pause.
    pub paused: Option<Arc<str>>,
    /// An operator's pause.
    pub pause: Option<Pause>,
    /// What its last member declared.
    pub declared: GroupRules,
    /// What an operator set over that. [`rules`](GroupInfo::rules) gives what holds of both.
    pub overrides: Overrides,
}

impl GroupInfo {
    /// Messages not settled yet, over all partitions.
    pub fn lag(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lag).sum()
    }

    /// Age of the oldest message that is not settled.
    pub fn oldest(&self) -> Option<Duration> {
        self.shards.iter().filter_map(|shard| shard.oldest).max()
    }

    /// Messages that wait for their next attempt, or behind one of their key.
    pub fn parked(&self) -> u64 {
        self.shards.iter().map(|shard| shard.parked).sum()
    }
}

/// A live member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// As it named itself.
    pub name: String,
    /// The consumer's id.
    pub consumer: u64,
    /// The partitions that it owns.
    pub shards: Vec<u32>,
}

/// A group's state on a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardInfo {
    /// Everything before it is settled.
    pub committed: Position,
    /// The end of the partition.
    pub end: Position,
    /// Messages not settled.
    pub lag: u64,
    /// Age of the oldest message not settled, by the time it was appended.
    pub oldest: Option<Duration>,
    /// Messages parked.
    pub parked: u64,
    /// Messages out with the member.
    pub in_flight: u64,
    /// Keys that wait for a dead letter to be redriven or removed.
    pub held_keys: u64,
    /// Why it gives nothing new now, where that is so.
    pub waits: Option<Waits>,
}

/// Moves a group on one partition.
#[derive(Debug, Clone)]
pub struct Seek {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// The partition.
    pub partition: u32,
    /// Where to.
    pub to: Start,
    /// Also while members are live: they lose the partition and get it again at the new position.
    pub force: bool,
}
