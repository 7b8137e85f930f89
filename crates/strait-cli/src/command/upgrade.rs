//! `strait upgrade`: from one on-disk format to the next. There is one so far.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use strait::core::{Error, Kind};
use strait_embedded::{FORMAT, check_formats, files};

use super::Ctx;
use crate::confirm::DryRun;
use crate::fail::Outcome;
use crate::out::SCHEMA;
use crate::target;

/// Bring a data directory to the format of this version; the format of 0.1 is the only one so far.
///
/// A directory of a format that this version does not know is refused, with its name and the version that is needed.
/// Opening a directory never changes its format.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait upgrade --dry-run
  strait upgrade ./strait-demo -o json")]
pub(crate) struct UpgradeArgs {
    /// The directory [default: that of --url]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    dry: DryRun,
}

/// What was found, and what was done. Stable names.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    directory: String,
    /// The format that was found.
    format: u32,
    /// The format of this version.
    newest: u32,
    dry_run: bool,
    /// Whether something was changed, or would be.
    changes: bool,
}

/// Runs the command.
pub(crate) fn run(args: UpgradeArgs, ctx: &Ctx) -> Outcome {
    let directory = target::named_or_default(args.directory, &ctx.global)?;
    let files = files(&directory)?;
    check_formats(&directory, &files)?;
    let shown = directory.display().to_string();
    let identity = files.iter().find(|file| file.kind == "identity");
    let Some(format) = identity.and_then(|file| file.format) else {
        let text = format!("{shown} is no data directory of strait: it has no valid IDENTITY");
        return Err(Error::new(Kind::NotFound, text)
            .next("name a data directory, or look at what is there: strait verify DIR")
            .into());
    };
    let report = Report {
        schema: SCHEMA,
        directory: shown,
        format,
        newest: FORMAT,
        dry_run: args.dry.dry_run,
        changes: false,
    };
    let text = format!(
        "{} has format {format}, the newest that strait {} knows: nothing to do\n",
        report.directory,
        env!("CARGO_PKG_VERSION")
    );
    ctx.out.object(&report, &text)
}
