//! The live view on a terminal.
//!
//! It draws over itself on the plain screen, with the cursor and the terminal's modes as they are: after `kill -9` the
//! terminal is as usable as before, and the last picture is still there to be read.

use std::io::{self, Write};

use crossterm::cursor::MoveTo;
use crossterm::queue;
use crossterm::style::Print;
use crossterm::terminal::{self, Clear, ClearType};

use super::{Note, Show, Stage, view};
use crate::fail::Outcome;
use crate::out::{Paint, closed_or_error};

/// A terminal.
#[derive(Debug)]
pub(super) struct Screen {
    paint: Paint,
    size: Option<(u16, u16)>,
}

impl Screen {
    pub(super) fn new(paint: Paint) -> Self {
        Screen { paint, size: None }
    }

    fn draw(&mut self, stage: &Stage) -> io::Result<()> {
        let size = terminal::size().unwrap_or((80, 24));
        let (width, height) = (usize::from(size.0), usize::from(size.1));
        let mut out = Vec::new();
        if self.size.is_none() {
            // What stood on the screen moves up into the terminal's history.
            out.extend(std::iter::repeat_n(b'\n', height));
        }
        if self.size != Some(size) {
            queue!(out, Clear(ClearType::All))?;
            self.size = Some(size);
        }
        // The last column and the last line stay free: writing there would scroll.
        let lines = view::lines(stage, width.saturating_sub(1), self.paint);
        let mut row = 0;
        for line in lines.iter().take(height.saturating_sub(1)) {
            queue!(
                out,
                MoveTo(0, row),
                Print(line),
                Clear(ClearType::UntilNewLine)
            )?;
            row += 1;
        }
        queue!(out, MoveTo(0, row), Clear(ClearType::FromCursorDown))?;
        let mut stdout = io::stdout().lock();
        stdout.write_all(&out)?;
        stdout.flush()
    }
}

impl Show for Screen {
    fn show(&mut self, stage: &Stage, _: &[Note]) -> Outcome {
        self.draw(stage).map_err(closed_or_error)
    }

    fn end(&mut self, stage: &Stage) -> Outcome {
        self.show(stage, &[])?;
        let mut stdout = io::stdout().lock();
        writeln!(
            stdout,
            "\nended; what was acknowledged stays in {}",
            stage.place
        )
        .map_err(closed_or_error)
    }
}
