//! Removing the files of segments: little by little, as a file system that frees much at once holds up every fsync.

use std::io;
use std::sync::Arc;

use super::{Pool, State};
use crate::disk::cleaned::file_name;
use crate::disk::io::{File, Open};

/// Bytes that a file that goes is cut by in one step.
const SHRINK: u64 = 8 << 20;

/// A file that goes. It bears the name of an unfinished one, which the next opening removes.
#[derive(Debug)]
pub(in crate::disk) struct Shrinking {
    file: Arc<dyn File>,
    name: String,
    len: u64,
}

impl State {
    /// True when there are files to remove.
    pub(super) fn has_trash(&self) -> bool {
        !self.trash.is_empty() || self.shrinking.is_some()
    }
}

impl Pool {
    /// One step of removing what is not kept.
    pub(super) fn shrink_trash(&self) -> io::Result<()> {
        let begun = self.state.lock().shrinking.take();
        let begun = match begun {
            Some(begun) => Some(begun),
            None => self.begin_shrinking()?,
        };
        let Some(mut shrinking) = begun else {
            return Ok(());
        };
        shrinking.len = shrinking.len.saturating_sub(SHRINK);
        if shrinking.len == 0 {
            return self.disk.remove(&shrinking.name);
        }
        shrinking.file.set_len(shrinking.len)?;
        self.state.lock().shrinking = Some(shrinking);
        Ok(())
    }

    fn begin_shrinking(&self) -> io::Result<Option<Shrinking>> {
        let Some(id) = self.state.lock().trash.pop() else {
            return Ok(None);
        };
        let from = file_name(id);
        let name = from.replace(".seg", ".tmp");
        // Durable before the length changes: a segment that is not as long as its header says would be damage.
        let renamed = self.disk.rename(&from, &name);
        match renamed.and_then(|()| self.disk.sync_dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        }
        let file = self.disk.open(&name, Open::Existing)?;
        let len = file.len()?;
        Ok(Some(Shrinking { file, name, len }))
    }

    /// Removes all of it at once: what it takes is needed.
    pub(super) fn empty_trash(&self) -> io::Result<()> {
        let shrinking = self.state.lock().shrinking.take();
        if let Some(shrinking) = shrinking {
            self.remove_if_there(&shrinking.name)?;
        }
        loop {
            let Some(id) = self.state.lock().trash.pop() else {
                return Ok(());
            };
            self.remove_if_there(&file_name(id))?;
        }
    }

    fn remove_if_there(&self, name: &str) -> io::Result<()> {
        match self.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
