//! The idempotency ledger: claims, stored results, and work that must never run twice.

use std::time::Duration;

use bytes::Bytes;
use strait_core::{Claim, ClaimToken, Claimed, Once, OnceEnd, Outcome, Unit, Verdict};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Lab, must_be_fenced, outgoing};

const HOUR: Duration = Duration::from_secs(3_600);
const LEASE: Duration = Duration::from_millis(120);

pub(super) fn cases() -> Vec<Case> {
    [
        case("claim_runs_once", runs_once),
        case("claim_stored_result", stored_result),
        case("claim_waits", waits),
        case("claim_wakes_when_forgotten", wakes_when_forgotten),
        case("claim_forgotten", forgotten),
        case("claim_concurrent", concurrent),
        case("claim_scopes", scopes),
        case("claim_by_the_same_holder", same_holder),
        case("claim_lease_ends", lease_ends),
        case("claim_at_most_once", at_most_once),
        case("claim_at_most_once_after_forget", at_most_once_after_forget),
        case("claim_at_most_once_after_lease", at_most_once_after_lease),
        case("claim_key_too_long", key_too_long),
        case("claim_survives_reopen", survives_reopen).reopens(),
        case("claim_survives_kill", survives_kill).kills(),
        case("once_result_ends", result_ends),
        case("once_without_claim", without_claim),
        case("once_with_effects", with_effects).needs(Need::AtomicEffects),
        case("once_seen_settles_and_sends_nothing", seen_settles).needs(Need::AtomicEffects),
        case("once_fenced_changes_nothing", fenced_changes_nothing).needs(Need::AtomicEffects),
    ]
    .into_iter()
    .map(|case| case.needs(Need::Ledger))
    .collect()
}

/// Keys of this case alone.
#[derive(Clone)]
struct Desk {
    lab: Lab,
    scope: String,
}

impl Desk {
    fn new(lab: &Lab) -> Check<Self> {
        let scope = lab.name("scope")?.to_string();
        Ok(Desk {
            lab: lab.clone(),
            scope,
        })
    }

    fn claim(&self, key: &str, holder: &str) -> Claim {
        Claim {
            scope: self.scope.clone(),
            key: key.to_owned(),
            holder: holder.to_owned(),
            lease: HOUR,
            wait: Duration::ZERO,
            at_most_once: false,
        }
    }

    async fn ask(&self, claim: Claim) -> Check<Claimed> {
        Ok(self.lab.engine.claim(claim).await?)
    }

    /// Claims a key, which must be granted.
    async fn run(&self, key: &str, holder: &str) -> Check<ClaimToken> {
        granted(self.ask(self.claim(key, holder)).await?)
    }

    fn once(&self, key: &str, claim: Option<ClaimToken>, end: OnceEnd) -> Unit {
        Unit {
            once: Some(Once {
                scope: self.scope.clone(),
                key: key.to_owned(),
                claim,
                end,
            }),
            ..Unit::default()
        }
    }

    /// Ends a claim with a result, which must be applied.
    async fn store(&self, key: &str, claim: ClaimToken, result: &'static str) -> Check {
        let unit = self.once(key, Some(claim), stored(result));
        self.lab.apply(unit).await.map(drop)
    }
}

fn stored(result: &'static str) -> OnceEnd {
    OnceEnd::Store {
        result: Bytes::from_static(result.as_bytes()),
        ttl: HOUR,
    }
}

#[track_caller]
fn granted(claimed: Claimed) -> Check<ClaimToken> {
    match claimed {
        Claimed::Run(token) => Ok(token),
        other => Err(Fault::new(format!(
            "the claim was to be granted: {other:?}"
        ))),
    }
}

fn result(text: &'static str) -> Claimed {
    Claimed::Seen(Bytes::from_static(text.as_bytes()))
}

/// While one holder runs, another is told to wait.
async fn runs_once(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    desk.run("k", "one").await?;
    let other = desk.ask(desk.claim("k", "two")).await?;
    check_eq!(other, Claimed::Wait, "the claim of another holder");
    desk.run("k2", "two").await?;
    Ok(())
}

/// Once a result is stored, everybody sees it, the holder too, byte for byte.
async fn stored_result(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let bytes: Bytes = (0..=255).collect();
    for (key, stored) in [("k", bytes), ("empty", Bytes::new())] {
        let token = desk.run(key, "one").await?;
        let end = OnceEnd::Store {
            result: stored.clone(),
            ttl: HOUR,
        };
        lab.apply(desk.once(key, Some(token), end)).await?;
        for holder in ["two", "one"] {
            let seen = desk.ask(desk.claim(key, holder)).await?;
            check_eq!(seen, Claimed::Seen(stored.clone()), "the claim of {holder}");
        }
    }
    Ok(())
}

/// A claim that waits is answered with the result when it is stored.
async fn waits(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let token = desk.run("k", "one").await?;
    let mut claim = desk.claim("k", "two");
    claim.wait = lab.patience * 10;
    let waiting = tokio::spawn(lab.engine.claim(claim));
    tokio::task::yield_now().await;
    desk.store("k", token, "42").await?;
    let woken = tokio::time::timeout(lab.patience, waiting).await;
    let woken = woken.map_err(|_| Fault::new("the waiting claim slept on"))?;
    let woken = woken.map_err(Fault::new)??;
    check_eq!(woken, result("42"), "the waiting claim");
    let mut claim = desk.claim("other", "two");
    claim.wait = lab.patience * 10;
    granted(desk.ask(claim).await?)?;
    Ok(())
}

/// A claim that waits is granted when the first one is given back.
async fn wakes_when_forgotten(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let token = desk.run("k", "one").await?;
    let mut claim = desk.claim("k", "two");
    claim.wait = lab.patience * 10;
    let waiting = tokio::spawn(lab.engine.claim(claim));
    tokio::task::yield_now().await;
    lab.apply(desk.once("k", Some(token), OnceEnd::Forget))
        .await?;
    let woken = tokio::time::timeout(lab.patience, waiting).await;
    let woken = woken.map_err(|_| Fault::new("the waiting claim slept on"))?;
    let second = granted(woken.map_err(Fault::new)??)?;
    check!(second != token, "two claims have one token");
    Ok(())
}

/// A claim that is given back lets the next one run.
async fn forgotten(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let first = desk.run("k", "one").await?;
    lab.apply(desk.once("k", Some(first), OnceEnd::Forget))
        .await?;
    let second = desk.run("k", "two").await?;
    desk.store("k", second, "42").await?;
    let unit = desk.once("k", Some(first), OnceEnd::Forget);
    let late = lab.commit(unit).await?;
    check!(
        matches!(late, Outcome::Fenced | Outcome::Seen(_)),
        "the end of a claim that was given back: {late:?}"
    );
    let seen = desk.ask(desk.claim("k", "three")).await?;
    check_eq!(seen, result("42"), "the claim afterwards");
    Ok(())
}

/// Of concurrent claims of one key exactly one runs.
async fn concurrent(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    for round in 0..5 {
        let key = format!("k{round}");
        let mut claiming = tokio::task::JoinSet::new();
        for holder in 0..8 {
            claiming.spawn(lab.engine.claim(desk.claim(&key, &holder.to_string())));
        }
        let mut running = 0;
        while let Some(claimed) = claiming.join_next().await {
            match claimed.map_err(Fault::new)?? {
                Claimed::Run(_) => running += 1,
                Claimed::Wait => {}
                other => return Err(Fault::new(format!("a loser was told {other:?}"))),
            }
        }
        check_eq!(running, 1, "claims granted in round {round}");
    }
    Ok(())
}

/// Keys of different scopes are different keys.
async fn scopes(lab: Lab) -> Check {
    let (one, two) = (Desk::new(&lab)?, Desk::new(&lab)?);
    let token = one.run("k", "a").await?;
    two.run("k", "b").await?;
    one.store("k", token, "42").await?;
    let other = two.ask(two.claim("k", "c")).await?;
    check_eq!(other, Claimed::Wait, "the key of the other scope");
    Ok(())
}

/// The same holder gets its own claim again: its next attempt may run at once.
async fn same_holder(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    desk.run("k", "one").await?;
    let again = desk.run("k", "one").await?;
    let other = desk.ask(desk.claim("k", "two")).await?;
    check_eq!(other, Claimed::Wait, "the claim of another holder");
    desk.store("k", again, "42").await
}

/// After its lease a claim is void: another holder runs, and the first one's end is fenced.
async fn lease_ends(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let mut claim = desk.claim("k", "one");
    claim.lease = LEASE;
    let first = granted(desk.ask(claim).await?)?;
    lab.pass(LEASE * 2).await;
    let second = desk.run("k", "two").await?;
    check!(first != second, "two claims have one token");
    let late = desk.once("k", Some(first), stored("late"));
    must_be_fenced(lab.commit(late).await?)?;
    desk.store("k", second, "42").await?;
    let seen = desk.ask(desk.claim("k", "three")).await?;
    check_eq!(seen, result("42"), "the claim afterwards");
    Ok(())
}

/// Work that must never run twice: a run of the holder without a known end is reported, not granted again.
async fn at_most_once(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let mut claim = desk.claim("k", "one");
    claim.at_most_once = true;
    granted(desk.ask(claim.clone()).await?)?;
    let again = desk.ask(claim.clone()).await?;
    let Claimed::Unfinished(token) = again else {
        return Err(Fault::new(format!(
            "a second run was to be refused: {again:?}"
        )));
    };
    desk.store("k", token, "settled by hand").await?;
    let seen = desk.ask(claim).await?;
    check_eq!(seen, result("settled by hand"), "the claim afterwards");
    Ok(())
}

/// A known failure gives the claim back: then it may run again.
async fn at_most_once_after_forget(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let mut claim = desk.claim("k", "one");
    claim.at_most_once = true;
    let first = granted(desk.ask(claim.clone()).await?)?;
    lab.apply(desk.once("k", Some(first), OnceEnd::Forget))
        .await?;
    granted(desk.ask(claim).await?)?;
    Ok(())
}

/// The end of its lease does not make an unfinished run a known one.
async fn at_most_once_after_lease(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let mut claim = desk.claim("k", "one");
    claim.at_most_once = true;
    claim.lease = LEASE;
    granted(desk.ask(claim.clone()).await?)?;
    lab.pass(LEASE * 2).await;
    let again = desk.ask(claim).await?;
    check!(
        matches!(again, Claimed::Unfinished(_)),
        "a second run was to be refused: {again:?}"
    );
    Ok(())
}

/// A key of 1 KiB is taken, a longer one refused.
async fn key_too_long(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let longest = "x".repeat(1_024);
    desk.run(&longest, "one").await?;
    let longer = desk.claim(&"x".repeat(1_025), "one");
    check_refused!(
        lab.engine.claim(longer).await,
        Rejected,
        "a key of 1025 bytes"
    );
    Ok(())
}

/// Results and running claims survive a reopen.
async fn survives_reopen(mut lab: Lab) -> Check {
    let mut desk = Desk::new(&lab)?;
    let token = desk.run("done", "one").await?;
    desk.store("done", token, "42").await?;
    desk.run("running", "one").await?;
    lab.reopen().await?;
    desk.lab = lab.clone();
    let seen = desk.ask(desk.claim("done", "two")).await?;
    check_eq!(seen, result("42"), "the stored result");
    let other = desk.ask(desk.claim("running", "two")).await?;
    check_eq!(other, Claimed::Wait, "the running claim");
    Ok(())
}

/// A claim that was granted is known after the death of the process: `at_most_once` does not run again.
async fn survives_kill(mut lab: Lab) -> Check {
    let mut desk = Desk::new(&lab)?;
    let mut claim = desk.claim("k", "one");
    claim.at_most_once = true;
    granted(desk.ask(claim.clone()).await?)?;
    lab.kill().await?;
    desk.lab = lab.clone();
    let again = desk.ask(claim).await?;
    check!(
        matches!(again, Claimed::Unfinished(_)),
        "a second run was to be refused: {again:?}"
    );
    Ok(())
}

/// A result is remembered for its time; then the key is new.
async fn result_ends(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let token = desk.run("k", "one").await?;
    let end = OnceEnd::Store {
        result: Bytes::from_static(b"42"),
        ttl: LEASE,
    };
    lab.apply(desk.once("k", Some(token), end)).await?;
    lab.pass(LEASE * 2).await;
    desk.run("k", "two").await?;
    Ok(())
}

/// Without a claim the key is checked and stored: the second unit sees the result of the first.
async fn without_claim(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    lab.apply(desk.once("k", None, stored("first"))).await?;
    let second = lab.commit(desk.once("k", None, stored("second"))).await?;
    check!(
        matches!(&second, Outcome::Seen(result) if &**result == b"first"),
        "the second unit was to see the first: {second:?}"
    );
    Ok(())
}

/// A unit that consumes a message, sends an effect and stores a result does all three.
async fn with_effects(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let (topic, sink) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    let token = desk.run("k", "one").await?;
    let mut unit = desk.once("k", Some(token), stored("42"));
    unit.settle.push((delivery.receipt, Verdict::Done));
    unit.send.push(outgoing(&sink, "effect")?);
    check_eq!(lab.apply(unit).await?.len(), 1, "answers for one effect");
    check_eq!(lab.bodies(&sink, 0).await?, ["effect"], "effects");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    let seen = desk.ask(desk.claim("k", "two")).await?;
    check_eq!(seen, result("42"), "the claim afterwards");
    Ok(())
}

/// A unit whose key has a result settles its messages, sends nothing and gives the result.
async fn seen_settles(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let (topic, sink) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["k1=a", "k2=b"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let mut outcomes = Vec::new();
    for delivery in member.take(2).await? {
        let mut unit = desk.once("k", None, stored("42"));
        unit.settle.push((delivery.receipt, Verdict::Done));
        unit.send.push(outgoing(&sink, "effect")?);
        outcomes.push(lab.commit(unit).await?);
    }
    check!(
        matches!(&outcomes[..], [Outcome::Applied(sent), Outcome::Seen(result)]
            if sent.len() == 1 && &**result == b"42"),
        "the first applied, the second seen: {outcomes:?}"
    );
    check_eq!(lab.bodies(&sink, 0).await?, ["effect"], "effects");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    member.quiet(crate::lab::QUIET).await
}

/// A unit whose claim was lost settles nothing and sends nothing.
async fn fenced_changes_nothing(lab: Lab) -> Check {
    let desk = Desk::new(&lab)?;
    let (topic, sink) = (lab.topic(1).await?, lab.topic(1).await?);
    lab.put(&topic, 0, &["a"]).await?;
    let (spec, mut member) = lab.consume(&topic).await?;
    let delivery = member.delivery().await?;
    let mut claim = desk.claim("k", "one");
    claim.lease = LEASE;
    let first = granted(desk.ask(claim).await?)?;
    lab.pass(LEASE * 2).await;
    desk.run("k", "two").await?;
    let mut unit = desk.once("k", Some(first), stored("late"));
    unit.settle.push((delivery.receipt, Verdict::Done));
    unit.send.push(outgoing(&sink, "zombie")?);
    must_be_fenced(lab.commit(unit).await?)?;
    check_eq!(lab.bodies(&sink, 0).await?.len(), 0, "effects");
    check_eq!(lab.group(&spec).await?.lag(), 1, "lag");
    let other = desk.ask(desk.claim("k", "three")).await?;
    check_eq!(other, Claimed::Wait, "the claim of the second holder");
    Ok(())
}
