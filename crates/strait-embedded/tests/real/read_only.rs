//! A damaged directory that is opened to look at it.

use std::collections::BTreeMap;
use std::path::Path;

use strait_core::events::GroupSpec;
use strait_core::{Claim, Engine, Error, Health, Kind, Outcome, Outgoing, Unit, codes};
use strait_embedded::{Embedded, Options};

use crate::support::{append, append_of, block_on, declare, events, name, open, read_all};

const MESSAGES: u64 = 60;

fn body(i: u64) -> Vec<u8> {
    format!("message number {i} of them all, {}", "x".repeat(50_000)).into_bytes()
}

/// Some segments of messages, closed in order.
fn filled(dir: &Path) {
    let options = Options {
        segment_bytes: 1 << 20,
        ..Options::default()
    };
    let engine = Embedded::open(dir, options).expect("an empty directory");
    block_on(async {
        declare(&engine, "in", 1).await;
        for i in 0..MESSAGES {
            append(&engine, "in", 0, &body(i)).await.expect("appended");
        }
    });
}

/// Flips a byte in the middle of message `i`; gives the file's name and the place.
fn flip(dir: &Path, i: u64) -> (String, u64) {
    let needle = format!("message number {i} of them all");
    for entry in std::fs::read_dir(dir).expect("the directory") {
        let path = entry.expect("an entry").path();
        let mut bytes = std::fs::read(&path).expect("a file");
        let found = memchr::memmem::find(&bytes, needle.as_bytes());
        if let Some(at) = found {
            bytes[at + 1000] ^= 1;
            std::fs::write(&path, bytes).expect("written");
            let file = path.file_name().expect("a name").to_string_lossy();
            return (file.into_owned(), at as u64 + 1000);
        }
    }
    panic!("message {i} is in no file");
}

/// Everything in the directory, byte by byte.
fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).expect("the directory");
    let file = |entry: std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, std::fs::read(entry.path()).expect("a file"))
    };
    entries
        .map(|entry| file(entry.expect("an entry")))
        .collect()
}

fn look(dir: &Path) -> strait_core::Result<std::sync::Arc<Embedded>> {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    Embedded::open(dir, options)
}

fn assert_read_only(error: &Error) {
    assert_eq!(
        (error.kind(), error.code_str()),
        (Kind::Unsupported, Some(codes::READ_ONLY)),
        "{error:?}"
    );
    assert!(error.advice().is_some());
}

#[test]
fn what_is_in_front_of_the_damage_can_be_read() {
    for damaged in [5, MESSAGES / 2, MESSAGES - 2] {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("data");
        filled(&dir);
        let (file, at) = flip(&dir, damaged);
        let before = content(&dir);

        let refused = open(&dir).expect_err("it is damaged");
        assert_eq!(refused.kind(), Kind::Corrupt, "{refused:?}");
        let advice = refused.advice().expect("a next step");
        assert!(advice.contains("read_only=true"), "{advice}");

        let engine = look(&dir).expect("what is in front of the damage");
        let read = block_on(read_all(&engine, "in", 0));
        assert_eq!(
            read.len() as u64,
            damaged,
            "up to the damage and no further"
        );
        for (offset, bytes) in read {
            assert_eq!(bytes, body(offset));
        }
        let warnings = engine.opened().warnings.join("\n");
        assert!(warnings.contains(&file), "{warnings}");
        let named = warnings.split_whitespace().any(|word| {
            let number = word.trim_matches(|c: char| !c.is_ascii_digit());
            number
                .parse::<u64>()
                .is_ok_and(|n| n > at - 52_000 && n <= at)
        });
        assert!(named, "byte {at}: {warnings}");
        assert!(
            matches!(&*engine.health().borrow(), Health::Impaired(text) if text.contains(&file))
        );
        drop(engine);
        assert!(content(&dir) == before, "a byte of the directory changed");
    }
}

#[test]
fn nothing_is_written_through_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    filled(&dir);
    let before = content(&dir);
    let engine = look(&dir).expect("a whole directory");
    assert!(engine.opened().warnings.is_empty());
    block_on(async {
        assert_eq!(read_all(&engine, "in", 0).await.len() as u64, MESSAGES);
        let refused = append(&engine, "in", 0, b"x").await;
        assert_read_only(&refused.expect_err("an append"));
        let spec = GroupSpec::new(name("group"), name("in"));
        let refused = events(&engine).join(spec).await;
        assert_read_only(&refused.expect_err("a member"));
        let refused = events(&engine).delete(name("in")).await;
        assert_read_only(&refused.expect_err("a delete"));
        let append = append_of("in", 0, b"x");
        let unit = Unit::send(Outgoing::Append {
            topic: append.topic,
            partition: 0,
            records: append.records,
            expected: append.expected,
            dedupe: false,
        });
        match engine.commit(vec![unit]).await.remove(0) {
            Outcome::NotApplied(_, error) => assert_read_only(&error),
            other => panic!("{other:?}"),
        }
        let claim = Claim {
            scope: "tests".into(),
            key: "key".into(),
            holder: "holder".into(),
            lease: std::time::Duration::from_secs(1),
            wait: std::time::Duration::ZERO,
            at_most_once: false,
        };
        assert_read_only(&engine.claim(claim).await.expect_err("a claim"));
    });
    let second = look(&dir).expect("readers share a directory");
    let owner = open(&dir).expect_err("not with a reader");
    assert!(owner.is(codes::LOCKED), "{owner:?}");
    drop((engine, second));
    assert!(content(&dir) == before, "a byte of the directory changed");

    let owner = open(&dir).expect("the readers are gone");
    let refused = look(&dir).expect_err("an owner writes to it");
    assert!(refused.is(codes::LOCKED), "{refused:?}");
    drop(owner);
}

#[test]
fn what_is_no_directory_of_strait_is_not_made_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let refused = look(dir.path()).expect_err("there is nothing");
    assert_eq!(refused.kind(), Kind::NotFound, "{refused:?}");
    assert!(content(dir.path()).is_empty());
    let refused = look(&dir.path().join("missing")).expect_err("there is nothing");
    assert!(!dir.path().join("missing").exists(), "{refused:?}");
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    let refused = Embedded::memory(options).expect_err("there is nothing to look at");
    assert_eq!(refused.kind(), Kind::Config);
}

#[test]
fn verify_names_all_damage_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data");
    filled(&dir);
    let clean = strait_embedded::verify(&dir).expect("it can be read");
    assert_eq!(clean.damage, []);
    assert!(clean.segments > 2 && clean.groups > MESSAGES && clean.indexes > 1);
    let (file, at) = flip(&dir, 20);
    let index = content(&dir);
    let index = index.keys().find(|name| name.starts_with("ext-"));
    let index = index.expect("an index").clone();
    let mut bytes = std::fs::read(dir.join(&index)).expect("a file");
    bytes[60] ^= 1;
    std::fs::write(dir.join(&index), bytes).expect("written");

    let before = content(&dir);
    let report = strait_embedded::verify(&dir).expect("it can be read");
    let found: Vec<_> = report
        .damage
        .iter()
        .map(|damage| damage.file.clone().expect("a file"))
        .collect();
    assert_eq!(found, [file, index]);
    let offset = report.damage[0].offset.expect("a place");
    assert!(offset <= at && at < offset + 52_000, "{offset}, {at}");
    assert!(content(&dir) == before, "a byte of the directory changed");

    let owner = tempfile::tempdir().expect("a directory");
    let engine = open(owner.path()).expect("an empty directory");
    let refused = strait_embedded::verify(owner.path()).expect_err("an owner writes to it");
    assert!(refused.is(codes::LOCKED), "{refused:?}");
    drop(engine);
}
