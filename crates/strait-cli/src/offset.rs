//! Positions as commands show and take them.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use strait::core::Position;

use crate::text::count;

/// A position: a number where the engine counts messages, else its own stamp (`1700000000000-3` on Redis).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offset(pub(crate) Position);

impl Offset {
    /// As a cell of a table.
    pub(crate) fn cell(self, people: bool) -> String {
        match self.0.parts() {
            (0, low) => count(low, people),
            _ => self.0.to_string(),
        }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Offset {
    type Err = strait::core::BadPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Offset)
    }
}

/// A number, or a text.
impl Serialize for Offset {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0.parts() {
            (0, low) => to.serialize_u64(low),
            _ => to.collect_str(&self.0),
        }
    }
}

impl From<Offset> for serde_json::Value {
    fn from(offset: Offset) -> Self {
        match offset.0.parts() {
            (0, low) => low.into(),
            _ => offset.to_string().into(),
        }
    }
}

/// Messages from one position up to another; `None` where positions cannot be counted.
pub(crate) fn between(from: Position, to: Position) -> Option<u64> {
    match (from.parts(), to.parts()) {
        ((0, from), (0, to)) => Some(to.saturating_sub(from)),
        (from, to) => (from == to).then_some(0),
    }
}

/// A number as a cell of a table, a dash where it is not known.
pub(crate) fn known(number: Option<u64>, people: bool) -> String {
    number.map_or_else(|| "-".to_owned(), |number| count(number, people))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_counted_is_not_a_number() {
        let stamp = |low| Position::of_parts(1_700_000_000_000, low);
        assert_eq!(between(Position::at(3), Position::at(10)), Some(7));
        assert_eq!(between(Position::at(3), Position::at(1)), Some(0));
        assert_eq!(between(stamp(1), stamp(1)), Some(0));
        assert_eq!(between(stamp(1), stamp(9)), None);
        assert_eq!(between(Position::at(0), stamp(9)), None);
        let json = |at| serde_json::to_string(&Offset(at)).unwrap();
        assert_eq!(json(Position::at(17)), "17");
        assert_eq!(json(stamp(3)), "\"1700000000000-3\"");
        assert_eq!("1700000000000-3".parse(), Ok(Offset(stamp(3))));
        assert_eq!(Offset(Position::at(1234)).cell(true), "1,234");
    }
}
