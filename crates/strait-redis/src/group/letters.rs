//! Dead letters as they are stored: an entry of the group's stream each, with a changed copy beside it where an operator made one.

use std::sync::Arc;

use redis::Value;
use strait_core::events::{DeadLetter, Death, ErrorFingerprint};
use strait_core::{ChunkBuilder, Message, Name, Position, Result, Timestamp};
use strait_member::Again;

use super::steps;
use crate::fault::odd;
use crate::keys;
use crate::reply::{bytes, entry, number, text};

/// Fields of a dead letter that are not the message's.
const OWN: &str = "dead:";

/// A dead letter that was brought back, as the owner of its partition knows it.
#[derive(Debug, Clone)]
pub(crate) struct Back {
    /// Its number.
    pub(crate) number: u64,
    /// The redrive that brought it back.
    pub(crate) run: u64,
    /// How it died so far, oldest first.
    pub(crate) deaths: Vec<Death>,
}

impl Back {
    /// What is stored of it while it has not ended.
    pub(crate) fn known(&self, again: &Again, out: u64) -> String {
        let at = keys::id(again.position);
        format!("{} {at} {}", self.run, steps::known(again, out))
    }
}

/// Reads what [`Back::known`] made: the run, and what is known.
pub(crate) fn of_known(stored: &str) -> Option<(u64, Again)> {
    let (run, rest) = stored.split_once(' ')?;
    let (position, rest) = rest.split_once(' ')?;
    let position = keys::position(position.as_bytes())?;
    Some((run.parse().ok()?, steps::of_known(position, rest)?))
}

/// The fields of a dead letter, but for its attempts and its history.
pub(crate) fn fields(message: &Message, reason: &str) -> Vec<Vec<u8>> {
    let mut fields = message_fields(message);
    let own = [
        ("dead:topic", message.topic().to_string()),
        ("dead:partition", message.partition().to_string()),
        ("dead:position", keys::id(message.position())),
        ("dead:appended", message.appended().as_millis().to_string()),
        ("dead:died", Timestamp::now().as_millis().to_string()),
        ("dead:reason", reason.to_owned()),
    ];
    for (name, value) in own {
        fields.push(name.into());
        fields.push(value.into());
    }
    fields
}

/// Names and values in turn.
pub(crate) fn message_fields(message: &Message) -> Vec<Vec<u8>> {
    let mut fields: Vec<Vec<u8>> = Vec::with_capacity(24);
    crate::entry::fields(&message.record(), |name, value| {
        fields.push(name.to_vec());
        fields.push(value.to_vec());
    });
    fields
}

/// For a script: the key that the message holds once it is dead; empty when it holds none.
pub(crate) fn holds(message: &Message, holds: bool) -> Vec<u8> {
    match message.record().key() {
        Some(key) if holds => [b"key", key].concat(),
        _ => Vec::new(),
    }
}

/// A changed copy as it is stored: each field as `LENGTH:BYTES`.
pub(crate) fn pack(fields: &[Vec<u8>]) -> Vec<u8> {
    let mut packed = Vec::new();
    for field in fields {
        packed.extend_from_slice(format!("{}:", field.len()).as_bytes());
        packed.extend_from_slice(field);
    }
    packed
}

fn unpack(mut packed: &[u8]) -> Option<Vec<Value>> {
    let mut fields = Vec::new();
    while !packed.is_empty() {
        let colon = packed.iter().position(|byte| *byte == b':')?;
        let len: usize = std::str::from_utf8(&packed[..colon]).ok()?.parse().ok()?;
        let field = packed.get(colon + 1..colon + 1 + len)?;
        fields.push(Value::BulkString(field.to_vec()));
        packed = &packed[colon + 1 + len..];
    }
    Some(fields)
}

/// Earlier deaths as a JSON text.
pub(crate) fn history_text(deaths: &[Death]) -> String {
    let one = |death: &Death| {
        serde_json::json!({
            "number": death.number,
            "attempts": death.attempts,
            "reason": &*death.reason,
            "died": death.died.as_millis(),
            "edited": death.edited,
        })
    };
    serde_json::Value::Array(deaths.iter().map(one).collect()).to_string()
}

fn history(stored: &str) -> Option<Vec<Death>> {
    let deaths: Vec<serde_json::Value> = serde_json::from_str(stored).ok()?;
    let one = |death: &serde_json::Value| {
        Some(Death {
            number: death.get("number")?.as_u64()?,
            attempts: death.get("attempts")?.as_u64()? as u32,
            reason: Arc::from(death.get("reason")?.as_str()?),
            died: Timestamp::from_millis(death.get("died")?.as_i64()?),
            edited: death.get("edited")?.as_bool()?,
        })
    };
    deaths.iter().map(one).collect()
}

/// How a letter died, this time included.
pub(crate) fn deaths(letter: &DeadLetter) -> Vec<Death> {
    let mut deaths = letter.history.clone();
    deaths.push(Death {
        number: letter.number,
        attempts: letter.attempts,
        reason: letter.reason.clone(),
        died: letter.died,
        edited: letter.edited.is_some(),
    });
    deaths
}

/// Reads an entry of the stream of dead letters, and its changed copy; gives also their bytes.
pub(crate) fn letter(
    value: &Value,
    edit: Option<&[u8]>,
    topic: &Name,
) -> Result<(DeadLetter, usize)> {
    let what = || odd("reading a dead letter");
    let (id, fields) = entry(value).ok_or_else(what)?;
    let (letter_number, _) = keys::position(id).ok_or_else(what)?.parts();
    let size: usize = fields.iter().filter_map(bytes).map(<[u8]>::len).sum();
    let (own, message): (Vec<_>, Vec<_>) = fields
        .chunks_exact(2)
        .partition(|pair| text(&pair[0]).is_some_and(|name| name.starts_with(OWN)));
    let own = |name: &str| {
        let found = own
            .iter()
            .find(|pair| text(&pair[0]).and_then(|n| n.strip_prefix(OWN)) == Some(name));
        found.map(|pair| &pair[1])
    };
    let number_of = |name: &str| own(name).and_then(number).ok_or_else(what);
    let partition = number_of("partition")? as u32;
    let position = own("position")
        .and_then(bytes)
        .and_then(keys::position)
        .ok_or_else(what)?;
    let appended = Timestamp::from_millis(number_of("appended")?);
    let place = |fields: Vec<Value>| -> Result<Message> {
        let message = read_message(fields, topic, partition, position)?;
        Ok(message.placed(partition, position, appended))
    };
    let edited = match edit {
        Some(packed) => Some(place(unpack(packed).ok_or_else(what)?)?),
        None => None,
    };
    let reason: Arc<str> = own("reason").and_then(text).ok_or_else(what)?.into();
    let told = own("history")
        .and_then(text)
        .map_or(Some(Vec::new()), history);
    let letter = DeadLetter {
        number: letter_number,
        message: place(message.into_iter().flatten().cloned().collect())?,
        edited,
        attempts: number_of("attempts")? as u32,
        fingerprint: ErrorFingerprint::of(&reason),
        reason,
        died: Timestamp::from_millis(number_of("died")?),
        history: told.ok_or_else(what)?,
    };
    Ok((letter, size + edit.map_or(0, <[u8]>::len)))
}

/// Refuses fields that are no message.
pub(crate) fn check(fields: &[Vec<u8>], of: &Message) -> Result<()> {
    let values = fields.iter().cloned().map(Value::BulkString).collect();
    let topic = Name::new(of.topic())?;
    read_message(values, &topic, of.partition(), of.position()).map(drop)
}

fn read_message(
    fields: Vec<Value>,
    topic: &Name,
    partition: u32,
    position: Position,
) -> Result<Message> {
    let value = Value::Array(vec![
        Value::BulkString(keys::id(position).into_bytes()),
        Value::Array(fields),
    ]);
    let mut chunk = ChunkBuilder::new(topic.clone(), partition);
    crate::entry::push(&mut chunk, &value)?;
    let chunk = chunk.build(position.next());
    let message = chunk.iter().next().map(|item| item.to_message());
    message.ok_or_else(|| odd("reading a dead letter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_copies_come_back() {
        let fields = vec![b"body".to_vec(), b"1:2\r\n\0".to_vec(), Vec::new()];
        let values = fields
            .iter()
            .cloned()
            .map(Value::BulkString)
            .collect::<Vec<_>>();
        assert_eq!(unpack(&pack(&fields)), Some(values));
        for broken in ["4:abc", "x", "9", "-1:a"] {
            assert_eq!(unpack(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn what_is_known_of_one_that_was_brought_back_comes_back() {
        let back = Back {
            number: 7,
            run: 3,
            deaths: Vec::new(),
        };
        let again = Again {
            position: Position::of_parts(5, 1),
            attempts: 2,
            lost: 1,
            due: Timestamp::from_millis(9),
            reason: Some("not now".into()),
        };
        assert_eq!(of_known(&back.known(&again, 12)), Some((3, again)));
        assert_eq!(of_known("3 5-1"), None);
    }

    #[test]
    fn history_comes_back() {
        let death = Death {
            number: 4,
            attempts: 8,
            reason: "a \"quoted\" one".into(),
            died: Timestamp::from_millis(11),
            edited: true,
        };
        let text = history_text(std::slice::from_ref(&death));
        assert_eq!(history(&text), Some(vec![death]));
    }
}
