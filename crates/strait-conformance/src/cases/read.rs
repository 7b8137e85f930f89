//! Reading: from anywhere, waiting at the end, without gaps or repeats.

use std::time::{Duration, Instant};

use strait_core::events::{ReadKey, Retention, Start};
use strait_core::{Name, NewRecord, Position, Records, RecordsBuilder, Timestamp, codes};

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::lab::{Lab, body, cursor};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("read_at_end_waits", at_end_waits),
        case("read_at_end_without_wait", at_end_without_wait),
        case("read_wakes_on_append", wakes_on_append),
        case("read_from_the_middle", from_the_middle),
        case("read_in_small_steps", in_small_steps),
        case("read_bounded_by_bytes", bounded_by_bytes),
        case("read_again_is_the_same", again_is_the_same),
        case("read_while_appending", while_appending),
        case("read_unknown_topic_or_partition", unknown),
        case("read_dropped_while_waiting", dropped_while_waiting),
        case("locate_ends", locate_ends),
        case("locate_last", locate_last),
        case("locate_time", locate_time).needs(Need::ByTime),
        case("locate_time_out_of_order", locate_time_out_of_order).needs(Need::ByTime),
        case("read_key", by_key).needs(Need::ByKey),
        case("read_key_without_versions", by_key_without_versions).needs(Need::ByKey),
        case("read_removed_offset", removed_offset).needs(Need::RetentionBytes),
    ]
}

/// Reading at the end waits for the cursor's time and then gives an empty chunk.
async fn at_end_waits(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a"]).await?;
    let end = lab.events.topic(topic.clone()).await?.partitions[0].end;
    let wait = Duration::from_millis(60);
    let began = Instant::now();
    let chunk = lab
        .events
        .read(cursor(&topic, 0, end, wait), 1 << 20)
        .await?;
    check!(began.elapsed() >= wait, "it waited {:?}", began.elapsed());
    check!(chunk.is_empty(), "nothing was appended: {chunk:?}");
    check_eq!(chunk.next(), end, "where reading goes on");
    Ok(())
}

/// Without a wait, reading at the end answers at once.
async fn at_end_without_wait(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let start = lab.events.topic(topic.clone()).await?.partitions[0].start;
    let chunk = lab.read(&topic, 0, start).await?;
    check!(chunk.is_empty(), "nothing was appended: {chunk:?}");
    check_eq!(chunk.next(), start, "where reading goes on");
    check_eq!(chunk.partition(), 0, "partition of an empty chunk");
    Ok(())
}

/// A reader that waits at the end wakes when a record is there.
async fn wakes_on_append(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let start = lab.events.topic(topic.clone()).await?.partitions[0].start;
    let long = lab.patience * 100;
    let reading = lab.events.read(cursor(&topic, 0, start, long), 1 << 20);
    let reading = tokio::spawn(reading);
    tokio::task::yield_now().await;
    lab.put(&topic, 0, &["news"]).await?;
    let woken = tokio::time::timeout(lab.patience, reading).await;
    let woken = woken.map_err(|_| Fault::new("the waiting reader slept on"))?;
    let chunk = woken.map_err(Fault::new)??;
    let bodies: Vec<String> = chunk.iter().map(|i| body(&i.to_message())).collect();
    check_eq!(bodies, ["news"], "what woke the reader");
    Ok(())
}

/// Reading begins at any record, also in the middle of a batch.
async fn from_the_middle(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a", "b", "c", "d"]).await?;
    lab.put(&topic, 0, &["e", "f"]).await?;
    let all = lab.all(&topic, 0).await?;
    for (i, message) in all.iter().enumerate() {
        let chunk = lab.read(&topic, 0, message.position()).await?;
        check_eq!(
            chunk.first(),
            Some(message.position()),
            "the first position"
        );
        let found: Vec<String> = chunk.iter().map(|i| body(&i.to_message())).collect();
        let wanted: Vec<String> = all[i..].iter().map(body).collect();
        check!(
            !found.is_empty() && wanted.starts_with(&found),
            "from record {i}: found {found:?}, wanted the beginning of {wanted:?}"
        );
    }
    Ok(())
}

/// However small the byte limit, each read gives at least one record, and the reads together give all, once.
async fn in_small_steps(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    for i in 0..6 {
        let texts: Vec<String> = (0..=i).map(|j| format!("{i}.{j}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        lab.put(&topic, 0, &texts).await?;
    }
    let wanted = lab.all(&topic, 0).await?;
    let mut at = wanted[0].position();
    let mut found = Vec::new();
    loop {
        let cursor = cursor(&topic, 0, at, Duration::ZERO);
        let chunk = lab.events.read(cursor, 1).await?;
        if chunk.is_empty() {
            break;
        }
        check_eq!(chunk.iter().count(), chunk.len(), "records of a chunk");
        found.extend(chunk.iter().map(|i| (i.position(), body(&i.to_message()))));
        check!(chunk.next() > at, "reading does not go on from {at}");
        at = chunk.next();
    }
    let wanted: Vec<_> = wanted.iter().map(|m| (m.position(), body(m))).collect();
    check_eq!(found, wanted, "records read in small steps");
    Ok(())
}

/// A read gives about so many bytes, not the whole partition.
async fn bounded_by_bytes(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let body = "x".repeat(10_000);
    for _ in 0..60 {
        lab.put(&topic, 0, &[&body]).await?;
    }
    let start = lab.events.topic(topic.clone()).await?.partitions[0].start;
    let limited = cursor(&topic, 0, start, Duration::ZERO);
    let chunk = lab.events.read(limited, 50_000).await?;
    let bytes: usize = chunk.iter().map(|item| item.record().size()).sum();
    check!(
        (10_000..=150_000).contains(&bytes),
        "50000 bytes were wanted, {bytes} came"
    );
    Ok(())
}

/// Reading does not change anything: two reads of one place are equal.
async fn again_is_the_same(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["k=a", "b", "k=c"]).await?;
    let (first, again) = (lab.all(&topic, 0).await?, lab.all(&topic, 0).await?);
    for (a, b) in first.iter().zip(&again) {
        check_eq!(a.position(), b.position(), "position");
        check_eq!(a.record().key(), b.record().key(), "key");
        check_eq!(a.record().body(), b.record().body(), "body");
        check_eq!(a.record().id(), b.record().id(), "id");
        check_eq!(a.appended(), b.appended(), "time of the append");
    }
    check_eq!((first.len(), again.len()), (3, 3), "messages");
    Ok(())
}

/// A reader that follows while producers append sees every record once, in order.
async fn while_appending(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let mut at = lab.events.topic(topic.clone()).await?.partitions[0].start;
    let producing = tokio::spawn({
        let (lab, topic) = (lab.clone(), topic.clone());
        async move {
            for i in 0..100 {
                lab.put(&topic, 0, &[&i.to_string()]).await?;
            }
            Check::Ok(())
        }
    });
    let mut found = Vec::new();
    while found.len() < 100 {
        let follow = cursor(&topic, 0, at, lab.patience);
        let chunk = lab.events.read(follow, 1 << 20).await?;
        check!(!chunk.is_empty(), "nothing comes after {found:?}");
        found.extend(chunk.iter().map(|item| body(&item.to_message())));
        at = chunk.next();
    }
    producing.await.map_err(Fault::new)??;
    let wanted: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    check_eq!(found, wanted, "records seen by the follower");
    Ok(())
}

/// A missing topic is `NotFound`, a missing partition `Rejected`, when reading and when locating.
async fn unknown(lab: Lab) -> Check {
    let (topic, missing) = (lab.topic(1).await?, lab.name("missing")?);
    let start = Position::default();
    let answer = lab.read(&missing, 0, start).await;
    let error = check_refused!(answer, NotFound, "reading a missing topic");
    check!(error.is(codes::NO_SUCH_TOPIC), "its code: {error:?}");
    let answer = lab.read(&topic, 1, start).await;
    check_refused!(answer, Rejected, "reading partition 1 of 1");
    let answer = lab.events.locate(missing, 0, Start::Latest).await;
    check_refused!(answer, NotFound, "locating in a missing topic");
    let answer = lab.events.locate(topic, 1, Start::Latest).await;
    check_refused!(answer, Rejected, "locating in partition 1 of 1");
    Ok(())
}

/// A read that is given up while it waits leaves nothing behind: the next one sees the record.
async fn dropped_while_waiting(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let start = lab.events.topic(topic.clone()).await?.partitions[0].start;
    for _ in 0..20 {
        let waiting = lab
            .events
            .read(cursor(&topic, 0, start, lab.patience), 1 << 20);
        let given_up = tokio::time::timeout(Duration::from_millis(1), waiting).await;
        check!(given_up.is_err(), "a read at the end did not wait");
    }
    lab.put(&topic, 0, &["a"]).await?;
    check_eq!(lab.bodies(&topic, 0).await?, ["a"], "bodies");
    Ok(())
}

/// `Earliest` is the first record, `Latest` the position that the next record gets, `At` itself.
async fn locate_ends(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let sent = lab.put(&topic, 0, &["a", "b"]).await?;
    let locate = |start| lab.events.locate(topic.clone(), 0, start);
    check_eq!(locate(Start::Earliest).await?, sent.first, "earliest");
    let latest = locate(Start::Latest).await?;
    check!(latest > sent.first, "latest: {latest}");
    check!(
        lab.read(&topic, 0, latest).await?.is_empty(),
        "at the latest"
    );
    let at = locate(Start::At(sent.first)).await?;
    check_eq!(at, sent.first, "at a position");
    lab.put(&topic, 0, &["c"]).await?;
    let chunk = lab.read(&topic, 0, latest).await?;
    let bodies: Vec<String> = chunk.iter().map(|i| body(&i.to_message())).collect();
    check_eq!(bodies, ["c"], "from what was the latest");
    Ok(())
}

/// `Last(n)` is n records before the end, or the earliest where there are fewer.
async fn locate_last(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a", "b", "c"]).await?;
    lab.put(&topic, 0, &["d", "e"]).await?;
    for (last, wanted) in [(0, 0), (1, 1), (3, 3), (5, 5), (6, 5), (u64::MAX, 5)] {
        let start = Start::Last(last);
        let at = lab.events.locate(topic.clone(), 0, start).await?;
        let found = lab.read(&topic, 0, at).await?.len();
        check_eq!(found, wanted, "records from `Last({last})` of 5");
    }
    Ok(())
}

fn at_time(text: &str, time: i64) -> Check<Records> {
    let record = NewRecord {
        body: text.as_bytes(),
        time: Some(Timestamp::from_millis(time)),
        ..NewRecord::default()
    };
    Ok(Records::one(&[], record)?)
}

/// `Time(t)` is the first record whose time is not before t, also inside a batch; after all of them it is the end.
async fn locate_time(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.append(&topic, 0, at_time("a", -5_000)?).await?;
    let mut builder = RecordsBuilder::new(&[])?;
    for (text, time) in [("b", 1_000), ("c", 2_000), ("d", 2_000)] {
        builder.push(NewRecord {
            body: text.as_bytes(),
            time: Some(Timestamp::from_millis(time)),
            ..NewRecord::default()
        })?;
    }
    lab.append(&topic, 0, builder.build()).await?;
    lab.append(&topic, 0, at_time("e", 9_000)?).await?;
    let wanted = [
        (i64::MIN, "a"),
        (-5_000, "a"),
        (-4_999, "b"),
        (1_000, "b"),
        (1_001, "c"),
        (2_000, "c"),
        (2_001, "e"),
        (9_000, "e"),
        (9_001, ""),
        (i64::MAX, ""),
    ];
    for (time, wanted) in wanted {
        check_eq!(first_at(&lab, &topic, time).await?, wanted, "from {time}");
    }
    Ok(())
}

async fn first_at(lab: &Lab, topic: &Name, time: i64) -> Check<String> {
    let start = Start::Time(Timestamp::from_millis(time));
    let at = lab.events.locate(topic.clone(), 0, start).await?;
    let chunk = lab.read(topic, 0, at).await?;
    let first = chunk.iter().next();
    Ok(first
        .map(|item| body(&item.to_message()))
        .unwrap_or_default())
}

/// Times need not grow: it is the first record in the order of positions that counts.
async fn locate_time_out_of_order(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    for (text, time) in [("a", 5_000), ("b", 1_000), ("c", 8_000), ("d", 2_000)] {
        lab.append(&topic, 0, at_time(text, time)?).await?;
    }
    for (time, wanted) in [(500, "a"), (2_000, "a"), (5_001, "c"), (8_001, "")] {
        check_eq!(first_at(&lab, &topic, time).await?, wanted, "from {time}");
    }
    Ok(())
}

async fn key_of(lab: &Lab, topic: &Name, from: u64, limit: usize) -> Check<Vec<(u64, String)>> {
    let read = ReadKey {
        topic: topic.clone(),
        key: b"ada".to_vec(),
        from,
        limit,
    };
    let found = lab.events.read_key(read).await?;
    Ok(found
        .iter()
        .map(|(version, m)| (*version, body(m)))
        .collect())
}

async fn read_by_key(lab: Lab, versions: bool) -> Check {
    let keep = versions.then_some(true);
    let topic = lab
        .topic_with(|mut spec| {
            spec.key_versions = keep;
            spec.partitions(4)
        })
        .await?;
    check_eq!(
        key_of(&lab, &topic, 1, 9).await?,
        [],
        "of a key without messages"
    );
    let home = strait_core::partition_of(b"ada", 4);
    lab.put(&topic, home, &["ada=1", "bob=x", "ada=2"]).await?;
    lab.put(&topic, home, &["adam=y", "z"]).await?;
    lab.put(&topic, home, &["ada=3"]).await?;
    let own = |from: u64, to: u64| (from..=to).map(|v| (v, v.to_string())).collect::<Vec<_>>();
    check_eq!(
        key_of(&lab, &topic, 1, 9).await?,
        own(1, 3),
        "all of the key"
    );
    check_eq!(
        key_of(&lab, &topic, 2, 9).await?,
        own(2, 3),
        "from version 2"
    );
    check_eq!(
        key_of(&lab, &topic, 1, 2).await?,
        own(1, 2),
        "two of the key"
    );
    check_eq!(
        key_of(&lab, &topic, 4, 9).await?,
        [],
        "past the last version"
    );
    Ok(())
}

/// The messages of one key come oldest first, with their versions 1, 2, 3 ..
async fn by_key(lab: Lab) -> Check {
    if !lab.caps.expected_key_version.is_there() {
        return Err(Fault::skip("the engine keeps no versions of keys"));
    }
    read_by_key(lab, true).await
}

/// The same on a topic that stores no versions: they are counted.
async fn by_key_without_versions(lab: Lab) -> Check {
    read_by_key(lab, false).await
}

/// A position that retention removed is `NotFound` with the earliest one that is left, which can be read.
async fn removed_offset(lab: Lab) -> Check {
    let topic = lab
        .topic_with(|mut spec| {
            spec.retention = Some(Retention {
                age: None,
                bytes: Some(64 << 10),
            });
            spec.partitions(1)
        })
        .await?;
    let size = lab.caps.max_body.min(1 << 20);
    let big = "x".repeat(size);
    let first = lab.put(&topic, 0, &[&big]).await?.first;
    let start = |lab: Lab, topic: Name| async move {
        Check::Ok(lab.events.topic(topic).await?.partitions[0].start)
    };
    for _ in 0..(96 << 20) / size {
        lab.put(&topic, 0, &[&big]).await?;
        if start(lab.clone(), topic.clone()).await? > first {
            break;
        }
    }
    // It may be removed any time later, or never: no promise is broken then.
    let deadline = tokio::time::Instant::now() + lab.patience / 2;
    while start(lab.clone(), topic.clone()).await? == first {
        if tokio::time::Instant::now() > deadline {
            return Err(Fault::skip("retention has removed nothing of 96 MiB yet"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It may go on removing meanwhile.
    let (answer, start) = loop {
        let before = start(lab.clone(), topic.clone()).await?;
        let answer = lab.read(&topic, 0, first).await;
        if start(lab.clone(), topic.clone()).await? == before {
            break (answer, before);
        }
    };
    let error = check_refused!(answer, NotFound, "reading a removed position");
    check!(error.is(codes::OFFSET_GONE), "its code: {error:?}");
    let named = format!("{error} {:?}", error.context());
    check!(
        named.contains(&start.to_string()),
        "the earliest, {start}, is not named: {error:?}"
    );
    let chunk = lab.read(&topic, 0, start).await?;
    check_eq!(chunk.first(), Some(start), "the earliest that is left");
    Ok(())
}
