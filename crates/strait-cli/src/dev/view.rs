//! The live view as lines of text, at most so wide.

use std::time::Duration;

use strait::core::Timestamp;

use super::snapshot::{Group, rate};
use super::{Note, Stage};
use crate::out::{Paint, aligned, number, text};
use crate::text::{count, cut, duration, storage};

/// Notes younger than this are `now`.
const NOW: Duration = Duration::from_secs(3);

/// The whole view.
pub(super) fn lines(stage: &Stage, width: usize, paint: Paint) -> Vec<String> {
    let mut lines = vec![paint.bold(&cut(&heading(stage, width), width))];
    lines.extend(storage_line(stage, width, paint));
    let mut table = table(stage).into_iter().map(|line| cut(&line, width));
    lines.extend(table.next().map(|titles| paint.dim(&titles)));
    lines.extend(table);
    lines.push(String::new());
    lines.extend(
        stage
            .notes
            .iter()
            .flat_map(|note| note_lines(note, width, paint)),
    );
    if stage.demo {
        let text = "kill -9 me and start me again: nothing that was acknowledged is lost";
        lines.push(paint.dim(&cut(text, width)));
    }
    lines.push(String::new());
    lines.push(paint.bold(&cut("try in another terminal", width)));
    let tries = stage.tries.iter().flat_map(|command| command.lines());
    lines.extend(tries.map(|line| cut(&format!("  {line}"), width)));
    lines
}

fn heading(stage: &Stage, width: usize) -> String {
    let what = format!(
        "{}   data {}   {}",
        stage.title,
        stage.place,
        stage.durable()
    );
    let seconds = stage.started.elapsed().as_secs();
    let clock = format!("{:02}:{:02}", seconds / 60, seconds % 60);
    let gap = width.saturating_sub(what.chars().count() + clock.len());
    format!("{what}{}{clock}", " ".repeat(gap.max(1)))
}

fn storage_line(stage: &Stage, width: usize, paint: Paint) -> Option<String> {
    let (_, now) = stage.snapshots.back()?;
    let now = now.storage.as_ref()?;
    let line = cut(&storage(now), width);
    Some(match now.full_in {
        Some(Duration::ZERO) => paint.yellow(&line),
        _ => line,
    })
}

/// A topic with its groups beside it, one group a line.
fn table(stage: &Stage) -> Vec<String> {
    let columns = [
        text("TOPIC"),
        number("in/s"),
        number("stored"),
        text("  GROUP"),
        number("lag"),
        number("oldest"),
        number("out/s"),
        number("parked"),
        number("dead"),
        text(""),
    ];
    let Some((_, now)) = stage.snapshots.back() else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    for topic in &now.topics {
        let mut cells = vec![
            topic.name.clone(),
            format!("{:.0}", topic_rate(stage, &topic.name)),
            count(topic.stored, true),
        ];
        let mut groups = now.groups.iter().filter(|group| group.topic == topic.name);
        cells.extend(match groups.next() {
            Some(group) => group_cells(stage, group),
            None => vec![String::new(); 7],
        });
        rows.push(cells);
        for group in groups {
            let mut cells = vec![String::new(); 3];
            cells.extend(group_cells(stage, group));
            rows.push(cells);
        }
    }
    if rows.is_empty() {
        return vec!["no topics yet".to_owned()];
    }
    aligned(&columns, &rows)
}

fn group_cells(stage: &Stage, group: &Group) -> Vec<String> {
    let out = group_rate(stage, group);
    vec![
        format!("  {}", group.name),
        count(group.lag, true),
        group.oldest.map_or("-".to_owned(), duration),
        format!("{out:.0}"),
        count(group.parked, true),
        count(group.dead, true),
        trouble(group, out),
    ]
}

/// What is the matter with a group, in a few letters; empty when nothing is. A slow one is shown with the time that it
/// needs for what waits.
fn trouble(group: &Group, out: f64) -> String {
    let waiting = group.lag.saturating_sub(group.parked) as f64;
    if group.state != "ok" {
        group.state.clone()
    } else if out > 0.0 && waiting > 2.0 * out {
        let drain = Duration::from_secs_f64((waiting / out).min(1e9));
        format!("slow: {}", duration(drain))
    } else {
        String::new()
    }
}

fn topic_rate(stage: &Stage, name: &str) -> f64 {
    rate_of(stage, |snapshot| {
        let topic = snapshot.topics.iter().find(|topic| topic.name == name)?;
        Some(topic.total)
    })
}

fn group_rate(stage: &Stage, group: &Group) -> f64 {
    rate_of(stage, |snapshot| {
        let same = |other: &&Group| other.name == group.name && other.topic == group.topic;
        Some(snapshot.groups.iter().find(same)?.settled)
    })
}

fn rate_of(stage: &Stage, counted: impl Fn(&super::Snapshot) -> Option<u64>) -> f64 {
    let at = |entry: &(std::time::Instant, super::Snapshot)| Some((entry.0, counted(&entry.1)?));
    let then = stage.snapshots.iter().find_map(at);
    let now = stage.snapshots.back().and_then(at);
    match (then, now) {
        (Some(then), Some(now)) => rate(then, now),
        _ => 0.0,
    }
}

fn note_lines(note: &Note, width: usize, paint: Paint) -> Vec<String> {
    let age = Timestamp::now().since(note.at);
    let when = if age < NOW {
        paint.yellow("now     ")
    } else {
        paint.dim(&format!("{:<8}", duration(age)))
    };
    let room = width.saturating_sub(8);
    let mut lines = vec![format!("{when}{}", cut(&note.text, room))];
    if let Some(more) = &note.more {
        let more = cut(more, room.saturating_sub(2));
        lines.push(format!("{:10}{}", "", paint.dim(&more)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Instant;

    use strait::core::{Health, Storage};
    use unicode_width::UnicodeWidthStr;

    use super::super::snapshot::{Snapshot, Topic};
    use super::*;

    #[test]
    fn the_view_fits_its_width_and_shows_rates_and_trouble() {
        let snapshot = |settled, lag| Snapshot {
            topics: vec![Topic {
                name: "orders".into(),
                stored: 8914,
                total: 8914,
            }],
            groups: vec![
                Group::sample("billing", settled, lag),
                Group::sample("mail", settled, lag),
            ],
            storage: Some(Storage {
                used: 5 << 20,
                spare: 0,
                free: 3 << 30,
                growth: None,
                full_in: Some(Duration::from_secs(300)),
            }),
        };
        let then = Instant::now();
        let stage = Stage {
            title: "strait dev --demo".into(),
            place: "./strait-demo".into(),
            durability: "fsync",
            ack_p50: Some(Duration::from_micros(450)),
            started: then,
            snapshots: VecDeque::from([
                (then, snapshot(100, 50)),
                (then + Duration::from_secs(2), snapshot(120, 50)),
            ]),
            notes: VecDeque::from([Note::new("x".repeat(200)).more("y".repeat(200))]),
            tries: vec!["z".repeat(200)],
            demo: true,
            health: Health::Up,
        };
        for width in [20, 79, 200] {
            let lines = lines(&stage, width, Paint::plain());
            assert!(lines.iter().all(|line| line.width() <= width), "{lines:#?}");
        }
        let lines = lines(&stage, 79, Paint::plain());
        assert_eq!(lines[1], "disk 5.0 MiB used, 3.0 GiB free, full in 5 min");
        let billing = lines.iter().find(|line| line.contains("billing")).unwrap();
        for cell in ["orders", "8,914", " 50 ", " 10 ", "slow: 5.0 s"] {
            assert!(billing.contains(cell), "{cell}: {billing}");
        }
    }
}
