//! A consumer group through the facade: how fast a handler that does nothing is fed and settled.

use std::sync::atomic::{AtomicU64, Ordering};

use strait::{Handled, Out, Raw, State};
use tokio::sync::Notify;

use super::*;

/// Messages that wait for the group: as many as it would handle in the time at the goal's rate, and more.
const PER_SECOND: u64 = 1_000_000;

/// What the handler knows.
#[derive(Debug)]
struct Count {
    handled: AtomicU64,
    wanted: u64,
    reached: Notify,
    effects: strait::Topic<Raw>,
}

impl Count {
    fn one(&self) {
        if self.handled.fetch_add(1, Ordering::Relaxed) + 1 == self.wanted {
            self.reached.notify_one();
        }
    }
}

async fn nothing(_: Raw, count: State<Arc<Count>>) -> Handled {
    count.one();
    Ok(())
}

async fn one_effect(message: Raw, count: State<Arc<Count>>, out: Out) -> Handled {
    out.append(&count.effects, &message)?;
    count.one();
    Ok(())
}

/// Fills the topic, then runs the group until all is settled or the time is over.
pub(super) async fn run(
    args: &BenchArgs,
    strait: &Strait,
    events: &Arc<dyn Events>,
    topic: &Name,
) -> Outcome<Consumed> {
    let wanted = fill(args, events, topic).await?;
    let input = strait.events().topic::<Raw>(topic).await?;
    let effects = format!("{topic}-effects");
    let effects = strait.events().topic::<Raw>(&effects);
    let effects = effects.partitions(args.partitions).await?;
    let count = Arc::new(Count {
        handled: AtomicU64::new(0),
        wanted,
        reached: Notify::new(),
        effects,
    });
    let start = Instant::now();
    let (group, until) = (input.group("bench"), reached(args, count.clone()));
    let app = strait.app().state(count.clone());
    if args.consume_effect {
        app.serve(group.each(one_effect)).run_until(until).await?;
    } else {
        app.serve(group.each(nothing)).run_until(until).await?;
    }
    // The app ends when what was handled is settled, so this is the time to durable settles.
    let elapsed = start.elapsed();
    let info = events.group("bench".parse()?, topic.clone()).await?;
    let settled = wanted - info.lag();
    Ok(Consumed {
        messages: settled,
        consume_messages_per_second: (settled as f64 / elapsed.as_secs_f64()).round(),
        effects: args.consume_effect,
    })
}

async fn reached(args: &BenchArgs, count: Arc<Count>) {
    tokio::select! {
        () = count.reached.notified() => {}
        () = tokio::time::sleep(args.duration) => {}
    }
}

/// Appends enough for the whole time.
async fn fill(args: &BenchArgs, events: &Arc<dyn Events>, topic: &Name) -> Outcome<u64> {
    let wanted = (args.duration.as_secs_f64() * PER_SECOND as f64).max(1000.0) as u64;
    let load = Load::new(args, args.duration);
    let sink = load::engine(events.clone(), topic.clone());
    let body = vec![b'x'; args.size as usize];
    let mut tasks = tokio::task::JoinSet::new();
    let appends = wanted.div_ceil(u64::from(args.batch));
    for producer in 0..u64::from(args.producers) {
        let (load, sink, body) = (load.clone(), sink.clone(), body.clone());
        let (producers, partitions) = (u64::from(args.producers), u64::from(args.partitions));
        tasks.spawn(async move {
            for append in (producer..appends).step_by(producers as usize) {
                sink((append % partitions) as u32, load.fill(&body)?).await?;
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| Error::new(Kind::Unexpected, error.to_string()))??;
    }
    Ok(appends * u64::from(args.batch))
}
