//! How to reach a cluster: options in code, or in a URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use strait_core::{Error, Kind, Result, Secret};

mod url;

/// How the connection is protected (`security.protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// Neither encrypted nor authenticated.
    #[default]
    Plaintext,
    /// TLS.
    Ssl,
    /// User and password over a connection that is not encrypted.
    SaslPlaintext,
    /// User and password over TLS.
    SaslSsl,
}

impl Security {
    fn as_str(self) -> &'static str {
        match self {
            Security::Plaintext => "PLAINTEXT",
            Security::Ssl => "SSL",
            Security::SaslPlaintext => "SASL_PLAINTEXT",
            Security::SaslSsl => "SASL_SSL",
        }
    }
}

/// Which protocol consumer groups speak (`group.protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GroupProtocol {
    /// Members agree among themselves, cooperative-sticky.
    #[default]
    Classic,
    /// The broker assigns (KIP-848): Kafka 4, quicker when members come and go.
    Consumer,
}

/// How to reach a Kafka cluster. `Debug` shows no secret.
///
/// ```
/// use strait_kafka::{Options, Security};
/// let options = Options::from_url("kafka://shop:s3cret@k1:9092,k2:9092/?mechanism=SCRAM-SHA-512")?;
/// assert_eq!(options.brokers, "k1:9092,k2:9092");
/// assert_eq!(options.security, Security::SaslPlaintext);
/// assert!(!format!("{options:?}").contains("s3cret"));
/// # Ok::<(), strait_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// `HOST:PORT`, several with commas: where the cluster is asked for its brokers.
    pub brokers: String,
    /// How the connection is protected.
    pub security: Security,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`; `None`: `PLAIN`. Only with a SASL security.
    pub mechanism: Option<String>,
    /// The user.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// PEM file of the authorities that are trusted; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM file of the client's certificate.
    pub certificate: Option<PathBuf>,
    /// PEM file of the client's key.
    pub key: Option<PathBuf>,
    /// What the client's key is encrypted with.
    pub key_password: Option<Secret>,
    /// How the client names itself to brokers: in their logs, quotas and lists of members. Default `strait`.
    pub client_id: String,
    /// Which protocol consumer groups speak.
    pub group_protocol: GroupProtocol,
    /// Static membership: a member that comes back under this id within the session's time keeps its partitions. One member
    /// of a group at a time may have it.
    pub instance_id: Option<String>,
    /// After this time a call that got no answer is given up. Default 30 s, at least 1 s.
    pub timeout: Duration,
    /// How long opening waits for the cluster's first answer. Default 5 s.
    pub first_contact: Duration,
    /// A cluster that does not answer at opening is an error; otherwise the engine opens, is down, and tries again.
    pub strict: bool,
    /// Settings of librdkafka, over the defaults of this crate. Those that the engine's promises rest on are refused.
    pub settings: Vec<(String, String)>,
}

impl Options {
    /// Options with the defaults.
    pub fn new(brokers: impl Into<String>) -> Self {
        Options {
            brokers: brokers.into(),
            security: Security::default(),
            mechanism: None,
            username: None,
            password: None,
            ca: None,
            certificate: None,
            key: None,
            key_password: None,
            client_id: "strait".to_owned(),
            group_protocol: GroupProtocol::default(),
            instance_id: None,
            timeout: Duration::from_secs(30),
            first_contact: Duration::from_secs(5),
            strict: false,
            settings: Vec::new(),
        }
    }

    /// Reads `kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT..]/[?NAME=VALUE&..]`; `kafka+ssl://` asks for TLS.
    ///
    /// User and password are percent-encoded. Names: `mechanism`, `ca`, `certificate`, `key`, `client_id`, `group_protocol`
    /// (`classic`, `consumer`), `instance_id`, `timeout` and `first_contact` (seconds), `strict` (`true`, `false`); a name with
    /// a dot is a setting of librdkafka. A port left out is 9092.
    ///
    /// # Errors
    ///
    /// `Config`; it never shows what stands before the `@`.
    pub fn from_url(text: &str) -> Result<Self> {
        url::parse(text)
    }

    /// What every client of this engine is made with, for a bare client beside it: addresses, protection, and the settings
    /// that were given.
    ///
    /// # Errors
    ///
    /// `Config` for options that cannot work.
    pub fn client(&self) -> Result<ClientConfig> {
        self.check()?;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config.set("client.id", &self.client_id);
        config.set("security.protocol", self.security.as_str());
        config.set("reconnect.backoff.ms", "50");
        config.set("reconnect.backoff.max.ms", "2000");
        config.set("socket.keepalive.enable", "true");
        if matches!(self.security, Security::SaslPlaintext | Security::SaslSsl) {
            config.set(
                "sasl.mechanism",
                self.mechanism.as_deref().unwrap_or("PLAIN"),
            );
        }
        let secret =
            |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.reveal().to_owned());
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let given = [
            ("sasl.username", self.username.clone()),
            ("sasl.password", secret(&self.password)),
            ("ssl.ca.location", path(&self.ca)),
            ("ssl.certificate.location", path(&self.certificate)),
            ("ssl.key.location", path(&self.key)),
            ("ssl.key.password", secret(&self.key_password)),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                config.set(name, value);
            }
        }
        for (name, value) in &self.settings {
            config.set(name, value);
        }
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let fault = |text: String| Err(Error::new(Kind::Config, text));
        if self.brokers.trim().is_empty() {
            return fault("no address of a Kafka broker is given".to_owned());
        }
        if self.timeout < Duration::from_secs(1) {
            return fault("the timeout of calls to Kafka is less than a second".to_owned());
        }
        if let Some((name, _)) = self.settings.iter().find(|(name, _)| is_own(name)) {
            let text = format!("the setting `{name}` of librdkafka is the engine's own");
            return Err(Error::new(Kind::Config, text)
                .next("leave it out; what can be chosen has an option of its own"));
        }
        let sasl = matches!(self.security, Security::SaslPlaintext | Security::SaslSsl);
        if !sasl && (self.username.is_some() || self.mechanism.is_some()) {
            return fault("a user is given, but the security has no SASL".to_owned());
        }
        if sasl && (self.username.is_none() || self.password.is_none()) {
            return fault(
                "the security is SASL, and the user or the password is missing".to_owned(),
            );
        }
        Ok(())
    }
}

/// Settings that the promises rest on, or that have an option.
fn is_own(name: &str) -> bool {
    const OWN: &[&str] = &[
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "client.id",
        "delivery.timeout.ms",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "isolation.level",
        "log.queue",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "message.timeout.ms",
        "metadata.broker.list",
        "partition.assignment.strategy",
        "request.required.acks",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.password",
        "sasl.username",
        "security.protocol",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.key.password",
        "transactional.id",
    ];
    OWN.contains(&name)
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A setting may be a secret that this crate does not know as one.
        let names: Vec<&str> = self.settings.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("Options")
            .field("brokers", &self.brokers)
            .field("security", &self.security)
            .field("mechanism", &self.mechanism)
            .field("username", &self.username)
            .field("password", &self.password)
            .field("ca", &self.ca)
            .field("certificate", &self.certificate)
            .field("key", &self.key)
            .field("key_password", &self.key_password)
            .field("client_id", &self.client_id)
            .field("group_protocol", &self.group_protocol)
            .field("instance_id", &self.instance_id)
            .field("timeout", &self.timeout)
            .field("first_contact", &self.first_contact)
            .field("strict", &self.strict)
            .field("settings", &names)
            .finish()
    }
}
