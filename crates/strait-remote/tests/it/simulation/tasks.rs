//! Everything that runs in a simulation, and processes that stand still.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinSet};

/// The tasks of a run: the failure of one is the failure of the run.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.0.lock().spawn(task)
    }

    /// Lets time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        let mut end = std::pin::pin!(tokio::time::sleep(time));
        std::future::poll_fn(|cx| {
            while let Poll::Ready(Some(ended)) = self.0.lock().poll_join_next(cx) {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
            end.as_mut().poll(cx)
        })
        .await;
    }
}

/// Whether a process runs. While it is stopped nothing of it moves, and time goes on.
#[derive(Debug, Default)]
pub(crate) struct Scheduler(Mutex<(bool, Vec<Waker>)>);

impl Scheduler {
    pub(crate) fn stop(&self) {
        self.0.lock().0 = true;
    }

    /// Everything that would have moved meanwhile moves now.
    pub(crate) fn go_on(&self) {
        let mut state = self.0.lock();
        state.0 = false;
        let wakers = std::mem::take(&mut state.1);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A task of this process.
    pub(crate) fn run<T: Future<Output = ()> + Send>(
        self: &Arc<Self>,
        task: T,
    ) -> impl Future<Output = ()> + Send + use<T> {
        Scheduled {
            scheduler: self.clone(),
            task: Box::pin(task),
        }
    }
}

struct Scheduled<T> {
    scheduler: Arc<Scheduler>,
    task: Pin<Box<T>>,
}

impl<T: Future<Output = ()>> Future for Scheduled<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.scheduler.0.lock();
        if state.0 {
            state.1.push(cx.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        self.task.as_mut().poll(cx)
    }
}
