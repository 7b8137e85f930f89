//! An app: consumers, the state that their handlers share, and how they start and stop.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strait_core::events::{Caps, GroupSpec, TopicSpec};
use strait_core::{Error, Kind, Needs, Offer, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::alarm::{self, Alarm, Watching};
use crate::consume::Consume;
use crate::extract::{Setup, States};
use crate::guarantee::Guarantee;
use crate::metrics::Meters;
use crate::open::Strait;
use crate::report::{ConsumerReport, Feature, Report};
use crate::run::{ConsumerCx, LeaseThread, Member, Stop};
use crate::target::redact;

/// Time that handlers get to end when an app stops, unless it is said.
const GRACE: Duration = Duration::from_secs(10);

/// Consumers that start and stop together.
///
/// ```no_run
/// # use strait::{Backoff, Handled, Raw, State, Strait, secs};
/// # struct Db;
/// # async fn bill(order: Raw, db: State<Db>) -> Handled { Ok(()) }
/// # async fn example(strait: Strait, db: Db) -> strait::Result<()> {
/// let orders = strait.events().topic::<Raw>("orders").await?;
/// strait.app()
///     .state(db)
///     .serve(orders.group("billing").each(bill).retry(Backoff::exponential(secs(1)).up_to(8)))
///     .run()
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "an app does nothing until it is run or started"]
pub struct App {
    strait: Strait,
    states: States,
    consumers: Vec<Consume>,
    alarms: Vec<Alarm>,
    grace: Duration,
}

impl App {
    pub(crate) fn new(strait: Strait) -> Self {
        App {
            strait,
            states: States::default(),
            consumers: Vec::new(),
            alarms: Vec::new(),
            grace: GRACE,
        }
    }

    /// Shares a value with all handlers, which take it as [`State<T>`](crate::State). One value per type: a later one takes
    /// the place of an earlier one.
    pub fn state<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.states.set(value);
        self
    }

    /// Adds a consumer.
    pub fn serve(mut self, consumer: Consume) -> Self {
        self.consumers.push(consumer);
        self
    }

    /// Adds an alarm over the engine's storage and its groups, also those of other apps. It is watched while the app runs, beside the one
    /// of the [configuration](crate::config).
    pub fn alarm(mut self, alarm: Alarm) -> Self {
        self.alarms.push(alarm);
        self
    }

    /// How long handlers may take to end when the app stops; 10 s unless it is said. What is not done by then is given back
    /// without spending an attempt.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// What the app will do, without doing it.
    ///
    /// # Errors
    ///
    /// Those of [`start`](App::start) that are known before anything is changed.
    pub async fn report(&self) -> Result<Report> {
        let (report, needs) = self.examine().await?;
        needs.into_result()?;
        Ok(report)
    }

    /// Starts all consumers.
    ///
    /// # Errors
    ///
    /// `Config` with code `needs`, listing everything that the engines cannot do and every state that is missing, before the
    /// first message. Names that are not allowed, and what the engines say.
    pub async fn start(self) -> Result<Running> {
        let (report, needs) = self.examine().await?;
        needs.into_result()?;
        let alarms = self.alarms.iter().map(Alarm::check);
        let alarms = alarms.collect::<Result<Vec<_>>>()?;
        for alarm in &alarms {
            alarm.check_on(&**self.strait.engine()).await?;
        }
        for consumer in &self.consumers {
            // On the engine of the consumer: the copy is part of the change that gives the message up.
            if let Some(topic) = consumer.dead_letter.as_deref() {
                let spec = TopicSpec::new(strait_core::Name::new(topic)?);
                consumer.topic.lane().declare(spec).await?;
            }
        }
        let runtime = tokio::runtime::Handle::current();
        let leases =
            LeaseThread::start(runtime).map_err(|e| Error::io("starting the lease thread", e))?;
        let (stop, stopping) = watch::channel(None);
        let mut members = Vec::new();
        for consumer in self.consumers {
            members.push(member(consumer, &self.states, &leases, &stopping).await?);
        }
        let mut tasks = JoinSet::new();
        for member in members {
            tasks.spawn(member.run());
        }
        let mut watching = Vec::new();
        for alarm in alarms {
            let (engine, lane) = (self.strait.engine(), self.strait.events_lane()?);
            watching.push(alarm::watch(alarm, engine.clone(), lane.clone()));
        }
        let configured = self.strait.watch_configured().await?;
        Ok(Running {
            report,
            stop,
            tasks,
            grace: self.grace,
            _leases: leases,
            _alarms: (watching, configured),
        })
    }

    /// Runs until Ctrl-C or SIGTERM, then stops as [`Running::stop`] does.
    ///
    /// # Errors
    ///
    /// As for [`start`](App::start); later the first error that ends a consumer, after all others have stopped.
    pub async fn run(self) -> Result<()> {
        self.run_until(shutdown_signal()).await
    }

    /// Runs until `until` is ready, whatever its value, then stops as [`Running::stop`] does.
    ///
    /// # Errors
    ///
    /// As for [`run`](App::run).
    pub async fn run_until(self, until: impl Future) -> Result<()> {
        let mut until = std::pin::pin!(until);
        let mut running = tokio::select! {
            biased;
            _ = &mut until => return Ok(()),
            started = self.start() => started?,
        };
        tokio::select! {
            _ = until => running.stop().await,
            ended = running.ended() => {
                let stopped = running.stop().await;
                ended.and(stopped)
            }
        }
    }

    /// Holds all wishes against what the engines offer.
    async fn examine(&self) -> Result<(Report, Needs)> {
        let mut report = Report::default();
        let mut needs = Needs::default();
        for consumer in &self.consumers {
            let spec = consumer.spec()?;
            let lane = consumer.topic.lane();
            let wishes = Wishes::of(consumer, &self.states);
            let object = format!("events `{}`, group `{}`", spec.topic, spec.group);
            let engine = redact(&consumer.topic.engine().0);
            let caps = lane.caps();
            let features = wishes.features(&caps);
            for Feature { name, offer } in &features {
                needs.want(object.clone(), engine.clone(), name, *offer);
            }
            for missing in &wishes.missing {
                needs.want(
                    object.clone(),
                    "app",
                    missing,
                    Offer::Refused("give the app one with `.state(value)`"),
                );
            }
            report.consumers.push(ConsumerReport {
                topic: spec.topic.to_string(),
                group: spec.group.to_string(),
                engine,
                durability: caps.durability.as_str(),
                guarantee: consumer.options.guarantee.as_str(),
                attempts: spec.max_attempts,
                features,
            });
            let info = consumer.topic.info().await?;
            if info.retention == Default::default() {
                let topic = &spec.topic;
                let text = format!("{topic} has no retention: it keeps everything");
                if !report.warnings.contains(&text) {
                    report.warnings.push(text);
                }
            }
        }
        self.check_twins(&mut needs);
        Ok((report, needs))
    }

    /// A group served twice in one app would share its messages between two handlers, which nobody means.
    fn check_twins(&self, needs: &mut Needs) {
        for (index, consumer) in self.consumers.iter().enumerate() {
            let same = |other: &Consume| {
                other.group == consumer.group
                    && other.topic.name() == consumer.topic.name()
                    && other.topic.engine() == consumer.topic.engine()
            };
            if self.consumers[..index].iter().any(same) {
                needs.want(
                    format!(
                        "events `{}`, group `{}`",
                        consumer.topic.name(),
                        consumer.group
                    ),
                    "app",
                    "a second handler on the same group",
                    Offer::Refused("give it a group of its own: each group gets every message"),
                );
            }
        }
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "App({:?} on {:?})", self.consumers, self.strait)
    }
}

/// What a consumer asks of its engine.
struct Wishes<'a> {
    consumer: &'a Consume,
    effects: bool,
    missing: Vec<&'static str>,
}

impl<'a> Wishes<'a> {
    fn of(consumer: &'a Consume, states: &States) -> Self {
        let mut setup = Setup {
            states,
            missing: Vec::new(),
            effects: false,
        };
        consumer.drive.needs(&mut setup);
        Wishes {
            consumer,
            effects: setup.effects,
            missing: setup.missing,
        }
    }

    fn features(&self, caps: &Caps) -> Vec<Feature> {
        let options = &self.consumer.options;
        let guarantee = &options.guarantee;
        let mut features = Vec::new();
        let mut uses = |used: bool, name: &'static str, offer: Offer| {
            if used {
                features.push(Feature { name, offer });
            }
        };
        uses(options.by_key, "order by key", caps.key_order);
        uses(
            options.backoff.attempts() > 1,
            "retries that block nobody",
            caps.parking,
        );
        uses(true, "dead letters", caps.dead_letters);
        uses(
            options.hold_key,
            "a dead letter holds its key",
            caps.hold_key,
        );
        let atomic = self.effects && !matches!(guarantee, Guarantee::AtLeastOnce);
        uses(
            atomic,
            "effects in one commit with their message",
            caps.atomic_effects,
        );
        let at_least_once = matches!(guarantee, Guarantee::AtLeastOnce);
        for sink in &self.consumer.sinks {
            let offer = match (sink.has_ledger(), at_least_once) {
                (true, _) => Offer::Layered("once: there first, with the message's id"),
                (false, true) => {
                    Offer::Layered("at least once, with ids that derive from the message")
                }
                (false, false) => Offer::Refused(
                    "it has no ledger to keep effects once: say `.at_least_once()`, or send to a topic of an engine that has one",
                ),
            };
            uses(true, "effects on another engine", offer);
        }
        uses(
            guarantee.idempotency().is_some(),
            "the idempotency ledger",
            caps.ledger,
        );
        let batch = guarantee.idempotency().is_some() && self.consumer.drive.batch().is_some();
        uses(
            batch,
            "`once` or `at_most_once` for batches",
            Offer::Refused("handle single messages with `.each(..)`"),
        );
        features
    }
}

/// Joins the group.
async fn member(
    consumer: Consume,
    states: &States,
    leases: &LeaseThread,
    stop: &Stop,
) -> Result<Member> {
    let spec: GroupSpec = consumer.spec()?;
    let meters = Arc::new(Meters::new(&spec.topic, &spec.group));
    let (lease, lane) = (spec.lease, consumer.topic.lane().clone());
    let cx = ConsumerCx {
        id: format!("{}/{}", spec.group, spec.topic).into(),
        topic: spec.topic.clone(),
        group: spec.group.clone(),
        engine: consumer.topic.strait().engine().clone(),
        engine_id: consumer.topic.engine().clone(),
        atomic_effects: lane.caps().atomic_effects.is_there(),
        sinks: consumer.sinks.into(),
        states: states.clone(),
        options: consumer.options,
        meters: meters.clone(),
    };
    let source = lane.join(spec).await?;
    Ok(Member {
        consumer: Arc::new(cx),
        drive: consumer.drive,
        leases: leases.member(source.control.clone(), lease, meters),
        bell: leases.bell().clone(),
        source,
        stop: stop.clone(),
    })
}

/// A started app.
///
/// Dropping it without [`stop`](Running::stop) ends its consumers at once, as the death of the process would: what was
/// being handled is delivered again, with its attempt counted.
#[must_use = "an app stops when this is dropped"]
pub struct Running {
    report: Report,
    stop: watch::Sender<Option<Instant>>,
    tasks: JoinSet<Result<()>>,
    grace: Duration,
    _leases: LeaseThread,
    _alarms: (Vec<Watching>, Option<Arc<Watching>>),
}

impl Running {
    /// What it does.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Waits until a consumer ends by itself, which it does only when its engine takes nothing more. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Why it ended.
    pub async fn ended(&mut self) -> Result<()> {
        match self.tasks.join_next().await {
            Some(ended) => flatten(ended),
            // An app without consumers has nothing that could end.
            None => std::future::pending().await,
        }
    }

    /// Stops: takes nothing more, lets handlers end within the grace, gives the rest back without spending an attempt, and
    /// commits what is done.
    ///
    /// # Errors
    ///
    /// The first error that ended a consumer.
    pub async fn stop(&mut self) -> Result<()> {
        self.stop.send_replace(Some(Instant::now() + self.grace));
        let mut first = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            first = first.and(flatten(ended));
        }
        first
    }
}

fn flatten(ended: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.unwrap_or_else(|join| {
        Err(Error::new(
            Kind::Unexpected,
            "a consumer ended by a panic outside of its handler",
        )
        .caused_by(join))
    })
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({} consumers)", self.tasks.len())
    }
}

/// Ready at Ctrl-C or, on Unix, SIGTERM: what service managers send.
pub async fn shutdown_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = tokio::signal::ctrl_c() => return,
            }
        }
    }
    // Without a handler for the signal nothing would ever stop the app: this is as good as it gets.
    let _ = tokio::signal::ctrl_c().await;
}
