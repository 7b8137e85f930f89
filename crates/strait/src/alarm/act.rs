//! Telling: a program, a POST, or a function.

use std::fmt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::Notice;
use super::url::{To, Url};

/// A program may take so long.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// A POST may take so long, from connecting to the answer.
const POST_LIMIT: Duration = Duration::from_secs(10);
/// As much is read of an answer, and of what a program complains.
const READ: usize = 4096;

/// What is done with a notice.
#[derive(Clone)]
pub(super) enum Tell {
    Command(Vec<String>),
    Post(Url),
    Call(Arc<dyn Fn(&Notice) + Send + Sync>),
}

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tell::Command(words) => f.debug_tuple("Command").field(words).finish(),
            // The path of a hook may be its secret.
            Tell::Post(url) => f.debug_tuple("Post").field(&url.authority).finish(),
            Tell::Call(_) => f.write_str("Call"),
        }
    }
}

impl Tell {
    /// Delivers a notice, or says why not.
    pub(super) async fn tell(&self, notice: &Notice) -> Result<(), Failed> {
        let json = serde_json::to_vec(notice).map_err(Failed::of)?;
        match self {
            Tell::Call(function) => {
                function(notice);
                Ok(())
            }
            Tell::Command(words) => within(COMMAND_LIMIT, run(words, notice, &json)).await,
            Tell::Post(url) => within(POST_LIMIT, post(url, &json)).await,
        }
    }
}

/// Why a notice was not delivered, in words.
#[derive(Debug)]
pub(super) struct Failed(String);

impl Failed {
    fn of(why: impl fmt::Display) -> Self {
        Failed(why.to_string())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

async fn within(
    limit: Duration,
    work: impl Future<Output = Result<(), Failed>>,
) -> Result<(), Failed> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(Failed::of(format!("not done after {} s", limit.as_secs()))))
}

/// Runs the program to its end; dropped, it is killed.
async fn run(words: &[String], notice: &Notice, json: &[u8]) -> Result<(), Failed> {
    let (program, args) = words
        .split_first()
        .ok_or_else(|| Failed::of("no program"))?;
    let failed = |error| Failed::of(format!("`{program}`: {error}"));
    let mut child = Command::new(program)
        .args(args)
        .env("STRAIT_ALARM", notice.alarm.as_str())
        .env("STRAIT_ALARM_STATE", notice.state.as_str())
        .env("STRAIT_ALARM_GROUP", text(&notice.group))
        .env("STRAIT_ALARM_TOPIC", text(&notice.topic))
        .env("STRAIT_ALARM_VALUE", text(&notice.value))
        .env("STRAIT_ALARM_LIMIT", notice.limit.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it has the environment.
        let _ = stdin.write_all(json).await;
    }
    let mut complaint = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        read_some(stderr, &mut complaint).await.map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&complaint);
    let said = said.lines().next().unwrap_or_default();
    Err(Failed::of(format!(
        "`{program}`: {status} {}",
        said.escape_debug()
    )))
}

fn text(value: &Option<impl ToString>) -> String {
    value.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// Keeps the beginning, and reads on to the end, so that nobody writes into a closed pipe.
async fn read_some(mut from: impl AsyncRead + Unpin, kept: &mut Vec<u8>) -> std::io::Result<()> {
    let mut part = [0; READ];
    loop {
        let n = from.read(&mut part).await?;
        if n == 0 {
            return Ok(());
        }
        let room = READ.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&part[..room]);
    }
}

async fn post(url: &Url, json: &[u8]) -> Result<(), Failed> {
    let mut stream = match &url.to {
        To::Addresses(addresses) => TcpStream::connect(addresses.as_slice()).await,
        To::Host(host, port) => TcpStream::connect((host.as_str(), *port)).await,
    }
    .map_err(|error| Failed::of(format!("{}: {error}", url.authority)))?;
    let failed = |error| Failed::of(format!("{}: {error}", url.authority));
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: strait/{}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        url.path,
        url.authority,
        env!("CARGO_PKG_VERSION"),
        json.len()
    );
    let request = [head.as_bytes(), json].concat();
    stream.write_all(&request).await.map_err(failed)?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < READ {
        if stream.read_buf(&mut answer).await.map_err(failed)? == 0 {
            break;
        }
    }
    let line = answer.split(|b| *b == b'\r' || *b == b'\n').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    match status_of(&line) {
        Some(200..=299) => Ok(()),
        _ => Err(Failed::of(format!(
            "{} answered `{}`",
            url.authority,
            line.escape_debug()
        ))),
    }
}

/// The code of `HTTP/1.1 204 No Content`.
fn status_of(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.")?;
    rest.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarm::{Measure, Phase};

    fn notice() -> Notice {
        Notice {
            schema: 1,
            alarm: Measure::DeadLetters,
            state: Phase::Raised,
            group: Some("billing".to_owned()),
            topic: Some("orders".to_owned()),
            value: Some(3),
            limit: 2,
        }
    }

    fn shell(script: &str) -> Tell {
        Tell::Command(["sh", "-c", script].map(str::to_owned).to_vec())
    }

    #[tokio::test]
    async fn a_program_gets_the_notice_twice_and_its_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("told");
        let script = format!(
            "{{ cat; echo; echo $STRAIT_ALARM $STRAIT_ALARM_STATE $STRAIT_ALARM_GROUP $STRAIT_ALARM_TOPIC \
             $STRAIT_ALARM_VALUE $STRAIT_ALARM_LIMIT; }} > {}",
            file.display()
        );
        shell(&script).tell(&notice()).await.unwrap();
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            "{\"schema\":1,\"alarm\":\"dead_letters\",\"state\":\"raised\",\"group\":\"billing\",\"topic\":\"orders\",\
             \"value\":3,\"limit\":2}\ndead_letters raised billing orders 3 2\n"
        );
        let failed = shell("echo no pager >&2; exit 4").tell(&notice()).await;
        assert_eq!(
            failed.unwrap_err().to_string(),
            "`sh`: exit status: 4 no pager"
        );
        let absent = Tell::Command(vec!["/nowhere/page".to_owned()]);
        assert!(absent.tell(&notice()).await.is_err());
        // More than a pipe holds: it is not stuck.
        shell("head -c 1000000 /dev/zero >&2")
            .tell(&notice())
            .await
            .unwrap();
    }

    #[test]
    fn the_status_of_an_answer() {
        assert_eq!(status_of("HTTP/1.1 204 No Content"), Some(204));
        assert_eq!(status_of("HTTP/1.0 500 x"), Some(500));
        for bad in ["", "HTTP/2 200", "HTTP/1.1", "SSH-2.0"] {
            assert_eq!(status_of(bad), None, "{bad}");
        }
    }
}
