//! The names of keys, and positions as stream ids.

use strait_core::{Name, Position};

/// The set of all topics that were declared.
pub(crate) const TOPICS: &str = "strait:topics";

/// What the store is called, for ever: a string.
pub(crate) const STORE: &str = "strait:store";

/// The stream of a partition.
pub(crate) fn stream(topic: &Name, partition: u32) -> String {
    match partition {
        0 => topic.to_string(),
        partition => format!("{{{topic}}}:{partition}"),
    }
}

/// The settings of a topic: a hash.
pub(crate) fn settings(topic: &Name) -> String {
    format!("strait:{{{topic}}}:topic")
}

/// The field of a topic's settings that says up to where retention has removed a stream of it.
pub(crate) fn trimmed(stream: &str) -> String {
    format!("trimmed {stream}")
}

/// Where the answer to an append of this id is remembered, for the topic that was made then.
pub(crate) fn dedupe(topic: &Name, made: &str, partition: u32, id: &str) -> String {
    format!("strait:{{{topic}}}:id:{made}:{partition}:{id}")
}

/// The groups of a topic: a set.
pub(crate) fn groups(topic: &Name) -> String {
    format!("strait:{{{topic}}}:groups")
}

/// The id of a member, as text.
pub(crate) fn member(id: u64) -> String {
    format!("{id:016x}")
}

/// The keys of a group on a topic.
#[derive(Debug, Clone)]
pub(crate) struct GroupKeys {
    /// What it declares, and the number of its dead letters so far: a hash.
    pub(crate) group: String,
    /// Live members with the ends of their sessions: a sorted set.
    pub(crate) members: String,
    /// What members call themselves: a hash.
    pub(crate) names: String,
    /// Its dead letters: a stream, the number is the first half of the id.
    pub(crate) dead: String,
    /// Changed copies of dead letters: a hash, number and fields.
    pub(crate) edits: String,
    /// Redrives: a hash, number of the run, and how many it brought back and when the next would be due.
    pub(crate) runs: String,
}

impl GroupKeys {
    pub(crate) fn new(group: &Name, topic: &Name) -> Self {
        let own = format!("strait:{{{topic}}}:group:{group}");
        GroupKeys {
            members: format!("{own}:members"),
            names: format!("{own}:names"),
            edits: format!("{own}:edits"),
            runs: format!("{own}:runs"),
            dead: format!("strait:{{{topic}}}:dead:{group}"),
            group: own,
        }
    }

    /// A partition's owner, token and positions: a hash.
    pub(crate) fn shard(&self, partition: u32) -> String {
        format!("{}:{partition}", self.group)
    }

    /// What is settled behind the low mark: a hash, from and to.
    pub(crate) fn settled(&self, partition: u32) -> String {
        format!("{}:{partition}:settled", self.group)
    }

    /// Dead letters that were brought back and have not ended: a hash, number and what is known.
    pub(crate) fn back(&self, partition: u32) -> String {
        format!("{}:{partition}:back", self.group)
    }

    /// Dead letters that hold their key: a hash, number and key.
    pub(crate) fn held(&self, partition: u32) -> String {
        format!("{}:{partition}:held", self.group)
    }

    /// What comes again: a hash, position and what is known.
    pub(crate) fn again(&self, partition: u32) -> String {
        format!("{}:{partition}:again", self.group)
    }
}

/// What is remembered of an idempotency key: a hash.
pub(crate) fn once(scope: &str, key: &str) -> String {
    format!("strait:once:{scope}\0{key}")
}

/// The stream id of a position.
pub(crate) fn id(position: Position) -> String {
    let (millis, sequence) = position.parts();
    format!("{millis}-{sequence}")
}

/// The position of a stream id.
pub(crate) fn position(id: &[u8]) -> Option<Position> {
    let text = std::str::from_utf8(id).ok()?;
    let (millis, sequence) = text.split_once('-')?;
    Some(Position::of_parts(
        millis.parse().ok()?,
        sequence.parse().ok()?,
    ))
}

/// The position right before this one, for commands that take what lies behind an id.
pub(crate) fn before(position: Position) -> Position {
    match position.parts() {
        (0, 0) => position,
        (millis, 0) => Position::of_parts(millis - 1, u64::MAX),
        (millis, sequence) => Position::of_parts(millis, sequence - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_topic_share_a_slot() {
        let topic: Name = "orders".parse().unwrap();
        assert_eq!(stream(&topic, 0), "orders");
        for key in [
            stream(&topic, 3),
            settings(&topic),
            dedupe(&topic, "7.1", 1, "x{y}"),
        ] {
            let open = key.find('{').unwrap();
            assert_eq!(&key[open..open + 8], "{orders}", "{key}");
        }
    }

    #[test]
    fn ids_are_positions() {
        let at = Position::of_parts(17, 4);
        assert_eq!(position(id(at).as_bytes()), Some(at));
        assert_eq!(before(at), Position::of_parts(17, 3));
        assert_eq!(
            before(Position::of_parts(17, 0)).next(),
            Position::of_parts(17, 0)
        );
        assert_eq!(position(b"17"), None);
    }
}
