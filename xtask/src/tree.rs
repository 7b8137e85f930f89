//! The source tree as a list of files, so that each rule can also run on a small fixture tree.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The files of a checkout, build output and data directories left out.
pub(crate) struct Tree {
    /// The directory that holds the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Paths relative to `root`, sorted.
    pub(crate) files: Vec<PathBuf>,
}

impl Tree {
    /// Lists the files under `root`. Left out: the directories that `.gitignore` names from the root, hidden ones
    /// except `.ci` and `.cargo`, `node_modules`, and whatever a symbolic link points to.
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let ignored: Vec<String> = fs::read_to_string(root.join(".gitignore"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.trim().strip_prefix('/').map(str::to_owned))
            .collect();
        let mut files = Vec::new();
        let mut open = vec![PathBuf::new()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(root.join(&dir))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = dir.join(&name);
                let kind = entry.file_type()?;
                if kind.is_file() {
                    files.push(path);
                } else if kind.is_dir() && is_source_dir(&path, &name, &ignored) {
                    open.push(path);
                }
            }
        }
        files.sort();
        Ok(Self {
            root: root.to_owned(),
            files,
        })
    }

    /// The text of a file, or why it cannot be read as text.
    pub(crate) fn text(&self, path: &Path) -> Result<String, Finding> {
        fs::read_to_string(self.root.join(path)).map_err(|error| Finding {
            path: path.to_owned(),
            line: None,
            what: format!("cannot be read as text: {error}"),
        })
    }

    /// The files with this extension (without the dot).
    pub(crate) fn with_extension<'a>(
        &'a self,
        extension: &'a str,
    ) -> impl Iterator<Item = &'a PathBuf> {
        self.files
            .iter()
            .filter(move |path| path.extension().is_some_and(|found| found == extension))
    }

    /// Whether the tree has this file or a directory of this name.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file.starts_with(path))
    }
}

fn is_source_dir(path: &Path, name: &str, ignored: &[String]) -> bool {
    let top_level = path.components().count() == 1;
    let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
    let listed = ignored.iter().any(|known| path == Path::new(known));
    !(hidden || listed || name == "node_modules" || (top_level && name == "target"))
}

/// One thing that a rule found wrong, and where.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: PathBuf,
    /// Counted from 1; none when the whole file is meant.
    pub(crate) line: Option<usize>,
    pub(crate) what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.what),
            None => write!(f, "{}: {}", self.path.display(), self.what),
        }
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! Small trees on disk for the rules' own tests.
    use super::*;

    /// Writes the files into a fresh directory and reads them back as a tree. The directory lives as long as
    /// the guard.
    pub(crate) fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a file has a parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        let tree = Tree::read(dir.path()).expect("read the fixture");
        (dir, tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_output_data_and_hidden_directories_are_left_out() {
        let (_dir, tree) = fixture::tree(&[
            (".gitignore", "/target\n/strait-demo\n/bench/a/target\n"),
            ("bench/a/target/x.rs", ""),
            ("target/debug/x.rs", ""),
            ("strait-demo/log.md", ""),
            (".git/config", ""),
            ("clients/react/node_modules/a/README.md", ""),
            (".ci/run", ""),
            ("crates/a/src/target/mod.rs", ""),
        ]);
        let files: Vec<_> = tree
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        assert_eq!(
            files,
            [".ci/run", ".gitignore", "crates/a/src/target/mod.rs"]
        );
        assert!(tree.has(Path::new("crates/a")));
        assert!(!tree.has(Path::new("crates/b")));
    }
}
