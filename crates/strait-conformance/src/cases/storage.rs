//! What the storage holds, and what it has left.

use std::time::Duration;

use strait_core::{Kind, Storage};

use super::{Case, case};
use crate::fault::{Check, Fault};
use crate::lab::{Lab, batch};

pub(super) fn cases() -> Vec<Case> {
    vec![case("storage_is_measured", measured)]
}

/// Bytes that are appended.
const BATCHES: u64 = 50;
const BATCH: usize = 20_000;

/// What is appended is found in what the storage holds, and it is not full. An engine that measures none says so.
async fn measured(lab: Lab) -> Check {
    let before = match lab.engine.storage().await {
        Err(error) if error.kind() == Kind::Unsupported => {
            return Err(Fault::skip("the engine does not measure its storage"));
        }
        other => other?,
    };
    check!(
        before.free > 0 && before.full_in != Some(Duration::ZERO),
        "it is full before the beginning: {before:?}"
    );
    let topic = lab.topic(1).await?;
    let body = "x".repeat(BATCH);
    for _ in 0..BATCHES {
        lab.append(&topic, 0, batch(&[&body])?).await?;
    }
    let wanted = held(&before) + BATCHES * BATCH as u64;
    let deadline = tokio::time::Instant::now() + lab.patience;
    loop {
        let now = lab.engine.storage().await?;
        if held(&now) >= wanted {
            return Ok(());
        }
        check!(
            tokio::time::Instant::now() < deadline,
            "what was appended is never in it: {before:?}, then {now:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn held(storage: &Storage) -> u64 {
    storage.used.saturating_sub(storage.spare)
}
