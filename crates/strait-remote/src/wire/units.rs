//! Errors, units and their outcomes, claims.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strait_core::{
    Claim, ClaimToken, Claimed, Effect, Error, Fence, Health, Kind, Once, OnceEnd, Outgoing,
    Records, Result, Sent, Unit, Verdict,
};

use super::texts::keep;
use super::{In, Out, Wire, malformed, put_text, wire_struct};

impl Wire for Kind {
    fn put(&self, out: &mut Out) {
        // Kinds travel by their stable word.
        put_text(self.as_str(), out);
    }
    fn get(input: &mut In) -> Result<Self> {
        let word = String::get(input)?;
        // A kind of a later version is an error all the same, only less precise.
        let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == word);
        Ok(known.unwrap_or(Kind::Unexpected))
    }
}

impl Wire for Error {
    const LEAST: usize = 20;
    fn put(&self, out: &mut Out) {
        self.kind().put(out);
        put_text(self.code_str().unwrap_or_default(), out);
        self.may_retry().put(out);
        (self.effect() == Effect::Unknown).put(out);
        put_text(self.message(), out);
        put_text(self.operation(), out);
        (self.context().len() as u32).put(out);
        for (name, value) in self.context() {
            put_text(name, out);
            put_text(value, out);
        }
        put_text(self.advice().unwrap_or_default(), out);
        let mut causes = Vec::new();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause.filter(|_| causes.len() < 8) {
            causes.push(error.to_string());
            cause = error.source();
        }
        put_text(&causes.join(": "), out);
    }
    fn get(input: &mut In) -> Result<Self> {
        let kind = Kind::get(input)?;
        let code = String::get(input)?;
        let (may_retry, unknown) = (bool::get(input)?, bool::get(input)?);
        let mut error = Error::new(kind, String::get(input)?).retry(may_retry);
        if unknown {
            error = error.unknown();
        }
        let operation = String::get(input)?;
        error = error.during(keep(&operation).unwrap_or_default());
        error = match keep(&code) {
            Some("") => error,
            Some(code) => error.code(code),
            None => error.with("code", code),
        };
        for (name, value) in Vec::<(String, String)>::get(input)? {
            error = error.with(keep(&name).unwrap_or("detail"), value);
        }
        let (advice, cause) = (String::get(input)?, String::get(input)?);
        if !advice.is_empty() {
            error = error.next(advice);
        }
        if !cause.is_empty() {
            error = error.caused_by(cause);
        }
        Ok(error)
    }
}

/// The same error again, for each of several who asked.
pub(crate) fn copy_of(error: &Error) -> Error {
    let mut copy = Error::new(error.kind(), error.message())
        .during(error.operation())
        .retry(error.may_retry());
    for (name, value) in error.context() {
        copy = copy.with(name, value);
    }
    if let Some(code) = error.code_str() {
        copy = copy.code(code);
    }
    if let Some(advice) = error.advice() {
        copy = copy.next(advice);
    }
    if let Some(cause) = std::error::Error::source(error) {
        copy = copy.caused_by(cause.to_string());
    }
    match error.effect() {
        Effect::NotDone => copy,
        Effect::Unknown => copy.unknown(),
    }
}

impl Wire for Health {
    fn put(&self, out: &mut Out) {
        let (tag, text) = match self {
            Health::Up => (0u8, ""),
            Health::Impaired(text) => (1, &**text),
            Health::Down(text) => (2, &**text),
            Health::Ended(text) => (3, &**text),
        };
        tag.put(out);
        put_text(text, out);
    }
    fn get(input: &mut In) -> Result<Self> {
        let (tag, text) = (u8::get(input)?, Arc::get(input)?);
        Ok(match tag {
            0 => Health::Up,
            1 => Health::Impaired(text),
            2 => Health::Down(text),
            3 => Health::Ended(text),
            _ => return Err(malformed("unknown health")),
        })
    }
}

impl Wire for Fence {
    const LEAST: usize = 40;
    fn put(&self, out: &mut Out) {
        self.consumer.put(out);
        self.epoch.put(out);
        self.shard.put(out);
        self.first.put(out);
        self.count.put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        let fence = Fence {
            consumer: u64::get(input)?,
            epoch: u64::get(input)?,
            shard: u32::get(input)?,
            first: Wire::get(input)?,
            count: u32::get(input)?,
        };
        // `Fence::end` adds them.
        let (_, low) = fence.first.parts();
        if fence.count == 0 || low.checked_add(u64::from(fence.count)).is_none() {
            return Err(malformed("a receipt covers nothing, or more than there is"));
        }
        Ok(fence)
    }
}

impl Wire for Verdict {
    fn put(&self, out: &mut Out) {
        match self {
            Verdict::Done => 0u8.put(out),
            Verdict::Answer(bytes) => {
                1u8.put(out);
                bytes.put(out);
            }
            Verdict::Retry {
                after,
                reason,
                counts,
            } => {
                2u8.put(out);
                after.put(out);
                reason.put(out);
                counts.put(out);
            }
            Verdict::Dead(reason) => {
                3u8.put(out);
                reason.put(out);
            }
            Verdict::Release => 4u8.put(out),
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => Verdict::Done,
            1 => Verdict::Answer(Bytes::get(input)?),
            2 => Verdict::Retry {
                after: Duration::get(input)?,
                reason: Arc::get(input)?,
                counts: bool::get(input)?,
            },
            3 => Verdict::Dead(Arc::get(input)?),
            4 => Verdict::Release,
            _ => return Err(malformed("unknown verdict")),
        })
    }
}

impl Wire for Records {
    const LEAST: usize = 52;
    fn put(&self, out: &mut Out) {
        out.shared(self.bytes());
    }
    fn get(input: &mut In) -> Result<Self> {
        Records::decode(input.shared()?)
    }
}

impl Wire for Outgoing {
    fn put(&self, out: &mut Out) {
        match self {
            Outgoing::Append {
                topic,
                partition,
                records,
                expected,
                dedupe,
            } => {
                0u8.put(out);
                topic.put(out);
                partition.put(out);
                records.put(out);
                expected.put(out);
                dedupe.put(out);
            }
            // The client refuses what this version cannot carry (`speaks`) before it writes.
            _ => u8::MAX.put(out),
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        match u8::get(input)? {
            0 => Ok(Outgoing::Append {
                topic: Wire::get(input)?,
                partition: Wire::get(input)?,
                records: Wire::get(input)?,
                expected: Wire::get(input)?,
                dedupe: Wire::get(input)?,
            }),
            _ => Err(malformed("a message for an unknown lane")),
        }
    }
}

/// Whether this version of the protocol can carry the message.
pub(crate) fn speaks(outgoing: &Outgoing) -> bool {
    matches!(outgoing, Outgoing::Append { .. })
}

wire_struct!(Sent {
    partition,
    first,
    count,
    duplicate
});
wire_struct!(Claim {
    scope,
    key,
    holder,
    lease,
    wait,
    at_most_once
});
wire_struct!(Once {
    scope,
    key,
    claim,
    end
});

impl Wire for ClaimToken {
    const LEAST: usize = 8;
    fn put(&self, out: &mut Out) {
        self.0.put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        u64::get(input).map(ClaimToken)
    }
}

impl Wire for OnceEnd {
    fn put(&self, out: &mut Out) {
        match self {
            OnceEnd::Store { result, ttl } => {
                0u8.put(out);
                result.put(out);
                ttl.put(out);
            }
            OnceEnd::Forget => 1u8.put(out),
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => OnceEnd::Store {
                result: Wire::get(input)?,
                ttl: Wire::get(input)?,
            },
            1 => OnceEnd::Forget,
            _ => return Err(malformed("unknown end of a claim")),
        })
    }
}

impl Wire for Claimed {
    fn put(&self, out: &mut Out) {
        match self {
            Claimed::Run(token) => {
                0u8.put(out);
                token.put(out);
            }
            Claimed::Seen(result) => {
                1u8.put(out);
                result.put(out);
            }
            Claimed::Wait => 2u8.put(out),
            Claimed::Unfinished(token) => {
                3u8.put(out);
                token.put(out);
            }
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => Claimed::Run(Wire::get(input)?),
            1 => Claimed::Seen(Wire::get(input)?),
            2 => Claimed::Wait,
            3 => Claimed::Unfinished(Wire::get(input)?),
            _ => return Err(malformed("unknown answer to a claim")),
        })
    }
}

/// A unit on the wire: receipts are their identities; the server holds the receipts.
#[derive(Debug)]
pub(crate) struct WireUnit {
    pub(crate) settle: Vec<(Fence, Verdict)>,
    pub(crate) send: Vec<Outgoing>,
    pub(crate) once: Option<Once>,
    pub(crate) under: Option<Fence>,
}
wire_struct!(WireUnit {
    settle,
    send,
    once,
    under
});

impl WireUnit {
    /// What travels of a unit.
    pub(crate) fn of(unit: &Unit) -> Self {
        let settle = unit.settle.iter();
        WireUnit {
            settle: settle
                .map(|(receipt, verdict)| (receipt.fence(), verdict.clone()))
                .collect(),
            send: unit.send.clone(),
            once: unit.once.clone(),
            under: unit.under,
        }
    }
}

/// The outcome of a unit on the wire: the unit itself stays with the client.
#[derive(Debug)]
pub(crate) enum WireOutcome {
    Applied(Vec<Sent>),
    Seen(Bytes),
    Fenced,
    NotApplied(Error),
    Unknown(Error),
}

impl Wire for WireOutcome {
    fn put(&self, out: &mut Out) {
        match self {
            WireOutcome::Applied(sent) => {
                0u8.put(out);
                sent.put(out);
            }
            WireOutcome::Seen(result) => {
                1u8.put(out);
                result.put(out);
            }
            WireOutcome::Fenced => 2u8.put(out),
            WireOutcome::NotApplied(error) => {
                3u8.put(out);
                error.put(out);
            }
            WireOutcome::Unknown(error) => {
                4u8.put(out);
                error.put(out);
            }
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => WireOutcome::Applied(Wire::get(input)?),
            1 => WireOutcome::Seen(Wire::get(input)?),
            2 => WireOutcome::Fenced,
            3 => WireOutcome::NotApplied(Wire::get(input)?),
            4 => WireOutcome::Unknown(Wire::get(input)?),
            _ => return Err(malformed("unknown outcome")),
        })
    }
}
