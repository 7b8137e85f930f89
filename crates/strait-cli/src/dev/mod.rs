//! `strait dev`: opens a directory, answers others on its socket, and shows live what happens.

mod alarm;
mod lines;
mod screen;
mod snapshot;
mod view;
mod watch;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use strait::core::{Health, Timestamp};
use tokio::sync::mpsc;

use crate::command::Ctx;
use crate::demo::Demo;
use crate::fail::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::target::{self, Target};
use alarm::AlarmArgs;
use snapshot::Snapshot;
use watch::Watch;

/// Redraws are at least this far apart.
const FRAME: Duration = Duration::from_millis(250);
/// Looks without a change after which nothing happens: then it waits for a write to the log.
const QUIET_LOOKS: u32 = 8;
/// Notes that are kept for the view.
const NOTES: usize = 6;

/// Open a directory, answer other programs on its socket, and show live what flows, retries and dies.
///
/// Without a terminal it prints one line per change. Ctrl-C ends it; what was acknowledged stays.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strait dev --demo
  strait dev --data ./strait-data
  strait dev --alarm dead_letters=10,age=5m --alarm-run './page.sh --urgent'
  strait --url memory: dev")]
pub(crate) struct DevArgs {
    /// Run a small shop in it: orders with a slow, a flaky and a failing consumer
    #[arg(long)]
    demo: bool,
    /// The data directory [default: ./strait-data, with --demo ./strait-demo]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    alarm: AlarmArgs,
}

/// Something that happened, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) at: Timestamp,
    pub(crate) text: String,
    /// What it means, or what to look at.
    pub(crate) more: Option<String>,
}

impl Note {
    /// A note on something that happens now.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Note {
            at: Timestamp::now(),
            text: text.into(),
            more: None,
        }
    }

    /// With a second line.
    pub(crate) fn more(mut self, more: impl Into<String>) -> Self {
        self.more = Some(more.into());
        self
    }
}

/// What the view shows.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The command as it was typed, in short.
    title: String,
    /// The directory or URL.
    place: String,
    durability: &'static str,
    /// The median time to an acknowledgement, where the demo measures it.
    ack_p50: Option<Duration>,
    started: Instant,
    snapshots: VecDeque<(Instant, Snapshot)>,
    notes: VecDeque<Note>,
    /// Commands for another terminal; a long one is written on two lines, as a shell takes it.
    tries: Vec<String>,
    demo: bool,
    health: Health,
}

/// Runs the command.
pub(crate) async fn run(args: DevArgs, ctx: &Ctx) -> Outcome {
    let url = url(&args, ctx)?;
    let target = Target::create(url).await?;
    let (tell, told) = mpsc::channel(256);
    let mut alarms = alarm::start(&args.alarm, &target.strait, tell.clone()).await?;
    let demo = match args.demo {
        true => Some(Demo::start(&target.strait, tell).await?),
        false => None,
    };
    let mut screen: Box<dyn Show> = if ctx.out.people {
        Box::new(screen::Screen::new(ctx.out.paint))
    } else {
        Box::new(lines::Lines::new(ctx.out.clone()))
    };
    let mut play = Play {
        stage: Stage::new(&args, &target),
        target: &target,
        demo: demo.as_ref(),
        told,
        early: Vec::new(),
    };
    let done = play.run(&mut *screen, &ctx.interrupt).await;
    if let Some(demo) = demo {
        demo.stop().await;
    }
    let stopped = alarms.stop().await;
    target.close().await;
    stopped?;
    match done {
        Err(Failure::Interrupted(_)) => Ok(()),
        other => other,
    }
}

fn url(args: &DevArgs, ctx: &Ctx) -> Outcome<String> {
    match (&args.data, &ctx.global.url) {
        (Some(_), Some(_)) => Err(Failure::usage("say --data or --url, not both")),
        (Some(dir), None) => Ok(format!("file:{}", dir.display())),
        (None, Some(url)) => Ok(url.clone()),
        // The demo writes: it never does so in the directory that STRAIT_URL names.
        (None, None) if args.demo => Ok("file:./strait-demo".to_owned()),
        (None, None) => Ok(target::url(&ctx.global)),
    }
}

/// What shows a stage.
trait Show {
    /// Shows it as it is now; `fresh` are the notes since the last time.
    fn show(&mut self, stage: &Stage, fresh: &[Note]) -> Outcome;

    /// Leaves what was shown in a tidy state.
    fn end(&mut self, stage: &Stage) -> Outcome;
}

/// A stage with what it is filled from.
struct Play<'a> {
    stage: Stage,
    target: &'a Target,
    demo: Option<&'a Demo>,
    told: mpsc::Receiver<Note>,
    /// What was told while it waited for something to show.
    early: Vec<Note>,
}

impl Play<'_> {
    /// Shows what happens until a signal comes.
    async fn run(&mut self, on: &mut dyn Show, interrupt: &Interrupt) -> Outcome {
        let interrupt = interrupt.wait();
        tokio::pin!(interrupt);
        let directory = target::directory(&self.target.url);
        let mut health = self.target.strait.health();
        let mut quiet = 0;
        loop {
            // The watch begins before the look, so that no change falls between the two.
            let watch = (quiet >= QUIET_LOOKS).then(|| Watch::new(directory.as_deref()));
            let fresh = self.look().await?;
            if self.stage.is_quiet() && fresh.is_empty() {
                quiet += 1;
            } else {
                quiet = 0;
            }
            self.stage.remember(&fresh);
            on.show(&self.stage, &fresh)?;
            let pause = async {
                if let Some(watch) = watch.filter(|_| quiet > 0) {
                    watch.changed().await;
                }
                tokio::time::sleep(FRAME).await;
            };
            tokio::select! {
                () = pause => {}
                // A full disk writes nothing that a watch would see.
                Ok(()) = health.changed() => {}
                Some(note) = self.told.recv() => self.early.push(note),
                signal = &mut interrupt => {
                    on.end(&self.stage)?;
                    return Err(signal);
                }
            }
        }
    }

    /// Looks at everything; gives what happened since the last look.
    async fn look(&mut self) -> Outcome<Vec<Note>> {
        let mut fresh = self.stage.look(self.target).await?;
        fresh.append(&mut self.early);
        while let Ok(note) = self.told.try_recv() {
            fresh.push(note);
        }
        fresh.sort_by_key(|note| note.at);
        self.stage.ack_p50 = self.demo.and_then(Demo::ack_p50);
        Ok(fresh)
    }
}

impl Stage {
    /// What an acknowledgement means here, and what it costs.
    fn durable(&self) -> String {
        match self.ack_p50 {
            Some(p50) => format!(
                "durable ({}, ack p50 {:.2} ms)",
                self.durability,
                p50.as_secs_f64() * 1e3
            ),
            None => format!("durable ({})", self.durability),
        }
    }

    fn new(args: &DevArgs, target: &Target) -> Self {
        let url = &target.url;
        Stage {
            title: format!("strait dev{}", if args.demo { " --demo" } else { "" }),
            place: url.strip_prefix("file:").unwrap_or(url).to_owned(),
            durability: target.events.caps().durability.as_str(),
            ack_p50: None,
            started: Instant::now(),
            snapshots: VecDeque::new(),
            notes: VecDeque::new(),
            tries: tries(args.demo, url),
            demo: args.demo,
            health: target.strait.health().borrow().clone(),
        }
    }

    /// Takes a snapshot; gives what changed in words.
    async fn look(&mut self, target: &Target) -> Outcome<Vec<Note>> {
        let before = self.snapshots.back().map(|(_, snapshot)| snapshot);
        let now = Snapshot::take(target, before).await?;
        let mut notes = match before {
            Some(before) => now.changes_since(before),
            None => Vec::new(),
        };
        // Rates are taken over about two seconds.
        while self.snapshots.len() > 8 {
            self.snapshots.pop_front();
        }
        self.snapshots.push_back((Instant::now(), now));
        let health = target.strait.health().borrow().clone();
        if health != self.health {
            notes.push(on_health(&health));
            self.health = health;
        }
        Ok(notes)
    }

    /// Nothing moved since the last snapshot, and nothing is waiting to move.
    fn is_quiet(&self) -> bool {
        let mut latest = self.snapshots.iter().rev().map(|(_, snapshot)| snapshot);
        match (latest.next(), latest.next()) {
            (Some(now), Some(before)) => now.is_still(before),
            _ => false,
        }
    }

    fn remember(&mut self, fresh: &[Note]) {
        self.notes.extend(fresh.iter().cloned());
        while self.notes.len() > NOTES {
            self.notes.pop_front();
        }
    }
}

/// How the engine is, where that changed.
fn on_health(health: &Health) -> Note {
    match health {
        Health::Up => Note::new("the engine is up again: sends go on"),
        Health::Impaired(what) => Note::new(&**what).more("strait describe storage"),
        Health::Down(what) | Health::Ended(what) => Note::new(&**what),
    }
}

fn tries(demo: bool, url: &str) -> Vec<String> {
    let strait = format!("strait --url {url}");
    if demo {
        let order = r#"{"order":1,"customer":"ada","amount":"9.90"}"#;
        return vec![
            format!("{strait} group show billing"),
            format!("{strait} dlq ls"),
            format!("echo '{order}' |\n{strait} produce orders -k ada"),
        ];
    }
    vec![
        format!("echo hello | {strait} produce greetings"),
        format!("{strait} consume greetings"),
        format!("{strait} topic ls"),
    ]
}
