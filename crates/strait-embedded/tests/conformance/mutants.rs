//! Mutants: engines that break one promise each. A suite that lets one pass would be no proof of anything.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use strait_conformance::{Suite, Target, run_event_case};
use strait_core::Verdict;
use strait_core::events::{GroupSpec, Order, Start};

use crate::bends::*;
use crate::bent::Bend;
use crate::place;

/// Each mutant is a test: its cases must fail on it, and say why. On the true engine the same cases pass.
pub(crate) fn add_to(suite: Suite) -> Suite {
    let mut suite = suite;
    for (name, bend, caught_by) in all() {
        suite = suite.test(format!("mutant::{name}"), move || {
            let target = mutant(name, bend);
            for (case, why) in caught_by {
                let fault = run_event_case(&target, case).err();
                let said = fault.ok_or_else(|| format!("`{case}` lets the mutant pass"))?;
                if !said.to_string().contains(why) {
                    return Err(format!("`{case}` was to say `{why}`: {said}"));
                }
            }
            Ok(())
        });
    }
    suite
}

/// Each reverse case is to catch what is accepted in silence.
const SILENCE: &[(&str, &str)] = &[
    ("refused_key_order", "it was accepted"),
    ("refused_by_time", "it was accepted"),
    ("refused_by_key", "it was accepted"),
    ("refused_expected_position", "it was accepted"),
    ("refused_key_versions", "it was accepted"),
    ("refused_dedupe", "it was accepted"),
    ("refused_atomic_effects", "was to be refused: Applied"),
    ("refused_ledger", "it was accepted"),
    ("refused_under", "was to be refused: Applied"),
    ("refused_lease_extension", "it was accepted"),
    ("refused_retry", "was to be refused: Applied"),
    ("refused_dead_letters", "was to be refused: Applied"),
    ("refused_hold_key", "it was accepted"),
    ("refused_alter_group", "it was accepted"),
    ("refused_retention_age", "it was accepted"),
    ("refused_retention_bytes", "it was accepted"),
    ("refused_compaction", "it was accepted"),
];

/// A mutant may lose what a case waits for: it is not waited for long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Its name, what it does otherwise, the cases that catch it with a part of what they must say.
pub(crate) type Mutant = (
    &'static str,
    Arc<dyn Bend>,
    &'static [(&'static str, &'static str)],
);

fn all() -> Vec<Mutant> {
    let all = log().into_iter().chain(units()).chain(specs());
    let all = all.chain(groups()).chain(verdicts());
    all.chain(crate::steering::mutants())
        .chain(crate::bends_dead::mutants())
        .collect()
}

fn log() -> [Mutant; 9] {
    [
        (
            "measures_no_growth",
            Arc::new(StoresNothing),
            &[("storage_is_measured", "is never in it")],
        ),
        (
            "loses_an_acknowledged_append",
            Arc::new(LosesAppends(AtomicU32::new(0))),
            &[
                ("append_concurrent", "against what was acknowledged"),
                ("history_of_steady_members", "NothingLost is broken"),
            ],
        ),
        (
            "answers_other_positions",
            Arc::new(OtherPositions),
            &[
                ("append_positions_grow", "positions do not grow"),
                ("append_one", "position: found 0, wanted 1"),
                ("history_of_steady_members", "NothingLost is broken"),
            ],
        ),
        (
            "ignores_what_is_expected",
            Arc::new(IgnoresExpected),
            &[
                ("expected_position", "wanted Conflict, it was accepted"),
                ("expected_key_version_concurrent", "wanted 1"),
            ],
        ),
        (
            "forgets_known_ids",
            Arc::new(ForgetsIds),
            &[
                ("dedupe_one", "duplicate: false"),
                ("dedupe_batch_by_ids", "duplicate: false"),
                ("dedupe_concurrent", "found 8, wanted 1"),
            ],
        ),
        (
            "reads_from_the_beginning",
            Arc::new(ReadsFromStart),
            &[
                ("read_from_the_middle", "does not go on"),
                ("read_at_end_waits", "it waited"),
            ],
        ),
        (
            "locates_no_time",
            Arc::new(LocatesNoTime),
            &[("locate_time", r#"found "a", wanted "b""#)],
        ),
        (
            "does_not_close",
            Arc::new(NeverCloses),
            &[
                (
                    "close_refuses_later_calls",
                    "wanted Closed, it was accepted",
                ),
                ("close_shows_in_health", "after the close: Up"),
            ],
        ),
        (
            "accepts_what_it_refuses",
            Arc::new(AcceptsInSilence),
            SILENCE,
        ),
    ]
}

fn units() -> [Mutant; 7] {
    [
        (
            "applies_a_fenced_unit",
            Arc::new(AppliesFenced),
            &[
                ("fenced_unit_has_no_effects", "effects: found 1, wanted 0"),
                ("under_a_lost_receipt", "effects: found 2, wanted 0"),
                ("history_of_members_that_die", "ExactlyOnce is broken"),
            ],
        ),
        (
            "settles_apart_from_its_effects",
            Arc::new(SettlesApart),
            &[
                ("unit_refused_changes_nothing", "what came back"),
                ("dead_not_applied", "dead letters: found 1, wanted 0"),
            ],
        ),
        (
            "sends_when_seen",
            Arc::new(SendsWhenSeen),
            &[(
                "once_seen_settles_and_sends_nothing",
                r#"effects: found ["effect", "effect"]"#,
            )],
        ),
        (
            "ignores_under",
            Arc::new(IgnoresUnder),
            &[("under_a_lost_receipt", "was to answer Fenced")],
        ),
        (
            "mixes_outcomes",
            Arc::new(MixesOutcomes),
            &[("units_in_order", "against the outcomes")],
        ),
        (
            "drops_a_commit_with_its_future",
            Arc::new(CommitsLate),
            &[("unit_dropped_runs_to_its_end", "never has no lag")],
        ),
        (
            "grants_a_claim_twice",
            Arc::new(GrantsTwice),
            &[
                ("claim_runs_once", "wanted Wait"),
                ("claim_concurrent", "found 8, wanted 1"),
                ("claim_scopes", "wanted Wait"),
            ],
        ),
    ]
}

fn specs() -> [Mutant; 6] {
    let spec = |change: fn(&mut GroupSpec)| Arc::new(OtherSpec(change));
    [
        (
            "breaks_the_order_of_keys",
            spec(|spec| spec.order = Order::Free),
            &[
                ("order_other_keys_flow", r#"found ["2", "x"]"#),
                ("history_of_steady_members", "KeyOrder is broken"),
            ],
        ),
        (
            "begins_elsewhere",
            spec(|spec| spec.start = Start::Earliest),
            &[
                ("group_starts_at_latest", "found 5, wanted 0"),
                ("group_starts_at_last", r#"found ["a", "b"]"#),
                ("group_starts_at_position", r#"found ["a", "b", "c", "d"]"#),
            ],
        ),
        (
            "tries_for_ever",
            spec(|spec| spec.max_attempts = u32::MAX),
            &[
                ("retry_reaches_the_limit", "dead letters: found 0, wanted 1"),
                (
                    "retry_attempts_survive_reopen",
                    "dead letters: found 0, wanted 1",
                ),
            ],
        ),
        (
            "has_no_gap",
            spec(|spec| spec.gap = 1 << 40),
            &[
                ("group_gap_is_bounded", "the gap is 10"),
                ("order_parked_key_counts_in_the_gap", "nothing was to"),
            ],
        ),
        (
            "copies_no_dead_letter",
            spec(|spec| spec.dead_topic = None),
            &[
                ("dead_copied_to_a_topic", "copies: found 0, wanted 1"),
                ("dead_copied_when_attempts_end", "copies: found 0, wanted 1"),
            ],
        ),
        (
            "has_no_bound_of_dead_letters",
            spec(|spec| spec.max_dead = u64::MAX),
            &[("dead_bound_pauses", "nothing was to")],
        ),
    ]
}

fn groups() -> [Mutant; 7] {
    [
        (
            "delivers_twice",
            Arc::new(DeliversTwice),
            &[
                ("group_delivers_all_once", "was to be applied: Fenced"),
                ("history_of_steady_members", "is broken"),
            ],
        ),
        (
            "hands_back_by_itself",
            Arc::new(HandsBack),
            &[
                (
                    "assign_waits_for_the_hand_back",
                    "before it was handed back",
                ),
                (
                    "assign_settles_until_handed_back",
                    "was to be applied: Fenced",
                ),
            ],
        ),
        (
            "extends_what_is_lost",
            Arc::new(ExtendsAll),
            &[("lease_extended_too_late", "found [true, true, true]")],
        ),
        (
            "does_not_hold",
            Arc::new(HoldsNothing),
            &[("group_hold_and_resume", r#"found ["held"]"#)],
        ),
        (
            "moves_live_groups",
            Arc::new(MovesLiveGroups),
            &[(
                "seek_refused_while_live",
                "wanted Conflict, it was accepted",
            )],
        ),
        (
            "tells_another_lag",
            Arc::new(OtherLag),
            &[
                ("lag_in_messages", "found [2, 0], wanted [3, 1]"),
                ("settle_each", "lag after 1: found 8, wanted 9"),
                ("lag_in_age", "the group says Some(0ns)"),
            ],
        ),
        (
            "loses_completed_ranges",
            Arc::new(LosesRanges),
            &[(
                "settled_stays_settled_after_reopen",
                r#"wanted ["2", "3", "5", "8"]"#,
            )],
        ),
    ]
}

fn verdicts() -> [Mutant; 8] {
    let verdict = |change: fn(Verdict) -> Verdict| Arc::new(OtherVerdict(change));
    [
        (
            "drops_dead_letters",
            verdict(no_dead_letter),
            &[
                (
                    "dead_with_reason_and_origin",
                    "dead letters: found 0, wanted 1",
                ),
                ("dead_of_a_range", "dead letters: found []"),
                ("history_of_steady_members", "DeadLetters is broken"),
            ],
        ),
        (
            "retries_at_once",
            verdict(retry_at_once),
            &[("retry_is_never_early", "were asked for")],
        ),
        (
            "counts_no_attempts",
            verdict(uncounted),
            &[
                (
                    "retry_comes_back_with_its_reason",
                    "attempt: found 1, wanted 2",
                ),
                ("retry_reaches_the_limit", "attempt: found 1, wanted 2"),
            ],
        ),
        (
            "forgets_why",
            verdict(without_reason),
            &[
                (
                    "retry_comes_back_with_its_reason",
                    "reason of the attempt before 2: found None",
                ),
                ("retry_uncounted", r#"found None, wanted Some("busy")"#),
            ],
        ),
        (
            "counts_releases",
            verdict(counted_release),
            &[
                (
                    "release_spends_no_attempt",
                    r#"found [("a", 2), ("b", 2), ("c", 2)]"#,
                ),
                ("release_over_and_over", "nothing more"),
            ],
        ),
        (
            "settles_retries",
            verdict(settled_retry),
            &[
                ("lag_in_messages", "parked: found 0, wanted 1"),
                ("retry_for_ever_is_no_fault", "parked: found 0, wanted 2"),
                ("retry_does_not_block", "found (0, 0), wanted (1, 1)"),
            ],
        ),
        (
            "takes_answers",
            verdict(taken_answer),
            &[("unit_answer_is_refused", "was to be refused: Applied")],
        ),
        (
            "forgets_what_is_dropped",
            Arc::new(ForgetsDropped),
            &[("receipt_dropped_comes_back", "nothing more")],
        ),
    ]
}

/// In memory, but for the mutants that are caught by reopening.
fn mutant(name: &str, bend: Arc<dyn Bend>) -> Target {
    let reopens = [
        "loses_completed_ranges",
        "tries_for_ever",
        "forgets_changes",
        "skips_new_partitions",
    ]
    .contains(&name);
    Target::new("mutant", move || {
        let bend = bend.clone();
        async move {
            match reopens {
                true => place::harness(bend),
                false => place::memory(bend),
            }
        }
    })
    .patience(PATIENCE)
}
