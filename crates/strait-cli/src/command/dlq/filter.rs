//! Which dead letters: the same options on every verb.

use clap::Args;
use strait::core::Timestamp;
use strait::core::events::{DeadFilter, ErrorFingerprint};

use crate::text::parse_time;

/// Which dead letters; what is given must fit altogether.
#[derive(Debug, Clone, Args)]
pub(crate) struct FilterArgs {
    /// Which, by number
    #[arg(value_name = "NUMBER")]
    pub(crate) numbers: Vec<u64>,
    /// Of this partition
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
    /// With this key
    #[arg(short, long, value_name = "KEY")]
    key: Option<String>,
    /// With this error, as `dlq ls --by-error` shows it
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    error: Option<ErrorFingerprint>,
    /// Whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Given up at this time or later: RFC 3339, milliseconds, or for example -2h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time)]
    after: Option<Timestamp>,
    /// Given up before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time)]
    before: Option<Timestamp>,
    /// After so many attempts or more
    #[arg(long, value_name = "N")]
    min_attempts: Option<u32>,
}

impl FilterArgs {
    pub(crate) fn filter(&self) -> DeadFilter {
        DeadFilter {
            numbers: (!self.numbers.is_empty()).then(|| self.numbers.clone()),
            partition: self.partition,
            key: self.key.as_ref().map(|key| key.clone().into_bytes()),
            fingerprint: self.error,
            reason: self.reason.clone(),
            died_after: self.after,
            died_before: self.before,
            min_attempts: self.min_attempts,
        }
    }

    /// True when nothing is given: it picks all.
    pub(crate) fn is_empty(&self) -> bool {
        self.filter() == DeadFilter::default()
    }
}

fn fingerprint(text: &str) -> Result<ErrorFingerprint, String> {
    text.parse()
        .map_err(|error: strait::core::Error| error.to_string())
}

fn time(text: &str) -> Result<Timestamp, String> {
    parse_time(text, Timestamp::now())
}
