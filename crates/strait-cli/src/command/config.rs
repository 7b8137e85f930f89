//! `strait config`: what a configuration file says, held against the engines that it names.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use strait::config::Config;
use strait::core::{Error, Health, Kind};

use super::Ctx;
use crate::fail::Outcome;
use crate::out::SCHEMA;
use crate::target;

/// An engine that was opened to be looked at is closed within this.
const GRACE: Duration = Duration::from_secs(5);

/// Check a configuration file and the engines that it names.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read the file, open each engine, and say what is there
    Check(CheckArgs),
}

/// Read a configuration file, open each engine that it names, and say what is there.
///
/// Nothing is created: a directory that is not there yet is only named. Ends with an error when an engine cannot be opened
/// or cannot be reached.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait config check
  strait config check shop/strait.toml -o json")]
pub(crate) struct CheckArgs {
    /// The file
    #[arg(value_name = "FILE", default_value = "strait.toml")]
    file: PathBuf,
}

/// What was found. Stable names.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    file: String,
    engines: Vec<EngineLine>,
    topics: Vec<TopicLine>,
}

/// An engine. Stable names.
#[derive(Debug, Serialize)]
struct EngineLine {
    /// `url` for the one at the top of the file.
    name: String,
    address: String,
    /// `up`, `impaired`, `down`, `absent` (a directory that is not made yet) or `failed`.
    state: &'static str,
    /// What an acknowledgement means: `fsync`, `os` or `memory`.
    durability: Option<&'static str>,
    /// What is to be known of its state.
    why: Option<String>,
}

/// A topic that lives on another engine than that of `url`. Stable names.
#[derive(Debug, Serialize)]
struct TopicLine {
    /// As it is written; `metrics.*` stands for all that begin so.
    topic: String,
    engine: String,
    /// Topics that are there by this name or beginning; absent where the engine cannot be asked.
    found: Option<usize>,
}

/// Runs the command.
pub(crate) async fn run(command: ConfigCommand, ctx: &Ctx) -> Outcome {
    match command {
        ConfigCommand::Check(args) => check(args, ctx).await,
    }
}

async fn check(args: CheckArgs, ctx: &Ctx) -> Outcome {
    let config = Config::read(&args.file)?;
    let mut report = Report {
        schema: SCHEMA,
        file: args.file.display().to_string(),
        engines: Vec::new(),
        topics: Vec::new(),
    };
    let mut first = None;
    for (name, address) in config.engines() {
        let wanted: Vec<String> = config
            .topics()
            .filter(|(_, engine)| *engine == name)
            .map(|(topic, _)| topic)
            .collect();
        let (line, found, error) = look(&config, name, address, &wanted).await;
        report.engines.push(line);
        let topics = wanted
            .into_iter()
            .enumerate()
            .map(|(index, topic)| TopicLine {
                topic,
                engine: name.to_owned(),
                found: found.as_ref().and_then(|found| found.get(index).copied()),
            });
        report.topics.extend(topics);
        first = first.or(error);
    }
    ctx.out.object(&report, &text(&report))?;
    match first {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// One engine, how many topics it has of each pattern, and what is wrong.
async fn look(
    config: &Config,
    name: &str,
    address: String,
    patterns: &[String],
) -> (EngineLine, Option<Vec<usize>>, Option<Error>) {
    let mut line = EngineLine {
        name: name.to_owned(),
        address,
        state: "up",
        durability: None,
        why: None,
    };
    let absent = target::directory(&line.address).filter(|dir| !dir.exists());
    if absent.is_some() {
        line.state = "absent";
        line.why = Some("it is made when it is first opened".to_owned());
        return (line, None, None);
    }
    let failed = |mut line: EngineLine, error: Error| {
        line.state = "failed";
        line.why = Some(error.to_string());
        (line, None, Some(error.with("engine", name)))
    };
    let strait = match config.open_one(name).await {
        Ok(strait) => strait,
        Err(error) => return failed(line, error),
    };
    let topics = match strait.events_lane() {
        Ok(lane) => {
            line.durability = Some(lane.caps().durability.as_str());
            lane.topics().await
        }
        Err(error) => Err(error),
    };
    let health = strait.health().borrow().clone();
    strait.close_within(GRACE).await;
    match health {
        Health::Up => {}
        Health::Impaired(why) => (line.state, line.why) = ("impaired", Some(why.to_string())),
        Health::Down(why) | Health::Ended(why) => {
            line.state = "down";
            line.why = Some(why.to_string());
            let error = Error::new(
                Kind::Unavailable,
                format!("the engine `{name}` is down: {why}"),
            );
            return (line, None, Some(error));
        }
    }
    match topics {
        Err(error) => failed(line, error),
        Ok(topics) => {
            let fits = |pattern: &str, topic: &str| match pattern.strip_suffix('*') {
                Some(begin) => topic.starts_with(begin),
                None => topic == pattern,
            };
            let count = |pattern: &String| topics.iter().filter(|t| fits(pattern, &t.name)).count();
            let found = patterns.iter().map(count).collect();
            (line, Some(found), None)
        }
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let width = report.engines.iter().map(|engine| engine.name.len()).max();
    let width = width.unwrap_or_default();
    for engine in &report.engines {
        let EngineLine {
            name,
            address,
            state,
            ..
        } = engine;
        text.push_str(&format!("{name:width$}  {state:8}  {address}"));
        if let Some(durability) = engine.durability {
            text.push_str(&format!("  durable {durability}"));
        }
        if let Some(why) = &engine.why {
            text.push_str(&format!("  ({why})"));
        }
        text.push('\n');
    }
    for TopicLine {
        topic,
        engine,
        found,
    } in &report.topics
    {
        let found = match found {
            None => String::new(),
            Some(0) => "  (not there yet)".to_owned(),
            Some(count) => format!("  ({count} there)"),
        };
        text.push_str(&format!("topic {topic} on {engine}{found}\n"));
    }
    text
}
