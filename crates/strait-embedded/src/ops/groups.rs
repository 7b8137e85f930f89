//! Operations of groups: what members declare, what an operator sets over it, and a message that waits.

use crate::codec::{Decoded, Malformed, Reader, put_bytes, put_i64, put_option, put_u64};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupSettings<'a> {
    pub(crate) key_order: bool,
    pub(crate) max_attempts: u32,
    pub(crate) max_dead: u64,
    pub(crate) dead_ms: Option<u64>,
    pub(crate) gap: u64,
    pub(crate) dead_topic: Option<&'a str>,
    pub(crate) hold_key: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct OperatorOp<'a> {
    pub(crate) max_attempts: Option<u32>,
    pub(crate) max_dead: Option<u64>,
    pub(crate) gap: Option<u64>,
    pub(crate) hold_key: Option<bool>,
    /// Since when, and why.
    pub(crate) pause: Option<(i64, &'a str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ParkOp<'a> {
    /// When it may go out again, milliseconds since the epoch; 0: as soon as its key is free.
    pub(crate) due: i64,
    /// The delay that led to `due`: bounds the wait after the clock was set back.
    pub(crate) delay_ms: u64,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// Hash of the key; 0: none, waits for nobody.
    pub(crate) key: u64,
    pub(crate) reason: &'a str,
}

impl<'a> GroupSettings<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.key_order));
        put_u64(out, u64::from(self.max_attempts));
        put_u64(out, self.max_dead);
        put_option(out, self.dead_ms);
        put_u64(out, self.gap);
        put_bytes(out, self.dead_topic.unwrap_or_default().as_bytes());
        out.push(u8::from(self.hold_key));
    }

    pub(crate) fn decode(r: &mut Reader<'a>) -> Decoded<Self> {
        Ok(GroupSettings {
            key_order: r.bool()?,
            max_attempts: r.u32()?,
            max_dead: r.u64()?,
            dead_ms: r.option()?,
            gap: r.u64()?,
            dead_topic: Some(r.str()?).filter(|name| !name.is_empty()),
            hold_key: r.bool()?,
        })
    }
}

impl<'a> OperatorOp<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_option(out, self.max_attempts.map(u64::from));
        put_option(out, self.max_dead);
        put_option(out, self.gap);
        put_option(out, self.hold_key.map(u64::from));
        out.push(u8::from(self.pause.is_some()));
        if let Some((since, reason)) = self.pause {
            put_i64(out, since);
            put_bytes(out, reason.as_bytes());
        }
    }

    pub(crate) fn decode(r: &mut Reader<'a>) -> Decoded<Self> {
        let max_attempts = r.option()?.map(u32::try_from).transpose();
        Ok(OperatorOp {
            max_attempts: max_attempts.map_err(|_| Malformed)?,
            max_dead: r.option()?,
            gap: r.option()?,
            hold_key: match r.option()? {
                None => None,
                Some(0) => Some(false),
                Some(1) => Some(true),
                Some(_) => return Err(Malformed),
            },
            pause: match r.bool()? {
                true => Some((r.i64()?, r.str()?)),
                false => None,
            },
        })
    }
}

impl<'a> ParkOp<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_i64(out, self.due);
        put_u64(out, self.delay_ms);
        put_u64(out, u64::from(self.attempts));
        put_u64(out, self.key);
        put_bytes(out, self.reason.as_bytes());
    }

    pub(crate) fn decode(r: &mut Reader<'a>) -> Decoded<Self> {
        Ok(ParkOp {
            due: r.i64()?,
            delay_ms: r.u64()?,
            attempts: r.u32()?,
            key: r.u64()?,
            reason: r.str()?,
        })
    }
}
