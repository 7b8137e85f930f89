//! How a handler fails: `?` means try again later; giving up is a word that one must write.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::out::Out;

/// What a handler returns.
pub type Handled<T = ()> = Result<T, Failure>;

/// Longest reason that is kept with a message, in bytes.
const REASON_BYTES: usize = 2048;

/// Why a message was not handled, and what is to become of it. Any error becomes one by `?`: the message is then tried
/// again by the consumer's [`Backoff`](crate::Backoff).
///
/// ```
/// use strait::{Handled, OrFail};
///
/// async fn greet(name: String) -> Handled {
///     let times: u32 = std::env::var("TIMES")?.parse().or_dead()?;    // `?`: again later; `or_dead`: it never gets better
///     println!("{}", name.repeat(times as usize));
///     Ok(())
/// }
/// ```
pub struct Failure {
    pub(crate) end: End,
    pub(crate) error: Box<dyn StdError + Send + Sync>,
}

/// What a failure asks for.
pub(crate) enum End {
    /// Again, by the consumer's backoff.
    Retry,
    /// Again, after this time.
    RetryIn(Duration),
    /// Never again.
    Dead,
    /// Never again, and these effects leave with it.
    DeadWith(Out),
}

impl Failure {
    /// Try again by the consumer's backoff: what `?` makes of an error.
    pub fn retry(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Failure {
            end: End::Retry,
            error: error.into(),
        }
    }

    /// Give up: the message goes to the dead letters with this error.
    pub fn dead(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Failure::retry(error).or_dead()
    }

    fn or_dead(mut self) -> Self {
        self.end = End::Dead;
        self
    }

    /// The same failure for each of `len` messages. Effects cannot be shared: they leave with the first.
    pub(crate) fn spread(self, len: usize) -> Vec<Failure> {
        let text = self.reason();
        let copy = |end: &End| match end {
            End::Retry => End::Retry,
            End::RetryIn(wait) => End::RetryIn(*wait),
            End::Dead | End::DeadWith(_) => End::Dead,
        };
        let mut all: Vec<Failure> = (1..len)
            .map(|_| Failure {
                end: copy(&self.end),
                error: text.clone().into(),
            })
            .collect();
        all.insert(0, self);
        all
    }

    /// The error with its causes, in one line, as it is kept with the message.
    pub fn reason(&self) -> String {
        let mut text = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            // Many errors print their cause themselves.
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = error.source();
        }
        shorten(text)
    }
}

/// Bounds a reason, at a character's border.
pub(crate) fn shorten(mut text: String) -> String {
    if text.len() > REASON_BYTES {
        text.truncate(text.floor_char_boundary(REASON_BYTES));
        text.push_str(" ..");
    }
    text
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match &self.end {
            End::Retry => "retry".to_owned(),
            End::RetryIn(after) => format!("retry in {after:?}"),
            End::Dead => "dead".to_owned(),
            End::DeadWith(_) => "dead, with effects".to_owned(),
        };
        write!(f, "Failure({end}: {})", self.reason())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason())
    }
}

// `Failure` is no `Error` itself: this is what lets every error become one by `?`.
impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::retry(error)
    }
}

/// Says what is to become of the message when this failed; on any `Result` and on `Option`.
pub trait OrFail<T>: Sized {
    /// Give up: the message goes to the dead letters with this error as its reason. Effects do not leave.
    fn or_dead(self) -> Handled<T>;

    /// Give up, and let the effects in `out` leave, in one commit with it.
    fn or_dead_with(self, out: Out) -> Handled<T>;

    /// Try again after `wait`, instead of the consumer's backoff. The attempt counts.
    fn or_retry_in(self, wait: Duration) -> Handled<T>;
}

impl<T, E: Into<Failure>> OrFail<T> for Result<T, E> {
    fn or_dead(self) -> Handled<T> {
        self.map_err(|e| e.into().or_dead())
    }

    fn or_dead_with(self, out: Out) -> Handled<T> {
        self.map_err(|e| Failure {
            end: End::DeadWith(out),
            ..e.into()
        })
    }

    fn or_retry_in(self, wait: Duration) -> Handled<T> {
        self.map_err(|e| Failure {
            end: End::RetryIn(wait),
            ..e.into()
        })
    }
}

impl<T> OrFail<T> for Option<T> {
    fn or_dead(self) -> Handled<T> {
        self.ok_or(NOTHING).or_dead()
    }

    fn or_dead_with(self, out: Out) -> Handled<T> {
        self.ok_or(NOTHING).or_dead_with(out)
    }

    fn or_retry_in(self, wait: Duration) -> Handled<T> {
        self.ok_or(NOTHING).or_retry_in(wait)
    }
}

const NOTHING: &str = "a value was expected and there was none";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_causes_are_kept() {
        let failure = Err::<(), _>("no such sku").or_dead().unwrap_err();
        assert!(matches!(failure.end, End::Dead));
        let again = Err::<(), _>(failure)
            .or_retry_in(Duration::from_secs(1))
            .unwrap_err();
        assert!(matches!(again.end, End::RetryIn(_)));
        assert_eq!(again.reason(), "no such sku");
        assert!(matches!(None::<u8>.or_dead().unwrap_err().end, End::Dead));

        let inner = std::io::Error::other("card service is down");
        let outer =
            strait_core::Error::new(strait_core::Kind::Unavailable, "no charge").caused_by(inner);
        assert_eq!(
            Failure::from(outer).reason(),
            "no charge: card service is down"
        );
        assert!(Failure::from("é".repeat(5000)).reason().len() < 2100);
    }
}
