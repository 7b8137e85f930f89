//! Reading a topic without a group: first up to the end as seen at the start, then what comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use strait::core::events::{Cursor, Events, Start, TopicInfo};
use strait::core::{Chunk, Fut, Message, Name, Position, Result};

use super::consume::{ConsumeArgs, Printer};
use super::render::Seen;
use crate::fail::{Failure, Outcome};
use crate::start::Place;
use crate::target::Target;

/// Bytes asked for at once.
const READ_BYTES: usize = 256 << 10;
/// How long one read waits at the end of a partition: long, since an arrival ends it at once.
const WAIT: Duration = Duration::from_secs(30);

/// Runs it.
pub(super) async fn run(args: &ConsumeArgs, target: &Target, printer: &mut Printer) -> Outcome {
    let topic = target.topic(&args.topic).await?;
    let Place(start) = args.offset.unwrap_or(Place(Start::Earliest));
    let mut shards = Vec::new();
    for (number, partition) in chosen(args, &topic)? {
        let name = args.topic.clone();
        let next = match start {
            Start::At(position) => position,
            other => target.events.locate(name, number, other).await?,
        };
        shards.push(Shard {
            number,
            next,
            end: partition.end,
            ready: VecDeque::new(),
        });
    }
    let mut reader = Reader {
        events: target.events.clone(),
        topic: args.topic.clone(),
        shards,
    };
    reader.catch_up(printer).await?;
    if args.until_end || printer.left() == 0 {
        return Ok(());
    }
    printer.send().await?;
    reader.follow(printer, args.partition.is_none()).await
}

fn chosen(
    args: &ConsumeArgs,
    topic: &TopicInfo,
) -> Outcome<Vec<(u32, strait::core::events::PartitionInfo)>> {
    let all = topic.partitions.iter().copied();
    let chosen: Vec<_> = (0..)
        .zip(all)
        .filter(|(number, _)| args.partition.is_none_or(|only| only == *number))
        .collect();
    if chosen.is_empty() {
        return Err(Failure::usage(format!(
            "topic `{}` has {} partitions, numbered from 0: there is no partition {}",
            topic.name,
            topic.partitions.len(),
            args.partition.unwrap_or_default()
        )));
    }
    Ok(chosen)
}

/// One partition.
#[derive(Debug)]
struct Shard {
    number: u32,
    next: Position,
    /// The end as seen at the start.
    end: Position,
    ready: VecDeque<Message>,
}

#[derive(Debug)]
struct Reader {
    events: Arc<dyn Events>,
    topic: Name,
    shards: Vec<Shard>,
}

impl Reader {
    /// Prints everything up to the end as seen at the start, oldest first over the partitions.
    async fn catch_up(&mut self, printer: &mut Printer) -> Outcome {
        while printer.left() > 0 {
            for at in 0..self.shards.len() {
                self.fill(at).await?;
            }
            let heads = self.shards.iter_mut();
            let oldest = heads
                .filter(|shard| !shard.ready.is_empty())
                .min_by_key(|shard| shard.ready.front().map(Message::appended));
            let Some(shard) = oldest else {
                break;
            };
            if let Some(message) = shard.ready.pop_front() {
                printer.print(seen(&message));
            }
            if printer.is_full() {
                printer.send().await?;
            }
        }
        Ok(())
    }

    /// Reads on where a partition has nothing ready and has not reached its end.
    async fn fill(&mut self, at: usize) -> Outcome {
        let shard = &mut self.shards[at];
        while shard.ready.is_empty() && shard.next < shard.end {
            let cursor = Cursor {
                topic: self.topic.clone(),
                partition: shard.number,
                position: shard.next,
                wait: Duration::ZERO,
            };
            let chunk = self.events.read(cursor, READ_BYTES).await?;
            if chunk.is_empty() {
                // The end that was seen is no longer there to be read: nothing more comes before it.
                shard.end = shard.next;
                break;
            }
            shard.next = chunk.next().min(shard.end);
            let end = shard.end;
            let before_end = chunk.iter().take_while(|item| item.position() < end);
            shard.ready.extend(before_end.map(|item| item.to_message()));
        }
        Ok(())
    }

    /// Prints what comes. Each partition has one read waiting in the engine.
    async fn follow(&mut self, printer: &mut Printer, all_partitions: bool) -> Outcome {
        let mut waiting: FuturesUnordered<Fut<(u32, Result<Chunk>)>> = self
            .shards
            .iter()
            .map(|shard| self.wait(shard.number, shard.next))
            .collect();
        let mut partitions = self.shards.len() as u32;
        while printer.left() > 0 {
            let Some((number, chunk)) = waiting.next().await else {
                return Ok(());
            };
            let chunk = chunk?;
            waiting.push(self.wait(number, chunk.next()));
            for item in chunk.iter() {
                printer.print(Seen {
                    topic: chunk.topic(),
                    partition: number,
                    position: item.position(),
                    record: item.record(),
                });
            }
            if !chunk.is_empty() {
                printer.send().await?;
            } else if all_partitions {
                // Partitions may have been added; a quiet moment is the time to look.
                let now = self.events.topic(self.topic.clone()).await?;
                for added in partitions..now.partitions.len() as u32 {
                    waiting.push(self.wait(added, Position::at(0)));
                }
                partitions = partitions.max(now.partitions.len() as u32);
            }
        }
        Ok(())
    }

    fn wait(&self, partition: u32, position: Position) -> Fut<(u32, Result<Chunk>)> {
        let cursor = Cursor {
            topic: self.topic.clone(),
            partition,
            position,
            wait: WAIT,
        };
        let chunk = self.events.read(cursor, READ_BYTES);
        Box::pin(async move { (partition, chunk.await) })
    }
}

fn seen(message: &Message) -> Seen<'_> {
    Seen {
        topic: message.topic(),
        partition: message.partition(),
        position: message.position(),
        record: message.record(),
    }
}
