//! The cases of the events lane, by area. Each is one sentence of the contract, written above it.

use std::future::Future;
use std::pin::Pin;

use strait_core::Offer;
use strait_core::events::Caps;

use crate::fault::Check;
use crate::lab::Lab;
use crate::target::Harness;

mod append;
mod aside;
mod assignment;
mod closing;
mod compaction;
mod dead;
mod dead_work;
mod dedupe;
mod expected;
mod groups;
mod hold;
mod leases;
mod ledger;
mod operate;
mod order;
mod progress;
mod read;
mod redrive;
mod refused;
mod retries;
mod steer;
mod storage;
pub(crate) mod stress;
mod topics;
mod units;
mod whereabouts;

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    let of_groups = [
        groups::cases(),
        progress::cases(),
        assignment::cases(),
        leases::cases(),
        retries::cases(),
        order::cases(),
        dead::cases(),
        dead_work::cases(),
        redrive::cases(),
        aside::cases(),
        hold::cases(),
        steer::cases(),
        operate::cases(),
        units::cases(),
        stress::cases(),
    ];
    let of_groups = of_groups.into_iter().flatten();
    [
        append::cases(),
        read::cases(),
        topics::cases(),
        compaction::cases(),
        dedupe::cases(),
        expected::cases(),
        whereabouts::cases(),
        storage::cases(),
        ledger::cases(),
        closing::cases(),
        refused::cases(),
    ]
    .into_iter()
    .flatten()
    .chain(of_groups.map(|case| case.needs(Need::Groups)))
    .collect()
}

type Run = Box<dyn Fn(Lab) -> Pin<Box<dyn Future<Output = Check>>> + Send + Sync>;

/// One case.
pub(crate) struct Case {
    /// Its name, the same for every engine.
    pub(crate) name: &'static str,
    /// What the engine must offer for it.
    needs: Vec<Need>,
    /// What the target must be able to do with the whole engine.
    hooks: Vec<Hook>,
    /// What the engine must refuse for it: a reverse case.
    refuses: Option<Need>,
    /// Runs it.
    pub(crate) run: Run,
}

/// A case from its function.
fn case<F, R>(name: &'static str, run: F) -> Case
where
    F: Fn(Lab) -> R + Send + Sync + 'static,
    R: Future<Output = Check> + 'static,
{
    Case {
        name,
        needs: Vec::new(),
        hooks: Vec::new(),
        refuses: None,
        run: Box::new(move |lab| Box::pin(run(lab))),
    }
}

impl Case {
    /// Left out where the engine refuses this.
    fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }

    /// Left out where the target cannot be reopened.
    fn reopens(mut self) -> Self {
        self.hooks.push(Hook::Reopen);
        self
    }

    /// Left out where the target cannot be killed.
    fn kills(mut self) -> Self {
        self.hooks.push(Hook::Kill);
        self
    }

    /// Left out where the engine offers this.
    fn where_refused(mut self, need: Need) -> Self {
        self.refuses = Some(need);
        self
    }

    /// True for a reverse case of what the engine offers: there is nothing to ask.
    pub(crate) fn is_void(&self, caps: &Caps) -> bool {
        self.refuses.is_some_and(|need| need.offer(caps).is_there())
    }

    /// Why the case does not apply to an engine; `None`: it does.
    pub(crate) fn left_out(&self, caps: &Caps, harness: &Harness) -> Option<String> {
        let refused = |need: &&Need| !need.offer(caps).is_there();
        if let Some(need) = self.needs.iter().find(refused) {
            return Some(format!("{need:?} is refused"));
        }
        let missing = |hook: &&Hook| match hook {
            Hook::Reopen => harness.reopen.is_none(),
            Hook::Kill => harness.kill.is_none(),
        };
        let hook = self.hooks.iter().find(missing)?;
        Some(format!("the target has no hook for {hook:?}"))
    }
}

/// A hook of [`Harness`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Reopen,
    Kill,
}

/// A feature of [`Caps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    DenseOffsets,
    AtomicBatches,
    StoredBytes,
    Groups,
    Whereabouts,
    KeyOrder,
    ByTime,
    ByKey,
    ExpectedPosition,
    ExpectedKeyVersion,
    Dedupe,
    AtomicEffects,
    Ledger,
    Fencing,
    LeaseExtension,
    Parking,
    DeadLetters,
    Redrive,
    EditDead,
    SetAside,
    HoldKey,
    AlterGroup,
    CompletedRanges,
    RetentionAge,
    RetentionBytes,
    Compaction,
}

impl Need {
    fn offer(self, caps: &Caps) -> Offer {
        match self {
            Need::DenseOffsets => caps.dense_offsets,
            Need::AtomicBatches => caps.atomic_batches,
            Need::StoredBytes => caps.stored_bytes,
            Need::Groups => caps.groups,
            Need::Whereabouts => caps.whereabouts,
            Need::KeyOrder => caps.key_order,
            Need::ByTime => caps.by_time,
            Need::ByKey => caps.by_key,
            Need::ExpectedPosition => caps.expected_position,
            Need::ExpectedKeyVersion => caps.expected_key_version,
            Need::Dedupe => caps.dedupe,
            Need::AtomicEffects => caps.atomic_effects,
            Need::Ledger => caps.ledger,
            Need::Fencing => caps.fencing,
            Need::LeaseExtension => caps.lease_extension,
            Need::Parking => caps.parking,
            Need::DeadLetters => caps.dead_letters,
            Need::Redrive => caps.redrive,
            Need::EditDead => caps.edit_dead,
            Need::SetAside => caps.set_aside,
            Need::HoldKey => caps.hold_key,
            Need::AlterGroup => caps.alter_group,
            Need::CompletedRanges => caps.completed_ranges,
            Need::RetentionAge => caps.retention_age,
            Need::RetentionBytes => caps.retention_bytes,
            Need::Compaction => caps.compaction,
        }
    }
}
