//! How much the directory holds, how fast that grows, and when the disk will be full.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use strait_core::{Growth, Storage};

use crate::disk::pool::Fill;
use crate::shared::Shared;

/// Between two samples.
const EVERY: Duration = Duration::from_secs(10);
/// How far back they go, at most.
const WINDOW: Duration = Duration::from_secs(6 * 3600);
/// With less than this behind it, nothing is said.
const LEAST: Duration = Duration::from_secs(60);
/// A forecast reaches so many times as far as the half that it rests on is long.
const FAR: u32 = 400;
/// A burst counts only if it fills the disk soon: what rests on a part of the history reaches less far.
const NEAR: u32 = 12;
/// Each part of the history that is looked at is so much shorter than the one before.
const SHORTER: u32 = 4;

/// Measures the storage now, and keeps what it saw.
pub(crate) fn measure(shared: &Shared) -> io::Result<Storage> {
    let now = shared.clock.now().monotonic;
    let used = shared.disk.used_bytes()?;
    let free = shared.disk.free_bytes()?;
    let end = shared.chores.lock().durable;
    let Fill { held, spare } = shared.pool.fill(end);
    let (growth, full_in) = {
        let mut history = shared.history.lock();
        history.observe(now, held);
        history.forecast(now, held, free.saturating_add(spare))
    };
    let is_full = !shared.pool.has_room();
    Ok(Storage {
        used,
        spare,
        free,
        growth,
        full_in: if is_full {
            Some(Duration::ZERO)
        } else {
            full_in
        },
    })
}

/// What was stored in the last hours: a sample every 10 s at most, some 2,000 of them.
///
/// Growth is the change of the highest level between two halves of a time: retention makes the level go up and down, and
/// a disk is filled by its heights. The time is all that is known; and parts of it that end now, each a quarter of the one
/// before, so that a disk that fills up fast is seen soon.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    held: u64,
}

impl History {
    /// Keeps a sample, when it is time for one. `now` is of a clock that never goes back.
    fn observe(&mut self, now: Duration, held: u64) {
        if let Some(last) = self.samples.back().copied() {
            let gap = now.saturating_sub(last.at);
            if gap < EVERY {
                return;
            }
            if gap > EVERY * 2 {
                // Nobody looked, as nothing changed.
                let at = now - EVERY;
                self.samples.push_back(Sample { at, ..last });
            }
        }
        self.samples.push_back(Sample { at: now, held });
        // The level at the beginning of the window is that of the last sample before it.
        while self.samples.get(1).is_some_and(|s| s.at + WINDOW <= now) {
            self.samples.pop_front();
        }
    }

    /// How fast `held` grows, and when that uses up `room`: by the growth that does it first.
    fn forecast(&self, now: Duration, held: u64, room: u64) -> (Option<Growth>, Option<Duration>) {
        let first = self.samples.front().map_or(now, |sample| sample.at);
        let known = now.saturating_sub(first).min(WINDOW);
        if known < LEAST {
            return (None, None);
        }
        let mut half = known / 2;
        let mut growth = self.growth(now, held, half);
        let mut full_in = until_full(growth, room, half * FAR);
        loop {
            half /= SHORTER;
            if half < LEAST / 2 {
                return (growth, full_in);
            }
            let faster = self.growth(now, held, half);
            let soon = until_full(faster, room, half * NEAR);
            if soon.is_some_and(|soon| full_in.is_none_or(|full| soon < full)) {
                (growth, full_in) = (faster, soon);
            }
        }
    }

    /// From the half before the last one to the last one.
    fn growth(&self, now: Duration, held: u64, half: Duration) -> Option<Growth> {
        let since = |time: Duration| self.samples.partition_point(|s| s.at + time <= now);
        // Both halves begin with the level that they found.
        let (begin, turn) = (since(half * 2).saturating_sub(1), since(half));
        let over = now.saturating_sub(self.samples.get(turn.checked_sub(1)?)?.at);
        let levels = |from, to| self.samples.range(from..to).map(|sample| sample.held);
        let before = levels(begin, turn).max()?;
        let after = levels(turn, self.samples.len())
            .max()
            .unwrap_or(0)
            .max(held);
        let change = i128::from(after) - i128::from(before);
        let per_second = change * 1_000 / (over.as_millis() as i128).max(1);
        Some(Growth {
            // A change of 64 bits in less than a second is none that a disk can make.
            per_second: i64::try_from(per_second).unwrap_or(i64::MAX),
            over,
        })
    }
}

fn until_full(growth: Option<Growth>, room: u64, horizon: Duration) -> Option<Duration> {
    let per_second = u64::try_from(growth?.per_second).ok()?;
    let full = Duration::from_secs(room.checked_div(per_second)?);
    (full <= horizon).then_some(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Looked at every second from the first to the last, as the level was then.
    fn seen(seconds: std::ops::RangeInclusive<u64>, level: impl Fn(u64) -> u64) -> History {
        let mut history = History::default();
        seconds.for_each(|second| history.observe(secs(second), level(second)));
        history
    }

    #[test]
    fn a_steady_growth_is_told_to_the_second() {
        let level = |second| 5 * GIB + second * 1_000;
        let history = seen(1_000..=1_000 + 3_600, level);
        let (growth, full) = history.forecast(secs(4_600), level(4_600), 80_000_000);
        let growth = growth.unwrap();
        assert_eq!(growth.per_second, 1_000);
        assert_eq!(growth.over, secs(1_800));
        assert_eq!(full, Some(secs(80_000)));
    }

    #[test]
    fn nothing_is_said_after_less_than_a_minute() {
        let history = seen(0..=59, |second| second * GIB);
        assert_eq!(history.forecast(secs(59), 59 * GIB, GIB), (None, None));
        let history = seen(0..=60, |second| second * GIB);
        assert!(history.forecast(secs(60), 60 * GIB, GIB).1.is_some());
    }

    #[test]
    fn what_shrinks_or_stays_is_never_full() {
        for level in [|_| GIB, |second| 10 * GIB - second * 1_000] {
            let history = seen(0..=20_000, level);
            let (growth, full) = history.forecast(secs(20_000), level(20_000), 1_000);
            assert!(growth.unwrap().per_second <= 0, "{growth:?}");
            assert_eq!(full, None);
        }
    }

    /// Retention gives back what came in the last quarter of an hour, all at once.
    #[test]
    fn a_level_that_retention_holds_does_not_grow() {
        let level = |second: u64| GIB + second % 900 * 1_000_000;
        let history = seen(0..=40_000, level);
        for now in 40_000..40_000 + 900 {
            let (_, full) = history.forecast(secs(now), level(now), 80 * GIB);
            assert_eq!(full, None, "at {now}");
        }
        // With little room a wave alone would fill it up.
        assert!(
            history
                .forecast(secs(40_000), level(40_000), GIB / 4)
                .1
                .is_some()
        );
    }

    /// 10 MB/s for two minutes after hours of rest.
    #[test]
    fn a_burst_counts_only_if_it_fills_the_disk_soon() {
        let level = |second: u64| GIB + second.saturating_sub(20_000) * 10_000_000;
        let history = seen(0..=20_120, level);
        let at = |room| history.forecast(secs(20_120), level(20_120), room);
        let (growth, full) = at(3_000_000_000);
        assert_eq!(full, Some(secs(300)), "{growth:?}");
        // By all that is known it is further away.
        let (growth, full) = at(80 * GIB);
        assert!(full.is_none_or(|full| full > secs(24 * 3_600)), "{full:?}");
        assert!(growth.unwrap().per_second < 1_000_000, "{growth:?}");
    }

    /// An engine at rest is not looked at; a growth after that began when it ended.
    #[test]
    fn time_that_nobody_looked_at_is_rest() {
        let mut history = seen(0..=10, |_| GIB);
        let level = |second: u64| GIB + (second - 9_000) * 1_000_000;
        (9_005..=9_090).for_each(|second| history.observe(secs(second), level(second)));
        let (growth, full) = history.forecast(secs(9_090), level(9_090), 100_000_000);
        assert_eq!(full, Some(secs(100)), "{growth:?}");
        // And the rest after it ends the growth.
        let (growth, full) = history.forecast(secs(20_000), level(9_090), 100_000_000);
        assert!(growth.unwrap().per_second < 10_000, "{growth:?}");
        assert!(full.is_none_or(|full| full > secs(10_000)), "{full:?}");
    }

    #[test]
    fn what_was_deleted_is_filled_up_again_and_that_is_seen() {
        let level = |second: u64| match second {
            ..10_000 => 10 * GIB,
            _ => GIB + (second - 10_000) * 1_000_000,
        };
        let history = seen(0..=11_500, level);
        let (_, full) = history.forecast(secs(11_500), level(11_500), GIB);
        assert_eq!(full, Some(secs(GIB / 1_000_000)));
    }

    #[test]
    fn memory_is_bounded_and_a_clock_that_stands_still_is_no_harm() {
        let history = seen(0..=200_000, |second| second);
        assert!(history.samples.len() <= 2_165, "{}", history.samples.len());
        let mut history = History::default();
        (0..100).for_each(|level| history.observe(secs(5), level));
        history.observe(secs(3), 7);
        assert_eq!(history.samples.len(), 1);
        assert_eq!(history.forecast(secs(3), 7, GIB), (None, None));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let history = seen(0..=120, |second| if second <= 60 { 0 } else { u64::MAX });
        let (growth, full) = history.forecast(secs(120), u64::MAX, u64::MAX);
        assert!(
            growth.unwrap().per_second > 0 && full.is_some(),
            "{growth:?}"
        );
        assert_eq!(history.forecast(secs(120), u64::MAX, 0).1, Some(secs(0)));
    }
}
