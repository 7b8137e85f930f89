//! Time as an argument: engines take a [`Clock`], so that a test or a simulation owns it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time, in milliseconds since 1970-01-01T00:00:00Z; negative before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Timestamp(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The system clock, now.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Timestamp(match since {
            Ok(after) => after.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        })
    }

    /// This time plus `by`, saturating.
    pub fn after(self, by: Duration) -> Self {
        Timestamp(
            self.0
                .saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// When a wait of `by` that begins now, at this time, has surely passed. A millisecond that reads as now may be almost over,
    /// so a wait ends in the one after, and never early; no wait ends at once.
    pub fn due(self, by: Duration) -> Self {
        match by.is_zero() {
            true => self,
            false => {
                let millis = by.as_nanos().div_ceil(1_000_000) + 1;
                Timestamp(
                    self.0
                        .saturating_add(i64::try_from(millis).unwrap_or(i64::MAX)),
                )
            }
        }
    }

    /// How long ago `earlier` was; zero when it lies ahead (clocks jump).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Where an engine reads the time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Wall-clock time: stored with records, compared with retention. It may jump.
    fn now(&self) -> Timestamp;

    /// Time that only grows, from an arbitrary start: leases and timeouts.
    fn monotonic(&self) -> Duration;
}

/// The clocks of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time begins now.
    pub fn new() -> Self {
        SystemClock {
            start: std::time::Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_never_over_early_and_no_wait_is_over_at_once() {
        let now = Timestamp::from_millis(100);
        assert_eq!(now.due(Duration::ZERO), now);
        assert_eq!(now.due(Duration::from_millis(5)).as_millis(), 106);
        assert_eq!(now.due(Duration::from_micros(1)).as_millis(), 102);
        assert_eq!(now.due(Duration::MAX).as_millis(), i64::MAX);
    }
}
