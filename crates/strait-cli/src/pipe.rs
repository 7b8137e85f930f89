//! Stdout for streams: written on a thread of its own, so that a slow reader stops nobody but this command.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::fail::{Failure, Outcome};
use crate::out::closed_or_error;

struct Page {
    bytes: Vec<u8>,
    written: Option<oneshot::Sender<()>>,
}

/// The writing end. At most four pages wait.
#[derive(Debug)]
pub(crate) struct Pipe {
    pages: mpsc::Sender<Page>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Pipe {
    /// Starts the writer.
    pub(crate) fn stdout() -> Self {
        let (pages, mut waiting) = mpsc::channel::<Page>(4);
        let failure = Arc::new(Mutex::new(None));
        let failed = failure.clone();
        std::thread::spawn(move || {
            let mut stdout = io::stdout().lock();
            while let Some(page) = waiting.blocking_recv() {
                let done = stdout.write_all(&page.bytes).and_then(|()| stdout.flush());
                if let Err(error) = done {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
                if let Some(written) = page.written {
                    // Nobody has to wait for it.
                    let _ = written.send(());
                }
            }
        });
        Pipe { pages, failure }
    }

    /// Hands a page over; it is written and flushed soon.
    pub(crate) async fn send(&self, bytes: Vec<u8>) -> Outcome {
        self.hand_over(bytes, None).await
    }

    /// Hands a page over and waits until everything so far is written and flushed.
    pub(crate) async fn flush(&self, bytes: Vec<u8>) -> Outcome {
        let (written, done) = oneshot::channel();
        self.hand_over(bytes, Some(written)).await?;
        done.await.map_err(|_| self.failure())
    }

    async fn hand_over(&self, bytes: Vec<u8>, written: Option<oneshot::Sender<()>>) -> Outcome {
        let page = Page { bytes, written };
        self.pages.send(page).await.map_err(|_| self.failure())
    }

    fn failure(&self) -> Failure {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        // A second caller finds the error taken: the pipe is closed all the same.
        failure.take().map_or(Failure::ClosedPipe, closed_or_error)
    }
}
