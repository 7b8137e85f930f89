//! `strait dev --alarm`: somebody is told when a group passes a limit.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use strait::alarm::Phase;
use strait::{Alarm, Running, Strait};
use tokio::sync::mpsc;

use super::Note;
use crate::fail::{Failure, Outcome};
use crate::text::parse_duration;

/// Alarms of the command line.
#[derive(Debug, Clone, Args)]
pub(super) struct AlarmArgs {
    /// Limits of the groups: `dead_letters=N`, `parked=N`, `lag=N`, `age=DURATION`, and `group=NAME` for that group only.
    /// And of the disk: `full_in=DURATION`. What passes one is shown here
    #[arg(long, value_name = "LIMITS", value_delimiter = ',')]
    alarm: Vec<Limit>,
    /// What is run then: a program and its arguments, without a shell; the notice is on its standard input
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "alarm",
        conflicts_with = "alarm_post"
    )]
    alarm_run: Option<String>,
    /// Where the notice is posted to then: http://127.0.0.1:PORT/PATH
    #[arg(long, value_name = "URL", requires = "alarm")]
    alarm_post: Option<String>,
    /// A host that --alarm-post may name beside this machine
    #[arg(long, value_name = "HOST", requires = "alarm_post")]
    alarm_allow_host: Vec<String>,
    /// How often to look
    #[arg(long, value_name = "DURATION", requires = "alarm", default_value = "10s", value_parser = parse_duration)]
    alarm_every: Duration,
}

/// One part of `--alarm`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Limit {
    DeadLetters(u64),
    Parked(u64),
    Lag(u64),
    Age(Duration),
    FullIn(Duration),
    Group(String),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let forms =
            "write dead_letters=N, parked=N, lag=N, age=DURATION, full_in=DURATION or group=NAME";
        let (name, value) = text.split_once('=').ok_or(forms)?;
        let number = || {
            value
                .parse()
                .map_err(|_| format!("{name} is a number: {forms}"))
        };
        match name {
            "dead_letters" => number().map(Limit::DeadLetters),
            "parked" => number().map(Limit::Parked),
            "lag" => number().map(Limit::Lag),
            "age" => parse_duration(value).map(Limit::Age),
            "full_in" => parse_duration(value).map(Limit::FullIn),
            "group" => Ok(Limit::Group(value.to_owned())),
            _ => Err(forms.to_owned()),
        }
    }
}

/// Starts the alarms of the command line and of the configuration; they end with what this gives.
pub(super) async fn start(
    args: &AlarmArgs,
    strait: &Strait,
    notes: mpsc::Sender<Note>,
) -> Outcome<Running> {
    let mut app = strait.app();
    if !args.alarm.is_empty() {
        let show = Alarm::call(move |notice| {
            let note = Note::new(notice.to_string());
            let note = match (notice.state, &notice.group, &notice.topic) {
                (Phase::Raised, Some(group), Some(topic)) => {
                    note.more(format!("strait describe group/{group}@{topic}"))
                }
                (Phase::Raised, ..) => note.more("strait describe storage"),
                _ => note,
            };
            // A view that is behind has enough to show.
            let _ = notes.try_send(note);
        });
        app = app.alarm(args.limit(show));
    }
    if let Some(alarm) = args.action()? {
        app = app.alarm(args.limit(alarm));
    }
    Ok(app.start().await?)
}

impl AlarmArgs {
    fn action(&self) -> Outcome<Option<Alarm>> {
        if let Some(command) = &self.alarm_run {
            let words: Vec<&str> = command.split_whitespace().collect();
            if words.is_empty() {
                return Err(Failure::usage("--alarm-run names no program"));
            }
            return Ok(Some(Alarm::command(words)));
        }
        let post = |url: &String| {
            let hosts = self.alarm_allow_host.iter();
            hosts.fold(Alarm::post(url), |alarm, host| alarm.allow_host(host))
        };
        Ok(self.alarm_post.as_ref().map(post))
    }

    fn limit(&self, alarm: Alarm) -> Alarm {
        let alarm = alarm.every(self.alarm_every);
        self.alarm.iter().fold(alarm, |alarm, limit| match limit {
            Limit::DeadLetters(most) => alarm.dead_letters(*most),
            Limit::Parked(most) => alarm.parked(*most),
            Limit::Lag(most) => alarm.lag(*most),
            Limit::Age(most) => alarm.age(*most),
            Limit::FullIn(least) => alarm.full_in(*least),
            Limit::Group(name) => alarm.group(name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_others_refused() {
        assert_eq!("dead_letters=3".parse(), Ok(Limit::DeadLetters(3)));
        assert_eq!("age=10m".parse(), Ok(Limit::Age(Duration::from_secs(600))));
        assert_eq!("group=mail".parse(), Ok(Limit::Group("mail".to_owned())));
        assert_eq!(
            "full_in=2d".parse(),
            Ok(Limit::FullIn(Duration::from_secs(172_800)))
        );
        for bad in [
            "dead",
            "dead_letters=many",
            "age=soon",
            "size=1",
            "full_in=1",
            "",
        ] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }
}
