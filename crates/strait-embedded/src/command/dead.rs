//! What callers ask of the writer about dead letters. Whoever asks picked them before, on a thread of its own: a command
//! is one bounded slice of what may be a million.

use std::sync::Arc;

use strait_core::{Error, Name, Records, Result};

use super::{Answer, Taken};
use crate::ops::GroupId;

/// The group and the topic.
pub(crate) type Of = (Name, Name);

#[derive(Debug)]
pub(crate) enum DeadCommand {
    /// These come back, in this order.
    Redrive {
        of: Of,
        /// The run that they belong to; `None`: a new one.
        run: Option<u64>,
        /// 0: all at once.
        per_second: u32,
        numbers: Vec<u64>,
        answer: Answer<Result<Slice>>,
    },
    /// What this run brought back becomes dead letters again, where it waits.
    Undo {
        of: Of,
        run: u64,
        numbers: Vec<u64>,
        answer: Answer<Result<u64>>,
    },
    Remove {
        of: Of,
        numbers: Vec<u64>,
        answer: Answer<Result<u64>>,
    },
    /// Removes the first ones that died before this time.
    Expire { group: GroupId, before: i64 },
    /// Keeps a changed copy, or drops it.
    Edit {
        of: Of,
        number: u64,
        copy: Option<Records>,
        answer: Answer<Result<()>>,
    },
    SetAside {
        of: Of,
        shard: u32,
        taken: Box<Taken>,
        reason: Arc<str>,
        force: bool,
        answer: Answer<Result<u64>>,
    },
}

/// What became of a slice of a redrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Slice {
    pub(crate) run: u64,
    /// How many came back.
    pub(crate) count: u64,
    /// How long it takes until the last of them may go out, in milliseconds.
    pub(crate) lasts: u64,
}

impl DeadCommand {
    /// True for what frees space.
    pub(crate) fn frees_space(&self) -> bool {
        matches!(
            self,
            DeadCommand::Remove { .. } | DeadCommand::Expire { .. }
        )
    }

    pub(crate) fn refuse(self, error: &dyn Fn() -> Error) {
        match self {
            DeadCommand::Redrive { answer, .. } => drop(answer.send(Err(error()))),
            DeadCommand::Undo { answer, .. }
            | DeadCommand::Remove { answer, .. }
            | DeadCommand::SetAside { answer, .. } => drop(answer.send(Err(error()))),
            DeadCommand::Edit { answer, .. } => drop(answer.send(Err(error()))),
            DeadCommand::Expire { .. } => {}
        }
    }
}
