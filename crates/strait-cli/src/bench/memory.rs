//! What the process has in memory.

/// Resident bytes of this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory(pub(super) u64);

/// `None` where the system does not say it under `/proc`.
pub(super) fn resident() -> Option<Memory> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(Memory(kib * 1024))
}
