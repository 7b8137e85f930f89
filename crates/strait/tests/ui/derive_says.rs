//! What `#[derive(Message)]` refuses by itself, at the place that is wrong.

use strait::Message;

#[derive(Message)]
struct WithoutKind;

#[derive(Message)]
#[message]
struct BareAttribute;

#[derive(Message)]
#[message("")]
struct EmptyKind;

#[derive(Message)]
#[message("order placed")]
struct SpaceInKind;

#[derive(Message)]
#[message(key = order)]
struct KeyWithoutKind {
    order: u64,
}

#[derive(Message)]
#[message("order.placed.v1", keys = order)]
struct UnknownWord {
    order: u64,
}

#[derive(Message)]
#[message("order.placed.v1", key = "order")]
struct QuotedKey {
    order: u64,
}

#[derive(Message)]
#[message("order.placed.v1", key = ordr)]
struct MisspeltKey {
    order: u64,
    cents: u64,
}

#[derive(Message)]
#[message("order.placed.v1", key = order, key = cents)]
struct TwoKeys {
    order: u64,
    cents: u64,
}

#[derive(Message)]
#[message("order.placed.v1")]
#[message("order.placed.v2")]
struct TwoAttributes;

#[derive(Message)]
#[message("order.placed.v1")]
struct AttributeOnField {
    #[message(key)]
    order: u64,
}

#[derive(Message)]
#[message("order.placed.v1")]
struct Borrowed<'a> {
    order: &'a str,
}

#[derive(Message)]
#[message("order.placed.v1")]
union Bits {
    order: u64,
}

#[derive(Message)]
#[message("order.v1")]
enum KindOnEnum {
    #[message("order.placed.v1")]
    Placed,
}

#[derive(Message)]
enum VariantsWithFaults {
    WithoutKind,
    #[message("order.placed.v1", key = order)]
    NoFields,
    #[message("order.paid.v1")]
    TwoUnnamed(u64, u64),
    #[message("order.sent.v1", key = ordr)]
    MisspeltKey {
        order: u64,
    },
    #[message("order.lost.v1")]
    #[serde(rename_all = "camelCase")]
    SerdeOnUnit,
}

#[derive(Message)]
enum SameKindTwice {
    #[message("order.placed.v1")]
    Placed,
    #[message("order.placed.v1")]
    Ordered,
}

#[derive(Message)]
#[serde(rename_all = "camelCase")]
enum SerdeOnEnum {
    #[message("order.placed.v1")]
    Placed,
}

#[derive(Message)]
enum GenericWithNamedFields<T> {
    #[message("order.placed.v1")]
    Placed { order: T },
}

#[derive(Message)]
enum Never {}

fn main() {}
