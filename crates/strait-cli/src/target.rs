//! What a command works on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use strait::Strait;
use strait::core::events::{Events, GroupInfo, TopicInfo};
use strait::core::{Error, Health, Kind, Name, codes};

use crate::args::Global;
use crate::fail::{Failure, Outcome, nearest};

/// The default data directory.
pub(crate) const DEFAULT_URL: &str = "file:./strait-data";

/// What is under way when a command ends gets this long.
const GRACE: Duration = Duration::from_secs(5);

/// An opened engine.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) strait: Strait,
    pub(crate) events: Arc<dyn Events>,
    /// The URL as it was given.
    pub(crate) url: String,
}

/// The URL in force: the option, else `STRAIT_URL`, else the default.
pub(crate) fn url(global: &Global) -> String {
    global
        .url
        .clone()
        .or_else(|| {
            std::env::var("STRAIT_URL")
                .ok()
                .filter(|url| !url.is_empty())
        })
        .unwrap_or_else(|| DEFAULT_URL.to_owned())
}

/// The directory of a `file:` URL, which may be written `file:///DIR` and have options behind a `?`.
pub(crate) fn directory(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("file:")?;
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let absolute = path.strip_prefix("//").filter(|path| path.starts_with('/'));
    Some(PathBuf::from(absolute.unwrap_or(path)))
}

impl Target {
    /// Opens it, and creates a missing directory.
    pub(crate) async fn create(url: String) -> Outcome<Self> {
        let strait = Strait::open(&url).await?;
        if let Err(several) = strait.one_engine() {
            strait.close_within(GRACE).await;
            return Err(several.with("file", url).into());
        }
        let events = strait.events_lane()?.clone();
        let health = strait.health().borrow().clone();
        if let Health::Down(why) = &health {
            // A service waits for its broker; whoever types a command wants to know.
            strait.close_within(GRACE).await;
            return Err(unreachable(why).into());
        }
        if let Health::Impaired(what) = &health {
            // Nobody may be there to read it.
            let _ = writeln!(std::io::stderr(), "note: {what}");
        }
        Ok(Target {
            strait,
            events,
            url,
        })
    }

    /// Opens what exists: looking at a directory never makes one.
    pub(crate) async fn existing(global: &Global) -> Outcome<Self> {
        Self::existing_at(url(global)).await
    }

    /// The same for a URL that was given otherwise.
    pub(crate) async fn existing_at(url: String) -> Outcome<Self> {
        if let Some(dir) = directory(&url) {
            must_exist(&dir)?;
        }
        Self::create(url).await
    }

    /// Ends the session: writes under way finish.
    pub(crate) async fn close(self) {
        self.strait.close_within(GRACE).await;
    }

    /// One topic; when there is none of that name, the error offers a near one.
    pub(crate) async fn topic(&self, name: &Name) -> Outcome<TopicInfo> {
        match self.events.topic(name.clone()).await {
            Ok(topic) => Ok(topic),
            Err(error) if error.is(codes::NO_SUCH_TOPIC) => {
                Err(self.no_such_topic(name).await.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn no_such_topic(&self, name: &Name) -> Error {
        let known = self.events.topics().await.unwrap_or_default();
        let near = nearest(name, known.iter().map(|topic| &*topic.name));
        not_there("topic", name, near, codes::NO_SUCH_TOPIC, "strait topic ls")
    }

    /// The group on each of its topics, or on one; when there is none, the error offers a near one.
    pub(crate) async fn groups_named(
        &self,
        name: &Name,
        topic: Option<&Name>,
    ) -> Outcome<Vec<GroupInfo>> {
        if let Some(topic) = topic {
            match self.events.group(name.clone(), topic.clone()).await {
                // What there is instead is told below.
                Err(error) if error.kind() == Kind::NotFound => {}
                found => return Ok(vec![found?]),
            }
        }
        let mut all = self.events.groups().await?;
        let near = nearest(name, all.iter().map(|group| &*group.group)).map(str::to_owned);
        all.retain(|info| info.group == *name);
        if all.is_empty() {
            let next = "strait group ls";
            let error = not_there("group", name, near.as_deref(), codes::NO_SUCH_GROUP, next);
            return Err(error.into());
        }
        let Some(topic) = topic else {
            return Ok(all);
        };
        match all.iter().position(|info| info.topic == *topic) {
            Some(found) => Ok(vec![all.swap_remove(found)]),
            None => Err(reads_others(name, topic, &all).into()),
        }
    }

    /// The group on its only topic, or on the one that was named.
    pub(crate) async fn group(&self, name: &Name, topic: Option<&Name>) -> Outcome<GroupInfo> {
        let mut found = self.groups_named(name, topic).await?;
        if found.len() > 1 {
            let topics: Vec<&str> = found.iter().map(|info| &*info.topic).collect();
            return Err(crate::fail::Failure::usage(format!(
                "group `{name}` reads several topics ({}): say which with --topic",
                topics.join(", ")
            )));
        }
        Ok(found.remove(0))
    }
}

/// The server does not answer. Its client says why, in words that name no secret.
fn unreachable(why: &str) -> Error {
    Error::new(
        Kind::Unavailable,
        format!("the server of this URL cannot be reached: {why}"),
    )
    .next(
        "check that it runs, host and port; whether that port takes TLS (`kafka+ssl:`, `rediss:`) or not; user and password",
    )
}

/// The group exists, and not on this topic.
fn reads_others(group: &Name, topic: &Name, on: &[GroupInfo]) -> Error {
    let topics: Vec<&str> = on.iter().map(|info| &*info.topic).collect();
    let text = format!(
        "group `{group}` does not read `{topic}`: it reads {}",
        topics.join(", ")
    );
    Error::new(Kind::NotFound, text)
        .code(codes::NO_SUCH_GROUP)
        .next(format!("strait group show {group}"))
}

/// The directory that a command looks at without opening it: the one that was named, or that of the URL.
pub(crate) fn named_or_default(named: Option<PathBuf>, global: &Global) -> Outcome<PathBuf> {
    let directory = named.or_else(|| directory(&url(global))).ok_or_else(|| {
        Failure::usage("only a directory has files to look at: name it, or use --url file:DIR")
    })?;
    must_exist(&directory)?;
    Ok(directory)
}

/// A command that looks at a directory does not make it.
fn must_exist(dir: &Path) -> Outcome {
    if dir.exists() {
        return Ok(());
    }
    let shown = dir.display();
    Err(Error::new(
        Kind::NotFound,
        format!("there is no data directory {shown}"),
    )
    .next("strait dev --demo, or name another with --url file:DIR or STRAIT_URL")
    .into())
}

fn not_there(
    what: &'static str,
    name: &Name,
    near: Option<&str>,
    code: &'static str,
    next: &str,
) -> Error {
    let mut text = format!("there is no {what} `{name}`");
    if let Some(near) = near {
        text.push_str(&format!("; did you mean `{near}`?"));
    }
    Error::new(Kind::NotFound, text).code(code).next(next)
}
