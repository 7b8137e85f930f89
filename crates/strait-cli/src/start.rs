//! Places in a topic as they are written on the command line.

use std::str::FromStr;

use strait::core::Timestamp;
use strait::core::events::Start;

use crate::text::parse_time;

/// `start` or `earliest`, `end` or `latest`, an offset, `-N` (the last N of each partition) or `@TIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(pub(crate) Start);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{text}` is no place in a topic; write start, end, an offset, -N for the last N, or @TIME"
            )
        };
        if let Some(time) = text.strip_prefix('@') {
            return parse_time(time, Timestamp::now()).map(|at| Place(Start::Time(at)));
        }
        if let Some(last) = text.strip_prefix('-') {
            let last = last.parse().map_err(|_| bad())?;
            return Ok(Place(Start::Last(last)));
        }
        Ok(Place(match text {
            "start" | "earliest" => Start::Earliest,
            "end" | "latest" => Start::Latest,
            _ => Start::At(text.parse().map_err(|_| bad())?),
        }))
    }
}

/// A place in words.
pub(crate) fn in_words(start: Start) -> String {
    match start {
        Start::Earliest => "the start".to_owned(),
        Start::Latest => "the end".to_owned(),
        Start::At(position) => format!("offset {position}"),
        Start::Time(at) => format!("the first message at or after {}", crate::text::time(at)),
        Start::Last(n) => format!("the last {n} of each partition"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strait::core::Position;

    #[test]
    fn all_forms_are_read_and_the_others_refused() {
        let read = |text: &str| text.parse::<Place>().map(|place| place.0);
        assert_eq!(read("start"), Ok(Start::Earliest));
        assert_eq!(read("end"), Ok(Start::Latest));
        assert_eq!(read("earliest"), read("start"));
        assert_eq!(read("latest"), read("end"));
        assert_eq!(read("17"), Ok(Start::At(Position::at(17))));
        let stamp = Position::of_parts(1_700_000_000_000, 3);
        assert_eq!(read("1700000000000-3"), Ok(Start::At(stamp)));
        assert_eq!(read("-3"), Ok(Start::Last(3)));
        assert_eq!(
            read("@1970-01-01T00:00:01Z"),
            Ok(Start::Time(Timestamp::from_millis(1000)))
        );
        for bad in ["", "-", "@", "x", "1.5", "-x", "99999999999999999999999"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
