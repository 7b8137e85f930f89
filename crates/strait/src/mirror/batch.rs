//! From what was read to batches that can be appended elsewhere, without a change to any message.

use bytes::Bytes;
use strait_core::{
    Attr, Batch, Chunk, Item, Limits, NewRecord, Record, Records, RecordsBuilder, Result, Timestamp,
};
use uuid::Uuid;

/// Batches below this size on average are put together: an append each would cost more than what they hold.
const SMALL: usize = 4 << 10;
/// What is put together is closed at this size.
const BATCH_BYTES: usize = 1 << 20;

/// The messages of a chunk behind the first `skip`, as batches. Whole batches stay the bytes that they are.
pub(super) fn batches(chunk: &Chunk, skip: usize, limits: &Limits) -> Result<Vec<Records>> {
    let whole = if skip == 0 {
        as_they_are(chunk, limits)
    } else {
        None
    };
    whole.map_or_else(|| put_together(chunk, skip, limits), Ok)
}

fn as_they_are(chunk: &Chunk, limits: &Limits) -> Option<Vec<Records>> {
    let spans = chunk.spans();
    let mut bytes = 0;
    let mut found = Vec::with_capacity(spans.len());
    for span in spans {
        let batch = batch_at(chunk.buffer(), span.at)?;
        let is_whole = span.skip == 0 && span.take as usize == batch.len();
        if !is_whole || batch.bytes().len() > limits.batch {
            return None;
        }
        bytes += batch.bytes().len();
        let at = span.at as usize;
        let shared = chunk.buffer().slice(at..at + batch.bytes().len());
        // One that compaction has thinned out is no batch any more.
        found.push(Records::decode(shared).ok()?);
    }
    (found.len() < 2 || bytes / found.len() >= SMALL).then_some(found)
}

fn batch_at(buffer: &Bytes, at: u32) -> Option<Batch<'_>> {
    Batch::peek(buffer.get(at as usize..)?).ok()
}

/// Copies the messages into new batches. An id that a message had from its batch becomes its own.
fn put_together(chunk: &Chunk, skip: usize, limits: &Limits) -> Result<Vec<Records>> {
    let shared = shared_attrs(chunk);
    let mut done = Vec::new();
    let mut open: Option<RecordsBuilder> = None;
    for item in chunk.iter().skip(skip) {
        let record = item.record();
        let full = |batch: &mut RecordsBuilder| batch.bytes() + record.size() > BATCH_BYTES;
        if let Some(batch) = open.take_if(full) {
            done.push(batch.build());
        }
        let batch = match &mut open {
            Some(batch) => batch,
            None => open.insert(begin(&shared, limits, &item)?),
        };
        push(batch, &record, !shared.is_empty())
            .map_err(|e| e.with("position", item.position()))?;
    }
    done.extend(open.map(RecordsBuilder::build));
    Ok(done)
}

fn begin(shared: &[(Attr, &str)], limits: &Limits, first: &Item<'_>) -> Result<RecordsBuilder> {
    let time: Timestamp = first.record().time();
    RecordsBuilder::with(shared, *limits, time, Uuid::now_v7().as_u128())
}

fn push(batch: &mut RecordsBuilder, record: &Record<'_>, hoisted: bool) -> Result<()> {
    let id = record.id().to_string();
    let of_its_own = |attr: &(Attr, &str)| attr.0 != Attr::Id;
    let mut attrs: Vec<(Attr, &str)> = if hoisted {
        record.own_attrs().filter(of_its_own).collect()
    } else {
        record.attrs().filter(of_its_own).collect()
    };
    attrs.push((Attr::Id, &id));
    let headers: Vec<(&str, &[u8])> = record.headers().collect();
    batch.push(NewRecord {
        key: record.key(),
        body: record.body(),
        headers: &headers,
        time: Some(record.time()),
        attrs: &attrs,
    })
}

/// What every batch of the chunk says of all its messages; nothing when they differ.
fn shared_attrs(chunk: &Chunk) -> Vec<(Attr, &str)> {
    let of = |at: u32| -> Vec<(Attr, &str)> {
        let Some(batch) = batch_at(chunk.buffer(), at) else {
            return Vec::new();
        };
        let told = Attr::ALL.into_iter().filter(|attr| *attr != Attr::Id);
        told.filter_map(|attr| Some((attr, batch.attr(attr)?)))
            .collect()
    };
    let mut all = chunk.spans().iter().map(|span| of(span.at));
    let first = all.next().unwrap_or_default();
    if all.all(|attrs| attrs == first) {
        first
    } else {
        Vec::new()
    }
}
