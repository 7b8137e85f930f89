//! From a file into an engine: the end of a mirror whose source is the file.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use strait_core::events::TopicInfo;
use strait_core::{Name, Result};

use super::file::{EndFrame, Frame, Reader, SourceFrame, Tag, TopicFrame, damaged};
use super::sink::{Place, Sink};
use super::{MirroredTopic, make_topic};
use crate::open::Strait;

/// Reads what [`export`](super::export) wrote. Topics are made where they are missing.
///
/// It is a mirror whose source is the file: what was imported before is passed over, so that an import that ended early is
/// repeated, and a later export of the same engine brings what is new. A [`Mirror`](super::Mirror) of that engine goes on
/// where the file ends. Reading blocks the thread that polls.
///
/// # Errors
///
/// `Rejected` for what is no such file, `Corrupt` for one that ends early or has a changed byte, with the place: what stands
/// in front of it is imported. `Conflict` as for a mirror, and what the engine says.
pub async fn import(to: &Strait, from: &mut (dyn Read + Send)) -> Result<Vec<MirroredTopic>> {
    to.one_engine()?;
    let mut file = Reader::open(from)?;
    let first = file.frame()?;
    if first.tag != Tag::Source {
        return Err(damaged(first.at, "it does not say where it comes from"));
    }
    let source: SourceFrame = first.json()?;
    let mut import = Import {
        to: to.clone(),
        source: source.engine.into(),
        names: Vec::new(),
        states: Vec::new(),
        imported: Vec::new(),
        sinks: HashMap::new(),
        messages: 0,
    };
    loop {
        let frame = file.frame()?;
        match frame.tag {
            Tag::Topic => import.topic(&frame).await?,
            Tag::Records => import.records(&frame).await?,
            Tag::End => return import.end(&frame),
            Tag::Source => return Err(damaged(frame.at, "it says twice where it comes from")),
        }
    }
}

struct Import {
    to: Strait,
    source: Arc<str>,
    names: Vec<Name>,
    states: Vec<Name>,
    imported: Vec<MirroredTopic>,
    sinks: HashMap<(usize, u32), Sink>,
    /// Messages of the file.
    messages: u64,
}

impl Import {
    async fn topic(&mut self, frame: &Frame) -> Result<()> {
        let told: TopicFrame = frame.json()?;
        let name = Name::new(&told.topic)?;
        let info = TopicInfo {
            name: name.clone(),
            retention: told.retention(),
            key_versions: false,
            dedupe_window: std::time::Duration::ZERO,
            compaction: told.compaction(),
            partitions: vec![Default::default(); told.partitions as usize],
        };
        let lane = self.to.events_lane()?.clone();
        if told.partitions == 0 || told.partitions > lane.caps().max_partitions {
            return Err(damaged(
                frame.at,
                "a topic has an impossible number of partitions",
            ));
        }
        self.states.push(make_topic(&lane, &info).await?);
        self.names.push(name.clone());
        self.imported.push(MirroredTopic {
            topic: name,
            partitions: told.partitions,
            messages: 0,
            total: 0,
        });
        Ok(())
    }

    async fn records(&mut self, frame: &Frame) -> Result<()> {
        let (topic, chunk, positions) = frame.records(&self.names)?;
        self.messages += chunk.len() as u64;
        let sink = match self.sinks.entry((topic, chunk.partition())) {
            std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let place = Place {
                    engine: self.to.engine().clone(),
                    lane: self.to.events_lane()?.clone(),
                    topic: self.names[topic].clone(),
                    state: self.states[topic].clone(),
                    partition: chunk.partition(),
                    source: self.source.clone(),
                };
                let sink = Sink::open(place).await?;
                self.imported[topic].total += sink.total();
                new.insert(sink)
            }
        };
        let passed = match sink.next() {
            Some(next) => positions.partition_point(|position| *position < next),
            None => 0,
        };
        if passed == chunk.len() {
            return Ok(());
        }
        sink.put(&chunk, passed).await?;
        let new = (chunk.len() - passed) as u64;
        self.imported[topic].messages += new;
        self.imported[topic].total += new;
        Ok(())
    }

    fn end(self, frame: &Frame) -> Result<Vec<MirroredTopic>> {
        let end: EndFrame = frame.json()?;
        if end.messages != self.messages {
            return Err(damaged(
                frame.at,
                "it holds another number of messages than it says",
            ));
        }
        Ok(self.imported)
    }
}
