//! Lengths: a report of long files and functions, and a bound on files.

use crate::rust_text::{body_of, code_only, line_of, matching, test_parts, words};
use crate::tree::{Finding, Tree};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file with more lines outside its tests is reported.
const LONG_FILE: usize = 600;
/// A file with more lines outside its tests is refused.
const TOO_LONG_FILE: usize = 800;
/// A function with more lines is reported.
const LONG_FUNCTION: usize = 70;

/// What is long, longest first.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    /// Lines outside tests.
    files: Vec<(usize, PathBuf)>,
    /// Lines, file, line of the `fn`, name.
    functions: Vec<(usize, PathBuf, usize, String)>,
    all_files: usize,
    all_functions: usize,
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {} source files over {LONG_FILE} lines without tests, {} of {} functions over {LONG_FUNCTION} lines",
            self.files.len(),
            self.all_files,
            self.functions.len(),
            self.all_functions
        )?;
        for (lines, path) in &self.files {
            writeln!(f, "  {lines:>5} lines  {}", path.display())?;
        }
        for (lines, path, line, name) in &self.functions {
            writeln!(f, "  {lines:>5} lines  {}:{line} fn {name}", path.display())?;
        }
        Ok(())
    }
}

/// Measures every source file; test files and the `#[cfg(test)]` parts of others are left out.
pub(super) fn measure(tree: &Tree) -> (Lengths, Vec<Finding>) {
    let mut lengths = Lengths::default();
    let mut findings = Vec::new();
    for path in tree.with_extension("rs").filter(|path| !is_test(path)) {
        match tree.text(path) {
            Ok(text) => findings.extend(measure_file(path, &text, &mut lengths)),
            Err(unreadable) => findings.push(unreadable),
        }
    }
    lengths.files.sort_by(|a, b| b.cmp(a));
    lengths.functions.sort_by(|a, b| b.cmp(a));
    (lengths, findings)
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| {
        let part = part.as_os_str();
        part == "tests" || part == "tests.rs" || part == "benches"
    })
}

fn measure_file(path: &Path, text: &str, lengths: &mut Lengths) -> Option<Finding> {
    let code = code_only(text);
    let tests = test_parts(&code);
    let lines_of = |part: &Range<usize>| line_of(&code, part.end) - line_of(&code, part.start) + 1;
    let in_tests: usize = tests.iter().map(lines_of).sum();
    let lines = code.lines().count().saturating_sub(in_tests);

    lengths.all_files += 1;
    if lines > LONG_FILE {
        lengths.files.push((lines, path.to_owned()));
    }
    for (at, name, length) in functions(&code) {
        if tests.iter().any(|part| part.contains(&at)) {
            continue;
        }
        lengths.all_functions += 1;
        if length > LONG_FUNCTION {
            let line = line_of(&code, at);
            lengths
                .functions
                .push((length, path.to_owned(), line, name));
        }
    }
    (lines > TOO_LONG_FILE).then(|| Finding {
        path: path.to_owned(),
        line: None,
        what: format!("{lines} lines without tests; at most {TOO_LONG_FILE}: split it"),
    })
}

/// Each function with a body: where it starts, its name, its lines from `fn` to the closing brace.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    words(code, "fn")
        .filter_map(|at| {
            let name: String = code[at + 2..]
                .trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if name.is_empty() {
                return None;
            }
            let end = matching(code, body_of(code, at)?);
            Some((at, name, line_of(code, end) - line_of(code, at) + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture;

    #[test]
    fn functions_are_measured_from_fn_to_the_closing_brace() {
        let code = "fn a() {}\nfn b(x: [u8; 4]) -> u8 {\n    let f: fn(u8) = g;\n}\ntrait T { fn c(&self); }\n";
        let found: Vec<(String, usize)> = functions(code)
            .into_iter()
            .map(|(_, name, lines)| (name, lines))
            .collect();
        assert_eq!(found, [("a".to_owned(), 1), ("b".to_owned(), 3)]);
    }

    #[test]
    fn a_long_function_is_reported_and_one_in_tests_is_not() {
        let body = "    x();\n".repeat(LONG_FUNCTION);
        let text = format!(
            "fn short() {{}}\nfn long() {{\n{body}}}\n#[cfg(test)]\nmod tests {{\nfn in_test() {{\n{body}}}\n}}\n"
        );
        let (_dir, tree) = fixture::tree(&[("crates/a/src/lib.rs", &text)]);
        let (lengths, findings) = measure(&tree);
        assert_eq!(findings, []);
        assert_eq!((lengths.functions.len(), lengths.all_functions), (1, 2));
        assert!(
            lengths
                .to_string()
                .contains("72 lines  crates/a/src/lib.rs:2 fn long")
        );
    }

    #[test]
    fn a_file_is_long_then_too_long_and_its_tests_do_not_count() {
        let lines = |count: usize| "const A: u8 = 0;\n".repeat(count);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(900));
        let (_dir, tree) = fixture::tree(&[
            ("crates/a/src/ok.rs", &(lines(LONG_FILE) + &tests)),
            ("crates/a/src/long.rs", &(lines(LONG_FILE + 1) + &tests)),
            ("crates/a/src/refused.rs", &lines(TOO_LONG_FILE + 1)),
            ("crates/a/tests/it/main.rs", &lines(2000)),
        ]);
        let (lengths, findings) = measure(&tree);
        let long: Vec<usize> = lengths.files.iter().map(|(lines, _)| *lines).collect();
        assert_eq!(long, [TOO_LONG_FILE + 1, LONG_FILE + 1]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, Path::new("crates/a/src/refused.rs"));
    }
}
