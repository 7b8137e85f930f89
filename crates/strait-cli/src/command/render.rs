//! Messages as lines: JSON, columns, or a format of the user's.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use strait::core::{Attr, Position, Record};

use crate::text;

/// How messages are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Render {
    /// One JSON object per line.
    Json,
    /// Columns for people; nothing in them can move the cursor.
    Columns,
    /// Pieces of a format.
    Pieces(Vec<Piece>),
}

/// A piece of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key,
    Value,
    Kind,
    Time,
    Headers,
}

/// Where a message stands, and the message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: u32,
    pub(crate) position: Position,
    pub(crate) record: Record<'a>,
}

/// Reads a format: `%t` topic, `%p` partition, `%o` offset, `%k` key, `%v` value, `%K` kind, `%T` time, `%h` headers,
/// `%%` a percent sign; `\n`, `\t`, `\0`, `\\` and `\xNN` are bytes.
pub(crate) fn parse_format(format: &str) -> Result<Render, String> {
    let mut pieces = Vec::new();
    let mut plain = Vec::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        let piece = match c {
            '\\' => {
                plain.push(escape(&mut rest)?);
                continue;
            }
            '%' => match rest.next() {
                Some('%') => {
                    plain.push(b'%');
                    continue;
                }
                Some('t') => Piece::Topic,
                Some('p') => Piece::Partition,
                Some('o') => Piece::Offset,
                Some('k') => Piece::Key,
                Some('v') => Piece::Value,
                Some('K') => Piece::Kind,
                Some('T') => Piece::Time,
                Some('h') => Piece::Headers,
                Some(other) => {
                    return Err(format!(
                        "%{other} is nothing: there are %t %p %o %k %v %K %T %h %%"
                    ));
                }
                None => return Err("a single % at the end: write %%".to_owned()),
            },
            _ => {
                plain.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        if !plain.is_empty() {
            pieces.push(Piece::Bytes(std::mem::take(&mut plain)));
        }
        pieces.push(piece);
    }
    if !plain.is_empty() {
        pieces.push(Piece::Bytes(plain));
    }
    Ok(Render::Pieces(pieces))
}

fn escape(rest: &mut std::str::Chars<'_>) -> Result<u8, String> {
    match rest.next() {
        Some('n') => Ok(b'\n'),
        Some('t') => Ok(b'\t'),
        Some('r') => Ok(b'\r'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let digits: String = rest.take(2).collect();
            u8::from_str_radix(&digits, 16).map_err(|_| format!("\\x{digits} is not a byte"))
        }
        _ => Err("a backslash begins \\n, \\t, \\r, \\0, \\\\ or \\xNN".to_owned()),
    }
}

impl Render {
    /// Writes one message. Writing to memory does not fail, so results of `write!` are passed over here.
    pub(crate) fn write(&self, page: &mut Vec<u8>, seen: Seen<'_>) {
        match self {
            Render::Json => write_json(page, seen),
            Render::Columns => write_columns(page, seen),
            Render::Pieces(pieces) => pieces.iter().for_each(|piece| piece.write(page, seen)),
        }
    }
}

impl Piece {
    fn write(&self, page: &mut Vec<u8>, seen: Seen<'_>) {
        let record = seen.record;
        match self {
            Piece::Bytes(bytes) => page.extend_from_slice(bytes),
            Piece::Topic => page.extend_from_slice(seen.topic.as_bytes()),
            Piece::Partition => drop(write!(page, "{}", seen.partition)),
            Piece::Offset => drop(write!(page, "{}", seen.position)),
            Piece::Key => page.extend_from_slice(record.key().unwrap_or_default()),
            Piece::Value => page.extend_from_slice(record.body()),
            Piece::Kind => page.extend_from_slice(record.kind().unwrap_or_default().as_bytes()),
            Piece::Time => page.extend_from_slice(text::time(record.time()).as_bytes()),
            Piece::Headers => {
                for (i, (name, value)) in record.headers().enumerate() {
                    if i > 0 {
                        page.push(b',');
                    }
                    page.extend_from_slice(name.as_bytes());
                    page.push(b'=');
                    page.extend_from_slice(value);
                }
            }
        }
    }
}

/// An offset as JSON: a number, or a text where the engine's positions have two halves.
pub(crate) fn offset(position: Position) -> String {
    match position.parts() {
        (0, low) => low.to_string(),
        _ => format!("\"{position}\""),
    }
}

fn write_json(page: &mut Vec<u8>, seen: Seen<'_>) {
    let record = seen.record;
    let _ = write!(
        page,
        r#"{{"topic":"{}","partition":{},"offset":{}"#,
        seen.topic,
        seen.partition,
        offset(seen.position)
    );
    match record.key() {
        Some(key) => write_bytes(page, "key", key),
        None => page.extend_from_slice(br#","key":null"#),
    }
    page.extend_from_slice(br#","kind":"#);
    match record.attr(Attr::Kind) {
        Some(kind) => write_text(page, kind),
        None => page.extend_from_slice(b"null"),
    }
    page.extend_from_slice(br#","time":"#);
    write_text(page, &text::time(record.time()));
    page.extend_from_slice(br#","headers":["#);
    for (i, (name, value)) in record.headers().enumerate() {
        page.extend_from_slice(if i > 0 { b",[" } else { b"[" });
        write_text(page, name);
        page.push(b',');
        match std::str::from_utf8(value) {
            Ok(value) => write_text(page, value),
            Err(_) => {
                let _ = write!(page, r#"{{"base64":"{}"}}"#, BASE64.encode(value));
            }
        }
        page.push(b']');
    }
    page.push(b']');
    write_bytes(page, "value", record.body());
    page.extend_from_slice(b"}\n");
}

/// `"name":"text"` where the bytes are UTF-8, else `"name_base64":"..."`.
fn write_bytes(page: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            let _ = write!(page, r#","{name}":"#);
            write_text(page, text);
        }
        Err(_) => {
            let _ = write!(page, r#","{name}_base64":"{}""#, BASE64.encode(bytes));
        }
    }
}

fn write_text(page: &mut Vec<u8>, text: &str) {
    // A text is always valid JSON, and memory takes all of it.
    let _ = serde_json::to_writer(page, text);
}

fn write_columns(page: &mut Vec<u8>, seen: Seen<'_>) {
    let record = seen.record;
    let key = record.key().map_or("-".to_owned(), text::shown);
    let kind = record.kind().map(|kind| format!("{kind}  "));
    let place = format!("{}/{} {}", seen.topic, seen.partition, seen.position);
    let _ = writeln!(
        page,
        "{}  {place:<20}  {key:<10}  {}{}",
        text::time(record.time()),
        kind.unwrap_or_default(),
        text::shown(record.body())
    );
}

#[cfg(test)]
mod tests {
    use strait::core::{NewRecord, Records, RecordsBuilder, Timestamp};

    use super::*;

    fn records(record: NewRecord<'_>, kind: &[(Attr, &str)]) -> Records {
        let time = Timestamp::from_millis(1500);
        let mut batch = RecordsBuilder::with(kind, Default::default(), time, 7).unwrap();
        batch.push(record).unwrap();
        batch.build()
    }

    fn shown_as(render: &Render, records: &Records) -> String {
        let mut page = Vec::new();
        let seen = Seen {
            topic: "orders",
            partition: 3,
            position: Position::at(12),
            record: records.iter().next().unwrap(),
        };
        render.write(&mut page, seen);
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn json_keeps_text_exactly_and_other_bytes_as_base64() {
        let full = records(
            NewRecord {
                key: Some(b"ada"),
                body: "{\"a\":\"\u{7f}ü\"}\t".as_bytes(),
                headers: &[("a", b"1"), ("a", b"\xff")],
                ..Default::default()
            },
            &[(Attr::Kind, "order.placed.v1")],
        );
        assert_eq!(
            shown_as(&Render::Json, &full),
            "{\"topic\":\"orders\",\"partition\":3,\"offset\":12,\"key\":\"ada\",\"kind\":\"order.placed.v1\",\
             \"time\":\"1970-01-01T00:00:01.500Z\",\"headers\":[[\"a\",\"1\"],[\"a\",{\"base64\":\"/w==\"}]],\
             \"value\":\"{\\\"a\\\":\\\"\u{7f}ü\\\"}\\t\"}\n"
        );
        let bare = records(
            NewRecord {
                body: b"\xff\xfe",
                ..Default::default()
            },
            &[],
        );
        assert_eq!(
            shown_as(&Render::Json, &bare),
            "{\"topic\":\"orders\",\"partition\":3,\"offset\":12,\"key\":null,\"kind\":null,\
             \"time\":\"1970-01-01T00:00:01.500Z\",\"headers\":[],\"value_base64\":\"//4=\"}\n"
        );
    }

    #[test]
    fn a_format_is_followed_byte_by_byte_and_a_wrong_one_refused() {
        let one = records(
            NewRecord {
                key: Some(b"k"),
                body: b"v",
                headers: &[("h", b"1")],
                ..Default::default()
            },
            &[],
        );
        let render = parse_format("%t/%p@%o %k=%v%% %h\\x41\\n").unwrap();
        assert_eq!(shown_as(&render, &one), "orders/3@12 k=v% h=1A\n");
        for bad in ["%", "%z", "\\", "\\q", "\\xzz"] {
            assert!(parse_format(bad).is_err(), "{bad}");
        }
    }
}
