//! Sections of documents that a task writes: between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

use std::fs;
use std::path::Path;

/// Replaces the section with `body`; the file and the markers are made when absent.
pub(crate) fn replace(path: &Path, name: &str, body: &str) -> Result<(), String> {
    edit(path, name, |_| format!("{}\n", body.trim_end()))
}

/// Adds a line at the end of the section, which starts with `head` when it is new.
pub(crate) fn append(path: &Path, name: &str, head: &str, line: &str) -> Result<(), String> {
    edit(path, name, |old| {
        let old = if old.trim().is_empty() { head } else { old };
        format!("{}\n{line}\n", old.trim_end())
    })
}

fn edit(path: &Path, name: &str, change: impl FnOnce(&str) -> String) -> Result<(), String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let changed = with_section(&text, name, change)
        .ok_or_else(|| format!("{}: `{name}:begin` without `{name}:end`", path.display()))?;
    fs::write(path, changed).map_err(|error| format!("{}: {error}", path.display()))
}

/// The text with its section changed; none when the section has a beginning and no end.
fn with_section(text: &str, name: &str, change: impl FnOnce(&str) -> String) -> Option<String> {
    let begin = format!("<!-- {name}:begin -->\n");
    let end = format!("<!-- {name}:end -->");
    let Some(at) = text.find(&begin) else {
        let section = change("");
        let gap = if text.is_empty() { "" } else { "\n" };
        return Some(format!("{text}{gap}{begin}{section}{end}\n"));
    };
    let start = at + begin.len();
    let stop = start + text[start..].find(&end)?;
    let section = change(&text[start..stop]);
    Some(format!("{}{section}{}", &text[..start], &text[stop..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_made_then_replaced_and_the_rest_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.md");
        assert_eq!(append(&path, "x", "| head |", "| 1 |"), Ok(()));
        assert_eq!(append(&path, "x", "| head |", "| 2 |"), Ok(()));
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(
            text,
            "<!-- x:begin -->\n| head |\n| 1 |\n| 2 |\n<!-- x:end -->\n"
        );
        fs::write(&path, format!("before\n{text}after\n")).expect("write");
        assert_eq!(replace(&path, "x", "new"), Ok(()));
        assert_eq!(replace(&path, "y", "other"), Ok(()));
        assert_eq!(
            fs::read_to_string(&path).expect("read"),
            "before\n<!-- x:begin -->\nnew\n<!-- x:end -->\nafter\n\n<!-- y:begin -->\nother\n<!-- y:end -->\n"
        );
    }

    #[test]
    fn a_section_without_its_end_is_left_alone() {
        assert_eq!(
            with_section("<!-- x:begin -->\ntext", "x", |_| String::new()),
            None
        );
    }
}
