//! W3C trace context: carried from message to handler to effect, and through retries.

use std::fmt;
use std::str::FromStr;

/// A `traceparent` of [W3C Trace Context](https://www.w3.org/TR/trace-context/), version 00.
///
/// A handling continues the trace of its message with a span id of its own, and its effects name that span as their
/// parent. A retried message keeps its trace: each attempt is another span in it.
///
/// ```
/// use strait::TraceContext;
/// let parent: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
/// let child = parent.child();
/// assert_eq!(child.trace_id(), parent.trace_id());
/// assert_ne!(child.span_id(), parent.span_id());
/// # Ok::<(), strait::BadTraceparent>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
}

/// The text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadTraceparent;

impl fmt::Display for BadTraceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a W3C traceparent (00-<32 hex>-<16 hex>-<2 hex>, ids not zero)")
    }
}

impl std::error::Error for BadTraceparent {}

impl TraceContext {
    /// A new trace with a new span, sampled.
    pub fn start() -> Self {
        TraceContext {
            trace: fastrand::u128(1..),
            span: fastrand::u64(1..),
            flags: 1,
        }
    }

    /// The same trace with a new span.
    pub fn child(self) -> Self {
        TraceContext {
            span: fastrand::u64(1..),
            ..self
        }
    }

    /// The trace id.
    pub fn trace_id(self) -> u128 {
        self.trace
    }

    /// The span id.
    pub fn span_id(self) -> u64 {
        self.span
    }

    /// Whether the sender records the trace (flag `sampled`).
    pub fn sampled(self) -> bool {
        self.flags & 1 == 1
    }
}

impl FromStr for TraceContext {
    type Err = BadTraceparent;

    fn from_str(text: &str) -> Result<Self, BadTraceparent> {
        let bytes = text.as_bytes();
        let dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        // Later versions may append fields after another dash; version 00 may not, and ff is forbidden.
        let length = match bytes.get(..2) {
            Some(b"00") => bytes.len() == 55,
            Some(b"ff") => false,
            _ => bytes.len() == 55 || bytes.get(55) == Some(&b'-'),
        };
        if !dashes || !length {
            return Err(BadTraceparent);
        }
        hex(&bytes[..2])?;
        let trace = TraceContext {
            trace: hex(&bytes[3..35])?,
            span: hex(&bytes[36..52])? as u64,
            flags: hex(&bytes[53..55])? as u8,
        };
        if trace.trace == 0 || trace.span == 0 {
            return Err(BadTraceparent);
        }
        Ok(trace)
    }
}

/// Lower-case hexadecimal only, as the standard asks.
fn hex(digits: &[u8]) -> Result<u128, BadTraceparent> {
    digits.iter().try_fold(0, |value, digit| match digit {
        b'0'..=b'9' => Ok(value << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Ok(value << 4 | u128::from(digit - b'a' + 10)),
        _ => Err(BadTraceparent),
    })
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace, self.span, self.flags
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_examples() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace: TraceContext = text.parse().unwrap();
        assert_eq!(trace.to_string(), text);
        assert!(trace.sampled());
        assert!(
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"
                .parse::<TraceContext>()
                .is_ok()
        );
        for bad in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-é",
        ] {
            assert!(bad.parse::<TraceContext>().is_err(), "{bad}");
        }
    }
}
