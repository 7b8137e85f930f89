//! The task that keeps the engine: it follows its health, and connects again when it is lost.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use strait_core::{Error, Health, Kind, Result};
use tokio::time::Instant;

use super::{Connect, Connected, Core, Current, Phase, ReconnectOptions};
use crate::wire::copy_of;

/// The first connection: tries again for a while where that can help.
pub(super) async fn first(connect: &dyn Connect, options: ReconnectOptions) -> Result<Connected> {
    let until = Instant::now() + options.first_within;
    let mut pause = Pause::new(options);
    loop {
        match connect.connect().await {
            Err(error) if error.may_retry() && Instant::now() < until => pause.take().await,
            result => return result,
        }
    }
}

/// Runs as long as there are handles.
pub(super) async fn supervise(core: Arc<Core>, connect: Arc<dyn Connect>) {
    let mut number = 0;
    loop {
        let Phase::Up(current) = core.phase.borrow().clone() else {
            return;
        };
        let why = follow(&core, &current).await;
        drop(current);
        tracing::info!(%why, "the engine is gone, connecting again");
        let away = away(&why, 0, None);
        if !core.turn(Phase::Away(Arc::new(away)), Health::Down(why.clone())) {
            return;
        }
        number += 1;
        let connected = connect_again(&core, &*connect, &why).await;
        let health = connected.engine.health().borrow().clone();
        if !core.turn(Phase::Up(Current::new(connected, number)), health) {
            return;
        }
    }
}

/// Passes the engine's health on until it is lost; gives the reason. A local engine is never lost.
async fn follow(core: &Core, current: &Current) -> Arc<str> {
    let mut health = current.engine.health();
    loop {
        let now = health.borrow_and_update().clone();
        match now {
            Health::Down(why) | Health::Ended(why) if !current.local => return why,
            now => core.tell(now),
        }
        if health.changed().await.is_err() {
            if current.local {
                // It ended, and said so.
                return std::future::pending().await;
            }
            return "it ended".into();
        }
    }
}

async fn connect_again(core: &Core, connect: &dyn Connect, why: &Arc<str>) -> Connected {
    let mut pause = Pause::new(core.options);
    for attempt in 1u64.. {
        match connect.connect().await {
            Ok(connected) => return connected,
            Err(error) => {
                let advice = error.advice().map(|next| format!("; next: {next}"));
                let text = format!(
                    "{why}; attempt {attempt} to connect again: {error}{}",
                    advice.unwrap_or_default()
                );
                let away = away(why, attempt, Some(&error));
                core.turn(Phase::Away(Arc::new(away)), Health::Down(text.into()));
                if !error.may_retry() {
                    pause.slow();
                }
            }
        }
        pause.take().await;
    }
    unreachable!("there are more numbers than attempts")
}

/// What callers are told while the engine is away.
fn away(why: &str, attempt: u64, last: Option<&Error>) -> Error {
    match last {
        Some(error) if !error.may_retry() => copy_of(error),
        Some(error) => {
            let text =
                format!("the engine is gone ({why}); attempt {attempt} to reach it again: {error}");
            Error::new(Kind::Unavailable, text)
        }
        None => Error::new(Kind::Unavailable, format!("the engine is gone: {why}")),
    }
}

impl Core {
    /// Changes the phase, unless the engine was closed.
    fn turn(&self, phase: Phase, health: Health) -> bool {
        let turned = self.phase.send_if_modified(|now| {
            let open = !matches!(now, Phase::Closed);
            if open {
                *now = phase;
            }
            open
        });
        if turned {
            self.tell(health);
        }
        turned
    }

    fn tell(&self, health: Health) {
        self.health.send_if_modified(|now| {
            let other = *now != health;
            *now = health;
            other
        });
    }
}

/// Pauses that double, each between half and all of its length: processes that lost the same owner do not try in step.
struct Pause {
    next: Duration,
    most: Duration,
}

impl Pause {
    fn new(options: ReconnectOptions) -> Self {
        Pause {
            next: options.pause.min(options.pause_most),
            most: options.pause_most,
        }
    }

    /// The next one is the longest.
    fn slow(&mut self) {
        self.next = self.most;
    }

    async fn take(&mut self) {
        let random = RandomState::new().hash_one(0) % 1024;
        let part = 0.5 + random as f64 / 2048.0;
        tokio::time::sleep(self.next.mul_f64(part)).await;
        self.next = (self.next * 2).min(self.most);
    }
}
