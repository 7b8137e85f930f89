//! The connection, how it is, and how it comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, Value};
use strait_core::{Error, Health, Kind, Result};
use tokio::sync::{Notify, watch};

use crate::fault::{closed, ends_connection, fault};
use crate::options::Options;

/// Between two tries to connect: from, and up to.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often a server that answers is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Connections for reads that wait, kept for the next ones.
const KEPT: usize = 8;

/// One server, reached again and again.
pub(crate) struct Link {
    pub(crate) options: Options,
    client: redis::Client,
    state: Mutex<State>,
    /// One connects, the others wait for it.
    connecting: tokio::sync::Mutex<()>,
    waiting: Mutex<Vec<MultiplexedConnection>>,
    health: watch::Sender<Health>,
    closed: AtomicBool,
    /// Rung when the connection broke, and at the end.
    bell: Notify,
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    /// Counts connections: a fault of an old one does not end the new one.
    number: u64,
    /// Not before this another try.
    not_before: Option<Instant>,
    pause: Duration,
    /// What is to be known although the server answers.
    impaired: Option<Arc<str>>,
    why: Option<Error>,
}

impl Link {
    pub(crate) fn new(options: Options) -> Result<Arc<Self>> {
        Ok(Arc::new(Link {
            client: options.client()?,
            options,
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            waiting: Mutex::default(),
            health: watch::Sender::new(Health::Down("not connected yet".into())),
            closed: AtomicBool::new(false),
            bell: Notify::new(),
            ended: watch::Sender::new(false),
        }))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.health
                .send_replace(Health::Ended("it was closed".into()));
            self.ended.send_replace(true);
            self.bell.notify_waiters();
            self.waiting.lock().clear();
        }
    }

    /// Lets go of the connection, when nothing is under way any more.
    pub(crate) fn let_go(&self) {
        self.state.lock().connection = None;
    }

    /// Ready when the link was closed.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender is here, so it does not fail.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    fn config(&self, response: Option<Duration>) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.options.timeout))
            .set_response_timeout(response)
    }

    /// The connection that all calls share, made when there is none. It is made on a task of its own: a caller whose future is not
    /// polled for a while must not hold up the others.
    async fn shared(self: &Arc<Self>) -> Result<(MultiplexedConnection, u64)> {
        if let Some(found) = self.present() {
            return Ok(found);
        }
        let link = self.clone();
        let made = tokio::spawn(async move { link.connect().await });
        made.await.map_err(|_| closed())?
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, u64)> {
        let _one = self.connecting.lock().await;
        if let Some(found) = self.present() {
            return Ok(found);
        }
        if self.is_closed() {
            return Err(closed());
        }
        if let Some(error) = self.not_yet() {
            return Err(error);
        }
        let config = self.config(Some(self.options.timeout));
        let made = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await;
        let mut state = self.state.lock();
        match made {
            Ok(connection) => {
                state.number += 1;
                state.connection = Some(connection.clone());
                state.pause = BACKOFF.0;
                state.not_before = None;
                Ok((connection, state.number))
            }
            Err(error) => {
                let pause = state.pause.max(BACKOFF.0);
                state.not_before = Some(Instant::now() + pause);
                state.pause = (pause * 2).min(BACKOFF.1);
                drop(state);
                let error = fault(
                    format!("connecting to Redis at {}", self.options.address()),
                    error,
                );
                self.down(&error);
                Err(error)
            }
        }
    }

    fn present(&self) -> Option<(MultiplexedConnection, u64)> {
        let state = self.state.lock();
        Some((state.connection.clone()?, state.number))
    }

    /// While the pause after a failed try lasts, the answer is at hand.
    fn not_yet(&self) -> Option<Error> {
        let state = self.state.lock();
        state.not_before.filter(|time| Instant::now() < *time)?;
        let text = format!("Redis at {} does not answer", self.options.address());
        let why = state.why.as_ref().map(|why| why.message().to_owned());
        let error = Error::new(Kind::Unavailable, text)
            .next("the engine goes on trying; its health says how it is");
        Some(match why {
            Some(why) => error.with("reason", why),
            None => error,
        })
    }

    /// A fault of the connection with this number.
    fn note(&self, number: u64, what: &str, error: RedisError) -> Error {
        let ends = ends_connection(&error);
        let error = fault(what, error);
        if ends {
            let mut state = self.state.lock();
            // What an earlier connection still has to say is no news of this one.
            if state.number == number {
                state.connection = None;
                drop(state);
                self.down(&error);
                self.bell.notify_one();
            }
        }
        error
    }

    /// Runs one command. A write of which no answer came may have happened: `writes` says that it is one.
    pub(crate) async fn run(
        self: &Arc<Self>,
        what: &str,
        command: &Cmd,
        writes: bool,
    ) -> Result<Value> {
        let (mut connection, number) = self.shared().await?;
        let answer = connection.req_packed_command(command).await;
        let answer = answer.and_then(Value::extract_error);
        answer.map_err(|error| self.failed(number, what, error, writes))
    }

    /// Runs commands together. The first that the server refuses is the error.
    pub(crate) async fn run_all(
        self: &Arc<Self>,
        what: &str,
        commands: &Pipeline,
        writes: bool,
    ) -> Result<Vec<Value>> {
        let answers = self.run_each(what, commands, writes).await?;
        let checked = answers.into_iter().map(Value::extract_error);
        let checked: Result<_, RedisError> = checked.collect();
        checked.map_err(|error| fault(what, error))
    }

    /// Runs commands together; the answer to each may be an error of the server.
    pub(crate) async fn run_each(
        self: &Arc<Self>,
        what: &str,
        commands: &Pipeline,
        writes: bool,
    ) -> Result<Vec<Value>> {
        let (mut connection, number) = self.shared().await?;
        // Of a transaction only the answer to its `EXEC` counts.
        let (offset, count) = match commands.is_transaction() {
            true => (commands.len() + 1, 1),
            false => (0, commands.len()),
        };
        let answer = connection
            .req_packed_commands(commands, offset, count)
            .await;
        let read_only = answer.as_ref().ok().and_then(|answers| {
            answers.iter().find_map(|answer| match answer {
                Value::ServerError(error) => Some(RedisError::from(error.clone())),
                _ => None,
            })
        });
        if let Some(error) = read_only.filter(ends_connection) {
            return Err(self.failed(number, what, error, writes));
        }
        answer.map_err(|error| self.failed(number, what, error, writes))
    }

    fn failed(&self, number: u64, what: &str, error: RedisError, writes: bool) -> Error {
        // A server that answers has not done it; a connection that ends says nothing.
        let silent = error.is_io_error();
        let error = self.note(number, what, error);
        match writes && silent {
            true => error.unknown(),
            false => error,
        }
    }

    /// Runs a command that the server may hold back for so long, on a connection of its own.
    pub(crate) async fn wait_for(
        self: &Arc<Self>,
        what: &str,
        command: &Cmd,
        time: Duration,
    ) -> Result<Value> {
        let kept = self.waiting.lock().pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                // The shared one tells first that nobody answers.
                self.shared().await?;
                let config = self.config(None);
                let made = self
                    .client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await;
                made.map_err(|error| fault(what, error))?
            }
        };
        let answer = tokio::select! {
            () = self.ended() => return Err(closed()),
            answer = tokio::time::timeout(time + self.options.timeout, connection.req_packed_command(command)) => answer,
        };
        match answer.map(|answer| answer.and_then(Value::extract_error)) {
            Ok(Ok(value)) => {
                let mut waiting = self.waiting.lock();
                if waiting.len() < KEPT && !self.is_closed() {
                    waiting.push(connection);
                }
                Ok(value)
            }
            Ok(Err(error)) => Err(fault(what, error)),
            Err(_) => {
                let text = format!(
                    "{what}: Redis at {} does not answer",
                    self.options.address()
                );
                Err(Error::new(Kind::TimedOut, text))
            }
        }
    }

    fn down(&self, error: &Error) {
        self.state.lock().why = Some(Error::new(error.kind(), error.message().to_owned()));
        self.set(Health::Down(error.message().into()));
    }

    /// What is to be known although it answers; `None`: nothing.
    pub(crate) fn impair(&self, why: Option<String>) {
        self.state.lock().impaired = why.map(Arc::from);
    }

    fn set(&self, health: Health) {
        self.health.send_if_modified(|now| {
            let changes = *now != health && !matches!(now, Health::Ended(_));
            if changes {
                match (&*now, &health) {
                    (_, Health::Down(why)) => tracing::warn!(%why, "the Redis server is down"),
                    (Health::Down(_), _) => tracing::info!("the Redis server is up"),
                    _ => {}
                }
                *now = health;
            }
            changes
        });
    }

    /// Asks the server for a sign of life.
    pub(crate) async fn ping(self: &Arc<Self>) -> Result<()> {
        let answer = self
            .run("looking at the server", &redis::cmd("PING"), false)
            .await;
        answer.map(drop).inspect_err(|error| self.down(error))
    }

    /// It answers.
    pub(crate) fn up(&self) {
        let impaired = self.state.lock().impaired.clone();
        self.set(impaired.map_or(Health::Up, Health::Impaired));
    }

    /// Until the next look: long while it answers, unless the connection breaks; with growing pauses while it does not.
    pub(crate) async fn rest(&self, answered: bool) {
        let not_before = self.state.lock().not_before;
        let left = not_before.map(|time| time.saturating_duration_since(Instant::now()));
        let pause = match answered {
            true => LOOK,
            false => left.unwrap_or(BACKOFF.0).max(Duration::from_millis(5)),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.bell.notified() => {}
            () = self.ended() => {}
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({:?})", self.options)
    }
}
