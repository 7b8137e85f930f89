//! `strait produce`: one message per line of the input, one acknowledgement per message.
//!
//! A partition has one append under way; lines that arrive meanwhile wait in the next batch of their partition. So a
//! single line leaves at once, a big file leaves in big batches, and the order within a partition is that of the input.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::Arc;

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use strait::core::events::{Append, Events, Expected, TopicInfo, TopicSpec};
use strait::core::{
    Attr, Error, Fut, Kind, Limits, Name, NewRecord, Position, Records, RecordsBuilder, Result,
    Timestamp, codes, partition_of, records,
};

use super::Ctx;
use crate::args::Format;
use crate::fail::{Failure, Outcome, error_line, nearest, next_line};
use crate::lines::{Line, Lines, read_stdin};
use crate::out::Out;
use crate::pipe::Pipe;
use crate::target::{self, Target};

/// Lines that may wait for their acknowledgement.
const MAX_WAITING: usize = 100_000;
/// Bytes that may wait for their acknowledgement.
const MAX_WAITING_BYTES: usize = 32 << 20;
/// A batch is closed at this size: large enough for speed, small enough to be acknowledged soon.
const BATCH_BYTES: usize = 1 << 20;

/// Append one message per line of the input, without its newline; any bytes are kept exactly.
///
/// Each acknowledgement is one line, in the order of the input, written as soon as the message is durable.
/// A line that is refused is named on stderr with its number; the others go on, and the exit code is 3.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  echo '{\"order\":1}' | strait produce orders -k ada
  strait produce orders -K : -o jsonl < orders.txt
  strait produce orders --kind order.placed.v1 -H source=import < orders.jsonl")]
pub(crate) struct ProduceArgs {
    /// The topic; created on first use
    topic: Name,
    /// The key of all messages
    #[arg(short, long, value_name = "KEY", conflicts_with = "key_separator")]
    key: Option<String>,
    /// Each line is KEY SEP VALUE, cut at the first SEP (\t is a tab)
    #[arg(short = 'K', long, value_name = "SEP", value_parser = separator)]
    key_separator: Option<String>,
    /// A header of all messages; may repeat
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The partition; by default that of the key, or one after the other without a key
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
    /// The kind of all messages, for example order.placed.v1
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// A missing topic is an error
    #[arg(long)]
    no_create: bool,
    /// Number of partitions when the topic is created [default: 8]
    #[arg(long, value_name = "N", conflicts_with = "no_create")]
    partitions: Option<u32>,
}

fn separator(text: &str) -> Result<String, String> {
    match text {
        "" => Err("the separator is empty".to_owned()),
        _ => Ok(text.replace("\\t", "\t")),
    }
}

pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "a header is written NAME=VALUE".to_owned())?;
    records::check_header(name, value.as_bytes()).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs the command.
pub(crate) async fn run(args: ProduceArgs, ctx: &Ctx) -> Outcome {
    let target = if args.no_create {
        Target::existing(&ctx.global).await?
    } else {
        Target::create(target::url(&ctx.global)).await?
    };
    let topic = ready_topic(&args, &target, &ctx.out).await?;
    let mut producer = Producer::new(args, topic, target.events.clone(), ctx)?;
    let done = producer.run(ctx).await;
    target.close().await;
    done
}

async fn ready_topic(args: &ProduceArgs, target: &Target, out: &Out) -> Outcome<TopicInfo> {
    if args.no_create {
        return target.topic(&args.topic).await;
    }
    let mut spec = TopicSpec::new(args.topic.clone());
    spec.partitions = args.partitions;
    let missing = match target.events.topic(args.topic.clone()).await {
        Ok(_) => false,
        Err(error) if error.is(codes::NO_SUCH_TOPIC) => true,
        Err(error) => return Err(error.into()),
    };
    let topic = target.events.declare(spec).await?;
    if missing {
        let (name, partitions) = (&topic.name, topic.partitions.len());
        let known = target.events.topics().await?;
        let others = known.iter().map(|topic| &*topic.name);
        let near = nearest(name, others.filter(|other| *other != &**name))
            .map(|near| format!("; `{near}` is another one"))
            .unwrap_or_default();
        out.note(format!(
            "created topic `{name}` with {partitions} partitions{near}"
        ));
    }
    Ok(topic)
}

/// What became of a line.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Waiting,
    Acked { partition: u32, position: Position },
    Refused,
}

/// One partition's way: the batch that fills, batches that are full, and whether one is under way.
#[derive(Debug, Default)]
struct Lane {
    filling: Option<RecordsBuilder>,
    lines: Vec<u64>,
    full: VecDeque<(Records, Vec<u64>)>,
    busy: bool,
}

/// An append that ended: its partition, its lines, its size, its answer.
type Done = (u32, Vec<u64>, usize, Result<strait::core::Sent>);

struct Producer {
    args: ProduceArgs,
    topic: Name,
    events: Arc<dyn Events>,
    limits: Limits,
    lanes: Vec<Lane>,
    running: FuturesUnordered<Fut<Done>>,
    slots: VecDeque<Slot>,
    /// The number of the line in the first slot.
    first: u64,
    bytes: usize,
    /// Where lines without a key go now.
    turn: u32,
    refused: bool,
    fatal: Option<Error>,
    out: Out,
    tabs: bool,
}

impl Producer {
    fn new(
        args: ProduceArgs,
        topic: TopicInfo,
        events: Arc<dyn Events>,
        ctx: &Ctx,
    ) -> Outcome<Self> {
        let count = topic.partitions.len();
        if let Some(partition) = args.partition.filter(|p| *p as usize >= count) {
            return Err(Failure::usage(format!(
                "topic `{}` has {count} partitions, 0 to {}: there is no partition {partition}",
                topic.name,
                count.saturating_sub(1)
            )));
        }
        let caps = events.caps();
        let mut lanes = Vec::new();
        lanes.resize_with(count, Lane::default);
        Ok(Producer {
            args,
            topic: topic.name,
            limits: Limits {
                body: caps.max_body,
                batch: caps.max_batch,
                ..Limits::default()
            },
            events,
            lanes,
            running: FuturesUnordered::new(),
            slots: VecDeque::new(),
            first: 1,
            bytes: 0,
            // Many short runs without keys must not all begin at the same partition.
            turn: (uuid::Uuid::now_v7().as_u128() % count.max(1) as u128) as u32,
            refused: false,
            fatal: None,
            out: ctx.out.clone(),
            tabs: match ctx.out.asked() {
                Some(Format::Table | Format::Wide) => true,
                Some(Format::Json | Format::Jsonl) => false,
                None => ctx.out.people,
            },
        })
    }

    async fn run(&mut self, ctx: &Ctx) -> Outcome {
        let separator = self.args.key_separator.as_ref().map_or(0, String::len);
        let key = if separator > 0 { self.limits.key } else { 0 };
        let mut input = Some(read_stdin(self.limits.body + key + separator));
        let pipe = Pipe::stdout();
        let interrupt = ctx.interrupt.wait();
        tokio::pin!(interrupt);
        let mut stopped = None;
        loop {
            self.start_idle_lanes();
            self.write_acks(&pipe).await?;
            if self.running.is_empty() && input.is_none() {
                break;
            }
            let room = self.slots.len() < MAX_WAITING && self.bytes < MAX_WAITING_BYTES;
            tokio::select! {
                Some(done) = self.running.next() => self.finished(done),
                lines = next_lines(&mut input), if room && input.is_some() => match lines {
                    Some(lines) => self.take(&lines.map_err(|e| Error::io("stdin", e))?),
                    None => input = None,
                },
                signal = &mut interrupt, if stopped.is_none() => stopped = Some(signal),
            }
            if stopped.is_some() || self.fatal.is_some() {
                input = None;
            }
        }
        self.end(&pipe).await?;
        match (self.fatal.take(), stopped) {
            (Some(error), _) => Err(error.into()),
            (None, Some(signal)) => Err(signal),
            (None, None) if self.refused => Err(Failure::Partly),
            (None, None) => Ok(()),
        }
    }

    fn take(&mut self, lines: &Lines) {
        for (number, line) in lines.iter() {
            self.slots.push_back(Slot::Waiting);
            if let Err(error) = self.take_line(number, line) {
                self.refuse(number, &error);
            }
        }
        self.turn = (self.turn + 1) % self.lanes.len().max(1) as u32;
    }

    fn take_line(&mut self, number: u64, line: Line<'_>) -> Result<()> {
        let bytes = match line {
            Line::Bytes(bytes) => bytes,
            Line::TooLong(length) => return Err(too_long(length, self.limits.body)),
        };
        let (key, body) = match &self.args.key_separator {
            Some(separator) => split_key(bytes, separator)?,
            None => (self.args.key.as_deref().map(str::as_bytes), bytes),
        };
        let partition = match (self.args.partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, self.lanes.len() as u32),
            (None, None) => self.turn,
        };
        let headers: Vec<(&str, &[u8])> = self
            .args
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let record = NewRecord {
            key,
            body,
            headers: &headers,
            ..NewRecord::default()
        };
        let kind = self.args.kind.as_deref().map(|kind| (Attr::Kind, kind));
        let lane = &mut self.lanes[partition as usize];
        // Generous for what surrounds a record, so that only the record itself can be refused.
        let size = records_size(&record) + 64;
        let enough = BATCH_BYTES.min(self.limits.batch);
        if lane
            .filling
            .as_ref()
            .is_some_and(|b| b.bytes() + size > enough)
        {
            lane.close_batch();
        }
        let batch = match &mut lane.filling {
            Some(batch) => batch,
            empty => empty.insert(RecordsBuilder::with(
                kind.as_slice(),
                self.limits,
                Timestamp::now(),
                uuid::Uuid::now_v7().as_u128(),
            )?),
        };
        let before = batch.bytes();
        batch.push(record)?;
        self.bytes += batch.bytes() - before;
        lane.lines.push(number);
        Ok(())
    }

    fn start_idle_lanes(&mut self) {
        if self.fatal.is_some() {
            return;
        }
        for (partition, lane) in self.lanes.iter_mut().enumerate() {
            if lane.busy {
                continue;
            }
            if lane.full.is_empty() {
                lane.close_batch();
            }
            let Some((records, lines)) = lane.full.pop_front() else {
                continue;
            };
            lane.busy = true;
            let (partition, size) = (partition as u32, records.bytes().len());
            let sent = self.events.append(Append {
                topic: self.topic.clone(),
                partition,
                records,
                expected: Expected::Any,
                dedupe: false,
            });
            self.running.push(Box::pin(
                async move { (partition, lines, size, sent.await) },
            ));
        }
    }

    fn finished(&mut self, (partition, lines, size, sent): Done) {
        self.lanes[partition as usize].busy = false;
        self.bytes = self.bytes.saturating_sub(size);
        match sent {
            Ok(sent) => {
                let (high, low) = sent.first.parts();
                for (i, number) in lines.iter().enumerate() {
                    let position = Position::of_parts(high, low + i as u64);
                    self.set(
                        *number,
                        Slot::Acked {
                            partition,
                            position,
                        },
                    );
                }
            }
            // The engine refuses these messages, and may take the next ones.
            Err(error) if matches!(error.kind(), Kind::Rejected | Kind::Busy) => {
                lines.iter().for_each(|n| self.refuse(*n, &error));
            }
            Err(error) => {
                lines.iter().for_each(|n| self.refuse(*n, &error));
                self.fatal.get_or_insert(error);
            }
        }
    }

    fn refuse(&mut self, number: u64, error: &Error) {
        let is_first = !std::mem::replace(&mut self.refused, true);
        self.set(number, Slot::Refused);
        let what = error_line(error, self.out.paint_err);
        self.out.complain(format!("line {number}: {what}"));
        // What to do is said once.
        if is_first {
            self.out.complain(format!("  {}", next_line(error)));
        }
    }

    fn set(&mut self, number: u64, slot: Slot) {
        self.slots[(number - self.first) as usize] = slot;
    }

    /// Writes the acknowledgements that are next in the order of the input.
    async fn write_acks(&mut self, pipe: &Pipe) -> Outcome {
        let mut page = Vec::new();
        while let Some(slot) = self.slots.front() {
            match *slot {
                Slot::Waiting => break,
                Slot::Acked {
                    partition,
                    position,
                } => {
                    write_ack(&mut page, &self.topic, partition, position, self.tabs);
                }
                Slot::Refused => {}
            }
            self.slots.pop_front();
            self.first += 1;
        }
        if page.is_empty() {
            return Ok(());
        }
        pipe.send(page).await
    }

    /// After a fatal error lines may be left that were never sent.
    async fn end(&mut self, pipe: &Pipe) -> Outcome {
        let unsent: Vec<u64> = self
            .slots
            .iter()
            .zip(self.first..)
            .filter_map(|(slot, number)| matches!(slot, Slot::Waiting).then_some(number))
            .collect();
        if let (Some(from), Some(to)) = (unsent.first(), unsent.last()) {
            self.out.complain(format!(
                "{} lines between {from} and {to} were read and not sent",
                unsent.len()
            ));
        }
        unsent.iter().for_each(|n| self.set(*n, Slot::Refused));
        self.write_acks(pipe).await?;
        pipe.flush(Vec::new()).await
    }
}

impl Lane {
    fn close_batch(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if let Some(batch) = self.filling.take().filter(|batch| !batch.is_empty()) {
            self.full.push_back((batch.build(), lines));
        }
    }
}

async fn next_lines(
    input: &mut Option<tokio::sync::mpsc::Receiver<std::io::Result<Lines>>>,
) -> Option<std::io::Result<Lines>> {
    input.as_mut()?.recv().await
}

fn records_size(record: &NewRecord<'_>) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + 20)
        .sum();
    record.key.map_or(0, <[u8]>::len) + headers + record.body.len()
}

fn split_key<'a>(line: &'a [u8], separator: &str) -> Result<(Option<&'a [u8]>, &'a [u8])> {
    let at = memchr::memmem::find(line, separator.as_bytes()).ok_or_else(|| {
        let separator = separator.escape_debug();
        Error::new(
            Kind::Rejected,
            format!("the line has no `{separator}` that would end its key"),
        )
    })?;
    Ok((Some(&line[..at]), &line[at + separator.len()..]))
}

fn too_long(length: u64, limit: usize) -> Error {
    Error::new(
        Kind::Rejected,
        format!("the line is too large: {length} bytes, the limit of a body is {limit}"),
    )
    .code(codes::TOO_LARGE)
}

fn write_ack(page: &mut Vec<u8>, topic: &Name, partition: u32, at: Position, tabs: bool) {
    // A name needs no escapes, and writing to memory does not fail.
    let _ = if tabs {
        writeln!(page, "{topic}\t{partition}\t{at}")
    } else {
        let offset = super::render::offset(at);
        writeln!(
            page,
            r#"{{"topic":"{topic}","partition":{partition},"offset":{offset}}}"#
        )
    };
}
