//! How far the files of segments are filled.

use super::Pool;
use crate::disk::LogPos;

/// Bytes of segment files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fill {
    /// Up to the end of the log, and in cleaned segments.
    pub(crate) held: u64,
    /// What comes next fills these: behind the end of the log, in spare segments, and in files that are kept to be recycled.
    pub(crate) spare: u64,
}

impl Pool {
    /// How the segments are filled, with the log ending at `end`.
    pub(crate) fn fill(&self, end: LogPos) -> Fill {
        let state = self.state.lock();
        let active = state.used.get(&state.active).map_or(0, |used| used.len);
        let is_there = end.segment == state.active;
        let rest = active.saturating_sub(if is_there { end.offset } else { 0 });
        let used: u64 = state.used.values().map(|used| used.len).sum();
        let spares = state.spares.values().map(|ready| ready.header.len);
        let zeroing = state.zeroing.iter().map(|zeroing| zeroing.len);
        let freed = state.freed.iter().map(|file| file.len);
        Fill {
            held: used - rest,
            spare: rest + spares.chain(zeroing).chain(freed).sum::<u64>(),
        }
    }
}
