//! The view without a terminal: one plain line per change, absolute times.

use std::time::{Duration, Instant};

use strait::core::Timestamp;

use super::{Note, Show, Stage};
use crate::fail::Outcome;
use crate::out::Out;
use crate::text::{count, storage, time};

/// While something happens the counts are written at most so often; the last ones always, and only when they changed.
const COUNTS: Duration = Duration::from_secs(5);

/// Plain lines on stdout.
#[derive(Debug)]
pub(super) struct Lines {
    out: Out,
    started: bool,
    counted: Option<(Instant, String)>,
}

impl Lines {
    pub(super) fn new(out: Out) -> Self {
        Lines {
            out,
            started: false,
            counted: None,
        }
    }

    fn line(&self, at: Timestamp, text: &str) -> Outcome {
        self.out.write(format!("{}  {text}\n", time(at)).as_bytes())
    }

    fn counts(&mut self, stage: &Stage) -> Outcome {
        let waited = |at: &Instant| at.elapsed() >= COUNTS || stage.is_quiet();
        let due = self.counted.as_ref().is_none_or(|(at, _)| waited(at));
        let Some((_, now)) = stage.snapshots.back().filter(|_| due) else {
            return Ok(());
        };
        let topics = now
            .topics
            .iter()
            .map(|topic| format!("{} {}", topic.name, count(topic.stored, true)));
        let groups = now.groups.iter().map(|group| {
            format!(
                "{} lag {} parked {} dead {}",
                group.name,
                count(group.lag, true),
                count(group.parked, true),
                count(group.dead, true)
            )
        });
        let text = topics.chain(groups).collect::<Vec<_>>().join("; ");
        let changed = self.counted.as_ref().is_none_or(|(_, last)| *last != text);
        if changed && !text.is_empty() {
            // It is no reason of its own for a line: others write to the disk too.
            let storage = now.storage.as_ref().map(storage);
            let storage = storage.map(|text| format!("; {text}"));
            let line = format!("{text}{}", storage.unwrap_or_default());
            self.line(Timestamp::now(), &line)?;
        }
        self.counted = Some((Instant::now(), text));
        Ok(())
    }
}

impl Show for Lines {
    fn show(&mut self, stage: &Stage, fresh: &[Note]) -> Outcome {
        if !self.started {
            self.started = true;
            let (title, place) = (&stage.title, &stage.place);
            let text = format!("{title}: data {place}, {}", stage.durable());
            self.line(Timestamp::now(), &text)?;
            for command in &stage.tries {
                let command = command.replace('\n', " ");
                self.line(Timestamp::now(), &format!("try: {command}"))?;
            }
        }
        for note in fresh {
            let more = note.more.as_deref().map(|more| format!(" ({more})"));
            self.line(
                note.at,
                &format!("{}{}", note.text, more.unwrap_or_default()),
            )?;
        }
        self.counts(stage)
    }

    fn end(&mut self, stage: &Stage) -> Outcome {
        let text = format!("ended; what was acknowledged stays in {}", stage.place);
        self.line(Timestamp::now(), &text)
    }
}
