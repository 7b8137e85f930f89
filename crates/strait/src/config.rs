//! The configuration file, `strait.toml`.
//!
//! ```toml
//! url = "file:./data"        # the engine; a relative directory counts from this file
//!
//! [engines]                  # more engines, by names of your choice
//! broker = "kafka://127.0.0.1:9092"
//!
//! [topics]                   # topics that live on one of them; all others on `url`
//! orders = "broker"
//! "metrics.*" = "broker"     # all whose names begin so; the longest that fits decides
//!
//! [engine]                   # options of the embedded engine of `url`, all optional
//! durability = "fsync"       # or "os": survives the process, not a power cut
//! queue_bytes = 67108864     # appends that may wait for the disk
//! segment_bytes = 67108864
//! checkpoint_bytes = 1073741824
//! checkpoint_records = 1000000
//! memory_bytes = 1073741824  # what `memory:` may hold
//! body_limit = 1048576       # longest body
//! retention_every = "10s"
//! cleaner_share = 50         # percent of the time that the cleaner may use the disk
//! listen = true              # answer other processes that open the directory
//! wait_for_lock = "30s"      # where another process has the directory and does not share it
//!
//! [alarm]                    # on the engine of `url`, while an app runs or `strait dev` does; see `strait::alarm`
//! dead_letters = 100         # at least one limit
//! parked = 10000
//! lag = 1000000
//! age = "10m"
//! full_in = "2d"             # the disk is full in less than this
//! url = "http://127.0.0.1:9000/alarms"  # where to post to, or:
//! # command = ["./page.sh", "--urgent"] # what to run, from where the process runs
//! groups = ["billing"]       # only these; all unless it is said
//! allow_hosts = ["hooks.internal"]  # hosts that `url` may name beside this machine
//! every = "10s"              # how often to look
//! ```
//!
//! Unknown keys are refused with their name and line. Durations are text: `500ms`, `30s`, `10m`, `24h`, `7d`.
//! An environment variable wins over the file: `STRAIT_URL`, and `STRAIT_ENGINE_` with the key in capitals, for
//! example `STRAIT_ENGINE_DURABILITY=os`. A `STRAIT_ENGINE_` variable that is no key is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer};
use strait_core::{Error, Kind, Result};

use crate::alarm::{Alarm, Checked};
use crate::open::{EngineOptions, Strait, open_target};
use crate::places::{Pattern, Places};
use crate::target::Target;

/// What a configuration file says, checked.
#[derive(Debug, Clone)]
pub struct Config {
    target: Target,
    engine: EngineOptions,
    alarm: Option<Checked>,
    /// More engines by name.
    others: Vec<(String, Target)>,
    /// Topics, with the index of their engine in `others`.
    topics: Vec<(Pattern, usize)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    url: Option<String>,
    #[serde(default)]
    engine: EngineTable,
    #[serde(default)]
    engines: BTreeMap<String, String>,
    #[serde(default)]
    topics: BTreeMap<String, String>,
    alarm: Option<AlarmTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AlarmTable {
    dead_letters: Option<u64>,
    parked: Option<u64>,
    lag: Option<u64>,
    #[serde(default, deserialize_with = "duration")]
    age: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    full_in: Option<Duration>,
    url: Option<String>,
    command: Option<Vec<String>>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    allow_hosts: Vec<String>,
    #[serde(default, deserialize_with = "duration")]
    every: Option<Duration>,
}

impl AlarmTable {
    fn checked(self) -> Result<Checked> {
        let mut alarm = match (self.url, self.command) {
            (Some(url), None) => Alarm::post(url),
            (None, Some(command)) => Alarm::command(command),
            _ => {
                let why = "`alarm` needs either `url` or `command`, which say who is told";
                return Err(config_error(why));
            }
        };
        let limit = |alarm: Alarm, value: Option<u64>, set: fn(Alarm, u64) -> Alarm| match value {
            Some(value) => set(alarm, value),
            None => alarm,
        };
        alarm = limit(alarm, self.dead_letters, Alarm::dead_letters);
        alarm = limit(alarm, self.parked, Alarm::parked);
        alarm = limit(alarm, self.lag, Alarm::lag);
        if let Some(age) = self.age {
            alarm = alarm.age(age);
        }
        if let Some(full_in) = self.full_in {
            alarm = alarm.full_in(full_in);
        }
        if let Some(every) = self.every {
            alarm = alarm.every(every);
        }
        alarm = self.groups.into_iter().fold(alarm, Alarm::group);
        alarm = self.allow_hosts.into_iter().fold(alarm, Alarm::allow_host);
        alarm.check()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(
    not(feature = "embedded"),
    expect(
        dead_code,
        reason = "checked for what they are; there is no engine to give them to, which opening says"
    )
)]
struct EngineTable {
    durability: Option<DurabilityWord>,
    queue_bytes: Option<usize>,
    segment_bytes: Option<u64>,
    checkpoint_bytes: Option<u64>,
    checkpoint_records: Option<u64>,
    memory_bytes: Option<u64>,
    body_limit: Option<usize>,
    #[serde(default, deserialize_with = "duration")]
    retention_every: Option<Duration>,
    cleaner_share: Option<u8>,
    listen: Option<bool>,
    #[serde(default, deserialize_with = "duration")]
    wait_for_lock: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DurabilityWord {
    Fsync,
    Os,
}

impl Config {
    /// Reads a file and the environment.
    ///
    /// # Errors
    ///
    /// `NotFound` or `Denied` for the file, `Config` for what it says, naming key and line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::io(format!("the configuration `{}`", path.display()), e).during("open")
        })?;
        let base = path.parent().map(Path::to_owned).unwrap_or_default();
        Self::parse(&text, &base, std::env::vars_os())
            .map_err(|e| e.with("file", path.display()).during("open"))
    }

    /// Checks `text`. `base` is where relative directories begin; `env` overrides.
    fn parse(
        text: &str,
        base: &Path,
        env: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Self> {
        // Once alone, so that an error in the file shows the file's own line; then with the environment on top.
        toml::from_str::<File>(text).map_err(|e| error_in(text, &e))?;
        let mut table: toml::Table = toml::from_str(text).map_err(|e| error_in(text, &e))?;
        let file_base = base.to_owned();
        let mut base = base.to_owned();
        for (name, value) in env {
            override_with(&mut table, &mut base, &name, &value)?;
        }
        let engine_options = table.contains_key("engine");
        let file: File = toml::Value::Table(table)
            .try_into()
            .map_err(|e: toml::de::Error| config_error(e.message()))?;
        let url = file.url.ok_or_else(|| {
            config_error("it has no `url`").next("add a line such as `url = \"file:./data\"`")
        })?;
        let target = engine_of("url", &url)?.relative_to(&base);
        if engine_options && !target.is_embedded() {
            return Err(config_error(
                "`[engine]` (or a variable `STRAIT_ENGINE_..`) has options of the embedded engine, and `url` names another",
            ));
        }
        let mut others = Vec::new();
        for (name, url) in &file.engines {
            if name == "url" {
                return Err(config_error(
                    "an engine of `[engines]` cannot be named `url`: that is the one at the top",
                ));
            }
            let target = engine_of(&format!("engines.{name}"), url)?;
            others.push((name.clone(), target.relative_to(&file_base)));
        }
        Ok(Config {
            target,
            engine: file.engine.options(),
            alarm: file.alarm.map(AlarmTable::checked).transpose()?,
            topics: places_of(&file.topics, &others)?,
            others,
        })
    }

    /// The engines that it names with their addresses, without secrets: that of `url` first, under the name `url`.
    pub fn engines(&self) -> impl Iterator<Item = (&str, String)> {
        let others = self
            .others
            .iter()
            .map(|(name, target)| (name.as_str(), target));
        let all = [("url", &self.target)].into_iter().chain(others);
        all.map(|(name, target)| (name, target.to_string()))
    }

    /// The topics that do not live on the engine of `url`, as they are written, with the names of their engines.
    pub fn topics(&self) -> impl Iterator<Item = (String, &str)> {
        let engine = |index: usize| {
            self.others
                .get(index)
                .map_or("url", |(name, _)| name.as_str())
        };
        self.topics
            .iter()
            .map(move |(pattern, index)| (pattern.to_string(), engine(*index)))
    }

    /// Opens one of the engines by its name, alone.
    ///
    /// # Errors
    ///
    /// `NotFound` for a name that it does not have; as for [`Strait::open`].
    pub async fn open_one(&self, name: &str) -> Result<Strait> {
        if name == "url" {
            return open_target(self.target.clone(), self.engine.clone()).await;
        }
        let other = self.others.iter().find(|(other, _)| other == name);
        let (_, target) = other.ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("the configuration names no engine `{name}`"),
            )
        })?;
        open_target(target.clone(), EngineOptions::default()).await
    }

    /// Opens the engines that it names.
    ///
    /// # Errors
    ///
    /// As for [`Strait::open`].
    pub async fn open(self) -> Result<Strait> {
        let strait = open_target(self.target, self.engine).await?;
        let mut places = Places {
            topics: self.topics,
            ..Places::default()
        };
        for (name, target) in self.others {
            match open_target(target, EngineOptions::default()).await {
                Ok(other) => places.engines.push((name, other)),
                Err(error) => {
                    // What is open already is closed, not left to be found.
                    strait.configured(None, places).close().await;
                    return Err(error.with("engine", name));
                }
            }
        }
        Ok(strait.configured(self.alarm, places))
    }
}

/// The engine that a key of the file names.
fn engine_of(key: &str, url: &str) -> Result<Target> {
    match Target::parse(url).map_err(|e| e.with("key", key))? {
        Target::Config(_) => Err(config_error(&format!(
            "its `{key}` names another configuration file"
        ))),
        target => Ok(target),
    }
}

/// Which topics live on which of the other engines.
fn places_of(
    topics: &BTreeMap<String, String>,
    others: &[(String, Target)],
) -> Result<Vec<(Pattern, usize)>> {
    let mut places = Vec::new();
    for (pattern, engine) in topics {
        let index = others.iter().position(|(name, _)| name == engine);
        let Some(index) = index else {
            let known: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            return Err(config_error(&format!(
                "the topic `{pattern}` is to live on `{engine}`, which `[engines]` does not name (it names {known})"
            )));
        };
        let pattern = Pattern::parse(pattern)
            .map_err(|e| config_error(&format!("the topic `{pattern}`: {}", e.message())))?;
        places.push((pattern, index));
    }
    Ok(places)
}

impl EngineTable {
    #[cfg(feature = "embedded")]
    fn options(self) -> EngineOptions {
        use strait_core::events::Durability;
        let mut share = EngineOptions::default();
        let options = &mut share.engine;
        if let Some(word) = self.durability {
            options.durability = match word {
                DurabilityWord::Fsync => Durability::Fsynced,
                DurabilityWord::Os => Durability::Os,
            };
        }
        set(&mut options.queue_bytes, self.queue_bytes);
        set(&mut options.segment_bytes, self.segment_bytes);
        set(&mut options.checkpoint_bytes, self.checkpoint_bytes);
        set(&mut options.checkpoint_records, self.checkpoint_records);
        set(&mut options.memory_bytes, self.memory_bytes);
        set(&mut options.limits.body, self.body_limit);
        set(&mut options.retention_every, self.retention_every);
        set(&mut options.cleaner_share, self.cleaner_share);
        set(&mut share.listen, self.listen);
        share.wait_for_lock = self.wait_for_lock;
        share
    }

    #[cfg(not(feature = "embedded"))]
    fn options(self) -> EngineOptions {
        EngineOptions {}
    }
}

#[cfg(feature = "embedded")]
fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Puts one environment variable over the file, when it is ours.
fn override_with(
    table: &mut toml::Table,
    base: &mut PathBuf,
    name: &std::ffi::OsStr,
    value: &std::ffi::OsStr,
) -> Result<()> {
    let Some(name) = name.to_str().filter(|name| name.starts_with("STRAIT_")) else {
        return Ok(());
    };
    let key = name.strip_prefix("STRAIT_ENGINE_");
    if name != "STRAIT_URL" && key.is_none() {
        return Ok(());
    }
    let value = value
        .to_str()
        .ok_or_else(|| config_error(&format!("the environment variable {name} is not UTF-8")))?;
    let Some(key) = key else {
        table.insert("url".into(), value.into());
        // Typed into a shell, a relative directory counts from where the shell is.
        *base = PathBuf::new();
        return Ok(());
    };
    let key = key.to_ascii_lowercase();
    let engine = table
        .entry("engine")
        .or_insert_with(|| toml::Table::new().into())
        .as_table_mut()
        .ok_or_else(|| config_error("`engine` is not a table"))?;
    let value = match (value.parse::<i64>(), value.parse::<bool>()) {
        (Ok(number), _) => toml::Value::from(number),
        (_, Ok(flag)) => toml::Value::from(flag),
        _ => toml::Value::from(value),
    };
    engine.insert(key.clone(), value);
    EngineTable::deserialize(toml::Value::Table(engine.clone()))
        .map(drop)
        .map_err(|e| {
            config_error(&format!(
                "the environment variable {name} (key `{key}`): {}",
                e.message()
            ))
        })
}

/// What is wrong, with line and key, and without the line itself: it may hold a password.
fn error_in(text: &str, error: &toml::de::Error) -> Error {
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return config_error(error.message());
    };
    let line = before.matches('\n').count();
    let key = text.lines().nth(line).and_then(|line| line.split_once('='));
    let bare = |key: &&str| {
        key.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    };
    let key = key
        .map(|(key, _)| key.trim())
        .filter(bare)
        .map(|key| format!(", key `{key}`"));
    config_error(&format!(
        "line {}{}: {}",
        line + 1,
        key.unwrap_or_default(),
        error.message()
    ))
}

fn config_error(why: &str) -> Error {
    Error::new(
        Kind::Config,
        format!("the configuration cannot be used: {}", why.trim_end()),
    )
    .next("the keys are listed in the documentation of `strait::config`")
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map(Some).map_err(de::Error::custom)
}

/// Reads a duration such as `500ms`, `30s`, `10m`, `24h`, `7d`: a whole number and one unit.
///
/// # Errors
///
/// A sentence that says what is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || {
        format!(
            "`{}` is not a duration; write for example `500ms`, `30s`, `10m`, `24h`, `7d`",
            text.escape_debug()
        )
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "url = \"file:data\"\n\n[engine]\nretention_every = \"30s\"\n";

    fn parse(text: &str, env: &[(&str, &str)]) -> Result<Config> {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        Config::parse(text, Path::new("/etc/shop"), env)
    }

    #[test]
    fn a_relative_directory_counts_from_the_file_and_in_the_environment_from_the_shell() {
        let of = |env: &[(&str, &str)]| parse(FILE, env).unwrap().target;
        assert_eq!(of(&[]), Target::Directory("/etc/shop/data".into()));
        assert_eq!(
            of(&[("STRAIT_URL", "file:here")]),
            Target::Directory("here".into())
        );
        assert_eq!(of(&[("STRAIT_URL", "memory:")]), Target::Memory);
        // Other programs' variables, and ours that are not for this file, mean nothing here.
        assert_eq!(
            of(&[("STRAIT_SEED", "7"), ("URL", "memory:")]),
            Target::Directory("/etc/shop/data".into())
        );
    }

    #[cfg(feature = "embedded")]
    #[test]
    fn the_environment_is_put_over_the_files_options() {
        let options = |env: &[(&str, &str)]| parse(FILE, env).unwrap().engine;
        assert_eq!(options(&[]).engine.retention_every, Duration::from_secs(30));
        assert!(options(&[]).listen);
        let over = options(&[
            ("STRAIT_ENGINE_RETENTION_EVERY", "5m"),
            ("STRAIT_ENGINE_DURABILITY", "os"),
            ("STRAIT_ENGINE_BODY_LIMIT", "4096"),
            ("STRAIT_ENGINE_LISTEN", "false"),
            ("STRAIT_ENGINE_WAIT_FOR_LOCK", "2s"),
        ]);
        assert!(!over.listen);
        assert_eq!(over.wait_for_lock, Some(Duration::from_secs(2)));
        let over = over.engine;
        assert_eq!(over.retention_every, Duration::from_secs(300));
        assert_eq!(over.durability, strait_core::events::Durability::Os);
        assert_eq!(over.limits.body, 4096);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let refused = |text: &str, env: &[(&str, &str)], names: &[&str]| {
            let error = parse(text, env).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{error:?}");
            for name in names {
                assert!(error.to_string().contains(name), "no {name} in: {error}");
            }
        };
        refused(
            "url = \"memory:\"\nqueue = 1\n",
            &[],
            &["`queue`", "line 2"],
        );
        let engine = "url = \"memory:\"\n[engine]\n\nsegments = 1\n";
        refused(engine, &[], &["`segments`", "line 4", "segment_bytes"]);
        refused(
            "url = \"memory:\"\n[engine]\nretention_every = \"half a day\"\n",
            &[],
            &["half a day", "line 3", "`retention_every`", "30s"],
        );
        refused("url = memory", &[], &["line 1"]);
        refused("", &[], &["no `url`"]);
        refused("url = \"other.toml\"", &[], &["another configuration file"]);
        refused(
            FILE,
            &[("STRAIT_ENGINE_SEGMENTS", "1")],
            &["STRAIT_ENGINE_SEGMENTS", "`segments`"],
        );
        refused(
            FILE,
            &[("STRAIT_ENGINE_BODY_LIMIT", "much")],
            &["STRAIT_ENGINE_BODY_LIMIT"],
        );
    }

    #[test]
    fn topics_live_where_it_says() {
        let text =
            "url = \"memory:\"\n[engines]\nbroker = \"file:log\"\n[topics]\norders = \"broker\"\n";
        let config = parse(text, &[("STRAIT_URL", "file:here")]).unwrap();
        let broker = Target::Directory("/etc/shop/log".into());
        assert_eq!(config.others, [("broker".to_owned(), broker)]);
        assert_eq!(config.topics, [(Pattern::parse("orders").unwrap(), 0)]);
        for (wrong, names) in [
            (
                text.replace("orders = \"broker\"", "orders = \"brokre\""),
                "brokre",
            ),
            (text.replace("orders =", "\"*\" ="), "every topic"),
            (text.replace("file:log", "log"), "engines.broker"),
            (
                text.replace("file:log", "other.toml"),
                "another configuration file",
            ),
        ] {
            let error = parse(&wrong, &[]).unwrap_err().to_string();
            assert!(error.contains(names), "no {names} in: {error}");
        }
    }

    #[cfg(feature = "embedded")]
    #[tokio::test]
    async fn each_topic_is_on_its_engine() {
        let text =
            "url = \"memory:\"\n[engines]\nother = \"memory:\"\n[topics]\n\"far.*\" = \"other\"\n";
        let strait = parse(text, &[]).unwrap().open().await.unwrap();
        for topic in ["near", "far.one"] {
            let topic = strait
                .events()
                .topic::<crate::Raw>(topic)
                .partitions(1)
                .await
                .unwrap();
            topic.append(&crate::Raw::new("a.v1", "1")).await.unwrap();
        }
        let names = |topics: Vec<strait_core::events::TopicInfo>| {
            topics
                .into_iter()
                .map(|topic| topic.name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(strait.events().topics().await.unwrap()),
            ["far.one", "near"]
        );
        let there = strait
            .at("far.one")
            .events_lane()
            .unwrap()
            .topics()
            .await
            .unwrap();
        assert_eq!(names(there), ["far.one"]);
        // What works on one engine does not take the first.
        let to = Strait::memory().unwrap();
        let mirror = crate::mirror::Mirror::new(&strait, &to).topic("far.one".parse().unwrap());
        let refused = mirror.once().run(std::future::pending()).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Config);
        strait.close().await;
        let closed = strait.at("far.one").events_lane().unwrap().topics().await;
        assert_eq!(closed.unwrap_err().kind(), Kind::Closed);
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn options_of_the_embedded_engine_are_refused_for_another() {
        let url = "url = \"kafka://broker:9092\"\n";
        assert!(parse(url, &[]).is_ok());
        let with_options = format!("{url}[engine]\ndurability = \"os\"\n");
        for (text, env) in [
            (with_options.as_str(), &[][..]),
            (url, &[("STRAIT_ENGINE_DURABILITY", "os")][..]),
        ] {
            let error = parse(text, env).unwrap_err();
            assert!(error.message().contains("embedded"), "{error}");
        }
    }

    #[test]
    fn secrets_of_an_address_are_not_shown() {
        let error = parse("url = \"kafka://ada:s3cret@broker/x\"", &[]).unwrap_err();
        assert!(
            !format!("{error:?} {error}").contains("s3cret"),
            "{error:?}"
        );
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for bad in [
            "",
            "s",
            "5",
            "-5s",
            "5 s",
            "1.5h",
            "99999999999999999999s",
            "18446744073709551615d",
            "5µs",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
