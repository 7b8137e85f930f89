//! The attribute `#[message("kind", key = path)]`.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Fields, Ident, LitStr, Member, Result, Token};

const SHAPE: &str =
    "write `#[message(\"order.placed.v1\")]` or `#[message(\"order.placed.v1\", key = order)]`";

/// What `#[message(..)]` says.
pub(crate) struct MessageAttr {
    /// The kind.
    pub(crate) kind: LitStr,
    /// The field, or the path of fields, that is the key.
    pub(crate) key: Option<KeyPath>,
}

/// `order`, `customer.id`, `0.id`.
pub(crate) struct KeyPath(pub(crate) Punctuated<Member, Token![.]>);

/// The attribute of `attrs`; exactly one is wanted. `missing` is where an absent one is reported.
pub(crate) fn message_attr(attrs: &[Attribute], missing: Span, what: &str) -> Result<MessageAttr> {
    let mut found = attrs.iter().filter(|attr| attr.path().is_ident("message"));
    let Some(first) = found.next() else {
        return Err(Error::new(missing, format!("{what} has no kind: {SHAPE}")));
    };
    if let Some(second) = found.next() {
        return Err(Error::new(
            second.span(),
            "`#[message(..)]` stands here twice; say all in one",
        ));
    }
    if !matches!(first.meta, syn::Meta::List(_)) {
        return Err(Error::new(first.span(), SHAPE));
    }
    first.parse_args()
}

/// Refuses `#[message(..)]` on fields, where it would say nothing.
pub(crate) fn no_message_attr(fields: &Fields) -> Result<()> {
    let mut attrs = fields.iter().flat_map(|field| &field.attrs);
    match attrs.find(|attr| attr.path().is_ident("message")) {
        Some(attr) => Err(Error::new(
            attr.span(),
            "`#[message(..)]` stands on the type or variant; it names its key there: `key = order`",
        )),
        None => Ok(()),
    }
}

/// Refuses `#[serde(..)]` where nothing would read it.
pub(crate) fn no_serde_attr(attrs: &[Attribute], why: &str) -> Result<()> {
    match attrs.iter().find(|attr| attr.path().is_ident("serde")) {
        Some(attr) => Err(Error::new(attr.span(), why)),
        None => Ok(()),
    }
}

/// The attributes that are serde's.
pub(crate) fn serde_attrs(attrs: &[Attribute]) -> TokenStream {
    let serde = attrs.iter().filter(|attr| attr.path().is_ident("serde"));
    quote!(#(#serde)*)
}

impl Parse for MessageAttr {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut kind: Option<LitStr> = None;
        let mut key = None;
        while !input.is_empty() {
            if input.peek(LitStr) && kind.is_none() {
                kind = Some(checked_kind(input.parse()?)?);
            } else {
                let name: Ident = input.parse().map_err(|e| Error::new(e.span(), SHAPE))?;
                input.parse::<Token![=]>()?;
                match name.to_string().as_str() {
                    "kind" if kind.is_none() => kind = Some(checked_kind(input.parse()?)?),
                    "key" if key.is_none() => key = Some(input.parse()?),
                    "kind" | "key" => {
                        return Err(Error::new(name.span(), format!("`{name}` is said twice")));
                    }
                    other => {
                        return Err(Error::new(
                            name.span(),
                            format!("`{other}` is nothing that a message has; {SHAPE}"),
                        ));
                    }
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        let kind =
            kind.ok_or_else(|| Error::new(input.span(), format!("the kind is missing: {SHAPE}")))?;
        Ok(MessageAttr { kind, key })
    }
}

/// A kind travels in headers and logs: one token, without spaces.
fn checked_kind(kind: LitStr) -> Result<LitStr> {
    let text = kind.value();
    let fault = if text.is_empty() {
        "a kind is not empty"
    } else if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        "a kind has no spaces, line ends or control characters"
    } else if text.len() > 255 {
        "a kind is at most 255 bytes long"
    } else {
        return Ok(kind);
    };
    Err(Error::new(
        kind.span(),
        format!("{fault}; for example `order.placed.v1`"),
    ))
}

impl Parse for KeyPath {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.peek(LitStr) {
            return Err(input.error("`key` names a field without quotes: `key = order`"));
        }
        Punctuated::parse_separated_nonempty(input).map(KeyPath)
    }
}
