//! What is measured, and what it must reach.

/// One run of `strait bench ..`.
pub(super) struct Work {
    pub(super) name: &'static str,
    /// The command behind `strait bench`, without duration and format.
    pub(super) args: &'static str,
    /// So many times the seconds that were asked for; `None` for a run that ends by itself.
    pub(super) times: Option<u64>,
    pub(super) goals: &'static [Goal],
}

/// A field of the program's JSON answer and the bound it has to keep.
pub(super) struct Goal {
    pub(super) field: &'static str,
    pub(super) bound: Bound,
}

pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// At least this part of another field of the same answer.
    Ratio(f64, &'static str),
    /// At most this many times another field of the same answer.
    AtMostTimes(f64, &'static str),
}

const fn goal(field: &'static str, bound: Bound) -> Goal {
    Goal { field, bound }
}

pub(super) const RATE: &str = "messages_per_second";
pub(super) const BARE: &str = "bare_log_messages_per_second";

/// The table of works: each is one run.
pub(super) const WORKS: [Work; 11] = [
    Work {
        name: "raw records, batches of 100",
        args: "events --size 100 --batch 100 --producers 64 --in-flight 4 --partitions 12 --durability fsync",
        times: Some(1),
        goals: &[
            goal(RATE, Bound::AtLeast(4e6)),
            goal(RATE, Bound::Ratio(0.5, BARE)),
            goal("catch_up_messages_per_second", Bound::AtLeast(2e7)),
        ],
    },
    Work {
        name: "1 KiB records, batches of 100, in a log that goes round",
        args: "events --size 1024 --batch 100 --producers 64 --in-flight 4 --partitions 12 --durability fsync --keep 16MiB",
        times: Some(2),
        goals: &[goal(RATE, Bound::Ratio(0.7, BARE))],
    },
    Work {
        name: "one message in flight per producer",
        args: "events --size 100 --batch 1 --producers 64 --in-flight 1 --partitions 12 --durability fsync",
        times: Some(1),
        goals: &[
            goal(RATE, Bound::AtLeast(130_000.0)),
            goal(RATE, Bound::Ratio(0.9, BARE)),
            goal("ack_p99_ms", Bound::AtMostTimes(10.0, "fsync_p50_ms")),
        ],
    },
    Work {
        name: "consume with a no-op raw handler",
        args: "events --consume --size 100 --partitions 12 --durability fsync",
        times: Some(1),
        goals: &[goal(
            "consume_messages_per_second",
            Bound::AtLeast(500_000.0),
        )],
    },
    Work {
        name: "consume and append one effect in the same commit",
        args: "events --consume-effect --size 100 --partitions 12 --durability fsync",
        times: Some(1),
        goals: &[goal(
            "consume_messages_per_second",
            Bound::AtLeast(200_000.0),
        )],
    },
    Work {
        name: "redrive of 1M dead letters, handled in the order of their keys",
        args: "events --redrive 1000000 --size 100 --partitions 12 --durability fsync",
        times: Some(1),
        goals: &[goal(
            "redrive_messages_per_second",
            Bound::AtLeast(100_000.0),
        )],
    },
    Work {
        name: "one topic among 1,000, read back",
        args: "interleaved --topics 1000 --messages 10000",
        times: None,
        goals: &[goal("of_alone", Bound::AtLeast(0.5))],
    },
    Work {
        name: "half the peak with retention, cleaner and compaction at work",
        args: "sustained",
        times: Some(12),
        goals: &[
            goal("flatness", Bound::AtLeast(0.9)),
            goal(
                "ack_p99_ms",
                Bound::AtMostTimes(10.0, "fsync_in_run_p99_ms"),
            ),
            goal("write_amplification", Bound::AtMost(2.0)),
        ],
    },
    Work {
        name: "a backup under full load",
        args: "sustained --backup --rate 1000000000",
        times: Some(3),
        goals: &[goal("rate_during_backup", Bound::AtLeast(0.8))],
    },
    Work {
        name: "a million parked keys",
        args: "parked --keys 1000000",
        times: None,
        goals: &[goal("resident_bytes", Bound::AtMost(2e8))],
    },
    Work {
        name: "10,000 topics of 4 partitions",
        args: "topics --topics 10000 --partitions 4",
        times: None,
        goals: &[goal("resident_bytes", Bound::AtMost(2e8))],
    },
];
