//! A stranger's crate: outside the workspace, depending on `strait` by path, with the README's programs.

use super::{Context, Outcome, cargo, counts, program};
use crate::markdown;
use std::fs;
use std::path::Path;
use toml::{Table, Value};

/// What the README's programs may use when it shows no `[dependencies]` of its own.
const DEPENDENCIES: &str = "\
strait = \"*\"
serde = { version = \"1\", features = [\"derive\"] }
serde_json = \"1\"
tokio = { version = \"1\", features = [\"macros\", \"rt-multi-thread\", \"signal\", \"time\"] }
";

/// Builds and runs each `rust` block of the README that has a `fn main`.
pub(super) fn run(context: &mut Context) -> Outcome {
    build_and_run(context).into()
}

fn build_and_run(context: &Context) -> Result<(), String> {
    let readme = fs::read_to_string(context.root.join("README.md"))
        .map_err(|error| format!("README.md: {error}"))?;
    let programs = programs(&readme);
    if programs.is_empty() {
        return Err("README.md has no `rust` block with a `fn main`".to_owned());
    }
    let dir = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let root = dir.path();
    write(&root.join("Cargo.toml"), &manifest(context, &readme)?)?;
    for (name, text) in &programs {
        write(&root.join("src/bin").join(format!("{name}.rs")), text)?;
    }
    // The workspace's versions: nothing new is fetched, and what the tests built is used again.
    let lock = context.root.join("Cargo.lock");
    fs::copy(&lock, root.join("Cargo.lock"))
        .map_err(|error| format!("{}: {error}", lock.display()))?;

    let mut build = cargo(root);
    build
        .args(["build", "--offline", "--bins"])
        .env("CARGO_TARGET_DIR", &context.workspace.target);
    counts::succeed(&mut build)?;
    for (name, _) in &programs {
        println!("README program {name}");
        let file = context.workspace.target.join("debug").join(name);
        program::run_in_empty_dir(&file).map_err(|why| format!("README program {name}: {why}"))?;
    }
    Ok(())
}

/// The README's programs, each under a name of its own.
fn programs(readme: &str) -> Vec<(String, String)> {
    let (blocks, _) = markdown::split(readme);
    let not_run = ["ignore", "no_run", "compile_fail", "should_panic"];
    blocks
        .into_iter()
        .filter(|block| block.language() == "rust" && block.text.contains("fn main"))
        .filter(|block| !not_run.iter().any(|word| block.info.contains(word)))
        .map(|block| (format!("readme_line_{}", block.line), block.text))
        .collect()
}

/// A manifest with the README's dependencies, `strait` by path, and the workspace's profiles (with others the
/// dependencies would be built again).
fn manifest(context: &Context, readme: &str) -> Result<String, String> {
    let workspace = fs::read_to_string(context.root.join("Cargo.toml"))
        .map_err(|error| format!("Cargo.toml: {error}"))?;
    let mut workspace: Table =
        toml::from_str(&workspace).map_err(|error| format!("Cargo.toml: {error}"))?;
    let mut dependencies = readme_dependencies(readme)?;
    let path = context.root.join("crates/strait");
    by_path(&mut dependencies, &path);

    let mut manifest: Table = toml::from_str(
        "[package]\nname = \"strait-scratch\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n[workspace]\n",
    )
    .map_err(|error| error.to_string())?;
    manifest.insert("dependencies".to_owned(), Value::Table(dependencies));
    if let Some(profile) = workspace.remove("profile") {
        manifest.insert("profile".to_owned(), profile);
    }
    toml::to_string(&manifest).map_err(|error| error.to_string())
}

fn readme_dependencies(readme: &str) -> Result<Table, String> {
    let (blocks, _) = markdown::split(readme);
    for block in blocks.iter().filter(|block| block.language() == "toml") {
        let table: Table = toml::from_str(&block.text)
            .map_err(|error| format!("README.md:{}: {error}", block.line))?;
        if let Some(Value::Table(found)) = table.get("dependencies") {
            return Ok(found.clone());
        }
    }
    toml::from_str(DEPENDENCIES).map_err(|error| error.to_string())
}

/// Lets `strait` come from the tree, with the features that were asked for.
fn by_path(dependencies: &mut Table, path: &Path) {
    let mut strait = match dependencies.remove("strait") {
        Some(Value::Table(table)) => table,
        _ => Table::new(),
    };
    strait.remove("version");
    let path = path.display().to_string();
    strait.insert("path".to_owned(), Value::String(path));
    dependencies.insert("strait".to_owned(), Value::Table(strait));
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_the_blocks_with_a_main() {
        let readme = "```rust\nfn main() {}\n```\n```rust\nlet a = 1;\n```\n```rust,no_run\nfn main() {}\n```\n```rust\nasync fn main() {}\n```\n";
        let names: Vec<String> = programs(readme).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["readme_line_1", "readme_line_10"]);
    }

    #[test]
    fn dependencies_come_from_the_readme_and_strait_from_the_tree() {
        let readme = "```toml\n[dependencies]\nstrait = { version = \"0.1\", features = [\"x\"] }\ntokio = \"1\"\n```\n";
        let mut found = readme_dependencies(readme).unwrap_or_default();
        by_path(&mut found, Path::new("crates/strait"));
        let text = toml::to_string(&found).unwrap_or_default();
        assert!(text.contains("tokio = \"1\""), "{text}");
        assert!(text.contains("path = \"crates/strait\""), "{text}");
        assert!(text.contains("features = [\"x\"]"), "{text}");
        assert!(!text.contains("0.1"), "{text}");
        let without = readme_dependencies("no block").unwrap_or_default();
        assert!(without.contains_key("strait") && without.contains_key("tokio"));
    }
}
