//! A full disk: sends are refused, the rest goes on, and sends resume by themselves.

use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use strait_core::events::{Durability, GroupSpec, Retention, TopicChange};
use strait_core::{
    Arrival, Consumer, Engine, Health, Kind, Outcome, Receipt, Unit, Verdict, codes,
};
use strait_embedded::disk::SimDisk;
use strait_embedded::{Embedded, Options};

use crate::support::{append, block_on, declare, events, name, read_all, skipped};

/// Fills up, looks at what goes on, makes space, and waits until sends go on.
async fn fill_and_recover(engine: &Arc<Embedded>, make_space: impl FnOnce()) {
    declare(engine, "in", 1).await;
    let body = vec![7; 50_000];
    let mut acked = 0u64;
    let refused = loop {
        match append(engine, "in", 0, &body).await {
            Ok(sent) => {
                assert_eq!(sent.first.offset(), acked);
                acked += 1;
            }
            Err(error) => break error,
        }
        assert!(acked < 10_000, "the disk never fills up");
    };
    assert_eq!(
        (refused.kind(), refused.code_str()),
        (Kind::Busy, Some(codes::DISK_FULL)),
        "{refused:?}"
    );
    assert!(refused.may_retry());
    let mut health = engine.health();
    let told = health
        .wait_for(|health| matches!(health, Health::Impaired(_)))
        .await
        .is_ok();
    assert!(told, "the health says that the disk is full");
    let full_in = async || engine.storage().await.expect("it is measured").full_in;
    assert_eq!(full_in().await, Some(Duration::ZERO));

    // Reading and settling go on.
    assert_eq!(read_all(engine, "in", 0).await.len() as u64, acked);
    let spec = GroupSpec::new(name("group"), name("in"));
    let mut consumer = events(engine).join(spec).await.expect("a member");
    for _ in 0..acked.min(20) {
        let receipt = next_receipt(&mut consumer).await;
        let outcome = engine
            .commit(vec![Unit::settle(receipt, Verdict::Done)])
            .await
            .remove(0);
        assert!(
            matches!(outcome, Outcome::Applied(_)),
            "a settle on a full disk: {outcome:?}"
        );
    }

    make_space();
    health
        .wait_for(|health| *health == Health::Up)
        .await
        .expect("space is found without a restart");
    assert_ne!(full_in().await, Some(Duration::ZERO));
    let sent = append(engine, "in", 0, &body).await.expect("sends resume");
    assert_eq!(sent.first.offset(), acked);
}

async fn next_receipt(consumer: &mut Consumer) -> Receipt {
    loop {
        match consumer.next(1, 1).await.expect("messages") {
            Arrival::Run(_, receipt) => return receipt,
            Arrival::Each(mut deliveries) => return deliveries.remove(0).receipt,
            _ => {}
        }
    }
}

/// With the engine's own threads, on a disk that tells how much it has.
#[test]
fn sends_resume_when_space_returns() {
    let sim = Arc::new(SimDisk::plain(40 << 20));
    let options = Options {
        segment_bytes: 1 << 20,
        durability: Durability::Fsynced,
        ..Options::default()
    };
    let engine = Embedded::on(sim.clone(), options).expect("an empty disk");
    block_on(fill_and_recover(&engine, || sim.set_capacity(80 << 20)));
}

/// On a small file system of its own, which takes the rights of root.
#[test]
fn a_small_file_system_fills_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(_mounted) = Mounted::tmpfs(dir.path(), "80m") else {
        return skipped("a full file system: mounting a small one takes root");
    };
    // Somebody else's file, which is in the way and then is not.
    let other = dir.path().join("other");
    std::fs::write(&other, vec![1; 36 << 20]).expect("there is room");
    let options = Options {
        segment_bytes: 1 << 20,
        ..Options::default()
    };
    let engine = Embedded::open(dir.path().join("data"), options).expect("there is room");
    assert!(
        !engine.opened().warnings.is_empty(),
        "tmpfs forgets, and the user is told"
    );
    block_on(fill_and_recover(&engine, || {
        std::fs::remove_file(&other).expect("it is there")
    }));
    drop(engine);
}

struct Mounted<'a>(&'a Path);

impl Mounted<'_> {
    fn tmpfs<'a>(at: &'a Path, size: &str) -> Option<Mounted<'a>> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .output();
        mount
            .is_ok_and(|output| output.status.success())
            .then_some(Mounted(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

/// An engine that closes on a full disk has lost nothing, and opens again.
#[test]
fn a_full_disk_is_closed_and_opened_again() {
    let sim = Arc::new(SimDisk::plain(40 << 20));
    let options = || Options {
        segment_bytes: 1 << 20,
        ..Options::default()
    };
    let engine = Embedded::on(sim.clone(), options()).expect("an empty disk");
    let acked = block_on(async {
        declare(&engine, "in", 1).await;
        let mut acked = 0;
        while append(&engine, "in", 0, &[7; 50_000]).await.is_ok() {
            acked += 1;
        }
        engine.close(Duration::from_secs(20)).await;
        acked
    });
    drop(engine);
    let engine = Embedded::on(sim, options()).expect("it opens on a full disk");
    assert_eq!(block_on(read_all(&engine, "in", 0)).len(), acked);
}

/// A full disk that nobody frees is waited for without end: then the test fails instead.
fn in_time(test: impl Future<Output = ()>) {
    let limit = Duration::from_secs(120);
    let ended = block_on(async { tokio::time::timeout(limit, test).await });
    ended.expect("nothing waits for space that cannot come");
}

fn small_memory() -> Arc<Embedded> {
    let options = Options {
        memory_bytes: 64 << 20,
        ..Options::default()
    };
    Embedded::memory(options).expect("memory")
}

async fn fill(engine: &Embedded, topic: &str) -> u64 {
    let mut acked = 0;
    loop {
        match append(engine, topic, 0, &[7; 50_000]).await {
            Ok(_) => acked += 1,
            Err(error) => {
                assert_eq!(error.code_str(), Some(codes::DISK_FULL), "{error:?}");
                return acked;
            }
        }
        assert!(acked < 10_000, "the disk never fills up");
    }
}

/// The only space that `memory:` can get back is what is deleted.
#[test]
fn full_memory_goes_on_after_a_delete() {
    let engine = small_memory();
    in_time(async {
        declare(&engine, "in", 1).await;
        declare(&engine, "other", 1).await;
        for round in 0..3 {
            let acked = fill(&engine, "in").await;
            assert!(acked > 100, "round {round}: {acked} messages in 64 MiB");
            assert_eq!(read_all(&engine, "in", 0).await.len() as u64, acked);
            let refused = append(&engine, "other", 0, b"x").await.expect_err("full");
            assert_eq!(refused.kind(), Kind::Busy);
            let mut health = engine.health();
            events(&engine)
                .delete(name("in"))
                .await
                .expect("a delete is carried out on a full disk");
            let up = health.wait_for(|health| *health == Health::Up).await;
            drop(up.expect("space comes back without a restart"));
            append(&engine, "other", 0, b"x")
                .await
                .expect("sends resume");
            declare(&engine, "in", 1).await;
        }
        assert_eq!(read_all(&engine, "other", 0).await.len(), 3);
    });
}

/// So does retention, without anybody's doing.
#[test]
fn full_memory_goes_on_after_retention() {
    let options = Options {
        memory_bytes: 64 << 20,
        retention_every: Duration::from_millis(10),
        ..Options::default()
    };
    let engine = Embedded::memory(options).expect("memory");
    in_time(async {
        declare(&engine, "in", 1).await;
        fill(&engine, "in").await;
        let mut health = engine.health();
        let change = TopicChange {
            retention: Some(Retention {
                bytes: Some(1 << 20),
                age: None,
            }),
            ..TopicChange::default()
        };
        events(&engine)
            .alter(name("in"), change)
            .await
            .expect("retention can be set on a full disk");
        let up = health.wait_for(|health| *health == Health::Up).await;
        drop(up.expect("space comes back without a restart"));
        append(&engine, "in", 0, b"x").await.expect("sends resume");
    });
}

/// What the reserve does not hold is refused, and the last of it is there for a delete.
#[test]
fn a_reserve_that_is_used_up_still_holds_a_delete() {
    let engine = small_memory();
    in_time(async {
        declare(&engine, "in", 1).await;
        fill(&engine, "in").await;
        let spec = GroupSpec::new(name("group"), name("in"));
        let mut consumer = events(&engine).join(spec).await.expect("a member");
        let reason: Arc<str> = "x".repeat(1 << 20).into();
        let refused = loop {
            let receipt = next_receipt(&mut consumer).await;
            let verdict = Verdict::Retry {
                after: Duration::ZERO,
                reason: reason.clone(),
                counts: false,
            };
            let unit = Unit::settle(receipt, verdict);
            match engine.commit(vec![unit]).await.remove(0) {
                Outcome::Applied(_) => {}
                Outcome::NotApplied(_, error) => break error,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused.code_str(), Some(codes::DISK_FULL), "{refused:?}");
        let mut health = engine.health();
        let deleted = events(&engine).delete(name("in")).await;
        deleted.expect("a delete is carried out");
        let up = health.wait_for(|health| *health == Health::Up).await;
        drop(up.expect("space comes back without a restart"));
        declare(&engine, "in", 1).await;
        append(&engine, "in", 0, b"x").await.expect("sends resume");
    });
}

#[test]
fn too_little_memory_is_refused() {
    let options = Options {
        memory_bytes: 8 << 20,
        ..Options::default()
    };
    let error = Embedded::memory(options).expect_err("less than the reserve");
    assert_eq!(error.kind(), Kind::Config, "{error:?}");
    assert!(error.advice().is_some());
}
