//! Reading what a server answers.

use redis::Value;

/// The bytes of a string.
pub(crate) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        Value::Okay => Some(b"OK"),
        _ => None,
    }
}

pub(crate) fn text(value: &Value) -> Option<&str> {
    std::str::from_utf8(bytes(value)?).ok()
}

pub(crate) fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        other => text(other)?.parse().ok(),
    }
}

pub(crate) fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(list) => Some(list),
        Value::Nil => Some(&[]),
        _ => None,
    }
}

/// The value of a field in a flat list of names and values.
pub(crate) fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Map(pairs) => pairs
            .iter()
            .find(|(key, _)| bytes(key) == Some(name.as_bytes()))
            .map(|(_, value)| value),
        other => list(other)?
            .chunks_exact(2)
            .find(|pair| bytes(&pair[0]) == Some(name.as_bytes()))
            .map(|pair| &pair[1]),
    }
}

/// An entry of a stream: its id, and its fields as a flat list. `None` for one that was deleted.
pub(crate) fn entry(value: &Value) -> Option<(&[u8], &[Value])> {
    let [id, fields] = list(value)? else {
        return None;
    };
    match fields {
        Value::Array(fields) => Some((bytes(id)?, fields)),
        _ => None,
    }
}
