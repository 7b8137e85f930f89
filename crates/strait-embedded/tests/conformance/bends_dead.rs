//! Mutants of what operators do with dead letters.

use std::sync::Arc;

use strait_core::events::{
    DeadEdit, DeadFilter, DeadLetter, DeadSummary, EditDead, Redrive, Redriven, RemoveDead,
    SetAside, UndoRedrive, Undone,
};

use strait_core::{Fut, Result};

use crate::bent::{Bend, True};
use crate::mutants::Mutant;

/// Asks for something else than was asked for.
#[derive(Debug)]
struct OtherFilter(fn(DeadFilter) -> DeadFilter);

impl Bend for OtherFilter {
    fn filter(&self, filter: DeadFilter) -> DeadFilter {
        (self.0)(filter)
    }
}

/// Shows something else than is there.
#[derive(Debug)]
struct OtherLetter(fn(DeadLetter) -> DeadLetter);

impl Bend for OtherLetter {
    fn letter(&self, letter: DeadLetter) -> DeadLetter {
        (self.0)(letter)
    }
}

fn in_place(mut letter: DeadLetter) -> DeadLetter {
    if let Some(edited) = letter.edited.take() {
        letter.message = edited;
    }
    letter
}

/// Counts all errors as one.
#[derive(Debug)]
struct OneError;

impl Bend for OneError {
    fn summary(&self, mut summary: Vec<DeadSummary>) -> Vec<DeadSummary> {
        let count = summary.iter().map(|sum| sum.count).sum();
        summary.truncate(1);
        summary.iter_mut().for_each(|sum| sum.count = count);
        summary
    }
}

/// Edits otherwise; `None` forgets the edit.
#[derive(Debug)]
struct OtherEdit(fn(EditDead) -> Option<EditDead>);

impl Bend for OtherEdit {
    fn edit(&self, to: &True, edit: EditDead) -> Fut<Result<()>> {
        match (self.0)(edit) {
            Some(other) => to.events.edit_dead(other),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }
}

fn any_key(mut edit: EditDead) -> Option<EditDead> {
    match &mut edit.edit {
        DeadEdit::Put { key, .. } => *key = None,
        DeadEdit::Drop => return None,
    }
    Some(edit)
}

/// Removes something else.
#[derive(Debug)]
struct OtherRemoval(fn(RemoveDead) -> RemoveDead);

impl Bend for OtherRemoval {
    fn remove(&self, remove: RemoveDead) -> RemoveDead {
        (self.0)(remove)
    }
}

/// Redrives otherwise.
#[derive(Debug)]
struct OtherRedrive(fn(Redrive) -> Redrive);

impl Bend for OtherRedrive {
    fn redrive(&self, to: &True, redrive: Redrive) -> Fut<Result<Redriven>> {
        to.events.redrive((self.0)(redrive))
    }
}

/// An undo that does otherwise, and says otherwise.
#[derive(Debug)]
struct OtherUndo(fn(UndoRedrive) -> UndoRedrive, fn(Undone) -> Undone);

impl Bend for OtherUndo {
    fn undo(&self, to: &True, undo: UndoRedrive) -> Fut<Result<Undone>> {
        let undone = to.events.undo_redrive((self.0)(undo));
        let tell = self.1;
        Box::pin(async move { undone.await.map(tell) })
    }
}

/// Sets aside otherwise.
#[derive(Debug)]
struct OtherAside(fn(SetAside) -> SetAside);

impl Bend for OtherAside {
    fn set_aside(&self, aside: SetAside) -> SetAside {
        (self.0)(aside)
    }
}

/// Each with the cases that catch it.
pub(crate) fn mutants() -> Vec<Mutant> {
    dead_letters().into_iter().chain(redrives()).collect()
}

fn dead_letters() -> [Mutant; 12] {
    [
        (
            "lists_whatever_is_dead",
            Arc::new(OtherFilter(|_| DeadFilter::default())),
            &[
                ("dead_filter_reason", "wanted"),
                ("dead_filter_key", "wanted"),
                ("dead_filter_fingerprint", "wanted"),
                ("dead_filter_partition", "wanted"),
                ("dead_filter_attempts", "wanted"),
            ],
        ),
        (
            "forgets_earlier_deaths",
            Arc::new(OtherLetter(|letter| DeadLetter {
                history: Vec::new(),
                ..letter
            })),
            &[
                ("history_of_deaths", "earlier deaths: found 0, wanted 1"),
                ("history_is_bounded", "earlier deaths: found []"),
            ],
        ),
        (
            "hides_edits",
            Arc::new(OtherLetter(|letter| DeadLetter {
                edited: None,
                ..letter
            })),
            &[("edit_leaves_the_original", "edits: found [None, None")],
        ),
        (
            "edits_the_original",
            Arc::new(OtherLetter(in_place)),
            &[("edit_leaves_the_original", "originals: found")],
        ),
        (
            "counts_all_errors_as_one",
            Arc::new(OneError),
            &[("dead_summary", "letters and keys of each error")],
        ),
        (
            "forgets_edits",
            Arc::new(OtherEdit(|_| None)),
            &[
                ("edit_is_what_comes_back", "body: found \"a\""),
                ("edit_last_one_counts", "what comes back: found"),
            ],
        ),
        (
            "lets_edits_move_keys",
            Arc::new(OtherEdit(any_key)),
            &[("edit_refused", "another key")],
        ),
        (
            "removes_in_a_dry_run",
            Arc::new(OtherRemoval(|remove| RemoveDead {
                dry_run: false,
                ..remove
            })),
            &[(
                "remove_by_filter",
                "dead after the dry run: found 2, wanted 4",
            )],
        ),
        (
            "removes_more",
            Arc::new(OtherRemoval(|remove| RemoveDead {
                filter: DeadFilter::default(),
                ..remove
            })),
            &[
                ("remove_by_filter", "what would be removed: found 4"),
                ("remove_nothing", "it was accepted"),
            ],
        ),
        (
            "edits_in_a_dry_run",
            Arc::new(OtherEdit(|edit| {
                Some(EditDead {
                    dry_run: false,
                    ..edit
                })
            })),
            &[("edit_dry_run", "something was edited")],
        ),
        (
            "sets_aside_in_a_dry_run",
            Arc::new(OtherAside(|aside| SetAside {
                dry_run: false,
                ..aside
            })),
            &[("aside_dry_run", "was to be applied: Fenced")],
        ),
        (
            "sets_aside_what_is_out",
            Arc::new(OtherAside(|aside| SetAside {
                force: true,
                ..aside
            })),
            &[("aside_refused_while_out", "it was accepted")],
        ),
    ]
}

fn redrives() -> [Mutant; 7] {
    [
        (
            "redrives_at_once",
            Arc::new(OtherRedrive(|redrive| Redrive {
                per_second: None,
                ..redrive
            })),
            &[("redrive_at_a_rate", "how long: found 0ns")],
        ),
        (
            "redrives_in_a_dry_run",
            Arc::new(OtherRedrive(|redrive| Redrive {
                dry_run: false,
                ..redrive
            })),
            &[("redrive_only_says_how_many", "count and run")],
        ),
        (
            "redrives_more",
            Arc::new(OtherRedrive(|redrive| Redrive {
                filter: DeadFilter::default(),
                ..redrive
            })),
            &[("redrive_by_filter", "brought back: found 4, wanted 2")],
        ),
        (
            "begins_a_new_run",
            Arc::new(OtherRedrive(|redrive| Redrive {
                resume: None,
                ..redrive
            })),
            &[
                ("redrive_goes_on", "the second part"),
                ("redrive_refused", "it was accepted"),
            ],
        ),
        (
            "takes_nothing_back",
            Arc::new(OtherUndo(
                |undo| UndoRedrive {
                    dry_run: true,
                    ..undo
                },
                |undone| undone,
            )),
            &[("undo_makes_dead_again", "dead letters: found []")],
        ),
        (
            "does_not_say_what_was_handled",
            Arc::new(OtherUndo(
                |undo| undo,
                |undone| Undone {
                    handled: 0,
                    ..undone
                },
            )),
            &[("undo_leaves_what_is_out", "the undo: found (1, 2, 0)")],
        ),
        (
            "forgets_the_operators_reason",
            Arc::new(OtherAside(|aside| SetAside {
                reason: "".into(),
                ..aside
            })),
            &[("aside_before_it_comes", "number, attempts and reason")],
        ),
    ]
}
