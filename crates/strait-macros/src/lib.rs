//! Derive macros of `strait`. Use them through that crate: the code they write names it.

mod attributes;
mod message;

use proc_macro::TokenStream;

/// The type also derives serde's `Serialize` and `Deserialize`.
///
/// On a struct, `#[message("order.placed.v1", key = order)]` names its kind, as it stands on the wire, and the field whose
/// value is the key (a path such as `customer.id` works; leave `key` out for messages without one).
///
/// On an enum, each variant is a kind of its own: `#[message("order.paid.v1", key = order)]` stands on the variant, which
/// has named fields, one unnamed field (whose value is the body, and in which `key` looks), or none. The enum itself needs
/// no serde derive; `#[serde(..)]` on a variant with named fields, and on these fields, is kept.
#[proc_macro_derive(Message, attributes(message, serde))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    message::expand(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
