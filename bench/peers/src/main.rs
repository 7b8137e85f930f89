//! The same work on strait and on other systems. `cargo xtask bench peers` starts one of these programs for each of them
//! and gives them turns, so that what else the machine does falls on all alike.
//!
//! `peers PEER ADDRESS` reads one order per line, as JSON, and answers each with one line of JSON. `ADDRESS` is a port on
//! the loopback address, for the peers that live in the process a directory.

mod load;
mod order;
mod peer;
mod peers;

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;

use order::{Answer, Order};
use peer::{Peer, Result};

/// Messages are made on one thread and freed on another; the same allocator for all.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, address] = args.as_slice() else {
        eprintln!("usage: peers PEER ADDRESS");
        return ExitCode::from(2);
    };
    match run(name, address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name} at {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, address: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let peer = runtime.block_on(peers::open(name, address))?;
    say(&Answer::Open { ways: peer.ways() })?;
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let answer = runtime.block_on(carry_out(&peer, order));
        say(&answer.unwrap_or_else(|error| Answer::Failed {
            error: error.to_string(),
        }))?;
    }
    runtime.block_on(peer.close())
}

async fn carry_out(peer: &Arc<dyn Peer>, order: Order) -> Result<Answer> {
    match order {
        Order::Create { topic } => {
            peer.create(&topic).await?;
            Ok(Answer::Done)
        }
        Order::Delete { topic } => {
            peer.delete(&topic).await?;
            Ok(Answer::Done)
        }
        Order::Append(append) => load::append(peer, append).await,
        Order::Fill { topic, messages } => load::fill(peer, &topic, messages).await,
        Order::Read { topic } => load::read(peer, &topic).await,
    }
}

fn say(answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line)?;
    Ok(stdout.flush()?)
}
