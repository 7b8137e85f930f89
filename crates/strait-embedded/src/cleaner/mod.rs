//! The cleaner: copies what is live out of segments that are mostly dead, and the newest record of each key out of topics
//! that are compacted, so that whole files can be given back.
//!
//! A job is planned ([`plan`]), copied in steps into cleaned segments beside the log, and then told to the writer, which
//! logs where everything lies from now on ([`Op::Moved`](crate::ops::Op::Moved)). Until that is durable the old places
//! hold; a job that does not get there leaves files that the next opening removes. Nothing of it is in the writer's way:
//! the disk is used for a share of the time.
//!
//! What expires together lies together: each cleaned segment holds one class of streams, so that it dies as a whole.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use metrics::counter;
use strait_core::Batch;

use crate::disk::cleaned::{CleanedWriter, cleaned_id};
use crate::extents::{Extent, Span, StreamId};
use crate::index;
use crate::ops::MovedOp;
use crate::shared::Shared;

pub(crate) mod adopt;
mod compact;
mod plan;
mod walk;

use compact::{Gather, Newest};
use plan::Move;
use walk::Walk;

/// Bytes that one step reads or writes, about: a fraction of a millisecond, for which who shares the processor waits.
const STEP: u64 = 256 << 10;

/// A range of a stream that was copied, for the writer to log.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) op: MovedOp,
    /// What it was made of. When the stream has changed there, it counts for nothing.
    pub(crate) sources: Vec<Span>,
}

/// What a step of the cleaner came to.
#[derive(Debug)]
pub(crate) enum Step {
    /// There is nothing to do.
    Idle,
    /// There is more to do.
    More,
    /// Everything is copied and durable: the writer has to know.
    Ready(Vec<Copied>),
}

#[derive(Debug)]
pub(crate) struct Cleaner {
    shared: Arc<Shared>,
    job: Option<Job>,
    /// Which kind of work is looked for first: in turns, so that neither holds up the other.
    compaction_first: bool,
    /// Segments with damage: they are left as they are, for whoever looks into it.
    damaged: HashSet<u64>,
}

/// Moves under way, in the order of their classes.
#[derive(Debug)]
struct Job {
    rest: std::vec::IntoIter<Move>,
    /// The move that is copied now.
    at: Option<Moving>,
    output: Option<Output>,
    /// Whole cleaned segments that nothing points to yet.
    outputs: HashSet<u64>,
    copied: Vec<Copied>,
}

#[derive(Debug)]
struct Moving {
    this: Move,
    /// Of a topic that is compacted: the newest offsets of its keys are looked up first.
    gather: Option<Gather>,
    newest: Option<Newest>,
    walk: Walk,
    /// What is copied, and the part of it that goes into the present output.
    spans: Vec<Span>,
    open: Span,
}

/// A cleaned segment that is being written.
#[derive(Debug)]
struct Output {
    class: u8,
    writer: CleanedWriter,
    index: BTreeMap<StreamId, Vec<Extent>>,
}

impl Cleaner {
    pub(crate) fn new(shared: Arc<Shared>) -> Cleaner {
        Cleaner {
            shared,
            job: None,
            compaction_first: false,
            damaged: HashSet::new(),
        }
    }

    /// True while a job is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.job.is_some()
    }

    /// True for a segment that is being made, and that nothing points to yet.
    pub(crate) fn is_making(&self, segment: u64) -> bool {
        let job = self.job.as_ref();
        job.is_some_and(|job| job.outputs.contains(&segment))
    }

    /// Begins a job, where there is one worth its cost. Segments before `indexed_to` have their index.
    pub(crate) fn begin(&mut self, indexed_to: u64) {
        if self.job.is_some() {
            return;
        }
        self.compaction_first ^= true;
        let moves = plan::plan(
            &self.shared,
            indexed_to,
            &self.damaged,
            self.compaction_first,
        );
        if !moves.is_empty() {
            self.job = Some(Job {
                rest: moves.into_iter(),
                at: None,
                output: None,
                outputs: HashSet::new(),
                copied: Vec::new(),
            });
        }
    }

    /// Gives up the job: what it made so far, and nobody knows of, is removed.
    fn give_up(&mut self) {
        let outputs = self.job.take().map(|job| job.outputs);
        for segment in outputs.into_iter().flatten() {
            let removed = self.shared.disk.remove(&index::file_name(segment));
            if let Err(error) = removed {
                tracing::debug!("an index of a cleaned segment stays behind: {error}");
            }
            self.shared.pool.release(segment);
        }
    }

    /// The job is done: the writer has it.
    pub(crate) fn end(&mut self) {
        self.job = None;
    }

    /// One step of the job.
    ///
    /// # Errors
    /// Those of the disk; the job is then given up.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        let Some(job) = &mut self.job else {
            return Ok(Step::Idle);
        };
        match job.step(&self.shared) {
            Ok(false) => Ok(Step::More),
            Ok(true) => Ok(Step::Ready(std::mem::take(&mut job.copied))),
            Err(fault) => {
                self.damaged.extend(fault.segment);
                self.give_up();
                Err(fault.error)
            }
        }
    }
}

/// Why a job cannot go on.
#[derive(Debug)]
struct Fault {
    error: io::Error,
    /// The segment that is damaged.
    segment: Option<u64>,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault {
            error,
            segment: None,
        }
    }
}

impl Job {
    /// Copies about [`STEP`] bytes; true when everything is copied and durable.
    fn step(&mut self, shared: &Shared) -> Result<bool, Fault> {
        let mut used = 0;
        while used < STEP {
            let Some(moving) = &mut self.at else {
                match self.rest.next() {
                    Some(next) => self.at = Some(Moving::new(next)),
                    None => {
                        self.close_output(shared)?;
                        return Ok(true);
                    }
                }
                continue;
            };
            if let Some(gather) = &mut moving.gather {
                match gather.step(shared, STEP)? {
                    None => return Ok(false),
                    Some(newest) => {
                        moving.newest = Some(newest);
                        moving.gather = None;
                    }
                }
            }
            match moving.walk.next(shared)? {
                Some(extent) => used += self.copy(shared, &extent)?,
                None => self.end_move(),
            }
        }
        Ok(false)
    }

    /// Copies one batch, or what is to be kept of it; gives the bytes that it took.
    fn copy(&mut self, shared: &Shared, extent: &Extent) -> Result<u64, Fault> {
        let Some(moving) = &mut self.at else {
            return Ok(0);
        };
        let bytes = walk::batch(shared, extent)?;
        let used = bytes.len() as u64;
        let kept = match &moving.newest {
            Some(newest) => newest.keep(shared, extent, &bytes),
            None => Some(bytes),
        };
        let Some(kept) = kept else { return Ok(used) };
        let class = moving.this.class;
        let fits = |output: &Output| {
            output.class == class && output.writer.len() < shared.options.segment_bytes
        };
        if !self.output.as_ref().is_some_and(fits) {
            self.close_output(shared)?;
            self.open_output(shared, class, extent.first)?;
        }
        let (Some(output), Some(moving)) = (&mut self.output, &mut self.at) else {
            return Ok(used);
        };
        let op = walk::op(shared, moving.this.stream, moving.this.versions, extent)?;
        let at = output.writer.len();
        output.writer.push(&op)?;
        output.writer.push(&kept)?;
        let placed = moving.place(output.writer.id(), at, op.len(), extent, &kept);
        let extents = output.index.entry(moving.this.stream).or_default();
        extents.push(placed);
        Ok(used + kept.len() as u64)
    }

    fn open_output(&mut self, shared: &Shared, class: u8, first: u64) -> io::Result<()> {
        let number = {
            let mut state = shared.state.lock();
            state.next_cleaned += 1;
            state.next_cleaned - 1
        };
        let id = cleaned_id(class, number);
        let writer = CleanedWriter::begin(shared.disk.clone(), shared.identity, id)?;
        self.output = Some(Output {
            class,
            writer,
            index: BTreeMap::new(),
        });
        if let Some(moving) = &mut self.at {
            moving.cut(first, id);
        }
        Ok(())
    }

    /// Makes the output durable, its index first, and readable.
    fn close_output(&mut self, shared: &Shared) -> io::Result<()> {
        let Some(output) = self.output.take() else {
            return Ok(());
        };
        let id = output.writer.id();
        index::write(&*shared.disk, shared.identity, id, &output.index)?;
        let len = output.writer.finish()?;
        shared.pool.adopt(id, len);
        self.outputs.insert(id);
        counter!(crate::metrics::CLEANED_BYTES).increment(len);
        Ok(())
    }

    fn end_move(&mut self) {
        if let Some(moving) = self.at.take() {
            self.copied.push(moving.finish());
        }
    }
}

impl Moving {
    fn new(this: Move) -> Moving {
        let gather = this.compact.clone();
        let gather = gather.map(|compact| Gather::new(&this, compact));
        Moving {
            walk: Walk::new(this.stream, this.sources.clone(), this.start),
            open: Span::hollow(this.first(), this.first()),
            spans: Vec::new(),
            newest: None,
            gather,
            this,
        }
    }

    /// Notes that a batch lies in the present output.
    fn place(&mut self, segment: u64, at: u64, op: usize, extent: &Extent, kept: &Bytes) -> Extent {
        let latest = Batch::peek(kept).map_or(extent.latest, |b| b.greatest_time().as_millis());
        let open = &mut self.open;
        if open.is_hollow() {
            // The output was begun by another stream.
            open.segment = segment;
        }
        open.end = extent.end();
        open.bytes += kept.len() as u64;
        open.time = open.time.max(extent.time);
        open.latest = open.latest.max(latest);
        Extent {
            len: kept.len() as u32,
            segment,
            pos: (at + op as u64) as u32,
            op: at as u32,
            ..*extent
        }
    }

    /// From `first` on it goes into another output.
    fn cut(&mut self, first: u64, segment: u64) {
        let mut done = std::mem::replace(&mut self.open, Span::hollow(first, first));
        self.open.segment = segment;
        done.end = first;
        if done.end > done.first {
            self.spans.push(done);
        } else {
            self.open.first = done.first;
        }
    }

    fn finish(mut self) -> Copied {
        self.open.end = self.this.end();
        if self.open.end > self.open.first {
            self.spans.push(self.open);
        }
        let op = MovedOp {
            stream: self.this.stream,
            first: self.this.first(),
            end: self.this.end(),
            spans: self.spans,
            compacted: self.newest.map(|newest| newest.end()),
        };
        Copied {
            op,
            sources: self.this.sources,
        }
    }
}
