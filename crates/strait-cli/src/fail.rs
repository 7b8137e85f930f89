//! How a command ends: exit codes, and errors as people read them.

use std::fmt::Write as _;

use strait::core::{Effect, Error, Kind, codes};

use crate::out::Paint;

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of the library.
    Error(Error),
    /// The command line cannot be meant like this.
    Usage(String),
    /// Part of the work was refused; each part was reported where it happened.
    Partly,
    /// The command ran and found faults, which it printed.
    Findings,
    /// A signal asked for the end; its number.
    Interrupted(u8),
    /// Whoever read stdout has gone: nothing is left to do, and nothing to say.
    ClosedPipe,
}

pub(crate) type Outcome<T = ()> = std::result::Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

impl Failure {
    /// A usage error.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Failure::Usage(text.into())
    }

    /// The exit code: stable, scripts rely on it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::ClosedPipe => 0,
            Failure::Findings => 1,
            Failure::Usage(_) => 2,
            Failure::Partly => 3,
            Failure::Interrupted(signal) => 128 + signal,
            Failure::Error(error) => error_exit_code(error),
        }
    }

    /// What stands on stderr; `None` when all was said before.
    pub(crate) fn render(&self, paint: Paint) -> Option<String> {
        match self {
            Failure::Error(error) => Some(render_error(error, paint)),
            Failure::Usage(text) => Some(format!("{} {text}\n", paint.red("error[usage]:"))),
            Failure::Partly | Failure::Findings | Failure::Interrupted(_) | Failure::ClosedPipe => {
                None
            }
        }
    }
}

fn error_exit_code(error: &Error) -> u8 {
    match error.kind() {
        Kind::Config => 2,
        // A name or header on the command line that can never be accepted is a usage error.
        Kind::Rejected if error.is(codes::BAD_NAME) || error.is(codes::BAD_HEADER) => 2,
        Kind::NotFound => 4,
        Kind::Conflict => 5,
        Kind::Denied => 6,
        Kind::Busy | Kind::Unavailable | Kind::TimedOut => 7,
        _ => 1,
    }
}

/// `error[kind code]: what` on the first line, context and advice below it.
fn render_error(error: &Error, paint: Paint) -> String {
    let mut text = error_line(error, paint);
    text.push('\n');
    if !error.context().is_empty() {
        let pairs: Vec<String> = error
            .context()
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let _ = writeln!(text, "  {}", pairs.join(", "));
    }
    if error.effect() == Effect::Unknown {
        text.push_str("  it may have happened all the same: look before you repeat it\n");
    }
    let _ = writeln!(text, "  {}", next_line(error));
    text
}

/// What to do about an error, and where more stands.
pub(crate) fn next_line(error: &Error) -> String {
    let explain = format!("strait explain {}", page_of(error));
    match error.advice() {
        Some(advice) => format!("next: {advice}     {explain}"),
        None => format!("next: {explain}"),
    }
}

/// The first line of an error, without its end of line.
pub(crate) fn error_line(error: &Error, paint: Paint) -> String {
    let tag = match error.code_str() {
        Some(code) => format!("error[{} {code}]:", error.kind()),
        None => format!("error[{}]:", error.kind()),
    };
    format!("{} {}", paint.red(&tag), error.message())
}

fn page_of(error: &Error) -> &'static str {
    error.code_str().unwrap_or(error.kind().as_str())
}

/// The name among `known` that was probably meant by `name`.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|other| (strsim::normalized_damerau_levenshtein(name, other), other))
        .filter(|(alike, _)| *alike >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_kind_code_context_and_the_next_command() {
        let error = Error::new(Kind::Busy, "topic `orders` takes no messages")
            .code(codes::DISK_FULL)
            .with("data", "./strait-data")
            .next("strait topic ls");
        let failure = Failure::from(error);
        assert_eq!(
            failure.render(Paint::plain()).unwrap(),
            "error[busy disk_full]: topic `orders` takes no messages\n  data ./strait-data\n  \
             next: strait topic ls     strait explain disk_full\n"
        );
        assert_eq!(failure.exit_code(), 7);
    }

    #[test]
    fn a_near_name_is_offered_and_a_far_one_is_not() {
        let known = ["orders", "payments"];
        assert_eq!(nearest("ordrs", known), Some("orders"));
        assert_eq!(nearest("stock", known), None);
    }
}
