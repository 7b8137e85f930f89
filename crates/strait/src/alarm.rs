//! Alarms: somebody is told when a group or the storage passes a limit, and again when it is back.
//!
#![cfg_attr(feature = "embedded", doc = "```no_run")]
#![cfg_attr(not(feature = "embedded"), doc = "```ignore")]
//! # async fn example() -> strait::Result<()> {
//! use strait::{Alarm, Strait, hours, minutes};
//!
//! let strait = Strait::open("file:./data").await?;
//! let page = Alarm::post("http://127.0.0.1:9000/alarms")
//!     .dead_letters(100)
//!     .age(minutes(10))
//!     .full_in(hours(48));
//! strait.app().alarm(page).run().await
//! # }
//! ```
//!
//! A look at the groups every 10 s (unless it is said otherwise) compares them with the limits. A notice goes out once when a
//! limit is passed and once when the group (or the disk) is back within it. Looking and telling have a task of their own: no handler
//! waits for them. A notice that cannot be delivered is logged with the reason and tried again at the next two looks.
//!
//! A notice is a JSON object, the body of a POST or the standard input of a command:
//!
//! ```json
//! {"schema":1,"alarm":"dead_letters","state":"raised","group":"billing","topic":"orders","value":101,"limit":100}
//! ```
//!
//! `alarm` is `dead_letters`, `parked`, `lag` or `age_seconds`; `state` is `raised` or `recovered`. A command also has them in
//! its environment as `STRAIT_ALARM`, `STRAIT_ALARM_STATE`, `_GROUP`, `_TOPIC`, `_VALUE` and `_LIMIT`.
//!
//! `full_seconds` is of the storage: `group` and `topic` are `null` (empty in the environment), and `value` is `null` where no end
//! is in sight.

mod act;
mod url;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use strait_core::{Engine, Error, Kind, Name, Result};

use url::Url;
pub(crate) use watch::{Watching, watch};

/// Between two looks, unless it is said.
const EVERY: Duration = Duration::from_secs(10);

/// Limits of groups and of the storage, and who is told when one is passed. See [the module](self).
#[derive(Debug, Clone)]
#[must_use = "an alarm does nothing until an app has it"]
pub struct Alarm {
    limits: Limits,
    /// Empty: all.
    groups: Vec<String>,
    action: Action,
    hosts: Vec<String>,
    every: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Limits {
    dead_letters: Option<u64>,
    parked: Option<u64>,
    lag: Option<u64>,
    age: Option<Duration>,
    full_in: Option<Duration>,
}

/// What is done with a notice.
#[derive(Clone)]
enum Action {
    Command(Vec<String>),
    Post(String),
    Call(Arc<dyn Fn(&Notice) + Send + Sync>),
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Command(words) => f.debug_tuple("Command").field(words).finish(),
            // The path of a hook may be its secret.
            Action::Post(_) => f.write_str("Post"),
            Action::Call(_) => f.write_str("Call"),
        }
    }
}

/// That a group or the storage passed a limit, or is back.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Notice {
    /// The version of these fields.
    pub schema: u32,
    /// Which limit.
    pub alarm: Measure,
    /// Whether it was passed or kept again.
    pub state: Phase,
    /// The group; `None` for the storage.
    pub group: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// The value now: messages, or seconds; `None` where the storage has no end in sight.
    pub value: Option<u64>,
    /// The limit, in the same unit.
    pub limit: u64,
}

/// What a limit is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Measure {
    /// Dead letters of the group.
    DeadLetters,
    /// Messages parked.
    Parked,
    /// Messages not settled.
    Lag,
    /// Age of the oldest message that is not settled, in whole seconds.
    AgeSeconds,
    /// Whole seconds until the disk is full, as far as can be told.
    FullSeconds,
}

impl Measure {
    /// The word for it in a notice.
    pub fn as_str(self) -> &'static str {
        match self {
            Measure::DeadLetters => "dead_letters",
            Measure::Parked => "parked",
            Measure::Lag => "lag",
            Measure::AgeSeconds => "age_seconds",
            Measure::FullSeconds => "full_seconds",
        }
    }
}

/// Whether a limit was passed or is kept again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// The limit was passed.
    Raised,
    /// It is kept again, or the group is gone.
    Recovered,
}

impl Phase {
    /// The word for it in a notice.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Raised => "raised",
            Phase::Recovered => "recovered",
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, limit) = (self.alarm.as_str(), self.limit);
        let value = self.value.unwrap_or_default();
        let (Some(group), Some(topic)) = (&self.group, &self.topic) else {
            return match self.state {
                Phase::Raised if value == 0 => f.write_str("the disk is full: sends are refused"),
                Phase::Raised => write!(f, "the disk is full in {value} s, less than {limit} s"),
                Phase::Recovered => write!(f, "the disk will not be full within {limit} s"),
            };
        };
        match self.state {
            Phase::Raised => write!(f, "{group} on {topic}: {what} {value} is over {limit}"),
            Phase::Recovered => write!(
                f,
                "{group} on {topic}: {what} {value} is within {limit} again"
            ),
        }
    }
}

impl Alarm {
    fn new(action: Action) -> Self {
        Alarm {
            limits: Limits::default(),
            groups: Vec::new(),
            action,
            hosts: Vec::new(),
            every: EVERY,
        }
    }

    /// Runs a program with its arguments, without a shell. It has 30 s; what it prints is not kept, except the first line of its
    /// standard error when it fails.
    pub fn command<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        Self::new(Action::Command(words.into_iter().map(Into::into).collect()))
    }

    /// Sends a POST to an `http:` address of this machine, or of a host that [`allow_host`](Self::allow_host) names. An
    /// answer of 2xx within 10 s counts as delivered; redirects are not followed.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new(Action::Post(url.into()))
    }

    /// Calls a function, which must not block.
    pub fn call(function: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        Self::new(Action::Call(Arc::new(function)))
    }

    /// Dead letters that a group may have.
    pub fn dead_letters(mut self, most: u64) -> Self {
        self.limits.dead_letters = Some(most);
        self
    }

    /// Messages that a group may have parked.
    pub fn parked(mut self, most: u64) -> Self {
        self.limits.parked = Some(most);
        self
    }

    /// Messages that a group may have unsettled.
    pub fn lag(mut self, most: u64) -> Self {
        self.limits.lag = Some(most);
        self
    }

    /// Age that the oldest unsettled message of a group may have, to the second.
    pub fn age(mut self, most: Duration) -> Self {
        self.limits.age = Some(most);
        self
    }

    /// Time that the disk must have until it is full, by the engine's forecast: see
    /// [`Storage::full_in`](strait_core::Storage::full_in). An engine that does not measure its storage refuses it when the app
    /// starts.
    pub fn full_in(mut self, least: Duration) -> Self {
        self.limits.full_in = Some(least);
        self
    }

    /// Only this group, on each of its topics; said more than once, each of them. All groups unless it is said.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.groups.push(group.into());
        self
    }

    /// Notices may be posted to this host too, by this very name or address.
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.hosts.push(host.into());
        self
    }

    /// How often the groups are looked at; 10 s unless it is said, at least 10 ms.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every.max(Duration::from_millis(10));
        self
    }

    /// Refuses what could never tell anybody, before anything is started.
    pub(crate) fn check(&self) -> Result<Checked> {
        let limits = self.limits;
        if !limits.of_groups() && limits.full_in.is_none() {
            return Err(refused("an alarm has no limit")
                .next("give it one: dead_letters, parked, lag, age or full_in"));
        }
        let groups = self.groups.iter().map(|group| Name::new(group));
        let tell = match &self.action {
            Action::Command(words) if words.first().is_none_or(String::is_empty) => {
                return Err(refused("the command of an alarm is empty").next("name a program"));
            }
            Action::Command(words) => act::Tell::Command(words.clone()),
            Action::Post(url) => act::Tell::Post(Url::checked(url, &self.hosts)?),
            Action::Call(function) => act::Tell::Call(function.clone()),
        };
        Ok(Checked {
            limits,
            groups: groups.collect::<Result<_>>()?,
            every: self.every,
            tell,
        })
    }
}

/// An alarm that can be run.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    limits: Limits,
    groups: Vec<Name>,
    every: Duration,
    tell: act::Tell,
}

impl Checked {
    /// Refuses an engine that cannot be watched as it says.
    pub(crate) async fn check_on(&self, engine: &dyn Engine) -> Result<()> {
        match self.limits.full_in {
            Some(_) => engine.storage().await.map(drop),
            None => Ok(()),
        }
    }
}

impl Limits {
    /// True when one of them is of groups.
    fn of_groups(&self) -> bool {
        let counted = self.dead_letters.or(self.parked).or(self.lag);
        counted.is_some() || self.age.is_some()
    }
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(Kind::Config, why.into())
}
