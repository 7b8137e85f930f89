//! Durations, times, sizes and names as people write and read them.

use std::time::Duration;

use jiff::civil;
use strait::core::events::PAUSE_REASON;
use strait::core::{Storage, Timestamp};

/// Reads a duration such as `500ms`, `30s`, `1h30m`, `7d`; units are ms, s, m, h, d, w.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration; write for example 500ms, 30s, 1h30m or 7d");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (count, after) = rest.split_at(digits);
        let count: u64 = count.parse().map_err(|_| bad())?;
        let end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(bad()),
        };
        let part = count.checked_mul(millis).ok_or_else(bad)?;
        total = total
            .checked_add(Duration::from_millis(part))
            .ok_or_else(bad)?;
        rest = after;
    }
    Ok(total)
}

/// Reads a number of bytes such as `64MiB`, `1GB`, `4096`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a size; write for example 4096, 64MiB or 10GB");
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let count: u64 = count.parse().map_err(|_| bad())?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    count.checked_mul(factor).ok_or_else(bad)
}

/// Reads a point in time: RFC 3339, a date or a date with a time (UTC), milliseconds since 1970, or `-10m` before `now`.
pub(crate) fn parse_time(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(millis) = text.parse::<i64>() {
        return Ok(Timestamp::from_millis(millis));
    }
    if let Some(ago) = text.strip_prefix('-') {
        let ago = parse_duration(ago)?;
        let millis = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(Timestamp::from_millis(
            now.as_millis().saturating_sub(millis),
        ));
    }
    let utc = |at: civil::DateTime| at.to_zoned(jiff::tz::TimeZone::UTC).map(|z| z.timestamp());
    text.parse::<jiff::Timestamp>()
        .or_else(|_| text.parse::<civil::DateTime>().and_then(utc))
        .map(|at| Timestamp::from_millis(at.as_millisecond()))
        .map_err(|_| {
            format!(
                "`{text}` is not a time; write for example 2026-01-31T12:00:00Z, 2026-01-31, \
                 1767182400000 (milliseconds) or -10m"
            )
        })
}

/// RFC 3339 in UTC with milliseconds; the bare number of milliseconds outside of the years -9999 to 9999.
pub(crate) fn time(at: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(at.as_millis()) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => at.as_millis().to_string(),
    }
}

/// A length of time in its greatest unit, short: `0.02 s`, `5.1 s`, `12 min`, `3 h`, `2 d`.
pub(crate) fn duration(length: Duration) -> String {
    let seconds = length.as_secs_f64();
    match length.as_secs() {
        0 if length.is_zero() => "0 s".to_owned(),
        0 => format!("{seconds:.2} s"),
        1..=9 => format!("{seconds:.1} s"),
        10..=119 => format!("{seconds:.0} s"),
        120..=7199 => format!("{:.0} min", seconds / 60.0),
        7200..=172_799 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

/// The reason of what is done by hand: whoever finds it must know why.
pub(crate) fn parse_reason(text: &str) -> Result<String, String> {
    match text.len() {
        _ if text.trim().is_empty() => Err("it is empty: say in a sentence why".to_owned()),
        long if long > PAUSE_REASON => Err(format!(
            "it has {long} bytes: at most {PAUSE_REASON} are kept"
        )),
        _ => Ok(text.to_owned()),
    }
}

/// How long ago, for people, else the time itself.
pub(crate) fn when(at: Timestamp, people: bool) -> String {
    if people {
        format!("{} ago", duration(Timestamp::now().since(at)))
    } else {
        time(at)
    }
}

/// A number, in groups of three for people.
pub(crate) fn count(n: u64, people: bool) -> String {
    let digits = n.to_string();
    if !people {
        return digits;
    }
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in its greatest unit for people, else in bytes.
pub(crate) fn bytes(n: u64, people: bool) -> String {
    if !people {
        return n.to_string();
    }
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = n as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{size:.1} {}", units[unit])
    }
}

/// How a storage stands, in a line: `disk 2.1 GiB used, 80.0 GiB free, full in 3 d`.
pub(crate) fn storage(now: &Storage) -> String {
    let (used, free) = (bytes(now.used, true), bytes(now.free, true));
    let full = match now.full_in {
        Some(Duration::ZERO) => ", full: sends are refused".to_owned(),
        Some(full) => format!(", full in {}", duration(full)),
        None => String::new(),
    };
    format!("disk {used} used, {free} free{full}")
}

/// Text that cannot move a terminal's cursor: control characters are shown as escapes, foreign bytes as `\xNN`.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// At most `width` columns, with `…` where something was cut.
pub(crate) fn cut(text: &str, width: usize) -> String {
    use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_sizes_and_times_are_read() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "5", "m", "5x", "-5s", "99999999999999999w"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("10GB"), Ok(10_000_000_000));
        assert!(parse_bytes("99999999999TiB").is_err());
        let now = Timestamp::from_millis(1_000_000);
        let read = |text| parse_time(text, now).map(Timestamp::as_millis);
        assert_eq!(read("-10s"), Ok(990_000));
        assert_eq!(read("-5"), Ok(-5), "milliseconds before 1970");
        assert_eq!(read("1969-12-31T23:59:59Z"), Ok(-1000));
        assert_eq!(read("1970-01-02"), Ok(86_400_000));
        assert!(read("soon").is_err());
    }

    #[test]
    fn times_are_written_in_utc_also_before_1970() {
        assert_eq!(time(Timestamp::from_millis(-1)), "1969-12-31T23:59:59.999Z");
        assert_eq!(
            time(Timestamp::from_millis(i64::MAX)),
            "9223372036854775807"
        );
    }

    #[test]
    fn a_storage_is_shown_in_a_line() {
        let mut now = Storage {
            used: 2_254_857_830,
            spare: 0,
            free: 80 << 30,
            growth: None,
            full_in: None,
        };
        assert_eq!(storage(&now), "disk 2.1 GiB used, 80.0 GiB free");
        now.full_in = Some(Duration::from_secs(3 * 86_400 + 5));
        let text = "disk 2.1 GiB used, 80.0 GiB free, full in 3 d";
        assert_eq!(storage(&now), text);
        (now.free, now.full_in) = (4096, Some(Duration::ZERO));
        let text = "disk 2.1 GiB used, 4.0 KiB free, full: sends are refused";
        assert_eq!(storage(&now), text);
    }

    #[test]
    fn nothing_shown_can_move_the_cursor() {
        assert_eq!(shown(b"a\x1b[2J\nb\xff"), "a\\u{1b}[2J\\nb\\xff");
        assert_eq!(cut("häuser", 4), "häu…");
        assert_eq!(count(1_234_567, true), "1,234,567");
    }
}
