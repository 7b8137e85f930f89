//! Mirrors between two embedded engines, and into one that answers as networks do.

mod files;
mod shaky;

use strait::core::events::Seek;
use strait::core::{Attr, NewRecord};
use strait::mirror::{Compared, Difference, Mirror, Mirrored, NotMoved, compare};
use strait::{
    Kind, Name, Position, Raw, Records, RecordsBuilder, Result, Start, Strait, Timestamp,
};

use crate::support::{PATIENCE, memory};
use shaky::{Shaky, Trouble};

const PARTITIONS: u32 = 3;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

async fn topic(strait: &Strait, partitions: u32) -> strait::Topic<Raw> {
    strait
        .events()
        .topic("orders")
        .partitions(partitions)
        .await
        .unwrap()
}

/// A batch with all that a message can carry, and a message with nothing.
fn full(from: u64, count: u64) -> Records {
    let attrs = [(Attr::Kind, "order.v1"), (Attr::Source, "shop")];
    let mut batch = RecordsBuilder::new(&attrs).unwrap();
    for n in from..from + count {
        let (id, key) = (format!("id-{n}"), format!("key-{}", n % 7));
        batch
            .push(NewRecord {
                key: Some(key.as_bytes()),
                body: format!("body {n}").as_bytes(),
                headers: &[("tenant", b"eu"), ("tenant", b"us"), ("raw", b"\xff\x01")],
                time: Some(Timestamp::from_millis(1_000 * n as i64)),
                attrs: &[(Attr::Id, &id), (Attr::Correlation, "c-1")],
            })
            .unwrap();
    }
    batch.push(NewRecord::default()).unwrap();
    batch.build()
}

/// Fills every partition with single messages and batches, small and large.
async fn fill(orders: &strait::Topic<Raw>, rounds: u64) {
    for round in 0..rounds {
        for partition in 0..PARTITIONS {
            let records = full(round * 100, round % 40 + 1);
            orders.append_records(partition, records).await.unwrap();
            let large = vec![b'x'; 6000];
            let plain = Records::one(
                &[],
                NewRecord {
                    body: &large,
                    ..NewRecord::default()
                },
            );
            orders
                .append_records(partition, plain.unwrap())
                .await
                .unwrap();
        }
    }
}

async fn run_once(from: &Strait, to: &Strait) -> Result<Mirrored> {
    let mirror = Mirror::new(from, to).topic(name("orders")).once();
    let ran = tokio::time::timeout(PATIENCE, mirror.run(std::future::pending()));
    ran.await.expect("a mirror with an end ends")
}

async fn compared(from: &Strait, to: &Strait) -> Vec<Compared> {
    compare(from, to, &name("orders")).await.unwrap()
}

async fn assert_equal(from: &Strait, to: &Strait, messages: u64) {
    let compared = compared(from, to).await;
    assert_eq!(compared.len(), PARTITIONS as usize);
    assert!(compared.iter().all(Compared::is_equal), "{compared:?}");
    let equal: u64 = compared.iter().map(|p| p.equal).sum();
    assert_eq!(equal, messages);
}

async fn count(orders: &strait::Topic<Raw>) -> u64 {
    let info = orders.info().await.unwrap();
    let each = info
        .partitions
        .iter()
        .map(|p| p.end.offset() - p.start.offset());
    each.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_every_message_as_it_was_and_goes_on_where_it_stood() {
    let (from, to) = (memory(), memory());
    let orders = topic(&from, PARTITIONS).await;
    fill(&orders, 60).await;
    let first = count(&orders).await;
    let copied = run_once(&from, &to).await.unwrap();
    assert_eq!(copied.topics[0].messages, first);
    assert_equal(&from, &to, first).await;

    fill(&orders, 3).await;
    let all = count(&orders).await;
    let copied = run_once(&from, &to).await.unwrap();
    assert_eq!(copied.topics[0].messages, all - first);
    assert_eq!(copied.topics[0].total, all);
    assert_equal(&from, &to, all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_follows_until_it_is_stopped() {
    let (from, to) = (memory(), memory());
    let orders = topic(&from, PARTITIONS).await;
    let mirror = Mirror::new(&from, &to).topic(name("orders"));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let progress = mirror.progress();
    let running = tokio::spawn(mirror.run(async {
        let _ = stopped.await;
    }));
    for n in 0..3_u8 {
        orders
            .append(&Raw::bytes(vec![n]))
            .partition(0)
            .await
            .unwrap();
        // The topic is there once the mirror has made it.
        let there = async {
            loop {
                if to
                    .events_lane()
                    .unwrap()
                    .topic(name("orders"))
                    .await
                    .is_ok()
                {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, there).await.unwrap();
        let copy = topic(&to, PARTITIONS).await;
        let mut reader = copy.read(0, Start::At(Position::at(u64::from(n))));
        let event = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap();
        assert_eq!(event.unwrap().unwrap().message.body(), [n]);
    }
    stop.send(()).unwrap();
    let mirrored = running.await.unwrap().unwrap();
    assert_eq!(mirrored.topics[0].messages, 3);
    assert_eq!(progress.messages(), 3);
    assert_eq!(progress.bytes(), 3);
}

/// Errors, lost answers and lost requests, on a target with units and on one without.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_the_answers_every_message_is_there_once() {
    for atomic in [true, false] {
        for seed in 0..6 {
            let from = memory();
            let orders = topic(&from, PARTITIONS).await;
            fill(&orders, 30).await;
            let inner = memory();
            let to = Strait::on(Shaky::over(&inner, atomic, Trouble::Seed(seed)));
            let expected = count(&orders).await;
            run_once(&from, &to).await.unwrap();
            assert_equal(&from, &inner, expected).await;
        }
    }
}

/// A run that ends anywhere, as a crash would end it: the next one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ended_anywhere_leaves_nothing_twice() {
    for atomic in [true, false] {
        let from = memory();
        let orders = topic(&from, PARTITIONS).await;
        fill(&orders, 10).await;
        let inner = memory();
        for step in 0.. {
            // Everything from this write on is lost, and the mirror ends with it.
            let to = Strait::on(Shaky::over(&inner, atomic, Trouble::DeadAfter(step % 3)));
            fill(&orders, 1).await;
            let ended = run_once(&from, &to).await;
            assert!(ended.is_err() || step > 0, "the first writes are lost");
            if step == 12 {
                break;
            }
        }
        run_once(&from, &inner_as(&inner, atomic)).await.unwrap();
        assert_equal(&from, &inner, count(&orders).await).await;
    }
}

fn inner_as(inner: &Strait, atomic: bool) -> Strait {
    Strait::on(Shaky::over(inner, atomic, Trouble::None))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_not_be_a_mirror_is_refused() {
    let from = memory();
    fill(&topic(&from, PARTITIONS).await, 1).await;

    let error = run_once(&from, &from).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "onto itself: {error:?}");

    let to = memory();
    topic(&to, PARTITIONS + 1).await;
    let error = run_once(&from, &to).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.message().contains("3 partitions"), "{error:?}");

    let error = run_once(&memory(), &memory()).await.unwrap_err();
    assert!(error.is("no_such_topic"), "{error:?}");

    for atomic in [true, false] {
        let to = memory();
        let own = topic(&to, PARTITIONS).await;
        own.append(&Raw::bytes("mine")).partition(1).await.unwrap();
        let error = run_once(&from, &inner_as(&to, atomic)).await.unwrap_err();
        assert!(error.message().contains("did not bring"), "{error:?}");
        assert_eq!(count(&own).await, 1 + on_other_partitions(&own).await);
    }

    let to = memory();
    run_once(&from, &to).await.unwrap();
    let other = memory();
    topic(&other, PARTITIONS).await;
    let error = run_once(&other, &to).await.unwrap_err();
    assert!(error.message().contains("another engine"), "{error:?}");

    // What somebody wrote behind the mirror's back.
    let copy = topic(&to, PARTITIONS).await;
    copy.append(&Raw::bytes("mine")).partition(2).await.unwrap();
    let error = run_once(&from, &to).await.unwrap_err();
    assert!(error.message().contains("did not bring"), "{error:?}");
}

/// Messages on the partitions other than 1: those the mirror may have begun.
async fn on_other_partitions(topic: &strait::Topic<Raw>) -> u64 {
    let info = topic.info().await.unwrap();
    let others = [0, 2].map(|p: usize| info.partitions[p].end.offset());
    others.into_iter().sum()
}

/// Two mirrors at once, as after a split: one of them is refused, and nothing is doubled.
#[tokio::test(flavor = "multi_thread")]
async fn two_mirrors_at_once_double_nothing() {
    let (from, to) = (memory(), memory());
    let orders = topic(&from, PARTITIONS).await;
    fill(&orders, 40).await;
    let (one, two) = tokio::join!(run_once(&from, &to), run_once(&from, &to));
    for ended in [one, two] {
        if let Err(error) = ended {
            assert!(error.message().contains("did not bring"), "{error:?}");
        }
    }
    run_once(&from, &to).await.unwrap();
    assert_equal(&from, &to, count(&orders).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_is_found_and_named() {
    let (from, to) = (memory(), memory());
    let orders = topic(&from, 1).await;
    let copy = topic(&to, 1).await;
    let put = |to: strait::Topic<Raw>, id: &'static str, body: &'static str| async move {
        let at = Timestamp::from_millis(7);
        to.append(&Raw::bytes(body)).id(id).time(at).await.unwrap();
    };
    let first = |compared: Vec<Compared>| compared[0].clone();
    put(orders.clone(), "a", "one").await;
    put(copy.clone(), "a", "one").await;
    let same = first(compared(&from, &to).await);
    assert_eq!((same.equal, &same.difference), (1, &None));

    put(orders.clone(), "b", "two").await;
    let missing = first(compared(&from, &to).await);
    let at = Position::at(1);
    assert_eq!(missing.difference, Some(Difference::Missing(at)));
    assert_eq!(missing.hash, same.hash, "over the same messages");

    // Past the dedupe of ids, as on an engine that has none.
    let again = NewRecord {
        body: b"one",
        time: Some(Timestamp::from_millis(7)),
        ..NewRecord::default()
    };
    let again = || Records::one(&[(Attr::Id, "a")], again).unwrap();
    copy.append_records(0, again()).await.unwrap();
    let repeated = first(compared(&from, &to).await);
    assert_eq!(repeated.repeated, 1, "{repeated:?}");
    assert_eq!(repeated.difference, Some(Difference::Missing(at)));
    assert!(!repeated.is_equal() && same.is_equal());

    put(copy.clone(), "b", "TWO").await;
    let other = first(compared(&from, &to).await);
    let difference = Difference::Other {
        source: at,
        target: Position::at(2),
        fields: vec!["body"],
    };
    assert_eq!(other.difference, Some(difference));

    let (from, to) = (to, memory());
    topic(&to, 1).await;
    put(topic(&to, 1).await, "a", "one").await;
    topic(&to, 1)
        .await
        .append_records(0, again())
        .await
        .unwrap();
    put(topic(&to, 1).await, "b", "TWO").await;
    put(topic(&to, 1).await, "c", "three").await;
    let extra = first(compared(&from, &to).await);
    assert_eq!(extra.difference, Some(Difference::Extra(Position::at(3))));
}

/// A group's position moves with its topic.
#[tokio::test(flavor = "multi_thread")]
async fn groups_go_on_in_the_target_where_they_stood() {
    for atomic in [true, false] {
        let (from, inner) = (memory(), memory());
        let to = inner_as(&inner, atomic);
        let orders = topic(&from, PARTITIONS).await;
        fill(&orders, 20).await;
        let lane = from.events_lane().unwrap().clone();
        let member = lane.join(group_spec()).await.unwrap();
        drop(member);
        let seek = |partition, at| Seek {
            group: name("billing"),
            topic: name("orders"),
            partition,
            to: Start::At(Position::at(at)),
            force: true,
        };
        for (partition, at) in [(0, 0), (1, 17), (2, 1_000_000)] {
            lane.seek(seek(partition, at)).await.unwrap();
        }
        let mirror = || {
            Mirror::new(&from, &to)
                .topic(name("orders"))
                .once()
                .groups()
        };
        let moved = mirror().run(std::future::pending()).await.unwrap();
        assert_eq!(moved.groups.len(), 1);
        let there = inner
            .events_lane()
            .unwrap()
            .group(name("billing"), name("orders"));
        let there = there.await.unwrap();
        let end = there.shards[2].end;
        let committed: Vec<Position> = there.shards.iter().map(|s| s.committed).collect();
        assert_eq!(committed, [Position::at(0), Position::at(17), end]);
        let rules = there.rules();
        assert_eq!(rules.max_attempts, 3, "as it was declared in the source");

        // Where the group has begun to work in the target, it is left alone.
        let member = inner
            .events_lane()
            .unwrap()
            .join(group_spec())
            .await
            .unwrap();
        lane.seek(seek(1, 5)).await.unwrap();
        let moved = mirror().run(std::future::pending()).await.unwrap();
        assert_eq!(moved.groups[0].not_moved, Some(NotMoved::Live));
        drop(member);
    }
}

fn group_spec() -> strait::core::events::GroupSpec {
    let mut spec = strait::core::events::GroupSpec::new(name("billing"), name("orders"));
    spec.max_attempts = 3;
    spec
}
