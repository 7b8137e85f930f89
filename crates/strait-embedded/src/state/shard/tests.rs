use super::*;

fn park(shard: &mut Shard, offset: u64, key: u64, due: i64) {
    let op = ParkOp {
        due,
        delay_ms: 0,
        attempts: 1,
        key,
        reason: "no",
    };
    shard.park(offset, &op);
}

fn shard(next: u64) -> Shard {
    let mut shard = Shard::default();
    shard.seek(0);
    shard.grant(0, next as u32);
    shard
}

#[test]
fn the_low_mark_follows_what_is_settled_in_any_order() {
    let mut shard = shard(10);
    shard.settle(3, 2);
    shard.settle(1, 1);
    assert_eq!((shard.low, shard.lag(10)), (0, 7));
    shard.settle(0, 1);
    assert_eq!(shard.low, 2);
    shard.settle(2, 1);
    assert_eq!((shard.low, shard.lag(10)), (5, 5));
    assert!(shard.done.is_empty());
}

#[test]
fn only_the_first_of_a_key_is_due() {
    let mut shard = shard(10);
    park(&mut shard, 5, 7, 0);
    park(&mut shard, 3, 7, 100);
    park(&mut shard, 6, 8, 0);
    park(&mut shard, 8, 0, 0);
    assert_eq!(
        shard.parking.due_at(50, u64::MAX, 9),
        [6, 8],
        "5 waits behind 3, which is not due"
    );
    assert!(shard.is_blocked(7, 4) && !shard.is_blocked(7, 2) && !shard.is_blocked(0, 9));
    shard.settle(3, 1);
    assert_eq!(shard.parking.due_at(50, u64::MAX, 9), [5, 6, 8]);
}

#[test]
fn what_is_about_to_be_parked_is_not_overtaken_by_its_key() {
    let mut shard = shard(4);
    let unlease_and_park = |shard: &mut Shard, offset| {
        shard.unlease(offset, 1);
        park(shard, offset, 7, 0);
    };
    let lease = Lease {
        end: 4,
        grant: 1,
        consumer: 1,
        deadline: Duration::ZERO,
        delivered: false,
        settling: false,
    };
    shard.lease(0, lease);
    unlease_and_park(&mut shard, 0);
    // 1 was to wait for 0, which is settled before 1 is parked: 2 and 3 still wait.
    shard.set_settling(1, 1, 7);
    shard.settle(0, 1);
    assert!(shard.any_key_waits());
    assert!(shard.is_blocked(7, 2) && !shard.is_blocked(7, 1) && !shard.is_blocked(8, 2));
    unlease_and_park(&mut shard, 1);
    assert!(shard.is_blocked(7, 2));
    shard.settle(1, 1);
    assert!(!shard.is_blocked(7, 2) && !shard.any_key_waits());
    // Its lease was lost: it comes back, and nothing is about to be parked.
    shard.set_settling(2, 1, 7);
    assert!(shard.is_blocked(7, 3));
    shard.take_back(|_| true);
    assert!(!shard.is_blocked(7, 3));
}

#[test]
fn a_cut_receipt_is_valid_piece_by_piece_and_only_once() {
    let mut shard = shard(10);
    let lease = Lease {
        end: 10,
        grant: 4,
        consumer: 1,
        deadline: Duration::from_secs(9),
        delivered: true,
        settling: false,
    };
    shard.lease(0, lease);
    assert!(shard.holds(2, 3, 4) && !shard.holds(2, 3, 5));
    shard.unlease(2, 3);
    assert!(!shard.holds(2, 1, 4) && shard.holds(0, 2, 4) && shard.holds(5, 5, 4));
    assert!(!shard.holds(0, 10, 4));
    assert_eq!(shard.in_flight(), 7);
}

#[test]
fn a_lost_lease_comes_back_and_its_attempt_counts() {
    let mut shard = shard(4);
    let lease = Lease {
        end: 4,
        grant: 1,
        consumer: 1,
        deadline: Duration::ZERO,
        delivered: true,
        settling: false,
    };
    shard.lease(0, lease);
    shard.settle(1, 1);
    shard.unlease(1, 1);
    assert!(shard.take_back(|_| true).is_empty());
    assert_eq!(shard.returned.iter().collect::<Vec<_>>(), [(0, 1), (2, 4)]);
    shard.grant(2, 1);
    assert_eq!((shard.attempts_of(2), shard.attempts_of(3)), (2, 1));
}

#[test]
fn what_is_released_spends_no_attempt() {
    let mut shard = shard(6);
    shard.release(4, 2);
    assert_eq!(shard.next, 4, "the newest go back as if never granted");
    shard.release(1, 1);
    shard.grant(1, 1);
    assert_eq!(shard.attempts_of(1), 1);
}

#[test]
fn a_checkpoint_brings_everything_back() {
    let mut shard = shard(20);
    shard.settle(0, 3);
    shard.settle(5, 2);
    shard.grant(4, 1);
    park(&mut shard, 8, 7, 1_000);
    park(&mut shard, 9, 7, 5);
    let op = ParkOp {
        due: 5,
        delay_ms: 0,
        attempts: 1,
        key: 7,
        reason: "no",
    };
    shard.put_parked(9, &op, Some(3));
    shard.parking.hold(9, 6, 4);
    park(&mut shard, 10, 9, 0);
    let mut bytes = Vec::new();
    shard.encode(&mut bytes);
    let mut reader = Reader::new(&bytes);
    let mut read = Shard::decode(&mut reader).unwrap();
    assert!(reader.is_empty());
    read.recovered(0);
    assert_eq!(
        (read.low, read.next, &read.done),
        (shard.low, shard.next, &shard.done)
    );
    assert_eq!(read.attempts_of(4), 2);
    assert_eq!(
        read.returned.iter().collect::<Vec<_>>(),
        [(3, 5), (7, 8), (11, 20)]
    );
    assert_eq!(
        read.parking.due_at(0, u64::MAX, 9),
        [8],
        "a wait is never longer than its delay: the clock was set back"
    );
    assert_eq!(read.parking.redriven(9), Some(3));
    assert_eq!(read.parking.waits_for(10), (10, Some(4)));
    assert_eq!(read.last_reason(8).as_deref(), Some("no"));
}

#[test]
fn what_was_never_handed_over_is_no_attempt() {
    let mut shard = shard(6);
    let lease = |end, delivered| Lease {
        end,
        grant: 1,
        consumer: 1,
        deadline: Duration::ZERO,
        delivered,
        settling: false,
    };
    shard.lease(0, lease(6, false));
    shard.deliver(0, 2);
    let undelivered = shard.take_back(|_| true);
    assert_eq!(undelivered, [(2, 6)]);
    for (first, end) in undelivered {
        shard.release(first, (end - first) as u32);
    }
    assert_eq!((shard.next, shard.returned.first()), (2, Some((0, 2))));
}

#[test]
fn a_dead_letter_holds_its_key_until_it_is_let_go() {
    let mut shard = shard(10);
    park(&mut shard, 5, 7, 0);
    park(&mut shard, 6, 8, 0);
    shard.settle(3, 1);
    shard.parking.hold(7, 3, 0);
    assert_eq!(
        shard.parking.due_at(50, u64::MAX, 9),
        [6],
        "5 waits for 3, which is dead"
    );
    assert!(shard.is_blocked(7, 4) && !shard.is_blocked(7, 3) && !shard.is_blocked(8, 6));
    assert!(
        !shard.is_blocked(0, 9),
        "a message without a key is held by none"
    );
    park(&mut shard, 8, 7, 0);
    assert_eq!(shard.parking.held_keys(), 1);
    // Redriven, it goes out first.
    let op = ParkOp {
        due: 0,
        delay_ms: 0,
        attempts: 0,
        key: 7,
        reason: "",
    };
    shard.put_parked(3, &op, Some(0));
    shard.let_go(7, 3);
    assert_eq!(shard.parking.due_at(50, u64::MAX, 9), [3, 6]);
    shard.settle(3, 1);
    assert_eq!(shard.parking.due_at(50, u64::MAX, 9), [5, 6]);
    // Two of a key: both must go.
    shard.settle(5, 1);
    shard.parking.hold(7, 4, 1);
    shard.parking.hold(7, 5, 2);
    shard.let_go(7, 4);
    assert!(shard.is_blocked(7, 8) && shard.parking.due_at(50, u64::MAX, 9) == [6]);
    shard.let_go_all();
    assert_eq!(shard.parking.due_at(50, u64::MAX, 9), [6, 8]);
}

#[test]
fn what_was_set_aside_in_front_of_the_group_is_passed_over() {
    let mut shard = shard(2);
    shard.settle(3, 1);
    shard.settle(5, 1);
    assert_eq!((shard.low, shard.next, shard.lag(8)), (0, 2, 6));
    shard.grant(2, 1);
    assert_eq!(shard.next, 4, "3 is settled");
    shard.release(2, 1);
    assert_eq!((shard.next, shard.attempts_of(2)), (4, 0));
    shard.settle(0, 3);
    assert_eq!((shard.low, shard.next), (4, 4));
    shard.settle(4, 1);
    assert_eq!((shard.low, shard.next, shard.lag(8)), (6, 6, 2));
    // One that came back waits until the group gets there.
    shard.settle(7, 1);
    park(&mut shard, 7, 9, 0);
    assert!(shard.parking.due_at(9, shard.next, 9).is_empty());
    shard.grant(6, 1);
    assert_eq!(shard.next, 8);
    assert_eq!(shard.parking.due_at(9, shard.next, 9), [7]);
}
