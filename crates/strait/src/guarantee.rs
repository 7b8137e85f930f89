//! The words for guarantees, and the ledger behind two of them.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strait_core::{Claim, ClaimToken, Claimed as Answer, Once, OnceEnd, Verdict};

use crate::extract::{Context, Meta};
use crate::failure::shorten;
use crate::run::{Ending, dead};

/// How long a handled key is remembered unless it is said.
const REMEMBER: Duration = Duration::from_secs(24 * 3600);
/// A claim without an end is void after this time. The same message gets its own claim again at once, so the time matters
/// only to other messages of the key.
const CLAIM_LEASE: Duration = Duration::from_secs(3600);
/// How long a handling waits for another of its key, before its message is parked.
const WAIT: Duration = Duration::from_secs(1);
/// When a message that waits for another of its key looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Longest key of the ledger, in bytes.
const KEY_BYTES: usize = 1024;

type KeyOf = Arc<dyn Fn(&Meta) -> String + Send + Sync>;

/// What makes two messages the same, and for how long that is remembered.
///
/// ```
/// use strait::{Idempotency, days};
///
/// let by_id = Idempotency::by_id().remember(days(7));
/// let by_order = Idempotency::by(|meta| String::from_utf8_lossy(meta.key().unwrap_or_default()).into_owned());
/// # let _ = (by_id, by_order);
/// ```
#[derive(Clone)]
pub struct Idempotency {
    key: Option<KeyOf>,
    remember: Duration,
}

impl Idempotency {
    /// Messages with the same id are the same. Remembered for a day.
    pub fn by_id() -> Self {
        Idempotency {
            key: None,
            remember: REMEMBER,
        }
    }

    /// Messages for which `key` gives the same text (at most 1 KiB) are the same. Remembered for a day.
    pub fn by(key: impl Fn(&Meta) -> String + Send + Sync + 'static) -> Self {
        Idempotency {
            key: Some(Arc::new(key)),
            remember: REMEMBER,
        }
    }

    /// How long it is remembered that a key was handled.
    pub fn remember(mut self, time: Duration) -> Self {
        self.remember = time;
        self
    }

    fn key_of(&self, cx: &Context) -> String {
        match &self.key {
            Some(key) => key(&cx.meta()),
            None => cx.stored.record().id().to_string(),
        }
    }
}

impl fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = if self.key.is_some() {
            "a key of its own"
        } else {
            "id"
        };
        write!(f, "Idempotency(by {by}, for {:?})", self.remember)
    }
}

/// What is promised about a message's handling and effects.
#[derive(Debug, Clone)]
pub(crate) enum Guarantee {
    /// Effects leave once; the handler may run again.
    Default,
    /// Effects, too, may leave again.
    AtLeastOnce,
    /// One handling per key has effects, whoever sent it.
    Once(Idempotency),
    /// Never begun again when it may be done.
    AtMostOnce(Idempotency),
}

/// Whether a handling may begin.
pub(crate) enum Claimed {
    /// It may, under this ticket.
    Go(Ticket),
    /// It does not: the message ends like this.
    Ended(Ending),
}

/// The claim of a handling, where its guarantee has one.
pub(crate) struct Ticket(Option<Once>);

impl Ticket {
    pub(crate) fn none() -> Self {
        Ticket(None)
    }

    /// The handling succeeded: remember it.
    pub(crate) fn done(self, guarantee: &Guarantee) -> Option<Once> {
        let ttl = guarantee
            .idempotency()
            .map_or(REMEMBER, |idempotency| idempotency.remember);
        self.0.map(|once| Once {
            end: OnceEnd::Store {
                result: Bytes::new(),
                ttl,
            },
            ..once
        })
    }

    /// The handling failed, and it is known that it did: the next attempt may run.
    pub(crate) fn failed(self) -> Option<Once> {
        self.0
    }
}

impl Guarantee {
    pub(crate) fn is_at_most_once(&self) -> bool {
        matches!(self, Guarantee::AtMostOnce(_))
    }

    pub(crate) fn idempotency(&self) -> Option<&Idempotency> {
        match self {
            Guarantee::Once(idempotency) | Guarantee::AtMostOnce(idempotency) => Some(idempotency),
            Guarantee::Default | Guarantee::AtLeastOnce => None,
        }
    }

    /// The word for it in reports.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Guarantee::Default => "effects once",
            Guarantee::AtLeastOnce => "at least once",
            Guarantee::Once(_) => "once",
            Guarantee::AtMostOnce(_) => "at most once",
        }
    }

    /// Asks the ledger, where the guarantee needs it.
    pub(crate) async fn claim(&self, cx: &Context) -> Claimed {
        let Some(idempotency) = self.idempotency() else {
            return Claimed::Go(Ticket(None));
        };
        // The key may be found by code of the user: poison there is poison like any other.
        let key = match catch_unwind(AssertUnwindSafe(|| idempotency.key_of(cx))) {
            Ok(key) => key,
            Err(_) => {
                return Claimed::Ended(dead(cx, "finding its idempotency key panicked".to_owned()));
            }
        };
        if key.len() > KEY_BYTES {
            let reason = format!(
                "its idempotency key has {} bytes, the limit is {KEY_BYTES}",
                key.len()
            );
            return Claimed::Ended(dead(cx, reason));
        }
        let (topic, partition, position) = (
            cx.stored.topic(),
            cx.stored.partition(),
            cx.stored.position(),
        );
        let claim = Claim {
            scope: cx.consumer.id.to_string(),
            key: key.clone(),
            // The message itself, the same in every attempt; another message of the same key is another holder.
            holder: format!("{topic}/{partition}@{position}"),
            lease: CLAIM_LEASE,
            wait: WAIT,
            at_most_once: self.is_at_most_once(),
        };
        let answer = cx.consumer.engine.claim(claim).await;
        let ticket = |token: ClaimToken| Once {
            scope: cx.consumer.id.to_string(),
            key,
            claim: Some(token),
            end: OnceEnd::Forget,
        };
        match answer {
            Ok(Answer::Run(token)) => Claimed::Go(Ticket(Some(ticket(token)))),
            Ok(Answer::Seen(_)) => {
                cx.consumer.meters.seen.increment(1);
                Claimed::Ended(Ending::of(Verdict::Done))
            }
            Ok(Answer::Wait) => {
                Claimed::Ended(later("another message of the same key is being handled"))
            }
            Ok(Answer::Unfinished(token)) => {
                let reason = "maybe done: an earlier attempt began and its end is not known (a crash, or a lost lease)";
                // An operator who redrives it wants it to run: the claim ends with the verdict.
                Claimed::Ended(Ending {
                    once: Some(ticket(token)),
                    ..dead(cx, reason.to_owned())
                })
            }
            Err(error) => Claimed::Ended(later(&shorten(format!(
                "the ledger did not answer: {error}"
            )))),
        }
    }
}

/// Parked, without an attempt spent.
fn later(reason: &str) -> Ending {
    Ending::of(Verdict::Retry {
        after: LOOK_AGAIN,
        reason: reason.into(),
        counts: false,
    })
}
