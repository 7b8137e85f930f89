//! `cargo xtask bench peers`: the same work on strait and on other systems, in turns and in one run, so that what else the
//! machine does falls on all of them. The ratio of each round is what counts; its median is written down.

mod contestant;
mod table;
mod worker;

use crate::cargo::{self, cargo};
use crate::engines::{self, Instance, Place};
use crate::test::Program;
use crate::{Failure, generated, number, options};
use contestant::{Contestant, Kind};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use worker::{Measured, Worker};

/// What is measured of each contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Producers in a closed loop.
    Append {
        batch: u32,
        /// How many of them are worth a try.
        producers: &'static [u32],
    },
    /// A stored topic, from its start.
    CatchUp,
}

/// One row of measurements.
struct Row {
    name: &'static str,
    work: Work,
    /// Whether it is the time of an acknowledgement that counts, not the rate.
    by_time: bool,
}

const ROWS: [Row; 4] = [
    Row {
        name: "batches of 100",
        work: Work::Append {
            batch: 100,
            producers: &[4, 16, 64, 256],
        },
        by_time: false,
    },
    Row {
        name: "64 producers, one message in flight each",
        work: Work::Append {
            batch: 1,
            producers: &[64],
        },
        by_time: false,
    },
    Row {
        name: "one producer alone, one message in flight",
        work: Work::Append {
            batch: 1,
            producers: &[1],
        },
        by_time: true,
    },
    Row {
        name: "catch-up",
        work: Work::CatchUp,
        by_time: false,
    },
];

/// A trial to find the best way takes this long.
const TRIAL: f64 = 1.0;
/// Before a measurement and a trial.
const WARM_UP: f64 = 0.5;

/// The contestants that could be started, with what was measured of each: by row, by round.
struct Run {
    in_ring: Vec<InRing>,
    seconds: f64,
    rounds: u64,
}

struct InRing {
    contestant: &'static Contestant,
    worker: Worker,
    results: Vec<Vec<Measured>>,
    /// The best way for each row, in words.
    ways: Vec<String>,
}

/// Servers that this run has started; they end with it, however it ends.
struct Servers<'a> {
    place: &'a Place,
    started: Vec<Instance>,
    owners: Vec<Program>,
}

impl Drop for Servers<'_> {
    fn drop(&mut self) {
        for instance in &self.started {
            if let Err(why) = engines::down(self.place, instance) {
                eprintln!("{}: {why}", instance.name);
            }
        }
    }
}

/// `cargo xtask bench peers [--seconds N] [--rounds N] [--only NAME,..]`.
pub(super) fn command(args: &[String]) -> Result<(), Failure> {
    let options = options(args, &["--seconds", "--rounds", "--only"])?;
    let seconds = number(&options, "--seconds", 3)?.max(1);
    let rounds = number(&options, "--rounds", 3)?.max(1);
    let chosen = contestant::chosen(options.iter().rev().find(|(name, _)| name == "--only"))?;
    let root = cargo::root()?;
    let place = Place::of(&root)?;
    let programs = Programs::build(&root)?;
    let dir = super::dir_beside(&programs.peers)?;
    println!("when this is interrupted, servers stay: cargo xtask engines down");
    let mut servers = Servers {
        place: &place,
        started: Vec::new(),
        owners: Vec::new(),
    };
    let mut run = Run {
        in_ring: Vec::new(),
        seconds: seconds as f64,
        rounds,
    };
    let mut left_out = Vec::new();
    for contestant in chosen {
        match enter(contestant, &programs, dir.path(), &mut servers) {
            Ok(worker) => run.in_ring.push(InRing {
                contestant,
                worker,
                results: Vec::new(),
                ways: Vec::new(),
            }),
            Err(why) => {
                println!("{}: left out: {why}", contestant.label);
                left_out.push(format!("{}: {why}", contestant.label));
            }
        }
    }
    for row in &ROWS {
        run.measure(row)?;
    }
    let text = table::section(&run, &left_out);
    print!("\n{text}");
    generated::replace(&root.join("docs/benchmarks.md"), "peers", &text)?;
    Ok(())
}

/// The two programs that are needed.
struct Programs {
    strait: PathBuf,
    peers: PathBuf,
}

impl Programs {
    fn build(root: &Path) -> Result<Self, String> {
        let target = cargo::workspace(root)?.target;
        let own = target.join("peers");
        let mut strait = cargo(root);
        strait.args(["build", "--release", "--package", "strait-cli"]);
        let mut peers = cargo(root);
        peers
            .current_dir(root.join("bench/peers"))
            .args(["build", "--release", "--locked", "--target-dir"])
            .arg(&own);
        let needs = "; librdkafka, a client, is built with make and a C compiler";
        for (command, needs) in [(&mut strait, ""), (&mut peers, needs)] {
            let status = command
                .status()
                .map_err(|error| format!("cargo did not start: {error}"))?;
            if !status.success() {
                return Err(format!("{command:?}: {status}{needs}"));
            }
        }
        Ok(Self {
            strait: target.join("release/strait"),
            peers: own.join("release/peers"),
        })
    }
}

/// Starts what a contestant needs, and the program that works on it.
fn enter(
    contestant: &'static Contestant,
    programs: &Programs,
    dir: &Path,
    servers: &mut Servers<'_>,
) -> Result<Worker, String> {
    let address = match contestant.kind {
        Kind::Server(engine, durability) => {
            let recipe = engines::Recipe::named(engine).ok_or("no such engine")?;
            let runs = recipe.is_up(servers.place, durability)?;
            let instance = recipe.up(servers.place, durability)?;
            let port = instance.port.to_string();
            if !runs {
                servers.started.push(instance);
            }
            port
        }
        Kind::InProcess => own_directory(dir, contestant)?,
        Kind::OwnersSocket => {
            let data = own_directory(dir, contestant)?;
            let mut dev = Command::new(&programs.strait);
            let mut owner = Program::start(dev.args(["dev", "--data", &data]))?;
            owner.wait_for_lines(1, Duration::from_secs(30))?;
            servers.owners.push(owner);
            data
        }
    };
    println!("{}: ready", contestant.label);
    Worker::start(&programs.peers, contestant.program, &address)
}

fn own_directory(dir: &Path, contestant: &Contestant) -> Result<String, String> {
    let data = dir.join(contestant.label.replace([' ', ',', '\''], "-"));
    std::fs::create_dir(&data).map_err(|error| format!("{}: {error}", data.display()))?;
    Ok(data.display().to_string())
}

impl Run {
    fn measure(&mut self, row: &Row) -> Result<(), String> {
        println!("{}", row.name);
        match row.work {
            Work::Append { batch, producers } => self.appends(row, batch, producers),
            Work::CatchUp => self.reads(row),
        }
    }

    fn appends(&mut self, row: &Row, batch: u32, producers: &[u32]) -> Result<(), String> {
        let mut orders = Vec::new();
        for one in &mut self.in_ring {
            let best = one.best(row, batch, producers)?;
            println!("  {}: {}", one.contestant.label, best.words);
            one.ways.push(best.words);
            one.results.push(Vec::new());
            orders.push(best.order);
        }
        for round in 0..self.rounds {
            let topic = format!("bench_{batch}_{}_{round}", producers.len());
            for (one, order) in self.in_ring.iter_mut().zip(&orders) {
                let mut order = order.clone();
                order["topic"] = json!(topic);
                order["seconds"] = json!(self.seconds);
                one.create(&topic)?;
                let measured = one.worker.measure(&order)?;
                one.keep(measured);
            }
            for one in &mut self.in_ring {
                one.delete(&topic)?;
            }
        }
        Ok(())
    }

    fn reads(&mut self, row: &Row) -> Result<(), String> {
        let topic = "bench_catch_up";
        for one in &mut self.in_ring {
            one.create(topic)?;
            let messages = one.contestant.stored;
            one.worker
                .measure(&json!({ "do": "fill", "topic": topic, "messages": messages }))?;
            one.ways.push(format!("{messages} messages stored"));
            one.results.push(Vec::new());
        }
        println!("  {}: all are filled", row.name);
        let order = json!({ "do": "read", "topic": topic });
        for _ in 0..self.rounds {
            for one in &mut self.in_ring {
                let measured = one.worker.measure(&order)?;
                if measured.messages < one.contestant.stored {
                    return Err(format!(
                        "{}: {} messages read of {}",
                        one.contestant.label, measured.messages, one.contestant.stored
                    ));
                }
                one.keep(measured);
            }
        }
        for one in &mut self.in_ring {
            one.delete(topic)?;
        }
        Ok(())
    }
}

/// The way that was best in the trials.
struct Best {
    order: Value,
    words: String,
}

impl InRing {
    /// Tries each number of producers with each of the peer's ways, and keeps the best.
    fn best(&mut self, row: &Row, batch: u32, producers: &[u32]) -> Result<Best, String> {
        let mut best: Option<(f64, Best)> = None;
        let mut why = String::new();
        let ways = self.worker.ways().to_vec();
        for &producers in producers {
            for (way, name) in ways.iter().enumerate() {
                let topic = format!("trial_{batch}_{producers}_{way}");
                let order = json!({
                    "do": "append", "topic": topic, "batch": batch, "producers": producers,
                    "way": way, "warm_up": WARM_UP, "seconds": TRIAL,
                });
                self.create(&topic)?;
                let tried = self.worker.measure(&order);
                self.delete(&topic)?;
                let score = match tried {
                    Ok(measured) => measured.score(row.by_time),
                    // Not every way bears every number of producers.
                    Err(refused) => {
                        why = refused;
                        continue;
                    }
                };
                if best.as_ref().is_none_or(|(known, _)| score > *known) {
                    let words = match producers {
                        1 => name.clone(),
                        _ => format!("{producers} producers, {name}"),
                    };
                    best = Some((score, Best { order, words }));
                }
            }
        }
        best.map(|(_, best)| best)
            .ok_or_else(|| format!("{}: no way works: {why}", self.contestant.label))
    }

    fn create(&mut self, topic: &str) -> Result<(), String> {
        self.worker
            .ask(&json!({ "do": "create", "topic": topic }))
            .map(drop)
    }

    fn delete(&mut self, topic: &str) -> Result<(), String> {
        self.worker
            .ask(&json!({ "do": "delete", "topic": topic }))
            .map(drop)
    }

    fn keep(&mut self, measured: Measured) {
        if let Some(row) = self.results.last_mut() {
            row.push(measured);
        }
    }
}
