//! Redis 7, from Debian.

use super::fetch;
use super::launch::{Launch, Ready};
use super::{Durability, Recipe, Start};
use std::process::Command;

pub(super) const RECIPE: Recipe = Recipe {
    name: "redis",
    from: "Debian's redis-server",
    get: |_| fetch::program("redis-server", &["redis-server"]),
    launch: |start| Ok(launch(start)),
    ack,
};

/// Redis and Valkey start alike. Without an append-only file an acknowledgement would mean memory, so that the weakest here
/// is its default policy, a sync per second.
pub(super) fn launch(start: &Start<'_>) -> Launch {
    let sync = match start.durability {
        Durability::Fsync => "always",
        Durability::Default => "everysec",
    };
    let mut command = Command::new(start.got);
    command.args(["--bind", "127.0.0.1", "--port", &start.port.to_string()]);
    command.arg("--dir").arg(start.data);
    command.args(["--appendonly", "yes", "--appendfsync", sync]);
    command.args(["--save", "", "--daemonize", "no"]);
    Launch {
        command,
        ready: Ready::Answers {
            port: start.port,
            ask: b"PING\r\n".to_vec(),
            word: "PONG",
        },
    }
}

pub(super) fn ack(durability: Durability) -> &'static str {
    match durability {
        Durability::Fsync => "after an fsync (appendfsync always)",
        Durability::Default => "before its sync per second (appendfsync everysec)",
    }
}
