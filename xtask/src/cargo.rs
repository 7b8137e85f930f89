//! Cargo and what it says about the workspace.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cargo command at the root of the workspace, without the variables that `cargo run` put into our own
/// environment (build scripts that watch them would run again).
pub(crate) fn cargo(root: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || matches!(
                &*text,
                "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE" | "OUT_DIR"
            );
        if ours {
            command.env_remove(&name);
        }
    }
    command
}

/// Whether CI runs us: then nothing that is required may be missing, and `Cargo.lock` must be up to date.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// The directory of the workspace: that of our own manifest's parent, or the nearest one upward with a workspace.
pub(crate) fn root() -> Result<PathBuf, String> {
    if let Some(own) = std::env::var_os("CARGO_MANIFEST_DIR")
        && let Some(parent) = Path::new(&own).parent()
    {
        return Ok(parent.to_owned());
    }
    let here = std::env::current_dir().map_err(|e| format!("no current directory: {e}"))?;
    let is_root = |dir: &&Path| {
        std::fs::read_to_string(dir.join("Cargo.toml"))
            .is_ok_and(|text| text.contains("[workspace]"))
    };
    here.ancestors()
        .find(is_root)
        .map(Path::to_owned)
        .ok_or_else(|| format!("{}: no Cargo workspace here or above", here.display()))
}

/// What `cargo metadata` knows about the workspace's own packages.
pub(crate) struct Workspace {
    pub(crate) target: PathBuf,
    pub(crate) members: Vec<Member>,
}

/// One package of the workspace.
pub(crate) struct Member {
    pub(crate) name: String,
    /// Whether it goes to crates.io.
    pub(crate) published: bool,
    pub(crate) has_default_features: bool,
    /// Its features, without `default`.
    pub(crate) features: Vec<String>,
    pub(crate) dependencies: Vec<Dependency>,
    /// Names of its example programs.
    pub(crate) examples: Vec<String>,
}

/// One line of a package's dependencies.
pub(crate) struct Dependency {
    /// The package's own name, also when it is renamed.
    pub(crate) name: String,
    /// Whether it is a dev-dependency.
    pub(crate) dev: bool,
}

/// Asks cargo about the workspace; no network, no dependency resolution.
pub(crate) fn workspace(root: &Path) -> Result<Workspace, String> {
    let output = cargo(root)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .map_err(|error| format!("cargo metadata did not start: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let answer: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata answered no JSON: {error}"))?;
    Ok(Workspace {
        target: PathBuf::from(string(&answer["target_directory"])),
        members: list(&answer["packages"]).iter().map(member).collect(),
    })
}

fn member(package: &Value) -> Member {
    let is_example = |target: &&Value| list(&target["kind"]).iter().any(|kind| kind == "example");
    Member {
        name: string(&package["name"]),
        published: package["publish"]
            .as_array()
            .is_none_or(|to| !to.is_empty()),
        has_default_features: !list(&package["features"]["default"]).is_empty(),
        features: package["features"]
            .as_object()
            .map(|features| features.keys().filter(|name| *name != "default"))
            .map(|names| names.cloned().collect())
            .unwrap_or_default(),
        dependencies: list(&package["dependencies"])
            .iter()
            .map(|dependency| Dependency {
                name: string(&dependency["name"]),
                dev: dependency["kind"] == "dev",
            })
            .collect(),
        examples: list(&package["targets"])
            .iter()
            .filter(is_example)
            .map(|target| string(&target["name"]))
            .collect(),
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
