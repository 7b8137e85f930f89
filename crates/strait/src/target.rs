//! Where an engine is, as text: schemes, and how an address is shown without its secrets.

use std::fmt;
use std::path::{Path, PathBuf};

use strait_core::{Error, Kind, Result};

/// A parsed address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `file:DIR`
    Directory(PathBuf),
    /// `file:DIR?read_only=true`
    ReadOnly(PathBuf),
    /// `memory:`
    Memory,
    /// A path that ends in `.toml`.
    Config(PathBuf),
    /// `kafka://HOST:PORT`
    #[cfg(feature = "kafka")]
    Kafka(Address<strait_kafka::Options>),
    /// `redis://HOST:PORT`
    #[cfg(feature = "redis")]
    Redis(Address<strait_redis::Options>),
}

/// What a foreign engine is reached with, and its address without secrets.
#[cfg(any(feature = "kafka", feature = "redis"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address<O> {
    shown: String,
    pub(crate) options: Box<O>,
}

#[cfg(any(feature = "kafka", feature = "redis"))]
impl<O> Address<O> {
    fn new(text: &str, options: O) -> Self {
        Address {
            shown: redact(text),
            options: Box::new(options),
        }
    }
}

/// What this build opens, for errors and help.
fn known() -> String {
    let mut known = Vec::new();
    if cfg!(feature = "embedded") {
        known.extend(["`file:DIR`", "`memory:`"]);
    }
    if cfg!(feature = "kafka") {
        known.push("`kafka://HOST:PORT`");
    }
    if cfg!(feature = "redis") {
        known.push("`redis://HOST:PORT`");
    }
    if known.is_empty() {
        return "none: this build of `strait` was made without the feature of any engine".into();
    }
    known.push("the path of a `.toml` file that names one of them");
    known.join(", ")
}

/// Schemes of engines with the feature that brings them; `None`: there is none yet.
const FEATURES: [(&str, Option<&str>); 9] = [
    ("kafka", Some("kafka")),
    ("kafka+ssl", Some("kafka")),
    ("redis", Some("redis")),
    ("rediss", Some("redis")),
    ("valkey", Some("redis")),
    ("valkeys", Some("redis")),
    ("nats", None),
    ("amqp", None),
    ("temporal", None),
];

impl Target {
    /// Reads `text`. The scheme decides; anything unknown is refused with the list of what this build knows.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.ends_with(".toml") && !text.contains("://") && !text.starts_with("file:") {
            return Ok(Target::Config(PathBuf::from(text)));
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(unknown(
                text,
                "it has no scheme",
                Some(format!("a directory is written `file:{}`", redact(text))),
            ));
        };
        match scheme {
            "file" => directory(text, rest),
            "memory" if rest.is_empty() || rest == "//" => Ok(Target::Memory),
            "memory" => Err(unknown(text, "`memory:` takes nothing after it", None)),
            "strait" => Err(unknown(
                text,
                "other machines cannot be reached by this build",
                Some(
                    "open the directory itself (`file:DIR`): processes of one machine share it"
                        .into(),
                ),
            )),
            #[cfg(feature = "kafka")]
            "kafka" | "kafka+ssl" => {
                let options = strait_kafka::Options::from_url(text);
                let options = options.map_err(|error| error.during("open"))?;
                Ok(Target::Kafka(Address::new(text, options)))
            }
            #[cfg(feature = "redis")]
            "redis" | "rediss" | "valkey" | "valkeys" => {
                let options = strait_redis::Options::from_url(text);
                let options = options.map_err(|error| error.during("open"))?;
                Ok(Target::Redis(Address::new(text, options)))
            }
            _ => Err(no_engine(text, scheme)),
        }
    }

    /// Whether the options of the embedded engine mean something here.
    pub(crate) fn is_embedded(&self) -> bool {
        matches!(
            self,
            Target::Directory(_) | Target::ReadOnly(_) | Target::Memory
        )
    }

    /// This target with relative paths taken from `base` instead of the working directory.
    pub(crate) fn relative_to(self, base: &Path) -> Self {
        match self {
            Target::Directory(dir) if dir.is_relative() => Target::Directory(base.join(dir)),
            Target::ReadOnly(dir) if dir.is_relative() => Target::ReadOnly(base.join(dir)),
            other => other,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Directory(dir) => write!(f, "file:{}", dir.display()),
            Target::ReadOnly(dir) => write!(f, "file:{}?read_only=true", dir.display()),
            Target::Memory => f.write_str("memory:"),
            Target::Config(path) => write!(f, "{}", path.display()),
            #[cfg(feature = "kafka")]
            Target::Kafka(address) => f.write_str(&address.shown),
            #[cfg(feature = "redis")]
            Target::Redis(address) => f.write_str(&address.shown),
        }
    }
}

/// No engine of this build is meant by the scheme: one of another build, or none at all.
fn no_engine(text: &str, scheme: &str) -> Error {
    match FEATURES.iter().find(|(known, _)| *known == scheme) {
        Some((_, Some(feature))) => unknown(
            text,
            &format!("this build is without the feature `{feature}`"),
            Some(format!(
                "switch on the feature `{feature}` of the crate `strait`, or build the command with it: \
                 cargo install strait-cli --features {feature}"
            )),
        ),
        Some((_, None)) => unknown(
            text,
            &format!("there is no engine for `{scheme}:` yet"),
            None,
        ),
        None => unknown(
            text,
            &format!("`{}:` is no scheme of strait", redact(scheme)),
            None,
        ),
    }
}

fn directory(text: &str, rest: &str) -> Result<Target> {
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let path = match rest.strip_prefix("//") {
        // `file:///abs` names no host; `file://host/..` would.
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => {
            return Err(unknown(
                text,
                "a host in a `file:` address is not supported",
                Some("write `file:DIR` or `file:///DIR`".into()),
            ));
        }
        None => rest,
    };
    if path.is_empty() || path.contains('\0') {
        return Err(unknown(
            text,
            "it names no directory",
            Some("write `file:DIR`".into()),
        ));
    }
    match query {
        None | Some("read_only=false") => Ok(Target::Directory(PathBuf::from(path))),
        Some("read_only=true") => Ok(Target::ReadOnly(PathBuf::from(path))),
        Some(_) => Err(unknown(
            text,
            "what follows the `?` is no option of `file:`",
            Some("the only one is `file:DIR?read_only=true`".into()),
        )),
    }
}

fn unknown(text: &str, why: &str, next: Option<String>) -> Error {
    let text = redact(text);
    let shown: String = text
        .chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect();
    Error::new(Kind::Config, format!("`{shown}` cannot be opened: {why}"))
        .with("known", known())
        .during("open")
        .next(next.unwrap_or_else(|| format!("use one of: {}", known())))
}

/// `text` without user names, passwords and query values.
pub(crate) fn redact(text: &str) -> String {
    let (before, query) = match text.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (text, None),
    };
    let mut shown = match before.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = match rest.find('/') {
                Some(slash) => rest.split_at(slash),
                None => (rest, ""),
            };
            // The last `@` ends the user information: a password may hold one unescaped.
            let host = authority
                .rsplit_once('@')
                .map_or(authority.to_owned(), |(_, host)| format!("***@{host}"));
            // A password with an unescaped `/` puts the `@` into what looks like the path.
            match path.rsplit_once('@') {
                Some((_, after)) if host == authority => format!("{scheme}://***@{after}"),
                _ => format!("{scheme}://{host}{path}"),
            }
        }
        // No URL, but what looks like one that lost its slashes: a directory may be named `a@b`, a password may not show.
        None => match (before.split_once(':'), before.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, after))) if scheme != "file" => {
                format!("{scheme}:***@{after}")
            }
            _ => before.to_owned(),
        },
    };
    if let Some(query) = query {
        shown.push('?');
        let names: Vec<_> = query
            .split('&')
            .map(|pair| {
                pair.split_once('=')
                    .map_or(pair.to_owned(), |(name, _)| format!("{name}=***"))
            })
            .collect();
        shown.push_str(&names.join("&"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let dir = |text: &str| Target::Directory(text.into());
        assert_eq!(Target::parse("file:./data").unwrap(), dir("./data"));
        assert_eq!(Target::parse("file:///var/data").unwrap(), dir("/var/data"));
        assert_eq!(Target::parse("file:a.toml").unwrap(), dir("a.toml"));
        assert_eq!(
            dir("./data"),
            Target::parse("file:./data?read_only=false").unwrap()
        );
        assert_eq!(
            Target::parse("file:./data?read_only=true").unwrap(),
            Target::ReadOnly("./data".into())
        );
        assert_eq!(Target::parse("memory:").unwrap(), Target::Memory);
        assert_eq!(
            Target::parse("conf/strait.toml").unwrap(),
            Target::Config("conf/strait.toml".into())
        );
        for bad in [
            "",
            "data",
            "file:",
            "file://host/data",
            "file:data?readonly=true",
            "file:?read_only=true",
            "memory:x",
            "kafka://b/a-topic",
            "nats://b",
            "carrier:pigeon",
        ] {
            let error = Target::parse(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{bad}");
            assert!(error.advice().is_some(), "{bad}");
        }
    }

    #[cfg(not(feature = "kafka"))]
    #[test]
    fn a_feature_that_is_missing_is_named_with_how_to_get_it() {
        let error = Target::parse("kafka://ada:s3cret@broker").unwrap_err();
        assert!(error.message().contains("feature `kafka`"), "{error:?}");
        let advice = error.advice().unwrap();
        assert!(advice.contains("cargo install strait-cli --features kafka"));
    }

    #[cfg(feature = "redis")]
    #[test]
    fn a_redis_is_shown_without_its_secrets() {
        for scheme in ["redis", "rediss", "valkey", "valkeys"] {
            let target = Target::parse(&format!("{scheme}://:s3cret@host:6379/1")).unwrap();
            assert_eq!(target.to_string(), format!("{scheme}://***@host:6379/1"));
            assert!(!format!("{target:?}").contains("s3cret"), "{target:?}");
        }
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn a_cluster_is_shown_without_its_secrets() {
        let target = Target::parse("kafka://ada:s3cret@k1:9092,k2/?mechanism=PLAIN").unwrap();
        assert!(!target.is_embedded());
        assert_eq!(target.to_string(), "kafka://***@k1:9092,k2/?mechanism=***");
        assert!(!format!("{target:?}").contains("s3cret"), "{target:?}");
    }

    #[test]
    fn secrets_are_not_shown() {
        for text in [
            "kafka://ada:s3cret@broker:9092/x",
            "kafka://ada:s3cret@elsewhere@broker/x",
            "kafka://ada:s3/cret@broker/x",
            "redis://:s3cret@host/x?password=s3cret&db=1",
            "nowhere://ada:s3cret@host",
            "kafka:ada:s3cret@broker",
            "ada:s3cret@broker",
        ] {
            assert!(!redact(text).contains("s3"), "{}", redact(text));
            let error = Target::parse(text).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("s3"), "{error:?}");
        }
        assert_eq!(redact("file:./a@b"), "file:./a@b");
    }
}
