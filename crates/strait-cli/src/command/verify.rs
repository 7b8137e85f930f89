//! `strait verify`: checks every byte of a data directory.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use strait_embedded::{Damage, verify};

use super::Ctx;
use crate::fail::{Failure, Outcome};
use crate::out::{SCHEMA, Shape};
use crate::target;

/// Check every byte of a data directory, without changing it. Exit code 1 when something is damaged.
///
/// Nobody may have the directory open meanwhile, except to read it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait verify
  strait verify ./strait-demo
  strait verify ./strait-demo -o json")]
pub(crate) struct VerifyArgs {
    /// The directory [default: that of --url]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// A damaged place.
#[derive(Debug, Serialize)]
struct Fault {
    file: Option<String>,
    offset: Option<u64>,
    what: String,
}

/// What was found. Stable names.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    directory: String,
    segments: u64,
    groups: u64,
    snapshots: u64,
    indexes: u64,
    /// Segments that the cleaner made.
    cleaned: u64,
    /// A tail that never became durable: no damage, the next opening cuts it.
    torn_tail: Option<Fault>,
    faults: Vec<Fault>,
}

/// Runs the command.
pub(crate) fn run(args: VerifyArgs, ctx: &Ctx) -> Outcome {
    let directory = target::named_or_default(args.directory, &ctx.global)?;
    let found = verify(&directory)?;
    let report = Report::new(&directory, found);
    let text = match ctx.out.shape() {
        Shape::Json | Shape::Jsonl => String::new(),
        Shape::Table { .. } | Shape::Tabs { .. } => in_words(&report),
    };
    ctx.out.object(&report, &text)?;
    if report.faults.is_empty() {
        Ok(())
    } else {
        ctx.out
            .note("next: copy the directory before you try anything     strait explain corrupt");
        ctx.out.note(format!(
            "what is in front of the damage can be read: strait consume TOPIC -e --url 'file:{}?read_only=true'",
            report.directory
        ));
        Err(Failure::Findings)
    }
}

impl Report {
    fn new(directory: &Path, found: strait_embedded::Report) -> Self {
        Report {
            schema: SCHEMA,
            directory: directory.display().to_string(),
            segments: found.segments,
            groups: found.groups,
            snapshots: found.checkpoints,
            indexes: found.indexes,
            cleaned: found.cleaned,
            torn_tail: found.torn.map(Fault::from),
            faults: found.damage.into_iter().map(Fault::from).collect(),
        }
    }
}

impl From<Damage> for Fault {
    fn from(damage: Damage) -> Self {
        let Damage { file, offset, what } = damage;
        Fault { file, offset, what }
    }
}

fn in_words(report: &Report) -> String {
    let Report {
        directory,
        segments,
        groups,
        snapshots,
        cleaned,
        ..
    } = report;
    let mut text = format!(
        "{directory}: {segments} segments with {groups} groups, {cleaned} cleaned segments, {snapshots} snapshots\n"
    );
    if let Some(torn) = &report.torn_tail {
        let file = torn.file.as_deref().unwrap_or_default();
        let offset = torn.offset.unwrap_or_default();
        let what = &torn.what;
        text.push_str(&format!(
            "torn tail: {file} at byte {offset}: {what}; no damage, the next opening cuts it\n"
        ));
    }
    for fault in &report.faults {
        text.push_str(&format!("damaged: {}\n", fault.what));
    }
    if report.faults.is_empty() {
        text.push_str("no damage\n");
    }
    text
}
