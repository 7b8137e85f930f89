//! How to reach a server: options in code, or in a URL.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::IntoConnectionInfo;
use strait_core::{Error, Kind, Result, Secret};

/// How to reach a Redis or Valkey server. `Debug` shows no secret.
///
/// ```
/// use strait_redis::Options;
/// let options = Options::from_url("rediss://shop:s3cret@cache.internal:6380/2")?;
/// assert_eq!((options.host.as_str(), options.port, options.database), ("cache.internal", 6380, 2));
/// assert!(options.tls && !format!("{options:?}").contains("s3cret"));
/// # Ok::<(), strait_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name or address of the server's machine.
    pub host: String,
    /// Its port; 6379 is the usual one.
    pub port: u16,
    /// The connection is encrypted.
    pub tls: bool,
    /// The certificates of the authorities that vouch for the server, a PEM file; `None`: those that the machine trusts. Only with
    /// `tls`.
    pub ca: Option<PathBuf>,
    /// The client's own certificate and its key, PEM files, for servers that ask for one. Only with `tls`.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The number of the database; 0 is the usual one.
    pub database: u32,
    /// The user (ACL); `None`: the default user.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// After this time a call that got no answer is given up. Default 10 s, at least 100 ms.
    pub timeout: Duration,
    /// How long opening waits for the server's first answer. Default 5 s.
    pub first_contact: Duration,
    /// A server that does not answer at opening is an error; otherwise the engine opens, is down, and tries again.
    pub strict: bool,
    /// How often topics with a retention are trimmed. Default 10 s.
    pub retention_every: Duration,
}

impl Options {
    /// Options with the defaults.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Options {
            host: host.into(),
            port,
            tls: false,
            ca: None,
            certificate: None,
            database: 0,
            username: None,
            password: None,
            timeout: Duration::from_secs(10),
            first_contact: Duration::from_secs(5),
            strict: false,
            retention_every: Duration::from_secs(10),
        }
    }

    /// Reads `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE][?NAME=VALUE&..]`; `rediss://` asks for TLS, `valkey://` and
    /// `valkeys://` mean the same.
    ///
    /// User and password are percent-encoded. Names: `timeout` and `first_contact` (seconds), `strict` (`true`, `false`); for TLS
    /// `ca` (a PEM file), `certificate` and `key` (the client's own, PEM files, both).
    ///
    /// # Errors
    ///
    /// `Config`; it never shows what stands before the `@`.
    pub fn from_url(text: &str) -> Result<Self> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad("it has no `://`"))?;
        let tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            "redis+sentinel" | "rediss+sentinel" => {
                return Err(Error::unsupported(
                    "this build does not ask sentinels for the primary",
                    "give the address of the primary: `redis://HOST:PORT`",
                ));
            }
            _ => {
                return Err(bad(
                    "its scheme is none of `redis`, `rediss`, `valkey`, `valkeys`",
                ));
            }
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // The client's own reader decodes what is percent-encoded.
        let plain = format!("{}://{rest}", if tls { "rediss" } else { "redis" });
        let info = plain.as_str().into_connection_info();
        // Its error may show the text.
        let info = info.map_err(|_| bad("host, port or database cannot be read"))?;
        let (host, port) = match info.addr() {
            redis::ConnectionAddr::Tcp(host, port) => (host, port),
            redis::ConnectionAddr::TcpTls { host, port, .. } => (host, port),
            _ => return Err(bad("it names no host")),
        };
        let mut options = Options::new(host.clone(), *port);
        options.tls = tls;
        let settings = info.redis_settings();
        options.database =
            u32::try_from(settings.db()).map_err(|_| bad("its database is no number"))?;
        options.username = settings.username().map(str::to_owned);
        options.password = settings.password().map(Secret::new);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            options.set(pair)?;
        }
        let missing = |(cert, key): &(PathBuf, PathBuf)| {
            cert.as_os_str().is_empty() || key.as_os_str().is_empty()
        };
        if options.certificate.as_ref().is_some_and(missing) {
            return Err(bad("of `certificate` and `key` one is missing"));
        }
        if !options.tls && (options.ca.is_some() || options.certificate.is_some()) {
            return Err(bad(
                "`ca`, `certificate` and `key` are for TLS: `rediss://`",
            ));
        }
        Ok(options)
    }

    fn set(&mut self, pair: &str) -> Result<()> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let seconds = || {
            let seconds: Option<f64> = value.parse().ok();
            let seconds = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
            seconds.ok_or_else(|| bad(&format!("`{name}` is no number of seconds")))
        };
        match name {
            "timeout" => self.timeout = seconds()?,
            "first_contact" => self.first_contact = seconds()?,
            "ca" => self.ca = Some(value.into()),
            "certificate" => self.certificate.get_or_insert_default().0 = value.into(),
            "key" => self.certificate.get_or_insert_default().1 = value.into(),
            "strict" => {
                let truth = value.parse();
                self.strict = truth.map_err(|_| bad("`strict` is neither `true` nor `false`"))?;
            }
            _ => {
                return Err(bad(&format!(
                    "`{}` is no option of it",
                    name.escape_debug()
                )));
            }
        }
        Ok(())
    }

    /// A bare client of this server, beside the engine.
    ///
    /// # Errors
    ///
    /// `Config` for options that cannot work.
    pub fn client(&self) -> Result<redis::Client> {
        let fault = |text: &str| Error::new(Kind::Config, text.to_owned());
        if self.host.is_empty() {
            return Err(fault("no host of a Redis server is given"));
        }
        if self.timeout < Duration::from_millis(100) {
            return Err(fault("the timeout of calls to Redis is less than 100 ms"));
        }
        let (host, port) = (self.host.clone(), self.port);
        let addr = match self.tls {
            false => redis::ConnectionAddr::Tcp(host, port),
            true => redis::ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
        };
        let mut settings = redis::RedisConnectionInfo::default().set_db(i64::from(self.database));
        if let Some(user) = &self.username {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password.reveal());
        }
        let info = addr.into_connection_info();
        let info = info.map_err(|error| {
            fault("the address of the Redis server cannot be used").caused_by(error)
        })?;
        let info = info.set_redis_settings(settings);
        if self.tls {
            // The client chooses none by itself, and a program that has chosen one keeps it.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = match (&self.ca, &self.certificate) {
            (None, None) => redis::Client::open(info),
            _ if !self.tls => {
                return Err(fault(
                    "certificates are given, and no TLS for the connection to Redis",
                ));
            }
            _ => redis::Client::build_with_tls(info, self.certificates()?),
        };
        client.map_err(|error| {
            fault("a client of Redis cannot be made, with these certificates where some are given")
                .caused_by(error)
        })
    }

    fn certificates(&self) -> Result<redis::TlsCertificates> {
        let client_tls = match &self.certificate {
            Some((certificate, key)) => Some(redis::ClientTlsConfig {
                client_cert: read("the certificate", certificate)?,
                client_key: read("the key of the certificate", key)?,
            }),
            None => None,
        };
        let ca = self.ca.as_deref();
        Ok(redis::TlsCertificates {
            client_tls,
            root_cert: ca
                .map(|ca| read("the certificates of the authorities", ca))
                .transpose()?,
        })
    }

    /// The address, for people.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        let text = format!("{what} for Redis cannot be read: {}", path.display());
        Error::new(Kind::Config, text)
            .caused_by(error)
            .next("give the path of a PEM file that this program may read")
    })
}

fn bad(why: &str) -> Error {
    Error::new(
        Kind::Config,
        format!("the address of a Redis server cannot be used: {why}"),
    )
    .next("write `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let plain = Options::from_url("redis://127.0.0.1").unwrap();
        assert_eq!(plain, Options::new("127.0.0.1", 6379));
        let all =
            Options::from_url("valkeys://ada:s%40cret@h:1/3?timeout=2.5&strict=true").unwrap();
        assert_eq!(all.password, Some(Secret::new("s@cret")));
        assert_eq!(all.username.as_deref(), Some("ada"));
        assert!(all.tls && all.strict && all.database == 3);
        assert_eq!(all.timeout, Duration::from_millis(2500));
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_its_secrets() {
        for text in [
            "redis:s3cret@h",
            "redis://ada:s3cret@h:port",
            "redis://ada:s3cret@h:99999",
            "redis://ada:s3cret@h/one",
            "redis://ada:s3cret@h?timeout=s",
            "redis://ada:s3cret@h?strict=maybe",
            "redis://ada:s3cret@h?timeouts=1",
            "redis://ada:s3cret@h?ca=/etc/ca.pem",
            "rediss://ada:s3cret@h?certificate=/etc/own.pem",
            "http://ada:s3cret@h",
            "redis+sentinel://ada:s3cret@h",
        ] {
            let error = Options::from_url(text).unwrap_err();
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
            assert!(error.advice().is_some(), "{text}");
        }
    }
}
