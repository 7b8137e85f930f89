//! Several processes on one directory: taking over, being killed, being stopped.

#![allow(clippy::unwrap_used)]
#![cfg(feature = "embedded")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use strait::core::events::{Append, Cursor, Events, Expected, GroupSpec, TopicSpec};
use strait::core::{
    Arrival, Consumer, Delivery, Engine, Health, NewRecord, Outcome, Receipt, Records,
    RecordsBuilder, Unit, Verdict,
};
use strait::owner::{Role, ShareOptions, Shared};
use strait::{Kind, Name, Position, codes};

const GRACE: Duration = Duration::from_secs(10);
/// Nothing here takes this long unless it hangs.
const LATE: Duration = Duration::from_secs(30);

async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(LATE, event)
        .await
        .expect("it does not happen")
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn lane(shared: &Shared) -> Arc<dyn Events> {
    shared.lanes().events.unwrap()
}

async fn open(directory: &Path) -> Shared {
    soon(Shared::open(directory, ShareOptions::default()))
        .await
        .unwrap()
}

async fn is(shared: &Shared, role: impl FnMut(&Role) -> bool) {
    soon(shared.role().wait_for(role)).await.unwrap();
}

fn owns(role: &Role) -> bool {
    matches!(role, Role::Owner { listening: true })
}

fn visits(role: &Role) -> bool {
    matches!(role, Role::Guest { .. })
}

fn batch(texts: &[String]) -> Records {
    let mut builder = RecordsBuilder::new(&[]).unwrap();
    for text in texts {
        let body = text.as_bytes();
        builder
            .push(NewRecord {
                key: Some(body),
                body,
                ..Default::default()
            })
            .unwrap();
    }
    builder.build()
}

fn append(partition: u32, records: Records) -> Append {
    Append {
        topic: name("orders"),
        partition,
        records,
        expected: Expected::Any,
        dedupe: false,
    }
}

async fn all(events: &Arc<dyn Events>, partition: u32) -> Vec<String> {
    all_of(events, "orders", partition).await
}

async fn all_of(events: &Arc<dyn Events>, topic: &str, partition: u32) -> Vec<String> {
    let (mut found, mut position) = (Vec::new(), Position::at(0));
    loop {
        let cursor = Cursor {
            topic: name(topic),
            partition,
            position,
            wait: Duration::ZERO,
        };
        let chunk = events.read(cursor, 1 << 20).await.unwrap();
        if chunk.is_empty() {
            return found;
        }
        found.extend(
            chunk
                .iter()
                .map(|item| String::from_utf8(item.record().body().to_vec()).unwrap()),
        );
        position = chunk.next();
    }
}

/// A program of its own: this test binary, in the part of `child`.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it on a directory and waits until it says that it is ready.
    fn start(part: &str, directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("STRAIT_TEST_PART", part)
            .env("STRAIT_TEST_DIR", directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut process = Process {
            child,
            input,
            output: BufReader::new(output),
        };
        process.hears("ready");
        process
    }

    /// Reads until it has said this; gives the line.
    fn hears(&mut self, word: &str) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if line.contains(word) {
                return line;
            }
            line.clear();
        }
        panic!("the process ended before it said `{word}`");
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops it, and waits until it stands still.
    fn stop(&self) {
        self.send(Signal::STOP);
        let pid = Pid::from_child(&self.child);
        let changed = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
        assert!(changed.is_some_and(|(_, status)| status.stopped()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The part of another process; nothing when the tests run.
#[test]
fn child() {
    let Ok(part) = std::env::var("STRAIT_TEST_PART") else {
        return;
    };
    let directory = std::env::var("STRAIT_TEST_DIR").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let shared = open(directory.as_ref()).await;
        match part.as_str() {
            "owner" => {
                say("ready");
                std::future::pending::<()>().await;
            }
            "member" => member(shared).await,
            "worker" => worker(shared).await,
            _ => panic!("no such part"),
        }
    });
}

fn say(line: &str) {
    // Not `println!`: the harness would keep it back.
    let mut out = std::io::stdout();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

fn short_lease() -> GroupSpec {
    GroupSpec {
        lease: Duration::from_millis(500),
        ..GroupSpec::new(name("billing"), name("orders"))
    }
}

/// Settles a message as handled, with an effect.
async fn bill(shared: &Shared, receipt: Receipt, effect: &str) -> Outcome {
    let mut unit = Unit::settle(receipt, Verdict::Done);
    unit.send.push(strait::core::Outgoing::Append {
        topic: name("billed"),
        partition: 0,
        records: batch(&[effect.to_owned()]),
        expected: Expected::Any,
        dedupe: false,
    });
    shared.commit(vec![unit]).await.pop().unwrap()
}

/// Takes one message, says so, and settles it when it is told to; then one more.
async fn member(shared: Shared) {
    let mut consumer = lane(&shared).join(short_lease()).await.unwrap();
    say("ready");
    let receipt = first(&mut consumer).await.receipt;
    say("took it");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()))
        .await
        .unwrap()
        .unwrap();
    let outcome = bill(&shared, receipt, "too late").await;
    say(&format!("settling gave {outcome:?}"));
    // It lost its partition, and joins again by itself.
    while !matches!(consumer.next(1, 1 << 20).await.unwrap(), Arrival::Lost(_)) {}
    say("lost it");
    while !matches!(
        consumer.next(1, 1 << 20).await.unwrap(),
        Arrival::Assigned(_)
    ) {}
    say("has one again");
    let receipt = first(&mut consumer).await.receipt;
    let outcome = bill(&shared, receipt, "by who was stopped").await;
    say(&format!("then settling gave {outcome:?}"));
    std::future::pending::<()>().await;
}

/// Handles messages one by one: what it sends for one leaves with its settle.
async fn worker(shared: Shared) {
    let spec = GroupSpec {
        lease: Duration::from_secs(2),
        handover: Duration::from_secs(2),
        // Nothing here fails by itself.
        max_attempts: 1_000_000,
        ..GroupSpec::new(name("billing"), name("orders"))
    };
    let mut consumer = lane(&shared).join(spec).await.unwrap();
    say("ready");
    loop {
        let messages: Vec<(strait::core::Message, Receipt)> =
            match consumer.next(20, 1 << 20).await.unwrap() {
                Arrival::Run(chunk, mut receipt) => {
                    let mut messages = Vec::new();
                    for item in chunk.iter() {
                        let own = receipt.split_first();
                        messages.push((item.to_message(), own));
                    }
                    // The last part is what is left of the receipt.
                    let mut rest = Some(receipt);
                    let own = |(message, own): (_, Option<Receipt>)| {
                        (message, own.or_else(|| rest.take()).unwrap())
                    };
                    messages.into_iter().map(own).collect()
                }
                Arrival::Each(each) => each
                    .into_iter()
                    .map(|one| (one.message, one.receipt))
                    .collect(),
                Arrival::Revoking(shard, _) => {
                    consumer.control.handed_back(shard);
                    continue;
                }
                _ => continue,
            };
        for (message, receipt) in messages {
            let record = message.record();
            let text = String::from_utf8(record.body().to_vec()).unwrap();
            let mut billed = RecordsBuilder::new(&[]).unwrap();
            billed
                .push(NewRecord {
                    key: record.key(),
                    body: record.body(),
                    ..NewRecord::default()
                })
                .unwrap();
            let mut unit = Unit::settle(receipt, Verdict::Done);
            unit.send.push(strait::core::Outgoing::Append {
                topic: name("billed"),
                partition: message.partition(),
                records: billed.build(),
                expected: Expected::Any,
                dedupe: false,
            });
            match shared.commit(vec![unit]).await.pop().unwrap() {
                Outcome::Applied(_) => say(&format!("did {text}")),
                // What it has of the rest comes again, here or elsewhere.
                _ => break,
            }
        }
    }
}

/// The next message, whatever else comes before it.
async fn first(consumer: &mut Consumer) -> Delivery {
    loop {
        match consumer.next(1, 1 << 20).await.unwrap() {
            Arrival::Run(chunk, receipt) => {
                return Delivery {
                    message: chunk.iter().next().unwrap().to_message(),
                    attempt: 1,
                    last_error: None,
                    receipt,
                };
            }
            Arrival::Each(mut each) => return each.remove(0),
            _ => {}
        }
    }
}

#[tokio::test]
async fn the_first_owns_and_the_others_visit_until_it_goes() {
    let directory = tempfile::tempdir().unwrap();
    let owner = open(directory.path()).await;
    is(&owner, owns).await;
    lane(&owner)
        .declare(TopicSpec::new(name("orders")).partitions(1))
        .await
        .unwrap();
    let mut others = Vec::new();
    for number in 0..3 {
        let other = open(directory.path()).await;
        is(&other, visits).await;
        assert_eq!(other.id(), owner.id());
        lane(&other)
            .append(append(0, batch(&[format!("{number}")])))
            .await
            .unwrap();
        others.push(other);
    }
    let role = others[0].role().borrow().to_string();
    assert!(
        role.contains(&format!("pid {}", std::process::id())),
        "{role}"
    );
    owner.close(GRACE).await;
    // One of them gets the lock, the others go to it; each works on.
    let next = async {
        for other in &others {
            other
                .role()
                .wait_for(|role| *role != Role::Between)
                .await
                .unwrap();
            lane(other)
                .append(append(0, batch(&["after".into()])))
                .await
                .unwrap();
        }
    };
    soon(next).await;
    let owners = others
        .iter()
        .filter(|other| owns(&other.role().borrow()))
        .count();
    assert_eq!(owners, 1);
    for other in &others {
        assert_eq!(
            all(&lane(other), 0).await,
            ["0", "1", "2", "after", "after", "after"]
        );
        assert_eq!(*other.health().borrow(), Health::Up);
    }
}

#[tokio::test]
async fn what_is_under_way_when_the_owner_is_killed_happens_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut owner = Process::start("owner", directory.path());
    let guest = open(directory.path()).await;
    is(&guest, visits).await;
    lane(&guest)
        .declare(TopicSpec::new(name("orders")).partitions(1))
        .await
        .unwrap();
    // Eight producers, each with one batch under way at any moment.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (acked, mut acks) = tokio::sync::mpsc::unbounded_channel();
    let mut producers = tokio::task::JoinSet::new();
    for producer in 0..8 {
        let (events, stopped, acked) = (lane(&guest), stopped.clone(), acked.clone());
        producers.spawn(async move {
            for number in 0.. {
                if *stopped.borrow() {
                    return;
                }
                let texts: Vec<String> = (0..3)
                    .map(|part| format!("{producer}.{number}.{part}"))
                    .collect();
                let sent = events.append(append(0, batch(&texts))).await.unwrap();
                assert!(!sent.duplicate);
                acked.send(texts).unwrap();
            }
        });
    }
    drop(acked);
    let mut stored = BTreeSet::new();
    for _ in 0..200 {
        stored.extend(soon(acks.recv()).await.unwrap());
    }
    owner.send(Signal::KILL);
    owner.child.wait().unwrap();
    is(&guest, owns).await;
    for _ in 0..200 {
        stored.extend(soon(acks.recv()).await.unwrap());
    }
    stop.send_replace(true);
    while let Some(ended) = soon(producers.join_next()).await {
        ended.unwrap();
    }
    while let Some(texts) = acks.recv().await {
        stored.extend(texts);
    }
    let found = all(&lane(&guest), 0).await;
    let distinct: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(found.len(), distinct.len(), "something is there twice");
    assert_eq!(distinct, stored, "what is there is what was acknowledged");
}

#[tokio::test]
async fn consumers_join_again_when_the_owner_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let owner = Process::start("owner", directory.path());
    let guest = open(directory.path()).await;
    lane(&guest)
        .declare(TopicSpec::new(name("orders")).partitions(1))
        .await
        .unwrap();
    lane(&guest)
        .append(append(0, batch(&["one".into()])))
        .await
        .unwrap();
    let mut consumer = lane(&guest).join(short_lease()).await.unwrap();
    let before = soon(first(&mut consumer)).await.receipt;
    owner.send(Signal::KILL);
    let mut seen = Vec::new();
    let after = loop {
        match soon(consumer.next(1, 1 << 20)).await.unwrap() {
            Arrival::Each(mut each) => {
                assert_eq!(each[0].attempt, 2);
                break each.remove(0).receipt;
            }
            Arrival::Run(..) => panic!("the death of the owner counts as an attempt"),
            other => seen.push(format!("{other:?}")),
        }
    };
    assert_eq!(seen, ["Lost(0)", "Assigned(0)"]);
    let settle = |receipt| guest.commit(vec![Unit::settle(receipt, Verdict::Done)]);
    assert!(matches!(settle(before).await[..], [Outcome::Fenced]));
    assert!(matches!(settle(after).await[..], [Outcome::Applied(_)]));
}

/// Topics of orders and of what was billed, and one order.
async fn with_one_order(events: &Arc<dyn Events>) {
    for topic in ["orders", "billed"] {
        let spec = TopicSpec::new(name(topic)).partitions(1);
        events.declare(spec).await.unwrap();
    }
    events
        .append(append(0, batch(&["one".into()])))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_member_that_is_stopped_loses_its_partitions_and_its_right_to_settle() {
    let directory = tempfile::tempdir().unwrap();
    let owner = open(directory.path()).await;
    let events = lane(&owner);
    with_one_order(&events).await;
    let mut stopped = Process::start("member", directory.path());
    stopped.hears("took it");
    stopped.stop();
    // Another member gets the partition and the message, and the lost attempt counts.
    let mut consumer = events.join(short_lease()).await.unwrap();
    let one = soon(first(&mut consumer)).await;
    assert_eq!(one.attempt, 2);
    let settled = bill(&owner, one.receipt, "by the other one").await;
    assert!(matches!(settled, Outcome::Applied(_)));
    // It wakes up and goes on as if nothing had happened.
    stopped.tell("settle");
    stopped.send(Signal::CONT);
    let line = stopped.hears("settling gave");
    assert!(!line.contains("gave Applied"), "{line}");
    stopped.hears("lost it");
    consumer.control.leave();
    stopped.hears("has one again");
    // It works on, and nothing was done twice.
    events
        .append(append(0, batch(&["two".into()])))
        .await
        .unwrap();
    let line = stopped.hears("then settling gave");
    assert!(line.contains("gave Applied"), "{line}");
    let effects = all_of(&events, "billed", 0).await;
    assert_eq!(effects, ["by the other one", "by who was stopped"]);
    let group = events.group(name("billing"), name("orders")).await.unwrap();
    assert_eq!(group.lag(), 0);
}

/// As long as it lives nobody takes its place: a write of its own could be under way.
#[tokio::test]
async fn an_owner_that_is_stopped_is_waited_for_and_followed_only_when_it_is_dead() {
    let directory = tempfile::tempdir().unwrap();
    let owner = Process::start("owner", directory.path());
    let mut options = ShareOptions::default();
    options.client.silence = Duration::from_millis(500);
    options.client.hello_within = Duration::from_millis(300);
    let guest = soon(Shared::open(directory.path(), options)).await.unwrap();
    let events = lane(&guest);
    with_one_order(&events).await;
    let mut consumer = events.join(short_lease()).await.unwrap();
    let before = soon(first(&mut consumer)).await;

    owner.stop();
    let two = tokio::spawn(events.append(append(0, batch(&["two".into()]))));
    let mut health = guest.health();
    // It says why, who has the directory, and what to look at.
    let words = [
        "was silent",
        "belongs to process",
        "see whether it is stopped",
    ];
    let says = |health: &Health| matches!(health, Health::Down(why) if words.iter().all(|word| why.contains(word)));
    soon(health.wait_for(says)).await.unwrap();
    assert_eq!(*guest.role().borrow(), Role::Between);
    assert!(!two.is_finished());

    owner.send(Signal::CONT);
    assert!(!soon(two).await.unwrap().unwrap().duplicate);
    is(&guest, visits).await;
    let mut attempts = Vec::new();
    for _ in 0..2 {
        let next = soon(first(&mut consumer)).await;
        let text = String::from_utf8(next.message.record().body().to_vec()).unwrap();
        let settled = bill(&guest, next.receipt, &text).await;
        assert!(matches!(settled, Outcome::Applied(_)), "{settled:?}");
        attempts.push((text, next.attempt));
    }
    attempts.sort();
    assert_eq!(attempts, [("one".to_owned(), 2), ("two".to_owned(), 1)]);
    let late = bill(&guest, before.receipt, "too late").await;
    assert!(matches!(late, Outcome::Fenced), "{late:?}");

    owner.stop();
    owner.send(Signal::KILL);
    is(&guest, owns).await;
    assert_eq!(all(&events, 0).await, ["one", "two"]);
    assert_eq!(all_of(&events, "billed", 0).await.len(), 2);
}

#[tokio::test]
async fn a_member_that_is_killed_makes_room_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let owner = open(directory.path()).await;
    let events = lane(&owner);
    events
        .declare(TopicSpec::new(name("orders")).partitions(1))
        .await
        .unwrap();
    events
        .append(append(0, batch(&["one".into()])))
        .await
        .unwrap();
    let mut killed = Process::start("member", directory.path());
    killed.hears("took it");
    let mut consumer = events.join(short_lease()).await.unwrap();
    killed.send(Signal::KILL);
    let receipt = soon(first(&mut consumer)).await.receipt;
    assert!(matches!(
        owner
            .commit(vec![Unit::settle(receipt, Verdict::Done)])
            .await[..],
        [Outcome::Applied(_)]
    ));
}

const KEYS: u64 = 12;

/// Sends more of each key, as a process that comes and goes.
fn feed(directory: &Path, from: u64, count: u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let shared = open(directory).await;
        for topic in ["orders", "billed"] {
            let spec = TopicSpec::new(name(topic)).partitions(4);
            soon(lane(&shared).declare(spec)).await.unwrap();
        }
        for partition in 0..4 {
            let mut batch = RecordsBuilder::new(&[]).unwrap();
            for number in from..from + count {
                for key in (0..KEYS).filter(|key| key % 4 == partition) {
                    batch
                        .push(NewRecord {
                            key: Some(format!("{key}").as_bytes()),
                            body: format!("{key}-{number}").as_bytes(),
                            ..NewRecord::default()
                        })
                        .unwrap();
                }
            }
            let append = Append {
                dedupe: true,
                ..append(partition as u32, batch.build())
            };
            soon(lane(&shared).append(append)).await.unwrap();
        }
        shared.close(GRACE).await;
    });
}

/// A worker whose lines go to `lines`.
fn start_worker(directory: &Path, lines: &std::sync::mpsc::Sender<String>) -> Child {
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env("STRAIT_TEST_PART", "worker")
        .env("STRAIT_TEST_DIR", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (output, lines) = (worker.stdout.take().unwrap(), lines.clone());
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    worker
}

/// Three workers, of which the first owns the directory; again and again one is killed in the middle of its work, the
/// owner as often as a guest. What each message had sent for it is there once, and in the order of its key.
#[test]
fn a_group_of_processes_survives_kill_minus_nine() {
    let kills = std::env::var("STRAIT_KILL_ROUNDS").ok();
    let kills: u64 = kills.map_or(25, |text| text.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let (lines, said) = std::sync::mpsc::channel::<String>();
    let did = || loop {
        let line = said.recv_timeout(LATE).expect("nobody works");
        if line.contains("did ") {
            return;
        }
    };
    feed(directory.path(), 0, 5);
    let mut workers: Vec<Child> = (0..3)
        .map(|_| start_worker(directory.path(), &lines))
        .collect();
    for kill in 0..kills {
        feed(directory.path(), 5 * (kill + 1), 5);
        for _ in 0..1 + kill * 7 % 23 {
            did();
        }
        let victim = &mut workers[(kill * 5 % 3) as usize];
        victim.kill().unwrap();
        victim.wait().unwrap();
        *victim = start_worker(directory.path(), &lines);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let shared = open(directory.path()).await;
        let events = lane(&shared);
        let lag = || async {
            let info = soon(events.group(name("billing"), name("orders"))).await;
            info.unwrap().lag()
        };
        while lag().await > 0 {
            did();
        }
        let (mut count, mut last) = (0, std::collections::BTreeMap::new());
        for partition in 0..4 {
            for text in all_of(&events, "billed", partition).await {
                let (key, number) = text.split_once('-').unwrap();
                let (key, number): (u64, u64) = (key.parse().unwrap(), number.parse().unwrap());
                let before = last.insert(key, number);
                let wanted = before.map_or(0, |before| before + 1);
                assert_eq!(number, wanted, "after {before:?} of key {key}");
                count += 1;
            }
        }
        assert_eq!(count, KEYS * 5 * (kills + 1), "effects");
    });
    for worker in &mut workers {
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
}

#[tokio::test]
async fn an_owner_that_does_not_share_is_named_or_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let alone = ShareOptions {
        listen: false,
        ..ShareOptions::default()
    };
    let owner = Shared::open(directory.path(), alone).await.unwrap();
    assert_eq!(*owner.role().borrow(), Role::Owner { listening: false });
    let error = Shared::open(directory.path(), ShareOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.is(codes::LOCKED), "{error:?}");
    assert!(
        error
            .context()
            .contains(&("pid", std::process::id().to_string())),
        "{error:?}"
    );
    assert!(
        error
            .context()
            .iter()
            .any(|(name, value)| *name == "program" && value.contains("owner")),
        "{error:?}"
    );
    let wait = ShareOptions {
        wait_for_lock: Some(LATE),
        ..ShareOptions::default()
    };
    let path = directory.path().to_owned();
    let waiting = tokio::spawn(async move { Shared::open(path, wait).await });
    lane(&owner)
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    assert!(!waiting.is_finished());
    owner.close(GRACE).await;
    let next = soon(waiting).await.unwrap().unwrap();
    assert_eq!(*next.role().borrow(), Role::Owner { listening: true });
    assert_eq!(lane(&next).topics().await.unwrap().len(), 1);
}

#[tokio::test]
async fn dropping_the_owner_without_close_lets_go_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let owner = open(directory.path()).await;
    lane(&owner)
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    let guest = open(directory.path()).await;
    drop(owner);
    is(&guest, owns).await;
    assert_eq!(lane(&guest).topics().await.unwrap().len(), 1);
    assert!(directory.path().join("SOCK").exists());
    guest.close(GRACE).await;
    assert!(!directory.path().join("SOCK").exists());
}
