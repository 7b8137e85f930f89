//! The command tree.

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench::interleaved::InterleavedArgs;
use crate::bench::sustained::SustainedArgs;
use crate::bench::{BenchArgs, ParkedArgs, TopicsArgs};
use crate::command::{
    backup, config, consume, describe, dlq, explain, export, group, inspect, man, mirror, produce,
    topic, upgrade, verify,
};
use crate::dev::DevArgs;

/// Async messaging on one machine: durable events, consumer groups, retries, dead letters.
#[derive(Debug, Parser)]
#[command(
    name = "strait",
    version,
    propagate_version = false,
    infer_subcommands = false,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Examples:
  strait dev --demo
  echo '{\"order\":1}' | strait produce orders -k ada
  strait consume orders -O start -e -o jsonl

Exit codes: 0 ok, 1 failed, 2 usage, 3 partly done, 4 not found, 5 conflict, 6 not allowed,
7 unreachable or out of time, 130 Ctrl-C"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// What to work on: `file:DIR`, `memory:`, `kafka://..`, `redis://..` [env: STRAIT_URL] [default: file:./strait-data]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// How results are written; by default tables on a terminal, lines in a pipe
    #[arg(short = 'o', long = "output", global = true, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
    /// When to use colour (NO_COLOR and TERM=dumb are obeyed)
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: When,
    /// No notes on stderr, only errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// More on stderr: -v what the library does, -vv all of it
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Do what is asked without a question
    #[arg(long, global = true)]
    pub(crate) yes: bool,
    /// Never ask: where a question would come, end with exit code 2
    #[arg(long, global = true)]
    pub(crate) no_input: bool,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns
    Table,
    /// Aligned columns, more of them
    Wide,
    /// One document
    Json,
    /// One object per line
    Jsonl,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open a directory, answer others on its socket, and show live what happens
    Dev(DevArgs),
    /// Append one message per line of the input
    Produce(produce::ProduceArgs),
    /// Print messages, of a topic or as a member of a group
    Consume(consume::ConsumeArgs),
    /// List, show, create, alter and remove topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// List, show, move and remove consumer groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// List, show, edit, remove and redrive dead letters
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Copy topics from one engine to another, and keep the copy up to date
    Mirror(mirror::MirrorArgs),
    /// Write topics to a file
    Export(export::ExportArgs),
    /// Read topics from a file of `export`
    Import(export::ImportArgs),
    /// Measure on this machine, against a bare log in the same run
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Copy a data directory while it is in use
    Backup(backup::BackupArgs),
    /// Make a data directory of a backup, every byte checked
    Restore(backup::RestoreArgs),
    /// Describe an object: what is stored, where, and why it waits
    Describe(describe::DescribeArgs),
    /// Check every byte of a data directory, without changing it
    Verify(verify::VerifyArgs),
    /// Show what the files of a data directory hold, without changing it
    Inspect(inspect::InspectArgs),
    /// Bring a data directory to the format of this version
    Upgrade(upgrade::UpgradeArgs),
    /// Check a configuration file and the engines that it names
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Explain an error code or kind
    Explain(explain::ExplainArgs),
    /// Print the completions of a shell
    Completions(explain::CompletionsArgs),
    /// Print a manual page, or write all of them
    Man(man::ManArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Appends, reads back and compares; --consume measures a group, --redrive dead letters instead
    Events(BenchArgs),
    /// Reads one topic among many, and one that lies alone
    Interleaved(InterleavedArgs),
    /// A steady load with retention, cleaner and compaction at work
    Sustained(SustainedArgs),
    /// Memory and speed of many parked keys
    Parked(ParkedArgs),
    /// Memory and speed of many topics
    Topics(TopicsArgs),
}
