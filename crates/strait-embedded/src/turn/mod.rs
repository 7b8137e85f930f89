//! One turn of the writer: commands are decided against the state, their operations applied to it at once and put into
//! the group that is about to be written. No I/O and no clock in here: a seed replays it.

use strait_core::{Error, Kind, Records, codes};

use crate::command::{Command, Now, Reply};
use crate::disk::GroupBuf;
use crate::extents::{Extent, StreamId};
use crate::fingerprint::Fingerprint;
use crate::ops::{GroupId, Op};
use crate::state::State;

mod append;
pub(crate) mod dead;
mod fetch;
mod groups;
mod ledger;
mod moved;
mod topics;
mod unit;

pub(crate) use topics::info;
pub(crate) use unit::needs_messages;

/// A turn under way.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) group: &'a mut GroupBuf,
    pub(crate) out: &'a mut Output,
    pub(crate) seq: u64,
    pub(crate) now: Now,
    pub(crate) fingerprint: Fingerprint,
    /// False while the disk is full: sends are refused.
    pub(crate) room: bool,
    pub(crate) max_partitions: u32,
    record: Option<OpenRecord>,
}

#[derive(Debug, Clone, Copy)]
struct OpenRecord {
    ops_at: usize,
    bodies: usize,
    placings: usize,
}

/// What a turn leaves beside the group. Reused from turn to turn.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) placings: Vec<Placing>,
    /// Answers that only need the group to be written.
    pub(crate) written: Vec<Reply>,
    /// Answers that need it to be durable.
    pub(crate) durable: Vec<Reply>,
    /// True when something in the group must be durable before its answer goes out.
    pub(crate) sync: bool,
    /// True when it must be fsynced whatever the durability of acknowledgements: a checkpoint rests on it.
    pub(crate) fsync: bool,
    /// Commit records in the group.
    pub(crate) records: u64,
    /// A topic was given a retention or a compaction.
    pub(crate) cleanup: bool,
    /// Something that takes space is gone.
    pub(crate) freed: bool,
    /// Claims that ended: who waits may ask again.
    pub(crate) claims_ended: bool,
}

/// A body of the group: its place in the log is known when the group was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placing {
    stream: StreamId,
    body: usize,
    /// Where the operation begins among its record's operations.
    op_at: usize,
    /// Where the operation begins in the group.
    op_pos: u64,
    first: u64,
    count: u32,
    len: u32,
    time: i64,
    latest: i64,
}

impl Placing {
    pub(crate) fn stream(&self) -> StreamId {
        self.stream
    }

    /// Where the body lies, in a group that was written at `offset` of `segment`.
    pub(crate) fn extent(&self, segment: u64, offset: u64, bodies: &[u64]) -> Extent {
        let at = |pos: u64| u32::try_from(offset + pos).expect("a segment has less than 4 GiB");
        Extent {
            first: self.first,
            count: self.count,
            len: self.len,
            segment,
            pos: at(bodies[self.body]),
            op: at(self.op_pos),
            time: self.time,
            latest: self.latest,
        }
    }
}

impl Output {
    pub(crate) fn clear(&mut self) {
        self.placings.clear();
        self.sync = false;
        self.fsync = false;
        self.records = 0;
        self.cleanup = false;
        self.freed = false;
        self.claims_ended = false;
    }
}

impl<'a> Turn<'a> {
    pub(crate) fn new(
        state: &'a mut State,
        group: &'a mut GroupBuf,
        out: &'a mut Output,
        seq: u64,
        now: Now,
        fingerprint: Fingerprint,
    ) -> Turn<'a> {
        let max_partitions = crate::events::MAX_PARTITIONS;
        Turn {
            state,
            group,
            out,
            seq,
            now,
            fingerprint,
            room: true,
            max_partitions,
            record: None,
        }
    }

    /// Decides one command.
    pub(crate) fn decide(&mut self, command: Command) {
        let reply = match command {
            Command::Append(append, to) => Reply::Append(to, self.append(append)),
            Command::Commit(units, to) => {
                let outcomes = units.into_iter().map(|unit| self.unit(unit)).collect();
                Reply::Commit(to, outcomes)
            }
            Command::Claim(claim, to) => Reply::Claim(to, self.claim(&claim)),
            Command::Declare(spec, to) => Reply::Topic(to, self.declare(&spec)),
            Command::Alter(name, change, to) => Reply::Topic(to, self.alter(&name, &change)),
            Command::DeleteTopic(name, to) => Reply::Unit(to, self.delete_topic(&name)),
            Command::Join(join, to) => Reply::Join(to, self.join(*join)),
            Command::Seek(seek, to) => Reply::Seek(to, self.seek(&seek)),
            Command::DeleteGroup(group, topic, to) => {
                Reply::Unit(to, self.delete_group(&group, &topic))
            }
            Command::AlterGroup(group, topic, change, to) => {
                Reply::Unit(to, self.alter_group(&group, &topic, change))
            }
            Command::Dead(command) => match self.dead(*command) {
                Some(reply) => reply,
                None => return,
            },
            Command::Fetch(fetch, to) => {
                let granted = self.fetch(&fetch);
                self.out.written.push(Reply::Fetch(to, granted));
                return;
            }
            Command::Trim {
                topic,
                partition,
                start,
            } => return self.trim(topic, partition, start),
            Command::Moved(copied, to) => {
                self.moved(copied);
                Reply::Unit(to, Ok(()))
            }
            Command::Leave { group, consumer } => return self.leave(group, consumer),
            Command::HandedBack {
                group,
                consumer,
                shard,
            } => {
                return self.handed_back(group, shard, consumer);
            }
            Command::Close => return self.release_undelivered(),
            Command::Sync(to) => {
                self.out.sync = true;
                self.out.fsync = true;
                Reply::Unit(to, Ok(()))
            }
        };
        self.out.durable.push(reply);
    }

    /// Runs `body` as one commit record: what it emits is atomic.
    fn record<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> T {
        self.group.begin_record();
        self.record = Some(OpenRecord {
            ops_at: self.group.ops_mut().len(),
            bodies: self.group.body_offsets().len(),
            placings: self.out.placings.len(),
        });
        let value = body(self);
        let ops_end = self.group.ops_mut().len();
        self.group.end_record();
        self.out.records += 1;
        if let Some(open) = self.record.take() {
            let ops_len = ops_end - open.ops_at;
            let bodies = self.group.body_offsets();
            for placing in &mut self.out.placings[open.placings..] {
                placing.body += open.bodies;
                let ops_start = bodies[open.bodies] - ops_len as u64;
                placing.op_pos = ops_start + placing.op_at as u64;
            }
        }
        value
    }

    /// Writes an operation into the open record and applies it. What must be durable before its answer says so by
    /// [`Output::sync`]; all but grants do.
    fn emit(&mut self, op: &Op<'_>, body: Option<&Records>) {
        let open = self
            .record
            .expect("operations are emitted inside of `record`");
        let op_at = self.group.ops_mut().len() - open.ops_at;
        op.encode(self.group.ops_mut());
        self.out.sync |= !matches!(op, Op::Grant { .. });
        self.out.freed |= op.frees_space();
        let stream = self.state.apply(self.seq, op);
        let (Some(records), Some(stream), Some((first, count, time))) = (body, stream, op.placed())
        else {
            return;
        };
        let batch = records.batch();
        let body = self.out.placings[open.placings..].len();
        self.group
            .push_body(records.bytes().clone())
            .expect("a batch of records begins with its own length");
        self.out.placings.push(Placing {
            stream,
            body,
            op_at,
            op_pos: 0,
            first,
            count,
            len: batch.bytes().len() as u32,
            time,
            latest: batch.greatest_time().as_millis(),
        });
    }

    /// The alarm of a group may have to ring by then.
    fn alarm(&mut self, group: GroupId, at: std::time::Duration) {
        self.state.alarms.set(group, at);
    }
}

pub(crate) fn no_such_topic(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("the topic `{name}` does not exist"))
        .code(codes::NO_SUCH_TOPIC)
        .with("topic", name)
        .next("create it first: `strait topic create`, or `topic(..)` in Rust")
}

pub(crate) fn no_such_partition(topic: &str, partition: u32, count: usize) -> Error {
    Error::new(
        Kind::Rejected,
        format!("the topic `{topic}` has no partition {partition}: it has {count}, from 0 on"),
    )
    .with("topic", topic)
    .with("partition", partition)
    .next(format!("`strait topic show {topic}` lists them"))
}

pub(crate) fn no_such_group(group: &str, topic: &str) -> Error {
    Error::new(
        Kind::NotFound,
        format!("the group `{group}` does not exist on `{topic}`"),
    )
    .code(codes::NO_SUCH_GROUP)
    .with("group", group)
    .with("topic", topic)
    .next("`strait group ls` lists the groups")
}

pub(crate) fn disk_full() -> Error {
    Error::new(
        Kind::Busy,
        "the disk has no room for the log: no messages are taken",
    )
    .code(codes::DISK_FULL)
    .next("free space: reads, settles and deletes go on, sending resumes by itself")
}
