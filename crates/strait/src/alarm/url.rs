//! Where a notice may be posted: this machine, and hosts that were named.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use strait_core::{Error, Result};

use super::refused;

/// An address that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    /// As it stands in the `Host` header.
    pub(super) authority: String,
    pub(super) path: String,
    pub(super) to: To,
}

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum To {
    /// One of these.
    Addresses(Vec<SocketAddr>),
    /// Whatever the name means then.
    Host(String, u16),
}

impl Url {
    /// Reads `http://HOST[:PORT][/PATH]`. The host is this machine (`localhost` or a loopback address), or one of `allowed`.
    pub(super) fn checked(url: &str, allowed: &[String]) -> Result<Url> {
        let wrong = |why: &str| {
            refused(format!("the address of an alarm cannot be used: {why}"))
                .next("write http://127.0.0.1:PORT/PATH, or run a command that sends it")
        };
        if url.starts_with("https:") {
            return Err(wrong("https is not spoken here"));
        }
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| wrong("it does not begin with http://"))?;
        if rest.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(wrong("there are spaces or control characters in it"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err(wrong("it has a user name or a password in it"));
        }
        let (host, port) = split(authority).ok_or_else(|| wrong("the port is no number"))?;
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/{path}"),
        };
        Ok(Url {
            to: destination(host, port, allowed)?,
            authority: authority.to_owned(),
            path,
        })
    }
}

/// Host without brackets, and port.
fn split(authority: &str) -> Option<(&str, u16)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return Some((host, port_of(port.strip_prefix(':'))?));
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host, port_of(Some(port))?)),
        None => Some((authority, 80)),
    }
}

fn port_of(text: Option<&str>) -> Option<u16> {
    match text {
        None => Some(80),
        Some(text) => text.parse().ok(),
    }
}

fn destination(host: &str, port: u16, allowed: &[String]) -> Result<To, Error> {
    if allowed.iter().any(|name| name.eq_ignore_ascii_case(host)) {
        return Ok(To::Host(host.to_owned(), port));
    }
    if host.eq_ignore_ascii_case("localhost") {
        let loopback = [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ];
        let addresses = loopback.map(|ip| SocketAddr::new(ip, port));
        return Ok(To::Addresses(addresses.to_vec()));
    }
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() => Ok(To::Addresses(vec![SocketAddr::new(ip, port)])),
        _ => Err(refused(format!(
            "an alarm would be posted to `{}`, which is not this machine",
            host.escape_debug()
        ))
        .next("allow that host by its name: `allow_host`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_allowed_and_others_by_their_name() {
        let url = Url::checked("http://127.0.0.1:9000/a?b=c#d", &[]).unwrap();
        let (authority, path) = (url.authority.as_str(), url.path.as_str());
        assert_eq!((authority, path), ("127.0.0.1:9000", "/a?b=c"));
        let address = "127.0.0.1:9000".parse().unwrap();
        assert_eq!(url.to, To::Addresses(vec![address]));
        let url = Url::checked("http://localhost", &[]).unwrap();
        assert_eq!(url.path, "/");
        assert!(matches!(url.to, To::Addresses(list) if list.len() == 2));
        assert!(Url::checked("http://[::1]:80/", &[]).is_ok());
        let hooks = ["Hooks.internal".to_owned()];
        let url = Url::checked("http://hooks.internal/a", &hooks).unwrap();
        assert_eq!(url.to, To::Host("hooks.internal".into(), 80));
    }

    #[test]
    fn what_is_not_allowed_is_refused_with_the_reason() {
        for (url, why) in [
            ("http://hooks.internal/", "not this machine"),
            ("http://127.0.0.1.example.org/", "not this machine"),
            ("http://10.0.0.1/", "not this machine"),
            ("http://0.0.0.0/", "not this machine"),
            ("https://127.0.0.1/", "https is not spoken"),
            ("ftp://127.0.0.1/", "does not begin with http://"),
            ("http://ada:s3cret@127.0.0.1/", "a password"),
            ("http://127.0.0.1:port/", "no number"),
            ("http://:80/", "no host"),
            ("http://127.0.0.1/a b", "spaces"),
            ("http://127.0.0.1/a\r\nX: y", "control characters"),
        ] {
            let error = Url::checked(url, &[]).unwrap_err();
            assert!(error.to_string().contains(why), "{url}: {error}");
            assert!(!format!("{error:?}").contains("s3cret"));
        }
    }
}
