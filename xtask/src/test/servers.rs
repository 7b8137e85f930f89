//! The servers of other systems that the tests run against: brought up once, told to the tests by environment, ended.
//! Their own programs, which the tests set beside ours, are told likewise.

use super::{Context, Outcome};
use crate::engines::{self, CLIENTS, Durability, Instance, Place, Recipe};
use std::process::Command;

/// A server that tests ask for.
struct Wanted {
    /// Its recipe's name.
    name: &'static str,
    /// The variable that tells the tests where it is, as `HOST:PORT`.
    variable: &'static str,
    /// What its acknowledgements wait for.
    durability: Durability,
}

/// Redis and Valkey sync before they acknowledge: that is the durability class that the driver reports for them, and
/// the tests hold it to it. Kafka runs as it comes: its durability is replication, which a single broker has none of,
/// and an fsync per request would only make the tests slow; what survives the death of its process is the same.
const WANTED: [Wanted; 3] = [
    Wanted {
        name: "kafka",
        variable: "STRAIT_KAFKA",
        durability: Durability::Default,
    },
    Wanted {
        name: "redis",
        variable: "STRAIT_REDIS",
        durability: Durability::Fsync,
    },
    Wanted {
        name: "valkey",
        variable: "STRAIT_VALKEY",
        durability: Durability::Fsync,
    },
];

/// The value that tells a test to do without, even where a server runs.
const NONE: &str = "none";

/// What the run knows about servers.
#[derive(Default)]
pub(super) struct Servers {
    /// Variables for the tests. Empty when nobody asked for servers: tests then look for one by themselves.
    variables: Vec<(&'static str, String)>,
    /// Those that this run started, with the place that lists them.
    started: Vec<(Place, Instance)>,
}

impl Servers {
    /// No test is to use a server.
    pub(super) fn none() -> Self {
        let servers = WANTED.iter().map(|wanted| wanted.variable);
        let clients = CLIENTS.iter().map(|client| client.variable);
        let none = |variable| (variable, NONE.to_owned());
        Self {
            variables: servers.chain(clients).map(none).collect(),
            started: Vec::new(),
        }
    }

    /// Tells a command where they are.
    pub(super) fn tell(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// Ends those that this run started.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        let mut failed = Vec::new();
        for (place, instance) in self.started.drain(..) {
            match engines::down(&place, &instance) {
                Ok(()) => println!("{}: stopped", instance.name),
                Err(why) => failed.push(format!("{}: {why}", instance.name)),
            }
        }
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed.join("; "))
        }
    }

    fn up(&mut self, wanted: &Wanted, root: &std::path::Path) -> Result<(), String> {
        let recipe = Recipe::named(wanted.name).ok_or("no such recipe")?;
        let place = Place::of(root)?;
        let ran_before = recipe.is_up(&place, wanted.durability)?;
        let up = recipe.up(&place, wanted.durability);
        let instance = up.map_err(|why| format!("{why} (it needs {})", recipe.from))?;
        let whose = if ran_before {
            "runs already"
        } else {
            "started"
        };
        println!(
            "{}: {whose} on 127.0.0.1:{}, pid {}, acknowledges {}",
            wanted.name,
            instance.port,
            instance.pid,
            recipe.ack(wanted.durability)
        );
        let address = format!("127.0.0.1:{}", instance.port);
        self.variables.push((wanted.variable, address));
        if !ran_before {
            self.started.push((place, instance));
        }
        Ok(())
    }
}

/// Gets the programs of the other systems, and tells where they are.
fn get_clients(context: &mut Context, absent: &mut Vec<String>) {
    let place = Place::of(&context.root);
    for client in &CLIENTS {
        let got = match &place {
            Ok(place) => client.get(place),
            Err(why) => Err(why.clone()),
        };
        let told = match got {
            Ok(path) => path.display().to_string(),
            Err(why) => {
                absent.push(format!("no {}: {}", client.name, engines::one_line(&why)));
                NONE.to_owned()
            }
        };
        context.servers.variables.push((client.variable, told));
    }
}

/// Whatever ends the run, nothing that it started stays.
impl Drop for Servers {
    fn drop(&mut self) {
        if let Err(why) = self.stop() {
            println!("not stopped: {why}");
        }
    }
}

/// Brings up what is wanted, and gets what is set beside ours. In CI each must be there; elsewhere the tests of an absent one
/// are skipped.
pub(super) fn run(context: &mut Context) -> Outcome {
    let mut absent = Vec::new();
    for wanted in &WANTED {
        if let Err(why) = context.servers.up(wanted, &context.root) {
            absent.push(format!("no {}: {}", wanted.name, engines::one_line(&why)));
            let none = (wanted.variable, NONE.to_owned());
            context.servers.variables.push(none);
        }
    }
    get_clients(context, &mut absent);
    match absent.is_empty() {
        true => Outcome::Passed,
        false if context.ci => Outcome::Failed(absent.join("; ")),
        false => Outcome::Skipped(absent.join("; ")),
    }
}

/// What the clients of these servers are built with.
pub(super) fn packages(_: &mut Context) -> Outcome {
    engines::install_build_packages().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wanted_server_has_a_recipe_and_without_servers_each_is_told_so() {
        let mut command = Command::new("env");
        Servers::none().tell(&mut command);
        for wanted in &WANTED {
            assert!(Recipe::named(wanted.name).is_some(), "{}", wanted.name);
        }
        let servers = WANTED.iter().map(|wanted| wanted.variable);
        for variable in servers.chain(CLIENTS.iter().map(|client| client.variable)) {
            let told = command.get_envs().find(|(name, _)| *name == variable);
            let told = told.and_then(|(_, value)| value?.to_str());
            assert_eq!(told, Some("none"), "{variable}");
        }
        let mut command = Command::new("env");
        Servers::default().tell(&mut command);
        assert_eq!(command.get_envs().count(), 0);
    }
}
