//! Words that must not be in the tree: unfinished work, debugging aids, paths of one machine, unchecked code.

use super::each_file;
use crate::rust_text::{code_only, line_of, words};
use crate::tree::{Finding, Tree};
use std::path::Path;

/// Modules that may hold unchecked code, each with its own argument in its head. None so far.
const UNSAFE_MODULES: &[&str] = &[];

/// In Rust code, comments and literals left out.
const IN_CODE: &[(&str, &str)] = &[
    ("todo!", "finish it or leave it out"),
    ("unimplemented!", "finish it or leave it out"),
    ("dbg!", "a debugging aid; use tracing"),
    (
        "#[ignore",
        "a test runs always, or says on one line why it is skipped",
    ),
];

// Put together from pieces, so that this file passes its own rule.
/// In every text file, comments included; each as a whole word.
const IN_TEXT: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Directories of one machine.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];

/// The kinds of text files that the rules read.
const TEXT: [&str; 13] = [
    "rs", "md", "toml", "sh", "yml", "yaml", "py", "ts", "tsx", "js", "html", "css", "proto",
];

/// Names each banned word with its line.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let files = tree.files.iter().filter(|path| is_text(path));
    each_file(tree, files, |path, text| {
        let mut findings = in_text(path, text);
        if path.extension().is_some_and(|extension| extension == "rs") {
            findings.extend(in_code(path, text));
        }
        findings
    })
}

fn is_text(path: &Path) -> bool {
    let known = path
        .extension()
        .is_some_and(|extension| TEXT.iter().any(|text| extension == *text));
    known || path.starts_with(".ci")
}

fn in_code(path: &Path, text: &str) -> Vec<Finding> {
    let code = code_only(text);
    let mut findings = Vec::new();
    for (banned, why) in IN_CODE {
        // The whole word: a macro of another name that ends alike is none.
        let name = banned.trim_end_matches('!');
        let places = words(&code, name).filter(|&at| code[at..].starts_with(banned));
        findings.extend(places.map(|at| found(path, &code, at, &format!("`{banned}`: {why}"))));
    }
    let may = UNSAFE_MODULES
        .iter()
        .any(|module| path == Path::new(module));
    if !may {
        let what = "`unsafe` outside the modules named in xtask/src/tidy/words.rs";
        findings.extend(words(&code, "unsafe").map(|at| found(path, &code, at, what)));
    }
    findings
}

fn in_text(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for banned in IN_TEXT {
        let what = format!("`{banned}`: do it now, or describe it in an issue");
        findings.extend(words(text, banned).map(|at| found(path, text, at, &what)));
    }
    for banned in MACHINE_PATHS {
        let what = format!("`{banned}` is a path of one machine");
        let places = text.match_indices(banned).map(|(at, _)| at);
        let absolute = places.filter(|&at| !follows_a_name(text, at));
        findings.extend(absolute.map(|at| found(path, text, at, &what)));
    }
    findings
}

/// Behind a name it is a part of a relative path or of a URL, and no absolute path.
fn follows_a_name(text: &str, at: usize) -> bool {
    text[..at]
        .chars()
        .next_back()
        .is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}'))
}

fn found(path: &Path, text: &str, at: usize, what: &str) -> Finding {
    Finding {
        path: path.to_owned(),
        line: Some(line_of(text, at)),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let (_dir, tree) = fixture::tree(&[(path, text)]);
        let mut lines: Vec<usize> = check(&tree).iter().filter_map(|f| f.line).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn unfinished_code_is_found_and_comments_about_it_are_not() {
        let [todo, unimplemented, dbg] = ["todo!", "unimplemented!", "dbg!"];
        let text = format!(
            "fn a() {{\n    {todo}()\n}}\n// {todo}() and {dbg}(x)\nlet b = \"{dbg}(1)\";\nlet c = {dbg}(1);\n\
             my_{todo}();\n{unimplemented}(\"x\")\n#[ignore = \"slow\"]\n"
        );
        assert_eq!(lines("crates/a/src/lib.rs", &text), [2, 6, 8, 9]);
    }

    #[test]
    fn unchecked_code_is_found_and_the_lint_that_forbids_it_is_not() {
        let text = "#![forbid(unsafe_code)]\n// unsafe\nfn a() { unsafe { b() } }\n";
        assert_eq!(lines("crates/a/src/lib.rs", text), [3]);
    }

    #[test]
    fn reminders_are_found_in_every_text_file() {
        for banned in IN_TEXT {
            let text = format!("first\n// {banned}: later\n{banned}S and a{banned}\n");
            for path in ["crates/a/src/lib.rs", "docs/a.md", ".ci/run"] {
                assert_eq!(lines(path, &text), [2], "{banned} in {path}");
            }
            assert_eq!(lines("logo.svg", &text), [0_usize; 0]);
        }
    }

    #[test]
    fn absolute_paths_of_a_machine_are_found() {
        for banned in MACHINE_PATHS {
            let text =
                format!("see {banned}x\ndocs{banned}x\nhttps://a.org{banned}x\n({banned})\n");
            assert_eq!(lines("README.md", &text), [1, 4], "{banned}");
        }
    }
}
