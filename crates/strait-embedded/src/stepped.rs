//! The engine without threads: a simulation owns the disk, the clock and every step.
//!
//! Public only for the simulation tests; not part of the crate's promise.

use std::io;
use std::sync::Arc;

use strait_core::{Backup, Error, Result};
use tokio::sync::oneshot;

use crate::backup;
use crate::command::Command;
use crate::disk::{Disk, LogOptions};
use crate::engine::{Embedded, Opened};
use crate::housekeeper::{Checkpoint, Housekeeper};
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
    checkpoint: Option<Checkpoint>,
}

impl Stepped {
    /// Opens the directory on `disk`, with its log kept as `log` says (and not as the options say). A new directory
    /// gets the identity in it.
    pub fn open(disk: Arc<dyn Disk>, options: Options, log: LogOptions) -> Result<Stepped> {
        let open::Started {
            shared,
            log,
            opened,
        } = open::open_with(disk, options, Vec::new(), log)?;
        Ok(Stepped {
            engine: Embedded::threadless(shared.clone(), opened),
            writer: Writer::new(shared.clone(), log),
            keeper: Housekeeper::new(shared.clone()),
            shared,
            checkpoint: None,
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

    /// One round of the housekeeper without a checkpoint. Not while one is under way: in life one thread does both.
    pub fn keep(&mut self) {
        self.keeper.prepare_segments();
        self.keeper.write_indexes();
        self.keeper.clean_up();
    }

    /// One step of the cleaner, the writer's turn included when it is through; false: it has nothing to do.
    pub fn clean(&mut self) -> bool {
        if let Some(copied) = self.keeper.clean_step() {
            let (to, mut answer) = oneshot::channel();
            self.shared.push(Command::Moved(copied, to), 0);
            self.turn();
            self.keeper
                .end_clean(matches!(answer.try_recv(), Ok(Ok(()))));
        }
        self.keeper.is_cleaning()
    }

    /// False while sends are refused for lack of space.
    pub fn has_room(&self) -> bool {
        self.shared.pool.has_room()
    }

    /// True while a checkpoint is under way.
    pub fn is_checkpointing(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// Starts a checkpoint.
    pub fn begin_checkpoint(&mut self) -> io::Result<()> {
        self.checkpoint = None;
        self.checkpoint = Some(self.keeper.begin_checkpoint()?);
        Ok(())
    }

    /// Writes one more section of the checkpoint under way; false: none is left, or none is under way. After an error it
    /// is given up.
    pub fn write_section(&mut self) -> io::Result<bool> {
        let Some(checkpoint) = &mut self.checkpoint else {
            return Ok(false);
        };
        let more = self.keeper.write_section(checkpoint);
        if more.is_err() {
            self.checkpoint = None;
        }
        more
    }

    /// Ends the checkpoint under way, with all sections that are left.
    pub fn finish_checkpoint(&mut self) -> io::Result<()> {
        while self.write_section()? {}
        let Some(checkpoint) = self.checkpoint.take() else {
            return Ok(());
        };
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

    /// Takes a backup onto another disk, with a checkpoint for it. Not while one is under way.
    pub fn backup(&mut self, to: &dyn Disk) -> Result<Backup> {
        let taken = self.begin_checkpoint();
        taken
            .and_then(|()| self.finish_checkpoint())
            .map_err(|error| Error::io("no checkpoint can be taken", error))?;
        backup::take_to(&self.shared, to, &|_| Ok(()))
    }

    /// Closes the engine in order, as the end of its threads does.
    pub fn close(mut self) {
        self.shared.stop();
        self.checkpoint = None;
        self.writer.finish();
    }
}

/// Makes a data directory on one disk of the backup on another.
pub fn restore(backup: &dyn Disk, to: &dyn Disk) -> Result<()> {
    backup::restore_from(backup, Some(to)).map(|_| ())
}

impl Drop for Stepped {
    /// What waits is refused: a receipt in the queue would hold the engine, which holds the queue.
    fn drop(&mut self) {
        self.shared.stop();
        self.writer.refuse_all();
    }
}
