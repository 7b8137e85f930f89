//! Several engines in one [`Strait`], and which topics live where.

use std::fmt;

use strait_core::{Error, Kind, Name, Result};

use crate::open::Strait;

/// Which topics: one by name, or all whose names begin with a text (`metrics.*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exactly(Name),
    Begins(String),
}

impl Pattern {
    /// Reads `orders` or `metrics.*`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match text.strip_suffix('*') {
            None => Name::new(text).map(Pattern::Exactly),
            Some("") => Err(Error::new(
                Kind::Config,
                "`*` would be every topic: the engine for all others is `url`",
            )),
            // What a name may hold, a beginning of one may hold.
            Some(begin) => Name::new(begin).map(|_| Pattern::Begins(begin.to_owned())),
        }
    }

    fn fits(&self, topic: &str) -> bool {
        match self {
            Pattern::Exactly(name) => &**name == topic,
            Pattern::Begins(begin) => topic.starts_with(begin.as_str()),
        }
    }

    /// How much of a name it says: of two that fit, the longer one decides, and a whole name before any beginning.
    fn weight(&self) -> usize {
        match self {
            Pattern::Exactly(_) => usize::MAX,
            Pattern::Begins(begin) => begin.len(),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exactly(name) => write!(f, "{name}"),
            Pattern::Begins(begin) => write!(f, "{begin}*"),
        }
    }
}

/// Engines beside the first, and the topics that live there.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// By the names that the configuration gives them.
    pub(crate) engines: Vec<(String, Strait)>,
    /// Topics, with the index of their engine.
    pub(crate) topics: Vec<(Pattern, usize)>,
}

impl Places {
    /// The engine of a topic; `None`: the first.
    pub(crate) fn of(&self, topic: &str) -> Option<&Strait> {
        let fitting = self
            .topics
            .iter()
            .filter(|(pattern, _)| pattern.fits(topic));
        let (_, index) = fitting.max_by_key(|(pattern, _)| pattern.weight())?;
        self.engines.get(*index).map(|(_, strait)| strait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_that_fits_decides() {
        let strait = || Strait::memory().unwrap();
        let names = ["broker", "cache"].map(|name| (name.to_owned(), strait()));
        let topics = [
            ("metrics.*", 0),
            ("metrics.hot.*", 1),
            ("metrics.hot.cpu", 0),
            ("orders", 1),
        ];
        let topics = topics.map(|(text, index)| (Pattern::parse(text).unwrap(), index));
        let places = Places {
            engines: names.into(),
            topics: topics.into(),
        };
        let of = |topic| {
            let found = places.of(topic)?.engine().id();
            places
                .engines
                .iter()
                .position(|(_, strait)| strait.engine().id() == found)
        };
        assert_eq!(of("metrics.disk"), Some(0));
        assert_eq!(of("metrics.hot.disk"), Some(1));
        assert_eq!(of("metrics.hot.cpu"), Some(0));
        assert_eq!(of("orders"), Some(1));
        assert_eq!(of("orders.eu"), None);
        assert_eq!(of("metrics"), None);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["", "*", "a*b", "a b", "a b*"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        for good in ["orders", "orders.*", "o*"] {
            assert_eq!(Pattern::parse(good).unwrap().to_string(), good);
        }
    }
}
