use std::fmt::Debug;

use proptest::prelude::*;
use strait_core::events::*;
use strait_core::*;

use super::*;
use crate::outbox::Rope;

fn bytes_of(value: &impl Wire) -> Bytes {
    let out = Out::of(value);
    let len = out.len();
    let bytes: Vec<u8> = out.into_pieces().flat_map(|piece| piece.to_vec()).collect();
    assert_eq!(len, bytes.len());
    bytes.into()
}

/// What is read is what was written; nothing shorter or longer is taken for it.
fn there_and_back<T: Wire + Debug>(value: &T) {
    let bytes = bytes_of(value);
    assert!(
        bytes.len() >= T::LEAST,
        "{value:?} is shorter than its least length"
    );
    let back: T = read(bytes.clone()).unwrap();
    assert_eq!(bytes_of(&back), bytes, "{value:?}");
    assert_eq!(format!("{back:?}"), format!("{value:?}"));
    assert!(
        read::<T>(bytes.slice(..bytes.len() - 1)).is_err(),
        "{value:?}"
    );
    let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
    assert!(read::<T>(longer.into()).is_err(), "{value:?}");
}

fn name() -> impl Strategy<Value = Name> {
    "[a-z][a-z0-9._-]{0,30}".prop_map(|text| Name::new(&text).unwrap())
}

fn position() -> impl Strategy<Value = Position> {
    any::<(u64, u64)>().prop_map(|(high, low)| Position::of_parts(high, low))
}

fn duration() -> impl Strategy<Value = Duration> {
    (any::<u64>(), 0u32..1_000_000_000).prop_map(|(secs, nanos)| Duration::new(secs, nanos))
}

fn text() -> impl Strategy<Value = Arc<str>> {
    ".{0,40}".prop_map(Arc::from)
}

fn fence() -> impl Strategy<Value = Fence> {
    (any::<(u64, u64, u32)>(), 0u64..1 << 60, 1u32..1000).prop_map(
        |((consumer, epoch, shard), first, count)| Fence {
            consumer,
            epoch,
            shard,
            first: Position::at(first),
            count,
        },
    )
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Done),
        Just(Verdict::Release),
        text().prop_map(Verdict::Dead),
        proptest::collection::vec(any::<u8>(), 0..5000)
            .prop_map(|body| Verdict::Answer(body.into())),
        (duration(), text(), any::<bool>()).prop_map(|(after, reason, counts)| Verdict::Retry {
            after,
            reason,
            counts
        }),
    ]
}

fn error() -> impl Strategy<Value = Error> {
    let kind = proptest::sample::select(Kind::ALL.to_vec());
    let code = proptest::option::of(proptest::sample::select(codes::ALL.to_vec()));
    let value = || "[ -~]{1,20}";
    (
        kind,
        code,
        any::<(bool, bool)>(),
        value(),
        proptest::option::of(value()),
        proptest::option::of(value()),
    )
        .prop_map(|(kind, code, (retry, unknown), message, next, cause)| {
            let mut error = Error::new(kind, &message)
                .retry(retry)
                .during("append")
                .with("topic", &message)
                .with("partition", 3);
            error = code.into_iter().fold(error, Error::code);
            error = next.into_iter().fold(error, Error::next);
            error = cause.into_iter().fold(error, Error::caused_by);
            if unknown { error.unknown() } else { error }
        })
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![
        Just(Start::Earliest),
        Just(Start::Latest),
        position().prop_map(Start::At),
        any::<i64>().prop_map(|at| Start::Time(Timestamp::from_millis(at))),
        any::<u64>().prop_map(Start::Last),
    ]
}

fn expected() -> impl Strategy<Value = Expected> {
    prop_oneof![
        Just(Expected::Any),
        position().prop_map(Expected::Position),
        any::<u64>().prop_map(Expected::KeyVersion),
    ]
}

/// Batches of some records, of which some are long enough to be referred to.
fn records() -> impl Strategy<Value = Records> {
    let bodies = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1500), 1..6);
    (bodies, any::<u128>()).prop_map(|(bodies, id)| {
        let attrs = [(Attr::Kind, "order.placed.v1")];
        let time = Timestamp::from_millis(7);
        let mut builder = RecordsBuilder::with(&attrs, Limits::default(), time, id).unwrap();
        for body in &bodies {
            let key = Some(&body[..body.len().min(9)]);
            builder
                .push(NewRecord {
                    key,
                    body,
                    ..Default::default()
                })
                .unwrap();
        }
        builder.build()
    })
}

/// A chunk over some batches, cut anywhere, inside a larger buffer.
fn chunk() -> impl Strategy<Value = Chunk> {
    let batches = proptest::collection::vec(records(), 0..4);
    (batches, 0usize..50, 0u32..3, 0u32..3).prop_map(|(batches, before, skip, drop)| {
        let mut buf = vec![0xee; before];
        let mut spans = Vec::new();
        let mut next = 100u64;
        for (number, batch) in batches.iter().enumerate() {
            let (at, len) = (buf.len() as u32, batch.len() as u32);
            let skip = if number == 0 { skip.min(len - 1) } else { 0 };
            let last = number + 1 == batches.len();
            let take = len - skip - if last { drop.min(len - skip - 1) } else { 0 };
            let appended = Timestamp::from_millis(number as i64);
            spans.push(Span {
                at,
                first: Position::at(next),
                skip,
                take,
                appended,
            });
            next += u64::from(take);
            buf.extend_from_slice(batch.bytes());
        }
        buf.extend_from_slice(&[0xee; 30]);
        Chunk::new("orders".into(), 3, buf.into(), spans, Position::at(next))
    })
}

fn contents(chunk: &Chunk) -> Vec<(Position, Timestamp, Vec<u8>, String)> {
    let record = |item: Item<'_>| {
        let (body, id) = (
            item.record().body().to_vec(),
            item.record().id().to_string(),
        );
        (item.position(), item.appended(), body, id)
    };
    chunk.iter().map(record).collect()
}

fn same(message: &Message, other: &Message) {
    let of = |m: &Message| {
        let record = m.record();
        let place = (m.topic().clone(), m.partition(), m.position(), m.appended());
        (
            place,
            record.body().to_vec(),
            record.id().to_string(),
            record.key().map(<[u8]>::to_vec),
        )
    };
    assert_eq!(of(message), of(other));
}

proptest! {
    #[test]
    fn errors_travel_whole(error in error()) {
        there_and_back(&error);
        there_and_back(&Err::<(), _>(copy_of(&error)));
        assert_eq!(bytes_of(&copy_of(&error)), bytes_of(&error));
    }

    #[test]
    fn units_travel_whole(
        settle in proptest::collection::vec((fence(), verdict()), 0..4),
        sends in proptest::collection::vec((name(), any::<u32>(), records(), expected(), any::<bool>()), 0..3),
        once in proptest::option::of((text(), text(), proptest::option::of(any::<u64>()), proptest::option::of((text(), duration())))),
        under in proptest::option::of(fence()),
    ) {
        let append = |(topic, partition, records, expected, dedupe)| Outgoing::Append { topic, partition, records, expected, dedupe };
        let once = once.map(|(scope, key, claim, stored)| Once {
            scope: scope.to_string(),
            key: key.to_string(),
            claim: claim.map(ClaimToken),
            end: match stored {
                Some((result, ttl)) => OnceEnd::Store { result: result.to_string().into(), ttl },
                None => OnceEnd::Forget,
            },
        });
        let unit = WireUnit { settle, send: sends.into_iter().map(append).collect(), once, under };
        there_and_back(&unit);
        // Units one after the other, as a commit carries them.
        let mut two = Out::of(&unit);
        two.append(Out::of(&unit));
        let bytes: Vec<u8> = two.into_pieces().flat_map(|piece| piece.to_vec()).collect();
        prop_assert_eq!(read_all::<WireUnit>(bytes.into()).unwrap().len(), 2);
    }

    #[test]
    fn outcomes_travel_whole(error in error(), sent in any::<(u32, u64, u32, bool)>(), result in text(), token: u64) {
        let (partition, first, count, duplicate) = sent;
        let sent = Sent { partition, first: Position::at(first), count, duplicate };
        let result = Bytes::from(result.to_string());
        there_and_back(&vec![
            WireOutcome::Applied(vec![sent.clone(), sent]),
            WireOutcome::Seen(result.clone()),
            WireOutcome::Fenced,
            WireOutcome::NotApplied(copy_of(&error)),
            WireOutcome::Unknown(error),
        ]);
        there_and_back(&vec![Claimed::Run(ClaimToken(token)), Claimed::Seen(result), Claimed::Wait, Claimed::Unfinished(ClaimToken(token))]);
    }

    #[test]
    fn topics_and_groups_travel_whole(
        names in (name(), name(), proptest::option::of(name())),
        text in text(),
        start in start(),
        expected in expected(),
        numbers in any::<(u32, u64, bool, u64)>(),
        durations in (duration(), proptest::option::of(duration())),
        position in position(),
        records in records(),
    ) {
        let (topic, group, other) = names;
        let (small, big, yes, more) = numbers;
        let (wait, age) = durations;
        let retention = Retention { age, bytes: yes.then_some(big) };
        let compaction = Compaction { min_lag: wait, tombstones: wait };
        there_and_back(&TopicSpec {
            name: topic.clone(),
            partitions: yes.then_some(small),
            retention: yes.then_some(retention),
            key_versions: Some(yes),
            dedupe_window: age,
            compaction: yes.then_some(compaction),
        });
        there_and_back(&(topic.clone(), TopicChange { partitions: yes.then_some(small), retention: yes.then_some(retention), compaction: Some(yes.then_some(compaction)) }));
        let partition = PartitionInfo { start: position, end: position, bytes: big };
        there_and_back(&TopicInfo { name: topic.clone(), retention, key_versions: yes, dedupe_window: wait, compaction: yes.then_some(compaction), partitions: vec![partition; 3] });
        there_and_back(&Append { topic: topic.clone(), partition: small, records, expected, dedupe: yes });
        there_and_back(&(Cursor { topic: topic.clone(), partition: small, position, wait }, 7usize));
        there_and_back(&ReadKey { topic: topic.clone(), key: text.as_bytes().to_vec(), from: big, limit: 9 });
        let shard = ShardInfo { committed: position, end: position, lag: big, oldest: age, parked: more, in_flight: 1, held_keys: big, waits: None };
        let stuck = |on| Stuck { offset: position, key: yes.then(|| text.as_bytes().to_vec()), attempts: small, since: None, on };
        let waiting = [
            Waits::Paused,
            Waits::NoMember,
            Waits::TooManyDead,
            Waits::Suspect(stuck(StuckOn::Member)),
            Waits::Suspect(stuck(StuckOn::Turn)),
            Waits::Gap(stuck(StuckOn::Retry { next: Timestamp::from_millis(5), reason: Some(text.clone()) })),
            Waits::Gap(stuck(StuckOn::DeadLetter(big))),
        ];
        let mut shards = vec![shard.clone()];
        shards.extend(waiting.map(|waits| ShardInfo { waits: Some(waits), ..shard.clone() }));
        for standing in [Standing::Settled, Standing::Dead(big), Standing::Ahead, Standing::Unsettled(stuck(StuckOn::Turn))] {
            let stored = Stored { file: text.clone(), at: big, len: more, first: position, count: small, appended: Timestamp::from_millis(5), checkpoint: yes.then_some(big) };
            there_and_back(&(topic.clone(), (small, position)));
            there_and_back(&Whereabouts { stored: yes.then_some(stored), groups: vec![(group.clone(), standing)] });
        }
        let growth = Growth { per_second: -5, over: Duration::from_millis(more) };
        there_and_back(&Storage { used: big, spare: more, free: 0, growth: yes.then_some(growth), full_in: yes.then_some(Duration::ZERO) });
        let after_dead = if yes { AfterDead::HoldKey } else { AfterDead::Continue };
        let overrides = Overrides { max_attempts: Some(small), max_dead: None, gap: Some(more), after_dead: Some(after_dead) };
        there_and_back(&((topic.clone(), group.clone()), GroupChange {
            max_attempts: Override::Set(small),
            max_dead: Override::Lift,
            gap: Override::Keep,
            after_dead: Override::Set(after_dead),
            pause: Override::Set(text.clone()),
        }));
        let member = MemberInfo { name: text.to_string(), consumer: big, shards: vec![small; 2] };
        there_and_back(&GroupInfo {
            group: group.clone(),
            topic: topic.clone(),
            members: vec![member],
            shards,
            dead: more,
            dead_bytes: big,
            paused: yes.then_some(text.clone()),
            pause: Some(Pause { reason: text.clone(), since: Timestamp::from_millis(3) }),
            declared: GroupRules { order: Order::Key, max_attempts: small, max_dead: big, dead_age: age, gap: more, after_dead, dead_topic: other.clone() },
            overrides,
        });
        there_and_back(&Seek { group: group.clone(), topic: topic.clone(), partition: small, to: start, force: yes });
        let print = ErrorFingerprint::of(&text);
        let filter = DeadFilter {
            numbers: yes.then(|| vec![big, more]),
            partition: yes.then_some(small),
            key: yes.then(|| text.as_bytes().to_vec()),
            fingerprint: yes.then_some(print),
            reason: yes.then(|| text.to_string()),
            died_after: yes.then_some(Timestamp::from_millis(-1)),
            died_before: None,
            min_attempts: Some(small),
        };
        there_and_back(&((group.clone(), topic.clone()), filter.clone()));
        there_and_back(&DeadLettersOf { group: group.clone(), topic: topic.clone(), filter: filter.clone(), from: big, limit: 9 });
        there_and_back(&RemoveDead { group: group.clone(), topic: topic.clone(), filter: filter.clone(), dry_run: yes });
        there_and_back(&Redrive { group: group.clone(), topic: topic.clone(), filter, per_second: yes.then_some(small), resume: Some(big), dry_run: yes });
        there_and_back(&Redriven { run: yes.then_some(big), count: more, lasts: wait });
        there_and_back(&UndoRedrive { group: group.clone(), topic: topic.clone(), run: big, dry_run: yes });
        there_and_back(&Undone { returned: big, out: more, handled: 1 });
        let at = Timestamp::from_millis(5);
        there_and_back(&vec![DeadSummary { fingerprint: print, count: big, example: text.clone(), first_died: at, last_died: at, keys: more }]);
        let put = DeadEdit::Put { key: yes.then(|| text.as_bytes().to_vec()), body: yes.then(|| Bytes::from("body")), headers: Some(vec![(text.to_string(), Bytes::new())]) };
        for edit in [put, DeadEdit::Drop] {
            there_and_back(&EditDead { group: group.clone(), topic: topic.clone(), number: big, edit, dry_run: yes });
        }
        there_and_back(&SetAside { group: group.clone(), topic: topic.clone(), partition: small, position, reason: text.clone(), force: yes, dry_run: !yes });
        there_and_back(&Claim { scope: text.to_string(), key: text.to_string(), holder: text.to_string(), lease: wait, wait, at_most_once: yes });
        there_and_back(&GroupSpec {
            group,
            topic,
            member: text.to_string(),
            start,
            order: if yes { Order::Key } else { Order::Free },
            lease: wait,
            max_attempts: small,
            max_dead: big,
            dead_age: age,
            gap: more,
            handover: wait,
            dead_topic: other,
            after_dead,
        });
        for health in [Health::Up, Health::Impaired(text.clone()), Health::Down(text.clone()), Health::Ended(text)] {
            there_and_back(&health);
        }
    }

    #[test]
    fn chunks_travel_whole(chunk in chunk(), fence in fence()) {
        let bytes = bytes_of(&chunk);
        let back: Chunk = read(bytes.clone()).unwrap();
        assert_eq!(bytes_of(&back), bytes);
        assert_eq!(contents(&back), contents(&chunk));
        assert_eq!((back.topic(), back.partition(), back.next()), (chunk.topic(), chunk.partition(), chunk.next()));
        if !chunk.is_empty() {
            let fence = Fence { count: chunk.len() as u32, ..fence };
            there_and_back(&WireArrival::Run(chunk.clone(), fence));
            let longer = Fence { count: fence.count + 1, ..fence };
            assert!(read::<WireArrival>(bytes_of(&WireArrival::Run(chunk, longer))).is_err());
        }
    }

    #[test]
    fn messages_travel_whole(chunks in proptest::collection::vec(chunk(), 1..3), order in any::<u64>(), fence in fence()) {
        let mut messages: Vec<Message> = chunks.iter().flat_map(|chunk| chunk.iter().map(|item| item.to_message())).collect();
        if !messages.is_empty() {
            let middle = order as usize % messages.len();
            messages.rotate_left(middle);
        }
        let versions = messages.iter().cloned().enumerate().map(|(at, message)| (at as u64, message));
        let keyed = KeyMessages(versions.collect());
        for ((version, message), (was, original)) in read::<KeyMessages>(bytes_of(&keyed)).unwrap().0.iter().zip(&keyed.0) {
            assert_eq!(version, was);
            same(message, original);
        }
        let death = Death { number: 1, attempts: 2, reason: "first".into(), died: Timestamp::from_millis(7), edited: true };
        let dead: Vec<DeadLetter> = messages.iter().cloned().enumerate().map(|(at, message)| DeadLetter {
            number: order, edited: (at % 2 == 1).then(|| message.clone()), message, attempts: 3, reason: "no".into(),
            fingerprint: ErrorFingerprint::of("no"), died: Timestamp::from_millis(9), history: vec![death.clone(); at % 3],
        }).collect();
        let back: Vec<DeadLetter> = read(bytes_of(&dead)).unwrap();
        assert_eq!(back.len(), dead.len());
        for (back, dead) in back.iter().zip(&dead) {
            same(&back.message, &dead.message);
            assert_eq!(back.edited.is_some(), dead.edited.is_some());
            back.edited.iter().zip(&dead.edited).for_each(|(back, dead)| same(back, dead));
            assert_eq!((back.fingerprint, &back.history), (dead.fingerprint, &dead.history));
        }
        let each = messages.into_iter().map(|message| (message, 2, Some("why".into()), Fence { count: 1, ..fence })).collect();
        there_and_back(&WireArrival::Each(Deliveries(each)));
    }

    /// A batch travels once, however many of its messages do.
    #[test]
    fn a_batch_travels_once(records in records()) {
        let len = records.len() as u32;
        let span = Span { at: 0, first: Position::at(5), skip: 0, take: len, appended: Timestamp::from_millis(1) };
        let chunk = Chunk::new("orders".into(), 0, records.bytes().clone(), vec![span], Position::at(9));
        let messages = chunk.iter().enumerate().map(|(at, item)| (at as u64, item.to_message())).collect();
        let bytes = bytes_of(&KeyMessages(messages));
        prop_assert!(bytes.len() < records.bytes().len() + 100 + 40 * records.len());
    }

    #[test]
    fn any_bytes_are_refused_or_read(kind in proptest::sample::select(crate::frame::kind::ALL.to_vec()), payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut out = Out::default();
        out.slice(&payload);
        // Read as the receiver would; it must only not panic.
        let _ = crate::inspect(&Rope::of(kind, out));
    }

    /// Damage at any place of real payloads is refused or read as something else: never a panic.
    #[test]
    fn damage_is_no_panic(chunk in chunk(), fence in fence(), at: usize, value: u8) {
        let each = chunk.iter().map(|item| (item.to_message(), 1, None, fence)).collect();
        for arrival in [WireArrival::Run(chunk.clone(), fence), WireArrival::Each(Deliveries(each))] {
            let mut bytes = bytes_of(&arrival).to_vec();
            let at = at % bytes.len();
            bytes[at] = value;
            match read::<WireArrival>(bytes.into()) {
                Ok(WireArrival::Run(chunk, _)) => { contents(&chunk); }
                Ok(WireArrival::Each(each)) => each.0.iter().for_each(|(message, ..)| { message.record(); }),
                _ => {}
            }
        }
    }
}

#[test]
fn caps_travel_whole() {
    let caps = Caps {
        durability: Durability::Os,
        dense_offsets: Offer::Native,
        atomic_batches: Offer::Native,
        stored_bytes: Offer::Native,
        groups: Offer::Native,
        whereabouts: Offer::Native,
        key_order: Offer::Layered("a cost"),
        by_time: Offer::Refused("something else"),
        by_key: Offer::Native,
        expected_position: Offer::Native,
        expected_key_version: Offer::Native,
        dedupe: Offer::Native,
        atomic_effects: Offer::Native,
        ledger: Offer::Refused("an engine with a ledger"),
        fencing: Offer::Native,
        lease_extension: Offer::Native,
        parking: Offer::Native,
        dead_letters: Offer::Native,
        redrive: Offer::Native,
        edit_dead: Offer::Native,
        set_aside: Offer::Native,
        hold_key: Offer::Native,
        alter_group: Offer::Native,
        completed_ranges: Offer::Native,
        retention_age: Offer::Native,
        retention_bytes: Offer::Native,
        compaction: Offer::Native,
        max_body: 1 << 20,
        max_batch: 8 << 20,
        max_partitions: 1024,
    };
    there_and_back(&caps);
    assert_eq!(read::<Caps>(bytes_of(&caps)).unwrap(), caps);
}

#[test]
fn texts_for_the_life_of_the_program_are_bounded() {
    let long = "x".repeat(100_000);
    let error = Error::new(Kind::Busy, "full").with(Box::leak(long.into_boxed_str()), 1);
    let back: Error = read(bytes_of(&error)).unwrap();
    assert_eq!(back.context(), [("detail", "1".to_owned())]);
}

#[test]
fn a_kind_of_a_later_version_is_an_error_all_the_same() {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&5u32.to_le_bytes());
    bytes.extend_from_slice(b"later");
    let rest = bytes_of(&Error::new(Kind::Busy, "hm"));
    bytes.extend_from_slice(&rest[4 + 4..]);
    let back: Error = read(bytes.into()).unwrap();
    assert_eq!((back.kind(), back.message()), (Kind::Unexpected, "hm"));
}

#[test]
fn a_list_longer_than_its_frame_is_refused_before_it_is_made() {
    let mut bytes = u32::MAX.to_le_bytes().to_vec();
    bytes.extend_from_slice(&[0; 100]);
    assert!(read::<Vec<u64>>(bytes.into()).is_err());
}
