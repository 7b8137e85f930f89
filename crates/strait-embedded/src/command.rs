//! What callers ask of the writer, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{Append, GroupChange, GroupSpec, TopicChange, TopicInfo, TopicSpec};
use strait_core::{
    Claim, Claimed, Error, Name, OnceEnd, Outcome, Outgoing, Position, Records, Result, Sent, Unit,
    Verdict,
};
use tokio::sync::oneshot;

use crate::cleaner::Copied;
use crate::consumer::group_of;
use crate::ops::GroupId;
use crate::shared::Shared;
use crate::state::dead::Grave;

pub(crate) mod dead;

use dead::{DeadCommand, Slice};

pub(crate) type Answer<T> = oneshot::Sender<T>;

/// A request to the one writer. It is decided in the order of the queue; its answer goes out when what it rests on is
/// durable.
#[derive(Debug)]
pub(crate) enum Command {
    Append(Append, Answer<Result<Sent>>),
    Commit(Vec<Prepared>, Answer<Vec<Outcome>>),
    Claim(Claim, Answer<Result<Claimed>>),
    Declare(TopicSpec, Answer<Result<TopicInfo>>),
    Alter(Name, TopicChange, Answer<Result<TopicInfo>>),
    DeleteTopic(Name, Answer<Result<()>>),
    /// Answers the consumer's id.
    Join(Box<Join>, Answer<Result<u64>>),
    Seek(SeekTo, Answer<Result<Position>>),
    DeleteGroup(Name, Name, Answer<Result<()>>),
    AlterGroup(Name, Name, GroupChange, Answer<Result<()>>),
    Dead(Box<DeadCommand>),
    Fetch(Fetch, Answer<Option<Granted>>),
    Leave {
        group: GroupId,
        consumer: u64,
    },
    HandedBack {
        group: GroupId,
        consumer: u64,
        shard: u32,
    },
    /// The engine closes.
    Close,
    Trim {
        topic: u32,
        partition: u32,
        start: u64,
    },
    /// The cleaner has copied these.
    Moved(Vec<Copied>, Answer<Result<()>>),
    /// Makes everything so far durable.
    Sync(Answer<Result<()>>),
}

/// A unit with what its verdicts need from the log, read on the caller's thread.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) unit: Unit,
    /// For each receipt of the unit whose verdict needs them: the messages it covers, in order.
    pub(crate) messages: Vec<Vec<Taken>>,
}

impl Prepared {
    /// What it will take in the log, without its operations.
    pub(crate) fn bytes(&self) -> usize {
        let send = self.unit.send.iter().map(size).sum::<usize>();
        let dead = self.messages.iter().flatten().map(Taken::bytes);
        let reasons = self.unit.settle.iter().map(|(receipt, verdict)| {
            let (Verdict::Retry { reason, .. } | Verdict::Dead(reason)) = verdict else {
                return 0;
            };
            // Every message keeps it.
            reason.len() * receipt.count() as usize
        });
        let result = match self.unit.once.as_ref().map(|once| &once.end) {
            Some(OnceEnd::Store { result, .. }) => result.len(),
            _ => 0,
        };
        send + result + reasons.sum::<usize>() + dead.sum::<usize>()
    }
}

fn size(outgoing: &Outgoing) -> usize {
    match outgoing {
        Outgoing::Append { records, .. } => records.bytes().len(),
        _ => 0,
    }
}

/// A message that is parked or given up.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) offset: u64,
    /// Hash of its key, 0 without one.
    pub(crate) key: u64,
    pub(crate) appended: i64,
    /// Attempts made, where the engine gave it up: the grant by which it learned that they were all was none.
    pub(crate) attempts: Option<u32>,
    /// A copy for the dead letters, where this may be its last attempt.
    pub(crate) grave: Option<Records>,
    /// A copy for the dead-letter topic, with its partition there.
    pub(crate) copy: Option<(u32, Records)>,
}

impl Taken {
    /// Bytes of its copies.
    pub(crate) fn bytes(&self) -> usize {
        let copy = self.copy.as_ref().map(|(_, records)| records);
        let copies = self.grave.iter().chain(copy);
        copies.map(|records| records.bytes().len()).sum()
    }
}

#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) spec: GroupSpec,
    /// Where each shard begins that has no position.
    pub(crate) starts: Vec<u64>,
}

#[derive(Debug)]
pub(crate) struct SeekTo {
    pub(crate) group: Name,
    pub(crate) topic: Name,
    pub(crate) partition: u32,
    pub(crate) to: u64,
    pub(crate) force: bool,
}

#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) group: GroupId,
    pub(crate) consumer: u64,
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// What a fetch got: leased, and its grant written.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) shard: u32,
    pub(crate) grant: u64,
    pub(crate) what: GrantedWhat,
}

#[derive(Debug)]
pub(crate) enum GrantedWhat {
    /// New messages.
    Run { first: u64, count: u32 },
    /// Messages that went out before.
    Again(Vec<Again>),
}

#[derive(Debug)]
pub(crate) struct Again {
    pub(crate) offset: u64,
    pub(crate) attempt: u32,
    pub(crate) reason: Option<Arc<str>>,
    /// Where its body lies, when it is a dead letter that was brought back.
    pub(crate) grave: Option<Grave>,
}

/// An answer that waits for the disk.
#[derive(Debug)]
pub(crate) enum Reply {
    Append(Answer<Result<Sent>>, Result<Sent>),
    Commit(Answer<Vec<Outcome>>, Vec<Outcome>),
    Claim(Answer<Result<Claimed>>, Result<Claimed>),
    Topic(Answer<Result<TopicInfo>>, Result<TopicInfo>),
    Unit(Answer<Result<()>>, Result<()>),
    Seek(Answer<Result<Position>>, Result<Position>),
    Count(Answer<Result<u64>>, Result<u64>),
    Join(Answer<Result<u64>>, Result<u64>),
    Slice(Answer<Result<Slice>>, Result<Slice>),
    Fetch(Answer<Option<Granted>>, Option<Granted>),
}

impl Reply {
    /// A receiver that was dropped does not want to know; a member that nobody waits for leaves.
    pub(crate) fn send(self, shared: &Shared) {
        match self {
            Reply::Append(to, answer) => drop(to.send(answer)),
            Reply::Commit(to, answer) => drop(to.send(answer)),
            Reply::Claim(to, answer) => drop(to.send(answer)),
            Reply::Topic(to, answer) => drop(to.send(answer)),
            Reply::Unit(to, answer) => drop(to.send(answer)),
            Reply::Seek(to, answer) => drop(to.send(answer)),
            Reply::Count(to, answer) => drop(to.send(answer)),
            Reply::Join(to, answer) => {
                if let Err(Ok(consumer)) = to.send(answer) {
                    shared.push(Command::leave(consumer), 0);
                }
            }
            Reply::Slice(to, answer) => drop(to.send(answer)),
            Reply::Fetch(to, answer) => drop(to.send(answer)),
        }
    }

    /// The disk failed under it: what was to succeed is unknown, what was refused stays so.
    pub(crate) fn fail(self, error: &dyn Fn() -> Error) {
        fn unknown<T>(answer: Result<T>, error: &dyn Fn() -> Error) -> Result<T> {
            answer.and_then(|_| Err(error().unknown()))
        }
        match self {
            Reply::Append(to, answer) => drop(to.send(unknown(answer, error))),
            Reply::Commit(to, answer) => {
                let unknown = |outcome| match outcome {
                    Outcome::NotApplied(..) | Outcome::Fenced => outcome,
                    _ => Outcome::Unknown(error().unknown()),
                };
                drop(to.send(answer.into_iter().map(unknown).collect()));
            }
            Reply::Claim(to, answer) => drop(to.send(unknown(answer, error))),
            Reply::Topic(to, answer) => drop(to.send(unknown(answer, error))),
            Reply::Unit(to, answer) => drop(to.send(unknown(answer, error))),
            Reply::Seek(to, answer) => drop(to.send(unknown(answer, error))),
            Reply::Count(to, answer) | Reply::Join(to, answer) => {
                drop(to.send(unknown(answer, error)));
            }
            Reply::Slice(to, answer) => drop(to.send(unknown(answer, error))),
            Reply::Fetch(to, _) => drop(to.send(None)),
        }
    }
}

impl Command {
    /// A member leaves its group.
    pub(crate) fn leave(consumer: u64) -> Command {
        let group = group_of(consumer);
        Command::Leave { group, consumer }
    }

    /// True for what frees space, or only ends something: it is carried out of the last bytes of a full disk.
    pub(crate) fn frees_space(&self) -> bool {
        match self {
            Command::DeleteTopic(..)
            | Command::DeleteGroup(..)
            | Command::AlterGroup(..)
            | Command::Alter(..)
            | Command::Trim { .. }
            | Command::Moved(..)
            | Command::Leave { .. }
            | Command::HandedBack { .. }
            | Command::Close
            | Command::Sync(_) => true,
            Command::Dead(command) => command.frees_space(),
            Command::Append(..)
            | Command::Commit(..)
            | Command::Claim(..)
            | Command::Declare(..)
            | Command::Join(..)
            | Command::Seek(..)
            | Command::Fetch(..) => false,
        }
    }

    /// Refuses it without looking at it: the engine takes nothing any more.
    pub(crate) fn refuse(self, error: &dyn Fn() -> Error) {
        match self {
            Command::Append(_, to) => drop(to.send(Err(error()))),
            Command::Commit(units, to) => {
                let refuse = |prepared: Prepared| Outcome::NotApplied(prepared.unit, error());
                drop(to.send(units.into_iter().map(refuse).collect()));
            }
            Command::Claim(_, to) => drop(to.send(Err(error()))),
            Command::Declare(_, to) | Command::Alter(_, _, to) => drop(to.send(Err(error()))),
            Command::DeleteTopic(_, to)
            | Command::DeleteGroup(_, _, to)
            | Command::AlterGroup(_, _, _, to)
            | Command::Moved(_, to)
            | Command::Sync(to) => {
                drop(to.send(Err(error())));
            }
            Command::Join(_, to) => drop(to.send(Err(error()))),
            Command::Seek(_, to) => drop(to.send(Err(error()))),
            Command::Dead(command) => command.refuse(error),
            Command::Fetch(_, to) => drop(to.send(None)),
            Command::Leave { .. }
            | Command::HandedBack { .. }
            | Command::Close
            | Command::Trim { .. } => {}
        }
    }
}

/// The time of one turn of the writer, both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Milliseconds since the epoch; since the engine was opened it only grows.
    pub(crate) wall: i64,
    pub(crate) monotonic: Duration,
}
