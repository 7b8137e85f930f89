//! Reads a recorded stream: for people who look into one, and for fuzzing every parser at once.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::FutureExt;
use strait_core::events::{
    Append, Cursor, DeadFilter, DeadLetter, DeadSummary, EditDead, GroupChange, GroupInfo,
    GroupSpec, ReadKey, Redrive, Redriven, RemoveDead, Seek, SetAside, Start, TopicChange,
    TopicInfo, TopicSpec, UndoRedrive, Undone, Whereabouts,
};
use strait_core::{
    Backup, Chunk, Claim, Claimed, Error, Fence, Health, Name, Position, Result, Sent, Storage,
};

use crate::frame::{Frame, FrameReader, MESSAGE_MAX, kind, word};
use crate::hello::{Hello, VERSIONS, Welcome};
use crate::wire::{
    DeadLettersOf, Extend, KeyMessages, Wire, WireArrival, WireOutcome, WireUnit, malformed, read,
    read_all, read_start,
};

/// Reads the frames of a stream (both directions may be mixed, whole frames at a time) and gives a line for each: its
/// kind, id and length. Every payload is read as the receiver would read it; `Corrupt` where one cannot be.
pub fn inspect(mut stream: &[u8]) -> Result<Vec<String>> {
    let mut reader = FrameReader::new(&mut stream, MESSAGE_MAX);
    let mut asked = HashMap::new();
    let mut lines = Vec::new();
    loop {
        // A slice never makes anybody wait.
        let frame = reader.next().now_or_never();
        let Some(frame) = frame.unwrap_or_else(|| Err(malformed("it waits")))? else {
            return Ok(lines);
        };
        let word = word(frame.kind).ok_or_else(|| frame.unexpected(VERSIONS.1))?;
        lines.push(format!(
            "{word} {} ({} bytes)",
            frame.id,
            frame.payload.len()
        ));
        let (kind, id) = (frame.kind, frame.id);
        match kind {
            kind::ANSWER => {
                if let Some(request) = asked.remove(&id) {
                    check_answer(request, frame.payload)?;
                }
            }
            kind::COMMIT.. => {
                asked.insert(id, kind);
                check_request(kind, frame.payload)?;
            }
            _ => check_other(frame)?,
        }
    }
}

fn is<T: Wire>(payload: Bytes) -> Result<()> {
    read::<T>(payload).map(drop)
}

fn check_other(frame: Frame) -> Result<()> {
    let payload = frame.payload.clone();
    match frame.kind {
        kind::HELLO => Hello::of(frame)?.agree().map(drop),
        kind::WELCOME => Welcome::of(frame).map(drop),
        kind::REFUSED | kind::GOODBYE => read_start::<Error>(payload).map(drop),
        kind::HEALTH => is::<Health>(payload),
        kind::ARRIVAL => is::<WireArrival>(payload),
        kind::FAILED => is::<Error>(payload),
        kind::CREDIT => is::<(u64, (u64, u64))>(payload),
        kind::LEAVE => is::<u64>(payload),
        kind::HOLD => is::<(u32, bool)>(payload),
        kind::HANDED_BACK => is::<u32>(payload),
        // Ping, pong and cancel carry nothing.
        _ => Ok(()),
    }
}

fn check_request(kind: u8, payload: Bytes) -> Result<()> {
    match kind {
        kind::COMMIT => read_all::<WireUnit>(payload).map(drop),
        kind::CLAIM => is::<Claim>(payload),
        kind::BACKUP => is::<String>(payload),
        kind::EXTEND => is::<Extend>(payload),
        kind::ABANDON => is::<Fence>(payload),
        kind::DECLARE => is::<TopicSpec>(payload),
        kind::ALTER => is::<(Name, TopicChange)>(payload),
        kind::TOPICS | kind::GROUPS | kind::STORAGE => is::<()>(payload),
        kind::DELETE | kind::TOPIC => is::<Name>(payload),
        kind::APPEND => is::<Append>(payload),
        kind::READ => is::<(Cursor, usize)>(payload),
        kind::LOCATE => is::<(Name, (u32, Start))>(payload),
        kind::READ_KEY => is::<ReadKey>(payload),
        kind::JOIN => is::<GroupSpec>(payload),
        kind::SEEK => is::<Seek>(payload),
        kind::DEAD_LETTERS => is::<DeadLettersOf>(payload),
        kind::REDRIVE => is::<Redrive>(payload),
        kind::ALTER_GROUP => is::<((Name, Name), GroupChange)>(payload),
        kind::DEAD_SUMMARY => is::<((Name, Name), DeadFilter)>(payload),
        kind::EDIT_DEAD => is::<EditDead>(payload),
        kind::REMOVE_DEAD => is::<RemoveDead>(payload),
        kind::UNDO_REDRIVE => is::<UndoRedrive>(payload),
        kind::SET_ASIDE => is::<SetAside>(payload),
        kind::WHEREABOUTS => is::<(Name, (u32, Position))>(payload),
        // `group` and `delete_group`.
        _ => is::<(Name, Name)>(payload),
    }
}

fn check_answer(request: u8, payload: Bytes) -> Result<()> {
    match request {
        kind::COMMIT => is::<Result<Vec<WireOutcome>>>(payload),
        kind::CLAIM => is::<Result<Claimed>>(payload),
        kind::EXTEND => is::<Result<Vec<bool>>>(payload),
        kind::BACKUP => is::<Result<Backup>>(payload),
        kind::STORAGE => is::<Result<Storage>>(payload),
        kind::DECLARE | kind::ALTER | kind::TOPIC => is::<Result<TopicInfo>>(payload),
        kind::TOPICS => is::<Result<Vec<TopicInfo>>>(payload),
        kind::ABANDON | kind::DELETE | kind::DELETE_GROUP | kind::EDIT_DEAD => {
            is::<Result<()>>(payload)
        }
        kind::APPEND => is::<Result<Sent>>(payload),
        kind::READ => is::<Result<Chunk>>(payload),
        kind::LOCATE | kind::SEEK => is::<Result<Position>>(payload),
        kind::READ_KEY => is::<Result<KeyMessages>>(payload),
        kind::GROUPS => is::<Result<Vec<GroupInfo>>>(payload),
        kind::GROUP | kind::ALTER_GROUP => is::<Result<GroupInfo>>(payload),
        kind::DEAD_LETTERS => is::<Result<Vec<DeadLetter>>>(payload),
        kind::DEAD_SUMMARY => is::<Result<Vec<DeadSummary>>>(payload),
        kind::REDRIVE => is::<Result<Redriven>>(payload),
        kind::WHEREABOUTS => is::<Result<Whereabouts>>(payload),
        kind::UNDO_REDRIVE => is::<Result<Undone>>(payload),
        // `join`, `remove_dead` and `set_aside`.
        _ => is::<Result<u64>>(payload),
    }
}
