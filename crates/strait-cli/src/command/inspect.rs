//! `strait inspect`: what is in the files of a data directory that nobody has open.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use strait::core::events::{GroupInfo, TopicInfo};
use strait_embedded::{FileInfo, Inspection};

use super::Ctx;
use crate::fail::Outcome;
use crate::out::{Column, SCHEMA, aligned, number, text};
use crate::target;
use crate::text::{bytes, count};

/// Show the files of a data directory, and the topics and groups that they recover to. Changes nothing.
///
/// Nobody may have the directory open meanwhile, except to read it. Of a damaged one it shows what is in front of the damage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait inspect --offline
  strait inspect --offline ./strait-demo -o json")]
pub(crate) struct InspectArgs {
    /// Read the files themselves. A directory that is in use is looked at with `topic ls`, `group ls` and `describe`
    #[arg(long, required = true)]
    offline: bool,
    /// The directory [default: that of --url]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// What was found. Stable names.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    directory: String,
    identity: String,
    format: u32,
    last_sequence: u64,
    incarnation: u64,
    checkpoint: Option<u64>,
    replay: Replay,
    files: Vec<File>,
    topics: Vec<Topic>,
    groups: Vec<Group>,
    warnings: Vec<String>,
}

/// What the next opening reads behind the checkpoint.
#[derive(Debug, Serialize)]
struct Replay {
    groups: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct File {
    name: String,
    kind: &'static str,
    bytes: u64,
    format: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Topic {
    topic: String,
    partitions: usize,
    messages: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Group {
    group: String,
    topic: String,
    lag: u64,
    parked: u64,
    dead: u64,
    paused: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: InspectArgs, ctx: &Ctx) -> Outcome {
    let directory = target::named_or_default(args.directory, &ctx.global)?;
    let found = strait_embedded::inspect(&directory)?;
    let report = Report::new(directory.display().to_string(), found);
    let text = report.in_words(ctx.out.people);
    ctx.out.object(&report, &text)
}

impl Report {
    fn new(directory: String, found: Inspection) -> Self {
        Report {
            schema: SCHEMA,
            directory,
            identity: format!("{:032x}", found.identity),
            format: strait_embedded::FORMAT,
            last_sequence: found.last_sequence,
            incarnation: found.incarnation,
            checkpoint: found.checkpoint,
            replay: Replay {
                groups: found.replayed_groups,
                bytes: found.replayed_bytes,
            },
            files: found.files.into_iter().map(File::from).collect(),
            topics: found.topics.iter().map(Topic::from).collect(),
            groups: found.groups.iter().map(Group::from).collect(),
            warnings: found.warnings,
        }
    }

    fn in_words(&self, people: bool) -> String {
        let checkpoint = self
            .checkpoint
            .map_or("none".to_owned(), |seq| format!("at sequence {seq}"));
        let mut page = format!(
            "{}   identity {}   format {}\nlast sequence {}   opened {} times   checkpoint {checkpoint}   \
             behind it {} groups, {}\n\n",
            self.directory,
            self.identity,
            self.format,
            self.last_sequence,
            self.incarnation,
            self.replay.groups,
            bytes(self.replay.bytes, people)
        );
        table(
            &mut page,
            &[text("FILES"), number("COUNT"), number("BYTES")],
            self.kinds(people),
        );
        let topic = |t: &Topic| {
            let cells = [t.messages, t.partitions as u64].map(|n| count(n, people));
            let [messages, partitions] = cells;
            vec![
                t.topic.clone(),
                partitions,
                messages,
                bytes(t.bytes, people),
            ]
        };
        let topics = self.topics.iter().map(topic).collect();
        let titles = [
            text("TOPIC"),
            number("PARTITIONS"),
            number("MESSAGES"),
            number("BYTES"),
        ];
        table(&mut page, &titles, topics);
        let group = |g: &Group| {
            let [lag, parked, dead] = [g.lag, g.parked, g.dead].map(|n| count(n, people));
            let state = g.paused.clone().unwrap_or_else(|| "ok".to_owned());
            vec![g.group.clone(), g.topic.clone(), lag, parked, dead, state]
        };
        let groups = self.groups.iter().map(group).collect();
        let titles = [
            text("GROUP"),
            text("TOPIC"),
            number("LAG"),
            number("PARKED"),
            number("DEAD"),
            text("STATE"),
        ];
        table(&mut page, &titles, groups);
        for warning in &self.warnings {
            // Writing to memory does not fail.
            let _ = writeln!(page, "note: {warning}");
        }
        page
    }

    /// Files by kind: their number and bytes.
    fn kinds(&self, people: bool) -> Vec<Vec<String>> {
        let mut kinds: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for file in &self.files {
            let (files, sum) = kinds.entry(file.kind).or_default();
            *files += 1;
            *sum += file.bytes;
        }
        kinds
            .into_iter()
            .map(|(kind, (files, sum))| {
                vec![kind.to_owned(), count(files, people), bytes(sum, people)]
            })
            .collect()
    }
}

/// Appends a table and an empty line; nothing where it has no rows.
fn table(page: &mut String, columns: &[Column], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    for line in aligned(columns, &rows) {
        page.push_str(&line);
        page.push('\n');
    }
    page.push('\n');
}

impl From<FileInfo> for File {
    fn from(file: FileInfo) -> Self {
        let FileInfo {
            name,
            kind,
            bytes,
            format,
        } = file;
        File {
            name,
            kind,
            bytes,
            format,
        }
    }
}

impl From<&TopicInfo> for Topic {
    fn from(info: &TopicInfo) -> Self {
        let messages = |p: &strait::core::events::PartitionInfo| p.end.offset() - p.start.offset();
        Topic {
            topic: info.name.to_string(),
            partitions: info.partitions.len(),
            messages: info.partitions.iter().map(messages).sum(),
            bytes: info.partitions.iter().map(|p| p.bytes).sum(),
        }
    }
}

impl From<&GroupInfo> for Group {
    fn from(info: &GroupInfo) -> Self {
        Group {
            group: info.group.to_string(),
            topic: info.topic.to_string(),
            lag: info.lag(),
            parked: info.parked(),
            dead: info.dead,
            paused: info.paused.as_ref().map(ToString::to_string),
        }
    }
}
