//! What the clients of one engine share: how the cluster is, and where their events go.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};
use strait_core::Health;
use tokio::sync::watch;

use crate::produce::Pending;

/// The context of every client.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pulse: Arc<Pulse>,
}

/// How the cluster is, and the bell that has it looked at.
#[derive(Debug)]
pub(crate) struct Pulse {
    health: watch::Sender<Health>,
    state: Mutex<Beat>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Beat {
    rung: bool,
    /// What the client said last of its connections.
    reason: Option<Arc<str>>,
    closed: bool,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        let health = Health::Down("the cluster has not answered yet".into());
        Pulse {
            health: watch::Sender::new(health),
            state: Mutex::default(),
            bell: Condvar::new(),
        }
    }

    pub(crate) fn link(self: &Arc<Self>) -> Link {
        Link {
            pulse: self.clone(),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Nothing is looked at any more.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.set(Health::Ended("the engine was closed".into()));
        self.bell.notify_all();
    }

    /// A connection has a fault: the cluster is looked at now. A reason that only says that all connections have one tells
    /// less than what one of them said before.
    fn ring(&self, reason: &str, of_all: bool) {
        let mut state = self.state.lock();
        if !of_all || state.reason.is_none() {
            state.reason = Some(reason.into());
        }
        state.rung = true;
        self.bell.notify_all();
    }

    /// Waits for the time, a fault or the end.
    pub(crate) fn wait(&self, time: Duration) {
        let mut state = self.state.lock();
        if !state.rung && !state.closed {
            self.bell.wait_for(&mut state, time);
        }
        state.rung = false;
    }

    /// The cluster answered.
    pub(crate) fn up(&self) {
        self.state.lock().reason = None;
        self.set(Health::Up);
    }

    /// It did not; what its connections said is the better reason.
    pub(crate) fn down(&self, otherwise: &str) {
        let reason = self.state.lock().reason.clone();
        self.set(Health::Down(reason.unwrap_or_else(|| otherwise.into())));
    }

    pub(crate) fn is_up(&self) -> bool {
        *self.health.borrow() == Health::Up
    }

    fn set(&self, health: Health) {
        self.health.send_if_modified(|now| {
            // The end is the last word.
            let changes = *now != health && !matches!(now, Health::Ended(_));
            if changes {
                match (&*now, &health) {
                    (_, Health::Down(why)) => tracing::warn!(%why, "the Kafka cluster is down"),
                    (Health::Down(_), Health::Up) => tracing::info!("the Kafka cluster is up"),
                    _ => {}
                }
                *now = health;
            }
            changes
        });
    }
}

impl ClientContext for Link {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(fac, "{message}");
            }
            // Faults of connections come as errors too, and the health tells them once.
            _ => tracing::debug!(fac, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        tracing::debug!(%error, reason, "Kafka client");
        let connection = matches!(
            code,
            Some(
                Code::AllBrokersDown
                    | Code::BrokerTransportFailure
                    | Code::Resolve
                    | Code::SSL
                    | Code::Authentication
                    | Code::SaslAuthenticationFailed
                    | Code::OperationTimedOut
            )
        );
        if connection {
            let of_all = code == Some(Code::AllBrokersDown);
            self.pulse.ring(reason, of_all);
        }
    }
}

impl ConsumerContext for Link {}

impl ProducerContext<NoCustomPartitioner> for Link {
    type DeliveryOpaque = Arc<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Arc<Pending>) {
        pending.delivered(result);
    }
}
