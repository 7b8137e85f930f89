//! Handlers: plain async functions.

use std::fmt;
use std::time::Duration;

use crate::extract::{BatchContext, BatchExtract, Cancel, Context, Extract, Meta, Setup};
use crate::failure::{Failure, Handled};
use crate::message::Message;
use crate::out::Out;

/// A function that handles messages of type `M`: `async fn(M, ..) -> Handled`, where up to eight arguments after the
/// message are [extracted](Extract). Closures that return a future are handlers too.
///
/// ```no_run
/// # use serde::{Deserialize, Serialize};
/// # use strait::{Handled, Message, Meta, OrFail, State, Topic};
/// # struct Db;
/// # impl Db { async fn charge(&self, key: &str, order: u64, cents: u64) -> Result<(), std::io::Error> { Ok(()) } }
/// # #[derive(Message, Serialize, Deserialize)]
/// # #[message("order.placed.v1", key = order)]
/// # struct OrderPlaced { order: u64, cents: String }
/// # fn example(orders: Topic<OrderPlaced>) {
/// async fn bill(placed: OrderPlaced, meta: Meta, db: State<Db>) -> Handled {
///     let cents = placed.cents.parse().or_dead()?;               // it never gets better: the dead letters
///     db.charge(meta.id(), placed.order, cents).await?;          // `?` is "again, later"
///     Ok(())
/// }
/// let billing = orders.group("billing").each(bill);
///
/// let printing = orders.group("printing").each(|placed: OrderPlaced| async move {
///     println!("order {}", placed.order);
///     Ok(())
/// });
/// # }
/// ```
///
/// You never implement this trait; `Args` stands for the types of the arguments.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler for messages of type `{M}`",
    label = "not a handler",
    note = "a handler is `async fn(message: {M}, ..) -> strait::Handled`, with up to eight arguments after the message: `State<T>`, `Meta`, `Attempt`, `Deadline`, `Out`, `Cancel`",
    note = "its future must be `Send`; for bytes without a type use `topic.raw().group(..)` and a first argument of type `Raw`"
)]
pub trait Handler<M, Args>: Send + Sync + 'static {
    /// The future of one handling.
    type Future: Future<Output = Handled> + Send + 'static;

    /// Begins.
    fn call(&self, message: M, args: Args) -> Self::Future;
}

/// The arguments of a [`Handler`] after its message: up to eight that can be [extracted](Extract).
///
/// You never implement this trait. It is apart from the handler so that the compiler names the argument that is none.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the arguments of a handler",
    label = "not extractors",
    note = "after the message come up to eight of `State<T>`, `Meta`, `Attempt`, `Deadline`, `Out`, `Cancel`, or of your own types that implement `strait::Extract`"
)]
pub trait Arguments: Sized + 'static {
    /// What they ask for at start-up.
    fn needs(setup: &mut Setup<'_>);

    /// Takes them out of the context of one handling.
    ///
    /// # Errors
    ///
    /// The first failure of an extractor.
    fn extract(cx: &Context) -> Result<Self, Failure>;
}

/// A function that handles batches: `async fn(Batch<M>, ..) -> Handled` (one verdict for all) or `-> Vec<Handled>` (one
/// for each item, in order).
///
/// ```no_run
/// # use strait::{Batch, Handled, Raw, State, Topic, secs};
/// # struct Search;
/// # impl Search { async fn put(&self, texts: Vec<&str>) -> Result<Vec<bool>, std::io::Error> { Ok(vec![]) } }
/// # fn example(notes: Topic<Raw>) {
/// async fn index(batch: Batch<Raw>, search: State<Search>) -> Vec<Handled> {
///     let texts = batch.iter().filter_map(|item| item.message.text()).collect();
///     match search.put(texts).await {
///         Ok(kept) => kept.into_iter().map(|kept| if kept { Ok(()) } else { Err("refused".into()) }).collect(),
///         Err(error) => batch.iter().map(|_| Err(format!("search: {error}").into())).collect(),
///     }
/// }
/// let indexing = notes.group("index").each_batch(500, secs(1), index);
/// # }
/// ```
///
/// You never implement this trait; `Args` stands for the types of the arguments.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a batch handler for messages of type `{M}`",
    label = "not a batch handler",
    note = "a batch handler is `async fn(batch: Batch<{M}>, ..) -> Handled` or `-> Vec<Handled>`, with up to eight arguments after the batch: `State<T>`, `Deadline`",
    note = "its future must be `Send`"
)]
pub trait BatchHandler<M, Args>: Send + Sync + 'static {
    /// What it returns.
    type Output: Verdicts;
    /// The future of one handling.
    type Future: Future<Output = Self::Output> + Send + 'static;

    /// Begins.
    fn call(&self, batch: Batch<M>, args: Args) -> Self::Future;
}

/// The arguments of a [`BatchHandler`] after its batch: up to eight that can be [extracted](BatchExtract).
///
/// You never implement this trait. It is apart from the handler so that the compiler names the argument that is none.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the arguments of a batch handler",
    label = "not for batches",
    note = "after the `Batch<M>` come up to eight of `State<T>` and `Deadline`"
)]
pub trait BatchArguments: Sized + 'static {
    /// What they ask for at start-up.
    fn needs(setup: &mut Setup<'_>);

    /// Takes them out of the context of one handling.
    ///
    /// # Errors
    ///
    /// The first failure of an extractor.
    fn extract(cx: &BatchContext) -> Result<Self, Failure>;
}

macro_rules! handlers {
    ($($arg:ident),*) => {
        impl<F, Fut, M, $($arg),*> Handler<M, ($($arg,)*)> for F
        where
            F: Fn(M, $($arg),*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Handled> + Send + 'static,
            M: Message,
        {
            type Future = Fut;

            #[allow(non_snake_case)]
            fn call(&self, message: M, ($($arg,)*): ($($arg,)*)) -> Fut {
                self(message, $($arg),*)
            }
        }

        impl<F, Fut, M, $($arg),*> BatchHandler<M, ($($arg,)*)> for F
        where
            F: Fn(Batch<M>, $($arg),*) -> Fut + Send + Sync + 'static,
            Fut: Future + Send + 'static,
            Fut::Output: Verdicts,
            M: Message,
        {
            type Output = Fut::Output;
            type Future = Fut;

            #[allow(non_snake_case)]
            fn call(&self, batch: Batch<M>, ($($arg,)*): ($($arg,)*)) -> Fut {
                self(batch, $($arg),*)
            }
        }

        arguments!(Arguments, Extract, Context, $($arg),*);
        arguments!(BatchArguments, BatchExtract, BatchContext, $($arg),*);
    };
}

macro_rules! arguments {
    ($arguments:ident, $extract:ident, $context:ident, $($arg:ident),*) => {
        impl<$($arg: $extract + 'static),*> $arguments for ($($arg,)*) {
            fn needs(setup: &mut Setup<'_>) {
                let _ = &setup;
                $($arg::needs(setup);)*
            }

            fn extract(cx: &$context) -> Result<Self, Failure> {
                let _ = cx;
                Ok(($($arg::extract(cx)?,)*))
            }
        }
    };
}

handlers!();
handlers!(A);
handlers!(A, B);
handlers!(A, B, C);
handlers!(A, B, C, D);
handlers!(A, B, C, D, E);
handlers!(A, B, C, D, E, G);
handlers!(A, B, C, D, E, G, H);
handlers!(A, B, C, D, E, G, H, I);

/// Messages of one partition that are handled together, in order.
pub struct Batch<M> {
    items: Vec<BatchItem<M>>,
}

/// One message of a [`Batch`].
pub struct BatchItem<M> {
    /// The message.
    pub message: M,
    meta: Meta,
    out: Out,
    cancel: Cancel,
}

impl<M> BatchItem<M> {
    pub(crate) fn new(message: M, cx: &Context) -> Self {
        BatchItem {
            message,
            meta: cx.meta(),
            out: cx.out(),
            cancel: cx.cancel(),
        }
    }

    /// What is known about it beside its body.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Where its effects go: they leave with this item's own `Ok`.
    pub fn out(&self) -> &Out {
        &self.out
    }

    /// Fires when the right to it is lost.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

impl<M> Batch<M> {
    pub(crate) fn new(items: Vec<BatchItem<M>>) -> Self {
        Batch { items }
    }

    /// The items in the order of their positions.
    pub fn iter(&self) -> std::slice::Iter<'_, BatchItem<M>> {
        self.items.iter()
    }

    /// Number of items, at least 1.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Never true for a batch that a handler gets.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl<M> IntoIterator for Batch<M> {
    type Item = BatchItem<M>;
    type IntoIter = std::vec::IntoIter<BatchItem<M>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a, M> IntoIterator for &'a Batch<M> {
    type Item = &'a BatchItem<M>;
    type IntoIter = std::slice::Iter<'a, BatchItem<M>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<M> fmt::Debug for Batch<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} items)", self.len())
    }
}

impl<M: fmt::Debug> fmt::Debug for BatchItem<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchItem({:?}, {:?})", self.message, self.meta)
    }
}

/// What a batch handler may return.
#[diagnostic::on_unimplemented(
    message = "a batch handler does not return `{Self}`",
    label = "not a verdict",
    note = "return `strait::Handled` (one verdict for all), or `Vec<Handled>` (one for each item, in order)"
)]
pub trait Verdicts: Send {
    /// One verdict per item of a batch of `len`.
    fn verdicts(self, len: usize) -> Vec<Handled>;
}

impl Verdicts for Handled {
    fn verdicts(self, len: usize) -> Vec<Handled> {
        match self {
            Ok(()) => (0..len).map(|_| Ok(())).collect(),
            Err(failure) => failure.spread(len).into_iter().map(Err).collect(),
        }
    }
}

impl Verdicts for Vec<Handled> {
    /// A list of another length cannot be assigned to the items: all are tried again, and the reason says so.
    fn verdicts(self, len: usize) -> Vec<Handled> {
        if self.len() == len {
            return self;
        }
        let text = format!(
            "the batch handler gave {} verdicts for {len} messages",
            self.len()
        );
        (0..len)
            .map(|_| Err(Failure::retry(text.clone())))
            .collect()
    }
}

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchSize {
    pub(crate) items: usize,
    pub(crate) wait: Duration,
}
