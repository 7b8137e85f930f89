//! `strait backup` and `strait restore`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use strait::core::Error;
use strait_embedded::{restore, verify};

use super::Ctx;
use crate::confirm::DryRun;
use crate::fail::{Failure, Outcome};
use crate::out::{SCHEMA, Shape};
use crate::target::Target;
use crate::text::{bytes, time};

/// Copy a data directory while it is in use.
///
/// The copy holds everything that was durable when it was taken. A process that owns the directory goes on working, and
/// does the copying itself: the path is one of its machine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait backup /backups/monday
  strait backup ../monday --url file:./strait-demo
  strait restore /backups/monday ./again")]
pub(crate) struct BackupArgs {
    /// A new or empty directory
    #[arg(value_name = "TO")]
    to: PathBuf,
}

/// Make a data directory of a backup, every byte checked.
///
/// The new directory is a copy of its own: it is never taken for the original or for another copy.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait restore /backups/monday ./again
  strait restore /backups/monday ./again --dry-run
  strait dev --data ./again")]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// A new or empty directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    dry: DryRun,
}

/// A backup, taken or restored. Stable names.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    backup: String,
    /// The directory that was made of it.
    directory: Option<String>,
    sequence: u64,
    taken: String,
    files: u64,
    bytes: u64,
}

impl Report {
    fn in_words(&self, what: &str) -> String {
        let Report {
            sequence,
            taken,
            files,
            ..
        } = self;
        let size = bytes(self.bytes, true);
        format!(
            "{what}: everything up to sequence {sequence}, taken {taken} ({files} files, {size})\n"
        )
    }
}

/// Takes a backup.
pub(crate) async fn backup(args: BackupArgs, ctx: &Ctx) -> Outcome {
    let target = Target::existing(&ctx.global).await?;
    let to = std::path::absolute(&args.to);
    let to = to.map_err(|error| Error::io("the path of the backup", error))?;
    let taken = target.strait.engine().backup(to.clone()).await?;
    let report = Report {
        schema: SCHEMA,
        backup: to.display().to_string(),
        directory: None,
        sequence: taken.sequence,
        taken: time(taken.taken),
        files: taken.files,
        bytes: taken.bytes,
    };
    target.close().await;
    show(&report, &format!("backup {}", to.display()), ctx)?;
    ctx.out.note(format!(
        "next: strait restore {} DIR --dry-run checks it",
        to.display()
    ));
    Ok(())
}

/// Restores one.
pub(crate) fn run_restore(args: RestoreArgs, ctx: &Ctx) -> Outcome {
    let RestoreArgs {
        backup,
        directory,
        dry,
    } = args;
    let restored = restore(&backup, &directory, dry.dry_run)?;
    if !dry.dry_run {
        let report = verify(&directory)?;
        if let Some(damage) = report.damage.first() {
            return Err(Failure::from(Error::new(
                strait::Kind::Corrupt,
                format!("the restored directory is damaged: {}", damage.what),
            )));
        }
    }
    let is_made = (!dry.dry_run).then(|| directory.display().to_string());
    let report = Report {
        schema: SCHEMA,
        backup: backup.display().to_string(),
        directory: is_made,
        sequence: restored.sequence,
        taken: time(restored.taken),
        files: restored.files,
        bytes: restored.bytes,
    };
    let what = if dry.dry_run {
        format!("{} is whole, nothing was written", backup.display())
    } else {
        format!("{} restored to {}", backup.display(), directory.display())
    };
    show(&report, &what, ctx)
}

fn show(report: &Report, what: &str, ctx: &Ctx) -> Outcome {
    let text = match ctx.out.shape() {
        Shape::Json | Shape::Jsonl => String::new(),
        Shape::Table { .. } | Shape::Tabs { .. } => report.in_words(what),
    };
    ctx.out.object(report, &text)
}
