//! Every source file is reachable by a `mod` from a crate root. A file that is not compiles nowhere: code that
//! rots, or tests that never run.

use crate::rust_text::{code_only, matching, words};
use crate::tree::{Finding, Tree};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Directories below `tests/` whose files are input of tests, not modules.
const TEST_INPUT: [&str; 4] = ["ui", "compile_fail", "compile_pass", "fixtures"];

/// Names the `.rs` files of `src` and of test binaries made of several files that no `mod` leads to.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let sources: Vec<&PathBuf> = tree
        .with_extension("rs")
        .filter(|path| is_module(tree, path))
        .collect();
    let mut reached: BTreeSet<PathBuf> = BTreeSet::new();
    let mut open: Vec<(PathBuf, bool)> = sources
        .iter()
        .filter(|path| is_root(path))
        .map(|path| ((*path).clone(), true))
        .collect();
    let mut findings = Vec::new();
    while let Some((path, is_root)) = open.pop() {
        if !reached.insert(path.clone()) {
            continue;
        }
        match tree.text(&path) {
            Ok(text) => {
                let found = modules(&path, is_root, &text);
                open.extend(found.into_iter().map(|path| (path, false)));
            }
            // A module that does not exist is the compiler's to report.
            Err(finding) if tree.has(&path) => findings.push(finding),
            Err(_) => {}
        }
    }
    let dead = sources.into_iter().filter(|path| !reached.contains(*path));
    findings.extend(dead.map(|path| Finding {
        path: path.clone(),
        line: None,
        what: "no `mod` leads to this file: declare it or remove it".to_owned(),
    }));
    findings
}

/// The components after the package's directory (`crates/NAME`, `bench/NAME` or `xtask`).
fn inside_package(path: &Path) -> Vec<String> {
    let parts: Vec<String> = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    match parts.first().map(String::as_str) {
        Some("crates" | "bench") => parts.into_iter().skip(2).collect(),
        Some("xtask") => parts.into_iter().skip(1).collect(),
        _ => Vec::new(),
    }
}

fn is_module(tree: &Tree, path: &Path) -> bool {
    let parts = inside_package(path);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["src", ..] => true,
        ["tests", _, rest @ ..] if !rest.is_empty() => {
            let input = rest.iter().any(|part| TEST_INPUT.contains(part));
            let package_depth = path.components().count() - parts.len();
            let binary: PathBuf = path.components().take(package_depth + 2).collect();
            !input && tree.has(&binary.join("main.rs"))
        }
        _ => false,
    }
}

fn is_root(path: &Path) -> bool {
    let parts = inside_package(path);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    matches!(
        parts.as_slice(),
        ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["src", "bin", _, "main.rs"]
            | ["tests", _, "main.rs"]
    )
}

/// The files that the modules declared in `text` may be in.
fn modules(path: &Path, is_root: bool, text: &str) -> Vec<PathBuf> {
    let code = code_only(text);
    let dir = path.parent().unwrap_or(Path::new(""));
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let base = if is_root || stem == "mod" {
        dir.to_owned()
    } else {
        dir.join(&*stem)
    };
    let mut found = Vec::new();
    for at in words(&code, "mod") {
        let rest = code[at + 3..].trim_start();
        let name: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if name.is_empty() || !rest[name.len()..].trim_start().starts_with(';') {
            continue;
        }
        if let Some(named) = path_attribute(&code, text, at) {
            found.push(normal(&dir.join(named)));
            continue;
        }
        let inline: PathBuf = enclosing_modules(&code, at).iter().collect();
        let place = base.join(inline);
        found.push(place.join(format!("{name}.rs")));
        found.push(place.join(name).join("mod.rs"));
    }
    for at in words(&code, "include") {
        if let Some(named) = literal(&text[at..], "include!(") {
            found.push(normal(&dir.join(named)));
        }
    }
    found
}

/// The file of `#[path = "..."]` on the `mod` at `at`.
fn path_attribute(code: &str, text: &str, at: usize) -> Option<String> {
    let start = code[..at]
        .rfind([';', '}', '{'])
        .map_or(0, |found| found + 1);
    let attributes = &code[start..at];
    let found = start + attributes.find("#[path")?;
    literal(&text[found..], "#[path")
}

/// The string literal that comes right after `prefix` (and an `=`).
fn literal(text: &str, prefix: &str) -> Option<String> {
    let rest = text.strip_prefix(prefix)?;
    let rest = rest.trim_start_matches([' ', '=', '\n']);
    let inside = rest.strip_prefix('"')?;
    Some(inside[..inside.find('"')?].to_owned())
}

/// The names of the inline modules around `at`, outermost first.
fn enclosing_modules(code: &str, at: usize) -> Vec<String> {
    let mut names = Vec::new();
    for start in words(&code[..at], "mod") {
        let rest = &code[start + 3..];
        let Some(open) = rest.find(['{', ';']) else {
            continue;
        };
        let opens = start + 3 + open;
        let is_inline = rest.as_bytes()[open] == b'{';
        if is_inline && opens < at && matching(code, opens) > at {
            names.push(rest[..open].trim().to_owned());
        }
    }
    names
}

/// Removes `.` and `..` from a path inside the tree.
fn normal(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture;

    fn dead(files: &[(&str, &str)]) -> Vec<String> {
        let (_dir, tree) = fixture::tree(files);
        check(&tree)
            .into_iter()
            .map(|finding| finding.path.display().to_string())
            .collect()
    }

    #[test]
    fn a_file_without_a_mod_is_dead() {
        let found = dead(&[
            ("crates/a/src/lib.rs", "pub mod used;\n// mod unused;\n"),
            ("crates/a/src/used.rs", "mod below;"),
            ("crates/a/src/used/below.rs", ""),
            ("crates/a/src/unused.rs", ""),
            ("crates/a/src/below.rs", ""),
        ]);
        assert_eq!(found, ["crates/a/src/below.rs", "crates/a/src/unused.rs"]);
    }

    #[test]
    fn every_way_to_declare_a_module_is_followed() {
        let found = dead(&[
            (
                "crates/a/src/lib.rs",
                "mod old;\nmod outer { pub(crate) mod inner; }\n#[path = \"other/name.rs\"]\nmod named;\ninclude!(\"gen.rs\");\n",
            ),
            ("crates/a/src/old/mod.rs", "mod child;"),
            ("crates/a/src/old/child.rs", ""),
            ("crates/a/src/outer/inner.rs", ""),
            ("crates/a/src/other/name.rs", ""),
            ("crates/a/src/gen.rs", ""),
            ("crates/a/src/bin/tool.rs", ""),
            ("xtask/src/main.rs", "mod part;"),
            ("xtask/src/part.rs", ""),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_test_file_that_never_runs_is_dead() {
        let found = dead(&[
            ("crates/a/tests/it/main.rs", "mod one;"),
            ("crates/a/tests/it/one.rs", ""),
            ("crates/a/tests/it/two.rs", ""),
            ("crates/a/tests/it/ui/input.rs", ""),
            ("crates/a/tests/alone.rs", ""),
            ("crates/a/tests/ui/input.rs", ""),
        ]);
        assert_eq!(found, ["crates/a/tests/it/two.rs"]);
    }
}
