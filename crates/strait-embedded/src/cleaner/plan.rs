//! What is worth cleaning.
//!
//! A segment of which at most half is live is emptied: copying costs at most what it gives back, so that a body is written
//! less than twice on average. That waits until as much is dead as is live: most of what would be copied earlier expires
//! by itself meanwhile, and the log takes at most about twice what is live. A partition that is compacted is gone over when at least half of it was not before.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::compact::Compact;
use crate::disk::cleaned::{is_cleaned, parts_of};
use crate::extents::{COMPACTED, Span, Stream, StreamId};
use crate::ops::TopicSettings;
use crate::shared::Shared;
use crate::state::State;
use crate::state::topic::Topic;

/// Classes of streams beside [`COMPACTED`]: what is never deleted, what is by size, dead letters, and, from `BY_AGE` on,
/// ages by powers of two.
const KEPT: u8 = 0;
const BY_SIZE: u8 = 2;
const DEAD: u8 = 3;
const BY_AGE: u8 = 16;
/// Cleaned segments below this part of a full one are merged when there are so many of a class.
const SMALL: u64 = 8;
const MANY: usize = 16;

/// A range of a stream that is copied into a cleaned segment.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) stream: StreamId,
    pub(super) class: u8,
    /// They follow each other.
    pub(super) sources: Vec<Span>,
    /// The earliest offset that the stream had left.
    pub(super) start: u64,
    /// The operations hold versions of keys.
    pub(super) versions: bool,
    pub(super) compact: Option<Compact>,
}

impl Move {
    pub(super) fn first(&self) -> u64 {
        self.sources.first().map_or(0, |span| span.first)
    }

    pub(super) fn end(&self) -> u64 {
        self.sources.last().map_or(0, |span| span.end)
    }
}

/// The next job: compaction, or segments to empty, whichever is there; both are looked for, one of them first. Segments
/// before `indexed_to` have their index.
pub(super) fn plan(
    shared: &Shared,
    indexed_to: u64,
    damaged: &HashSet<u64>,
    compaction_first: bool,
) -> Vec<Move> {
    let empty = || evacuations(shared, indexed_to, damaged);
    let mut moves = if compaction_first {
        compactions(shared, damaged)
    } else {
        empty()
    };
    if moves.is_empty() {
        moves = if compaction_first {
            empty()
        } else {
            compactions(shared, damaged)
        };
    }
    moves.sort_by_key(|this| (this.class, this.stream, this.first()));
    moves
}

/// What is live in the segments to empty.
fn evacuations(shared: &Shared, indexed_to: u64, damaged: &HashSet<u64>) -> Vec<Move> {
    let mut moves = Vec::new();
    let victims = victims(shared, indexed_to, damaged);
    if !victims.is_empty() {
        shared.each_stream(|state, id, stream| {
            moves.extend(moves_of(state, id, stream, &victims));
        });
    }
    moves
}

/// Segments to empty.
fn victims(shared: &Shared, indexed_to: u64, damaged: &HashSet<u64>) -> HashSet<u64> {
    let mut live: HashMap<u64, u64> = HashMap::new();
    shared.each_stream(|_, _, stream| {
        for span in &stream.spans {
            *live.entry(span.segment).or_default() += span.bytes;
        }
    });
    let is_finished = |id: u64| is_cleaned(id) || id < indexed_to;
    // What has nothing live needs no copy: the next checkpoint gives it back.
    let found: Vec<(u64, u64, u64)> = shared
        .pool
        .segments()
        .into_iter()
        .filter(|segment| is_finished(segment.id) && !damaged.contains(&segment.id))
        .filter_map(|segment| Some((*live.get(&segment.id)?, segment.len, segment.id)))
        .collect();
    let live: u64 = found.iter().map(|(live, ..)| live).sum();
    let all: u64 = found.iter().map(|(_, len, _)| len).sum();
    let is_much_dead = all.saturating_sub(live) >= live.max(shared.options.segment_bytes);
    let small = shared.options.segment_bytes / SMALL;
    let mut classes: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
    for (_, _, id) in found.iter().filter(|(_, len, _)| *len < small) {
        if is_cleaned(*id) {
            classes.entry(parts_of(*id).0).or_default().push(*id);
        }
    }
    if let Some(merged) = classes.into_values().find(|ids| ids.len() >= MANY) {
        return merged.into_iter().collect();
    }
    if !is_much_dead {
        return HashSet::new();
    }
    let mut half: Vec<_> = found
        .into_iter()
        .filter(|(live, len, id)| live * 2 <= *len && (!is_cleaned(*id) || *len >= small))
        .collect();
    half.sort_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)));
    let mut bytes = 0;
    let fits = |(live, _, id): (u64, u64, u64)| {
        bytes += live;
        (bytes <= shared.options.segment_bytes).then_some(id)
    };
    half.into_iter().map_while(fits).collect()
}

/// What a stream has in the victims, in ranges that follow each other.
fn moves_of(state: &State, id: StreamId, stream: &Stream, victims: &HashSet<u64>) -> Vec<Move> {
    let mut moves: Vec<Move> = Vec::new();
    let mut last = None;
    for span in &stream.spans {
        if !victims.contains(&span.segment) {
            continue;
        }
        if let (Some(this), Some(end)) = (moves.last_mut(), last)
            && end == span.first
        {
            this.sources.push(*span);
        } else {
            moves.push(new_move(state, id, stream, vec![*span]));
        }
        last = Some(span.end);
    }
    for this in &mut moves {
        if this.sources.iter().any(Span::is_sparse) {
            this.class = COMPACTED;
        }
    }
    moves
}

fn new_move(state: &State, stream: StreamId, of: &Stream, sources: Vec<Span>) -> Move {
    let topic = stream
        .as_partition()
        .and_then(|(t, _)| state.topics.get(&t));
    Move {
        stream,
        class: topic.map_or(DEAD, |topic| class_of(&topic.settings)),
        sources,
        start: of.start,
        versions: topic.is_some_and(|topic| topic.settings.key_versions),
        compact: None,
    }
}

fn class_of(settings: &TopicSettings) -> u8 {
    match (settings.retention_ms, settings.retention_bytes) {
        _ if settings.compaction.is_some() => COMPACTED,
        (Some(ms), _) => BY_AGE + ms.max(1).ilog2() as u8,
        (None, Some(_)) => BY_SIZE,
        (None, None) => KEPT,
    }
}

/// Partitions to go over by key.
fn compactions(shared: &Shared, damaged: &HashSet<u64>) -> Vec<Move> {
    let now = shared.clock.now().wall;
    let mut moves = Vec::new();
    let mut bytes = 0;
    shared.each_stream(|state, id, stream| {
        let Some((topic, partition)) = id.as_partition() else {
            return;
        };
        let Some(topic) = state.topics.get(&topic) else {
            return;
        };
        if bytes >= shared.options.segment_bytes {
            return;
        }
        if let Some(this) = compaction_of(state, topic, partition, stream, now)
            && !this.sources.iter().any(|s| damaged.contains(&s.segment))
        {
            bytes += this.sources.iter().map(|span| span.bytes).sum::<u64>();
            moves.push(this);
        }
    });
    moves
}

fn compaction_of(
    state: &State,
    topic: &Topic,
    partition: u32,
    stream: &Stream,
    now: i64,
) -> Option<Move> {
    let settings = topic.settings.compaction?;
    let before = |ms: u64| now.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX));
    let young = before(settings.min_lag_ms);
    let groups = topic.groups.iter().filter_map(|id| state.groups.get(id));
    let needed = groups.filter_map(|g| g.needed_from(partition as usize));
    let needed = needed.min().unwrap_or(u64::MAX);
    let is_old = |span: &&Span| span.time <= young && span.end <= needed;
    let sources: Vec<Span> = stream.spans.iter().take_while(is_old).copied().collect();
    let compacted = topic.partitions.get(partition as usize)?.compacted;
    let dirty: Vec<Span> = sources
        .iter()
        .filter(|span| span.end > compacted && !span.is_hollow())
        .copied()
        .collect();
    let all: u64 = sources.iter().map(|span| span.bytes).sum();
    let of_dirty: u64 = dirty.iter().map(|span| span.bytes).sum();
    if of_dirty == 0 || of_dirty * 2 < all {
        return None;
    }
    let mut this = new_move(
        state,
        StreamId::partition(topic.id, partition),
        stream,
        sources,
    );
    this.class = COMPACTED;
    this.compact = Some(Compact {
        dirty,
        from: compacted,
        tombstones_before: before(settings.tombstones_ms),
    });
    Some(this)
}
