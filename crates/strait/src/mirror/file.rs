//! Topics in a file.
//!
//! # Layout, version 1 (little endian)
//!
//! ```text
//! file     "strait export 1\n" | frames: one `source`, one `topic` for each, `records` .., one `end`
//! frame    length u32 of what follows the checksum | crc32c u32 of it | tag u8 | content
//! source   JSON: the engine, and when
//! topic    JSON: name, partitions, what it keeps
//! records  topic u16 (by order) | partition u32 | count u32 | next position u128
//!          | position u128 of each message | batches in the layout of `strait_core::records`, one behind the other
//! end      JSON: the number of messages
//! ```
//!
//! A file without its end, or with a changed byte, is recognized. What stands in front of it is whole.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use strait_core::events::{Compaction, Cursor, Events, Retention, Start, TopicInfo};
use strait_core::{
    Batch, Chunk, Error, Kind, Limits, Name, Position, Result, Span, Timestamp, crc32c,
};

use super::batch::batches;
use crate::open::Strait;

pub(super) const FIRST_LINE: &[u8; 16] = b"strait export 1\n";
const FRAME_HEAD: usize = 8;
/// No frame is longer: a chunk has about a mebibyte, or one message.
const FRAME_MAX: usize = 1 << 30;
const CHUNK_BYTES: usize = 1 << 20;
const WAIT: std::time::Duration = std::time::Duration::from_secs(3);

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tag {
    Source = b'S',
    Topic = b'T',
    Records = b'R',
    End = b'E',
}

impl Tag {
    fn of(byte: u8) -> Option<Self> {
        [Tag::Source, Tag::Topic, Tag::Records, Tag::End]
            .into_iter()
            .find(|tag| *tag as u8 == byte)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SourceFrame {
    pub(super) engine: String,
    pub(super) exported_ms: i64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TopicFrame {
    pub(super) topic: String,
    pub(super) partitions: u32,
    pub(super) keep_age_ms: Option<u64>,
    pub(super) keep_bytes: Option<u64>,
    pub(super) compact: Option<CompactFrame>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CompactFrame {
    min_lag_ms: u64,
    tombstones_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EndFrame {
    pub(super) messages: u64,
}

fn millis(of: std::time::Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}

impl TopicFrame {
    fn of(info: &TopicInfo) -> Self {
        TopicFrame {
            topic: info.name.to_string(),
            partitions: info.partitions.len() as u32,
            keep_age_ms: info.retention.age.map(millis),
            keep_bytes: info.retention.bytes,
            compact: info.compaction.map(|compaction| CompactFrame {
                min_lag_ms: millis(compaction.min_lag),
                tombstones_ms: millis(compaction.tombstones),
            }),
        }
    }

    pub(super) fn retention(&self) -> Retention {
        Retention {
            age: self.keep_age_ms.map(std::time::Duration::from_millis),
            bytes: self.keep_bytes,
        }
    }

    pub(super) fn compaction(&self) -> Option<Compaction> {
        let compact = self.compact.as_ref()?;
        Some(Compaction {
            min_lag: std::time::Duration::from_millis(compact.min_lag_ms),
            tombstones: std::time::Duration::from_millis(compact.tombstones_ms),
        })
    }
}

/// A topic that was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The topic.
    pub topic: Name,
    /// Its partitions.
    pub partitions: u32,
    /// Messages written.
    pub messages: u64,
}

/// Writes topics to a file: each partition up to what is its end when the topic is begun, with everything that a message
/// carries. Groups and their dead letters are not in it.
///
/// The layout is that of batches of [`strait_core::records`], in frames with checksums; [`import`](super::import) reads it.
/// Writing blocks the thread that polls.
///
/// # Errors
///
/// `NotFound` for a topic that does not exist, what the engine says, and errors of `to`.
pub async fn export(
    from: &Strait,
    topics: &[Name],
    to: &mut (dyn Write + Send),
) -> Result<Vec<Exported>> {
    let lane = from.one_engine()?.events_lane()?.clone();
    let mut file = Writer { to };
    // All of them exist, or nothing is written.
    let mut infos = Vec::new();
    for topic in topics {
        infos.push(lane.topic(topic.clone()).await?);
    }
    file.write(FIRST_LINE)?;
    let source = SourceFrame {
        engine: from.engine().id().to_string(),
        exported_ms: Timestamp::now().as_millis(),
    };
    file.json(Tag::Source, &source)?;
    for info in &infos {
        file.json(Tag::Topic, &TopicFrame::of(info))?;
    }
    let mut exported = Vec::new();
    for (index, info) in (0..).zip(&infos) {
        let mut messages = 0;
        for partition in 0..info.partitions.len() as u32 {
            messages += file.partition(&lane, index, &info.name, partition).await?;
        }
        exported.push(Exported {
            topic: info.name.clone(),
            partitions: info.partitions.len() as u32,
            messages,
        });
    }
    let messages = exported.iter().map(|topic| topic.messages).sum();
    file.json(Tag::End, &EndFrame { messages })?;
    file.to.flush().map_err(not_written)?;
    Ok(exported)
}

struct Writer<'a> {
    to: &'a mut (dyn Write + Send),
}

impl Writer<'_> {
    async fn partition(
        &mut self,
        lane: &Arc<dyn Events>,
        index: u16,
        topic: &Name,
        partition: u32,
    ) -> Result<u64> {
        let at = |start| lane.locate(topic.clone(), partition, start);
        let mut position = at(Start::Earliest).await?;
        let end = at(Start::Latest).await?;
        let mut messages = 0;
        while position < end {
            let cursor = Cursor {
                topic: topic.clone(),
                partition,
                position,
                wait: WAIT,
            };
            let chunk = lane.read(cursor, CHUNK_BYTES).await?;
            if chunk.is_empty() && chunk.next() <= position {
                break;
            }
            position = chunk.next();
            if !chunk.is_empty() {
                self.frame(Tag::Records, &records_frame(index, &chunk)?)?;
            }
            messages += chunk.len() as u64;
        }
        Ok(messages)
    }

    fn json(&mut self, tag: Tag, content: &impl Serialize) -> Result<()> {
        let content = serde_json::to_vec(content).map_err(|error| {
            Error::new(
                Kind::Unexpected,
                format!("a frame cannot be written: {error}"),
            )
        })?;
        self.frame(tag, &content)
    }

    fn frame(&mut self, tag: Tag, content: &[u8]) -> Result<()> {
        let mut frame = Vec::with_capacity(FRAME_HEAD + 1 + content.len());
        frame.extend([0; FRAME_HEAD]);
        frame.push(tag as u8);
        frame.extend_from_slice(content);
        let length = u32::try_from(frame.len() - FRAME_HEAD).ok();
        let length = length.filter(|length| *length as usize <= FRAME_MAX);
        let length = length.ok_or_else(|| {
            Error::new(Kind::Rejected, "a message is too large for an export file")
        })?;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c(&frame[FRAME_HEAD..]);
        frame[4..FRAME_HEAD].copy_from_slice(&crc.to_le_bytes());
        self.write(&frame)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(not_written)
    }
}

fn not_written(error: io::Error) -> Error {
    Error::io("the export file", error)
}

fn records_frame(topic: u16, chunk: &Chunk) -> Result<Vec<u8>> {
    // Nothing that an engine holds is refused by its size here.
    let limits = Limits {
        body: usize::MAX,
        key: usize::MAX,
        headers: usize::MAX,
        batch: FRAME_MAX,
    };
    let records = batches(chunk, 0, &limits)?;
    let mut content = Vec::new();
    content.extend(topic.to_le_bytes());
    content.extend(chunk.partition().to_le_bytes());
    content.extend((chunk.len() as u32).to_le_bytes());
    put_position(&mut content, chunk.next());
    for item in chunk.iter() {
        put_position(&mut content, item.position());
    }
    for records in records {
        content.extend_from_slice(records.bytes());
    }
    Ok(content)
}

fn put_position(content: &mut Vec<u8>, position: Position) {
    let (high, low) = position.parts();
    content.extend((u128::from(high) << 64 | u128::from(low)).to_le_bytes());
}

/// Reads a file frame by frame.
pub(super) struct Reader<'a> {
    from: &'a mut (dyn Read + Send),
    /// Bytes read.
    at: u64,
}

/// A frame that was read and is whole.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) tag: Tag,
    pub(super) content: Bytes,
    /// The byte of the file at which it begins.
    pub(super) at: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn open(from: &'a mut (dyn Read + Send)) -> Result<Self> {
        let mut reader = Reader { from, at: 0 };
        let mut line = [0; FIRST_LINE.len()];
        let got = reader.fill(&mut line)?;
        if got < line.len() || line != *FIRST_LINE {
            return Err(Error::new(
                Kind::Rejected,
                "this is no file of `strait export`, or of a version that this build does not read",
            )
            .next("give it what `strait export` wrote"));
        }
        Ok(reader)
    }

    pub(super) fn frame(&mut self) -> Result<Frame> {
        let at = self.at;
        let mut head = [0; FRAME_HEAD];
        let got = self.fill(&mut head)?;
        let u32_at =
            |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let (length, crc) = (u32_at(0) as usize, u32_at(4));
        if got < FRAME_HEAD {
            return Err(ends_early(at));
        }
        if length == 0 || length > FRAME_MAX {
            return Err(damaged(at, "a frame has an impossible length"));
        }
        // Grows as bytes come: a length that lies takes no memory.
        let mut bytes = Vec::new();
        let read = self.from.take(length as u64).read_to_end(&mut bytes);
        self.at += read.map_err(not_read)? as u64;
        if bytes.len() < length {
            return Err(ends_early(at));
        }
        if crc32c(&bytes) != crc {
            return Err(damaged(at, "the checksum of a frame differs"));
        }
        let tag = Tag::of(bytes[0]).ok_or_else(|| damaged(at, "a frame is of no known kind"))?;
        Ok(Frame {
            tag,
            content: Bytes::from(bytes).slice(1..),
            at,
        })
    }

    /// Fewer bytes than there is room for only at the end.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize> {
        let mut got = 0;
        while got < into.len() {
            match self.from.read(&mut into[got..]) {
                Ok(0) => break,
                Ok(count) => got += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(not_read(error)),
            }
        }
        self.at += got as u64;
        Ok(got)
    }
}

impl Frame {
    pub(super) fn json<'de, T: Deserialize<'de>>(&'de self) -> Result<T> {
        serde_json::from_slice(&self.content)
            .map_err(|error| damaged(self.at, &format!("a frame cannot be read: {error}")))
    }

    /// The messages of a frame of records, each with its position; the number of its topic comes first.
    pub(super) fn records(&self, names: &[Name]) -> Result<(usize, Chunk, Vec<Position>)> {
        let bad = || damaged(self.at, "its records do not fit together");
        let mut content = self.content.clone();
        let mut take = |bytes: usize| -> Result<Bytes> {
            if content.len() < bytes {
                return Err(bad());
            }
            Ok(content.split_to(bytes))
        };
        let topic = usize::from(u16::from_le_bytes(fixed(&take(2)?)));
        let partition = u32::from_le_bytes(fixed(&take(4)?));
        let count = u32::from_le_bytes(fixed(&take(4)?)) as usize;
        let next = get_position(&take(16)?);
        let listed = take(count.checked_mul(16).ok_or_else(bad)?)?;
        let positions: Vec<Position> = listed.chunks_exact(16).map(get_position).collect();
        let name = names.get(topic).ok_or_else(bad)?;
        let spans = spans(&content, &positions).ok_or_else(bad)?;
        let chunk = Chunk::new(name.shared(), partition, content, spans, next);
        if chunk.len() != count || chunk.iter().count() != count {
            return Err(bad());
        }
        Ok((topic, chunk, positions))
    }
}

/// One span for each batch. Positions within a batch are those that its first one gives; the list has the true ones.
fn spans(buffer: &Bytes, positions: &[Position]) -> Option<Vec<Span>> {
    let mut spans = Vec::new();
    let (mut at, mut index) = (0, 0);
    while at < buffer.len() {
        let batch = Batch::check(&buffer[at..]).ok()?;
        let take = u32::try_from(batch.len()).ok()?;
        spans.push(Span {
            at: u32::try_from(at).ok()?,
            first: *positions.get(index)?,
            skip: 0,
            take,
            appended: batch.greatest_time(),
        });
        at += batch.bytes().len();
        index += take as usize;
    }
    Some(spans)
}

fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut fixed = [0; N];
    fixed.copy_from_slice(bytes);
    fixed
}

fn get_position(bytes: &[u8]) -> Position {
    let both = u128::from_le_bytes(fixed(bytes));
    Position::of_parts((both >> 64) as u64, both as u64)
}

fn not_read(error: io::Error) -> Error {
    Error::io("the export file", error)
}

fn ends_early(at: u64) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("the export file ends at byte {at}, before its end"),
    )
    .next("import the whole file: what came already is passed over")
}

pub(super) fn damaged(at: u64, why: &str) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("the export file is damaged at byte {at}: {why}"),
    )
    .next("take another copy of the file, or export again: what came already is passed over")
}
