//! What was measured, as tables for docs/benchmarks.md.

use super::super::grouped;
use super::contestant::Kind;
use super::{InRing, ROWS, Row, Run, Work};

/// The section of the document.
pub(super) fn section(run: &Run, left_out: &[String]) -> String {
    let mut text = format!(
        "`cargo xtask bench peers --seconds {} --rounds {}`: 100 B, one broker each, clients and servers on the same {} \
         processors, all in turns. A figure is the median of the rounds, *ahead* the median of the ratios of each round: \
         above 1 strait is ahead. Peers with a server pay for a socket, which strait in process does not: compare them with \
         strait over its owner's socket.\n\n",
        run.seconds,
        run.rounds,
        std::thread::available_parallelism().map_or(0, usize::from),
    );
    let unsynced: Vec<String> = run
        .in_ring
        .iter()
        .filter(|one| !one.contestant.is_synced())
        .map(|one| format!("{} ({})", one.contestant.label, one.contestant.ack()))
        .collect();
    if !unsynced.is_empty() {
        text.push_str(&format!(
            "**Acknowledged before the disk has it:** {}. strait's figures beside them are fsynced.\n\n",
            unsynced.join("; ")
        ));
    }
    for why in left_out {
        text.push_str(&format!("Left out: {why}\n\n"));
    }
    for (index, row) in ROWS.iter().enumerate() {
        text.push_str(&table(run, index, row));
    }
    text
}

fn table(run: &Run, index: usize, row: &Row) -> String {
    let unit = match (row.by_time, row.work) {
        (true, _) => "ack p50, us",
        (false, Work::CatchUp) => "records/s",
        (false, Work::Append { .. }) => "messages/s",
    };
    let mut text = format!(
        "### {}\n\n| | acknowledges | {unit} | ack p99, ms | strait in process ahead | strait over its socket ahead | how |\n\
         |---|---|---|---|---|---|---|\n",
        row.name
    );
    let of_kind = |kind: Kind| run.in_ring.iter().find(|one| one.contestant.kind == kind);
    let is_strait = |one: &&InRing| one.contestant.program == "strait";
    let strait = of_kind(Kind::InProcess).filter(is_strait);
    let socket = of_kind(Kind::OwnersSocket);
    for one in &run.in_ring {
        let ahead = |of: Option<&InRing>| {
            of.filter(|_| one.contestant.program != "strait")
                .and_then(|of| ratio_in_words(&scores(of, index, row), &scores(one, index, row)))
                .unwrap_or_else(|| "-".to_owned())
        };
        let results = &one.results[index];
        let value = median(results.iter().map(|m| match row.by_time {
            true => m.p50,
            false => m.per_second,
        }));
        let p99 = match row.work {
            Work::CatchUp => "-".to_owned(),
            Work::Append { .. } => format!("{:.2}", median(results.iter().map(|m| m.p99)) / 1e3),
        };
        text.push_str(&format!(
            "| {} | {} | {} | {p99} | {} | {} | {} |\n",
            one.contestant.label,
            one.contestant.ack(),
            grouped(value),
            ahead(strait),
            ahead(socket),
            one.ways[index]
        ));
    }
    text.push('\n');
    text
}

fn scores(one: &InRing, index: usize, row: &Row) -> Vec<f64> {
    one.results[index]
        .iter()
        .map(|m| m.score(row.by_time))
        .collect()
}

/// The median of the rounds' ratios, marked where strait is not ahead.
fn ratio_in_words(strait: &[f64], peer: &[f64]) -> Option<String> {
    if strait.is_empty() || strait.len() != peer.len() {
        return None;
    }
    let ratio = median(strait.iter().zip(peer).map(|(a, b)| a / b));
    Some(match ratio >= 1.0 {
        true => format!("{ratio:.2}"),
        false => format!("**{ratio:.2}, behind**"),
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_ratios_says_who_is_ahead() {
        let text = |strait: &[f64], peer: &[f64]| ratio_in_words(strait, peer).unwrap_or_default();
        // The disk was slow in the last round, for both.
        assert_eq!(text(&[400.0, 420.0, 40.0], &[100.0, 105.0, 10.0]), "4.00");
        assert_eq!(text(&[50.0, 50.0], &[100.0, 100.0]), "**0.50, behind**");
        assert_eq!(text(&[], &[]), "");
        assert_eq!(text(&[1.0], &[1.0, 2.0]), "");
    }
}
