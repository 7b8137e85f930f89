//! One file per system.

mod fjall;
mod kafka;
mod nats;
mod raft;
mod redis;
mod sqlite;
mod strait;

use std::sync::Arc;

use crate::peer::{Peer, Result};

/// Opens a peer by its name.
pub async fn open(name: &str, address: &str) -> Result<Arc<dyn Peer>> {
    Ok(match name {
        "strait" => Arc::new(strait::Strait::open(address).await?),
        "redis" | "valkey" => Arc::new(redis::Redis::open(address).await?),
        "nats" => Arc::new(nats::Nats::open(address).await?),
        "kafka" => Arc::new(kafka::Kafka::open(address)?),
        "raft-engine" => Arc::new(raft::Raft::open(address)?),
        "fjall" => Arc::new(fjall::Fjall::open(address)?),
        "sqlite" => Arc::new(sqlite::Sqlite::open(address)?),
        _ => return Err(format!("no peer of the name `{name}`").into()),
    })
}
