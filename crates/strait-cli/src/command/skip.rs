//! `strait group skip`: one message is set aside by hand.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use strait::core::Name;
use strait::core::events::{Cursor, SetAside};

use super::Ctx;
use crate::confirm::{DryRun, agreed};
use crate::fail::Outcome;
use crate::offset::Offset;
use crate::target::Target;
use crate::text::{cut, parse_reason, shown};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait group skip billing orders 3 1207 --reason 'a test order, the customer called' --dry-run
  strait group skip billing orders 3 1207 --reason 'a test order' --yes")]
pub(crate) struct SkipArgs {
    /// The group
    group: Name,
    /// The topic
    topic: Name,
    /// The partition
    partition: u32,
    /// The message's offset in it
    offset: Offset,
    /// Why: the reason of the dead letter
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    /// Also while a member has it: what it does with it, and with what came together with it, counts no more
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    dry: DryRun,
}

pub(super) async fn skip(args: SkipArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let info = target.group(&args.group, Some(&args.topic)).await?;
    let aside = SetAside {
        group: info.group.clone(),
        topic: info.topic.clone(),
        partition: args.partition,
        position: args.offset.0,
        reason: args.reason.clone().into(),
        force: args.force,
        dry_run: true,
    };
    // What would be refused is no plan.
    target.events.set_aside(aside.clone()).await?;
    let plan = format!(
        "set aside one message of group `{}` on `{}`: it becomes a dead letter, those behind it go on\n  {}",
        info.group,
        info.topic,
        message(&args, target).await?
    );
    if !agreed(&plan, args.dry, &ctx.global, &ctx.out)? {
        return Ok(());
    }
    let aside = SetAside {
        dry_run: false,
        ..aside
    };
    let number = target.events.set_aside(aside).await?;
    #[derive(Serialize)]
    struct Skipped<'a> {
        schema: u32,
        group: &'a str,
        topic: &'a str,
        partition: u32,
        offset: Offset,
        dead_letter: u64,
    }
    let answer = Skipped {
        schema: crate::out::SCHEMA,
        group: &info.group,
        topic: &info.topic,
        partition: args.partition,
        offset: args.offset,
        dead_letter: number,
    };
    let text = format!(
        "{}/{} offset {} is dead letter {number} of group {}; give it back with: strait dlq redrive {} {number}\n",
        args.topic, args.partition, args.offset, info.group, info.group
    );
    ctx.out.object(&answer, &text)
}

/// The message that is meant, for the plan. One that retention or compaction removed may still wait as a dead letter that
/// was brought back.
async fn message(args: &SkipArgs, target: &Target) -> Outcome<String> {
    let cursor = Cursor {
        topic: args.topic.clone(),
        partition: args.partition,
        position: args.offset.0,
        wait: Duration::ZERO,
    };
    let place = format!("{}/{} offset {}", args.topic, args.partition, args.offset);
    let chunk = match target.events.read(cursor, 1).await {
        Ok(chunk) => chunk,
        Err(error) if error.is(strait::core::codes::OFFSET_GONE) => return Ok(place),
        Err(error) => return Err(error.into()),
    };
    let first = chunk.iter().next();
    Ok(
        match first.filter(|item| item.position() == args.offset.0) {
            Some(item) => {
                let record = item.record();
                let key = record.key().map_or("-".to_owned(), shown);
                format!("{place}  key {key}  {}", cut(&shown(record.body()), 60))
            }
            None => place,
        },
    )
}
