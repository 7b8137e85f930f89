//! `strait dlq`: dead letters, and their way back.

use clap::{Args, Subcommand};
use serde::Serialize;
use strait::core::events::{DeadFilter, DeadLetter, GroupInfo, Redrive};
use strait::core::{Error, Kind, Name, Timestamp};

use super::Ctx;
use super::render::{Render, Seen, offset};
use crate::confirm::{DryRun, agreed};
use crate::fail::{Failure, Outcome};
use crate::out::{Column, Row, Shape, number, text};
use crate::target::Target;
use crate::text::{count, cut, shown, when};

/// Dead letters fetched at once.
const PAGE: usize = 1000;
/// Dead letters that a plan shows one by one.
const SHOWN: usize = 10;

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List the groups that have dead letters, or the dead letters of one group
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  strait dlq ls
  strait dlq ls billing
  strait dlq ls billing -o jsonl"
    )]
    Ls {
        /// The group
        group: Option<Name>,
        /// Only on this topic
        #[arg(long, value_name = "TOPIC")]
        topic: Option<Name>,
    },
    /// Show one dead letter whole, with its message
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
    /// Give dead letters back to their group, in the original order of their keys
    Redrive(RedriveArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait dlq redrive billing --all --dry-run
  strait dlq redrive billing 2 5 --yes
  strait dlq redrive billing --reason 'timed out' --yes")]
pub(crate) struct RedriveArgs {
    /// The group
    group: Name,
    /// Which, by number
    #[arg(value_name = "NUMBER", required_unless_present_any = ["all", "reason"])]
    numbers: Vec<u64>,
    /// All of them
    #[arg(long, conflicts_with_all = ["numbers", "reason"])]
    all: bool,
    /// Those whose reason contains this text
    #[arg(long, value_name = "TEXT", conflicts_with = "numbers")]
    reason: Option<String>,
    /// Where the group reads several topics: which
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Name>,
    #[command(flatten)]
    dry: DryRun,
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
    offset: u64,
    key: Option<String>,
    attempts: u32,
    died: String,
    reason: String,
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
            offset: message.position().offset(),
            key: message.record().key().map(shown),
            attempts: letter.attempts,
            died: crate::text::time(letter.died),
            reason: letter.reason.to_string(),
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
            text("REASON"),
        ]
    }

    fn cells(&self, wide: bool, people: bool) -> Vec<String> {
        vec![
            self.number.to_string(),
            self.key.clone().unwrap_or_else(|| "-".to_owned()),
            self.topic.clone(),
            self.partition.to_string(),
            count(self.offset, people),
            self.attempts.to_string(),
            when(self.at, people),
            reason_cell(&self.reason, wide, people),
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
        DlqCommand::Ls { group: None, topic } => list_heaps(&target, topic.as_ref(), ctx).await,
        DlqCommand::Ls {
            group: Some(group),
            topic,
        } => list_letters(&target, &group, topic.as_ref(), ctx).await,
        DlqCommand::Show {
            group,
            number,
            topic,
        } => show(&target, &group, number, topic.as_ref(), ctx).await,
        DlqCommand::Redrive(args) => redrive(args, &target, ctx).await,
    };
    target.close().await;
    done
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

async fn list_letters(target: &Target, group: &Name, topic: Option<&Name>, ctx: &Ctx) -> Outcome {
    let mut rows = Vec::new();
    for info in target.groups_named(group, topic).await? {
        let letters = letters(target, &info, |_| true).await?;
        rows.extend(letters.iter().map(|letter| LetterRow::new(group, letter)));
    }
    if rows.is_empty() {
        ctx.out.note(format!("group `{group}` has no dead letters"));
    }
    ctx.out.list(&rows)
}

/// All dead letters of a group that `wanted` picks, page by page.
async fn letters(
    target: &Target,
    info: &GroupInfo,
    wanted: impl Fn(&DeadLetter) -> bool,
) -> Outcome<Vec<DeadLetter>> {
    let mut found = Vec::new();
    let mut from = 0;
    loop {
        let page = target
            .events
            .dead_letters(
                info.group.clone(),
                info.topic.clone(),
                DeadFilter::default(),
                from,
                PAGE,
            )
            .await?;
        let Some(last) = page.last() else {
            return Ok(found);
        };
        from = last.number + 1;
        found.extend(page.into_iter().filter(&wanted));
    }
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
    let mut message = Vec::new();
    let seen = Seen {
        topic: &row.topic,
        partition: row.partition,
        position: letter.message.position(),
        record: letter.message.record(),
    };
    Render::Json.write(&mut message, seen);
    if matches!(ctx.out.shape(), Shape::Json | Shape::Jsonl) {
        return ctx.out.object(&document(&row, &message)?, "");
    }
    let record = letter.message.record();
    let mut page = format!(
        "dead letter {number} of group {group}\n  reason    {}\n  attempts  {}\n  died      {}\n  \
         message   {}/{} offset {}\n  key       {}\n  kind      {}\n  time      {}\n",
        shown(row.reason.as_bytes()),
        row.attempts,
        row.died,
        row.topic,
        row.partition,
        offset(letter.message.position()),
        row.key.as_deref().unwrap_or("-"),
        record.kind().unwrap_or("-"),
        crate::text::time(record.time()),
    );
    for (name, value) in record.headers() {
        page.push_str(&format!("  header    {name}={}\n", shown(value)));
    }
    page.push_str(&format!("  value     {}\n", shown(record.body())));
    ctx.out.write(page.as_bytes())
}

fn document(row: &LetterRow, message: &[u8]) -> Outcome<serde_json::Value> {
    let broken = |error: serde_json::Error| {
        let text = format!("a dead letter cannot be written as JSON: {error}");
        Failure::from(Error::new(Kind::Unexpected, text))
    };
    let mut document = serde_json::to_value(row).map_err(broken)?;
    document["schema"] = crate::out::SCHEMA.into();
    document["message"] = serde_json::from_slice(message).map_err(broken)?;
    Ok(document)
}

async fn redrive(args: RedriveArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let info = target.group(&args.group, args.topic.as_ref()).await?;
    let chosen = if args.numbers.is_empty() {
        let reason = args.reason.as_deref().unwrap_or_default();
        letters(target, &info, |letter| letter.reason.contains(reason)).await?
    } else {
        let mut chosen = Vec::new();
        for number in &args.numbers {
            chosen.push(letter(target, &info, *number).await?);
        }
        chosen
    };
    if chosen.is_empty() {
        ctx.out
            .note(format!("group `{}` has no such dead letters", args.group));
        return Ok(());
    }
    if !agreed(&plan(&info, &chosen), args.dry, &ctx.global, &ctx.out)? {
        return Ok(());
    }
    // Also with --all: what died since the plan was shown is not part of it.
    let numbers = DeadFilter::numbers(chosen.iter().map(|letter| letter.number));
    let redrive = Redrive::new(info.group.clone(), info.topic.clone(), numbers);
    let came_back = target.events.redrive(redrive).await?.count;
    #[derive(Serialize)]
    struct Redriven<'a> {
        schema: u32,
        group: &'a str,
        topic: &'a str,
        redriven: u64,
    }
    let done = Redriven {
        schema: crate::out::SCHEMA,
        group: &info.group,
        topic: &info.topic,
        redriven: came_back,
    };
    let text = format!(
        "redrove {came_back} of {} dead letters to group {} on {}\n",
        info.dead, info.group, info.topic
    );
    ctx.out.object(&done, &text)
}

fn plan(info: &GroupInfo, chosen: &[DeadLetter]) -> String {
    let mut plan = format!(
        "redrive {} of {} dead letters to group `{}` on `{}`, in the order of their keys:",
        chosen.len(),
        info.dead,
        info.group,
        info.topic
    );
    for letter in chosen.iter().take(SHOWN) {
        let message = &letter.message;
        let key = message.record().key().map_or("-".to_owned(), shown);
        plan.push_str(&format!(
            "\n  #{}  key {key}  {}/{} offset {}  {} attempts  {}",
            letter.number,
            message.topic(),
            message.partition(),
            message.position(),
            letter.attempts,
            cut(&shown(letter.reason.as_bytes()), 60)
        ));
    }
    if chosen.len() > SHOWN {
        plan.push_str(&format!("\n  and {} more", chosen.len() - SHOWN));
    }
    plan
}
