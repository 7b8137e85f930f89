//! Mutants of what operators do to groups, of what follows a dead letter, and of why a partition stands.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use strait_core::events::{
    AfterDead, DeadFilter, GroupChange, GroupInfo, GroupSpec, Override, RemoveDead, Seek, Standing,
    Start, StuckOn, Waits, Whereabouts,
};
use strait_core::{Arrival, Consumer, Control, Fut, Name, Position, Result};

use crate::bent::{Bend, True};
use crate::mutants::Mutant;

/// Another change than the one that was asked for.
#[derive(Debug)]
struct OtherChange(fn(GroupChange) -> GroupChange);

impl Bend for OtherChange {
    fn alter_group(
        &self,
        to: &True,
        group: Name,
        topic: Name,
        change: GroupChange,
    ) -> Fut<Result<GroupInfo>> {
        to.events.alter_group(group, topic, (self.0)(change))
    }
}

fn pauses_nobody(change: GroupChange) -> GroupChange {
    GroupChange {
        pause: Override::Keep,
        ..change
    }
}

fn resumes_nobody(change: GroupChange) -> GroupChange {
    match change.pause {
        Override::Lift => pauses_nobody(change),
        _ => change,
    }
}

fn makes_up_a_reason(mut change: GroupChange) -> GroupChange {
    if let Override::Set(reason) = &mut change.pause {
        *reason = "because".into();
    }
    change
}

fn lifts_nothing(mut change: GroupChange) -> GroupChange {
    if change.max_attempts == Override::Lift {
        change.max_attempts = Override::Keep;
    }
    if change.gap == Override::Lift {
        change.gap = Override::Keep;
    }
    change
}

fn lets_no_key_go(change: GroupChange) -> GroupChange {
    GroupChange {
        after_dead: Override::Keep,
        ..change
    }
}

fn mends_what_is_wrong(mut change: GroupChange) -> GroupChange {
    if change.max_attempts == Override::Set(0) {
        change.max_attempts = Override::Set(1);
    }
    if change.gap == Override::Set(0) {
        change.gap = Override::Set(1);
    }
    lets_no_key_go(change)
}

/// Forgets what operators set when it is opened again.
#[derive(Debug)]
struct ForgetsChanges;

impl Bend for ForgetsChanges {
    fn reopened(&self, to: &True) -> Fut<Result<()>> {
        let to = to.clone();
        Box::pin(async move {
            for info in to.events.groups().await? {
                lift_all(&to, info.group, info.topic).await?;
            }
            Ok(())
        })
    }
}

/// What a member declares takes the place of what an operator set.
#[derive(Debug)]
struct MembersDecide;

impl Bend for MembersDecide {
    fn join(&self, to: &True, spec: GroupSpec) -> Fut<Result<Consumer>> {
        let to = to.clone();
        Box::pin(async move {
            let (group, topic) = (spec.group.clone(), spec.topic.clone());
            let consumer = to.events.join(spec).await?;
            lift_all(&to, group, topic).await?;
            Ok(consumer)
        })
    }
}

async fn lift_all(to: &True, group: Name, topic: Name) -> Result<()> {
    let change = GroupChange {
        max_attempts: Override::Lift,
        max_dead: Override::Lift,
        gap: Override::Lift,
        after_dead: Override::Lift,
        pause: Override::Lift,
    };
    to.events.alter_group(group, topic, change).await.map(drop)
}

/// Lets keys go on after a dead letter.
#[derive(Debug)]
struct HoldsNoKey;

impl Bend for HoldsNoKey {
    fn join(&self, to: &True, mut spec: GroupSpec) -> Fut<Result<Consumer>> {
        spec.after_dead = AfterDead::Continue;
        to.events.join(spec)
    }
}

/// Holds keys whatever is declared.
#[derive(Debug)]
struct HoldsEveryKey;

impl Bend for HoldsEveryKey {
    fn join(&self, to: &True, mut spec: GroupSpec) -> Fut<Result<Consumer>> {
        spec.after_dead = AfterDead::HoldKey;
        to.events.join(spec)
    }
}

/// Lets no key go whose dead letter is removed: what comes after the removal stays where no member sees it.
#[derive(Debug, Default)]
struct HoldsForEver {
    removed: AtomicBool,
    kept: Mutex<Vec<Arrival>>,
}

impl Bend for HoldsForEver {
    fn remove(&self, remove: RemoveDead) -> RemoveDead {
        self.removed.fetch_or(!remove.dry_run, Ordering::SeqCst);
        remove
    }
    fn arrival(&self, _control: &Arc<dyn Control>, arrival: Arrival) -> Vec<Arrival> {
        if !self.removed.load(Ordering::SeqCst) {
            return vec![arrival];
        }
        self.kept.lock().expect("no panic").push(arrival);
        Vec::new()
    }
}

/// Lets keys go when a removal of their dead letters is only tried.
#[derive(Debug)]
struct LetsGoTooEarly;

impl Bend for LetsGoTooEarly {
    fn remove(&self, remove: RemoveDead) -> RemoveDead {
        RemoveDead {
            dry_run: false,
            filter: DeadFilter::default(),
            ..remove
        }
    }
}

/// Says something else about a group.
#[derive(Debug)]
struct SaysOtherwise(fn(&mut GroupInfo));

impl Bend for SaysOtherwise {
    fn group(&self, mut info: GroupInfo) -> GroupInfo {
        (self.0)(&mut info);
        info
    }
}

fn waits_for_nothing(info: &mut GroupInfo) {
    info.shards.iter_mut().for_each(|shard| shard.waits = None);
}

fn names_no_key(info: &mut GroupInfo) {
    for shard in &mut info.shards {
        if let Some(Waits::Gap(stuck)) = &mut shard.waits {
            stuck.key = None;
        }
    }
}

fn always_its_turn(info: &mut GroupInfo) {
    for shard in &mut info.shards {
        if let Some(Waits::Gap(stuck)) = &mut shard.waits {
            stuck.on = StuckOn::Turn;
        }
    }
}

fn holds_no_key_it_says(info: &mut GroupInfo) {
    info.shards.iter_mut().for_each(|shard| shard.held_keys = 0);
}

/// Groups that were away begin partitions that are new to them at the end.
#[derive(Debug)]
struct SkipsNewPartitions;

impl Bend for SkipsNewPartitions {
    fn reopened(&self, to: &True) -> Fut<Result<()>> {
        let to = to.clone();
        Box::pin(async move {
            for info in to.events.groups().await? {
                to.events
                    .seek(Seek {
                        group: info.group,
                        topic: info.topic,
                        partition: 1,
                        to: Start::Latest,
                        force: true,
                    })
                    .await?;
            }
            Ok(())
        })
    }
}

/// Says something else of where a message is.
#[derive(Debug)]
struct SaysElsewhere(fn(&mut Whereabouts));

impl Bend for SaysElsewhere {
    fn whereabouts(&self, mut found: Whereabouts) -> Whereabouts {
        (self.0)(&mut found);
        found
    }
}

fn in_another_batch(found: &mut Whereabouts) {
    if let Some(stored) = &mut found.stored {
        stored.first = Position::at(0);
        stored.count = 1;
    }
}

fn all_settled(found: &mut Whereabouts) {
    for (_, standing) in &mut found.groups {
        *standing = Standing::Settled;
    }
}

pub(crate) fn mutants() -> Vec<Mutant> {
    let change = |change: fn(GroupChange) -> GroupChange| Arc::new(OtherChange(change));
    let says = |otherwise: fn(&mut GroupInfo)| Arc::new(SaysOtherwise(otherwise));
    vec![
        (
            "names_another_place",
            Arc::new(SaysElsewhere(in_another_batch)),
            &[("where_stored", "is said to be in a batch")],
        ),
        (
            "calls_all_settled",
            Arc::new(SaysElsewhere(all_settled)),
            &[
                ("where_with_a_group", "is not unsettled"),
                ("where_behind_its_key", "it is Settled"),
            ],
        ),
        (
            "pauses_nobody",
            change(pauses_nobody),
            &[
                ("pause_gives_nothing_new", "the reason: found None"),
                ("pause_lets_what_is_out_end", "nothing was to"),
                ("pause_holds_back_what_comes_again", "nothing was to"),
                ("pause_of_a_member_that_joins", "nothing was to"),
            ],
        ),
        (
            "resumes_nobody",
            change(resumes_nobody),
            &[
                ("pause_gives_nothing_new", "pause after it"),
                ("pause_twice", "pause after it"),
            ],
        ),
        (
            "makes_up_a_reason",
            change(makes_up_a_reason),
            &[
                ("pause_gives_nothing_new", r#"found Some("because")"#),
                ("pause_refused", "it was accepted"),
            ],
        ),
        (
            "lifts_nothing",
            change(lifts_nothing),
            &[
                ("alter_max_attempts", "nothing more"),
                ("alter_gap", "nothing more"),
                ("alter_holds_over_members", "after it was lifted"),
            ],
        ),
        (
            "mends_what_is_wrong",
            change(mends_what_is_wrong),
            &[("alter_refused", "it was accepted")],
        ),
        (
            "lets_no_key_go",
            change(lets_no_key_go),
            &[("hold_key_let_go_by_an_operator", "its rule")],
        ),
        (
            "forgets_changes",
            Arc::new(ForgetsChanges),
            &[
                ("pause_survives_reopen", "nothing was to"),
                ("alter_survives_reopen", "what was set"),
            ],
        ),
        (
            "lets_members_decide",
            Arc::new(MembersDecide),
            &[
                ("alter_holds_over_members", "found (70, 90, 3)"),
                ("pause_of_a_member_that_joins", "nothing was to"),
            ],
        ),
        (
            "holds_no_key",
            Arc::new(HoldsNoKey),
            &[
                ("hold_key_others_flow", "nothing was to"),
                ("hold_key_dies_again", "was to"),
                ("hold_key_when_attempts_end", "nothing was to"),
                ("hold_key_through_a_move", "what flows"),
                ("hold_key_refused_without_order", "it was accepted"),
            ],
        ),
        (
            "holds_every_key",
            Arc::new(HoldsEveryKey),
            &[("hold_key_not_without_it", "nothing more")],
        ),
        (
            "holds_a_key_for_ever",
            Arc::new(HoldsForEver::default()),
            &[(
                "hold_key_removed_goes_on",
                "2 deliveries wanted, got []: the consumer yields nothing more",
            )],
        ),
        (
            "lets_keys_go_too_early",
            Arc::new(LetsGoTooEarly),
            &[
                ("hold_key_removed_goes_on", "`2` was delivered"),
                ("hold_key_removed_one_of_two", "`3` was delivered"),
            ],
        ),
        (
            "waits_for_nothing",
            says(waits_for_nothing),
            &[
                ("waits_for_a_member", "waits: found None"),
                ("waits_for_what_is_out", "was to stand at its gap"),
                ("waits_for_dead_letters", "waits: found None"),
                ("hold_key_at_the_gap", "was to stand at its gap"),
            ],
        ),
        (
            "names_no_key",
            says(names_no_key),
            &[
                ("waits_for_a_retry", "its key: found None"),
                ("hold_key_at_the_gap", "its key: found None"),
            ],
        ),
        (
            "always_its_turn",
            says(always_its_turn),
            &[
                ("waits_for_what_is_out", "found Turn"),
                ("waits_for_a_retry", "it waits for its retry"),
                ("hold_key_at_the_gap", "found Turn"),
            ],
        ),
        (
            "tells_of_no_held_key",
            says(holds_no_key_it_says),
            &[("hold_key_others_flow", "held keys: found 0, wanted 1")],
        ),
        (
            "skips_new_partitions",
            Arc::new(SkipsNewPartitions),
            &[("partitions_added_are_read_from_their_start", "nothing more")],
        ),
    ]
}
