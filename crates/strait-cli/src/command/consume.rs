//! `strait consume`: prints messages, of a topic or as a member of a group.

use clap::Args;
use strait::core::Name;

use super::render::{Render, Seen, parse_format};
use super::{Ctx, follow, member};
use crate::args::Format;
use crate::fail::{Failure, Outcome};
use crate::pipe::Pipe;
use crate::start::Place;
use crate::target::Target;

/// A page goes to stdout at this size, and whenever nothing more is waiting.
const PAGE_BYTES: usize = 64 << 10;

/// Print messages; without -e, and also those to come.
///
/// The order of each partition is kept; several partitions are merged, oldest first, up to the end as it was at the
/// start. With -g it joins a group: what was printed is settled, and not printed again.
///
/// -f takes %t topic, %p partition, %o offset, %k key, %v value, %K kind, %T time, %h headers, %% and the escapes
/// \n \t \0 \xNN. Nothing is added: end it with \n where you want lines.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait consume orders -O start -e -o jsonl
  strait consume orders -O @-10m -f '%k\\t%v\\n'
  strait consume orders -g audit -n 100")]
pub(crate) struct ConsumeArgs {
    /// The topic
    pub(super) topic: Name,
    /// Where to begin: start, end, an offset, @TIME (RFC 3339, milliseconds, or @-10m), or -N for the last N of each
    /// partition. With -g: where the group begins if it has no position [default: start]
    #[arg(short = 'O', long, value_name = "PLACE", allow_hyphen_values = true)]
    pub(super) offset: Option<Place>,
    /// End at the end as it was at the start
    #[arg(short = 'e', long)]
    pub(super) until_end: bool,
    /// End after so many messages
    #[arg(short = 'n', long, value_name = "N")]
    pub(super) number: Option<u64>,
    /// Read as a member of this group, and settle what was printed
    #[arg(short, long, value_name = "GROUP")]
    pub(super) group: Option<Name>,
    /// Only this partition
    #[arg(short, long, value_name = "N", conflicts_with = "group")]
    pub(super) partition: Option<u32>,
    /// A format of your own for each message
    #[arg(short, long, value_name = "FMT", value_parser = parse_format, conflicts_with = "output")]
    pub(super) format: Option<Render>,
}

/// Runs the command.
pub(crate) async fn run(args: ConsumeArgs, ctx: &Ctx) -> Outcome {
    let target = Target::existing(&ctx.global).await?;
    let render = args.format.clone().unwrap_or(match ctx.out.asked() {
        Some(Format::Table | Format::Wide) => Render::Columns,
        None if ctx.out.people => Render::Columns,
        _ => Render::Json,
    });
    let mut printer = Printer {
        render,
        page: Vec::new(),
        pipe: Pipe::stdout(),
        left: args.number.unwrap_or(u64::MAX),
    };
    let done = match &args.group {
        Some(group) => member::run(&args, group, &target, &mut printer, ctx).await,
        None => tokio::select! {
            done = follow::run(&args, &target, &mut printer) => done,
            signal = ctx.interrupt.wait() => Err(signal),
        },
    };
    // What was rendered before an error or a signal is still worth its line.
    let flushed = match &done {
        Err(Failure::ClosedPipe) => Ok(()),
        _ => printer.flush().await,
    };
    target.close().await;
    done.and(flushed)
}

/// Messages on their way to stdout.
#[derive(Debug)]
pub(super) struct Printer {
    render: Render,
    page: Vec<u8>,
    pipe: Pipe,
    left: u64,
}

impl Printer {
    /// Messages that may still be printed.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Prints one message, unless the number that was asked for is reached.
    pub(super) fn print(&mut self, seen: Seen<'_>) {
        if self.left > 0 {
            self.left -= 1;
            self.render.write(&mut self.page, seen);
        }
    }

    /// True when a page is full.
    pub(super) fn is_full(&self) -> bool {
        self.page.len() >= PAGE_BYTES
    }

    /// Hands over what was printed.
    pub(super) async fn send(&mut self) -> Outcome {
        if self.page.is_empty() {
            return Ok(());
        }
        self.pipe.send(std::mem::take(&mut self.page)).await
    }

    /// Hands over what was printed, and waits until stdout took it.
    pub(super) async fn flush(&mut self) -> Outcome {
        self.pipe.flush(std::mem::take(&mut self.page)).await
    }
}
