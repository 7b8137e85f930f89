//! Where engines are kept, and where their data goes.

use crate::cargo;
use std::fs;
use std::path::{Path, PathBuf};

/// A directory for the installed engines that several checkouts may share.
const CACHE: &str = "STRAIT_ENGINES_DIR";

/// The directories of `cargo xtask engines`.
pub(crate) struct Place {
    /// Installed engines, one directory each.
    cache: PathBuf,
    /// Data of running ones, and the list of them.
    run: PathBuf,
}

impl Place {
    /// `target/engines` of this workspace, or the directory that `STRAIT_ENGINES_DIR` names. Data is always under `target`:
    /// a temporary directory may be memory.
    pub(crate) fn of(root: &Path) -> Result<Self, String> {
        let own = cargo::workspace(root)?.target.join("engines");
        let cache = std::env::var_os(CACHE).map_or_else(|| own.clone(), PathBuf::from);
        Self::new(cache, own.join("run"))
    }

    fn new(cache: PathBuf, run: PathBuf) -> Result<Self, String> {
        for dir in [&cache, &run] {
            fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        // The engines are started in directories of their own, so a relative path would not lead here.
        let absolute = |dir: PathBuf| {
            fs::canonicalize(&dir).map_err(|error| format!("{}: {error}", dir.display()))
        };
        Ok(Self {
            cache: absolute(cache)?,
            run: absolute(run)?,
        })
    }

    #[cfg(test)]
    pub(super) fn in_directory(dir: &Path) -> Self {
        let Ok(place) = Self::new(dir.join("cache"), dir.join("run")) else {
            panic!("no directories in {}", dir.display())
        };
        place
    }

    /// Where an engine of this name and version is installed.
    pub(super) fn installed(&self, name: &str, version: &str) -> PathBuf {
        self.cache.join(format!("{name}-{version}"))
    }

    /// Where the data of running engines is.
    pub(super) fn run(&self) -> &Path {
        &self.run
    }

    /// The list of the programs of other systems, for tests that are run by themselves.
    pub(super) fn clients(&self) -> PathBuf {
        self.run.join("clients.json")
    }

    /// The list of what runs.
    pub(super) fn list(&self) -> PathBuf {
        self.run.join("running.json")
    }
}
