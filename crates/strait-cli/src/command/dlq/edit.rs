//! `strait dlq edit`: a changed copy beside the original.

use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde::Serialize;
use strait::core::events::{DeadEdit, EditDead};
use strait::core::{Error, Kind, Name};

use super::letter;
use crate::command::Ctx;
use crate::command::produce::header;
use crate::fail::{Failure, Outcome};
use crate::target::Target;
use crate::text::shown;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait dlq edit billing 2 --body '{\"order\":7,\"amount\":\"12.30\"}'
  strait dlq edit billing 2 --body @order.json -H source=support
  strait dlq edit billing 2                 # in $VISUAL or $EDITOR
  strait dlq edit billing 2 --drop")]
pub(crate) struct EditArgs {
    /// The group
    group: Name,
    /// Its number, as `dlq ls` shows it
    number: u64,
    /// The new body: a text, @FILE, or - for stdin; without it an editor opens
    #[arg(long, value_name = "BODY")]
    body: Option<String>,
    /// The new headers, all of them; may repeat
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Drop the edit: a redrive delivers the original again
    #[arg(long, conflicts_with_all = ["body", "headers"])]
    drop: bool,
    /// Where the group reads several topics: which
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Name>,
    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Edited<'a> {
    schema: u32,
    group: &'a str,
    topic: &'a str,
    number: u64,
    /// What was done, or would be: edited, dropped or unchanged.
    done: &'a str,
    dry_run: bool,
}

pub(super) async fn edit(args: EditArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let info = target.group(&args.group, args.topic.as_ref()).await?;
    let letter = letter(target, &info, args.number).await?;
    let present = letter.edited.as_ref().unwrap_or(&letter.message);
    let body = match &args.body {
        _ if args.drop => None,
        Some(body) => Some(read_body(body)?),
        None if args.headers.is_empty() => Some(in_editor(present.record().body())?),
        None => None,
    };
    let same = body.as_deref() == Some(present.record().body()) && args.headers.is_empty();
    let done = match (args.drop, same) {
        (true, _) if letter.edited.is_none() => "unchanged",
        (true, _) => "dropped",
        (false, true) => "unchanged",
        (false, false) => "edited",
    };
    if done != "unchanged" {
        let header = |(name, value): &(String, String)| (name.clone(), value.clone().into());
        let headers: Vec<_> = args.headers.iter().map(header).collect();
        let edit = match args.drop {
            true => DeadEdit::Drop,
            false => DeadEdit::Put {
                key: None,
                body: body.clone().map(Into::into),
                headers: (!headers.is_empty()).then_some(headers),
            },
        };
        let edit = EditDead {
            group: info.group.clone(),
            topic: info.topic.clone(),
            number: args.number,
            edit,
            dry_run: args.dry_run,
        };
        target.events.edit_dead(edit).await?;
    }
    let answer = Edited {
        schema: crate::out::SCHEMA,
        group: &info.group,
        topic: &info.topic,
        number: args.number,
        done,
        dry_run: args.dry_run,
    };
    ctx.out.object(
        &answer,
        &in_words(&args, &info.group, done, body.as_deref()),
    )
}

fn in_words(args: &EditArgs, group: &Name, done: &str, body: Option<&[u8]>) -> String {
    let number = args.number;
    let would = if args.dry_run { "would be " } else { "" };
    let mut text = format!("dead letter {number} of {group}: {would}{done}\n");
    match (done, body) {
        ("edited", Some(body)) => text.push_str(&format!("  value     {}\n", shown(body))),
        ("dropped", _) => text.push_str("  a redrive delivers the original\n"),
        _ => {}
    }
    if done == "edited" && !args.dry_run {
        text.push_str(&format!(
            "  the original is kept. Deliver it with: strait dlq redrive {group} {number}\n"
        ));
    }
    text
}

fn read_body(body: &str) -> Outcome<Vec<u8>> {
    let file = match body {
        "-" | "@-" => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .map_err(|error| Error::io("stdin", error))?;
            return Ok(bytes);
        }
        _ => body.strip_prefix('@'),
    };
    match file {
        Some(path) => Ok(std::fs::read(path).map_err(|error| Error::io(path, error))?),
        None => Ok(body.as_bytes().to_vec()),
    }
}

/// A file for the editor, that only its user may read; removed when dropped.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // What cannot be removed stays in the directory for temporary files.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Draft {
    fn write(body: &[u8]) -> Outcome<Draft> {
        let path = std::env::temp_dir().join(format!("strait-{}", uuid::Uuid::now_v7()));
        let broken = |error| Error::io(path.display(), error);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(broken)?;
        file.write_all(body).map_err(broken)?;
        Ok(Draft(path))
    }
}

/// The body as an editor leaves it. Most end a file with a newline: one that was not there is taken off.
fn in_editor(body: &[u8]) -> Outcome<Vec<u8>> {
    let editor = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let Some(editor) = editor.filter(|_| std::io::stdin().is_terminal()) else {
        return Err(Failure::usage(
            "there is no new body: give --body TEXT, --body @FILE or --body -, or set EDITOR and run it on a terminal",
        ));
    };
    let draft = Draft::write(body)?;
    run_editor(&editor, &draft.0)?;
    let mut edited =
        std::fs::read(&draft.0).map_err(|error| Error::io(draft.0.display(), error))?;
    if !body.ends_with(b"\n") && edited.ends_with(b"\n") {
        edited.pop();
    }
    Ok(edited)
}

fn run_editor(editor: &str, file: &Path) -> Outcome {
    // It may have options of its own: `code --wait`.
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or(editor);
    let ended = Command::new(program)
        .args(words)
        .arg(file)
        .status()
        .map_err(|error| Error::io(format!("cannot start the editor `{editor}`"), error))?;
    if ended.success() {
        return Ok(());
    }
    let text = format!("the editor `{editor}` did not end well ({ended}): nothing was changed");
    Err(Error::new(Kind::Rejected, text).into())
}
