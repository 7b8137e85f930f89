//! Every metric is in docs/metrics.md, and every metric in it is in the code.

use super::each_file;
use crate::rust_text::line_of;
use crate::tree::{Finding, Tree};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The table that users read.
const TABLE: &str = "docs/metrics.md";

/// What every metric's name begins with.
const PREFIX: &str = "strait_";

/// Names of crates, which look the same.
const CRATES: [&str; 5] = [
    "strait_core",
    "strait_embedded",
    "strait_remote",
    "strait_macros",
    "strait_conformance",
];

/// Where a name stands.
type Places = BTreeMap<String, (PathBuf, usize)>;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut used = Places::new();
    let sources = tree.with_extension("rs").filter(|path| {
        path.starts_with("crates") && path.components().any(|c| c.as_os_str() == "src")
    });
    let mut findings = each_file(tree, sources, |path, text| {
        for (at, name) in quoted(text, '"', '"') {
            let place = (path.to_owned(), line_of(text, at));
            used.entry(name).or_insert(place);
        }
        Vec::new()
    });
    if used.is_empty() && !tree.has(Path::new(TABLE)) {
        return findings;
    }
    let table = match tree.text(Path::new(TABLE)) {
        Ok(text) => text,
        Err(unreadable) => {
            findings.push(unreadable);
            return findings;
        }
    };
    let documented: BTreeMap<String, usize> = table
        .lines()
        .zip(1..)
        .filter(|(line, _)| line.starts_with("| `"))
        .flat_map(|(line, number)| quoted(line, '`', '`').map(move |(_, name)| (name, number)))
        .collect();
    let missing = used
        .iter()
        .filter(|(name, _)| !documented.contains_key(*name));
    findings.extend(missing.map(|(name, (path, line))| Finding {
        path: path.clone(),
        line: Some(*line),
        what: format!("the metric `{name}` has no row in {TABLE}"),
    }));
    let extra = documented
        .iter()
        .filter(|(name, _)| !used.contains_key(*name));
    findings.extend(extra.map(|(name, line)| Finding {
        path: PathBuf::from(TABLE),
        line: Some(*line),
        what: format!("no code has the metric `{name}`"),
    }));
    findings
}

/// The names of metrics that stand alone between these marks.
fn quoted(text: &str, open: char, close: char) -> impl Iterator<Item = (usize, String)> {
    let begin = format!("{open}{PREFIX}");
    text.match_indices(&begin)
        .filter_map(move |(at, _)| {
            let name: String = text[at + open.len_utf8()..]
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_')
                .collect();
            let ends = text[at + open.len_utf8() + name.len()..].starts_with(close);
            (ends && !CRATES.contains(&name.as_str())).then_some((at, name))
        })
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture;

    #[test]
    fn a_metric_without_a_row_and_a_row_without_a_metric_are_found() {
        let (_dir, tree) = fixture::tree(&[
            (
                "crates/a/src/metrics.rs",
                "const A: &str = \"strait_a_total\";\nconst B: &str = \"strait_b\";\nlet c = \"strait_core\";\n",
            ),
            ("crates/a/tests/it.rs", "\"strait_in_a_test\""),
            (
                "docs/metrics.md",
                "| metric |\n| `strait_a_total` | counter |\n| `strait_gone` | gauge |\n",
            ),
        ]);
        let found: Vec<String> = check(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "crates/a/src/metrics.rs:2: the metric `strait_b` has no row in docs/metrics.md",
                "docs/metrics.md:3: no code has the metric `strait_gone`",
            ]
        );
    }
}
