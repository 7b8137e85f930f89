//! The program of `bench/peers` at work on one contestant: orders go in, answers come out, one line of JSON each.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// No order takes longer than this.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
    ways: Vec<String>,
}

/// What one order measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    pub(super) messages: u64,
    pub(super) per_second: f64,
    /// Microseconds to an acknowledgement.
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Measured {
    /// Greater is better.
    pub(super) fn score(&self, by_time: bool) -> f64 {
        match by_time {
            true => 1.0 / self.p50.max(f64::MIN_POSITIVE),
            false => self.per_second,
        }
    }

    fn of(answer: &Value) -> Option<Self> {
        let messages = answer["messages"].as_u64()?;
        let seconds = answer["seconds"].as_f64()?;
        Some(Self {
            messages,
            per_second: messages as f64 / seconds.max(f64::MIN_POSITIVE),
            p50: answer["p50_us"].as_f64()?,
            p99: answer["p99_us"].as_f64()?,
        })
    }
}

impl Worker {
    pub(super) fn start(program: &Path, peer: &str, address: &str) -> Result<Self, String> {
        Self::spawn(Command::new(program).args([peer, address]))
    }

    fn spawn(command: &mut Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command:?} did not start: {error}"))?;
        let (send, answers) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if send.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let orders = child.stdin.take();
        let mut worker = Self {
            child,
            orders,
            answers,
            ways: Vec::new(),
        };
        let open = worker.answer()?;
        let ways = open["ways"].as_array().into_iter().flatten();
        worker.ways = ways
            .filter_map(|way| way.as_str().map(str::to_owned))
            .collect();
        Ok(worker)
    }

    /// The peer's ways of sending, in words.
    pub(super) fn ways(&self) -> &[String] {
        &self.ways
    }

    /// Gives an order and waits for its answer; a refusal is an error.
    pub(super) fn ask(&mut self, order: &Value) -> Result<Value, String> {
        let orders = self.orders.as_mut().ok_or("it takes no orders")?;
        writeln!(orders, "{order}").map_err(|error| format!("it has ended: {error}"))?;
        self.answer()
    }

    /// An order that measures.
    pub(super) fn measure(&mut self, order: &Value) -> Result<Measured, String> {
        let answer = self.ask(order)?;
        Measured::of(&answer).ok_or_else(|| format!("{order}: not measured: {answer}"))
    }

    fn answer(&mut self) -> Result<Value, String> {
        let line = self
            .answers
            .recv_timeout(LIMIT)
            .map_err(|_| format!("it ended, or gave no answer in {} s", LIMIT.as_secs()))?;
        let answer: Value =
            serde_json::from_str(&line).map_err(|error| format!("{line}: {error}"))?;
        match answer["error"].as_str() {
            None => Ok(answer),
            Some(error) => Err(error.to_owned()),
        }
    }
}

/// It ends when no more orders can come.
impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        // It closes its stdout when it has ended.
        while self.answers.recv_timeout(Duration::from_secs(20)).is_ok() {}
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn script(script: &str) -> Result<Worker, String> {
        Worker::spawn(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn orders_are_answered_in_turn() {
        let answers = r#"echo '{"is":"open","ways":["a","b"]}'; read order; echo "{\"is\":\"measured\",\"messages\":300,\"seconds\":2,\"p50_us\":4,\"p99_us\":9}"; read order; echo '{"is":"failed","error":"no room"}'"#;
        let mut worker = script(answers).expect("it opens");
        assert_eq!(worker.ways(), ["a", "b"]);
        let measured = worker
            .measure(&json!({ "do": "append" }))
            .expect("measured");
        assert_eq!(measured.per_second, 150.0);
        assert!(measured.score(true) > 0.0);
        assert_eq!(worker.ask(&json!({})), Err("no room".to_owned()));
        assert!(worker.ask(&json!({})).is_err(), "it has ended");
    }

    #[test]
    fn a_program_that_cannot_open_its_peer_is_an_error() {
        assert!(script("exit 1").is_err());
        assert!(script("echo nonsense").is_err());
    }
}
