//! Mutants: engines that break one promise each. A suite that lets one pass would be no proof of anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use strait_conformance::{Suite, Target, run_event_case};
use strait_core::events::{Append, Caps, Expected, GroupInfo, GroupSpec, Order, Seek, Start};
use strait_core::{
    Arrival, Claim, ClaimToken, Claimed, Control, Fut, Name, Offer, Outcome, Outgoing, Position,
    Receipt, Result, Sent, Unit, Verdict,
};

use crate::bent::{Bend, True};
use crate::place;

/// Each mutant with the cases that must catch it.
pub(crate) fn add_to(suite: Suite) -> Suite {
    let mut suite = suite;
    for (name, bend, caught_by) in all() {
        suite = suite.test(format!("mutant::{name}"), move || {
            let target = mutant(bend);
            for case in caught_by {
                match run_event_case(&target, case) {
                    Err(fault) if !fault.is_skip() => eprintln!(
                        "WHY {name} | {case} | {}",
                        fault
                            .to_string()
                            .replace("\n", " / ")
                            .chars()
                            .take(230)
                            .collect::<String>()
                    ),
                    Err(fault) => return Err(format!("`{case}` was not shown: {fault}")),
                    Ok(()) => return Err(format!("`{case}` lets the mutant pass")),
                }
            }
            Ok(())
        });
    }
    suite
}

/// A mutant may lose what a case waits for: it is not waited for long.
const PATIENCE: Duration = Duration::from_secs(2);

type Mutant = (&'static str, Arc<dyn Bend>, &'static [&'static str]);

fn all() -> Vec<Mutant> {
    let log: [Mutant; 8] = [
        (
            "loses_an_acknowledged_append",
            Arc::new(LosesAppends(AtomicU32::new(0))),
            &["append_concurrent", "history_of_steady_members"],
        ),
        (
            "answers_other_positions",
            Arc::new(OtherPositions),
            &[
                "append_positions_grow",
                "append_one",
                "history_of_steady_members",
            ],
        ),
        (
            "ignores_what_is_expected",
            Arc::new(IgnoresExpected),
            &["expected_position", "expected_key_version_concurrent"],
        ),
        (
            "forgets_known_ids",
            Arc::new(ForgetsIds),
            &["dedupe_one", "dedupe_batch_by_ids", "dedupe_concurrent"],
        ),
        (
            "reads_from_the_beginning",
            Arc::new(ReadsFromStart),
            &["read_from_the_middle", "read_at_end_waits"],
        ),
        ("locates_no_time", Arc::new(LocatesNoTime), &["locate_time"]),
        (
            "does_not_close",
            Arc::new(NeverCloses),
            &["close_refuses_later_calls", "close_shows_in_health"],
        ),
        (
            "accepts_what_it_refuses",
            Arc::new(AcceptsInSilence),
            &[
                "refused_key_order",
                "refused_by_time",
                "refused_by_key",
                "refused_expected_position",
                "refused_key_versions",
                "refused_dedupe",
                "refused_atomic_effects",
                "refused_ledger",
                "refused_under",
                "refused_lease_extension",
                "refused_retry",
                "refused_dead_letters",
                "refused_retention_age",
                "refused_retention_bytes",
            ],
        ),
    ];
    log.into_iter()
        .chain(units())
        .chain(groups())
        .chain(verdicts())
        .collect()
}

fn units() -> [Mutant; 7] {
    [
        (
            "applies_a_fenced_unit",
            Arc::new(AppliesFenced),
            &[
                "fenced_unit_has_no_effects",
                "under_a_lost_receipt",
                "history_of_members_that_die",
            ],
        ),
        (
            "settles_apart_from_its_effects",
            Arc::new(SettlesApart),
            &["unit_refused_changes_nothing", "dead_not_applied"],
        ),
        (
            "sends_when_seen",
            Arc::new(SendsWhenSeen),
            &["once_seen_settles_and_sends_nothing"],
        ),
        (
            "ignores_under",
            Arc::new(IgnoresUnder),
            &["under_a_lost_receipt"],
        ),
        (
            "mixes_outcomes",
            Arc::new(MixesOutcomes),
            &["units_in_order"],
        ),
        (
            "drops_a_commit_with_its_future",
            Arc::new(CommitsLate),
            &["unit_dropped_runs_to_its_end"],
        ),
        (
            "grants_a_claim_twice",
            Arc::new(GrantsTwice),
            &["claim_runs_once", "claim_concurrent", "claim_scopes"],
        ),
    ]
}

fn groups() -> [Mutant; 13] {
    let spec = |change: fn(&mut GroupSpec)| Arc::new(OtherSpec(change));
    [
        (
            "delivers_twice",
            Arc::new(DeliversTwice),
            &["group_delivers_all_once", "history_of_steady_members"],
        ),
        (
            "breaks_the_order_of_keys",
            spec(|spec| spec.order = Order::Free),
            &[
                "order_later_appends_wait",
                "order_through_a_move",
                "history_of_steady_members",
            ],
        ),
        (
            "begins_elsewhere",
            spec(|spec| spec.start = Start::Earliest),
            &[
                "group_starts_at_latest",
                "group_starts_at_last",
                "group_starts_at_position",
            ],
        ),
        (
            "tries_for_ever",
            spec(|spec| spec.max_attempts = u32::MAX),
            &["retry_reaches_the_limit", "retry_attempts_survive_reopen"],
        ),
        (
            "has_no_gap",
            spec(|spec| spec.gap = 1 << 40),
            &["group_gap_is_bounded", "order_parked_key_counts_in_the_gap"],
        ),
        (
            "copies_no_dead_letter",
            spec(|spec| spec.dead_topic = None),
            &["dead_copied_to_a_topic", "dead_copied_when_attempts_end"],
        ),
        (
            "has_no_bound_of_dead_letters",
            spec(|spec| spec.max_dead = u64::MAX),
            &["dead_bound_pauses"],
        ),
        (
            "hands_back_by_itself",
            Arc::new(HandsBack),
            &[
                "assign_waits_for_the_hand_back",
                "assign_settles_until_handed_back",
            ],
        ),
        (
            "extends_what_is_lost",
            Arc::new(ExtendsAll),
            &["lease_extended_too_late"],
        ),
        (
            "does_not_hold",
            Arc::new(HoldsNothing),
            &["group_hold_and_resume"],
        ),
        (
            "moves_live_groups",
            Arc::new(MovesLiveGroups),
            &["seek_refused_while_live"],
        ),
        (
            "tells_another_lag",
            Arc::new(OtherLag),
            &["lag_in_messages", "settle_each", "lag_in_age"],
        ),
        (
            "loses_completed_ranges",
            Arc::new(LosesRanges),
            &["settled_stays_settled_after_reopen"],
        ),
    ]
}

fn verdicts() -> [Mutant; 8] {
    let verdict = |change: fn(Verdict) -> Verdict| Arc::new(OtherVerdict(change));
    [
        (
            "drops_dead_letters",
            verdict(|verdict| match verdict {
                Verdict::Dead(_) => Verdict::Done,
                other => other,
            }),
            &[
                "dead_with_reason_and_origin",
                "dead_of_a_range",
                "history_of_steady_members",
            ],
        ),
        (
            "retries_at_once",
            verdict(|verdict| match verdict {
                Verdict::Retry { reason, counts, .. } => Verdict::Retry {
                    after: Duration::ZERO,
                    reason,
                    counts,
                },
                other => other,
            }),
            &["retry_is_never_early", "retry_survives_leaving"],
        ),
        (
            "counts_no_attempts",
            verdict(|verdict| match verdict {
                Verdict::Retry { after, reason, .. } => Verdict::Retry {
                    after,
                    reason,
                    counts: false,
                },
                other => other,
            }),
            &[
                "retry_comes_back_with_its_reason",
                "retry_reaches_the_limit",
            ],
        ),
        (
            "forgets_why",
            verdict(|verdict| match verdict {
                Verdict::Retry { after, counts, .. } => Verdict::Retry {
                    after,
                    reason: "".into(),
                    counts,
                },
                other => other,
            }),
            &["retry_comes_back_with_its_reason", "retry_uncounted"],
        ),
        (
            "counts_releases",
            verdict(|verdict| match verdict {
                Verdict::Release => Verdict::Retry {
                    after: Duration::ZERO,
                    reason: "released".into(),
                    counts: true,
                },
                other => other,
            }),
            &["release_spends_no_attempt", "release_over_and_over"],
        ),
        (
            "settles_retries",
            verdict(|verdict| match verdict {
                Verdict::Retry { .. } => Verdict::Done,
                other => other,
            }),
            &[
                "lag_in_messages",
                "retry_for_ever_is_no_fault",
                "retry_does_not_block",
            ],
        ),
        (
            "takes_answers",
            verdict(|verdict| match verdict {
                Verdict::Answer(_) => Verdict::Done,
                other => other,
            }),
            &["unit_answer_is_refused"],
        ),
        (
            "forgets_what_is_dropped",
            Arc::new(ForgetsDropped),
            &["receipt_dropped_comes_back"],
        ),
    ]
}

fn mutant(bend: Arc<dyn Bend>) -> Target {
    Target::new("mutant", move || {
        let bend = bend.clone();
        async move { place::harness(bend) }
    })
    .patience(PATIENCE)
}

#[derive(Debug)]
struct LosesAppends(AtomicU32);

impl Bend for LosesAppends {
    fn append(&self, to: &True, append: Append) -> Fut<Result<Sent>> {
        if self.0.fetch_add(1, Ordering::Relaxed) % 7 != 6 {
            return to.events.append(append);
        }
        let asked = to.events.topic(append.topic.clone());
        Box::pin(async move {
            let topic = asked.await?;
            Ok(Sent {
                partition: append.partition,
                first: topic.partitions[append.partition as usize].end,
                count: append.records.len() as u32,
                duplicate: false,
            })
        })
    }
}

#[derive(Debug)]
struct OtherPositions;

impl Bend for OtherPositions {
    fn append(&self, to: &True, append: Append) -> Fut<Result<Sent>> {
        let sent = to.events.append(append);
        Box::pin(async move {
            let sent = sent.await?;
            let first = Position::at(sent.first.offset() ^ 1);
            Ok(Sent { first, ..sent })
        })
    }
}

#[derive(Debug)]
struct IgnoresExpected;

impl Bend for IgnoresExpected {
    fn append(&self, to: &True, append: Append) -> Fut<Result<Sent>> {
        to.events.append(Append {
            expected: Expected::Any,
            ..append
        })
    }
}

#[derive(Debug)]
struct ForgetsIds;

impl Bend for ForgetsIds {
    fn append(&self, to: &True, append: Append) -> Fut<Result<Sent>> {
        to.events.append(Append {
            dedupe: false,
            ..append
        })
    }
}

#[derive(Debug)]
struct ReadsFromStart;

impl Bend for ReadsFromStart {
    fn read(
        &self,
        to: &True,
        mut cursor: strait_core::events::Cursor,
        max_bytes: usize,
    ) -> Fut<Result<strait_core::Chunk>> {
        cursor.position = Position::default();
        to.events.read(cursor, max_bytes)
    }
}

#[derive(Debug)]
struct LocatesNoTime;

impl Bend for LocatesNoTime {
    fn locate(
        &self,
        to: &True,
        topic: Name,
        partition: u32,
        start: Start,
    ) -> Fut<Result<Position>> {
        let start = match start {
            Start::Time(_) => Start::Earliest,
            other => other,
        };
        to.events.locate(topic, partition, start)
    }
}

#[derive(Debug)]
struct NeverCloses;

impl Bend for NeverCloses {
    fn close(&self, _to: &True, _grace: Duration) -> Fut<()> {
        Box::pin(std::future::ready(()))
    }
}

/// Says that it cannot do a thing, and does it all the same.
#[derive(Debug)]
struct AcceptsInSilence;

impl Bend for AcceptsInSilence {
    fn caps(&self, caps: Caps) -> Caps {
        let no = Offer::Refused("nothing");
        Caps {
            by_time: no,
            by_key: no,
            expected_position: no,
            expected_key_version: no,
            dedupe: no,
            atomic_effects: no,
            ledger: no,
            lease_extension: no,
            parking: no,
            dead_letters: no,
            retention_age: no,
            retention_bytes: no,
            ..caps
        }
    }
}

/// Lets the effects of a fenced unit out.
#[derive(Debug)]
struct AppliesFenced;

impl Bend for AppliesFenced {
    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let sends: Vec<Vec<Outgoing>> = units.iter().map(|unit| unit.send.clone()).collect();
        let to = to.clone();
        Box::pin(async move {
            let outcomes = to.engine.commit(units).await;
            for (outcome, send) in outcomes.iter().zip(sends) {
                if matches!(outcome, Outcome::Fenced) && !send.is_empty() {
                    let unit = Unit {
                        send,
                        ..Unit::default()
                    };
                    to.engine.commit(vec![unit]).await;
                }
            }
            outcomes
        })
    }
}

/// Settles first, and sends afterwards what can be sent.
#[derive(Debug)]
struct SettlesApart;

impl Bend for SettlesApart {
    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let to = to.clone();
        Box::pin(async move {
            let mut outcomes = Vec::new();
            for mut unit in units {
                let send = std::mem::take(&mut unit.send);
                outcomes.extend(to.engine.commit(vec![unit]).await);
                for outgoing in send {
                    let sent = to.engine.commit(vec![Unit::send(outgoing)]).await;
                    if sent.iter().any(|sent| !matches!(sent, Outcome::Applied(_))) {
                        outcomes.pop();
                        outcomes.extend(sent);
                    }
                }
            }
            outcomes
        })
    }
}

/// Sends what a repeated unit was not to send.
#[derive(Debug)]
struct SendsWhenSeen;

impl Bend for SendsWhenSeen {
    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let sends: Vec<Vec<Outgoing>> = units.iter().map(|unit| unit.send.clone()).collect();
        let to = to.clone();
        Box::pin(async move {
            let outcomes = to.engine.commit(units).await;
            for (outcome, send) in outcomes.iter().zip(sends) {
                if matches!(outcome, Outcome::Seen(_)) {
                    let unit = Unit {
                        send,
                        ..Unit::default()
                    };
                    to.engine.commit(vec![unit]).await;
                }
            }
            outcomes
        })
    }
}

#[derive(Debug)]
struct IgnoresUnder;

impl Bend for IgnoresUnder {
    fn commit(&self, to: &True, mut units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        units.iter_mut().for_each(|unit| unit.under = None);
        to.engine.commit(units)
    }
}

#[derive(Debug)]
struct MixesOutcomes;

impl Bend for MixesOutcomes {
    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let outcomes = to.engine.commit(units);
        Box::pin(async move {
            let mut outcomes = outcomes.await;
            outcomes.reverse();
            outcomes
        })
    }
}

/// Hands the units over with the second poll.
#[derive(Debug)]
struct CommitsLate;

impl Bend for CommitsLate {
    fn commit(&self, to: &True, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let to = to.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            to.engine.commit(units).await
        })
    }
}

#[derive(Debug)]
struct GrantsTwice;

impl Bend for GrantsTwice {
    fn claim(&self, to: &True, claim: Claim) -> Fut<Result<Claimed>> {
        let claimed = to.engine.claim(claim);
        Box::pin(async move {
            Ok(match claimed.await? {
                Claimed::Wait => Claimed::Run(ClaimToken(u64::MAX)),
                other => other,
            })
        })
    }
}

/// A copy of a receipt, which no contract allows.
fn copy(receipt: &Receipt) -> Receipt {
    Receipt::new(receipt.fence(), None)
}

#[derive(Debug)]
struct DeliversTwice;

impl Bend for DeliversTwice {
    fn arrival(&self, _control: &Arc<dyn Control>, arrival: Arrival) -> Vec<Arrival> {
        match arrival {
            Arrival::Run(chunk, receipt) => {
                let again = Arrival::Run(chunk.clone(), copy(&receipt));
                vec![Arrival::Run(chunk, receipt), again]
            }
            other => vec![other],
        }
    }
}

#[derive(Debug)]
struct OtherSpec(fn(&mut GroupSpec));

impl Bend for OtherSpec {
    fn spec(&self, mut spec: GroupSpec) -> GroupSpec {
        (self.0)(&mut spec);
        spec
    }
}

#[derive(Debug)]
struct OtherVerdict(fn(Verdict) -> Verdict);

impl Bend for OtherVerdict {
    fn commit(&self, to: &True, mut units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        for (_, verdict) in units.iter_mut().flat_map(|unit| &mut unit.settle) {
            *verdict = (self.0)(verdict.clone());
        }
        to.engine.commit(units)
    }
}

/// Does not wait for the old owner.
#[derive(Debug)]
struct HandsBack;

impl Bend for HandsBack {
    fn arrival(&self, control: &Arc<dyn Control>, arrival: Arrival) -> Vec<Arrival> {
        if let Arrival::Revoking(shard, _) = arrival {
            control.handed_back(shard);
        }
        vec![arrival]
    }
}

#[derive(Debug)]
struct ExtendsAll;

impl Bend for ExtendsAll {
    fn extended(&self, held: Vec<bool>) -> Vec<bool> {
        vec![true; held.len()]
    }
}

#[derive(Debug)]
struct HoldsNothing;

impl Bend for HoldsNothing {
    fn holds(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct MovesLiveGroups;

impl Bend for MovesLiveGroups {
    fn seek(&self, seek: Seek) -> Seek {
        Seek {
            force: true,
            ..seek
        }
    }
}

#[derive(Debug)]
struct OtherLag;

impl Bend for OtherLag {
    fn group(&self, mut info: GroupInfo) -> GroupInfo {
        for shard in &mut info.shards {
            shard.lag = shard.lag.saturating_sub(1);
            shard.oldest = Some(Duration::ZERO);
        }
        info
    }
}

/// Knows only the committed position after a reopen.
#[derive(Debug)]
struct LosesRanges;

impl Bend for LosesRanges {
    fn reopened(&self, to: &True) -> Fut<Result<()>> {
        let to = to.clone();
        Box::pin(async move {
            for info in to.events.groups().await? {
                for (partition, shard) in (0..).zip(&info.shards) {
                    let seek = Seek {
                        group: info.group.clone(),
                        topic: info.topic.clone(),
                        partition,
                        to: Start::At(shard.committed),
                        force: true,
                    };
                    to.events.seek(seek).await?;
                }
            }
            Ok(())
        })
    }
}

#[derive(Debug)]
struct ForgetsDropped;

impl Bend for ForgetsDropped {
    fn arrival(&self, _control: &Arc<dyn Control>, arrival: Arrival) -> Vec<Arrival> {
        vec![match arrival {
            Arrival::Run(chunk, receipt) => {
                Arrival::Run(chunk, Receipt::new(receipt.settle(), None))
            }
            Arrival::Each(mut deliveries) => {
                for delivery in &mut deliveries {
                    let fence = delivery.receipt.fence();
                    let own = std::mem::replace(&mut delivery.receipt, Receipt::new(fence, None));
                    own.settle();
                }
                Arrival::Each(deliveries)
            }
            other => other,
        }]
    }
}
