//! `strait explain` and `strait completions`.

use clap::{Args, CommandFactory};
use serde::Serialize;
use strait::core::{Error, Kind};

use crate::args::Cli;
use crate::fail::{Outcome, nearest};
use crate::out::{Column, Out, Row, text};

/// The pages of docs/errors, by name.
const PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// Explain an error code or kind; without one, list them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait explain
  strait explain disk_full
  strait explain conflict")]
pub(crate) struct ExplainArgs {
    /// A code or kind, as it stands in error[kind code]
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait completions bash > ~/.local/share/bash-completion/completions/strait
  strait completions zsh > ~/.zfunc/_strait
  strait completions fish > ~/.config/fish/completions/strait.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

#[derive(Debug, Serialize)]
struct PageRow {
    code: &'static str,
    what: &'static str,
}

impl PageRow {
    fn new(&(code, page): &(&'static str, &'static str)) -> Self {
        // The first line of a page is `# code: what`.
        let title = page.lines().next().unwrap_or_default();
        let what = title.split_once(": ").map_or(title, |(_, what)| what);
        PageRow { code, what }
    }
}

impl Row for PageRow {
    const LIST: &'static str = "codes";

    fn columns(_: bool) -> Vec<Column> {
        vec![text("CODE"), text("WHAT")]
    }

    fn cells(&self, _: bool, _: bool) -> Vec<String> {
        vec![self.code.to_owned(), self.what.to_owned()]
    }
}

/// Runs `explain`.
pub(crate) fn run(args: &ExplainArgs, out: &Out) -> Outcome {
    let Some(code) = &args.code else {
        let rows: Vec<PageRow> = PAGES.iter().map(PageRow::new).collect();
        return out.list(&rows);
    };
    let Some((code, page)) = PAGES.iter().find(|(name, _)| name == code) else {
        let shown = crate::text::shown(code.as_bytes());
        let mut what = format!("there is no page on `{shown}`");
        if let Some(near) = nearest(code, PAGES.iter().map(|(name, _)| *name)) {
            what.push_str(&format!("; did you mean `{near}`?"));
        }
        return Err(Error::new(Kind::NotFound, what)
            .next("strait explain, for the list")
            .into());
    };
    #[derive(Serialize)]
    struct Page {
        schema: u32,
        code: &'static str,
        text: &'static str,
    }
    let document = Page {
        schema: crate::out::SCHEMA,
        code,
        text: page,
    };
    out.object(&document, &emphasised(page, out))
}

/// The page with its headings in bold, where colour is wanted.
fn emphasised(page: &str, out: &Out) -> String {
    let line = |line: &str| {
        if line.starts_with('#') {
            out.paint.bold(line) + "\n"
        } else {
            format!("{line}\n")
        }
    };
    page.lines().map(line).collect()
}

/// Runs `completions`.
pub(crate) fn completions(args: &CompletionsArgs, out: &Out) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "strait", &mut script);
    out.write(&script)
}

#[cfg(test)]
mod tests {
    use strait::core::codes;

    use super::*;

    #[test]
    fn every_kind_and_code_has_a_page_with_its_name_in_the_title() {
        let kinds = Kind::ALL.iter().map(|kind| kind.as_str());
        for name in kinds.chain(codes::ALL) {
            let page = PAGES.iter().find(|(page, _)| *page == name);
            let (_, text) = page.unwrap_or_else(|| panic!("docs/errors/{name}.md is missing"));
            assert!(text.starts_with(&format!("# {name}: ")), "{name}");
        }
    }
}
