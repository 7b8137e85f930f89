//! Names of topics and groups.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::error::{Error, Kind, Result, codes};

/// The name of a topic or a consumer group: 1 to 249 of `A-Z a-z 0-9 . _ -`, not `.` or `..`.
///
/// The rule is Kafka's for topics, so that every name can exist on every engine.
///
/// ```
/// use strait_core::Name;
/// let name: Name = "orders.eu".parse()?;
/// assert_eq!(&*name, "orders.eu");
/// assert!("no spaces".parse::<Name>().is_err());
/// # Ok::<(), strait_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name, in bytes.
    pub const MAX: usize = 249;

    /// Checks `text` and makes a name of it; otherwise `Rejected` with code `bad_name`.
    pub fn new(text: &str) -> Result<Self> {
        let fault = if text.is_empty() {
            "it is empty"
        } else if text.len() > Self::MAX {
            "it is longer than 249 bytes"
        } else if text == "." || text == ".." {
            "`.` and `..` are not allowed"
        } else if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        {
            "allowed are A-Z a-z 0-9 . _ -"
        } else {
            return Ok(Name(text.into()));
        };
        let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
        Err(
            Error::new(Kind::Rejected, format!("`{shown}` is not a name: {fault}"))
                .code(codes::BAD_NAME)
                .next("choose a name such as `orders` or `orders.eu`"),
        )
    }

    /// The shared text, without a copy.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Name {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Name::new(text)
    }
}

impl TryFrom<&str> for Name {
    type Error = Error;
    fn try_from(text: &str) -> Result<Self> {
        Name::new(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_refused_with_the_reason() {
        for bad in [
            "",
            ".",
            "..",
            "a b",
            "a/b",
            "ümlaut",
            "a\r\nb",
            &"x".repeat(250),
        ] {
            let error = Name::new(bad).unwrap_err();
            assert!(error.is(codes::BAD_NAME), "{bad:?}: {error:?}");
        }
        assert!(Name::new(&"x".repeat(249)).is_ok());
    }
}
