//! `strait group pause`, `resume` and `alter`: what an operator sets over what members declare.

use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use strait::core::Name;
use strait::core::events::{AfterDead, GroupChange, GroupInfo, Override};

use super::super::Ctx;
use super::GroupRow;
use crate::confirm::{DryRun, agreed};
use crate::fail::{Failure, Outcome};
use crate::target::Target;
use crate::text::{count, parse_reason, shown, time};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait group pause billing --reason 'the bank is down, ticket 4711' --yes
  strait group pause billing --topic orders --reason maintenance --dry-run")]
pub(crate) struct PauseArgs {
    /// The group
    group: Name,
    /// Why, for who finds it paused
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    /// Only on this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Name>,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait group resume billing
  strait group resume billing --topic orders")]
pub(crate) struct ResumeArgs {
    /// The group
    group: Name,
    /// Only on this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Name>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "What is set holds whatever members declare, also after restarts, until it is lifted with `declared`.

Examples:
  strait group alter billing --max-attempts 20 --dry-run
  strait group alter billing --gap 50000 --max-dead 2000000 --yes
  strait group alter billing --max-attempts declared --yes"
)]
pub(crate) struct AlterArgs {
    /// The group
    group: Name,
    /// The attempt after which a message goes to the dead letters
    #[arg(long, value_name = "N|declared", value_parser = at_least_one::<u32>)]
    max_attempts: Option<Override<u32>>,
    /// Dead letters that it may keep; at the bound it stands
    #[arg(long, value_name = "N|declared", value_parser = setting::<u64>)]
    max_dead: Option<Override<u64>>,
    /// Greatest distance between the oldest unsettled and the newest delivered message of a partition
    #[arg(long, value_name = "N|declared", value_parser = at_least_one::<u64>)]
    gap: Option<Override<u64>>,
    /// What follows a dead letter: `continue` lets held keys go on, where members declare that it holds them
    #[arg(long, value_name = "continue|declared", value_parser = after_dead)]
    after_dead: Option<Override<AfterDead>>,
    /// Where the group reads several topics: which
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Name>,
    #[command(flatten)]
    dry: DryRun,
}

fn setting<T: FromStr + Clone + Send + Sync>(text: &str) -> Result<Override<T>, String> {
    if text == "declared" {
        return Ok(Override::Lift);
    }
    let wrong = |_| format!("`{text}` is neither a number nor `declared`");
    text.parse().map(Override::Set).map_err(wrong)
}

fn at_least_one<T>(text: &str) -> Result<Override<T>, String>
where
    T: FromStr + Clone + Send + Sync + PartialEq + From<u8>,
{
    match setting(text)? {
        Override::Set(zero) if zero == T::from(0) => Err("it is at least 1".to_owned()),
        set => Ok(set),
    }
}

fn after_dead(text: &str) -> Result<Override<AfterDead>, String> {
    match text {
        "declared" => Ok(Override::Lift),
        "continue" => Ok(Override::Set(AfterDead::Continue)),
        _ => Err(format!(
            "`{text}` is neither `continue` nor `declared`; that a dead letter holds its key is declared by the program"
        )),
    }
}

async fn change(target: &Target, info: &GroupInfo, change: GroupChange) -> Outcome<GroupInfo> {
    let (group, topic) = (info.group.clone(), info.topic.clone());
    Ok(target.events.alter_group(group, topic, change).await?)
}

pub(super) async fn pause(args: PauseArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let found = target
        .groups_named(&args.group, args.topic.as_ref())
        .await?;
    let step = |info: &GroupInfo| {
        let was = match &info.pause {
            Some(pause) => format!(
                "; it is paused since {}: {}",
                time(pause.since),
                shown(pause.reason.as_bytes())
            ),
            None => String::new(),
        };
        format!(
            "pause group `{}` on `{}` ({} live members keep their partitions, {} messages wait){was}",
            info.group,
            info.topic,
            info.members.len(),
            count(info.lag(), true)
        )
    };
    let steps: Vec<String> = found.iter().map(step).collect();
    if !agreed(&steps.join(", and "), args.dry, &ctx.global, &ctx.out)? {
        return Ok(());
    }
    let reason: Arc<str> = args.reason.into();
    let mut rows = Vec::new();
    for info in &found {
        let pause = GroupChange {
            pause: Override::Set(reason.clone()),
            ..GroupChange::default()
        };
        rows.push(GroupRow::new(&change(target, info, pause).await?));
    }
    ctx.out.list(&rows)?;
    ctx.out
        .note(format!("`strait group resume {}` ends it", args.group));
    Ok(())
}

pub(super) async fn resume(args: ResumeArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let found = target
        .groups_named(&args.group, args.topic.as_ref())
        .await?;
    let mut rows = Vec::new();
    for info in &found {
        let resume = GroupChange {
            pause: Override::Lift,
            ..GroupChange::default()
        };
        let after = change(target, info, resume).await?;
        if info.pause.is_none() {
            ctx.out.note(format!(
                "group `{}` on `{}` was not paused",
                info.group, info.topic
            ));
        }
        rows.push(GroupRow::new(&after));
    }
    ctx.out.list(&rows)
}

pub(super) async fn alter(args: AlterArgs, target: &Target, ctx: &Ctx) -> Outcome {
    let info = target.group(&args.group, args.topic.as_ref()).await?;
    let wanted = GroupChange {
        max_attempts: args.max_attempts.unwrap_or_default(),
        max_dead: args.max_dead.unwrap_or_default(),
        gap: args.gap.unwrap_or_default(),
        after_dead: args.after_dead.unwrap_or_default(),
        pause: Override::Keep,
    };
    if wanted == GroupChange::default() {
        return Err(Failure::usage(
            "nothing to change: say --max-attempts, --max-dead, --gap or --after-dead",
        ));
    }
    let plan = plan(&info, &wanted);
    if !agreed(&plan, args.dry, &ctx.global, &ctx.out)? {
        return Ok(());
    }
    let after = change(target, &info, wanted).await?;
    ctx.out.list(&[GroupRow::new(&after)])
}

/// What changes, from what to what.
fn plan(info: &GroupInfo, wanted: &GroupChange) -> String {
    let (now, mut after) = (info.rules(), info.clone());
    let over = &mut after.overrides;
    wanted.max_attempts.clone().apply(&mut over.max_attempts);
    wanted.max_dead.clone().apply(&mut over.max_dead);
    wanted.gap.clone().apply(&mut over.gap);
    wanted.after_dead.clone().apply(&mut over.after_dead);
    let then = after.rules();
    let mut plan = format!("alter group `{}` on `{}`", info.group, info.topic);
    let mut line = |name: &str, from: String, to: String, lifted: bool| {
        let how = match (from == to, lifted) {
            (true, _) => "as it is",
            (_, true) => "as members declare",
            _ => "over what members declare, until it is lifted",
        };
        plan.push_str(&format!("\n  {name}: {from} -> {to} ({how})"));
    };
    if wanted.max_attempts != Override::Keep {
        line(
            "max attempts",
            now.max_attempts.to_string(),
            then.max_attempts.to_string(),
            wanted.max_attempts == Override::Lift,
        );
    }
    if wanted.max_dead != Override::Keep {
        line(
            "max dead",
            count(now.max_dead, true),
            count(then.max_dead, true),
            wanted.max_dead == Override::Lift,
        );
    }
    if wanted.gap != Override::Keep {
        line(
            "gap",
            count(now.gap, true),
            count(then.gap, true),
            wanted.gap == Override::Lift,
        );
    }
    if wanted.after_dead != Override::Keep {
        line(
            "after a dead letter",
            now.after_dead.as_str().to_owned(),
            then.after_dead.as_str().to_owned(),
            wanted.after_dead == Override::Lift,
        );
        let held: u64 = info.shards.iter().map(|shard| shard.held_keys).sum();
        if now.after_dead == AfterDead::HoldKey
            && then.after_dead == AfterDead::Continue
            && held > 0
        {
            plan.push_str(&format!(
                "\n  {} held keys go on without their dead letters; they are not held again",
                count(held, true)
            ));
        }
    }
    plan
}
