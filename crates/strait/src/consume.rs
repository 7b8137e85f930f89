//! A consumer in the making: a handler on a group, and how it is run.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{AfterDead, GroupSpec, Order, Start};
use strait_core::{Error, Kind, Name, Result};

use crate::backoff::Backoff;
use crate::events::{Group, Topic};
use crate::guarantee::{Guarantee, Idempotency};
use crate::handler::{Arguments, BatchArguments, BatchHandler, BatchSize, Handler};
use crate::message::{Message, Raw};
use crate::run::{Drive, Each, Many, Options, Sink};

/// A lease is extended at a third of its time: a shorter one is lost to the first delay of a busy machine.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// What becomes of a message that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Undecodable {
    /// It goes to the dead letters at once, with the reason: it never gets better by itself.
    #[default]
    Dead,
    /// It is tried again as if the handler had failed: for when a newer version of the program will read it.
    Retry,
    /// It is settled unread, and counted in `strait_undecodable_total`.
    Skip,
}

/// A handler on a consumer group, given to [`App::serve`](crate::App::serve).
///
/// Unless it is said: one handling per partition at a time and partitions in parallel, each key in order; failures are
/// retried with [`Backoff::default`]; effects leave once.
///
/// ```no_run
/// # use strait::{Backoff, Handled, Raw, Topic, secs};
/// # async fn bill(_: Raw) -> Handled { Ok(()) }
/// # fn example(orders: Topic<Raw>) {
/// let billing = orders.group("billing")
///     .each(bill)
///     .concurrency(64)                                        // over all partitions; keys stay in order
///     .retry(Backoff::exponential(secs(1)).up_to(8))
///     .dead_letter("orders.dead");
/// # }
/// ```
#[must_use = "a consumer runs when it is served by an app"]
pub struct Consume {
    pub(crate) topic: Topic<Raw>,
    pub(crate) group: String,
    pub(crate) drive: Arc<dyn Drive>,
    pub(crate) options: Options,
    pub(crate) dead_letter: Option<String>,
    pub(crate) sinks: Vec<Sink>,
    start: Start,
    lease: Option<Duration>,
    handover: Option<Duration>,
    gap: Option<u64>,
    max_dead: Option<u64>,
    dead_age: Option<Duration>,
}

impl<M: Message> Group<M> {
    /// Handles each message with `handler`: an `async fn(M, ..) -> Handled`, see [`Handler`].
    pub fn each<H, Args>(&self, handler: H) -> Consume
    where
        H: Handler<M, Args>,
        Args: Arguments,
    {
        Consume::new(self, Arc::new(Each::new(handler)))
    }

    /// Handles up to `items` messages of a partition together, at the latest `wait` after the first of them came. `handler`
    /// is an `async fn(Batch<M>, ..)` that returns one verdict for all or one for each, see [`BatchHandler`].
    ///
    /// In a group that keeps the order of keys, an item behind a failed one of its key comes again behind that one, whatever
    /// its own verdict was.
    pub fn each_batch<H, Args>(&self, items: usize, wait: Duration, handler: H) -> Consume
    where
        H: BatchHandler<M, Args>,
        Args: BatchArguments,
    {
        let items = items.max(1);
        Consume::new(
            self,
            Arc::new(Many::new(handler, BatchSize { items, wait })),
        )
    }
}

impl Consume {
    fn new<M: Message>(group: &Group<M>, drive: Arc<dyn Drive>) -> Self {
        Consume {
            topic: group.topic.raw(),
            group: group.name.clone(),
            drive,
            options: Options {
                concurrency: None,
                backoff: Backoff::default(),
                guarantee: Guarantee::Default,
                undecodable: Undecodable::Dead,
                unknown_kind: Undecodable::Dead,
                timeout: None,
                by_key: true,
                hold_key: false,
            },
            dead_letter: None,
            sinks: Vec::new(),
            start: Start::Earliest,
            lease: None,
            handover: None,
            gap: None,
            max_dead: None,
            dead_age: None,
        }
    }

    /// Handlings at once in this member, over all its partitions; 0 counts as 1. Messages of one key stay one after
    /// another. Handlings of one partition share a task: they wait together, and compute one at a time.
    pub fn concurrency(mut self, handlings: usize) -> Self {
        self.options.concurrency = Some(handlings.max(1));
        self
    }

    /// How failures are tried again, and when they are given up.
    pub fn retry(mut self, backoff: Backoff) -> Self {
        self.options.backoff = backoff;
        self
    }

    /// A topic that also gets a copy of each dead letter, in the same commit. It is created if it does not exist. The group
    /// keeps its dead letters in any case, see [`Group::dead_letters`].
    pub fn dead_letter(mut self, topic: &str) -> Self {
        self.dead_letter = Some(topic.to_owned());
        self
    }

    /// The order to keep. [`Order::Free`]: a message that waits for its next attempt delays nobody.
    pub fn order(mut self, order: Order) -> Self {
        self.options.by_key = order == Order::Key;
        self
    }

    /// What follows a dead letter for the later messages of its key: [`AfterDead::Continue`] lets them go on without it.
    /// [`AfterDead::HoldKey`] keeps them parked until the dead letter is redriven (it comes first then) or removed; it is
    /// for work where a message rests on the one before it, and needs the order of keys. Other keys flow, up to the
    /// [`gap`](Consume::gap); there the partition waits, and [`GroupInfo`](crate::GroupInfo) says for which key.
    ///
    /// ```no_run
    /// # use strait::{AfterDead, Handled, Raw, Topic};
    /// # async fn book(_: Raw) -> Handled { Ok(()) }
    /// # fn example(transfers: Topic<Raw>) {
    /// let booking = transfers.group("booking")
    ///     .each(book)
    ///     .after_dead(AfterDead::HoldKey);       // an account stops at the transfer that cannot be booked
    /// # }
    /// ```
    pub fn after_dead(mut self, after: AfterDead) -> Self {
        self.options.hold_key = after == AfterDead::HoldKey;
        self
    }

    /// Where the group begins on a partition that it has no position for; otherwise at the earliest message.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// How long a message may be with this member when it is not heard of. Extended all the time while the process lives,
    /// so it says how long a message of a dead process waits. 30 s unless it is said.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// How long this member may take to hand a partition over to another. 10 s unless it is said.
    pub fn handover(mut self, time: Duration) -> Self {
        self.handover = Some(time);
        self
    }

    /// Greatest distance between the oldest message that is not settled and the newest delivered one of a partition.
    /// 10,000 unless it is said.
    pub fn gap(mut self, messages: u64) -> Self {
        self.gap = Some(messages);
        self
    }

    /// Dead letters that the group keeps; at the bound it pauses. A million unless it is said.
    pub fn max_dead(mut self, letters: u64) -> Self {
        self.max_dead = Some(letters);
        self
    }

    /// Dead letters that were given up longer ago may be removed. Without it they stay until somebody redrives or removes
    /// them.
    pub fn dead_age(mut self, age: Duration) -> Self {
        self.dead_age = Some(age);
        self
    }

    /// Cuts a handling off after so long: it failed then, and is tried again. Without it a handler may take as long as it
    /// takes; its lease is extended.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    /// What becomes of a message whose body cannot be read.
    pub fn undecodable(mut self, policy: Undecodable) -> Self {
        self.options.undecodable = policy;
        self
    }

    /// What becomes of a message of a kind that the handler's type does not know.
    pub fn unknown_kind(mut self, policy: Undecodable) -> Self {
        self.options.unknown_kind = policy;
        self
    }

    /// The handler's effects, too, may leave again. It runs on engines that cannot keep them once.
    ///
    /// For what may happen twice: refreshing a cache.
    pub fn at_least_once(mut self) -> Self {
        self.options.guarantee = Guarantee::AtLeastOnce;
        self
    }

    /// Of all messages with the same id, whoever sent them, one has effects. Of two at the same time one runs, the other
    /// waits for it. The handler may still run again after a crash, so calls to the outside take
    /// [`Meta::id`](crate::Meta::id) as their idempotency key.
    ///
    /// For what can be made idempotent: a charge at a payment provider.
    pub fn once(self) -> Self {
        self.once_by(Idempotency::by_id())
    }

    /// As [`once`](Consume::once), with another notion of "the same", or another time to remember it.
    pub fn once_by(mut self, idempotency: Idempotency) -> Self {
        self.options.guarantee = Guarantee::Once(idempotency);
        self
    }

    /// A handling is never begun again when it may be done: when a handler's end is not known (a crash, a lost lease, a
    /// panic, a timeout), its message goes to the dead letters as "maybe done". A failure that the handler returns is tried
    /// again.
    ///
    /// For what must not happen twice and cannot be made idempotent: an e-mail.
    pub fn at_most_once(self) -> Self {
        self.at_most_once_by(Idempotency::by_id())
    }

    /// As [`at_most_once`](Consume::at_most_once), with another notion of "the same", or another time to remember it.
    pub fn at_most_once_by(mut self, idempotency: Idempotency) -> Self {
        self.options.guarantee = Guarantee::AtMostOnce(idempotency);
        self
    }

    /// A topic of another engine that the handler sends to through [`Out`](crate::Out). Topics of the consumer's own engine
    /// need not be named.
    ///
    /// Effects go there first, together with the message's id in that engine's ledger, where they are remembered for a day;
    /// then the message is settled. If that is no longer possible (a crash, a lost lease), the message is handled again, and
    /// what it sends is dropped: effects leave once. An engine without a ledger cannot promise that, and the app does not
    /// start unless the consumer says [`at_least_once`](Consume::at_least_once); ids of effects derive from their message then.
    pub fn sends_to<M: Message>(mut self, topic: &Topic<M>) -> Self {
        if topic.engine() != self.topic.engine() {
            self.sinks.push(Sink { topic: topic.raw() });
        }
        self
    }

    /// What the member declares to the engine.
    pub(crate) fn spec(&self) -> Result<GroupSpec> {
        let named = |e: Error| e.during("serve");
        let mut spec = GroupSpec::new(
            Name::new(&self.group).map_err(named)?,
            self.topic.name().clone(),
        );
        spec.member = member_name();
        spec.start = self.start;
        spec.order = if self.options.by_key {
            Order::Key
        } else {
            Order::Free
        };
        spec.max_attempts = self.options.backoff.attempts();
        spec.lease = self.lease.unwrap_or(spec.lease);
        if spec.lease < SHORTEST_LEASE {
            return Err(Error::new(
                Kind::Config,
                format!("a lease of {:?} is too short", spec.lease),
            )
            .with("group", &spec.group)
            .next(format!(
                "give it at least {SHORTEST_LEASE:?}; it is extended while the process lives"
            )));
        }
        if self.options.hold_key {
            spec.after_dead = AfterDead::HoldKey;
        }
        if self.options.hold_key && !self.options.by_key {
            return Err(Error::new(
                Kind::Config,
                "without the order of keys a dead letter cannot hold its key",
            )
            .with("group", &spec.group)
            .next("drop `.order(Order::Free)`, or `.after_dead(AfterDead::HoldKey)`"));
        }
        spec.handover = self.handover.unwrap_or(spec.handover);
        spec.gap = self.gap.unwrap_or(spec.gap);
        spec.max_dead = self.max_dead.unwrap_or(spec.max_dead);
        spec.dead_age = self.dead_age.or(spec.dead_age);
        spec.dead_topic = match &self.dead_letter {
            Some(topic) => Some(Name::new(topic).map_err(named)?),
            None => None,
        };
        Ok(spec)
    }
}

/// Program and process, for operators.
fn member_name() -> String {
    let program = std::env::current_exe().ok();
    let program = program
        .as_deref()
        .and_then(|path| path.file_name())
        .and_then(|name| name.to_str());
    format!(
        "{} (pid {})",
        program.unwrap_or("unknown"),
        std::process::id()
    )
}

impl fmt::Debug for Consume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consume({} on {})", self.group, self.topic.name())
    }
}
