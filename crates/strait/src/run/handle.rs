//! One handling: decode, claim where asked for, call, and turn what comes back into a verdict.

use std::any::Any;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use strait_core::{Error, Fut, Timestamp, Verdict};
use tracing::Instrument;

use super::handling::{Ending, Few, Task};
use super::shard::{ShardCx, ShardTask};
use super::sinks::Effects;
use super::{ConsumerCx, ShardLeases};
use crate::consume::Undecodable;
use crate::extract::{BatchContext, Context, Setup};
use crate::failure::{End, Failure, shorten};
use crate::guarantee::{Claimed, Ticket};
use crate::handler::{
    Arguments, Batch, BatchArguments, BatchHandler, BatchItem, BatchSize, Handler,
};
use crate::message::{Message, is_unknown_kind};

/// A handler with its types, as one thing that runs shards: the only place where types are erased.
pub(crate) trait Drive: Send + Sync {
    /// What its extractors ask for.
    fn needs(&self, setup: &mut Setup<'_>);
    /// Whether it takes batches.
    fn batch(&self) -> Option<BatchSize>;
    /// Runs one shard to its end.
    fn shard(self: Arc<Self>, cx: ShardCx) -> Fut<()>;
}

/// A handler of single messages.
pub(crate) struct Each<H, M, A> {
    handler: H,
    types: PhantomData<fn() -> (M, A)>,
}

impl<H, M, A> Each<H, M, A> {
    pub(crate) fn new(handler: H) -> Self {
        Each {
            handler,
            types: PhantomData,
        }
    }
}

impl<H, M, A> Drive for Each<H, M, A>
where
    H: Handler<M, A>,
    M: Message,
    A: Arguments,
{
    fn needs(&self, setup: &mut Setup<'_>) {
        A::needs(setup);
    }

    fn batch(&self) -> Option<BatchSize> {
        None
    }

    fn shard(self: Arc<Self>, cx: ShardCx) -> Fut<()> {
        let (consumer, leases) = (cx.consumer.clone(), cx.leases.clone());
        Box::pin(
            ShardTask::new(cx, None, move |tasks: Few<Task>| {
                let (me, consumer, leases) = (self.clone(), consumer.clone(), leases.clone());
                async move { Few::one(me.handle(consumer, leases, tasks.first).await) }
            })
            .run(),
        )
    }
}

impl<H: Handler<M, A>, M: Message, A: Arguments> Each<H, M, A> {
    async fn handle(
        &self,
        consumer: Arc<ConsumerCx>,
        leases: Arc<ShardLeases>,
        task: Task,
    ) -> Ending {
        let cx = context(consumer, leases, task);
        let message = match decode::<M>(&cx) {
            Ok(message) => message,
            Err(ending) => return *ending,
        };
        let ticket = match cx.consumer.options.guarantee.claim(&cx).await {
            Claimed::Go(ticket) => ticket,
            Claimed::Ended(ending) => return ending,
        };
        let begun = Instant::now();
        let called = catch_unwind(AssertUnwindSafe(|| {
            A::extract(&cx).map(|args| self.handler.call(message, args))
        }));
        let caught = match called {
            Ok(Ok(future)) => bounded(future, &cx).await,
            Ok(Err(failure)) => Caught::Ended(Err(failure)),
            Err(panic) => Caught::Panicked(panic),
        };
        cx.consumer.meters.seconds.record(begun.elapsed());
        end(&cx, caught, ticket)
    }
}

/// How a call to user code ended.
enum Caught<T> {
    Ended(T),
    Panicked(Box<dyn Any + Send>),
    TimedOut(Duration),
}

/// Runs a handler's future within its span, its timeout, and a net for panics.
async fn bounded<F: Future>(future: F, cx: &Context) -> Caught<F::Output> {
    let future = AssertUnwindSafe(future).catch_unwind().instrument(span(cx));
    let caught = match cx.consumer.options.timeout {
        None => future.await,
        Some(limit) => match tokio::time::timeout(limit, future).await {
            Ok(caught) => caught,
            Err(_) => return Caught::TimedOut(limit),
        },
    };
    caught.map_or_else(Caught::Panicked, Caught::Ended)
}

/// A span with the names of OpenTelemetry's messaging conventions; nothing is made while nobody listens.
fn span(cx: &Context) -> tracing::Span {
    let span = tracing::info_span!(
        "strait.handle",
        messaging.system = "strait",
        messaging.operation.name = "process",
        messaging.destination.name = &*cx.consumer.topic,
        messaging.consumer.group.name = &*cx.consumer.group,
        messaging.destination.partition.id = cx.stored.partition(),
        messaging.message.id = tracing::field::Empty,
        strait.position = tracing::field::Empty,
        strait.attempt = cx.attempt,
        traceparent = tracing::field::Empty,
    );
    if !span.is_disabled() {
        span.record("messaging.message.id", cx.stored.record().id().to_string());
        span.record("strait.position", cx.stored.position().to_string());
        if let Some(trace) = cx.trace() {
            span.record("traceparent", trace.to_string());
        }
    }
    span
}

fn context(consumer: Arc<ConsumerCx>, leases: Arc<ShardLeases>, task: Task) -> Context {
    let deadline = consumer.options.timeout.map(|limit| Instant::now() + limit);
    Context::new(
        consumer,
        leases,
        task.stored,
        task.number,
        task.attempt,
        task.last_error,
        deadline,
    )
}

/// Reads the message, or ends it by the consumer's policy for what it cannot read. A decoder that panics is poison like
/// any other.
fn decode<M: Message>(cx: &Context) -> Result<M, Box<Ending>> {
    let decoded = catch_unwind(AssertUnwindSafe(|| M::from_stored(&cx.stored)));
    match decoded {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(error)) => Err(Box::new(undecodable(cx, &error))),
        Err(panic) => {
            cx.consumer.meters.panics.increment(1);
            let reason = format!("decoding panicked: {}", panic_text(&*panic));
            Err(Box::new(failed(cx, reason, None)))
        }
    }
}

fn undecodable(cx: &Context, error: &Error) -> Ending {
    let options = &cx.consumer.options;
    let policy = if is_unknown_kind(error) {
        options.unknown_kind
    } else {
        options.undecodable
    };
    cx.consumer.meters.undecodable.increment(1);
    let reason = shorten(format!("undecodable: {error}"));
    match policy {
        Undecodable::Dead => dead(cx, reason),
        Undecodable::Retry => failed(cx, reason, None),
        Undecodable::Skip => {
            cx.consumer.meters.done.increment(1);
            Ending::of(Verdict::Done)
        }
    }
}

/// The verdict of one message.
fn end(cx: &Context, caught: Caught<Result<(), Failure>>, ticket: Ticket) -> Ending {
    let effects = || cx.used_out().map(crate::Out::end).unwrap_or_default();
    match caught {
        Caught::Ended(Ok(())) => {
            cx.consumer.meters.done.increment(1);
            Ending {
                verdict: Verdict::Done,
                sends: effects(),
                once: ticket.done(&cx.consumer.options.guarantee),
            }
        }
        Caught::Ended(Err(failure)) => {
            let sends = failure_effects(&failure);
            drop(effects());
            let ending = match failure.end {
                End::Retry => failed(cx, failure.reason(), None),
                End::RetryIn(wait) => failed(cx, failure.reason(), Some(wait)),
                End::Dead | End::DeadWith(_) => dead(cx, failure.reason()),
            };
            Ending {
                sends,
                once: ticket.failed(),
                ..ending
            }
        }
        Caught::Panicked(panic) => {
            drop(effects());
            cx.consumer.meters.panics.increment(1);
            cut_off(
                cx,
                format!("the handler panicked: {}", panic_text(&*panic)),
                ticket,
            )
        }
        Caught::TimedOut(limit) => {
            drop(effects());
            cut_off(
                cx,
                format!("the handler was cut off after {limit:?}"),
                ticket,
            )
        }
    }
}

fn failure_effects(failure: &Failure) -> Effects {
    match &failure.end {
        End::DeadWith(out) => out.end(),
        _ => Effects::default(),
    }
}

/// The handler did not come to an end of its own: with "at most once" nobody knows what it did.
fn cut_off(cx: &Context, reason: String, ticket: Ticket) -> Ending {
    let ending = if cx.consumer.options.guarantee.is_at_most_once() {
        dead(cx, format!("maybe done: {reason}"))
    } else {
        failed(cx, reason, None)
    };
    Ending {
        once: ticket.failed(),
        ..ending
    }
}

/// Try again, by the backoff or after `wait`; or give up, when it is too old.
fn failed(cx: &Context, reason: String, wait: Option<Duration>) -> Ending {
    let backoff = &cx.consumer.options.backoff;
    if let Some(age) = backoff.too_old(cx.stored.appended(), Timestamp::now()) {
        return dead(cx, format!("{reason} (older than {age:?})"));
    }
    let meters = &cx.consumer.meters;
    if cx.attempt >= backoff.attempts() {
        meters.dead.increment(1);
    } else {
        meters.retry.increment(1);
    }
    tracing::debug!(consumer = &*cx.consumer.id, attempt = cx.attempt, %reason, "handling failed");
    Ending::of(Verdict::Retry {
        after: wait.unwrap_or_else(|| backoff.wait(cx.attempt)),
        reason: reason.into(),
        counts: true,
    })
}

/// Given up.
pub(crate) fn dead(cx: &Context, reason: String) -> Ending {
    cx.consumer.meters.dead.increment(1);
    tracing::warn!(consumer = &*cx.consumer.id, message = ?cx.stored, %reason, "given up: it goes to the dead letters");
    Ending::of(Verdict::Dead(reason.into()))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    shorten(text.unwrap_or("a value that is no text").to_owned())
}

/// A handler of batches.
pub(crate) struct Many<H, M, A> {
    handler: H,
    size: BatchSize,
    types: PhantomData<fn() -> (M, A)>,
}

impl<H, M, A> Many<H, M, A> {
    pub(crate) fn new(handler: H, size: BatchSize) -> Self {
        Many {
            handler,
            size,
            types: PhantomData,
        }
    }
}

impl<H, M, A> Drive for Many<H, M, A>
where
    H: BatchHandler<M, A>,
    M: Message,
    A: BatchArguments,
{
    fn needs(&self, setup: &mut Setup<'_>) {
        A::needs(setup);
    }

    fn batch(&self) -> Option<BatchSize> {
        Some(self.size)
    }

    fn shard(self: Arc<Self>, cx: ShardCx) -> Fut<()> {
        let (consumer, leases, size) = (cx.consumer.clone(), cx.leases.clone(), self.size);
        Box::pin(
            ShardTask::new(cx, Some(size), move |tasks: Few<Task>| {
                let (me, consumer, leases) = (self.clone(), consumer.clone(), leases.clone());
                async move { me.handle(consumer, leases, tasks).await }
            })
            .run(),
        )
    }
}

impl<H: BatchHandler<M, A>, M: Message, A: BatchArguments> Many<H, M, A> {
    async fn handle(
        &self,
        consumer: Arc<ConsumerCx>,
        leases: Arc<ShardLeases>,
        tasks: Few<Task>,
    ) -> Few<Ending> {
        let contexts: Vec<Context> = tasks
            .into_iter()
            .map(|task| context(consumer.clone(), leases.clone(), task))
            .collect();
        let mut items = Vec::with_capacity(contexts.len());
        let mut endings: Vec<Option<Ending>> = Vec::with_capacity(contexts.len());
        for cx in &contexts {
            match decode::<M>(cx) {
                Ok(message) => {
                    items.push(BatchItem::new(message, cx));
                    endings.push(None);
                }
                Err(ending) => endings.push(Some(*ending)),
            }
        }
        let mut verdicts = self.verdicts(&contexts, items).await.into_iter();
        let all = contexts
            .iter()
            .zip(endings)
            .map(|(cx, ending)| match ending {
                Some(ending) => ending,
                None => {
                    let missing =
                        || Caught::Ended(Err(Failure::retry("the batch handler gave no verdict")));
                    end(cx, verdicts.next().unwrap_or_else(missing), Ticket::none())
                }
            });
        let mut all: Vec<Ending> = all.collect();
        let first = all.remove(0);
        Few { first, rest: all }
    }

    /// Calls the handler, and gives one result per item.
    async fn verdicts(
        &self,
        contexts: &[Context],
        items: Vec<BatchItem<M>>,
    ) -> Vec<Caught<Result<(), Failure>>> {
        let len = items.len();
        let Some(first) = contexts.first().filter(|_| len > 0) else {
            return Vec::new();
        };
        let cx = BatchContext {
            consumer: first.consumer.clone(),
            deadline: first.deadline,
        };
        let begun = Instant::now();
        let called = catch_unwind(AssertUnwindSafe(|| {
            A::extract(&cx).map(|args| self.handler.call(Batch::new(items), args))
        }));
        let caught = match called {
            Ok(Ok(future)) => bounded(future, first).await,
            Ok(Err(failure)) => {
                return failure
                    .spread(len)
                    .into_iter()
                    .map(|f| Caught::Ended(Err(f)))
                    .collect();
            }
            Err(panic) => Caught::Panicked(panic),
        };
        first.consumer.meters.seconds.record(begun.elapsed());
        match caught {
            Caught::Ended(output) => {
                let verdicts = crate::handler::Verdicts::verdicts(output, len);
                verdicts.into_iter().map(Caught::Ended).collect()
            }
            Caught::Panicked(panic) => {
                let text = panic_text(&*panic);
                (0..len)
                    .map(|_| Caught::Panicked(Box::new(text.clone())))
                    .collect()
            }
            Caught::TimedOut(limit) => (0..len).map(|_| Caught::TimedOut(limit)).collect(),
        }
    }
}
