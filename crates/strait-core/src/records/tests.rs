use super::*;
use crate::error::codes;
use proptest::prelude::*;

type Owned = (
    Option<Vec<u8>>,
    Vec<u8>,
    Vec<(String, Vec<u8>)>,
    Option<i64>,
    Option<String>,
);

fn record() -> impl Strategy<Value = Owned> {
    let bytes = || proptest::collection::vec(1u8.., 0..200);
    let value = proptest::collection::vec(32u8..127, 0..20);
    (
        proptest::option::of(bytes()),
        bytes(),
        proptest::collection::vec(("[a-z-]{1,12}", value), 0..4),
        proptest::option::of(any::<i64>()),
        proptest::option::of("[a-z0-9.]{0,20}".prop_map(String::from)),
    )
}

fn build(records: &[Owned]) -> Records {
    let base = Timestamp::from_millis(1_700_000_000_000);
    let attrs = [(Attr::Kind, "order.placed.v1"), (Attr::Source, "shop")];
    let mut builder = RecordsBuilder::with(&attrs, Limits::default(), base, 7).unwrap();
    for (key, body, headers, time, id) in records {
        let headers: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_slice()))
            .collect();
        let attrs: Vec<_> = id.iter().map(|id| (Attr::Id, id.as_str())).collect();
        builder
            .push(NewRecord {
                key: key.as_deref(),
                body,
                headers: &headers,
                time: time.map(Timestamp::from_millis),
                attrs: &attrs,
            })
            .unwrap();
    }
    builder.build()
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(owned in proptest::collection::vec(record(), 0..20)) {
        let records = build(&owned);
        let decoded = Records::decode(records.bytes().clone()).unwrap();
        prop_assert_eq!(decoded.len(), owned.len());
        for (read, (key, body, headers, time, id)) in decoded.iter().zip(&owned) {
            prop_assert_eq!(read.key(), key.as_deref());
            prop_assert_eq!(read.body(), &body[..]);
            let pairs: Vec<_> = read.headers().map(|(n, v)| (n.to_owned(), v.to_vec())).collect();
            prop_assert_eq!(&pairs, headers);
            prop_assert_eq!(read.time().as_millis(), time.unwrap_or(1_700_000_000_000));
            prop_assert_eq!(read.attr(Attr::Id), id.as_deref());
            prop_assert_eq!(read.attr(Attr::Source), Some("shop"));
            let again = decoded.batch().record_at(read.at(), read.index()).unwrap();
            prop_assert_eq!(again.body(), read.body());
            prop_assert_eq!(again.id(), read.id());
        }
    }

    #[test]
    fn damaged_bytes_are_refused(owned in proptest::collection::vec(record(), 1..5), at: usize, bit in 0..8) {
        let mut bytes = build(&owned).bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1u8 << bit;
        prop_assert!(Records::decode(bytes.into()).is_err());
    }

    #[test]
    fn any_bytes_are_no_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), fix: bool) {
        if fix && bytes.len() >= BATCH_HEAD {
            // Past the checksum, so that the walk over the records is what refuses.
            let len = bytes.len() as u32;
            bytes[0..4].copy_from_slice(&len.to_le_bytes());
            bytes[8] = VERSION;
            bytes[10..12].copy_from_slice(&0u16.to_le_bytes());
            let crc = crc32c(&bytes[8..]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        if let Ok(records) = Records::decode(bytes.into()) {
            for record in records.iter() {
                let _ = (record.headers().count(), record.attrs().count(), record.id().to_string());
            }
        }
    }
}

#[test]
fn limits_and_headers_are_refused_before_anything_is_sent() {
    let limits = Limits {
        body: 10,
        key: 4,
        headers: 8,
        batch: 100,
    };
    let mut builder = RecordsBuilder::with(&[], limits, Timestamp::from_millis(0), 1).unwrap();
    let big = [0; 11];
    let cases: [(NewRecord<'_>, &str); 5] = [
        (
            NewRecord {
                body: &big,
                ..Default::default()
            },
            codes::TOO_LARGE,
        ),
        (
            NewRecord {
                key: Some(&big),
                ..Default::default()
            },
            codes::TOO_LARGE,
        ),
        (
            NewRecord {
                headers: &[("a", &big)],
                ..Default::default()
            },
            codes::TOO_LARGE,
        ),
        (
            NewRecord {
                headers: &[("a", b"x\r\n")],
                ..Default::default()
            },
            codes::BAD_HEADER,
        ),
        (
            NewRecord {
                headers: &[("", b"x")],
                ..Default::default()
            },
            codes::BAD_HEADER,
        ),
    ];
    for (record, code) in cases {
        let error = builder.push(record).unwrap_err();
        assert!(error.is(code), "{error:?}");
    }
    assert!(builder.is_empty());
    let mut pushed = 0;
    while builder
        .push(NewRecord {
            body: &[1; 10],
            ..Default::default()
        })
        .is_ok()
    {
        pushed += 1;
    }
    assert_eq!(
        Records::decode(builder.build().bytes().clone())
            .unwrap()
            .len(),
        pushed
    );
}

#[test]
fn a_derived_id_is_read_as_it_is_shown_and_nothing_else_is_one() {
    let id = MessageId::Derived {
        batch: 0xfeed,
        index: 70,
    };
    assert_eq!(MessageId::read_derived(&id.to_string()), Some((0xfeed, 70)));
    let uuid = "0".repeat(28) + "feed";
    for other in [
        "order-1".to_owned(),
        uuid.clone(),
        format!("{uuid}.+7"),
        format!("{uuid}.07"),
        format!("{uuid}.4000000000"),
        format!("{}.1", uuid.to_uppercase()),
    ] {
        assert_eq!(MessageId::read_derived(&other), None, "{other}");
    }
}
