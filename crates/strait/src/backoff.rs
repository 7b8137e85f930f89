//! When a failed message is tried again, and when it is given up.

use std::time::Duration;

use strait_core::Timestamp;

/// How long a message waits before its next attempt, and after how many attempts or how long it is given up. While it
/// waits it is parked in the engine, durably: it blocks nobody but later messages of its key.
///
/// ```
/// use strait::{Backoff, minutes, secs, hours};
///
/// let gentle = Backoff::exponential(secs(1))   // 1 s, 2 s, 4 s .., each shortened by up to a half at random
///     .cap(minutes(5))
///     .up_to(8)                                // the 8th failure goes to the dead letters
///     .for_at_most(hours(24));                 // and so does a failure of what is older than a day
/// let strict = Backoff::fixed(secs(10)).up_to(3);
/// # let _ = (gentle, strict);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    first: Duration,
    doubling: bool,
    cap: Duration,
    jitter: bool,
    attempts: u32,
    age: Option<Duration>,
}

impl Default for Backoff {
    /// Exponential from one second, capped at 10 minutes, with jitter, 8 attempts.
    fn default() -> Self {
        Backoff::exponential(Duration::from_secs(1))
    }
}

impl Backoff {
    /// Doubles from `first` on, up to 10 minutes, with jitter; 8 attempts.
    pub const fn exponential(first: Duration) -> Self {
        Backoff {
            first,
            doubling: true,
            cap: Duration::from_secs(600),
            jitter: true,
            attempts: 8,
            age: None,
        }
    }

    /// Always the same wait, without jitter; 8 attempts.
    pub const fn fixed(wait: Duration) -> Self {
        Backoff {
            first: wait,
            doubling: false,
            cap: Duration::MAX,
            jitter: false,
            attempts: 8,
            age: None,
        }
    }

    /// The longest wait.
    pub const fn cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// Whether each wait is shortened by a random part, up to a half, so that what failed together does not come back
    /// together.
    pub const fn jitter(mut self, jitter: bool) -> Self {
        self.jitter = jitter;
        self
    }

    /// The number of attempts after which a message goes to the dead letters; 0 counts as 1.
    pub const fn up_to(mut self, attempts: u32) -> Self {
        self.attempts = if attempts == 0 { 1 } else { attempts };
        self
    }

    /// A message that fails when it is older than this, counted from when it was appended, goes to the dead letters.
    pub const fn for_at_most(mut self, age: Duration) -> Self {
        self.age = Some(age);
        self
    }

    /// The number of attempts.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long to wait after attempt number `attempt` failed (1 is the first).
    pub fn wait(&self, attempt: u32) -> Duration {
        let doublings = if self.doubling {
            attempt.saturating_sub(1).min(63)
        } else {
            0
        };
        let millis = u64::try_from(self.first.as_millis()).unwrap_or(u64::MAX);
        let grown = millis.saturating_mul(1 << doublings);
        let cap = u64::try_from(self.cap.as_millis()).unwrap_or(u64::MAX);
        let millis = grown.min(cap);
        Duration::from_millis(if self.jitter {
            millis - fastrand::u64(0..=millis / 2)
        } else {
            millis
        })
    }

    /// Whether a message appended at `appended` is too old to be tried again.
    pub(crate) fn too_old(&self, appended: Timestamp, now: Timestamp) -> Option<Duration> {
        self.age.filter(|age| now.since(appended) > *age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap() {
        let second = Duration::from_secs(1);
        let plain = Backoff::exponential(second)
            .jitter(false)
            .cap(Duration::from_secs(5));
        let waits: Vec<_> = (1..=5)
            .map(|attempt| plain.wait(attempt).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(plain.wait(u32::MAX).as_secs(), 5);
        assert_eq!(Backoff::fixed(second).wait(7), second);
        for attempt in 1..100 {
            let wait = Backoff::exponential(second).wait(attempt).as_millis();
            let full = (1000_u128 << (attempt - 1).min(30)).min(600_000);
            assert!(wait >= full / 2 && wait <= full, "{attempt}: {wait}");
        }
        let age = Backoff::default().for_at_most(second);
        let then = Timestamp::from_millis(0);
        assert!(age.too_old(then, Timestamp::from_millis(1001)).is_some());
        assert!(age.too_old(then, Timestamp::from_millis(1000)).is_none());
    }
}
