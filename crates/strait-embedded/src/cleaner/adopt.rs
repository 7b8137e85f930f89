//! Cleaned segments at the opening of a directory.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use crate::disk::cleaned::{self, cleaned_name, is_cleaned, parts_of};
use crate::disk::{Disk, OpenError, Pool};
use crate::index;
use crate::state::State;

/// Takes in the cleaned segments that the state points to. What is wrong with one is told to `fault`, which may accept it.
///
/// # Errors
/// What `fault` does not accept.
pub(crate) fn adopt(
    disk: &dyn Disk,
    identity: u128,
    pool: &Arc<Pool>,
    state: &mut State,
    fault: &mut dyn FnMut(OpenError) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let listed = cleaned::list(disk);
    let listed = listed.map_err(|e| OpenError::io("list", "the data directory", e))?;
    let next = listed.iter().map(|id| parts_of(*id).1 + 1).max();
    state.next_cleaned = state.next_cleaned.max(next.unwrap_or(0));
    for id in live(state) {
        let header = if listed.contains(&id) {
            cleaned::read_header(disk, id, identity)
        } else {
            Err(OpenError::Missing {
                file: cleaned_name(id),
                why: "messages were copied into it, and lie nowhere else".into(),
            })
        };
        match header {
            Ok(len) => pool.adopt(id, len),
            Err(error) => fault(error)?,
        }
    }
    Ok(())
}

/// Removes what a job left that did not come to its end.
pub(crate) fn remove_orphans(disk: &dyn Disk, state: &State) -> io::Result<()> {
    let live = live(state);
    for name in disk.list()? {
        let id = cleaned::cleaned_id_of(&name).or_else(|| index::segment_of(&name));
        if id.is_some_and(|id| is_cleaned(id) && !live.contains(&id)) {
            disk.remove(&name)?;
        }
    }
    Ok(())
}

fn live(state: &State) -> HashSet<u64> {
    let segments = state.streams().flat_map(|(_, stream)| stream.segments());
    segments.filter(|id| is_cleaned(*id)).collect()
}
