//! The file `BACKUP`: what a backup consists of. It is written last, so a backup without it is not whole.
//!
//! Text, one thing a line; the last line is the CRC-32C of all before it:
//!
//! ```text
//! strait-backup 1
//! identity 0123456789abcdef0123456789abcdef
//! sequence 4711
//! taken 1764028800000
//! file log-0000000000000001.seg 1048576 1a2b3c4d
//! end 5e6f7a8b
//! ```

use std::fmt::Write;

use strait_core::{Error, Kind, Result, codes};

use crate::disk::crc::crc32c;

/// The file's name.
pub(crate) const MANIFEST: &str = "BACKUP";
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) identity: u128,
    /// The last sequence that is in it.
    pub(super) sequence: u64,
    /// When it was taken, milliseconds since the epoch.
    pub(super) taken: i64,
    pub(super) files: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Length in bytes, and the CRC-32C of all of them.
    pub(super) len: u64,
    pub(super) crc: u32,
}

impl Manifest {
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "strait-backup {VERSION}\nidentity {:032x}\nsequence {}\ntaken {}\n",
            self.identity, self.sequence, self.taken
        );
        for Entry { name, len, crc } in &self.files {
            // Writing to a string does not fail.
            let _ = writeln!(text, "file {name} {len} {crc:08x}");
        }
        let crc = crc32c(text.as_bytes());
        let _ = writeln!(text, "end {crc:08x}");
        text
    }

    pub(super) fn parse(text: &str) -> Result<Manifest> {
        let damaged = || bad(format!("its file {MANIFEST} is damaged"));
        let body = text.strip_suffix('\n').ok_or_else(damaged)?;
        let (body, end) = body.rsplit_once('\n').ok_or_else(damaged)?;
        let crc = end
            .strip_prefix("end ")
            .and_then(|hex| u32::from_str_radix(hex, 16).ok());
        if crc != Some(crc32c(&text.as_bytes()[..=body.len()])) {
            return Err(damaged());
        }
        let mut lines = body.lines();
        let version = lines
            .next()
            .and_then(|line| line.strip_prefix("strait-backup "));
        if version != Some(&VERSION.to_string()) {
            let found = version.unwrap_or("of no known kind");
            let text =
                format!("the backup has version {found}, this build restores version {VERSION}");
            return Err(Error::new(Kind::Config, text)
                .code(codes::UNKNOWN_FORMAT)
                .next("restore it with the version of strait that wrote it"));
        }
        let mut field = |name: &str| {
            let line = lines.next()?.strip_prefix(name)?;
            line.strip_prefix(' ')
        };
        let identity = field("identity").and_then(|hex| u128::from_str_radix(hex, 16).ok());
        let sequence = field("sequence").and_then(|n| n.parse().ok());
        let taken = field("taken").and_then(|n| n.parse().ok());
        let files: Option<Vec<Entry>> = lines.map(Entry::parse).collect();
        let all = identity.zip(sequence).zip(taken).zip(files);
        let (((identity, sequence), taken), files) = all.ok_or_else(damaged)?;
        Ok(Manifest {
            identity,
            sequence,
            taken,
            files,
        })
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Entry> {
        let mut words = line.strip_prefix("file ")?.split(' ');
        let entry = Entry {
            name: words.next()?.to_owned(),
            len: words.next()?.parse().ok()?,
            crc: u32::from_str_radix(words.next()?, 16).ok()?,
        };
        // A plain name: nothing outside of the directory is read or written.
        let plain = !entry.name.contains(['/', '\0']) && !entry.name.starts_with('.');
        (plain && words.next().is_none()).then_some(entry)
    }
}

pub(super) fn bad(why: String) -> Error {
    Error::new(Kind::Corrupt, format!("the backup cannot be used: {why}"))
        .code(codes::BAD_BACKUP)
        .next("take another backup, or use an older one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_every_change_is_seen() {
        let entry = |name: &str, len| Entry {
            name: name.to_owned(),
            len,
            crc: 7,
        };
        let manifest = Manifest {
            identity: 5,
            sequence: 9,
            taken: -1,
            files: vec![entry("log-1.seg", 0), entry("snap-2", 1 << 40)],
        };
        let text = manifest.text();
        assert_eq!(Manifest::parse(&text).unwrap(), manifest);
        for at in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] ^= 1;
            let other = String::from_utf8(other).unwrap();
            assert!(Manifest::parse(&other).is_err(), "byte {at}");
            assert!(Manifest::parse(&text[..at]).is_err(), "cut at {at}");
        }
    }
}
