//! What is sent: typed messages and raw bytes.

use std::borrow::Cow;

use bytes::Bytes;
use strait_core::{Error, Kind, Message as Stored, Result, codes};

/// A type that can be sent and received, on any lane.
///
/// Derive it for JSON bodies (`#[derive(Message)]`, see [`macro@crate::Message`]); implement it by hand for other formats:
///
/// ```
/// use std::borrow::Cow;
/// use strait::{Error, Kind, Message, codes};
///
/// struct Beat(u64);
///
/// impl Message for Beat {
///     const KINDS: &'static [&'static str] = &["heart.beat.v1"];
///     const CONTENT_TYPE: Option<&'static str> = Some("application/octet-stream");
///     fn kind(&self) -> Option<&str> {
///         Some(Self::KINDS[0])
///     }
///     fn key(&self) -> Option<Cow<'_, [u8]>> {
///         None
///     }
///     fn encode(&self, body: &mut Vec<u8>) -> strait::Result<()> {
///         body.extend_from_slice(&self.0.to_le_bytes());
///         Ok(())
///     }
///     fn decode(_kind: &str, body: &[u8]) -> strait::Result<Self> {
///         match body.try_into() {
///             Ok(bytes) => Ok(Beat(u64::from_le_bytes(bytes))),
///             Err(_) => Err(Error::new(Kind::Rejected, "a beat has 8 bytes").code(codes::UNDECODABLE)),
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "not a message",
    note = "derive it: `#[derive(Message, Serialize, Deserialize)] #[message(\"order.placed.v1\", key = order)]`",
    note = "or use `strait::Raw` for bytes without a type"
)]
pub trait Message: Sized + Send + 'static {
    /// The kinds that this type can be decoded from: one for a struct, one per variant for an enum; empty: any.
    const KINDS: &'static [&'static str];

    /// The media type of the body; `None`: not said.
    const CONTENT_TYPE: Option<&'static str>;

    /// The kind of this value, as it stands on the wire. It survives renames of the Rust type.
    fn kind(&self) -> Option<&str>;

    /// The key: messages of one key keep their order. `None`: no order is asked for.
    fn key(&self) -> Option<Cow<'_, [u8]>>;

    /// Appends the body to `body`.
    ///
    /// # Errors
    ///
    /// What the format says, as `Rejected`.
    fn encode(&self, body: &mut Vec<u8>) -> Result<()>;

    /// Reads a body of one of [`KINDS`](Message::KINDS).
    ///
    /// # Errors
    ///
    /// `Rejected` with code `undecodable`.
    fn decode(kind: &str, body: &[u8]) -> Result<Self>;

    /// Reads a stored message: finds its kind among [`KINDS`](Message::KINDS) and decodes its body. A message without any
    /// kind is taken as the only kind of a type that has just one.
    ///
    /// # Errors
    ///
    /// `Rejected` with code `undecodable`: an unknown kind (see [`is_unknown_kind`]), or a body that does not fit.
    fn from_stored(stored: &Stored) -> Result<Self> {
        let record = stored.record();
        match (record.kind(), Self::KINDS) {
            (None, [only]) => Self::decode(only, record.body()),
            (Some(kind), kinds) if kinds.is_empty() || kinds.contains(&kind) => {
                Self::decode(kind, record.body())
            }
            (None, []) => Self::decode("", record.body()),
            (kind, kinds) => Err(unknown_kind(kind, kinds)),
        }
    }
}

const UNKNOWN_KIND: &str = "the message is of another kind";

fn unknown_kind(kind: Option<&str>, kinds: &[&str]) -> Error {
    Error::new(Kind::Rejected, UNKNOWN_KIND)
        .code(codes::UNDECODABLE)
        .with("kind", kind.unwrap_or("none"))
        .with("wanted", kinds.join(", "))
}

/// The error of a `decode` that was called with a kind that is not among the type's [`KINDS`](Message::KINDS).
#[doc(hidden)]
pub fn not_a_kind(kind: &str) -> Error {
    unknown_kind(Some(kind), &[])
}

#[doc(hidden)]
pub use serde as __serde;

/// True when [`Message::from_stored`] failed because the kind is none of the type's, not because of the body.
pub fn is_unknown_kind(error: &Error) -> bool {
    error.is(codes::UNDECODABLE) && error.message() == UNKNOWN_KIND
}

/// Bytes without a type: what a topic of any content is read and written with.
///
/// Received, it shares the buffer that it was read in; nothing is copied.
#[derive(Debug, Clone)]
pub struct Raw(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Made {
        kind: Option<Box<str>>,
        key: Option<Bytes>,
        body: Bytes,
    },
    Received(Stored),
}

impl Raw {
    /// A message of that kind, without a key.
    pub fn new(kind: impl Into<Box<str>>, body: impl Into<Bytes>) -> Self {
        Raw(Inner::Made {
            kind: Some(kind.into()),
            key: None,
            body: body.into(),
        })
    }

    /// A message of no kind, without a key.
    pub fn bytes(body: impl Into<Bytes>) -> Self {
        Raw(Inner::Made {
            kind: None,
            key: None,
            body: body.into(),
        })
    }

    /// The same with a key. On a received message it makes a new one with the same kind and body, and without the
    /// headers.
    pub fn with_key(self, key: impl Key) -> Self {
        let key = key.to_key().map(|key| Bytes::from(key.into_owned()));
        let made = match self.0 {
            Inner::Made { kind, body, .. } => Inner::Made { kind, key, body },
            Inner::Received(stored) => {
                let record = stored.record();
                Inner::Made {
                    kind: record.kind().map(Into::into),
                    key,
                    body: stored.batch().slice_ref(record.body()),
                }
            }
        };
        Raw(made)
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        match &self.0 {
            Inner::Made { body, .. } => body,
            Inner::Received(stored) => stored.record().body(),
        }
    }

    /// The body as text, where it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.body()).ok()
    }

    /// As it is stored, where it was received.
    pub fn stored(&self) -> Option<&Stored> {
        match &self.0 {
            Inner::Made { .. } => None,
            Inner::Received(stored) => Some(stored),
        }
    }
}

impl Message for Raw {
    const KINDS: &'static [&'static str] = &[];
    const CONTENT_TYPE: Option<&'static str> = None;

    fn kind(&self) -> Option<&str> {
        match &self.0 {
            Inner::Made { kind, .. } => kind.as_deref(),
            Inner::Received(stored) => stored.record().kind(),
        }
    }

    fn key(&self) -> Option<Cow<'_, [u8]>> {
        match &self.0 {
            Inner::Made { key, .. } => key.as_deref().map(Cow::Borrowed),
            Inner::Received(stored) => stored.record().key().map(Cow::Borrowed),
        }
    }

    fn encode(&self, body: &mut Vec<u8>) -> Result<()> {
        body.extend_from_slice(self.body());
        Ok(())
    }

    fn decode(kind: &str, body: &[u8]) -> Result<Self> {
        let body = Bytes::copy_from_slice(body);
        Ok(if kind.is_empty() {
            Raw::bytes(body)
        } else {
            Raw::new(kind, body)
        })
    }

    fn from_stored(stored: &Stored) -> Result<Self> {
        Ok(Raw(Inner::Received(stored.clone())))
    }
}

/// What can be the key of a message: bytes as they are, text as UTF-8, numbers in decimal (so that a key reads the same
/// in every tool). `None` is no key.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a message",
    label = "not a key",
    note = "keys are text, bytes, integers, `bool`, `char`, `uuid::Uuid`, or an `Option` of one; implement `strait::Key` for your own type"
)]
pub trait Key {
    /// The bytes of the key.
    fn to_key(&self) -> Option<Cow<'_, [u8]>>;
}

macro_rules! borrowed_keys {
    ($($ty:ty => $bytes:expr),* $(,)?) => {$(
        impl Key for $ty {
            fn to_key(&self) -> Option<Cow<'_, [u8]>> {
                let bytes: fn(&$ty) -> &[u8] = $bytes;
                Some(Cow::Borrowed(bytes(self)))
            }
        }
    )*};
}

borrowed_keys! {
    str => |s| s.as_bytes(),
    String => |s| s.as_bytes(),
    Box<str> => |s| s.as_bytes(),
    std::sync::Arc<str> => |s| s.as_bytes(),
    [u8] => |b| b,
    Vec<u8> => |b| b,
    Bytes => |b| b,
}

macro_rules! printed_keys {
    ($($ty:ty),* $(,)?) => {$(
        impl Key for $ty {
            fn to_key(&self) -> Option<Cow<'_, [u8]>> {
                Some(Cow::Owned(self.to_string().into_bytes()))
            }
        }
    )*};
}

printed_keys!(
    u8,
    u16,
    u32,
    u64,
    u128,
    usize,
    i8,
    i16,
    i32,
    i64,
    i128,
    isize,
    bool,
    char,
    uuid::Uuid
);

impl<const N: usize> Key for [u8; N] {
    fn to_key(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self))
    }
}

impl<T: Key + ToOwned + ?Sized> Key for Cow<'_, T> {
    fn to_key(&self) -> Option<Cow<'_, [u8]>> {
        (**self).to_key()
    }
}

impl<T: Key> Key for Option<T> {
    fn to_key(&self) -> Option<Cow<'_, [u8]>> {
        self.as_ref().and_then(Key::to_key)
    }
}

impl<T: Key + ?Sized> Key for &T {
    fn to_key(&self) -> Option<Cow<'_, [u8]>> {
        (**self).to_key()
    }
}

/// JSON for messages: what the derive macro calls.
pub mod json {
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use strait_core::{Error, Kind, Result, codes};

    /// The media type of JSON bodies.
    pub const CONTENT_TYPE: &str = "application/json";

    /// Appends `value` to `body` as JSON.
    ///
    /// # Errors
    ///
    /// `Rejected` when the type cannot be written as JSON (for example a map whose keys are not text).
    pub fn encode(value: &impl Serialize, body: &mut Vec<u8>) -> Result<()> {
        serde_json::to_writer(body, value).map_err(|e| {
            Error::new(
                Kind::Rejected,
                format!("the message cannot be written as JSON: {e}"),
            )
            .caused_by(e)
        })
    }

    /// Reads JSON. Unknown fields are ignored unless the type refuses them.
    ///
    /// # Errors
    ///
    /// `Rejected` with code `undecodable`.
    pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
        serde_json::from_slice(body).map_err(|e| {
            Error::new(Kind::Rejected, format!("the body cannot be read: {e}"))
                .code(codes::UNDECODABLE)
                .caused_by(e)
        })
    }
}
