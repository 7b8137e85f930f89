//! Dead letters, and what is asked about them.

use bytes::Bytes;
use strait_core::events::{
    DeadEdit, DeadFilter, DeadLetter, DeadSummary, Death, EditDead, ErrorFingerprint, Redrive,
    Redriven, RemoveDead, SetAside, UndoRedrive, Undone,
};
use strait_core::{Name, Result};

use super::messages::{Messages, put_messages};
use super::{In, Out, Wire, malformed, wire_struct};

wire_struct!(DeadFilter {
    numbers,
    partition,
    key,
    fingerprint,
    reason,
    died_after,
    died_before,
    min_attempts
});
wire_struct!(DeadSummary {
    fingerprint,
    count,
    example,
    first_died,
    last_died,
    keys
});
wire_struct!(Death {
    number,
    attempts,
    reason,
    died,
    edited
});
wire_struct!(EditDead {
    group,
    topic,
    number,
    edit,
    dry_run
});
wire_struct!(RemoveDead {
    group,
    topic,
    filter,
    dry_run
});
wire_struct!(Redrive {
    group,
    topic,
    filter,
    per_second,
    resume,
    dry_run
});
wire_struct!(Redriven { run, count, lasts });
wire_struct!(UndoRedrive {
    group,
    topic,
    run,
    dry_run
});
wire_struct!(Undone {
    returned,
    out,
    handled
});
wire_struct!(SetAside {
    group,
    topic,
    partition,
    position,
    reason,
    force,
    dry_run
});

/// Asks for dead letters of a group on a topic.
#[derive(Debug)]
pub(crate) struct DeadLettersOf {
    pub(crate) group: Name,
    pub(crate) topic: Name,
    pub(crate) filter: DeadFilter,
    pub(crate) from: u64,
    pub(crate) limit: usize,
}
wire_struct!(DeadLettersOf {
    group,
    topic,
    filter,
    from,
    limit
});

impl Wire for ErrorFingerprint {
    const LEAST: usize = 8;
    fn put(&self, out: &mut Out) {
        self.number().put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        let number = u64::get(input)?;
        ErrorFingerprint::from_number(number)
            .ok_or_else(|| malformed("a fingerprint has more than 48 bits"))
    }
}

impl Wire for DeadEdit {
    fn put(&self, out: &mut Out) {
        match self {
            DeadEdit::Put { key, body, headers } => {
                0u8.put(out);
                key.put(out);
                body.put(out);
                headers.put(out);
            }
            DeadEdit::Drop => 1u8.put(out),
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => DeadEdit::Put {
                key: Wire::get(input)?,
                body: Wire::get(input)?,
                headers: Option::<Vec<(String, Bytes)>>::get(input)?,
            },
            1 => DeadEdit::Drop,
            _ => return Err(malformed("unknown edit")),
        })
    }
}

/// What `dead_letters` answers.
impl Wire for Vec<DeadLetter> {
    const LEAST: usize = 8;
    fn put(&self, out: &mut Out) {
        put_messages(self.iter().map(|dead| &dead.message), out);
        put_messages(self.iter().filter_map(|dead| dead.edited.as_ref()), out);
        for dead in self {
            dead.number.put(out);
            dead.edited.is_some().put(out);
            dead.attempts.put(out);
            dead.reason.put(out);
            dead.fingerprint.put(out);
            dead.died.put(out);
            dead.history.put(out);
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        let messages = Messages::get(input)?.0.into_iter();
        let mut edits = Messages::get(input)?.0.into_iter();
        messages
            .map(|message| {
                let number = Wire::get(input)?;
                let edited = match bool::get(input)? {
                    true => {
                        let edit = edits.next();
                        Some(edit.ok_or_else(|| malformed("an edit that is not there"))?)
                    }
                    false => None,
                };
                Ok(DeadLetter {
                    number,
                    message,
                    edited,
                    attempts: Wire::get(input)?,
                    reason: Wire::get(input)?,
                    fingerprint: Wire::get(input)?,
                    died: Wire::get(input)?,
                    history: Wire::get(input)?,
                })
            })
            .collect()
    }
}
