//! Ctrl-C and SIGTERM: the first asks a command to finish what it has, the second ends the process.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::fail::Failure;

/// Tells when a signal asked for the end.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(watch::Receiver<Option<u8>>);

impl Interrupt {
    /// Listens from now on. Must be called inside the runtime.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let mut ctrl_c = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let (tell, told) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                let number = tokio::select! {
                    _ = ctrl_c.recv() => 2,
                    _ = term.recv() => 15,
                };
                if tell.borrow().is_some() {
                    std::process::exit(128 + i32::from(number));
                }
                tell.send_replace(Some(number));
            }
        });
        Ok(Interrupt(told))
    }

    /// Waits for the first signal.
    pub(crate) async fn wait(&self) -> Failure {
        let mut told = self.0.clone();
        match told.wait_for(Option::is_some).await {
            Ok(number) => Failure::Interrupted(number.unwrap_or(2)),
            // The listener lives as long as the runtime.
            Err(_) => std::future::pending().await,
        }
    }
}
