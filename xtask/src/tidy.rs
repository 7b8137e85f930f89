//! `cargo xtask tidy`: rules on the source itself. A finding fails the run; lengths are also reported.

mod arrows;
mod dead_files;
mod documents;
mod lengths;
mod metrics;
mod words;

use crate::tree::{Finding, Tree};
use crate::{Failure, cargo};
use std::path::Path;

/// Runs every rule over the tree, prints the findings and the length report.
pub(crate) fn command(args: &[String]) -> Result<(), Failure> {
    if let Some(word) = args.first() {
        return Err(Failure::Usage(format!("tidy takes no `{word}`")));
    }
    let findings = run(&cargo::root()?)?;
    if findings == 0 {
        return Ok(());
    }
    Err(Failure::Failed(format!("tidy: {findings} finding(s)")))
}

/// Prints the report and the findings; returns how many findings there are.
pub(crate) fn run(root: &Path) -> Result<usize, String> {
    let tree = Tree::read(root).map_err(|error| format!("{}: {error}", root.display()))?;
    let workspace = cargo::workspace(root)?;
    let mut findings = arrows::check(&workspace.members);
    findings.extend(arrows::check_inside(&tree));
    findings.extend(documents::check(&tree));
    findings.extend(dead_files::check(&tree));
    findings.extend(words::check(&tree));
    findings.extend(metrics::check(&tree));
    let (lengths, too_long) = lengths::measure(&tree);
    findings.extend(too_long);
    findings.sort();

    print!("{lengths}");
    for finding in &findings {
        println!("{finding}");
    }
    println!(
        "tidy: {} files, {} finding(s)",
        tree.files.len(),
        findings.len()
    );
    Ok(findings.len())
}

/// Collects what `read` makes of each file; a file that cannot be read is a finding itself.
fn each_file<'a>(
    tree: &Tree,
    files: impl Iterator<Item = &'a std::path::PathBuf>,
    mut rule: impl FnMut(&'a Path, &str) -> Vec<Finding>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in files {
        match tree.text(path) {
            Ok(text) => findings.extend(rule(path, &text)),
            Err(unreadable) => findings.push(unreadable),
        }
    }
    findings
}
