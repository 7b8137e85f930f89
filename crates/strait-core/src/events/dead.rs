//! Dead letters: messages that a group gave up, what may be done with them, and the fingerprint of their errors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::chunk::{Message, Position};
use crate::error::{Error, Kind, Result};
use crate::name::Name;
use crate::time::Timestamp;

/// Most earlier deaths that a dead letter remembers: [`DeadLetter::history`].
pub const HISTORY: usize = 8;

/// A message that was given up.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its number in the group on that topic; grows, never used twice. Numbers may have gaps.
    pub number: u64,
    /// The message as it was, with its origin.
    pub message: Message,
    /// The message as an operator changed it: what a redrive delivers. The same id, key and origin.
    pub edited: Option<Message>,
    /// Attempts made; 0 for one that was set aside before it was ever delivered.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: Arc<str>,
    /// The fingerprint of the reason.
    pub fingerprint: ErrorFingerprint,
    /// When it was given up.
    pub died: Timestamp,
    /// How the same message died before and was brought back, oldest first; the newest [`HISTORY`] of them.
    pub history: Vec<Death>,
}

/// An earlier death of a message that was brought back and died again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The number that it had as a dead letter.
    pub number: u64,
    /// Attempts made until then.
    pub attempts: u32,
    /// Why it was given up then.
    pub reason: Arc<str>,
    /// When.
    pub died: Timestamp,
    /// An operator had changed it before it came back.
    pub edited: bool,
}

/// Which dead letters. Every field that is given must fit; the default picks all.
///
/// ```
/// use strait_core::events::DeadFilter;
/// let all = DeadFilter::default();
/// let timeouts = DeadFilter { reason: Some("timed out".to_owned()), partition: Some(3), ..all };
/// assert!(timeouts.numbers.is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadFilter {
    /// These numbers. A change refuses one that is not there, `NotFound`, as a whole; a list passes it over.
    pub numbers: Option<Vec<u64>>,
    /// Of this partition.
    pub partition: Option<u32>,
    /// With this key.
    pub key: Option<Vec<u8>>,
    /// With this fingerprint of their reason.
    pub fingerprint: Option<ErrorFingerprint>,
    /// Whose reason contains this text.
    pub reason: Option<String>,
    /// Given up at this time or later.
    pub died_after: Option<Timestamp>,
    /// Given up before this time.
    pub died_before: Option<Timestamp>,
    /// After at least so many attempts.
    pub min_attempts: Option<u32>,
}

impl DeadFilter {
    /// Those with these numbers.
    pub fn numbers(numbers: impl IntoIterator<Item = u64>) -> Self {
        DeadFilter {
            numbers: Some(numbers.into_iter().collect()),
            ..DeadFilter::default()
        }
    }

    /// True when it picks this one.
    pub fn picks(&self, letter: &DeadLetter) -> bool {
        let DeadFilter {
            numbers,
            partition,
            key,
            fingerprint,
            reason,
            died_after,
            died_before,
            min_attempts,
        } = self;
        let of = |list: &Vec<u64>| list.contains(&letter.number);
        let said = |text: &String| letter.reason.contains(text.as_str());
        let record = letter.message.record();
        numbers.as_ref().is_none_or(of)
            && partition.is_none_or(|partition| letter.message.partition() == partition)
            && key.as_ref().is_none_or(|key| record.key() == Some(key))
            && fingerprint.is_none_or(|fingerprint| letter.fingerprint == fingerprint)
            && reason.as_ref().is_none_or(said)
            && died_after.is_none_or(|after| letter.died >= after)
            && died_before.is_none_or(|before| letter.died < before)
            && min_attempts.is_none_or(|attempts| letter.attempts >= attempts)
    }

    /// Refuses what can fit no dead letter because it contradicts itself: an empty span of time.
    ///
    /// # Errors
    ///
    /// `Rejected`.
    pub fn check(&self) -> Result<()> {
        match (self.died_after, self.died_before) {
            (Some(after), Some(before)) if after >= before => Err(Error::new(
                Kind::Rejected,
                "the filter fits no dead letter: it asks for those that died after a time that is not before its end",
            )
            .next("give a beginning that is before the end")),
            _ => Ok(()),
        }
    }
}

/// What dead letters of one error have in common: [`Events::dead_summary`](super::Events::dead_summary).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadSummary {
    /// The fingerprint of their reasons.
    pub fingerprint: ErrorFingerprint,
    /// How many there are.
    pub count: u64,
    /// The reason of the newest one.
    pub example: Arc<str>,
    /// When the first of them was given up.
    pub first_died: Timestamp,
    /// When the last was.
    pub last_died: Timestamp,
    /// How many different keys they have; those without a key are not counted.
    pub keys: u64,
}

impl DeadSummary {
    /// Counts dead letters, given by number, by the fingerprint of their reason; the most frequent first.
    pub fn of<'a>(letters: impl IntoIterator<Item = &'a DeadLetter>) -> Vec<DeadSummary> {
        let mut by: BTreeMap<ErrorFingerprint, (DeadSummary, BTreeSet<Vec<u8>>)> = BTreeMap::new();
        for letter in letters {
            let (summary, keys) = by.entry(letter.fingerprint).or_insert_with(|| {
                let summary = DeadSummary {
                    fingerprint: letter.fingerprint,
                    count: 0,
                    example: letter.reason.clone(),
                    first_died: letter.died,
                    last_died: letter.died,
                    keys: 0,
                };
                (summary, BTreeSet::new())
            });
            summary.count += 1;
            summary.example = letter.reason.clone();
            summary.first_died = summary.first_died.min(letter.died);
            summary.last_died = summary.last_died.max(letter.died);
            keys.extend(letter.message.record().key().map(<[u8]>::to_vec));
            summary.keys = keys.len() as u64;
        }
        let mut all: Vec<DeadSummary> = by.into_values().map(|(summary, _)| summary).collect();
        all.sort_by_key(|summary| std::cmp::Reverse(summary.count));
        all
    }
}

/// Changes a dead letter, or takes the change back.
#[derive(Debug, Clone)]
pub struct EditDead {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// Its number.
    pub number: u64,
    /// What becomes of it.
    pub edit: DeadEdit,
    /// Only checks: nothing is changed.
    pub dry_run: bool,
}

/// What an edit does. The original is never touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadEdit {
    /// A changed copy is kept beside the original, in the place of an earlier one. What is `None` stays as the present
    /// copy, or else the original, has it.
    Put {
        /// If given, it must be the key that the message has: another one would leave its order.
        key: Option<Vec<u8>>,
        /// The new body.
        body: Option<Bytes>,
        /// The new headers, all of them.
        headers: Option<Vec<(String, Bytes)>>,
    },
    /// The copy goes; a redrive delivers the original again.
    Drop,
}

/// Removes dead letters for good.
#[derive(Debug, Clone)]
pub struct RemoveDead {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// Which.
    pub filter: DeadFilter,
    /// Only say how many.
    pub dry_run: bool,
}

/// Asks for dead letters to be delivered again.
#[derive(Debug, Clone)]
pub struct Redrive {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// Which.
    pub filter: DeadFilter,
    /// At most so many a second, in the order in which they were appended; `None`: all at once. At least 1.
    pub per_second: Option<u32>,
    /// Goes on with this run, which ended early: its rate goes on where it stood, and one undo takes back both parts.
    /// `None`: a run of its own.
    pub resume: Option<u64>,
    /// Only say how many.
    pub dry_run: bool,
}

impl Redrive {
    /// Everything that the filter picks, at once, as a run of its own.
    pub fn new(group: Name, topic: Name, filter: DeadFilter) -> Self {
        Redrive {
            group,
            topic,
            filter,
            per_second: None,
            resume: None,
            dry_run: false,
        }
    }
}

/// What a redrive did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redriven {
    /// The number of the run, for its undo; `None` for a dry run, and where nothing came back.
    pub run: Option<u64>,
    /// How many came back, or would.
    pub count: u64,
    /// How long it takes until the last of them may be delivered.
    pub lasts: Duration,
}

/// Takes a redrive back.
#[derive(Debug, Clone)]
pub struct UndoRedrive {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// The number of the run.
    pub run: u64,
    /// Only say how many.
    pub dry_run: bool,
}

/// What an undo of a redrive found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Undone {
    /// Dead letters again, with attempts, reason, history and edit as they were.
    pub returned: u64,
    /// Out with a member at this moment: they stay with it.
    pub out: u64,
    /// Handled, or given up again, since the redrive.
    pub handled: u64,
}

/// Puts one message aside by hand.
#[derive(Debug, Clone)]
pub struct SetAside {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// The partition.
    pub partition: u32,
    /// The message's position in it.
    pub position: Position,
    /// The operator's reason: that of the dead letter.
    pub reason: Arc<str>,
    /// Also while it is out with a member: its receipt is fenced then, and so may be those of messages that went out
    /// together with it, which come again.
    pub force: bool,
    /// Only checks, and gives the number that it would have: nothing is changed.
    pub dry_run: bool,
}

/// A short name for all errors that say the same of different messages.
///
/// It is a pure function of the reason, the same in every version and on every machine: numbers, hexadecimal texts,
/// UUIDs and quoted texts are taken for the same, and so is white space; what is left is hashed to 48 bits (FNV-1a,
/// folded), shown as 12 hexadecimal digits.
///
/// ```
/// use strait_core::events::ErrorFingerprint;
/// let of = ErrorFingerprint::of;
/// assert_eq!(of("order 42: no such account `ada`"), of("order 7: no such account `bob`"));
/// assert_eq!(of("timeout after 1.5 s (0xfe12)"), of("timeout after 20 s (0x1)"));
/// assert_ne!(of("no such account"), of("no such order"));
/// assert_eq!(of("").to_string().len(), 12);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ErrorFingerprint(u64);

impl ErrorFingerprint {
    const BITS: u32 = 48;

    /// The fingerprint of a reason.
    pub fn of(reason: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        normal_form(reason, |byte| {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        });
        let mask = (1 << Self::BITS) - 1;
        ErrorFingerprint((hash >> Self::BITS) ^ (hash & mask))
    }

    /// The one with this number, as [`number`](Self::number) gave it; `None` when it has more than 48 bits.
    pub fn from_number(number: u64) -> Option<Self> {
        (number >> Self::BITS == 0).then_some(ErrorFingerprint(number))
    }

    /// As a number of 48 bits.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ErrorFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Debug for ErrorFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ErrorFingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(ErrorFingerprint).ok_or_else(|| {
            Error::new(
                Kind::Rejected,
                format!("`{text}` is no fingerprint of an error: it has 12 hexadecimal digits"),
            )
            .next("`strait dlq ls GROUP --by-error` shows them")
        })
    }
}

/// The bytes of a reason with everything that differs from message to message replaced by one mark.
fn normal_form(reason: &str, mut put: impl FnMut(u8)) {
    let bytes = reason.as_bytes();
    let mut at = 0;
    let mut space = true;
    while at < bytes.len() {
        let byte = bytes[at];
        let word = word_len(&bytes[at..]);
        if byte.is_ascii_whitespace() {
            at += 1;
            if !space {
                put(b' ');
            }
            space = true;
            continue;
        }
        space = false;
        if let Some(len) = quoted_len(bytes, at) {
            put(b'"');
            at += len;
        } else if word > 0 && is_variable(&bytes[at..at + word]) {
            put(b'#');
            at += word;
        } else if word > 0 {
            put_word(&bytes[at..at + word], &mut put);
            at += word;
        } else {
            put(byte);
            at += 1;
        }
    }
}

/// A word that is not variable as a whole: each number in it is one mark (`order42` and `order7` are the same).
fn put_word(word: &[u8], put: &mut impl FnMut(u8)) {
    let mut number = false;
    for byte in word {
        let digit = byte.is_ascii_digit();
        match (digit, number) {
            (true, false) => put(b'#'),
            (true, true) => {}
            (false, _) => put(*byte),
        }
        number = digit;
    }
}

/// Length of the word that begins here: letters, digits and what joins the digits of numbers, times and UUIDs.
fn word_len(bytes: &[u8]) -> usize {
    let joins = |at: usize| {
        matches!(bytes[at], b'-' | b'.' | b':' | b'_' | b'+' | b',')
            && at > 0
            && bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric)
    };
    let part = |at: &usize| bytes[*at].is_ascii_alphanumeric() || joins(*at);
    (0..bytes.len()).take_while(part).count()
}

/// True for a number, a hexadecimal text of 4 and more digits with a figure in it, and what is made of such parts.
fn is_variable(word: &[u8]) -> bool {
    let separator = |byte: &u8| !byte.is_ascii_alphanumeric();
    let numeric = |part: &[u8]| {
        let hex = part.strip_prefix(b"0x").or(part.strip_prefix(b"0X"));
        let digits = part.iter().filter(|byte| byte.is_ascii_digit()).count();
        let all_hex = |text: &[u8]| text.iter().all(u8::is_ascii_hexdigit);
        hex.is_some_and(|hex| !hex.is_empty() && all_hex(hex))
            || digits == part.len()
            || (digits > 0 && part.len() >= 4 && all_hex(part))
    };
    let uuid = word.len() == 36 && word.iter().filter(|byte| **byte == b'-').count() == 4;
    let hex_only = word
        .iter()
        .all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    (uuid && hex_only) || word.split(separator).all(numeric)
}

/// Length of the quoted text that begins here, with both quotes. An apostrophe inside of a word begins none.
fn quoted_len(bytes: &[u8], at: usize) -> Option<usize> {
    let quote = bytes[at];
    let inside = at > 0 && bytes[at - 1].is_ascii_alphanumeric();
    if !matches!(quote, b'"' | b'\'' | b'`') || (quote == b'\'' && inside) {
        return None;
    }
    let rest = &bytes[at + 1..];
    let ends = |i: &usize| {
        let after = rest.get(i + 1).is_some_and(u8::is_ascii_alphanumeric);
        rest[*i] == quote && !(quote == b'\'' && after)
    };
    (0..rest.len()).find(ends).map(|end| end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(reason: &str) -> String {
        let mut bytes = Vec::new();
        normal_form(reason, |byte| bytes.push(byte));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_differs_between_messages_is_taken_out() {
        for (reason, normal) in [
            ("no such order: 42", "no such order: #"),
            (
                "order 0c6c7bd2-31d5-4e0c-9a51-7a3b3b1f6a10 is gone",
                "order # is gone",
            ),
            (
                "order abcdefab-abcd-abcd-abcd-abcdefabcdef is gone",
                "order # is gone",
            ),
            ("at 0xDEADBEEF", "at #"),
            ("commit 9fceb02 is bad", "commit # is bad"),
            ("2026-11-24T10:00:00.123Z late", "#-#-#T#:#:#.#Z late"),
            ("10.0.0.1:5432 refused", "# refused"),
            ("it took 1.5 s", "it took # s"),
            (
                "unknown field `colour` at \"a b\"",
                "unknown field \" at \"",
            ),
            ("can't read 'x'", "can't read \""),
            ("worker7 of queue_12", "worker# of queue_#"),
            ("  two   spaces\n", "two spaces "),
            ("an open ` quote", "an open ` quote"),
            ("deadbeef", "deadbeef"),
            ("größer als 3", "größer als #"),
        ] {
            assert_eq!(form(reason), normal, "{reason}");
        }
    }

    /// Operators keep fingerprints in scripts and alarms: they are the same in every version.
    #[test]
    fn it_is_the_same_for_ever() {
        let of = |reason| ErrorFingerprint::of(reason).to_string();
        assert_eq!(of(""), "9ce48422e8d7");
        assert_eq!(of("no such order: 42"), "cb3f70a0426b");
        let print = ErrorFingerprint::of("no such order: 42");
        assert_eq!(
            print.to_string().parse::<ErrorFingerprint>().unwrap(),
            print
        );
        assert_eq!(ErrorFingerprint::from_number(print.number()), Some(print));
        assert_eq!(ErrorFingerprint::from_number(1 << 48), None);
        for text in ["", "12345", "zzzzzzzzzzzz", "+12345678901", "1234567890123"] {
            assert!(text.parse::<ErrorFingerprint>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_reason_has_one(reason in ".*", number: u64) {
            let print = ErrorFingerprint::of(&reason);
            proptest::prop_assert_eq!(ErrorFingerprint::from_number(print.number()), Some(print));
            let with = |n: u64| ErrorFingerprint::of(&format!("{reason} {n} end"));
            proptest::prop_assert_eq!(with(number), with(7));
        }
    }

    #[test]
    fn a_span_of_no_time_is_refused() {
        let at = Timestamp::from_millis;
        let between = |after, before| DeadFilter {
            died_after: Some(at(after)),
            died_before: Some(at(before)),
            ..DeadFilter::default()
        };
        assert!(between(1, 2).check().is_ok());
        assert!(between(2, 2).check().is_err());
    }
}
