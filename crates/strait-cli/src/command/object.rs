//! How an object is written on the command line: `KIND/NAME`, or `storage`.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use strait::core::Name;

use crate::offset::Offset;

/// What can be described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    Topic(Name),
    Partition(Name, u32),
    /// On one topic, or on all that it reads.
    Group(Name, Option<Name>),
    Key(String, Name),
    Offset(Name, u32, Offset),
    Storage,
}

const FORMS: &str = "write topic/TOPIC, topic/TOPIC/PARTITION, group/GROUP, group/GROUP@TOPIC, key/KEY@TOPIC, \
                     offset/TOPIC/PARTITION/OFFSET or storage";

impl FromStr for Object {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "storage" {
            return Ok(Object::Storage);
        }
        let (kind, rest) = text.split_once('/').ok_or(FORMS)?;
        let name = |text: &str| {
            text.parse::<Name>()
                .map_err(|error| error.message().to_owned())
        };
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| format!("`{text}` is no number: {FORMS}"))
        };
        match (kind, rest.split('/').collect::<Vec<_>>().as_slice()) {
            // Anything may be in a key.
            ("key", _) => {
                let (key, topic) = rest.rsplit_once('@').ok_or(FORMS)?;
                Ok(Object::Key(key.to_owned(), name(topic)?))
            }
            ("topic", [topic]) => Ok(Object::Topic(name(topic)?)),
            ("topic", [topic, partition]) => {
                let partition = u32::try_from(number(partition)?);
                Ok(Object::Partition(
                    name(topic)?,
                    partition.map_err(|_| FORMS)?,
                ))
            }
            ("group", [group]) => match group.split_once('@') {
                Some((group, topic)) => Ok(Object::Group(name(group)?, Some(name(topic)?))),
                None => Ok(Object::Group(name(group)?, None)),
            },
            ("offset", [topic, partition, offset]) => {
                let partition = u32::try_from(number(partition)?).map_err(|_| FORMS)?;
                let offset = offset.parse().map_err(|_| FORMS)?;
                Ok(Object::Offset(name(topic)?, partition, offset))
            }
            _ => Err(FORMS.to_owned()),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Topic(topic) => write!(f, "topic/{topic}"),
            Object::Partition(topic, partition) => write!(f, "topic/{topic}/{partition}"),
            Object::Group(group, None) => write!(f, "group/{group}"),
            Object::Group(group, Some(topic)) => write!(f, "group/{group}@{topic}"),
            Object::Key(key, topic) => {
                write!(f, "key/{}@{topic}", crate::text::shown(key.as_bytes()))
            }
            Object::Offset(topic, partition, offset) => {
                write!(f, "offset/{topic}/{partition}/{offset}")
            }
            Object::Storage => f.write_str("storage"),
        }
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_as_they_are_written() {
        for text in [
            "topic/orders",
            "topic/orders/3",
            "group/billing",
            "group/billing@orders",
            "key/42@orders",
            "key/a/b@c@orders",
            "offset/orders/3/17",
            "storage",
        ] {
            let object: Object = text.parse().unwrap();
            assert_eq!(object.to_string(), text);
        }
        for bad in [
            "orders",
            "topic/",
            "topic/orders/x",
            "topic/orders/3/4",
            "topic/orders/99999999999",
            "key/42",
            "offset/orders/3",
            "offset/orders/3/-1",
            "segment/1",
            "storage/1",
            "",
        ] {
            assert!(bad.parse::<Object>().is_err(), "{bad}");
        }
    }
}
