//! Where a real server for a test is, and where programs of its own project are.

use std::io::Write;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// The value of the variable that says: do without, whatever runs.
const NONE: &str = "none";

/// A server that was found in the list of running ones answers within this, or is gone.
const ANSWERS: Duration = Duration::from_secs(2);

/// Where the server of this engine is, as `HOST:PORT`: what the variable says (`cargo xtask test` sets it), else the one
/// that `cargo xtask engines up` started in this workspace. `None` after one line on stdout that says so: then the test
/// is skipped.
///
/// ```no_run
/// let Some(address) = strait_conformance::server("STRAIT_KAFKA", "kafka") else { return };
/// ```
///
/// # Panics
///
/// When there is none and CI runs the test (`CI=true`): there nothing that should be tested is left out, unless the
/// variable says `none`.
pub fn server(variable: &str, engine: &str) -> Option<String> {
    let told = std::env::var(variable).unwrap_or_default();
    match told.as_str() {
        "" => {}
        NONE => {
            skipped(engine, &format!("{variable}=none"));
            return None;
        }
        address => return Some(address.to_owned()),
    }
    let found = list("running.json").and_then(|text| listed(&text, engine));
    if found.is_none() {
        absent(
            variable,
            engine,
            &format!("cargo xtask engines up {engine}"),
        );
    }
    found
}

/// Where programs of other projects are, for a test that sets them beside ours: the directory or program that the variable
/// names, else what `cargo xtask engines clients` got. `None` after one line on stdout that says so: then the test is
/// skipped.
///
/// ```no_run
/// let Some(packages) = strait_conformance::client("STRAIT_PYTHON_CLIENTS") else { return };
/// ```
///
/// # Panics
///
/// As [`server`].
pub fn client(variable: &str) -> Option<PathBuf> {
    let told = std::env::var(variable).unwrap_or_default();
    match told.as_str() {
        "" => {}
        NONE => {
            skipped(variable, &format!("{variable}=none"));
            return None;
        }
        path => return Some(path.into()),
    }
    let listed = |text: String| {
        let list: Value = serde_json::from_str(&text).ok()?;
        Some(PathBuf::from(list[variable].as_str()?)).filter(|path| path.exists())
    };
    let found = list("clients.json").and_then(listed);
    if found.is_none() {
        absent(variable, variable, "cargo xtask engines clients");
    }
    found
}

/// The text of a list that `cargo xtask engines` wrote in this workspace.
fn list(name: &str) -> Option<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(workspace.join("target/engines/run").join(name)).ok()
}

/// What a test needs is not there: an end in CI, else a line.
fn absent(variable: &str, what: &str, get: &str) {
    let ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    assert!(
        !ci,
        "no {what}: CI tests against it, and {variable} is not set"
    );
    skipped(what, get);
}

/// The first listed instance that takes connections.
fn listed(text: &str, engine: &str) -> Option<String> {
    let list: Vec<Value> = serde_json::from_str(text).ok()?;
    let of_it = list.iter().filter(|instance| instance["name"] == engine);
    of_it
        .filter_map(|instance| instance["port"].as_u64())
        .map(|port| format!("127.0.0.1:{port}"))
        .find(|address| takes_connections(address))
}

fn takes_connections(address: &str) -> bool {
    let first = |address: &str| -> Option<SocketAddr> { address.to_socket_addrs().ok()?.next() };
    first(address).is_some_and(|to| TcpStream::connect_timeout(&to, ANSWERS).is_ok())
}

/// Past what the test harness keeps to itself: `cargo xtask test` counts this line.
fn skipped(engine: &str, why: &str) {
    let _ = writeln!(std::io::stdout(), "skipped: no {engine} ({why})");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listed_server_that_takes_connections_is_given() {
        let open = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = open.local_addr().expect("its address").port();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let gone = closed.local_addr().expect("its address").port();
        drop(closed);
        let list = format!(
            r#"[{{"name":"redis","port":{gone}}},{{"name":"redis","port":{port}}},{{"name":"kafka","port":{gone}}}]"#
        );
        assert_eq!(listed(&list, "redis"), Some(format!("127.0.0.1:{port}")));
        assert_eq!(listed(&list, "kafka"), None);
        assert_eq!(listed("no list", "redis"), None);
    }
}
