//! `cargo xtask engines`: gets and starts the servers of other systems on the loopback address, for tests and benchmarks
//! against them.
//!
//! One file per engine. A new one is a file with a [`Recipe`] and a line in [`RECIPES`].

mod clients;
mod fetch;
mod kafka;
mod launch;
mod nats;
mod place;
mod redis;
mod running;
mod valkey;

use crate::{Failure, cargo, options};
pub(crate) use clients::CLIENTS;
use launch::Launch;
pub(crate) use place::Place;
pub(crate) use running::Instance;
use running::Running;
use std::path::{Path, PathBuf};

/// All engines, in the order of the output.
const RECIPES: [&Recipe; 4] = [
    &redis::RECIPE,
    &valkey::RECIPE,
    &nats::RECIPE,
    &kafka::RECIPE,
];

/// What building the clients of other systems needs beside Rust: a compiler for C and C++ and two libraries.
const TO_BUILD: [fetch::Package; 5] = [
    program("make", "make"),
    program("g++", "g++"),
    program("pkg-config", "pkg-config"),
    library("libssl-dev", "openssl"),
    library("zlib1g-dev", "zlib"),
];

const fn program(name: &'static str, gives: &'static str) -> fetch::Package {
    fetch::Package {
        name,
        gives,
        is_library: false,
    }
}

const fn library(name: &'static str, gives: &'static str) -> fetch::Package {
    fetch::Package {
        name,
        gives,
        is_library: true,
    }
}

/// Installs what building the clients of other systems needs, where it is missing.
pub(crate) fn install_build_packages() -> Result<(), String> {
    fetch::packages(&TO_BUILD)
}

/// How one engine is had and started.
pub(crate) struct Recipe {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it needs that is not installed by itself, for people.
    pub(crate) from: &'static str,
    /// Gets it, where it is not there yet: a program or a directory.
    get: fn(&Place) -> Result<PathBuf, String>,
    /// How it is started.
    launch: fn(&Start<'_>) -> Result<Launch, String>,
    /// What an acknowledgement of it means at each durability.
    ack: fn(Durability) -> &'static str,
}

/// What an acknowledgement of a server waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The disk, as with strait.
    Fsync,
    /// Whatever the engine does when nobody says otherwise.
    Default,
}

impl Durability {
    pub(crate) const ALL: [Durability; 2] = [Durability::Fsync, Durability::Default];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Durability::Fsync => "fsync",
            Durability::Default => "default",
        }
    }

    fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.as_str() == word)
    }
}

/// What a start is given.
struct Start<'a> {
    /// What [`Recipe::get`] gave.
    got: &'a Path,
    /// An empty directory of its own.
    data: &'a Path,
    /// A free port.
    port: u16,
    /// Another one.
    second_port: u16,
    durability: Durability,
}

impl Recipe {
    /// The recipe of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Recipe> {
        RECIPES.into_iter().find(|recipe| recipe.name == name)
    }

    /// What an acknowledgement means.
    pub(crate) fn ack(&self, durability: Durability) -> &'static str {
        (self.ack)(durability)
    }

    /// Whether an instance of it runs.
    pub(crate) fn is_up(&self, place: &Place, durability: Durability) -> Result<bool, String> {
        Ok(Running::read(place)?.alive(self.name, durability).is_some())
    }

    /// Gets the engine and starts it; an instance that runs already is given as it is.
    pub(crate) fn up(&self, place: &Place, durability: Durability) -> Result<Instance, String> {
        let mut running = Running::read(place)?;
        if let Some(found) = running.alive(self.name, durability) {
            return Ok(found.clone());
        }
        let got = (self.get)(place)?;
        let instance = launch::start(self, place, &got, durability)?;
        running.add(instance.clone());
        if let Err(error) = running.write(place) {
            // What nobody can find again must not stay.
            let stopped = instance.stop().err().unwrap_or_default();
            return Err(format!("{error} {stopped}"));
        }
        Ok(instance)
    }
}

/// Stops an instance and forgets it.
pub(crate) fn down(place: &Place, instance: &Instance) -> Result<(), String> {
    instance.stop()?;
    let mut running = Running::read(place)?;
    running.remove(instance);
    running.write(place)
}

/// `cargo xtask engines up|down|status [NAME].. [--durability fsync|default]`, and `engines clients`.
pub(crate) fn command(args: &[String]) -> Result<(), Failure> {
    let Some((action, rest)) = args.split_first() else {
        return Err(Failure::Usage(
            "engines needs up, down, status or clients".to_owned(),
        ));
    };
    if action == "clients" {
        options(rest, &[])?;
        return clients::command(&Place::of(&cargo::root()?)?);
    }
    let (flags, names): (Vec<String>, Vec<String>) = split_names(rest);
    let options = options(&flags, &["--durability"])?;
    let durability =
        match options.last() {
            None => None,
            Some((_, word)) => Some(Durability::of(word).ok_or_else(|| {
                Failure::Usage(format!("`--durability {word}`: fsync or default"))
            })?),
        };
    let recipes = wanted(&names)?;
    let place = Place::of(&cargo::root()?)?;
    match action.as_str() {
        "up" => up(&place, &recipes, durability.unwrap_or(Durability::Fsync)),
        "down" => all_down(&place, &recipes, durability),
        "status" => status(&place, &recipes, durability),
        other => Err(Failure::Usage(format!(
            "engines has no `{other}`: up, down, status or clients"
        ))),
    }
}

/// Options with their values, and the words that are neither.
fn split_names(args: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut flags, mut names) = (Vec::new(), Vec::new());
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            names.push(word.clone());
            continue;
        }
        flags.push(word.clone());
        if !word.contains('=') {
            flags.extend(words.next().cloned());
        }
    }
    (flags, names)
}

/// The recipes of these names; all when there are none.
fn wanted(names: &[String]) -> Result<Vec<&'static Recipe>, Failure> {
    if names.is_empty() {
        return Ok(RECIPES.to_vec());
    }
    let known: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
    names
        .iter()
        .map(|name| {
            Recipe::named(name)
                .ok_or_else(|| Failure::Usage(format!("no engine `{name}`: {}", known.join(", "))))
        })
        .collect()
}

fn up(place: &Place, recipes: &[&Recipe], durability: Durability) -> Result<(), Failure> {
    let mut failed = false;
    for recipe in recipes {
        match recipe.up(place, durability) {
            Ok(instance) => println!("{}", line(recipe, &instance)),
            Err(why) => {
                failed = true;
                eprintln!(
                    "{}: not started: {} (it needs {})",
                    recipe.name,
                    one_line(&why),
                    recipe.from
                );
            }
        }
    }
    if failed {
        return Err(Failure::Reported);
    }
    println!("stop them: cargo xtask engines down");
    Ok(())
}

fn all_down(
    place: &Place,
    recipes: &[&Recipe],
    durability: Option<Durability>,
) -> Result<(), Failure> {
    let mut failed = false;
    let found = chosen(place, recipes, durability)?;
    if found.is_empty() {
        println!("none of them runs");
    }
    for instance in found {
        let what = format!("{} ({})", instance.name, instance.durability.as_str());
        match down(place, &instance) {
            Ok(()) => println!("{what}: stopped, its data is removed"),
            Err(why) => {
                failed = true;
                eprintln!("{what}: {why}");
            }
        }
    }
    if failed {
        Err(Failure::Reported)
    } else {
        Ok(())
    }
}

fn status(
    place: &Place,
    recipes: &[&Recipe],
    durability: Option<Durability>,
) -> Result<(), Failure> {
    let found = chosen(place, recipes, durability)?;
    for recipe in recipes {
        let of_it: Vec<_> = found.iter().filter(|i| i.name == recipe.name).collect();
        if of_it.is_empty() {
            println!("{}: does not run", recipe.name);
        }
        for instance in of_it {
            println!("{}", line(recipe, instance));
        }
    }
    Ok(())
}

/// The instances that are meant, dead ones too: their data is still there.
fn chosen(
    place: &Place,
    recipes: &[&Recipe],
    durability: Option<Durability>,
) -> Result<Vec<Instance>, String> {
    let meant = |instance: &Instance| {
        recipes.iter().any(|recipe| recipe.name == instance.name)
            && durability.is_none_or(|d| d == instance.durability)
    };
    let running = Running::read(place)?;
    Ok(running.instances().filter(|i| meant(i)).cloned().collect())
}

fn line(recipe: &Recipe, instance: &Instance) -> String {
    let state = if instance.is_alive() {
        "runs"
    } else {
        "ended by itself"
    };
    format!(
        "{}: {state} on 127.0.0.1:{}, pid {}, acknowledges {}, data and log in {}",
        recipe.name,
        instance.port,
        instance.pid,
        recipe.ack(instance.durability),
        instance.data.display()
    )
}

/// As one line, for a message that stands beside others.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn names_and_options_may_stand_in_any_order() {
        let (flags, names) = split_names(&words(
            "redis --durability default kafka --durability=fsync",
        ));
        assert_eq!(names, ["redis", "kafka"]);
        assert_eq!(flags, ["--durability", "default", "--durability=fsync"]);
    }

    #[test]
    fn an_unknown_engine_is_refused_with_the_known_ones() {
        let refused = wanted(&words("redis mq"));
        let Err(Failure::Usage(what)) = refused else {
            panic!("no such engine")
        };
        assert_eq!(what, "no engine `mq`: redis, valkey, nats, kafka");
        assert!(wanted(&[]).is_ok_and(|all| all.len() == RECIPES.len()));
        assert!(matches!(
            command(&words("sideways")),
            Err(Failure::Usage(_))
        ));
        assert!(matches!(
            command(&words("up --durability some")),
            Err(Failure::Usage(_))
        ));
    }

    #[test]
    fn every_engine_says_what_its_acknowledgement_means() {
        for recipe in RECIPES {
            let [fsync, default] = Durability::ALL.map(|d| recipe.ack(d));
            assert!(fsync.contains("fsync"), "{}: {fsync}", recipe.name);
            assert_ne!(fsync, default, "{}", recipe.name);
        }
    }
}
