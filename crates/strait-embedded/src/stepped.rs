//! The engine without threads: a simulation owns the disk, the clock and every step.
//!
//! Public only for the simulation tests; not part of the crate's promise.

use std::io;
use std::sync::Arc;

use strait_core::Result;
use tokio::sync::oneshot;

use crate::command::Command;
use crate::disk::Disk;
use crate::engine::{Embedded, Opened};
use crate::housekeeper::Housekeeper;
use crate::open;
use crate::options::Options;
use crate::shared::Shared;
use crate::writer::Writer;

/// An engine that moves only when it is told to.
#[derive(Debug)]
pub struct Stepped {
    engine: Arc<Embedded>,
    shared: Arc<Shared>,
    writer: Writer,
    keeper: Housekeeper,
}

impl Stepped {
    /// Opens the directory on `disk`; salts and, for a new directory, the identity come from `seed`.
    pub fn open(disk: Arc<dyn Disk>, options: Options, seed: u64) -> Result<Stepped> {
        let open::Started {
            shared,
            log,
            opened,
        } = open::open_with(disk, options, Vec::new(), seed)?;
        Ok(Stepped {
            engine: Embedded::threadless(shared.clone(), opened),
            writer: Writer::new(shared.clone(), log),
            keeper: Housekeeper::new(shared.clone()),
            shared,
        })
    }

    /// The engine: its futures make progress by [`turn`](Self::turn).
    pub fn engine(&self) -> &Arc<Embedded> {
        &self.engine
    }

    /// What opening found.
    pub fn opened(&self) -> &Opened {
        self.engine.opened()
    }

    /// One turn of the writer; false: the engine is poisoned, and everything that waited was refused.
    pub fn turn(&mut self) -> bool {
        let alive = self.shared.check_alive().is_ok() && self.writer.turn().is_ok();
        if !alive {
            self.writer.refuse_all();
        }
        alive
    }

    /// One round of the housekeeper without a checkpoint.
    pub fn keep(&mut self) {
        self.keeper.prepare_segments();
        self.keeper.write_indexes();
        self.keeper.apply_retention();
    }

    /// A checkpoint; `between` runs after it is written and before it is durable.
    pub fn checkpoint(&mut self, between: impl FnOnce(&mut Stepped)) -> io::Result<()> {
        let checkpoint = self.keeper.begin_checkpoint()?;
        between(self);
        let (to, mut answer) = oneshot::channel();
        self.shared.push(Command::Sync(to), 0);
        self.turn();
        match answer.try_recv() {
            Ok(Ok(())) => self.keeper.finish_checkpoint(checkpoint),
            _ => Err(io::Error::other(
                "the engine ended before the checkpoint was durable",
            )),
        }
    }
}
