//! One rule of the log per test.

use std::io::IoSlice;
use std::sync::Arc;

use strait_embedded::disk::rng::Rng;
use strait_embedded::disk::segment::segment_name;
use strait_embedded::disk::sim::{Crash, SimDisk};
use strait_embedded::disk::{
    Disk, Log, LogError, LogOptions, LogPos, Open, OpenError, Placed, verify,
};

use crate::support::{IDENTITY, encode, group, group_of, open, open_from, options, see, texts};

fn faulty() -> (Arc<SimDisk>, Arc<dyn Disk>) {
    let sim = Arc::new(SimDisk::faulty(8 << 20, 3));
    (sim.clone(), sim)
}

fn crash(sim: &SimDisk, how: Crash) -> (Arc<SimDisk>, Arc<dyn Disk>) {
    let left = Arc::new(sim.crash(how, &mut Rng::new(11)));
    (left.clone(), left)
}

fn append(log: &mut Log, text: &str) -> Placed {
    log.append(&encode(&group(text))).unwrap()
}

fn synced(log: &mut Log, text: &str) -> Placed {
    let placed = append(log, text);
    log.sync().unwrap();
    placed
}

#[test]
fn what_was_synced_is_there_after_a_power_loss_and_the_rest_is_not() {
    let (sim, disk) = faulty();
    let (mut log, ..) = open(&disk);
    synced(&mut log, "one");
    append(&mut log, "two");
    log.sync().unwrap();
    append(&mut log, "three");
    assert_eq!((log.written_seq(), log.durable_seq()), (3, 2));
    let (_, disk) = crash(&sim, Crash::AllLost);
    let (log, report, seen) = open(&disk);
    assert_eq!(texts(&seen), ["one", "two"]);
    assert_eq!(report.torn, None, "not a byte of the third is left");
    assert_eq!(log.durable_seq(), log.written_seq());
}

#[test]
fn a_torn_tail_is_cut_and_reported_and_the_log_goes_on() {
    let (sim, disk) = faulty();
    let (mut log, ..) = open(&disk);
    synced(&mut log, "one");
    let big = log.append(&encode(&group_of(3000, 1))).unwrap();
    // Of the group's sectors some are left.
    let is_torn = |left: &Arc<SimDisk>| verify(&**left).unwrap().torn.is_some();
    let left = (0..100).map(|seed| Arc::new(sim.crash(Crash::Random, &mut Rng::new(seed))));
    let disk: Arc<dyn Disk> = left.into_iter().find(is_torn).unwrap();
    let (mut log, report, seen) = open(&disk);
    assert_eq!(texts(&seen), ["one"]);
    let torn = report.torn.unwrap();
    assert_eq!(
        (torn.file, torn.offset, torn.seq),
        (segment_name(big.segment), big.offset, 2)
    );
    assert!(torn.bytes >= 40);
    synced(&mut log, "two");
    drop(log);
    let (_, report, seen) = open(&disk);
    assert_eq!(texts(&seen), ["one", "two"]);
    assert_eq!(report.torn, None, "a cut tail leaves no trace");
}

#[test]
fn a_whole_group_behind_a_torn_one_never_joins_a_later_chain() {
    let (sim, disk) = faulty();
    let (mut log, ..) = open(&disk);
    synced(&mut log, "one");
    let torn = append(&mut log, "aaaa");
    append(&mut log, "bbbb");
    drop(log);
    sim.flip(&segment_name(torn.segment), torn.offset + 60, 1)
        .unwrap();
    let (mut log, report, seen) = open(&disk);
    assert_eq!(
        (texts(&seen), report.torn.unwrap().seq),
        (vec!["one".to_owned()], 2)
    );
    // As long as the torn one: in its place it would end where the whole one starts.
    assert!(synced(&mut log, "cccc").segment > torn.segment);
    drop(log);
    assert_eq!(texts(&open(&disk).2), ["one", "cccc"]);
}

#[test]
fn a_segment_that_begins_with_a_torn_group_is_left_behind() {
    let (sim, disk) = faulty();
    let (mut log, ..) = open(&disk);
    synced(&mut log, "one");
    let torn = log.append(&encode(&group_of(12_300, 1))).unwrap();
    append(&mut log, "two");
    drop(log);
    assert_eq!(torn.offset, 4096);
    sim.flip(&segment_name(torn.segment), torn.offset + 8, 1)
        .unwrap();
    let (mut log, report, seen) = open(&disk);
    assert_eq!(
        (texts(&seen), report.torn.unwrap().seq),
        (vec!["one".to_owned()], 2)
    );
    assert!(synced(&mut log, "three").segment > torn.segment);
    drop(log);
    assert_eq!(texts(&open(&disk).2), ["one", "three"]);
}

/// Three synced groups and a fourth; the file and the places of all.
fn four(disk: &Arc<dyn Disk>) -> Vec<Placed> {
    let (mut log, ..) = open(disk);
    let places = ["one", "two", "three", "four"].map(|text| synced(&mut log, text));
    places.to_vec()
}

#[test]
fn a_flipped_byte_before_the_last_group_is_refused_with_file_and_offset() {
    let len = encode(&group("two")).encoded_len();
    for within in 0..len {
        let (sim, disk) = faulty();
        let second = four(&disk)[1];
        sim.flip(&segment_name(second.segment), second.offset + within, 4)
            .unwrap();
        let refused = open_from(&disk, &options(), None).unwrap_err();
        match &refused {
            OpenError::Corrupt {
                file, offset, seq, ..
            } => {
                assert_eq!(file, &segment_name(second.segment));
                assert_eq!((*offset, *seq), (second.offset, 2), "byte {within}");
            }
            other => panic!("{other}"),
        }
        assert!(
            refused
                .to_string()
                .contains("but a later group says that sequence 3 was durable")
        );
        let found = verify(&*disk).unwrap();
        assert!(
            matches!(
                &found.faults[..],
                [OpenError::Missing { .. }, OpenError::Corrupt { seq: 2, .. }]
            ),
            "{:?}",
            found.faults
        );
        assert_eq!(found.groups, 3, "verify goes on behind the fault");
    }
}

#[test]
fn a_body_in_the_place_of_another_is_noticed() {
    let (_, disk) = faulty();
    let (mut log, ..) = open(&disk);
    let buf = encode(&group("one"));
    let placed = log.append(&buf).unwrap();
    log.sync().unwrap();
    synced(&mut log, "two");
    let file = disk
        .open(&segment_name(placed.segment), Open::Existing)
        .unwrap();
    let other = crate::support::body(b"two");
    file.write_all_at(
        &[IoSlice::new(&other)],
        placed.offset + buf.body_offsets()[0],
    )
    .unwrap();
    let refused = open_from(&disk, &options(), None).unwrap_err();
    assert!(
        refused.to_string().contains("the bodies' heads"),
        "{refused}"
    );
}

#[test]
fn a_flipped_byte_in_the_last_group_is_a_torn_tail_unless_a_seal_proves_it() {
    let (sim, disk) = faulty();
    let last = four(&disk)[3];
    sim.flip(&segment_name(last.segment), last.offset + 60, 1)
        .unwrap();
    let (_, report, seen) = open(&disk);
    assert_eq!(texts(&seen), ["one", "two", "three"]);
    assert_eq!(report.torn.unwrap().seq, 4);

    let (sim, disk) = faulty();
    let last = four(&disk)[3];
    let (mut log, ..) = open(&disk);
    log.seal().unwrap();
    drop(log);
    let (log, _, seen) = open(&disk);
    let moved = seen.last().unwrap();
    assert_ne!(
        moved.segment, last.segment,
        "the unproven group was written anew"
    );
    sim.flip(&segment_name(moved.segment), moved.offset + 60, 1)
        .unwrap();
    drop(log);
    let refused = open_from(&disk, &options(), None).unwrap_err();
    assert!(
        matches!(refused, OpenError::Corrupt { seq: 4, .. }),
        "{refused}"
    );
}

#[test]
fn damage_at_the_end_of_a_segment_is_refused_because_the_next_one_follows() {
    let (sim, disk) = faulty();
    let (mut log, ..) = open(&disk);
    let places: Vec<Placed> = (0..8)
        .map(|i| {
            let placed = log.append(&encode(&group_of(5000, i))).unwrap();
            log.sync().unwrap();
            placed
        })
        .collect();
    let next = places
        .iter()
        .position(|placed| placed.segment != places[0].segment)
        .unwrap();
    let last = places[next - 1];
    sim.flip(&segment_name(last.segment), last.offset + 100, 1)
        .unwrap();
    drop(log);
    match open_from(&disk, &options(), None).unwrap_err() {
        OpenError::Corrupt {
            file, offset, seq, ..
        } => {
            assert_eq!(
                (file, offset, seq),
                (segment_name(last.segment), last.offset, last.seq)
            );
        }
        other => panic!("{other}"),
    }
    sim.flip(&segment_name(last.segment), last.offset + 100, 1)
        .unwrap();
    let first = places[next];
    sim.flip(&segment_name(first.segment), first.offset + 9, 1)
        .unwrap();
    match open_from(&disk, &options(), None).unwrap_err() {
        OpenError::Corrupt {
            file, offset, seq, ..
        } => {
            assert_eq!(
                (file, offset, seq),
                (segment_name(first.segment), first.offset, first.seq)
            );
        }
        other => panic!("{other}"),
    }
}

#[test]
fn after_a_failed_fsync_the_log_is_poisoned_and_reopening_makes_durable_what_it_serves() {
    let (sim, disk) = faulty();
    let (mut log, ..) = open(&disk);
    synced(&mut log, "one");
    append(&mut log, "two");
    sim.fail_sync(1);
    assert!(matches!(log.sync(), Err(LogError::Poisoned(_))));
    assert!(
        matches!(log.sync(), Err(LogError::Poisoned(_))),
        "not even when the disk works again"
    );
    assert!(matches!(
        log.append(&encode(&group("three"))),
        Err(LogError::Poisoned(_))
    ));
    assert!(matches!(log.seal(), Err(LogError::Poisoned(_))));
    drop(log);
    // The page cache still shows the group, so it is served; then it must survive the loss of the cache.
    let (mut log, report, seen) = open(&disk);
    assert_eq!(texts(&seen), ["one", "two"]);
    assert!(report.rewritten >= 1);
    synced(&mut log, "three");
    let (_, disk) = crash(&sim, Crash::AllLost);
    let (_, _, seen) = open(&disk);
    assert_eq!(texts(&seen), ["one", "two", "three"]);
}

#[test]
fn a_failed_write_poisons() {
    let (sim, disk) = faulty();
    let (mut log, ..) = open(&disk);
    sim.fail_write(1);
    assert!(matches!(
        log.append(&encode(&group("one"))),
        Err(LogError::Poisoned(_))
    ));
    assert_eq!(log.written_seq(), 0);
}

#[test]
fn a_seal_ends_the_rewriting() {
    let (_, disk) = faulty();
    four(&disk);
    let (mut log, report, _) = open(&disk);
    assert_eq!(report.rewritten, 1, "only the last group is unproven");
    let position = log.position();
    log.seal().unwrap();
    assert_eq!(
        log.position(),
        position,
        "nothing is unproven after opening"
    );
    drop(log);
    let (mut log, report, _) = open(&disk);
    assert_eq!((report.rewritten, log.position()), (0, position));
    synced(&mut log, "five");
    log.seal().unwrap();
    log.seal().unwrap();
    assert_eq!(log.written_seq(), position.seq + 1, "one seal is enough");
}

#[test]
fn replay_starts_where_a_snapshot_says() {
    let (_, disk) = faulty();
    let places = four(&disk);
    let (_, _, seen) = open_from(&disk, &options(), Some(places[1].next())).unwrap();
    assert_eq!(texts(&seen), ["three", "four"]);
    let gone = LogPos {
        segment: 99,
        offset: 4096,
        seq: 3,
    };
    let refused = open_from(&disk, &options(), Some(gone)).unwrap_err();
    assert!(matches!(refused, OpenError::Missing { .. }), "{refused}");
}

#[test]
fn a_scan_reads_the_same_and_writes_nothing() {
    let (sim, disk) = faulty();
    four(&disk);
    let before = disk.list().unwrap();
    sim.die_at(1);
    let mut seen = Vec::new();
    let report = Log::scan(&*disk, IDENTITY, None, &mut |group| {
        seen.push(see(group));
        Ok(())
    });
    assert_eq!(report.unwrap().last_seq, 4);
    assert_eq!(texts(&seen), ["one", "two", "three", "four"]);
    assert!(!sim.is_dead(), "the first write would have killed it");
    assert_eq!(disk.list().unwrap(), before);
}

#[test]
fn an_error_of_the_engine_stops_the_opening() {
    let (_, disk) = faulty();
    four(&disk);
    let refused = Log::open(disk, options(), None, &mut |group| {
        Err(OpenError::Apply {
            seq: group.seq,
            why: "an operation of a newer version".into(),
        })
    });
    assert!(matches!(refused, Err(OpenError::Apply { seq: 1, .. })));
}

#[test]
fn groups_roll_into_prepared_segments_and_large_ones_get_their_own() {
    let (_, disk) = faulty();
    let (mut log, ..) = open(&disk);
    while log.pool().wanted() {
        log.pool().prepare_one().unwrap();
    }
    let names = disk.list().unwrap();
    let first = append(&mut log, "one");
    let rolled = log.append(&encode(&group_of(12_300, 1))).unwrap();
    assert!(rolled.segment > first.segment);
    assert_eq!(
        disk.list().unwrap(),
        names,
        "the next segment was there already"
    );
    let large = log.append(&encode(&group_of(100_000, 2))).unwrap();
    assert_eq!(large.offset, 4096);
    let info = log.pool().segments();
    let info = info.iter().find(|info| info.id == large.segment).unwrap();
    assert!(info.len >= 100_000 + 4096 && info.len < 120_000);
    let after = append(&mut log, "two");
    assert!(after.segment >= large.segment);
    log.sync().unwrap();
    drop(log);
    let (_, _, seen) = open(&disk);
    assert_eq!(
        seen.iter().map(|seen| seen.seq).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
}

#[test]
fn a_group_over_the_limit_is_refused_and_the_log_goes_on() {
    let (_, disk) = faulty();
    let (mut log, ..) = open(&disk);
    let body = crate::support::body(&vec![0; 130 << 20]);
    let mut buf = strait_embedded::disk::GroupBuf::new();
    buf.begin_record();
    buf.push_body(body.clone()).unwrap();
    buf.push_body(body).unwrap();
    buf.end_record();
    assert!(matches!(log.append(&buf), Err(LogError::TooLarge { .. })));
    assert_eq!(synced(&mut log, "one").seq, 1);
}

fn released(log: &mut Log, id: u64) {
    assert!(log.release(id));
    while log.pool().wanted() {
        log.pool().prepare_one().unwrap();
    }
}

/// Options under which every file has the same length, so that all are recycled.
fn level() -> LogOptions {
    LogOptions {
        segment_bytes: 16 << 10,
        first_segment_bytes: 16 << 10,
        spares: 1,
        reserve_bytes: 0,
        ..options()
    }
}

#[test]
fn released_files_are_recycled_and_their_old_groups_never_replay() {
    let (sim, disk) = faulty();
    let (mut log, ..) = open_from(&disk, &level(), None).unwrap();
    let mut from = log.position();
    for round in 0..20_u8 {
        let placed = log.append(&encode(&group_of(9000, round))).unwrap();
        log.sync().unwrap();
        if placed.segment != from.segment {
            from.seq = placed.seq;
            let old = from.segment;
            from.segment = placed.segment;
            from.offset = placed.offset;
            released(&mut log, old);
        }
        assert!(sim.allocated() <= 3 * (16 << 10), "files go round");
    }
    let (_, disk) = crash(&sim, Crash::AllLost);
    let (_, _, seen) = open_from(&disk, &level(), Some(from)).unwrap();
    assert_eq!(seen.iter().map(|seen| seen.seq).collect::<Vec<_>>(), [20]);
}

#[test]
fn a_quarter_as_many_files_as_are_in_use_are_kept_for_recycling() {
    let (sim, disk) = faulty();
    let options = LogOptions {
        recycled: 2,
        ..level()
    };
    let (mut log, ..) = open_from(&disk, &options, None).unwrap();
    let placed: Vec<_> = (0..40)
        .map(|i| log.append(&encode(&group_of(9000, i))).unwrap().segment)
        .collect();
    log.sync().unwrap();
    let files = |sim: &SimDisk| sim.allocated() / (16 << 10);
    let (early, late) = placed[..39].split_at(20);
    early.iter().for_each(|&id| released(&mut log, id));
    // In use, a fourth of it, and the spare one that is prepared ahead.
    assert_eq!(files(&sim), 20 + 5 + 1);
    late.iter().for_each(|&id| released(&mut log, id));
    assert_eq!(files(&sim), 1 + 2 + 1, "with less in use, less is kept");
}

#[test]
fn a_pinned_segment_is_not_recycled_before_its_last_pin_is_gone() {
    let (_, disk) = faulty();
    let (mut log, ..) = open_from(&disk, &level(), None).unwrap();
    let first = log.append(&encode(&group_of(9000, 7))).unwrap();
    let second = log.append(&encode(&group_of(9000, 8))).unwrap();
    assert!(!log.release(second.segment), "the writer is in it");
    let (reader, pin) = (
        log.reader(first.segment).unwrap(),
        log.pin(first.segment).unwrap(),
    );
    released(&mut log, first.segment);
    assert!(log.pin(first.segment).is_none() && log.reader(first.segment).is_err());
    assert!(!log.release(first.segment), "once is enough");
    let name = segment_name(first.segment);
    let check = || {
        let mut bytes = vec![0; 9000];
        reader.read_exact_at(&mut bytes, first.offset + 64).unwrap();
        assert_eq!(bytes, vec![7; 9000]);
        assert!(disk.list().unwrap().contains(&name));
    };
    check();
    drop(pin);
    let third = log.append(&encode(&group_of(9000, 9))).unwrap();
    log.pool().prepare_one().unwrap();
    assert!(third.segment > second.segment);
    check();
    drop(reader);
    let fourth = log.append(&encode(&group_of(9000, 9))).unwrap();
    log.pool().prepare_one().unwrap();
    assert!(fourth.segment > third.segment);
    assert!(
        !disk.list().unwrap().contains(&name),
        "now it was used again"
    );
}

#[test]
fn a_full_disk_refuses_sends_lets_the_reserve_go_on_and_recovers_without_a_restart() {
    let (sim, disk) = faulty();
    let (mut log, ..) = open(&disk);
    while log.pool().wanted() {
        log.pool().prepare_one().unwrap();
    }
    sim.set_capacity(sim.allocated());
    let mut sent = 0;
    let full = loop {
        match log.append(&encode(&group_of(5000, 1))) {
            Ok(_) => sent += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(full, LogError::Full { .. }), "{full}");
    assert!(!log.has_room());
    assert!(log.pool().prepare_one().is_err());
    assert_eq!(log.written_seq(), sent, "a refused group takes no sequence");

    let settle = encode(&group_of(5000, 2));
    log.append_reserve(&settle).unwrap();
    assert!(matches!(
        log.append(&encode(&group("send"))),
        Err(LogError::Full { .. })
    ));
    assert!(
        matches!(log.append_reserve(&settle), Err(LogError::Full { .. })),
        "the reserve has an end"
    );
    log.sync().unwrap();
    assert!(log.pool().prepare_one().is_err());
    assert!(!log.has_room());

    sim.set_capacity(8 << 20);
    assert!(log.pool().wanted());
    log.pool().prepare_one().unwrap();
    assert!(log.has_room());
    append(&mut log, "send");
    log.sync().unwrap();
    let (_, disk) = crash(&sim, Crash::AllLost);
    let (_, _, seen) = open(&disk);
    assert_eq!(seen.len() as u64, sent + 2);
}

#[test]
fn a_released_segment_gives_a_full_disk_its_room_back() {
    let (sim, disk) = faulty();
    let (mut log, ..) = open_from(&disk, &level(), None).unwrap();
    let first = log.append(&encode(&group_of(9000, 1))).unwrap();
    sim.set_capacity(sim.allocated());
    let refused = log.append(&encode(&group_of(9000, 1)));
    assert!(matches!(refused, Err(LogError::Full { .. })));
    sim.set_capacity(sim.allocated() + (16 << 10));
    assert!(
        log.append(&encode(&group_of(9000, 1))).is_err(),
        "the little that is left of a full disk is for housekeeping"
    );
    log.pool().prepare_one().unwrap();
    assert!(log.has_room());
    log.append(&encode(&group_of(9000, 1))).unwrap();
    assert!(log.append(&encode(&group_of(9000, 1))).is_err());
    assert!(log.release(first.segment));
    log.pool().prepare_one().unwrap();
    assert!(log.has_room());
    log.append(&encode(&group_of(9000, 1))).unwrap();
}

#[test]
fn spares_and_the_reserve_are_found_again_when_the_log_is_opened() {
    let (_, disk) = faulty();
    let odd = LogOptions {
        reserve_bytes: (12 << 10) - 5,
        ..options()
    };
    let (mut log, ..) = open_from(&disk, &odd, None).unwrap();
    while log.pool().wanted() {
        log.pool().prepare_one().unwrap();
    }
    synced(&mut log, "one");
    log.seal().unwrap();
    let (names, position) = (disk.list().unwrap(), log.position());
    drop(log);
    let (log, ..) = open_from(&disk, &odd, None).unwrap();
    assert!(!log.pool().wanted());
    assert_eq!((disk.list().unwrap(), log.position()), (names, position));
    assert_eq!(log.pool().segments().len(), 1, "the others are not in use");
}

#[test]
fn a_full_disk_can_be_opened() {
    let (sim, disk) = faulty();
    four(&disk);
    sim.set_capacity(sim.allocated());
    let (mut log, report, seen) = open(&disk);
    assert_eq!((texts(&seen).len(), report.rewritten), (4, 1));
    sim.set_capacity(8 << 20);
    synced(&mut log, "five");
    let (_, disk) = crash(&sim, Crash::AllLost);
    assert_eq!(open(&disk).2.len(), 5);
}
