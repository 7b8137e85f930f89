//! Frames: `len u32 | kind u8 | id u64 | payload`, little endian; `len` counts what follows it.
//!
//! A message larger than [`PAYLOAD_MAX`] travels in several frames, one directly after the other, each but the last with
//! [`MORE`] set in its kind. Only servers send such messages: a request fits one frame or is refused before it is sent.

use bytes::{Buf, Bytes, BytesMut};
use strait_core::{Error, Kind, Result};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::wire::malformed;

/// Longest payload of a frame: 16 MiB, twice the default limit of a batch.
pub(crate) const PAYLOAD_MAX: usize = 16 << 20;
/// Length, kind and id.
pub(crate) const HEAD: usize = 13;
/// Longest message of several frames that a client takes.
pub(crate) const MESSAGE_MAX: usize = 256 << 20;
/// Another frame of the same message follows.
pub(crate) const MORE: u8 = 0x80;

/// How much the receive buffer grows at a time: large reads are what makes a socket fast.
const READ_AHEAD: usize = 256 << 10;
/// With less room than this left, the buffer grows before the next read.
const READ_LEAST: usize = 32 << 10;

/// Declares the kinds once: the constants, and the table of their names.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $word:literal;)*) => {
        $($(#[$doc])* pub(crate) const $name: u8 = $value;)*

        /// The word for a kind, if this version knows it.
        pub(crate) fn word(kind: u8) -> Option<&'static str> {
            match kind {
                $($value => Some($word),)*
                _ => None,
            }
        }

        /// Every kind of this version.
        #[cfg(test)]
        pub(crate) const ALL: &[u8] = &[$($value),*];
    };
}

/// The kinds of frames.
pub(crate) mod kind {
    kinds! {
        /// The first frame of a client.
        HELLO = 0x01, "hello";
        /// The answer to it.
        WELCOME = 0x02, "welcome";
        /// The answer to it when there is nothing to agree on; the connection ends.
        REFUSED = 0x03, "refused";
        /// Asks for a sign of life.
        PING = 0x04, "ping";
        /// The sign.
        PONG = 0x05, "pong";
        /// The connection ends, with the reason.
        GOODBYE = 0x06, "goodbye";
        /// The health of the engine changed.
        HEALTH = 0x07, "health";
        /// The answer to the request with the same id.
        ANSWER = 0x08, "answer";
        /// Something for the consumer with the id.
        ARRIVAL = 0x09, "arrival";
        /// The input of the consumer with the id failed, with the error; nothing follows for it.
        FAILED = 0x0a, "failed";
        /// Nobody waits for the answer to the request with the id any more.
        CANCEL = 0x0b, "cancel";
        /// The consumer with the id has received so many arrivals, and takes so many items and bytes more.
        CREDIT = 0x0c, "credit";
        /// Stops or resumes a shard of the consumer with the id.
        HOLD = 0x0d, "hold";
        /// The consumer with the id is done with a shard.
        HANDED_BACK = 0x0e, "handed_back";
        /// The consumer with the id leaves, after so many arrivals: later ones were seen by nobody.
        LEAVE = 0x0f, "leave";
        /// The connection ends soon: consumers leave now.
        CLOSING = 0x10, "closing";
        /// `Engine::commit`.
        COMMIT = 0x20, "commit";
        /// `Engine::claim`.
        CLAIM = 0x21, "claim";
        /// `Control::extend`.
        EXTEND = 0x22, "extend";
        /// A receipt was dropped unsettled.
        ABANDON = 0x23, "abandon";
        /// `Engine::backup`.
        BACKUP = 0x24, "backup";
        /// `Engine::storage`.
        STORAGE = 0x25, "storage";
        /// `Events::declare`.
        DECLARE = 0x30, "declare";
        /// `Events::alter`.
        ALTER = 0x31, "alter";
        /// `Events::delete`.
        DELETE = 0x32, "delete";
        /// `Events::topics`.
        TOPICS = 0x33, "topics";
        /// `Events::topic`.
        TOPIC = 0x34, "topic";
        /// `Events::append`.
        APPEND = 0x35, "append";
        /// `Events::read`.
        READ = 0x36, "read";
        /// `Events::locate`.
        LOCATE = 0x37, "locate";
        /// `Events::read_key`.
        READ_KEY = 0x38, "read_key";
        /// `Events::join`.
        JOIN = 0x39, "join";
        /// `Events::groups`.
        GROUPS = 0x3a, "groups";
        /// `Events::group`.
        GROUP = 0x3b, "group";
        /// `Events::seek`.
        SEEK = 0x3c, "seek";
        /// `Events::delete_group`.
        DELETE_GROUP = 0x3d, "delete_group";
        /// `Events::dead_letters`.
        DEAD_LETTERS = 0x3e, "dead_letters";
        /// `Events::redrive`.
        REDRIVE = 0x3f, "redrive";
        /// `Events::alter_group`.
        ALTER_GROUP = 0x40, "alter_group";
        /// `Events::dead_summary`.
        DEAD_SUMMARY = 0x41, "dead_summary";
        /// `Events::edit_dead`.
        EDIT_DEAD = 0x42, "edit_dead";
        /// `Events::remove_dead`.
        REMOVE_DEAD = 0x43, "remove_dead";
        /// `Events::undo_redrive`.
        UNDO_REDRIVE = 0x44, "undo_redrive";
        /// `Events::set_aside`.
        SET_ASIDE = 0x45, "set_aside";
        /// `Events::whereabouts`.
        WHEREABOUTS = 0x46, "whereabouts";
    }
}

/// A received message.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) id: u64,
    pub(crate) payload: Bytes,
}

impl Frame {
    /// The error for a kind that has no place here.
    pub(crate) fn unexpected(&self, version: u16) -> Error {
        let text = match word(self.kind) {
            Some(word) => format!("a frame of kind `{word}` does not belong here"),
            None => format!(
                "a frame of the unknown kind {:#04x}; this build speaks version {version} of strait://",
                self.kind
            ),
        };
        Error::new(Kind::Unsupported, text)
            .next("use builds of strait of the same version on both sides")
    }
}

pub(crate) use kind::word;

/// Cuts frames out of a stream. Payloads share the receive buffer: nothing is copied per frame.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    io: R,
    buf: BytesMut,
    /// The frames so far of a message of several.
    begun: Option<(u8, u64, BytesMut)>,
    /// Longest message; with [`PAYLOAD_MAX`] or less, a message of several frames is refused.
    message_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(io: R, message_max: usize) -> Self {
        FrameReader {
            io,
            buf: BytesMut::new(),
            begun: None,
            message_max,
        }
    }

    /// The next message; `None` at the end of the stream. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            while let Some(frame) = self.cut()? {
                if let Some(whole) = self.join(frame)? {
                    return Ok(Some(whole));
                }
            }
            let read = self.io.read_buf(&mut self.buf).await;
            match read.map_err(|error| Error::io("reading from the connection", error))? {
                0 if self.buf.is_empty() && self.begun.is_none() => return Ok(None),
                0 => return Err(malformed("the stream ends inside a frame")),
                _ => {}
            }
        }
    }

    /// The next whole frame in the buffer; else there is room for the next read afterwards.
    fn cut(&mut self) -> Result<Option<Frame>> {
        let Some(len) = self.buf.first_chunk::<4>() else {
            self.make_room(HEAD);
            return Ok(None);
        };
        let len = u32::from_le_bytes(*len) as usize;
        if !(HEAD - 4..=HEAD - 4 + PAYLOAD_MAX).contains(&len) {
            return Err(malformed(&format!(
                "a length of {len} bytes is not possible"
            )));
        }
        if self.buf.len() < 4 + len {
            self.make_room(4 + len);
            return Ok(None);
        }
        self.buf.advance(4);
        let mut frame = self.buf.split_to(len);
        let kind = frame.get_u8();
        let id = frame.get_u64_le();
        let payload = frame.freeze();
        Ok(Some(Frame { kind, id, payload }))
    }

    fn make_room(&mut self, whole: usize) {
        let missing = whole.saturating_sub(self.buf.len());
        if self.buf.capacity() - self.buf.len() < missing.max(READ_LEAST) {
            self.buf.reserve(missing.max(READ_AHEAD));
        }
    }

    /// Puts the frames of one message together.
    fn join(&mut self, frame: Frame) -> Result<Option<Frame>> {
        let (more, kind) = (frame.kind & MORE != 0, frame.kind & !MORE);
        let Some((first_kind, first_id, mut parts)) = self.begun.take() else {
            if !more {
                return Ok(Some(frame));
            }
            if self.message_max <= PAYLOAD_MAX {
                return Err(malformed("a request in several frames"));
            }
            self.begun = Some((kind, frame.id, BytesMut::from(&frame.payload[..])));
            return Ok(None);
        };
        if (kind, frame.id) != (first_kind, first_id) {
            return Err(malformed("a message of several frames is interrupted"));
        }
        if parts.len() + frame.payload.len() > self.message_max {
            let most = self.message_max >> 20;
            return Err(malformed(&format!("a message is longer than {most} MiB")));
        }
        parts.extend_from_slice(&frame.payload);
        if more {
            self.begun = Some((kind, frame.id, parts));
            return Ok(None);
        }
        Ok(Some(Frame {
            kind,
            id: frame.id,
            payload: parts.freeze(),
        }))
    }
}
