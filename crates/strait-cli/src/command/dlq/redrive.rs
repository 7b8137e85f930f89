//! `strait dlq rm`, `redrive` and `undo`: what changes many dead letters at once.

use clap::Args;
use serde::Serialize;
use strait::core::events::{DeadFilter, DeadLetter, GroupInfo, Redrive, RemoveDead, UndoRedrive};
use strait::core::{Name, Timestamp};

use super::filter::FilterArgs;
use crate::command::Ctx;
use crate::confirm::{DryRun, agreed};
use crate::fail::{Failure, Outcome};
use crate::out::SCHEMA;
use crate::target::Target;
use crate::text::{count, cut, duration, shown};

/// Dead letters that a plan shows one by one.
const SHOWN: usize = 10;
/// Up to so many are named by number to the engine: what dies meanwhile is no part of the plan. More are bounded by the
/// time of the plan.
const NAMED: usize = 1000;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait dlq rm billing 2 5 --dry-run
  strait dlq rm billing --error 1f0c9a6e22b4 --yes
  strait dlq rm billing --before -30d --yes")]
pub(crate) struct RemoveArgs {
    /// The group
    group: Name,
    #[command(flatten)]
    filter: FilterArgs,
    /// All of them
    #[arg(long)]
    all: bool,
    /// Where the group reads several topics: which
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Name>,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait dlq redrive billing --all --dry-run
  strait dlq redrive billing 2 5 --yes
  strait dlq redrive billing --reason 'timed out' --rate 100 --yes")]
pub(crate) struct RedriveArgs {
    /// The group
    group: Name,
    #[command(flatten)]
    filter: FilterArgs,
    /// All of them
    #[arg(long)]
    all: bool,
    /// At most so many a second; later messages of a key wait behind the one that is on its way
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Go on with this run, which ended early
    #[arg(long, value_name = "RUN")]
    resume: Option<u64>,
    /// Where the group reads several topics: which
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Name>,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait dlq undo billing 3 --dry-run
  strait dlq undo billing 3 --yes")]
pub(crate) struct UndoArgs {
    /// The group
    group: Name,
    /// The number of the run, as `dlq redrive` said it
    run: u64,
    /// Where the group reads several topics: which
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Name>,
    #[command(flatten)]
    dry: DryRun,
}

/// What was picked, for a plan and for the request after it.
struct Picked {
    filter: DeadFilter,
    count: u64,
    shown: Vec<DeadLetter>,
}

fn checked(filter: &FilterArgs, all: bool, verb: &str) -> Outcome<DeadFilter> {
    match (filter.is_empty(), all) {
        (true, false) => Err(Failure::usage(format!(
            "say which dead letters to {verb}: numbers, --error, --reason or another filter, or --all"
        ))),
        (false, true) => Err(Failure::usage("--all and a filter exclude each other")),
        _ => Ok(filter.filter()),
    }
}

/// Looks at what the filter picks; `None`, and a note, when there is nothing.
async fn pick(
    target: &Target,
    info: &GroupInfo,
    filter: DeadFilter,
    ctx: &Ctx,
) -> Outcome<Option<Picked>> {
    let (group, topic) = (info.group.clone(), info.topic.clone());
    let remove = RemoveDead {
        group: group.clone(),
        topic: topic.clone(),
        filter: filter.clone(),
        dry_run: true,
    };
    let count = target.events.remove_dead(remove).await?;
    if count == 0 {
        ctx.out
            .note(format!("group `{group}` has no such dead letters"));
        return Ok(None);
    }
    let most = if count <= NAMED as u64 { NAMED } else { SHOWN };
    let events = &target.events;
    let mut shown = events
        .dead_letters(group, topic, filter.clone(), 0, most)
        .await?;
    let filter = if most == NAMED {
        DeadFilter::numbers(shown.iter().map(|letter| letter.number))
    } else {
        let now = Timestamp::now();
        let before = filter.died_before.map_or(now, |before| before.min(now));
        DeadFilter {
            died_before: Some(before),
            ..filter
        }
    };
    shown.truncate(SHOWN);
    Ok(Some(Picked {
        filter,
        count,
        shown,
    }))
}

impl Picked {
    fn plan(&self, what: &str, info: &GroupInfo, how: &str) -> String {
        let mut plan = format!(
            "{what} {} of {} dead letters of group `{}` on `{}`{how}:",
            count(self.count, true),
            count(info.dead, true),
            info.group,
            info.topic
        );
        for letter in &self.shown {
            let message = &letter.message;
            let key = message.record().key().map_or("-".to_owned(), shown);
            let edited = if letter.edited.is_some() {
                "  edited"
            } else {
                ""
            };
            plan.push_str(&format!(
                "\n  #{}  key {key}  {}/{} offset {}  {} attempts{edited}  {}",
                letter.number,
                message.topic(),
                message.partition(),
                message.position(),
                letter.attempts,
                cut(&shown(letter.reason.as_bytes()), 60)
            ));
        }
        let rest = self.count.saturating_sub(self.shown.len() as u64);
        if rest > 0 {
            plan.push_str(&format!("\n  and {} more", count(rest, true)));
        }
        plan
    }
}

pub(super) async fn remove(args: RemoveArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let filter = checked(&args.filter, args.all, "remove")?;
    let info = target.group(&args.group, args.topic.as_ref()).await?;
    let Some(picked) = pick(target, &info, filter, ctx).await? else {
        return Ok(());
    };
    let plan = picked.plan("remove", &info, ", for good");
    if !agreed(&plan, args.dry, &ctx.global, &ctx.out)? {
        return Ok(());
    }
    let remove = RemoveDead {
        group: info.group.clone(),
        topic: info.topic.clone(),
        filter: picked.filter,
        dry_run: false,
    };
    let removed = target.events.remove_dead(remove).await?;
    #[derive(Serialize)]
    struct Removed<'a> {
        schema: u32,
        group: &'a str,
        topic: &'a str,
        removed: u64,
    }
    let done = Removed {
        schema: SCHEMA,
        group: &info.group,
        topic: &info.topic,
        removed,
    };
    let text = format!(
        "removed {} of {} dead letters of group {} on {}\n",
        count(removed, true),
        count(info.dead, true),
        info.group,
        info.topic
    );
    ctx.out.object(&done, &text)
}

pub(super) async fn redrive(args: RedriveArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let filter = checked(&args.filter, args.all, "redrive")?;
    let info = target.group(&args.group, args.topic.as_ref()).await?;
    let Some(picked) = pick(target, &info, filter, ctx).await? else {
        return Ok(());
    };
    let how = match args.rate {
        Some(rate) => format!(" at {rate} a second, in the order of their keys"),
        None => ", in the order of their keys".to_owned(),
    };
    let plan = picked.plan("redrive", &info, &how);
    if !agreed(&plan, args.dry, &ctx.global, &ctx.out)? {
        return Ok(());
    }
    let redrive = Redrive {
        per_second: args.rate,
        resume: args.resume,
        ..Redrive::new(info.group.clone(), info.topic.clone(), picked.filter)
    };
    let done = target.events.redrive(redrive).await?;
    #[derive(Serialize)]
    struct Redriven<'a> {
        schema: u32,
        group: &'a str,
        topic: &'a str,
        redriven: u64,
        run: Option<u64>,
        lasts_ms: u64,
    }
    let answer = Redriven {
        schema: SCHEMA,
        group: &info.group,
        topic: &info.topic,
        redriven: done.count,
        run: done.run,
        lasts_ms: u64::try_from(done.lasts.as_millis()).unwrap_or(u64::MAX),
    };
    let mut text = format!(
        "redrove {} of {} dead letters to group {} on {}",
        count(done.count, true),
        count(info.dead, true),
        info.group,
        info.topic
    );
    if !done.lasts.is_zero() {
        text.push_str(&format!(", the last in {}", duration(done.lasts)));
    }
    text.push('\n');
    if let Some(run) = done.run {
        text.push_str(&format!(
            "this is run {run}; take back what still waits with: strait dlq undo {} {run}\n",
            info.group
        ));
    }
    ctx.out.object(&answer, &text)
}

pub(super) async fn undo(args: UndoArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let info = target.group(&args.group, args.topic.as_ref()).await?;
    let ask = |dry_run| UndoRedrive {
        group: info.group.clone(),
        topic: info.topic.clone(),
        run: args.run,
        dry_run,
    };
    let would = target.events.undo_redrive(ask(true)).await?;
    let plan = format!(
        "take back run {} of group `{}` on `{}`: {} messages that still wait become dead letters again; \
         {} are out and {} are handled, they stay so",
        args.run,
        info.group,
        info.topic,
        count(would.returned, true),
        count(would.out, true),
        count(would.handled, true)
    );
    if !agreed(&plan, args.dry, &ctx.global, &ctx.out)? {
        return Ok(());
    }
    let done = target.events.undo_redrive(ask(false)).await?;
    #[derive(Serialize)]
    struct Undone<'a> {
        schema: u32,
        group: &'a str,
        topic: &'a str,
        run: u64,
        returned: u64,
        out: u64,
        handled: u64,
    }
    let answer = Undone {
        schema: SCHEMA,
        group: &info.group,
        topic: &info.topic,
        run: args.run,
        returned: done.returned,
        out: done.out,
        handled: done.handled,
    };
    let text = format!(
        "run {}: {} are dead letters again, {} are out with a member, {} were handled meanwhile\n",
        args.run,
        count(done.returned, true),
        count(done.out, true),
        count(done.handled, true)
    );
    ctx.out.object(&answer, &text)
}
