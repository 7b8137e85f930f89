//! The programs of other projects that tests set beside ours: Python clients, Kafka's command-line tools, redis-cli.

use super::{Place, fetch, kafka};
use crate::Failure;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The Python packages with their versions, and with all that they need.
const REQUIREMENTS: &str = include_str!("clients/requirements.txt");
/// Where they are installed. A change of the requirements needs another number: what is there is taken as it is.
const PYTHON_CLIENTS: &str = "1";

/// Programs of other projects, and the variable that tells the tests where they are.
pub(crate) struct Client {
    /// For people.
    pub(crate) name: &'static str,
    /// The variable.
    pub(crate) variable: &'static str,
    get: fn(&Place) -> Result<PathBuf, String>,
}

pub(crate) const CLIENTS: [Client; 3] = [
    Client {
        name: "python clients",
        variable: "STRAIT_PYTHON_CLIENTS",
        get: python,
    },
    Client {
        name: "kafka tools",
        variable: "STRAIT_KAFKA_TOOLS",
        get: kafka::tools,
    },
    Client {
        name: "redis-cli",
        variable: "STRAIT_REDIS_CLI",
        get: |_| fetch::program("redis-cli", &["redis-tools"]),
    },
];

impl Client {
    /// Gets the programs, where they are not there yet: a directory of packages or jars, or a program.
    pub(crate) fn get(&self, place: &Place) -> Result<PathBuf, String> {
        (self.get)(place)
    }
}

/// `cargo xtask engines clients`: gets all of them and lists them, in a file too, where the tests find them.
pub(super) fn command(place: &Place) -> Result<(), Failure> {
    let mut found = serde_json::Map::new();
    let mut failed = false;
    for client in &CLIENTS {
        match client.get(place) {
            Ok(path) => {
                println!("{}={}", client.variable, path.display());
                found.insert(
                    client.variable.to_owned(),
                    path.display().to_string().into(),
                );
            }
            Err(why) => {
                failed = true;
                eprintln!("{}: not got: {}", client.name, super::one_line(&why));
            }
        }
    }
    let list = place.clients();
    fs::write(&list, format!("{:#}\n", serde_json::Value::from(found)))
        .map_err(|error| format!("{}: {error}", list.display()))?;
    if failed {
        return Err(Failure::Reported);
    }
    Ok(())
}

/// A directory for `PYTHONPATH`: the machine's own packages stay as they are.
fn python(place: &Place) -> Result<PathBuf, String> {
    let python = fetch::program("python3", &["python3", "python3-pip"])?;
    let dir = place.installed("python-clients", PYTHON_CLIENTS);
    if dir.is_dir() {
        return Ok(dir);
    }
    fetch::pip(&python)?;
    println!("installing Python packages: {}", packages().join(", "));
    fetch::filled(&dir, |new| {
        let requirements = new.join("requirements.txt");
        fs::write(&requirements, REQUIREMENTS)
            .map_err(|error| format!("{}: {error}", requirements.display()))?;
        let mut command = Command::new(&python);
        command.args(["-m", "pip", "install", "--quiet", "--no-deps"]);
        command.args(["--disable-pip-version-check", "--target"]);
        command.arg(new).arg("-r").arg(&requirements);
        fetch::run(&mut command)
    })?;
    Ok(dir)
}

fn packages() -> Vec<&'static str> {
    let names = REQUIREMENTS.lines().map(|line| line.split(';').next());
    names.flatten().map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_is_of_one_version() {
        assert!(packages().len() >= 2);
        for package in packages() {
            let version = package.split_once("==").map(|(_, version)| version);
            let pinned = version.is_some_and(|v| v.chars().all(|c| c.is_ascii_digit() || c == '.'));
            assert!(pinned, "{package}");
        }
    }

    #[test]
    fn each_has_a_variable_of_its_own() {
        let mut variables: Vec<_> = CLIENTS.iter().map(|client| client.variable).collect();
        variables.sort_unstable();
        variables.dedup();
        assert_eq!(variables.len(), CLIENTS.len());
    }
}
