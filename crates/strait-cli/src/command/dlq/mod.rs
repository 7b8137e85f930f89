//! `strait dlq`: dead letters, and their way back.

mod edit;
mod filter;
mod redrive;

use clap::Subcommand;
use serde::Serialize;
use strait::core::events::{DeadFilter, DeadLetter, DeadSummary, GroupInfo};
use strait::core::{Attr, Error, Kind, Message, Name, Timestamp};

use super::Ctx;
use super::render::{Render, Seen, offset};
use crate::fail::{Failure, Outcome};
use crate::offset::Offset;
use crate::out::{Column, Row, Shape, number, text};
use crate::target::Target;
use crate::text::{count, cut, shown, when};
use filter::FilterArgs;

/// Dead letters fetched at once.
const PAGE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List the groups that have dead letters, or the dead letters of one group
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  strait dlq ls
  strait dlq ls billing --by-error
  strait dlq ls billing --after -1h --reason 'timed out' -o jsonl"
    )]
    Ls {
        /// The group
        group: Option<Name>,
        #[command(flatten)]
        filter: FilterArgs,
        /// Count them by error instead: numbers, ids and quoted texts in it are taken for the same
        #[arg(long)]
        by_error: bool,
        /// Only on this topic
        #[arg(long, value_name = "TOPIC")]
        topic: Option<Name>,
    },
    /// Show one dead letter whole: its message, where it comes from, how it died before, and its edit
    #[command(
        visible_alias = "describe",
        after_help = "Examples:
  strait dlq show billing 2
  strait dlq show billing 2 -o json"
    )]
    Show {
        /// The group
        group: Name,
        /// Its number, as `dlq ls` shows it
        number: u64,
        /// Where the group reads several topics: which
        #[arg(long, value_name = "TOPIC")]
        topic: Option<Name>,
    },
    /// Keep a changed copy beside a dead letter: a redrive delivers it, the original stays
    Edit(edit::EditArgs),
    /// Remove dead letters for good
    #[command(visible_alias = "delete")]
    Rm(redrive::RemoveArgs),
    /// Give dead letters back to their group, in the original order of their keys
    Redrive(redrive::RedriveArgs),
    /// Take a redrive back: what still waits is a dead letter again
    Undo(redrive::UndoArgs),
}

/// A group that has dead letters.
#[derive(Debug, Serialize)]
struct HeapRow {
    group: String,
    topic: String,
    dead: u64,
    first_number: Option<u64>,
    first_died: Option<String>,
    first_reason: Option<String>,
    #[serde(skip)]
    died: Option<Timestamp>,
}

impl Row for HeapRow {
    const LIST: &'static str = "dead_letters";

    fn columns(_: bool) -> Vec<Column> {
        vec![
            text("GROUP"),
            text("TOPIC"),
            number("DEAD"),
            number("FIRST"),
            text("DIED"),
            text("REASON"),
        ]
    }

    fn cells(&self, wide: bool, people: bool) -> Vec<String> {
        let dash = || "-".to_owned();
        vec![
            self.group.clone(),
            self.topic.clone(),
            count(self.dead, people),
            self.first_number.map_or_else(dash, |n| n.to_string()),
            self.died.map_or_else(dash, |at| when(at, people)),
            self.first_reason
                .as_deref()
                .map_or_else(dash, |reason| reason_cell(reason, wide, people)),
        ]
    }
}

/// One dead letter.
#[derive(Debug, Serialize)]
struct LetterRow {
    number: u64,
    group: String,
    topic: String,
    partition: u32,
    offset: Offset,
    key: Option<String>,
    attempts: u32,
    died: String,
    error: String,
    reason: String,
    edited: bool,
    deaths: usize,
    #[serde(skip)]
    at: Timestamp,
}

impl LetterRow {
    fn new(group: &Name, letter: &DeadLetter) -> Self {
        let message = &letter.message;
        LetterRow {
            number: letter.number,
            group: group.to_string(),
            topic: message.topic().to_string(),
            partition: message.partition(),
            offset: Offset(message.position()),
            key: message.record().key().map(shown),
            attempts: letter.attempts,
            died: crate::text::time(letter.died),
            error: letter.fingerprint.to_string(),
            reason: letter.reason.to_string(),
            edited: letter.edited.is_some(),
            deaths: letter.history.len() + 1,
            at: letter.died,
        }
    }
}

impl Row for LetterRow {
    const LIST: &'static str = "dead_letters";

    fn columns(_: bool) -> Vec<Column> {
        vec![
            number("NUMBER"),
            text("KEY"),
            text("TOPIC"),
            number("PARTITION"),
            number("OFFSET"),
            number("ATTEMPTS"),
            text("DIED"),
            text("EDITED"),
            text("REASON"),
        ]
    }

    fn cells(&self, wide: bool, people: bool) -> Vec<String> {
        vec![
            self.number.to_string(),
            self.key.clone().unwrap_or_else(|| "-".to_owned()),
            self.topic.clone(),
            self.partition.to_string(),
            self.offset.cell(people),
            self.attempts.to_string(),
            when(self.at, people),
            if self.edited { "yes" } else { "-" }.to_owned(),
            reason_cell(&self.reason, wide, people),
        ]
    }
}

/// The dead letters of one error.
#[derive(Debug, Serialize)]
struct ErrorRow {
    error: String,
    group: String,
    topic: String,
    dead: u64,
    keys: u64,
    first_died: String,
    last_died: String,
    example: String,
    #[serde(skip)]
    died: (Timestamp, Timestamp),
}

impl ErrorRow {
    fn new(info: &GroupInfo, sum: &DeadSummary) -> Self {
        ErrorRow {
            error: sum.fingerprint.to_string(),
            group: info.group.to_string(),
            topic: info.topic.to_string(),
            dead: sum.count,
            keys: sum.keys,
            first_died: crate::text::time(sum.first_died),
            last_died: crate::text::time(sum.last_died),
            example: sum.example.to_string(),
            died: (sum.first_died, sum.last_died),
        }
    }
}

impl Row for ErrorRow {
    const LIST: &'static str = "errors";

    fn columns(_: bool) -> Vec<Column> {
        vec![
            text("ERROR"),
            text("GROUP"),
            text("TOPIC"),
            number("DEAD"),
            number("KEYS"),
            text("FIRST"),
            text("LAST"),
            text("EXAMPLE"),
        ]
    }

    fn cells(&self, wide: bool, people: bool) -> Vec<String> {
        vec![
            self.error.clone(),
            self.group.clone(),
            self.topic.clone(),
            count(self.dead, people),
            count(self.keys, people),
            when(self.died.0, people),
            when(self.died.1, people),
            reason_cell(&self.example, wide, people),
        ]
    }
}

fn reason_cell(reason: &str, wide: bool, people: bool) -> String {
    let reason = shown(reason.as_bytes());
    if people && !wide {
        cut(&reason, 60)
    } else {
        reason
    }
}

/// Runs the command.
pub(crate) async fn run(command: DlqCommand, ctx: &Ctx) -> Outcome {
    let target = Target::existing(&ctx.global).await?;
    let done = match command {
        DlqCommand::Ls {
            group,
            filter,
            by_error,
            topic,
        } => list(&target, group, &filter, by_error, topic, ctx).await,
        DlqCommand::Show {
            group,
            number,
            topic,
        } => show(&target, &group, number, topic.as_ref(), ctx).await,
        DlqCommand::Edit(args) => edit::edit(args, &target, ctx).await,
        DlqCommand::Rm(args) => redrive::remove(args, &target, ctx).await,
        DlqCommand::Redrive(args) => redrive::redrive(args, &target, ctx).await,
        DlqCommand::Undo(args) => redrive::undo(args, &target, ctx).await,
    };
    target.close().await;
    done
}

async fn list(
    target: &Target,
    group: Option<Name>,
    filter: &FilterArgs,
    by_error: bool,
    topic: Option<Name>,
    ctx: &Ctx,
) -> Outcome {
    let topic = topic.as_ref();
    match (group, by_error) {
        (Some(group), true) => {
            let infos = target.groups_named(&group, topic).await?;
            list_errors(target, &infos, filter, ctx).await
        }
        (Some(group), false) => list_letters(target, &group, filter, topic, ctx).await,
        (None, true) => {
            let mut infos = target.events.groups().await?;
            infos.retain(|info| info.dead > 0 && topic.is_none_or(|topic| info.topic == *topic));
            list_errors(target, &infos, filter, ctx).await
        }
        (None, false) if !filter.is_empty() => Err(Failure::usage(
            "a filter picks dead letters of one group: say which, or count those of all with --by-error",
        )),
        (None, false) => list_heaps(target, topic, ctx).await,
    }
}

async fn list_errors(
    target: &Target,
    infos: &[GroupInfo],
    filter: &FilterArgs,
    ctx: &Ctx,
) -> Outcome {
    let mut rows = Vec::new();
    for info in infos {
        let (group, topic) = (info.group.clone(), info.topic.clone());
        let sums = target
            .events
            .dead_summary(group, topic, filter.filter())
            .await?;
        rows.extend(sums.iter().map(|sum| ErrorRow::new(info, sum)));
    }
    if rows.is_empty() {
        ctx.out.note("no such dead letters");
    }
    ctx.out.list(&rows)
}

async fn list_heaps(target: &Target, topic: Option<&Name>, ctx: &Ctx) -> Outcome {
    let mut rows = Vec::new();
    for info in target.events.groups().await? {
        if info.dead == 0 || topic.is_some_and(|topic| info.topic != *topic) {
            continue;
        }
        let first = target
            .events
            .dead_letters(
                info.group.clone(),
                info.topic.clone(),
                DeadFilter::default(),
                0,
                1,
            )
            .await?
            .pop();
        rows.push(HeapRow {
            group: info.group.to_string(),
            topic: info.topic.to_string(),
            dead: info.dead,
            first_number: first.as_ref().map(|letter| letter.number),
            first_died: first.as_ref().map(|letter| crate::text::time(letter.died)),
            first_reason: first.as_ref().map(|letter| letter.reason.to_string()),
            died: first.as_ref().map(|letter| letter.died),
        });
    }
    if rows.is_empty() {
        ctx.out.note("no dead letters");
    }
    ctx.out.list(&rows)
}

async fn list_letters(
    target: &Target,
    group: &Name,
    filter: &FilterArgs,
    topic: Option<&Name>,
    ctx: &Ctx,
) -> Outcome {
    let mut rows = Vec::new();
    for info in target.groups_named(group, topic).await? {
        let mut from = 0;
        loop {
            let (group, topic) = (info.group.clone(), info.topic.clone());
            let page = target
                .events
                .dead_letters(group, topic, filter.filter(), from, PAGE)
                .await?;
            rows.extend(
                page.iter()
                    .map(|letter| LetterRow::new(&info.group, letter)),
            );
            match page.last().filter(|_| page.len() == PAGE) {
                Some(last) => from = last.number + 1,
                None => break,
            }
        }
    }
    if rows.is_empty() {
        let such = if filter.is_empty() { "" } else { "such " };
        ctx.out
            .note(format!("group `{group}` has no {such}dead letters"));
    }
    ctx.out.list(&rows)
}

async fn letter(target: &Target, info: &GroupInfo, number: u64) -> Outcome<DeadLetter> {
    let found = target
        .events
        .dead_letters(
            info.group.clone(),
            info.topic.clone(),
            DeadFilter::default(),
            number,
            1,
        )
        .await?
        .pop()
        .filter(|letter| letter.number == number);
    found.ok_or_else(|| {
        let group = &info.group;
        let text = format!("group `{group}` has no dead letter {number}");
        Error::new(Kind::NotFound, text)
            .with("topic", &info.topic)
            .next(format!("strait dlq ls {group}"))
            .into()
    })
}

fn message_json(message: &Message) -> Outcome<serde_json::Value> {
    let mut bytes = Vec::new();
    let seen = Seen {
        topic: message.topic(),
        partition: message.partition(),
        position: message.position(),
        record: message.record(),
    };
    Render::Json.write(&mut bytes, seen);
    serde_json::from_slice(&bytes).map_err(broken)
}

fn broken(error: serde_json::Error) -> Failure {
    let text = format!("a dead letter cannot be written as JSON: {error}");
    Failure::from(Error::new(Kind::Unexpected, text))
}

async fn show(
    target: &Target,
    group: &Name,
    number: u64,
    topic: Option<&Name>,
    ctx: &Ctx,
) -> Outcome {
    let info = target.group(group, topic).await?;
    let letter = letter(target, &info, number).await?;
    let row = LetterRow::new(group, &letter);
    if matches!(ctx.out.shape(), Shape::Json | Shape::Jsonl) {
        return ctx.out.object(&document(&row, &letter)?, "");
    }
    ctx.out.write(page(&row, &letter).as_bytes())
}

/// A dead letter for people.
fn page(row: &LetterRow, letter: &DeadLetter) -> String {
    let record = letter.message.record();
    let mut page = format!("dead letter {} of group {}\n", row.number, row.group);
    let mut line = |name: &str, value: &str| page.push_str(&format!("  {name:<12}{value}\n"));
    line("reason", &shown(row.reason.as_bytes()));
    line("error", &row.error);
    line("attempts", &row.attempts.to_string());
    line("died", &row.died);
    for death in letter.history.iter().rev() {
        let edited = if death.edited { ", then edited" } else { "" };
        let before = format!(
            "#{} at {} after {} attempts: {}{edited}",
            death.number,
            crate::text::time(death.died),
            death.attempts,
            shown(death.reason.as_bytes())
        );
        line("before", &before);
    }
    let place = offset(letter.message.position());
    line(
        "message",
        &format!("{}/{} offset {place}", row.topic, row.partition),
    );
    line("id", &record.id().to_string());
    line("key", row.key.as_deref().unwrap_or("-"));
    line("kind", record.kind().unwrap_or("-"));
    line("time", &crate::text::time(record.time()));
    for (name, attr) in [
        ("source", Attr::Source),
        ("correlation", Attr::Correlation),
        ("causation", Attr::Causation),
        ("trace", Attr::Traceparent),
    ] {
        if let Some(value) = record.attr(attr) {
            line(name, &shown(value.as_bytes()));
        }
    }
    for (name, value) in record.headers() {
        line("header", &format!("{name}={}", shown(value)));
    }
    line("value", &shown(record.body()));
    if let Some(edited) = &letter.edited {
        let edited = edited.record();
        for (name, value) in edited.headers() {
            line("edit header", &format!("{name}={}", shown(value)));
        }
        line("edit", &shown(edited.body()));
    }
    page
}

/// An earlier death in JSON.
#[derive(Debug, Serialize)]
struct DeathRow {
    number: u64,
    attempts: u32,
    died: String,
    reason: String,
    edited: bool,
}

fn document(row: &LetterRow, letter: &DeadLetter) -> Outcome<serde_json::Value> {
    let mut document = serde_json::to_value(row).map_err(broken)?;
    document["schema"] = crate::out::SCHEMA.into();
    document["message"] = message_json(&letter.message)?;
    if let Some(edited) = &letter.edited {
        document["edit"] = message_json(edited)?;
    }
    let deaths = letter.history.iter().map(|death| DeathRow {
        number: death.number,
        attempts: death.attempts,
        died: crate::text::time(death.died),
        reason: death.reason.to_string(),
        edited: death.edited,
    });
    let deaths: Vec<DeathRow> = deaths.collect();
    document["history"] = serde_json::to_value(deaths).map_err(broken)?;
    for (name, attr) in [
        ("correlation", Attr::Correlation),
        ("causation", Attr::Causation),
    ] {
        if let Some(value) = letter.message.record().attr(attr) {
            document["message"][name] = value.into();
        }
    }
    Ok(document)
}
