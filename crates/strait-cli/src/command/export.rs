//! `strait export` and `strait import`: topics in a file.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use strait::core::{Error, Name};
use strait::mirror::{Exported, MirroredTopic, export, import};

use super::Ctx;
use crate::fail::{Failure, Outcome};
use crate::out::{Column, Row, number, text};
use crate::target::{self, Target};
use crate::text::count;

/// Write topics to a file, or to stdout: every message with all that it carries, in frames with checksums.
///
/// Groups and dead letters are not in it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait export orders > orders.strait
  strait export orders payments --file moved.strait --url file:./data
  strait export orders | strait import --url file:./other")]
pub(crate) struct ExportArgs {
    /// The topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<Name>,
    /// A new file, instead of stdout
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Read topics from a file of `strait export`, or from stdin.
///
/// What was imported before is passed over: an import that ended early is repeated, and a later export of the same engine
/// brings what is new. `strait mirror` from that engine goes on where the file ends.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait import orders.strait
  strait import --url file:./other < orders.strait")]
pub(crate) struct ImportArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// An imported topic. Stable names.
#[derive(Debug, Serialize)]
struct ImportRow {
    topic: String,
    partitions: u32,
    imported: u64,
    total: u64,
}

impl From<&MirroredTopic> for ImportRow {
    fn from(topic: &MirroredTopic) -> Self {
        ImportRow {
            topic: topic.topic.to_string(),
            partitions: topic.partitions,
            imported: topic.messages,
            total: topic.total,
        }
    }
}

impl Row for ImportRow {
    const LIST: &'static str = "topics";

    fn columns(_: bool) -> Vec<Column> {
        vec![
            text("TOPIC"),
            number("PARTITIONS"),
            number("IMPORTED"),
            number("TOTAL"),
        ]
    }

    fn cells(&self, _: bool, people: bool) -> Vec<String> {
        vec![
            self.topic.clone(),
            self.partitions.to_string(),
            count(self.imported, people),
            count(self.total, people),
        ]
    }
}

/// Writes topics.
pub(crate) async fn run_export(args: ExportArgs, ctx: &Ctx) -> Outcome {
    if args.file.is_none() && io::stdout().is_terminal() {
        return Err(Failure::usage(
            "an export is bytes, not text: send it to a file (> FILE or --file FILE) or a pipe",
        ));
    }
    let target = Target::existing(&ctx.global).await?;
    let written = write(&args, &target).await;
    target.close().await;
    for topic in written? {
        let messages = count(topic.messages, true);
        ctx.out
            .note(format!("{}: {messages} messages", topic.topic));
    }
    Ok(())
}

async fn write(args: &ExportArgs, target: &Target) -> Outcome<Vec<Exported>> {
    let Some(path) = &args.file else {
        let mut to = Pipe(io::stdout());
        return match export(&target.strait, &args.topics, &mut to).await {
            Ok(exported) => Ok(exported),
            // Whoever reads has enough.
            Err(error) if is_closed_pipe(&error) => Err(Failure::ClosedPipe),
            Err(error) => Err(error.into()),
        };
    };
    let not_made = |error| Error::io(format!("the file {}", path.display()), error);
    // A file that is there is somebody's.
    let file = File::options().write(true).create_new(true).open(path);
    let file = file.map_err(not_made)?;
    let mut to = BufWriter::new(file);
    let exported = export(&target.strait, &args.topics, &mut to).await?;
    let file = to.into_inner().map_err(|error| not_made(error.into()))?;
    file.sync_all().map_err(not_made)?;
    Ok(exported)
}

/// Stdout, which cannot be locked over an await.
struct Pipe(io::Stdout);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().flush()
    }
}

fn is_closed_pipe(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    source
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Reads topics.
pub(crate) async fn run_import(args: ImportArgs, ctx: &Ctx) -> Outcome {
    let target = Target::create(target::url(&ctx.global)).await?;
    let imported = match &args.file {
        Some(path) => match File::open(path) {
            Ok(file) => import(&target.strait, &mut BufReader::new(file)).await,
            Err(error) => Err(Error::io(format!("the file {}", path.display()), error)),
        },
        None => import(&target.strait, &mut io::stdin()).await,
    };
    target.close().await;
    let rows: Vec<ImportRow> = imported?.iter().map(ImportRow::from).collect();
    ctx.out.list(&rows)
}
