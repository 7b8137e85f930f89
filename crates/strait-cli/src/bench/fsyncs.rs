//! How long the fsyncs of the engine itself take, by its own metric.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use metrics::{Counter, Gauge, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use strait::core::{Error, Kind};

use super::load::{histogram, millis};
use crate::fail::Outcome;

/// As in `docs/metrics.md`.
const FSYNC_SECONDS: &str = "strait_fsync_seconds";

/// The times since the last [`clear`](Fsyncs::clear).
#[derive(Debug, Clone)]
pub(super) struct Fsyncs(Arc<Times>);

#[derive(Debug)]
struct Times(Mutex<Histogram<u64>>);

impl Fsyncs {
    /// Listens from now on. A process can do that once.
    pub(super) fn listen() -> Outcome<Fsyncs> {
        let fsyncs = Fsyncs(Arc::new(Times(Mutex::new(histogram()?))));
        metrics::set_global_recorder(fsyncs.clone())
            .map_err(|error| Error::new(Kind::Unexpected, error.to_string()))?;
        Ok(fsyncs)
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    /// A quantile of the times, in milliseconds.
    pub(super) fn at(&self, quantile: f64) -> f64 {
        millis(&self.0.lock(), quantile)
    }
}

impl Times {
    fn lock(&self) -> MutexGuard<'_, Histogram<u64>> {
        // Counts are whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HistogramFn for Times {
    fn record(&self, seconds: f64) {
        // It grows to any length of time; who records cannot be told of an error.
        let _ = self.lock().record((seconds * 1e9) as u64);
    }
}

impl Recorder for Fsyncs {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        if key.name() == FSYNC_SECONDS {
            metrics::Histogram::from_arc(self.0.clone())
        } else {
            metrics::Histogram::noop()
        }
    }
}
