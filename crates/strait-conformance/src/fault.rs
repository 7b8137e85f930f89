//! How a case ends when it does not pass.

use std::fmt;
use std::panic::Location;

use strait_core::Error;

/// The end of a case.
pub type Check<T = ()> = Result<T, Fault>;

/// Why a case did not pass: a broken promise, an unexpected error, or a case that could not be shown here.
pub struct Fault {
    text: String,
    skipped: bool,
}

impl Fault {
    /// A broken promise, with the place in the suite that asks for it.
    #[track_caller]
    pub fn new(text: impl fmt::Display) -> Self {
        Fault {
            text: format!("{text}\n  asked for at {}", Location::caller()),
            skipped: false,
        }
    }

    /// The engine is free to behave so that the promise cannot be shown: counted as ignored, with the reason.
    pub fn skip(text: impl fmt::Display) -> Self {
        Fault {
            text: text.to_string(),
            skipped: true,
        }
    }

    /// True when the case could not be shown, rather than failed.
    pub fn is_skip(&self) -> bool {
        self.skipped
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Error> for Fault {
    #[track_caller]
    fn from(error: Error) -> Self {
        Fault::new(format!("the engine answered {error:?}"))
    }
}

/// Ends the case unless the condition holds.
macro_rules! check {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err($crate::fault::Fault::new(format!($($text)+)));
        }
    };
}

/// Ends the case unless both are equal; the text says what they are.
macro_rules! check_eq {
    ($found:expr, $wanted:expr, $($text:tt)+) => {{
        let (found, wanted) = (&$found, &$wanted);
        if found != wanted {
            return Err($crate::fault::Fault::new(format!(
                "{}: found {found:?}, wanted {wanted:?}",
                format!($($text)+)
            )));
        }
    }};
}

/// Ends the case unless the result is an error of one of the kinds; gives the error.
macro_rules! check_refused {
    ($result:expr, $($kind:ident)|+, $($text:tt)+) => {
        match $result {
            Err(error) if matches!(error.kind(), $(strait_core::Kind::$kind)|+) => error,
            Err(error) => {
                let wanted = stringify!($($kind)|+);
                let text = format!($($text)+);
                return Err($crate::fault::Fault::new(format!("{text}: wanted {wanted}, the engine answered {error:?}")));
            }
            Ok(_) => {
                let wanted = stringify!($($kind)|+);
                let text = format!($($text)+);
                return Err($crate::fault::Fault::new(format!("{text}: wanted {wanted}, it was accepted")));
            }
        }
    };
}
