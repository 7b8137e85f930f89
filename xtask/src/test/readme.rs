//! The documents' commands exist, and those of the README run.
//!
//! Every `strait ..` in a `console`, `sh` or `bash` block of README.md and docs is given to the program with
//! `--help` at its end, options and all; every `strait WORD ..` in a code span with its leading words. Then the
//! demo runs, and so do the blocks under `<!-- xtask: run -->` (alone) and `<!-- xtask: run beside the demo -->`.

use super::program::Program;
use super::{Context, Outcome, counts};
use crate::markdown::{self, Block};
use crate::tree::Tree;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The first command of the README, without a build.
const DEMO: &str = "cargo run --release -- dev --demo";
/// The demo has shown that it works when it has printed this many lines.
const DEMO_LINES: usize = 10;
/// How long the demo may take for them, and a block of commands for its end.
const LIMIT: Duration = Duration::from_secs(120);

/// Checks the commands of the documents against a release build and runs those that are marked.
pub(super) fn run(context: &mut Context) -> Outcome {
    check(context).into()
}

fn check(context: &Context) -> Result<(), String> {
    let documents = documents(&context.root)?;
    let readme = documents
        .iter()
        .find(|(path, _)| path == Path::new("README.md"))
        .ok_or("there is no README.md")?;
    let (blocks, _) = markdown::split(&readme.1);
    let has_demo = blocks
        .iter()
        .flat_map(Block::commands)
        .any(|command| command == DEMO);
    if !has_demo {
        return Err(format!("README.md has no block with `$ {DEMO}`"));
    }
    counts::succeed(&mut context.cargo(&["build", "--release"]))?;
    check_help(context, &documents)?;
    run_demo(context, &blocks)?;
    for block in blocks.iter().filter(|block| is_marked(block, "run")) {
        let dir = empty_dir()?;
        run_block(context, block, dir.path())?;
    }
    Ok(())
}

/// README.md and every document under docs, with their text.
fn documents(root: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let tree = Tree::read(root).map_err(|error| format!("{}: {error}", root.display()))?;
    tree.with_extension("md")
        .filter(|path| *path == Path::new("README.md") || path.starts_with("docs"))
        .map(|path| {
            let text = tree.text(path).map_err(|finding| finding.to_string())?;
            Ok((path.clone(), text))
        })
        .collect()
}

/// The commands of the documents, each with the first place where it is found.
fn commands(path: &Path, text: &str) -> Vec<(String, Vec<String>)> {
    let (blocks, prose) = markdown::split(text);
    let place = |line: usize| format!("{}:{line}", path.display());
    let mut found = Vec::new();
    for block in &blocks {
        for line in block.commands() {
            let simple = markdown::shell_words(&line);
            found.extend(simple.into_iter().map(|words| (place(block.line), words)));
        }
    }
    for (line, span) in markdown::code_spans(&prose) {
        let words = leading_words(&span);
        if words.len() > 1 {
            found.push((place(line), words));
        }
    }
    found
}

/// `strait`, or `cargo xtask`, and the subcommands after it, up to the first word that cannot be one.
fn leading_words(span: &str) -> Vec<String> {
    let is_name = |word: &&str| {
        !word.starts_with('-') && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    let words: Vec<String> = span
        .split_whitespace()
        .take_while(is_name)
        .map(str::to_owned)
        .collect();
    match words.first().map(String::as_str) {
        Some("strait" | "cargo") => words,
        _ => Vec::new(),
    }
}

/// The words after `strait`, also where it is written `cargo run --release -- ..`.
fn strait_args(words: &[String]) -> Option<&[String]> {
    let (program, args) = words.split_first()?;
    match (program.as_str(), args.first().map(String::as_str)) {
        ("strait", _) => Some(args),
        ("cargo", Some("run")) => {
            let dashes = args.iter().position(|word| word == "--")?;
            Some(&args[dashes + 1..])
        }
        _ => None,
    }
}

fn check_help(context: &Context, documents: &[(PathBuf, String)]) -> Result<(), String> {
    let mut checked: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut wrong = 0_usize;
    for (path, text) in documents {
        for (place, words) in commands(path, text) {
            if words.first().is_some_and(|w| w == "cargo") {
                wrong += usize::from(!xtask_exists(&place, &words));
            }
            if let Some(args) = strait_args(&words) {
                checked.entry(args.to_owned()).or_insert(place);
            }
        }
    }
    for (args, place) in &checked {
        let output = Command::new(program(context))
            .args(args)
            .arg("--help")
            .env_remove("STRAIT_URL")
            .output()
            .map_err(|error| format!("strait did not start: {error}"))?;
        if !output.status.success() {
            wrong += 1;
            let said = String::from_utf8_lossy(&output.stderr);
            let first = said.lines().next().unwrap_or_default();
            println!("{place}: `strait {}`: {first}", args.join(" "));
        }
    }
    println!("{} commands of the documents checked", checked.len());
    if wrong == 0 {
        return Ok(());
    }
    Err(format!("{wrong} command(s) of the documents do not exist"))
}

/// Whether `cargo xtask WORD` names a task; other cargo commands are cargo's own.
fn xtask_exists(place: &str, words: &[String]) -> bool {
    let task = match words {
        [_, xtask, task, ..] if xtask == "xtask" => task,
        _ => return true,
    };
    let exists = crate::COMMANDS.contains(&task.as_str());
    if !exists {
        println!("{place}: `cargo xtask {task}` is no task");
    }
    exists
}

/// Runs the demo as the README says, the blocks marked for it beside it, and ends it with Ctrl-C.
fn run_demo(context: &Context, blocks: &[Block]) -> Result<(), String> {
    println!("$ {DEMO}");
    let dir = empty_dir()?;
    // Cargo's own lines would count as the demo's.
    let mut command = context.cargo(&["run", "--quiet", "--release", "--manifest-path"]);
    command
        .arg(context.root.join("Cargo.toml"))
        .args(["--", "dev", "--demo"])
        .env_remove("STRAIT_URL")
        .current_dir(dir.path());
    let mut demo = Program::start(&mut command)?;
    demo.wait_for_lines(DEMO_LINES, LIMIT)
        .map_err(|why| format!("the demo: {why}"))?;
    for block in blocks {
        if is_marked(block, "run beside the demo") {
            run_block(context, block, dir.path()).map_err(|why| demo.told(&why))?;
        }
    }
    demo.stop().map_err(|why| format!("the demo: {why}"))
}

fn is_marked(block: &Block, mark: &str) -> bool {
    block.mark.as_deref() == Some(mark)
}

/// Runs the commands of a block one after the other, as a reader would type them in `dir`.
fn run_block(context: &Context, block: &Block, dir: &Path) -> Result<(), String> {
    let mut path = program(context)
        .parent()
        .unwrap_or(Path::new(""))
        .as_os_str()
        .to_owned();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    for command in block.commands() {
        println!("$ {command}");
        let script = command.replace("cargo run --release -- ", "strait ");
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", &script])
            .env("PATH", &path)
            .env_remove("STRAIT_URL")
            .current_dir(dir);
        let mut running = Program::start(&mut shell)?;
        let place = format!("README.md:{}: `{command}`", block.line);
        match running.wait(LIMIT)? {
            Some(status) if status.success() => {}
            Some(status) => return Err(running.told(&format!("{place}: {status}"))),
            None => return Err(running.told(&format!("{place}: still runs after {LIMIT:?}"))),
        }
    }
    Ok(())
}

fn program(context: &Context) -> PathBuf {
    context.workspace.target.join("release/strait")
}

fn empty_dir() -> Result<tempfile::TempDir, String> {
    tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn straits(text: &str) -> Vec<String> {
        commands(Path::new("README.md"), text)
            .iter()
            .filter_map(|(_, words)| strait_args(words).map(|args| args.join(" ")))
            .collect()
    }

    #[test]
    fn commands_are_found_in_blocks_and_spans() {
        let text = "Run `strait topic create NAME` or `strait explain offset_gone`, see `strait.toml`, `strait`.\n\
            ```console\n$ cargo run --release -- dev --demo\nstrait output\n$ echo x | strait produce orders -k ada && strait dlq ls\n```\n\
            ```rust\nstrait::open();\n```\n";
        assert_eq!(
            straits(text),
            [
                "dev --demo",
                "produce orders -k ada",
                "dlq ls",
                "topic create",
                "explain"
            ]
        );
    }

    #[test]
    fn a_task_that_does_not_exist_is_found() {
        let words =
            |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
        assert!(xtask_exists("x", &words("cargo xtask test --only fmt")));
        assert!(xtask_exists("x", &words("cargo add strait")));
        assert!(!xtask_exists("x", &words("cargo xtask fly")));
    }
}
