//! What a run did, in words: the last lines for whoever reads a failure, a hash of all of them for whoever replays it.

use std::cell::RefCell;
use std::collections::VecDeque;

/// Lines that a failure shows.
const SHOWN: usize = 60;

#[derive(Default)]
struct Trace {
    last: VecDeque<String>,
    hash: u64,
    /// Print every line at once.
    loud: bool,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Starts the trace of a run on this thread.
pub(crate) fn begin(loud: bool) {
    TRACE.with_borrow_mut(|trace| {
        *trace = Trace {
            loud,
            hash: 0xcbf2_9ce4_8422_2325,
            ..Trace::default()
        }
    });
}

/// Adds a line.
pub(crate) fn add(line: String) {
    TRACE.with_borrow_mut(|trace| {
        for byte in line.bytes().chain([b'\n']) {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if trace.loud {
            eprintln!("{line}");
        }
        trace.last.push_back(line);
        if trace.last.len() > SHOWN {
            trace.last.pop_front();
        }
    });
}

/// The hash (FNV-1a) of all lines so far.
pub(crate) fn hash() -> u64 {
    TRACE.with_borrow(|trace| trace.hash)
}

/// The last lines, one under the other.
pub(crate) fn last() -> String {
    TRACE.with_borrow(|trace| {
        trace
            .last
            .iter()
            .map(|line| format!("  {line}\n"))
            .collect()
    })
}

/// Adds a line to the trace of the run.
macro_rules! note {
    ($($text:tt)*) => { crate::trace::add(format!($($text)*)) };
}
pub(crate) use note;
