//! Dead letters by the thousand, and their age.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{
    Append, DeadFilter, Durability, Expected, GroupSpec, Redrive, RemoveDead, TopicSpec,
    UndoRedrive,
};
use strait_core::{Arrival, Consumer, Engine, NewRecord, Outcome, RecordsBuilder, Unit, Verdict};
use strait_embedded::{Embedded, Options};

use crate::support::{block_on, events, name};

/// More than fit several slices.
const MANY: u64 = 20_000;
const KEYS: u64 = 100;
const PARTITIONS: u32 = 2;

fn options() -> Options {
    Options {
        durability: Durability::Os,
        retention_every: Duration::from_millis(20),
        ..Options::default()
    }
}

fn spec() -> GroupSpec {
    GroupSpec {
        gap: u64::MAX,
        lease: Duration::from_secs(600),
        ..GroupSpec::new(name("group"), name("in"))
    }
}

async fn fill(engine: &Arc<Embedded>, count: u64) {
    let lane = events(engine);
    let spec = TopicSpec::new(name("in")).partitions(PARTITIONS);
    lane.declare(spec).await.expect("declared");
    for first in (0..count).step_by(500) {
        let mut records = RecordsBuilder::new(&[]).expect("a batch");
        for number in first..count.min(first + 500) {
            let key = format!("{}", number % KEYS);
            let record = NewRecord {
                key: Some(key.as_bytes()),
                body: b"body",
                ..NewRecord::default()
            };
            records.push(record).expect("a small message");
        }
        let append = Append {
            topic: name("in"),
            partition: (first / 500) as u32 % PARTITIONS,
            records: records.build(),
            expected: Expected::Any,
            dedupe: false,
        };
        lane.append(append).await.expect("appended");
    }
}

/// Takes so many messages, each key in its order, and ends them in the verdict.
async fn settle(engine: &Arc<Embedded>, member: &mut Consumer, count: u64, verdict: Verdict) {
    let mut last: HashMap<(u32, Vec<u8>), u64> = HashMap::new();
    let mut settled = 0;
    while settled < count {
        let arrival = poll_fn(|cx| member.source.poll_next(cx, 1000, 1 << 20)).await;
        let receipts = match arrival.expect("the engine is open") {
            Arrival::Run(_, receipt) => vec![receipt],
            Arrival::Each(each) => {
                for delivery in &each {
                    let message = &delivery.message;
                    let key = message.record().key().unwrap_or_default().to_vec();
                    let offset = message.position().offset();
                    let before = last.insert((message.partition(), key), offset);
                    assert!(
                        before.is_none_or(|b| b < offset),
                        "{before:?}, then {offset}"
                    );
                }
                each.into_iter().map(|delivery| delivery.receipt).collect()
            }
            _ => continue,
        };
        settled += receipts.iter().map(|r| u64::from(r.count())).sum::<u64>();
        let settle = receipts.into_iter().map(|r| (r, verdict.clone())).collect();
        let unit = Unit {
            settle,
            ..Unit::default()
        };
        let outcome = engine.commit(vec![unit]).await.remove(0);
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }
}

fn all() -> Redrive {
    Redrive::new(name("group"), name("in"), DeadFilter::default())
}

async fn dead(engine: &Arc<Embedded>) -> (u64, u64) {
    let info = events(engine).group(name("group"), name("in")).await;
    let info = info.expect("the group");
    (info.dead, info.dead_bytes)
}

#[test]
fn many_dead_letters_come_back_in_order_over_restarts() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    block_on(async {
        let engine = Embedded::open(&dir, options()).expect("a new directory");
        fill(&engine, MANY).await;
        let mut member = events(&engine).join(spec()).await.expect("a member");
        settle(&engine, &mut member, MANY, Verdict::Dead("no".into())).await;
        drop(member);
        let before = dead(&engine).await;
        assert_eq!(before.0, MANY);

        // All but the few that are due at once go back, whatever slice they are in.
        let slow = Redrive {
            per_second: Some(1),
            ..all()
        };
        let done = events(&engine).redrive(slow).await.expect("redriven");
        assert_eq!(done.count, MANY);
        engine.close(Duration::from_secs(5)).await;
        drop(engine);
        let engine = Embedded::open(&dir, options()).expect("the directory");
        assert_eq!(dead(&engine).await, (0, before.1), "it is still on its way");
        let undo = UndoRedrive {
            group: name("group"),
            topic: name("in"),
            run: done.run.expect("a run"),
            dry_run: false,
        };
        let undone = events(&engine).undo_redrive(undo).await.expect("undone");
        assert_eq!((undone.returned, undone.out, undone.handled), (MANY, 0, 0));
        assert_eq!(dead(&engine).await, before);

        let done = events(&engine).redrive(all()).await.expect("redriven");
        assert_eq!(done.count, MANY);
        let mut member = events(&engine).join(spec()).await.expect("a member");
        settle(&engine, &mut member, MANY / 2, Verdict::Done).await;
        drop(member);
        engine.close(Duration::from_secs(5)).await;
        drop(engine);
        let engine = Embedded::open(&dir, options()).expect("the directory");
        let mut member = events(&engine).join(spec()).await.expect("a member");
        let left = events(&engine).group(name("group"), name("in")).await;
        let left = left.expect("the group").lag();
        assert!((1..=MANY / 2).contains(&left), "{left} are left");
        settle(&engine, &mut member, left, Verdict::Done).await;
        assert_eq!(dead(&engine).await, (0, 0), "dead letters, and their bytes");
        engine.close(Duration::from_secs(5)).await;
    });
}

#[test]
fn a_removal_of_many_leaves_the_others() {
    block_on(async {
        let engine = Embedded::memory(options()).expect("an engine in memory");
        fill(&engine, MANY).await;
        let mut member = events(&engine).join(spec()).await.expect("a member");
        settle(&engine, &mut member, MANY, Verdict::Dead("no".into())).await;
        let filter = DeadFilter {
            partition: Some(1),
            ..DeadFilter::default()
        };
        let remove = RemoveDead {
            group: name("group"),
            topic: name("in"),
            filter,
            dry_run: false,
        };
        let removed = events(&engine).remove_dead(remove).await.expect("removed");
        assert_eq!(removed, MANY / 2);
        assert_eq!(dead(&engine).await.0, MANY / 2);
        engine.close(Duration::from_secs(5)).await;
    });
}

#[test]
fn dead_letters_older_than_their_age_go() {
    block_on(async {
        let engine = Embedded::memory(options()).expect("an engine in memory");
        fill(&engine, 10).await;
        let mut member = events(&engine).join(spec()).await.expect("a member");
        settle(&engine, &mut member, 10, Verdict::Dead("no".into())).await;
        assert_eq!(dead(&engine).await.0, 10, "without an age they stay");
        drop(member);
        let aged = GroupSpec {
            dead_age: Some(Duration::from_millis(1)),
            ..spec()
        };
        let member = events(&engine).join(aged).await.expect("a member");
        let gone = async {
            while dead(&engine).await.0 > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(60), gone).await;
        gone.expect("they are removed in time");
        assert_eq!(dead(&engine).await, (0, 0));
        drop(member);
        engine.close(Duration::from_secs(5)).await;
    });
}
