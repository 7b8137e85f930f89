//! What happens when the server dies, stops, refuses, or is not there: each with a server of the test's own.

// What a test or its helpers cannot unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use strait_conformance::Proxy;
use strait_core::events::{Append, Cursor, Durability, Events, Expected, GroupSpec, TopicSpec};
use strait_core::{
    Arrival, Consumer, Engine, Error, Health, Kind, Name, NewRecord, Outcome, Position, Records,
    Result, Unit, Verdict, codes,
};
use strait_redis::{Options, Redis};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// Long enough for a loaded machine; reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server of its own, on its own directory.
struct Server {
    dir: tempfile::TempDir,
    port: u16,
    args: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// `None`, after a line that says so, where there is no `redis-server`.
    fn start(args: &[&str]) -> Option<Self> {
        let mut server = Self::stopped(args);
        server.child = Some(server.spawn()?);
        Some(server)
    }

    fn stopped(args: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        Server {
            dir: tempfile::tempdir().unwrap(),
            port: free.local_addr().unwrap().port(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            child: None,
        }
    }

    fn spawn(&self) -> Option<Child> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port"]);
        command
            .arg(self.port.to_string())
            .arg("--dir")
            .arg(self.dir.path());
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        command
            .args(&self.args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let ci = std::env::var("CI").is_ok_and(|value| value == "true");
                assert!(!ci, "no redis-server: CI tests against it");
                // Past what the test harness keeps to itself: `cargo xtask test` counts this line.
                let _ = writeln!(std::io::stdout(), "skipped: no redis-server");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = self.spawn();
    }

    fn options(&self) -> Options {
        let mut options = Options::new("127.0.0.1", self.port);
        options.timeout = Duration::from_secs(2);
        options
    }

    async fn open(&self) -> Redis {
        let redis = Redis::open(self.options()).await.unwrap();
        until(&redis, |health| {
            matches!(health, Health::Up | Health::Impaired(_))
        })
        .await;
        redis
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn until(redis: &Redis, wish: impl Fn(&Health) -> bool) -> Health {
    let mut health = redis.health();
    let found = tokio::time::timeout(PATIENCE, health.wait_for(|health| wish(health))).await;
    found
        .unwrap_or_else(|_| panic!("the health is {:?}", redis.health().borrow()))
        .unwrap()
        .clone()
}

fn topic() -> Name {
    "orders".parse().unwrap()
}

fn lane(redis: &Redis) -> Arc<dyn Events> {
    redis.lanes().events.unwrap()
}

async fn declare(redis: &Redis) {
    lane(redis)
        .declare(TopicSpec::new(topic()).partitions(1))
        .await
        .unwrap();
}

async fn append(redis: &Redis, body: &str) -> Result<()> {
    let record = NewRecord {
        body: body.as_bytes(),
        ..NewRecord::default()
    };
    let append = Append {
        topic: topic(),
        partition: 0,
        records: Records::one(&[], record)?,
        expected: Expected::Any,
        dedupe: false,
    };
    lane(redis).append(append).await.map(drop)
}

async fn bodies(redis: &Redis) -> Vec<String> {
    let mut position = Position::default();
    let mut bodies = Vec::new();
    loop {
        let cursor = Cursor {
            topic: topic(),
            partition: 0,
            position,
            wait: Duration::ZERO,
        };
        let chunk = lane(redis).read(cursor, 1 << 20).await.unwrap();
        if chunk.is_empty() {
            return bodies;
        }
        let body = |item: strait_core::Item<'_>| {
            String::from_utf8_lossy(item.record().body()).into_owned()
        };
        bodies.extend(chunk.iter().map(body));
        position = chunk.next();
    }
}

/// Appends until told to end, and counts; gives what was acknowledged. A fault is waited out.
async fn produce(
    redis: Redis,
    mut end: watch::Receiver<bool>,
    count: Arc<watch::Sender<u64>>,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if *end.borrow_and_update() {
            break;
        }
        let body = number.to_string();
        match append(&redis, &body).await {
            Ok(()) => {
                acknowledged.push(body);
                count.send_modify(|count| *count += 1);
            }
            Err(error) => {
                assert!(error.may_retry(), "{error:?}");
                until(&redis, |health| *health == Health::Up).await;
            }
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_three_kills_under_load() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let redis = server.open().await;
    assert_eq!(lane(&redis).caps().durability, Durability::Fsynced);
    declare(&redis).await;
    let (end, ended) = watch::channel(false);
    let count = Arc::new(watch::Sender::new(0));
    let producers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(produce(redis.clone(), ended.clone(), count.clone())))
        .collect();
    for _ in 0..3 {
        // Some of the load lies before each kill.
        let before = *count.borrow();
        let mut counted = count.subscribe();
        let more = counted.wait_for(|count| *count >= before + 200);
        tokio::time::timeout(PATIENCE, more).await.unwrap().unwrap();
        server.kill();
        until(&redis, |health| matches!(health, Health::Down(_))).await;
        server.restart();
        until(&redis, |health| *health == Health::Up).await;
    }
    end.send_replace(true);
    let mut acknowledged = Vec::new();
    for producer in producers {
        acknowledged.extend(
            tokio::time::timeout(PATIENCE, producer)
                .await
                .unwrap()
                .unwrap(),
        );
    }
    let mut there = bodies(&redis).await;
    there.sort();
    acknowledged.sort();
    // Each producer counts by itself, so a body is there as often as it was acknowledged, at least.
    let mut rest = there.iter().peekable();
    for body in &acknowledged {
        while rest.peek().is_some_and(|found| *found < body) {
            rest.next();
        }
        assert_eq!(rest.next(), Some(body), "acknowledged, and lost");
    }
    redis.close(PATIENCE).await;
}

#[tokio::test]
async fn a_server_that_stands_still_is_told_and_comes_back() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let mut options = server.options();
    options.timeout = Duration::from_millis(300);
    let redis = Redis::open(options).await.unwrap();
    declare(&redis).await;
    append(&redis, "before").await.unwrap();
    kill_process(server.pid(), Signal::STOP).unwrap();
    let error = append(&redis, "lost?").await.unwrap_err();
    assert_eq!(error.effect(), strait_core::Effect::Unknown, "{error:?}");
    assert!(
        matches!(error.kind(), Kind::TimedOut | Kind::Unavailable),
        "{error:?}"
    );
    kill_process(server.pid(), Signal::CONT).unwrap();
    until(&redis, |health| *health == Health::Up).await;
    append(&redis, "after").await.unwrap();
    redis.close(PATIENCE).await;
}

#[tokio::test]
async fn a_connection_that_is_cut_is_made_again() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let proxy = Proxy::to(([127, 0, 0, 1], server.port).into()).unwrap();
    let mut options = server.options();
    options.port = proxy.address().port();
    let redis = Redis::open(options).await.unwrap();
    declare(&redis).await;
    append(&redis, "before").await.unwrap();
    proxy.cut();
    let error = append(&redis, "meanwhile").await.unwrap_err();
    assert!(error.may_retry(), "{error:?}");
    until(&redis, |health| matches!(health, Health::Down(_))).await;
    proxy.heal();
    until(&redis, |health| *health == Health::Up).await;
    append(&redis, "after").await.unwrap();
    assert_eq!(
        bodies(&redis).await.last().map(String::as_str),
        Some("after")
    );
    redis.close(PATIENCE).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let mut server = Server::stopped(&[]);
    let mut options = server.options();
    options.first_contact = Duration::from_millis(100);
    let redis = Redis::open(options.clone()).await.unwrap();
    assert!(matches!(*redis.health().borrow(), Health::Down(_)));
    let error = lane(&redis).topics().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    options.strict = true;
    let error = Redis::open(options).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    server.restart();
    if server.child.is_none() {
        return;
    }
    until(&redis, |health| *health == Health::Up).await;
    declare(&redis).await;
    redis.close(PATIENCE).await;
}

async fn refused(args: &[&str], kind: Kind, says: &str) {
    let Some(server) = Server::start(args) else {
        return;
    };
    let redis = server.open().await;
    let declared = lane(&redis)
        .declare(TopicSpec::new(topic()).partitions(1))
        .await;
    let error = declared
        .err()
        .or(append(&redis, &"x".repeat(100_000)).await.err());
    let error = error.unwrap();
    assert_eq!(error.kind(), kind, "{error:?}");
    let text = format!("{error} {}", error.advice().unwrap_or_default());
    assert!(text.contains(says), "{text}");
    redis.close(PATIENCE).await;
}

#[tokio::test]
async fn a_replica_says_that_it_is_one() {
    refused(
        &["--replicaof", "127.0.0.1 1"],
        Kind::Unavailable,
        "address of the primary",
    )
    .await;
}

#[tokio::test]
async fn a_server_without_memory_says_what_to_do() {
    refused(&["--maxmemory", "1mb"], Kind::Busy, "maxmemory").await;
}

#[tokio::test]
async fn a_wrong_password_is_named_without_showing_it() {
    let Some(server) = Server::start(&["--requirepass", "right"]) else {
        return;
    };
    let mut options = server.options();
    options.first_contact = Duration::from_millis(500);
    options.password = Some(strait_redis::Secret::new("s3cret"));
    let redis = Redis::open(options).await.unwrap();
    let health = until(&redis, |health| matches!(health, Health::Down(why) if !why.contains("refused") && !why.contains("not connected"))).await;
    let error: Error = lane(&redis).topics().await.unwrap_err();
    let text = format!("{health:?} {error:?} {redis:?}");
    assert!(!text.contains("s3cret"), "{text}");
    assert!(text.to_lowercase().contains("password"), "{text}");
    redis.close(PATIENCE).await;
}

#[tokio::test]
async fn tls_to_a_plain_port_is_an_error_and_no_hang() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    server.open().await.close(PATIENCE).await;
    let mut options = server.options();
    options.tls = true;
    options.strict = true;
    options.first_contact = Duration::from_secs(5);
    let error = Redis::open(options).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
}

#[tokio::test]
async fn what_weakens_the_server_is_told() {
    let Some(server) = Server::start(&[
        "--appendonly",
        "no",
        "--maxmemory",
        "64mb",
        "--maxmemory-policy",
        "allkeys-lru",
    ]) else {
        return;
    };
    let redis = server.open().await;
    let health = until(&redis, |health| matches!(health, Health::Impaired(_))).await;
    let text = format!("{health:?}");
    assert!(
        text.contains("append-only") && text.contains("allkeys-lru"),
        "{text}"
    );
    assert_eq!(lane(&redis).caps().durability, Durability::Memory);
    redis.close(PATIENCE).await;
}

/// Streams belong to everybody: what other programs write is read, and what is written here is theirs to read.
#[tokio::test]
async fn other_programs_share_the_streams() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let redis = server.open().await;
    let command = |words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command
    };
    redis
        .native(&command(&["XADD", "orders", "*", "amount", "3"]))
        .await
        .unwrap();
    assert_eq!(bodies(&redis).await, ["3"]);
    append(&redis, "ours").await.unwrap();
    redis
        .native(&command(&["XGROUP", "CREATE", "orders", "plain", "0"]))
        .await
        .unwrap();
    let read = redis
        .native(&command(&[
            "XREADGROUP",
            "GROUP",
            "plain",
            "me",
            "COUNT",
            "9",
            "STREAMS",
            "orders",
            ">",
        ]))
        .await
        .unwrap();
    assert!(
        format!("{read:?}").contains("bulk-string('\"ours\"')"),
        "{read:?}"
    );
    redis
        .native(&command(&["SET", "other", "text"]))
        .await
        .unwrap();
    let mut spec = TopicSpec::new("other".parse().unwrap()).partitions(1);
    let error = lane(&redis).declare(spec.clone()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error:?}");
    // The refusal changed nothing: the key is theirs, and no topic of it is listed.
    let listed = lane(&redis).topics().await.unwrap();
    assert!(
        listed.iter().all(|topic| &*topic.name != "other"),
        "{listed:?}"
    );
    let theirs = redis.native(&command(&["GET", "other"])).await.unwrap();
    assert!(format!("{theirs:?}").contains("text"), "{theirs:?}");
    spec.name = "orders".parse().unwrap();
    let error = lane(&redis).declare(spec.partitions(4)).await.unwrap_err();
    assert!(error.is(codes::TOPIC_EXISTS), "{error:?}");
    redis.close(PATIENCE).await;
}

/// A topic that is deleted and made again knows nothing of the ids of the one before.
#[tokio::test]
async fn a_topic_that_is_made_again_takes_every_id() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let redis = server.open().await;
    let with_id = || {
        let record = NewRecord {
            body: b"once",
            attrs: &[(strait_core::Attr::Id, "id-1")],
            ..NewRecord::default()
        };
        Append {
            topic: topic(),
            partition: 0,
            records: Records::one(&[], record).unwrap(),
            expected: Expected::Any,
            dedupe: true,
        }
    };
    for _ in 0..2 {
        declare(&redis).await;
        let first = lane(&redis).append(with_id()).await.unwrap();
        let again = lane(&redis).append(with_id()).await.unwrap();
        assert!(!first.duplicate && again.duplicate, "{first:?} {again:?}");
        assert_eq!(bodies(&redis).await, ["once"]);
        lane(&redis).delete(topic()).await.unwrap();
    }
    redis.close(PATIENCE).await;
}

/// A reader that retention has passed is told, with where it may go on.
#[tokio::test]
async fn what_retention_removed_is_told_to_who_comes_for_it() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let mut options = server.options();
    options.retention_every = Duration::from_millis(20);
    let redis = Redis::open(options).await.unwrap();
    let mut spec = TopicSpec::new(topic()).partitions(1);
    spec.retention = Some(strait_core::events::Retention {
        age: Some(Duration::from_millis(50)),
        bytes: None,
    });
    lane(&redis).declare(spec).await.unwrap();
    append(&redis, "old").await.unwrap();
    let cursor = Cursor {
        topic: topic(),
        partition: 0,
        position: Position::default(),
        wait: Duration::ZERO,
    };
    let gone = async {
        loop {
            match lane(&redis).read(cursor.clone(), 1 << 20).await {
                Err(error) => return error,
                // The server trims at its own pace and tells nobody.
                Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, gone).await.unwrap();
    assert!(error.is(codes::OFFSET_GONE), "{error:?}");
    redis.close(PATIENCE).await;
}

/// Retention by bytes keeps the newest, and what a group has not settled. Dead letters go when their group keeps them no longer.
#[tokio::test]
async fn retention_by_bytes_and_by_the_age_of_dead_letters() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let mut options = server.options();
    options.retention_every = Duration::from_millis(20);
    let redis = Redis::open(options).await.unwrap();
    let mut spec = TopicSpec::new(topic()).partitions(1);
    spec.retention = Some(strait_core::events::Retention {
        age: None,
        bytes: Some(100_000),
    });
    lane(&redis).declare(spec).await.unwrap();
    let group = |name: &str, dead_age| GroupSpec {
        dead_age,
        ..GroupSpec::new(name.parse().unwrap(), topic())
    };
    let billing = group("billing", Some(Duration::from_millis(1)));
    let audit = group("audit", None);
    let mut consumers = Vec::new();
    for group in [&billing, &audit] {
        consumers.push(lane(&redis).join(group.clone()).await.unwrap());
    }
    for _ in 0..1000 {
        append(&redis, &"x".repeat(1000)).await.unwrap();
    }
    let part = lane(&redis).topic(topic()).await.unwrap().partitions[0];
    assert!(part.bytes > 1_000_000, "{part:?}");
    assert_eq!(bodies(&redis).await.len(), 1000, "what is not settled");
    for consumer in &mut consumers {
        let mut left = 1000;
        while left > 0 {
            let verdict = match left {
                1000 => Verdict::Dead("cannot be booked".into()),
                _ => Verdict::Done,
            };
            left -= settle_next(&redis, consumer, verdict).await;
        }
    }
    let left = async {
        loop {
            let billing = lane(&redis).group(billing.group.clone(), topic()).await;
            let part = lane(&redis).topic(topic()).await.unwrap().partitions[0];
            if part.bytes <= 100_000 && billing.unwrap().dead_bytes == 0 {
                let mut len = redis::cmd("XLEN");
                len.arg("orders");
                return redis.native(&len).await.unwrap();
            }
            // It is trimmed at its own pace, and nobody is told.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let left = tokio::time::timeout(PATIENCE, left).await.unwrap();
    let redis::Value::Int(1..=100) = left else {
        panic!("{left:?} messages are left");
    };
    let audit = lane(&redis).group(audit.group, topic()).await.unwrap();
    assert!(audit.dead > 0, "what has no age stays");
    redis.close(PATIENCE).await;
}

/// Settles what comes next; gives how many that were.
async fn settle_next(redis: &Redis, consumer: &mut Consumer, verdict: Verdict) -> usize {
    loop {
        let next = tokio::time::timeout(PATIENCE, consumer.next(100, 1 << 20)).await;
        let (count, receipts) = match next.unwrap().unwrap() {
            Arrival::Run(chunk, receipt) => (chunk.len(), vec![receipt]),
            Arrival::Each(each) => (each.len(), each.into_iter().map(|d| d.receipt).collect()),
            _ => continue,
        };
        let mut unit = Unit::default();
        let settle = receipts
            .into_iter()
            .map(|receipt| (receipt, verdict.clone()));
        unit.settle.extend(settle);
        let outcome = redis.commit(vec![unit]).await;
        assert!(matches!(outcome[0], Outcome::Applied(_)), "{outcome:?}");
        return count;
    }
}

/// A member that settles whatever comes, until each of these bodies was; gives how often each was.
async fn settle_all(
    redis: &Redis,
    consumer: &mut Consumer,
    wanted: usize,
) -> BTreeMap<String, u32> {
    let mut settled: BTreeMap<String, u32> = BTreeMap::new();
    while settled.len() < wanted {
        let next = tokio::time::timeout(PATIENCE, consumer.next(16, 1 << 20)).await;
        let next = next.unwrap_or_else(|_| panic!("{} of {wanted} came", settled.len()));
        let (bodies, receipts) = match next.unwrap() {
            Arrival::Run(chunk, receipt) => (chunk.iter().map(body).collect(), vec![receipt]),
            Arrival::Each(deliveries) => {
                let bodies = deliveries.iter().map(|d| text(d.message.record().body()));
                let bodies: Vec<String> = bodies.collect();
                (bodies, deliveries.into_iter().map(|d| d.receipt).collect())
            }
            _ => continue,
        };
        let mut unit = Unit::default();
        unit.settle
            .extend(receipts.into_iter().map(|receipt| (receipt, Verdict::Done)));
        if let Some(Outcome::Applied(_)) = redis.commit(vec![unit]).await.pop() {
            bodies
                .into_iter()
                .for_each(|body| *settled.entry(body).or_default() += 1);
        }
    }
    settled
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

fn body(item: strait_core::Item<'_>) -> String {
    text(item.record().body())
}

async fn join(redis: &Redis) -> Consumer {
    let group = GroupSpec::new("billing".parse().unwrap(), topic());
    lane(redis).join(group).await.unwrap()
}

/// Appends this body until it is acknowledged: once where the server answers, maybe more often where it does not.
async fn insist(redis: &Redis, body: &str) {
    while append(redis, body).await.is_err() {
        until(redis, |health| *health == Health::Up).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_after_three_kills_and_settles_nothing_twice() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let redis = server.open().await;
    declare(&redis).await;
    let mut consumer = join(&redis).await;
    let mut all: BTreeMap<String, u32> = BTreeMap::new();
    let mut count = |settled: BTreeMap<String, u32>| {
        for (body, times) in settled {
            *all.entry(body).or_default() += times;
        }
    };
    for round in 0..4 {
        for number in 0..100 {
            insist(&redis, &format!("{round}.{number}")).await;
        }
        count(settle_all(&redis, &mut consumer, 100).await);
        if round < 3 {
            // What is behind it comes while the server is away.
            insist(&redis, &format!("{round}.last")).await;
            server.kill();
            until(&redis, |health| matches!(health, Health::Down(_))).await;
            server.restart();
            until(&redis, |health| *health == Health::Up).await;
            count(settle_all(&redis, &mut consumer, 1).await);
        }
    }
    assert_eq!(all.len(), 403);
    let twice: Vec<_> = all.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    redis.close(PATIENCE).await;
}

/// A connection that is cut while receipts are out, shorter than a session lasts: no receipt settles another message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_cut_makes_no_receipt_valid_for_another_message() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let proxy = Proxy::to(([127, 0, 0, 1], server.port).into()).unwrap();
    let mut options = server.options();
    options.port = proxy.address().port();
    let redis = Redis::open(options).await.unwrap();
    declare(&redis).await;
    let mut consumer = join(&redis).await;
    let mut settled: BTreeMap<String, u32> = BTreeMap::new();
    for round in 0..5 {
        for number in 0..20 {
            insist(&redis, &format!("{round}.{number}")).await;
        }
        let held = loop {
            let next = tokio::time::timeout(PATIENCE, consumer.next(3, 1 << 20)).await;
            match next.unwrap().unwrap() {
                Arrival::Run(chunk, receipt) => break (chunk.iter().map(body).collect(), receipt),
                Arrival::Each(mut deliveries) => {
                    let first = deliveries.remove(0);
                    break (vec![text(first.message.record().body())], first.receipt);
                }
                _ => {}
            }
        };
        proxy.reset();
        let (bodies, receipt): (Vec<String>, _) = held;
        let outcome = redis
            .commit(vec![Unit::settle(receipt, Verdict::Done)])
            .await
            .pop();
        until(&redis, |health| *health == Health::Up).await;
        // Without an answer it may have happened: the server knows.
        let billing = lane(&redis).group("billing".parse().unwrap(), topic());
        let missing = billing.await.unwrap().lag() as usize;
        let happened = missing == 20 - bodies.len();
        match outcome {
            Some(Outcome::Applied(_)) => assert!(happened, "{missing} are missing"),
            Some(Outcome::Unknown(_)) => {}
            other => assert!(!happened, "{other:?}, and {missing} are missing"),
        }
        if happened {
            bodies
                .into_iter()
                .for_each(|body| *settled.entry(body).or_default() += 1);
        }
        for (body, times) in settle_all(&redis, &mut consumer, missing).await {
            *settled.entry(body).or_default() += times;
        }
    }
    assert_eq!(settled.len(), 100);
    let twice: Vec<_> = settled.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    redis.close(PATIENCE).await;
}

/// Ready when the server answers on a connection of the test's own: from here on it is back.
async fn answers(port: u16) -> Instant {
    let asked = async {
        loop {
            if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                let mut answer = [0; 5];
                let sent = stream.write_all(b"PING\r\n").await;
                let read = stream.read_exact(&mut answer).await;
                if sent.is_ok() && read.is_ok() && &answer == b"+PONG" {
                    return Instant::now();
                }
            }
            // It is not there, or loads: nobody says when that is over.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap()
}

/// Settles what comes, and counts, until told to end.
async fn settle_on(redis: Redis, mut end: watch::Receiver<bool>, count: Arc<watch::Sender<u64>>) {
    let mut consumer = join(&redis).await;
    loop {
        let next = tokio::select! {
            _ = end.wait_for(|end| *end) => return,
            next = consumer.next(16, 1 << 20) => next.unwrap(),
        };
        let receipts = match next {
            Arrival::Run(_, receipt) => vec![receipt],
            Arrival::Each(each) => each.into_iter().map(|d| d.receipt).collect(),
            _ => continue,
        };
        let mut unit = Unit::default();
        let settle = receipts.into_iter().map(|receipt| (receipt, Verdict::Done));
        unit.settle.extend(settle);
        if let Some(Outcome::Applied(_)) = redis.commit(vec![unit]).await.pop() {
            count.send_modify(|count| *count += 1);
        }
    }
}

/// Appends and settles go on soon after a killed server is back. `STRAIT_KILL_ROUNDS` says how often it is killed, up to 100.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_worked_with_again_soon_after_its_return() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let rounds = std::env::var("STRAIT_KILL_ROUNDS").ok();
    let rounds: u32 = rounds.map_or(3, |rounds| rounds.parse().unwrap());
    let redis = server.open().await;
    declare(&redis).await;
    let (end, ended) = watch::channel(false);
    let (appended, settled) = (
        Arc::new(watch::Sender::new(0)),
        Arc::new(watch::Sender::new(0)),
    );
    let producers =
        (0..4).map(|_| tokio::spawn(produce(redis.clone(), ended.clone(), appended.clone())));
    let producers: Vec<_> = producers.collect();
    let settling = tokio::spawn(settle_on(redis.clone(), ended.clone(), settled.clone()));
    let more = async |count: &watch::Sender<u64>, by: u64| {
        let from = *count.borrow();
        let mut counted = count.subscribe();
        let more = counted.wait_for(|count| *count >= from + by);
        tokio::time::timeout(PATIENCE, more).await.unwrap().unwrap();
        Instant::now()
    };
    for round in 0..rounds.min(100) {
        more(&appended, 100).await;
        more(&settled, 10).await;
        server.kill();
        until(&redis, |health| matches!(health, Health::Down(_))).await;
        if round % 3 == 1 {
            // Away for so long that the pauses between two tries are the longest.
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        server.restart();
        let back = answers(server.port).await;
        let (append, settle) = tokio::join!(more(&appended, 1), more(&settled, 1));
        let (append, settle) = (append - back, settle - back);
        let _ = writeln!(
            std::io::stdout(),
            "kill {round}: after the server's return the first append took {append:?}, the first settle {settle:?}"
        );
        assert!(
            append.max(settle) < Duration::from_secs(10),
            "{append:?}, {settle:?}"
        );
    }
    end.send_replace(true);
    for producer in producers {
        tokio::time::timeout(PATIENCE, producer)
            .await
            .unwrap()
            .unwrap();
    }
    tokio::time::timeout(PATIENCE, settling)
        .await
        .unwrap()
        .unwrap();
    redis.close(PATIENCE).await;
}

/// Makes a certificate with its key, signed by `by` or by itself; `false`, after a line that says so, where there is no `openssl`.
fn certificate(dir: &std::path::Path, name: &str, by: Option<&str>) -> bool {
    let path = |name: &str, end: &str| dir.join(format!("{name}.{end}"));
    let mut command = Command::new("openssl");
    command.args([
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
    ]);
    command.arg(format!("/CN={name}"));
    command
        .arg("-keyout")
        .arg(path(name, "key"))
        .arg("-out")
        .arg(path(name, "crt"));
    match by {
        Some(by) => {
            command
                .arg("-CA")
                .arg(path(by, "crt"))
                .arg("-CAkey")
                .arg(path(by, "key"));
            command.args(["-addext", "subjectAltName=IP:127.0.0.1"]);
            command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        }
        None => {
            command.args(["-addext", "keyUsage=critical,keyCertSign"]);
        }
    }
    match command.output() {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            true
        }
        Err(_) => {
            let _ = writeln!(std::io::stdout(), "skipped: no openssl");
            false
        }
    }
}

/// An authority of one's own vouches for the server, and the server asks who comes.
#[tokio::test]
async fn tls_with_an_authority_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    for (name, by) in [("ca", None), ("server", Some("ca")), ("client", Some("ca"))] {
        if !certificate(dir.path(), name, by) {
            return;
        }
    }
    let path = |name: &str| dir.path().join(name).display().to_string();
    let tls = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (port, ca) = (tls.to_string(), path("ca.crt"));
    let (certificate, key) = (path("server.crt"), path("server.key"));
    let args = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "yes",
    ];
    let Some(server) = Server::start(&args) else {
        return;
    };
    answers(server.port).await;
    let base = format!("rediss://127.0.0.1:{tls}?strict=true&first_contact=10");
    let open = async |more: String| Redis::open(Options::from_url(&format!("{base}{more}"))?).await;
    let own = format!(
        "&certificate={}&key={}",
        path("client.crt"),
        path("client.key")
    );
    let redis = open(format!("&ca={ca}{own}")).await.unwrap();
    declare(&redis).await;
    append(&redis, "over TLS").await.unwrap();
    assert_eq!(bodies(&redis).await, ["over TLS"]);
    redis.close(PATIENCE).await;
    let base = format!("rediss://127.0.0.1:{tls}?strict=true&first_contact=1");
    let open = async |more: String| Redis::open(Options::from_url(&format!("{base}{more}"))?).await;
    // An authority that nobody knows, and nobody's certificate.
    for more in [own, format!("&ca={ca}")] {
        let error = open(more.clone()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{more}: {error:?}");
    }
    let error = open(format!("&ca={}", path("nowhere.crt")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{error:?}");
    assert!(error.advice().is_some(), "{error:?}");
}

/// Resets the connections, and lets the engine find out.
async fn cut_off(proxy: &Proxy, redis: &Redis) {
    proxy.reset();
    let ping = redis::cmd("PING");
    let answered = || tokio::time::timeout(PATIENCE, redis.native(&ping));
    while answered().await.expect("an answer, or an error").is_ok() {}
}

/// A call that nobody polls while a connection is made holds up no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_not_polled_holds_up_no_other() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let proxy = Proxy::to(([127, 0, 0, 1], server.port).into()).unwrap();
    let mut options = server.options();
    options.port = proxy.address().port();
    let redis = Redis::open(options).await.unwrap();
    until(&redis, |health| *health == Health::Up).await;
    let ping = redis::cmd("PING");
    proxy.stall();
    cut_off(&proxy, &redis).await;
    // It waits for the connection that the engine tries to make, or makes one itself.
    let mut idle = Box::pin(redis.native(&ping));
    let once = std::future::poll_fn(|cx| std::task::Poll::Ready(idle.as_mut().poll(cx).is_ready()));
    assert!(!once.await, "there is no connection yet");
    proxy.heal();
    for _ in 0..3 {
        until(&redis, |health| *health == Health::Up).await;
        cut_off(&proxy, &redis).await;
    }
    until(&redis, |health| *health == Health::Up).await;
    assert!(redis.native(&ping).await.is_ok());
    drop(idle);
    redis.close(PATIENCE).await;
}

/// Ten members on three engines come and go for ten seconds: the history holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_rebalances_breaks_no_promise() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let mut engines: Vec<Arc<dyn Engine>> = Vec::new();
    for _ in 0..3 {
        engines.push(Arc::new(server.open().await));
    }
    let lasts = Duration::from_secs(10);
    let told = strait_conformance::storm(&engines, 7, lasts, PATIENCE).await;
    let _ = writeln!(std::io::stdout(), "storm: {}", told.unwrap());
    for engine in engines {
        engine.close(PATIENCE).await;
    }
}

/// 100,000 messages wait for their next attempt: none is lost, and what keeps no order goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_wait_for_their_next_attempt() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (one, other) = (server.open().await, server.open().await);
    let engines: [Arc<dyn Engine>; 2] = [Arc::new(one), Arc::new(other)];
    let told = strait_conformance::parked(&engines, 100_000, PATIENCE).await;
    let _ = writeln!(std::io::stdout(), "{}", told.unwrap());
    for engine in engines {
        engine.close(PATIENCE).await;
    }
}
