//! The suite of the events lane on this engine: in a directory, and in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use parking_lot::Mutex;
use strait_conformance::{Harness, Suite, Target};
use strait_core::{Engine, Error, Result};
use strait_embedded::{Embedded, Options};

fn main() -> ExitCode {
    let memory = Target::new("memory", || async {
        Ok(Harness::new(Embedded::memory(Options::default())?))
    });
    Suite::new()
        .events(Target::new("directory", || async { directory() }))
        .events(memory)
        .run()
}

/// A data directory of its own, which can be reopened, and killed.
fn directory() -> Result<Harness> {
    let temp = tempfile::tempdir().map_err(|error| Error::io("a temporary directory", error))?;
    let place = Place {
        root: temp.path().to_owned(),
        lives: Arc::new(Mutex::new(0)),
    };
    let engine = place.open()?;
    let (reopening, killing) = (place.clone(), place);
    let harness = Harness::new(engine)
        .reopen(move || std::future::ready(reopening.open()))
        .kill(move || std::future::ready(killing.kill()));
    Ok(harness.keep(temp))
}

/// Where the data lies: `root/0`, and after each kill in the next directory.
#[derive(Clone)]
struct Place {
    root: PathBuf,
    lives: Arc<Mutex<u32>>,
}

impl Place {
    fn open(&self) -> Result<Arc<dyn Engine>> {
        let dir = self.root.join(self.lives.lock().to_string());
        let options = Options {
            segment_bytes: 4 << 20,
            ..Options::default()
        };
        Ok(Embedded::open(dir, options)?)
    }

    /// What the death of the process leaves is what its files hold: a copy of them, opened while the engine that wrote
    /// them lives on without knowing.
    fn kill(&self) -> Result<Arc<dyn Engine>> {
        let mut lives = self.lives.lock();
        let (from, to) = (
            self.root.join(lives.to_string()),
            self.root.join((*lives + 1).to_string()),
        );
        copy(&from, &to).map_err(|error| Error::io("a copy of the data directory", error))?;
        *lives += 1;
        drop(lives);
        self.open()
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
