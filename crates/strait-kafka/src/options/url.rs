//! `kafka://` URLs.

use std::time::Duration;

use strait_core::{Error, Kind, Result, Secret};

use super::{GroupProtocol, Options, Security};

const PORT: &str = "9092";

/// What is wrong with a URL, without the URL: it may hold a password.
fn bad(why: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::Config,
        format!("the URL of the Kafka cluster is not usable: {why}"),
    )
    .next("kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT..]/[?NAME=VALUE&..]")
}

pub(super) fn parse(text: &str) -> Result<Options> {
    let (tls, rest) = match text.split_once("://") {
        Some(("kafka", rest)) => (false, rest),
        Some(("kafka+ssl", rest)) => (true, rest),
        _ => {
            return Err(bad(
                "it begins neither with `kafka://` nor with `kafka+ssl://`",
            ));
        }
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (user, hosts) = match place.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, place),
    };
    let (hosts, path) = hosts.split_once('/').unwrap_or((hosts, ""));
    if !path.is_empty() {
        return Err(bad(
            "a path follows the addresses; topics are not part of it",
        ));
    }
    let mut options = Options::new(brokers(hosts)?);
    options.security = match (tls, user.is_some()) {
        (false, false) => Security::Plaintext,
        (true, false) => Security::Ssl,
        (false, true) => Security::SaslPlaintext,
        (true, true) => Security::SaslSsl,
    };
    if let Some(user) = user {
        let (name, password) = user
            .split_once(':')
            .ok_or_else(|| bad("a user is given without a password"))?;
        options.username = Some(decoded(name)?);
        options.password = Some(Secret::new(decoded(password)?));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(&mut options, name, decoded(value)?)?;
    }
    options.check()?;
    Ok(options)
}

fn brokers(hosts: &str) -> Result<String> {
    let mut list = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port),
            _ => (host, PORT),
        };
        if name.is_empty() || port.parse::<u16>().is_err() {
            return Err(bad("an address is not HOST:PORT"));
        }
        list.push(format!("{name}:{port}"));
    }
    Ok(list.join(","))
}

fn set(options: &mut Options, name: &str, value: String) -> Result<()> {
    let seconds = |value: &str| {
        let seconds = value
            .parse()
            .map_err(|_| bad(format!("`{name}` is no number of seconds")))?;
        Ok::<_, Error>(Duration::from_secs(seconds))
    };
    match name {
        "mechanism" => options.mechanism = Some(value),
        "ca" => options.ca = Some(value.into()),
        "certificate" => options.certificate = Some(value.into()),
        "key" => options.key = Some(value.into()),
        "client_id" => options.client_id = value,
        "instance_id" => options.instance_id = Some(value),
        "timeout" => options.timeout = seconds(&value)?,
        "first_contact" => options.first_contact = seconds(&value)?,
        "strict" => {
            options.strict = value
                .parse()
                .map_err(|_| bad("`strict` is neither `true` nor `false`"))?;
        }
        "group_protocol" => {
            options.group_protocol = match &*value {
                "classic" => GroupProtocol::Classic,
                "consumer" => GroupProtocol::Consumer,
                _ => return Err(bad("`group_protocol` is neither `classic` nor `consumer`")),
            };
        }
        _ if name.contains('.') => options.settings.push((name.to_owned(), value)),
        _ => return Err(bad(format!("it has no parameter `{name}`"))),
    }
    Ok(())
}

/// Percent-decoding; the result must be UTF-8.
fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let value = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(value.ok_or_else(|| bad("a `%` is not followed by two hexadecimal digits"))?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad("a part of it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read() {
        let url = "kafka+ssl://ann%40shop:p%3Aw%2F@k1,k2:1234,[::1]:9/?mechanism=SCRAM-SHA-256&ca=/etc/ca.pem\
                   &client_id=mail&group_protocol=consumer&instance_id=a1&timeout=7&strict=true&linger.ms=3";
        let options = parse(url).unwrap();
        assert_eq!(options.brokers, "k1:9092,k2:1234,[::1]:9");
        assert_eq!(options.security, Security::SaslSsl);
        assert_eq!(options.username.as_deref(), Some("ann@shop"));
        assert_eq!(options.password, Some(Secret::new("p:w/")));
        assert_eq!(options.group_protocol, GroupProtocol::Consumer);
        assert_eq!(options.instance_id.as_deref(), Some("a1"));
        assert_eq!(options.timeout, Duration::from_secs(7));
        assert!(options.strict);
        let config = options.client().unwrap();
        for (name, value) in [
            ("sasl.password", "p:w/"),
            ("sasl.mechanism", "SCRAM-SHA-256"),
            ("security.protocol", "SASL_SSL"),
            ("ssl.ca.location", "/etc/ca.pem"),
            ("linger.ms", "3"),
        ] {
            assert_eq!(config.get(name), Some(value), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_the_password() {
        for url in [
            "redis://h",
            "kafka://u:s3cret@/",
            "kafka://u:s3cret@h:port/",
            "kafka://u:s3cret@h:1/orders",
            "kafka://u:s3cret@h:1/?nonsense=1",
            "kafka://u:s3cret@h:1/?enable.idempotence=false",
            "kafka://u:s3cret%zz@h:1/",
            "kafka://u:s3cret@h:1/?strict=perhaps",
            "kafka://u:s3cret@h:1/?timeout=0",
            "kafka://s3cret@h:1",
            "kafka://h:1/?mechanism=PLAIN",
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{url}");
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn nothing_that_may_be_secret_is_shown() {
        let options = parse("kafka://u:s3cret@h:1/?ssl.keystore.password=s3cret").unwrap();
        let shown = format!("{options:?}");
        assert!(
            !shown.contains("s3cret") && shown.contains("ssl.keystore.password"),
            "{shown}"
        );
    }
}
