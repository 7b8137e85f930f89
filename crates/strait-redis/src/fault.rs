//! Errors of the client and of servers, in the words of the contract.

use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use strait_core::{Error, Kind, Name, codes};

/// The error of a server or of the connection for `what`, such as "declaring the topic `orders`".
pub(crate) fn fault(what: impl fmt::Display, error: RedisError) -> Error {
    let code = error.code().unwrap_or_default().to_owned();
    let (kind, next) = class(&error, &code);
    let detail = match error.detail() {
        Some(detail) if !code.is_empty() => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    let made = Error::new(kind, format!("{what}: {detail}")).caused_by(error);
    match next {
        Some(next) => made.next(next),
        None => made,
    }
}

fn class(error: &RedisError, code: &str) -> (Kind, Option<&'static str>) {
    const GOES_ON: Option<&str> = Some("the engine goes on trying; its health says how it is");
    match (error.kind(), code) {
        (_, "WRONGPASS" | "NOAUTH") | (ErrorKind::AuthenticationFailed, _) => {
            (Kind::Denied, Some("check user and password"))
        }
        (_, "NOPERM") => (
            Kind::Denied,
            Some(
                "give the user of this connection the right (`ACL SETUSER`): strait needs streams, hashes, sets and scripts",
            ),
        ),
        (_, "OOM") => (
            Kind::Busy,
            Some("the server is at its `maxmemory`: give it more, or trim streams"),
        ),
        (_, "MISCONF") => (
            Kind::Busy,
            Some("the server cannot write to its disk; its log says why"),
        ),
        (_, "READONLY") => (
            Kind::Unavailable,
            Some("the server is a replica: give the address of the primary"),
        ),
        (_, "WRONGTYPE") => (
            Kind::Conflict,
            Some(
                "another program uses a key of this name for something else: rename the topic, or that key",
            ),
        ),
        (_, "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY") => {
            (Kind::Unavailable, GOES_ON)
        }
        (_, "MOVED" | "ASK" | "CROSSSLOT") => (
            Kind::Unsupported,
            Some("this is a cluster: this build works with a single primary"),
        ),
        (ErrorKind::Io, _) if error.is_timeout() => (Kind::TimedOut, GOES_ON),
        (ErrorKind::Io, _) => (Kind::Unavailable, GOES_ON),
        (ErrorKind::Server(ServerErrorKind::ResponseError), _) => (Kind::Rejected, None),
        (ErrorKind::InvalidClientConfig, _) => (Kind::Config, None),
        _ => (Kind::Unexpected, None),
    }
}

/// True when the connection cannot be used any more, or leads to a server that cannot be written to.
pub(crate) fn ends_connection(error: &RedisError) -> bool {
    let code = error.code().unwrap_or_default();
    error.is_io_error() || error.is_unrecoverable_error() || code == "READONLY"
}

pub(crate) fn closed() -> Error {
    Error::closed("the Redis engine")
}

pub(crate) fn no_such_topic(topic: &Name) -> Error {
    Error::new(Kind::NotFound, format!("there is no topic {topic}"))
        .code(codes::NO_SUCH_TOPIC)
        .next("declare it first, or check its name")
}

pub(crate) fn no_such_partition(topic: &Name, partition: u32, count: u32) -> Error {
    let text =
        format!("the topic {topic} has {count} partitions, there is no partition {partition}");
    Error::new(Kind::Rejected, text)
}

/// A server answered with something else than its documentation says.
pub(crate) fn odd(what: impl fmt::Display) -> Error {
    Error::new(
        Kind::Unexpected,
        format!("{what}: the server's answer has an unknown form"),
    )
}
