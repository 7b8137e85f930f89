//! The idempotency ledger: one hash for each key, which the server forgets by itself.

use std::time::{Duration, Instant};

use bytes::Bytes;
use strait_core::{Claim, ClaimToken, Claimed, Error, Kind, Result, codes};

use crate::engine::Shared;
use crate::fault::odd;
use crate::keys;
use crate::reply::{bytes, list, text};

/// How long after its lease an unfinished run is known, so that work which must never run twice is not begun again.
const UNFINISHED: Duration = Duration::from_secs(30 * 24 * 3600);
/// Between two looks of a claim that waits: from, and up to.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// Longest scope, and longest key, in bytes.
const LONGEST: usize = 1024;

/// Keys are bounded and hold no NUL, which parts them from their scope.
pub(crate) fn check(scope: &str, key: &str) -> Result<()> {
    for (what, text) in [("scope", scope), ("key", key)] {
        if text.len() > LONGEST {
            let len = text.len();
            let text =
                format!("the {what} of an idempotency key has {len} bytes, {LONGEST} are allowed");
            return Err(Error::new(Kind::Rejected, text).code(codes::TOO_LARGE));
        }
        if text.contains('\0') {
            let text = format!("the {what} of an idempotency key holds NUL");
            return Err(Error::new(Kind::Rejected, text));
        }
    }
    Ok(())
}

impl Shared {
    /// Asks again and again, as long as the claim may wait.
    pub(crate) async fn claim(&self, claim: Claim) -> Result<Claimed> {
        check(&claim.scope, &claim.key)?;
        let deadline = Instant::now() + claim.wait;
        let mut pause = LOOK.0;
        loop {
            let answer = self.claim_now(&claim).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if answer != Claimed::Wait || left.is_zero() {
                return Ok(answer);
            }
            // The server has no event for the end of a claim that would not hold a connection.
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LOOK.1);
        }
    }

    async fn claim_now(&self, claim: &Claim) -> Result<Claimed> {
        let what = "claiming an idempotency key";
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4);
        let mut invoke = self.scripts.claim.prepare();
        invoke.key(keys::once(&claim.scope, &claim.key));
        invoke.arg(&claim.holder).arg(millis(claim.lease));
        invoke
            .arg(i64::from(claim.at_most_once))
            .arg(millis(UNFINISHED));
        let answer = self.script(what, &invoke, true).await?;
        let answer = list(&answer).ok_or_else(|| odd(what))?;
        let token = || {
            let token = answer
                .get(1)
                .and_then(text)
                .and_then(|text| text.parse().ok());
            token.map(ClaimToken).ok_or_else(|| odd(what))
        };
        match answer.first().and_then(text) {
            Some("run") => Ok(Claimed::Run(token()?)),
            Some("unfinished") => Ok(Claimed::Unfinished(token()?)),
            Some("wait") => Ok(Claimed::Wait),
            Some("seen") => {
                let result = answer.get(1).and_then(bytes).unwrap_or_default();
                Ok(Claimed::Seen(Bytes::copy_from_slice(result)))
            }
            _ => Err(odd(what)),
        }
    }
}
