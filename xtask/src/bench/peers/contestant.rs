//! Who is compared.

use crate::Failure;
use crate::engines::{Durability, Recipe};

/// One line of the tables.
pub(super) struct Contestant {
    pub(super) label: &'static str,
    /// Its name for `--only`.
    pub(super) name: &'static str,
    /// Its name for the program of `bench/peers`.
    pub(super) program: &'static str,
    pub(super) kind: Kind,
    /// Messages that its catch-up reads: what it stores in some seconds.
    pub(super) stored: u64,
}

/// Where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// In the process that produces.
    InProcess,
    /// strait, in another process that owns the directory.
    OwnersSocket,
    /// A server of `cargo xtask engines`.
    Server(&'static str, Durability),
}

impl Contestant {
    /// Whether an acknowledgement means fsynced.
    pub(super) fn is_synced(&self) -> bool {
        !matches!(self.kind, Kind::Server(_, Durability::Default))
    }

    /// What an acknowledgement means, in words.
    pub(super) fn ack(&self) -> &'static str {
        match self.kind {
            Kind::InProcess | Kind::OwnersSocket => "after an fsync",
            Kind::Server(engine, durability) => {
                Recipe::named(engine).map_or("", |recipe| recipe.ack(durability))
            }
        }
    }
}

const MILLION: u64 = 1_000_000;

const fn in_process(name: &'static str, label: &'static str) -> Contestant {
    Contestant {
        label,
        name,
        program: name,
        kind: Kind::InProcess,
        stored: MILLION,
    }
}

const fn server(label: &'static str, name: &'static str, durability: Durability) -> Contestant {
    Contestant {
        label,
        name,
        program: name,
        kind: Kind::Server(name, durability),
        stored: MILLION,
    }
}

/// All contestants. The first two are what the others are compared with.
pub(super) const ALL: &[Contestant] = &[
    Contestant {
        stored: 4 * MILLION,
        ..in_process("strait", "strait, in process")
    },
    Contestant {
        label: "strait, over the owner's socket",
        name: "strait",
        program: "strait",
        kind: Kind::OwnersSocket,
        stored: 4 * MILLION,
    },
    in_process("raft-engine", "raft-engine, in process"),
    in_process("fjall", "fjall, in process"),
    in_process("sqlite", "SQLite (WAL, FULL), in process"),
    server("Redis, always", "redis", Durability::Fsync),
    server("Valkey, always", "valkey", Durability::Fsync),
    Contestant {
        stored: 2 * MILLION,
        ..server("Kafka, flushed", "kafka", Durability::Fsync)
    },
    Contestant {
        stored: MILLION / 5,
        ..server("JetStream, always", "nats", Durability::Fsync)
    },
    server("Redis, everysec", "redis", Durability::Default),
    server("Valkey, everysec", "valkey", Durability::Default),
    Contestant {
        stored: 2 * MILLION,
        ..server("Kafka, default", "kafka", Durability::Default)
    },
    Contestant {
        stored: MILLION / 5,
        ..server("JetStream, default", "nats", Durability::Default)
    },
];

/// All of them, or those that `--only` names; strait is always one of them.
pub(super) fn chosen(only: Option<&(String, String)>) -> Result<Vec<&'static Contestant>, Failure> {
    let Some((_, names)) = only else {
        return Ok(ALL.iter().collect());
    };
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    for name in &names {
        if !ALL.iter().any(|one| one.name == *name) {
            let mut known: Vec<&str> = ALL.iter().map(|one| one.name).collect();
            known.sort_unstable();
            known.dedup();
            let known = known.join(", ");
            return Err(Failure::Usage(format!("`--only {name}`: one of {known}")));
        }
    }
    Ok(ALL
        .iter()
        .filter(|one| one.program == "strait" || names.contains(&one.name))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strait_comes_first_and_is_always_there() {
        assert_eq!(ALL[0].kind, Kind::InProcess);
        assert_eq!(ALL[1].kind, Kind::OwnersSocket);
        let only = ("--only".to_owned(), "redis, nats".to_owned());
        let Ok(found) = chosen(Some(&only)) else {
            panic!("both are known")
        };
        let labels: Vec<&str> = found.iter().map(|one| one.label).collect();
        assert_eq!(labels.len(), 6, "{labels:?}");
        assert!(labels[0].starts_with("strait"));
        let only = ("--only".to_owned(), "mq".to_owned());
        assert!(matches!(chosen(Some(&only)), Err(Failure::Usage(_))));
    }

    #[test]
    fn labels_differ_and_servers_are_known() {
        for (index, one) in ALL.iter().enumerate() {
            assert!(!one.ack().is_empty(), "{}", one.label);
            assert_eq!(one.is_synced(), one.ack().contains("after an fsync"));
            assert!(ALL[..index].iter().all(|other| other.label != one.label));
        }
    }
}
