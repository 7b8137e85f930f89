//! The engine under test, and the hooks that some cases need.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use strait_core::{Engine, Fut, Result};

type Fresh = Arc<dyn Fn() -> Fut<Result<Harness>> + Send + Sync>;

/// Ends the engine in some way and opens the same store again.
pub type Restart = Arc<dyn Fn() -> Fut<Result<Arc<dyn Engine>>> + Send + Sync>;

/// What is tested.
#[derive(Clone)]
pub struct Target {
    name: String,
    fresh: Fresh,
    pub(crate) patience: Duration,
}

impl Target {
    /// `fresh` gives an engine for one case: an empty store where that is cheap, else a new client on a shared server
    /// (names of topics and groups are unique in any case). It is called on the case's own runtime.
    pub fn new<F, R>(name: impl Into<String>, fresh: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Harness>> + Send + 'static,
    {
        Target {
            name: name.into(),
            fresh: Arc::new(move || Box::pin(fresh())),
            patience: Duration::from_secs(10),
        }
    }

    /// How long a case waits for what must come before it fails. Default 10 s; more for a server that is slow to move
    /// partitions.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Its name, in the names of the tests.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An engine for one case.
    pub(crate) fn fresh(&self) -> Fut<Result<Harness>> {
        (self.fresh)()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.name)
    }
}

/// An engine for one case. Cases that need a hook which is not given are left out.
#[derive(Clone)]
pub struct Harness {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) reopen: Option<Restart>,
    pub(crate) kill: Option<Restart>,
    pub(crate) advance: Option<Arc<dyn Fn(Duration) + Send + Sync>>,
    _keep: Option<Arc<dyn Any + Send + Sync>>,
}

impl Harness {
    /// An engine without hooks.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Harness {
            engine,
            reopen: None,
            kill: None,
            advance: None,
            _keep: None,
        }
    }

    /// The hook that opens the store again. The suite has called [`Engine::close`] on the engine before; the closed
    /// engine, and consumers and receipts of it, may still be held.
    pub fn reopen<F, R>(mut self, reopen: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Arc<dyn Engine>>> + Send + 'static,
    {
        self.reopen = Some(Arc::new(move || Box::pin(reopen())));
        self
    }

    /// The hook that ends the engine as the death of its process would, without any `close`, and opens the store again.
    /// What belongs to the dead engine may still be held, and must have no effect on the store.
    pub fn kill<F, R>(mut self, kill: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Arc<dyn Engine>>> + Send + 'static,
    {
        self.kill = Some(Arc::new(move || Box::pin(kill())));
        self
    }

    /// The hook that moves the engine's clocks forward by so much at once; they run on as usual otherwise. Without it
    /// the cases about time wait.
    pub fn advance(mut self, advance: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        self.advance = Some(Arc::new(advance));
        self
    }

    /// Keeps something until the case is over, for example a temporary directory.
    pub fn keep(mut self, what: impl Any + Send + Sync) -> Self {
        self._keep = Some(Arc::new(what));
        self
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}
