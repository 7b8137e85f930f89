//! What the compiler says about types that are no messages or no keys.

use serde::{Deserialize, Serialize};
use strait::{Message, Raw, Strait};

struct Plain;

#[derive(Message, Serialize, Deserialize)]
#[message("sample.taken.v1", key = celsius)]
struct FloatKey {
    celsius: f64,
}

async fn topics(strait: Strait) -> strait::Result<()> {
    let plain = strait.events().topic::<Plain>("plain").await?;
    let raw = strait.events().topic::<Raw>("raw").await?;
    raw.append(&"text").await?;
    Ok(())
}

fn main() {}
