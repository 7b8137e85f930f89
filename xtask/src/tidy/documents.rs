//! Documents: links lead somewhere, and every error page has the parts that a person on call looks for.

use super::each_file;
use crate::markdown;
use crate::tree::{Finding, Tree};
use std::path::{Component, Path, PathBuf};

/// Where the pages are that `strait explain` shows, one per error kind and code.
const ERROR_PAGES: &str = "docs/errors";

/// The parts of an error page after its title, in this order.
const ERROR_SECTIONS: [&str; 4] = [
    "## What happened",
    "## Why",
    "## What to do",
    "## May I retry?",
];

/// Where the kinds and codes of errors are defined; each has its page.
const ERRORS: &str = "crates/strait-core/src/error.rs";

/// Checks links in every `.md` file and the form and number of the error pages.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = each_file(tree, tree.with_extension("md"), |path, text| {
        let mut findings = dead_links(tree, path, text);
        if is_error_page(path) {
            findings.extend(error_page(path, text));
        }
        findings
    });
    match tree.text(Path::new(ERRORS)) {
        Ok(text) => findings.extend(pages_of_errors(tree, &errors(&text))),
        Err(unreadable) => findings.push(unreadable),
    }
    findings
}

fn is_error_page(path: &Path) -> bool {
    path.parent() == Some(Path::new(ERROR_PAGES))
}

/// The words of the kinds (`Kind::Busy => "busy"`) and of the codes (`pub const LOCKED: &str = "locked"`).
fn errors(source: &str) -> Vec<String> {
    let quoted = |rest: &str| {
        let word = rest.split('"').nth(1).unwrap_or_default();
        word.to_owned()
    };
    let is_error = |line: &&str| {
        (line.starts_with("Kind::") && line.contains("=> \""))
            || (line.starts_with("pub const ") && line.contains(": &str = \""))
    };
    source
        .lines()
        .map(str::trim)
        .filter(is_error)
        .map(quoted)
        .collect()
}

/// Every error has a page, and every page an error.
fn pages_of_errors(tree: &Tree, errors: &[String]) -> Vec<Finding> {
    let page = |code: &String| Path::new(ERROR_PAGES).join(format!("{code}.md"));
    let wanted: Vec<PathBuf> = errors.iter().map(page).collect();
    let missing = wanted.iter().filter(|page| !tree.has(page));
    let pages = tree.with_extension("md").filter(|path| is_error_page(path));
    let extra = pages.filter(|path| !wanted.contains(path));
    let finding = |path: &PathBuf, what: String| Finding {
        path: path.clone(),
        line: None,
        what,
    };
    missing
        .map(|path| finding(path, "this error has no page".to_owned()))
        .chain(extra.map(|path| finding(path, format!("no error of this name in {ERRORS}"))))
        .collect()
}

fn dead_links(tree: &Tree, path: &Path, text: &str) -> Vec<Finding> {
    let (_, prose) = markdown::split(text);
    let dir = path.parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    for (line, target) in markdown::links(&prose) {
        let file = target.split('#').next().unwrap_or_default();
        let elsewhere = file.contains("://") || file.starts_with("mailto:");
        if file.is_empty() || elsewhere {
            continue;
        }
        let exists = inside(dir, file).is_some_and(|found| tree.has(&found));
        if !exists {
            findings.push(Finding {
                path: path.to_owned(),
                line: Some(line),
                what: format!("the link `{target}` leads to no file of this tree"),
            });
        }
    }
    findings
}

/// The path of a relative link inside the tree; none when it is absolute or leaves the tree.
fn inside(dir: &Path, link: &str) -> Option<PathBuf> {
    let mut path = dir.to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

fn error_page(path: &Path, text: &str) -> Vec<Finding> {
    let finding = |line: Option<usize>, what: String| Finding {
        path: path.to_owned(),
        line,
        what,
    };
    let code = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut findings = Vec::new();
    let title = text.lines().next().unwrap_or_default();
    let says = title.strip_prefix(&format!("# {code}: "));
    if says.is_none_or(|rest| rest.trim().is_empty()) {
        findings.push(finding(
            Some(1),
            format!("starts with `# {code}: ` and one line that says what it is"),
        ));
    }
    let (_, prose) = markdown::split(text);
    let headings: Vec<&str> = prose.lines().filter(|l| l.starts_with("## ")).collect();
    if headings != ERROR_SECTIONS {
        let what =
            format!("the sections are {ERROR_SECTIONS:?}, in this order; found {headings:?}");
        findings.push(finding(None, what));
    }
    let mut before: Option<(usize, &str)> = None;
    for (index, line) in text.lines().chain(["## "]).enumerate() {
        if line.starts_with("## ") {
            if let Some((line, heading)) = before {
                findings.push(finding(Some(line), format!("`{heading}` is empty")));
            }
            before = Some((index + 1, line));
        } else if !line.trim().is_empty() {
            before = None;
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture;

    fn good(code: &str) -> String {
        let sections: String = ERROR_SECTIONS
            .iter()
            .map(|section| format!("\n{section}\n\nText.\n"))
            .collect();
        format!("# {code}: what it is\n{sections}")
    }

    #[test]
    fn links_lead_to_files_of_the_tree() {
        let text = "[a](docs/b.md#part) [c](https://x.org) [d](#here) `[x](y.md)` [dir](docs)\n[e](docs/none.md)\n[f](../out.md)\n[g](/etc/passwd)\n";
        let (_dir, tree) = fixture::tree(&[
            ("README.md", text),
            ("docs/b.md", "[up](../README.md) [here](./b.md)\n"),
        ]);
        let lines: Vec<Option<usize>> = dead_links(&tree, Path::new("README.md"), text)
            .iter()
            .map(|f| f.line)
            .collect();
        assert_eq!(lines, [Some(2), Some(3), Some(4)]);
        let below = tree.text(Path::new("docs/b.md"));
        let found = below.map(|text| dead_links(&tree, Path::new("docs/b.md"), &text));
        assert_eq!(found, Ok(Vec::new()));
    }

    #[test]
    fn every_error_has_a_page_and_every_page_an_error() {
        let source = "match self {\n    Kind::Busy => \"busy\",\n    Kind::Closed => \"closed\",\n}\npub mod codes {\n    /// Gone.\n    pub const LOCKED: &str = \"locked\";\n    pub const ALL: [&str; 1] = [LOCKED];\n}\n";
        assert_eq!(errors(source), ["busy", "closed", "locked"]);
        let (_dir, tree) = fixture::tree(&[
            (ERRORS, source),
            ("docs/errors/busy.md", &good("busy")),
            ("docs/errors/locked.md", &good("locked")),
            ("docs/errors/made_up.md", &good("made_up")),
        ]);
        let found: Vec<String> = check(&tree).iter().map(Finding::to_string).collect();
        assert_eq!(
            found,
            [
                "docs/errors/closed.md: this error has no page".to_owned(),
                format!("docs/errors/made_up.md: no error of this name in {ERRORS}"),
            ]
        );
    }

    #[test]
    fn faults_of_an_error_page_are_named() {
        let path = Path::new("docs/errors/busy.md");
        let faults = |text: &str| error_page(path, text).len();
        assert_eq!(faults(&good("busy")), 0);
        assert_eq!(faults(&good("other")), 1);
        assert_eq!(faults(&good("busy").replace("what it is", "")), 1);
        assert_eq!(faults(&good("busy").replace("## Why\n", "## Because\n")), 1);
        assert_eq!(
            faults(&good("busy").replace("## Why\n\nText.", "## Why\n")),
            1
        );
        let last_empty = good("busy");
        assert_eq!(faults(last_empty.trim_end().trim_end_matches("Text.")), 1);
    }
}
