//! What the compiler says about misuse. The saved answers stand beside the programs in `tests/ui`; after a change,
//! `TRYBUILD=overwrite cargo test -p strait --test it ui` writes them anew.

#[test]
fn misuse_is_explained_by_the_compiler() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
