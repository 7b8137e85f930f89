//! The expansion of `#[derive(Message)]`.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Data, DataEnum, DeriveInput, Error, Fields, FieldsNamed, Generics, Ident, Member, Result,
    Variant,
};

use crate::attributes::{
    KeyPath, MessageAttr, message_attr, no_message_attr, no_serde_attr, serde_attrs,
};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    if let Some(lifetime) = input.generics.lifetimes().next() {
        return Err(Error::new(
            lifetime.span(),
            "a message owns what it holds, so it has no lifetimes: use `String` in place of `&str`, `Vec<T>` in place of `&[T]`",
        ));
    }
    let body = match &input.data {
        Data::Struct(data) => of_struct(input, &data.fields)?,
        Data::Enum(data) => of_enum(input, data)?,
        Data::Union(data) => {
            return Err(Error::new(
                data.union_token.span(),
                "a union cannot be a message: use a struct or an enum",
            ));
        }
    };
    let ident = &input.ident;
    let generics = bounded(input);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::strait::Message for #ident #ty_generics #where_clause {
            const CONTENT_TYPE: ::core::option::Option<&'static str> =
                ::core::option::Option::Some(::strait::message::json::CONTENT_TYPE);
            #body
        }
    })
}

/// The generics with what a body needs: a type of parameters is a message where its bodies can be JSON.
fn bounded(input: &DeriveInput) -> Generics {
    let mut generics = input.generics.clone();
    if generics.params.is_empty() {
        return generics;
    }
    let bodies: Vec<TokenStream> = match &input.data {
        Data::Enum(data) => {
            let fields = data.variants.iter().flat_map(|variant| &variant.fields);
            fields
                .map(|field| &field.ty)
                .map(|ty| quote!(#ty))
                .collect()
        }
        _ => vec![quote!(Self)],
    };
    let clause = generics.make_where_clause();
    clause
        .predicates
        .push(syn::parse_quote!(Self: ::core::marker::Send + 'static));
    for body in bodies {
        clause.predicates.push(syn::parse_quote!(
            #body: ::strait::message::__serde::Serialize
                + ::strait::message::__serde::de::DeserializeOwned
        ));
    }
    generics
}

/// The name of the parameter that bodies are written to and read from. No field of that name can shadow it.
fn body_ident() -> Ident {
    Ident::new("body", Span::mixed_site())
}

fn of_struct(input: &DeriveInput, fields: &Fields) -> Result<TokenStream> {
    let ident = &input.ident;
    no_message_attr(fields)?;
    let MessageAttr { kind, key } =
        message_attr(&input.attrs, ident.span(), &format!("`{ident}`"))?;
    let key = match &key {
        Some(path) => {
            known_field(path, fields, &format!("`{ident}`"))?;
            key_of("self", path)
        }
        None => quote!(::core::option::Option::None),
    };
    let body = body_ident();
    // At the type's name, so that a missing serde derive is reported there.
    let encode = quote_spanned!(ident.span()=> ::strait::message::json::encode(self, #body));
    let decode = quote_spanned!(ident.span()=> ::strait::message::json::decode(#body));
    Ok(quote! {
        const KINDS: &'static [&'static str] = &[#kind];
        fn kind(&self) -> ::core::option::Option<&str> {
            ::core::option::Option::Some(#kind)
        }
        fn key(&self) -> ::core::option::Option<::std::borrow::Cow<'_, [u8]>> {
            #key
        }
        fn encode(&self, #body: &mut ::std::vec::Vec<u8>) -> ::strait::Result<()> {
            #encode
        }
        fn decode(_kind: &str, #body: &[u8]) -> ::strait::Result<Self> {
            #decode
        }
    })
}

/// One variant's arms.
struct Arms {
    kind: syn::LitStr,
    kind_arm: TokenStream,
    key_arm: TokenStream,
    encode_arm: TokenStream,
    decode_arm: TokenStream,
}

fn of_enum(input: &DeriveInput, data: &DataEnum) -> Result<TokenStream> {
    if let Some(attr) = input
        .attrs
        .iter()
        .find(|attr| attr.path().is_ident("message"))
    {
        return Err(Error::new(
            attr.span(),
            "on an enum each variant is a kind: put `#[message(..)]` on the variants",
        ));
    }
    no_serde_attr(
        &input.attrs,
        "on an enum each variant has a body of its own: put `#[serde(..)]` on the variants or their fields",
    )?;
    if data.variants.is_empty() {
        return Err(Error::new(
            input.ident.span(),
            "an enum without variants has no kinds",
        ));
    }
    let arms = collect(
        data.variants
            .iter()
            .map(|variant| arms_of(variant, &input.generics)),
    )?;
    for (index, arm) in arms.iter().enumerate() {
        if arms[..index]
            .iter()
            .any(|earlier| earlier.kind.value() == arm.kind.value())
        {
            return Err(Error::new(
                arm.kind.span(),
                format!("the kind `{}` is that of another variant", arm.kind.value()),
            ));
        }
    }
    let part =
        |pick: fn(&Arms) -> &TokenStream| arms.iter().map(pick).cloned().collect::<TokenStream>();
    let kinds = arms.iter().map(|arms| &arms.kind);
    let (kind, key) = (part(|a| &a.kind_arm), part(|a| &a.key_arm));
    let (encode, decode) = (part(|a| &a.encode_arm), part(|a| &a.decode_arm));
    let body = body_ident();
    Ok(quote! {
        const KINDS: &'static [&'static str] = &[#(#kinds),*];
        fn kind(&self) -> ::core::option::Option<&str> {
            ::core::option::Option::Some(match self { #kind })
        }
        fn key(&self) -> ::core::option::Option<::std::borrow::Cow<'_, [u8]>> {
            match self { #key }
        }
        fn encode(&self, #body: &mut ::std::vec::Vec<u8>) -> ::strait::Result<()> {
            match self { #encode }
        }
        fn decode(kind: &str, #body: &[u8]) -> ::strait::Result<Self> {
            match kind {
                #decode
                other => ::core::result::Result::Err(::strait::message::not_a_kind(other)),
            }
        }
    })
}

/// All results, or all errors together.
fn collect<T>(results: impl Iterator<Item = Result<T>>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    let mut errors: Option<Error> = None;
    for result in results {
        match (result, &mut errors) {
            (Ok(value), _) => all.push(value),
            (Err(error), Some(errors)) => errors.combine(error),
            (Err(error), none) => *none = Some(error),
        }
    }
    errors.map_or(Ok(all), Err)
}

fn arms_of(variant: &Variant, generics: &Generics) -> Result<Arms> {
    let ident = &variant.ident;
    let what = format!("the variant `{ident}`");
    no_message_attr(&variant.fields)?;
    let MessageAttr { kind, key } = message_attr(&variant.attrs, ident.span(), &what)?;
    let named_fields = match &variant.fields {
        Fields::Named(fields) if !fields.named.is_empty() => Some(fields),
        _ => None,
    };
    if named_fields.is_none() {
        no_serde_attr(
            &variant.attrs,
            "only a variant with named fields has a body that `#[serde(..)]` can shape here",
        )?;
    }
    let (key_arm, encode_arm, decode_arm) = match (&variant.fields, named_fields) {
        (_, Some(fields)) => {
            if let Some(path) = &key {
                known_field(path, &variant.fields, &what)?;
            }
            named(variant, fields, key.as_ref(), generics)?
        }
        (Fields::Unnamed(fields), None) if fields.unnamed.len() == 1 => {
            newtype(ident, key.as_ref())
        }
        (Fields::Unnamed(fields), None) if !fields.unnamed.is_empty() => {
            return Err(Error::new(
                fields.span(),
                "a variant has one unnamed field (its body) or named fields",
            ));
        }
        _ => unit(ident, key.as_ref())?,
    };
    Ok(Arms {
        kind_arm: quote!(Self::#ident { .. } => #kind,),
        key_arm,
        encode_arm,
        decode_arm: quote!(#kind => #decode_arm,),
        kind,
    })
}

type ThreeArms = (TokenStream, TokenStream, TokenStream);

/// No fields: the body is the empty object, and whatever stands in it is ignored when it is read.
fn unit(ident: &Ident, key: Option<&KeyPath>) -> Result<ThreeArms> {
    if let Some(path) = key {
        return Err(Error::new(
            path.0.span(),
            format!("the variant `{ident}` has no fields"),
        ));
    }
    let body = body_ident();
    Ok((
        quote!(Self::#ident {} => ::core::option::Option::None,),
        quote!(Self::#ident {} => {
            #body.extend_from_slice(b"{}");
            ::core::result::Result::Ok(())
        }),
        quote! {
            ::strait::message::json::decode::<::strait::message::__serde::de::IgnoredAny>(#body)
                .map(|_| Self::#ident {})
        },
    ))
}

fn newtype(ident: &Ident, key: Option<&KeyPath>) -> ThreeArms {
    let key_arm = match key {
        Some(path) => {
            let key = key_of("inner", path);
            quote!(Self::#ident(inner) => #key,)
        }
        None => quote!(Self::#ident(_) => ::core::option::Option::None,),
    };
    let body = body_ident();
    (
        key_arm,
        quote_spanned!(ident.span()=> Self::#ident(inner) => ::strait::message::json::encode(inner, #body),),
        quote_spanned!(ident.span()=> ::strait::message::json::decode(#body).map(Self::#ident)),
    )
}

/// Named fields travel as one JSON object, by two structs of the same shape: one borrows, one owns.
fn named(
    variant: &Variant,
    fields: &FieldsNamed,
    key: Option<&KeyPath>,
    generics: &Generics,
) -> Result<ThreeArms> {
    let ident = &variant.ident;
    if !generics.params.is_empty() {
        return Err(Error::new(
            ident.span(),
            "a variant of a generic enum has one unnamed field: put the named ones into a struct of their own",
        ));
    }
    let names: Vec<_> = fields.named.iter().map(|field| &field.ident).collect();
    let types: Vec<_> = fields.named.iter().map(|field| &field.ty).collect();
    let serde: Vec<TokenStream> = fields
        .named
        .iter()
        .map(|field| serde_attrs(&field.attrs))
        .collect();
    let whole = serde_attrs(&variant.attrs);
    let object = format_ident!("{ident}Body");
    let body = body_ident();
    let key_arm = match key {
        Some(path) => {
            let first = path.0.first();
            let rest: Vec<_> = path.0.iter().skip(1).collect();
            // The pattern binds a reference already; a step behind it needs one of its own.
            let access = match rest.is_empty() {
                true => quote!(#first),
                false => quote_spanned!(path.0.span()=> &#first #(.#rest)*),
            };
            let to_key = quote_spanned!(path.0.span()=> ::strait::Key::to_key(#access));
            quote!(Self::#ident { #first, .. } => #to_key,)
        }
        None => quote!(Self::#ident { .. } => ::core::option::Option::None,),
    };
    let encode_arm = quote! {
        Self::#ident { #(#names),* } => {
            #[derive(::strait::message::__serde::Serialize)]
            #[serde(crate = "::strait::message::__serde")]
            #whole
            struct #object<'a> { #(#serde #names: &'a #types,)* }
            ::strait::message::json::encode(&#object { #(#names),* }, #body)
        }
    };
    let decode_arm = quote! {{
        #[derive(::strait::message::__serde::Deserialize)]
        #[serde(crate = "::strait::message::__serde")]
        #whole
        struct #object { #(#serde #names: #types,)* }
        let #object { #(#names),* } = ::strait::message::json::decode(#body)?;
        ::core::result::Result::Ok(Self::#ident { #(#names),* })
    }};
    Ok((key_arm, encode_arm, decode_arm))
}

/// The key of the variable `value`, at `path` inside it. All of it stands at the path, so that what is no key is
/// reported there.
fn key_of(value: &str, path: &KeyPath) -> TokenStream {
    let members = path.0.iter();
    let place = path.0.span().resolved_at(Span::call_site());
    let value = Ident::new(value, place);
    quote_spanned!(place=> ::strait::Key::to_key(&#value #(.#members)*))
}

/// The first step of a path is a field that is there: said here, where the attribute is, and not in the expansion.
fn known_field(path: &KeyPath, fields: &Fields, what: &str) -> Result<()> {
    let Some(first) = path.0.first() else {
        return Ok(());
    };
    let members: Vec<Member> = fields.members().collect();
    if members.contains(first) {
        return Ok(());
    }
    let name = |member: &Member| match member {
        Member::Named(ident) => ident.to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    };
    let known: Vec<_> = members
        .iter()
        .map(|member| format!("`{}`", name(member)))
        .collect();
    Err(Error::new(
        first.span(),
        format!(
            "{what} has no field `{}`; it has {}",
            name(first),
            known.join(", ")
        ),
    ))
}
