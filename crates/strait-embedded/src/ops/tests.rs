use super::*;
use crate::extents::{Span, StreamId};
use proptest::prelude::*;

#[test]
fn every_operation_survives_the_record() {
    let settings = TopicSettings {
        partitions: 8,
        retention_ms: Some(0),
        compaction: Some(CompactionSettings {
            min_lag_ms: 0,
            tombstones_ms: 9,
        }),
        ..Default::default()
    };
    let parked = ParkOp {
        due: -5,
        delay_ms: 9,
        attempts: 2,
        key: u64::MAX,
        reason: "no",
    };
    let dead = DeadOp {
        number: 3,
        attempts: 8,
        key: 1,
        appended: -1,
        died: 7,
        bytes: 100,
        reason: "not a number",
    };
    let group = GroupSettings {
        key_order: true,
        max_attempts: 8,
        max_dead: 5,
        dead_ms: Some(4),
        gap: 6,
        dead_topic: Some("orders.dead"),
        hold_key: true,
    };
    let operator = OperatorOp {
        max_attempts: Some(3),
        gap: Some(0),
        hold_key: Some(false),
        pause: Some((-3, "the bank is down")),
        ..Default::default()
    };
    let step = KeyStep {
        key: 5,
        version: 2,
        previous: Some((3, 0)),
    };
    let none = KeyStep {
        key: 0,
        version: 0,
        previous: None,
    };
    let append = AppendOp {
        topic: 1,
        partition: 2,
        first: 3,
        count: 2,
        time: -9,
        ..Default::default()
    };
    let mut numbers = Vec::new();
    let numbers = Numbers::encode(&[7, 8, 3], &mut numbers);
    let redrive = RedriveOp {
        run: 3,
        at: -1,
        due: 5,
        per_second: 6,
        numbers,
    };
    let edit = DeadChange::Edit {
        number: 7,
        copy: 9,
        bytes: 70,
        time: -3,
    };
    let change = |change| Op::Graves { group: 1, change };
    let ops = [
        Op::Open { incarnation: 7 },
        Op::PutTopic {
            id: 1,
            name: "orders",
            settings,
        },
        Op::DeleteTopic { id: 1 },
        Op::Append(append.clone()),
        Op::Append(AppendOp {
            ids: vec![1, u128::MAX],
            ..append.clone()
        }),
        Op::Append(AppendOp {
            ids: vec![4],
            versions: vec![step, none],
            ..append
        }),
        Op::Moved(MovedOp {
            stream: StreamId::dead(3),
            first: 2,
            end: 9,
            spans: vec![Span::hollow(2, 5), Span::hollow(5, 9)],
            compacted: Some(0),
        }),
        Op::Trim {
            topic: 1,
            partition: 0,
            start: u64::MAX,
        },
        Op::PutGroup {
            id: 1,
            topic: 1,
            name: "billing",
            settings: group,
        },
        Op::DeleteGroup { id: 1 },
        Op::AlterGroup { id: 1, operator },
        Op::AlterGroup {
            id: 1,
            operator: OperatorOp::default(),
        },
        Op::Seek {
            group: 1,
            shard: 2,
            to: 3,
        },
        Op::Grant {
            group: 1,
            shard: 2,
            first: 3,
            count: 4,
        },
        Op::Done {
            group: 1,
            shard: 2,
            first: 3,
            count: 4,
        },
        Op::Release {
            group: 1,
            shard: 2,
            first: 3,
            count: 4,
        },
        Op::Park {
            group: 1,
            shard: 2,
            offset: 3,
            parked,
        },
        Op::Dead {
            group: 1,
            shard: 2,
            offset: 3,
            dead,
        },
        change(DeadChange::Redrive(redrive)),
        change(DeadChange::Undo { run: 3, numbers }),
        change(DeadChange::Remove { numbers }),
        change(edit),
        change(DeadChange::DropEdit { number: 7 }),
        Op::Claim {
            scope: "s",
            key: "k",
            holder: "h",
            token: 1,
            until: 2,
        },
        Op::StoreOnce {
            scope: "s",
            key: "k",
            result: b"r",
            expires: 5,
        },
        Op::ForgetClaim {
            scope: "s",
            key: "k",
        },
    ];
    let mut bytes = Vec::new();
    ops.iter().for_each(|op| op.encode(&mut bytes));
    let mut reader = Reader::new(&bytes);
    for op in &ops {
        assert_eq!(&Op::decode(&mut reader).unwrap(), op);
    }
    assert!(reader.is_empty());
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut reader = Reader::new(&bytes);
        while let Ok(_op) = Op::decode(&mut reader) {}
    }
}
