//! Messages: what the derive makes of a type, and what stands on the wire.

use serde::{Deserialize, Serialize};
use strait::{Key, Message, Raw, Start, codes};

use crate::support::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Customer {
    id: u64,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Message)]
#[message("order.placed.v1", key = customer.id)]
#[serde(rename_all = "camelCase")]
struct Placed {
    customer: Customer,
    total_cents: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Message)]
#[message(kind = "sku.counted.v1", key = 0)]
struct Counted(String, u32);

/// The body of any message of this shape; `key` works through the parameter.
#[derive(Debug, PartialEq, Serialize, Deserialize, Message)]
#[message("thing.changed.v1", key = id)]
struct Changed<T> {
    id: String,
    thing: T,
}

#[derive(Debug, PartialEq, Message)]
enum Note {
    /// Fields named as the macro's own words: none of them may be confused.
    #[message("note.taken.v1", key = body)]
    #[serde(rename_all = "UPPERCASE", deny_unknown_fields)]
    Taken {
        body: String,
        kind: u8,
        inner: Option<bool>,
    },
    #[message("note.order.v1", key = customer.id)]
    Order(Placed),
    #[message("note.moved.v1", key = to.id)]
    Moved { to: Customer },
    #[message("note.burnt.v1")]
    Burnt,
}

#[derive(Debug, PartialEq, Message)]
enum Wrapped<T> {
    #[message("wrapped.v1")]
    Thing(T),
}

fn text<M: Message>(message: &M) -> String {
    let mut body = Vec::new();
    message.encode(&mut body).expect("it can be written");
    String::from_utf8(body).expect("JSON is UTF-8")
}

/// The wire form is a promise to other programs: it is written out here.
fn on_the_wire<M: Message + PartialEq + std::fmt::Debug>(
    message: M,
    kind: &str,
    key: Option<&str>,
    body: &str,
) {
    assert_eq!(message.kind(), Some(kind));
    assert_eq!(message.key().as_deref(), key.map(str::as_bytes));
    assert_eq!(text(&message), body);
    assert_eq!(M::decode(kind, body.as_bytes()).ok(), Some(message));
    assert!(M::KINDS.contains(&kind));
    assert_eq!(M::CONTENT_TYPE, Some("application/json"));
}

#[test]
fn a_struct_is_one_kind_with_a_json_body() {
    let customer = Customer { id: 7, name: None };
    on_the_wire(
        Placed {
            customer,
            total_cents: 990,
        },
        "order.placed.v1",
        Some("7"),
        r#"{"customer":{"id":7,"name":null},"totalCents":990}"#,
    );
    on_the_wire(
        Counted("tea".into(), 3),
        "sku.counted.v1",
        Some("tea"),
        r#"["tea",3]"#,
    );
    on_the_wire(
        Changed {
            id: "x".into(),
            thing: vec![1, 2],
        },
        "thing.changed.v1",
        Some("x"),
        r#"{"id":"x","thing":[1,2]}"#,
    );
}

#[test]
fn each_variant_of_an_enum_is_a_kind() {
    assert_eq!(
        Note::KINDS,
        [
            "note.taken.v1",
            "note.order.v1",
            "note.moved.v1",
            "note.burnt.v1"
        ]
    );
    on_the_wire(
        Note::Taken {
            body: "tea at four".into(),
            kind: 1,
            inner: None,
        },
        "note.taken.v1",
        Some("tea at four"),
        r#"{"BODY":"tea at four","KIND":1,"INNER":null}"#,
    );
    let customer = Customer { id: 8, name: None };
    on_the_wire(
        Note::Order(Placed {
            customer,
            total_cents: 1,
        }),
        "note.order.v1",
        Some("8"),
        r#"{"customer":{"id":8,"name":null},"totalCents":1}"#,
    );
    let to = Customer {
        id: 9,
        name: Some("bob".into()),
    };
    on_the_wire(
        Note::Moved { to },
        "note.moved.v1",
        Some("9"),
        r#"{"to":{"id":9,"name":"bob"}}"#,
    );
    on_the_wire(Note::Burnt, "note.burnt.v1", None, "{}");
    on_the_wire(Wrapped::Thing(5_u8), "wrapped.v1", None, "5");
}

#[test]
fn a_body_that_does_not_fit_is_undecodable_and_one_with_more_fields_fits() {
    let more = br#"{"customer":{"id":7,"since":1999},"totalCents":990,"later":[]}"#;
    assert_eq!(
        Placed::decode("order.placed.v1", more).unwrap().total_cents,
        990
    );
    for (kind, body) in [
        (
            "note.taken.v1",
            &br#"{"BODY":"x","KIND":1,"INNER":null,"MORE":1}"#[..],
        ),
        ("note.taken.v1", b"\xff\xfe"),
        ("note.order.v1", b""),
        ("note.burnt.v1", b"{"),
        ("note.lost.v1", b"{}"),
    ] {
        let error = Note::decode(kind, body).unwrap_err();
        assert!(error.is(codes::UNDECODABLE), "{kind}: {error:?}");
        let unknown = kind == "note.lost.v1";
        assert_eq!(
            strait::message::is_unknown_kind(&error),
            unknown,
            "{error:?}"
        );
    }
}

#[test]
fn keys_read_the_same_in_every_tool() {
    let key = |key: &dyn Key| key.to_key().map(|key| key.into_owned());
    assert_eq!(key(&"ada"), Some(b"ada".to_vec()));
    assert_eq!(key(&-5_i64), Some(b"-5".to_vec()));
    assert_eq!(key(&[1_u8, 2]), Some(vec![1, 2]));
    assert_eq!(key(&Some(7_u8)), Some(b"7".to_vec()));
    assert_eq!(key(&None::<String>), None);
    assert_eq!(key(&true), Some(b"true".to_vec()));
}

#[tokio::test]
async fn raw_messages_keep_kind_key_and_body_and_may_have_none() {
    let strait = memory();
    let notes = strait
        .events()
        .topic::<Raw>("notes")
        .partitions(1)
        .await
        .unwrap();
    let all = [
        Raw::new("note.v1", "one").with_key("ada"),
        Raw::bytes("two"),
        Raw::new("note.v2", vec![0xff]),
    ];
    // Together: what they share must not leak from one to the other.
    notes.append_all(&all).await.unwrap();
    let mut reader = notes.read(0, Start::Earliest).until_end();
    for sent in &all {
        let event = reader.next().await.unwrap().unwrap();
        assert_eq!(event.kind(), sent.kind());
        assert_eq!(event.key(), sent.key().as_deref());
        assert_eq!(event.body(), sent.body());
        assert_eq!(event.message.text(), sent.text());
    }
    // What was received can be sent on.
    let first = notes
        .read(0, Start::Earliest)
        .next()
        .await
        .unwrap()
        .unwrap();
    let moved = first.message.with_key("bob");
    assert_eq!((moved.kind(), moved.body()), (Some("note.v1"), &b"one"[..]));
    assert_eq!(moved.key().as_deref(), Some(&b"bob"[..]));
}

#[tokio::test]
async fn a_type_of_one_kind_reads_what_has_none() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let body = r#"{"customer":"ada","number":1}"#;
    orders.raw().append(&Raw::bytes(body)).await.unwrap();
    orders
        .raw()
        .append(&Raw::new("order.sent.v1", body))
        .await
        .unwrap();
    let mut reader = orders.read(0, Start::Earliest).until_end();
    assert_eq!(
        reader.next().await.unwrap().unwrap().message,
        order("ada", 1)
    );
    let error = reader.next().await.unwrap_err();
    assert!(strait::message::is_unknown_kind(&error), "{error:?}");
    assert!(error.to_string().contains("order.placed.v1"), "{error}");
}
