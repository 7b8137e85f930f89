//! What the engine counts and shows, by the names that docs/metrics.md promises. A process has one recorder, so that this
//! is a program of its own.

// What a test cannot unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use strait_core::events::{Append, Expected, GroupSpec, TopicSpec};
use strait_core::{Engine, NewRecord, Records};
use strait_embedded::{Embedded, Options};

/// A wait that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// Values by name and labels; histograms count their samples.
#[derive(Default)]
struct Values {
    by_name: Mutex<BTreeMap<String, f64>>,
    changed: Condvar,
}

impl Values {
    fn change(&self, name: &str, change: impl FnOnce(&mut f64)) {
        change(
            self.by_name
                .lock()
                .unwrap()
                .entry(name.to_owned())
                .or_default(),
        );
        self.changed.notify_all();
    }

    /// Waits until these values are shown.
    fn wait_for(&self, wanted: &[(&str, f64)]) {
        let values = self.by_name.lock().unwrap();
        let is_missing = |values: &mut BTreeMap<String, f64>| {
            wanted
                .iter()
                .any(|(name, value)| values.get(*name) != Some(value))
        };
        let (values, wait) = self
            .changed
            .wait_timeout_while(values, LIMIT, is_missing)
            .unwrap();
        assert!(!wait.timed_out(), "{wanted:?} never came: {values:?}");
    }

    /// Waits until it is greater than 0, and gives it.
    fn wait_for_some(&self, name: &str) -> f64 {
        let values = self.by_name.lock().unwrap();
        let is_missing =
            |values: &mut BTreeMap<String, f64>| values.get(name).is_none_or(|value| *value <= 0.0);
        let (values, wait) = self
            .changed
            .wait_timeout_while(values, LIMIT, is_missing)
            .unwrap();
        assert!(!wait.timed_out(), "{name} never came: {values:?}");
        values[name]
    }
}

struct Cell(Arc<Values>, String);

impl metrics::CounterFn for Cell {
    fn increment(&self, by: u64) {
        self.0.change(&self.1, |value| *value += by as f64);
    }
    fn absolute(&self, to: u64) {
        self.0.change(&self.1, |value| *value = to as f64);
    }
}

impl metrics::GaugeFn for Cell {
    fn increment(&self, by: f64) {
        self.0.change(&self.1, |value| *value += by);
    }
    fn decrement(&self, by: f64) {
        self.0.change(&self.1, |value| *value -= by);
    }
    fn set(&self, to: f64) {
        self.0.change(&self.1, |value| *value = to);
    }
}

impl metrics::HistogramFn for Cell {
    fn record(&self, _: f64) {
        self.0.change(&self.1, |value| *value += 1.0);
    }
}

struct Recording(Arc<Values>);

impl Recording {
    fn cell(&self, key: &Key) -> Arc<Cell> {
        let mut name = key.name().to_owned();
        for label in key.labels() {
            write!(name, " {}={}", label.key(), label.value()).unwrap();
        }
        Arc::new(Cell(self.0.clone(), name))
    }
}

impl Recorder for Recording {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.cell(key))
    }
}

#[test]
fn groups_and_topics_show_how_they_stand_and_what_is_gone_shows_nothing() {
    let values = Arc::new(Values::default());
    assert!(metrics::set_global_recorder(Recording(values.clone())).is_ok());
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        // Every change is due for a checkpoint.
        checkpoint_records: 1,
        ..Options::default()
    };
    let engine = Embedded::open(dir.path().join("data"), options).unwrap();
    let events = engine.lanes().events.unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (topic, group) = ("orders".parse().unwrap(), "billing".parse().unwrap());
    runtime.block_on(async {
        let spec = TopicSpec::new("orders".parse().unwrap()).partitions(1);
        events.declare(spec).await.unwrap();
        let spec = GroupSpec::new("billing".parse().unwrap(), "orders".parse().unwrap());
        drop(events.join(spec).await.unwrap());
        for _ in 0..3 {
            let record = NewRecord {
                body: b"42",
                ..NewRecord::default()
            };
            let append = Append {
                topic: "orders".parse().unwrap(),
                partition: 0,
                records: Records::one(&[], record).unwrap(),
                expected: Expected::Any,
                dedupe: false,
            };
            events.append(append).await.unwrap();
        }
    });
    values.wait_for(&[
        ("strait_topic_messages topic=orders", 3.0),
        ("strait_group_lag topic=orders group=billing", 3.0),
        ("strait_group_parked topic=orders group=billing", 0.0),
        ("strait_group_in_flight topic=orders group=billing", 0.0),
        ("strait_group_held_keys topic=orders group=billing", 0.0),
        ("strait_group_dead_letters topic=orders group=billing", 0.0),
    ]);
    let oldest =
        values.wait_for_some("strait_group_oldest_timestamp_seconds topic=orders group=billing");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!(
        oldest > 1e9 && oldest <= now.as_secs_f64() + 1.0,
        "{oldest}"
    );
    for name in [
        "strait_topic_bytes topic=orders",
        "strait_log_bytes",
        "strait_log_segments",
        "strait_storage_used_bytes",
        "strait_storage_free_bytes",
        "strait_log_written_bytes_total",
        "strait_fsync_seconds",
        "strait_checkpoint_seconds",
    ] {
        values.wait_for_some(name);
    }

    runtime.block_on(async {
        events.delete_group(group, topic).await.unwrap();
        events.delete("orders".parse().unwrap()).await.unwrap();
    });
    values.wait_for(&[
        ("strait_topic_messages topic=orders", 0.0),
        ("strait_group_lag topic=orders group=billing", 0.0),
        (
            "strait_group_oldest_timestamp_seconds topic=orders group=billing",
            0.0,
        ),
    ]);
}
