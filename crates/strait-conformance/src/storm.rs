//! A storm of rebalances, for tests of engines that want more than the suite's histories.

use std::sync::Arc;
use std::time::Duration;

use strait_core::Engine;

use crate::cases::stress;
use crate::fault::Check;
use crate::lab::Lab;
use crate::target::Harness;

/// Ten members come and go, die, and go on as zombies, while four producers append for `lasts`; one message in ten fails. Then all
/// is handled, and the history is held against what is stored: nothing is lost, every message ends once, effects stand once and
/// none is a zombie's, keys keep their order, attempts are counted, and no partition goes further than the group's gap.
///
/// `engines` are on one store; members take them in turn. They stay open. `patience` is how long to wait for what must come. Gives
/// in a line what there was of everything.
///
/// # Errors
///
/// The first broken promise, or what the engine answered. Engines that refuse keys in order, parking, dead letters, atomic effects
/// or fencing have nothing to show here.
pub async fn storm(
    engines: &[Arc<dyn Engine>],
    seed: u64,
    lasts: Duration,
    patience: Duration,
) -> Check<String> {
    let lab = |engine: &Arc<dyn Engine>| Lab::of(Harness::new(engine.clone()), "storm", patience);
    let labs = engines.iter().map(lab).collect::<Check<Vec<_>>>()?;
    stress::storm(labs, seed, lasts).await
}
