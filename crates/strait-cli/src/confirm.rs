//! Plans before changes that cannot be taken back.

use std::io::{self, BufRead, IsTerminal};

use clap::Args;

use crate::args::Global;
use crate::fail::{Failure, Outcome};
use crate::out::Out;

/// The option of every command that destroys or moves something.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DryRun {
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Shows the plan and gives `true` when it is to be carried out: `--yes`, or a yes to the question.
pub(crate) fn agreed(plan: &str, dry: DryRun, global: &Global, out: &Out) -> Outcome<bool> {
    if dry.dry_run {
        let plan = format!("would {plan}\nnothing was changed. Run again with --yes\n");
        out.write(plan.as_bytes())?;
        return Ok(false);
    }
    if global.yes {
        return Ok(true);
    }
    if global.no_input || !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "this would {plan}\n  say --yes to do it, or --dry-run to look only"
        )));
    }
    out.complain(format!("this will {plan}\ngo on? [y/N]"));
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| strait::core::Error::io("stdin", error))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(true);
    }
    out.complain("nothing was changed");
    Ok(false)
}
