//! Results on stdout, everything else on stderr.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde::ser::SerializeMap as _;
use unicode_width::UnicodeWidthStr;

use crate::args::{Format, Global, When};
use crate::fail::{Failure, Outcome};

/// The version of the field names in JSON documents.
pub(crate) const SCHEMA: u32 = 1;

/// Where and how a command writes.
#[derive(Debug, Clone)]
pub(crate) struct Out {
    asked: Option<Format>,
    /// Whether stdout is a terminal.
    pub(crate) people: bool,
    /// Colour for stdout.
    pub(crate) paint: Paint,
    /// Colour for stderr.
    pub(crate) paint_err: Paint,
    quiet: bool,
}

/// Colour, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint(bool);

impl Paint {
    /// No colour.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Paint(false)
    }

    fn for_stream(when: When, terminal: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        Paint(match when {
            When::Always => true,
            When::Never => false,
            When::Auto if set("NO_COLOR") => false,
            When::Auto if set("CLICOLOR_FORCE") => true,
            When::Auto => terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
        })
    }

    /// Whether there is colour.
    pub(crate) fn is_on(self) -> bool {
        self.0
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("31;1", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }
}

/// How a command's lists and objects are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Aligned columns for people.
    Table { wide: bool },
    /// Columns separated by tabs, for pipes.
    Tabs { wide: bool },
    /// One document.
    Json,
    /// One object per line.
    Jsonl,
}

/// A row of a list: JSON by its fields, columns for people.
pub(crate) trait Row: Serialize {
    /// The list's name in a JSON document.
    const LIST: &'static str;

    /// The columns in order.
    fn columns(wide: bool) -> Vec<Column>;

    /// The cells in the order of the columns. `people`: relative times and grouped numbers.
    fn cells(&self, wide: bool, people: bool) -> Vec<String>;
}

/// A column's title and alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    title: &'static str,
    right: bool,
}

/// A column of words.
pub(crate) fn text(title: &'static str) -> Column {
    Column {
        title,
        right: false,
    }
}

/// A column of numbers.
pub(crate) fn number(title: &'static str) -> Column {
    Column { title, right: true }
}

impl Out {
    /// As the options and the streams say.
    pub(crate) fn new(global: &Global) -> Self {
        let people = io::stdout().is_terminal();
        Out {
            asked: global.output,
            people,
            paint: Paint::for_stream(global.color, people),
            paint_err: Paint::for_stream(global.color, io::stderr().is_terminal()),
            quiet: global.quiet,
        }
    }

    /// The format that was asked for, if one was.
    pub(crate) fn asked(&self) -> Option<Format> {
        self.asked
    }

    /// How lists and objects are written.
    pub(crate) fn shape(&self) -> Shape {
        match (self.asked, self.people) {
            (Some(Format::Json), _) => Shape::Json,
            (Some(Format::Jsonl), _) => Shape::Jsonl,
            (asked, true) => Shape::Table {
                wide: asked == Some(Format::Wide),
            },
            (asked, false) => Shape::Tabs {
                wide: asked == Some(Format::Wide),
            },
        }
    }

    /// Writes a list.
    pub(crate) fn list<R: Row>(&self, rows: &[R]) -> Outcome {
        let mut page = Vec::new();
        match self.shape() {
            Shape::Json => {
                json_line(&mut page, &Document(rows))?;
            }
            Shape::Jsonl => rows.iter().try_for_each(|row| json_line(&mut page, row))?,
            Shape::Tabs { wide } => {
                let titles: Vec<&str> = R::columns(wide).iter().map(|c| c.title).collect();
                page.extend(titles.join("\t").into_bytes());
                page.push(b'\n');
                for row in rows {
                    page.extend(row.cells(wide, false).join("\t").into_bytes());
                    page.push(b'\n');
                }
            }
            Shape::Table { wide } => {
                let cells: Vec<Vec<String>> =
                    rows.iter().map(|row| row.cells(wide, true)).collect();
                for (i, line) in aligned(&R::columns(wide), &cells).into_iter().enumerate() {
                    let line = if i == 0 { self.paint.bold(&line) } else { line };
                    page.extend(line.into_bytes());
                    page.push(b'\n');
                }
            }
        }
        self.write(&page)
    }

    /// Writes one object: JSON where that is asked for, else `text`.
    pub(crate) fn object<T: Serialize>(&self, value: &T, text: &str) -> Outcome {
        match self.shape() {
            Shape::Json | Shape::Jsonl => {
                let mut page = Vec::new();
                json_line(&mut page, value)?;
                self.write(&page)
            }
            Shape::Table { .. } | Shape::Tabs { .. } => self.write(text.as_bytes()),
        }
    }

    /// Writes bytes to stdout.
    pub(crate) fn write(&self, bytes: &[u8]) -> Outcome {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(closed_or_error)
    }

    /// A note for people on stderr; silent with `-q`.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.complain(text);
        }
    }

    /// Something that must be said on stderr.
    pub(crate) fn complain(&self, text: impl AsRef<str>) {
        // Nothing can be done about a closed stderr.
        let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
    }
}

/// What a failed write to stdout means.
pub(crate) fn closed_or_error(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::ClosedPipe
    } else {
        strait::core::Error::io("stdout", error).into()
    }
}

/// A list as one document: the schema's version, then the rows under the list's name.
struct Document<'a, R>(&'a [R]);

impl<R: Row> Serialize for Document<'_, R> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(2))?;
        map.serialize_entry("schema", &SCHEMA)?;
        map.serialize_entry(R::LIST, self.0)?;
        map.end()
    }
}

fn json_line<T: Serialize + ?Sized>(page: &mut Vec<u8>, value: &T) -> Outcome {
    serde_json::to_writer(&mut *page, value).map_err(|error| {
        let text = format!("a result cannot be written as JSON: {error}");
        strait::core::Error::new(strait::core::Kind::Unexpected, text)
    })?;
    page.push(b'\n');
    Ok(())
}

/// Lines with aligned columns, the titles first. The last column is not padded.
pub(crate) fn aligned(columns: &[Column], rows: &[Vec<String>]) -> Vec<String> {
    let titles: Vec<String> = columns.iter().map(|c| c.title.to_owned()).collect();
    let all = || std::iter::once(&titles).chain(rows);
    let width = |i: usize| all().map(|r| r[i].width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    all()
        .map(|row| {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[i].saturating_sub(cell.width()));
                if i > 0 {
                    line.push_str("  ");
                }
                if columns[i].right {
                    line.push_str(&pad);
                }
                line.push_str(cell);
                if !columns[i].right {
                    line.push_str(&pad);
                }
            }
            line.truncate(line.trim_end().len());
            line
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_left_and_numbers_right() {
        let rows = vec![
            vec!["orders".into(), "8,914".into(), "ok".into()],
            vec!["müll".into(), "7".into(), "".into()],
        ];
        let lines = aligned(&[text("TOPIC"), number("STORED"), text("STATE")], &rows);
        assert_eq!(
            lines,
            [
                "TOPIC   STORED  STATE",
                "orders   8,914  ok",
                "müll         7"
            ]
        );
    }
}
