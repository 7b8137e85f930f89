//! Metrics and spans, by the names that are promised.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use strait::metrics as names;
use strait::{Attempt, Backoff, Handled, Out, State, Topic, TraceContext};
use tracing::span::{Attributes, Id, Record};

use crate::support::*;

/// Counters by name and labels; histograms count their samples.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Counts {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let mut name = key.name().to_owned();
        for label in key.labels() {
            write!(name, " {}={}", label.key(), label.value()).unwrap();
        }
        self.0.lock().unwrap().entry(name).or_default().clone()
    }

    fn get(&self, name: &str) -> u64 {
        let counts = self.0.lock().unwrap();
        let cell = counts.get(name);
        cell.unwrap_or_else(|| panic!("no {name} in {:?}", counts.keys()))
            .load(std::sync::atomic::Ordering::SeqCst)
    }
}

struct Samples(Arc<AtomicU64>);

impl metrics::HistogramFn for Samples {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Samples(self.cell(key))))
    }
}

/// The fields of every `strait.handle` span.
#[derive(Default, Clone)]
struct Spans(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        self.0
            .insert(field.name().to_owned(), text.trim_matches('"').to_owned());
    }
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.name() == "strait.handle"
    }
    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut spans = self.0.lock().unwrap();
        let mut fields = BTreeMap::new();
        attributes.record(&mut Fields(&mut fields));
        spans.push(fields);
        Id::from_u64(spans.len() as u64)
    }
    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut spans = self.0.lock().unwrap();
        values.record(&mut Fields(&mut spans[span.into_u64() as usize - 1]));
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

async fn bill(placed: Order, attempt: Attempt, copies: State<Topic<Order>>, out: Out) -> Handled {
    match placed.number {
        1 if attempt.0 == 1 => Err("not yet")?,
        2 => panic!("cursed"),
        _ => out.append(&copies, &placed)?,
    }
    Ok(())
}

#[test]
fn what_happens_is_counted_and_traced() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (counts, spans) = (Counts::default(), Spans::default());
    let trace = TraceContext::start();
    let run = async {
        let strait = memory();
        let orders = orders(&strait, 1).await;
        let copies = strait.events().topic::<Order>("copies").await.unwrap();
        for number in 1..=3 {
            let message = order(&number.to_string(), number);
            orders
                .append(&message)
                .id(format!("o-{number}"))
                .trace(trace)
                .await
                .unwrap();
        }
        let group = orders.group("billing");
        let backoff = Backoff::fixed(Duration::from_millis(2)).up_to(2);
        let consume = group.each(bill).retry(backoff);
        let mut app = strait
            .app()
            .state(copies)
            .serve(consume)
            .start()
            .await
            .unwrap();
        settled(&group).await;
        app.stop().await.unwrap();
    };
    tracing::subscriber::with_default(spans.clone(), || {
        metrics::with_local_recorder(&counts, || runtime.block_on(run));
    });

    assert_eq!(counts.get("strait_messages_appended_total topic=orders"), 3);
    let of = |name: &str| counts.get(&format!("{name} topic=orders group=billing"));
    let handled = |verdict: &str| {
        counts.get(&format!(
            "{} topic=orders group=billing verdict={verdict}",
            names::HANDLED
        ))
    };
    assert_eq!(
        [handled("done"), handled("retry"), handled("dead")],
        [2, 2, 1]
    );
    assert_eq!(
        [
            of(names::PANICS),
            of(names::EFFECTS),
            of(names::HANDLER_SECONDS)
        ],
        [2, 2, 5]
    );
    assert_eq!(
        [
            of(names::FENCED),
            of(names::UNDECODABLE),
            of(names::LEASES_LOST)
        ],
        [0; 3]
    );
    assert!(of(names::COMMIT_SECONDS) > 0);

    let spans = spans.0.lock().unwrap();
    assert_eq!(spans.len(), 5);
    let first = &spans[0];
    for (field, value) in [
        ("messaging.system", "strait"),
        ("messaging.operation.name", "process"),
        ("messaging.destination.name", "orders"),
        ("messaging.consumer.group.name", "billing"),
        ("messaging.message.id", "o-1"),
        ("strait.attempt", "1"),
    ] {
        assert_eq!(
            first.get(field).map(String::as_str),
            Some(value),
            "{field} in {first:?}"
        );
    }
    // The trace of the message goes on through its retries, with a span of its own for each attempt.
    let mut own: Vec<u64> = Vec::new();
    for span in spans.iter() {
        let context: TraceContext = span["traceparent"].parse().unwrap();
        assert_eq!(context.trace_id(), trace.trace_id());
        own.push(context.span_id());
    }
    own.sort_unstable();
    own.dedup();
    assert_eq!(own.len(), 5);
}
