//! Threads of our own for calls of librdkafka that block: no worker of the caller's runtime ever waits in one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use strait_core::Result;
use tokio::sync::oneshot;

use crate::fault::closed;

/// Calls that block at the same time; more wait for their turn.
const MOST: usize = 64;
/// A thread that has had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);

pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Threads that come as they are needed, and go.
#[derive(Default)]
pub(crate) struct Threads {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    count: usize,
}

/// Whether anybody still waits for the answer of a call.
pub(crate) struct Wanted<'a, T>(&'a oneshot::Sender<T>);

impl<T> Wanted<'_, T> {
    pub(crate) fn is(&self) -> bool {
        !self.0.is_closed()
    }
}

impl Threads {
    /// Runs `call` on a thread. It is told whether its answer is still wanted, so that it can end early.
    pub(crate) async fn run<T, F>(self: &Arc<Self>, call: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Wanted<'_, Result<T>>) -> Result<T> + Send + 'static,
    {
        let (to, answer) = oneshot::channel();
        self.push(Box::new(move || {
            if to.is_closed() {
                return;
            }
            let found = call(Wanted(&to));
            // Whoever asked may have gone meanwhile.
            let _ = to.send(found);
        }));
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Runs a job on a thread, as soon as one is free.
    pub(crate) fn push(self: &Arc<Self>, job: Job) {
        let mut state = self.state.lock();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            self.wake.notify_one();
            return;
        }
        if state.count < MOST {
            let own = self.clone();
            let named = std::thread::Builder::new().name("strait-kafka-call".to_owned());
            match named.spawn(move || own.work()) {
                Ok(_) => state.count += 1,
                Err(error) => tracing::error!(%error, "no thread for a call to Kafka"),
            }
        }
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state.lock();
                continue;
            }
            state.idle += 1;
            let passed = self.wake.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if passed && state.jobs.is_empty() {
                state.count -= 1;
                return;
            }
        }
    }
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        write!(f, "Threads({} of {MOST})", state.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_run_beside_each_other_and_answer() {
        let threads = Arc::new(Threads::default());
        let barrier = Arc::new(std::sync::Barrier::new(8));
        let calls = (0..8).map(|n| {
            let (threads, barrier) = (threads.clone(), barrier.clone());
            async move {
                threads
                    .run(move |_| {
                        // Ends only when all eight are in their call.
                        barrier.wait();
                        Ok(n)
                    })
                    .await
            }
        });
        let found = futures_util::future::join_all(calls).await;
        let found: Result<Vec<i32>> = found.into_iter().collect();
        assert_eq!(found.unwrap(), (0..8).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_call_that_nobody_waits_for_is_told() {
        let threads = Arc::new(Threads::default());
        let (began, begun) = oneshot::channel();
        let (to, ended) = oneshot::channel();
        let call = tokio::spawn(async move {
            let call = threads.run(move |wanted| {
                let _ = began.send(());
                while wanted.is() {
                    std::thread::yield_now();
                }
                let _ = to.send(());
                Ok(())
            });
            call.await
        });
        begun.await.unwrap();
        call.abort();
        tokio::time::timeout(Duration::from_secs(10), ended)
            .await
            .unwrap()
            .unwrap();
    }
}
