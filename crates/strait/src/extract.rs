//! What a handler may ask for beside its message.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use strait_core::{Attr, Message as Stored, Name, Position, Timestamp};
use tokio::sync::Notify;

use crate::failure::Failure;
use crate::out::{Origin, Out, source_id};
use crate::run::{ConsumerCx, ShardLeases};
use crate::trace::TraceContext;

/// Something that a handler can take as an argument after its message.
///
/// Implement it for your own types to share what many handlers do first:
///
/// ```
/// use strait::{Context, Extract, Failure};
///
/// struct Tenant(String);
///
/// impl Extract for Tenant {
///     fn extract(cx: &Context) -> Result<Self, Failure> {
///         let header = cx.stored().record().header("tenant").ok_or_else(|| Failure::dead("no tenant"))?;
///         Ok(Tenant(String::from_utf8_lossy(header).into_owned()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler",
    label = "not an extractor",
    note = "the first argument is the message; after it come `State<T>`, `Meta`, `Attempt`, `Deadline`, `Out`, `Cancel`, or your own type that implements `strait::Extract`"
)]
pub trait Extract: Sized + Send {
    /// Says at start-up what must be there, so that what is missing is reported before the first message.
    fn needs(setup: &mut Setup<'_>) {
        let _ = setup;
    }

    /// Takes it out of the context of one handling.
    ///
    /// # Errors
    ///
    /// A failure ends the handling as if the handler had returned it.
    fn extract(cx: &Context) -> Result<Self, Failure>;
}

/// Something that a batch handler can take as an argument after its batch. What belongs to one message (`Meta`,
/// `Attempt`, `Out`) is found on the items of the batch instead.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a batch handler",
    label = "not for batches",
    note = "after the `Batch<M>` come `State<T>` and `Deadline`; `Meta`, `Attempt`, `Out` and `Cancel` are on each item of the batch"
)]
pub trait BatchExtract: Sized + Send {
    /// Says at start-up what must be there.
    fn needs(setup: &mut Setup<'_>) {
        let _ = setup;
    }

    /// Takes it out of the context of one handling.
    ///
    /// # Errors
    ///
    /// A failure ends the handling as if the handler had returned it.
    fn extract(cx: &BatchContext) -> Result<Self, Failure>;
}

/// What extractors ask for at start-up.
#[derive(Debug)]
pub struct Setup<'a> {
    pub(crate) states: &'a States,
    pub(crate) missing: Vec<&'static str>,
    pub(crate) effects: bool,
}

impl Setup<'_> {
    /// Asks for a state of type `T`: without one the app does not start, and says so.
    pub fn state<T: Send + Sync + 'static>(&mut self) {
        if self.states.get::<T>().is_none() {
            self.missing.push(type_name::<State<T>>());
        }
    }

    /// Says that the handler sends effects.
    pub fn effects(&mut self) {
        self.effects = true;
    }
}

/// The context of one handling.
pub struct Context {
    pub(crate) stored: Stored,
    /// The first number of its receipt.
    number: Position,
    pub(crate) attempt: u32,
    pub(crate) last_error: Option<Arc<str>>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) consumer: Arc<ConsumerCx>,
    pub(crate) leases: Arc<ShardLeases>,
    trace: OnceLock<Option<TraceContext>>,
    out: OnceLock<Out>,
}

impl Context {
    pub(crate) fn new(
        consumer: Arc<ConsumerCx>,
        leases: Arc<ShardLeases>,
        stored: Stored,
        number: Position,
        attempt: u32,
        last_error: Option<Arc<str>>,
        deadline: Option<Instant>,
    ) -> Self {
        Context {
            stored,
            number,
            attempt,
            last_error,
            deadline,
            consumer,
            leases,
            trace: OnceLock::new(),
            out: OnceLock::new(),
        }
    }

    /// The message as it is stored.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// The number of this attempt; 1 is the first.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// A state of the app.
    pub fn state<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.consumer.states.get()
    }

    /// This handling's own span in the trace of the message, where it has one.
    pub fn trace(&self) -> Option<TraceContext> {
        *self.trace.get_or_init(|| {
            let parent = self.stored.record().attr(Attr::Traceparent)?;
            Some(parent.parse::<TraceContext>().ok()?.child())
        })
    }

    /// Where this handling's effects are held; the same at each call.
    pub(crate) fn out(&self) -> Out {
        let make = || {
            let record = self.stored.record();
            let (consumer, sinks) = (&self.consumer, &self.consumer.sinks);
            let abroad = (!sinks.is_empty()).then(|| {
                let source = source_id(&consumer.id, &consumer.engine_id, &self.stored);
                (sinks.clone(), source)
            });
            Out::new(Origin {
                consumer: self.consumer.id.clone(),
                engine: self.consumer.engine_id.clone(),
                message_id: record.id().to_string(),
                abroad,
                correlation: record.attr(Attr::Correlation).map(str::to_owned),
                trace: self.trace(),
                dedupe: !self.consumer.atomic_effects,
            })
        };
        self.out.get_or_init(make).clone()
    }

    /// The effects' holder, where one was asked for.
    pub(crate) fn used_out(&self) -> Option<&Out> {
        self.out.get()
    }

    pub(crate) fn meta(&self) -> Meta {
        Meta {
            stored: self.stored.clone(),
            attempt: self.attempt,
            last_error: self.last_error.clone(),
            consumer: self.consumer.clone(),
            trace: self.trace(),
            id: OnceLock::new(),
        }
    }

    pub(crate) fn cancel(&self) -> Cancel {
        self.leases.watch(self.number)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({:?}, attempt {})", self.stored, self.attempt)
    }
}

/// The context of one handling of a batch.
pub struct BatchContext {
    pub(crate) consumer: Arc<ConsumerCx>,
    pub(crate) deadline: Option<Instant>,
}

impl BatchContext {
    /// A state of the app.
    pub fn state<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.consumer.states.get()
    }
}

impl fmt::Debug for BatchContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchContext({})", self.consumer.id)
    }
}

/// The states of an app, by type.
#[derive(Default, Clone)]
pub(crate) struct States {
    list: Vec<(TypeId, Arc<dyn Any + Send + Sync>)>,
}

impl States {
    /// The newest of a type counts.
    pub(crate) fn set<T: Send + Sync + 'static>(&mut self, value: T) {
        let id = TypeId::of::<T>();
        self.list.retain(|(known, _)| *known != id);
        self.list.push((id, Arc::new(value)));
    }

    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let id = TypeId::of::<T>();
        let (_, value) = self.list.iter().find(|(known, _)| *known == id)?;
        value.clone().downcast().ok()
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} states", self.list.len())
    }
}

/// What was given to the app with [`state`](crate::App::state): shared by all handlers. It derefs to the value.
///
/// A handler is a plain function, so a test can call it:
///
/// ```
/// use strait::{Handled, Raw, State};
///
/// async fn greet(_: Raw, name: State<String>) -> Handled {
///     println!("hello {}", name.to_uppercase());
///     Ok(())
/// }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// assert!(greet(Raw::bytes("x"), State::new("ada".to_owned())).await.is_ok());
/// # });
/// ```
#[derive(Debug)]
pub struct State<T> {
    shared: Arc<T>,
}

impl<T> State<T> {
    /// For calling a handler in a test of its own.
    pub fn new(value: T) -> Self {
        Arc::new(value).into()
    }

    /// The value itself, to hand on to a task.
    pub fn shared(&self) -> Arc<T> {
        self.shared.clone()
    }
}

impl<T> From<Arc<T>> for State<T> {
    fn from(shared: Arc<T>) -> Self {
        State { shared }
    }
}

impl<T> Deref for State<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.shared
    }
}

impl<T> Clone for State<T> {
    fn clone(&self) -> Self {
        State {
            shared: self.shared.clone(),
        }
    }
}

fn no_state<T>() -> Failure {
    Failure::retry(format!("the app has no {}", type_name::<State<T>>()))
}

impl<T: Send + Sync + 'static> Extract for State<T> {
    fn needs(setup: &mut Setup<'_>) {
        setup.state::<T>();
    }
    fn extract(cx: &Context) -> Result<Self, Failure> {
        cx.state().map(State::from).ok_or_else(no_state::<T>)
    }
}

impl<T: Send + Sync + 'static> BatchExtract for State<T> {
    fn needs(setup: &mut Setup<'_>) {
        setup.state::<T>();
    }
    fn extract(cx: &BatchContext) -> Result<Self, Failure> {
        cx.state().map(State::from).ok_or_else(no_state::<T>)
    }
}

/// The number of this attempt; 1 is the first. Deaths of the process, lost leases and panics count.
///
/// ```
/// use strait::{Attempt, Handled, OrFail, Raw, minutes};
///
/// async fn send(mail: Raw, attempt: Attempt) -> Handled {
///     deliver(&mail).or_retry_in(minutes(5) * attempt.0)
/// }
/// # fn deliver(_: &Raw) -> Result<(), std::io::Error> { Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(pub u32);

impl Extract for Attempt {
    fn extract(cx: &Context) -> Result<Self, Failure> {
        Ok(Attempt(cx.attempt))
    }
}

/// When this handling is cut off, where the consumer has a [`timeout`](crate::Consume::timeout).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// The point in time; `None`: it may take as long as it takes.
    pub fn at(self) -> Option<Instant> {
        self.0
    }

    /// The time that is left; zero when it is over.
    pub fn left(self) -> Option<Duration> {
        self.0
            .map(|at| at.saturating_duration_since(Instant::now()))
    }
}

impl Extract for Deadline {
    fn extract(cx: &Context) -> Result<Self, Failure> {
        Ok(Deadline(cx.deadline))
    }
}

impl BatchExtract for Deadline {
    fn extract(cx: &BatchContext) -> Result<Self, Failure> {
        Ok(Deadline(cx.deadline))
    }
}

impl Extract for Out {
    fn needs(setup: &mut Setup<'_>) {
        setup.effects();
    }
    fn extract(cx: &Context) -> Result<Self, Failure> {
        Ok(cx.out())
    }
}

/// What is known about the message beside its body.
#[derive(Clone)]
pub struct Meta {
    stored: Stored,
    attempt: u32,
    last_error: Option<Arc<str>>,
    consumer: Arc<ConsumerCx>,
    trace: Option<TraceContext>,
    id: OnceLock<String>,
}

impl Meta {
    /// The message's id: the same in every attempt, so it is the idempotency key for calls to the outside.
    pub fn id(&self) -> &str {
        self.id
            .get_or_init(|| self.stored.record().id().to_string())
    }

    /// The key.
    pub fn key(&self) -> Option<&[u8]> {
        self.stored.record().key()
    }

    /// The kind.
    pub fn kind(&self) -> Option<&str> {
        self.stored.record().kind()
    }

    /// When it happened, as the producer says.
    pub fn time(&self) -> Timestamp {
        self.stored.record().time()
    }

    /// When the engine appended it.
    pub fn appended(&self) -> Timestamp {
        self.stored.appended()
    }

    /// The topic that it comes from.
    pub fn topic(&self) -> &Name {
        &self.consumer.topic
    }

    /// The group that handles it.
    pub fn group(&self) -> &Name {
        &self.consumer.group
    }

    /// Its partition.
    pub fn partition(&self) -> u32 {
        self.stored.partition()
    }

    /// Its position in the partition.
    pub fn position(&self) -> Position {
        self.stored.position()
    }

    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.stored.record().header(name)
    }

    /// The headers in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.stored.record().headers()
    }

    /// The number of this attempt; 1 is the first.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Why the last attempt failed, where there was one.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// The correlation id.
    pub fn correlation(&self) -> Option<&str> {
        self.stored.record().attr(Attr::Correlation)
    }

    /// This handling's own span in the trace of the message, where it has one. Pass it on with outside calls.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// The message as it is stored.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }
}

impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meta({:?}, attempt {})", self.stored, self.attempt)
    }
}

impl Extract for Meta {
    fn extract(cx: &Context) -> Result<Self, Failure> {
        Ok(cx.meta())
    }
}

/// Fires when the right to this message is lost (its lease ran out, or its partition went to another member): what the
/// handler still sends will be refused, so it may as well stop.
///
/// ```
/// use strait::{Cancel, Handled, Raw};
///
/// async fn render(page: Raw, cancel: Cancel) -> Handled {
///     tokio::select! {
///         done = render_for_minutes(&page) => done?,
///         () = cancel.cancelled() => return Err("another member has it".into()),
///     }
///     Ok(())
/// }
/// # async fn render_for_minutes(_: &Raw) -> Result<(), std::io::Error> { Ok(()) }
/// ```
#[derive(Clone)]
pub struct Cancel {
    token: Arc<Token>,
}

/// The state of a [`Cancel`].
#[derive(Default)]
pub(crate) struct Token {
    fired: AtomicBool,
    wake: Notify,
}

impl Token {
    pub(crate) fn fire(&self) {
        self.fired.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }
}

impl Cancel {
    pub(crate) fn new(token: Arc<Token>) -> Self {
        Cancel { token }
    }

    /// True once it fired.
    pub fn is_cancelled(&self) -> bool {
        self.token.fired.load(Ordering::Acquire)
    }

    /// Waits until it fires.
    pub async fn cancelled(&self) {
        // Registered before the flag is read, so that no firing falls between the two.
        let woken = self.token.wake.notified();
        if !self.is_cancelled() {
            woken.await;
        }
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancel({})", self.is_cancelled())
    }
}

impl Extract for Cancel {
    fn extract(cx: &Context) -> Result<Self, Failure> {
        Ok(cx.cancel())
    }
}
