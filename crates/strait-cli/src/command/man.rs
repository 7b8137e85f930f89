//! `strait man`: the manual pages.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use clap_mangen::Man;
use serde::Serialize;
use strait::core::Error;

use crate::args::Cli;
use crate::fail::{Failure, Outcome};
use crate::out::{Out, SCHEMA};

/// Print a manual page, or write all of them into a directory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait man | man -l -
  strait man topic create | man -l -
  strait man --dir ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The command that the page is about, for example `topic create`
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Vec<String>,
    /// Write the pages of all commands into this directory, which is made where it does not exist
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    schema: u32,
    directory: String,
    pages: Vec<String>,
}

/// A page: the words of its command, and the command.
struct Page {
    words: Vec<String>,
    command: clap::Command,
}

/// Runs the command.
pub(crate) fn run(args: &ManArgs, out: &Out) -> Outcome {
    match &args.dir {
        Some(dir) => write_all(dir, out),
        None => print(&args.command, out),
    }
}

fn print(words: &[String], out: &Out) -> Outcome {
    let mut wanted = vec!["strait".to_owned()];
    wanted.extend_from_slice(words);
    let page = pages().into_iter().find(|page| page.words == wanted);
    let page = page.ok_or_else(|| {
        let shown = crate::text::shown(words.join(" ").as_bytes());
        Failure::usage(format!(
            "there is no command `{shown}`: strait --help lists them"
        ))
    })?;
    out.write(&page.render()?)
}

fn write_all(dir: &Path, out: &Out) -> Outcome {
    let failed = |path: &Path, error| Failure::from(Error::io(path.display(), error));
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    let mut written = Written {
        schema: SCHEMA,
        directory: dir.display().to_string(),
        pages: Vec::new(),
    };
    for page in pages() {
        let name = page.file_name();
        let path = dir.join(&name);
        std::fs::write(&path, page.render()?).map_err(|error| failed(&path, error))?;
        written.pages.push(name);
    }
    let text = format!(
        "{} manual pages written to {}\n",
        written.pages.len(),
        written.directory
    );
    out.object(&written, &text)
}

/// The pages of all commands, each after the one that it belongs to.
fn pages() -> Vec<Page> {
    let mut root = Cli::command();
    root.build();
    let mut pages = Vec::new();
    let mut open = vec![Page {
        words: vec!["strait".to_owned()],
        command: root,
    }];
    while let Some(page) = open.pop() {
        let mut below: Vec<Page> = page
            .command
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
            .map(|command| Page {
                words: [page.words.as_slice(), &[command.get_name().to_owned()]].concat(),
                command: command.clone(),
            })
            .collect();
        below.reverse();
        open.extend(below);
        pages.push(page);
    }
    pages
}

impl Page {
    /// As `man` looks for it: `strait-topic-create.1`.
    fn file_name(&self) -> String {
        format!("{}.1", self.words.join("-"))
    }

    fn render(&self) -> Outcome<Vec<u8>> {
        let command = self
            .command
            .clone()
            .name(self.words.join("-"))
            .bin_name(self.words.join(" "))
            .display_name(self.words.join("-"))
            .version(env!("CARGO_PKG_VERSION"));
        let mut page = Vec::new();
        Man::new(command)
            .source(concat!("strait ", env!("CARGO_PKG_VERSION")))
            .manual("strait")
            .render(&mut page)
            .map_err(|error| Error::io("a manual page", error))?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(command: &clap::Command) -> usize {
        let below = command.get_subcommands().filter(|c| !c.is_hide_set());
        1 + below.map(commands).sum::<usize>()
    }

    #[test]
    fn every_command_has_a_page_with_its_options_and_examples() {
        let pages = pages();
        assert_eq!(pages.len(), commands(&Cli::command()));
        for page in &pages {
            let text = String::from_utf8(page.render().unwrap()).unwrap();
            let title = page.words.join("-");
            assert!(text.contains(&format!(".TH {title} 1")), "{title}: {text}");
            assert!(text.contains(".SH OPTIONS"), "{title}");
            let help = page.command.get_after_help().map(ToString::to_string);
            assert_eq!(
                text.contains("Examples:"),
                help.is_some_and(|help| help.contains("Examples:")),
                "{title}"
            );
        }
        let names: Vec<String> = pages.iter().map(Page::file_name).collect();
        assert!(
            names.contains(&"strait-topic-create.1".to_owned()),
            "{names:?}"
        );
    }
}
