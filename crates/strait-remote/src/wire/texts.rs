//! Texts that the contract wants for the life of the program: error codes, operations, names of context pairs, and
//! the wording of offers.

use std::collections::HashSet;
use std::sync::LazyLock;

use parking_lot::Mutex;
use strait_core::codes;

/// Longest text kept.
const LONGEST: usize = 512;
/// Texts kept at most: far more than an engine has, and a bound on what a peer can make us keep (512 KiB).
const MOST: usize = 1024;

static KEPT: LazyLock<Mutex<HashSet<&'static str>>> =
    LazyLock::new(|| Mutex::new(codes::ALL.into_iter().collect()));

/// The text for the life of the program; `None` when it is over the bounds.
pub(super) fn keep(text: &str) -> Option<&'static str> {
    let mut kept = KEPT.lock();
    if let Some(known) = kept.get(text) {
        return Some(known);
    }
    if text.len() > LONGEST || kept.len() >= MOST {
        return None;
    }
    let text: &'static str = Box::leak(text.into());
    kept.insert(text);
    Some(text)
}
