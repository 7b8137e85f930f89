//! Claims: who may run the work behind a key.

use strait_core::{Claim, ClaimToken, Claimed, Error, Kind, Result, codes};

use super::Turn;
use crate::ops::Op;
use crate::state::ledger::{Entry, full_key};

impl Turn<'_> {
    pub(super) fn claim(&mut self, claim: &Claim) -> Result<Claimed> {
        check_key(&claim.scope, &claim.key)?;
        let full = full_key(&claim.scope, &claim.key);
        let now = self.now.wall;
        match self.state.ledger_of(&full).get(&full, now) {
            Some(Entry::Stored { result, .. }) => return Ok(Claimed::Seen(result.clone())),
            Some(Entry::Running {
                holder,
                token,
                until,
            }) => {
                let own = **holder == *claim.holder;
                if !own && *until > now {
                    return Ok(Claimed::Wait);
                }
                // A run without a known end may have been done.
                if claim.at_most_once {
                    return Ok(Claimed::Unfinished(ClaimToken(*token)));
                }
            }
            None => {}
        }
        let token = self.state.next_token;
        let lease = i64::try_from(claim.lease.as_millis()).unwrap_or(i64::MAX);
        let until = now.saturating_add(lease);
        let (scope, key, holder) = (&*claim.scope, &*claim.key, &*claim.holder);
        self.record(|turn| {
            turn.emit(
                &Op::Claim {
                    scope,
                    key,
                    holder,
                    token,
                    until,
                },
                None,
            )
        });
        Ok(Claimed::Run(ClaimToken(token)))
    }
}

/// Keys are bounded and hold no NUL, which parts them from their scope.
pub(super) fn check_key(scope: &str, key: &str) -> Result<()> {
    for (what, text) in [("scope", scope), ("key", key)] {
        if text.len() > 1024 {
            return Err(Error::new(
                Kind::Rejected,
                format!(
                    "the {what} of an idempotency key has {} bytes, 1024 are allowed",
                    text.len()
                ),
            )
            .code(codes::TOO_LARGE));
        }
        if text.contains('\0') {
            return Err(Error::new(
                Kind::Rejected,
                format!("the {what} of an idempotency key holds NUL"),
            ));
        }
    }
    Ok(())
}
