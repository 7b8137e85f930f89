//! A data directory for one case: it can be reopened, and killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use strait_conformance::Harness;
use strait_core::{Engine, Error, Fut, Result};
use strait_embedded::{Embedded, Options};

use crate::bent::{Bend, Bent, True};

/// Small segments, and a housekeeper that looks often: retention is seen within a case.
fn options() -> Options {
    Options {
        segment_bytes: 4 << 20,
        retention_every: Duration::from_millis(50),
        ..Options::default()
    }
}

/// An engine in a directory of its own, as the mutant bends it.
pub(crate) fn harness(bend: Arc<dyn Bend>) -> Result<Harness> {
    let temp = tempfile::tempdir().map_err(|error| Error::io("a temporary directory", error))?;
    let place = Place {
        root: temp.path().to_owned(),
        lives: Arc::new(Mutex::new(0)),
        bend: bend.clone(),
    };
    let engine = Arc::new(Bent::new(place.open()?, bend));
    let (reopening, killing) = (place.clone(), place);
    let harness = Harness::new(engine)
        .reopen(move || reopening.reopen())
        .kill(move || killing.kill());
    Ok(harness.keep(temp))
}

/// An engine in memory, as the mutant bends it.
pub(crate) fn memory(bend: Arc<dyn Bend>) -> Result<Harness> {
    let engine = Embedded::memory(options())?;
    Ok(Harness::new(Arc::new(Bent::new(engine, bend))))
}

/// Where the data lies: `root/0`, and after each kill in the next directory.
#[derive(Clone)]
struct Place {
    root: PathBuf,
    lives: Arc<Mutex<u32>>,
    bend: Arc<dyn Bend>,
}

impl Place {
    fn dir(&self, life: u32) -> PathBuf {
        self.root.join(life.to_string())
    }

    fn open(&self) -> Result<Arc<dyn Engine>> {
        Ok(Embedded::open(self.dir(*self.lives.lock()), options())?)
    }

    fn reopen(&self) -> Fut<Result<Arc<dyn Engine>>> {
        let (opened, bend) = (self.open(), self.bend.clone());
        Box::pin(async move {
            let engine = opened?;
            bend.reopened(&True::of(engine.clone())).await?;
            Ok(Arc::new(Bent::new(engine, bend)) as Arc<dyn Engine>)
        })
    }

    /// What the death of the process leaves is what its files hold: a copy of them, opened while the engine that wrote
    /// them lives on without knowing.
    fn kill(&self) -> Fut<Result<Arc<dyn Engine>>> {
        let copied = {
            let mut lives = self.lives.lock();
            *lives += 1;
            copy(&self.dir(*lives - 1), &self.dir(*lives))
        };
        match copied {
            Ok(()) => self.reopen(),
            Err(error) => {
                let error = Error::io("a copy of the data directory", error);
                Box::pin(std::future::ready(Err(error)))
            }
        }
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name() != "LOCK" {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
