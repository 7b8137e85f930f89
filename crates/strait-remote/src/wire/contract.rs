//! The nouns of the events lane.

use std::time::Duration;

use strait_core::events::{
    AfterDead, Append, Caps, Compaction, Cursor, Durability, Expected, GroupChange, GroupInfo,
    GroupRules, GroupSpec, MemberInfo, Order, Override, Overrides, PartitionInfo, Pause, ReadKey,
    Retention, Seek, ShardInfo, Standing, Start, Stored, Stuck, StuckOn, TopicChange, TopicInfo,
    TopicSpec, Waits, Whereabouts,
};
use strait_core::{Backup, Growth, Offer, Result, Storage};

use super::texts::keep;
use super::{In, Out, Wire, malformed, put_text, wire_struct};

impl Wire for Offer {
    fn put(&self, out: &mut Out) {
        let (tag, text) = match self {
            Offer::Native => (0u8, ""),
            Offer::Layered(cost) => (1, *cost),
            Offer::Refused(nearest) => (2, *nearest),
        };
        tag.put(out);
        put_text(text, out);
    }
    fn get(input: &mut In) -> Result<Self> {
        let (tag, text) = (u8::get(input)?, String::get(input)?);
        let text = keep(&text).unwrap_or("see the documentation of the engine");
        Ok(match tag {
            0 => Offer::Native,
            1 => Offer::Layered(text),
            2 => Offer::Refused(text),
            _ => return Err(malformed("unknown offer")),
        })
    }
}

impl Wire for Durability {
    fn put(&self, out: &mut Out) {
        let tag = match self {
            Durability::Memory => 0u8,
            Durability::Os => 1,
            Durability::Fsynced => 2,
        };
        tag.put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => Durability::Memory,
            1 => Durability::Os,
            2 => Durability::Fsynced,
            _ => return Err(malformed("unknown durability")),
        })
    }
}

wire_struct!(Caps {
    durability,
    dense_offsets,
    atomic_batches,
    stored_bytes,
    groups,
    whereabouts,
    key_order,
    by_time,
    by_key,
    expected_position,
    expected_key_version,
    dedupe,
    atomic_effects,
    ledger,
    fencing,
    lease_extension,
    parking,
    dead_letters,
    redrive,
    edit_dead,
    set_aside,
    hold_key,
    alter_group,
    completed_ranges,
    retention_age,
    retention_bytes,
    compaction,
    max_body,
    max_batch,
    max_partitions,
});
wire_struct!(TopicSpec {
    name,
    partitions,
    retention,
    key_versions,
    dedupe_window,
    compaction
});
wire_struct!(Backup {
    sequence,
    taken,
    files,
    bytes
});
wire_struct!(Storage {
    used,
    spare,
    free,
    growth,
    full_in
});
wire_struct!(Growth { per_second, over });
wire_struct!(Retention { age, bytes });
wire_struct!(Compaction {
    min_lag,
    tombstones
});
wire_struct!(TopicChange {
    partitions,
    retention,
    compaction
});
wire_struct!(TopicInfo {
    name,
    retention,
    key_versions,
    dedupe_window,
    compaction,
    partitions
});
wire_struct!(PartitionInfo { start, end, bytes });
wire_struct!(Append {
    topic,
    partition,
    records,
    expected,
    dedupe
});
wire_struct!(Cursor {
    topic,
    partition,
    position,
    wait
});
wire_struct!(GroupInfo {
    group,
    topic,
    members,
    shards,
    dead,
    dead_bytes,
    paused,
    pause,
    declared,
    overrides
});
wire_struct!(Pause { reason, since });
wire_struct!(Overrides {
    max_attempts,
    max_dead,
    gap,
    after_dead
});
wire_struct!(GroupRules {
    order,
    max_attempts,
    max_dead,
    dead_age,
    gap,
    after_dead,
    dead_topic
});
wire_struct!(GroupChange {
    max_attempts,
    max_dead,
    gap,
    after_dead,
    pause
});
wire_struct!(Stuck {
    offset,
    key,
    attempts,
    since,
    on
});
wire_struct!(Whereabouts { stored, groups });
wire_struct!(Stored {
    file,
    at,
    len,
    first,
    count,
    appended,
    checkpoint
});
wire_struct!(MemberInfo {
    name,
    consumer,
    shards
});
wire_struct!(ShardInfo {
    committed,
    end,
    lag,
    oldest,
    parked,
    in_flight,
    held_keys,
    waits
});
wire_struct!(Seek {
    group,
    topic,
    partition,
    to,
    force
});
wire_struct!(ReadKey {
    topic,
    key,
    from,
    limit
});
wire_struct!(GroupSpec {
    group,
    topic,
    member,
    start,
    order,
    lease,
    max_attempts,
    max_dead,
    dead_age,
    gap,
    handover,
    dead_topic,
    after_dead,
});

impl Wire for Expected {
    fn put(&self, out: &mut Out) {
        match self {
            Expected::Any => 0u8.put(out),
            Expected::Position(position) => {
                1u8.put(out);
                position.put(out);
            }
            Expected::KeyVersion(version) => {
                2u8.put(out);
                version.put(out);
            }
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => Expected::Any,
            1 => Expected::Position(Wire::get(input)?),
            2 => Expected::KeyVersion(Wire::get(input)?),
            _ => return Err(malformed("unknown expectation")),
        })
    }
}

impl Wire for Start {
    fn put(&self, out: &mut Out) {
        match self {
            Start::Earliest => 0u8.put(out),
            Start::Latest => 1u8.put(out),
            Start::At(position) => {
                2u8.put(out);
                position.put(out);
            }
            Start::Time(time) => {
                3u8.put(out);
                time.put(out);
            }
            Start::Last(count) => {
                4u8.put(out);
                count.put(out);
            }
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => Start::Earliest,
            1 => Start::Latest,
            2 => Start::At(Wire::get(input)?),
            3 => Start::Time(Wire::get(input)?),
            4 => Start::Last(Wire::get(input)?),
            _ => return Err(malformed("unknown start")),
        })
    }
}

impl Wire for Order {
    fn put(&self, out: &mut Out) {
        (*self == Order::Free).put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(if bool::get(input)? {
            Order::Free
        } else {
            Order::Key
        })
    }
}

impl Wire for AfterDead {
    fn put(&self, out: &mut Out) {
        (*self == AfterDead::HoldKey).put(out);
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(if bool::get(input)? {
            AfterDead::HoldKey
        } else {
            AfterDead::Continue
        })
    }
}

impl<T: Wire> Wire for Override<T> {
    fn put(&self, out: &mut Out) {
        match self {
            Override::Keep => 0u8.put(out),
            Override::Set(value) => {
                1u8.put(out);
                value.put(out);
            }
            Override::Lift => 2u8.put(out),
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => Override::Keep,
            1 => Override::Set(Wire::get(input)?),
            2 => Override::Lift,
            _ => return Err(malformed("unknown change of a setting")),
        })
    }
}

impl Wire for Waits {
    fn put(&self, out: &mut Out) {
        match self {
            Waits::Paused => 0u8.put(out),
            Waits::NoMember => 1u8.put(out),
            Waits::TooManyDead => 2u8.put(out),
            Waits::Suspect(stuck) => {
                3u8.put(out);
                stuck.put(out);
            }
            Waits::Gap(stuck) => {
                4u8.put(out);
                stuck.put(out);
            }
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => Waits::Paused,
            1 => Waits::NoMember,
            2 => Waits::TooManyDead,
            3 => Waits::Suspect(Wire::get(input)?),
            4 => Waits::Gap(Wire::get(input)?),
            _ => return Err(malformed("unknown reason to wait")),
        })
    }
}

impl Wire for Standing {
    fn put(&self, out: &mut Out) {
        match self {
            Standing::Settled => 0u8.put(out),
            Standing::Dead(number) => {
                1u8.put(out);
                number.put(out);
            }
            Standing::Ahead => 2u8.put(out),
            Standing::Unsettled(stuck) => {
                3u8.put(out);
                stuck.put(out);
            }
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => Standing::Settled,
            1 => Standing::Dead(Wire::get(input)?),
            2 => Standing::Ahead,
            3 => Standing::Unsettled(Wire::get(input)?),
            _ => return Err(malformed("unknown standing of a group")),
        })
    }
}

impl Wire for StuckOn {
    fn put(&self, out: &mut Out) {
        match self {
            StuckOn::Member => 0u8.put(out),
            StuckOn::Turn => 1u8.put(out),
            StuckOn::Retry { next, reason } => {
                2u8.put(out);
                next.put(out);
                reason.put(out);
            }
            StuckOn::DeadLetter(number) => {
                3u8.put(out);
                number.put(out);
            }
        }
    }
    fn get(input: &mut In) -> Result<Self> {
        Ok(match u8::get(input)? {
            0 => StuckOn::Member,
            1 => StuckOn::Turn,
            2 => StuckOn::Retry {
                next: Wire::get(input)?,
                reason: Wire::get(input)?,
            },
            3 => StuckOn::DeadLetter(Wire::get(input)?),
            _ => return Err(malformed("unknown thing to wait for")),
        })
    }
}

/// Extends leases.
#[derive(Debug)]
pub(crate) struct Extend {
    pub(crate) fences: Vec<strait_core::Fence>,
    pub(crate) by: Duration,
}
wire_struct!(Extend { fences, by });
